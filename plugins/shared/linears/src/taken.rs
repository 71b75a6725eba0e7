//! Modules whose codes come ready-made from quantised files: taken over without being rounded anew.
//!
//! Codes are held in at least as many bits as they have, groups in groups that divide them. It knows encodings and
//! settings; how codes are packed is the format's.

use std::sync::{Mutex, PoisonError};

use qhost_plugin_api::{
    documents::{BoundOf, Encoding, Fidelity, FidelityClass, Offer},
    sdk::{CHUNK_WEIGHTS, Failure, Planes, Result, UnitHandle},
};
use qhost_rounding::{Groups, Rounded, f16};

use crate::{Module, Settings, in_memory};

/// Smaller groups are not taken, since most loaders know none, and scales that are products are rounded on top of that;
/// whole rows are, however long.
pub(crate) const LEAST_GROUP: u64 = 32;

/// Files whose scales are as they will be may have groups that are smaller, which one loader knows.
const LEAST_GROUP_OF_FILES: u64 = 16;

/// Minima become zero points where steps can be made so many times finer. Else weights of a group are all off by up to
/// half a step in the same direction, which costs more than rounding them anew: of a trained model's 4-bit codes with
/// minima (KL 0.0042 to the original) 0.0093 was left of the first, and 0.0051 of the second; with steps of an eighth,
/// nothing is lost (0.00110 of 0.00107).
const LEAST_FINER: i64 = 8;

/// The most by which a number changes when it is rounded to binary16, as a part of it.
pub const NARROWED: f64 = 1.0 / 2048.0;

/// What a format holds.
#[derive(Debug, Clone, Copy)]
pub struct Holds {
    /// Widths of codes, in order.
    pub widths: &'static [u32],
    /// The least zero point.
    pub least_zero: i64,
    /// Whether inputs may be in an order of their own.
    pub orders: bool,
}

/// How a module's codes are taken over.
#[derive(Debug, Clone, PartialEq)]
pub struct Taken {
    /// In which of the encodings that are offered.
    pub encoding: Encoding,
    /// What that does to the numbers.
    pub fidelity: Fidelity,
    /// What is added to codes and zero points, so that symmetric ones are symmetric in more bits.
    shift: u8,
    /// By what steps are made finer, where minima become zero points: codes are multiplied, scales divided.
    finer: u8,
    /// The groups that are made of one.
    repeat: usize,
}

impl Taken {
    /// The best of the offers that a format holds for a matrix of so many inputs, and the settings of that; `asked` for,
    /// or else those of the offer.
    #[must_use]
    pub fn best(offers: &[Offer], columns: u64, asked: Option<Settings>, holds: &Holds) -> Option<(Settings, Self)> {
        let fitting = offers.iter().filter_map(|offer| {
            let (settings, taken) = Self::of(&offer.encoding, columns, asked, holds)?;
            Some((offer.fidelity.then(&taken.fidelity).class, settings, taken))
        });
        // The first of the best: they come cheapest first.
        let best = fitting.min_by_key(|(class, settings, _)| (*class, settings.bits))?;
        Some((best.1, best.2))
    }

