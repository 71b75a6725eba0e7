//! The format `frozen-v1`: `nibble` of these tests as it was when the plugin API was frozen as version 1, with the API's source
//! of then. It is never changed.
//!
//! The file is `FROZEN-1`, the length of a header, the header in JSON, and the tensors. A block is 32 weights of a row: a
//! scale in f16, and 16 bytes with two codes each, the first in the low bits; a weight is scale · (code − 8).

mod blocks;
mod file;
mod read;

use std::{borrow::Cow, sync::Arc};

use qhost_plugin_api::{
    documents::{
        Check, Description, EncodingPattern, Fidelity, Findings, FormatDescription, LevelDescription, OpenRequest,
        Output, Part, Plan, PlannedFile, PlannedUnit, Segment, SegmentContent, SourceTensor, TensorSegment, UnitKind,
        UnitOrder,
    },
    sdk::{
        CHUNK_WEIGHTS, DECODE, Failure, FilesHandle, Format, FormatJob, FormatService, HostHandle, READER, Result,
        RowJob, UnitHandle, VERIFY, chunks, decode_service, reader_service, verify_service, with_scratch,
    },
};

use crate::{
    blocks::{BLOCK, BYTES},
    file::{Header, MAGIC, Stored},
    read::{Decoding, Reader},
};

/// The encoding of the blocks.
pub(crate) const BLOCKS: &str = "frozen-v1/blocks";

/// The plugin.
pub struct Nibble;

impl Format for Nibble {
    type Job = Job;

    fn connect(_: HostHandle) -> Result<Self> {
        Ok(Self)
    }

    fn describe(&self) -> Description {
        let format = |id: &str| {
            let mut format = FormatDescription::new(id, vec![LevelDescription::new("q4", "4-bit blocks of 32", 4.5)]);
            format.takes = vec![EncodingPattern::new(BLOCKS)];
            format.gives = vec![EncodingPattern::new(BLOCKS)];
            format
        };
        Description::new(vec![format("frozen-v1")])
    }

    fn open(&self, request: OpenRequest, companions: FilesHandle) -> Result<Job> {
        if request.decode {
            return Ok(Job {
                plan: Plan::new("frozen-v1", "q4", Output::file(".frozen-v1")),
                header: Vec::new(),
                tensors: Vec::new(),
                decoding: Some(Arc::new(Decoding::open(&request)?)),
            });
        }
        if let [flag, ..] = request.options.flags_besides_level().as_slice() {
            return Err(Failure::usage(format!("{flag} has no meaning for frozen-v1")));
        }
        if let Some(key) = request.options.plugin.keys().next() {
            return Err(Failure::usage(format!("frozen-v1 has no plugin option `{key}`")));
        }
        if let Some(level) = request.options.level.as_ref().filter(|level| *level != "q4") {
            return Err(Failure::unsupported(format!("frozen-v1 has no level `{level}`")).hint("the only level is q4"));
        }
        Job::plan(&request, &companions)
    }

    fn service(&self, name: &str) -> Option<Arc<dyn FormatService>> {
        match name {
            READER => Some(reader_service(Arc::new(Reader))),
            VERIFY => Some(verify_service(Arc::new(Reader))),
            _ => None,
        }
    }
}

/// A planned file, or one that is read.
pub struct Job {
    plan: Plan,
    header: Vec<u8>,
    /// Rows and their lengths, of every tensor of the model.
    tensors: Vec<(u64, u64)>,
    decoding: Option<Arc<Decoding>>,
}

/// Whether a tensor is stored as blocks.
fn has_blocks(tensor: &SourceTensor, layer: bool) -> bool {
    let rows = tensor.row_elements();
    layer
        && tensor.role.part == Part::Weight
        && tensor.shape.len() == 2
        && rows > 0
        && rows.is_multiple_of(BLOCK as u64)
}

