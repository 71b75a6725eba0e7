//! What a run will take: memory, disk and time.
//!
//! Sizes are exact, for the plan states them. Memory is a sum of what the process holds already and of what
//! the run adds; time is the plugin's cost of each tensor at this machine's speed. Every figure about the
//! machine comes in as a value.

use qhost_plugin_api::{documents::PlannedUnit, sdk::CHUNK_WEIGHTS};

use super::RunPlan;

/// Reading and writing, in bytes per second: a common SSD, or a page cache that is not hurried.
const TRANSFER: f64 = 1e9;

/// What the host itself does for each byte of output, in nanoseconds on the reference core: writing it, and
/// digesting it twice.
const HOST_COST: f64 = 0.45;

/// Multiplications, each with a sum, that the reference core does in a nanosecond where a model is run.
const PRODUCTS: f64 = 45.0;

/// A run takes so many seconds whatever it does: starting threads, waiting for the disk at the end.
const LEAST_SECONDS: f64 = 0.02;

/// Code that runs for the first time, of the executable and the plugin.
const CODE: u64 = 512 << 10;

/// What grows while a run goes on: the journal in memory, the report.
const RECORDS: u64 = 384 << 10;

/// What a thread takes beside its buffers: its stack, and an arena of the allocator.
const THREAD: u64 = 160 << 10;

/// Threads that a run has beside the workers: the maker, the committer, the reader ahead, the ticker.
const THREADS_BESIDE: u64 = 3;

/// What is so on this machine, as far as an estimate depends on it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Machine {
    /// Threads for parallel loops.
    pub threads: u32,
    /// Cores that they can run on.
    pub cores: u32,
    /// How fast a core is, relative to the plugin API's reference core.
    pub core_speed: f64,
    /// What the process holds when the plan is made.
    pub memory: Held,
    /// Buffer for digesting, of each thread.
    pub digest_buffer: u64,
    /// The most bytes of mapped sources that stay when rows are lent to so many threads.
    pub mapped: u64,
}

/// Memory of the process, in bytes; zero where the system does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Resident now.
    pub resident: u64,
    /// Of that, not backed by a file.
    pub anonymous: u64,
    /// The most that was ever resident.
    pub peak_resident: u64,
    /// What planning has taken beside, if it has to be done again.
    pub planning: u64,
}

/// What a run will take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Memory.
    pub memory: MemoryEstimate,
    /// Time from the start of the work, if the plugin knows its costs.
    pub time: Option<TimeEstimate>,
}

/// Memory that a run will take, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// The most that will be resident, pages of mapped files included; none where the system does not tell
    /// what is resident now.
    pub peak_resident: Option<u64>,
    /// The most that will be the process's own.
    pub peak_anonymous: Option<u64>,
}

/// Time that a run will take, about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimeEstimate {
    /// All of it, in seconds.
    pub seconds: f64,
    /// Work for processors, in seconds of the reference core.
    pub core_seconds: f64,
    /// Reading the source and writing the output, in seconds; it goes on beside the work.
    pub transfer_seconds: f64,
    /// How fast a core of this machine is, relative to the reference core.
    pub core_speed: f64,
    /// Cores that work.
    pub cores: u32,
}

/// What running the model takes beside, where a plan needs that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forward {
    /// Memory, in bytes.
    pub memory: u64,
    /// Multiplications on processors.
    pub products: u64,
}

/// Estimates a run that starts from nothing.
#[must_use]
pub fn estimate(plan: &RunPlan, source_bytes: u64, machine: &Machine, forward: &Forward) -> Estimate {
    Estimate { memory: memory(plan, source_bytes, machine, forward), time: time(plan, source_bytes, machine, forward) }
}

fn memory(plan: &RunPlan, source_bytes: u64, machine: &Machine, forward: &Forward) -> MemoryEstimate {
    let Held { resident, anonymous, peak_resident, planning } = machine.memory;
    let threads = machine.threads as usize;
    let stacks = (u64::from(machine.threads)).saturating_add(THREADS_BESIDE).saturating_mul(THREAD);
    let working = plan.plan.units.iter().map(|unit| used_by(plan, unit, threads)).max().unwrap_or(0);
    let working = working.saturating_add(stacks).saturating_add(RECORDS).saturating_add(forward.memory);
    // While units are made, one thread digests; when the output is checked, all do, and no source is mapped.
    let digested = |threads| {
        let segments = plan.plan.segments.iter().map(|segment| segment.bytes.min(machine.digest_buffer));
        sum_of_largest(segments.collect(), threads)
    };
    let making = working.saturating_add(digested(1)).saturating_add(machine.mapped.min(source_bytes));
    let checking = working.saturating_add(digested(threads));
    let most = making.max(checking).max(planning).saturating_add(CODE);
    MemoryEstimate {
        peak_resident: (resident > 0).then(|| resident.saturating_add(most).max(peak_resident)),
        peak_anonymous: (anonymous > 0).then(|| anonymous.saturating_add(checking.max(planning))),
    }
}

