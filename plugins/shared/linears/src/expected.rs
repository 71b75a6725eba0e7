//! How large the relative error of weights is about that are rounded to codes in groups.

use crate::Settings;

/// Numbers of a sample.
const SAMPLE: u64 = 4096;

/// The root of the mean square of the error by that of the weights, of weights that look like noise and are rounded to
/// nearest. Whoever chooses scales and codes by more than that is somewhat better.
#[must_use]
pub fn expected_error(settings: Settings, columns: u64) -> f64 {
    let size = usize::try_from(settings.group_size.unwrap_or(columns).clamp(1, SAMPLE)).unwrap_or(1);
    let sample: Vec<f64> = (0..SAMPLE).map(gaussian).collect();
    let largest = f64::from(settings.largest_code());
    let (mut errors, mut squares) = (0.0, 0.0);
    for group in sample.chunks_exact(size) {
        let (low, high) = group.iter().fold((0.0_f64, 0.0_f64), |(low, high), x| (low.min(*x), high.max(*x)));
        let (step, zero) = if settings.symmetric {
            (2.0 * high.max(-low) / largest, f64::midpoint(largest, 1.0))
        } else {
            let step = (high - low) / largest;
            (step, if step > 0.0 { (-low / step).round() } else { 0.0 })
        };
        for weight in group {
            let code = if step > 0.0 { (weight / step + zero).round().clamp(0.0, largest) } else { zero };
            errors += (weight - step * (code - zero)).powi(2);
            squares += weight.powi(2);
        }
    }
    if squares > 0.0 { (errors / squares).sqrt() } else { 0.0 }
}

/// A number of a normal distribution, always the same one for an index.
#[expect(clippy::cast_precision_loss, reason = "noise")]
fn gaussian(index: u64) -> f64 {
    // The finaliser of splitmix64 makes noise of a counter; Box and Muller a normal distribution of that.
    let uniform = |salt: u64| {
        let mut state = (index * 2 + salt + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((state ^ (state >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    };
    (-2.0 * (1.0 - uniform(0)).ln()).sqrt() * (std::f64::consts::TAU * uniform(1)).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_bits_and_coarser_groups_lose_more() {
        let of = |bits, group_size, symmetric| {
            expected_error(Settings { bits, group_size, symmetric, act_order: false }, 4096)
        };
        for (finer, coarser) in [(8, 4), (4, 3), (3, 2)] {
            let ratio = of(coarser, Some(128), false) / of(finer, Some(128), false);
            assert!(ratio > 1.5, "{finer} {coarser}: {ratio}");
        }
        assert!(of(4, Some(32), false) < of(4, Some(128), false) && of(4, Some(128), false) < of(4, None, false));
        assert!(of(4, Some(32), false) < of(4, Some(32), true));
        // A step of four bits is about 5.3 standard deviations by 15, and its error that by the root of 12.
        let four = of(4, Some(128), false);
        assert!((0.08..0.12).contains(&four), "{four}");
    }
}
