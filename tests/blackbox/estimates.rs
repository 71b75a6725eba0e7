//! What a plan foretells, against what a run takes: size and bits per weight to the byte, memory, disk and time.

use std::{fs, path::Path, thread};

use qhost_tests::{checkpoint::RandomLlama, command::Qhost, fixture};
use serde_json::Value;

fn command(name: &str, model: &Path, level: &str, threads: u32, output: &Path) -> Qhost {
    let qhost = Qhost::new([name, "--format", "gguf", "--level", level, "--threads", &threads.to_string(), "-o"]);
    qhost.arg(output).arg(model)
}

fn plan(model: &Path, level: &str, threads: u32) -> Value {
    let nowhere = tempfile::tempdir().unwrap();
    command("plan", model, level, threads, nowhere.path()).json()
}

/// A quarter of the truth is the most that the foretold memory may be off, for models that fit into a cache and
/// for one that has to be streamed.
#[cfg(target_os = "linux")]
#[test]
fn memory_is_foretold() {
    let folder = tempfile::tempdir().unwrap();
    let large = folder.path().join("large");
    let llama = RandomLlama { hidden: 2048, ffn: 5632, heads: 32, kv_heads: 4, layers: 3, ..RandomLlama::default() };
    llama.write(&large);
    assert!(llama.bytes() > 250 << 20);
    let (small, middle) = (fixture("stories260K"), fixture("tinylm"));
    for (model, level, threads) in [
        (&small, "Q8_0", 1),
        (&small, "Q4_K_M", 4),
        (&middle, "Q4_K_M", 1),
        (&middle, "Q8_0", 2),
        (&middle, "F32", 4),
        (&large, "Q8_0", 1),
        (&large, "F16", 2),
        (&large, "Q8_0", 4),
    ] {
        let estimate = &plan(model, level, threads)["estimate"];
        let output = folder.path().join("out");
        let peak = crate::memory::Peak::of(command("quantize", model, level, threads, &output));
        for (key, taken) in [("peak_memory_bytes", peak.resident), ("peak_anonymous_bytes", peak.anonymous)] {
            let foretold = estimate[key].as_u64().unwrap();
            let off = foretold.abs_diff(taken) * 100 / taken;
            assert!(off <= 25, "{} {level} {threads} {key}: {foretold}, and it was {taken}", model.display());
        }
        fs::remove_dir_all(&output).unwrap();
    }
}

/// The report, the card, and what an interrupted run leaves beside its output.
#[test]
fn no_more_disk_is_needed_than_foretold() {
    let folder = tempfile::tempdir().unwrap();
    for (model, level) in [(fixture("stories260K"), "Q2_K"), (fixture("tinylm"), "Q6_K")] {
        let output = folder.path().join(level);
        let disk = command("plan", &model, level, 1, &output).json()["disk"].clone();
        let result = command("quantize", &model, level, 1, &output).json();
        assert_eq!(disk["output_bytes"], result["file_size"]);
        assert!(disk["free_bytes"].as_u64().unwrap() > 0, "{disk}");
        let taken: u64 = fs::read_dir(&output).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        let beside = taken - result["file_size"].as_u64().unwrap();
        assert!((1..=disk["beside_bytes"].as_u64().unwrap()).contains(&beside), "{beside}: {disk}");
    }
    let large = folder.path().join("large");
    RandomLlama { hidden: 1024, ffn: 4096, heads: 8, layers: 4, ..RandomLlama::default() }.write(&large);
    let disk = &plan(&large, "Q8_0", 1)["disk"];
    let figure = |key: &str| disk[key].as_u64().unwrap();
    assert!(figure("beside_bytes") * 100 <= figure("output_bytes"), "more than a hundredth: {disk}");
}

