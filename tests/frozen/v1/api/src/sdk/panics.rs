//! Turning a panic inside the plugin into a [`Failure`].
//!
//! A panic that reached the border would end the process, so every entry and every loop body runs
//! through [`contain`]. The hook is the plugin's own: it is installed in the plugin's copy of the
//! standard library and does not touch the host's.
#![expect(unsafe_code, reason = "a value is dropped by hand, where its panic can be caught")]

use std::{
    cell::RefCell,
    mem::ManuallyDrop,
    ops::Deref,
    panic::{self, AssertUnwindSafe},
};

use super::{Failure, FailureKind, HostHandle, Result};
use crate::abi::LogLevel;

thread_local! {
    /// Message and location of the panic that is unwinding on this thread.
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Replaces the hook that prints to stderr by one that remembers the message for [`contain`].
pub(super) fn install_hook() {
    panic::set_hook(Box::new(|info| {
        let message = payload_text(info.payload());
        let place = info.location().map_or_else(String::new, |place| format!(" at {place}"));
        LAST.with_borrow_mut(|last| *last = Some(format!("{message}{place}")));
    }));
}

/// Runs `body`; a panic becomes a failure of kind `PLUGIN`.
pub(super) fn contain<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    panic::catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        let message = LAST.with_borrow_mut(Option::take).unwrap_or_else(|| payload_text(payload.as_ref()));
        // Dropping a payload may itself panic; leaking it once is the lesser evil.
        std::mem::forget(payload);
        Err(Failure::new(FailureKind::PLUGIN, format!("the plugin panicked: {message}")))
    })
}

/// A value of the plugin's, dropped under containment: objects are dropped by the host.
pub(super) struct Contained<T> {
    value: ManuallyDrop<T>,
    host: HostHandle,
}

impl<T> Contained<T> {
    pub(super) fn new(value: T, host: HostHandle) -> Self {
        Self { value: ManuallyDrop::new(value), host }
    }
}

impl<T> Deref for Contained<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Drop for Contained<T> {
    fn drop(&mut self) {
        // SAFETY: taken once, here, and not used after.
        let value = unsafe { ManuallyDrop::take(&mut self.value) };
        let dropped = contain(|| {
            drop(value);
            Ok(())
        });
        if let Err(failure) = dropped {
            self.host.log(LogLevel::ERROR, module_path!(), &format!("{failure} while something was dropped"));
        }
    }
}

fn payload_text(payload: &(dyn std::any::Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
