//! Which tokens begin and end a text, and whether they are added to it.
//!
//! The rules and their order are those of the reference converter, which reads `tokenizer_config.json`,
//! then the post-processor of `tokenizer.json`, then `config.json`; what it leaves open is filled from
//! `special_tokens_map.json`, `generation_config.json` and the vocabulary. Whether a token is added is for the
//! post-processor to say, as transformers has it; the switches of `tokenizer_config.json` count where it says
//! nothing. It knows no model family.

use serde_json::{Map, Value};

use super::{
    hugging_face::{self, AddedToken, TokenizerConfig},
    vocabulary::Vocabulary,
};
use crate::metadata::Metadata;
use qhost_plugin_api::sdk::Result;

/// A part that a token plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Bos,
    Eos,
    Unk,
    Sep,
    Pad,
    Cls,
    Mask,
    Eot,
    Eom,
}

impl Part {
    /// The parts that are always looked for, in the order in which they are written.
    const ALWAYS: [Self; 7] = [Self::Bos, Self::Eos, Self::Unk, Self::Sep, Self::Pad, Self::Cls, Self::Mask];

    /// The name in Hugging Face's keys: `bos_token`, `bos_token_id`, `add_bos_token`.
    fn name(self) -> &'static str {
        match self {
            Self::Bos => "bos",
            Self::Eos => "eos",
            Self::Unk => "unk",
            Self::Sep => "sep",
            Self::Pad => "pad",
            Self::Cls => "cls",
            Self::Mask => "mask",
            Self::Eot => "eot",
            Self::Eom => "eom",
        }
    }

    /// The key of its id, if GGUF has one; the third is misspelled in the format itself.
    fn id_key(self) -> Option<&'static str> {
        match self {
            Self::Bos => Some("tokenizer.ggml.bos_token_id"),
            Self::Eos => Some("tokenizer.ggml.eos_token_id"),
            Self::Unk => Some("tokenizer.ggml.unknown_token_id"),
            Self::Sep => Some("tokenizer.ggml.seperator_token_id"),
            Self::Pad => Some("tokenizer.ggml.padding_token_id"),
            Self::Mask => Some("tokenizer.ggml.mask_token_id"),
            Self::Eot => Some("tokenizer.ggml.eot_token_id"),
            Self::Eom => Some("tokenizer.ggml.eom_token_id"),
            Self::Cls => None,
        }
    }

    fn add_key(self) -> Option<&'static str> {
        match self {
            Self::Bos => Some("tokenizer.ggml.add_bos_token"),
            Self::Eos => Some("tokenizer.ggml.add_eos_token"),
            Self::Sep => Some("tokenizer.ggml.add_sep_token"),
            _ => None,
        }
    }
}

/// A short list with one value per part, in order of insertion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parts<T>(Vec<(Part, T)>);

impl<T> Default for Parts<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Parts<T> {
    pub(super) fn get(&self, part: Part) -> Option<&T> {
        self.0.iter().find(|(key, _)| *key == part).map(|(_, value)| value)
    }

    /// Sets a value; one that was there keeps its place.
    pub(super) fn set(&mut self, part: Part, value: T) {
        match self.0.iter_mut().find(|(key, _)| *key == part) {
            Some((_, old)) => *old = value,
            None => self.0.push((part, value)),
        }
    }

    /// Sets a value unless there is one.
    pub(super) fn set_default(&mut self, part: Part, value: T) {
        if self.get(part).is_none() {
            self.0.push((part, value));
        }
    }
}

/// The files that are asked, in the order of their authority.
pub(super) struct Sources<'a> {
    pub(super) tokenizer_config: &'a TokenizerConfig,
    /// `special_tokens_map.json`.
    pub(super) special_tokens_map: &'a Map<String, Value>,
    /// The `post_processor` of `tokenizer.json`, `None` without that file.
    pub(super) post_processor: Option<&'a Value>,
    /// `config.json`.
    pub(super) config: &'a Value,
    /// `generation_config.json`.
    pub(super) generation_config: &'a Map<String, Value>,
}

/// Tokens by part, and which of them are added to a text.
#[derive(Debug, Default)]
pub(super) struct Special {
    pub(super) ids: Parts<u32>,
    pub(super) adds: Parts<bool>,
}

