//! The service `decode/1`, for jobs whose files are a source of weights.
//!
//! A job implements [`RowDecoder`] and hands it out with [`decode_service`]. It knows no format.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::{DType, Failure, FormatService, Operand, OperandMut, Planes, Result, ServiceAnswer};
use crate::documents::{Encoding, Encodings, PlanesRequest, RowsRequest};

/// The name of the service that [`decode_service`] makes.
pub const DECODE: &str = "decode/1";

/// Gives weights of the request's model out of files in the plugin's format. All of it is pure, and called
/// from several threads.
pub trait RowDecoder: Send + Sync + 'static {
    /// Fills `out` with whole rows of a tensor of the model, from `first_row` on; `files` are all files, in the
    /// order of the request's reading.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` when the files do not hold these rows.
    fn rows(&self, files: &[&[u8]], tensor: u32, first_row: u64, out: &mut [f32]) -> Result<()>;

    /// For every tensor of the model the encodings that hold exactly its numbers: first that of the files, last floats
    /// of the narrowest type. None at all where nothing but rows of `F32` is known.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` when the files tell of what they cannot hold.
    fn encodings(&self, _files: &[&[u8]]) -> Result<Vec<Vec<Encoding>>> {
        Ok(Vec::new())
    }

    /// Fills planes with whole rows of a tensor of the model, from `first_row` on, in one of the encodings that
    /// [`RowDecoder::encodings`] tells of it.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` when the files do not hold these rows.
    fn planes(&self, _files: &[&[u8]], _tensor: u32, _first_row: u64, planes: &mut Planes) -> Result<()> {
        Err(Failure::internal(format!("rows of {} are not given", planes.encoding())))
    }
}

/// Puts a decoder behind the service [`DECODE`].
pub fn decode_service(decoder: Arc<dyn RowDecoder>) -> Arc<dyn FormatService> {
    Arc::new(DecodeService(decoder))
}

struct DecodeService(Arc<dyn RowDecoder>);

impl FormatService for DecodeService {
    fn call(
        &self,
        method: &str,
        request: &str,
        inputs: &[Operand<'_>],
        outputs: &mut [OperandMut<'_>],
    ) -> Result<ServiceAnswer> {
        let files: Vec<&[u8]> = inputs.iter().map(|input| input.data).collect();
        match method {
            "rows" => self.rows(&files, &parsed(request)?, outputs),
            "encodings" => ServiceAnswer::new(&Encodings::new(self.0.encodings(&files)?)),
            "planes" => {
                let PlanesRequest { tensor, first_row, row_elements, encoding } = parsed(request)?;
                let rows = outputs.first().map_or(0, |first| first.rows);
                let mut planes = Planes::room(&encoding, rows, row_elements)?;
                self.0.planes(&files, tensor, first_row, &mut planes)?;
                planes.copy_to(outputs)?;
                ServiceAnswer::new(&serde_json::Value::Null)
            }
            _ => Err(Failure::unsupported(format!("{DECODE} has no method `{method}`"))),
        }
    }
}

impl DecodeService {
    fn rows(&self, files: &[&[u8]], request: &RowsRequest, outputs: &mut [OperandMut<'_>]) -> Result<ServiceAnswer> {
        let [output] = outputs else {
            return Err(Failure::internal(format!("{} outputs instead of one", outputs.len())));
        };
        let elements = output.rows.checked_mul(output.row_elements).and_then(|count| usize::try_from(count).ok());
        let places = output.data.as_chunks_mut::<4>().0;
        if output.dtype != DType::F32 || elements != Some(places.len()) {
            return Err(Failure::internal("the output has no place for whole rows of f32"));
        }
        let mut rows = vec![0.0; places.len()];
        self.0.rows(files, request.tensor, request.first_row, &mut rows)?;
        places.iter_mut().zip(rows).for_each(|(place, weight)| *place = weight.to_ne_bytes());
        ServiceAnswer::new(&serde_json::Value::Null)
    }
}

fn parsed<T: DeserializeOwned>(request: &str) -> Result<T> {
    serde_json::from_str(request).map_err(|error| Failure::internal(format!("not the request expected: {error}")))
}
