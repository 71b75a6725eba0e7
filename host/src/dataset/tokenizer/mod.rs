//! The model's tokenizer: from the small files beside the weights to token numbers, as transformers gives them.
//!
//! The files are tried in transformers' order: `tokenizer.json`, then `tokenizer.model` (SentencePiece), then
//! `vocab.json` with `merges.txt`. They come from a folder, or from whoever has their bytes.

mod added;
mod characters;
mod config;
mod cut;
mod sentencepiece;
mod vocabulary_files;

use std::{
    fmt, fs, io,
    panic::{self, AssertUnwindSafe},
    path::Path,
};

use tokenizers::{NormalizedString, Normalizer as _, Tokenizer as Inner, normalizers::Sequence};

use self::config::Config;
use super::{Error, template::ChatTemplate};

const JSON: &str = "tokenizer.json";
const SENTENCEPIECE: &str = "tokenizer.model";
const VOCABULARY: &str = "vocab.json";
const MERGES: &str = "merges.txt";
const CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS: &str = "special_tokens_map.json";

/// Bytes of a text that become tokens at once, where it may be cut.
const LONG: usize = 256 << 10;

/// What is wrong where the library does not say it.
const CONTRADICTION: &str = "its parts contradict each other";

/// A tokenizer, and how the model wants its texts to begin and end.
pub struct Tokenizer {
    inner: Inner,
    /// What is done to a text first, where the inner tokenizer does not do it.
    normalizer: Option<Sequence>,
    /// What transformers puts before a text.
    prefix: Vec<u32>,
    /// What it puts behind a text.
    suffix: Vec<u32>,
    bos: Option<u32>,
    /// Whether a text may be cut at the ends of words.
    may_cut: bool,
    vocabulary: u64,
    template: Option<ChatTemplate>,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocabulary", &self.vocabulary)
            .field("prefix", &self.prefix)
            .field("suffix", &self.suffix)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// The tokenizer in a folder, or nothing if none of its files is there.
    ///
    /// # Errors
    /// Fails when the files cannot be read, are damaged, or are a tokenizer of another kind.
    pub fn of_folder(folder: &Path) -> Result<Option<Self>, Error> {
        Self::of(&|name| match fs::read(folder.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        })
    }

    /// The tokenizer in files that `read` gives the contents of by name, or `None` where there is no such file.
    ///
    /// # Errors
    /// Fails when `read` does, or when the files are damaged or a tokenizer of another kind.
    pub fn of(read: &dyn Fn(&str) -> io::Result<Option<Vec<u8>>>) -> Result<Option<Self>, Error> {
        let file = |name: &str| read(name).map_err(Error::unreadable(Path::new(name)));
        let config = || Config::read(file(CONFIG)?.as_deref(), file(SPECIAL_TOKENS)?.as_deref());
        let template = |config: &Config| ChatTemplate::of(&file, config.chat_template(), config.named_tokens());
        if let Some(bytes) = file(JSON)? {
            let config = config()?;
            return Self::of_json(&bytes, &config, template(&config)?).map(Some);
        }
        let ((inner, normalizer), config) = if let Some(bytes) = file(SENTENCEPIECE)? {
            let config = config()?;
            (contained(SENTENCEPIECE, || sentencepiece::tokenizer(&bytes, &config))?, config)
        } else if let (Some(vocabulary), Some(merges)) = (file(VOCABULARY)?, file(MERGES)?) {
            let config = config()?;
            let made = contained(VOCABULARY, || vocabulary_files::tokenizer(&vocabulary, &merges, &config))?;
            ((made, None), config)
        } else {
            return Ok(None);
        };
        let template = template(&config)?;
        let mut tokenizer = contained(CONFIG, || Self::finish(inner, &config, template))?;
        tokenizer.normalizer = normalizer;
        tokenizer.prefix = config.adds_bos().then_some(tokenizer.bos).flatten().into_iter().collect();
        let eos = config.eos().and_then(|token| tokenizer.inner.token_to_id(token));
        tokenizer.suffix = config.adds_eos().then_some(eos).flatten().into_iter().collect();
        Ok(Some(tokenizer))
    }

    /// The tokenizer of a `tokenizer.json` and, where there is one, a `tokenizer_config.json`, in memory.
    ///
    /// # Errors
    /// Fails when one of them is damaged.
    pub fn of_texts(json: &str, config: Option<&str>) -> Result<Self, Error> {
        let config = Config::read(config.map(str::as_bytes), None)?;
        let template = ChatTemplate::of(&|_| Ok(None), config.chat_template(), config.named_tokens())?;
        Self::of_json(json.as_bytes(), &config, template)
    }

