//! Quantised files as the source of a GGUF file: what of them is taken as it is, and what that costs.
//!
//! It knows encodings and block types; which tensors there are is told by [`crate::items`], and the mixture by
//! [`crate::recipe`].

use qhost_plugin_api::{
    documents::{Arriving, BoundOf, Conversion, Encoding, EncodingPattern, Fidelity, FidelityClass, Model},
    sdk::{Failure, Result},
};

use qhost_ggml::GgmlType;

use crate::{
    arrange::Arrangement,
    format::{BlockType, LEVELS, Level},
    items::{Content, Item},
    reader::FORMAT,
    recipe::{Choice, stays_f32},
};

/// What the rounding of a minimum to binary16 may change of it: half a unit in the last place, and the rounding of the
/// sum.
const ROUNDED_MINIMUM: f64 = 4.89e-4;
/// What rounding to binary16, and to the upper half of binary32, may change of a weight.
const HALF: f64 = 4.89e-4;
const BRAIN: f64 = 3.91e-3;

/// The types into which codes are packed, the shortest first.
const PACKED: [BlockType; 5] = [BlockType::Q4_0, BlockType::Q4_1, BlockType::Q5_0, BlockType::Q5_1, BlockType::Q8_0];

/// How a tensor is taken.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Taken {
    /// In which encoding.
    pub(crate) encoding: Encoding,
    /// What its way to here and packing it do to the numbers.
    all: Fidelity,
    /// What packing it does.
    pub(crate) fidelity: Fidelity,
}

impl Taken {
    fn is_exact(&self) -> bool {
        self.all.class == FidelityClass::Exact
    }
}

/// The kind of this format's own rows of a type.
pub(crate) fn own_kind(name: &str) -> String {
    format!("{FORMAT}/{name}")
}

/// The encoding of this format's own rows of a type.
pub(crate) fn own(ggml_type: GgmlType) -> Encoding {
    Encoding::own(own_kind(ggml_type.name), ggml_type.block_elements, ggml_type.block_bytes)
}

/// What is taken beside floats.
pub(crate) fn takes() -> Vec<EncodingPattern> {
    let quantised = BlockType::ALL.into_iter().filter(|block_type| block_type.block_elements() > 1);
    let mut takes: Vec<_> = quantised.map(|block_type| EncodingPattern::new(own_kind(block_type.name()))).collect();
    let codes = |kind: &str| EncodingPattern::new(kind).groups_of(32).dtypes(&["F16"]).permuted(false);
    takes.push(codes(Encoding::AFFINE).bits(1..=8).around_one_zero(-128, 127));
    takes.push(codes(Encoding::AFFINE).bits(1..=5));
    takes.push(codes(Encoding::MINIMUM).bits(1..=5));
    takes
}

/// What is given beside floats.
pub(crate) fn gives() -> Vec<EncodingPattern> {
    let quantised = GgmlType::all().filter(|known| known.holds_weights() && known.block_elements > 1);
    let mut gives: Vec<_> = quantised.map(|known| EncodingPattern::new(own_kind(known.name))).collect();
    gives.push(EncodingPattern::new(Encoding::AFFINE).bits([2, 3, 4, 5, 6, 8]).permuted(false));
    gives.push(EncodingPattern::new(Encoding::MINIMUM).bits([2, 4, 5]).permuted(false));
    gives
}

/// What packing an encoding into a type does to its numbers; none if the type does not hold it.
fn packing(encoding: &Encoding, block_type: BlockType) -> Option<Fidelity> {
    if encoding.kind == own_kind(block_type.name()) {
        return Some(Fidelity::exact());
    }
    let bits = encoding.bits?;
    let whole = encoding.group_size.is_some_and(|size| size > 0 && size.is_multiple_of(32));
    if !whole || encoding.permuted || encoding.dtype.as_deref() != Some("F16") {
        return None;
    }
    if let (Some([least, greatest]), Some(zero)) = (block_type.range(), encoding.zero()) {
        let top = 1_i64.checked_shl(bits)? - 1;
        return (-zero >= least && top - zero <= greatest).then(Fidelity::exact);
    }
    if bits > block_type.bits_above_minimum()? {
        return None;
    }
    match encoding.kind.as_str() {
        Encoding::MINIMUM => Some(Fidelity::exact()),
        Encoding::AFFINE => Some(Fidelity::rounded(ROUNDED_MINIMUM, BoundOf::Minimum)),
        _ => None,
    }
}

