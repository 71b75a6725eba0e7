//! The border between host and plugin.
//!
//! - `layouts/`: the objects and structs that cross it. Frozen: the loader compares the host's and
//!   the plugin's and refuses a pair that differs, even by an appended field.
//! - The numbers that stand for kinds, dtypes and levels. New ones may be added: a side that does
//!   not know one refuses it.
//! - Making and showing [`Failure`]s.
//!
//! It knows no format, no model and no file; it moves ids, byte ranges, tensor views and JSON text.
//! `qhost-plugin-api` re-exports it as `abi`, and its `ABI.md` tells how each planned feature grows
//! without a change here.

mod failure;
#[expect(
    non_local_definitions,
    unsafe_code,
    unused_qualifications,
    clippy::expl_impl_clone_on_copy,
    clippy::used_underscore_binding,
    reason = "in code that abi_stable's macros generate; none of it is written here"
)]
mod layouts;
mod numbers;

pub use layouts::{
    ABI_VERSION, Answer, DType, Failure, FailureKind, Files, Files_TO, FilesObject, Host, Host_TO, HostObject, Job,
    Job_TO, JobObject, Lease, LogLevel, Plugin, Plugin_TO, PluginModule, PluginModuleRef, PluginObject, Service,
    Service_TO, ServiceObject, Task, TensorView, TensorViewMut, Unit, Unit_TO, UnitObject,
};

/// Names the calling convention of the library, checked in its manifest before it is loaded.
///
/// A plugin for another convention (a plain C table, say) carries another tag.
pub const ABI_TAG: &str = "abi_stable-0.11";
