//! Fuzzes folders of compressed-tensors.
#![no_main]

use qhost_compressed_tensors::CompressedTensors;

qhost_fuzz_targets::fuzz!(qhost_fuzz::targets::plugin::compressed_tensors::<CompressedTensors>());
