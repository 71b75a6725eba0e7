//! Everything before the first weight: opening, understanding, planning, refusing.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use qhost_compute::DeviceChoice;
use qhost_plugin_api::{
    documents::{
        CalibrationData, CompanionContent, Conversion, FormatDescription, Model, OpenRequest, Options, OutputKind, Plan,
    },
    sdk::CHUNK_WEIGHTS,
};
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::{
    Error, Fetched, ModelSource, Origin, Wanted,
    arithmetic::Arithmetic,
    calibrated, card, commit,
    files::{Companion, Companions},
    input::{Input, Read},
    journal::{Contents, Start},
    option_files::OptionFiles,
    outcome::Converted,
    planes::Offered,
    speed,
};
use crate::{
    calibrate::{self, Decoder},
    cancel::CancelFlag,
    convert::{Loss, Negotiated, Transcoders},
    dataset::{self, Description, Samples, Sampling, Tokenizer},
    memory::Memory,
    plan::{self, Estimate, Facts, Held, Machine, Place, RunPlan},
    plugin::{Catalog, ConnectSettings, LoadedJob, LoadedPlugin},
    stream::{self, Ledger},
    write::{self, Target, WorkFolder},
};

/// Memory that comes on top of what the process holds when the work begins: code that has not run
/// yet, and pages of the weights that are being read.
const YET_TO_COME: u64 = 16 << 20;

/// What the user wants.
#[derive(Debug, Clone)]
pub struct Request {
    /// The model.
    pub model: ModelSource,
    /// The files of a quantised model of a hub.
    pub fetched: Option<Fetched>,
    /// What the model may be.
    pub wanted: Wanted,
    /// The format's id.
    pub format: String,
    /// Options for the format.
    pub options: Options,
    /// The folder for the output.
    pub output: PathBuf,
    /// Whether an output that is there may be replaced.
    pub force: bool,
    /// Whether work of an earlier run is thrown away.
    pub fresh: bool,
    /// Whether a model card is written.
    pub card: bool,
    /// What activations are taken from, if the plan needs some.
    pub calibration: CalibrationRequest,
}

/// What activations are taken from.
#[derive(Debug, Clone, Default)]
pub struct CalibrationRequest {
    /// A file, or a data set of a hub; a default one if none is named.
    pub dataset: Option<String>,
    /// How much is drawn of it.
    pub sampling: Sampling,
}

/// What a run may use.
#[derive(Debug, Clone)]
pub struct Resources {
    /// Threads for parallel loops.
    pub threads: usize,
    /// Ceiling of working memory in bytes.
    pub max_memory: Option<u64>,
    /// Messages that plugins need not send; see [`ConnectSettings::log_level`].
    pub log_level: u32,
    /// Says when to stop.
    pub cancel: CancelFlag,
    /// What models are run on.
    pub device: DeviceChoice,
}

/// A run that can begin.
pub struct Prepared {
    pub(super) input: Input,
    pub(super) model: Arc<Model>,
    pub(super) plugin: LoadedPlugin,
    pub(super) job: LoadedJob,
    pub(super) target: Target,
    pub(super) start: Start,
    pub(super) fresh: bool,
    pub(super) force: bool,
    /// The companions that the output depends on.
    pub(super) depends_on: BTreeSet<String>,
    pub(super) settings: ConnectSettings,
    pub(super) options: Options,
    /// Which data were asked for, and how much of them.
    pub(super) data: CalibrationRequest,
    /// The card's name, if there is to be one.
    pub(super) card: Option<String>,
    /// Of the warnings, those that are about the output and not about this run.
    pub(super) lasting_warnings: Vec<String>,
    /// What is so at the place of the output.
    pub place: Place,
    /// Bytes of small files that are copied to the output.
    pub companion_bytes: u64,
    /// The ways on which tensors of quantised files come.
    pub(super) negotiated: Option<Arc<Negotiated>>,
    /// What a conversion does to numbers.
    pub loss: Option<Loss>,
    /// What activations are taken from, if the plan needs some.
    pub(super) samples: Option<Samples>,
    /// The names of files that are made beside the output.
    pub(super) beside: Vec<String>,
    /// The files that options name.
    pub(super) option_files: OptionFiles,
    /// What is so on this machine, for a plan that comes after a provisional one.
    pub(super) facts: Facts,
    /// What will be done.
    pub plan: RunPlan,
    /// What it will take.
    pub estimate: Estimate,
    /// What the user should know before it is.
    pub warnings: Vec<String>,
}

