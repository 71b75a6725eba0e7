//! The contract that every plugin keeps to.

use qhost_plugin_api::sdk::testing::conformance::{self, Settings};
use qhost_safetensors::{MANIFEST_JSON, Safetensors};

#[test]
fn it_keeps_to_the_contract() {
    conformance::assert::<Safetensors>(MANIFEST_JSON, &Settings::default());
}
