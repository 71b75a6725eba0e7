//! What the machine can do at most: copying memory, reading and writing the disk.
//!
//! It is measured by this program in a process of its own (`cargo xtask limits`, which is hidden).

use std::{
    fs,
    hint::black_box,
    path::{Path, PathBuf},
    sync::Barrier,
    thread,
    time::Instant,
};

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::{
    disk, machine, process,
    programs::{self, figure},
    table::{Cell, Table},
};

/// Bytes that a thread copies at a time: more than caches hold, one hopes.
const COPIED: usize = 256 << 20;

/// Bytes of the file that is written and read.
const FILE: u64 = 1 << 30;

/// Of each measurement the best of so many counts.
const TURNS: usize = 5;

/// What to measure: the machine, in a folder on its disk, or how long files take to be read.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// A folder on the disk.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Files to read, from memory if they fit there.
    #[arg(long, num_args = 1..)]
    read: Vec<PathBuf>,
}

/// Measures, and prints a document.
pub(crate) fn print(settings: &Settings) -> Result<()> {
    let mut told = json!({});
    if let Some(folder) = &settings.folder {
        told["copy_one"] = copying(1).into();
        told["copy_all"] = copying(machine::cores()).into();
        let files = [folder.join("limits")];
        let (mut write, mut read) = (f64::MAX, f64::MAX);
        for _ in 0..TURNS / 2 {
            write = write.min(disk::write(&files[0], FILE)?);
            told["is_cold"] = disk::forget(&files)?.into();
            read = read.min(disk::read(&files)?);
        }
        fs::remove_file(&files[0])?;
        told["write"] = (bytes(FILE) / write).into();
        told["read"] = (bytes(FILE) / read).into();
    }
    if !settings.read.is_empty() {
        // The first time brings them into memory.
        let seconds = (0..=TURNS).map(|_| disk::read(&settings.read)).collect::<Result<Vec<_>>>()?;
        told["seconds"] = seconds[1..].iter().copied().fold(f64::MAX, f64::min).into();
    }
    println!("{told}");
    Ok(())
}

/// Bytes a second that threads copy together, each its own.
fn copying(threads: usize) -> f64 {
    let barrier = Barrier::new(threads);
    let best = |_| {
        let (source, mut target) = (vec![1_u8; COPIED], vec![0_u8; COPIED]);
        let mut best = f64::MAX;
        for _ in 0..2 * TURNS {
            barrier.wait();
            let start = Instant::now();
            black_box(&mut target).copy_from_slice(black_box(&source));
            // Until the last one is done.
            barrier.wait();
            best = best.min(start.elapsed().as_secs_f64());
        }
        best
    };
    let slowest = thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|index| scope.spawn(move || best(index))).collect();
        running.into_iter().filter_map(|thread| thread.join().ok()).fold(0.0, f64::max)
    });
    bytes((COPIED * threads) as u64) / slowest
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn bytes(count: u64) -> f64 {
    count as f64
}

/// The machine's limits, in bytes a second.
#[derive(Debug)]
pub(super) struct Limits {
    told: Value,
}

/// Measures the machine.
pub(super) fn measure(folder: &Path) -> Result<Limits> {
    let (_, text) = process::measure(programs::this()?.args(["limits", "--folder"]).arg(folder))?;
    Ok(Limits { told: programs::document(&text)? })
}

/// Seconds for reading files that are in memory, on one thread.
pub(super) fn reading(files: &[PathBuf]) -> Result<f64> {
    let (_, text) = process::measure(programs::this()?.args(["limits", "--read"]).args(files))?;
    figure(&programs::document(&text)?, "seconds")
}

impl Limits {
    /// Bytes a second from the disk.
    pub(super) fn disk_read(&self) -> Result<f64> {
        figure(&self.told, "read")
    }

    pub(super) fn table(&self) -> Table {
        let row = |what: &str, key: &str| {
            vec![Cell::text(what), figure(&self.told, key).map_or(Cell::Missing, |value| Cell::Figure(value / 1e9, 2))]
        };
        let read = if self.told["is_cold"] == true { "disk, read" } else { "disk, read (of what memory may hold)" };
        Table {
            title: "The machine's limits".to_owned(),
            note:
                "A copied byte is read once and written once, and counts once; each thread copies 256 MiB. The disk's \
                   are of a file of 1 GiB, read by one thread after its pages were dropped, and written until the disk \
                   has it."
                    .to_owned(),
            columns: vec!["what", "GB/s"],
            rows: vec![
                row("memory copy, 1 thread", "copy_one"),
                row("memory copy, all cores", "copy_all"),
                row(read, "read"),
                row("disk, write", "write"),
            ],
        }
    }
}
