//! `qhost completions`.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{CommandResult, arguments::CommandLine, printed};
use crate::report;

pub(super) fn print(shell: Shell) -> CommandResult {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut CommandLine::command(), "qhost", &mut script);
    printed(report::print_text(&String::from_utf8_lossy(&script)))
}
