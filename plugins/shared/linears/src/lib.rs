//! The linears of a model as modules of a folder, each with codes, scales and zeros: which matrices are quantised and
//! what is kept, where in the files everything goes, and how they are rounded under the Hessian of their inputs.
//!
//! It knows no format: which modules are left out, which tensors a module has and how codes are packed it is told. What
//! it has are steps that a format puts together: look at a model ([`Contents`]), place it ([`Placement`]), tell the
//! host what is needed ([`units()`]); then for each unit take the modules by their inputs ([`by_inputs`]), condition
//! ([`curvature()`]), fetch ([`fetch`]), correct ([`Difference`]), round ([`round()`]), put in the place of the original
//! ([`Substitutes`]) and tell ([`tell`]).

mod alone;
mod arriving;
mod calibration;
mod check;
mod contents;
mod curvature;
mod difference;
mod effort;
mod expected;
mod inputs;
mod kept;
mod level;
mod memory;
mod misfits;
mod module;
mod options;
mod placement;
mod report;
mod requirements;
mod round;
mod selection;
mod sequential;
mod settings;
mod stacked;
mod substitutes;
mod taken;
mod uneven;
mod units;
mod weights;

pub use alone::{memory_alone, round_alone, units_alone};
pub use arriving::{Offered, leaves_open};
pub use calibration::{Calibration, DEFAULT_DAMP};
pub use check::{bad_scale, check};
pub use contents::{Contents, Item, is_linear, module_name};
pub use curvature::{conditioned, curvature, gram_of};
pub use difference::Difference;
pub use effort::Effort;
pub use expected::expected_error;
pub use inputs::{OfExperts, by_conditioning, by_inputs};
pub use kept::{Kept, copy};
pub use level::{Level, group_name, group_size};
pub use memory::{Conditioning, Targets, memory, memory_per_thread};
pub use module::{Module, Outputs};
pub use options::{bad, one_of};
pub use placement::{CONFIG_KEY, Part, Parts, Placement, tensors};
pub use report::{Inputs, Sums, metric, share, tell};
pub use requirements::{check_head, check_host, check_source};
pub use round::{Outcome, grid, groups, refuse_infinite, round, round_cost, scale_columns};
pub use selection::{Hints, Multiples, Selection};
pub use sequential::{WriteModule, round_unit};
pub use settings::Settings;
pub use stacked::is_stacked;
pub use substitutes::Substitutes;
pub use taken::{Arrived, Holds, NARROWED, Taken, arrive};
pub use units::{need, units};
pub use weights::{fetch, in_memory};
