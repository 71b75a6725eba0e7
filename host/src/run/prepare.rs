//! Everything before the first weight: opening, understanding, planning, refusing.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use qhost_plugin_api::documents::{CompanionContent, Model, OpenRequest, Options, Plan};
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::{
    Error, ModelSource, Origin, commit,
    fetch::{self, Missing, Opened},
    files::Companions,
    journal::{Contents, Start},
};
use crate::{
    cancel::CancelFlag,
    memory::Memory,
    model::{self, StoredAs, Understood},
    plan::{self, Facts, RunPlan},
    plugin::{Catalog, ConnectSettings, LoadedJob, LoadedPlugin},
    source::{self, Checkpoint},
    stream::Ledger,
    write::{self, Target, WorkFolder},
};

/// Memory that comes on top of what the process holds when the work begins: code that has not run
/// yet, and pages of the weights that are being read.
const YET_TO_COME: u64 = 16 << 20;

/// What the user wants.
#[derive(Debug, Clone)]
pub struct Request {
    /// The checkpoint.
    pub model: ModelSource,
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
}

/// A run that can begin.
pub struct Prepared {
    pub(super) checkpoint: Checkpoint,
    pub(super) model: Arc<Model>,
    /// For every tensor of the model, how the checkpoint stores it.
    pub(super) stored: Vec<StoredAs>,
    pub(super) plugin: LoadedPlugin,
    pub(super) job: LoadedJob,
    pub(super) target: Target,
    pub(super) start: Start,
    pub(super) fresh: bool,
    pub(super) force: bool,
    /// The companions that the output depends on.
    pub(super) depends_on: BTreeSet<String>,
    pub(super) settings: ConnectSettings,
    pub(super) origin: Option<Origin>,
    /// Weights that are fetched first.
    pub(super) missing: Option<Missing>,
    /// What will be done.
    pub plan: RunPlan,
    /// What the user should know before it is.
    pub warnings: Vec<String>,
}

impl Prepared {
    /// Where the output will be.
    #[must_use]
    pub fn output(&self) -> PathBuf {
        self.target.path()
    }

    /// Where the model comes from, if from a hub.
    #[must_use]
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// Bytes of weights that have to be fetched from a hub first.
    #[must_use]
    pub fn missing_bytes(&self) -> u64 {
        self.missing.as_ref().map_or(0, |missing| missing.bytes)
    }

    /// The checkpoint's folder.
    #[must_use]
    pub fn source(&self) -> &Path {
        &self.checkpoint.root
    }

    /// The model's family.
    #[must_use]
    pub fn architecture(&self) -> &str {
        &self.model.family
    }

    /// Bytes of the source's weights.
    #[must_use]
    pub fn source_bytes(&self) -> u64 {
        self.checkpoint.weight_bytes()
    }

    /// Tensors of the model that will not be in the output, each with the reason.
    #[must_use]
    pub fn unused(&self) -> Vec<(String, String)> {
        let name = |tensor: u32| self.model.tensors.get(tensor as usize).map_or_else(String::new, |t| t.name.clone());
        self.plan.plan.unused.iter().map(|unused| (name(unused.tensor), unused.reason.clone())).collect()
    }

    /// The plugin's id and version.
    #[must_use]
    pub fn plugin(&self) -> (&str, &str) {
        (&self.plugin.manifest.id, &self.plugin.manifest.version)
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
    let Opened { checkpoint, origin, missing } = fetch::open(&request.model, &resources.cancel)?;
    let Understood { model, stored, warnings: of_model } = model::understand(&checkpoint)?;
    tracing::info!(
        "{}: {}, {} tensors in {} files",
        checkpoint.root.display(),
        model.family,
        checkpoint.tensors.len(),
        checkpoint.shards.len()
    );
    let (found, manifest) = catalog.bringing(&request.format)?;
    let settings = connect(resources)?;
    let plugin = LoadedPlugin::load(found, manifest, &settings)?;
    tracing::info!("plugin {} {} from {}", manifest.id, manifest.version, found.path.display());
    let open = OpenRequest::new(request.format.clone(), request.options.clone(), model);
    let companions = Arc::new(Companions::new(checkpoint.companions.clone()));
    let job = plugin.open(&open, Arc::<Companions>::clone(&companions) as _)?;
    let plan = plan::accept(job.plan.clone(), &open.model)?;
    let target = Target {
        folder: request.output.clone(),
        name: format!("{}{}", open.model.name, plan.plan.output.suffix),
        kind: plan.plan.output.kind,
    };
    let warnings = checkpoint.warnings.iter().cloned().chain(of_model).chain(plan.plan.warnings.iter().cloned());
    let warnings = warnings.chain(left_out(&plan.plan, &open.model)).chain(target.misnamed()).collect();

    let copied = plan.plan.companions.iter().filter_map(|companion| match &companion.content {
        CompanionContent::Copy(name) => Some(name.clone()),
        _ => None,
    });
    let copied: BTreeSet<String> = copied.collect();
    let copied_bytes = checkpoint.companions.iter().filter(|file| copied.contains(&file.name)).map(|file| file.bytes);
    let companion_bytes = copied_bytes.fold(0, u64::saturating_add);

    let depends_on = &copied | &companions.read_so_far();
    let fingerprint =
        source::fingerprint(&checkpoint, &depends_on).map_err(|source| Error::SourceUnreadable { source })?;
    let key = plan.key(&request.options, &fingerprint, &plugin.sha256)?;
    let name = format!("{} {}", plugin.manifest.id, plugin.manifest.version);
    let start = Start::new(key, name, plugin.sha256.clone(), fingerprint);
    tracing::debug!("the work has the key {}", start.key);

    let mut place = write::survey(&target, &checkpoint.root);
    if seems_published(&target, &start) {
        // Our own finished output, of a run that ended before it had tidied up.
        place.exists = false;
    }
    let memory_own = own_memory(resources.threads);
    settings.ledger.set_own(memory_own);
    let facts = Facts {
        place,
        download: missing.as_ref().map(|missing| missing.needs(&target)),
        force: request.force,
        companions: companion_bytes,
        memory_limit: resources.max_memory,
        memory_own,
    };
    plan::refuse_impossible(&plan, settings.threads(), &facts)?;
    let model = Arc::new(open.model);
    Ok(Prepared {
        checkpoint,
        model,
        stored,
        plugin,
        job,
        target,
        start,
        fresh: request.fresh,
        force: request.force,
        depends_on,
        settings,
        origin,
        missing,
        plan,
        warnings,
    })
}

/// One sentence for every reason for which tensors of the model are not in the output.
fn left_out(plan: &Plan, model: &Model) -> Vec<String> {
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
fn own_memory(threads: usize) -> u64 {
    let now = Memory::now();
    let buffers = (threads as u64).saturating_add(1).saturating_mul(commit::BUFFER as u64);
    now.resident.saturating_add(buffers).saturating_add(YET_TO_COME).max(now.peak_resident)
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
    Ok(ConnectSettings {
        pool: Arc::new(start_threads(resources.threads)?),
        ledger: Arc::new(Ledger::new(resources.max_memory)),
        cancel: resources.cancel.clone(),
        log_level: resources.log_level,
    })
}

fn start_threads(threads: usize) -> Result<ThreadPool, Error> {
    let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|index| format!("worker-{index}"));
    pool.build().map_err(|error| Error::Threads { threads, reason: error.to_string() })
}
