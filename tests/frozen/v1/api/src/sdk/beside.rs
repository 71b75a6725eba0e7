//! The service `beside/1`, for jobs that make small files beside their output.
//!
//! A job implements [`BesideFiles`] and hands it out with [`beside_service`]. It knows no format.

use std::{collections::BTreeMap, sync::Arc};

use super::{Failure, FormatService, Operand, OperandMut, Result, ServiceAnswer};
use crate::documents::BesideRequest;

/// The name of the service that [`beside_service`] makes.
pub const BESIDE: &str = "beside/1";

/// Makes the files that a plan names in `Plan::beside`.
pub trait BesideFiles: Send + Sync + 'static {
    /// The bytes of a file, made of what the units saved, by key.
    ///
    /// # Errors
    /// Fails when that is not what they save.
    fn make(&self, suffix: &str, saved: &BTreeMap<&str, &[u8]>) -> Result<Vec<u8>>;
}

/// Puts such files behind the service [`BESIDE`].
pub fn beside_service(files: Arc<dyn BesideFiles>) -> Arc<dyn FormatService> {
    Arc::new(BesideService(files))
}

struct BesideService(Arc<dyn BesideFiles>);

impl FormatService for BesideService {
    fn call(
        &self,
        method: &str,
        request: &str,
        inputs: &[Operand<'_>],
        _outputs: &mut [OperandMut<'_>],
    ) -> Result<ServiceAnswer> {
        if method != "make" {
            return Err(Failure::unsupported(format!("{BESIDE} has no method `{method}`")));
        }
        let request: BesideRequest = serde_json::from_str(request)
            .map_err(|error| Failure::internal(format!("not the request expected: {error}")))?;
        if request.saved.len() != inputs.len() {
            return Err(Failure::internal(format!("{} keys for {} operands", request.saved.len(), inputs.len())));
        }
        let saved = request.saved.iter().map(String::as_str).zip(inputs.iter().map(|input| input.data)).collect();
        Ok(ServiceAnswer { json: "null".into(), blob: self.0.make(&request.suffix, &saved)? })
    }
}
