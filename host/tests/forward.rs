//! The forward pass of every family against transformers: hidden states after each layer, and logits.
//!
//! `golden.safetensors` of `tests/fixtures/arch/*` and `tests/fixtures/forward/*` were made by transformers 5.23
//! with eager attention, bf16 weights widened to `f32`; `hidden.n` of the last layer is after the final norm.
//! Where there are `lengths`, samples have different ones, and each went through alone.
//! `QHOST_FORWARD_FIXTURES` names another folder of such folders to check.
#![expect(clippy::unwrap_used, clippy::cast_precision_loss, reason = "a test")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use qhost::{
    calibrate::{Batch, Engine, HiddenStates, LayerRun, Nobody, Substitutes},
    cancel::CancelFlag,
    model, run, source,
    stream::Ledger,
};
use qhost_compute::Cpu;
use safetensors::SafeTensors;

/// Greatest difference relative to the tensor's root mean square.
const TOLERANCE: f64 = 2e-4;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

struct Golden {
    samples: Vec<Vec<u32>>,
    hidden: Vec<Vec<f32>>,
    logits: Vec<f32>,
}

impl Golden {
    fn of(folder: &Path) -> Self {
        let bytes = fs::read(folder.join("golden.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let floats = |name: &str| {
            let data = tensors.tensor(name).ok()?.data().to_vec();
            Some(data.as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect::<Vec<_>>())
        };
        let whole = |name: &str| {
            let tensor = tensors.tensor(name).ok()?;
            let numbers = tensor.data().as_chunks::<8>().0.iter().map(|raw| i64::from_le_bytes(*raw));
            Some((numbers.map(|number| u32::try_from(number).unwrap()).collect::<Vec<_>>(), tensor.shape().to_vec()))
        };
        let (tokens, shape) = whole("input_ids").unwrap();
        let same = || vec![*shape.last().unwrap(); shape[0]];
        let lengths =
            whole("lengths").map_or_else(same, |(lengths, _)| lengths.into_iter().map(|n| n as usize).collect());
        let mut rest = tokens.as_slice();
        let samples = lengths.iter().map(|&length| rest.split_off(..length).unwrap().to_vec()).collect();
        let hidden = (0..).map_while(|index| floats(&format!("hidden.{index}"))).collect();
        Self { samples, hidden, logits: floats("logits").unwrap() }
    }
}

fn assert_close(what: &str, actual: &[f32], expected: &[f32]) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    let square: f64 = expected.iter().map(|x| f64::from(*x).powi(2)).sum();
    let scale = (square / expected.len() as f64).sqrt();
    let worst = actual.iter().zip(expected).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    assert!(worst <= TOLERANCE * scale, "{what}: {worst:e} off, of {scale:e}");
}

fn all(states: &HiddenStates) -> Vec<f32> {
    states.read(&Batch { first: 0, lengths: states.lengths().to_vec() }).unwrap().into_owned()
}

fn check(folder: &Path) {
    let name = folder.file_name().unwrap().to_string_lossy().into_owned();
    let golden = Golden::of(folder);
    let checkpoint = source::open(folder).unwrap();
    let understood = model::understand(&checkpoint).unwrap();
    let model = Arc::new(understood.model);
    let sources = Arc::new(run::Sources::new(&checkpoint, Arc::clone(&model), &understood.stored));
    let lengths: Vec<_> = golden.samples.iter().map(Vec::len).collect();
    let engine = Engine::new(Cpu::default(), model, sources, &lengths, CancelFlag::default()).unwrap();
    let ledger = Arc::new(Ledger::new(None));
    let mut states = engine.embed(&golden.samples, &ledger, &std::env::temp_dir()).unwrap();
    let layers = engine.decoder().layers.len();
    for layer in 0..layers {
        assert_close(&format!("{name}: before layer {layer}"), &all(&states), &golden.hidden[layer]);
        let on = LayerRun { substitutes: &Substitutes::new(), keep: true, forced: None };
        engine.layer(layer, &mut states, &on, &mut Nobody).unwrap();
    }
    engine.finish(&mut states).unwrap();
    assert_close(&format!("{name}: after the final norm"), &all(&states), &golden.hidden[layers]);
    let tensors = engine.head_tensors().unwrap();
    let head = engine.head(&tensors).unwrap();
    let logits = engine.logits(&head, &all(&states)).unwrap();
    assert_close(&format!("{name}: logits"), &logits, &golden.logits);
}

/// Checks every folder in a folder; gives how many there are.
fn check_all(folder: &Path) -> usize {
    let mut failed = Vec::new();
    let mut folders: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.is_dir());
    folders.sort();
    for folder in &folders {
        if let Err(panic) = std::panic::catch_unwind(|| check(folder)) {
            let text = panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "?".into());
            failed.push(format!("{}: {text}", folder.display()));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    folders.len()
}

#[test]
fn every_family_computes_what_transformers_does() {
    let count = check_all(&fixtures().join("arch"));
    assert!(count >= 36, "{count} fixtures");
}

#[test]
fn what_configs_may_change_is_computed_as_transformers_does() {
    let count = check_all(&fixtures().join("forward"));
    assert!(count >= 12, "{count} fixtures");
    if let Some(more) = std::env::var_os("QHOST_FORWARD_FIXTURES") {
        check_all(Path::new(&more));
    }
}
