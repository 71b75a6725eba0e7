//! What `qhost eval` measures: from the names of a model, of its original and of a text to figures.
//!
//! It knows where models and texts come from and in which order things are done. How a model runs is for
//! [`crate::calibrate`], and what the figures are for [`crate::evaluate`].

mod error;
mod memory;
mod subject;
mod text;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use qhost_compute::{Device, Opened};

pub use error::Error;
pub use subject::Described;
pub use text::Windowing;

use self::{subject::Subject, text::Text};
use crate::{
    calibrate::{self, Decoder, Engine, Step},
    dataset::Description,
    evaluate::{self, Evaluation, Room, Score},
    hub,
    memory::Memory,
    plugin::{Catalog, ConnectSettings},
    run::{Event, Events},
};

/// Memory that comes on top of what the process holds when the work begins: code that has not run yet, stacks, and
/// pages of the weights that are being read.
const YET_TO_COME: u64 = 32 << 20;

/// What the user wants.
#[derive(Debug, Clone)]
pub struct Request {
    /// The model: a folder, the name of a model on a hub, or a file of an installed plugin's format.
    pub path: PathBuf,
    /// The model that it is held against, likewise.
    pub against: Option<PathBuf>,
    /// The branch, tag or commit of the model on the hub, or of its original if the model is here.
    pub revision: Option<String>,
    /// The text: a file, or a data set on a hub.
    pub dataset: Option<String>,
    /// How a text is cut into windows.
    pub windowing: Windowing,
    /// The most windows, or rows.
    pub windows: Option<usize>,
    /// Where the hub and its cache are.
    pub hub: hub::Settings,
}

/// What was measured, and of what.
#[derive(Debug, Clone)]
pub struct Measurement {
    /// The model.
    pub subject: Described,
    /// What it was held against.
    pub original: Option<Described>,
    /// The text.
    pub dataset: Description,
    /// How the text was cut, or none if its rows were taken as they are.
    pub windowing: Option<Windowing>,
    /// The figures.
    pub evaluation: Evaluation,
    /// Tokens that went through the model.
    pub tokens_read: usize,
    /// What the forward passes and the figures took.
    pub duration: Duration,
    /// Threads that computed.
    pub threads: u32,
    /// The ceiling of memory.
    pub max_memory: Option<u64>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl Measurement {
    /// The rule by which predictions were scored.
    #[must_use]
    pub fn score(&self) -> Score {
        self.windowing.map_or(Score::All, |windowing| windowing.score)
    }
}

/// Measures how well a model predicts a text and, if there is an original, how far it is from that.
///
/// Whatever can be refused is refused before the first weight is read, or fetched.
///
/// # Errors
/// Fails when something is not there, damaged, or cannot be run.
pub fn measure(
    request: &Request,
    catalog: &Catalog,
    settings: &ConnectSettings,
    events: &Arc<dyn Events>,
) -> Result<Measurement, Error> {
    // A revision is the model's, or where that is here, its original's.
    let here = request.path.exists() && request.against.is_some();
    let (own, others) = if here { (None, request.revision.clone()) } else { (request.revision.clone(), None) };
    let open = |path: &PathBuf, revision| Subject::open(path, revision, &request.hub, catalog, settings);
    let mut subject = open(&request.path, own)?;
    let mut original = request.against.as_ref().map(|path| open(path, others)).transpose()?;
    let decoders: Vec<_> =
        subject_and_original(&subject, original.as_ref()).into_iter().map(decoder).collect::<Result<_, _>>()?;

    let tokenizer = match subject.tokenizer()? {
        Some(tokenizer) => Some(tokenizer),
        None => original.as_ref().map(Subject::tokenizer).transpose()?.flatten(),
    };
    let vocabulary = decoders.iter().map(|decoder| decoder.vocabulary as u64).min();
    let Text { windows, description, windowing, warnings } =
        Text::read(request, tokenizer.as_ref(), vocabulary, &settings.cancel)?;
    let lengths: Vec<_> = windows.iter().map(Vec::len).collect();
    for decoder in &decoders {
        decoder.longest(lengths.iter().copied())?;
    }

    let passed_over = |error: &qhost_compute::Error| tracing::warn!("the GPU is passed over: {error}");
    let device = settings.device.open(passed_over).map_err(calibrate::Error::from)?;
    let mut told: Vec<String> = subject.warnings.clone();
    told.extend(original.iter().flat_map(|original| original.warnings.iter().cloned()));
    told.extend(warnings);
    for warning in &told {
        events.emit(Event::Warning(warning));
    }

    settings.ledger.set_own(Memory::now().resident.saturating_add(YET_TO_COME));
    let models = subject_and_original(&subject, original.as_ref());
    let held = settings.ledger.hold(memory::needed(&models, &decoders, &lengths), "running the model");
    let held = held.map_err(calibrate::Error::from)?;
    let score = windowing.map_or(Score::All, |windowing| windowing.score);
    let scored: usize = lengths.iter().map(|&length| score.positions(length).len()).sum();
    let tokens: usize = lengths.iter().sum();
    let layers: usize = decoders.iter().map(|decoder| decoder.layers.len()).sum();
    let work =
        Event::Evaluating { tokens: tokens as u64, layers: layers as u64, scored: (scored * decoders.len()) as u64 };
    let folder = std::env::temp_dir();
    let room = Room { ledger: &settings.ledger, folder: &folder };
    let windows = Windows { rows: &windows, score, room, work };
    let (evaluation, duration) = match device {
        Opened::Cpu(cpu) => run(|| Ok(cpu), &mut subject, original.as_mut(), windows, settings, events)?,
        // Each model has a handle of its own.
        Opened::Cuda(first) => {
            let first = Mutex::new(Some(*first));
            let open = || match first.lock().unwrap_or_else(PoisonError::into_inner).take() {
                Some(first) => Ok(first),
                None => match settings.device.open(passed_over)? {
                    Opened::Cuda(another) => Ok(*another),
                    Opened::Cpu(_) => Err(qhost_compute::Error::Device("the GPU has gone".into())),
                },
            };
            run(open, &mut subject, original.as_mut(), windows, settings, events)?
        }
    };
    drop(held);
    Ok(Measurement {
        subject: subject.described,
        original: original.map(|original| original.described),
        dataset: description,
        windowing,
        evaluation,
        tokens_read: tokens,
        duration,
        threads: settings.threads(),
        max_memory: settings.ledger.limit(),
        warnings: told,
    })
}

/// Opens a model that is to be measured later, and reads no weight.
///
/// # Errors
/// Fails when it is not there, damaged, or cannot be run.
pub fn look_for(path: &Path, hub: &hub::Settings, catalog: &Catalog, settings: &ConnectSettings) -> Result<(), Error> {
    decoder(&Subject::open(path, None, hub, catalog, settings)?).map(drop)
}

fn subject_and_original<'a>(subject: &'a Subject, original: Option<&'a Subject>) -> Vec<&'a Subject> {
    [Some(subject), original].into_iter().flatten().collect()
}

fn decoder(subject: &Subject) -> Result<Decoder, Error> {
    Ok(Decoder::of(&subject.model)?)
}

/// What is measured, and where.
#[derive(Clone, Copy)]
struct Windows<'a> {
    rows: &'a [Vec<u32>],
    score: Score,
    room: Room<'a>,
    /// How much work it is.
    work: Event<'a>,
}

