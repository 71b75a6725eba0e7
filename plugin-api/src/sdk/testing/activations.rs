//! What a unit is told of activations where no model is run: `statistics/1`, `statistics/2` and `replay/1` over inputs that
//! are drawn.
//!
//! The statistics of a group are all of the same inputs, which are the same in every run; those of one group have nothing to
//! do with those of another, and nothing to do with what was substituted. A loss is that of the linears by themselves, not
//! that of the unit's output.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
};

use serde::de::DeserializeOwned;

use super::{
    Failure, FormatService, Result, broken,
    model::{Weights, noise},
    objects::Monitor,
};
use crate::{
    abi::{DType, Lease},
    documents::{
        InputGroup, LossAnswer, LossRequest, Model, PlannedUnit, Precision, SourceTensor, Statistic, StatisticsAnswer,
        StatisticsNeed, StatisticsRequest, SubstituteRequest,
    },
    sdk::{Operand, OperandMut, REPLAY, STATISTICS, STATISTICS_2, ServiceAnswer, widen},
};

/// Tokens that are drawn.
const TOKENS: usize = 64;

/// The first tensor that no model has.
const FIRST: u32 = 1 << 30;

/// The activations of a unit.
pub(super) struct Activations {
    planned: PlannedUnit,
    model: Arc<Model>,
    weights: Arc<Vec<Weights>>,
    monitor: Arc<Monitor>,
    lent: Mutex<Vec<Arc<Numbers>>>,
    substitutes: Mutex<BTreeMap<u32, Vec<f32>>>,
}

/// A statistic, or a part of the inputs.
struct Numbers {
    dtype: DType,
    rows: usize,
    row_elements: usize,
    bytes: Vec<u8>,
}

impl Numbers {
    fn single(rows: usize, row_elements: usize, values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { dtype: DType::F32, rows, row_elements, bytes }
    }
}

/// The two services, of which each call says by its method which is meant.
pub(super) struct Service(pub(super) Arc<Activations>);

impl Activations {
    pub(super) fn new(
        planned: PlannedUnit,
        model: Arc<Model>,
        weights: Arc<Vec<Weights>>,
        monitor: Arc<Monitor>,
    ) -> Arc<Self> {
        let (lent, substitutes) = (Mutex::default(), Mutex::default());
        Arc::new(Self { planned, model, weights, monitor, lent, substitutes })
    }

    /// Whether the plan asks for a service of this name.
    pub(super) fn has(&self, service: &str) -> bool {
        match service {
            STATISTICS | STATISTICS_2 => !self.planned.statistics.is_empty(),
            REPLAY => self.planned.replays,
            _ => false,
        }
    }

    /// Lends rows of a statistic; none if the tensor is the model's.
    pub(super) fn lend(&self, tensor: u32, first_row: u64, rows: u64) -> Option<Result<Lease>> {
        let index = usize::try_from(tensor.checked_sub(FIRST)?).ok()?;
        let numbers = lock(&self.lent).get(index).cloned();
        Some(numbers.and_then(|numbers| numbers.lend(first_row, rows)).ok_or_else(|| {
            broken(format!("it asked for {rows} rows from {first_row} on of a statistic, which are not there"))
        }))
    }

