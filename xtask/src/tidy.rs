//! Checks that no compiler makes: what a room may import, what a file starts with, and that the frozen
//! ABI is as it was frozen.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use walkdir::WalkDir;
use xxhash_rust::xxh3::xxh3_128;

/// What stands at the top of the repository, and nothing else but dot-files.
const TOP: [&str; 11] = [
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "host",
    "plugin-api",
    "plugins",
    "tests",
    "xtask",
];

/// Rooms of the host, and the rooms and modules that each may name.
const ROOMS: [(&str, &[&str]); 19] = [
    ("hub", &["cancel", "exit_code", "text"]),
    ("source", &["exit_code", "stream", "text"]),
    ("model", &["exit_code", "source", "text"]),
    ("stream", &[]),
    ("calibrate", &["cancel", "exit_code", "model", "stream"]),
    ("evaluate", &["calibrate", "stream"]),
    ("plan", &["exit_code", "text"]),
    ("plugin", &["cancel", "exit_code", "memory", "stream", "text"]),
    ("write", &["exit_code", "plan", "stream"]),
    ("card", &["text"]),
    ("dataset", &["cancel", "exit_code", "hub", "text"]),
    (
        "run",
        &[
            "calibrate",
            "cancel",
            "card",
            "convert",
            "dataset",
            "exit_code",
            "hub",
            "inspect",
            "memory",
            "model",
            "plan",
            "plugin",
            "quantised",
            "source",
            "stream",
            "text",
            "write",
        ],
    ),
    ("inspect", &["exit_code", "model", "plugin", "source", "stream", "text"]),
    ("quantised", &["exit_code", "inspect", "model", "plugin", "text"]),
    ("convert", &["exit_code", "plugin", "text"]),
    ("verify", &["exit_code", "inspect", "model", "plugin", "run", "source", "text"]),
    (
        "measure",
        &[
            "calibrate",
            "cancel",
            "dataset",
            "evaluate",
            "exit_code",
            "hub",
            "inspect",
            "memory",
            "plugin",
            "quantised",
            "run",
            "source",
        ],
    ),
    (
        "report",
        &[
            "convert",
            "evaluate",
            "exit_code",
            "inspect",
            "measure",
            "memory",
            "plan",
            "plugin",
            "run",
            "text",
            "verify",
        ],
    ),
    (
        "cli",
        &[
            "cancel",
            "dataset",
            "evaluate",
            "exit_code",
            "hub",
            "inspect",
            "measure",
            "plugin",
            "report",
            "run",
            "signals",
            "verify",
        ],
    ),
];

/// Formats live in plugins; the host, the API and what plugins share have never heard of them.
const FORMATS: [&str; 3] = ["gguf", "awq", "gptq"];

/// What a plugin must not do itself.
const FORBIDDEN_IN_PLUGINS: [&str; 8] =
    ["std::fs", "std::thread", "std::env", "std::net", "std::process", "std::time", "println!", "rayon"];

/// Longer files want a better noun to be split by.
const LONGEST: usize = 600;

const FROZEN: &str = "plugin-api/abi/src/layouts";
const FROZEN_DIGEST: &str = "plugin-api/abi/layouts-v1.xxh3";

/// A plugin as it was when version 1 was frozen, with the plugin API of then.
const OLD_PLUGIN: &str = "tests/frozen/v1";
const OLD_PLUGIN_DIGEST: &str = "tests/frozen/v1.xxh3";

struct Source {
    /// Relative to the repository, with `/`.
    path: String,
    text: String,
}

pub(crate) fn run(freeze_abi: bool) -> Result<()> {
    let root = qhost_tests::repository();
    if freeze_abi {
        fs::write(root.join(FROZEN_DIGEST), format!("{}\n", frozen_digest(&root)?))?;
        fs::write(root.join(OLD_PLUGIN_DIGEST), format!("{}\n", old_plugin_digest(&root)?))?;
    }
    let mut faults = Vec::new();
    check_top(&root, &mut faults)?;
    for source in sources(&root)? {
        check_head(&source, &mut faults);
        check_leftovers(&source, &mut faults);
        check_formats(&source, &mut faults);
        check_room(&source, &mut faults);
        check_plugin(&source, &mut faults);
    }
    check_frozen(&root, &mut faults)?;
    if faults.is_empty() {
        println!("tidy");
        return Ok(());
    }
    for fault in &faults {
        eprintln!("{fault}");
    }
    bail!("{} places are not tidy", faults.len())
}

fn sources(root: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for folder in ["host", "plugin-api", "plugins", "tests", "xtask"] {
        for entry in WalkDir::new(root.join(folder)).sort_by_file_name() {
            let entry = entry?;
            // What is frozen is held to nothing but its digest.
            if entry.path().starts_with(root.join(OLD_PLUGIN)) {
                continue;
            }
            if entry.path().extension().is_some_and(|ending| ending == "rs") {
                let path = entry.path().strip_prefix(root)?.to_string_lossy().replace('\\', "/");
                sources.push(Source { path, text: fs::read_to_string(entry.path())? });
            }
        }
    }
    Ok(sources)
}

fn check_top(root: &Path, faults: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let known = TOP.contains(&name.as_str()) || name == "target" || name.starts_with('.');
        if !known {
            faults.push(format!("{name}: does not belong at the top"));
        }
    }
    Ok(())
}

fn check_head(source: &Source, faults: &mut Vec<String>) {
    if !source.text.starts_with("//!") {
        faults.push(format!("{}: does not open with what it does", source.path));
    }
    let lines = source.text.lines().count();
    if lines > LONGEST {
        faults.push(format!("{}: {lines} lines, more than {LONGEST}", source.path));
    }
}

