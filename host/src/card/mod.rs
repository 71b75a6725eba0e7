//! The model card: what an output is, for people and for model hubs.
//!
//! It names no path of this machine and no format; how an output is used is told by its plugin. It
//! knows texts and figures, and no files.

mod front_matter;
mod markdown;
mod yaml;

use std::{collections::BTreeMap, fmt::Write};

use bytesize::ByteSize;

use self::{
    front_matter::FrontMatter,
    markdown::{code, one_line, plain},
};
use crate::text::shell_word;

/// Before the output's name in the mark by which a card of ours is known.
const MARK: &str = "<!-- Made by qhost for ";

/// The place of the output's name in a plugin's instructions.
const OUTPUT: &str = "{output}";

/// What a card tells.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The output's name.
    pub output: &'a str,
    /// The model's name.
    pub model: &'a str,
    /// The model's family.
    pub architecture: &'a str,
    /// The source's repository on a hub, if it is known.
    pub repository: Option<&'a str>,
    /// The source's commit, if it is known.
    pub commit: Option<&'a str>,
    /// The source's own card, if it has one.
    pub source_card: Option<&'a str>,
    /// What it was converted from, if it was.
    pub converted: Option<Converted<'a>>,
    /// The format.
    pub format: &'a str,
    /// The level.
    pub level: &'a str,
    /// The library that loads the output, as hubs call it.
    pub library: Option<&'a str>,
    /// How it is used, in Markdown.
    pub usage: Option<&'a str>,
    /// Parameters of the model.
    pub parameters: u64,
    /// Bytes of the output.
    pub file_bytes: u64,
    /// Bytes of the source's weights.
    pub source_bytes: u64,
    /// Bits of output for each parameter.
    pub bits_per_weight: f64,
    /// What the level would take without fallbacks, if there were any.
    pub level_bits_per_weight: Option<f64>,
    /// The tensors.
    pub tensors: &'a [Tensor<'a>],
    /// What the user was warned of.
    pub warnings: &'a [String],
    /// What activations were taken from, if some were.
    pub calibration: Option<Calibrated<'a>>,
    /// The options beside model, format and level, as they are written.
    pub options: &'a [String],
    /// The version of qhost.
    pub version: &'a str,
    /// The plugin: id and version.
    pub plugin: (&'a str, &'a str),
}

/// What activations were taken from.
#[derive(Debug, Clone, Copy)]
pub struct Calibrated<'a> {
    /// The name of the data.
    pub source: &'a str,
    /// Rows of tokens.
    pub rows: usize,
    /// Tokens of all rows.
    pub tokens: usize,
}

/// What an output was converted from.
#[derive(Debug, Clone, Copy)]
pub struct Converted<'a> {
    /// The name of the file, or the folder.
    pub name: &'a str,
    /// The format, and its level if that is known.
    pub form: &'a str,
    /// What was done to the numbers, in a sentence.
    pub loss: &'a str,
    /// Whether the level was asked for, and not chosen by what the source is.
    pub level_asked: bool,
}

/// One tensor of the output.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    /// Its name.
    pub name: &'a str,
    /// How it is stored.
    pub encoding: &'a str,
    /// Weights.
    pub elements: u64,
    /// Bytes.
    pub bytes: u64,
    /// What was measured, by name.
    pub metrics: &'a BTreeMap<String, f64>,
}

/// Whether a card was made by qhost for the output of this name.
#[must_use]
pub fn is_of(card: &str, output: &str) -> bool {
    let mark = mark(output);
    card.lines().any(|line| line.trim_end() == mark)
}

/// Nothing that a name holds can end the comment.
fn mark(output: &str) -> String {
    format!("{MARK}{} -->", one_line(output).replace('>', "›"))
}

