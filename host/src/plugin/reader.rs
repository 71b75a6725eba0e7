//! Having a plugin read files that exist: its services `reader/1` and `verify/1`.
//!
//! It moves bytes and documents; which files belong together, and what the answers mean, is for others.

use abi_stable::std_types::{RSlice, RSliceMut};
use qhost_plugin_api::{
    abi::{Answer, DType, Failure, FailureKind, ServiceObject, TensorView},
    documents::{Document, FilesRequest, Findings, Numbers, NumbersRequest, Origin, Reading, Recognition, SourceFile},
    sdk::{READER, VERIFY},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{Error, LoadedPlugin, calls::Caller};

/// A file by name, with all of its bytes; only those that the plugin touches are read.
#[derive(Debug, Clone, Copy)]
pub struct NamedBytes<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its bytes.
    pub bytes: &'a [u8],
}

impl LoadedPlugin {
    /// Which of the plugin's formats the files are in, if any.
    ///
    /// # Errors
    /// Fails when the plugin has no reader, or fails.
    pub fn recognise(&self, files: &[NamedBytes<'_>]) -> Result<Option<String>, Error> {
        let answer: Recognition = self.ask(READER, "recognise", &request(files), files)?;
        Ok(answer.format)
    }

    /// What is in files of one of the plugin's formats; of lists in the metadata at most so many elements.
    ///
    /// # Errors
    /// Fails when the files cannot be read, or the plugin fails.
    pub fn read(&self, files: &[NamedBytes<'_>], most_elements: Option<u64>) -> Result<Reading, Error> {
        let mut request = request(files);
        request.most_elements = most_elements;
        let reading: Reading = self.ask(READER, "open", &request, files)?;
        let inside = |tensor: &qhost_plugin_api::documents::StoredTensor| {
            let file = files.get(tensor.file as usize);
            let end = tensor.offset.checked_add(tensor.bytes);
            file.zip(end).is_some_and(|(file, end)| end <= file.bytes.len() as u64)
        };
        match reading.tensors.iter().find(|tensor| !inside(tensor)) {
            _ if reading.schema != Reading::SCHEMA => Err(self.broke(&format!("its schema is {}", reading.schema))),
            Some(tensor) => Err(self.broke(&format!("it tells of data of {} outside of the files", tensor.name))),
            None => Ok(reading),
        }
    }

    /// What files of one of the plugin's formats tell of the checkpoint that they were made from.
    ///
    /// # Errors
    /// Fails when the files are no source, or the plugin reads no weights out of its files.
    pub fn origin(&self, files: &[NamedBytes<'_>]) -> Result<Origin, Error> {
        let origin: Origin = self.ask(READER, "source", &request(files), files)?;
        if origin.schema == Origin::SCHEMA {
            Ok(origin)
        } else {
            Err(self.broke(&format!("its schema is {}", origin.schema)))
        }
    }

    /// Holds the structure of files against what the format, and a loader of it, demands.
    ///
    /// # Errors
    /// Fails when the plugin does; what is wrong with the files is in the findings.
    pub fn check_files(&self, files: &[NamedBytes<'_>], loader: Option<&str>) -> Result<Findings, Error> {
        let mut request = request(files);
        request.loader = loader.map(str::to_owned);
        self.ask(VERIFY, "check", &request, files)
    }

    /// Looks at the numbers of tensors in files of a format.
    ///
    /// # Errors
    /// Fails when the plugin cannot do that.
    pub fn number_check(&self, format: &str) -> Result<NumberCheck<'_>, Error> {
        Ok(NumberCheck { plugin: self, service: self.service(VERIFY)?, format: format.to_owned() })
    }

    fn ask<T: DeserializeOwned>(
        &self,
        service: &str,
        method: &str,
        request: &impl Serialize,
        files: &[NamedBytes<'_>],
    ) -> Result<T, Error> {
        let views: Vec<_> = files.iter().map(|file| view(file.bytes)).collect();
        call((self.caller, &self.service(service)?), method, request, &views).map_err(|failure| self.failed(failure))
    }

    fn service(&self, name: &str) -> Result<ServiceObject, Error> {
        let found = self.caller.call("while it read files", || self.object.query_interface(name.into())).into_option();
        found.ok_or_else(|| self.broke(&format!("its manifest says that it reads files, and it has no {name}")))
    }

    fn broke(&self, what: &str) -> Error {
        self.failed(Failure::new(FailureKind::PLUGIN, format!("the plugin broke its contract: {what}")))
    }
}

/// Looks for numbers that are not finite; shared by threads.
pub struct NumberCheck<'a> {
    plugin: &'a LoadedPlugin,
    service: ServiceObject,
    format: String,
}

impl NumberCheck<'_> {
    /// Looks at whole rows of a tensor.
    ///
    /// # Errors
    /// Fails when the plugin does.
    pub fn look(&self, encoding: &str, rows: &[u8]) -> Result<Numbers, Error> {
        let request = NumbersRequest::new(&*self.format, encoding);
        call((self.plugin.caller, &self.service), "numbers", &request, &[view(rows)])
            .map_err(|failure| self.plugin.failed(failure))
    }
}

fn request(files: &[NamedBytes<'_>]) -> FilesRequest {
    FilesRequest::new(files.iter().map(|file| SourceFile::new(file.name, file.bytes.len() as u64)).collect())
}

pub(super) fn view(bytes: &[u8]) -> TensorView<'_> {
    TensorView { dtype: DType::U8, rows: 1, row_elements: bytes.len() as u64, data: RSlice::from_slice(bytes) }
}

fn call<T: DeserializeOwned>(
    (caller, service): (&'static Caller, &ServiceObject),
    method: &str,
    request: &impl Serialize,
    inputs: &[TensorView<'_>],
) -> Result<T, Failure> {
    let request = serde_json::to_string(request).map_err(|error| Failure::internal(error.to_string()))?;
    let outputs = RSliceMut::from_mut_slice(&mut []);
    let call = || service.call(method.into(), request.as_str().into(), RSlice::from_slice(inputs), outputs);
    let answer = caller.call("while it read files", call);
    let Answer { json, .. } = answer.into_result()?;
    serde_json::from_str(&json)
        .map_err(|error| Failure::new(FailureKind::PLUGIN, format!("not the answer expected of {method}: {error}")))
}
