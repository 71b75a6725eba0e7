//! What llama.cpp cannot compute of a model, found before anything is read.
//!
//! Each limit is one of llama.cpp's own sources (`src/models/*.cpp`); it knows nothing of GGUF's layout.

use qhost_plugin_api::{
    documents::{Model, Part, RoleKind},
    sdk::Result,
};
use serde_json::Value as Json;

use super::{Family, Head, inexpressible, rope};

/// The most layers that llama.cpp loads (`LLAMA_MAX_LAYERS`).
const MOST_LAYERS: u32 = 512;
/// The most experts that llama.cpp loads (`LLAMA_MAX_EXPERTS`).
const MOST_EXPERTS: u32 = 1024;

/// What holds for every family.
pub(super) fn check(model: &Model, family: &Family) -> Result<()> {
    let sizes = &model.hyperparameters;
    let architecture = family.architecture;
    rope::keys(model, family)?;
    let refuse = |message: String| Err(inexpressible(message));
    if sizes.layers > MOST_LAYERS {
        return refuse(format!("llama.cpp loads at most {MOST_LAYERS} layers, the model has {}", sizes.layers));
    }
    if let Some(experts) = sizes.experts.as_ref().filter(|experts| experts.count > MOST_EXPERTS) {
        return refuse(format!("llama.cpp loads at most {MOST_EXPERTS} experts, the model has {}", experts.count));
    }
    if sizes.rope.kind != "none" && (!sizes.rope.dimensions.is_multiple_of(2) || sizes.rope.dimensions == 0) {
        return refuse(format!("heads of {} rotated elements have no rotary halves", sizes.rope.dimensions));
    }
    let width = u64::from(sizes.heads) * sizes.head_dim;
    if family.square_attention && width != sizes.hidden_size {
        return refuse(format!(
            "llama.cpp loads {architecture} only with heads × head_dim = hidden_size; the model has {} × {} and {}",
            sizes.heads, sizes.head_dim, sizes.hidden_size
        ));
    }
    if !family.activations.contains(&sizes.activation.as_str()) {
        return refuse(format!(
            "llama.cpp computes {architecture} with {}, the model with {}",
            family.activations[0], sizes.activation
        ));
    }
    if family.head == Head::Never && model.tensors.iter().any(|tensor| tensor.role.kind == RoleKind::Output) {
        return refuse(format!(
            "llama.cpp computes {architecture} with the embedding as its head, the model has another"
        ));
    }
    let has_bias = |kind: &RoleKind| {
        model.tensors.iter().any(|tensor| tensor.role.part == Part::Bias && tensor.role.kind == *kind)
    };
    if let Some(kind) = family.needed_biases.iter().find(|kind| !has_bias(kind)) {
        return refuse(format!("llama.cpp does not load {architecture} without a bias of {}", kind.name()));
    }
    for tensor in &model.tensors {
        if tensor.role.part == Part::Bias && !family.biases.contains(&tensor.role.kind) {
            return Err(inexpressible(format!("llama.cpp has no place for it in the architecture {architecture}"))
                .about(&*tensor.name));
        }
    }
    Ok(())
}

/// Nothing more.
#[expect(clippy::unnecessary_wraps, reason = "an entry of the table")]
pub(super) fn none(_: &Model) -> Result<()> {
    Ok(())
}

pub(super) fn mixtral(model: &Model) -> Result<()> {
    experts_everywhere(model)?;
    normalized(model, true)
}

/// Qwen2-MoE: experts in every layer, a shared one, and weights that are not scaled to 1.
pub(super) fn qwen2_moe(model: &Model) -> Result<()> {
    experts_everywhere(model)?;
    let experts = model.hyperparameters.experts.as_ref();
    if experts.is_some_and(|experts| experts.shared_ffn_size == 0) {
        return Err(inexpressible("llama.cpp does not load qwen2moe without a shared expert".into()));
    }
    normalized(model, false)
}

