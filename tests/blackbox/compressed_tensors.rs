//! Folders of compressed-tensors: what is refused in the plan, what is in them, that codes go to and from other formats as
//! they are, and that the package's own folders are read as it reads them.
//!
//! The numbers are read bit by bit, as the format's text has it, by a reader that shares no code with the plugin.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use half::f16;
use qhost_tests::{checkpoint::random_rows, command::Qhost, fixture};
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::{
    gptq::{Tensors, files, floats, json, relative_error, tensors, words},
    packed, quantised, repack,
};

const FORMAT: &str = "compressed-tensors";

/// Folders that the package made, their levels, and whether it is told all of it by shapes alone.
const VARIANTS: [(&str, Option<&str>); 7] = [
    ("asym", Some("4bit-g32")),
    ("channel3", Some("3bit-channel")),
    // 4, 5, 6 and 7 bits, in groups of 32 and 16 and in whole rows.
    ("mixed", None),
    ("order", Some("4bit-g32")),
    ("padded3", Some("3bit-g32")),
    ("row8", Some("8bit-channel")),
    ("sym", Some("4bit-g32")),
];

fn of_package(variant: &str) -> PathBuf {
    fixture("compressed-tensors").join(variant)
}

fn run(command: &str, model: &Path, arguments: &[&str]) -> Qhost {
    Qhost::new([command, "--format", FORMAT]).args(arguments.iter().copied()).arg(model)
}

/// Makes a folder, and gives where it is.
fn made(model: &Path, place: &Path, arguments: &[&str]) -> PathBuf {
    let result = run("quantize", model, arguments).arg("-o").arg(place).json();
    assert_eq!(result["validation"]["status"], "passed");
    PathBuf::from(result["output_path"].as_str().unwrap())
}

/// The code at an index of a stream of bits, of words that stand apart.
fn code(word: impl Fn(usize) -> u32, index: usize, bits: usize) -> i32 {
    (0..bits).fold(0, |code, place| {
        let bit = index * bits + place;
        code | i32::try_from(word(bit / 32) >> (bit % 32) & 1).unwrap() << place
    })
}

/// The weights of a module, output by output.
fn decode(tensors: &Tensors, module: &str, bits: usize) -> Vec<f32> {
    let part = |end: &str| format!("{module}.{end}");
    let (shape, packed) = words(tensors, &part("weight_packed"));
    let (dtype, lengths, raw) = &tensors[&part("weight_shape")];
    assert_eq!((*dtype, lengths.as_slice()), (Dtype::I64, [2].as_slice()));
    let lengths: Vec<_> =
        raw.as_chunks().0.iter().map(|raw| usize::try_from(i64::from_le_bytes(*raw)).unwrap()).collect();
    let (outputs, inputs) = (lengths[0], lengths[1]);
    let of_row = (inputs * bits).div_ceil(32);
    assert_eq!(shape, [outputs, of_row], "{module}");
    let (dtype, shape, raw) = &tensors[&part("weight_scale")];
    assert_eq!((*dtype, shape[0]), (Dtype::F16, outputs));
    let groups = shape[1];
    let scales: Vec<_> = raw.as_chunks().0.iter().map(|raw| f16::from_le_bytes(*raw).to_f32()).collect();
    let zeros = tensors.contains_key(&part("weight_zero_point")).then(|| words(tensors, &part("weight_zero_point")));
    assert!(zeros.iter().all(|(shape, _)| *shape == [(outputs * bits).div_ceil(32), groups]));
    let order = tensors.contains_key(&part("weight_g_idx")).then(|| words(tensors, &part("weight_g_idx")).1);
    let mut weights = Vec::new();
    for output in 0..outputs {
        for input in 0..inputs {
            let group = order.as_ref().map_or(input / (inputs / groups), |order| order[input] as usize);
            let zero = zeros
                .as_ref()
                .map_or(1 << (bits - 1), |(_, zeros)| code(|at| zeros[at * groups + group], output, bits));
            let code = code(|at| packed[output * of_row + at], input, bits);
            weights.push(scales[output * groups + group] * f32::from(i16::try_from(code - zero).unwrap()));
        }
    }
    weights
}

fn settings(folder: &Path) -> Value {
    json(&folder.join("config.json"))["quantization_config"].take()
}

