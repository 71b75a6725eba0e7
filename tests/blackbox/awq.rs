//! AWQ folders: what is refused in the plan, what is in them, what they compute, and that neither threads, memory nor
//! kills change a byte.
//!
//! The numbers are read nibble by nibble, as the format's text has it, by a reader that shares no code with the plugin.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use half::f16;
use qhost_tests::{checkpoint::RandomLlama, command::Qhost, fixture};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::gptq::{Tensors, calibration, files, floats, json as read_json, relative_error, tensors, words};

/// Samples of a text that the bundled model knows.
const PROSE: [&str; 4] = ["--samples", "12", "--seq-len", "128"];

/// A command with rows of tokens that every fixture's vocabulary has.
pub(crate) fn run(command: &str, model: &Path, folder: &Path, arguments: &[&str]) -> Qhost {
    let qhost = Qhost::new([command, "--format", "awq", "--calibration"]).arg(calibration(folder));
    qhost.args(arguments.iter().copied()).arg(model)
}

/// The plan, or with an exit code the error.
fn plan(model: &Path, arguments: &[&str], exit: i32) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let qhost = run("plan", model, folder.path(), arguments);
    if exit == 0 { qhost.json() } else { qhost.fail_with(exit) }
}

/// Makes a folder, and gives where it is.
pub(crate) fn made(model: &Path, folder: &Path, arguments: &[&str]) -> PathBuf {
    output(&run("quantize", model, folder, arguments).arg("-o").arg(folder).json())
}

pub(crate) fn output(result: &Value) -> PathBuf {
    assert_eq!(result["validation"]["status"], "passed", "{result}");
    PathBuf::from(result["output_path"].as_str().unwrap())
}

/// The bundled model, calibrated with prose.
fn of_prose(format: &str, folder: &Path, arguments: &[&str]) -> PathBuf {
    let qhost = Qhost::new(["quantize", "--format", format, "--calibration"]).arg(fixture("text").join("prose.txt"));
    let qhost = qhost.args(PROSE).args(arguments.iter().copied()).arg(fixture("tinylm"));
    output(&qhost.arg("-o").arg(folder).json())
}

/// How far a folder's answers are from a model's, and its loss on the text.
pub(crate) fn evaluated(folder: &Path, model: &Path, text: &Path) -> (f64, f64) {
    let eval = Qhost::new(["eval", "--ctx", "256", "--dataset"]).arg(text).arg("--against").arg(model);
    let told = eval.arg(folder).json();
    (told["kl_mean"].as_f64().unwrap(), told["mean_nll"].as_f64().unwrap())
}

fn divergence(folder: &Path) -> f64 {
    evaluated(folder, &fixture("tinylm"), &fixture("text").join("prose.txt")).0
}

/// What is in the nibbles of a word, the lowest first, of each eight neighbouring outputs.
const NIBBLES: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

fn nibble(words: &[u32], output: usize) -> i16 {
    let place = NIBBLES.iter().position(|of_place| *of_place == output % 8).unwrap();
    i16::try_from(words[output / 8] >> (4 * place) & 15).unwrap()
}

/// The weights of a module, output by output.
pub(crate) fn decode(tensors: &Tensors, module: &str) -> Vec<f32> {
    let (shape, qweight) = words(tensors, &format!("{module}.qweight"));
    let (zero_shape, qzeros) = words(tensors, &format!("{module}.qzeros"));
    let (dtype, scale_shape, scales) = &tensors[&format!("{module}.scales")];
    let (inputs, across, groups) = (shape[0], shape[1], zero_shape[0]);
    assert_eq!((*dtype, &**scale_shape, zero_shape[1]), (Dtype::F16, &[groups, 8 * across][..], across), "{module}");
    let scales: Vec<_> = scales.as_chunks().0.iter().map(|raw| f16::from_le_bytes(*raw).to_f32()).collect();
    let outputs = 8 * across;
    let mut weights = Vec::new();
    for output in 0..outputs {
        for input in 0..inputs {
            let group = input / (inputs / groups);
            let (code, zero) = (nibble(&qweight[input * across..], output), nibble(&qzeros[group * across..], output));
            weights.push(scales[group * outputs + output] * f32::from(code - zero));
        }
    }
    weights
}

