//! A hub on this machine, with every fault that a real one, or the way to it, may have.
//!
//! It speaks as much HTTP as a client of a hub needs, closes each connection after one answer, and writes down what
//! was asked of it.
#![expect(clippy::panic, clippy::missing_panics_doc, reason = "a test that cannot have its server has failed")]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use sha2::Digest;

/// Files of at least that many bytes are in large-file storage, which is another host.
const LARGE: usize = 16 << 10;
/// How much is sent at once.
const PIECE: usize = 16 << 10;

/// A model, or a data set, on the hub.
#[derive(Debug, Clone)]
pub struct Repo {
    /// Its name.
    pub id: String,
    /// The commit that `main` names.
    pub commit: String,
    /// Further names of revisions, with their commits.
    pub revisions: BTreeMap<String, String>,
    /// Its files, the same at all revisions.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Whether it is a data set.
    pub is_dataset: bool,
}

impl Repo {
    /// A model with the files of a folder.
    #[must_use]
    pub fn of_folder(id: &str, folder: &Path) -> Self {
        let mut files = BTreeMap::new();
        collect(folder, "", &mut files);
        Self { files, ..Self::empty(id) }
    }

    /// A data set without files.
    #[must_use]
    pub fn dataset(id: &str) -> Self {
        Self { is_dataset: true, ..Self::empty(id) }
    }

    fn empty(id: &str) -> Self {
        let commit = "c0ffee00".repeat(5);
        Self { id: id.into(), commit, revisions: BTreeMap::new(), files: BTreeMap::new(), is_dataset: false }
    }

    /// The start of the paths that programs ask.
    fn api(&self) -> String {
        format!("/api/{}/{}/", if self.is_dataset { "datasets" } else { "models" }, self.id)
    }

    /// The start of the paths of files.
    fn page(&self) -> String {
        format!("{}/{}", if self.is_dataset { "/datasets" } else { "" }, self.id)
    }

    /// The same with one more file.
    #[must_use]
    pub fn with(mut self, name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.files.insert(name.into(), bytes.into());
        self
    }

    /// The same without a file.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.files.remove(name).unwrap_or_else(|| panic!("there is no {name}"));
        self
    }

    fn commit_of(&self, revision: &str) -> Option<&str> {
        let named = (revision == "main" || revision == self.commit).then_some(&self.commit);
        let other = || self.revisions.iter().find(|(name, commit)| *name == revision || *commit == revision);
        named.or_else(|| other().map(|(_, commit)| commit)).map(String::as_str)
    }
}

fn collect(folder: &Path, prefix: &str, files: &mut BTreeMap<String, Vec<u8>>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries.flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            collect(&entry.path(), &format!("{name}/"), files);
        } else {
            files.insert(name, fs::read(entry.path()).unwrap_or_else(|error| panic!("{error}")));
        }
    }
}

/// What goes wrong with an answer.
#[derive(Debug, Clone)]
pub enum Wrong {
    /// Another status, with these headers and this body.
    Status(u16, Vec<(&'static str, String)>, &'static str),
    /// The connection ends after so many bytes of the body.
    CutAfter(usize),
    /// Nothing more comes after so many bytes of the body, and the connection stays.
    StallAfter(usize),
    /// The length that is announced, and sent, is shorter by so many bytes.
    Shorter(usize),
    /// The length that is announced is longer by so many bytes than what is sent.
    AnnouncesMore(usize),
    /// One bit of the body is another.
    Damaged,
    /// The whole file is sent, whatever part was asked for.
    NoRanges,
    /// Another part is sent than was asked for.
    OtherRange,
    /// This body in place of the right one.
    Body(String),
}

/// A fault of the server, for some requests.
#[derive(Debug, Clone)]
struct Fault {
    /// Part of the path of the requests that it concerns.
    path: String,
    /// Requests that it still concerns.
    times: usize,
    /// Whether it concerns only requests for a file from some byte to its end.
    transfers: bool,
    wrong: Wrong,
}

/// A request that was answered.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The path, without prefix and query.
    pub path: String,
    /// Whether it came to the host for large files.
    pub storage: bool,
    /// The header `Range`.
    pub range: Option<String>,
    /// The header `Authorization`.
    pub authorization: Option<String>,
    /// Bytes of the body that were sent.
    pub sent: usize,
    /// The status of the answer.
    pub status: u16,
}

