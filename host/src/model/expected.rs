//! The model that a config describes, where there is no checkpoint to hold against it: every tensor has the
//! name, role and shape that the family's table gives it.
//!
//! It knows no files: who asks tells which of the tensors are there that only some checkpoints have.

use qhost_plugin_api::documents::{Model, NamedParameter, Role, SourceTensor};
use serde_json::Value;

use super::{
    Error, Presence, Understood,
    folds::folds,
    hyperparameters,
    inventory::{Given, find_family, of_tensors, units},
    text_part,
};
use crate::source::StoredTensor;

/// The dtype of tensors that are decoded.
const DTYPE: &str = "F32";

/// No model comes near this; a config that passes it lies, and would only cost memory.
const MOST_TENSORS: usize = 1 << 18;

/// The model of parameters that go by a checkpoint's own names, and what the user should know.
///
/// # Errors
/// Fails as for a checkpoint; see [`Error`].
pub fn of_parameters(name: &str, config: &Value, parameters: &[NamedParameter]) -> Result<(Model, Vec<String>), Error> {
    let mut config = config.clone();
    for holder in ["", "/text_config"] {
        if let Some(Value::Object(holder)) = config.pointer_mut(holder) {
            // What is given are floats.
            holder.remove("quantization_config");
        }
    }
    let stored = |parameter: &NamedParameter| StoredTensor {
        name: parameter.name.clone(),
        shard: 0,
        dtype: DTYPE.into(),
        shape: parameter.shape.clone(),
        offset: 0,
        bytes: 0,
    };
    let tensors: Vec<_> = parameters.iter().map(stored).collect();
    let given = |index: usize| {
        let known = |parameter: &NamedParameter| Given {
            rows_are_outputs: parameter.rows_are_outputs,
            does_nothing: parameter.does_nothing,
        };
        parameters.get(index).map(known).unwrap_or_default()
    };
    let Understood { model, warnings, .. } = of_tensors(name, &config, &tensors, &given)?;
    Ok((model, warnings))
}

/// The model of a config; `present` tells of a role in a layer, or in none, whether it is there.
///
/// # Errors
/// Fails when the architecture is unknown, or the config lacks something; see [`Error`].
pub fn expected(name: &str, config: &Value, present: &dyn Fn(&Role, Option<u32>) -> bool) -> Result<Model, Error> {
    let (config, _) = text_part::config(config);
    let family = find_family(&config)?;
    let config = text_part::completed(config, family);
    let hyperparameters = hyperparameters::read(&config, family)?;
    let units = units(family, &hyperparameters);
    let mut tensors = Vec::new();
    for unit in &units {
        for entry in unit.entries.iter().filter(|entry| entry.is_in(unit.info.layer, &hyperparameters)) {
            let wanted = match entry.presence {
                Presence::Required => true,
                Presence::Optional => present(&entry.role(None), unit.info.layer),
                Presence::When(needed) => needed(&hyperparameters),
                Presence::UnlessTied => !hyperparameters.tied_embeddings,
            };
            if !wanted {
                continue;
            }
            let shape: Vec<u64> = entry.shape.iter().map(|dim| dim.size(&hyperparameters)).collect();
            for (name, expert) in entry.instances(&hyperparameters) {
                let name = format!("{}{name}", unit.prefix);
                let mut tensor = SourceTensor::new(name, entry.role(expert), unit.info.id, DTYPE, shape.clone());
                tensor.transposed = entry.transposed;
                if tensors.len() == MOST_TENSORS {
                    let value = hyperparameters.layers.to_string();
                    return Err(Error::BadKey { key: "num_hidden_layers", value, reason: "more than any model has" });
                }
                tensors.push(tensor);
            }
        }
    }
    let mut model = Model::new(name, family.id);
    model.config = config;
    model.hyperparameters = hyperparameters;
    model.units = units.into_iter().map(|unit| unit.info).collect();
    model.tensors = tensors;
    model.folds = family.forward.as_ref().map(|forward| folds(&model, forward)).unwrap_or_default();
    Ok(model)
}

#[cfg(test)]
mod tests {
    use qhost_plugin_api::documents::{Part, RoleKind};
    use serde_json::json;

    use super::*;

    #[test]
    fn optional_tensors_are_there_where_somebody_says_so() {
        let config = json!({"model_type": "llama", "hidden_size": 8, "intermediate_size": 12,
            "num_attention_heads": 2, "num_hidden_layers": 2, "max_position_embeddings": 32, "rms_norm_eps": 1e-5,
            "vocab_size": 16, "tie_word_embeddings": true});
        let in_second = |role: &Role, layer: Option<u32>| {
            role.kind == RoleKind::AttentionQ && role.part == Part::Bias && layer == Some(1)
        };
        let model = expected("m", &config, &in_second).unwrap();
        let biases: Vec<_> = model.tensors.iter().filter(|tensor| tensor.role.part == Part::Bias).collect();
        assert_eq!(biases.len(), 1);
        assert_eq!((&*biases[0].name, &*biases[0].shape), ("model.layers.1.self_attn.q_proj.bias", &[8][..]));
        assert_eq!(model.tensors.len(), 1 + 2 * 9 + 1 + 1);
        assert!(model.tensors.iter().all(|tensor| tensor.dtype == "F32"));
        assert!(matches!(
            expected("m", &json!({"model_type": "none"}), &in_second),
            Err(Error::UnknownArchitecture { .. })
        ));
    }
}