impl Job {
    fn plan(request: &OpenRequest, companions: &FilesHandle) -> Result<Self> {
        let model = &request.model;
        let layers: Vec<_> =
            model.units.iter().filter(|unit| unit.kind == UnitKind::Layer).map(|unit| unit.id).collect();
        let mut stored = Vec::new();
        let mut tensors = Vec::new();
        let mut end = 0;
        for (id, tensor) in (0_u32..).zip(&model.tensors) {
            let blocks = has_blocks(tensor, layers.contains(&tensor.unit));
            let (encoding, bytes) = if blocks {
                (BLOCKS, tensor.elements() / BLOCK as u64 * BYTES as u64)
            } else {
                ("F32", tensor.elements() * 4)
            };
            let mut made = TensorSegment::new(&*tensor.name, tensor.unit, vec![id], encoding, tensor.elements());
            let arriving = request.conversion.as_ref().and_then(|conversion| conversion.tensors.get(id as usize));
            let offer =
                arriving.and_then(|arriving| arriving.offers.iter().find(|offer| offer.encoding.kind == BLOCKS));
            made.fidelity = Some(match offer {
                Some(offer) if blocks => {
                    made.takes = Some(offer.encoding.clone());
                    Fidelity::exact()
                }
                _ if blocks => {
                    made.expected_error = Some(0.1);
                    Fidelity::requantised()
                }
                _ => Fidelity::exact(),
            });
            stored.push(Stored::new(tensor, encoding, end, bytes));
            tensors.push((end, bytes, made));
            end += bytes;
        }
        let header = Header::of(model, stored, companions)?.bytes()?;
        let start = header.len() as u64;
        let mut plan = Plan::new(&*request.format, "q4", Output::file("-q4.frozen-v1"));
        plan.segments.push(Segment::constant(0, 0, start, "header"));
        plan.segments.extend(tensors.into_iter().map(|(at, bytes, made)| Segment::tensor(0, start + at, bytes, made)));
        plan.files.push(PlannedFile::single(start + end));
        for unit in &model.units {
            let longest = model.tensors.iter().map(SourceTensor::row_elements).max().unwrap_or(0);
            let mut planned = PlannedUnit::new(unit.id);
            planned.memory_per_thread = longest.max(CHUNK_WEIGHTS) * 8;
            plan.units.push(planned);
        }
        plan.order = UnitOrder::Independent;
        let tensors = model.tensors.iter().map(|tensor| (tensor.rows(), tensor.row_elements())).collect();
        Ok(Self { plan, header, tensors, decoding: None })
    }
}

impl FormatJob for Job {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn constant(&self, _: u32) -> Result<Cow<'_, [u8]>> {
        Ok(Cow::Borrowed(&self.header))
    }

    fn run_unit(&self, unit: u32, io: &UnitHandle) -> Result<()> {
        let of_unit = (0_u32..).zip(&self.plan.segments).filter_map(|(id, segment)| match &segment.content {
            SegmentContent::Tensor(tensor) if tensor.unit == unit => Some((id, tensor)),
            _ => None,
        });
        for (id, tensor) in of_unit {
            let source = tensor.sources[0];
            let (all, width) = self.tensors[source as usize];
            let job = [RowJob { item: (), rows: all, row_elements: width, granule: 1 }];
            let chunks = chunks(&job);
            io.host().parallel_map(chunks.len(), |index| {
                let rows = &chunks[index].rows;
                let count = rows.end - rows.start;
                let (row_bytes, bytes) = match &tensor.takes {
                    Some(encoding) => {
                        let planes = io.planes(source, rows.start, count, encoding)?;
                        (width / BLOCK as u64 * BYTES as u64, planes.bytes)
                    }
                    None => with_scratch(|scratch| {
                        io.rows(source, rows.start, count)?.widen(&mut scratch.floats)?;
                        Ok::<_, Failure>(if tensor.encoding == BLOCKS {
                            (width / BLOCK as u64 * BYTES as u64, blocks::of(&scratch.floats))
                        } else {
                            (width * 4, scratch.floats.iter().flat_map(|weight| weight.to_le_bytes()).collect())
                        })
                    })?,
                };
                io.write(id, rows.start * row_bytes, &bytes)?;
                io.progress(count * width);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn check(&self, files: &FilesHandle) -> Result<Findings> {
        let mut magic = [0; MAGIC.len()];
        files.read_exact("", 0, &mut magic)?;
        let (name, detail) = ("header", "FROZEN-1");
        Ok(Findings::new(vec![if &magic == MAGIC { Check::passed(name, detail) } else { Check::failed(name, detail) }]))
    }

    fn service(&self, name: &str) -> Option<Arc<dyn FormatService>> {
        let decoding = self.decoding.clone()?;
        (name == DECODE).then(|| decode_service(decoding))
    }
}

qhost_plugin_api::export_plugin! {
    id: "frozen-v1",
    summary: "4-bit blocks that nobody else knows",
    api: "^1.0",
    formats: [
        {
            id: "frozen-v1",
            summary: "A file of 4-bit blocks",
            levels: ["q4"],
            reads: { ending: "frozen-v1", magic: "46524f5a454e2d31" },
        },
    ],
    plugin: Nibble,
}
