//! Act-order without a list: where the inputs of a linear are in groups of an order of their own, and another linear of the
//! same block makes these inputs, its rows are put in that order, so that groups follow each other. The model computes the
//! same, with the channels in between in another order.
//!
//! That is so for the inner channels of a feed-forward block alone: the residual stream has one order for all layers, and
//! heads are what they are. It knows roles and encodings, and no files.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use qhost_plugin_api::{
    documents::{Encoding, Model, Part, RoleKind, SourceTensor},
    sdk::Planes,
};

/// Which tensors are put in another order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reordering {
    /// By tensor: its new rows, as the numbers of those that it has.
    rows: BTreeMap<u32, Arc<[u32]>>,
    /// By tensor: its new inputs likewise; of a bias its elements.
    inputs: BTreeMap<u32, Arc<[u32]>>,
    /// Linears whose inputs were in an order of their own.
    pub(super) linears: usize,
}

/// A linear whose inputs may be put in order, and what makes them.
struct Block {
    linear: u32,
    /// Weights, whose rows are channels: once, or twice one after the other.
    matrices: Vec<u32>,
    /// Biases.
    biases: Vec<u32>,
}

impl Reordering {
    /// Finds what can be put in order. `order` gives how the inputs of a tensor are in groups where it is stored so; only
    /// those linears are looked at of which it gives something.
    pub(super) fn of<E>(model: &Model, order: &mut dyn FnMut(u32) -> Result<Option<Groups>, E>) -> Result<Self, E> {
        let mut found = Self::default();
        for block in blocks(model) {
            let Some(groups) = order(block.linear)? else { continue };
            let Some(sorted) = groups.sorted() else { continue };
            let channels = sorted.len();
            let of_tensor = |tensor: u32| of_length(&sorted, model, tensor, channels);
            let matrices: Option<Vec<_>> = block.matrices.iter().map(|id| Some((*id, of_tensor(*id)?))).collect();
            let biases: Option<Vec<_>> = block.biases.iter().map(|id| Some((*id, of_tensor(*id)?))).collect();
            if let (Some(matrices), Some(biases)) = (matrices, biases) {
                found.rows.extend(matrices);
                found.inputs.extend(biases);
                found.inputs.insert(block.linear, sorted.into());
                found.linears += 1;
            }
        }
        Ok(found)
    }

    /// An encoding of a tensor after the change.
    pub(super) fn encoding(&self, tensor: u32, encoding: &Encoding) -> Encoding {
        let mut encoding = encoding.clone();
        encoding.permuted &= !self.inputs.contains_key(&tensor);
        encoding
    }

    /// The encoding that a tensor has to be asked for in the files.
    pub(super) fn stored(&self, tensor: u32, encoding: &Encoding) -> Encoding {
        let mut encoding = encoding.clone();
        encoding.permuted |= encoding.is_grouped() && self.inputs.contains_key(&tensor);
        encoding
    }

    /// The rows of the files that rows of a tensor are, in runs.
    pub(super) fn runs(&self, tensor: u32, rows: Range<u64>) -> Vec<Range<u64>> {
        let Some(order) = self.rows.get(&tensor) else { return vec![rows] };
        let mut runs: Vec<Range<u64>> = Vec::new();
        for row in rows {
            let row = usize::try_from(row).ok().and_then(|row| order.get(row)).map_or(row, |row| u64::from(*row));
            match runs.last_mut() {
                Some(run) if run.end == row => run.end += 1,
                _ => runs.push(row..row + 1),
            }
        }
        runs
    }

    /// Puts the inputs of floats in order.
    pub(super) fn floats(&self, tensor: u32, rows: &mut [f32]) {
        if let Some(order) = self.inputs.get(&tensor) {
            gather(order, rows);
        }
    }

    /// Puts the inputs of planes in order; `planes` has its places in the order of the files, `out` in the new one.
    pub(super) fn planes(&self, tensor: u32, mut planes: Planes, out: &mut Planes) {
        if let Some(order) = self.inputs.get(&tensor) {
            gather(order, &mut planes.bytes);
        }
        // Groups are in their own order, which is the new one of the inputs.
        out.bytes.append(&mut planes.bytes);
        out.scales.append(&mut planes.scales);
        out.offsets.append(&mut planes.offsets);
        if out.encoding().permuted {
            out.order = planes.order;
        }
    }
}