impl Special {
    /// Asks all sources; `added` are the tokens outside the model, the ones to prefer.
    pub(super) fn gather(
        sources: &Sources<'_>,
        added: &[AddedToken],
        vocabulary: &Vocabulary,
        warnings: &mut Vec<String>,
    ) -> Self {
        let mut texts = Texts::read(sources);
        let mut special = Self::default();
        if let Some(post_processor) = sources.post_processor {
            texts.lend_classifier_tokens();
            for step in hugging_face::steps(post_processor, "processors") {
                match hugging_face::kind(step) {
                    "ByteLevel" => {
                        special.adds.set_default(Part::Bos, false);
                        special.adds.set_default(Part::Eos, false);
                    }
                    "RobertaProcessing" => special.read_roberta(step, &mut texts),
                    "TemplateProcessing" => special.read_template(step, &mut texts, warnings),
                    _ => {}
                }
            }
        }
        let parts = Part::ALWAYS.into_iter().chain(texts.extra.clone());
        for part in parts.clone() {
            special.switch(part, sources, warnings);
            let id = texts.get(part).and_then(|text| {
                let listed = added.iter().filter(|token| token.content == text).map(|token| token.id);
                listed.into_iter().find(|&id| vocabulary.get(id).is_some()).or_else(|| vocabulary.find(text))
            });
            special.offer(part, id, vocabulary, warnings);
        }
        for part in parts {
            let key = format!("{}_token_id", part.name());
            let text_config = sources.config.get("text_config").and_then(|nested| nested.get(&key));
            for value in [sources.config.get(&key), text_config, sources.generation_config.get(&key)] {
                // Several ends of sequence may be listed; the first is the principal one.
                let value = value.map(|value| value.get(0).unwrap_or(value)).and_then(Value::as_u64);
                special.offer(part, value.map(|id| u32::try_from(id).unwrap_or(u32::MAX)), vocabulary, warnings);
            }
        }
        special
    }

    /// What `tokenizer_config.json` says of adding a part's token.
    fn switch(&mut self, part: Part, sources: &Sources<'_>, warnings: &mut Vec<String>) {
        let key = format!("add_{}_token", part.name());
        let Some(wanted) = sources.tokenizer_config.flag(&key) else { return };
        let said = self.adds.get(part).copied();
        self.adds.set_default(part, wanted);
        let verb = |adds: bool| if adds { "adds one" } else { "adds none" };
        if let Some(said) = said.filter(|&said| said != wanted) {
            warnings.push(format!(
                "`{key}` of tokenizer_config.json is {wanted}, but the post-processor of tokenizer.json {}: it decides, \
                 as in transformers",
                verb(said)
            ));
        } else if said.is_none() && wanted && part == Part::Bos && sources.post_processor.is_some_and(Value::is_null) {
            warnings.push(format!(
                "`{key}` of tokenizer_config.json is true, but tokenizer.json has no post-processor to add one: \
                 llama.cpp adds one, as transformers 4 does and transformers 5 does not"
            ));
        }
    }

    /// Takes an id unless the part has one or the vocabulary has no such row.
    pub(super) fn offer(&mut self, part: Part, id: Option<u32>, vocabulary: &Vocabulary, warnings: &mut Vec<String>) {
        let Some(id) = id.filter(|_| self.ids.get(part).is_none()) else { return };
        if (id as usize) < vocabulary.rows() {
            self.ids.set(part, id);
        } else {
            warnings
                .push(format!("the {} token has the id {id}, which the model has no row for: left out", part.name()));
        }
    }

    fn read_roberta(&mut self, step: &Value, texts: &mut Texts) {
        for part in [Part::Bos, Part::Eos, Part::Sep] {
            self.adds.set(part, true);
        }
        let token = |key: &str| step.get(key).and_then(|pair| pair.get(0)).and_then(Value::as_str).map(str::to_owned);
        texts.set_default(Part::Cls, token("cls"));
        texts.set_default(Part::Sep, token("sep"));
    }

