//! What a model computes, with every number that its config leaves to the family filled in.
//!
//! It is pure: whatever cannot be run is refused here, before a weight is read.

use qhost_compute::{Activation, Attention, NormKind};
use qhost_plugin_api::documents::{Experts, Hyperparameters, LatentAttention, Model, RoleKind, SourceTensor, UnitKind};
use serde_json::Value;

use super::{BATCH_TOKENS, Error, rotary::Frequencies};
use crate::model::{self, Factor, Forward, Fused, Gate, Norm, Order, Pairs, Rotated, Routing, Scores};

/// The norms of latent queries, keys and values: transformers gives them its default epsilon.
const LATENT_EPSILON: f32 = 1e-6;

/// A model that can be run.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "they are what a family may or may not do")]
pub struct Decoder {
    /// Width of the residual stream.
    pub width: usize,
    /// Rows of the embedding.
    pub vocabulary: usize,
    /// Inner width of the widest feed-forward block.
    pub widest: usize,
    /// The norms.
    pub norm: NormShape,
    /// What embeddings are multiplied with.
    pub embedding_scale: f32,
    /// What the result of a block is multiplied with.
    pub residual_scale: f32,
    /// What logits are multiplied with.
    pub logit_scale: f32,
    /// The logits' soft cap.
    pub logit_cap: Option<f32>,
    /// How the blocks follow each other.
    pub order: Order,
    /// What is between feed-forward gate and down.
    pub activation: Activation,
    /// Whether gate and up take turns in the experts' tensor.
    pub gate_and_up_in_turn: bool,
    /// Whether heads stand together with their keys and values in a fused matrix.
    pub fused_by_head: bool,
    /// Whether neighbours are rotated together.
    pub neighbours: bool,
    /// The frequencies of rotation: those of all layers, and those of layers with a window, if they differ.
    pub frequencies: Vec<Frequencies>,
    /// Rows of learned positions before the first.
    pub position_offset: Option<usize>,
    /// Numbers in a head that are rotated, and the first of them.
    pub rotated: (usize, usize),
    /// Latent attention.
    pub latent: Option<LatentAttention>,
    /// Experts.
    pub experts: Option<Experts>,
    /// How the groups of experts are ranked, if they are.
    pub groups: Option<Groups>,
    /// Whether the weights of the chosen experts are scaled to sum up to 1.
    pub normalized: bool,
    /// The layers.
    pub layers: Vec<LayerShape>,
    /// The most positions of a sequence.
    pub most_positions: Option<u64>,
}

/// A norm without its gain.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormShape {
    /// What it divides by.
    pub kind: NormKind,
    /// Whether the gain is what is added to 1.
    pub plus_one: bool,
    /// What is added to the mean square.
    pub epsilon: f32,
    /// The same for latent attention.
    pub latent_epsilon: f32,
}

/// How groups of experts are ranked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Groups {
    /// By their best expert.
    Best,
    /// By their best two together.
    BestTwo,
}

/// What differs from layer to layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerShape {
    /// The unit that has its weights.
    pub unit: u32,
    /// Its attention.
    pub attention: Attention,
    /// Which of the frequencies it rotates with; none if it does not.
    pub frequencies: Option<usize>,
}

