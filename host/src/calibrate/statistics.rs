//! Gathering what plans ask of the inputs of linears: sums over all tokens, and samples.
//!
//! Nothing else is computed. Sums go token by token in the order of the samples, so they do not depend on
//! the number of threads.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use qhost_compute::Device;
use qhost_plugin_api::documents::{InputGroup, Precision, Statistic, StatisticsNeed};

use super::{Error, Input, Interruption, Observer, Point, original::Counterpart};
use crate::stream::{Grant, Ledger};

/// A group, of an expert if it has several.
pub(super) type Key = (InputGroup, Option<u32>);

/// What was gathered of the input of one group.
#[derive(Debug)]
pub struct Gathered<D: Device> {
    /// Numbers in a row.
    pub width: usize,
    /// Rows that went by.
    pub tokens: u64,
    /// Whether they are all tokens because an expert saw too few.
    pub all_tokens: bool,
    gram: Option<Gram<D>>,
    absolute: Vec<f64>,
    squares: Vec<f64>,
    sample: Vec<f32>,
    /// Of what the original model reads more, with what is read.
    cross: Option<D::Buffer>,
    /// Of what its stream has more, with what is read; and the width of the stream.
    residual: Option<(D::Buffer, usize)>,
    random: u64,
    memory: Arc<Grant>,
}

/// A Gram matrix, of which the lower triangle is kept.
#[derive(Debug)]
enum Gram<D: Device> {
    Single(D::Buffer),
    Double(Vec<f64>),
}

/// A statistic, ready to be lent.
#[derive(Debug, Clone, PartialEq)]
pub enum Numbers {
    /// In single precision.
    Single(Vec<f32>),
    /// In double precision.
    Double(Vec<f64>),
}

impl Numbers {
    /// Them as they lie in memory.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Single(numbers) => bytemuck::cast_slice(numbers),
            Self::Double(numbers) => bytemuck::cast_slice(numbers),
        }
    }
}

