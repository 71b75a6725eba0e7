//! The safetensors format plugin: plain Hugging Face folders of float weights, as transformers, vLLM and `SGLang` load them.
//!
//! It makes folders of checkpoints and of whatever is read as one. The host reads such folders itself, so there is no
//! reader here.

mod check;
mod config;
mod float_type;
mod items;
mod job;
mod level;
mod names;
mod options;
mod orientation;
mod usage;
mod write;

use qhost_plugin_api::{
    documents::{Description, OpenRequest},
    sdk::{Failure, FilesHandle, Format, HostHandle, Result},
};

use crate::job::FolderJob;

/// The id of the format.
pub(crate) const FORMAT: &str = "safetensors";

/// The plugin.
pub struct Safetensors {
    host: HostHandle,
}

impl Format for Safetensors {
    type Job = FolderJob;

    fn connect(host: HostHandle) -> Result<Self> {
        Ok(Self { host })
    }

    fn describe(&self) -> Description {
        Description::new(vec![level::description()])
    }

    fn open(&self, request: OpenRequest, companions: FilesHandle) -> Result<FolderJob> {
        if request.existing.is_some() {
            return Err(Failure::unsupported("folders of floats are read by qhost itself, and not by this plugin"));
        }
        FolderJob::open(&request, &companions, self.host.clone())
    }
}

qhost_plugin_api::export_plugin! {
    id: "safetensors",
    summary: "Hugging Face folders of float weights",
    api: "^1.0",
    formats: [
        {
            id: "safetensors",
            summary: "A folder of float weights for transformers, vLLM and SGLang",
            levels: ["F32", "F16", "BF16"],
        },
    ],
    plugin: Safetensors,
}

#[cfg(test)]
mod tests {
    use qhost_plugin_api::documents::{Document, Manifest};

    #[test]
    fn the_manifest_names_the_levels_that_are_described() {
        let manifest = Manifest::from_json(super::MANIFEST_JSON).unwrap();
        let described: Vec<_> = super::level::description().levels.into_iter().map(|level| level.id).collect();
        assert_eq!(manifest.formats[0].levels, described);
        assert_eq!(manifest.formats[0].id, super::FORMAT);
        assert!(manifest.formats[0].reads.is_empty() && manifest.formats[0].folders.is_empty());
    }
}
