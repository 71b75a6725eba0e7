//! Plans and whole jobs: levels, shapes, threads, memory, and the plugin's own check.

use std::collections::BTreeMap;

use super::{
    Failure, Outcomes, failed, is_refusal,
    models::{self, THREADS},
    skipped,
    subject::{Subject, Target, verdict},
    told,
};
use crate::{
    documents::{Document, Findings, OpenRequest, Plan, Role, RoleKind, SegmentContent, UnitInfo, UnitKind},
    sdk::{
        FailureKind,
        testing::{Made, objects},
    },
};

/// Each level is planned for the ordinary model, or refused in words; one at least works.
pub(super) fn levels(subject: &Subject<'_>, target: &Target<'_>) -> Outcomes {
    let mut faults = Vec::new();
    let mut refused = Vec::new();
    for (level, planned) in &target.planned {
        match planned {
            Ok(plan) if plan.level != *level => {
                faults.push(format!("the plan of the level {level} is called `{}`", plan.level));
            }
            Ok(plan) if plan.format != target.format.id => {
                faults.push(format!("the plan is one of the format `{}`", plan.format));
            }
            Ok(_) => {}
            Err(failure) => match is_refusal(failure) {
                Ok(()) => refused.push(format!("{level}: {}", told(failure))),
                Err(wrong) => faults.push(format!("the level {level} ends with {wrong}")),
            },
        }
    }
    let works = target.planned.len() - refused.len();
    if faults.is_empty() && works == 0 {
        if target.format.takes_no_floats {
            return skipped("it takes no floats: only conversions from certain formats make it");
        }
        let (layers, hidden, ffn, vocabulary) = subject.settings.size;
        return failed(format!(
            "no level takes a llama of {layers} layers, {hidden} wide, {ffn} inside, with {vocabulary} tokens; if such a \
             model cannot be made, say in `Settings` which can: {}",
            few(&refused)
        ));
    }
    verdict(&faults, format!("{works} of {} levels are planned{}", target.planned.len(), and(&refused)))
}

fn and(refused: &[String]) -> String {
    if refused.is_empty() { String::new() } else { format!("; refused: {}", few(refused)) }
}

/// The first of many refusals, which are mostly alike.
fn few(refused: &[String]) -> String {
    match refused {
        [first, second, more @ ..] if !more.is_empty() => format!("{first}; {second}; and {} more", more.len()),
        all => all.join("; "),
    }
}

/// A job of every level: each byte written once, constants as long as planned, a check that passes.
pub(super) fn whole(subject: &Subject<'_>, target: &Target<'_>) -> Outcomes {
    target.level()?;
    let mut faults = Vec::new();
    for level in target.levels() {
        // The host in memory sees to it that every byte is written, and written once.
        match subject.plugin.make(&subject.model, &target.format.id, target.options(level)) {
            Ok(made) => faults.extend(findings(&made.findings).err().map(|wrong| format!("level {level}: {wrong}"))),
            Err(failure) => faults.push(format!("level {level}: {}", told(&failure))),
        }
    }
    verdict(&faults, format!("{} levels are made whole, and pass their own check", target.levels().count()))
}

fn findings(findings: &Findings) -> Result<(), String> {
    if findings.checks.is_empty() {
        return Err("`check` finds nothing at all; re-read the files as a loader would".into());
    }
    if findings.passed() {
        return Ok(());
    }
    Err(format!("its own check does not pass: {:?}", findings.checks))
}

/// The same request gives the same plan.
pub(super) fn same_plan(subject: &Subject<'_>, target: &Target<'_>) -> Outcomes {
    let mut faults = Vec::new();
    for (level, planned) in &target.planned {
        let again = subject.plugin.plan(&subject.model, &target.format.id, target.options(level));
        if let (Ok(planned), Ok(again)) = (planned, again)
            && *planned != again
        {
            faults.push(format!(
                "the level {level} is planned differently the second time; take nothing into a plan but the request"
            ));
        }
    }
    if target.planned.iter().all(|(_, planned)| planned.is_err()) {
        return skipped("no level can be planned; see `levels`");
    }
    verdict(&faults, "the same request gives the same plan")
}

