//! Giving every tensor of a checkpoint its role and unit, and holding shapes against the config.

use std::collections::BTreeMap;

use qhost_plugin_api::documents::{Hyperparameters, Model, SourceFile, SourceTensor, UnitInfo, UnitKind};
use serde_json::Value;

use super::{Entry, Error, Family, Presence, families, hyperparameters, text_part};
use crate::source::{Checkpoint, StoredTensor};

/// Dtypes that weights are read from.
const READABLE: [&str; 3] = ["F32", "F16", "BF16"];

/// A checkpoint that is understood.
#[derive(Debug)]
pub struct Understood {
    /// The model, as handed to plugins.
    pub model: Model,
    /// For every tensor of the model, its index among the checkpoint's tensors.
    pub stored: Vec<usize>,
    /// What the user should know, such as tensors that are left out.
    pub warnings: Vec<String>,
}

/// Understands a checkpoint.
///
/// # Errors
/// Fails when the architecture is unknown, or config and tensors do not agree; see [`Error`].
pub fn understand(checkpoint: &Checkpoint) -> Result<Understood, Error> {
    let (config, nested) = text_part::config(&checkpoint.config);
    let family = find_family(&config)?;
    refuse_quantised(&config)?;
    let config = text_part::completed(config, family);
    let hyperparameters = hyperparameters::read(&config, family)?;
    let units = units(family, &hyperparameters);
    let names = text_part::Names::of(&checkpoint.tensors, family, nested);
    let mut inventory = Inventory::new(names.known, family, &hyperparameters);
    for unit in &units {
        unit.entries.iter().try_for_each(|entry| inventory.take(entry, unit))?;
    }
    let mut warnings = inventory.rest(&config)?;
    warnings.extend(other_parts(&names.left_out));
    let (tensors, stored) = inventory.taken.into_iter().unzip();
    let companions = checkpoint.companions.iter();
    let companions = companions.map(|file| SourceFile::new(file.name.clone(), file.bytes)).collect();
    let mut model = Model::new(checkpoint.name.clone(), family.id);
    model.config = config;
    model.hyperparameters = hyperparameters;
    model.units = units.into_iter().map(|unit| unit.info).collect();
    model.tensors = tensors;
    model.companions = companions;
    Ok(Understood { model, stored, warnings })
}

fn find_family(config: &Value) -> Result<&'static Family, Error> {
    let model_type = config["model_type"].as_str();
    let architecture = config["architectures"][0].as_str();
    let name = match (model_type, architecture) {
        (Some(model_type), Some(architecture)) => format!("`{model_type}` ({architecture})"),
        (Some(only), None) | (None, Some(only)) => format!("`{only}`"),
        (None, None) => return Err(Error::MissingKey { key: "model_type" }),
    };
    families::find(model_type, architecture).ok_or(Error::UnknownArchitecture { name })
}

fn refuse_quantised(config: &Value) -> Result<(), Error> {
    match config.get("quantization_config") {
        None | Some(Value::Null) => Ok(()),
        Some(found) => {
            let method = found["quant_method"].as_str().unwrap_or("unknown method").to_owned();
            Err(Error::AlreadyQuantised { method })
        }
    }
}

/// A unit with its table: the entries, and what comes before their names.
struct UnitTable {
    info: UnitInfo,
    entries: &'static [Entry],
    prefix: String,
}

fn units(family: &'static Family, model: &Hyperparameters) -> Vec<UnitTable> {
    let outside = |id, kind, entries| UnitTable { info: UnitInfo::new(id, kind), entries, prefix: String::new() };
    let layers = (0..model.layers).map(|layer| UnitTable {
        info: UnitInfo::layer(layer + 1, layer),
        entries: family.layer,
        prefix: family.layer_prefix.replace("{}", &layer.to_string()),
    });
    let prologue = outside(0, UnitKind::Prologue, family.prologue);
    let epilogue = outside(model.layers + 1, UnitKind::Epilogue, family.epilogue);
    std::iter::once(prologue).chain(layers).chain(std::iter::once(epilogue)).collect()
}

