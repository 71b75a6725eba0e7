//! The host's side of the border: plain Rust traits put behind the frozen objects.
#![expect(unsafe_code, reason = "a plugin's loop body is a raw pointer that is handed to the host's threads")]

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use abi_stable::{
    sabi_trait::TD_Opaque,
    std_types::{RArc, ROption, RResult, RSlice, RSliceMut, RStr, RString, RVec},
};
use qhost_plugin_api::{
    abi::{
        Answer, DType, Failure, FailureKind, Files, Files_TO, FilesObject, Host, Host_TO, HostObject, Lease, LogLevel,
        Service, Service_TO, ServiceObject, Task, TensorView, TensorViewMut, Unit, Unit_TO, UnitObject,
    },
    documents::SourceFile,
    sdk::{COMPUTE, EXISTING, FormatService, PLANES, REPLAY, STATISTICS, STATISTICS_2, SURVEY, answer},
};
use rayon::{
    ThreadPool,
    iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator},
};

use super::calls;
use crate::{cancel::CancelFlag, stream::Ledger, text::shown};

/// The services that `query_interface` finds, on whatever object: plugins are told of them at the start.
pub(super) const NAMES: [&str; 7] = [COMPUTE, EXISTING, PLANES, STATISTICS, STATISTICS_2, REPLAY, SURVEY];

/// A set of named byte sources that a plugin may read.
pub trait FileSource: Send + Sync + 'static {
    /// The files.
    fn list(&self) -> Vec<SourceFile>;

    /// Fills `out` from `offset` of a file; gives the bytes read, fewer only at the end of the file.
    fn read(&self, name: &str, offset: u64, out: &mut [u8]) -> Result<u64, Failure>;
}

/// What one unit of work offers to a plugin.
pub trait UnitServices: Send + Sync + 'static {
    /// Lends rows of a source tensor.
    fn lend(&self, tensor: u32, first_row: u64, rows: u64) -> Result<Borrowed, Failure>;

    /// Takes rows back.
    fn take_back(&self, id: u64);

    /// The name of a source tensor, to tell what a plugin was at.
    fn name_of(&self, _tensor: u32) -> Option<&String> {
        None
    }

    /// Writes into a segment of this unit.
    fn write(&self, segment: u32, offset: u64, bytes: &[u8]) -> Result<(), Failure>;

    /// Notes a figure about a segment.
    fn metric(&self, segment: u32, key: &str, value: f64);

    /// Notes that more weights are done.
    fn progress(&self, weights: u64);

    /// Keeps bytes under a key, durable together with this unit.
    fn save(&self, key: &str, bytes: &[u8]) -> Result<(), Failure>;

    /// The bytes last kept under a key.
    fn load(&self, key: &str) -> Result<Option<Vec<u8>>, Failure>;

    /// A service of the unit, by its versioned name.
    fn service(&self, _name: &str) -> Option<Arc<dyn FormatService>> {
        None
    }
}

/// Rows lent out; the memory stays valid until they are taken back.
#[derive(Debug, Clone, Copy)]
pub struct Borrowed {
    /// Names the loan.
    pub id: u64,
    /// How an element is stored.
    pub dtype: DType,
    /// Rows lent.
    pub rows: u64,
    /// Elements in a row.
    pub row_elements: u64,
    /// The first byte.
    pub data: *const u8,
    /// Length in bytes.
    pub bytes: u64,
}

/// Services of the process for one plugin.
pub(super) struct ProcessServices {
    pub(super) plugin: String,
    pub(super) pool: Arc<ThreadPool>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) cancel: CancelFlag,
    pub(super) compute: Arc<dyn FormatService>,
}

pub(super) fn host_object(services: ProcessServices) -> HostObject {
    Host_TO::from_ptr(RArc::new(services), TD_Opaque)
}

impl Host for ProcessServices {
    fn log(&self, level: LogLevel, target: RStr<'_>, message: RStr<'_>) {
        let (plugin, target, message) = (self.plugin.as_str(), shown(&target), shown(&message));
        let target = &*target;
        calls::answer(|_| match level {
            LogLevel::ERROR => tracing::error!(target: "plugin", plugin, module = target, "{message}"),
            LogLevel::WARN => tracing::warn!(target: "plugin", plugin, module = target, "{message}"),
            LogLevel::INFO => tracing::info!(target: "plugin", plugin, module = target, "{message}"),
            LogLevel::DEBUG => tracing::debug!(target: "plugin", plugin, module = target, "{message}"),
            _ => tracing::trace!(target: "plugin", plugin, module = target, "{message}"),
        });
    }

    fn parallel_for(&self, count: u64, task: Task) -> RResult<(), Failure> {
        run_loop(&self.pool, count, task)
    }

    fn grant(&self, bytes: u64, purpose: RStr<'_>) -> RResult<u64, Failure> {
        let granted = calls::answer(|_| self.ledger.grant(bytes, &purpose));
        let refused = granted.map_err(|refused| {
            Failure::new(FailureKind::RESOURCES, refused.to_string()).hint("raise --max-memory, or use fewer --threads")
        });
        refused.into()
    }

    fn release_grant(&self, id: u64) {
        calls::answer(|_| self.ledger.release(id));
    }

    fn cancelled(&self) -> bool {
        // A sign of life as well.
        calls::answer(|_| self.cancel.is_cancelled())
    }

