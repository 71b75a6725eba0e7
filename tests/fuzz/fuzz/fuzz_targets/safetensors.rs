//! Fuzzes headers of safetensors files.
#![no_main]

qhost_fuzz_targets::fuzz!(qhost_fuzz::targets::checkpoint::SAFETENSORS);
