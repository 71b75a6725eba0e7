//! What is tortured: commands that take little time, and what they make when nothing happens to them.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{Call, Complaint, Watched};
use crate::{
    checkpoint::random_rows,
    command::{Ended, Qhost},
    fixture,
};

/// Files that tell of the run itself, and are not the same twice.
const REPORT: &str = "qhost-report.json";

/// Files below a folder, and their bytes; of what differs from run to run, none.
type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A run, and what it makes when nothing happens to it.
#[derive(Debug)]
pub struct Subject {
    /// A name for tables.
    pub name: &'static str,
    arguments: Vec<OsString>,
    folder: PathBuf,
    /// The output's name.
    output: String,
    /// Everything that is there in the end.
    whole: Files,
    /// What has the output's place before it, to be replaced.
    old: Option<Files>,
    /// The calls of a run that nothing happens to.
    pub calls: Vec<Call>,
    /// The time of it.
    pub span: Duration,
}

/// What has the final name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Empty,
    Old,
    /// The weights and everything that loaders read.
    Whole,
}

/// Names and arguments of all subjects: the three formats, with and without what they may need more.
fn commands(rows: &Path) -> Vec<(&'static str, Vec<OsString>)> {
    let command = |model: &str, arguments: &[&str], calibrated: bool| {
        let mut all: Vec<OsString> = vec!["quantize".into(), fixture(model).into()];
        all.extend(arguments.iter().map(Into::into));
        if calibrated {
            all.extend(["--calibration".into(), rows.into()]);
        }
        all
    };
    let small_shards = "shard-size=100KB";
    vec![
        ("gguf", command("stories260K", &["--format", "gguf", "--level", "Q4_K_M"], false)),
        (
            "gguf --imatrix auto",
            command(
                "tinylm",
                &["--format", "gguf", "--level", "IQ4_XS", "--imatrix", "auto", "--plugin-option", "save-imatrix=true"],
                true,
            ),
        ),
        ("gguf --force", command("stories260K", &["--format", "gguf", "--level", "Q8_0", "--force"], false)),
        (
            "gptq",
            command("arch/qwen2", &["--format", "gptq", "--group-size", "32", "--plugin-option", small_shards], true),
        ),
        (
            "gptq --max-size",
            command("arch/llama", &["--format", "gptq", "--group-size", "32", "--max-size", "150KB"], true),
        ),
        ("gptq --force", command("arch/llama", &["--format", "gptq", "--group-size", "32", "--force"], true)),
        ("awq", command("arch/qwen2", &["--format", "awq", "--group-size", "32"], true)),
        (
            "awq, two shards",
            command("arch/llama", &["--format", "awq", "--group-size", "32", "--plugin-option", small_shards], true),
        ),
    ]
}

/// The names of all subjects.
#[must_use]
pub fn subjects() -> Vec<&'static str> {
    commands(Path::new("")).into_iter().map(|(name, _)| name).collect()
}

impl Subject {
    /// Runs a subject's command twice in `folder`, and keeps what it makes.
    ///
    /// # Errors
    /// Complains if there is no such subject, if it fails, or if it does not make the same twice.
    pub fn new(name: &str, folder: &Path) -> Result<Self, Complaint> {
        // Calls tell where their files really are.
        let folder = folder.canonicalize().map_err(|error| error.to_string())?;
        let rows = random_rows(&folder);
        let (name, arguments) =
            commands(&rows).into_iter().find(|(of, _)| *of == name).ok_or_else(|| format!("no subject {name}"))?;
        let replaces = arguments.iter().any(|argument| argument == "--force");
        let mut subject = Self {
            name,
            arguments,
            folder,
            output: String::new(),
            whole: Files::new(),
            old: None,
            calls: Vec::new(),
            span: Duration::ZERO,
        };
        let began = Instant::now();
        let ended = subject.command().run();
        subject.span = began.elapsed();
        if ended.code != Some(0) {
            return Err(format!("{name}: {ended:?}"));
        }
        let path = PathBuf::from(ended.document()["output_path"].as_str().unwrap_or_default());
        subject.output = path.file_name().and_then(|name| name.to_str()).map(str::to_owned).unwrap_or_default();
        subject.whole = files(&subject.place())?;
        if replaces {
            let name = if path.is_dir() { path.join("notes") } else { path };
            let name = name.strip_prefix(subject.place()).map_err(|error| error.to_string())?.to_owned();
            subject.old = Some([(name, b"what was there before".to_vec())].into());
        }
        subject.begin()?;
        let (command, watched) = subject.watched("none", None);
        subject
            .finished(&command.run(), false)
            .map_err(|complaint| format!("{name}: not the same twice: {complaint}"))?;
        subject.calls = watched.calls();
        Ok(subject)
    }

    /// Whether an output is there before, to be replaced.
    pub(super) fn has_old(&self) -> bool {
        self.old.is_some()
    }

    /// The folder that is written into.
    pub(super) fn place(&self) -> PathBuf {
        self.folder.join("out")
    }

    /// The folder of unfinished work.
    pub(super) fn partial(&self) -> PathBuf {
        self.place().join(format!("{}.partial", self.output))
    }

