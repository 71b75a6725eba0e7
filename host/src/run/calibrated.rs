//! The calibration of a run: samples for its plan, the hidden states at every unit's border, and the services
//! that a plugin asks while a unit is made.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use qhost_compute::{Device, DeviceChoice, Opened};
use qhost_plugin_api::{
    abi::{DType, Failure},
    documents::{
        InputGroup, LossRequest, Model, Plan, PlannedUnit, SourceTensor, Statistic, StatisticsNeed, SubstituteRequest,
        UnitKind,
    },
    sdk::{FormatService, Operand, OperandMut, REPLAY, STATISTICS, STATISTICS_2, ServiceAnswer},
};
use rayon::ThreadPool;
use serde::{Serialize, de::DeserializeOwned};

use super::{Event, Events, sources::broken, unit::as_failure};
use crate::{
    calibrate::{
        self, Answer, Calibrating, Calibration, Decoder, Engine, Needs, Numbers, Refusal, Step, Virtual, Weights,
    },
    dataset::Samples,
    plan::Forward,
    plugin::{Borrowed, ConnectSettings},
};

/// Loans of tensors that no file has.
const VIRTUAL_LOAN: u64 = 1 << 63;

/// What the units of a plan need of activations.
pub(super) fn needs(plan: &Plan) -> Needs {
    let units = plan.units.iter().filter(|unit| !unit.statistics.is_empty() || unit.replays);
    Needs { units: units.map(|unit| (unit.unit, (unit.statistics.clone(), unit.replays))).collect() }
}

/// What a calibration takes beside what a plugin asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Needed {
    /// Working memory: activations of a batch, and the weights of a layer as they are used.
    pub(super) memory: u64,
    /// Memory for the statistics of a unit, which the ledger grants.
    pub(super) statistics: u64,
    /// Bytes on the output's disk: hidden states and their snapshots.
    pub(super) disk: u64,
    /// Memory for hidden states, where there is enough.
    pub(super) states: u64,
    /// Multiplications: of tokens with weights, and with each other.
    pub(super) products: u64,
}

impl Needed {
    /// What an estimate takes of it.
    pub(super) fn forward(&self, device: DeviceChoice) -> Forward {
        Forward {
            memory: self.memory.saturating_add(self.statistics).saturating_add(self.states),
            // How fast another device is is not known.
            products: if device == DeviceChoice::Cpu { self.products } else { 0 },
        }
    }
}

/// What a calibration takes.
pub(super) fn needed(
    plan: &Plan,
    model: &Model,
    element_bytes: &dyn Fn(usize) -> u64,
    samples: &Samples,
) -> Result<Needed, calibrate::Error> {
    let decoder = Decoder::of(model)?;
    let longest = samples.rows.iter().map(Vec::len).max().unwrap_or(0);
    let tokens: u64 = samples.rows.iter().map(|row| row.len() as u64).sum();
    let states = tokens.saturating_mul(decoder.width as u64).saturating_mul(4);
    let of_unit = |unit: u32| -> u64 {
        let tensors = model.tensors.iter().enumerate().filter(|(_, tensor)| tensor.unit == unit);
        let bytes = tensors.map(|(index, tensor)| tensor.elements().saturating_mul(element_bytes(index)));
        bytes.fold(0, u64::saturating_add)
    };
    let models = if needs(plan).take_original() { 2 } else { 1 };
    let weights = decoder.layers.iter().map(|layer| of_unit(layer.unit)).max().unwrap_or(0);
    Ok(Needed {
        memory: weights.saturating_add(decoder.activations(longest)).saturating_mul(models),
        statistics: statistics_of_a_unit(plan, model),
        // One for the states themselves, and one before and one after the unit at work.
        disk: states.saturating_mul(3).saturating_mul(models),
        states: if states <= calibrate::MOST_IN_MEMORY { states.saturating_mul(models) } else { 0 },
        products: products(plan, model, tokens, models),
    })
}

