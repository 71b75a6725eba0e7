//! `config.json` out of the keys of a GGUF file: what [`crate::families`] writes, read backwards.
//!
//! It knows transformers' names for settings; what the file does not tell is left out.

use qhost_plugin_api::sdk::{Failure, Result};
use serde_json::{Map, Value as Json, json};

use super::{facts::Facts, rope};
use crate::metadata::{Array, Value};

/// How transformers calls an architecture, and its epsilon.
struct Class {
    model_type: &'static str,
    name: &'static str,
    epsilon: &'static str,
}

const RMS: &str = "rms_norm_eps";
const LAYER: &str = "layer_norm_eps";

/// The class of an architecture; several checkpoints' families share one, and are computed alike.
fn class(facts: &Facts<'_>) -> Result<Class> {
    let sigmoid = facts.count("expert_gating_func")? == Some(2);
    let sparse = facts.count("expert_count")?.unwrap_or(0) > 0;
    let (model_type, name, epsilon) = match facts.architecture {
        "llama" if sparse => ("mixtral", "MixtralForCausalLM", RMS),
        "llama" => ("llama", "LlamaForCausalLM", RMS),
        "qwen2" => ("qwen2", "Qwen2ForCausalLM", RMS),
        "qwen2moe" => ("qwen2_moe", "Qwen2MoeForCausalLM", RMS),
        "qwen3" => ("qwen3", "Qwen3ForCausalLM", RMS),
        "qwen3moe" => ("qwen3_moe", "Qwen3MoeForCausalLM", RMS),
        "gemma" => ("gemma", "GemmaForCausalLM", RMS),
        "gemma2" => ("gemma2", "Gemma2ForCausalLM", RMS),
        "gemma3" => ("gemma3_text", "Gemma3ForCausalLM", RMS),
        "phi3" => ("phi3", "Phi3ForCausalLM", RMS),
        "phi2" => ("phi", "PhiForCausalLM", LAYER),
        "gpt-oss" => ("gpt_oss", "GptOssForCausalLM", RMS),
        "deepseek2" if sigmoid => ("deepseek_v3", "DeepseekV3ForCausalLM", RMS),
        "deepseek2" => ("deepseek_v2", "DeepseekV2ForCausalLM", RMS),
        "glm4" => ("glm4", "Glm4ForCausalLM", RMS),
        "granite" => ("granite", "GraniteForCausalLM", RMS),
        "olmo2" => ("olmo2", "Olmo2ForCausalLM", RMS),
        "smollm3" => ("smollm3", "SmolLM3ForCausalLM", RMS),
        "stablelm" => ("stablelm", "StableLmForCausalLM", LAYER),
        "starcoder2" => ("starcoder2", "Starcoder2ForCausalLM", "norm_epsilon"),
        "command-r" => ("cohere", "CohereForCausalLM", LAYER),
        "exaone4" => ("exaone4", "Exaone4ForCausalLM", RMS),
        "seed_oss" => ("seed_oss", "SeedOssForCausalLM", RMS),
        "gptneox" => ("gpt_neox", "GPTNeoXForCausalLM", LAYER),
        "gpt2" => ("gpt2", "GPT2LMHeadModel", "layer_norm_epsilon"),
        other => return Err(Failure::unsupported(format!("the architecture {other} is not read as a source"))),
    };
    Ok(Class { model_type, name, epsilon })
}

/// The config, and what the user should know.
pub(super) fn of(facts: &Facts<'_>) -> Result<(Json, Vec<String>)> {
    let Class { model_type, name, epsilon } = class(facts)?;
    let mut config = Config { facts, keys: Map::new() };
    config.put("model_type", model_type);
    config.put("architectures", json!([name]));
    config.sizes()?;
    let norm = facts.number(facts.family.epsilon)?;
    let norm = norm.ok_or_else(|| Failure::corrupt(format!("the file has no `{}`", facts.family.epsilon)))?;
    config.put(epsilon, norm);
    config.put("tie_word_embeddings", facts.tensor("output.weight").is_none());
    let activation = facts.family.activations.first().copied().unwrap_or("silu");
    match facts.architecture {
        "gpt2" => config.put("activation_function", "gelu_new"),
        // The same function; this is how Phi's class calls it.
        "phi2" => config.put("hidden_act", "gelu_new"),
        _ => config.put("hidden_act", activation),
    }
    config.windows()?;
    config.rotation()?;
    config.experts()?;
    config.biases();
    config.own_keys()?;
    let mut warnings = Vec::new();
    if facts.architecture == "llama" {
        warnings.push(
            "the file calls several families llama; it is read as Llama's own, and a window of attention would not be told"
                .to_owned(),
        );
    }
    Ok((Json::Object(config.keys), warnings))
}

