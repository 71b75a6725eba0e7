//! What each model family is in GGUF: its architecture name, its metadata keys, the order of its
//! query and key rows, and what llama.cpp can load of it.
//!
//! It knows no mixture rules and no block types. A new family is one more entry in [`FAMILIES`].

use qhost_plugin_api::{
    documents::{
        Hyperparameters, Model, Part, Role, RoleKind,
        RoleKind::{
            AttentionK, AttentionKNorm, AttentionNorm, AttentionOutput, AttentionQ, AttentionQNorm, AttentionV,
            FfnDown, FfnGate, FfnNorm, FfnUp, Output, OutputNorm, TokenEmbedding,
        },
        SourceTensor, UnitKind,
    },
    sdk::{Failure, Result},
};

use crate::metadata::{Metadata, Value};

/// The most layers that llama.cpp loads (`LLAMA_MAX_LAYERS`).
const MOST_LAYERS: u32 = 512;

/// A family as GGUF has it.
#[derive(Debug)]
pub(crate) struct Family {
    /// The host's name.
    id: &'static str,
    /// `general.architecture`, and the prefix of its keys.
    pub(crate) architecture: &'static str,
    /// How llama.cpp rotates queries and keys.
    pub(crate) rotary: Rotary,
    /// Modules that may have a bias.
    biases: &'static [RoleKind],
    /// Whether the attention is as wide as the residual stream.
    square_attention: bool,
    /// Whether the vocabulary's size and the rotary width are stated.
    states_sizes: bool,
    /// The model sizes that get more bits for attention values.
    pub(crate) is_70b: fn(&Hyperparameters) -> bool,
}

/// Which elements of a head rotary embedding turns together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rotary {
    /// Neighbours; checkpoints have halves, so the rows of queries and keys change their order.
    Neighbours,
    /// The two halves, as in the checkpoint.
    Halves,
}

const FAMILIES: [Family; 4] = [
    Family {
        id: "llama",
        architecture: "llama",
        rotary: Rotary::Neighbours,
        biases: &[AttentionQ, AttentionK, AttentionV, AttentionOutput, FfnGate, FfnUp, FfnDown],
        square_attention: false,
        states_sizes: true,
        is_70b: |model| model.layers == 80 && model.heads != model.kv_heads,
    },
    Family {
        id: "mistral",
        architecture: "llama",
        rotary: Rotary::Neighbours,
        biases: &[],
        square_attention: false,
        states_sizes: true,
        is_70b: |model| model.layers == 80 && model.heads != model.kv_heads,
    },
    Family {
        id: "qwen2",
        architecture: "qwen2",
        rotary: Rotary::Halves,
        biases: &[AttentionQ, AttentionK, AttentionV],
        square_attention: true,
        states_sizes: false,
        is_70b: |model| model.layers == 80,
    },
    Family {
        id: "qwen3",
        architecture: "qwen3",
        rotary: Rotary::Halves,
        biases: &[AttentionQ, AttentionK, AttentionV],
        square_attention: false,
        states_sizes: false,
        is_70b: |_| false,
    },
];

/// The family of a model, after checking that llama.cpp can load it.
///
/// # Errors
/// Fails with kind `UNSUPPORTED` and the reason.
pub(crate) fn family_of(model: &Model) -> Result<&'static Family> {
    let unsupported = |message: String| Err(inexpressible(message));
    let Some(family) = FAMILIES.iter().find(|family| family.id == model.family) else {
        let known: Vec<_> = FAMILIES.iter().map(|family| family.id).collect();
        let hint = format!("this plugin knows {}", known.join(", "));
        return unsupported(format!("the family {} is not known to the gguf plugin", model.family))
            .map_err(|failure: Failure| failure.hint(hint));
    };
    let sizes = &model.hyperparameters;
    if sizes.layers > MOST_LAYERS {
        return unsupported(format!("llama.cpp loads at most {MOST_LAYERS} layers, the model has {}", sizes.layers));
    }
    if !sizes.head_dim.is_multiple_of(2) {
        return unsupported(format!("heads of {} elements have no rotary halves", sizes.head_dim));
    }
    if family.square_attention && u64::from(sizes.heads) * sizes.head_dim != sizes.hidden_size {
        return unsupported(format!(
            "llama.cpp loads {} only with heads × head_dim = hidden_size; the model has {} × {} and {}",
            family.architecture, sizes.heads, sizes.head_dim, sizes.hidden_size
        ));
    }
    match model.config.get("hidden_act").and_then(serde_json::Value::as_str) {
        None | Some("silu" | "swish") => {}
        Some(other) => {
            return unsupported(format!(
                "llama.cpp computes {} with SiLU, the model with {other}",
                family.architecture
            ));
        }
    }
    for tensor in &model.tensors {
        if tensor.role.part == Part::Bias && !family.biases.contains(&tensor.role.kind) {
            let message = format!("llama.cpp has no place for it in the architecture {}", family.architecture);
            return Err(inexpressible(message).about(&*tensor.name));
        }
    }
    Ok(family)
}

