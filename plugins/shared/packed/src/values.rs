//! Rows of a packed linear: as floats, as planes of codes with scales and zero points, and in which encodings they are
//! given.
//!
//! It knows what codes, scales and zero points stand for; how they lie in tensors the format says.

use std::ops::Range;

use qhost_plugin_api::{
    documents::Encoding,
    sdk::{Failure, Planes, Result, first_non_finite},
};

use crate::{Linear, Packed, Packing, linear::DAMAGED};

/// Rows of a linear, and whose they are.
pub(crate) struct Piece<'a, P> {
    pub(crate) linear: &'a Linear,
    pub(crate) packing: &'a P,
    pub(crate) packed: &'a Packed<'a>,
    pub(crate) rows: Range<usize>,
}

impl<P: Packing> Piece<'_, P> {
    /// Fills `out` with the weights.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` when the bytes are not those of the linear's tensors, or hold what cannot be.
    pub(crate) fn weights(&self, out: &mut [f32]) -> Result<()> {
        let shape = self.linear.shape;
        self.check(out.len())?;
        let order = self.linear.groups_of_inputs(self.packed.order)?;
        let (rows, minima) = (self.rows.len(), self.packing.has_minima());
        let mut codes = vec![0; out.len()];
        self.packing.codes(self.linear, self.packed, &self.rows, &mut codes);
        let (mut scales, mut offsets) = (vec![0.0; rows * shape.groups], vec![0.0; rows * shape.groups]);
        self.numbers(&mut scales, &mut offsets)?;
        // Neighbours of one group are taken together.
        for (row, (out, codes)) in out.chunks_exact_mut(shape.inputs).zip(codes.chunks_exact(shape.inputs)).enumerate()
        {
            let mut start = 0;
            for run in order.chunk_by(|one, next| one == next) {
                let at = row * shape.groups + run[0] as usize;
                let (scale, offset) = (scales[at], offsets[at]);
                let places = out[start..][..run.len()].iter_mut().zip(&codes[start..][..run.len()]);
                if minima {
                    places.for_each(|(weight, code)| *weight = scale * f32::from(*code) + offset);
                } else {
                    places.for_each(|(weight, code)| *weight = scale * (f32::from(*code) - offset));
                }
                start += run.len();
            }
        }
        Ok(())
    }

    /// Fills planes, which are of one of the linear's [`encodings`].
    ///
    /// # Errors
    /// Fails with kind `INTERNAL` when they are of another, and with `CORRUPT` as [`Self::weights`].
    pub(crate) fn planes(&self, planes: &mut Planes) -> Result<()> {
        let shape = self.linear.shape;
        self.check(planes.bytes.len())?;
        let encoding = planes.encoding();
        let fits = encoding.is_grouped()
            && encoding.bits == Some(shape.bits)
            && encoding.group_size == Some(shape.group_size as u64)
            && (encoding.kind == Encoding::AFFINE || self.packing.has_minima())
            && planes.groups() == shape.groups
            && planes.rows() == self.rows.len();
        let order = self.linear.groups_of_inputs(self.packed.order)?;
        if !fits || !encoding.permuted && !is_natural(self.linear, &order) {
            let what = format!("its rows are not given as {encoding}");
            return Err(Failure::internal(what).about(&*self.linear.name));
        }
        #[expect(clippy::cast_precision_loss, reason = "a zero point is small")]
        let any_zero = encoding.zeros.map_or(0.0, |[least, _]| least as f32);
        let zeros_of_minima = self.packing.has_minima() && encoding.kind == Encoding::AFFINE;
        self.packing.codes(self.linear, self.packed, &self.rows, &mut planes.bytes);
        self.numbers(&mut planes.scales, &mut planes.offsets)?;
        if zeros_of_minima {
            for (offset, scale) in planes.offsets.iter_mut().zip(&planes.scales) {
                *offset = match Steps::of(*scale, *offset) {
                    Steps::Whole(zero) => zero,
                    Steps::Any => any_zero,
                    Steps::Uneven(_) => return Err(Failure::internal("a minimum that is no whole number of steps")),
                };
            }
        }
        if !planes.order.is_empty() {
            planes.order.copy_from_slice(&order);
        }
        Ok(())
    }

    fn check(&self, weights: usize) -> Result<()> {
        let Self { linear, packed, rows, .. } = self;
        let within = rows.end <= linear.shape.outputs && weights == rows.len() * linear.shape.inputs;
        if linear.holds(packed) && within { Ok(()) } else { Err(linear.lost()) }
    }

    /// Scales and zero points or minima, row by row, and group by group within.
    fn numbers(&self, scales: &mut [f32], offsets: &mut [f32]) -> Result<()> {
        let (groups, rows) = (self.linear.shape.groups, self.rows.len());
        let (mut of_group, mut zeros) = (vec![0.0; rows], vec![0.0; rows]);
        for group in 0..groups {
            self.linear.scales(self.packed, group, &self.rows, &mut of_group)?;
            self.packing.zeros(self.linear, self.packed, group, self.rows.start, &mut zeros);
            if let Some(row) = first_non_finite(&zeros) {
                let (output, zero) = (self.rows.start + row, zeros[row]);
                return Err(Failure::corrupt(format!("the minimum of output {output} in group {group} is {zero}"))
                    .about(&*self.linear.name)
                    .hint(DAMAGED));
            }
            for (row, (scale, zero)) in of_group.iter().zip(&zeros).enumerate() {
                scales[row * groups + group] = *scale;
                offsets[row * groups + group] = *zero;
            }
        }
        Ok(())
    }
}

