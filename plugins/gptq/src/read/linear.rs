//! One packed linear: its tensors, what follows from their shapes, and its rows as floats.
//!
//! Bits and groups follow from shapes as far as they can, because the config's rules for single linears are patterns
//! that every program reads a little differently; the config only has to agree.

use std::ops::Range;

use qhost_folder::StoredAt;
use qhost_plugin_api::sdk::{DType, Failure, Result, widen};

use super::{
    settings::{BITS, Settings, Version},
    unpack::{self, RUN, codes},
};

/// The endings of the names of a linear's tensors.
pub(crate) const CODES: &str = ".qweight";
pub(crate) const ZEROS: &str = ".qzeros";
pub(crate) const SCALES: &str = ".scales";
pub(crate) const ORDER: &str = ".g_idx";

/// A packed linear.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    /// The module's name.
    pub(crate) name: String,
    pub(crate) bits: u32,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) groups: usize,
    /// Inputs of a group where they are not in an order of their own.
    pub(crate) group_size: usize,
    pub(crate) version: Version,
    pub(crate) codes: Place,
    pub(crate) zeros: Place,
    pub(crate) scales: Place,
    /// The group of every input; by their order where it is absent.
    pub(crate) order: Option<Place>,
    scale_dtype: DType,
}

/// Where a tensor lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: usize,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

impl Place {
    fn of(tensor: &StoredAt) -> Self {
        Self { file: tensor.file, offset: tensor.offset, bytes: tensor.bytes }
    }

    /// Its bytes among all files.
    pub(crate) fn data<'a>(&self, files: &[&'a [u8]]) -> Option<&'a [u8]> {
        let start = usize::try_from(self.offset).ok()?;
        let end = start.checked_add(usize::try_from(self.bytes).ok()?)?;
        files.get(self.file)?.get(start..end)
    }
}

/// The bytes of a linear's tensors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packed<'a> {
    pub(crate) codes: &'a [u8],
    pub(crate) zeros: &'a [u8],
    pub(crate) scales: &'a [u8],
    pub(crate) order: Option<&'a [u8]>,
}

