//! The one crate that a qhost format plugin depends on.
//!
//! - [`abi`]: the frozen border between host and plugin.
//! - [`documents`]: the JSON documents that cross it, which may grow.
//! - [`sdk`]: ordinary Rust over both, compiled into the plugin.
//! - [`export_plugin!`]: makes a crate a plugin library.
//!
//! It knows no format and no model family. `README.md` shows how to write a plugin; `ABI.md` tells
//! what is frozen, and how everything else may grow.

#[expect(
    non_local_definitions,
    unsafe_code,
    unused_qualifications,
    clippy::expl_impl_clone_on_copy,
    clippy::used_underscore_binding,
    reason = "in code that abi_stable's macros generate; none of it is written here"
)]
pub mod abi;
pub mod documents;
#[doc(hidden)]
pub mod export;
pub mod sdk;
