//! Finding the scales that a writer has chosen, from what took their inverse.
//!
//! Of a norm that is the gain itself. Of outputs of a linear before, which may be packed, it is how much of the source's
//! row there is in the stored one: rounding errors hardly lean towards the row.

use std::collections::{BTreeMap, BTreeSet};

use qhost_plugin_api::{
    documents::{Fold, FoldSource, FoldedNorm, FoldedRows},
    sdk::{Result, UnitHandle},
};

use super::{pair::Pair, scaling::Scaling};
use crate::Packing;

/// The factors of all tensors of a unit that folds are about, by the source's tensors.
///
/// Norms come first: rows are looked at when their inputs are as they were.
///
/// # Errors
/// Fails when a tensor cannot be read.
pub(super) fn scalings<'a>(
    packing: &impl Packing,
    folds: impl Iterator<Item = &'a Fold> + Clone,
    pairs: &BTreeMap<u32, &Pair>,
    io: &UnitHandle,
) -> Result<BTreeMap<u32, Scaling>> {
    let mut scalings = Scalings { found: BTreeMap::new(), pairs };
    for fold in folds.clone() {
        if let FoldSource::Norm(norm) = &fold.source {
            scalings.undo_norm(packing, fold, norm, io)?;
        }
    }
    for fold in folds {
        if let FoldSource::Rows(rows) = &fold.source {
            scalings.undo_rows(packing, fold, rows, io)?;
        }
    }
    Ok(scalings.found)
}

struct Scalings<'a> {
    found: BTreeMap<u32, Scaling>,
    pairs: &'a BTreeMap<u32, &'a Pair>,
}

impl Scalings<'_> {
    fn undo_norm(&mut self, packing: &impl Packing, fold: &Fold, norm: &FoldedNorm, io: &UnitHandle) -> Result<()> {
        let Some(pair) = self.pairs.get(&norm.weight) else { return Ok(()) };
        let offset = f64::from(norm.offset);
        let scales = pair.each(packing, io, |_, source, stored| {
            let both = source.iter().zip(&*stored);
            let scale =
                |(source, stored): (&f32, &f32)| sound((f64::from(*source) + offset) / (f64::from(*stored) + offset));
            both.map(scale).collect::<Vec<_>>()
        })?;
        for (channel, scale) in (0..).zip(scales.concat()) {
            self.scale_readers(fold, channel, scale);
            for tensor in [Some(norm.weight), norm.bias].into_iter().flatten() {
                if let Some(scaling) = self.scaling(tensor) {
                    scaling.scale_output(None, channel, scale);
                }
            }
        }
        if let Some(scaling) = self.scaling(norm.weight) {
            scaling.offset = offset;
        }
        Ok(())
    }

    fn undo_rows(&mut self, packing: &impl Packing, fold: &Fold, rows: &FoldedRows, io: &UnitHandle) -> Result<()> {
        let Some(pair) = self.pairs.get(&rows.weight) else { return Ok(()) };
        let scaling = self.found.get(&rows.weight).unwrap_or(&pair.unscaled);
        let products = pair.each(packing, io, |range, source, stored| {
            scaling.undo(range.start, stored);
            scaling.products(fold.expert, range.start, source, stored)
        })?;
        let mut sums = vec![(0.0, 0.0); scaling.outputs()];
        for (output, both, own) in products.into_iter().flatten() {
            if let Some(sum) = sums.get_mut(output) {
                *sum = (sum.0 + both, sum.1 + own);
            }
        }
        let scale = |output: u64| {
            let sum = usize::try_from(output).ok().and_then(|output| sums.get(output));
            sum.map_or(1.0, |(both, own)| sound(own / both))
        };
        for channel in 0..fold.channels {
            self.scale_readers(fold, channel, scale(rows.map.row(channel)));
        }
        // Channels may share an output, which has been divided once.
        let outputs: BTreeSet<u64> = (0..fold.channels).map(|channel| rows.map.row(channel)).collect();
        for tensor in [Some(rows.weight), rows.bias].into_iter().flatten() {
            if let Some(scaling) = self.scaling(tensor) {
                for output in &outputs {
                    scaling.scale_output(fold.expert, *output, scale(*output));
                }
            }
        }
        Ok(())
    }

    fn scale_readers(&mut self, fold: &Fold, channel: u64, scale: f64) {
        for reader in &fold.readers {
            if let Some(scaling) = self.scaling(*reader) {
                scaling.scale_input(fold.expert, channel, 1.0 / scale);
            }
        }
    }

    fn scaling(&mut self, tensor: u32) -> Option<&mut Scaling> {
        let pair = self.pairs.get(&tensor)?;
        Some(self.found.entry(tensor).or_insert_with(|| pair.unscaled.clone()))
    }
}

/// A scale that something can be divided by; nothing is undone by what is none, so that it shows as an error.
fn sound(scale: f64) -> f64 {
    if scale.is_normal() && scale > 0.0 { scale } else { 1.0 }
}
