//! GPTQ folders: what is refused in the plan, what is in them, and that neither threads nor kills change a byte.
//!
//! The numbers are read bit by bit, as the format's text has it, by a reader that shares no code with the plugin.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use half::{bf16, f16};
pub(crate) use qhost_tests::checkpoint::random_rows as calibration;
use qhost_tests::{command::Qhost, fixture};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

fn run(command: &str, model: &Path, folder: &Path, arguments: &[&str]) -> Qhost {
    let qhost = Qhost::new([command, "--format", "gptq", "--calibration"]);
    qhost.arg(calibration(folder)).args(arguments.iter().copied()).arg(model)
}

/// The plan, or with an exit code the error.
fn plan(model: &str, arguments: &[&str], exit: i32) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let qhost = run("plan", &fixture(model), folder.path(), arguments);
    if exit == 0 { qhost.json() } else { qhost.fail_with(exit) }
}

/// Makes a folder, and gives where it is.
fn made(model: &Path, folder: &Path, arguments: &[&str]) -> PathBuf {
    let result = run("quantize", model, folder, arguments).arg("-o").arg(folder).json();
    assert_eq!(result["validation"]["status"], "passed");
    PathBuf::from(result["output_path"].as_str().unwrap())
}

/// The tensors of a folder: dtype, shape, bytes.
pub(crate) type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

pub(crate) fn tensors(folder: &Path) -> Tensors {
    let mut all = Tensors::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "safetensors") || path.ends_with("golden.safetensors") {
            continue;
        }
        let bytes = fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        for (name, tensor) in file.tensors() {
            assert!(all.insert(name, (tensor.dtype(), tensor.shape().to_vec(), tensor.data().to_vec())).is_none());
        }
    }
    all
}

/// Every file of a folder but those that tell of the run.
pub(crate) fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let named = entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()));
    named.filter(|(name, _)| name != "qhost-report.json" && name != "README.md").collect()
}

pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The `index`-th code of a stream of bits in words.
fn code(words: &[u32], index: usize, bits: usize) -> i32 {
    (0..bits).fold(0, |code, place| {
        let bit = index * bits + place;
        code | i32::try_from(words[bit / 32] >> (bit % 32) & 1).unwrap() << place
    })
}

pub(crate) fn words(tensors: &Tensors, name: &str) -> (Vec<usize>, Vec<u32>) {
    let (dtype, shape, bytes) = &tensors[name];
    assert_eq!(*dtype, Dtype::I32, "{name}");
    (shape.clone(), bytes.as_chunks().0.iter().map(|raw| u32::from_le_bytes(*raw)).collect())
}

/// The weights of a module, output by output, with what is added to its zero-points.
fn decode(tensors: &Tensors, module: &str, bits: usize, added: i32) -> Vec<f32> {
    let (_, qweight) = words(tensors, &format!("{module}.qweight"));
    let (_, qzeros) = words(tensors, &format!("{module}.qzeros"));
    let (_, g_idx) = words(tensors, &format!("{module}.g_idx"));
    let (dtype, shape, scales) = &tensors[&format!("{module}.scales")];
    assert_eq!(*dtype, Dtype::F16);
    let (outputs, inputs) = (shape[1], g_idx.len());
    let scales: Vec<_> = scales.as_chunks().0.iter().map(|raw| f16::from_le_bytes(*raw).to_f32()).collect();
    assert_eq!(qweight.len(), inputs * bits / 32 * outputs);
    let mut weights = Vec::new();
    for output in 0..outputs {
        let column: Vec<_> = qweight.iter().skip(output).step_by(outputs).copied().collect();
        for (input, group) in g_idx.iter().enumerate() {
            let group = *group as usize;
            let row = &qzeros[group * outputs * bits / 32..];
            let (code, zero) = (code(&column, input, bits), code(row, output, bits) + added);
            weights.push(scales[group * outputs + output] * f32::from(i16::try_from(code - zero).unwrap()));
        }
    }
    weights
}

pub(crate) fn floats((dtype, _, bytes): &(Dtype, Vec<usize>, Vec<u8>)) -> Vec<f32> {
    assert_eq!(*dtype, Dtype::BF16);
    bytes.as_chunks().0.iter().map(|raw| bf16::from_le_bytes(*raw).to_f32()).collect()
}

