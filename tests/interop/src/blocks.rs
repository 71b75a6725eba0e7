//! What the reference never writes into the fields of a block, though the format could hold it.
//!
//! The scales of Q4_0, Q5_0, Q3_K, Q6_K and of the types with a code book have either sign, and all their other bits are used.

/// The fields of a type's block that are bounded: its size, where scales and the like lie that are not below zero, and
/// where codes of eight bits begin that are not below −127.
struct Bounds {
    kind: &'static str,
    size: usize,
    positive: &'static [usize],
    codes: Option<usize>,
}

const BOUNDS: [Bounds; 6] = [
    Bounds { kind: "Q4_1", size: 20, positive: &[0], codes: None },
    Bounds { kind: "Q5_1", size: 24, positive: &[0], codes: None },
    Bounds { kind: "Q8_0", size: 34, positive: &[0], codes: Some(2) },
    Bounds { kind: "Q2_K", size: 84, positive: &[80, 82], codes: None },
    Bounds { kind: "Q4_K", size: 144, positive: &[0, 2], codes: None },
    Bounds { kind: "Q5_K", size: 176, positive: &[0, 2], codes: None },
];

/// What is beyond the reference's bounds in the blocks of a type, if anything is. That numbers are finite is asked of
/// llama.cpp instead.
#[must_use]
pub fn fault(kind: &str, bytes: &[u8]) -> Option<String> {
    let bounds = BOUNDS.iter().find(|bounds| bounds.kind == kind)?;
    bytes.chunks(bounds.size).enumerate().find_map(|(index, block)| {
        let negative = |at: &usize| u16::from_le_bytes([block[*at], block[at + 1]]) > 0x8000;
        if let Some(at) = bounds.positive.iter().find(|at| negative(at)) {
            return Some(format!("block {index}: what lies at {at} is below zero"));
        }
        let codes = &block[bounds.codes.unwrap_or(bounds.size)..];
        codes.contains(&0x80).then(|| format!("block {index}: a code is −128"))
    })
}

#[cfg(test)]
mod tests {
    use super::{BOUNDS, fault};

    #[test]
    fn each_bound_is_seen_in_the_last_block() {
        for bounds in &BOUNDS {
            let blocks = vec![0x7f; 3 * bounds.size];
            assert_eq!(fault(bounds.kind, &blocks), None, "{}", bounds.kind);
            for field in bounds.positive {
                let mut broken = blocks.clone();
                broken[2 * bounds.size + field + 1] |= 0x80;
                assert!(fault(bounds.kind, &broken).unwrap().contains("block 2"), "{} {field}", bounds.kind);
                // A zero with a sign is no number below zero.
                broken[2 * bounds.size + field..][..2].copy_from_slice(&[0, 0x80]);
                assert_eq!(fault(bounds.kind, &broken), None, "{} {field}", bounds.kind);
            }
            let mut broken = blocks.clone();
            // A code at Q8_0, and bits of any meaning elsewhere.
            broken[2 * bounds.size + 4] = 0x80;
            assert_eq!(fault(bounds.kind, &broken).is_some(), bounds.codes.is_some(), "{}", bounds.kind);
        }
        assert_eq!(fault("Q6_K", &[0x80; 210]), None);
    }
}
