//! What a repository holds at a revision: names, lengths and checksums, without the files.

use std::{
    fmt::Write as _,
    path::{Component, Path},
};

use serde::{Deserialize, de::DeserializeOwned};

use super::{
    Checksum, Error,
    client::{Answer, Client, Request},
    retry::Retry,
};
use crate::cancel::CancelFlag;

/// The longest answer that is read. A page lists a thousand files.
const LONGEST_ANSWER: u64 = 64 << 20;
/// Pages that are read.
const PAGES: usize = 100;

/// A repository at a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The commit.
    pub commit: String,
    /// Its files.
    pub files: Vec<RemoteFile>,
}

impl Listing {
    /// The file of that name.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<&RemoteFile> {
        self.files.iter().find(|file| file.name == name)
    }
}

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its name relative to the repository, with `/` between folders.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its checksum.
    pub checksum: Checksum,
}

#[derive(Deserialize)]
struct Revision {
    sha: String,
}

/// An entry of the answer about a tree.
#[derive(Deserialize)]
struct Entry {
    r#type: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

/// The parts of a hub that a listing is asked from.
pub(super) struct Lister<'a> {
    pub(super) client: &'a Client,
    pub(super) cancel: &'a CancelFlag,
    /// The address of the repository's interface for programs, such as `ENDPOINT/api/models/ID`.
    pub(super) api: String,
}

impl Lister<'_> {
    /// The commit that a branch or a tag names now.
    pub(super) fn commit(&self, revision: &str) -> Result<String, Error> {
        let url = format!("{}/revision/{}", self.api, escaped(revision));
        let (found, _): (Revision, _) = self.json(&url, "the revision")?;
        if is_commit(&found.sha) { Ok(found.sha) } else { Err(self.unusable("the revision", "it names no commit")) }
    }

    /// The files at the top and in the folders of `folders` that are there.
    pub(super) fn files(&self, commit: &str, folders: &[&str]) -> Result<Vec<RemoteFile>, Error> {
        let top = self.tree(commit, "", false)?;
        let mut files = self.files_of(&top)?;
        for folder in folders {
            if top.iter().any(|entry| entry.r#type == "directory" && entry.path == **folder) {
                files.extend(self.files_of(&self.tree(commit, folder, false)?)?);
            }
        }
        Ok(files)
    }

    /// The files in all folders.
    pub(super) fn all_files(&self, commit: &str) -> Result<Vec<RemoteFile>, Error> {
        self.files_of(&self.tree(commit, "", true)?)
    }

    fn tree(&self, commit: &str, folder: &str, recursive: bool) -> Result<Vec<Entry>, Error> {
        let slash = if folder.is_empty() { "" } else { "/" };
        let query = if recursive { "?recursive=true" } else { "" };
        let mut url = format!("{}/tree/{commit}{slash}{folder}{query}", self.api);
        let mut entries = Vec::new();
        for _ in 0..PAGES {
            let (page, next): (Vec<Entry>, _) = self.json(&url, "the list of files")?;
            entries.extend(page);
            match next {
                Some(next) => url = next,
                None => return Ok(entries),
            }
        }
        Err(self.unusable("the list of files", "it has no end"))
    }

    fn files_of(&self, entries: &[Entry]) -> Result<Vec<RemoteFile>, Error> {
        // What could not be put into a folder is not needed either.
        let files = entries.iter().filter(|entry| entry.r#type == "file" && is_inside(&entry.path));
        let file = |entry: &Entry| {
            let (bytes, checksum) = match &entry.lfs {
                Some(lfs) => (lfs.size, Checksum::sha256(&lfs.oid)),
                None => (entry.size, Checksum::git_blob(&entry.oid)),
            };
            let reason = || format!("it gives no checksum of {}", entry.path);
            let checksum = checksum.ok_or_else(|| self.unusable("the list of files", &reason()))?;
            Ok(RemoteFile { name: entry.path.clone(), bytes, checksum })
        };
        files.map(file).collect()
    }

    /// A JSON answer, and the address of the next page if there is one.
    fn json<T: DeserializeOwned>(&self, url: &str, what: &str) -> Result<(T, Option<String>), Error> {
        let mut retry = Retry::new(self.cancel);
        loop {
            match self.try_json(url, what) {
                Ok(answer) => return Ok(answer),
                Err(error) => retry.after(error)?,
            }
        }
    }

    fn try_json<T: DeserializeOwned>(&self, url: &str, what: &str) -> Result<(T, Option<String>), Error> {
        let Answer { response, host } = self.client.get(Request { url, what, ..Request::default() })?;
        let next = response.headers().get("link").and_then(|value| next_page(value.to_str().ok()?));
        let mut body = response.into_body();
        let bytes = body.with_config().limit(LONGEST_ANSWER).read_to_vec();
        let bytes = bytes.map_err(|error| self.client.cut(&error.into_io(), &host, what))?;
        let unusable =
            |error: serde_json::Error| Error::Protocol { host, what: what.into(), reason: error.to_string() };
        Ok((serde_json::from_slice(&bytes).map_err(unusable)?, next))
    }

    fn unusable(&self, what: &str, reason: &str) -> Error {
        Error::Protocol { host: super::client::host_of(&self.api), what: what.to_owned(), reason: reason.to_owned() }
    }
}

