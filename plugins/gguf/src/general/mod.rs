//! `general.*`: what the model is called, by whom it is, and what it was made from.
//!
//! The keys, their order and the guesses behind them are those of the reference converter (`gguf-py`,
//! `Metadata`): first the model card, then `_name_or_path` of `config.json`, then the model's own name. It
//! knows no weights; of the file's tensors it takes the count of parameters.

mod card;
mod name;
mod size;

use qhost_plugin_api::{documents::Model, sdk::Result};
use serde_json::{Map, Value};

use crate::{metadata::Metadata, tokenizer::Files};
use card::{Card, Node};
use name::{Components, title};
pub(crate) use size::Parameters;

/// The file whose front matter is the model card's data.
const CARD: &str = "README.md";
/// Nobody lists more sources; each becomes up to nine keys.
const MOST_SOURCES: usize = 256;

/// The `general.*` pairs that describe the model.
///
/// # Errors
/// Fails when a file cannot be read.
pub(crate) fn general(
    model: &Model,
    files: &dyn Files,
    parameters: Parameters,
    warnings: &mut Vec<String>,
) -> Result<Metadata> {
    let card = match files.start(CARD, card::LONGEST)? {
        Some(bytes) => Card::read(&bytes).unwrap_or_else(|reason| {
            warnings.push(format!("{CARD} is not used for the file's description: {reason}"));
            Card::default()
        }),
        None => Card::default(),
    };
    // A file that is not JSON is the tokenizer's to report.
    let generation: Map<String, Value> =
        files.read("generation_config.json")?.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let mut description = Description::of_card(&card, parameters.total);
    if let Some(id) = model.config.get("_name_or_path").and_then(Value::as_str)
        // With more slashes it is a path on somebody's computer.
        && id.matches('/').count() <= 1
    {
        description.fill(Components::of(id, parameters.total));
    }
    description.fill(Components::of(&model.name, parameters.total));
    description.size_label.get_or_insert_with(|| parameters.label());
    if model.family == "phi3" {
        description.keep_phi3(&model.name);
    }

    let mut metadata = Metadata::new();
    sampling(&generation, &mut metadata)?;
    description.write(&mut metadata, warnings)?;
    Ok(metadata)
}

/// What is known of the model, under the names of the keys.
///
/// A text that is there but empty stops the search and is not written, as in the reference.
#[derive(Debug, Default)]
struct Description {
    name: Option<String>,
    author: Option<String>,
    version: Option<String>,
    organization: Option<String>,
    finetune: Option<String>,
    basename: Option<String>,
    summary: Option<String>,
    size_label: Option<String>,
    license: Option<String>,
    license_name: Option<String>,
    license_link: Option<String>,
    url: Option<String>,
    doi: Option<String>,
    uuid: Option<String>,
    repo_url: Option<String>,
    base_models: Option<Vec<Source>>,
    datasets: Option<Vec<Source>>,
    tags: Vec<String>,
    languages: Vec<String>,
}

impl Description {
    fn of_card(card: &Card, total: u64) -> Self {
        let text = |keys: &[&str]| keys.iter().find_map(|key| card.get(key)?.text()).map(str::to_owned);
        let list = |keys: [&str; 2]| {
            let texts = keys.iter().filter_map(|key| card.get(key)).flat_map(Node::texts);
            texts.map(str::to_owned).collect()
        };
        Self {
            name: text(&["name", "model_name"]),
            author: text(&["author", "model_author", "model_creator"]),
            version: text(&["version", "model_version"]),
            organization: text(&["organization", "model_organization"]),
            finetune: text(&["finetune", "model_finetune"]),
            basename: text(&["basename", "model_basename", "model_type"]),
            summary: text(&["description", "model_description"]),
            size_label: text(&["size_label", "model_size_label"]),
            license: card.get("license").map(|node| node.texts().collect::<Vec<_>>().join(",")),
            license_name: text(&["license_name"]),
            license_link: text(&["license_link"]),
            url: text(&["url", "model_url"]),
            doi: text(&["doi", "model_doi"]),
            uuid: text(&["uuid", "model_uuid"]),
            repo_url: text(&["repo_url", "model_repo_url"]),
            base_models: sources(card, ["base_model", "base_models", "base_model_sources"], total),
            datasets: sources(card, ["datasets", "dataset", "dataset_sources"], total),
            tags: list(["tags", "pipeline_tag"]),
            languages: list(["languages", "language"]),
        }
    }

