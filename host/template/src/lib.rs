//! The format `template-name`: a folder of safetensors whose linears are 8-bit integers with one scale for each row.
//!
//! It is what the library compressed-tensors calls `int-quantized`: beside each `X.weight` of integers `[out, in]` there is
//! `X.weight_scale` in bf16 `[out, 1]`, and a weight is scale · integer. `config.json` has a `quantization_config`, by which
//! programs know such a folder. This file says what the plugin is; how its files are planned, made and read is in the others.

mod int8;
mod make;
mod plan;
mod read;
mod stored;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use qhost_plugin_api::{
    documents::{Description, FormatDescription, LevelDescription, OpenRequest},
    sdk::{
        Failure, FilesHandle, Format, FormatService, HostHandle, READER, Result, VERIFY,
        reader_service, verify_service,
    },
};

use crate::{make::Job, plan::Planned, read::Reader};

/// What users give to `--format`; the manifest below needs it as a literal, too.
pub(crate) const FORMAT: &str = "template-name";
/// The only level.
pub(crate) const LEVEL: &str = "int8";

/// The plugin. It lives as long as the process, and is called from several threads.
pub(crate) struct TemplateName;

impl Format for TemplateName {
    type Job = Job;

    fn connect(_: HostHandle) -> Result<Self> {
        Ok(Self)
    }

    fn describe(&self) -> Description {
        // Formats and levels are those of the manifest, in the same order.
        let levels = vec![LevelDescription::new(
            LEVEL,
            "8-bit integers, one scale for each row",
            8.0,
        )];
        let mut format = FormatDescription::new(FORMAT, levels).common_options([]);
        format.default_level = Some(LEVEL.into());
        Description::new(vec![format])
    }

    /// Whatever cannot be done is refused here, before anything is written; no weight is read yet.
    fn open(&self, request: OpenRequest, companions: FilesHandle) -> Result<Job> {
        if request.decode {
            return Job::of_files(request);
        }
        if request.existing.is_some() {
            let refused =
                Failure::unsupported("comparing files with a checkpoint is not written yet");
            return Err(
                refused.hint("`qhost eval FOLDER --against CHECKPOINT` compares what they compute")
            );
        }
        // An option without a meaning is refused, not passed over: the user wanted something by it.
        if let [flag, ..] = request.options.flags_besides_level().as_slice() {
            return Err(Failure::usage(format!(
                "{flag} has no meaning for {FORMAT}"
            )));
        }
        if let Some(key) = request.options.plugin.keys().next() {
            return Err(Failure::usage(format!(
                "{FORMAT} has no plugin option `{key}`"
            )));
        }
        if let Some(level) = request
            .options
            .level
            .as_ref()
            .filter(|level| *level != LEVEL)
        {
            return Err(
                Failure::unsupported(format!("{FORMAT} has no level `{level}`"))
                    .hint(format!("the only level is {LEVEL}")),
            );
        }
        Planned::of(&request.model, &companions).map(Job::of_plan)
    }

    /// With these two, `qhost inspect`, `verify`, `eval` and `convert` work for such folders, whoever made them.
    fn service(&self, name: &str) -> Option<Arc<dyn FormatService>> {
        match name {
            READER => Some(reader_service(Arc::new(Reader))),
            VERIFY => Some(verify_service(Arc::new(Reader))),
            _ => None,
        }
    }
}

qhost_plugin_api::export_plugin! {
    id: "template-name",
    summary: "8-bit integers with a scale for each row",
    api: "^1.0",
    formats: [
        {
            id: "template-name",
            summary: "Folders of int-quantized safetensors (compressed-tensors)",
            levels: ["int8"],
            // By this, such a folder is known without loading the plugin.
            folders: [{ file: "config.json", key: "quantization_config.format", value: "int-quantized" }],
        },
    ],
    plugin: TemplateName,
}
