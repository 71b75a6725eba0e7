//! The scales of one input of some modules: chosen on some of their rows, tried, and told.

use std::collections::BTreeMap;

use qhost_linears::{Effort, Module, curvature, grid, in_memory, share};
use qhost_plugin_api::{
    documents::{Fold, FoldSource, SourceTensor, StatisticsAnswer},
    sdk::{Failure, Matrix, Result, UnitHandle},
};
use qhost_rounding::{Conditioning, Curvature, DampedBy, Grid, TILE, energy_of, round_rows, round_to_nearest};

use crate::{
    folding::{settle_on_codes, settle_on_norm, settle_on_values},
    sample::Sample,
    scales::{Inputs, balance},
    write::all_of,
};

/// Figures of a module's inputs for the report, under the first of the modules that read them. All are what rounding the
/// rows that were looked at loses of what they give, over the square of that.
mod of_input {
    /// Rounding each weight for itself.
    pub(super) const NEAREST: &str = "loss_rounded_to_nearest";
    /// Compensated rounding in one pass, without scales.
    pub(super) const UNSCALED: &str = "loss_without_scales";
    /// The same with the scales that were chosen.
    pub(super) const SCALED: &str = "loss_with_scales";
}

/// Rows on which scales are tried, at most.
const TRIED: usize = 512;

/// What reads an input.
pub(crate) struct Readers<'a> {
    pub(crate) fold: &'a Fold,
    pub(crate) modules: &'a [&'a Module],
    pub(crate) tensors: &'a [SourceTensor],
    /// Whether something else reads it, such as a router. Only with powers of two that stays what it is, and chooses as it
    /// did.
    pub(crate) are_not_all_quantised: bool,
    /// For every channel, the largest scale of the codes that make it, where those are what takes the inverse.
    pub(crate) largest_of_source: Option<Vec<f32>>,
}

/// An input, and how its Hessian is made fit for work.
pub(crate) struct Input<'a> {
    pub(crate) io: &'a UnitHandle,
    pub(crate) answer: &'a StatisticsAnswer,
    pub(crate) how: Conditioning,
    /// The energies of the columns that read it.
    pub(crate) sizes: Vec<f64>,
    /// Whether the factor of the Hessian is kept.
    pub(crate) keeps_factor: bool,
}

/// A Hessian, and its factor if that is kept.
pub(crate) type Conditioned = (Curvature, Option<Matrix>);

impl Input<'_> {
    /// The Hessian with scales.
    pub(crate) fn conditioned(&self, scales: Option<&[f32]>) -> Result<Conditioned> {
        let Self { io, answer, how, sizes, keeps_factor } = self;
        let Some(scales) = scales else { return curvature(io, answer, how, (None, Some(sizes)), *keeps_factor) };
        // What inputs contribute does not depend on how they are scaled; the energies of the scaled ones do.
        let by = |(size, scale): (&f64, &f32)| size * f64::from(*scale).powi(2);
        let sizes: Vec<_> = sizes.iter().zip(scales).map(by).collect();
        curvature(io, answer, how, (Some(&inverse(scales)), Some(&sizes)), *keeps_factor)
    }

    /// The variance of each input given those that are rounded later; none where nothing is known of them.
    fn variances(&self) -> Result<Option<Vec<f64>>> {
        // Damped by their own energies, inputs do not matter more for being scaled down.
        let how = Conditioning { damped_by: DampedBy::Each, ..self.how };
        let (curvature, _) = curvature(self.io, self.answer, &how, (None, Some(&self.sizes)), false)?;
        Ok((!curvature.is_plain()).then(|| curvature.conditional_variances()))
    }
}

/// What inputs are multiplied with whose weights have these scales.
pub(crate) fn inverse(scales: &[f32]) -> Vec<f32> {
    scales.iter().map(|scale| scale.recip()).collect()
}

/// Finds the scales of the input of some modules, none where none help; and gives its Hessian with them where that was
/// made on the way.
pub(crate) fn scale(
    input: &Input<'_>,
    readers: &Readers<'_>,
    sample: &Sample,
) -> Result<(Option<Vec<f32>>, Option<Conditioned>)> {
    let io = input.io;
    let channels = in_memory(readers.fold.channels)?;
    let Some(first) = readers.modules.first() else { return Ok((None, None)) };
    if first.columns != readers.fold.channels {
        return Err(Failure::internal("a fold of another width than what reads it").about(&*first.name));
    }
    let Some(variances) = input.variances()? else { return Ok((None, None)) };
    let inputs = Inputs {
        variances: &variances,
        ties: &ties(readers.fold),
        group: in_memory(first.group_size())?,
        symmetric: first.settings.symmetric,
        whole_powers: readers.are_not_all_quantised,
    };
    let mut choice = balance(sample, inputs, |count, part| io.host().parallel_map(count, |index| Ok(part(index))))?;
    settle(io, readers, &mut choice.scales)?;
    let trial = Trial { io, grid: grid(first)?, columns: channels, group: inputs.group };
    let without = input.conditioned(None)?;
    let (nearest, unscaled) = (trial.nearest(sample, &without.0)?, trial.compensated(sample, &without.0, None)?);
    let tell = |scaled| {
        let losses = [(of_input::NEAREST, nearest), (of_input::UNSCALED, unscaled), (of_input::SCALED, scaled)];
        for (key, loss) in losses {
            io.metric(first.first_segment, key, loss);
        }
    };
    if choice.ratio >= 1.0 {
        tell(unscaled);
        return Ok((None, Some(without)));
    }
    drop(without);
    let with = input.conditioned(Some(&choice.scales))?;
    let scaled = trial.compensated(sample, &with.0, Some(&choice.scales))?;
    tracing::debug!("{}: {nearest:.3e} to nearest, {unscaled:.3e} without scales, {scaled:.3e} with", first.name);
    tell(scaled.min(unscaled));
    Ok(if scaled < unscaled { (Some(choice.scales), Some(with)) } else { (None, None) })
}

