//! Which tensors the file has, in its order, and what each is made from.
//!
//! It knows roles and the orders that llama.cpp wants; names and limits are the families', block types the
//! recipe's.

use std::collections::BTreeMap;

use qhost_plugin_api::{
    documents::{Model, Part, RoleKind, SourceTensor},
    sdk::{Failure, Result},
};

use crate::{
    arrange::{Arrangement, Order, Origin, Shift},
    families::{self, Family, Fused, Head, Rotary},
    recipe::Shape,
    write,
};

/// A tensor on its way into the file.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    /// Its name in GGUF.
    pub(crate) name: String,
    /// Its shape, outermost dimension first.
    pub(crate) shape: Vec<u64>,
    /// What it holds.
    pub(crate) content: Content,
}

/// What a tensor holds.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// Weights of the checkpoint, made by a unit.
    Weights {
        /// The unit.
        unit: u32,
        /// Where they come from.
        origin: Origin,
    },
    /// Numbers that follow from the config.
    Computed(Vec<f32>),
}

/// What the mixture's rules look at.
impl<'a> From<&'a Item> for Shape<'a> {
    fn from(item: &'a Item) -> Self {
        let row_elements = item.shape.last().copied().unwrap_or(1);
        Self { name: &item.name, row_elements, dimensions: write::dimensions(&item.shape).len() }
    }
}

impl Item {
    /// The number of its matrices, and the columns of each.
    pub(crate) fn matrices(&self) -> (u64, u64) {
        match self.shape.as_slice() {
            [matrices, _, columns] => (*matrices, *columns),
            other => (1, other.last().copied().unwrap_or(1)),
        }
    }
}

/// The tensors of the file, in its order, and what the user should know.
///
/// # Errors
/// Fails with kind `UNSUPPORTED` for a tensor that GGUF has no place for.
pub(crate) fn items(model: &Model, family: &Family) -> Result<(Vec<Item>, Vec<String>)> {
    let mut list = List { model, family, items: Vec::new() };
    let mut warnings = Vec::new();
    let mut experts: BTreeMap<(u32, &str), Vec<u32>> = BTreeMap::new();
    for (tensor, id) in model.tensors.iter().zip(0_u32..) {
        if tensor.role.expert.is_some() {
            experts.entry((tensor.unit, tensor.role.kind.name())).or_default().push(id);
        } else {
            list.add(tensor, id)?;
        }
    }
    experts.into_values().try_for_each(|ids| list.stack(&ids))?;
    let has_head = list.items.iter().any(|item| item.name == "output.weight");
    if family.head == Head::Needed && !has_head {
        list.copy_of_embedding()?;
        warnings.push(format!(
            "llama.cpp does not load {} without a head of its own: the file has the embedding twice",
            family.architecture
        ));
    }
    for (name, factors) in families::rope_factors(model)? {
        let shape = vec![factors.len() as u64];
        list.items.push(Item { name: name.into(), shape, content: Content::Computed(factors) });
    }
    let mut items = list.items;
    items.sort_by(|a, b| (layer_of(&a.name), &a.name).cmp(&(layer_of(&b.name), &b.name)));
    Ok((items, warnings))
}

/// The layer in a name; tensors of no layer come first.
fn layer_of(name: &str) -> Option<u32> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

struct List<'a> {
    model: &'a Model,
    family: &'a Family,
    items: Vec<Item>,
}