/// Runs the models on a device; tells how long that took.
fn run<D: Device>(
    open: impl Fn() -> Result<D, qhost_compute::Error>,
    subject: &mut Subject,
    original: Option<&mut Subject>,
    windows: Windows<'_>,
    settings: &ConnectSettings,
    events: &Arc<dyn Events>,
) -> Result<(Evaluation, Duration), Error> {
    let Windows { rows, score, room, work } = windows;
    let lengths: Vec<_> = rows.iter().map(Vec::len).collect();
    let opened = || open().map_err(calibrate::Error::from);
    let engine = engine(opened()?, subject, &lengths, settings, events)?;
    let other = original.map(|original| self::engine(opened()?, original, &lengths, settings, events)).transpose()?;
    events.emit(work);
    let began = Instant::now();
    let evaluation = settings.pool.install(|| evaluate::evaluate(&engine, other.as_ref(), rows, score, room))?;
    Ok((evaluation, began.elapsed()))
}

/// The model with its weights at hand.
fn engine<D: Device>(
    device: D,
    subject: &mut Subject,
    lengths: &[usize],
    settings: &ConnectSettings,
    events: &Arc<dyn Events>,
) -> Result<Engine<D>, Error> {
    let weights = subject.weights(events)?;
    let model = Arc::clone(&subject.model);
    let name = subject.described.name.clone();
    let layers = Decoder::of(&model)?.layers.len();
    let engine = Engine::new(device, model, weights, lengths, settings.cancel.clone())?;
    let events = Arc::clone(events);
    Ok(engine.telling(move |step| match step {
        Step::Layer(index) => {
            events.emit(Event::UnitStarted { name: &format!("{name}: layer {} of {layers}", index + 1) });
        }
        Step::Head => events.emit(Event::UnitStarted { name: &format!("{name}: predictions") }),
        Step::Tokens(tokens) => events.emit(Event::Computed { tokens: tokens as u64 }),
    }))
}
