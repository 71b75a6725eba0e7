//! What the source's own card says about the model, in the YAML at its top.
//!
//! Whatever is damaged or of another shape than expected is passed over: a card is no reason to stop.

use serde_json::Value;

/// Longer values are not what they are said to be.
const LONGEST: usize = 200;
/// As many languages or tags as anybody needs.
const MOST: usize = 100;
/// Tags that tell of the source's files, and not of the model.
const OF_FILES: [&str; 8] = ["safetensors", "pytorch", "transformers", "tf", "jax", "onnx", "region:us", "qhost"];

/// What is taken over from the source's card.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FrontMatter {
    pub(super) license: Option<String>,
    pub(super) license_name: Option<String>,
    pub(super) license_link: Option<String>,
    pub(super) pipeline_tag: Option<String>,
    pub(super) languages: Vec<String>,
    pub(super) tags: Vec<String>,
}

impl FrontMatter {
    /// Reads what there is to read in a card's text.
    pub(super) fn of(card: &str) -> Self {
        let parsed = block(card).and_then(|yaml| serde_saphyr::from_str::<Value>(&yaml).ok());
        let Some(Value::Object(keys)) = parsed else { return Self::default() };
        let text = |key: &str| keys.get(key).and_then(text);
        let list = |key: &str| match keys.get(key) {
            Some(Value::Array(values)) => values.iter().filter_map(self::text).take(MOST).collect(),
            Some(value) => self::text(value).into_iter().collect(),
            None => Vec::new(),
        };
        let mut tags: Vec<String> = list("tags");
        tags.retain(|tag| !OF_FILES.contains(&tag.as_str()));
        Self {
            license: list("license").into_iter().next(),
            license_name: text("license_name"),
            license_link: text("license_link"),
            pipeline_tag: text("pipeline_tag"),
            languages: list("language"),
            tags,
        }
    }
}

/// The lines between the first two lines of three dashes, the first of which opens the file.
fn block(card: &str) -> Option<String> {
    let mut lines = card.trim_start_matches('\u{feff}').lines();
    if lines.next()?.trim_end() != "---" {
        return None;
    }
    let mut yaml = String::new();
    for line in lines {
        if line.trim_end() == "---" {
            return Some(yaml);
        }
        yaml.extend([line, "\n"]);
    }
    None
}

/// A string; YAML takes the language `no` and a licence `1.0` for something else.
fn text(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Bool(false) => "no".into(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    (!text.is_empty() && text.len() <= LONGEST && !text.contains(char::is_control)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(strings: &[&str]) -> Vec<String> {
        strings.iter().map(|string| (*string).to_owned()).collect()
    }

    #[test]
    fn a_card_as_hubs_have_it_is_read() {
        let card = "---\nlicense: other\nlicense_name: llama3.2\nlicense_link: LICENSE\nlanguage:\n- en\n- de\n\
                    pipeline_tag: text-generation\ntags: [llama, safetensors, pytorch]\nmodel-index:\n- name: x\n  results: []\n\
                    extra: |\n  ---not the end\n---\n# Title\n---\n";
        let read = FrontMatter::of(card);
        assert_eq!(read.license.as_deref(), Some("other"));
        assert_eq!((read.license_name.as_deref(), read.license_link.as_deref()), (Some("llama3.2"), Some("LICENSE")));
        assert_eq!(read.pipeline_tag.as_deref(), Some("text-generation"));
        assert_eq!((read.languages, read.tags), (strings(&["en", "de"]), strings(&["llama"])));
    }

    #[test]
    fn one_language_is_a_list_of_one_and_norwegian_is_a_language() {
        assert_eq!(FrontMatter::of("---\nlanguage: en\n---\n").languages, strings(&["en"]));
        assert_eq!(FrontMatter::of("---\r\nlanguage: [no, en]\r\n---\r\n").languages, strings(&["no", "en"]));
        assert_eq!(FrontMatter::of("\u{feff}---\nlicense: [mit]\n---").license.as_deref(), Some("mit"));
    }

    #[test]
    fn damage_is_passed_over() {
        for card in [
            "",
            "---",
            "---\nlicense: mit\n",
            "# no front matter\n---\nlicense: mit\n---\n",
            "---\n- a\n- list\n---\n",
            "---\nlicense: [unclosed\n---\n",
            "---\nlicense: {a: b}\nlanguage: {}\ntags: 7.5e\u{0}\n---\n",
            "---\n? [complex, key]\n: mit\n---\n",
            "---\nlicense: \"a\\nb\"\n---\n",
            "---\na: &a [x, x]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b, *b]\n\ttab: bad\n---\n",
        ] {
            assert_eq!(FrontMatter::of(card), FrontMatter::default(), "{card:?}");
        }
    }

    /// Nine levels of nine aliases each would be four hundred million strings.
    #[test]
    fn a_bomb_of_aliases_does_not_go_off() {
        let mut card = String::from("---\na0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
        for level in 1..9 {
            let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
            card.extend(["a", &level.to_string(), ": &a", &level.to_string(), " [", &aliases, "]\n"]);
        }
        card += "license: mit\ntags: *a8\n---\n";
        assert_eq!(FrontMatter::of(&card), FrontMatter::default());
    }
}