/// The listing that `huggingface_hub` keeps of a commit in `trees/COMMIT.json`.
pub(super) fn kept(text: &str) -> Option<Vec<RemoteFile>> {
    #[derive(Deserialize)]
    struct Kept {
        format_version: u32,
        files: std::collections::BTreeMap<String, KeptFile>,
    }
    #[derive(Deserialize)]
    struct KeptFile {
        size: u64,
        blob_id: String,
        lfs_sha256: Option<String>,
        lfs_size: Option<u64>,
    }
    let kept: Kept = serde_json::from_str(text).ok().filter(|kept: &Kept| kept.format_version == 1)?;
    let files = kept.files.into_iter().filter(|(name, _)| is_inside(name));
    let file = |(name, file): (String, KeptFile)| {
        let checksum = match &file.lfs_sha256 {
            Some(sha256) => Checksum::sha256(sha256),
            None => Checksum::git_blob(&file.blob_id),
        };
        Some(RemoteFile { name, bytes: file.lfs_size.unwrap_or(file.size), checksum: checksum? })
    };
    files.map(file).collect()
}

/// The address behind `rel="next"` in a header `Link`.
fn next_page(link: &str) -> Option<String> {
    let part = link.split(',').find(|part| part.contains("rel=\"next\""))?;
    let (_, rest) = part.split_once('<')?;
    rest.split_once('>').map(|(url, _)| url.to_owned())
}

/// Whether a name stays within the folder that it is put in.
fn is_inside(name: &str) -> bool {
    let plain = !name.contains(['\\', ':']) && !name.contains(char::is_control) && !name.is_empty();
    plain && Path::new(name).components().all(|component| matches!(component, Component::Normal(_)))
}

/// Whether a text may be the name of a commit, and so of a folder.
pub(super) fn is_commit(text: &str) -> bool {
    (7..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A name as one part of an address.
pub(super) fn escaped(name: &str) -> String {
    name.bytes().fold(String::with_capacity(name.len()), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_no_names() {
        for name in ["config.json", "additional_chat_templates/a.jinja"] {
            assert!(is_inside(name), "{name}");
        }
        for name in ["../x", "/x", "a/../../x", "a\\b", "C:x", "", "./x", "a\u{1b}[2J"] {
            assert!(!is_inside(name), "{name}");
        }
        assert!(is_commit(&"a0".repeat(20)) && !is_commit("../../../x") && !is_commit("main"));
    }

    #[test]
    fn addresses_and_pages() {
        assert_eq!(escaped("refs/pr/1"), "refs%2Fpr%2F1");
        assert_eq!(escaped("ä?"), "%C3%A4%3F");
        let link = "<http://h/p?cursor=1>; rel=\"prev\", <http://h/p?cursor=2>; rel=\"next\"";
        assert_eq!(next_page(link).as_deref(), Some("http://h/p?cursor=2"));
        assert_eq!(next_page("<http://h>; rel=\"last\""), None);
    }

    /// As `huggingface_hub` 2.4 writes it.
    #[test]
    fn a_kept_listing_is_read() {
        let (sha1, sha256) = ("a".repeat(40), "b".repeat(64));
        let text = format!(
            r#"{{"format_version": 1, "files": {{"config.json": {{"size": 5, "blob_id": "{sha1}"}},
            "m.safetensors": {{"size": 7, "blob_id": "{sha1}", "lfs_sha256": "{sha256}", "lfs_size": 7, "xet_hash": "x"}}}}}}"#
        );
        let files = kept(&text).unwrap();
        assert_eq!((files[0].bytes, files[0].checksum.hex()), (5, sha1.as_str()));
        assert_eq!((files[1].bytes, files[1].checksum.hex()), (7, sha256.as_str()));
        assert!(kept(&text.replace("\"format_version\": 1", "\"format_version\": 2")).is_none());
    }
}
