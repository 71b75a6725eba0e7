//! Parquet: the columns `text`, `messages` (with `tools`) and `input_ids` of a file, row by row.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
    sync::Arc,
    thread,
};

use minijinja::Value as Jinja;
use parquet::{
    errors::ParquetError,
    file::reader::{FileReader, SerializedFileReader},
    record::{Field, Row},
    schema::types::Type,
};

use super::{
    Error,
    documents::{Collector, Written},
    error::Place,
};

const WANTED: [&str; 4] = ["text", "messages", "tools", "input_ids"];

/// The longest description of a file: data sets have some kilobytes for each file.
const LONGEST_FOOTER: u64 = 4 << 20;

/// Stack for what the library does, and for each byte of the description: a group within a group takes five of them, and
/// the library goes through groups by calling itself.
const STACK: usize = 8 << 20;
const STACK_PER_BYTE: usize = 1024;

/// Reads a file, and tells whether more rows are wanted.
///
/// One damaged file in a thousand makes the library panic instead of telling an error (release 60.1); it is an error
/// here all the same, and nothing of what was read is used after it.
pub(super) fn read(path: &Path, collector: &mut Collector) -> Result<bool, Error> {
    let bad = |reason: String| Error::BadParquet { path: path.to_owned(), reason };
    let footer = footer(path)?;
    let length = usize::try_from(footer).ok().filter(|_| footer <= LONGEST_FOOTER);
    let length = length.ok_or_else(|| bad(format!("it says that it takes {footer} bytes to describe itself")))?;
    thread::scope(|scope| {
        let reading = thread::Builder::new().stack_size(STACK + length * STACK_PER_BYTE);
        let reading = reading.spawn_scoped(scope, || read_rows(path, collector));
        let outcome = reading.map_err(|error| bad(format!("there is no room for its description: {error}")))?.join();
        outcome.unwrap_or_else(|_| Err(bad("its parts contradict each other".into())))
    })
}

/// The length of the description at the end of a file, as the file says it: four bytes before the last four.
fn footer(path: &Path) -> Result<u64, Error> {
    let mut file = File::open(path).map_err(Error::unreadable(path))?;
    let mut length = [0; 4];
    match file.seek(SeekFrom::End(-8)) {
        Ok(_) => file.read_exact(&mut length).map_err(Error::unreadable(path))?,
        // It is shorter, which the library says better.
        Err(_) => return Ok(0),
    }
    Ok(u32::from_le_bytes(length).into())
}

fn read_rows(path: &Path, collector: &mut Collector) -> Result<bool, Error> {
    let bad = |error: ParquetError| Error::BadParquet { path: path.to_owned(), reason: error.to_string() };
    let file = File::open(path).map_err(Error::unreadable(path))?;
    let reader = SerializedFileReader::new(file).map_err(bad)?;
    let projection = projection(path, reader.metadata().file_metadata().schema())?;
    for (row, record) in (1..).zip(reader.get_row_iter(Some(projection)).map_err(bad)?) {
        let record = record.map_err(bad)?;
        let written = written(record).map_err(|reason| Error::BadRow {
            place: Place { path: path.to_owned(), row },
            reason: reason.to_owned(),
        })?;
        if !collector.take(path, row, written)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The part of the schema that is of use.
fn projection(path: &Path, schema: &Type) -> Result<Type, Error> {
    let columns = schema.get_fields();
    let named = |names: &[&str]| -> Vec<Arc<Type>> {
        columns.iter().filter(|column| names.contains(&column.name())).cloned().collect()
    };
    if named(&["text", "messages", "input_ids"]).is_empty() {
        let columns = columns.iter().map(|column| column.name().to_owned()).collect();
        return Err(Error::NoColumn { path: path.to_owned(), columns });
    }
    let projection = Type::group_type_builder(schema.name()).with_fields(named(&WANTED)).build();
    projection.map_err(|error| Error::BadParquet { path: path.to_owned(), reason: error.to_string() })
}

fn written(record: Row) -> Result<Written, &'static str> {
    let mut written = Written::default();
    for (name, field) in record.into_columns() {
        match (name.as_str(), field) {
            (_, Field::Null) => {}
            ("text", Field::Str(text)) => written.text = Some(text),
            ("text", _) => return Err("its text is none"),
            ("messages", field) => written.messages = Some(value(field)),
            ("tools", field) => written.tools = Some(value(field)),
            (_, Field::ListInternal(ids)) => {
                let ids = ids.elements().iter().map(token).collect::<Option<_>>();
                written.input_ids = Some(ids.ok_or("its input_ids are not numbers of tokens")?);
            }
            _ => return Err("its input_ids are no list"),
        }
    }
    Ok(written)
}

fn token(field: &Field) -> Option<u64> {
    match *field {
        Field::Byte(id) => u64::try_from(id).ok(),
        Field::Short(id) => u64::try_from(id).ok(),
        Field::Int(id) => u64::try_from(id).ok(),
        Field::Long(id) => u64::try_from(id).ok(),
        Field::UByte(id) => Some(id.into()),
        Field::UShort(id) => Some(id.into()),
        Field::UInt(id) => Some(id.into()),
        Field::ULong(id) => Some(id),
        _ => None,
    }
}

/// A field as a template sees it.
fn value(field: Field) -> Jinja {
    match field {
        Field::Null => Jinja::from(()),
        Field::Bool(value) => value.into(),
        Field::Byte(value) => value.into(),
        Field::Short(value) => value.into(),
        Field::Int(value) => value.into(),
        Field::Long(value) => value.into(),
        Field::UByte(value) => value.into(),
        Field::UShort(value) => value.into(),
        Field::UInt(value) => value.into(),
        Field::ULong(value) => value.into(),
        Field::Float(value) => value.into(),
        Field::Double(value) => value.into(),
        Field::Str(text) => text.into(),
        Field::Group(row) => {
            Jinja::from_pairs(row.into_columns().into_iter().map(|(name, field)| (name, value(field))))
        }
        Field::ListInternal(list) => list.elements().iter().cloned().map(value).collect(),
        Field::MapInternal(map) => {
            Jinja::from_pairs(map.entries().iter().map(|(key, field)| (value(key.clone()), value(field.clone()))))
        }
        // Days, times and decimals, which no conversation has.
        other => other.to_string().into(),
    }
}
