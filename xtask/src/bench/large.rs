//! `cargo xtask bench 7b`: a random checkpoint of the shapes of Llama 2 7B, once from the disk and once more.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use super::{
    disk,
    kernels::Kernels,
    limits::Limits,
    machine, process,
    programs::{self, Programs, figure},
    table::{Cell, Table},
};
use crate::{cargo, synthetic};

/// The level.
const LEVEL: &str = "Q4_K_M";

/// Bytes of the file for each byte of the checkpoint, at the most, and bytes that are to stay free.
const OUTPUT: f64 = 0.33;
const SPARE: f64 = 1e9;

/// The checkpoint and where it is made.
pub(super) struct Large {
    folder: PathBuf,
    layers: u16,
    bytes: f64,
    keep: bool,
}

impl Large {
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    pub(super) fn new(folder: &Path, layers: u16, keep: bool) -> Self {
        let bytes = synthetic::llama_2_7b(layers).bytes() as f64;
        Self { folder: folder.join(format!("llama-2-7b-{layers}")), layers, bytes, keep }
    }

    fn model(&self) -> PathBuf {
        self.folder.join("model")
    }

    fn is_there(&self) -> bool {
        self.model().join("config.json").exists()
    }

    /// Refuses to begin what the disk has no room for.
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    pub(super) fn check_room(&self) -> Result<()> {
        let above = self.folder.parent().context("the folder has one above it")?;
        let free = fs4::available_space(above).with_context(|| format!("{} has no disk", above.display()))? as f64;
        let needed = self.bytes * OUTPUT + SPARE + if self.is_there() { 0.0 } else { self.bytes };
        ensure!(
            free >= needed,
            "the part 7b takes {:.1} GB of disk in {}, which has {:.1} GB left; make room, or name other parts (kernels \
             end-to-end), or fewer --layers",
            needed / 1e9,
            above.display(),
            free / 1e9
        );
        Ok(())
    }

    /// Makes the checkpoint, quantises it, and removes it.
    pub(super) fn run(&self, programs: &Programs, limits: &Limits, kernels: Option<&Kernels>) -> Result<Table> {
        let table = self.make().and_then(|()| self.measure(programs, limits, kernels));
        if !self.keep && self.folder.exists() {
            fs::remove_dir_all(&self.folder)?;
        }
        table
    }

    fn make(&self) -> Result<()> {
        if self.is_there() {
            return Ok(());
        }
        eprintln!("making a checkpoint of {:.1} GB …", self.bytes / 1e9);
        let unfinished = self.folder.join("unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        let mut make = programs::this()?;
        cargo::run(make.arg("synthetic").arg(&unfinished).args(["--layers", &self.layers.to_string()]))?;
        fs::rename(&unfinished, self.model())?;
        Ok(())
    }

    fn measure(&self, programs: &Programs, limits: &Limits, kernels: Option<&Kernels>) -> Result<Table> {
        let files = disk::weights(&self.model())?;
        let first = if disk::forget(&files)? { "from the disk" } else { "first" };
        let encodings = programs.encodings(&self.model(), LEVEL)?;
        let kernels = kernels.map(|kernels| kernels.seconds(&encodings)).transpose()?;
        let threads = u16::try_from(machine::cores())?;
        let mut rows = Vec::new();
        for run in [first, "again"] {
            eprintln!("quantising it, {run} …");
            let output = self.folder.join("out");
            let mut quantize = programs.quantize(&self.model(), LEVEL, &output);
            let (usage, text) = process::measure(quantize.args(["--threads", &threads.to_string()]))?;
            let told = programs::document(&text)?;
            fs::remove_dir_all(&output)?;
            let (source, file) = (figure(&told, "source_size")?, figure(&told, "file_size")?);
            let reading = source / limits.disk_read()?;
            let mebibytes = |bytes: f64| Cell::Figure(bytes / f64::from(1 << 20), 0);
            rows.push(vec![
                Cell::text(run),
                Cell::Figure(threads.into(), 0),
                Cell::Figure(usage.wall, 1),
                Cell::Figure(usage.cpu, 1),
                Cell::Figure(usage.cpu / usage.wall, 2),
                mebibytes(usage.resident),
                mebibytes(figure(&told, "peak_anonymous_bytes")?),
                Cell::Figure(source / usage.wall / 1e9, 2),
                Cell::Figure(file / usage.wall / 1e9, 2),
                Cell::Figure(figure(&told, "parameter_count")? / usage.wall / 1e6, 1),
                Cell::Figure(reading, 1),
                kernels.map_or(Cell::Missing, |seconds| Cell::Figure(seconds / f64::from(threads), 1)),
            ]);
        }
        Ok(Table {
            title: "A synthetic Llama 2 7B".to_owned(),
            note: format!(
                "`qhost quantize --level {LEVEL}`, its checks included, of {} layers of hidden 4096, ffn 11008, 32 heads, \
                 vocabulary 32000: {:.2} GB of bf16 in three shards. First after their pages were dropped, then with what \
                 the page cache has kept of them, on {} cores. Seconds; busy is the number of cores at work on average; \
                 memory in MiB at its peak, mapped files included, and of that qhost's own. Beside it: the time to read the \
                 checkpoint at the disk's speed above, and the kernels' time at their best speeds in this run, shared by the threads.",
                self.layers,
                self.bytes / 1e9,
                machine::cores()
            ),
            columns: vec![
                "run",
                "threads",
                "wall",
                "CPU",
                "busy",
                "MiB",
                "own MiB",
                "GB/s read",
                "GB/s written",
                "M weights/s",
                "disk read",
                "kernels",
            ],
            rows,
        })
    }
}
