//! The AWQ format plugin: it is found and described; its requests are refused until there is
//! calibration.
//!
//! AWQ scales channels by the activations that they see (Lin et al., 2023, section 3.2), so nothing
//! can be made from weights alone. It knows the format's levels, and nothing else yet.

mod format;
mod read;

use std::sync::Arc;

use qhost_packed::Job;
use qhost_plugin_api::{
    documents::{Description, OpenRequest},
    sdk::{
        Failure, FilesHandle, Format, FormatService, HostHandle, READER, Result, VERIFY, reader_service, verify_service,
    },
};

use crate::read::{Reader, Settings};

/// The plugin.
pub struct Awq;

impl Format for Awq {
    type Job = Job;

    fn connect(_: HostHandle) -> Result<Self> {
        Ok(Self)
    }

    fn describe(&self) -> Description {
        Description::new(vec![format::description()])
    }

    fn open(&self, request: OpenRequest, _: FilesHandle) -> Result<Job> {
        if let Some(job) = Job::existing::<Settings>(&request)? {
            return Ok(job);
        }
        Err(Failure::unsupported("awq needs calibration, which is not available yet")
            .hint("gguf needs none: use --format gguf"))
    }

    fn service(&self, name: &str) -> Option<Arc<dyn FormatService>> {
        match name {
            READER => Some(reader_service(Arc::new(Reader::default()))),
            VERIFY => Some(verify_service(Arc::new(Reader::default()))),
            _ => None,
        }
    }
}

qhost_plugin_api::export_plugin! {
    id: "awq",
    summary: "AWQ: activation-aware 4-bit weights (needs calibration, not available yet)",
    api: "^1.0",
    formats: [
        {
            id: "awq",
            summary: "A folder for vLLM, SGLang and transformers",
            levels: ["4bit-g32", "4bit-g64", "4bit-g128", "4bit-channel"],
            folders: [
                { file: "config.json", key: "quantization_config.quant_method", value: "awq" },
                { file: "quant_config.json", key: "", value: "" },
                { file: "quantize_config.json", key: "quant_method", value: "awq" },
            ],
            loaders: ["transformers", "gptqmodel", "vllm", "sglang"],
        },
    ],
    plugin: Awq,
}

#[cfg(test)]
mod tests {
    use qhost_plugin_api::documents::{Document, Manifest};

    #[test]
    fn the_manifest_names_the_levels_that_are_described() {
        let manifest = Manifest::from_json(super::MANIFEST_JSON).unwrap();
        let described: Vec<_> = super::format::description().levels.into_iter().map(|level| level.id).collect();
        assert_eq!(manifest.formats[0].levels, described);
        assert_eq!(manifest.formats[0].loaders, super::read::LOADERS);
        assert_eq!(manifest.formats[0].folders.len(), 3);
    }
}
