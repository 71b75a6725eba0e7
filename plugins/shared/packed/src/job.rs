//! What a plugin of such a format was asked for.

use std::{borrow::Cow, sync::Arc};

use qhost_plugin_api::{
    documents::{Findings, OpenRequest, Plan},
    sdk::{FilesHandle, FormatJob, FormatService, Result, UnitHandle},
};

use crate::{Comparison, Decoding, Packing};

/// One of the jobs of a format: making a folder, or reading one that exists.
pub struct Job(Box<dyn FormatJob>);

impl Job {
    /// A job that makes a folder.
    #[must_use]
    pub fn make(job: impl FormatJob + 'static) -> Self {
        Self(Box::new(job))
    }

    /// The job about a folder that exists, if the request is for one: giving its weights, or holding them against the
    /// source's.
    ///
    /// # Errors
    /// Fails when the folder cannot be read, or does not fit the model.
    pub fn existing<P: Packing>(request: &OpenRequest) -> Result<Option<Self>> {
        let job: Box<dyn FormatJob> = match &request.existing {
            None => return Ok(None),
            Some(existing) if request.decode => Box::new(Decoding::<P>::open(&request.model, existing)?),
            Some(existing) => Box::new(Comparison::<P>::open(&request.model, existing)?),
        };
        Ok(Some(Self(job)))
    }
}

impl FormatJob for Job {
    fn plan(&self) -> &Plan {
        self.0.plan()
    }

    fn constant(&self, segment: u32) -> Result<Cow<'_, [u8]>> {
        self.0.constant(segment)
    }

    fn run_unit(&self, unit: u32, io: &UnitHandle) -> Result<()> {
        self.0.run_unit(unit, io)
    }

    fn check(&self, files: &FilesHandle) -> Result<Findings> {
        self.0.check(files)
    }

    fn service(&self, name: &str) -> Option<Arc<dyn FormatService>> {
        self.0.service(name)
    }
}
