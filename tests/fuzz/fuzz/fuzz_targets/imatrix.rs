//! Fuzzes importance matrices, as the GGUF plugin reads them.
#![no_main]

qhost_fuzz_targets::fuzz!(qhost_fuzz::targets::plugin::imatrix::<qhost_gguf::Gguf>());
