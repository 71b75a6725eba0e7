//! What plugins read: files of their formats as a source of weights, and a model's small files.

use std::collections::{BTreeMap, BTreeSet};

use qhost::model;
use qhost_plugin_api::{
    documents::{
        Document, Encodings, FilesRequest, Findings, Model, Numbers, NumbersRequest, OpenRequest, Options, Origin,
        PlacedRole, PlanesRequest, Reading, Recognition, Role, RowsRequest, SourceFile,
    },
    sdk::{
        DECODE, DType, Failure, FailureKind, Format, FormatJob, FormatService, IMATRIX_FILE, Operand, OperandMut,
        Planes, READER, VERIFY,
        testing::{TestHost, TestModel, files},
    },
};
use serde::{Serialize, de::DeserializeOwned};

use super::files_of;
use crate::{Form, Read, Target, seeds};

/// A GGUF file, as the source of weights.
#[must_use]
pub fn gguf<F: Format>() -> Target {
    Target {
        name: "gguf",
        form: Form::Bytes,
        read: |bytes| source::<F>("gguf", &[("x.gguf", bytes)]),
        seeds: seeds::gguf,
        memory: 16 << 20,
        memory_per_byte: 200,
        changes: 1000,
    }
}

/// A folder of weights that GPTQ has packed, as the source of weights: `config.json`, `quantize_config.json` and the
/// weights.
#[must_use]
pub fn gptq<F: Format>() -> Target {
    Target {
        name: "gptq",
        form: Form::Folder,
        read: |bytes| folder::<F>("gptq", bytes),
        seeds: seeds::gptq,
        memory: 16 << 20,
        memory_per_byte: 200,
        changes: 1000,
    }
}

/// The same of AWQ.
#[must_use]
pub fn awq<F: Format>() -> Target {
    Target {
        name: "awq",
        form: Form::Folder,
        read: |bytes| folder::<F>("awq", bytes),
        seeds: seeds::awq,
        memory: 16 << 20,
        memory_per_byte: 200,
        changes: 1000,
    }
}

/// The same of compressed-tensors.
#[must_use]
pub fn compressed_tensors<F: Format>() -> Target {
    Target {
        name: "compressed_tensors",
        form: Form::Folder,
        read: |bytes| folder::<F>("compressed-tensors", bytes),
        seeds: seeds::compressed_tensors,
        memory: 16 << 20,
        memory_per_byte: 200,
        changes: 1000,
    }
}

fn folder<F: Format>(format: &str, bytes: &[u8]) -> Read {
    let [config, settings, weights] = files_of(bytes);
    let files = [("model.safetensors", weights), ("config.json", config), ("quantize_config.json", settings)];
    // An empty file is one that is not there.
    let files: Vec<_> = files.into_iter().filter(|(_, bytes)| !bytes.is_empty()).collect();
    source::<F>(format, &files)
}

/// The small files of a model that a GGUF file is planned of: `config.json`, `README.md`, `generation_config.json`,
/// `tokenizer_config.json`, and `tokenizer.json` or `tokenizer.model`.
#[must_use]
pub fn companions<F: Format>() -> Target {
    Target {
        name: "companions",
        form: Form::Files,
        read: planned::<F>,
        seeds: seeds::companions,
        memory: 32 << 20,
        memory_per_byte: 1000,
        changes: 500,
    }
}

fn planned<F: Format>(bytes: &[u8]) -> Read {
    let [config, card, generation, tokenizer_config, tokenizer] = files_of(bytes);
    // The host refuses deeper ones; see `checkpoint::CONFIG`.
    let Some(config) = serde_json::from_slice(config).ok().filter(|config| !is_deeper(config, 64)) else {
        return Read::Refused;
    };
    let kind = if tokenizer.starts_with(b"{") { "tokenizer.json" } else { "tokenizer.model" };
    let mut model = TestModel::llama(1, 32, 32, 512);
    model.model.config = config;
    let named = [
        ("README.md", card),
        ("generation_config.json", generation),
        ("tokenizer_config.json", tokenizer_config),
        (kind, tokenizer),
    ];
    for (name, bytes) in named {
        model.companion(name, bytes);
    }
    let plan = TestHost::new().connect::<F>().and_then(|plugin| plugin.plan(&model, "gguf", Options::default()));
    plan.map_or_else(|failure| refused(&failure), |_| Read::Whole)
}

