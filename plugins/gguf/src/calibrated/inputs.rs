//! Which tensors are rounded under the Hessian of their inputs, and which inputs these are.

use qhost_plugin_api::documents::{InputGroup, Model, UnitKind};

use super::scheme;
use crate::{format::BlockType, importance::Input, items::Item};

/// The input of a tensor that is rounded under its Hessian: that of a matrix of a block, or of the head, which is the
/// tensor of this name.
pub(crate) fn input(item: &Item, block_type: BlockType, head: &str, model: &Model) -> Option<Input> {
    scheme(block_type)?;
    if item.name == head { Some(Input::of_head()) } else { Input::of(item, model) }
}

/// Whether a type is one of codes.
pub(crate) fn is_rounded(block_type: BlockType) -> bool {
    scheme(block_type).is_some()
}

/// Whether a tensor is the embedding.
pub(crate) fn is_embedding(item: &Item) -> bool {
    item.name == EMBEDDING
}

const EMBEDDING: &str = "token_embd.weight";

/// The name of the tensor that the last hidden states are multiplied with: the embedding where there is no other.
pub(crate) fn head(items: &[Item]) -> &'static str {
    const OUTPUT: &str = "output.weight";
    if items.iter().any(|item| item.name == OUTPUT) { OUTPUT } else { EMBEDDING }
}

/// The unit that makes a tensor: that of its weights, or of its inputs where these come later.
pub(crate) fn unit(of_weights: u32, input: Option<&Input>, model: &Model) -> u32 {
    let epilogue = model.units.iter().find(|unit| unit.kind == UnitKind::Epilogue);
    match epilogue.filter(|_| input.is_some_and(|input| *input.group() == InputGroup::OutputIn)) {
        Some(epilogue) => epilogue.id,
        None => of_weights,
    }
}
