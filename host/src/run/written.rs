//! What a plugin has written into a segment: whether it is whole, and its digest.
//!
//! Bytes are digested as they come, while they are in a core's cache; what comes ahead of its turn is read back from the
//! file when that has come. Where too much waits, the digest is left to whoever finds none.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::Xxh3Default;

use super::commit::in_hexadecimal;
use crate::write::Error;

/// The most bytes that are read back at once: threads that work side by side are ahead of each other by less.
const WAITING: u64 = 4 << 20;
/// Bytes that are read at a time.
const READ: usize = 16 << 10;

/// What was written into one segment.
#[derive(Default)]
pub(super) struct Written {
    /// Lengths by offsets.
    ranges: BTreeMap<u64, u64>,
    overlaps: bool,
    /// Bytes from the start that were digested, and their digest so far.
    digested: u64,
    digest: Digest,
}

#[derive(Default)]
enum Digest {
    #[default]
    Empty,
    Running(Box<Xxh3Default>),
    /// Too much was waiting.
    Left,
}

impl Written {
    /// Notes bytes that are in the file now; `read` reads them back from an offset on, and gives how many there are.
    ///
    /// # Errors
    /// Fails when the file cannot be read.
    pub(super) fn add(
        &mut self,
        offset: u64,
        bytes: &[u8],
        read: impl Fn(u64, &mut [u8]) -> Result<usize, Error>,
    ) -> Result<(), Error> {
        let length = bytes.len() as u64;
        if length == 0 {
            return Ok(());
        }
        self.overlaps |= self.ranges.insert(offset, length).is_some();
        if offset == self.digested && !self.overlaps {
            self.update(bytes);
            self.catch_up(read)?;
        }
        Ok(())
    }

    /// Digests what follows and was written before its turn.
    fn catch_up(&mut self, read: impl Fn(u64, &mut [u8]) -> Result<usize, Error>) -> Result<(), Error> {
        let mut end = self.digested;
        while let Some(length) = self.ranges.get(&end) {
            end += length;
        }
        if end - self.digested > WAITING {
            self.digest = Digest::Left;
        }
        let mut buffer = [0; READ];
        while self.digested < end && !matches!(self.digest, Digest::Left) {
            let wanted = usize::try_from(end - self.digested).map_or(READ, |rest| rest.min(READ));
            match read(self.digested, &mut buffer[..wanted])? {
                // It is no longer as long as it was: whoever digests it from the file finds that.
                0 => self.digest = Digest::Left,
                read => self.update(&buffer[..read]),
            }
        }
        Ok(())
    }

    fn update(&mut self, bytes: &[u8]) {
        if matches!(self.digest, Digest::Empty) {
            self.digest = Digest::Running(Box::default());
        }
        if let Digest::Running(hasher) = &mut self.digest {
            hasher.update(bytes);
        }
        self.digested += bytes.len() as u64;
    }

    /// Whether `0..length` was written exactly once.
    pub(super) fn covers(&self, length: u64) -> bool {
        let mut next = 0;
        for (offset, bytes) in &self.ranges {
            if *offset != next {
                return false;
            }
            next += bytes;
        }
        next == length && !self.overlaps
    }

    /// The XXH3-128 of all `length` bytes, in hexadecimal, if they came in time.
    pub(super) fn digest(&self, length: u64) -> Option<String> {
        match &self.digest {
            Digest::Running(hasher) if self.digested == length && self.covers(length) => {
                Some(in_hexadecimal(hasher.digest128()))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use xxhash_rust::xxh3::xxh3_128;

    use super::*;

    fn add(written: &mut Written, file: &[u8], offset: u64, length: usize) {
        let start = usize::try_from(offset).unwrap();
        let read = |offset: u64, out: &mut [u8]| {
            let rest = &file[usize::try_from(offset).unwrap()..];
            let read = rest.len().min(out.len());
            out[..read].copy_from_slice(&rest[..read]);
            Ok(read)
        };
        written.add(offset, &file[start..start + length], read).unwrap();
    }

    #[test]
    fn only_a_gapless_cover_without_overlap_counts() {
        let covers = |ranges: &[(u64, usize)], length| {
            let mut written = Written::default();
            for (offset, bytes) in ranges {
                add(&mut written, &[7; 20], *offset, *bytes);
            }
            written.covers(length)
        };
        assert!(covers(&[], 0));
        assert!(!covers(&[], 1));
        assert!(covers(&[(4, 4), (0, 4)], 8));
        assert!(covers(&[(4, 4), (0, 4), (0, 0)], 8));
        for bad in
            [&[(0, 4)][..], &[(0, 4), (0, 4)], &[(0, 4), (5, 3)], &[(0, 4), (3, 5)], &[(1, 8)], &[(0, 8), (0, 8)]]
        {
            assert!(!covers(bad, 8), "{bad:?}");
        }
    }

    #[test]
    fn the_digest_is_that_of_the_bytes_in_whatever_order_they_came() {
        let file: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let expected = Some(in_hexadecimal(xxh3_128(&file)));
        for order in [[0, 1, 2, 3], [1, 0, 3, 2], [3, 2, 1, 0], [2, 0, 1, 3]] {
            let mut written = Written::default();
            for quarter in order {
                assert_eq!(written.digest(100_000), None);
                add(&mut written, &file, quarter * 25_000, 25_000);
            }
            assert_eq!(written.digest(100_000), expected, "{order:?}");
            assert_eq!(written.digest(99_999), None);
        }
    }

    #[test]
    fn where_too_much_waits_there_is_no_digest() {
        let file = vec![1; usize::try_from(WAITING).unwrap() + 2];
        let mut written = Written::default();
        add(&mut written, &file, 1, file.len() - 1);
        add(&mut written, &file, 0, 1);
        assert!(written.covers(file.len() as u64));
        assert_eq!(written.digest(file.len() as u64), None);
    }
}
