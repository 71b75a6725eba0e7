//! What a format says of its folders.

use std::ops::Range;

use qhost_folder::{Folder, StoredAt};
use qhost_plugin_api::{
    documents::Check,
    sdk::{Failure, FileView, Result},
};
use serde_json::{Map, Value};

use crate::{Content, Endings, Linear, Packed, Shape, Tensors, ZEROS};

/// The settings of a folder, and how its linears are packed by them.
pub trait Packing: Clone + Send + Sync + 'static {
    /// The format's id.
    const FORMAT: &'static str;
    /// The programs that load such folders.
    const LOADERS: &'static [&'static str];
    /// Whether writers of the format scale inputs of linears, and divide what comes before by the scales.
    const SCALES_INPUTS: bool = false;
    /// What the names of a linear's tensors end in.
    const ENDINGS: Endings = Endings::USUAL;

    /// The settings as they are written, and the file that has them; none if the folder is of another format.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` when one of the files is no JSON.
    fn written(files: &[FileView<'_>]) -> Result<Option<(Map<String, Value>, &'static str)>>;

    /// Understands the settings that a file has.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` for values that are impossible, and with `UNSUPPORTED` for layouts that are not the
    /// format's.
    fn parse(written: &Map<String, Value>, file: &'static str) -> Result<Self>;

    /// Which of the format's layouts this is, in the format's own word.
    fn version(&self) -> &'static str;

    /// Whether every linear has zero points; else what they are is settled.
    fn needs_zeros(&self) -> bool;

    /// What the name of their tensor may end in; the first that is there counts.
    fn zeros_endings(&self) -> &'static [&'static str] {
        &[ZEROS]
    }

    /// The safetensors dtypes of codes and of zero points.
    fn dtypes(&self) -> [&'static str; 2] {
        ["I32", "I32"]
    }

    /// Whether minima are stored in the place of zero points: a weight is scale × code + minimum then.
    fn has_minima(&self) -> bool {
        false
    }

    /// How many weights the codes of a linear stand for, where a tensor of its own tells that; `module` is its name.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT`, naming the tensor, when it tells what cannot be.
    fn told_weights(folder: &Folder<'_>, module: &str, codes: &StoredAt) -> Result<Option<u64>> {
        let _ = (folder, module, codes);
        Ok(None)
    }

    /// What the shapes of a linear's tensors say, held against the settings.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT`, naming the tensor, when one has an impossible shape.
    fn shape(&self, tensors: &Tensors<'_>) -> Result<Shape>;

    /// The zero points, or the minima, of outputs from `first` on, as many as there is room for, of one group.
    fn zeros(&self, linear: &Linear, packed: &Packed<'_>, group: usize, first: usize, out: &mut [f32]);

    /// Fills `out` with the codes of rows of a linear's weight, one row for each output of the range.
    ///
    /// The bytes are as long as the tensors are, and the rows are within the linear.
    fn codes(&self, linear: &Linear, packed: &Packed<'_>, rows: &Range<usize>, out: &mut [u8]);

    /// The checks of the format's own, after that of the structure; those that make no sense after a failed one are left
    /// out.
    fn checks(content: &Content<'_, Self>) -> Vec<Check>;

    /// Why one of the programs does not load a folder that has all the files that it asks for.
    ///
    /// # Errors
    /// Fails with the reason.
    fn loads(content: &Content<'_, Self>, loader: &str) -> std::result::Result<(), String>;

    /// Whether a program takes scales as they are stored, whatever their dtype; else it reads them as binary16.
    fn keeps_scales(loader: &str) -> bool;

    /// What to say of a tensor that looks like a part of a packed linear that is not there.
    fn orphan(tensor: &StoredAt, module: &str) -> Failure {
        let _ = tensor;
        Failure::corrupt(format!("its tensor {module}{} is not there", Self::ENDINGS.codes)).about(module)
    }
}
