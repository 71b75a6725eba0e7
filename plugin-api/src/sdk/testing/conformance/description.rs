//! What the plugin says of itself, and what it refuses.

use std::collections::BTreeSet;

use super::{
    Failure, Outcomes, is_refusal, skipped,
    subject::{Subject, Target, verdict},
    told,
};
use crate::{
    API_VERSION,
    documents::{Description, FormatDescription, ManifestFormat, OpenRequest, Options},
    sdk::{FailureKind, READER, TRANSCODE, VERIFY},
};

/// The keys of `Options` that formats may tell of.
const COMMON: [&str; 8] =
    ["bits", "group_size", "symmetric", "act_order", "imatrix", "effort", "max_size", "tensor_types"];

/// Whether the manifest, which is read before anything is loaded, and the description say the same.
pub(super) fn agrees(subject: &Subject<'_>, description: &Description) -> Outcomes {
    let manifest = subject.manifest;
    let mut faults = Vec::new();
    let speaks = semver::VersionReq::parse(&manifest.api).ok().zip(semver::Version::parse(API_VERSION).ok());
    if speaks.is_none_or(|(needs, spoken)| !needs.matches(&spoken)) {
        faults.push(format!("the manifest needs the plugin API `{}`, and this is {API_VERSION}", manifest.api));
    }
    let declared: Vec<_> = manifest.formats.iter().map(|format| &format.id).collect();
    let described: Vec<_> = description.formats.iter().map(|format| &format.id).collect();
    if declared != described {
        faults.push(format!(
            "the manifest has the formats {declared:?} and the description {described:?}; make them the same, in the \
             same order"
        ));
    }
    for format in &description.formats {
        if let Some(declared) = manifest.formats.iter().find(|declared| declared.id == format.id) {
            levels(declared, format, &mut faults);
        }
    }
    let has = |service: &str| subject.plugin.service(service).is_some();
    let reads = manifest.formats.iter().any(|format| !format.reads.is_empty() || !format.folders.is_empty());
    if reads && !has(READER) {
        faults.push(format!("the manifest says how its files are known, and the plugin has no service `{READER}`"));
    }
    if manifest.formats.iter().any(|format| !format.loaders.is_empty()) && !has(VERIFY) {
        faults.push(format!("the manifest names loaders, and the plugin has no service `{VERIFY}`"));
    }
    if manifest.transcodes.is_empty() == has(TRANSCODE) {
        faults.push(format!("`transcodes` of the manifest and the service `{TRANSCODE}` belong together"));
    }
    if manifest.formats.is_empty() && manifest.transcodes.is_empty() {
        faults.push("it has neither a format nor a transcoding".into());
    }
    verdict(&faults, format!("{} formats, as in the manifest", described.len()))
}

fn levels(declared: &ManifestFormat, format: &FormatDescription, faults: &mut Vec<String>) {
    let id = &format.id;
    let levels: Vec<_> = format.levels.iter().map(|level| &level.id).collect();
    if declared.levels.iter().ne(levels.iter().copied()) {
        faults.push(format!("{id} has the levels {levels:?}, and {:?} in the manifest", declared.levels));
    }
    if levels.is_empty() {
        faults.push(format!("{id} has no level; describe at least one"));
    }
    if levels.iter().collect::<BTreeSet<_>>().len() != levels.len() {
        faults.push(format!("{id} has a level twice"));
    }
    if let Some(default) = format.default_level.as_ref().filter(|default| !levels.contains(default)) {
        faults.push(format!("the default level `{default}` of {id} is not among its levels"));
    }
    for level in &format.levels {
        if !(level.bits_per_weight.is_finite() && level.bits_per_weight > 0.0) {
            faults.push(format!("the level {} of {id} has {} bits per weight", level.id, level.bits_per_weight));
        }
        if level.summary.trim().is_empty() {
            faults.push(format!("the level {} of {id} has no summary", level.id));
        }
    }
    if let Some(key) = format.common_options.iter().flatten().find(|key| !COMMON.contains(&key.as_str())) {
        faults.push(format!("`{key}` among the common options of {id} is none; they are {COMMON:?}"));
    }
}

/// Whether what has no meaning for the format is refused by name.
pub(super) fn unknown_options(subject: &Subject<'_>, target: &Target<'_>) -> Outcomes {
    let Some(level) = target.format.levels.first() else { return skipped("it has no level") };
    let options = || target.options(&level.id);
    let mut other = options();
    other.other.insert("option_to_come".into(), true.into());
    let mut plugin = options();
    plugin.plugin.insert("no-such-option".into(), "1".into());
    let mut tried = vec![
        ("the level `no-such-level`", "no-such-level", target.options("no-such-level"), true),
        ("--plugin-option no-such-option=1", "no-such-option", plugin, true),
        ("--option-to-come, which this API does not know", "option-to-come", other, true),
    ];
    // A format that does not say which options it knows may know all of them.
    let known = target.format.common_options.as_ref();
    for (key, flag, options) in common(&options()) {
        tried.push((flag, flag, options, known.is_some_and(|known| !known.iter().any(|known| known == key))));
    }
    let mut faults = Vec::new();
    for (words, name, options, must) in tried {
        let request = OpenRequest::new(&*target.format.id, options, subject.model.model.clone());
        match subject.plugin.open_request(&subject.model, &request) {
            Ok(_) if must => faults.push(format!(
                "{words} is passed over in silence; refuse it with `Failure::usage` or `Failure::unsupported`"
            )),
            Ok(_) => {}
            Err(failure) if must && failure.kind == FailureKind::PLUGIN => {
                faults.push(format!("{words}: {}", told(&failure)));
            }
            Err(failure) => {
                if let Err(wrong) = is_refusal(&failure) {
                    faults.push(format!("{words}: {wrong}"));
                } else if must && !names(&failure, name) {
                    faults.push(format!("{words} is refused without being named: {}", told(&failure)));
                }
            }
        }
    }
    verdict(&faults, "levels, options and plugin options without a meaning are refused by name")
}

/// Whether what is refused is named, in any spelling of the option.
pub(super) fn names(failure: &Failure, name: &str) -> bool {
    let text = format!("{} {} {}", failure.subject, failure.message, failure.hint);
    let plain = |text: &str| text.to_lowercase().replace(['-', '_'], "");
    plain(&text).contains(&plain(name))
}

/// Each of the common options alone.
fn common(base: &Options) -> Vec<(&'static str, &'static str, Options)> {
    let base = || base.clone();
    vec![
        ("bits", "--bits", Options { bits: Some(4), ..base() }),
        ("group_size", "--group-size", Options { group_size: Some(32), ..base() }),
        ("symmetric", "--sym", Options { symmetric: Some(true), ..base() }),
        ("act_order", "--desc-act", Options { act_order: Some(true), ..base() }),
        ("imatrix", "--imatrix", Options { imatrix: Some("auto".into()), ..base() }),
        ("effort", "--effort", Options { effort: Some("fast".into()), ..base() }),
        ("max_size", "--max-size", Options { max_size: Some(1 << 30), ..base() }),
        ("tensor_types", "--tensor-type", Options { tensor_types: vec!["no-tensor=no-type".into()], ..base() }),
    ]
}
