//! The contract that every plugin keeps to.

use qhost_awq::{Awq, MANIFEST_JSON};
use qhost_plugin_api::sdk::testing::conformance::{self, Settings};

#[test]
fn it_keeps_to_the_contract() {
    conformance::assert::<Awq>(MANIFEST_JSON, &Settings::default());
}
