//! A plan for people: what it comes to, the types, and every kind of tensor.

use std::fmt::Write;

use bytesize::ByteSize;
use indicatif::{HumanCount, HumanDuration};

use super::{
    conversion,
    layout::{width, wrapped},
    screen::{STRONG, WARNING},
    summary::{self, Kind, Stored},
};
use crate::{plan::bits_per_weight, run::Prepared, text::shown};

/// The column in which the values of the head begin.
const VALUES: usize = 13;

/// A plan without its tensors: what it comes to, and the types.
#[must_use]
pub(super) fn show_plan_in_short(prepared: &Prepared) -> String {
    let tensors: Vec<_> = prepared.plan.tensors().map(Stored::planned).collect();
    let width = width();
    let mut text = head(prepared, width);
    text.push('\n');
    types(&mut text, &tensors);
    fallbacks(&mut text, &tensors, &prepared.plan.plan.level, width);
    warnings(&mut text, prepared, width);
    text
}

/// A plan; `every` tensor on a line of its own, or the layers of each kind together.
#[must_use]
pub fn show_plan(prepared: &Prepared, every: bool) -> String {
    let tensors: Vec<_> = prepared.plan.tensors().map(Stored::planned).collect();
    let width = width();
    let mut text = head(prepared, width);
    text.push('\n');
    types(&mut text, &tensors);
    text.push('\n');
    if let Some(loss) = &prepared.loss {
        conversion::table(&mut text, loss, width);
        text.push('\n');
    }
    if every {
        each(&mut text, &tensors);
    } else {
        by_kind(&mut text, &summary::kinds(&tensors), width);
    }
    fallbacks(&mut text, &tensors, &prepared.plan.plan.level, width);
    warnings(&mut text, prepared, width);
    text
}

fn warnings(text: &mut String, prepared: &Prepared, width: usize) {
    for warning in &prepared.warnings {
        let _ = writeln!(text, "\n{WARNING}warning:{WARNING:#} {}", wrapped(&shown(warning), 9, 2, width));
    }
}

/// The promise that a level does not keep, for the line after the size.
pub(super) fn broken_promise(level: &str, promised: Option<f64>) -> Option<String> {
    let promised = promised?;
    Some(format!("{WARNING}not the {promised:.2} of {}: some tensors fall back{WARNING:#}", shown(level)))
}

fn head(prepared: &Prepared, width: usize) -> String {
    let plan = &prepared.plan;
    let mut text = format!("{STRONG}{}{STRONG:#} would be written\n", prepared.opened().display());
    let mut row = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name:<10} {}", wrapped(value, VALUES, VALUES, width));
    };
    let (id, version, _) = prepared.plugin();
    row("format", &format!("{} {} (plugin {id} {version})", shown(&plan.plan.format), shown(&plan.plan.level)));
    row("model", &format!("{}, {} parameters", prepared.architecture(), HumanCount(plan.parameters)));
    if let Some((format, level)) = prepared.converted_from() {
        let level = level.map_or_else(String::new, |level| format!(" {level}"));
        let sentence = prepared.loss.as_ref().map(|loss| format!(": {}", loss.sentence())).unwrap_or_default();
        row("source", &format!("{}{}{sentence}", shown(format), shown(&level)));
    }
    let bits = plan.bits_per_weight();
    let (size, source) = (ByteSize(plan.file_bytes), ByteSize(prepared.source_bytes()));
    row("size", &format!("{size} of {source} ({STRONG}{bits:.2} bits per weight{STRONG:#})"));
    if let Some(survey) = &plan.plan.survey {
        let limit = survey.limit.map_or_else(String::new, |limit| format!(", within {}", ByteSize(limit)));
        row("mixture", &format!("chosen by the loss that is measured first{limit}; what is below is a guess"));
    }
    if let Some(data) = prepared.calibration() {
        let amount = format!("{} rows, {} tokens", HumanCount(data.rows as u64), HumanCount(data.tokens as u64));
        row("calibrated", &format!("on {}: {amount}", shown(&data.source)));
    }
    if let Some(promise) = broken_promise(&plan.plan.level, plan.level_bits_per_weight()) {
        row("", &promise);
    }
    if let Some(origin) = prepared.origin() {
        let missing = match prepared.missing_bytes() {
            0 => "all of it is in the cache".to_owned(),
            bytes => format!("{} of weights would be downloaded", ByteSize(bytes)),
        };
        let revision =
            if origin.revision == origin.commit { String::new() } else { format!(" at {}", origin.revision) };
        row("from", &format!("{}{}, commit {}; {missing}", origin.id, shown(&revision), origin.commit));
    }
    let beside = ByteSize(prepared.bytes_beside());
    let free = prepared.place.free.map_or_else(String::new, |free| format!("; {} are free", ByteSize(free)));
    row("disk", &format!("{size}, {beside} more while it is made{free}"));
    let threads = match prepared.threads() {
        1 => "1 thread".to_owned(),
        threads => format!("{threads} threads"),
    };
    if let Some(peak) = prepared.estimate.memory.peak_resident {
        let own = prepared
            .estimate
            .memory
            .peak_anonymous
            .map_or_else(String::new, |own| format!(", {} of it its own", ByteSize(own)));
        row("memory", &format!("about {} with {threads}{own}", ByteSize(peak)));
    } else {
        row("memory", &format!("{} of buffers with {threads}", ByteSize(prepared.working_memory())));
    }
    match prepared.estimate.time {
        Some(time) if time.seconds < 1.0 => row("time", "less than a second"),
        Some(time) => {
            let duration = std::time::Duration::from_secs_f64(time.seconds);
            row("time", &format!("about {} at this machine's speed", HumanDuration(duration)));
        }
        None => row("time", "not known: the plugin tells no costs"),
    }
    text
}

