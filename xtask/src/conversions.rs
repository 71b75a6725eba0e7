//! Chains of conversions by `qhost convert` ([`crate::chains`]), looked at number for number by the independent decoder
//! (`tests/loaders/comparer.py`).
//!
//! Sources that others write are made here: by gptqmodel, and by the llama.cpp of `tests/oracle`.

use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

use crate::{
    cargo,
    chains::{CHAINS, Chain, Source, Step, format_of},
    loaders::document,
    provision,
    python::Python,
};

/// What conversions are made by, and where.
pub(crate) struct Workshop<'a> {
    pub(crate) dist: &'a Path,
    pub(crate) target: &'a Path,
    pub(crate) numpy: &'a Python,
    /// A Python with gptqmodel and transformers; without it there are the sources that are at hand.
    pub(crate) packages: Option<&'a Python>,
}

/// What was found: of each chain and step what the comparison told, and what is wrong.
#[derive(Default)]
pub(crate) struct Findings {
    pub(crate) told: Map<String, Value>,
    pub(crate) faults: Vec<String>,
}

impl Findings {
    /// Goes on with what was made, or notes why it was not.
    pub(crate) fn keep(&mut self, name: &str, made: Result<PathBuf>, go_on: impl FnOnce(PathBuf)) {
        match made {
            Ok(path) => go_on(path),
            Err(error) => self.faults.push(format!("{name}: {error:#}")),
        }
    }

    pub(crate) fn add(&mut self, others: Self) {
        self.told.extend(others.told);
        self.faults.extend(others.faults);
    }
}

impl Workshop<'_> {
    /// Converts along the chains whose names contain a word.
    pub(crate) fn run(&self, filter: Option<&str>) -> Result<Findings> {
        let mut findings = Findings::default();
        let chosen = CHAINS.iter().filter(|chain| filter.is_none_or(|filter| chain.name.contains(filter)));
        let chosen: Vec<_> = chosen.filter(|chain| self.packages.is_some() || chain.source.is_at_hand()).collect();
        self.have_gptqmodel_write(&chosen)?;
        for chain in chosen {
            let mut told = Vec::new();
            if let Err(error) = self.follow(chain, &mut told) {
                findings.faults.push(format!("{}: {error:#}", chain.name));
            }
            println!("{}", line(chain, &told));
            findings.told.insert(chain.name.to_owned(), told.into());
        }
        Ok(findings)
    }

    /// Converts along one chain; what is not as it should be is an error, after which the rest means nothing.
    fn follow(&self, chain: &Chain, told: &mut Vec<Value>) -> Result<()> {
        let source = self.source(chain)?;
        let folder = self.folder("conversions")?.join(chain.name);
        let mut present = source.clone();
        for (index, step) in chain.steps.iter().enumerate() {
            present = self.convert(&present, step.options, &folder.join((index + 1).to_string()))?;
            let compared = document(self.numpy.script("comparer.py").arg(&source).arg(&present))?;
            let shown = format!("{} ({compared})", step.options.join(" "));
            told.push(compared);
            let compared = &told[told.len() - 1];
            ensure!(compared["only"]["a"] == compared["only"]["b"], "other tensors after {shown}");
            ensure!(is_within(compared, step), "other numbers after {shown}");
            let codes = &compared["codes"];
            let is_back = chain.source.format() == Some(step.format());
            let is_same = codes["different"].as_object().is_some_and(Map::is_empty) && codes["same"] != 0;
            ensure!(!is_back || is_same, "other codes after {shown}");
        }
        Ok(())
    }

    /// Quantises a checkpoint into a folder, and gives the file or folder that was made there.
    pub(crate) fn quantize(&self, model: &Path, options: &[&'static str], output: &Path) -> Result<PathBuf> {
        let mut quantize = self.qhost("quantize", model);
        if format_of(options) != Some("gguf") {
            calibrate(&mut quantize);
        }
        make(quantize.args(options), output)
    }

    /// Converts a quantised model without rounding, or without calibration at least.
    pub(crate) fn convert(&self, source: &Path, options: &[&str], output: &Path) -> Result<PathBuf> {
        make(self.qhost("convert", source).args(options).arg("--yes"), output)
    }

    /// Quantises a quantised model anew.
    pub(crate) fn requantize(&self, source: &Path, options: &[&str], output: &Path) -> Result<PathBuf> {
        let mut convert = self.qhost("convert", source);
        calibrate(&mut convert);
        make(convert.args(options).arg("--yes"), output)
    }

    pub(crate) fn qhost(&self, command: &str, model: &Path) -> Command {
        let mut qhost = Command::new(self.dist.join(format!("qhost{}", env::consts::EXE_SUFFIX)));
        qhost.arg(command).arg(model).args(["--quiet", "--json"]).env("HF_HUB_OFFLINE", "1");
        qhost
    }

    /// A folder of the target directory.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.target.join("loaders").join(name);
        fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        Ok(folder)
    }

    fn source(&self, chain: &Chain) -> Result<PathBuf> {
        match chain.source {
            Source::Quantised(options) => {
                let folder = self.folder("conversions")?.join(chain.name);
                self.quantize(&qhost_tests::fixture("tinylm"), options, &folder.join("source"))
            }
            Source::Fixture(name) => {
                let folder = self.folder("conversions")?.join(chain.name).join("source");
                copy(&qhost_tests::fixture(name), &folder)?;
                copy(&qhost_tests::fixture("tokenizers/bpe-gpt2"), &folder)?;
                Ok(folder)
            }
            Source::Gptqmodel(_) => Ok(self.folder("gptqmodel-writes")?.join(chain.name)),
            Source::Level(level) => Ok(self.have_llama_cpp_write(&[level])?.join(format!("{level}.gguf"))),
        }
    }

    /// Folders by gptqmodel, all in one go: it takes seconds to start.
    fn have_gptqmodel_write(&self, chains: &[&Chain]) -> Result<()> {
        let settings = chains.iter().filter_map(|chain| match chain.source {
            Source::Gptqmodel(settings) => Some(format!("{}={settings}", chain.name)),
            _ => None,
        });
        let settings: Vec<_> = settings.collect();
        let (Some(python), false) = (self.packages, settings.is_empty()) else { return Ok(()) };
        eprintln!("gptqmodel quantises {} times …", settings.len());
        let mut writer = python.script("gptqmodel_writer.py");
        writer.arg(qhost_tests::fixture("tinylm")).arg(qhost_tests::fixture("text/prose.tinylm.jsonl"));
        // It writes a log where it stands.
        let folder = self.folder("gptqmodel-writes")?;
        let told = document(writer.current_dir(&folder).arg(&folder).args(settings))?;
        for chain in chains {
            if let Some(refusal) = told[chain.name].as_str() {
                bail!("gptqmodel does not quantise for {}: {refusal}", chain.name);
            }
        }
        Ok(())
    }

    /// Files of the bundled model in levels of llama.cpp, or in all that it writes; gives their folder.
    pub(crate) fn have_llama_cpp_write(&self, levels: &[&str]) -> Result<PathBuf> {
        let (folder, floats) = (self.folder("llama.cpp-writes")?, self.folder("floats")?);
        let base = self.quantize(&qhost_tests::fixture("tinylm"), &["--format", "gguf", "--level", "F32"], &floats)?;
        // Chosen like this, it is built with the features that it has in the tests, and llama.cpp not a second time.
        let mut build = cargo::cargo();
        provision::provision(self.target)?.apply(&mut build);
        cargo::run(build.args(["build", "--quiet", "--workspace", "--bin", "qhost-oracle"]))?;
        let oracle = self.target.join("debug").join(format!("qhost-oracle{}", env::consts::EXE_SUFFIX));
        cargo::read(Command::new(oracle).arg("levels").arg(base).arg(&folder).args(levels))?;
        Ok(folder)
    }
}