impl Linear {
    /// Understands the linear whose codes are in a tensor; `find` finds the others by name.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT`, naming the tensor, when one is not there or has an impossible shape, and with
    /// `UNSUPPORTED` for a dtype that is not the format's.
    pub(crate) fn of<'a>(
        packed: &StoredAt,
        find: impl Fn(&str) -> Option<&'a StoredAt>,
        settings: &Settings,
    ) -> Result<Self> {
        let name = packed.name.strip_suffix(CODES).unwrap_or(&packed.name).to_owned();
        let part = |ending: &str| find(&format!("{name}{ending}"));
        let needed = |ending: &str| {
            let missing = || Failure::corrupt(format!("its tensor {name}{ending} is not there")).about(&*name);
            part(ending).ok_or_else(missing)
        };
        let (zeros, scales, order) = (needed(ZEROS)?, needed(SCALES)?, part(ORDER));
        for tensor in [packed, zeros].into_iter().chain(order) {
            if tensor.dtype != "I32" {
                return Err(Failure::unsupported(format!("it is of the dtype {}, and not I32", tensor.dtype))
                    .about(&*tensor.name));
            }
        }
        let scale_dtype = match &*scales.dtype {
            "F16" => DType::F16,
            "BF16" => DType::BF16,
            "F32" => DType::F32,
            other => {
                return Err(
                    Failure::unsupported(format!("scales of the dtype {other} are not read")).about(&*scales.name)
                );
            }
        };
        let (rows, outputs) = matrix(packed)?;
        let (groups, scale_columns) = matrix(scales)?;
        let (zero_rows, zero_columns) = matrix(zeros)?;
        if scale_columns != outputs {
            return Err(misshapen(scales, &format!("{} has {outputs} columns", packed.name)));
        }
        if zero_rows != groups {
            return Err(misshapen(zeros, &format!("{} has {groups} rows", scales.name)));
        }
        let fits = |bits: &u32| zero_columns == packed_len(outputs, *bits);
        let bits = settings.possible_bits().find(fits).ok_or_else(|| {
            let bits: Vec<_> = BITS.iter().filter(|bits| fits(bits)).map(ToString::to_string).collect();
            let what = match bits.first() {
                Some(bits) => format!("it is of {bits} bits, and {} says {}", settings.file, settings.bits),
                None => {
                    format!("with {} bits {outputs} columns take {}", settings.bits, packed_len(outputs, settings.bits))
                }
            };
            misshapen(zeros, &what)
        })?;
        let inputs = match order.map(|order| (order, order.shape.as_slice())) {
            None => rows * 32 / bits as usize,
            Some((_, &[inputs])) if packed_len(in_memory(inputs)?, bits) == rows => in_memory(inputs)?,
            Some((order, _)) => {
                return Err(misshapen(order, &format!("{} has {rows} rows of {bits}-bit codes", packed.name)));
            }
        };
        if inputs == 0 || outputs == 0 || groups == 0 {
            return Err(misshapen(packed, "a linear has inputs, outputs and groups"));
        }
        let group_size = group_size(inputs, groups, settings).ok_or_else(|| {
            misshapen(
                scales,
                &format!("{inputs} inputs in groups of {} do not make as many groups", settings.group_size),
            )
        })?;
        Ok(Self {
            name,
            bits,
            inputs,
            outputs,
            groups,
            group_size,
            version: settings.version,
            codes: Place::of(packed),
            zeros: Place::of(zeros),
            scales: Place::of(scales),
            order: order.map(Place::of),
            scale_dtype,
        })
    }

    /// The number of weights.
    pub(crate) fn weights(&self) -> u64 {
        (self.inputs as u64).saturating_mul(self.outputs as u64)
    }

    /// How its codes are stored, in a word: bits and group size, as levels are called.
    pub(crate) fn encoding(&self) -> String {
        match self.groups {
            1 => format!("{}bit-channel", self.bits),
            _ => format!("{}bit-g{}", self.bits, self.group_size),
        }
    }

    /// The group of every input.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` when there is one outside of the groups.
    pub(crate) fn groups_of_inputs(&self, order: Option<&[u8]>) -> Result<Vec<u32>> {
        let Some(order) = order else {
            return Ok((0..self.inputs).map(|input| narrow(input / self.group_size)).collect());
        };
        let groups: Vec<u32> = order.as_chunks::<4>().0.iter().map(|raw| u32::from_le_bytes(*raw)).collect();
        // Negative numbers are large ones here.
        match groups.iter().position(|group| *group as usize >= self.groups) {
            Some(input) => Err(Failure::corrupt(format!(
                "input {input} is in the group {}, and there are {}",
                groups[input].cast_signed(),
                self.groups
            ))
            .about(format!("{}{ORDER}", self.name))),
            None => Ok(groups),
        }
    }

    /// Fills `out` with rows of the weight, one for each output of the range: scale × (code − zero).
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` when the bytes are not those of its tensors.
    pub(crate) fn rows(&self, packed: &Packed<'_>, rows: &Range<usize>, out: &mut [f32]) -> Result<()> {
        let lengths = [packed.codes.len(), packed.zeros.len(), packed.scales.len()];
        let expected = [self.codes.bytes, self.zeros.bytes, self.scales.bytes];
        let sound = lengths.iter().zip(expected).all(|(&length, expected)| length as u64 == expected);
        if !sound || rows.end > self.outputs || out.len() != rows.len() * self.inputs {
            return Err(Failure::corrupt("its data are not in the files").about(&*self.name));
        }
        let groups = self.groups_of_inputs(packed.order)?;
        let block = Block::of(self, packed, rows, &groups)?;
        match self.bits {
            2 => block.fill::<2>(packed.codes, out),
            3 => block.fill::<3>(packed.codes, out),
            4 => block.fill::<4>(packed.codes, out),
            _ => block.fill::<8>(packed.codes, out),
        }
        Ok(())
    }

    /// The bytes of its tensors among all files.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` when they are not there.
    pub(crate) fn packed<'a>(&self, files: &[&'a [u8]]) -> Result<Packed<'a>> {
        let lost = || Failure::corrupt("its data are not in the files").about(&*self.name);
        let data = |place: &Place| place.data(files).ok_or_else(lost);
        Ok(Packed {
            codes: data(&self.codes)?,
            zeros: data(&self.zeros)?,
            scales: data(&self.scales)?,
            order: self.order.as_ref().map(data).transpose()?,
        })
    }
}

