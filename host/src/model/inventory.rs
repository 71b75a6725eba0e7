//! Giving every tensor of a checkpoint its role and unit, and holding shapes against the config.

use std::collections::BTreeMap;

use qhost_plugin_api::documents::{Hyperparameters, Model, SourceFile, SourceTensor, UnitInfo, UnitKind};
use serde_json::Value;

use super::{
    Entry, Error, Family, Presence, StoredAs, Widening, families,
    folds::folds,
    hyperparameters, text_part,
    widening::{self, Scheme},
};
use crate::source::{Checkpoint, StoredTensor};

/// Dtypes that weights are read from.
const READABLE: [&str; 3] = ["F32", "F16", "BF16"];

/// Configs have four levels or so. Readers of JSON stop at 128, and plugins get the config within other documents.
const DEEPEST: usize = 64;

/// A checkpoint that is understood.
#[derive(Debug)]
pub struct Understood {
    /// The model, as handed to plugins.
    pub model: Model,
    /// For every tensor of the model, how the checkpoint stores it.
    pub stored: Vec<StoredAs>,
    /// What the user should know, such as tensors that are left out.
    pub warnings: Vec<String>,
}

/// Understands a checkpoint.
///
/// # Errors
/// Fails when the architecture is unknown, or config and tensors do not agree; see [`Error`].
pub fn understand(checkpoint: &Checkpoint) -> Result<Understood, Error> {
    let mut understood = of_tensors(&checkpoint.name, &checkpoint.config, &checkpoint.tensors, &|_| Given::default())?;
    let companions = checkpoint.companions.iter();
    understood.model.companions = companions.map(|file| SourceFile::new(file.name.clone(), file.bytes)).collect();
    Ok(understood)
}

/// What is known of a tensor beside its header.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Given {
    /// Its rows are a linear's outputs whatever the table says.
    pub(super) rows_are_outputs: bool,
    /// It changes nothing, and is left out of a family that does not have it.
    pub(super) does_nothing: bool,
}

/// Understands tensors, with what is given of each by its index.
pub(super) fn of_tensors(
    name: &str,
    config: &Value,
    tensors: &[StoredTensor],
    given: &dyn Fn(usize) -> Given,
) -> Result<Understood, Error> {
    let (config, nested) = text_part::config(config);
    let family = find_family(&config)?;
    let scheme = Scheme::of(&config)?;
    let mut config = text_part::completed(config, family);
    if let (Value::Object(config), true) = (&mut config, scheme != Scheme::Plain) {
        // What plugins get are floats.
        config.remove("quantization_config");
    }
    let hyperparameters = hyperparameters::read(&config, family)?;
    let units = units(family, &hyperparameters);
    let names = text_part::Names::of(tensors, family, nested);
    let mut inventory = Inventory::new(names.known, family, &hyperparameters, (scheme, given));
    for unit in &units {
        unit.entries.iter().try_for_each(|entry| inventory.take(entry, unit))?;
    }
    let mut warnings = inventory.rest(&config)?;
    warnings.extend(other_parts(&names.left_out));
    warnings.extend(scheme.told().map(str::to_owned));
    let (tensors, stored) = inventory.taken.into_iter().unzip();
    let mut model = Model::new(name, family.id);
    model.config = config;
    model.hyperparameters = hyperparameters;
    model.units = units.into_iter().map(|unit| unit.info).collect();
    model.tensors = tensors;
    model.folds = family.forward.as_ref().map(|forward| folds(&model, forward)).unwrap_or_default();
    Ok(Understood { model, stored, warnings })
}

pub(super) fn find_family(config: &Value) -> Result<&'static Family, Error> {
    if is_deeper(config, DEEPEST) {
        return Err(Error::TooDeep { most: DEEPEST });
    }
    let model_type = config["model_type"].as_str();
    let architecture = config["architectures"][0].as_str();
    let name = match (model_type, architecture) {
        (Some(model_type), Some(architecture)) => format!("`{model_type}` ({architecture})"),
        (Some(only), None) | (None, Some(only)) => format!("`{only}`"),
        (None, None) => return Err(Error::MissingKey { key: "model_type" }),
    };
    families::find(model_type, architecture).ok_or(Error::UnknownArchitecture { name })
}

/// Whether there are more levels in a value than so many.
fn is_deeper(value: &Value, levels: usize) -> bool {
    let inner_is = |inner: &Value| is_deeper(inner, levels.saturating_sub(1));
    match value {
        Value::Array(values) => levels == 0 || values.iter().any(inner_is),
        Value::Object(entries) => levels == 0 || entries.values().any(inner_is),
        _ => false,
    }
}

/// A unit with its table: the entries, and what comes before their names.
pub(super) struct UnitTable {
    pub(super) info: UnitInfo,
    pub(super) entries: &'static [Entry],
    pub(super) prefix: String,
}

pub(super) fn units(family: &'static Family, model: &Hyperparameters) -> Vec<UnitTable> {
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
    taken: Vec<(SourceTensor, StoredAs)>,
    scheme: Scheme,
    given: &'a dyn Fn(usize) -> Given,
    warnings: Vec<String>,
}

