//! Cutting tensors into pieces of rows that are worth one task each.

use std::ops::Range;

/// Weights in one chunk, about: half a megabyte of `f32`, which stays in a core's own cache.
///
/// The cut depends on shapes alone, never on the number of threads, so that sums over chunks are
/// the same in every run.
pub const CHUNK_WEIGHTS: u64 = 128 * 1024;

/// A tensor to be worked on by rows.
#[derive(Debug, Clone)]
pub struct RowJob<T> {
    /// What it is, for the loop body.
    pub item: T,
    /// Number of rows.
    pub rows: u64,
    /// Weights in a row.
    pub row_elements: u64,
    /// Rows that must stay together (the rows of a head, say); 1 if none.
    pub granule: u64,
}

/// Some rows of one [`RowJob`].
#[derive(Debug, Clone)]
pub struct Chunk<'a, T> {
    /// The job's item.
    pub item: &'a T,
    /// The rows.
    pub rows: Range<u64>,
}

/// Cuts every job into chunks of about [`CHUNK_WEIGHTS`] weights and at least one granule.
pub fn chunks<T>(jobs: &[RowJob<T>]) -> Vec<Chunk<'_, T>> {
    let mut chunks = Vec::new();
    for job in jobs {
        let granule = job.granule.max(1);
        let granules = (CHUNK_WEIGHTS / (granule * job.row_elements).max(1)).max(1);
        let step = granules * granule;
        let mut start = 0;
        while start < job.rows {
            let end = job.rows.min(start + step);
            chunks.push(Chunk { item: &job.item, rows: start..end });
            start = end;
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_every_row_once_and_keep_granules_whole() {
        for (rows, row_elements, granule) in [(1, 1, 1), (4096, 256, 32), (7, 1 << 20, 1), (96, 4096, 48), (0, 5, 1)] {
            let jobs = [RowJob { item: (), rows, row_elements, granule }];
            let chunks = chunks(&jobs);
            let mut next = 0;
            for chunk in &chunks {
                assert_eq!(chunk.rows.start, next);
                assert_eq!(chunk.rows.start % granule, 0);
                next = chunk.rows.end;
            }
            assert_eq!(next, rows);
        }
    }
}
