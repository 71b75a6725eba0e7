//! Folders that the references made, in every encoding that is given of them.

use std::path::{Path, PathBuf};

use half::{bf16, f16};
use qhost_packed::testing::{Source, expected, files};
use qhost_plugin_api::{documents::Encoding, sdk::FailureKind};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};

use super::Settings;

const Q: &str = "model.layers.0.self_attn.q_proj";

type Files = Vec<(String, Vec<u8>)>;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/awq").join(name)
}

fn folder(name: &str) -> Files {
    files(&path(name)).unwrap()
}

fn with_setting(mut files: Files, key: &str, value: &Value) -> Files {
    for (_, bytes) in files.iter_mut().filter(|(name, _)| name == "config.json") {
        let mut config: Value = serde_json::from_slice(bytes).unwrap();
        config["quantization_config"][key] = value.clone();
        *bytes = config.to_string().into_bytes();
    }
    files
}

/// The files with tensors renamed and changed.
fn changed(mut files: Files, edit: impl Fn(&mut String, &mut Vec<usize>, &mut Vec<u8>)) -> Files {
    let (_, bytes) = files.iter_mut().find(|(name, _)| name == "model.safetensors").unwrap();
    let tensors = SafeTensors::deserialize(bytes).unwrap();
    let edited: Vec<_> = tensors
        .tensors()
        .into_iter()
        .map(|(mut name, tensor)| {
            let (mut shape, mut data) = (tensor.shape().to_vec(), tensor.data().to_vec());
            edit(&mut name, &mut shape, &mut data);
            (name, tensor.dtype(), shape, data)
        })
        .collect();
    let views = edited
        .iter()
        .map(|(name, dtype, shape, data)| (name.clone(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
    *bytes = safetensors::serialize(views, None).unwrap();
    files
}

fn read(files: &Files) -> qhost_plugin_api::sdk::Result<Source> {
    Source::read::<Settings>(files)
}

#[test]
fn weights_are_those_of_the_reference_in_every_encoding() {
    for variant in ["asym", "autoround", "bf16", "gemv", "gemv_fast", "row", "sym"] {
        let source = read(&folder(variant)).unwrap();
        let bytes = expected(&path(variant)).unwrap();
        for (name, weights) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            let (_, tensor) = source.tensor(&name).unwrap();
            let rows = tensor.rows();
            let floats = source.rows(&name, 0, rows).unwrap();
            let same = |(found, raw): (&f32, &[u8; 2])| match weights.dtype() {
                Dtype::BF16 => bf16::from_f32(*found) == bf16::from_le_bytes(*raw),
                _ => f16::from_f32(*found) == f16::from_le_bytes(*raw),
            };
            assert!(floats.iter().zip(weights.data().as_chunks().0).all(same), "{variant} {name}");
            for encoding in source.encodings(&name).unwrap().iter().filter(|encoding| encoding.is_grouped()) {
                for (first, rows) in [(0, rows), (rows / 3, 5)] {
                    let planes = source.planes(&name, encoding, first, rows).unwrap();
                    let mut found = vec![0.0; planes.bytes.len()];
                    planes.weights(&mut found).unwrap();
                    let start = usize::try_from(first * tensor.row_elements()).unwrap();
                    let same = |(one, other): (&f32, &f32)| (one + 0.0).to_bits() == (other + 0.0).to_bits();
                    assert!(found.iter().zip(&floats[start..]).all(same), "{variant} {name} as {encoding}");
                }
            }
        }
    }
}

#[test]
fn encodings_say_what_the_files_hold() {
    let of = |variant: &str| read(&folder(variant)).unwrap().encodings(&format!("{Q}.weight")).unwrap();
    assert_eq!(of("sym"), [Encoding::affine(4, 32, [8, 8], "F16"), Encoding::float("F32")]);
    assert_eq!(of("row")[0].group_size, Some(64));
    assert_eq!(of("bf16")[0].dtype.as_deref(), Some("BF16"));
    let [asym, gemv] = ["asym", "gemv"].map(|variant| of(variant).swap_remove(0));
    assert!(asym == gemv && asym.zero().is_none(), "{asym:?} {gemv:?}");
    // Minima were rounded, so that they are no zero points any more; but they are next to them.
    let fast = of("gemv_fast");
    assert_eq!((fast.len(), &*fast[0].kind), (2, Encoding::MINIMUM));
    let ([least, greatest], [of_fast, up_to]) = (asym.zeros.unwrap(), fast[0].zeros.unwrap());
    assert!((least - 1..=least).contains(&of_fast) && (greatest..=greatest + 1).contains(&up_to), "{fast:?}");
}

/// Minima of symmetric codes are eight times the scale exactly, and so they are zero points as well.
#[test]
fn minima_that_are_whole_steps_are_zero_points_too() {
    let files = folder("gemv_fast");
    let (_, bytes) = files.iter().find(|(name, _)| name == "model.safetensors").unwrap();
    let scales = SafeTensors::deserialize(bytes).unwrap().tensor(&format!("{Q}.scales")).unwrap().data().to_vec();
    let symmetric = changed(files, |name, _, data| {
        if *name == format!("{Q}.qzeros") {
            for (minimum, scale) in data.as_chunks_mut::<2>().0.iter_mut().zip(scales.as_chunks::<2>().0) {
                *minimum = f16::from_f32(f16::from_le_bytes(*scale).to_f32() * -8.0).to_le_bytes();
            }
        }
    });
    let weight = format!("{Q}.weight");
    let source = read(&symmetric).unwrap();
    let encodings = source.encodings(&weight).unwrap();
    assert_eq!(encodings[0], Encoding::minimum(4, 32, Some([8, 8]), "F16"));
    assert_eq!(encodings[1], Encoding::affine(4, 32, [8, 8], "F16"));
    let [minima, zeros] = [0, 1].map(|at| {
        let planes = source.planes(&weight, &encodings[at], 0, 64).unwrap();
        let mut weights = vec![0.0; 64 * 64];
        planes.weights(&mut weights).unwrap();
        weights
    });
    assert_eq!(minima, zeros);
}

/// The layout for llm-awq has another name for its minima, and is the same otherwise.
#[test]
fn both_names_of_minima_are_known() {
    let other = changed(with_setting(folder("gemv_fast"), "version", &json!("llm-awq")), |name, _, _| {
        *name = name.replace(".qzeros", ".scaled_zeros");
    });
    let weight = format!("{Q}.weight");
    let (one, other) = (read(&folder("gemv_fast")).unwrap(), read(&other).unwrap());
    assert_eq!(one.rows(&weight, 0, 64).unwrap(), other.rows(&weight, 0, 64).unwrap());
    assert_eq!(one.model.tensors.len(), other.model.tensors.len());
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let shaped = |variant: &str, ending: &'static str, new: [usize; 2]| {
        read(&changed(folder(variant), move |name, shape, data| {
            if *name == format!("{Q}{ending}") {
                data.resize(data.len() / shape.iter().product::<usize>() * new.iter().product::<usize>(), 0);
                *shape = new.to_vec();
            }
        }))
    };
    for (variant, ending, new) in [
        ("gemv", ".qweight", [63, 8]),
        ("gemv", ".qweight", [64, 0]),
        ("gemv", ".qzeros", [64, 1]),
        ("gemv", ".scales", [64, 8]),
        ("gemv", ".scales", [32, 32]),
        ("gemv_fast", ".qweight", [16, 96]),
        ("gemv_fast", ".qweight", [15, 64]),
        ("gemv_fast", ".scales", [16, 64]),
        ("gemv_fast", ".qzeros", [32, 32]),
    ] {
        let Err(failure) = shaped(variant, ending, new) else { panic!("{variant} {ending} {new:?}") };
        assert_eq!(failure.kind, FailureKind::CORRUPT, "{variant} {ending}: {failure}");
        assert!(failure.to_string().contains(Q), "{variant} {ending}: {failure}");
    }
    let weight = format!("{Q}.weight");
    for (variant, ending) in
        [("asym", ".scales"), ("gemv", ".scales"), ("gemv_fast", ".scales"), ("gemv_fast", ".qzeros")]
    {
        let files = changed(folder(variant), |name, _, data| {
            if *name == format!("{Q}{ending}") {
                data[..2].copy_from_slice(&f16::NAN.to_le_bytes());
            }
        });
        let source = read(&files).unwrap();
        let Err(failure) = source.rows(&weight, 0, 64) else { panic!("{variant} {ending}") };
        assert_eq!(failure.kind, FailureKind::CORRUPT, "{variant} {ending}: {failure}");
        assert!(failure.to_string().contains(Q), "{variant} {ending}: {failure}");
    }
}
