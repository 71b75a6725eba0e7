//! A model goes in, a file comes out: what is told, what is written, and that it is always the same.

use std::{
    fs,
    path::{Path, PathBuf},
};

use qhost_tests::{
    checkpoint::{RandomLlama, copy_of, write_json},
    command::Qhost,
    fixture,
};
use safetensors::Dtype;
use serde_json::{Value, json};

const LEVELS: [&str; 19] = [
    "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "IQ4_XS", "Q4_0", "IQ4_NL", "Q4_1", "Q4_K_S", "Q4_K_M", "Q5_0", "Q5_1",
    "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0", "F16", "BF16", "F32",
];

fn quantize(model: &Path, level: &str, output: &Path) -> Qhost {
    Qhost::new(["quantize", "--format", "gguf", "--level", level, "-o"]).arg(output).arg(model)
}

fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The output of a run, after checking that the result tells it.
fn output_of(result: &Value) -> PathBuf {
    let path = PathBuf::from(result["output_path"].as_str().unwrap());
    assert_eq!(fs::metadata(&path).unwrap().len(), result["file_size"].as_u64().unwrap());
    path
}

#[test]
fn the_bundled_model_becomes_a_checked_file_with_a_report_and_a_card() {
    let folder = tempfile::tempdir().unwrap();
    let result = quantize(&fixture("tinylm"), "Q4_K_M", folder.path()).json();
    assert_eq!(entries(folder.path()), ["qhost-report.json", "tinylm-Q4_K_M.gguf", "tinylm-Q4_K_M.md"]);
    for (key, value) in [
        ("schema", "qhost.result/1".into()),
        ("status", "ok".into()),
        ("format", "gguf".into()),
        ("level", "Q4_K_M".into()),
        ("architecture", "llama".into()),
        ("parameter_count", 5_245_184.into()),
        ("resumed", Value::Null),
    ] {
        assert_eq!(result[key], value, "{key}");
    }
    assert_eq!(result["source"].as_str().unwrap(), fixture("tinylm").canonicalize().unwrap().to_str().unwrap());
    let size = output_of(&result).metadata().unwrap().len();
    #[expect(clippy::cast_precision_loss, reason = "a small file")]
    let bits = size as f64 * 8.0 / 5_245_184.0;
    assert!((result["bits_per_weight"].as_f64().unwrap() - bits).abs() < 1e-9);
    assert!(result["compression_ratio"].as_f64().unwrap() > 2.0);
    assert!(result["peak_memory_bytes"].as_u64().unwrap() > 1 << 20);
    assert!(result["duration_seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(result["validation"]["status"], "passed");
    let checks: Vec<_> =
        result["validation"]["checks"].as_array().unwrap().iter().map(|check| &check["name"]).collect();
    assert_eq!(checks, ["bytes", "structure", "numbers"]);

    let report: Value = serde_json::from_slice(&fs::read(folder.path().join("qhost-report.json")).unwrap()).unwrap();
    assert_eq!(report["schema"], "qhost.report/1");
    assert_eq!(report["plugin"]["id"], "gguf");
    assert_eq!(report["options"]["level"], "Q4_K_M");
    let tensors = report["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), 39);
    for tensor in tensors {
        let error = tensor["metrics"]["relative_rms_error"].as_f64().unwrap();
        let expected = match tensor["encoding"].as_str().unwrap() {
            "F32" => 0.0..=0.0,
            "Q4_K" => 0.02..=0.12,
            "Q6_K" => 0.005..=0.03,
            other => panic!("{other}"),
        };
        assert!(expected.contains(&error), "{tensor}");
    }
}

#[test]
fn every_level_is_made_in_the_size_that_the_plan_tells() {
    let folder = tempfile::tempdir().unwrap();
    for level in LEVELS {
        let plan = Qhost::new(["plan", "--format", "gguf", "--level", level]).arg(fixture("stories260K")).json();
        assert_eq!(plan["dry_run"], true);
        let result = quantize(&fixture("stories260K"), &level.to_lowercase(), folder.path()).json();
        assert_eq!(result["level"], level);
        for key in ["file_size", "output_path", "bits_per_weight", "parameter_count"] {
            if key == "output_path" {
                assert_eq!(
                    Path::new(result[key].as_str().unwrap()).file_name().unwrap(),
                    format!("stories260K-{level}.gguf").as_str()
                );
            } else {
                assert_eq!(plan[key], result[key], "{level} {key}");
            }
        }
        output_of(&result);
        assert_eq!(result["validation"]["status"], "passed");
    }
}

#[test]
fn bytes_do_not_depend_on_threads_shards_or_the_form_of_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("a").join("model");
    let sharded = folder.path().join("b").join("model");
    // A million weights in a matrix are eight pieces of work, so that threads share tensors, and a head's
    // rows are in several pieces.
    let llama = RandomLlama {
        hidden: 1024,
        ffn: 1024,
        heads: 4,
        kv_heads: 2,
        layers: 2,
        hostile: true,
        ..RandomLlama::default()
    };
    llama.write(&plain);
    RandomLlama { shards: 5, ..llama }.write(&sharded);
    let mut seen = Vec::new();
    for (index, (model, threads)) in [(&plain, 1), (&plain, 2), (&plain, 8), (&sharded, 3)].into_iter().enumerate() {
        let output = folder.path().join(format!("out{index}"));
        let result = quantize(model, "Q3_K_M", &output).arg("--threads").arg(threads.to_string()).json();
        seen.push(fs::read(output_of(&result)).unwrap());
        let report: Value = serde_json::from_slice(&fs::read(output.join("qhost-report.json")).unwrap()).unwrap();
        seen.push(report["tensors"].to_string().into_bytes());
    }
    assert!(seen.chunks(2).all(|run| run == &seen[..2]));
}

#[test]
fn f16_f32_and_bf16_checkpoints_are_read() {
    let folder = tempfile::tempdir().unwrap();
    for dtype in [Dtype::F16, Dtype::F32, Dtype::BF16] {
        let model = folder.path().join(format!("{dtype:?}"));
        RandomLlama { dtype, ..RandomLlama::default() }.write(&model);
        let result = quantize(&model, "F32", folder.path()).json();
        let report: Value =
            serde_json::from_slice(&fs::read(folder.path().join("qhost-report.json")).unwrap()).unwrap();
        // F32 holds every one of them exactly.
        for tensor in report["tensors"].as_array().unwrap() {
            assert_eq!(tensor["metrics"]["relative_rms_error"], 0.0, "{dtype:?} {tensor}");
        }
        output_of(&result);
    }
}

#[test]
fn an_existing_output_is_kept_unless_force_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("stories260K-Q8_0.gguf");
    fs::write(&output, "precious").unwrap();
    let error = quantize(&fixture("stories260K"), "Q8_0", folder.path()).fail_with(2);
    assert!(error["hint"].as_str().unwrap().contains("--force"), "{error}");
    assert_eq!(fs::read(&output).unwrap(), b"precious");
    assert_eq!(entries(folder.path()), ["stories260K-Q8_0.gguf"]);
    let _ = quantize(&fixture("stories260K"), "Q8_0", folder.path()).arg("--force").json();
    assert!(fs::metadata(&output).unwrap().len() > 100_000);
}

#[test]
fn plan_and_dry_run_write_nothing_and_name_the_fallbacks() {
    let folder = tempfile::tempdir().unwrap();
    for command in [vec!["plan"], vec!["quantize", "--dry-run"]] {
        let arguments = ["--format", "gguf", "--level", "Q4_K_M", "-o"];
        let qhost = || Qhost::new(command.iter().chain(&arguments)).arg(folder.path()).arg(fixture("stories260K"));
        let plan = qhost().json();
        let down = plan["tensors"].as_array().unwrap().iter().find(|tensor| tensor["name"] == "blk.0.ffn_down.weight");
        assert_eq!(down.unwrap()["encoding"], "F16", "rows of 172 fit no block");
        assert!(down.unwrap()["fallback"].as_str().unwrap().contains("172"), "{plan}");
        let human = qhost().succeed().stdout;
        assert!(human.contains("would be written") && human.contains("rows of 172"), "{human}");
        assert!(human.contains("blk.*.ffn_down.weight") && !human.contains("blk.0"), "layers are together: {human}");
        let every = qhost().arg("-v").succeed().stdout;
        assert!(every.contains("blk.4.ffn_down.weight"), "{every}");
    }
    assert_eq!(entries(folder.path()), [""; 0]);
}

#[test]
fn the_default_is_the_current_folder_and_the_usual_level() {
    let folder = tempfile::tempdir().unwrap();
    let qhost = Qhost::new(["quantize", "--format", "gguf", "--no-report", "--no-card"]).arg(fixture("stories260K"));
    let ended = qhost.in_folder(folder.path()).succeed();
    assert_eq!(entries(folder.path()), ["stories260K-Q4_K_M.gguf"]);
    assert!(ended.stdout.contains("stories260K-Q4_K_M.gguf") && ended.stdout.contains("bits per weight"), "{ended:?}");
}

#[test]
fn a_folder_that_is_named_like_a_file_is_made_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let warned = |result: &Value| result["warnings"].to_string().contains("-o names a folder");
    let result = quantize(&fixture("stories260K"), "Q8_0", &folder.path().join("new.gguf")).json();
    assert_eq!(output_of(&result), folder.path().join("new.gguf/stories260K-Q8_0.gguf"));
    assert!(warned(&result), "{result}");
    let result = quantize(&fixture("stories260K"), "Q4_0", &folder.path().join("new.gguf")).json();
    assert!(!warned(&result), "{result}");
}

