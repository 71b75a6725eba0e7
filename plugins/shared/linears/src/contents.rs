//! Which matrices of a model are quantised, under which names, and what of it is kept as it is.
//!
//! Quantised are the linears of decoder layers; norms, embeddings and what chooses or weighs experts are not. It knows
//! roles, and of names only that a module's is that of its tensor without the end.

use qhost_plugin_api::{
    documents::{InputGroup, Model, Part, RoleKind, SourceTensor, UnitKind},
    sdk::{Failure, Result},
};

use crate::{Kept, Module, Outputs, Selection, Settings, Taken, misfits::Misfits, stacked, uneven::uneven};

/// What the output holds, in its order.
#[derive(Debug, Clone)]
pub enum Item {
    /// Something quantised.
    Module(Module),
    /// Something else.
    Kept(Kept),
}

/// What becomes of a model.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    /// Modules and kept tensors, in the order of the model.
    pub items: Vec<Item>,
    /// Linears that are not quantised, by the names of their modules.
    pub skipped: Vec<String>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl Contents {
    /// Decides about every tensor of the model.
    ///
    /// # Errors
    /// Fails with kind `UNSUPPORTED` for modules that groups do not divide or codes do not fill, for experts of which
    /// only some would be quantised, and where nothing would be.
    pub fn of(model: &Model, selection: &dyn Selection) -> Result<Self> {
        let hints = selection.hints();
        let mut contents = Self::default();
        let mut refused = Misfits::default();
        for (id, tensor) in (0..).zip(&model.tensors) {
            let matrices = if is_quantised(model, tensor, selection)? && !leaves_out(selection, id, tensor) {
                matrices(model, id, tensor)?
            } else {
                Vec::new()
            };
            let mut quantised = Vec::new();
            for mut module in matrices {
                match selection.settings(&module.name)? {
                    Some(settings) => {
                        module.settings = settings;
                        if let Some((own, taken)) = taken(&module, settings, selection) {
                            (module.settings, module.taken) = (own, Some(taken));
                        }
                        refused.look_at(&module, selection.multiples(module.settings));
                        quantised.push(module);
                    }
                    None => contents.skipped.push(module.name),
                }
            }
            if quantised.is_empty() {
                let linear = tensor.role.part == Part::Weight && is_linear(&tensor.role.kind);
                if linear && !contents.skipped.contains(&module_name(&tensor.name)) {
                    contents.skipped.push(module_name(&tensor.name));
                }
                contents.items.extend(kept(model, id, tensor, selection)?.into_iter().map(Item::Kept));
            } else {
                if stacked::is_stacked(tensor) && quantised.len() < stacked::modules(model, tensor)? {
                    return Err(Failure::unsupported("some of its experts would be left as they are")
                        .about(&*tensor.name)
                        .hint(hints.some_experts));
                }
                contents.items.extend(quantised.into_iter().map(Item::Module));
            }
        }
        refused.refuse(&hints)?;
        if !contents.items.iter().any(|item| matches!(item, Item::Module(_))) {
            return Err(Failure::unsupported("nothing of this model would be quantised").hint(hints.nothing));
        }
        contents.warnings.extend(uneven(&contents.items));
        Ok(contents)
    }

    /// The tensors that are kept.
    pub fn kept(&self) -> impl Iterator<Item = &Kept> {
        self.items.iter().filter_map(|item| match item {
            Item::Kept(kept) => Some(kept),
            Item::Module(_) => None,
        })
    }

    /// Whether anything is rounded, and not taken over.
    #[must_use]
    pub fn rounds(&self) -> bool {
        self.modules().any(|module| module.taken.is_none())
    }

    /// The modules.
    pub fn modules(&self) -> impl Iterator<Item = &Module> {
        self.items.iter().filter_map(|item| match item {
            Item::Module(module) => Some(module),
            Item::Kept(_) => None,
        })
    }
}

