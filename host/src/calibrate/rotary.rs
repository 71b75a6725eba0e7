//! Rotary position embedding: frequencies of every scaling, and the tables of cosines and sines.
//!
//! Frequencies are computed in `f32` where transformers does, so that angles far out agree.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "positions and dimensions are small, and rounding is what is wanted"
)]

use qhost_plugin_api::documents::{Hyperparameters, Rope};
use serde_json::Value;

use super::Error;

/// The frequencies of a kind of layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Frequencies {
    /// Radians by position, one for each pair.
    pub short: Vec<f32>,
    /// Those for sequences longer than so many tokens.
    pub long: Option<(usize, Vec<f32>)>,
    /// What cosines and sines are multiplied with.
    pub magnitude: f32,
    /// The longest sequence for which these frequencies hold.
    pub most: Option<usize>,
}

impl Frequencies {
    /// Those of layers without a window, or of all.
    ///
    /// # Errors
    /// Fails when the scaling is unknown, or its parameters are not there.
    pub fn of(model: &Hyperparameters) -> Result<Self, Error> {
        let rope = &model.rope;
        let parameters = Parameters { rope };
        let dimensions = rope.dimensions;
        let plain = |theta: f64| inverse_powers(theta, dimensions).collect::<Vec<_>>();
        let simple = |short: Vec<f32>| Self { short, long: None, magnitude: 1.0, most: None };
        Ok(match rope.kind.as_str() {
            "default" | "mrope" => simple(plain(rope.theta)),
            "linear" => {
                let factor = parameters.number("factor")? as f32;
                simple(plain(rope.theta).into_iter().map(|frequency| frequency / factor).collect())
            }
            "dynamic" => {
                // Frequencies change with every length beyond the context.
                Self { most: usize::try_from(model.context_length).ok(), ..simple(plain(rope.theta)) }
            }
            "llama3" => simple(llama3(&parameters, &plain(rope.theta))?),
            "yarn" => {
                let (short, magnitude) = yarn(&parameters, model)?;
                Self { magnitude, ..simple(short) }
            }
            "longrope" | "su" => longrope(&parameters, model)?,
            other => {
                return Err(Error::BadKey {
                    key: "rope_type".into(),
                    value: other.to_owned(),
                    reason: "a scaling of positions that is not known here",
                });
            }
        })
    }

    /// Those of layers with a window, where they have a base of their own.
    #[must_use]
    pub fn local(theta: f64, dimensions: u64) -> Self {
        Self { short: inverse_powers(theta, dimensions).collect(), long: None, magnitude: 1.0, most: None }
    }

    /// The row of the tables for a position in a sequence of a length; `longest` is what the tables were made for.
    #[must_use]
    pub fn row(&self, position: usize, length: usize, longest: usize) -> usize {
        match &self.long {
            Some((border, _)) if length > *border => longest + position,
            _ => position,
        }
    }

    /// Cosines and sines, `[positions, pairs]`; after them those for long sequences.
    #[must_use]
    pub fn tables(&self, longest: usize) -> (Vec<f32>, Vec<f32>) {
        let long = self.long.iter().map(|(_, frequencies)| frequencies);
        let angles = std::iter::once(&self.short).chain(long).flat_map(|frequencies| {
            (0..longest).flat_map(move |position| frequencies.iter().map(move |f| position as f32 * f))
        });
        let angles: Vec<f32> = angles.collect();
        // Of the rounded angle, correctly rounded.
        let table = |function: fn(f64) -> f64| {
            angles.iter().map(|angle| function(f64::from(*angle)) as f32 * self.magnitude).collect()
        };
        (table(f64::cos), table(f64::sin))
    }
}

/// `1 / theta^(2i / dimensions)`.
fn inverse_powers(theta: f64, dimensions: u64) -> impl Iterator<Item = f32> + Clone {
    powers(theta, dimensions).map(|power| 1.0 / power)
}

fn powers(theta: f64, dimensions: u64) -> impl Iterator<Item = f32> + Clone {
    (0..dimensions / 2).map(move |pair| {
        let exponent = (2 * pair) as f32 / dimensions as f32;
        theta.powf(f64::from(exponent)) as f32
    })
}

/// Llama 3.1: low frequencies are divided by a factor, those between are mixed.
fn llama3(parameters: &Parameters<'_>, plain: &[f32]) -> Result<Vec<f32>, Error> {
    let factor = parameters.number("factor")? as f32;
    let low = parameters.number("low_freq_factor")? as f32;
    let high = parameters.number("high_freq_factor")? as f32;
    let original = parameters.number("original_max_position_embeddings")? as f32;
    let scaled = |frequency: f32| {
        let wavelength = std::f32::consts::TAU / frequency;
        if wavelength > original / low {
            return frequency / factor;
        }
        if wavelength < original / high {
            return frequency;
        }
        let share = (original / wavelength - low) / (high - low);
        (1.0 - share) * frequency / factor + share * frequency
    };
    Ok(plain.iter().copied().map(scaled).collect())
}

