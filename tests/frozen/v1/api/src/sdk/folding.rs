//! Applying a fold to the tensors that it is about.
//!
//! It knows the documents alone; the arithmetic is one product, or one quotient, for each weight.

use super::{Failure, Result};
use crate::documents::{Fold, FoldSource, Part, SourceTensor};

/// Applies the scales of a fold to a tensor: `values` is all of it as the checkpoint has it, and `scales` has a number for
/// each channel. A tensor that the fold is not about stays as it is.
///
/// Quotients are computed in `f64` and rounded once, so scales that are powers of two lose nothing where nothing is added
/// to a norm's gain.
///
/// # Errors
/// Fails with kind `INTERNAL` when there are not as many numbers as the tensor and the fold have.
pub fn apply_fold(fold: &Fold, scales: &[f32], (id, tensor): (u32, &SourceTensor), values: &mut [f32]) -> Result<()> {
    if scales.len() as u64 != fold.channels || values.len() as u64 != tensor.elements() {
        let name = &tensor.name;
        return Err(Failure::internal(format!(
            "a fold of {} channels with {} scales, and {} values of {name}, cannot be applied",
            fold.channels,
            scales.len(),
            values.len()
        )));
    }
    if fold.readers.contains(&id) {
        let layout = Layout::of(tensor);
        layout.each(fold.expert, values, |row, column, value| {
            *value *= scales.get(if tensor.transposed { row } else { column }).copied().unwrap_or(1.0);
        });
    }
    match &fold.source {
        FoldSource::Norm(norm) => {
            let offset = if id == norm.weight { norm.offset } else { 0.0 };
            if id == norm.weight || norm.bias == Some(id) {
                for (value, scale) in values.iter_mut().zip(scales) {
                    *value = divided(*value, *scale, offset);
                }
            }
        }
        FoldSource::Rows(rows) => {
            if id == rows.weight || rows.bias == Some(id) {
                let layout = Layout::of(tensor);
                let columns_are_outputs = tensor.transposed || tensor.role.part == Part::Bias;
                let mut of_outputs = vec![1.0; if columns_are_outputs { layout.columns } else { layout.rows }];
                for (channel, scale) in (0..).zip(scales) {
                    let output = usize::try_from(rows.map.row(channel)).unwrap_or(usize::MAX);
                    let outside = || Failure::internal(format!("{} has no output {output}", tensor.name));
                    *of_outputs.get_mut(output).ok_or_else(outside)? = *scale;
                }
                layout.each(fold.expert, values, |row, column, value| {
                    *value = divided(*value, of_outputs[if columns_are_outputs { column } else { row }], 0.0);
                });
            }
        }
        FoldSource::Obstacle { .. } | FoldSource::Other => {}
    }
    Ok(())
}

#[expect(clippy::cast_possible_truncation, reason = "weights are in f32")]
fn divided(value: f32, scale: f32, offset: f32) -> f32 {
    let offset = f64::from(offset);
    ((f64::from(value) + offset) / f64::from(scale) - offset) as f32
}

/// A tensor as matrices, one for each expert that it holds.
struct Layout {
    rows: usize,
    columns: usize,
    /// Whether there is more than one of them, or could be.
    of_experts: bool,
}

impl Layout {
    fn of(tensor: &SourceTensor) -> Self {
        let size = |dim: &u64| usize::try_from(*dim).unwrap_or(usize::MAX);
        match (tensor.shape.as_slice(), tensor.role.part) {
            ([_, columns], Part::Bias) => Self { rows: 1, columns: size(columns), of_experts: true },
            ([rows, columns], _) => Self { rows: size(rows), columns: size(columns), of_experts: false },
            ([.., rows, columns], _) => Self { rows: size(rows), columns: size(columns), of_experts: true },
            ([columns], _) => Self { rows: 1, columns: size(columns), of_experts: false },
            ([], _) => Self { rows: 1, columns: 1, of_experts: false },
        }
    }