fn is_deeper(value: &serde_json::Value, levels: usize) -> bool {
    let inner =
        value.as_array().into_iter().flatten().chain(value.as_object().into_iter().flat_map(|map| map.values()));
    let nests = value.is_array() || value.is_object();
    nests && (levels == 0 || inner.into_iter().any(|inner| is_deeper(inner, levels - 1)))
}

/// An importance matrix of either form, of which a GGUF file is planned.
#[must_use]
pub fn imatrix<F: Format>() -> Target {
    Target {
        name: "imatrix",
        form: Form::Bytes,
        read: weighed::<F>,
        seeds: seeds::imatrix,
        memory: 32 << 20,
        memory_per_byte: 200,
        changes: 1000,
    }
}

fn weighed<F: Format>(bytes: &[u8]) -> Read {
    let mut model = TestModel::llama(1, 32, 32, 512);
    for (name, bytes) in seeds::tokenizer_of_a_plan() {
        model.companion(name, bytes);
    }
    model.companion(IMATRIX_FILE, bytes);
    let options = Options { imatrix: Some("m.dat".into()), level: Some("Q4_0".into()), ..Options::default() };
    let plan = TestHost::new().connect::<F>().and_then(|plugin| plugin.plan(&model, "gguf", options));
    plan.map_or_else(|failure| refused(&failure), |_| Read::Whole)
}

/// Rows that are decoded of a tensor at a time.
const ROWS: u64 = 4;
/// The longest row that is decoded.
const LONGEST_ROW: u64 = 1 << 16;

/// Reads files of a format as the host does that takes them for the source of weights: what is in them, whether they are
/// sound, the model that they imply, and some rows of every tensor in every encoding that is offered.
///
/// Panics when an answer contradicts itself, or a service that the host relies on is not there.
fn source<F: Format>(format: &str, named: &[(&str, &[u8])]) -> Read {
    match read_source::<F>(format, named) {
        Ok(()) => Read::Whole,
        Err(failure) => refused(&failure),
    }
}

