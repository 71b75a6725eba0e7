//! How the output is used: words for the model card, and what loaders do not take of it.

use qhost_linears::{Contents, Module};
use qhost_plugin_api::documents::{Fold, FoldSource, Model};

use crate::{config::left_out_experts, options::Choices};

/// The library that loads the output, by the name that hubs know.
pub(crate) const LIBRARY: &str = "transformers";

/// The card's text.
pub(crate) fn text(choices: &Choices, contents: &Contents) -> String {
    if choices.scale_only {
        return "The weights compute what the original's do, but for rounding: inputs that matter are scaled up where linears read \
                them, and down where they come from, so that quantisers lose less. It is loaded like the original; what was \
                scaled is stored in 32 bits, and loses some when it is loaded in fewer.\n"
            .into();
    }
    let mut text = String::new();
    if loader_limits(choices, contents).is_empty() {
        text.push_str(
            "With [vLLM](https://docs.vllm.ai) or [SGLang](https://docs.sglang.ai), which serve an OpenAI API:\n\n",
        );
        text.push_str("```sh\nvllm serve ./{output}\npython -m sglang.launch_server --model-path ./{output}\n```\n\n");
    }
    text.push_str(
        "With [transformers](https://huggingface.co/docs/transformers/quantization/awq) (`pip install gptqmodel`):\n\n",
    );
    text.push_str("```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n");
    text.push_str("tokenizer = AutoTokenizer.from_pretrained(\"./{output}\")\n");
    text.push_str("model = AutoModelForCausalLM.from_pretrained(\"./{output}\", device_map=\"auto\")\n```\n\n");
    text.push_str("With [GPTQModel](https://github.com/ModelCloud/GPTQModel):\n\n");
    text.push_str("```python\nfrom gptqmodel import GPTQModel\n\nmodel = GPTQModel.load(\"./{output}\")\n```\n");
    text
}

/// What loaders do not take of it, one sentence each.
pub(crate) fn loader_limits(choices: &Choices, contents: &Contents) -> Vec<String> {
    let mut limits = Vec::new();
    if choices.scale_only {
        return limits;
    }
    if !matches!(choices.settings.group_size, None | Some(32 | 64 | 128)) {
        limits.push("vLLM's kernels for GPUs take groups of 32, 64 or 128, or whole rows".into());
    }
    if contents.modules().any(|module| module.expert.is_some()) {
        limits.push(
            "the experts are written one by one, as GPTQModel loads them; vLLM, SGLang and transformers load this model's experts stacked only"
                .into(),
        );
    }
    let of_expert = |module: &Module| module.expert_of_statistics.is_some();
    if choices.settings.group_size.is_none() && contents.modules().any(of_expert) {
        limits.push("vLLM takes groups of experts' weights only, no whole rows".into());
    }
    if let Some(experts) = left_out_experts(contents).1.first() {
        limits.push(format!("vLLM runs {experts} as one, and does not load experts of which only some are quantised"));
    }
    limits
}

/// Who computes with other weights than those of the output, and does not say so: their modules have other names than the
/// checkpoint's, which the output keeps.
pub(crate) fn misread(model: &Model, contents: &Contents) -> Option<String> {
    let fused = contents.modules().any(|module| module.name.ends_with("gate_up_proj"));
    // Stacked experts are another matter.
    let experts = contents.modules().any(|module| module.expert.is_none() && module.name.contains(".experts."));
    let (who, what, whose) = match (&*model.family, experts, fused) {
        ("mixtral", true, _) => ("GPTQModel (7.7) and transformers (5) look", "experts", "vLLM and SGLang"),
        (_, true, _) => ("transformers (5) looks", "experts", "vLLM, SGLang and GPTQModel"),
        (_, _, true) => ("GPTQModel (7.7) looks", "gate and up", "vLLM, SGLang and transformers"),
        _ => return None,
    };
    Some(format!(
        "{who} for this model's {what} under other names, and random weights are taken for what is not found: this output is for {whose}"
    ))
}

/// Which inputs are not scaled, and why: a sentence for each reason.
pub(crate) fn not_scaled(model: &Model, contents: &Contents) -> Vec<String> {
    let quantised = |id: &u32| contents.modules().any(|module| module.tensor == *id && module.taken.is_none());
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for fold in model.folds.iter().filter(|fold| fold.readers.iter().any(quantised)) {
        let reason = match &fold.source {
            FoldSource::Obstacle { reason, .. } => reason.as_str(),
            FoldSource::Norm(_) | FoldSource::Rows(_) => continue,
            _ => "this version of the plugin does not know what they come from",
        };
        let names = readers(model, fold);
        match reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, known)) => known.extend(names),
            None => reasons.push((reason, names)),
        }
    }
    reasons
        .into_iter()
        .map(|(reason, mut names)| {
            names.sort_unstable();
            names.dedup();
            format!("the inputs of {} are rounded without scales: {reason}", names.join(", "))
        })
        .collect()
}

/// The last words of the names of what reads an input.
fn readers<'a>(model: &'a Model, fold: &Fold) -> Vec<&'a str> {
    let tensors = fold.readers.iter().filter_map(|id| model.tensors.get(*id as usize));
    tensors
        .map(|tensor| {
            let name = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
            name.rsplit_once('.').map_or(name, |(_, last)| last)
        })
        .collect()
}
