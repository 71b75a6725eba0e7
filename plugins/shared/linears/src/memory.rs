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
    let square = modules.iter().map(|module| module.columns * module.columns).max().unwrap_or(0);
    // While a Hessian is made ready there is the matrix, then its factor with what rounding reads; in between it is
    // the arithmetic's.
    let (conditioning, conditioned, factor) = (14 * square, 6 * square, 8 * square);
    // The weights and what stands for them, codes, and what packing takes.
    let targets = modules.iter().filter(|_| corrects).map(|module| difference::memory(module.rows, module.columns));
    let (target, of_target) = targets.fold((0, 0), |most: (u64, u64), one| (most.0.max(one.0), most.1.max(one.1)));
    let of_module = |module: &&Module| module.weights() * 5 + module.rows * module.groups() * 3 + packing(module);
    let largest = modules.iter().map(of_module).max().unwrap_or(0);
    // Tensors with several modules are kept until all of them are there.
    let split: u64 = modules.iter().filter(|module| module.expert.is_some()).map(|module| module.weights() * 4).sum();
    // With targets the factor stays while modules are rounded.
    let own = conditioning.max(conditioned + largest + target).saturating_add(split);
    (own.max(taken), factor + of_target)
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
