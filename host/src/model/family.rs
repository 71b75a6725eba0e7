//! The form of a family table: names, roles and shapes as data.
//!
//! A new family is one file of such data under `families/`.

use qhost_plugin_api::documents::{Hyperparameters, Part, Role, RoleKind};

/// A model family: how its checkpoints name their tensors.
#[derive(Debug)]
pub struct Family {
    /// The name in documents and messages.
    pub id: &'static str,
    /// The values of `model_type` in `config.json`.
    pub model_types: &'static [&'static str],
    /// The class names in `architectures` whose weights the table describes.
    pub architectures: &'static [&'static str],
    /// Whether the head reuses the embedding when `tie_word_embeddings` is absent.
    pub tied_by_default: bool,
    /// Tensors before the layers.
    pub prologue: &'static [Entry],
    /// What comes before the names of a layer's tensors; `{}` is the layer's index.
    pub layer_prefix: &'static str,
    /// Tensors of every layer, named without the prefix.
    pub layer: &'static [Entry],
    /// Tensors after the layers.
    pub epilogue: &'static [Entry],
    /// Endings of names that hold no weights and are left out.
    pub buffers: &'static [&'static str],
}

/// One tensor of a family.
#[derive(Debug)]
pub struct Entry {
    /// The name in the checkpoint.
    pub name: &'static str,
    /// What it is for.
    pub kind: RoleKind,
    /// Which parameter.
    pub part: Part,
    /// Its shape.
    pub shape: &'static [Dim],
    /// Whether it has to be there.
    pub presence: Presence,
}

impl Entry {
    /// A weight that every checkpoint of the family has.
    #[must_use]
    pub const fn weight(name: &'static str, kind: RoleKind, shape: &'static [Dim]) -> Self {
        Self { name, kind, part: Part::Weight, shape, presence: Presence::Required }
    }

    /// A bias that every checkpoint of the family has.
    #[must_use]
    pub const fn bias(name: &'static str, kind: RoleKind, shape: &'static [Dim]) -> Self {
        Self { name, kind, part: Part::Bias, shape, presence: Presence::Required }
    }

    /// The same, if only some checkpoints have it.
    #[must_use]
    pub const fn or_absent(mut self) -> Self {
        self.presence = Presence::Optional;
        self
    }

    /// The head: there unless it reuses the embedding.
    #[must_use]
    pub const fn head(name: &'static str) -> Self {
        let (kind, shape): (_, &[Dim]) = (RoleKind::Output, &[Dim::Vocab, Dim::Hidden]);
        Self { name, kind, part: Part::Weight, shape, presence: Presence::UnlessTied }
    }

    /// The entry's role.
    #[must_use]
    pub fn role(&self) -> Role {
        Role::new(self.kind.clone(), self.part)
    }
}

/// Whether a tensor has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Always.
    Required,
    /// In some checkpoints.
    Optional,
    /// Unless embeddings are tied; a copy in a tied checkpoint is left out, as transformers does.
    UnlessTied,
}

/// A dimension that `config.json` determines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dim {
    /// Rows of the embedding.
    Vocab,
    /// Width of the residual stream.
    Hidden,
    /// Inner width of the feed-forward block.
    Ffn,
    /// All query heads together.
    Q,
    /// All key (or value) heads together.
    Kv,
    /// One head.
    Head,
}

impl Dim {
    /// Its size in a model.
    #[must_use]
    pub fn size(self, model: &Hyperparameters) -> u64 {
        match self {
            Self::Vocab => model.vocab_size,
            Self::Hidden => model.hidden_size,
            Self::Ffn => model.ffn_size,
            Self::Q => u64::from(model.heads) * model.head_dim,
            Self::Kv => u64::from(model.kv_heads) * model.head_dim,
            Self::Head => model.head_dim,
        }
    }
}
