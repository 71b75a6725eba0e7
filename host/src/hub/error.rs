//! What can go wrong between here and a hub.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::exit_code::{ExitCode, Fault};

/// A model that cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The hub's address is not one.
    #[error("HF_ENDPOINT cannot be used: {reason}")]
    BadEndpoint {
        /// What is wrong; the address itself may hold a password.
        reason: String,
    },
    /// The access token has characters that no header can carry.
    #[error("the access token has characters that no token has")]
    BadToken,
    /// A revision that would lead out of the cache's folder.
    #[error("`{revision}` is not the name of a revision")]
    BadRevision {
        /// As given.
        revision: String,
    },
    /// Requests are forbidden, and the cache has not everything.
    #[error("{model} is not in the cache {}, and HF_HUB_OFFLINE forbids to ask the hub: {missing}", cache.display())]
    NotCached {
        /// The model and revision.
        model: String,
        /// The cache's folder.
        cache: PathBuf,
        /// What is missing.
        missing: String,
    },
    /// The hub wants to know who asks.
    #[error("{endpoint} gives {model} only to users that it knows{}", said(message.as_deref()))]
    Unauthorized {
        /// The hub.
        endpoint: String,
        /// The model.
        model: String,
        /// Whether a token was sent.
        token: bool,
        /// The hub's words.
        message: Option<String>,
    },
    /// The model's licence has to be accepted first.
    #[error("{model} is gated: {endpoint} gives it only to those who have accepted its licence{}", said(message.as_deref()))]
    Gated {
        /// The hub.
        endpoint: String,
        /// The model.
        model: String,
        /// Whether a token was sent.
        token: bool,
        /// The hub's words.
        message: Option<String>,
    },
    /// The token is not allowed to read this.
    #[error("{endpoint} refuses access to {model}{}", said(message.as_deref()))]
    Forbidden {
        /// The hub.
        endpoint: String,
        /// The model.
        model: String,
        /// Whether a token was sent.
        token: bool,
        /// The hub's words.
        message: Option<String>,
    },
    /// The hub has no such model, or does not show it.
    #[error("there is no {model} on {endpoint}, or it is private", model = kind_and_name(model))]
    NoRepo {
        /// The hub.
        endpoint: String,
        /// The model.
        model: String,
        /// Whether a token was sent.
        token: bool,
    },
    /// The model has no such revision.
    #[error("{model} has no revision `{revision}` on {endpoint}")]
    NoRevision {
        /// The hub.
        endpoint: String,
        /// The model.
        model: String,
        /// The revision.
        revision: String,
    },
    /// A file of the listing is not there.
    #[error("{endpoint} has no file {file}, though it lists it")]
    NoEntry {
        /// The hub.
        endpoint: String,
        /// The model and the file.
        file: String,
    },
    /// Too many requests.
    #[error("{host} says that there were too many requests (429)")]
    RateLimited {
        /// Who says it.
        host: String,
        /// How long it asks to wait.
        wait: Option<Duration>,
    },
    /// The server has trouble.
    #[error("{host} has trouble of its own ({status}){}", said(message.as_deref()))]
    Server {
        /// Who.
        host: String,
        /// The HTTP status.
        status: u16,
        /// How long it asks to wait.
        wait: Option<Duration>,
        /// Its words.
        message: Option<String>,
    },
    /// An answer that none of the others is.
    #[error("{host} answers with status {status} to the request for {what}{}", said(message.as_deref()))]
    Refused {
        /// Who.
        host: String,
        /// What was asked for.
        what: String,
        /// The HTTP status.
        status: u16,
        /// Its words.
        message: Option<String>,
    },
    /// No connection.
    #[error("cannot reach {host}: {reason}")]
    Unreachable {
        /// Who.
        host: String,
        /// Why.
        reason: String,
    },
    /// No connection that can be trusted.
    #[error("cannot make a secure connection to {host}: {reason}")]
    Tls {
        /// Who.
        host: String,
        /// Why.
        reason: String,
    },
    /// A connection that ended, or fell silent, before everything was there.
    #[error("the connection to {host} broke off while {what} was fetched: {reason}")]
    Cut {
        /// Who.
        host: String,
        /// What was being fetched.
        what: String,
        /// How it ended.
        reason: String,
    },
    /// An answer that is not as the protocol wants it.
    #[error("the answer of {host} for {what} cannot be used: {reason}")]
    Protocol {
        /// Who.
        host: String,
        /// What was asked for.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// A file has another length than the listing says.
    #[error("{host} sends {file} with {actual} bytes, and its listing says {expected}")]
    WrongLength {
        /// Who.
        host: String,
        /// The file.
        file: String,
        /// Length by the listing.
        expected: u64,
        /// Length as announced or sent.
        actual: u64,
    },
    /// A file has other contents than the listing says.
    #[error("{file} arrived damaged twice: its checksum is {actual}, and {expected} by the listing")]
    Mismatch {
        /// The file.
        file: String,
        /// By the listing.
        expected: String,
        /// Of what arrived.
        actual: String,
    },
    /// The repository has no config.
    #[error("{model} has no config.json")]
    NoConfig {
        /// The model.
        model: String,
    },
    /// The repository has no weights that can be read.
    #[error("{model} has neither model.safetensors nor model.safetensors.index.json")]
    NoWeights {
        /// The model.
        model: String,
        /// A weight file in another form that is there.
        pickle: Option<String>,
    },
    /// The cache cannot be written or read.
    #[error("cannot {action} {}: {source}", path.display())]
    Cache {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// A certificate file cannot be used.
    #[error("cannot use the certificates in {}: {reason}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The user asked to stop.
    #[error("interrupted; what was downloaded is kept in {}", cache.display())]
    Interrupted {
        /// The cache's folder.
        cache: PathBuf,
    },
}

/// A repository with what it is; a data set's name is the path of its page.
fn kind_and_name(repository: &str) -> String {
    match repository.strip_prefix("datasets/") {
        Some(name) => format!("data set {name}"),
        None => format!("model {repository}"),
    }
}

/// A server's own words behind ours.
fn said(message: Option<&str>) -> String {
    message.map_or_else(String::new, |message| format!(" (it says: {message})"))
}

impl Error {
    /// An error about `path` in the cache, for `map_err`.
    pub(super) fn cache(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Cache { action, path: path.to_owned(), source }
    }

    /// Whether the same request may go well a little later.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self, Self::RateLimited { .. } | Self::Server { .. } | Self::Unreachable { .. } | Self::Cut { .. })
    }

    /// How long the server asks to wait.
    pub(super) fn wait(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { wait, .. } | Self::Server { wait, .. } => *wait,
            _ => None,
        }
    }

    /// Whether the hub could not be asked at all, so that what is in the cache is the best there is.
    #[must_use]
    pub fn is_out_of_reach(&self) -> bool {
        self.is_transient() || matches!(self, Self::Tls { .. })
    }
}

