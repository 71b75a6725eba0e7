//! The chat template of a model: from the messages of a conversation to the text that the model was trained on.
//!
//! It renders as transformers' `apply_chat_template` does, without a prompt for an answer: Jinja with Python's methods,
//! Python's JSON, and the few functions that transformers adds. The text has its special tokens in it.

mod json;
mod time;

use std::thread;

use minijinja::{
    Environment, Error as Fault, ErrorKind, UndefinedBehavior, Value as Jinja,
    syntax::SyntaxConfig,
    value::{Kwargs, Rest},
};
use serde_json::Value;

use super::Error;

/// What one conversation may take, for a template comes from a stranger: an instruction is one, and so are 64 bytes of
/// whatever is made on the way. That is half a second, or 128 MiB.
const FUEL: u64 = 2 << 20;
/// A value that is nested as deeply as that allows is taken apart level by level, each on the stack.
const STACK: usize = 256 << 20;
const FILE: &str = "chat_template.jinja";
const JSON_FILE: &str = "chat_template.json";
const NAME: &str = "chat_template";

/// The contents of a file by its name, or nothing where it is not there.
pub(super) type ReadFile<'a> = dyn Fn(&str) -> Result<Option<Vec<u8>>, Error> + 'a;

/// A template that is ready to be rendered.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// Names such as `bos_token` with their texts.
    tokens: Vec<(String, String)>,
}

impl ChatTemplate {
    /// The template in `chat_template.jinja`, `chat_template.json` or, given as `in_config`, `tokenizer_config.json`:
    /// the first that is there.
    pub(super) fn of(
        file: &ReadFile<'_>,
        in_config: Option<&Value>,
        tokens: Vec<(String, String)>,
    ) -> Result<Option<Self>, Error> {
        let unusable = |name: &str, reason: String| Error::BadTemplate { reason: format!("{name}: {reason}") };
        let source = if let Some(bytes) = file(FILE)? {
            Some(String::from_utf8(bytes).map_err(|error| unusable(FILE, error.to_string()))?)
        } else if let Some(bytes) = file(JSON_FILE)? {
            let document: Value =
                serde_json::from_slice(&bytes).map_err(|error| unusable(JSON_FILE, error.to_string()))?;
            document.get(NAME).and_then(chosen)
        } else {
            in_config.and_then(chosen)
        };
        source.map(|source| Self::new(&source, tokens)).transpose()
    }

    /// A template from its text, with the special tokens that it may name.
    ///
    /// # Errors
    /// Fails when it is not a template.
    pub fn new(source: &str, tokens: Vec<(String, String)>) -> Result<Self, Error> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| Error::BadTemplate { reason: described(&error) })?);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", json::tojson);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", |format: String| time::strftime(&format));
        let added = environment.add_template_owned(NAME, without_generation_tags(source));
        added.map_err(|error| Error::BadTemplate { reason: described(&error) })?;
        Ok(Self { environment, tokens })
    }

    /// The text of a conversation: the array `messages` of a row, with its `tools` if it has some.
    ///
    /// # Errors
    /// Fails with the template's own words, or with those of the language.
    pub fn render(&self, messages: &Jinja, tools: Option<&Jinja>) -> Result<String, String> {
        thread::scope(|scope| {
            let rendering = thread::Builder::new().stack_size(STACK);
            let rendering = rendering.spawn_scoped(scope, || self.rendered(messages, tools));
            let outcome = rendering.map_err(|error| format!("there is no room for it: {error}"))?.join();
            outcome.unwrap_or_else(|_| Err("it makes the template engine fail".into()))
        })
    }

    fn rendered(&self, messages: &Jinja, tools: Option<&Jinja>) -> Result<String, String> {
        let tokens = self.tokens.iter().map(|(name, token)| (name.as_str(), Jinja::from(token.as_str())));
        let rest = [
            ("messages", messages.clone()),
            ("tools", tools.cloned().unwrap_or_else(|| Jinja::from(()))),
            ("documents", Jinja::from(())),
            ("add_generation_prompt", Jinja::from(false)),
        ];
        let context = Jinja::from_pairs(tokens.chain(rest));
        let template = self.environment.get_template(NAME).map_err(|error| described(&error))?;
        template.render(context).map_err(|error| described(&error))
    }
}

