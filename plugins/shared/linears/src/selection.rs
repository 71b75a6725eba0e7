//! What a format decides about the modules of a model.

use qhost_plugin_api::{documents::SourceTensor, sdk::Result};

use crate::{Module, Settings, Taken};

/// What a format decides about the modules of a model.
pub trait Selection {
    /// Whether the head is quantised.
    fn quantises_head(&self) -> bool;

    /// How a module is quantised, by its name; none if it is left as it is.
    ///
    /// # Errors
    /// Fails when that cannot be told.
    fn settings(&self, module: &str) -> Result<Option<Settings>>;

    /// Whether a linear is left as it is, whatever its name.
    fn leaves_out(&self, _id: u32) -> bool {
        false
    }

    /// How a module's codes are taken over that would have these settings, and those that it has then; none if it is
    /// rounded.
    fn taken(&self, _module: &Module, _settings: Settings) -> Option<(Settings, Taken)> {
        None
    }

    /// Whether a tensor that is kept is narrowed to binary16: what was quantised takes twice the room otherwise.
    fn narrows(&self, _id: u32, _tensor: &SourceTensor) -> bool {
        false
    }

    /// What the lengths of a matrix must be multiples of, so that its codes fill whole words.
    fn multiples(&self, settings: Settings) -> Multiples;

    /// What to tell a user about models that do not fit.
    fn hints(&self) -> Hints;
}

/// What the lengths of a matrix must be multiples of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Multiples {
    /// Outputs.
    pub rows: u64,
    /// Inputs.
    pub columns: u64,
}

impl Multiples {
    /// Whether a matrix with so many outputs and inputs is right.
    #[must_use]
    pub fn fit(self, rows: u64, columns: u64) -> bool {
        rows.is_multiple_of(self.rows.max(1)) && columns.is_multiple_of(self.columns.max(1))
    }

    /// In words: by how many codes are packed, and along what.
    pub(crate) fn words(self) -> String {
        match self {
            Self { rows, columns } if rows == columns => format!("by {rows}, along both"),
            Self { rows, columns: 0 | 1 } => format!("by {rows}, along the outputs"),
            Self { rows: 0 | 1, columns } => format!("by {columns}, along the inputs"),
            Self { rows, columns } => format!("by {columns} along the inputs and {rows} along the outputs"),
        }
    }
}

/// What to tell a user about models that do not fit, in the words of the format's options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hints {
    /// Some experts of a layer are left out and others are not, which stacked experts cannot be.
    pub some_experts: &'static str,
    /// Every module is left out.
    pub nothing: &'static str,
    /// Stacked experts are left out that cannot be kept.
    pub stored_otherwise: &'static str,
    /// How a module is left out: `leave it as it is with …`.
    pub leave_one: &'static str,
    /// How modules are left out, as the end of a sentence: `leave such modules as they are with …`.
    pub leave_some: &'static str,
    /// Whether and how modules have groups of their own, after a semicolon: `… sets one for some modules`.
    pub own_groups: &'static str,
}
