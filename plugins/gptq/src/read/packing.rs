//! What the format says of its folders, for what reads packed folders of any format.

use std::ops::Range;

use qhost_packed::{Content, Linear, Packed, Packing, Shape, Tensors};
use qhost_plugin_api::{
    documents::Check,
    sdk::{FileView, Result},
};
use serde_json::{Map, Value};

use super::{
    linear, settings,
    settings::{Settings, Version},
    unpack, verify,
};

impl Packing for Settings {
    const FORMAT: &'static str = "gptq";
    const LOADERS: &'static [&'static str] = &verify::LOADERS;

    fn written(files: &[FileView<'_>]) -> Result<Option<(Map<String, Value>, &'static str)>> {
        settings::written(files)
    }

    fn parse(written: &Map<String, Value>, file: &'static str) -> Result<Self> {
        Self::parse(written, file)
    }

    fn version(&self) -> &'static str {
        self.version.name()
    }

    fn needs_zeros(&self) -> bool {
        true
    }

    fn shape(&self, tensors: &Tensors<'_>) -> Result<Shape> {
        linear::shape(self, tensors)
    }

    fn zeros(&self, linear: &Linear, packed: &Packed<'_>, group: usize, first: usize, out: &mut [f32]) {
        let words = linear::zero_words(linear, packed.zeros.unwrap_or_default(), group);
        unpack::zeros(words, linear.shape.bits, self.version, first, out);
        if self.symmetric && self.version == Version::V1 {
            // Some writers store symmetric zero points as they are, and say version 1 all the same. Programs that rely on
            // the symmetry do not notice; taken at its word, all weights would be off by a scale.
            let middle = f32::from(1_u16 << (linear.shape.bits - 1));
            for zero in out.iter_mut().filter(|zero| zero.to_bits() == (middle + 1.0).to_bits()) {
                *zero = middle;
            }
        }
    }

    fn codes(&self, linear: &Linear, packed: &Packed<'_>, rows: &Range<usize>, out: &mut [u8]) {
        linear::codes(self.version, linear, packed.codes, rows, out);
    }

    fn checks(content: &Content<'_, Self>) -> Vec<Check> {
        verify::checks(content)
    }

    fn loads(content: &Content<'_, Self>, loader: &str) -> std::result::Result<(), String> {
        verify::loads(content, loader)
    }

    fn keeps_scales(loader: &str) -> bool {
        loader == "gptqmodel"
    }
}
