//! What each model family is in GGUF: its architecture name, its metadata keys, the order of its
//! query and key rows, and what llama.cpp can load of it.
//!
//! It knows no mixture rules and no block types. A new family is one more entry in `table.rs`.

mod keys;
mod limits;
mod names;
mod rope;
mod table;

use qhost_plugin_api::{
    documents::{Hyperparameters, Model, Part, Role, RoleKind, UnitKind},
    sdk::{Failure, Result},
};

use crate::metadata::{Metadata, Value};

pub(crate) use rope::{Llama3, Scaling, factors as rope_factors, long_attention_factor};

/// A family as GGUF has it.
#[derive(Debug)]
pub(crate) struct Family {
    /// The host's name.
    id: &'static str,
    /// `general.architecture`, and the prefix of its keys.
    pub(crate) architecture: &'static str,
    /// How llama.cpp rotates queries and keys.
    pub(crate) rotary: Rotary,
    /// How the rows of fused queries, keys and values are stored.
    pub(crate) fused: Fused,
    /// Whether norms multiply with 1 + weight.
    pub(crate) shifted_norms: bool,
    /// The name of the norm before the feed-forward block.
    ffn_norm: &'static str,
    /// Which norm it is, by the key of its epsilon.
    pub(crate) epsilon: &'static str,
    /// Activation functions that llama.cpp computes as they are, or nearly so.
    pub(crate) activations: &'static [&'static str],
    /// Modules that may have a bias.
    biases: &'static [RoleKind],
    /// Modules that llama.cpp does not load without a bias.
    needed_biases: &'static [RoleKind],
    /// What llama.cpp does with a head of its own.
    pub(crate) head: Head,
    /// Whether the attention is as wide as the residual stream.
    square_attention: bool,
    /// Whether the vocabulary's size and the rotary width are stated.
    states_sizes: bool,
    /// Rotary scalings.
    scalings: &'static [Scaling],
    /// How the window of sliding attention is handled.
    window: Window,
    /// Keys that only this family has.
    keys: fn(&Model, &mut Keys) -> Result<()>,
    /// What of the family llama.cpp cannot do.
    limits: fn(&Model) -> Result<()>,
    /// The model sizes that get more bits for attention values.
    pub(crate) is_70b: fn(&Hyperparameters) -> bool,
}

impl Family {
    /// Of how many layers one has no window, where llama.cpp computes windows.
    pub(crate) fn window_period(&self) -> Option<u64> {
        match self.window {
            Window::Ignored => None,
            Window::AllButEvery(every) => Some(every),
        }
    }
}

/// Which elements of a head rotary embedding turns together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rotary {
    /// Neighbours in llama.cpp and halves in the checkpoint, so the rows of queries and keys change their
    /// order.
    Interleaved,
    /// The same in both.
    Kept,
}

/// How the rows of fused queries, keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fused {
    /// All queries, then all keys, then all values.
    ByPart,
    /// Head by head, query, key and value of each.
    ByHead,
}

/// What llama.cpp does with a head of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Head {
    /// It takes one, or the embedding.
    Optional,
    /// It always takes the embedding.
    Never,
    /// It does not load a model without one.
    Needed,
}

/// How llama.cpp handles the window of sliding attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Window {
    /// It computes full attention.
    Ignored,
    /// As the config says; by itself in all but every so many layers.
    AllButEvery(u64),
}

/// Keys of an architecture, without its name before them.
#[derive(Debug, Default)]
pub(crate) struct Keys(Vec<(&'static str, Value)>);

impl Keys {
    /// Sets a key; one that was there keeps its place.
    fn push(&mut self, key: &'static str, value: impl Into<Value>) {
        let value = value.into();
        match self.0.iter_mut().find(|(known, _)| *known == key) {
            Some((_, old)) => *old = value,
            None => self.0.push((key, value)),
        }
    }

    /// Sets a count, which GGUF holds in 32 bits; `name` is the config's key.
    fn count(&mut self, key: &'static str, value: u64, name: &str) -> Result<()> {
        let narrow = u32::try_from(value)
            .map_err(|_| inexpressible(format!("`{name}` is {value}, more than GGUF's 32 bits hold")))?;
        self.push(key, narrow);
        Ok(())
    }

    /// Sets a number above zero that the config has under `name`, if it has it.
    fn number(&mut self, key: &'static str, model: &Model, name: &str) -> Result<()> {
        if let Some(value) = model.config.get(name).and_then(serde_json::Value::as_f64) {
            self.push(key, positive(value, name)?);
        }
        Ok(())
    }
}

/// The family of a model, after checking that llama.cpp can load it.
///
/// # Errors
/// Fails with kind `UNSUPPORTED` and the reason.
pub(crate) fn family_of(model: &Model) -> Result<&'static Family> {
    let Some(family) = table::FAMILIES.iter().find(|family| family.id == model.family) else {
        let known: Vec<_> = table::FAMILIES.iter().map(|family| family.id).collect();
        return Err(Failure::unsupported(format!("llama.cpp has no architecture for the family {}", model.family))
            .hint(format!("this plugin knows {}", known.join(", "))));
    };
    limits::check(model, family)?;
    (family.limits)(model)?;
    Ok(family)
}

/// The first family of an architecture.
pub(crate) fn of_architecture(architecture: &str) -> Option<&'static Family> {
    table::FAMILIES.iter().find(|family| family.architecture == architecture)
}