/// One sentence for what a multimodal checkpoint has beside the language model.
fn other_parts(left_out: &BTreeMap<String, usize>) -> Option<String> {
    let parts: Vec<_> = left_out.iter().map(|(module, count)| format!("{module} ({count} tensors)")).collect();
    let told = format!("only the language model is taken; left out: {}", parts.join(", "));
    (!parts.is_empty()).then_some(told)
}

struct Inventory<'a> {
    family: &'static Family,
    hyperparameters: &'a Hyperparameters,
    /// What no unit has taken yet, by the table's names.
    left: BTreeMap<String, (usize, &'a StoredTensor)>,
    taken: Vec<(SourceTensor, usize)>,
    warnings: Vec<String>,
}

impl<'a> Inventory<'a> {
    fn new(
        left: BTreeMap<String, (usize, &'a StoredTensor)>,
        family: &'static Family,
        hyperparameters: &'a Hyperparameters,
    ) -> Self {
        Self { family, hyperparameters, left, taken: Vec::new(), warnings: Vec::new() }
    }

    fn take(&mut self, entry: &Entry, unit: &UnitTable) -> Result<(), Error> {
        if !entry.is_in(unit.info.layer, self.hyperparameters) {
            return Ok(());
        }
        entry.instances(self.hyperparameters).try_for_each(|(name, expert)| {
            let name = format!("{}{name}", unit.prefix);
            self.take_one(entry, name, expert, unit.info.id)
        })
    }

    fn take_one(&mut self, entry: &Entry, name: String, expert: Option<u32>, unit: u32) -> Result<(), Error> {
        let tied = self.hyperparameters.tied_embeddings;
        let wanted = match entry.presence {
            Presence::Required => true,
            Presence::Optional => self.left.contains_key(&name),
            Presence::When(needed) => needed(self.hyperparameters),
            Presence::UnlessTied => !tied,
        };
        if !wanted {
            if matches!(entry.presence, Presence::UnlessTied) && self.left.remove(&name).is_some() {
                self.warnings.push(format!("{name} is left out: config.json ties it to the embedding"));
            }
            return Ok(());
        }
        let Some((index, stored)) = self.left.remove(&name) else { return Err(Error::MissingTensor { name }) };
        // Messages have the name that is in the file.
        let name = stored.name.clone();
        let expected: Vec<u64> = entry.shape.iter().map(|dim| dim.size(self.hyperparameters)).collect();
        if stored.shape != expected {
            return Err(Error::WrongShape { name, actual: stored.shape.clone(), expected });
        }
        if !READABLE.contains(&stored.dtype.as_str()) {
            return Err(Error::UnsupportedDtype { name, dtype: stored.dtype.clone() });
        }
        let role = entry.role(expert);
        let mut tensor = SourceTensor::new(name, role, unit, stored.dtype.clone(), stored.shape.clone());
        tensor.transposed = entry.transposed;
        self.taken.push((tensor, index));
        Ok(())
    }

    /// Refuses tensors that nobody took, unless they are buffers or of layers that only predict further
    /// tokens; gives the warnings.
    fn rest(&mut self, config: &Value) -> Result<Vec<String>, Error> {
        let family = self.family;
        self.left.retain(|name, _| !family.buffers.iter().any(|ending| name.ends_with(ending)));
        let predicting = config.get("num_nextn_predict_layers").and_then(Value::as_u64).unwrap_or(0);
        let layers = u64::from(self.hyperparameters.layers);
        let extra = |name: &str| {
            layer_in(name, family.layer_prefix).is_some_and(|l| (layers..layers + predicting).contains(&l))
        };
        let before = self.left.len();
        self.left.retain(|name, _| !extra(name));
        let left_out = before - self.left.len();
        if left_out > 0 {
            self.warnings.push(format!(
                "{left_out} tensors of the layers from {layers} on are left out: they serve the prediction of further tokens only"
            ));
        }
        match self.left.values().next() {
            Some((_, stored)) => Err(Error::UnknownTensor { name: stored.name.clone(), family: family.id }),
            None => Ok(std::mem::take(&mut self.warnings)),
        }
    }
}

/// The layer that a name is of.
fn layer_in(name: &str, prefix: &str) -> Option<u64> {
    let (before, _) = prefix.split_once("{}")?;
    name.strip_prefix(before)?.split('.').next()?.parse().ok()
}
