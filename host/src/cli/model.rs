//! What a command's MODEL and `--revision` mean.

use super::arguments::ModelArguments;
use crate::{hub, run::ModelSource};

impl ModelArguments {
    /// The model, with the hub's settings of this process.
    pub(super) fn source(self) -> ModelSource {
        ModelSource { name: self.model, revision: self.revision, hub: hub::Settings::of_process() }
    }
}
