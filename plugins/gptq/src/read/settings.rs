//! What a folder says of how its linears are packed: `quantization_config` of `config.json`, or `quantize_config.json`.
//!
//! `GPTQModel`, `AutoGPTQ` and `AutoRound` write the same settings under names of their own.

use std::collections::BTreeSet;

use qhost_packed::{autoround, flag, settings_in, text};
use qhost_plugin_api::sdk::{Failure, FileView, Result};
use serde_json::{Map, Value};

/// The settings on their own, as the first writers of the format stored them.
const SETTINGS: &str = "quantize_config.json";
/// The name of the method.
const METHOD: &str = "gptq";
/// Bits that are read; every reader of the format knows 2, 3, 4 and 8.
pub(crate) const BITS: [u32; 7] = [2, 3, 4, 5, 6, 7, 8];

/// How zero points and codes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// Zero points less one.
    V1,
    /// Zero points as they are.
    V2,
    /// Zero points as they are; of codes the low bits first and the high ones after them, in planes.
    Planar,
}

impl Version {
    /// The name in `checkpoint_format`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V1 => "gptq",
            Self::V2 => "gptq_v2",
            Self::Planar => "gptq_p",
        }
    }
}

/// The settings of a folder.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The bits of linears for which nothing else is said.
    pub(crate) bits: u32,
    /// Bits that single linears may have instead.
    pub(crate) other_bits: BTreeSet<u32>,
    /// Weights in a group of these linears; −1 is a whole row.
    pub(crate) group_size: i64,
    /// Sizes of groups that single linears may have instead.
    pub(crate) other_groups: BTreeSet<i64>,
    /// How zero points and codes are stored.
    pub(crate) version: Version,
    /// Whether all linears are symmetric.
    pub(crate) symmetric: bool,
    /// The file that they are in.
    pub(crate) file: &'static str,
}

