//! What can be wrong with a data set, or with the tokenizer that is to read it.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    exit_code::{ExitCode, Fault},
    hub, text,
};

/// A data set that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a file nor a name on a hub.
    #[error("`{name}` is neither a file nor the name of a data set on a hub")]
    BadName {
        /// As given.
        name: String,
    },
    /// A number that makes no samples.
    #[error("{what} has to be at least {least}")]
    TooSmall {
        /// What it is the number of.
        what: &'static str,
        /// The least that makes sense.
        least: usize,
    },
    /// There is no such file.
    #[error("there is no data set {}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// A file in a form that is not read.
    #[error("{} is {form}, which cannot be read", path.display())]
    ForeignFile {
        /// The file.
        path: PathBuf,
        /// What it is.
        form: &'static str,
    },
    /// A text that is none.
    #[error("{} is not a text in UTF-8: byte {at} cannot be there", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The first byte that is wrong.
        at: usize,
    },
    /// A row that is not as it has to be.
    #[error("{place}: {reason}")]
    BadRow {
        /// File and line.
        place: Place,
        /// What is wrong.
        reason: String,
    },
    /// A token that the model does not have.
    #[error("{place}: the token {id} is none of the model's, which are those below {vocabulary}")]
    OutsideVocabulary {
        /// File and line.
        place: Place,
        /// The token's number.
        id: u64,
        /// The number of the model's tokens.
        vocabulary: u64,
    },
    /// The tokenizer gives a token that the model does not have.
    #[error("the tokenizer gives the token {id}, and the model has only those below {vocabulary}")]
    TokenizerBeyond {
        /// The token's number.
        id: u32,
        /// The number of the model's tokens.
        vocabulary: u64,
    },
    /// A file of columns that is damaged.
    #[error("{} cannot be read as parquet: {reason}", path.display())]
    BadParquet {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file of columns without those that are looked for.
    #[error("{} has none of the columns text, messages and input_ids: it has {}", path.display(), text::list(columns))]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// The columns that are there.
        columns: Vec<String>,
    },
    /// Nothing to learn from.
    #[error("{data} has no tokens")]
    Empty {
        /// The data set.
        data: String,
    },
    /// The data set has no files of the wanted part.
    #[error("{data} has no files for {wanted}: there {}", there_are(known))]
    NoSplit {
        /// The data set.
        data: String,
        /// What was looked for.
        wanted: String,
        /// What is there.
        known: Vec<String>,
    },
    /// The data set has several configurations.
    #[error("{data} has several configurations: {}", text::list(known))]
    WhichConfiguration {
        /// The data set.
        data: String,
        /// Their names.
        known: Vec<String>,
    },
    /// The hub or its cache.
    #[error(transparent)]
    Hub(#[from] hub::Error),
    /// Text, and no tokenizer.
    #[error("the model comes without a tokenizer, so that text cannot become tokens")]
    NoTokenizer,
    /// A tokenizer's file that is damaged.
    #[error("{file} is not a tokenizer: {reason}")]
    BadTokenizer {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// A tokenizer of a kind that is not known here.
    #[error("{file} is {kind}, which cannot be used here")]
    ForeignTokenizer {
        /// The file.
        file: String,
        /// What it is.
        kind: String,
    },
    /// The tokenizer fails on a text.
    #[error("the tokenizer fails: {reason}")]
    Tokenizer {
        /// Its words.
        reason: String,
    },
    /// Conversations, and no chat template.
    #[error("the model comes without a chat template, so that conversations cannot become text")]
    NoTemplate,
    /// A chat template that is not one.
    #[error("the model's chat template cannot be used: {reason}")]
    BadTemplate {
        /// What is wrong.
        reason: String,
    },
}

/// A row of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// The line, or the row of a file that has no lines; the first is 1.
    pub row: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.row)
    }
}

/// What there is, where it may be nothing.
fn there_are(known: &[String]) -> String {
    match known {
        [] => "is nothing that can be read".into(),
        [only] => format!("is {only}"),
        several => format!("are {}", text::list(several)),
    }
}

impl Error {
    /// A file that cannot be opened or read, for `map_err`.
    pub(super) fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::NotFound => Self::Missing { path: path.to_owned() },
            _ => Self::Unreadable { path: path.to_owned(), source },
        }
    }
}

impl Fault for Error {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::BadName { .. } | Self::TooSmall { .. } | Self::NoSplit { .. } | Self::WhichConfiguration { .. } => {
                ExitCode::Usage
            }
            Self::Missing { .. } | Self::Unreadable { .. } => ExitCode::NotFound,
            Self::NotUtf8 { .. }
            | Self::BadRow { .. }
            | Self::OutsideVocabulary { .. }
            | Self::TokenizerBeyond { .. }
            | Self::BadParquet { .. }
            | Self::NoColumn { .. }
            | Self::Empty { .. }
            | Self::BadTokenizer { .. }
            | Self::Tokenizer { .. }
            | Self::BadTemplate { .. } => ExitCode::Corrupt,
            Self::ForeignFile { .. } | Self::NoTokenizer | Self::ForeignTokenizer { .. } | Self::NoTemplate => {
                ExitCode::Unsupported
            }
            Self::Hub(error) => error.exit_code(),
        }
    }

    fn details(&self) -> Option<serde_json::Value> {
        match self {
            Self::Hub(error) => error.details(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::BadName { .. } | Self::Missing { .. } => {
                "give a text, JSONL or parquet file, or a data set of the Hub as org/name:configuration/split".into()
            }
            Self::ForeignFile { .. } => "unpack it, or save it as text, JSONL or parquet".into(),
            Self::NotUtf8 { .. } => "convert it, for example with `iconv -t UTF-8`".into(),
            Self::BadRow { .. } => {
                r#"each line is a JSON object with "text", "messages" or "input_ids"; all lines of a file have the same"#
                    .into()
            }
            Self::OutsideVocabulary { .. } => "the rows were made with another model's tokenizer".into(),
            Self::TokenizerBeyond { .. } => "the tokenizer is another model's: fetch the model's files again".into(),
            Self::NoSplit { data, known, .. } if !known.is_empty() => {
                format!("name one of them: {data}:{}", known[0])
            }
            Self::WhichConfiguration { data, known } => {
                format!("name one of them: {data}:{}", known.first().map_or("", String::as_str))
            }
            Self::NoTokenizer | Self::ForeignTokenizer { .. } => {
                r#"put tokenizer.json beside the model, or give JSONL rows of {"input_ids": […]}"#.into()
            }
            Self::NoTemplate => {
                r#"put chat_template.jinja beside the model, or give JSONL rows of {"text": "…"}"#.into()
            }
            Self::Hub(error) => return error.hint(),
            _ => return None,
        })
    }
}
