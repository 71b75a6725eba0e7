//! The service `transcode/1`, for plugins that make one encoding of another on the way between two formats.
//!
//! A plugin implements [`Transcoder`], hands it out with [`transcode_service`], and says in its description
//! ([`Description::transcodes`](crate::documents::Description::transcodes)) and its manifest what it takes and gives.

use std::sync::Arc;

use super::{Failure, FormatService, Operand, OperandMut, Planes, Result, ServiceAnswer};
use crate::documents::TranscodeRequest;

/// The name of the service that [`transcode_service`] makes.
pub const TRANSCODE: &str = "transcode/1";

/// Makes rows in one encoding of rows in another. All of it is pure, and called from several threads.
pub trait Transcoder: Send + Sync + 'static {
    /// Fills `to` with the rows that are in `from`.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` when these are no such rows.
    fn planes(&self, from: &Planes, to: &mut Planes) -> Result<()>;
}

/// Puts a transcoder behind the service [`TRANSCODE`].
pub fn transcode_service(transcoder: Arc<dyn Transcoder>) -> Arc<dyn FormatService> {
    Arc::new(TranscodeService(transcoder))
}

struct TranscodeService(Arc<dyn Transcoder>);

impl FormatService for TranscodeService {
    fn call(
        &self,
        method: &str,
        request: &str,
        inputs: &[Operand<'_>],
        outputs: &mut [OperandMut<'_>],
    ) -> Result<ServiceAnswer> {
        if method != "planes" {
            return Err(Failure::unsupported(format!("{TRANSCODE} has no method `{method}`")));
        }
        let request: TranscodeRequest = serde_json::from_str(request)
            .map_err(|error| Failure::internal(format!("not the request expected: {error}")))?;
        let mut from = Planes::room(&request.from, request.rows, request.row_elements)?;
        let mut to = Planes::room(&request.to, request.rows, request.row_elements)?;
        from.fill(|places| {
            let fits = |(place, input): (&OperandMut<'_>, &Operand<'_>)| place.data.len() == input.data.len();
            if places.len() != inputs.len() || !places.iter().zip(inputs).all(fits) {
                return Err(Failure::internal(format!("the operands are no rows of {}", request.from)));
            }
            places.iter_mut().zip(inputs).for_each(|(place, input)| place.data.copy_from_slice(input.data));
            Ok(())
        })?;
        self.0.planes(&from, &mut to)?;
        to.copy_to(outputs)?;
        ServiceAnswer::new(&serde_json::Value::Null)
    }
}
