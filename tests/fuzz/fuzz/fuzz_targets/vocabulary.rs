//! Fuzzes `vocab.json` with `merges.txt`.
#![no_main]

qhost_fuzz_targets::fuzz!(qhost_fuzz::targets::tokenizer::VOCABULARY);
