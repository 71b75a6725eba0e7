//! Where the rows of a tensor in the file come from in the checkpoint.
//!
//! It knows places only: rows, columns and the orders that GGUF wants them in. It knows no names, no
//! types and no families.

use std::ops::Range;

use qhost_plugin_api::sdk::{CHUNK_WEIGHTS, Failure, Result, Rows, Scratch, UnitHandle};

use qhost_ggml::float;

/// Weights of a transposed tensor in one chunk: more than usual, because every chunk passes over all rows
/// of the checkpoint's matrix.
const TRANSPOSED_WEIGHTS: u64 = 4 * CHUNK_WEIGHTS;

/// Weights of a piece, about, when rows are looked at piece by piece: few enough for a core's own caches, and so many that the
/// kernels, which take up to 32 super-blocks at once, have little that is left over.
pub(crate) const PIECE_WEIGHTS: u64 = 64 * 1024;

/// In which order lines of the checkpoint (rows, or elements of a row) stand in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// As they are.
    Kept,
    /// The two halves of every head take turns.
    Interleaved {
        /// Lines of a head.
        head: u64,
    },
    /// Of every `stride` lines those `take` that begin with the line `first`.
    Every {
        /// Lines that are taken together.
        take: u64,
        /// Lines from one start to the next.
        stride: u64,
        /// The first line taken.
        first: u64,
    },
    /// Stored group by group with all `parts` of a group together, wanted part by part.
    ByPart {
        /// Parts of a group.
        parts: u64,
        /// Lines of one part in one group.
        take: u64,
        /// The number of groups.
        groups: u64,
    },
}

/// Lines of the checkpoint that follow each other, and where they stand in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    /// The first of them in the checkpoint.
    first: u64,
    /// How many they are.
    count: u64,
    /// The place of the first, from the start of the lines that were asked for.
    place: u64,
    /// From one place to the next.
    step: u64,
}

impl Order {
    /// Lines that must stay together.
    fn granule(self) -> u64 {
        match self {
            // Two neighbours come from two places.
            Self::Interleaved { .. } => 2,
            _ => 1,
        }
    }

    /// Where some lines of the file come from; for interleaved ones a whole number of granules.
    fn runs(self, lines: &Range<u64>) -> Vec<Run> {
        let Range { start, end } = *lines;
        let pieces = |take: u64, source: &dyn Fn(u64) -> u64| {
            let piece = |index: u64| {
                let (from, to) = (start.max(index * take), end.min((index + 1) * take));
                Run { first: source(index) + (from - index * take), count: to - from, place: from - start, step: 1 }
            };
            (start / take..end.div_ceil(take)).map(piece).collect()
        };
        match self {
            Self::Kept => vec![Run { first: start, count: end - start, place: 0, step: 1 }],
            Self::Interleaved { head } => {
                // A head of `h` lines is stored as lines 0, h/2, 1, h/2 + 1, … of the checkpoint.
                let heads = start / head..end.div_ceil(head);
                let runs = heads.flat_map(move |index| {
                    let base = index * head;
                    let (from, to) = (start.max(base), end.min(base + head));
                    [0, 1].map(|half| Run {
                        first: base + half * (head / 2) + (from - base) / 2,
                        count: (to - from) / 2,
                        place: from - start + half,
                        step: 2,
                    })
                });
                runs.collect()
            }
            Self::Every { take, stride, first } => pieces(take, &|index| index * stride + first),
            Self::ByPart { parts, take, groups } => {
                pieces(take, &|index| (index % groups * parts + index / groups) * take)
            }
        }
    }
}

/// Where the rows of a tensor come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrangement {
    /// Rows are rows of the checkpoint in this order.
    Rows(Order),
    /// Rows are rows of the checkpoint, with their elements in this order.
    Elements(Order),
    /// Rows are columns of the checkpoint's matrices, in this order.
    Columns {
        /// The order of the columns in one matrix.
        order: Order,
        /// Rows of the file that one matrix gives.
        each: u64,
        /// Rows of the checkpoint from one matrix to the next.
        stride: u64,
    },
}

