//! Everything that reads bytes from outside, as functions of bytes.
//!
//! Each [`Target`] says what a reader has to do with any bytes at all: tell what is in them or refuse them, without a
//! panic, without an abort, in bounded time, and within memory that is bounded by the length of the input. Ordinary tests
//! try them on seeds, on changed seeds and on what once failed; the fuzzers in `fuzz/` on whatever libFuzzer finds.
//! It names no plugin: one program can hold one, which the tests and the fuzzers choose.

mod allocation;
mod mutation;
mod random;
pub mod seeds;
mod target;
pub mod targets;

pub use mutation::{SEPARATOR, mutate};
pub use random::Random;
pub use target::{Form, Read, Target, without_traces};