/// Writes the card.
#[must_use]
pub fn write(facts: &Facts<'_>) -> String {
    let source = facts.source_card.map(FrontMatter::of).unwrap_or_default();
    let mut card = front_matter(facts, source);
    let mut say = |text: &str| {
        card.push_str(text);
        card.push('\n');
    };
    say(&format!("{}\n", mark(facts.output)));
    say(&format!("# {} {}\n", plain(facts.model), plain(facts.level)));
    say(&summary(facts));
    say(&types(facts.tensors));
    if let Some(usage) = facts.usage {
        say("## Use\n");
        say(&usage.replace(OUTPUT, &one_line(&shell_word(facts.output)).replace('`', "'")));
    }
    if !facts.warnings.is_empty() {
        say("## Warnings\n");
        facts.warnings.iter().for_each(|warning| say(&format!("- {}", plain(warning))));
        say("");
    }
    say("## How it was made\n");
    say(&markdown::shell(&command(facts)));
    let (plugin, version) = facts.plugin;
    say(&format!(
        "With qhost {} and its plugin {} {}. The same versions make the same bytes from the same source{}, on any \
         machine and with any number of threads.",
        plain(facts.version),
        plain(plugin),
        plain(version),
        if facts.calibration.is_some() { " and data" } else { "" }
    ));
    card
}

fn front_matter(facts: &Facts<'_>, source: FrontMatter) -> String {
    let mut yaml = String::from("---\n");
    let FrontMatter { license, license_name, license_link, pipeline_tag, languages, mut tags } = source;
    let mut put = |key: &str, value: Option<&str>| value.into_iter().for_each(|value| yaml::put(&mut yaml, key, value));
    put("base_model", facts.repository);
    put("base_model_relation", facts.repository.map(|_| "quantized"));
    put("library_name", facts.library);
    put("license", license.as_deref());
    put("license_name", license_name.as_deref());
    put("license_link", license_link.as_deref());
    put("pipeline_tag", Some(pipeline_tag.as_deref().unwrap_or("text-generation")));
    put("quantized_by", Some("qhost"));
    for tag in [facts.format, "qhost"] {
        if !tags.iter().any(|known| known == tag) {
            tags.push(tag.to_owned());
        }
    }
    yaml::put_list(&mut yaml, "language", &languages);
    yaml::put_list(&mut yaml, "tags", &tags);
    yaml.push_str("---\n\n");
    yaml
}

fn summary(facts: &Facts<'_>) -> String {
    let source = match (facts.repository, facts.commit) {
        (Some(repository), Some(commit)) => format!("{} at commit {}", code(repository), code(commit)),
        (Some(repository), None) => code(repository),
        (None, Some(commit)) => format!("{} at commit {}", code(facts.model), code(commit)),
        (None, None) => code(facts.model),
    };
    let kept = match facts.level_bits_per_weight {
        Some(level) => {
            format!("**{:.2}**; the level without fallbacks would take {level:.2}", facts.bits_per_weight)
        }
        None => format!("{:.2}", facts.bits_per_weight),
    };
    let (level, format) = (code(facts.level), code(facts.format));
    let mut text = match facts.converted {
        None => {
            format!("The weights of {source}, quantised to the level {level} of the format {format} with qhost.\n\n")
        }
        Some(Converted { form, loss, .. }) => format!(
            "The weights of {source}, which were quantised before ({}), converted to the level {level} of the format {format} with qhost: {}.\n\n",
            code(form),
            plain(loss),
        ),
    };
    text.push_str("| | |\n|---|---|\n");
    let mut row = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| {name} | {value} |");
    };
    row("file", &code(facts.output));
    row("size", &format!("{} ({} bytes)", ByteSize(facts.file_bytes), facts.file_bytes));
    row("bits per weight", &kept);
    row("parameters", &format!("{} ({})", facts.parameters, plain(facts.architecture)));
    row("weights of the source", &ByteSize(facts.source_bytes).to_string());
    if let Some(Calibrated { source, rows, tokens }) = facts.calibration {
        row("calibrated on", &format!("{}: {rows} rows, {tokens} tokens", code(source)));
    }
    text
}

/// The sums over the tensors of one encoding.
#[derive(Default)]
struct Sum<'a> {
    tensors: u64,
    elements: u64,
    bytes: u64,
    figures: BTreeMap<&'a str, Figure<'a>>,
}

