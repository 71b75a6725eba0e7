//! Which block type each tensor gets at a level: llama.cpp's mixture rules and fallbacks.
//!
//! The rules are those of `llama_tensor_get_type_impl` and `tensor_type_fallback` for the levels that
//! this plugin has; they depend on names, shapes and the order of the file only. It knows no
//! weights and no metadata.

use qhost_plugin_api::sdk::{Failure, Result};

use crate::{
    format::{BlockType, Level},
    types::Types,
};

/// A tensor in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shape<'a> {
    /// Its name in GGUF.
    pub(crate) name: &'a str,
    /// The length of a row.
    pub(crate) row_elements: u64,
    /// Dimensions that are larger than one, at least one.
    pub(crate) dimensions: usize,
}

/// What the rules ask about the model as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ModelFacts {
    /// Number of layers.
    pub(crate) layers: u32,
    /// Query heads for each key/value head, rounded down.
    pub(crate) grouped_heads: u32,
    /// Whether it is one of the sizes that llama.cpp calls 70B.
    pub(crate) is_70b: bool,
    /// Experts of a layer; 0 without any.
    pub(crate) experts: u32,
    /// Whether there is an importance matrix.
    pub(crate) has_importances: bool,
}

/// What the rules chose for a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The type.
    pub(crate) block_type: BlockType,
    /// The type that the mixture wanted, if the row length does not allow it.
    pub(crate) instead_of: Option<BlockType>,
}

/// What a tensor is to the rules, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Category {
    Output,
    Embedding,
    Value,
    Key,
    AttentionOutput,
    Down,
    Other,
}

impl Category {
    /// The order of the tests is the reference's.
    fn of(name: &str) -> Self {
        match name {
            "output.weight" => Self::Output,
            "token_embd.weight" => Self::Embedding,
            // Fused tensors and the latent one are as sensitive as the values in them.
            _ if name.contains("attn_qkv.weight") || name.contains("attn_kv_b.weight") => Self::Value,
            _ if name.contains("attn_v.weight") => Self::Value,
            _ if name.contains("attn_k.weight") => Self::Key,
            _ if name.contains("attn_output.weight") => Self::AttentionOutput,
            _ if name.contains("ffn_down") => Self::Down,
            _ => Self::Other,
        }
    }
}

/// Chooses a type for every tensor; `tensors` has to be in the order of the file, because the rules
/// count. `source` tells the type of floats that the checkpoint has for a tensor, by its place.
///
/// # Errors
/// Fails with kind `UNSUPPORTED` where rows are no whole blocks of the type that the user chose for one tensor.
pub(crate) fn choose(
    level: &Level,
    model: ModelFacts,
    types: &Types,
    tensors: &[Shape<'_>],
    source: &dyn Fn(usize) -> BlockType,
) -> Result<Vec<Choice>> {
    let value_tensors = tensors.iter().filter(|tensor| Category::of(tensor.name) == Category::Value).count();
    let tied = !tensors.iter().any(|tensor| Category::of(tensor.name) == Category::Output);
    let mut mixture = Mixture { level, model, types, tied, value_tensors, values_seen: 0, downs_seen: 0 };
    tensors.iter().enumerate().map(|(place, tensor)| mixture.choose(tensor, &|| source(place))).collect()
}

/// Vectors, norms, what chooses experts, positions, and whatever is no weight stay in F32.
pub(crate) fn stays_f32(tensor: &Shape<'_>) -> bool {
    let kept = ["_norm.weight", "ffn_gate_inp.weight", "position_embd.weight"];
    let name = tensor.name;
    tensor.dimensions < 2 || !name.ends_with("weight") || kept.iter().any(|kept| name.contains(kept))
}

/// The layer that a tensor's name tells.
fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

struct Mixture<'a> {
    level: &'a Level,
    model: ModelFacts,
    types: &'a Types,
    tied: bool,
    value_tensors: usize,
    values_seen: usize,
    downs_seen: usize,
}

