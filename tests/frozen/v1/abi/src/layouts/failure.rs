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
