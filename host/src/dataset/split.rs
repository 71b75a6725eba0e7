//! Which files of a repository are a configuration's split, by their names.
//!
//! The patterns are those that data sets on the Hub follow: a folder for each configuration, and files or folders named
//! after the split, such as `en/train-00000-of-00002.parquet`. What a card may say otherwise is not read.

use std::collections::{BTreeMap, BTreeSet};

use super::{Error, source::OnHub};

/// The endings of files with data, the first that is there before the others.
const ENDINGS: [&[&str]; 3] = [&["parquet"], &["jsonl", "ndjson", "json"], &["txt"]];
/// Files with these endings that hold no data.
const OTHER: [&str; 8] = [
    "dataset_infos.json",
    "dataset_info.json",
    "state.json",
    "config.json",
    "readme.txt",
    "license.txt",
    "requirements.txt",
    "croissant.json",
];
/// Splits, and the words that mean them.
const SPLITS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "val", "dev"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];
/// Folders that are no configuration of their own.
const PLAIN_FOLDERS: [&str; 2] = ["data", "default"];
const DEFAULT: &str = "default";

/// The files of the wanted part, in the order of their names.
///
/// # Errors
/// Fails when there is no such part, or when there are several and none is named.
pub(super) fn choose<'a>(names: &[&'a str], wanted: &OnHub, default_split: &str) -> Result<Vec<&'a str>, Error> {
    let data = || wanted.id.as_str().to_owned();
    // Configurations, with their splits, with their files.
    let mut parts: BTreeMap<&str, BTreeMap<&str, BTreeSet<&'a str>>> = BTreeMap::new();
    for name in names.iter().copied().filter(|name| is_data(name)) {
        let split = split_of(name).unwrap_or(SPLITS[0].0);
        parts.entry(configuration_of(name)).or_default().entry(split).or_default().insert(name);
    }
    let named = wanted.configuration.as_deref();
    let mut split = wanted.split.as_deref();
    let splits = match named.and_then(|named| parts.get(named)) {
        Some(splits) => splits,
        // What stands behind the colon is the split where no configuration is called so.
        None if named.is_none() || (split.is_none() && parts.len() == 1) => {
            split = split.or(named);
            let only = if parts.len() == 1 { parts.values().next() } else { parts.get(DEFAULT) };
            match only {
                Some(splits) => splits,
                None if parts.is_empty() => {
                    return Err(Error::NoSplit { data: data(), wanted: default_split.into(), known: Vec::new() });
                }
                None => {
                    let known = parts.keys().map(|name| (*name).to_owned()).collect();
                    return Err(Error::WhichConfiguration { data: data(), known });
                }
            }
        }
        None => {
            let known = parts.keys().map(|name| (*name).to_owned()).collect();
            return Err(Error::NoSplit { data: data(), wanted: named.unwrap_or(DEFAULT).into(), known });
        }
    };
    let wanted = split.unwrap_or(default_split);
    let exact = splits.get(wanted);
    // `train_sft` is the only one that can be meant by `train`.
    let begins = || splits.iter().find(|(name, _)| name.starts_with(wanted)).map(|(_, files)| files);
    if let Some(files) = exact.or_else(begins) {
        return Ok(preferred(files));
    }
    let prefix = named.filter(|named| parts.contains_key(named)).unwrap_or_default();
    let known = splits.keys().map(|name| format!("{prefix}/{name}")).collect();
    Err(Error::NoSplit { data: data(), wanted: wanted.into(), known })
}

/// That one of the parts that a file's name counts is not there, in words.
pub(super) fn missing_shard(names: &[&str]) -> Option<String> {
    let count: usize = names.iter().find_map(|name| numbered(name)?.1.parse().ok())?;
    (names.len() < count).then(|| format!("{} of its {count} files are there", names.len()))
}

/// Whether a file holds data, by its name.
fn is_data(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    let hidden = name.split('/').any(|part| part.starts_with('.'));
    !hidden && !OTHER.contains(&file.as_str()) && ENDINGS.iter().any(|endings| has(name, endings))
}

fn has(name: &str, endings: &[&str]) -> bool {
    name.rsplit_once('.').is_some_and(|(_, ending)| endings.contains(&ending))
}

/// Of files with the same data, those in the form that is preferred.
fn preferred<'a>(files: &BTreeSet<&'a str>) -> Vec<&'a str> {
    let of = |endings: &&[&str]| -> Vec<&'a str> { files.iter().copied().filter(|name| has(name, endings)).collect() };
    ENDINGS.iter().map(of).find(|found| !found.is_empty()).unwrap_or_default()
}

