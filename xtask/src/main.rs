//! The project's own commands.
//!
//! They build, run and check; what is checked is in the tests, and nothing here is part of what users
//! get.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "commands talk to the developer")]

mod bench;
mod cargo;
mod cases;
mod chains;
mod conversions;
mod imports;
mod loaders;
mod provision;
mod python;
mod stage;
mod suite;
mod synthetic;
mod tidy;
mod torture;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The project's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build everything, quantise the bundled model, check it, and say what to try next.
    Quickstart,
    /// Run all tests, after fetching what they need.
    Test(suite::Settings),
    /// Make target/dist: the executable and its plugins, a folder that can be copied anywhere.
    Dist,
    /// Check what no compiler checks: rooms and their imports, file heads, the frozen ABI.
    Tidy {
        /// Accept the present ABI as the frozen one; only ever right before the first release.
        #[arg(long)]
        freeze_abi: bool,
    },
    /// Measure speed and memory beside llama.cpp and the machine's limits; results go into tests/bench.
    Bench(bench::Settings),
    /// Run into every fault that a disk can have, and kill runs at random instants, on Linux on x86-64.
    Torture(torture::Settings),
    /// Make a large random checkpoint.
    Synthetic(synthetic::Settings),
    /// Measure the machine, for `bench`.
    #[command(hide = true)]
    Limits(bench::LimitSettings),
    /// Print the environment for building llama.cpp by hand: eval "$(cargo xtask tools)".
    Tools,
    /// Build what the black-box tests run, and print the two folders.
    #[command(hide = true)]
    Stage,
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Quickstart => stage::quickstart(),
        Command::Test(settings) => suite::run(&settings),
        Command::Dist => {
            let dist = stage::dist()?;
            println!("{}", dist.display());
            Ok(())
        }
        Command::Tidy { freeze_abi } => tidy::run(freeze_abi),
        Command::Bench(settings) => bench::run(&settings),
        Command::Torture(settings) => torture::run(&settings),
        Command::Synthetic(settings) => synthetic::make(&settings),
        Command::Limits(settings) => bench::print_limits(&settings),
        Command::Tools => provision::print(&cargo::Workspace::read()?.target),
        Command::Stage => {
            println!("{}\n{}", stage::dist()?.display(), stage::test_plugins()?.display());
            Ok(())
        }
    }
}