/// Multiplications that tokens take on their way through all layers, and for the statistics.
fn products(plan: &Plan, model: &Model, tokens: u64, models: u64) -> u64 {
    let experts = model.hyperparameters.experts.as_ref();
    // Of experts that are chosen, a token meets some.
    let share = |of_expert: bool, products: u64| match experts.filter(|_| of_expert) {
        Some(experts) => products / u64::from(experts.count.max(1)) * u64::from(experts.used),
        None => products,
    };
    let in_layer = |unit: u32| model.units.iter().any(|info| info.id == unit && info.kind == UnitKind::Layer);
    let matrices = model.tensors.iter().filter(|tensor| tensor.shape.len() > 1 && in_layer(tensor.unit));
    let of_expert = |tensor: &SourceTensor| tensor.role.expert.is_some() || tensor.shape.len() > 2;
    let forward = matrices.map(|tensor| share(of_expert(tensor), tensor.elements()).saturating_mul(models));
    let statistics = plan.units.iter().flat_map(|unit| {
        let of_need = move |need: &StatisticsNeed| {
            let of_input = |(expert, width): (&Option<u32>, &u64)| {
                let stream = model.hyperparameters.hidden_size;
                let products = need.what.iter().map(|what| match what {
                    // Half of it: it is symmetric.
                    Statistic::Gram => width.saturating_mul(*width) / 2,
                    Statistic::Cross => width.saturating_mul(*width),
                    Statistic::Residual => width.saturating_mul(stream),
                    _ => 0,
                });
                share(expert.is_some(), products.fold(0, u64::saturating_add))
            };
            inputs(model, unit.unit, need).iter().map(of_input).fold(0, u64::saturating_add)
        };
        unit.statistics.iter().map(of_need)
    });
    forward.chain(statistics).fold(0, u64::saturating_add).saturating_mul(tokens)
}

/// The widths of the inputs that a need is about, of each expert where they have their own.
fn inputs(model: &Model, unit: u32, need: &StatisticsNeed) -> BTreeMap<Option<u32>, u64> {
    let of_group = model
        .tensors
        .iter()
        .filter(|tensor| tensor.unit == unit && InputGroup::of(&tensor.role.kind).as_ref() == Some(&need.group));
    // Linears of one group have one input, but for the experts, who have one each.
    let mut inputs: BTreeMap<Option<u32>, u64> = BTreeMap::new();
    for tensor in of_group {
        let input = if tensor.transposed { tensor.rows() } else { tensor.row_elements() };
        match tensor.shape.as_slice() {
            [experts, one, other] => {
                let input = if tensor.transposed { *one } else { *other };
                inputs.extend((0..u32::try_from(*experts).unwrap_or(u32::MAX)).map(|expert| (Some(expert), input)));
            }
            _ => drop(inputs.insert(tensor.role.expert, input)),
        }
    }
    if need.group == InputGroup::OutputIn && inputs.is_empty() {
        // The head may be the embedding, which is of another unit.
        inputs.insert(None, model.hyperparameters.hidden_size);
    }
    inputs
}

/// The most that the statistics of one unit take, while they are gathered and lent.
fn statistics_of_a_unit(plan: &Plan, model: &Model) -> u64 {
    let of_unit = |unit: &PlannedUnit| {
        let needs = unit.statistics.iter().map(|need| {
            let stream = model.hyperparameters.hidden_size;
            let of_inputs = inputs(model, unit.unit, need);
            let of_inputs = of_inputs
                .iter()
                .map(|(expert, width)| calibrate::statistics_memory(need, expert.is_some(), *width, stream));
            of_inputs.fold(0, u64::saturating_add)
        });
        needs.fold(0, u64::saturating_add)
    };
    plan.units.iter().map(of_unit).max().unwrap_or(0)
}

/// The most that a unit needs of the ledger's memory.
pub(super) fn of_a_unit(plan: &Plan, model: &Model, threads: u32) -> u64 {
    let working = plan.units.iter().map(|unit| unit.working_memory(threads)).max().unwrap_or(0);
    statistics_of_a_unit(plan, model).saturating_add(working)
}

/// A calibration under way, and where its snapshots are.
pub(super) struct Running {
    calibration: Box<dyn Calibrating>,
    pool: Arc<ThreadPool>,
    folder: PathBuf,
    /// The last place in the order of layers that needs states.
    last: usize,
    /// The number of layers.
    layers: usize,
    events: Arc<dyn Events>,
}

/// What a calibration begins with.
struct Begin<'a> {
    model: &'a Arc<Model>,
    weights: Arc<dyn Weights>,
    needs: Needs,
    samples: &'a [Vec<u32>],
    settings: &'a ConnectSettings,
    /// Memory that a unit needs for itself.
    reserve: u64,
    folder: &'a Path,
    events: Arc<dyn Events>,
}

