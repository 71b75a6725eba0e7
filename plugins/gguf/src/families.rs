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

/// The general and architecture keys, in the reference converter's order, and what the user should know.
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
    push("block_count", Value::U32(sizes.layers))?;
    push("context_length", count(sizes.context_length, "max_position_embeddings")?)?;
    push("embedding_length", count(sizes.hidden_size, "hidden_size")?)?;
    push("feed_forward_length", count(sizes.ffn_size, "intermediate_size")?)?;
    push("attention.head_count", Value::U32(sizes.heads))?;
    push("attention.head_count_kv", Value::U32(sizes.kv_heads))?;
    for (key, value) in rope_keys(model, family)? {
        push(key, value)?;
    }
    push("rope.freq_base", Value::F32(positive(sizes.rope.theta, "rope_theta")?))?;
    push("attention.layer_norm_rms_epsilon", Value::F32(positive(sizes.norm_epsilon, "rms_norm_eps")?))?;
    // The converter asks transformers, which fills in what config.json leaves out, for all families
    // whose heads may be of any width.
    if sizes.head_dim_explicit || !family.square_attention {
        push("attention.key_length", count(sizes.head_dim, "head_dim")?)?;
        push("attention.value_length", count(sizes.head_dim, "head_dim")?)?;
    }
    if family.states_sizes {
        push("vocab_size", count(sizes.vocab_size, "vocab_size")?)?;
        push("rope.dimension_count", count(sizes.head_dim, "head_dim")?)?;
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
            ("rope.scaling.factor", Value::F32(rope_parameter(model, "factor")?)),
        ]),
        // In a tensor of factors; see `rope_factors`.
        "llama3" if family.architecture == "llama" => Ok(Vec::new()),
        other => Err(inexpressible(format!("the rotary scaling `{other}` cannot be expressed for {} yet", family.id))),
    }
}

fn rope_parameter(model: &Model, key: &str) -> Result<f32> {
    let value = model.hyperparameters.rope.parameters.get(key).and_then(serde_json::Value::as_f64);
    positive(value.ok_or_else(|| bad_config(format!("the rotary scaling has no number `{key}`")))?, key)
}

fn bad_config(message: String) -> Failure {
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
    let scaling = Llama3 {
        theta: positive(sizes.rope.theta, "rope_theta")?,
        factor: rope_parameter(model, "factor")?,
        low: rope_parameter(model, "low_freq_factor")?,
        high: rope_parameter(model, "high_freq_factor")?,
        context: rope_parameter(model, "original_max_position_embeddings")?,
    };
    if scaling.high <= scaling.low {
        return Err(bad_config("the rotary scaling's high_freq_factor is not above its low_freq_factor".into()));
    }
    let factors = scaling.factors(sizes.head_dim);
    if factors.iter().any(|factor| !factor.is_finite() || *factor <= 0.0) {
        return Err(bad_config("the rotary scaling has no finite factors".into()));
    }
    Ok(Some(factors))
}

/// The rotary scaling of Llama 3.
struct Llama3 {
    theta: f32,
    factor: f32,
    low: f32,
    high: f32,
    context: f32,
}

impl Llama3 {
    /// One factor for every pair of a head.
    ///
    /// The reference converter computes them with torch, in 32 bits, and torch divides a number by a
    /// tensor by multiplying it with the tensor's reciprocal. Each operation here is one of those.
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "the reference has 32 bits")]
    fn factors(&self, head_dim: u64) -> Vec<f32> {
        let factors = (0..head_dim).step_by(2).map(|element| {
            let exponent = element as f32 / head_dim as f32;
            // Rounded once, as torch's vectorised power is nearly everywhere.
            let frequency = 1.0 / f64::from(self.theta).powf(f64::from(exponent)) as f32;
            let wavelength = 1.0 / frequency * std::f32::consts::TAU;
            if wavelength < self.context / self.high {
                1.0
            } else if wavelength > self.context / self.low {
                self.factor
            } else {
                let smooth = (1.0 / wavelength * self.context - self.low) / (self.high - self.low);
                1.0 / ((1.0 - smooth) / self.factor + smooth)
            }
        });
        factors.collect()
    }
}

fn count(value: u64, key: &str) -> Result<Value> {
    u32::try_from(value)
        .map(Value::U32)
        .map_err(|_| inexpressible(format!("`{key}` is {value}, more than GGUF's 32 bits hold")))
}

/// A setting that has to be above zero, as the format holds it.
#[expect(clippy::cast_possible_truncation, reason = "the format has f32; what is lost to it is refused")]
fn positive(value: f64, key: &str) -> Result<f32> {
    let narrowed = value as f32;
    if narrowed.is_finite() && narrowed > 0.0 {
        return Ok(narrowed);
    }
    Err(bad_config(format!("`{key}` is {value:e}, which GGUF cannot hold: it has a positive 32-bit float there")))
}