/// The rows of one tensor of the file.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    /// The checkpoint's tensors, one after the other; each gives as many rows.
    pub(crate) tensors: Vec<u32>,
    /// Where the rows stand in each of them.
    pub(crate) arrangement: Arrangement,
    /// What is added to every weight.
    pub(crate) shift: Option<Shift>,
}

/// A 1 that is added to the gain of a norm, as it is computed in the checkpoint's dtype.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shift {
    /// In 32 bits.
    Exact,
    /// Rounded to binary16.
    Half,
}

impl Origin {
    /// One tensor as it is.
    pub(crate) fn plain(tensor: u32) -> Self {
        Self { tensors: vec![tensor], arrangement: Arrangement::Rows(Order::Kept), shift: None }
    }

    /// The rows that must stay together, or should.
    pub(crate) fn granule(&self, rows: u64, row_elements: u64) -> u64 {
        let granule = match self.arrangement {
            Arrangement::Rows(order) => order.granule(),
            Arrangement::Elements(_) => 1,
            Arrangement::Columns { order, .. } => (TRANSPOSED_WEIGHTS / row_elements.max(1)).max(1) * order.granule(),
        };
        granule.min(rows.max(1))
    }

    /// Widens the weights of some rows of the file, of `of` rows of `row_elements` each, and calls with one piece of
    /// whole rows after the other: which rows it has, and their weights. The buffers are for the weights, and for what
    /// has to be put into another order.
    pub(crate) fn each_piece(
        &self,
        io: &UnitHandle,
        rows: &Range<u64>,
        (of, row_elements): (u64, u64),
        (floats, spare): (&mut Vec<f32>, &mut Vec<f32>),
        mut each: impl FnMut(&Range<u64>, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let step = (PIECE_WEIGHTS / row_elements.max(1)).max(1);
        let pieces = (rows.start..rows.end).step_by(in_memory(step)?).map(|start| start..rows.end.min(start + step));
        if let Arrangement::Rows(order) = self.arrangement {
            let lent = self.lend(io, order, rows, of)?;
            for piece in pieces {
                floats.resize(in_memory((piece.end - piece.start) * row_elements)?, 0.0);
                fill(&lent, &(piece.start - rows.start..piece.end - rows.start), in_memory(row_elements)?, floats)?;
                self.shift(floats);
                each(&piece, floats)?;
            }
            return Ok(());
        }
        self.fetch_to(io, rows, (of, row_elements), (floats, spare))?;
        for (piece, floats) in pieces.zip(floats.chunks(in_memory(step * row_elements)?.max(1))) {
            each(&piece, floats)?;
        }
        Ok(())
    }

    /// Whether [`each_piece`](Self::each_piece) has room for no more than a piece.
    pub(crate) fn comes_in_pieces(&self) -> bool {
        matches!(self.arrangement, Arrangement::Rows(_))
    }

    /// Widens the weights of some rows of the file, of `of` rows of `row_elements` each, into `scratch.floats`.
    pub(crate) fn fetch(
        &self,
        io: &UnitHandle,
        rows: &Range<u64>,
        of: (u64, u64),
        Scratch { floats, more_floats, .. }: &mut Scratch,
    ) -> Result<()> {
        self.fetch_to(io, rows, of, (floats, more_floats))
    }

    /// Into the first buffer; the other is for what has to be put into another order.
    fn fetch_to(
        &self,
        io: &UnitHandle,
        rows: &Range<u64>,
        (of, row_elements): (u64, u64),
        (floats, spare): (&mut Vec<f32>, &mut Vec<f32>),
    ) -> Result<()> {
        floats.resize(in_memory((rows.end - rows.start) * row_elements)?, 0.0);
        let columns = in_memory(row_elements)?;
        if let Arrangement::Rows(order) = self.arrangement {
            let lent = self.lend(io, order, rows, of)?;
            fill(&lent, &(0..rows.end - rows.start), columns, floats)?;
        }
        for (tensor, part, before) in self.parts(rows, of) {
            let out = &mut floats[in_memory(before)? * columns..];
            match self.arrangement {
                Arrangement::Rows(_) => {}
                Arrangement::Elements(order) => fetch_elements(io, tensor, &part, (order, row_elements), spare, out)?,
                Arrangement::Columns { order, each, stride } => {
                    fetch_columns(io, tensor, &part, (order, row_elements), (each, stride), spare, out)?;
                }
            }
        }
        self.shift(floats);
        Ok(())
    }

    /// Borrows rows that are whole rows of the checkpoint. The runs have their places from the first of `rows` on.
    fn lend<'a>(&self, io: &'a UnitHandle, order: Order, rows: &Range<u64>, of: u64) -> Result<Vec<(Run, Rows<'a>)>> {
        let runs = self.runs(order, rows, of);
        runs.map(|(tensor, run)| Ok((run, io.rows(tensor, run.first, run.count)?))).collect()
    }

