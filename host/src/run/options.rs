//! Which options each of several formats gets, when one command names them all.
//!
//! It knows what plugins tell of their formats, and no option's meaning.

use std::collections::{BTreeMap, BTreeSet};

use qhost_plugin_api::documents::{FormatDescription, Options};
use serde_json::{Map, Value};

use super::{Error, FormatRequest};

/// Keys of [`Options`] that are not flags for any format: they are dealt out otherwise.
const OF_THEIR_OWN: [&str; 2] = ["level", "plugin"];

/// The options of each format.
///
/// The level is the format's own or the common one. A flag goes to the formats that say that it has a meaning for them,
/// or do not say. `KEY` of a plugin goes to the formats that have it, and `ID.KEY` to those called so; if there is one
/// format, it gets everything.
pub(super) fn dealt_out(
    common: &Options,
    formats: &[(&FormatRequest, &FormatDescription)],
) -> Result<Vec<Options>, Error> {
    let flags = flags(common);
    let mut taken: BTreeSet<&str> = BTreeSet::new();
    let mut options = Vec::new();
    let alone = formats.len() == 1;
    for (request, description) in formats {
        let takes = |key: &str| {
            let told = description.common_options.as_ref().filter(|_| !alone);
            told.is_none_or(|keys| keys.iter().any(|known| known == key))
        };
        let own: Map<_, _> = flags.iter().filter(|(key, _)| takes(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
        taken.extend(flags.keys().filter(|key| takes(key)).map(String::as_str));
        let mut own: Options = serde_json::from_value(Value::Object(own)).unwrap_or_default();
        own.level = request.level.clone().or_else(|| common.level.clone());
        own.plugin = BTreeMap::new();
        for (key, value) in &common.plugin {
            let (key_of_it, is_its) = match key.split_once('.').filter(|(id, _)| *id == request.id) {
                Some((_, own)) => (own, true),
                None => (key.as_str(), alone || description.options.iter().any(|option| option.key == *key)),
            };
            if is_its {
                own.plugin.insert(key_of_it.to_owned(), value.clone());
                taken.insert(key);
            }
        }
        options.push(own);
    }
    if let Some(key) = flags.keys().find(|key| !taken.contains(key.as_str())) {
        return Err(Error::NobodyTakes { option: flag_of(common, key) });
    }
    match common.plugin.keys().find(|key| !taken.contains(key.as_str())) {
        Some(key) => Err(Error::NobodyTakes { option: format!("--plugin-option {key}") }),
        None => Ok(options),
    }
}

/// What is set of flags that formats may have a meaning for, by its key.
fn flags(options: &Options) -> Map<String, Value> {
    let Ok(Value::Object(all)) = serde_json::to_value(options) else { return Map::new() };
    all.into_iter().filter(|(key, value)| !OF_THEIR_OWN.contains(&key.as_str()) && !value.is_null()).collect()
}

/// A flag as the user writes it.
fn flag_of(options: &Options, key: &str) -> String {
    let mut one = flags(options);
    one.retain(|other, _| other == key);
    let one: Options = serde_json::from_value(Value::Object(one)).unwrap_or_default();
    let flag = one.flags_besides_level().first().copied().map(str::to_owned);
    flag.unwrap_or_else(|| format!("--{}", key.replace('_', "-")))
}

#[cfg(test)]
mod tests {
    use qhost_plugin_api::documents::OptionDescription;

    use super::*;

    fn asked(formats: &[(FormatRequest, FormatDescription)], common: &Options) -> Result<Vec<Options>, Error> {
        dealt_out(common, &formats.iter().map(|(request, description)| (request, description)).collect::<Vec<_>>())
    }

    fn format<const N: usize>(id: &str, level: Option<&str>, keys: [&str; N]) -> (FormatRequest, FormatDescription) {
        let mut description = FormatDescription::new(id, Vec::new()).common_options(keys);
        description.options =
            vec![OptionDescription::new(format!("of-{id}"), ""), OptionDescription::new("of-all", "")];
        (FormatRequest { id: id.into(), level: level.map(Into::into) }, description)
    }

    fn plugin(keys: &[&str]) -> BTreeMap<String, String> {
        keys.iter().map(|key| ((*key).to_owned(), "1".to_owned())).collect()
    }

    #[test]
    fn each_format_gets_what_has_a_meaning_for_it() {
        let mut silent = format("c", None, []);
        silent.1.common_options = None;
        let formats = [format("a", Some("own"), ["bits", "symmetric"]), format("b", None, ["effort"]), silent];
        let common = Options {
            level: Some("common".into()),
            bits: Some(4),
            effort: Some("best".into()),
            plugin: plugin(&["of-a", "of-all", "b.of-all-too"]),
            ..Options::default()
        };
        let dealt = asked(&formats, &common).unwrap();
        let expected = [
            Options {
                level: Some("own".into()),
                bits: Some(4),
                plugin: plugin(&["of-a", "of-all"]),
                ..Options::default()
            },
            Options {
                level: Some("common".into()),
                effort: Some("best".into()),
                plugin: plugin(&["of-all", "of-all-too"]),
                ..Options::default()
            },
            Options { plugin: plugin(&["of-all"]), ..common },
        ];
        assert_eq!(dealt, expected);
    }

    #[test]
    fn what_nobody_takes_is_refused_by_its_name() {
        let formats = [format("a", None, ["bits"]), format("b", None, ["effort"])];
        let refused = |options: Options| asked(&formats, &options).unwrap_err().to_string();
        let flags = Options { bits: Some(4), symmetric: Some(false), ..Options::default() };
        assert_eq!(refused(flags), "none of the formats takes --asym");
        let keys = Options { plugin: plugin(&["of-c"]), ..Options::default() };
        assert_eq!(refused(keys), "none of the formats takes --plugin-option of-c");
    }

    #[test]
    fn one_format_gets_everything() {
        let options = Options { bits: Some(4), plugin: plugin(&["x", "a.y"]), ..Options::default() };
        let dealt = asked(&[format("a", None, [])], &options).unwrap();
        assert_eq!(dealt, [Options { plugin: plugin(&["x", "y"]), ..options }]);
    }
}