/// Every row with its elements in a new order.
fn gather<T: Copy>(order: &[u32], rows: &mut [T]) {
    let mut row_before = Vec::with_capacity(order.len());
    for row in rows.chunks_exact_mut(order.len().max(1)) {
        row_before.clear();
        row_before.extend_from_slice(row);
        row.iter_mut().zip(order).for_each(|(place, from)| *place = row_before[*from as usize]);
    }
}

/// How the inputs of a linear are in groups.
pub(super) struct Groups {
    /// The group of every input.
    pub(super) of_inputs: Vec<u32>,
    /// Inputs of a group.
    pub(super) size: u64,
}

impl Groups {
    /// The inputs by their groups, or none if groups are not as large as they should be.
    fn sorted(&self) -> Option<Vec<u32>> {
        let group = |input: u32| self.of_inputs.get(input as usize).copied();
        let mut inputs: Vec<u32> = (0..u32::try_from(self.of_inputs.len()).ok()?).collect();
        inputs.sort_by_key(|input| group(*input));
        let is_in_its_group = |(place, input): (u64, &u32)| {
            let expected = place.checked_div(self.size);
            expected.is_some_and(|expected| group(*input).is_some_and(|group| u64::from(group) == expected))
        };
        (0..).zip(&inputs).all(is_in_its_group).then_some(inputs)
    }
}

/// The order for a tensor that has every channel once, or all of them twice.
fn of_length(order: &[u32], model: &Model, tensor: u32, channels: usize) -> Option<Arc<[u32]>> {
    let described = model.tensors.get(tensor as usize)?;
    let length = usize::try_from(described.shape.first().copied()?).ok()?;
    if length == channels {
        return Some(order.into());
    }
    let offset = u32::try_from(channels).ok()?;
    let twice = order.iter().copied().chain(order.iter().map(|channel| channel + offset));
    (length == channels * 2).then(|| twice.collect())
}

