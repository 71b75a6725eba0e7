//! The end of a process whose plugin has crashed, exited or hung: who did it is told to the user and written down.
//!
//! All of it may be called in a signal's handler, so nothing here takes memory or a lock. What is kept of a run is in its
//! journal already, for every unit is made durable before the next but one begins.
#![expect(unsafe_code, reason = "in a signal's handler only the system's own calls are allowed")]

use std::{
    mem::MaybeUninit,
    ptr,
    sync::atomic::{AtomicBool, Ordering},
};

use super::{
    calls::{self, Call, Place, VERDICT_AT},
    code,
};
use crate::exit_code::ExitCode;

static AS_JSON: AtomicBool = AtomicBool::new(false);

/// The actions that the process had before, for crashes that are not a plugin's.
static mut BEFORE: [MaybeUninit<libc::sigaction>; SIGNALS.len()] = [const { MaybeUninit::uninit() }; SIGNALS.len()];

const SIGNALS: [libc::c_int; 4] = [libc::SIGSEGV, libc::SIGILL, libc::SIGFPE, libc::SIGABRT];

const HINT: &str = "finished work is kept, and this build of the plugin is not loaded again: install a fixed one and run \
                    the same command once more, or see `qhost plugins list`";

/// From now on a crash in a plugin's code ends the process with its name and the exit code for plugins.
pub(super) fn watch(as_json: bool) {
    AS_JSON.store(as_json, Ordering::Relaxed);
    for (index, signal) in SIGNALS.into_iter().enumerate() {
        // SAFETY: all bytes zero are a valid `sigaction`, and the fields that matter are set.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_signal;
        action.sa_sigaction = handler as *const () as libc::sighandler_t;
        // The standard library gives every thread a stack of its own for signals.
        action.sa_flags = libc::SA_ONSTACK | libc::SA_SIGINFO;
        // SAFETY: the handler calls nothing that may not be called there, and no other thread sets actions now.
        let set = unsafe {
            let before = &raw mut BEFORE;
            libc::sigaction(signal, &raw const action, (*before)[index].as_mut_ptr())
        };
        if set != 0 {
            tracing::debug!("signal {signal} will end the process without a message");
        }
    }
    // SAFETY: the function lives for ever and does not unwind.
    unsafe { libc::atexit(on_exit) };
}

/// The plugin's call that this thread is at. On a thread that is not the host's, the place that it is at and the top of its
/// stack tell whose it is; what that plugin is called for meanwhile is what it is at.
fn culprit(place: Option<usize>, stack: Option<usize>) -> Option<&'static Call> {
    match calls::place() {
        Place::Host => None,
        Place::Call(call) => Some(call),
        Place::Unknown => {
            let found = place.and_then(code::of_address).or_else(|| stack.and_then(code::of_stack))?;
            Some(calls::any_of(found.caller).unwrap_or(found))
        }
    }
}

extern "C" fn on_signal(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the system gives a valid pointer.
    let sent_by_others = unsafe { (*info).si_code == libc::SI_USER };
    let (place, stack) = code::registers(context).unzip();
    if let Some(call) = culprit(place, stack).filter(|_| !sent_by_others) {
        end(call, &[b"crashed (", cause(signal), b")"]);
    }
    // Not a plugin's: what would have happened anyway happens when the instruction is run again.
    let index = SIGNALS.iter().position(|known| *known == signal).unwrap_or(0);
    // SAFETY: the action was filled in before this handler was set.
    unsafe {
        let before = &raw const BEFORE;
        libc::sigaction(signal, (*before)[index].as_ptr(), ptr::null_mut());
        if sent_by_others {
            libc::raise(signal);
        }
    }
}

fn cause(signal: libc::c_int) -> &'static [u8] {
    match signal {
        libc::SIGSEGV => b"invalid memory access, or its stack ran out",
        libc::SIGILL => b"illegal instruction",
        libc::SIGFPE => b"arithmetic fault",
        _ => b"abort, as after a failed allocation or a panic that could not be caught",
    }
}

/// A plugin that ends the process itself.
extern "C" fn on_exit() {
    let top = 0_u8;
    if let Some(call) = culprit(None, Some(ptr::from_ref(&top).addr())) {
        end(call, &[b"ended the process"]);
    }
}

/// Tells of a plugin that does not come back, and ends the process.
pub(super) fn end_of_hang(call: &Call, limit: &str) -> ! {
    end(call, &[b"did nothing that could be seen for ", limit.as_bytes(), b" (QHOST_PLUGIN_TIMEOUT)"])
}

static mut TEXT: Text = Text::new();
static mut SENTENCE: Text = Text::new();

