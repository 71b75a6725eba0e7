//! One packed linear: its tensors, what follows from their shapes, and its scales and groups.

use std::ops::Range;

use qhost_folder::StoredAt;
use qhost_plugin_api::sdk::{DType, Failure, Result, first_non_finite, widen};

use crate::{Packing, Tensors, misshapen};

/// The ending of the name of a linear's codes, in most formats.
pub const CODES: &str = ".qweight";
/// The ending of the name of its zero points.
pub const ZEROS: &str = ".qzeros";
/// The ending of the name of its zero points where they are minima: less the scale times the zero point.
pub const MINIMA: &str = ".scaled_zeros";
/// The ending of the name of its scales.
pub const SCALES: &str = ".scales";
/// The ending of the name of the groups of its inputs.
pub const ORDER: &str = ".g_idx";

/// What to do about damaged numbers.
pub(crate) const DAMAGED: &str = "`qhost verify` tells which tensor is damaged";

/// What the names of a linear's tensors end in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endings {
    /// That of its codes.
    pub codes: &'static str,
    /// That of its scales.
    pub scales: &'static str,
    /// That of the groups of its inputs.
    pub order: &'static str,
    /// Those of everything that belongs to it beside its codes.
    pub beside: &'static [&'static str],
}

impl Endings {
    /// Those of most formats.
    pub const USUAL: Self =
        Self { codes: CODES, scales: SCALES, order: ORDER, beside: &[ZEROS, MINIMA, SCALES, ORDER] };

    /// Whether a tensor is one of those of a packed linear.
    pub(crate) fn has(&self, name: &str) -> bool {
        name.ends_with(self.codes) || self.is_beside(name)
    }

    /// Whether a tensor belongs to the codes of a linear.
    pub(crate) fn is_beside(&self, name: &str) -> bool {
        self.beside.iter().any(|ending| name.ends_with(ending))
    }
}

/// What the shapes of a linear's tensors say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// The bits of a code.
    pub bits: u32,
    /// Columns of the weight.
    pub inputs: usize,
    /// Rows of the weight.
    pub outputs: usize,
    /// Groups of a row.
    pub groups: usize,
    /// Inputs of a group where they are not in an order of their own.
    pub group_size: usize,
    /// Whether the settings say that a group is a whole row, however long that is.
    pub whole_rows: bool,
    /// The scales of a row of their tensor, where each row is an output's; else each is a group's.
    pub scales_of_output: Option<usize>,
}

/// A packed linear.
#[derive(Debug, Clone)]
pub struct Linear {
    /// The module's name.
    pub name: String,
    /// Sizes.
    pub shape: Shape,
    /// Where its codes are.
    pub codes: Place,
    /// Where its zero points are, if they are stored.
    pub zeros: Option<Place>,
    /// Where its scales are.
    pub scales: Place,
    /// The group of every input; by their order where it is absent.
    pub order: Option<Place>,
    scale_dtype: DType,
    endings: Endings,
}

/// Where a tensor lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The index of its file.
    pub file: usize,
    /// Its first byte there.
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
}

impl Place {
    fn of(tensor: &StoredAt) -> Self {
        Self { file: tensor.file, offset: tensor.offset, bytes: tensor.bytes }
    }

    /// Its bytes among all files.
    fn data<'a>(&self, files: &[&'a [u8]]) -> Option<&'a [u8]> {
        let start = usize::try_from(self.offset).ok()?;
        let end = start.checked_add(usize::try_from(self.bytes).ok()?)?;
        files.get(self.file)?.get(start..end)
    }
}

/// The bytes of a linear's tensors.
#[derive(Debug, Clone, Copy)]
pub struct Packed<'a> {
    /// Of its codes.
    pub codes: &'a [u8],
    /// Of its zero points.
    pub zeros: Option<&'a [u8]>,
    /// Of its scales.
    pub scales: &'a [u8],
    /// Of the groups of its inputs.
    pub order: Option<&'a [u8]>,
}

/// The word at an index of little-endian data.
#[must_use]
pub fn word(bytes: &[u8], index: usize) -> u32 {
    bytes.as_chunks::<4>().0.get(index).map_or(0, |raw| u32::from_le_bytes(*raw))
}

impl Linear {
    /// Understands the linear whose codes are in a tensor, which stand for so many weights, if that is told; `find` finds
    /// the others by name.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT`, naming the tensor, when one is not there or has an impossible shape, and with
    /// `UNSUPPORTED` for a dtype that is not the format's.
    pub(crate) fn of<'a, P: Packing>(
        (codes, weights): (&'a StoredAt, Option<u64>),
        find: impl Fn(&str) -> Option<&'a StoredAt>,
        packing: &P,
    ) -> Result<Self> {
        let tensors = Tensors::of((codes, weights), find, packing)?;
        let shape = packing.shape(&tensors)?;
        if shape.inputs == 0 || shape.outputs == 0 || shape.groups == 0 {
            return Err(misshapen(codes, "a linear has inputs, outputs and groups"));
        }
        Ok(Self {
            shape,
            codes: Place::of(codes),
            zeros: tensors.zeros.map(Place::of),
            scales: Place::of(tensors.scales),
            order: tensors.order.map(Place::of),
            scale_dtype: tensors.scale_dtype,
            endings: P::ENDINGS,
            name: tensors.name,
        })
    }

