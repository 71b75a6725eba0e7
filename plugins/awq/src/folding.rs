//! Scales that were chosen for the inputs of linears, and what becomes of the tensors by them.
//!
//! Where the inputs of linears are scaled, and what takes the inverse, the host tells ([`Fold`]). What a norm takes is
//! rounded to the type in which it is stored, and scales are corrected to what it has become, so that nothing is lost
//! there but in biases. It knows nothing of how scales are chosen.

use qhost_plugin_api::{
    documents::{Fold, FoldSource, FoldedRows, InputGroup, SourceTensor},
    sdk::{Failure, Result, apply_fold},
};

use qhost_rounding::f16;

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

impl Part {
    /// Where it has an output of the matrix.
    fn place(self, output: u64) -> Option<usize> {
        let (distance, step) = (output.checked_sub(self.first)?, self.step.max(1));
        let place = distance / step;
        (distance.is_multiple_of(step) && place < self.count).then(|| usize::try_from(place).ok()).flatten()
    }

    /// Whether it has outputs that take the inverse of a fold's scales.
    fn is_source(self, fold: &Fold, rows: &FoldedRows) -> bool {
        rows.weight == self.tensor && fold.expert.is_none_or(|expert| self.expert == Some(expert))
    }
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
            if !part.is_source(fold, rows) {
                continue;
            }
            let divisors = divisors.get_or_insert_with(|| vec![1.0; usize::try_from(part.count).unwrap_or(0)]);
            for (channel, scale) in (0..).zip(scales) {
                if let Some(divisor) = part.place(rows.map.row(channel)).and_then(|place| divisors.get_mut(place)) {
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

/// Scales that leave what is stored of every channel's source finite when it is divided by them: a scale becomes 1 where
/// the type does not hold the quotient.
pub(crate) fn settle_on_values(values: &[f32], dtype: &str, scales: &mut [f32]) {
    for (value, scale) in values.iter().zip(scales) {
        let quotient = single(f64::from(*value) / f64::from(*scale));
        if !rounded_to(dtype, quotient).is_some_and(f32::is_finite) {
            *scale = 1.0;
        }
    }
}

/// The same for the largest of the 16-bit scales of codes that every channel's source has: the quotient has to be finite,
/// and no number of few bits where it was not one before.
pub(crate) fn settle_on_codes(largest: &[f32], scales: &mut [f32]) {
    for (largest, scale) in largest.iter().zip(scales) {
        let quotient = f16::from_f32(largest / *scale);
        if !quotient.is_finite() || *scale > 1.0 && quotient < f16::MIN_POSITIVE {
            *scale = 1.0;
        }
    }
}

/// For every channel of a fold, the largest of the scales that the codes of its source have, if outputs of a part are that;
/// `scales` are those of the part's outputs, some groups each.
pub(crate) fn largest_of_source(fold: &Fold, part: Part, (scales, groups): (&[f16], usize)) -> Option<Vec<f32>> {
    let FoldSource::Rows(rows) = &fold.source else { return None };
    if !part.is_source(fold, rows) {
        return None;
    }
    let of_outputs: Vec<&[f16]> = scales.chunks_exact(groups.max(1)).collect();
    let largest = |channel| {
        let of_output = of_outputs.get(part.place(rows.map.row(channel))?)?;
        Some(of_output.iter().fold(0.0, |largest: f32, scale| largest.max(scale.to_f32().abs())))
    };
    // An output of another part says nothing.
    Some((0..fold.channels).map(|channel| largest(channel).unwrap_or(1.0)).collect())
}

#[expect(clippy::cast_possible_truncation, reason = "weights are in f32")]
fn single(number: f64) -> f32 {
    number as f32
}

/// Whether a scale is still about what was wanted.
fn near(settled: f32, wanted: f32) -> bool {
    (settled / wanted - 1.0).abs() < 0.1
}

#[cfg(test)]
mod tests {
    use qhost_plugin_api::documents::RowMap;

    use super::*;

    #[test]
    fn scales_that_a_source_cannot_be_divided_by_are_1() {
        let mut scales = [0.25, 0.25, 4.0, 0.25];
        settle_on_values(&[60000.0, 1000.0, 60000.0, -60000.0], "F16", &mut scales);
        assert_eq!(scales.map(f32::to_bits), [1.0_f32, 0.25, 4.0, 1.0].map(f32::to_bits));
        let mut scales = [0.25];
        settle_on_values(&[60000.0], "BF16", &mut scales);
        assert_eq!(scales.map(f32::to_bits), [0.25_f32].map(f32::to_bits));
        // Overflow, the largest there is, few bits, as few as before, and more of them.
        let mut scales = [0.25, 0.5, 8.0, 0.5, 8.0];
        settle_on_codes(&[20000.0, 32752.0, 2e-4, 2e-5, 1.0], &mut scales);
        assert_eq!(scales.map(f32::to_bits), [1.0_f32, 0.5, 1.0, 0.5, 8.0].map(f32::to_bits));
    }

    #[test]
    fn the_largest_scales_of_a_source_are_those_of_the_outputs_that_make_the_channels() {
        let map = RowMap::in_order(2, 4).in_parts(1, 1).shared_by(2);
        let fold = Fold::new(0, InputGroup::AttentionOut, vec![9], 4, FoldSource::Rows(FoldedRows::new(3, None, map)));
        let part = Part { tensor: 3, expert: None, first: 0, step: 1, count: 4 };
        let scales = [1.0, 2.0, 3.0, 4.0, 5.0, -6.0, 7.0, 0.5].map(f16::from_f32);
        let found = largest_of_source(&fold, part, (&scales, 2));
        assert_eq!(found.as_deref(), Some(&[6.0, 6.0, 7.0, 7.0][..]));
        assert_eq!(largest_of_source(&fold, Part { tensor: 4, ..part }, (&scales, 2)), None);
        let second = Part { first: 3, count: 1, ..part };
        let found = largest_of_source(&fold, second, (&scales[6..], 2));
        assert_eq!(found.as_deref(), Some(&[1.0, 1.0, 7.0, 7.0][..]));
    }

    #[test]
    fn a_norm_is_divided_by_what_its_type_holds() {
        let mut scales = [1.1_f32, 3.0, 2.0, 2.0];
        settle_on_norm(&[1.0, -0.5, 0.0, 3.0], 0.0, "BF16", &mut scales).unwrap();
        for (gain, scale) in [1.0_f32, -0.5, 0.0, 3.0].iter().zip(scales) {
            let stored = rounded_to("BF16", gain / scale).unwrap();
            assert!((stored * scale - gain).abs() <= f32::EPSILON * gain.abs(), "{gain} {scale}");
        }
        assert_eq!((scales[2], scales[3]), (1.0, 2.0));
        assert!((scales[0] - 1.1).abs() < 0.01 && (scales[1] - 3.0).abs() < 0.02);
        assert!(settle_on_norm(&[1.0], 0.0, "F8_E4M3", &mut [2.0]).is_err());
    }
}
