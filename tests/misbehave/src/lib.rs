//! A plugin that breaks the contract in whatever way a test asks for, and otherwise writes the
//! weights as they are, widened to `f32`.
//!
//! The environment's `QHOST_BEHAVE` chooses the way, and `QHOST_BEHAVE_UNIT` the unit in which it
//! happens, by default the third. They are no options: with other options a run begins anew, and a run
//! that failed is to go on where it stopped with another behaviour.
#![expect(clippy::panic, reason = "panicking is what it is for")]

mod border;

use std::{borrow::Cow, sync::Arc};

use qhost_plugin_api::{
    documents::{
        Check, Description, Findings, FormatDescription, LevelDescription, Model, Numbers, OpenRequest, Output, Plan,
        PlannedFile, PlannedUnit, Reading, Recognition, Segment, StoredTensor, Survey, TensorSegment, UnitOrder,
        UnusedTensor,
    },
    sdk::{
        Failure, FileReader, FileView, FilesHandle, Format, FormatJob, FormatService, HostHandle, READER, Result,
        RowJob, UnitHandle, VERIFY, chunks, reader_service, verify_service, with_scratch,
    },
};

const HEADER: &[u8; 8] = b"ROWS-F32";

/// The plugin.
pub struct Misbehave;

impl Format for Misbehave {
    type Job = Rows;

    fn connect(_: HostHandle) -> Result<Self> {
        Ok(Self)
    }

    fn describe(&self) -> Description {
        let levels = vec![LevelDescription::new("f32", "as they are", 32.0)];
        Description::new(vec![FormatDescription::new("rows", levels)])
    }

    fn open(&self, request: OpenRequest, _: FilesHandle) -> Result<Rows> {
        let behave = std::env::var("QHOST_BEHAVE").unwrap_or_default();
        let unit = std::env::var("QHOST_BEHAVE_UNIT").ok().and_then(|unit| unit.parse().ok());
        match behave.as_str() {
            "panic-open" => panic!("told to panic while planning"),
            "crash-open" => crash_by("crash-segfault"),
            "hang-open" => crash_by("crash-sleep"),
            "memory-open" => fill_memory(),
            "refuse" => return Err(Failure::unsupported("told to refuse").hint("ask for something else")),
            _ => {}
        }
        let mut plan = plan(&request.model);
        match behave.as_str() {
            // Units that depend on one another through what they save.
            "chain" | "chain-fails" => plan.order = UnitOrder::Sequential,
            "plan-overlap" => plan.segments[1].offset -= 1,
            "plan-drop" => drop(plan.segments.pop()),
            "folder" => {
                plan.output = Output::folder("-rows");
                plan.files[0].name = "weights.rows".into();
            }
            "unused" | "unused-fails" => {
                plan.segments.pop();
                let last = u32::try_from(request.model.tensors.len()).unwrap_or(1) - 1;
                plan.unused.push(UnusedTensor::new(last, "told to leave it out"));
            }
            "plan-escape" => plan.output.suffix = "/../../escaped".into(),
            "plan-huge" => plan.files[0].bytes = 1 << 60,
            "plan-memory" => plan.units.iter_mut().for_each(|unit| unit.memory = 1 << 40),
            _ => {}
        }
        if behave.starts_with("survey") {
            survey(&behave, &request, &mut plan)?;
        }
        Ok(Rows { unit: unit.unwrap_or(2), behave, plan, model: request.model })
    }

    fn service(&self, name: &str) -> Option<Arc<dyn FormatService>> {
        match name {
            READER if behave() != "read-absent" => Some(reader_service(Arc::new(RowReader))),
            VERIFY => Some(verify_service(Arc::new(RowReader))),
            _ => None,
        }
    }
}

fn behave() -> String {
    std::env::var("QHOST_BEHAVE").unwrap_or_default()
}

/// Tells of one tensor, which is all that comes after the header.
struct RowReader;

