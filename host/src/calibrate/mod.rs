//! Running a model layer by layer: the forward pass, and the statistics of what its linears read.
//!
//! It knows roles and arithmetic; it knows no files, no formats and no plugin. One generic decoder serves all
//! families: what they compute is data of [`crate::model`].

mod batch;
mod decoder;
mod error;
mod hidden;
mod kept;
mod layer;
mod observer;
mod original;
mod pass;
mod rotary;
mod routing;
mod session;
mod statistics;
mod weights;

pub use batch::{Batch, TOKENS as BATCH_TOKENS};
pub use decoder::{Decoder, Groups, LayerShape, NormShape};
pub use error::Error;
pub use hidden::{HiddenStates, MOST_IN_MEMORY};
pub use kept::{Kept, Point, Stretch};
pub use layer::Tables;
pub use observer::{Input, Interruption, Nobody, Observer};
pub use original::snapshot_of_original;
pub use pass::{Engine, LayerRun, Step};
pub use rotary::{Frequencies, Longer, RotaryTable};
pub use routing::{Assignment, Router};
pub use session::{Answer, Calibrating, Calibration, Needs, Refusal, Virtual};
pub use statistics::{Gathered, Numbers, memory as statistics_memory, needs_original};
pub use weights::{Gain, Lent, Linear, Modules, Substitutes, UnitTensors, Weights};
