//! Some rows of the modules that read one input.

use qhost_linears::{Module, fetch, in_memory};
use qhost_plugin_api::sdk::{Result, UnitHandle};
use qhost_rounding::TILE;

/// Weights of a sample, at most, as far as every module has a row in it.
const WEIGHTS: u64 = 1 << 22;

/// Rows of a sample, at most.
const ROWS: u64 = 4096;

/// Rows of weights that are looked at, all with as many columns.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample {
    /// The weights, row by row.
    pub(crate) weights: Vec<f32>,
    /// How many rows of a linear a row here stands for, of each row.
    pub(crate) shares: Vec<f32>,
}

impl Sample {
    /// Some rows of every module, as many of each as it has a part in all.
    pub(crate) fn of(io: &UnitHandle, modules: &[&Module]) -> Result<Self> {
        let all: u64 = modules.iter().map(|module| module.rows).sum();
        let columns = modules.iter().map(|module| module.columns).max().unwrap_or(0);
        let mut sample = Self::default();
        for module in modules {
            let columns = in_memory(columns)?;
            let count = (module.rows * rows(module.columns) / all.max(1)).clamp(1, module.rows.max(1));
            let mut weights = vec![0.0; in_memory(module.weights())?];
            fetch(io, module, &mut weights)?;
            for index in 0..count {
                let row = in_memory(index * module.rows / count)?;
                sample.weights.extend_from_slice(&weights[row * columns..][..columns]);
            }
            #[expect(clippy::cast_precision_loss, reason = "a share")]
            let share = module.rows as f32 / count as f32;
            sample.shares.extend(std::iter::repeat_n(share, in_memory(count)?));
        }
        Ok(sample)
    }

    /// The sums of the squares of every column, of all rows that these stand for.
    pub(crate) fn energies(&self) -> Vec<f64> {
        let columns = self.weights.len() / self.shares.len().max(1);
        let mut sums = vec![0.0; columns];
        for (weights, share) in self.weights.chunks_exact(columns.max(1)).zip(&self.shares) {
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum += f64::from(weight * weight * share);
            }
        }
        sums
    }
}

/// Rows of a sample of modules with so many inputs.
fn rows(columns: u64) -> u64 {
    (WEIGHTS / columns.max(1)).clamp(TILE as u64, ROWS)
}

/// Memory that looking at modules takes, and trying scales for them.
pub(crate) fn memory(modules: &[&Module]) -> u64 {
    let columns = modules.iter().map(|module| module.columns).max().unwrap_or(0);
    let module = modules.iter().map(|module| module.weights()).max().unwrap_or(0);
    // The sample, a module whose rows are taken, sums, and a curvature with scales beside the one without.
    let most = rows(columns) + modules.len() as u64;
    most * columns * 4 + module * 4 + 64 * columns * 8 + 6 * columns * columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn energies_are_of_all_rows_that_a_row_stands_for() {
        let sample = Sample { weights: vec![1.0, -2.0, 3.0, 0.5], shares: vec![1.0, 2.0] };
        assert_eq!(
            sample.energies().into_iter().map(f64::to_bits).collect::<Vec<_>>(),
            [19.0_f64, 4.5].map(f64::to_bits)
        );
        assert!(Sample::default().energies().is_empty());
    }
}
