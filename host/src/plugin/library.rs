//! Loading a plugin library and calling it.
//!
//! Libraries are never unloaded: their objects, threads' destructors and static data may be in use
//! until the process ends.
#![expect(unsafe_code, reason = "loading a library runs its code, and a symbol's type is taken on trust")]

use std::{
    fs::{self, File},
    mem::ManuallyDrop,
    path::{Path, PathBuf},
    sync::Arc,
};

use abi_stable::{
    library::{AbiHeaderRef, LibraryError, ROOT_MODULE_LOADER_NAME_WITH_NUL},
    std_types::{RSlice, RSliceMut},
};
use qhost_compute::DeviceChoice;
use qhost_plugin_api::{
    abi::{DType, Failure, HostObject, JobObject, PluginModuleRef, PluginObject, TensorView},
    documents::{BesideRequest, Description, Document, Findings, HostFacts, Manifest, OpenRequest, Plan},
    sdk::{BESIDE, DECODE, FormatService},
};
use rayon::ThreadPool;

use super::{
    Error, FileSource, Found, RowDecoder, UnitServices,
    calls::Caller,
    catalog::digest,
    services::{self, ProcessServices},
    watchdog,
};
use crate::{cancel::CancelFlag, stream::Ledger};

/// What a plugin is connected to.
#[derive(Clone)]
pub struct ConnectSettings {
    /// The threads that parallel loops run on.
    pub pool: Arc<ThreadPool>,
    /// Grants working memory.
    pub ledger: Arc<Ledger>,
    /// Says when to stop.
    pub cancel: CancelFlag,
    /// Messages above this [`LogLevel`](qhost_plugin_api::abi::LogLevel) are not wanted.
    pub log_level: u32,
    /// What models are run on.
    pub device: DeviceChoice,
    /// Whether plugins are loaded in processes of their own.
    pub isolate: bool,
    /// Computes for plugins: the service `compute/1`.
    pub compute: Arc<dyn FormatService>,
}

impl ConnectSettings {
    /// The number of threads that parallel loops run on.
    #[must_use]
    pub fn threads(&self) -> u32 {
        u32::try_from(self.pool.current_num_threads()).unwrap_or(u32::MAX)
    }
}

/// A plugin that is loaded and connected.
pub struct LoadedPlugin {
    /// Where it came from.
    pub path: PathBuf,
    /// What it says of itself.
    pub manifest: Manifest,
    /// SHA-256 of the library file, in hexadecimal.
    pub sha256: String,
    pub(super) object: PluginObject,
    pub(super) caller: &'static Caller,
}

impl LoadedPlugin {
    /// Loads a library whose manifest has been read, and connects it.
    ///
    /// # Errors
    /// Fails when the library cannot be loaded or refuses to start.
    pub fn load(found: &Found, manifest: &Manifest, settings: &ConnectSettings) -> Result<Self, Error> {
        let path = &found.path;
        let cannot = |reason: String| Error::CannotLoad { path: path.clone(), reason };
        let bytes = fs::read(path).map_err(|error| cannot(error.to_string()))?;
        let sha256 = digest(&bytes);
        drop(bytes);
        if found.installed.as_ref().is_some_and(|entry| entry.sha256 != sha256) {
            return Err(cannot("its library is not the one that was installed".into()));
        }
        let caller = Caller::new(manifest, &sha256, path);
        watchdog::watch();
        let host = services::host_object(ProcessServices {
            plugin: manifest.id.clone(),
            pool: Arc::clone(&settings.pool),
            ledger: Arc::clone(&settings.ledger),
            cancel: settings.cancel.clone(),
            compute: Arc::clone(&settings.compute),
        });
        let failed = |failure: Failure| Error::Failed { plugin: manifest.id.clone(), failure: Box::new(failure) };
        let mut facts = HostFacts::new(env!("CARGO_PKG_VERSION"));
        facts.log_level = settings.log_level;
        facts.threads = settings.threads();
        facts.services = services::NAMES.map(str::to_owned).to_vec();
        let facts = facts.to_json().map_err(failed)?;
        let object = if settings.isolate {
            apart(path, host, &facts, settings)?
        } else {
            let module = load_module(caller, path)?;
            let loaded = Manifest::from_json(&caller.call("while it was loaded", || module.manifest()()));
            if loaded.as_ref() != Ok(manifest) {
                return Err(cannot(
                    "the loaded code has another manifest than the file had: was it replaced just now?".into(),
                ));
            }
            let connected = caller.call("while it was connected", || module.connect()(host, facts.as_str().into()));
            connected.into_result().map_err(failed)?
        };
        Ok(Self { path: path.clone(), manifest: manifest.clone(), sha256, object, caller })
    }

