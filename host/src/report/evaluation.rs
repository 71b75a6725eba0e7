//! What was measured of a model, as a document and in words.

use std::{fmt::Write, path::Path};

use bytesize::ByteSize;
use serde_json::{Value, json};

use super::{
    Usage, document,
    human::took,
    screen::{STRONG, WARNING},
};
use crate::{
    evaluate::{LayerError, Score},
    measure::{Described, Measurement},
    text::shown,
};

/// What was measured, for standard output.
#[must_use]
pub fn evaluation_document(measurement: &Measurement, usage: Usage, page: Option<&Path>) -> Value {
    let evaluation = &measurement.evaluation;
    let figures = &evaluation.figures;
    let against = evaluation.against.as_ref();
    let divergence = against.and_then(|against| against.divergence.as_ref());
    let layers = against.map(|against| against.layers.iter().enumerate().map(layer).collect::<Vec<_>>());
    json!({
        "schema": "qhost.evaluation/1",
        "status": "ok",
        "path": measurement.subject.source,
        "format": measurement.subject.format,
        "level": measurement.subject.level,
        "architecture": measurement.subject.architecture,
        "parameter_count": measurement.subject.parameters,
        "dataset": measurement.dataset,
        "ctx": measurement.windowing.map(|windowing| windowing.ctx),
        "score": rule(measurement.score()),
        "windows": evaluation.windows,
        "tokens": figures.tokens,
        "mean_nll": figures.mean_nll,
        "perplexity": figures.perplexity,
        "perplexity_error": figures.perplexity_error(),
        "against": measurement.original.as_ref().map(described),
        "mean_nll_original": against.map(|against| against.original.mean_nll),
        "perplexity_original": against.map(|against| against.original.perplexity),
        "perplexity_difference": against.map(|against| against.perplexity_difference),
        "perplexity_difference_error": against.map(|against| against.perplexity_difference_error),
        "kl_mean": divergence.map(|divergence| divergence.mean),
        "kl_mean_error": divergence.map(|divergence| divergence.standard_error),
        "kl_median": divergence.map(|divergence| divergence.median),
        "kl_p99": divergence.map(|divergence| divergence.p99),
        "kl_max": divergence.map(|divergence| divergence.greatest),
        "top1_agreement": divergence.map(|divergence| divergence.top1_agreement),
        "layers": layers,
        "html_path": page.map(document::text),
        "threads": measurement.threads,
        "max_memory_bytes": measurement.max_memory,
        "duration_seconds": measurement.duration.as_secs_f64(),
        "tokens_per_second": tokens_per_second(measurement),
        "peak_memory_bytes": usage.peak_resident,
        "peak_anonymous_bytes": usage.peak_anonymous,
        "warnings": measurement.warnings,
    })
}

fn described(model: &Described) -> Value {
    json!({
        "path": model.source,
        "format": model.format,
        "level": model.level,
        "architecture": model.architecture,
        "parameter_count": model.parameters,
    })
}

fn layer((index, error): (usize, &LayerError)) -> Value {
    json!({"layer": index, "relative_rms": error.relative_rms, "cosine": error.cosine})
}

/// The rule's name on the command line.
pub(super) fn rule(score: Score) -> &'static str {
    match score {
        Score::All => "all",
        Score::SecondHalf => "second-half",
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn tokens_per_second(measurement: &Measurement) -> f64 {
    measurement.tokens_read as f64 / measurement.duration.as_secs_f64().max(1e-9)
}

/// What was measured, in words.
#[must_use]
pub fn show_evaluation(measurement: &Measurement, usage: Usage, page: Option<&Path>) -> String {
    let mut text = format!("{STRONG}{}{STRONG:#}\n", shown(&measurement.subject.source));
    for (name, value) in rows(measurement) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name:<12} {}", shown(&value));
    }
    let memory = usage.peak_anonymous.map_or_else(String::new, |bytes| format!(", {} of memory", ByteSize(bytes)));
    let speed = tokens_per_second(measurement);
    let _ = writeln!(text, "  {:<12} {}, {speed:.0} tokens/s{memory}", "took", took(measurement.duration));
    if let Some(page) = page {
        let _ = writeln!(text, "  {:<12} {}", "page", page.display());
    }
    let layers = measurement.evaluation.against.as_ref().map_or(&[][..], |against| &against.layers);
    if !layers.is_empty() {
        let _ = writeln!(text, "\n  {STRONG}{:<12} {:>12} {:>12}{STRONG:#}", "after layer", "rel. error", "cosine");
        for (index, error) in layers.iter().enumerate() {
            let _ = writeln!(text, "  {index:<12} {:>12} {:>12.6}", figure(error.relative_rms), error.cosine);
        }
    }
    for warning in &measurement.warnings {
        let _ = writeln!(text, "{WARNING}warning:{WARNING:#} {}", shown(warning));
    }
    text
}

/// The figures with their names, for people.
pub(super) fn rows(measurement: &Measurement) -> Vec<(&'static str, String)> {
    let (subject, evaluation) = (&measurement.subject, &measurement.evaluation);
    let figures = &evaluation.figures;
    let mut rows = vec![("model", format!("{}, {}", subject.architecture, form(subject)))];
    let data = &measurement.dataset.source;
    rows.push(match measurement.windowing {
        Some(windowing) => {
            let rule = rule(windowing.score);
            let windows = evaluation.windows;
            ("text", format!("{data}: {windows} windows of {} tokens, scored {rule}", windowing.ctx))
        }
        None => ("text", format!("{data}: {} rows as they are", evaluation.windows)),
    });
    rows.push(("perplexity", format!("{:.4} ± {:.4}", figures.perplexity, figures.perplexity_error())));
    rows.push(("mean loss", format!("{:.6} nats, of {} predictions", figures.mean_nll, figures.tokens)));
    let Some(against) = &evaluation.against else { return rows };
    if let Some(original) = &measurement.original {
        rows.push(("against", format!("{}, {}", original.source, form(original))));
    }
    let (difference, error) = (against.perplexity_difference, against.perplexity_difference_error);
    rows.push(("its", format!("perplexity {:.4}", against.original.perplexity)));
    rows.push(("difference", format!("{difference:+.4} ± {error:.4}")));
    match &against.divergence {
        Some(divergence) => {
            rows.push((
                "divergence",
                format!("mean {} ± {} nats", figure(divergence.mean), figure(divergence.standard_error)),
            ));
            let (median, p99) = (figure(divergence.median), figure(divergence.p99));
            rows.push(("", format!("median {median}, 99 % below {p99}, at most {}", figure(divergence.greatest))));
            rows.push(("agreement", format!("{:.2} % on the most probable token", divergence.top1_agreement * 100.0)));
        }
        None => rows.push(("divergence", "none: the vocabularies are not the same".into())),
    }
    rows
}

/// A model's format, and its level if it has one.
fn form(model: &Described) -> String {
    let level = model.level.as_deref().map_or_else(String::new, |level| format!(" {level}"));
    format!("{}{level}", model.format)
}

/// A figure with four digits, however small.
pub(super) fn figure(number: f64) -> String {
    if number == 0.0 || number.abs() >= 0.001 { format!("{number:.4}") } else { format!("{number:.1e}") }
}
