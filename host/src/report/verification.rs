//! What a check found, as a document and in words.

use std::{collections::BTreeMap, fmt::Write};

use bytesize::ByteSize;
use qhost_plugin_api::documents::CheckStatus;
use serde_json::{Value, json};

use super::{
    document,
    screen::{ERROR, STRONG, WARNING},
};
use crate::{
    text::shown,
    verify::{Compared, Comparison, Verification},
};

/// The tensors with the largest errors that are shown.
const WORST: usize = 8;

/// What a check found, for standard output.
#[must_use]
pub fn verification_document(verification: &Verification) -> Value {
    let passed = verification.failed().next().is_none();
    let inspection = verification.inspection.as_ref();
    json!({
        "schema": "qhost.verification/1",
        "status": if passed { "ok" } else { "failed" },
        "path": document::text(&verification.path),
        "format": verification.format,
        "level": inspection.and_then(|inspection| inspection.reading.level.clone()),
        "loader": verification.loader,
        "architecture": inspection.and_then(|inspection| inspection.reading.architecture.clone()),
        "file_size": inspection.map(crate::inspect::Inspection::file_bytes),
        "tensors": inspection.map(|inspection| inspection.reading.tensors.len()),
        "validation": {"status": if passed { "passed" } else { "failed" }, "checks": verification.findings.checks},
        "comparison": verification.comparison.as_ref().map(comparison),
        "warnings": verification.warnings,
    })
}

fn comparison(comparison: &Comparison) -> Value {
    let by_encoding = by_encoding(comparison).into_iter().map(|(encoding, sum)| {
        json!({
            "encoding": encoding,
            "tensors": sum.tensors,
            "mean_relative_rms_error": sum.mean(),
            "largest_relative_rms_error": sum.largest,
            "max_abs_error": sum.max_abs,
        })
    });
    json!({
        "source": document::text(&comparison.source),
        "encodings": by_encoding.collect::<Vec<_>>(),
        "tensors": comparison.tensors.iter().map(compared).collect::<Vec<_>>(),
        "not_compared": comparison.not_compared,
        "missing": comparison.missing,
    })
}

fn compared(tensor: &Compared) -> Value {
    let mut document = json!({"name": tensor.name, "encoding": tensor.encoding, "elements": tensor.elements});
    document::merge(&mut document, json!(tensor.metrics));
    document
}

/// The errors of all tensors of one type.
#[derive(Default)]
struct Sum {
    tensors: u32,
    total: f64,
    largest: f64,
    max_abs: f64,
}

impl Sum {
    fn mean(&self) -> f64 {
        self.total / f64::from(self.tensors.max(1))
    }
}

fn by_encoding(comparison: &Comparison) -> BTreeMap<&str, Sum> {
    let mut sums: BTreeMap<&str, Sum> = BTreeMap::new();
    for tensor in &comparison.tensors {
        let sum = sums.entry(&tensor.encoding).or_default();
        let error = tensor.relative_error().unwrap_or(0.0);
        sum.tensors += 1;
        sum.total += error;
        sum.largest = sum.largest.max(error);
        sum.max_abs = sum.max_abs.max(max_abs(tensor));
    }
    sums
}

fn max_abs(tensor: &Compared) -> f64 {
    tensor.metrics.get("max_abs_error").copied().unwrap_or(0.0)
}

/// What a check found, in words.
#[must_use]
pub fn show_verification(verification: &Verification) -> String {
    let mut text = format!("{STRONG}{}{STRONG:#}\n", verification.path.display());
    if let Some(inspection) = &verification.inspection {
        let reading = &inspection.reading;
        let level = reading.level.as_deref().map_or_else(String::new, |level| format!(" {level}"));
        let told = format!(
            "{}{level}, {}, {} tensors",
            reading.format,
            ByteSize(inspection.file_bytes()),
            reading.tensors.len()
        );
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {}", shown(&told));
    }
    for check in &verification.findings.checks {
        let (style, word) = match check.status {
            CheckStatus::Passed => (STRONG, "passed"),
            _ => (ERROR, "FAILED"),
        };
        let _ = writeln!(text, "  {style}{word}{style:#}  {:<10}  {}", shown(&check.name), shown(&check.detail));
    }
    if let Some(comparison) = &verification.comparison {
        show_comparison(&mut text, comparison);
    }
    for warning in &verification.warnings {
        let _ = writeln!(text, "{WARNING}warning:{WARNING:#} {}", shown(warning));
    }
    text
}

fn show_comparison(text: &mut String, comparison: &Comparison) {
    if comparison.tensors.is_empty() {
        return;
    }
    let _ = writeln!(text, "\ncompared with {}", comparison.source.display());
    let _ = writeln!(
        text,
        "  {STRONG}{:<9} {:>7} {:>12} {:>12} {:>14}{STRONG:#}",
        "type", "tensors", "rel. error", "largest", "largest abs."
    );
    for (encoding, sum) in by_encoding(comparison) {
        let _ = writeln!(
            text,
            "  {:<9} {:>7} {:>12} {:>12} {:>14}",
            shown(encoding),
            sum.tensors,
            figure(sum.mean()),
            figure(sum.largest),
            figure(sum.max_abs)
        );
    }
    let worst: Vec<_> = comparison.worst_first().into_iter().take(WORST).collect();
    let width = worst.iter().map(|tensor| tensor.name.chars().count()).max().unwrap_or(0).max(14);
    let _ = writeln!(
        text,
        "\n  {STRONG}{:<width$}  {:<8} {:>10} {:>14}{STRONG:#}",
        "largest errors", "type", "relative", "largest abs."
    );
    for tensor in worst {
        let relative = tensor.relative_error().map_or_else(|| "none".to_owned(), figure);
        let _ = writeln!(
            text,
            "  {:<width$}  {:<8} {relative:>10} {:>14}",
            shown(&tensor.name),
            shown(&tensor.encoding),
            figure(max_abs(tensor))
        );
    }
    if !comparison.not_compared.is_empty() {
        let _ = writeln!(text, "\n  not compared: {} tensors", comparison.not_compared.len());
    }
}

/// An error with four digits, however small.
fn figure(error: f64) -> String {
    if error == 0.0 || error >= 0.001 { format!("{error:.4}") } else { format!("{error:.1e}") }
}
