//! All tensors of a unit that are rounded under the Hessian of their inputs, in the order of the data flow.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use qhost_linears::{Calibration, Difference, Inputs, Sums, conditioned, curvature, gram_of, metric, share, tell};
use qhost_plugin_api::{
    documents::{InputGroup, Model, Statistic, StatisticsAnswer},
    sdk::{Failure, Result, UnitHandle},
};
use qhost_rounding::{Conditioning, DampedBy, Scheme, arrangement};

use super::{
    matrix::{How, Matrix, importances},
    readers::Readers,
    scheme,
    substitutes::Substitutes,
};
use crate::{
    arrange::in_memory,
    importance::{Gathered, Input},
    rows::Source,
};

/// A tensor to be made: its segment, its name in the file, and how it is made.
pub(crate) type Named<'a> = (u32, &'a str, &'a Source);

/// How tensors are rounded.
#[derive(Debug, Clone)]
pub(crate) struct Rounding {
    pub(crate) calibration: Calibration,
    /// What reads the embedding first.
    pub(crate) readers: Readers,
}

/// Makes some tensors of a unit.
pub(crate) fn make_unit(io: &UnitHandle, model: &Model, rounding: &Rounding, tensors: &[Named<'_>]) -> Result<()> {
    let mut groups: BTreeMap<InputGroup, Vec<Named<'_>>> = BTreeMap::new();
    for &(segment, name, source) in tensors {
        match &source.input {
            Some(input) => groups.entry(input.group().clone()).or_default().push((segment, name, source)),
            None => make_embedding(io, rounding, (segment, name, source))?,
        }
    }
    for (group, of_group) in groups {
        make_group(io, model, rounding, &group, &of_group)?;
    }
    Ok(())
}

/// Makes the tensors that share an input, expert by expert where each has its own.
fn make_group(
    io: &UnitHandle,
    model: &Model,
    rounding: &Rounding,
    group: &InputGroup,
    tensors: &[Named<'_>],
) -> Result<()> {
    let sources: Vec<_> = tensors.iter().map(|(_, _, source)| *source).collect();
    let mut substitutes = (*group != InputGroup::OutputIn).then(|| Substitutes::of(model, &sources));
    let keys = sources.iter().filter_map(|source| source.input.as_ref()).flat_map(Input::keys);
    let experts: BTreeSet<Option<u32>> = keys.map(|(_, expert)| expert).collect();
    let is_of_experts = |source: &Source| source.input.as_ref().is_some_and(Input::is_of_experts);
    let (mut shares, mut few) = (Shares::default(), Vec::new());
    for expert in experts {
        let of_expert = tensors.iter().filter(|(_, _, source)| is_of_experts(source) == expert.is_some());
        let matrices = of_expert.map(|(segment, name, source)| {
            let rows = source.rows / source.matrices();
            Matrix { source, segment: *segment, name, first: rows * u64::from(expert.unwrap_or(0)), rows }
        });
        let matrices: Vec<_> = matrices.collect();
        let told = make_matrices(io, rounding, (group, expert), &matrices, (&mut substitutes, &mut shares))?;
        few.extend(expert.filter(|_| told == Told::Few));
    }
    let of_experts: Vec<_> = tensors.iter().copied().filter(|(_, _, source)| is_of_experts(source)).collect();
    tell_few(io, &of_experts, &few, rounding.calibration.fewest_tokens);
    shares.tell(io);
    Ok(())
}

/// Makes an embedding, of which nothing is multiplied with a matrix of its own.
fn make_embedding(io: &UnitHandle, rounding: &Rounding, (segment, name, source): Named<'_>) -> Result<()> {
    let metric = rounding.readers.metric(io, source)?;
    let mut how = conditioning(source.row_elements, &rounding.calibration)?;
    how.damping = how.damping.max(LEAST_DAMPING_OF_EMBEDDING);
    let (curvature, _) = conditioned(io, &metric, &how, (None, None), false)?;
    drop(metric);
    let scheme = scheme_of(source, name)?;
    let matrix = Matrix { source, segment, name, first: 0, rows: source.rows };
    let search = rounding.calibration.effort.search();
    let how = How::Compensated { curvature: &curvature, difference: None, scheme: &scheme, search };
    let sums = matrix.make(io, how, None)?;
    io.metric(segment, metric::RELATIVE_ERROR, share(sums.errors, sums.squares).sqrt());
    Ok(())
}

/// The metric of an embedding is of weights, and says less of what is read further on.
const LEAST_DAMPING_OF_EMBEDDING: f64 = 0.05;

/// How inputs of so many columns are conditioned.
fn conditioning(columns: u64, calibration: &Calibration) -> Result<Conditioning> {
    let uneven = || Failure::internal(format!("{columns} columns are no whole blocks"));
    let (grouping, order) = arrangement(in_memory(columns)?).ok_or_else(uneven)?;
    Ok(Conditioning { damping: calibration.damp, damped_by: DampedBy::Mean, order, grouping })
}

/// Damping for so many columns: more where few tokens were seen, whose Hessian says little of other texts.
fn damping(damp: f64, columns: u64, tokens: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "numbers of columns and tokens")]
    let (columns, tokens) = (columns as f64, tokens.max(1) as f64);
    (damp * (ENOUGH_TOKENS * columns / tokens).max(1.0)).min(MOST_DAMPING.max(damp))
}