impl List<'_> {
    /// Adds what becomes of one tensor of the checkpoint.
    fn add(&mut self, tensor: &SourceTensor, id: u32) -> Result<()> {
        let is_bias = tensor.role.part == Part::Bias;
        match tensor.role.kind {
            RoleKind::ExpertsGateUp => self.split_gate_up(tensor, id),
            RoleKind::AttentionKvB => self.split_latent(tensor, id),
            _ => {
                let order = self.order(tensor)?;
                let (arrangement, shape) = if tensor.transposed {
                    transposed(&tensor.shape, order, None)?
                } else if is_bias {
                    (Arrangement::Elements(order), tensor.shape.clone())
                } else {
                    (Arrangement::Rows(order), tensor.shape.clone())
                };
                let name = families::tensor_name(self.model, self.family, &tensor.role, tensor.unit, &tensor.name)?;
                let mut origin = Origin { arrangement, ..Origin::plain(id) };
                if order == Order::Kept && !tensor.transposed {
                    origin.arrangement = Arrangement::Rows(Order::Kept);
                }
                if self.family.shifted_norms && is_norm(&tensor.role.kind) {
                    origin.shift = Some(if tensor.dtype == "F16" { Shift::Half } else { Shift::Exact });
                }
                self.push(name, shape, tensor.unit, origin);
                Ok(())
            }
        }
    }

    /// In which order llama.cpp wants the rows of a tensor.
    fn order(&self, tensor: &SourceTensor) -> Result<Order> {
        let sizes = &self.model.hyperparameters;
        Ok(match tensor.role.kind {
            RoleKind::AttentionQ | RoleKind::AttentionK if self.family.rotary == Rotary::Interleaved => {
                if !sizes.head_dim.is_multiple_of(2) {
                    let message = format!("heads of {} cannot be turned in pairs", sizes.head_dim);
                    return Err(Failure::unsupported(message).about("head_dim"));
                }
                Order::Interleaved { head: sizes.head_dim }
            }
            RoleKind::AttentionQkv if self.family.fused == Fused::ByHead => {
                Order::ByPart { parts: 3, take: sizes.head_dim, groups: sizes.heads.into() }
            }
            _ => Order::Kept,
        })
    }

    /// Gate and up of all experts, whose columns take turns.
    fn split_gate_up(&mut self, tensor: &SourceTensor, id: u32) -> Result<()> {
        for (first, module) in [(0, "ffn_gate_exps"), (1, "ffn_up_exps")] {
            let order = Order::Every { take: 1, stride: 2, first };
            let half = |size: u64| size / 2;
            let (arrangement, shape, ending) = match (tensor.role.part, tensor.shape.as_slice(), tensor.transposed) {
                (Part::Bias, [experts, columns], _) => {
                    (Arrangement::Elements(order), vec![*experts, half(*columns)], "bias")
                }
                (_, shape @ [_, _, columns], true) => {
                    let (arrangement, shape) = transposed(shape, order, Some(half(*columns)))?;
                    (arrangement, shape, "weight")
                }
                (_, [experts, rows, columns], false) => {
                    (Arrangement::Rows(order), vec![*experts, half(*rows), *columns], "weight")
                }
                _ => return Err(misshapen(tensor)),
            };
            let name = families::in_layer(self.model, tensor.unit, &format!("{module}.{ending}"));
            self.push(name, shape, tensor.unit, Origin { arrangement, ..Origin::plain(id) });
        }
        Ok(())
    }

    /// Keys and values of latent attention, which llama.cpp has apart, and the keys of each head transposed
    /// (DeepSeek-V2, section 2.1.2: they are absorbed into the queries).
    fn split_latent(&mut self, tensor: &SourceTensor, id: u32) -> Result<()> {
        let sizes = &self.model.hyperparameters;
        let (Some(latent), [_, rank]) = (&sizes.latent_attention, tensor.shape.as_slice()) else {
            return Err(misshapen(tensor));
        };
        let heads = u64::from(sizes.heads);
        let stride = latent.unrotated + latent.value;
        let keys = Arrangement::Columns { order: Order::Kept, each: *rank, stride };
        let values = Arrangement::Rows(Order::Every { take: latent.value, stride, first: latent.unrotated });
        for (name, arrangement, shape) in [
            ("attn_k_b.weight", keys, vec![heads, *rank, latent.unrotated]),
            ("attn_v_b.weight", values, vec![heads, latent.value, *rank]),
        ] {
            let name = families::in_layer(self.model, tensor.unit, name);
            self.push(name, shape, tensor.unit, Origin { arrangement, ..Origin::plain(id) });
        }
        Ok(())
    }

    /// One tensor of those that each expert has.
    fn stack(&mut self, ids: &[u32]) -> Result<()> {
        let tensor = |id: &u32| self.model.tensors.get(*id as usize);
        let mut tensors: Vec<_> = ids.iter().filter_map(|id| Some((tensor(id)?, *id))).collect();
        tensors.sort_by_key(|(tensor, _)| tensor.role.expert);
        let Some(&(first, _)) = tensors.first() else { return Ok(()) };
        if let Some((other, _)) = tensors.iter().find(|(tensor, _)| tensor.shape != first.shape) {
            return Err(misshapen(other));
        }
        let name = families::tensor_name(self.model, self.family, &first.role, first.unit, &first.name)?;
        let shape = [&[tensors.len() as u64][..], &first.shape].concat();
        let origin = Origin { tensors: tensors.iter().map(|(_, id)| *id).collect(), ..Origin::plain(0) };
        let unit = first.unit;
        self.push(name, shape, unit, origin);
        Ok(())
    }

    fn copy_of_embedding(&mut self) -> Result<()> {
        let embedding = self.model.tensors.iter().zip(0..).find(|(t, _)| t.role.kind == RoleKind::TokenEmbedding);
        let (tensor, id) = embedding.ok_or_else(|| Failure::internal("a model without an embedding"))?;
        self.push("output.weight".into(), tensor.shape.clone(), tensor.unit, Origin::plain(id));
        Ok(())
    }

    fn push(&mut self, name: String, shape: Vec<u64>, unit: u32, origin: Origin) {
        self.items.push(Item { name, shape, content: Content::Weights { unit, origin } });
    }
}

