//! The rotary embedding of a config, from keys and from tensors of factors.
//!
//! It is the writer's table of scalings read backwards.

use qhost_plugin_api::sdk::{Failure, Result};
use serde_json::{Map, Value as Json, json};

use super::facts::{Facts, decimal};
use crate::families::{Llama3, long_attention_factor};

/// How far factors that are computed may be from those of the file.
const CLOSE: f32 = 1e-4;

/// `rope_parameters`, for heads with so many elements, of which so many are rotated.
pub(super) fn parameters(facts: &Facts<'_>, head: u64, rotated: u64, context: u64) -> Result<Map<String, Json>> {
    let theta = facts.number("rope.freq_base")?.unwrap_or(10_000.0);
    let mut made = Map::new();
    made.insert("rope_theta".into(), theta.into());
    if rotated != head {
        made.insert("partial_rotary_factor".into(), fraction(rotated, head).into());
    }
    let long = facts.floats("rope_factors_long.weight")?.zip(facts.floats("rope_factors_short.weight")?);
    let llama3 = facts
        .floats("rope_freqs.weight")?
        .filter(|factors| factors.iter().any(|factor| factor.to_bits() != 1.0_f32.to_bits()));
    let kind = facts.get("rope.scaling.type").and_then(crate::metadata::Value::as_str).unwrap_or("none");
    let mut kind = if kind == "none" { "default" } else { kind };
    if let Some((long, short)) = long {
        kind = "longrope";
        let original = facts.needed("rope.scaling.original_context_length")?;
        let listed = |factors: &[f32]| Json::from(factors.iter().map(|factor| decimal(*factor)).collect::<Vec<_>>());
        made.insert("long_factor".into(), listed(&long));
        made.insert("short_factor".into(), listed(&short));
        made.insert("original_max_position_embeddings".into(), original.into());
        #[expect(clippy::cast_possible_truncation, reason = "it was f32")]
        let stated = facts.number("rope.scaling.attn_factor")?.map(|factor| factor as f32);
        if let Some(stated) =
            stated.filter(|stated| stated.to_bits() != long_attention_factor(context, original).to_bits())
        {
            made.insert("attention_factor".into(), decimal(stated).into());
        }
    } else if let Some(factors) = llama3 {
        kind = "llama3";
        made.extend(scaled(&factors, theta, rotated)?);
    } else {
        match kind {
            "default" => {}
            "linear" | "yarn" => {
                let factor = facts.number("rope.scaling.factor")?;
                let factor = factor.ok_or_else(|| Failure::corrupt("the rotary scaling has no factor"))?;
                made.insert("factor".into(), factor.into());
            }
            other => {
                return Err(Failure::unsupported(format!("the rotary scaling `{other}` is not read")));
            }
        }
        if kind == "yarn" {
            yarn(facts, &mut made)?;
        }
    }
    made.insert("rope_type".into(), kind.into());
    Ok(made)
}

fn yarn(facts: &Facts<'_>, made: &mut Map<String, Json>) -> Result<()> {
    if let Some(original) = facts.count("rope.scaling.original_context_length")? {
        made.insert("original_max_position_embeddings".into(), original.into());
    }
    for (key, name) in [
        ("rope.scaling.yarn_ext_factor", "extrapolation_factor"),
        ("rope.scaling.yarn_attn_factor", "attention_factor"),
        ("rope.scaling.yarn_beta_fast", "beta_fast"),
        ("rope.scaling.yarn_beta_slow", "beta_slow"),
    ] {
        if let Some(number) = facts.number(key)? {
            made.insert(name.into(), number.into());
        }
    }
    // The converter wrote a tenth, and the two have to be the same.
    if let Some(tenth) = facts.number("rope.scaling.yarn_log_multiplier")? {
        let scale = (tenth * 1e7).round() / 1e6;
        made.insert("mscale".into(), scale.into());
        made.insert("mscale_all_dim".into(), scale.into());
    }
    Ok(())
}

/// A fraction of which transformers, which rounds down, makes the same number.
#[expect(clippy::cast_precision_loss, reason = "widths of heads")]
fn fraction(rotated: u64, head: u64) -> f64 {
    let (rotated, head) = (rotated as f64, head as f64);
    let exact = rotated / head;
    if (exact * head).floor() < rotated { exact.next_up() } else { exact }
}