/// The text of a template, or of the one named `default` where there are several.
fn chosen(value: &Value) -> Option<String> {
    let named = |list: &Vec<Value>| {
        let template = list.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"));
        Some(template?.get("template")?.as_str()?.to_owned())
    };
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(list) => named(list),
        Value::Object(map) => Some(map.get("default")?.as_str()?.to_owned()),
        _ => None,
    }
}

fn raise_exception(message: String, _: Rest<Jinja>, _: Kwargs) -> Result<Jinja, Fault> {
    Err(Fault::new(ErrorKind::InvalidOperation, message))
}

/// An error with its line.
fn described(error: &Fault) -> String {
    let words = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("{words} (line {line} of the template)"),
        None => words,
    }
}

/// Transformers marks what the assistant said with tags of its own, which change nothing in the text but that what is
/// set between them is not seen outside.
fn without_generation_tags(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        text.push_str(before);
        // Behind its beginning: in `{%}` one sign would be of both.
        let Some((inner, after)) = tag[2..].split_once("%}") else {
            rest = tag;
            break;
        };
        let word = inner.trim_matches(|character: char| "-+".contains(character) || character.is_whitespace());
        let replaced = match word {
            "generation" => inner.replacen("generation", "with", 1),
            "endgeneration" => inner.replacen("endgeneration", "endwith", 1),
            _ => inner.to_owned(),
        };
        text.extend(["{%", &replaced, "%}"]);
        rest = after;
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    /// Each would take gigabytes, or the whole stack.
    #[test]
    fn a_template_is_refused_that_makes_too_much() {
        let doubles = "{% set all = namespace(x='abcdefgh') %}{% for i in range(60) %}{% set all.x = all.x ~ all.x %}{% endfor %}";
        let shares =
            "{% set all = namespace(x=[1]) %}{% for i in range(60) %}{% set all.x = [all.x, all.x] %}{% endfor %}";
        let nests = "{% set all = namespace(x=[]) %}{% for i in range(100000) %}{% set all.x = [all.x] %}{% endfor %}";
        for source in [
            "{{ messages | tojson(indent=99999999999) }}".to_owned(),
            "{{ messages | tojson(indent=1000000) }}{{ [[[[messages] * 10] * 10] * 10] | tojson(indent=1000000) }}"
                .into(),
            format!("{shares}{{{{ all.x | tojson }}}}"),
            format!("{nests}{{{{ all.x | tojson }}}}"),
            format!("{doubles}{{{{ all.x }}}}"),
            "{{ 'x' * 99999999999 }}".into(),
            "{{ ([1] * 99999999) | tojson }}".into(),
            "{% for i in range(99999) %}{% for j in range(99999) %}{{ j }}{% endfor %}{% endfor %}".into(),
            "{% macro again(n) %}{{ again(n) }}{% endmacro %}{{ again(1) }}".into(),
        ] {
            let template = ChatTemplate::new(&source, Vec::new()).unwrap();
            assert!(template.render(&Jinja::from(vec![1, 2]), None).is_err(), "{source}");
        }
    }

    #[derive(Deserialize)]
    struct Golden {
        tokens: std::collections::BTreeMap<String, String>,
        conversations: Vec<Conversation>,
        templates: Vec<Template>,
    }

    #[derive(Deserialize)]
    struct Conversation {
        messages: Jinja,
        tools: Option<Jinja>,
    }

    #[derive(Deserialize)]
    struct Template {
        name: String,
        #[serde(rename = "template")]
        source: String,
        /// None where transformers raises an exception.
        rendered: Vec<Option<String>>,
    }

    /// The texts are those of transformers; see the file's own words, and the README beside it.
    #[test]
    fn templates_give_the_texts_of_transformers() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/text/chat_templates.json");
        let golden: Golden = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let tokens: Vec<_> = golden.tokens.into_iter().collect();
        let mut compared = 0;
        for Template { name, source, rendered } in golden.templates {
            let template = ChatTemplate::new(&source, tokens.clone()).unwrap();
            for (index, (conversation, expected)) in golden.conversations.iter().zip(rendered).enumerate() {
                let actual = template.render(&conversation.messages, conversation.tools.as_ref());
                assert_eq!(actual.clone().ok(), expected, "{name}, conversation {index}: {actual:?}");
                compared += 1;
            }
        }
        assert!(compared > 30);
    }
}
