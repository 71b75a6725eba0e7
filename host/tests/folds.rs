//! Folds of every family: scales that are folded into the weights leave the logits as they are.
//!
//! The models are those of `tests/fixtures/arch/*` and `tests/fixtures/forward/*`. Scales are random powers of two, by
//! which products and quotients are exact: the logits have to be the same bits. (Where a norm adds 1 to its gain, they are
//! because the fixtures' gains are short; others may lose a last bit.) What a fold says is also broken on purpose, for a
//! check that sees nothing proves nothing.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
    sync::Arc,
};

use qhost::{
    calibrate::{Batch, Engine, LayerRun, Lent, Nobody, Substitutes, Weights},
    cancel::CancelFlag,
    model, run, source,
    stream::Ledger,
};
use qhost_compute::{Cpu, Dtype};
use qhost_plugin_api::{
    abi::Failure,
    documents::{Fold, FoldSource, FoldedNorm, FoldedRows, InputGroup, Model, Part, RoleKind, SourceTensor},
    sdk::apply_fold,
};

/// The least difference that a broken fold makes, relative to the logits' root mean square.
const SEEN: f64 = 2e-4;

/// What is folded in the layers of each fixture and before its head: each kind of layer once. A group stands before what
/// takes the inverse of its scales: `norm`, `norm+1`, `rows` of a linear (with the number of channels that have the same
/// scale, if it is more than one), or `-` where nothing does.
const FOLDED: &str = include_str!("folds.txt");

/// All weights of a model, as they are changed.
#[derive(Clone)]
struct Changed {
    model: Arc<Model>,
    tensors: Vec<Vec<f32>>,
}

impl Changed {
    fn fold(&mut self, fold: &Fold, scales: &[f32]) {
        for (id, (tensor, values)) in (0..).zip(self.model.tensors.iter().zip(&mut self.tensors)) {
            apply_fold(fold, scales, (id, tensor), values).unwrap();
        }
    }
}

impl Weights for Changed {
    fn rows(&self, tensor: u32, first_row: u64, rows: u64) -> Result<Lent<'_>, Failure> {
        let width = usize::try_from(self.model.tensors[tensor as usize].row_elements()).unwrap();
        let (first, rows) = (usize::try_from(first_row).unwrap(), usize::try_from(rows).unwrap());
        let values = &self.tensors[tensor as usize][first * width..][..rows * width];
        Ok(Lent::new(Dtype::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>()))
    }
}

/// A checkpoint, with a config that may be another than the fixture's.
struct Case {
    name: String,
    checkpoint: source::Checkpoint,
}

/// Configs that no fixture has: the fixture, a key and its value, and what is in the names of tensors that go.
const VARIANTS: [(&str, &str, &str, Option<&str>); 6] = [
    ("opt", "do_layer_norm_before", "false", None),
    ("opt", "activation_function", "\"gelu\"", None),
    ("gpt2", "activation_function", "\"relu\"", None),
    ("gpt_neox", "use_parallel_residual", "false", None),
    ("stablelm", "use_parallel_residual", "true", None),
    ("stablelm", "use_parallel_residual", "true", Some("post_attention_layernorm")),
];

