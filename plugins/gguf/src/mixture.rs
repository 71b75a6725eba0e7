//! Types for all tensors, so that the file is within a size and least is lost.
//!
//! Every tensor that a level would quantise gets one of a list of types; what the user says of single tensors holds.
//! What counts is the relative error of each tensor's output (of its weights, where nothing is known of its inputs), times
//! how much the model's answers change for such an error there. The first is measured for each type in [`crate::survey`],
//! and guessed before; the second is a matter of what the tensor is. It knows sizes and losses.

use std::collections::BTreeMap;

use qhost_budget::{Candidate, Size, bits_per_weight, choose};
use qhost_ggml::BlockType;
use qhost_plugin_api::sdk::{Failure, Result};

use crate::{
    format::{LEVELS, Level},
    items::Item,
    recipe::{Choice, stays_f32},
    survey::Losses,
    types::Types,
    write::align,
};

/// The types that are mixed where the user names none. Of as many bits these lose least.
pub(crate) const MIXED: [BlockType; 10] = [
    BlockType::Q2K,
    BlockType::Q3K,
    BlockType::IQ4XS,
    BlockType::IQ4NL,
    BlockType::Q4K,
    BlockType::Q5_0,
    BlockType::Q5_1,
    BlockType::Q5K,
    BlockType::Q6K,
    BlockType::Q8_0,
];

/// How much an error of a tensor changes the answers, by a part of its name, beside the same relative error of the head;
/// those of layers in a model of one layer.
///
/// Measured, about: the divergence of the answers over the squared error, with one tensor after the other in 3 or 4 bits and
/// all others in 16, of two trained llamas of 4 and 5 layers, for which they are 0.9 and 6 for the head. Within a model it is
/// nearly the same in all layers. That each of many layers adds less to the stream is taken for granted.
const WEIGHTS: [(&str, f64); 9] = [
    ("attn_qkv", 0.2),
    ("attn_q", 0.09),
    ("attn_k", 0.2),
    ("attn_v", 0.2),
    ("attn_output", 0.1),
    ("ffn_gate", 0.4),
    ("ffn_up", 0.3),
    ("ffn_down", 0.4),
    ("", 0.2),
];

/// The same of the embedding, which every layer reads.
const WEIGHT_OF_EMBEDDING: f64 = 0.4;

fn weight(name: &str, tied: bool, layers: u32) -> f64 {
    match name {
        "output.weight" => 1.0,
        "token_embd.weight" if tied => 1.0 + WEIGHT_OF_EMBEDDING,
        "token_embd.weight" => WEIGHT_OF_EMBEDDING,
        name => {
            let known = WEIGHTS.iter().find(|(part, _)| name.contains(part));
            known.map_or(0.0, |(_, weight)| weight / f64::from(layers.max(1)))
        }
    }
}

/// The choice that is to be made.
#[derive(Debug, Clone)]
pub(crate) struct Mixture {
    /// The most bytes of the file.
    pub(crate) limit: u64,
    /// The level's name: `4.5bpw`.
    pub(crate) name: String,
    /// The option that says the size.
    flag: &'static str,
    parameters: u64,
    /// Of every tensor its types, in order; one where there is no choice.
    tensors: Vec<Tensor>,
}

#[derive(Debug, Clone)]
struct Tensor {
    name: String,
    weights: u64,
    types: Vec<BlockType>,
    bytes: Vec<u64>,
    losses: Vec<f64>,
    /// How much a loss counts.
    weight: f64,
}