/// How long it takes is nothing to test on a machine that does other things too; what it is made of is.
#[test]
fn time_is_foretold_from_the_work_and_the_threads() {
    let folder = tempfile::tempdir().unwrap();
    let small = folder.path().join("small");
    let large = folder.path().join("large");
    let llama = RandomLlama { hidden: 1024, ffn: 4096, heads: 8, ..RandomLlama::default() };
    RandomLlama { layers: 1, ..llama.clone() }.write(&small);
    RandomLlama { layers: 4, ..llama }.write(&large);
    let time = |model: &Path, level: &str, threads: u32| plan(model, level, threads)["estimate"]["time"].clone();
    let figure = |time: &Value, key: &str| time[key].as_f64().unwrap_or_else(|| panic!("{key}: {time}"));
    let (one, two) = (time(&large, "Q4_K_M", 1), time(&large, "Q4_K_M", 2));
    let less = time(&small, "Q4_K_M", 1);
    for time in [&one, &two, &less] {
        assert!(figure(time, "about_seconds") > 0.0, "{time}");
        assert!(figure(time, "core_speed") > 0.0, "{time}");
        let work = figure(time, "core_seconds") / figure(time, "core_speed") / figure(time, "cores");
        let told = work.max(figure(time, "transfer_seconds"));
        assert!((figure(time, "about_seconds") - told).abs() < 0.1, "{time}");
    }
    // The work itself depends on the model and the level alone.
    let same = |a: f64, b: f64| (a - b).abs() < 1e-9;
    assert!(same(figure(&one, "core_seconds"), figure(&two, "core_seconds")), "{one} {two}");
    assert!(figure(&one, "core_seconds") > 3.0 * figure(&less, "core_seconds"), "{one} {less}");
    assert!(figure(&one, "core_seconds") > 2.0 * figure(&time(&large, "Q8_0", 1), "core_seconds"));
    let cores = thread::available_parallelism().unwrap().get();
    assert_eq!(figure(&one, "cores").to_bits(), 1_f64.to_bits());
    assert!(same(figure(&two, "cores"), if cores > 1 { 2.0 } else { 1.0 }), "{two}");
}

/// stories260K has rows of 64 and 172, which are no super-blocks: not one of its matrices can be as its level says.
#[test]
fn a_level_that_is_not_what_it_promises_is_said_to_be_so_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("stories260K");
    let plan = command("plan", &model, "Q4_K_M", 1, folder.path()).json();
    let (bits, promised) = (plan["bits_per_weight"].as_f64().unwrap(), plan["level_bits_per_weight"].as_f64().unwrap());
    assert!(bits > 8.0 && promised < 6.0, "{plan}");
    let words = format!("Q4_K_M takes {bits:.2} bits per weight here, not {promised:.2}");
    let loud = |warnings: &Value| {
        let warning = warnings.as_array().unwrap().iter().find(|warning| warning.as_str().unwrap().starts_with(&words));
        let warning = warning.unwrap_or_else(|| panic!("{words}: {warnings}")).as_str().unwrap().to_owned();
        for words in ["36 of 47 tensors", "rows of 64 or 172", "256", "Q2_K"] {
            assert!(warning.contains(words), "{words}: {warning}");
        }
    };
    loud(&plan["warnings"]);
    let fallbacks = plan["fallbacks"].as_array().unwrap();
    assert_eq!(fallbacks.iter().map(|fallback| fallback["tensors"].as_u64().unwrap()).sum::<u64>(), 36);
    assert_eq!((&fallbacks[0]["encoding"], &fallbacks[0]["instead_of"]), (&"Q5_0".into(), &"Q4_K".into()));

    let ended = command("quantize", &model, "Q4_K_M", 1, folder.path()).succeed();
    assert!(ended.stderr.contains(&words), "at the start: {ended:?}");
    assert!(ended.stdout.contains(&format!("not the {promised:.2} of Q4_K_M")), "in the end: {ended:?}");
    let report: Value = serde_json::from_slice(&fs::read(folder.path().join("qhost-report.json")).unwrap()).unwrap();
    loud(&report["warnings"]);
    assert_eq!(report["level_bits_per_weight"], plan["level_bits_per_weight"]);
    let card = fs::read_to_string(folder.path().join("stories260K-Q4_K_M.md")).unwrap();
    assert!(card.contains(&words.replace('_', r"\_")), "{card}");
    let human = command("plan", &model, "Q8_0", 1, &folder.path().join("x")).succeed().stdout;
    assert!(human.contains("F16 instead of Q8_0"), "{human}");

    let kept = command("plan", &fixture("tinylm"), "Q4_K_M", 1, folder.path()).json();
    assert_eq!((&kept["level_bits_per_weight"], &kept["warnings"]), (&Value::Null, &Value::Array(Vec::new())));
}
