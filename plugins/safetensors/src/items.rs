//! What the folder holds: for every tensor of the model its name, type and shape there.
//!
//! It knows roles and shapes, and no files.

use qhost_folder::Tensor;
use qhost_plugin_api::{
    documents::{BoundOf, Fidelity, Model, RoleKind, SourceTensor, TensorSegment},
    sdk::{Failure, Result},
};

use crate::{
    float_type::FloatType,
    level::{stays_wide, stored},
    names,
    orientation::rows_are_inputs,
};

/// What turning a matrix costs for a weight more than copying it, in nanoseconds.
const TURNING: f64 = 2.0;

/// A tensor of the folder.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    /// Its name.
    pub(crate) name: String,
    /// The source tensor.
    pub(crate) tensor: u32,
    /// The unit that it belongs to.
    pub(crate) unit: u32,
    /// The type in which it is lent.
    pub(crate) from: FloatType,
    /// The type in which it is stored.
    pub(crate) to: FloatType,
    /// Its shape, outermost dimension first.
    pub(crate) shape: Vec<u64>,
    /// Whether the last two dimensions are the other way round in the source.
    pub(crate) turned: bool,
    /// Where it goes.
    pub(crate) segment: u32,
}

impl Item {
    fn of(model: &Model, id: u32, tensor: &SourceTensor, level: FloatType, nested: bool) -> Result<Self> {
        let stacked = matches!(tensor.role.kind, RoleKind::ExpertsGateUp | RoleKind::ExpertsDown);
        let named = if nested { names::alone(&tensor.name) } else { tensor.name.clone() };
        let inputs_first = rows_are_inputs(&model.family, &tensor.role);
        let of_floats = names::of_blocks(&named).filter(|_| stacked);
        if of_floats.is_some() && !inputs_first {
            let message = format!("how `{}` stores such experts as floats is not known to this plugin", model.family);
            return Err(Failure::unsupported(message).about(&*tensor.name).hint("use a newer version of the plugin"));
        }
        let turned = inputs_first && !tensor.transposed;
        let mut shape = tensor.shape.clone();
        match shape.as_mut_slice() {
            [.., outputs, inputs] if turned => std::mem::swap(outputs, inputs),
            _ if turned => {
                return Err(
                    Failure::unsupported(format!("has the shape {shape:?}, which is no matrix")).about(&*tensor.name)
                );
            }
            _ => {}
        }
        Ok(Self {
            name: of_floats.unwrap_or(&named).to_owned(),
            tensor: id,
            unit: tensor.unit,
            from: stored(tensor)?,
            to: if stays_wide(tensor) { FloatType::F32 } else { level },
            shape,
            turned,
            segment: 0,
        })
    }

    /// The number of weights.
    pub(crate) fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// The length of a row in the source, and the number of rows.
    pub(crate) fn source_rows(&self) -> (u64, u64) {
        let elements = self.elements();
        let row = match self.shape.as_slice() {
            [.., inputs, _] if self.turned => *inputs,
            [.., last] => *last,
            [] => 1,
        };
        (row, elements.checked_div(row).unwrap_or(0))
    }

    /// How a weight is stored, for the layout.
    pub(crate) fn placed(&self) -> Tensor {
        Tensor::new(&*self.name, self.to.name(), self.shape.clone())
    }

    /// Whether storing changes no weight, for all that is known.
    pub(crate) fn is_exact(&self) -> bool {
        self.to.holds(self.from)
    }

    /// What the host is told of it.
    pub(crate) fn planned(&self, level: FloatType) -> TensorSegment {
        let mut made = TensorSegment::new(&*self.name, self.unit, vec![self.tensor], self.to.name(), self.elements());
        made.cost = Some(self.cost());
        made.fidelity = Some(if self.is_exact() {
            Fidelity::exact()
        } else {
            Fidelity::rounded(self.to.rounding(), BoundOf::Weight)
        });
        if self.to != level {
            made.fallback = Some("numbers that decide between experts stay in 32 bits, as loaders have them".into());
            made.instead_of = Some(level.name().into());
        }
        made
    }

    /// Nanoseconds for a weight on a core of the reference machine, from lending it to checking what was written.
    ///
    /// Measured on a checkpoint of 201 million random weights, in `F32` and in `BF16`, as the processor time of a whole run
    /// with one thread, less what the host needs for the bytes.
    fn cost(&self) -> f64 {
        let made = match (self.is_exact(), self.to) {
            (false, _) => 4.2,
            (true, FloatType::F32) => 4.0,
            (true, _) => 2.4,
        };
        if self.turned { made + TURNING } else { made }
    }
}

/// Every tensor of a model; of a larger model the language model alone.
///
/// # Errors
/// Fails with kind `UNSUPPORTED` for what this plugin does not know how to store.
pub(crate) fn items(model: &Model, level: FloatType, nested: bool) -> Result<Vec<Item>> {
    (0..).zip(&model.tensors).map(|(id, tensor)| Item::of(model, id, tensor, level, nested)).collect()
}