/// `YaRN` (Peng et al. 2023), and what it multiplies cosines and sines with.
fn yarn(parameters: &Parameters<'_>, model: &Hyperparameters) -> Result<(Vec<f32>, f32), Error> {
    let rope = &model.rope;
    let dimensions = rope.dimensions as f64;
    let original = parameters.optional("original_max_position_embeddings")?.unwrap_or(model.context_length as f64);
    let factor = parameters.optional("factor")?.unwrap_or(model.context_length as f64 / original);
    let scale = |by: f64| if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 };
    let given = |key| Ok::<_, Error>(parameters.optional(key)?.filter(|number| *number != 0.0));
    let magnitude = match (given("attention_factor")?, given("mscale")?, given("mscale_all_dim")?) {
        (Some(magnitude), _, _) => magnitude,
        (None, Some(one), Some(all)) => scale(one) / scale(all),
        _ => scale(1.0),
    };
    let (fast, slow) = (given("beta_fast")?.unwrap_or(32.0), given("beta_slow")?.unwrap_or(1.0));
    // The pair that turns so many times within the original context.
    let pair = |turns: f64| dimensions * (original / (turns * std::f64::consts::TAU)).ln() / (2.0 * rope.theta.ln());
    let truncated = rope.parameters.get("truncate").and_then(Value::as_bool).unwrap_or(true);
    let (first, last) = (pair(fast), pair(slow));
    let (first, last) = if truncated { (first.floor(), last.ceil()) } else { (first, last) };
    let (first, last) = (first.max(0.0), last.min(dimensions - 1.0));
    let last = if (last - first).abs() > 0.0 { last } else { last + 0.001 };
    let (first, span) = (first as f32, (last - first) as f32);
    let mixed = powers(rope.theta, rope.dimensions).enumerate().map(|(index, power)| {
        let interpolated = ((index as f32 - first) / span).clamp(0.0, 1.0);
        let kept = 1.0 - interpolated;
        1.0 / (factor as f32 * power) * (1.0 - kept) + 1.0 / power * kept
    });
    Ok((mixed.collect(), magnitude as f32))
}

/// `LongRoPE` (Ding et al. 2024): a factor for every pair, others for long sequences.
fn longrope(parameters: &Parameters<'_>, model: &Hyperparameters) -> Result<Frequencies, Error> {
    let rope = &model.rope;
    let original = parameters.number("original_max_position_embeddings")?;
    let factor = parameters.optional("factor")?.unwrap_or(model.context_length as f64 / original);
    let magnitude = match parameters.optional("attention_factor")? {
        Some(magnitude) => magnitude,
        None if factor <= 1.0 => 1.0,
        None => (1.0 + factor.ln() / original.ln()).sqrt(),
    };
    let scaled = |key: &'static str| -> Result<Vec<f32>, Error> {
        let factors = parameters.list(key, rope.dimensions / 2)?;
        let powers = powers(rope.theta, rope.dimensions);
        Ok(powers.zip(factors).map(|(power, factor)| 1.0 / (factor as f32 * power)).collect())
    };
    Ok(Frequencies {
        short: scaled("short_factor")?,
        long: Some((original as usize, scaled("long_factor")?)),
        magnitude: magnitude as f32,
        most: None,
    })
}

/// The parameters of a scaling.
struct Parameters<'a> {
    rope: &'a Rope,
}

impl Parameters<'_> {
    fn optional(&self, key: &'static str) -> Result<Option<f64>, Error> {
        let value = self.rope.parameters.get(key).filter(|value| !value.is_null());
        value.map(|value| value.as_f64().ok_or_else(|| bad(key, value, "not a number"))).transpose()
    }

    fn number(&self, key: &'static str) -> Result<f64, Error> {
        let absent = || bad(key, &Value::Null, "and the scaling of positions needs it");
        self.optional(key)?.filter(|number| *number > 0.0).ok_or_else(absent)
    }

    fn list(&self, key: &'static str, length: u64) -> Result<Vec<f64>, Error> {
        let value = self.rope.parameters.get(key).unwrap_or(&Value::Null);
        let numbers = value.as_array().and_then(|list| list.iter().map(Value::as_f64).collect::<Option<Vec<_>>>());
        numbers
            .filter(|numbers| numbers.len() as u64 == length)
            .ok_or_else(|| bad(key, value, "not a factor for every pair"))
    }
}

fn bad(key: &str, value: &Value, reason: &'static str) -> Error {
    Error::BadKey { key: key.to_owned(), value: value.to_string(), reason }
}
