//! What the format says of its folders, for what reads packed folders of any format.

use std::ops::Range;

use qhost_folder::{Folder, StoredAt};
use qhost_packed::{Content, Endings, Linear, Packed, Packing, Shape, Tensors};
use qhost_plugin_api::{
    documents::Check,
    sdk::{FileView, Result},
};
use serde_json::{Map, Value};

use super::{linear, settings, settings::Settings, verify};
use crate::{config::LAYOUT, format::FORMAT};

/// The ending of the name of zero points.
pub(super) const ZEROS: &str = ".weight_zero_point";
/// The ending of the name of the groups of inputs.
pub(super) const ORDER: &str = ".weight_g_idx";
/// The ending of the name of scales.
const SCALES: &str = ".weight_scale";

impl Packing for Settings {
    const FORMAT: &'static str = FORMAT;
    const LOADERS: &'static [&'static str] = &verify::LOADERS;
    const ENDINGS: Endings = Endings {
        codes: ".weight_packed",
        scales: SCALES,
        order: ORDER,
        beside: &[ZEROS, SCALES, ORDER, linear::LENGTHS],
    };

    fn written(files: &[FileView<'_>]) -> Result<Option<(Map<String, Value>, &'static str)>> {
        settings::written(files)
    }

    fn parse(written: &Map<String, Value>, file: &'static str) -> Result<Self> {
        Self::parse(written, file)
    }

    fn version(&self) -> &'static str {
        LAYOUT
    }

    fn needs_zeros(&self) -> bool {
        false
    }

    fn zeros_endings(&self) -> &'static [&'static str] {
        &[ZEROS]
    }

    fn told_weights(folder: &Folder<'_>, module: &str, codes: &StoredAt) -> Result<Option<u64>> {
        linear::told_weights(folder, module, codes)
    }

    fn shape(&self, tensors: &Tensors<'_>) -> Result<Shape> {
        linear::shape(self, tensors)
    }

    fn zeros(&self, linear: &Linear, packed: &Packed<'_>, group: usize, first: usize, out: &mut [f32]) {
        linear::zeros(linear, packed.zeros, group, first, out);
    }

    fn codes(&self, linear: &Linear, packed: &Packed<'_>, rows: &Range<usize>, out: &mut [u8]) {
        linear::codes(linear, packed.codes, rows, out);
    }

    fn checks(content: &Content<'_, Self>) -> Vec<Check> {
        verify::checks(content)
    }

    fn loads(content: &Content<'_, Self>, loader: &str) -> std::result::Result<(), String> {
        verify::loads(content, loader)
    }

    fn keeps_scales(_: &str) -> bool {
        // They are read in the type of the model, whatever they are stored as.
        true
    }
}
