//! Rows of a tensor in one of the encodings by which plugins exchange weights.
//!
//! It knows the universal kinds; a format's own rows are bytes here.

use super::{DType, Failure, Operand, OperandMut, Result, plain};
use crate::documents::Encoding;

/// Rows in an encoding.
///
/// Codes with scales: `bytes` has a code for each weight, row by row; `scales` and `offsets` have a number for each group
/// of each row, and a weight is *scale · (code − offset)* of the kind [`Encoding::AFFINE`], *scale · code + offset* of the
/// kind [`Encoding::MINIMUM`]. A format's own kind: `bytes` has all rows. Floats have no planes: they are lent as rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Planes {
    encoding: Encoding,
    rows: usize,
    inputs: usize,
    groups: usize,
    /// Codes, or rows of a format's own kind.
    pub bytes: Vec<u8>,
    /// `[rows, groups]`.
    pub scales: Vec<f32>,
    /// Zero points or minima, `[rows, groups]`.
    pub offsets: Vec<f32>,
    /// The group of every input, where the encoding is `permuted`.
    pub order: Vec<u32>,
}

impl Planes {
    /// Room for rows of so many inputs, filled with zeros.
    ///
    /// # Errors
    /// Fails with kind `UNSUPPORTED` for floats and for a kind that does not say what it takes, and with `RESOURCES` where
    /// that is more than memory.
    pub fn room(encoding: &Encoding, rows: u64, inputs: u64) -> Result<Self> {
        let count = |count: Option<u64>| {
            let count = count.and_then(|count| usize::try_from(count).ok());
            count.ok_or_else(|| Failure::new(super::FailureKind::RESOURCES, "a tensor is longer than memory"))
        };
        let mut made = Self {
            encoding: encoding.clone(),
            rows: count(Some(rows))?,
            inputs: count(Some(inputs))?,
            groups: 0,
            bytes: Vec::new(),
            scales: Vec::new(),
            offsets: Vec::new(),
            order: Vec::new(),
        };
        if encoding.is_grouped() {
            made.groups = count(Some(encoding.groups(inputs)))?;
            if made.groups == 0 && inputs > 0 {
                return Err(Failure::unsupported(format!("{encoding} does not say how large a group is")));
            }
            let groups = count(rows.checked_mul(encoding.groups(inputs)))?;
            made.bytes = vec![0; count(rows.checked_mul(inputs))?];
            (made.scales, made.offsets) = (vec![0.0; groups], vec![0.0; groups]);
            made.order = if encoding.permuted { vec![0; made.inputs] } else { Vec::new() };
        } else if encoding.block.is_some_and(|[weights, _]| weights > 0) {
            let row = encoding.row_bytes(inputs);
            made.bytes = vec![0; count(row.and_then(|row| row.checked_mul(rows)))?];
        } else {
            return Err(Failure::unsupported(format!("rows of {encoding} are not given as planes")));
        }
        Ok(made)
    }

    /// The encoding.
    #[must_use]
    pub fn encoding(&self) -> &Encoding {
        &self.encoding
    }

    /// The number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Weights of a row.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Groups of a row; none in a format's own kind.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// The group of an input.
    #[must_use]
    pub fn group_of(&self, input: usize) -> usize {
        match self.order.get(input) {
            Some(group) => *group as usize,
            None => {
                self.encoding.group_size.map_or(0, |size| input / usize::try_from(size).unwrap_or(usize::MAX).max(1))
            }
        }
    }

    /// The weights of codes with scales.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` when an input is in a group that is not there, and with `INTERNAL` when these are no codes
    /// or `out` is not exactly their weights.
    pub fn weights(&self, out: &mut [f32]) -> Result<()> {
        if !self.encoding.is_grouped() || out.len() != self.bytes.len() {
            return Err(Failure::internal(format!("{} floats for rows of {}", out.len(), self.encoding)));
        }
        let groups: Vec<usize> = (0..self.inputs).map(|input| self.group_of(input)).collect();
        if groups.iter().any(|group| *group >= self.groups) {
            return Err(Failure::corrupt("an input is in a group that is not there"));
        }
        let minimum = self.encoding.kind == Encoding::MINIMUM;
        let width = self.inputs.max(1);
        let rows = out.chunks_exact_mut(width).zip(self.bytes.chunks_exact(width));
        for (row, (out, codes)) in rows.enumerate() {
            for ((out, &code), group) in out.iter_mut().zip(codes).zip(&groups) {
                let at = row * self.groups + group;
                let (scale, offset, code) = (self.scales[at], self.offsets[at], f32::from(code));
                *out = if minimum { scale * code + offset } else { scale * (code - offset) };
            }
        }
        Ok(())
    }

