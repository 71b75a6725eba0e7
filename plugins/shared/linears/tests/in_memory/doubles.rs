//! What a host computes and measures, in the plainest way: matrices in `f64`, statistics that are tensors of the model.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use qhost_plugin_api::{
    documents::{
        BatchRequest, InputGroup, MatrixHandle, MatrixRequest, Operation, Role, RoleKind, SourceTensor, Statistic,
        StatisticsAnswer, StatisticsRequest,
    },
    sdk::{
        COMPUTE, DType, FormatService, Operand, OperandMut, REPLAY, Result, STATISTICS, STATISTICS_2, ServiceAnswer,
        testing::{TestHost, TestModel},
    },
};

/// Numbers that look random.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// About normal.
    pub(crate) fn normal(&mut self) -> f64 {
        let mut uniform = || {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 11) as f64 / (1_u64 << 53) as f64 - 0.5
        };
        (0..12).map(|_| uniform()).sum()
    }
}

/// A matrix: rows, columns, numbers, and whether they are doubles for those who ask.
#[derive(Clone, Default)]
struct Numbers {
    columns: usize,
    numbers: Vec<f64>,
}

/// The service `compute/1`.
#[derive(Default)]
struct Arithmetic {
    matrices: Mutex<(u64, BTreeMap<MatrixHandle, Numbers>)>,
}

