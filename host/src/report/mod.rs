//! Telling people and programs what happens: progress, results, errors.
//!
//! Together with [`crate::cli`] the only room that prints. Standard output is data; everything else
//! goes to standard error.

mod conversion;
mod counts;
mod document;
mod download;
mod evaluation;
mod evaluation_page;
mod failure;
mod human;
mod inspection;
mod layout;
mod logging;
mod plan_text;
mod plots;
mod plugin_change;
mod progress;
mod screen;
mod several;
mod summary;
mod verification;

pub use conversion::{question, show_losses, with_losses};
pub use document::{Files, PluginRow, plan_document, plugins_document, report_document, result_document};
pub use evaluation::{evaluation_document, show_evaluation};
pub use evaluation_page::evaluation_page;
pub use failure::{Problem, show_problem};
pub use human::{show_plugin, show_plugins, show_result};
pub use inspection::{inspection_document, show_inspection};
pub use logging::{LogSettings, start_logging};
pub use plan_text::show_plan;
pub use plugin_change::{
    Change, CheckedPlugin, change_document, checked_plugin_document, show_change, show_checked_plugin,
};
pub use progress::{Progress, ProgressStyle, Usage};
pub use screen::{ask, print_json, print_text};
pub use several::{plans_document, results_document, show_plans, show_results};
pub use verification::{show_verification, verification_document};

/// The log target of what is shown on the screen anyway: it goes to the log file only.
const LOGGED: &str = "qhost::shown";

/// How much is said beside the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// Progress and warnings.
    Normal,
    /// What is being done, too.
    Verbose,
    /// Everything that may help to find a cause.
    Debug,
}
