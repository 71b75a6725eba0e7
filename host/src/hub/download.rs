//! One file on its way into the cache: what has arrived is kept, continued, and held against its checksum.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use ureq::http::{HeaderMap, StatusCode};

use super::{
    Error, Observer, RemoteFile,
    cache::RepoCache,
    checksum::Hasher,
    client::{Answer, Client, Request},
    retry::Retry,
};
use crate::cancel::CancelFlag;

/// How much is read and written at once.
const PIECE: usize = 256 << 10;

/// Everything that the download of a file needs beside the file.
pub(super) struct Download<'a> {
    pub(super) client: &'a Client,
    pub(super) cache: &'a RepoCache,
    pub(super) cancel: &'a CancelFlag,
    pub(super) commit: &'a str,
    /// The address of the commit's files: `ENDPOINT/ID/resolve/COMMIT`.
    pub(super) address: String,
    pub(super) observer: &'a dyn Observer,
    /// Another file has failed, so that this one need not go on.
    pub(super) stop: AtomicBool,
}

impl Download<'_> {
    /// Brings a file into the cache and gives it its name in the snapshot.
    ///
    /// # Errors
    /// Fails when it cannot be fetched whole; what has arrived is kept for the next time, unless it is damaged.
    pub(super) fn fetch(&self, file: &RemoteFile) -> Result<(), Error> {
        let mut counted = Counted { observer: self.observer, bytes: 0 };
        if self.cache.holds(self.commit, file) {
            counted.kept(file.bytes);
            return self.cache.link(self.commit, file);
        }
        let _lock = self.cache.lock(file, self.cancel)?;
        if self.cache.holds(self.commit, file) {
            // Another process has fetched it while we waited.
            counted.kept(file.bytes);
        } else {
            self.fetch_locked(file, &mut counted)?;
        }
        self.cache.link(self.commit, file)?;
        self.observer.finished(&file.name);
        Ok(())
    }

    fn fetch_locked(&self, file: &RemoteFile, counted: &mut Counted<'_>) -> Result<(), Error> {
        let partial = self.cache.partial(file);
        let mut damaged = false;
        loop {
            let actual = Transfer::begin(self, file, counted)?.run()?;
            if actual == file.checksum.hex() {
                break;
            }
            fs::remove_file(&partial).map_err(Error::cache("remove", &partial))?;
            counted.lost(file.bytes);
            if damaged {
                return Err(Error::Mismatch {
                    file: file.name.clone(),
                    expected: file.checksum.hex().to_owned(),
                    actual,
                });
            }
            tracing::warn!("{} arrived damaged, and is fetched once more", file.name);
            damaged = true;
        }
        let blob = self.cache.blob(file);
        fs::rename(&partial, &blob).map_err(Error::cache("put in place", &blob))
    }

    fn interrupted(&self) -> Error {
        Error::Interrupted { cache: self.cache.root.clone() }
    }
}

/// What an observer was told about one file.
struct Counted<'a> {
    observer: &'a dyn Observer,
    bytes: u64,
}

impl Counted<'_> {
    /// They were there before.
    fn kept(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.observer.kept(bytes);
    }

    fn arrived(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.observer.arrived(bytes);
    }

    fn lost(&mut self, bytes: u64) {
        self.bytes -= bytes.min(self.bytes);
        self.observer.lost(bytes);
    }
}

/// A file that is being filled.
struct Transfer<'a, 'b> {
    download: &'a Download<'a>,
    file: &'a RemoteFile,
    counted: &'a mut Counted<'b>,
    path: std::path::PathBuf,
    out: File,
    hasher: Hasher,
    /// Bytes that have arrived.
    have: u64,
    /// The strong entity tag of the last answer: a continuation has to be of the same bytes.
    etag: Option<String>,
}

impl<'a, 'b> Transfer<'a, 'b> {
    /// Opens what has arrived before.
    fn begin(download: &'a Download<'a>, file: &'a RemoteFile, counted: &'a mut Counted<'b>) -> Result<Self, Error> {
        let path = download.cache.partial(file);
        let out = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let out = out.map_err(Error::cache("make", &path))?;
        let hasher = file.checksum.hasher(file.bytes);
        let mut transfer = Self { download, file, counted, path, out, hasher, have: 0, etag: None };
        transfer.take_over()?;
        Ok(transfer)
    }