pub(super) fn qwen3_moe(model: &Model) -> Result<()> {
    experts_everywhere(model)?;
    normalized(model, true)
}

fn experts_everywhere(model: &Model) -> Result<()> {
    let layers = model.hyperparameters.experts.as_ref().map(|experts| experts.layers.as_slice()).unwrap_or_default();
    match layers.iter().position(|sparse| !sparse) {
        None if !layers.is_empty() => Ok(()),
        None => Err(inexpressible("llama.cpp does not load this architecture without experts".into())),
        Some(layer) => Err(inexpressible(format!(
            "llama.cpp loads this architecture only with experts in every layer; layer {layer} has none"
        ))),
    }
}

fn normalized(model: &Model, computed: bool) -> Result<()> {
    let experts = model.hyperparameters.experts.as_ref();
    match experts.filter(|experts| experts.normalized != computed) {
        None => Ok(()),
        Some(experts) => Err(inexpressible(format!(
            "llama.cpp computes this architecture with norm_topk_prob {computed}, the model has {}",
            experts.normalized
        ))),
    }
}

pub(super) fn gemma2(model: &Model) -> Result<()> {
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if model.config.get(key).is_none_or(Json::is_null) {
            return Err(inexpressible(format!("llama.cpp computes gemma2 with soft caps, the model has no `{key}`")));
        }
    }
    attention_scale(model, 46)
}

pub(super) fn gemma3(model: &Model) -> Result<()> {
    if model.config.get("attn_logit_softcapping").is_some_and(|value| !value.is_null()) {
        return Err(inexpressible("llama.cpp computes gemma3 without soft caps on attention".into()));
    }
    if model.config.get("use_bidirectional_attention").and_then(Json::as_bool) == Some(true) {
        return Err(inexpressible("llama.cpp computes gemma3 with causal attention, the model looks ahead".into()));
    }
    attention_scale(model, 62)
}

/// The scale of the attention is not in the file: llama.cpp takes the width of a head, or for the model of 27
/// billion parameters, known by its number of layers, the width of the stream by the number of heads.
fn attention_scale(model: &Model, large: u32) -> Result<()> {
    let sizes = &model.hyperparameters;
    let computed = if sizes.layers == large { sizes.hidden_size / u64::from(sizes.heads) } else { sizes.head_dim };
    let stated = model.config.get("query_pre_attn_scalar").and_then(Json::as_f64);
    #[expect(clippy::cast_precision_loss, reason = "widths of heads")]
    let computed = computed as f64;
    match stated.filter(|stated| (stated - computed).abs() > 1e-9) {
        None => Ok(()),
        Some(stated) => Err(inexpressible(format!(
            "llama.cpp scales queries by {computed}, the model by {stated} (query_pre_attn_scalar)"
        ))),
    }
}

/// The bounds of its activation are constants in llama.cpp.
pub(super) fn gpt_oss(model: &Model) -> Result<()> {
    for (key, computed) in [("swiglu_alpha", 1.702), ("swiglu_limit", 7.0)] {
        let stated = model.config.get(key).and_then(Json::as_f64);
        if let Some(stated) = stated.filter(|stated| (stated - computed).abs() > 1e-9) {
            return Err(inexpressible(format!("llama.cpp computes gpt-oss with a {key} of {computed}, not {stated}")));
        }
    }
    if model.hyperparameters.sliding_window.is_none() {
        return Err(inexpressible("llama.cpp does not load gpt-oss without a sliding window".into()));
    }
    Ok(())
}

