//! Views of tensor data: a dtype, rows of elements, and the bytes where they lie.
//!
//! They know neither names nor shapes of rank above two; those are in the JSON documents. A *row*
//! is the last dimension; the rows are all other dimensions together, in row-major order.

use abi_stable::{
    StableAbi,
    std_types::{RSlice, RSliceMut},
};

/// How one element is stored, little-endian. A plain number: unknown values are refused, not trusted.
#[repr(transparent)]
#[derive(StableAbi, Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DType(pub u32);

/// Rows of a tensor, borrowed for the length of a call.
#[repr(C)]
#[derive(StableAbi, Debug, Clone, Copy)]
pub struct TensorView<'a> {
    /// How one element is stored.
    pub dtype: DType,
    /// Number of rows in `data`.
    pub rows: u64,
    /// Elements in one row.
    pub row_elements: u64,
    /// `rows × row_elements` elements, tightly packed.
    pub data: RSlice<'a, u8>,
}

/// Rows of a tensor that the callee fills, borrowed for the length of a call.
#[repr(C)]
#[derive(StableAbi, Debug)]
pub struct TensorViewMut<'a> {
    /// How one element is stored.
    pub dtype: DType,
    /// Number of rows in `data`.
    pub rows: u64,
    /// Elements in one row.
    pub row_elements: u64,
    /// `rows × row_elements` elements, tightly packed.
    pub data: RSliceMut<'a, u8>,
}

/// Rows lent by the host until [`Unit::release`](crate::Unit::release) is called with `id`.
///
/// The bytes are the host's own mapping of the checkpoint where that is possible, so nothing is
/// copied. They are valid on every thread until the release, and must not be written to.
#[repr(C)]
#[derive(StableAbi, Debug, Clone, Copy)]
pub struct Lease {
    /// Names the lease when it is given back.
    pub id: u64,
    /// How one element is stored.
    pub dtype: DType,
    /// Number of rows lent.
    pub rows: u64,
    /// Elements in one row.
    pub row_elements: u64,
    /// Start of the first row; aligned as the checkpoint happens to be, possibly to one byte only.
    pub data: *const u8,
    /// Length in bytes.
    pub bytes: u64,
}
