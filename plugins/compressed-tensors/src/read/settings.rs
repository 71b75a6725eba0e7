//! What a folder says of how its linears are packed: `quantization_config` of `config.json`.

use qhost_packed::{flag, settings_in, text};
use qhost_plugin_api::sdk::{Failure, FileView, Result};
use serde_json::{Map, Value};

use super::targets::{Fit, Target};
use crate::{
    config::LAYOUT,
    format::{BITS, FORMAT},
};

/// The settings of a folder.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Groups of modules, in the config's order.
    pub(super) schemes: Vec<Scheme>,
    /// Modules that are left as they are.
    pub(super) ignore: Vec<Target>,
    /// The file that they are in.
    pub(super) file: &'static str,
}

/// How the modules of a group are packed.
#[derive(Debug, Clone)]
pub(super) struct Scheme {
    /// Its name.
    pub(super) name: String,
    /// Which modules they are.
    pub(super) targets: Vec<Target>,
    /// The width of a code.
    pub(super) bits: u32,
    /// Inputs that share a scale; all of a row if absent.
    pub(super) group_size: Option<u64>,
    /// Whether all zero-points are in the middle, and not stored.
    pub(super) symmetric: bool,
    /// Whether inputs are in an order of their own.
    pub(super) ordered: bool,
}

