//! The order in which columns are rounded, and the groups that share a scale.
//!
//! Errors of a column are made good by those after it, so columns whose inputs are large come first. Where a group has
//! to be a run of neighbouring columns, groups are ordered, and the columns within each: then the file needs no
//! table of groups ("group-aware" order of `GPTQModel`, "weight" order of compressed-tensors).

use std::{cmp::Reverse, ops::Range};

/// Which columns share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grouping {
    width: usize,
    size: usize,
}

impl Grouping {
    /// Grouping of `size` columns of `width`; 0 is one group of all.
    ///
    /// None when they do not come out even, or there is no column.
    #[must_use]
    pub fn new(width: usize, size: usize) -> Option<Self> {
        let size = if size == 0 { width } else { size };
        (width > 0 && width.is_multiple_of(size)).then_some(Self { width, size })
    }

    /// Columns.
    #[must_use]
    pub fn width(self) -> usize {
        self.width
    }

    /// Columns of a group.
    #[must_use]
    pub fn size(self) -> usize {
        self.size
    }

    /// Grouping.
    #[must_use]
    pub fn count(self) -> usize {
        self.width / self.size
    }

    /// The columns of a group, by their places in the order.
    pub(crate) fn places(self, group: usize) -> Range<usize> {
        group * self.size..(group + 1) * self.size
    }
}

/// The order of the columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As they stand.
    Natural,
    /// Grouping by their largest input, and the columns of each by theirs; a group stays a run of neighbours.
    GroupAware,
    /// Runs of `outer` columns by their largest input, the groups in each by theirs, runs of `inner` columns in those, and
    /// columns in the end: runs of all three lengths stay runs of neighbours. Each length divides the one before it.
    Nested {
        /// Columns of the longest runs, of which the width is a multiple.
        outer: usize,
        /// Columns of the shortest.
        inner: usize,
    },
    /// All columns by their inputs ("act-order"): groups are whatever comes together, and a file has to say which.
    Activation,
}

impl Order {
    /// The columns in the order in which they are rounded: the first `size` are the first group, and so on.
    ///
    /// `energy` has for each column the sum of the squares of its inputs.
    pub(crate) fn columns(self, groups: Grouping, energy: &[f64]) -> Vec<usize> {
        let mut columns: Vec<usize> = (0..groups.width).collect();
        // A sort that keeps the order of what is equal, so that the result is the same everywhere.
        let key = |column: &usize| Reverse(Total(energy[*column]));
        match self {
            Self::Natural => {}
            Self::Activation => columns.sort_by_key(key),
            Self::GroupAware => sort_runs(&mut columns, &[groups.size, 1], key),
            Self::Nested { outer, inner } => sort_runs(&mut columns, &[outer, groups.size, inner, 1], key),
        }
        columns
    }
}

/// Sorts runs of columns, each by its first, within the runs of the next greater length; the shortest are single columns.
fn sort_runs<K: Ord>(columns: &mut [usize], lengths: &[usize], key: impl Fn(&usize) -> K + Copy) {
    let whole = columns.len();
    for (index, &length) in lengths.iter().enumerate().rev() {
        let within = if index == 0 { whole } else { lengths[index - 1] };
        for part in columns.chunks_mut(within) {
            let mut runs: Vec<&[usize]> = part.chunks(length).collect();
            runs.sort_by_key(|run| run.first().map(key));
            let sorted = runs.concat();
            part.copy_from_slice(&sorted);
        }
    }
}

/// A number in the total order of IEEE 754.
#[derive(PartialEq)]
struct Total(f64);

impl Eq for Total {}

impl PartialOrd for Total {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Total {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_stay_together_and_large_inputs_come_first() {
        let energy = [1.0, 5.0, 9.0, 0.0, 2.0, 2.0];
        let groups = Grouping::new(6, 2).unwrap();
        assert_eq!(Order::GroupAware.columns(groups, &energy), [2, 3, 1, 0, 4, 5]);
        assert_eq!(Order::Activation.columns(groups, &energy), [2, 1, 4, 5, 0, 3]);
        assert_eq!(Order::Natural.columns(groups, &energy), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn runs_within_runs_stay_together() {
        let energy = [1.0, 2.0, 9.0, 0.0, 3.0, 8.0, 7.0, 6.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 10.0];
        let groups = Grouping::new(16, 4).unwrap();
        let order = Order::Nested { outer: 8, inner: 2 };
        assert_eq!(order.columns(groups, &energy), [15, 14, 12, 13, 8, 9, 10, 11, 2, 3, 1, 0, 5, 4, 6, 7]);
    }

    #[test]
    fn groups_come_out_even() {
        assert_eq!(Grouping::new(6, 4), None);
        assert_eq!(Grouping::new(0, 0), None);
        assert_eq!(Grouping::new(6, 0).map(Grouping::count), Some(1));
    }
}
