//! The compressed-tensors format plugin: folders of packed 2- to 8-bit weights (`pack-quantized`) as llm-compressor writes
//! them, which vLLM and transformers load.
//!
//! Weights are rounded to the nearest codes; with calibration, errors are compensated as GPTQ does (Frantar et al., 2022,
//! section 3), which the files do not show.

mod check;
mod config;
mod format;
mod job;
mod options;
mod pack;
mod read;
mod unit;
mod usage;
mod write;

/// The plugin.
pub type CompressedTensors = qhost_packed::Plugin<job::FolderJob>;

qhost_plugin_api::export_plugin! {
    id: "compressed-tensors",
    summary: "compressed-tensors: packed 2- to 8-bit weights",
    api: "^1.0",
    formats: [
        {
            id: "compressed-tensors",
            summary: "A folder for vLLM and transformers",
            levels: [
                "2bit-g32", "3bit-g32", "3bit-g128", "4bit-g32", "4bit-g128", "4bit-channel", "5bit-g128", "6bit-g128",
                "8bit-g32", "8bit-g128", "8bit-channel",
            ],
            folders: [
                { file: "config.json", key: "quantization_config.quant_method", value: "compressed-tensors" },
            ],
            loaders: ["transformers", "vllm"],
        },
    ],
    plugin: CompressedTensors,
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
    }
}
