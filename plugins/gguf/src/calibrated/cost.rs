//! What rounding under a Hessian costs, for estimates of time. To be measured again whenever the arithmetic changes.

use qhost_linears::Effort;

use super::scheme;
use crate::format::BlockType;

/// What trying a scale costs for a weight, in nanoseconds.
const PER_CANDIDATE: f64 = 1.5;

/// What a column of the Hessian costs for a weight, in every pass.
const PER_COLUMN: f64 = 0.03;

/// Nanoseconds for a weight on one core of the reference machine (see `TensorSegment::cost`), in rows of so many.
pub(crate) fn cost(block_type: BlockType, columns: u64, effort: Effort) -> f64 {
    let search = effort.search();
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let (columns, candidates, passes) = (columns as f64, search.candidates as f64, search.passes as f64);
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let of_block = scheme(block_type).map_or(0.0, |scheme| scheme.columns() as f64);
    block_type.cost().min(5.0)
        + PER_CANDIDATE * candidates
        + PER_COLUMN * (columns * (0.5 + passes) + 3.0 * of_block * passes)
}
