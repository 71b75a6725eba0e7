//! `qhost completions`.

use clap::CommandFactory;
use clap_complete::Shell;

use super::arguments::CommandLine;
use crate::report;

pub(super) fn print(shell: Shell) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut CommandLine::command(), "qhost", &mut script);
    report::print_text(&String::from_utf8_lossy(&script));
}
