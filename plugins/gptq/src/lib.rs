//! The GPTQ format plugin: it is found and described; its requests are refused until there is
//! calibration.
//!
//! GPTQ compensates each rounding error under the second moments of the inputs (Frantar et al.,
//! 2022, section 3), so nothing can be made from weights alone. It knows the format's levels, and
//! nothing else yet.

mod format;

use qhost_plugin_api::{
    documents::{Description, OpenRequest},
    sdk::{Failure, FilesHandle, Format, HostHandle, NoJob, Result},
};

/// The plugin.
pub struct Gptq;

impl Format for Gptq {
    type Job = NoJob;

    fn connect(_: HostHandle) -> Result<Self> {
        Ok(Self)
    }

    fn describe(&self) -> Description {
        Description::new(vec![format::description()])
    }

    fn open(&self, _: OpenRequest, _: FilesHandle) -> Result<NoJob> {
        Err(Failure::unsupported("gptq needs calibration, which is not available yet")
            .hint("gguf needs none: use --format gguf"))
    }
}

qhost_plugin_api::export_plugin! {
    id: "gptq",
    summary: "GPTQ: error-compensated 2- to 8-bit weights (needs calibration, not available yet)",
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
