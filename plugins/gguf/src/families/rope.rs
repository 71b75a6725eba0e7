//! Rotary scalings: their keys, and the tensors of factors by which llama.cpp divides the frequencies.
//!
//! It knows what each scaling is in transformers and in llama.cpp; which family may have it is for the table.

use qhost_plugin_api::{documents::Model, sdk::Result};
use serde_json::Value as Json;

use super::{Family, Keys, bad_config, inexpressible, positive};

/// Scalings besides none and the linear one that llama.cpp has for a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scaling {
    /// `YaRN`.
    Yarn,
    /// Llama 3's, in a tensor of factors.
    Llama3,
    /// Phi-3's, in two tensors of factors.
    Long,
}

/// The keys of the rotary scaling, and what the user should know.
///
/// # Errors
/// Fails with kind `UNSUPPORTED` for a scaling that cannot be expressed.
pub(super) fn keys(model: &Model, family: &Family) -> Result<(Keys, Vec<String>)> {
    let rope = &model.hyperparameters.rope;
    let mut keys = Keys::default();
    let mut warnings = Vec::new();
    let allowed = |scaling| family.scalings.contains(&scaling);
    match rope.kind.as_str() {
        "default" | "none" => {}
        "linear" => {
            keys.push("rope.scaling.type", "linear");
            keys.push("rope.scaling.factor", parameter(model, "factor")?);
        }
        "yarn" if allowed(Scaling::Yarn) => {
            keys.push("rope.scaling.type", "yarn");
            keys.push("rope.scaling.factor", parameter(model, "factor")?);
            let original = rope.parameters.get("original_max_position_embeddings").and_then(Json::as_u64);
            let original = original.unwrap_or(model.hyperparameters.context_length);
            keys.count("rope.scaling.original_context_length", original, "original_max_position_embeddings")?;
            for (key, names) in [
                ("rope.scaling.yarn_ext_factor", &["extrapolation_factor"][..]),
                ("rope.scaling.yarn_attn_factor", &["attention_factor", "attn_factor"]),
                ("rope.scaling.yarn_beta_fast", &["beta_fast"]),
                ("rope.scaling.yarn_beta_slow", &["beta_slow"]),
            ] {
                let named = names.iter().find(|name| rope.parameters.get(**name).is_some_and(|value| !value.is_null()));
                if let Some(name) = named {
                    keys.push(key, parameter(model, name)?);
                }
            }
        }
        // In tensors of factors; see `factors`.
        "llama3" if allowed(Scaling::Llama3) => {}
        "longrope" | "su" if allowed(Scaling::Long) => {}
        // Up to the trained length it is no scaling at all.
        "dynamic" => warnings.push(format!(
            "llama.cpp has no dynamic rotary scaling: beyond {} tokens results differ",
            model.hyperparameters.context_length
        )),
        other => {
            return Err(inexpressible(format!("the rotary scaling `{other}` cannot be expressed for {}", family.id)));
        }
    }
    Ok((keys, warnings))
}

/// A parameter of the scaling.
pub(super) fn parameter(model: &Model, key: &str) -> Result<f32> {
    let value = model.hyperparameters.rope.parameters.get(key).and_then(Json::as_f64);
    positive(value.ok_or_else(|| bad_config(format!("the rotary scaling has no number `{key}`")))?, key)
}

/// The tensors of factors that go into the file, each with its name.
///
/// # Errors
/// Fails when the checkpoint's parameters are not there.
pub(crate) fn factors(model: &Model) -> Result<Vec<(&'static str, Vec<f32>)>> {
    match model.hyperparameters.rope.kind.as_str() {
        "llama3" => Ok(vec![("rope_freqs.weight", llama3(model)?)]),
        "longrope" | "su" => Ok(vec![
            ("rope_factors_long.weight", listed(model, "long_factor")?),
            ("rope_factors_short.weight", listed(model, "short_factor")?),
        ]),
        _ => Ok(Vec::new()),
    }
}

/// A list of factors that the config has, one for every pair of rotated elements.
fn listed(model: &Model, key: &str) -> Result<Vec<f32>> {
    let rope = &model.hyperparameters.rope;
    let list = rope.parameters.get(key).and_then(Json::as_array);
    let numbers = list.and_then(|list| list.iter().map(Json::as_f64).collect::<Option<Vec<_>>>());
    let numbers = numbers.ok_or_else(|| bad_config(format!("the rotary scaling has no list `{key}`")))?;
    if numbers.len() as u64 != rope.dimensions / 2 {
        return Err(bad_config(format!(
            "the rotary scaling has {} numbers in `{key}`, not the {} that heads with {} rotated elements need",
            numbers.len(),
            rope.dimensions / 2,
            rope.dimensions
        )));
    }
    numbers.into_iter().map(|number| positive(number, key)).collect()
}

/// What queries and keys are multiplied with under Phi-3's scaling (transformers,
/// `_compute_longrope_parameters`).
pub(crate) fn long_attention_factor(context: u64, original: u64) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "lengths of contexts")]
    let (scale, original) = (context as f64 / original as f64, original as f64);
    #[expect(clippy::cast_possible_truncation, reason = "the format has f32")]
    let factor = (1.0 + scale.ln() / original.ln()).sqrt() as f32;
    if scale > 1.0 { factor } else { 1.0 }
}

/// Long wavelengths are stretched by `factor`, short ones stay, those between are blended
/// (transformers, `_compute_llama3_parameters`).
fn llama3(model: &Model) -> Result<Vec<f32>> {
    let scaling = Llama3 {
        theta: positive(model.hyperparameters.rope.theta, "rope_theta")?,
        factor: parameter(model, "factor")?,
        low: parameter(model, "low_freq_factor")?,
        high: parameter(model, "high_freq_factor")?,
        context: parameter(model, "original_max_position_embeddings")?,
    };
    if scaling.high <= scaling.low {
        return Err(bad_config("the rotary scaling's high_freq_factor is not above its low_freq_factor".into()));
    }
    let factors = scaling.factors(model.hyperparameters.rope.dimensions);
    if factors.iter().any(|factor| !factor.is_finite() || *factor <= 0.0) {
        return Err(bad_config("the rotary scaling has no finite factors".into()));
    }
    Ok(factors)
}

/// The rotary scaling of Llama 3.
pub(crate) struct Llama3 {
    /// The base of the frequencies.
    pub(crate) theta: f32,
    /// By how much long wavelengths are stretched.
    pub(crate) factor: f32,
    /// What of the context is a long wavelength.
    pub(crate) low: f32,
    /// What of the context is a short one.
    pub(crate) high: f32,
    /// The original context.
    pub(crate) context: f32,
}

impl Llama3 {
    /// One factor for every pair of a head.
    ///
    /// The reference converter computes them with torch, in 32 bits, and torch divides a number by a
    /// tensor by multiplying it with the tensor's reciprocal. Each operation here is one of those.
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "the reference has 32 bits")]
    pub(crate) fn factors(&self, head_dim: u64) -> Vec<f32> {
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
    fn phi_3_is_scaled_as_transformers_does() {
        // Phi-3-mini-128k: math.sqrt(1 + math.log(32) / math.log(4096)).
        assert!((long_attention_factor(131_072, 4096) - 1.190_238).abs() < 1e-6);
        assert_eq!(long_attention_factor(4096, 4096).to_bits(), 1.0_f32.to_bits());
    }
}
