//! Reading `config.json` of transformers 4 and 5 into hyperparameters with common names.
//!
//! The names of keys are transformers'; what a family does with a value is not known here.

use std::collections::BTreeSet;

use qhost_plugin_api::documents::{Experts, Hyperparameters, LatentAttention, Rope};
use serde_json::{Map, Value};

use super::{Error, Family, Heads, Positions, Windows};

/// No model comes near these; a config that passes them lies, and would only cost memory.
const MOST_LAYERS: u64 = 100_000;
const MOST_HEADS: u64 = 1 << 20;
const MOST_EXPERTS: u64 = 1 << 16;
const WIDEST: u64 = 1 << 32;

/// The same setting under the names of different families, the usual one first; of rotation, the one that
/// only one family has.
const LAYERS: &[&str] = &["num_hidden_layers", "n_layer"];
const HIDDEN: &[&str] = &["hidden_size", "n_embd"];
const HEADS: &[&str] = &["num_attention_heads", "n_head"];
const FFN: &[&str] = &["intermediate_size", "ffn_dim", "n_inner"];
const CONTEXT: &[&str] = &["max_position_embeddings", "n_positions", "n_ctx"];
const EPSILON: &[&str] = &["rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"];
const ACTIVATION: &[&str] = &["hidden_activation", "hidden_act", "activation_function"];
const EXPERTS: &[&str] = &["num_local_experts", "num_experts", "n_routed_experts"];
const EXPERTS_USED: &[&str] = &["num_experts_per_tok", "num_experts_per_token"];
const ROTATED_PART: &[&str] = &["rotary_pct", "partial_rotary_factor"];
const THETA: &[&str] = &["rotary_emb_base", "rope_theta"];

/// Reads the hyperparameters of a decoder from a config that the family has completed.
pub(super) fn read(config: &Value, family: &Family) -> Result<Hyperparameters, Error> {
    let keys = Keys { config };
    let hidden_size = keys.size(HIDDEN, WIDEST)?;
    let heads = keys.size(HEADS, MOST_HEADS)?;
    let kv_heads = match family.heads {
        Heads::Grouped => keys.optional_size(&["num_key_value_heads"], MOST_HEADS)?.unwrap_or(heads),
        Heads::Equal | Heads::Latent => heads,
    };
    if heads % kv_heads != 0 {
        return Err(keys.bad("num_key_value_heads", "which does not divide num_attention_heads"));
    }
    let latent_attention = (family.heads == Heads::Latent).then(|| read_latent(&keys)).transpose()?;
    let explicit_head_dim = keys.optional_size(&["head_dim"], WIDEST)?.filter(|_| latent_attention.is_none());
    let head_dim = match (&latent_attention, explicit_head_dim) {
        (Some(latent), _) => latent.unrotated + latent.rotated,
        (None, Some(head_dim)) => head_dim,
        (None, None) if hidden_size % heads == 0 => hidden_size / heads,
        _ => return Err(keys.bad(keys.present(HIDDEN), "which num_attention_heads does not divide")),
    };
    let layers = keys.size(LAYERS, MOST_LAYERS)?;
    // GPT-2 leaves it out, or states null, for four times the width.
    let default_ffn = (keys.present(HIDDEN) == "n_embd").then_some(4 * hidden_size);
    let ffn_size = keys.optional_size(FFN, WIDEST)?.or(default_ffn).ok_or(Error::MissingKey { key: FFN[0] })?;
    let window = if family.windows == Windows::None { None } else { read_window(&keys)? };
    let windowed_layers = if window.is_some() { read_windowed_layers(&keys, family, layers)? } else { Vec::new() };
    let windowed = windowed_layers.is_empty() || windowed_layers.contains(&true);
    Ok(Hyperparameters {
        layers: narrow(layers),
        hidden_size,
        ffn_size,
        heads: narrow(heads),
        kv_heads: narrow(kv_heads),
        head_dim,
        head_dim_explicit: explicit_head_dim.is_some(),
        vocab_size: keys.size(&["vocab_size"], WIDEST)?,
        context_length: keys.size(CONTEXT, WIDEST)?,
        norm_epsilon: keys.positive(EPSILON)?,
        rope: read_rope(&keys, family, head_dim, latent_attention.as_ref())?,
        sliding_window: window.filter(|_| windowed),
        windowed_layers: if windowed && windowed_layers.contains(&false) { windowed_layers } else { Vec::new() },
        activation: keys.text(ACTIVATION)?.unwrap_or("silu").to_owned(),
        experts: family.scoring.map(|scoring| read_experts(&keys, scoring, layers, ffn_size)).transpose()?.flatten(),
        latent_attention,
        tied_embeddings: keys.flag("tie_word_embeddings")?.unwrap_or(false),
    })
}

