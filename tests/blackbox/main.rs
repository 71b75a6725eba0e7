//! The executable and its plugins, used from outside.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod awq;
mod awq_families;
mod awq_scales;
mod bad_input;
mod bad_plugin;
mod calibrated;
mod card;
mod convert;
mod converter;
mod dataset;
mod documents;
mod estimates;
mod eval;
mod families;
mod frozen;
mod gguf;
mod gguf_sizes;
mod gguf_source;
mod gptq;
mod help;
mod hub;
mod hub_faults;
mod hub_resume;
mod imatrix;
mod inspect;
mod interruptions;
mod loading;
mod memory;
mod messages;
mod mixture;
mod new_plugin;
mod packed;
mod packed_awq;
mod plugins;
mod quantised;
mod quantize;
mod repack;
mod resume;
mod safetensors;
mod safety;
mod several;
mod statistics;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod torture;
mod verify;
