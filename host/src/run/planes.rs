//! The service `planes/1` of a unit: rows in an encoding that was offered, brought over the way that was found.

use std::sync::Arc;

use qhost_plugin_api::{
    abi::Failure,
    documents::PlanesRequest,
    sdk::{FormatService, Operand, OperandMut, PLANES, ServiceAnswer},
};

use super::{sources::broken, unit::as_failure};
use crate::{convert::Negotiated, quantised::QuantisedSource};

/// What a conversion offers to its units.
pub(super) struct Offered {
    pub(super) files: Arc<QuantisedSource>,
    pub(super) negotiated: Arc<Negotiated>,
}

impl FormatService for Offered {
    fn call(
        &self,
        method: &str,
        request: &str,
        _inputs: &[Operand<'_>],
        outputs: &mut [OperandMut<'_>],
    ) -> Result<ServiceAnswer, Failure> {
        if method != "rows" {
            return Err(Failure::unsupported(format!("{PLANES} has no method `{method}`")));
        }
        let request: PlanesRequest =
            serde_json::from_str(request).map_err(|error| broken(&format!("not the request expected: {error}")))?;
        let way = self.negotiated.way(request.tensor, &request.encoding);
        let way = way.ok_or_else(|| broken(&format!("{} was not offered", request.encoding)))?;
        let rows = outputs.first().map_or(0, |first| first.rows);
        let planes = self.files.planes(request.tensor, request.first_row, rows, &way.from);
        let mut planes = planes.map_err(|error| as_failure(&error))?;
        for step in &way.steps {
            let by = self.negotiated.transcoders.by.get(step.by);
            let by = by.ok_or_else(|| Failure::internal("a step of a way is nobody's"))?;
            planes = by.planes(&planes, &step.to).map_err(|error| as_failure(&error))?;
        }
        planes.copy_to(outputs)?;
        ServiceAnswer::new(&serde_json::Value::Null)
    }
}
