//! Plain folders of floats: what is in them, that nothing is lost that need not be, and that others take them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use qhost_tests::{checkpoint::RandomLlama, command::Qhost, fixture};
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::{
    families::{NESTED, eight_bits, f32_file, family, microscaled, nested},
    gptq::{Tensors, calibration, files, json as json_file, tensors},
};

fn run(command: &str, model: &Path, arguments: &[&str]) -> Qhost {
    Qhost::new([command, "--format", "safetensors"]).args(arguments.iter().copied()).arg(model)
}

/// Makes a folder, and gives where it is.
fn made(model: &Path, folder: &Path, arguments: &[&str]) -> PathBuf {
    let result = run("quantize", model, arguments).arg("-o").arg(folder).json();
    assert_eq!(result["validation"]["status"], "passed");
    PathBuf::from(result["output_path"].as_str().unwrap())
}

/// The weights as they are, whatever their type.
fn floats((dtype, _, bytes): &(Dtype, Vec<usize>, Vec<u8>)) -> Vec<f32> {
    let halves = || bytes.as_chunks().0.iter().map(|raw| u16::from_le_bytes(*raw));
    match dtype {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect(),
        Dtype::F16 => halves().map(|bits| f16::from_bits(bits).to_f32()).collect(),
        Dtype::BF16 => halves().map(|bits| bf16::from_bits(bits).to_f32()).collect(),
        other => unreachable!("{other:?}"),
    }
}

fn bits(floats: &[f32]) -> Vec<u32> {
    floats.iter().map(|float| float.to_bits()).collect()
}

/// Names, shapes and numbers are the same, and the type is the one asked for.
fn assert_same(ours: &Tensors, original: &Tensors, dtype: Dtype, what: &str) {
    assert!(ours.keys().eq(original.keys()), "{what}: other tensors");
    for (name, tensor) in ours {
        let stored = &original[name];
        assert_eq!((tensor.0, &tensor.1), (dtype, &stored.1), "{what}: {name}");
        assert!(bits(&floats(tensor)) == bits(&floats(stored)), "{what}: {name} has other numbers");
    }
}

fn loss(model: &Path, text: &Path) -> f64 {
    Qhost::new(["eval", "--ctx", "32", "--dataset"]).arg(text).arg(model).json()["mean_nll"].as_f64().unwrap()
}

