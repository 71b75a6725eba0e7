//! What a plugin is at, in a small file of the work folder, so that a run that ends without a word leaves one.
//!
//! The plugin, the unit and the tensor that it was last lent are written down before the plugin has it; a crash adds a
//! verdict at a place of its own. Nothing of the output depends on it, so a disk that refuses is no error.

use std::{
    fs::{self, File},
    io,
    path::Path,
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::{
    plugin::{LoadedPlugin, VERDICT_AT, Verdict},
    stream::positioned::write_all_at,
    write::WorkFolder,
};

/// The record of a run that is under way.
#[derive(Debug)]
pub(super) struct AtWork {
    file: Option<File>,
    now: Mutex<Moment>,
}

/// What a plugin was at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Moment {
    /// Id and version.
    plugin: String,
    unit: String,
    tensor: Option<String>,
}

/// How the last run here ended, if not by itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// A plugin has crashed.
    Crashed(Verdict),
    /// It was ended from outside, or with the machine.
    Silently(Moment),
}

impl Moment {
    /// All of it in a few words.
    pub(super) fn sentence(&self) -> String {
        let tensor = self.tensor.as_ref().map(|tensor| format!(", {tensor}")).unwrap_or_default();
        format!("the plugin {} was at {}{tensor}", self.plugin, self.unit)
    }
}

impl AtWork {
    /// Begins the record of a run.
    pub(super) fn begin(work: &WorkFolder, plugin: &LoadedPlugin) -> Self {
        let file = File::create(work.at_work());
        let file = file.inspect_err(|error| tracing::debug!("no record of what is at work: {error}")).ok();
        let plugin = format!("`{}` {}", plugin.manifest.id, plugin.manifest.version);
        Self { file, now: Mutex::new(Moment { plugin, ..Moment::default() }) }
    }

    /// The file, for a crash to be told in.
    pub(super) fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// A unit begins.
    pub(super) fn unit(&self, name: &str) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        name.clone_into(&mut now.unit);
        now.tensor = None;
        self.write(&now);
    }

    /// Rows of a tensor are lent; mostly of the same as before.
    pub(super) fn tensor(&self, name: &str) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if now.tensor.as_deref() != Some(name) {
            now.tensor = Some(name.to_owned());
            self.write(&now);
        }
    }

    fn write(&self, now: &Moment) {
        let Some(file) = &self.file else { return };
        // Blanks to the end, so that nothing of what was there before is left.
        let mut text = serde_json::to_vec(now).unwrap_or_default();
        if text.len() < VERDICT_AT {
            text.resize(VERDICT_AT, b' ');
            let _ = write_all_at(file, 0, &text);
        }
    }

    /// How the last run in this folder ended.
    pub(super) fn last(work: &WorkFolder) -> Option<Ended> {
        last_in(&work.at_work())
    }
}

impl Drop for AtWork {
    /// The run ends by itself, well or with an error that is told.
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            let _: io::Result<()> = file.set_len(0);
        }
    }
}

fn last_in(path: &Path) -> Option<Ended> {
    let bytes = fs::read(path).ok()?;
    let (moment, verdict) = bytes.split_at(bytes.len().min(VERDICT_AT));
    if let Ok(verdict) = serde_json::from_slice(verdict) {
        return Some(Ended::Crashed(verdict));
    }
    serde_json::from_slice(moment).ok().map(Ended::Silently)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(file: File) -> AtWork {
        AtWork { file: Some(file), now: Mutex::default() }
    }

    #[test]
    fn the_last_moment_is_told_and_an_ordinary_end_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("at-work");
        let at_work = record(File::create(&path).unwrap());
        at_work.unit("layer 1 of 2");
        at_work.tensor("a.tensor.with.a.longer.name");
        at_work.tensor("short");
        let moment = Moment { plugin: String::new(), unit: "layer 1 of 2".into(), tensor: Some("short".into()) };
        assert_eq!(last_in(&path), Some(Ended::Silently(moment)));
        let verdict = br#"{"id":"x","version":"1","sha256":"0","path":"p","how":"crashed","during":"d"}"#;
        write_all_at(at_work.file().unwrap(), VERDICT_AT as u64, verdict).unwrap();
        assert!(matches!(last_in(&path), Some(Ended::Crashed(verdict)) if verdict.how == "crashed"));
        drop(at_work);
        assert_eq!(last_in(&path), None);
    }
}
