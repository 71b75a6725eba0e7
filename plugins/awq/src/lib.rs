//! The AWQ format plugin: it is found and described; its requests are refused until there is
//! calibration.
//!
//! AWQ scales channels by the activations that they see (Lin et al., 2023, section 3.2), so nothing
//! can be made from weights alone. It knows the format's levels, and nothing else yet.

mod format;

use qhost_plugin_api::{
    documents::{Description, OpenRequest},
    sdk::{Failure, FilesHandle, Format, HostHandle, NoJob, Result},
};

/// The plugin.
pub struct Awq;

impl Format for Awq {
    type Job = NoJob;

    fn connect(_: HostHandle) -> Result<Self> {
        Ok(Self)
    }

    fn describe(&self) -> Description {
        Description::new(vec![format::description()])
    }

    fn open(&self, _: OpenRequest, _: FilesHandle) -> Result<NoJob> {
        Err(Failure::unsupported("awq needs calibration, which is not available yet")
            .hint("gguf needs none: use --format gguf"))
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
    }
}
