//! Memory does not grow with the model.

use qhost_tests::{checkpoint::RandomLlama, command::Qhost};

const MIB: u64 = 1 << 20;

/// A quarter of a gigabyte goes through in a fraction of it.
#[cfg(target_os = "linux")]
#[test]
fn a_run_takes_a_fraction_of_the_model_s_size() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    let llama =
        RandomLlama { hidden: 2048, ffn: 5632, heads: 32, kv_heads: 4, layers: 3, shards: 2, ..RandomLlama::default() };
    assert!(llama.bytes() as u64 > 250 * MIB);
    llama.write(&model);
    let qhost = Qhost::new(["quantize", "--format", "gguf", "--level", "Q8_0", "--threads", "2", "-o"]);
    let result = qhost.arg(folder.path()).arg(&model).json();
    let figure = |key: &str| result[key].as_u64().unwrap();
    assert!(figure("peak_anonymous_bytes") < 48 * MIB, "{result}");
    assert!(figure("peak_memory_bytes") < 128 * MIB, "{result}");
}
