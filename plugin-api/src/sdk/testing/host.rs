//! The process as a plugin sees it: loops, grants, messages.
#![expect(unsafe_code, reason = "loop bodies are raw pointers that are handed to threads")]

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use abi_stable::{
    sabi_trait::TD_Opaque,
    std_types::{RArc, ROption, RResult, RStr},
};

use super::{
    Failure, FormatService, HostHandle, Result, TestPlugin,
    conditions::{Call, Conditions, Fate},
};
use crate::{
    abi::{FailureKind, Host, Host_TO, HostObject, LogLevel, ServiceObject, Task},
    documents::HostFacts,
    sdk::{Format, service::service_object},
};

/// A host in memory. Its settings hold for the plugins that are connected afterwards.
#[derive(Clone, Default)]
pub struct TestHost {
    threads: u32,
    memory: Option<u64>,
    pub(super) services: BTreeMap<String, Arc<dyn FormatService>>,
    /// Services that it tells of and does not have.
    told: &'static [&'static str],
    state: Arc<State>,
}

impl fmt::Debug for TestHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestHost").field("threads", &self.threads).field("memory", &self.memory).finish_non_exhaustive()
    }
}

/// What a plugin said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// How important it is.
    pub level: LogLevel,
    /// The module that said it.
    pub target: String,
    /// The words.
    pub text: String,
}

#[derive(Default)]
struct State {
    cancelled: AtomicBool,
    messages: Mutex<Vec<Message>>,
    grants: Mutex<Grants>,
    conditions: Mutex<Conditions>,
}

#[derive(Default)]
struct Grants {
    next: u64,
    held: BTreeMap<u64, u64>,
    peak: u64,
}

impl TestHost {
    /// A host that runs loops on the calling thread, has memory without end and no services.
    #[must_use]
    pub fn new() -> Self {
        Self { threads: 1, ..Self::default() }
    }

    /// Sets the number of threads that loops run on.
    #[must_use]
    pub fn threads(mut self, threads: u32) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Sets the ceiling of granted memory, in bytes.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// Adds a service, which is found on the host and on every unit.
    #[must_use]
    pub fn service(mut self, name: impl Into<String>, service: impl FormatService) -> Self {
        self.services.insert(name.into(), Arc::new(service));
        self
    }

    /// Has it tell of services that it does not have, for plans that are never carried out.
    pub(super) fn telling(mut self, services: &'static [&'static str]) -> Self {
        self.told = services;
        self
    }

    /// From now on the user wants to stop.
    pub fn cancel(&self) {
        self.state.cancelled.store(true, Ordering::Relaxed);
    }

    /// What was logged through the host's handle, in order. Events of `tracing` and records of `log`
    /// belong to the whole process and are not seen here.
    #[must_use]
    pub fn messages(&self) -> Vec<Message> {
        self.state.messages.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The most memory that was granted at once, in bytes.
    #[must_use]
    pub fn peak_granted(&self) -> u64 {
        self.state.grants.lock().unwrap_or_else(PoisonError::into_inner).peak
    }

    /// The host as the SDK wraps it, for tests of a plugin's inner functions.
    #[must_use]
    pub fn handle(&self) -> HostHandle {
        // SAFETY: `parallel_for` below joins its threads before it returns.
        unsafe { HostHandle::new(self.object(), self.facts()) }
    }

    /// The host as the border has it.
    #[must_use]
    pub fn object(&self) -> HostObject {
        Host_TO::from_ptr(RArc::new(self.clone()), TD_Opaque)
    }

    /// What the host says of itself.
    #[must_use]
    pub fn facts(&self) -> HostFacts {
        let mut facts = HostFacts::new("0.0.0-test");
        facts.threads = self.threads;
        facts.services = self.services.keys().cloned().collect();
        facts.services.extend(self.told.iter().map(|name| (*name).to_owned()));
        facts.log_level = LogLevel::TRACE.0;
        facts
    }

    /// Connects a plugin.
    ///
    /// # Errors
    /// Fails when the plugin does.
    pub fn connect<F: Format>(&self) -> Result<TestPlugin> {
        TestPlugin::connect::<F>(self.clone())
    }

    pub(super) fn find(&self, name: &str) -> ROption<ServiceObject> {
        self.services.get(name).map(|service| service_object(Arc::clone(service), self.handle())).into()
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.state.cancelled.load(Ordering::Relaxed)
    }

    fn conditions(&self) -> MutexGuard<'_, Conditions> {
        self.state.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what has happened, and what was changed for a check.
    pub(super) fn reset(&self) {
        self.state.cancelled.store(false, Ordering::Relaxed);
        *self.conditions() = Conditions::default();
        *self.state.grants.lock().unwrap_or_else(PoisonError::into_inner) = Grants::default();
    }

    /// From now on loops run on so many threads, whatever the host has said of itself.
    pub(super) fn run_on(&self, threads: u32) {
        self.conditions().threads = Some(threads);
    }

    /// Gives a fate to one of the calls that come, counted from 0.
    pub(super) fn prepare(&self, call: Call, number: u64, fate: Fate) {
        let mut conditions = self.conditions();
        let threads = conditions.threads;
        *conditions = Conditions::default();
        (conditions.threads, conditions.fate) = (threads, Some((call, number, fate)));
    }

    /// How many calls of a kind there were.
    pub(super) fn calls(&self, call: Call) -> u64 {
        self.conditions().calls(call)
    }

    /// How many calls came after the one that had a fate.
    pub(super) fn calls_afterwards(&self) -> u64 {
        self.conditions().afterwards
    }

    /// What becomes of a call.
    pub(super) fn meet(&self, call: Call) -> Result<()> {
        let stops = self.conditions().meet(call)?;
        if stops {
            self.cancel();
        }
        Ok(())
    }

    /// Bytes granted and not given back.
    pub(super) fn granted(&self) -> u64 {
        self.state.grants.lock().unwrap_or_else(PoisonError::into_inner).held.values().sum()
    }
}

