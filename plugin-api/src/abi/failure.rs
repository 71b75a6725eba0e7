//! The error value that crosses the border in both directions.
//!
//! It knows neither Rust error types nor how an error is shown; the kind is a plain number so that
//! a newer side may send a kind that an older side has not heard of.

use abi_stable::{StableAbi, std_types::RString};

/// What went wrong, and what the user can do about it.
#[repr(C)]
#[derive(StableAbi, Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The class of the failure, which is also the exit code that the host ends with.
    pub kind: FailureKind,
    /// One sentence in plain words, without a trailing full stop.
    pub message: RString,
    /// What the user can do, or empty.
    pub hint: RString,
    /// The tensor, file or option that it is about, or empty.
    pub subject: RString,
    /// A JSON object with more, for programs, or empty.
    pub details: RString,
}

/// The class of a [`Failure`]: the number is the process exit code documented for it.
#[repr(transparent)]
#[derive(StableAbi, Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FailureKind(pub u32);

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
