//! Roles of tensors that a plugin has read and that go by a checkpoint's own names.

use std::collections::HashMap;

use qhost_plugin_api::documents::{NamedParameter, Origin, Reading, Role};

use crate::model;

/// Gives roles and layers to the tensors that hold parameters, by the family tables.
///
/// # Errors
/// Fails when the family is not known, or the parameters are not its own.
pub(super) fn fill(reading: &mut Reading, origin: &Origin, warnings: &mut Vec<String>) -> Result<(), model::Error> {
    let (model, told) = model::of_parameters("", &origin.config, &origin.parameters)?;
    warnings.extend(told);
    let layers: HashMap<u32, Option<u32>> = model.units.iter().map(|unit| (unit.id, unit.layer)).collect();
    let place = |parameter: &NamedParameter| parameter.stored_in.as_ref().unwrap_or(&parameter.name).clone();
    let places: HashMap<&str, String> =
        origin.parameters.iter().map(|parameter| (parameter.name.as_str(), place(parameter))).collect();
    let placed = model.tensors.iter().filter_map(|tensor| {
        let layer = layers.get(&tensor.unit).copied().flatten();
        Some((places.get(tensor.name.as_str())?.as_str(), (tensor.role.clone(), layer)))
    });
    let roles: HashMap<&str, (Role, Option<u32>)> = placed.collect();
    for tensor in &mut reading.tensors {
        if let Some((role, layer)) = roles.get(tensor.name.as_str()) {
            (tensor.role, tensor.layer) = (Some(role.clone()), *layer);
        }
    }
    Ok(())
}
