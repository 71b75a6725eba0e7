//! `--imatrix auto`: the bytes do not depend on the threads nor on interruptions, other activations give others, and
//! what cannot be done is refused. That they are llama.cpp's is tested beside llama.cpp itself.

use std::{
    fs,
    path::{Path, PathBuf},
};

use qhost_tests::{command::Qhost, fixture};

/// Rows of tokens as JSONL.
fn rows(folder: &Path, name: &str, factor: u32) -> PathBuf {
    let row = |row: u32| (0..48).map(|at| (row * 977 + at * at * factor + 7) % 4096).collect::<Vec<_>>();
    let lines: Vec<_> = (0..6).map(|index| format!("{{\"input_ids\": {:?}}}\n", row(index))).collect();
    let path = folder.join(name);
    fs::write(&path, lines.concat()).unwrap();
    path
}

fn quantize(level: &str, data: &Path, output: &Path) -> Qhost {
    let qhost = Qhost::new(["quantize", "--format", "gguf", "--level", level, "--imatrix", "auto", "-o"]);
    qhost.arg(output).arg(fixture("tinylm")).arg("--calibration").arg(data)
}

fn bytes_of(qhost: Qhost) -> Vec<u8> {
    let result = qhost.json();
    fs::read(result["output_path"].as_str().unwrap()).unwrap()
}

fn has(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn bytes_depend_on_the_activations_and_not_on_the_threads() {
    let folder = tempfile::tempdir().unwrap();
    let (data, other) = (rows(folder.path(), "rows.jsonl", 31), rows(folder.path(), "rowz.jsonl", 37));
    let run = |data: &Path, threads: &str, output: &str| {
        bytes_of(quantize("Q4_K_M", data, &folder.path().join(output)).args(["--threads", threads]))
    };
    let one = run(&data, "1", "one");
    assert!(one == run(&data, "3", "three"), "other bytes with other threads");
    let others = run(&other, "1", "other");
    assert!(one.len() == others.len() && one != others, "the same bytes from other samples");
    let told = |bytes: &[u8], key: &str, number: u32| {
        // The key, that its value is a u32, and the value.
        let value = [key.as_bytes(), &4_u32.to_le_bytes(), &number.to_le_bytes()].concat();
        assert!(has(bytes, &value), "{key} is not {number}");
    };
    told(&one, "quantize.imatrix.chunks_count", 6);
    // Seven matrices of four layers.
    told(&one, "quantize.imatrix.entries_count", 28);
    assert!(has(&one, b"rows.jsonl") && has(&one, b"quantize.imatrix.dataset"));
    let plain = Qhost::new(["quantize", "--format", "gguf", "--level", "Q4_K_M", "-o"]);
    let plain = bytes_of(plain.arg(folder.path().join("plain")).arg(fixture("tinylm")));
    assert!(!has(&plain, b"quantize.imatrix"));
}

#[test]
fn a_run_that_was_killed_goes_on_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let data = rows(folder.path(), "rows.jsonl", 31);
    let expected = bytes_of(quantize("Q5_K_S", &data, &folder.path().join("whole")));
    let output = folder.path().join("killed");
    let journal = output.join("tinylm-Q5_K_S.gguf.partial").join("journal");
    quantize("Q5_K_S", &data, &output).args(["--threads", "1"]).kill_after(&journal, 4);
    assert!(bytes_of(quantize("Q5_K_S", &data, &output)) == expected, "other bytes after a kill");
}

#[test]
fn what_cannot_be_done_is_refused_or_said() {
    let folder = tempfile::tempdir().unwrap();
    let start = |level: &str, imatrix: &str| {
        let qhost = Qhost::new(["quantize", "--format", "gguf", "--level", level, "--imatrix", imatrix, "-o"]);
        qhost.arg(folder.path()).arg(fixture("tinylm"))
    };
    let error = start("Q4_K_M", "imatrix.gguf").fail_with(4);
    assert!(error["hint"].as_str().unwrap().contains("--imatrix auto"), "{error}");
    let result = start("Q8_0", "auto").json();
    assert!(result.to_string().contains("--imatrix changes nothing"), "{result}");
}

#[test]
fn a_matrix_is_saved_where_one_is_computed_and_nothing_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let data = rows(folder.path(), "rows.jsonl", 31);
    let save = |qhost: Qhost| qhost.args(["--plugin-option", "save-imatrix=true"]);
    let result = save(quantize("Q4_K_M", &data, folder.path())).json();
    let path = PathBuf::from(result["beside_paths"][0].as_str().unwrap());
    assert_eq!(path.file_name().unwrap(), "tinylm-Q4_K_M.imatrix.gguf");
    let first = fs::read(&path).unwrap();
    assert!(
        has(&first, b"general.type") && has(&first, b"blk.3.ffn_down.weight.in_sum2") && has(&first, b"rows.jsonl")
    );
    // It is not replaced unless that is asked for.
    fs::remove_file(result["output_path"].as_str().unwrap()).unwrap();
    let refused = save(quantize("Q4_K_M", &data, folder.path())).fail_with(2);
    assert!(refused["message"].as_str().unwrap().contains("imatrix.gguf"), "{refused}");
    let again = save(quantize("Q4_K_M", &data, folder.path())).arg("--force").json();
    assert!(again["beside_paths"][0].is_string() && first == fs::read(&path).unwrap());
    let plain = Qhost::new(["quantize", "--format", "gguf", "--level", "Q4_K_M", "-o"]);
    let refused = save(plain.arg(folder.path().join("plain")).arg(fixture("tinylm"))).fail_with(2);
    assert!(refused["message"].as_str().unwrap().contains("save-imatrix"), "{refused}");
}