/// The feed-forward blocks of a model, and of each of its experts that has tensors of its own.
fn blocks(model: &Model) -> Vec<Block> {
    let tensors = || (0_u32..).zip(&model.tensors);
    let is_matrix = |tensor: &SourceTensor| tensor.shape.len() == 2 && !tensor.transposed;
    let of = |(linear, down): (u32, &SourceTensor)| {
        let makers: &[RoleKind] = match down.role.kind {
            RoleKind::FfnDown => &[RoleKind::FfnUp, RoleKind::FfnGate, RoleKind::FfnGateUp],
            RoleKind::SharedDown => &[RoleKind::SharedUp, RoleKind::SharedGate],
            _ => return None,
        };
        if down.role.part != Part::Weight || !is_matrix(down) {
            return None;
        }
        let mut block = Block { linear, matrices: Vec::new(), biases: Vec::new() };
        let same = |tensor: &SourceTensor| tensor.unit == down.unit && tensor.role.expert == down.role.expert;
        for (id, tensor) in tensors().filter(|(_, tensor)| same(tensor) && makers.contains(&tensor.role.kind)) {
            match (tensor.role.part, tensor.shape.len()) {
                (Part::Weight, _) if is_matrix(tensor) => block.matrices.push(id),
                (Part::Bias, 1) => block.biases.push(id),
                _ => return None,
            }
        }
        (!block.matrices.is_empty()).then_some(block)
    };
    tensors().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use qhost_plugin_api::documents::{Role, UnitInfo};

    use super::*;

    fn model(gate: RoleKind, gate_rows: u64) -> Model {
        let mut model = Model::new("m", "f");
        model.units = vec![UnitInfo::layer(1, 0)];
        let tensor = |name: &str, role: Role, shape: &[u64]| SourceTensor::new(name, role, 1, "F32", shape.to_vec());
        model.tensors = vec![
            tensor("gate", Role::weight(gate.clone()), &[gate_rows, 2]),
            tensor("bias", Role::bias(gate), &[gate_rows]),
            tensor("down", Role::weight(RoleKind::FfnDown), &[3, 4]),
        ];
        model
    }

    fn found(model: &Model, groups: &[u32]) -> Reordering {
        Reordering::of(model, &mut |tensor| {
            assert_eq!(tensor, 2);
            Ok::<_, ()>(Some(Groups { of_inputs: groups.to_vec(), size: 2 }))
        })
        .unwrap()
    }

    /// What the model computes, with an identity as the activation.
    fn computed(up: &[f32], bias: &[f32], down: &[f32], input: [f32; 2]) -> Vec<f32> {
        let inner: Vec<f32> =
            up.chunks(2).zip(bias).map(|(row, bias)| row[0] * input[0] + row[1] * input[1] + bias).collect();
        down.chunks(4).map(|row| row.iter().zip(&inner).map(|(weight, inner)| weight * inner).sum()).collect()
    }

    #[test]
    fn rows_that_make_the_inputs_follow_them() {
        let model = model(RoleKind::FfnUp, 4);
        let order = found(&model, &[1, 0, 1, 0]);
        assert_eq!(order.linears, 1);
        let up = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        let (mut bias, mut down) = ([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 4.0, 8.0, 3.0, 1.0, 2.0, 5.0, 0.0, 1.0, 0.0, 1.0]);
        let before = computed(&up, &bias, &down, [1.0, -2.0]);
        let runs = order.runs(0, 0..4);
        assert_eq!(runs, [1..2, 3..4, 0..1, 2..3]);
        let moved: Vec<f32> =
            runs.into_iter().flat_map(|run| up[usize::try_from(run.start * 2).unwrap()..][..2].to_vec()).collect();
        order.floats(1, &mut bias);
        order.floats(2, &mut down);
        assert_eq!(bias.map(f32::to_bits), [2.0_f32, 4.0, 1.0, 3.0].map(f32::to_bits));
        assert_eq!(computed(&moved, &bias, &down, [1.0, -2.0]), before);
        assert_eq!(order.runs(2, 1..3), std::slice::from_ref(&(1..3)), "its own rows stay");
        let permuted = Encoding::affine(4, 2, [8, 8], "F16").permuted();
        let natural = order.encoding(2, &permuted);
        assert!(!natural.permuted && order.stored(2, &natural) == permuted && order.encoding(0, &permuted).permuted);
    }

    #[test]
    fn codes_go_with_their_inputs() {
        let order = found(&model(RoleKind::FfnUp, 4), &[1, 0, 1, 0]);
        let permuted = Encoding::affine(4, 2, [8, 8], "F16").permuted();
        let mut planes = Planes::room(&permuted, 1, 4).unwrap();
        planes.bytes.copy_from_slice(&[1, 2, 3, 4]);
        planes.scales.copy_from_slice(&[0.5, 2.0]);
        planes.order.copy_from_slice(&[1, 0, 1, 0]);
        let mut out = Planes::room(&order.encoding(2, &permuted), 0, 4).unwrap();
        order.planes(2, planes, &mut out);
        assert_eq!((out.bytes.as_slice(), out.scales.as_slice()), (&[2, 4, 1, 3][..], &[0.5, 2.0][..]));
        assert!(out.order.is_empty());
    }

    #[test]
    fn two_matrices_in_one_are_put_in_order_both() {
        let order = found(&model(RoleKind::FfnGateUp, 8), &[0, 1, 1, 0]);
        assert_eq!(order.runs(0, 0..8), [0..1, 3..4, 1..3, 4..5, 7..8, 5..7]);
    }

    #[test]
    fn what_does_not_fit_stays_as_it_is() {
        assert_eq!(found(&model(RoleKind::FfnUp, 4), &[0, 0, 0, 1]).linears, 0, "groups of three and one");
        assert_eq!(found(&model(RoleKind::FfnUp, 5), &[1, 0, 1, 0]).linears, 0, "rows that are no channels");
        let mut stacked = model(RoleKind::FfnUp, 4);
        stacked.tensors[0].shape = vec![4, 2, 2];
        let none = Reordering::of(&stacked, &mut |_| Err("it need not be asked"));
        assert_eq!(none.unwrap(), Reordering::default());
    }
}
