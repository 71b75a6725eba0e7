//! Large random checkpoints, for measuring memory and speed.

use std::path::Path;

use anyhow::{Result, ensure};
use qhost_tests::checkpoint::RandomLlama;
use safetensors::Dtype;

/// A llama of a given size: layers of 44 million weights, as many as it takes.
pub(crate) fn llama(gib: f64) -> RandomLlama {
    let mut llama = RandomLlama {
        hidden: 2048,
        ffn: 5632,
        heads: 32,
        kv_heads: 4,
        dtype: Dtype::BF16,
        layers: 1,
        shards: 4,
        ..RandomLlama::default()
    };
    #[expect(clippy::cast_precision_loss, reason = "about")]
    while (llama.bytes() as f64) < gib * f64::from(1_u32 << 30) {
        llama.layers += 1;
    }
    llama
}

pub(crate) fn make(folder: &Path, gib: f64) -> Result<()> {
    ensure!((0.01..=64.0).contains(&gib), "--gib is to be between 0.01 and 64");
    let llama = llama(gib);
    println!("{}: {} layers, {} bytes of weights", folder.display(), llama.layers, llama.bytes());
    llama.write(folder);
    Ok(())
}
