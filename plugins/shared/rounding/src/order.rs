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
            Self::GroupAware => {
                let mut runs: Vec<&mut [usize]> = columns.chunks_mut(groups.size).collect();
                for run in &mut runs {
                    run.sort_by_key(key);
                }
                runs.sort_by_key(|run| run.first().map(key));
                columns = runs.iter().flat_map(|run| run.iter().copied()).collect();
            }
        }
        columns
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
    fn groups_come_out_even() {
        assert_eq!(Grouping::new(6, 4), None);
        assert_eq!(Grouping::new(0, 0), None);
        assert_eq!(Grouping::new(6, 0).map(Grouping::count), Some(1));
    }
}
