//! `qhost inspect` and `qhost verify` against what ggml knows: its types, its reader, and files of its own
//! quantiser with types that qhost does not write.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use qhost_ggml::GgmlType;
use qhost_interop::quantize;
use qhost_oracle::{Gguf, Recipe, Value, quantize_file, type_info, validate_row_data};
use qhost_tests::{command::Qhost, fixture};
use serde_json::{Value as Json, json};

/// Past every number that is assigned.
const NUMBERS: std::ops::Range<u32> = 0..64;
/// Activations become this type while llama.cpp computes; no file has it, and ggml does not validate it.
const Q8_1: u32 = 9;
/// ggml narrows it to an f32 before it looks, and takes what an f32 cannot hold for an infinity.
const F64: u32 = 28;

#[test]
fn every_type_of_ggml_is_known_with_its_name_and_size() {
    for number in NUMBERS {
        match (GgmlType::numbered(number), type_info(number)) {
            (Some(ours), Ok(theirs)) => {
                assert_eq!(ours.name.to_ascii_lowercase(), theirs.name.to_ascii_lowercase());
                let sizes = (theirs.block_elements as u64, theirs.block_bytes as u64);
                assert_eq!((ours.block_elements, ours.block_bytes), sizes, "{}", ours.name);
            }
            (None, Err(_)) => {}
            (ours, theirs) => unreachable!("type {number}: {ours:?}, and by ggml {theirs:?}"),
        }
    }
}

/// Random bytes, most of whose exponents are harmless, so that both outcomes are common.
#[test]
fn a_block_is_sound_where_ggml_says_so() {
    let mut state = 1_u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    for ours in GgmlType::all().filter(|known| ![Q8_1, F64].contains(&known.number)) {
        let (mut sound, mut unsound) = (0, 0);
        let size = usize::try_from(ours.block_bytes).unwrap();
        for _ in 0..2000 {
            let bytes: Vec<u8> = (0..size).map(|_| if random() < 32 { 0xff } else { random() }).collect();
            let theirs = validate_row_data(ours.number, &bytes).unwrap();
            assert_eq!(ours.first_invalid_block(&bytes).is_none(), theirs, "{} {bytes:?}", ours.name);
            *(if theirs { &mut sound } else { &mut unsound }) += 1;
        }
        let integer = ["I8", "I16", "I32", "I64", "NVFP4"].contains(&ours.name);
        assert!(sound > 10 && (integer || unsound > 10), "{}: {sound} and {unsound}", ours.name);
    }
}

/// File types of llama.cpp that need no importance matrix.
const FILE_TYPES: [(u32, &str); 7] =
    [(25, "IQ4_NL"), (30, "IQ4_XS"), (26, "IQ3_S"), (36, "TQ1_0"), (37, "TQ2_0"), (15, "Q4_K_M"), (32, "BF16")];

#[test]
fn files_of_llama_cpp_are_told_as_its_own_reader_tells_them() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("tinylm");
    let base = quantize(&model, "F32", &folder.path().join("base"));
    for (file_type, level) in FILE_TYPES {
        let path = folder.path().join(format!("{level}.gguf"));
        quantize_file(&base, &path, &Recipe::new(file_type)).unwrap();
        let told = Qhost::new(["inspect", "--full"]).arg(&path).json();
        let theirs = Gguf::open(&path).unwrap();
        assert_eq!(told["level"], level);
        assert_eq!(told["format_version"], theirs.version.to_string());
        assert_eq!(told["alignment"], theirs.alignment);
        assert_same_tensors(&told, &theirs);
        let metadata = told["metadata"].as_array().unwrap();
        assert_eq!(metadata.len(), theirs.metadata.len());
        for (told, (key, value)) in metadata.iter().zip(&theirs.metadata) {
            assert_eq!(told["key"], **key);
            assert!(is_same(&told["value"], value), "{level} {key}: {told} is not {value:?}");
        }
        let checked = Qhost::new(["verify", "--for", "llama.cpp", "--against"]).arg(&model).arg(&path).json();
        assert_not_silent(&told, &checked);
    }
}

fn assert_same_tensors(told: &Json, theirs: &Gguf) {
    let tensors = told["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), theirs.tensors.len());
    for (told, theirs) in tensors.iter().zip(&theirs.tensors) {
        let dimensions: Vec<_> = theirs.dims.iter().rev().collect();
        assert_eq!((&told["name"], &told["shape"]), (&json!(theirs.name), &json!(dimensions)));
        assert_eq!(told["bytes"], theirs.bytes, "{}", theirs.name);
        assert_eq!(GgmlType::named(told["encoding"].as_str().unwrap()).unwrap().number, theirs.ggml_type);
    }
    let first = theirs.tensors.iter().map(|tensor| tensor.offset + theirs.data_offset);
    assert!(
        tensors.iter().map(|tensor| &tensor["offset"]).eq(first.map(|offset| json!(offset)).collect::<Vec<_>>().iter())
    );
}

/// What holds no weights is said not to be compared.
fn assert_not_silent(told: &Json, checked: &Json) {
    let holds_none = |tensor: &&Json| {
        let known = GgmlType::named(tensor["encoding"].as_str().unwrap()).unwrap();
        !known.holds_weights()
    };
    let expected: Vec<_> =
        told["tensors"].as_array().unwrap().iter().filter(holds_none).map(|tensor| &tensor["name"]).collect();
    let not_compared: Vec<_> = checked["comparison"]["not_compared"].as_array().unwrap().iter().collect();
    assert_eq!(expected, not_compared);
    let warned = checked["warnings"].to_string().contains("not compared");
    assert_eq!(warned, !expected.is_empty(), "{checked}");
}

#[expect(clippy::cast_possible_truncation, reason = "the value was an f32")]
fn is_same(told: &Json, value: &Value) -> bool {
    match value {
        Value::U8(value) => *told == *value,
        Value::I8(value) => *told == *value,
        Value::U16(value) => *told == *value,
        Value::I16(value) => *told == *value,
        Value::U32(value) => *told == *value,
        Value::I32(value) => *told == *value,
        Value::U64(value) => *told == *value,
        Value::I64(value) => *told == *value,
        Value::Bool(value) => *told == *value,
        Value::F32(value) => told.as_f64().is_some_and(|told| (told as f32).to_bits() == value.to_bits()),
        Value::F64(value) => told.as_f64().is_some_and(|told| told.to_bits() == value.to_bits()),
        Value::Text(value) => *told == **value,
        Value::Array(values) => told.as_array().is_some_and(|told| {
            told.len() == values.len() && told.iter().zip(values).all(|(told, value)| is_same(told, value))
        }),
    }
}
