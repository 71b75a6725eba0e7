//! The border's objects by hand, where the SDK's types would forbid the breach: a job that keeps a unit's object and uses it
//! after that unit's end. It puts such a job around the SDK's, and exports what `export_plugin!` would.
#![expect(unsafe_code, reason = "it is below what keeps plugins safe")]

use std::sync::{Mutex, PoisonError};

use abi_stable::{
    sabi_trait::TD_Opaque,
    std_types::{RArc, ROption, RResult, RStr, RString, RVec},
};
use qhost_plugin_api::{
    abi::{
        Failure, FilesObject, HostObject, Job, Job_TO, JobObject, Plugin, Plugin_TO, PluginModule, PluginObject,
        ServiceObject, Unit_TO, UnitObject,
    },
    export::{LibHeader, RootModuleResult, lib_header, root_module, section},
    sdk,
};

use crate::Misbehave;

const MANIFEST: &str = concat!(
    r#"{"schema":"qhost.manifest/1","id":"misbehave","version":""#,
    env!("CARGO_PKG_VERSION"),
    r#"","abi":"abi_stable-0.11","api":"^1.0","summary":"Breaks the contract on request","license":""#,
    env!("CARGO_PKG_LICENSE"),
    r#"","homepage":"","formats":[{"id":"rows","summary":"Rows of f32","levels":["f32"],"#,
    r#""reads":[{"ending":"rows","magic":"524f57532d463332"}]}]}"#,
);

#[used]
#[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__qhost"))]
#[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".qhost"))]
static MANIFEST_SECTION: [u8; MANIFEST.len()] = section(MANIFEST);

extern "C" fn manifest() -> RStr<'static> {
    std::str::from_utf8(&MANIFEST_SECTION).unwrap_or_default().into()
}

extern "C" fn connect(host: HostObject, facts: RStr<'_>) -> RResult<PluginObject, Failure> {
    // SAFETY: the host that loads the library keeps the border's contract.
    let inner = unsafe { sdk::connect::<Misbehave>(host, &facts) };
    inner.map(|inner| Plugin_TO::from_ptr(RArc::new(Around(inner)), TD_Opaque))
}

extern "C" fn root() -> RootModuleResult {
    root_module(PluginModule { manifest, connect })
}

// The name is `abi_stable::library::ROOT_MODULE_LOADER_NAME`.
#[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
static ROOT: LibHeader = lib_header(root);

struct Around(PluginObject);

impl Plugin for Around {
    fn describe(&self) -> RResult<RString, Failure> {
        self.0.describe()
    }

    fn open(&self, request: RStr<'_>, companions: FilesObject) -> RResult<JobObject, Failure> {
        let job = self.0.open(request, companions);
        job.map(|job| Job_TO::from_ptr(RArc::new(AroundJob { job, kept: Mutex::default() }), TD_Opaque))
    }

    fn query_interface(&self, name: RStr<'_>) -> ROption<ServiceObject> {
        self.0.query_interface(name)
    }
}

struct AroundJob {
    job: JobObject,
    /// Objects of units, in the order in which they were made.
    kept: Mutex<Vec<UnitObject>>,
}

impl AroundJob {
    /// Uses the object of the unit before this one, which has ended.
    fn use_the_last(&self, behave: &str) -> Result<(), Failure> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = kept.last() else { return Ok(()) };
        match behave {
            "late-lease" => last.lease(0, 0, 1).map(drop).into_result(),
            // Segment 1 is the first tensor's, which is of unit 0.
            "late-write" => last.write(1, 0, [0_u8; 4][..].into()).into_result(),
            "late-save" => last.save("late".into(), [0_u8; 4][..].into()).into_result(),
            "late-load" => last.load("late".into()).map(drop).into_result(),
            // What has no answer is not heard.
            "late-words" => {
                last.progress(1 << 40);
                last.metric(1, "late".into(), 1.0);
                last.release(1 << 40);
                let found = last.query_interface("planes/1".into()).is_some();
                if found { Err(Failure::corrupt("a unit that has ended gave a service")) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }
}

impl Job for AroundJob {
    fn plan(&self) -> RResult<RString, Failure> {
        self.job.plan()
    }

    fn constant(&self, segment: u32) -> RResult<RVec<u8>, Failure> {
        self.job.constant(segment)
    }

    fn run_unit(&self, unit: u32, io: UnitObject) -> RResult<(), Failure> {
        let behave = std::env::var("QHOST_BEHAVE").unwrap_or_default();
        if behave.starts_with("late-") {
            if let Err(failure) = self.use_the_last(&behave) {
                return RResult::RErr(failure);
            }
            let copy = Unit_TO::from_sabi(io.obj.shallow_clone());
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(copy);
        }
        self.job.run_unit(unit, io)
    }

    fn check(&self, files: FilesObject) -> RResult<RString, Failure> {
        self.job.check(files)
    }

    fn query_interface(&self, name: RStr<'_>) -> ROption<ServiceObject> {
        self.job.query_interface(name)
    }
}