/// Tokens for each column from which on damping is not strengthened. Measured on models of 256 and 768 columns with 512 to
/// 4096 tokens: on other texts up to half of the divergence goes, on the same kind of text next to nothing changes.
const ENOUGH_TOKENS: f64 = 16.0;

/// Damping by which little is left of how inputs go together.
const MOST_DAMPING: f64 = 1.0;

/// The scheme of a tensor's type.
fn scheme_of(source: &Source, name: &str) -> Result<Scheme> {
    scheme(source.block_type).ok_or_else(|| Failure::internal("floats are not rounded").about(name))
}

/// What is lost of tensors of experts, over all their matrices.
#[derive(Default)]
struct Shares(BTreeMap<u32, Sums>);

impl Shares {
    fn add(&mut self, segment: u32, sums: Sums) {
        let own = self.0.entry(segment).or_default();
        *own = Sums::of(&[*own, sums]);
    }

    fn tell(&self, io: &UnitHandle) {
        for (segment, sums) in &self.0 {
            io.metric(*segment, metric::RELATIVE_ERROR, share(sums.errors, sums.squares).sqrt());
            if sums.energy > 0.0 {
                io.metric(*segment, metric::OUTPUT_LOSS, share(sums.loss, sums.energy));
            }
        }
    }
}

