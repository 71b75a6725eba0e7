//! Folders that the reference made, in every encoding that is given of them.

use std::path::Path;

use half::f16;
use qhost_packed::testing::{Source, expected, files};
use qhost_plugin_api::{documents::Encoding, sdk::FailureKind};
use safetensors::SafeTensors;
use serde_json::{Value, json};

use super::Settings;

const Q: &str = "model.layers.0.self_attn.q_proj";

type Files = Vec<(String, Vec<u8>)>;

fn folder(name: &str) -> Files {
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/gptq").join(name)).unwrap()
}

/// The files with a setting that is another.
fn with_setting(mut files: Files, key: &str, value: &Value) -> Files {
    for (_, bytes) in files.iter_mut().filter(|(name, _)| name == "config.json") {
        let mut config: Value = serde_json::from_slice(bytes).unwrap();
        config["quantization_config"][key] = value.clone();
        *bytes = config.to_string().into_bytes();
    }
    files
}

/// The files with the bytes of a tensor changed.
fn changed(mut files: Files, tensor: &str, edit: impl Fn(&mut [u8])) -> Files {
    let (_, bytes) = files.iter_mut().find(|(name, _)| name == "model.safetensors").unwrap();
    let (header, metadata) = SafeTensors::read_metadata(bytes).unwrap();
    let (start, end) = metadata.info(tensor).unwrap().data_offsets;
    edit(&mut bytes[8 + header + start..8 + header + end]);
    files
}

fn read(files: &Files) -> qhost_plugin_api::sdk::Result<Source> {
    Source::read::<Settings>(files)
}

/// The numbers that the reference has are those of the floats and those of the planes.
#[test]
fn weights_are_those_of_the_reference_in_every_encoding() {
    let path = |variant: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/gptq").join(variant);
    for variant in ["autoround", "autoround2", "b2", "b3zero", "b4", "b4order", "b4v2", "b4zero", "b8row", "planar"] {
        let source = read(&folder(variant)).unwrap();
        let bytes = expected(&path(variant)).unwrap();
        for (name, weights) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            let (_, tensor) = source.tensor(&name).unwrap();
            let rows = tensor.rows();
            let weights: Vec<_> = weights.data().as_chunks().0.iter().map(|raw| f16::from_le_bytes(*raw)).collect();
            let floats = source.rows(&name, 0, rows).unwrap();
            let same = floats.iter().zip(&weights).all(|(found, weight)| f16::from_f32(*found) == *weight);
            assert!(same && floats.len() == weights.len(), "{variant} {name}");
            let encodings = source.encodings(&name).unwrap();
            assert!(encodings.len() > 1 && encodings.last() == Some(&Encoding::float("F32")), "{variant} {name}");
            for encoding in encodings.iter().filter(|encoding| encoding.is_grouped()) {
                for (first, rows) in [(0, rows), (rows / 3, 5)] {
                    let planes = source.planes(&name, encoding, first, rows).unwrap();
                    let mut found = vec![0.0; planes.bytes.len()];
                    planes.weights(&mut found).unwrap();
                    let start = usize::try_from(first * tensor.row_elements()).unwrap();
                    let same = found.iter().zip(&floats[start..]).all(|(one, other)| one.to_bits() == other.to_bits());
                    assert!(same, "{variant} {name} as {encoding}");
                    let top = 1_u16 << encoding.bits.unwrap();
                    assert!(planes.bytes.iter().all(|code| u16::from(*code) < top), "{variant} {name}");
                }
            }
        }
    }
}

#[test]
fn encodings_say_what_the_files_hold() {
    let of = |variant: &str, module: &str| {
        read(&folder(variant)).unwrap().encodings(&format!("model.layers.0.{module}.weight")).unwrap().swap_remove(0)
    };
    assert_eq!(of("b4", "self_attn.q_proj"), Encoding::affine(4, 32, [8, 8], "F16"));
    assert_eq!(of("b8row", "mlp.gate_proj"), Encoding::affine(8, 64, [128, 128], "F16"));
    // In an order of their own.
    assert_eq!(of("b4order", "self_attn.q_proj"), Encoding::affine(4, 32, [8, 8], "F16").permuted());
    // Zero points of 0, which version 1 stores as −1.
    let zeros = ["self_attn.k_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"];
    let zeros = zeros.map(|module| of("b4zero", module).zeros.unwrap());
    assert!(zeros.iter().any(|[least, greatest]| *least == 0 && (1..=15).contains(greatest)), "{zeros:?}");
    let two = of("autoround2", "mlp.down_proj");
    assert!(two.bits == Some(2) && two.zero().is_none(), "{two:?}");
    assert_eq!(of("autoround", "self_attn.v_proj"), Encoding::float("BF16"), "it is left as it is");
    assert_eq!(of("autoround", "mlp.up_proj").bits, Some(5));
    assert_eq!(of("b4", "input_layernorm"), Encoding::float("BF16"));
}

