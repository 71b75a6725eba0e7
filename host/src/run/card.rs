//! The model card of an output: its name, whether it may be written, and its facts.

use std::{fs, path::Path};

use qhost_plugin_api::documents::{Options, OutputKind};

use super::{CalibrationRequest, Outcome};
use crate::{
    card::{self, Facts, Tensor},
    dataset::Sampling,
    plan::bits_per_weight,
    write::Target,
};

/// The name of the card in a folder output.
const IN_FOLDER: &str = "README.md";

/// The card's name beside a file or in a folder.
pub(super) fn name(target: &Target) -> String {
    if target.kind == OutputKind::Folder {
        return IN_FOLDER.into();
    }
    // The dot is that of the format's ending, and not one in the model's name.
    let stem = target.name.rfind('.').map_or(&*target.name, |dot| &target.name[..dot]);
    format!("{stem}.md")
}

/// Whether something is in the place of an output's card that is not a card of the same output, and so is kept.
pub(super) fn in_the_way(output: &Path, name: &str) -> bool {
    // A folder is replaced as a whole.
    let path = output.with_file_name(name);
    if name == IN_FOLDER || fs::symlink_metadata(&path).is_err() {
        return false;
    }
    let output = output.file_name().unwrap_or_default().to_string_lossy();
    !fs::read(&path).is_ok_and(|card| card::is_of(&String::from_utf8_lossy(&card), &output))
}

/// The card of a finished output.
pub(super) fn text(outcome: &Outcome) -> String {
    let tensors = outcome.tensors.iter().map(|tensor| Tensor {
        name: &tensor.name,
        encoding: &tensor.encoding,
        elements: tensor.elements,
        bytes: tensor.bytes,
        metrics: &tensor.metrics,
    });
    let output = outcome.path.file_name().unwrap_or_default().to_string_lossy();
    let (plugin, version, _) = &outcome.plugin;
    let told = outcome.converted.as_ref().map(|converted| {
        let level = converted.level.as_deref().map_or_else(String::new, |level| format!(" {level}"));
        let name = outcome.source.file_name().unwrap_or_default().to_string_lossy();
        (name, format!("{}{level}", converted.format), converted.loss.sentence())
    });
    let converted = told.as_ref().map(|(name, form, loss)| card::Converted {
        name,
        form,
        loss,
        level_asked: outcome.options.level.is_some(),
    });
    let calibration = outcome.calibration.as_ref().map(|data| (name_of(&data.source), data.rows, data.tokens));
    card::write(&Facts {
        converted,
        output: &output,
        model: &outcome.model,
        architecture: &outcome.architecture,
        repository: outcome.published.repository.as_deref(),
        commit: outcome.published.commit.as_deref(),
        source_card: outcome.source_card.as_deref(),
        format: &outcome.format,
        level: &outcome.level,
        library: outcome.library.as_deref(),
        usage: outcome.usage.as_deref(),
        parameters: outcome.parameters,
        file_bytes: outcome.file_bytes,
        source_bytes: outcome.source_bytes,
        bits_per_weight: bits_per_weight(outcome.file_bytes, outcome.parameters),
        level_bits_per_weight: outcome.level_bytes.map(|bytes| bits_per_weight(bytes, outcome.parameters)),
        tensors: &tensors.collect::<Vec<_>>(),
        warnings: &outcome.lasting_warnings,
        options: &written(&outcome.options, outcome.calibration.as_ref().map(|_| &outcome.data)),
        calibration: calibration.as_ref().map(|(source, rows, tokens)| card::Calibrated {
            source,
            rows: *rows,
            tokens: *tokens,
        }),
        version: env!("CARGO_PKG_VERSION"),
        plugin: (plugin, version),
    })
}

/// The last part of a path of this machine; other names as they are.
fn name_of(source: &str) -> &str {
    let path = Path::new(source);
    let name = path.file_name().and_then(|name| name.to_str()).filter(|_| path.is_absolute() || path.exists());
    name.unwrap_or(source)
}

