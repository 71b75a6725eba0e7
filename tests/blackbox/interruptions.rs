//! What may happen to a process from outside: signals, readers that go away, limits, clocks that jump, sources that vanish,
//! and others that do the same at the same time.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Child,
    time::{Duration, SystemTime},
};

use qhost_tests::{
    checkpoint::copy_of,
    command::{Qhost, wait_for_work},
    fixture,
};
use serde_json::Value;

use crate::{
    gptq::{calibration, files},
    safety::{OUTPUT, model, quantize},
};

/// A run of a moment.
fn small(output: &Path) -> Qhost {
    Qhost::new(["quantize", "--format", "gguf", "--level", "Q4_0", "-o"]).arg(output).arg(fixture("stories260K"))
}

const SMALL: &str = "stories260K-Q4_0.gguf";

/// A calibrated run of a moment.
fn gptq(output: &Path, rows: &Path, model: &Path) -> Qhost {
    let qhost = Qhost::new(["quantize", "--format", "gptq", "--group-size", "32", "-o"]).arg(output);
    qhost.arg("--calibration").arg(calibration(rows)).arg(model)
}

/// Waits until a run has put units on the disk.
fn wait_for_units(child: &mut Child, partial: &Path, units: usize) {
    // The first two lines are the start and the header.
    wait_for_work(child, &partial.join("journal"), |text| text.lines().count() >= units + 2);
}

#[cfg(unix)]
fn send(child: &Child, signal: &str) {
    let sent = std::process::Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success(), "{signal}");
}

/// The first signal keeps the work and says so; a second one ends the process at once, which keeps it too.
#[cfg(unix)]
#[test]
fn signals_end_a_run_once_politely_and_twice_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let whole = quantize(&model, &folder.path().join("whole")).json();
    let expected = fs::read(whole["output_path"].as_str().unwrap()).unwrap();
    for signals in [&["HUP"][..], &["INT"], &["INT", "INT"], &["TERM", "INT", "HUP"]] {
        let output = folder.path().join("out");
        let partial = output.join(format!("{OUTPUT}.partial"));
        let said = folder.path().join("said");
        let mut child = quantize(&model, &output).arg("--json").start_into(&said);
        wait_for_units(&mut child, &partial, 3);
        for signal in signals {
            send(&child, signal);
        }
        assert_eq!(child.wait().unwrap().code(), Some(130), "{signals:?}");
        let error: Value = serde_json::from_str(&fs::read_to_string(&said).unwrap()).unwrap_or_default();
        let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
        assert!(text("hint").contains("same command"), "{error}");
        if signals.len() == 1 {
            assert!(text("message").contains(partial.to_str().unwrap()), "{error}");
        }
        assert!(!output.join(OUTPUT).exists());
        let result = quantize(&model, &output).json();
        assert!(result["resumed"]["units_done"].as_u64().unwrap() >= 2, "{result}");
        assert!(fs::read(output.join(OUTPUT)).unwrap() == expected, "{signals:?}");
        fs::remove_dir_all(&output).unwrap();
    }
}

#[test]
fn an_output_is_made_though_nobody_hears_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let expected = fs::read(small(&folder.path().join("whole")).json()["output_path"].as_str().unwrap()).unwrap();
    for arguments in [&[][..], &["--json"], &["-v"], &["--verbosity", "debug"]] {
        let output = folder.path().join("out");
        assert_eq!(small(&output).args(arguments).run_unheard(), Some(0), "{arguments:?}");
        assert!(fs::read(output.join(SMALL)).unwrap() == expected, "{arguments:?}");
        // What it would say of a failure is not heard either, and the exit code tells.
        assert_eq!(small(&output).args(arguments).run_unheard(), Some(2), "{arguments:?}");
        fs::remove_dir_all(&output).unwrap();
    }
}

