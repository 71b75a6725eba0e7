//! Which thread is in which plugin's code, and at what: so that a crash, an exit or a hang there can be told by name.
//!
//! A thread is in a plugin's code from a call into it until that returns, apart from the plugin's calls back to the host.
//! Threads of the pool are in it while they run the body of a plugin's loop. A thread that the host has never seen in a
//! call of its own may be a plugin's, which the contract forbids: whose is not known here. It knows nothing of signals, and
//! touches no file but the one that it is told to write a verdict into.
#![expect(unsafe_code, reason = "a signal's handler reads what a thread is at through plain pointers")]

use std::{
    cell::Cell,
    collections::BTreeSet,
    fs::File,
    marker::PhantomData,
    path::Path,
    ptr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicPtr, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use qhost_plugin_api::documents::Manifest;

/// Where in a run's record the verdict of a crash is; before it is what the run is at.
pub const VERDICT_AT: usize = 2048;

/// A plugin that is called, with what is told of it when it crashes. Made once for each library that is loaded.
#[derive(Debug)]
pub(super) struct Caller {
    /// `misbehave` 0.1.0, for people.
    pub(super) name: String,
    /// The members of a verdict's JSON object that say which plugin it is.
    pub(super) members: String,
    /// Where a verdict is written, with the folders above it that may have to be made.
    pub(super) verdict: Option<super::quarantine::Place>,
}

impl Caller {
    /// One for the library at `path`; it lives as long as the process, as the library does.
    pub(super) fn new(manifest: &Manifest, sha256: &str, path: &Path) -> &'static Self {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let members = format!(
            r#""id":{},"version":{},"sha256":{},"path":{}"#,
            quoted(&manifest.id),
            quoted(&manifest.version),
            quoted(sha256),
            quoted(&path.display().to_string())
        );
        let name = format!("`{}` {}", manifest.id, manifest.version);
        let verdict = super::Quarantine::of_process().map(|quarantine| quarantine.place(sha256));
        Box::leak(Box::new(Self { name, members, verdict }))
    }

    /// Calls into the plugin; `during` says what for, such as `while it planned`.
    pub(super) fn call<T>(&'static self, during: &str, call: impl FnOnce() -> T) -> T {
        self.call_recorded(during, None, call)
    }

    /// Calls into the plugin, of whose crash a file is told too.
    pub(super) fn call_recorded<T>(&'static self, during: &str, record: Option<&File>, call: impl FnOnce() -> T) -> T {
        let at = Call {
            caller: self,
            during: during.to_owned(),
            tensor: AtomicPtr::new(ptr::null_mut()),
            record: record.map_or(-1, descriptor),
        };
        let _inside = Inside::of(&raw const at);
        call()
    }
}

/// A call into a plugin.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) caller: &'static Caller,
    pub(super) during: String,
    /// The name of the tensor that was last lent, if any; it outlives the call.
    tensor: AtomicPtr<String>,
    /// The descriptor of the file that is told of a crash as well, or -1.
    pub(super) record: i32,
}

impl Call {
    /// What stands for a call where none is known.
    pub(super) fn unknown(caller: &'static Caller, during: &str) -> Self {
        Self { caller, during: during.to_owned(), tensor: AtomicPtr::new(ptr::null_mut()), record: -1 }
    }

    /// The tensor that it was last lent rows of.
    pub(super) fn tensor(&self) -> Option<&str> {
        // SAFETY: `lent` stores pointers to names that outlive the call.
        unsafe { self.tensor.load(Ordering::Acquire).as_ref() }.map(String::as_str)
    }
}

#[cfg(unix)]
fn descriptor(file: &File) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(file)
}

/// Nobody writes a verdict there.
#[cfg(not(unix))]
fn descriptor(_: &File) -> i32 {
    -1
}

