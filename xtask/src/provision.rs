//! What it takes to build llama.cpp for the comparisons: cmake, a C++ compiler, libclang, and ninja if
//! there is one.
//!
//! What the system has is used; what it lacks, except for the compiler, comes from PyPI into `target/tools`.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

/// Versions of the packages from PyPI.
const CMAKE: &str = "cmake==4.4.4";
const NINJA: &str = "ninja==1.13.2";
const LIBCLANG: &str = "libclang==18.1.1";

/// Environment variables for building llama.cpp.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    variables: Vec<(&'static str, OsString)>,
}

impl Environment {
    pub(crate) fn apply(&self, command: &mut Command) {
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
    }
}

/// Finds or fetches the tools.
pub(crate) fn provision(target: &Path) -> Result<Environment> {
    ensure!(
        runs("c++", "--version") || env::var_os("CXX").is_some(),
        "no C++ compiler was found; the comparisons with llama.cpp need one (Debian: apt-get install build-essential)"
    );
    let tools = Tools { folder: target.join("tools") };
    let mut path = Vec::new();
    if !runs("cmake", "--version") {
        path.push(tools.fetch(CMAKE, "cmake/data/bin/cmake")?);
    }
    if !runs("ninja", "--version") {
        path.push(tools.fetch(NINJA, "bin/ninja")?);
    }
    let mut variables = vec![("CMAKE_GENERATOR", OsString::from("Ninja"))];
    if !path.is_empty() {
        let folders = path.iter().filter_map(|program| program.parent().map(Path::to_owned));
        let present = env::var_os("PATH").unwrap_or_default();
        variables.push(("PATH", env::join_paths(folders.chain(env::split_paths(&present)))?));
    }
    if env::var_os("LIBCLANG_PATH").is_none() && !system_has_libclang() {
        let library = tools.fetch(LIBCLANG, "clang/native/libclang.so")?;
        variables.push(("LIBCLANG_PATH", library.parent().context("a library has a folder")?.into()));
    }
    if let Some(headers) = compiler_headers() {
        // A libclang without its own headers finds the compiler's, after everything else.
        let mut arguments = env::var("BINDGEN_EXTRA_CLANG_ARGS").unwrap_or_default();
        let added = format!(" -idirafter {headers}");
        // In an environment that has this already it is to stay the same: with any other, llama.cpp is built anew.
        if !arguments.ends_with(&added) {
            arguments.push_str(&added);
        }
        variables.push(("BINDGEN_EXTRA_CLANG_ARGS", arguments.into()));
    }
    Ok(Environment { variables })
}

/// Prints the environment as commands for a shell.
pub(crate) fn print(target: &Path) -> Result<()> {
    for (name, value) in provision(target)?.variables {
        println!("export {name}='{}'", value.to_string_lossy().replace('\'', "'\\''"));
    }
    Ok(())
}

fn runs(program: &str, argument: &str) -> bool {
    let status = Command::new(program).arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Where the compiler keeps `stddef.h` and the like.
fn compiler_headers() -> Option<String> {
    let output = Command::new("cc").arg("-print-file-name=include").output().ok()?;
    let folder = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    Path::new(&folder).join("stddef.h").exists().then_some(folder)
}

/// Looks where bindgen looks.
fn system_has_libclang() -> bool {
    let mut folders: Vec<PathBuf> = ["/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/opt/homebrew/opt/llvm/lib"]
        .into_iter()
        .map(PathBuf::from)
        .collect();
    for parent in ["/usr/lib", "/usr/local"] {
        folders.extend(entries(Path::new(parent)).filter(|entry| {
            let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.starts_with("llvm") || name.contains("-linux-gnu")
        }));
    }
    let nested: Vec<_> = folders.iter().map(|folder| folder.join("lib")).collect();
    folders.extend(nested);
    folders.iter().flat_map(|folder| entries(folder)).any(|file| {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_library = name.contains(".so") || name.contains(".dylib");
        is_library
            && (name.starts_with("libclang.") || name.starts_with("libclang-") && !name.starts_with("libclang-cpp"))
    })
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

/// Packages from PyPI, unpacked into a folder of the target directory.
struct Tools {
    folder: PathBuf,
}

impl Tools {
    /// Fetches a package, unless it is there, and gives the path of a file in it.
    fn fetch(&self, package: &str, file: &str) -> Result<PathBuf> {
        let folder = self.folder.join(package.replace("==", "-"));
        let path = folder.join(file);
        if path.exists() {
            return Ok(path);
        }
        eprintln!("fetching {package} from PyPI …");
        let mut pip = Command::new("python3");
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--disable-pip-version-check",
            "--root-user-action=ignore",
            "--upgrade",
            "--target",
        ])
        .arg(&folder)
        .arg(package);
        let advice = "install cmake, ninja and libclang (Debian: apt-get install cmake ninja-build libclang-dev), or Python with pip";
        let status =
            pip.stdout(std::io::stderr()).status().with_context(|| format!("python3 cannot be run: {advice}"))?;
        if !status.success() || !path.exists() {
            bail!("{package} could not be fetched from PyPI: {advice}");
        }
        Ok(path)
    }
}