/// Files and figures do not depend on how many threads run the loops, nor on anything else.
pub(super) fn threads(subject: &Subject<'_>, target: &Target<'_>) -> Outcomes {
    let level = target.level()?;
    let make = |threads| {
        subject.host.run_on(threads);
        subject.plugin.make(&subject.model, &target.format.id, target.options(level))
    };
    let first = make(1)?;
    let mut faults = Vec::new();
    for threads in [1, 2, THREADS] {
        if let Some(difference) = difference(&first, &make(threads)?) {
            let of = if threads == 1 { "a second run".to_owned() } else { format!("a run on {threads} threads") };
            faults.push(format!(
                "{of} differs: {difference}; cut work by shapes (`chunks`), add up in a fixed order, and take neither time \
                 nor chance into the files"
            ));
        }
    }
    verdict(&faults, format!("1, 2 and {THREADS} threads and a second run give the same plan, bytes and figures"))
}

fn difference(one: &Made, other: &Made) -> Option<String> {
    if one.plan != other.plan {
        return Some("another plan".into());
    }
    for (name, bytes) in &one.files {
        let others = other.files.get(name);
        if others != Some(bytes) {
            let place = others.and_then(|others| bytes.iter().zip(others).position(|(one, other)| one != other));
            return Some(format!("the file `{name}` from byte {} on", place.unwrap_or(0)));
        }
    }
    (one.metrics != other.metrics).then(|| "its figures".into())
}

/// Levels that are tried on every odd shape.
const MOST_LEVELS: usize = 6;

/// Models of odd shapes are made whole or refused.
pub(super) fn odd_shapes(subject: &Subject<'_>, target: &Target<'_>) -> Outcomes {
    target.level()?;
    let mut faults = Vec::new();
    let (mut made, mut refused) = (0, Vec::new());
    for (words, model) in models::odd(subject.settings) {
        for level in target.levels().take(MOST_LEVELS) {
            match subject.plugin.make(&model, &target.format.id, target.options(level)) {
                Ok(whole) => match findings(&whole.findings) {
                    Ok(()) => made += 1,
                    Err(wrong) => faults.push(format!("{words}, level {level}: {wrong}")),
                },
                Err(failure) => match is_refusal(&failure) {
                    Ok(()) => refused.push(format!("{words}, level {level}: {failure}")),
                    Err(wrong) => faults.push(format!("{words}, level {level}: {wrong}")),
                },
            }
        }
    }
    let example = refused.first().map_or_else(String::new, |first| format!(" ({first})"));
    verdict(&faults, format!("{made} made, {} refused{example}", refused.len()))
}

/// A plan costs memory and time by the number of tensors, not by their sizes, and its lengths are right.
pub(super) fn large_shapes(subject: &Subject<'_>, target: &Target<'_>) -> Outcomes {
    let model = models::large(subject.settings);
    let mut faults = Vec::new();
    let mut refused = 0;
    for level in &target.format.levels {
        let request = OpenRequest::new(&*target.format.id, target.options(&level.id), model.model.clone());
        match subject.plugin.open_request(&model, &request) {
            Ok((_, plan)) => {
                if let Some(wrong) = too_short(&plan) {
                    faults.push(format!("level {}: {wrong}; count in u64, with checked arithmetic", level.id));
                }
            }
            Err(failure) => match is_refusal(&failure) {
                Ok(()) => refused += 1,
                Err(wrong) => faults.push(format!("level {}: {wrong}", level.id)),
            },
        }
    }
    let count = target.format.levels.len();
    verdict(
        &faults,
        format!("of {count} levels {} are planned for 2⁵⁷ weights a tensor, the others refused", count - refused),
    )
}

/// A tensor that has less than an eighth of a bit for each weight.
fn too_short(plan: &Plan) -> Option<String> {
    let mut bytes: BTreeMap<&[u32], (u64, u64)> = BTreeMap::new();
    for segment in &plan.segments {
        if let SegmentContent::Tensor(tensor) = &segment.content {
            let sum = bytes.entry(&tensor.sources).or_default();
            *sum = (sum.0.saturating_add(segment.bytes), sum.1.max(tensor.elements));
        }
    }
    let wrong = bytes.values().find(|(bytes, weights)| bytes.saturating_mul(64) < *weights);
    wrong.map(|(bytes, weights)| format!("{weights} weights are planned to take {bytes} bytes"))
}