/// The best way to take a tensor as a type; none if all of it has to come as floats.
pub(crate) fn taken(item: &Item, block_type: BlockType, conversion: &Conversion) -> Option<Taken> {
    let Content::Weights { origin, .. } = &item.content else { return None };
    let (Arrangement::Rows(_), None) = (origin.arrangement, origin.shift) else { return None };
    let row = *item.shape.last()?;
    block_type.row_bytes(row).filter(|_| block_type.block_elements() > 1)?;
    let arriving: Vec<&Arriving> =
        origin.tensors.iter().map(|tensor| conversion.tensors.get(*tensor as usize)).collect::<Option<_>>()?;
    let (first, others) = arriving.split_first()?;
    let ways = first.offers.iter().filter_map(|offer| {
        let fidelity = packing(&offer.encoding, block_type)?;
        // All tensors that become one are taken alike.
        let mut all = offer.fidelity.then(&fidelity);
        for other in others {
            let same = other.offers.iter().find(|other| other.encoding == offer.encoding)?;
            all = all.then(&same.fidelity);
        }
        Some(Taken { encoding: offer.encoding.clone(), all, fidelity })
    });
    ways.filter(|way| way.all.class < FidelityClass::Requantised).min_by_key(|way| way.all.class)
}

/// The types by which least is lost, where the user names no level: what can be taken is, and the rest stays floats.
///
/// None if nothing can be taken.
///
/// # Errors
/// Fails with kind `USAGE` for a source that is a file of this format: that would be the same file.
pub(crate) fn gentlest(
    items: &[Item],
    model: &Model,
    conversion: &Conversion,
) -> Result<Option<(&'static Level, Vec<Choice>)>> {
    if conversion.format == FORMAT {
        let made = conversion.level.as_deref().map(|level| format!(" of the level {level}")).unwrap_or_default();
        return Err(Failure::usage(format!("the source is a GGUF file{made} already"))
            .hint("say with --level what is to be made of it"));
    }
    let mut weights = [0_u64; PACKED.len()];
    let choices: Vec<Choice> = items
        .iter()
        .map(|item| {
            let ways = PACKED.iter().enumerate().filter_map(|(index, block_type)| {
                Some((index, *block_type, taken(item, *block_type, conversion)?)).filter(|_| !stays_f32(&item.into()))
            });
            let best = ways.min_by_key(|(index, _, way)| (!way.is_exact(), *index));
            let block_type = match best {
                Some((index, block_type, _)) => {
                    weights[index] += item.shape.iter().product::<u64>();
                    block_type
                }
                None => as_it_comes(item, model),
            };
            Choice { block_type, instead_of: None }
        })
        .collect();
    let most = (0..PACKED.len()).filter(|index| weights[*index] > 0).max_by_key(|index| weights[*index]);
    let level = most.and_then(|index| LEVELS.iter().find(|level| level.base == PACKED[index]));
    Ok(level.map(|level| (level, choices)))
}

/// The floats of a tensor as the source has them.
pub(crate) fn as_it_comes(item: &Item, model: &Model) -> BlockType {
    let Content::Weights { origin, .. } = &item.content else { return BlockType::F32 };
    let dtype = |tensor: &u32| model.tensors.get(*tensor as usize).map(|tensor| tensor.dtype.as_str());
    let all = |wanted: &str| origin.tensors.iter().all(|tensor| dtype(tensor) == Some(wanted));
    match (stays_f32(&item.into()), all("F16"), all("BF16")) {
        (false, true, _) => BlockType::F16,
        (false, _, true) => BlockType::BF16,
        _ => BlockType::F32,
    }
}