/// Whether a tensor is a matrix that is quantised unless a rule says otherwise.
fn is_quantised(model: &Model, tensor: &SourceTensor, selection: &dyn Selection) -> Result<bool> {
    if tensor.role.part != Part::Weight {
        return Ok(false);
    }
    let kind = &tensor.role.kind;
    if *kind == RoleKind::Output {
        return Ok(selection.quantises_head());
    }
    if let RoleKind::Other(name) = kind {
        return Err(Failure::unsupported(format!("has the role `{name}`, which this plugin does not know"))
            .about(&*tensor.name)
            .hint("use a newer version of the plugin"));
    }
    let in_layer = model.units.iter().any(|unit| unit.id == tensor.unit && unit.kind == UnitKind::Layer);
    Ok(in_layer && is_linear(kind) && !matches!(kind, RoleKind::Router | RoleKind::SharedRouter))
}

/// Whether a role is that of a linear in a layer.
#[must_use]
pub fn is_linear(kind: &RoleKind) -> bool {
    InputGroup::of(kind).is_some_and(|group| group != InputGroup::OutputIn)
}

/// Whether a linear of the layers is left as it is.
fn leaves_out(selection: &dyn Selection, id: u32, tensor: &SourceTensor) -> bool {
    tensor.role.kind != RoleKind::Output && selection.leaves_out(id)
}

/// The matrices in a tensor.
fn matrices(model: &Model, id: u32, tensor: &SourceTensor) -> Result<Vec<Module>> {
    let Some(group) = InputGroup::of(&tensor.role.kind) else { return Ok(Vec::new()) };
    if stacked::is_stacked(tensor) {
        return stacked::split(model, id, tensor, &group);
    }
    let [rows, columns] = match (tensor.shape.as_slice(), tensor.transposed) {
        ([rows, columns], false) | ([columns, rows], true) => [*rows, *columns],
        (shape, _) => {
            return Err(
                Failure::unsupported(format!("has the shape {shape:?}, which is no matrix")).about(&*tensor.name)
            );
        }
    };
    Ok(vec![Module {
        name: module_name(&tensor.name),
        tensor: id,
        expert: None,
        outputs: Outputs { first: 0, step: 1, of: rows },
        rows,
        columns,
        transposed: tensor.transposed,
        unit: tensor.unit,
        group,
        expert_of_statistics: tensor.role.expert,
        settings: Settings::UNDECIDED,
        taken: None,
        first_segment: 0,
    }])
}

/// The name of a tensor's module.
#[must_use]
pub fn module_name(tensor: &str) -> String {
    tensor.strip_suffix(".weight").unwrap_or(tensor).to_owned()
}

/// A tensor that is kept: whole, or as the biases of each expert where their matrices are split.
fn kept(model: &Model, id: u32, tensor: &SourceTensor, selection: &dyn Selection) -> Result<Vec<Kept>> {
    if tensor.role.part == Part::Bias && stacked::has_bias_of_split(model, tensor, selection)? {
        return stacked::split_bias(model, id, tensor);
    }
    if stacked::was_widened(tensor) {
        return Err(Failure::unsupported("cannot be kept: its experts are stored in another format")
            .about(&*tensor.name)
            .hint(selection.hints().stored_otherwise));
    }
    let mut kept = Kept::whole(id, tensor);
    if selection.narrows(id, tensor) {
        (kept.dtype, kept.narrowed) = ("F16".into(), true);
    }
    Ok(vec![kept])
}

/// How a module's codes are taken over, if they are, and fill whole words.
fn taken(module: &Module, settings: Settings, selection: &dyn Selection) -> Option<(Settings, Taken)> {
    let (own, taken) = selection.taken(module, settings).filter(|_| module.is_whole())?;
    selection.multiples(own).fit(module.rows, module.columns).then_some((own, taken))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A module with so many outputs and inputs.
    pub(crate) fn module(rows: u64, columns: u64, settings: Settings) -> Module {
        Module {
            name: "module".into(),
            tensor: 0,
            expert: None,
            outputs: Outputs { first: 0, step: 1, of: rows },
            rows,
            columns,
            transposed: false,
            unit: 0,
            group: InputGroup::FfnIn,
            expert_of_statistics: None,
            settings,
            taken: None,
            first_segment: 0,
        }
    }
}
