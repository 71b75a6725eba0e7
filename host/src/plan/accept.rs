//! Checking that a plugin's plan is whole and contradicts neither itself nor the model.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path},
};

use qhost_plugin_api::documents::{CompanionContent, Model, OutputKind, Plan, SegmentContent};

use super::{Error, RunPlan};

/// Files that the host itself puts into a folder output.
const OURS: [&str; 2] = ["README.md", "qhost-report.json"];

/// Accepts a plan, or says what is wrong with it.
///
/// # Errors
/// Fails with [`Error::Inconsistent`].
pub fn accept(plan: Plan, model: &Model) -> Result<RunPlan, Error> {
    let check = Checker { plan: &plan, model };
    let result = check.files().and_then(|()| check.segments()).and_then(|()| check.units());
    result
        .and_then(|()| check.sources())
        .and_then(|()| check.companions())
        .map_err(|reason| Error::Inconsistent { reason })?;
    let file_bytes = plan.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add);
    let unit_weights = plan.units.iter().map(|unit| (unit.unit, check.weights_of(unit.unit))).collect();
    Ok(RunPlan { file_bytes, parameters: model.parameters(), unit_weights, plan })
}

struct Checker<'a> {
    plan: &'a Plan,
    model: &'a Model,
}

impl Checker<'_> {
    fn weights_of(&self, unit: u32) -> u64 {
        let tensors = self.plan.segments.iter().filter_map(|segment| match &segment.content {
            SegmentContent::Tensor(tensor) if tensor.unit == unit => Some(tensor.elements),
            _ => None,
        });
        tensors.fold(0, u64::saturating_add)
    }

    fn files(&self) -> Result<(), String> {
        let suffix = &self.plan.output.suffix;
        if suffix.is_empty() || !is_plain_name(&format!("x{suffix}")) {
            return Err(format!("the output's suffix is `{}`", suffix.escape_debug()));
        }
        let names: Vec<_> = self.plan.files.iter().map(|file| file.name.as_str()).collect();
        match self.plan.output.kind {
            OutputKind::File if names == [""] => Ok(()),
            OutputKind::File => Err(format!("a single-file output with the files {names:?}")),
            OutputKind::Folder => {
                if let Some(bad) = names.iter().find(|name| !is_plain_name(name) || OURS.contains(name)) {
                    return Err(format!("a file named `{}`", bad.escape_debug()));
                }
                let distinct: BTreeSet<_> = names.iter().collect();
                if names.is_empty() || distinct.len() != names.len() {
                    return Err(format!("a folder output with the files {names:?}"));
                }
                Ok(())
            }
            _ => Err("an output of an unknown kind".into()),
        }
    }

    fn segments(&self) -> Result<(), String> {
        let mut ends: BTreeMap<u32, u64> = BTreeMap::new();
        let mut order: Vec<_> = (0..self.plan.segments.len()).collect();
        order.sort_by_key(|&index| (self.plan.segments[index].file, self.plan.segments[index].offset));
        for index in order {
            let segment = &self.plan.segments[index];
            let Some(file) = self.plan.files.get(segment.file as usize) else {
                return Err(format!("segment {index} is in file {}, which is not planned", segment.file));
            };
            let end = segment.offset.checked_add(segment.bytes).filter(|&end| end <= file.bytes);
            let Some(end) = end else {
                return Err(format!("segment {index} goes past the end of its file"));
            };
            let taken = ends.entry(segment.file).or_default();
            if segment.offset < *taken {
                return Err(format!("segment {index} overlaps another"));
            }
            *taken = end;
        }
        Ok(())
    }

    fn units(&self) -> Result<(), String> {
        let known: BTreeSet<_> = self.model.units.iter().map(|unit| unit.id).collect();
        let mut planned = BTreeSet::new();
        if self.plan.units.iter().any(|unit| !unit.statistics.is_empty() || unit.replays) {
            let place = |unit: u32| self.model.units.iter().position(|info| info.id == unit);
            if !self.plan.units.is_sorted_by_key(|unit| place(unit.unit)) {
                return Err("units that ask for statistics are not in the order of the model".into());
            }
        }
        for unit in &self.plan.units {
            if !known.contains(&unit.unit) {
                return Err(format!("unit {} is not in the model", unit.unit));
            }
            if !planned.insert(unit.unit) {
                return Err(format!("unit {} is planned twice", unit.unit));
            }
        }
        for segment in &self.plan.segments {
            match &segment.content {
                SegmentContent::Tensor(tensor) if !planned.contains(&tensor.unit) => {
                    return Err(format!("{} belongs to unit {}, which is not planned", tensor.name, tensor.unit));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Every tensor of the model is used or said to be unused: weights are never dropped silently.
    fn sources(&self) -> Result<(), String> {
        let mut accounted = vec![false; self.model.tensors.len()];
        let used = self.plan.segments.iter().filter_map(|segment| match &segment.content {
            SegmentContent::Tensor(tensor) => Some(tensor.sources.as_slice()),
            _ => None,
        });
        let unused = self.plan.unused.iter().map(|unused| &unused.tensor);
        for &tensor in used.flatten().chain(unused) {
            match accounted.get_mut(tensor as usize) {
                Some(seen) => *seen = true,
                None => return Err(format!("tensor {tensor} is not in the model")),
            }
        }
        match accounted.iter().position(|seen| !seen) {
            Some(dropped) => Err(format!("it drops {}", self.model.tensors[dropped].name)),
            None => Ok(()),
        }
    }

    fn companions(&self) -> Result<(), String> {
        let mut names: BTreeSet<_> = self.plan.files.iter().map(|file| file.name.as_str()).collect();
        names.extend(OURS);
        for companion in &self.plan.companions {
            if !is_plain_name(&companion.name) || !names.insert(&companion.name) {
                return Err(format!("a companion named `{}`", companion.name.escape_debug()));
            }
            match &companion.content {
                CompanionContent::Copy(source) if !self.model.companions.iter().any(|file| file.name == *source) => {
                    return Err(format!("{} copies {source}, which the model does not have", companion.name));
                }
                _ => {}
            }
        }
        if self.plan.output.kind == OutputKind::File && !self.plan.companions.is_empty() {
            return Err("a single-file output with companions".into());
        }
        let mut suffixes = BTreeSet::from([self.plan.output.suffix.as_str()]);
        for suffix in &self.plan.beside {
            if !is_plain_name(&format!("x{suffix}")) || suffix.is_empty() || !suffixes.insert(suffix) {
                return Err(format!("a file beside the output named `{}`", suffix.escape_debug()));
            }
            if self.plan.output.kind != OutputKind::File {
                return Err("a folder output with files beside it".into());
            }
        }
        Ok(())
    }
}

/// Whether a name stays where it is put: one component, neither hidden nor special.
fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let plain = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    plain && !name.starts_with('.') && !name.contains(['/', '\\', '\0', ':'])
}

#[cfg(test)]
mod tests {
    use qhost_plugin_api::documents::{
        Companion, Output, PlannedFile, PlannedUnit, Role, RoleKind, Segment, SourceTensor, TensorSegment, UnitInfo,
    };

    use super::*;

    fn model() -> Model {
        let tensor = |name| SourceTensor::new(name, Role::weight(RoleKind::FfnUp), 1, "F32", vec![2, 4]);
        let mut model = Model::new("m", "f");
        model.units = vec![UnitInfo::layer(1, 0)];
        model.tensors = vec![tensor("a"), tensor("b")];
        model
    }

    fn segment(offset: u64, bytes: u64, source: u32) -> Segment {
        Segment::tensor(0, offset, bytes, TensorSegment::new(format!("t{source}"), 1, vec![source], "E", 8))
    }

    fn plan() -> Plan {
        let mut plan = Plan::new("x", "l", Output::file("-l.x"));
        plan.files = vec![PlannedFile::single(40)];
        plan.segments = vec![segment(24, 16, 1), segment(8, 16, 0)];
        plan.units = vec![PlannedUnit::new(1)];
        (plan.units[0].memory, plan.units[0].memory_per_thread) = (5, 3);
        plan
    }

    #[test]
    fn a_sound_plan_is_accepted_and_summed() {
        let accepted = accept(plan(), &model()).unwrap();
        assert_eq!((accepted.file_bytes, accepted.parameters, accepted.working_memory(2)), (40, 16, 11));
        assert_eq!(accepted.unit_weights, [(1, 16)]);
    }

    #[test]
    fn each_contradiction_is_refused() {
        type Spoil = fn(&mut Plan);
        let spoils: [(&str, Spoil); 14] = [
            ("overlaps", |plan| plan.segments[0].offset = 23),
            ("past the end", |plan| plan.segments[0].bytes = 17),
            ("past the end", |plan| plan.segments[0].bytes = u64::MAX),
            ("not planned", |plan| plan.segments[0].file = 1),
            ("not planned", |plan| plan.units.clear()),
            ("twice", |plan| plan.units.push(plan.units[0].clone())),
            ("not in the model", |plan| plan.units[0].unit = 7),
            ("drops b", |plan| drop(plan.segments.remove(0))),
            ("tensor 9", |plan| plan.segments[0] = segment(24, 16, 9)),
            ("suffix", |plan| plan.output.suffix = "/../../x".into()),
            ("single-file", |plan| plan.files[0].name = "a".into()),
            ("a file named", |plan| {
                plan.output.kind = OutputKind::Folder;
                plan.files[0].name = "../a".into();
            }),
            ("a file named", |plan| {
                plan.output.kind = OutputKind::Folder;
                plan.files[0].name = "qhost-report.json".into();
            }),
            ("a companion named", |plan| {
                plan.output.kind = OutputKind::Folder;
                plan.files[0].name = "a".into();
                plan.companions = vec![Companion::text("README.md", "the host's")];
            }),
        ];
        for (word, spoil) in spoils {
            let mut plan = plan();
            spoil(&mut plan);
            let error = accept(plan, &model()).unwrap_err().to_string();
            assert!(error.contains(word), "{word}: {error}");
        }
    }
}