/// Writes the verdict where it is looked for, tells the user, and ends the process.
fn end(call: &Call, how: &[&[u8]]) -> ! {
    static ENDING: AtomicBool = AtomicBool::new(false);
    if ENDING.swap(true, Ordering::SeqCst) {
        // Another thread tells it already.
        loop {
            // SAFETY: it only waits.
            unsafe { libc::pause() };
        }
    }
    // SAFETY: only one thread ever comes here. A signal's stack has no room for these.
    let (text, sentence) = unsafe {
        let (text, sentence) = (&raw mut TEXT, &raw mut SENTENCE);
        (&mut *text, &mut *sentence)
    };
    write_verdict(text, call, how);
    let record = call.record;
    // SAFETY: the pointers are those of texts that are there until the end of the process, with their ends.
    unsafe {
        if record >= 0 {
            let at = libc::off_t::try_from(VERDICT_AT).unwrap_or_default();
            libc::pwrite(record, text.as_ptr(), text.len(), at);
            libc::fsync(record);
        }
        if let Some(place) = &call.caller.verdict {
            for folder in &place.folders {
                libc::mkdir(folder.as_ptr(), 0o755);
            }
            let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC;
            let file = libc::open(place.file.as_ptr(), flags, 0o644);
            if file >= 0 {
                libc::write(file, text.as_ptr(), text.len());
                libc::fsync(file);
            }
        }
    }
    text.length = 0;
    tell((text, sentence), call, how);
    // SAFETY: nothing has to be done before.
    unsafe { libc::_exit(ExitCode::Plugin as libc::c_int) }
}

fn write_verdict(text: &mut Text, call: &Call, how: &[&[u8]]) {
    text.add(&[b"{", call.caller.members.as_bytes(), b",\"how\":\""]);
    text.quoted(how);
    text.add(&[b"\",\"during\":\""]);
    text.quoted(&[call.during.as_bytes()]);
    if let Some(tensor) = call.tensor() {
        text.add(&[b"\",\"tensor\":\""]);
        text.quoted(&[tensor.as_bytes()]);
    }
    text.add(&[b"\"}\n"]);
}

fn tell((text, sentence): (&mut Text, &mut Text), call: &Call, how: &[&[u8]]) {
    sentence.quoted(&[b"the plugin ", call.caller.name.as_bytes(), b" "]);
    sentence.quoted(how);
    sentence.quoted(&[b" ", call.during.as_bytes()]);
    if let Some(tensor) = call.tensor() {
        sentence.quoted(&[b", at ", tensor.as_bytes()]);
    }
    let to = if AS_JSON.load(Ordering::Relaxed) {
        text.add(&[
            b"{\n  \"code\": 7,\n  \"details\": null,\n  \"hint\": \"",
            HINT.as_bytes(),
            b"\",\n  \"message\": \"",
        ]);
        text.add(&[sentence.bytes(), b"\",\n  \"schema\": \"qhost.error/1\",\n  \"status\": \"error\"\n}\n"]);
        libc::STDOUT_FILENO
    } else {
        text.add(&[b"\nerror: ", sentence.bytes(), b"\nhint: ", HINT.as_bytes(), b"\n"]);
        libc::STDERR_FILENO
    };
    // SAFETY: the pointer and the length are those of the text. Whether it arrives does not matter: the code tells.
    unsafe { libc::write(to, text.as_ptr(), text.len()) };
}

/// A text of some length that takes no memory while it is made; what is too long is left out.
struct Text {
    bytes: [u8; 4096],
    length: usize,
}

impl Text {
    const fn new() -> Self {
        Self { bytes: [0; 4096], length: 0 }
    }

    fn add(&mut self, parts: &[&[u8]]) {
        parts.iter().flat_map(|part| part.iter()).for_each(|byte| self.push(*byte));
    }

    /// Parts of a JSON string: what would have to be escaped is not worth it.
    fn quoted(&mut self, parts: &[&[u8]]) {
        for byte in parts.iter().flat_map(|part| part.iter()) {
            let plain = *byte >= b' ' && *byte != 0x7f && *byte != b'"' && *byte != b'\\';
            self.push(if plain { *byte } else { b'?' });
        }
    }

    fn push(&mut self, byte: u8) {
        let length = self.length;
        if let Some(place) = self.bytes.get_mut(length) {
            *place = byte;
            self.length += 1;
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len()]
    }

    fn len(&self) -> usize {
        self.length
    }

    fn as_ptr(&self) -> *const libc::c_void {
        self.bytes.as_ptr().cast()
    }
}
