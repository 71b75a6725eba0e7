//! Where the inputs of linears may be scaled channel by channel without a change of what a model computes.
//!
//! It follows the forward pass from what a linear reads back to what makes it. A norm's gain, or the outputs of a linear
//! with nothing between that a factor does not pass through, take the inverse; anything else is an obstacle.

use std::collections::BTreeMap;

use qhost_plugin_api::documents::{
    Fold, FoldSource, FoldedNorm, FoldedRows, InputGroup, Model, Part, Role, RoleKind, RowMap, SourceTensor, UnitInfo,
    UnitKind,
};

use super::{Forward, Fused, Gate, Norm, Order};

/// What a block reads that has no norm before it.
const THE_STREAM: &str = "it is the residual stream itself, which has no norm before it";

/// Every input of linears of a model, with what takes the inverse of its scales, or why nothing does.
pub(super) fn folds(model: &Model, forward: &Forward) -> Vec<Fold> {
    let mut of_units: BTreeMap<u32, BTreeMap<&Role, u32>> = BTreeMap::new();
    for (id, tensor) in (0..).zip(&model.tensors) {
        of_units.entry(tensor.unit).or_default().insert(&tensor.role, id);
    }
    let mut folds = Vec::new();
    let order = forward.blocks.order(&model.config);
    for &UnitInfo { id, kind, .. } in &model.units {
        let unit = Unit { model, forward, order, id, tensors: of_units.remove(&id).unwrap_or_default() };
        match kind {
            UnitKind::Layer => unit.layer(&mut folds),
            UnitKind::Epilogue => folds.extend(unit.head()),
            _ => {}
        }
    }
    folds
}

/// A unit and its tensors by their roles.
struct Unit<'a> {
    model: &'a Model,
    forward: &'a Forward,
    order: Order,
    id: u32,
    tensors: BTreeMap<&'a Role, u32>,
}

