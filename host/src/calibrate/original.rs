//! The original model beside the one with substitutes: its own hidden states, and what is kept within its layer.
//!
//! It goes through a layer batch by batch before the other does, so that what both read in one place can be compared.
//! It is there only where a plan asks for that.

use std::path::{Path, PathBuf};

use qhost_compute::Device;

use super::{Batch, Error, HiddenStates, Input, Interruption, Kept, Observer, Stretch};

/// A model on its way through a layer.
pub(super) struct Chain<'a> {
    /// The states before the layer, which may become those after it.
    pub(super) states: &'a mut HiddenStates,
    /// What is kept within it.
    pub(super) kept: &'a mut Kept,
    /// The part of the layer that is run.
    pub(super) stretch: Stretch,
}

/// The original model.
#[derive(Debug)]
pub(super) struct Original {
    pub(super) states: HiddenStates,
    pub(super) kept: Kept,
}

impl Original {
    /// Its states become those of the other model.
    pub(super) fn copy(&mut self, from: &HiddenStates) -> Result<(), Error> {
        for batch in Batch::cut(from.lengths()) {
            self.states.write(&batch, &from.read(&batch)?)?;
        }
        Ok(())
    }
}

/// The snapshot of the original model's states, which lies beside that of the others.
#[must_use]
pub fn snapshot_of_original(snapshot: &Path) -> PathBuf {
    let mut name = snapshot.as_os_str().to_owned();
    name.push("-original");
    name.into()
}

/// Shows an observer the inputs of the original model.
pub(super) struct Shown<'o, D: Device>(pub(super) &'o mut dyn Observer<D>);

impl<D: Device> Observer<D> for Shown<'_, D> {
    fn look(&mut self, device: &D, input: &Input<'_, D>) -> Result<(), Interruption> {
        self.0.look_at_original(device, input)
    }
}

/// The input of a group in the original model, and the stream there, of the batch at work.
#[derive(Debug)]
pub(super) struct Counterpart<D: Device> {
    numbers: D::Buffer,
    stream: Option<D::Buffer>,
}

impl<D: Device> Counterpart<D> {
    pub(super) fn of(device: &D, input: &Input<'_, D>) -> Result<Self, Error> {
        let numbers = copied(device, input.numbers)?;
        Ok(Self { numbers, stream: input.stream.map(|stream| copied(device, stream)).transpose()? })
    }

    /// What the original model reads more than the other, in the other's rows.
    pub(super) fn input_minus(&self, device: &D, input: &Input<'_, D>) -> Result<D::Buffer, Error> {
        let mut difference = match input.rows {
            Some(rows) => device.gather(&self.numbers, input.width, rows)?,
            None => copied(device, &self.numbers)?,
        };
        device.add(&mut difference, -1.0, input.numbers)?;
        Ok(difference)
    }

    /// What its stream has more than the other's.
    pub(super) fn stream_minus(&self, device: &D, stream: &D::Buffer) -> Result<Option<D::Buffer>, Error> {
        let Some(own) = &self.stream else { return Ok(None) };
        let mut difference = copied(device, own)?;
        device.add(&mut difference, -1.0, stream)?;
        Ok(Some(difference))
    }
}

fn copied<D: Device>(device: &D, numbers: &D::Buffer) -> Result<D::Buffer, Error> {
    let mut copy = device.zeros(device.length(numbers))?;
    device.add(&mut copy, 1.0, numbers)?;
    Ok(copy)
}
