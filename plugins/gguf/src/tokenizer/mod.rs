//! From a model's tokenizer files to the `tokenizer.*` keys of GGUF.
//!
//! The sources are those of the reference converter for models of the llama kind, in its order:
//! `tokenizer.model` (SentencePiece), else `tokenizer.json` (byte-level BPE, or a SentencePiece model in
//! another dress). It knows Hugging Face's files and llama.cpp's reading of GGUF; it opens no file
//! itself, and weights and hyperparameters are none of its business.

mod bpe;
pub(crate) mod ends;
mod family;
mod hugging_face;
mod kind;
mod metaspace;
mod pre;
mod sentencepiece;
mod special;
mod template;
mod vocabulary;

use qhost_plugin_api::sdk::{Failure, FilesHandle, Result};
use serde_json::{Map, Value};

use crate::metadata::Metadata;
use hugging_face::{AddedToken, Bpe, ModelKind, TokenizerConfig, TokenizerJson, read_json};
use kind::{foreign, is_byte_level, is_tiktoken, missing};
pub(crate) use pre::{adds_bos, splits_whole, splitting};
use special::{Part, Sources, Special};
use vocabulary::{Lists, Vocabulary};

/// Named files of a model: the host's, or a test's.
pub trait Files {
    /// The whole of a file, or `None` if there is no such file.
    ///
    /// # Errors
    /// Fails when the file cannot be read.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>>;

    /// The start of a file, `most` bytes of it or all, or `None` if there is no such file.
    ///
    /// # Errors
    /// Fails when the file cannot be read.
    fn start(&self, name: &str, most: usize) -> Result<Option<Vec<u8>>> {
        let mut bytes = self.read(name)?;
        if let Some(bytes) = &mut bytes {
            bytes.truncate(most);
        }
        Ok(bytes)
    }

    /// The names of all files, relative to the model.
    fn names(&self) -> Vec<String>;
}

impl Files for FilesHandle {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        Self::read(self, name)
    }

    fn start(&self, name: &str, most: usize) -> Result<Option<Vec<u8>>> {
        let Some(length) = self.length(name) else { return Ok(None) };
        let mut bytes = vec![0; usize::try_from(length).map_or(most, |length| length.min(most))];
        self.read_exact(name, 0, &mut bytes)?;
        Ok(Some(bytes))
    }

    fn names(&self) -> Vec<String> {
        self.list().iter().map(|file| file.name.clone()).collect()
    }
}

/// What [`tokenizer_metadata`] makes.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenizerMetadata {
    /// The `tokenizer.*` pairs, in the order in which the reference converter writes them.
    pub metadata: Metadata,
    /// Where llama.cpp will treat text otherwise than the model's own tokenizer, one sentence each.
    pub warnings: Vec<String>,
}

/// Working memory that [`tokenizer_metadata`] takes, about, and the bytes of the keys with it.
pub(crate) fn memory(files: &FilesHandle, vocab_size: u64) -> u64 {
    // Measured: a row with its token's text takes less than a hundred bytes, and tokenizer.json four times
    // its length while it is read.
    let length = |name| files.length(name).unwrap_or(0);
    let files = length("tokenizer.json").max(length("tokenizer.model"));
    vocab_size.saturating_mul(100).saturating_add(files.saturating_mul(4))
}

