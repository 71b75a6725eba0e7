//! Having plugins give weights out of files, and make one encoding of another: the services `decode/1` of a job and
//! `transcode/1` of a plugin.
//!
//! It moves bytes; what the tensors are is for others.

use abi_stable::std_types::{RSlice, RSliceMut};
use qhost_plugin_api::{
    abi::{Answer, DType, Failure, FailureKind, ServiceObject, TensorView, TensorViewMut},
    documents::{Encoding, Encodings, PlanesRequest, RowsRequest, TranscodeRequest},
    sdk::{OperandMut, Planes, TRANSCODE},
};
use serde::Serialize;

use super::{Error, LoadedPlugin, calls::Caller, reader};

/// Gives weights out of files; shared by threads.
pub struct RowDecoder {
    plugin: String,
    service: ServiceObject,
    caller: &'static Caller,
}

impl RowDecoder {
    pub(super) fn new(plugin: String, service: ServiceObject, caller: &'static Caller) -> Self {
        Self { plugin, service, caller }
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
        let too_long = || self.failed(Failure::new(FailureKind::RESOURCES, "a tensor is longer than memory"));
        let bytes = rows.checked_mul(row_elements).and_then(|elements| elements.checked_mul(4));
        let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok()).ok_or_else(too_long)?;
        let mut data = Vec::new();
        data.try_reserve_exact(bytes).map_err(|_| too_long())?;
        data.resize(bytes, 0);
        let output =
            TensorViewMut { dtype: DType::F32, rows, row_elements, data: RSliceMut::from_mut_slice(&mut data) };
        let answer = call(
            (self.caller, &self.service),
            "rows",
            &RowsRequest::new(tensor, first_row),
            &views(files),
            &mut [output],
        );
        answer.map_err(|failure| self.failed(failure))?;
        Ok(data.as_chunks().0.iter().map(|bytes| f32::from_ne_bytes(*bytes)).collect())
    }

    /// The encodings that hold exactly the numbers of each tensor of the job's model; none at all from a plugin that
    /// gives floats alone.
    ///
    /// # Errors
    /// Fails when the plugin does, or when it does not tell of every one of `tensors` tensors.
    pub fn encodings(&self, files: &[&[u8]], tensors: usize) -> Result<Vec<Vec<Encoding>>, Error> {
        let answer = match call((self.caller, &self.service), "encodings", &(), &views(files), &mut []) {
            // A plugin from before there was this method.
            Err(failure) if failure.kind == FailureKind::UNSUPPORTED => return Ok(vec![Vec::new(); tensors]),
            answer => answer.map_err(|failure| self.failed(failure))?,
        };
        let broke = |what: String| self.failed(Failure::new(FailureKind::PLUGIN, what));
        let given: Encodings = serde_json::from_str(&answer.json)
            .map_err(|error| broke(format!("not the answer expected of encodings: {error}")))?;
        match given.tensors.len() {
            0 => Ok(vec![Vec::new(); tensors]),
            told if told == tensors => Ok(given.tensors),
            told => Err(broke(format!("it tells of the encodings of {told} tensors, and there are {tensors}"))),
        }
    }

    /// Fills planes with rows of a tensor of the job's model, from one on.
    ///
    /// # Errors
    /// Fails when the plugin does.
    pub fn planes(&self, files: &[&[u8]], tensor: u32, first_row: u64, planes: &mut Planes) -> Result<(), Error> {
        let request = PlanesRequest::new(tensor, first_row, planes.inputs() as u64, planes.encoding().clone());
        let answer = planes.fill(|outputs| {
            call((self.caller, &self.service), "planes", &request, &views(files), &mut places(outputs))
        });
        answer.map(drop).map_err(|failure| self.failed(failure))
    }

    fn failed(&self, failure: Failure) -> Error {
        Error::Failed { plugin: self.plugin.clone(), failure: Box::new(failure) }
    }
}

/// Makes one encoding of another; shared by threads.
pub struct Transcoder {
    plugin: String,
    service: ServiceObject,
    caller: &'static Caller,
}

impl LoadedPlugin {
    /// What makes one encoding of another, as the plugin's description says.
    ///
    /// # Errors
    /// Fails when the plugin cannot do that.
    pub fn transcoder(&self) -> Result<Transcoder, Error> {
        let absent =
            || Failure::new(FailureKind::PLUGIN, format!("it says that it transcodes, and has no {TRANSCODE}"));
        let found = self.object.query_interface(TRANSCODE.into()).into_option();
        let service = found.ok_or_else(|| self.failed(absent()))?;
        Ok(Transcoder { plugin: self.manifest.id.clone(), service, caller: self.caller })
    }
}

impl Transcoder {
    /// The plugin's id.
    #[must_use]
    pub fn plugin(&self) -> &str {
        &self.plugin
    }

    /// Makes the same rows in another encoding.
    ///
    /// # Errors
    /// Fails when the plugin does, or when there is no room.
    pub fn planes(&self, from: &Planes, to: &Encoding) -> Result<Planes, Error> {
        let (rows, inputs) = (from.rows() as u64, from.inputs() as u64);
        let request = TranscodeRequest::new(from.encoding().clone(), to.clone(), rows, inputs);
        let made = Planes::room(to, rows, inputs).and_then(|mut made| {
            from.show(|operands| {
                let inputs: Vec<_> = operands
                    .iter()
                    .map(|operand| TensorView {
                        dtype: operand.dtype,
                        rows: operand.rows,
                        row_elements: operand.row_elements,
                        data: RSlice::from_slice(operand.data),
                    })
                    .collect();
                made.fill(|outputs| {
                    call((self.caller, &self.service), "planes", &request, &inputs, &mut places(outputs))
                })
            })?;
            Ok(made)
        });
        made.map_err(|failure| Error::Failed { plugin: self.plugin.clone(), failure: Box::new(failure) })
    }
}

fn views<'a>(files: &[&'a [u8]]) -> Vec<TensorView<'a>> {
    files.iter().map(|bytes| reader::view(bytes)).collect()
}

fn places<'a>(outputs: &'a mut [OperandMut<'_>]) -> Vec<TensorViewMut<'a>> {
    let place = |output: &'a mut OperandMut<'_>| TensorViewMut {
        dtype: output.dtype,
        rows: output.rows,
        row_elements: output.row_elements,
        data: RSliceMut::from_mut_slice(output.data),
    };
    outputs.iter_mut().map(place).collect()
}

fn call(
    (caller, service): (&'static Caller, &ServiceObject),
    method: &str,
    request: &impl Serialize,
    inputs: &[TensorView<'_>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<Answer, Failure> {
    let request = serde_json::to_string(request).map_err(|error| Failure::internal(error.to_string()))?;
    let outputs = RSliceMut::from_mut_slice(outputs);
    let call = || service.call(method.into(), request.as_str().into(), RSlice::from_slice(inputs), outputs);
    caller.call("while it gave the weights of files", call).into_result()
}
