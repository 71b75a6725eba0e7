//! How important the columns of tensors are: llama.cpp's importance matrix, from the activations that the
//! host gathers, or from a file.
//!
//! It follows `llama-imatrix`, which records for every matrix of a block the sum of squares of each column
//! of its input, and `llama-quantize`, which divides that by the number of tokens. Neither the head nor the
//! embedding has an entry, and an expert that saw no token has a one in every column. It knows no blocks and
//! no files.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub(crate) mod file;
pub(crate) mod saved;

use qhost_plugin_api::{
    documents::{CalibrationData, InputGroup, Model, RoleKind, Statistic, StatisticsNeed},
    sdk::{Failure, Result, UnitHandle},
};

use file::Matrix;

use crate::{
    arrange::Origin,
    items::{Content, Item},
    metadata::Metadata,
};

/// What stands for the name of the file that `llama-quantize` would have been given.
const COMPUTED: &str = "auto";

/// What the matrices of a tensor are multiplied with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Input {
    /// The linears that share it.
    group: InputGroup,
    /// The number of experts, each of which has an input of its own.
    experts: Option<u32>,
}

impl Input {
    /// The input of a tensor that is a matrix of a block.
    ///
    /// Latent keys and values have none here. llama.cpp multiplies them with queries and with sums over
    /// the cache, head by head, which is not what the checkpoint's one matrix is multiplied with.
    pub(crate) fn of(item: &Item, model: &Model) -> Option<Self> {
        let Content::Weights { origin: Origin { tensors, .. }, .. } = &item.content else { return None };
        let kind = &model.tensors.get(usize::try_from(*tensors.first()?).ok()?)?.role.kind;
        if !item.name.starts_with("blk.") || !item.name.ends_with(".weight") || *kind == RoleKind::AttentionKvB {
            return None;
        }
        let group = InputGroup::of(kind)?;
        let experts = match item.shape.as_slice() {
            [experts, _, _] => Some(u32::try_from(*experts).ok()?),
            _ => None,
        };
        Some(Self { group, experts })
    }

    /// What the head is multiplied with, of which an importance matrix has no entry.
    pub(crate) fn of_head() -> Self {
        Self { group: InputGroup::OutputIn, experts: None }
    }

    /// The linears that share it.
    pub(crate) fn group(&self) -> &InputGroup {
        &self.group
    }

    /// Whether each expert has one.
    pub(crate) fn is_of_experts(&self) -> bool {
        self.experts.is_some()
    }

    /// How many matrices of a tensor have one each.
    pub(crate) fn matrices(&self) -> u64 {
        self.experts.unwrap_or(1).max(1).into()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        let experts = self.experts.map_or(vec![None], |experts| (0..experts).map(Some).collect());
        experts.into_iter().map(|expert| (self.group.clone(), expert))
    }
}

/// An input: its group, and the expert where each has its own.
pub(crate) type Key = (InputGroup, Option<u32>);

/// What a plan has to ask for these inputs of a unit.
pub(crate) fn needs<'a>(inputs: impl Iterator<Item = &'a Input>) -> Vec<StatisticsNeed> {
    let groups: BTreeSet<_> = inputs.map(|input| &input.group).collect();
    groups.into_iter().map(|group| StatisticsNeed::new(group.clone(), vec![Statistic::MeanSquare])).collect()
}

/// The memory that the statistics of some inputs take, each given with its columns.
pub(crate) fn memory<'a>(inputs: impl Iterator<Item = (&'a Input, u64)>) -> u64 {
    let all: BTreeMap<Key, u64> =
        inputs.flat_map(|(input, columns)| input.keys().map(move |key| (key, columns))).collect();
    // The sums, and their quotients.
    all.values().fold(0, |sum, columns| sum.saturating_add(columns.saturating_mul(4 + 4)))
}

/// Appends the keys by which `llama-quantize` tells of an importance matrix.
///
/// # Errors
/// Fails when a key is there already.
pub(crate) fn push_keys(metadata: &mut Metadata, entries: usize, data: Option<&CalibrationData>) -> Result<()> {
    let rows = data.map(|data| data.rows).filter(|rows| *rows > 0);
    push_all(metadata, COMPUTED, data.map(|data| data.source.as_str()), entries, rows)
}

/// The same of a file that was read, which has this name.
///
/// # Errors
/// Fails when a key is there already.
pub(crate) fn push_keys_of_file(metadata: &mut Metadata, name: &str, matrix: &Matrix) -> Result<()> {
    // Where it lies is nobody's affair.
    let name = name.rsplit(['/', '\\']).next().unwrap_or(name);
    push_all(metadata, cut(name), matrix.dataset.as_deref(), matrix.len(), matrix.chunks)
}

fn push_all(
    metadata: &mut Metadata,
    file: &str,
    dataset: Option<&str>,
    entries: usize,
    chunks: Option<u32>,
) -> Result<()> {
    metadata.push("quantize.imatrix.file", file)?;
    if let Some(dataset) = dataset {
        metadata.push("quantize.imatrix.dataset", cut(dataset))?;
    }
    metadata.push("quantize.imatrix.entries_count", u32::try_from(entries).unwrap_or(u32::MAX))?;
    chunks.map_or(Ok(()), |chunks| metadata.push("quantize.imatrix.chunks_count", chunks))
}

