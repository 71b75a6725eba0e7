//! Everything before the first weight: opening, understanding, planning, refusing.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use qhost_plugin_api::documents::{Model, OpenRequest, Options};
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::{
    Error,
    files::Companions,
    journal::{Journal, Start},
};
use crate::{
    cancel::CancelFlag,
    model::{self, Understood},
    plan::{self, RunPlan},
    plugin::{Catalog, ConnectSettings, LoadedJob, LoadedPlugin},
    source::{self, Checkpoint},
    stream::Ledger,
    write::{self, Target},
};

/// What the user wants.
#[derive(Debug, Clone)]
pub struct Request {
    /// The checkpoint folder.
    pub model: PathBuf,
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
    /// For every tensor of the model, its index among the checkpoint's tensors.
    pub(super) stored: Vec<usize>,
    pub(super) plugin: LoadedPlugin,
    pub(super) job: LoadedJob,
    pub(super) target: Target,
    pub(super) start: Start,
    pub(super) fresh: bool,
    pub(super) settings: ConnectSettings,
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

/// Prepares a run; no weight is read and nothing is written.
///
/// # Errors
/// Fails with whatever keeps the request from being fulfilled.
pub fn prepare(request: &Request, catalog: &Catalog, resources: &Resources) -> Result<Prepared, Error> {
    let checkpoint = source::open(&request.model)?;
    let Understood { model, stored, mut warnings } = model::understand(&checkpoint)?;
    let (found, manifest) = catalog.bringing(&request.format)?;
    let settings = connect(resources)?;
    let plugin = LoadedPlugin::load(found, manifest, &settings)?;
    let open = OpenRequest::new(request.format.clone(), request.options.clone(), model);
    let job = plugin.open(&open, Arc::new(Companions(checkpoint.companions.clone())))?;
    let plan = plan::accept(job.plan.clone(), &open.model)?;
    warnings.extend(plan.plan.warnings.iter().cloned());
    let target = Target {
        folder: request.output.clone(),
        name: format!("{}{}", open.model.name, plan.plan.output.suffix),
        kind: plan.plan.output.kind,
    };
    warnings.extend(target.misnamed());
    let fingerprint = source::fingerprint(&checkpoint).map_err(|source| Error::SourceUnreadable { source })?;
    let key = plan.key(&fingerprint, &plugin.sha256)?;
    let name = format!("{} {}", plugin.manifest.id, plugin.manifest.version);
    let start = Start::new(key, name, plugin.sha256.clone(), fingerprint);
    let mut facts = write::survey(&target, &checkpoint.root, request.force, resources.max_memory);
    if is_published(&target, &start) {
        // Our own finished output, of a run that ended before it had tidied up.
        facts.exists = false;
    }
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
        settings,
        plan,
        warnings,
    })
}

/// Whether a run with this very start put its output in place and was then interrupted.
pub(super) fn is_published(target: &Target, start: &Start) -> bool {
    let work = target.work_folder();
    let (found, complete) = Journal::peek(&work.join("journal"));
    let published = !write::unpublished(&work, target.kind).exists() && target.path().exists();
    complete && published && found.is_some_and(|found| found.key == start.key)
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