impl Prepared {
    /// Where the output will be.
    #[must_use]
    pub fn output(&self) -> PathBuf {
        self.target.path()
    }

    /// What programs are given of the output.
    #[must_use]
    pub fn opened(&self) -> PathBuf {
        let output = self.output();
        self.plan.plan.output.entry.as_ref().map_or_else(|| output.clone(), |entry| output.join(entry))
    }

    /// Where the model comes from, if from a hub.
    #[must_use]
    pub fn origin(&self) -> Option<&Origin> {
        self.input.origin()
    }

    /// Bytes of weights that have to be fetched from a hub first.
    #[must_use]
    pub fn missing_bytes(&self) -> u64 {
        self.input.missing().map_or(0, |missing| missing.bytes)
    }

    /// The checkpoint's folder, or the quantised files.
    #[must_use]
    pub fn source(&self) -> &Path {
        self.input.root()
    }

    /// The format and level of the source, if it is quantised files.
    #[must_use]
    pub fn converted_from(&self) -> Option<(&str, Option<&str>)> {
        self.input.files().map(|files| (files.format.as_str(), files.level.as_deref()))
    }

    /// The model's family.
    #[must_use]
    pub fn architecture(&self) -> &str {
        &self.model.family
    }

    /// Bytes of the source's weights.
    #[must_use]
    pub fn source_bytes(&self) -> u64 {
        self.input.weight_bytes()
    }

    /// Tensors of the model that will not be in the output, each with the reason.
    #[must_use]
    pub fn unused(&self) -> Vec<(String, String)> {
        let name = |tensor: u32| self.model.tensors.get(tensor as usize).map_or_else(String::new, |t| t.name.clone());
        self.plan.plan.unused.iter().map(|unused| (name(unused.tensor), unused.reason.clone())).collect()
    }

    /// The plugin's id and version.
    #[must_use]
    pub fn plugin(&self) -> (&str, &str, &str) {
        (&self.plugin.manifest.id, &self.plugin.manifest.version, &self.plugin.sha256)
    }

    /// The threads that it will run on.
    #[must_use]
    pub fn threads(&self) -> u32 {
        self.settings.threads()
    }

    /// Bytes that are needed beside the output while it is made.
    #[must_use]
    pub fn bytes_beside(&self) -> u64 {
        plan::bytes_beside(&self.plan)
    }

    /// Where the model card will be, if there is to be one.
    #[must_use]
    pub fn card(&self) -> Option<PathBuf> {
        let output = self.output();
        self.card.as_ref().map(|name| match self.target.kind {
            OutputKind::File => output.with_file_name(name),
            _ => output.join(name),
        })
    }

    /// What activations are taken from, if the plan needs some.
    #[must_use]
    pub fn calibration(&self) -> Option<&Description> {
        self.samples.as_ref().map(|samples| &samples.description)
    }

    /// The most working memory that a unit asks for, in bytes.
    #[must_use]
    pub fn working_memory(&self) -> u64 {
        self.plan.working_memory(self.settings.threads())
    }
}

