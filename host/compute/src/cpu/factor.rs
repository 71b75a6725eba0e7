//! Cholesky factors, their inverses, and what is solved with them, in `f64`.
//!
//! All of it is recursion by halves, so that nearly all operations are in products; the diagonal's small blocks
//! are inverted, and solving with them is a product too.

use std::ops::Range;

use super::{
    dense::{Product, View, Workspace, whole},
    simd::{Job, Simd},
};
use crate::Error;

/// Rows of a block of the diagonal.
const LEAF: usize = 64;

/// What is to be done with a symmetric matrix, of which the lower triangle is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// `L` with `L Lᵀ = A`.
    Factor,
    /// `A⁻¹`.
    Inverse,
    /// The lower triangular `L⁻¹`.
    InverseFactor,
}

/// A task on a matrix in place.
pub(crate) struct Cholesky<'a> {
    pub(crate) matrix: &'a mut [f64],
    pub(crate) order: usize,
    pub(crate) task: Task,
}

impl Job for Cholesky<'_> {
    type Output = Result<(), Error>;

    fn run<S: Simd>(self, simd: S) -> Result<(), Error> {
        let order = self.order;
        let leaves = vec![0.0; order.div_ceil(LEAF) * LEAF * LEAF];
        let mut state = State { simd, matrix: self.matrix, order, leaves, workspace: Workspace::default() };
        if order == 0 {
            return Ok(());
        }
        state.factor(0..order)?;
        for (i, row) in state.matrix.chunks_mut(order).enumerate() {
            row[i + 1..].fill(0.0);
        }
        if self.task != Task::Factor {
            state.invert(0..order);
        }
        if self.task == Task::Inverse {
            state.square(0..order);
            mirror(state.matrix, order);
        }
        Ok(())
    }
}

/// Copies the lower triangle to the upper one.
pub(crate) fn mirror(matrix: &mut [f64], order: usize) {
    // By blocks, since a column alone touches a page for every number.
    for block in (0..order).step_by(LEAF) {
        for i in block..order {
            for j in block..(block + LEAF).min(i) {
                matrix[j * order + i] = matrix[i * order + j];
            }
        }
    }
}

struct State<'a, S> {
    simd: S,
    matrix: &'a mut [f64],
    order: usize,
    /// Inverses of the factor's blocks on the diagonal.
    leaves: Vec<f64>,
    workspace: Workspace,
}

/// Two halves, the first of whole leaves.
fn halves(range: &Range<usize>) -> (Range<usize>, Range<usize>) {
    let middle = range.start + (range.len() / 2).next_multiple_of(LEAF);
    (range.start..middle, middle..range.end)
}