fn architectures() -> Vec<PathBuf> {
    let mut models: Vec<_> = fs::read_dir(fixture("arch"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    models.sort();
    assert!(models.len() >= 28, "{}", models.len());
    models
}

/// Without a level nothing is changed: stacked experts, tied heads and fused linears too; and what is asked of the copy is
/// what the original answers.
#[test]
fn every_family_is_copied_bit_by_bit_in_its_own_type_and_exactly_into_32_bits() {
    let folder = tempfile::tempdir().unwrap();
    let text = calibration(folder.path());
    for model in architectures() {
        let name = model.file_name().unwrap().to_str().unwrap().to_owned();
        let original = tensors(&model);
        let output = made(&model, &folder.path().join(&name), &[]);
        assert!(output.to_str().unwrap().ends_with("-BF16"), "{}", output.display());
        assert_same(&tensors(&output), &original, Dtype::BF16, &name);
        let config = |folder: &Path| fs::read_to_string(folder.join("config.json")).unwrap();
        assert_eq!(config(&output), config(&model), "{name}");
        assert_eq!(loss(&output, &text).to_bits(), loss(&model, &text).to_bits(), "{name}");
        let wide = made(&model, &folder.path().join(&name), &["--level", "F32"]);
        assert_same(&tensors(&wide), &original, Dtype::F32, &name);
        assert_eq!(config(&wide), config(&model).replace("bfloat16", "float32"), "{name}");
    }
}

#[test]
fn a_folder_has_the_small_files_and_is_what_other_commands_take() {
    let (model, folder) = (fixture("tinylm"), tempfile::tempdir().unwrap());
    let output = made(&model, folder.path(), &[]);
    assert!(output.join("README.md").is_file() && output.join("qhost-report.json").is_file());
    for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        assert_eq!(fs::read(output.join(file)).unwrap(), fs::read(model.join(file)).unwrap(), "{file}");
    }
    let told = Qhost::new(["inspect"]).arg(&output).json();
    assert_eq!((&told["format"], &told["family"]), (&json!("safetensors"), &json!("llama")));
    assert_eq!(told["parameter_count"], Qhost::new(["inspect"]).arg(&model).json()["parameter_count"]);
    let verified = Qhost::new(["verify"]).arg(&output).json();
    assert_eq!(verified["status"], "ok", "{verified}");
    let text = fixture("text").join("prose.txt");
    assert_eq!(loss(&output, &text).to_bits(), loss(&model, &text).to_bits());
    let card = fs::read_to_string(output.join("README.md")).unwrap();
    assert!(
        card.contains("library_name: transformers") && card.contains("from_pretrained(\"./tinylm-BF16\""),
        "{card}"
    );
    // As a checkpoint of another format.
    let (ours, original) =
        (f32_file(&output, &folder.path().join("ours")), f32_file(&model, &folder.path().join("original")));
    assert_eq!(ours.tensors.len(), original.tensors.len());
    for (ours, original) in ours.tensors.iter().zip(&original.tensors) {
        assert!(ours.name == original.name && ours.data == original.data, "{}", ours.name);
    }
}

/// The finite numbers of 16 bits that are not negative, in order: the nearest is found by looking.
struct Line(Vec<f32>);

impl Line {
    fn of(dtype: Dtype) -> Self {
        Self(match dtype {
            Dtype::F16 => (0..0x7c00).map(|bits| f16::from_bits(bits).to_f32()).collect(),
            _ => (0..0x7f80).map(|bits| bf16::from_bits(bits).to_f32()).collect(),
        })
    }

    fn nearest(&self, value: f32) -> f32 {
        let size = value.abs();
        let above = self.0.partition_point(|number| *number < size);
        let below = above.saturating_sub(1);
        let distance = |at: usize| (f64::from(self.0[at]) - f64::from(size)).abs();
        let nearest = match distance(above).total_cmp(&distance(below)) {
            std::cmp::Ordering::Less => above,
            std::cmp::Ordering::Greater => below,
            std::cmp::Ordering::Equal => above - above % 2,
        };
        self.0[nearest].copysign(value)
    }
}

/// Dead rows, outliers, signed zeros and numbers below all normal ones are among the weights.
#[test]
fn each_weight_is_rounded_to_the_nearest_and_the_report_tells_how_far() {
    let folder = tempfile::tempdir().unwrap();
    for (level, dtype, hostile) in [("F16", Dtype::F16, false), ("BF16", Dtype::BF16, true)] {
        let model = folder.path().join(level);
        RandomLlama { dtype: Dtype::F32, hostile, layers: 2, ..RandomLlama::default() }.write(&model);
        let output = made(&model, folder.path(), &["--level", level]);
        let (ours, original, line) = (tensors(&output), tensors(&model), Line::of(dtype));
        assert!(ours.keys().eq(original.keys()));
        for (name, tensor) in &ours {
            assert_eq!(tensor.0, dtype, "{name}");
            let expected: Vec<_> = floats(&original[name]).into_iter().map(|value| line.nearest(value)).collect();
            assert!(bits(&floats(tensor)) == bits(&expected), "{level}: {name}");
        }
        let report = json_file(&output.join("qhost-report.json"));
        let largest = if level == "F16" { 2.0_f64.powi(-11) } else { 2.0_f64.powi(-8) };
        for tensor in report["tensors"].as_array().unwrap() {
            let error = tensor["metrics"]["relative_rms_error"].as_f64().unwrap();
            assert!(error > 0.0 && error < largest, "{tensor}");
        }
        assert_eq!(
            json_file(&output.join("config.json"))["torch_dtype"],
            if level == "F16" { "float16" } else { "bfloat16" }
        );
    }
}

#[test]
fn what_cannot_be_made_is_refused() {
    let model = fixture("tinylm");
    for (arguments, code, word, hint) in [
        (&["--level", "Q8_0"][..], 4, "Q8_0", "BF16"),
        (&["--bits", "16"], 2, "--bits", "--level"),
        (&["--imatrix", "auto"], 2, "--imatrix", "--level"),
        (&["--plugin-option", "damp=1"], 2, "damp", "shard-size"),
        (&["--plugin-option", "shard-size=big"], 2, "big", "5GB"),
    ] {
        let error = run("plan", &model, arguments).fail_with(code);
        assert!(error["message"].as_str().unwrap().contains(word), "{error}");
        assert!(error["hint"].as_str().unwrap().contains(hint), "{error}");
    }
    // A weight that F16 does not have is found when it is read.
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("large");
    RandomLlama { layers: 1, ..RandomLlama::default() }.write(&model);
    let name = "model.layers.0.mlp.up_proj.weight";
    let path = model.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let weights = tensors(&model)[name].2.clone();
    let at = bytes.windows(weights.len()).position(|window| window == weights).unwrap();
    bytes[at + 2 * 256..][..2].copy_from_slice(&bf16::from_f32(1e6).to_le_bytes());
    fs::write(&path, bytes).unwrap();
    assert!(run("plan", &model, &["--level", "F16"]).json()["warnings"].to_string().contains("65504"));
    let error = run("quantize", &model, &["--level", "F16"]).arg("-o").arg(folder.path()).fail_with(4);
    let told = error.to_string();
    assert!(told.contains(name) && told.contains("row 1,") && told.contains("BF16 or F32"), "{told}");
    assert!(!folder.path().join("large-F16").exists());
    assert!(made(&model, folder.path(), &["--level", "BF16"]).is_dir());
}

#[test]
fn files_are_split_where_they_would_be_too_large_and_the_index_tells_where_tensors_are() {
    let (model, folder) = (fixture("tinylm"), tempfile::tempdir().unwrap());
    let output = made(&model, folder.path(), &["--plugin-option", "shard-size=1MB"]);
    assert_same(&tensors(&output), &tensors(&model), Dtype::BF16, "split");
    let index = json_file(&output.join("model.safetensors.index.json"));
    let places = index["weight_map"].as_object().unwrap();
    let shards: BTreeSet<_> = places.values().map(|place| place.as_str().unwrap()).collect();
    assert!(shards.len() > 3 && shards.iter().all(|shard| output.join(shard).is_file()), "{shards:?}");
    let text = fixture("text").join("prose.txt");
    assert_eq!(loss(&output, &text).to_bits(), loss(&model, &text).to_bits());
    assert_eq!(Qhost::new(["verify"]).arg(&output).json()["status"], "ok");
}

/// Experts in blocks of 4 bits lie the other way round there than in a folder of floats.
#[test]
fn what_was_stored_in_fewer_bits_becomes_floats() {
    let folder = tempfile::tempdir().unwrap();
    let (stored, widened) = microscaled(&folder.path().join("mx"));
    let eight = eight_bits(&folder.path().join("fp8"), Dtype::F32);
    for (name, (stored, widened)) in [("mx", (stored, widened)), ("fp8", eight)] {
        let output = made(&stored, &folder.path().join(name), &["--level", "F32"]);
        assert_same(&tensors(&output), &tensors(&widened), Dtype::F32, name);
        let config = json_file(&output.join("config.json"));
        assert!(config.get("quantization_config").is_none() && config["dtype"] == "float32", "{config}");
        // The rest of the checkpoint is in BF16.
        let output = made(&stored, &folder.path().join(name), &[]);
        let (ours, original, line) = (tensors(&output), tensors(&widened), Line::of(Dtype::BF16));
        assert!(output.to_str().unwrap().ends_with("-BF16") && ours.keys().eq(original.keys()), "{name}");
        for (tensor, stored) in &ours {
            let expected: Vec<_> = floats(&original[tensor]).into_iter().map(|value| line.nearest(value)).collect();
            assert!(stored.0 == Dtype::BF16 && bits(&floats(stored)) == bits(&expected), "{name}: {tensor}");
        }
    }
}

#[test]
fn of_a_multimodal_checkpoint_the_language_model_becomes_a_model_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let text = family("gemma3_text", folder.path());
    let rows = calibration(folder.path());
    for (prefix, tower) in NESTED {
        let model = nested(&text, folder.path(), (prefix, tower));
        let output = made(&model, &folder.path().join(tower), &[]);
        assert_same(&tensors(&output), &tensors(&text), Dtype::BF16, tower);
        let config = json_file(&output.join("config.json"));
        let expected = ("gemma3_text", json!(["Gemma3ForCausalLM"]));
        assert_eq!((config["model_type"].as_str().unwrap(), config["architectures"].clone()), expected);
        assert_eq!(config.get("vision_config"), None::<&Value>);
        assert_eq!(loss(&output, &rows).to_bits(), loss(&text, &rows).to_bits(), "{tower}");
    }
}

#[test]
fn neither_threads_nor_a_kill_change_a_byte() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    let llama =
        RandomLlama { hidden: 512, ffn: 1536, layers: 24, heads: 8, dtype: Dtype::F32, ..RandomLlama::default() };
    llama.write(&model);
    let arguments = |threads| ["--level", "F16", "--threads", threads, "--plugin-option", "shard-size=30MB"];
    let expected = files(&made(&model, &folder.path().join("two"), &arguments("2")));
    assert!(expected.len() > 5);
    assert!(files(&made(&model, &folder.path().join("one"), &arguments("1"))) == expected);
    let output = folder.path().join("killed");
    fs::create_dir_all(&output).unwrap();
    let start = || run("quantize", &model, &arguments("1")).arg("-o").arg(&output);
    let journal = output.join("model-F16.partial").join("journal");
    // The start, the headers, and some units.
    start().kill_after(&journal, 5);
    let result = start().json();
    assert!(result["resumed"]["units_done"].as_u64().unwrap() > 0, "{result}");
    assert!(files(Path::new(result["output_path"].as_str().unwrap())) == expected);
}
