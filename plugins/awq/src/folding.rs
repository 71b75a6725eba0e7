//! Scales that were chosen for the inputs of linears, and what becomes of the tensors by them.
//!
//! Where the inputs of linears are scaled, and what takes the inverse, the host tells ([`Fold`]). What a norm takes is
//! rounded to the type in which it is stored, and scales are corrected to what it has become, so that nothing is lost
//! there. It knows nothing of how scales are chosen.

use qhost_plugin_api::{
    documents::{Fold, FoldSource, InputGroup, SourceTensor},
    sdk::{Failure, Result, apply_fold},
};

use crate::narrow::rounded_to;

/// The folds of a unit whose scales are known: one for every channel, if it has some.
#[derive(Debug, Default)]
pub(crate) struct Folding<'a> {
    known: Vec<(&'a Fold, Option<Vec<f32>>)>,
}

/// Some outputs of a matrix in a tensor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    /// The tensor.
    pub(crate) tensor: u32,
    /// The expert, if it is one's.
    pub(crate) expert: Option<u32>,
    /// The first output.
    pub(crate) first: u64,
    /// From one to the next.
    pub(crate) step: u64,
    /// How many.
    pub(crate) count: u64,
}

impl<'a> Folding<'a> {
    /// Takes the scales of a fold, or that it has none.
    pub(crate) fn put(&mut self, fold: &'a Fold, scales: Option<Vec<f32>>) {
        self.known.push((fold, scales));
    }

    /// Whether it is known what scales a fold has.
    pub(crate) fn has(&self, fold: &Fold) -> bool {
        self.known.iter().any(|(known, _)| std::ptr::eq(*known, fold))
    }

    /// The folds that have scales.
    fn scaled(&self) -> impl Iterator<Item = (&'a Fold, &[f32])> {
        self.known.iter().filter_map(|(fold, scales)| Some((*fold, scales.as_deref()?)))
    }

    /// The scales of a matrix's inputs, if they have some.
    pub(crate) fn of_inputs(&self, tensor: u32, expert: Option<u32>) -> Option<&[f32]> {
        let reads = |fold: &Fold| fold.readers.contains(&tensor) && (fold.expert.is_none() || fold.expert == expert);
        self.scaled().find(|(fold, _)| reads(fold)).map(|(_, scales)| scales)
    }

    /// What the outputs of a part are divided by, if by anything.
    pub(crate) fn of_outputs(&self, part: Part) -> Option<Vec<f32>> {
        let mut divisors: Option<Vec<f32>> = None;
        for (fold, scales) in self.scaled() {
            let FoldSource::Rows(rows) = &fold.source else { continue };
            if rows.weight != part.tensor || fold.expert.is_some_and(|expert| part.expert != Some(expert)) {
                continue;
            }
            let divisors = divisors.get_or_insert_with(|| vec![1.0; usize::try_from(part.count).unwrap_or(0)]);
            for (channel, scale) in (0..).zip(scales) {
                let Some(distance) = rows.map.row(channel).checked_sub(part.first) else { continue };
                if !distance.is_multiple_of(part.step.max(1)) {
                    continue;
                }
                let place = usize::try_from(distance / part.step.max(1)).ok();
                if let Some(divisor) = place.and_then(|place| divisors.get_mut(place)) {
                    *divisor = *scale;
                }
            }
        }
        divisors
    }

    /// Makes of a whole tensor what it is by the scales that are known.
    pub(crate) fn apply(&self, (id, tensor): (u32, &SourceTensor), values: &mut [f32]) -> Result<()> {
        self.scaled().try_for_each(|(fold, scales)| apply_fold(fold, scales, (id, tensor), values))
    }
}

/// Whether a tensor is changed by scales of a fold.
pub(crate) fn touches(fold: &Fold, tensor: u32) -> bool {
    let takes = match &fold.source {
        FoldSource::Norm(norm) => norm.weight == tensor || norm.bias == Some(tensor),
        FoldSource::Rows(rows) => rows.weight == tensor || rows.bias == Some(tensor),
        _ => false,
    };
    takes || fold.readers.contains(&tensor)
}

/// The folds that are about a group of a unit's inputs.
pub(crate) fn of_group<'a>(folds: &'a [Fold], unit: u32, group: &InputGroup) -> impl Iterator<Item = &'a Fold> {
    folds.iter().filter(move |fold| fold.unit == unit && fold.groups.contains(group))
}

/// Scales that are exactly what a norm gives up when its gains are stored as what they are divided by them.
///
/// `gains` are those of the norm as they are stored, of this type. A scale stays 1 where the gain is nothing, or would
/// become something that the type does not hold.
pub(crate) fn settle_on_norm(gains: &[f32], offset: f32, dtype: &str, scales: &mut [f32]) -> Result<()> {
    for (gain, scale) in gains.iter().zip(scales) {
        let whole = f64::from(*gain) + f64::from(offset);
        let stored = rounded_to(dtype, single(whole / f64::from(*scale) - f64::from(offset)))
            .ok_or_else(|| Failure::unsupported(format!("norms of the type {dtype} are not known")))?;
        let became = f64::from(stored) + f64::from(offset);
        let settled = single(whole / became);
        *scale = if stored.is_finite() && settled.is_finite() && settled > 0.0 && near(settled, *scale) {
            settled
        } else {
            1.0
        };
    }
    Ok(())
}

#[expect(clippy::cast_possible_truncation, reason = "weights are in f32")]
fn single(number: f64) -> f32 {
    number as f32
}

/// Whether a scale is still about what was wanted.
fn near(settled: f32, wanted: f32) -> bool {
    (settled / wanted - 1.0).abs() < 0.1
}
