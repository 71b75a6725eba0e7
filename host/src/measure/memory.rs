//! What it takes to run models side by side, layer by layer.

use qhost_plugin_api::documents::{Role, RoleKind};

use super::subject::Subject;
use crate::{calibrate::Decoder, evaluate::LOGIT_ROWS};

/// The most that is in use at a time beside the hidden states, in bytes, about: a layer's weights and the activations
/// of a batch, or the heads of all models with a tile of logits of each.
pub(super) fn needed(models: &[&Subject], decoders: &[Decoder], lengths: &[usize]) -> u64 {
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let layer = |(model, decoder): (&&Subject, &Decoder)| {
        let units = decoder.layers.iter().map(|layer| sum(model, |tensor| tensor.1 == layer.unit));
        units.max().unwrap_or(0).saturating_add(decoder.activations(longest))
    };
    let head = |(model, decoder): (&&Subject, &Decoder)| {
        let own = Role::weight(RoleKind::Output);
        let is_own = model.model.tensors.iter().any(|tensor| tensor.role == own);
        let role = if is_own { own } else { Role::weight(RoleKind::TokenEmbedding) };
        // The logits once more where they are put together.
        let logits = (LOGIT_ROWS as u64 * 8).saturating_mul(decoder.vocabulary as u64);
        sum(model, |(tensor, _)| model.model.tensors[tensor].role == role).saturating_add(logits)
    };
    let layers = models.iter().zip(decoders).map(layer).max().unwrap_or(0);
    let heads = models.iter().zip(decoders).map(head).fold(0, u64::saturating_add);
    layers.max(heads)
}

/// Bytes of the tensors that are wanted, by index and unit.
fn sum(model: &Subject, wanted: impl Fn((usize, u32)) -> bool) -> u64 {
    let tensors = model.model.tensors.iter().enumerate().filter(|(index, tensor)| wanted((*index, tensor.unit)));
    tensors.map(|(index, _)| model.tensor_bytes(index)).fold(0, u64::saturating_add)
}