    /// Where rows come from that are whole rows of the checkpoint, of which tensor; their places are from the first of
    /// `rows` on.
    fn runs(&self, order: Order, rows: &Range<u64>, of: u64) -> impl Iterator<Item = (u32, Run)> {
        self.parts(rows, of).flat_map(move |(tensor, part, before)| {
            order.runs(&part).into_iter().map(move |run| (tensor, Run { place: before + run.place, ..run }))
        })
    }

    /// Which rows each tensor of the checkpoint gives, and how many rows come before them.
    fn parts(&self, rows: &Range<u64>, of: u64) -> impl Iterator<Item = (u32, Range<u64>, u64)> {
        let each = (of / (self.tensors.len() as u64).max(1)).max(1);
        let Range { start, end } = *rows;
        (0..).zip(&self.tensors).filter_map(move |(index, tensor)| {
            let base = index * each;
            let (from, to) = (start.max(base), end.min(base + each));
            (from < to).then(|| (*tensor, from - base..to - base, from - start))
        })
    }

    /// Adds what is added to every weight.
    fn shift(&self, weights: &mut [f32]) {
        match self.shift {
            None => {}
            Some(Shift::Exact) => weights.iter_mut().for_each(|weight| *weight += 1.0),
            Some(Shift::Half) => weights.iter_mut().for_each(|weight| {
                *weight = float::from_f16(float::to_f16(*weight + 1.0));
            }),
        }
    }

    /// The other way: finds in the file what rows of one of the checkpoint's tensors are made from, and puts it to
    /// its place. `wanted` are rows of that tensor, each of `columns` elements, that `out` has room for; `of` is how
    /// many rows of the file the tensor gave, and `row_elements` how long those are. `read` widens a row of the file,
    /// counted from the first that the tensor gave.
    pub(crate) fn restore(
        &self,
        wanted: &Range<u64>,
        columns: u64,
        (of, row_elements): (u64, u64),
        read: &mut dyn FnMut(u64, &mut [f32]) -> Result<()>,
        out: &mut [f32],
    ) -> Result<()> {
        let width = in_memory(columns)?;
        let mut row = vec![0.0; in_memory(row_elements)?];
        let place = |line: u64, column: u64| Ok(in_memory(line - wanted.start)? * width + in_memory(column)?);
        match self.arrangement {
            Arrangement::Rows(_) => {
                for (line, held) in self.held_rows(wanted, of) {
                    let start = place(line, 0)?;
                    read(held, &mut out[start..start + width])?;
                }
            }
            Arrangement::Elements(order) => {
                let runs = order.runs(&(0..row_elements));
                for line in wanted.clone() {
                    read(line, &mut row)?;
                    for run in &runs {
                        let start = place(line, run.first)?;
                        let taken = row[in_memory(run.place)?..].iter().step_by(in_memory(run.step)?);
                        let places = &mut out[start..start + in_memory(run.count)?];
                        places.iter_mut().zip(taken).for_each(|(place, weight)| *place = *weight);
                    }
                }
            }
            Arrangement::Columns { order, each, stride } => {
                let runs = order.runs(&(0..each));
                for matrix in 0..of / each.max(1) {
                    let base = matrix * stride;
                    let lines = wanted.start.max(base)..wanted.end.min(base + row_elements);
                    if lines.is_empty() {
                        continue;
                    }
                    for run in &runs {
                        for step in 0..run.count {
                            read(matrix * each + run.place + run.step * step, &mut row)?;
                            for line in lines.clone() {
                                out[place(line, run.first + step)?] = row[in_memory(line - base)?];
                            }
                        }
                    }
                }
            }
        }
        match self.shift {
            None => {}
            Some(Shift::Exact) => {
                for weight in &mut *out {
                    *weight -= 1.0;
                }
            }
            Some(Shift::Half) => {
                for weight in &mut *out {
                    *weight = float::from_f16(float::to_f16(*weight - 1.0));
                }
            }
        }
        Ok(())
    }

