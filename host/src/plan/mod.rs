//! What will be done: a plugin's plan, checked against the model and against the machine.
//!
//! Pure data and pure functions: facts about disk and memory come in as values, and whatever can be
//! refused is refused here, before the first weight is read.

mod accept;
mod error;
mod estimate;
mod feasibility;

use qhost_plugin_api::documents::{Document, Options, Plan, SegmentContent, TensorSegment};
use sha2::{Digest, Sha256};

pub use accept::accept;
pub use error::Error;
pub use estimate::{Estimate, Forward, Held, Machine, MemoryEstimate, TimeEstimate, estimate};
pub use feasibility::{Download, Facts, Place, bytes_beside, bytes_needed, refuse_download, refuse_impossible};

/// A plan that the host will carry out.
#[derive(Debug, Clone, PartialEq)]
pub struct RunPlan {
    /// The plugin's plan, found consistent.
    pub plan: Plan,
    /// Length of all planned files together.
    pub file_bytes: u64,
    /// Parameters of the model.
    pub parameters: u64,
    /// For every planned unit, in order: its id, and the weights in its segments.
    pub unit_weights: Vec<(u32, u64)>,
}

impl RunPlan {
    /// Bits of file per parameter of the model.
    #[must_use]
    pub fn bits_per_weight(&self) -> f64 {
        bits_per_weight(self.file_bytes, self.parameters)
    }

    /// Bits per parameter that the level promises for this model, if fallbacks keep it from being kept.
    #[must_use]
    pub fn level_bits_per_weight(&self) -> Option<f64> {
        self.plan.level_bytes.map(|bytes| bits_per_weight(bytes, self.parameters))
    }

    /// The tensors of the output, with their segment ids, in the order of the file.
    pub fn tensors(&self) -> impl Iterator<Item = (u32, u64, &TensorSegment)> {
        (0..).zip(&self.plan.segments).filter_map(|(id, segment)| match &segment.content {
            SegmentContent::Tensor(tensor) => Some((id, segment.bytes, tensor)),
            _ => None,
        })
    }

    /// The most working memory that a unit asks for, with so many threads.
    #[must_use]
    pub fn working_memory(&self, threads: u32) -> u64 {
        self.plan.units.iter().map(|unit| unit.working_memory(threads)).max().unwrap_or(0)
    }

    /// Names this work: the same plan with the same options from the same source with the same plugin has the
    /// same key, and nothing else has.
    ///
    /// The options are part of it because they may change bytes without changing any length. `calibration` names the
    /// data that activations are taken from, and is empty without.
    ///
    /// # Errors
    /// Fails when the plan cannot be written as JSON.
    pub fn key(
        &self,
        options: &Options,
        source_fingerprint: &str,
        plugin_sha256: &str,
        calibration: &str,
    ) -> Result<String, Error> {
        let inconsistent = |reason: String| Error::Inconsistent { reason };
        let plan = self.plan.to_json().map_err(|failure| inconsistent(failure.message.into()))?;
        // The level that was meant is in the plan, whether it was asked for by name or not.
        let options = Options { level: None, ..options.clone() };
        let options = serde_json::to_string(&options).map_err(|error| inconsistent(error.to_string()))?;
        let mut digest = Sha256::new();
        for part in [plan.as_str(), options.as_str(), source_fingerprint, plugin_sha256, calibration] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        Ok(crate::text::hex(&digest.finalize()))
    }
}

/// Bits per weight, 0 for a model without weights.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
pub fn bits_per_weight(bytes: u64, weights: u64) -> f64 {
    if weights == 0 { 0.0 } else { bytes as f64 * 8.0 / weights as f64 }
}