/// With few samples: how good the weights are means nothing here.
fn calibrate(command: &mut Command) {
    command.args(["--samples", "16", "--seq-len", "128", "--calibration"]);
    command.arg(qhost_tests::fixture("text/prose.txt"));
}

fn make(command: &mut Command, output: &Path) -> Result<PathBuf> {
    let told = document(command.args(["--force", "--fresh", "-o"]).arg(output))?;
    Ok(told["output_path"].as_str().context("the result has no output_path")?.into())
}

/// Files of one folder into another.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("{} cannot be made", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("{} cannot be read", from.display()))? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))
            .with_context(|| format!("{} cannot be copied", entry.path().display()))?;
    }
    Ok(())
}

fn is_within(compared: &Value, step: &Step) -> bool {
    let Some(different) = compared["tensors"]["different"].as_object() else { return false };
    let error = |told: &Value| told["relative_rms"].as_f64();
    different.values().all(|told| error(told).is_some_and(|error| error <= step.error && step.error > 0.0))
}

/// Of each step how many tensors have the same numbers, and how many linears the same codes.
fn line(chain: &Chain, told: &[Value]) -> String {
    let mut line = format!("{:<22}", chain.name);
    for (step, told) in chain.steps.iter().zip(told) {
        let all = |part: &str| {
            let different = told[part]["different"].as_object().map_or(0, Map::len);
            let same = told[part]["same"].as_u64().unwrap_or(0);
            (same, same + u64::try_from(different).unwrap_or(u64::MAX))
        };
        let ((same, tensors), (codes, linears)) = (all("tensors"), all("codes"));
        let _ = write!(line, "  {} {same}/{tensors}", step.format());
        if linears > 0 {
            let _ = write!(line, " ({codes}/{linears})");
        }
    }
    if told.len() < chain.steps.len() {
        line.push_str("  failed");
    }
    line
}