struct Config<'a> {
    facts: &'a Facts<'a>,
    keys: Map<String, Json>,
}

impl Config<'_> {
    fn put(&mut self, key: &str, value: impl Into<Json>) {
        self.keys.insert(key.to_owned(), value.into());
    }

    fn number(&mut self, key: &str, name: &str) -> Result<()> {
        if let Some(number) = self.facts.number(key)? {
            self.put(name, number);
        }
        Ok(())
    }

    fn latent(&self) -> bool {
        self.facts.architecture == "deepseek2"
    }

    /// The width of a head.
    fn head(&self) -> Result<u64> {
        let (width, heads) = (self.facts.needed("embedding_length")?, self.facts.needed("attention.head_count")?);
        let stated = self.facts.count("attention.key_length")?;
        stated
            .or_else(|| width.checked_div(heads))
            .filter(|head| *head > 0)
            .ok_or_else(|| Failure::corrupt(format!("the file has {heads} heads for a width of {width}")))
    }

    fn sizes(&mut self) -> Result<()> {
        let facts = self.facts;
        let embedding = facts.tensor("token_embd.weight");
        let vocabulary = embedding.and_then(|tensor| tensor.dimensions.get(1)).copied();
        let vocabulary =
            vocabulary.ok_or_else(|| Failure::corrupt("it is not in the file").about("token_embd.weight"))?;
        self.put("vocab_size", vocabulary);
        let sizes = [
            ("block_count", "num_hidden_layers", "n_layer"),
            ("embedding_length", "hidden_size", "n_embd"),
            ("attention.head_count", "num_attention_heads", "n_head"),
            ("context_length", "max_position_embeddings", "n_positions"),
            ("feed_forward_length", "intermediate_size", "n_inner"),
        ];
        // Lists with an element for each layer are made below, so their number is held against the file first.
        let (layers, tensors) = (facts.needed("block_count")?, facts.names().count());
        if layers > tensors as u64 {
            return Err(Failure::corrupt(format!("the file tells of {layers} layers, and has {tensors} tensors")));
        }
        for (key, usual, of_gpt2) in sizes {
            let size = facts.needed(key)?;
            self.put(if facts.architecture == "gpt2" { of_gpt2 } else { usual }, size);
        }
        if facts.architecture == "gpt2" {
            return Ok(());
        }
        let heads = facts.needed("attention.head_count")?;
        let key_heads = if self.latent() { None } else { facts.count("attention.head_count_kv")? };
        self.put("num_key_value_heads", key_heads.unwrap_or(heads));
        if !self.latent() && facts.get("attention.key_length").is_some() {
            let (keys, values) = (self.head()?, facts.count("attention.value_length")?);
            if values.is_some_and(|values| values != keys) {
                return Err(Failure::unsupported("keys and values of attention have different widths"));
            }
            self.put("head_dim", keys);
        }
        Ok(())
    }

    fn windows(&mut self) -> Result<()> {
        let facts = self.facts;
        let window = facts.count("attention.sliding_window")?.filter(|window| *window > 0);
        let Some(every) = facts.family.window_period() else {
            if facts.architecture == "phi3" {
                self.put("sliding_window", window);
            }
            return Ok(());
        };
        // Without one, EXAONE has none, and the others have what their classes assume.
        let Some(window) = window else {
            if facts.architecture == "exaone4" {
                self.put("sliding_window", Json::Null);
                let layers = (0..facts.needed("block_count")?).map(|_| "full_attention");
                self.put("layer_types", layers.collect::<Vec<_>>());
            }
            return Ok(());
        };
        self.put("sliding_window", window);
        let layers = facts.needed("block_count")?;
        let period = |every: u64| (1..=layers).map(|layer| every > 0 && !layer.is_multiple_of(every)).collect();
        let windowed: Vec<bool> = match facts.get("attention.sliding_window_pattern") {
            None => period(every),
            Some(Value::Array(Array::Bool(listed))) if listed.len() as u64 >= layers => {
                listed.iter().take(usize::try_from(layers).unwrap_or(usize::MAX)).copied().collect()
            }
            Some(value) => match value.as_u64() {
                Some(every) => period(every),
                None => {
                    return Err(Failure::corrupt("`attention.sliding_window_pattern` is not a flag for each layer"));
                }
            },
        };
        let name = |windowed: &bool| if *windowed { "sliding_attention" } else { "full_attention" };
        self.put("layer_types", windowed.iter().map(name).collect::<Vec<_>>());
        Ok(())
    }

    fn rotation(&mut self) -> Result<()> {
        let facts = self.facts;
        if facts.architecture == "gpt2" {
            return Ok(());
        }
        let rotated = facts.count("rope.dimension_count")?;
        let head = if self.latent() { rotated.unwrap_or(0) } else { self.head()? };
        let rotated = rotated.unwrap_or(head);
        if rotated == 0 || rotated > head {
            return Err(Failure::corrupt(format!("of {head} elements of a head {rotated} are rotated")));
        }
        let context = facts.needed("context_length")?;
        let mut parameters = rope::parameters(facts, head, rotated, context)?;
        if facts.architecture == "gpt-oss" {
            // Its class assumes so, and llama.cpp does not ask.
            parameters.insert("truncate".into(), false.into());
        }
        // These classes assume a part where nothing is said.
        if matches!(facts.architecture, "glm4" | "phi2" | "stablelm" | "gptneox") {
            parameters.entry("partial_rotary_factor").or_insert_with(|| 1.0.into());
        }
        if facts.architecture == "phi3" {
            let original = facts.count("rope.scaling.original_context_length")?;
            self.put("original_max_position_embeddings", original.unwrap_or(context));
        }
        self.old_rotation(&parameters);
        if facts.architecture == "gemma3" {
            let local = facts.number("rope.freq_base_swa")?.unwrap_or(10_000.0);
            self.put("rope_local_base_freq", local);
            let local = json!({"rope_type": "default", "rope_theta": local});
            self.put("rope_parameters", json!({"full_attention": parameters, "sliding_attention": local}));
        } else {
            self.put("rope_parameters", parameters);
        }
        Ok(())
    }

    /// The same in the keys of transformers 4, which does not know `rope_parameters` and would compute with its
    /// defaults.
    fn old_rotation(&mut self, parameters: &Map<String, Json>) {
        let neox = self.facts.architecture == "gptneox";
        let (base, part) =
            if neox { ("rotary_emb_base", "rotary_pct") } else { ("rope_theta", "partial_rotary_factor") };
        for (key, name) in [("rope_theta", base), ("partial_rotary_factor", part)] {
            if let Some(value) = parameters.get(key) {
                self.put(name, value.clone());
            }
        }
        let mut scaling = parameters.clone();
        scaling.retain(|key, _| !["rope_theta", "partial_rotary_factor"].contains(&key.as_str()));
        let kind = scaling.get("rope_type").and_then(Json::as_str).unwrap_or("default").to_owned();
        match &*kind {
            "default" => {}
            // Phi-3's class takes these three keys and no others.
            "longrope" => {
                scaling.retain(|key, _| key.ends_with("_factor") && key != "attention_factor");
                scaling.insert("type".into(), kind.into());
                self.put("rope_scaling", scaling);
            }
            _ => self.put("rope_scaling", scaling),
        }
    }

    fn experts(&mut self) -> Result<()> {
        let facts = self.facts;
        let Some(count) = facts.count("expert_count")?.filter(|count| *count > 0) else { return Ok(()) };
        // Every expert becomes tensors of the model, so their number is held against the file first.
        let mut stacks = facts.tensors().filter(|tensor| tensor.name.ends_with("_exps.weight"));
        let counted = stacks.any(|stack| stack.dimensions.get(2) == Some(&count));
        if !counted {
            return Err(Failure::corrupt(format!("the file tells of {count} experts, and has no stack of as many")));
        }
        self.put("num_experts_per_tok", facts.needed("expert_used_count")?);
        match facts.architecture {
            "qwen2moe" | "qwen3moe" => {
                self.put("num_experts", count);
                self.put("norm_topk_prob", facts.architecture == "qwen3moe");
                self.put("moe_intermediate_size", facts.needed("expert_feed_forward_length")?);
                if facts.architecture == "qwen2moe" {
                    let shared = facts.needed("expert_shared_feed_forward_length")?;
                    self.put("shared_expert_intermediate_size", shared);
                }
            }
            "deepseek2" => self.put("n_routed_experts", count),
            _ => {
                self.put("num_local_experts", count);
                if let Some(width) = facts.count("expert_feed_forward_length")? {
                    self.put("intermediate_size", width);
                }
            }
        }
        Ok(())
    }

    /// Whether modules have biases, as far as classes ask.
    fn biases(&mut self) {
        let (queries, output) = (self.facts.in_layers("attn_q.bias"), self.facts.in_layers("attn_output.bias"));
        match self.facts.architecture {
            "llama" | "granite" | "qwen3" | "qwen3moe" | "glm4" | "smollm3" | "olmo2" | "gpt-oss" => {
                self.put("attention_bias", queries);
            }
            "seed_oss" => {
                self.put("attention_bias", queries);
                self.put("attention_out_bias", output);
            }
            "stablelm" => self.put("use_qkv_bias", queries),
            "starcoder2" => self.put("use_bias", queries),
            _ => {}
        }
        if matches!(self.facts.architecture, "llama" | "granite" | "smollm3" | "seed_oss") {
            self.put("mlp_bias", self.facts.in_layers("ffn_up.bias"));
        }
    }

    /// What only one architecture has.
    fn own_keys(&mut self) -> Result<()> {
        let facts = self.facts;
        match facts.architecture {
            "gemma" => self.put("hidden_activation", "gelu_pytorch_tanh"),
            "gemma2" | "gemma3" => {
                self.put("hidden_activation", "gelu_pytorch_tanh");
                self.number("attn_logit_softcapping", "attn_logit_softcapping")?;
                self.number("final_logit_softcapping", "final_logit_softcapping")?;
                // llama.cpp takes the width of a head, but in the model of 27 billion parameters.
                let large = if facts.architecture == "gemma2" { 46 } else { 62 };
                let scale = if facts.needed("block_count")? == large {
                    facts.needed("embedding_length")?.checked_div(facts.needed("attention.head_count")?)
                } else {
                    Some(self.head()?)
                };
                self.put("query_pre_attn_scalar", scale);
            }
            "granite" => {
                self.number("attention.scale", "attention_multiplier")?;
                self.number("embedding_scale", "embedding_multiplier")?;
                self.number("residual_scale", "residual_multiplier")?;
                self.number("logit_scale", "logits_scaling")?;
            }
            "command-r" => {
                self.number("logit_scale", "logit_scale")?;
                self.put("use_qk_norm", facts.in_layers("attn_q_norm.weight"));
            }
            "stablelm" | "gptneox" => {
                self.put("use_parallel_residual", facts.flag("use_parallel_residual").unwrap_or(true));
            }
            "gpt-oss" => {
                self.put("swiglu_alpha", 1.702);
                self.put("swiglu_limit", 7.0);
            }
            "smollm3" => self.put("no_rope_layer_interval", 4),
            "deepseek2" => self.latent_attention()?,
            _ => {}
        }
        Ok(())
    }

    fn latent_attention(&mut self) -> Result<()> {
        let facts = self.facts;
        let rotated = facts.needed("rope.dimension_count")?;
        let Some(keys) = facts.count("attention.key_length_mla")? else {
            let message = "the file is of a layout before latent attention had keys of its own";
            return Err(Failure::unsupported(message).hint("take a file that a newer converter made"));
        };
        let unrotated = keys.checked_sub(rotated).filter(|unrotated| *unrotated > 0);
        let unrotated =
            unrotated.ok_or_else(|| Failure::corrupt(format!("of {keys} elements of a key {rotated} are rotated")))?;
        self.put("qk_rope_head_dim", rotated);
        self.put("qk_nope_head_dim", unrotated);
        self.put("v_head_dim", facts.needed("attention.value_length_mla")?);
        self.put("kv_lora_rank", facts.needed("attention.kv_lora_rank")?);
        self.put("q_lora_rank", facts.count("attention.q_lora_rank")?.filter(|rank| *rank > 0));
        let sigmoid = facts.count("expert_gating_func")? == Some(2);
        let groups = facts.count("expert_group_count")?.filter(|groups| *groups > 1);
        self.put("n_group", groups.unwrap_or(1));
        self.put("topk_group", facts.count("expert_group_used_count")?.filter(|_| groups.is_some()).unwrap_or(1));
        self.put(
            "topk_method",
            match (sigmoid, groups) {
                (true, _) => "noaux_tc",
                (false, Some(_)) => "group_limited_greedy",
                (false, None) => "greedy",
            },
        );
        self.put("scoring_func", if sigmoid { "sigmoid" } else { "softmax" });
        self.put("norm_topk_prob", facts.flag("expert_weights_norm").unwrap_or(false));
        self.put("routed_scaling_factor", facts.number("expert_weights_scale")?.unwrap_or(1.0));
        self.put("first_k_dense_replace", facts.count("leading_dense_block_count")?.unwrap_or(0));
        self.put("n_shared_experts", facts.count("expert_shared_count")?.unwrap_or(0));
        self.put("moe_intermediate_size", facts.needed("expert_feed_forward_length")?);
        Ok(())
    }
}
