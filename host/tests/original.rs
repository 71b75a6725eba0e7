//! What the original model has more than one with substitutes: the sums over tokens that plans ask for are those of two
//! whole forward passes, in every kind of block, wherever what is kept of them lies.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use qhost::{
    calibrate::{
        Calibrating, Calibration, Engine, Input, Interruption, LayerRun, Needs, Observer, Substitutes, Weights,
    },
    cancel::CancelFlag,
    model, run, source,
    stream::Ledger,
};
use qhost_compute::Cpu;
use qhost_plugin_api::documents::{
    InputGroup, Model, Part, RoleKind, Scarce, SourceTensor, Statistic, StatisticsNeed, StatisticsRequest, UnitKind,
};

const GROUPS: [InputGroup; 7] = [
    InputGroup::AttentionIn,
    InputGroup::AttentionQB,
    InputGroup::AttentionKvB,
    InputGroup::AttentionOut,
    InputGroup::FfnIn,
    InputGroup::FfnMid,
    InputGroup::SharedMid,
];

/// Inputs, their width, and which tokens they are of, if not of all.
type Rows = (Vec<f32>, usize, Option<Vec<u32>>);

/// A layer, a group of it, and an expert.
type Place = (usize, InputGroup, Option<u32>);

/// How a calibration is run.
#[derive(Debug, Clone, Copy)]
struct How {
    spills: bool,
    keeps: bool,
    replays: bool,
    /// Experts with fewer tokens than these are shown all.
    fewest: u64,
}

const PLAIN: How = How { spills: false, keeps: true, replays: true, fewest: 0 };

struct Fixture {
    model: Arc<Model>,
    weights: Arc<run::Sources>,
    samples: Vec<Vec<u32>>,
    layers: Vec<u32>,
}

fn fixture(name: &str) -> Fixture {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/arch").join(name);
    let checkpoint = source::open(&folder).unwrap();
    let understood = model::understand(&checkpoint).unwrap();
    let model = Arc::new(understood.model);
    let weights = Arc::new(run::Sources::new(&checkpoint, Arc::clone(&model), &understood.stored));
    let vocabulary = u32::try_from(model.hyperparameters.vocab_size).unwrap();
    let tokens =
        |sample: u32| (0..9 + sample).map(move |token| (token * 31 + sample * 17 + token * token) % vocabulary);
    let samples = (0..4).map(|sample| tokens(sample).collect()).collect();
    let layers = model.units.iter().filter(|unit| unit.kind == UnitKind::Layer).map(|unit| unit.id).collect();
    Fixture { model, weights, samples, layers }
}

impl Fixture {
    fn engine(&self) -> Engine<Cpu> {
        let lengths: Vec<_> = self.samples.iter().map(Vec::len).collect();
        let weights = Arc::clone(&self.weights) as _;
        Engine::new(Cpu::default(), Arc::clone(&self.model), weights, &lengths, CancelFlag::default()).unwrap()
    }

    /// The linears of a group of a layer.
    fn linears(&self, layer: u32, group: &InputGroup) -> Vec<(u32, &SourceTensor)> {
        let of_group = |tensor: &SourceTensor| {
            let own = InputGroup::of(&tensor.role.kind).filter(|_| tensor.role.part == Part::Weight);
            tensor.unit == layer && own.as_ref() == Some(group)
        };
        (0..).zip(&self.model.tensors).filter(|(_, tensor)| of_group(tensor)).collect()
    }

    fn numbers(&self, id: u32) -> Vec<f32> {
        self.weights.rows(id, 0, self.model.tensors[id as usize].rows()).unwrap().numbers()
    }

    /// The linears that are substituted: who is sent where is known before it is asked what experts read.
    fn substituted(&self, layer: u32, group: &InputGroup) -> Vec<u32> {
        let routes = |tensor: &SourceTensor| matches!(tensor.role.kind, RoleKind::Router | RoleKind::SharedRouter);
        let linears = self.linears(layer, group).into_iter().filter(|(_, tensor)| !routes(tensor));
        linears.map(|(id, _)| id).collect()
    }