fn check_leftovers(source: &Source, faults: &mut Vec<String>) {
    // This file names what it looks for.
    if source.path.starts_with("xtask/") {
        return;
    }
    for (number, line) in (1..).zip(source.text.lines()) {
        let marker = ["FIXME", "XXX", "todo!(", "unimplemented!("].into_iter().find(|marker| line.contains(marker));
        if let Some(marker) = marker {
            faults.push(format!("{}:{number}: {marker}", source.path));
        }
        if line.trim() == "#[ignore]" {
            faults.push(format!("{}:{number}: a test is ignored without a reason", source.path));
        }
        if ["/home/", "/root/", "/work/", "/Users/"].iter().any(|place| line.contains(place))
            && !line.contains("/home/me/")
        {
            faults.push(format!("{}:{number}: a path of somebody's machine", source.path));
        }
    }
}

/// Lines that are neither comments nor help texts, which are doc comments of arguments.
fn code(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(source.text.lines()).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn check_formats(source: &Source, faults: &mut Vec<String>) {
    // Tests of what plugins share may name a method that it is held against.
    let shared = source.path.starts_with("plugins/shared/") && source.path.contains("/src/");
    if !shared && !source.path.starts_with("host/") && !source.path.starts_with("plugin-api/") {
        return;
    }
    for (number, line) in code(source) {
        let words = line.split(|character: char| !character.is_alphanumeric()).map(str::to_lowercase);
        for word in words.filter(|word| FORMATS.contains(&word.as_str())) {
            faults.push(format!("{}:{number}: names the format {word}", source.path));
        }
    }
}

fn check_room(source: &Source, faults: &mut Vec<String>) {
    let Some(inside) = source.path.strip_prefix("host/src/") else { return };
    let room = inside.split('/').next().unwrap_or_default();
    for (number, line) in code(source) {
        let outside = room != "plugin" && (line.contains("abi_stable::") || line.contains("libloading::"));
        if outside {
            faults.push(format!("{}:{number}: only the room `plugin` names the loader's crates", source.path));
        }
    }
    let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else { return };
    let text: String = code(source).flat_map(|(_, line)| [line, "\n"]).collect();
    for named in named_modules(&text) {
        if named != room && !allowed.contains(&named.as_str()) {
            faults.push(format!("{}: the room `{room}` may not name `{named}`", source.path));
        }
    }
}

/// The top-level modules that a file names after `crate::`, alone or in braces.
fn named_modules(text: &str) -> Vec<String> {
    let mut named = Vec::new();
    for (_, rest) in text.match_indices("crate::").map(|(at, found)| (at, &text[at + found.len()..])) {
        match rest.strip_prefix('{') {
            None => named.push(leading_word(rest)),
            Some(list) => {
                let mut depth = 0;
                let mut start = true;
                for (at, character) in list.char_indices() {
                    match character {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        _ if start && depth == 0 && character.is_alphabetic() => {
                            named.push(leading_word(&list[at..]));
                            start = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    named
}

fn leading_word(text: &str) -> String {
    text.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
}

fn check_plugin(source: &Source, faults: &mut Vec<String>) {
    if !source.path.starts_with("plugins/") || !source.path.contains("/src/") {
        return;
    }
    let tests = source.text.find("#[cfg(test)]").unwrap_or(source.text.len());
    let lines = source.text[..tests].lines().count();
    for (number, line) in code(source).take_while(|(number, _)| *number <= lines) {
        if let Some(what) = FORBIDDEN_IN_PLUGINS.iter().find(|what| line.contains(**what)) {
            faults.push(format!("{}:{number}: a plugin uses {what}; the host does that for it", source.path));
        }
    }
}

fn check_frozen(root: &Path, faults: &mut Vec<String>) -> Result<()> {
    let frozen = fs::read_to_string(root.join(FROZEN_DIGEST)).unwrap_or_default();
    if frozen.trim() != frozen_digest(root)? {
        faults.push(format!(
            "{FROZEN}: differs from what was frozen as v1; layouts never change, see plugin-api/ABI.md for how to grow"
        ));
    }
    let old = fs::read_to_string(root.join(OLD_PLUGIN_DIGEST)).unwrap_or_default();
    if old.trim() != old_plugin_digest(root)? {
        faults.push(format!(
            "{OLD_PLUGIN}: differs from what was frozen; it is there to be loaded as it is, and never changes"
        ));
    }
    let manifest = fs::read_to_string(root.join("plugin-api/abi/Cargo.toml"))?;
    if !manifest.lines().any(|line| line.starts_with("version = \"1.")) {
        faults.push("plugin-api/abi/Cargo.toml: the version is not 1.x, so older plugins would be refused".into());
    }
    Ok(())
}

/// A digest of the frozen folder without comments and white space, which carry no layout.
fn frozen_digest(root: &Path) -> Result<String> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(root.join(FROZEN))?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    let mut layouts = String::new();
    for file in files {
        let text = fs::read_to_string(&file)?;
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
            layouts.extend(line.split_whitespace());
        }
    }
    Ok(format!("{:032x}", xxh3_128(layouts.as_bytes())))
}

/// A digest of all files of the old plugin, with their names; line ends do not count.
fn old_plugin_digest(root: &Path) -> Result<String> {
    let mut all = String::new();
    let folder = root.join(OLD_PLUGIN);
    for entry in
        WalkDir::new(&folder).sort_by_file_name().into_iter().filter_entry(|entry| entry.file_name() != "target")
    {
        let entry = entry?;
        if entry.file_type().is_file() {
            let name = entry.path().strip_prefix(&folder)?.to_string_lossy().replace('\\', "/");
            all.extend([&*name, "\n", &fs::read_to_string(entry.path())?.replace("\r\n", "\n")]);
        }
    }
    Ok(format!("{:032x}", xxh3_128(all.as_bytes())))
}