impl Unit<'_> {
    fn layer(&self, folds: &mut Vec<Fold>) {
        let first = folds.len();
        folds.extend(self.fold(InputGroup::AttentionIn, self.before_block(&RoleKind::AttentionNorm)));
        folds.extend(self.fold(InputGroup::AttentionQB, self.norm(&RoleKind::AttentionQANorm)));
        folds.extend(self.fold(InputGroup::AttentionKvB, self.norm(&RoleKind::AttentionKvANorm)));
        folds.extend(self.fold(InputGroup::AttentionOut, self.values()));
        let block = self.fold(InputGroup::FfnIn, self.before_block(&RoleKind::FfnNorm));
        let reads_what_attention_reads = self.order == Order::SideBySide && !self.has(&RoleKind::FfnNorm);
        match (block, folds.get_mut(first)) {
            (Some(block), Some(attention)) if reads_what_attention_reads => {
                attention.groups.extend(block.groups);
                attention.readers.extend(block.readers);
            }
            (block, _) => folds.extend(block),
        }
        self.down_projections(folds);
        let kinds = [RoleKind::FfnGateUp, RoleKind::SharedGate, RoleKind::SharedUp];
        folds.extend(self.down_projection(InputGroup::SharedMid, &RoleKind::SharedDown, None, &kinds));
    }

    /// What the head reads; if it has no matrix of its own, that is the embedding's.
    fn head(&self) -> Option<Fold> {
        if let Some(own) = self.fold(InputGroup::OutputIn, self.norm(&RoleKind::OutputNorm)) {
            return Some(own);
        }
        let embedding = Role::weight(RoleKind::TokenEmbedding);
        let (id, tensor) = (0..).zip(&self.model.tensors).find(|(_, tensor)| tensor.role == embedding)?;
        let obstacle = FoldSource::obstacle("the head's weights are those of the embedding");
        Some(Fold::new(self.id, InputGroup::OutputIn, vec![id], tensor.row_elements(), obstacle))
    }

    fn down_projections(&self, folds: &mut Vec<Fold>) {
        let group = InputGroup::FfnMid;
        let kinds = [RoleKind::FfnGateUp, RoleKind::FfnGate, RoleKind::FfnUp];
        let downs = self.tensors.keys().filter(|role| role.kind == RoleKind::FfnDown && role.part == Part::Weight);
        for role in downs {
            folds.extend(self.down_projection(group.clone(), &role.kind, role.expert, &kinds));
        }
        if let Some((_, stacked)) = self.weight(&RoleKind::ExpertsDown, None) {
            let kinds = [RoleKind::ExpertsGateUp, RoleKind::FfnGate, RoleKind::FfnUp];
            let count = stacked.shape.first().map_or(0, |count| u32::try_from(*count).unwrap_or(u32::MAX));
            for expert in 0..count {
                folds.extend(self.down_projection(group.clone(), &RoleKind::ExpertsDown, Some(expert), &kinds));
            }
        }
    }

    /// What one down projection reads, of an expert's if there is one.
    fn down_projection(
        &self,
        group: InputGroup,
        down: &RoleKind,
        expert: Option<u32>,
        kinds: &[RoleKind; 3],
    ) -> Option<Fold> {
        let (id, tensor) = self.weight(down, expert)?;
        let channels = inputs(tensor);
        let mut fold = Fold::new(self.id, group, vec![id], channels, self.between(kinds, expert, channels));
        fold.expert = expert;
        Some(fold)
    }

    /// What takes the inverse of the scales of a down projection's input. Of a product with an activated gate that is
    /// the other factor.
    fn between(&self, [fused, gate, up]: &[RoleKind; 3], expert: Option<u32>, channels: u64) -> FoldSource {
        if self.forward.gate == Gate::Bounded {
            return FoldSource::obstacle("the up projection's outputs are bounded, and 1 is added to them");
        }
        if let Some(map) = self.weight(fused, expert).map(|_| RowMap::in_order(channels, channels)) {
            return self.rows(fused, expert, map);
        }
        let activation = &*self.model.hyperparameters.activation;
        if !self.has_weight(gate, expert) && activation != "relu" {
            return FoldSource::obstacle(format!(
                "the activation `{activation}` is between it and the linear before, and a factor does not pass through"
            ));
        }
        self.rows(up, expert, RowMap::in_order(0, channels))
    }

    /// What takes the inverse of the scales of attention's output: its values, of which every head's output is a
    /// weighted mean.
    fn values(&self) -> FoldSource {
        let sizes = &self.model.hyperparameters;
        let (heads, kv_heads, head) = (u64::from(sizes.heads), u64::from(sizes.kv_heads), sizes.head_dim);
        if let Some(latent) = &sizes.latent_attention {
            let values = RowMap::in_order(latent.unrotated, heads * latent.value);
            let values = values.in_parts(latent.value, latent.unrotated + latent.value);
            return self.rows(&RoleKind::AttentionKvB, None, values);
        }
        let of_heads =
            |first, step| RowMap::in_order(first, heads * head).in_parts(head, step).shared_by(heads / kv_heads.max(1));
        if !self.has(&RoleKind::AttentionQkv) {
            return self.rows(&RoleKind::AttentionV, None, of_heads(0, head));
        }
        let values = match self.forward.fused {
            Fused::Parts => of_heads((heads + kv_heads) * head, head),
            Fused::Heads => of_heads(2 * head, 3 * head),
        };
        self.rows(&RoleKind::AttentionQkv, None, values)
    }

    /// All that reads a group's input in common.
    fn fold(&self, group: InputGroup, source: FoldSource) -> Option<Fold> {
        let reads = |role: &Role| role.part == Part::Weight && InputGroup::of(&role.kind).as_ref() == Some(&group);
        let mut readers: Vec<u32> = self.tensors.iter().filter(|(role, _)| reads(role)).map(|(_, id)| *id).collect();
        readers.sort_unstable();
        let channels = inputs(self.model.tensors.get(*readers.first()? as usize)?);
        Some(Fold::new(self.id, group, readers, channels, source))
    }

    /// The norm before a block, if it is there that the family has its norms.
    fn before_block(&self, kind: &RoleKind) -> FoldSource {
        match self.order {
            Order::NormAfter => FoldSource::obstacle(THE_STREAM),
            Order::SideBySide if !self.has(kind) => self.norm(&RoleKind::AttentionNorm),
            Order::InTurn | Order::SideBySide => self.norm(kind),
        }
    }

    fn norm(&self, kind: &RoleKind) -> FoldSource {
        let Some((weight, _)) = self.weight(kind, None) else { return FoldSource::obstacle(THE_STREAM) };
        let offset = if self.forward.norm == Norm::RmsPlusOne { 1.0 } else { 0.0 };
        FoldSource::Norm(FoldedNorm::new(weight, self.bias(kind, None)).with_offset(offset))
    }

    fn rows(&self, kind: &RoleKind, expert: Option<u32>, map: RowMap) -> FoldSource {
        match self.weight(kind, expert) {
            Some((weight, _)) => FoldSource::Rows(FoldedRows::new(weight, self.bias(kind, expert), map)),
            None => FoldSource::obstacle(format!("there is no {} that makes it", kind.name())),
        }
    }

    fn has(&self, kind: &RoleKind) -> bool {
        self.has_weight(kind, None)
    }

    fn has_weight(&self, kind: &RoleKind, expert: Option<u32>) -> bool {
        self.weight(kind, expert).is_some()
    }

    /// The weight of a module; of an expert's, it may stand in a tensor that holds all of them.
    fn weight(&self, kind: &RoleKind, expert: Option<u32>) -> Option<(u32, &SourceTensor)> {
        let id = self.part(kind, Part::Weight, expert)?;
        Some((id, self.model.tensors.get(id as usize)?))
    }

    fn bias(&self, kind: &RoleKind, expert: Option<u32>) -> Option<u32> {
        self.part(kind, Part::Bias, expert)
    }

    fn part(&self, kind: &RoleKind, part: Part, expert: Option<u32>) -> Option<u32> {
        let mut role = Role::new(kind.clone(), part);
        role.expert = expert.filter(|_| !matches!(kind, RoleKind::ExpertsGateUp | RoleKind::ExpertsDown));
        self.tensors.get(&role).copied()
    }
}

