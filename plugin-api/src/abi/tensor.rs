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

impl DType {
    /// IEEE binary32.
    pub const F32: Self = Self(1);
    /// IEEE binary16.
    pub const F16: Self = Self(2);
    /// The upper half of a binary32.
    pub const BF16: Self = Self(3);
    /// IEEE binary64.
    pub const F64: Self = Self(4);
    /// 8-bit float, 4 exponent bits, no infinities (`F8_E4M3` of safetensors).
    pub const F8_E4M3: Self = Self(5);
    /// 8-bit float, 5 exponent bits (`F8_E5M2` of safetensors).
    pub const F8_E5M2: Self = Self(6);
    /// Signed 8-bit integer.
    pub const I8: Self = Self(16);
    /// Unsigned 8-bit integer; also the dtype of opaque bytes, such as blocks of a packed encoding.
    pub const U8: Self = Self(17);
    /// Signed 16-bit integer.
    pub const I16: Self = Self(18);
    /// Unsigned 16-bit integer.
    pub const U16: Self = Self(19);
    /// Signed 32-bit integer.
    pub const I32: Self = Self(20);
    /// Unsigned 32-bit integer.
    pub const U32: Self = Self(21);
    /// Signed 64-bit integer.
    pub const I64: Self = Self(22);
    /// Unsigned 64-bit integer.
    pub const U64: Self = Self(23);
    /// One byte, 0 or 1.
    pub const BOOL: Self = Self(24);
}

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

/// Rows lent by the host until [`Unit::release`](crate::abi::Unit::release) is called with `id`.
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
