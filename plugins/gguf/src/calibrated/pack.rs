//! Rounded rows into the bytes of their blocks.

use qhost_rounding::{Blocks, f16};

use qhost_ggml::{
    BlockType,
    layout::{
        iq4_nl, iq4_xs, put_2_bits, put_iq4_scales, put_q3_scales, put_scale_and_min, q2_k, q3_k, q4_0, q4_1, q4_k,
        q5_0, q5_1, q5_k, q6_k, q8_0,
    },
    quantize::{
        legacy::{put_4_bits, put_5_bits},
        q3_k as three, q4_k as four, q5_k as five, q6_k as six,
    },
};

/// One block.
struct Block<'a> {
    codes: &'a [u8],
    scales: &'a [i8],
    minima: &'a [u8],
    d: [u8; 2],
    m: [u8; 2],
}

/// Packs rows that were rounded by the type's scheme; `out` has room for them.
pub(crate) fn pack(block_type: BlockType, rows: &Blocks, out: &mut [u8]) {
    let of_block = rows.codes.len() / rows.d.len().max(1);
    let sub_blocks = rows.scales.len() / rows.d.len().max(1);
    let parts = rows
        .codes
        .chunks_exact(of_block.max(1))
        .zip(rows.scales.chunks_exact(sub_blocks.max(1)).zip(rows.minima.chunks_exact(sub_blocks.max(1))));
    let numbers = rows.d.iter().zip(&rows.m);
    for ((out, (codes, (scales, minima))), (d, m)) in
        out.chunks_exact_mut(block_type.block_bytes()).zip(parts).zip(numbers)
    {
        let bytes = |number: &f16| number.to_bits().to_le_bytes();
        put(block_type, &Block { codes, scales, minima, d: bytes(d), m: bytes(m) }, out);
    }
}

fn put(block_type: BlockType, block: &Block<'_>, out: &mut [u8]) {
    match block_type {
        // Floats have no scheme.
        BlockType::F32 | BlockType::F16 | BlockType::BF16 => {}
        BlockType::Q4_0 => {
            put_number(out, q4_0::D, block.d);
            put_4_bits(&mut out[q4_0::QS..], &levels(block));
        }
        BlockType::Q4_1 => {
            put_number(out, q4_1::D, block.d);
            put_number(out, q4_1::M, negative(block.m));
            put_4_bits(&mut out[q4_1::QS..], &levels(block));
        }
        BlockType::Q5_0 => {
            put_number(out, q5_0::D, block.d);
            put_5_bits(out, q5_0::QH, q5_0::QS, &levels(block));
        }
        BlockType::Q5_1 => {
            put_number(out, q5_1::D, block.d);
            put_number(out, q5_1::M, negative(block.m));
            put_5_bits(out, q5_1::QH, q5_1::QS, &levels(block));
        }
        BlockType::Q8_0 => {
            put_number(out, q8_0::D, block.d);
            for (out, code) in out[q8_0::QS..].iter_mut().zip(block.codes) {
                *out = code.wrapping_sub(127);
            }
        }
        BlockType::Q2K => {
            for (out, (scale, minimum)) in out[q2_k::SCALES..].iter_mut().zip(block.scales.iter().zip(block.minima)) {
                *out = scale.cast_unsigned() | minimum << 4;
            }
            put_number(out, q2_k::D, block.d);
            put_number(out, q2_k::DMIN, block.m);
            put_2_bits(&mut out[q2_k::QS..q2_k::D], &levels(block));
        }
        BlockType::Q3K => {
            let scales = std::array::from_fn(|at| (block.scales[at] + 32).cast_unsigned());
            put_q3_scales(&mut out[q3_k::SCALES..q3_k::D], &scales);
            put_number(out, q3_k::D, block.d);
            three::put_levels(&mut levels(block), out);
        }
        BlockType::Q4K => {
            put_scales_and_minima(out, block);
            four::put_levels(&levels(block), out);
        }
        BlockType::Q5K => {
            put_scales_and_minima(out, block);
            five::put_levels(&levels(block), out);
        }
        BlockType::IQ4NL => {
            put_number(out, iq4_nl::D, block.d);
            put_4_bits(&mut out[iq4_nl::QS..], &levels(block));
        }
        BlockType::IQ4XS => {
            put_number(out, iq4_xs::D, block.d);
            put_iq4_scales(out, std::array::from_fn(|at| block.scales[at]));
            for (out, codes) in out[iq4_xs::QS..].as_chunks_mut::<16>().0.iter_mut().zip(block.codes.as_chunks().0) {
                put_4_bits(out, codes);
            }
        }
        BlockType::Q6K => {
            for (out, scale) in out[q6_k::SCALES..q6_k::D].iter_mut().zip(block.scales) {
                *out = scale.cast_unsigned();
            }
            put_number(out, q6_k::D, block.d);
            six::put_levels(&levels(block), out);
        }
    }
}

