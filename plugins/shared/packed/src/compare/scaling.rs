//! The factors between a stored tensor and the one of the source, along both of its dimensions.

use qhost_plugin_api::documents::{Part, SourceTensor};

/// Factors that make the source's weights of the stored ones: a number for every row and one for every column of each of
/// its matrices, as they are read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scaling {
    /// Rows of a matrix.
    rows: usize,
    /// Columns of a matrix.
    columns: usize,
    /// Whether there are several matrices, one for each expert.
    of_experts: bool,
    inputs: Axis,
    outputs: Axis,
    /// For all matrices.
    of_rows: Vec<f64>,
    of_columns: Vec<f64>,
    /// What is added to what is stored before it counts.
    pub(super) offset: f64,
}

/// Which dimension something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Axis {
    Rows,
    Columns,
}

impl Scaling {
    /// No factors for rows that are outputs.
    pub(super) fn of_rows((rows, columns): (u64, u64)) -> Self {
        Self::new(1, size(rows), size(columns), false, (Axis::Columns, Axis::Rows))
    }

    /// No factors for a tensor that is stored as the source has it.
    pub(super) fn of(source: &SourceTensor) -> Self {
        let axes = if source.transposed { (Axis::Rows, Axis::Columns) } else { (Axis::Columns, Axis::Rows) };
        let list = (Axis::Columns, Axis::Columns);
        match (source.shape.as_slice(), source.role.part) {
            (&[matrices, columns], Part::Bias) => Self::new(size(matrices), 1, size(columns), true, list),
            (&[rows, columns], _) => Self::new(1, size(rows), size(columns), false, axes),
            ([outer @ .., rows, columns], _) => {
                let matrices = outer.iter().fold(1, |all: u64, dim| all.saturating_mul(*dim));
                Self::new(size(matrices), size(*rows), size(*columns), true, axes)
            }
            (&[columns], _) => Self::new(1, 1, size(columns), false, list),
            ([], _) => Self::new(1, 1, 1, false, list),
        }
    }

    fn new(matrices: usize, rows: usize, columns: usize, of_experts: bool, (inputs, outputs): (Axis, Axis)) -> Self {
        Self {
            rows,
            columns,
            of_experts,
            inputs,
            outputs,
            of_rows: vec![1.0; matrices.saturating_mul(rows)],
            of_columns: vec![1.0; matrices.saturating_mul(columns)],
            offset: 0.0,
        }
    }

    /// The bytes that the factors take.
    pub(super) fn bytes(&self) -> u64 {
        (self.of_rows.len() as u64).saturating_add(self.of_columns.len() as u64).saturating_mul(8)
    }

    /// Multiplies the factor of an input, of an expert's alone if there is one and the tensor holds several.
    pub(super) fn scale_input(&mut self, expert: Option<u32>, input: u64, factor: f64) {
        self.scale(self.inputs, expert, input, factor);
    }

    /// Multiplies the factor of an output likewise.
    pub(super) fn scale_output(&mut self, expert: Option<u32>, output: u64, factor: f64) {
        self.scale(self.outputs, expert, output, factor);
    }

    fn scale(&mut self, axis: Axis, expert: Option<u32>, index: u64, factor: f64) {
        let (factors, length) = match axis {
            Axis::Rows => (&mut self.of_rows, self.rows),
            Axis::Columns => (&mut self.of_columns, self.columns),
        };
        let only = expert.filter(|_| self.of_experts).map(|expert| expert as usize);
        let matrices = factors.chunks_exact_mut(length.max(1)).enumerate();
        for (_, factors) in matrices.filter(|(matrix, _)| only.is_none_or(|only| only == *matrix)) {
            if let Some(found) = factors.get_mut(size(index)) {
                *found *= factor;
            }
        }
    }

    /// Makes the source's weights of stored ones, which are rows from one on.
    pub(super) fn undo(&self, first_row: usize, stored: &mut [f32]) {
        for (row, weights) in (first_row..).zip(stored.chunks_exact_mut(self.columns.max(1))) {
            let of_row = self.of_rows.get(row).copied().unwrap_or(1.0);
            let of_columns = self.columns_of(row);
            for (weight, of_column) in weights.iter_mut().zip(of_columns) {
                let undone = (f64::from(*weight) + self.offset) * (of_row * of_column) - self.offset;
                #[expect(clippy::cast_possible_truncation, reason = "weights are in f32")]
                let undone = undone as f32;
                *weight = undone;
            }
        }
    }

    fn columns_of(&self, row: usize) -> &[f64] {
        let matrix = row / self.rows.max(1);
        self.of_columns.get(matrix * self.columns..).unwrap_or_default()
    }

    /// The number of outputs.
    pub(super) fn outputs(&self) -> usize {
        if self.outputs == Axis::Rows { self.rows } else { self.columns }
    }

