//! What a format is offered in a conversion, for the choices that it makes once for all modules.

use std::collections::BTreeMap;

use qhost_plugin_api::documents::{Conversion, Encoding, Model, Offer, Options, RoleKind, SourceTensor};

use crate::{Holds, Settings, Taken, is_linear};

/// What is offered for every tensor of a model that is converted.
#[derive(Debug, Clone, Default)]
pub struct Offered {
    /// By tensor.
    offers: Vec<Vec<Offer>>,
    /// By tensor, how the source stores it.
    stored: Vec<Encoding>,
}

impl Offered {
    /// What a conversion offers; nothing if there is none.
    #[must_use]
    pub fn of(conversion: Option<&Conversion>) -> Self {
        let tensors = conversion.map_or(&[][..], |conversion| &conversion.tensors);
        Self {
            offers: tensors.iter().map(|tensor| tensor.offers.clone()).collect(),
            stored: tensors.iter().map(|tensor| tensor.stored.clone()).collect(),
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

    /// The settings with which linears of the layers could be taken over as they come, each with the weights that have
    /// it, those of the most weights first.
    #[must_use]
    pub fn settings(&self, model: &Model, holds: &Holds) -> Vec<(Settings, u64)> {
        let mut votes: BTreeMap<(u32, Option<u64>, bool, bool), u64> = BTreeMap::new();
        for (id, tensor) in (0..).zip(&model.tensors) {
            let kind = &tensor.role.kind;
            let is_module = is_linear(kind) && !matches!(kind, RoleKind::Router | RoleKind::SharedRouter);
            let (true, &[_, columns], false) = (is_module, tensor.shape.as_slice(), tensor.transposed) else {
                continue;
            };
            let Some((settings, _)) = Taken::best(self.offers(id), columns, None, holds) else { continue };
            let key = (settings.bits, settings.group_size, settings.symmetric, settings.act_order);
            *votes.entry(key).or_default() += tensor.elements();
        }
        let mut votes: Vec<_> = votes
            .into_iter()
            .map(|((bits, group_size, symmetric, act_order), weights)| {
                (Settings { bits, group_size, symmetric, act_order }, weights)
            })
            .collect();
        votes.sort_by_key(|(_, weights)| std::cmp::Reverse(*weights));
        votes
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
