//! What the format says of its folders, for what reads packed folders of any format.

use std::ops::Range;

use qhost_folder::StoredAt;
use qhost_packed::{Content, Linear, MINIMA, Packed, Packing, SCALES, Shape, Tensors, ZEROS};
use qhost_plugin_api::{
    documents::Check,
    sdk::{Failure, FileView, Result},
};
use serde_json::{Map, Value};

use super::{
    layout::{Layout, codes_by_input, codes_of_output},
    linear, settings,
    settings::Settings,
    verify,
};

impl Packing for Settings {
    const FORMAT: &'static str = "awq";
    const LOADERS: &'static [&'static str] = &verify::LOADERS;
    const SCALES_INPUTS: bool = true;

    fn written(files: &[FileView<'_>]) -> Result<Option<(Map<String, Value>, &'static str)>> {
        settings::written(files)
    }

    fn parse(written: &Map<String, Value>, file: &'static str) -> Result<Self> {
        Self::parse(written, file)
    }

    fn version(&self) -> &'static str {
        self.layout.name()
    }

    fn needs_zeros(&self) -> bool {
        // Without them there is nothing to add.
        self.zero_point || self.layout == Layout::Fast
    }

    fn zeros_endings(&self) -> &'static [&'static str] {
        match self.layout {
            Layout::Fast => &[ZEROS, MINIMA],
            Layout::Gemm | Layout::Gemv => &[ZEROS],
        }
    }

    fn dtypes(&self) -> [&'static str; 2] {
        match self.layout {
            Layout::Fast => ["I16", "F16"],
            Layout::Gemm | Layout::Gemv => ["I32", "I32"],
        }
    }

    fn has_minima(&self) -> bool {
        self.layout == Layout::Fast
    }

    fn shape(&self, tensors: &Tensors<'_>) -> Result<Shape> {
        linear::shape(self, tensors)
    }

    fn zeros(&self, linear: &Linear, packed: &Packed<'_>, group: usize, first: usize, out: &mut [f32]) {
        linear::zeros(self.layout, linear, packed, group, first, out);
    }

    fn codes(&self, linear: &Linear, packed: &Packed<'_>, rows: &Range<usize>, out: &mut [u8]) {
        let Shape { inputs, outputs, .. } = linear.shape;
        if self.layout == Layout::Gemm {
            return codes_by_input(packed.codes, outputs, inputs, rows.start, out);
        }
        for (output, out) in rows.clone().zip(out.chunks_exact_mut(inputs)) {
            codes_of_output(self.layout, packed.codes, output, out);
        }
    }

    fn checks(content: &Content<'_, Self>) -> Vec<Check> {
        verify::checks(content)
    }

    fn loads(content: &Content<'_, Self>, loader: &str) -> std::result::Result<(), String> {
        verify::loads(content, loader)
    }

    fn keeps_scales(loader: &str) -> bool {
        // They are of the type in which the model runs.
        loader != "sglang"
    }

    fn orphan(tensor: &StoredAt, module: &str) -> Failure {
        if tensor.name.ends_with(SCALES) && tensor.shape.len() == 1 {
            return Failure::unsupported("an activation is divided by scales of its own")
                .about(&*tensor.name)
                .hint("AutoAWQ does that where it cannot fold them into weights; no other program reads it");
        }
        Failure::corrupt(format!("its tensor {module}.qweight is not there")).about(module)
    }
}