/// Numbers of the inputs, the same for those that need the same scale.
fn ties(fold: &Fold) -> Vec<usize> {
    let mut numbers = BTreeMap::new();
    let mut number = |tie| {
        let next = numbers.len();
        *numbers.entry(tie).or_insert(next)
    };
    (0..fold.channels).map(|channel| number(fold.tie(channel))).collect()
}

/// Corrects scales to what their source can hold.
fn settle(io: &UnitHandle, readers: &Readers<'_>, scales: &mut [f32]) -> Result<()> {
    let of_model = |id: u32| {
        let tensor = readers.tensors.get(id as usize);
        tensor.ok_or_else(|| Failure::internal("something is folded into what the model does not have"))
    };
    match &readers.fold.source {
        FoldSource::Norm(norm) => {
            let gain = of_model(norm.weight)?;
            let gains = all_of(io, norm.weight, gain)?;
            if let Some(bias) = norm.bias {
                let tensor = of_model(bias)?;
                settle_on_values(&all_of(io, bias, tensor)?, &tensor.dtype, scales);
            }
            let wanted = scales.to_vec();
            settle_on_norm(&gains, norm.offset, &gain.dtype, scales).map_err(|failure| failure.about(&*gain.name))?;
            if readers.are_not_all_quantised {
                // Powers of two stay such, or nothing.
                let changed =
                    scales.iter_mut().zip(&wanted).filter(|(scale, wanted)| scale.to_bits() != wanted.to_bits());
                changed.for_each(|(scale, _)| *scale = 1.0);
            }
            Ok(())
        }
        FoldSource::Rows(rows) => {
            if let Some(largest) = &readers.largest_of_source {
                settle_on_codes(largest, scales);
            }
            let Some(bias) = rows.bias else { return Ok(()) };
            let tensor = of_model(bias)?;
            let biases = all_of(io, bias, tensor)?;
            // One that holds all experts has a row for each.
            let width = in_memory(tensor.row_elements())?;
            let expert = readers.fold.expert.filter(|_| biases.len() > width).unwrap_or(0);
            let of_expert = biases.chunks_exact(width.max(1)).nth(expert as usize).unwrap_or_default();
            let of_channel = |channel| usize::try_from(rows.map.row(channel)).ok().and_then(|row| of_expert.get(row));
            let of_channels: Vec<_> =
                (0..readers.fold.channels).map(|channel| of_channel(channel).copied().unwrap_or(0.0)).collect();
            settle_on_values(&of_channels, &tensor.dtype, scales);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Rounds a sample, to see what is lost.
struct Trial<'a> {
    io: &'a UnitHandle,
    grid: Grid,
    columns: usize,
    group: usize,
}

impl Trial<'_> {
    /// Tiles of rows that are tried: evenly spread over the sample.
    fn tiles<'s>(&self, sample: &'s Sample) -> Vec<&'s [f32]> {
        let all: Vec<_> = sample.weights.chunks(TILE * self.columns).collect();
        let count = all.len().min(TRIED / TILE);
        (0..count).map(|index| all[index * all.len() / count]).collect()
    }

    /// What is lost by every tile, over what they give, in the order of the tiles.
    fn loss(&self, sample: &Sample, of_tile: impl Fn(&[f32]) -> (f64, f64) + Sync) -> Result<f64> {
        let tiles = self.tiles(sample);
        let sums = self.io.host().parallel_map(tiles.len(), |index| Ok(of_tile(tiles[index])))?;
        let sum = sums.iter().fold((0.0, 0.0), |sum, tile| (sum.0 + tile.0, sum.1 + tile.1));
        Ok(share(sum.0, sum.1))
    }

    fn compensated(&self, sample: &Sample, curvature: &Curvature, scales: Option<&[f32]>) -> Result<f64> {
        self.loss(sample, |tile| {
            let scaled: Option<Vec<f32>> = scales
                .map(|scales| tile.iter().zip(scales.iter().cycle()).map(|(weight, scale)| weight * scale).collect());
            let made = round_rows(curvature, self.grid, Effort::Fast.search(), scaled.as_deref().unwrap_or(tile));
            (made.loss, made.energy)
        })
    }

    fn nearest(&self, sample: &Sample, curvature: &Curvature) -> Result<f64> {
        self.loss(sample, |tile| {
            let mut errors = tile.to_vec();
            for row in errors.chunks_exact_mut(self.columns) {
                row.chunks_mut(self.group).for_each(|group| round_to_nearest(self.grid, group));
            }
            errors.iter_mut().zip(tile).for_each(|(made, weight)| *made -= weight);
            (energy_of(curvature, &errors), energy_of(curvature, tile))
        })
    }
}
