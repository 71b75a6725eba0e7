//! The speed of each kernel on each instruction set beside ggml's, on one thread, turn by turn in one run.
//!
//! `cargo xtask bench kernels` runs it and makes tables of what it prints, which is one JSON document. The figures are
//! weights per second, the best of many short turns: other work on the machine makes turns slower, never faster.
//! Whoever is measured takes turns with whom it is compared with. Every output is compared with ggml's as well.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for another one, and for people")]

#[path = "../../../plugins/gguf/ggml/tests/golden/inputs.rs"]
mod inputs;

use std::{
    error::Error,
    hint::black_box,
    time::{Duration, Instant},
};

use inputs::Random;
use qhost_ggml::BlockType;
use qhost_plugin_api::sdk::InstructionSet;
use serde::Deserialize;
use serde_json::{Value, json};

/// Rows of this many weights, as many as make 64 KiB: the weights lie in the second-level cache.
const ROW: usize = 4096;
const ROWS: usize = 4;

/// Rows whose bytes are compared.
const COMPARED_ROWS: usize = 64;

/// Rows that lie in no second-level cache: 64 MiB of weights.
const MANY_ROWS: usize = 4096;

/// Of equal length for all, so that nobody has more luck than others with what else the machine does; shorter than the
/// time that the system gives to one program at a time, and long enough for the slowest kernel of ggml.
const TURN: Duration = Duration::from_millis(5);

/// The types of which memory, not arithmetic, ought to be the bound.
const MEMORY_BOUND: [BlockType; 7] = [
    BlockType::F16,
    BlockType::BF16,
    BlockType::Q4_0,
    BlockType::Q4_1,
    BlockType::Q5_0,
    BlockType::Q5_1,
    BlockType::Q8_0,
];

/// What to measure: one argument, a JSON document.
#[derive(Deserialize)]
#[serde(default)]
struct Request {
    /// Types by name; all of them if there is none.
    types: Vec<String>,
    /// The best instruction set alone, without importances and without the comparison with a copy.
    briefly: bool,
    /// Turns of each.
    turns: u32,
}

impl Default for Request {
    fn default() -> Self {
        Self { types: Vec::new(), briefly: false, turns: 150 }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    // Cargo adds `--bench`.
    let argument = std::env::args().skip(1).find(|argument| argument != "--bench");
    let request: Request = argument.map_or_else(|| Ok(Request::default()), |text| serde_json::from_str(&text))?;
    let named =
        |block_type: &BlockType| request.types.is_empty() || request.types.iter().any(|n| n == block_type.name());
    let types: Vec<_> = BlockType::ALL.into_iter().filter(named).collect();
    if types.is_empty() || types.len() < request.types.len() {
        return Err(format!("a type is unknown among {:?}", request.types).into());
    }
    let sets: Vec<_> = InstructionSet::available().collect();
    let sets = if request.briefly { &sets[sets.len() - 1..] } else { &sets[..] };
    let compared = Random::new(1).each(COMPARED_ROWS * ROW, |random| 0.02 * random.gauss());
    let x = &compared[..ROWS * ROW];
    let columns = Random::new(2).each(ROW, |random| random.gauss().exp());
    let (mut kernels, mut copies, mut widened) = (Vec::new(), Vec::new(), Vec::new());
    for block_type in types {
        eprintln!("{} …", block_type.name());
        kernels.extend(measure(block_type, None, sets, &compared, request.turns)?);
        if request.briefly {
            continue;
        }
        if block_type.uses_importance() {
            kernels.extend(measure(block_type, Some(&columns), sets, &compared, request.turns)?);
        }
        // ggml has no function for what are floats already.
        if block_type != BlockType::F32 {
            widened.push(widen(block_type, x, request.turns)?);
        }
        if MEMORY_BOUND.contains(&block_type) {
            copies.extend(beside_a_copy(block_type, sets, x, request.turns)?);
            copies.extend(beside_a_copy(block_type, sets, &x.repeat(MANY_ROWS / ROWS), request.turns.div_ceil(4))?);
        }
    }
    println!("{:#}", json!({"kernels": kernels, "copies": copies, "widened": widened}));
    Ok(())
}

/// A type, with importances of columns or without: ggml and every instruction set in turn over the first rows, and
/// their bytes of all rows.
fn measure(
    block_type: BlockType,
    columns: Option<&[f32]>,
    sets: &[InstructionSet],
    compared: &[f32],
    turns: u32,
) -> Result<Vec<Value>, Box<dyn Error>> {
    let x = &compared[..ROWS * ROW];
    let all = Reference::new(block_type, columns, compared)?;
    let theirs = Reference::new(block_type, columns, x)?;
    let mut runners: Vec<_> = sets.iter().map(|set| Runner::new(*set, block_type, columns, x)).collect();
    let (mut out, mut their_best) = (theirs.words.clone(), 0.0_f64);
    for _ in 0..turns {
        their_best = their_best.max(speed(x.len(), TURN, || theirs.run(black_box(x), &mut out)));
        for runner in &mut runners {
            runner.best = runner.best.max(speed(x.len(), TURN, || runner.run(black_box(x))));
        }
    }
    let told = runners.iter().map(|runner| {
        let mut out = Runner::new(runner.set, block_type, columns, compared);
        out.run(compared);
        json!({
            "type": block_type.name(),
            "variant": if columns.is_some() { "imatrix" } else { "plain" },
            "set": runner.set.name(),
            "ggml": their_best,
            "qhost": runner.best,
            "checksum": format!("{:016x}", checksum(&out.out)),
            "differing_bytes": all.differing(&out.out) + theirs.differing(&runner.out),
        })
    });
    Ok(told.collect())
}

/// A type without importances, ggml, and a copy of the weights, in turn.
fn beside_a_copy(
    block_type: BlockType,
    sets: &[InstructionSet],
    x: &[f32],
    turns: u32,
) -> Result<Vec<Value>, Box<dyn Error>> {
    let theirs = Reference::new(block_type, None, x)?;
    let mut runners: Vec<_> = sets.iter().map(|set| Runner::new(*set, block_type, None, x)).collect();
    let mut copy = vec![0.0; x.len()];
    let (mut out, mut their_best, mut copy_best) = (theirs.words.clone(), 0.0_f64, 0.0_f64);
    for _ in 0..turns {
        copy_best = copy_best.max(speed(x.len(), TURN, || black_box(&mut copy).copy_from_slice(black_box(x))));
        their_best = their_best.max(speed(x.len(), TURN, || theirs.run(black_box(x), &mut out)));
        for runner in &mut runners {
            runner.best = runner.best.max(speed(x.len(), TURN, || runner.run(black_box(x))));
        }
    }
    let told = runners.iter().map(|runner| {
        json!({
            "type": block_type.name(),
            "set": runner.set.name(),
            "weight_bytes": size_of_val(x),
            "copy": copy_best,
            "ggml": their_best,
            "qhost": runner.best,
            "differing_bytes": theirs.differing(&runner.out),
        })
    });
    Ok(told.collect())
}

/// Widening blocks to f32, beside ggml.
fn widen(block_type: BlockType, x: &[f32], turns: u32) -> Result<Value, Box<dyn Error>> {
    let theirs = Reference::new(block_type, None, x)?;
    let blocks = theirs.bytes();
    let (mut our_best, mut their_best) = (0.0_f64, 0.0_f64);
    let (mut our_weights, mut their_weights) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    for _ in 0..turns {
        their_best = their_best.max(speed(x.len(), TURN, || {
            let widened =
                qhost_oracle::dequantize_into(block_type.ggml_type(), black_box(&theirs.words), &mut their_weights);
            assert!(widened.is_ok(), "{widened:?}");
        }));
        our_best = our_best.max(speed(x.len(), TURN, || block_type.dequantize(black_box(&blocks), &mut our_weights)));
    }
    let differing = our_weights.iter().zip(&their_weights).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    Ok(json!({"type": block_type.name(), "ggml": their_best, "qhost": our_best, "differing_weights": differing}))
}

/// ggml's kernel and what it makes of the weights.
struct Reference<'a> {
    number: u32,
    columns: Option<&'a [f32]>,
    words: Vec<u64>,
    length: usize,
}