/// A figure of the tensors of one encoding that have it.
struct Figure<'a> {
    /// The sum over their weights.
    total: f64,
    weights: u64,
    worst: f64,
    /// The tensor with the worst.
    of: &'a str,
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn types(tensors: &[Tensor<'_>]) -> String {
    let mut sums: BTreeMap<&str, Sum<'_>> = BTreeMap::new();
    for tensor in tensors {
        let sum = sums.entry(tensor.encoding).or_default();
        (sum.tensors, sum.elements, sum.bytes) =
            (sum.tensors + 1, sum.elements + tensor.elements, sum.bytes + tensor.bytes);
        for (key, &value) in tensor.metrics {
            let none = Figure { total: 0.0, weights: 0, worst: f64::MIN, of: tensor.name };
            let figure = sum.figures.entry(key).or_insert(none);
            figure.total += value * tensor.elements as f64;
            figure.weights += tensor.elements;
            if value > figure.worst {
                (figure.worst, figure.of) = (value, tensor.name);
            }
        }
    }
    let mut rows: Vec<_> = sums.into_iter().collect();
    rows.sort_by_key(|(_, sum)| std::cmp::Reverse(sum.bytes));
    let keys: std::collections::BTreeSet<_> = rows.iter().flat_map(|(_, sum)| sum.figures.keys().copied()).collect();
    let mut text = String::from("## Types\n\n| type | tensors | weights | size | bits per weight |");
    for key in &keys {
        let name = plain(&key.replace('_', " "));
        let _ = write!(text, " {name}, mean | {name}, worst |");
    }
    text.push_str("\n|---|--:|--:|--:|--:|");
    text.push_str(&"--:|---|".repeat(keys.len()));
    text.push('\n');
    for (encoding, sum) in &rows {
        // What belongs to codes holds no weights.
        let bits = (sum.elements > 0).then(|| sum.bytes as f64 * 8.0 / sum.elements as f64);
        let bits = bits.map_or_else(String::new, |bits| format!("{bits:.2} "));
        let size = ByteSize(sum.bytes);
        let _ = write!(text, "| {} | {} | {} | {size} | {bits}|", code(encoding), sum.tensors, sum.elements);
        for key in &keys {
            let _ = match sum.figures.get(key) {
                Some(Figure { total, weights, worst, of }) => {
                    let mean = total / (*weights).max(1) as f64;
                    write!(text, " {mean:.5} | {worst:.5} ({}) |", code(of))
                }
                None => write!(text, " | |"),
            };
        }
        text.push('\n');
    }
    if !keys.is_empty() {
        text.push_str("\nMeans are over weights; each tensor's figure is in `qhost-report.json`.\n");
    }
    text
}

fn command(facts: &Facts<'_>) -> String {
    let (verb, source) = match facts.converted {
        Some(converted) => ("convert", converted.name),
        None => ("quantize", facts.repository.unwrap_or(facts.model)),
    };
    let level = facts.converted.is_none_or(|converted| converted.level_asked).then_some(["--level", facts.level]);
    let words = ["qhost", verb, source, "--format", facts.format].into_iter().chain(level.into_iter().flatten());
    let words = words.chain(facts.options.iter().map(String::as_str));
    words.map(|word| shell_word(word).into_owned()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn facts<'a>(tensors: &'a [Tensor<'a>], warnings: &'a [String]) -> Facts<'a> {
        Facts {
            output: "tiny-4bit.x",
            model: "tiny",
            architecture: "llama",
            repository: Some("org/tiny"),
            commit: None,
            source_card: None,
            converted: None,
            format: "x",
            level: "4bit",
            library: Some("xlib"),
            usage: Some("```sh\nrun {output}\n```\n"),
            parameters: 300,
            file_bytes: 250,
            source_bytes: 600,
            bits_per_weight: 6.67,
            level_bits_per_weight: None,
            tensors,
            warnings,
            calibration: None,
            options: &[],
            version: "1.2.3",
            plugin: ("x", "0.1.0"),
        }
    }

    /// The front matter as a parser reads it, and the rest.
    fn read(card: &str) -> (Value, &str) {
        let (yaml, rest) = card.strip_prefix("---\n").unwrap().split_once("---\n").unwrap();
        (serde_saphyr::from_str(yaml).unwrap(), rest)
    }

    #[test]
    fn a_conversion_is_told_as_one() {
        let loss = "every weight is the number that it was";
        let converted = Converted { name: "tiny-B4.y", form: "y B4", loss, level_asked: false };
        let facts = Facts { converted: Some(converted), ..facts(&[], &[]) };
        let card = write(&facts);
        assert!(card.contains("quantised before (`y B4`)") && card.contains(loss), "{card}");
        assert!(card.contains("qhost convert tiny-B4.y --format x\n"), "{card}");
        let asked = Facts { converted: Some(Converted { level_asked: true, ..converted }), ..facts };
        assert!(write(&asked).contains("qhost convert tiny-B4.y --format x --level 4bit"));
    }

    #[test]
    fn a_card_tells_what_a_hub_and_a_reader_want_to_know() {
        let errors = |error: f64| BTreeMap::from([("relative_rms_error".to_owned(), error)]);
        let (low, high) = (errors(0.01), errors(0.04));
        let tensor = |name, elements, metrics| Tensor { name, encoding: "E4", elements, bytes: elements / 2, metrics };
        let none = BTreeMap::new();
        let scales = Tensor { encoding: "F16", bytes: 6, ..tensor("s", 0, &none) };
        let tensors = [tensor("a", 100, &high), tensor("b", 200, &low), tensor("c", 300, &none), scales];
        let source = "---\nlicense: mit\nlanguage: [no]\ntags: [small]\n---\n";
        let facts = Facts { source_card: Some(source), ..facts(&tensors, &[]) };
        let card = write(&facts);
        let (matter, body) = read(&card);
        for (key, value) in [
            ("base_model", "org/tiny".into()),
            ("base_model_relation", "quantized".into()),
            ("library_name", "xlib".into()),
            ("license", "mit".into()),
            ("pipeline_tag", "text-generation".into()),
            ("quantized_by", "qhost".into()),
            ("language", serde_json::json!(["no"])),
            ("tags", serde_json::json!(["small", "x", "qhost"])),
        ] {
            assert_eq!(matter[key], value, "{key}: {card}");
        }
        for words in [
            "# tiny 4bit",
            "| bits per weight | 6.67 |",
            "| `E4` | 3 | 600 | 300 B | 4.00 | 0.02000 | 0.04000 (`a`) |",
            "| `F16` | 1 | 0 | 6 B | | | |",
            "run tiny-4bit.x\n",
            "qhost quantize org/tiny --format x --level 4bit\n",
            "qhost 1.2.3 and its plugin x 0.1.0",
        ] {
            assert!(body.contains(words), "{words}: {card}");
        }
        assert!(is_of(&card, "tiny-4bit.x") && !is_of(&card, "tiny-8bit.x"));
        assert!(!body.contains("Warnings"));
    }

    #[test]
    fn a_promise_that_is_not_kept_is_in_the_card() {
        let warnings = ["4bit takes 6.67 bits, not 4.50".to_owned()];
        let card = write(&Facts { level_bits_per_weight: Some(4.5), ..facts(&[], &warnings) });
        assert!(card.contains("**6.67**; the level without fallbacks would take 4.50"), "{card}");
        assert!(card.contains("## Warnings\n\n- 4bit takes 6.67 bits, not 4.50\n"), "{card}");
    }

    #[test]
    fn without_a_known_repository_there_is_no_base_model() {
        let card = write(&Facts { repository: None, ..facts(&[], &[]) });
        let (matter, body) = read(&card);
        assert_eq!((&matter["base_model"], &matter["base_model_relation"]), (&Value::Null, &Value::Null));
        assert!(body.contains("The weights of `tiny`,"), "{body}");
    }

    #[test]
    fn hostile_texts_stay_texts() {
        let hostile = "x\n---\nlicense: evil\n# <script>`--> \" ' $(rm) | \u{1b}[2J";
        let metrics = BTreeMap::from([(hostile.to_owned(), 0.5)]);
        let tensors = [Tensor { name: hostile, encoding: hostile, elements: 1, bytes: 1, metrics: &metrics }];
        let warnings = [hostile.to_owned()];
        let source = format!("---\nlicense: {}\ntags: [{}]\n---\n", Value::from("a: \"b'"), Value::from(hostile));
        let card = write(&Facts {
            output: hostile,
            model: hostile,
            architecture: hostile,
            source_card: Some(&source),
            level: hostile,
            library: Some(hostile),
            repository: None,
            ..facts(&tensors, &warnings)
        });
        let (matter, body) = read(&card);
        assert_eq!(matter["license"], "a: \"b'");
        assert_eq!(matter["library_name"], hostile);
        assert_eq!(matter["tags"], serde_json::json!(["x", "qhost"]), "a tag of several lines is none");
        assert!(is_of(&card, hostile));
        assert!(!card.contains('\u{1b}'));
        assert!(!body.lines().any(|line| line.starts_with("---") || line.starts_with("license")), "{body}");
        let mark = body.lines().find(|line| line.starts_with(MARK)).unwrap();
        assert!(mark.ends_with(" -->") && mark.matches('>').count() == 1, "{mark}");
    }
}