/// The parameters of Llama 3's scaling that give these factors.
///
/// Only their proportions are in the factors, so the low one is 1; where few frequencies are blended, the high one is
/// 4, as in every published model. What is found is computed again and held against the file.
#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "the file has 32 bits")]
fn scaled(factors: &[f32], theta: f64, rotated: u64) -> Result<Map<String, Json>> {
    let refuse = || {
        Failure::unsupported("its factors are not those of Llama 3's rotary scaling, and no others are read")
            .about("rope_freqs.weight")
    };
    if factors.len() as u64 != rotated / 2 {
        return Err(Failure::corrupt(format!("it has {} factors for {rotated} rotated elements", factors.len()))
            .about("rope_freqs.weight"));
    }
    let factor = factors.iter().copied().fold(1.0_f32, f32::max);
    // 1 / wavelength, and how much of the original frequency is kept.
    let blended: Vec<(f64, f64)> = factors
        .iter()
        .enumerate()
        .filter(|(_, found)| **found > 1.0 && **found < factor)
        .map(|(pair, found)| {
            let wavelength = std::f64::consts::TAU * theta.powf(2.0 * pair as f64 / rotated as f64);
            let (found, factor) = (f64::from(*found), f64::from(factor));
            (1.0 / wavelength, (1.0 / found - 1.0 / factor) / (1.0 - 1.0 / factor))
        })
        .collect();
    let mut candidates = vec![(4.0, 8192.0)];
    if let Some((rate, kept)) = blended.first() {
        candidates.push((4.0, (kept * 3.0 + 1.0) / rate));
    }
    if let (Some((rate, kept)), Some((other_rate, other_kept))) = (blended.first(), blended.last())
        && (rate - other_rate).abs() > 0.0
    {
        let slope = (kept - other_kept) / (rate - other_rate);
        let high = 1.0 + 1.0 / (slope * rate - kept);
        candidates.push((high, slope * (high - 1.0)));
    }
    let fits = |(high, context): &(f64, f64)| {
        let scaling = Llama3 { theta: theta as f32, factor, low: 1.0, high: *high as f32, context: *context as f32 };
        let made = scaling.factors(rotated);
        made.iter().zip(factors).all(|(made, found)| (made / found - 1.0).abs() <= CLOSE)
    };
    let rounded = candidates.iter().map(|(high, context)| (high.round(), context.round()));
    let rounded: Vec<_> = rounded.chain(candidates.iter().copied()).collect();
    let (high, context) = rounded.into_iter().find(fits).ok_or_else(refuse)?;
    let made = json!({
        "factor": decimal(factor), "low_freq_factor": 1.0, "high_freq_factor": high,
        "original_max_position_embeddings": context,
    });
    let Json::Object(mut made) = made else { return Err(refuse()) };
    if context.fract() == 0.0 && context > 0.0 {
        #[expect(clippy::cast_sign_loss, reason = "above zero")]
        made.insert("original_max_position_embeddings".into(), (context as u64).into());
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama_3_s_parameters_are_found_in_its_factors() {
        for (theta, head, factor, high, context) in [
            (500_000.0, 128, 8.0, 4.0, 8192.0),
            (500_000.0, 64, 32.0, 4.0, 8192.0),
            (10_000.0, 16, 4.0, 4.0, 64.0),
            (1e6, 96, 16.0, 8.0, 32_768.0),
        ] {
            #[expect(clippy::cast_possible_truncation, reason = "the file has 32 bits")]
            let factors = Llama3 { theta: theta as f32, factor, low: 1.0, high, context }.factors(head);
            let found = scaled(&factors, theta, head).unwrap();
            let number = |key: &str| found[key].as_f64().unwrap();
            assert!((number("high_freq_factor") - f64::from(high)).abs() < 1e-3, "{found:?}");
            assert!((number("original_max_position_embeddings") - f64::from(context)).abs() < 1.0, "{found:?}");
        }
        assert!(scaled(&[1.0, 3.0, 2.0, 8.0], 1e4, 8).is_err());
        assert!(scaled(&[1.0, 2.0], 1e4, 8).is_err());
    }

    #[test]
    fn a_fraction_of_a_head_is_rounded_to_the_same_part() {
        #[expect(clippy::cast_precision_loss, reason = "widths of heads")]
        for head in 1..300_u64 {
            for rotated in 1..=head {
                let part = (head as f64 * fraction(rotated, head)).floor();
                assert!((part - rotated as f64).abs() < 0.5, "{rotated} of {head}");
            }
        }
    }
}