    /// Of whole rows of the checkpoint that are wanted, those that are among `of` rows of the file, each with its place
    /// there.
    pub(crate) fn held_rows(&self, wanted: &Range<u64>, of: u64) -> Vec<(u64, u64)> {
        let Arrangement::Rows(order) = self.arrangement else { return Vec::new() };
        let runs = order.runs(&(0..of)).into_iter();
        let rows = runs.flat_map(|run| {
            let lines = wanted.start.max(run.first)..wanted.end.min(run.first + run.count);
            lines.map(move |line| (line, run.place + run.step * (line - run.first)))
        });
        rows.collect()
    }

    /// Calls with every run of whole rows of the checkpoint that some rows of the file, of `of`, are: the tensor, the
    /// first row there and how many, and for each its place from the first of `rows` on.
    pub(crate) fn whole_rows(
        &self,
        rows: &Range<u64>,
        of: u64,
        mut each: impl FnMut(u32, (u64, u64), &mut dyn Iterator<Item = u64>) -> Result<()>,
    ) -> Result<()> {
        let Arrangement::Rows(order) = self.arrangement else {
            return Err(Failure::internal("rows that are no rows of the checkpoint"));
        };
        for (tensor, run) in self.runs(order, rows, of) {
            each(tensor, (run.first, run.count), &mut (0..run.count).map(|line| run.place + run.step * line))?;
        }
        Ok(())
    }
}

/// Fills `out` with rows of one tensor, their elements put in order.
fn fetch_elements(
    io: &UnitHandle,
    tensor: u32,
    rows: &Range<u64>,
    (order, row_elements): (Order, u64),
    widened: &mut Vec<f32>,
    out: &mut [f32],
) -> Result<()> {
    let lent = io.rows(tensor, rows.start, rows.end - rows.start)?;
    let runs = order.runs(&(0..row_elements));
    for (row, out) in (0..rows.end - rows.start).zip(out.chunks_exact_mut(in_memory(row_elements)?.max(1))) {
        for run in &runs {
            lent.widen_part(row, &(run.first..run.first + run.count), widened)?;
            let places = out[in_memory(run.place)?..].iter_mut().step_by(in_memory(run.step)?);
            places.zip(&*widened).for_each(|(place, weight)| *place = *weight);
        }
    }
    Ok(())
}