fn read_source<F: Format>(format: &str, named: &[(&str, &[u8])]) -> Result<(), Failure> {
    let plugin = F::connect(TestHost::new().handle())?;
    let service = |name: &str| plugin.service(name).ok_or_else(|| Failure::internal(format!("there is no {name}")));
    let (reader, verify) = (service(READER)?, service(VERIFY)?);
    let described = named.iter().map(|(name, bytes)| SourceFile::new(*name, bytes.len() as u64)).collect();
    let mut request = FilesRequest::new(described);
    let views: Vec<_> = named.iter().map(|(_, bytes)| operand(bytes)).collect();
    let _: Recognition = call(&*reader, "recognise", &request, &views, &mut [])?;
    // Whatever is wrong with the files is a finding, and no failure.
    let findings: Findings = call(&*verify, "check", &request, &views, &mut [])?;
    request.most_elements = Some(3);
    let reading: Reading = call(&*reader, "open", &request, &views, &mut [])?;
    for tensor in &reading.tensors {
        let file = named.get(tensor.file as usize).map_or(0, |(_, bytes)| bytes.len() as u64);
        let end = tensor.offset.checked_add(tensor.bytes);
        assert!(end.is_some_and(|end| end <= file), "the data of {} end at {end:?} of {file}", tensor.name);
        let range = bytes_of(named, tensor.file, tensor.offset, tensor.bytes);
        let request = NumbersRequest::new(format, &*tensor.encoding);
        let _: Numbers = call(&*verify, "numbers", &request, &[operand(range)], &mut [])?;
    }
    let sound = findings.passed();
    let origin: Origin = call(&*reader, "source", &request, &views, &mut [])?;
    let Some(model) = described_by(&origin) else { return Err(Failure::corrupt("it tells of no model")) };
    let mut request = OpenRequest::new(format, Options::default(), model);
    (request.existing, request.decode) = (Some(reading), true);
    // As it comes over the border.
    let request = OpenRequest::from_json(&request.to_json()?)?;
    let model = request.model.clone();
    let job = plugin.open(request, files(BTreeMap::new())?)?;
    let decoder = job.service(DECODE).ok_or_else(|| Failure::internal("the job gives no weights"))?;
    let given: Encodings = call(&*decoder, "encodings", &(), &views, &mut [])?;
    assert_eq!(given.tensors.len(), model.tensors.len(), "encodings are told of every tensor");
    let mut refused = None;
    for ((id, tensor), encodings) in (0_u32..).zip(&model.tensors).zip(&given.tensors) {
        let (width, rows) = (tensor.row_elements(), tensor.rows().min(ROWS));
        if width > LONGEST_ROW || tensor.rows() == 0 {
            continue;
        }
        let first = tensor.rows() - rows;
        let length = usize::try_from(width * rows * 4).unwrap_or(0);
        let mut data = vec![0; length];
        let output = OperandMut { dtype: DType::F32, rows, row_elements: width, data: &mut data };
        let asked = RowsRequest::new(id, first);
        if let Err(failure) = call::<serde_json::Value>(&*decoder, "rows", &asked, &views, &mut [output]) {
            refused = Some(failure);
            continue;
        }
        for encoding in encodings.iter().filter(|encoding| !encoding.is_float()) {
            let mut planes = Planes::room(encoding, rows, width)?;
            let asked = PlanesRequest::new(id, first, width, encoding.clone());
            planes.fill(|outputs| call::<serde_json::Value>(&*decoder, "planes", &asked, &views, outputs))?;
        }
    }
    match refused {
        Some(failure) => Err(failure),
        None if sound => Ok(()),
        None => Err(Failure::corrupt("it is not sound")),
    }
}

/// The model that files imply, as the host makes it of what they tell.
fn described_by(origin: &Origin) -> Option<Model> {
    if !origin.parameters.is_empty() {
        return model::of_parameters("m", &origin.config, &origin.parameters).ok().map(|(model, _)| model);
    }
    let present: BTreeSet<&PlacedRole> = origin.present.iter().collect();
    let is_present = |role: &Role, layer| present.contains(&PlacedRole::new(role.clone(), layer));
    model::expected("m", &origin.config, &is_present).ok()
}

/// That files are damaged is no defect of whoever reads them.
fn refused(failure: &Failure) -> Read {
    let defect = [FailureKind::INTERNAL, FailureKind::PLUGIN].contains(&failure.kind);
    assert!(!defect, "{failure:?}");
    assert!(!failure.message.is_empty(), "{failure:?}");
    Read::Refused
}

fn operand(bytes: &[u8]) -> Operand<'_> {
    Operand { dtype: DType::U8, rows: 1, row_elements: bytes.len() as u64, data: bytes }
}

fn bytes_of<'a>(named: &[(&str, &'a [u8])], file: u32, offset: u64, length: u64) -> &'a [u8] {
    let bytes = named.get(file as usize).map_or(&[][..], |(_, bytes)| bytes);
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    bytes.get(start..).and_then(|rest| rest.get(..length)).unwrap_or_default()
}

fn call<T: DeserializeOwned>(
    service: &dyn FormatService,
    method: &str,
    request: &impl Serialize,
    inputs: &[Operand<'_>],
    outputs: &mut [OperandMut<'_>],
) -> Result<T, Failure> {
    let request = serde_json::to_string(request).map_err(|error| Failure::internal(error.to_string()))?;
    service.call(method, &request, inputs, outputs)?.value()
}
