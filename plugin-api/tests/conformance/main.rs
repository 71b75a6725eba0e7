//! The conformance suite can fail: a plugin that keeps to the contract passes it, and one that breaks it in one place is
//! told so by the check that is for it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bent;

use qhost_plugin_api::sdk::testing::conformance::{self, Report, Settings, Verdict};

use crate::bent::{Bend, Bent, MANIFEST};

fn report<const B: u8>() -> Report {
    conformance::of::<Bent<B>>(MANIFEST, &Settings::default()).unwrap()
}

fn failed(report: &Report) -> Vec<&'static str> {
    report.outcomes.iter().filter(|outcome| outcome.verdict == Verdict::Failed).map(|outcome| outcome.check).collect()
}

#[test]
fn what_keeps_to_the_contract_passes_every_check() {
    let report = report::<{ Bend::Nothing as u8 }>();
    assert!(report.outcomes.iter().all(|outcome| outcome.verdict == Verdict::Passed), "{report}");
    assert_eq!(report.outcomes.len(), 18, "{report}");
    // The words tell what was seen, and are the same each time.
    let again = conformance::of::<Bent<{ Bend::Nothing as u8 }>>(MANIFEST, &Settings::default()).unwrap();
    assert_eq!(report, again);
    assert!(report.to_string().contains("passed  same bytes on any threads of bent: "), "{report}");
}

/// A plugin with this bend fails these checks, and no others; the first says these words.
macro_rules! bends {
    ($($name:ident: $bend:ident fails [$($check:literal),+] with $words:literal;)+) => {
        $(#[test]
        fn $name() {
            let report = report::<{ Bend::$bend as u8 }>();
            assert_eq!(failed(&report), [$($check),+], "{report}");
            let first = report.outcomes.iter().find(|outcome| outcome.verdict == Verdict::Failed).unwrap();
            assert!(first.words.contains($words), "{report}");
        })+
    };
}

bends! {
    a_start_that_fails: DoesNotStart fails ["start"] with "a bad day";
    a_level_that_the_manifest_does_not_have: DescribesAnotherLevel fails ["description"] with "simple";
    a_default_that_is_no_level: DefaultIsNoLevel fails ["description"] with "f64";
    a_panic_in_a_plan: PanicsWhilePlanning fails ["levels", "large shapes"] with "no plan";
    no_level_that_works: RefusesEverything fails ["levels"] with "nothing is good enough";
    a_refusal_of_a_wrong_kind: RefusesAsInternal fails ["levels", "large shapes"] with "kind UNSUPPORTED";
    bytes_that_are_never_written: WritesTooLittle fails ["whole job"] with "did not write all of model.embed_tokens";
    bytes_that_are_written_twice: WritesTwice fails ["whole job"] with "twice";
    a_constant_that_is_too_short: ConstantIsTooShort fails ["whole job"] with "header has";
    a_check_that_does_not_pass: FailsItsOwnCheck fails ["whole job"] with "does not pass";
    a_check_that_checks_nothing: FindsNothing fails ["whole job"] with "nothing at all";
    grants_that_are_kept: KeepsGrants fails ["whole job"] with "kept granted memory";
    a_plan_that_changes: PlansDifferently fails ["same plan again", "same bytes on any threads"] with "the second time";
    bytes_that_change: BytesOfChance fails ["same bytes on any threads"] with "a second run differs";
    bytes_by_threads: BytesByThreads fails ["same bytes on any threads"] with "a run on 2 threads differs";
    a_panic_at_an_odd_shape: PanicsAtOneRow fails ["odd shapes"] with "a matrix of one row";
    lengths_that_overflow: CountsIn32Bits fails ["large shapes"] with "take 0 bytes";
    a_level_that_is_none: TakesAnyLevel fails ["unknown options"] with "no-such-level";
    a_plugin_option_that_is_none: TakesAnyPluginOption fails ["unknown options"] with "no-such-option";
    an_option_without_a_meaning: TakesAnyOption fails ["unknown options"] with "--bits";
    a_panic_at_a_role: PanicsAtRoles fails ["unknown roles and units"] with "no such role";
    a_role_that_is_not_named: RefusesRolesWithoutAName fails ["unknown roles and units"] with "without being named";
    weights_that_are_no_numbers: WritesNaN fails ["weights that are no numbers"] with "goes into the files";
    a_panic_at_weights_that_are_no_numbers: PanicsAtNaN fails ["weights that are no numbers"] with "NaN ends with";
    a_weight_that_is_not_named: RefusesNaNWithoutAName fails ["weights that are no numbers"] with "without the tensor";
    a_stop_that_is_not_heeded: GoesOnWhenCancelled fails ["cancellation"] with "went on to the end";
    a_write_whose_failure_is_lost: SwallowsWrites fails ["refusals of the host"] with "a write (number 0)";
    a_failure_in_other_words: RewordsRefusals fails ["refusals of the host"] with "kind INTERNAL";
    a_grant_that_is_not_heeded: IgnoresGrants fails ["refusals of the host"] with "a grant (number 0)";
    memory_beyond_the_plan: AsksForMoreThanPlanned fails ["granted memory"] with "573441 bytes";
    a_check_that_passes_anything: PassesEmptyFiles fails ["check of its own files"] with "are empty";
    tensors_outside_of_files: ReadsOutside fails ["reading", "weights read back"] with "outside of its file";
    files_that_are_not_known: TakesItsFilesForOthers fails ["reading"] with "for None";
    a_panic_at_damaged_files: PanicsAtDamage fails ["damaged files"] with "no header";
    files_that_are_cut: ReadsCutFiles fails ["damaged files"] with "neither `open` nor `check`";
    weights_that_are_others: DecodesOtherWeights fails ["weights read back"] with "a relative error of 3";
    rows_that_depend_on_how_they_are_asked_for: DecodesPiecesDifferently fails ["weights read back"] with "in pieces";
}

#[test]
fn a_manifest_that_is_none_is_refused() {
    let failure = conformance::of::<Bent<{ Bend::Nothing as u8 }>>("{}", &Settings::default()).unwrap_err();
    assert!(failure.message.contains("manifest"), "{failure}");
}
