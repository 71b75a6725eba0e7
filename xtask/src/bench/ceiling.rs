//! `cargo xtask bench ceiling`: runs under `--max-memory`, each in a control group of that size where the system has some,
//! so that a run that took more would be killed.
//!
//! Shapes are those that ask for most: all of a 7B, the head of a vocabulary of 256 thousand, layers of stacked experts, and
//! calibrations at the shapes of a 7B, of which two layers are run. It knows the programs and what they have to keep to.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use qhost_tests::{checkpoint::RandomLlama, fixture};

use super::{
    process,
    programs::{self, Programs, figure},
    table::{Cell, Table},
};
use crate::synthetic;

const MIB: u64 = 1 << 20;

/// Rows of the calibration, of 2048 tokens each.
const SAMPLES: &str = "2";

struct Case {
    what: &'static str,
    llama: RandomLlama,
    format: &'static str,
    level: &'static str,
    /// In MiB.
    ceiling: u64,
}

/// Cases that share a checkpoint follow each other.
fn cases(layers: u16) -> Vec<Case> {
    let small = RandomLlama { layers: 1, heads: 64, kv_heads: 8, halves: true, ..RandomLlama::default() };
    let head = RandomLlama { hidden: 8192, ffn: 1024, vocabulary: 256_000, tied: true, ..small.clone() };
    let experts = RandomLlama { hidden: 4096, ffn: 1536, experts: 64, layers: 2, ..small };
    let case = |what, llama, format, level, ceiling| Case { what, llama, format, level, ceiling };
    let two = synthetic::llama_2_7b(2);
    vec![
        case("7B", synthetic::llama_2_7b(layers), "gguf", "Q4_K_M", 2048),
        case("embedding of 256000 × 8192", head.clone(), "gguf", "Q4_K_M", 128),
        case("embedding of 256000 × 8192, type by size", head, "gguf", "5bpw", 128),
        case("64 experts in a layer", experts, "gguf", "Q4_K_M", 128),
        case("two layers of a 7B", two.clone(), "gptq", "4bit-g128", 8192),
        case("two layers of a 7B", two, "awq", "4bit-g128", 8192),
    ]
}

/// Runs all cases.
pub(super) fn run(programs: &Programs, folder: &Path, layers: u16) -> Result<Table> {
    let folder = folder.join("ceiling");
    let mut rows = Vec::new();
    let mut made: Option<String> = None;
    for case in cases(layers) {
        let model = folder.join("model");
        let shapes = format!("{:?}", case.llama);
        if made.as_ref() != Some(&shapes) {
            if folder.exists() {
                fs::remove_dir_all(&folder)?;
            }
            #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
            let gigabytes = case.llama.bytes() as f64 / 1e9;
            eprintln!("making {} ({gigabytes:.1} GB) …", case.what);
            case.llama.write(&model);
            made = Some(shapes);
        }
        rows.push(case.run(programs, &model, &folder)?);
    }
    fs::remove_dir_all(&folder)?;
    Ok(Table {
        title: "Under a ceiling".to_owned(),
        note: format!(
            "`--max-memory`, and a control group of that size around the process: {}. MiB: the ceiling, what the plan \
             foretells, what was resident at most with mapped files, and of that qhost's own. The calibrations take {SAMPLES} \
             rows of 2048 tokens. The last column is the exit code of a plan under 8 MiB, which none can keep (6).",
            if Group::is_possible() { "yes" } else { "this system has none to give" }
        ),
        columns: vec!["case", "format", "level", "ceiling", "planned", "resident", "own", "seconds", "refused"],
        rows,
    })
}

impl Case {
    fn command(&self, programs: &Programs, command: &str, model: &Path) -> Command {
        let mut qhost = programs.qhost(command, model, self.format, self.level);
        if self.format != "gguf" {
            qhost.arg("--calibration").arg(fixture("text").join("prose.txt")).args(["--samples", SAMPLES]);
        }
        qhost
    }