/// The first folder that is named after no split.
fn configuration_of(name: &str) -> &str {
    let folders = name.rsplit_once('/').map_or("", |(folders, _)| folders);
    let is_split = |folder: &str| SPLITS.iter().any(|(_, words)| words.contains(&folder));
    let own =
        folders.split('/').find(|folder| !folder.is_empty() && !PLAIN_FOLDERS.contains(folder) && !is_split(folder));
    own.unwrap_or(DEFAULT)
}

/// The split that a file belongs to: what stands before its number, or the word for a split in its name or in that of
/// the folder nearest to it.
fn split_of(name: &str) -> Option<&str> {
    let file = name.rsplit('/').next().unwrap_or(name);
    if let Some((split, _)) = numbered(file) {
        return Some(word(split).filter(|_| !split.contains('_')).unwrap_or(split));
    }
    name.rsplit('/').find_map(word)
}

/// `train` and `00002` of `train-00000-of-00002.parquet`.
fn numbered(name: &str) -> Option<(&str, &str)> {
    let digits = |text: &str| text.len() >= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let file = name.rsplit('/').next().unwrap_or(name);
    let (before, after) = file.split_once("-of-")?;
    let (split, index) = before.rsplit_once('-')?;
    let count = after.split(['-', '.']).next()?;
    (digits(index) && digits(count)).then_some((split, count))
}

/// The split whose word is a part of a name.
fn word(name: &str) -> Option<&'static str> {
    let mut words = name.split(|character: char| !character.is_ascii_alphanumeric());
    words.find_map(|word| SPLITS.iter().find(|(_, known)| known.contains(&word)).map(|(split, _)| *split))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::RepoId;

    fn chosen<'a>(names: &[&'a str], configuration: &str, split: &str, default: &str) -> Result<Vec<&'a str>, Error> {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let id = RepoId::dataset("acme/prose").unwrap();
        choose(names, &OnHub { id, configuration: given(configuration), split: given(split) }, default)
    }

    const WIKITEXT: [&str; 6] = [
        "README.md",
        "wikitext-103-raw-v1/train-00000-of-00002.parquet",
        "wikitext-103-raw-v1/train-00001-of-00002.parquet",
        "wikitext-2-raw-v1/test-00000-of-00001.parquet",
        "wikitext-2-raw-v1/train-00000-of-00001.parquet",
        "wikitext-2-raw-v1/validation-00000-of-00001.parquet",
    ];

    #[test]
    fn a_configuration_is_a_folder_and_a_split_a_name() {
        let files = chosen(&WIKITEXT, "wikitext-2-raw-v1", "", "test").unwrap();
        assert_eq!(files, ["wikitext-2-raw-v1/test-00000-of-00001.parquet"]);
        assert_eq!(chosen(&WIKITEXT, "wikitext-103-raw-v1", "train", "test").unwrap().len(), 2);
        let error = chosen(&WIKITEXT, "", "", "train").unwrap_err();
        assert!(matches!(error, Error::WhichConfiguration { ref known, .. } if known.len() == 2), "{error}");
        let error = chosen(&WIKITEXT, "wikitext-103-raw-v1", "test", "train").unwrap_err();
        assert_eq!(error.to_string(), "acme/prose has no files for test: there is wikitext-103-raw-v1/train");
        assert!(chosen(&WIKITEXT, "wikitext-3", "", "train").is_err());
    }

    #[test]
    fn other_ways_to_name_files() {
        for (names, file) in [
            (vec!["data/train-00000-of-00001-0123.parquet", "data/test-00000-of-00001.parquet"], 0),
            (vec!["train.jsonl", "test.jsonl", "dataset_infos.json"], 0),
            (vec!["prose.txt", "LICENSE.txt"], 0),
            (vec!["a.parquet", "b.jsonl"], 0),
            (vec!["a.jsonl", "raw/a.parquet"], 0),
            (vec!["validation/0.parquet", "train/0.parquet"], 1),
            (vec!["data/test_sft-00000-of-00001.parquet", "data/train_sft-00000-of-00001.parquet"], 1),
            (vec!["my-val.json", "my_training.json"], 1),
        ] {
            assert_eq!(chosen(&names, "", "", "train").unwrap(), [names[file]], "{names:?}");
        }
        // A word behind the colon may be a split.
        assert_eq!(chosen(&["train.jsonl", "dev.jsonl"], "validation", "", "train").unwrap(), ["dev.jsonl"]);
        let error = chosen(&["image.png"], "", "", "train").unwrap_err();
        assert!(error.to_string().ends_with("there is nothing that can be read"), "{error}");
    }

    #[test]
    fn a_file_that_is_counted_and_not_there_is_missed() {
        let name = "train-00000-of-00002.parquet";
        assert_eq!(missing_shard(&[name]).as_deref(), Some("1 of its 2 files are there"));
        assert_eq!(missing_shard(&[name, name]), None);
        assert_eq!(missing_shard(&["train.txt"]), None);
    }
}
