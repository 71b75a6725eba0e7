//! The blocks of the IQ types, of which IQ4_NL and IQ4_XS are written and the others are read alone.
//!
//! "Index" is the place of a group's levels in the type's codebook, "sign" a set bit for each negative weight.

/// Groups of eight out of 256 entries: for each 32 weights four indexes, and a u32 of four times seven signs below a
/// 4-bit scale.
pub mod iq2_xxs {
    /// The super-block's scale, f16.
    pub const D: usize = 0;
    /// Eight times eight bytes.
    pub const QS: usize = 2;
    /// Bytes of a block.
    pub const BYTES: usize = QS + 64;
    const _: () = assert!(BYTES == 66);
}

/// Groups of eight out of 512 entries: a u16 with the index below seven signs.
pub mod iq2_xs {
    /// The super-block's scale, f16.
    pub const D: usize = 0;
    /// 32 u16.
    pub const QS: usize = 2;
    /// Eight bytes: the 4-bit scales of 16 weights, and of the next 16.
    pub const SCALES: usize = 66;
    /// Bytes of a block.
    pub const BYTES: usize = SCALES + 8;
    const _: () = assert!(BYTES == 74);
}

/// Groups of eight out of 1024 entries.
pub mod iq2_s {
    /// The super-block's scale, f16.
    pub const D: usize = 0;
    /// 32 bytes: the low eight bits of the indexes.
    pub const QS: usize = 2;
    /// 32 bytes: eight signs each.
    pub const SIGNS: usize = 34;
    /// Eight bytes: the high two bits of four indexes.
    pub const QH: usize = 66;
    /// As in IQ2_XS.
    pub const SCALES: usize = 74;
    /// Bytes of a block.
    pub const BYTES: usize = SCALES + 8;
    const _: () = assert!(BYTES == 82);
}

/// Groups of four out of 256 entries.
pub mod iq3_xxs {
    /// The super-block's scale, f16.
    pub const D: usize = 0;
    /// 64 indexes.
    pub const QS: usize = 2;
    /// For each 32 weights a u32, as in IQ2_XXS.
    pub const SCALES_AND_SIGNS: usize = 66;
    /// Bytes of a block.
    pub const BYTES: usize = SCALES_AND_SIGNS + 32;
    const _: () = assert!(BYTES == 98);
}

/// Groups of four out of 512 entries.
pub mod iq3_s {
    /// The super-block's scale, f16.
    pub const D: usize = 0;
    /// 64 bytes: the low eight bits of the indexes.
    pub const QS: usize = 2;
    /// Eight bytes: the ninth bits of eight indexes.
    pub const QH: usize = 66;
    /// 32 bytes: eight signs each.
    pub const SIGNS: usize = 74;
    /// Four bytes: the 4-bit scales of 32 weights, and of the next 32.
    pub const SCALES: usize = 106;
    /// Bytes of a block.
    pub const BYTES: usize = SCALES + 4;
    const _: () = assert!(BYTES == 110);
}

/// Groups of eight out of 2048 entries.
pub mod iq1_s {
    /// The super-block's scale, f16.
    pub const D: usize = 0;
    /// 32 bytes: the low eight bits of the indexes.
    pub const QS: usize = 2;
    /// Eight u16, each for 32 weights: the high three bits of four indexes, a 3-bit scale, and whether levels are
    /// shifted down.
    pub const QH: usize = 34;
    /// Bytes of a block.
    pub const BYTES: usize = QH + 16;
    const _: () = assert!(BYTES == 50);
}

/// Groups of eight out of 2048 entries.
pub mod iq1_m {
    /// 32 bytes: the low eight bits of the indexes.
    pub const QS: usize = 0;
    /// 16 bytes: in each half the high three bits of an index, and whether levels are shifted down.
    pub const QH: usize = 32;
    /// Four u16: four 3-bit scales, each for 16 weights, and a quarter of the super-block's scale.
    pub const SCALES: usize = 48;
    /// Bytes of a block.
    pub const BYTES: usize = SCALES + 8;
    const _: () = assert!(BYTES == 56);

    /// The super-block's scale, the bits of an f16.
    #[inline]
    pub fn d_bits(block: &[u8]) -> u16 {
        (0..4).fold(0, |bits, part| bits | super::super::u16_at(block, SCALES + 2 * part) >> 12 << (4 * part))
    }
}

/// The sixteen values of IQ4_NL and IQ4_XS (`kvalues_iq4nl`).
pub const UNEVEN: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Levels of uneven steps.
pub mod iq4_nl {
    /// The scale, f16.
    pub const D: usize = 0;
    /// As in Q4_0.
    pub const QS: usize = 2;
    /// Bytes of a block.
    pub const BYTES: usize = QS + 16;
    const _: () = assert!(BYTES == 18);
}

/// The levels of IQ4_NL; a 6-bit scale, stored with 32 added, for each 32 weights.
pub mod iq4_xs {
    /// The super-block's scale, f16.
    pub const D: usize = 0;
    /// A u16: the high two bits of eight scales.
    pub const SCALES_HIGH: usize = 2;
    /// Four bytes: the low four bits of two scales.
    pub const SCALES_LOW: usize = 4;
    /// For each 32 weights 16 bytes, as in Q4_0.
    pub const QS: usize = 8;
    /// Bytes of a block.
    pub const BYTES: usize = QS + 128;
    const _: () = assert!(BYTES == 136);
}

/// Stores the scales of IQ4_XS, from −32 to 31.
#[inline]
pub fn put_iq4_scales(block: &mut [u8], scales: [i8; 8]) {
    let (mut low, mut high) = ([0; 4], 0);
    for (j, scale) in scales.into_iter().enumerate() {
        let stored = (scale + 32).cast_unsigned();
        low[j / 2] |= (stored & 0xf) << (4 * (j % 2));
        high |= u16::from(stored >> 4) << (2 * j);
    }
    block[iq4_xs::SCALES_HIGH..iq4_xs::SCALES_LOW].copy_from_slice(&high.to_le_bytes());
    block[iq4_xs::SCALES_LOW..iq4_xs::QS].copy_from_slice(&low);
}
