//! Putting built things where users and tests find them.

use std::{
    env::consts::{DLL_PREFIX, DLL_SUFFIX, EXE_SUFFIX},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cargo::{self, Workspace};

/// Plugins that only tests use, and what comes between a process and its system.
const TEST_PLUGINS: [&str; 5] = ["qhost-bridge", "qhost-faults", "qhost-misbehave", "qhost-nibble", "qhost-observe"];

/// A plugin with the plugin API of version 1, in a workspace of its own; see `tests/README.md`.
const FROZEN: (&str, &str) = ("tests/frozen/v1", "qhost-frozen-v1");

/// Makes `target/dist`: `qhost` and `plugins/`.
///
/// Every package below `plugins/` is a plugin; a new one needs no change here.
pub(crate) fn dist() -> Result<PathBuf> {
    let workspace = Workspace::read()?;
    let plugins = workspace.packages_in("plugins");
    build(plugins.iter().copied().chain(["qhost"]))?;
    let built = workspace.target.join("release");
    let dist = workspace.target.join("dist");
    let executable = format!("qhost{EXE_SUFFIX}");
    place(&built.join(&executable), &dist.join(executable))?;
    for plugin in plugins {
        let library = library(plugin);
        place(&built.join(&library), &dist.join("plugins").join(library))?;
    }
    Ok(dist)
}

/// Builds the plugins that only tests use, into a folder of their own.
pub(crate) fn test_plugins() -> Result<PathBuf> {
    let workspace = Workspace::read()?;
    build(TEST_PLUGINS)?;
    let folder = workspace.target.join("test-plugins");
    for plugin in TEST_PLUGINS {
        let library = library(plugin);
        place(&workspace.target.join("release").join(&library), &folder.join(library))?;
    }
    // Plugins that are built as by strangers share what they depend on.
    let (frozen, library) = (workspace.target.join("apart"), library(FROZEN.1));
    let manifest = Path::new(FROZEN.0).join("Cargo.toml");
    let mut cargo = cargo::cargo();
    cargo.args(["build", "--release", "--locked", "--manifest-path"]).arg(manifest).arg("--target-dir").arg(&frozen);
    // What is frozen is not held to the lints of compilers to come.
    cargo.env_remove("RUSTFLAGS").stdout(std::io::stderr());
    cargo::run(&mut cargo)?;
    place(&frozen.join("release").join(&library), &folder.join(library))?;
    Ok(folder)
}

fn build<'a>(packages: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let mut cargo = cargo::cargo();
    cargo.args(["build", "--release"]);
    for package in packages {
        cargo.args(["--package", package]);
    }
    // Standard output is for the folders' names.
    cargo.stdout(std::io::stderr());
    cargo::run(&mut cargo)
}

fn library(package: &str) -> String {
    format!("{DLL_PREFIX}{}{DLL_SUFFIX}", package.replace('-', "_"))
}

/// Copies a file in one step: whoever runs or maps the old one keeps it.
fn place(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("{} was not built", from.display()))?;
    if fs::read(to).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    fs::create_dir_all(to.parent().context("a file has a folder")?)?;
    let temporary = to.with_extension(format!("new-{}", std::process::id()));
    fs::copy(from, &temporary)?;
    fs::rename(&temporary, to)?;
    Ok(())
}

/// What a newcomer runs first.
pub(crate) fn quickstart() -> Result<()> {
    println!("building qhost and its plugins …");
    let dist = dist()?;
    let folder = dist.with_file_name("quickstart");
    let qhost = dist.join(format!("qhost{EXE_SUFFIX}"));
    println!("quantising the bundled model …");
    let mut quantize = Command::new(&qhost);
    quantize.arg("quantize").arg(qhost_tests::fixture("tinylm"));
    quantize.args(["--format", "gguf", "--level", "Q4_K_M", "--force", "--json", "-o"]).arg(&folder);
    let result: Value = serde_json::from_str(&cargo::read(&mut quantize)?)?;
    let text = |key: &str| result[key].as_str().unwrap_or_default().to_owned();
    ensure!(result["validation"]["status"] == "passed", "the result did not pass its check: {}", result["validation"]);
    println!("\n  {}", text("output_path"));
    println!(
        "  {} {}, {:.2} bits per weight, {:.1} times smaller than the checkpoint",
        text("format"),
        text("level"),
        result["bits_per_weight"].as_f64().unwrap_or_default(),
        result["compression_ratio"].as_f64().unwrap_or_default(),
    );
    for check in result["validation"]["checks"].as_array().into_iter().flatten() {
        println!(
            "  checked: {}: {}",
            check["name"].as_str().unwrap_or_default(),
            check["detail"].as_str().unwrap_or_default()
        );
    }
    let qhost = qhost.display();
    println!("\nNext:");
    println!("  {qhost} quantize YOUR/MODEL --format gguf --level Q4_K_M");
    println!("  {qhost} plan YOUR/MODEL --format gguf --level Q2_K");
    println!("  {qhost} plugins list");
    println!("  cargo xtask test");
    Ok(())
}
