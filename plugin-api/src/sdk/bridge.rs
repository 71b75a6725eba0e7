//! Puts a [`Format`] behind the border's objects: text to documents, panics to failures.

use std::sync::Arc;

use abi_stable::{
    sabi_trait::TD_Opaque,
    std_types::{RArc, ROption, RResult, RStr, RString, RVec},
};

use super::{Failure, FilesHandle, Format, FormatJob, HostHandle, Result, UnitHandle, forward, panics};
use crate::{
    abi::{
        FilesObject, HostObject, Job, Job_TO, JobObject, LogLevel, Plugin, Plugin_TO, PluginObject, ServiceObject,
        UnitObject,
    },
    documents::{Document, HostFacts, Model, OpenRequest},
};

/// Starts `F` for a host: the body of the exported `connect` function.
pub fn connect<F: Format>(host: HostObject, facts: &str) -> RResult<PluginObject, Failure> {
    panics::install_hook();
    start::<F>(host, facts).into()
}

fn start<F: Format>(host: HostObject, facts: &str) -> Result<PluginObject> {
    let host = HostHandle::new(host);
    panics::contain(|| {
        let facts = HostFacts::from_json(facts)?;
        forward::install(host.clone(), LogLevel(facts.log_level));
        let format = F::connect(host.clone())?;
        Ok(Plugin_TO::from_ptr(RArc::new(PluginBridge { format, host: host.clone() }), TD_Opaque))
    })
}

struct PluginBridge<F> {
    format: F,
    host: HostHandle,
}

impl<F: Format> Plugin for PluginBridge<F> {
    fn describe(&self) -> RResult<RString, Failure> {
        panics::contain(|| Ok(self.format.describe().to_json()?.into())).into()
    }

    fn open(&self, request: RStr<'_>, companions: FilesObject) -> RResult<JobObject, Failure> {
        panics::contain(|| {
            let request = OpenRequest::from_json(&request)?;
            let model = Arc::new(request.model.clone());
            let job = self.format.open(request, FilesHandle::new(companions)?)?;
            let plan = job.plan().to_json()?.into();
            let bridge = JobBridge { job, plan, model, host: self.host.clone() };
            Ok(Job_TO::from_ptr(RArc::new(bridge), TD_Opaque))
        })
        .into()
    }

    fn query_interface(&self, name: RStr<'_>) -> ROption<ServiceObject> {
        panics::contain(|| Ok(self.format.query_interface(&name))).unwrap_or(None).into()
    }
}

struct JobBridge<J> {
    job: J,
    plan: RString,
    model: Arc<Model>,
    host: HostHandle,
}

impl<J: FormatJob> Job for JobBridge<J> {
    fn plan(&self) -> RResult<RString, Failure> {
        RResult::ROk(self.plan.clone())
    }

    fn constant(&self, segment: u32) -> RResult<RVec<u8>, Failure> {
        panics::contain(|| Ok(self.job.constant(segment)?.into_owned().into())).into()
    }

    fn run_unit(&self, unit: u32, io: UnitObject) -> RResult<(), Failure> {
        panics::contain(|| {
            let io = UnitHandle::new(io, self.host.clone(), Arc::clone(&self.model));
            self.job.run_unit(unit, &io)
        })
        .into()
    }

    fn check(&self, files: FilesObject) -> RResult<RString, Failure> {
        panics::contain(|| Ok(self.job.check(&FilesHandle::new(files)?)?.to_json()?.into())).into()
    }

    fn query_interface(&self, name: RStr<'_>) -> ROption<ServiceObject> {
        panics::contain(|| Ok(self.job.query_interface(&name))).unwrap_or(None).into()
    }
}