impl Fault for Error {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::BadEndpoint { .. } | Self::BadToken | Self::BadRevision { .. } | Self::Certificates { .. } => {
                ExitCode::Usage
            }
            Self::NoConfig { .. } | Self::NoWeights { .. } => ExitCode::Unsupported,
            Self::Protocol { .. } | Self::WrongLength { .. } | Self::Mismatch { .. } => ExitCode::Corrupt,
            Self::Cache { .. } => ExitCode::Resources,
            Self::Interrupted { .. } => ExitCode::Interrupted,
            Self::NotCached { .. }
            | Self::Unauthorized { .. }
            | Self::Gated { .. }
            | Self::Forbidden { .. }
            | Self::NoRepo { .. }
            | Self::NoRevision { .. }
            | Self::NoEntry { .. }
            | Self::RateLimited { .. }
            | Self::Server { .. }
            | Self::Refused { .. }
            | Self::Unreachable { .. }
            | Self::Tls { .. }
            | Self::Cut { .. } => ExitCode::NotFound,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::BadEndpoint { .. } => "set HF_ENDPOINT to an address such as https://huggingface.co".into(),
            Self::BadToken => "set HF_TOKEN to a token as the hub gives it, or remove the token file".into(),
            Self::BadRevision { .. } => "give a branch, a tag or a commit with --revision".into(),
            Self::NotCached { .. } => "there is no local folder of this name either: unset HF_HUB_OFFLINE to download it, or give a folder that is there".into(),
            Self::Gated { endpoint, model, token, .. } => {
                format!("accept the licence at {endpoint}/{model} and {}", set_token(*token))
            }
            Self::Unauthorized { token, .. } | Self::Forbidden { token, .. } => set_token(*token).into(),
            Self::NoRepo { token: false, .. } => {
                "check the name (there is no such local folder either); for a private model, set HF_TOKEN".into()
            }
            Self::NoRepo { .. } => {
                "check the name (there is no such local folder either), and that your token may read it".into()
            }
            Self::NoRevision { endpoint, model, .. } => {
                format!("branches and tags are listed at {endpoint}/{model}/tree/main")
            }
            Self::NoEntry { .. } | Self::Protocol { .. } | Self::WrongLength { .. } | Self::Refused { .. } => {
                "try again later; if it stays so, the hub, or a proxy or mirror before it, is at fault (HF_ENDPOINT)"
                    .into()
            }
            Self::RateLimited { .. } => {
                "wait some minutes and run the same command again, it goes on from here; users with HF_TOKEN may ask more often"
                    .into()
            }
            Self::Server { .. } | Self::Cut { .. } => {
                "run the same command again later: it goes on from here".into()
            }
            Self::Unreachable { .. } => {
                "check the network, a proxy (HTTPS_PROXY) and HF_ENDPOINT; models in the cache or in a folder need no network"
                    .into()
            }
            Self::Tls { .. } => {
                "if a proxy has certificates of its own, name them with SSL_CERT_FILE; check HF_ENDPOINT and the clock".into()
            }
            Self::Mismatch { .. } => {
                "the damaged file was deleted; run the same command again, and if it stays so, suspect a proxy or the disk".into()
            }
            Self::NoConfig { .. } => "is it the right repository? a checkpoint has its config.json beside the weights".into(),
            Self::NoWeights { pickle: Some(file), .. } => format!(
                "{file} runs code when it is loaded, so it is not read: convert it to safetensors with transformers (`model.save_pretrained(…)`)"
            ),
            Self::NoWeights { pickle: None, .. } => {
                "give the repository of the original checkpoint, with safetensors weights".into()
            }
            Self::Cache { source, .. } if is_full(source) => {
                "free some space, or choose another disk with HF_HUB_CACHE; what was downloaded is kept".into()
            }
            Self::Cache { .. } => "choose a folder that can be written with HF_HOME or HF_HUB_CACHE".into(),
            Self::Certificates { .. } => "set SSL_CERT_FILE to a file with certificates in PEM form".into(),
            Self::Interrupted { .. } => "run the same command again to go on from there".into(),
        })
    }
}

fn set_token(sent: bool) -> &'static str {
    if sent {
        "check that your token (HF_TOKEN) is valid and may read this model"
    } else {
        "set HF_TOKEN to a token that may read it"
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}
