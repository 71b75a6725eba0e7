//! The work: rows of weights in, bytes of segments out. It opens no file and starts no thread; the host does that.

use std::{borrow::Cow, sync::Arc};

use qhost_plugin_api::{
    documents::{Check, Findings, OpenRequest, Output, Plan},
    sdk::{
        Chunk, DECODE, Failure, FilesHandle, FormatJob, FormatService, Result, RowJob, UnitHandle,
        chunks, decode_service, with_scratch,
    },
};

use crate::{
    FORMAT, LEVEL, int8,
    plan::{Holds, Item, Planned, WEIGHTS},
    read::Decoder,
};

/// A planned folder, or one whose weights are asked for.
pub(crate) struct Job {
    planned: Planned,
    decoder: Option<Arc<Decoder>>,
}

impl Job {
    /// A folder to be made.
    pub(crate) fn of_plan(planned: Planned) -> Self {
        Self {
            planned,
            decoder: None,
        }
    }

    /// Files that are a source of weights: nothing is planned.
    pub(crate) fn of_files(request: OpenRequest) -> Result<Self> {
        let plan = Plan::new(FORMAT, LEVEL, Output::folder(""));
        let planned = Planned {
            plan,
            header: Vec::new(),
            items: Vec::new(),
            tensors: Vec::new(),
        };
        Ok(Self {
            planned,
            decoder: Some(Arc::new(Decoder::of(request)?)),
        })
    }

    /// The segments that are made of a tensor.
    fn items_of(&self, source: u32) -> impl Iterator<Item = (u32, &Item)> {
        (1..)
            .zip(&self.planned.items)
            .filter(move |(_, item)| item.source == source)
    }

    /// Makes some rows; gives the square of what rounding did to them, and their own.
    fn make(&self, io: &UnitHandle, chunk: &Chunk<'_, u32>) -> Result<(f64, f64)> {
        let (source, first) = (*chunk.item, chunk.rows.start);
        let rows = io.rows(source, first, chunk.rows.end - first)?;
        let width = rows.row_elements();
        // A thread keeps its buffers for the next chunk.
        with_scratch(|scratch| {
            // This refuses NaN and infinity, by name and place.
            rows.widen(&mut scratch.floats)?;
            let mut squares = (0.0, 0.0);
            let mut scales = Vec::new();
            scratch.bytes.clear();
            if self
                .items_of(source)
                .any(|(_, item)| item.holds == Holds::Codes)
            {
                for row in scratch.floats.chunks(row_length(width)?) {
                    let before = scratch.bytes.len();
                    let scale = int8::round(row, &mut scratch.bytes);
                    scales.extend(scale);
                    let mut back = vec![0.0; row.len()];
                    int8::widen(&scratch.bytes[before..], int8::scale(scale), &mut back);
                    for (weight, back) in row.iter().zip(&back) {
                        squares.0 += f64::from(weight - back).powi(2);
                        squares.1 += f64::from(*weight).powi(2);
                    }
                }
            }
            for (segment, item) in self.items_of(source) {
                let (row_bytes, bytes) = match item.holds {
                    Holds::Codes => (width, &*scratch.bytes),
                    Holds::Scales => (2, &*scales),
                    Holds::Same => (rows.bytes().len() as u64 / rows.rows().max(1), rows.bytes()),
                };
                io.write(segment, first * row_bytes, bytes)?;
            }
            io.progress(scratch.floats.len() as u64);
            Ok(squares)
        })
    }
}

fn row_length(width: u64) -> Result<usize> {
    usize::try_from(width.max(1))
        .map_err(|_| Failure::unsupported("a row does not fit into memory"))
}

impl FormatJob for Job {
    fn plan(&self) -> &Plan {
        &self.planned.plan
    }

    fn constant(&self, _segment: u32) -> Result<Cow<'_, [u8]>> {
        // The header is the only constant.
        Ok(Cow::Borrowed(&self.planned.header))
    }

    fn run_unit(&self, unit: u32, io: &UnitHandle) -> Result<()> {
        let planned = self
            .planned
            .plan
            .units
            .iter()
            .find(|planned| planned.unit == unit);
        let memory = planned.map_or(0, |planned| {
            planned.working_memory(io.host().facts().threads)
        });
        let _grant = io.host().grant(memory, "rounding to 8 bits")?;
        for (id, tensor) in (0_u32..)
            .zip(&self.planned.tensors)
            .filter(|(_, tensor)| tensor.unit == unit)
        {
            let job = RowJob {
                item: id,
                rows: tensor.rows(),
                row_elements: tensor.row_elements(),
                granule: 1,
            };
            let jobs = [job];
            // The cut depends on the shape alone, and the results come in order: so the figures do not depend on threads.
            let chunks = chunks(&jobs);
            let squares = io
                .host()
                .parallel_map(chunks.len(), |index| self.make(io, &chunks[index]))?;
            let (errors, weights) = squares
                .iter()
                .fold((0.0, 0.0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
            if let Some((segment, _)) = self
                .items_of(id)
                .find(|(_, item)| item.holds == Holds::Codes)
            {
                io.metric(
                    segment,
                    "relative_rms_error",
                    if errors > 0.0 {
                        (errors / weights).sqrt()
                    } else {
                        0.0
                    },
                );
            }
        }
        Ok(())
    }

    /// Re-reads what is on the disk: the host has seen to every byte of the weights already.
    fn check(&self, files: &FilesHandle) -> Result<Findings> {
        let mut header = vec![0; self.planned.header.len()];
        let planned = self.planned.plan.files.first().map(|file| file.bytes);
        let whole = files.length(WEIGHTS) == planned;
        let same = whole
            && files.read_exact(WEIGHTS, 0, &mut header).is_ok()
            && header == self.planned.header;
        Ok(Findings::new(vec![if same {
            Check::passed("structure", format!("{} tensors", self.planned.items.len()))
        } else {
            Check::failed(
                "structure",
                format!("{WEIGHTS} is not the file that was planned"),
            )
        }]))
    }

    fn service(&self, name: &str) -> Option<Arc<dyn FormatService>> {
        let decoder = self.decoder.clone()?;
        (name == DECODE).then(|| decode_service(decoder))
    }
}
