//! The frozen layouts: every type here has one form for good.
//!
//! `cargo xtask tidy` holds a digest against this folder, comments and white space apart. The ways
//! to grow are [`Service`] ports found by `query_interface`, new keys in the JSON documents, and new
//! numbers, which stand outside this folder.

mod failure;
mod host;
mod module;
mod plugin;
mod service;
mod tensor;

pub use failure::{Failure, FailureKind};
pub use host::{Files, Files_TO, FilesObject, Host, Host_TO, HostObject, LogLevel, Task, Unit, Unit_TO, UnitObject};
pub use module::{ABI_VERSION, PluginModule, PluginModuleRef};
pub use plugin::{Job, Job_TO, JobObject, Plugin, Plugin_TO, PluginObject};
pub use service::{Answer, Service, Service_TO, ServiceObject};
pub use tensor::{DType, Lease, TensorView, TensorViewMut};
