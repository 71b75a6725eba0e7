//! The form of a family table: names, roles and shapes as data.
//!
//! A new family is one file of such data under `families/`.

use qhost_plugin_api::documents::{Experts, Hyperparameters, LatentAttention, Part, Role, RoleKind};

use super::Forward;

/// A model family: how its checkpoints name their tensors, and what its config leaves unsaid.
#[derive(Debug)]
pub struct Family {
    /// The name in documents and messages.
    pub id: &'static str,
    /// The values of `model_type` in `config.json`.
    pub model_types: &'static [&'static str],
    /// The class names in `architectures` whose weights the table describes.
    pub architectures: &'static [&'static str],
    /// What transformers' config class assumes for keys that are left out, as a JSON object.
    pub defaults: &'static str,
    /// How positions enter.
    pub positions: Positions,
    /// How many key/value heads there are.
    pub heads: Heads,
    /// Which layers use the attention window, where `layer_types` does not tell.
    pub windows: Windows,
    /// How a router's logits become scores, in a family with experts.
    pub scoring: Option<&'static str>,
    /// What it computes; none where that is not known, and nothing that needs activations can be done.
    pub forward: Option<Forward>,
    /// Tensors before the layers.
    pub prologue: &'static [Entry],
    /// What comes before the names of a layer's tensors; `{}` is the layer's index.
    pub layer_prefix: &'static str,
    /// Tensors of every layer, named without the prefix.
    pub layer: &'static [Entry],
    /// Tensors after the layers.
    pub epilogue: &'static [Entry],
    /// What a checkpoint of the bare base model leaves out at the start of all names.
    pub root: Option<&'static str>,
    /// Endings of names that hold no weights and are left out.
    pub buffers: &'static [&'static str],
}

/// How positions enter a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// Queries and keys are rotated.
    Rotary,
    /// An embedding of positions is added to that of tokens.
    Learned,
}

/// How many key/value heads there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heads {
    /// As `num_key_value_heads` tells.
    Grouped,
    /// As many as query heads, whatever the config has.
    Equal,
    /// Latent attention, whose head sizes have keys of their own.
    Latent,
}

/// Which layers use the attention window; where it is not all or none, `layer_types` has the first word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Windows {
    /// None, whatever the config has: transformers does not look.
    None,
    /// All of them.
    All,
    /// All but the last of every so many: `sliding_window_pattern`, or this number where it is absent.
    AllButEvery(u64),
    /// Those from `max_window_layers` on.
    FromLayer,
    /// Every other one, beginning with the first, before `max_window_layers`.
    EveryOtherBefore,
    /// Those that rotate nothing: by `no_rope_layers`, or the last of every `no_rope_layer_interval`.
    Unrotated,
}

/// One tensor of a family.
#[derive(Debug)]
pub struct Entry {
    /// The name in the checkpoint; `{}` is the expert's index where each expert has one.
    pub name: &'static str,
    /// What it is for.
    pub kind: RoleKind,
    /// Which parameter.
    pub part: Part,
    /// Its shape.
    pub shape: &'static [Dim],
    /// Whether it has to be there.
    pub presence: Presence,
    /// The layers that have it.
    pub layers: Layers,
    /// Whether each expert has one.
    pub per_expert: bool,
    /// Whether a linear is stored as `[in, out]`.
    pub transposed: bool,
}

impl Entry {
    const fn new(name: &'static str, kind: RoleKind, part: Part, shape: &'static [Dim]) -> Self {
        Self {
            name,
            kind,
            part,
            shape,
            presence: Presence::Required,
            layers: Layers::All,
            per_expert: false,
            transposed: false,
        }
    }

    /// A weight that every checkpoint of the family has.
    #[must_use]
    pub const fn weight(name: &'static str, kind: RoleKind, shape: &'static [Dim]) -> Self {
        Self::new(name, kind, Part::Weight, shape)
    }

    /// A bias that every checkpoint of the family has.
    #[must_use]
    pub const fn bias(name: &'static str, kind: RoleKind, shape: &'static [Dim]) -> Self {
        Self::new(name, kind, Part::Bias, shape)
    }

    /// The head: there unless it reuses the embedding.
    #[must_use]
    pub const fn head(name: &'static str) -> Self {
        let mut head = Self::weight(name, RoleKind::Output, &[Dim::Vocab, Dim::Hidden]);
        head.presence = Presence::UnlessTied;
        head
    }

    /// The same, if only some checkpoints have it.
    #[must_use]
    pub const fn or_absent(mut self) -> Self {
        self.presence = Presence::Optional;
        self
    }

    /// The same, if the model's sizes tell whether it is there.
    #[must_use]
    pub const fn when(mut self, needed: fn(&Hyperparameters) -> bool) -> Self {
        self.presence = Presence::When(needed);
        self
    }

    /// The same in layers without experts only.
    #[must_use]
    pub const fn where_dense(mut self) -> Self {
        self.layers = Layers::Dense;
        self
    }

    /// The same in layers with experts only.
    #[must_use]
    pub const fn where_sparse(mut self) -> Self {
        self.layers = Layers::Sparse;
        self
    }

    /// The same for each expert of a layer that has some.
    #[must_use]
    pub const fn of_each_expert(mut self) -> Self {
        self.per_expert = true;
        self.where_sparse()
    }