impl Decoder {
    /// Finds out what a model computes.
    ///
    /// # Errors
    /// Fails when that is not known, or a key of the config does not tell what it should.
    pub fn of(model: &Model) -> Result<Self, Error> {
        let config = Config { model };
        let family = model::FAMILIES.iter().find(|family| family.id == model.family);
        let forward = family.and_then(|family| family.forward.as_ref());
        let forward = forward.ok_or_else(|| config.refuse("its arithmetic is not known".into()))?;
        if let Some((key, value)) = forward.refused.and_then(|key| Some((key, config.get(key)?)))
            && value.as_bool() != Some(false)
        {
            return Err(config.refuse(format!("`{key}` is {value}")));
        }
        let sizes = &model.hyperparameters;
        let rotates = sizes.rope.kind != "none";
        let local = sizes.rope.local_theta.filter(|_| sizes.sliding_window.is_some());
        let mut frequencies = Vec::new();
        if rotates {
            if sizes.rope.dimensions == 0 || !sizes.rope.dimensions.is_multiple_of(2) {
                let numbers = sizes.rope.dimensions;
                return Err(config.refuse(format!("heads of {numbers} rotated elements have no rotary halves")));
            }
            frequencies.push(Frequencies::of(sizes)?);
            frequencies.extend(local.map(|theta| Frequencies::local(theta, sizes.rope.dimensions)));
        }
        let learned = model.tensors.iter().find(|tensor| tensor.role.kind == RoleKind::PositionEmbedding);
        let learned_rows = learned.map(SourceTensor::rows);
        let method_of_groups = config.model.config.get("topk_method").and_then(Value::as_str);
        let experts = sizes.experts.as_ref();
        let sigmoid = experts.is_some_and(|experts| experts.scoring == "sigmoid");
        let groups = match (forward.routing, sigmoid, method_of_groups) {
            (Routing::Usual, true, _) => Some(Groups::BestTwo),
            (Routing::ByMethod, _, Some("group_limited_greedy")) => Some(Groups::Best),
            (Routing::Usual, false, _) | (Routing::ByMethod, _, None | Some("greedy")) => None,
            (Routing::ByMethod, _, Some(method)) => {
                return Err(config.refuse(format!("the choice of experts by `{method}` is not known")));
            }
        };
        let several = experts.is_some_and(|experts| experts.groups.is_some_and(|groups| groups > 1));
        if let (Some(by), Some(experts), true) = (groups, experts, several) {
            config.check_groups(by, experts)?;
        }
        if let Some(scoring) = experts.map(|experts| &*experts.scoring).filter(|s| !["softmax", "sigmoid"].contains(s))
        {
            return Err(config.refuse(format!("scores of experts by `{scoring}` are not known")));
        }
        Ok(Self {
            width: size(sizes.hidden_size),
            vocabulary: size(sizes.vocab_size),
            widest: size(
                sizes.ffn_size.max(experts.map_or(0, |experts| experts.shared_ffn_size.max(experts.ffn_size))),
            ),
            norm: norm(forward.norm, sizes),
            embedding_scale: config.factor(forward.embedding)?,
            residual_scale: config.factor(forward.residual)?,
            logit_scale: config.factor(forward.logits)?,
            logit_cap: forward.logit_cap.map(|key| config.optional(key)).transpose()?.flatten(),
            order: forward.blocks.order(&model.config),
            activation: config.activation(forward.gate)?,
            gate_and_up_in_turn: forward.gate == Gate::Bounded,
            fused_by_head: forward.fused == Fused::Heads,
            neighbours: match forward.pairs {
                Pairs::Halves => false,
                Pairs::Neighbours => true,
                Pairs::NeighboursIf(key) => config.flag(key) != Some(false),
            },
            position_offset: learned_rows.map(|rows| size(rows.saturating_sub(sizes.context_length))),
            rotated: match &sizes.latent_attention {
                Some(latent) => (size(latent.unrotated), size(latent.rotated)),
                None => (0, size(sizes.rope.dimensions)),
            },
            latent: sizes.latent_attention.clone(),
            experts: sizes.experts.clone(),
            groups: groups.filter(|_| several),
            normalized: experts.is_some_and(|experts| experts.normalized) && forward.routing == Routing::Usual,
            layers: layers(&config, forward, &frequencies)?,
            most_positions: learned_rows.map(|_| sizes.context_length),
            frequencies,
        })
    }

    /// The longest of these sequences, if the positions reach that far.
    ///
    /// # Errors
    /// Fails when a sequence has more tokens than the model has positions.
    pub fn longest(&self, lengths: impl Iterator<Item = usize>) -> Result<usize, Error> {
        let mut longest = 0;
        for (sample, length) in lengths.enumerate() {
            if let Some(most) = self.most_positions.filter(|most| length as u64 > *most) {
                return Err(Error::TooLong { sample, length, most });
            }
            longest = longest.max(length);
        }
        Ok(longest)
    }

