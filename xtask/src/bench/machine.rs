//! What figures were measured on: CPU, memory, system, compilers and versions; no names of hosts, and no paths.

use std::{env, fmt, fs, process::Command, thread};

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::cargo;

/// A crate whose version is told: llama.cpp comes with it.
const REFERENCE: &str = "llama-cpp-sys-2";

/// The machine, line by line.
#[derive(Debug)]
pub(super) struct Machine {
    cpu: String,
    lines: Vec<(&'static str, String)>,
}

impl Machine {
    /// Asks the system, the compilers and git.
    pub(super) fn ask() -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpu = field(&read("/proc/cpuinfo"), "model name", ':').unwrap_or_else(|| env::consts::ARCH.to_owned());
        let memory = field(&read("/proc/meminfo"), "MemTotal", ':').as_deref().and_then(gibibytes);
        let release = field(&read("/etc/os-release"), "PRETTY_NAME", '=').unwrap_or_else(|| env::consts::OS.to_owned());
        let lock =
            fs::read_to_string(qhost_tests::repository().join("Cargo.lock")).context("there is no Cargo.lock")?;
        let arguments: Vec<_> = env::args().skip(1).collect();
        let lines = vec![
            ("CPU", cpu.clone()),
            ("instruction sets", instruction_sets().join(", ")),
            ("cores", cores().to_string()),
            ("caches", caches()),
            ("memory", memory.unwrap_or_else(unknown)),
            ("system", format!("{} ({})", release.trim_matches('"'), env::consts::ARCH)),
            ("compiler", first_line(Command::new("rustc").arg("--version"))),
            ("the reference's compiler", first_line(Command::new("c++").arg("--version"))),
            ("the reference", format!("{REFERENCE} {}", version(&lock, REFERENCE).unwrap_or_else(unknown))),
            ("load before", first_word(&read("/proc/loadavg")).unwrap_or_else(unknown)),
            ("commit", commit()),
            ("command", format!("cargo xtask {}", arguments.join(" "))),
        ];
        Ok(Self { cpu, lines })
    }

    /// The CPU as a part of a file's name.
    pub(super) fn short_name(&self) -> String {
        short_name(&self.cpu)
    }

    pub(super) fn json(&self) -> Value {
        let lines = self.lines.iter().map(|(name, value)| ((*name).to_owned(), value.as_str().into()));
        Value::Object(lines.collect::<Map<_, _>>())
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|(name, value)| writeln!(f, "- {name}: {value}"))
    }
}

/// Programs that want a core, on average of a minute.
fn first_word(text: &str) -> Option<String> {
    text.split_whitespace().next().map(str::to_owned)
}

/// Cores that this process may use.
pub(super) fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn unknown() -> String {
    "unknown".to_owned()
}

/// The value of the first line of a name.
fn field(text: &str, name: &str, separator: char) -> Option<String> {
    let lines = text.lines().filter_map(|line| line.split_once(separator));
    lines.into_iter().find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
}

/// `24689796 kB` as GiB.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn gibibytes(text: &str) -> Option<String> {
    let kibibytes: u64 = text.strip_suffix("kB")?.trim().parse().ok()?;
    Some(format!("{:.1} GiB", kibibytes as f64 / f64::from(1 << 20)))
}

/// The version of a package in a lock file.
fn version(lock: &str, package: &str) -> Option<String> {
    let entry = lock.split("[[package]]").find(|entry| field(entry, "name", '=') == Some(format!("\"{package}\"")))?;
    Some(field(entry, "version", '=')?.trim_matches('"').to_owned())
}

/// Words of a CPU's name that say something, in small letters.
fn short_name(cpu: &str) -> String {
    let plain = cpu.to_lowercase().replace("(r)", " ").replace("(tm)", " ");
    let words = plain.split(|character: char| !character.is_alphanumeric() && character != '.');
    let words = words.filter(|word| !word.is_empty() && !["cpu", "processor"].contains(word) && !word.ends_with("ghz"));
    words.collect::<Vec<_>>().join("-")
}

/// Cache sizes of the first core.
fn caches() -> String {
    let folder = "/sys/devices/system/cpu/cpu0/cache";
    let told = (0..8).filter_map(|index| {
        let read =
            |name: &str| Some(fs::read_to_string(format!("{folder}/index{index}/{name}")).ok()?.trim().to_owned());
        let kind = match read("type")?.as_str() {
            "Data" => "d",
            "Instruction" => return None,
            _ => "",
        };
        Some(format!("L{}{kind} {}", read("level")?, read("size")?))
    });
    let told: Vec<_> = told.collect();
    if told.is_empty() { unknown() } else { told.join(", ") }
}

#[cfg(target_arch = "x86_64")]
fn instruction_sets() -> Vec<&'static str> {
    macro_rules! present {
        ($($feature:tt),*) => {
            [$(($feature, std::arch::is_x86_feature_detected!($feature))),*]
        };
    }
    let features = present![
        "sse2",
        "ssse3",
        "sse4.1",
        "sse4.2",
        "avx",
        "f16c",
        "fma",
        "avx2",
        "avx512f",
        "avx512bw",
        "avx512dq",
        "avx512vl",
        "avx512vbmi",
        "avx512vnni",
        "avx512bf16",
        "avx512fp16"
    ];
    features.into_iter().filter_map(|(name, is_present)| is_present.then_some(name)).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn instruction_sets() -> Vec<&'static str> {
    vec!["those of every CPU of the architecture"]
}

fn first_line(command: &mut Command) -> String {
    let text = cargo::read(command).unwrap_or_default();
    text.lines().next().map_or_else(unknown, str::to_owned)
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        cargo::read(Command::new("git").current_dir(qhost_tests::repository()).args(arguments)).ok()
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return unknown() };
    // Results of earlier runs are no change of what is measured.
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", ".", ":!tests/bench"]);
    let changed = changed.is_none_or(|changed| !changed.trim().is_empty());
    format!("{}{}", commit.trim(), if changed { ", with changes that are not committed" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "vendor_id\t: X\nmodel\t\t: 1\nmodel name\t: A CPU: fast\nmodel name\t: Another\n";
        assert_eq!(field(text, "model name", ':').as_deref(), Some("A CPU: fast"));
        assert_eq!(field(text, "model", ':').as_deref(), Some("1"));
        assert_eq!(field(text, "name", ':'), None);
        assert_eq!(gibibytes("25165824 kB").as_deref(), Some("24.0 GiB"));
        assert_eq!(gibibytes("25165824"), None);
    }

    #[test]
    fn the_version_is_that_of_the_package_itself() {
        let lock = "version = 4\n\n[[package]]\nname = \"a-b\"\nversion = \"1.0.0\"\n\n[[package]]\nname = \"a\"\n\
                    version = \"2.3.4\"\ndependencies = [\n \"a-b\",\n]\n";
        assert_eq!(version(lock, "a").as_deref(), Some("2.3.4"));
        assert_eq!(version(lock, "a-b").as_deref(), Some("1.0.0"));
        assert_eq!(version(lock, "b"), None);
    }

    #[test]
    fn names_of_cpus_become_names_of_files() {
        assert_eq!(short_name("Intel(R) Xeon(R) Processor"), "intel-xeon");
        assert_eq!(short_name("Intel(R) Core(TM) i7-8700K CPU @ 3.70GHz"), "intel-core-i7-8700k");
        assert_eq!(short_name("AMD EPYC 7B13"), "amd-epyc-7b13");
    }
}
