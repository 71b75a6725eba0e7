//! Weights that stand in the place of the model's, so that what comes after is given what the output would give.

use std::collections::BTreeMap;

use qhost_plugin_api::{
    documents::InputGroup,
    sdk::{Result, UnitHandle},
};

use crate::{Module, in_memory};

/// Weights that stand in the place of the model's, until the tensors that they belong to are complete.
#[derive(Debug, Default)]
pub struct Substitutes {
    /// Tensors of which only parts are there, as the checkpoint has them.
    parts: BTreeMap<u32, Vec<f32>>,
}

impl Substitutes {
    /// Puts the weights of a module, output by output, in the place of the model's.
    ///
    /// # Errors
    /// Fails when the host does not take them.
    pub fn put(&mut self, io: &UnitHandle, module: &Module, weights: &[f32]) -> Result<()> {
        if module.group == InputGroup::OutputIn {
            // Nothing reads what the head gives.
            return Ok(());
        }
        if module.expert.is_none() && !module.transposed {
            return io.substitute(module.tensor, Some(weights));
        }
        let (columns, outputs) = (in_memory(module.columns)?, module.outputs);
        let (first, step, of) = (in_memory(outputs.first)?, in_memory(outputs.step)?, in_memory(outputs.of)?);
        let start = in_memory(u64::from(module.expert.unwrap_or(0)))? * of * columns;
        let whole = self.parts.entry(module.tensor).or_default();
        whole.resize(whole.len().max(start + of * columns), 0.0);
        let matrix = &mut whole[start..][..of * columns];
        for (row, weights) in weights.chunks_exact(columns).enumerate() {
            let output = first + row * step;
            if module.transposed {
                for (input, weight) in weights.iter().enumerate() {
                    matrix[input * of + output] = *weight;
                }
            } else {
                matrix[output * columns..][..columns].copy_from_slice(weights);
            }
        }
        Ok(())
    }

    /// Hands over the tensors whose modules have all been put.
    ///
    /// # Errors
    /// As [`Substitutes::put`].
    pub fn hand_over(&mut self, io: &UnitHandle) -> Result<()> {
        std::mem::take(&mut self.parts)
            .into_iter()
            .try_for_each(|(tensor, weights)| io.substitute(tensor, Some(&weights)))
    }
}