    /// Bytes of the activations of a batch, about, where samples have at most so many tokens.
    #[must_use]
    pub fn activations(&self, longest: usize) -> u64 {
        let heads = self.layers.first().map_or(0, |layer| {
            let Attention { heads, kv_heads, key, value, .. } = layer.attention;
            // Queries, keys and values, once more while they are put together, and what attention gives.
            2 * (heads * key + kv_heads * (key + value)) + heads * value
        });
        let tokens = longest.max(BATCH_TOKENS) as u64;
        // The stream, what is added to it, and inputs of blocks; then gate, up and what is between.
        let widths = 5 * self.width as u64 + heads as u64 + 3 * self.widest as u64;
        tokens.saturating_mul(widths).saturating_mul(4)
    }
}

fn norm(norm: Norm, sizes: &Hyperparameters) -> NormShape {
    #[expect(clippy::cast_possible_truncation, reason = "arithmetic is in f32")]
    let epsilon = sizes.norm_epsilon as f32;
    let kind = if norm == Norm::Layer { NormKind::Layer } else { NormKind::Rms };
    NormShape { kind, plus_one: norm == Norm::RmsPlusOne, epsilon, latent_epsilon: LATENT_EPSILON }
}

fn layers(config: &Config<'_>, forward: &Forward, frequencies: &[Frequencies]) -> Result<Vec<LayerShape>, Error> {
    let model = config.model;
    let sizes = &model.hyperparameters;
    let score_cap = forward.score_cap.map(|key| config.optional(key)).transpose()?.flatten();
    let units = model.units.iter().filter(|unit| unit.kind == UnitKind::Layer);
    let layer = |(index, unit): (usize, &qhost_plugin_api::documents::UnitInfo)| {
        let windowed = sizes.sliding_window.filter(|_| sizes.windowed_layers.get(index).copied().unwrap_or(true));
        let (key, value) = match &sizes.latent_attention {
            Some(latent) => (latent.unrotated + latent.rotated, latent.value),
            None => (sizes.head_dim, sizes.head_dim),
        };
        let rotates = !frequencies.is_empty() && config.rotates(forward.rotated, index, windowed.is_some());
        Ok(LayerShape {
            unit: unit.id,
            attention: Attention {
                heads: sizes.heads as usize,
                kv_heads: sizes.kv_heads as usize,
                key: size(key),
                value: size(value),
                scale: config.score_scale(forward.scores, key, index)?,
                soft_cap: score_cap,
                window: windowed.map(size),
            },
            frequencies: rotates.then(|| if windowed.is_some() { frequencies.len() - 1 } else { 0 }),
        })
    };
    units.enumerate().map(layer).collect()
}

/// Sizes are far below what a machine can address: the model's reader has bounded them.
fn size(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

/// The config of a model, for what its hyperparameters do not have.
struct Config<'a> {
    model: &'a Model,
}