/// Every fixture, and the variants.
fn cases() -> Vec<Case> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    let within = |folder: &str| fs::read_dir(fixtures.join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let folders = within("arch").chain(within("forward")).filter(|path| path.is_dir());
    let mut cases: Vec<_> = folders
        .map(|folder| Case {
            name: folder.file_name().unwrap().to_string_lossy().into_owned(),
            checkpoint: source::open(&folder).unwrap(),
        })
        .collect();
    for (fixture, key, value, without) in VARIANTS {
        let mut checkpoint = source::open(&fixtures.join("arch").join(fixture)).unwrap();
        checkpoint.config[key] = serde_json::from_str(value).unwrap();
        checkpoint.tensors.retain(|tensor| without.is_none_or(|without| !tensor.name.contains(without)));
        let without = without.map(|without| format!(",-{without}")).unwrap_or_default();
        cases.push(Case { name: format!("{fixture}({key}={value}{without})"), checkpoint });
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

impl Case {
    fn understood(&self) -> model::Understood {
        model::understand(&self.checkpoint).unwrap()
    }
}

/// A case with its weights, and some tokens.
struct Fixture {
    name: String,
    weights: Changed,
    samples: Vec<Vec<u32>>,
}

impl Fixture {
    fn of(case: &Case) -> Self {
        let understood = case.understood();
        let mut model = understood.model;
        let sources = run::Sources::new(&case.checkpoint, Arc::new(model.clone()), &understood.stored);
        let read = |(id, tensor): (u32, &SourceTensor)| sources.rows(id, 0, tensor.rows()).unwrap().numbers();
        let mut tensors: Vec<_> = (0..).zip(&model.tensors).map(read).collect();
        // What random checkpoints have as all ones or zeros hides mistakes, and gets noise.
        let mut random = Random::new(&case.name);
        for (tensor, values) in model.tensors.iter_mut().zip(&mut tensors) {
            tensor.dtype = "F32".into();
            if values.iter().all(|value| value.to_bits() == values[0].to_bits()) {
                for value in values.iter_mut() {
                    *value += random.between(-0.25, 0.25);
                }
            }
        }
        let vocabulary = model.hyperparameters.vocab_size;
        let mut sample = |length| (0..length).map(|_| u32::try_from(random.next() % vocabulary).unwrap()).collect();
        let samples = vec![sample(24), sample(24)];
        Self { name: case.name.clone(), weights: Changed { model: Arc::new(model), tensors }, samples }
    }

    fn model(&self) -> &Model {
        &self.weights.model
    }

    fn logits(&self, weights: &Changed) -> Vec<f32> {
        let lengths: Vec<_> = self.samples.iter().map(Vec::len).collect();
        let (model, weights) = (Arc::clone(&self.weights.model), Arc::new(weights.clone()));
        let engine = Engine::new(Cpu::default(), model, weights, &lengths, CancelFlag::default()).unwrap();
        let ledger = Arc::new(Ledger::new(None));
        let mut states = engine.embed(&self.samples, &ledger, &std::env::temp_dir()).unwrap();
        for layer in 0..engine.decoder().layers.len() {
            let on = LayerRun { substitutes: &Substitutes::new(), keep: true, forced: None };
            engine.layer(layer, &mut states, &on, &mut Nobody).unwrap();
        }
        engine.finish(&mut states).unwrap();
        let tensors = engine.head_tensors().unwrap();
        let head = engine.head(&tensors).unwrap();
        let states = states.read(&Batch { first: 0, lengths }).unwrap().into_owned();
        engine.logits(&head, &states).unwrap()
    }

    /// How far logits are off, relative to their root mean square; 0 for the same bits.
    fn difference(&self, original: &[f32], weights: &Changed) -> f64 {
        let logits = self.logits(weights);
        assert!(original.iter().chain(&logits).all(|logit| logit.is_finite()), "{}", self.name);
        let square: f64 = original.iter().map(|x| f64::from(*x).powi(2)).sum();
        let count = f64::from(u32::try_from(original.len()).unwrap());
        let worst = original.iter().zip(&logits).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
        worst / (square / count).sqrt()
    }
}

/// Numbers that look like noise, the same in every run.
struct Random(u64);

impl Random {
    fn new(name: &str) -> Self {
        Self(name.bytes().fold(7, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(byte.into())))
    }

    /// Vigna's `SplitMix64`.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn between(&mut self, from: f32, to: f32) -> f32 {
        let [low, high, ..] = self.next().to_le_bytes();
        from + (to - from) * f32::from(u16::from_le_bytes([low, high])) / 65_536.0
    }

    /// A power of two from a quarter to four for each channel, the same for channels that are tied.
    fn scales(&mut self, fold: &Fold) -> Vec<f32> {
        let mut of_ties = BTreeMap::new();
        let scales = [0.25, 0.5, 1.0, 2.0, 4.0];
        let of = |channel| *of_ties.entry(fold.tie(channel)).or_insert_with(|| scales[(self.next() % 5) as usize]);
        (0..fold.channels).map(of).collect()
    }
}

#[test]
fn scales_that_are_folded_leave_the_logits_as_they_are() {
    let mut failed = Vec::new();
    for case in cases() {
        let fixture = Fixture::of(&case);
        let mut random = Random::new(&case.name);
        let mut folded = fixture.weights.clone();
        for fold in fixture.model().folds.iter().filter(|fold| fold.is_possible()) {
            folded.fold(fold, &random.scales(fold));
        }
        let changed = fixture.weights.tensors.iter().zip(&folded.tensors).filter(|(a, b)| a != b).count();
        assert!(changed > 0, "{}: nothing was folded", fixture.name);
        let difference = fixture.difference(&fixture.logits(&fixture.weights), &folded);
        if difference > 0.0 {
            failed.push(format!("{}: {difference:e}", fixture.name));
        }
    }
    assert!(failed.is_empty(), "logits differ:\n{}", failed.join("\n"));
}

/// A way to make a fold wrong.
type Break = Box<dyn Fn(&mut Fold)>;

/// Ways to make a fold wrong, each with what it is.
fn breaks(fold: &Fold, model: &Arc<Model>) -> Vec<(String, Break)> {
    let mut breaks: Vec<(String, Break)> = Vec::new();
    let kinds: BTreeSet<_> = fold.readers.iter().map(|id| model.tensors[*id as usize].role.kind.clone()).collect();
    for kind in kinds {
        let (what, model) = (format!("without the readers {}", kind.name()), Arc::clone(model));
        breaks.push((
            what,
            Box::new(move |fold| fold.readers.retain(|id| model.tensors[*id as usize].role.kind != kind)),
        ));
    }
    let of_norm = |change: fn(&mut FoldedNorm)| -> Break {
        Box::new(move |fold| {
            if let FoldSource::Norm(norm) = &mut fold.source {
                change(norm);
            }
        })
    };
    let of_rows = |change: fn(&mut FoldedRows)| -> Break {
        Box::new(move |fold| {
            if let FoldSource::Rows(rows) = &mut fold.source {
                change(rows);
            }
        })
    };
    let mut add = |what: &str, change: Break| breaks.push((what.to_owned(), change));
    match &fold.source {
        FoldSource::Norm(norm) => {
            add("with another offset", of_norm(|norm| norm.offset = 1.0 - norm.offset));
            if norm.bias.is_some() {
                add("without the norm's bias", of_norm(|norm| norm.bias = None));
            }
        }
        FoldSource::Rows(rows) => {
            if rows.bias.is_some() {
                add("without the linear's bias", of_rows(|rows| rows.bias = None));
            }
            if rows.map.first > 0 {
                add("from the first output on", of_rows(|rows| rows.map.first = 0));
            }
            if rows.map.step != rows.map.width {
                add("with parts side by side", of_rows(|rows| rows.map.step = rows.map.width));
            }
            if rows.map.share < fold.channels / rows.map.width {
                add("with all heads sharing", of_rows(|rows| rows.map.share = u64::MAX));
            }
        }
        _ => {}
    }
    breaks
}

#[test]
fn a_fold_that_is_not_whole_changes_the_logits() {
    let mut unseen = Vec::new();
    let mut count = 0;
    for case in cases() {
        let fixture = Fixture::of(&case);
        let mut random = Random::new(&case.name);
        let original = fixture.logits(&fixture.weights);
        // The layers are alike but for experts; the last one and the head are enough.
        let last = fixture.model().units.iter().rev().nth(1).unwrap().id;
        let folds = fixture.model().folds.iter().filter(|fold| fold.is_possible() && fold.unit >= last);
        // Those of experts belong together: no token may have been sent to one of them.
        let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for fold in folds {
            groups.entry(format!("{:?}", fold.groups)).or_default().push((fold, random.scales(fold)));
        }
        for (group, folds) in groups {
            for (what, change) in breaks(folds[0].0, &fixture.weights.model) {
                let mut folded = fixture.weights.clone();
                for (fold, scales) in &folds {
                    let mut broken = (*fold).clone();
                    change(&mut broken);
                    folded.fold(&broken, scales);
                }
                count += 1;
                if fixture.difference(&original, &folded) <= SEEN {
                    unseen.push(format!("{}, {group}: {what}", fixture.name));
                }
            }
        }
    }
    assert!(unseen.is_empty(), "not seen of {count}:\n{}", unseen.join("\n"));
    assert!(count > 500, "{count} were tried");
}

#[test]
fn every_linear_is_in_the_fold_of_its_input() {
    for case in cases() {
        let (name, model) = (&case.name, case.understood().model);
        for (id, tensor) in (0..).zip(&model.tensors).filter(|(_, tensor)| tensor.role.part == Part::Weight) {
            let folds: Vec<_> = model.folds.iter().filter(|fold| fold.readers.contains(&id)).collect();
            let Some(group) = InputGroup::of(&tensor.role.kind) else {
                let is_head = tensor.role.kind == RoleKind::TokenEmbedding && model.hyperparameters.tied_embeddings;
                assert_eq!(folds.len(), usize::from(is_head), "{name}: {}", tensor.name);
                continue;
            };
            assert!(folds.iter().all(|fold| fold.unit == tensor.unit && fold.groups.contains(&group)), "{name}");
            let experts: Vec<_> = folds.iter().map(|fold| fold.expert).collect();
            let expected = match tensor.role.kind {
                RoleKind::ExpertsDown => (0..u32::try_from(tensor.shape[0]).unwrap()).map(Some).collect(),
                RoleKind::FfnDown => vec![tensor.role.expert],
                _ => vec![None],
            };
            assert_eq!(experts, expected, "{name}: {}", tensor.name);
        }
    }
}

/// The folds of a layer in a few words.
fn in_words(folds: &[&Fold]) -> String {
    let mut words = Vec::new();
    for fold in folds {
        let groups: Vec<_> = fold.groups.iter().map(InputGroup::name).collect();
        let source = match &fold.source {
            FoldSource::Norm(norm) if norm.offset > 0.0 => "norm+1".to_owned(),
            FoldSource::Norm(_) => "norm".to_owned(),
            FoldSource::Rows(rows) if rows.map.share > 1 => format!("rows/{}", rows.map.share),
            FoldSource::Rows(_) => "rows".to_owned(),
            _ => "-".to_owned(),
        };
        let expert = if fold.expert.is_some() { "[]" } else { "" };
        words.push(format!("{}{expert}:{source}", groups.join("+")));
    }
    words.dedup();
    words.join(" ")
}

#[test]
fn what_is_folded_in_each_family_is_known() {
    let mut told = String::new();
    for case in cases() {
        let (name, model) = (&case.name, case.understood().model);
        let mut seen = BTreeSet::new();
        for unit in &model.units {
            let folds: Vec<_> = model.folds.iter().filter(|fold| fold.unit == unit.id).collect();
            if !folds.is_empty() && seen.insert(in_words(&folds)) {
                writeln!(told, "{name} {}", in_words(&folds)).unwrap();
            }
        }
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/folds.txt"), &told).unwrap();
    }
    assert_eq!(told, FOLDED);
}
