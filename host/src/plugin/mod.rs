//! Plugins: where they are, what they say of themselves, loading them, and calling them.
//!
//! The only room that names `abi_stable` or `libloading`. It knows no model and no format; it moves
//! documents and bytes between the border's objects and plain Rust.

mod calls;
mod catalog;
mod check;
#[cfg(target_os = "linux")]
mod code;
#[cfg(target_os = "linux")]
mod crash;
mod decoder;
mod error;
mod library;
mod manifest;
pub mod process;
mod quarantine;
mod reader;
#[cfg(target_os = "linux")]
mod remote;
mod search;
mod services;
mod store;
mod watchdog;

pub use calls::VERDICT_AT;
pub use catalog::{Catalog, Found, Status, digest};
pub use check::{Trial, conformance_of, load_and_describe};
pub use decoder::{RowDecoder, Transcoder};
pub use error::Error;
pub use library::{ConnectSettings, LoadedJob, LoadedPlugin};
pub use manifest::{Unreadable, of_library as manifest_of, read as read_manifest};
pub use quarantine::{Quarantine, Verdict};
pub use reader::{NamedBytes, NumberCheck};
#[cfg(target_os = "linux")]
pub use remote::serve as serve_as_process;
pub use search::{SearchPath, SearchSettings};
pub use services::{Borrowed, FileSource, UnitServices};
pub use store::{Entry as Installed, Staged, Store};

/// From now on, a plugin that crashes or hangs ends the process with a message that names it, and is remembered.
pub fn watch(as_json: bool) {
    #[cfg(target_os = "linux")]
    crash::watch(as_json);
    let _ = as_json;
}
