//! Where the hub and its cache are, by the environment variables of `huggingface_hub`, with its defaults and its
//! order of precedence.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Error, Token};

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// How long a connection may be silent, unless `HF_HUB_DOWNLOAD_TIMEOUT` says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The settings of a hub's client.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The hub's address, without a slash at its end: `HF_ENDPOINT`.
    pub endpoint: String,
    /// The access token: `HF_TOKEN`, or the file `HF_TOKEN_PATH`, or `$HF_HOME/token`.
    pub token: Option<Token>,
    /// The cache's folder: `HF_HUB_CACHE`, or `$HF_HOME/hub`.
    pub cache: PathBuf,
    /// Whether no request may be sent: `HF_HUB_OFFLINE`.
    pub offline: bool,
    /// How long a connection may be silent: `HF_HUB_DOWNLOAD_TIMEOUT`, in seconds.
    pub timeout: Duration,
    /// A file of certificates to trust in place of the built-in ones: `SSL_CERT_FILE`, `REQUESTS_CA_BUNDLE`.
    pub certificates: Option<PathBuf>,
}

impl Settings {
    /// The settings in this process's environment.
    #[must_use]
    pub fn of_process() -> Self {
        Self::from(|name| env::var_os(name))
    }

    fn from(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        // An empty variable is one that is not set.
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &str| variable(name).and_then(|value| value.into_string().ok());
        let path = |name: &str| variable(name).map(|value| expanded(value, &variable));
        let truth = |name: &str| {
            text(name).is_some_and(|value| ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str()))
        };
        let home = path("HF_HOME").unwrap_or_else(|| {
            let caches = path("XDG_CACHE_HOME").unwrap_or_else(|| user_home(&variable).join(".cache"));
            caches.join("huggingface")
        });
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")).unwrap_or_else(|| home.join("hub"));
        let token = if truth("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            None
        } else {
            let given = text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN"));
            let file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
            given.as_deref().and_then(Token::clean).or_else(|| Token::clean(&fs::read_to_string(file).ok()?))
        };
        let seconds = text("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|value| value.trim().parse().ok());
        Self {
            endpoint: text("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.into()).trim_end_matches('/').to_owned(),
            token,
            cache,
            offline: truth("HF_HUB_OFFLINE") || (text("HF_HUB_OFFLINE").is_none() && truth("TRANSFORMERS_OFFLINE")),
            timeout: seconds.filter(|&seconds| seconds > 0).map_or(DEFAULT_TIMEOUT, Duration::from_secs),
            certificates: path("SSL_CERT_FILE").or_else(|| path("REQUESTS_CA_BUNDLE")),
        }
    }

    /// Refuses an address or a token that cannot be used.
    pub(super) fn check(&self) -> Result<(), Error> {
        let refuse = |reason: &str| Err(Error::BadEndpoint { reason: reason.to_owned() });
        let rest = ["https://", "http://"].iter().find_map(|scheme| self.endpoint.strip_prefix(scheme));
        let Some(rest) = rest else { return refuse("it begins with neither https:// nor http://") };
        let authority = rest.split('/').next().unwrap_or_default();
        if authority.contains('@') {
            return refuse("it holds a user's name or password");
        }
        if authority.is_empty() || self.endpoint.contains(['?', '#', ' ']) || !self.endpoint.is_ascii() {
            return refuse("it is not the address of a host");
        }
        match &self.token {
            Some(token) if !token.is_sendable() => Err(Error::BadToken),
            _ => Ok(()),
        }
    }
}

fn user_home(variable: &impl Fn(&str) -> Option<OsString>) -> PathBuf {
    variable("HOME").map(PathBuf::from).or_else(|| etcetera::home_dir().ok()).unwrap_or_default()
}

/// `~` at the beginning, and `$NAME` or `${NAME}` as a whole part of the path, as a shell reads them.
fn expanded(value: OsString, variable: &impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let Some(text) = value.to_str() else { return value.into() };
    let mut path = PathBuf::new();
    for (index, part) in Path::new(text).components().enumerate() {
        let part = part.as_os_str();
        let name = part.to_str().and_then(|part| part.strip_prefix('$'));
        let name = name.map(|name| name.strip_prefix('{').and_then(|name| name.strip_suffix('}')).unwrap_or(name));
        match name.and_then(variable) {
            Some(value) => path.push(value),
            None if index == 0 && part == "~" => path.push(user_home(variable)),
            None => path.push(part),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        Settings::from(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn folders_come_from_the_most_particular_variable() {
        let cache = |variables: &[(&str, &str)]| settings(variables).cache;
        assert_eq!(cache(&[("HOME", "/h")]), Path::new("/h/.cache/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/c")]), Path::new("/c/huggingface/hub"));
        assert_eq!(cache(&[("HF_HOME", "/hf"), ("XDG_CACHE_HOME", "/c")]), Path::new("/hf/hub"));
        assert_eq!(cache(&[("HF_HOME", "~/hf"), ("HOME", "/h")]), Path::new("/h/hf/hub"));
        assert_eq!(cache(&[("HF_HOME", "$X/hf"), ("X", "/x")]), Path::new("/x/hf/hub"));
        assert_eq!(cache(&[("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/old")]), Path::new("/old"));
        assert_eq!(cache(&[("HF_HUB_CACHE", "/new"), ("HUGGINGFACE_HUB_CACHE", "/old")]), Path::new("/new"));
        assert_eq!(cache(&[("HOME", "/h"), ("HF_HOME", "")]), Path::new("/h/.cache/huggingface/hub"));
    }

    #[test]
    fn the_token_is_the_variable_or_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("token"), "from-file\n").unwrap();
        let home = folder.path().to_str().unwrap();
        let token = |variables: &[(&str, &str)]| settings(variables).token.map(|token| token.bearer());
        assert_eq!(token(&[("HF_HOME", home)]).unwrap(), "Bearer from-file");
        assert_eq!(token(&[("HF_HOME", home), ("HF_TOKEN", " given ")]).unwrap(), "Bearer given");
        assert_eq!(token(&[("HF_HOME", home), ("HF_TOKEN_PATH", "/no/such/file")]), None);
        assert_eq!(token(&[("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
    }

    #[test]
    fn truths_and_endpoints() {
        for (value, offline) in [("1", true), ("yes", true), ("True", true), ("on", true), ("0", false), ("no", false)]
        {
            assert_eq!(settings(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value}");
        }
        assert_eq!(settings(&[("HF_ENDPOINT", "http://localhost:1/hub/")]).endpoint, "http://localhost:1/hub");
        assert!(settings(&[("HF_ENDPOINT", "http://localhost:1/hub/")]).check().is_ok());
        assert_eq!(settings(&[]).endpoint, DEFAULT_ENDPOINT);
        for bad in ["localhost", "ftp://host", "https://", "https://user:secret@host", "https://host?x"] {
            let error = settings(&[("HF_ENDPOINT", bad)]).check().unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        assert!(settings(&[("HF_TOKEN", "a b")]).check().is_err());
        assert_eq!(settings(&[("HF_HUB_DOWNLOAD_TIMEOUT", "3")]).timeout, Duration::from_secs(3));
    }
}
