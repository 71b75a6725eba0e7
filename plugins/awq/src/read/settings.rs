//! What a folder says of how its linears are packed: `quantization_config` of `config.json`, or a file of its own.
//!
//! `AutoAWQ`, `GPTQModel` and `AutoRound` write the same settings under names of their own.

use std::collections::BTreeSet;

use qhost_packed::{autoround, flag, settings_in, text};
use qhost_plugin_api::sdk::{Failure, FileView, Result};
use serde_json::{Map, Value};

use super::layout::Layout;

/// The settings on their own, as the first writers of the format stored them.
const SETTINGS: &str = "quant_config.json";
/// The settings on their own, as `GPTQModel` stores them for this format too.
const OTHER_SETTINGS: &str = "quantize_config.json";
/// The name of the method.
const METHOD: &str = "awq";
/// The bits of a code.
pub(crate) const BITS: u32 = 4;

/// The settings of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How codes are packed.
    pub(crate) layout: Layout,
    /// Weights in a group; −1 is a whole row.
    pub(crate) group_size: i64,
    /// Sizes of groups that single linears may have instead.
    pub(crate) other_groups: BTreeSet<i64>,
    /// Whether zero points are chosen; else they are in the middle, and need not be stored.
    pub(crate) zero_point: bool,
    /// What names of modules that are not packed contain, if it is told.
    pub(crate) not_packed: Option<Vec<String>>,
    /// Whether single linears may have other bits.
    pub(crate) may_be_mixed: bool,
}

