//! The blocks of types that are read and not written, and have no codebooks.

/// Ternary, five weights a byte: a byte is a fraction of 256 whose digits of base three are the weights plus one.
pub mod tq1_0 {
    /// 48 bytes: 32 with weights `m`, `m + 32`, … `m + 128`, and 16 with the weights after these, in steps of 16.
    pub const QS: usize = 0;
    /// Four bytes with the last weights, in steps of four.
    pub const QH: usize = 48;
    /// The scale, f16.
    pub const D: usize = 52;
    /// Bytes of a block.
    pub const BYTES: usize = D + 2;
    const _: () = assert!(BYTES == 54);
}

/// Ternary, two bits: the weight plus one.
pub mod tq2_0 {
    /// 64 bytes, as in Q2_K.
    pub const QS: usize = 0;
    /// The scale, f16.
    pub const D: usize = 64;
    /// Bytes of a block.
    pub const BYTES: usize = D + 2;
    const _: () = assert!(BYTES == 66);
}

/// One bit: the scale where it is set, and its negative where not.
pub mod q1_0 {
    /// Weights of a block.
    pub const WEIGHTS: usize = 128;
    /// The scale, f16.
    pub const D: usize = 0;
    /// 16 bytes, the first weight in the lowest bit.
    pub const QS: usize = 2;
    /// Bytes of a block.
    pub const BYTES: usize = QS + 16;
    const _: () = assert!(BYTES == 18);
}

/// Two bits: `w = d · (q − 1)`.
pub mod q2_0 {
    /// Weights of a block.
    pub const WEIGHTS: usize = 64;
    /// The scale, f16.
    pub const D: usize = 0;
    /// 16 bytes, the first weight in the lowest bits.
    pub const QS: usize = 2;
    /// Bytes of a block.
    pub const BYTES: usize = QS + 16;
    const _: () = assert!(BYTES == 18);
}

/// Four-bit floats of E2M1 under a power of two.
pub mod mxfp4 {
    /// Weights of a block.
    pub const WEIGHTS: usize = 32;
    /// The scale, a byte of E8M0.
    pub const E: usize = 0;
    /// As in Q4_0.
    pub const QS: usize = 1;
    /// Bytes of a block.
    pub const BYTES: usize = QS + 16;
    const _: () = assert!(BYTES == 17);
}

/// Four-bit floats of E2M1 under an 8-bit float for each 16.
pub mod nvfp4 {
    /// Weights of a block.
    pub const WEIGHTS: usize = 64;
    /// Four bytes of E4M3 without a sign.
    pub const SCALES: usize = 0;
    /// For each 16 weights eight bytes, weight `j` in the low half of byte `j`, weight `j + 8` in the high half.
    pub const QS: usize = 4;
    /// Bytes of a block.
    pub const BYTES: usize = QS + 32;
    const _: () = assert!(BYTES == 36);
}
