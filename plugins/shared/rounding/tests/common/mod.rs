//! Inputs that are correlated, weights, and losses as they are defined.
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "small numbers, and matrices as formulas have them"
)]

use qhost_rounding::NotPositive;

/// Numbers that look random: a linear congruential generator.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64 - 0.5
    }

    /// About normal.
    pub(crate) fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum()
    }
}

/// The lower triangular `L` of `L Lᵀ = A`, column by column.
pub(crate) fn cholesky(mut a: Vec<f64>) -> Result<Vec<f64>, NotPositive> {
    let order = a.len().isqrt();
    for j in 0..order {
        let pivot = a[j * order + j] - (0..j).map(|k| a[j * order + k].powi(2)).sum::<f64>();
        if pivot.is_nan() || pivot <= 0.0 {
            return Err(NotPositive);
        }
        a[j * order + j] = pivot.sqrt();
        for i in j + 1..order {
            let sum: f64 = (0..j).map(|k| a[i * order + k] * a[j * order + k]).sum();
            a[i * order + j] = (a[i * order + j] - sum) / a[j * order + j];
        }
        for k in j + 1..order {
            a[j * order + k] = 0.0;
        }
    }
    Ok(a)
}

/// The Gram matrix of inputs that are correlated and of different sizes.
pub(crate) fn gram(random: &mut Random, width: usize, tokens: usize) -> Vec<f64> {
    let mut gram = vec![0.0; width * width];
    for _ in 0..tokens {
        let common = random.normal();
        let x: Vec<f64> =
            (0..width).map(|k| (random.normal() + common) * (1.0 + (k * 7 % width) as f64 / width as f64)).collect();
        for (i, x_i) in x.iter().enumerate() {
            for (j, x_j) in x.iter().enumerate() {
                gram[i * width + j] += x_i * x_j;
            }
        }
    }
    gram
}

pub(crate) fn weights(random: &mut Random, rows: usize, width: usize) -> Vec<f32> {
    (0..rows * width).map(|_| random.normal() as f32 * 0.02).collect()
}

/// `Σ eᵀ (H + λ) e` over rows, with what is added to the diagonal where inputs are dead.
pub(crate) fn loss(gram: &[f64], damping: f64, original: &[f32], made: &[f32]) -> f64 {
    let width = gram.len().isqrt();
    let living: Vec<f64> = (0..width).map(|k| gram[k * width + k]).filter(|energy| *energy > 0.0).collect();
    let mean = living.iter().sum::<f64>() / living.len() as f64;
    let mut sum = 0.0;
    for (original, made) in original.chunks(width).zip(made.chunks(width)) {
        let e: Vec<f64> = original.iter().zip(made).map(|(x, y)| f64::from(x - y)).collect();
        for i in 0..width {
            for j in 0..width {
                sum += e[i] * gram[i * width + j] * e[j];
            }
            let own = if gram[i * width + i] > 0.0 { damping } else { 1.0 + damping };
            sum += own * mean * e[i] * e[i];
        }
    }
    sum
}
