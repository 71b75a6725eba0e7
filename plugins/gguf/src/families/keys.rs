//! The keys of an architecture: those that most have, in the reference converter's order, and those that
//! single families add.

use qhost_plugin_api::{
    documents::{Experts, Hyperparameters, Model},
    sdk::Result,
};
use serde_json::Value as Json;

use super::{Family, Keys, Window, bad_config, inexpressible, positive, rope};

/// What configs call the epsilon of norms, for messages.
const EPSILONS: [&str; 4] = ["rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"];

/// The keys of a model, and what the user should know.
pub(super) fn of(model: &Model, family: &Family) -> Result<(Keys, Vec<String>)> {
    let sizes = &model.hyperparameters;
    let mut keys = Keys::default();
    keys.push("block_count", sizes.layers);
    keys.count("context_length", sizes.context_length, "max_position_embeddings")?;
    keys.count("embedding_length", sizes.hidden_size, "hidden_size")?;
    keys.count("feed_forward_length", sizes.ffn_size, "intermediate_size")?;
    keys.push("attention.head_count", sizes.heads);
    keys.push("attention.head_count_kv", sizes.kv_heads);
    let (scaling, mut warnings) = rope::keys(model, family)?;
    scaling.0.into_iter().for_each(|(key, value)| keys.push(key, value));
    if sizes.rope.kind != "none" {
        keys.push("rope.freq_base", positive(sizes.rope.theta, "rope_theta")?);
    }
    if let Some(theta) = sizes.rope.local_theta {
        keys.push("rope.freq_base_swa", positive(theta, "rope_theta")?);
    }
    let named = |name: &&&str| model.config.get(**name).is_some_and(|value| !value.is_null());
    let epsilon = EPSILONS.iter().find(named).copied().unwrap_or(EPSILONS[0]);
    keys.push(family.epsilon, positive(sizes.norm_epsilon, epsilon)?);
    if let Some(experts) = &sizes.experts {
        keys.push("expert_count", experts.count);
        keys.push("expert_used_count", experts.used);
    }
    // The converter asks transformers, which fills in what config.json leaves out, for all families
    // whose heads may be of any width.
    if sizes.latent_attention.is_none() && (sizes.head_dim_explicit || !family.square_attention) {
        keys.count("attention.key_length", sizes.head_dim, "head_dim")?;
        keys.count("attention.value_length", sizes.head_dim, "head_dim")?;
    }
    if family.states_sizes {
        keys.count("vocab_size", sizes.vocab_size, "vocab_size")?;
    }
    let partly_rotated = sizes.rope.kind != "none" && sizes.rope.dimensions != sizes.head_dim;
    if family.states_sizes || partly_rotated {
        keys.count("rope.dimension_count", sizes.rope.dimensions, "head_dim")?;
    }
    window(sizes, family, &mut keys, &mut warnings)?;
    (family.keys)(model, &mut keys)?;
    Ok((keys, warnings))
}

/// The window of sliding attention, and the layers that use it where they are not those that llama.cpp takes
/// by itself.
fn window(sizes: &Hyperparameters, family: &Family, keys: &mut Keys, warnings: &mut Vec<String>) -> Result<()> {
    let Some(window) = sizes.sliding_window else { return Ok(()) };
    match family.window {
        Window::Ignored if window < sizes.context_length => warnings.push(format!(
            "llama.cpp computes full attention for {}: beyond {window} tokens, the model's own window, results differ",
            family.id
        )),
        Window::Ignored => {}
        Window::AllButEvery(every) => {
            keys.count("attention.sliding_window", window, "sliding_window")?;
            let layers: Vec<bool> = if sizes.windowed_layers.is_empty() {
                vec![true; sizes.layers as usize]
            } else {
                sizes.windowed_layers.clone()
            };
            let by_itself = (1..=u64::from(sizes.layers)).map(|layer| !layer.is_multiple_of(every));
            if !by_itself.eq(layers.iter().copied()) {
                keys.push("attention.sliding_window_pattern", layers);
            }
        }
    }
    Ok(())
}

/// No keys of its own.
#[expect(clippy::unnecessary_wraps, reason = "an entry of the table")]
pub(super) fn none(_: &Model, _: &mut Keys) -> Result<()> {
    Ok(())
}

fn experts(model: &Model) -> Result<&Experts> {
    model.hyperparameters.experts.as_ref().ok_or_else(|| bad_config("the config tells of no experts".into()))
}

pub(super) fn expert_width(model: &Model, keys: &mut Keys) -> Result<()> {
    keys.count("expert_feed_forward_length", experts(model)?.ffn_size, "moe_intermediate_size")
}

pub(super) fn shared_expert(model: &Model, keys: &mut Keys) -> Result<()> {
    expert_width(model, keys)?;
    let shared = experts(model)?.shared_ffn_size;
    keys.count("expert_shared_feed_forward_length", shared, "shared_expert_intermediate_size")
}

pub(super) fn gemma2(model: &Model, keys: &mut Keys) -> Result<()> {
    keys.number("attn_logit_softcapping", model, "attn_logit_softcapping")?;
    keys.number("final_logit_softcapping", model, "final_logit_softcapping")
}

pub(super) fn gemma3(model: &Model, keys: &mut Keys) -> Result<()> {
    keys.number("final_logit_softcapping", model, "final_logit_softcapping")
}