#[test]
fn what_cannot_be_made_is_refused_in_the_plan() {
    let left_out = |names: &str| format!("modules-to-not-convert={names}");
    let (nothing, nowhere) = (left_out("layers."), left_out("q_proj,nowhere"));
    let cases: &[(&str, &[&str], i32, &str, &str)] = &[
        ("tinylm", &["--bits", "3"], 4, "3", "gptq"),
        ("tinylm", &["--bits", "8"], 4, "8", "gptq"),
        ("tinylm", &["--group-size", "0"], 2, "0", "-1"),
        ("tinylm", &["--group-size", "100"], 4, "model.layers.0.self_attn.q_proj", "128"),
        ("tinylm", &["--level", "4bit-g128", "--group-size", "64"], 2, "contradicts", ""),
        ("tinylm", &["--level", "4bit-g128", "--bits", "3"], 2, "contradicts", ""),
        ("tinylm", &["--level", "Q4_K_M"], 4, "Q4_K_M", "4bit-g128"),
        ("tinylm", &["--desc-act"], 2, "--desc-act", ""),
        ("tinylm", &["--max-size", "5MB"], 4, "--max-size", "gptq"),
        ("tinylm", &["--imatrix", "auto"], 2, "--imatrix", "--calibration"),
        ("tinylm", &["--plugin-option", "mse=2.4"], 2, "mse", "damp"),
        ("tinylm", &["--plugin-option", "lm-head=true"], 2, "lm-head", ""),
        ("tinylm", &["--plugin-option", "damp=1"], 2, "1", "0.05"),
        ("tinylm", &["--plugin-option", "shard-size=big"], 2, "big", "5GB"),
        ("tinylm", &["--plugin-option", "scale-only=perhaps"], 2, "perhaps", "true"),
        ("tinylm", &["--plugin-option", &nothing], 4, "nothing", "modules-to-not-convert"),
        ("tinylm", &["--plugin-option", &nowhere], 2, "nowhere", "model.layers."),
        ("stories260K", &[], 4, "inputs", "modules-to-not-convert"),
        ("arch/deepseek_v2", &["--group-size", "32"], 4, "kv_b_proj", "--group-size 8"),
    ];
    for (model, arguments, exit, word, hint) in cases {
        let error = plan(&fixture(model), arguments, *exit);
        let told = format!("{} {}", error["message"], error["subject"]);
        assert!(told.contains(word), "{model} {arguments:?}: {error}");
        assert!(error["hint"].as_str().unwrap_or_default().contains(hint), "{model} {arguments:?}: {error}");
    }
}

/// Outputs are packed by eights.
#[test]
fn a_linear_whose_outputs_are_not_divided_by_eight_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    RandomLlama { ffn: 516, ..RandomLlama::default() }.write(&model);
    let error = plan(&model, &["--group-size", "4"], 4);
    let told = format!("{} {}", error["message"], error["subject"]);
    assert!(told.contains("gate_proj") && told.contains('8') && told.contains("516"), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("modules-to-not-convert"), "{error}");
    // As the hint says.
    let left_out = ["--group-size", "4", "--plugin-option", "modules-to-not-convert=gate_proj,up_proj"];
    assert_eq!(plan(&model, &left_out, 0)["level"], "4bit-g4");
}

#[test]
fn what_loaders_do_not_take_is_told_in_the_plan() {
    for (model, arguments, word) in [
        ("tinylm", &["--group-size", "16"][..], "32, 64 or 128"),
        ("arch/mixtral", &["--group-size", "32"], "experts"),
        ("arch/gpt_oss", &["--group-size", "32"], "one by one"),
    ] {
        let warnings = plan(&fixture(model), arguments, 0)["warnings"].to_string();
        assert!(warnings.contains(word), "{model} {arguments:?}: {warnings}");
    }
    let warnings = plan(&fixture("tinylm"), &[], 0)["warnings"].to_string();
    assert!(!warnings.contains("vLLM") && !warnings.contains("GPTQModel"), "{warnings}");
}