    /// Outputs of rows from one on, each with the sums of the source's weights times stored ones and times themselves; of
    /// an expert's matrix alone, if there is one and the tensor holds several. An output may be there more than once.
    pub(super) fn products(
        &self,
        expert: Option<u32>,
        first_row: usize,
        source: &[f32],
        stored: &[f32],
    ) -> Vec<(usize, f64, f64)> {
        let only = expert.filter(|_| self.of_experts).map(|expert| expert as usize);
        let (rows, columns) = (self.rows.max(1), self.columns.max(1));
        let both = source.chunks_exact(columns).zip(stored.chunks_exact(columns));
        let both = (first_row..).zip(both).filter(|(row, _)| only.is_none_or(|only| only == row / rows));
        let product = |(source, stored): (&f32, &f32)| {
            let (source, stored) = (f64::from(*source), f64::from(*stored));
            (source * stored, source * source)
        };
        if self.outputs == Axis::Rows {
            let sum = |sum: (f64, f64), (both, own): (f64, f64)| (sum.0 + both, sum.1 + own);
            let of_rows = both.map(|(row, (source, stored))| {
                let (both, own) = source.iter().zip(stored).map(product).fold((0.0, 0.0), sum);
                (row % rows, both, own)
            });
            return of_rows.collect();
        }
        let mut of_columns: Vec<_> = (0..columns).map(|output| (output, 0.0, 0.0)).collect();
        for (_, (source, stored)) in both {
            for (sum, (both, own)) in of_columns.iter_mut().zip(source.iter().zip(stored).map(product)) {
                sum.1 += both;
                sum.2 += own;
            }
        }
        of_columns
    }
}

fn size(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use qhost_plugin_api::documents::{Role, RoleKind};

    use super::*;

    fn tensor(role: Role, shape: &[u64], transposed: bool) -> SourceTensor {
        let mut tensor = SourceTensor::new("t", role, 0, "F32", shape.to_vec());
        tensor.transposed = transposed;
        tensor
    }

    fn undone(scaling: &Scaling, first_row: usize, values: usize) -> Vec<f32> {
        let mut ones = vec![1.0; values];
        scaling.undo(first_row, &mut ones);
        ones
    }

    #[test]
    fn inputs_and_outputs_are_where_the_tensor_has_them() {
        for (transposed, expected) in
            [(false, [1.0, 5.0, 2.0, 10.0, 1.0, 5.0]), (true, [1.0, 2.0, 5.0, 10.0, 1.0, 2.0])]
        {
            let mut scaling = Scaling::of(&tensor(Role::weight(RoleKind::FfnUp), &[3, 2], transposed));
            scaling.scale_output(None, 1, 2.0);
            scaling.scale_input(None, 1, 5.0);
            assert_eq!(undone(&scaling, 0, 6), expected, "{transposed}");
            assert_eq!(undone(&scaling, 1, 2), expected[2..4], "{transposed}");
        }
        let mut list = Scaling::of(&tensor(Role::weight(RoleKind::FfnNorm), &[3], false));
        list.scale_output(None, 1, 2.0);
        list.offset = 1.0;
        assert_eq!(undone(&list, 0, 3), [1.0, 3.0, 1.0]);
    }

    #[test]
    fn an_expert_s_factors_are_its_own_where_a_tensor_holds_several() {
        let mut experts = Scaling::of(&tensor(Role::weight(RoleKind::ExpertsDown), &[2, 1, 2], false));
        experts.scale_input(Some(1), 0, 3.0);
        experts.scale_output(Some(0), 0, 2.0);
        experts.scale_input(None, 1, 5.0);
        assert_eq!(undone(&experts, 0, 4), [2.0, 10.0, 3.0, 5.0]);
        let bias = Role::bias(RoleKind::ExpertsDown);
        let mut biases = Scaling::of(&tensor(bias, &[2, 2], false));
        biases.scale_output(Some(1), 1, 2.0);
        assert_eq!(undone(&biases, 0, 4), [1.0, 1.0, 1.0, 2.0]);
        let mut one = Scaling::of(&tensor(Role::weight(RoleKind::FfnDown), &[1, 2], false));
        one.scale_input(Some(1), 0, 3.0);
        assert_eq!(undone(&one, 0, 2), [3.0, 1.0]);
    }

    #[test]
    fn products_are_added_up_for_each_output() {
        let (source, stored) = ([1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 2.0, 2.0]);
        let scaling = Scaling::of_rows((3, 2));
        assert_eq!(scaling.products(None, 1, &source, &stored), [(1, 3.0, 5.0), (2, 14.0, 25.0)]);
        let transposed = Scaling::of(&tensor(Role::weight(RoleKind::FfnUp), &[2, 2], true));
        assert_eq!(transposed.products(None, 0, &source, &stored), [(0, 7.0, 10.0), (1, 10.0, 20.0)]);
        let experts = Scaling::of(&tensor(Role::weight(RoleKind::ExpertsGateUp), &[2, 1, 2], false));
        assert_eq!(experts.products(Some(1), 0, &source, &stored), [(0, 14.0, 25.0)]);
    }
}