/// The root of the summed squared differences over that of the summed squares.
pub(crate) fn relative_error(ours: &[f32], original: &[f32]) -> f64 {
    assert_eq!(ours.len(), original.len());
    let sum = |terms: &mut dyn Iterator<Item = f32>| terms.map(|term| f64::from(term).powi(2)).sum::<f64>();
    let errors = sum(&mut ours.iter().zip(original).map(|(a, b)| a - b));
    (errors / sum(&mut original.iter().copied())).sqrt()
}

#[test]
fn what_cannot_be_made_is_refused_in_the_plan() {
    let dynamic = |rules: &str| format!("dynamic={rules}");
    let five_bits = dynamic("{\"+:.*o_proj\": {\"bits\": 5}}");
    let nothing = dynamic("{\"-:.*\": {}}");
    let no_pattern = dynamic("{\"+:(\": {}}");
    let cases: &[(&str, &[&str], i32, &str, &str)] = &[
        ("tinylm", &["--bits", "5"], 4, "5", ""),
        ("tinylm", &["--group-size", "0"], 2, "0", "-1"),
        ("tinylm", &["--group-size", "100"], 4, "model.layers.0.self_attn.q_proj", "128"),
        ("tinylm", &["--level", "4bit-g128", "--bits", "3"], 2, "contradicts", ""),
        ("tinylm", &["--level", "Q4_K_M"], 4, "Q4_K_M", "4bit-g128"),
        ("tinylm", &["--plugin-option", "mse=2.4"], 2, "mse", "damp"),
        ("tinylm", &["--plugin-option", "damp=1"], 2, "1", "0.05"),
        ("tinylm", &["--plugin-option", "shard-size=big"], 2, "big", "5GB"),
        ("tinylm", &["--plugin-option", &five_bits], 2, "5 bits", ""),
        ("tinylm", &["--plugin-option", &no_pattern], 2, "pattern", ""),
        ("tinylm", &["--plugin-option", &nothing], 4, "nothing", "dynamic"),
        ("stories260K", &[], 4, "inputs", "dynamic"),
        ("arch/llama-rope3-tied", &["--group-size", "32", "--plugin-option", "lm-head=true"], 4, "embedding", ""),
        ("arch/deepseek_v2", &["--group-size", "32"], 4, "kv_b_proj", "--group-size 8"),
    ];
    for (model, arguments, exit, word, hint) in cases {
        let error = plan(model, arguments, *exit);
        let told = format!("{} {}", error["message"], error["subject"]);
        assert!(told.contains(word), "{arguments:?}: {error}");
        assert!(error["hint"].as_str().unwrap_or_default().contains(hint), "{arguments:?}: {error}");
    }
}

#[test]
fn what_loaders_do_not_take_is_told_in_the_plan() {
    let cases: &[(&[&str], &str)] = &[
        (&["--bits", "3"], "vLLM"),
        (&["--asym"], "symmetric"),
        (&["--desc-act"], "desc_act"),
        (&["--plugin-option", "checkpoint-format=gptq_v2"], "gptq_v2"),
        (&["--asym", "--plugin-option", "checkpoint-format=gptq"], "take gptq_v2"),
        (&["--group-size", "16"], "32, 64 or 128"),
        (&["--plugin-option", "dynamic={\"+:.*k_proj\": {\"bits\": 8}}"], "q_proj, k_proj, v_proj"),
    ];
    for (arguments, word) in cases {
        let warnings = plan("tinylm", arguments, 0)["warnings"].to_string();
        assert!(warnings.contains(word), "{arguments:?}: {warnings}");
    }
    let warnings = plan("tinylm", &[], 0)["warnings"].to_string();
    assert!(!warnings.contains("vLLM"), "{warnings}");
    for (model, word) in [("mixtral", "experts"), ("phi3", "gate and up"), ("gpt_oss", "one by one")] {
        let warnings = plan(&format!("arch/{model}"), &["--group-size", "32"], 0)["warnings"].to_string();
        assert!(warnings.contains(word) && warnings.contains("GPTQModel"), "{model}: {warnings}");
    }
}

