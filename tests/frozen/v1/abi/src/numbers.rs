//! The numbers that stand for kinds, dtypes and levels.
//!
//! A number keeps its meaning for good. New ones may be added, in a minor version of the plugin API:
//! whoever does not know a number refuses it.

use crate::layouts::{DType, FailureKind, LogLevel};

impl FailureKind {
    /// A defect in qhost or the plugin.
    pub const INTERNAL: Self = Self(1);
    /// The request contradicts itself or names an unknown option.
    pub const USAGE: Self = Self(2);
    /// The model or one of its files is absent or cannot be reached.
    pub const NOT_FOUND: Self = Self(3);
    /// The architecture, shape, level or option cannot be expressed in the format.
    pub const UNSUPPORTED: Self = Self(4);
    /// The input is damaged or incomplete.
    pub const CORRUPT: Self = Self(5);
    /// Out of disk or memory, planned or met.
    pub const RESOURCES: Self = Self(6);
    /// The plugin itself failed: it panicked, or broke the contract.
    pub const PLUGIN: Self = Self(7);
    /// A check of the result failed.
    pub const VERIFICATION: Self = Self(8);
    /// The user has to confirm first.
    pub const CONFIRMATION: Self = Self(9);
    /// The user interrupted the run.
    pub const CANCELLED: Self = Self(130);
}

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

impl LogLevel {
    /// Something failed.
    pub const ERROR: Self = Self(1);
    /// Something the user should know.
    pub const WARN: Self = Self(2);
    /// What is being done.
    pub const INFO: Self = Self(3);
    /// For whoever looks for a cause.
    pub const DEBUG: Self = Self(4);
    /// Everything.
    pub const TRACE: Self = Self(5);
}
