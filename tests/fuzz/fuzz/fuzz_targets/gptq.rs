//! Fuzzes folders of GPTQ.
#![no_main]

qhost_fuzz_targets::fuzz!(qhost_fuzz::targets::plugin::gptq::<qhost_gptq::Gptq>());