/// The settings as they are written, and the file that has them; none if the folder is of another format.
///
/// # Errors
/// Fails with kind `CORRUPT` when the file is no JSON.
pub(super) fn written(files: &[FileView<'_>]) -> Result<Option<(Map<String, Value>, &'static str)>> {
    let found = settings_in(files, &[])?;
    // The package has other formats, which other plugins may read.
    let is_packed = |format: &str| ["pack-quantized", "mixed-precision"].contains(&format);
    Ok(found.filter(|(settings, _)| {
        text(settings, "quant_method") == Some(FORMAT) && text(settings, "format").is_none_or(is_packed)
    }))
}

impl Settings {
    /// Understands the settings that a file has.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` for values that are impossible, and with `UNSUPPORTED` for formats of the package other than
    /// packed whole numbers.
    pub(super) fn parse(written: &Map<String, Value>, file: &'static str) -> Result<Self> {
        let about = |failure: Failure| failure.about(file);
        let format = text(written, "format");
        if let Some(status) = text(written, "quantization_status").filter(|status| *status != "compressed") {
            return Err(about(Failure::unsupported(format!("its weights are not packed (`{status}`)"))));
        }
        let groups = written.get("config_groups").and_then(Value::as_object).filter(|groups| !groups.is_empty());
        let groups = groups.ok_or_else(|| about(Failure::corrupt("the settings have no `config_groups`")))?;
        let scheme = |(name, group): (&String, &Value)| Scheme::read(name, group, format).map_err(about);
        let schemes = groups.iter().map(scheme).collect::<Result<Vec<_>>>()?;
        let ignore = match written.get("ignore") {
            None | Some(Value::Null) => Vec::new(),
            Some(words) => targets(words).ok_or_else(|| about(Failure::corrupt(format!("`ignore` is {words}"))))?,
        };
        Ok(Self { schemes, ignore, file })
    }

    /// How a module is packed; none if no group is about it.
    pub(super) fn scheme(&self, module: &str) -> Option<&Scheme> {
        let fits = |scheme: &Scheme| scheme.targets.iter().filter_map(|target| target.fit(module)).min();
        let fitting = self.schemes.iter().filter_map(|scheme| Some((fits(scheme)?, scheme)));
        // The first of the best.
        fitting.min_by_key(|(fit, _)| *fit).map(|(_, scheme)| scheme)
    }

    /// Whether a module is said to be left as it is.
    pub(super) fn ignores(&self, module: &str) -> bool {
        self.ignore.iter().filter_map(|target| target.fit(module)).any(|fit| fit != Fit::Class)
    }
}

impl Scheme {
    /// A group as it is written, in a folder of such a format.
    fn read(name: &str, group: &Value, format: Option<&str>) -> Result<Self> {
        let unsupported = |what: String| Failure::unsupported(format!("`{name}`: {what}"));
        let impossible = |key: &str, value: &Value| Failure::corrupt(format!("`{name}`: `{key}` is {value}"));
        match group.get("format").and_then(Value::as_str).or(format) {
            Some(LAYOUT) => {}
            other => {
                return Err(unsupported(format!("its format is `{}`", other.unwrap_or("none")))
                    .hint(format!("`{LAYOUT}` is read, with whole numbers of 2 to 8 bits")));
            }
        }
        for key in ["input_activations", "output_activations"] {
            if group.get(key).is_some_and(|value| !value.is_null()) {
                return Err(unsupported(format!("activations are quantised as well (`{key}`)"))
                    .hint("folders of which only the weights are quantised are read"));
            }
        }
        let words = group.get("targets").unwrap_or(&Value::Null);
        let targets = targets(words).ok_or_else(|| impossible("targets", words))?;
        let weights = group.get("weights").and_then(Value::as_object);
        let weights = weights.ok_or_else(|| impossible("weights", group.get("weights").unwrap_or(&Value::Null)))?;
        let value = |key: &str| weights.get(key).unwrap_or(&Value::Null);
        if let Some(kind) = text(weights, "type").filter(|kind| *kind != "int") {
            return Err(unsupported(format!("its codes are of the type `{kind}`")));
        }
        if weights.get("dynamic").is_some_and(|dynamic| *dynamic != Value::Bool(false)) {
            return Err(impossible("dynamic", value("dynamic")));
        }
        let bits = value("num_bits").as_u64().ok_or_else(|| impossible("num_bits", value("num_bits")))?;
        let known = BITS.into_iter().find(|known| u64::from(*known) == bits);
        let bits =
            known.ok_or_else(|| unsupported(format!("its codes have {bits} bits")).hint("2 to 8 bits are read"))?;
        let size = value("group_size");
        let group_size = match (text(weights, "strategy"), size.as_i64()) {
            (Some("channel"), None | Some(-1)) | (None, Some(-1)) => None,
            (Some("group") | None, Some(size)) if size > 0 => u64::try_from(size).ok(),
            (Some("group"), _) | (None, Some(_)) => return Err(impossible("group_size", size)),
            (strategy, _) => {
                return Err(unsupported(format!("its strategy is `{}`", strategy.unwrap_or("tensor")))
                    .hint("scales for each group or for each channel are read"));
            }
        };
        let symmetric = flag(weights, "symmetric").unwrap_or(true);
        // Newer words for the order are about how it was made, and not about what is stored.
        let ordered = matches!(value("actorder"), Value::Bool(true))
            || matches!(text(weights, "actorder"), Some("group" | "dynamic"));
        Ok(Self { name: name.to_owned(), targets, bits, group_size, symmetric, ordered })
    }
}

/// Words for modules; none if they are none.
fn targets(words: &Value) -> Option<Vec<Target>> {
    words.as_array()?.iter().map(|word| Target::read(word.as_str()?)).collect()
}

#[cfg(test)]
mod tests {
    use qhost_plugin_api::sdk::FailureKind;
    use serde_json::json;

    use super::*;

    fn group(weights: &Value) -> Value {
        json!({"targets": ["Linear"], "weights": weights})
    }

    fn config(groups: &Value) -> Value {
        json!({"quant_method": FORMAT, "format": LAYOUT, "quantization_status": "compressed", "config_groups": groups,
            "ignore": ["lm_head", "re:.*\\.gate$"]})
    }

    fn parsed(settings: &Value) -> Result<Settings> {
        Settings::parse(settings.as_object().unwrap(), "config.json")
    }

    #[test]
    fn every_scheme_of_packed_whole_numbers_is_understood() {
        for (weights, bits, group_size, symmetric, ordered) in [
            (json!({"num_bits": 4, "strategy": "group", "group_size": 128}), 4, Some(128), true, false),
            (
                json!({"num_bits": 8, "strategy": "channel", "group_size": null, "symmetric": true}),
                8,
                None,
                true,
                false,
            ),
            (json!({"num_bits": 3, "group_size": -1, "symmetric": false, "actorder": "weight"}), 3, None, false, false),
            (json!({"num_bits": 5, "group_size": 32, "type": "int", "actorder": "group"}), 5, Some(32), true, true),
        ] {
            let settings = parsed(&config(&json!({"group_0": group(&weights)}))).unwrap();
            let scheme = settings.scheme("model.layers.0.mlp.up_proj").unwrap();
            let found = (scheme.bits, scheme.group_size, scheme.symmetric, scheme.ordered);
            assert_eq!(found, (bits, group_size, symmetric, ordered), "{weights}");
            assert!(settings.ignores("lm_head") && settings.ignores("model.layers.0.mlp.gate"));
            assert!(!settings.ignores("model.layers.0.mlp.gate_proj"));
        }
    }

    #[test]
    fn a_module_s_own_group_counts_before_that_of_its_class() {
        let weights = |bits: u32| json!({"num_bits": bits, "strategy": "channel"});
        let groups = json!({"a": group(&weights(4)), "b": {"targets": ["re:.*down_proj"], "weights": weights(8)},
            "c": {"targets": ["model.layers.1.mlp.down_proj"], "weights": weights(6)}});
        let settings = parsed(&config(&groups)).unwrap();
        let bits = |module: &str| settings.scheme(module).unwrap().bits;
        assert_eq!(bits("model.layers.0.mlp.up_proj"), 4);
        assert_eq!(bits("model.layers.0.mlp.down_proj"), 8);
        assert_eq!(bits("model.layers.1.mlp.down_proj"), 6);
    }

    #[test]
    fn what_is_impossible_or_packed_otherwise_is_refused() {
        let weights = |key: &str, value: Value| {
            let mut weights = json!({"num_bits": 4, "strategy": "group", "group_size": 128});
            weights[key] = value;
            config(&json!({"group_0": group(&weights)}))
        };
        let whole = |key: &str, value: Value| {
            let mut settings = weights("num_bits", json!(4));
            settings[key] = value;
            settings
        };
        let in_group = |key: &str, value: Value| {
            let mut settings = weights("num_bits", json!(4));
            settings["config_groups"]["group_0"][key] = value;
            settings
        };
        for (settings, kind) in [
            (weights("num_bits", json!(9)), FailureKind::UNSUPPORTED),
            (weights("num_bits", json!("4")), FailureKind::CORRUPT),
            (weights("group_size", json!(0)), FailureKind::CORRUPT),
            (weights("strategy", json!("tensor")), FailureKind::UNSUPPORTED),
            (weights("strategy", json!("block")), FailureKind::UNSUPPORTED),
            (weights("type", json!("float")), FailureKind::UNSUPPORTED),
            (weights("dynamic", json!(true)), FailureKind::CORRUPT),
            (whole("format", json!("float-quantized")), FailureKind::UNSUPPORTED),
            (whole("quantization_status", json!("frozen")), FailureKind::UNSUPPORTED),
            (whole("config_groups", json!({})), FailureKind::CORRUPT),
            (whole("config_groups", json!({"W4A16": ["Linear"]})), FailureKind::CORRUPT),
            (whole("ignore", json!(["re:("])), FailureKind::CORRUPT),
            (in_group("targets", json!("Linear")), FailureKind::CORRUPT),
            (in_group("weights", json!(null)), FailureKind::CORRUPT),
            (in_group("format", json!("int-quantized")), FailureKind::UNSUPPORTED),
            (in_group("input_activations", json!({"num_bits": 8})), FailureKind::UNSUPPORTED),
        ] {
            let failure = parsed(&settings).unwrap_err();
            assert_eq!(failure.kind, kind, "{settings}: {failure}");
            assert!(failure.to_string().contains("config.json"), "{failure}");
        }
    }
}
