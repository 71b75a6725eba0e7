//! A plugin that keeps to the contract, but for one thing: the format `bent`, tensors in `f32` after a header in JSON.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use qhost_plugin_api::{
    documents::{
        Check, Description, Findings, FormatDescription, LevelDescription, Model, Numbers, OpenRequest, Options,
        Origin, Output, Plan, PlannedFile, PlannedUnit, Reading, Recognition, RoleKind, Segment, SourceTensor,
        StoredTensor, TensorSegment, UnitKind, UnitOrder,
    },
    sdk::{
        DECODE, DType, Failure, FileReader, FileView, FilesHandle, Format, FormatJob, FormatService, HostHandle,
        READER, Result, RowDecoder, UnitHandle, VERIFY, decode_service, first_non_finite, reader_service,
        verify_service, widen,
    },
};
use serde_json::{Value, json};

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bend {
    Nothing,
    DoesNotStart,
    DescribesAnotherLevel,
    DefaultIsNoLevel,
    PanicsWhilePlanning,
    RefusesEverything,
    RefusesAsInternal,
    WritesTooLittle,
    WritesTwice,
    ConstantIsTooShort,
    FailsItsOwnCheck,
    FindsNothing,
    PlansDifferently,
    BytesOfChance,
    BytesByThreads,
    PanicsAtOneRow,
    CountsIn32Bits,
    TakesAnyLevel,
    TakesAnyPluginOption,
    TakesAnyOption,
    PanicsAtRoles,
    RefusesRolesWithoutAName,
    WritesNaN,
    PanicsAtNaN,
    RefusesNaNWithoutAName,
    GoesOnWhenCancelled,
    SwallowsWrites,
    RewordsRefusals,
    IgnoresGrants,
    AsksForMoreThanPlanned,
    KeepsGrants,
    PassesEmptyFiles,
    ReadsOutside,
    TakesItsFilesForOthers,
    PanicsAtDamage,
    ReadsCutFiles,
    DecodesOtherWeights,
    DecodesPiecesDifferently,
}

const MAGIC: &[u8; 4] = b"BENT";

/// The plugin; `B` is a [`Bend`], because only types can be connected.
pub(crate) struct Bent<const B: u8>;

impl<const B: u8> Bent<B> {
    fn has(bend: Bend) -> bool {
        B == bend as u8
    }
}

/// One for each plan and each byte of chance.
static CHANCE: AtomicU64 = AtomicU64::new(0);

fn chance() -> u64 {
    CHANCE.fetch_add(1, Ordering::Relaxed)
}

pub(crate) const MANIFEST: &str = r#"{
    "schema": "qhost.manifest/1", "id": "bent", "version": "1.0.0", "abi": "abi_stable-0.11", "api": "^1.0",
    "summary": "Bent", "formats": [{"id": "bent", "summary": "Floats", "levels": ["f32", "plain"],
    "reads": [{"ending": "bent", "magic": "42454e54"}]}]}"#;

impl<const B: u8> Format for Bent<B> {
    type Job = Job<B>;

    fn connect(_: HostHandle) -> Result<Self> {
        if Self::has(Bend::DoesNotStart) {
            return Err(Failure::internal("it has a bad day"));
        }
        Ok(Self)
    }

    fn describe(&self) -> Description {
        let second = if Self::has(Bend::DescribesAnotherLevel) { "simple" } else { "plain" };
        let levels = ["f32", second].map(|level| LevelDescription::new(level, "floats", 32.0));
        let mut format = FormatDescription::new("bent", levels.into()).common_options([]);
        format.default_level = Some(if Self::has(Bend::DefaultIsNoLevel) { "f64" } else { "f32" }.into());
        Description::new(vec![format])
    }

    fn open(&self, request: OpenRequest, _: FilesHandle) -> Result<Job<B>> {
        if request.decode {
            let reading = request.existing.ok_or_else(|| Failure::internal("no files"))?;
            let decoder = Decoder::<B> { model: request.model, reading };
            return Ok(Job {
                decoder: Some(Arc::new(decoder)),
                ..Job::new(Plan::new("bent", "f32", Output::file("")))
            });
        }
        let level = Self::level(&request.options)?;
        Self::plan(&level, request.model)
    }

