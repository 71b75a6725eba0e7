//! Everything before the first weight: opening, understanding, planning, refusing.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use qhost_plugin_api::{
    documents::{
        CalibrationData, CompanionContent, Conversion, FormatDescription, Model, OpenRequest, Options, OutputKind, Plan,
    },
    sdk::CHUNK_WEIGHTS,
};

use super::{
    Error, Fetched, ModelSource, Origin, Wanted,
    calibrated::{self, Needed},
    card, commit,
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
    convert::{Loss, Negotiated, Transcoders},
    dataset::{self, Description, Samples, Sampling, Tokenizer},
    memory::Memory,
    plan::{self, Estimate, Facts, Held, Machine, Place, RunPlan},
    plugin::{Catalog, ConnectSettings, LoadedJob, LoadedPlugin},
    stream,
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
    /// The formats, at least one.
    pub formats: Vec<FormatRequest>,
    /// Options for all of them; each gets those that have a meaning for it.
    pub options: Options,
    /// The folder for the outputs.
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

/// A format that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormatRequest {
    /// Its id.
    pub id: String,
    /// Its level; that of the options if it has none of its own.
    pub level: Option<String>,
}

/// What activations are taken from.
#[derive(Debug, Clone, Default)]
pub struct CalibrationRequest {
    /// A file, or a data set of a hub; a default one if none is named.
    pub dataset: Option<String>,
    /// How much is drawn of it.
    pub sampling: Sampling,
}

/// A run that can begin.
pub struct Prepared {
    pub(super) input: Input,
    pub(super) model: Arc<Model>,
    pub(super) plugin: LoadedPlugin,
    pub(super) job: LoadedJob,
    pub(super) target: Target,
    pub(super) start: Start,
    /// What the key has of the data for calibration and the files that options name.
    pub(super) data_key: String,
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
    pub(super) samples: Option<Arc<Samples>>,
    /// The names of files that are made beside the output.
    pub(super) beside: Vec<String>,
    /// The files that options name.
    pub(super) option_files: OptionFiles,
    /// What is so on this machine, for a plan that comes after a provisional one.
    pub(super) facts: Facts,
    /// Memory that the process takes without what the calibration does.
    pub(super) own: u64,
    /// What the calibration takes.
    pub(super) calibrating: Needed,
    /// Memory of the ledger that is left to units, of this run or of others beside it.
    pub(super) reserve: u64,
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

/// A format, and the plugin that makes it.
pub(super) struct Loaded {
    plugin: LoadedPlugin,
    pub(super) described: FormatDescription,
}

impl Loaded {
    pub(super) fn new(format: &FormatRequest, catalog: &Catalog, settings: &ConnectSettings) -> Result<Self, Error> {
        let (found, manifest) = catalog.bringing(&format.id)?;
        let plugin = LoadedPlugin::load(found, manifest, settings)?;
        tracing::info!("plugin {} {} from {}", manifest.id, manifest.version, found.path.display());
        let described = described(&plugin, &format.id)?;
        Ok(Self { plugin, described })
    }
}

/// What the runs of a command have in common.
pub(super) struct Common<'a> {
    pub(super) request: &'a Request,
    pub(super) catalog: &'a Catalog,
    pub(super) settings: ConnectSettings,
    /// What activations are taken from, once a plan has needed it.
    pub(super) samples: Option<Arc<Samples>>,
}