    fn of(encoding: &Encoding, columns: u64, asked: Option<Settings>, holds: &Holds) -> Option<(Settings, Self)> {
        let (bits, size) = (encoding.bits?, encoding.group_size?);
        let whole = size == columns;
        let [least, greatest] = encoding.zeros?;
        let width = match asked {
            Some(asked) => asked.bits,
            None => *holds.widths.iter().find(|width| **width >= bits)?,
        };
        let of_files = encoding.dtype.as_deref() == Some("F16");
        let least_group = if of_files { LEAST_GROUP_OF_FILES } else { LEAST_GROUP };
        let sound = encoding.is_grouped()
            && (1..=width).contains(&bits)
            && size > 0
            && columns.is_multiple_of(size)
            && (whole || size >= least_group)
            && (!encoding.permuted || holds.orders);
        if !sound {
            return None;
        }
        let minima = encoding.kind == Encoding::MINIMUM;
        let centred = encoding.zero() == Some(1 << (bits - 1));
        let symmetric = asked.map_or(centred, |asked| asked.symmetric);
        let act_order = asked.map_or(encoding.permuted, |asked| asked.act_order);
        let group_size = match asked {
            Some(asked) => asked.group_size,
            None => (!whole).then_some(size),
        };
        let of_group = group_size.unwrap_or(columns);
        if symmetric && !centred
            || encoding.permuted && (!act_order || of_group != size)
            || of_group == 0
            || !size.is_multiple_of(of_group)
        {
            return None;
        }
        let (shift, finer) = match (symmetric, minima) {
            (true, _) => ((1_i64 << (width - 1)) - (1 << (bits - 1)), 1),
            (false, true) => (0, Some(1_i64 << (width - bits)).filter(|finer| *finer >= LEAST_FINER)?),
            (false, false) => (0, 1),
        };
        let largest = (1_i64 << width) - 1;
        // A minimum is somewhere between whole steps.
        let top = if minima { ((1 << bits) - 1) * finer } else { largest };
        let [least, greatest] = [least * finer + shift, greatest * finer + shift];
        if least < holds.least_zero || greatest > top.min(largest) {
            return None;
        }
        let mut fidelity = Fidelity::exact();
        if !of_files {
            fidelity = fidelity.then(&Fidelity::rounded(NARROWED, BoundOf::Weight));
        }
        if minima {
            #[expect(clippy::cast_precision_loss, reason = "a small power of two")]
            let most = 0.5 / finer as f64;
            fidelity = fidelity.then(&Fidelity::rounded(most, BoundOf::Step));
        }
        let taken = Self {
            encoding: encoding.clone(),
            fidelity,
            shift: u8::try_from(shift).ok()?,
            finer: u8::try_from(finer).ok()?,
            repeat: usize::try_from(size / of_group).ok()?,
        };
        Some((Settings { bits: width, group_size, symmetric, act_order }, taken))
    }

    /// Whether the numbers stay the same.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.fidelity.class == FidelityClass::Exact
    }
}

/// A module that is taken over.
#[derive(Debug, Clone)]
pub struct Arrived {
    /// Codes, scales and zeros.
    pub rounded: Rounded,
    /// The group of every input, where they are in an order of their own.
    order: Vec<u32>,
    size: usize,
}

impl Arrived {
    /// Which group each input belongs to.
    #[must_use]
    pub fn groups(&self) -> Groups<'_> {
        if self.order.is_empty() { Groups::Neighbours(self.size) } else { Groups::Listed(&self.order) }
    }
}

/// Reads a module that is taken over.
///
/// # Errors
/// Fails when its rows are not to be had, and with kind `UNSUPPORTED` when a scale is too large for 16 bits.
pub fn arrive(io: &UnitHandle, module: &Module, taken: &Taken) -> Result<Arrived> {
    let (rows, columns, count) = (in_memory(module.rows)?, in_memory(module.columns)?, in_memory(module.groups())?);
    let mut rounded =
        Rounded { codes: vec![0; rows * columns], scales: vec![f16::ZERO; rows * count], zeros: vec![0; rows * count] };
    let order = Mutex::new(Vec::new());
    let at_once = (in_memory(CHUNK_WEIGHTS)? / columns.max(1)).max(1);
    let parts: Vec<_> = rounded
        .codes
        .chunks_mut(at_once * columns)
        .zip(rounded.scales.chunks_mut(at_once * count).zip(rounded.zeros.chunks_mut(at_once * count)))
        .map(Mutex::new)
        .collect();
    io.host().parallel_map(parts.len(), |index| {
        let mut part = parts[index].lock().unwrap_or_else(PoisonError::into_inner);
        let (codes, (scales, zeros)) = &mut *part;
        let lent = (codes.len() / columns.max(1)) as u64;
        let planes = io.planes(module.tensor, (index * at_once) as u64, lent, &taken.encoding)?;
        take(taken, &planes, module, (codes, scales, zeros)).map_err(|failure| failure.about(&*module.name))?;
        if index == 0 {
            order.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&planes.order);
        }
        io.progress(codes.len() as u64);
        Ok(())
    })?;
    drop(parts);
    let order: Vec<u32> = order.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(group) = order.iter().find(|group| **group as usize >= count) {
        let what = format!("an input is in the group {group}, and there are {count}");
        return Err(Failure::corrupt(what).about(&*module.name));
    }
    Ok(Arrived { rounded, order, size: in_memory(module.group_size())? })
}

