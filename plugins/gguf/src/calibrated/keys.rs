//! What the metadata tell of the calibration beside the keys of an importance matrix.

use qhost_linears::{Calibration, Effort};
use qhost_plugin_api::sdk::Result;

use crate::metadata::Metadata;

/// Appends the keys of our own.
///
/// # Errors
/// Fails when a key is there already.
pub(crate) fn push_keys(metadata: &mut Metadata, calibration: &Calibration, version: &str) -> Result<()> {
    metadata.push("qhost.version", version)?;
    metadata.push("qhost.calibration.method", "gptq")?;
    let effort = match calibration.effort {
        Effort::Fast => "fast",
        Effort::Default => "default",
        Effort::Best => "best",
    };
    metadata.push("qhost.calibration.effort", effort)
}