#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "arithmetic is in f32")]
impl Config<'_> {
    fn refuse(&self, reason: String) -> Error {
        Error::NoForward { family: self.model.family.clone(), reason }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.model.config.get(key).filter(|value| !value.is_null())
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.get(key).and_then(Value::as_bool)
    }

    fn optional(&self, key: &str) -> Result<Option<f32>, Error> {
        let number = |value: &Value| {
            let number = value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
            let bad =
                || Error::BadKey { key: key.to_owned(), value: value.to_string(), reason: "not a positive number" };
            number.map(|number| number as f32).ok_or_else(bad)
        };
        self.get(key).map(number).transpose()
    }

    fn number(&self, key: &str) -> Result<f32, Error> {
        let absent =
            || Error::BadKey { key: key.to_owned(), value: "absent".into(), reason: "and is needed to run it" };
        self.optional(key)?.ok_or_else(absent)
    }

    fn factor(&self, factor: Factor) -> Result<f32, Error> {
        Ok(match factor {
            Factor::One => 1.0,
            Factor::RootOfWidth => (self.model.hyperparameters.hidden_size as f64).sqrt() as f32,
            Factor::Key(key) => self.number(key)?,
            Factor::By(key) => 1.0 / self.number(key)?,
        })
    }

    fn score_scale(&self, scores: Scores, head: u64, layer: usize) -> Result<f32, Error> {
        let by_head = 1.0 / (head as f64).sqrt();
        Ok(match scores {
            Scores::Head => (by_head * self.magnitude_of_scores()?) as f32,
            Scores::RootOf(key) => 1.0 / self.number(key)?.sqrt(),
            Scores::Key(key) => self.number(key)?,
            Scores::Gpt2 => {
                let scaled = if self.flag("scale_attn_weights") == Some(false) { 1.0 } else { by_head };
                let by_layer = self.flag("scale_attn_by_inverse_layer_idx") == Some(true);
                (if by_layer { scaled / (layer + 1) as f64 } else { scaled }) as f32
            }
        })
    }

    /// `YaRN` with latent attention multiplies scores, and not only what is rotated.
    fn magnitude_of_scores(&self) -> Result<f64, Error> {
        let sizes = &self.model.hyperparameters;
        let parameter = |key: &str| sizes.rope.parameters.get(key).and_then(Value::as_f64).filter(|n| *n != 0.0);
        let scaled = sizes.latent_attention.is_some() && sizes.rope.kind != "default";
        let Some(all) = parameter("mscale_all_dim").filter(|_| scaled) else { return Ok(1.0) };
        let factor = parameter("factor").ok_or_else(|| Error::BadKey {
            key: "rope_scaling".into(),
            value: "without `factor`".into(),
            reason: "which `mscale_all_dim` needs",
        })?;
        let scale = if factor <= 1.0 { 1.0 } else { 0.1 * all * factor.ln() + 1.0 };
        Ok(scale * scale)
    }

    /// Groups have the same size, and those that are chosen have enough experts.
    fn check_groups(&self, by: Groups, experts: &Experts) -> Result<(), Error> {
        let (count, groups) = (experts.count, experts.groups.unwrap_or(1).max(1));
        let Some(used) = experts.groups_used.filter(|used| *used <= groups) else {
            return Err(
                self.refuse(format!("`topk_group` does not tell how many of {groups} groups of experts are used"))
            );
        };
        let size = count / groups;
        if !count.is_multiple_of(groups) || (by == Groups::BestTwo && size < 2) {
            return Err(self.refuse(format!("{count} experts cannot be ranked in {groups} groups")));
        }
        // Which of the others are taken is not determined.
        if by == Groups::BestTwo && experts.used > used * size {
            let wanted = experts.used;
            return Err(self.refuse(format!("{wanted} experts are used, and {used} groups have {}", used * size)));
        }
        Ok(())
    }

    fn rotates(&self, rotated: Rotated, layer: usize, windowed: bool) -> bool {
        match rotated {
            Rotated::All => true,
            Rotated::Windowed => windowed || self.get("sliding_window").is_none(),
            Rotated::Listed => {
                if let Some(list) = self.get("no_rope_layers").and_then(Value::as_array) {
                    return list.get(layer).is_none_or(|rotates| rotates.as_u64() != Some(0));
                }
                let every = self.get("no_rope_layer_interval").and_then(Value::as_u64).unwrap_or(4).max(1);
                !(layer as u64 + 1).is_multiple_of(every)
            }
        }
    }

    fn activation(&self, gate: Gate) -> Result<Activation, Error> {
        if gate == Gate::Bounded {
            let (alpha, limit) = (self.number("swiglu_alpha")?, self.number("swiglu_limit")?);
            return Ok(Activation::ClampedSwiglu { alpha, limit });
        }
        Ok(match &*self.model.hyperparameters.activation {
            "silu" | "swish" => Activation::Silu,
            "gelu" if gate == Gate::TanhProduct => Activation::GeluTanh,
            "gelu" | "gelu_python" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_accurate" | "gelu_python_tanh" => {
                Activation::GeluTanh
            }
            "quick_gelu" => Activation::GeluQuick,
            "relu" => Activation::Relu,
            "relu2" => Activation::SquaredRelu,
            other => return Err(self.refuse(format!("the activation `{other}` is not known"))),
        })
    }
}
