//! Puts a [`Format`] behind the border's objects: text to documents, panics to failures.
#![expect(unsafe_code, reason = "the host's objects are trusted to keep the border's contract")]

use std::sync::Arc;

use abi_stable::{
    sabi_trait::TD_Opaque,
    std_types::{RArc, ROption, RResult, RStr, RString, RVec},
};

use super::{
    Failure, FilesHandle, Format, FormatJob, HostHandle, Result, UnitHandle, forward,
    panics::{self, Contained},
    service,
};
use crate::{
    abi::{
        FilesObject, HostObject, Job, Job_TO, JobObject, Plugin, Plugin_TO, PluginObject, ServiceObject, UnitObject,
    },
    documents::{Document, HostFacts, Model, OpenRequest},
};

/// Starts `F` for a host: the body of the exported `connect` function.
///
/// # Safety
/// As for [`HostHandle::new`].
pub unsafe fn connect<F: Format>(host: HostObject, facts: &str) -> RResult<PluginObject, Failure> {
    panics::install_hook();
    panics::contain(|| {
        let facts = HostFacts::from_json(facts)?;
        // SAFETY: the caller's.
        let host = unsafe { HostHandle::new(host, facts) };
        forward::install(&host);
        plugin_object::<F>(&host)
    })
    .into()
}

/// Starts `F` without touching what belongs to the whole process: the panic hook and the loggers.
pub(in crate::sdk) fn plugin_object<F: Format>(host: &HostHandle) -> Result<PluginObject> {
    panics::contain(|| {
        let format = Contained::new(F::connect(host.clone())?, host.clone());
        Ok(Plugin_TO::from_ptr(RArc::new(PluginBridge { format, host: host.clone() }), TD_Opaque))
    })
}

/// Refuses what the user asked for and this version of the SDK has never heard of.
fn refuse_unknown(request: &OpenRequest) -> Result<()> {
    match request.options.unknown_flag() {
        None => Ok(()),
        Some(flag) => Err(Failure::unsupported(format!("the plugin does not know the option {flag}"))
            .hint(format!("leave {flag} out, or install a newer version of the plugin"))),
    }
}

struct PluginBridge<F> {
    format: Contained<F>,
    host: HostHandle,
}

impl<F: Format> Plugin for PluginBridge<F> {
    fn describe(&self) -> RResult<RString, Failure> {
        panics::contain(|| Ok(self.format.describe().to_json()?.into())).into()
    }

    fn open(&self, request: RStr<'_>, companions: FilesObject) -> RResult<JobObject, Failure> {
        panics::contain(|| {
            let request = OpenRequest::from_json(&request)?;
            refuse_unknown(&request)?;
            let model = Arc::new(request.model.clone());
            let job = self.format.open(request, FilesHandle::new(companions)?)?;
            let job = Contained::new(job, self.host.clone());
            let plan = job.plan().to_json()?.into();
            let bridge = JobBridge { job, plan, model, host: self.host.clone() };
            Ok(Job_TO::from_ptr(RArc::new(bridge), TD_Opaque))
        })
        .into()
    }

    fn query_interface(&self, name: RStr<'_>) -> ROption<ServiceObject> {
        let found = panics::contain(|| Ok(self.format.service(&name))).unwrap_or(None);
        found.map(|found| service::service_object(found, self.host.clone())).into()
    }
}

struct JobBridge<J> {
    job: Contained<J>,
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
            // SAFETY: the object comes from the host that this plugin is connected to.
            let io = unsafe { UnitHandle::new(io, self.host.clone(), Arc::clone(&self.model)) };
            self.job.run_unit(unit, &io)
        })
        .into()
    }

    fn check(&self, files: FilesObject) -> RResult<RString, Failure> {
        panics::contain(|| Ok(self.job.check(&FilesHandle::new(files)?)?.to_json()?.into())).into()
    }

    fn query_interface(&self, name: RStr<'_>) -> ROption<ServiceObject> {
        let found = panics::contain(|| Ok(self.job.service(&name))).unwrap_or(None);
        found.map(|found| service::service_object(found, self.host.clone())).into()
    }
}
