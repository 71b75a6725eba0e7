//! Fuzzes GGUF files.
#![no_main]

qhost_fuzz_targets::fuzz!(qhost_fuzz::targets::plugin::gguf::<qhost_gguf::Gguf>());
