//! `cargo xtask bench end-to-end`: from a checkpoint to a file, beside llama.cpp's best case.
//!
//! That is `llama_model_quantize` from a file of F16, which it only has to widen; making that file is not counted.
//! Weights are such that F16 holds them exactly, so both make the same file.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{
    Threads, disk,
    kernels::Kernels,
    limits,
    process::{self, Usage},
    programs::{self, Programs, figure},
    table::{Cell, Table},
};
use crate::cargo;

/// Levels, from the smallest files to the largest: those of floats are copies.
const LEVELS: [&str; 16] = [
    "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "IQ4_XS", "Q4_0", "IQ4_NL", "Q4_1", "Q4_K_S", "Q4_K_M", "Q5_0", "Q5_1",
    "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0",
];

/// The levels of some names, or all.
pub(super) fn levels(names: &[String]) -> Result<Vec<&'static str>> {
    if names.iter().any(|name| name == "all") {
        return Ok(LEVELS.to_vec());
    }
    let level = |name: &String| {
        let found = LEVELS.into_iter().find(|level| level.eq_ignore_ascii_case(name));
        found.with_context(|| format!("{name} is none of the levels {}", LEVELS.join(", ")))
    };
    names.iter().map(level).collect()
}

/// Where and how often.
pub(super) struct EndToEnd<'a> {
    pub(super) programs: &'a Programs,
    pub(super) folder: &'a Path,
    pub(super) rounds: u32,
}

/// A checkpoint, and the same in F16.
struct Source {
    model: PathBuf,
    halves: PathBuf,
    bytes: f64,
    /// Seconds for reading the checkpoint from memory.
    reading: f64,
}

/// What a level took with a number of threads.
struct Finding {
    level: &'static str,
    threads: Threads,
    theirs: Usage,
    ours: Usage,
    anonymous: f64,
    encodings: Vec<(String, f64)>,
}