    fn of_json(bytes: &[u8], config: &Config, template: Option<ChatTemplate>) -> Result<Self, Error> {
        contained(JSON, || Self::parsed(bytes, config, template))
    }

    fn parsed(bytes: &[u8], config: &Config, template: Option<ChatTemplate>) -> Result<Self, Error> {
        let bad = |error: tokenizers::Error| Error::BadTokenizer { file: JSON.into(), reason: error.to_string() };
        characters::check_json(bytes).map_err(|reason| Error::BadTokenizer { file: JSON.into(), reason })?;
        let mut inner = Inner::from_bytes(bytes).map_err(bad)?;
        // They are for batches of sentences.
        inner.with_truncation(None).map_err(bad)?;
        inner.with_padding(None);
        let mut tokenizer = Self::finish(inner, config, template)?;
        // The post-processor says what is put around a text, in one of several ways: it is asked.
        let bare = tokenizer.bare("a")?;
        let whole = tokenizer.inner.encode_fast("a", true).map_err(fails)?;
        let whole = whole.get_ids();
        let start = (0..=whole.len().saturating_sub(bare.len())).find(|&at| whole[at..].starts_with(&bare));
        if let Some(start) = start.filter(|_| whole.len() > bare.len()) {
            tokenizer.prefix = whole[..start].to_vec();
            tokenizer.suffix = whole[start + bare.len()..].to_vec();
        }
        tokenizer.bos = tokenizer.bos.or_else(|| tokenizer.prefix.first().copied());
        Ok(tokenizer)
    }

    /// What all kinds have in common.
    fn finish(mut inner: Inner, config: &Config, template: Option<ChatTemplate>) -> Result<Self, Error> {
        added::add(&mut inner, config)?;
        let bos = config.bos().and_then(|token| inner.token_to_id(token));
        let largest = inner.get_vocab(true).into_values().max();
        let vocabulary = largest.map_or(0, |id| u64::from(id) + 1);
        let may_cut = cut::is_safe(&inner);
        Ok(Self { may_cut, inner, normalizer: None, prefix: Vec::new(), suffix: Vec::new(), bos, vocabulary, template })
    }

    /// The tokens of a text; with `special`, between those that transformers puts around a text.
    ///
    /// Special tokens that stand in the text are taken as such, as transformers does it.
    ///
    /// # Errors
    /// Fails when the tokenizer does, for example on a character that it has no token for.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, Error> {
        let bare = self.bare(text)?;
        if !special || (self.prefix.is_empty() && self.suffix.is_empty()) {
            return Ok(bare);
        }
        Ok([self.prefix.as_slice(), &bare, &self.suffix].concat())
    }

    fn bare(&self, text: &str) -> Result<Vec<u32>, Error> {
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| self.split(text)));
        outcome.unwrap_or_else(|_| Err(Error::Tokenizer { reason: CONTRADICTION.into() }))
    }

    fn split(&self, text: &str) -> Result<Vec<u32>, Error> {
        let Some(normalizer) = &self.normalizer else {
            return if self.may_cut { self.in_parts(text, LONG) } else { self.at_once(text) };
        };
        let mut normalized = NormalizedString::from(text);
        normalizer.normalize(&mut normalized).map_err(fails)?;
        self.at_once(normalized.get())
    }

    fn in_parts(&self, text: &str, length: usize) -> Result<Vec<u32>, Error> {
        let mut tokens = Vec::new();
        for part in cut::parts(text, length) {
            tokens.extend_from_slice(self.inner.encode_fast(part, false).map_err(fails)?.get_ids());
        }
        Ok(tokens)
    }

    fn at_once(&self, text: &str) -> Result<Vec<u32>, Error> {
        Ok(self.inner.encode_fast(text, false).map_err(fails)?.get_ids().to_vec())
    }

    /// The token that begins a text, where the tokenizer names one.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Whether a text begins with that token, as transformers makes it.
    #[must_use]
    pub fn adds_bos(&self) -> bool {
        self.bos.is_some() && self.prefix.first().copied() == self.bos
    }

    /// The number of tokens: one more than the largest.
    #[must_use]
    pub fn vocabulary(&self) -> u64 {
        self.vocabulary
    }

    /// How a conversation becomes a text.
    #[must_use]
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }
}

/// Has the library make a tokenizer of a file. At some of what is no tokenizer it panics (release 0.23.2), which is an error
/// here all the same; nothing of what was made is used after it.
fn contained<T>(file: &str, make: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let outcome = panic::catch_unwind(AssertUnwindSafe(make));
    outcome.unwrap_or_else(|_| Err(Error::BadTokenizer { file: file.to_owned(), reason: CONTRADICTION.into() }))
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn fails(error: tokenizers::Error) -> Error {
    Error::Tokenizer { reason: error.to_string() }
}

#[cfg(test)]
mod tests;