/// What a unit really uses of the memory that it is granted: a thread that finds nothing to do has no buffers,
/// and a small tensor fills only a part of one.
fn used_by(plan: &RunPlan, unit: &PlannedUnit, threads: usize) -> u64 {
    let tensors = plan.tensors().filter(|(_, _, tensor)| tensor.unit == unit.unit);
    let pieces = tensors.flat_map(|(_, _, tensor)| {
        // More pieces than threads change nothing.
        let count = usize::try_from(tensor.elements.div_ceil(CHUNK_WEIGHTS)).unwrap_or(threads).min(threads);
        std::iter::repeat_n(tensor.elements.min(CHUNK_WEIGHTS), count)
    });
    let pieces: Vec<_> = pieces.collect();
    let Some(largest) = pieces.iter().copied().max().filter(|&largest| largest > 0) else { return unit.memory };
    let weights = u128::from(sum_of_largest(pieces, threads));
    let buffers = u128::from(unit.memory_per_thread) * weights / u128::from(largest);
    unit.memory.saturating_add(u64::try_from(buffers).unwrap_or(u64::MAX))
}

fn sum_of_largest(mut sizes: Vec<u64>, count: usize) -> u64 {
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    sizes.into_iter().take(count).fold(0, u64::saturating_add)
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn time(plan: &RunPlan, source_bytes: u64, machine: &Machine, forward: &Forward) -> Option<TimeEstimate> {
    let costs = plan.tensors().map(|(_, _, tensor)| tensor.cost.map(|cost| cost.max(0.0) * tensor.elements as f64));
    let plugin: f64 = costs.sum::<Option<f64>>()?;
    let products = forward.products as f64 / PRODUCTS;
    let core_seconds = (plugin + HOST_COST * plan.file_bytes as f64 + products) / 1e9;
    let transfer_seconds = source_bytes.saturating_add(plan.file_bytes) as f64 / TRANSFER;
    let cores = machine.threads.min(machine.cores).max(1);
    let work = core_seconds / machine.core_speed / f64::from(cores);
    let seconds = LEAST_SECONDS + work.max(transfer_seconds);
    let core_speed = machine.core_speed;
    seconds.is_finite().then_some(TimeEstimate { seconds, core_seconds, transfer_seconds, core_speed, cores })
}

#[cfg(test)]
mod tests {
    use qhost_plugin_api::documents::{Output, Plan, PlannedUnit, Segment, TensorSegment};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn plan(elements: u64, cost: Option<f64>) -> RunPlan {
        let mut tensor = TensorSegment::new("t", 1, vec![0], "E", elements);
        tensor.cost = cost;
        let mut plan = Plan::new("x", "l", Output::file("-l.x"));
        plan.segments = vec![Segment::tensor(0, 0, elements, tensor)];
        plan.units = vec![PlannedUnit::new(1)];
        plan.units[0].memory_per_thread = MIB;
        RunPlan { file_bytes: elements, parameters: elements, unit_weights: vec![(1, elements)], plan }
    }

    fn machine(threads: u32) -> Machine {
        let memory = Held { resident: 10 * MIB, anonymous: 4 * MIB, peak_resident: 11 * MIB, planning: 0 };
        Machine { threads, cores: 8, core_speed: 0.5, memory, digest_buffer: MIB, mapped: 12 * MIB }
    }

    fn seconds(elements: u64, threads: u32) -> f64 {
        estimate(&plan(elements, Some(40.0)), 2 * elements, &machine(threads), &Forward::default())
            .time
            .unwrap()
            .seconds
    }

    #[test]
    fn time_grows_with_the_model_and_falls_with_threads_as_long_as_there_are_cores() {
        let billion = 1_000_000_000;
        assert!(seconds(billion, 1) > 0.0);
        assert!(seconds(2 * billion, 1) > 1.9 * seconds(billion, 1));
        assert!(seconds(billion, 4) < 0.3 * seconds(billion, 1));
        let same = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(same(seconds(billion, 8), seconds(billion, 64)), "there are eight cores");
        let time = estimate(&plan(billion, Some(40.0)), 0, &machine(2), &Forward::default()).time.unwrap();
        assert!(
            same(time.core_seconds, 40.45) && same(time.seconds, LEAST_SECONDS + 40.45),
            "{time:?}: half as fast, twice"
        );
    }

    #[test]
    fn running_the_model_counts() {
        let forward = Forward { memory: 7 * MIB, products: 90_000_000_000 };
        let of = |forward| estimate(&plan(1000, Some(0.0)), 0, &machine(2), &forward);
        let (with, without) = (of(forward), of(Forward::default()));
        let seconds = |estimate: Estimate| estimate.time.unwrap().seconds;
        // Two seconds of the reference core, on two cores that are half as fast.
        assert!((seconds(with) - seconds(without) - 2.0).abs() < 1e-6, "{with:?} {without:?}");
        let peak = |estimate: Estimate| estimate.memory.peak_resident.unwrap();
        assert_eq!(peak(with) - peak(without), 7 * MIB);
    }

    #[test]
    fn what_costs_next_to_nothing_waits_for_the_disk() {
        let time =
            estimate(&plan(1_000_000_000, Some(0.0)), 3_000_000_000, &machine(8), &Forward::default()).time.unwrap();
        assert!((time.seconds - LEAST_SECONDS - 4.0).abs() < 1e-9, "{time:?}");
    }

    #[test]
    fn there_is_no_estimate_without_costs_or_figures_of_the_system() {
        let unknown = Machine { memory: Held::default(), ..machine(1) };
        let estimate = estimate(&plan(1000, None), 2000, &unknown, &Forward::default());
        assert_eq!(estimate.time, None);
        assert_eq!(estimate.memory, MemoryEstimate { peak_resident: None, peak_anonymous: None });
    }

    #[test]
    fn memory_is_what_is_held_and_what_comes() {
        let of = |elements, source, threads| {
            estimate(&plan(elements, None), source, &machine(threads), &Forward::default()).memory
        };
        let large = of(1 << 30, 2 << 30, 2);
        let stacks = 5 * THREAD;
        assert_eq!(large.peak_resident, Some(10 * MIB + 2 * MIB + stacks + RECORDS + MIB + 12 * MIB + CODE));
        assert_eq!(
            large.peak_anonymous,
            Some(4 * MIB + 2 * MIB + stacks + RECORDS + MIB),
            "one segment, one to digest it"
        );
        assert!(of(1000, 2000, 2).peak_resident < large.peak_resident, "a small source maps little");
        assert!(of(1 << 30, 2 << 30, 64).peak_resident > large.peak_resident);
        let grown = Held { peak_resident: 500 * MIB, ..machine(1).memory };
        let estimate = estimate(&plan(1000, None), 2000, &Machine { memory: grown, ..machine(1) }, &Forward::default());
        assert_eq!(estimate.memory.peak_resident, Some(500 * MIB), "reading a large tokenizer is over, and counts");
        let again = Machine { memory: Held { planning: 300 * MIB, ..machine(1).memory }, ..machine(1) };
        let estimate = super::estimate(&plan(1000, None), 2000, &again, &Forward::default());
        assert_eq!(estimate.memory.peak_resident, Some(310 * MIB + CODE), "reading it once more is yet to come");
    }

    #[test]
    fn threads_without_work_have_no_buffers_and_small_tensors_small_ones() {
        let of = |elements, threads| {
            let plan = plan(elements, None);
            used_by(&plan, &plan.plan.units[0], threads)
        };
        assert_eq!(of(4 * CHUNK_WEIGHTS, 3), 3 * MIB);
        assert_eq!(of(4 * CHUNK_WEIGHTS, 100), 4 * MIB);
        assert_eq!(of(CHUNK_WEIGHTS + CHUNK_WEIGHTS / 2, 100), 2 * MIB);
        let mut two = plan(CHUNK_WEIGHTS, None);
        two.plan.segments.push(Segment::tensor(0, 0, 1, TensorSegment::new("u", 1, vec![], "E", CHUNK_WEIGHTS / 4)));
        assert_eq!(used_by(&two, &two.plan.units[0], 2), MIB + MIB / 4);
    }
}
