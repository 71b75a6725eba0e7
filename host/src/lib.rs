//! The qhost host: everything but the formats.
//!
//! `ARCHITECTURE.md` beside this folder tells which room knows what.

pub mod calibrate;
pub mod cancel;
pub mod card;
pub mod cli;
pub mod convert;
pub mod dataset;
pub mod evaluate;
pub mod exit_code;
pub mod hub;
pub mod inspect;
pub mod measure;
pub mod memory;
pub mod model;
pub mod plan;
pub mod plugin;
pub mod quantised;
pub mod report;
pub mod run;
pub mod signals;
pub mod source;
pub mod stream;
pub mod text;
pub mod verify;
pub mod write;