impl Seen {
    /// Whether it asked for a file's contents from `Range`'s first byte to the end.
    #[must_use]
    pub fn is_transfer(&self) -> bool {
        is_transfer(self.range.as_deref())
    }
}

fn is_transfer(range: Option<&str>) -> bool {
    range.is_none_or(|range| range.ends_with('-'))
}

/// The hub: one address for itself, one for its storage.
pub struct MockHub {
    hub: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    repo: Repo,
    prefix: String,
    storage: SocketAddr,
    page: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    faults: Vec<Fault>,
    seen: Vec<Seen>,
    /// The pause after each piece of a body.
    pause: Duration,
}

impl MockHub {
    /// Starts it.
    #[must_use]
    pub fn start(repo: Repo) -> Self {
        Self::start_with(repo, "", 1000)
    }

    /// Starts it below a path, with lists of files in pages of that many.
    #[must_use]
    pub fn start_with(repo: Repo, prefix: &str, page: usize) -> Self {
        let (hub, storage) = (listen(), listen());
        let address = |listener: &TcpListener| listener.local_addr().unwrap_or_else(|error| panic!("{error}"));
        let addresses = (address(&hub), address(&storage));
        let prefix = prefix.to_owned();
        let shared = Arc::new(Shared { repo, prefix, storage: addresses.1, page, state: Mutex::default() });
        for (listener, is_storage) in [(hub, false), (storage, true)] {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || shared.answer(&stream, is_storage));
                }
            });
        }
        Self { hub: addresses.0, shared }
    }

    /// What `HF_ENDPOINT` has to be.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}{}", self.hub, self.shared.prefix)
    }

    /// Makes the next `times` answers to requests whose path contains `path` wrong.
    pub fn spoil(&self, path: &str, times: usize, wrong: Wrong) {
        self.state().faults.push(Fault { path: path.into(), times, transfers: false, wrong });
    }

    /// The same for requests for a whole file or the rest of one, and not for its beginning.
    pub fn spoil_transfers(&self, path: &str, times: usize, wrong: Wrong) {
        self.state().faults.push(Fault { path: path.into(), times, transfers: true, wrong });
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.state().faults.clear();
    }

    /// Pauses after each piece of 16 KiB, so that a download can be caught at it.
    pub fn slow_down(&self, pause: Duration) {
        self.state().pause = pause;
    }

    /// Bytes of all files whose names end like that.
    #[must_use]
    pub fn bytes_of(&self, ending: &str) -> usize {
        let files = self.shared.repo.files.iter();
        files.filter(|(name, _)| name.ends_with(ending)).map(|(_, bytes)| bytes.len()).sum()
    }

    /// The requests since the last call.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state().seen)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }
}

fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap_or_else(|error| panic!("no port for the test: {error}"))
}

