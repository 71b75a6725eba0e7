//! A plugin with the plugin API as it was first frozen: this host, and every later one, loads it and works with it.

use std::fs;

use qhost_tests::{
    command::{Qhost, library_name, test_plugin},
    fixture,
};
use sha2::{Digest, Sha256};

/// Of the tensors that it makes of `stories260K`: what comes after the header, which has the host's words in it.
const DIGEST: &str = "fe3208a657e8e95b30f562ece4cffb594fe0d4a5fdac42d48571ae740b14998d";

#[test]
fn a_plugin_of_version_1_makes_the_bytes_that_it_always_made_and_reads_them() {
    let folder = tempfile::tempdir().unwrap();
    let plugins = folder.path().join("plugins");
    fs::create_dir(&plugins).unwrap();
    fs::copy(test_plugin("frozen_v1"), plugins.join(library_name("frozen_v1"))).unwrap();
    let qhost = |arguments: &[&str]| Qhost::new(arguments).arg("--plugin-dir").arg(&plugins).in_folder(folder.path());

    let listed = qhost(&["plugins", "list"]).json();
    let row = listed["plugins"].as_array().unwrap().iter().find(|row| row["id"] == "frozen-v1").unwrap();
    assert_eq!(row["status"], "ok", "{row}");

    let model = fixture("stories260K");
    let made = qhost(&["quantize", "--format", "frozen-v1", "-o", "."]).arg(&model).json();
    assert_eq!(made["validation"]["status"], "passed", "{made}");
    let output = folder.path().join("stories260K-q4.frozen-v1");
    let bytes = fs::read(&output).unwrap();
    let header = usize::try_from(u64::from_le_bytes(*bytes[8..].first_chunk().unwrap())).unwrap();
    let digest = qhost::text::hex(&Sha256::digest(&bytes[16 + header..]));
    assert_eq!(digest, DIGEST, "an old plugin is given other weights, or they arrive elsewhere");

    // Its reader and its decoder, too.
    let tensors = qhost(&["inspect"]).arg(&output).json()["tensors"].as_array().unwrap().len();
    assert_eq!(tensors, 47, "5 layers of 9, an embedding that is the head as well, and a norm");
    let converted = qhost(&["convert", "--format", "safetensors", "--yes", "-o", "."]).arg(&output).json();
    assert_eq!(converted["validation"]["status"], "passed", "{converted}");
}