    /// Makes the place as it is before a run.
    pub(super) fn begin(&self) -> Result<(), Complaint> {
        let place = self.place();
        let make = || {
            if place.exists() {
                fs::remove_dir_all(&place)?;
            }
            for (name, bytes) in self.old.iter().flatten() {
                let path = place.join(name);
                fs::create_dir_all(path.parent().unwrap_or(&place))?;
                fs::write(path, bytes)?;
            }
            Ok(())
        };
        make().map_err(|error: std::io::Error| format!("{}: {error}", place.display()))
    }

    /// The command.
    pub(super) fn command(&self) -> Qhost {
        Qhost::new(&self.arguments).args(["--threads", "2", "--json", "-o"]).arg(self.place())
    }

    /// The command under watch, with a fault if there is to be one.
    pub(super) fn watched(&self, log: &str, fault: Option<&str>) -> (Qhost, Watched) {
        let (qhost, watched) = Watched::new(self.command(), &self.place(), &self.folder.join(log));
        (if let Some(fault) = fault { qhost.env("QHOST_FAULT", fault) } else { qhost }, watched)
    }

    /// What has the final name. Whatever is there is the old output, or the new one without a byte too few.
    pub(super) fn look(&self) -> Result<Place, Complaint> {
        let there = files(&self.place())?;
        let is_of_output = |path: &Path| path.starts_with(&self.output);
        let of_output: Files = there.iter().filter(|(path, _)| is_of_output(path)).map(pair).collect();
        if self.old.as_ref() == Some(&of_output) {
            return Ok(Place::Old);
        }
        if of_output.is_empty() {
            let kept = self.partial().join("replaced");
            if self.old.is_some() && !kept.exists() {
                return Err("the old output is gone, and there is no new one".into());
            }
            return Ok(Place::Empty);
        }
        // Card and report are added when it is in its place; whatever is there is whole.
        let added = |path: &Path| path.ends_with("README.md") || path.ends_with(REPORT);
        for (path, bytes) in self.whole.iter().filter(|(path, _)| is_of_output(path)) {
            match of_output.get(path) {
                Some(there) if there == bytes => {}
                None if added(path) => {}
                Some(_) => return Err(format!("{} has other bytes", path.display())),
                None => return Err(format!("{} is not there", path.display())),
            }
        }
        for (path, bytes) in &there {
            if !path.starts_with(format!("{}.partial", self.output)) && self.whole.get(path) != Some(bytes) {
                return Err(format!("{} should not be there, or not so", path.display()));
            }
        }
        Ok(Place::Whole)
    }

    /// Checks a run that ended well: all is there, and nothing else, but that a work folder without a journal may stay.
    pub(super) fn finished(&self, ended: &Ended, may_stay: bool) -> Result<(), Complaint> {
        if ended.code != Some(0) || ended.stderr.contains("panicked") {
            return Err(format!("{ended:?}"));
        }
        self.complete(may_stay)
    }

    /// Checks that all is there, and nothing else, but that a work folder without a journal may stay.
    pub(super) fn complete(&self, may_stay: bool) -> Result<(), Complaint> {
        let mut there = files(&self.place())?;
        if there == self.whole && !self.partial().exists() {
            return Ok(());
        }
        // Without a journal nothing in it means anything.
        let partial = format!("{}.partial", self.output);
        let done_with = !there.contains_key(&Path::new(&partial).join("journal"));
        there.retain(|path, _| !(done_with && path.starts_with(&partial)));
        if there == self.whole && may_stay {
            return Ok(());
        }
        let differing = self.whole.iter().filter(|(path, bytes)| there.get(*path) != Some(bytes)).map(|(path, _)| path);
        let more = there.keys().filter(|path| !self.whole.contains_key(*path));
        Err(format!(
            "differing: {:?}, too many: {:?}, work folder: {}",
            differing.collect::<Vec<_>>(),
            more.collect::<Vec<_>>(),
            self.partial().exists()
        ))
    }

    /// Runs the command until it has ended by itself, and checks what it made.
    pub(super) fn resume(&self) -> Result<(), Complaint> {
        // Ended when all was done but removing the rest of the work folder: then the output is simply there.
        let done = self.look()? == Place::Whole && !self.partial().join("journal").exists();
        let ended = self.command().run();
        if done && self.old.is_none() && ended.code == Some(2) && ended.stdout.contains("exists") {
            return self.complete(true);
        }
        self.finished(&ended, false)
    }
}

fn pair(entry: (&PathBuf, &Vec<u8>)) -> (PathBuf, Vec<u8>) {
    (entry.0.clone(), entry.1.clone())
}

/// All files below a folder by their paths in it; none if the folder is not there.
fn files(folder: &Path) -> Result<Files, Complaint> {
    let mut all = Files::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        let Ok(entries) = fs::read_dir(&next) else { continue };
        for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let mut bytes = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            if path.ends_with(REPORT) {
                // Times and memory are not the same twice; that it is whole is.
                let whole = serde_json::from_slice::<serde_json::Value>(&bytes);
                bytes = whole.map_err(|error| format!("{}: {error}", path.display())).map(|_| Vec::new())?;
            }
            let name = path.strip_prefix(folder).map_err(|error| error.to_string())?;
            all.insert(name.to_owned(), bytes);
        }
    }
    Ok(all)
}