/// What becomes of floats of the model's types as a type of the file.
pub(crate) fn of_floats(item: &Item, block_type: BlockType, model: &Model) -> Fidelity {
    let Content::Weights { origin, .. } = &item.content else { return Fidelity::exact() };
    let dtype = |tensor: &u32| model.tensors.get(*tensor as usize).map(|tensor| tensor.dtype.as_str());
    let all = |wanted: &str| origin.tensors.iter().all(|tensor| dtype(tensor) == Some(wanted));
    match block_type {
        // The 1 that is added may cost the last bits of the sum.
        BlockType::F32 if origin.shift.is_some() && all("F16") => Fidelity::rounded(HALF, BoundOf::Weight),
        BlockType::F32 if origin.shift.is_some() && all("F32") => Fidelity::rounded(6e-8, BoundOf::Weight),
        BlockType::F32 => Fidelity::exact(),
        BlockType::F16 if all("F16") => Fidelity::exact(),
        BlockType::BF16 if all("BF16") => Fidelity::exact(),
        BlockType::F16 => Fidelity::rounded(HALF, BoundOf::Weight),
        BlockType::BF16 => Fidelity::rounded(BRAIN, BoundOf::Weight),
        _ => Fidelity::requantised(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(encoding: &Encoding, block_type: BlockType) -> Option<FidelityClass> {
        packing(encoding, block_type).map(|fidelity| fidelity.class)
    }

    #[test]
    fn a_type_takes_what_it_holds_and_nothing_else() {
        use BlockType::{Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q8_0};
        use FidelityClass::{Exact, Rounded};
        let affine = |bits, zeros| Encoding::affine(bits, 128, zeros, "F16");
        for (encoding, block_type, expected) in [
            (affine(4, [8, 8]), Q4_0, Some(Exact)),
            (affine(3, [4, 4]), Q4_0, Some(Exact)),
            (affine(4, [7, 7]), Q4_0, None),
            (affine(4, [7, 7]), Q5_0, Some(Exact)),
            (affine(8, [128, 128]), Q8_0, Some(Exact)),
            (affine(8, [127, 127]), Q8_0, None),
            (affine(4, [0, 15]), Q4_0, None),
            (affine(4, [0, 15]), Q4_1, Some(Rounded)),
            (affine(5, [0, 31]), Q4_1, None),
            (affine(5, [0, 31]), Q5_1, Some(Rounded)),
            (affine(8, [0, 255]), Q5_1, None),
            (affine(4, [8, 8]), Q4K, None),
            (Encoding::minimum(4, 32, None, "F16"), Q4_1, Some(Exact)),
            (Encoding::minimum(4, 32, None, "F32"), Q4_1, None),
            (Encoding::affine(4, 128, [8, 8], "BF16"), Q4_0, None),
            (Encoding::affine(4, 48, [8, 8], "F16"), Q4_0, None),
            (affine(4, [8, 8]).permuted(), Q4_0, None),
            (own(Q4K.into()), Q4K, Some(Exact)),
            (own(Q4K.into()), Q4_0, None),
            (Encoding::float("F16"), Q8_0, None),
        ] {
            assert_eq!(class(&encoding, block_type), expected, "{encoding} as {}", block_type.name());
            // What is taken is declared to be.
            let declared = takes().iter().any(|pattern| pattern.fits(&encoding));
            assert!(expected.is_none() || declared, "{encoding}");
        }
    }

    #[test]
    fn what_is_given_is_declared() {
        for known in GgmlType::all().filter(|known| known.holds_weights() && known.block_elements > 1) {
            let mut given = vec![own(known)];
            given.extend(known.grouping().map(|grouping| {
                let size = grouping.size as u64;
                match grouping.zero {
                    Some(zero) => Encoding::affine(grouping.bits, size, [zero.into(); 2], grouping.scales),
                    None => Encoding::minimum(grouping.bits, size, None, grouping.scales),
                }
            }));
            for encoding in given {
                assert!(gives().iter().any(|pattern| pattern.fits(&encoding)), "{encoding}");
            }
        }
    }
}
