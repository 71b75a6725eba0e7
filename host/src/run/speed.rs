//! How fast a core of this machine is, by a short piece of work like that of quantising.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

/// What one round takes on the reference core (see `TensorSegment::cost`).
const REFERENCE: Duration = Duration::from_millis(1);

/// Rounds; the fastest one counts, for the others were disturbed.
const ROUNDS: usize = 12;

/// Weights that a round works on, and scales that it tries for them: in this ratio they are what a search does.
const WEIGHTS: u8 = 255;
const SCALES: u16 = 3540;

/// Added and taken away, it rounds a small number to an integer.
const ROUNDING: f32 = 12_582_912.0;

/// The speed of a core relative to the reference core; it takes some ten milliseconds.
pub(super) fn of_core() -> f64 {
    let weights: Vec<f32> = (0..WEIGHTS).map(|index| (f32::from(index) * 0.37).sin()).collect();
    let weights = black_box(weights);
    let time = || {
        let began = Instant::now();
        black_box(search(&weights));
        began.elapsed()
    };
    let fastest = (0..ROUNDS).map(|_| time()).min().unwrap_or(REFERENCE);
    // Nothing that computes is a hundred times as slow or as fast.
    (REFERENCE.as_secs_f64() / fastest.as_secs_f64().max(1e-9)).clamp(0.01, 100.0)
}

/// The scale with the least error, as a quantiser looks for it.
fn search(weights: &[f32]) -> f32 {
    let mut best = (f32::MAX, 0.0);
    for step in 0..SCALES {
        let scale = 0.1 + f32::from(black_box(step)) * 1e-4;
        let mut error = 0.0;
        for weight in weights {
            let level = (weight / scale).clamp(-8.0, 7.0) + ROUNDING - ROUNDING;
            let difference = weight - level * scale;
            error += difference * difference;
        }
        if error < best.0 {
            best = (error, scale);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_core_has_a_speed() {
        assert!((0.01..=100.0).contains(&super::of_core()));
    }
}