/// Prepares a run of one format; no weight is read, and nothing is written but small files of a hub's model into its
/// cache.
pub(super) fn prepare(
    common: &mut Common<'_>,
    target: Loaded,
    options: Options,
    read: Read,
) -> Result<Prepared, Error> {
    let Common { request, catalog, settings, samples: shared } = common;
    let (request, settings) = (*request, settings.clone());
    let Loaded { plugin, described: taking } = target;
    let Read { mut input, model, warnings: mut of_source } = read;
    let mut open = OpenRequest::new(taking.id.clone(), options.clone(), model);
    let mut data = request.calibration.clone();
    open.calibrates = data.dataset.is_some();
    of_source.extend(input.put_in_order(&taking.takes)?);
    let negotiated = negotiated(&input, &open.model, &taking, catalog, &settings)?;
    open.conversion = conversion(&input, negotiated.as_deref());
    let (option_files, companions) = lent(&input, &options)?;
    let mut plan_with = |open: &mut OpenRequest, data: &CalibrationRequest| {
        planned(&plugin, open, &companions, |plan, model| {
            samples(request, data, plan, model, &input, &settings, shared)
        })
    };
    let (job, plan, samples) = match plan_with(&mut open, &data) {
        // Another one may use the data; if none does, that is refused in the end.
        Err(Error::CalibrationUnused { .. }) if request.formats.len() > 1 => {
            (data.dataset, open.calibrates) = (None, false);
            plan_with(&mut open, &data)
        }
        planned => planned,
    }?;
    let loss = negotiated.as_ref().map(|negotiated| negotiated.loss(&plan.plan)).transpose()?;
    let name = format!("{}{}", open.model.name, plan.plan.output.suffix);
    let target = Target { folder: request.output.clone(), name, kind: plan.plan.output.kind };
    let warnings = of_source.into_iter().chain(plan.plan.warnings.iter().cloned());
    let lost = loss.as_ref().filter(|loss| !loss.is_exact());
    let lost = lost.map(|loss| format!("the source is quantised already: {}", loss.sentence()));
    let lasting_warnings: Vec<_> = warnings.chain(left_out(&plan.plan, &open.model)).chain(lost).collect();
    let (card, kept) = if request.card { card_of(&target) } else { (None, None) };
    let of_samples = samples.iter().flat_map(|samples| samples.warnings.iter().cloned());
    let warnings = lasting_warnings.iter().cloned().chain(of_samples).chain(target.misnamed()).chain(kept).collect();

    let (copied, companion_bytes) = copied(&plan.plan, &input);
    let depends_on = &copied | &companions.read_so_far();
    let fingerprint = input.fingerprint(&depends_on).map_err(|source| Error::SourceUnreadable { source })?;
    // Another device adds in another order.
    let calibration = samples.as_ref().map(|samples| format!("{} {}", samples.description.sha256, settings.device));
    let calibration = format!("{}{}", calibration.unwrap_or_default(), option_files.digest());
    let key = plan.key(&options, &fingerprint, &plugin.sha256, &calibration)?;
    let name = format!("{} {}", plugin.manifest.id, plugin.manifest.version);
    let start = Start::new(key, name, plugin.sha256.clone(), fingerprint);
    tracing::debug!("the work has the key {}", start.key);

    let beside: Vec<_> = plan.plan.beside.iter().map(|suffix| format!("{}{suffix}", open.model.name)).collect();
    let place = surveyed(&target, &input.place(), &start, if request.force { &[] } else { &beside })?;
    let mut memory = Memory::now();
    let widening = widening_memory(&open.model, &input).saturating_mul(settings.threads().into());
    memory.resident = memory.resident.saturating_add(widening);
    memory.anonymous = memory.anonymous.saturating_add(widening);
    let calibrating = calibrating(&plan.plan, &open.model, &input, samples.as_deref())?;
    let own = own_memory(memory, settings.pool.current_num_threads());
    let working = own.saturating_add(calibrating.memory);
    settings.ledger.set_own(working);
    let planning = if plan.plan.survey.is_some() { settings.ledger.peak() } else { 0 };
    let facts = Facts {
        place: place.clone(),
        download: input.missing().map(|missing| missing.needs(&target)),
        force: request.force,
        companions: companion_bytes.saturating_add(calibrating.disk),
        memory_limit: settings.ledger.limit(),
        memory_own: working.saturating_add(calibrating.statistics),
        memory_before: memory.peak_resident,
        memory_planning: planning,
    };
    plan::refuse_impossible(&plan, settings.threads(), &facts)?;
    let forward = calibrating.forward(settings.device);
    let estimate = plan::estimate(&plan, input.weight_bytes(), &machine(memory, planning, &settings), &forward);
    let model = Arc::new(open.model);
    Ok(Prepared {
        input,
        model,
        plugin,
        job,
        target,
        start,
        data_key: calibration,
        fresh: request.fresh,
        force: request.force,
        depends_on,
        settings,
        companion_bytes,
        options,
        data,
        card,
        lasting_warnings,
        place,
        negotiated,
        loss,
        samples,
        beside,
        option_files,
        facts,
        own,
        calibrating,
        reserve: 0,
        plan,
        estimate,
        warnings,
    })
}

