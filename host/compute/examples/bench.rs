//! Measures the CPU: `cargo run --release -p qhost-compute --example bench [-- THREADS [SET [OPERATION]]]`.
//!
//! It prints GFLOP/s of every operation and set of instructions, and their part of the measured peak: what as
//! many threads reach with the same tiles on operands that stay in the first cache (for `f64`, half of it).

#![allow(clippy::cast_precision_loss, clippy::print_stdout, clippy::unwrap_used, reason = "a program for the eyes")]

use std::time::Instant;

use qhost_compute::{Activation, Attention, Cpu, Device, Dtype, Error, InstructionSet, Stored};
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

/// Prints a name, operations and seconds.
type Print<'a> = &'a dyn Fn(&str, f64, f64);

type Measure = fn(Cpu, Print<'_>);

type OnMatrix = fn(&Cpu, &mut [f64], usize) -> Result<(), Error>;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let threads = arguments.next().and_then(|raw| raw.parse().ok()).unwrap_or(0);
    let wanted = arguments.next().unwrap_or_default();
    let operation = arguments.next().unwrap_or_default();
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
                let peak = if name.contains("f64") { peak / 2.0 } else { peak };
                println!("  {name:44} {:9.2} ms {rate:8.1} GFLOP/s {:5.1} %", seconds * 1e3, 100.0 * rate / peak);
            };
            let all: [(&str, Measure); 5] = [
                ("linear", linear),
                ("gram", gram),
                ("factor", factor),
                ("attention", attention),
                ("activate", activate),
            ];
            all.iter().filter(|(name, _)| name.starts_with(&operation)).for_each(|(_, measure)| measure(cpu, &print));
        }
    });
}

fn linear(cpu: Cpu, print: Print<'_>) {
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
}

fn gram(cpu: Cpu, print: Print<'_>) {
    for (rows, width) in [(2048, 2048), (2048, 4096), (2048, 8192)] {
        let x = numbers(rows * width);
        let operations = (rows * width * (width + 1)) as f64;
        let mut sums = vec![0.0; width * width];
        let seconds = best(|| cpu.gram(&x, width, &mut sums).unwrap());
        print(&format!("gram {rows} × {width}"), operations, seconds);
        let mut sums = vec![0.0; width * width];
        let seconds = best(|| cpu.gram_f64(&x, width, &mut sums).unwrap());
        print(&format!("gram {rows} × {width}, sums in double"), operations, seconds);
    }
}

fn factor(cpu: Cpu, print: Print<'_>) {
    for order in [2048, 4096] {
        let x = numbers(order * order);
        let mut gram = vec![0.0; order * order];
        cpu.gram_f64(&x, order, &mut gram).unwrap();
        (0..order).for_each(|i| gram[i * order + i] += order as f64);
        let cube = (order as f64).powi(3);
        let tasks: [(&str, f64, OnMatrix); 3] = [
            ("cholesky", cube / 3.0, Cpu::cholesky),
            ("inverse", cube, Cpu::inverse),
            ("inverse factor", cube * 2.0 / 3.0, Cpu::inverse_factor),
        ];
        for (name, operations, task) in tasks {
            let mut work = gram.clone();
            let runs = (0..3).map(|_| {
                work.copy_from_slice(&gram);
                let start = Instant::now();
                task(&cpu, &mut work, order).unwrap();
                start.elapsed().as_secs_f64()
            });
            let seconds = runs.fold(f64::INFINITY, f64::min);
            print(&format!("f64 {name} {order}"), operations, seconds);
        }
    }
}

fn attention(cpu: Cpu, print: Print<'_>) {
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

fn activate(cpu: Cpu, print: Print<'_>) {
    let count = 2048 * 8192;
    let up = numbers(count);
    for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
        let mut gate = numbers(count);
        let seconds = best(|| cpu.activate(&mut gate, Some(&up), activation).unwrap());
        print(&format!("{activation:?} of {count} (operations: numbers)"), count as f64, seconds);
    }
}
