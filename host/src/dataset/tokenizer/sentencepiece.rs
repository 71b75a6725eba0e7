//! `tokenizer.model`: a SentencePiece model, made into a tokenizer in memory.
//!
//! The numbers of fields and kinds are those of `sentencepiece_model.proto`. What becomes of a model whose class in
//! transformers is Llama's is what that class makes of it; any other does what its own settings say.

use std::collections::HashMap;

use prost::Message;
use tokenizers::{
    AddedToken, Model as _, ModelWrapper, NormalizerWrapper, Tokenizer,
    models::{bpe::BPE, unigram::Unigram},
    normalizers::{Precompiled, Replace, Sequence, replace::ReplacePattern},
    pre_tokenizers::metaspace::{Metaspace, PrependScheme},
};

use super::{Error, SENTENCEPIECE, characters, config::Config};

/// Longer pieces are no merges': no published vocabulary has one, and a piece of so many letters has as many ways to be cut,
/// each with all of its letters.
const LONGEST: usize = 512;

/// The whole model.
#[derive(Clone, PartialEq, Message)]
struct Proto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<Trainer>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<Settings>,
}

#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(string, optional, tag = "1")]
    text: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(enumeration = "Kind", optional, tag = "3")]
    kind: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum Kind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// What the model was trained as.
#[derive(Clone, PartialEq, Message)]
struct Trainer {
    #[prost(enumeration = "Algorithm", optional, tag = "3")]
    algorithm: Option<i32>,
    #[prost(bool, optional, tag = "24")]
    treat_whitespace_as_suffix: Option<bool>,
    #[prost(bool, optional, tag = "35")]
    byte_fallback: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum Algorithm {
    Unigram = 1,
    Bpe = 2,
    Word = 3,
    Char = 4,
}

/// What is done to a text first.
#[derive(Clone, PartialEq, Message)]
struct Settings {
    #[prost(bytes = "vec", optional, tag = "2")]
    precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3", default = "true")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4", default = "true")]
    remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5", default = "true")]
    escape_whitespaces: Option<bool>,
}

/// The tokenizer that a model is, and what is done to a text before it.
///
/// The latter is no part of the first: that would do it to what stands between two special tokens, and then take the
/// first letter, where a space before it is gone, for one that does not begin the text.
pub(super) fn tokenizer(bytes: &[u8], config: &Config) -> Result<(Tokenizer, Option<Sequence>), Error> {
    let proto = Proto::decode(bytes).map_err(|error| foreign_or_bad(bytes, &error.to_string()))?;
    if proto.pieces.is_empty() {
        return Err(foreign_or_bad(bytes, "it has no pieces"));
    }
    if let Some(index) = proto.pieces.iter().position(|piece| !piece.score().is_finite()) {
        return Err(bad(format!("the score of piece {index} is not a number")));
    }
    let trainer = proto.trainer.clone().unwrap_or_default();
    let settings = proto.normalizer.clone().unwrap_or_default();
    if trainer.treat_whitespace_as_suffix() {
        return Err(foreign("a SentencePiece model that puts spaces at the ends of words"));
    }
    if !settings.escape_whitespaces() {
        return Err(foreign("a SentencePiece model that leaves spaces as they are"));
    }
    let model = match trainer.algorithm() {
        Algorithm::Bpe => proto.bpe(trainer.byte_fallback())?,
        Algorithm::Unigram => proto.unigram(trainer.byte_fallback())?,
        Algorithm::Word => return Err(foreign("a SentencePiece model of whole words")),
        Algorithm::Char => return Err(foreign("a SentencePiece model of characters")),
    };
    let mut tokenizer = Tokenizer::new(model);
    let as_llama = trainer.algorithm() == Algorithm::Bpe && config.class() == Some("LlamaTokenizer");
    let normalizers = if as_llama { Vec::new() } else { normalizers(&settings)? };
    let prefixes = config.adds_prefix_space().unwrap_or(as_llama || settings.add_dummy_prefix());
    let scheme = match (prefixes, as_llama && config.is_legacy()) {
        (false, _) => PrependScheme::Never,
        (true, true) => PrependScheme::Always,
        (true, false) => PrependScheme::First,
    };
    // A text is one word: a model may have pieces with spaces in them.
    tokenizer.with_pre_tokenizer(Some(Metaspace::new('▁', scheme, false)));
    let added = |kind: Kind, special: bool| {
        let pieces: Vec<_> = proto.pieces.iter().filter(|piece| piece.kind() == kind).collect();
        pieces.into_iter().map(move |piece| AddedToken::from(piece.spelled(), special).normalized(false))
    };
    tokenizer.add_special_tokens(added(Kind::Control, true)).map_err(unusable)?;
    tokenizer.add_tokens(added(Kind::UserDefined, false)).map_err(unusable)?;
    Ok((tokenizer, (!normalizers.is_empty()).then(|| Sequence::new(normalizers))))
}

