//! What the numbers of each block type may be, in the words of rounding.

use qhost_ggml::{
    BlockType,
    layout::{BLOCK, SUPER_BLOCK, UNEVEN},
};
use qhost_rounding::{Minima, Scheme, Values};

/// The scheme of a type; none of floats.
///
/// Ranges are those that the reference writes: it leaves out −128 of Q8_0, and scales below zero.
pub(crate) const fn scheme(block_type: BlockType) -> Option<Scheme> {
    Some(match block_type {
        BlockType::F32 | BlockType::F16 | BlockType::BF16 => return None,
        BlockType::Q4_0 => alone(whole(-8, 7), Minima::None),
        BlockType::Q4_1 => alone(whole(0, 15), Minima::Own),
        BlockType::Q5_0 => alone(whole(-16, 15), Minima::None),
        BlockType::Q5_1 => alone(whole(0, 31), Minima::Own),
        BlockType::Q8_0 => Scheme { signed: false, ..alone(whole(-127, 127), Minima::None) },
        BlockType::Q2K => above(16, 3, 15),
        BlockType::Q3K => around(16, whole(-4, 3), [-32, 31]),
        BlockType::Q4K => above(32, 15, 63),
        BlockType::Q5K => above(32, 31, 63),
        BlockType::IQ4NL => alone(Values::Book(&UNEVEN), Minima::None),
        BlockType::IQ4XS => around(32, Values::Book(&UNEVEN), [-32, 31]),
        BlockType::Q6K => around(16, whole(-32, 31), [-128, 127]),
    })
}

const fn whole(least: i16, greatest: i16) -> Values {
    Values::Whole { least, greatest }
}

/// Blocks with a scale of their own.
const fn alone(values: Values, minima: Minima) -> Scheme {
    Scheme { size: BLOCK, count: 1, values, scales: [1, 1], signed: matches!(minima, Minima::None), minima }
}

/// Super-blocks of levels from 0 on, with scales and minima up to `most`.
const fn above(size: usize, greatest: i16, most: u8) -> Scheme {
    let scales = [0, most.cast_signed()];
    let (values, minima) = (whole(0, greatest), Minima::Multiples(most));
    Scheme { size, count: SUPER_BLOCK / size, values, scales, signed: false, minima }
}

/// Super-blocks of signed levels with signed scales.
const fn around(size: usize, values: Values, scales: [i8; 2]) -> Scheme {
    Scheme { size, count: SUPER_BLOCK / size, values, scales, signed: true, minima: Minima::None }
}