impl EndToEnd<'_> {
    /// Levels by numbers of threads.
    pub(super) fn run(
        &self,
        gib: f64,
        levels: &[&'static str],
        threads: &[Threads],
        kernels: Option<&Kernels>,
    ) -> Result<Table> {
        let source = self.source(gib)?;
        let mut results = Vec::new();
        for level in levels {
            for threads in threads {
                eprintln!("{level} on {threads} threads …");
                results.push(self.level(&source, level, *threads)?);
            }
        }
        let measured_now;
        let kernels = if let Some(kernels) = kernels {
            kernels
        } else {
            let mut types: Vec<_> =
                results.iter().flat_map(|result| &result.encodings).map(|(name, _)| name.clone()).collect();
            types.sort();
            types.dedup();
            measured_now = Kernels::briefly(self.programs, &types)?;
            &measured_now
        };
        let rows = results.iter().map(|result| result.row(source.reading, kernels)).collect::<Result<_>>()?;
        Ok(Table {
            title: "End to end".to_owned(),
            note: format!(
                "From a checkpoint of {:.2} GB (bf16, four shards) to a GGUF file by `qhost quantize`, its checks included, \
                 and from a file of F16 by `llama_model_quantize`; everything in the page cache, in turns, the best of {}. \
                 Seconds, and CPU seconds of user and system; memory in MiB at its peak, mapped files included, and of that \
                 qhost's own. The bound is the larger of reading the checkpoint once from memory on one thread, and the \
                 kernels' time at their best speeds in this run, shared by the threads. Metadata and tensors of both files are the same.",
                source.bytes / 1e9,
                self.rounds
            ),
            columns: vec![
                "level",
                "threads",
                "wall ref",
                "wall",
                "ratio",
                "CPU ref",
                "CPU",
                "CPU ratio",
                "MiB ref",
                "MiB",
                "own MiB",
                "read",
                "kernels",
                "bound",
                "wall / bound",
            ],
            rows,
        })
    }

    /// Makes the checkpoint, unless it is there, and its file of F16.
    fn source(&self, gib: f64) -> Result<Source> {
        let folder = self.folder.join(format!("llama-{gib}"));
        let model = folder.join("model");
        if !model.join("config.json").exists() {
            let unfinished = folder.join("unfinished");
            let mut make = programs::this()?;
            cargo::run(make.arg("synthetic").arg(&unfinished).args(["--gib", &gib.to_string()]))?;
            fs::rename(&unfinished, &model)?;
        }
        let told = process::measure(&mut self.programs.quantize(&model, "F16", &folder.join("halves")))?.1;
        let told = programs::document(&told)?;
        let halves = told["output_path"].as_str().context("the file of F16 has no path")?.into();
        let reading = limits::reading(&disk::weights(&model)?)?;
        disk::read(&[&halves].map(PathBuf::clone))?;
        Ok(Source { model, halves, bytes: figure(&told, "source_size")?, reading })
    }

    /// Makes a level by both, in turns.
    fn level(&self, source: &Source, level: &'static str, threads: Threads) -> Result<Finding> {
        let (output, reference) = (self.folder.join("out"), self.folder.join("reference.gguf"));
        let number = threads.to_string();
        let mut best: Option<(Usage, Usage)> = None;
        let (mut told, mut anonymous) = (Value::Null, 0.0_f64);
        for _ in 0..self.rounds {
            remove(&output, &reference)?;
            let mut theirs = self.programs.oracle()?;
            theirs.arg("quantize").args([&source.halves, &reference]).args([level, "--threads", &number]);
            let theirs = process::measure(&mut theirs)?.0;
            let mut ours = self.programs.quantize(&source.model, level, &output);
            let (ours, text) = process::measure(ours.args(["--threads", &number]))?;
            told = programs::document(&text)?;
            anonymous = anonymous.max(figure(&told, "peak_anonymous_bytes")?);
            best = Some(best.map_or((theirs, ours), |best| (best.0.or_better(theirs), best.1.or_better(ours))));
        }
        let (theirs, ours) = best.context("there was no round")?;
        let path = told["output_path"].as_str().context("the file has no path")?;
        cargo::run(self.programs.oracle()?.arg("compare").arg(path).arg(&reference))?;
        remove(&output, &reference)?;
        Ok(Finding {
            level,
            threads,
            theirs,
            ours,
            anonymous,
            encodings: self.programs.encodings(&source.model, level)?,
        })
    }
}

impl Finding {
    fn row(&self, reading: f64, kernels: &Kernels) -> Result<Vec<Cell>> {
        let mebibytes = |bytes: f64| Cell::Figure(bytes / f64::from(1 << 20), 0);
        let kernels = kernels.seconds(&self.encodings)? / f64::from(self.threads.0);
        let bound = reading.max(kernels);
        Ok(vec![
            Cell::text(self.level),
            Cell::Figure(self.threads.0.into(), 0),
            Cell::Figure(self.theirs.wall, 2),
            Cell::Figure(self.ours.wall, 2),
            Cell::Figure(self.theirs.wall / self.ours.wall, 2),
            Cell::Figure(self.theirs.cpu, 2),
            Cell::Figure(self.ours.cpu, 2),
            Cell::Figure(self.theirs.cpu / self.ours.cpu, 2),
            mebibytes(self.theirs.resident),
            mebibytes(self.ours.resident),
            mebibytes(self.anonymous),
            Cell::Figure(reading, 2),
            Cell::Figure(kernels, 2),
            Cell::Figure(bound, 2),
            Cell::Figure(self.ours.wall / bound, 2),
        ])
    }
}

/// Removes what was made the last time, so that nobody is measured removing it.
fn remove(output: &Path, reference: &Path) -> Result<()> {
    for removed in [fs::remove_dir_all(output), fs::remove_file(reference)] {
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => bail!("old results: {error}"),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_found_in_any_case_and_all_of_them_by_one_word() -> Result<()> {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(levels(&names(&["q4_k_m", "Q8_0"]))?, ["Q4_K_M", "Q8_0"]);
        assert_eq!(levels(&names(&["Q8_0", "all"]))?, LEVELS);
        assert!(levels(&names(&["Q4_K_M", "F16"])).is_err_and(|error| error.to_string().contains("F16")));
        Ok(())
    }
}
