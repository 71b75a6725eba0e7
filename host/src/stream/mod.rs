//! Bytes under a budget: mapped source files, rows lent from them, and the ledger that grants working
//! memory.
//!
//! It knows neither tensors nor plans.

mod encoding;
mod ledger;
mod lender;
mod mapping;
pub mod positioned;

pub use encoding::{Encoding, ScaleKind, Scales};
pub use ledger::{Grant, Ledger, Refused};
pub use lender::{Lender, Loan, NoSuchRows, Placement, most_mapped};
pub use mapping::{FileIdentity, MappedFile, MappedPlace};