impl Host for TestHost {
    fn log(&self, level: LogLevel, target: RStr<'_>, message: RStr<'_>) {
        let message = Message { level, target: target.into(), text: message.into() };
        self.state.messages.lock().unwrap_or_else(PoisonError::into_inner).push(message);
    }

    fn parallel_for(&self, count: u64, task: Task) -> RResult<(), Failure> {
        let task = SharedTask(task);
        let next = AtomicU64::new(0);
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    break;
                }
                task.run(index);
            }
        };
        let threads = self.conditions().threads.unwrap_or(self.threads);
        if threads == 1 {
            work();
        } else {
            thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
        }
        RResult::ROk(())
    }

    fn grant(&self, bytes: u64, purpose: RStr<'_>) -> RResult<u64, Failure> {
        if let Err(refused) = self.meet(Call::Grant) {
            return RResult::RErr(refused);
        }
        let mut grants = self.state.grants.lock().unwrap_or_else(PoisonError::into_inner);
        let total = grants.held.values().sum::<u64>().saturating_add(bytes);
        if self.memory.is_some_and(|limit| total > limit) {
            return RResult::RErr(Failure::new(
                FailureKind::RESOURCES,
                format!("{purpose} needs {bytes} bytes, which are not left"),
            ));
        }
        grants.peak = grants.peak.max(total);
        grants.next += 1;
        let id = grants.next;
        grants.held.insert(id, bytes);
        RResult::ROk(id)
    }

    fn release_grant(&self, id: u64) {
        self.state.grants.lock().unwrap_or_else(PoisonError::into_inner).held.remove(&id);
    }

    fn cancelled(&self) -> bool {
        self.is_cancelled()
    }

    fn query_interface(&self, name: RStr<'_>) -> ROption<ServiceObject> {
        self.find(&name)
    }
}

/// A loop body on its way to threads.
struct SharedTask(Task);

// SAFETY: the contract of `Task`: its context may be used from several threads at once.
unsafe impl Send for SharedTask {}
// SAFETY: as above.
unsafe impl Sync for SharedTask {}

impl SharedTask {
    fn run(&self, index: u64) {
        // SAFETY: the pointer is the one that came with the function, and `parallel_for` is running.
        unsafe { (self.0.run)(self.0.context, index) };
    }
}
