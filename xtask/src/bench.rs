//! `cargo xtask bench`: what a run costs.
//!
//! Now: the memory of a run on a large checkpoint. Speed against the reference, per kernel and end to
//! end, belongs here too.

use std::{fs, process::Command};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;

use crate::{
    cargo::{self, Workspace},
    stage, synthetic,
};

#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// Size of the checkpoint.
    #[arg(long, default_value_t = 2.0)]
    gib: f64,
    /// The level.
    #[arg(long, default_value = "Q4_K_M")]
    level: String,
    /// Threads; all cores if not given.
    #[arg(long)]
    threads: Option<u16>,
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
pub(crate) fn run(settings: &Settings) -> Result<()> {
    let dist = stage::dist()?;
    let folder = Workspace::read()?.target.join("bench");
    let model = folder.join(format!("llama-{}gib", settings.gib));
    let llama = synthetic::llama(settings.gib);
    if !model.join("config.json").exists() {
        println!("making a random llama of {} bytes …", llama.bytes());
        let unfinished = folder.join("unfinished");
        llama.write(&unfinished);
        fs::rename(&unfinished, &model)?;
    }
    let mut quantize = Command::new(dist.join("qhost"));
    quantize.arg("quantize").arg(&model).args(["--format", "gguf", "--level", &settings.level]);
    quantize.args(["--force", "--fresh", "--quiet", "--json", "-o"]).arg(folder.join("out"));
    if let Some(threads) = settings.threads {
        quantize.args(["--threads", &threads.to_string()]);
    }
    let result: Value = serde_json::from_str(&cargo::read(&mut quantize)?)?;
    let figure = |key: &str| result[key].as_f64().with_context(|| format!("the result has no {key}"));
    let mebibytes = |bytes: f64| bytes / f64::from(1_u32 << 20);
    let seconds = figure("duration_seconds")?;
    println!("source               {:10.1} MiB", mebibytes(llama.bytes() as f64));
    println!("output               {:10.1} MiB", mebibytes(figure("file_size")?));
    println!("anonymous memory     {:10.1} MiB at its peak", mebibytes(figure("peak_anonymous_bytes")?));
    println!(
        "resident memory      {:10.1} MiB at its peak, mapped files included",
        mebibytes(figure("peak_memory_bytes")?)
    );
    println!("wall                 {seconds:10.1} s");
    println!("throughput           {:10.1} M weights/s", figure("parameter_count")? / seconds / 1e6);
    Ok(())
}
