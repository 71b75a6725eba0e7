//! The qhost host: everything but the formats.
//!
//! `ARCHITECTURE.md` beside this folder tells which room knows what.

pub mod cancel;
pub mod exit_code;
pub mod model;
pub mod plugin;
pub mod source;
pub mod stream;
pub mod text;
