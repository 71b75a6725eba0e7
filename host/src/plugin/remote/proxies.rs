//! The border's objects, whose methods are calls to another process. Those of the host stand in the plugin's process, and
//! those of the plugin in the host's.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use abi_stable::{
    sabi_trait::TD_Opaque,
    std_types::{RArc, ROption, RResult, RSlice, RSliceMut, RStr, RString, RVec},
};
use qhost_plugin_api::abi::{
    Answer, DType, Failure, Files, Files_TO, FilesObject, Host, Host_TO, HostObject, Job, Job_TO, JobObject, Lease,
    LogLevel, Plugin, Plugin_TO, PluginObject, Service, Service_TO, ServiceObject, Task, TensorView, TensorViewMut,
    Unit, Unit_TO, UnitObject,
};
use rayon::ThreadPool;
use serde_json::{Value, json};

use super::{
    peer::{Object, Peer, Remote, broken, lock},
    wire::Blob,
};
use crate::{
    plugin::{calls, services},
    stream::{FileIdentity, MappedFile, MappedPlace},
};

/// Files of the other process that this one has mapped too.
#[derive(Default)]
pub(super) struct Mappings(Mutex<HashMap<FileIdentity, Arc<MappedFile>>>);

impl Mappings {
    fn file(&self, place: &MappedPlace) -> Result<Arc<MappedFile>, Failure> {
        let mut mapped = lock(&self.0);
        if let Some(file) = mapped.get(&place.file()) {
            return Ok(Arc::clone(file));
        }
        let file = place.map().map_err(|error| Failure::corrupt(error.to_string()))?;
        Ok(Arc::clone(mapped.entry(place.file()).or_insert(Arc::new(file))))
    }

    pub(super) fn bytes(&self, place: &MappedPlace) -> Result<&[u8], Failure> {
        let file = self.file(place)?;
        let bytes = place.within(&file).ok_or_else(|| broken("bytes beyond the end of a file"))?;
        #[expect(unsafe_code, reason = "the bytes are those of a file that stays mapped as long as the list of them")]
        // SAFETY: the list keeps the file mapped, and nothing is ever taken out of it.
        Ok(unsafe { std::slice::from_raw_parts(bytes.as_ptr(), bytes.len()) })
    }
}

fn service(remote: Result<Option<Remote>, Failure>) -> ROption<ServiceObject> {
    let found = remote.unwrap_or_else(|failure| {
        tracing::debug!("{failure}");
        None
    });
    found.map(|remote| Service_TO::from_ptr(RArc::new(RemoteService(remote)), TD_Opaque)).into()
}

fn text(value: Result<Value, Failure>) -> RResult<RString, Failure> {
    let text = value.and_then(|value| Ok(value.as_str().ok_or_else(|| broken("no text"))?.to_owned()));
    text.map(RString::from).into()
}

struct RemoteService(Remote);

impl Service for RemoteService {
    fn call(
        &self,
        method: RStr<'_>,
        request: RStr<'_>,
        inputs: RSlice<'_, TensorView<'_>>,
        mut outputs: RSliceMut<'_, TensorViewMut<'_>>,
    ) -> RResult<Answer, Failure> {
        let shape = |dtype: DType, rows: u64, row_elements: u64| (dtype.0, rows, row_elements);
        let of_inputs: Vec<_> = inputs.iter().map(|view| shape(view.dtype, view.rows, view.row_elements)).collect();
        let of_outputs: Vec<_> = outputs.iter().map(|view| shape(view.dtype, view.rows, view.row_elements)).collect();
        let arguments = json!([method.as_str(), request.as_str(), of_inputs, of_outputs]);
        let inputs: Vec<_> = inputs.iter().map(|view| view.data.as_slice()).collect();
        let mut outputs: Vec<_> = outputs.iter_mut().map(|view| view.data.as_mut_slice()).collect();
        let answered = self.0.call_with("call", arguments, &inputs, &mut outputs).and_then(|(json, blobs)| {
            let json = json.as_str().ok_or_else(|| broken("no text"))?.into();
            Ok(Answer { json, blob: owned(blobs)?.unwrap_or_default().into() })
        });
        answered.into()
    }
}

/// The bytes of an answer, if it has some.
fn owned(blobs: Vec<Blob>) -> Result<Option<Vec<u8>>, Failure> {
    match blobs.into_iter().next() {
        None => Ok(None),
        Some(Blob::Owned(bytes)) => Ok(Some(bytes)),
        Some(Blob::File(place)) => {
            let file = place.map().map_err(|error| Failure::corrupt(error.to_string()))?;
            Ok(Some(place.within(&file).ok_or_else(|| broken("bytes beyond the end of a file"))?.to_vec()))
        }
    }
}

