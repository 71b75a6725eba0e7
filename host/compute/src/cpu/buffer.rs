//! Buffers of zeros. Large ones ask for large pages: a product's output is written once, and with small pages
//! a part of its time goes into the system's handing out of pages.
#![cfg_attr(target_os = "linux", expect(unsafe_code, reason = "advice to the system about a buffer's pages"))]

/// From so many bytes on, large pages are asked for.
#[cfg(target_os = "linux")]
const LARGE: usize = 4 << 20;

/// So many zeros.
pub(super) fn zeros(length: usize) -> Vec<f32> {
    let zeros = vec![0.0_f32; length];
    #[cfg(target_os = "linux")]
    if length * size_of::<f32>() >= LARGE {
        advise(&zeros);
    }
    zeros
}

/// Asks for large pages; whether the system gives some is its own affair.
#[cfg(target_os = "linux")]
fn advise(buffer: &[f32]) {
    // A page of any system that has large ones is a divisor of this.
    const PAGE: usize = 64 << 10;
    let start = buffer.as_ptr().addr().next_multiple_of(PAGE);
    let end = buffer.as_ptr_range().end.addr() / PAGE * PAGE;
    if start < end {
        let skipped = start - buffer.as_ptr().addr();
        // SAFETY: the range lies within the buffer, and this advice changes neither what is in it nor whether it
        // can be used; a refusal is no fault.
        unsafe {
            libc::madvise(
                buffer.as_ptr().cast::<u8>().add(skipped).cast_mut().cast(),
                end - start,
                libc::MADV_HUGEPAGE,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::zeros;

    #[test]
    fn buffers_of_any_size_are_zeros_and_can_be_written() {
        for length in [0, 1, 1000, (4 << 20) + 3] {
            let mut buffer = zeros(length);
            assert!(buffer.len() == length && buffer.iter().all(|number| number.to_bits() == 0));
            buffer.fill(1.0);
        }
    }
}
