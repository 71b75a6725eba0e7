//! What goes wrong around a unit: weights that are no numbers, a user who stops, a host that refuses.

use super::{
    Failure, Outcomes, Problem, failed, is_refusal, models, reading, skipped,
    subject::{Subject, Target, verdict},
    told,
};
use crate::sdk::{
    FailureKind,
    testing::conditions::{Call, Fate},
};

/// NaN and infinity are refused by the tensor's name, or become finite numbers.
pub(super) fn not_finite(subject: &Subject<'_>, target: &Target<'_>) -> Outcomes {
    let level = target.level()?;
    let mut faults = Vec::new();
    let mut told_of = Vec::new();
    for (words, value) in [("NaN", f32::NAN), ("infinity", f32::INFINITY)] {
        let mut model = subject.model.clone();
        let Some((id, tensor)) = models::linear(&model) else { return skipped("the model has no linear") };
        let (name, elements) = (tensor.name.clone(), tensor.elements());
        let place = elements / 2 + 1;
        #[expect(clippy::cast_precision_loss, reason = "small numbers of a test")]
        model
            .set_values(id, (0..elements).map(|index| if index == place { value } else { (index % 13) as f32 / 50.0 }));
        match subject.plugin.make(&model, &target.format.id, target.options(level)) {
            Err(failure) => match is_refusal(&failure) {
                Err(wrong) => faults.push(format!("{words} ends with {wrong}")),
                Ok(()) if super::description::names(&failure, &name) => told_of.push(format!("{words} is refused")),
                Ok(()) => faults.push(format!(
                    "{words} in {name} is refused without the tensor's name: {}; add `.about(name)`",
                    told(&failure)
                )),
            },
            Ok(made) => match reading::finite(subject, target, &made) {
                Ok(true) => told_of.push(format!("{words} is taken, and what is read back is finite")),
                Ok(false) => faults.push(format!(
                    "{words} in {name} goes into the files; widen with `Rows::widen`, which refuses it by name"
                )),
                Err(Problem::Skipped(reason)) => {
                    told_of.push(format!("{words} is taken; what became of it is not known: {reason}"));
                }
                Err(Problem::Failed(wrong)) => faults.push(format!("{words} is taken, and then: {wrong}")),
            },
        }
    }
    verdict(&faults, told_of.join(", "))
}

/// A unit ends with kind `CANCELLED` soon after the user wants to stop.
pub(super) fn cancellation(subject: &Subject<'_>, target: &Target<'_>) -> Outcomes {
    let level = target.level()?;
    let make = || {
        subject.host.run_on(1);
        subject.plugin.make(&subject.model, &target.format.id, target.options(level))
    };
    make()?;
    let calls = |of| subject.host.calls(of);
    let (leases, writes) = (calls(Call::Lease), calls(Call::Write));
    if leases == 0 {
        return skipped("it reads no weights");
    }
    // Of what is left after the middle, half is more than whoever looks once per tensor needs.
    let most = 2 + (leases + writes) / 4;
    subject.host.reset();
    subject.host.prepare(Call::Lease, leases / 2, Fate::Cancel);
    let ended = make();
    let afterwards = subject.host.calls_afterwards();
    let remedy =
        "run loops with `parallel_map`, which looks between iterations, and look at `host.cancelled()` in long ones";
    match ended {
        Ok(_) => failed(format!(
            "the user stopped at loan {} of {leases}, and it went on to the end ({afterwards} more calls); {remedy}",
            leases / 2
        )),
        Err(failure) if failure.kind != FailureKind::CANCELLED => {
            failed(format!("the user stopped, and it ended with {}; pass the failure on as it is", told(&failure)))
        }
        Err(_) if afterwards > most => {
            failed(format!("it asked its host for {afterwards} more things after the user had stopped; {remedy}"))
        }
        Err(_) => Ok(format!("it ends {afterwards} calls after the user has stopped")),
    }
}

/// What the host refuses comes back as it was, whenever it is refused.
pub(super) fn refusals(subject: &Subject<'_>, target: &Target<'_>) -> Outcomes {
    let level = target.level()?;
    let make = || {
        subject.host.run_on(1);
        subject.plugin.make(&subject.model, &target.format.id, target.options(level))
    };
    make()?;
    let kinds = [
        (Call::Lease, "a loan of rows", Failure::corrupt("the checkpoint ends too early (conformance)")),
        (Call::Write, "a write", Failure::new(FailureKind::RESOURCES, "the disk is full (conformance)")),
        (Call::Grant, "a grant", Failure::new(FailureKind::RESOURCES, "no memory is left (conformance)")),
    ];
    let counted = kinds.map(|(call, words, failure)| (call, words, failure, subject.host.calls(call)));
    let mut faults = Vec::new();
    let mut tried = 0;
    for (call, words, refusal, calls) in counted {
        let mut places = vec![0, calls / 2, calls.saturating_sub(1)];
        places.dedup();
        for place in places.into_iter().filter(|place| *place < calls) {
            subject.host.reset();
            subject.host.prepare(call, place, Fate::Fail(refusal.clone()));
            tried += 1;
            let fault = match make() {
                Ok(_) => "it goes on as if nothing had been".to_owned(),
                Err(failure) if failure.kind == refusal.kind && failure.message.contains(&*refusal.message) => continue,
                Err(failure) => format!("it ends with {}", told(&failure)),
            };
            faults.push(format!(
                "{words} (number {place}) was refused with “{refusal}”, and {fault}; pass the host's failures on with `?`"
            ));
        }
    }
    verdict(&faults, format!("{tried} refusals come back as they were"))
}
