//! The speed of each kernel beside ggml's, on one thread, turn by turn in one run.
//!
//! `cargo bench -p qhost-interop` prints millions of weights per second, the best of many short
//! turns: other work on the machine makes turns slower, never faster.
#![expect(clippy::print_stdout, reason = "a program for people")]

#[path = "../../../plugins/gguf/tests/golden/inputs.rs"]
mod inputs;

use std::hint::black_box;
use std::time::{Duration, Instant};

use inputs::Random;
use qhost_gguf::format::BlockType;

const ROW: usize = 4096;
const TURNS: u32 = 40;
const TURN: Duration = Duration::from_millis(20);

fn main() {
    let x = Random::new(1).each(16 * ROW, |random| 0.02 * random.gauss());
    println!("{:6} {:>8} {:>8} {:>6} {:>12}", "type", "ggml", "ours", "ratio", "dequantise");
    for block_type in BlockType::ALL {
        let bytes = x.len() / block_type.block_elements() * block_type.block_bytes();
        let (mut ours, mut theirs) = (vec![0; bytes], vec![0; bytes.div_ceil(8)]);
        let mut back = vec![0.0; x.len()];
        let (mut our_best, mut their_best, mut back_best) = (0.0_f64, 0.0_f64, 0.0_f64);
        for _ in 0..TURNS {
            let their_turn = turn(&x, |x| {
                let done = qhost_oracle::quantize_chunk_into(block_type.ggml_type(), x, ROW, &mut theirs);
                assert!(done.is_ok(), "{done:?}");
            });
            their_best = their_best.max(their_turn);
            our_best = our_best.max(turn(&x, |x| block_type.quantize(x, &mut ours)));
            back_best = back_best.max(turn(&x, |_| block_type.dequantize(&ours, &mut back)));
        }
        let ratio = our_best / their_best;
        println!("{:6} {their_best:8.1} {our_best:8.1} {ratio:6.2} {back_best:12.1}", block_type.name());
    }
}

/// Millions of weights per second in one turn.
fn turn(x: &[f32], mut work: impl FnMut(&[f32])) -> f64 {
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < TURN {
        work(black_box(x));
        count += x.len();
    }
    #[expect(clippy::cast_precision_loss, reason = "a count of weights")]
    let count = count as f64;
    count / start.elapsed().as_secs_f64() / 1e6
}