/// What a thread is at.
#[derive(Debug)]
pub(super) struct ThreadState {
    /// The call whose plugin's code it runs; null in the host's own code, and [`STRANGE`] on a thread that is not the host's.
    call: AtomicPtr<Call>,
    /// Since when, in milliseconds of [`now`].
    since: AtomicU64,
}

/// The states of all threads that have ever been in a plugin's code.
static STATES: Mutex<Vec<&'static ThreadState>> = Mutex::new(Vec::new());

thread_local! {
    // No destructor and no lazy start: it is read in a signal's handler.
    static STATE: Cell<Option<&'static ThreadState>> = const { Cell::new(None) };
}

static NOBODY: Caller = Caller { name: String::new(), members: String::new(), verdict: None };

/// Stands for what a thread does that is not the host's.
static STRANGE: Call =
    Call { caller: &NOBODY, during: String::new(), tensor: AtomicPtr::new(ptr::null_mut()), record: -1 };

/// The state of this thread. One that is first seen when it asks the host for something is not the host's.
fn state(first_seen: *const Call) -> &'static ThreadState {
    STATE.get().unwrap_or_else(|| {
        let at_rest = if first_seen.is_null() { (&raw const STRANGE).cast_mut() } else { ptr::null_mut() };
        let made: &'static ThreadState =
            Box::leak(Box::new(ThreadState { call: AtomicPtr::new(at_rest), since: AtomicU64::new(now()) }));
        STATES.lock().unwrap_or_else(PoisonError::into_inner).push(made);
        STATE.set(Some(made));
        made
    })
}

/// While it lives, the thread is in a plugin's code, or back in the host's.
struct Inside {
    state: &'static ThreadState,
    before: *mut Call,
    /// It belongs to its thread.
    unsendable: PhantomData<*const ()>,
}

impl Inside {
    fn of(call: *const Call) -> Self {
        let state = state(call);
        state.since.store(now(), Ordering::Release);
        let before = state.call.swap(call.cast_mut(), Ordering::AcqRel);
        Self { state, before, unsendable: PhantomData }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.state.since.store(now(), Ordering::Release);
        self.state.call.store(self.before, Ordering::Release);
    }
}

/// Answers a plugin: until this returns, the thread is in the host's own code.
pub(super) fn answer<T>(work: impl FnOnce(At) -> T) -> T {
    let inside = Inside::of(ptr::null());
    work(At(inside.before))
}

/// Answers a plugin that is in another process, and tells which tensor it was lent meanwhile.
pub(super) fn watching<T>(work: impl FnOnce() -> T) -> (T, Option<String>) {
    let at = Call { caller: &NOBODY, during: String::new(), tensor: AtomicPtr::new(ptr::null_mut()), record: -1 };
    let _inside = Inside::of(&raw const at);
    let outcome = work();
    (outcome, at.tensor().map(str::to_owned))
}

/// A name that lives as long as the process; equal ones are one.
pub(super) fn name_for_ever(name: String) -> &'static String {
    static NAMES: Mutex<BTreeSet<&'static String>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(&name) {
        return known;
    }
    let kept: &'static String = Box::leak(Box::new(name));
    names.insert(kept);
    kept
}

/// The call that a plugin asks something in; [`STRANGE`] if it asks on a thread of its own.
#[derive(Clone, Copy)]
pub(super) struct At(*mut Call);

// SAFETY: a call outlives the answers to what is asked in it, and all of its fields may be used by any thread.
unsafe impl Send for At {}
// SAFETY: as above.
unsafe impl Sync for At {}

impl At {
    /// Runs a part of the plugin's code, such as the body of a loop, on this thread.
    pub(super) fn resume<T>(self, work: impl FnOnce() -> T) -> T {
        let _inside = Inside::of(self.0);
        work()
    }

    /// Notes that rows of a tensor were lent. The name has to outlive the call.
    pub(super) fn lent(self, name: &String) {
        // SAFETY: a call outlives the answers to what is asked in it.
        if let Some(call) = unsafe { self.0.as_ref() } {
            call.tensor.store(ptr::from_ref(name).cast_mut(), Ordering::Release);
        }
    }
}