impl<D: Device> Gathered<D> {
    pub(super) fn new(
        device: &D,
        need: &StatisticsNeed,
        key: &Key,
        (width, stream): (usize, Option<usize>),
        ledger: &Arc<Ledger>,
    ) -> Result<Self, Error> {
        let wants_gram = need.what.contains(&Statistic::Gram);
        let held = memory(need, key.1.is_some(), width as u64, stream.unwrap_or(0) as u64);
        let memory = Arc::new(ledger.hold(held, "statistics of activations")?);
        let cross = has_cross(need, key.1.is_some()).then(|| device.zeros(width * width)).transpose()?;
        let stream = stream.filter(|_| need.what.contains(&Statistic::Residual));
        let residual = stream.map(|stream| Ok::<_, Error>((device.zeros(stream * width)?, stream))).transpose()?;
        let gram = match (wants_gram, need.precision) {
            (false, _) => None,
            (true, Precision::Double) => Some(Gram::Double(vec![0.0; width * width])),
            (true, _) => Some(Gram::Single(device.zeros(width * width)?)),
        };
        let seed =
            key.0.name().bytes().fold(u64::from(key.1.unwrap_or(0)), |seed, byte| {
                seed.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte)
            });
        let (absolute, squares) = (vec![0.0; width], vec![0.0; width]);
        let (tokens, all_tokens, sample, random) = (0, false, Vec::new(), seed);
        let new = Self { width, tokens, all_tokens, gram, absolute, squares, sample, cross, residual, random, memory };
        Ok(new)
    }

    fn take(
        &mut self,
        device: &D,
        need: &StatisticsNeed,
        input: &Input<'_, D>,
        original: Option<&Counterpart<D>>,
    ) -> Result<(), Error> {
        let x = input.numbers;
        if let Some(original) = original {
            self.compare(device, input, original)?;
        }
        match &mut self.gram {
            Some(Gram::Single(gram)) => device.gram(x, self.width, gram)?,
            Some(Gram::Double(gram)) => device.gram_f64(x, self.width, gram)?,
            None => {}
        }
        if need.what.iter().any(|what| matches!(what, Statistic::MeanAbs | Statistic::MeanSquare)) {
            device.moments(x, self.width, &mut self.absolute, &mut self.squares)?;
        }
        let rows = device.length(x) / self.width.max(1);
        if need.what.contains(&Statistic::Sample) {
            self.choose(device, need.sample_rows, x, rows)?;
        }
        self.tokens += rows as u64;
        Ok(())
    }

    /// Adds what the original model has more, in products with what is read.
    fn compare(&mut self, device: &D, input: &Input<'_, D>, original: &Counterpart<D>) -> Result<(), Error> {
        if let Some(cross) = &mut self.cross {
            let more = original.input_minus(device, input)?;
            device.cross(&more, input.numbers, (self.width, self.width), cross)?;
        }
        if let (Some((residual, height)), Some(stream)) = (&mut self.residual, input.stream)
            && let Some(more) = original.stream_minus(device, stream)?
        {
            device.cross(&more, input.numbers, (*height, self.width), residual)?;
        }
        Ok(())
    }

    /// Reservoir sampling (Vitter 1985, algorithm R): every row is kept with the same probability.
    fn choose(&mut self, device: &D, most: u64, x: &D::Buffer, rows: usize) -> Result<(), Error> {
        let mut chosen: BTreeMap<u64, u32> = BTreeMap::new();
        for (row, index) in (0..rows).zip(self.tokens..) {
            let place = if index < most { index } else { self.next_random() % (index + 1) };
            if place < most {
                chosen.insert(place, u32::try_from(row).unwrap_or(u32::MAX));
            }
        }
        if chosen.is_empty() {
            return Ok(());
        }
        let rows: Vec<u32> = chosen.values().copied().collect();
        let mut numbers = vec![0.0; rows.len() * self.width];
        device.download(&device.gather(x, self.width, &rows)?, &mut numbers)?;
        for (place, numbers) in chosen.keys().zip(numbers.chunks_exact(self.width)) {
            let start = usize::try_from(*place).unwrap_or(usize::MAX) * self.width;
            if self.sample.len() < start + self.width {
                self.sample.resize(start + self.width, 0.0);
            }
            self.sample[start..][..self.width].copy_from_slice(numbers);
        }
        Ok(())
    }

    /// `SplitMix64` (Steele et al. 2014).
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The memory that it was granted, which what is lent of it lies in.
    pub(super) fn memory(&self) -> Arc<Grant> {
        Arc::clone(&self.memory)
    }

    /// A statistic as it is lent, and its rows. Matrices are large: they are not here any more then. Of what the
    /// original model has more there are no rows where that is not gathered.
    ///
    /// # Errors
    /// Fails when the device refuses.
    pub(super) fn numbers(&mut self, device: &D, what: Statistic) -> Result<Option<(usize, Numbers)>, Error> {
        #[expect(clippy::cast_precision_loss, reason = "counts of tokens")]
        let count = self.tokens.max(1) as f64;
        #[expect(clippy::cast_possible_truncation, reason = "means are lent in f32")]
        let mean = |sums: &[f64]| Numbers::Single(sums.iter().map(|sum| (sum / count) as f32).collect());
        Ok(match what {
            Statistic::Gram => match self.gram.take() {
                Some(Gram::Single(gram)) => {
                    let mut numbers = device.download_all(gram)?;
                    mirror(&mut numbers, self.width);
                    Some((self.width, Numbers::Single(numbers)))
                }
                Some(Gram::Double(mut numbers)) => {
                    mirror(&mut numbers, self.width);
                    Some((self.width, Numbers::Double(numbers)))
                }
                None => None,
            },
            Statistic::Cross => Some(match self.cross.take() {
                Some(cross) => (self.width, Numbers::Single(device.download_all(cross)?)),
                None => (0, Numbers::Single(Vec::new())),
            }),
            Statistic::Residual => Some(match self.residual.take() {
                Some((residual, height)) => (height, Numbers::Single(device.download_all(residual)?)),
                None => (0, Numbers::Single(Vec::new())),
            }),
            Statistic::MeanAbs => Some((1, mean(&self.absolute))),
            Statistic::MeanSquare => Some((1, mean(&self.squares))),
            Statistic::Sample => Some((self.sample.len() / self.width.max(1), Numbers::Single(self.sample.clone()))),
            _ => None,
        })
    }
}

