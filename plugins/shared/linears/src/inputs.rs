//! Modules in the order of the data flow, and those that can share what is known of their inputs.

use std::collections::BTreeMap;

use qhost_plugin_api::{
    documents::InputGroup,
    sdk::{Failure, Result},
};
use qhost_rounding::{Conditioning, DampedBy, Grouping, Order};

use crate::{Module, in_memory};

/// Modules that read the same, by the expert whose inputs they are.
pub type OfExperts<'a> = BTreeMap<Option<u32>, Vec<&'a Module>>;

/// Modules by what they read, in the order of the data flow.
#[must_use]
pub fn by_inputs<'a>(modules: &[&'a Module]) -> BTreeMap<InputGroup, OfExperts<'a>> {
    let mut groups: BTreeMap<InputGroup, OfExperts<'a>> = BTreeMap::new();
    for module in modules {
        let of_group = groups.entry(module.group.clone()).or_default();
        of_group.entry(module.expert_of_statistics).or_default().push(module);
    }
    groups
}

/// Modules that can share a conditioned Hessian.
///
/// # Errors
/// Fails where groups do not divide the inputs, which [`Contents`](crate::Contents) refuses.
pub fn by_conditioning<'a>(modules: &[&'a Module], damp: f64) -> Result<Vec<(Conditioning, Vec<&'a Module>)>> {
    let mut shared: Vec<(Conditioning, Vec<&Module>)> = Vec::new();
    for module in modules {
        let size = module.settings.group_size.map_or(Ok(0), in_memory)?;
        let grouping = Grouping::new(in_memory(module.columns)?, size);
        let uneven = || Failure::internal("groups that do not divide the inputs").about(&*module.name);
        let order = if module.settings.act_order { Order::Activation } else { Order::GroupAware };
        let grouping = grouping.ok_or_else(uneven)?;
        let how = Conditioning { damping: damp, damped_by: DampedBy::Mean, order, grouping };
        match shared.iter_mut().find(|(other, _)| *other == how) {
            Some((_, modules)) => modules.push(module),
            None => shared.push((how, vec![module])),
        }
    }
    Ok(shared)
}
