//! How well a model predicts a text, and how far it is from another: perplexity, divergence of the predicted
//! distributions, and the error of hidden states after every layer.
//!
//! It knows models as something that runs; it knows no format and no dataset.

mod compare;
mod figures;
mod score;

use std::{path::Path, sync::Arc};

use qhost_compute::{Cpu, Device};

pub use compare::{Against, Divergence, LayerError};
pub use figures::{Figures, Moments};
pub use score::Score;

use crate::{
    calibrate::{Batch, Engine, Error, HiddenStates, LayerRun, Nobody, Substitutes},
    stream::Ledger,
};

/// Rows of logits that are computed together.
pub const LOGIT_ROWS: usize = 256;

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Windows, or rows of a dataset.
    pub windows: usize,
    /// How the model predicts.
    pub figures: Figures,
    /// Every prediction that was scored, in order.
    pub predictions: Vec<Prediction>,
    /// How that compares with the original.
    pub against: Option<Against>,
}

/// A prediction that was scored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// The tokens before the one that came.
    pub context: u32,
    /// The negative logarithm of its probability, in nats.
    pub loss: f64,
}

/// Where working data may be.
#[derive(Debug, Clone, Copy)]
pub struct Room<'a> {
    /// Grants memory.
    pub ledger: &'a Arc<Ledger>,
    /// For what does not fit into memory.
    pub folder: &'a Path,
}

/// Measures how a model predicts windows of tokens, and how far it is from `original`.
///
/// Both run layer by layer side by side, each with one layer's weights at a time.
///
/// # Errors
/// Fails as the models do.
pub fn evaluate<D: Device>(
    engine: &Engine<D>,
    original: Option<&Engine<D>>,
    windows: &[Vec<u32>],
    score: Score,
    room: Room<'_>,
) -> Result<Evaluation, Error> {
    let none = Substitutes::new();
    let on = LayerRun { substitutes: &none, keep: true, forced: None };
    let mut states = engine.embed(windows, room.ledger, room.folder)?;
    let mut other = match original {
        Some(original) => Some((original, original.embed(windows, room.ledger, room.folder)?)),
        None => None,
    };
    let mut layers = Vec::new();
    let comparable = original.is_none_or(|original| {
        let (one, other) = (engine.decoder(), original.decoder());
        one.layers.len() == other.layers.len() && one.width == other.width
    });
    let most = engine.decoder().layers.len().max(original.map_or(0, |original| original.decoder().layers.len()));
    for index in 0..most {
        if index < engine.decoder().layers.len() {
            engine.layer(index, &mut states, &on, &mut Nobody)?;
        }
        if let Some((original, others)) = &mut other {
            if index < original.decoder().layers.len() {
                original.layer(index, others, &on, &mut Nobody)?;
            }
            if comparable {
                layers.push(compare::layer_error(&states, others)?);
            }
        }
    }
    engine.finish(&mut states)?;
    if let Some((original, others)) = &mut other {
        original.finish(others)?;
    }
    predictions(engine, &states, other.as_ref(), windows, score, layers)
}

/// A model that another is compared with, and its states.
type Original<'a, D> = (&'a Engine<D>, HiddenStates);

fn predictions<D: Device>(
    engine: &Engine<D>,
    states: &HiddenStates,
    other: Option<&Original<'_, D>>,
    windows: &[Vec<u32>],
    score: Score,
    layers: Vec<LayerError>,
) -> Result<Evaluation, Error> {
    let tensors = engine.head_tensors()?;
    let head = engine.head(&tensors)?;
    let original_tensors = other.map(|(original, _)| original.head_tensors()).transpose()?;
    let original_head = match (other, &original_tensors) {
        (Some((original, _)), Some(tensors)) => Some(original.head(tensors)?),
        _ => None,
    };
    let (mut losses, mut predictions) = (Vec::new(), Vec::new());
    let mut comparison = compare::Comparison::default();
    // Logits are in memory anyway.
    let cpu = Cpu::new();
    for batch in Batch::cut(states.lengths()) {
        // Rows that no score asks for need no logits.
        let scored = scored_rows(&batch, windows, score);
        let rows = states.read(&batch)?;
        let others = other.map(|(_, others)| others.read(&batch)).transpose()?;
        for tile in scored.chunks(LOGIT_ROWS) {
            let targets: Vec<u32> = tile.iter().map(|scored| scored.target).collect();
            let taken = |states: &[f32], width: usize| -> Vec<f32> {
                tile.iter().flat_map(|scored| &states[scored.row * width..][..width]).copied().collect()
            };
            let logits = engine.logits(&head, &taken(&rows, states.width()))?;
            let vocabulary = engine.decoder().vocabulary;
            let own = cpu.negative_log_likelihood(&logits, vocabulary, &targets)?;
            finite(&own, tile, "")?;
            if let (Some((original, others_of)), Some(others), Some(head)) = (other, &others, &original_head) {
                let reference = original.logits(head, &taken(others, others_of.width()))?;
                let others_vocabulary = original.decoder().vocabulary;
                let theirs = cpu.negative_log_likelihood(&reference, others_vocabulary, &targets)?;
                finite(&theirs, tile, " of the original")?;
                comparison.take(cpu, theirs, &logits, vocabulary, &reference, others_vocabulary)?;
            }
            predictions
                .extend(tile.iter().zip(&own).map(|(scored, &loss)| Prediction { context: scored.context, loss }));
            losses.extend(own);
        }
    }
    let against = other.map(|_| comparison.figures(&losses, layers));
    Ok(Evaluation { windows: windows.len(), figures: Figures::of(&losses), predictions, against })
}

/// What is scored.
struct Scored {
    /// The row of the batch that predicts.
    row: usize,
    /// The token that came.
    target: u32,
    /// The tokens before it.
    context: u32,
    /// The sample, from 0.
    sample: usize,
}

/// A head with a damaged weight gives losses that are no numbers.
fn finite(losses: &[f64], tile: &[Scored], of: &str) -> Result<(), Error> {
    match losses.iter().zip(tile).find(|(loss, _)| !loss.is_finite()) {
        Some((_, scored)) => Err(Error::NotFinite {
            place: format!("logits{of}"),
            sample: scored.sample,
            token: scored.context as usize - 1,
        }),
        None => Ok(()),
    }
}

/// The rows of a batch whose prediction is scored.
fn scored_rows(batch: &Batch, windows: &[Vec<u32>], score: Score) -> Vec<Scored> {
    let mut rows = Vec::new();
    let mut start = 0;
    for (sample, window) in windows.iter().enumerate().skip(batch.first).take(batch.lengths.len()) {
        rows.extend(score.positions(window.len()).map(|position| Scored {
            row: start + position,
            target: window[position + 1],
            context: u32::try_from(position + 1).unwrap_or(u32::MAX),
            sample,
        }));
        start += window.len();
    }
    rows
}