/// A model that llama.cpp would not compute as it is meant.
fn inexpressible(message: String) -> Failure {
    Failure::unsupported(message).hint("choose another format: `qhost plugins list` shows those that are installed")
}

/// The name of a tensor in GGUF.
///
/// # Errors
/// Fails for a role that has no name in GGUF.
pub(crate) fn tensor_name(model: &Model, tensor: &SourceTensor) -> Result<String> {
    let part = match tensor.role.part {
        Part::Weight => Some("weight"),
        Part::Bias => Some("bias"),
        _ => None,
    };
    let (base, part) = module_name(&tensor.role)
        .zip(part)
        .ok_or_else(|| inexpressible(format!("the role {} has no name in GGUF", tensor.role)).about(&*tensor.name))?;
    let unit = model.units.iter().find(|unit| unit.id == tensor.unit);
    Ok(match unit.map(|unit| (unit.kind, unit.layer)) {
        Some((UnitKind::Layer, Some(layer))) => format!("blk.{layer}.{base}.{part}"),
        _ => format!("{base}.{part}"),
    })
}

fn module_name(role: &Role) -> Option<&'static str> {
    Some(match role.kind {
        TokenEmbedding => "token_embd",
        Output => "output",
        OutputNorm => "output_norm",
        AttentionNorm => "attn_norm",
        AttentionQ => "attn_q",
        AttentionK => "attn_k",
        AttentionV => "attn_v",
        AttentionOutput => "attn_output",
        AttentionQNorm => "attn_q_norm",
        AttentionKNorm => "attn_k_norm",
        FfnNorm => "ffn_norm",
        FfnGate => "ffn_gate",
        FfnUp => "ffn_up",
        FfnDown => "ffn_down",
        _ => return None,
    })
}

/// The general and architecture keys, in the order of the file, and what the user should know.
///
/// # Errors
/// Fails with kind `UNSUPPORTED` for a rotary scaling that cannot be expressed.
pub(crate) fn metadata(model: &Model, family: &Family) -> Result<(Metadata, Vec<String>)> {
    let sizes = &model.hyperparameters;
    let mut metadata = Metadata::new();
    metadata.push("general.architecture", family.architecture)?;
    metadata.push("general.type", "model")?;
    metadata.push("general.name", model.name.as_str())?;
    metadata.push("general.size_label", size_label(model.parameters()))?;
    let mut push = |key: &str, value: Value| metadata.push(format!("{}.{key}", family.architecture), value);
    if family.states_sizes {
        push("vocab_size", count(sizes.vocab_size, "vocab_size")?)?;
    }
    push("context_length", count(sizes.context_length, "max_position_embeddings")?)?;
    push("embedding_length", count(sizes.hidden_size, "hidden_size")?)?;
    push("block_count", Value::U32(sizes.layers))?;
    push("feed_forward_length", count(sizes.ffn_size, "intermediate_size")?)?;
    if family.states_sizes {
        push("rope.dimension_count", count(sizes.head_dim, "head_dim")?)?;
    }
    push("attention.head_count", Value::U32(sizes.heads))?;
    push("attention.head_count_kv", Value::U32(sizes.kv_heads))?;
    push("attention.layer_norm_rms_epsilon", float(sizes.norm_epsilon))?;
    if sizes.head_dim_explicit || sizes.head_dim * u64::from(sizes.heads) != sizes.hidden_size {
        push("attention.key_length", count(sizes.head_dim, "head_dim")?)?;
        push("attention.value_length", count(sizes.head_dim, "head_dim")?)?;
    }
    push("rope.freq_base", float(sizes.rope.theta))?;
    for (key, value) in rope_keys(model, family)? {
        push(key, value)?;
    }
    let window = sizes.sliding_window.filter(|&window| window < sizes.context_length);
    let warning = window.map(|window| {
        format!(
            "llama.cpp computes full attention for {}: beyond {window} tokens, the model's own window, results differ",
            family.id
        )
    });
    Ok((metadata, warning.into_iter().collect()))
}

