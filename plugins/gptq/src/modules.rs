//! Which matrices of a model are quantised, under which names, and what of it is kept as it is.
//!
//! Quantised are the linears of decoder layers; norms, embeddings and what chooses or weighs experts are not. It knows
//! roles, and of names only that a module's is that of its tensor without the end.

use std::collections::BTreeSet;

use qhost_folder::Object;
use qhost_plugin_api::{
    documents::{InputGroup, Model, Part, RoleKind, SourceTensor, UnitKind},
    sdk::{Failure, Result},
};

use crate::{
    options::{Choices, Settings},
    pack::period,
    stacked,
};

/// A matrix that is quantised.
#[derive(Debug, Clone)]
pub(crate) struct Module {
    /// The name that readers know: that of the tensor, without `.weight`.
    pub(crate) name: String,
    /// The source tensor.
    pub(crate) tensor: u32,
    /// Which matrix of it, where experts are stacked.
    pub(crate) expert: Option<u32>,
    /// Which outputs of that matrix: the first, and the distance to the next.
    pub(crate) outputs: Outputs,
    /// Outputs (N).
    pub(crate) rows: u64,
    /// Inputs (K).
    pub(crate) columns: u64,
    /// Whether the source has inputs as rows.
    pub(crate) transposed: bool,
    /// The unit that it belongs to.
    pub(crate) unit: u32,
    /// The inputs that it shares with others.
    pub(crate) group: InputGroup,
    /// Whose inputs they are, where each expert has its own.
    pub(crate) expert_of_statistics: Option<u32>,
    /// How it is quantised.
    pub(crate) settings: Settings,
    /// Where its tensors go.
    pub(crate) segments: Segments,
}

/// Some outputs of a matrix in the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outputs {
    /// The first.
    pub(crate) first: u64,
    /// From one to the next.
    pub(crate) step: u64,
    /// How many the matrix has.
    pub(crate) of: u64,
}

/// The segments of a module.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Segments {
    /// The codes.
    pub(crate) qweight: u32,
    /// The zero-points.
    pub(crate) qzeros: u32,
    /// The scales.
    pub(crate) scales: u32,
    /// The group of every input.
    pub(crate) g_idx: u32,
}

impl Module {
    /// Inputs that share a scale.
    pub(crate) fn group_size(&self) -> u64 {
        self.settings.group_size.unwrap_or(self.columns)
    }

    /// Groups of a row.
    pub(crate) fn groups(&self) -> u64 {
        self.columns.div_ceil(self.group_size().max(1))
    }

    /// The number of weights.
    pub(crate) fn weights(&self) -> u64 {
        self.rows * self.columns
    }
}

/// A tensor that is written as it is, or a part of one.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    /// Its name in the output.
    pub(crate) name: String,
    /// The source tensor.
    pub(crate) tensor: u32,
    /// The part: a row of it, and which elements of that row. All of it if absent.
    pub(crate) part: Option<(u64, Outputs)>,
    /// The shape in the output.
    pub(crate) shape: Vec<u64>,
    /// How an element is stored.
    pub(crate) dtype: String,
    /// The unit that it belongs to.
    pub(crate) unit: u32,
    /// Where it goes.
    pub(crate) segment: u32,
}

impl Kept {
    /// The number of elements.
    pub(crate) fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// What the output holds, in its order.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    /// Something quantised.
    Module(Module),
    /// Something else.
    Kept(Kept),
}

/// What becomes of a model.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// Modules and kept tensors, in the order of the model.
    pub(crate) items: Vec<Item>,
    /// Linears that are not quantised, by the names of their modules.
    pub(crate) skipped: Vec<String>,
    /// What the user should know.
    pub(crate) warnings: Vec<String>,
    /// Rules for modules whose bits were chosen by what is lost.
    pub(crate) mixed: Object,
}

