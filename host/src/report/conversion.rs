//! What a conversion does to numbers, in words, tables and JSON.

use std::fmt::Write;

use bytesize::ByteSize;
use qhost_plugin_api::documents::{Bound, BoundOf};
use serde_json::{Value, json};

use super::{
    document::merge,
    evaluation::figure,
    layout::wrapped,
    screen::{STRONG, WARNING},
};
use crate::{
    convert::{Loss, LossClass},
    measure::Measurement,
    run::Converted,
    text::shown,
};

/// The key `conversion` of plans, results and reports.
pub(super) fn conversion_document(format: &str, level: Option<&str>, loss: &Loss) -> Value {
    json!({
        "source_format": format,
        "source_level": level,
        "fidelity": loss.word(),
        "exact": loss.is_exact(),
        "costs_quality": loss.costly().next().is_some(),
        "classes": loss.classes.iter().map(class).collect::<Vec<_>>(),
    })
}

/// The same of a finished output.
pub(super) fn converted_document(converted: &Converted) -> Value {
    conversion_document(&converted.format, converted.level.as_deref(), &converted.loss)
}

fn class(class: &LossClass) -> Value {
    json!({
        "stored": class.stored,
        "taken": class.taken.as_deref().unwrap_or("float"),
        "by": class.by,
        "encoding": class.encoding,
        "fidelity": class.word(),
        "bounds": class.fidelity.as_ref().map(|fidelity| &fidelity.bounds),
        "expected_error": class.expected_error,
        "costs_quality": class.costs_quality(),
        "example": class.example,
        "tensors": class.tensors,
        "weights": class.elements,
        "bytes": class.bytes,
    })
}

/// A table of the classes.
pub(super) fn table(text: &mut String, loss: &Loss, width: usize) {
    let rows: Vec<[String; 3]> = loss.classes.iter().map(row).collect();
    let column =
        |index: usize, least: usize| rows.iter().map(|row| row[index].chars().count()).max().unwrap_or(0).max(least);
    let (stored, encoding, taken) = (column(0, 9), column(1, 7), column(2, 8));
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "  {STRONG}{:<stored$}  {:<encoding$}  {:<taken$}  tensors        size  numbers{STRONG:#}",
        "stored as", "becomes", "taken as"
    );
    let before = 2 + stored + 2 + encoding + 2 + taken + 2 + 7 + 2 + 10 + 2;
    for (row, class) in rows.iter().zip(&loss.classes) {
        let style = if class.is_quantised() { WARNING } else { anstyle::Style::new() };
        let _ = writeln!(
            text,
            "  {:<stored$}  {:<encoding$}  {:<taken$}  {:>7}  {:>10}  {style}{}{style:#}",
            shown(&row[0]),
            shown(&row[1]),
            shown(&row[2]),
            class.tensors,
            ByteSize(class.bytes).to_string(),
            wrapped(&numbers(class), before, before, width.max(before + 16)),
        );
    }
}

fn row(class: &LossClass) -> [String; 3] {
    let stored = class.stored.iter().cloned().collect::<Vec<_>>().join(" + ");
    let taken = class.taken.clone().unwrap_or_else(|| "floats".into());
    let by = if class.by.is_empty() { String::new() } else { format!(" (by {})", class.by.join(", ")) };
    [stored, class.encoding.clone(), format!("{taken}{by}")]
}

/// What becomes of the numbers of a class.
fn numbers(class: &LossClass) -> String {
    let word = class.word();
    if class.is_quantised() {
        return match class.expected_error {
            Some(error) => format!("{word}, with an error of about {:.1} %", error * 100.0),
            None => format!("{word}, with an error that is not known"),
        };
    }
    let bounds = class.fidelity.iter().flat_map(|fidelity| &fidelity.bounds).map(bound).collect::<Vec<_>>();
    if bounds.is_empty() { word.to_owned() } else { format!("{word} by at most {}", bounds.join(" and ")) }
}

fn bound(bound: &Bound) -> String {
    let of = match bound.of {
        BoundOf::Weight => "of each weight",
        BoundOf::Minimum => "of the minimum of its group",
        BoundOf::Step => "of the step of its group",
        _ => "of something else",
    };
    format!("{} % {of}", figure(bound.most * 100.0))
}

/// What the user has to agree to, if there is something.
#[must_use]
pub fn question(loss: &Loss) -> Option<String> {
    let costly: Vec<_> = loss.costly().collect();
    let worst = costly.iter().max_by(|a, b| {
        let error = |class: &LossClass| class.expected_error.unwrap_or(f64::INFINITY);
        error(a).total_cmp(&error(b))
    })?;
    let tensors: u64 = costly.iter().map(|class| class.tensors).sum();
    let stored = worst.stored.iter().cloned().collect::<Vec<_>>().join(" + ");
    let error = worst.expected_error.map_or_else(
        || "an error that is not known".to_owned(),
        |error| format!("an error of about {:.1} % of the weights", error * 100.0),
    );
    Some(format!(
        "{tensors} tensors are quantised once more, such as {} ({} to {}), with {error} on top of what they have lost",
        shown(&worst.example),
        shown(&stored),
        shown(&worst.encoding),
    ))
}

/// A result with what was measured of the source and of the output.
#[must_use]
pub fn with_losses(mut document: Value, measured: Option<(&Measurement, &Measurement)>) -> Value {
    if let Some((source, output)) = measured {
        merge(&mut document, json!({"loss": {"source": loss(source), "output": loss(output)}}));
    }
    document
}

fn loss(measurement: &Measurement) -> Value {
    let evaluation = &measurement.evaluation;
    let against = evaluation.against.as_ref();
    let divergence = against.and_then(|against| against.divergence.as_ref());
    json!({
        "dataset": measurement.dataset.source,
        "perplexity": evaluation.figures.perplexity,
        "perplexity_original": against.map(|against| against.original.perplexity),
        "kl_mean": divergence.map(|divergence| divergence.mean),
        "kl_p99": divergence.map(|divergence| divergence.p99),
        "top1_agreement": divergence.map(|divergence| divergence.top1_agreement),
    })
}

/// What was measured of the source and of the output, for people.
#[must_use]
pub fn show_losses(measured: Option<(&Measurement, &Measurement)>) -> String {
    let Some((source, output)) = measured else { return String::new() };
    let mut text = format!("\n  {STRONG}{:<10} perplexity  divergence  same token{STRONG:#}\n", "measured");
    for (name, measurement) in [("source", source), ("output", output)] {
        let evaluation = &measurement.evaluation;
        let divergence = evaluation.against.as_ref().and_then(|against| against.divergence.as_ref());
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  {name:<10} {:>10}  {:>10}  {:>10}",
            figure(evaluation.figures.perplexity),
            divergence.map_or_else(String::new, |divergence| figure(divergence.mean)),
            divergence.map_or_else(String::new, |divergence| format!("{:.2} %", divergence.top1_agreement * 100.0)),
        );
    }
    if let Some(against) = &output.evaluation.against {
        let _ = writeln!(text, "  {:<10} {:>10}", "original", figure(against.original.perplexity));
    }
    text
}
