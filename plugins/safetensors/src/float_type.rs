//! The types in which weights are stored, and rounding to them: to nearest, ties to even.
//!
//! It knows numbers, and no tensors.

use half::{
    bf16, f16,
    slice::{HalfBitsSliceExt, HalfFloatSliceExt},
};
use qhost_plugin_api::sdk::DType;

/// Numbers that are rounded at once; their halves stay in the CPU's first cache.
const AT_ONCE: usize = 1024;

/// A type of floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FloatType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16: 11 significant bits, up to 65504.
    F16,
    /// The upper half of binary32: 8 significant bits, and its range.
    BF16,
}

impl FloatType {
    /// All of them, in the order in which they are listed.
    pub(crate) const ALL: [Self; 3] = [Self::F32, Self::F16, Self::BF16];

    /// The type of a safetensors dtype name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|float| float.name() == name)
    }

    /// The safetensors dtype name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
        }
    }

    /// The name in `config.json`, which is torch's.
    pub(crate) const fn config_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
        }
    }

    /// The number of it at the border.
    pub(crate) const fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::BF16 => DType::BF16,
        }
    }

    /// Bytes of a number.
    pub(crate) const fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// Whether every number of another type is one of this type as well.
    pub(crate) fn holds(self, other: Self) -> bool {
        self == other || self == Self::F32
    }

    /// What a number of another type changes by, at most, when it is stored in this one, by itself: 2⁻ᵖ with p significant
    /// bits. That is so of normal numbers; below 2⁻¹⁴, those of F16 lie 2⁻²⁴ apart.
    pub(crate) fn rounding(self) -> f64 {
        match self {
            Self::F32 => 2.0_f64.powi(-24),
            Self::F16 => 2.0_f64.powi(-11),
            Self::BF16 => 2.0_f64.powi(-8),
        }
    }

    /// The largest finite number.
    pub(crate) fn largest(self) -> f32 {
        match self {
            Self::F32 => f32::MAX,
            Self::F16 => f16::MAX.to_f32(),
            Self::BF16 => bf16::MAX.to_f32(),
        }
    }

    /// Appends numbers as they are stored, and gives the index of the first that is infinite then, if one is.
    pub(crate) fn narrow(self, numbers: &[f32], out: &mut Vec<u8>) -> Option<usize> {
        out.reserve(numbers.len() * if self == Self::F32 { 4 } else { 2 });
        if self == Self::F32 {
            out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
            return numbers.iter().position(|number| number.is_infinite());
        }
        let mut all = [0_u16; AT_ONCE];
        let mut infinite = None;
        for (part, numbers) in numbers.chunks(AT_ONCE).enumerate() {
            let bits = &mut all[..numbers.len()];
            if self == Self::F16 {
                bits.reinterpret_cast_mut::<f16>().convert_from_f32_slice(numbers);
            } else {
                bits.reinterpret_cast_mut::<bf16>().convert_from_f32_slice(numbers);
            }
            let infinity = self.infinity();
            // Almost always there is none: a pass without branches first.
            if infinite.is_none() && bits.iter().fold(0, |any, bits| any | u16::from(bits & 0x7fff == infinity)) != 0 {
                infinite = bits.iter().position(|bits| bits & 0x7fff == infinity).map(|at| part * AT_ONCE + at);
            }
            out.extend(bits.iter().flat_map(|bits| bits.to_le_bytes()));
        }
        infinite
    }

    /// The index of the first number among stored ones that is not finite.
    pub(crate) fn first_not_finite(self, stored: &[u8]) -> Option<usize> {
        match self {
            Self::F32 => stored.as_chunks().0.iter().position(|bytes| !f32::from_le_bytes(*bytes).is_finite()),
            Self::F16 | Self::BF16 => {
                let infinity = self.infinity();
                let is_finite = |bytes: &[u8; 2]| u16::from_le_bytes(*bytes) & infinity != infinity;
                stored.as_chunks().0.iter().position(|bytes| !is_finite(bytes))
            }
        }
    }

    /// Infinity in 16 bits: every bit of the exponent, and no other.
    const fn infinity(self) -> u16 {
        match self {
            Self::F16 => 0x7c00,
            Self::BF16 | Self::F32 => 0x7f80,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every finite number of 16 bits that is not negative, in order.
    fn numbers(float: FloatType) -> Vec<f32> {
        let widen = |bits: u16| match float {
            FloatType::F16 => f16::from_bits(bits).to_f32(),
            _ => bf16::from_bits(bits).to_f32(),
        };
        (0..float.infinity()).map(widen).collect()
    }

    #[test]
    fn numbers_that_a_type_has_stay_and_those_between_go_to_the_nearest_with_ties_to_even() {
        for float in [FloatType::F16, FloatType::BF16] {
            let numbers = numbers(float);
            let stored = |values: &[f32]| {
                let mut out = Vec::new();
                assert_eq!(float.narrow(values, &mut out), None);
                let bits: Vec<_> = out.as_chunks().0.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect();
                bits
            };
            assert!(stored(&numbers).into_iter().eq(0..float.infinity()));
            let middles: Vec<_> = numbers.windows(2).map(|pair| pair[0] / 2.0 + pair[1] / 2.0).collect();
            let even = |lower: u16| lower + (lower & 1);
            // The smallest numbers of BF16 are those of F32, whose middles are none.
            let exact = |lower: usize| numbers[lower] < middles[lower] && middles[lower] < numbers[lower + 1];
            for (lower, rounded) in (0_u16..).zip(stored(&middles)).filter(|(lower, _)| exact(usize::from(*lower))) {
                assert_eq!(rounded, even(lower), "{float:?} above {lower:#06x}");
            }
            let above: Vec<_> = middles.iter().map(|middle| middle.next_up()).collect();
            for (lower, rounded) in (0_u16..).zip(stored(&above)).filter(|(lower, _)| exact(usize::from(*lower))) {
                assert_eq!(rounded, lower + 1, "{float:?} above {lower:#06x}");
            }
        }
    }

    #[test]
    fn what_becomes_infinite_is_found_wherever_it_is() {
        for float in [FloatType::F16, FloatType::BF16] {
            // Half a step beyond the largest number.
            let [.., before, largest] = numbers(float)[..] else { unreachable!() };
            let tie = largest + (largest - before) / 2.0;
            for (at, value) in [(0, tie), (1023, -tie), (1024, tie), (2500, tie)] {
                let mut values = vec![largest; 3000];
                assert_eq!(float.narrow(&values, &mut Vec::new()), None);
                values[at] = if value > 0.0 { value.next_down() } else { value.next_up() };
                assert_eq!(float.narrow(&values, &mut Vec::new()), None, "{float:?}");
                values[at] = value;
                assert_eq!(float.narrow(&values, &mut Vec::new()), Some(at), "{float:?}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_found_among_stored_numbers() {
        for float in FloatType::ALL {
            let mut stored = Vec::new();
            float.narrow(&[1.0, -0.0, float.largest()], &mut stored);
            assert_eq!(float.first_not_finite(&stored), None);
            for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
                let mut stored = Vec::new();
                float.narrow(&[1.0, bad, 2.0], &mut stored);
                assert_eq!(float.first_not_finite(&stored), Some(1), "{float:?} {bad}");
            }
        }
    }

    #[test]
    fn a_number_changes_by_no_more_than_is_said() {
        for float in [FloatType::F16, FloatType::BF16] {
            let values: Vec<_> = (0..u16::MAX).map(|at| 1.0 + f32::from(at) / 65_536.0 * 3.0).collect();
            let mut stored = Vec::new();
            float.narrow(&values, &mut stored);
            let halves: Vec<_> = stored.as_chunks().0.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect();
            let widen = |bits| match float {
                FloatType::F16 => f16::from_bits(bits).to_f32(),
                _ => bf16::from_bits(bits).to_f32(),
            };
            let worst = values.iter().zip(halves).map(|(value, bits)| f64::from((widen(bits) - value).abs() / value));
            let worst = worst.fold(0.0, f64::max);
            assert!(worst <= float.rounding() && worst > float.rounding() * 0.9, "{float:?}: {worst}");
        }
    }

    #[test]
    fn every_type_is_known_by_its_name() {
        for float in FloatType::ALL {
            assert_eq!(FloatType::named(float.name()), Some(float));
            assert!(float.holds(float) && FloatType::F32.holds(float));
        }
        assert!(!FloatType::F16.holds(FloatType::BF16) && !FloatType::BF16.holds(FloatType::F16));
    }
}