    fn get(&self, request: &StatisticsRequest) -> Result<StatisticsAnswer> {
        let StatisticsRequest { group, what, expert, .. } = request;
        let asks = |need: &&StatisticsNeed| need.group == *group && need.what.contains(what);
        let need = self.planned.statistics.iter().find(asks);
        let need = need.ok_or_else(|| broken(format!("it asked for {what:?} of {group}, and its plan does not")))?;
        let reader = self.reader(group).ok_or_else(|| broken(format!("its unit has nothing that reads {group}")))?;
        let width = inputs_of(reader);
        let inputs = self.inputs(group, *expert, width);
        let stream = usize::try_from(self.model.hyperparameters.hidden_size).unwrap_or(0);
        let within_experts = *group == InputGroup::FfnMid && expert.is_some();
        let numbers = match what {
            Statistic::Gram => gram(&inputs, width, need.precision),
            Statistic::MeanAbs => Numbers::single(1, width, &means(&inputs, width, f32::abs)),
            Statistic::MeanSquare => Numbers::single(1, width, &means(&inputs, width, |x| x * x)),
            Statistic::Sample => {
                let rows = usize::try_from(need.sample_rows).map_or(TOKENS, |rows| rows.min(TOKENS));
                Numbers::single(rows, width, &inputs[..rows * width])
            }
            // Nothing was substituted before this unit.
            Statistic::Cross if !within_experts => Numbers::single(width, width, &vec![0.0; width * width]),
            Statistic::Residual
                if matches!(group, InputGroup::AttentionOut | InputGroup::FfnMid) && !within_experts =>
            {
                Numbers::single(stream, width, &vec![0.0; stream * width])
            }
            Statistic::Cross | Statistic::Residual => Numbers::single(0, 0, &[]),
            Statistic::Other => return Err(broken("it asked for a statistic that this host has never heard of")),
        };
        let mut lent = lock(&self.lent);
        let tensor = FIRST.saturating_add(u32::try_from(lent.len()).unwrap_or(u32::MAX));
        let (rows, row_elements) = (numbers.rows as u64, numbers.row_elements as u64);
        lent.push(Arc::new(numbers));
        Ok(StatisticsAnswer::new(tensor, rows, row_elements, TOKENS as u64))
    }

    /// One of the unit's tensors that read a group; all of them have as many inputs.
    fn reader(&self, group: &InputGroup) -> Option<&SourceTensor> {
        let mut of_unit = self.model.tensors.iter().filter(|tensor| tensor.unit == self.planned.unit);
        of_unit.find(|tensor| InputGroup::of(&tensor.role.kind).as_ref() == Some(group))
    }

    /// What a group reads, a row for each token: some columns are larger than others.
    fn inputs(&self, group: &InputGroup, expert: Option<u32>, width: usize) -> Vec<f32> {
        let name = group.name().bytes().map(u64::from).chain([u64::from(self.planned.unit)]);
        let seed =
            name.chain(expert.map(u64::from)).fold(0, |seed: u64, part| seed.wrapping_mul(1009).wrapping_add(part));
        let drawn = noise(seed);
        let scales = [1.0, 2.0, 0.5, 9.0, 1.0, 0.1, 1.5].iter().cycle();
        let scaled = scales.take(width).cycle();
        drawn.zip(scaled).map(|(value, scale)| value * scale).take(TOKENS * width).collect()
    }

