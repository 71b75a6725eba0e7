//! A target as libFuzzer takes it, with changes by what is written in an input beside those of its bytes.

use qhost_fuzz::{Random, Target, mutate};

/// Makes a target the program's.
#[macro_export]
macro_rules! fuzz {
    ($target:expr) => {
        ::libfuzzer_sys::fuzz_target!(
            init: $crate::begin(),
            |bytes: &[u8]| { let _ = $target.run(bytes); }
        );

        ::libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, most: usize, seed: u32| {
            $crate::change(&$target, data, size, most, seed)
        });
    };
}

/// Replaces libFuzzer's hook, which ends the process at a panic even where it is caught. One that is not is seen all the
/// same.
pub fn begin() {
    qhost_fuzz::without_traces();
}

/// Changes the first `size` bytes of `data`, in half of all cases by their form, and gives the new length.
pub fn change(target: &Target, data: &mut [u8], size: usize, most: usize, seed: u32) -> usize {
    if seed % 2 == 0 {
        return libfuzzer_sys::fuzzer_mutate(data, size, most);
    }
    let mut random = Random::new(seed.into());
    let made = mutate(target.form, &data[..size], &data[..size], &mut random);
    let length = made.len().min(most);
    data[..length].copy_from_slice(&made[..length]);
    length
}