impl Mixture {
    /// The choice for a model's tensors; `source` tells the type of floats that the checkpoint has for one.
    ///
    /// # Errors
    /// Fails with kind `UNSUPPORTED` where a type that the user chose does not fit.
    pub(crate) fn new(
        size: Size,
        (parameters, layers): (u64, u32),
        items: &[Item],
        (types, mixed): (&Types, &[BlockType]),
        source: &dyn Fn(usize) -> BlockType,
    ) -> Result<Self> {
        let tied = !items.iter().any(|item| item.name == "output.weight");
        let tensors = items.iter().enumerate().map(|(place, item)| {
            let columns = item.shape.last().copied().unwrap_or(1);
            let weights = item.shape.iter().product::<u64>();
            let fits = |block_type: &BlockType| block_type.row_bytes(columns).is_some();
            let of_one = types.of_one(&item.name, &|| source(place)).or_else(|| types.of_pattern(&item.name));
            let of_output = types.output.filter(|_| tied && item.name == "token_embd.weight");
            let mut possible = match of_one.or(of_output) {
                _ if stays_f32(&item.into()) => vec![BlockType::F32],
                Some(chosen) if fits(&chosen) => vec![chosen],
                Some(chosen) => {
                    let message = format!("rows of {columns} are no whole blocks for {}", chosen.name());
                    return Err(Failure::unsupported(message).about(&*item.name).hint("choose another type for it"));
                }
                None => mixed.iter().copied().filter(fits).collect(),
            };
            if possible.is_empty() {
                possible.push(source(place));
            }
            let bytes = |block_type: &BlockType| {
                let row = block_type.row_bytes(columns)?;
                align(row.checked_mul(weights / columns.max(1))?)
            };
            let bytes = possible.iter().map(bytes).collect::<Option<Vec<_>>>();
            let bytes = bytes.ok_or_else(|| Failure::unsupported("it would be too long").about(&*item.name))?;
            let losses = possible.iter().map(|block_type| block_type.expected_error().powi(2)).collect();
            let weight = weight(&item.name, tied, layers);
            Ok(Tensor { name: item.name.clone(), weights, types: possible, bytes, losses, weight })
        });
        let (limit, name, flag) = (size.bytes(parameters), size.name(parameters), size.flag());
        Ok(Self { limit, name, flag, parameters, tensors: tensors.collect::<Result<_>>()? })
    }

    /// Takes what was measured in the place of guesses.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` where something was not measured.
    pub(crate) fn take(&mut self, measured: &Losses) -> Result<()> {
        for tensor in self.tensors.iter_mut().filter(|tensor| tensor.types.len() > 1) {
            let losses = tensor.types.iter().map(|block_type| {
                let loss = measured.get(&tensor.name).and_then(|of_tensor| of_tensor.get(block_type.name()));
                loss.copied().ok_or_else(|| {
                    Failure::corrupt(format!("the survey tells nothing of {}", block_type.name())).about(&*tensor.name)
                })
            });
            tensor.losses = losses.collect::<Result<_>>()?;
        }
        Ok(())
    }

    /// The types among which a tensor has a choice; none where there is none.
    pub(crate) fn types_of(&self, name: &str) -> Option<&[BlockType]> {
        self.tensor(name).map(|tensor| tensor.types.as_slice()).filter(|types| types.len() > 1)
    }

    /// What is lost with each of its types.
    pub(crate) fn losses_of(&self, name: &str) -> impl Iterator<Item = (BlockType, f64)> {
        let tensor = self.tensor(name).filter(|tensor| tensor.types.len() > 1);
        tensor.into_iter().flat_map(|tensor| tensor.types.iter().copied().zip(tensor.losses.iter().copied()))
    }

    fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// The types with which all data together have at most `room` bytes.
    ///
    /// # Errors
    /// Fails with kind `UNSUPPORTED` when the smallest have more. `around` are the bytes of the file beside them.
    pub(crate) fn settle(&self, room: u64, around: u64) -> Result<Vec<Choice>> {
        let all: Vec<_> = self
            .tensors
            .iter()
            .map(|tensor| {
                let each = tensor.bytes.iter().zip(&tensor.losses);
                each.map(|(bytes, loss)| Candidate { bytes: *bytes, loss: loss * tensor.weight }).collect::<Vec<_>>()
            })
            .collect();
        let picks = choose(&all, room).ok_or_else(|| self.not_to_be_had(around))?;
        let chosen = self.tensors.iter().zip(picks);
        Ok(chosen.map(|(tensor, pick)| Choice { block_type: tensor.types[pick], instead_of: None }).collect())
    }

    fn not_to_be_had(&self, around: u64) -> Failure {
        let ends: [fn(&Tensor) -> Option<&u64>; 2] =
            [|tensor| tensor.bytes.iter().min(), |tensor| tensor.bytes.iter().max()];
        let [least, most] = ends.map(|end| around + self.tensors.iter().filter_map(end).sum::<u64>());
        let size = |bytes| format!("{bytes} bytes ({} bits per weight)", bits_per_weight(bytes, self.parameters));
        Failure::unsupported(format!("a file of at most {} bytes is not to be had", self.limit))
            .about(self.flag)
            .hint(format!("with these types this model takes between {} and {}", size(least), size(most)))
    }

