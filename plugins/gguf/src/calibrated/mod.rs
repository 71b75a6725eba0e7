//! Files whose codes and scales are chosen by what the inputs of the matrices are: an ordinary file, of the same types
//! and sizes, in which less is lost.
//!
//! Matrices are rounded under the Hessian of their inputs, layer by layer and in the order of the data flow, each with
//! the inputs that what was rounded before it gives. It knows which tensor has which input; the arithmetic is
//! `qhost-rounding`'s, and what all calibrated formats share is `qhost-linears`'.

mod cost;
mod inputs;
mod keys;
mod matrix;
mod memory;
mod pack;
mod readers;
mod scheme;
mod substitutes;
mod unit;

pub(crate) use cost::cost;
pub(crate) use inputs::{head, input, is_embedding, is_rounded, unit};
pub(crate) use keys::push_keys;
pub(crate) use memory::{memory, memory_per_thread};
pub(crate) use readers::{Readers, Reading};
pub(crate) use scheme::scheme;
pub(crate) use unit::{Rounding, make_unit};
