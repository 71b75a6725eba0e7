//! What a data set holds: one long text, documents, conversations, or rows of tokens.

use std::path::Path;

use minijinja::Value as Jinja;
use serde::Deserialize;

use super::{Error, Tokenizer, error::Place};

/// The contents of a data set, in the order of its files and rows.
#[derive(Debug)]
pub(super) enum Documents {
    /// Text as it stands in a file.
    Text(String),
    /// Rows of text or of messages.
    Rows(Vec<Row>),
    /// Rows of tokens.
    Tokens(Vec<Vec<u32>>),
}

/// A row that is to become tokens.
#[derive(Debug)]
pub(super) struct Row {
    place: Place,
    contents: Contents,
}

#[derive(Debug)]
enum Contents {
    Text(String),
    Messages { messages: Jinja, tools: Option<Jinja> },
}

/// A row as it is written.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Written {
    pub(super) text: Option<String>,
    pub(super) messages: Option<Jinja>,
    pub(super) tools: Option<Jinja>,
    pub(super) input_ids: Option<Vec<u64>>,
}

/// How much of a data set is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Rows of tokens.
    pub(super) rows: usize,
    /// Bytes of text.
    pub(super) bytes: usize,
    /// The number of the model's tokens.
    pub(super) vocabulary: Option<u64>,
    /// Whether lines of text are parts of one text, as rows of columns always are.
    pub(super) joins: bool,
}

/// Documents in the making.
#[derive(Debug)]
pub(super) struct Collector {
    limits: Limits,
    rows: Vec<Row>,
    tokens: Vec<Vec<u32>>,
    bytes: usize,
    /// Whether something was left out because there is enough.
    pub(super) cut: bool,
}

impl Collector {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, rows: Vec::new(), tokens: Vec::new(), bytes: 0, cut: false }
    }

    /// Bytes of text that are still wanted.
    pub(super) fn room(&self) -> usize {
        self.limits.bytes - self.bytes
    }

    /// Takes a row, and tells whether more are wanted.
    pub(super) fn take(&mut self, path: &Path, row: usize, written: Written) -> Result<bool, Error> {
        let place = || Place { path: path.to_owned(), row };
        let bad = |reason: &str| Error::BadRow { place: place(), reason: reason.to_owned() };
        match written {
            Written { input_ids: Some(ids), .. } => {
                if !self.rows.is_empty() {
                    return Err(bad("a row of input_ids among rows of text"));
                }
                if self.tokens.len() == self.limits.rows {
                    self.cut = true;
                    return Ok(false);
                }
                if ids.is_empty() {
                    return Err(bad("input_ids is empty"));
                }
                let vocabulary = self.limits.vocabulary.unwrap_or(1 << 32).min(1 << 32);
                let token = |id: u64| match u32::try_from(id) {
                    Ok(token) if id < vocabulary => Ok(token),
                    _ => Err(Error::OutsideVocabulary { place: place(), id, vocabulary }),
                };
                self.tokens.push(ids.into_iter().map(token).collect::<Result<_, _>>()?);
                Ok(true)
            }
            _ if !self.tokens.is_empty() => Err(bad("a row of text among rows of input_ids")),
            Written { messages: Some(messages), tools, .. } => {
                let length = messages.to_string().len();
                let tools = tools.filter(|tools| !tools.is_none());
                Ok(self.push(length, Row { place: place(), contents: Contents::Messages { messages, tools } }))
            }
            Written { text: Some(text), .. } => {
                Ok(self.push(text.len(), Row { place: place(), contents: Contents::Text(text) }))
            }
            _ => Err(bad("it has none of text, messages and input_ids")),
        }
    }

    fn push(&mut self, bytes: usize, row: Row) -> bool {
        // One row is always taken.
        if bytes > self.room() && !self.rows.is_empty() {
            self.cut = true;
            return false;
        }
        self.bytes = (self.bytes + bytes).min(self.limits.bytes);
        self.rows.push(row);
        true
    }

    /// What was collected.
    pub(super) fn finish(self) -> Documents {
        if self.tokens.is_empty() { Documents::Rows(self.rows) } else { Documents::Tokens(self.tokens) }
    }

    /// What was collected, as one text where it is text alone: with an empty line between two rows, which is how the
    /// lines of WikiText-2 are joined when a perplexity is measured.
    pub(super) fn joined(self) -> Documents {
        match self.finish() {
            Documents::Rows(rows) if rows.iter().all(|row| matches!(row.contents, Contents::Text(_))) => {
                let texts: Vec<_> = rows.iter().filter_map(Row::text).collect();
                Documents::Text(texts.join("\n\n"))
            }
            other => other,
        }
    }
}

impl Row {
    /// Its text, if it is one.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.contents {
            Contents::Text(text) => Some(text),
            Contents::Messages { .. } => None,
        }
    }

    /// Its tokens: a text between what the tokenizer puts around one, a conversation as its template spells it.
    pub(super) fn encode(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>, Error> {
        match &self.contents {
            Contents::Text(text) => tokenizer.encode(text, true),
            Contents::Messages { messages, tools } => {
                let template = tokenizer.template().ok_or(Error::NoTemplate)?;
                let text = template.render(messages, tools.as_ref()).map_err(|reason| Error::BadRow {
                    place: self.place.clone(),
                    reason: format!("the chat template refuses it: {reason}"),
                })?;
                tokenizer.encode(&text, false)
            }
        }
    }
}