/// The encodings that hold exactly a linear's numbers, that of the files first and floats last. Zero points are looked at.
///
/// # Errors
/// Fails with kind `CORRUPT` when an input is in a group that is not there, or a scale is no number.
pub(crate) fn encodings<P: Packing>(linear: &Linear, packing: &P, packed: &Packed<'_>) -> Result<Vec<Encoding>> {
    if !linear.holds(packed) {
        return Err(linear.lost());
    }
    let permuted = !is_natural(linear, &linear.groups_of_inputs(packed.order)?);
    let (bits, size, scales) = (linear.shape.bits, linear.shape.group_size as u64, linear.scale_type());
    let mut seen = Seen::default();
    for group in 0..linear.shape.groups {
        seen.look_at(linear, packing, packed, group)?;
    }
    let mut found = Vec::new();
    if packing.has_minima() {
        found.push(Encoding::minimum(bits, size, seen.range, scales));
    }
    if let Some(zeros) = seen.zeros(bits) {
        found.push(Encoding::affine(bits, size, zeros, scales));
    }
    if permuted {
        found = found.into_iter().map(Encoding::permuted).collect();
    }
    found.push(Encoding::float("F32"));
    Ok(found)
}

/// What was seen of zero points, or of minima in steps.
#[derive(Default)]
struct Seen {
    /// The least and the greatest, rounded down and up.
    range: Option<[i64; 2]>,
    /// Whether there is a minimum that is no whole number of steps.
    uneven: bool,
}

impl Seen {
    fn look_at<P: Packing>(&mut self, linear: &Linear, packing: &P, packed: &Packed<'_>, group: usize) -> Result<()> {
        let mut zeros = vec![0.0; linear.shape.outputs];
        packing.zeros(linear, packed, group, 0, &mut zeros);
        if !packing.has_minima() {
            for zero in zeros {
                self.widen(zero, zero);
            }
            return Ok(());
        }
        let mut scales = vec![0.0; linear.shape.outputs];
        linear.scales(packed, group, &(0..linear.shape.outputs), &mut scales)?;
        for (scale, minimum) in scales.into_iter().zip(zeros) {
            match Steps::of(scale, minimum) {
                Steps::Any => {}
                Steps::Whole(zero) => self.widen(zero, zero),
                Steps::Uneven(steps) => {
                    self.uneven = true;
                    if steps.is_finite() {
                        self.widen(steps.floor(), steps.ceil());
                    }
                }
            }
        }
        Ok(())
    }

    fn widen(&mut self, least: f32, greatest: f32) {
        #[expect(clippy::cast_possible_truncation, reason = "whole numbers; what is larger is no zero point")]
        let (least, greatest) = (least as i64, greatest as i64);
        let [before, after] = self.range.unwrap_or([least, greatest]);
        self.range = Some([before.min(least), after.max(greatest)]);
    }

    /// The range of zero points, if all are whole.
    fn zeros(&self, bits: u32) -> Option<[i64; 2]> {
        let middle = 1_i64 << (bits - 1);
        (!self.uneven).then_some(self.range.unwrap_or([middle, middle]))
    }
}

/// A minimum in steps of its scale.
enum Steps {
    /// A whole number: the zero point that it stands for exactly.
    Whole(f32),
    /// No number in particular: where the scale is nothing, any zero point is right.
    Any,
    /// Something else.
    Uneven(f32),
}

impl Steps {
    /// Zero points beyond this are none: they are not exact as floats times a scale.
    const MOST: f32 = 4096.0;

    fn of(scale: f32, minimum: f32) -> Self {
        if scale == 0.0 && minimum == 0.0 {
            return Self::Any;
        }
        let steps = -minimum / scale;
        let zero = steps.round();
        if zero.abs() < Self::MOST && scale * zero + minimum == 0.0 { Self::Whole(zero) } else { Self::Uneven(steps) }
    }
}

/// Whether groups follow from the order of the inputs.
fn is_natural(linear: &Linear, order: &[u32]) -> bool {
    order.iter().enumerate().all(|(input, group)| *group as usize == input / linear.shape.group_size)
}
