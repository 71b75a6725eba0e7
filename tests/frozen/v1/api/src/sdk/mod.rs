//! Ordinary Rust over the frozen border, compiled into each plugin and free to change.
//!
//! A plugin implements [`Format`] and [`FormatJob`] and names its type in
//! [`export_plugin!`](crate::export_plugin); everything unsafe, every panic and every thread is
//! dealt with here. The SDK knows no format and no model family.
#![expect(clippy::inline_always, reason = "a loop is compiled for an instruction set only with all that it calls")]

mod beside;
mod bridge;
mod chunks;
mod compute;
mod decode;
mod files;
mod float;
mod folding;
mod format;
mod forward;
mod host;
mod instructions;
mod panics;
mod plain;
mod planes;
mod reader;
mod rows;
mod scratch;
mod service;
mod squares;
mod transcode;
mod unit;

pub use beside::{BESIDE, BesideFiles, beside_service};
pub use bridge::connect;
pub use chunks::{CHUNK_WEIGHTS, Chunk, RowJob, chunks};
pub use compute::{COMPUTE, Compute, Matrix};
pub use decode::{DECODE, RowDecoder, decode_service};
pub use files::{FilesHandle, IMATRIX_FILE};
pub use float::{first_non_finite, narrow_to_bf16, widen};
pub use folding::apply_fold;
pub use format::{Format, FormatJob, NoJob};
pub use host::{Grant, HostHandle};
pub use instructions::{InstructionSet, Loop};
pub use planes::Planes;
pub use reader::{FileReader, FileView, READER, VERIFY, json_number, list_entry, reader_service, verify_service};
pub use rows::Rows;
pub use scratch::{Scratch, with_scratch};
pub use service::{FormatService, Operand, OperandMut, ServiceAnswer, ServiceHandle, answer};
pub use squares::{SquaredErrors, squared_errors};
pub use transcode::{TRANSCODE, Transcoder, transcode_service};
pub use unit::{EXISTING, PLANES, REPLAY, STATISTICS, STATISTICS_2, SURVEY, UnitHandle};

pub use crate::abi::{DType, Failure, FailureKind};
pub use crate::documents;

/// What fallible SDK functions return.
pub type Result<T> = std::result::Result<T, Failure>;