impl FileReader for RowReader {
    fn recognise(&self, _: &[FileView<'_>]) -> Result<Recognition> {
        Ok(Recognition::new((behave() != "read-not-mine").then(|| "rows".to_owned())))
    }

    fn open(&self, files: &[FileView<'_>], _: Option<u64>) -> Result<Reading> {
        assert_ne!(behave(), "read-panic", "told to panic while reading");
        let bytes = files[0].bytes.len() as u64 - HEADER.len() as u64;
        let offset = if behave() == "read-outside" { u64::MAX } else { HEADER.len() as u64 };
        let all = StoredTensor::new("all", "F32", vec![bytes / 4]).at(0, offset, bytes);
        Ok(Reading::new("rows", vec![all]))
    }

    fn check(&self, _: &[FileView<'_>], _: Option<&str>) -> Result<Findings> {
        Ok(Findings::new(vec![Check::passed("structure", "rows")]))
    }

    fn numbers(&self, _: &str, encoding: &str, _: &[u8]) -> Result<Numbers> {
        assert_ne!(behave(), "numbers-panic", "told to panic over {encoding}");
        Ok(Numbers::Unknown)
    }
}

fn plan(model: &Model) -> Plan {
    let mut segments = vec![Segment::constant(0, 0, HEADER.len() as u64, "header")];
    let mut offset = HEADER.len() as u64;
    for (id, tensor) in (0..).zip(&model.tensors) {
        let bytes = tensor.elements() * 4;
        let made = TensorSegment::new(tensor.name.clone(), tensor.unit, vec![id], "F32", tensor.elements());
        segments.push(Segment::tensor(0, offset, bytes, made));
        offset += bytes;
    }
    let mut plan = Plan::new("rows", "f32", Output::file(".rows"));
    plan.files = vec![PlannedFile::single(offset)];
    plan.segments = segments;
    plan.units = model.units.iter().map(|unit| PlannedUnit::new(unit.id)).collect();
    plan.order = UnitOrder::Independent;
    plan
}

/// A plan that depends on what units have saved, which is nothing but their number.
fn survey(behave: &str, request: &OpenRequest, plan: &mut Plan) -> Result<()> {
    let limit = plan.files[0].bytes - u64::from(behave == "survey-large");
    let Some(surveyed) = &request.surveyed else {
        plan.survey = Some(Survey::within(limit));
        return Ok(());
    };
    if !plan.units.iter().all(|unit| surveyed.get(&format!("unit {}", unit.unit)) == Some(&unit.unit.to_string())) {
        return Err(Failure::corrupt(format!("not what was saved: {surveyed:?}")));
    }
    match behave {
        "survey-again" => plan.survey = Some(Survey::default()),
        "survey-renames" => plan.output.suffix = ".others".into(),
        _ => {}
    }
    Ok(())
}

/// A planned job.
pub struct Rows {
    behave: String,
    unit: u32,
    plan: Plan,
    model: Model,
}

impl Rows {
    fn write_unit(&self, unit: u32, io: &UnitHandle, spoil: &str) -> Result<()> {
        let tensors = (0_u32..).zip(&self.model.tensors).take(self.plan.segments.len() - 1);
        let tensors = tensors.filter(|(_, tensor)| tensor.unit == unit);
        let jobs: Vec<_> = tensors
            .map(|(id, tensor)| RowJob {
                item: id,
                rows: tensor.rows(),
                row_elements: tensor.row_elements(),
                granule: 1,
            })
            .collect();
        let chunks = chunks(&jobs);
        io.host().parallel(chunks.len() as u64, |index| {
            let chunk = &chunks[usize::try_from(index).unwrap_or(0)];
            let tensor = *chunk.item;
            assert_ne!(spoil, "panic-loop", "told to panic in a loop");
            let rows = io.rows(tensor, chunk.rows.start, chunk.rows.end - chunk.rows.start)?;
            with_scratch(|scratch| {
                rows.widen(&mut scratch.floats)?;
                scratch.bytes.clear();
                scratch.bytes.extend(scratch.floats.iter().flat_map(|value| value.to_le_bytes()));
                let offset = chunk.rows.start * rows.row_elements() * 4;
                // Segment 0 is the header.
                io.write(tensor + 1, offset, &scratch.bytes)?;
                io.progress(scratch.floats.len() as u64);
                Ok(())
            })
        })
    }
}

/// Ends the process, or never returns, in one of many ways.
#[expect(unsafe_code, clippy::exit, reason = "crashing is what it is for")]
fn crash_by(way: &str) {
    match way {
        "crash-abort" => std::process::abort(),
        "crash-exit" => std::process::exit(0),
        // SAFETY: there is none.
        "crash-segfault" => unsafe { std::ptr::null_mut::<u8>().write_volatile(1) },
        "crash-stack" => drop(descend(1)),
        "crash-memory" => drop(std::hint::black_box(Vec::<u8>::with_capacity(1 << 60))),
        "crash-kill" => {
            let me = std::process::id().to_string();
            drop(std::process::Command::new("kill").args(["-KILL", &me]).status());
            std::thread::sleep(std::time::Duration::from_secs(3600));
        }
        "crash-sleep" => std::thread::sleep(std::time::Duration::from_secs(3600)),
        _ => panic!("no such way: {way}"),
    }
}

/// Ends the process on a thread that the host has not made; a stranger has never called the host.
fn on_own_thread(way: &str, io: &UnitHandle, tensor: u32) -> Result<()> {
    let work = || {
        let stranger = way.strip_suffix("-stranger");
        if stranger.is_none() {
            drop(io.rows(tensor, 0, 1)?);
        }
        crash_by(stranger.unwrap_or_else(|| way.trim_end_matches("-thread")));
        Ok(())
    };
    std::thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Takes memory, piece by piece, until there is none.
fn fill_memory() {
    let mut taken = Vec::new();
    loop {
        taken.push(std::hint::black_box(vec![1_u8; 64 << 20]));
    }
}

fn descend(depth: u64) -> u64 {
    let room = std::hint::black_box([depth; 512]);
    if std::hint::black_box(depth) == 0 { 0 } else { descend(depth + 1) + room[0] }
}

/// Checks that all units before this one have left their mark, and adds its own.
fn extend_chain(unit: u32, io: &UnitHandle) -> Result<()> {
    let mut chain = io.load("chain")?.unwrap_or_default();
    let expected: Vec<u8> = (0..unit).map(|before| u8::try_from(before).unwrap_or(u8::MAX)).collect();
    if chain != expected {
        return Err(Failure::corrupt(format!("unit {unit} finds {chain:?} and should find {expected:?}")));
    }
    chain.push(u8::try_from(unit).unwrap_or(u8::MAX));
    io.save("chain", &chain)
}

impl FormatJob for Rows {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn constant(&self, _: u32) -> Result<Cow<'_, [u8]>> {
        match self.behave.as_str() {
            "constant-short" => Ok(Cow::Borrowed(&HEADER[..3])),
            "panic-constant" => panic!("told to panic over the header"),
            _ => Ok(Cow::Borrowed(HEADER)),
        }
    }

    fn run_unit(&self, unit: u32, io: &UnitHandle) -> Result<()> {
        let spoil = if unit == self.unit { self.behave.as_str() } else { "" };
        tracing::info!(unit, "misbehave speaks through tracing");
        let segments: Vec<u32> =
            (1..).zip(&self.model.tensors).filter(|(_, t)| t.unit == unit).map(|(id, _)| id).collect();
        if self.plan.survey.is_some() {
            match spoil {
                "survey-fails" => return Err(Failure::corrupt("told to fail while measuring")),
                "survey-writes" => io.write(segments[0], 0, &[0; 4])?,
                "survey-binary" => return io.save("binary", &[0xff]),
                _ => {}
            }
            return io.save(&format!("unit {unit}"), unit.to_string().as_bytes());
        }
        if self.behave.starts_with("chain") {
            extend_chain(unit, io)?;
        }
        match spoil {
            "panic-unit" => panic!("told to panic in a unit"),
            "fail" | "chain-fails" | "unused-fails" => {
                return Err(Failure::corrupt("told to fail").about("some.tensor"));
            }
            "short" => return Ok(()),
            "past-end" => io.write(segments[0], u64::MAX - 1, &[0; 4])?,
            "other-unit" => io.write(0, 0, &[0; 4])?,
            "no-such-rows" => drop(io.rows(9999, 0, 1)?),
            "no-such-segment" => io.write(9999, 0, &[0; 4])?,
            "greedy" => drop(io.host().grant(1 << 60, "everything")?),
            crash if crash.starts_with("crash-") => {
                let tensor = segments[0] - 1;
                drop(io.rows(tensor, 0, 1)?);
                match crash.strip_suffix("-loop") {
                    Some(crash) => io.host().parallel(4, |_| {
                        crash_by(crash);
                        Ok(())
                    })?,
                    None if crash.ends_with("-thread") || crash.ends_with("-stranger") => {
                        on_own_thread(crash, io, tensor)?;
                    }
                    None => crash_by(crash),
                }
            }
            // The contract forbids threads, and the host answers them all the same.
            "own-thread" => {
                return std::thread::scope(|scope| scope.spawn(|| self.write_unit(unit, io, spoil)).join())
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
            "hang" => loop {
                if io.host().cancelled() {
                    return Err(Failure::cancelled());
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            },
            _ => {}
        }
        self.write_unit(unit, io, spoil)?;
        if spoil == "twice" {
            io.write(segments[0], 0, &[0; 4])?;
        }
        Ok(())
    }

    fn check(&self, files: &FilesHandle) -> Result<Findings> {
        assert_ne!(self.behave, "panic-check", "told to panic in the check");
        let mut header = [0; 8];
        files.read_exact(&self.plan.files[0].name, 0, &mut header)?;
        let passed = &header == HEADER && self.behave != "check-fails";
        let (name, detail) = ("header", "the first bytes");
        Ok(Findings::new(vec![if passed { Check::passed(name, detail) } else { Check::failed(name, detail) }]))
    }
}