impl<'a> Inventory<'a> {
    fn new(
        left: BTreeMap<String, (usize, &'a StoredTensor)>,
        family: &'static Family,
        hyperparameters: &'a Hyperparameters,
        (scheme, given): (Scheme, &'a dyn Fn(usize) -> Given),
    ) -> Self {
        Self { family, hyperparameters, left, taken: Vec::new(), scheme, given, warnings: Vec::new() }
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
        let found = match self.left.remove(&name) {
            Some((index, stored)) => self.plain(entry, &name, index, stored)?,
            None => self.microscaled(entry, &name)?.ok_or(Error::MissingTensor { name })?,
        };
        let mut tensor = SourceTensor::new(found.name, entry.role(expert), unit, found.dtype, found.shape);
        tensor.transposed = found.transposed;
        self.taken.push((tensor, found.stored));
        Ok(())
    }

    /// A tensor under its own name: floats, or scaled ones.
    fn plain(&mut self, entry: &Entry, name: &str, index: usize, stored: &StoredTensor) -> Result<Found, Error> {
        let transposed = entry.transposed && !(self.given)(index).rows_are_outputs;
        let mut expected = self.shape(entry);
        if let (true, [.., inputs, outputs]) = (entry.transposed && !transposed, expected.as_mut_slice()) {
            std::mem::swap(inputs, outputs);
        }
        if stored.shape != expected {
            return Err(Error::WrongShape { name: stored.name.clone(), actual: stored.shape.clone(), expected });
        }
        let (dtype, widening) = match (stored.dtype.as_str(), self.scheme) {
            ("F8_E4M3", Scheme::Fp8 { block }) => {
                let names = widening::scale_names(name);
                let scales = names.iter().find_map(|name| self.left.remove(name));
                let scales = scales.ok_or_else(|| Error::MissingTensor { name: names[0].clone() })?;
                ("F32", widening::scaled_e4m3(stored, scales, block)?)
            }
            (dtype, _) => match READABLE.into_iter().find(|readable| *readable == dtype) {
                Some(readable) => (readable, Widening::None),
                None => {
                    return Err(Error::UnsupportedDtype { name: stored.name.clone(), dtype: dtype.to_owned() });
                }
            },
        };
        Ok(Found {
            // Messages have the name that is in the file.
            name: stored.name.clone(),
            dtype,
            shape: expected,
            transposed,
            stored: StoredAs { tensor: index, widening },
        })
    }

    /// A tensor that is stored as blocks and scales, with its inputs in a row whatever the table says.
    fn microscaled(&mut self, entry: &Entry, name: &str) -> Result<Option<Found>, Error> {
        if self.scheme != Scheme::Mxfp4 {
            return Ok(None);
        }
        let Some((index, blocks)) = self.left.remove(&format!("{name}_blocks")) else { return Ok(None) };
        let scales = format!("{name}_scales");
        let (scales, stored) = self.left.remove(&scales).ok_or(Error::MissingTensor { name: scales })?;
        let shape = widening::mxfp4_shape(blocks, stored)?;
        let mut expected = self.shape(entry);
        if let (true, [.., inputs, outputs]) = (entry.transposed, expected.as_mut_slice()) {
            std::mem::swap(inputs, outputs);
        }
        if shape != expected {
            return Err(Error::WrongShape { name: blocks.name.clone(), actual: shape, expected });
        }
        let stored = StoredAs { tensor: index, widening: Widening::Mxfp4 { scales } };
        Ok(Some(Found { name: blocks.name.clone(), dtype: "F32", shape, transposed: false, stored }))
    }

    fn shape(&self, entry: &Entry) -> Vec<u64> {
        entry.shape.iter().map(|dim| dim.size(self.hyperparameters)).collect()
    }

    /// Refuses tensors that nobody took, unless they are buffers or of layers that only predict further
    /// tokens; gives the warnings.
    fn rest(&mut self, config: &Value) -> Result<Vec<String>, Error> {
        let family = self.family;
        self.left.retain(|name, _| !family.buffers.iter().any(|ending| name.ends_with(ending)));
        let given = self.given;
        self.left.retain(|_, (index, _)| !given(*index).does_nothing);
        let predicting = config.get("num_nextn_predict_layers").and_then(Value::as_u64).unwrap_or(0);
        let layers = u64::from(self.hyperparameters.layers);
        let extra = |name: &str| {
            layer_in(name, family.layer_prefix)
                .is_some_and(|l| (layers..layers.saturating_add(predicting)).contains(&l))
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

/// A tensor of the model that is there.
struct Found {
    name: String,
    dtype: &'static str,
    shape: Vec<u64>,
    transposed: bool,
    stored: StoredAs,
}

/// The layer that a name is of.
fn layer_in(name: &str, prefix: &str) -> Option<u64> {
    let (before, _) = prefix.split_once("{}")?;
    name.strip_prefix(before)?.split('.').next()?.parse().ok()
}
