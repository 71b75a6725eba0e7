//! What a format is offered in a conversion, for the choices that it makes once for all modules.

use std::collections::BTreeMap;

use qhost_plugin_api::documents::{Conversion, Encoding, Model, Offer, Options, RoleKind, SourceTensor};

use crate::{Holds, Settings, Taken, is_linear, taken::LEAST_GROUP};

/// What is offered for every tensor of a model that is converted.
#[derive(Debug, Clone, Default)]
pub struct Offered {
    /// By tensor.
    offers: Vec<Vec<Offer>>,
    /// By tensor, how the source stores it.
    stored: Vec<Encoding>,
    /// Whether a linear of the layers is not stored as floats.
    has_quantised: bool,
}

impl Offered {
    /// What a conversion of a model offers; nothing if there is none.
    #[must_use]
    pub fn of(conversion: Option<&Conversion>, model: &Model) -> Self {
        let tensors = conversion.map_or(&[][..], |conversion| &conversion.tensors);
        let stored: Vec<_> = tensors.iter().map(|tensor| tensor.stored.clone()).collect();
        let quantised = |(id, ..): (u32, &SourceTensor, u64)| stored.get(id as usize).is_some_and(|s| !s.is_float());
        Self {
            offers: tensors.iter().map(|tensor| tensor.offers.clone()).collect(),
            has_quantised: linears(model).any(quantised),
            stored,
        }
    }

    /// What is offered for a tensor.
    #[must_use]
    pub fn offers(&self, tensor: u32) -> &[Offer] {
        self.offers.get(tensor as usize).map_or(&[], Vec::as_slice)
    }

    /// Whether the source stores a tensor as codes in groups.
    #[must_use]
    pub fn is_grouped(&self, tensor: u32) -> bool {
        self.stored.get(tensor as usize).is_some_and(Encoding::is_grouped)
    }

    /// Whether a tensor that was quantised comes as floats that take more room than they have to: matrices, for what else
    /// there is is small.
    #[must_use]
    pub fn is_widened(&self, id: u32, tensor: &SourceTensor) -> bool {
        let was_quantised = self.stored.get(id as usize).is_some_and(|stored| !stored.is_float());
        was_quantised && tensor.dtype == "F32" && tensor.shape.len() > 1
    }

    /// Whether a linear stays as it is where nothing else is asked for: the source has left it as floats, and others not.
    #[must_use]
    pub fn leaves_out(&self, tensor: u32) -> bool {
        let is_float = self.stored.get(tensor as usize).is_some_and(Encoding::is_float);
        is_float && self.has_quantised
    }

    /// The settings with which linears of the layers could be taken over as they come, each with the weights that have
    /// it, those of the most weights first. If there are none, what comes nearest to how the source stores them.
    #[must_use]
    pub fn settings(&self, model: &Model, holds: &Holds) -> Vec<(Settings, u64)> {
        let (mut taken, mut near) = (Votes::default(), Votes::default());
        for (id, tensor, columns) in linears(model) {
            if let Some((settings, _)) = Taken::best(self.offers(id), columns, None, holds) {
                taken.add(settings, tensor.elements());
            } else if let Some(settings) =
                self.stored.get(id as usize).and_then(|stored| near_to(stored, columns, holds))
            {
                near.add(settings, tensor.elements());
            }
        }
        let taken = taken.sorted();
        if taken.is_empty() { near.sorted() } else { taken }
    }
}

/// The linears of the layers that are tensors of their own, with their inputs.
fn linears(model: &Model) -> impl Iterator<Item = (u32, &SourceTensor, u64)> {
    (0..).zip(&model.tensors).filter_map(|(id, tensor)| {
        let kind = &tensor.role.kind;
        let is_module = is_linear(kind) && !matches!(kind, RoleKind::Router | RoleKind::SharedRouter);
        match (tensor.shape.as_slice(), tensor.transposed) {
            (&[_, columns], false) if is_module => Some((id, tensor, columns)),
            _ => None,
        }
    })
}

/// Settings that come near to codes that cannot be taken over.
fn near_to(stored: &Encoding, columns: u64, holds: &Holds) -> Option<Settings> {
    let (bits, size) = (stored.bits.filter(|_| stored.is_grouped())?, stored.group_size?);
    let widest = holds.widths.last()?;
    Some(Settings {
        bits: *holds.widths.iter().find(|width| **width >= bits).unwrap_or(widest),
        group_size: (size < columns).then_some(size.max(LEAST_GROUP)),
        symmetric: stored.zero().is_some(),
        act_order: false,
    })
}

/// Weights by settings.
#[derive(Debug, Default)]
struct Votes(BTreeMap<(u32, Option<u64>, bool, bool), u64>);

impl Votes {
    fn add(&mut self, settings: Settings, weights: u64) {
        let Settings { bits, group_size, symmetric, act_order } = settings;
        *self.0.entry((bits, group_size, symmetric, act_order)).or_default() += weights;
    }

    fn sorted(self) -> Vec<(Settings, u64)> {
        let settings = |(bits, group_size, symmetric, act_order)| Settings { bits, group_size, symmetric, act_order };
        let mut sorted: Vec<_> = self.0.into_iter().map(|(key, weights)| (settings(key), weights)).collect();
        sorted.sort_by_key(|(_, weights)| std::cmp::Reverse(*weights));
        sorted
    }
}

/// Whether options leave it to what is offered how modules are quantised.
#[must_use]
pub fn leaves_open(options: &Options) -> bool {
    let Options { level, bits, group_size, symmetric, act_order, max_size, .. } = options;
    level.is_none()
        && bits.is_none()
        && group_size.is_none()
        && symmetric.is_none()
        && act_order.is_none()
        && max_size.is_none()
}