/// Keys of the rotary scaling.
fn rope_keys(model: &Model, family: &Family) -> Result<Vec<(&'static str, Value)>> {
    let rope = &model.hyperparameters.rope;
    match rope.kind.as_str() {
        "default" => Ok(Vec::new()),
        "linear" => Ok(vec![
            ("rope.scaling.type", "linear".into()),
            ("rope.scaling.factor", float(rope_parameter(model, "factor")?)),
        ]),
        // In a tensor of factors; see `rope_factors`.
        "llama3" if family.architecture == "llama" => Ok(Vec::new()),
        other => Err(inexpressible(format!("the rotary scaling `{other}` cannot be expressed for {} yet", family.id))),
    }
}

fn rope_parameter(model: &Model, key: &str) -> Result<f64> {
    let value = model.hyperparameters.rope.parameters.get(key).and_then(serde_json::Value::as_f64);
    value
        .filter(|value| value.is_finite() && *value > 0.0)
        .ok_or_else(|| bad_scaling(format!("the rotary scaling has no positive `{key}`")))
}

fn bad_scaling(message: String) -> Failure {
    Failure::corrupt(message).about("config.json").hint("is config.json the one that belongs to these weights?")
}

/// The factors of the tensor `rope_freqs.weight`, by which llama.cpp divides the frequencies of Llama 3.
///
/// Long wavelengths are stretched by `factor`, short ones stay, those between are blended
/// (transformers, `_compute_llama3_parameters`).
///
/// # Errors
/// Fails when the checkpoint's parameters are not there.
pub(crate) fn rope_factors(model: &Model) -> Result<Option<Vec<f32>>> {
    let sizes = &model.hyperparameters;
    if sizes.rope.kind != "llama3" {
        return Ok(None);
    }
    let factor = rope_parameter(model, "factor")?;
    let low = rope_parameter(model, "low_freq_factor")?;
    let high = rope_parameter(model, "high_freq_factor")?;
    let context = rope_parameter(model, "original_max_position_embeddings")?;
    if high <= low {
        return Err(bad_scaling("the rotary scaling's high_freq_factor is not above its low_freq_factor".into()));
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "small numbers; the format has f32"
    )]
    let factors = (0..sizes.head_dim).step_by(2).map(|element| {
        let frequency = sizes.rope.theta.powf(-(element as f64) / sizes.head_dim as f64);
        let wavelength = std::f64::consts::TAU / frequency;
        let stretched = if wavelength < context / high {
            1.0
        } else if wavelength > context / low {
            factor
        } else {
            let smooth = (context / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        };
        stretched as f32
    });
    Ok(Some(factors.collect()))
}

fn count(value: u64, key: &str) -> Result<Value> {
    u32::try_from(value)
        .map(Value::U32)
        .map_err(|_| inexpressible(format!("`{key}` is {value}, more than GGUF's 32 bits hold")))
}

#[expect(clippy::cast_possible_truncation, reason = "the format has f32")]
fn float(value: f64) -> Value {
    Value::F32(value as f32)
}

/// The number of parameters as model names have it: `260K`, `4.2M`, `7B`.
///
/// At least two digits, as the naming convention of the GGUF specification asks for.
#[expect(clippy::cast_precision_loss, reason = "rounded to two digits")]
fn size_label(parameters: u64) -> String {
    let scales = [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")];
    let count = parameters as f64;
    let (scale, letter) = scales.into_iter().find(|(scale, _)| count >= *scale).unwrap_or((1e3, "K"));
    let scaled = count / scale;
    if scaled < 9.95 { format!("{scaled:.1}{letter}") } else { format!("{scaled:.0}{letter}") }
}

#[cfg(test)]
mod tests {
    use super::size_label;

    #[test]
    fn size_labels_have_two_digits_or_more() {
        for (parameters, label) in [
            (260_032, "260K"),
            (4_200_000, "4.2M"),
            (9_960_000, "10M"),
            (6_738_415_616, "6.7B"),
            (70_553_706_496, "71B"),
            (1_040_000_000_000, "1.0T"),
            (512, "0.5K"),
        ] {
            assert_eq!(size_label(parameters), label);
        }
    }
}