    /// Other weights in the place of a tensor's: rough ones.
    fn rough(&self, id: u32) -> Vec<f32> {
        self.numbers(id).into_iter().map(|weight| (weight * 64.0).round() / 64.0).collect()
    }

    /// What a calibration tells of every place: of `Cross` and of `Residual` the numbers and the tokens.
    fn told(&self, how: How, substitutes: bool) -> BTreeMap<(Place, Statistic), (Vec<f32>, u64)> {
        let needs = GROUPS.map(|group| {
            let mut need = StatisticsNeed::new(group, vec![Statistic::Cross, Statistic::Residual, Statistic::Gram]);
            (need.fewest_tokens, need.scarce) = (how.fewest, Scarce::AllTokens);
            need
        });
        let units = self.layers.iter().map(|&layer| (layer, (needs.to_vec(), how.replays)));
        let needs = Needs { units: units.collect() };
        let states = tempfile::tempdir().unwrap();
        let ledger = Arc::new(Ledger::new(Some(1 << 30)));
        let room = (&ledger, if how.spills { 1 << 30 } else { 0 });
        let (model, samples) = (Arc::clone(&self.model), self.samples.clone());
        let calibration = Calibration::new(self.engine(), model, needs, samples, room, states.path()).unwrap();
        let calibration = if how.keeps { calibration } else { calibration.keeping_nothing() };
        calibration.embed().unwrap();
        let mut told = BTreeMap::new();
        for (index, &layer) in self.layers.iter().enumerate() {
            calibration.enter(layer);
            for group in GROUPS {
                let linears = self.linears(layer, &group);
                for expert in linears.iter().flat_map(|(_, tensor)| experts(tensor)) {
                    for what in [Statistic::Cross, Statistic::Residual] {
                        let answer = calibration.get(layer, &StatisticsRequest::new(group.clone(), what, expert));
                        let answer = answer.unwrap().unwrap();
                        let lent = calibration.lend(answer.tensor).unwrap();
                        let numbers: Vec<f32> = bytemuck::cast_slice(lent.numbers.bytes()).to_vec();
                        assert_eq!(numbers.len() as u64, answer.rows * answer.row_elements);
                        told.insert(((index, group.clone(), expert), what), (numbers, answer.tokens));
                    }
                }
                for id in self.substituted(layer, &group).into_iter().filter(|_| substitutes) {
                    calibration.substitute(layer, id, Some(self.rough(id))).unwrap();
                }
            }
            calibration.leave().unwrap();
            calibration.save(&states.path().join("snapshot")).unwrap();
            // What another run goes on from is the same.
            assert!(calibration.restore(&states.path().join("snapshot"), index + 1).unwrap());
        }
        told
    }

    /// What is read everywhere in a whole forward pass, and the states before every layer.
    fn seen(&self, substitutes: &Substitutes) -> Seen {
        let engine = self.engine();
        let ledger = Arc::new(Ledger::new(None));
        let mut states = engine.embed(&self.samples, &ledger, &std::env::temp_dir()).unwrap();
        let mut seen = Seen::default();
        for layer in 0..self.layers.len() {
            seen.layer = layer;
            seen.before.push(states.read(&qhost::calibrate::Batch::cut(states.lengths())[0]).unwrap().into_owned());
            let on = LayerRun { substitutes, keep: true, forced: None };
            engine.layer(layer, &mut states, &on, &mut seen).unwrap();
        }
        seen
    }
}

fn experts(tensor: &SourceTensor) -> Vec<Option<u32>> {
    match tensor.shape.as_slice() {
        [experts, _, _] => (0..u32::try_from(*experts).unwrap()).map(Some).collect(),
        _ => vec![tensor.role.expert],
    }
}

#[derive(Default)]
struct Seen {
    layer: usize,
    before: Vec<Vec<f32>>,
    inputs: BTreeMap<Place, Rows>,
}

