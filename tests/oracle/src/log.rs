//! llama.cpp's log: silent, but kept for the error of the call that failed.
#![expect(unsafe_code, reason = "the log comes through a C callback")]

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_void};
use std::sync::Once;

use llama_cpp_sys_2 as sys;

use crate::{Error, Result};

/// Pieces of log to keep for one call.
const LIMIT: usize = 10_000;

thread_local! {
    /// The lines of the current call. Tests run side by side, so each thread has its own; what
    /// llama.cpp's worker threads say is lost with them, and they say nothing that matters.
    static LOG: RefCell<Vec<(sys::ggml_log_level, String)>> = const { RefCell::new(Vec::new()) };
}

/// Makes a call with an empty log; `None` from it becomes an error with what was logged.
pub(crate) fn recorded<T>(what: impl Into<String>, call: impl FnOnce() -> Option<T>) -> Result<T> {
    static START: Once = Once::new();
    START.call_once(|| {
        // SAFETY: the callback matches the type and lives for ever; it takes no user data.
        unsafe { sys::llama_log_set(Some(keep), std::ptr::null_mut()) };
        // SAFETY: takes no arguments, and `Once` lets it run before any other call of llama.cpp.
        unsafe { sys::llama_backend_init() };
    });
    LOG.with_borrow_mut(Vec::clear);
    call().ok_or_else(|| Error::Llama { what: what.into(), log: summary() })
}

/// Warnings and errors, or the last lines if there are none.
fn summary() -> String {
    LOG.with_borrow(|lines| {
        let serious: String =
            lines.iter().filter(|line| line.0 >= sys::GGML_LOG_LEVEL_WARN).map(|line| &*line.1).collect();
        if serious.trim().is_empty() {
            lines.iter().skip(lines.len().saturating_sub(10)).map(|line| &*line.1).collect::<String>().trim().to_owned()
        } else {
            serious.trim().to_owned()
        }
    })
}

unsafe extern "C" fn keep(level: sys::ggml_log_level, text: *const c_char, _: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp passes a string that ends in NUL and lives for the call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    // A thread that is ending has no log any more, and that is fine.
    let _ = LOG.try_with(|lines| {
        let Ok(mut lines) = lines.try_borrow_mut() else { return };
        // A continuation has the level of the line that it continues.
        let level = match lines.last() {
            Some(&(last, _)) if level == sys::GGML_LOG_LEVEL_CONT => last,
            _ => level,
        };
        if lines.len() < LIMIT {
            lines.push((level, text.into_owned()));
        }
    });
}