    /// Whether a template begins with the BOS token, ends with the EOS token, and has a separator
    /// between two sequences. A last token that is not the EOS token becomes the EOS token, and the
    /// former one the end of a turn.
    fn read_template(&mut self, step: &Value, texts: &mut Texts, warnings: &mut Vec<String>) {
        let pieces = |key: &str| step.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let (single, pair) = (pieces("single"), pieces("pair"));
        let (mut first, mut last) = (None, None);
        if single.len() > 1 {
            first = single.first().and_then(special_token);
            last = single.last().and_then(special_token);
        }
        if let Some(first) = first {
            let named = texts.get(Part::Bos).is_some() || texts.get(Part::Cls) == Some(first);
            if !texts.known || !named {
                texts.set(Part::Bos, first);
            }
            if let Some(second) = single.get(1).and_then(special_token).filter(|_| single.len() > 2) {
                warnings.push(format!(
                    "the tokenizer puts several tokens before a text, llama.cpp only the first: {second:?} and what \
                     follows it are missing unless the text itself has them"
                ));
            }
            let is_bos = [Part::Bos, Part::Cls].into_iter().any(|part| texts.get(part) == Some(first));
            self.adds.set(Part::Bos, is_bos);
            if !is_bos {
                warnings.push(format!(
                    "the tokenizer puts {first:?} before a text, which is not its BOS token: llama.cpp cannot add it"
                ));
            }
        }
        if let Some(last) = last {
            texts.end_with(last, warnings);
            self.adds.set(Part::Eos, true);
        }
        if let Some(separates) = separates(pair, first, last, texts) {
            self.adds.set(Part::Sep, separates);
            if separates && texts.known {
                let eos = texts.get(Part::Eos).map(str::to_owned);
                texts.set_default(Part::Sep, eos);
            }
        }
    }

    /// Appends the keys, ids before switches.
    pub(super) fn write(&self, metadata: &mut Metadata) -> Result<()> {
        for (part, id) in &self.ids.0 {
            if let Some(key) = part.id_key() {
                metadata.push(key, *id)?;
            }
        }
        for (part, adds) in &self.adds.0 {
            if let Some(key) = part.add_key() {
                metadata.push(key, *adds)?;
            }
        }
        Ok(())
    }
}

/// The special token at a place of a template.
fn special_token(piece: &Value) -> Option<&str> {
    piece.get("SpecialToken")?.get("id")?.as_str()
}

/// Whether a template for two sequences puts a separator between them; `None` if it puts nothing there,
/// or is not of the form "A … B".
fn separates(pair: &[Value], first: Option<&str>, last: Option<&str>, texts: &Texts) -> Option<bool> {
    let mut inner = pair;
    if let Some((piece, rest)) = inner.split_first()
        && first.is_some()
        && special_token(piece) == first
    {
        inner = rest;
    }
    if let Some((piece, rest)) = inner.split_last()
        && last.is_some()
        && special_token(piece) == last
    {
        inner = rest;
    }
    let is_sequence = |piece: &Value, name: &str| {
        piece.get("Sequence").and_then(|sequence| sequence.get("id")).and_then(Value::as_str) == Some(name)
    };
    let [a, between @ .., b] = inner else { return None };
    if !is_sequence(a, "A") || !is_sequence(b, "B") || between.is_empty() {
        return None;
    }
    let separator = |piece: &Value| {
        special_token(piece)
            .is_some_and(|token| [Part::Sep, Part::Eos].into_iter().any(|part| texts.get(part) == Some(token)))
    };
    // With an EOS after each sequence, one EOS in the middle is that of the first.
    let one = separator(&between[0]) && last.is_none();
    let two = between.len() == 2 && separator(&between[1]);
    Some(one || two)
}

/// The special tokens' texts.
struct Texts {
    by_part: Parts<String>,
    /// Parts that a template brought in.
    extra: Vec<Part>,
    /// Whether any file names special tokens.
    known: bool,
}

impl Texts {
    fn read(sources: &Sources<'_>) -> Self {
        let mut by_part = Parts::default();
        for part in Part::ALWAYS {
            let key = format!("{}_token", part.name());
            let mapped = || sources.special_tokens_map.get(&key).and_then(hugging_face::token_text);
            if let Some(text) = sources.tokenizer_config.token(&key).or_else(mapped) {
                by_part.set(part, text.to_owned());
            }
        }
        let known = sources.tokenizer_config.present || !sources.special_tokens_map.is_empty();
        Self { by_part, extra: Vec::new(), known }
    }

    fn get(&self, part: Part) -> Option<&str> {
        self.by_part.get(part).map(String::as_str)
    }

    fn set(&mut self, part: Part, text: &str) {
        self.by_part.set(part, text.to_owned());
    }

    fn set_default(&mut self, part: Part, text: Option<String>) {
        if let Some(text) = text {
            self.by_part.set_default(part, text);
        }
    }

    /// BERT-like tokenizers begin with the classifier token and end with the separator.
    fn lend_classifier_tokens(&mut self) {
        for (part, lender) in [(Part::Bos, Part::Cls), (Part::Eos, Part::Sep)] {
            let text = self.get(lender).map(str::to_owned);
            self.set_default(part, text);
        }
    }