impl Mixture<'_> {
    fn choose(&mut self, tensor: &Shape<'_>, source: &dyn Fn() -> BlockType) -> Result<Choice> {
        let as_wanted = |block_type| Choice { block_type, instead_of: None };
        if stays_f32(tensor) {
            return Ok(as_wanted(BlockType::F32));
        }
        if let Some(named) = self.types.of_one(tensor.name, source) {
            // It was chosen for this one tensor, so nothing takes its place.
            return match named.row_bytes(tensor.row_elements) {
                Some(_) => Ok(as_wanted(named)),
                None => Err(no_whole_blocks(tensor, named)),
            };
        }
        let wanted = match self.types.of_pattern(tensor.name) {
            Some(chosen) => chosen,
            None if self.types.pure || self.level.base.block_elements() == 1 => self.level.base,
            None => self.wanted(tensor),
        };
        Ok(match fitting(wanted, tensor.row_elements) {
            fits if fits == wanted => as_wanted(wanted),
            other => Choice { block_type: other, instead_of: Some(wanted) },
        })
    }

    fn wanted(&mut self, tensor: &Shape<'_>) -> BlockType {
        match Category::of(tensor.name) {
            Category::Output => self.output(),
            Category::Embedding if self.tied => self.output(),
            Category::Value => {
                let index = self.values_seen;
                self.values_seen += 1;
                self.value(index)
            }
            Category::Down => {
                // Models with experts have several in some layers, so the layer counts instead.
                let counted = self.downs_seen;
                self.downs_seen += 1;
                let index = if self.model.experts > 1 { layer_of(tensor.name).unwrap_or(counted) } else { counted };
                self.down(index)
            }
            Category::AttentionOutput if self.model.experts == 8 => self.attention_output_of_eight(),
            Category::AttentionOutput => self.attention_output(),
            // Beside eight experts they are so small that they may be large.
            Category::Key if self.model.experts == 8 => BlockType::Q8_0,
            Category::Embedding | Category::Key | Category::Other => self.level.base,
        }
    }

    /// The reference asks for Q8_0 where rows are no whole blocks of the base; Q6_K falls back to it there.
    fn output(&self) -> BlockType {
        let of_level = if self.level.base == BlockType::Q8_0 { BlockType::Q8_0 } else { BlockType::Q6K };
        // Where the embedding is the output, what is said of that holds for it.
        self.types.output.unwrap_or(of_level)
    }

    fn value(&self, index: usize) -> BlockType {
        use BlockType::{Q3K, Q4K, Q5K, Q6K};
        let base = self.level.base;
        let chosen = match self.level.name {
            "Q2_K" if self.model.grouped_heads >= 4 => Q4K,
            "Q2_K" => Q3K,
            "Q3_K_M" if index < 2 => Q5K,
            "Q3_K_M" => Q4K,
            "Q3_K_L" => Q5K,
            "Q4_K_M" | "Q5_K_M" if gets_more_bits(index, self.value_tensors) => Q6K,
            "Q4_K_S" if index < 4 => Q5K,
            "IQ4_NL" | "IQ4_XS" if self.model.grouped_heads >= 4 => Q5K,
            _ => base,
        };
        if self.model.experts == 8 {
            return BlockType::Q8_0;
        }
        // Eight query heads share these values, so they are small and matter more.
        if self.model.is_70b && matches!(chosen, Q3K | Q4K) { Q5K } else { chosen }
    }

    fn down(&self, index: usize) -> BlockType {
        use BlockType::{Q3K, Q4_1, Q4K, Q5_1, Q5K, Q6K};
        let layers = self.model.layers as usize;
        match self.level.name {
            "Q2_K" => Q3K,
            "Q3_K_M" if index < layers / 16 => Q5K,
            "Q3_K_M" => Q4K,
            "Q3_K_L" => Q5K,
            "Q4_K_M" | "Q5_K_M" if gets_more_bits(index, layers) => Q6K,
            "Q4_K_S" if index < layers / 8 => Q5K,
            "IQ4_NL" | "IQ4_XS" if !self.model.has_importances && index < layers / 8 => Q5K,
            // With importances the first layers can go wrong, and without them a minimum would.
            "Q4_0" if self.model.has_importances && index < layers / 8 => Q4_1,
            "Q5_0" if self.model.has_importances && index < layers / 8 => Q5_1,
            _ => self.level.base,
        }
    }

    fn attention_output_of_eight(&self) -> BlockType {
        match self.level.name {
            "Q2_K" | "Q3_K_S" | "Q3_K_M" | "IQ4_NL" | "IQ4_XS" | "Q4_K_S" | "Q4_K_M" => BlockType::Q5K,
            _ => self.level.base,
        }
    }

    fn attention_output(&self) -> BlockType {
        use BlockType::{Q3K, Q4K, Q5K};
        match self.level.name {
            "Q2_K" => Q3K,
            "Q3_K_M" => Q4K,
            "Q3_K_L" => Q5K,
            _ => self.level.base,
        }
    }
}

fn no_whole_blocks(tensor: &Shape<'_>, chosen: BlockType) -> Failure {
    let (row, name) = (tensor.row_elements, chosen.name());
    Failure::unsupported(format!("rows of {row} are no whole blocks of {} for {name}", chosen.block_elements()))
        .about(tensor.name)
        .hint("choose a type of smaller blocks for it, such as Q8_0, or of floats")
}

/// The first and the last eighth of the layers, and every third between.
fn gets_more_bits(index: usize, count: usize) -> bool {
    index < count / 8 || index >= 7 * count / 8 || (index - count / 8) % 3 == 2
}

