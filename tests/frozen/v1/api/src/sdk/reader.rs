//! The services `reader/1` and `verify/1`, for plugins that offer them.
//!
//! A plugin implements [`FileReader`] and hands it out with [`reader_service`] and [`verify_service`]; what
//! crosses the border as JSON and as views of bytes is plain Rust here. It knows no format.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::{DType, Failure, FormatService, Operand, OperandMut, Result, ServiceAnswer};
use crate::documents::{
    FilesRequest, Findings, MetadataEntry, Numbers, NumbersRequest, Origin, Reading, Recognition, SourceFile,
};

/// The name of the service that [`reader_service`] makes.
pub const READER: &str = "reader/1";
/// The name of the service that [`verify_service`] makes.
pub const VERIFY: &str = "verify/1";

/// A file as the host has it: mapped, so that only what is touched is read.
#[derive(Debug, Clone, Copy)]
pub struct FileView<'a> {
    /// Its name.
    pub name: &'a str,
    /// All of its bytes.
    pub bytes: &'a [u8],
}

/// Reads files of a plugin's formats. All of it is pure: bytes in, documents out.
pub trait FileReader: Send + Sync + 'static {
    /// Which of the plugin's formats the files are in.
    ///
    /// # Errors
    /// Fails only for a defect; files of another format are no failure.
    fn recognise(&self, files: &[FileView<'_>]) -> Result<Recognition>;

    /// What is in the files. `most_elements` says how many elements of a list in the metadata are wanted.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` or `UNSUPPORTED`, naming the file, when they cannot be read.
    fn open(&self, files: &[FileView<'_>], most_elements: Option<u64>) -> Result<Reading>;

    /// What the files tell of the checkpoint that they were made from, for a plugin whose files can be a source
    /// of weights; its jobs then have the service [`DECODE`](super::DECODE).
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` or `UNSUPPORTED` when they are no source.
    fn source(&self, _files: &[FileView<'_>]) -> Result<Origin> {
        Err(Failure::unsupported("the plugin does not read weights out of its files"))
    }

    /// Holds the files' structure against what the format (and a loader of it) demands. Weights are not
    /// touched: the host has them looked at by [`FileReader::numbers`], rows at a time.
    ///
    /// # Errors
    /// Fails only when nothing can be said; what is wrong with the files is a finding.
    fn check(&self, files: &[FileView<'_>], loader: Option<&str>) -> Result<Findings>;

    /// Looks for scales and values that are not finite in whole rows of a tensor.
    ///
    /// # Errors
    /// Fails when the bytes are no whole rows.
    fn numbers(&self, format: &str, encoding: &str, rows: &[u8]) -> Result<Numbers>;
}

/// Puts a reader behind the service [`READER`].
pub fn reader_service(reader: Arc<dyn FileReader>) -> Arc<dyn FormatService> {
    Arc::new(ReaderService(reader))
}

/// Puts a reader behind the service [`VERIFY`].
pub fn verify_service(reader: Arc<dyn FileReader>) -> Arc<dyn FormatService> {
    Arc::new(VerifyService(reader))
}

/// A single value of a JSON document, or a text where JSON has no such number.
#[must_use]
pub fn json_number(value: f64) -> serde_json::Value {
    serde_json::Number::from_f64(value).map_or_else(|| format!("{value}").into(), serde_json::Value::Number)
}

/// A metadata entry with a list, of which at most `most` elements are told.
pub fn list_entry<T>(
    key: &str,
    kind: &str,
    elements: &[T],
    most: Option<u64>,
    to_json: impl Fn(&T) -> serde_json::Value,
) -> MetadataEntry {
    let most = most.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
    let first = elements.iter().take(most).map(to_json).collect();
    MetadataEntry::list(key, kind, first, elements.len() as u64)
}

struct ReaderService(Arc<dyn FileReader>);

impl FormatService for ReaderService {
    fn call(
        &self,
        method: &str,
        request: &str,
        inputs: &[Operand<'_>],
        _outputs: &mut [OperandMut<'_>],
    ) -> Result<ServiceAnswer> {
        let asked = |request: &str| parse::<FilesRequest>(request);
        match method {
            "recognise" => ServiceAnswer::new(&self.0.recognise(&views(&asked(request)?.files, inputs)?)?),
            "open" => {
                let request = asked(request)?;
                ServiceAnswer::new(&self.0.open(&views(&request.files, inputs)?, request.most_elements)?)
            }
            "source" => ServiceAnswer::new(&self.0.source(&views(&asked(request)?.files, inputs)?)?),
            _ => Err(unknown(READER, method)),
        }
    }
}

struct VerifyService(Arc<dyn FileReader>);

impl FormatService for VerifyService {
    fn call(
        &self,
        method: &str,
        request: &str,
        inputs: &[Operand<'_>],
        _outputs: &mut [OperandMut<'_>],
    ) -> Result<ServiceAnswer> {
        match method {
            "check" => {
                let request: FilesRequest = parse(request)?;
                let files = views(&request.files, inputs)?;
                ServiceAnswer::new(&self.0.check(&files, request.loader.as_deref())?)
            }
            "numbers" => {
                let request: NumbersRequest = parse(request)?;
                let [rows] = inputs else {
                    return Err(Failure::internal(format!("{} operands instead of one", inputs.len())));
                };
                ServiceAnswer::new(&self.0.numbers(&request.format, &request.encoding, rows.data)?)
            }
            _ => Err(unknown(VERIFY, method)),
        }
    }
}

fn parse<T: DeserializeOwned>(request: &str) -> Result<T> {
    serde_json::from_str(request).map_err(|error| Failure::internal(format!("not the request expected: {error}")))
}

fn unknown(service: &str, method: &str) -> Failure {
    Failure::unsupported(format!("{service} has no method `{method}`"))
}

/// Puts names and bytes together.
fn views<'a>(files: &'a [SourceFile], inputs: &[Operand<'a>]) -> Result<Vec<FileView<'a>>> {
    let fits =
        |(file, input): (&SourceFile, &Operand<'_>)| input.dtype == DType::U8 && input.data.len() as u64 == file.bytes;
    if files.len() != inputs.len() || !files.iter().zip(inputs).all(fits) {
        return Err(Failure::internal("the files named are not those given"));
    }
    let views = files.iter().zip(inputs).map(|(file, input)| FileView { name: &file.name, bytes: input.data });
    Ok(views.collect())
}
