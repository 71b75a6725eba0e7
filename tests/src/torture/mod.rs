//! Runs that are refused, interrupted and killed by the system at every call, and what must hold all the same.
//!
//! Whatever happens to a run: it ends with an exit code of the contract and says why, nothing but an old or a whole output
//! has the final name, and the same command then makes the same bytes as a run that nothing has happened to. Tests do some of
//! it, and `cargo xtask torture` all.

mod faults;
mod kills;
mod subject;
mod watch;

pub use faults::{Fault, Outcome};
pub use kills::Kills;
pub use subject::{Subject, subjects};
pub use watch::{Call, Watched};

/// What does not hold, in words; it says how to do it again.
pub type Complaint = String;