    /// Digests what is there already.
    fn take_over(&mut self) -> Result<(), Error> {
        let length = self.out.metadata().map_err(Error::cache("read", &self.path))?.len();
        if length > self.file.bytes {
            return self.restart();
        }
        let mut piece = vec![0; PIECE];
        while self.have < length {
            self.go_on()?;
            let read = self.out.read(&mut piece).map_err(Error::cache("read", &self.path))?;
            if read == 0 {
                break;
            }
            self.hasher.update(&piece[..read]);
            self.have += read as u64;
            self.counted.kept(read as u64);
        }
        if self.have > 0 {
            tracing::info!("{} goes on after {} of {} bytes", self.file.name, self.have, self.file.bytes);
        }
        Ok(())
    }

    /// Forgets what has arrived.
    fn restart(&mut self) -> Result<(), Error> {
        let empty = self.out.set_len(0).and_then(|()| self.out.seek(SeekFrom::Start(0)));
        empty.map_err(Error::cache("write", &self.path))?;
        self.counted.lost(self.have);
        self.have = 0;
        self.hasher = self.file.checksum.hasher(self.file.bytes);
        Ok(())
    }

    /// Fetches the rest and gives the digest of the whole.
    fn run(mut self) -> Result<String, Error> {
        let mut retry = Retry::new(self.download.cancel);
        let mut furthest = self.have;
        while self.have < self.file.bytes {
            let outcome = self.fetch_rest();
            if self.have > furthest {
                furthest = self.have;
                retry.progressed();
            }
            if let Err(error) = outcome {
                self.go_on()?;
                let again = retry.after(error);
                self.go_on()?;
                again?;
            }
        }
        self.out.sync_all().map_err(Error::cache("write", &self.path))?;
        Ok(self.hasher.finish())
    }

    /// Fails if nobody wants the rest any more.
    fn go_on(&self) -> Result<(), Error> {
        let stopped = self.download.stop.load(Ordering::Relaxed) || self.download.cancel.is_cancelled();
        if stopped { Err(self.download.interrupted()) } else { Ok(()) }
    }

    /// One request for what is missing.
    fn fetch_rest(&mut self) -> Result<(), Error> {
        let range = (self.have > 0).then(|| format!("bytes={}-", self.have));
        let url = address(&self.download.address, &self.file.name);
        let request = Request {
            url: &url,
            what: &self.file.name,
            range: range.as_deref(),
            if_range: self.etag.as_deref().filter(|_| range.is_some()),
        };
        let answer = match self.download.client.get(request) {
            // What has arrived is no beginning of what is there.
            Err(Error::Refused { status: 416, .. }) if range.is_some() => {
                self.restart()?;
                return Ok(());
            }
            answer => answer?,
        };
        self.accept(&answer)?;
        let Answer { response, host } = answer;
        let mut body = response.into_body().into_reader();
        let mut piece = vec![0; PIECE];
        loop {
            self.go_on()?;
            let read =
                body.read(&mut piece).map_err(|error| self.download.client.cut(&error, &host, &self.file.name))?;
            if read == 0 {
                break;
            }
            if self.have + read as u64 > self.file.bytes {
                return Err(self.wrong_length(&host, self.have + read as u64));
            }
            self.out.write_all(&piece[..read]).map_err(Error::cache("write", &self.path))?;
            self.hasher.update(&piece[..read]);
            self.have += read as u64;
            self.counted.arrived(read as u64);
        }
        if self.have < self.file.bytes {
            let ended = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(self.download.client.cut(&ended, &host, &self.file.name));
        }
        Ok(())
    }

    /// Holds the head of an answer against what is missing; an answer with the whole file begins it anew.
    fn accept(&mut self, answer: &Answer) -> Result<(), Error> {
        let (status, headers) = (answer.response.status(), answer.response.headers());
        let announced = announced_length(headers);
        if status == StatusCode::PARTIAL_CONTENT && self.have > 0 {
            let range = headers.get("content-range").and_then(|value| value.to_str().ok());
            if !range.is_some_and(|range| is_rest(range, self.have, self.file.bytes)) {
                let reason =
                    format!("it sends the part `{}`, and {} to the end was asked for", range.unwrap_or("?"), self.have);
                return Err(Error::Protocol { host: answer.host.clone(), what: self.file.name.clone(), reason });
            }
        } else if status == StatusCode::OK {
            if self.have > 0 {
                tracing::info!("{} sends {} from its beginning", answer.host, self.file.name);
                self.restart()?;
            }
            if let Some(length) = announced.filter(|&length| length != self.file.bytes) {
                return Err(self.wrong_length(&answer.host, length));
            }
        } else {
            let (host, what) = (answer.host.clone(), self.file.name.clone());
            return Err(Error::Refused { host, what, status: status.as_u16(), message: None });
        }
        let etag = headers.get("etag").and_then(|value| value.to_str().ok());
        self.etag = etag.filter(|etag| etag.starts_with('"')).map(str::to_owned);
        Ok(())
    }

