//! Codes and zero points out of packed 32-bit words, which have eight neighbouring outputs each.
//!
//! The order within a word is made for a kernel that spreads 4-bit fields over 16-bit lanes: even outputs come first.

/// Outputs in a word.
pub(crate) const OUTPUTS: usize = 8;

/// The first bit of each output of a word.
pub(crate) const SHIFTS: [u32; OUTPUTS] = [0, 16, 4, 20, 8, 24, 12, 28];

/// The field of an output in a word.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "4 bits")]
pub(crate) fn field(word: u32, output: usize) -> u8 {
    (word >> SHIFTS[output % OUTPUTS]) as u8 & 15
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_in_the_order_of_the_format_s_text() {
        // The field `i`, from the lowest bits on, holds the output `ORDER[i]`.
        const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
        let codes: [u8; 8] = [3, 14, 1, 5, 9, 2, 6, 15];
        let fields = ORDER.iter().enumerate();
        let word = fields.fold(0, |word, (place, output)| word | u32::from(codes[*output]) << (4 * place));
        let found: Vec<_> = (0..8).map(|output| field(word, output)).collect();
        assert_eq!(found, codes);
    }
}