#[test]
fn quiet_says_nothing_and_json_progress_is_lines_of_json() {
    let folder = tempfile::tempdir().unwrap();
    let quiet = quantize(&fixture("stories260K"), "Q8_0", folder.path()).arg("--quiet").succeed();
    assert!(quiet.stdout.is_empty() && quiet.stderr.is_empty(), "{quiet:?}");
    // A run that takes its time.
    let slow = quantize(&fixture("tinylm"), "Q4_K_M", folder.path()).args(["--effort=best", "--threads=1", "--json"]);
    let ended = slow.arg("--calibration").arg(fixture("text").join("prose.txt")).succeed();
    let lines: Vec<Value> = ended.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let progress: Vec<_> = lines.iter().filter(|line| line["event"] == "progress").collect();
    assert!(!progress.is_empty(), "{ended:?}");
    for line in progress {
        assert!(line["percent"].as_f64().is_some_and(|percent| (0.0..=100.0).contains(&percent)), "{line}");
        assert!(line["memory"]["anonymous"].is_u64() && line["step"].is_string(), "{line}");
    }
}

#[test]
fn options_without_a_meaning_for_the_format_are_refused() {
    let model = fixture("stories260K");
    for (option, code, word) in [
        ("--bits=4", 2, "--bits"),
        ("--sym", 2, "--sym"),
        ("--plugin-option=nonsense=1", 2, "nonsense"),
        ("--plugin-option=pre", 2, "KEY=VALUE"),
        ("--level=Q4_K_XL", 4, "Q4_K_XL"),
        ("--threads=0", 2, "threads"),
        ("--max-memory=1KiB", 6, "memory"),
        ("--max-memory=much", 2, "max-memory"),
        ("--format=rows", 7, "rows"),
    ] {
        let error = Qhost::new(["plan", "--format", "gguf", option]).arg(&model).fail_with(code);
        assert!(error["message"].as_str().unwrap().contains(word), "{option}: {error}");
    }
}

