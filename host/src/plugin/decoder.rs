//! Having a plugin give weights out of files: the service `decode/1` of a job.
//!
//! It moves bytes; what the tensors are is for others.

use abi_stable::std_types::{RSlice, RSliceMut};
use qhost_plugin_api::{
    abi::{DType, Failure, FailureKind, ServiceObject, TensorViewMut},
    documents::RowsRequest,
};

use super::{Error, reader};

/// Gives weights out of files; shared by threads.
pub struct RowDecoder {
    plugin: String,
    service: ServiceObject,
}

impl RowDecoder {
    pub(super) fn new(plugin: String, service: ServiceObject) -> Self {
        Self { plugin, service }
    }

    /// Rows of a tensor of the job's model, from one on; `files` are those that the job was opened for.
    ///
    /// # Errors
    /// Fails when the plugin does, or when the rows do not fit into memory.
    pub fn rows(
        &self,
        files: &[&[u8]],
        tensor: u32,
        first_row: u64,
        (rows, row_elements): (u64, u64),
    ) -> Result<Vec<f32>, Error> {
        let failed = |failure: Failure| Error::Failed { plugin: self.plugin.clone(), failure: Box::new(failure) };
        let too_long = || failed(Failure::new(FailureKind::RESOURCES, "a tensor is longer than memory"));
        let bytes = rows.checked_mul(row_elements).and_then(|elements| elements.checked_mul(4));
        let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok()).ok_or_else(too_long)?;
        let mut data = Vec::new();
        data.try_reserve_exact(bytes).map_err(|_| too_long())?;
        data.resize(bytes, 0);
        let request = serde_json::to_string(&RowsRequest::new(tensor, first_row))
            .map_err(|error| failed(Failure::internal(error.to_string())))?;
        let inputs: Vec<_> = files.iter().map(|bytes| reader::view(bytes)).collect();
        let mut outputs =
            [TensorViewMut { dtype: DType::F32, rows, row_elements, data: RSliceMut::from_mut_slice(&mut data) }];
        let answer = self.service.call(
            "rows".into(),
            request.as_str().into(),
            RSlice::from_slice(&inputs),
            RSliceMut::from_mut_slice(&mut outputs),
        );
        answer.into_result().map_err(failed)?;
        Ok(data.as_chunks().0.iter().map(|bytes| f32::from_ne_bytes(*bytes)).collect())
    }
}