impl Proto {
    /// A BPE: SentencePiece joins the two neighbours that make the piece of the highest score, so every way to cut a
    /// piece in two is a merge of that rank. Of equal ranks transformers takes the order of the pieces.
    fn bpe(&self, byte_fallback: bool) -> Result<ModelWrapper, Error> {
        let mut vocabulary = HashMap::with_capacity(self.pieces.len());
        let mut ranked = Vec::new();
        for (id, piece) in (0u32..).zip(&self.pieces) {
            vocabulary.entry(piece.spelled()).or_insert(id);
            if piece.is_part() && piece.text().len() <= LONGEST {
                ranked.push((id, piece));
            }
        }
        let parts: HashMap<&str, u32> = ranked.iter().map(|(id, piece)| (piece.text(), *id)).collect();
        ranked.sort_by(|(a, left), (b, right)| right.score().total_cmp(&left.score()).then(a.cmp(b)));
        let mut merges = Vec::new();
        for (_, piece) in ranked {
            let text = piece.text();
            let cuts = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
            let mut cuts: Vec<_> =
                cuts.filter(|(left, right)| parts.contains_key(left) && parts.contains_key(right)).collect();
            cuts.sort_by_key(|(left, right)| (left.chars().count(), right.chars().count()));
            merges.extend(cuts.into_iter().map(|(left, right)| (left.to_owned(), right.to_owned())));
        }
        // What merges go through is spelled with ▁, also where the text of a user-defined piece is not.
        for (text, id) in parts {
            vocabulary.entry(text.to_owned()).or_insert(id);
        }
        let vocabulary: tokenizers::models::bpe::Vocab = vocabulary.into_iter().collect();
        let mut builder = BPE::builder().vocab_and_merges(vocabulary, merges).fuse_unk(true);
        if let Some(unknown) = self.pieces.iter().find(|piece| piece.kind() == Kind::Unknown) {
            builder = builder.unk_token(unknown.text().to_owned());
        }
        Ok(builder.byte_fallback(byte_fallback).build().map_err(unusable)?.into())
    }

    fn unigram(&self, byte_fallback: bool) -> Result<ModelWrapper, Error> {
        let unknown = self.pieces.iter().position(|piece| piece.kind() == Kind::Unknown);
        let pieces = self.pieces.iter().map(|piece| (piece.spelled(), f64::from(piece.score())));
        let model = Unigram::from(pieces.collect(), unknown, byte_fallback);
        let model = model.map_err(|error| bad(error.to_string()))?;
        if model.get_vocab_size() != self.pieces.len() {
            return Err(bad("it has the same piece twice".into()));
        }
        Ok(model.into())
    }
}

impl Piece {
    /// Whether merges lead to it or start from it.
    fn is_part(&self) -> bool {
        matches!(self.kind(), Kind::Normal | Kind::UserDefined)
    }

    /// How it stands in a text. User-defined pieces are found in the text before spaces are written as ▁.
    fn spelled(&self) -> String {
        match self.kind() {
            Kind::UserDefined => self.text().replace('▁', " "),
            _ => self.text().to_owned(),
        }
    }
}

/// What SentencePiece does to a text before it puts a space before it.
fn normalizers(settings: &Settings) -> Result<Vec<NormalizerWrapper>, Error> {
    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    let map = settings.precompiled_charsmap();
    if !map.is_empty() {
        characters::check(map).map_err(|reason| bad(format!("its map of characters: {reason}")))?;
        let map = Precompiled::from(map).map_err(|error| bad(format!("its map of characters: {error}")))?;
        normalizers.push(map.into());
    }
    if settings.remove_extra_whitespaces() {
        // Spaces alone, and no other white space.
        for (pattern, replacement) in [("^ +| +$", ""), (" {2,}", " ")] {
            let replace = Replace::new(ReplacePattern::Regex(pattern.into()), replacement);
            normalizers.push(replace.map_err(unusable)?.into());
        }
    }
    Ok(normalizers)
}

fn bad(reason: String) -> Error {
    Error::BadTokenizer { file: SENTENCEPIECE.into(), reason }
}

fn foreign(kind: &str) -> Error {
    Error::ForeignTokenizer { file: SENTENCEPIECE.into(), kind: kind.to_owned() }
}

/// Some models have a file of the same name in the form of tiktoken: a token in base 64 and its rank in each line.
fn foreign_or_bad(bytes: &[u8], reason: &str) -> Error {
    let first = bytes.split(|&byte| byte == b'\n').next().and_then(|line| std::str::from_utf8(line).ok());
    let is_rank = |line: &str| line.split_once(' ').is_some_and(|(_, rank)| rank.trim().parse::<u32>().is_ok());
    if first.is_some_and(is_rank) { foreign("a tiktoken file") } else { bad(reason.to_owned()) }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unusable(error: tokenizers::Error) -> Error {
    bad(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All the ways to cut runs of one letter would take memory with the third power of the longest.
    #[test]
    fn pieces_without_end_are_no_merges() {
        let piece = |length: usize| Piece { text: Some("a".repeat(length)), score: Some(-1.0), kind: None };
        let pieces = [1, 2, LONGEST - 1, LONGEST, LONGEST + 1].map(piece).to_vec();
        let proto = Proto { pieces, trainer: None, normalizer: None };
        let model = serde_json::to_value(proto.bpe(false).unwrap()).unwrap();
        // The two letters, and the longest by its first and by its last.
        assert_eq!(model["merges"].as_array().map(Vec::len), Some(3));
    }
}