impl Contents {
    /// Decides about every tensor of the model.
    pub(crate) fn of(model: &Model, choices: &Choices) -> Result<Self> {
        let mut contents = Self::default();
        let mut refused = Misfits::default();
        for (id, tensor) in (0..).zip(&model.tensors) {
            let matrices =
                if is_quantised(model, tensor, choices)? { matrices(model, id, tensor)? } else { Vec::new() };
            let mut quantised = Vec::new();
            for mut module in matrices {
                match choices.rules.settings(&module.name, choices.settings)? {
                    Some(settings) => {
                        module.settings = settings;
                        refused.look_at(&module);
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
                contents.items.extend(kept(model, id, tensor, choices)?.into_iter().map(Item::Kept));
            } else {
                if stacked::is_stacked(tensor) && quantised.len() < stacked::modules(model, tensor)? {
                    return Err(Failure::unsupported("some of its experts would be left as they are")
                        .about(&*tensor.name)
                        .hint("a rule of `dynamic` has to be about all experts of a layer, or about none"));
                }
                contents.items.extend(quantised.into_iter().map(Item::Module));
            }
        }
        refused.refuse()?;
        if !contents.items.iter().any(|item| matches!(item, Item::Module(_))) {
            return Err(Failure::unsupported("nothing of this model would be quantised")
                .hint("the rules of `dynamic` leave every module as it is"));
        }
        contents.warnings.extend(uneven(&contents.items));
        Ok(contents)
    }

    /// The modules.
    pub(crate) fn modules(&self) -> impl Iterator<Item = &Module> {
        self.items.iter().filter_map(|item| match item {
            Item::Module(module) => Some(module),
            Item::Kept(_) => None,
        })
    }
}

/// Whether a tensor is a matrix that is quantised unless a rule says otherwise.
fn is_quantised(model: &Model, tensor: &SourceTensor, choices: &Choices) -> Result<bool> {
    if tensor.role.part != Part::Weight {
        return Ok(false);
    }
    let kind = &tensor.role.kind;
    if *kind == RoleKind::Output {
        return Ok(choices.lm_head);
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
fn is_linear(kind: &RoleKind) -> bool {
    InputGroup::of(kind).is_some_and(|group| group != InputGroup::OutputIn)
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
        settings: Settings { bits: 4, group_size: None, symmetric: true, act_order: false },
        segments: Segments::default(),
    }])
}

/// The name of a tensor's module.
fn module_name(tensor: &str) -> String {
    tensor.strip_suffix(".weight").unwrap_or(tensor).to_owned()
}

/// A tensor that is kept: whole, or as the biases of each expert where their matrices are split.
fn kept(model: &Model, id: u32, tensor: &SourceTensor, choices: &Choices) -> Result<Vec<Kept>> {
    if tensor.role.part == Part::Bias && stacked::has_bias_of_split(model, tensor, choices)? {
        return stacked::split_bias(model, id, tensor);
    }
    if stacked::was_widened(tensor) {
        return Err(Failure::unsupported("cannot be kept: its experts are stored in another format")
            .about(&*tensor.name)
            .hint("have no rule of `dynamic` that leaves experts as they are"));
    }
    Ok(vec![Kept {
        name: tensor.name.clone(),
        tensor: id,
        part: None,
        shape: tensor.shape.clone(),
        dtype: tensor.dtype.clone(),
        unit: tensor.unit,
        segment: 0,
    }])
}

/// What does not fit into words and groups.
#[derive(Debug, Default)]
struct Misfits {
    first: Option<String>,
    modules: usize,
    /// The settings of the first, and the greatest common divisor of all inputs.
    settings: Option<Settings>,
    divisor: u64,
    packing: bool,
}

impl Misfits {
    fn look_at(&mut self, module: &Module) {
        self.divisor = greatest_common_divisor(self.divisor, module.columns);
        let (bits, size) = (module.settings.bits, module.group_size());
        let (count, _) = period(bits);
        let fits = |weights: u64| weights.is_multiple_of(count as u64);
        let (name, rows, columns) = (&module.name, module.rows, module.columns);
        let wrong = if !columns.is_multiple_of(size.max(1)) {
            format!("{name} has {columns} inputs, which groups of {size} do not divide")
        } else if !fits(columns) || !fits(rows) {
            self.packing = self.first.is_none() || self.packing;
            format!(
                "{name} has {columns} inputs and {rows} outputs; {bits}-bit codes are packed by {count}, along both"
            )
        } else {
            return;
        };
        self.modules += 1;
        self.settings.get_or_insert(module.settings);
        self.first.get_or_insert(wrong);
    }

    fn refuse(self) -> Result<()> {
        let Some(first) = self.first else { return Ok(()) };
        let more = match self.modules {
            1 => String::new(),
            modules => format!(" ({} more modules are like that)", modules - 1),
        };
        let sizes: Vec<_> = [128, 64, 32, 16, 8]
            .into_iter()
            .filter(|size| self.divisor.is_multiple_of(*size))
            .map(|s| s.to_string())
            .collect();
        let hint = if self.packing {
            "leave it as it is with --plugin-option dynamic='{\"-:.*PATTERN\": {}}'".to_owned()
        } else if sizes.is_empty() {
            "take whole rows with --group-size -1, or leave such modules as they are with --plugin-option dynamic=…"
                .into()
        } else {
            let sizes = sizes.join(", ");
            format!(
                "--group-size {sizes} or -1 divides all of them; --plugin-option dynamic=… sets one for some modules"
            )
        };
        Err(Failure::unsupported(format!("{first}{more}")).hint(hint))
    }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// A warning about modules that loaders run as one matrix and that rules treat differently.
fn uneven(items: &[Item]) -> Option<String> {
    let modules: Vec<_> = items
        .iter()
        .map(|item| match item {
            Item::Module(module) => (&module.name, module.unit, Some((module.settings, &module.group))),
            Item::Kept(kept) => (&kept.name, kept.unit, None),
        })
        .collect();
    let fused: [&[&str]; 3] = [&["q_proj", "k_proj", "v_proj"], &["gate_proj", "up_proj"], &["w1", "w3"]];
    let mut found = BTreeSet::new();
    for names in fused {
        for (name, _, settings) in &modules {
            let name = name.strip_suffix(".weight").unwrap_or(name);
            let Some((parent, last)) = name.rsplit_once('.') else { continue };
            if names.first() != Some(&last) {
                continue;
            }
            let sibling = |other: &&str| {
                modules.iter().find(|(name, ..)| {
                    let name = name.strip_suffix(".weight").unwrap_or(name);
                    name.strip_prefix(parent).and_then(|rest| rest.strip_prefix('.')) == Some(other)
                })
            };
            let differs = names[1..].iter().filter_map(sibling).any(|(_, _, other)| {
                other.as_ref().map(|(settings, _)| *settings) != settings.as_ref().map(|(settings, _)| *settings)
            });
            if differs {
                found.insert(names.join(", "));
            }
        }
    }
    let found: Vec<_> = found.into_iter().collect();
    (!found.is_empty()).then(|| {
        format!(
            "vLLM and SGLang run {} as one matrix, and do not load modules of it that have different settings",
            found.join("; ")
        )
    })
}