    /// What the plugin's formats can do.
    ///
    /// # Errors
    /// Fails when the plugin does.
    pub fn describe(&self) -> Result<Description, Error> {
        let described = self.caller.call("while it described itself", || self.object.describe());
        let answer = described.into_result().and_then(|text| Description::from_json(&text));
        answer.map_err(|failure| self.failed(failure))
    }

    /// Has a job planned.
    ///
    /// # Errors
    /// Fails when the plugin refuses the request, or fails.
    pub fn open(&self, request: &OpenRequest, companions: Arc<dyn FileSource>) -> Result<LoadedJob, Error> {
        let open = || {
            let request = request.to_json()?;
            let files = services::files_object(companions);
            let object = self.object.open(request.as_str().into(), files).into_result()?;
            let plan = Plan::from_json(&object.plan().into_result()?)?;
            Ok((object, plan))
        };
        let opened = self.caller.call("while it planned", open);
        let (object, plan) = opened.map_err(|failure| self.failed(failure))?;
        Ok(LoadedJob { plugin: self.manifest.id.clone(), plan, object, caller: self.caller })
    }

    pub(super) fn failed(&self, failure: Failure) -> Error {
        Error::Failed { plugin: self.manifest.id.clone(), failure: Box::new(failure) }
    }
}

/// A job that a plugin has planned.
pub struct LoadedJob {
    plugin: String,
    /// What it will write.
    pub plan: Plan,
    object: JobObject,
    caller: &'static Caller,
}

impl LoadedJob {
    /// The bytes of a constant segment.
    ///
    /// # Errors
    /// Fails when the plugin does.
    pub fn constant(&self, segment: u32) -> Result<Vec<u8>, Error> {
        let made = self.caller.call("while it made a header", || self.object.constant(segment));
        made.into_result().map(Into::into).map_err(|failure| self.failed(failure))
    }

    /// Makes the segments of a unit, which people know by a name; `record` is a file that is told of a crash.
    ///
    /// # Errors
    /// Fails when the plugin does, the source is damaged, or the user interrupts.
    pub fn run_unit(
        &self,
        (unit, name): (u32, &str),
        services: &Arc<dyn UnitServices>,
        record: Option<&File>,
    ) -> Result<(), Error> {
        let io = services::unit_object(Arc::clone(services));
        let run = || self.object.run_unit(unit, io);
        let outcome = self.caller.call_recorded(&format!("while it made {name}"), record, run);
        outcome.into_result().map_err(|failure| self.failed(failure))
    }

    /// Has the finished files re-read.
    ///
    /// # Errors
    /// Fails when the plugin does; what is wrong with the files is in the findings.
    pub fn check(&self, files: Arc<dyn FileSource>) -> Result<Findings, Error> {
        let files = services::files_object(files);
        let checked = self.caller.call("while it checked its files", || self.object.check(files));
        checked.into_result().and_then(|text| Findings::from_json(&text)).map_err(|failure| self.failed(failure))
    }

    /// What gives the model's weights out of files, for a job that was opened for that.
    ///
    /// # Errors
    /// Fails when the plugin cannot do that.
    pub fn decoder(&self) -> Result<RowDecoder, Error> {
        let found = self.object.query_interface(DECODE.into()).into_option();
        let service = found.ok_or_else(|| {
            let message = "it reads its files, and gives no weights out of them";
            self.failed(Failure::unsupported(message).hint("a newer version of the plugin may do that"))
        })?;
        Ok(RowDecoder::new(self.plugin.clone(), service, self.caller))
    }

    /// Makes a file beside the output, of what the units saved.
    ///
    /// # Errors
    /// Fails when the plugin does.
    pub fn beside(&self, suffix: &str, saved: &[(String, Vec<u8>)]) -> Result<Vec<u8>, Error> {
        let absent = || Failure::internal(format!("the plan has files beside the output, and the job no {BESIDE}"));
        let service = self.object.query_interface(BESIDE.into()).into_option();
        let service = service.ok_or_else(|| self.failed(absent()))?;
        let keys = saved.iter().map(|(key, _)| key.clone()).collect();
        let request = serde_json::to_string(&BesideRequest::new(suffix, keys));
        let request = request.map_err(|error| self.failed(Failure::internal(error.to_string())))?;
        let views: Vec<_> = saved
            .iter()
            .map(|(_, bytes)| TensorView {
                dtype: DType::U8,
                rows: 1,
                row_elements: bytes.len() as u64,
                data: RSlice::from_slice(bytes),
            })
            .collect();
        let none = RSliceMut::from_mut_slice(&mut []);
        let make = || service.call("make".into(), request.as_str().into(), RSlice::from_slice(&views), none);
        let answer = self.caller.call("while it made a file beside the output", make);
        answer.into_result().map(|answer| answer.blob.into()).map_err(|failure| self.failed(failure))
    }