/// The settings as they are written, and the file that has them; none if the folder is of another format.
///
/// # Errors
/// Fails with kind `CORRUPT` when one of the files is no JSON.
pub(crate) fn written(files: &[FileView<'_>]) -> Result<Option<(Map<String, Value>, &'static str)>> {
    let Some((settings, file)) = settings_in(files, &[SETTINGS])? else { return Ok(None) };
    let ours = match text(&settings, "quant_method") {
        // `AutoRound` writes other tensors under the same method.
        Some(method) => method == METHOD || autoround(&settings).is_some_and(|packing| !packing.contains("awq")),
        // The first writers named no method; the file's name and these keys were enough.
        None => file == SETTINGS && settings.contains_key("bits") && settings.contains_key("group_size"),
    };
    Ok(ours.then_some((settings, file)))
}

impl Settings {
    /// Understands the settings that a file has.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` for values that are impossible, and with `UNSUPPORTED` for layouts that are not the
    /// format's.
    pub(super) fn parse(written: &Map<String, Value>, file: &'static str) -> Result<Self> {
        let impossible = |key: &str, value: &Value| Failure::corrupt(format!("`{key}` is {value}")).about(file);
        let absent = |key: &str| Failure::corrupt(format!("the settings have no `{key}`")).about(file);
        let bits = written.get("bits").ok_or_else(|| absent("bits"))?;
        let bits = whole(bits).ok_or_else(|| impossible("bits", bits))?;
        let group = written.get("group_size").ok_or_else(|| absent("group_size"))?;
        let group_size = whole(group).filter(|size| is_group(*size)).ok_or_else(|| impossible("group_size", group))?;
        let bits = known_bits(bits).ok_or_else(|| {
            Failure::unsupported(format!("its weights have {bits} bits")).about(file).hint("2 to 8 bits are read")
        })?;
        if let Some(other) = text(written, "pack_dtype").filter(|dtype| *dtype != "int32") {
            return Err(Failure::unsupported(format!("its codes are packed into {other}"))
                .about(file)
                .hint("only packing into int32 is read, which all other readers ask for too"));
        }
        if flag(written, "is_marlin_format") == Some(true) {
            return Err(Failure::unsupported("its codes are in tiles for the Marlin kernel (`is_marlin_format`)")
                .about(file)
                .hint("`gptq` and `gptq_v2` are read; others are made for one kernel"));
        }
        let version = version(written, file)?;
        let (mut other_bits, mut other_groups) = (BTreeSet::new(), BTreeSet::new());
        // What single linears have: by pattern of their names (GPTQModel), or by name (AutoRound).
        for rules in ["dynamic", "extra_config"].iter().filter_map(|key| written.get(*key)?.as_object()) {
            for rule in rules.values() {
                other_bits.extend(rule.get("bits").and_then(whole).and_then(known_bits));
                other_groups.extend(rule.get("group_size").and_then(whole).filter(|size| is_group(*size)));
            }
        }
        let symmetric = is_symmetric(written);
        Ok(Self { bits, other_bits, group_size, other_groups, version, symmetric, file })
    }

    /// Bits that a linear may have, the usual ones first.
    pub(crate) fn possible_bits(&self) -> impl Iterator<Item = u32> {
        std::iter::once(self.bits).chain(self.other_bits.iter().copied())
    }

    /// Sizes that its groups may have, the usual one first.
    pub(crate) fn possible_groups(&self) -> impl Iterator<Item = i64> {
        std::iter::once(self.group_size).chain(self.other_groups.iter().copied())
    }
}

/// A whole number, however JSON has it.
fn whole(value: &Value) -> Option<i64> {
    value.as_i64()
}

fn known_bits(bits: i64) -> Option<u32> {
    BITS.into_iter().find(|known| i64::from(*known) == bits)
}

fn is_group(size: i64) -> bool {
    size == -1 || size > 0
}

/// Whether settings say that all linears are symmetric.
fn is_symmetric(written: &Map<String, Value>) -> bool {
    let some_say = ["dynamic", "extra_config"].iter().filter_map(|key| written.get(*key)?.as_object());
    let some_say = some_say.flat_map(|rules| rules.values()).any(|rule| rule.get("sym").is_some());
    flag(written, "sym") == Some(true) && !some_say
}

/// How zero points are stored, by whichever key the writer uses.
fn version(written: &Map<String, Value>, file: &'static str) -> Result<Version> {
    let named = text(written, "checkpoint_format").or_else(|| text(written, "format"));
    let found = match (autoround(written), named) {
        (Some(packing), _) => of_autoround(packing).ok_or(packing),
        (None, Some("gptq") | None) => Ok(Version::V1),
        (None, Some("gptq_v2")) => Ok(Version::V2),
        (None, Some("gptq_p")) => Ok(Version::Planar),
        (None, Some(other)) => Err(other),
    };
    found.map_err(|other| {
        Failure::unsupported(format!("its checkpoint format is `{other}`"))
            .about(file)
            .hint("`gptq`, `gptq_v2` and `gptq_p` are read; others are made for one kernel")
    })
}

/// How `AutoRound` stores zero points, by what it says of its packing: a family, and whose tensors.
fn of_autoround(packing: &str) -> Option<Version> {
    match packing.split_once(':').unwrap_or((packing, "")) {
        // What is not told readers take for this.
        ("auto", _) => Some(Version::V1),
        (_, whose) if whose.contains("gptqmodel") => Some(Version::V2),
        (_, whose) if whose.contains("gptq") => Some(Version::V1),
        ("auto_round", "" | "exllamav2" | "triton" | "tritonv2") => Some(Version::V2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use qhost_packed::{CONFIG, KEY};
    use qhost_plugin_api::sdk::FailureKind;
    use serde_json::json;

    use super::*;

    fn read(config: &Value, settings: Option<&Value>) -> Result<Settings> {
        let (config, settings) = (config.to_string(), settings.map(Value::to_string));
        let mut files = vec![FileView { name: CONFIG, bytes: config.as_bytes() }];
        files.extend(settings.as_ref().map(|text| FileView { name: SETTINGS, bytes: text.as_bytes() }));
        let (written, file) = written(&files)?.ok_or_else(|| Failure::corrupt("is of another format"))?;
        Settings::parse(&written, file)
    }

    #[test]
    fn every_writer_s_words_are_understood() {
        let gptqmodel = json!({KEY: {"quant_method": "gptq", "bits": 4, "group_size": 128, "checkpoint_format": "gptq_v2",
            "dynamic": {"+:.*down": {"bits": 8, "group_size": 32}, "-:.*head": {}}}});
        let found = read(&gptqmodel, None).unwrap();
        assert_eq!((found.bits, found.group_size, found.version), (4, 128, Version::V2));
        assert_eq!(found.possible_bits().collect::<Vec<_>>(), [4, 8]);
        assert_eq!(found.possible_groups().collect::<Vec<_>>(), [128, 32]);
        let old = json!({"bits": 3, "group_size": -1, "damp_percent": 0.01, "desc_act": true});
        let found = read(&json!({"model_type": "llama"}), Some(&old)).unwrap();
        assert_eq!((found.bits, found.group_size, found.version, found.file), (3, -1, Version::V1, SETTINGS));
        for (key, packing, version) in [
            ("packing_format", "auto_round:auto_gptq", Version::V1),
            ("packing_format", "auto_round:gptq", Version::V1),
            ("packing_format", "auto_round", Version::V2),
            ("packing_format", "auto_round:gptqmodel", Version::V2),
            ("backend", "auto_round:exllamav2", Version::V2),
            ("backend", "auto_round:gptq:exllamav2", Version::V1),
            ("backend", "auto", Version::V1),
            ("sym", "", Version::V1),
        ] {
            for method in ["auto-round", "intel/auto-round"] {
                let config = json!({KEY: {"quant_method": method, "bits": 2, "group_size": 32, key: packing}});
                assert_eq!(read(&config, None).unwrap().version, version, "{config}");
            }
        }
    }

    #[test]
    fn settings_that_are_impossible_or_of_another_layout_are_refused() {
        let with = |key: &str, value: Value| {
            let mut config = json!({KEY: {"quant_method": "gptq", "bits": 4, "group_size": 128}});
            config[KEY][key] = value;
            read(&config, None).unwrap_err()
        };
        for (key, value, kind) in [
            ("bits", json!(9), FailureKind::UNSUPPORTED),
            ("bits", json!("4"), FailureKind::CORRUPT),
            ("bits", json!(1_u64 << 40), FailureKind::UNSUPPORTED),
            ("group_size", json!(0), FailureKind::CORRUPT),
            ("group_size", json!(-2), FailureKind::CORRUPT),
            ("checkpoint_format", json!("marlin"), FailureKind::UNSUPPORTED),
            ("pack_dtype", json!("int64"), FailureKind::UNSUPPORTED),
            ("is_marlin_format", json!(true), FailureKind::UNSUPPORTED),
        ] {
            let failure = with(key, value.clone());
            assert_eq!(failure.kind, kind, "{key} {value}: {failure}");
            assert!(failure.to_string().contains(CONFIG), "{failure}");
        }
        assert!(read(&json!({}), None).is_err());
        assert!(read(&json!({KEY: {"quant_method": "other", "bits": 4, "group_size": 128}}), None).is_err());
        let autoround = |key: &str, value: &str| {
            read(&json!({KEY: {"quant_method": "auto-round", "bits": 4, "group_size": 128, key: value}}), None)
        };
        assert!(autoround("packing_format", "auto_round:auto_awq").unwrap_err().message.contains("another"));
        let other = autoround("data_type", "mx_fp").unwrap_err();
        assert!(other.kind == FailureKind::UNSUPPORTED && other.message.contains("mx_fp"), "{other}");
        let other = autoround("packing_format", "auto_round:llm_compressor").unwrap_err();
        assert!(other.kind == FailureKind::UNSUPPORTED && other.message.contains("llm_compressor"), "{other}");
    }
}