pub(super) fn deepseek(model: &Model) -> Result<()> {
    let sizes = &model.hyperparameters;
    let latent = sizes.latent_attention.as_ref();
    // llama.cpp knows the models without latent queries by their number of layers, and then reads none.
    let lite = matches!(sizes.layers, 26 | 27) || (sizes.layers == 48 && sizes.vocab_size == 128_256);
    if lite && latent.is_some_and(|latent| latent.q_rank.is_some()) {
        return Err(inexpressible(format!("llama.cpp loads no latent queries for {} layers", sizes.layers)));
    }
    let Some(experts) = &sizes.experts else {
        return Err(inexpressible("llama.cpp does not load this architecture without experts".into()));
    };
    let dense = experts.layers.iter().take_while(|sparse| !**sparse).count();
    if let Some(layer) = experts.layers.iter().skip(dense).position(|sparse| !sparse) {
        return Err(inexpressible(format!(
            "llama.cpp has layers without experts at the start only; layer {} has none either",
            dense + layer
        )));
    }
    if experts.shared_ffn_size == 0 {
        return Err(inexpressible("llama.cpp does not load this architecture without shared experts".into()));
    }
    if let (Some(groups @ 2..), Some(used)) = (experts.groups, experts.groups_used)
        && (used >= groups || !experts.count.is_multiple_of(groups))
    {
        return Err(inexpressible(format!(
            "llama.cpp cannot choose {used} of {groups} groups of {} experts",
            experts.count
        )));
    }
    if model.config.get("rope_interleave").and_then(Json::as_bool) == Some(false) {
        return Err(inexpressible("llama.cpp rotates neighbours, the model halves (rope_interleave)".into()));
    }
    let parameter = |key: &str| sizes.rope.parameters.get(key).and_then(Json::as_f64);
    match (parameter("mscale"), parameter("mscale_all_dim")) {
        (Some(one), Some(all)) if (one - all).abs() > 1e-9 => Err(inexpressible(format!(
            "llama.cpp has one factor for YaRN's mscale and mscale_all_dim, the model has {one} and {all}"
        ))),
        _ => Ok(()),
    }
}

/// Every fourth layer rotates nothing; llama.cpp has that as a constant.
pub(super) fn smollm3(model: &Model) -> Result<()> {
    let layers = u64::from(model.hyperparameters.layers);
    let interval = model.config.get("no_rope_layer_interval").and_then(Json::as_u64).unwrap_or(4);
    let rotated: Vec<bool> = match model.config.get("no_rope_layers").and_then(Json::as_array) {
        Some(list) => list.iter().map(|layer| layer.as_u64() != Some(0)).collect(),
        None => (1..=layers).map(|layer| !layer.is_multiple_of(interval.max(1))).collect(),
    };
    if (1..=layers).map(|layer| !layer.is_multiple_of(4)).eq(rotated) {
        return Ok(());
    }
    Err(inexpressible(
        "llama.cpp rotates all but every fourth layer of smollm3, the model others (no_rope_layers)".into(),
    ))
}

pub(super) fn cohere(model: &Model) -> Result<()> {
    let normed = model.tensors.iter().any(|tensor| tensor.role.kind == RoleKind::AttentionQNorm);
    let layers = model.hyperparameters.layers;
    if normed != (layers >= 64) {
        return Err(inexpressible(format!(
            "llama.cpp loads command-r with norms on queries and keys from 64 layers on, and not below; the model has \
             {layers} layers"
        )));
    }
    Ok(())
}

/// Windows are for the model of 32 billion parameters only, known by its number of layers.
pub(super) fn exaone4(model: &Model) -> Result<()> {
    let sizes = &model.hyperparameters;
    if sizes.sliding_window.is_some() && sizes.layers != 64 {
        return Err(inexpressible(format!(
            "llama.cpp computes sliding windows of exaone4 with 64 layers only, the model has {}",
            sizes.layers
        )));
    }
    Ok(())
}

pub(super) fn gpt2(model: &Model) -> Result<()> {
    for (key, computed) in
        [("scale_attn_by_inverse_layer_idx", false), ("scale_attn_weights", true), ("add_cross_attention", false)]
    {
        let stated = model.config.get(key).and_then(Json::as_bool);
        if let Some(stated) = stated.filter(|stated| *stated != computed) {
            return Err(inexpressible(format!(
                "llama.cpp computes gpt2 with {key} {computed}, the model has {stated}"
            )));
        }
    }
    Ok(())
}
