//! From weights to blocks, byte for byte as ggml's reference quantiser.
//!
//! One function per block type, over whole blocks, that depends on nothing but its input. The
//! reference is `ggml_quantize_chunk`, without an importance matrix and with one, compiled for plain
//! x86-64: no fused multiply-add, so nothing here may use `mul_add`, and all sums are in `f32` and in order.
//! The words of the format are kept: a *level* is the stored integer of a weight, a *scale* and a
//! *minimum* turn levels into weights. It knows no tensors and no threads.
#![expect(clippy::inline_always, reason = "what is not inlined into a kernel is not compiled for its instruction set")]

mod blocks;
mod cost;
mod dispatch;
mod error;
mod float;
mod iq4;
mod lanes;
pub mod legacy;
mod minima;
mod pack;
mod q2_k;
pub mod q3_k;
pub mod q4_k;
pub mod q5_k;
pub mod q6_k;
mod round;
mod search;

use dispatch::run;
use qhost_plugin_api::sdk::InstructionSet;

use crate::BlockType;

impl BlockType {
    /// Quantises weights into blocks.
    ///
    /// Every input gives some bytes, and finite weights give the reference's. What the f16 scales of
    /// a type cannot hold becomes a block that [`first_invalid_block`](Self::first_invalid_block)
    /// finds. But from about 1e12 on the sums of the K-quants overflow, and as in the reference a
    /// valid block may then hold nonsense; so it is with infinities and NaN, which the caller must
    /// keep away.
    ///
    /// # Panics
    /// If `x` is no whole number of blocks or `out` is not exactly their bytes: a defect in the caller.
    pub fn quantize(self, x: &[f32], out: &mut [u8]) {
        self.quantize_on(InstructionSet::best(), x, out);
    }

    /// As [`quantize`](Self::quantize), with the kernel of an instruction set, which the machine must have.
    ///
    /// # Panics
    /// As there, and if the machine does not have the instruction set.
    pub fn quantize_on(self, set: InstructionSet, x: &[f32], out: &mut [u8]) {
        self.check_lengths(x, out);
        self.quantize_blocks(set, x, None, out);
    }

    /// Whether the bytes depend on how important columns are: whether
    /// [`quantize_weighted`](Self::quantize_weighted) is another function.
    #[must_use]
    pub const fn uses_importance(self) -> bool {
        !matches!(self, Self::F32 | Self::F16 | Self::BF16 | Self::Q8_0)
    }

    /// Quantises whole rows into blocks, with less error where the importance of a column is large.
    ///
    /// `columns` holds the importance of each column, finite and not negative, and so tells the length of
    /// a row. Otherwise it is with weights as in [`quantize`](Self::quantize).
    ///
    /// # Panics
    /// As [`quantize`](Self::quantize), and if `x` is no whole number of rows of whole blocks.
    pub fn quantize_weighted(self, x: &[f32], columns: &[f32], out: &mut [u8]) {
        self.quantize_weighted_on(InstructionSet::best(), x, columns, out);
    }

    /// As [`quantize_weighted`](Self::quantize_weighted), with the kernel of an instruction set.
    ///
    /// # Panics
    /// As there, and if the machine does not have the instruction set.
    pub fn quantize_weighted_on(self, set: InstructionSet, x: &[f32], columns: &[f32], out: &mut [u8]) {
        if !self.uses_importance() {
            return self.quantize_on(set, x, out);
        }
        self.check_lengths(x, out);
        let whole = columns.len().is_multiple_of(self.block_elements()) && x.len().is_multiple_of(columns.len());
        assert!(whole, "{} weights are no whole rows of {} as {}", x.len(), columns.len(), self.name());
        self.quantize_blocks(set, x, Some(columns), out);
    }

    fn quantize_blocks(self, set: InstructionSet, x: &[f32], columns: Option<&[f32]>, out: &mut [u8]) {
        match self {
            Self::F32 => set.run(float::F32, x, out),
            Self::F16 => set.run(float::F16, x, out),
            Self::BF16 => set.run(float::BF16, x, out),
            Self::Q4_0 => run::<legacy::Q4_0>(set, x, columns, out),
            Self::Q4_1 => run::<legacy::Q4_1>(set, x, columns, out),
            Self::Q5_0 => run::<legacy::Q5_0>(set, x, columns, out),
            Self::Q5_1 => run::<legacy::Q5_1>(set, x, columns, out),
            Self::Q8_0 => run::<legacy::Q8_0>(set, x, None, out),
            Self::Q2K => run::<q2_k::Q2K>(set, x, columns, out),
            Self::Q3K => run::<q3_k::Q3K>(set, x, columns, out),
            Self::Q4K => run::<q4_k::Q4K>(set, x, columns, out),
            Self::Q5K => run::<q5_k::Q5K>(set, x, columns, out),
            Self::Q6K => run::<q6_k::Q6K>(set, x, columns, out),
            Self::IQ4NL => run::<iq4::IQ4NL>(set, x, columns, out),
            Self::IQ4XS => run::<iq4::IQ4XS>(set, x, columns, out),
        }
    }

    fn check_lengths(self, x: &[f32], out: &[u8]) {
        assert_eq!(x.len() % self.block_elements(), 0, "{} weights are no whole {} blocks", x.len(), self.name());
        assert_eq!(
            out.len(),
            x.len() / self.block_elements() * self.block_bytes(),
            "a wrong number of bytes for {} weights as {}",
            x.len(),
            self.name()
        );
    }
}
