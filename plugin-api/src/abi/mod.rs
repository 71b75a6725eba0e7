//! The frozen border between host and plugin: every type here has one layout for good.
//!
//! It knows no format, no model and no file; it moves ids, byte ranges, tensor views and JSON text.
//! Nothing in this folder may change its layout: the loader compares the host's and the plugin's
//! layouts and refuses a pair that differs, even by an appended field. The ways to grow are
//! [`Service`] ports found by `query_interface` and new keys in the JSON
//! [documents](crate::documents); `ABI.md` tells how each planned feature uses them.

mod failure;
mod host;
mod module;
mod plugin;
mod service;
mod tensor;

pub use failure::{Failure, FailureKind};
pub use host::{Files, Files_TO, FilesObject, Host, Host_TO, HostObject, LogLevel, Task, Unit, Unit_TO, UnitObject};
pub use module::{PluginModule, PluginModuleRef};
pub use plugin::{Job, Job_TO, JobObject, Plugin, Plugin_TO, PluginObject};
pub use service::{Service, Service_TO, ServiceObject};
pub use tensor::{DType, Lease, TensorView, TensorViewMut};

/// Names the calling convention of the library, checked in its manifest before it is loaded.
///
/// A plugin for another convention (a plain C table, say) carries another tag.
pub const ABI_TAG: &str = "abi_stable-0.11";

/// Version of the frozen layouts in this folder; never the package's version.
pub const ABI_VERSION: &str = "1.0.0";

/// The plugin API that this crate's host side speaks: the frozen layouts plus the services and
/// document keys known so far. A manifest states the range it needs (`^1.0`).
pub const API_VERSION: &str = "1.0.0";
