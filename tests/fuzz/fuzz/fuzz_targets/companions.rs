//! Fuzzes a model's small files, as the GGUF plugin reads them.
#![no_main]

qhost_fuzz_targets::fuzz!(qhost_fuzz::targets::plugin::companions::<qhost_gguf::Gguf>());