    fn failed(&self, failure: Failure) -> Error {
        Error::Failed { plugin: self.plugin.clone(), failure: Box::new(failure) }
    }
}

/// The plugin in a process of its own.
#[cfg(target_os = "linux")]
fn apart(path: &Path, host: HostObject, facts: &str, settings: &ConnectSettings) -> Result<PluginObject, Error> {
    super::remote::connect(path, host, facts, settings.pool.current_num_threads())
}

/// Memory is shared otherwise there.
#[cfg(not(target_os = "linux"))]
fn apart(path: &Path, _: HostObject, _: &str, _: &ConnectSettings) -> Result<PluginObject, Error> {
    let reason = "processes for plugins (--isolate) are there on Linux only".into();
    Err(Error::CannotLoad { path: path.to_owned(), reason })
}

/// Loads the library at `path`, as one of `caller`'s calls.
pub(super) fn load_module(caller: &'static Caller, path: &Path) -> Result<PluginModuleRef, Error> {
    let module = caller.call("while it was loaded", || root_module(path))?;
    #[cfg(target_os = "linux")]
    super::code::remember(caller, path);
    Ok(module)
}

fn root_module(path: &Path) -> Result<PluginModuleRef, Error> {
    let cannot = |reason: String| Error::CannotLoad { path: path.to_owned(), reason };
    // SAFETY: opening a library runs its initialisers. The user has put it on the plugin path, its
    // manifest says that it is a plugin for this host, and its file is whole.
    let library = unsafe { open(path) }.map_err(|error| cannot(error.to_string()))?;
    // Never unloaded, from here on.
    let library = ManuallyDrop::new(library);
    // SAFETY: the symbol is a `LibHeader`, which starts with an `AbiHeader`; `AbiHeaderRef` is a pointer
    // to that. `upgrade` compares the magic bytes and abi_stable's version before anything else is read.
    let header = unsafe { library.get::<AbiHeaderRef>(ROOT_MODULE_LOADER_NAME_WITH_NUL) };
    let header = *header.map_err(|_| cannot("it exports no root module".into()))?;
    let header = header.upgrade().map_err(|error| cannot(short(&error)))?;
    if header.layout().is_none() {
        return Err(cannot("it opts out of the comparison of layouts".into()));
    }
    // Not `RootModule::load_from`: that keeps one module per type for the whole process, so that a second
    // plugin would silently be the first.
    header.init_root_module::<PluginModuleRef>().map_err(|error| cannot(short(&error)))
}

/// Opens a library with all its symbols bound now, so that a missing one is an error here and not a
/// crash later, and without lending its symbols to other libraries.
#[cfg(unix)]
unsafe fn open(path: &Path) -> Result<libloading::Library, libloading::Error> {
    use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
    // SAFETY: the caller's.
    unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map(Into::into)
}

/// Opens a library; what it needs is looked for beside it and in the system's folders, and not in the
/// working directory or along PATH.
#[cfg(windows)]
unsafe fn open(path: &Path) -> Result<libloading::Library, libloading::Error> {
    use libloading::os::windows::{LOAD_LIBRARY_SEARCH_DEFAULT_DIRS, LOAD_LIBRARY_SEARCH_DLL_LOAD_DIR, Library};
    // These flags want an absolute path. It keeps its usual form: `canonicalize` would give `\\?\…`.
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let flags = LOAD_LIBRARY_SEARCH_DLL_LOAD_DIR | LOAD_LIBRARY_SEARCH_DEFAULT_DIRS;
    // SAFETY: the caller's.
    unsafe { Library::load_with_flags(path, flags) }.map(Into::into)
}

#[cfg(not(any(unix, windows)))]
unsafe fn open(path: &Path) -> Result<libloading::Library, libloading::Error> {
    // SAFETY: the caller's.
    unsafe { libloading::Library::new(path) }
}

/// The layout checker's report runs over a thousand lines; what matters is at its end.
fn short(error: &LibraryError) -> String {
    let report = error.to_string();
    tracing::debug!("{report}");
    match error {
        LibraryError::InvalidAbiHeader(_) => "it was built with another major version of abi_stable".into(),
        LibraryError::IncompatibleVersionNumber { expected_version, actual_version, .. } => {
            format!("it was built for the ABI {actual_version}, this qhost has {expected_version}")
        }
        LibraryError::AbiInstability(_) => {
            let lines: Vec<_> = report.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            let end = lines[lines.len().saturating_sub(5)..].join(" ");
            format!("its layouts differ from this host's: {end}")
        }
        _ => report.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" "),
    }
}