/// Fills `out` with rows that are columns of one tensor's matrices.
fn fetch_columns(
    io: &UnitHandle,
    tensor: u32,
    rows: &Range<u64>,
    (order, row_elements): (Order, u64),
    (each, stride): (u64, u64),
    widened: &mut Vec<f32>,
    out: &mut [f32],
) -> Result<()> {
    let columns = in_memory(row_elements)?;
    for matrix in rows.start / each..rows.end.div_ceil(each) {
        let base = matrix * each;
        let (from, to) = (rows.start.max(base), rows.end.min(base + each));
        let out = &mut out[in_memory((from - rows.start) * row_elements)?..];
        let runs = order.runs(&(from - base..to - base));
        let lent = io.rows(tensor, matrix * stride, row_elements)?;
        for input in 0..row_elements {
            for run in &runs {
                lent.widen_part(input, &(run.first..run.first + run.count), widened)?;
                let places = out[in_memory(run.place)? * columns + in_memory(input)?..].iter_mut();
                let places = places.step_by(columns * in_memory(run.step)?);
                places.zip(&*widened).for_each(|(place, weight)| *place = *weight);
            }
        }
    }
    Ok(())
}

/// Fills `out` with the rows at some of the places, each of `columns` elements, out of rows that are lent.
fn fill(lent: &[(Run, Rows<'_>)], places: &Range<u64>, columns: usize, out: &mut [f32]) -> Result<()> {
    for (run, lent) in lent {
        let before = |place: u64| place.saturating_sub(run.place).div_ceil(run.step).min(run.count);
        let lines = before(places.start)..before(places.end);
        let at = |line: u64| Ok::<_, Failure>(in_memory(run.place + run.step * line - places.start)? * columns);
        if lines.is_empty() {
            continue;
        }
        if run.step == 1 {
            let length = in_memory(lines.end - lines.start)? * columns;
            lent.widen_rows(&lines, &mut out[at(lines.start)?..][..length])?;
        } else {
            for line in lines {
                lent.widen_rows(&(line..line + 1), &mut out[at(line)?..][..columns])?;
            }
        }
    }
    Ok(())
}

/// A length of something that is held in memory.
pub(crate) fn in_memory(length: u64) -> Result<usize> {
    usize::try_from(length).map_err(|_| Failure::internal("a chunk is too long"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For every line of the file the line of the checkpoint, however the lines are cut.
    fn lines(order: Order, count: u64) -> Vec<u64> {
        let whole = cut(order, count, count);
        for step in (order.granule()..=count).step_by(usize::try_from(order.granule()).unwrap()) {
            assert_eq!(cut(order, count, step), whole, "{order:?} in pieces of {step}");
        }
        whole
    }

    fn cut(order: Order, count: u64, step: u64) -> Vec<u64> {
        let mut made = Vec::new();
        for start in (0..count).step_by(usize::try_from(step).unwrap()) {
            let piece = start..count.min(start + step);
            let mut out = vec![u64::MAX; usize::try_from(piece.end - piece.start).unwrap()];
            for run in order.runs(&piece) {
                assert!(run.count > 0, "an empty run is a loan for nothing");
                for line in 0..run.count {
                    out[usize::try_from(run.place + run.step * line).unwrap()] = run.first + line;
                }
            }
            made.extend(out);
        }
        made
    }

    /// Against the definition: reshape to (heads, 2, h/2), swap, flatten.
    #[test]
    fn halves_of_each_head_become_neighbours() {
        for (heads, head) in [(1, 2), (3, 2), (2, 4), (4, 6), (3, 16)] {
            let expected: Vec<_> = (0..heads * head)
                .map(|line| (line / head, line % head))
                .map(|(index, line)| index * head + line / 2 + line % 2 * (head / 2))
                .collect();
            assert_eq!(lines(Order::Interleaved { head }, heads * head), expected, "{heads} heads of {head}");
        }
    }

    /// Against the definition: reshape to (groups, parts, take), put the parts first.
    #[test]
    fn parts_of_all_groups_come_together() {
        for (groups, parts, take) in [(1, 3, 4), (4, 3, 1), (5, 2, 3)] {
            let mut expected = Vec::new();
            for part in 0..parts {
                for group in 0..groups {
                    expected.extend((0..take).map(|line| (group * parts + part) * take + line));
                }
            }
            assert_eq!(lines(Order::ByPart { parts, take, groups }, groups * parts * take), expected);
        }
    }

    #[test]
    fn every_other_line_and_blocks_of_lines_are_taken() {
        assert_eq!(lines(Order::Every { take: 1, stride: 2, first: 1 }, 4), [1, 3, 5, 7]);
        assert_eq!(lines(Order::Every { take: 2, stride: 5, first: 3 }, 6), [3, 4, 8, 9, 13, 14]);
        assert_eq!(lines(Order::Kept, 3), [0, 1, 2]);
    }

    /// The checkpoint's weights are their own places; `file` has them in the file's order.
    fn assert_restored(arrangements: &[(Arrangement, Vec<Vec<u64>>)], rows: u64, columns: u64) {
        for wanted in [0..rows, 0..1, rows / 2..rows, rows / 3..rows - 1] {
            let mut out = vec![-1.0; usize::try_from((wanted.end - wanted.start) * columns).unwrap()];
            for (arrangement, file) in arrangements {
                let origin = Origin { arrangement: *arrangement, ..Origin::plain(0) };
                let mut read = |row: u64, out: &mut [f32]| {
                    let row = &file[usize::try_from(row).unwrap()];
                    assert_eq!(row.len(), out.len());
                    out.iter_mut()
                        .zip(row)
                        .for_each(|(place, weight)| *place = f32::from(u16::try_from(*weight).unwrap()));
                    Ok(())
                };
                let of = (file.len() as u64, file[0].len() as u64);
                origin.restore(&wanted, columns, of, &mut read, &mut out).unwrap();
            }
            let expected: Vec<_> = (wanted.start * columns..wanted.end * columns)
                .map(|place| f32::from(u16::try_from(place).unwrap()))
                .collect();
            assert!(out.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()), "{arrangements:?}: {out:?}");
        }
    }

    #[test]
    fn what_is_arranged_is_restored() {
        let interleaved = Order::Interleaved { head: 4 };
        let by_part = Order::ByPart { parts: 3, take: 2, groups: 2 };
        for (order, count) in [(Order::Kept, 7), (interleaved, 8), (by_part, 12)] {
            let order_of = lines(order, count);
            let rows = order_of.iter().map(|line| (line * 3..line * 3 + 3).collect()).collect();
            assert_restored(&[(Arrangement::Rows(order), rows)], count, 3);
            let elements = (0..4).map(|row| order_of.iter().map(|line| row * count + line).collect()).collect();
            assert_restored(&[(Arrangement::Elements(order), elements)], 4, count);
            // Two matrices of 3 inputs.
            let columns = (0..2).flat_map(|matrix| {
                order_of.iter().map(move |line| (0..3).map(|input| (matrix * 3 + input) * count + line).collect())
            });
            assert_restored(&[(Arrangement::Columns { order, each: count, stride: 3 }, columns.collect())], 6, count);
        }
        let halves = [0, 1].map(|first| {
            let order = Order::Every { take: 1, stride: 2, first };
            (Arrangement::Rows(order), lines(order, 4).iter().map(|line| vec![line * 2, line * 2 + 1]).collect())
        });
        assert_restored(&halves, 8, 2);
        // Latent attention: of each head's 5 rows 2 are keys, stored by column, and 3 are values.
        let keys = (0..2).flat_map(|head| (0..4).map(move |c| (0..2).map(|row| (head * 5 + row) * 4 + c).collect()));
        let keys = (Arrangement::Columns { order: Order::Kept, each: 4, stride: 5 }, keys.collect());
        let order = Order::Every { take: 3, stride: 5, first: 2 };
        let values = lines(order, 6).iter().map(|line| (line * 4..line * 4 + 4).collect()).collect();
        assert_restored(&[keys, (Arrangement::Rows(order), values)], 10, 4);
    }
}