/// Prepares a run; no weight is read, and nothing is written but small files of a hub's model into its cache.
///
/// # Errors
/// Fails with whatever keeps the request from being fulfilled.
pub fn prepare(request: &Request, catalog: &Catalog, resources: &Resources) -> Result<Prepared, Error> {
    let settings = connect(resources)?;
    let Read { mut input, model, warnings: mut of_source } =
        Input::open(&request.model, request.fetched.as_ref(), request.wanted, catalog, &settings)?;
    let (found, manifest) = catalog.bringing(&request.format)?;
    let plugin = LoadedPlugin::load(found, manifest, &settings)?;
    tracing::info!("plugin {} {} from {}", manifest.id, manifest.version, found.path.display());
    let mut open = OpenRequest::new(request.format.clone(), request.options.clone(), model);
    open.calibrates = request.calibration.dataset.is_some();
    let taking = described(&plugin, &request.format)?;
    of_source.extend(input.put_in_order(&taking.takes)?);
    let negotiated = negotiated(&input, &open.model, &taking, catalog, &settings)?;
    open.conversion = conversion(&input, negotiated.as_deref());
    let option_files = OptionFiles::of(&request.options)?;
    let companions = input.companions().into_iter().chain(option_files.files());
    let companions = Arc::new(Companions::new(companions.collect()));
    let (job, plan, samples) = planned(&plugin, &mut open, &companions, |plan, model| {
        samples(request, plan, model, &input, resources.device, &resources.cancel)
    })?;
    let loss = negotiated.as_ref().map(|negotiated| negotiated.loss(&plan.plan)).transpose()?;
    let target = Target {
        folder: request.output.clone(),
        name: format!("{}{}", open.model.name, plan.plan.output.suffix),
        kind: plan.plan.output.kind,
    };
    let warnings = of_source.into_iter().chain(plan.plan.warnings.iter().cloned());
    let lost = loss.as_ref().filter(|loss| !loss.is_exact());
    let lost = lost.map(|loss| format!("the source is quantised already: {}", loss.sentence()));
    let lasting_warnings: Vec<_> = warnings.chain(left_out(&plan.plan, &open.model)).chain(lost).collect();
    let card = request.card.then(|| card::name(&target));
    let unwritten = card.clone().filter(|name| card::in_the_way(&target.path(), name));
    let kept = unwritten.as_ref().map(|name| {
        format!(
            "{name} is in the way and was not made by qhost for this output: it is kept, and no model card is written"
        )
    });
    let card = card.filter(|_| unwritten.is_none());
    let of_samples = samples.iter().flat_map(|samples| samples.warnings.iter().cloned());
    let warnings = lasting_warnings.iter().cloned().chain(of_samples).chain(target.misnamed()).chain(kept).collect();

    let (copied, companion_bytes) = copied(&plan.plan, &input);
    let depends_on = &copied | &companions.read_so_far();
    let fingerprint = input.fingerprint(&depends_on).map_err(|source| Error::SourceUnreadable { source })?;
    // Another device adds in another order.
    let calibration = samples.as_ref().map(|samples| format!("{} {}", samples.description.sha256, resources.device));
    let calibration = format!("{}{}", calibration.unwrap_or_default(), option_files.digest());
    let key = plan.key(&request.options, &fingerprint, &plugin.sha256, &calibration)?;
    let name = format!("{} {}", plugin.manifest.id, plugin.manifest.version);
    let start = Start::new(key, name, plugin.sha256.clone(), fingerprint);
    tracing::debug!("the work has the key {}", start.key);

    let beside: Vec<_> = plan.plan.beside.iter().map(|suffix| format!("{}{suffix}", open.model.name)).collect();
    let place = surveyed(&target, &input.place(), &start, if request.force { &[] } else { &beside })?;
    let mut memory = Memory::now();
    let widening = widening_memory(&open.model, &input).saturating_mul(settings.threads().into());
    memory.resident = memory.resident.saturating_add(widening);
    memory.anonymous = memory.anonymous.saturating_add(widening);
    let calibrating = match &samples {
        Some(samples) => {
            let element_bytes = |tensor: usize| input.element_bytes(&open.model, tensor);
            calibrated::needed(&plan.plan, &open.model, &element_bytes, samples)?
        }
        None => calibrated::Needed::default(),
    };
    let own = own_memory(memory, resources.threads).saturating_add(calibrating.memory);
    settings.ledger.set_own(own);
    let facts = Facts {
        place: place.clone(),
        download: input.missing().map(|missing| missing.needs(&target)),
        force: request.force,
        companions: companion_bytes.saturating_add(calibrating.disk),
        memory_limit: resources.max_memory,
        memory_own: own.saturating_add(calibrating.statistics),
    };
    plan::refuse_impossible(&plan, settings.threads(), &facts)?;
    let forward = calibrating.forward(resources.device);
    let estimate = plan::estimate(&plan, input.weight_bytes(), &machine(memory, &settings), &forward);
    let model = Arc::new(open.model);
    Ok(Prepared {
        input,
        model,
        plugin,
        job,
        target,
        start,
        fresh: request.fresh,
        force: request.force,
        depends_on,
        settings,
        companion_bytes,
        options: request.options.clone(),
        data: request.calibration.clone(),
        card,
        lasting_warnings,
        place,
        negotiated,
        loss,
        samples,
        beside,
        option_files,
        facts,
        plan,
        estimate,
        warnings,
    })
}

/// The small files that are copied to the output, and their bytes.
fn copied(plan: &Plan, input: &Input) -> (BTreeSet<String>, u64) {
    let copied = plan.companions.iter().filter_map(|companion| match &companion.content {
        CompanionContent::Copy(name) => Some(name.clone()),
        _ => None,
    });
    let copied: BTreeSet<String> = copied.collect();
    let files = input.companions().into_iter().filter(|file| copied.contains(&file.name));
    let bytes = files.map(|file| file.bytes()).fold(0, u64::saturating_add);
    (copied, bytes)
}

