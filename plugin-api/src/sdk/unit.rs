//! One unit of work as a plugin sees it.
#![expect(unsafe_code, reason = "the host's leases are trusted to be valid memory")]

use std::{fmt, sync::Arc};

use abi_stable::std_types::RSlice;

use super::{DType, Failure, HostHandle, OperandMut, Result, Rows, ServiceHandle};
use crate::{
    abi::UnitObject,
    documents::{ExistingRequest, Model},
};

/// The service of a unit that is compared with files that exist; see `OpenRequest::existing`.
pub const EXISTING: &str = "existing/1";

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

    /// The checkpoint's name of a tensor, for messages.
    #[must_use]
    pub fn tensor_name(&self, tensor: u32) -> String {
        self.model.tensors.get(tensor as usize).map_or_else(|| format!("tensor {tensor}"), |tensor| tensor.name.clone())
    }
}
