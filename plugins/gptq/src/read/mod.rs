//! Reading folders of packed linears, whoever made them: what is in them, whether it is sound, and its weights.
//!
//! It knows the tensors of the format and its config; names are the checkpoint's own, so which parameter is which is
//! the host's to say.

mod compare;
mod decode;
mod linear;
mod reader;
mod settings;
mod unpack;
mod verify;

pub(crate) use compare::Comparison;
pub(crate) use decode::Decoding;
pub(crate) use reader::Reader;
#[cfg(test)]
pub(crate) use verify::LOADERS;
