//! The two traits that a plugin author implements.

use std::{borrow::Cow, convert::Infallible, sync::Arc};

use super::{FilesHandle, FormatService, HostHandle, Result, UnitHandle};
use crate::documents::{Description, Findings, OpenRequest, Plan};

/// A plugin: one or more formats.
pub trait Format: Send + Sync + Sized + 'static {
    /// What [`Format::open`] makes.
    type Job: FormatJob;

    /// Starts the plugin.
    ///
    /// # Errors
    /// Fails when the plugin cannot work on this host.
    fn connect(host: HostHandle) -> Result<Self>;

    /// What the formats can do.
    fn describe(&self) -> Description;

    /// Plans a job without reading a weight; refuses whatever can be refused.
    ///
    /// # Errors
    /// Fails when the request cannot be fulfilled: kind `UNSUPPORTED`, `USAGE` or `CORRUPT`.
    fn open(&self, request: OpenRequest, companions: FilesHandle) -> Result<Self::Job>;

    /// Finds a service of the plugin by its versioned name.
    fn service(&self, _name: &str) -> Option<Arc<dyn FormatService>> {
        None
    }
}

/// A planned job.
pub trait FormatJob: Send + Sync + 'static {
    /// The plan: the same at every call.
    fn plan(&self) -> &Plan;

    /// The bytes of a constant segment.
    ///
    /// # Errors
    /// Fails for a segment that is not constant.
    fn constant(&self, segment: u32) -> Result<Cow<'_, [u8]>>;

    /// Makes every segment of a unit.
    ///
    /// # Errors
    /// Fails when the source is damaged, a grant is refused or the run is cancelled.
    fn run_unit(&self, unit: u32, io: &UnitHandle) -> Result<()>;

    /// Re-reads the finished files as a loader would.
    ///
    /// # Errors
    /// Fails when the files cannot be read; what is wrong with them is a finding, not an error.
    fn check(&self, files: &FilesHandle) -> Result<Findings>;

    /// Finds a service of the job by its versioned name.
    fn service(&self, _name: &str) -> Option<Arc<dyn FormatService>> {
        None
    }
}

/// The job of a format that refuses every request: there is none.
#[derive(Debug, Clone, Copy)]
pub struct NoJob(Infallible);

impl FormatJob for NoJob {
    fn plan(&self) -> &Plan {
        match self.0 {}
    }

    fn constant(&self, _: u32) -> Result<Cow<'_, [u8]>> {
        match self.0 {}
    }

    fn run_unit(&self, _: u32, _: &UnitHandle) -> Result<()> {
        match self.0 {}
    }

    fn check(&self, _: &FilesHandle) -> Result<Findings> {
        match self.0 {}
    }
}
