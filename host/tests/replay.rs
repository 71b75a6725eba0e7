//! What is kept within a layer changes no bit: statistics with substituted weights, and the states after the layer,
//! are those of running the layer anew from its input each time, for every family.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use qhost::{
    calibrate::{Calibrating, Calibration, Engine, Lent, Needs, Weights},
    cancel::CancelFlag,
    model, run, source,
    stream::Ledger,
};
use qhost_compute::Cpu;
use qhost_plugin_api::{
    abi::Failure,
    documents::{
        InputGroup, Model, Part, Precision, RoleKind, Scarce, SourceTensor, Statistic, StatisticsNeed,
        StatisticsRequest, UnitKind,
    },
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

/// Weights that count how often a tensor is lent as a whole.
struct Counted<'a> {
    weights: run::Sources,
    lent: &'a Mutex<BTreeMap<u32, u32>>,
}

impl Weights for Counted<'static> {
    fn rows(&self, tensor: u32, first_row: u64, rows: u64) -> Result<Lent<'_>, Failure> {
        *self.lent.lock().unwrap().entry(tensor).or_default() += 1;
        self.weights.rows(tensor, first_row, rows)
    }
}

/// How a calibration is run.
#[derive(Clone, Copy)]
struct How {
    /// Whether all memory that there is is a unit's own, so that what is kept goes to files.
    spills: bool,
    keeps: bool,
    /// Whether linears are halved once their input is known.
    halves: bool,
    /// Experts with fewer tokens than these are shown all.
    fewest: u64,
}

struct Seen {
    model: Arc<Model>,
    /// What was told of every group, and the states before every layer but the first.
    told: Vec<Vec<u8>>,
    lent: BTreeMap<u32, u32>,
}

fn group_of(tensor: &SourceTensor) -> Option<InputGroup> {
    InputGroup::of(&tensor.role.kind).filter(|_| tensor.role.part == Part::Weight)
}

fn observed(folder: &Path, how: How) -> Seen {
    let checkpoint = source::open(folder).unwrap();
    let understood = model::understand(&checkpoint).unwrap();
    let model = Arc::new(understood.model);
    let lent: &'static Mutex<BTreeMap<u32, u32>> = Box::leak(Box::default());
    let weights =
        Arc::new(Counted { weights: run::Sources::new(&checkpoint, Arc::clone(&model), &understood.stored), lent });
    let vocabulary = u32::try_from(model.hyperparameters.vocab_size).unwrap();
    let tokens =
        |sample: u32| (0..9 + sample).map(move |token| (token * 31 + sample * 17 + token * token) % vocabulary);
    let samples: Vec<Vec<u32>> = (0..4).map(|sample| tokens(sample).collect()).collect();
    let lengths: Vec<_> = samples.iter().map(Vec::len).collect();
    let needs = GROUPS.map(|group| {
        let mut need = StatisticsNeed::new(group, vec![Statistic::Gram, Statistic::MeanAbs]);
        need.precision = Precision::Double;
        need.fewest_tokens = how.fewest;
        need.scarce = Scarce::AllTokens;
        need
    });
    let layers: Vec<u32> = model.units.iter().filter(|unit| unit.kind == UnitKind::Layer).map(|unit| unit.id).collect();
    let needs = Needs { units: layers.iter().map(|&layer| (layer, (needs.to_vec(), true))).collect() };
    let engine =
        Engine::new(Cpu::default(), Arc::clone(&model), Arc::clone(&weights) as _, &lengths, CancelFlag::default());
    let states = tempfile::tempdir().unwrap();
    let ledger = Arc::new(Ledger::new(Some(1 << 30)));
    let reserve = if how.spills { 1 << 30 } else { 0 };
    let room = (&ledger, reserve);
    let calibration =
        Calibration::new(engine.unwrap(), Arc::clone(&model), needs, samples, room, states.path()).unwrap();
    let calibration = if how.keeps { calibration } else { calibration.keeping_nothing() };
    calibration.embed().unwrap();
    lent.lock().unwrap().clear();
    let mut told = Vec::new();
    for &layer in &layers {
        calibration.enter(layer);
        for group in &GROUPS {
            let linears = (0..).zip(&model.tensors);
            let linears =
                linears.filter(|(_, tensor)| tensor.unit == layer && group_of(tensor).as_ref() == Some(group));
            let linears: Vec<(u32, &SourceTensor)> = linears.collect();
            let mut experts: Vec<Option<u32>> = linears.iter().flat_map(|(_, tensor)| experts(tensor)).collect();
            experts.sort_unstable();
            experts.dedup();
            for expert in experts {
                for what in [Statistic::Gram, Statistic::MeanAbs] {
                    let answer = calibration.get(layer, &StatisticsRequest::new(group.clone(), what, expert));
                    let answer = answer.unwrap().unwrap();
                    told.push(calibration.lend(answer.tensor).unwrap().numbers.bytes().to_vec());
                    told.push(vec![u8::from(answer.all_tokens)]);
                }
            }
            for (id, tensor) in linears.into_iter().filter(|_| how.halves) {
                let numbers = weights.weights.rows(id, 0, tensor.rows()).unwrap().numbers();
                let halved = numbers.into_iter().map(|number| number / 2.0).collect();
                calibration.substitute(layer, id, Some(halved)).unwrap();
            }
        }
        calibration.leave().unwrap();
        let path = states.path().join("snapshot");
        calibration.save(&path).unwrap();
        told.push(fs::read(path).unwrap());
    }
    let lent = lent.lock().unwrap().clone();
    Seen { model, told, lent }
}

