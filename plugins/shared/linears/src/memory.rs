//! What making the modules of a unit takes of memory.

use qhost_rounding::TILE;

use crate::{Module, difference, taken};

/// Memory that a unit with these modules takes, and what of it is asked for by whoever computes for it; packing a
/// module takes so much beside its codes.
#[must_use]
pub fn memory(modules: &[&Module], corrects: bool, packing: fn(&Module) -> u64) -> (u64, u64) {
    let taken = modules.iter().filter(|module| module.taken.is_some());
    let taken = taken.map(|module| taken::memory(module) + packing(module)).max().unwrap_or(0);
    let modules: Vec<&Module> = modules.iter().copied().filter(|module| module.taken.is_none()).collect();
    let hessian = Conditioning::of(modules.iter().map(|module| module.columns).max().unwrap_or(0));
    // The weights and what stands for them, codes, and what packing takes.
    let sizes = modules.iter().filter(|_| corrects).map(|module| (module.rows, module.columns));
    let targets = Targets::of(sizes);
    let of_module = |module: &&Module| module.weights() * 5 + module.rows * module.groups() * 3 + packing(module);
    let largest = modules.iter().map(of_module).max().unwrap_or(0);
    // Tensors with several modules are kept until all of them are there.
    let split: u64 = modules.iter().filter(|module| module.expert.is_some()).map(|module| module.weights() * 4).sum();
    // With targets the factor stays while modules are rounded.
    let own = hessian.before.max(hessian.after + largest + targets.own).saturating_add(split);
    (own.max(taken), hessian.arithmetic + targets.arithmetic)
}

/// Memory that a Hessian takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conditioning {
    /// While it is made ready: the matrix, then its factor with what rounding reads.
    pub before: u64,
    /// When it is ready.
    pub after: u64,
    /// In between, asked for by whoever computes.
    pub arithmetic: u64,
}

impl Conditioning {
    /// That of inputs of so many columns.
    #[must_use]
    pub fn of(columns: u64) -> Self {
        let square = columns.saturating_mul(columns);
        Self {
            before: square.saturating_mul(14),
            after: square.saturating_mul(6),
            arithmetic: square.saturating_mul(8),
        }
    }
}

/// Memory that making targets takes ([`Difference`](crate::Difference)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Targets {
    /// Of whoever asks.
    pub own: u64,
    /// Of whoever computes.
    pub arithmetic: u64,
}

impl Targets {
    /// The most that one of some matrices takes, given by rows and columns.
    #[must_use]
    pub fn of(matrices: impl Iterator<Item = (u64, u64)>) -> Self {
        matrices.map(|(rows, columns)| difference::memory(rows, columns)).fold(Self::default(), |most, one| Self {
            own: most.own.max(one.0),
            arithmetic: most.arithmetic.max(one.1),
        })
    }
}

/// Memory that every thread takes beside that.
#[must_use]
pub fn memory_per_thread(modules: &[&Module]) -> u64 {
    // Weights, codes and errors of a tile in floats, and the tile once more as it comes out.
    let of_module = |module: &&Module| match module.taken {
        Some(_) => taken::memory_per_thread(module),
        None => module.columns * TILE as u64 * (3 * 4 + 1 + 4),
    };
    modules.iter().map(of_module).max().unwrap_or(0)
}