fn types(text: &mut String, tensors: &[Stored<'_>]) {
    let encodings = summary::encodings(tensors);
    let column = encodings.iter().map(|(encoding, _)| encoding.chars().count()).max().unwrap_or(0).max(4);
    let _ = writeln!(text, "  {STRONG}{:<column$}  tensors         weights        size    bits{STRONG:#}", "type");
    for (encoding, sum) in encodings {
        let _ = writeln!(
            text,
            "  {:<column$}  {:>7}  {:>14}  {:>10}  {:>6.2}",
            shown(encoding),
            sum.tensors,
            HumanCount(sum.elements).to_string(),
            ByteSize(sum.bytes).to_string(),
            bits_per_weight(sum.bytes, sum.elements),
        );
    }
}

fn by_kind(text: &mut String, kinds: &[Kind<'_>], width: usize) {
    let names = kinds.iter().map(|kind| kind.pattern.chars().count()).max().unwrap_or(0).max(6);
    let types = kinds.iter().map(|kind| kind.encoding.chars().count()).max().unwrap_or(0).max(4);
    let _ = writeln!(text, "  {STRONG}{:<names$}  {:<types$}  number        size  layers{STRONG:#}", "tensor", "type");
    let before = 2 + names + 2 + types + 2 + 6 + 2 + 10 + 2;
    for kind in kinds {
        let style = if kind.fallback { WARNING } else { anstyle::Style::new() };
        let line = format!(
            "  {:<names$}  {style}{:<types$}{style:#}  {:>6}  {:>10}  {}",
            shown(&kind.pattern),
            shown(kind.encoding),
            kind.sum.tensors,
            ByteSize(kind.sum.bytes).to_string(),
            wrapped(&summary::ranges(&kind.layers), before, before, width.max(before + 12)),
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

fn each(text: &mut String, tensors: &[Stored<'_>]) {
    let names = tensors.iter().map(|tensor| tensor.name.chars().count()).max().unwrap_or(0);
    let types = tensors.iter().map(|tensor| tensor.encoding.chars().count()).max().unwrap_or(0);
    for tensor in tensors {
        let why = tensor.fallback.map_or_else(String::new, |why| format!("  {WARNING}{}{WARNING:#}", shown(why)));
        let (name, encoding, size) = (shown(tensor.name), shown(tensor.encoding), ByteSize(tensor.bytes).to_string());
        let _ = writeln!(text, "  {name:<names$}  {encoding:<types$}  {size:>10}{why}");
    }
}

fn fallbacks(text: &mut String, tensors: &[Stored<'_>], level: &str, width: usize) {
    let fallbacks = summary::fallbacks(tensors);
    if fallbacks.is_empty() {
        return;
    }
    let fallen: u64 = fallbacks.iter().map(|fallback| fallback.sum.tensors).sum();
    let _ = writeln!(
        text,
        "\n  {WARNING}{fallen} of {} tensors are not stored as {} wants it:{WARNING:#}",
        tensors.len(),
        shown(level)
    );
    for fallback in fallbacks {
        let wanted = fallback.instead_of.map_or_else(String::new, |wanted| format!(" instead of {}", shown(wanted)));
        let line = format!("{}{wanted}: {}", shown(fallback.encoding), shown(fallback.reason));
        let _ = writeln!(text, "  {:>6} × {}", fallback.sum.tensors, wrapped(&line, 11, 11, width));
    }
}
