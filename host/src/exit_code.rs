//! The exit codes of `qhost`, a contract that scripts rely on.

use qhost_plugin_api::abi::FailureKind;

/// Why the process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Done.
    Done = 0,
    /// A defect in qhost.
    Internal = 1,
    /// The command line asks for something contradictory or unknown.
    Usage = 2,
    /// The model is absent or cannot be reached (network, permission, gated).
    NotFound = 3,
    /// The architecture, shape or level cannot be expressed.
    Unsupported = 4,
    /// The input is corrupt or incomplete.
    Corrupt = 5,
    /// Out of disk or memory, planned or met; also an output that cannot be written.
    Resources = 6,
    /// A plugin is missing, incompatible or failed.
    Plugin = 7,
    /// A check of the output failed.
    Verification = 8,
    /// The user has to confirm first.
    Confirmation = 9,
    /// Interrupted; the checkpoint is kept.
    Interrupted = 130,
}

impl ExitCode {
    /// The code for a failure that crossed the plugin border. An unknown kind is the plugin's fault.
    #[must_use]
    pub fn of_failure(kind: FailureKind) -> Self {
        match kind {
            FailureKind::INTERNAL => Self::Internal,
            FailureKind::USAGE => Self::Usage,
            FailureKind::NOT_FOUND => Self::NotFound,
            FailureKind::UNSUPPORTED => Self::Unsupported,
            FailureKind::CORRUPT => Self::Corrupt,
            FailureKind::RESOURCES => Self::Resources,
            FailureKind::VERIFICATION => Self::Verification,
            FailureKind::CONFIRMATION => Self::Confirmation,
            FailureKind::CANCELLED => Self::Interrupted,
            _ => Self::Plugin,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

/// What every error of a room can tell beyond its message.
pub trait Fault: std::error::Error {
    /// The exit code that it ends the process with.
    fn exit_code(&self) -> ExitCode;

    /// More for programs, as a JSON object.
    fn details(&self) -> Option<serde_json::Value> {
        None
    }

    /// What the user can do, in one line.
    fn hint(&self) -> Option<String> {
        None
    }
}