/// The inputs of a linear.
fn inputs(tensor: &SourceTensor) -> u64 {
    match tensor.shape.as_slice() {
        [.., inputs, _] if tensor.transposed => *inputs,
        _ => tensor.row_elements(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::{expected, find},
        *,
    };

    /// No family has both; the other shapes of experts are run by the tests of all families.
    #[test]
    fn each_expert_of_a_stacked_tensor_has_a_fold_of_its_own() {
        let config = json!({"model_type": "gpt_oss", "hidden_size": 8, "intermediate_size": 6, "head_dim": 4,
            "num_attention_heads": 2, "num_hidden_layers": 1, "max_position_embeddings": 32, "rms_norm_eps": 1e-5,
            "vocab_size": 16, "num_local_experts": 3, "num_experts_per_tok": 2});
        let model = expected("m", &config, &|_, _| false).unwrap();
        let down = |folds: Vec<Fold>| -> Vec<Fold> {
            folds.into_iter().filter(|fold| fold.groups == [InputGroup::FfnMid]).collect()
        };
        let bounded = find(Some("gpt_oss"), None).and_then(|family| family.forward).unwrap();
        assert!(down(folds(&model, &bounded)).iter().all(|fold| fold.expert.is_some() && !fold.is_possible()));
        let usual = down(folds(&model, &Forward::LLAMA));
        assert_eq!(usual.iter().map(|fold| fold.expert).collect::<Vec<_>>(), [Some(0), Some(1), Some(2)]);
        let id = |name: &str| (0..).zip(&model.tensors).find(|(_, tensor)| tensor.name.ends_with(name)).unwrap().0;
        for fold in usual {
            assert_eq!((fold.readers, fold.channels), (vec![id("experts.down_proj")], 6));
            let FoldSource::Rows(rows) = fold.source else { panic!("{:?}", fold.source) };
            assert_eq!((rows.weight, rows.bias), (id("gate_up_proj"), Some(id("gate_up_proj_bias"))));
            assert_eq!((0..6).map(|channel| rows.map.row(channel)).collect::<Vec<_>>(), [6, 7, 8, 9, 10, 11]);
        }
    }
}