/// The number of parameters as model names have it: `260K`, `4.2M`, `7B`.
///
/// At least two digits, counted before the point in the rounded number, as `gguf-py` does it: 9.6
/// billion are `10B`.
#[expect(clippy::cast_precision_loss, reason = "rounded to two digits")]
fn size_label(parameters: u64) -> String {
    let scales = [(1e12, 1e-12, "T"), (1e9, 1e-9, "B"), (1e6, 1e-6, "M")];
    let count = parameters as f64;
    let (_, scale, letter) = scales.into_iter().find(|(from, ..)| count > *from).unwrap_or((0.0, 1e-3, "K"));
    let scaled = count * scale;
    let decimals = match scaled.round_ties_even() {
        ..1.0 => 2,
        1.0..10.0 => 1,
        _ => 0,
    };
    format!("{scaled:.decimals$}{letter}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Theta, the head's width and the factor; how many pairs stay as they are; the bits of the factors
    /// that are blended. The rest is stretched.
    type Blended = ((f32, u64, f32), usize, &'static [u32]);

    /// What torch 2.13.0 gives for the operations of llama.cpp's `generate_extra_tensors` (0.5.0-dev,
    /// `conversion/llama.py`) with low 1, high 4 and a context of 8192. The first two are Llama 3.1
    /// and the small Llama 3.2; on an x86-64 with AVX2.
    const BLENDED: &[Blended] = &[
        ((500_000.0, 128, 8.0), 29, &[0x3f9a_8ed5, 0x3fc6_d64a, 0x4001_af1d, 0x402c_732e, 0x406b_cace, 0x40a8_3c06]),
        ((500_000.0, 64, 32.0), 15, &[0x3fd3_5ec2, 0x4052_b46f, 0x411a_aaee]),
        ((10_000.0, 64, 8.0), 21, &[0x3fae_1fe9, 0x3ffb_318f, 0x403b_fe5d, 0x4095_ceb4]),
        ((1_000_000.0, 96, 16.0), 21, &[0x3fb2_b992, 0x4006_de59, 0x405a_3007, 0x40cb_419f]),
        (
            (500_000.0, 256, 32.0),
            57,
            &[
                0x3f89_d50f,
                0x3f9e_126b,
                0x3fb6_390d,
                0x3fd3_5ec2,
                0x3ff7_08be,
                0x4011_b4ca,
                0x402d_e721,
                0x4052_b46f,
                0x4082_39d8,
                0x40a5_7db9,
                0x40db_05ef,
                0x411a_aaee,
                0x4176_599d,
            ],
        ),
    ];

    #[test]
    fn the_factors_of_llama_3_are_the_reference_s_to_the_bit() {
        for &((theta, head_dim, factor), kept, blended) in BLENDED {
            let scaling = Llama3 { theta, factor, low: 1.0, high: 4.0, context: 8192.0 };
            let stretched = usize::try_from(head_dim / 2).unwrap() - kept - blended.len();
            let expected =
                [vec![1.0_f32.to_bits(); kept], blended.to_vec(), vec![factor.to_bits(); stretched]].concat();
            let factors: Vec<_> = scaling.factors(head_dim).into_iter().map(f32::to_bits).collect();
            assert_eq!(factors, expected, "theta {theta}, heads of {head_dim}, factor {factor}");
        }
    }

    #[test]
    fn settings_that_f32_cannot_hold_are_refused_by_name() {
        for value in [0.0, -1.0, 1e300, 1e-60, f64::INFINITY, f64::NAN] {
            let failure = positive(value, "rope_theta").unwrap_err();
            assert!(failure.message.contains("`rope_theta`"), "{failure}");
            assert!(!failure.hint.is_empty());
        }
        assert_eq!(positive(1e-45, "x").unwrap().to_bits(), 1);
        assert_eq!(positive(5e5, "x").unwrap().to_bits(), 500_000.0_f32.to_bits());
    }

    /// What `model_weight_count_rounded_notation` of gguf-py 0.19.0 gives.
    const SIZE_LABELS: &[(u64, &str)] = &[
        (0, "0.00K"),
        (1, "0.00K"),
        (400, "0.40K"),
        (500, "0.50K"),
        (501, "0.5K"),
        (512, "0.5K"),
        (9_499, "9.5K"),
        (9_500, "10K"),
        (9_960, "10K"),
        (10_500, "10K"),
        (11_500, "12K"),
        (260_032, "260K"),
        (999_499, "999K"),
        (999_999, "1000K"),
        (1_000_000, "1000K"),
        (1_250_000, "1.2M"),
        (1_350_000, "1.3M"),
        (4_200_000, "4.2M"),
        (9_449_999, "9.4M"),
        (9_450_000, "9.4M"),
        (9_499_999, "9.5M"),
        (9_500_000, "10M"),
        (9_500_001, "10M"),
        (9_600_000, "10M"),
        (9_940_000, "10M"),
        (9_960_000, "10M"),
        (10_500_000, "10M"),
        (11_500_000, "12M"),
        (124_439_808, "124M"),
        (999_600_000, "1000M"),
        (1_050_000_000, "1.1B"),
        (1_235_814_400, "1.2B"),
        (2_250_000_000, "2.2B"),
        (6_738_415_616, "6.7B"),
        (8_030_261_248, "8.0B"),
        (9_241_705_984, "9.2B"),
        (9_450_000_000, "9.5B"),
        (9_550_000_000, "10B"),
        (9_600_000_000, "10B"),
        (12_500_000_000, "12B"),
        (70_553_706_496, "71B"),
        (405_853_388_800, "406B"),
        (999_999_999_999, "1000B"),
        (1_040_000_000_000, "1.0T"),
        (9_700_000_000_000, "10T"),
    ];

    #[test]
    fn size_labels_are_those_of_the_reference() {
        for &(parameters, label) in SIZE_LABELS {
            assert_eq!(size_label(parameters), label, "{parameters}");
        }
    }
}