/// Makes the matrices that are multiplied with the same.
fn make_matrices(
    io: &UnitHandle,
    rounding: &Rounding,
    (group, expert): (&InputGroup, Option<u32>),
    matrices: &[Matrix<'_>],
    (substitutes, shares): (&mut Option<Substitutes<'_>>, &mut Shares),
) -> Result<Told> {
    let calibration = &rounding.calibration;
    let answer = io.statistic(group.clone(), Statistic::Gram, expert)?;
    let damp = damping(calibration.damp, answer.rows, answer.tokens);
    let mut make = |matrix: &Matrix<'_>, how: How<'_>, inputs: Option<&Inputs<'_>>| -> Result<()> {
        let mut whole = match substitutes {
            Some(_) => Some(vec![0.0; in_memory(matrix.rows * matrix.source.row_elements)?]),
            None => None,
        };
        let sums = matrix.make(io, how, whole.as_deref_mut())?;
        match inputs.filter(|_| expert.is_none()) {
            Some(inputs) => tell(io, damp, (matrix.segment, matrix.name), inputs, sums),
            None => shares.add(matrix.segment, sums),
        }
        match (substitutes.as_mut(), whole) {
            (Some(substitutes), Some(made)) => substitutes.put(io, matrix, &made),
            _ => Ok(()),
        }
    };
    if expert.is_some() && answer.tokens < calibration.fewest_tokens {
        let gathered = weighed(io, &answer)?;
        matrices.iter().try_for_each(|matrix| make(matrix, How::Weighed(&gathered), None))?;
        return Ok(Told::Few);
    }
    let mut how = conditioning(answer.rows, calibration)?;
    how.damping = damp;
    // A head that is the embedding as well is read by others than the head's inputs.
    let corrects = calibration.corrects && !matrices.iter().any(|matrix| matrix.source.embeds);
    let difference = corrects.then(|| Difference::of(io, group, expert)).transpose()?;
    let (curvature, factor) = match matrices {
        [Matrix { source, .. }] if source.embeds => {
            let lent = io.rows(answer.tensor, 0, answer.rows)?;
            let both = rounding.readers.beside(io, source, gram_of(lent.bytes())?)?;
            conditioned(io, &both, &how, (None, None), false)?
        }
        _ => curvature(io, &answer, &how, (None, None), corrects)?,
    };
    let inputs =
        Inputs { answer: &answer, curvature: &curvature, difference: difference.as_ref().zip(factor.as_ref()) };
    let search = calibration.effort.search();
    for matrix in matrices {
        let scheme = scheme_of(matrix.source, matrix.name)?;
        let how = How::Compensated { curvature: &curvature, difference: inputs.difference, scheme: &scheme, search };
        make(matrix, how, Some(&inputs))?;
    }
    Ok(Told::Enough)
}

/// What the tokens told of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Enough to round under its Hessian.
    Enough,
    /// Too little: each weight is rounded for itself.
    Few,
}

/// Tells of experts that saw too few tokens, given by their tensors.
fn tell_few(io: &UnitHandle, tensors: &[Named<'_>], experts: &[u32], fewest: u64) {
    const NAMED: usize = 16;
    let (Some((_, name, _)), true) = (tensors.first(), !experts.is_empty()) else { return };
    for (segment, ..) in tensors {
        #[expect(clippy::cast_precision_loss, reason = "a number of experts")]
        io.metric(*segment, FEW_TOKENS, experts.len() as f64);
    }
    let numbers: Vec<_> = experts.iter().take(NAMED).map(u32::to_string).collect();
    let more = experts.len().checked_sub(NAMED).filter(|more| *more > 0);
    tracing::warn!(
        "{}: experts {}{} saw fewer than {fewest} tokens, too few for a Hessian: their weights are rounded each for itself",
        name.strip_suffix(".weight").unwrap_or(name),
        numbers.join(", "),
        more.map_or_else(String::new, |more| format!(" and {more} more")),
    );
}

/// The experts that saw too few tokens.
const FEW_TOKENS: &str = "experts_with_few_tokens";

/// The importances of the columns of inputs.
fn weighed(io: &UnitHandle, answer: &StatisticsAnswer) -> Result<Arc<Gathered>> {
    let mut diagonal = Vec::new();
    for row in 0..answer.rows {
        let lent = io.rows(answer.tensor, row, 1)?;
        let numbers = gram_of(lent.bytes())?;
        diagonal.push(numbers.get(in_memory(row)?).copied().unwrap_or(0.0));
    }
    Ok(importances(&diagonal, answer.tokens))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_tokens_strengthen_damping_up_to_a_limit() {
        let expect = |columns, tokens, expected: f64| {
            let found = damping(0.01, columns, tokens);
            assert!((found - expected).abs() < 1e-12, "{columns} {tokens}: {found}");
        };
        expect(256, 4096, 0.01);
        expect(256, 1 << 20, 0.01);
        expect(256, 2048, 0.02);
        expect(4096, 256, 1.0);
        expect(4096, 0, 1.0);
        assert!((damping(2.0, 16, 0) - 2.0).abs() < 1e-12);
    }
}