#[test]
fn what_cannot_be_made_is_refused_in_the_plan() {
    let cases: &[(&str, &[&str], i32, &str, &str)] = &[
        ("tinylm", &["--bits", "9"], 4, "9", ""),
        ("tinylm", &["--bits", "1"], 4, "1", ""),
        ("tinylm", &["--group-size", "0"], 2, "0", "-1"),
        ("tinylm", &["--group-size", "100"], 4, "model.layers.0.self_attn.q_proj", "128"),
        ("tinylm", &["--level", "4bit-g128", "--bits", "3"], 2, "contradicts", ""),
        ("tinylm", &["--level", "W4A16"], 4, "W4A16", "4bit-g128"),
        ("tinylm", &["--desc-act"], 2, "--desc-act", "--calibration"),
        ("tinylm", &["--max-size", "5MB"], 2, "--max-size", "--bits"),
        ("tinylm", &["--tensor-type", "x=F16"], 2, "--tensor-type", "ignore"),
        ("tinylm", &["--plugin-option", "damp=0.1"], 2, "damp", "--calibration"),
        ("tinylm", &["--plugin-option", "dynamic={}"], 2, "dynamic", "ignore"),
        ("tinylm", &["--plugin-option", "ignore=no_such"], 2, "no_such", "names"),
        ("tinylm", &["--plugin-option", "ignore=_proj"], 4, "nothing", "ignore"),
        ("tinylm", &["--plugin-option", "shard-size=big"], 2, "big", "5GB"),
        ("arch/llama-rope3-tied", &["--group-size", "32", "--plugin-option", "lm-head=true"], 4, "embedding", ""),
        ("arch/deepseek_v2", &["--group-size", "32"], 4, "kv_b_proj", "--group-size 8"),
    ];
    for (model, arguments, exit, word, hint) in cases {
        let error = run("plan", &fixture(model), arguments).fail_with(*exit);
        let told = format!("{} {}", error["message"], error["subject"]);
        assert!(told.contains(word), "{arguments:?}: {error}");
        assert!(error["hint"].as_str().unwrap_or_default().contains(hint), "{arguments:?}: {error}");
    }
}

#[test]
fn what_loaders_do_not_take_is_told_in_the_plan() {
    let place = tempfile::tempdir().unwrap();
    let rows = random_rows(place.path());
    let rows = rows.to_str().unwrap();
    let cases: &[(&str, &[&str], &str)] = &[
        ("tinylm", &["--asym"], "dequantize=True"),
        ("tinylm", &["--bits", "3"], "0.18"),
        ("tinylm", &["--bits", "6"], "Humming"),
        ("tinylm", &["--bits", "8", "--asym"], "Humming"),
        ("tinylm", &["--group-size", "16"], "32, 64 or 128"),
        ("tinylm", &["--desc-act", "--calibration", rows], "actorder `group`"),
        ("tinylm", &["--plugin-option", "ignore=k_proj"], "q_proj, k_proj, v_proj"),
        ("arch/gpt2", &["--group-size", "32"], "Conv1D"),
        ("arch/mixtral", &["--group-size", "32"], "experts"),
        ("arch/gpt_oss", &["--group-size", "32"], "one by one"),
    ];
    for (model, arguments, word) in cases {
        let warnings = run("plan", &fixture(model), arguments).json()["warnings"].to_string();
        assert!(warnings.contains(word), "{model} {arguments:?}: {warnings}");
    }
    for arguments in [&[][..], &["--bits", "8", "--group-size", "-1"]] {
        assert_eq!(run("plan", &fixture("tinylm"), arguments).json()["warnings"], json!([]), "{arguments:?}");
    }
}

/// Everything in a folder of each width: names, dtypes, shapes, weights close to the checkpoint's, files beside.
#[test]
fn a_folder_is_complete_and_its_weights_are_close_to_the_model_s() {
    let model = fixture("tinylm");
    let original = tensors(&model);
    for (bits, most, arguments) in [
        (2, 0.8, &["--bits", "2", "--group-size", "32"][..]),
        (3, 0.4, &["--bits", "3", "--asym"]),
        (4, 0.2, &[]),
        (5, 0.1, &["--bits", "5", "--asym", "--group-size", "64"]),
        (6, 0.06, &["--level", "6bit-g128"]),
        (7, 0.03, &["--bits", "7", "--group-size", "-1"]),
        (8, 0.02, &["--bits", "8", "--asym", "--group-size", "-1"]),
    ] {
        let place = tempfile::tempdir().unwrap();
        let output = made(&model, place.path(), arguments);
        let verified = Qhost::new(["verify"]).arg(&output).arg("--against").arg(&model).json();
        assert!(verified["status"] == "ok" && verified.to_string().contains("\"report\""), "{arguments:?}: {verified}");
        let ours = tensors(&output);
        let asymmetric = arguments.contains(&"--asym");
        for (name, tensor) in &original {
            if !name.contains("_proj.") {
                assert!(&ours[name] == tensor, "{name} is what it was");
                continue;
            }
            let module = name.strip_suffix(".weight").unwrap();
            assert!(!ours.contains_key(name));
            assert_eq!(ours.contains_key(&format!("{module}.weight_zero_point")), asymmetric, "{module}");
            let error = relative_error(&decode(&ours, module, bits), &floats(tensor));
            assert!(error > 0.0 && error < most, "{bits} bits, {module}: {error}");
        }
        assert_eq!(ours.len(), 28 * if asymmetric { 4 } else { 3 } + 11);
        let told = settings(&output);
        let weights = &told["config_groups"]["group_0"]["weights"];
        assert_eq!((&weights["num_bits"], &weights["symmetric"]), (&json!(bits), &json!(!asymmetric)));
        for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
            assert_eq!(fs::read(output.join(file)).unwrap(), fs::read(model.join(file)).unwrap(), "{file}");
        }
    }
}

