//! In which encodings tensors of a file can be given besides floats, and their rows in them.

use std::ops::Range;

use qhost_plugin_api::{
    documents::Encoding,
    sdk::{Failure, Planes, Result},
};

use super::{Held, place::Place};
use crate::{
    arrange::{Arrangement, in_memory},
    conversion,
};
use qhost_ggml::{
    GgmlType,
    dequantize::codes::{Grouping, Room},
    float::from_f16,
    layout::{q4_1, q5_1, u16_at},
};

/// Types whose weights are no other numbers than ±d, 2 d and zero, so that binary16 holds them as it holds d.
const OF_F16: [&str; 4] = ["F16", "Q1_0", "TQ1_0", "TQ2_0"];

impl Held {
    /// The encodings that hold exactly its numbers: first that of the file, last floats.
    pub(super) fn encodings(&self, files: &[&[u8]]) -> Result<Vec<Encoding>> {
        let mut given = Vec::new();
        if let Some(ggml_type) = self.one_type().filter(|known| known.block_elements > 1) {
            given.push(conversion::own(ggml_type));
            if let Some(Grouping { bits, size, zero, scales }) = ggml_type.grouping() {
                let size = size as u64;
                given.push(match zero {
                    Some(zero) => Encoding::affine(bits, size, [zero.into(); 2], scales),
                    None => Encoding::minimum(bits, size, self.zeros(ggml_type, files)?, scales),
                });
            }
        }
        given.push(Encoding::float(self.dtype()));
        Ok(given)
    }

    /// Fills planes with rows in one of these encodings.
    pub(super) fn planes(&self, files: &[&[u8]], wanted: &Range<u64>, planes: &mut Planes) -> Result<()> {
        let encoding = planes.encoding().clone();
        let refused = || Failure::internal(format!("rows of {encoding} are not given")).about(&*self.name);
        let ggml_type = self.one_type().ok_or_else(refused)?;
        let grouping = ggml_type.grouping().filter(|grouping| {
            (Some(grouping.bits), Some(grouping.size as u64)) == (encoding.bits, encoding.group_size)
        });
        if encoding.is_grouped() && grouping.is_none()
            || !encoding.is_grouped() && encoding != conversion::own(ggml_type)
        {
            return Err(refused());
        }
        let (rows, groups) = (planes.rows().max(1), planes.groups());
        let width = planes.bytes.len() / rows;
        for place in &self.places {
            let bytes = place.bytes(files)?;
            for (line, index) in place.origin.held_rows(wanted, place.rows) {
                let row = place.row(bytes, index)?;
                let at = in_memory(line - wanted.start)?;
                let codes = &mut planes.bytes[at * width..(at + 1) * width];
                if encoding.is_grouped() {
                    let numbers = at * groups..(at + 1) * groups;
                    let (scales, offsets) = (&mut planes.scales[numbers.clone()], &mut planes.offsets[numbers]);
                    ggml_type.unpack(row, &mut Room { codes, scales, offsets });
                } else {
                    codes.copy_from_slice(row);
                }
            }
        }
        Ok(())
    }

    /// The type of all its parts, if its rows are whole rows of the file and nothing was added to them.
    fn one_type(&self) -> Option<GgmlType> {
        let (first, others) = self.places.split_first()?;
        let whole = |place: &Place| {
            matches!(place.origin.arrangement, Arrangement::Rows(_))
                && place.origin.shift.is_none()
                && place.row_elements == self.columns
        };
        let alike = others.iter().all(|place| place.ggml_type == first.ggml_type);
        (alike && self.places.iter().all(whole)).then_some(first.ggml_type)
    }

    /// The narrowest type of floats that holds its numbers.
    fn dtype(&self) -> &'static str {
        let all = |names: &[&str]| {
            self.places.iter().all(|place| place.origin.shift.is_none() && names.contains(&place.ggml_type.name))
        };
        match (all(&OF_F16), all(&["BF16"])) {
            (true, _) => "F16",
            (_, true) => "BF16",
            _ => "F32",
        }
    }

    /// The least and the greatest −minimum / scale. None for super-blocks, whose scales no other format has, and where a
    /// group has a minimum and no scale.
    fn zeros(&self, ggml_type: GgmlType, files: &[&[u8]]) -> Result<Option<[i64; 2]>> {
        let (d, m) = match ggml_type.name {
            "Q4_1" => (q4_1::D, q4_1::M),
            "Q5_1" => (q5_1::D, q5_1::M),
            _ => return Ok(None),
        };
        let (mut least, mut greatest) = (f32::INFINITY, f32::NEG_INFINITY);
        for place in &self.places {
            let bytes = place.bytes(files)?;
            if let Some(block) = ggml_type.first_invalid_block(bytes) {
                let weight = block as u64 * ggml_type.block_elements;
                let (row, at) = (weight / place.row_elements.max(1), weight % place.row_elements.max(1));
                return Err(place.corrupt(format!("a scale of row {row} is infinite or NaN, at weight {at}")));
            }
            for block in bytes.chunks_exact(in_memory(ggml_type.block_bytes)?) {
                let (scale, minimum) = (from_f16(u16_at(block, d)), from_f16(u16_at(block, m)));
                if scale != 0.0 {
                    let zero = -minimum / scale;
                    (least, greatest) = (least.min(zero), greatest.max(zero));
                } else if minimum != 0.0 {
                    return Ok(None);
                }
            }
        }
        #[expect(clippy::cast_possible_truncation, reason = "two f16 are at most 2^40 apart")]
        Ok(Some(if least <= greatest { [least.floor() as i64, greatest.ceil() as i64] } else { [0, 0] }))
    }
}