/// Files that are opened then have the numbers of the streams; nothing is to be written into them.
#[cfg(unix)]
#[test]
fn an_output_is_made_without_any_streams() {
    let folder = tempfile::tempdir().unwrap();
    let expected = fs::read(small(&folder.path().join("whole")).json()["output_path"].as_str().unwrap()).unwrap();
    for closed in ["exec <&-", "exec >&-", "exec 2>&-", "exec <&- >&- 2>&-"] {
        let output = folder.path().join("out");
        let ended = small(&output).under(closed).run();
        assert_eq!(ended.code, Some(0), "{closed}: {ended:?}");
        assert!(fs::read(output.join(SMALL)).unwrap() == expected, "{closed}");
        fs::remove_dir_all(&output).unwrap();
    }
}

/// Beyond the limit the system sends a signal that ends a process, unless it is prepared.
#[cfg(unix)]
#[test]
fn a_limit_on_the_size_of_files_is_a_disk_that_refuses() {
    let folder = tempfile::tempdir().unwrap();
    for kibibytes in [0, 1, 16, 200] {
        let output = folder.path().join(format!("{kibibytes}"));
        let script = format!("ulimit -f {}", kibibytes * 2);
        let error = small(&output).under(&script).fail_with(6);
        assert!(error["message"].as_str().unwrap().contains(output.to_str().unwrap()), "{error}");
        assert!(!output.join(SMALL).exists());
        assert_eq!(small(&output).json()["validation"]["status"], "passed");
    }
}

/// However few files may be open: it works, or says what is wrong.
#[cfg(target_os = "linux")]
#[test]
fn few_open_files_are_enough_or_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let (mut refused, mut made) = (0, 0);
    for files in 3..24 {
        let output = folder.path().join(format!("{files}"));
        let ended =
            gptq(&output, folder.path(), &fixture("arch/qwen2")).arg("--json").under(&format!("ulimit -n {files}"));
        let ended = ended.run();
        match ended.code {
            Some(0) => made += 1,
            // Not even the system's own loader can open what it needs.
            Some(126 | 127) => {}
            Some(2..=7) => {
                let error = ended.document();
                let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
                assert!(!text("message").is_empty() && !text("hint").is_empty(), "{files}: {error}");
                assert!(!ended.stderr.contains("panicked"), "{files}: {ended:?}");
                refused += 1;
            }
            _ => panic!("{files} open files: {ended:?}"),
        }
    }
    assert!(refused > 0 && made > 0, "{refused} refused, {made} made");
}

#[test]
fn a_folder_for_temporary_files_that_is_not_there_is_not_missed() {
    let folder = tempfile::tempdir().unwrap();
    let _ = small(&folder.path().join("gguf")).env("TMPDIR", "/no/such/folder").json();
    let gptq = gptq(&folder.path().join("gptq"), folder.path(), &fixture("arch/qwen2"));
    let _ = gptq.env("TMPDIR", "/no/such/folder").json();
}

/// One of them makes it, the others are told; nobody disturbs anybody.
#[test]
fn of_runs_that_begin_at_once_one_wins() {
    let folder = tempfile::tempdir().unwrap();
    let rows = folder.path().join("rows");
    let run = |format: &str, output: &Path| match format {
        "gguf" => small(output),
        _ => gptq(output, &rows, &fixture("arch/qwen2")),
    };
    for format in ["gguf", "gptq"] {
        let whole = run(format, &folder.path().join(format)).json();
        let whole = PathBuf::from(whole["output_path"].as_str().unwrap());
        for round in 0..4 {
            let output = folder.path().join(format!("{format}{round}"));
            let said = |index: usize| folder.path().join(format!("said{index}"));
            let started: Vec<_> =
                (0..5).map(|index| run(format, &output).arg("--json").start_into(&said(index))).collect();
            let mut won = 0;
            for (index, mut child) in started.into_iter().enumerate() {
                let code = child.wait().unwrap().code();
                let told: Value = serde_json::from_str(&fs::read_to_string(said(index)).unwrap()).unwrap();
                if code == Some(0) {
                    won += 1;
                    continue;
                }
                assert_eq!(code, Some(2), "{told}");
                let message = told["message"].as_str().unwrap();
                assert!(message.contains("another qhost") || message.contains("exists"), "{told}");
            }
            assert_eq!(won, 1, "{format}");
            let made = output.join(whole.file_name().unwrap());
            if whole.is_dir() {
                assert!(files(&made) == files(&whole));
            } else {
                assert!(fs::read(&made).unwrap() == fs::read(&whole).unwrap());
            }
            assert!(!output.join(format!("{}.partial", made.file_name().unwrap().display())).exists());
        }
    }
}