fn read_latent(keys: &Keys<'_>) -> Result<LatentAttention, Error> {
    Ok(LatentAttention {
        q_rank: keys.optional_size(&["q_lora_rank"], WIDEST)?,
        kv_rank: keys.size(&["kv_lora_rank"], WIDEST)?,
        unrotated: keys.size(&["qk_nope_head_dim"], WIDEST)?,
        rotated: keys.size(&["qk_rope_head_dim"], WIDEST)?,
        value: keys.size(&["v_head_dim"], WIDEST)?,
    })
}

/// The experts; none if the config has none, as that of a dense model in a family with experts may.
fn read_experts(keys: &Keys<'_>, scoring: &str, layers: u64, ffn_size: u64) -> Result<Option<Experts>, Error> {
    let Some(count) = keys.optional_size(EXPERTS, MOST_EXPERTS)? else { return Ok(None) };
    let used = keys.size(EXPERTS_USED, MOST_EXPERTS)?;
    if used > count {
        return Err(keys.bad(EXPERTS_USED[0], "more experts than there are"));
    }
    let expert_ffn = keys.optional_size(&["moe_intermediate_size"], WIDEST)?.unwrap_or(ffn_size);
    let shared_count = keys.count("n_shared_experts", MOST_EXPERTS)?;
    let shared_ffn = match (keys.count("shared_expert_intermediate_size", WIDEST)?, shared_count) {
        (Some(size), _) => size,
        (None, Some(count)) => count * expert_ffn,
        (None, None) => 0,
    };
    let first = keys.count("first_k_dense_replace", MOST_LAYERS)?.unwrap_or(0);
    let every = keys.optional_size(&["moe_layer_freq"], MOST_LAYERS)?.unwrap_or(1);
    let step = keys.optional_size(&["decoder_sparse_step"], MOST_LAYERS)?.unwrap_or(1);
    let dense: BTreeSet<u64> = match keys.get("mlp_only_layers") {
        None => BTreeSet::new(),
        Some(list) => {
            let numbers = list.as_array().and_then(|list| list.iter().map(Value::as_u64).collect());
            numbers.ok_or_else(|| keys.bad("mlp_only_layers", "not a list of layers"))?
        }
    };
    let sparse = |layer: u64| {
        layer >= first && layer.is_multiple_of(every) && (layer + 1).is_multiple_of(step) && !dense.contains(&layer)
    };
    Ok(Some(Experts {
        count: narrow(count),
        used: narrow(used),
        ffn_size: expert_ffn,
        shared_count: shared_count.map(narrow),
        shared_ffn_size: shared_ffn,
        layers: (0..layers).map(sparse).collect(),
        normalized: keys.flag("norm_topk_prob")?.unwrap_or(false),
        scale: keys.get("routed_scaling_factor").map_or(Ok(1.0), |_| keys.positive(&["routed_scaling_factor"]))?,
        scoring: keys.text(&["scoring_func"])?.unwrap_or(scoring).to_owned(),
        groups: keys.optional_size(&["n_group"], MOST_EXPERTS)?.map(narrow),
        groups_used: keys.optional_size(&["topk_group"], MOST_EXPERTS)?.map(narrow),
    }))
}

