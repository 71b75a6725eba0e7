//! The other process: objects of ours that it may call, and calls to its objects.
//!
//! Both sides listen on a socket of their own. A thread that calls takes a connection that is free, or opens one, and waits;
//! the other side serves each connection on a thread. So calls nest and run side by side as they do in one process. It knows
//! the border's objects by their methods and nothing of what they are for.

use std::{
    collections::HashMap,
    io,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use qhost_plugin_api::abi::{
    Failure, FailureKind, FilesObject, HostObject, JobObject, PluginObject, ServiceObject, UnitObject,
};
use serde_json::Value;

use super::{
    serve,
    wire::{Answered, Connection},
};
use crate::plugin::calls::{self, Caller};

/// An object that the other process may call.
pub(super) enum Object {
    Host(HostObject),
    Files(FilesObject),
    Unit(UnitObject),
    Service(ServiceObject),
    Plugin(PluginObject),
    Job(JobObject),
}

/// The objects that the other process may call, by the numbers that it knows them by.
pub(super) struct Objects {
    held: Mutex<HashMap<u64, Arc<Object>>>,
    next: AtomicU64,
    /// The plugin that the objects belong to, where they are a plugin's.
    pub(super) caller: Option<&'static Caller>,
}

impl Objects {
    pub(super) fn new(caller: Option<&'static Caller>) -> Arc<Self> {
        Arc::new(Self { held: Mutex::default(), next: AtomicU64::new(1), caller })
    }

    /// Lets the other process call an object until it says that it needs it no more.
    pub(super) fn hold(&self, object: Object) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.held).insert(id, Arc::new(object));
        id
    }

    pub(super) fn get(&self, id: u64) -> Option<Arc<Object>> {
        lock(&self.held).get(&id).cloned()
    }

    pub(super) fn drop_one(&self, id: u64) {
        let dropped = lock(&self.held).remove(&id);
        // Its destructor may call back.
        drop(dropped);
    }
}

/// Says why the other process has gone.
pub(super) type Obituary = Box<dyn Fn(&io::Error) -> Failure + Send + Sync>;

/// The other process.
pub(super) struct Peer {
    address: PathBuf,
    free: Mutex<Vec<Connection>>,
    pub(super) own: Arc<Objects>,
    obituary: Obituary,
}

impl Peer {
    pub(super) fn new(address: PathBuf, own: Arc<Objects>, obituary: Obituary) -> Arc<Self> {
        Arc::new(Self { address, free: Mutex::default(), own, obituary })
    }

    /// Calls an object of the other process. Meanwhile this thread is not in a plugin's code.
    pub(super) fn call(
        &self,
        object: u64,
        method: &str,
        arguments: Value,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
    ) -> Result<Answered, Failure> {
        let during = calls::current().map(|call| call.during.clone()).unwrap_or_default();
        calls::answer(|_| {
            let call = || {
                let free = lock(&self.free).pop();
                let mut connection = free.map_or_else(|| Connection::open(&self.address), Ok)?;
                let answered = connection.call((object, method, &during), arguments, inputs, outputs)?;
                lock(&self.free).push(connection);
                Ok(answered)
            };
            call().unwrap_or_else(|error: io::Error| Err((self.obituary)(&error)))
        })
    }
}

/// An object of the other process.
pub(super) struct Remote {
    pub(super) peer: Arc<Peer>,
    id: u64,
}

impl Remote {
    pub(super) fn new(peer: &Arc<Peer>, id: u64) -> Self {
        Self { peer: Arc::clone(peer), id }
    }

    pub(super) fn call(&self, method: &str, arguments: Value) -> Result<Value, Failure> {
        Ok(self.peer.call(self.id, method, arguments, &[], &mut [])?.0)
    }

    pub(super) fn call_with(
        &self,
        method: &str,
        arguments: Value,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
    ) -> Result<Answered, Failure> {
        self.peer.call(self.id, method, arguments, inputs, outputs)
    }

    /// The number of an object that is an answer, if there is one.
    pub(super) fn object(&self, method: &str, arguments: Value) -> Result<Option<Self>, Failure> {
        Ok(self.call(method, arguments)?.as_u64().map(|id| Self::new(&self.peer, id)))
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // A process that has gone holds nothing.
        let _ = self.call("drop", Value::Null);
    }
}

/// Serves the other process's calls on threads of their own, from now until the end of this process.
pub(super) fn listen(address: &Path, peer: &Arc<Peer>) -> io::Result<()> {
    let listener = UnixListener::bind(address)?;
    let peer = Arc::downgrade(peer);
    let accept = move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { break };
            let peer = Weak::clone(&peer);
            let serve = move || {
                let served = Connection::accepted(stream).and_then(|mut connection| serve::all(&mut connection, &peer));
                if let Err(error) = served {
                    tracing::debug!("a connection to the other process has ended: {error}");
                }
            };
            if thread::Builder::new().name("peer".into()).spawn(serve).is_err() {
                break;
            }
        }
    };
    thread::Builder::new().name("peers".into()).spawn(accept).map(drop)
}

/// What cannot be, unless one side has a defect.
pub(super) fn broken(what: &str) -> Failure {
    Failure::new(FailureKind::PLUGIN, format!("the plugin's process and qhost do not understand each other: {what}"))
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