    fn query_interface(&self, name: RStr<'_>) -> ROption<ServiceObject> {
        let found = (name.as_str() == COMPUTE).then(|| Arc::clone(&self.compute));
        found.map(|service| Service_TO::from_ptr(RArc::new(ServiceBridge(service)), TD_Opaque)).into()
    }
}

/// Runs a loop on the threads of a pool.
pub(super) fn run_loop(pool: &ThreadPool, count: u64, task: Task) -> RResult<(), Failure> {
    let task = SharedTask(task);
    let Ok(count) = usize::try_from(count) else {
        return RResult::RErr(Failure::internal(format!("{count} loop iterations are too many for this machine")));
    };
    // Whoever is free takes the next iteration. So threads work side by side, on rows that are neighbours
    // in the source: it is read in order, and few of its pages are mapped at a time.
    let next = AtomicUsize::new(0);
    calls::answer(|at| {
        let run_each = |_| {
            let indices = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
            let indices = indices.take_while(|&index| index < count);
            indices.for_each(|index| at.resume(|| task.run(index as u64)));
        };
        let workers = pool.current_num_threads().min(count);
        pool.install(|| (0..workers).into_par_iter().with_max_len(1).for_each(run_each));
    });
    RResult::ROk(())
}

/// A loop body on its way to the threads of the pool.
struct SharedTask(Task);

// SAFETY: the contract of `Task` obliges the plugin to pass a context that may be used from several
// threads at once.
unsafe impl Send for SharedTask {}
// SAFETY: as above.
unsafe impl Sync for SharedTask {}

impl SharedTask {
    fn run(&self, index: u64) {
        // SAFETY: the pointer is the one that came with the function, and `parallel_for` is running.
        unsafe { (self.0.run)(self.0.context, index) };
    }
}

pub(super) fn files_object(files: Arc<dyn FileSource>) -> FilesObject {
    Files_TO::from_ptr(RArc::new(FilesBridge(files)), TD_Opaque)
}

struct FilesBridge(Arc<dyn FileSource>);

impl Files for FilesBridge {
    fn list(&self) -> RString {
        // A list of names and numbers is always JSON.
        calls::answer(|_| serde_json::to_string(&self.0.list()).unwrap_or_else(|_| "[]".to_owned()).into())
    }

    fn read(&self, name: RStr<'_>, offset: u64, mut out: RSliceMut<'_, u8>) -> RResult<u64, Failure> {
        calls::answer(|_| self.0.read(&name, offset, out.as_mut_slice()).into())
    }

    fn query_interface(&self, _name: RStr<'_>) -> ROption<ServiceObject> {
        ROption::RNone
    }
}

pub(super) fn unit_object(unit: Arc<dyn UnitServices>) -> UnitObject {
    Unit_TO::from_ptr(RArc::new(UnitBridge(unit)), TD_Opaque)
}

struct UnitBridge(Arc<dyn UnitServices>);

impl Unit for UnitBridge {
    fn lease(&self, tensor: u32, first_row: u64, rows: u64) -> RResult<Lease, Failure> {
        let borrowed = calls::answer(|at| {
            if let Some(name) = self.0.name_of(tensor) {
                at.lent(name);
            }
            self.0.lend(tensor, first_row, rows)
        });
        let lease = borrowed.map(|borrowed| Lease {
            id: borrowed.id,
            dtype: borrowed.dtype,
            rows: borrowed.rows,
            row_elements: borrowed.row_elements,
            data: borrowed.data,
            bytes: borrowed.bytes,
        });
        lease.into()
    }

    fn release(&self, lease: u64) {
        calls::answer(|_| self.0.take_back(lease));
    }

    fn write(&self, segment: u32, offset: u64, bytes: RSlice<'_, u8>) -> RResult<(), Failure> {
        calls::answer(|_| self.0.write(segment, offset, bytes.as_slice()).into())
    }

    fn metric(&self, segment: u32, key: RStr<'_>, value: f64) {
        calls::answer(|_| self.0.metric(segment, &key, value));
    }

    fn progress(&self, weights: u64) {
        calls::answer(|_| self.0.progress(weights));
    }

    fn save(&self, key: RStr<'_>, bytes: RSlice<'_, u8>) -> RResult<(), Failure> {
        calls::answer(|_| self.0.save(&key, bytes.as_slice()).into())
    }

    fn load(&self, key: RStr<'_>) -> RResult<ROption<RVec<u8>>, Failure> {
        calls::answer(|_| self.0.load(&key).map(|found| found.map(RVec::from).into()).into())
    }

    fn query_interface(&self, name: RStr<'_>) -> ROption<ServiceObject> {
        let service = calls::answer(|_| self.0.service(&name));
        service.map(|service| Service_TO::from_ptr(RArc::new(ServiceBridge(service)), TD_Opaque)).into()
    }
}

/// A service in plain Rust behind the border's object.
struct ServiceBridge(Arc<dyn FormatService>);

impl Service for ServiceBridge {
    fn call(
        &self,
        method: RStr<'_>,
        request: RStr<'_>,
        inputs: RSlice<'_, TensorView<'_>>,
        mut outputs: RSliceMut<'_, TensorViewMut<'_>>,
    ) -> RResult<Answer, Failure> {
        calls::answer(|_| answer(&*self.0, &method, &request, inputs, outputs.as_mut_slice()).into())
    }
}
