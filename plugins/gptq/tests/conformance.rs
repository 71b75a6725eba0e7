//! The contract that every plugin keeps to.

use qhost_gptq::{Gptq, MANIFEST_JSON};
use qhost_plugin_api::sdk::testing::conformance::{self, Settings};

#[test]
fn it_keeps_to_the_contract() {
    conformance::assert::<Gptq>(MANIFEST_JSON, &Settings::default());
}