/// The window is stated as 0 where there is none: that marks Phi-4 for llama.cpp. The kind of scaling is not
/// stated: llama.cpp goes by the tensors of factors.
pub(super) fn phi3(model: &Model, keys: &mut Keys) -> Result<()> {
    let sizes = &model.hyperparameters;
    let original = sizes.rope.parameters.get("original_max_position_embeddings").and_then(Json::as_u64);
    let original = original.unwrap_or(sizes.context_length);
    keys.count("rope.scaling.original_context_length", original, "original_max_position_embeddings")?;
    keys.count("rope.dimension_count", sizes.rope.dimensions, "head_dim")?;
    keys.count("attention.sliding_window", sizes.sliding_window.unwrap_or(0), "sliding_window")?;
    if matches!(sizes.rope.kind.as_str(), "longrope" | "su") {
        let stated =
            ["attention_factor", "attn_factor"].into_iter().find(|key| sizes.rope.parameters.contains_key(*key));
        let factor = match stated {
            Some(key) => rope::parameter(model, key)?,
            None => rope::long_attention_factor(sizes.context_length, original),
        };
        keys.push("rope.scaling.attn_factor", factor);
    }
    Ok(())
}

pub(super) fn deepseek(model: &Model, keys: &mut Keys) -> Result<()> {
    let sizes = &model.hyperparameters;
    let latent = sizes.latent_attention.as_ref();
    let latent = latent.ok_or_else(|| bad_config("the config tells of no latent attention".into()))?;
    let experts = experts(model)?;
    let dense = experts.layers.iter().take_while(|sparse| !**sparse).count() as u64;
    // llama.cpp sees the latent keys and values as those of one head.
    keys.push("attention.head_count_kv", 1_u32);
    keys.count("leading_dense_block_count", dense, "first_k_dense_replace")?;
    keys.count("vocab_size", sizes.vocab_size, "vocab_size")?;
    // Where there are no latent queries, llama.cpp still asks for their width.
    keys.count("attention.q_lora_rank", latent.q_rank.unwrap_or(0), "q_lora_rank")?;
    keys.count("attention.kv_lora_rank", latent.kv_rank, "kv_lora_rank")?;
    keys.count("attention.key_length", latent.kv_rank + latent.rotated, "kv_lora_rank")?;
    keys.count("attention.value_length", latent.kv_rank, "kv_lora_rank")?;
    keys.count("attention.key_length_mla", latent.unrotated + latent.rotated, "qk_nope_head_dim")?;
    keys.count("attention.value_length_mla", latent.value, "v_head_dim")?;
    keys.count("expert_feed_forward_length", experts.ffn_size, "moe_intermediate_size")?;
    keys.push("expert_shared_count", experts.shared_count.unwrap_or(0));
    // Both have to be above 1 for llama.cpp to choose groups first.
    if let (Some(groups @ 2..), Some(used)) = (experts.groups, experts.groups_used)
        && model.config.get("topk_method").and_then(Json::as_str) != Some("greedy")
    {
        keys.push("expert_group_count", groups);
        keys.push("expert_group_used_count", used);
    }
    keys.push("expert_weights_scale", positive(experts.scale, "routed_scaling_factor")?);
    keys.push("expert_weights_norm", experts.normalized);
    keys.push(
        "expert_gating_func",
        match experts.scoring.as_str() {
            "softmax" => 1_u32,
            "sigmoid" => 2,
            other => return Err(inexpressible(format!("llama.cpp has no scoring function `{other}` for experts"))),
        },
    );
    keys.count("rope.dimension_count", latent.rotated, "qk_rope_head_dim")?;
    if let Some(scale) = sizes.rope.parameters.get("mscale_all_dim").and_then(Json::as_f64) {
        // The reference converter writes a tenth, and llama.cpp takes it back.
        #[expect(clippy::cast_possible_truncation, reason = "the format has f32")]
        keys.push("rope.scaling.yarn_log_multiplier", (0.1 * scale) as f32);
    }
    Ok(())
}

/// Multipliers of one are no multipliers for llama.cpp, except that of the attention, which takes the place
/// of the usual scale.
pub(super) fn granite(model: &Model, keys: &mut Keys) -> Result<()> {
    keys.number("attention.scale", model, "attention_multiplier")?;
    keys.number("embedding_scale", model, "embedding_multiplier")?;
    keys.number("residual_scale", model, "residual_multiplier")?;
    keys.number("logit_scale", model, "logits_scaling")
}

pub(super) fn parallel_residual(model: &Model, keys: &mut Keys) -> Result<()> {
    let parallel = model.config.get("use_parallel_residual").map_or(Some(false), Json::as_bool);
    keys.push(
        "use_parallel_residual",
        parallel.ok_or_else(|| bad_config("`use_parallel_residual` is no truth".into()))?,
    );
    Ok(())
}

pub(super) fn cohere(model: &Model, keys: &mut Keys) -> Result<()> {
    // Command R states a shorter context than it was trained with, and the true one here.
    if let Some(length) = model.config.get("model_max_length").and_then(Json::as_u64) {
        keys.count("context_length", length, "model_max_length")?;
    }
    keys.number("logit_scale", model, "logit_scale")?;
    keys.push("rope.scaling.type", "none");
    Ok(())
}
