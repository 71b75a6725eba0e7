//! Large random checkpoints, for measuring memory and speed.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use qhost_tests::checkpoint::RandomLlama;
use safetensors::Dtype;

#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// The folder to make.
    folder: PathBuf,
    /// Its size, about.
    #[arg(long, default_value_t = 2.0)]
    gib: f64,
    /// The shapes of Llama 2 7B, with so many layers (it has 32), instead of a size.
    #[arg(long, conflicts_with = "gib")]
    layers: Option<u16>,
}

/// A llama of a given size: layers of 44 million weights, as many as it takes.
fn llama(gib: f64) -> RandomLlama {
    let mut llama = RandomLlama {
        hidden: 2048,
        ffn: 5632,
        heads: 32,
        kv_heads: 4,
        dtype: Dtype::BF16,
        layers: 1,
        shards: 4,
        halves: true,
        ..RandomLlama::default()
    };
    #[expect(clippy::cast_precision_loss, reason = "about")]
    while (llama.bytes() as f64) < gib * f64::from(1_u32 << 30) {
        llama.layers += 1;
    }
    llama
}

/// A llama of the shapes of Llama 2 7B.
pub(crate) fn llama_2_7b(layers: u16) -> RandomLlama {
    RandomLlama {
        hidden: 4096,
        ffn: 11008,
        heads: 32,
        kv_heads: 32,
        vocabulary: 32000,
        dtype: Dtype::BF16,
        layers: layers.into(),
        shards: 3,
        halves: true,
        ..RandomLlama::default()
    }
}

pub(crate) fn make(settings: &Settings) -> Result<()> {
    ensure!((0.01..=64.0).contains(&settings.gib), "--gib is to be between 0.01 and 64");
    let llama = settings.layers.map_or_else(|| llama(settings.gib), llama_2_7b);
    println!("{}: {} layers, {} bytes of weights", settings.folder.display(), llama.layers, llama.bytes());
    llama.write(&settings.folder);
    Ok(())
}