    fn end_with(&mut self, last: &str, warnings: &mut Vec<String>) {
        if self.known && self.get(Part::Eos) != Some(last) {
            let former = self.get(Part::Eos).map(str::to_owned);
            match [Part::Eot, Part::Eom].into_iter().find(|part| !self.extra.contains(part)) {
                Some(part) => {
                    self.extra.push(part);
                    self.set_default(part, former);
                }
                None => warnings.push(format!("{last:?} replaces {former:?} as the EOS token")),
            }
        }
        self.set(Part::Eos, last);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::vocabulary::Token, *};
    use crate::tokenizer::vocabulary::TokenType;

    struct Case {
        tokenizer_config: Value,
        special_tokens_map: Value,
        post_processor: Value,
        config: Value,
        generation_config: Value,
    }

    impl Default for Case {
        fn default() -> Self {
            Self {
                tokenizer_config: Value::Null,
                special_tokens_map: json!({}),
                post_processor: Value::Null,
                config: json!({}),
                generation_config: json!({}),
            }
        }
    }

    /// Gathers over a vocabulary of "t0" … "t9", the last three of which are added tokens.
    fn gather(case: &Case) -> (Special, Vec<String>) {
        let mut vocabulary = Vocabulary::new(10).unwrap();
        let mut added = Vec::new();
        for id in 0..10 {
            let text = format!("t{id}");
            vocabulary.set(id, Token { text: text.clone(), score: 0.0, kind: TokenType::Normal });
            if id >= 7 {
                let token = json!({"id": id, "content": text, "special": true});
                added.push(serde_json::from_value(token).unwrap());
            }
        }
        let tokenizer_config = match &case.tokenizer_config {
            Value::Object(values) => TokenizerConfig { values: values.clone(), present: true },
            _ => TokenizerConfig::default(),
        };
        let map = |value: &Value| value.as_object().cloned().unwrap_or_default();
        let mut warnings = Vec::new();
        let sources = Sources {
            tokenizer_config: &tokenizer_config,
            special_tokens_map: &map(&case.special_tokens_map),
            post_processor: Some(&case.post_processor).filter(|value| !value.is_null()),
            config: &case.config,
            generation_config: &map(&case.generation_config),
        };
        let mut special = Special::gather(&sources, &added, &vocabulary, &mut warnings);
        special.name_further_ends(&sources, &vocabulary, &mut warnings);
        (special, warnings)
    }

    fn token(text: &str) -> Value {
        json!({"SpecialToken": {"id": text, "type_id": 0}})
    }

    fn sequence(name: &str) -> Value {
        json!({"Sequence": {"id": name, "type_id": 0}})
    }

    #[test]
    fn texts_come_before_numbers() {
        let (special, _) = gather(&Case {
            tokenizer_config: json!({"bos_token": "t7", "eos_token": {"content": "t8"}, "unk_token": "t0"}),
            config: json!({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 9}),
            ..Case::default()
        });
        let expected = [(Part::Bos, 7), (Part::Eos, 8), (Part::Unk, 0), (Part::Pad, 9)];
        assert_eq!(special.ids.0, expected);
        assert!(special.adds.0.is_empty());
    }

    #[test]
    fn what_the_converter_leaves_open_is_filled() {
        let (special, _) = gather(&Case {
            special_tokens_map: json!({"bos_token": {"content": "t7"}}),
            config: json!({"text_config": {"pad_token_id": 3}, "eos_token_id": [5, 6]}),
            generation_config: json!({"eos_token_id": 4, "bos_token_id": 2}),
            ..Case::default()
        });
        assert_eq!(special.ids.0, [(Part::Bos, 7), (Part::Eos, 5), (Part::Pad, 3), (Part::Eot, 6)]);
    }

    #[test]
    fn a_number_without_a_row_is_left_out() {
        let (special, warnings) = gather(&Case { config: json!({"bos_token_id": 10}), ..Case::default() });
        assert!(special.ids.0.is_empty());
        assert_eq!(warnings.len(), 1);
    }

    #[test]
    fn a_template_tells_what_is_added() {
        let llama3 = json!({"type": "Sequence", "processors": [
            {"type": "ByteLevel"},
            {"type": "TemplateProcessing",
             "single": [token("t7"), sequence("A")],
             "pair": [token("t7"), sequence("A"), token("t7"), sequence("B")]},
        ]});
        let tokenizer_config = json!({"bos_token": "t7", "eos_token": "t8"});
        let case = Case { tokenizer_config, post_processor: llama3, ..Case::default() };
        let (special, warnings) = gather(&case);
        let adds = [(Part::Bos, true), (Part::Eos, false), (Part::Sep, false)];
        assert_eq!(special.adds.0, adds);
        assert!(warnings.is_empty());
        // It decides against the switches of the configuration, too.
        let tokenizer_config = json!({"bos_token": "t7", "add_bos_token": false, "add_eos_token": true});
        let (special, warnings) = gather(&Case { tokenizer_config, ..case });
        assert_eq!(special.adds.0, adds);
        assert_eq!(warnings.len(), 2);
    }

