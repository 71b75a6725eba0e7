//! One unit of work as a plugin sees it.
#![expect(unsafe_code, reason = "the host's leases are trusted to be valid memory; weights cross the border as bytes")]

use std::{fmt, sync::Arc};

use abi_stable::std_types::RSlice;

use super::{DType, Failure, HostHandle, Operand, OperandMut, Planes, Result, Rows, ServiceHandle, plain};
use crate::{
    abi::UnitObject,
    documents::{
        Encoding, ExistingRequest, InputGroup, LossAnswer, LossRequest, Model, PlanesRequest, SourceTensor, Statistic,
        StatisticsAnswer, StatisticsRequest, SubstituteRequest,
    },
};

/// The service of a unit that is compared with files that exist; see `OpenRequest::existing`.
pub const EXISTING: &str = "existing/1";

/// The service of a unit whose plan asks for statistics of activations.
pub const STATISTICS: &str = "statistics/1";

/// The same service of a host that runs the original model beside the one with substitutes: it has `cross` and
/// `residual` too.
pub const STATISTICS_2: &str = "statistics/2";

/// The service of a unit that runs its layer with other weights.
pub const REPLAY: &str = "replay/1";

/// The service of a unit of a conversion that takes tensors in other encodings than floats.
pub const PLANES: &str = "planes/1";

/// What a host says among its services that carries out provisional plans; see `Plan::survey`. It has no methods.
pub const SURVEY: &str = "survey/1";

/// The unit that is being made: its source rows, its output segments, its figures.
pub struct UnitHandle {
    object: UnitObject,
    host: HostHandle,
    model: Arc<Model>,
}

impl fmt::Debug for UnitHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnitHandle")
    }
}

impl UnitHandle {
    /// Wraps the border's object.
    ///
    /// # Safety
    /// `object` keeps the contract of [`Unit::lease`](crate::abi::Unit::lease): what it lends are
    /// readable bytes that do not change, on every thread, until they are given back.
    #[must_use]
    pub unsafe fn new(object: UnitObject, host: HostHandle, model: Arc<Model>) -> Self {
        Self { object, host, model }
    }

    /// The host's services.
    #[must_use]
    pub fn host(&self) -> &HostHandle {
        &self.host
    }

