//! Fuzzes chat templates.
#![no_main]

qhost_fuzz_targets::fuzz!(qhost_fuzz::targets::tokenizer::TEMPLATE);
