//! The host as a plugin sees it: parallel loops, memory grants, cancellation, log, services.
#![expect(unsafe_code, reason = "the loop body crosses the border as a function and a pointer to its closure")]

use std::{
    fmt,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{Failure, Result, ServiceHandle, panics::contain};
use crate::{
    abi::{HostObject, LogLevel, Task},
    documents::HostFacts,
};

/// A shared handle of the host's services.
#[derive(Clone)]
pub struct HostHandle {
    object: Arc<HostObject>,
    facts: Arc<HostFacts>,
}

impl fmt::Debug for HostHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostHandle")
    }
}

impl HostHandle {
    /// Wraps the border's object. Tests get a handle from [`TestHost`](super::testing::TestHost).
    ///
    /// # Safety
    /// `object` keeps the contract of [`Host::parallel_for`](crate::abi::Host::parallel_for): it calls
    /// the task with its own context only, and never once it has returned.
    #[must_use]
    pub unsafe fn new(object: HostObject, facts: HostFacts) -> Self {
        Self { object: Arc::new(object), facts: Arc::new(facts) }
    }

    /// What the host says of itself: its version, the API that it speaks, the services that it has.
    #[must_use]
    pub fn facts(&self) -> &HostFacts {
        &self.facts
    }

    /// Logs a message. Plugins usually use the `tracing` or `log` macros instead.
    pub fn log(&self, level: LogLevel, target: &str, message: &str) {
        self.object.log(level, target.into(), message.into());
    }

    /// Whether the user asked to stop.
    #[must_use]
    pub fn cancelled(&self) -> bool {
        self.object.cancelled()
    }

    /// Finds a service of the process by its versioned name.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<ServiceHandle> {
        ServiceHandle::found(self.object.query_interface(name.into()))
    }

    /// Asks for working memory; it is given back when the grant is dropped.
    ///
    /// # Errors
    /// Fails with kind `RESOURCES` when the run's ceiling would be passed.
    pub fn grant(&self, bytes: u64, purpose: &str) -> Result<Grant> {
        let id = self.object.grant(bytes, purpose.into()).into_result()?;
        Ok(Grant { host: self.clone(), id })
    }

    /// Runs `body` for every index in `0..count` on the host's threads.
    ///
    /// After a failure, a panic or a cancellation no further index is started. Loops may nest. A thread
    /// that waits for a nested loop runs other iterations meanwhile, of any loop: hold no lock and
    /// no borrowed thread-local around this call.
    ///
    /// # Errors
    /// Gives the failure of the lowest index that failed, or the host's if it could not run them all.
    pub fn parallel(&self, count: u64, body: impl Fn(u64) -> Result<()> + Sync) -> Result<()> {
        let state = Loop { host: self, body: &body, stop: AtomicBool::new(false), failure: Mutex::new(None) };
        // `state` is borrowed by the tasks only until `parallel_for` returns: it waits for all of them.
        let ran = self.object.parallel_for(count, state.task()).into_result();
        match state.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some((_, failure)) => Err(failure),
            None => ran,
        }
    }

    /// Runs `body` for every index in `0..count` on the host's threads and gives the results in order.
    ///
    /// # Errors
    /// As [`HostHandle::parallel`].
    pub fn parallel_map<T: Send + Sync>(
        &self,
        count: usize,
        body: impl Fn(usize) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let slots: Vec<OnceLock<T>> = std::iter::repeat_with(OnceLock::new).take(count).collect();
        self.parallel(count as u64, |index| {
            #[expect(clippy::cast_possible_truncation, reason = "below `count`, which is a usize")]
            let index = index as usize;
            let value = body(index)?;
            // Each index runs once, so the slot is empty.
            let _ = slots[index].set(value);
            Ok(())
        })?;
        let results: Vec<T> = slots.into_iter().filter_map(OnceLock::into_inner).collect();
        if results.len() == count {
            Ok(results)
        } else {
            Err(Failure::internal(format!("the host ran {} of {count} loop iterations", results.len())))
        }
    }
}

/// Working memory granted by the host's ledger, until dropped.
#[derive(Debug)]
pub struct Grant {
    host: HostHandle,
    id: u64,
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.host.object.release_grant(self.id);
    }
}

/// One parallel loop, borrowed by all of its tasks.
struct Loop<'a, F> {
    host: &'a HostHandle,
    body: &'a F,
    stop: AtomicBool,
    failure: Mutex<Option<(u64, Failure)>>,
}

impl<F: Fn(u64) -> Result<()> + Sync> Loop<'_, F> {
    fn task(&self) -> Task {
        Task { context: std::ptr::from_ref(self).cast(), run: Self::run }
    }

    unsafe extern "C" fn run(context: *const (), index: u64) {
        // SAFETY: `context` is the pointer that `task` made from a `Loop` of this very type, which
        // outlives the loop because `parallel` waits for it; the host shares it between threads only
        // immutably, and every field is `Sync`.
        let this = unsafe { &*context.cast::<Self>() };
        this.step(index);
    }

    fn step(&self, index: u64) {
        if self.stop.load(Ordering::Relaxed) {
            return;
        }
        let outcome = if self.host.cancelled() { Err(Failure::cancelled()) } else { contain(|| (self.body)(index)) };
        if let Err(failure) = outcome {
            self.stop.store(true, Ordering::Relaxed);
            let mut first = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            if first.as_ref().is_none_or(|(earlier, _)| index < *earlier) {
                *first = Some((index, failure));
            }
        }
    }
}
