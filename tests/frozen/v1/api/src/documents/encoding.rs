//! How weights are stored, apart from the file around them, and what plugins can make of each other's: the documents by
//! which conversions are negotiated.
//!
//! They name kinds, numbers of bits and groups; they hold no weights and know no format.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A tensor's numbers as one plugin gives them and another takes them.
///
/// Three kinds are universal. In all of them groups are of consecutive inputs of one output, unless `permuted` is set:
/// - [`FLOAT`](Self::FLOAT): floats of the type `dtype`;
/// - [`AFFINE`](Self::AFFINE): *w = scale · (code − zero)*, with a scale and an integer zero point for each group;
/// - [`MINIMUM`](Self::MINIMUM): *w = scale · code + minimum*, with a scale and a minimum for each group.
///
/// Any other is a format's own, named `format/name`: rows of bytes that only who knows the name understands. A key that
/// has no meaning for a kind is absent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Encoding {
    /// Which kind.
    pub kind: String,
    /// The type of floats, or of scales (and minima): a safetensors dtype name (`F16`, `BF16`, `F32`). Every value is
    /// one of that type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
    /// The bits of a code: it is below 2^bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits: Option<u32>,
    /// Inputs of a group; where a group is a whole row, its length. The last group of a row may be shorter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_size: Option<u64>,
    /// The least and the greatest zero point of the tensor. With minima these are the least and the greatest
    /// *−minimum / scale*, rounded down and up; absent if they are not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zeros: Option<[i64; 2]>,
    /// Whether the group of every input is told by a list, instead of following from the order of the inputs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub permuted: bool,
    /// For a format's own kind, how many weights of a row a block has, and how many bytes. A row is whole blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<[u64; 2]>,
}

impl Encoding {
    /// The kind of floats.
    pub const FLOAT: &str = "float";
    /// The kind of codes with a scale and a zero point for each group.
    pub const AFFINE: &str = "grouped-affine";
    /// The kind of codes with a scale and a minimum for each group.
    pub const MINIMUM: &str = "grouped-minimum";

    fn of_kind(kind: impl Into<String>) -> Self {
        let kind = kind.into();
        Self { kind, dtype: None, bits: None, group_size: None, zeros: None, permuted: false, block: None }
    }

    /// Floats of a type.
    pub fn float(dtype: impl Into<String>) -> Self {
        Self { dtype: Some(dtype.into()), ..Self::of_kind(Self::FLOAT) }
    }

    /// Codes in groups with scales of a type and zero points in a range.
    pub fn affine(bits: u32, group_size: u64, zeros: [i64; 2], scales: impl Into<String>) -> Self {
        let (bits, group_size) = (Some(bits), Some(group_size));
        Self { dtype: Some(scales.into()), bits, group_size, zeros: Some(zeros), ..Self::of_kind(Self::AFFINE) }
    }

    /// Codes in groups with scales and minima of a type.
    pub fn minimum(bits: u32, group_size: u64, zeros: Option<[i64; 2]>, scales: impl Into<String>) -> Self {
        let (bits, group_size) = (Some(bits), Some(group_size));
        Self { dtype: Some(scales.into()), bits, group_size, zeros, ..Self::of_kind(Self::MINIMUM) }
    }

    /// A format's own kind, `format/name`, with blocks of so many weights and bytes.
    pub fn own(kind: impl Into<String>, weights: u64, bytes: u64) -> Self {
        Self { block: Some([weights, bytes]), ..Self::of_kind(kind) }
    }

    /// The same with a list of the groups of inputs.
    #[must_use]
    pub fn permuted(mut self) -> Self {
        self.permuted = true;
        self
    }

    /// Whether these are floats.
    #[must_use]
    pub fn is_float(&self) -> bool {
        self.kind == Self::FLOAT
    }

    /// Whether these are codes in groups.
    #[must_use]
    pub fn is_grouped(&self) -> bool {
        self.kind == Self::AFFINE || self.kind == Self::MINIMUM
    }

    /// The one zero point that all groups have, if they have one.
    #[must_use]
    pub fn zero(&self) -> Option<i64> {
        self.zeros.filter(|[least, greatest]| least == greatest && self.kind == Self::AFFINE).map(|[zero, _]| zero)
    }

    /// Bytes of a row of so many inputs, of a format's own kind.
    #[must_use]
    pub fn row_bytes(&self, inputs: u64) -> Option<u64> {
        let [weights, bytes] = self.block.filter(|[weights, _]| *weights > 0)?;
        inputs.div_ceil(weights).checked_mul(bytes)
    }

