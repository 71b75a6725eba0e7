//! Numbers as they cross the border: little-endian bytes, which on most machines is how they lie in memory.
#![expect(unsafe_code, reason = "numbers seen as the bytes that they are")]

use std::borrow::Cow;

/// `f32`, `f64` and `u32`.
pub(super) trait Number: Copy + Default {
    /// The number whose bytes are this one's in little-endian order, or the other way round.
    fn little(self) -> Self;
}

macro_rules! float {
    ($float:ty) => {
        impl Number for $float {
            fn little(self) -> Self {
                Self::from_bits(self.to_bits().to_le())
            }
        }
    };
}

float!(f32);
float!(f64);

impl Number for u32 {
    fn little(self) -> Self {
        self.to_le()
    }
}

/// Numbers as little-endian bytes, without a copy where they are.
pub(super) fn little_endian<T: Number>(numbers: &[T]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        Cow::Borrowed(bytes(numbers))
    } else {
        let turned: Vec<T> = numbers.iter().map(|number| number.little()).collect();
        Cow::Owned(bytes(&turned).to_vec())
    }
}

/// Numbers that `fill` gives as little-endian bytes.
pub(super) fn filled<T: Number, E>(count: usize, fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Vec<T>, E> {
    let mut numbers = vec![T::default(); count];
    fill(bytes_mut(&mut numbers))?;
    turn(&mut numbers);
    Ok(numbers)
}

/// The bytes of numbers, as they lie in memory; see [`turn`].
pub(super) fn bytes_mut<T: Number>(numbers: &mut [T]) -> &mut [u8] {
    // SAFETY: any bytes are such a number, and the slice covers the numbers exactly.
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), size_of_val(numbers)) }
}

/// Makes numbers of what was filled in as little-endian bytes.
pub(super) fn turn<T: Number>(numbers: &mut [T]) {
    if cfg!(target_endian = "big") {
        for number in numbers {
            *number = number.little();
        }
    }
}

fn bytes<T: Number>(numbers: &[T]) -> &[u8] {
    // SAFETY: any byte of a number is a byte, and the slice covers the numbers exactly.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), size_of_val(numbers)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_from_their_bytes() {
        let numbers = [1.5_f64, -2.0, f64::MIN_POSITIVE];
        let bytes = little_endian(&numbers);
        assert_eq!(bytes[..8], 1.5_f64.to_le_bytes());
        let back: Vec<f64> = filled(3, |raw| {
            raw.copy_from_slice(&bytes);
            Ok::<_, ()>(())
        })
        .unwrap();
        let bits = |numbers: &[f64]| numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&back), bits(&numbers));
    }
}