impl<S: Simd> State<'_, S> {
    /// The factor of a block of the diagonal.
    fn factor(&mut self, range: Range<usize>) -> Result<(), Error> {
        if range.len() <= LEAF {
            return self.factor_leaf(range);
        }
        let (upper, lower) = halves(&range);
        self.factor(upper.clone())?;
        self.divide(&lower, upper.clone());
        let rows = View::rows(self.order, lower.start, upper.start);
        let product = Product {
            left: (None, rows),
            right: (None, rows),
            rows: lower.len(),
            columns: lower.len(),
            depth: upper.len(),
            minus: true,
            replace: false,
            lower: true,
            depths: whole,
        };
        product.run(self.simd, &mut self.workspace, self.matrix, self.order, (lower.start, lower.start));
        self.factor(lower)
    }

    fn factor_leaf(&mut self, range: Range<usize>) -> Result<(), Error> {
        let size = range.len();
        let mut block = self.leaf(&range);
        let (simd, order) = (self.simd, self.order);
        simd.vectorize(|| factor_small(&mut block, size)).map_err(|(pivot, value)| Error::NotPositiveDefinite {
            pivot: range.start + pivot,
            order,
            value,
        })?;
        for (i, row) in range.clone().zip(block.chunks(size)) {
            self.matrix[i * order..][range.clone()][..=i - range.start].copy_from_slice(&row[..=i - range.start]);
        }
        let inverse = &mut self.leaves[range.start * LEAF..][..size * size];
        simd.vectorize(|| invert_small(&block, size, inverse));
        Ok(())
    }

    fn leaf(&self, range: &Range<usize>) -> Vec<f64> {
        range.clone().flat_map(|i| &self.matrix[i * self.order..][range.clone()]).copied().collect()
    }

    /// `X` with `X Lᵀ = B`, in the place of `B`: rows `rows`, columns `range`.
    fn divide(&mut self, rows: &Range<usize>, range: Range<usize>) {
        let (order, simd) = (self.order, self.simd);
        let left = (None, View::rows(order, rows.start, range.start));
        let mut product = Product {
            left,
            right: (None, View::rows(LEAF.min(range.len()), 0, 0)),
            rows: rows.len(),
            columns: range.len(),
            depth: range.len(),
            minus: false,
            replace: true,
            lower: false,
            depths: whole,
        };
        if range.len() <= LEAF {
            product.right.0 = Some(&self.leaves[range.start * LEAF..]);
            product.run(simd, &mut self.workspace, self.matrix, order, (rows.start, range.start));
            return;
        }
        let (first, second) = halves(&range);
        self.divide(rows, first.clone());
        let product = Product {
            left,
            right: (None, View::rows(order, second.start, first.start)),
            rows: rows.len(),
            columns: second.len(),
            depth: first.len(),
            minus: true,
            replace: false,
            lower: false,
            depths: whole,
        };
        product.run(simd, &mut self.workspace, self.matrix, order, (rows.start, second.start));
        self.divide(rows, second);
    }

    /// The inverse of a triangular block of the diagonal.
    fn invert(&mut self, range: Range<usize>) {
        let (simd, order) = (self.simd, self.order);
        if range.len() <= LEAF {
            let inverse = self.leaves[range.start * LEAF..].chunks(range.len());
            for (i, row) in range.clone().zip(inverse) {
                self.matrix[i * order..][range.clone()].copy_from_slice(row);
            }
            return;
        }
        let (upper, lower) = halves(&range);
        self.invert(upper.clone());
        self.invert(lower.clone());
        let (rows, columns) = (lower.len(), upper.len());
        let block = self.copied(&lower, &upper);
        let product = Product {
            left: (None, View::rows(order, lower.start, lower.start)),
            right: (Some(&block), View::columns(columns, 0, 0)),
            rows,
            columns,
            depth: rows,
            minus: true,
            replace: true,
            lower: false,
            depths: |rows, _| (0, rows.end),
        };
        product.run(simd, &mut self.workspace, self.matrix, order, (lower.start, upper.start));
        let block = self.copied(&lower, &upper);
        let product = Product {
            left: (Some(&block), View::rows(columns, 0, 0)),
            right: (None, View::columns(order, upper.start, upper.start)),
            rows,
            columns,
            depth: columns,
            minus: false,
            replace: true,
            lower: false,
            depths: |_, columns| (columns.start, usize::MAX),
        };
        product.run(simd, &mut self.workspace, self.matrix, order, (lower.start, upper.start));
    }

    /// `Lᵀ L`, its lower triangle, of a triangular block of the diagonal.
    fn square(&mut self, range: Range<usize>) {
        let (simd, order) = (self.simd, self.order);
        if range.len() <= LEAF {
            let size = range.len();
            let block = self.leaf(&range);
            let mut square = vec![0.0; size * size];
            simd.vectorize(|| square_small(&block, size, &mut square));
            for (i, row) in range.clone().zip(square.chunks(size)) {
                self.matrix[i * order..][range.clone()].copy_from_slice(row);
            }
            return;
        }
        let (upper, lower) = halves(&range);
        self.square(upper.clone());
        let below = View::columns(order, lower.start, upper.start);
        let product = Product {
            left: (None, below),
            right: (None, below),
            rows: upper.len(),
            columns: upper.len(),
            depth: lower.len(),
            minus: false,
            replace: false,
            lower: true,
            depths: whole,
        };
        product.run(simd, &mut self.workspace, self.matrix, order, (upper.start, upper.start));
        let block = self.copied(&lower, &upper);
        let product = Product {
            left: (None, View::columns(order, lower.start, lower.start)),
            right: (Some(&block), View::columns(upper.len(), 0, 0)),
            rows: lower.len(),
            columns: upper.len(),
            depth: lower.len(),
            minus: false,
            replace: true,
            lower: false,
            depths: |rows, _| (rows.start, usize::MAX),
        };
        product.run(simd, &mut self.workspace, self.matrix, order, (lower.start, upper.start));
        self.square(lower);
    }

    fn copied(&self, rows: &Range<usize>, columns: &Range<usize>) -> Vec<f64> {
        let mut block = Vec::with_capacity(rows.len() * columns.len());
        for row in rows.clone() {
            block.extend_from_slice(&self.matrix[row * self.order..][columns.clone()]);
        }
        block
    }
}

