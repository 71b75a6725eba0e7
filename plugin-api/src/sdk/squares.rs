//! How far weights are from those that they stand for.

/// The sum of squared differences, and the sum of squares of `x`.
#[must_use]
pub fn squared_errors(x: &[f32], y: &[f32]) -> (f64, f64) {
    // Eight sums side by side: the order of additions is fixed, and the CPU can do them at once.
    let (mut errors, mut squares) = ([0.0_f64; 8], [0.0_f64; 8]);
    for (x, y) in x.chunks(8).zip(y.chunks(8)) {
        for (lane, (x, y)) in x.iter().zip(y).enumerate() {
            let (x, y) = (f64::from(*x), f64::from(*y));
            errors[lane] += (x - y) * (x - y);
            squares[lane] += x * x;
        }
    }
    (errors.iter().sum(), squares.iter().sum())
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
}