/// Options beside the level as they are written on the command line, and those of the data if some were used, without
/// paths of this machine.
fn written(options: &Options, data: Option<&CalibrationRequest>) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut say =
        |flag: &str, value: Option<String>| words.extend(value.into_iter().flat_map(|v| [flag.to_owned(), v]));
    say("--bits", options.bits.map(|bits| bits.to_string()));
    say("--group-size", options.group_size.map(|size| size.to_string()));
    for (key, value) in &options.plugin {
        let value = value.rsplit(['/', '\\']).next().unwrap_or_default();
        say("--plugin-option", Some(format!("{key}={value}")));
    }
    say("--imatrix", options.imatrix.as_deref().map(|value| name_of(value).to_owned()));
    say("--effort", options.effort.clone());
    say("--max-size", options.max_size.map(|bytes| bytes.to_string()));
    if let Some(CalibrationRequest { dataset, sampling }) = data {
        let usual = Sampling::default();
        say("--calibration", dataset.as_deref().map(|name| name_of(name).to_owned()));
        say("--samples", (sampling.samples != usual.samples).then(|| sampling.samples.to_string()));
        say("--seq-len", (sampling.seq_len != usual.seq_len).then(|| sampling.seq_len.to_string()));
        say("--seed", (sampling.seed != usual.seed).then(|| sampling.seed.to_string()));
    }
    // Those are left that have no value.
    let flags = [("--sym", Some(true)), ("--asym", Some(false))].map(|(flag, is)| (flag, options.symmetric == is));
    let orders = [("--desc-act", Some(true)), ("--no-desc-act", Some(false))];
    let orders = orders.map(|(flag, is)| (flag, options.act_order == is));
    words.extend(flags.into_iter().chain(orders).filter(|(_, set)| *set).map(|(flag, _)| flag.to_owned()));
    words
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn target(name: &str, kind: OutputKind) -> Target {
        Target { folder: PathBuf::new(), name: name.into(), kind }
    }

    #[test]
    fn a_card_is_named_after_its_file() {
        let of = |file: &str| name(&target(file, OutputKind::File));
        assert_eq!(of("My Model v1.5-Q8.x"), "My Model v1.5-Q8.md");
        assert_eq!(of("plain"), "plain.md");
        assert_eq!(name(&target("m-4bit", OutputKind::Folder)), "README.md");
    }

    #[test]
    fn only_a_card_of_the_same_output_gives_way() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("m.x");
        let there = |text: &str| {
            fs::write(folder.path().join("m.md"), text).unwrap();
            in_the_way(&output, "m.md")
        };
        assert!(!in_the_way(&output, "m.md"), "nothing is there");
        assert!(there("my notes"));
        assert!(there("---\n---\n<!-- Made by qhost for other.x -->\n"));
        assert!(!there("---\n---\n<!-- Made by qhost for m.x -->\n"));
    }

    #[test]
    fn options_are_written_as_they_were_given_but_for_folders() {
        let mut options = Options { bits: Some(4), group_size: Some(-1), symmetric: Some(false), ..Options::default() };
        options.plugin.insert("file".into(), "/home/me/secret/x.dat".into());
        let expected = ["--bits", "4", "--group-size", "-1", "--plugin-option", "file=x.dat", "--asym"];
        assert_eq!(written(&options, None), expected);
        let options = Options { effort: Some("best".into()), imatrix: Some("auto".into()), ..Options::default() };
        let sampling = Sampling { seq_len: 512, ..Sampling::default() };
        let data = CalibrationRequest { dataset: Some("/home/me/secret/rows.jsonl".into()), sampling };
        let expected = ["--imatrix", "auto", "--effort", "best", "--calibration", "rows.jsonl", "--seq-len", "512"];
        assert_eq!(written(&options, Some(&data)), expected);
    }
}