/// An order that is the natural one is none, and one in which two inputs are swapped across groups is one.
#[test]
fn only_an_order_that_is_not_the_natural_one_is_told() {
    let swapped = changed(folder("b4"), &format!("{Q}.g_idx"), |order| {
        let (one, other) = order.split_at_mut(40 * 4);
        one[..4].swap_with_slice(&mut other[..4]);
    });
    let source = read(&swapped).unwrap();
    let encoding = source.encodings(&format!("{Q}.weight")).unwrap().swap_remove(0);
    assert_eq!(encoding, Encoding::affine(4, 32, [8, 8], "F16").permuted());
    let planes = source.planes(&format!("{Q}.weight"), &encoding, 0, 2).unwrap();
    assert_eq!((planes.order[0], planes.order[1], planes.order[40]), (1, 0, 0));
    let natural = Encoding::affine(4, 32, [8, 8], "F16");
    assert!(source.planes(&format!("{Q}.weight"), &natural, 0, 2).is_err(), "it is not given so");
}

/// Some store symmetric zero points as they are, and say version 1.
#[test]
fn symmetric_zero_points_that_are_not_stored_less_one_are_symmetric_all_the_same() {
    let stored = changed(folder("b4"), &format!("{Q}.qzeros"), |zeros| zeros.fill(0x88));
    let weight = format!("{Q}.weight");
    let (source, original) = (read(&stored).unwrap(), read(&folder("b4")).unwrap());
    assert_eq!(source.encodings(&weight).unwrap(), original.encodings(&weight).unwrap());
    assert_eq!(source.rows(&weight, 0, 64).unwrap(), original.rows(&weight, 0, 64).unwrap());
    // Where nothing says that they are symmetric, they are what they are.
    let asymmetric = read(&with_setting(stored, "sym", &json!(false))).unwrap();
    assert_eq!(asymmetric.encodings(&weight).unwrap()[0].zeros, Some([9, 9]));
}

#[test]
fn scales_and_orders_that_cannot_be_are_found_by_rows_and_planes() {
    let weight = format!("{Q}.weight");
    for bad in [f16::NAN, f16::INFINITY, f16::NEG_INFINITY] {
        let files = changed(folder("b4"), &format!("{Q}.scales"), |scales| {
            // Of output 5 in the second group.
            scales[(64 + 5) * 2..][..2].copy_from_slice(&bad.to_le_bytes());
        });
        let source = read(&files).unwrap();
        let encoding = source.encodings(&weight).unwrap().swap_remove(0);
        for failure in [source.rows(&weight, 0, 64).unwrap_err(), source.planes(&weight, &encoding, 4, 2).unwrap_err()]
        {
            let told = failure.to_string();
            assert_eq!(failure.kind, FailureKind::CORRUPT, "{told}");
            assert!(told.contains(&format!("{Q}.scales")) && told.contains("output 5 in group 1"), "{told}");
        }
        assert!(source.rows(&weight, 6, 10).is_ok(), "the other rows are sound");
    }
    let files = changed(folder("b4order"), &format!("{Q}.g_idx"), |order| {
        order[12..16].copy_from_slice(&2_i32.to_le_bytes());
    });
    let source = read(&files).unwrap();
    for failure in [source.rows(&weight, 0, 1).unwrap_err(), source.encodings(&weight).unwrap_err()] {
        let told = failure.to_string();
        assert_eq!(failure.kind, FailureKind::CORRUPT, "{told}");
        assert!(told.contains(&format!("{Q}.g_idx")) && told.contains("input 3"), "{told}");
    }
}
