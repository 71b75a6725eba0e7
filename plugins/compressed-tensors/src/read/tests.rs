//! Folders that the package made, in every encoding that is given of them, and what is wrong with others.

use std::path::{Path, PathBuf};

use half::{bf16, f16};
use qhost_packed::{
    Reader,
    testing::{Source, expected, files},
};
use qhost_plugin_api::{
    documents::{CheckStatus, Encoding, Findings},
    sdk::{Failure, FailureKind, FileReader as _, FileView, Result},
};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use super::Settings;

const Q: &str = "model.layers.0.self_attn.q_proj";

type Files = Vec<(String, Vec<u8>)>;

fn path(variant: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/compressed-tensors").join(variant)
}

fn folder(variant: &str) -> Files {
    files(&path(variant)).unwrap()
}

fn read(files: &Files) -> Result<Source> {
    Source::read::<Settings>(files)
}

/// The files with something else in the settings.
fn edited(mut files: Files, edit: impl Fn(&mut Value)) -> Files {
    for (_, bytes) in files.iter_mut().filter(|(name, _)| name == "config.json") {
        let mut config: Value = serde_json::from_slice(bytes).unwrap();
        edit(&mut config["quantization_config"]);
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

/// The files with a word in the header of the weights that is another of the same length.
fn renamed(mut files: Files, from: &str, to: &str) -> Files {
    assert_eq!(from.len(), to.len());
    let (_, bytes) = files.iter_mut().find(|(name, _)| name == "model.safetensors").unwrap();
    let at = bytes.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    files
}

fn checked(files: &Files, loader: Option<&str>) -> Findings {
    let mut files = files.clone();
    files.push(("tokenizer.json".into(), b"{}".to_vec()));
    let views: Vec<_> = files.iter().map(|(name, bytes)| FileView { name, bytes }).collect();
    Reader::<Settings>::default().check(&views, loader).unwrap()
}

/// What a check says that fails.
fn wrong(findings: &Findings) -> Option<String> {
    let failed = findings.checks.iter().find(|check| check.status == CheckStatus::Failed);
    failed.map(|check| format!("{}: {}", check.name, check.detail))
}

const VARIANTS: [&str; 7] = ["asym", "channel3", "mixed", "order", "padded3", "row8", "sym"];

/// The numbers that the package has, rounded as it rounds them, are those of the floats and those of the planes.
#[test]
fn weights_are_those_of_the_package_in_every_encoding() {
    for variant in VARIANTS {
        let source = read(&folder(variant)).unwrap();
        let bytes = expected(&path(variant)).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(tensors.len(), 7, "{variant}");
        for (name, weights) in tensors.tensors() {
            let rows = source.tensor(&name).unwrap().1.rows();
            let floats = source.rows(&name, 0, rows).unwrap();
            let raw = weights.data().as_chunks().0;
            assert_eq!(raw.len(), floats.len(), "{variant} {name}");
            let is_same = |(found, raw): (&f32, &[u8; 2])| match weights.dtype() {
                Dtype::BF16 => bf16::from_f32(*found) == bf16::from_le_bytes(*raw),
                _ => f16::from_f32(*found) == f16::from_le_bytes(*raw),
            };
            assert!(floats.iter().zip(raw).all(is_same), "{variant} {name}");
            let encodings = source.encodings(&name).unwrap();
            assert!(encodings.len() == 2 && encodings[1] == Encoding::float("F32"), "{variant} {name}");
            for (first, rows) in [(0, rows), (rows / 3, 5)] {
                let planes = source.planes(&name, &encodings[0], first, rows).unwrap();
                let mut found = vec![0.0; planes.bytes.len()];
                planes.weights(&mut found).unwrap();
                let start = usize::try_from(first).unwrap() * floats.len()
                    / usize::try_from(source.tensor(&name).unwrap().1.rows()).unwrap();
                let same = found.iter().zip(&floats[start..]).all(|(one, other)| one.to_bits() == other.to_bits());
                assert!(same, "{variant} {name} as {}", encodings[0]);
            }
        }
    }
}

#[test]
fn encodings_say_what_the_files_hold() {
    let of = |variant: &str, module: &str| {
        read(&folder(variant)).unwrap().encodings(&format!("model.layers.0.{module}.weight")).unwrap().swap_remove(0)
    };
    assert_eq!(of("sym", "self_attn.q_proj"), Encoding::affine(4, 32, [8, 8], "BF16"));
    assert_eq!(of("row8", "mlp.gate_proj"), Encoding::affine(8, 64, [128, 128], "F16"));
    assert_eq!(of("order", "self_attn.q_proj"), Encoding::affine(4, 32, [8, 8], "F16").permuted());
    assert_eq!(of("mixed", "self_attn.o_proj"), Encoding::affine(7, 64, [64, 64], "F16"));
    let six = of("mixed", "mlp.down_proj");
    assert!((six.bits, six.group_size, six.zero()) == (Some(6), Some(16), None), "{six:?}");
    assert_eq!(of("sym", "input_layernorm"), Encoding::float("BF16"));
}

#[test]
fn what_the_package_made_is_sound_and_loaders_take_what_they_know() {
    for variant in VARIANTS {
        let files = folder(variant);
        assert_eq!(wrong(&checked(&files, None)), None, "{variant}");
        for (loader, refused) in [
            ("vllm", &[("order", "order of their own"), ("padded3", "go on in the next word")][..]),
            (
                "transformers",
                &[
                    ("order", "order of their own"),
                    ("padded3", "go on in the next word"),
                    ("asym", "dequantize=True"),
                    ("channel3", "dequantize=True"),
                    ("mixed", "dequantize=True"),
                ],
            ),
        ] {
            let told = wrong(&checked(&files, Some(loader)));
            // `gate_proj` and `up_proj` have other widths there.
            let mixed = (variant == "mixed" && loader == "vllm").then_some("as one");
            let word = refused.iter().find(|(name, _)| *name == variant).map(|(_, word)| *word).or(mixed);
            match word {
                Some(word) => {
                    assert!(told.as_ref().is_some_and(|told| told.contains(word)), "{variant} {loader}: {told:?}");
                }
                None => assert_eq!(told, None, "{variant} {loader}"),
            }
        }
    }
}

/// A tensor that is not there or of another shape, and a config that says otherwise, are named.
#[test]
fn what_does_not_fit_is_named() {
    let packed = format!("{Q}.weight_packed");
    let lengths = |rows: i64, columns: i64| {
        changed(folder("sym"), &format!("{Q}.weight_shape"), |bytes| {
            bytes.copy_from_slice(&[rows.to_le_bytes(), columns.to_le_bytes()].concat());
        })
    };
    let weights = |key: &str, value: Value| {
        edited(folder("sym"), |settings| settings["config_groups"]["group_0"]["weights"][key] = value.clone())
    };
    for (files, subject, word) in [
        (lengths(64, 40), packed.as_str(), "5 words"),
        (lengths(64, 60), &format!("{Q}.weight_scale"), "60 inputs"),
        (lengths(32, 64), &format!("{Q}.weight_shape"), "32 × 64"),
        (lengths(-64, 64), &format!("{Q}.weight_shape"), "-64"),
        (lengths(64, i64::MAX), "q_proj", ""),
        (renamed(folder("sym"), &format!("{Q}.weight_shape"), &format!("{Q}.weight_shapx")), "q_proj", "weight_shape"),
        (renamed(folder("sym"), &format!("{Q}.weight_scale"), &format!("{Q}.weight_scalx")), "q_proj", "weight_scale"),
        (weights("num_bits", json!(3)), "weight_packed", "3 bits"),
        (weights("group_size", json!(16)), "weight_scale", "16"),
        (weights("symmetric", json!(false)), "proj", "zero points are not there"),
        (
            edited(folder("asym"), |settings| {
                settings["config_groups"]["group_0"]["weights"]["symmetric"] = json!(true);
            }),
            "zero_point",
            "symmetric",
        ),
        (
            edited(folder("sym"), |settings| settings["config_groups"]["group_0"]["targets"] = json!(["lm_head"])),
            "proj",
            "no group",
        ),
    ] {
        let Failure { kind, subject: found, message, .. } = read(&files).err().unwrap();
        assert_eq!(kind, FailureKind::CORRUPT, "{found}: {message}");
        assert!(found.contains(subject) && message.contains(word), "{subject} {word}: {found}: {message}");
    }
    let ignored = edited(folder("sym"), |settings| settings["ignore"] = json!(["lm_head", "re:.*q_proj"]));
    assert!(wrong(&checked(&ignored, None)).is_some_and(|told| told.contains(Q) && told.contains("ignore")));
    let silent =
        edited(folder("order"), |settings| settings["config_groups"]["group_0"]["weights"]["actorder"] = json!(null));
    assert!(wrong(&checked(&silent, None)).is_some_and(|told| told.contains("weight_g_idx")));
}

#[test]
fn scales_and_orders_that_cannot_be_are_found_by_rows_and_planes() {
    let weight = format!("{Q}.weight");
    let files = changed(folder("asym"), &format!("{Q}.weight_scale"), |scales| {
        // Of output 5 in the second group.
        scales[(5 * 2 + 1) * 2..][..2].copy_from_slice(&f16::NAN.to_le_bytes());
    });
    let source = read(&files).unwrap();
    let failure = source.rows(&weight, 0, 64).unwrap_err();
    let told = failure.to_string();
    assert_eq!(failure.kind, FailureKind::CORRUPT, "{told}");
    assert!(told.contains(&format!("{Q}.weight_scale")) && told.contains("output 5 in group 1"), "{told}");
    assert!(source.rows(&weight, 6, 10).is_ok(), "the other rows are sound");
    let files = changed(folder("order"), &format!("{Q}.weight_g_idx"), |order| {
        order[12..16].copy_from_slice(&(-1_i32).to_le_bytes());
    });
    let failure = read(&files).unwrap().rows(&weight, 0, 1).unwrap_err().to_string();
    assert!(failure.contains(&format!("{Q}.weight_g_idx")) && failure.contains("input 3"), "{failure}");
}