/// What the calibration takes.
fn calibrating(plan: &Plan, model: &Model, input: &Input, samples: Option<&Samples>) -> Result<Needed, Error> {
    let element_bytes = |tensor: usize| input.element_bytes(model, tensor);
    samples.map_or_else(
        || Ok(Needed::default()),
        |samples| calibrated::needed(plan, model, &element_bytes, samples).map_err(Error::from),
    )
}

/// The name of an output's card; where there can be none, why.
fn card_of(target: &Target) -> (Option<String>, Option<String>) {
    let name = card::name(target);
    if !card::in_the_way(&target.path(), &name) {
        return (Some(name), None);
    }
    let kept = format!(
        "{name} is in the way and was not made by qhost for this output: it is kept, and no model card is written"
    );
    (None, Some(kept))
}

/// The files that a plugin may read, and those of them that options name.
fn lent(input: &Input, options: &Options) -> Result<(OptionFiles, Arc<Companions>), Error> {
    let named = OptionFiles::of(options)?;
    let companions = input.companions().into_iter().chain(named.files()).collect();
    Ok((named, Arc::new(Companions::new(companions))))
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
    data: &CalibrationRequest,
    plan: &Plan,
    model: &Model,
    input: &Input,
    settings: &ConnectSettings,
    shared: &mut Option<Arc<Samples>>,
) -> Result<Option<Arc<Samples>>, Error> {
    if calibrated::needs(plan).units.is_empty() {
        return match &data.dataset {
            Some(_) => Err(Error::CalibrationUnused { format: plan.format.clone(), level: plan.level.clone() }),
            None => Ok(None),
        };
    }
    let decoder = Decoder::of(model)?;
    // Whether it can be used is found out now.
    drop(settings.device.open(|_| {}).map_err(calibrate::Error::from)?);
    if let Some(samples) = shared {
        decoder.longest(samples.rows.iter().map(Vec::len))?;
        return Ok(Some(Arc::clone(samples)));
    }
    let companions = input.companions();
    let tokenizer = Tokenizer::of(&|name| {
        let companion = companions.iter().find(|file| file.name == name);
        companion.map(Companion::read).transpose()
    })?;
    let wanted = dataset::Request {
        name: data.dataset.as_deref(),
        vocabulary: Some(model.hyperparameters.vocab_size),
        hub: &request.model.hub,
        cancel: &settings.cancel,
    };
    let samples = Arc::new(dataset::calibration(&wanted, data.sampling, tokenizer.as_ref())?);
    decoder.longest(samples.rows.iter().map(Vec::len))?;
    *shared = Some(Arc::clone(&samples));
    Ok(Some(samples))
}

/// A job with its plan, and the samples that the plan needs. It is opened once more when they are known, so that it can
/// tell of them.
fn planned(
    plugin: &LoadedPlugin,
    open: &mut OpenRequest,
    companions: &Arc<Companions>,
    samples: impl FnOnce(&Plan, &Model) -> Result<Option<Arc<Samples>>, Error>,
) -> Result<(LoadedJob, RunPlan, Option<Arc<Samples>>), Error> {
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
    now.resident.saturating_add(buffers).saturating_add(YET_TO_COME)
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

    /// Where its calibration finds room, and what of it has to be left.
    pub(super) fn room(&self) -> (&ConnectSettings, u64) {
        (&self.settings, self.reserve)
    }

    /// What the report tells of the conversion.
    pub(super) fn converted(&self) -> Option<Converted> {
        let (files, loss) = (self.input.files()?, self.loss.as_ref()?);
        Some(Converted { format: files.format.clone(), level: files.level.clone(), loss: loss.clone() })
    }
}

/// This machine, for estimates.
fn machine(now: Memory, planning: u64, settings: &ConnectSettings) -> Machine {
    let threads = settings.threads();
    let Memory { resident, anonymous, peak_resident } = now;
    let cores = thread::available_parallelism().map_or(threads, |cores| u32::try_from(cores.get()).unwrap_or(threads));
    Machine {
        threads,
        cores,
        core_speed: speed::of_core(),
        memory: Held { resident, anonymous, peak_resident, planning },
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