fn experts(tensor: &SourceTensor) -> Vec<Option<u32>> {
    match tensor.shape.as_slice() {
        [experts, _, _] => (0..u32::try_from(*experts).unwrap()).map(Some).collect(),
        _ => vec![tensor.role.expert],
    }
}

fn fixtures(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(folder);
    let mut folders: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.is_dir());
    folders.sort();
    folders
}

const KEEPS: How = How { spills: false, keeps: true, halves: true, fewest: 0 };

#[test]
fn what_is_kept_changes_no_bit_in_any_family() {
    for folder in fixtures("arch").into_iter().chain(fixtures("forward")) {
        let plain = observed(&folder, How { keeps: false, ..KEEPS });
        let kept = observed(&folder, KEEPS);
        assert!(plain.told == kept.told, "{}", folder.display());
        let whole = observed(&folder, How { halves: false, ..KEEPS });
        assert!(whole.told != kept.told, "{}: halves change nothing", folder.display());
    }
}

#[test]
fn experts_that_see_all_tokens_see_the_same_and_files_give_what_memory_does() {
    for name in ["llama", "mixtral", "deepseek_v3", "gpt_neox"] {
        let folder = fixtures("arch").into_iter().find(|folder| folder.ends_with(name)).unwrap();
        let plain = observed(&folder, How { keeps: false, fewest: 1000, ..KEEPS });
        for spills in [false, true] {
            let kept = observed(&folder, How { spills, fewest: 1000, ..KEEPS });
            assert!(plain.told == kept.told, "{name}, in files: {spills}");
        }
        let unforced = observed(&folder, How { keeps: false, ..KEEPS });
        assert_eq!(plain.told != unforced.told, plain.model.hyperparameters.experts.is_some(), "{name}");
    }
}

#[test]
fn every_linear_of_a_layer_takes_part_once() {
    for folder in fixtures("arch") {
        let seen = observed(&folder, How { halves: false, ..KEEPS });
        let again = observed(&folder, How { halves: false, keeps: false, ..KEEPS });
        let linears = (0..).zip(&seen.model.tensors).filter(|(_, tensor)| group_of(tensor).is_some());
        // A router is asked again which rows are an expert's; where some experts are everyone's, what is kept before
        // the down projections is looked at twice, and cut by their sizes.
        let shares = seen.model.tensors.iter().any(|tensor| tensor.role.kind == RoleKind::SharedDown);
        let linears = linears.filter(|(_, tensor)| match tensor.role.kind {
            RoleKind::Output | RoleKind::Router | RoleKind::SharedRouter => false,
            RoleKind::FfnDown | RoleKind::ExpertsDown | RoleKind::SharedDown => !shares,
            _ => true,
        });
        let mut more = 0;
        for (id, tensor) in linears {
            assert_eq!(seen.lent[&id], 1, "{}: {}", folder.display(), tensor.name);
            more += again.lent[&id] - 1;
        }
        assert!(more > 0, "{}", folder.display());
    }
}