/// The host, in the plugin's process, which has threads of its own.
pub(super) struct RemoteHost {
    remote: Remote,
    pool: ThreadPool,
}

pub(super) fn host(peer: &Arc<Peer>, id: u64, pool: ThreadPool) -> HostObject {
    Host_TO::from_ptr(RArc::new(RemoteHost { remote: Remote::new(peer, id), pool }), TD_Opaque)
}

impl Host for RemoteHost {
    fn log(&self, level: LogLevel, target: RStr<'_>, message: RStr<'_>) {
        let _ = self.remote.call("log", json!([level.0, target.as_str(), message.as_str()]));
    }

    fn parallel_for(&self, count: u64, task: Task) -> RResult<(), Failure> {
        services::run_loop(&self.pool, count, task)
    }

    fn grant(&self, bytes: u64, purpose: RStr<'_>) -> RResult<u64, Failure> {
        let granted = self.remote.call("grant", json!([bytes, purpose.as_str()]));
        granted.and_then(|id| id.as_u64().ok_or_else(|| broken("no number"))).into()
    }

    fn release_grant(&self, id: u64) {
        let _ = self.remote.call("release_grant", json!(id));
    }

    fn cancelled(&self) -> bool {
        self.remote.call("cancelled", Value::Null).is_ok_and(|answer| answer == true)
    }

    fn query_interface(&self, name: RStr<'_>) -> ROption<ServiceObject> {
        service(self.remote.object("query_interface", json!(name.as_str())))
    }
}

struct RemoteFiles(Remote);

pub(super) fn files(peer: &Arc<Peer>, id: u64) -> FilesObject {
    Files_TO::from_ptr(RArc::new(RemoteFiles(Remote::new(peer, id))), TD_Opaque)
}

impl Files for RemoteFiles {
    fn list(&self) -> RString {
        text(self.0.call("list", Value::Null)).unwrap_or_else(|_| "[]".into())
    }

    fn read(&self, name: RStr<'_>, offset: u64, mut out: RSliceMut<'_, u8>) -> RResult<u64, Failure> {
        let read = self.0.call_with("read", json!([name.as_str(), offset, out.len()]), &[], &mut []);
        let read = read.and_then(|(_, blobs)| {
            let bytes = owned(blobs)?.unwrap_or_default();
            let place =
                out.as_mut_slice().get_mut(..bytes.len()).ok_or_else(|| broken("more was read than asked for"))?;
            place.copy_from_slice(&bytes);
            Ok(bytes.len() as u64)
        });
        read.into()
    }

    fn query_interface(&self, name: RStr<'_>) -> ROption<ServiceObject> {
        service(self.0.object("query_interface", json!(name.as_str())))
    }
}

struct RemoteUnit {
    remote: Remote,
    mappings: Mappings,
    /// Bytes of loans, by the loan.
    lent: Mutex<HashMap<u64, Loan>>,
}

/// The memory of a loan in this process.
enum Loan {
    Copied { _bytes: Vec<u8> },
    Mapped { file: Arc<MappedFile>, place: MappedPlace },
}

pub(super) fn unit(peer: &Arc<Peer>, id: u64) -> UnitObject {
    let unit = RemoteUnit { remote: Remote::new(peer, id), mappings: Mappings::default(), lent: Mutex::default() };
    Unit_TO::from_ptr(RArc::new(unit), TD_Opaque)
}

impl RemoteUnit {
    fn borrow(&self, tensor: u32, first_row: u64, rows: u64) -> Result<Lease, Failure> {
        let (told, blobs) = self.remote.call_with("lease", json!([tensor, first_row, rows]), &[], &mut [])?;
        let told: (u64, u32, u64, u64, Option<String>) =
            serde_json::from_value(told).map_err(|error| broken(&error.to_string()))?;
        let (id, dtype, rows, row_elements, name) = told;
        if let Some(name) = name {
            calls::answer(|at| at.lent(calls::name_for_ever(name)));
        }
        let loan = match blobs.into_iter().next().ok_or_else(|| broken("no bytes were lent"))? {
            Blob::Owned(bytes) => {
                let (data, bytes_lent) = (bytes.as_ptr(), bytes.len() as u64);
                (data, bytes_lent, Loan::Copied { _bytes: bytes })
            }
            Blob::File(place) => {
                let file = self.mappings.file(&place)?;
                let data = place.within(&file).ok_or_else(|| broken("bytes beyond the end of a file"))?.as_ptr();
                (data, place.length, Loan::Mapped { file, place })
            }
        };
        let (data, bytes, loan) = loan;
        lock(&self.lent).insert(id, loan);
        Ok(Lease { id, dtype: DType(dtype), rows, row_elements, data, bytes })
    }
}