/// Times tell nothing but whether a source has changed: whatever they are, the work goes on.
#[test]
fn times_of_files_may_be_anything() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let day = Duration::from_secs(86_400);
    let times = [SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH - 5000 * day, SystemTime::now() + 40_000 * day];
    let set = |path: &Path, time: SystemTime| fs::File::open(path).and_then(|file| file.set_modified(time)).unwrap();
    let whole = quantize(&model, &folder.path().join("whole")).json();
    let expected = fs::read(whole["output_path"].as_str().unwrap()).unwrap();
    for time in times {
        set(&model.join("model.safetensors"), time);
        let output = folder.path().join("out");
        let partial = output.join(format!("{OUTPUT}.partial"));
        quantize(&model, &output).kill_after(&partial.join("journal"), 5);
        for path in ["journal", "lock", "files/output", "files", ""] {
            set(&partial.join(path), time);
        }
        let result = quantize(&model, &output).json();
        assert!(result["resumed"]["units_done"].as_u64().is_some_and(|done| done > 1), "{result}");
        assert!(fs::read(output.join(OUTPUT)).unwrap() == expected);
        fs::remove_dir_all(&output).unwrap();
    }
    // Nor does a change go unseen because of when it was.
    let output = folder.path().join("out");
    let journal = output.join(format!("{OUTPUT}.partial")).join("journal");
    set(&model.join("model.safetensors"), SystemTime::UNIX_EPOCH - day);
    quantize(&model, &output).kill_after(&journal, 5);
    set(&model.join("model.safetensors"), SystemTime::UNIX_EPOCH - 2 * day);
    let ended = quantize(&model, &output).arg("--json").run();
    assert!(ended.stderr.contains("the model has changed"), "{ended:?}");
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[test]
fn a_clock_that_jumps_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let jumping = |qhost: Qhost, log: &str| {
        let qhost = qhost.env("LD_PRELOAD", qhost_tests::command::test_plugin("faults")).env("QHOST_FAULT_CLOCK", "1");
        qhost.args(["--verbosity", "debug", "--log-file"]).arg(folder.path().join(log))
    };
    let of = |result: &Value| PathBuf::from(result["output_path"].as_str().unwrap());
    let expected = fs::read(of(&small(&folder.path().join("still")).json())).unwrap();
    let result = jumping(small(&folder.path().join("jumps")), "log").json();
    assert!(fs::read(of(&result)).unwrap() == expected);
    assert!(result["duration_seconds"].as_f64().is_some_and(|seconds| (0.0..600.0).contains(&seconds)), "{result}");
    let model = fixture("arch/qwen2");
    let expected = files(&of(&gptq(&folder.path().join("still"), folder.path(), &model).json()));
    let result = jumping(gptq(&folder.path().join("jumps"), folder.path(), &model), "log2").json();
    assert!(files(&of(&result)) == expected);
    // It did jump: the log's times are years apart.
    let log = fs::read_to_string(folder.path().join("log")).unwrap();
    let years: std::collections::BTreeSet<_> = log.lines().filter_map(|line| line.get(..4)).collect();
    assert!(years.len() > 1, "{log}");
}

/// Calls that change something are counted below the source, and there is none, so a source that cannot be written to
/// will do.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[test]
fn nothing_is_written_beside_the_source() {
    use qhost_tests::torture::Watched;
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    let model = copy_of(&fixture("arch/qwen2"), &root);
    for format in ["gptq", "awq"] {
        let qhost = Qhost::new(["quantize", "--format", format, "-o"]).arg(root.join("out")).arg(&model);
        let qhost = qhost.args(["--group-size", "32", "--calibration"]).arg(calibration(&root));
        let (qhost, watched) = Watched::new(qhost, &root, &root.join("log"));
        let _ = qhost.json();
        let calls = watched.calls();
        assert!(calls.iter().any(|call| call.path.starts_with(root.join("out"))), "{calls:?}");
        let beside: Vec<_> = calls.iter().filter(|call| call.path.starts_with(&model)).collect();
        assert!(beside.is_empty(), "{beside:?}");
    }
}