    /// Takes from a name what is not known yet.
    fn fill(&mut self, components: Components) {
        let fill = |known: &mut Option<String>, found: Option<String>| {
            if known.is_none() {
                *known = found;
            }
        };
        fill(&mut self.name, Some(title(&components.name)));
        fill(&mut self.organization, components.organization.as_deref().map(title));
        fill(&mut self.basename, components.basename);
        fill(&mut self.finetune, components.finetune);
        fill(&mut self.version, components.version);
        fill(&mut self.size_label, components.size_label);
    }

    /// llama.cpp takes in the spaces after the special tokens of Phi-3, as its tokenizer does, in files whose
    /// name has `phi-3` or `phi3` in it. The reference converter's title has neither.
    fn keep_phi3(&mut self, id: &str) {
        let tells = |name: &str| ["phi-3", "phi3"].iter().any(|part| name.to_lowercase().contains(part));
        if tells(id) && !self.name.as_deref().is_some_and(tells) {
            self.name = Some(id.rsplit('/').next().unwrap_or(id).to_owned());
        }
    }

    fn write(self, metadata: &mut Metadata, warnings: &mut Vec<String>) -> Result<()> {
        for (key, text) in [
            ("name", self.name),
            ("author", self.author),
            ("version", self.version),
            ("organization", self.organization),
            ("finetune", self.finetune),
            ("basename", self.basename),
            ("description", self.summary),
            ("size_label", self.size_label),
            ("license", self.license),
            ("license.name", self.license_name),
            ("license.link", self.license_link),
            ("source.url", self.url),
            ("source.doi", self.doi),
            ("source.uuid", self.uuid),
            ("source.repo_url", self.repo_url),
        ] {
            if let Some(text) = text.filter(|text| !text.is_empty()) {
                metadata.push(format!("general.{key}"), text)?;
            }
        }
        for (kind, list) in [("base_model", self.base_models), ("dataset", self.datasets)] {
            let Some(mut list) = list else { continue };
            if list.len() > MOST_SOURCES {
                warnings.push(format!(
                    "{CARD} names {} sources as {kind}: the first {MOST_SOURCES} are written",
                    list.len()
                ));
                list.truncate(MOST_SOURCES);
            }
            // Bounded by `MOST_SOURCES`.
            metadata.push(format!("general.{kind}.count"), u32::try_from(list.len()).unwrap_or(u32::MAX))?;
            for (index, source) in list.into_iter().enumerate() {
                for (key, text) in source.0 {
                    if !text.is_empty() {
                        metadata.push(format!("general.{kind}.{index}.{key}"), text)?;
                    }
                }
            }
        }
        for (key, list) in [("tags", self.tags), ("languages", self.languages)] {
            if !list.is_empty() {
                metadata.push(format!("general.{key}"), list)?;
            }
        }
        Ok(())
    }
}

/// What a source is described by, in the order in which it is written.
const SOURCE_KEYS: [&str; 9] =
    ["name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url"];

