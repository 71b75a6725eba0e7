//! `cargo xtask bench`: what quantising costs, beside llama.cpp and beside what the machine can do.
//!
//! Everything that is compared is measured in one run, in turns. The tables go to standard output and, dated, into
//! `tests/bench/`. Whatever is measured runs as a process of its own: neither llama.cpp nor a kernel is linked here.

mod ceiling;
mod disk;
mod end_to_end;
mod kernels;
mod large;
mod limits;
mod machine;
mod process;
mod programs;
mod report;
mod table;

use std::{fmt, fs, path::PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::cargo::Workspace;

pub(crate) use limits::Settings as LimitSettings;
pub(crate) use limits::print as print_limits;
use {end_to_end::EndToEnd, kernels::Kernels, large::Large, machine::Machine, programs::Programs, report::Report};

#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// What to measure; everything but `ceiling` if nothing is named.
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// kernels: turns of 5 ms of each kernel, of which the best counts.
    #[arg(long, default_value_t = 150, value_parser = clap::value_parser!(u32).range(1..))]
    turns: u32,
    /// end-to-end: the size of the checkpoint.
    #[arg(long, default_value_t = 0.5)]
    gib: f64,
    /// end-to-end: levels, or `all`.
    #[arg(long, value_delimiter = ',', default_value = "Q4_K_M")]
    levels: Vec<String>,
    /// end-to-end: numbers of threads; `all` is one for each core.
    #[arg(long, value_delimiter = ',', default_value = "1,all")]
    threads: Vec<Threads>,
    /// end-to-end: runs of each program, of which the best counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// 7b, ceiling: layers; a Llama 2 7B has 32.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=80))]
    layers: u16,
    /// 7b: keep the checkpoint, for the next time.
    #[arg(long)]
    keep: bool,
}

/// A part of the measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Every kernel on every instruction set beside ggml's.
    Kernels,
    /// From a checkpoint to a file, beside `llama_model_quantize` from its file of F16.
    EndToEnd,
    /// A random checkpoint of the shapes of Llama 2 7B (13.5 GB), and the machine's limits beside it.
    #[value(name = "7b")]
    SevenB,
    /// Runs under `--max-memory` at the shapes that ask for most; only when it is named.
    Ceiling,
}

/// A number of threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Threads(u16);

impl std::str::FromStr for Threads {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = if text == "all" { u16::try_from(machine::cores()).ok() } else { text.parse().ok() };
        number.filter(|number| *number > 0).map(Self).ok_or_else(|| "a number of threads, or `all`".to_owned())
    }
}

impl fmt::Display for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Settings {
    fn includes(&self, part: Part) -> bool {
        // Calibrations at the shapes of a 7B take a quarter of an hour.
        self.parts.contains(&part) || self.parts.is_empty() && part != Part::Ceiling
    }
}

pub(crate) fn run(settings: &Settings) -> Result<()> {
    let workspace = Workspace::read()?;
    let folder = workspace.target.join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let large = settings.includes(Part::SevenB).then(|| Large::new(&folder, settings.layers, settings.keep));
    // Whatever is to be refused is refused before anything takes minutes.
    large.as_ref().map_or(Ok(()), Large::check_room)?;
    let levels = end_to_end::levels(&settings.levels)?;
    let programs = Programs::build(&workspace, settings.includes(Part::Kernels) || settings.includes(Part::EndToEnd))?;
    let mut report = Report::new(Machine::ask()?);
    let limits = limits::measure(&folder)?;
    report.add(limits.table());
    let kernels = settings.includes(Part::Kernels).then(|| Kernels::measure(&programs, settings.turns)).transpose()?;
    if let Some(kernels) = &kernels {
        kernels.tables().into_iter().for_each(|table| report.add(table));
    }
    if settings.includes(Part::EndToEnd) {
        let bench = EndToEnd { programs: &programs, folder: &folder, rounds: settings.rounds };
        report.add(bench.run(settings.gib, &levels, &settings.threads, kernels.as_ref())?);
    }
    if let Some(large) = large {
        report.add(large.run(&programs, &limits, kernels.as_ref())?);
    }
    if settings.includes(Part::Ceiling) {
        report.add(ceiling::run(&programs, &folder, settings.layers)?);
    }
    let faults = kernels.map_or_else(Vec::new, |kernels| kernels.faults());
    if !faults.is_empty() {
        bail!("not the reference's bytes:\n{}", faults.join("\n"));
    }
    println!("\n{}", report.keep(&results()?)?.display());
    Ok(())
}

/// Where results are kept.
fn results() -> Result<PathBuf> {
    let folder = qhost_tests::repository().join("tests").join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    Ok(folder)
}
