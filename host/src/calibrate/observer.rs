//! Looking at the inputs of linears while a layer runs.

use qhost_compute::Device;
use qhost_plugin_api::documents::InputGroup;

use super::{Batch, Error};

/// The input of a group of linears.
#[derive(Debug)]
pub struct Input<'a, D: Device> {
    /// Which linears read it.
    pub group: InputGroup,
    /// Of which expert, if it is one's.
    pub expert: Option<u32>,
    /// The numbers, `[rows, width]`.
    pub numbers: &'a D::Buffer,
    /// Numbers in a row.
    pub width: usize,
    /// The rows of the batch that these are; all, in order, if absent.
    pub rows: Option<&'a [u32]>,
    /// The residual stream that what the linear of this input gives is added to, before that; none where something is
    /// done to it on the way, or several linears read the input.
    pub stream: Option<&'a D::Buffer>,
    /// The batch.
    pub batch: &'a Batch,
}

/// Why a layer did not run to its end.
#[derive(Debug)]
pub enum Interruption {
    /// The observer has seen enough.
    Enough,
    /// Something went wrong.
    Failed(Error),
}

impl Interruption {
    /// What went wrong; an interruption that was wanted is none where nobody wanted one.
    pub(super) fn error(self) -> Error {
        match self {
            Self::Enough => Error::Interrupted,
            Self::Failed(error) => error,
        }
    }
}

impl<E: Into<Error>> From<E> for Interruption {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Looks at inputs.
pub trait Observer<D: Device> {
    /// Looks at one.
    ///
    /// # Errors
    /// Fails when the layer need not, or must not, run on.
    fn look(&mut self, device: &D, input: &Input<'_, D>) -> Result<(), Interruption>;

    /// Looks at the same input in the original model, where that is run beside one with substitutes: for every batch
    /// all of them come first.
    ///
    /// # Errors
    /// Fails when the layer need not, or must not, run on.
    fn look_at_original(&mut self, _: &D, _: &Input<'_, D>) -> Result<(), Interruption> {
        Ok(())
    }
}

/// Nobody looks.
#[derive(Debug)]
pub struct Nobody;

impl<D: Device> Observer<D> for Nobody {
    fn look(&mut self, _: &D, _: &Input<'_, D>) -> Result<(), Interruption> {
        Ok(())
    }
}