    #[test]
    fn the_switches_count_where_the_post_processor_says_nothing() {
        let case = |post_processor: Value| Case {
            tokenizer_config: json!({"bos_token": "t7", "eos_token": "t8", "add_bos_token": true, "add_eos_token": false}),
            post_processor,
            ..Case::default()
        };
        let plain = json!({"type": "TemplateProcessing", "single": [sequence("A")]});
        for post_processor in [Value::Null, plain] {
            let (special, _) = gather(&case(post_processor));
            assert_eq!(special.adds.0, [(Part::Bos, true), (Part::Eos, false)]);
        }
        let (special, warnings) = gather(&case(json!({"type": "ByteLevel"})));
        assert_eq!(special.adds.0, [(Part::Bos, false), (Part::Eos, false)]);
        assert_eq!(warnings.len(), 1);
    }

    #[test]
    fn a_template_names_the_bos_of_a_configuration_without_one() {
        let post_processor = json!({"type": "TemplateProcessing", "single": [token("t7"), token("t9"), sequence("A")]});
        let tokenizer_config = json!({"eos_token": "t8"});
        let (special, warnings) = gather(&Case { tokenizer_config, post_processor, ..Case::default() });
        assert_eq!((special.ids.get(Part::Bos), special.adds.get(Part::Bos)), (Some(&7), Some(&true)));
        assert!(warnings[0].contains("\"t9\""), "{warnings:?}");
    }

    #[test]
    fn further_ends_are_named() {
        let (special, warnings) = gather(&Case {
            tokenizer_config: json!({"eos_token": "t8"}),
            generation_config: json!({"eos_token_id": [8, 3]}),
            config: json!({"eos_token_id": [3, 4, 5, 6]}),
            ..Case::default()
        });
        assert_eq!(special.ids.0, [(Part::Eos, 8), (Part::Eot, 3), (Part::Eom, 4)]);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("\"t5\""), "{warnings:?}");
    }

    #[test]
    fn a_template_may_rename_the_end() {
        let post_processor = json!({"type": "TemplateProcessing",
            "single": [sequence("A"), token("t9")],
            "pair": [sequence("A"), token("t9"), token("t9"), sequence("B"), token("t9")]});
        let (special, _) =
            gather(&Case { tokenizer_config: json!({"eos_token": "t8"}), post_processor, ..Case::default() });
        assert_eq!(special.ids.0, [(Part::Eos, 9), (Part::Sep, 9), (Part::Eot, 8)]);
        assert_eq!(special.adds.0, [(Part::Eos, true), (Part::Sep, true)]);
    }

    #[test]
    fn a_template_names_the_bos_when_nothing_else_does() {
        let post_processor = json!({"type": "TemplateProcessing", "single": [token("t7"), sequence("A")]});
        let (special, _) = gather(&Case { post_processor, ..Case::default() });
        assert_eq!(special.ids.0, [(Part::Bos, 7)]);
        assert_eq!(special.adds.0, [(Part::Bos, true)]);
    }

    #[test]
    fn a_token_that_is_not_the_bos_cannot_be_added() {
        let post_processor = json!({"type": "TemplateProcessing", "single": [token("t9"), sequence("A")]});
        let tokenizer_config = json!({"bos_token": "t7"});
        let (special, warnings) = gather(&Case { tokenizer_config, post_processor, ..Case::default() });
        assert_eq!(special.adds.0, [(Part::Bos, false)]);
        assert_eq!(warnings.len(), 1);
    }

    #[test]
    fn a_roberta_processor_adds_both() {
        let post_processor = json!({"type": "RobertaProcessing", "cls": ["t7", 7], "sep": ["t8", 8]});
        let tokenizer_config = json!({"cls_token": "t7", "sep_token": "t8"});
        let (special, _) = gather(&Case { tokenizer_config, post_processor, ..Case::default() });
        assert_eq!(special.adds.0, [(Part::Bos, true), (Part::Eos, true), (Part::Sep, true)]);
        assert_eq!(special.ids.get(Part::Bos), Some(&7));
        assert_eq!(special.ids.get(Part::Eos), Some(&8));
    }
}