/// transformers 5 has everything in `rope_parameters`, with an object for each kind of layer where they
/// differ; transformers 4 has `rope_theta` beside `rope_scaling`, whose kind was once called `type`.
fn read_rope(keys: &Keys<'_>, family: &Family, head_dim: u64, latent: Option<&LatentAttention>) -> Result<Rope, Error> {
    if family.positions == Positions::Learned {
        return Ok(Rope { kind: "none".into(), ..Rope::default() });
    }
    let mut parameters = match keys.get("rope_parameters").or_else(|| keys.get("rope_scaling")) {
        Some(Value::Object(map)) => map.clone(),
        None => Map::new(),
        Some(_) => return Err(keys.bad("rope_scaling", "not an object")),
    };
    let mut local_theta = keys.get("rope_local_base_freq").map(theta_of).transpose()?;
    if let Some(Value::Object(local)) = parameters.remove("sliding_attention") {
        if local.get("rope_type").and_then(Value::as_str).is_some_and(|kind| kind != "default") {
            return Err(keys.bad("rope_parameters", "which scales the rotation of layers with a window"));
        }
        local_theta = local.get("rope_theta").map(theta_of).transpose()?;
    }
    if let Some(Value::Object(full)) = parameters.remove("full_attention") {
        parameters = full;
        // transformers looks for it beside the kinds of layers, where nobody writes it.
        parameters.remove("truncate");
    }
    let theta = parameters.remove("rope_theta").or_else(|| THETA.iter().find_map(|key| keys.get(key)).cloned());
    let theta = theta.map_or(Ok(10_000.0), |value| theta_of(&value))?;
    let kind = match parameters.remove("rope_type").or_else(|| parameters.remove("type")) {
        None => "default".to_owned(),
        Some(Value::String(kind)) => kind,
        Some(other) => {
            return Err(Error::BadKey { key: "rope_type", value: other.to_string(), reason: "not a name" });
        }
    };
    parameters.remove("type");
    if let Some(original) = keys.get("original_max_position_embeddings") {
        // Beside the parameters it has the last word, as in Phi-3's configs.
        parameters.insert("original_max_position_embeddings".into(), original.clone());
    }
    let part = parameters.get("partial_rotary_factor").or_else(|| ROTATED_PART.iter().find_map(|key| keys.get(key)));
    let dimensions = match (latent, part) {
        (Some(latent), _) => latent.rotated,
        (None, None) => head_dim,
        (None, Some(part)) => rotated(head_dim, part)?,
    };
    Ok(Rope { theta, kind, dimensions, local_theta, parameters })
}

fn theta_of(value: &Value) -> Result<f64, Error> {
    value.as_f64().filter(|theta| theta.is_finite() && *theta > 0.0).ok_or_else(|| Error::BadKey {
        key: "rope_theta",
        value: value.to_string(),
        reason: "not a positive number",
    })
}

/// The rotated part of a head, rounded down as transformers does it.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "at most a head"
)]
fn rotated(head_dim: u64, part: &Value) -> Result<u64, Error> {
    let fraction = part.as_f64().filter(|part| *part > 0.0 && *part <= 1.0).ok_or_else(|| Error::BadKey {
        key: "partial_rotary_factor",
        value: part.to_string(),
        reason: "not a fraction of 1",
    })?;
    Ok((head_dim as f64 * fraction) as u64)
}

/// `use_sliding_window: false` switches off a window that is stated, and 0 is none.
fn read_window(keys: &Keys<'_>) -> Result<Option<u64>, Error> {
    let in_use = keys.flag("use_sliding_window")?.unwrap_or(true);
    Ok(keys.count("sliding_window", WIDEST)?.filter(|&window| in_use && window > 0))
}