    /// Borrows rows of a source tensor.
    ///
    /// # Errors
    /// Fails when there is no such tensor or row, or when the source cannot be read.
    pub fn rows(&self, tensor: u32, first_row: u64, rows: u64) -> Result<Rows<'_>> {
        let lease = self.object.lease(tensor, first_row, rows).into_result()?;
        Ok(Rows::new(self, lease, tensor, first_row))
    }

    pub(super) fn release(&self, lease: u64) {
        self.object.release(lease);
    }

    /// Writes bytes into a segment of this unit.
    ///
    /// # Errors
    /// Fails when the range is not within a segment of this unit, or when the disk refuses.
    pub fn write(&self, segment: u32, offset: u64, bytes: &[u8]) -> Result<()> {
        self.object.write(segment, offset, RSlice::from_slice(bytes)).into_result()
    }

    /// Records a figure about a segment for the report.
    pub fn metric(&self, segment: u32, key: &str, value: f64) {
        self.object.metric(segment, key.into(), value);
    }

    /// Tells that more weights are done.
    pub fn progress(&self, weights: u64) {
        self.object.progress(weights);
    }

    /// Keeps bytes under a key, durable together with this unit.
    ///
    /// # Errors
    /// Fails when the disk refuses.
    pub fn save(&self, key: &str, bytes: &[u8]) -> Result<()> {
        self.object.save(key.into(), RSlice::from_slice(bytes)).into_result()
    }

    /// The bytes last kept under a key by a finished unit.
    ///
    /// # Errors
    /// Fails when the checkpoint cannot be read.
    pub fn load(&self, key: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.object.load(key.into()).into_result()?.into_option().map(Into::into))
    }

    /// Finds a service of this unit by its versioned name.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<ServiceHandle> {
        ServiceHandle::found(self.object.query_interface(name.into()))
    }

    /// Fills `out` with bytes of a file that the unit is compared with.
    ///
    /// # Errors
    /// Fails when the unit is compared with nothing, or there are no such bytes.
    pub fn read_existing(&self, file: u32, offset: u64, out: &mut [u8]) -> Result<()> {
        let service = self.service(EXISTING).ok_or_else(|| Failure::internal("there are no files to compare with"))?;
        let out = OperandMut { dtype: DType::U8, rows: 1, row_elements: out.len() as u64, data: out };
        service.call("read", &ExistingRequest::new(file, offset), &[], &mut [out]).map(drop)
    }

    /// Rows of a source tensor in an encoding that was offered for it; see `OpenRequest::conversion`.
    ///
    /// # Errors
    /// Fails when it was not offered, there are no such rows, or they cannot be read.
    pub fn planes(&self, tensor: u32, first_row: u64, rows: u64, encoding: &Encoding) -> Result<Planes> {
        let service = self.service(PLANES).ok_or_else(|| absent(PLANES))?;
        let inputs = self.model.tensors.get(tensor as usize).map_or(0, SourceTensor::row_elements);
        let mut planes = Planes::room(encoding, rows, inputs)?;
        let request = PlanesRequest::new(tensor, first_row, inputs, encoding.clone());
        planes.fill(|outputs| service.call("rows", &request, &[], outputs).map(drop))?;
        Ok(planes)
    }

    /// A statistic of the input of some linears, which the plan asks for: where it is lent, and of how many tokens
    /// it is. [`UnitHandle::rows`] lends its rows until the unit ends.
    ///
    /// # Errors
    /// Fails with kind `PLUGIN` when the plan does not ask for it or the unit has no such group; otherwise with
    /// whatever keeps the model from running. A `Cross` or `Residual` that this group does not have is no failure: the
    /// answer has no rows then.
    pub fn statistic(&self, group: InputGroup, what: Statistic, expert: Option<u32>) -> Result<StatisticsAnswer> {
        let service = self.service(STATISTICS).ok_or_else(|| absent(STATISTICS))?;
        service.call("get", &StatisticsRequest::new(group, what, expert), &[], &mut [])?.value()
    }

    /// From now on the forward pass uses these weights, the whole tensor in `f32`; without any, those of the
    /// checkpoint again.
    ///
    /// # Errors
    /// Fails with kind `PLUGIN` when the plan does not say that the unit replays, or the tensor is not of the unit.
    pub fn substitute(&self, tensor: u32, weights: Option<&[f32]>) -> Result<()> {
        let service = self.service(REPLAY).ok_or_else(|| absent(REPLAY))?;
        let bytes = weights.map(|weights| plain::little_endian(weights));
        let operand = |data| Operand { dtype: DType::F32, rows: 1, row_elements: weights_of(data), data };
        let operands: Vec<_> = bytes.as_deref().map(operand).into_iter().collect();
        service.call("substitute", &SubstituteRequest::new(tensor), &operands, &mut []).map(drop)
    }

    /// What the substituted weights change at the unit's output, over the first samples or all.
    ///
    /// # Errors
    /// Fails as [`UnitHandle::substitute`], or with whatever keeps the model from running.
    pub fn loss(&self, samples: Option<u64>) -> Result<LossAnswer> {
        let service = self.service(REPLAY).ok_or_else(|| absent(REPLAY))?;
        service.call("loss", &LossRequest::new(samples), &[], &mut [])?.value()
    }

    /// The checkpoint's name of a tensor, for messages.
    #[must_use]
    pub fn tensor_name(&self, tensor: u32) -> String {
        self.model.tensors.get(tensor as usize).map_or_else(|| format!("tensor {tensor}"), |tensor| tensor.name.clone())
    }
}

fn absent(service: &str) -> Failure {
    Failure::unsupported(format!("this unit has no {service}: its plan asks for none, or the host is too old"))
}

fn weights_of(bytes: &[u8]) -> u64 {
    bytes.len() as u64 / 4
}