/// `X` with `L X = B`, or with `Lᵀ X = B`, in the place of `B`.
pub(crate) struct Solve<'a> {
    pub(crate) factor: &'a [f64],
    pub(crate) order: usize,
    pub(crate) transposed: bool,
    pub(crate) right: &'a mut [f64],
    pub(crate) width: usize,
}

impl Job for Solve<'_> {
    type Output = ();

    fn run<S: Simd>(mut self, simd: S) {
        if self.order > 0 && self.width > 0 {
            let order = self.order;
            self.solve(simd, &mut Workspace::default(), 0..order);
        }
    }
}

impl Solve<'_> {
    fn solve<S: Simd>(&mut self, simd: S, workspace: &mut Workspace, range: Range<usize>) {
        let (order, width) = (self.order, self.width);
        if range.len() <= LEAF {
            let size = range.len();
            let block: Vec<f64> =
                range.clone().flat_map(|i| &self.factor[i * order..][range.clone()]).copied().collect();
            let mut inverse = vec![0.0; size * size];
            simd.vectorize(|| invert_small(&block, size, &mut inverse));
            let view = if self.transposed { View::columns(size, 0, 0) } else { View::rows(size, 0, 0) };
            self.product((&inverse, view), &range, &range, true).run(
                simd,
                workspace,
                self.right,
                width,
                (range.start, 0),
            );
            return;
        }
        let (upper, lower) = halves(&range);
        let (first, second) =
            if self.transposed { (lower.clone(), upper.clone()) } else { (upper.clone(), lower.clone()) };
        self.solve(simd, workspace, first.clone());
        let view = if self.transposed {
            View::columns(order, lower.start, upper.start)
        } else {
            View::rows(order, lower.start, upper.start)
        };
        let product = self.product((self.factor, view), &second, &first, false);
        product.run(simd, workspace, self.right, width, (second.start, 0));
        self.solve(simd, workspace, second);
    }

    fn product<'b>(
        &self,
        (numbers, view): (&'b [f64], View),
        rows: &Range<usize>,
        depths: &Range<usize>,
        replace: bool,
    ) -> Product<'b> {
        Product {
            left: (Some(numbers), view),
            right: (None, View::columns(self.width, depths.start, 0)),
            rows: rows.len(),
            columns: self.width,
            depth: depths.len(),
            minus: !replace,
            replace,
            lower: false,
            depths: whole,
        }
    }
}

/// The factor of a small matrix, or the pivot that is not positive.
#[inline(always)]
fn factor_small(a: &mut [f64], size: usize) -> Result<(), (usize, f64)> {
    let mut column = [0.0; LEAF];
    for k in 0..size {
        let pivot = a[k * size + k];
        if !(pivot > 0.0 && pivot.is_finite()) {
            return Err((k, pivot));
        }
        let root = pivot.sqrt();
        a[k * size + k] = root;
        for i in k + 1..size {
            a[i * size + k] /= root;
            column[i] = a[i * size + k];
        }
        for i in k + 1..size {
            let factor = column[i];
            let row = &mut a[i * size..][k + 1..=i];
            row.iter_mut().zip(&column[k + 1..=i]).for_each(|(a, column)| *a -= factor * column);
        }
    }
    Ok(())
}

/// The inverse of a small lower triangular matrix, 0 above the diagonal.
#[inline(always)]
fn invert_small(l: &[f64], size: usize, inverse: &mut [f64]) {
    inverse.fill(0.0);
    for i in 0..size {
        let (above, row) = inverse.split_at_mut(i * size);
        let row = &mut row[..size];
        row[i] = 1.0;
        for k in 0..i {
            let factor = l[i * size + k];
            let known = &above[k * size..][..=k];
            row.iter_mut().zip(known).for_each(|(row, known)| *row -= factor * known);
        }
        let pivot = l[i * size + i];
        row[..=i].iter_mut().for_each(|row| *row /= pivot);
    }
}

/// The lower triangle of `Lᵀ L` of a small lower triangular matrix.
#[inline(always)]
fn square_small(l: &[f64], size: usize, square: &mut [f64]) {
    for row in l.chunks(size).enumerate() {
        let (k, row) = row;
        for i in 0..=k {
            let factor = row[i];
            let out = &mut square[i * size..][..=i];
            out.iter_mut().zip(row).for_each(|(out, number)| *out += factor * number);
        }
    }
}
