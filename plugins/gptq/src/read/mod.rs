//! Reading folders of the format, whoever made them.
//!
//! It knows the tensors of the format and its config; what is the same for all packed folders is `qhost-packed`.

mod linear;
mod packing;
mod settings;
#[cfg(test)]
mod tests;
mod unpack;
mod verify;

pub(crate) use settings::Settings;
#[cfg(test)]
pub(crate) use verify::LOADERS;