impl Begin<'_> {
    fn on<D: Device + Send + 'static>(self, device: D) -> Result<Box<dyn Calibrating>, calibrate::Error> {
        let Self { model, weights, needs, samples, settings, reserve, folder, events } = self;
        let lengths: Vec<_> = samples.iter().map(Vec::len).collect();
        let engine = Engine::new(device, Arc::clone(model), weights, &lengths, settings.cancel.clone())?;
        let (all, layers) = (lengths.iter().sum::<usize>(), engine.decoder().layers.len());
        let (layer, gone) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let engine = engine.telling(move |step| match step {
            Step::Layer(index) => {
                layer.store(index, Ordering::Relaxed);
                gone.store(0, Ordering::Relaxed);
            }
            Step::Tokens(tokens) => {
                let gone = gone.fetch_add(tokens, Ordering::Relaxed) + tokens;
                let layer = layer.load(Ordering::Relaxed) + 1;
                events.emit(Event::UnitStarted { name: &format!("layer {layer} of {layers}, token {gone} of {all}") });
            }
            Step::Head => {}
        });
        let room = (&settings.ledger, reserve);
        let calibration = Calibration::new(engine, Arc::clone(model), needs, samples.to_vec(), room, folder)?;
        Ok(Box::new(calibration))
    }
}

impl Running {
    /// Makes everything ready but the hidden states, which [`Running::restore`] or [`Running::embed`] brings. States leave
    /// at least so much of the ledger's memory to units, of this run or others.
    pub(super) fn new(
        model: &Arc<Model>,
        weights: Arc<dyn Weights>,
        plan: &Plan,
        samples: &[Vec<u32>],
        (settings, least): (&ConnectSettings, u64),
        folder: &Path,
        events: &Arc<dyn Events>,
    ) -> Result<Self, calibrate::Error> {
        let failed = |source| calibrate::Error::States { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(failed)?;
        let needs = needs(plan);
        let layers = model.units.iter().filter(|unit| unit.kind == UnitKind::Layer).count();
        let last = last_layer(model, &needs);
        // Hidden states can be in a file; what a unit needs cannot.
        let reserve = of_a_unit(plan, model, settings.threads()).max(least);
        let reserved = settings.ledger.hold(reserve, "a unit")?;
        let told = |error: &qhost_compute::Error| tracing::warn!("the GPU is passed over: {error}");
        let (device, begin) = (
            settings.device.open(told)?,
            Begin { model, weights, needs, samples, settings, reserve, folder, events: Arc::clone(events) },
        );
        tracing::info!("the model is run on the {}", device.describe());
        let calibration = settings.pool.install(|| match device {
            Opened::Cpu(cpu) => begin.on(cpu),
            Opened::Cuda(cuda) => begin.on(*cuda),
        })?;
        drop(reserved);
        let pool = Arc::clone(&settings.pool);
        Ok(Self { calibration, pool, folder: folder.to_owned(), last, layers, events: Arc::clone(events) })
    }

    fn snapshot(&self, layer: usize) -> PathBuf {
        self.folder.join(format!("before-layer-{layer}"))
    }

    /// Where a unit is in the order of layers: the head comes after all of them.
    fn place(&self, unit: u32) -> usize {
        let place = self.calibration.layer_of(unit);
        place.unwrap_or(if self.calibration.is_head(unit) { self.layers } else { 0 })
    }

    /// Whether a unit or one after it asks for states.
    pub(super) fn is_needed_from(&self, unit: u32) -> bool {
        self.place(unit) <= self.last
    }

    /// Embeds the samples: the states before the first layer.
    pub(super) fn embed(&self) -> Result<(), calibrate::Error> {
        self.events.emit(Event::UnitStarted { name: "embedding of the samples" });
        self.pool.install(|| self.calibration.embed())
    }

    /// Brings the states before a unit: those that an earlier run has left, or the embedded samples before the first
    /// layer. Tells whether there are any.
    pub(super) fn restore(&self, unit: u32) -> Result<bool, calibrate::Error> {
        match self.place(unit) {
            0 => self.embed().map(|()| true),
            place => self.calibration.restore(&self.snapshot(place), place),
        }
    }

    /// Begins a unit.
    pub(super) fn enter(&self, unit: u32) {
        self.calibration.enter(unit);
    }

    /// Ends a unit, and makes durable what the next one needs.
    pub(super) fn leave(&self, unit: u32) -> Result<(), calibrate::Error> {
        let layer = self.calibration.layer_of(unit);
        if layer.is_some_and(|layer| layer >= self.last) {
            // Nobody asks for the states after it.
            self.calibration.rest();
            return Ok(());
        }
        self.pool.install(|| self.calibration.leave())?;
        match layer {
            Some(layer) => self.calibration.save(&self.snapshot(layer + 1)),
            None => Ok(()),
        }
    }

    /// Forgets what only the unit needed that is in the journal now.
    pub(super) fn forget_before(&self, unit: u32) {
        if let Some(layer) = self.calibration.layer_of(unit) {
            // It is of no more use; if it cannot be removed, the work folder goes in the end.
            let snapshot = self.snapshot(layer);
            let _ = fs::remove_file(calibrate::snapshot_of_original(&snapshot));
            let _ = fs::remove_file(snapshot);
        }
    }

    /// The layer that a unit is.
    pub(super) fn layer_of(&self, unit: u32) -> Option<usize> {
        self.calibration.layer_of(unit)
    }

    /// The services of a unit.
    pub(super) fn service(self: &Arc<Self>, unit: u32, name: &str) -> Option<Arc<dyn FormatService>> {
        match name {
            STATISTICS | STATISTICS_2 => Some(Arc::new(Asked { running: Arc::clone(self), unit, replays: false })),
            REPLAY => Some(Arc::new(Asked { running: Arc::clone(self), unit, replays: true })),
            _ => None,
        }
    }

    /// Lends rows of a tensor that no file has.
    pub(super) fn lend(&self, tensor: u32, first_row: u64, rows: u64) -> Option<Result<Borrowed, Failure>> {
        let lent = self.calibration.lend(tensor)?;
        Some(borrowed(&lent, first_row, rows).ok_or_else(|| broken("rows of a statistic that are not there")))
    }
}

/// Whether a loan is of a tensor that no file has; those end with their unit.
pub(super) fn is_virtual(loan: u64) -> bool {
    loan >= VIRTUAL_LOAN
}

fn borrowed(lent: &Arc<Virtual>, first_row: u64, rows: u64) -> Option<Borrowed> {
    let (element, dtype) = match lent.numbers {
        Numbers::Single(_) => (4, DType::F32),
        Numbers::Double(_) => (8, DType::F64),
    };
    let row = lent.row_elements.checked_mul(element)?;
    let (start, bytes) = (first_row.checked_mul(row)?, rows.checked_mul(row)?);
    let end = start.checked_add(bytes)?;
    let data = lent.numbers.bytes().get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)?;
    Some(Borrowed { id: VIRTUAL_LOAN, dtype, rows, row_elements: lent.row_elements, data: data.as_ptr(), bytes })
}

