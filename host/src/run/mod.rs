//! The driver: from a request to a finished output.
//!
//! [`prepare()`] does everything that needs no weights and refuses whatever can be refused;
//! [`Prepared::execute`] runs the plan unit by unit, keeps the journal, and finishes. Nothing here prints: it tells
//! [`Events`] what happens. Only this room knows the order of the others.

mod arithmetic;
mod at_work;
mod calibrated;
mod card;
mod commit;
mod decoded;
mod error;
mod event;
mod execute;
mod fetch;
mod files;
mod finished;
mod input;
mod journal;
mod opened;
mod option_files;
mod options;
mod outcome;
mod planes;
mod prepare;
mod resources;
mod several;
mod sources;
mod speed;
mod survey;
mod turns;
mod unit;
mod written;

pub use error::Error;
pub use event::{Event, Events};
pub use fetch::{Fetched, ModelSource, Origin, fetch_whole};
pub use files::{Companion, Companions};
pub use finished::Finished;
pub use input::Wanted;
pub use journal::sound_part_of_journal;
pub use opened::{OpenedModel, open_model};
pub use outcome::{Converted, Outcome, Resumed, TensorOutcome};
pub use prepare::{CalibrationRequest, FormatRequest, Prepared, Request};
pub use qhost_compute::DeviceChoice;
pub use resources::{Resources, connect};
pub use several::{Totals, execute, prepare, tidy_up};
pub use sources::Sources;