/// What activations are taken from, if the plan needs some; whether the model can be run at all is found out
/// before the data is fetched.
fn samples(
    request: &Request,
    plan: &Plan,
    model: &Model,
    input: &Input,
    device: DeviceChoice,
    cancel: &CancelFlag,
) -> Result<Option<Samples>, Error> {
    if calibrated::needs(plan).units.is_empty() {
        return match &request.calibration.dataset {
            Some(_) => Err(Error::CalibrationUnused { format: plan.format.clone(), level: plan.level.clone() }),
            None => Ok(None),
        };
    }
    let decoder = Decoder::of(model)?;
    // Whether it can be used is found out now.
    drop(device.open(|_| {}).map_err(calibrate::Error::from)?);
    let companions = input.companions();
    let tokenizer = Tokenizer::of(&|name| {
        let companion = companions.iter().find(|file| file.name == name);
        companion.map(Companion::read).transpose()
    })?;
    let wanted = dataset::Request {
        name: request.calibration.dataset.as_deref(),
        vocabulary: Some(model.hyperparameters.vocab_size),
        hub: &request.model.hub,
        cancel,
    };
    let samples = dataset::calibration(&wanted, request.calibration.sampling, tokenizer.as_ref())?;
    decoder.longest(samples.rows.iter().map(Vec::len))?;
    Ok(Some(samples))
}

/// A job with its plan, and the samples that the plan needs. It is opened once more when they are known, so that it can
/// tell of them.
fn planned(
    plugin: &LoadedPlugin,
    open: &mut OpenRequest,
    companions: &Arc<Companions>,
    samples: impl FnOnce(&Plan, &Model) -> Result<Option<Samples>, Error>,
) -> Result<(LoadedJob, RunPlan, Option<Samples>), Error> {
    let plan_of = |open: &OpenRequest| -> Result<_, Error> {
        let job = plugin.open(open, Arc::<Companions>::clone(companions) as _)?;
        let plan = plan::accept(job.plan.clone(), &open.model)?;
        Ok((job, plan))
    };
    let (job, plan) = plan_of(open)?;
    let Some(samples) = samples(&plan.plan, &open.model)? else { return Ok((job, plan, None)) };
    drop((job, plan));
    open.calibration = Some(data_of(&samples));
    let (job, plan) = plan_of(open)?;
    Ok((job, plan, Some(samples)))
}

/// What a plugin is told of the samples.
pub(super) fn data_of(samples: &Samples) -> CalibrationData {
    let counted = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let longest = samples.rows.iter().map(Vec::len).max().unwrap_or(0);
    CalibrationData::new(samples.description.source.clone(), counted(samples.rows.len()), counted(longest))
}

/// One sentence for every reason for which tensors of the model are not in the output.
pub(super) fn left_out(plan: &Plan, model: &Model) -> Vec<String> {
    let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for unused in &plan.unused {
        let name = model.tensors.get(unused.tensor as usize).map_or("", |tensor| tensor.name.as_str());
        by_reason.entry(&unused.reason).or_default().push(name);
    }
    let sentence = |(reason, names): (&str, Vec<&str>)| match names.as_slice() {
        [name] => format!("{name} is left out: {reason}"),
        names => format!("{} tensors are left out, such as {}: {reason}", names.len(), names[0]),
    };
    by_reason.into_iter().map(sentence).collect()
}

/// What the process takes beside the memory that is granted to a plugin.
fn own_memory(now: Memory, threads: usize) -> u64 {
    let buffers = (threads as u64).saturating_add(1).saturating_mul(commit::BUFFER as u64);
    now.resident.saturating_add(buffers).saturating_add(YET_TO_COME).max(now.peak_resident)
}

/// What the rows that are lent to one thread take, of tensors whose rows are made for it.
fn widening_memory(model: &Model, input: &Input) -> u64 {
    let made = model.tensors.iter().enumerate().filter(|(index, _)| input.is_made(*index));
    let floats = made.map(|(_, tensor)| tensor.row_elements().max(CHUNK_WEIGHTS)).max();
    // Beside the rows themselves a plugin that decodes them has them once more, and the host does.
    let copies = if input.files().is_some() { 3 } else { 1 };
    floats.map_or(0, |floats| floats.saturating_mul(4 * copies))
}