/// Fills what is above the diagonal, square by square: neighbours of a column are far from each other.
fn mirror<T: Copy>(matrix: &mut [T], width: usize) {
    const SQUARE: usize = 32;
    for first_row in (0..width).step_by(SQUARE) {
        for first_column in (first_row..width).step_by(SQUARE) {
            for row in first_row..(first_row + SQUARE).min(width) {
                for column in first_column.max(row + 1)..(first_column + SQUARE).min(width) {
                    matrix[row * width + column] = matrix[column * width + row];
                }
            }
        }
    }
}

/// Whether a statistic is of what the original model has more.
fn is_of_original(what: Statistic) -> bool {
    matches!(what, Statistic::Cross | Statistic::Residual)
}

/// Whether a need takes the original model beside the one with substitutes.
#[must_use]
pub fn needs_original(need: &StatisticsNeed) -> bool {
    need.what.iter().copied().any(is_of_original)
}

/// Whether what the original model reads more is gathered of an input: not of what experts have within, which other
/// tokens may be sent to there.
fn has_cross(need: &StatisticsNeed, of_expert: bool) -> bool {
    need.what.contains(&Statistic::Cross) && !(of_expert && need.group == InputGroup::FfnMid)
}

/// Bytes that a group of this width takes while it is gathered and lent, of an expert or not, where so many numbers
/// are in the stream.
#[must_use]
pub fn memory(need: &StatisticsNeed, of_expert: bool, width: u64, stream: u64) -> u64 {
    let wants = |what| need.what.contains(&what);
    let gram = if wants(Statistic::Gram) { width.saturating_mul(width) } else { 0 };
    let element = if need.precision == Precision::Double { 8 } else { 4 };
    let sample = if wants(Statistic::Sample) { need.sample_rows.saturating_mul(width) } else { 0 };
    let cross = if has_cross(need, of_expert) { width.saturating_mul(width) } else { 0 };
    let residual = if wants(Statistic::Residual) && !of_expert { stream.saturating_mul(width) } else { 0 };
    let singles = sample.saturating_add(cross).saturating_add(residual).saturating_mul(4);
    gram.saturating_mul(element).saturating_add(singles).saturating_add(width.saturating_mul(16))
}

/// Gathers what is asked for while a layer runs.
#[derive(Debug)]
pub(super) struct Collector<'a, D: Device> {
    pub(super) needs: &'a [StatisticsNeed],
    /// Of these inputs alone, if not of all.
    pub(super) only: Option<&'a BTreeSet<Key>>,
    /// The one group that is wanted, if not all.
    pub(super) group: Option<&'a InputGroup>,
    pub(super) gathered: BTreeMap<Key, Gathered<D>>,
    /// What the original model reads, of the batch at work.
    pub(super) originals: BTreeMap<InputGroup, Counterpart<D>>,
    pub(super) ledger: &'a Arc<Ledger>,
}

impl<'a, D: Device> Collector<'a, D> {
    fn need(&self, group: &InputGroup) -> Option<&'a StatisticsNeed> {
        let wanted = self.group.is_none_or(|wanted| wanted == group);
        self.needs.iter().find(|need| wanted && need.group == *group)
    }
}

impl<D: Device> Observer<D> for Collector<'_, D> {
    fn look(&mut self, device: &D, input: &Input<'_, D>) -> Result<(), Interruption> {
        let key = (input.group.clone(), input.expert);
        if self.only.is_some_and(|only| !only.contains(&key)) {
            return Ok(());
        }
        let Some(need) = self.need(&input.group) else { return Ok(()) };
        if !self.gathered.contains_key(&key) {
            let stream = input.stream.map(|stream| device.length(stream) / input.batch.tokens().max(1));
            let new = Gathered::new(device, need, &key, (input.width, stream), self.ledger)?;
            self.gathered.insert(key.clone(), new);
        }
        if let Some(gathered) = self.gathered.get_mut(&key) {
            gathered.take(device, need, input, self.originals.get(&input.group))?;
        }
        Ok(())
    }

    fn look_at_original(&mut self, device: &D, input: &Input<'_, D>) -> Result<(), Interruption> {
        // Experts read rows of what the whole block reads.
        let of_all = input.expert.is_none();
        if of_all && self.need(&input.group).is_some_and(needs_original) {
            self.originals.insert(input.group.clone(), Counterpart::of(device, input)?);
        }
        Ok(())
    }
}

/// Whether a group's input depends on the weights that read another's.
pub(super) fn comes_after(group: &InputGroup, other: &InputGroup) -> bool {
    Point::of(group) > Point::of(other)
}
