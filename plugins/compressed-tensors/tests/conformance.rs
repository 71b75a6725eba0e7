//! The contract that every plugin keeps to.

use qhost_compressed_tensors::{CompressedTensors, MANIFEST_JSON};
use qhost_plugin_api::sdk::testing::conformance::{self, Settings};

#[test]
fn it_keeps_to_the_contract() {
    conformance::assert::<CompressedTensors>(MANIFEST_JSON, &Settings::default());
}
