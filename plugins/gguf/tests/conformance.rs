//! The contract that every plugin keeps to.

use qhost_gguf::{Gguf, MANIFEST_JSON};
use qhost_plugin_api::sdk::testing::conformance::{self, Settings};

#[test]
fn it_keeps_to_the_contract() {
    // Rows of whole super-blocks.
    conformance::assert::<Gguf>(MANIFEST_JSON, &Settings { size: (1, 256, 512, 320), ..Settings::default() });
}
