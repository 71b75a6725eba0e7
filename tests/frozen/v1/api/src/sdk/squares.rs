//! How far weights are from those that they stand for.

use super::{InstructionSet, Loop};

/// Sums that run side by side: the order of additions is fixed, and the CPU can do them at once.
const LANES: usize = 8;

/// Sums of squared differences, and of squares, of numbers that come piece by piece. How they are cut into pieces changes
/// nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SquaredErrors {
    errors: [f64; LANES],
    squares: [f64; LANES],
    /// The sum that the next number goes to.
    next: usize,
}

impl SquaredErrors {
    /// Adds the next numbers: of `x`, and of `y` that stand for them.
    pub fn add(&mut self, x: &[f32], y: &[f32]) {
        self.add_on(InstructionSet::best(), x, y);
    }

    fn add_on(&mut self, set: InstructionSet, x: &[f32], y: &[f32]) {
        let length = x.len().min(y.len());
        let first = ((LANES - self.next) % LANES).min(length);
        let ((first_x, x), (first_y, y)) = (x[..length].split_at(first), y[..length].split_at(first));
        self.add_some(first_x, first_y);
        let (x, rest_x) = x.as_chunks::<LANES>();
        let (y, rest_y) = y.as_chunks::<LANES>();
        (self.errors, self.squares) = set.run(Adding { errors: self.errors, squares: self.squares }, x, y);
        self.add_some(rest_x, rest_y);
    }

    /// Adds fewer than there are sums.
    fn add_some(&mut self, x: &[f32], y: &[f32]) {
        for (x, y) in x.iter().zip(y) {
            let (x, y) = (f64::from(*x), f64::from(*y));
            self.errors[self.next] += (x - y) * (x - y);
            self.squares[self.next] += x * x;
            self.next = (self.next + 1) % LANES;
        }
    }

    /// The sum of the squared differences, and that of the squares.
    #[must_use]
    pub fn sums(&self) -> (f64, f64) {
        (self.errors.iter().sum(), self.squares.iter().sum())
    }
}

/// Adds to each sum the number of its place.
struct Adding {
    errors: [f64; LANES],
    squares: [f64; LANES],
}

impl Loop<&[[f32; LANES]], &[[f32; LANES]]> for Adding {
    type Output = ([f64; LANES], [f64; LANES]);

    #[inline(always)]
    fn run(self, x: &[[f32; LANES]], y: &[[f32; LANES]]) -> Self::Output {
        let Self { mut errors, mut squares } = self;
        for (x, y) in x.iter().zip(y) {
            for lane in 0..LANES {
                let (x, y) = (f64::from(x[lane]), f64::from(y[lane]));
                errors[lane] += (x - y) * (x - y);
                squares[lane] += x * x;
            }
        }
        (errors, squares)
    }
}

/// The sum of squared differences, and the sum of squares of `x`.
#[must_use]
pub fn squared_errors(x: &[f32], y: &[f32]) -> (f64, f64) {
    let mut errors = SquaredErrors::default();
    errors.add(x, y);
    errors.sums()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squared_errors_are_those_of_the_definition() {
        let x: Vec<f32> = (0..19_u8).map(f32::from).collect();
        let y: Vec<f32> = x.iter().map(|x| x + 0.5).collect();
        let (errors, squares) = squared_errors(&x, &y);
        assert!((errors - 19.0 * 0.25).abs() < 1e-9);
        assert!((squares - f64::from((0..19_u32).map(|x| x * x).sum::<u32>())).abs() < 1e-9);
    }

    #[test]
    fn the_sums_depend_neither_on_pieces_nor_on_the_instruction_set() {
        let x: Vec<f32> = (0..1003_u16).map(|n| (f32::from(n) * 0.37).sin()).collect();
        let y: Vec<f32> = x.iter().map(|x| x * 0.9 + 0.001).collect();
        // Each number to the sum of its place, one after the other.
        let (mut errors, mut squares) = ([0.0_f64; LANES], [0.0_f64; LANES]);
        for (place, (x, y)) in x.iter().zip(&y).enumerate() {
            let (x, y) = (f64::from(*x), f64::from(*y));
            errors[place % LANES] += (x - y) * (x - y);
            squares[place % LANES] += x * x;
        }
        let expected: (f64, f64) = (errors.iter().sum(), squares.iter().sum());
        for set in InstructionSet::available() {
            for piece in [1, 3, 8, 13, 64, 1000, 2000] {
                let mut sums = SquaredErrors::default();
                x.chunks(piece).zip(y.chunks(piece)).for_each(|(x, y)| sums.add_on(set, x, y));
                assert_eq!(sums.sums(), expected, "{} {piece}", set.name());
            }
        }
    }
}
