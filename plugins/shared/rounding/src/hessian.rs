//! What rounding has to know of the inputs: their Hessian, made fit for work, and its factor.
//!
//! The factor is that of `H = M D Mᵀ` with `M` unit upper triangular in the order of rounding: then the error of all
//! columns is `Σ_k D_k ((E M)_k)²`, and column `k` is best rounded at `w_k + Σ_{j<k} e_j M_jk` (Chee et al., 2023,
//! section 4.1). One Cholesky factorisation gives it; GPTQ's inverse is not needed.

use std::ops::Range;

use crate::{
    Grouping, Order,
    panels::{BLOCK, Panels},
};

/// How a Hessian is made fit for work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conditioning {
    /// What is added to the diagonal, in parts of what `damped_by` says.
    pub damping: f64,
    /// What damping is a part of.
    pub damped_by: DampedBy,
    /// The order of the columns.
    pub order: Order,
    /// The groups that share a scale.
    pub grouping: Grouping,
}

/// What damping is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DampedBy {
    /// The mean of the diagonal: inputs that are small count as somewhat larger.
    Mean,
    /// Each number of the diagonal: inputs count as somewhat less correlated, whatever their sizes are. Then nothing
    /// depends on how inputs are scaled.
    Each,
}

/// A matrix that was to be factorised is not positive definite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotPositive;

/// The Hessian of the inputs of some linears, ready to round them.
#[derive(Debug, Clone)]
pub struct Curvature {
    pub(crate) grouping: Grouping,
    /// The columns in the order in which they are rounded.
    pub(crate) columns: Vec<usize>,
    pub(crate) blocks: Vec<Range<usize>>,
    /// `M` above its diagonal, with the block's own rows.
    pub(crate) factor: Panels,
    /// `D`.
    pub(crate) conditional: Vec<f32>,
    /// `H` with damping.
    pub(crate) hessian: Panels,
    /// The diagonal of `H` with damping.
    pub(crate) diagonal: Vec<f32>,
    /// What `H` was divided by.
    unit: f64,
    damping: f64,
    dead: usize,
    plain: bool,
    order: Order,
}

/// What is tried when a Hessian cannot be factorised: damping this many times as strong, and again.
const LADDER: [f64; 4] = [1.0, 10.0, 100.0, 1000.0];

#[expect(clippy::cast_possible_truncation, reason = "rounding is what is wanted")]
fn single(number: f64) -> f32 {
    number as f32
}

impl Curvature {
    /// Conditions the Gram matrix `XᵀX` of the inputs, of which the lower triangle is read, `[width, width]`.
    ///
    /// The order goes by the inputs' energies, each times the one of `sizes` if they are given: with the sums of the squares
    /// of each column's weights it is by what the inputs contribute, however they are scaled.
    ///
    /// `factorise` gives the lower triangular `L` with `L Lᵀ = A` of the lower triangle of `A` in its place. Inputs
    /// that are always zero get the mean of the diagonal, which leaves their weights to themselves. Where the
    /// matrix is not positive definite, damping is strengthened; where that is of no use (it has numbers that are
    /// not finite, or is nothing but zeros), all that is left is rounding each weight for itself.
    ///
    /// # Errors
    /// Fails as `factorise` does, other than by [`NotPositive`].
    ///
    /// # Panics
    /// Panics when `gram` is no square of the grouping's width.
    pub fn of<E>(
        gram: &[f64],
        how: &Conditioning,
        sizes: Option<&[f64]>,
        factorise: impl FnMut(Vec<f64>) -> Result<Result<Vec<f64>, NotPositive>, E>,
    ) -> Result<Self, E> {
        let width = how.grouping.width();
        assert_eq!(gram.len(), width * width, "a square matrix");
        Self::conditioned(|row, column| gram[row * width + column], how, sizes, factorise)
    }

