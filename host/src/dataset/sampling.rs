//! From documents to rows of tokens: which ones, in which order, and how they fill the rows.
//!
//! A text is cut at the ends of lines into pieces some rows long. Pieces, or the rows of a data set, are put into a
//! random order and become tokens one after the other, each as a text of its own, until there are enough. Their tokens
//! follow each other without a gap, cut every `seq_len` tokens; where the tokenizer begins a text with a BOS token, so
//! does every row, for a model that was trained so needs it. What is left at the end and fills no row is dropped.

use super::{Error, Sampling, Tokenizer, documents::Row, random::Random};

/// Bytes of a piece for each token of a row: three or four rows of most languages.
const PIECE: usize = 16;
/// The shortest piece.
const SHORTEST: usize = 4 << 10;

/// Bytes of text that are enough to draw from, however few samples are wanted.
pub(super) const ENOUGH: usize = 64 << 20;

/// What is drawn from.
pub(super) enum Pool<'a> {
    Text(&'a str),
    Rows(&'a [Row]),
}

/// Draws rows of `seq_len` tokens.
///
/// # Errors
/// Fails when a row cannot become tokens.
pub(super) fn draw(pool: &Pool<'_>, sampling: Sampling, tokenizer: &Tokenizer) -> Result<Vec<Vec<u32>>, Error> {
    let mut random = Random::new(sampling.seed);
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let mut packer = Packer::new(sampling, bos);
    match pool {
        Pool::Text(text) => {
            let length = sampling.seq_len.saturating_mul(PIECE).max(SHORTEST);
            let mut pieces = pieces(text, length);
            random.shuffle(&mut pieces);
            for piece in pieces {
                packer.take(&tokenizer.encode(piece, true)?);
                if packer.is_full() {
                    break;
                }
            }
        }
        Pool::Rows(rows) => {
            let mut order: Vec<_> = rows.iter().collect();
            random.shuffle(&mut order);
            for row in order {
                packer.take(&row.encode(tokenizer)?);
                if packer.is_full() {
                    break;
                }
            }
        }
    }
    Ok(packer.finish())
}

/// Cuts a text behind the ends of lines into pieces of at least that many bytes. The last is longer rather than short.
fn pieces(text: &str, length: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while rest.len() >= 2 * length {
        let mut from = length;
        while !rest.is_char_boundary(from) {
            from += 1;
        }
        let Some(end) = rest[from..].find('\n') else { break };
        let (piece, after) = rest.split_at(from + end + 1);
        pieces.push(piece);
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(rest);
    }
    pieces
}

/// Fills rows.
struct Packer {
    sampling: Sampling,
    bos: Option<u32>,
    rows: Vec<Vec<u32>>,
    row: Vec<u32>,
}

impl Packer {
    fn new(sampling: Sampling, bos: Option<u32>) -> Self {
        Self { sampling, bos, rows: Vec::new(), row: Vec::new() }
    }

    fn is_full(&self) -> bool {
        self.rows.len() >= self.sampling.samples
    }

    fn take(&mut self, tokens: &[u32]) {
        let mut rest = tokens;
        while !rest.is_empty() && !self.is_full() {
            if self.row.is_empty() && self.bos.is_some_and(|bos| rest[0] != bos) {
                self.row.extend(self.bos);
            }
            let (now, later) = rest.split_at(rest.len().min(self.sampling.seq_len - self.row.len()));
            self.row.extend_from_slice(now);
            rest = later;
            if self.row.len() == self.sampling.seq_len {
                self.rows.push(std::mem::take(&mut self.row));
            }
        }
    }

    /// The full rows, or the one that is not where there is no other.
    fn finish(mut self) -> Vec<Vec<u32>> {
        if self.rows.is_empty() && !self.row.is_empty() {
            self.rows.push(self.row);
        }
        self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(bos: Option<u32>, samples: usize, documents: &[&[u32]]) -> Vec<Vec<u32>> {
        let mut packer = Packer::new(Sampling { samples, seq_len: 4, seed: 0 }, bos);
        for document in documents {
            packer.take(document);
        }
        packer.finish()
    }

    #[test]
    fn rows_are_full_and_begin_as_texts_do() {
        let documents: [&[u32]; 3] = [&[1, 2, 3], &[1, 4, 5, 6, 7, 8], &[1, 9]];
        assert_eq!(pack(None, 9, &documents), [[1, 2, 3, 1], [4, 5, 6, 7]]);
        assert_eq!(pack(Some(1), 9, &documents), [[1, 2, 3, 1], [1, 4, 5, 6], [1, 7, 8, 1]]);
        assert_eq!(pack(Some(1), 1, &documents), [[1, 2, 3, 1]]);
        assert_eq!(pack(None, 9, &[&[1, 2], &[3]]), [vec![1, 2, 3]]);
        assert!(pack(None, 9, &[]).is_empty());
    }

    #[test]
    fn pieces_end_with_lines_and_are_the_whole_text() {
        let text = "ä line\n".repeat(100) + "end";
        let pieces = pieces(&text, 50);
        assert_eq!(pieces.concat(), text);
        let (last, first) = pieces.split_last().unwrap();
        assert!(first.iter().all(|piece| piece.len() >= 50 && piece.len() < 60 && piece.ends_with('\n')));
        assert!(last.len() >= 50);
        assert_eq!(super::pieces("no line", 2), ["no line"]);
        assert!(super::pieces("", 2).is_empty());
    }
}