/// The type itself if rows are whole blocks of it, else the reference's substitute.
fn fitting(wanted: BlockType, row_elements: u64) -> BlockType {
    use BlockType::{F16, IQ4NL, IQ4XS, Q2K, Q3K, Q4_0, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    if wanted.row_bytes(row_elements).is_some() {
        return wanted;
    }
    let smaller = match wanted {
        Q2K | Q3K => Q4_0,
        Q4K => Q5_0,
        Q5K => Q5_1,
        Q6K => Q8_0,
        IQ4XS => IQ4NL,
        other => other,
    };
    if smaller.row_bytes(row_elements).is_some() { smaller } else { F16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen_by(level: &Level, facts: ModelFacts, tensors: &[Shape<'_>]) -> Vec<Choice> {
        choose(level, facts, &Types::default(), tensors, &|_| unreachable!()).unwrap()
    }

    #[test]
    fn sensitive_layers_are_the_reference_s() {
        let picked = |count| (0..count).filter(|&index| gets_more_bits(index, count)).collect::<Vec<_>>();
        assert_eq!(picked(4), [2, 3]);
        assert_eq!(picked(8), [0, 3, 6, 7]);
        assert_eq!(picked(32), [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]);
    }

    #[test]
    fn rows_that_are_no_whole_blocks_get_the_substitute() {
        assert_eq!(fitting(BlockType::Q4K, 256), BlockType::Q4K);
        assert_eq!(fitting(BlockType::Q4K, 64), BlockType::Q5_0);
        assert_eq!(fitting(BlockType::Q3K, 64), BlockType::Q4_0);
        assert_eq!(fitting(BlockType::Q5K, 96), BlockType::Q5_1);
        assert_eq!(fitting(BlockType::Q6K, 96), BlockType::Q8_0);
        assert_eq!(fitting(BlockType::IQ4XS, 96), BlockType::IQ4NL);
        for block_type in [BlockType::Q4_0, BlockType::Q8_0, BlockType::Q6K, BlockType::IQ4NL, BlockType::IQ4XS] {
            assert_eq!(fitting(block_type, 172), BlockType::F16);
        }
    }

    /// The reference asks whether rows are whole blocks of the base; here that is a fallback like others.
    #[test]
    fn the_output_is_stored_as_the_reference_stores_it() {
        let facts = ModelFacts { layers: 1, grouped_heads: 1, is_70b: false, experts: 0, has_importances: false };
        for level in crate::format::LEVELS.iter().filter(|level| level.base.block_elements() > 1) {
            for row_elements in [256, 64, 172] {
                let eight = level.base == BlockType::Q8_0 || level.base.row_bytes(row_elements).is_none();
                let reference = fitting(if eight { BlockType::Q8_0 } else { BlockType::Q6K }, row_elements);
                let tensors = [Shape { name: "output.weight", row_elements, dimensions: 2 }];
                let chosen = &chosen_by(level, facts, &tensors)[0];
                assert_eq!(chosen.block_type, reference, "{} {row_elements}", level.name);
            }
        }
    }

    #[test]
    fn importances_change_the_first_layers_of_four_levels() {
        let names: Vec<_> = (0..17).map(|layer| format!("blk.{layer}.ffn_down.weight")).collect();
        let tensors: Vec<_> = names.iter().map(|name| Shape { name, row_elements: 256, dimensions: 2 }).collect();
        for level in crate::format::LEVELS.iter().filter(|level| level.base.block_elements() > 1) {
            let chosen = |has_importances| {
                let facts = ModelFacts { layers: 17, grouped_heads: 1, is_70b: false, experts: 0, has_importances };
                chosen_by(level, facts, &tensors).into_iter().map(|choice| choice.block_type).collect::<Vec<_>>()
            };
            let mut expected = chosen(false);
            match level.name {
                "Q4_0" => expected[..2].fill(BlockType::Q4_1),
                "Q5_0" => expected[..2].fill(BlockType::Q5_1),
                "IQ4_NL" | "IQ4_XS" => {
                    assert_eq!(expected[..3], [BlockType::Q5K, BlockType::Q5K, level.base]);
                    expected.fill(level.base);
                }
                _ => {}
            }
            assert_eq!(chosen(true), expected, "{}", level.name);
        }
    }

    #[test]
    fn vectors_and_norms_stay_in_f32_at_every_level() {
        for level in &crate::format::LEVELS {
            let tensors = [
                Shape { name: "blk.0.attn_norm.weight", row_elements: 256, dimensions: 1 },
                Shape { name: "blk.0.attn_q.bias", row_elements: 256, dimensions: 1 },
                Shape { name: "blk.0.attn_q_norm.weight", row_elements: 256, dimensions: 2 },
            ];
            let facts = ModelFacts { layers: 1, grouped_heads: 1, is_70b: false, experts: 0, has_importances: false };
            assert!(chosen_by(level, facts, &tensors).iter().all(|choice| choice.block_type == BlockType::F32));
        }
    }
}
