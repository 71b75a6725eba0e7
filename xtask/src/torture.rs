//! `cargo xtask torture`: every fault at every call, and kills without number, of runs of all formats.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use clap::Args;
use qhost_tests::{
    checkpoint::Random,
    torture::{Kills, Outcome, Subject, subjects},
};

use crate::stage;

#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// How many processes are killed, over all subjects together.
    #[arg(long, default_value_t = 1000)]
    kills: usize,
    /// Other instants for another seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Leave faults out that are not the first of so many.
    #[arg(long, default_value_t = 1)]
    every: usize,
    /// Only subjects whose names begin with this.
    #[arg(default_value = "")]
    subject: String,
}

/// How often faults of a kind ended how.
type Outcomes = BTreeMap<(String, &'static str), [usize; 4]>;

pub(crate) fn run(settings: &Settings) -> Result<()> {
    ensure!(cfg!(all(target_os = "linux", target_arch = "x86_64")), "faults are made on Linux on x86-64 alone");
    if std::env::var_os("QHOST_TEST_DIST").is_none() {
        qhost_tests::command::use_staged(stage::dist()?, stage::test_plugins()?);
    }
    let names: Vec<_> = subjects().into_iter().filter(|name| name.starts_with(&*settings.subject)).collect();
    ensure!(!names.is_empty(), "no subject begins with {}; there are {:?}", settings.subject, subjects());
    let kills = settings.kills.div_ceil(names.len());
    let mut complaints = Vec::new();
    let mut outcomes = Outcomes::new();
    println!("| subject | calls | faults | killed | resuming | with work | in place | too late | finished |");
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut all = [0; 8];
    for name in &names {
        let folder = tempfile::tempdir()?;
        let subject = Subject::new(name, folder.path()).map_err(anyhow::Error::msg)?;
        let faults: Vec<_> = subject.faults().into_iter().step_by(settings.every.max(1)).collect();
        for fault in &faults {
            match subject.suffer(fault) {
                Ok(outcome) => {
                    let kind = if fault.lasting { format!("{} and all after", fault.kind) } else { fault.kind.clone() };
                    outcomes.entry((kind, fault.what)).or_default()[place(outcome)] += 1;
                }
                Err(complaint) => complain(&mut complaints, complaint),
            }
        }
        let killed = subject.kill(kills, &mut Random(settings.seed)).unwrap_or_else(|complaint| {
            complain(&mut complaints, complaint);
            Kills::default()
        });
        let figures = [
            subject.calls.len(),
            faults.len(),
            killed.killed,
            killed.while_resuming,
            killed.with_work,
            killed.in_place,
            killed.too_late,
            killed.finished,
        ];
        print_row(name, &figures);
        all.iter_mut().zip(figures).for_each(|(sum, figure)| *sum += figure);
    }
    print_row("all", &all);
    println!(
        "\n| call | fault | refused, gone on later | killed, gone on later | got over | not reached |\n\
         |---|---|---|---|---|---|"
    );
    for ((kind, what), [not_reached, done, refused, killed]) in &outcomes {
        println!("| {kind} | {what} | {refused} | {killed} | {done} | {not_reached} |");
    }
    ensure!(complaints.is_empty(), "{} complaints", complaints.len());
    println!("\nno complaints");
    Ok(())
}

fn print_row(name: &str, figures: &[usize]) {
    let figures: Vec<_> = figures.iter().map(ToString::to_string).collect();
    println!("| {name} | {} |", figures.join(" | "));
}

fn complain(complaints: &mut Vec<String>, complaint: String) {
    eprintln!("{complaint}\n");
    complaints.push(complaint);
}

fn place(outcome: Outcome) -> usize {
    match outcome {
        Outcome::NotReached => 0,
        Outcome::Done => 1,
        Outcome::Refused => 2,
        Outcome::Killed => 3,
    }
}