/// The levels of a block of so many weights.
fn levels<const N: usize>(block: &Block<'_>) -> [u8; N] {
    let mut levels = [0; N];
    levels.copy_from_slice(block.codes);
    levels
}

fn put_number(out: &mut [u8], at: usize, number: [u8; 2]) {
    out[at..at + 2].copy_from_slice(&number);
}

/// What is added is stored where rounding subtracts.
fn negative(number: [u8; 2]) -> [u8; 2] {
    (-f16::from_le_bytes(number)).to_le_bytes()
}

/// The head that Q4_K and Q5_K have in common.
fn put_scales_and_minima(out: &mut [u8], block: &Block<'_>) {
    const _: () = assert!(q4_k::D == q5_k::D && q4_k::DMIN == q5_k::DMIN && q4_k::SCALES == q5_k::SCALES);

    put_number(out, q4_k::D, block.d);
    put_number(out, q4_k::DMIN, block.m);
    let mut packed = [0; 12];
    for (at, (scale, minimum)) in block.scales.iter().zip(block.minima).enumerate() {
        put_scale_and_min(&mut packed, at, scale.cast_unsigned(), *minimum);
    }
    out[q4_k::SCALES..q4_k::SCALES + packed.len()].copy_from_slice(&packed);
}

#[cfg(test)]
mod tests {
    use qhost_rounding::{Scheme, Values};

    use super::*;
    use crate::calibrated::scheme;

    /// Two blocks in which every number of the scheme occurs.
    fn example(scheme: &Scheme) -> Blocks {
        let (count, subs) = (2 * scheme.columns(), 2 * scheme.count);
        let values = match scheme.values {
            Values::Whole { least, greatest } => usize::try_from(greatest - least + 1).unwrap(),
            Values::Book(_) => 16,
        };
        let small = |number: usize| u8::try_from(number).unwrap();
        let span = usize::try_from(i16::from(scheme.scales[1]) - i16::from(scheme.scales[0]) + 1).unwrap();
        let has_minima = scheme.minima != qhost_rounding::Minima::None;
        Blocks {
            codes: (0..count).map(|at| small((at * 37 + at / 7) % values)).collect(),
            scales: (0..subs)
                .map(|at| i8::try_from(i16::from(scheme.scales[0]) + i16::from(small(at * 11 % span))).unwrap())
                .collect(),
            minima: (0..subs).map(|at| if has_minima { small(1 + (at * 5 % span.min(15))) } else { 0 }).collect(),
            d: vec![f16::from_f32(0.125), f16::from_f32(0.25)],
            m: vec![f16::from_f32(0.5), f16::from_f32(0.0625)],
            ..Blocks::default()
        }
    }

    #[test]
    fn what_is_packed_is_widened_to_what_the_numbers_say() {
        for block_type in BlockType::ALL {
            let Some(scheme) = scheme(block_type) else { continue };
            let rows = example(&scheme);
            let mut bytes = vec![0xaa; 2 * scheme.columns() / block_type.block_elements() * block_type.block_bytes()];
            pack(block_type, &rows, &mut bytes);
            let mut widened = vec![0.0; rows.codes.len()];
            block_type.dequantize(&bytes, &mut widened);
            for (at, found) in widened.iter().enumerate() {
                let (sub, block) = (at / scheme.size, at / scheme.columns());
                let value = match scheme.values {
                    Values::Whole { least, .. } => f32::from(least + i16::from(rows.codes[at])),
                    Values::Book(values) => f32::from(values[usize::from(rows.codes[at])]),
                };
                let minimum = rows.m[block].to_f32() * f32::from(rows.minima[sub]);
                let expected = rows.d[block].to_f32() * f32::from(rows.scales[sub]) * value - minimum;
                assert!((found - expected).abs() < 1e-6, "{} {at}: {found} {expected}", block_type.name());
            }
        }
    }
}
