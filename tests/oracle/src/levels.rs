//! A file of every level that llama.cpp can write.

use std::collections::BTreeMap;
use std::path::Path;

use crate::{Gguf, Recipe, Result, quantize_file};

/// A level of llama.cpp: a name for it, and how it is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Level {
    /// The name that `llama-quantize` has for it.
    pub name: &'static str,
    /// A number of `enum llama_ftype`.
    pub file_type: u32,
    /// Whether the level is made with importances; without them llama.cpp refuses most of these, and takes another mixture
    /// for the others.
    pub importances: bool,
    /// Whether its own type is asked for everywhere: files of `MXFP4_MOE` have it in experts alone otherwise.
    pub pure: bool,
}

/// Every level, by number. There is a number for NVFP4 as well, which llama.cpp reads and does not write.
pub const LEVELS: [Level; 35] = [
    level("F32", 0),
    level("F16", 1),
    level("Q4_0", 2),
    level("Q4_1", 3),
    level("Q8_0", 7),
    level("Q5_0", 8),
    level("Q5_1", 9),
    level("Q2_K", 10),
    level("Q3_K_S", 11),
    level("Q3_K_M", 12),
    level("Q3_K_L", 13),
    level("Q4_K_S", 14),
    level("Q4_K_M", 15),
    level("Q5_K_S", 16),
    level("Q5_K_M", 17),
    level("Q6_K", 18),
    weighted("IQ2_XXS", 19),
    weighted("IQ2_XS", 20),
    weighted("Q2_K_S", 21),
    weighted("IQ3_XS", 22),
    weighted("IQ3_XXS", 23),
    weighted("IQ1_S", 24),
    level("IQ4_NL", 25),
    level("IQ3_S", 26),
    level("IQ3_M", 27),
    weighted("IQ2_S", 28),
    weighted("IQ2_M", 29),
    level("IQ4_XS", 30),
    weighted("IQ1_M", 31),
    level("BF16", 32),
    level("TQ1_0", 36),
    level("TQ2_0", 37),
    Level { pure: true, ..level("MXFP4_MOE", 38) },
    level("Q1_0", 40),
    level("Q2_0", 41),
];

const fn level(name: &'static str, file_type: u32) -> Level {
    Level { name, file_type, importances: false, pure: false }
}

const fn weighted(name: &'static str, file_type: u32) -> Level {
    Level { importances: true, ..level(name, file_type) }
}

impl Level {
    /// The level of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        LEVELS.into_iter().find(|level| level.name.eq_ignore_ascii_case(name))
    }

    /// Makes a file of the level from one of floats.
    ///
    /// # Errors
    /// Fails if llama.cpp does.
    pub fn quantize(&self, input: &Path, output: &Path) -> Result<()> {
        let mut recipe = Recipe::new(self.file_type);
        recipe.pure = self.pure;
        if self.importances {
            recipe.importances = importances(&Gguf::open(input)?);
        }
        quantize_file(input, output, &recipe)
    }
}

/// Importances that are as uneven as real ones, and mean nothing.
fn importances(file: &Gguf) -> BTreeMap<String, Vec<f32>> {
    let mut state = 1_u32;
    let mut draw = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let uniform = f32::from(state.to_be_bytes()[0]) / 255.0;
        (4.0 * uniform - 2.0).exp()
    };
    let matrices = file.tensors.iter().filter(|tensor| tensor.dims.len() > 1);
    let columns = |dims: &[u64]| dims[0] * dims.get(2).copied().unwrap_or(1);
    matrices.map(|tensor| (tensor.name.clone(), (0..columns(&tensor.dims)).map(|_| draw()).collect())).collect()
}
