//! The kernels of every instruction set that the machine has against ggml's own, byte by byte, and the tables against
//! ggml's.
//!
//! Weights here are finite, as everything that is quantised is. Even so C leaves some results open:
//! ggml converts floats to bytes, which is undefined for what does not fit. It happens in Q4_0,
//! Q4_1, Q5_0, Q5_1 and Q8_0 when a block is so small that one over its scale is infinite, or so
//! large that its range is. The reference, as gcc builds it for x86-64, then stores zeros, and the
//! distributions "denormal", "tiny", "largest" and "any-finite" hold the kernels to that. Likewise the
//! K-quants round numbers beyond the reach of their trick, where a ggml with assertions would abort;
//! the reference is built without. With infinities and NaN nothing is compared; the plugin's own
//! tests show that they do no harm.

#[path = "../../../plugins/gguf/ggml/tests/golden/inputs.rs"]
mod inputs;

use inputs::{IMPORTANCES, Random, distributions};
use proptest::collection::vec;
use proptest::prelude::*;
use qhost_gguf::format::{BlockType, LEVELS};
use qhost_plugin_api::sdk::InstructionSet;

/// Rows to try: the shortest, one that is no power of two, and usual ones.
const ROWS: [usize; 4] = [256, 1792, 4096, 8192];

/// Blocks to try, from one: more than any kernel takes at a time.
const BLOCKS: usize = 35;

/// Compares the bytes of rows on every instruction set, and then the weights that both read from them.
fn compare(block_type: BlockType, x: &[f32], row_elements: usize) -> Result<(), String> {
    let number = block_type.ggml_type();
    let theirs = qhost_oracle::quantize_chunk(number, x, row_elements).map_err(|error| error.to_string())?;
    same_on_every_set(block_type, x, &theirs, |set, ours| block_type.quantize_on(set, x, ours))?;
    let mut back = vec![0.0; x.len()];
    block_type.dequantize(&theirs, &mut back);
    let theirs = qhost_oracle::dequantize(number, &theirs).map_err(|error| error.to_string())?;
    same_floats(&back, &theirs)
}

/// Compares the bytes of rows that are quantised with importances of the columns, on every instruction set.
fn compare_weighted(block_type: BlockType, x: &[f32], columns: &[f32]) -> Result<(), String> {
    let theirs = qhost_oracle::quantize_chunk_weighted(block_type.ggml_type(), x, columns);
    let theirs = theirs.map_err(|error| error.to_string())?;
    same_on_every_set(block_type, x, &theirs, |set, ours| block_type.quantize_weighted_on(set, x, columns, ours))
}

fn same_on_every_set(
    block_type: BlockType,
    x: &[f32],
    theirs: &[u8],
    quantize: impl Fn(InstructionSet, &mut [u8]),
) -> Result<(), String> {
    for set in InstructionSet::available() {
        let mut ours = vec![0xa5; x.len() / block_type.block_elements() * block_type.block_bytes()];
        quantize(set, &mut ours);
        same_blocks(block_type, x, &ours, theirs).map_err(|difference| format!("{}: {difference}", set.name()))?;
    }
    Ok(())
}

fn same_blocks(block_type: BlockType, x: &[f32], ours: &[u8], theirs: &[u8]) -> Result<(), String> {
    let size = block_type.block_bytes();
    if let Some(block) = ours.chunks(size).zip(theirs.chunks(size)).position(|(ours, theirs)| ours != theirs) {
        let weights = &x[block * block_type.block_elements()..][..block_type.block_elements()];
        let (ours, theirs) = (&ours[block * size..][..size], &theirs[block * size..][..size]);
        return Err(format!("block {block}: {ours:02x?}\ninstead of {theirs:02x?}\nfor {weights:?}"));
    }
    if ours.len() == theirs.len() { Ok(()) } else { Err(format!("{} bytes instead of {}", ours.len(), theirs.len())) }
}

/// Compares bits; a NaN is a NaN, since its payload depends on the order of operands.
fn same_floats(ours: &[f32], theirs: &[f32]) -> Result<(), String> {
    let differs =
        |(ours, theirs): (&f32, &f32)| ours.to_bits() != theirs.to_bits() && !(ours.is_nan() && theirs.is_nan());
    match ours.iter().zip(theirs).position(differs) {
        Some(at) => Err(format!("weight {at} reads {:e} instead of {:e}", ours[at], theirs[at])),
        None if ours.len() == theirs.len() => Ok(()),
        None => Err(format!("{} weights instead of {}", ours.len(), theirs.len())),
    }
}

