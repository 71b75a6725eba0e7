//! The chat templates: where they are found, and under which keys they are written.
//!
//! It knows files and names; what a template says is the business of whoever renders it.

use qhost_plugin_api::sdk::Result;
use serde_json::Value;

use super::{
    Files,
    hugging_face::{TokenizerConfig, read_json, read_text},
};
use crate::metadata::Metadata;

const FOLDER: &str = "additional_chat_templates/";

/// A template and its name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Template {
    name: String,
    text: String,
}

/// The templates, with the order of authority of the reference converter: `tokenizer_config.json`, then
/// `chat_template.jinja` and its neighbours, then `chat_template.json`.
///
/// # Errors
/// Fails when a template file cannot be read.
pub(super) fn read(files: &dyn Files, config: &TokenizerConfig, warnings: &mut Vec<String>) -> Result<Vec<Template>> {
    if let Some(value) = config.values.get("chat_template").filter(|value| !value.is_null()) {
        return Ok(listed(value, "tokenizer_config.json", warnings));
    }
    if let Some(text) = read_text(files, "chat_template.jinja")? {
        let mut templates = vec![default(text)];
        let mut names: Vec<String> = files.names().into_iter().filter(|name| name.starts_with(FOLDER)).collect();
        names.sort();
        for file in names {
            let name = file.strip_prefix(FOLDER).and_then(|rest| rest.strip_suffix(".jinja"));
            if let (Some(name), Some(text)) = (name.map(str::to_owned), read_text(files, &file)?) {
                templates.push(Template { name, text });
            }
        }
        return Ok(templates);
    }
    let outer: Option<Value> = read_json(files, "chat_template.json")?;
    let value = outer.as_ref().and_then(|outer| outer.get("chat_template"));
    Ok(value.map_or_else(Vec::new, |value| listed(value, "chat_template.json", warnings)))
}

fn default(text: String) -> Template {
    Template { name: "default".to_owned(), text }
}

/// One template, or a list of named ones.
fn listed(value: &Value, file: &str, warnings: &mut Vec<String>) -> Vec<Template> {
    match value {
        Value::String(text) => vec![default(text.clone())],
        Value::Array(entries) => entries
            .iter()
            .filter_map(|entry| {
                let text = |key: &str| entry.get(key)?.as_str().map(str::to_owned);
                Some(Template { name: text("name")?, text: text("template")? })
            })
            .collect(),
        _ => {
            warnings.push(format!("`chat_template` of {file} is neither text nor a list: left out"));
            Vec::new()
        }
    }
}

/// Appends the templates: named ones under their own keys, then the list of names, then the default.
///
/// # Errors
/// Fails when a key is already there.
pub(super) fn write(templates: &[Template], metadata: &mut Metadata) -> Result<()> {
    let mut names: Vec<String> = Vec::new();
    let mut main = None;
    for template in templates {
        // A name becomes part of a key, so it is reduced to what a key may hold.
        let name: String = template.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        if name == "default" {
            main = Some(&template.text);
        } else if !name.is_empty() && !names.contains(&name) {
            metadata.push(format!("tokenizer.chat_template.{name}"), template.text.as_str())?;
            names.push(name);
        }
    }
    if !names.is_empty() {
        metadata.push("tokenizer.chat_templates", names)?;
    }
    if let Some(text) = main {
        metadata.push("tokenizer.chat_template", text.as_str())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::tests::Folder, *};
    use crate::metadata::{Array, Value as Stored};

    fn written(folder: &Folder, config: &Value) -> Vec<(String, Stored)> {
        let config = TokenizerConfig { values: config.as_object().cloned().unwrap_or_default(), present: true };
        let templates = read(folder, &config, &mut Vec::new()).unwrap();
        let mut metadata = Metadata::new();
        write(&templates, &mut metadata).unwrap();
        metadata.iter().map(|(key, value)| (key.to_owned(), value.clone())).collect()
    }

    fn main_template(text: &str) -> (String, Stored) {
        ("tokenizer.chat_template".to_owned(), text.into())
    }

    #[test]
    fn the_configuration_comes_first() {
        let folder = Folder::new().with("chat_template.jinja", "from the file");
        assert_eq!(written(&folder, &json!({"chat_template": "inline"})), [main_template("inline")]);
        assert_eq!(written(&folder, &json!({"chat_template": null})), [main_template("from the file")]);
        let folder = Folder::new().with("chat_template.json", r#"{"chat_template": "json"}"#);
        assert_eq!(written(&folder, &json!({})), [main_template("json")]);
        assert!(written(&Folder::new(), &json!({})).is_empty());
        assert!(written(&Folder::new(), &json!({"chat_template": 3})).is_empty());
    }

    #[test]
    fn named_templates_have_keys_of_their_own() {
        let list = json!({"chat_template": [
            {"name": "default", "template": "d"},
            {"name": "tool-use", "template": "t"},
            {"name": "rag", "template": "r"},
            {"name": "broken"},
        ]});
        let expected = [
            ("tokenizer.chat_template.tool_use".to_owned(), "t".into()),
            ("tokenizer.chat_template.rag".to_owned(), "r".into()),
            (
                "tokenizer.chat_templates".to_owned(),
                Stored::Array(Array::String(vec!["tool_use".to_owned(), "rag".to_owned()])),
            ),
            main_template("d"),
        ];
        assert_eq!(written(&Folder::new(), &list), expected);
        let folder = Folder::new()
            .with("chat_template.jinja", "d")
            .with("additional_chat_templates/rag.jinja", "r")
            .with("additional_chat_templates/readme.txt", "x");
        assert_eq!(written(&folder, &json!({}))[0], ("tokenizer.chat_template.rag".to_owned(), "r".into()));
        assert_eq!(written(&folder, &json!({})).len(), 3);
    }
}