    /// Groups in a row of so many inputs.
    #[must_use]
    pub fn groups(&self, inputs: u64) -> u64 {
        self.group_size.filter(|size| *size > 0).map_or(0, |size| inputs.div_ceil(size))
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.kind, self.bits, &self.dtype) {
            (kind, Some(bits), _) => {
                write!(f, "{kind}, {bits} bits")?;
                if let Some(size) = self.group_size {
                    write!(f, ", groups of {size}")?;
                }
                match self.zero() {
                    Some(zero) => write!(f, " around {zero}")?,
                    None if self.permuted => f.write_str(" in an order of their own")?,
                    None => {}
                }
                Ok(())
            }
            (kind, None, Some(dtype)) if kind == Self::FLOAT => f.write_str(dtype),
            (kind, ..) => f.write_str(kind),
        }
    }
}

/// Encodings that a plugin declares to take, or to give: those of a kind that keep to what is said. What is absent or
/// empty is not restricted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EncodingPattern {
    /// Which kind.
    pub kind: String,
    /// Types of floats, or of scales.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dtypes: Vec<String>,
    /// Numbers of bits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bits: Vec<u32>,
    /// The size of a group is a multiple of this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_multiple_of: Option<u64>,
    /// Zero points are from the first to the second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zeros: Option<[i64; 2]>,
    /// A code less its zero point is from the first to the second, and all groups have one zero point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub around_one_zero: Option<[i64; 2]>,
    /// Whether inputs are in an order of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permuted: Option<bool>,
}

impl EncodingPattern {
    /// All encodings of a kind.
    pub fn new(kind: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            dtypes: Vec::new(),
            bits: Vec::new(),
            group_multiple_of: None,
            zeros: None,
            around_one_zero: None,
            permuted: None,
        }
    }

    /// Of those the ones with codes of these widths.
    #[must_use]
    pub fn bits(mut self, bits: impl IntoIterator<Item = u32>) -> Self {
        self.bits = bits.into_iter().collect();
        self
    }

    /// Of those the ones with floats, or scales, of these types.
    #[must_use]
    pub fn dtypes(mut self, dtypes: &[&str]) -> Self {
        self.dtypes = dtypes.iter().map(|&dtype| dtype.to_owned()).collect();
        self
    }

    /// Of those the ones whose groups are multiples of a size.
    #[must_use]
    pub fn groups_of(mut self, multiple_of: u64) -> Self {
        self.group_multiple_of = Some(multiple_of);
        self
    }

    /// Of those the ones whose zero points are in a range.
    #[must_use]
    pub fn zeros(mut self, least: i64, greatest: i64) -> Self {
        self.zeros = Some([least, greatest]);
        self
    }

    /// Of those the ones with one zero point, and codes less it in a range.
    #[must_use]
    pub fn around_one_zero(mut self, least: i64, greatest: i64) -> Self {
        self.around_one_zero = Some([least, greatest]);
        self
    }

    /// Of those the ones whose inputs are, or are not, in an order of their own.
    #[must_use]
    pub fn permuted(mut self, permuted: bool) -> Self {
        self.permuted = Some(permuted);
        self
    }

    /// Whether an encoding keeps to it. What an encoding does not tell does not keep to a restriction.
    #[must_use]
    pub fn fits(&self, encoding: &Encoding) -> bool {
        let listed = |dtype: &String| self.dtypes.contains(dtype);
        let within = |[least, greatest]: [i64; 2], [lower, upper]: [i64; 2]| lower <= least && greatest <= upper;
        let codes = || {
            let zero = encoding.zero()?;
            let top = 1_i64.checked_shl(encoding.bits?)?;
            Some([zero.checked_neg()?, top.checked_sub(1)?.checked_sub(zero)?])
        };
        self.kind == encoding.kind
            && (self.dtypes.is_empty() || encoding.dtype.as_ref().is_some_and(listed))
            && (self.bits.is_empty() || encoding.bits.is_some_and(|bits| self.bits.contains(&bits)))
            && self
                .group_multiple_of
                .is_none_or(|of| encoding.group_size.is_some_and(|size| of > 0 && size > 0 && size.is_multiple_of(of)))
            && self.zeros.is_none_or(|range| encoding.zeros.is_some_and(|zeros| within(zeros, range)))
            && self.around_one_zero.is_none_or(|range| codes().is_some_and(|codes| within(codes, range)))
            && self.permuted.is_none_or(|permuted| permuted == encoding.permuted)
    }
}

impl fmt::Display for EncodingPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        let mut facts = Vec::new();
        if !self.bits.is_empty() {
            facts.push(format!("{} bits", joined(&self.bits)));
        }
        if let Some(of) = self.group_multiple_of {
            facts.push(format!("groups of a multiple of {of}"));
        }
        if let Some([least, greatest]) = self.zeros {
            facts.push(format!("zero points {least} to {greatest}"));
        }
        if let Some([least, greatest]) = self.around_one_zero {
            facts.push(format!("{least} to {greatest} around one zero point"));
        }
        if !self.dtypes.is_empty() {
            facts.push(joined(&self.dtypes));
        }
        if self.permuted == Some(false) {
            facts.push("inputs in order".into());
        }
        if facts.is_empty() { Ok(()) } else { write!(f, " ({})", facts.join(", ")) }
    }
}

