//! What qhost itself has written or was given: journals, plugin libraries, model cards.

use std::collections::BTreeMap;

use qhost::{
    card::{self, Facts},
    plugin, run,
};

use crate::{Form, Read, Target, seeds};

/// The journal of a work folder: its sound part is whole lines, and reads as the whole does.
pub const JOURNAL: Target = Target {
    name: "journal",
    form: Form::Checksummed,
    read: journal,
    seeds: seeds::journals,
    memory: 1 << 20,
    memory_per_byte: 100,
    changes: 4000,
};

fn journal(bytes: &[u8]) -> Read {
    let sound = run::sound_part_of_journal(bytes);
    assert!(sound.len() <= bytes.len() && bytes.starts_with(sound), "it is the front");
    assert!(sound.is_empty() || sound.ends_with(b"\n"), "it is whole lines");
    assert_eq!(run::sound_part_of_journal(sound).len(), sound.len(), "it is sound");
    if sound.len() == bytes.len() { Read::Whole } else { Read::Refused }
}

/// A plugin's library: its manifest is read without running anything.
pub const MANIFEST: Target = Target {
    name: "manifest",
    form: Form::Bytes,
    read: manifest,
    seeds: seeds::libraries,
    memory: 1 << 20,
    memory_per_byte: 100,
    changes: 4000,
};

fn manifest(bytes: &[u8]) -> Read {
    match plugin::manifest_of(bytes) {
        Ok(manifest) => {
            assert!(!manifest.id.contains(char::is_control), "it is shown on terminals");
            Read::Whole
        }
        Err(error) => {
            assert!(!error.to_string().is_empty() && !error.hint().is_empty());
            Read::Refused
        }
    }
}

/// The card of a checkpoint, whose front matter is taken over.
pub const CARD: Target = Target {
    name: "card",
    form: Form::Bytes,
    read: card,
    seeds: seeds::cards,
    memory: 4 << 20,
    memory_per_byte: 500,
    changes: 4000,
};

fn card(bytes: &[u8]) -> Read {
    let text = String::from_utf8_lossy(bytes);
    let card = card::write(&Facts {
        output: "o",
        model: "m",
        architecture: "a",
        repository: None,
        commit: None,
        source_card: Some(&text),
        converted: None,
        format: "f",
        level: "l",
        library: None,
        usage: None,
        parameters: 1,
        file_bytes: 1,
        source_bytes: 1,
        bits_per_weight: 8.0,
        level_bits_per_weight: None,
        tensors: &[],
        warnings: &[],
        calibration: None,
        options: &[],
        version: "1",
        plugin: ("p", "1"),
    });
    // What is taken over can neither end the front matter nor add keys to it.
    let keys: Vec<&str> = card.lines().skip(1).take_while(|line| *line != "---").collect();
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for line in keys.iter().filter(|line| !line.starts_with("- ")) {
        let key = line.split(':').next().unwrap_or_default();
        *seen.entry(key).or_default() += 1;
        assert!(KEYS.contains(&key), "`{line}` is no line of ours");
    }
    assert!(seen.values().all(|count| *count == 1) && seen.contains_key("quantized_by"), "{card}");
    if seen.contains_key("license") { Read::Whole } else { Read::Refused }
}

/// The keys that a card may have.
const KEYS: [&str; 7] = ["license", "license_name", "license_link", "pipeline_tag", "quantized_by", "language", "tags"];
