//! The port through which the API grows without a change of layout.
//!
//! It knows no particular service. A service is found by name with `query_interface` (on the host,
//! the unit, the plugin or the job) and speaks in messages: a method name, a JSON request, tensor
//! views in and out, an answer of JSON and bytes. Statistics, replay, compute, readers and verification are such
//! services; each is specified in `ABI.md` by its name with a version, such as `statistics/1`.

use abi_stable::{
    StableAbi, sabi_trait,
    std_types::{RArc, RResult, RSlice, RSliceMut, RStr, RString, RVec},
};

use super::{Failure, TensorView, TensorViewMut};

/// What a [`Service`] answers.
#[repr(C)]
#[derive(StableAbi, Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// A JSON value, specified by the service.
    pub json: RString,
    /// Bytes whose number the caller could not know, or none.
    pub blob: RVec<u8>,
}

/// An object that answers messages.
#[sabi_trait]
pub trait Service: Send + Sync + 'static {
    /// Calls `method` with a JSON `request` and tensor operands, and gives an answer.
    ///
    /// `outputs` are filled in place. The JSON of request and answer, and the meaning of the
    /// operands by position, belong to the service's specification. An unknown method fails with
    /// kind `UNSUPPORTED`, so a caller may probe.
    #[sabi(last_prefix_field)]
    fn call(
        &self,
        method: RStr<'_>,
        request: RStr<'_>,
        inputs: RSlice<'_, TensorView<'_>>,
        outputs: RSliceMut<'_, TensorViewMut<'_>>,
    ) -> RResult<Answer, Failure>;
}

/// A shared, owned [`Service`].
pub type ServiceObject = Service_TO<RArc<()>>;
