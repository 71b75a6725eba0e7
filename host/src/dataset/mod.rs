//! Data for calibration and evaluation: files, data sets of a hub, or the built-in text become rows of tokens.
//!
//! It knows forms of data, tokenizers and chat templates. What is done with the tokens, and by which model, is for
//! others.

mod documents;
mod error;
mod files;
mod parquet;
mod random;
mod sampling;
mod source;
mod split;
mod template;
mod tokenizer;
mod windows;

use serde::Serialize;
use sha2::{Digest, Sha256};

pub use error::{Error, Place};
pub use template::ChatTemplate;
pub use tokenizer::Tokenizer;
pub use windows::windows;

use self::{
    documents::{Documents, Limits},
    files::Contents,
    sampling::Pool,
    source::{Found, OnHub, Source},
};
use crate::{
    cancel::CancelFlag,
    exit_code::{ExitCode, Fault as _},
    hub::Settings,
};

/// The data set that is meant where none is named: WikiText-2, in its raw form.
const DEFAULT: (&str, &str) = ("Salesforce/wikitext", "wikitext-2-raw-v1");
/// What stands in for it where the hub cannot be asked.
const BUILT_IN: &str = include_str!("builtin.txt");
const BUILT_IN_NAME: &str = "built-in text";

/// The data that the user wants.
#[derive(Debug)]
pub struct Request<'a> {
    /// A file, or a data set of a hub; WikiText-2 if none is named.
    pub name: Option<&'a str>,
    /// The number of the model's tokens, where it is known: no other may be in the rows.
    pub vocabulary: Option<u64>,
    /// Where the hub and its cache are.
    pub hub: &'a Settings,
    /// The user's wish to stop.
    pub cancel: &'a CancelFlag,
}

/// How much is drawn for a calibration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampling {
    /// Rows.
    pub samples: usize,
    /// Tokens of a row.
    pub seq_len: usize,
    /// The seed of the order.
    pub seed: u64,
}

impl Default for Sampling {
    /// What the field uses: 128 rows of 2048 tokens.
    fn default() -> Self {
        Self { samples: 128, seq_len: 2048, seed: 0 }
    }
}

/// What was read, for a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Description {
    /// The file as the user names it; the data set with its commit; or that it is the built-in text.
    pub source: String,
    /// Rows of tokens.
    pub rows: usize,
    /// Tokens of all rows.
    pub tokens: usize,
    /// The seed of the order, where an order was drawn.
    pub seed: Option<u64>,
    /// SHA-256 of the rows: of each its length as eight bytes and its tokens as four, the lowest byte first.
    pub sha256: String,
}