/// GGUF has 32 bits where JSON has 64; what would become zero or infinite there is no setting.
#[test]
fn settings_that_the_format_cannot_hold_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let model = copy_of(&fixture("stories260K"), folder.path());
    let config: Value = serde_json::from_slice(&fs::read(model.join("config.json")).unwrap()).unwrap();
    let llama3 = |factor: f64| {
        json!({"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8192})
    };
    for (key, value, named) in [
        ("rope_theta", json!(1e300), "`rope_theta`"),
        ("rms_norm_eps", json!(1e-60), "`rms_norm_eps`"),
        ("rope_scaling", json!({"rope_type": "linear", "factor": 1e300}), "`factor`"),
        ("rope_scaling", llama3(1e300), "`factor`"),
    ] {
        let mut config = config.clone();
        config[key] = value;
        write_json(&model.join("config.json"), &config);
        let error = Qhost::new(["plan", "--format", "gguf"]).arg(&model).fail_with(5);
        assert!(error["message"].as_str().unwrap().contains(named), "{error}");
    }
}

#[test]
fn a_model_is_found_through_links_and_named_after_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let model = copy_of(&fixture("stories260K"), folder.path());
    let renamed = folder.path().join("My Model v1.5");
    fs::rename(&model, &renamed).unwrap();
    let result = quantize(&renamed, "Q8_0", &folder.path().join("new").join("folders")).json();
    assert!(output_of(&result).ends_with("new/folders/My Model v1.5-Q8_0.gguf"), "{result}");
    #[cfg(unix)]
    {
        let link = folder.path().join("Link");
        std::os::unix::fs::symlink(&renamed, &link).unwrap();
        let result = quantize(&link, "Q8_0", &folder.path().join("new")).json();
        assert!(output_of(&result).ends_with("new/Link-Q8_0.gguf"), "{result}");
    }
}