    fn run(&self, programs: &Programs, model: &Path, folder: &Path) -> Result<Vec<Cell>> {
        eprintln!("{} as {} under {} MiB …", self.what, self.format, self.ceiling);
        let bytes = (self.ceiling * MIB).to_string();
        let plan = crate::cargo::read(self.command(programs, "plan", model).args(["--max-memory", &bytes]))?;
        let planned = figure(&programs::document(&plan)?["estimate"], "peak_memory_bytes")?;
        let refused = self.command(programs, "plan", model).args(["--max-memory", "8MiB"]).output()?;
        let mut qhost = self.command(programs, "quantize", model);
        qhost.args(["--force", "--fresh", "--max-memory", &bytes, "-o"]).arg(folder.join("out"));
        let group = Group::of(self.ceiling * MIB)?;
        let mut around = match &group {
            Some(group) => group.around(&qhost)?,
            None => qhost,
        };
        let (usage, text) = process::measure(&mut around)?;
        drop(group);
        let told = programs::document(&text)?;
        fs::remove_dir_all(folder.join("out"))?;
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let (ceiling, mebibyte) = (self.ceiling as f64, MIB as f64);
        let mebibytes = |bytes: f64| Cell::Figure(bytes / mebibyte, 0);
        // The system's own figure begins with what this process had when it started the other, such as a model.
        let resident = figure(&told, "peak_memory_bytes")?;
        ensure!(
            resident <= ceiling * mebibyte,
            "{} as {}: {:.0} MiB were resident, and {ceiling} are the most",
            self.what,
            self.format,
            resident / mebibyte
        );
        Ok(vec![
            Cell::text(self.what),
            Cell::text(self.format),
            Cell::text(self.level),
            Cell::Figure(ceiling, 0),
            mebibytes(planned),
            mebibytes(resident),
            mebibytes(figure(&told, "peak_anonymous_bytes")?),
            Cell::Figure(usage.wall, 1),
            Cell::Figure(refused.status.code().context("a plan was killed")?.into(), 0),
        ])
    }
}

/// A control group for memory, which goes when this is dropped.
struct Group {
    folder: PathBuf,
}

impl Group {
    /// Where such groups are, with the name of the file for the limit: the second version of the interface, or the first.
    fn place() -> Option<(PathBuf, &'static str)> {
        let (first, second) = (PathBuf::from("/sys/fs/cgroup/memory"), PathBuf::from("/sys/fs/cgroup"));
        let controls = fs::read_to_string(second.join("cgroup.subtree_control")).unwrap_or_default();
        if controls.split_whitespace().any(|control| control == "memory") {
            return Some((second, "memory.max"));
        }
        first.join("memory.limit_in_bytes").exists().then_some((first, "memory.limit_in_bytes"))
    }

    fn is_possible() -> bool {
        matches!(Self::of(64 * MIB), Ok(Some(_)))
    }

    /// A group of so many bytes; none where the system gives none.
    fn of(bytes: u64) -> Result<Option<Self>> {
        let Some((above, limit)) = Self::place() else { return Ok(None) };
        let folder = above.join(format!("qhost-ceiling-{}", std::process::id()));
        if fs::create_dir(&folder).is_err() {
            return Ok(None);
        }
        let group = Self { folder };
        fs::write(group.folder.join(limit), bytes.to_string()).context("the group takes no limit")?;
        Ok(Some(group))
    }

    /// The command, which enters the group before anything else.
    fn around(&self, command: &Command) -> Result<Command> {
        let mut shell = Command::new("sh");
        let enter = self.folder.join("cgroup.procs");
        let enter = enter.to_str().context("the group's path is no text")?;
        shell.args(["-c", &format!("echo $$ > {enter} && exec \"$@\""), "sh"]).arg(command.get_program());
        shell.args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(key, value),
                None => shell.env_remove(key),
            };
        }
        Ok(shell)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It is empty when its process has ended; if it cannot be removed, it takes nothing.
        let _ = fs::remove_dir(&self.folder);
    }
}