/// Everything in a folder of each width: names, dtypes, shapes, weights close to the checkpoint's, files beside.
#[test]
fn a_folder_is_complete_and_its_weights_are_close_to_the_model_s() {
    let model = fixture("tinylm");
    let original = tensors(&model);
    for (bits, most, arguments) in [
        (2, 0.8, &["--bits", "2", "--group-size", "32"][..]),
        (3, 0.4, &["--bits", "3", "--asym", "--plugin-option", "checkpoint-format=gptq"]),
        (4, 0.2, &["--bits", "4", "--asym"]),
        (8, 0.02, &["--bits", "8", "--group-size", "-1"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let output = made(&model, folder.path(), arguments);
        let verified = Qhost::new(["verify"]).arg(&output).arg("--against").arg(&model).json();
        assert!(verified.to_string().contains("\"report\""), "{arguments:?}: {verified}");
        let ours = tensors(&output);
        // Without another wish, asymmetric zero-points are stored as they are.
        let v2 = bits == 4;
        let mut modules = 0;
        for (name, tensor) in &original {
            let module = name.strip_suffix(".weight").unwrap();
            if !name.contains("_proj.") {
                assert!(&ours[name] == tensor, "{name} is what it was");
                continue;
            }
            modules += 1;
            assert!(!ours.contains_key(name));
            let weights = decode(&ours, module, bits, i32::from(!v2));
            let error = relative_error(&weights, &floats(tensor));
            assert!(error > 0.0 && error < most, "{bits} bits, {module}: {error}");
        }
        assert_eq!((modules, ours.len()), (28, 28 * 4 + 11));
        let config = json(&output.join("config.json"));
        let told = &config["quantization_config"];
        assert_eq!((&told["quant_method"], &told["bits"]), (&"gptq".into(), &bits.into()));
        assert_eq!(told["checkpoint_format"], if v2 { "gptq_v2" } else { "gptq" });
        assert_eq!(*told, json(&output.join("quantize_config.json")));
        assert!(told["meta"]["quantizer"][0].as_str().unwrap().starts_with("qhost:"));
        for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
            assert_eq!(fs::read(output.join(file)).unwrap(), fs::read(model.join(file)).unwrap(), "{file}");
        }
        // What is not changed is the same text.
        let (before, after) = (model.join("config.json"), output.join("config.json"));
        let lines = |path: &Path| -> Vec<String> {
            let text = fs::read_to_string(path).unwrap();
            text.lines().map(|line| line.trim_end_matches(',').to_owned()).filter(|line| line != "}").collect()
        };
        let (before, after) = (lines(&before), lines(&after));
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
    let index = json(&output.join("model.safetensors.index.json"));
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

#[test]
fn rules_hold_for_the_modules_that_they_match_and_are_written_as_they_were() {
    let model = fixture("tinylm");
    let folder = tempfile::tempdir().unwrap();
    let rules = "{\"-:.*\\\\.0\\\\..*down_proj\": {}, \"+:.*v_proj$\": {\"bits\": 8, \"group_size\": 32}, \"lm_head\": {\"bits\": 8}}";
    let arguments = ["--plugin-option", &format!("dynamic={rules}"), "--plugin-option", "lm-head=true"];
    let output = made(&model, folder.path(), &arguments);
    let ours = tensors(&output);
    assert!(ours.contains_key("model.layers.0.mlp.down_proj.weight"));
    assert_eq!(ours["model.layers.1.mlp.down_proj.qweight"].1, [768 * 4 / 32, 256]);
    assert_eq!(ours["model.layers.1.self_attn.v_proj.qweight"].1, [256 * 8 / 32, 128]);
    assert_eq!(ours["model.layers.1.self_attn.v_proj.scales"].1, [256 / 32, 128]);
    assert_eq!(ours["lm_head.qweight"].1, [256 * 8 / 32, 4096]);
    let told = &json(&output.join("config.json"))["quantization_config"];
    assert_eq!(told["lm_head"], true);
    // In their order: the first that matches counts.
    let text = fs::read_to_string(output.join("quantize_config.json")).unwrap();
    let place = |word: &str| text.find(word).unwrap_or_else(|| unreachable!("{word} is not in {text}"));
    assert!(place("down_proj\"") < place("v_proj$") && place("v_proj$") < place("\"lm_head\": {"));
    let listed = told["modules_in_block_to_quantize"].to_string();
    assert!(listed.contains("model.layers.1.mlp.down_proj") && !listed.contains("model.layers.0.mlp.down_proj"));
}

/// Every family: all linears of layers are quantised under their names, everything else is what it was.
#[test]
fn every_family_is_made_and_what_is_no_linear_of_a_layer_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut families = 0;
    for entry in fs::read_dir(fixture("arch")).unwrap() {
        let model = entry.unwrap().path();
        let name = model.file_name().unwrap().to_str().unwrap().to_owned();
        // The latent keys of these fixtures are 24 wide.
        let group = if name.starts_with("deepseek") { "8" } else { "32" };
        let output = made(&model, &folder.path().join(&name), &["--group-size", group]);
        let (ours, original) = (tensors(&output), tensors(&model));
        let mut quantised = 0;
        for (tensor, stored) in &original {
            if name == "gpt_oss" && tensor.contains(".experts.") {
                continue;
            }
            let router = ["mlp.gate.", "block_sparse_moe.gate.", "router.", "shared_expert_gate."];
            let in_layer = tensor.split('.').any(|word| word.parse::<u32>().is_ok());
            let linear = in_layer && stored.1.len() == 2 && !router.iter().any(|part| tensor.contains(part));
            if linear {
                let module = tensor.strip_suffix(".weight").unwrap();
                let weights = decode(&ours, module, 4, 1);
                let expected = floats(stored);
                let transposed = name == "gpt2";
                let (rows, columns) = (stored.1[0], stored.1[1]);
                let turned = |index: usize| expected[index % rows * columns + index / rows];
                let expected = if transposed { (0..expected.len()).map(turned).collect() } else { expected.clone() };
                let error = relative_error(&weights, &expected);
                assert!(error > 0.0 && error < 0.25, "{name}: {module}: {error}");
                quantised += 1;
            } else {
                assert!(ours.get(tensor) == Some(stored), "{name}: {tensor}");
            }
        }
        assert!(quantised > 0, "{name}");
        families += 1;
    }
    assert!(families >= 28, "{families}");
}

/// Experts in one tensor become modules, gate and up by turns; their biases too.
#[test]
fn stacked_experts_are_split_into_modules() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("arch").join("gpt_oss");
    let output = made(&model, folder.path(), &["--group-size", "32"]);
    let (ours, original) = (tensors(&output), tensors(&model));
    let experts = "model.layers.1.mlp.experts";
    let gate_up = floats(&original[&format!("{experts}.gate_up_proj")]);
    let bias = floats(&original[&format!("{experts}.gate_up_proj_bias")]);
    let down = floats(&original[&format!("{experts}.down_proj")]);
    let (hidden, ffn) = (64, 160);
    for expert in 0..4 {
        for (turn, name) in ["gate_proj", "up_proj"].into_iter().enumerate() {
            let weight = |output: usize, input: usize| gate_up[(expert * hidden + input) * 2 * ffn + 2 * output + turn];
            let expected: Vec<_> =
                (0..ffn).flat_map(|o| (0..hidden).map(move |i| (o, i))).map(|(o, i)| weight(o, i)).collect();
            let module = format!("{experts}.{expert}.{name}");
            assert!(relative_error(&decode(&ours, &module, 4, 1), &expected) < 0.25, "{module}");
            let expected: Vec<_> = (0..ffn).map(|output| bias[expert * 2 * ffn + 2 * output + turn]).collect();
            assert_eq!(floats(&ours[&format!("{module}.bias")]), expected);
        }
        let weight = |output: usize, input: usize| down[(expert * ffn + input) * hidden + output];
        let expected: Vec<_> =
            (0..hidden).flat_map(|o| (0..ffn).map(move |i| (o, i))).map(|(o, i)| weight(o, i)).collect();
        assert!(relative_error(&decode(&ours, &format!("{experts}.{expert}.down_proj"), 4, 1), &expected) < 0.25);
    }
    assert!(!ours.keys().any(|name| name.contains("gate_up_proj")));
    let told = &json(&output.join("config.json"))["quantization_config"];
    assert!(told["dynamic"].get("-:.*\\.mlp\\.router$").is_some(), "{told}");
}

#[test]
fn neither_threads_nor_a_kill_change_a_byte() {
    let model = fixture("tinylm");
    let folder = tempfile::tempdir().unwrap();
    let expected = files(&made(&model, &folder.path().join("two"), &["--threads", "2"]));
    assert!(files(&made(&model, &folder.path().join("one"), &["--threads", "1"])) == expected);
    let output = folder.path().join("killed");
    let arguments = ["--threads", "1"];
    fs::create_dir_all(&output).unwrap();
    let start = || run("quantize", &model, &output, &arguments).arg("-o").arg(&output);
    let journal = output.join("tinylm-GPTQ-4bit-g128.partial").join("journal");
    // The start, the headers, the embedding and a layer.
    start().kill_after(&journal, 4);
    let result = start().json();
    assert!(result["resumed"]["units_done"].as_u64().unwrap() > 0, "{result}");
    assert!(files(Path::new(result["output_path"].as_str().unwrap())) == expected);
}
