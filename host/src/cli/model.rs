//! What a command's MODEL and `--revision` mean, and its arguments about calibration.

use super::arguments::{CalibrationArguments, ModelArguments};
use crate::{
    dataset::Sampling,
    hub,
    run::{CalibrationRequest, ModelSource},
};

impl ModelArguments {
    /// The model, with the hub's settings of this process.
    pub(super) fn source(self) -> ModelSource {
        ModelSource { name: self.model, revision: self.revision, hub: hub::Settings::of_process() }
    }
}

impl CalibrationArguments {
    /// What activations are taken from.
    pub(super) fn request(self) -> CalibrationRequest {
        let sampling = Sampling { samples: self.samples.get(), seq_len: self.seq_len.get(), seed: self.seed };
        CalibrationRequest { dataset: self.calibration, sampling }
    }
}
