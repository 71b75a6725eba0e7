//! The one crate that a qhost format plugin depends on.
//!
//! - [`abi`]: the frozen border between host and plugin, a package of its own.
//! - [`documents`]: the JSON documents that cross it, which may grow.
//! - [`sdk`]: ordinary Rust over both, compiled into the plugin.
//! - [`export_plugin!`]: makes a crate a plugin library.
//!
//! It knows no format and no model family. `README.md` shows how to write a plugin; `ABI.md` tells
//! what is frozen, and how everything else may grow.

pub use qhost_plugin_abi as abi;
/// Some documents hold JSON values; a plugin need not name the crate's version itself.
pub use serde_json;

pub mod documents;
#[doc(hidden)]
pub mod export;
pub mod sdk;

/// The plugin API that this crate speaks: the frozen layouts plus the services, document keys and
/// numbers known so far. A manifest states the range that it needs (`^1.0`).
pub const API_VERSION: &str = "1.0.0";
