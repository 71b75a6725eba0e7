//! Codes out of words in which they follow each other as a stream of bits, the lowest first.

/// Codes that fill whole words for every width: they are in as many words as a code has bits.
pub const RUN: usize = 32;

/// The codes of a run, out of its words; those that are not there are nothing.
#[inline]
#[must_use]
pub fn stream<const BITS: usize>(words: &[u32]) -> [u8; RUN] {
    let mut codes = [0; RUN];
    let word = |at: usize| u64::from(words.get(at).copied().unwrap_or(0));
    for (index, code) in codes.iter_mut().enumerate() {
        let (at, shift) = (index * BITS / 32, index * BITS % 32);
        let window = word(at) | word(at + 1) << 32;
        #[expect(clippy::cast_possible_truncation, reason = "a code has at most 8 bits")]
        let low = (window >> shift) as u8;
        *code = low & mask(BITS);
    }
    codes
}

/// The largest code of so many bits, at most 8.
#[inline]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "at most 8 bits")]
pub const fn mask(bits: usize) -> u8 {
    ((1_u16 << bits) - 1) as u8
}
