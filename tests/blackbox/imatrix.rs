//! `--imatrix auto`: the bytes do not depend on the threads nor on interruptions, other activations give others, and
//! what cannot be done is refused; so is a file that is none, or of another model. That they are llama.cpp's is tested beside llama.cpp itself.

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
    let error = start("Q4_K_M", "imatrix.gguf").fail_with(3);
    assert!(error["message"].as_str().unwrap().contains("imatrix.gguf"), "{error}");
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

/// An importance matrix of the older form.
fn dat(entries: &[(&str, &[f32])]) -> Vec<u8> {
    let number = |count: usize| u32::try_from(count).unwrap().to_le_bytes();
    let mut bytes = number(entries.len()).to_vec();
    for (name, values) in entries {
        bytes.extend(number(name.len()));
        bytes.extend(name.bytes());
        bytes.extend(number(1));
        bytes.extend(number(values.len()));
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
    bytes
}

#[test]
fn a_file_that_is_none_or_of_another_model_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.dat");
    let refused = |bytes: &[u8], code: u8| {
        fs::write(&path, bytes).unwrap();
        let qhost = Qhost::new(["quantize", "--format", "gguf", "-o"]).arg(folder.path()).arg(fixture("tinylm"));
        let error = qhost.arg("--imatrix").arg(&path).fail_with(code.into());
        assert!(!error["hint"].as_str().unwrap().is_empty(), "{error}");
        error["message"].as_str().unwrap().to_owned()
    };
    let columns = [1.0; 256];
    let good = dat(&[("blk.0.attn_q.weight", &columns), ("blk.1.attn_q.weight", &columns)]);
    for cut in [0, 3, 4, 11, 40, good.len() / 2, good.len() - 1] {
        assert!(refused(&good[..cut], 5).contains("m.dat"), "cut at {cut}");
    }
    assert!(refused(b"{}\n not a matrix at all", 5).contains("importance matrix"));
    assert!(refused(b"GGUF\x03\0\0\0", 5).contains("m.dat"));
    let infinite = [f32::INFINITY; 256];
    assert!(refused(&dat(&[("blk.0.attn_q.weight", &infinite)]), 5).contains("blk.0.attn_q.weight"));
    assert!(refused(&dat(&[("blk.0.attn_q.weight", &columns[..255])]), 2).contains("255 values"));
    assert!(refused(&dat(&[("blk.77.attn_q.weight", &columns)]), 2).contains("of this model"));
    // What it does not have is quantised without, and told.
    fs::write(&path, &good).unwrap();
    let qhost = Qhost::new(["quantize", "--format", "gguf", "-o"]).arg(folder.path()).arg(fixture("tinylm"));
    let result = qhost.arg("--imatrix").arg(&path).json();
    assert!(result["warnings"].to_string().contains("26 tensors are not in the importance matrix"), "{result}");
}

#[test]
fn another_matrix_under_the_same_name_is_other_work() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.dat");
    let run = || {
        let qhost = Qhost::new(["quantize", "--format", "gguf", "--force", "-o"]).arg(folder.path()).arg("--imatrix");
        qhost.arg(&path).arg(fixture("tinylm"))
    };
    let mut columns = [1.0; 256];
    fs::write(&path, dat(&[("blk.0.attn_q.weight", &columns)])).unwrap();
    let first = bytes_of(run());
    columns[7] = 1000.0;
    fs::write(&path, dat(&[("blk.0.attn_q.weight", &columns)])).unwrap();
    assert!(first != bytes_of(run()), "the same bytes with other importances");
}
