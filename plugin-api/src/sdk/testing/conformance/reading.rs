//! Files that are read: those that the plugin made, damaged ones, and the weights in them.

use std::collections::BTreeMap;

use super::{
    Failure, Outcomes, Problem, failed, is_refusal, skipped,
    subject::{Subject, Target, verdict},
};
use crate::{
    documents::{
        CheckStatus, FilesRequest, Findings, Numbers, NumbersRequest, OpenRequest, Options, Origin, OutputKind,
        Reading, Recognition, RowsRequest, SourceFile, SourceTensor,
    },
    sdk::{
        DECODE, DType, FailureKind, Operand, OperandMut, READER, Result, ServiceHandle, VERIFY,
        testing::{Made, TestModel, broken},
    },
};

/// A relative error that no format has whose weights are those that it was made of.
const MOST: f64 = 1.0;

/// Files as the host passes them: those with weights first.
#[derive(Clone)]
struct Files {
    names: Vec<String>,
    bytes: Vec<Vec<u8>>,
    /// How many of them have weights.
    weights: usize,
}

impl Files {
    fn of(made: &Made) -> Self {
        let weights: Vec<_> = made.plan.files.iter().map(|file| file.name.clone()).collect();
        let beside = made.files.keys().filter(|name| !weights.contains(name)).cloned();
        let keys: Vec<_> = weights.iter().cloned().chain(beside).collect();
        let bytes = keys.iter().map(|name| made.files.get(name).cloned().unwrap_or_default()).collect();
        let single = made.plan.output.kind == OutputKind::File;
        let shown =
            |name: String| if single && name.is_empty() { format!("test{}", made.plan.output.suffix) } else { name };
        Self { names: keys.into_iter().map(shown).collect(), bytes, weights: weights.len() }
    }

    fn request(&self) -> FilesRequest {
        let files = self.names.iter().zip(&self.bytes);
        FilesRequest::new(files.map(|(name, bytes)| SourceFile::new(name.clone(), bytes.len() as u64)).collect())
    }

    fn views(&self) -> Vec<Operand<'_>> {
        self.bytes
            .iter()
            .map(|bytes| Operand { dtype: DType::U8, rows: 1, row_elements: bytes.len() as u64, data: bytes })
            .collect()
    }

    /// A method of a service that takes whole files.
    fn ask<T: serde::de::DeserializeOwned>(&self, service: &ServiceHandle, method: &str) -> Result<T> {
        service.call(method, &self.request(), &self.views(), &mut [])?.value()
    }
}

/// The plugin's reader, if the manifest says that it reads the format.
fn reader(subject: &Subject<'_>, target: &Target<'_>) -> std::result::Result<ServiceHandle, Problem> {
    let declared = target.declared.is_some_and(|format| !format.reads.is_empty() || !format.folders.is_empty());
    if !declared {
        return skipped("the manifest does not say that it reads such files (`reads`, `folders`)");
    }
    subject.plugin.service(READER).map_or_else(|| failed(format!("it has no service `{READER}`")), Ok)
}

/// The plugin knows its own files, and tells where their tensors are.
pub(super) fn reads(subject: &Subject<'_>, target: &Target<'_>) -> Outcomes {
    let reader = reader(subject, target)?;
    let made = target.make(subject)?;
    let files = Files::of(&made);
    let mut faults = Vec::new();
    let recognition: Recognition = files.ask(&reader, "recognise")?;
    if recognition.format.as_ref() != Some(&target.format.id) {
        faults.push(format!("it takes its own files for {:?}", recognition.format));
    }
    let reading: Reading = files.ask(&reader, "open")?;
    if reading.format != target.format.id {
        faults.push(format!("it reads its own files as `{}`", reading.format));
    }
    if reading.tensors.is_empty() {
        faults.push("it reads no tensor in its own files".into());
    }
    faults.extend(outside(&reading, &files));
    if let Some(verify) = subject.plugin.service(VERIFY) {
        let findings: Findings = files.ask(&verify, "check")?;
        if !findings.passed() {
            faults.push(format!("`{VERIFY}` does not pass its own files: {:?}", findings.checks));
        }
        if let Some(name) = not_finite(&verify, &reading, &files)? {
            faults.push(format!("`{VERIFY}` finds numbers in {name} that are not finite, in files of finite weights"));
        }
    }
    verdict(&faults, format!("{} tensors, all within the files", reading.tensors.len()))
}

/// A tensor that does not lie within its file.
fn outside(reading: &Reading, files: &Files) -> Option<String> {
    let fits = |tensor: &crate::documents::StoredTensor| {
        let file = files.bytes.get(tensor.file as usize);
        let end = tensor.offset.checked_add(tensor.bytes);
        file.zip(end).is_some_and(|(file, end)| end <= file.len() as u64)
    };
    let outside = reading.tensors.iter().find(|tensor| !fits(tensor));
    outside.map(|tensor| format!("{} lies outside of its file", tensor.name))
}