    /// Has someone fill all planes.
    ///
    /// # Errors
    /// Fails when `fill` does.
    pub fn fill<T>(&mut self, fill: impl FnOnce(&mut [OperandMut<'_>]) -> Result<T>) -> Result<T> {
        let (rows, inputs, groups) = (self.rows as u64, self.inputs as u64, self.groups as u64);
        let row_elements =
            if self.encoding.is_grouped() { inputs } else { self.encoding.row_bytes(inputs).unwrap_or(0) };
        let mut outputs = vec![OperandMut { dtype: DType::U8, rows, row_elements, data: &mut self.bytes }];
        if self.encoding.is_grouped() {
            for numbers in [&mut self.scales, &mut self.offsets] {
                let data = plain::bytes_mut(numbers);
                outputs.push(OperandMut { dtype: DType::F32, rows, row_elements: groups, data });
            }
        }
        if self.encoding.permuted {
            let data = plain::bytes_mut(&mut self.order);
            outputs.push(OperandMut { dtype: DType::U32, rows: 1, row_elements: inputs, data });
        }
        let answer = fill(&mut outputs)?;
        drop(outputs);
        plain::turn(&mut self.scales);
        plain::turn(&mut self.offsets);
        plain::turn(&mut self.order);
        Ok(answer)
    }

    /// Copies all planes to where they are wanted.
    ///
    /// # Errors
    /// Fails with kind `INTERNAL` when these are not places for them.
    pub fn copy_to(&self, outputs: &mut [OperandMut<'_>]) -> Result<()> {
        let planes = self.views();
        let fits = |(plane, output): (&View<'_>, &OperandMut<'_>)| {
            plane.dtype == output.dtype && plane.data.len() == output.data.len()
        };
        if planes.len() != outputs.len() || !planes.iter().zip(&*outputs).all(fits) {
            return Err(Failure::internal(format!("the outputs have no place for rows of {}", self.encoding)));
        }
        outputs.iter_mut().zip(planes).for_each(|(output, plane)| output.data.copy_from_slice(&plane.data));
        Ok(())
    }

    /// Shows all planes, as they go into a call.
    pub fn show<T>(&self, look: impl FnOnce(&[Operand<'_>]) -> T) -> T {
        let views = self.views();
        let operands: Vec<_> = views
            .iter()
            .map(|view| Operand {
                dtype: view.dtype,
                rows: view.rows,
                row_elements: view.row_elements,
                data: &view.data,
            })
            .collect();
        look(&operands)
    }

    fn views(&self) -> Vec<View<'_>> {
        let (rows, inputs, groups) = (self.rows as u64, self.inputs as u64, self.groups as u64);
        let row_elements =
            if self.encoding.is_grouped() { inputs } else { self.encoding.row_bytes(inputs).unwrap_or(0) };
        let view = |dtype, rows, row_elements, data| View { dtype, rows, row_elements, data };
        let mut views = vec![view(DType::U8, rows, row_elements, self.bytes.as_slice().into())];
        if self.encoding.is_grouped() {
            views.extend(
                [&self.scales, &self.offsets]
                    .map(|numbers| view(DType::F32, rows, groups, plain::little_endian(numbers))),
            );
        }
        if self.encoding.permuted {
            views.push(view(DType::U32, 1, inputs, plain::little_endian(&self.order)));
        }
        views
    }
}

struct View<'a> {
    dtype: DType,
    rows: u64,
    row_elements: u64,
    data: std::borrow::Cow<'a, [u8]>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_cross_as_bytes_and_come_back() {
        let encoding = Encoding::affine(4, 2, [0, 15], "F16").permuted();
        let mut planes = Planes::room(&encoding, 2, 3).unwrap();
        assert_eq!((planes.rows(), planes.inputs(), planes.groups()), (2, 3, 2));
        planes.bytes.copy_from_slice(&[1, 2, 3, 4, 5, 15]);
        planes.scales.copy_from_slice(&[1.0, 0.5, -2.0, 0.25]);
        planes.offsets.copy_from_slice(&[8.0, 7.0, 0.0, 15.0]);
        planes.order.copy_from_slice(&[1, 0, 1]);
        let mut copy = Planes::room(&encoding, 2, 3).unwrap();
        copy.fill(|outputs| planes.copy_to(outputs)).unwrap();
        assert_eq!(copy, planes);
        let mut weights = [0.0; 6];
        copy.weights(&mut weights).unwrap();
        assert_eq!(weights.map(f32::to_bits), [-3.0, -6.0, -2.0, -2.75, -10.0, 0.0].map(f32::to_bits));
        copy.order[0] = 2;
        assert_eq!(copy.weights(&mut weights).unwrap_err().kind, super::super::FailureKind::CORRUPT);
        let other = Planes::room(&Encoding::affine(4, 2, [8, 8], "F16"), 2, 3).unwrap();
        assert!(copy.fill(|outputs| other.copy_to(outputs)).is_err(), "a plane is missing");
    }

    #[test]
    fn a_minimum_is_added_and_own_rows_are_bytes() {
        let mut planes = Planes::room(&Encoding::minimum(4, 32, None, "F16"), 1, 2).unwrap();
        planes.bytes.copy_from_slice(&[0, 3]);
        (planes.scales[0], planes.offsets[0]) = (0.5, -1.0);
        let mut weights = [0.0; 2];
        planes.weights(&mut weights).unwrap();
        assert_eq!(weights.map(f32::to_bits), [-1.0, 0.5].map(f32::to_bits));
        let own = Planes::room(&Encoding::own("toy/blocks", 32, 18), 3, 32).unwrap();
        assert_eq!(own.bytes.len(), 54);
        own.show(|planes| assert_eq!((planes.len(), planes[0].rows, planes[0].row_elements), (1, 3, 18)));
        for refused in [Encoding::float("F16"), Encoding::affine(4, 0, [8, 8], "F16")] {
            assert!(Planes::room(&refused, 1, 32).is_err(), "{refused}");
        }
        assert!(Planes::room(&Encoding::own("toy/blocks", 32, u64::MAX), 3, 32).is_err());
    }
}