impl Observer<Cpu> for Seen {
    fn look(&mut self, _: &Cpu, input: &Input<'_, Cpu>) -> Result<(), Interruption> {
        let place = (self.layer, input.group.clone(), input.expert);
        let found = (input.numbers.clone(), input.width, input.rows.map(<[u32]>::to_vec));
        assert!(self.inputs.insert(place, found).is_none(), "there is one batch");
        Ok(())
    }
}

/// `Σ (a − b) xᵀ` in `f64`, of rows of as many numbers.
fn products(a: &[f32], b: &[f32], height: usize, x: &[f32], width: usize) -> Vec<f64> {
    let mut out = vec![0.0; height * width];
    for ((a, b), x) in a.chunks(height).zip(b.chunks(height)).zip(x.chunks(width)) {
        for (out, (a, b)) in out.chunks_mut(width).zip(a.iter().zip(b)) {
            let more = f64::from(*a) - f64::from(*b);
            out.iter_mut().zip(x).for_each(|(out, x)| *out += more * f64::from(*x));
        }
    }
    out
}

fn assert_close(what: &str, found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().map(|x| x.abs()).fold(0.0, f64::max);
    let worst = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
    assert!(worst <= 2e-5 * scale, "{what}: {worst:e} off, of {scale:e}");
}

/// `x Wᵀ`, added to a stream.
fn added(stream: &[f32], (x, inputs): (&[f32], usize), weights: &[f32], transposed: bool) -> Vec<f32> {
    let outputs = weights.len() / inputs;
    let rows = stream.chunks(outputs).zip(x.chunks(inputs));
    let added = rows.flat_map(|(stream, x)| {
        stream.iter().enumerate().map(move |(output, stream)| {
            let at = |input: usize| if transposed { input * outputs + output } else { output * inputs + input };
            let sum: f64 = x.iter().enumerate().map(|(k, x)| f64::from(*x) * f64::from(weights[at(k)])).sum();
            #[expect(clippy::cast_possible_truncation, reason = "as the engine's streams")]
            let sum = (f64::from(*stream) + sum) as f32;
            sum
        })
    });
    added.collect()
}

/// Holds everything that is told of a model against two forward passes; gives the groups that have residuals.
fn check(name: &str, how: How) -> Vec<InputGroup> {
    let fixture = fixture(name);
    let told = fixture.told(how, true);
    let of_layer = |&layer: &u32| GROUPS.iter().flat_map(|group| fixture.substituted(layer, group)).collect::<Vec<_>>();
    let ids = fixture.layers.iter().flat_map(of_layer);
    let rough: Substitutes = ids.map(|id| (id, Arc::new(fixture.rough(id)))).collect();
    let (original, other) = (fixture.seen(&Substitutes::new()), fixture.seen(&rough));
    let tokens: usize = fixture.samples.iter().map(Vec::len).sum();
    let mut residuals = Vec::new();
    for ((place, what), (found, seen)) in &told {
        let (layer, group, expert) = place;
        let about = format!("{name}: {what:?} of {group} {expert:?} in layer {layer}");
        let within_expert = *group == InputGroup::FfnMid && expert.is_some();
        assert!(*what == Statistic::Residual || found.is_empty() == within_expert, "{about}");
        if found.is_empty() {
            continue;
        }
        let all = *seen == tokens as u64 && how.fewest > 0 && expert.is_some();
        let none = (Vec::new(), 1, Some(Vec::new()));
        let (x, width, rows) = match expert {
            // An expert that is shown all tokens reads what the block reads.
            Some(_) if all => &other.inputs[&(*layer, group.clone(), None)],
            Some(_) => other.inputs.get(place).unwrap_or(&none),
            None => &other.inputs[place],
        };
        if *what == Statistic::Cross {
            assert_eq!(*seen, rows.as_ref().map_or(tokens, Vec::len) as u64, "{about}");
            let (own, own_width, _) = &original.inputs[&(*layer, group.clone(), None)];
            let row = |&row: &u32| &own[row as usize * own_width..][..*own_width];
            let own = rows.as_ref().map_or_else(|| own.clone(), |rows| rows.iter().flat_map(row).copied().collect());
            let nothing = || vec![0.0; own_width * own_width];
            let expected = if x.is_empty() { nothing() } else { products(&own, x, *width, x, *width) };
            assert_close(&about, found, &expected);
            continue;
        }
        residuals.push(group.clone());
        // The stream before attention is that before the layer, and what attention gives is added to it.
        let stream = |seen: &Seen, with: &dyn Fn(u32) -> Vec<f32>| {
            let before = &seen.before[*layer];
            if *group == InputGroup::AttentionOut {
                return before.clone();
            }
            let (x, width, _) = &seen.inputs[&(*layer, InputGroup::AttentionOut, None)];
            let (id, tensor) = fixture.linears(fixture.layers[*layer], &InputGroup::AttentionOut)[0];
            added(before, (x, *width), &with(id), tensor.transposed)
        };
        let own = stream(&original, &|id| fixture.numbers(id));
        let others = stream(&other, &|id| fixture.rough(id));
        let height = own.len() / tokens;
        assert_close(&about, found, &products(&own, &others, height, x, *width));
    }
    residuals.sort_unstable();
    residuals.dedup();
    residuals
}