fn joined(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join("/")
}

/// How the numbers that come out relate to those that went in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FidelityClass {
    /// They are the same numbers.
    Exact,
    /// Each was rounded once, within a bound that is known beforehand.
    Rounded,
    /// They were quantised.
    Requantised,
}

/// What a step of a conversion does to numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Fidelity {
    /// How they relate.
    pub class: FidelityClass,
    /// Where they are rounded: the greatest changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bounds: Vec<Bound>,
}

impl Fidelity {
    /// The same numbers.
    #[must_use]
    pub fn exact() -> Self {
        Self { class: FidelityClass::Exact, bounds: Vec::new() }
    }

    /// Every weight changes by at most so much of something.
    #[must_use]
    pub fn rounded(most: f64, of: BoundOf) -> Self {
        Self { class: FidelityClass::Rounded, bounds: vec![Bound { most, of }] }
    }

    /// Quantised anew.
    #[must_use]
    pub fn requantised() -> Self {
        Self { class: FidelityClass::Requantised, bounds: Vec::new() }
    }

    /// Of this step and another after it.
    #[must_use]
    pub fn then(&self, next: &Self) -> Self {
        let class = self.class.max(next.class);
        let mut bounds = self.bounds.clone();
        for bound in &next.bounds {
            match bounds.iter_mut().find(|before| before.of == bound.of) {
                Some(before) => before.most += bound.most,
                None => bounds.push(*bound),
            }
        }
        if class != FidelityClass::Rounded {
            bounds.clear();
        }
        Self { class, bounds }
    }
}

/// The most by which a weight changes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Bound {
    /// How much.
    pub most: f64,
    /// Of what.
    pub of: BoundOf,
}

/// What a bound is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BoundOf {
    /// The weight itself.
    Weight,
    /// The minimum of its group.
    Minimum,
    /// The scale of its group: the distance of two neighbouring codes.
    Step,
}

/// A plugin makes one encoding of another, through its service `transcode/1`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Transcoding {
    /// What it takes.
    pub from: EncodingPattern,
    /// What it gives. Keys that are absent are those of what it takes.
    pub to: Encoding,
    /// What the step does to the numbers.
    pub fidelity: Fidelity,
}

impl Transcoding {
    /// A step from encodings to one.
    #[must_use]
    pub fn new(from: EncodingPattern, to: Encoding, fidelity: Fidelity) -> Self {
        Self { from, to, fidelity }
    }

    /// What comes out of an encoding; none if it is not taken.
    #[must_use]
    pub fn of(&self, encoding: &Encoding) -> Option<Encoding> {
        if !self.from.fits(encoding) {
            return None;
        }
        let Encoding { kind, dtype, bits, group_size, zeros, permuted, block } = self.to.clone();
        let own = kind.contains('/');
        let inherited = |of_kind: bool| of_kind.then_some(encoding);
        let grouped = inherited(!own && kind != Encoding::FLOAT);
        Some(Encoding {
            dtype: dtype.or_else(|| inherited(!own)?.dtype.clone()),
            bits: bits.or_else(|| grouped?.bits),
            group_size: group_size.or_else(|| grouped?.group_size),
            zeros: zeros.or_else(|| grouped?.zeros),
            permuted: permuted || grouped.is_some_and(|encoding| encoding.permuted),
            block,
            kind,
        })
    }
}

/// What a source is converted from, for the plugin that makes the target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Conversion {
    /// The format of the source.
    pub format: String,
    /// The level that its files say they have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// For every tensor of the model how the source stores it, and what the plugin may take in place of floats.
    pub tensors: Vec<Arriving>,
}

impl Conversion {
    /// A conversion of files of a format.
    pub fn new(format: impl Into<String>, tensors: Vec<Arriving>) -> Self {
        Self { format: format.into(), level: None, tensors }
    }
}

/// A tensor of a source that is converted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Arriving {
    /// How the source stores it.
    pub stored: Encoding,
    /// What the plugin declares to take and can have, the cheapest first. Floats are always there beside them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offers: Vec<Offer>,
}

impl Arriving {
    /// A tensor that is stored so, and can be had so.
    #[must_use]
    pub fn new(stored: Encoding, offers: Vec<Offer>) -> Self {
        Self { stored, offers }
    }
}

/// An encoding in which a tensor can be had.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Offer {
    /// The encoding.
    pub encoding: Encoding,
    /// What is done to the numbers on the way to it.
    pub fidelity: Fidelity,
}

