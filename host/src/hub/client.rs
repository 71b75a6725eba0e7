//! One request and its answer: the user's token goes to the hub and to nobody else, and every failure gets a name.

use std::{error::Error as _, fs, io, sync::Arc, thread, time::Duration};

use ureq::{
    Agent, Body,
    http::{HeaderMap, Response, StatusCode, Uri},
    tls::{PemItem, RootCerts, TlsConfig, parse_pem},
};

use super::{Error, RepoId, Settings};
use crate::cancel::CancelFlag;

/// Redirects that are followed for one request.
const REDIRECTS: usize = 10;
/// How often it is looked whether the user wants to stop.
const TICK: Duration = Duration::from_millis(50);
/// The longest message of a server that is shown.
const LONGEST_MESSAGE: usize = 300;

/// The connections to a hub, and to the hosts that it sends us to.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    settings: Settings,
    id: RepoId,
    revision: String,
    cancel: CancelFlag,
    /// Lives as long as the client does.
    alive: Arc<()>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Request<'a> {
    /// The whole address.
    pub(super) url: &'a str,
    /// What it is, for messages.
    pub(super) what: &'a str,
    /// The header `Range`.
    pub(super) range: Option<&'a str>,
    /// The header `If-Range`.
    pub(super) if_range: Option<&'a str>,
}

/// An answer that is a success.
pub(super) struct Answer {
    pub(super) response: Response<Body>,
    /// The host that answered in the end.
    pub(super) host: String,
}