/// What a plugin says of a format.
fn described(plugin: &LoadedPlugin, format: &str) -> Result<FormatDescription, Error> {
    let found = plugin.describe()?.formats.into_iter().find(|described| described.id == format);
    Ok(found.unwrap_or_else(|| FormatDescription::new(format, Vec::new())))
}

/// The ways on which the tensors of quantised files can come; none for a checkpoint.
fn negotiated(
    input: &Input,
    model: &Model,
    target: &FormatDescription,
    catalog: &Catalog,
    settings: &ConnectSettings,
) -> Result<Option<Arc<Negotiated>>, Error> {
    let Some(files) = input.files() else { return Ok(None) };
    let transcoders = Transcoders::load(&files.encodings, &target.takes, catalog, settings)?;
    Ok(Some(Arc::new(Negotiated::new(model, &files.encodings, target, transcoders)?)))
}

/// What a plugin is told of a conversion.
fn conversion(input: &Input, negotiated: Option<&Negotiated>) -> Option<Conversion> {
    let files = input.files()?;
    negotiated.map(|negotiated| negotiated.conversion(&files.format, files.level.as_deref()))
}

impl Prepared {
    /// What the plugin is told of the conversion, if it is one.
    pub(super) fn conversion(&self) -> Option<Conversion> {
        conversion(&self.input, self.negotiated.as_deref())
    }

    /// What units may take in place of floats.
    pub(super) fn offered(&self) -> Option<Arc<Offered>> {
        let (files, negotiated) = (self.input.files()?, self.negotiated.as_ref()?);
        Some(Arc::new(Offered { files: Arc::clone(files), negotiated: Arc::clone(negotiated) }))
    }

    /// What the report tells of the conversion.
    pub(super) fn converted(&self) -> Option<Converted> {
        let (files, loss) = (self.input.files()?, self.loss.as_ref()?);
        Some(Converted { format: files.format.clone(), level: files.level.clone(), loss: loss.clone() })
    }
}

/// This machine, for estimates.
fn machine(now: Memory, settings: &ConnectSettings) -> Machine {
    let threads = settings.threads();
    let Memory { resident, anonymous, peak_resident } = now;
    let cores = thread::available_parallelism().map_or(threads, |cores| u32::try_from(cores.get()).unwrap_or(threads));
    Machine {
        threads,
        cores,
        core_speed: speed::of_core(),
        memory: Held { resident, anonymous, peak_resident },
        digest_buffer: commit::BUFFER as u64,
        mapped: stream::most_mapped(threads),
    }
}

/// What is at the place of the output; `beside` are names that must not be there.
fn surveyed(target: &Target, source: &Path, start: &Start, beside: &[String]) -> Result<Place, Error> {
    let mut place = write::survey(target, source);
    if seems_published(target, start) {
        // Our own finished output, of a run that ended before it had tidied up.
        place.exists = false;
        return Ok(place);
    }
    match beside.iter().map(|name| target.folder.join(name)).find(|path| path.exists()) {
        Some(path) => Err(plan::Error::Exists { path }.into()),
        None => Ok(place),
    }
}

/// Whether a run with this very start put its output in place and was then interrupted; the
/// output's bytes are not looked at.
fn seems_published(target: &Target, start: &Start) -> bool {
    let work = target.work_folder();
    let found = Contents::peek(&WorkFolder::journal_in(&work));
    let same = found.start.is_some_and(|found| found.key == start.key);
    same && found.complete && !write::unpublished(&work, target.kind).exists() && target.is_occupied()
}

/// Starts the threads and the ledger that plugins are connected to.
///
/// # Errors
/// Fails when the system cannot start the threads.
pub fn connect(resources: &Resources) -> Result<ConnectSettings, Error> {
    let pool = Arc::new(start_threads(resources.threads)?);
    let ledger = Arc::new(Ledger::new(resources.max_memory));
    let compute = Arc::new(Arithmetic::new(Arc::clone(&pool), Arc::clone(&ledger)));
    Ok(ConnectSettings {
        pool,
        ledger,
        compute,
        cancel: resources.cancel.clone(),
        log_level: resources.log_level,
        device: resources.device,
    })
}

fn start_threads(threads: usize) -> Result<ThreadPool, Error> {
    let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|index| format!("worker-{index}"));
    pool.build().map_err(|error| Error::Threads { threads, reason: error.to_string() })
}
