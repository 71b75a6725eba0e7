//! Bytes under a budget: mapped source files, and the ledger that grants working memory.
//!
//! It knows neither tensors nor plans.

mod ledger;
mod mapping;

pub use ledger::{Ledger, Refused};
pub use mapping::MappedFile;