    /// The same for inputs of which each is multiplied with a factor.
    ///
    /// # Errors
    /// As [`Curvature::of`].
    ///
    /// # Panics
    /// Panics as [`Curvature::of`], and when there is not a factor for each input.
    pub fn of_scaled<E>(
        gram: &[f64],
        columns: &[f32],
        how: &Conditioning,
        sizes: Option<&[f64]>,
        factorise: impl FnMut(Vec<f64>) -> Result<Result<Vec<f64>, NotPositive>, E>,
    ) -> Result<Self, E> {
        let width = how.grouping.width();
        assert_eq!(gram.len(), width * width, "a square matrix");
        assert_eq!(columns.len(), width, "a factor for each column");
        let scaled = |row: usize, column: usize| {
            gram[row * width + column] * f64::from(columns[row]) * f64::from(columns[column])
        };
        Self::conditioned(scaled, how, sizes, factorise)
    }

    /// The matrix is given by its lower triangle.
    fn conditioned<E>(
        gram: impl Fn(usize, usize) -> f64,
        how: &Conditioning,
        sizes: Option<&[f64]>,
        mut factorise: impl FnMut(Vec<f64>) -> Result<Result<Vec<f64>, NotPositive>, E>,
    ) -> Result<Self, E> {
        let width = how.grouping.width();
        let energy: Vec<f64> = (0..width).map(|column| gram(column, column)).collect();
        let living = energy.iter().filter(|energy| **energy > 0.0).count();
        #[expect(clippy::cast_precision_loss, reason = "a number of columns")]
        let mean = energy.iter().sum::<f64>() / living.max(1) as f64;
        if !(mean.is_finite() && mean > 0.0) {
            return Ok(Self::plain(how, width - living));
        }
        let columns = match sizes {
            None => how.order.columns(how.grouping, &energy),
            Some(sizes) => {
                assert_eq!(sizes.len(), width, "a size for every column");
                let sized: Vec<_> = energy.iter().zip(sizes).map(|(energy, size)| energy * size).collect();
                how.order.columns(how.grouping, &sized)
            }
        };
        let at = |row: usize, column: usize| {
            let (row, column) = (columns[row], columns[column]);
            if row == column && energy[row] <= 0.0 {
                return 1.0;
            }
            gram(row.max(column), row.min(column)) / mean
        };
        for strength in LADDER {
            let damping = how.damping * strength;
            let added = |place: usize| match how.damped_by {
                DampedBy::Mean => damping,
                DampedBy::Each => damping * at(place, place),
            };
            // The factor of the matrix with its order turned around has the feedback of a column in a column.
            let mut turned = vec![0.0; width * width];
            for (row, numbers) in turned.chunks_exact_mut(width).enumerate() {
                for (column, number) in numbers[..=row].iter_mut().enumerate() {
                    *number = at(width - 1 - row, width - 1 - column);
                }
                numbers[row] += added(width - 1 - row);
            }
            let Ok(factor) = factorise(turned)? else { continue };
            let pivot = |place: usize| factor[(width - 1 - place) * width + (width - 1 - place)];
            if (0..width).any(|place| !(pivot(place).is_finite() && pivot(place) > 0.0)) {
                continue;
            }
            let mut curvature = Self::empty(how, columns.clone());
            for block in &curvature.blocks {
                curvature.factor.push(block.clone(), block.end, |row, column| {
                    if row >= column {
                        return 0.0;
                    }
                    single(factor[(width - 1 - row) * width + (width - 1 - column)] / pivot(column))
                });
            }
            curvature.conditional = (0..width).map(|place| single(pivot(place).powi(2))).collect();
            drop(factor);
            let damped =
                |row: usize, column: usize| single(at(row, column) + if row == column { added(row) } else { 0.0 });
            for block in &curvature.blocks {
                curvature.hessian.push(block.clone(), width, damped);
            }
            curvature.diagonal = (0..width).map(|place| damped(place, place)).collect();
            (curvature.unit, curvature.damping, curvature.dead) = (mean, damping, width - living);
            return Ok(curvature);
        }
        Ok(Self::plain(how, width - living))
    }