/// The reference has room for this many bytes of a text.
pub(crate) fn cut(text: &str) -> &str {
    let end = (0..=127.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

/// What was gathered for one input.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Gathered {
    /// The sum of squares of every column.
    pub(crate) sums: Vec<f32>,
    /// The number of tokens.
    pub(crate) count: f32,
    /// The importance of every column.
    pub(crate) columns: Vec<f32>,
}

impl Gathered {
    /// As `llama-quantize` takes it from sums and counts in `f32`, which is how `llama-imatrix` saves them.
    pub(crate) fn new(means: &[f32], tokens: u64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "the reference counts in `f32`, too")]
        let count = tokens as f32;
        let sums: Vec<_> = means.iter().map(|mean| mean * count).collect();
        let columns = sums.iter().map(|sum| if count > 0.0 { sum / count } else { 1.0 }).collect();
        Self { sums, count, columns }
    }
}

/// The statistics of a unit, as far as they were asked for.
#[derive(Debug, Default)]
pub(crate) struct Statistics {
    gathered: BTreeMap<Key, Arc<Gathered>>,
}

impl Statistics {
    /// What was gathered for each matrix of a tensor with rows of so many columns.
    ///
    /// # Errors
    /// Fails when the host cannot answer, and when a sum is no finite number.
    pub(crate) fn of(&mut self, io: &UnitHandle, input: &Input, columns: u64) -> Result<Vec<Arc<Gathered>>> {
        input.keys().map(|key| self.of_one(io, key, columns)).collect()
    }

    fn of_one(&mut self, io: &UnitHandle, key: Key, columns: u64) -> Result<Arc<Gathered>> {
        if let Some(known) = self.gathered.get(&key) {
            return Ok(Arc::clone(known));
        }
        let answer = io.statistic(key.0.clone(), Statistic::MeanSquare, key.1)?;
        let mut means = Vec::new();
        io.rows(answer.tensor, 0, 1)?.widen(&mut means)?;
        if means.len() as u64 != columns {
            let message = format!("a statistic of {} has {} columns, not {columns}", key.0, means.len());
            return Err(Failure::internal(message));
        }
        let gathered = Gathered::new(&means, answer.tokens);
        if gathered.sums.iter().any(|sum| !sum.is_finite()) {
            return Err(Failure::unsupported(format!("the squares of its input ({}) are too large for f32", key.0))
                .about("--imatrix auto")
                .hint("quantise without --imatrix"));
        }
        let gathered = Arc::new(gathered);
        self.gathered.insert(key, Arc::clone(&gathered));
        Ok(gathered)
    }
}

#[cfg(test)]
mod tests {
    use qhost_plugin_api::documents::{Role, SourceTensor};

    use super::*;

    fn model(kind: RoleKind) -> Model {
        let mut model = Model::new("m", "f");
        model.tensors = vec![SourceTensor::new("t", Role::weight(kind), 1, "F32", vec![4, 8])];
        model
    }

    fn item(name: &str, shape: &[u64]) -> Item {
        let content = Content::Weights { unit: 1, origin: Origin::plain(0) };
        Item { name: name.into(), shape: shape.into(), content }
    }

    #[test]
    fn matrices_of_blocks_have_inputs_and_nothing_else_has() {
        let input = |name: &str, shape: &[u64], kind| Input::of(&item(name, shape), &model(kind));
        let ffn = |experts| Some(Input { group: InputGroup::FfnIn, experts });
        assert_eq!(input("blk.0.ffn_up.weight", &[4, 8], RoleKind::FfnUp), ffn(None));
        assert_eq!(input("blk.0.ffn_up_exps.weight", &[3, 4, 8], RoleKind::FfnUp), ffn(Some(3)));
        assert_eq!(input("blk.0.ffn_up.bias", &[4], RoleKind::FfnUp), None);
        assert_eq!(input("blk.0.attn_k_b.weight", &[2, 4, 8], RoleKind::AttentionKvB), None);
        assert_eq!(input("blk.0.ffn_norm.weight", &[8], RoleKind::FfnNorm), None);
        assert_eq!(input("output.weight", &[4, 8], RoleKind::Output), None);
        assert_eq!(input("token_embd.weight", &[4, 8], RoleKind::TokenEmbedding), None);
    }

    #[test]
    fn an_input_is_asked_for_once() {
        let gate = Input { group: InputGroup::FfnIn, experts: Some(3) };
        let down = Input { group: InputGroup::FfnMid, experts: Some(3) };
        assert_eq!(needs([&gate, &gate, &down].into_iter()).len(), 2);
        assert_eq!(memory([(&gate, 8), (&gate, 8), (&down, 16)].into_iter()), 8 * 3 * (8 + 16));
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"x".repeat(200)).len(), 127);
        assert_eq!(cut(&format!("{}ü", "x".repeat(126))), "x".repeat(126));
    }

    #[test]
    fn an_expert_without_tokens_weighs_all_columns_alike() {
        assert_eq!(Gathered::new(&[0.0, 0.0], 0).columns, [1.0, 1.0]);
        let gathered = Gathered::new(&[0.5, 0.0], 6);
        assert_eq!((gathered.sums, gathered.count, gathered.columns), (vec![3.0, 0.0], 6.0, vec![0.5, 0.0]));
    }
}