/// What is mapped stays to be read; that it has gone is seen before anything is put in place.
#[test]
fn a_source_that_vanishes_during_the_run_is_missed() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let (weights, aside) = (model.join("model.safetensors"), folder.path().join("aside"));
    let whole = quantize(&model, &folder.path().join("whole")).json();
    let expected = fs::read(whole["output_path"].as_str().unwrap()).unwrap();
    let output = folder.path().join("out");
    let partial = output.join(format!("{OUTPUT}.partial"));
    let said = folder.path().join("said");
    let told = || serde_json::from_str::<Value>(&fs::read_to_string(&said).unwrap()).unwrap();

    let mut child = quantize(&model, &output).arg("--json").start_into(&said);
    wait_for_units(&mut child, &partial, 2);
    fs::rename(&weights, &aside).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3), "{}", told());
    assert!(told()["message"].as_str().unwrap().contains("model.safetensors"), "{}", told());
    assert!(told()["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{}", told());
    assert!(!output.join(OUTPUT).exists());
    // The work is kept, and worth something as soon as the file is back.
    fs::rename(&aside, &weights).unwrap();
    let result = quantize(&model, &output).json();
    assert!(result["resumed"]["units_done"].as_u64().is_some_and(|done| done == 12), "{result}");
    assert!(fs::read(output.join(OUTPUT)).unwrap() == expected);
    fs::remove_dir_all(&output).unwrap();

    // Another file in its place is another source.
    let mut child = quantize(&model, &output).arg("--json").start_into(&said);
    wait_for_units(&mut child, &partial, 2);
    fs::copy(&weights, &aside).unwrap();
    fs::rename(&aside, &weights).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5), "{}", told());
    assert!(!output.join(OUTPUT).exists());
    assert!(fs::read(quantize(&model, &output).json()["output_path"].as_str().unwrap()).unwrap() == expected);
}

/// Forward passes read the mapped weights too.
#[cfg(target_os = "linux")]
#[test]
fn a_source_that_is_cut_while_it_is_calibrated_ends_the_run_with_a_message_and_keeps_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let model = copy_of(&fixture("tinylm"), folder.path());
    let (weights, output) = (model.join("model.safetensors"), folder.path().join("out"));
    let (bytes, time) = (fs::read(&weights).unwrap(), fs::metadata(&weights).unwrap().modified().unwrap());
    let said = folder.path().join("said");
    let run = |output: &Path| gptq(output, folder.path(), &model).args(["--threads", "1"]);
    let expected = files(Path::new(run(&folder.path().join("whole")).json()["output_path"].as_str().unwrap()));
    let mut child = run(&output).arg("--json").start_into(&said);
    let partial = output.join("tinylm-GPTQ-4bit-g32.partial");
    wait_for_units(&mut child, &partial, 2);
    fs::File::options().write(true).open(&weights).unwrap().set_len(1 << 16).unwrap();
    let code = child.wait().unwrap().code();
    let error: Value = serde_json::from_str(&fs::read_to_string(&said).unwrap()).unwrap();
    assert_eq!(code, Some(5), "{error}");
    assert!(error["message"].as_str().unwrap().contains("cut short"), "{error}");
    assert!(!output.join("tinylm-GPTQ-4bit-g32").exists());
    fs::write(&weights, bytes).unwrap();
    fs::File::open(&weights).and_then(|file| file.set_modified(time)).unwrap();
    let result = run(&output).json();
    assert!(result["resumed"]["units_done"].as_u64().is_some_and(|done| done > 0), "{result}");
    assert!(files(Path::new(result["output_path"].as_str().unwrap())) == expected);
}
