//! How the output is used: words for the model card.

use std::fmt::Write as _;

use qhost_linears::{Contents, Module};

use crate::{
    mixture::list,
    options::{CheckpointFormat, Choices},
};

/// The library that loads the output, by the name that hubs know.
pub(crate) const LIBRARY: &str = "transformers";

/// The card's text.
pub(crate) fn text(choices: &Choices, contents: &Contents) -> String {
    let mut text = String::new();
    if let Some(target) = choices.target {
        let size = choices.size(target.bytes(choices.parameters));
        let _ = write!(
            text,
            "Modules have {} bits each, chosen by the loss that was measured with each width so that the weights take at most {size}.\n\n",
            list(&choices.mix)
        );
    }
    if in_vllm(choices, contents) {
        text.push_str(
            "With [vLLM](https://docs.vllm.ai) or [SGLang](https://docs.sglang.ai), which serve an OpenAI API:\n\n",
        );
        text.push_str("```sh\nvllm serve ./{output}\npython -m sglang.launch_server --model-path ./{output}\n```\n\n");
    }
    text.push_str("With [transformers](https://huggingface.co/docs/transformers/quantization/gptq) (`pip install optimum gptqmodel`):\n\n");
    text.push_str("```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n");
    text.push_str("tokenizer = AutoTokenizer.from_pretrained(\"./{output}\")\n");
    text.push_str("model = AutoModelForCausalLM.from_pretrained(\"./{output}\", device_map=\"auto\")\n```\n\n");
    text.push_str("With [GPTQModel](https://github.com/ModelCloud/GPTQModel):\n\n");
    text.push_str("```python\nfrom gptqmodel import GPTQModel\n\nmodel = GPTQModel.load(\"./{output}\")\n```\n");
    text
}

/// Whether vLLM loads modules of such settings.
fn in_vllm(choices: &Choices, contents: &Contents) -> bool {
    loader_limits(choices, contents).is_empty()
}

/// What loaders do not take of it, one sentence each.
pub(crate) fn loader_limits(choices: &Choices, contents: &Contents) -> Vec<String> {
    let mut limits = Vec::new();
    let any = |test: &dyn Fn(&Module) -> bool| contents.modules().any(test);
    if any(&|module| !matches!(module.settings.bits, 4 | 8) || !module.settings.symmetric) {
        limits.push(
            "vLLM (0.32) loads GPTQ with 4 or 8 bits and symmetric codes only: this output is for GPTQModel and transformers"
                .into(),
        );
    }
    if any(&|module| module.settings.act_order && module.settings.group_size.is_some()) {
        limits.push(
            "vLLM (0.32) refuses desc_act; without it, columns are put in order within their groups anyway".into(),
        );
    }
    match choices.format {
        CheckpointFormat::V2 if any(&|module| module.settings.symmetric) => limits.push(
            "vLLM and SGLang do not read gptq_v2: this output is for GPTQModel, transformers and ExLlamaV2".into(),
        ),
        CheckpointFormat::V1 if any(&|module| !module.settings.symmetric) => limits.push(
            "GPTQModel (7.7), and transformers through it, refuse asymmetric codes in the format gptq: take gptq_v2"
                .into(),
        ),
        _ => {}
    }
    if any(&|module| !matches!(module.settings.group_size, None | Some(32 | 64 | 128))) {
        limits.push("vLLM's kernels for GPUs take groups of 32, 64 or 128, or whole rows".into());
    }
    if any(&|module| module.expert.is_some()) {
        limits.push(
            "the experts are written one by one, as GPTQModel loads them; vLLM, SGLang and transformers load this model's experts stacked only"
                .into(),
        );
    }
    limits
}

/// Who looks for modules under other names than the checkpoint's, which the output keeps: `gptqmodel` refuses what it does
/// not find, and transformers computes with random weights.
pub(crate) fn renamed(family: &str, contents: &Contents) -> Option<String> {
    let fused = contents.modules().any(|module| module.name.ends_with("gate_up_proj"));
    // Stacked experts are another matter.
    let experts = contents.modules().any(|module| module.expert.is_none() && module.name.contains(".experts."));
    let told = match (family, experts, fused) {
        ("mixtral", true, _) => {
            "GPTQModel (7.7) and transformers (5) look for this model's experts under other names; the first refuses the output, the second takes random weights for them: this output is for vLLM and SGLang"
        }
        (_, true, _) => {
            "transformers (5) looks for this model's experts under other names and takes random weights for them: this output is for vLLM, SGLang and GPTQModel"
        }
        (_, _, true) => {
            "GPTQModel (7.7) looks for this model's gate and up under names of its own, and does not load the output: this output is for vLLM, SGLang and transformers"
        }
        _ => return None,
    };
    Some(told.into())
}
