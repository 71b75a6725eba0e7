//! The plugin of such a format: its description, its jobs and its reader, behind the objects that a host calls.
//!
//! What is the format's own is its [`Maker`], which makes folders, and that one's [`Packing`], by which they are read.

use std::{marker::PhantomData, sync::Arc};

use qhost_plugin_api::{
    documents::{Description, FormatDescription, OpenRequest},
    sdk::{
        FilesHandle, Format, FormatJob, FormatService, HostHandle, READER, Result, VERIFY, reader_service,
        verify_service,
    },
};

use crate::{Packing, Reader, job::Job};

/// A job that makes a folder of a format.
pub trait Maker: FormatJob + Sized + 'static {
    /// How folders of the format are read.
    type Packing: Packing;

    /// What the format can do.
    fn description() -> FormatDescription;

    /// Plans a folder.
    ///
    /// # Errors
    /// Fails when what is asked for cannot be made.
    fn open(request: &OpenRequest, companions: &FilesHandle, host: HostHandle) -> Result<Self>;
}

/// The plugin of a format.
pub struct Plugin<M> {
    host: HostHandle,
    maker: PhantomData<fn() -> M>,
}

impl<M: Maker> Format for Plugin<M> {
    type Job = Job;

    fn connect(host: HostHandle) -> Result<Self> {
        Ok(Self { host, maker: PhantomData })
    }

    fn describe(&self) -> Description {
        Description::new(vec![M::description()])
    }

    fn open(&self, request: OpenRequest, companions: FilesHandle) -> Result<Job> {
        if let Some(job) = Job::existing::<M::Packing>(&request)? {
            return Ok(job);
        }
        Ok(Job::make(M::open(&request, &companions, self.host.clone())?))
    }

    fn service(&self, name: &str) -> Option<Arc<dyn FormatService>> {
        match name {
            READER => Some(reader_service(Arc::new(Reader::<M::Packing>::default()))),
            VERIFY => Some(verify_service(Arc::new(Reader::<M::Packing>::default()))),
            _ => None,
        }
    }
}