    fn wrong_length(&self, host: &str, actual: u64) -> Error {
        let (host, file) = (host.to_owned(), self.file.name.clone());
        Error::WrongLength { host, file, expected: self.file.bytes, actual }
    }
}

fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get("content-length")?.to_str().ok()?.trim().parse().ok()
}

/// Whether a header `Content-Range` is that of the bytes from `start` to the end of a file.
fn is_rest(range: &str, start: u64, length: u64) -> bool {
    let parse = || {
        let (part, whole) = range.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = part.split_once('-')?;
        let whole_fits = whole == "*" || whole.parse() == Ok(length);
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        Some(whole_fits && first == start && last.checked_add(1) == Some(length))
    };
    parse().unwrap_or(false)
}

/// The address of a file below that of its folder.
pub(super) fn address(folder: &str, name: &str) -> String {
    let parts = name.split('/').map(super::listing::escaped);
    parts.fold(folder.to_owned(), |address, part| format!("{address}/{part}"))
}

/// The first `bytes` of a file, which is not put into the cache.
pub(super) fn first_bytes(download: &Download<'_>, file: &RemoteFile, bytes: u64) -> Result<Vec<u8>, Error> {
    let blob = download.cache.blob(file);
    if download.cache.holds(download.commit, file) && blob.exists() {
        return read_start(&blob, bytes).map_err(Error::cache("read", &blob));
    }
    let mut retry = Retry::new(download.cancel);
    loop {
        match try_first_bytes(download, file, bytes) {
            Ok(start) => return Ok(start),
            Err(error) => retry.after(error)?,
        }
    }
}

fn read_start(path: &Path, bytes: u64) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    File::open(path)?.take(bytes).read_to_end(&mut start)?;
    Ok(start)
}

/// A server that knows no ranges sends the whole file; the rest of it is not waited for.
fn try_first_bytes(download: &Download<'_>, file: &RemoteFile, bytes: u64) -> Result<Vec<u8>, Error> {
    let bytes = bytes.min(file.bytes);
    if bytes == 0 {
        return Ok(Vec::new());
    }
    let (url, range) = (address(&download.address, &file.name), format!("bytes=0-{}", bytes - 1));
    let request = Request { url: &url, what: &file.name, range: Some(&range), if_range: None };
    let Answer { response, host } = download.client.get(request)?;
    let headers = response.headers();
    let total = match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            let range = headers.get("content-range").and_then(|value| value.to_str().ok()).unwrap_or_default();
            let total = range.strip_prefix("bytes 0-").and_then(|range| range.split_once('/')).map(|(_, total)| total);
            let Some(total) = total else {
                let reason = format!("it sends the part `{range}`, and the beginning was asked for");
                return Err(Error::Protocol { host, what: file.name.clone(), reason });
            };
            total.parse().ok()
        }
        _ => announced_length(headers),
    };
    if let Some(actual) = total.filter(|&total| total != file.bytes) {
        return Err(Error::WrongLength { host, file: file.name.clone(), expected: file.bytes, actual });
    }
    let mut start = Vec::new();
    let body = response.into_body().into_reader();
    let read = body.take(bytes).read_to_end(&mut start);
    read.map_err(|error| download.client.cut(&error, &host, &file.name))?;
    if (start.len() as u64) < bytes {
        let ended = io::Error::from(io::ErrorKind::UnexpectedEof);
        return Err(download.client.cut(&ended, &host, &file.name));
    }
    Ok(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_rest_is_the_rest() {
        assert!(is_rest("bytes 5-9/10", 5, 10));
        assert!(is_rest("bytes 5-9/*", 5, 10));
        for wrong in ["bytes 4-9/10", "bytes 5-8/10", "bytes 5-9/11", "bytes 5-9", "5-9/10", "bytes x-9/10", ""] {
            assert!(!is_rest(wrong, 5, 10), "{wrong}");
        }
        assert_eq!(address("http://h/o/n/resolve/c", "a b/c.json"), "http://h/o/n/resolve/c/a%20b/c.json");
    }
}
