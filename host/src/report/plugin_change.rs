//! What `plugins check`, `install` and `remove` tell.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{
    document::{PluginRow, plugin_row},
    screen::{ERROR, HINT, STRONG, WARNING},
};
use crate::{
    plugin::{Found, Installed, Status, Trial},
    text::shown,
};

/// A plugin that was tried.
#[derive(Debug, Clone)]
pub struct CheckedPlugin {
    /// The library.
    pub found: Found,
    /// Whether the conformance suite was run.
    pub full: bool,
    /// What was tried.
    pub trials: Vec<Trial>,
    /// Whether it had been put away after a crash, and may be loaded again.
    pub released: bool,
}

impl CheckedPlugin {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.trials.iter().all(|trial| !trial.has_failed())
    }
}

/// What became of the installed plugins.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// The library that brings the plugin now, if any does.
    pub row: Option<&'a Found>,
    /// What was installed under its id before.
    pub replaced: Option<&'a Installed>,
    /// What is not installed any more.
    pub removed: Option<&'a Installed>,
}

/// The outcome of a check, for programs.
#[must_use]
pub fn checked_plugin_document(checked: &CheckedPlugin) -> Value {
    json!({
        "schema": "qhost.plugin-check/1",
        "status": if checked.passes() { "ok" } else { "failed" },
        "full": checked.full,
        "released": checked.released,
        "plugin": plugin_row(&PluginRow { found: &checked.found, description: None }),
        "checks": checked.trials,
    })
}

/// The outcome of a check, in words.
#[must_use]
pub fn show_checked_plugin(checked: &CheckedPlugin) -> String {
    let mut text = format!("{STRONG}{}{STRONG:#}\n", checked.found.path.display());
    for trial in &checked.trials {
        let (style, word) = match trial.verdict.as_str() {
            "passed" => (STRONG, "passed "),
            "failed" => (ERROR, "FAILED "),
            _ => (WARNING, "skipped"),
        };
        let format = trial.format.as_ref().map_or_else(String::new, |format| format!(" ({format})"));
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  {style}{word}{style:#}  {}{}: {}",
            shown(&trial.check),
            shown(&format),
            shown(&trial.detail)
        );
    }
    if checked.released {
        let _ = writeln!(text, "it is loaded again from now on");
    }
    if checked.passes() && !checked.full {
        let _ = writeln!(text, "{HINT}hint:{HINT:#} --full runs the conformance suite");
    }
    text
}

/// What became of the installed plugins, for programs.
#[must_use]
pub fn change_document(change: &Change<'_>) -> Value {
    json!({
        "schema": "qhost.plugin-change/1",
        "status": "ok",
        "plugin": change.row.map(|found| plugin_row(&PluginRow { found, description: None })),
        "replaced": change.replaced,
        "removed": change.removed,
    })
}

/// What became of the installed plugins, in words.
#[must_use]
pub fn show_change(change: &Change<'_>) -> String {
    let mut text = String::new();
    let named = |entry: &Installed| format!("{} {}", shown(&entry.id), shown(&entry.version));
    if let Some(removed) = change.removed {
        let _ = writeln!(text, "removed {}", named(removed));
        if let Some(found) = change.row {
            let _ = writeln!(text, "  `{}` is taken from {} now", shown(&removed.id), found.path.display());
        }
        return text;
    }
    let Some((found, entry)) = change.row.and_then(|found| Some((found, found.installed.as_ref()?))) else {
        return text;
    };
    let _ = writeln!(text, "installed {STRONG}{}{STRONG:#} from {}", named(entry), shown(&entry.origin));
    if let Some(replaced) = change.replaced {
        let _ = writeln!(text, "  in place of {} from {}", named(replaced), shown(&replaced.origin));
    }
    let _ = writeln!(text, "  sha256  {}", entry.sha256);
    if let (Some(reason), true) = (&found.reason, found.status != Status::Ready) {
        let _ = writeln!(text, "{WARNING}warning:{WARNING:#} it is not used: {reason}");
        if let Some(hint) = &found.hint {
            let _ = writeln!(text, "{HINT}hint:{HINT:#} {hint}");
        }
    } else if let Some(format) = found.manifest.iter().flat_map(|manifest| &manifest.formats).next() {
        let _ = writeln!(text, "{HINT}hint:{HINT:#} qhost quantize MODEL --format {}", shown(&format.id));
    }
    text
}
