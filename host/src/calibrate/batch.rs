//! The tokens that go through a layer together: whole samples, one after the other.

use super::{Decoder, RotaryTable};

/// Samples that go through a layer together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Which samples they are: neighbours, by the index of the first.
    pub first: usize,
    /// Tokens of each.
    pub lengths: Vec<usize>,
}

/// Tokens of a batch, about; a sample is never cut.
pub const TOKENS: usize = 1024;

impl Batch {
    /// Cuts samples into batches.
    #[must_use]
    pub fn cut(lengths: &[usize]) -> Vec<Self> {
        let mut batches: Vec<Self> = Vec::new();
        for (sample, &length) in lengths.iter().enumerate() {
            match batches.last_mut().filter(|batch| batch.tokens() + length <= TOKENS) {
                Some(batch) => batch.lengths.push(length),
                None => batches.push(Self { first: sample, lengths: vec![length] }),
            }
        }
        batches
    }

    /// Its tokens.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// The sample and the token within it that a row stands for.
    #[must_use]
    pub fn place(&self, row: usize) -> (usize, usize) {
        let mut rest = row;
        for (index, &length) in self.lengths.iter().enumerate() {
            if rest < length {
                return (self.first + index, rest);
            }
            rest -= length;
        }
        (self.first + self.lengths.len(), rest)
    }

    /// For every row its row in the tables of rotation.
    #[must_use]
    pub fn table_rows(&self, table: &RotaryTable) -> Vec<u32> {
        let rows = self.lengths.iter().flat_map(|&length| (0..length).map(move |row| table.first_row(length) + row));
        rows.map(|row| u32::try_from(row).unwrap_or(u32::MAX)).collect()
    }

    /// For every row its row in the embedding of positions, if there is one.
    #[must_use]
    pub fn learned_positions(&self, decoder: &Decoder) -> Option<Vec<u32>> {
        let offset = decoder.position_offset?;
        let rows = self.lengths.iter().flat_map(|&length| 0..length);
        Some(rows.map(|position| u32::try_from(position + offset).unwrap_or(u32::MAX)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_never_cut_and_all_of_them_go() {
        let lengths = [TOKENS + 1, 5, TOKENS - 5, 1, 7];
        let batches = Batch::cut(&lengths);
        let cut: Vec<_> = batches.iter().map(|batch| (batch.first, batch.lengths.clone())).collect();
        assert_eq!(cut, [(0, vec![TOKENS + 1]), (1, vec![5, TOKENS - 5]), (3, vec![1, 7])]);
        assert_eq!((batches[1].place(4), batches[1].place(5)), ((1, 4), (2, 0)));
        assert_eq!(batches[2].place(3), (4, 2));
    }
}