    /// For every column, in the order of the original weights, what the square of a rounding error in it costs when all
    /// columns after it make up for it as they can: the variance of the input given the inputs that are rounded later,
    /// `D`, times [`Curvature::unit`].
    #[must_use]
    pub fn conditional_variances(&self) -> Vec<f64> {
        let mut of_columns = vec![0.0; self.columns.len()];
        for (column, conditional) in self.columns.iter().zip(&self.conditional) {
            of_columns[*column] = f64::from(*conditional) * self.unit;
        }
        of_columns
    }

    /// Without any knowledge of the inputs: each weight for itself.
    #[must_use]
    fn plain(how: &Conditioning, dead: usize) -> Self {
        let width = how.grouping.width();
        let mut curvature = Self::empty(how, (0..width).collect());
        for block in &curvature.blocks {
            curvature.factor.push(block.clone(), block.end, |_, _| 0.0);
            curvature.hessian.push(block.clone(), width, |row, column| if row == column { 1.0 } else { 0.0 });
        }
        curvature.conditional = vec![1.0; width];
        curvature.diagonal = vec![1.0; width];
        (curvature.dead, curvature.plain) = (dead, true);
        curvature
    }

    fn empty(how: &Conditioning, columns: Vec<usize>) -> Self {
        let size = how.grouping.size();
        let groups = (0..how.grouping.count()).map(|group| how.grouping.places(group));
        let blocks = groups.flat_map(|group| {
            (group.start..group.end).step_by(BLOCK).map(move |start| start..(start + BLOCK).min(group.end))
        });
        debug_assert!(size > 0, "groups have columns");
        Self {
            grouping: how.grouping,
            columns,
            blocks: blocks.collect(),
            factor: Panels::default(),
            conditional: Vec::new(),
            hessian: Panels::default(),
            diagonal: Vec::new(),
            unit: 1.0,
            damping: 0.0,
            dead: 0,
            plain: false,
            order: how.order,
        }
    }

    /// Inputs that were always zero.
    #[must_use]
    pub fn dead(&self) -> usize {
        self.dead
    }

    /// What was added to the diagonal, in parts of what was asked for.
    #[must_use]
    pub fn damping(&self) -> f64 {
        self.damping
    }

    /// Whether nothing could be learnt from the inputs.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.plain
    }

    /// What the Gram matrix was divided by before it was factorised; losses are multiplied with it again.
    #[must_use]
    pub fn unit(&self) -> f64 {
        self.unit
    }

    /// The column that each row of the matrix stands for that was factorised.
    pub fn factorised(&self) -> impl Iterator<Item = usize> {
        self.columns.iter().rev().copied()
    }

    /// The groups.
    #[must_use]
    pub fn grouping(&self) -> Grouping {
        self.grouping
    }

    /// The group of every column, where that is not simply its place divided by the size of a group.
    #[must_use]
    pub fn listed_groups(&self) -> Option<Vec<u32>> {
        (self.order == Order::Activation).then(|| {
            let mut groups = vec![0; self.columns.len()];
            for (place, &column) in self.columns.iter().enumerate() {
                groups[column] = u32::try_from(place / self.grouping.size()).unwrap_or(u32::MAX);
            }
            groups
        })
    }

    /// Where the file has a group that is rounded at this place.
    pub(crate) fn group_in_file(&self, group: usize) -> usize {
        match self.order {
            Order::Activation => group,
            _ => self.columns[group * self.grouping.size()] / self.grouping.size(),
        }
    }

    /// The block that a column is in, where a group is one, and which of its columns it is.
    pub(crate) fn panel(&self, place: usize) -> (usize, usize) {
        debug_assert!(self.grouping.size() <= BLOCK, "a group is one block");
        (place / self.grouping.size(), place % self.grouping.size())
    }

    /// The blocks of a group.
    pub(crate) fn blocks_of(&self, group: usize) -> Range<usize> {
        let each = self.grouping.size().div_ceil(BLOCK);
        group * each..(group + 1) * each
    }
}
