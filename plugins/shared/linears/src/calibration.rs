//! How modules are rounded by what their inputs are: what options say of it, whatever the format.

use qhost_plugin_api::{documents::Scarce, sdk::Result};

use crate::{Effort, bad, one_of};

/// What is added to the diagonal of a Hessian, as a share of its mean, where the user says nothing.
pub const DEFAULT_DAMP: f64 = 0.01;

/// How modules are rounded by what their inputs are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Calibration {
    /// Damping, as a share of the mean of the diagonal.
    pub damp: f64,
    /// How long is searched.
    pub effort: Effort,
    /// Whether what the layers before have changed is made good.
    pub corrects: bool,
    /// How experts are treated that see few tokens.
    pub scarce: Scarce,
    /// What few tokens are.
    pub fewest_tokens: u64,
}

impl Default for Calibration {
    fn default() -> Self {
        Self {
            damp: DEFAULT_DAMP,
            effort: Effort::Default,
            corrects: false,
            scarce: Scarce::AllTokens,
            fewest_tokens: 256,
        }
    }
}

impl Calibration {
    /// Sets what `damp`, `scarce-experts` or `fewest-tokens` say; tells whether the key is one of them.
    ///
    /// # Errors
    /// Fails with kind `USAGE` for a value that has no meaning.
    pub fn set(&mut self, key: &str, value: &str) -> Result<bool> {
        match key {
            "damp" => {
                let damp: Option<f64> = value.parse().ok();
                self.damp = damp
                    .filter(|damp| *damp > 0.0 && *damp < 1.0)
                    .ok_or_else(|| bad(key, value).hint("take a share between 0 and 1, such as 0.05"))?;
            }
            "scarce-experts" => {
                self.scarce = one_of(key, value, &[("all-tokens", Scarce::AllTokens), ("as-is", Scarce::AsItIs)])?;
            }
            "fewest-tokens" => {
                self.fewest_tokens = value.parse().map_err(|_| bad(key, value).hint("take a whole number"))?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}
