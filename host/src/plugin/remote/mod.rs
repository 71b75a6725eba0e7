//! A plugin in a process of its own (`--isolate`): whatever it does to its memory, the host's is safe.
//!
//! The host starts this very executable again, which loads the library and offers the plugin's objects; here stand objects
//! of the same kinds that call those. So nothing else of the host knows where a plugin runs, and its bytes are the same. Rows
//! of a checkpoint are not copied: both processes map the same file. Loops run on threads of the plugin's process, as many
//! as the host would take; memory is granted by the host's ledger, apart from what the process takes by itself.

mod peer;
mod proxies;
mod serve;
mod wire;

use std::{
    io::{self, Read},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use abi_stable::std_types::RStr;
use qhost_plugin_api::abi::{Failure, FailureKind, HostObject, PluginObject};
use rayon::ThreadPoolBuilder;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tempfile::TempDir;

use self::peer::{Object, Objects, Peer, lock};
use super::{Error, calls::Caller, catalog::digest, library, process};
use crate::memory::Helper;

/// The hidden command that a plugin's process is started with.
const COMMAND: &str = "plugin-process";

const HOST_SOCKET: &str = "host";
const PLUGIN_SOCKET: &str = "plugin";

/// The first object of either side.
const FIRST: u64 = 1;

/// What a plugin's process has to know, in its first line of input.
#[derive(Debug, Serialize, Deserialize)]
struct Start {
    library: PathBuf,
    sockets: PathBuf,
    threads: usize,
    /// The text of `HostFacts`.
    facts: String,
}

/// The process of a plugin, which ends with this.
struct Process {
    child: Mutex<Child>,
    /// Its memory is this process's, for a ceiling and in reports.
    memory: Mutex<Option<Helper>>,
    /// It ends when this is closed.
    lifeline: Mutex<Option<ChildStdin>>,
    /// What it has said on its standard output.
    said: Mutex<Option<thread::JoinHandle<Vec<u8>>>>,
    /// The folder of the sockets.
    _sockets: TempDir,
}

impl Drop for Process {
    fn drop(&mut self) {
        lock(&self.memory).take();
        lock(&self.lifeline).take();
        let mut child = lock(&self.child);
        if !matches!(process::wait(&mut child, Duration::from_secs(5)), Ok(Some(_))) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Process {
    /// Why the process has gone, in its own words if it had any.
    fn obituary(&self, error: &io::Error) -> Failure {
        let status = process::wait(&mut lock(&self.child), Duration::from_secs(10)).ok().flatten();
        let said = lock(&self.said).take().and_then(|said| said.join().ok()).unwrap_or_default();
        let document: Option<Value> = serde_json::from_slice(&said).ok();
        let text = |key: &str| document.as_ref().and_then(|document| document[key].as_str()).map(str::to_owned);
        let message = text("message").unwrap_or_else(|| match status {
            Some(status) => {
                format!("the plugin's process has ended ({status}), as one does that is killed for its memory")
            }
            None => format!("the plugin's process does not answer: {error}"),
        });
        let hint = text("hint").unwrap_or_else(|| "finished work is kept: run the same command again".into());
        Failure::new(FailureKind::PLUGIN, message).hint(hint)
    }
}

/// Starts a process for the library at `path`, and connects the plugin there to the host.
pub(super) fn connect(path: &Path, host: HostObject, facts: &str, threads: usize) -> Result<PluginObject, Error> {
    let cannot = |reason: String| Error::CannotLoad { path: path.to_owned(), reason };
    let system = |error: io::Error| cannot(format!("a process of its own: {error}"));
    let sockets = tempfile::Builder::new().prefix("qhost-").tempdir().map_err(system)?;
    let executable = std::env::current_exe().map_err(system)?;
    let mut command = Command::new(executable);
    command.args([COMMAND, "--json"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    // Ctrl-C at a terminal is for the host, which tells the plugin.
    command.process_group(0);
    let mut child = command.spawn().map_err(system)?;
    let lifeline = child.stdin.take();
    let said = process::hear(child.stdout.take()).map_err(system)?;
    let memory = Helper::new(child.id());
    let (folder, library) = (sockets.path().to_owned(), std::path::absolute(path).map_err(system)?);
    let process = Arc::new(Process {
        child: Mutex::new(child),
        memory: Mutex::new(Some(memory)),
        lifeline: Mutex::new(lifeline),
        said: Mutex::new(Some(said)),
        _sockets: sockets,
    });
    let dying = Arc::clone(&process);
    let own = Objects::new(None);
    let peer = Peer::new(folder.join(PLUGIN_SOCKET), own, Box::new(move |error| dying.obituary(error)));
    // The first object, which the other side knows by its number.
    peer.own.hold(Object::Host(host));
    peer::listen(&folder.join(HOST_SOCKET), &peer).map_err(system)?;
    let start = Start { library, sockets: folder.clone(), threads, facts: facts.to_owned() };
    if let Some(lifeline) = &mut *lock(&process.lifeline) {
        let mut line = serde_json::to_vec(&start).map_err(|error| system(error.into()))?;
        line.push(b'\n');
        io::Write::write_all(lifeline, &line).map_err(system)?;
    }
    // It listens when it has loaded the library and connected the plugin.
    let began = Instant::now();
    while !folder.join(PLUGIN_SOCKET).exists() {
        if lock(&process.child).try_wait().map_err(system)?.is_some() || began.elapsed() > Duration::from_secs(600) {
            let failure = process.obituary(&io::ErrorKind::TimedOut.into());
            return Err(cannot(failure.message.into()));
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(proxies::plugin(&peer, FIRST))
}

/// The plugin's process: it serves until the host's has gone.
///
/// # Errors
/// Fails when the library cannot be loaded, or the plugin does not start.
pub fn serve() -> Result<(), Error> {
    let mut line = String::new();
    let told = io::stdin().read_line(&mut line);
    let start: Start = told.and_then(|_| Ok(serde_json::from_str(&line)?)).map_err(|error| {
        let reason = format!("this command is for qhost itself, which tells it what to load: {error}");
        Error::CannotLoad { path: PathBuf::new(), reason }
    })?;
    let path = &start.library;
    let cannot = |reason: String| Error::CannotLoad { path: path.clone(), reason };
    let bytes = std::fs::read(path).map_err(|error| cannot(error.to_string()))?;
    let manifest = super::manifest_of(&bytes).map_err(|error| cannot(error.to_string()))?;
    let caller = Caller::new(&manifest, &digest(&bytes), path);
    drop(bytes);
    super::watchdog::watch();
    let pool = ThreadPoolBuilder::new().num_threads(start.threads).thread_name(|index| format!("worker-{index}"));
    let pool = pool.build().map_err(|error| cannot(error.to_string()))?;
    let own = Objects::new(Some(caller));
    let obituary = |error: &io::Error| Failure::new(FailureKind::CANCELLED, format!("qhost has gone: {error}"));
    let peer = Peer::new(start.sockets.join(HOST_SOCKET), own, Box::new(obituary));
    let host = proxies::host(&peer, FIRST, pool);
    let module = library::load_module(caller, path)?;
    let facts: RStr<'_> = start.facts.as_str().into();
    let connected = caller.call("while it was connected", || module.connect()(host, facts));
    let failed = |failure: Failure| Error::Failed { plugin: manifest.id.clone(), failure: Box::new(failure) };
    let plugin = connected.into_result().map_err(failed)?;
    peer.own.hold(Object::Plugin(plugin));
    // Under its name there is nothing before it can be connected to.
    let (draft, address) = (start.sockets.join("draft"), start.sockets.join(PLUGIN_SOCKET));
    let listening = peer::listen(&draft, &peer).and_then(|()| std::fs::rename(&draft, &address));
    listening.map_err(|error| cannot(error.to_string()))?;
    let (tell, ended) = mpsc::channel::<()>();
    let lifeline = move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        drop(tell);
    };
    thread::Builder::new().name("lifeline".into()).spawn(lifeline).map_err(|error| cannot(error.to_string()))?;
    let _ = ended.recv();
    Ok(())
}
