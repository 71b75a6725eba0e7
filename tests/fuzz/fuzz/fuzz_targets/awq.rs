//! Fuzzes folders of AWQ.
#![no_main]

qhost_fuzz_targets::fuzz!(qhost_fuzz::targets::plugin::awq::<qhost_awq::Awq>());