/// What a thread runs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// The host's own code.
    Host,
    /// The plugin's code that was called there.
    Call(&'static Call),
    /// The host has not called anything on this thread: it may be its own, or a plugin's.
    Unknown,
}

/// What this thread runs. May be called in a signal's handler.
pub(super) fn place() -> Place {
    // A thread that is being torn down has no state any more.
    let Some(state) = STATE.try_with(Cell::get).ok().flatten() else { return Place::Unknown };
    // SAFETY: the pointer is cleared before the call goes, by this very thread.
    match unsafe { state.call.load(Ordering::Acquire).as_ref() } {
        None => Place::Host,
        Some(call) if ptr::eq(call, &raw const STRANGE) => Place::Unknown,
        Some(call) => Place::Call(call),
    }
}

/// The call that this thread is in, in the plugin's own code.
pub(super) fn current() -> Option<&'static Call> {
    match place() {
        Place::Call(call) => Some(call),
        Place::Host | Place::Unknown => None,
    }
}

/// A call that some thread is in, into this plugin. May be called in a signal's handler: it waits for nothing.
pub(super) fn any_of(caller: &'static Caller) -> Option<&'static Call> {
    let states = STATES.try_lock().ok()?;
    let calls = states.iter().filter_map(|state| {
        // SAFETY: the call may end in this very moment, on its thread; the process ends in any case.
        unsafe { state.call.load(Ordering::Acquire).as_ref() }
    });
    calls.into_iter().find(|call| ptr::eq(call.caller, caller))
}

/// Gives `found` a call that has been in the plugin's own code, on one thread, for that long without a call to the host.
pub(super) fn look_for_hang(limit: Duration, found: impl FnOnce(&Call)) {
    let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    for state in &*STATES.lock().unwrap_or_else(PoisonError::into_inner) {
        let is_hanging = || {
            let call = state.call.load(Ordering::Acquire);
            let since = state.since.load(Ordering::Acquire);
            let is_known = !call.is_null() && !ptr::eq(call, &raw const STRANGE);
            (is_known && now().saturating_sub(since) > limit).then_some(call)
        };
        if let Some(call) = is_hanging().filter(|call| is_hanging() == Some(*call)) {
            // SAFETY: the thread is in this call, and was so for minutes; it could only end in this very moment.
            return found(unsafe { &*call });
        }
    }
}

/// Milliseconds of a clock that only goes forward.
fn now() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller() -> &'static Caller {
        Box::leak(Box::new(Caller { name: "`x` 1.0.0".into(), members: String::new(), verdict: None }))
    }

    #[test]
    fn a_thread_is_in_the_call_but_not_in_what_the_host_answers() {
        assert!(current().is_none());
        let tensor = "w".to_owned();
        caller().call("while it was tried", || {
            assert_eq!(current().unwrap().during, "while it was tried");
            answer(|at| {
                assert!(current().is_none());
                at.lent(&tensor);
                let body = std::thread::scope(|scope| {
                    scope.spawn(|| at.resume(|| current().unwrap().during.clone())).join().unwrap()
                });
                assert_eq!(body, "while it was tried");
            });
            assert_eq!(current().unwrap().tensor(), Some("w"));
        });
        assert!(current().is_none());
    }

    #[test]
    fn only_a_plugin_s_own_code_can_hang() {
        let seen = |limit| {
            let mut seen = None;
            look_for_hang(limit, |call| seen = Some(call.during.clone()));
            seen
        };
        caller().call("while it slept", || {
            std::thread::sleep(Duration::from_millis(30));
            assert_eq!(seen(Duration::from_millis(10)).as_deref(), Some("while it slept"));
            assert_eq!(seen(Duration::from_secs(60)), None);
            answer(|_| {
                std::thread::sleep(Duration::from_millis(30));
                assert_eq!(seen(Duration::from_millis(10)), None);
            });
        });
    }
}