    /// The level whose type most of the weights have: its number tells llama.cpp what the file is, about.
    pub(crate) fn nearest(&self, chosen: &[Choice]) -> &'static Level {
        let mut weights: BTreeMap<BlockType, u64> = BTreeMap::new();
        for (tensor, choice) in self.tensors.iter().zip(chosen).filter(|(tensor, _)| tensor.types.len() > 1) {
            *weights.entry(choice.block_type).or_default() += tensor.weights;
        }
        let most = weights.into_iter().max_by_key(|(_, weights)| *weights).map(|(block_type, _)| block_type);
        let found = most.and_then(|most| LEVELS.iter().find(|level| level.base == most));
        found.unwrap_or(&LEVELS[LEVELS.len() - 1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{arrange::Origin, items::Content};

    fn item(name: &str, shape: &[u64]) -> Item {
        Item { name: name.into(), shape: shape.into(), content: Content::Weights { unit: 0, origin: Origin::plain(0) } }
    }

    fn mixture(types: &Types, limit: u64) -> Mixture {
        let items = [
            item("output.weight", &[512, 256]),
            item("blk.0.attn_norm.weight", &[256]),
            item("blk.0.attn_v.weight", &[64, 256]),
            item("blk.0.ffn_down.weight", &[256, 96]),
            item("blk.0.ffn_up.weight", &[4, 33]),
        ];
        Mixture::new(Size::Bytes(limit), (1 << 18, 1), &items, (types, &MIXED), &|_| BlockType::BF16).unwrap()
    }

    fn chosen(mixture: &Mixture, room: u64) -> Vec<&'static str> {
        mixture.settle(room, 0).unwrap().iter().map(|choice| choice.block_type.name()).collect()
    }

    #[test]
    fn the_head_gets_more_bits_than_one_of_many_layers() {
        let items = [item("output.weight", &[512, 256]), item("blk.0.ffn_up.weight", &[512, 256])];
        let types = Types::default();
        let source = |_: usize| BlockType::BF16;
        let mixture = Mixture::new(Size::Bytes(1 << 20), (1 << 18, 32), &items, (&types, &MIXED), &source).unwrap();
        // Room for Q4_K twice.
        assert_eq!(chosen(&mixture, 2 * 512 * 144), ["Q5_K", "Q3_K"]);
    }

    #[test]
    fn what_cannot_be_quantised_stays() {
        let mixture = mixture(&Types::default(), 1 << 20);
        let names = chosen(&mixture, 90_000);
        assert_eq!((names[1], names[4]), ("F32", "BF16"));
        // Rows of 96 are no super-blocks.
        assert_eq!(
            mixture.types_of("blk.0.ffn_down.weight").unwrap(),
            [BlockType::IQ4NL, BlockType::Q5_0, BlockType::Q5_1, BlockType::Q8_0]
        );
        assert_eq!(mixture.types_of("blk.0.ffn_up.weight"), None);
        assert_eq!(chosen(&mixture, u64::MAX), ["Q8_0", "F32", "Q8_0", "Q8_0", "BF16"]);
    }

    #[test]
    fn what_the_user_says_of_a_tensor_holds() {
        let mut types = Types::default();
        types.add_pattern("attn_v=Q2_K").unwrap();
        types.output = Some(BlockType::Q6K);
        assert_eq!(chosen(&mixture(&types, 1 << 20), u64::MAX), ["Q6_K", "F32", "Q2_K", "Q8_0", "BF16"]);
    }

    #[test]
    fn a_size_that_is_too_small_is_refused_with_what_is_possible() {
        let failure = mixture(&Types::default(), 1000).settle(1000, 100).unwrap_err();
        assert!(failure.message.contains("1000 bytes") && failure.hint.contains("between"), "{failure:?}");
    }

    #[test]
    fn measured_losses_count() {
        let mut mixture = mixture(&Types::default(), 1 << 20);
        let all = |loss: f64| MIXED.iter().map(|kind| (kind.name().to_owned(), loss)).collect();
        let mut measured: Losses =
            [("output.weight".to_owned(), all(0.0)), ("blk.0.attn_v.weight".to_owned(), all(0.0))].into();
        assert!(mixture.take(&measured).is_err());
        measured.insert("blk.0.ffn_down.weight".into(), all(0.0));
        mixture.take(&measured).unwrap();
        // Nothing is gained by any bit.
        assert_eq!(chosen(&mixture, u64::MAX), ["Q2_K", "F32", "Q2_K", "IQ4_NL", "BF16"]);
        assert_eq!(mixture.nearest(&mixture.settle(u64::MAX, 0).unwrap()).name, "Q2_K");
    }
}