impl Unit for RemoteUnit {
    fn lease(&self, tensor: u32, first_row: u64, rows: u64) -> RResult<Lease, Failure> {
        self.borrow(tensor, first_row, rows).into()
    }

    fn release(&self, lease: u64) {
        if let Some(Loan::Mapped { file, place }) = lock(&self.lent).remove(&lease) {
            // Its pages are this process's too.
            file.release(place.offset..place.offset + place.length);
        }
        let _ = self.remote.call("release", json!(lease));
    }

    fn write(&self, segment: u32, offset: u64, bytes: RSlice<'_, u8>) -> RResult<(), Failure> {
        let written = self.remote.call_with("write", json!([segment, offset]), &[bytes.as_slice()], &mut []);
        written.map(drop).into()
    }

    fn metric(&self, segment: u32, key: RStr<'_>, value: f64) {
        let _ = self.remote.call("metric", json!([segment, key.as_str(), value]));
    }

    fn progress(&self, weights: u64) {
        let _ = self.remote.call("progress", json!(weights));
    }

    fn save(&self, key: RStr<'_>, bytes: RSlice<'_, u8>) -> RResult<(), Failure> {
        self.remote.call_with("save", json!(key.as_str()), &[bytes.as_slice()], &mut []).map(drop).into()
    }

    fn load(&self, key: RStr<'_>) -> RResult<ROption<RVec<u8>>, Failure> {
        let loaded = self.remote.call_with("load", json!(key.as_str()), &[], &mut []);
        let loaded = loaded.and_then(|(found, blobs)| {
            let bytes = owned(blobs)?.unwrap_or_default();
            Ok((found == true).then(|| RVec::from(bytes)).into())
        });
        loaded.into()
    }

    fn query_interface(&self, name: RStr<'_>) -> ROption<ServiceObject> {
        service(self.remote.object("query_interface", json!(name.as_str())))
    }
}

struct RemotePlugin(Remote);

pub(super) fn plugin(peer: &Arc<Peer>, id: u64) -> PluginObject {
    Plugin_TO::from_ptr(RArc::new(RemotePlugin(Remote::new(peer, id))), TD_Opaque)
}

impl Plugin for RemotePlugin {
    fn describe(&self) -> RResult<RString, Failure> {
        text(self.0.call("describe", Value::Null))
    }

    fn open(&self, request: RStr<'_>, companions: FilesObject) -> RResult<JobObject, Failure> {
        let files = self.0.peer.own.hold(Object::Files(companions));
        let opened = self.0.object("open", json!([request.as_str(), files]));
        let job = opened.and_then(|job| job.ok_or_else(|| broken("no job")));
        job.map(|remote| Job_TO::from_ptr(RArc::new(RemoteJob(remote)), TD_Opaque)).into()
    }

    fn query_interface(&self, name: RStr<'_>) -> ROption<ServiceObject> {
        service(self.0.object("query_interface", json!(name.as_str())))
    }
}

struct RemoteJob(Remote);

impl Job for RemoteJob {
    fn plan(&self) -> RResult<RString, Failure> {
        text(self.0.call("plan", Value::Null))
    }

    fn constant(&self, segment: u32) -> RResult<RVec<u8>, Failure> {
        let made = self.0.call_with("constant", json!(segment), &[], &mut []);
        made.and_then(|(_, blobs)| Ok(owned(blobs)?.unwrap_or_default().into())).into()
    }

    fn run_unit(&self, unit: u32, io: UnitObject) -> RResult<(), Failure> {
        let io = self.0.peer.own.hold(Object::Unit(io));
        self.0.call("run_unit", json!([unit, io])).map(drop).into()
    }

    fn check(&self, files: FilesObject) -> RResult<RString, Failure> {
        let files = self.0.peer.own.hold(Object::Files(files));
        text(self.0.call("check", json!(files)))
    }

    fn query_interface(&self, name: RStr<'_>) -> ROption<ServiceObject> {
        service(self.0.object("query_interface", json!(name.as_str())))
    }
}