    fn substitute(&self, request: SubstituteRequest, operands: &[Operand<'_>]) -> Result<()> {
        let tensor = self.model.tensors.get(request.tensor as usize);
        let tensor = tensor.filter(|tensor| tensor.unit == self.planned.unit);
        let tensor = tensor.ok_or_else(|| broken("it substituted a tensor that is not of its unit"))?;
        match operands {
            [] => drop(lock(&self.substitutes).remove(&request.tensor)),
            [one] if one.dtype == DType::F32 && one.data.len() as u64 == 4 * tensor.elements() => {
                let values = one.data.as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect();
                lock(&self.substitutes).insert(request.tensor, values);
            }
            _ => return Err(broken("what it substituted is not one whole tensor in f32")),
        }
        Ok(())
    }

    fn loss(&self) -> Result<LossAnswer> {
        let (mut changed, mut original, mut outputs) = (0.0, 0.0, 0_u32);
        for (id, substitute) in &*lock(&self.substitutes) {
            let index = *id as usize;
            let Some((tensor, stored)) = self.model.tensors.get(index).zip(self.weights.get(index)) else { continue };
            let Some(group) = InputGroup::of(&tensor.role.kind) else { continue };
            let width = inputs_of(tensor);
            let mut weights = vec![0.0; substitute.len()];
            widen(stored.dtype, &stored.bytes, &mut weights)?;
            let inputs = self.inputs(&group, None, width);
            for (row, substituted) in weights.chunks(width.max(1)).zip(substitute.chunks(width.max(1))) {
                for token in inputs.chunks(width.max(1)) {
                    let product = |row: &[f32]| row.iter().zip(token).map(|(w, x)| f64::from(w * x)).sum::<f64>();
                    let (before, after) = (product(row), product(substituted));
                    changed += (after - before) * (after - before);
                    original += before * before;
                    outputs += 1;
                }
            }
        }
        let outputs = f64::from(outputs.max(1));
        Ok(LossAnswer::new(changed / outputs, original / outputs))
    }
}

impl FormatService for Service {
    fn call(
        &self,
        method: &str,
        request: &str,
        inputs: &[Operand<'_>],
        _outputs: &mut [OperandMut<'_>],
    ) -> Result<ServiceAnswer> {
        let activations = &self.0;
        if activations.monitor.ended.load(Ordering::Relaxed) {
            return Err(broken("it used a unit's service after `run_unit` had returned"));
        }
        match method {
            "get" => ServiceAnswer::new(&activations.get(&parsed(request)?)?),
            "substitute" if activations.has(REPLAY) => {
                ServiceAnswer::new(&activations.substitute(parsed(request)?, inputs)?)
            }
            "loss" if activations.has(REPLAY) => {
                let _: LossRequest = parsed(request)?;
                ServiceAnswer::new(&activations.loss()?)
            }
            _ => Err(Failure::unsupported(format!("there is no method `{method}`"))),
        }
    }
}

impl Numbers {
    fn lend(&self, first_row: u64, rows: u64) -> Option<Lease> {
        let size = if self.dtype == DType::F64 { 8 } else { 4 };
        let row_bytes = self.row_elements * size;
        let first = usize::try_from(first_row).ok()?;
        let end = first.checked_add(usize::try_from(rows).ok()?).filter(|end| *end <= self.rows)?;
        let data = self.bytes.get(first * row_bytes..end * row_bytes)?;
        Some(Lease {
            id: 0,
            dtype: self.dtype,
            rows,
            row_elements: self.row_elements as u64,
            data: data.as_ptr(),
            bytes: data.len() as u64,
        })
    }
}

fn inputs_of(tensor: &SourceTensor) -> usize {
    let inputs = if tensor.transposed { tensor.rows() } else { tensor.row_elements() };
    usize::try_from(inputs).unwrap_or(0)
}

/// Sums over tokens of the products of two columns.
fn gram(inputs: &[f32], width: usize, precision: Precision) -> Numbers {
    let mut sums = vec![0.0_f64; width * width];
    for token in inputs.chunks(width.max(1)) {
        for (row, x) in sums.chunks_mut(width.max(1)).zip(token) {
            row.iter_mut().zip(token).for_each(|(sum, y)| *sum += f64::from(*x) * f64::from(*y));
        }
    }
    if precision == Precision::Double {
        let bytes = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
        return Numbers { dtype: DType::F64, rows: width, row_elements: width, bytes };
    }
    #[expect(clippy::cast_possible_truncation, reason = "in single precision")]
    let sums: Vec<f32> = sums.iter().map(|sum| *sum as f32).collect();
    Numbers::single(width, width, &sums)
}

/// Means over tokens of a function of each column.
fn means(inputs: &[f32], width: usize, of: impl Fn(f32) -> f32) -> Vec<f32> {
    let mut sums = vec![0.0_f32; width];
    for token in inputs.chunks(width.max(1)) {
        sums.iter_mut().zip(token).for_each(|(sum, x)| *sum += of(*x));
    }
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    sums.iter().map(|sum| sum / TOKENS as f32).collect()
}

fn parsed<T: DeserializeOwned>(request: &str) -> Result<T> {
    serde_json::from_str(request).map_err(|error| broken(format!("not the request expected: {error}")))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