/// The `tokenizer.ggml.*` and `tokenizer.chat_template*` pairs for a model.
///
/// `vocab_size` is the number of rows of the embedding, `config` the model's `config.json`, and
/// `pre_override` the user's choice of `tokenizer.ggml.pre`.
///
/// # Errors
/// Fails with kind `CORRUPT` when a file is damaged, when no tokenizer is there, or when the
/// tokenizer has more tokens than the model has rows; with kind `UNSUPPORTED` for a kind of tokenizer or
/// a splitting of text that llama.cpp or this plugin does not know; with kind `USAGE` for an unknown
/// `pre_override`.
pub fn tokenizer_metadata(
    files: &dyn Files,
    vocab_size: u64,
    config: &Value,
    pre_override: Option<&str>,
) -> Result<TokenizerMetadata> {
    let mut task = Task {
        files,
        rows: vocab_size,
        config,
        pre_override: pre_override.map(pre::known).transpose()?,
        tokenizer_config: hugging_face::read_config(files)?,
        special_tokens_map: read_json(files, "special_tokens_map.json")?.unwrap_or_default(),
        generation_config: read_json(files, "generation_config.json")?.unwrap_or_default(),
        has_bos: false,
        warnings: Vec::new(),
    };
    let kind: Option<TokenizerJson<ModelKind>> = read_json(files, "tokenizer.json")?;
    let metadata = match (files.read("tokenizer.model")?, kind) {
        (Some(bytes), Some(json)) if is_tiktoken(&bytes) => {
            task.warnings.push("tokenizer.model is a tiktoken file, tokenizer.json is used instead".to_owned());
            task.hugging_face(json.model.name())?
        }
        (Some(bytes), _) if is_tiktoken(&bytes) => return Err(foreign("a tiktoken file").about("tokenizer.model")),
        (Some(bytes), json) => task.sentencepiece(&bytes, json.as_ref())?,
        (None, Some(json)) => task.hugging_face(json.model.name())?,
        (None, None) => return Err(missing(&files.names())),
    };
    Ok(TokenizerMetadata { metadata, warnings: task.warnings })
}

/// These classes rebuild the post-processor so that it adds a BOS; others leave it as the file has it,
/// and llama.cpp's default for a SentencePiece vocabulary is to add one.
const ADDING_A_BOS: [&str; 6] = [
    "LlamaTokenizer",
    "LlamaTokenizerFast",
    "CodeLlamaTokenizer",
    "CodeLlamaTokenizerFast",
    "GemmaTokenizer",
    "GemmaTokenizerFast",
];

struct Task<'a> {
    files: &'a dyn Files,
    rows: u64,
    config: &'a Value,
    pre_override: Option<&'static str>,
    tokenizer_config: TokenizerConfig,
    special_tokens_map: Map<String, Value>,
    generation_config: Map<String, Value>,
    /// Whether the files name a BOS token, before the family's rules do.
    has_bos: bool,
    warnings: Vec<String>,
}

