//! Services of either side in plain Rust: JSON and bytes in, JSON and bytes out.
//!
//! It knows no particular service; `ABI.md` specifies them.

use std::{fmt, sync::Arc};

use abi_stable::{
    sabi_trait::TD_Opaque,
    std_types::{RArc, ROption, RResult, RSlice, RSliceMut, RStr},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{DType, Failure, FailureKind, HostHandle, Result, panics};
use crate::abi::{Answer, Service, Service_TO, ServiceObject, TensorView, TensorViewMut};

/// Rows of a tensor that go into a call.
#[derive(Debug, Clone, Copy)]
pub struct Operand<'a> {
    /// How one element is stored.
    pub dtype: DType,
    /// Number of rows.
    pub rows: u64,
    /// Elements in one row.
    pub row_elements: u64,
    /// `rows × row_elements` elements, tightly packed.
    pub data: &'a [u8],
}

/// Rows of a tensor that a call fills.
#[derive(Debug)]
pub struct OperandMut<'a> {
    /// How one element is stored.
    pub dtype: DType,
    /// Number of rows.
    pub rows: u64,
    /// Elements in one row.
    pub row_elements: u64,
    /// `rows × row_elements` elements, tightly packed.
    pub data: &'a mut [u8],
}

/// What a call answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceAnswer {
    /// A JSON value.
    pub json: String,
    /// Bytes whose number the caller could not know, or none.
    pub blob: Vec<u8>,
}

impl ServiceAnswer {
    /// An answer without bytes.
    ///
    /// # Errors
    /// Fails when the value cannot be written as JSON.
    pub fn new(value: &impl Serialize) -> Result<Self> {
        let json = serde_json::to_string(value)
            .map_err(|error| Failure::internal(format!("cannot write an answer: {error}")))?;
        Ok(Self { json, blob: Vec::new() })
    }

    /// The JSON value.
    ///
    /// # Errors
    /// Fails when it is not the one expected.
    pub fn value<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(&self.json)
            .map_err(|error| Failure::new(FailureKind::PLUGIN, format!("not the answer expected: {error}")))
    }
}

/// A service that a plugin offers; the SDK puts it behind the border and contains its panics.
pub trait FormatService: Send + Sync + 'static {
    /// Answers a call; `request` is JSON.
    ///
    /// # Errors
    /// An unknown method fails with kind `UNSUPPORTED`, so that a caller may probe.
    fn call(
        &self,
        method: &str,
        request: &str,
        inputs: &[Operand<'_>],
        outputs: &mut [OperandMut<'_>],
    ) -> Result<ServiceAnswer>;
}

/// A service of the other side.
#[derive(Clone)]
pub struct ServiceHandle {
    object: Arc<ServiceObject>,
}

impl fmt::Debug for ServiceHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServiceHandle")
    }
}

impl ServiceHandle {
    pub(in crate::sdk) fn found(object: ROption<ServiceObject>) -> Option<Self> {
        object.into_option().map(|object| Self { object: Arc::new(object) })
    }

    /// Calls a method; `request` is written as JSON.
    ///
    /// # Errors
    /// Fails when the service does.
    pub fn call(
        &self,
        method: &str,
        request: &impl Serialize,
        inputs: &[Operand<'_>],
        outputs: &mut [OperandMut<'_>],
    ) -> Result<ServiceAnswer> {
        let request = serde_json::to_string(request)
            .map_err(|error| Failure::internal(format!("cannot write a request: {error}")))?;
        let inputs: Vec<_> = inputs
            .iter()
            .map(|input| TensorView {
                dtype: input.dtype,
                rows: input.rows,
                row_elements: input.row_elements,
                data: RSlice::from_slice(input.data),
            })
            .collect();
        let mut outputs: Vec<_> = outputs
            .iter_mut()
            .map(|output| TensorViewMut {
                dtype: output.dtype,
                rows: output.rows,
                row_elements: output.row_elements,
                data: RSliceMut::from_mut_slice(output.data),
            })
            .collect();
        let answer = self.object.call(
            method.into(),
            request.as_str().into(),
            RSlice::from_slice(&inputs),
            RSliceMut::from_mut_slice(&mut outputs),
        );
        let Answer { json, blob } = answer.into_result()?;
        Ok(ServiceAnswer { json: json.into(), blob: blob.into() })
    }
}

/// Puts a service behind the border's object.
pub(super) fn service_object(service: Arc<dyn FormatService>, host: HostHandle) -> ServiceObject {
    let bridge = ServiceBridge { service: panics::Contained::new(service, host) };
    Service_TO::from_ptr(RArc::new(bridge), TD_Opaque)
}

struct ServiceBridge {
    service: panics::Contained<Arc<dyn FormatService>>,
}

impl Service for ServiceBridge {
    fn call(
        &self,
        method: RStr<'_>,
        request: RStr<'_>,
        inputs: RSlice<'_, TensorView<'_>>,
        mut outputs: RSliceMut<'_, TensorViewMut<'_>>,
    ) -> RResult<Answer, Failure> {
        panics::contain(|| answer(&**self.service, &method, &request, inputs, outputs.as_mut_slice())).into()
    }
}

/// Has a service in plain Rust answer what came over the border.
///
/// # Errors
/// Fails when the service does.
pub fn answer(
    service: &dyn FormatService,
    method: &str,
    request: &str,
    inputs: RSlice<'_, TensorView<'_>>,
    outputs: &mut [TensorViewMut<'_>],
) -> Result<Answer> {
    let inputs: Vec<_> = inputs
        .iter()
        .map(|input| Operand {
            dtype: input.dtype,
            rows: input.rows,
            row_elements: input.row_elements,
            data: input.data.as_slice(),
        })
        .collect();
    let mut outputs: Vec<_> = outputs
        .iter_mut()
        .map(|output| OperandMut {
            dtype: output.dtype,
            rows: output.rows,
            row_elements: output.row_elements,
            data: output.data.as_mut_slice(),
        })
        .collect();
    let answer = service.call(method, request, &inputs, &mut outputs)?;
    Ok(Answer { json: answer.json.into(), blob: answer.blob.into() })
}
