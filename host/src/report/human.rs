//! Results in words and small tables.

use std::{fmt::Write, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use indicatif::{HumanCount, HumanDuration};
use qhost_plugin_api::documents::EncodingPattern;

use super::{
    PluginRow, Usage,
    plan_text::broken_promise,
    screen::{HINT, STRONG, WARNING},
};
use crate::{
    plan::bits_per_weight,
    plugin::{Catalog, Status},
    run::Outcome,
    text::{shell_word, shown},
};

/// The result of `quantize`.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
pub fn show_result(outcome: &Outcome, usage: Usage, beside: &[PathBuf]) -> String {
    let mut text = format!("{STRONG}{}{STRONG:#}\n", outcome.opened().display());
    let bits = bits_per_weight(outcome.file_bytes, outcome.parameters);
    let mut row = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name:<10} {value}");
    };
    row("format", format!("{} {}", shown(&outcome.format), shown(&outcome.level)));
    row("model", format!("{}, {} parameters", outcome.architecture, HumanCount(outcome.parameters)));
    if let Some(converted) = &outcome.converted {
        let level = converted.level.as_deref().map_or_else(String::new, |level| format!(" {level}"));
        row("from", format!("{}{}: {}", shown(&converted.format), shown(&level), converted.loss.sentence()));
    }
    row(
        "size",
        format!(
            "{} of {} ({bits:.2} bits per weight, {:.2}× smaller)",
            ByteSize(outcome.file_bytes),
            ByteSize(outcome.source_bytes),
            outcome.source_bytes as f64 / (outcome.file_bytes.max(1)) as f64,
        ),
    );
    let promised = outcome.level_bytes.map(|bytes| bits_per_weight(bytes, outcome.parameters));
    if let Some(promise) = broken_promise(&outcome.level, promised) {
        row("", promise);
    }
    for path in beside {
        row("beside", shown(&path.display().to_string()).into_owned());
    }
    let checks: Vec<_> = outcome.findings.checks.iter().map(|check| check.name.as_str()).collect();
    row("checked", shown(&crate::text::list(&checks)).into_owned());
    row(
        "took",
        format!(
            "{}{}{}",
            took(outcome.duration),
            usage.peak_anonymous.map_or_else(String::new, |bytes| format!(", {} of memory", ByteSize(bytes))),
            if outcome.resumed.is_some() { ", resumed" } else { "" },
        ),
    );
    if outcome.converted.is_none() {
        let original =
            outcome.origin.as_ref().map_or_else(|| outcome.source.display().to_string(), |origin| origin.id.clone());
        let made = outcome.opened().display().to_string();
        let (made, original) = (shell_word(&made), shell_word(&original));
        row("next", shown(&format!("qhost eval {made} --against {original}")).into_owned());
    }
    text
}

/// A duration in words, tenths of a second for a short one.
pub(super) fn took(duration: Duration) -> String {
    if duration < Duration::from_secs(10) {
        format!("{:.1} seconds", duration.as_secs_f64())
    } else {
        HumanDuration(duration).to_string()
    }
}

/// The list of plugins.
#[must_use]
pub fn show_plugins(catalog: &Catalog) -> String {
    if catalog.found.is_empty() {
        return format!(
            "no plugin was found\n{HINT}hint:{HINT:#} keep the `plugins` folder beside the executable, or name one with --plugin-dir\n"
        );
    }
    let mut text = String::new();
    for found in &catalog.found {
        let title = found.manifest.as_ref().map_or_else(
            || match found.id() {
                Some(id) => shown(id).into_owned(),
                None => found.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            },
            |manifest| format!("{} {}", manifest.id, manifest.version),
        );
        let style = if found.status == Status::Ready { STRONG } else { WARNING };
        let _ = writeln!(text, "{STRONG}{title}{STRONG:#}  {style}{}{style:#}", found.status.name());
        let mut row = |name: &str, value: &str| {
            let _ = writeln!(text, "  {name:<8} {value}");
        };
        if let Some(manifest) = &found.manifest {
            row("summary", &manifest.summary);
            for format in &manifest.formats {
                row("format", &format!("{}: {}", format.id, format.levels.join(" ")));
            }
            for step in &manifest.transcodes {
                row("makes", &format!("{} of {}", step.to, step.from));
            }
            row("api", &manifest.api);
        }
        row("path", &found.path.display().to_string());
        if let Some(entry) = &found.installed {
            row("origin", &shown(&entry.origin));
            row("sha256", &entry.sha256);
        }
        if let Some(reason) = &found.reason {
            row("reason", reason);
        }
        if let Some(hint) = &found.hint {
            row("hint", hint);
        }
    }
    text
}

/// One plugin in detail.
#[must_use]
pub fn show_plugin(row: &PluginRow<'_>) -> String {
    let mut text = show_plugins(&Catalog { found: vec![row.found.clone()] });
    for format in row.description.iter().flat_map(|description| &description.formats) {
        let _ = writeln!(text, "\n{STRONG}{}{STRONG:#}", shown(&format.id));
        let width = format.levels.iter().map(|level| level.id.len()).max().unwrap_or(0);
        for level in &format.levels {
            let mark = if format.default_level.as_ref() == Some(&level.id) { "*" } else { " " };
            let _ = writeln!(
                text,
                " {mark}{:<width$}  {:>5.2} bits  {}",
                shown(&level.id),
                level.bits_per_weight,
                shown(&level.summary)
            );
        }
        let patterns =
            |patterns: &[EncodingPattern]| patterns.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        for (word, of) in
            [("takes", &format.takes), ("gives", &format.gives)].into_iter().filter(|(_, of)| !of.is_empty())
        {
            let _ = writeln!(text, "  {word} floats; {}", shown(&patterns(of)));
        }
        for option in &format.options {
            let _ = writeln!(text, "  --plugin-option {}=…  {}", shown(&option.key), shown(&option.summary));
        }
    }
    text
}
