//! Where plugins are looked for.
//!
//! Never in the working directory and never in a model's folder: whoever controls those would
//! control the process.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use etcetera::BaseStrategy;

use super::{Quarantine, Store};

/// What the search path is made from; a test fills it in itself.
#[derive(Debug, Clone, Default)]
pub struct SearchSettings {
    /// Folders given with `--plugin-dir`, in order.
    pub given: Vec<PathBuf>,
    /// The value of `QHOST_PLUGIN_PATH`.
    pub variable: Option<OsString>,
    /// The folder of the executable.
    pub executable_folder: Option<PathBuf>,
    /// The user's data folder.
    pub data_folder: Option<PathBuf>,
    /// Whether only plugins that came with the executable or were installed may be used.
    pub locked: bool,
}

impl SearchSettings {
    /// The settings of this process.
    #[must_use]
    pub fn of_process(given: Vec<PathBuf>, locked: bool) -> Self {
        let executable = env::current_exe().and_then(|path| path.canonicalize()).ok();
        Self {
            given,
            variable: env::var_os("QHOST_PLUGIN_PATH"),
            executable_folder: executable.and_then(|path| path.parent().map(Path::to_owned)),
            data_folder: etcetera::choose_base_strategy().ok().map(|strategy| strategy.data_dir()),
            locked,
        }
    }
}

/// The folders, in the order of precedence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SearchPath {
    /// Folders that the user named: they have to be there.
    pub given: Vec<PathBuf>,
    /// Folders that may be there.
    pub usual: Vec<PathBuf>,
    /// Of the usual folders, those that belong to the executable's installation.
    pub own: Vec<PathBuf>,
    /// What the user has installed; it comes after all folders but the last.
    pub store: Option<Store>,
    /// What is not loaded again.
    pub quarantine: Option<Quarantine>,
    /// Whether only plugins of the executable's installation or of the store may be used.
    pub locked: bool,
}

impl SearchPath {
    /// Puts the folders in order: given, environment, beside the executable, the installation's, the
    /// user's.
    #[must_use]
    pub fn new(settings: &SearchSettings) -> Self {
        let mut usual = Vec::new();
        if let Some(variable) = &settings.variable {
            for folder in env::split_paths(variable).filter(|folder| !folder.as_os_str().is_empty()) {
                if folder.is_absolute() {
                    usual.push(folder);
                } else {
                    tracing::warn!("QHOST_PLUGIN_PATH: {} is not absolute and is not searched", folder.display());
                }
            }
        }
        let mut own = Vec::new();
        if let Some(folder) = &settings.executable_folder {
            own.push(folder.join("plugins"));
            own.extend(folder.parent().map(|prefix| prefix.join("lib").join("qhost").join("plugins")));
        }
        usual.extend(own.iter().cloned());
        if let Some(folder) = &settings.data_folder {
            usual.push(folder.join("qhost").join("plugins"));
        }
        let data = settings.data_folder.as_deref();
        Self {
            given: settings.given.clone(),
            usual,
            own,
            store: data.map(Store::in_data),
            quarantine: data.map(Quarantine::in_data),
            locked: settings.locked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_in_the_documented_order_and_relative_ones_of_the_variable_are_left_out() {
        let variable = env::join_paths(["/variable/a", "", "relative", "/variable/b"]).unwrap();
        let path = SearchPath::new(&SearchSettings {
            given: vec!["given".into()],
            variable: Some(variable),
            executable_folder: Some("/opt/qhost/bin".into()),
            data_folder: Some("/home/me/.local/share".into()),
            locked: false,
        });
        assert_eq!(path.given, [PathBuf::from("given")]);
        let expected = [
            "/variable/a",
            "/variable/b",
            "/opt/qhost/bin/plugins",
            "/opt/qhost/lib/qhost/plugins",
            "/home/me/.local/share/qhost/plugins",
        ];
        assert_eq!(path.usual, expected.map(PathBuf::from));
        assert_eq!(path.own, expected[2..4].iter().map(PathBuf::from).collect::<Vec<_>>());
    }
}