impl Task<'_> {
    /// From `tokenizer.json`.
    fn hugging_face(&mut self, model: &str) -> Result<Metadata> {
        if model != "BPE" {
            return Err(foreign(&format!("a {model} model")).about("tokenizer.json"));
        }
        let mut json: TokenizerJson<Bpe> = read_json(self.files, "tokenizer.json")?
            .ok_or_else(|| Failure::internal("a file that was there is gone").about("tokenizer.json"))?;
        // transformers adds these too when it loads the tokenizer.
        for token in self.tokenizer_config.added_tokens()? {
            if json.added_tokens.iter().all(|listed| listed.content != token.content) {
                json.added_tokens.push(token);
            }
        }
        bpe::check(&json.model)?;
        match metaspace::spaces(&json) {
            _ if is_byte_level(&json) => self.byte_level(&json),
            Some(spaces) if json.model.byte_fallback => self.metaspace(&json, spaces),
            Some(_) => {
                Err(foreign("a BPE model over characters that cannot fall back to bytes").about("tokenizer.json"))
            }
            None => Err(foreign("a BPE model over plain characters").about("tokenizer.json")),
        }
    }

    /// llama.cpp's `gpt2`.
    fn byte_level(&mut self, json: &TokenizerJson<Bpe>) -> Result<Metadata> {
        bpe::warn(json, &mut self.warnings);
        let added = bpe::added_tokens(json, &mut self.warnings);
        let mut vocabulary = bpe::vocabulary(json, &added, self.rows)?;
        vocabulary.release_repeated(&mut self.warnings);
        let mut special = self.special(&added, &vocabulary, Some(&json.post_processor));
        let wishes = pre::Wishes {
            ignore_merges: json.model.ignore_merges,
            has_bos: self.has_bos,
            cleans_spaces: self.tokenizer_config.flag("clean_up_tokenization_spaces"),
        };
        let name = match self.pre_override {
            Some(name) => name,
            None => pre::recognise(&json.pre_tokenizer, wishes, &mut self.warnings)?,
        };
        let traits = pre::traits(name);
        if traits.adds_bos && special.adds.get(Part::Bos).is_none() {
            special.adds.set(Part::Bos, false);
            self.warnings.push(format!(
                "the tokenizer adds no BOS token to a text, so the file says not to; llama.cpp would by itself (pre {name})"
            ));
        }
        if json.model.ignore_merges != traits.ignore_merges {
            let unreachable = bpe::unreachable(&json.model, &added);
            if unreachable > 0 {
                let (whole, merged) =
                    if traits.ignore_merges { ("llama.cpp", "the tokenizer") } else { ("the tokenizer", "llama.cpp") };
                self.warnings.push(format!(
                    "{unreachable} tokens are not what merging their characters leads to: a word that is such a token \
                     is that token for {whole}, and several for {merged} (ignore_merges, pre {name})"
                ));
            }
        }
        self.withdraw_unknown(&mut special);

        let mut metadata = Metadata::new();
        if self.tokenizer_config.flag("add_prefix_space") == Some(false) {
            metadata.push("tokenizer.ggml.add_space_prefix", false)?;
        }
        let Lists { texts, types, .. } = vocabulary.finish();
        metadata.push("tokenizer.ggml.model", "gpt2")?;
        metadata.push("tokenizer.ggml.pre", name)?;
        metadata.push("tokenizer.ggml.tokens", texts)?;
        metadata.push("tokenizer.ggml.token_type", types)?;
        metadata.push("tokenizer.ggml.merges", bpe::merges(&json.model)?)?;
        self.finish(metadata, &special)
    }

    /// llama.cpp's `llama`, from `tokenizer.json`.
    fn metaspace(&mut self, json: &TokenizerJson<Bpe>, spaces: metaspace::Spaces) -> Result<Metadata> {
        metaspace::warn(json, spaces, &mut self.warnings);
        let added = bpe::added_tokens(json, &mut self.warnings);
        let mut vocabulary = metaspace::vocabulary(json, &added, self.rows)?;
        vocabulary.release_repeated(&mut self.warnings);
        let mut special = self.special(&added, &vocabulary, Some(&json.post_processor));
        let adds_bos = self.tokenizer_config.text("tokenizer_class").is_some_and(|class| ADDING_A_BOS.contains(&class));
        if !adds_bos {
            special.adds.set_default(Part::Bos, false);
        }
        self.llama(vocabulary, &special, spaces.prefix)
    }

    /// llama.cpp's `llama`, from `tokenizer.model`.
    fn sentencepiece(&mut self, bytes: &[u8], json: Option<&TokenizerJson<ModelKind>>) -> Result<Metadata> {
        let model = sentencepiece::Model::read(bytes)?;
        model.check()?;
        model.warn(&mut self.warnings);
        let mut added = self.listed_tokens()?;
        added.extend(self.tokenizer_config.added_tokens()?);
        if let Some(json) = json {
            if is_byte_level(json) {
                self.warnings.push(
                    "tokenizer.model and tokenizer.json are tokenizers of different kinds; the first is used"
                        .to_owned(),
                );
            }
            added.extend(json.added_tokens.iter().cloned());
        }
        let mut vocabulary = model.vocabulary(&added, self.rows, &mut self.warnings)?;
        vocabulary.release_repeated(&mut self.warnings);
        // The last file that names a token has the last word on it.
        added.reverse();
        let special = self.special(&added, &vocabulary, json.map(|json| &json.post_processor));
        self.llama(vocabulary, &special, model.prefixes_space())
    }

    /// The keys that both sources of llama.cpp's `llama` share.
    fn llama(&mut self, vocabulary: Vocabulary, special: &Special, prefixes_space: bool) -> Result<Metadata> {
        if let Some(name) = self.pre_override {
            self.warnings.push(format!(
                "pre={name} is without effect: llama.cpp splits no text before a SentencePiece vocabulary"
            ));
        }
        let said = self.tokenizer_config.flag("add_prefix_space");

        let mut metadata = Metadata::new();
        if let Some(prefixes) = said {
            metadata.push("tokenizer.ggml.add_space_prefix", prefixes)?;
        }
        let Lists { texts, scores, types } = vocabulary.finish();
        metadata.push("tokenizer.ggml.model", "llama")?;
        metadata.push("tokenizer.ggml.pre", "default")?;
        metadata.push("tokenizer.ggml.tokens", texts)?;
        metadata.push("tokenizer.ggml.scores", scores)?;
        metadata.push("tokenizer.ggml.token_type", types)?;
        let mut metadata = self.finish(metadata, special)?;
        // llama.cpp's default is true.
        if said.is_none() && !prefixes_space {
            metadata.push("tokenizer.ggml.add_space_prefix", false)?;
        }
        Ok(metadata)
    }

    fn special(&mut self, added: &[AddedToken], vocabulary: &Vocabulary, post_processor: Option<&Value>) -> Special {
        self.warn_strips(added);
        let sources = Sources {
            tokenizer_config: &self.tokenizer_config,
            special_tokens_map: &self.special_tokens_map,
            post_processor,
            config: self.config,
            generation_config: &self.generation_config,
        };
        let mut special = Special::gather(&sources, added, vocabulary, &mut self.warnings);
        self.has_bos = special.ids.get(Part::Bos).is_some();
        family::adjust(self.config, vocabulary, &mut special);
        special.name_further_ends(&sources, vocabulary, &mut self.warnings);
        special
    }

    /// GGUF has no place for what an added token does to its surroundings.
    fn warn_strips(&mut self, added: &[AddedToken]) {
        let strips = |token: &&AddedToken| token.lstrip || token.rstrip || token.single_word;
        let mut texts: Vec<&str> = added.iter().filter(strips).map(|token| token.content.as_str()).collect();
        texts.sort_unstable();
        texts.dedup();
        if let Some(first) = texts.first() {
            self.warnings.push(format!(
                "{} added tokens take in the spaces beside them or stand for whole words only, such as {first:?}; \
                 llama.cpp knows nothing of that, but for the spaces after the tokens of files named Phi-3",
                texts.len()
            ));
        }
    }

    /// Under a byte-level vocabulary llama.cpp takes token 11 where the file names none: rather add none.
    fn withdraw_unknown(&mut self, special: &mut Special) {
        for part in [Part::Bos, Part::Eos] {
            if special.adds.get(part) == Some(&true) && special.ids.get(part).is_none() {
                special.adds.set(part, false);
                self.warnings.push(format!("the tokenizer is to add a {part:?} token but names none: none is added"));
            }
        }
    }

    /// `added_tokens.json`: texts and ids only.
    fn listed_tokens(&self) -> Result<Vec<AddedToken>> {
        let listed: Option<std::collections::BTreeMap<String, u32>> = read_json(self.files, "added_tokens.json")?;
        Ok(listed.into_iter().flatten().map(|(content, id)| AddedToken::plain(content, id)).collect())
    }

    /// Appends what every kind of vocabulary ends with.
    fn finish(&mut self, mut metadata: Metadata, special: &Special) -> Result<Metadata> {
        special.write(&mut metadata)?;
        let templates = template::read(self.files, &self.tokenizer_config, &mut self.warnings)?;
        template::write(&templates, &mut metadata)?;
        Ok(metadata)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use qhost_plugin_api::sdk::FailureKind;
    use serde_json::json;

    use super::*;
    use crate::metadata::{Array, Value as Stored};

    /// Files in memory.
    #[derive(Default)]
    pub(super) struct Folder(BTreeMap<String, Vec<u8>>);

    impl Folder {
        pub(super) fn new() -> Self {
            Self::default()
        }

        pub(super) fn with(mut self, name: &str, content: impl Into<Vec<u8>>) -> Self {
            self.0.insert(name.to_owned(), content.into());
            self
        }
    }

    impl Files for Folder {
        fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
            Ok(self.0.get(name).cloned())
        }

        fn names(&self) -> Vec<String> {
            self.0.keys().cloned().collect()
        }
    }

    fn keys(made: &TokenizerMetadata) -> Vec<&str> {
        made.metadata.iter().map(|(key, _)| key).collect()
    }

    fn strings<'a>(made: &'a TokenizerMetadata, key: &str) -> &'a [String] {
        match made.metadata.get(key) {
            Some(Stored::Array(Array::String(strings))) => strings,
            other => panic!("{key} is {other:?}"),
        }
    }

    fn tinylm() -> Folder {
        Folder::new()
            .with("tokenizer.json", include_bytes!("../../../../tests/fixtures/tinylm/tokenizer.json"))
            .with("tokenizer_config.json", include_bytes!("../../../../tests/fixtures/tinylm/tokenizer_config.json"))
            .with(
                "special_tokens_map.json",
                include_bytes!("../../../../tests/fixtures/tinylm/special_tokens_map.json"),
            )
            .with("generation_config.json", include_bytes!("../../../../tests/fixtures/tinylm/generation_config.json"))
    }

    fn config(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn a_byte_level_model_is_written_as_gpt2() {
        let config = config(include_bytes!("../../../../tests/fixtures/tinylm/config.json"));
        let made = tokenizer_metadata(&tinylm(), 4096, &config, None).unwrap();
        assert_eq!(
            keys(&made),
            [
                "tokenizer.ggml.model",
                "tokenizer.ggml.pre",
                "tokenizer.ggml.tokens",
                "tokenizer.ggml.token_type",
                "tokenizer.ggml.merges",
                "tokenizer.ggml.bos_token_id",
                "tokenizer.ggml.eos_token_id",
                "tokenizer.ggml.add_bos_token",
                "tokenizer.ggml.add_eos_token",
                "tokenizer.chat_template",
            ]
        );
        assert_eq!(made.metadata.get("tokenizer.ggml.model").and_then(Stored::as_str), Some("gpt2"));
        assert_eq!(made.metadata.get("tokenizer.ggml.pre").and_then(Stored::as_str), Some("gpt-2"));
        assert_eq!(made.metadata.get("tokenizer.ggml.add_bos_token"), Some(&Stored::Bool(false)));
        assert_eq!(strings(&made, "tokenizer.ggml.tokens").len(), 4096);
        assert_eq!(strings(&made, "tokenizer.ggml.tokens")[0], "<|begin_of_text|>");
        assert_eq!(strings(&made, "tokenizer.ggml.merges")[0], "Ġ t");
        assert!(made.warnings.is_empty(), "{:?}", made.warnings);
    }

    #[test]
    fn a_sentencepiece_model_is_written_as_llama() {
        let config = config(include_bytes!("../../../../tests/fixtures/stories260K/config.json"));
        let files = Folder::new()
            .with("tokenizer.model", include_bytes!("../../../../tests/fixtures/stories260K/tokenizer.model"))
            .with(
                "tokenizer_config.json",
                include_bytes!("../../../../tests/fixtures/stories260K/tokenizer_config.json"),
            );
        let made = tokenizer_metadata(&files, 512, &config, None).unwrap();
        assert_eq!(
            keys(&made),
            [
                "tokenizer.ggml.model",
                "tokenizer.ggml.pre",
                "tokenizer.ggml.tokens",
                "tokenizer.ggml.scores",
                "tokenizer.ggml.token_type",
                "tokenizer.ggml.bos_token_id",
                "tokenizer.ggml.eos_token_id",
                "tokenizer.ggml.unknown_token_id",
                "tokenizer.ggml.add_bos_token",
                "tokenizer.ggml.add_eos_token",
            ]
        );
        assert_eq!(strings(&made, "tokenizer.ggml.tokens")[..4], ["<unk>", "<s>", "</s>", "<0x00>"]);
        let Some(Stored::Array(Array::I32(types))) = made.metadata.get("tokenizer.ggml.token_type") else {
            panic!("types are numbers")
        };
        assert_eq!(types[..4], [2, 3, 3, 6]);
    }

    /// A byte-level tokenizer of the Llama 3 kind with a two-letter vocabulary.
    fn small_llama3(post_processor: &Value) -> Value {
        let regex = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        json!({
            "added_tokens": [{"id": 3, "content": "<|begin_of_text|>", "special": true},
                             {"id": 4, "content": "<mask>", "special": false, "lstrip": true}],
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false},
                {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]},
            "post_processor": post_processor,
            "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "ignore_merges": true, "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
        })
    }

    #[test]
    fn a_bos_that_only_llama_cpp_would_add_is_denied() {
        let template = json!({"type": "TemplateProcessing", "pair": [], "single": [
            {"SpecialToken": {"id": "<|begin_of_text|>"}}, {"Sequence": {"id": "A"}}]});
        for (post_processor, adds) in [(template, true), (Value::Null, false)] {
            let files = Folder::new()
                .with("tokenizer.json", small_llama3(&post_processor).to_string())
                .with("tokenizer_config.json", r#"{"bos_token": "<|begin_of_text|>"}"#);
            let made = tokenizer_metadata(&files, 6, &Value::Null, None).unwrap();
            assert_eq!(made.metadata.get("tokenizer.ggml.pre").and_then(Stored::as_str), Some("llama-bpe"));
            assert_eq!(made.metadata.get("tokenizer.ggml.add_bos_token"), Some(&Stored::Bool(adds)));
            // One warning is about <mask>, which takes in spaces.
            assert_eq!(made.warnings.len(), if adds { 1 } else { 2 }, "{:?}", made.warnings);
        }
    }

    #[test]
    fn tokens_of_the_configuration_are_added() {
        let config = json!({"added_tokens_decoder": {
            "3": {"content": "<|begin_of_text|>", "special": true},
            "5": {"content": "<|im_end|>", "special": true},
        }});
        let files = Folder::new()
            .with("tokenizer.json", small_llama3(&Value::Null).to_string())
            .with("tokenizer_config.json", config.to_string());
        let made = tokenizer_metadata(&files, 7, &Value::Null, None).unwrap();
        let texts = ["a", "b", "ab", "<|begin_of_text|>", "<mask>", "<|im_end|>", "[PAD6]"];
        assert_eq!(strings(&made, "tokenizer.ggml.tokens"), texts);
    }

    #[test]
    fn a_bos_that_does_not_exist_is_not_added() {
        let files = Folder::new()
            .with("tokenizer.json", small_llama3(&Value::Null).to_string())
            .with("tokenizer_config.json", r#"{"add_bos_token": true}"#);
        let made = tokenizer_metadata(&files, 6, &Value::Null, None).unwrap();
        assert_eq!(made.metadata.get("tokenizer.ggml.pre").and_then(Stored::as_str), Some("glm4"));
        assert_eq!(made.metadata.get("tokenizer.ggml.add_bos_token"), Some(&Stored::Bool(false)));
    }

    #[test]
    fn the_user_may_name_the_splitting() {
        let mut document = small_llama3(&Value::Null);
        document["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [{"type": "Whitespace"},
            {"type": "ByteLevel"}]});
        let files = Folder::new().with("tokenizer.json", document.to_string());
        let failure = tokenizer_metadata(&files, 6, &Value::Null, None).unwrap_err();
        assert_eq!(failure.kind, FailureKind::UNSUPPORTED);
        assert!(failure.message.contains("Whitespace"));
        let made = tokenizer_metadata(&files, 6, &Value::Null, Some("qwen2")).unwrap();
        assert_eq!(made.metadata.get("tokenizer.ggml.pre").and_then(Stored::as_str), Some("qwen2"));
        let failure = tokenizer_metadata(&files, 6, &Value::Null, Some("nonsense")).unwrap_err();
        assert_eq!(failure.kind, FailureKind::USAGE);
    }

    #[test]
    fn ignored_merges_matter_only_where_a_token_cannot_be_reached() {
        let warned = |merges: Value| {
            let mut document = small_llama3(&Value::Null);
            document["model"]["merges"] = merges;
            let files = Folder::new().with("tokenizer.json", document.to_string());
            let made = tokenizer_metadata(&files, 6, &Value::Null, Some("gpt-2")).unwrap();
            made.warnings.iter().any(|warning| warning.contains("ignore_merges"))
        };
        assert!(!warned(json!(["a b"])));
        assert!(warned(json!([])));
    }

    #[test]
    fn other_kinds_of_tokenizer_are_named() {
        let json = |model: Value| Folder::new().with("tokenizer.json", json!({"model": model}).to_string());
        let unsupported = [
            (json(json!({"type": "Unigram", "vocab": [["a", 0.0]]})), "Unigram"),
            (json(json!({"type": "WordPiece", "vocab": {"a": 0}})), "WordPiece"),
            (json(json!({"type": "BPE", "vocab": {"a": 0}, "merges": []})), "plain characters"),
            (Folder::new().with("vocab.json", "{}").with("merges.txt", ""), "two files"),
            (Folder::new().with("tekken.json", "{}"), "Mistral"),
            (Folder::new().with("qwen.tiktoken", ""), "tiktoken"),
            (Folder::new().with("tokenizer.model", "IQ== 0\nIg== 1\n"), "tiktoken"),
        ];
        for (files, word) in unsupported {
            let failure = tokenizer_metadata(&files, 8, &Value::Null, None).unwrap_err();
            assert_eq!(failure.kind, FailureKind::UNSUPPORTED);
            assert!(failure.message.contains(word), "{}", failure.message);
            assert!(!failure.hint.is_empty());
        }
        let failure = tokenizer_metadata(&Folder::new().with("config.json", "{}"), 8, &Value::Null, None).unwrap_err();
        assert_eq!(failure.kind, FailureKind::CORRUPT);
        assert!(!failure.hint.is_empty());
    }

    #[test]
    fn a_tiktoken_file_gives_way_to_tokenizer_json() {
        let files = tinylm().with("tokenizer.model", "IQ== 0\nIg== 1\n");
        let made = tokenizer_metadata(&files, 4096, &Value::Null, None).unwrap();
        assert_eq!(made.metadata.get("tokenizer.ggml.model").and_then(Stored::as_str), Some("gpt2"));
        assert_eq!(made.warnings.len(), 1);
    }

    #[test]
    fn damaged_files_are_errors() {
        let json = include_str!("../../../../tests/fixtures/tinylm/tokenizer.json");
        for cut in [0, 1, json.len() / 3, json.len() - 2] {
            let cut = (0..=cut).rev().find(|&at| json.is_char_boundary(at)).unwrap();
            let files = Folder::new().with("tokenizer.json", &json[..cut]);
            let failure = tokenizer_metadata(&files, 4096, &Value::Null, None).unwrap_err();
            assert_eq!(failure.kind, FailureKind::CORRUPT);
        }
        for name in ["tokenizer_config.json", "special_tokens_map.json", "generation_config.json"] {
            let files = tinylm().with(name, "[]");
            assert_eq!(tokenizer_metadata(&files, 4096, &Value::Null, None).unwrap_err().kind, FailureKind::CORRUPT);
        }
        // More tokens than rows.
        assert_eq!(tokenizer_metadata(&tinylm(), 4000, &Value::Null, None).unwrap_err().kind, FailureKind::CORRUPT);
    }
}
