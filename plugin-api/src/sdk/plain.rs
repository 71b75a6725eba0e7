//! Floats as they cross the border: little-endian bytes, which on most machines is how they lie in memory.
#![expect(unsafe_code, reason = "floats seen as the bytes that they are")]

use std::borrow::Cow;

/// `f32` and `f64`.
pub(super) trait Float: Copy + Default {
    /// The number whose bytes are this one's in little-endian order, or the other way round.
    fn little(self) -> Self;
}

macro_rules! float {
    ($float:ty) => {
        impl Float for $float {
            fn little(self) -> Self {
                Self::from_bits(self.to_bits().to_le())
            }
        }
    };
}

float!(f32);
float!(f64);

/// Numbers as little-endian bytes, without a copy where they are.
pub(super) fn little_endian<T: Float>(numbers: &[T]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        Cow::Borrowed(bytes(numbers))
    } else {
        let turned: Vec<T> = numbers.iter().map(|number| number.little()).collect();
        Cow::Owned(bytes(&turned).to_vec())
    }
}

/// Numbers that `fill` gives as little-endian bytes.
pub(super) fn filled<T: Float, E>(count: usize, fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Vec<T>, E> {
    let mut numbers = vec![T::default(); count];
    // SAFETY: any bytes are a float, and the slice covers the numbers exactly.
    let raw = unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), size_of_val(&*numbers)) };
    fill(raw)?;
    if cfg!(target_endian = "big") {
        for number in &mut numbers {
            *number = number.little();
        }
    }
    Ok(numbers)
}

fn bytes<T: Float>(numbers: &[T]) -> &[u8] {
    // SAFETY: any byte of a float is a byte, and the slice covers the numbers exactly.
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
