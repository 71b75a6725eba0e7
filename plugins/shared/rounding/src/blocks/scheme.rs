//! What the numbers of a block may be.

use crate::simd::Simd;

/// What the numbers of a block may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scheme {
    /// Columns of a sub-block, which share `S` and `M`: 16 or 32.
    pub size: usize,
    /// Sub-blocks of a block, which share `d` and `m`: as many as have 256 columns, or one of 32.
    pub count: usize,
    /// The values of the codes.
    pub values: Values,
    /// The least and the greatest `S`; 1 and 1 where a block has one sub-block.
    pub scales: [i8; 2],
    /// Whether `d` may be negative.
    pub signed: bool,
    /// What may be subtracted.
    pub minima: Minima,
}

/// The values of codes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Values {
    /// All whole numbers from one to another.
    Whole {
        /// The least.
        least: i16,
        /// The greatest.
        greatest: i16,
    },
    /// These sixteen, in their order.
    Book(&'static [i8; 16]),
}

/// What a sub-block may subtract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Minima {
    /// Nothing.
    None,
    /// A number of the block's own, of any sign: `M` is 1.
    Own,
    /// A multiple, up to this, of a number of the block that is not negative.
    Multiples(u8),
}

impl Scheme {
    /// Columns of a block.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.size * self.count
    }
}

/// Finds values.
pub(super) trait Nearest: Copy {
    /// The least value, and the greatest.
    fn range(&self) -> (f32, f32);

    /// The value nearest to a number.
    fn nearest<S: Simd>(&self, x: f32) -> f32;

    /// The place of a value among all.
    fn place(&self, value: f32) -> u8;
}

/// All whole numbers of a range.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whole {
    least: f32,
    greatest: f32,
}

impl Whole {
    pub(super) fn new(least: i16, greatest: i16) -> Self {
        Self { least: f32::from(least), greatest: f32::from(greatest) }
    }
}

impl Nearest for Whole {
    #[inline(always)]
    fn range(&self) -> (f32, f32) {
        (self.least, self.greatest)
    }

    #[inline(always)]
    fn nearest<S: Simd>(&self, x: f32) -> f32 {
        S::round(x.max(self.least).min(self.greatest))
    }

    #[inline(always)]
    fn place(&self, value: f32) -> u8 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 8 bits")]
        let place = (value - self.least) as u8;
        place
    }
}

/// Sixteen values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Book {
    values: [f32; 16],
    /// The middle between a value and the next, and how far apart they are.
    steps: [(f32, f32); 15],
}

impl Book {
    pub(super) fn new(values: &[i8; 16]) -> Self {
        let values = values.map(f32::from);
        let steps = std::array::from_fn(|at| (0.5 * (values[at] + values[at + 1]), values[at + 1] - values[at]));
        Self { values, steps }
    }
}

impl Nearest for Book {
    #[inline(always)]
    fn range(&self) -> (f32, f32) {
        (self.values[0], self.values[15])
    }

    #[inline(always)]
    fn nearest<S: Simd>(&self, x: f32) -> f32 {
        // Sums of small whole numbers are exact; without branches it is a few vector instructions.
        let mut value = self.values[0];
        for (middle, step) in self.steps {
            value += if x > middle { step } else { 0.0 };
        }
        value
    }

    #[inline(always)]
    fn place(&self, value: f32) -> u8 {
        self.values.into_iter().fold(0, |place, other| place + u8::from(other < value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Portable;

    #[test]
    fn the_nearest_value_is_the_nearest() {
        let numbers: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
        let book = Book::new(&numbers);
        for step in -1400_i16..1400 {
            let x = f32::from(step) / 10.0 + 0.03;
            let nearest = book.nearest::<Portable>(x);
            let least = numbers.iter().map(|number| (x - f32::from(*number)).abs()).fold(f32::MAX, f32::min);
            assert!((x - nearest).abs() <= least, "{x}: {nearest}");
            assert!((f32::from(numbers[usize::from(book.place(nearest))]) - nearest).abs() < 0.5);
        }
        let whole = Whole::new(-4, 3);
        for (x, nearest, place) in [(-9.0, -4.0, 0), (-0.6, -1.0, 3), (2.4, 2.0, 6), (77.0, 3.0, 7)] {
            assert!((whole.nearest::<Portable>(x) - nearest).abs() < 1e-6);
            assert_eq!(whole.place(nearest), place);
        }
    }
}