/// A model or data set that the model was made from: keys of [`SOURCE_KEYS`] with their texts.
#[derive(Debug, Default)]
struct Source(Vec<(&'static str, String)>);

impl Source {
    fn of(node: &Node, total: u64) -> Self {
        match node {
            Node::Map(entries) => {
                let text = |key: &str| entries.iter().rev().find(|(name, _)| name == key)?.1.text();
                Self(SOURCE_KEYS.into_iter().filter_map(|key| Some((key, text(key)?.to_owned()))).collect())
            }
            Node::Text(text) => Self::named(text, total),
            Node::Null | Node::List(_) => Self::default(),
        }
    }

    /// From a repository's id, or its address.
    fn named(text: &str, total: u64) -> Self {
        let mut url = None;
        let mut id = Some(text);
        if ["http://", "https://", "ssh://"].iter().any(|scheme| text.starts_with(scheme)) {
            url = Some(text.to_owned());
            let path = ["https", "http"].iter().find_map(|s| text.strip_prefix(s)?.strip_prefix("://huggingface.co/"));
            id = path.filter(|path| path.split('/').count() == 2 && path.split('/').all(|part| !part.is_empty()));
        }
        let components = id.map(|id| Components::of(id, total));
        let mut pairs = Vec::new();
        if let Some(Components { name, organization, version, .. }) = components {
            if let (None, Some(organization)) = (&url, &organization) {
                url = Some(format!("https://huggingface.co/{organization}/{name}"));
            }
            pairs.push(("name", title(&name)));
            pairs.extend(version.map(|version| ("version", version)));
            pairs.extend(organization.map(|organization| ("organization", title(&organization))));
        }
        pairs.extend(url.map(|url| ("repo_url", url)));
        Self(pairs)
    }
}

/// The sources under the first of these keys that is there.
fn sources(card: &Card, keys: [&str; 3], total: u64) -> Option<Vec<Source>> {
    let node = keys.iter().find_map(|key| card.get(key))?;
    Some(match node {
        Node::Text(_) => vec![Source::of(node, total)],
        Node::List(list) => list.iter().map(|node| Source::of(node, total)).collect(),
        Node::Null | Node::Map(_) => Vec::new(),
    })
}

/// The recommended sampling.
fn sampling(generation: &Map<String, Value>, metadata: &mut Metadata) -> Result<()> {
    let mut push = |key: &str, value: crate::metadata::Value| metadata.push(format!("general.sampling.{key}"), value);
    if let Some(sequence) = generation.get("sequence").and_then(Value::as_str).filter(|text| !text.is_empty()) {
        push("sequence", sequence.into())?;
    }
    for (key, names, whole) in [
        ("top_k", &["top_k"][..], true),
        ("top_p", &["top_p"], false),
        ("min_p", &["min_p"], false),
        ("xtc_probability", &["xtc_probability"], false),
        ("xtc_threshold", &["xtc_threshold"], false),
        ("temp", &["temperature"], false),
        ("penalty_last_n", &["penalty_last_n"], true),
        ("penalty_repeat", &["penalty_repeat", "repetition_penalty"], false),
        ("mirostat", &["mirostat"], true),
        ("mirostat_tau", &["mirostat_tau"], false),
        ("mirostat_eta", &["mirostat_eta"], false),
    ] {
        let Some(value) = names.iter().find_map(|name| generation.get(*name)) else { continue };
        if whole {
            if let Some(number) = value.as_i64().and_then(|number| i32::try_from(number).ok()) {
                push(key, number.into())?;
            }
        } else if let Some(number) = value.as_f64() {
            #[expect(clippy::cast_possible_truncation, reason = "the format has f32")]
            let number = number as f32;
            if number.is_finite() {
                push(key, number.into())?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use qhost_plugin_api::sdk::Result;
    use serde_json::json;

    use super::*;
    use crate::metadata::{Array, Value as Stored};

    /// Files in memory.
    struct Folder(BTreeMap<&'static str, Vec<u8>>);

    impl Files for Folder {
        fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
            Ok(self.0.get(name).cloned())
        }

        fn names(&self) -> Vec<String> {
            self.0.keys().map(|name| (*name).to_owned()).collect()
        }
    }

    #[derive(serde::Deserialize)]
    struct Case {
        name: String,
        tensors: Vec<(String, Vec<u64>)>,
        card: Option<String>,
        config: Value,
        generation: Option<String>,
        expected: Vec<(String, String, Value)>,
    }

    fn described(name: &str, config: Value, files: &Folder, parameters: Parameters) -> (Metadata, Vec<String>) {
        let mut model = Model::new(name, "llama");
        model.config = config;
        let mut warnings = Vec::new();
        (general(&model, files, parameters, &mut warnings).unwrap(), warnings)
    }

    fn of_card(card: impl Into<Vec<u8>>) -> (Metadata, Vec<String>) {
        described("m", json!({}), &Folder([(CARD, card.into())].into()), Parameters::default())
    }

    fn pairs(metadata: &Metadata) -> Vec<(String, String, Value)> {
        let pairs = metadata.iter().map(|(key, value)| {
            let (kind, value) = match value {
                Stored::String(text) => ("STRING", json!(text)),
                Stored::U32(number) => ("UINT32", json!(number)),
                Stored::I32(number) => ("INT32", json!(number)),
                Stored::F32(number) => ("FLOAT32", json!(number)),
                Stored::Array(Array::String(texts)) => ("ARRAY", json!(texts)),
                other => panic!("{key} is {other:?}"),
            };
            (key.to_owned(), kind.to_owned(), value)
        });
        pairs.collect()
    }

    #[test]
    fn keys_are_those_of_the_reference_converter() {
        let cases: Vec<Case> =
            serde_json::from_str(include_str!("../../../../tests/golden/general/cases.json")).unwrap();
        assert!(cases.len() > 100);
        for mut case in cases {
            let mut files = BTreeMap::new();
            files.extend(case.card.as_ref().map(|card| (CARD, card.clone().into_bytes())));
            files.extend(case.generation.map(|text| ("generation_config.json", text.into_bytes())));
            let tensors = case.tensors.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()));
            let (made, warnings) = described(&case.name, case.config, &Folder(files), Parameters::of(tensors));
            for (_, kind, value) in &mut case.expected {
                if kind == "FLOAT32" {
                    #[expect(clippy::cast_possible_truncation, reason = "the format has f32")]
                    let number = value.as_f64().unwrap() as f32;
                    *value = json!(number);
                }
            }
            assert_eq!(pairs(&made), case.expected, "{} {:?}", case.name, case.card);
            assert!(warnings.is_empty(), "{warnings:?}");
        }
    }

    #[test]
    fn phi_3_keeps_the_name_by_which_llama_cpp_knows_it() {
        let name = |id: &str, family: &str| {
            let model = Model::new(id, family);
            let made = general(&model, &Folder(BTreeMap::new()), Parameters::default(), &mut Vec::new()).unwrap();
            made.get("general.name").and_then(Stored::as_str).map(str::to_owned)
        };
        assert_eq!(name("Phi-3-mini-4k-instruct", "phi3").as_deref(), Some("Phi-3-mini-4k-instruct"));
        assert_eq!(name("microsoft/phi-3.5-mini", "phi3").as_deref(), Some("phi-3.5-mini"));
        assert_eq!(name("Phi-4-mini-instruct", "phi3").as_deref(), Some("Phi 4 Mini Instruct"));
        assert_eq!(name("Phi-3-mini-4k-instruct", "llama").as_deref(), Some("Phi 3 Mini 4k Instruct"));
    }

    /// The reference converter fails on these.
    #[test]
    fn numbers_and_truths_are_texts() {
        let (made, warnings) =
            of_card("---\nversion: 1.0\nlanguage: no\ntags: [1, yes, 2024-01-01]\nlicense: [mit, {}]\n---\n");
        let text = |key: &str| made.get(key).and_then(Stored::as_str);
        assert_eq!((text("general.version"), text("general.license")), (Some("1.0"), Some("mit")));
        let list = |texts: &[&str]| Stored::from(texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(made.get("general.languages"), Some(&list(&["no"])));
        assert_eq!(made.get("general.tags"), Some(&list(&["1", "yes", "2024-01-01"])));
        assert!(warnings.is_empty());
    }

    #[test]
    fn a_card_that_cannot_be_read_is_told_and_left_out() {
        let long = format!("---\n{}", "# a comment\n".repeat(card::LONGEST / 10));
        for (card, reason) in [
            (b"---\nlicense: mit\n a: [b\n---\n".as_slice(), "not YAML"),
            (b"---\n- license\n---\n", "no keys"),
            (b"---\nlicense: \xff\n---\n", "not UTF-8"),
            (long.as_bytes(), "longer than"),
        ] {
            let (made, warnings) = of_card(card);
            assert_eq!(made.iter().map(|(key, _)| key).collect::<Vec<_>>(), ["general.name", "general.size_label"]);
            assert!(warnings[0].contains(reason), "{warnings:?}");
        }
    }

    #[test]
    fn hostile_cards_cost_no_more_than_their_length() {
        let names: String = "- a/b-7B\n".repeat(100_000);
        let bomb = "&a [x, x]\n".to_owned() + &"- [*a, *a, *a, *a]\n".repeat(1000);
        for yaml in [
            "tags: ".to_owned() + &"[".repeat(100_000),
            "- ".repeat(100_000),
            "? ".repeat(100_000),
            "a:\n".repeat(100_000),
            format!("tags: {bomb}"),
            format!("base_model:\n{names}"),
            (0..500).map(|depth| " ".repeat(depth) + "name:\n").collect(),
        ] {
            let (made, _) = of_card(format!("---\n{yaml}\n---\n"));
            assert!(made.len() < 3000, "{}", &yaml[..20]);
        }
        let (made, warnings) = of_card(format!("---\nbase_model:\n{names}---\n"));
        assert_eq!(made.get("general.base_model.count").and_then(Stored::as_u64), Some(MOST_SOURCES as u64));
        assert_eq!(warnings.len(), 1);
        // What is deeper than anything that is asked for is passed over, with what follows it in its place.
        let (made, _) = of_card("---\ntags: [a, [[[[b]]]], c]\nname: n\n? [x, y]\n: {z: 1}\nlicense: mit\n---\n");
        let text = |key: &str| made.get(key).and_then(Stored::as_str);
        assert_eq!((text("general.name"), text("general.license")), (Some("n"), Some("mit")));
        assert_eq!(made.get("general.tags"), Some(&Stored::from(vec!["a".to_owned(), "c".to_owned()])));
    }
}