/// Rows for a calibration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Samples {
    /// The tokens of each row.
    pub rows: Vec<Vec<u32>>,
    /// What they are.
    pub description: Description,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Tokens for an evaluation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evaluation {
    /// The tokens.
    pub tokens: Tokens,
    /// What they are.
    pub description: Description,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Tokens of one text, or rows that are texts of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tokens {
    /// One text, as the tokenizer makes it of the whole, with what the tokenizer puts around a text; to be cut with
    /// [`windows()`].
    Text(Vec<u32>),
    /// Rows that are used as they are: `input_ids`, or one conversation each.
    Rows(Vec<Vec<u32>>),
}

/// Rows for a calibration: rows of `input_ids` as they are and in their order, `samples` of them; of anything else
/// `samples` rows of `seq_len` tokens, drawn and packed as `sampling.rs` tells. Fewer, with a warning, where there are
/// not enough.
///
/// # Errors
/// Fails when the data cannot be found or read, or needs a tokenizer that the model does not have.
pub fn calibration(request: &Request<'_>, sampling: Sampling, tokenizer: Option<&Tokenizer>) -> Result<Samples, Error> {
    at_least("the number of samples", sampling.samples, 1)?;
    at_least("the length of a row", sampling.seq_len, 2)?;
    let vocabulary = request.vocabulary;
    let limits = Limits { rows: sampling.samples, bytes: sampling::ENOUGH, vocabulary, joins: false };
    let Data { documents, name, mut warnings, .. } = Data::open(request, "train", limits, tokenizer)?;
    let (rows, seed) = match documents {
        Documents::Tokens(rows) => (rows, None),
        Documents::Text(text) => drawn(&Pool::Text(&text), sampling, tokenizer)?,
        Documents::Rows(rows) => drawn(&Pool::Rows(&rows), sampling, tokenizer)?,
    };
    check(&rows, vocabulary)?;
    let description = Description::of(name, &rows, seed)?;
    if rows.len() < sampling.samples {
        warnings.push(format!(
            "{} has no more than {} of the {} samples that were asked for",
            description.source,
            rows.len(),
            sampling.samples
        ));
    }
    Ok(Samples { rows, description, warnings })
}

/// Tokens for an evaluation: rows of `input_ids` as they are, all of them; conversations one by one; and text as a
/// whole, of which the rows are joined with an empty line between two, as is usual for WikiText-2.
///
/// # Errors
/// Fails when the data cannot be found or read, or needs a tokenizer that the model does not have.
pub fn evaluation(request: &Request<'_>, tokenizer: Option<&Tokenizer>) -> Result<Evaluation, Error> {
    let vocabulary = request.vocabulary;
    let limits = Limits { rows: usize::MAX, bytes: usize::MAX, vocabulary, joins: true };
    let Data { documents, name, warnings, .. } = Data::open(request, "test", limits, tokenizer)?;
    let (rows, is_text) = match documents {
        Documents::Tokens(rows) => (rows, false),
        Documents::Text(text) => (vec![needed(tokenizer)?.encode(&text, true)?], true),
        Documents::Rows(rows) => {
            let tokenizer = needed(tokenizer)?;
            (rows.iter().map(|row| row.encode(tokenizer)).collect::<Result<_, _>>()?, false)
        }
    };
    check(&rows, vocabulary)?;
    let description = Description::of(name, &rows, None)?;
    let tokens = if is_text { Tokens::Text(rows.concat()) } else { Tokens::Rows(rows) };
    Ok(Evaluation { tokens, description, warnings })
}

/// The contents of a data set.
struct Data {
    documents: Documents,
    name: String,
    warnings: Vec<String>,
}

impl Data {
    fn open(request: &Request<'_>, split: &str, limits: Limits, tokenizer: Option<&Tokenizer>) -> Result<Self, Error> {
        let bytes = u64::try_from(limits.bytes).unwrap_or(u64::MAX);
        let fetch = |on_hub: &OnHub| on_hub.fetch(split, bytes, request.hub, request.cancel);
        let Some(name) = request.name else {
            // Nothing is fetched that nobody can read.
            needed(tokenizer)?;
            let whole = OnHub::of(DEFAULT, split);
            return match whole.as_ref().map(fetch) {
                Some(Ok(found)) => {
                    Self::read(found, limits, vec![format!("no data set is named: {} is used", DEFAULT.0)])
                }
                // Whoever has stopped it, or has a damaged cache, is told so.
                Some(Err(error)) if error.exit_code() != ExitCode::NotFound => Err(error),
                failed => Ok(Self::built_in(failed.and_then(Result::err))),
            };
        };
        let found = match Source::parse(name)? {
            Source::File(path) => Found { name: path.display().to_string(), paths: vec![path] },
            Source::Hub(on_hub) => fetch(&on_hub)?,
        };
        Self::read(found, limits, Vec::new())
    }

    fn read(found: Found, limits: Limits, mut warnings: Vec<String>) -> Result<Self, Error> {
        let Contents { documents, cut } = files::read(&found.paths, limits)?;
        if cut && !matches!(documents, Documents::Tokens(_)) {
            warnings.push(format!("of {} the first {} MiB are used", found.name, limits.bytes >> 20));
        }
        Ok(Self { documents, name: found.name, warnings })
    }

    /// The text that is always there.
    fn built_in(error: Option<Error>) -> Self {
        let reason = error.map_or_else(String::new, |error| format!(" ({error})"));
        let warning = format!(
            "no data set is named, and {} cannot be fetched{reason}: the {BUILT_IN_NAME} is used, which is short",
            DEFAULT.0
        );
        Self { documents: Documents::Text(BUILT_IN.into()), name: BUILT_IN_NAME.into(), warnings: vec![warning] }
    }
}

impl Description {
    fn of(source: String, rows: &[Vec<u32>], seed: Option<u64>) -> Result<Self, Error> {
        let tokens = rows.iter().map(Vec::len).sum();
        if tokens == 0 {
            return Err(Error::Empty { data: source });
        }
        let mut digest = Sha256::new();
        for row in rows {
            digest.update((row.len() as u64).to_le_bytes());
            for token in row {
                digest.update(token.to_le_bytes());
            }
        }
        let sha256 = crate::text::hex(&digest.finalize());
        Ok(Self { source, rows: rows.len(), tokens, seed, sha256 })
    }
}

fn at_least(what: &'static str, number: usize, least: usize) -> Result<(), Error> {
    if number < least { Err(Error::TooSmall { what, least }) } else { Ok(()) }
}

fn needed(tokenizer: Option<&Tokenizer>) -> Result<&Tokenizer, Error> {
    tokenizer.ok_or(Error::NoTokenizer)
}

fn drawn(
    pool: &Pool<'_>,
    sampling: Sampling,
    tokenizer: Option<&Tokenizer>,
) -> Result<(Vec<Vec<u32>>, Option<u64>), Error> {
    Ok((sampling::draw(pool, sampling, needed(tokenizer)?)?, Some(sampling.seed)))
}

/// Holds tokens against the model's number of them.
fn check(rows: &[Vec<u32>], vocabulary: Option<u64>) -> Result<(), Error> {
    let Some(vocabulary) = vocabulary else { return Ok(()) };
    let largest = rows.iter().flatten().max().copied();
    match largest.filter(|&id| u64::from(id) >= vocabulary) {
        Some(id) => Err(Error::TokenizerBeyond { id, vocabulary }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
