//! All modules of a unit: what they are rounded to, and that it is written.
//!
//! Rounds to nearest, with the scale that covers the largest weight of a group.

use std::sync::{Mutex, PoisonError};

use qhost_plugin_api::sdk::{CHUNK_WEIGHTS, Failure, Result, UnitHandle};
use qhost_rounding::{Groups, Rounded, f16};

use crate::{
    modules::Module,
    options::{Choices, Settings},
    weights::{fetch, in_memory},
    write::{self, write_module},
};

/// The only metric: the root of the summed squared errors over that of the summed squares.
pub(crate) const RELATIVE_ERROR: &str = "relative_rms_error";

/// Makes every module of a unit.
pub(crate) fn round_unit(io: &UnitHandle, choices: &Choices, modules: &[&Module]) -> Result<()> {
    for module in modules {
        let mut weights = vec![0.0; in_memory(module.weights())?];
        fetch(io, module, &mut weights)?;
        let (rounded, error) = round(io, module, &weights)?;
        drop(weights);
        let groups = Groups::Neighbours(in_memory(module.group_size())?);
        write_module(io, module, &rounded, groups, choices.format)?;
        io.metric(module.segments.qweight, RELATIVE_ERROR, error);
        io.progress(module.weights());
    }
    Ok(())
}

/// Working memory of a unit with these modules.
pub(crate) fn memory<'a>(modules: impl Iterator<Item = &'a Module>) -> u64 {
    // Weights, and codes with what packing takes.
    let of_module = |module: &Module| module.weights() * 5 + module.rows * module.groups() * 3 + write::memory(module);
    modules.map(of_module).max().unwrap_or(0)
}

/// Rounds a matrix; gives the relative error too.
fn round(io: &UnitHandle, module: &Module, weights: &[f32]) -> Result<(Rounded, f64)> {
    let (rows, columns) = (in_memory(module.rows)?, in_memory(module.columns)?);
    let (size, groups) = (in_memory(module.group_size())?, in_memory(module.groups())?);
    let mut rounded = Rounded {
        codes: vec![0; rows * columns],
        scales: vec![f16::ZERO; rows * groups],
        zeros: vec![0; rows * groups],
    };
    let at_once = in_memory(CHUNK_WEIGHTS)?.div_ceil(columns);
    let parts: Vec<_> = weights
        .chunks(at_once * columns)
        .zip(rounded.codes.chunks_mut(at_once * columns))
        .zip(rounded.scales.chunks_mut(at_once * groups).zip(rounded.zeros.chunks_mut(at_once * groups)))
        .map(Mutex::new)
        .collect();
    let sums = io.host().parallel_map(parts.len(), |index| {
        let mut part = parts[index].lock().unwrap_or_else(PoisonError::into_inner);
        let ((weights, codes), (scales, zeros)) = &mut *part;
        let in_rows = weights.chunks_exact(columns).zip(codes.chunks_exact_mut(columns));
        let of_groups = in_rows.flat_map(|(weights, codes)| weights.chunks(size).zip(codes.chunks_mut(size)));
        let mut sums = (0.0, 0.0);
        for ((weights, codes), (scale, zero)) in of_groups.zip(scales.iter_mut().zip(zeros.iter_mut())) {
            (*scale, *zero) = grid(weights, module.settings).map_err(|failure| failure.about(&*module.name))?;
            round_group(weights, (*scale, *zero), module.settings.largest_code(), codes, &mut sums);
        }
        Ok(sums)
    })?;
    drop(parts);
    // In the order of the parts, so that the figure does not depend on the threads.
    let (errors, squares) = sums.into_iter().fold((0.0, 0.0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
    Ok((rounded, if squares > 0.0 { (errors / squares).sqrt() } else { 0.0 }))
}

/// Scale and zero-point of a group, the scale as it is stored.
fn grid(weights: &[f32], settings: Settings) -> Result<(f16, u8)> {
    let largest = settings.largest_code();
    let (low, high) = weights.iter().fold((0.0_f32, 0.0_f32), |(low, high), w| (low.min(*w), high.max(*w)));
    let range = if settings.symmetric { 2.0 * high.max(-low) } else { high - low };
    let mut scale = f16::from_f32(range / f32::from(largest));
    if !scale.is_finite() {
        return Err(Failure::unsupported(format!("a weight of {} is too large for a 16-bit scale", high.max(-low)))
            .hint("leave the module as it is with --plugin-option dynamic=…"));
    }
    if scale == f16::ZERO {
        // All weights are zero, or as good as.
        scale = f16::MIN_POSITIVE_SUBNORMAL;
    }
    let zero = if settings.symmetric {
        largest / 2 + 1
    } else {
        // Not 0, which cannot be stored less one.
        code(-low / scale.to_f32(), largest).max(1)
    };
    Ok((scale, zero))
}

fn round_group(weights: &[f32], (scale, zero): (f16, u8), largest: u8, codes: &mut [u8], sums: &mut (f64, f64)) {
    let (scale, zero) = (scale.to_f32(), f32::from(zero));
    for (weight, out) in weights.iter().zip(codes) {
        *out = code(weight / scale + zero, largest);
        let error = f64::from(scale * (f32::from(*out) - zero) - weight);
        sums.0 += error * error;
        sums.1 += f64::from(*weight) * f64::from(*weight);
    }
}

/// The nearest code.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is clamped to a byte's range")]
fn code(value: f32, largest: u8) -> u8 {
    value.round_ties_even().clamp(0.0, f32::from(largest)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(bits: u32, symmetric: bool) -> Settings {
        Settings { bits, group_size: Some(8), symmetric, act_order: false }
    }

    #[test]
    fn a_symmetric_grid_covers_the_largest_weight_from_the_middle() {
        let (scale, zero) = grid(&[0.1, -1.5, 0.7], settings(4, true)).unwrap();
        assert_eq!((scale, zero), (f16::from_f32(0.2), 8));
        assert_eq!(grid(&[0.0; 4], settings(2, true)).unwrap(), (f16::MIN_POSITIVE_SUBNORMAL, 2));
        assert_eq!(grid(&[1.0], settings(8, true)).unwrap().1, 128);
        assert!(grid(&[1e9], settings(4, true)).is_err());
    }

    #[test]
    fn an_asymmetric_grid_has_a_zero_that_can_be_stored_less_one() {
        for bits in [2, 3, 4, 8] {
            let largest = settings(bits, false).largest_code();
            for weights in [[0.5, 1.0], [-1.0, -0.5], [-0.3, 0.9], [0.0, 0.0]] {
                let (scale, zero) = grid(&weights, settings(bits, false)).unwrap();
                assert!((1..=largest).contains(&zero) && scale.to_f32() > 0.0, "{bits} {weights:?}");
            }
        }
    }

    #[test]
    fn codes_are_the_nearest() {
        let (mut codes, mut sums) = ([0; 4], (0.0, 0.0));
        round_group(&[0.24, -0.26, 10.0, -10.0], (f16::from_f32(0.5), 8), 15, &mut codes, &mut sums);
        assert_eq!(codes, [8, 7, 15, 0]);
        assert!(sums.0 > 0.0 && sums.1 > 200.0);
    }
}
