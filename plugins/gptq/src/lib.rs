//! The GPTQ format plugin: folders of packed 2- to 8-bit weights that vLLM, `SGLang`, transformers and `gptqmodel` load.
//!
//! GPTQ compensates each rounding error under the second moments of the inputs (Frantar et al., 2022, section 3).

mod check;
mod config;
mod format;
mod job;
mod modules;
mod options;
mod pack;
mod round_unit;
mod rules;
mod stacked;
mod usage;
mod weights;
mod write;

use qhost_plugin_api::{
    documents::{Description, OpenRequest},
    sdk::{Failure, FilesHandle, Format, HostHandle, Result},
};

pub use job::GptqJob;

/// The plugin.
pub struct Gptq {
    host: HostHandle,
}

impl Format for Gptq {
    type Job = GptqJob;

    fn connect(host: HostHandle) -> Result<Self> {
        Ok(Self { host })
    }

    fn describe(&self) -> Description {
        Description::new(vec![format::description()])
    }

    fn open(&self, request: OpenRequest, companions: FilesHandle) -> Result<GptqJob> {
        if request.existing.is_some() || request.decode {
            return Err(Failure::unsupported("this version of the plugin does not read GPTQ files"));
        }
        GptqJob::open(&request, &companions, self.host.clone())
    }
}

qhost_plugin_api::export_plugin! {
    id: "gptq",
    summary: "GPTQ: error-compensated 2- to 8-bit weights",
    api: "^1.0",
    formats: [
        {
            id: "gptq",
            summary: "A folder for vLLM, SGLang and transformers",
            levels: [
                "2bit-g32", "2bit-g128", "3bit-g32", "3bit-g128", "4bit-g32", "4bit-g128", "4bit-channel", "8bit-g32",
                "8bit-g128", "8bit-channel",
            ],
        },
    ],
    plugin: Gptq,
}

#[cfg(test)]
mod tests {
    use qhost_plugin_api::documents::{Document, Manifest};

    #[test]
    fn the_manifest_names_the_levels_that_are_described() {
        let manifest = Manifest::from_json(super::MANIFEST_JSON).unwrap();
        let described: Vec<_> = super::format::description().levels.into_iter().map(|level| level.id).collect();
        assert_eq!(manifest.formats[0].levels, described);
    }
}
