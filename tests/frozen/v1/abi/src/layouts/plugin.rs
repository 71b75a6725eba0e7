//! What a plugin offers to the host: itself ([`Plugin`]) and one planned piece of work ([`Job`]).
//!
//! Nothing here knows a model family or a file system. The JSON texts are the documents of
//! `qhost-plugin-api`.

use abi_stable::{
    sabi_trait,
    std_types::{RArc, ROption, RResult, RStr, RString, RVec},
};

use super::{Failure, FilesObject, ServiceObject, UnitObject};

/// A loaded plugin, connected to its host.
#[sabi_trait]
pub trait Plugin: Send + Sync + 'static {
    /// What the plugin's formats can do, as a `Description`.
    fn describe(&self) -> RResult<RString, Failure>;

    /// Plans a job without reading a weight: `request` is an `OpenRequest`,
    /// `companions` are the model's small files (tokenizer, chat template, …).
    ///
    /// Whatever can be refused is refused here.
    fn open(&self, request: RStr<'_>, companions: FilesObject) -> RResult<JobObject, Failure>;

    /// Finds a service of the plugin by its versioned name (`reader/1`, say).
    #[sabi(last_prefix_field)]
    fn query_interface(&self, name: RStr<'_>) -> ROption<ServiceObject>;
}

/// A shared, owned [`Plugin`].
pub type PluginObject = Plugin_TO<RArc<()>>;

/// A planned job.
#[sabi_trait]
pub trait Job: Send + Sync + 'static {
    /// The `Plan`: the same text at every call, and for every run with
    /// the same request.
    fn plan(&self) -> RResult<RString, Failure>;

    /// The bytes of a constant segment of the plan, such as a file header.
    fn constant(&self, segment: u32) -> RResult<RVec<u8>, Failure>;

    /// Makes every segment of `unit`. The host calls it from one thread at a time, in the plan's
    /// order, and skips units that a checkpoint already holds.
    fn run_unit(&self, unit: u32, io: UnitObject) -> RResult<(), Failure>;

    /// Re-reads the finished files as a loader would, and gives `Findings`.
    fn check(&self, files: FilesObject) -> RResult<RString, Failure>;

    /// Finds a service of the job by its versioned name.
    #[sabi(last_prefix_field)]
    fn query_interface(&self, name: RStr<'_>) -> ROption<ServiceObject>;
}

/// A shared, owned [`Job`].
pub type JobObject = Job_TO<RArc<()>>;
