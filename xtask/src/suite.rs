//! `cargo xtask test`: all tests, and what they need.

use std::process::{Command, Stdio};

use anyhow::Result;
use clap::Args;

use crate::{
    cargo::{self, Workspace},
    loaders,
    provision::{self, Environment},
    stage,
};

/// Packages that build llama.cpp.
const COMPARISONS: [&str; 2] = ["qhost-oracle", "qhost-interop"];

#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// Leave out the comparisons with llama.cpp, which take minutes to build.
    #[arg(long)]
    fast: bool,
    /// Have folders of packed weights read by gptqmodel, transformers and vLLM instead, which come from PyPI and take
    /// some 13 GB in target/loaders.
    #[arg(long, conflicts_with = "fast")]
    loaders: bool,
    /// Run only tests (or, of loaders, cases) whose names contain this.
    filter: Option<String>,
}

pub(crate) fn run(settings: &Settings) -> Result<()> {
    if settings.loaders {
        return loaders::run(settings.filter.as_deref());
    }
    let workspace = Workspace::read()?;
    let environment = if settings.fast { Environment::default() } else { provision::provision(&workspace.target)? };
    let (dist, plugins) = (stage::dist()?, stage::test_plugins()?);
    let prepared = |arguments: &[&str]| {
        let mut cargo = cargo::cargo();
        cargo.args(arguments).arg("--workspace");
        if settings.fast {
            for package in COMPARISONS {
                cargo.args(["--exclude", package]);
            }
        }
        environment.apply(&mut cargo);
        cargo.env("QHOST_TEST_DIST", &dist).env("QHOST_TEST_PLUGINS", &plugins);
        cargo
    };
    if settings.filter.is_none() {
        cargo::run(&mut prepared(&["test", "--doc"]))?;
    }
    if settings.filter.is_none() {
        loaders::decode(&dist)?;
    }
    // nextest sums up all tests in one line, which is the last; without it cargo does, once for each test program.
    let runner: &[&str] = if has_nextest() { &["nextest", "run"] } else { &["test", "--lib", "--bins", "--tests"] };
    cargo::run(prepared(runner).args(&settings.filter))
}

fn has_nextest() -> bool {
    let mut probe = Command::new("cargo");
    probe.args(["nextest", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}