/// Some outputs of a linear, with their scales and zero points at hand.
struct Block<'a> {
    inputs: usize,
    /// All outputs of the linear.
    outputs: usize,
    rows: Range<usize>,
    groups: &'a [u32],
    /// By group, for every row.
    scales: Vec<f32>,
    zeros: Vec<f32>,
}

impl<'a> Block<'a> {
    fn of(linear: &Linear, packed: &Packed<'_>, rows: &Range<usize>, groups: &'a [u32]) -> Result<Self> {
        let mut scales = vec![0.0; linear.groups * rows.len()];
        let mut zeros = scales.clone();
        let size = if linear.scale_dtype == DType::F32 { 4 } else { 2 };
        let zero_words = packed_len(linear.outputs, linear.bits);
        for group in 0..linear.groups {
            let place = group * rows.len()..(group + 1) * rows.len();
            let first = (group * linear.outputs + rows.start) * size;
            widen(linear.scale_dtype, &packed.scales[first..][..rows.len() * size], &mut scales[place.clone()])?;
            let word = |index: usize| unpack::word(packed.zeros, group * zero_words + index);
            unpack::zeros(word, linear.bits, linear.version, rows.start, &mut zeros[place]);
        }
        let (inputs, outputs) = (linear.inputs, linear.outputs);
        Ok(Self { inputs, outputs, rows: rows.clone(), groups, scales, zeros })
    }

    /// Runs of 32 inputs, for all rows one after the other: the words of neighbouring rows lie beside each other.
    fn fill<const BITS: usize>(&self, packed: &[u8], out: &mut [f32]) {
        let rows = self.rows.len();
        for (run, groups) in self.groups.chunks(RUN).enumerate() {
            let first = groups[0] as usize;
            let in_one = groups.iter().all(|group| *group as usize == first);
            for row in 0..rows {
                let column = self.rows.start + row;
                // The last run may have fewer words.
                let words = std::array::from_fn(|at| unpack::word(packed, (run * BITS + at) * self.outputs + column));
                let codes = codes::<BITS>(&words);
                let place = &mut out[row * self.inputs + run * RUN..][..groups.len()];
                if in_one {
                    let (scale, zero) = (self.scales[first * rows + row], self.zeros[first * rows + row]);
                    for (weight, code) in place.iter_mut().zip(codes) {
                        *weight = scale * (f32::from(code) - zero);
                    }
                } else {
                    for ((weight, code), group) in place.iter_mut().zip(codes).zip(groups) {
                        let at = *group as usize * rows + row;
                        *weight = self.scales[at] * (f32::from(code) - self.zeros[at]);
                    }
                }
            }
        }
    }
}

/// Words that so many codes take.
pub(crate) fn packed_len(codes: usize, bits: u32) -> usize {
    codes.saturating_mul(bits as usize).div_ceil(32)
}

/// The size of groups that gives as many as there are scales.
fn group_size(inputs: usize, groups: usize, settings: &Settings) -> Option<usize> {
    let sizes = settings.possible_groups().map(|size| usize::try_from(size).unwrap_or(inputs));
    sizes.chain(std::iter::once(inputs)).find(|size| inputs.div_ceil(*size) == groups)
}

fn matrix(tensor: &StoredAt) -> Result<(usize, usize)> {
    match tensor.shape.as_slice() {
        &[rows, columns] => Ok((in_memory(rows)?, in_memory(columns)?)),
        _ => Err(misshapen(tensor, "it is no matrix")),
    }
}

fn misshapen(tensor: &StoredAt, why: &str) -> Failure {
    Failure::corrupt(format!("its shape is {:?}, which does not fit: {why}", tensor.shape)).about(&*tensor.name)
}

fn in_memory(size: u64) -> Result<usize> {
    usize::try_from(size).map_err(|_| Failure::corrupt(format!("a dimension of {size} does not fit into memory")))
}

fn narrow(group: usize) -> u32 {
    u32::try_from(group).unwrap_or(u32::MAX)
}
