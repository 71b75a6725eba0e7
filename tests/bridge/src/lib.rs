//! A plugin without a format: it makes of the blocks of the format `nibble` what others take, and the other way round.
//! Tests of conversions have it beside formats that know nothing of each other, and nothing of it.

use std::sync::Arc;

use half::f16;
use qhost_plugin_api::{
    documents::{Description, Encoding, EncodingPattern, Fidelity, OpenRequest, Transcoding},
    sdk::{
        Failure, FilesHandle, Format, FormatService, HostHandle, NoJob, Planes, Result, TRANSCODE, Transcoder,
        transcode_service,
    },
};

/// What the plugin `nibble` calls its blocks.
const BLOCKS: &str = "nibble/blocks";

/// Weights of a block, and its bytes: a scale in f16, and two codes in each byte, the first in the low bits.
const BLOCK: usize = 32;
const BYTES: usize = 18;

/// The plugin.
pub struct Bridge;

fn grouped() -> Encoding {
    Encoding::affine(4, BLOCK as u64, [8, 8], "F16")
}

impl Format for Bridge {
    type Job = NoJob;

    fn connect(_: HostHandle) -> Result<Self> {
        Ok(Self)
    }

    fn describe(&self) -> Description {
        let mut description = Description::new(Vec::new());
        let taken =
            EncodingPattern::new(Encoding::AFFINE).bits([4]).around_one_zero(-8, 7).dtypes(&["F16"]).permuted(false);
        description.transcodes.push(Transcoding::new(EncodingPattern::new(BLOCKS), grouped(), Fidelity::exact()));
        // Groups of another size are repeated, or do not fit.
        let blocks = Encoding::own(BLOCKS, BLOCK as u64, BYTES as u64);
        description.transcodes.push(Transcoding::new(taken.groups_of(BLOCK as u64), blocks, Fidelity::exact()));
        description
    }

    fn open(&self, _: OpenRequest, _: FilesHandle) -> Result<NoJob> {
        Err(Failure::unsupported("it has no format"))
    }

    fn service(&self, name: &str) -> Option<Arc<dyn FormatService>> {
        (name == TRANSCODE).then(|| transcode_service(Arc::new(Ways)))
    }
}

struct Ways;

impl Transcoder for Ways {
    fn planes(&self, from: &Planes, to: &mut Planes) -> Result<()> {
        match (from.encoding().kind.as_str(), to.encoding().kind.as_str()) {
            (BLOCKS, Encoding::AFFINE) => to_groups(from, to),
            (Encoding::AFFINE, BLOCKS) => to_blocks(from, to),
            (from, to) => Err(Failure::unsupported(format!("there is no way from {from} to {to}"))),
        }
    }
}

fn to_groups(from: &Planes, to: &mut Planes) -> Result<()> {
    let blocks = from.bytes.as_chunks::<BYTES>().0;
    if blocks.len() * BLOCK != to.bytes.len() || blocks.len() != to.scales.len() {
        return Err(Failure::corrupt("the blocks are not those of the rows"));
    }
    for ((block, codes), scale) in blocks.iter().zip(to.bytes.as_chunks_mut::<BLOCK>().0).zip(&mut to.scales) {
        *scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        for (pair, codes) in block[2..].iter().zip(codes.as_chunks_mut::<2>().0) {
            *codes = [pair & 15, pair >> 4];
        }
    }
    to.offsets.fill(8.0);
    Ok(())
}

fn to_blocks(from: &Planes, to: &mut Planes) -> Result<()> {
    let blocks = to.bytes.as_chunks_mut::<BYTES>().0;
    if blocks.len() * BLOCK != from.bytes.len() {
        return Err(Failure::corrupt("the blocks are not those of the rows"));
    }
    let width = from.inputs();
    for (index, (block, codes)) in blocks.iter_mut().zip(from.bytes.as_chunks::<BLOCK>().0).enumerate() {
        let (row, input) = (index * BLOCK / width, index * BLOCK % width);
        let group = row * from.groups() + from.group_of(input);
        block[..2].copy_from_slice(&f16::from_f32(from.scales[group]).to_le_bytes());
        for (pair, [low, high]) in block[2..].iter_mut().zip(codes.as_chunks::<2>().0) {
            *pair = low | high << 4;
        }
    }
    Ok(())
}

qhost_plugin_api::export_plugin! {
    id: "bridge",
    summary: "Leads from the format nibble to others",
    api: "^1.0",
    formats: [],
    transcodes: [{ from: "nibble/blocks", to: "grouped-affine" }, { from: "grouped-affine", to: "nibble/blocks" }],
    plugin: Bridge,
}