impl Client {
    pub(super) fn new(settings: &Settings, id: &RepoId, revision: &str, cancel: &CancelFlag) -> Result<Self, Error> {
        settings.check()?;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("qhost/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_resolve(Some(settings.timeout))
            .timeout_connect(Some(settings.timeout))
            .timeout_per_read(Some(settings.timeout))
            .timeout_per_write(Some(settings.timeout))
            .tls_config(TlsConfig::builder().root_certs(roots(settings)?).build())
            .build();
        let client = Self {
            agent: config.new_agent(),
            settings: settings.clone(),
            id: id.clone(),
            revision: revision.to_owned(),
            cancel: cancel.clone(),
            alive: Arc::new(()),
        };
        client.shut_down_when_cancelled();
        Ok(client)
    }

    /// Wakes whoever waits for a server when the user asks to stop.
    fn shut_down_when_cancelled(&self) {
        let (agent, cancel, alive) = (self.agent.clone(), self.cancel.clone(), Arc::downgrade(&self.alive));
        // Without the thread the user waits for a timeout.
        let _ = thread::Builder::new().name("hub-cancel".into()).spawn(move || {
            while alive.strong_count() > 0 {
                if cancel.is_cancelled() {
                    return agent.shutdown();
                }
                thread::sleep(TICK);
            }
        });
    }

    /// Sends a request and follows redirects; an answer is given only if it is a success.
    ///
    /// # Errors
    /// Fails when there is no answer, or when it is not a success.
    pub(super) fn get(&self, request: Request<'_>) -> Result<Answer, Error> {
        let mut url = request.url.to_owned();
        for _ in 0..=REDIRECTS {
            let host = host_of(&url);
            let response = self.send(&url, &request).map_err(|error| self.unanswered(&error, &host, request.what))?;
            let status = response.status();
            tracing::debug!("GET {} {}: {}", without_query(&url), request.range.unwrap_or(""), status.as_u16());
            if status.is_success() {
                return Ok(Answer { response, host });
            }
            let location = response.headers().get("location").and_then(|value| value.to_str().ok());
            match location.filter(|_| status.is_redirection() && status != StatusCode::NOT_MODIFIED) {
                Some(location) => url = redirected(&url, location, request.what)?,
                None => return Err(self.refused(response, host, request.what)),
            }
        }
        let reason = format!("it leads on more than {REDIRECTS} times");
        Err(Error::Protocol { host: host_of(&url), what: request.what.to_owned(), reason })
    }

    fn send(&self, url: &str, request: &Request<'_>) -> Result<Response<Body>, ureq::Error> {
        let mut builder = self.agent.get(url);
        let known = origin(url).is_some() && origin(url) == origin(&self.settings.endpoint);
        if let Some(token) = self.settings.token.as_ref().filter(|_| known) {
            builder = builder.header("authorization", token.bearer());
        }
        if let Some(range) = request.range {
            builder = builder.header("range", range);
        }
        if let Some(etag) = request.if_range {
            builder = builder.header("if-range", etag);
        }
        builder.call()
    }

    /// The error for a request without an answer.
    fn unanswered(&self, error: &ureq::Error, host: &str, what: &str) -> Error {
        if self.cancel.is_cancelled() {
            return Error::Interrupted { cache: self.settings.cache.clone() };
        }
        let host = host.to_owned();
        let reason = reason_of(error);
        match error {
            ureq::Error::Rustls(_) | ureq::Error::Tls(_) | ureq::Error::TlsRequired => Error::Tls { host, reason },
            ureq::Error::Io(io) if io.kind() == io::ErrorKind::InvalidData => Error::Tls { host, reason },
            ureq::Error::Protocol(_) | ureq::Error::LargeResponseHeader(..) | ureq::Error::BadUri(_) => {
                Error::Protocol { host, what: what.to_owned(), reason }
            }
            _ => Error::Unreachable { host, reason },
        }
    }

    /// The error for a body that broke off.
    pub(super) fn cut(&self, error: &io::Error, host: &str, what: &str) -> Error {
        if self.cancel.is_cancelled() {
            return Error::Interrupted { cache: self.settings.cache.clone() };
        }
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
        let reason = inner.map_or_else(|| error.to_string(), reason_of);
        Error::Cut { host: host.to_owned(), what: what.to_owned(), reason }
    }

    /// The error for an answer that is not a success.
    fn refused(&self, response: Response<Body>, host: String, what: &str) -> Error {
        let status = response.status().as_u16();
        let (headers, body) = (response.headers().clone(), response.into_body());
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let code = header("x-error-code").unwrap_or_default();
        let message = header("x-error-message").or_else(|| message_in(body)).map(|message| shortened(&message));
        let endpoint = self.settings.endpoint.clone();
        let (model, token) = (self.id.to_string(), self.settings.token.is_some());
        match (status, code.as_str()) {
            (401 | 403, "GatedRepo") => Error::Gated { endpoint, model, token, message },
            // To those whom it does not know the hub does not say whether there is a private model.
            (401 | 403 | 404, "RepoNotFound") => Error::NoRepo { endpoint, model, token },
            (401, _) => Error::Unauthorized { endpoint, model, token, message },
            (403, _) => Error::Forbidden { endpoint, model, token, message },
            (404, "RevisionNotFound") => Error::NoRevision { endpoint, model, revision: self.revision.clone() },
            (404, "EntryNotFound") => Error::NoEntry { endpoint, file: format!("{model}/{what}") },
            (404, _) => Error::NoRepo { endpoint, model, token },
            (429, _) => Error::RateLimited { host, wait: wait_in(&headers) },
            (408 | 500..=599, _) => Error::Server { host, status, wait: wait_in(&headers), message },
            _ => Error::Refused { host, what: what.to_owned(), status, message },
        }
    }
}

/// How long a server asks to wait: `Retry-After` in seconds, or the `t` of `RateLimit`.
fn wait_in(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let limit = || text("ratelimit")?.split(';').find_map(|part| part.trim().strip_prefix("t="));
    let seconds = text("retry-after").or_else(limit)?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

/// The words in the body of a refusal, which is a JSON object with `error` where it is the hub's.
fn message_in(mut body: Body) -> Option<String> {
    let bytes = body.with_config().limit(1 << 16).read_to_vec().ok()?;
    let document: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    document.get("error")?.as_str().map(str::to_owned)
}

/// Somebody else's words, not too many of them, and nothing in them that a terminal would obey.
fn shortened(message: &str) -> String {
    let message = crate::text::shown(message).into_owned();
    if message.chars().count() <= LONGEST_MESSAGE {
        return message;
    }
    message.chars().take(LONGEST_MESSAGE).chain(['…']).collect()
}

/// An error's words, with those of its causes where they say more.
fn reason_of(error: &ureq::Error) -> String {
    match error {
        ureq::Error::HostNotFound => "no host of this name is known".into(),
        ureq::Error::Timeout(timeout) => format!("nothing came for too long ({timeout})"),
        ureq::Error::Io(io) => io.to_string(),
        other => match other.source() {
            Some(source) => format!("{other}: {source}"),
            None => other.to_string(),
        },
    }
}

/// The certificates to trust.
fn roots(settings: &Settings) -> Result<RootCerts, Error> {
    let Some(path) = &settings.certificates else { return Ok(RootCerts::WebPki) };
    let unusable = |reason: String| Error::Certificates { path: path.clone(), reason };
    let pem = fs::read(path).map_err(|error| unusable(error.to_string()))?;
    let mut certificates = Vec::new();
    for item in parse_pem(&pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(error) => return Err(unusable(error.to_string())),
        }
    }
    if certificates.is_empty() {
        return Err(unusable("there is none in it".into()));
    }
    Ok(RootCerts::Specific(Arc::new(certificates)))
}

/// Scheme, host and port: a secret given to one of these is not given to another.
fn origin(url: &str) -> Option<(String, String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let default = if scheme == "https" { 443 } else { 80 };
    Some((scheme, uri.host()?.to_ascii_lowercase(), uri.port_u16().unwrap_or(default)))
}

/// The host of an address, with its port if it has one, for messages.
pub(super) fn host_of(url: &str) -> String {
    let uri: Option<Uri> = url.parse().ok();
    match uri.as_ref().map(|uri| (uri.host(), uri.port_u16())) {
        Some((Some(host), Some(port))) => format!("{host}:{port}"),
        Some((Some(host), None)) => host.to_owned(),
        _ => "the hub".into(),
    }
}

/// The address that an answer leads on to.
fn redirected(from: &str, location: &str, what: &str) -> Result<String, Error> {
    let unusable = |reason: &str| {
        let (host, what) = (host_of(from), what.to_owned());
        Error::Protocol { host, what, reason: reason.to_owned() }
    };
    let url = resolve(from, location).ok_or_else(|| unusable("it leads to no address"))?;
    if from.starts_with("https:") && !url.starts_with("https:") {
        return Err(unusable("it leads from a secure address to one that is not"));
    }
    Ok(url)
}

/// An address for a log: what is behind the question mark may be a signature that opens a file to anyone.
fn without_query(url: &str) -> &str {
    url.split('?').next().unwrap_or(url)
}

/// The address that a header `Location` means.
fn resolve(from: &str, location: &str) -> Option<String> {
    let (scheme, rest) = from.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let location = location.split('#').next()?;
    let url = if location.starts_with("http://") || location.starts_with("https://") {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let path = without_query(rest);
        let folder = path.rfind('/').map_or(path, |slash| &path[..slash]);
        format!("{scheme}://{folder}/{location}")
    };
    origin(&url).map(|_| url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_where_their_location_says() {
        for (location, expected) in [
            ("https://cdn.example/x?sig=1", Some("https://cdn.example/x?sig=1")),
            ("//cdn.example/x", Some("http://cdn.example/x")),
            ("/other/name", Some("http://host:1/other/name")),
            ("next", Some("http://host:1/a/next")),
            ("http://", None),
            ("mailto:x", Some("http://host:1/a/mailto:x")),
        ] {
            assert_eq!(resolve("http://host:1/a/b?c=/d", location).as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn origins_differ_by_scheme_host_and_port() {
        assert_eq!(origin("https://Host/x"), origin("https://host:443/y?z"));
        for other in ["http://host/x", "https://host:444/", "https://host.example/", "https://host@evil.example/"] {
            assert_ne!(origin("https://host/"), origin(other), "{other}");
        }
        assert_eq!(host_of("http://127.0.0.1:80/x"), "127.0.0.1:80");
        assert_eq!(without_query("http://h/x?signature=1"), "http://h/x");
    }
}
