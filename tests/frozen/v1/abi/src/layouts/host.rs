//! What the host offers to a plugin: the process ([`Host`]), one unit of work ([`Unit`]) and named
//! byte sources ([`Files`]).
//!
//! Nothing here knows a format. A plugin opens no file, starts no thread and prints nothing: these
//! three objects are all it has.

use abi_stable::{
    StableAbi, sabi_trait,
    std_types::{RArc, ROption, RResult, RSlice, RSliceMut, RStr, RString, RVec},
};

use super::{Failure, Lease, ServiceObject};

/// How important a log message is; a smaller number is more important.
#[repr(transparent)]
#[derive(StableAbi, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogLevel(pub u32);

/// A loop body for [`Host::parallel_for`]: a function and the pointer that it gets back at every call.
#[repr(C)]
#[derive(StableAbi, Debug, Clone, Copy)]
pub struct Task {
    /// Passed through to `run`; what it points to must be shareable between threads.
    pub context: *const (),
    /// Called with `context` and the index of the iteration. Must not unwind.
    ///
    /// # Safety
    /// `context` is the one beside it, and the call lies within [`Host::parallel_for`].
    pub run: unsafe extern "C" fn(context: *const (), index: u64),
}

/// Services of the process, the same for all of a plugin's jobs.
#[sabi_trait]
pub trait Host: Send + Sync + 'static {
    /// Logs one message under the plugin's name.
    fn log(&self, level: LogLevel, target: RStr<'_>, message: RStr<'_>);

    /// Runs `task` once for every index in `0..count` on the host's threads and returns when all are
    /// done, also when it fails: no call of `task` is under way or follows after that.
    ///
    /// The order is not defined. Calls may nest; a thread that waits may run iterations of other
    /// loops. Fails when the host could not run every iteration.
    fn parallel_for(&self, count: u64, task: Task) -> RResult<(), Failure>;

    /// Asks for `bytes` of working memory before they are allocated; the answer is the grant's id.
    ///
    /// Fails with kind `RESOURCES` when the ceiling of the run would be passed.
    fn grant(&self, bytes: u64, purpose: RStr<'_>) -> RResult<u64, Failure>;

    /// Gives a grant back.
    fn release_grant(&self, id: u64);

    /// Whether the user asked to stop. A job that sees `true` returns kind `CANCELLED` soon.
    fn cancelled(&self) -> bool;

    /// Finds a service of the process by its versioned name.
    #[sabi(last_prefix_field)]
    fn query_interface(&self, name: RStr<'_>) -> ROption<ServiceObject>;
}

/// A shared, owned [`Host`].
pub type HostObject = Host_TO<RArc<()>>;

/// A set of named, read-only byte sources: the model's companion files, or the files of an output.
#[sabi_trait]
pub trait Files: Send + Sync + 'static {
    /// The names and lengths, as JSON: `[{"name": "tokenizer.json", "bytes": 123}, …]`.
    fn list(&self) -> RString;

    /// Fills `out` from `offset` of the file `name` and gives the number of bytes read, which is less
    /// than asked for only at the end of the file.
    fn read(&self, name: RStr<'_>, offset: u64, out: RSliceMut<'_, u8>) -> RResult<u64, Failure>;

    /// Finds a service of these files by its versioned name.
    #[sabi(last_prefix_field)]
    fn query_interface(&self, name: RStr<'_>) -> ROption<ServiceObject>;
}

/// A shared, owned [`Files`].
pub type FilesObject = Files_TO<RArc<()>>;

/// One unit of work (a decoder layer, say) while [`Job::run_unit`](crate::Job::run_unit) runs.
///
/// Every call after that function has returned fails.
#[sabi_trait]
pub trait Unit: Send + Sync + 'static {
    /// Lends `rows` rows of the source tensor `tensor`, from `first_row` on.
    fn lease(&self, tensor: u32, first_row: u64, rows: u64) -> RResult<Lease, Failure>;

    /// Gives a lease back; the host may drop the pages behind it.
    fn release(&self, lease: u64);

    /// Writes `bytes` at `offset` within the planned segment `segment`, which must belong to this unit.
    ///
    /// Any thread may write, in any order; every byte of a segment is to be written exactly once.
    fn write(&self, segment: u32, offset: u64, bytes: RSlice<'_, u8>) -> RResult<(), Failure>;

    /// Records a figure about a segment (such as its relative error) for the report.
    fn metric(&self, segment: u32, key: RStr<'_>, value: f64);

    /// Tells that `weights` more weights are done.
    fn progress(&self, weights: u64);

    /// Keeps `bytes` under `key`; they become durable together with this unit.
    fn save(&self, key: RStr<'_>, bytes: RSlice<'_, u8>) -> RResult<(), Failure>;

    /// The bytes last kept under `key` by a finished unit of this run, also before a restart.
    fn load(&self, key: RStr<'_>) -> RResult<ROption<RVec<u8>>, Failure>;

    /// Finds a service of this unit by its versioned name (`statistics/1`, say).
    #[sabi(last_prefix_field)]
    fn query_interface(&self, name: RStr<'_>) -> ROption<ServiceObject>;
}

/// A shared, owned [`Unit`].
pub type UnitObject = Unit_TO<RArc<()>>;