    fn service(&self, name: &str) -> Option<Arc<dyn FormatService>> {
        match name {
            READER => Some(reader_service(Arc::new(Reader::<B>))),
            VERIFY => Some(verify_service(Arc::new(Reader::<B>))),
            _ => None,
        }
    }
}

impl<const B: u8> Bent<B> {
    fn level(options: &Options) -> Result<String> {
        if let [flag, ..] = options.flags_besides_level().as_slice()
            && !Self::has(Bend::TakesAnyOption)
        {
            return Err(Failure::usage(format!("{flag} has no meaning for bent")));
        }
        if let Some(key) = options.plugin.keys().next()
            && !Self::has(Bend::TakesAnyPluginOption)
        {
            return Err(Failure::usage(format!("bent has no plugin option `{key}`")));
        }
        let level = options.level.as_deref().unwrap_or("f32");
        if ["f32", "plain", "simple"].contains(&level) || Self::has(Bend::TakesAnyLevel) {
            return Ok(level.into());
        }
        Err(Failure::unsupported(format!("bent has no level `{level}`")))
    }

    #[expect(clippy::panic, reason = "that is what it is for")]
    fn plan(level: &str, model: Model) -> Result<Job<B>> {
        for unit in &model.units {
            if unit.kind == UnitKind::Other {
                return Err(Failure::unsupported(format!("unit {} is of an unknown kind", unit.id)));
            }
        }
        for tensor in &model.tensors {
            if let RoleKind::Other(role) = &tensor.role.kind {
                assert!(!Self::has(Bend::PanicsAtRoles), "no such role");
                let named = Failure::unsupported(format!("the role {role} is not known"));
                let nameless = Failure::unsupported("something is not known");
                return Err(if Self::has(Bend::RefusesRolesWithoutAName) { nameless } else { named });
            }
            assert!(tensor.rows() != 1 || tensor.shape.len() == 1 || !Self::has(Bend::PanicsAtOneRow), "one row");
        }
        if Self::has(Bend::PanicsWhilePlanning) {
            panic!("no plan");
        } else if Self::has(Bend::RefusesEverything) {
            return Err(Failure::unsupported("nothing is good enough"));
        } else if Self::has(Bend::RefusesAsInternal) {
            return Err(Failure::internal("something is odd"));
        }
        let bytes = |tensor: &SourceTensor| {
            let bytes = tensor.elements() * 4;
            if Self::has(Bend::CountsIn32Bits) { bytes & 0xffff_ffff } else { bytes }
        };
        let mut end = 0;
        let stored = model.tensors.iter().map(|tensor| {
            end += bytes(tensor);
            json!({"name": tensor.name, "shape": tensor.shape, "at": end - bytes(tensor), "bytes": bytes(tensor)})
        });
        let text = json!({"config": model.config, "tensors": stored.collect::<Vec<_>>()}).to_string();
        let header = [&MAGIC[..], &(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
        let mut plan = Plan::new("bent", level, Output::file(".bent"));
        let mut at = header.len() as u64;
        plan.segments.push(Segment::constant(0, 0, at, "header"));
        for (id, tensor) in (0..).zip(&model.tensors) {
            let made = TensorSegment::new(&*tensor.name, tensor.unit, vec![id], "F32", tensor.elements());
            plan.segments.push(Segment::tensor(0, at, bytes(tensor), made));
            at += bytes(tensor);
        }
        plan.files.push(PlannedFile::single(at));
        let longest = model.tensors.iter().map(SourceTensor::elements).max().unwrap_or(0);
        for unit in &model.units {
            let mut planned = PlannedUnit::new(unit.id);
            planned.memory_per_thread = longest * 4;
            plan.units.push(planned);
        }
        plan.order = UnitOrder::Independent;
        if Self::has(Bend::PlansDifferently) {
            plan.warnings.push(format!("this is plan {}", chance()));
        }
        Ok(Job { header, tensors: model.tensors, ..Job::new(plan) })
    }
}

/// A planned file, or one that is read.
pub(crate) struct Job<const B: u8> {
    plan: Plan,
    header: Vec<u8>,
    tensors: Vec<SourceTensor>,
    decoder: Option<Arc<Decoder<B>>>,
}

impl<const B: u8> Job<B> {
    fn new(plan: Plan) -> Self {
        Self { plan, header: Vec::new(), tensors: Vec::new(), decoder: None }
    }

    fn write(&self, io: &UnitHandle, id: u32) -> Result<()> {
        let has = Bent::<B>::has;
        let tensor = &self.tensors[id as usize];
        let mut floats = Vec::new();
        let rows = io.rows(id, 0, tensor.rows())?;
        let taken = if has(Bend::WritesNaN) {
            floats.resize(usize::try_from(tensor.elements()).unwrap_or(0), 0.0);
            widen(DType::F32, rows.bytes(), &mut floats)
        } else {
            rows.widen(&mut floats)
        };
        if let Err(failure) = taken {
            assert!(!has(Bend::PanicsAtNaN), "no number");
            return Err(if has(Bend::RefusesNaNWithoutAName) { Failure::corrupt("a weight is bad") } else { failure });
        }
        let mut bytes: Vec<u8> = floats.iter().flat_map(|weight| weight.to_le_bytes()).collect();
        if let Some(first) = bytes.first_mut() {
            if has(Bend::BytesOfChance) {
                *first = chance().to_le_bytes()[0];
            }
            if has(Bend::BytesByThreads) {
                // Which thread is at work is chance, but on one thread it is always the same one.
                *first = format!("{:?}", std::thread::current().id()).bytes().fold(0, u8::wrapping_add);
            }
        }
        if has(Bend::WritesTooLittle) {
            bytes.pop();
        }
        let written = io.write(id + 1, 0, &bytes);
        if has(Bend::WritesTwice) {
            io.write(id + 1, 0, &bytes)?;
        }
        match written {
            Err(_) if has(Bend::SwallowsWrites) => {}
            Err(failure) if has(Bend::RewordsRefusals) => return Err(Failure::internal(format!("oh no: {failure}x"))),
            other => other?,
        }
        io.progress(tensor.elements());
        Ok(())
    }
}

impl<const B: u8> FormatJob for Job<B> {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn constant(&self, _: u32) -> Result<Cow<'_, [u8]>> {
        let short = usize::from(Bent::<B>::has(Bend::ConstantIsTooShort));
        Ok(Cow::Borrowed(&self.header[short..]))
    }

    fn run_unit(&self, unit: u32, io: &UnitHandle) -> Result<()> {
        let has = Bent::<B>::has;
        let planned = self.plan.units.iter().find(|planned| planned.unit == unit);
        let memory = planned.map_or(0, |planned| planned.working_memory(io.host().facts().threads));
        let more = u64::from(has(Bend::AsksForMoreThanPlanned));
        let grant = io.host().grant(memory + more, "floats");
        match grant {
            Err(_) if has(Bend::IgnoresGrants) => {}
            Ok(grant) if has(Bend::KeepsGrants) => std::mem::forget(grant),
            other => drop(other?),
        }
        let of_unit: Vec<u32> =
            (0..).zip(&self.tensors).filter(|(_, tensor)| tensor.unit == unit).map(|(id, _)| id).collect();
        if has(Bend::GoesOnWhenCancelled) {
            return of_unit.iter().try_for_each(|id| self.write(io, *id));
        }
        io.host().parallel_map(of_unit.len(), |index| self.write(io, of_unit[index])).map(drop)
    }

    fn check(&self, files: &FilesHandle) -> Result<Findings> {
        let has = Bent::<B>::has;
        let whole = files.length("") == Some(self.plan.files[0].bytes) || has(Bend::PassesEmptyFiles);
        if has(Bend::FindsNothing) {
            return Ok(Findings::new(Vec::new()));
        }
        let passes = whole && !has(Bend::FailsItsOwnCheck);
        Ok(Findings::new(vec![if passes { Check::passed("length", "") } else { Check::failed("length", "") }]))
    }

    fn service(&self, name: &str) -> Option<Arc<dyn FormatService>> {
        let decoder = self.decoder.clone()?;
        (name == DECODE).then(|| decode_service(decoder))
    }
}

struct Reader<const B: u8>;

/// The header, and where the tensors begin.
fn header<const B: u8>(files: &[FileView<'_>]) -> Result<(Value, u64)> {
    let damaged = || Failure::corrupt("the header cannot be read");
    let [file] = files else { return Err(damaged()) };
    if Bent::<B>::has(Bend::PanicsAtDamage) {
        assert!(file.bytes.len() > 12 && file.bytes[12] == b'{', "no header");
    }
    let rest = file.bytes.strip_prefix(MAGIC).ok_or_else(damaged)?;
    let length = u64::from_le_bytes(*rest.first_chunk().ok_or_else(damaged)?);
    let text = usize::try_from(length).ok().and_then(|length| rest[8..].get(..length)).ok_or_else(damaged)?;
    Ok((serde_json::from_slice(text).map_err(|_| damaged())?, 12 + length))
}

impl<const B: u8> FileReader for Reader<B> {
    fn recognise(&self, files: &[FileView<'_>]) -> Result<Recognition> {
        let is_one = files.first().is_some_and(|file| file.bytes.starts_with(MAGIC));
        let is_one = is_one && !Bent::<B>::has(Bend::TakesItsFilesForOthers);
        Ok(Recognition::new(is_one.then(|| "bent".to_owned())))
    }

    fn open(&self, files: &[FileView<'_>], _: Option<u64>) -> Result<Reading> {
        let (header, start) = header::<B>(files)?;
        let damaged = || Failure::corrupt("a tensor is not where the header says");
        let mut tensors = Vec::new();
        for tensor in header["tensors"].as_array().ok_or_else(damaged)? {
            let number = |value: &Value| value.as_u64().ok_or_else(damaged);
            let shape = tensor["shape"].as_array().ok_or_else(damaged)?.iter().map(number).collect::<Result<_>>()?;
            let (at, bytes) = (number(&tensor["at"])?, number(&tensor["bytes"])?);
            let at = start.checked_add(at).ok_or_else(damaged)?;
            let end = at.checked_add(bytes).ok_or_else(damaged)?;
            let cut = end > files[0].bytes.len() as u64;
            if cut && !Bent::<B>::has(Bend::ReadsCutFiles) {
                return Err(damaged());
            }
            let at = if Bent::<B>::has(Bend::ReadsOutside) { at + (1 << 40) } else { at };
            let stored = StoredTensor::new(tensor["name"].as_str().unwrap_or_default(), "F32", shape);
            tensors.push(stored.at(0, at, bytes));
        }
        Ok(Reading::new("bent", tensors))
    }

    fn source(&self, files: &[FileView<'_>]) -> Result<Origin> {
        Ok(Origin::new(header::<B>(files)?.0["config"].clone()))
    }

    fn check(&self, files: &[FileView<'_>], _: Option<&str>) -> Result<Findings> {
        header::<B>(files)?;
        Ok(Findings::new(vec![Check::passed("header", "")]))
    }

    fn numbers(&self, _: &str, _: &str, rows: &[u8]) -> Result<Numbers> {
        let floats: Vec<f32> = rows.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let found = first_non_finite(&floats);
        Ok(found.map_or(Numbers::Finite, |place| Numbers::NotFinite(place as u64)))
    }
}

struct Decoder<const B: u8> {
    model: Model,
    reading: Reading,
}

impl<const B: u8> RowDecoder for Decoder<B> {
    fn rows(&self, files: &[&[u8]], tensor: u32, first_row: u64, out: &mut [f32]) -> Result<()> {
        let lost = || Failure::corrupt("rows are not in the file");
        let asked = &self.model.tensors[tensor as usize];
        let stored = self.reading.tensors.iter().find(|stored| stored.name == asked.name).ok_or_else(lost)?;
        let start = stored.offset.checked_add(first_row * asked.row_elements() * 4).ok_or_else(lost)?;
        let start = usize::try_from(start).map_err(|_| lost())?;
        let bytes = files.first().and_then(|file| file.get(start..)?.get(..out.len() * 4)).ok_or_else(lost)?;
        widen(DType::F32, bytes, out)?;
        if Bent::<B>::has(Bend::DecodesOtherWeights) {
            for weight in out.iter_mut() {
                *weight *= -2.0;
            }
        }
        if Bent::<B>::has(Bend::DecodesPiecesDifferently) {
            out[0] += 0.01;
        }
        Ok(())
    }
}
