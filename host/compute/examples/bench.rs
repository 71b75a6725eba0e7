//! Measures the CPU: `cargo run --release -p qhost-compute --example bench [-- THREADS [SET]]`.
//!
//! It prints GFLOP/s of every operation and set of instructions, and their part of the measured peak: what as
//! many threads reach with the same tiles on operands that stay in the first cache.

#![allow(clippy::cast_precision_loss, clippy::print_stdout, clippy::unwrap_used, reason = "a program for the eyes")]

use std::time::Instant;

use qhost_compute::{Attention, Cpu, Device, Dtype, InstructionSet, Stored};
use rayon::prelude::*;

fn best(mut work: impl FnMut()) -> f64 {
    let runs = (0..5).map(|_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    });
    runs.fold(f64::INFINITY, f64::min)
}

fn numbers(count: usize) -> Vec<f32> {
    let mut state = 1_u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..count).map(next).collect()
}

fn peak(cpu: Cpu, threads: usize) -> f64 {
    let mut operations = 0;
    let seconds = best(|| operations = (0..threads).into_par_iter().map(|_| cpu.spin(20_000)).sum());
    operations as f64 / seconds / 1e9
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let threads = arguments.next().and_then(|raw| raw.parse().ok()).unwrap_or(0);
    let wanted = arguments.next().unwrap_or_default();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let threads = rayon::current_num_threads();
        println!("{threads} threads");
        for set in InstructionSet::available().into_iter().filter(|set| format!("{set:?}").starts_with(&wanted)) {
            let cpu = Cpu::with(set).unwrap();
            let peak = peak(cpu, threads);
            println!("{set:?}: peak {peak:.0} GFLOP/s");
            let print = |name: &str, operations: f64, seconds: f64| {
                let rate = operations / seconds / 1e9;
                println!("  {name:44} {:9.2} ms {rate:8.1} GFLOP/s {:5.1} %", seconds * 1e3, 100.0 * rate / peak);
            };
            measure(cpu, print);
        }
    });
}

fn measure(cpu: Cpu, print: impl Fn(&str, f64, f64)) {
    let shapes = [
        (1, 4096, 4096),
        (16, 4096, 4096),
        (128, 2048, 2048),
        (512, 2048, 2048),
        (2048, 2048, 2048),
        (512, 8192, 2048),
        (2048, 2048, 8192),
        (512, 4096, 4096),
        (2048, 8192, 2048),
    ];
    for (rows, outputs, inputs) in shapes {
        let x = numbers(rows * inputs);
        let w = numbers(inputs * outputs);
        let whole: Vec<u8> = w.iter().flat_map(|w| w.to_le_bytes()).collect();
        let half: Vec<u8> = w.iter().flat_map(|w| w.to_le_bytes()[2..].to_vec()).collect();
        for (dtype, bytes) in [(Dtype::F32, &whole), (Dtype::BF16, &half)] {
            let stored = Stored { bytes, dtype, outputs, inputs, transposed: false };
            let seconds = best(|| drop(cpu.linear(&x, rows, &stored, None).unwrap()));
            let operations = 2.0 * (rows * outputs * inputs) as f64;
            print(&format!("linear {rows} × {outputs} × {inputs} {dtype:?}"), operations, seconds);
        }
    }
    for (rows, width) in [(2048, 2048), (2048, 4096), (2048, 8192)] {
        let x = numbers(rows * width);
        let mut gram = vec![0.0; width * width];
        let seconds = best(|| cpu.gram(&x, width, &mut gram).unwrap());
        print(&format!("gram {rows} × {width}"), (rows * width * (width + 1)) as f64, seconds);
        let mut gram = vec![0.0; width * width];
        let seconds = best(|| cpu.gram_f64(&x, width, &mut gram).unwrap());
        print(&format!("gram f64 {rows} × {width}"), (rows * width * (width + 1)) as f64, seconds);
    }
    for (length, heads, kv_heads, size, window) in
        [(512, 32, 8, 64, None), (2048, 32, 8, 64, None), (2048, 32, 8, 128, None), (4096, 8, 8, 128, Some(512))]
    {
        let shape = Attention { heads, kv_heads, key: size, value: size, scale: 0.1, soft_cap: None, window };
        let (q, k) = (numbers(length * heads * size), numbers(length * kv_heads * size));
        let seconds = best(|| drop(cpu.attention(&q, &k, &k, &[length], &shape, None).unwrap()));
        let seen: usize = (1..=length).map(|seen| window.map_or(seen, |window: usize| seen.min(window))).sum();
        let name = format!("attention {length}, {heads}/{kv_heads} heads of {size}, {window:?}");
        print(&name, 4.0 * (seen * heads * size) as f64, seconds);
    }
}
