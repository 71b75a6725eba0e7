//! Experts that a checkpoint has in one tensor: folders of packed linears have a module for each.
//!
//! The names are those by which loaders split such experts (the package Defuser): `experts.E.gate_proj`, `up_proj`,
//! `down_proj`.

use qhost_plugin_api::{
    documents::{InputGroup, Model, Part, RoleKind, SourceTensor},
    sdk::{Failure, Result},
};

use crate::{Kept, Module, Outputs, Selection, Settings};

/// What ends the names of blocks of microscaled floats.
const BLOCKS: &str = "_blocks";

/// What ends the names of biases.
const BIAS: &str = "_bias";

/// Whether a tensor has all experts of a layer.
#[must_use]
pub fn is_stacked(tensor: &SourceTensor) -> bool {
    matches!(tensor.role.kind, RoleKind::ExpertsGateUp | RoleKind::ExpertsDown) && tensor.role.part == Part::Weight
}

/// Whether a tensor was not stored as floats, so that it is not written under its own name.
pub(crate) fn was_widened(tensor: &SourceTensor) -> bool {
    is_stacked(tensor) && tensor.name.ends_with(BLOCKS)
}

/// How many modules a tensor is split into.
pub(crate) fn modules(model: &Model, tensor: &SourceTensor) -> Result<usize> {
    let each = parts(model, tensor)?.len();
    Ok(tensor.shape.first().and_then(|experts| usize::try_from(*experts).ok()).unwrap_or(0) * each)
}

/// The matrices of a tensor.
pub(crate) fn split(model: &Model, id: u32, tensor: &SourceTensor, group: &InputGroup) -> Result<Vec<Module>> {
    let (experts, all, columns) = match (tensor.shape.as_slice(), tensor.transposed) {
        ([experts, rows, columns], false) | ([experts, columns, rows], true) => (*experts, *rows, *columns),
        (shape, _) => {
            return Err(Failure::unsupported(format!("has the shape {shape:?}, which is no stack of matrices"))
                .about(&*tensor.name));
        }
    };
    let parent = parent(&tensor.name);
    let parts = parts(model, tensor)?;
    let step = parts.len() as u64;
    let mut modules = Vec::new();
    for expert in 0..u32::try_from(experts).unwrap_or(u32::MAX) {
        for (first, name) in (0..).zip(parts) {
            modules.push(Module {
                name: format!("{parent}.{expert}.{name}"),
                tensor: id,
                expert: Some(expert),
                outputs: Outputs { first, step, of: all },
                rows: all / step,
                columns,
                transposed: tensor.transposed,
                unit: tensor.unit,
                group: group.clone(),
                expert_of_statistics: Some(expert),
                settings: Settings::UNDECIDED,
                taken: None,
                first_segment: 0,
            });
        }
    }
    Ok(modules)
}

/// Whether a bias belongs to matrices that are split and quantised.
pub(crate) fn has_bias_of_split(model: &Model, bias: &SourceTensor, selection: &dyn Selection) -> Result<bool> {
    let of = model
        .tensors
        .iter()
        .find(|tensor| is_stacked(tensor) && tensor.unit == bias.unit && tensor.role.kind == bias.role.kind);
    let Some(tensor) = of else { return Ok(false) };
    let Some(first) = parts(model, tensor)?.first() else { return Ok(false) };
    // All of a tensor's experts are quantised, or none.
    Ok(selection.settings(&format!("{}.0.{first}", parent(&tensor.name)))?.is_some())
}

/// The biases of each module.
pub(crate) fn split_bias(model: &Model, id: u32, tensor: &SourceTensor) -> Result<Vec<Kept>> {
    let [experts, all] = <[u64; 2]>::try_from(tensor.shape.as_slice()).map_err(|_| {
        Failure::unsupported(format!("has the shape {:?}, which is no bias of experts", tensor.shape))
            .about(&*tensor.name)
    })?;
    let parent = parent(tensor.name.strip_suffix(BIAS).unwrap_or(&tensor.name));
    let parts = parts(model, tensor)?;
    let step = parts.len() as u64;
    let of_expert = |expert| {
        (0..).zip(parts).map(move |(first, name)| Kept {
            name: format!("{parent}.{expert}.{name}.bias"),
            tensor: id,
            part: Some((expert, Outputs { first, step, of: all })),
            shape: vec![all / step],
            dtype: tensor.dtype.clone(),
            narrowed: false,
            unit: tensor.unit,
            segment: 0,
        })
    };
    Ok((0..experts).flat_map(of_expert).collect())
}

/// The module that holds the experts.
fn parent(tensor: &str) -> &str {
    tensor.rsplit_once('.').map_or(tensor, |(parent, _)| parent)
}

/// The modules that a matrix of an expert is split into, whose outputs lie by turns.
fn parts(model: &Model, tensor: &SourceTensor) -> Result<&'static [&'static str]> {
    match (tensor.role.kind == RoleKind::ExpertsDown, model.family.as_str()) {
        (true, _) => Ok(&["down_proj"]),
        (false, "gpt_oss") => Ok(&["gate_proj", "up_proj"]),
        (false, family) => {
            let message =
                format!("how gate and up lie in the stacked experts of `{family}` is not known to this plugin");
            Err(Failure::unsupported(message).about(&*tensor.name).hint("use a newer version of the plugin"))
        }
    }
}
