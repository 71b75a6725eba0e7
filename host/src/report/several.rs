//! Several outputs of one run: their documents in one, and what they come to together.

use std::{collections::BTreeSet, fmt::Write, path::Path, time::Duration};

use bytesize::ByteSize;
use indicatif::HumanDuration;
use serde_json::{Value, json};

use super::{
    Usage,
    document::{merge, text},
    human::took,
    plan_text::show_plan_in_short,
    screen::STRONG,
    show_plan,
};
use crate::{
    plan::bits_per_weight,
    run::{Prepared, Totals},
};

/// The results of several outputs, for standard output.
#[must_use]
pub fn results_document(outputs: &[Value], folder: &Path, duration: Duration, usage: Usage) -> Value {
    let mut document = json!({"schema": "qhost.results/1", "status": "ok"});
    let passed = outputs.iter().all(|output| output["validation"]["status"] == "passed");
    merge(
        &mut document,
        json!({
            "duration_seconds": duration.as_secs_f64(),
            "peak_memory_bytes": usage.peak_resident,
            "peak_anonymous_bytes": usage.peak_anonymous,
            "validation": {"status": if passed { "passed" } else { "failed" }},
        }),
    );
    merge(&mut document, together(outputs, folder));
    document
}

/// The plans of several outputs, for standard output.
#[must_use]
pub fn plans_document(plans: &[Value], folder: &Path, totals: &Totals) -> Value {
    let download = plans.first().map(|plan| plan["download_bytes"].clone());
    let mut document = json!({
        "schema": "qhost.run-plans/1",
        "status": "ok",
        "dry_run": true,
        "download_bytes": download,
        "estimate": {"peak_memory_bytes": totals.peak_resident, "about_seconds": totals.seconds},
        "disk": {"needed_bytes": totals.needed, "free_bytes": totals.free},
    });
    merge(&mut document, together(plans, folder));
    document
}

/// What documents of outputs have in common, and their sums.
fn together(outputs: &[Value], folder: &Path) -> Value {
    let joined = |key: &str| {
        let values: Vec<_> = outputs.iter().filter_map(|output| output[key].as_str()).collect();
        values.join(",")
    };
    let of_first = |key: &str| outputs.first().map(|output| output[key].clone());
    let number = |key: &str| of_first(key).and_then(|value| value.as_u64()).unwrap_or(0);
    let file_size = outputs.iter().filter_map(|output| output["file_size"].as_u64()).fold(0, u64::saturating_add);
    let mut known = BTreeSet::new();
    let warnings =
        outputs.iter().filter_map(|output| output["warnings"].as_array()).flatten().filter_map(Value::as_str);
    let warnings: Vec<_> = warnings.filter(|warning| known.insert(*warning)).collect();
    json!({
        "output_path": text(folder),
        "format": joined("format"),
        "level": joined("level"),
        "source": of_first("source"),
        "source_path": of_first("source_path"),
        "architecture": of_first("architecture"),
        "parameter_count": number("parameter_count"),
        "source_size": number("source_size"),
        "file_size": file_size,
        "bits_per_weight": bits_per_weight(file_size, number("parameter_count")),
        "compression_ratio": ratio(number("source_size"), file_size),
        "warnings": warnings,
        "outputs": outputs,
    })
}

#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
fn ratio(source: u64, file: u64) -> f64 {
    if file == 0 { 0.0 } else { source as f64 / file as f64 }
}

/// The results of several outputs, for people.
#[must_use]
pub fn show_results(results: &[String], bytes: u64, duration: Duration) -> String {
    let all =
        format!("{STRONG}{} outputs{STRONG:#}, {} in all, took {}\n", results.len(), ByteSize(bytes), took(duration));
    format!("{}\n{all}", results.join("\n"))
}

/// The plans of several outputs, for people; `every` tensor on a line of its own, or their types alone.
#[must_use]
pub fn show_plans(runs: &[Prepared], every: bool, totals: &Totals) -> String {
    let show = |run| if every { show_plan(run, true) } else { show_plan_in_short(run) };
    let mut text = runs.iter().map(show).collect::<Vec<_>>().join("\n");
    // Writing to a String cannot fail.
    let _ = writeln!(text, "\n{STRONG}{} outputs{STRONG:#}, {} in all", runs.len(), ByteSize(totals.file_bytes));
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<10} {value}");
    };
    let free = totals.free.map_or_else(String::new, |free| format!("; {} are free", ByteSize(free)));
    row("disk", format!("{} are needed{free}", ByteSize(totals.needed)));
    if let Some(peak) = totals.peak_resident {
        row("memory", format!("about {}", ByteSize(peak)));
    }
    match totals.seconds {
        Some(seconds) if seconds < 1.0 => row("time", "less than a second".into()),
        Some(seconds) => row("time", format!("about {}", HumanDuration(Duration::from_secs_f64(seconds)))),
        None => row("time", "not known: a plugin tells no costs".into()),
    }
    text
}