impl<'a> Reference<'a> {
    fn new(block_type: BlockType, columns: Option<&'a [f32]>, x: &[f32]) -> Result<Self, qhost_oracle::Error> {
        let length = x.len() / block_type.block_elements() * block_type.block_bytes();
        let mut reference =
            Self { number: block_type.ggml_type(), columns, words: vec![0; length.div_ceil(8)], length };
        let mut words = vec![0; length.div_ceil(8)];
        qhost_oracle::quantize_chunk_into(reference.number, x, ROW, columns, &mut words)?;
        reference.words = words;
        Ok(reference)
    }

    fn run(&self, x: &[f32], out: &mut [u64]) {
        let done = qhost_oracle::quantize_chunk_into(self.number, x, ROW, self.columns, out);
        assert!(done.is_ok(), "{done:?}");
    }

    fn bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.to_ne_bytes()).take(self.length).collect()
    }

    fn differing(&self, ours: &[u8]) -> usize {
        let theirs = self.bytes();
        ours.len().abs_diff(theirs.len()) + ours.iter().zip(theirs).filter(|(ours, theirs)| *ours != theirs).count()
    }
}

/// A kernel of ours.
struct Runner<'a> {
    set: InstructionSet,
    block_type: BlockType,
    columns: Option<&'a [f32]>,
    out: Vec<u8>,
    best: f64,
}

impl<'a> Runner<'a> {
    fn new(set: InstructionSet, block_type: BlockType, columns: Option<&'a [f32]>, x: &[f32]) -> Self {
        let bytes = x.len() / block_type.block_elements() * block_type.block_bytes();
        Self { set, block_type, columns, out: vec![0xa5; bytes], best: 0.0 }
    }

    fn run(&mut self, x: &[f32]) {
        match self.columns {
            Some(columns) => self.block_type.quantize_weighted_on(self.set, x, columns, &mut self.out),
            None => self.block_type.quantize_on(self.set, x, &mut self.out),
        }
    }
}

/// Weights per second in one turn, which does the work at least once.
#[expect(clippy::cast_precision_loss, reason = "a count of weights")]
fn speed(weights: usize, turn: Duration, mut work: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut count = 0;
    while count == 0 || start.elapsed() < turn {
        work();
        count += weights;
    }
    count as f64 / start.elapsed().as_secs_f64()
}

/// 64-bit FNV-1a, as in the golden files.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
