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
            // As Phi-3's configs once called it.
            "yarn" if rope.parameters.contains_key("long_factor") => longrope(&parameters, model)?,
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Heads of 16, a context of 256 and a base of 10000.
    fn of(kind: &str, parameters: &Value) -> Result<Frequencies, Error> {
        let rope = Rope {
            theta: 10_000.0,
            kind: kind.into(),
            dimensions: 16,
            parameters: parameters.as_object().cloned().unwrap_or_default(),
            ..Rope::default()
        };
        Frequencies::of(&Hyperparameters { context_length: 256, rope, ..Hyperparameters::default() })
    }

    fn assert_close(actual: &[f32], expected: [f32; 8]) {
        for (one, other) in actual.iter().zip(&expected) {
            assert!((one - other).abs() <= 4.0 * f32::EPSILON * other, "{actual:?} is not {expected:?}");
        }
        assert_eq!(actual.len(), expected.len());
    }

    /// For these numbers, with transformers 5.23:
    ///
    /// ```python
    /// config = LlamaConfig(hidden_size=64, num_attention_heads=4, head_dim=16, max_position_embeddings=256,
    ///                      rope_parameters={"rope_theta": 10000.0, "rope_type": kind, **parameters})
    /// ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=length)
    /// ```
    #[test]
    fn scalings_that_do_not_look_at_the_length_are_those_of_transformers() {
        for (kind, parameters, expected, magnitude) in [
            (
                "linear",
                json!({"factor": 2.5}),
                [0.4, 0.126_491_1, 0.04, 0.012_649_111, 0.004, 0.001_264_911_1, 0.0004, 0.000_126_491_11],
                1.0,
            ),
            (
                "llama3",
                json!({"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 64}),
                [
                    1.0,
                    0.244_384_59,
                    0.013_042_256,
                    0.003_952_847_3,
                    0.001_25,
                    0.000_395_284_73,
                    0.000_125,
                    3.952_847_3e-5,
                ],
                1.0,
            ),
            (
                "yarn",
                json!({"factor": 4.0, "original_max_position_embeddings": 64}),
                [1.0, 0.237_170_82, 0.049_999_997, 0.007_905_695, 0.0025, 0.000_790_569_47, 0.000_25, 7.905_695e-5],
                1.138_629_4,
            ),
            (
                "yarn",
                json!({"factor": 4.0, "original_max_position_embeddings": 64, "attention_factor": 0.7,
                    "beta_fast": 16.0, "beta_slow": 2.0}),
                [1.0, 0.197_642_36, 0.025, 0.007_905_695, 0.0025, 0.000_790_569_47, 0.000_25, 7.905_695e-5],
                0.7,
            ),
            (
                "yarn",
                json!({"factor": 4.0, "original_max_position_embeddings": 64, "mscale": 0.7, "mscale_all_dim": 1.2,
                    "truncate": false}),
                [1.0, 0.198_583_53, 0.025_595_25, 0.007_905_695, 0.0025, 0.000_790_569_47, 0.000_25, 7.905_695e-5],
                0.940_571_53,
            ),
        ] {
            let found = of(kind, &parameters).unwrap();
            assert_close(&found.short, expected);
            assert_eq!((found.magnitude, found.longer), (magnitude, Longer::Same), "{kind}");
        }
    }

    #[test]
    fn dynamic_scaling_begins_beyond_the_context() {
        let found = of("dynamic", &json!({"factor": 3.0})).unwrap();
        let plain = [1.0, 0.316_227_76, 0.1, 0.031_622_78, 0.01, 0.003_162_277_9, 0.001, 0.000_316_227_8];
        assert_close(&found.short, plain);
        assert_eq!(found.of_length(256), None);
        assert_close(
            &found.of_length(1000).unwrap(),
            [
                1.0,
                0.228_514,
                0.052_218_646,
                0.011_932_692,
                0.002_726_787,
                0.000_623_109,
                0.000_142_389_11,
                3.253_790_4e-5,
            ],
        );
    }

    #[test]
    fn longrope_has_other_factors_beyond_the_original_context() {
        let parameters = |key: &str, value: f64| {
            let short: Vec<f64> = (0..8).map(|pair| 1.0 + f64::from(pair) / 8.0).collect();
            let long: Vec<f64> = (0..8).map(|pair| 1.0 + f64::from(pair)).collect();
            let mut made = json!({"original_max_position_embeddings": 64, "short_factor": short, "long_factor": long});
            made[key] = json!(value);
            made
        };
        for (key, value, magnitude) in
            [("unused", 0.0, 1.154_700_5), ("factor", 2.0, 1.080_123_4), ("attention_factor", 1.25, 1.25)]
        {
            let found = of("longrope", &parameters(key, value)).unwrap();
            assert_close(
                &found.short,
                [
                    1.0,
                    0.281_091_36,
                    0.08,
                    0.022_998_383,
                    0.006_666_667,
                    0.001_946_017,
                    0.000_571_428_57,
                    0.000_168_654_8,
                ],
            );
            assert_eq!((found.of_length(64), found.magnitude), (None, magnitude), "{key}");
            assert_close(
                &found.of_length(65).unwrap(),
                [
                    1.0,
                    0.158_113_88,
                    0.033_333_335,
                    0.007_905_695,
                    0.002,
                    0.000_527_046_33,
                    0.000_142_857_14,
                    3.952_847_3e-5,
                ],
            );
        }
        assert!(of("longrope", &json!({"short_factor": [1.0], "long_factor": [1.0]})).is_err());
    }

    #[test]
    fn the_original_context_is_the_whole_one_where_it_is_not_told() {
        let told = json!({"factor": 4.0, "original_max_position_embeddings": 256});
        assert_eq!(of("yarn", &json!({"factor": 4.0})).unwrap(), of("yarn", &told).unwrap());
    }

    #[test]
    fn a_scaling_that_is_not_known_is_refused() {
        assert!(matches!(of("spiral", &json!({})), Err(Error::BadKey { .. })));
        assert!(matches!(of("linear", &json!({})), Err(Error::BadKey { .. })));
    }

    #[test]
    fn every_length_finds_its_own_rows() {
        let found = of("dynamic", &json!({"factor": 3.0})).unwrap();
        let table = found.tables(&[300, 7, 256, 300, 400]);
        let firsts: Vec<_> = [7, 256, 300, 400].map(|length| table.first_row(length)).to_vec();
        assert_eq!(firsts, [0, 0, 256, 556]);
        assert_eq!(table.cosines.len(), 8 * (256 + 300 + 400));
        // Position 1, pair 1.
        let angle = |length: usize| table.sines[8 * (table.first_row(length) + 1) + 1].asin();
        assert!((angle(7) - 0.316_227_76).abs() < 1e-6);
        assert!((angle(400) - found.of_length(400).unwrap()[1]).abs() < 1e-6);

        let factors = json!({"original_max_position_embeddings": 64, "short_factor": [1, 1, 1, 1, 1, 1, 1, 1],
            "long_factor": [2, 2, 2, 2, 2, 2, 2, 2]});
        let table = of("longrope", &factors).unwrap().tables(&[10, 64, 65, 90]);
        assert_eq!([10, 64, 65, 90].map(|length| table.first_row(length)), [0, 0, 64, 64]);
        assert_eq!(table.cosines.len(), 8 * (64 + 90));
    }
}