/// Names, dtypes and shapes of everything in a folder, weights that are the checkpoint's times scales, files beside.
#[test]
fn a_folder_is_complete_and_its_weights_are_close_to_the_scaled_model_s() {
    let model = fixture("tinylm");
    let original = tensors(&model);
    for (group, most, arguments) in [
        (128, 0.2, &[][..]),
        (64, 0.2, &["--group-size", "64", "--sym"]),
        (32, 0.15, &["--group-size", "32", "--asym"]),
        (0, 0.25, &["--group-size", "-1"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let output = made(&model, folder.path(), arguments);
        let ours = tensors(&output);
        let mut modules = 0;
        for (name, tensor) in &original {
            let module = name.strip_suffix(".weight").unwrap();
            if !name.contains("_proj.") {
                let kept = &ours[name];
                assert_eq!((kept.0, &kept.1), (tensor.0, &tensor.1), "{name}");
                assert!(kept == tensor || name.contains("layernorm"), "{name} is what it was");
                continue;
            }
            modules += 1;
            assert!(!ours.contains_key(name));
            let [outputs, inputs] = <[usize; 2]>::try_from(tensor.1.clone()).unwrap();
            let groups = inputs.checked_div(group).unwrap_or(1);
            assert_eq!(ours[&format!("{module}.qweight")].1, [inputs, outputs / 8], "{module}");
            assert_eq!(ours[&format!("{module}.qzeros")].1, [groups, outputs / 8], "{module}");
            if arguments.contains(&"--sym") {
                let (_, zeros) = words(&ours, &format!("{module}.qzeros"));
                assert!(zeros.iter().all(|zeros| *zeros == 0x8888_8888), "{module}");
            }
            // The norm before these has taken the inverse of their inputs' scales, and nothing else has changed them.
            let norm = match module.rsplit_once('.').unwrap().1 {
                "q_proj" | "k_proj" => "input_layernorm.weight",
                "gate_proj" => "post_attention_layernorm.weight",
                _ => continue,
            };
            let norm = format!("{}.{norm}", module.rsplitn(3, '.').last().unwrap());
            let scales: Vec<_> = floats(&original[&norm])
                .iter()
                .zip(floats(&ours[&norm]))
                .map(|(before, after)| before / after)
                .collect();
            let expected: Vec<_> = floats(tensor).iter().zip(scales.iter().cycle()).map(|(w, s)| w * s).collect();
            let error = relative_error(&decode(&ours, module), &expected);
            assert!(error > 0.0 && error < most, "{arguments:?}, {module}: {error}");
        }
        assert_eq!((modules, ours.len()), (28, 28 * 3 + 11));
        let config = read_json(&output.join("config.json"));
        let told = &config["quantization_config"];
        assert_eq!(
            (&told["quant_method"], &told["bits"], &told["version"]),
            (&json!("awq"), &json!(4), &json!("gemm"))
        );
        let size = if group == 0 { json!(-1) } else { json!(group) };
        assert_eq!((&told["group_size"], &told["zero_point"]), (&size, &json!(true)));
        assert_eq!(told["modules_to_not_convert"], json!(["lm_head"]));
        assert!(told["meta"]["quantizer"][0].as_str().unwrap().starts_with("qhost:"));
        let own = read_json(&output.join("quant_config.json"));
        for (key, name) in
            [("w_bit", "bits"), ("q_group_size", "group_size"), ("zero_point", "zero_point"), ("version", "version")]
        {
            assert_eq!(own[key].to_string().to_lowercase(), told[name].to_string(), "{own}");
        }
        assert_eq!(own["modules_to_not_convert"], told["modules_to_not_convert"]);
        for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
            assert_eq!(fs::read(output.join(file)).unwrap(), fs::read(model.join(file)).unwrap(), "{file}");
        }
        // What is not changed is the same text.
        let lines = |path: &Path| -> Vec<String> {
            let text = fs::read_to_string(path).unwrap();
            text.lines().map(|line| line.trim_end_matches(',').to_owned()).filter(|line| line != "}").collect()
        };
        let (before, after) = (lines(&model.join("config.json")), lines(&output.join("config.json")));
        assert_eq!(before, after[..before.len()]);
    }
}

#[test]
fn files_are_split_where_they_would_be_too_large_and_the_index_tells_where_tensors_are() {
    let model = fixture("tinylm");
    let folder = tempfile::tempdir().unwrap();
    let whole = tensors(&made(&model, &folder.path().join("whole"), &[]));
    let output = made(&model, &folder.path().join("split"), &["--plugin-option", "shard-size=1MB"]);
    assert!(tensors(&output) == whole);
    let index = read_json(&output.join("model.safetensors.index.json"));
    let places = index["weight_map"].as_object().unwrap();
    assert_eq!(places.keys().collect::<Vec<_>>(), whole.keys().collect::<Vec<_>>());
    assert_eq!(index["metadata"]["total_size"], whole.values().map(|(_, _, bytes)| bytes.len()).sum::<usize>());
    let shards: BTreeSet<_> = places.values().map(|place| place.as_str().unwrap()).collect();
    assert!(shards.len() > 3, "{shards:?}");
    for (name, place) in places {
        let bytes = fs::read(output.join(place.as_str().unwrap())).unwrap();
        assert!(SafeTensors::deserialize(&bytes).unwrap().tensor(name).is_ok(), "{name}");
    }
}

/// Modules that are left out are what they were, bit for bit, so their inputs are not scaled; they are named for loaders.
#[test]
fn what_is_left_out_stays_and_is_named() {
    let model = fixture("tinylm");
    let folder = tempfile::tempdir().unwrap();
    let left_out = "modules-to-not-convert=o_proj,layers.1.mlp";
    let output = made(&model, folder.path(), &["--plugin-option", left_out]);
    let (ours, original) = (tensors(&output), tensors(&model));
    let config = read_json(&output.join("config.json"));
    let named: Vec<String> =
        serde_json::from_value(config["quantization_config"]["modules_to_not_convert"].clone()).unwrap();
    let is_named = |module: &str| named.iter().any(|part| module.contains(&**part));
    let mut left = 0;
    for (name, tensor) in &original {
        let module = name.strip_suffix(".weight").unwrap();
        if module.contains("o_proj") || module.contains("layers.1.mlp") {
            assert!(ours.get(name) == Some(tensor) && is_named(module), "{name}, {named:?}");
            left += 1;
        } else if module.contains("_proj") {
            assert!(ours.contains_key(&format!("{module}.qweight")) && !is_named(module), "{name}, {named:?}");
        }
    }
    assert!(left == 4 + 3 && is_named("lm_head"), "{named:?}");
    let norm = "model.layers.1.post_attention_layernorm.weight";
    assert!(ours[norm] == original[norm], "its readers are left out");
    // GPTQModel reads AutoAWQ's file where there is one, and of it the rules alone.
    let own = read_json(&output.join("quant_config.json"));
    assert_eq!(own["modules_to_not_convert"], json!(named));
    assert_eq!(own["dynamic"], json!({"-:.*o_proj": {}, "-:.*layers\\.1\\.mlp": {}}));
    assert_eq!(own["dynamic"], config["quantization_config"]["dynamic"]);
}

/// Symmetric or not, in any groups: as the checkpoint, but for what 4 bits lose, which is about what GPTQ files lose, and
/// less where scales are shared by fewer.
#[test]
fn folders_compute_what_the_model_computes() {
    let folder = tempfile::tempdir().unwrap();
    let of = |name: &str, format: &str, arguments: &[&str]| {
        divergence(&of_prose(format, &folder.path().join(name), arguments))
    };
    let gptq = of("gptq", "gptq", &["--asym"]);
    let (large, small) = (of("128", "awq", &[]), of("32", "awq", &["--group-size", "32"]));
    let (row, symmetric) = (of("row", "awq", &["--group-size", "-1"]), of("sym", "awq", &["--sym"]));
    assert!(0.0 < small && small < large && large < row && large < 0.01, "{small} {large} {row}");
    assert!(symmetric < 0.01, "{symmetric}");
    assert!(large < 1.15 * gptq, "{large}, and by GPTQ {gptq}");
}

/// What `verify` says of a folder of ours, against its original too.
#[test]
fn a_folder_is_verified_against_its_original() {
    let folder = tempfile::tempdir().unwrap();
    let output = of_prose("awq", folder.path(), &[]);
    let told = Qhost::new(["verify"]).arg(&output).arg("--against").arg(fixture("tinylm")).json();
    assert_eq!(told["status"], "ok", "{told}");
    let inspected = Qhost::new(["inspect"]).arg(&output).json();
    assert_eq!((&inspected["format"], &inspected["level"]), (&json!("awq"), &json!("4bit-g128")));
}

/// Without any data it is the text that is built in, and that is said; no hub is asked in a test.
#[test]
fn without_data_the_built_in_text_is_taken_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let qhost = Qhost::new(["quantize", "--format", "awq", "--samples", "4", "--seq-len", "64", "-o"]);
    let result = qhost.arg(folder.path()).arg(fixture("tinylm")).json();
    assert!(result["warnings"].to_string().contains("built-in text"), "{result}");
    let report = read_json(&output(&result).join("qhost-report.json"));
    assert!(report["calibration"].to_string().contains("built-in text"), "{}", report["calibration"]);
}

