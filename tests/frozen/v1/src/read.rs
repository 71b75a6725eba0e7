//! Reading: what is in a file, and its weights as floats and as blocks.

use qhost_plugin_api::{
    documents::{
        Check, Encoding, Findings, NamedParameter, Numbers, OpenRequest, Origin, Reading, Recognition, StoredTensor,
        TextFile,
    },
    sdk::{DType, Failure, FileReader, FileView, Planes, Result, RowDecoder, widen},
};

use crate::{
    BLOCKS,
    blocks::{self, BLOCK, BYTES},
    file::{Header, MAGIC},
};

/// Reads files.
pub(crate) struct Reader;

fn header(files: &[FileView<'_>]) -> Result<(Header, u64)> {
    let file = files.first().ok_or_else(|| Failure::internal("there is no file"))?;
    Header::read(file.bytes).map_err(|failure| failure.about(file.name))
}

impl FileReader for Reader {
    fn recognise(&self, files: &[FileView<'_>]) -> Result<Recognition> {
        let is_one = files.first().is_some_and(|file| file.bytes.starts_with(MAGIC));
        Ok(Recognition::new(is_one.then(|| "frozen-v1".to_owned())))
    }

    fn open(&self, files: &[FileView<'_>], _: Option<u64>) -> Result<Reading> {
        let (header, start) = header(files)?;
        let tensor = |tensor: &crate::file::Stored| {
            let place = start.saturating_add(tensor.offset);
            StoredTensor::new(&*tensor.name, &*tensor.encoding, tensor.shape.clone()).at(0, place, tensor.bytes)
        };
        let length = files.first().map_or(0, |file| file.bytes.len() as u64);
        let within = |tensor: &crate::file::Stored| {
            start
                .checked_add(tensor.offset)
                .and_then(|at| at.checked_add(tensor.bytes))
                .is_some_and(|end| end <= length)
        };
        if let Some(cut) = header.tensors.iter().find(|tensor| !within(tensor)) {
            return Err(Failure::corrupt("it is not in the file").about(&*cut.name).hint("the file is cut short"));
        }
        let mut reading = Reading::new("frozen-v1", header.tensors.iter().map(tensor).collect());
        reading.level = Some("q4".into());
        Ok(reading)
    }

    fn source(&self, files: &[FileView<'_>]) -> Result<Origin> {
        let (header, _) = header(files)?;
        let mut origin = Origin::new(header.config.clone());
        origin.companions.push(TextFile::new("config.json", header.config.to_string()));
        origin.companions.extend(header.companions.into_iter().map(|(name, text)| TextFile::new(name, text)));
        let parameter = |tensor: &crate::file::Stored| NamedParameter::new(&*tensor.name, tensor.shape.clone());
        origin.parameters = header.tensors.iter().map(parameter).collect();
        Ok(origin)
    }

    fn check(&self, files: &[FileView<'_>], _: Option<&str>) -> Result<Findings> {
        header(files)?;
        Ok(Findings::new(vec![Check::passed("structure", "a header and tensors")]))
    }

    fn numbers(&self, _: &str, _: &str, _: &[u8]) -> Result<Numbers> {
        Ok(Numbers::Unknown)
    }
}

/// The weights of a file.
pub(crate) struct Decoding {
    /// For every tensor of the model.
    tensors: Vec<StoredTensor>,
}

impl Decoding {
    pub(crate) fn open(request: &OpenRequest) -> Result<Self> {
        let existing = request.existing.as_ref().ok_or_else(|| Failure::internal("there are no files"))?;
        let find = |name: &str| existing.tensors.iter().find(|tensor| tensor.name == name).cloned();
        let missing = |name: &str| Failure::corrupt("it is not in the file").about(name.to_owned());
        let tensors =
            request.model.tensors.iter().map(|tensor| find(&tensor.name).ok_or_else(|| missing(&tensor.name)));
        Ok(Self { tensors: tensors.collect::<Result<_>>()? })
    }

    /// The bytes of rows, and whether they are blocks.
    fn bytes<'a>(&self, files: &[&'a [u8]], tensor: u32, first_row: u64, rows: u64) -> Result<(&'a [u8], bool)> {
        let lost = || Failure::corrupt("its rows are not in the file");
        let stored = self.tensors.get(tensor as usize).ok_or_else(lost)?;
        let row = stored.bytes.checked_div(stored.rows()).ok_or_else(lost)?;
        let start = usize::try_from(stored.offset + first_row * row).map_err(|_| lost())?;
        let length = usize::try_from(rows * row).map_err(|_| lost())?;
        let bytes = files.first().and_then(|file| file.get(start..)?.get(..length)).ok_or_else(lost)?;
        Ok((bytes, stored.encoding == BLOCKS))
    }
}

impl RowDecoder for Decoding {
    fn rows(&self, files: &[&[u8]], tensor: u32, first_row: u64, out: &mut [f32]) -> Result<()> {
        let stored = self.tensors.get(tensor as usize).map_or(0, |stored| stored.elements() / stored.rows().max(1));
        let (bytes, are_blocks) = self.bytes(files, tensor, first_row, out.len() as u64 / stored.max(1))?;
        if are_blocks {
            blocks::weights(bytes, out);
            return Ok(());
        }
        widen(DType::F32, bytes, out)
    }

    fn encodings(&self, _: &[&[u8]]) -> Result<Vec<Vec<Encoding>>> {
        let encodings = |tensor: &StoredTensor| {
            let own = (tensor.encoding == BLOCKS).then(|| Encoding::own(BLOCKS, BLOCK as u64, BYTES as u64));
            own.into_iter().chain([Encoding::float("F32")]).collect()
        };
        Ok(self.tensors.iter().map(encodings).collect())
    }

    fn planes(&self, files: &[&[u8]], tensor: u32, first_row: u64, planes: &mut Planes) -> Result<()> {
        let (bytes, _) = self.bytes(files, tensor, first_row, planes.rows() as u64)?;
        planes.bytes.copy_from_slice(bytes);
        Ok(())
    }
}