    /// The number of weights.
    #[must_use]
    pub fn weights(&self) -> u64 {
        (self.shape.inputs as u64).saturating_mul(self.shape.outputs as u64)
    }

    /// How its codes are stored, in a word: bits and group size, as levels are called.
    #[must_use]
    pub fn encoding(&self) -> String {
        match self.shape {
            Shape { bits, whole_rows: true, .. } => format!("{bits}bit-channel"),
            Shape { bits, group_size, .. } => format!("{bits}bit-g{group_size}"),
        }
    }

    /// The places of its tensors.
    pub(crate) fn places(&self) -> impl Iterator<Item = Place> {
        [self.codes, self.scales].into_iter().chain(self.zeros).chain(self.order)
    }

    /// The group of every input.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` when there is one outside of the groups.
    pub fn groups_of_inputs(&self, order: Option<&[u8]>) -> Result<Vec<u32>> {
        let Some(order) = order else {
            return Ok((0..self.shape.inputs).map(|input| narrow(input / self.shape.group_size)).collect());
        };
        let groups: Vec<u32> = order.as_chunks::<4>().0.iter().map(|raw| u32::from_le_bytes(*raw)).collect();
        // Negative numbers are large ones here.
        match groups.iter().position(|group| *group as usize >= self.shape.groups) {
            Some(input) => Err(Failure::corrupt(format!(
                "input {input} is in the group {}, and there are {}",
                groups[input].cast_signed(),
                self.shape.groups
            ))
            .about(format!("{}{}", self.name, self.endings.order))),
            None => Ok(groups),
        }
    }

    /// The type of its scales: a safetensors dtype name.
    pub(crate) fn scale_type(&self) -> &'static str {
        match self.scale_dtype {
            DType::F16 => "F16",
            DType::BF16 => "BF16",
            _ => "F32",
        }
    }

    /// The scales of some outputs in one group.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT`, naming the tensor, when one is not finite, and when there are not as many.
    pub fn scales(&self, packed: &Packed<'_>, group: usize, rows: &Range<usize>, out: &mut [f32]) -> Result<()> {
        let size = if self.scale_dtype == DType::F32 { 4 } else { 2 };
        match self.shape.scales_of_output {
            None => {
                let first = (group * self.shape.outputs + rows.start) * size;
                widen(self.scale_dtype, &packed.scales[first..][..rows.len() * size], out)?;
            }
            Some(of_row) => {
                for (out, row) in out.chunks_exact_mut(1).zip(rows.clone()) {
                    widen(self.scale_dtype, &packed.scales[(row * of_row + group) * size..][..size], out)?;
                }
            }
        }
        match first_non_finite(out) {
            None => Ok(()),
            Some(index) => {
                let (output, scale) = (rows.start + index, out[index]);
                Err(Failure::corrupt(format!("the scale of output {output} in group {group} is {scale}"))
                    .about(format!("{}{}", self.name, self.endings.scales))
                    .hint(DAMAGED))
            }
        }
    }

    /// Whether these are the bytes of its tensors.
    pub(crate) fn holds(&self, packed: &Packed<'_>) -> bool {
        let fits = |bytes: &[u8], place: &Place| bytes.len() as u64 == place.bytes;
        let fits_if_there = |bytes: Option<&[u8]>, place: Option<&Place>| match (bytes, place) {
            (Some(bytes), Some(place)) => fits(bytes, place),
            (bytes, place) => bytes.is_none() && place.is_none(),
        };
        fits(packed.codes, &self.codes)
            && fits(packed.scales, &self.scales)
            && fits_if_there(packed.zeros, self.zeros.as_ref())
            && fits_if_there(packed.order, self.order.as_ref())
    }

    /// The bytes of its tensors among all files.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` when they are not there.
    pub fn packed<'a>(&self, files: &[&'a [u8]]) -> Result<Packed<'a>> {
        let data = |place: &Place| place.data(files).ok_or_else(|| self.lost());
        Ok(Packed {
            codes: data(&self.codes)?,
            zeros: self.zeros.as_ref().map(data).transpose()?,
            scales: data(&self.scales)?,
            order: self.order.as_ref().map(data).transpose()?,
        })
    }

    /// That its data are not to be had.
    pub(crate) fn lost(&self) -> Failure {
        Failure::corrupt("its data are not in the files").about(&*self.name)
    }
}

fn narrow(group: usize) -> u32 {
    u32::try_from(group).unwrap_or(u32::MAX)
}
