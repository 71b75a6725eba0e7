//! Rounded modules, and tensors that scales change, into their segments.

use std::sync::{Mutex, PoisonError};

use qhost_linears::{Kept, Module, in_memory};
use qhost_plugin_api::{
    documents::SourceTensor,
    sdk::{CHUNK_WEIGHTS, Failure, Result, UnitHandle},
};
use qhost_rounding::{Rounded, f16};

use crate::{
    folding::Folding,
    narrow::{narrow, rounded_to},
    pack::{CODES, QWEIGHT, QZEROS, SCALES, pack_codes, pack_scales, pack_zeros},
};

/// Packs the codes and zeros of a module and writes them.
pub(crate) fn write_codes(io: &UnitHandle, module: &Module, rounded: &Rounded) -> Result<()> {
    let (rows, columns, count) = (in_memory(module.rows)?, in_memory(module.columns)?, in_memory(module.groups())?);
    if (rounded.codes.len(), rounded.zeros.len()) != (rows * columns, rows * count) {
        return Err(Failure::internal("a rounded module of another size than planned").about(&*module.name));
    }
    let of_input = rows / CODES * 4;
    // Inputs are rows of the packed matrix: a task packs some of them, for all outputs.
    let at_once = (in_memory(CHUNK_WEIGHTS)? / rows.max(1)).max(1);
    let mut packed = vec![0; columns * of_input];
    let parts: Vec<_> = packed.chunks_mut((at_once * of_input).max(1)).map(Mutex::new).collect();
    io.host().parallel_map(parts.len(), |index| {
        let mut part = parts[index].lock().unwrap_or_else(PoisonError::into_inner);
        let first = index * at_once;
        let inputs = first..first + part.len() / of_input.max(1);
        pack_codes(&rounded.codes, columns, inputs, &mut part);
        Ok(())
    })?;
    drop(parts);
    io.write(module.first_segment + QWEIGHT, 0, &packed)?;
    io.write(module.first_segment + QZEROS, 0, &pack_zeros(&rounded.zeros, count))
}

/// Writes the scales of a module, of whose outputs each may be divided by something.
pub(crate) fn write_scales(io: &UnitHandle, module: &Module, scales: &[f16], divisors: Option<&[f32]>) -> Result<()> {
    let count = in_memory(module.groups())?;
    let mut divided;
    let scales = match divisors {
        None => scales,
        Some(divisors) => {
            divided = scales.to_vec();
            for (scales, divisor) in divided.chunks_exact_mut(count.max(1)).zip(divisors) {
                for scale in scales {
                    *scale = quotient(*scale, *divisor);
                }
            }
            &divided
        }
    };
    match scales.iter().find(|scale| !scale.is_finite() || module.taken.is_none() && scale.to_f32() == 0.0) {
        None => io.write(module.first_segment + SCALES, 0, &pack_scales(scales, count)),
        Some(scale) => Err(Failure::internal(format!("a scale is {scale}")).about(&*module.name)),
    }
}

/// A scale that is divided, which stays one of something: of groups of much less than the others of their output, nothing
/// might be left.
fn quotient(scale: f16, divisor: f32) -> f16 {
    let quotient = f16::from_f32(scale.to_f32() / divisor);
    if quotient.to_f32() == 0.0 { f16::MIN_POSITIVE_SUBNORMAL.copysign(scale) } else { quotient }
}

/// Memory that packing takes beside the codes, for all threads.
pub(crate) fn memory(module: &Module) -> u64 {
    // The codes, and scales that are divided and turned.
    module.weights() / 2 + module.rows * module.groups() * 4
}

/// What is kept of a module until its unit ends.
pub(crate) fn memory_of_scales(module: &Module) -> u64 {
    module.rows * module.groups() * 2
}

/// Writes a tensor as the scales that are known make it.
pub(crate) fn write_scaled(
    io: &UnitHandle,
    folding: &Folding<'_>,
    (kept, tensor): (&Kept, &SourceTensor),
) -> Result<()> {
    let about = |failure: Failure| failure.about(&*kept.name);
    if kept.part.is_some() {
        return Err(about(Failure::internal("a part of a tensor that scales change")));
    }
    let mut values = all_of(io, kept.tensor, tensor)?;
    folding.apply((kept.tensor, tensor), &mut values).map_err(about)?;
    if values.iter().any(|value| !rounded_to(&kept.dtype, *value).is_some_and(f32::is_finite)) {
        return Err(about(
            Failure::unsupported("its scaled numbers are not finite")
                .hint("leave the modules around it as they are with --plugin-option modules-to-not-convert=…"),
        ));
    }
    let mut bytes = Vec::new();
    narrow(&kept.dtype, &values, &mut bytes)
        .ok_or_else(|| about(Failure::internal(format!("a scaled tensor of the type {}", kept.dtype))))?;
    io.write(kept.segment, 0, &bytes)?;
    io.progress(kept.elements());
    Ok(())
}

/// Memory that writing a scaled tensor takes.
pub(crate) fn memory_of_scaled(kept: &Kept) -> u64 {
    kept.elements() * 8
}

/// All of a tensor, as the checkpoint has it.
pub(crate) fn all_of(io: &UnitHandle, id: u32, tensor: &SourceTensor) -> Result<Vec<f32>> {
    let rows = tensor.shape.split_last().map_or(1, |(_, outer)| outer.iter().product());
    let mut values = Vec::new();
    io.rows(id, 0, rows)?.widen(&mut values)?;
    Ok(values)
}