/// The roles that a name without its layer stands for: several where llama.cpp has one name for what checkpoints
/// store in different ways.
pub(crate) fn roles(family: &Family, name: &str, part: Part) -> impl Iterator<Item = RoleKind> {
    let kinds = names::ALL.iter().filter(move |kind| {
        let role = Role::new(RoleKind::clone(kind), part);
        let named = names::module(&role, family).zip(names::ending(part));
        named.is_some_and(|(module, ending)| {
            name.strip_prefix(module).and_then(|rest| rest.strip_prefix('.')) == Some(ending)
        })
    });
    kinds.cloned()
}

/// A model that llama.cpp would not compute as it is meant.
fn inexpressible(message: String) -> Failure {
    Failure::unsupported(message).hint("choose another format: `qhost plugins list` shows those that are installed")
}

fn bad_config(message: String) -> Failure {
    Failure::corrupt(message).about("config.json").hint("is config.json the one that belongs to these weights?")
}

/// A setting that has to be above zero, as the format holds it.
#[expect(clippy::cast_possible_truncation, reason = "the format has f32; what is lost to it is refused")]
fn positive(value: f64, key: &str) -> Result<f32> {
    let narrowed = value as f32;
    if narrowed.is_finite() && narrowed > 0.0 {
        return Ok(narrowed);
    }
    Err(bad_config(format!("`{key}` is {value:e}, which GGUF cannot hold: it has a positive 32-bit float there")))
}

/// The name of a tensor in GGUF, by its role; `name` is that in the checkpoint.
///
/// # Errors
/// Fails for a role that has no name in GGUF.
pub(crate) fn tensor_name(model: &Model, family: &Family, role: &Role, unit: u32, name: &str) -> Result<String> {
    let (module, ending) = names::module(role, family)
        .zip(names::ending(role.part))
        .ok_or_else(|| inexpressible(format!("the role {role} has no name in GGUF")).about(name))?;
    Ok(in_layer(model, unit, &format!("{module}.{ending}")))
}

/// A name of a tensor, with its layer before it if it is in one.
pub(crate) fn in_layer(model: &Model, unit: u32, name: &str) -> String {
    let unit = model.units.iter().find(|info| info.id == unit);
    match unit.map(|unit| (unit.kind, unit.layer)) {
        Some((UnitKind::Layer, Some(layer))) => format!("blk.{layer}.{name}"),
        _ => name.to_owned(),
    }
}

/// The general and architecture keys, in the reference converter's order, and what the user should know.
///
/// # Errors
/// Fails with kind `UNSUPPORTED` for a rotary scaling that cannot be expressed.
pub(crate) fn metadata(model: &Model, family: &Family, general: Metadata) -> Result<(Metadata, Vec<String>)> {
    let mut metadata = Metadata::new();
    metadata.push("general.architecture", family.architecture)?;
    metadata.push("general.type", "model")?;
    metadata.append(general)?;
    let (keys, warnings) = keys::of(model, family)?;
    for (key, value) in keys.0 {
        metadata.push(format!("{}.{key}", family.architecture), value)?;
    }
    Ok((metadata, warnings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_f32_cannot_hold_are_refused_by_name() {
        for value in [0.0, -1.0, 1e300, 1e-60, f64::INFINITY, f64::NAN] {
            let failure = positive(value, "rope_theta").unwrap_err();
            assert!(failure.message.contains("`rope_theta`"), "{failure}");
            assert!(!failure.hint.is_empty());
        }
        assert_eq!(positive(1e-45, "x").unwrap().to_bits(), 1);
        assert_eq!(positive(5e5, "x").unwrap().to_bits(), 500_000.0_f32.to_bits());
    }
}
