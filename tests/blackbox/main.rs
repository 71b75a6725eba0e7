//! The executable and its plugins, used from outside.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bad_input;
mod bad_plugin;
mod converter;
mod gguf;
mod help;
mod inspect;
mod loading;
mod memory;
mod messages;
mod plugins;
mod quantize;
mod resume;
mod safety;
mod verify;