    /// Gives every value with its row and column; of an expert's alone, if there is one and the tensor holds several.
    fn each(&self, expert: Option<u32>, values: &mut [f32], mut change: impl FnMut(usize, usize, &mut f32)) {
        let only = expert.filter(|_| self.of_experts);
        let matrices = values.chunks_exact_mut((self.rows * self.columns).max(1));
        for (_, matrix) in (0..).zip(matrices).filter(|(index, _)| only.is_none_or(|only| only == *index)) {
            for (row, numbers) in matrix.chunks_exact_mut(self.columns.max(1)).enumerate() {
                numbers.iter_mut().enumerate().for_each(|(column, value)| change(row, column, value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::{FoldedNorm, FoldedRows, InputGroup, Role, RoleKind, RowMap};

    fn tensor(role: Role, shape: &[u64]) -> SourceTensor {
        SourceTensor::new("t", role, 0, "F32", shape.to_vec())
    }

    fn applied(fold: &Fold, scales: &[f32], id: u32, tensor: &SourceTensor) -> Vec<f32> {
        let mut values = vec![1.0; usize::try_from(tensor.elements()).unwrap()];
        apply_fold(fold, scales, (id, tensor), &mut values).unwrap();
        values
    }

    #[test]
    fn inputs_are_multiplied_and_a_norm_is_divided_around_its_offset() {
        let norm = FoldSource::Norm(FoldedNorm::new(0, Some(1)).with_offset(1.0));
        let fold = Fold::new(0, InputGroup::FfnIn, vec![2], 2, norm);
        let scales = [2.0, 4.0];
        assert_eq!(applied(&fold, &scales, 0, &tensor(Role::weight(RoleKind::FfnNorm), &[2])), [0.0, -0.5]);
        assert_eq!(applied(&fold, &scales, 1, &tensor(Role::bias(RoleKind::FfnNorm), &[2])), [0.5, 0.25]);
        let mut linear = tensor(Role::weight(RoleKind::FfnUp), &[2, 2]);
        assert_eq!(applied(&fold, &scales, 2, &linear), [2.0, 4.0, 2.0, 4.0]);
        linear.transposed = true;
        assert_eq!(applied(&fold, &scales, 2, &linear), [2.0, 2.0, 4.0, 4.0]);
        assert_eq!(applied(&fold, &scales, 3, &linear), [1.0; 4], "none of its tensors");
    }

    #[test]
    fn outputs_are_divided_once_though_channels_share_them() {
        let map = RowMap::in_order(1, 2).in_parts(1, 1).shared_by(2);
        let source = FoldSource::Rows(FoldedRows::new(0, Some(1), map));
        let fold = Fold::new(0, InputGroup::AttentionOut, vec![2], 2, source);
        let mut values = tensor(Role::weight(RoleKind::AttentionQkv), &[2, 3]);
        assert_eq!(applied(&fold, &[2.0, 2.0], 0, &values), [1.0, 1.0, 1.0, 0.5, 0.5, 0.5]);
        (values.shape, values.transposed) = (vec![3, 2], true);
        assert_eq!(applied(&fold, &[2.0, 2.0], 0, &values), [1.0, 0.5, 1.0, 0.5, 1.0, 0.5]);
        assert_eq!(applied(&fold, &[2.0, 2.0], 1, &tensor(Role::bias(RoleKind::AttentionQkv), &[2])), [1.0, 0.5]);
    }

    #[test]
    fn an_expert_s_fold_is_about_its_part_alone() {
        let source = FoldSource::Rows(FoldedRows::new(0, Some(1), RowMap::in_order(1, 1).with_stride(2)));
        let mut fold = Fold::new(0, InputGroup::FfnMid, vec![2], 1, source);
        let (up, bias) = (Role::weight(RoleKind::ExpertsGateUp), Role::bias(RoleKind::ExpertsGateUp));
        let down = tensor(Role::weight(RoleKind::ExpertsDown), &[2, 1, 1]);
        assert_eq!(applied(&fold, &[4.0], 2, &down), [4.0, 4.0]);
        fold.expert = Some(1);
        assert_eq!(applied(&fold, &[4.0], 2, &down), [1.0, 4.0]);
        assert_eq!(applied(&fold, &[4.0], 0, &tensor(up, &[2, 2, 1])), [1.0, 1.0, 1.0, 0.25]);
        assert_eq!(applied(&fold, &[4.0], 1, &tensor(bias, &[2, 2])), [1.0, 1.0, 1.0, 0.25]);
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        let fold = Fold::new(0, InputGroup::FfnIn, vec![0], 2, FoldSource::obstacle("none"));
        let linear = tensor(Role::weight(RoleKind::FfnUp), &[1, 2]);
        assert!(apply_fold(&fold, &[1.0], (0, &linear), &mut [1.0; 2]).is_err());
        assert!(apply_fold(&fold, &[1.0; 2], (0, &linear), &mut [1.0; 3]).is_err());
        let source = FoldSource::Rows(FoldedRows::new(0, None, RowMap::in_order(0, 2)));
        let fold = Fold::new(0, InputGroup::FfnIn, vec![], 2, source);
        assert!(apply_fold(&fold, &[1.0; 2], (0, &linear), &mut [1.0; 2]).is_err(), "one output for two channels");
    }
}
