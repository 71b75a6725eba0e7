//! A matrix of grouped-affine codes: what rounding gives, and packing takes.
//!
//! It knows neither how codes are found nor how they are packed.

use half::f16;

/// A matrix `W [out][in]` as codes: `w = scale · (code − zero)`, with a scale and a zero for each group of inputs
/// of each output.
///
/// Columns are in the order of the original weights, whatever the order was in which they were rounded.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rounded {
    /// A code for every weight, row by row.
    pub codes: Vec<u8>,
    /// A scale for every group of every row, row by row.
    pub scales: Vec<f16>,
    /// The zero of every group of every row, row by row: the code that stands for zero. With `b` bits,
    /// symmetric codes have `2^(b-1)`.
    pub zeros: Vec<u8>,
}

/// Which group each column belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Groups<'a> {
    /// Neighbours: so many columns each, the last group perhaps fewer.
    Neighbours(usize),
    /// The group of every column.
    Listed(&'a [u32]),
}

impl Groups<'_> {
    /// The group of a column.
    #[must_use]
    #[inline]
    pub fn of(self, column: usize) -> usize {
        match self {
            Self::Neighbours(size) => column / size.max(1),
            Self::Listed(groups) => groups[column] as usize,
        }
    }

    /// How many groups `columns` columns have.
    #[must_use]
    pub fn count(self, columns: usize) -> usize {
        match self {
            Self::Neighbours(size) => columns.div_ceil(size.max(1)),
            Self::Listed(groups) => groups.iter().max().map_or(0, |last| *last as usize + 1),
        }
    }
}

impl Rounded {
    /// The weights that the codes stand for, row by row, as a loader computes them in `f32`.
    ///
    /// `columns` is the number of inputs; `out` has a place for every code.
    pub fn dequantize(&self, columns: usize, groups: Groups<'_>, out: &mut [f32]) {
        self.dequantize_rows(0, columns, groups, out);
    }

    /// The weights of as many rows as `out` has places for, from the row `first` on.
    pub fn dequantize_rows(&self, first: usize, columns: usize, groups: Groups<'_>, out: &mut [f32]) {
        let count = groups.count(columns);
        if columns == 0 || count == 0 {
            return;
        }
        let codes = self.codes.chunks_exact(columns).skip(first);
        let scales = self.scales.chunks_exact(count).zip(self.zeros.chunks_exact(count)).skip(first);
        for ((out, codes), (scales, zeros)) in out.chunks_exact_mut(columns).zip(codes).zip(scales) {
            match groups {
                Groups::Neighbours(size) => {
                    let of_groups = out.chunks_mut(size.max(1)).zip(codes.chunks(size.max(1)));
                    for ((out, codes), (scale, zero)) in of_groups.zip(scales.iter().zip(zeros)) {
                        let (scale, zero) = (scale.to_f32(), i16::from(*zero));
                        for (out, code) in out.iter_mut().zip(codes) {
                            *out = scale * f32::from(i16::from(*code) - zero);
                        }
                    }
                }
                Groups::Listed(listed) => {
                    for ((out, code), group) in out.iter_mut().zip(codes).zip(listed) {
                        let (scale, zero) = (scales[*group as usize], zeros[*group as usize]);
                        *out = scale.to_f32() * f32::from(i16::from(*code) - i16::from(zero));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits<const N: usize>(weights: [f32; N]) -> [u32; N] {
        weights.map(f32::to_bits)
    }

    fn example() -> Rounded {
        Rounded {
            codes: vec![0, 1, 2, 3, 15, 8, 7, 9],
            scales: [0.5, 2.0, 1.0, -0.25].map(f16::from_f32).to_vec(),
            zeros: vec![8, 1, 15, 8],
        }
    }

    #[test]
    fn weights_are_scale_times_code_minus_zero() {
        let mut out = [0.0; 8];
        example().dequantize(4, Groups::Neighbours(2), &mut out);
        assert_eq!(bits(out), bits([-4.0, -3.5, 2.0, 4.0, 0.0, -7.0, 0.25, -0.25]));
        let mut second = [0.0; 4];
        example().dequantize_rows(1, 4, Groups::Neighbours(2), &mut second);
        assert_eq!(bits(second), bits(out)[4..]);
    }

    #[test]
    fn listed_groups_are_those_of_the_list() {
        let (mut listed, mut neighbours) = ([0.0; 8], [0.0; 8]);
        example().dequantize(4, Groups::Listed(&[0, 0, 1, 1]), &mut listed);
        example().dequantize(4, Groups::Neighbours(2), &mut neighbours);
        assert_eq!(bits(listed), bits(neighbours));
        example().dequantize(4, Groups::Listed(&[1, 0, 0, 1]), &mut listed);
        assert_eq!(bits(listed), bits([-2.0, -3.5, -3.0, 4.0, -1.75, -7.0, -8.0, -0.25]));
    }

    #[test]
    fn a_last_group_may_be_shorter() {
        assert_eq!(Groups::Neighbours(3).count(4), 2);
        assert_eq!(Groups::Neighbours(3).of(3), 1);
    }
}
