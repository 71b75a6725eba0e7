//! The AWQ format plugin: folders of packed 4-bit weights that vLLM, `SGLang`, transformers and `gptqmodel` load.
//!
//! AWQ scales inputs by what of them matters (Lin et al., 2023, section 3.2), folded into what comes before; the scaled
//! weights are rounded with compensation, as GPTQ does (Frantar et al., 2022, section 3), which the files do not show.

mod check;
mod config;
mod folding;
mod format;
mod job;
mod narrow;
mod options;
mod pack;
mod read;
mod sample;
mod scales;
mod scaling;
mod size;
mod unit;
mod usage;
mod write;

/// The plugin.
pub type Awq = qhost_packed::Plugin<job::AwqJob>;

qhost_plugin_api::export_plugin! {
    id: "awq",
    summary: "AWQ: activation-aware 4-bit weights",
    api: "^1.0",
    formats: [
        {
            id: "awq",
            summary: "A folder for vLLM, SGLang and transformers",
            levels: ["4bit-g32", "4bit-g64", "4bit-g128", "4bit-channel"],
            folders: [
                { file: "config.json", key: "quantization_config.quant_method", value: "awq" },
                { file: "config.json", key: "quantization_config.quant_method", value: "auto-round" },
                { file: "config.json", key: "quantization_config.quant_method", value: "intel/auto-round" },
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
        assert_eq!(manifest.formats[0].folders.len(), 5);
    }
}