/// The last layer whose states are needed; one past the layers if the head needs them.
fn last_layer(model: &Model, needs: &Needs) -> usize {
    let layers = model.units.iter().filter(|unit| unit.kind == UnitKind::Layer);
    let of_layers = layers.clone().enumerate().filter(|(_, unit)| needs.units.contains_key(&unit.id));
    let last = of_layers.map(|(layer, _)| layer).last().unwrap_or(0);
    let head = model.units.iter().any(|unit| unit.kind == UnitKind::Epilogue && needs.units.contains_key(&unit.id));
    if head { layers.count() } else { last }
}

/// `statistics/1`, `statistics/2` or `replay/1` of a unit.
struct Asked {
    running: Arc<Running>,
    unit: u32,
    replays: bool,
}

impl Asked {
    fn answer<T: Serialize + Send>(
        &self,
        ask: impl FnOnce(&dyn Calibrating) -> Answer<T> + Send,
    ) -> Result<ServiceAnswer, Failure> {
        let answer = self.running.pool.install(|| ask(&*self.running.calibration));
        let answer = answer.map_err(|error| as_failure(&error))?.map_err(|refusal| refused(&refusal))?;
        ServiceAnswer::new(&answer)
    }
}

impl FormatService for Asked {
    fn call(
        &self,
        method: &str,
        request: &str,
        inputs: &[Operand<'_>],
        _outputs: &mut [OperandMut<'_>],
    ) -> Result<ServiceAnswer, Failure> {
        match (self.replays, method) {
            (false, "get") => {
                let request = parsed(request)?;
                self.answer(|calibration| calibration.get(self.unit, &request))
            }
            (true, "substitute") => {
                let request: SubstituteRequest = parsed(request)?;
                let numbers = match inputs {
                    [] => None,
                    [one] if one.dtype == DType::F32 => {
                        Some(one.data.as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect())
                    }
                    _ => return Err(broken("the operand of `substitute` is not one tensor in f32")),
                };
                self.answer(|calibration| Ok(calibration.substitute(self.unit, request.tensor, numbers)))
            }
            (true, "loss") => {
                let request: LossRequest = parsed(request)?;
                self.answer(|calibration| calibration.loss(self.unit, request.samples))
            }
            _ => Err(Failure::unsupported(format!("there is no method `{method}`"))),
        }
    }
}

fn parsed<T: DeserializeOwned>(request: &str) -> Result<T, Failure> {
    serde_json::from_str(request).map_err(|error| broken(&format!("not the request expected: {error}")))
}

fn refused(refusal: &Refusal) -> Failure {
    broken(&refusal.to_string())
}
