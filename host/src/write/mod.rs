//! Output files: reserved before the work, filled at planned offsets, put in place in one step.
//!
//! It decides nothing: names, lengths and offsets come from the plan.

mod error;
mod finish;
mod reserved;
mod target;
mod work_folder;

pub use error::Error;
pub use finish::{publish, sync_folder, unpublished};
pub use reserved::ReservedFiles;
pub use target::{Target, free_at, same_disk, survey};
pub use work_folder::WorkFolder;
