//! Python for the loaders: what the system has is used, packages come from PyPI into `target/loaders`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::cargo;

/// For the decoder. There is nothing special about this version.
const NUMPY: &str = "numpy>=1.26,<3";

/// An interpreter and what it finds beside its own packages.
#[derive(Debug, Clone)]
pub(crate) struct Python {
    program: PathBuf,
    packages: Option<PathBuf>,
}

impl Python {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        // The scripts' own modules are in the repository.
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        if let Some(packages) = &self.packages {
            command.env("PYTHONPATH", packages);
        }
        command
    }

    /// A command that runs a file of `tests/loaders`.
    pub(crate) fn script(&self, name: &str) -> Command {
        let mut command = self.command();
        command.arg(qhost_tests::repository().join("tests/loaders").join(name));
        command
    }

    fn has_numpy(&self) -> bool {
        let mut probe = self.command();
        probe.args(["-c", "import numpy; numpy.zeros(1)"]).stdout(Stdio::null()).stderr(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    }
}

/// A Python with numpy. Where there is none and none can be made that is an error in CI, and otherwise nothing.
pub(crate) fn with_numpy(target: &Path) -> Result<Option<Python>> {
    let system = Python { program: "python3".into(), packages: None };
    if system.has_numpy() {
        return Ok(Some(system));
    }
    let folder = target.join("loaders").join("numpy");
    let fetched = Python { program: "python3".into(), packages: Some(folder.clone()) };
    if fetched.has_numpy() {
        return Ok(Some(fetched));
    }
    eprintln!("fetching numpy from PyPI …");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]);
    pip.args(["--root-user-action=ignore", "--upgrade", "--target"]).arg(&folder).arg(NUMPY);
    let done = pip.stdout(std::io::stderr()).status().is_ok_and(|status| status.success());
    if done && fetched.has_numpy() {
        return Ok(Some(fetched));
    }
    if env::var_os("CI").is_some() {
        bail!("the independent decoder needs python3 with numpy, or with pip (Debian: apt-get install python3-numpy)");
    }
    Ok(None)
}

/// A virtual environment.
pub(crate) struct Environment {
    pub(crate) name: &'static str,
    pub(crate) packages: &'static [&'static str],
    /// A package whose requirements cannot be met as they are.
    pub(crate) alone: Option<Alone>,
    /// About how much it takes.
    pub(crate) gigabytes: u32,
}

/// It is installed by itself first, and then what it asks for, except for packages whose names begin with a word.
pub(crate) struct Alone {
    pub(crate) package: &'static str,
    pub(crate) unwanted: &'static str,
}

/// Prints what a package asks for, one a line.
const REQUIREMENTS: &str = "\
import importlib.metadata, re, sys
for text in importlib.metadata.requires(sys.argv[1]):
    if not text.startswith(sys.argv[2]) and 'extra ==' not in text:
        print(text)
";

impl Environment {
    /// The environment's Python; what was made before is kept as long as it is to have the same packages.
    pub(crate) fn make(&self, target: &Path) -> Result<Python> {
        let folder = target.join("loaders").join(self.name);
        let python = Python { program: folder.join("bin/python"), packages: None };
        let stamp = folder.join("installed");
        let wanted: Vec<_> =
            self.packages.iter().copied().chain(self.alone.as_ref().map(|alone| alone.package)).collect();
        let wanted = wanted.join("\n");
        if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
            return Ok(python);
        }
        eprintln!(
            "making {} with {}, which takes some {} GB …",
            folder.display(),
            wanted.replace('\n', ", "),
            self.gigabytes
        );
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("{} cannot be removed", folder.display()))?;
        }
        cargo::run(Command::new("python3").args(["-m", "venv"]).arg(&folder))
            .context("the loaders need python3 with venv on the PATH (Debian: apt-get install python3-venv)")?;
        let install = |arguments: &[&str]| {
            let mut pip = python.command();
            pip.args(["-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"])
                .args(arguments);
            cargo::run(pip.stdout(std::io::stderr())).context("packages could not be fetched from PyPI")
        };
        install(self.packages)?;
        if let Some(Alone { package, unwanted }) = self.alone {
            install(&["--no-deps", package])?;
            let name = package.split('=').next().unwrap_or(package);
            let requirements = cargo::read(python.command().args(["-c", REQUIREMENTS, name, unwanted]))?;
            // Once more with what is there already, so that its versions stay.
            let lines = requirements.lines().map(str::trim).filter(|line| !line.is_empty());
            install(&self.packages.iter().copied().chain(lines).collect::<Vec<_>>())?;
        }
        fs::write(stamp, wanted)?;
        Ok(python)
    }
}
