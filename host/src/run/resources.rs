//! What the runs of a command work with: threads, the ledger of memory, arithmetic.

use std::sync::Arc;

use qhost_compute::DeviceChoice;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::{Error, arithmetic::Arithmetic};
use crate::{cancel::CancelFlag, plugin::ConnectSettings, stream::Ledger};

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
    /// Whether plugins run in processes of their own.
    pub isolate: bool,
    /// What models are run on.
    pub device: DeviceChoice,
}

/// Starts the threads and the ledger that plugins are connected to.
///
/// # Errors
/// Fails when the system cannot start the threads.
pub fn connect(resources: &Resources) -> Result<ConnectSettings, Error> {
    let pool = Arc::new(start_threads(resources.threads)?);
    let ledger = Arc::new(Ledger::new(resources.max_memory));
    let compute = Arc::new(Arithmetic::new(Arc::clone(&pool), Arc::clone(&ledger)));
    Ok(ConnectSettings {
        pool,
        ledger,
        compute,
        cancel: resources.cancel.clone(),
        log_level: resources.log_level,
        device: resources.device,
        isolate: resources.isolate,
    })
}

fn start_threads(threads: usize) -> Result<ThreadPool, Error> {
    let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|index| format!("worker-{index}"));
    pool.build().map_err(|error| Error::Threads { threads, reason: error.to_string() })
}
