//! Calling cargo and other programs.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Cargo, as it called us, in the repository.
pub(crate) fn cargo() -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.current_dir(qhost_tests::repository());
    command
}

/// Runs a command to its end; what it prints goes where ours goes.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{} cannot be run", shown(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", shown(command));
    }
    Ok(())
}

/// Runs a command and gives its standard output.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("{} cannot be run", shown(command)))?;
    if !output.status.success() {
        bail!("{} failed ({})", shown(command), output.status);
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// A command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// What cargo knows of the workspace.
pub(crate) struct Workspace {
    /// Where cargo builds.
    pub(crate) target: PathBuf,
    /// Packages: name and folder.
    pub(crate) packages: Vec<(String, PathBuf)>,
}

impl Workspace {
    pub(crate) fn read() -> Result<Self> {
        let text = read(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
        let metadata: Value = serde_json::from_str(&text)?;
        let target = metadata["target_directory"].as_str().context("cargo metadata has no target_directory")?;
        let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
        let packages = packages.iter().filter_map(|package| {
            let manifest = Path::new(package["manifest_path"].as_str()?);
            Some((package["name"].as_str()?.to_owned(), manifest.parent()?.to_owned()))
        });
        Ok(Self { target: target.into(), packages: packages.collect() })
    }

    /// The packages directly below a folder of the repository.
    pub(crate) fn packages_in(&self, folder: &str) -> Vec<&str> {
        let folder = qhost_tests::repository().join(folder);
        let inside = self.packages.iter().filter(|(_, place)| place.parent() == Some(&folder));
        inside.map(|(name, _)| name.as_str()).collect()
    }
}
