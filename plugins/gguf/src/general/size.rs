//! The number of parameters as model names have it.

/// Counted over the tensors of the file.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Parameters {
    /// All of them.
    pub(super) total: u64,
    /// Those that every token passes through.
    shared: u64,
    /// Those of one expert of each layer.
    expert: u64,
    /// Experts of all tensors that hold some, and the number of such tensors.
    experts: (u64, u64),
}

impl Parameters {
    /// Counts the tensors with these names and shapes, outermost dimension first.
    pub(crate) fn of<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a [u64])>) -> Self {
        let mut counted = Self::default();
        for (name, shape) in tensors {
            let size: u64 = shape.iter().product();
            counted.total += size;
            // Experts are the outermost dimension of a stack of matrices (or of biases).
            match shape {
                [count, _, _, ..] if *count > 0 && name.contains("_exps.") => {
                    counted.expert += size / count;
                    counted.experts = (counted.experts.0 + count, counted.experts.1 + 1);
                }
                _ => counted.shared += size,
            }
        }
        counted
    }

    /// `260K`, `4.2M`, `7B`; for a mixture of experts the size of one with what all share: `8x7B`.
    pub(super) fn label(self) -> String {
        match self.experts.0.checked_div(self.experts.1) {
            Some(experts @ 1..) => format!("{experts}x{}", rounded(self.shared + self.expert)),
            _ => rounded(self.total),
        }
    }
}

/// At least two digits, counted before the point in the rounded number, as `gguf-py` does it: 9.6
/// billion are `10B`.
#[expect(clippy::cast_precision_loss, reason = "rounded to two digits")]
fn rounded(parameters: u64) -> String {
    let scales = [(1e12, 1e-12, "T"), (1e9, 1e-9, "B"), (1e6, 1e-6, "M")];
    let count = parameters as f64;
    let (_, scale, letter) = scales.into_iter().find(|(from, ..)| count > *from).unwrap_or((0.0, 1e-3, "K"));
    let scaled = count * scale;
    let decimals = match scaled.round_ties_even() {
        ..1.0 => 2,
        1.0..10.0 => 1,
        _ => 0,
    };
    format!("{scaled:.decimals$}{letter}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `model_weight_count_rounded_notation` of gguf-py 0.19.0 gives.
    const SIZE_LABELS: &[(u64, &str)] = &[
        (0, "0.00K"),
        (1, "0.00K"),
        (400, "0.40K"),
        (500, "0.50K"),
        (501, "0.5K"),
        (512, "0.5K"),
        (9_499, "9.5K"),
        (9_500, "10K"),
        (9_960, "10K"),
        (10_500, "10K"),
        (11_500, "12K"),
        (260_032, "260K"),
        (999_499, "999K"),
        (999_999, "1000K"),
        (1_000_000, "1000K"),
        (1_250_000, "1.2M"),
        (1_350_000, "1.3M"),
        (4_200_000, "4.2M"),
        (9_449_999, "9.4M"),
        (9_450_000, "9.4M"),
        (9_499_999, "9.5M"),
        (9_500_000, "10M"),
        (9_500_001, "10M"),
        (9_600_000, "10M"),
        (9_940_000, "10M"),
        (9_960_000, "10M"),
        (10_500_000, "10M"),
        (11_500_000, "12M"),
        (124_439_808, "124M"),
        (999_600_000, "1000M"),
        (1_050_000_000, "1.1B"),
        (1_235_814_400, "1.2B"),
        (2_250_000_000, "2.2B"),
        (6_738_415_616, "6.7B"),
        (8_030_261_248, "8.0B"),
        (9_241_705_984, "9.2B"),
        (9_450_000_000, "9.5B"),
        (9_550_000_000, "10B"),
        (9_600_000_000, "10B"),
        (12_500_000_000, "12B"),
        (70_553_706_496, "71B"),
        (405_853_388_800, "406B"),
        (999_999_999_999, "1000B"),
        (1_040_000_000_000, "1.0T"),
        (9_700_000_000_000, "10T"),
    ];

    #[test]
    fn size_labels_are_those_of_the_reference() {
        for &(parameters, label) in SIZE_LABELS {
            assert_eq!(rounded(parameters), label, "{parameters}");
        }
    }
}