/// The first tensor with numbers that are not finite, as the plugin tells it.
fn not_finite(verify: &ServiceHandle, reading: &Reading, files: &Files) -> Result<Option<String>> {
    for tensor in &reading.tensors {
        let range = usize::try_from(tensor.offset).ok().zip(usize::try_from(tensor.bytes).ok());
        let file = files.bytes.get(tensor.file as usize);
        let bytes = file.zip(range).and_then(|(file, (start, length))| file.get(start..)?.get(..length));
        let Some(data) = bytes.filter(|bytes| !bytes.is_empty()) else { continue };
        let operand = Operand { dtype: DType::U8, rows: tensor.rows(), row_elements: data.len() as u64, data };
        let operand = Operand { row_elements: (data.len() as u64).checked_div(operand.rows).unwrap_or(0), ..operand };
        let request = NumbersRequest::new(&*reading.format, &*tensor.encoding);
        let numbers: Numbers = verify.call("numbers", &request, &[operand], &mut [])?.value()?;
        if let Numbers::NotFinite(_) = numbers {
            return Ok(Some(tensor.name.clone()));
        }
    }
    Ok(None)
}

/// Whether what is read back of files is finite.
pub(super) fn finite(subject: &Subject<'_>, target: &Target<'_>, made: &Made) -> std::result::Result<bool, Problem> {
    let reader = reader(subject, target)?;
    let files = Files::of(made);
    let reading: Reading = files.ask(&reader, "open")?;
    if let Some(verify) = subject.plugin.service(VERIFY)
        && not_finite(&verify, &reading, &files)?.is_some()
    {
        return Ok(false);
    }
    let decoder = Decoder::open(subject, target, &files, &reading, &subject.model)?;
    for (id, tensor) in (0..).zip(&subject.model.model.tensors) {
        if decoder.rows(&files, id, 0, tensor.rows(), tensor)?.iter().any(|weight| !weight.is_finite()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Damaged files are read or refused.
pub(super) fn damaged(subject: &Subject<'_>, target: &Target<'_>) -> Outcomes {
    let reader = reader(subject, target)?;
    let made = target.make(subject)?;
    let whole = Files::of(&made);
    let verify = subject.plugin.service(VERIFY);
    let mut faults: BTreeMap<String, String> = BTreeMap::new();
    let (mut tried, mut refused) = (0, 0);
    for (words, cut, files) in mutations(&whole, subject.settings.mutations) {
        tried += 1;
        let mut note = |method: &str, failure: &Failure| {
            if let Err(wrong) = is_refusal(failure) {
                faults.entry(method.into()).or_insert_with(|| format!("`{method}` of files with {words}: {wrong}"));
            }
        };
        if let Err(failure) = files.ask::<Recognition>(&reader, "recognise") {
            note("recognise", &failure);
        }
        match files.ask::<Origin>(&reader, "source") {
            Ok(_) => {}
            Err(failure) => note("source", &failure),
        }
        let checked = verify.as_ref().map(|verify| files.ask::<Findings>(verify, "check"));
        if let Some(Err(failure)) = &checked {
            note("check", failure);
        }
        let seen = checked.is_some_and(|checked| checked.map_or(true, |findings| !passed(&findings)));
        let opened = files.ask::<Reading>(&reader, "open");
        let ended =
            opened.as_ref().map_err(Clone::clone).and_then(|reading| decode_all(subject, target, &files, reading));
        if let Err(failure) = ended {
            refused += 1;
            note(if opened.is_ok() { "rows" } else { "open" }, &failure);
        }
        if let Ok(reading) = opened
            && cut
            && !seen
            && let Some(wrong) = outside(&reading, &files)
        {
            let wrong = format!("files with {words}: {wrong}, and neither `open` nor `check` says so");
            faults.entry("cut".into()).or_insert(wrong);
        }
    }
    let faults: Vec<_> = faults.into_values().collect();
    verdict(&faults, format!("{tried} damaged copies, of which {refused} are refused and the others read"))
}

fn passed(findings: &Findings) -> bool {
    findings.checks.iter().all(|check| check.status == CheckStatus::Passed)
}

/// Copies of files that are cut short, or have other bits: what was done, whether something is missing, and the files.
fn mutations(whole: &Files, count: u64) -> impl Iterator<Item = (String, bool, Files)> + '_ {
    // The same in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap_or(0) % below.max(1)
    };
    (0..count).filter_map(move |number| {
        let mut files = whole.clone();
        // Now and then one of the small files.
        let index = if number % 5 == 4 { random(files.bytes.len()) } else { random(files.weights) };
        let name = files.names.get(index)?.clone();
        let file = files.bytes.get_mut(index)?;
        let length = file.len();
        if number % 3 == 0 {
            let keep = match number / 3 {
                0 => 0,
                1 => 1,
                2 => 7,
                3 => length.saturating_sub(1),
                4 => length / 2,
                _ => random(length),
            };
            file.truncate(keep);
            let cut = keep < length && index < files.weights;
            return Some((format!("{keep} of the {length} bytes of `{name}`"), cut, files));
        }
        // Headers are where it hurts: most changes are made to the first bytes.
        let within = if number % 2 == 0 { length } else { length.min(512) };
        let place = random(within);
        let byte = file.get_mut(place)?;
        *byte = match number % 4 {
            0 => *byte ^ 1 << random(8),
            1 => 0xff,
            2 => 0,
            _ => byte.wrapping_add(1),
        };
        let is = *byte;
        Some((format!("byte {place} of `{name}` made {is:#04x}"), false, files))
    })
}

/// A job that gives weights out of files.
struct Decoder(ServiceHandle);

impl Decoder {
    fn open(
        subject: &Subject<'_>,
        target: &Target<'_>,
        files: &Files,
        reading: &Reading,
        model: &TestModel,
    ) -> std::result::Result<Self, Problem> {
        let reader = reader(subject, target)?;
        match files.ask::<Origin>(&reader, "source") {
            Ok(_) => {}
            Err(failure) if failure.kind == FailureKind::UNSUPPORTED => {
                return skipped(format!("its files are no source of weights: {failure}"));
            }
            Err(failure) => return Err(failure.into()),
        }
        Self::with(subject, target, reading, model).map_err(Into::into)
    }

    fn with(subject: &Subject<'_>, target: &Target<'_>, reading: &Reading, model: &TestModel) -> Result<Self> {
        let mut expected = model.model.clone();
        expected.tensors.iter_mut().for_each(|tensor| tensor.dtype = "F32".into());
        let mut request = OpenRequest::new(&*target.format.id, Options::default(), expected);
        (request.existing, request.decode) = (Some(reading.clone()), true);
        let job = subject.plugin.decoder(model, &request)?;
        ServiceHandle::found(job.query_interface(DECODE.into()))
            .map(Self)
            .ok_or_else(|| broken(format!("a job that is opened to decode has no service `{DECODE}`")))
    }

    fn rows(&self, files: &Files, id: u32, first: u64, rows: u64, tensor: &SourceTensor) -> Result<Vec<f32>> {
        let elements =
            usize::try_from(rows * tensor.row_elements()).map_err(|_| broken("too many weights for a test"))?;
        let mut data = vec![0; elements * 4];
        let out = OperandMut { dtype: DType::F32, rows, row_elements: tensor.row_elements(), data: &mut data };
        self.0.call("rows", &RowsRequest::new(id, first), &files.views(), &mut [out])?;
        Ok(data.as_chunks().0.iter().map(|bytes| f32::from_ne_bytes(*bytes)).collect())
    }
}

/// Gives all weights of files, whatever they are.
fn decode_all(subject: &Subject<'_>, target: &Target<'_>, files: &Files, reading: &Reading) -> Result<()> {
    let Some(reader) = subject.plugin.service(READER) else { return Ok(()) };
    if files.ask::<Origin>(&reader, "source").is_err() {
        // Refused already, or no source at all.
        return Ok(());
    }
    let decoder = Decoder::with(subject, target, reading, &subject.model)?;
    for (id, tensor) in (0..).zip(&subject.model.model.tensors) {
        decoder.rows(files, id, 0, tensor.rows(), tensor)?;
    }
    Ok(())
}

/// The weights that are read back are close to those that went in, and rows are the same however they are asked for.
pub(super) fn decodes(subject: &Subject<'_>, target: &Target<'_>) -> Outcomes {
    reader(subject, target)?;
    let made = target.make(subject)?;
    let files = Files::of(&made);
    let reader = reader(subject, target)?;
    let reading: Reading = files.ask(&reader, "open")?;
    let model = &subject.model;
    let decoder = Decoder::open(subject, target, &files, &reading, model)?;
    let mut faults = Vec::new();
    let mut worst = 0.0_f64;
    for (id, tensor) in (0_u32..).zip(&model.model.tensors) {
        let whole = decoder.rows(&files, id, 0, tensor.rows(), tensor)?;
        let error = relative_error(&whole, &model.floats(id));
        if error.is_nan() || error > MOST {
            faults.push(format!("the weights of {} come back with a relative error of {error}", tensor.name));
        }
        worst = worst.max(error);
        let mut pieces = Vec::new();
        let mut first = 0;
        while first < tensor.rows() {
            // Of 1, 3, 5, … rows.
            let rows = (1 + 2 * pieces.len() as u64 / tensor.row_elements().max(1)).min(tensor.rows() - first);
            pieces.extend(decoder.rows(&files, id, first, rows, tensor)?);
            first += rows;
        }
        if pieces.iter().map(|weight| weight.to_bits()).ne(whole.iter().map(|weight| weight.to_bits())) {
            faults.push(format!("rows of {} are others when they are asked for in pieces", tensor.name));
        }
    }
    verdict(&faults, format!("the relative error is {worst:.2e} at most, and rows in pieces are those of the whole"))
}

/// The root of the mean square of the error, by that of the weights.
fn relative_error(made: &[f32], source: &[f32]) -> f64 {
    let square = |value: f64| value * value;
    let errors: f64 = made.iter().zip(source).map(|(made, source)| square(f64::from(*made) - f64::from(*source))).sum();
    let weights: f64 = source.iter().map(|source| square(f64::from(*source))).sum();
    if errors == 0.0 { 0.0 } else { (errors / weights).sqrt() }
}
