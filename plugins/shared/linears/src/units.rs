//! What the host is asked for each unit: statistics of the inputs of its modules, and memory.

use qhost_plugin_api::documents::{InputGroup, Model, PlannedUnit, Precision, Statistic, StatisticsNeed};

use crate::{Calibration, Contents, Module, difference, memory, memory_per_thread};

/// The units of a model with what each needs; packing a module takes so much memory beside its codes.
#[must_use]
pub fn units(
    model: &Model,
    contents: &Contents,
    calibration: &Calibration,
    packing: fn(&Module) -> u64,
) -> Vec<PlannedUnit> {
    let units = model.units.iter().map(|unit| {
        let modules: Vec<_> = contents.modules().filter(|module| module.unit == unit.id).collect();
        let mut planned = PlannedUnit::new(unit.id);
        let (own, of_arithmetic) = memory(&modules, calibration.corrects, packing);
        planned.memory = own + of_arithmetic;
        planned.memory_per_thread = memory_per_thread(&modules);
        let rounded = modules.iter().filter(|module| module.taken.is_none());
        let mut groups: Vec<_> = rounded.map(|module| &module.group).collect();
        groups.sort_unstable();
        groups.dedup();
        planned.statistics = groups.into_iter().map(|group| need(group, calibration)).collect();
        planned.replays = !planned.statistics.is_empty();
        planned
    });
    units.collect()
}

/// What is asked about the inputs of a group.
#[must_use]
pub fn need(group: &InputGroup, calibration: &Calibration) -> StatisticsNeed {
    let mut what = vec![Statistic::Gram];
    if calibration.corrects {
        what.extend(difference::statistics(group));
    }
    let mut need = StatisticsNeed::new(group.clone(), what);
    need.precision = Precision::Double;
    need.fewest_tokens = calibration.fewest_tokens;
    need.scarce = calibration.scarce;
    need
}
