//! What a calibration costs that replays every layer: Gram matrices in `f64` of every group of linears in turn, with
//! halved weights in place of the group's own before the next is looked at.
//!
//! `cargo run --release -p qhost --example replay MODEL [SAMPLES] [LENGTH] [THREADS]`
#![expect(clippy::print_stdout, reason = "it shows what it measures")]

use std::{error::Error, path::Path, sync::Arc, time::Instant};

use qhost::{
    calibrate::{Calibrating, Calibration, Engine, Needs},
    cancel::CancelFlag,
    model, run, source,
    stream::Ledger,
};
use qhost_compute::Cpu;
use qhost_plugin_api::documents::{
    InputGroup, Part, Precision, Statistic, StatisticsNeed, StatisticsRequest, UnitKind,
};

const GROUPS: [InputGroup; 4] =
    [InputGroup::AttentionIn, InputGroup::AttentionOut, InputGroup::FfnIn, InputGroup::FfnMid];

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("which model?")?;
    let mut number = |otherwise: usize| arguments.next().map_or(Ok(otherwise), |text| text.parse());
    let (count, length, threads) = (number(32)?, number(512)?, number(2)?);
    let checkpoint = source::open(Path::new(&folder))?;
    let understood = model::understand(&checkpoint)?;
    let model = Arc::new(understood.model);
    let sources = Arc::new(run::Sources::new(&checkpoint, Arc::clone(&model), &understood.stored));
    let vocabulary = u32::try_from(model.hyperparameters.vocab_size)?;
    let mut state = 1_u32;
    let mut token = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % vocabulary
    };
    let samples: Vec<Vec<u32>> = (0..count).map(|_| (0..length).map(|_| token()).collect()).collect();
    let lengths = vec![length; count];
    let mut needs = Needs::default();
    let layers: Vec<u32> = model.units.iter().filter(|unit| unit.kind == UnitKind::Layer).map(|unit| unit.id).collect();
    for unit in &layers {
        let need = |group: &InputGroup| {
            let mut need = StatisticsNeed::new(group.clone(), vec![Statistic::Gram]);
            need.precision = Precision::Double;
            need
        };
        needs.units.insert(*unit, (GROUPS.iter().map(need).collect(), true));
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    pool.install(|| {
        let began = Instant::now();
        let engine = Engine::new(
            Cpu::default(),
            Arc::clone(&model),
            Arc::<run::Sources>::clone(&sources),
            &lengths,
            CancelFlag::default(),
        )?;
        let ledger = Arc::new(Ledger::new(None));
        let calibration =
            Calibration::new(engine, Arc::clone(&model), needs, samples, (&ledger, 0), &std::env::temp_dir())?;
        calibration.embed()?;
        let mut sum = 0.0;
        for unit in layers {
            calibration.enter(unit);
            for group in GROUPS {
                let request = StatisticsRequest::new(group.clone(), Statistic::Gram, None);
                let answer = calibration.get(unit, &request)??;
                sum += calibration.lend(answer.tensor).map_or(0.0, |lent| f64::from(lent.numbers.bytes()[0]));
                for (id, tensor) in (0..).zip(&model.tensors) {
                    let of_group = InputGroup::of(&tensor.role.kind).as_ref() == Some(&group);
                    if tensor.unit == unit && of_group && tensor.role.part == Part::Weight {
                        let lent = qhost::calibrate::Weights::rows(&*sources, id, 0, tensor.rows());
                        let numbers = lent.map_err(|failure| failure.message.to_string())?.numbers();
                        let halved = numbers.into_iter().map(|weight| weight * 0.5).collect();
                        calibration.substitute(unit, id, Some(halved))?;
                    }
                }
            }
            calibration.leave()?;
        }
        println!("wall {:.2} s ({sum})", began.elapsed().as_secs_f64());
        Ok::<_, Box<dyn Error + Send + Sync>>(())
    })?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    println!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default());
    Ok(())
}