    /// The same, stored as `[in, out]`.
    #[must_use]
    pub const fn transposed(mut self) -> Self {
        self.transposed = true;
        self
    }

    /// The entry's role.
    #[must_use]
    pub fn role(&self, expert: Option<u32>) -> Role {
        let mut role = Role::new(self.kind.clone(), self.part);
        role.expert = expert;
        role
    }

    /// Its name and its expert, as often as it comes in one layer.
    pub fn instances(&self, model: &Hyperparameters) -> impl Iterator<Item = (String, Option<u32>)> {
        let experts = model.experts.as_ref().map_or(0, |experts| experts.count);
        let one = (!self.per_expert).then(|| (self.name.to_owned(), None));
        let range = if self.per_expert { 0..experts } else { 0..0 };
        one.into_iter().chain(range.map(|expert| (self.name.replace("{}", &expert.to_string()), Some(expert))))
    }

    /// Whether a layer has it; `None` is what is outside of the layers.
    #[must_use]
    pub fn is_in(&self, layer: Option<u32>, model: &Hyperparameters) -> bool {
        let sparse = layer.is_some_and(|layer| {
            let experts = model.experts.as_ref();
            experts.is_some_and(|experts| experts.layers.get(layer as usize).copied().unwrap_or(false))
        });
        match self.layers {
            Layers::All => true,
            Layers::Dense => !sparse,
            Layers::Sparse => sparse,
        }
    }
}

/// Whether a tensor has to be there.
#[derive(Debug, Clone, Copy)]
pub enum Presence {
    /// Always.
    Required,
    /// In some checkpoints.
    Optional,
    /// If the model's sizes say so.
    When(fn(&Hyperparameters) -> bool),
    /// Unless embeddings are tied; a copy in a tied checkpoint is left out, as transformers does.
    UnlessTied,
}

/// The layers that have a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layers {
    /// All.
    All,
    /// Those without experts.
    Dense,
    /// Those with experts.
    Sparse,
}

/// A dimension that `config.json` determines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dim {
    /// One.
    One,
    /// Rows of the embedding.
    Vocab,
    /// Width of the residual stream.
    Hidden,
    /// Inner width of the feed-forward block.
    Ffn,
    /// Gate and up together.
    GateUp,
    /// All query heads together.
    Q,
    /// All key (or value) heads together.
    Kv,
    /// Queries, keys and values together.
    Qkv,
    /// One head.
    Head,
    /// The number of query heads.
    Heads,
    /// The number of key/value heads.
    KvHeads,
    /// Positions of a learned embedding.
    Positions,
    /// Positions of a learned embedding, and the two that come before the first.
    PositionsAndTwo,
    /// The number of experts.
    Experts,
    /// Inner width of an expert.
    ExpertFfn,
    /// Gate and up of an expert together.
    ExpertGateUp,
    /// Inner width of all shared experts together.
    SharedFfn,
    /// Latent queries.
    LatentQ,
    /// All query heads of latent attention together.
    LatentQHeads,
    /// Latent keys and values.
    LatentKv,
    /// Latent keys and values, and the rotated key.
    LatentKvRotated,
    /// Keys without their rotated part, and values, of all heads together.
    LatentKvHeads,
    /// Values of all heads of latent attention together.
    LatentValues,
}

impl Dim {
    /// Its size in a model.
    #[must_use]
    pub fn size(self, model: &Hyperparameters) -> u64 {
        let heads = u64::from(model.heads);
        let (q, kv) = (heads * model.head_dim, u64::from(model.kv_heads) * model.head_dim);
        let experts = |size: fn(&Experts) -> u64| model.experts.as_ref().map_or(0, size);
        let latent = |size: fn(&LatentAttention) -> u64| model.latent_attention.as_ref().map_or(0, size);
        match self {
            Self::One => 1,
            Self::Vocab => model.vocab_size,
            Self::Hidden => model.hidden_size,
            Self::Ffn => model.ffn_size,
            Self::GateUp => 2 * model.ffn_size,
            Self::Q => q,
            Self::Kv => kv,
            Self::Qkv => q + 2 * kv,
            Self::Head => model.head_dim,
            Self::Heads => heads,
            Self::KvHeads => model.kv_heads.into(),
            Self::Positions => model.context_length,
            Self::PositionsAndTwo => model.context_length + 2,
            Self::Experts => experts(|experts| experts.count.into()),
            Self::ExpertFfn => experts(|experts| experts.ffn_size),
            Self::ExpertGateUp => experts(|experts| 2 * experts.ffn_size),
            Self::SharedFfn => experts(|experts| experts.shared_ffn_size),
            Self::LatentQ => latent(|latent| latent.q_rank.unwrap_or(0)),
            Self::LatentQHeads => heads * latent(|latent| latent.unrotated + latent.rotated),
            Self::LatentKv => latent(|latent| latent.kv_rank),
            Self::LatentKvRotated => latent(|latent| latent.kv_rank + latent.rotated),
            Self::LatentKvHeads => heads * latent(|latent| latent.unrotated + latent.value),
            Self::LatentValues => heads * latent(|latent| latent.value),
        }
    }
}