/// A tensor whose rows are the columns of matrices of `[in, out]`; `out` is how many of them are taken.
fn transposed(shape: &[u64], order: Order, out: Option<u64>) -> Result<(Arrangement, Vec<u64>)> {
    let [outer @ .., inputs, columns] = shape else {
        return Err(Failure::internal("a transposed tensor that is no matrix"));
    };
    let each = out.unwrap_or(*columns);
    let arrangement = Arrangement::Columns { order, each, stride: *inputs };
    Ok((arrangement, [outer, &[each, *inputs]].concat()))
}

fn misshapen(tensor: &SourceTensor) -> Failure {
    let message = format!("a tensor of the role {} cannot have the shape {:?}", tensor.role, tensor.shape);
    Failure::unsupported(message).about(&*tensor.name)
}

fn is_norm(kind: &RoleKind) -> bool {
    use RoleKind::{
        AttentionKNorm, AttentionNorm, AttentionPostNorm, AttentionQNorm, FfnNorm, FfnPostNorm, OutputNorm,
    };
    matches!(
        kind,
        AttentionNorm | AttentionPostNorm | AttentionQNorm | AttentionKNorm | FfnNorm | FfnPostNorm | OutputNorm
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_in_the_order_of_the_reference() {
        let mut names = ["blk.10.a", "token_embd.weight", "blk.2.b", "output.weight", "blk.2.a", "output_norm.weight"];
        names.sort_by_key(|name| (layer_of(name), *name));
        assert_eq!(
            names,
            ["output.weight", "output_norm.weight", "token_embd.weight", "blk.2.a", "blk.2.b", "blk.10.a"]
        );
    }

    #[test]
    fn a_transposed_tensor_has_its_dimensions_swapped() {
        let (arrangement, shape) = transposed(&[4, 64, 320], Order::Kept, Some(160)).unwrap();
        assert_eq!(shape, [4, 160, 64]);
        assert_eq!(arrangement, Arrangement::Columns { order: Order::Kept, each: 160, stride: 64 });
        assert!(transposed(&[64], Order::Kept, None).is_err());
    }
}
