//! What a hub says about a file's contents, and holding bytes against it.

use sha2::{Digest, Sha256};

/// The digest by which a file is known; it is also the name of its blob in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checksum {
    /// SHA-1 of git's blob: the word `blob`, the length, a zero byte, and the contents. Small files have it.
    GitBlob(String),
    /// SHA-256 of the contents. Large files have it.
    Sha256(String),
}

impl Checksum {
    /// The digest of a file in git.
    pub(super) fn git_blob(hex: &str) -> Option<Self> {
        is_hex(hex, 40).then(|| Self::GitBlob(hex.to_ascii_lowercase()))
    }

    /// The digest of a file in large-file storage; some name it with its algorithm.
    pub(super) fn sha256(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        is_hex(hex, 64).then(|| Self::Sha256(hex.to_ascii_lowercase()))
    }

    /// The digest in hexadecimal.
    #[must_use]
    pub fn hex(&self) -> &str {
        match self {
            Self::GitBlob(hex) | Self::Sha256(hex) => hex,
        }
    }

    /// Begins to digest a file of so many bytes.
    pub(super) fn hasher(&self, bytes: u64) -> Hasher {
        match self {
            Self::GitBlob(_) => Hasher::Sha1(sha1::Sha1::new_with_prefix(format!("blob {bytes}\0"))),
            Self::Sha256(_) => Hasher::Sha256(Sha256::new()),
        }
    }
}

/// A digest in the making.
pub(super) enum Hasher {
    Sha1(sha1::Sha1),
    Sha256(Sha256),
}

impl Hasher {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha1(digest) => digest.update(bytes),
            Self::Sha256(digest) => digest.update(bytes),
        }
    }

    pub(super) fn finish(self) -> String {
        match self {
            Self::Sha1(digest) => crate::text::hex(&digest.finalize()),
            Self::Sha256(digest) => crate::text::hex(&digest.finalize()),
        }
    }
}

/// Whether a text is so many hexadecimal digits.
pub(super) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::Checksum;

    /// `printf 'hello\n' | git hash-object --stdin`, and `sha256sum`.
    #[test]
    fn digests_are_those_of_git_and_of_sha256() {
        for checksum in [
            Checksum::git_blob("ce013625030ba8dba906f756967f9e9ca394464a").unwrap(),
            Checksum::sha256("sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03").unwrap(),
        ] {
            let mut hasher = checksum.hasher(6);
            hasher.update(b"hel");
            hasher.update(b"lo\n");
            assert_eq!(hasher.finish(), checksum.hex());
        }
        assert!(Checksum::git_blob("../../x").is_none() && Checksum::sha256("zz").is_none());
    }
}
