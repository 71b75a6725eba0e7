//! How fast rows are rounded on one thread: `cargo run --release -p qhost-rounding --example speed [WIDTH …]`.
//!
//! Each line has the nanoseconds for a weight, and the multiplications and additions of the matrix products alone for
//! a second, for GPTQ and for each pass after it.
#![expect(clippy::print_stdout, clippy::unwrap_used, clippy::cast_precision_loss, reason = "an example")]

use std::{hint::black_box, time::Instant};

use qhost_rounding::{
    Conditioning, Curvature, DampedBy, Effort, Grid, Grouping, Minima, NotPositive, Order, Scheme, TILE, Values,
    arrangement, round_blocks, round_rows,
};

/// Four bits with minima, and three bits without.
const SCHEMES: [Scheme; 2] = [
    Scheme {
        size: 32,
        count: 8,
        values: Values::Whole { least: 0, greatest: 15 },
        scales: [0, 63],
        signed: false,
        minima: Minima::Multiples(63),
    },
    Scheme {
        size: 16,
        count: 16,
        values: Values::Whole { least: -4, greatest: 3 },
        scales: [-32, 31],
        signed: true,
        minima: Minima::None,
    },
];

fn main() {
    let mut widths: Vec<usize> = std::env::args().skip(1).map(|width| width.parse().unwrap()).collect();
    if widths.is_empty() {
        widths = vec![1024, 2816, 4096];
    }
    for width in widths {
        let mut gram = vec![0.0; width * width];
        for row in 0..width {
            for column in 0..width {
                gram[row * width + column] = 1.0 / (1.0 + row.abs_diff(column) as f64);
            }
        }
        let grouping = Grouping::new(width, 128).unwrap();
        let how = Conditioning { damping: 0.01, damped_by: DampedBy::Mean, order: Order::GroupAware, grouping };
        // What is factorised does not matter here; a factor that is cheap does.
        let factor = |_: Vec<f64>| Ok::<_, ()>(Ok::<_, NotPositive>(gram.clone()));
        let curvature = Curvature::of(&gram, &how, None, factor).unwrap();
        let weights: Vec<f32> = (0..TILE * width).map(|i| ((i * 7919 % 1000) as f32 - 500.0) * 1e-4).collect();
        let (grouping, order) = arrangement(width).unwrap();
        let of_blocks = Curvature::of(&gram, &Conditioning { order, grouping, ..how }, None, |_: Vec<f64>| {
            Ok::<_, ()>(Ok::<_, NotPositive>(gram.clone()))
        })
        .unwrap();
        for scheme in &SCHEMES {
            let seconds = |candidates, passes| {
                let start = Instant::now();
                let rounds = 8;
                for _ in 0..rounds {
                    black_box(round_blocks(&of_blocks, scheme, Effort { candidates, passes }, black_box(&weights)));
                }
                start.elapsed().as_secs_f64() / f64::from(rounds) * 1e9 / (TILE * width) as f64
            };
            let (two, all, more) = (seconds(2, 0), seconds(24, 0), seconds(24, 3));
            println!(
                "{width} blocks {}x{}: gptq {two:.1} ns, search {:.1} ns, pass {:.1} ns",
                scheme.count,
                scheme.size,
                all - two,
                (more - all) / 3.0
            );
        }
        for (bits, symmetric) in [(4, true), (4, false), (2, true)] {
            let grid = Grid::new(bits, symmetric).unwrap();
            let seconds = |candidates, passes| {
                let start = Instant::now();
                let rounds = 8;
                for _ in 0..rounds {
                    black_box(round_rows(&curvature, grid, Effort { candidates, passes }, black_box(&weights)));
                }
                start.elapsed().as_secs_f64() / f64::from(rounds)
            };
            let products = (TILE * width * width) as f64;
            let (two, all, more) = (seconds(2, 0), seconds(24, 0), seconds(24, 3));
            println!(
                "{width} {bits} {symmetric}: gptq {:.1} ns ({:.0} GFLOP/s), search {:.1} ns, pass {:.1} ns ({:.0} GFLOP/s)",
                two * 1e9 / (TILE * width) as f64,
                2.0 * products / two / 1e9,
                (all - two) * 1e9 / (TILE * width) as f64,
                (more - all) / 3.0 * 1e9 / (TILE * width) as f64,
                2.0 * products / ((more - all) / 3.0) / 1e9,
            );
        }
    }
}