/// Codes, scales and zero points of some rows as the format holds them.
fn take(
    taken: &Taken,
    planes: &Planes,
    module: &Module,
    (codes, scales, zeros): (&mut [u8], &mut [f16], &mut [u8]),
) -> Result<()> {
    let largest = module.settings.largest_code();
    if planes.bytes.len() != codes.len() || planes.scales.len() * taken.repeat != scales.len() {
        return Err(Failure::internal("rows of another size than planned"));
    }
    for (code, came) in codes.iter_mut().zip(&planes.bytes) {
        let held = u32::from(*came) * u32::from(taken.finer) + u32::from(taken.shift);
        *code = u8::try_from(held)
            .ok()
            .filter(|code| *code <= largest)
            .ok_or_else(|| Failure::corrupt(format!("a code is {came}, which {} do not hold", taken.encoding)))?;
    }
    let minima = taken.encoding.kind == Encoding::MINIMUM;
    let places = scales.chunks_exact_mut(taken.repeat.max(1)).zip(zeros.chunks_exact_mut(taken.repeat.max(1)));
    for ((scale, offset), (scales, zeros)) in planes.scales.iter().zip(&planes.offsets).zip(places) {
        let scale = scale / f32::from(taken.finer);
        let narrowed = narrowed(scale)?;
        let zero = match (minima, scale == 0.0) {
            (true, true) => 0.0,
            (true, false) => (-offset / scale).round().clamp(0.0, f32::from(largest)),
            (false, _) => offset + f32::from(taken.shift),
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "looked at below")]
        let held = zero as u8;
        if f32::from(held).to_bits() != (zero + 0.0).to_bits() || held > largest {
            return Err(Failure::corrupt(format!("a zero point is {zero}, and was said to be none such")));
        }
        scales.fill(narrowed);
        zeros.fill(held);
    }
    Ok(())
}

/// A scale in binary16: what is something stays something.
fn narrowed(scale: f32) -> Result<f16> {
    let narrowed = f16::from_f32(scale);
    if !narrowed.is_finite() {
        return Err(Failure::unsupported(format!("a scale is {scale}, which 16 bits do not hold")));
    }
    let lost = scale != 0.0 && narrowed.to_f32() == 0.0;
    Ok(if lost { f16::MIN_POSITIVE_SUBNORMAL.copysign(narrowed) } else { narrowed })
}

/// Memory that taking a module over takes, for all threads.
pub(crate) fn memory(module: &Module) -> u64 {
    // Codes, scales and zeros.
    module.weights() + module.rows * module.groups() * 3
}

