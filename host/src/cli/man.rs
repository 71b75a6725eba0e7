//! `qhost man`.

use std::path::Path;

use clap::CommandFactory;

use super::{CommandResult, arguments::CommandLine, printed};
use crate::{
    exit_code::ExitCode,
    report::{self, Problem},
};

/// Prints the page of the program, or writes those of all its commands into a folder.
pub(super) fn print(folder: Option<&Path>) -> CommandResult {
    let Some(folder) = folder else {
        let mut page = Vec::new();
        clap_mangen::Man::new(CommandLine::command()).render(&mut page).map_err(|error| unwritable(&error, None))?;
        return printed(report::print_text(&String::from_utf8_lossy(&page)));
    };
    clap_mangen::generate_to(CommandLine::command(), folder).map_err(|error| unwritable(&error, Some(folder)))
}

fn unwritable(error: &std::io::Error, folder: Option<&Path>) -> Problem {
    let place = folder.map_or_else(String::new, |folder| format!(" into {}", folder.display()));
    let hint = "name a folder that exists, such as ~/.local/share/man/man1";
    Problem::new(ExitCode::Resources, format!("cannot write manual pages{place}: {error}"), hint)
}
