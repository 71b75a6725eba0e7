//! The golden file that the plugin's own tests read, against llama.cpp; and how it is made.

#[path = "../../../plugins/gguf/ggml/tests/golden/inputs.rs"]
mod inputs;
#[path = "../../../plugins/gguf/ggml/tests/golden/vectors.rs"]
mod vectors;

use inputs::DISTRIBUTIONS;
use qhost_ggml::{BlockType, GgmlType};

/// What the file starts with.
const HEAD: &str = "\
# Bytes of ggml's reference quantiser: type, distribution, FNV-1a of the bytes of 65536 weights, first block.
# Made with llama-cpp-sys-2 0.1.161 (llama.cpp 0.6.0-dev, ggml 0.26.0), built by gcc for plain
# x86-64, from the weights of inputs.rs. To make it again:
#     cargo test -p qhost-interop --test golden -- --ignored
";

/// What the file of the weighted kernels starts with.
const WEIGHTED_HEAD: &str = "\
# Bytes of ggml's reference quantiser with an importance matrix: type, distribution, FNV-1a of the bytes of
# 65536 weights, first block. Made as kernels.txt was, in rows of 4096 weights with the importances of
# vectors.rs.
";

#[expect(clippy::unwrap_used, reason = "part of the tests below")]
fn weighted_from_the_reference() -> String {
    let mut file = WEIGHTED_HEAD.to_owned();
    let columns = vectors::columns();
    for block_type in BlockType::ALL.into_iter().filter(|block_type| block_type.uses_importance()) {
        for (name, make) in DISTRIBUTIONS {
            let number = block_type.ggml_type();
            let bytes = qhost_oracle::quantize_chunk_weighted(number, &vectors::weights(make), &columns).unwrap();
            file += &vectors::line(block_type.name(), name, &bytes, block_type.block_bytes());
            file.push('\n');
        }
    }
    file
}

#[expect(clippy::unwrap_used, reason = "part of the tests below")]
fn from_the_reference() -> String {
    let mut file = HEAD.to_owned();
    for block_type in BlockType::ALL {
        for (name, make) in DISTRIBUTIONS {
            let bytes = qhost_oracle::quantize_chunk(block_type.ggml_type(), &vectors::weights(make), 1 << 16).unwrap();
            file += &vectors::line(block_type.name(), name, &bytes, block_type.block_bytes());
            file.push('\n');
        }
    }
    file
}

/// What the file of widened blocks starts with.
const WIDENED_HEAD: &str = "\
# Weights out of ggml's to_float: type, FNV-1a of the weights of 1024 blocks of random bytes (those of vectors.rs; every
# NaN is 7fc00000), the first four weights. Made as kernels.txt was.
";

#[expect(clippy::unwrap_used, reason = "part of the tests below")]
fn widened_by_the_reference() -> String {
    let mut file = WIDENED_HEAD.to_owned();
    for known in GgmlType::all().filter(|known| known.holds_weights()) {
        let weights =
            qhost_oracle::dequantize(known.number, &vectors::blocks(known.number, known.block_bytes)).unwrap();
        file += &vectors::line(known.name, "random", &vectors::canonical(&weights), 16);
        file.push('\n');
    }
    file
}

#[test]
fn the_golden_file_of_weights_is_the_references() {
    assert_eq!(include_str!("../../../plugins/gguf/ggml/tests/golden/weights.txt"), widened_by_the_reference());
}

#[test]
fn the_golden_file_is_the_references() {
    let file = include_str!("../../../plugins/gguf/ggml/tests/golden/kernels.txt");
    let reference = from_the_reference();
    for (line, expected) in vectors::parse(file).iter().zip(vectors::parse(&reference)) {
        assert_eq!(*line, expected);
    }
    assert_eq!(file, reference);
}

#[test]
fn the_golden_file_with_importances_is_the_references() {
    let file = include_str!("../../../plugins/gguf/ggml/tests/golden/weighted.txt");
    let reference = weighted_from_the_reference();
    for (line, expected) in vectors::parse(file).iter().zip(vectors::parse(&reference)) {
        assert_eq!(*line, expected);
    }
    assert_eq!(file, reference);
}

#[test]
#[ignore = "writes the golden files"]
fn make_the_golden_files() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/gguf/ggml/tests/golden");
    std::fs::write(folder.join("kernels.txt"), from_the_reference()).unwrap();
    std::fs::write(folder.join("weighted.txt"), weighted_from_the_reference()).unwrap();
    std::fs::write(folder.join("weights.txt"), widened_by_the_reference()).unwrap();
}