/// An answer before anything goes wrong with it.
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn json(document: &Value) -> Self {
        Self { status: 200, headers: Vec::new(), body: document.to_string().into_bytes() }
    }

    fn error(status: u16, code: &str) -> Self {
        let headers = vec![("x-error-code", code.to_owned()), ("x-error-message", format!("{code} of the mock"))];
        Self { status, headers, body: b"{}".to_vec() }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, stream: &TcpStream, storage: bool) {
        let Some((path, query, headers)) = read_request(stream) else {
            // Nobody minds whether the other side hears it.
            let _ = (&mut &*stream).write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
            return;
        };
        let path = path.strip_prefix(&self.prefix).unwrap_or("/outside").to_owned();
        let range = headers.get("range").cloned();
        let wrong = self.take_fault(&path, is_transfer(range.as_deref()));
        let ranged = !matches!(wrong, Some(Wrong::NoRanges));
        let mut answer = self.right_answer(&path, &query, storage, range.as_deref().filter(|_| ranged));
        let seen = Seen {
            path,
            storage,
            range,
            authorization: headers.get("authorization").cloned(),
            sent: 0,
            status: answer.status,
        };
        let index = {
            let mut state = self.state();
            state.seen.push(seen);
            state.seen.len() - 1
        };
        let sent = self.send(stream, &mut answer, wrong);
        if let Some(seen) = self.state().seen.get_mut(index) {
            (seen.sent, seen.status) = (sent, answer.status);
        }
    }

    fn take_fault(&self, path: &str, transfer: bool) -> Option<Wrong> {
        let mut state = self.state();
        let concerned = |fault: &Fault| fault.times > 0 && path.contains(&fault.path) && (transfer || !fault.transfers);
        let fault = state.faults.iter_mut().find(|fault| concerned(fault))?;
        fault.times -= 1;
        Some(fault.wrong.clone())
    }

    fn right_answer(&self, path: &str, query: &str, storage: bool, range: Option<&str>) -> Answer {
        let repo = &self.repo;
        if storage {
            let file = path.strip_prefix("/storage/").and_then(|name| repo.files.get(name));
            // The address that storage is asked at is signed.
            return match file.filter(|_| query == "signature=s3cret") {
                Some(bytes) => part_of(bytes, range, "\"storage-etag\"".into()),
                None => Answer::error(403, "AccessDenied"),
            };
        }
        if let Some(rest) = path.strip_prefix(&repo.api()) {
            return self.api_answer(rest, query);
        }
        let Some(rest) = path.strip_prefix(&format!("{}/resolve/", repo.page())) else {
            return Answer::error(404, "RepoNotFound");
        };
        let Some((revision, name)) = rest.split_once('/') else { return Answer::error(404, "EntryNotFound") };
        if repo.commit_of(revision).is_none() {
            return Answer::error(404, "RevisionNotFound");
        }
        let Some(bytes) = repo.files.get(name) else { return Answer::error(404, "EntryNotFound") };
        if bytes.len() < LARGE {
            return part_of(bytes, range, format!("\"{}\"", git_blob(bytes)));
        }
        let location =
            format!("http://localhost:{}{}/storage/{name}?signature=s3cret", self.storage.port(), self.prefix);
        let etag = format!("\"{}\"", sha256(bytes));
        let headers = vec![("location", location), ("x-linked-etag", etag), ("x-repo-commit", repo.commit.clone())];
        Answer { status: 302, headers, body: b"elsewhere".to_vec() }
    }

    fn api_answer(&self, rest: &str, query: &str) -> Answer {
        let repo = &self.repo;
        if let Some(revision) = rest.strip_prefix("revision/") {
            return match repo.commit_of(&revision.replace("%2F", "/")) {
                Some(commit) => Answer::json(&json!({"id": repo.id, "sha": commit})),
                None => Answer::error(404, "RevisionNotFound"),
            };
        }
        let Some(rest) = rest.strip_prefix("tree/") else { return Answer::error(404, "EntryNotFound") };
        let (revision, folder) = rest.split_once('/').unwrap_or((rest, ""));
        if repo.commit_of(revision).is_none() {
            return Answer::error(404, "RevisionNotFound");
        }
        let recursive = query.split('&').any(|part| part == "recursive=true");
        let entries = tree(&repo.files, folder, recursive);
        let cursor = query.split('&').find_map(|part| part.strip_prefix("cursor="));
        let start = cursor.and_then(|start| start.parse().ok()).unwrap_or(0);
        let end = (start + self.page).min(entries.len());
        let mut answer = Answer::json(&Value::Array(entries[start..end].to_vec()));
        if end < entries.len() {
            let hub = format!("{}tree/{rest}?recursive={recursive}&cursor={end}", repo.api());
            answer.headers.push(("link-to", hub));
        }
        answer
    }

    /// Sends an answer, rightly or wrongly, and tells how much of its body.
    fn send(&self, mut stream: &TcpStream, answer: &mut Answer, wrong: Option<Wrong>) -> usize {
        let mut announced = None;
        let mut end = usize::MAX;
        let mut stall = false;
        match wrong {
            None | Some(Wrong::NoRanges) => {}
            Some(Wrong::Status(status, headers, body)) => {
                *answer = Answer { status, headers, body: body.as_bytes().to_vec() };
            }
            Some(Wrong::Body(body)) => answer.body = body.into_bytes(),
            Some(Wrong::CutAfter(bytes)) => end = bytes,
            Some(Wrong::StallAfter(bytes)) => (end, stall) = (bytes, true),
            Some(Wrong::Shorter(bytes)) => answer.body.truncate(answer.body.len().saturating_sub(bytes)),
            Some(Wrong::AnnouncesMore(bytes)) => announced = Some(answer.body.len() + bytes),
            Some(Wrong::Damaged) => {
                let middle = answer.body.len() / 2;
                if let Some(byte) = answer.body.get_mut(middle) {
                    *byte ^= 4;
                }
            }
            Some(Wrong::OtherRange) => {
                for (name, value) in &mut answer.headers {
                    if *name == "content-range" {
                        *value = format!("bytes 1-{}/{}", answer.body.len(), answer.body.len() + 1);
                    }
                }
            }
        }
        let mut head = format!("HTTP/1.1 {} Whatever\r\nconnection: close\r\n", answer.status);
        let length = announced.unwrap_or(answer.body.len());
        let _ = write!(head, "content-length: {length}\r\n");
        for (name, value) in &answer.headers {
            let _ = match *name {
                "link-to" => {
                    let here = stream.local_addr().map(|address| address.to_string()).unwrap_or_default();
                    write!(head, "link: <http://{here}{}{value}>; rel=\"next\"\r\n", self.prefix)
                }
                name => write!(head, "{name}: {value}\r\n"),
            };
        }
        head.push_str("\r\n");
        if stream.write_all(head.as_bytes()).is_err() {
            return 0;
        }
        let body = &answer.body[..answer.body.len().min(end)];
        let mut sent = 0;
        for piece in body.chunks(PIECE) {
            if stream.write_all(piece).is_err() {
                break;
            }
            sent += piece.len();
            let pause = self.state().pause;
            if !pause.is_zero() {
                thread::sleep(pause);
            }
        }
        if stall {
            // Until the other side has had enough.
            let _ = stream.read(&mut [0; 1]);
        }
        sent
    }
}

