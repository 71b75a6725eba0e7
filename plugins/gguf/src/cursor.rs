//! Reading numbers and strings from bytes that may be anything.
//!
//! It knows how the container writes them, and nothing of what they mean.

use qhost_plugin_api::sdk::{Failure, Result};

/// Bytes being read; every step is checked against what is left.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    /// At the start of the bytes.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// The bytes that were read so far.
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    /// The number of bytes that are left.
    pub(crate) fn left(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// The next bytes.
    pub(crate) fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let length = usize::try_from(length).ok().filter(|&length| length <= self.left()).ok_or_else(|| {
            Failure::corrupt(format!("wants {length} bytes at offset {}, {} are left", self.position, self.left()))
        })?;
        let taken = &self.bytes[self.position..self.position + length];
        self.position += length;
        Ok(taken)
    }

    /// The next bytes, as many as the array has.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let taken = self.take(N as u64)?;
        taken.try_into().map_err(|_| Failure::internal("a slice lost its length"))
    }

    /// A little-endian number.
    pub(crate) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// A little-endian number.
    pub(crate) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A string whose bytes may be no UTF-8: what is none is replaced, as tokens of foreign files need not be.
    pub(crate) fn text(&mut self) -> Result<String> {
        let length = self.u64()?;
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    /// A string: its length in bytes, and its UTF-8.
    pub(crate) fn string(&mut self) -> Result<String> {
        let length = self.u64()?;
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Failure::corrupt("holds text that is not UTF-8"))
    }
}