/// What the package itself writes of such a model, but for a key that older ones do not know.
#[test]
fn the_config_is_that_of_the_package() {
    let place = tempfile::tempdir().unwrap();
    let model = fixture("gptq/base");
    for (variant, arguments) in [
        ("sym", &["--group-size", "32"][..]),
        ("asym", &["--group-size", "32", "--asym"]),
        ("channel3", &["--bits", "3", "--group-size", "-1", "--asym"]),
        ("row8", &["--bits", "8", "--group-size", "-1"]),
    ] {
        let ours = settings(&made(&model, &place.path().join(variant), arguments));
        let mut of_package = settings(&of_package(variant));
        of_package.as_object_mut().unwrap().remove("moe_sparsity_config");
        assert_eq!(ours, of_package, "{variant}");
    }
}

#[test]
fn modules_that_are_left_out_are_ignored_by_name() {
    let place = tempfile::tempdir().unwrap();
    let model = fixture("tinylm");
    let arguments = ["--plugin-option", "ignore=down_proj,layers.0.mlp", "--plugin-option", "lm-head=true"];
    let output = made(&model, place.path(), &arguments);
    let (ours, told) = (tensors(&output), settings(&output));
    assert!(ours.contains_key("model.layers.3.mlp.down_proj.weight") && ours.contains_key("lm_head.weight_packed"));
    let ignored: Vec<_> = told["ignore"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(ignored.len(), 6, "{ignored:?}");
    for name in ["model.layers.0.mlp.up_proj", "model.layers.3.mlp.down_proj"] {
        assert!(ignored.contains(&name), "{name}: {ignored:?}");
    }
    assert_eq!(told["config_groups"]["group_0"]["targets"], json!(["Linear", "lm_head"]));
    assert_eq!(Qhost::new(["verify", "--for", "vllm"]).arg(&output).json()["status"], "ok");
    assert_eq!(Qhost::new(["verify", "--for", "transformers"]).arg(&output).json()["status"], "ok");
}

#[test]
fn calibration_makes_the_codes_of_gptq() {
    let place = tempfile::tempdir().unwrap();
    let model = fixture("tinylm");
    let rows = random_rows(place.path());
    let rows = rows.to_str().unwrap();
    for (name, arguments) in
        [("sym", &["--calibration", rows][..]), ("order", &["--calibration", rows, "--desc-act", "--group-size", "32"])]
    {
        let ours = made(&model, &place.path().join(name), arguments);
        let other = Qhost::new(["quantize", "--format", "gptq", "-o"]).arg(place.path().join(name).join("gptq"));
        let other = other.args(arguments.iter().copied()).arg(&model).json();
        let other = PathBuf::from(other["output_path"].as_str().unwrap());
        assert!(repack::weights(&ours) == repack::weights(&other), "{name}");
        let said = &settings(&ours)["config_groups"]["group_0"]["weights"]["actorder"];
        assert_eq!(*said, if name == "order" { "group" } else { "weight" });
    }
}

#[test]
fn neither_threads_nor_files_change_a_byte() {
    let place = tempfile::tempdir().unwrap();
    let model = fixture("tinylm");
    let rows = random_rows(place.path());
    let rows = rows.to_str().unwrap();
    for (name, arguments) in [("alone", &["--bits", "3", "--asym"][..]), ("calibrated", &["--calibration", rows])] {
        let of = |threads: &str| {
            let arguments = [arguments, &["--threads", threads]].concat();
            files(&made(&model, &place.path().join(name).join(threads), &arguments))
        };
        assert!(of("1") == of("2"), "{name}");
    }
    let whole = tensors(&made(&model, &place.path().join("whole"), &[]));
    let split = made(&model, &place.path().join("split"), &["--plugin-option", "shard-size=1MB"]);
    assert!(tensors(&split) == whole && split.join("model.safetensors.index.json").exists());
}

#[test]
fn every_family_is_made_and_what_is_no_linear_of_a_layer_stays() {
    let place = tempfile::tempdir().unwrap();
    let mut families = 0;
    for entry in fs::read_dir(fixture("arch")).unwrap() {
        let model = entry.unwrap().path();
        let name = model.file_name().unwrap().to_str().unwrap().to_owned();
        // The latent keys of these fixtures are 24 wide.
        let group = if name.starts_with("deepseek") { "8" } else { "32" };
        let output = made(&model, &place.path().join(&name), &["--group-size", group]);
        let (ours, original) = (tensors(&output), tensors(&model));
        let (mut packed, mut kept) = (0, 0);
        for (tensor, stored) in &original {
            let module = tensor.strip_suffix(".weight").unwrap_or(tensor);
            if ours.contains_key(&format!("{module}.weight_packed")) {
                let expected = floats(stored);
                let (rows, columns) = (stored.1[0], stored.1[1]);
                let turned = |index: usize| expected[index % rows * columns + index / rows];
                let expected =
                    if name == "gpt2" { (0..expected.len()).map(turned).collect() } else { expected.clone() };
                let error = relative_error(&decode(&ours, module, 4), &expected);
                assert!(error > 0.0 && error < 0.25, "{name}: {module}: {error}");
                packed += 1;
            } else if name != "gpt_oss" || !tensor.contains(".experts.") {
                assert!(ours.get(tensor) == Some(stored), "{name}: {tensor}");
                kept += 1;
            }
        }
        assert!(packed > 0 && kept > 0, "{name}");
        assert_eq!(Qhost::new(["verify"]).arg(&output).json()["status"], "ok", "{name}");
        families += 1;
    }
    assert!(families >= 28, "{families}");
}

/// Whatever the package makes, loss and level are its own.
#[test]
fn folders_of_the_package_are_read_as_it_reads_them() {
    for (variant, level) in VARIANTS {
        let place = tempfile::tempdir().unwrap();
        let (rows, expected) = packed::rows(&of_package(variant), &place);
        let told = Qhost::new(["eval"]).arg(of_package(variant)).arg("--dataset").arg(rows).json();
        let loss = told["mean_nll"].as_f64().unwrap();
        assert!((loss - expected).abs() < 2e-6, "{variant}: {loss}, and not {expected}");
        let told = Qhost::new(["inspect"]).arg(of_package(variant)).json();
        assert_eq!((told["format"].as_str(), told["level"].as_str()), (Some(FORMAT), level), "{variant}");
        assert_eq!((&told["family"], &told["not_understood"]), (&json!("qwen2"), &Value::Null), "{variant}");
        let tensor = told["tensors"].as_array().unwrap().iter();
        let query =
            tensor.clone().find(|tensor| tensor["name"] == "model.layers.0.self_attn.q_proj.weight_packed").unwrap();
        assert_eq!((&query["role"], &query["weights"]), (&json!("attn_q"), &json!(4096)), "{variant}");
        let told = Qhost::new(["verify"]).arg(of_package(variant)).arg("--against").arg(fixture("gptq/base")).json();
        assert_eq!(told["status"], "ok", "{variant}: {told}");
        for tensor in told["comparison"]["tensors"].as_array().unwrap() {
            let error = tensor["relative_rms_error"].as_f64().unwrap();
            let packed = tensor["name"].as_str().unwrap().ends_with(".weight_packed");
            assert!(if packed { error > 0.0 && error < 0.4 } else { error < 0.01 }, "{variant}: {tensor}");
        }
    }
}

/// What other formats hold is held with the very same numbers.
#[test]
fn codes_of_other_formats_are_taken_over_as_they_are() {
    repack::taken_over(&[
        ("gptq/b2", FORMAT, &[], json!({"format": "pack-quantized"})),
        ("gptq/b3asym", FORMAT, &[], json!({"format": "pack-quantized"})),
        ("gptq/b4", FORMAT, &[], json!({"ignore": ["lm_head"]})),
        ("gptq/b4order", FORMAT, &[], json!({"format": "pack-quantized"})),
        ("gptq/b4zero", FORMAT, &[], json!({"format": "pack-quantized"})),
        ("gptq/b8row", FORMAT, &[], json!({"format": "pack-quantized"})),
        // 3 to 8 bits, groups of 16, and what the source has left as floats.
        ("gptq/planar", FORMAT, &[], json!({"format": "pack-quantized"})),
        ("gptq/mixed", FORMAT, &[], json!({"ignore": ["model.layers.0.self_attn.k_proj", "lm_head"]})),
        ("gptq/autoround", FORMAT, &[], json!({"ignore": ["model.layers.0.self_attn.v_proj", "lm_head"]})),
        ("awq/asym", FORMAT, &[], json!({"format": "pack-quantized"})),
        ("awq/sym", FORMAT, &[], json!({"format": "pack-quantized"})),
        ("awq/row", FORMAT, &["--bits", "4", "--group-size", "32", "--asym"], json!({"format": "pack-quantized"})),
    ]);
}

#[test]
fn codes_of_the_package_are_held_by_other_formats() {
    repack::taken_over(&[
        ("compressed-tensors/asym", "gptq", &[], json!({"sym": false, "bits": 4, "group_size": 32})),
        ("compressed-tensors/asym", "awq", &[], json!({"bits": 4, "group_size": 32})),
        ("compressed-tensors/channel3", "gptq", &[], json!({"bits": 3, "group_size": -1})),
        ("compressed-tensors/mixed", "gptq", &[], json!({"bits": 4, "group_size": 32})),
        ("compressed-tensors/order", "gptq", &[], json!({"desc_act": true, "sym": true})),
        ("compressed-tensors/padded3", "gptq", &[], json!({"bits": 3, "sym": false})),
        ("compressed-tensors/row8", "gptq", &[], json!({"bits": 8, "sym": true})),
        // The packing is today's.
        ("compressed-tensors/padded3", FORMAT, &[], json!({"format": "pack-quantized"})),
        ("compressed-tensors/mixed", FORMAT, &[], json!({"format": "pack-quantized"})),
    ]);
}

#[test]
fn there_and_back_gives_the_same_bytes() {
    for (source, there, back) in [
        ("gptq/b4", FORMAT, "gptq"),
        ("gptq/b4v2", FORMAT, "gptq"),
        ("gptq/b4order", FORMAT, "gptq"),
        ("awq/asym", FORMAT, "awq"),
        ("compressed-tensors/asym", "awq", FORMAT),
        ("compressed-tensors/channel3", "gptq", FORMAT),
        ("compressed-tensors/order", "gptq", FORMAT),
        ("compressed-tensors/row8", "gptq", FORMAT),
    ] {
        let place = tempfile::tempdir().unwrap();
        let (_, first) = repack::converted(&fixture(source), there, &place.path().join("there"), &[]);
        let (_, second) = repack::converted(&first, back, &place.path().join("back"), &[]);
        let (before, after): (BTreeMap<_, _>, BTreeMap<_, _>) =
            (repack::tensors(&fixture(source)), repack::tensors(&second));
        assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>(), "{source}");
        for (name, tensor) in before {
            assert!(tensor == after[&name], "{source}: {name}");
        }
    }
}

