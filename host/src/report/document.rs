//! The JSON documents for programs: results, plans, plugin lists, and the report beside the output.

use std::path::{Path, PathBuf};

use qhost_plugin_api::documents::{Description, Findings};
use serde_json::{Value, json};

use super::{
    Usage,
    conversion::{conversion_document, converted_document},
    summary::{self, Stored},
};
use crate::{
    plan::{Estimate, bits_per_weight},
    plugin::{Found, Status},
    run::{Origin, Outcome, Prepared, TensorOutcome},
};

/// The small files that were written with an output.
#[derive(Debug, Clone, Copy, Default)]
pub struct Files<'a> {
    /// The report.
    pub report: Option<&'a Path>,
    /// The model card.
    pub card: Option<&'a Path>,
    /// What the plugin made beside the output.
    pub beside: &'a [PathBuf],
}

/// The result of `quantize`, for standard output.
#[must_use]
pub fn result_document(outcome: &Outcome, usage: Usage, files: Files<'_>) -> Value {
    let mut document = json!({
        "schema": "qhost.result/1",
        "status": "ok",
        "report_path": files.report.map(text),
        "card_path": files.card.map(text),
        "beside_paths": files.beside.iter().map(|path| text(path)).collect::<Vec<_>>(),
    });
    merge(&mut document, common(outcome, usage));
    document
}

/// The report beside the output: the result, and everything that it came from.
#[must_use]
pub fn report_document(outcome: &Outcome, usage: Usage) -> Value {
    let (id, version, sha256) = &outcome.plugin;
    let stored: Vec<Stored<'_>> = outcome.tensors.iter().map(Stored::from).collect();
    let mut document = json!({
        "schema": "qhost.report/1",
        "status": "ok",
        "qhost": env!("CARGO_PKG_VERSION"),
        "api": qhost_plugin_api::API_VERSION,
        "plugin": {"id": id, "version": version, "sha256": sha256},
        "model": outcome.model,
        "repository": outcome.published.repository,
        "commit": outcome.published.commit,
        "options": outcome.options,
        "calibration": outcome.calibration,
        "threads": outcome.threads,
        "max_memory_bytes": outcome.max_memory,
        "planned": {"file_size": outcome.file_bytes, "estimate": estimate(&outcome.estimate)},
        "encodings": encodings(&stored),
        "fallbacks": fallbacks(&stored),
        "tensors": outcome.tensors.iter().map(tensor).collect::<Vec<_>>(),
        "unused": unused(&outcome.unused),
    });
    merge(&mut document, common(outcome, usage));
    document
}

#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
fn ratio(source: u64, file: u64) -> f64 {
    if file == 0 { 0.0 } else { source as f64 / file as f64 }
}

/// A path as text: JSON has no other way to hold it.
pub(super) fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The model: its folder, or its name on a hub with the commit.
fn source(path: &Path, origin: Option<&Origin>) -> String {
    origin.map_or_else(|| text(path), |origin| format!("{}@{}", origin.id, origin.commit))
}

fn hub(origin: &Origin) -> Value {
    json!({"endpoint": origin.endpoint, "id": origin.id, "revision": origin.revision, "commit": origin.commit})
}

fn common(outcome: &Outcome, usage: Usage) -> Value {
    json!({
        "output_path": text(&outcome.opened()),
        "format": outcome.format,
        "level": outcome.level,
        "source": source(&outcome.source, outcome.origin.as_ref()),
        "source_path": text(&outcome.source),
        "hub": outcome.origin.as_ref().map(hub),
        "conversion": outcome.converted.as_ref().map(converted_document),
        "architecture": outcome.architecture,
        "parameter_count": outcome.parameters,
        "source_size": outcome.source_bytes,
        "file_size": outcome.file_bytes,
        "bits_per_weight": bits_per_weight(outcome.file_bytes, outcome.parameters),
        "level_bits_per_weight": outcome.level_bytes.map(|bytes| bits_per_weight(bytes, outcome.parameters)),
        "compression_ratio": ratio(outcome.source_bytes, outcome.file_bytes),
        "duration_seconds": outcome.duration.as_secs_f64(),
        "peak_memory_bytes": usage.peak_resident,
        "peak_anonymous_bytes": usage.peak_anonymous,
        "peak_granted_bytes": outcome.peak_granted,
        "validation": validation(&outcome.findings),
        "resumed": outcome.resumed.as_ref().map(|resumed| json!({
            "units_done": resumed.done, "units": resumed.of, "from": resumed.from,
        })),
        "warnings": outcome.warnings,
    })
}

fn validation(findings: &Findings) -> Value {
    let status = if findings.passed() { "passed" } else { "failed" };
    json!({"status": status, "checks": findings.checks})
}

fn tensor(tensor: &TensorOutcome) -> Value {
    json!({
        "name": tensor.name,
        "encoding": tensor.encoding,
        "elements": tensor.elements,
        "bytes": tensor.bytes,
        "fallback": tensor.fallback,
        "instead_of": tensor.instead_of,
        "metrics": tensor.metrics,
    })
}

/// Tensors of the model that are not in the output.
fn unused(tensors: &[(String, String)]) -> Value {
    tensors.iter().map(|(tensor, reason)| json!({"tensor": tensor, "reason": reason})).collect()
}