/// Path, query and headers of a request.
fn read_request(stream: &TcpStream) -> Option<(String, String, BTreeMap<String, String>)> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let target = first.strip_prefix("GET ")?.split(' ').next()?.to_owned();
    let mut headers = BTreeMap::new();
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    Some((path.to_owned(), query.to_owned(), headers))
}

/// The answer to the request for a part of a file: `bytes=A-` or `bytes=A-B`.
fn part_of(bytes: &[u8], range: Option<&str>, etag: String) -> Answer {
    let whole = || Answer { status: 200, headers: vec![("etag", etag.clone())], body: bytes.to_vec() };
    let Some((start, end)) = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) else {
        return whole();
    };
    let start: usize = start.parse().unwrap_or(0);
    let end = end.parse().map_or(bytes.len(), |last: usize| (last + 1).min(bytes.len()));
    if start >= end {
        return Answer {
            status: 416,
            headers: vec![("content-range", format!("bytes */{}", bytes.len()))],
            body: Vec::new(),
        };
    }
    let range = format!("bytes {start}-{}/{}", end - 1, bytes.len());
    Answer { status: 206, headers: vec![("etag", etag), ("content-range", range)], body: bytes[start..end].to_vec() }
}

/// The entries of a folder, or of all folders in it, as the hub lists them.
fn tree(files: &BTreeMap<String, Vec<u8>>, folder: &str, recursive: bool) -> Vec<Value> {
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let mut entries = Vec::new();
    let mut folders = std::collections::BTreeSet::new();
    for (path, bytes) in files {
        let Some(rest) = path.strip_prefix(&prefix) else { continue };
        if let Some((inner, _)) = rest.split_once('/') {
            if folders.insert(inner.to_owned()) {
                entries.push(
                    json!({"type": "directory", "oid": "0".repeat(40), "size": 0, "path": format!("{prefix}{inner}")}),
                );
            }
            if !recursive {
                continue;
            }
        }
        let mut entry = json!({"type": "file", "oid": git_blob(bytes), "size": bytes.len(), "path": path});
        if bytes.len() >= LARGE {
            entry["lfs"] = json!({"oid": sha256(bytes), "size": bytes.len(), "pointerSize": 134});
        }
        entries.push(entry);
    }
    entries
}

/// Git's checksum of a file.
#[must_use]
pub fn git_blob(bytes: &[u8]) -> String {
    let mut digest = sha1::Sha1::new_with_prefix(format!("blob {}\0", bytes.len()));
    digest.update(bytes);
    hex(&digest.finalize())
}

/// The checksum of a large file.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex(&sha2::Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