fn bytes_are_equal(block_type: BlockType) {
    for (name, make) in distributions() {
        for row_elements in ROWS {
            for seed in 0..12 {
                let x = make(&mut Random::new(1000 * seed + row_elements as u64), 2 * row_elements);
                let equal = compare(block_type, &x, row_elements);
                assert_eq!(equal, Ok(()), "{} of {name}, seed {seed}, rows of {row_elements}", block_type.name());
            }
        }
        // The types with small blocks have shorter rows, too. Kernels take several blocks at a time: no number of them
        // may be left over wrongly.
        for blocks in 1..=BLOCKS {
            let x = make(&mut Random::new(7 + blocks as u64), blocks * block_type.block_elements());
            let equal = compare(block_type, &x, block_type.block_elements());
            assert_eq!(equal, Ok(()), "{} of {name}, {blocks} blocks", block_type.name());
        }
    }
}

fn weighted_bytes_are_equal(block_type: BlockType) {
    for (importance, make_columns) in IMPORTANCES {
        for (name, make) in distributions() {
            for (seed, row_elements) in (0_u64..).zip([256, 1792, 256, 512, 4096]) {
                let columns = make_columns(&mut Random::new(77 * seed + 5), row_elements);
                let x = make(&mut Random::new(1000 * seed + row_elements as u64), 3 * row_elements);
                let equal = compare_weighted(block_type, &x, &columns);
                let what = format!("{} of {name}, {importance}, rows of {row_elements}", block_type.name());
                assert_eq!(equal, Ok(()), "{what}");
            }
        }
    }
    // The types with small blocks have rows that are no whole super-blocks, too; and no length of a row may leave blocks
    // over wrongly.
    for (name, make) in distributions() {
        for (blocks, (importance, make_columns)) in (1..=BLOCKS).zip(IMPORTANCES.into_iter().cycle()) {
            let columns = make_columns(&mut Random::new(3 + blocks as u64), blocks * block_type.block_elements());
            let x = make(&mut Random::new(7), 3 * columns.len());
            let equal = compare_weighted(block_type, &x, &columns);
            assert_eq!(equal, Ok(()), "{} of {name}, {importance}, {blocks} blocks", block_type.name());
        }
    }
}

/// One test for each type, so that they run side by side and a failure names its type.
macro_rules! per_type {
    ($($test:ident, $weighted:ident: $block_type:ident,)*) => {
        $(
            #[test]
            fn $test() {
                bytes_are_equal(BlockType::$block_type);
            }

            #[test]
            fn $weighted() {
                weighted_bytes_are_equal(BlockType::$block_type);
            }
        )*

        #[test]
        fn every_type_has_its_test() {
            assert_eq!([$(BlockType::$block_type),*], BlockType::ALL);
        }
    };
}

per_type! {
    f32_bytes_are_equal, f32_bytes_are_equal_with_importances: F32,
    f16_bytes_are_equal, f16_bytes_are_equal_with_importances: F16,
    bf16_bytes_are_equal, bf16_bytes_are_equal_with_importances: BF16,
    q4_0_bytes_are_equal, q4_0_bytes_are_equal_with_importances: Q4_0,
    q4_1_bytes_are_equal, q4_1_bytes_are_equal_with_importances: Q4_1,
    q5_0_bytes_are_equal, q5_0_bytes_are_equal_with_importances: Q5_0,
    q5_1_bytes_are_equal, q5_1_bytes_are_equal_with_importances: Q5_1,
    q8_0_bytes_are_equal, q8_0_bytes_are_equal_with_importances: Q8_0,
    q2_k_bytes_are_equal, q2_k_bytes_are_equal_with_importances: Q2K,
    q3_k_bytes_are_equal, q3_k_bytes_are_equal_with_importances: Q3K,
    q4_k_bytes_are_equal, q4_k_bytes_are_equal_with_importances: Q4K,
    q5_k_bytes_are_equal, q5_k_bytes_are_equal_with_importances: Q5K,
    q6_k_bytes_are_equal, q6_k_bytes_are_equal_with_importances: Q6K,
    iq4_nl_bytes_are_equal, iq4_nl_bytes_are_equal_with_importances: IQ4NL,
    iq4_xs_bytes_are_equal, iq4_xs_bytes_are_equal_with_importances: IQ4XS,
}

