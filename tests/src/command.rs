//! Running the executable in an environment of its own.
#![expect(clippy::panic, clippy::missing_panics_doc, reason = "a test that cannot run its command has failed")]

use std::{
    env,
    ffi::OsStr,
    fmt,
    io::PipeWriter,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::repository;

/// The folder with the executable and its plugins, and the folder with the plugins for tests.
struct Staged {
    dist: PathBuf,
    test_plugins: PathBuf,
}

static STAGED: OnceLock<Staged> = OnceLock::new();

/// Tells where the executable with its plugins is, and the plugins for tests; the first that is told counts.
pub fn use_staged(dist: PathBuf, test_plugins: PathBuf) {
    let _ = STAGED.set(Staged { dist, test_plugins });
}

/// `cargo xtask test` stages everything once and tells where; a test that is run by itself has it done.
fn staged() -> &'static Staged {
    STAGED.get_or_init(|| {
        if let (Some(dist), Some(test_plugins)) = (env::var_os("QHOST_TEST_DIST"), env::var_os("QHOST_TEST_PLUGINS")) {
            return Staged { dist: dist.into(), test_plugins: test_plugins.into() };
        }
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo).args(["xtask", "stage"]).current_dir(repository()).output();
        let output = output.unwrap_or_else(|error| panic!("cargo cannot be run: {error}"));
        assert!(output.status.success(), "cargo xtask stage: {}", String::from_utf8_lossy(&output.stderr));
        let paths = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut paths = paths.lines().map(PathBuf::from);
        match (paths.next(), paths.next()) {
            (Some(dist), Some(test_plugins)) => Staged { dist, test_plugins },
            _ => panic!("cargo xtask stage did not tell the folders"),
        }
    })
}

/// The folder that `cargo xtask dist` makes.
#[must_use]
pub fn dist() -> &'static Path {
    &staged().dist
}

/// A plugin library for tests, such as `misbehave`.
#[must_use]
pub fn test_plugin(name: &str) -> PathBuf {
    staged().test_plugins.join(library_name(name))
}

/// A plugin library of the distribution, such as `gguf`.
#[must_use]
pub fn plugin(name: &str) -> PathBuf {
    dist().join("plugins").join(library_name(name))
}

/// The file name of a plugin library.
#[must_use]
pub fn library_name(name: &str) -> String {
    format!("{}qhost_{name}{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX)
}

/// A command line for the executable.
#[derive(Debug)]
pub struct Qhost {
    command: Command,
    /// The user's data folder of this command alone.
    home: TempDir,
}

/// How a command ended.
#[derive(Clone)]
pub struct Ended {
    /// The exit code, or none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {:?}\n--- stdout\n{}\n--- stderr\n{}", self.code, self.stdout, self.stderr)
    }
}

impl Qhost {
    /// The executable with these arguments, and none of the tester's own settings.
    #[must_use]
    pub fn new<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Self {
        let home = tempfile::tempdir().unwrap_or_else(|error| panic!("no folder for the test: {error}"));
        let executable = dist().join(format!("qhost{}", env::consts::EXE_SUFFIX));
        let mut command = Command::new(executable);
        command.args(arguments).stdin(Stdio::null());
        for (name, _) in env::vars_os() {
            let is_setting = |name: &str| {
                let lower = name.to_ascii_lowercase();
                name.starts_with("QHOST_") || name.starts_with("HF_") || lower.ends_with("_proxy")
            };
            if name.to_str().is_some_and(is_setting) {
                command.env_remove(name);
            }
        }
        command.env("XDG_DATA_HOME", home.path()).env("NO_COLOR", "1");
        // No test asks a hub but its own.
        command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", home.path().join("hf"));
        Self { command, home }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it in a folder.
    #[must_use]
    pub fn in_folder(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Has a shell do something to the process first, such as setting a limit.
    #[must_use]
    pub fn under(self, script: &str) -> Self {
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{script}; exec \"$0\" \"$@\""));
        command.arg(self.command.get_program()).args(self.command.get_args()).stdin(Stdio::null());
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Self { command, home: self.home }
    }

    /// Runs it to its end with nobody who reads what it says; gives the exit code.
    #[must_use]
    pub fn run_unheard(mut self) -> Option<i32> {
        for stream in [Command::stdout::<PipeWriter>, Command::stderr] {
            let (_, deaf) = std::io::pipe().unwrap_or_else(|error| panic!("no pipe: {error}"));
            stream(&mut self.command, deaf);
        }
        let status = self.command.status();
        status.unwrap_or_else(|error| panic!("{:?} cannot be run: {error}", self.command)).code()
    }

    /// Runs it to its end.
    #[must_use]
    pub fn run(mut self) -> Ended {
        let output = self.command.output();
        ended(&output.unwrap_or_else(|error| panic!("{:?} cannot be run: {error}", self.command)))
    }

    /// Runs it to its end, and fails the test if it fails.
    #[must_use]
    pub fn succeed(self) -> Ended {
        let ended = self.run();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended
    }

    /// Runs it to its end with `--json`, and gives the document of its success.
    #[must_use]
    pub fn json(self) -> Value {
        self.arg("--json").succeed().document()
    }

    /// Runs it to its end with `--json`, and gives the document of its failure with that exit code.
    #[must_use]
    pub fn fail_with(self, code: i32) -> Value {
        let ended = self.arg("--json").run();
        assert_eq!(ended.code, Some(code), "{ended:?}");
        let document = ended.document();
        assert_eq!(document["status"], "error", "{ended:?}");
        assert_eq!(document["code"], code, "{ended:?}");
        for text in ["message", "hint"] {
            assert!(document[text].as_str().is_some_and(|text| !text.is_empty()), "{ended:?}");
        }
        document
    }

    /// Starts it and lets it run; what it says is thrown away.
    #[must_use]
    pub fn start(mut self) -> (Child, TempDir) {
        self.command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = self.command.spawn();
        (child.unwrap_or_else(|error| panic!("{:?} cannot be run: {error}", self.command)), self.home)
    }

    /// Starts it, and kills it when its journal has so many lines.
    pub fn kill_after(self, journal: &Path, lines: usize) {
        self.kill_when(journal, |text| text.lines().count() >= lines);
    }

    /// Starts it, and kills it when the text of its journal is so.
    pub fn kill_when(self, journal: &Path, is_so: impl Fn(&str) -> bool) {
        let (mut child, _home) = self.start();
        wait_for_work(&mut child, journal, is_so);
        let killed = child.kill().and_then(|()| child.wait());
        assert!(killed.is_ok() && journal.exists(), "it was killed while it worked");
    }

    /// Starts it and lets it run; its standard output goes into a file.
    #[must_use]
    pub fn start_into(mut self, path: &Path) -> Child {
        let file = std::fs::File::create(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let child = self.command.stdout(file).stderr(Stdio::null()).spawn();
        child.unwrap_or_else(|error| panic!("{:?} cannot be run: {error}", self.command))
    }
}

/// Waits until the text of a run's journal is so, and fails the test if the run ends before.
pub fn wait_for_work(child: &mut Child, journal: &Path, is_so: impl Fn(&str) -> bool) {
    let began = Instant::now();
    while !is_so(&std::fs::read_to_string(journal).unwrap_or_default()) {
        assert!(child.try_wait().is_ok_and(|ended| ended.is_none()), "it ended too soon");
        assert!(began.elapsed() < Duration::from_secs(300), "no progress");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn ended(output: &Output) -> Ended {
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Ended {
    /// Standard output as one JSON document.
    #[must_use]
    pub fn document(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("not a JSON document ({error}): {self:?}"))
    }
}
