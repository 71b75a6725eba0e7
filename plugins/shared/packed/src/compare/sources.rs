//! The tensors of the source, found for those of a folder.

use std::collections::BTreeMap;

use qhost_plugin_api::documents::{Model, Role, SourceTensor, StoredTensor};

use crate::Endings;

/// The tensors of the source, by role and by name.
pub(super) struct Sources<'a> {
    by_role: BTreeMap<(&'a Role, Option<u32>), (u32, &'a SourceTensor)>,
    by_name: BTreeMap<&'a str, (u32, &'a SourceTensor)>,
    endings: Endings,
}

impl<'a> Sources<'a> {
    pub(super) fn of(model: &'a Model, endings: Endings) -> Self {
        let layers: BTreeMap<u32, Option<u32>> = model.units.iter().map(|unit| (unit.id, unit.layer)).collect();
        let layer = |tensor: &SourceTensor| layers.get(&tensor.unit).copied().flatten();
        let tensors = || (0..).zip(&model.tensors);
        Self {
            by_role: tensors().map(|(id, tensor)| ((&tensor.role, layer(tensor)), (id, tensor))).collect(),
            by_name: tensors().map(|(id, tensor)| (tensor.name.as_str(), (id, tensor))).collect(),
            endings,
        }
    }

    /// The tensor that a stored one stands for: by its role, where the host has told it, for one checkpoint may have
    /// other names than the next.
    pub(super) fn find(&self, stored: &StoredTensor) -> Option<(u32, &'a SourceTensor)> {
        let by_role = stored.role.as_ref().and_then(|role| self.by_role.get(&(role, stored.layer)));
        let by_name = || match stored.name.strip_suffix(self.endings.codes) {
            Some(name) => self.by_name.get(&*format!("{name}.weight")),
            None => self.by_name.get(&*stored.name),
        };
        by_role.or_else(by_name).copied()
    }
}