/// Modules with settings of their own are told by name, and the whole is read back as it was.
#[test]
fn several_widths_have_groups_of_their_own() {
    let place = tempfile::tempdir().unwrap();
    let (_, output) = repack::converted(&fixture("gptq/mixed"), FORMAT, place.path(), &[]);
    let told = settings(&output);
    assert_eq!(told["config_groups"]["group_0"]["targets"], json!(["Linear"]));
    let second = &told["config_groups"]["group_1"];
    assert_eq!(second["targets"], json!(["model.layers.0.mlp.down_proj"]));
    assert_eq!((&second["weights"]["num_bits"], &second["weights"]["group_size"]), (&json!(8), &json!(16)));
    let source = quantised::open(&output).unwrap();
    assert_eq!((&*source.format, source.level.as_deref()), (FORMAT, None));
}

/// Of what cannot be taken over something is lost, which has to be agreed to, and no calibration is asked for.
#[test]
fn what_is_not_held_is_rounded_anew() {
    let place = tempfile::tempdir().unwrap();
    let command = |output: &str| {
        let command = Qhost::new(["convert", "--format", FORMAT, "--bits", "3", "--group-size", "32", "-o"]);
        command.arg(place.path().join(output)).arg(fixture("gptq/b4"))
    };
    drop(command("refused").fail_with(9));
    let told = command("made").arg("--yes").json();
    assert_eq!(
        (&told["conversion"]["fidelity"], &told["level"]),
        (&json!("requantised"), &json!("3bit-g32")),
        "{told}"
    );
}
