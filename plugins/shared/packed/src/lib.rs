//! Folders whose linears are packed codes, whoever made them: what is in them, whether it is sound, and their weights.
//!
//! A format says by its [`Packing`] how codes lie in the tensors of a linear and what its settings are; the rest is the
//! same for all of them. Names are the checkpoint's own, so which parameter is which is the host's to say.

mod compare;
mod content;
mod decode;
mod job;
mod linear;
mod packing;
mod plain;
mod plugin;
mod reader;
mod settings;
mod stream;
mod tensors;
#[cfg(feature = "testing")]
pub mod testing;
mod values;
mod verify;

pub use compare::Comparison;
pub use content::Content;
pub use decode::Decoding;
pub use linear::{CODES, Endings, Linear, MINIMA, ORDER, Packed, Place, SCALES, Shape, ZEROS, word};
pub use packing::Packing;
pub use plugin::{Maker, Plugin};
pub use reader::Reader;
pub use settings::{CONFIG, KEY, autoround, flag, settings_in, text};
pub use stream::{RUN, mask, stream};
pub use tensors::{Tensors, in_memory, matrix, misshapen};
pub use verify::{Seen, finding};