/// Memory that each thread takes beside that: planes come from the source as they are, and over the border.
pub(crate) fn memory_per_thread(module: &Module) -> u64 {
    let rows = (CHUNK_WEIGHTS / module.columns.max(1)).max(1);
    (rows * module.columns + rows * module.groups() * 8 + module.columns * 4) * 3
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLDS: Holds = Holds { widths: &[2, 3, 4, 8], least_zero: 0, orders: true };

    fn free(encoding: &Encoding, columns: u64) -> Option<(Settings, Taken)> {
        Taken::of(encoding, columns, None, &HOLDS)
    }

    fn settings(bits: u32, group_size: Option<u64>, symmetric: bool) -> Settings {
        Settings { bits, group_size, symmetric, act_order: false }
    }

    #[test]
    fn codes_keep_their_width_or_are_held_in_the_next() {
        let (found, taken) = free(&Encoding::affine(4, 32, [8, 8], "F16"), 128).unwrap();
        assert_eq!((found, taken.shift, taken.is_exact()), (settings(4, Some(32), true), 0, true));
        // 5 bits around 16 are 8 bits around 128.
        let (found, taken) = free(&Encoding::affine(5, 32, [16, 16], "F16"), 128).unwrap();
        assert_eq!((found, taken.shift), (settings(8, Some(32), true), 112));
        let (found, taken) = free(&Encoding::affine(5, 32, [0, 31], "F16"), 128).unwrap();
        assert_eq!((found, taken.shift), (settings(8, Some(32), false), 0));
        let (found, _) = free(&Encoding::affine(8, 128, [128, 128], "F16"), 128).unwrap();
        assert_eq!(found, settings(8, None, true), "whole rows");
        let (_, taken) = free(&Encoding::affine(4, 32, [8, 8], "BF16"), 128).unwrap();
        assert_eq!(taken.fidelity, Fidelity::rounded(NARROWED, BoundOf::Weight));
    }

    #[test]
    fn what_a_format_does_not_hold_is_not_taken() {
        let wrong = [
            Encoding::affine(4, 8, [8, 8], "F16"),
            Encoding::affine(6, 16, [32, 32], "F32"),
            Encoding::affine(4, 96, [8, 8], "F16"),
            Encoding::affine(4, 32, [-1, 8], "F16"),
            Encoding::affine(4, 32, [8, 16], "F16"),
            Encoding::affine(9, 32, [8, 8], "F16"),
            Encoding::affine(0, 32, [0, 0], "F16"),
            Encoding::minimum(5, 32, None, "F16"),
            Encoding::minimum(5, 32, Some([-1, 3]), "F16"),
            Encoding::minimum(5, 32, Some([2, 32]), "F16"),
            Encoding::minimum(4, 32, Some([2, 9]), "F16"),
            Encoding::minimum(8, 32, Some([2, 9]), "F16"),
            Encoding::own("toy/blocks", 32, 18),
            Encoding::float("F16"),
        ];
        for encoding in wrong {
            assert_eq!(free(&encoding, 128), None, "{encoding:?}");
        }
        let permuted = Encoding::affine(4, 32, [8, 8], "F16").permuted();
        assert!(free(&permuted, 128).unwrap().0.act_order);
        assert_eq!(Taken::of(&permuted, 128, None, &Holds { orders: false, ..HOLDS }), None);
        let zeros = Encoding::affine(4, 32, [0, 15], "F16");
        assert_eq!(Taken::of(&zeros, 128, None, &Holds { least_zero: 1, ..HOLDS }), None);
    }

    #[test]
    fn what_is_asked_for_is_taken_where_it_fits_exactly() {
        let asked = |encoding: &Encoding, settings| Taken::of(encoding, 128, Some(settings), &HOLDS);
        let symmetric = Encoding::affine(3, 64, [4, 4], "F16");
        let (found, taken) = asked(&symmetric, settings(4, Some(32), true)).unwrap();
        assert_eq!((found.bits, found.group_size, taken.shift, taken.repeat), (4, Some(32), 4, 2));
        assert_eq!(asked(&symmetric, settings(4, Some(32), false)).unwrap().1.shift, 0);
        for other in [settings(2, Some(64), true), settings(4, Some(128), true), settings(4, None, true)] {
            assert_eq!(asked(&symmetric, other), None, "{other:?}");
        }
        let asymmetric = Encoding::affine(4, 64, [3, 9], "F16");
        assert_eq!(asked(&asymmetric, settings(4, Some(64), true)), None);
        assert!(asked(&Encoding::affine(4, 128, [3, 9], "F16"), settings(4, None, false)).is_some());
        assert_eq!(asked(&symmetric.clone().permuted(), settings(4, Some(64), true)), None, "no order is wanted");
    }

    /// Minima become the nearest zero points; with bits to spare, of finer steps.
    #[test]
    fn minima_become_zero_points_within_half_a_step() {
        let encoding = Encoding::minimum(5, 32, Some([0, 31]), "F16");
        let (settings, taken) = free(&encoding, 32).unwrap();
        assert_eq!((settings.bits, taken.finer), (8, 8));
        assert_eq!(taken.fidelity, Fidelity::rounded(1.0 / 16.0, BoundOf::Step));
        let mut planes = Planes::room(&encoding, 2, 32).unwrap();
        for (index, code) in planes.bytes.iter_mut().enumerate() {
            *code = u8::try_from(index % 32).unwrap();
        }
        planes.scales.copy_from_slice(&[0.25, -0.5]);
        planes.offsets.copy_from_slice(&[-1.03, 3.7]);
        let module = crate::contents::tests::module(2, 32, settings);
        let (mut codes, mut scales, mut zeros) = (vec![0; 64], vec![f16::ZERO; 2], vec![0; 2]);
        take(&taken, &planes, &module, (&mut codes, &mut scales, &mut zeros)).unwrap();
        let rounded = Rounded { codes, scales, zeros };
        let (mut before, mut after) = (vec![0.0; 64], vec![0.0; 64]);
        planes.weights(&mut before).unwrap();
        rounded.dequantize(32, Groups::Neighbours(32), &mut after);
        for (index, (before, after)) in before.iter().zip(&after).enumerate() {
            let step = if index < 32 { 0.25 } else { 0.5 };
            assert!((before - after).abs() <= step / 16.0 + 1e-6, "{index}: {before} {after}");
        }
        planes.bytes[3] = 32;
        assert!(take(&taken, &planes, &module, (&mut [0; 64], &mut [f16::ZERO; 2], &mut [0; 2])).is_err());
    }
}