/// For each layer whether it uses the window.
fn read_windowed_layers(keys: &Keys<'_>, family: &Family, layers: u64) -> Result<Vec<bool>, Error> {
    if matches!(family.windows, Windows::All | Windows::None) {
        return Ok(Vec::new());
    }
    if let Some(types) = keys.get("layer_types") {
        let names = types.as_array().map(|list| list.iter().map(Value::as_str).collect::<Vec<_>>());
        let known = [Some("full_attention"), Some("sliding_attention")];
        let names = names.filter(|names| names.len() as u64 == layers && names.iter().all(|name| known.contains(name)));
        let reason = "not `full_attention` or `sliding_attention` for each layer";
        let names = names.ok_or_else(|| keys.bad("layer_types", reason))?;
        return Ok(names.into_iter().map(|name| name == Some("sliding_attention")).collect());
    }
    let all_but_every = |every: u64| (1..=layers).map(|layer| layer % every != 0).collect();
    Ok(match family.windows {
        Windows::All | Windows::None => Vec::new(),
        Windows::FromLayer => {
            let first = keys.count("max_window_layers", MOST_LAYERS)?.unwrap_or(layers);
            (0..layers).map(|layer| layer >= first).collect()
        }
        Windows::EveryOtherBefore => {
            let end = keys.count("max_window_layers", MOST_LAYERS)?.unwrap_or(layers);
            (0..layers).map(|layer| layer.is_multiple_of(2) && layer < end).collect()
        }
        Windows::Unrotated => {
            let every = keys.optional_size(&["no_rope_layer_interval"], MOST_LAYERS)?.unwrap_or(4);
            let by_interval = (1..=layers).map(|layer| layer.is_multiple_of(every)).collect();
            let listed = keys.get("no_rope_layers").and_then(Value::as_array);
            listed.map_or(by_interval, |list| list.iter().map(|rotates| rotates.as_u64() == Some(0)).collect())
        }
        Windows::AllButEvery(default) => match keys.get("sliding_window_pattern") {
            // `LLLG`: local, local, local, global.
            Some(Value::String(pattern)) if !pattern.is_empty() => {
                let local: Vec<_> = pattern.chars().map(|letter| letter == 'L').collect();
                local.iter().copied().cycle().zip(0..layers).map(|(local, _)| local).collect()
            }
            _ => {
                let pattern = ["sliding_window_pattern", "_sliding_window_pattern"];
                all_but_every(keys.optional_size(&pattern, MOST_LAYERS)?.unwrap_or(default))
            }
        },
    })
}

fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Typed access to the top level of `config.json`, where null means absent.
struct Keys<'a> {
    config: &'a Value,
}

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.config.get(key).filter(|value| !value.is_null())
    }

    fn bad(&self, key: &'static str, reason: &'static str) -> Error {
        let value = self.config.get(key).map_or_else(|| "absent".to_owned(), Value::to_string);
        Error::BadKey { key, value, reason }
    }

    /// The first of these keys that is there; the usual one if none is.
    fn present(&self, names: &[&'static str]) -> &'static str {
        names.iter().copied().find(|name| self.get(name).is_some()).unwrap_or(names[0])
    }

    fn optional_size(&self, names: &[&'static str], most: u64) -> Result<Option<u64>, Error> {
        let key = self.present(names);
        match self.count(key, most)? {
            Some(0) => Err(self.bad(key, "not a sensible positive whole number")),
            size => Ok(size),
        }
    }

    /// A whole number that may be 0.
    fn count(&self, key: &'static str, most: u64) -> Result<Option<u64>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_u64() {
            Some(size) if size <= most => Ok(Some(size)),
            _ => Err(self.bad(key, "not a sensible positive whole number")),
        }
    }

    fn size(&self, names: &[&'static str], most: u64) -> Result<u64, Error> {
        self.optional_size(names, most)?.ok_or(Error::MissingKey { key: names[0] })
    }

    fn positive(&self, names: &[&'static str]) -> Result<f64, Error> {
        let key = self.present(names);
        let value = self.get(key).ok_or(Error::MissingKey { key })?;
        value
            .as_f64()
            .filter(|value| value.is_finite() && *value > 0.0)
            .ok_or_else(|| self.bad(key, "not a positive number"))
    }

    fn text(&self, names: &[&'static str]) -> Result<Option<&str>, Error> {
        let key = self.present(names);
        self.get(key).map(|value| value.as_str().ok_or_else(|| self.bad(key, "not a name"))).transpose()
    }

    fn flag(&self, key: &'static str) -> Result<Option<bool>, Error> {
        self.get(key).map(|value| value.as_bool().ok_or_else(|| self.bad(key, "neither true nor false"))).transpose()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::find, *};

    fn config() -> Value {
        json!({
            "hidden_size": 64, "intermediate_size": 172, "num_attention_heads": 8, "num_hidden_layers": 5,
            "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "vocab_size": 512,
        })
    }

    fn read(config: &Value) -> Result<Hyperparameters, Error> {
        super::read(config, find(Some("llama"), None).unwrap())
    }

    fn with(key: &str, value: Value) -> Value {
        let mut config = config();
        config[key] = value;
        config
    }

    #[test]
    fn absent_keys_take_the_defaults_of_transformers() {
        let model = read(&config()).unwrap();
        assert_eq!((model.kv_heads, model.head_dim, model.head_dim_explicit), (8, 8, false));
        assert_eq!((model.rope.theta, model.rope.kind.as_str()), (10_000.0, "default"));
        assert_eq!((model.sliding_window, model.tied_embeddings), (None, false));
    }

    #[test]
    fn rope_reads_the_same_from_both_generations_of_transformers() {
        let mut old = with("rope_theta", json!(500_000.0));
        old["rope_scaling"] = json!({"type": "linear", "factor": 2.0});
        let new = with("rope_parameters", json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 500_000.0}));
        assert_eq!(read(&old).unwrap().rope, read(&new).unwrap().rope);
        assert_eq!(read(&new).unwrap().rope.parameters["factor"], json!(2.0));
    }

    #[test]
    fn a_window_that_is_switched_off_is_absent() {
        let read = |config: &Value, family| super::read(config, find(Some(family), None).unwrap()).unwrap();
        let mut config = with("sliding_window", json!(16));
        assert_eq!(read(&config, "mistral").sliding_window, Some(16));
        assert_eq!(read(&config, "llama").sliding_window, None, "transformers does not look at it");
        config["use_sliding_window"] = json!(false);
        assert_eq!(read(&config, "mistral").sliding_window, None);
    }

    #[test]
    fn layers_with_a_window_are_those_of_each_family() {
        let windowed = |family: &str, more: Value| {
            let mut config = with("sliding_window", json!(16));
            config["use_sliding_window"] = json!(true);
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            super::read(&config, find(Some(family), None).unwrap()).map(|model| model.windowed_layers)
        };
        let few = || json!({"max_window_layers": 3});
        assert_eq!(windowed("qwen2", few()).unwrap(), [false, false, false, true, true]);
        assert_eq!(windowed("qwen2_moe", few()).unwrap(), [true, false, true, false, false]);
        assert_eq!(windowed("qwen3_moe", few()).unwrap(), [false; 0], "all of them");
        assert_eq!(windowed("smollm3", few()).unwrap(), [false, false, false, true, false]);
        let listed = json!({"no_rope_layers": [0, 1, 1, 1, 0]});
        assert_eq!(windowed("smollm3", listed).unwrap(), [true, false, false, false, true]);
        let types = json!({"layer_types": ["full_attention", "full_attention", "chunked_attention", "x", "y"]});
        assert!(matches!(windowed("qwen2", types), Err(Error::BadKey { key: "layer_types", .. })));
    }

    #[test]
    fn impossible_values_are_refused_by_name() {
        for (key, value) in [
            ("hidden_size", json!(0)),
            ("hidden_size", json!("64")),
            ("num_hidden_layers", json!(-1)),
            ("num_hidden_layers", json!(1u64 << 40)),
            ("num_key_value_heads", json!(3)),
            ("rms_norm_eps", json!(0)),
            ("rope_theta", json!("big")),
            ("tie_word_embeddings", json!(1)),
        ] {
            match read(&with(key, value.clone())) {
                Err(Error::BadKey { key: named, .. }) => assert_eq!(named, key),
                other => panic!("{key} = {value}: {other:?}"),
            }
        }
        let mut config = config();
        config.as_object_mut().unwrap().remove("vocab_size");
        assert!(matches!(read(&config), Err(Error::MissingKey { key: "vocab_size" })));
    }
}
