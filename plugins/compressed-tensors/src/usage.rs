//! How the output is used: words for the model card, and what loaders do not take of it.

use qhost_linears::{Contents, Module};
use qhost_plugin_api::documents::Model;

/// The library that loads the output, by the name that hubs know.
pub(crate) const LIBRARY: &str = "transformers";

/// The card's text.
pub(crate) fn text(contents: &Contents) -> String {
    let mut text = String::new();
    if !contents.modules().any(|module| module.settings.act_order) {
        text.push_str("With [vLLM](https://docs.vllm.ai), which serves an OpenAI API:\n\n");
        text.push_str("```sh\nvllm serve ./{output}\n```\n\n");
    }
    text.push_str(
        "With [transformers](https://huggingface.co/docs/transformers/quantization/compressed_tensors) (`pip install compressed-tensors`):\n\n",
    );
    text.push_str(
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig\n\n",
    );
    text.push_str("tokenizer = AutoTokenizer.from_pretrained(\"./{output}\")\n");
    let asymmetric = contents.modules().any(|module| !module.settings.symmetric);
    let how = if asymmetric { ", quantization_config=CompressedTensorsConfig(dequantize=True)" } else { "" };
    text.push_str("model = AutoModelForCausalLM.from_pretrained(\"./{output}\", device_map=\"auto\"");
    text.push_str(how);
    text.push_str(")\n```\n");
    if asymmetric { text } else { text.replace(", CompressedTensorsConfig", "") }
}

/// What loaders do not take of it, one sentence each.
pub(crate) fn loader_limits(contents: &Contents, model: &Model) -> Vec<String> {
    let mut limits = Vec::new();
    let any = |test: &dyn Fn(&Module) -> bool| contents.modules().any(test);
    if any(&|module| module.settings.act_order) {
        limits.push(
            "vLLM (0.32) and compressed-tensors since 0.19 refuse groups in the order of the inputs (actorder `group`); \
             without --desc-act, columns are put in order within their groups anyway"
                .into(),
        );
    }
    if any(&|module| !module.settings.symmetric) {
        limits.push(
            "transformers with compressed-tensors 0.18 to 0.20 loads asymmetric codes only with \
             CompressedTensorsConfig(dequantize=True); vLLM, and transformers with 0.17, load them as they are"
                .into(),
        );
    }
    if any(&|module| !matches!(module.settings.bits, 2 | 4 | 8)) {
        limits.push(
            "codes of 3, 5, 6 and 7 bits go on in the next word, as compressed-tensors packs them since 0.18 and vLLM (0.33) \
             reads them; older ones expect other shapes"
                .into(),
        );
    }
    if any(&|module| !matches!(module.settings.bits, 4 | 8) || module.settings.bits == 8 && !module.settings.symmetric)
    {
        limits.push(
            "vLLM (0.33) has one kernel for such codes, Humming, on CUDA only; its others take 4 bits, and 8 bits that are \
             symmetric"
                .into(),
        );
    } else if any(&|module| !matches!(module.settings.group_size, None | Some(32 | 64 | 128))) {
        limits.push("vLLM's usual kernel for GPUs, Marlin, takes groups of 32, 64 or 128, or whole rows".into());
    }
    if any(&|module| module.transposed) {
        limits.push(
            "transformers has this model's linears as another class (Conv1D), which compressed-tensors does not load: this \
             output is for vLLM"
                .into(),
        );
    }
    if any(&|module| module.expert.is_some()) {
        limits.push(
            "the experts are written one by one; vLLM and transformers load this model's experts stacked only".into(),
        );
    } else if any(&|module| module.name.contains(".experts.")) {
        limits.push(format!(
            "transformers (5) has the experts of {} stacked, and loads them only with CompressedTensorsConfig(dequantize=True), \
             or not at all: this output is for vLLM",
            model.family
        ));
    }
    limits
}
