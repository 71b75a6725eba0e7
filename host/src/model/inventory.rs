//! Giving every tensor of a checkpoint its role and unit, and holding shapes against the config.

use std::collections::HashMap;

use qhost_plugin_api::documents::{Hyperparameters, Model, SourceFile, SourceTensor, UnitInfo, UnitKind};
use serde_json::Value;

use super::{Entry, Error, Family, Presence, families, hyperparameters};
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
    let config = &checkpoint.config;
    let family = find_family(config)?;
    refuse_quantised(config)?;
    let hyperparameters = hyperparameters::read(config, family)?;
    let units = units(family, &hyperparameters);
    let mut inventory = Inventory::new(&checkpoint.tensors, family, &hyperparameters);
    for (unit, entries, prefix) in &units {
        entries.iter().try_for_each(|entry| inventory.take(entry, prefix, unit.id))?;
    }
    let warnings = inventory.rest()?;
    let (tensors, stored) = inventory.taken.into_iter().unzip();
    let companions = checkpoint.companions.iter();
    let companions = companions.map(|file| SourceFile::new(file.name.clone(), file.bytes)).collect();
    let mut model = Model::new(checkpoint.name.clone(), family.id);
    model.config = config.clone();
    model.hyperparameters = hyperparameters;
    model.units = units.into_iter().map(|(unit, ..)| unit).collect();
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
type UnitTable = (UnitInfo, &'static [Entry], String);

fn units(family: &'static Family, model: &Hyperparameters) -> Vec<UnitTable> {
    let prologue = (UnitInfo::new(0, UnitKind::Prologue), family.prologue, String::new());
    let layers = (0..model.layers).map(|layer| {
        let prefix = family.layer_prefix.replace("{}", &layer.to_string());
        (UnitInfo::layer(layer + 1, layer), family.layer, prefix)
    });
    let epilogue = (UnitInfo::new(model.layers + 1, UnitKind::Epilogue), family.epilogue, String::new());
    std::iter::once(prologue).chain(layers).chain(std::iter::once(epilogue)).collect()
}

struct Inventory<'a> {
    family: &'static Family,
    hyperparameters: &'a Hyperparameters,
    /// What no unit has taken yet.
    left: HashMap<&'a str, (usize, &'a StoredTensor)>,
    taken: Vec<(SourceTensor, usize)>,
    warnings: Vec<String>,
}

impl<'a> Inventory<'a> {
    fn new(tensors: &'a [StoredTensor], family: &'static Family, hyperparameters: &'a Hyperparameters) -> Self {
        let left = tensors.iter().enumerate().map(|(index, tensor)| (tensor.name.as_str(), (index, tensor))).collect();
        Self { family, hyperparameters, left, taken: Vec::new(), warnings: Vec::new() }
    }

    fn take(&mut self, entry: &Entry, prefix: &str, unit: u32) -> Result<(), Error> {
        let name = format!("{prefix}{}", entry.name);
        let tied = self.hyperparameters.tied_embeddings;
        let Some((index, stored)) = self.left.remove(name.as_str()) else {
            let needed = match entry.presence {
                Presence::Required => true,
                Presence::Optional => false,
                Presence::UnlessTied => !tied,
            };
            return if needed { Err(Error::MissingTensor { name }) } else { Ok(()) };
        };
        if entry.presence == Presence::UnlessTied && tied {
            self.warnings.push(format!("{name} is left out: config.json ties it to the embedding"));
            return Ok(());
        }
        let expected: Vec<u64> = entry.shape.iter().map(|dim| dim.size(self.hyperparameters)).collect();
        if stored.shape != expected {
            return Err(Error::WrongShape { name, actual: stored.shape.clone(), expected });
        }
        if !READABLE.contains(&stored.dtype.as_str()) {
            return Err(Error::UnsupportedDtype { name, dtype: stored.dtype.clone() });
        }
        let tensor = SourceTensor::new(name, entry.role(), unit, stored.dtype.clone(), stored.shape.clone());
        self.taken.push((tensor, index));
        Ok(())
    }

    /// Refuses tensors that nobody took, unless they are buffers; gives the warnings.
    fn rest(&mut self) -> Result<Vec<String>, Error> {
        let family = self.family;
        let is_buffer = |name: &str| family.buffers.iter().any(|ending| name.ends_with(ending));
        let unknown = self.left.keys().filter(|name| !is_buffer(name)).min();
        match unknown {
            Some(name) => Err(Error::UnknownTensor { name: (*name).to_owned(), family: family.id }),
            None => Ok(std::mem::take(&mut self.warnings)),
        }
    }
}
