//! F32, F16 and BF16: a conversion each.

use qhost_plugin_api::sdk::Loop;

use crate::float::{to_bf16, to_f16};

/// Stores binary32.
pub(super) struct F32;

/// Rounds to binary16, to nearest even; what is too large becomes infinite.
pub(super) struct F16;

/// Rounds to bf16, to nearest even.
pub(super) struct BF16;

macro_rules! stored_by {
    ($($name:ident: $convert:expr;)*) => {
        $(
            impl Loop<&[f32], &mut [u8]> for $name {
                type Output = ();

                #[inline(always)]
                fn run(self, x: &[f32], out: &mut [u8]) {
                    for (x, out) in x.iter().zip(out.as_chunks_mut().0) {
                        *out = $convert(*x).to_le_bytes();
                    }
                }
            }
        )*
    };
}

stored_by! {
    F32: f32::from;
    F16: to_f16;
    BF16: to_bf16;
}