/// Any finite number, or one of a few magnitudes, so that blocks hold numbers that matter together.
fn finite() -> impl Strategy<Value = f32> {
    let any = any::<u32>().prop_map(f32::from_bits).prop_filter("finite", |value| value.is_finite());
    prop_oneof![1 => any, 4 => -1.0_f32..1.0, 1 => -1e-3_f32..1e-3, 1 => Just(0.0), 1 => Just(-0.0)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn bytes_are_equal_for_any_finite_weights(x in vec(finite(), 512)) {
        for block_type in BlockType::ALL {
            let equal = compare(block_type, &x, 512);
            prop_assert!(equal.is_ok(), "{}: {}", block_type.name(), equal.unwrap_err());
        }
    }

    #[test]
    fn bytes_are_equal_for_any_finite_weights_and_importances(
        x in vec(finite(), 512),
        columns in vec(finite().prop_map(f32::abs), 256),
    ) {
        for block_type in BlockType::ALL {
            let equal = compare_weighted(block_type, &x, &columns);
            prop_assert!(equal.is_ok(), "{}: {}", block_type.name(), equal.unwrap_err());
        }
    }

    #[test]
    fn any_block_reads_the_same(bytes in vec(any::<u8>(), 2 * 210)) {
        for block_type in BlockType::ALL {
            let bytes = &bytes[..bytes.len() / block_type.block_bytes() * block_type.block_bytes()];
            let mut ours = vec![0.0; bytes.len() / block_type.block_bytes() * block_type.block_elements()];
            block_type.dequantize(bytes, &mut ours);
            let equal = same_floats(&ours, &qhost_oracle::dequantize(block_type.ggml_type(), bytes).unwrap());
            prop_assert!(equal.is_ok(), "{}: {}", block_type.name(), equal.unwrap_err());
        }
    }
}

/// ggml writes a line to standard error for each invalid row, so there are not too many here.
#[test]
fn the_same_rows_are_valid() {
    let agree = |block_type: BlockType, bytes: &[u8]| {
        let theirs = qhost_oracle::validate_row_data(block_type.ggml_type(), bytes).unwrap();
        let ours = block_type.first_invalid_block(bytes);
        assert_eq!(ours.is_none(), theirs, "{}: {ours:?}", block_type.name());
        theirs
    };
    for block_type in BlockType::ALL {
        let size = block_type.block_bytes();
        // A one, and an infinity or NaN of f16, bf16 and the upper half of f32, in every place of a block.
        let (mut valid, mut invalid) = (0, 0);
        for special in [[0, 0x3c], [0, 0x7c], [0x80, 0x7f], [0xff, 0xff]] {
            for at in (0..size).step_by(2) {
                let mut bytes = vec![0; 3 * size];
                bytes[size + at..][..2].copy_from_slice(&special);
                *if agree(block_type, &bytes) { &mut valid } else { &mut invalid } += 1;
            }
        }
        assert!(valid > 0 && invalid > 0, "{}: {valid} valid, {invalid} invalid", block_type.name());
        let mut random = Random::new(u64::from(block_type.ggml_type()));
        for _ in 0..4 {
            let bytes: Vec<u8> = (0..4 * size).map(|_| random.bits(8).to_le_bytes()[0]).collect();
            agree(block_type, &bytes);
        }
        assert!(agree(block_type, &[]));
        if size > 1 {
            assert!(!agree(block_type, &vec![0; 4 * size - 1]), "a block too short");
        }
    }
}

#[test]
fn types_are_ggmls() {
    for block_type in BlockType::ALL {
        let info = qhost_oracle::type_info(block_type.ggml_type()).unwrap();
        assert_eq!(info.name.to_uppercase(), block_type.name());
        assert_eq!((info.block_elements, info.block_bytes), (block_type.block_elements(), block_type.block_bytes()));
        for row_elements in [0, 1, 31, 32, 64, 255, 256, 288, 4096] {
            let theirs = qhost_oracle::row_size(block_type.ggml_type(), row_elements).ok();
            assert_eq!(block_type.row_bytes(row_elements as u64), theirs.map(|bytes| bytes as u64));
        }
    }
}

#[test]
fn levels_are_llama_cpps() {
    for level in LEVELS {
        // llama.cpp says `all F32`, `Q4_K - Medium`, `IQ4_NL - 4.5 bpw`, and has a medium Q2_K that nobody calls so.
        let name = qhost_oracle::file_type_name(level.file_type).replace("all ", "");
        let name = name.replace(" - Small", "_S").replace(" - Medium", "_M").replace(" - Large", "_L");
        let name = name.split_once(" - ").map_or(&*name, |(name, _)| name).replace("Q2_K_M", "Q2_K");
        assert_eq!(name, level.name);
    }
}
