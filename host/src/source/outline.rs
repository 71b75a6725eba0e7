//! Stand-ins for weight files that are somewhere else: files of the true length that hold the header and nothing
//! more, so that a checkpoint can be opened and planned before its weights are there.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};

/// Bytes that hold the headers of most weight files.
pub const ENOUGH_FOR_MOST_HEADERS: u64 = 128 << 10;

/// No reader takes a longer header; such a file is damaged, and opening it says so.
const LONGEST_HEADER: u64 = 100 << 20;

/// Where the header of a weight file ends, by the number at its start; nothing more is needed of a damaged one.
#[must_use]
pub fn header_end(start: &[u8]) -> u64 {
    let length = start.first_chunk::<8>().map_or(0, |length| u64::from_le_bytes(*length));
    if length <= LONGEST_HEADER { length + 8 } else { 0 }
}

/// Makes a file of `bytes` bytes at `path` that begins with `start`. It takes no more room on the disk than that,
/// where the disk can leave holes in files.
///
/// # Errors
/// Fails when the disk refuses.
pub fn outline(path: &Path, bytes: u64, start: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.set_len(bytes)?;
    file.write_all(start)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_end_of_a_header_is_never_beyond_what_readers_take() {
        assert_eq!(super::header_end(&[5, 0, 0, 0, 0, 0, 0, 0, b'{']), 13);
        assert_eq!(super::header_end(&[255; 8]), 0);
        assert_eq!(super::header_end(&[1, 2]), 8);
    }
}
