//! The JSON documents for programs: results, plans, plugin lists, and the report beside the output.

use std::{collections::BTreeMap, path::Path};

use qhost_plugin_api::documents::{Description, Findings, Options};
use serde_json::{Value, json};

use super::Usage;
use crate::{
    plan::bits_per_weight,
    plugin::{Found, Status},
    run::{Outcome, Prepared, TensorOutcome},
};

/// The result of `quantize`, for standard output.
#[must_use]
pub fn result_document(outcome: &Outcome, usage: Usage) -> Value {
    let mut document = json!({
        "schema": "qhost.result/1",
        "status": "ok",
    });
    merge(&mut document, common(outcome, usage));
    document
}

/// The report beside the output: the result, and everything that it came from.
#[must_use]
pub fn report_document(outcome: &Outcome, usage: Usage, options: &Options) -> Value {
    let (id, version, sha256) = &outcome.plugin;
    let mut document = json!({
        "schema": "qhost.report/1",
        "status": "ok",
        "qhost": env!("CARGO_PKG_VERSION"),
        "plugin": {"id": id, "version": version, "sha256": sha256},
        "options": options,
        "encodings": encodings(outcome.tensors.iter().map(|tensor| (&*tensor.encoding, tensor.elements, tensor.bytes))),
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

fn common(outcome: &Outcome, usage: Usage) -> Value {
    json!({
        "output_path": text(&outcome.path),
        "format": outcome.format,
        "level": outcome.level,
        "source": text(&outcome.source),
        "architecture": outcome.architecture,
        "parameter_count": outcome.parameters,
        "source_size": outcome.source_bytes,
        "file_size": outcome.file_bytes,
        "bits_per_weight": bits_per_weight(outcome.file_bytes, outcome.parameters),
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
        "metrics": tensor.metrics,
    })
}

/// Tensors of the model that are not in the output.
fn unused(tensors: &[(String, String)]) -> Value {
    tensors.iter().map(|(tensor, reason)| json!({"tensor": tensor, "reason": reason})).collect()
}

/// How many tensors, weights and bytes there are of each encoding.
pub(super) fn encodings<'a>(tensors: impl Iterator<Item = (&'a str, u64, u64)>) -> Value {
    let mut sums: BTreeMap<&str, (u64, u64, u64)> = BTreeMap::new();
    for (encoding, elements, bytes) in tensors {
        let sum = sums.entry(encoding).or_default();
        *sum = (sum.0 + 1, sum.1 + elements, sum.2 + bytes);
    }
    let rows = sums.into_iter().map(|(encoding, (tensors, elements, bytes))| {
        json!({"encoding": encoding, "tensors": tensors, "elements": elements, "bytes": bytes})
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
    let (id, version) = prepared.plugin();
    let tensors = plan.tensors().map(|(_, bytes, tensor)| {
        json!({
            "name": tensor.name,
            "encoding": tensor.encoding,
            "elements": tensor.elements,
            "bytes": bytes,
            "fallback": tensor.fallback,
        })
    });
    json!({
        "schema": "qhost.run-plan/1",
        "status": "ok",
        "dry_run": true,
        "output_path": text(&prepared.output()),
        "format": plan.plan.format,
        "level": plan.plan.level,
        "source": text(prepared.source()),
        "architecture": prepared.architecture(),
        "plugin": {"id": id, "version": version},
        "parameter_count": plan.parameters,
        "source_size": prepared.source_bytes(),
        "file_size": plan.file_bytes,
        "bits_per_weight": plan.bits_per_weight(),
        "compression_ratio": ratio(prepared.source_bytes(), plan.file_bytes),
        "working_memory_bytes": prepared.working_memory(),
        "units": plan.plan.units.len(),
        "encodings": encodings(plan.tensors().map(|(_, bytes, tensor)| (&*tensor.encoding, tensor.elements, bytes))),
        "tensors": tensors.collect::<Vec<_>>(),
        "unused": unused(&prepared.unused()),
        "warnings": prepared.warnings,
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
        "plugins": rows.iter().map(plugin).collect::<Vec<_>>(),
    })
}

fn plugin(row: &PluginRow<'_>) -> Value {
    let found = row.found;
    let mut document = json!({
        "path": text(&found.path),
        "status": found.status.name(),
        "usable": found.status == Status::Ready,
        "reason": found.reason,
        "hint": found.hint,
        "id": null, "version": null, "api": null, "summary": null, "license": null, "homepage": null,
        "formats": [], "levels": [],
    });
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
            }),
        );
    }
    if let Some(description) = row.description {
        merge(&mut document, json!({"description": description}));
    }
    document
}