impl Offer {
    /// An encoding, and what the way to it does.
    #[must_use]
    pub fn new(encoding: Encoding, fidelity: Fidelity) -> Self {
        Self { encoding, fidelity }
    }
}

/// The answer of `encodings` of `decode/1`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Encodings {
    /// For every tensor of the model, the encodings that hold exactly its numbers: first that of the files, last floats.
    pub tensors: Vec<Vec<Encoding>>,
}

impl Encodings {
    /// Of every tensor.
    #[must_use]
    pub fn new(tensors: Vec<Vec<Encoding>>) -> Self {
        Self { tensors }
    }
}

/// The request of `planes` of `decode/1`, and of `rows` of `planes/1`: rows of a tensor in an encoding that is given, or
/// offered. How many is the outputs' to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PlanesRequest {
    /// The tensor's id in the model of the job.
    pub tensor: u32,
    /// The first row.
    pub first_row: u64,
    /// Weights of a row.
    pub row_elements: u64,
    /// In which encoding.
    pub encoding: Encoding,
}

impl PlanesRequest {
    /// Rows of so many weights of a tensor, from one on.
    #[must_use]
    pub fn new(tensor: u32, first_row: u64, row_elements: u64, encoding: Encoding) -> Self {
        Self { tensor, first_row, row_elements, encoding }
    }
}

/// The request of `planes` of `transcode/1`; the planes of `from` are the operands, those of `to` the outputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TranscodeRequest {
    /// What comes.
    pub from: Encoding,
    /// What is wanted.
    pub to: Encoding,
    /// Rows.
    pub rows: u64,
    /// Weights of a row.
    pub row_elements: u64,
}

impl TranscodeRequest {
    /// So many rows from one encoding to another.
    #[must_use]
    pub fn new(from: Encoding, to: Encoding, rows: u64, row_elements: u64) -> Self {
        Self { from, to, rows, row_elements }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_what_keeps_to_all_that_it_says() {
        let symmetric = Encoding::affine(4, 128, [8, 8], "F16");
        let pattern = EncodingPattern::new(Encoding::AFFINE)
            .bits([2, 3, 4])
            .groups_of(32)
            .around_one_zero(-8, 7)
            .dtypes(&["F16"])
            .permuted(false);
        assert!(pattern.fits(&symmetric));
        assert!(pattern.fits(&Encoding::affine(3, 32, [4, 4], "F16")), "narrower codes");
        for other in [
            Encoding::affine(4, 128, [7, 8], "F16"),
            Encoding::affine(4, 128, [7, 7], "F16"),
            Encoding::affine(4, 48, [8, 8], "F16"),
            Encoding::affine(5, 32, [16, 16], "F16"),
            Encoding::affine(4, 32, [8, 8], "F32"),
            symmetric.clone().permuted(),
            Encoding::minimum(4, 32, Some([8, 8]), "F16"),
            Encoding::float("F16"),
        ] {
            assert!(!pattern.fits(&other), "{other:?}");
        }
        let zeros = EncodingPattern::new(Encoding::AFFINE).zeros(0, 15);
        assert!(zeros.fits(&Encoding::affine(4, 32, [0, 15], "F16")));
        assert!(!zeros.fits(&Encoding::affine(4, 32, [0, 16], "F16")));
    }

    #[test]
    fn a_transcoding_gives_what_it_says_and_otherwise_what_came() {
        let blocks = Encoding::own("toy/blocks", 32, 18);
        let mut to = Encoding::affine(4, 32, [8, 8], "F16");
        let decode = Transcoding::new(EncodingPattern::new("toy/blocks"), to.clone(), Fidelity::exact());
        assert_eq!(decode.of(&blocks), Some(to.clone()));
        assert_eq!(decode.of(&to), None);
        to.zeros = Some([128, 128]);
        (to.dtype, to.group_size, to.bits) = (None, None, Some(8));
        let widen = Transcoding::new(EncodingPattern::new(Encoding::AFFINE), to, Fidelity::exact());
        let came = Encoding::affine(4, 64, [8, 8], "BF16").permuted();
        assert_eq!(widen.of(&came), Some(Encoding::affine(8, 64, [128, 128], "BF16").permuted()));
    }

    #[test]
    fn the_worst_step_is_the_class_of_a_way_and_bounds_add_up() {
        let narrow = Fidelity::rounded(0.25, BoundOf::Weight);
        assert_eq!(Fidelity::exact().then(&narrow), narrow);
        let twice = narrow.then(&narrow);
        assert_eq!(twice.bounds, [Bound { most: 0.5, of: BoundOf::Weight }]);
        assert_eq!(twice.then(&Fidelity::rounded(0.5, BoundOf::Step)).bounds.len(), 2);
        assert_eq!(narrow.then(&Fidelity::requantised()), Fidelity::requantised());
    }
}
