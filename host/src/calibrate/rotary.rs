//! Rotary position embedding: frequencies of every scaling, and the tables of cosines and sines.
//!
//! Frequencies are computed in `f32` where transformers does, so that angles far out agree.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "positions and dimensions are small, and rounding is what is wanted"
)]

use std::collections::BTreeMap;

use qhost_plugin_api::documents::{Hyperparameters, Rope};
use serde_json::Value;

use super::Error;

/// The frequencies of a kind of layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Frequencies {
    /// Radians by position, one for each pair.
    pub short: Vec<f32>,
    /// Others for longer sequences.
    pub longer: Longer,
    /// What cosines and sines are multiplied with.
    pub magnitude: f32,
}

/// What longer sequences are rotated with.
#[derive(Debug, Clone, PartialEq)]
pub enum Longer {
    /// The same.
    Same,
    /// These, beyond so many tokens.
    Beyond(usize, Vec<f32>),
    /// Beyond the context, frequencies that follow from the length of the sequence.
    ByLength {
        /// The base of the powers.
        theta: f64,
        /// The factor of the scaling.
        factor: f64,
        /// Tokens of the context.
        context: usize,
        /// Numbers that are rotated.
        dimensions: u64,
    },
}

/// Cosines and sines, `[positions, pairs]`: those of short sequences, then those of longer ones.
#[derive(Debug, Clone, PartialEq)]
pub struct RotaryTable {
    /// The cosines.
    pub cosines: Vec<f32>,
    /// The sines.
    pub sines: Vec<f32>,
    /// Of lengths that have rows of their own, the first of them.
    first_rows: BTreeMap<usize, usize>,
}

impl RotaryTable {
    /// The row of position 0 in a sequence of one of the lengths that the table was made for.
    #[must_use]
    pub fn first_row(&self, length: usize) -> usize {
        self.first_rows.get(&length).copied().unwrap_or(0)
    }
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
        let simple = |short: Vec<f32>| Self { short, longer: Longer::Same, magnitude: 1.0 };
        Ok(match rope.kind.as_str() {
            "default" | "mrope" => simple(plain(rope.theta)),
            "linear" => {
                let factor = parameters.number("factor")? as f32;
                simple(plain(rope.theta).into_iter().map(|frequency| frequency / factor).collect())
            }
            "dynamic" => {
                let (theta, factor) = (rope.theta, parameters.number("factor")?);
                let context = usize::try_from(model.context_length).unwrap_or(usize::MAX);
                Self { longer: Longer::ByLength { theta, factor, context, dimensions }, ..simple(plain(rope.theta)) }
            }
            "llama3" => simple(llama3(&parameters, model.context_length, &plain(rope.theta))?),
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
        Self { short: inverse_powers(theta, dimensions).collect(), longer: Longer::Same, magnitude: 1.0 }
    }

    /// Those for sequences of a length, if they are not [`Frequencies::short`].
    fn of_length(&self, length: usize) -> Option<Vec<f32>> {
        match &self.longer {
            Longer::Beyond(border, frequencies) if length > *border => Some(frequencies.clone()),
            Longer::ByLength { theta, factor, context, dimensions } if length > *context => {
                Some(dynamic(*theta, *factor as f32, (length as f32, *context as f32), *dimensions))
            }
            _ => None,
        }
    }

    /// Cosines and sines for sequences of these lengths.
    #[must_use]
    pub fn tables(&self, lengths: &[usize]) -> RotaryTable {
        let mut lengths = lengths.to_vec();
        lengths.sort_unstable();
        lengths.dedup();
        let own: Vec<_> = lengths.iter().filter_map(|&length| Some((length, self.of_length(length)?))).collect();
        let longest = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0);
        let usual = longest(&mut lengths.iter().copied().filter(|length| own.iter().all(|(other, _)| other != length)));
        let mut blocks = vec![(self.short.clone(), usual)];
        let mut first_rows = BTreeMap::new();
        let mut rows = usual;
        if let Longer::Beyond(..) = self.longer {
            // All of them have the same.
            first_rows.extend(own.iter().map(|(length, _)| (*length, rows)));
            let longest = longest(&mut own.iter().map(|(length, _)| *length));
            blocks.extend(own.into_iter().next().map(|(_, frequencies)| (frequencies, longest)));
        } else {
            for (length, frequencies) in own {
                first_rows.insert(length, rows);
                rows += length;
                blocks.push((frequencies, length));
            }
        }
        let angles = blocks.iter().flat_map(|(frequencies, positions)| {
            (0..*positions).flat_map(move |position| frequencies.iter().map(move |f| position as f32 * f))
        });
        let angles: Vec<f32> = angles.collect();
        // Of the rounded angle, correctly rounded.
        let table = |function: fn(f64) -> f64| {
            angles.iter().map(|angle| function(f64::from(*angle)) as f32 * self.magnitude).collect()
        };
        RotaryTable { cosines: table(f64::cos), sines: table(f64::sin), first_rows }
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

/// Dynamic NTK: the base grows with the length of a sequence, beyond the context.
fn dynamic(theta: f64, factor: f32, (length, context): (f32, f32), dimensions: u64) -> Vec<f32> {
    let growth =
        (factor * length / context - (factor - 1.0)).powf((dimensions as f64 / (dimensions as f64 - 2.0)) as f32);
    let base = theta as f32 * growth;
    let exponents = (0..dimensions / 2).map(|pair| (2 * pair) as f32 / dimensions as f32);
    exponents.map(|exponent| 1.0 / base.powf(exponent)).collect()
}

/// Llama 3.1: low frequencies are divided by a factor, those between are mixed.
fn llama3(parameters: &Parameters<'_>, context: u64, plain: &[f32]) -> Result<Vec<f32>, Error> {
    let factor = parameters.number("factor")? as f32;
    let low = parameters.number("low_freq_factor")? as f32;
    let high = parameters.number("high_freq_factor")? as f32;
    let original = parameters.original(context)? as f32;
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
    let original = parameters.original(model.context_length)?;
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
    let original = parameters.original(model.context_length)?;
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
        longer: Longer::Beyond(original as usize, scaled("long_factor")?),
        magnitude: magnitude as f32,
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

    /// The context before it was stretched; transformers takes the whole one where it is not told.
    fn original(&self, context: u64) -> Result<f64, Error> {
        let key = "original_max_position_embeddings";
        if self.optional(key)?.is_some() { self.number(key) } else { Ok(context as f64) }
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