impl FormatService for Arithmetic {
    fn call(
        &self,
        method: &str,
        request: &str,
        inputs: &[Operand<'_>],
        outputs: &mut [OperandMut<'_>],
    ) -> Result<ServiceAnswer> {
        let mut held = self.matrices.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, matrices) = &mut *held;
        match method {
            "upload" => {
                let request: MatrixRequest = serde_json::from_str(request).unwrap();
                let data = inputs[0].data;
                let numbers = if request.double {
                    data.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
                } else {
                    data.as_chunks().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect()
                };
                *next += 1;
                matrices.insert(MatrixHandle(*next), Numbers { columns: request.columns as usize, numbers });
                ServiceAnswer::new(&MatrixHandle(*next))
            }
            "download" => {
                let matrix = &matrices[&serde_json::from_str(request).unwrap()];
                let bytes: Vec<u8> = match outputs[0].dtype {
                    DType::F64 => matrix.numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
                    _ => matrix.numbers.iter().flat_map(|number| (*number as f32).to_le_bytes()).collect(),
                };
                outputs[0].data.copy_from_slice(&bytes);
                ServiceAnswer::new(&())
            }
            "free" => {
                matrices.remove(&serde_json::from_str(request).unwrap());
                ServiceAnswer::new(&())
            }
            _ => {
                let request: BatchRequest = serde_json::from_str(request).unwrap();
                for operation in request.operations {
                    compute(matrices, &operation);
                }
                ServiceAnswer::new(&())
            }
        }
    }
}

fn compute(matrices: &mut BTreeMap<MatrixHandle, Numbers>, operation: &Operation) {
    match operation {
        Operation::Product { a, b, transposed: false, factor, out } => {
            let (a, b) = (matrices[a].clone(), matrices[b].clone());
            for (row, out) in matrices.get_mut(out).unwrap().numbers.chunks_mut(b.columns).enumerate() {
                for (k, a) in a.numbers[row * a.columns..][..a.columns].iter().enumerate() {
                    for (out, b) in out.iter_mut().zip(&b.numbers[k * b.columns..]) {
                        *out += f64::from(*factor) * a * b;
                    }
                }
            }
        }
        Operation::Cholesky { a } => {
            let Numbers { columns: order, numbers: a } = matrices.get_mut(a).unwrap();
            for j in 0..*order {
                let pivot = a[j * *order + j] - (0..j).map(|k| a[j * *order + k].powi(2)).sum::<f64>();
                assert!(pivot > 0.0, "not positive definite");
                a[j * *order + j] = pivot.sqrt();
                for i in j + 1..*order {
                    let sum: f64 = (0..j).map(|k| a[i * *order + k] * a[j * *order + k]).sum();
                    a[i * *order + j] = (a[i * *order + j] - sum) / a[j * *order + j];
                }
                a[j * *order + j + 1..(j + 1) * *order].fill(0.0);
            }
        }
        Operation::SolveLower { l, transposed, right } => {
            let l = matrices[l].clone();
            let right = matrices.get_mut(right).unwrap();
            let (order, many) = (l.columns, right.columns);
            let rows: Vec<_> = if *transposed { (0..order).rev().collect() } else { (0..order).collect() };
            for (done, &row) in rows.iter().enumerate() {
                for column in 0..many {
                    let of =
                        |k: usize| if *transposed { l.numbers[k * order + row] } else { l.numbers[row * order + k] };
                    let sum: f64 = rows[..done].iter().map(|&k| of(k) * right.numbers[k * many + column]).sum();
                    let number = &mut right.numbers[row * many + column];
                    *number = (*number - sum) / of(row);
                }
            }
        }
        other => panic!("nobody needs {other:?}"),
    }
}

/// The service `statistics/1`: which tensor has what.
struct Statistics(BTreeMap<(String, Statistic), StatisticsAnswer>);

impl FormatService for Statistics {
    fn call(&self, _: &str, request: &str, _: &[Operand<'_>], _: &mut [OperandMut<'_>]) -> Result<ServiceAnswer> {
        let request: StatisticsRequest = serde_json::from_str(request).unwrap();
        let found = self.0.get(&(request.group.name().to_owned(), request.what));
        ServiceAnswer::new(&found.cloned().unwrap_or(StatisticsAnswer::new(0, 0, 0, 0)))
    }
}

/// The service `replay/1`, which runs nothing.
struct Replay;

impl FormatService for Replay {
    fn call(&self, _: &str, _: &str, _: &[Operand<'_>], _: &mut [OperandMut<'_>]) -> Result<ServiceAnswer> {
        ServiceAnswer::new(&())
    }
}

/// A model of one layer whose statistics are tensors of it, and the host that has them.
pub(crate) fn measured() -> (TestModel, TestHost) {
    let mut model = TestModel::llama(1, 64, 96, 128);
    model.companion("config.json", "{\"model_type\": \"llama\"}");
    let mut answers = BTreeMap::new();
    let mut random = Random(3);
    for (group, width) in [
        (InputGroup::AttentionIn, 64),
        (InputGroup::AttentionOut, 64),
        (InputGroup::FfnIn, 64),
        (InputGroup::FfnMid, 96),
        (InputGroup::OutputIn, 64),
    ] {
        let (mut gram, mut cross, mut residual) =
            (vec![0.0; width * width], vec![0.0; width * width], vec![0.0; 64 * width]);
        for _ in 0..4 * width {
            let common = random.normal();
            let x: Vec<f64> = (0..width).map(|k| (random.normal() + common) * (1.0 + (k % 7) as f64)).collect();
            let (more, of_stream) = (random.normal(), random.normal());
            for (i, x_i) in x.iter().enumerate() {
                for (j, x_j) in x.iter().enumerate() {
                    gram[i * width + j] += x_i * x_j;
                    cross[i * width + j] += 0.02 * (x_i + more) * x_j;
                }
            }
            for (place, number) in residual.iter_mut().enumerate() {
                *number += 0.001 * (of_stream + (place / width) as f64 / 64.0) * x[place % width];
            }
        }
        let narrow = |numbers: &[f64]| numbers.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect::<Vec<u8>>();
        let statistics = [
            (Statistic::Gram, "F64", DType::F64, width, gram.iter().flat_map(|x| x.to_le_bytes()).collect()),
            (Statistic::Cross, "F32", DType::F32, width, narrow(&cross)),
            (Statistic::Residual, "F32", DType::F32, 64, narrow(&residual)),
        ];
        for (what, name, dtype, rows, bytes) in statistics {
            let role = Role::weight(RoleKind::OutputNorm);
            let (rows, width) = (rows as u64, width as u64);
            let described = SourceTensor::new(format!("{group}.{what:?}"), role, 1, name, vec![rows, width]);
            let tensor = model.stored_tensor(described, dtype, bytes);
            let answer = StatisticsAnswer::new(tensor, rows, width, 4 * width);
            answers.insert((group.name().to_owned(), what), answer);
        }
    }
    let host = TestHost::new()
        .service(COMPUTE, Arithmetic::default())
        .service(STATISTICS, Statistics(answers.clone()))
        .service(STATISTICS_2, Statistics(answers))
        .service(REPLAY, Replay);
    (model, host)
}
