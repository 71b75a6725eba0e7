//! A whole plugin: the format `half`, which holds every weight as an f16.
//!
//! The file is `HALF`, then the tensors in the order of the model, little-endian, without names.

use std::borrow::Cow;

use qhost_plugin_api::{
    documents::{
        Check, Description, Findings, FormatDescription, LevelDescription, OpenRequest, Output, Plan, PlannedFile,
        PlannedUnit, Segment, SourceTensor, TensorSegment, UnitOrder,
    },
    sdk::{
        CHUNK_WEIGHTS, Failure, FilesHandle, Format, FormatJob, HostHandle, Result, RowJob, UnitHandle, chunks,
        with_scratch,
    },
};

const MAGIC: &[u8; 4] = b"HALF";
/// The only level.
const LEVEL: &str = "f16";
/// An f16 has two bytes.
const BYTES: u64 = 2;

/// The plugin.
pub struct Half;

impl Format for Half {
    type Job = HalfJob;

    fn connect(_: HostHandle) -> Result<Self> {
        Ok(Self)
    }

    fn describe(&self) -> Description {
        let levels = vec![LevelDescription::new(LEVEL, "every weight as an f16", 16.0)];
        Description::new(vec![FormatDescription::new("half", levels)])
    }

    fn open(&self, request: OpenRequest, _companions: FilesHandle) -> Result<HalfJob> {
        // What has no meaning here is refused, not passed over.
        if let [flag, ..] = request.options.flags_besides_level().as_slice() {
            return Err(Failure::usage(format!("{flag} has no meaning for half")));
        }
        if let Some(key) = request.options.plugin.keys().next() {
            return Err(Failure::usage(format!("half has no plugin option `{key}`")));
        }
        let level = request.options.level.as_deref().unwrap_or(LEVEL);
        if level != LEVEL {
            return Err(Failure::unsupported(format!("half has no level `{level}`")).hint("the only level is f16"));
        }
        // The segment with the index 0 is the header; that with the index i + 1 is tensor i.
        let mut plan = Plan::new(request.format, LEVEL, Output::file("-f16.half"));
        let mut end = MAGIC.len() as u64;
        plan.segments.push(Segment::constant(0, 0, end, "header"));
        for (id, tensor) in (0..).zip(&request.model.tensors) {
            let bytes = tensor.elements() * BYTES;
            let made = TensorSegment::new(&*tensor.name, tensor.unit, vec![id], "F16", tensor.elements());
            plan.segments.push(Segment::tensor(0, end, bytes, made));
            end += bytes;
        }
        plan.files.push(PlannedFile::single(end));
        // Each task widens a chunk to f32 and narrows it to f16; a row is never cut.
        let longest_row = request.model.tensors.iter().map(SourceTensor::row_elements).max().unwrap_or(0);
        for unit in &request.model.units {
            let mut planned = PlannedUnit::new(unit.id);
            planned.memory_per_thread = longest_row.max(CHUNK_WEIGHTS) * (4 + BYTES);
            plan.units.push(planned);
        }
        plan.order = UnitOrder::Independent;
        Ok(HalfJob { plan, tensors: request.model.tensors })
    }
}

/// A planned file.
pub struct HalfJob {
    plan: Plan,
    tensors: Vec<SourceTensor>,
}

impl FormatJob for HalfJob {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn constant(&self, _segment: u32) -> Result<Cow<'_, [u8]>> {
        // The header is the only constant.
        Ok(Cow::Borrowed(MAGIC))
    }

    fn run_unit(&self, unit: u32, io: &UnitHandle) -> Result<()> {
        let planned = self.plan.units.iter().find(|planned| planned.unit == unit);
        let memory = planned.map_or(0, |planned| planned.working_memory(io.host().facts().threads));
        let _grant = io.host().grant(memory, "writing halves")?;
        let of_unit = (0..).zip(&self.tensors).filter(|(_, tensor)| tensor.unit == unit);
        let jobs: Vec<RowJob<u32>> = of_unit
            .map(|(id, tensor)| RowJob {
                item: id,
                rows: tensor.rows(),
                row_elements: tensor.row_elements(),
                granule: 1,
            })
            .collect();
        let chunks = chunks(&jobs);
        io.host().parallel_map(chunks.len(), |index| {
            let chunk = &chunks[index];
            let rows = io.rows(*chunk.item, chunk.rows.start, chunk.rows.end - chunk.rows.start)?;
            with_scratch(|scratch| {
                rows.widen(&mut scratch.floats)?;
                scratch.bytes.clear();
                for weight in &scratch.floats {
                    scratch.bytes.extend(half::f16::from_f32(*weight).to_le_bytes());
                }
                io.write(*chunk.item + 1, chunk.rows.start * rows.row_elements() * BYTES, &scratch.bytes)?;
                io.progress(scratch.floats.len() as u64);
                Ok(())
            })
        })?;
        Ok(())
    }

    fn check(&self, files: &FilesHandle) -> Result<Findings> {
        let mut magic = [0; 4];
        // The file of a single-file output has no name.
        files.read_exact("", 0, &mut magic)?;
        Ok(Findings::new(vec![if &magic == MAGIC {
            Check::passed("header", "HALF")
        } else {
            Check::failed("header", "it does not start with HALF")
        }]))
    }
}

qhost_plugin_api::export_plugin! {
    id: "half",
    summary: "Every weight as an f16",
    api: "^1.0",
    formats: [{ id: "half", summary: "One file of f16 weights", levels: ["f16"] }],
    plugin: Half,
}

#[cfg(test)]
mod tests {
    use qhost_plugin_api::{
        documents::{Options, Role, RoleKind, UnitInfo},
        sdk::{
            FailureKind,
            testing::{
                TestHost, TestModel,
                conformance::{self, Settings},
            },
        },
    };

    use super::*;

    #[test]
    fn every_weight_is_written_as_an_f16() {
        let mut model = TestModel::new("tiny", "llama");
        model.model.units.push(UnitInfo::layer(0, 0));
        model.tensor("w", Role::weight(RoleKind::FfnUp), 0, &[2, 2], [0.0, 1.0, -2.0, 0.5]);
        let made = TestHost::new().connect::<Half>().unwrap().make(&model, "half", Options::default()).unwrap();
        assert_eq!(made.files[""], *b"HALF\x00\x00\x00\x3c\x00\xc0\x00\x38");
        assert!(made.findings.passed());
    }

    #[test]
    fn the_bytes_do_not_depend_on_the_threads() {
        let model = TestModel::llama(2, 64, 128, 100);
        let make =
            |threads| TestHost::new().threads(threads).connect::<Half>()?.make(&model, "half", Options::default());
        assert_eq!(make(1).unwrap(), make(4).unwrap());
    }

    #[test]
    fn it_keeps_to_the_contract() {
        conformance::assert::<Half>(MANIFEST_JSON, &Settings::default());
    }

    #[test]
    fn options_without_a_meaning_are_refused() {
        let options = Options { bits: Some(4), ..Options::default() };
        let plugin = TestHost::new().connect::<Half>().unwrap();
        let refused = plugin.plan(&TestModel::llama(1, 32, 32, 32), "half", options).unwrap_err();
        assert_eq!(refused.kind, FailureKind::USAGE);
    }
}