#[test]
fn neither_threads_nor_memory_nor_kills_change_a_byte() {
    let model = fixture("tinylm");
    let folder = tempfile::tempdir().unwrap();
    let prose = fixture("text").join("prose.txt");
    let start = |output: &Path, threads: &str| {
        let qhost = Qhost::new(["quantize", "--format", "awq", "--threads", threads, "-o"]).arg(output);
        qhost.args(PROSE).arg("--calibration").arg(&prose).arg(&model)
    };
    let place = |name: &str| folder.path().join(name);
    let result = start(&place("two"), "2").json();
    let expected = files(&output(&result));
    assert!(files(&output(&start(&place("one"), "1").json())) == expected);
    // As little as the plan allows, and what one process may hold more than another before the work begins.
    let least = (1..64).map(|step| step * 4).find(|mebibytes| {
        let planned = start(&place("plan"), "1").arg("--dry-run").arg(format!("--max-memory={mebibytes}MiB")).run();
        planned.code == Some(0)
    });
    let least = format!("--max-memory={}MiB", least.unwrap() + 2);
    let tight = start(&place("tight"), "1").arg(&least).json();
    assert!(files(&output(&tight)) == expected, "{least}");
    let killed = place("killed");
    for _ in 0..3 {
        kill_at_work(start(&killed, "1"), &killed);
    }
    let result = start(&killed, "2").json();
    assert!(result["resumed"]["units_done"].as_u64().unwrap() > 1, "{result}");
    assert!(files(&output(&result)) == expected);
}

/// Ends a run the hard way after a unit more is in its journal.
fn kill_at_work(qhost: Qhost, folder: &Path) {
    let journal = folder.join("tinylm-AWQ-4bit-g128.partial").join("journal");
    let units =
        |text: &str| text.lines().filter(|line| line.contains("\"unit\":") && !line.contains("\"unit\":null")).count();
    let before = units(&fs::read_to_string(&journal).unwrap_or_default());
    qhost.kill_when(&journal, |text| units(text) > before);
}