/// The settings as they are written, and the file that has them; none if the folder is of another format.
///
/// # Errors
/// Fails with kind `CORRUPT` when one of the files is no JSON.
pub(crate) fn written(files: &[FileView<'_>]) -> Result<Option<(Map<String, Value>, &'static str)>> {
    let found = settings_in(files, &[SETTINGS, OTHER_SETTINGS])?;
    Ok(found.filter(|(settings, file)| {
        let has = |keys: [&str; 2]| keys.iter().any(|key| settings.contains_key(*key));
        // The first writers named no method; the file's name and these keys were enough.
        let is_old = *file == SETTINGS && has(["w_bit", "bits"]) && has(["q_group_size", "group_size"]);
        let of_method = text(settings, "quant_method").map_or(is_old, |method| method.eq_ignore_ascii_case(METHOD));
        autoround(settings).map_or(of_method, |packing| {
            // After the family: `auto_round:auto_awq`.
            packing.split_once(':').is_some_and(|(_, packing)| packing.contains(METHOD))
        })
    }))
}

impl Settings {
    /// Understands the settings that a file has.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` for values that are impossible, and with `UNSUPPORTED` for layouts that are not the
    /// format's.
    pub(crate) fn parse(written: &Map<String, Value>, file: &'static str) -> Result<Self> {
        let bits = number(written, ["bits", "w_bit"], file)?;
        let group_size = number(written, ["group_size", "q_group_size"], file)?;
        if !is_group(group_size) {
            return Err(Failure::corrupt(format!("`group_size` is {group_size}")).about(file));
        }
        if bits != i64::from(BITS) {
            return Err(Failure::unsupported(format!("its weights have {bits} bits"))
                .about(file)
                .hint("4 bits are read: only one program packs others, in a layout of its own"));
        }
        let layout = layout(written, file)?;
        let usual = if layout == Layout::Fast { "int16" } else { "int32" };
        if let Some(other) = text(written, "pack_dtype").filter(|dtype| ![usual, "int32"].contains(dtype)) {
            return Err(Failure::unsupported(format!("its codes are packed into {other}"))
                .about(file)
                .hint("only packing into int32 is read, which all other readers ask for too"));
        }
        if flag(written, "desc_act") == Some(true) {
            return Err(Failure::unsupported("its inputs have an order of their own (`desc_act`)")
                .about(file)
                .hint("no program that loads the format knows that"));
        }
        // What single linears have: by pattern of their names (GPTQModel), or by name (AutoRound).
        let rules = ["dynamic", "extra_config"].iter().filter_map(|key| written.get(*key)?.as_object());
        let rules: Vec<_> = rules.flat_map(|rules| rules.values()).collect();
        let other_groups = rules.iter().filter_map(|rule| rule.get("group_size")?.as_i64());
        let symmetric = || flag(written, "sym").map(|symmetric| !symmetric);
        let not_packed = written.get("modules_to_not_convert").and_then(Value::as_array);
        let not_packed = not_packed.map(|names| names.iter().filter_map(Value::as_str).map(str::to_owned).collect());
        Ok(Self {
            layout,
            group_size,
            other_groups: other_groups.filter(|size| is_group(*size)).collect(),
            zero_point: flag(written, "zero_point").or_else(symmetric).unwrap_or(true),
            not_packed,
            may_be_mixed: rules.iter().any(|rule| rule.get("bits").is_some()),
        })
    }

    /// The size of a linear's groups, and whether they are whole rows: the first of those that it may have which fits.
    pub(crate) fn group_of(&self, inputs: usize, fits: impl Fn(usize) -> bool) -> Option<(usize, bool)> {
        let sizes = self.group_sizes().map(|size| usize::try_from(size).ok().filter(|size| *size <= inputs));
        let whole = |size: Option<usize>| (size.unwrap_or(inputs), size.is_none());
        sizes.map(whole).find(|(size, _)| fits(*size))
    }

    /// Sizes that the groups of a linear may have, the usual one first.
    pub(crate) fn group_sizes(&self) -> impl Iterator<Item = i64> {
        std::iter::once(self.group_size).chain(self.other_groups.iter().copied())
    }
}

/// A whole number under one of two names.
fn number(written: &Map<String, Value>, keys: [&str; 2], file: &'static str) -> Result<i64> {
    let found = keys.iter().find_map(|key| Some((key, written.get(*key)?)));
    let (key, value) =
        found.ok_or_else(|| Failure::corrupt(format!("the settings have no `{}`", keys[0])).about(file))?;
    value.as_i64().ok_or_else(|| Failure::corrupt(format!("`{key}` is {value}")).about(file))
}

fn is_group(size: i64) -> bool {
    size == -1 || size > 0
}

/// The layout, by whichever key the writer uses.
fn layout(written: &Map<String, Value>, file: &'static str) -> Result<Layout> {
    let named = ["version", "checkpoint_format", "format"].iter().find_map(|key| text(written, key));
    let named = named.filter(|_| autoround(written).is_none()).unwrap_or(Layout::Gemm.name()).to_lowercase();
    Layout::of(&named).ok_or_else(|| {
        let what = if named == "marlin" { "tiles for the Marlin kernel" } else { "one that is not known" };
        Failure::unsupported(format!("its layout is `{named}`: {what}"))
            .about(file)
            .hint("gemm, gemv, gemv_fast and llm-awq are read; others are made for one kernel")
    })
}

#[cfg(test)]
mod tests {
    use qhost_packed::{CONFIG, KEY};
    use qhost_plugin_api::sdk::FailureKind;
    use serde_json::json;

    use super::*;

    fn read(files: &[(&str, Value)]) -> Result<Option<(Settings, &'static str)>> {
        let texts: Vec<_> = files.iter().map(|(name, value)| (*name, value.to_string())).collect();
        let views: Vec<_> = texts.iter().map(|(name, text)| FileView { name, bytes: text.as_bytes() }).collect();
        let Some((found, file)) = written(&views)? else { return Ok(None) };
        Ok(Some((Settings::parse(&found, file)?, file)))
    }

    #[test]
    fn every_writer_s_words_are_understood() {
        let gptqmodel = json!({KEY: {"quant_method": "awq", "bits": 4, "group_size": 128, "format": "gemm",
            "version": "gemm", "zero_point": false, "dynamic": {"+:.*down": {"group_size": 32}, "-:.*head": {}}}});
        let (found, file) = read(&[(CONFIG, gptqmodel)]).unwrap().unwrap();
        assert_eq!((file, found.zero_point), (CONFIG, false));
        assert_eq!(found.group_sizes().collect::<Vec<_>>(), [128, 32]);
        let autoawq = json!({"zero_point": true, "q_group_size": 64, "w_bit": 4, "version": "GEMM",
            "modules_to_not_convert": ["lm_head"]});
        let (found, file) = read(&[(CONFIG, json!({})), (SETTINGS, autoawq)]).unwrap().unwrap();
        assert_eq!((file, found.zero_point, found.group_size), (SETTINGS, true, 64));
        assert_eq!(found.not_packed, Some(vec!["lm_head".to_owned()]));
        let own = json!({"quant_method": "awq", "bits": 4, "group_size": -1, "sym": true});
        let (found, file) = read(&[(OTHER_SETTINGS, own)]).unwrap().unwrap();
        assert_eq!((file, found.zero_point, found.group_size), (OTHER_SETTINGS, false, -1));
        let autoround = json!({KEY: {"quant_method": "auto-round", "packing_format": "auto_round:auto_awq", "bits": 4,
            "group_size": 128, "sym": true, "extra_config": {"lm_head": {"bits": 16}, "x": {"group_size": 64}}}});
        let (found, _) = read(&[(CONFIG, autoround)]).unwrap().unwrap();
        assert_eq!((found.layout, found.zero_point), (Layout::Gemm, false));
        assert_eq!(found.group_sizes().collect::<Vec<_>>(), [128, 64]);
        for (name, layout) in [("GEMV", Layout::Gemv), ("gemv_fast", Layout::Fast), ("exllama", Layout::Gemm)] {
            let config = json!({KEY: {"quant_method": "awq", "bits": 4, "group_size": 64, "version": name}});
            assert_eq!(read(&[(CONFIG, config)]).unwrap().unwrap().0.layout, layout);
        }
    }

    #[test]
    fn folders_of_other_formats_are_left_alone() {
        let other = json!({"quant_method": "gptq", "bits": 4, "group_size": 128});
        assert_eq!(read(&[(CONFIG, json!({KEY: other}))]).unwrap(), None);
        let autoround = json!({"quant_method": "auto-round", "bits": 4, "group_size": 128});
        assert_eq!(read(&[(CONFIG, json!({KEY: autoround}))]).unwrap(), None);
        // What the config says goes before what lies beside it.
        let autoawq = json!({"w_bit": 4, "q_group_size": 64});
        assert_eq!(read(&[(CONFIG, json!({KEY: other})), (SETTINGS, autoawq)]).unwrap(), None);
        // Without a method this file is another format's.
        assert_eq!(read(&[(OTHER_SETTINGS, json!({"bits": 4, "group_size": 128}))]).unwrap(), None);
        assert_eq!(read(&[(SETTINGS, json!({"quantization": {"bits": 4}}))]).unwrap(), None);
    }

    #[test]
    fn settings_that_are_impossible_or_of_another_layout_are_refused() {
        for (key, value, kind) in [
            ("bits", json!(3), FailureKind::UNSUPPORTED),
            ("bits", json!("4"), FailureKind::CORRUPT),
            ("group_size", json!(0), FailureKind::CORRUPT),
            ("group_size", json!(-2), FailureKind::CORRUPT),
            ("version", json!("marlin"), FailureKind::UNSUPPORTED),
            ("version", json!("else"), FailureKind::UNSUPPORTED),
            ("checkpoint_format", json!("marlin"), FailureKind::UNSUPPORTED),
            ("pack_dtype", json!("int16"), FailureKind::UNSUPPORTED),
            ("desc_act", json!(true), FailureKind::UNSUPPORTED),
        ] {
            let mut config = json!({KEY: {"quant_method": "awq", "bits": 4, "group_size": 128}});
            config[KEY][key] = value.clone();
            let failure = read(&[(CONFIG, config)]).unwrap_err();
            assert_eq!(failure.kind, kind, "{key} {value}: {failure}");
            assert!(failure.to_string().contains(CONFIG), "{failure}");
        }
    }
}
