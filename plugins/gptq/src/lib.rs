//! The GPTQ format plugin: folders of packed 2- to 8-bit weights that vLLM, `SGLang`, transformers and `gptqmodel` load.
//!
//! GPTQ compensates each rounding error under the second moments of the inputs (Frantar et al., 2022, section 3).

mod check;
mod config;
mod format;
mod job;
mod mixture;
mod options;
mod pack;
mod read;
mod rules;
mod survey;
mod usage;
mod write;

/// The plugin.
pub type Gptq = qhost_packed::Plugin<job::GptqJob>;

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
            folders: [
                { file: "config.json", key: "quantization_config.quant_method", value: "gptq" },
                { file: "config.json", key: "quantization_config.quant_method", value: "auto-round" },
                { file: "config.json", key: "quantization_config.quant_method", value: "intel/auto-round" },
                { file: "quantize_config.json", key: "", value: "" },
            ],
            loaders: ["transformers", "gptqmodel", "vllm", "sglang"],
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
        assert_eq!(manifest.formats[0].loaders, super::read::LOADERS);
        assert_eq!(manifest.formats[0].folders.len(), 4);
    }
}