/// How many tensors, weights and bytes there are of each encoding.
pub(super) fn encodings(tensors: &[Stored<'_>]) -> Value {
    let rows = summary::encodings(tensors).into_iter().map(|(encoding, sum)| {
        json!({"encoding": encoding, "tensors": sum.tensors, "elements": sum.elements, "bytes": sum.bytes})
    });
    Value::Array(rows.collect())
}

/// How many tensors, weights and bytes are not stored as the level says, and why.
fn fallbacks(tensors: &[Stored<'_>]) -> Value {
    let rows = summary::fallbacks(tensors).into_iter().map(|fallback| {
        json!({
            "encoding": fallback.encoding,
            "instead_of": fallback.instead_of,
            "reason": fallback.reason,
            "tensors": fallback.sum.tensors,
            "elements": fallback.sum.elements,
            "bytes": fallback.sum.bytes,
        })
    });
    Value::Array(rows.collect())
}

pub(super) fn merge(document: &mut Value, more: Value) {
    if let (Value::Object(document), Value::Object(more)) = (document, more) {
        document.extend(more);
    }
}

/// The plan, for standard output.
#[must_use]
pub fn plan_document(prepared: &Prepared) -> Value {
    let plan = &prepared.plan;
    let (id, version, sha256) = prepared.plugin();
    let stored: Vec<_> = plan.tensors().map(Stored::planned).collect();
    let tensors = stored.iter().map(|tensor| {
        json!({
            "name": tensor.name,
            "encoding": tensor.encoding,
            "elements": tensor.elements,
            "bytes": tensor.bytes,
            "fallback": tensor.fallback,
            "instead_of": tensor.instead_of,
        })
    });
    json!({
        "schema": "qhost.run-plan/1",
        "status": "ok",
        "dry_run": true,
        "provisional": prepared.is_provisional(),
        "size_limit": plan.plan.survey.as_ref().and_then(|survey| survey.limit),
        "output_path": text(&prepared.opened()),
        "format": plan.plan.format,
        "level": plan.plan.level,
        "source": source(prepared.source(), prepared.origin()),
        "source_path": text(prepared.source()),
        "hub": prepared.origin().map(hub),
        "conversion": prepared.loss.as_ref().zip(prepared.converted_from()).map(|(loss, (format, level))| {
            conversion_document(format, level, loss)
        }),
        "download_bytes": prepared.missing_bytes(),
        "architecture": prepared.architecture(),
        "calibration": prepared.calibration(),
        "plugin": {"id": id, "version": version, "sha256": sha256},
        "parameter_count": plan.parameters,
        "source_size": prepared.source_bytes(),
        "file_size": plan.file_bytes,
        "bits_per_weight": plan.bits_per_weight(),
        "compression_ratio": ratio(prepared.source_bytes(), plan.file_bytes),
        "level_bits_per_weight": plan.level_bits_per_weight(),
        "working_memory_bytes": prepared.working_memory(),
        "estimate": estimate(&prepared.estimate),
        "units": plan.plan.units.len(),
        "disk": {
            "output_bytes": plan.file_bytes.saturating_add(prepared.companion_bytes),
            "beside_bytes": prepared.bytes_beside(),
            "reserved_bytes": prepared.place.reserved,
            "free_bytes": prepared.place.free,
        },
        "threads": prepared.threads(),
        "card_path": prepared.card().as_deref().map(text),
        "encodings": encodings(&stored),
        "fallbacks": fallbacks(&stored),
        "tensors": tensors.collect::<Vec<_>>(),
        "unused": unused(&prepared.unused()),
        "warnings": prepared.warnings,
    })
}

/// What a run will take.
fn estimate(estimate: &Estimate) -> Value {
    let time = estimate.time.map(|time| {
        json!({
            "about_seconds": time.seconds,
            "core_seconds": time.core_seconds,
            "core_speed": time.core_speed,
            "cores": time.cores,
            "transfer_seconds": time.transfer_seconds,
        })
    });
    json!({
        "peak_memory_bytes": estimate.memory.peak_resident,
        "peak_anonymous_bytes": estimate.memory.peak_anonymous,
        "time": time,
    })
}

/// A row of `plugins list`, with what `plugins info` adds.
#[derive(Debug, Clone, Copy)]
pub struct PluginRow<'a> {
    /// The library.
    pub found: &'a Found,
    /// What the loaded plugin tells of itself, for `info`.
    pub description: Option<&'a Description>,
}

/// The list of libraries, for standard output.
#[must_use]
pub fn plugins_document(rows: &[PluginRow<'_>]) -> Value {
    json!({
        "schema": "qhost.plugins/1",
        "status": "ok",
        "api": qhost_plugin_api::API_VERSION,
        "plugins": rows.iter().map(plugin_row).collect::<Vec<_>>(),
    })
}

/// One library, for programs.
pub(super) fn plugin_row(row: &PluginRow<'_>) -> Value {
    let found = row.found;
    let mut document = json!({
        "path": text(&found.path),
        "status": found.status.name(),
        "usable": found.status == Status::Ready,
        "reason": found.reason,
        "hint": found.hint,
        "id": null, "version": null, "api": null, "summary": null, "license": null, "homepage": null,
        "formats": [], "levels": [], "transcodes": [],
        "installed": found.installed,
    });
    if let Some(id) = found.id() {
        merge(&mut document, json!({"id": id}));
    }
    if let Some(manifest) = &found.manifest {
        let formats: Vec<_> = manifest.formats.iter().map(|format| &format.id).collect();
        let levels: Vec<_> = manifest.formats.iter().flat_map(|format| &format.levels).collect();
        merge(
            &mut document,
            json!({
                "id": manifest.id,
                "version": manifest.version,
                "api": manifest.api,
                "summary": manifest.summary,
                "license": manifest.license,
                "homepage": manifest.homepage,
                "formats": formats,
                "levels": levels,
                "format_details": manifest.formats,
                "transcodes": manifest.transcodes,
            }),
        );
    }
    if let Some(description) = row.description {
        merge(&mut document, json!({"description": description}));
    }
    document
}