/// What a later host may send is refused by name or taken, and nothing else.
pub(super) fn unknown_roles(subject: &Subject<'_>, target: &Target<'_>) -> Outcomes {
    let level = target.level()?;
    let mut role = subject.model.clone();
    let kind = RoleKind::Other("role_to_come".into());
    role.tensor("model.layers.0.to_come.weight", Role::weight(kind), 1, &[32, 64], std::iter::repeat_n(0.5, 32 * 64));
    let mut unit = subject.model.clone();
    let id = u32::try_from(unit.model.units.len()).unwrap_or(u32::MAX);
    unit.model.units.push(UnitInfo::new(id, UnitKind::Other));
    let norm = Role::weight(RoleKind::FfnNorm);
    unit.tensor("model.unit_to_come.weight", norm, id, &[64], std::iter::repeat_n(0.5, 64));
    let mut faults = Vec::new();
    let mut told_of = Vec::new();
    for (words, named, model) in [("an unknown role", "to_come", role), ("an unknown unit", "unit", unit)] {
        match subject.plugin.make(&model, &target.format.id, target.options(level)) {
            Ok(_) => told_of.push(format!("{words} is taken")),
            Err(failure) => match is_refusal(&failure) {
                Ok(()) if super::description::names(&failure, named) => told_of.push(format!("{words} is refused")),
                Ok(()) => faults.push(format!("{words} is refused without being named: {}", told(&failure))),
                Err(wrong) => faults.push(format!("{words}: {wrong}")),
            },
        }
    }
    verdict(&faults, told_of.join(", "))
}

/// A unit is granted no more than its plan states.
pub(super) fn memory(subject: &Subject<'_>, target: &Target<'_>) -> Outcomes {
    let level = target.level()?;
    let request = OpenRequest::new(&*target.format.id, target.options(level), subject.model.model.clone());
    let (mut faults, mut most) = (Vec::new(), 0);
    for threads in [1, THREADS] {
        subject.host.reset();
        subject.host.run_on(threads);
        subject.plugin.make_watched(&subject.model, &request, &mut |unit| {
            let (peak, stated) = (subject.host.peak_granted(), unit.working_memory(THREADS));
            if peak > stated {
                faults.push(format!(
                    "unit {} asked for {peak} bytes, and its plan states {stated}; the plan is what `--max-memory` is held \
                     against",
                    unit.unit
                ));
            }
            most = most.max(peak);
            subject.host.reset();
            subject.host.run_on(threads);
            Ok(())
        })?;
    }
    let words = if most == 0 { "it asks for no memory".into() } else { format!("{most} bytes at most, as planned") };
    verdict(&faults, words)
}

/// The plugin's own check tells files that are cut short or empty from whole ones.
pub(super) fn own_check(subject: &Subject<'_>, target: &Target<'_>) -> Outcomes {
    let level = target.level()?;
    let request = OpenRequest::new(&*target.format.id, target.options(level), subject.model.model.clone());
    let (made, job) = subject.plugin.make_watched(&subject.model, &request, &mut |_| Ok(()))?;
    let check = |files| -> Result<Findings, Failure> {
        Findings::from_json(&job.check(objects::files_object(files)).into_result()?)
    };
    let weights: Vec<_> = made.plan.files.iter().map(|file| file.name.clone()).collect();
    let mut faults = Vec::new();
    // Nothing, a half, and no file at all; of half a file a check need not notice that weights are missing.
    for (words, must, keep) in [("empty", true, Some(0)), ("cut in half", false, Some(2)), ("missing", true, None)] {
        let mut files = made.files.clone();
        for name in &weights {
            match keep {
                None => drop(files.remove(name)),
                Some(0) => drop(files.insert(name.clone(), Vec::new())),
                Some(part) => drop(files.get_mut(name).map(|file| file.truncate(file.len() / part))),
            }
        }
        match check(files) {
            Ok(findings) if must && findings.passed() => {
                faults.push(format!("its check passes where all files of weights are {words}; read them in `check`"));
            }
            Err(failure) if matches!(failure.kind, FailureKind::PLUGIN | FailureKind::INTERNAL) => {
                faults.push(format!("its check of files that are {words} ends with {}", told(&failure)));
            }
            _ => {}
        }
    }
    verdict(&faults, "it does not pass files that are empty or missing")
}
