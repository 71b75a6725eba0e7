//! Commands under the library `faults`, and the calls that they make.
#![expect(clippy::panic, clippy::missing_panics_doc, reason = "a test that cannot watch its command has failed")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::command::{Qhost, test_plugin};

/// A call of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// `open`, `write`, `sync`, `truncate`, `allocate`, `lock`, `rename`, `mkdir` or `remove`.
    pub kind: String,
    /// Whether something was done to it.
    pub hit: bool,
    /// Its file, or of a move the origin.
    pub path: PathBuf,
}

/// Where the calls of a command are written down.
#[derive(Debug)]
pub struct Watched {
    log: PathBuf,
}

impl Watched {
    /// Watches what a command does below `folder`; calls are written into `log`, which begins anew.
    #[must_use]
    pub fn new(qhost: Qhost, folder: &Path, log: &Path) -> (Qhost, Self) {
        let _ = fs::remove_file(log);
        let qhost = qhost.env("LD_PRELOAD", test_plugin("faults"));
        (qhost.env("QHOST_FAULT_FOLDER", folder).env("QHOST_FAULT_LOG", log), Self { log: log.to_owned() })
    }

    /// The calls so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        let text = fs::read(&self.log).unwrap_or_else(|error| panic!("{}: {error}", self.log.display()));
        let text = String::from_utf8_lossy(&text);
        let call = |line: &str| {
            let mut parts = line.splitn(3, ' ');
            let (kind, hit, path) = (parts.next()?, parts.next()?, parts.next()?);
            Some(Call { kind: kind.into(), hit: hit == "!", path: path.into() })
        };
        text.lines().map(|line| call(line).unwrap_or_else(|| panic!("not a call: {line}"))).collect()
    }
}