const BOTH: [InputGroup; 2] = [InputGroup::AttentionOut, InputGroup::FfnMid];

#[test]
fn dense_blocks_have_both_in_turn_and_side_by_side() {
    for name in ["llama", "gpt2", "gpt_neox", "phi", "cohere"] {
        assert_eq!(check(name, PLAIN), BOTH, "{name}");
    }
}

#[test]
fn experts_have_what_is_sent_to_them_and_residuals_only_of_those_that_all_tokens_use() {
    assert_eq!(check("mixtral", PLAIN), [InputGroup::AttentionOut]);
    assert_eq!(check("qwen2_moe", PLAIN), [InputGroup::AttentionOut], "its shared experts have a gate");
    assert_eq!(check("deepseek_v3", PLAIN), [InputGroup::AttentionOut, InputGroup::FfnMid, InputGroup::SharedMid]);
    assert_eq!(check("mixtral", How { fewest: 1000, ..PLAIN }), [InputGroup::AttentionOut]);
}

#[test]
fn what_is_normed_or_scaled_before_it_is_added_has_no_residual() {
    for name in ["gemma2", "granite", "olmo2"] {
        assert_eq!(check(name, PLAIN), [], "{name}");
    }
}

#[test]
fn the_bits_are_the_same_wherever_what_is_kept_lies() {
    for name in ["llama", "gpt_neox", "deepseek_v3"] {
        let fixture = fixture(name);
        let plain = fixture.told(How { keeps: false, ..PLAIN }, true);
        for spills in [false, true] {
            assert!(plain == fixture.told(How { spills, ..PLAIN }, true), "{name}, in files: {spills}");
        }
    }
}

#[test]
fn a_model_without_substitutes_has_nothing_more() {
    for name in ["llama", "gpt_neox", "mixtral", "deepseek_v3"] {
        let fixture = fixture(name);
        for replays in [true, false] {
            let told = fixture.told(How { replays, ..PLAIN }, false);
            assert!(told.values().any(|(numbers, _)| !numbers.is_empty()));
            assert!(told.values().all(|(numbers, _)| numbers.iter().all(|number| *number == 0.0)), "{name}");
        }
    }
}

#[test]
fn the_original_model_runs_only_where_it_is_asked_for() {
    let need = |what| StatisticsNeed::new(InputGroup::AttentionIn, vec![Statistic::Gram, what]);
    let needs = |what| Needs { units: [(1, (vec![need(what)], true))].into() };
    assert!(!needs(Statistic::Sample).take_original());
    assert!(needs(Statistic::Cross).take_original() && needs(Statistic::Residual).take_original());
}
