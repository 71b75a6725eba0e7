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

use super::{Error, Input, Interruption, Observer, Point};
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
        width: usize,
        ledger: &Arc<Ledger>,
    ) -> Result<Self, Error> {
        let wants_gram = need.what.contains(&Statistic::Gram);
        let memory = Arc::new(ledger.hold(memory(need, width as u64), "statistics of activations")?);
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
        let sample = Vec::new();
        Ok(Self { width, tokens: 0, all_tokens: false, gram, absolute, squares, sample, random: seed, memory })
    }

    fn take(&mut self, device: &D, need: &StatisticsNeed, x: &D::Buffer) -> Result<(), Error> {
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

    /// A statistic as it is lent, and its rows. A Gram matrix is large: it is not here any more then.
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

/// Bytes that a group of this width takes while it is gathered and lent.
#[must_use]
pub fn memory(need: &StatisticsNeed, width: u64) -> u64 {
    let wants = |what| need.what.contains(&what);
    let gram = if wants(Statistic::Gram) { width.saturating_mul(width) } else { 0 };
    let element = if need.precision == Precision::Double { 8 } else { 4 };
    let sample = if wants(Statistic::Sample) { need.sample_rows.saturating_mul(width) } else { 0 };
    gram.saturating_mul(element).saturating_add(sample.saturating_mul(4)).saturating_add(width.saturating_mul(16))
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
    pub(super) ledger: &'a Arc<Ledger>,
}

impl<D: Device> Observer<D> for Collector<'_, D> {
    fn look(&mut self, device: &D, input: &Input<'_, D>) -> Result<(), Interruption> {
        if self.group.is_some_and(|group| *group != input.group) {
            return Ok(());
        }
        let key = (input.group.clone(), input.expert);
        if self.only.is_some_and(|only| !only.contains(&key)) {
            return Ok(());
        }
        let Some(need) = self.needs.iter().find(|need| need.group == input.group) else { return Ok(()) };
        if !self.gathered.contains_key(&key) {
            let new = Gathered::new(device, need, &key, input.width, self.ledger)?;
            self.gathered.insert(key.clone(), new);
        }
        if let Some(gathered) = self.gathered.get_mut(&key) {
            gathered.take(device, need, input.numbers)?;
        }
        Ok(())
    }
}

/// Whether a group's input depends on the weights that read another's.
pub(super) fn comes_after(group: &InputGroup, other: &InputGroup) -> bool {
    Point::of(group) > Point::of(other)
}
