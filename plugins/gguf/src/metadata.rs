//! The key-value section of a GGUF file: typed values, their bytes, and reading them back.
//!
//! Layout per pair (GGUF v3, little-endian): key as a string, `u32` type tag, value. A string is a
//! `u64` byte length and UTF-8 bytes; an array is a `u32` element tag, a `u64` count and the elements.
//! It knows the container only: no key has a meaning here, and no file is opened.

use std::collections::HashMap;

use qhost_plugin_api::sdk::{Failure, Result};

use crate::cursor::Cursor;

/// A metadata value. The names are those of the GGUF specification's types.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "each variant is its own name")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// Elements of one type, stored without a tag per element: vocabularies have hundreds of thousands.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "each variant is its own name")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<String>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

mod tag {
    pub(super) const U8: u32 = 0;
    pub(super) const I8: u32 = 1;
    pub(super) const U16: u32 = 2;
    pub(super) const I16: u32 = 3;
    pub(super) const U32: u32 = 4;
    pub(super) const I32: u32 = 5;
    pub(super) const F32: u32 = 6;
    pub(super) const BOOL: u32 = 7;
    pub(super) const STRING: u32 = 8;
    pub(super) const ARRAY: u32 = 9;
    pub(super) const U64: u32 = 10;
    pub(super) const I64: u32 = 11;
    pub(super) const F64: u32 = 12;
}

/// An ordered list of keys, each with one value.
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    /// Where a key stands, so that a hostile file with millions of keys is still read in linear time.
    positions: HashMap<String, usize>,
}

impl PartialEq for Metadata {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl Metadata {
    /// No pairs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a pair.
    ///
    /// # Errors
    /// Fails with kind `INTERNAL` when the key is empty or already present: every reader of the format
    /// refuses such a file.
    pub fn push(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Result<()> {
        let key = key.into();
        if key.is_empty() {
            return Err(Failure::internal("a metadata key is empty"));
        }
        if self.positions.contains_key(&key) {
            return Err(Failure::internal(format!("the metadata key `{key}` is written twice")));
        }
        self.positions.insert(key.clone(), self.entries.len());
        self.entries.push((key, value.into()));
        Ok(())
    }

    /// Takes a key out, if it is there.
    pub(crate) fn remove(&mut self, key: &str) {
        if let Some(position) = self.positions.remove(key) {
            self.entries.remove(position);
            self.positions.values_mut().filter(|other| **other > position).for_each(|other| *other -= 1);
        }
    }

    /// Gives a key that is there another value.
    pub(crate) fn replace(&mut self, key: &str, value: impl Into<Value>) {
        if let Some(&position) = self.positions.get(key) {
            self.entries[position].1 = value.into();
        }
    }

    /// Appends all pairs of another section, in their order.
    ///
    /// # Errors
    /// As [`Metadata::push`].
    pub fn append(&mut self, other: Self) -> Result<()> {
        other.entries.into_iter().try_for_each(|(key, value)| self.push(key, value))
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.positions.get(key).map(|&position| &self.entries[position].1)
    }

    /// The pairs in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The number of pairs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no pair.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Appends the section's bytes; the pair count stands in the file's header, not here.
    pub fn write(&self, out: &mut Vec<u8>) {
        for (key, value) in &self.entries {
            write_string(key, out);
            value.write(out);
        }
    }

    /// Reads `count` pairs from where a cursor stands.
    ///
    /// Nothing is allocated for a length before it is checked against the bytes that are left, so memory
    /// stays within a small multiple of them.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` when the bytes end early, a key comes twice or is not UTF-8, or a type is
    /// unknown; arrays of arrays, which no writer produces, are refused as well. Values that are not UTF-8 are
    /// read as llama.cpp reads them, without a complaint; here their bad bytes are replaced.
    pub(crate) fn read(cursor: &mut Cursor<'_>, count: u64) -> Result<Self> {
        let mut metadata = Self::new();
        for index in 0..count {
            let key = cursor.string().map_err(|failure| failure.about(format!("metadata key {index}")))?;
            let value = cursor.value().map_err(|failure| failure.about(format!("metadata `{key}`")))?;
            metadata.push(key, value).map_err(|failure| Failure::corrupt(failure.message))?;
        }
        Ok(metadata)
    }
}

impl Value {
    /// The value as an unsigned number, whichever integer type holds it.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(value) => Some(value.into()),
            Self::U16(value) => Some(value.into()),
            Self::U32(value) => Some(value.into()),
            Self::U64(value) => Some(value),
            Self::I8(value) => value.try_into().ok(),
            Self::I16(value) => value.try_into().ok(),
            Self::I32(value) => value.try_into().ok(),
            Self::I64(value) => value.try_into().ok(),
            _ => None,
        }
    }

    /// The value as text.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let (tag, bytes): (u32, &[u8]) = match self {
            Self::U8(value) => (tag::U8, &value.to_le_bytes()),
            Self::I8(value) => (tag::I8, &value.to_le_bytes()),
            Self::U16(value) => (tag::U16, &value.to_le_bytes()),
            Self::I16(value) => (tag::I16, &value.to_le_bytes()),
            Self::U32(value) => (tag::U32, &value.to_le_bytes()),
            Self::I32(value) => (tag::I32, &value.to_le_bytes()),
            Self::F32(value) => (tag::F32, &value.to_le_bytes()),
            Self::Bool(value) => (tag::BOOL, &[u8::from(*value)]),
            Self::U64(value) => (tag::U64, &value.to_le_bytes()),
            Self::I64(value) => (tag::I64, &value.to_le_bytes()),
            Self::F64(value) => (tag::F64, &value.to_le_bytes()),
            Self::String(text) => {
                out.extend(tag::STRING.to_le_bytes());
                write_string(text, out);
                return;
            }
            Self::Array(array) => {
                out.extend(tag::ARRAY.to_le_bytes());
                array.write(out);
                return;
            }
        };
        out.extend(tag.to_le_bytes());
        out.extend(bytes);
    }
}

impl Array {
    /// The number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::I8(values) => values.len(),
            Self::U16(values) => values.len(),
            Self::I16(values) => values.len(),
            Self::U32(values) => values.len(),
            Self::I32(values) => values.len(),
            Self::F32(values) => values.len(),
            Self::Bool(values) => values.len(),
            Self::String(values) => values.len(),
            Self::U64(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::F64(values) => values.len(),
        }
    }

    /// Whether there is no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn write(&self, out: &mut Vec<u8>) {
        let mut head = |tag: u32| {
            out.extend(tag.to_le_bytes());
            out.extend((self.len() as u64).to_le_bytes());
        };
        match self {
            Self::U8(values) => {
                head(tag::U8);
                out.extend(values);
            }
            Self::I8(values) => {
                head(tag::I8);
                out.extend(values.iter().map(|value| value.cast_unsigned()));
            }
            Self::U16(values) => {
                head(tag::U16);
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Self::I16(values) => {
                head(tag::I16);
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Self::U32(values) => {
                head(tag::U32);
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Self::I32(values) => {
                head(tag::I32);
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Self::F32(values) => {
                head(tag::F32);
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Self::Bool(values) => {
                head(tag::BOOL);
                out.extend(values.iter().map(|&value| u8::from(value)));
            }
            Self::U64(values) => {
                head(tag::U64);
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Self::I64(values) => {
                head(tag::I64);
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Self::F64(values) => {
                head(tag::F64);
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Self::String(values) => {
                head(tag::STRING);
                for value in values {
                    write_string(value, out);
                }
            }
        }
    }
}

macro_rules! value_from {
    ($($type:ty => $variant:ident),* $(,)?) => {$(
        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Self::$variant(value)
            }
        }
        impl From<Vec<$type>> for Value {
            fn from(values: Vec<$type>) -> Self {
                Self::Array(Array::$variant(values))
            }
        }
    )*};
}
value_from!(u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, f32 => F32, bool => Bool,
            String => String, u64 => U64, i64 => I64, f64 => F64);

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::String(value.to_owned())
    }
}

/// Appends a string: its length in bytes, and its UTF-8.
pub(crate) fn write_string(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl Cursor<'_> {
    fn boolean(byte: u8) -> Result<bool> {
        match byte {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Failure::corrupt(format!("holds the byte {other} as a truth value"))),
        }
    }

    fn value(&mut self) -> Result<Value> {
        Ok(match self.u32()? {
            tag::U8 => Value::U8(u8::from_le_bytes(self.array()?)),
            tag::I8 => Value::I8(i8::from_le_bytes(self.array()?)),
            tag::U16 => Value::U16(u16::from_le_bytes(self.array()?)),
            tag::I16 => Value::I16(i16::from_le_bytes(self.array()?)),
            tag::U32 => Value::U32(self.u32()?),
            tag::I32 => Value::I32(i32::from_le_bytes(self.array()?)),
            tag::F32 => Value::F32(f32::from_le_bytes(self.array()?)),
            tag::BOOL => Value::Bool(Self::boolean(u8::from_le_bytes(self.array()?))?),
            tag::STRING => Value::String(self.text()?),
            tag::ARRAY => Value::Array(self.elements()?),
            tag::U64 => Value::U64(self.u64()?),
            tag::I64 => Value::I64(i64::from_le_bytes(self.array()?)),
            tag::F64 => Value::F64(f64::from_le_bytes(self.array()?)),
            other => return Err(Failure::corrupt(format!("has the unknown type {other}"))),
        })
    }

    fn elements(&mut self) -> Result<Array> {
        let tag = self.u32()?;
        let count = self.u64()?;
        Ok(match tag {
            tag::U8 => Array::U8(self.take(count)?.to_vec()),
            tag::I8 => Array::I8(self.fixed(count, i8::from_le_bytes)?),
            tag::U16 => Array::U16(self.fixed(count, u16::from_le_bytes)?),
            tag::I16 => Array::I16(self.fixed(count, i16::from_le_bytes)?),
            tag::U32 => Array::U32(self.fixed(count, u32::from_le_bytes)?),
            tag::I32 => Array::I32(self.fixed(count, i32::from_le_bytes)?),
            tag::F32 => Array::F32(self.fixed(count, f32::from_le_bytes)?),
            tag::BOOL => Array::Bool(self.take(count)?.iter().map(|&byte| Self::boolean(byte)).collect::<Result<_>>()?),
            tag::STRING => Array::String(self.strings(count)?),
            tag::U64 => Array::U64(self.fixed(count, u64::from_le_bytes)?),
            tag::I64 => Array::I64(self.fixed(count, i64::from_le_bytes)?),
            tag::F64 => Array::F64(self.fixed(count, f64::from_le_bytes)?),
            tag::ARRAY => return Err(Failure::corrupt("is an array of arrays")),
            other => return Err(Failure::corrupt(format!("is an array of the unknown type {other}"))),
        })
    }

    fn fixed<T, const N: usize>(&mut self, count: u64, read: fn([u8; N]) -> T) -> Result<Vec<T>> {
        let bytes = self.take(count.saturating_mul(N as u64))?;
        Ok(bytes.as_chunks::<N>().0.iter().map(|&raw| read(raw)).collect())
    }

    fn strings(&mut self, count: u64) -> Result<Vec<String>> {
        // The shortest string is its length field, so a count beyond this bound cannot be honest.
        if count > (self.left() / size_of::<u64>()) as u64 {
            return Err(Failure::corrupt(format!("announces {count} strings, more than the bytes left can hold")));
        }
        (0..count).map(|_| self.text()).collect()
    }
}

#[cfg(test)]
mod tests {
    use qhost_plugin_api::sdk::FailureKind;

    use super::*;

    fn sample() -> Metadata {
        let mut metadata = Metadata::new();
        metadata.push("general.architecture", "llama").unwrap();
        metadata.push("a.u8", 200u8).unwrap();
        metadata.push("a.i8", -3i8).unwrap();
        metadata.push("a.u16", 65_535u16).unwrap();
        metadata.push("a.i16", -32_768i16).unwrap();
        metadata.push("a.u32", 7u32).unwrap();
        metadata.push("a.i32", -7i32).unwrap();
        metadata.push("a.f32", 1e-5f32).unwrap();
        metadata.push("a.bool", true).unwrap();
        metadata.push("a.u64", u64::MAX).unwrap();
        metadata.push("a.i64", i64::MIN).unwrap();
        metadata.push("a.f64", std::f64::consts::PI).unwrap();
        metadata.push("b.u8", vec![1u8, 2]).unwrap();
        metadata.push("b.i8", vec![-1i8]).unwrap();
        metadata.push("b.u16", vec![1u16]).unwrap();
        metadata.push("b.i16", vec![-1i16]).unwrap();
        metadata.push("b.u32", vec![1u32, 2, 3]).unwrap();
        metadata.push("b.i32", vec![-1i32, 6]).unwrap();
        metadata.push("b.f32", vec![-1000.0f32, 0.5]).unwrap();
        metadata.push("b.bool", vec![true, false]).unwrap();
        metadata.push("b.strings", vec![String::new(), "▁the".to_owned()]).unwrap();
        metadata.push("b.none", Vec::<String>::new()).unwrap();
        metadata.push("b.u64", vec![1u64 << 40]).unwrap();
        metadata.push("b.i64", vec![-1i64]).unwrap();
        metadata.push("b.f64", vec![0.25f64]).unwrap();
        metadata
    }

    fn bytes(metadata: &Metadata) -> Vec<u8> {
        let mut out = Vec::new();
        metadata.write(&mut out);
        out
    }

    fn refusal(bytes: &[u8], count: u64) -> FailureKind {
        Metadata::read(&mut Cursor::new(bytes), count).unwrap_err().kind
    }

    #[test]
    fn every_type_comes_back_as_it_was_written() {
        let metadata = sample();
        let mut bytes = bytes(&metadata);
        let length = bytes.len();
        bytes.extend([9; 5]);
        let mut cursor = Cursor::new(&bytes);
        assert_eq!(Metadata::read(&mut cursor, metadata.len() as u64).unwrap(), metadata);
        assert_eq!(cursor.position(), length);
    }

    #[test]
    fn the_bytes_are_those_of_the_specification() {
        let mut metadata = Metadata::new();
        metadata.push("k", "vw").unwrap();
        metadata.push("n", vec![5i32]).unwrap();
        let mut expected = Vec::new();
        expected.extend([1, 0, 0, 0, 0, 0, 0, 0, b'k', 8, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, b'v', b'w']);
        expected.extend([1, 0, 0, 0, 0, 0, 0, 0, b'n', 9, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0]);
        assert_eq!(bytes(&metadata), expected);
    }

    #[test]
    fn a_key_comes_once() {
        let mut metadata = Metadata::new();
        metadata.push("k", 1u32).unwrap();
        assert!(metadata.push("k", 2u32).is_err());
        assert!(metadata.push("", 2u32).is_err());
        assert_eq!(metadata.get("k").and_then(Value::as_u64), Some(1));
        let mut twice = bytes(&metadata);
        twice.extend(twice.clone());
        assert_eq!(refusal(&twice, 2), FailureKind::CORRUPT);
    }

    #[test]
    fn every_truncation_is_an_error() {
        let metadata = sample();
        let bytes = bytes(&metadata);
        for end in 0..bytes.len() {
            assert_eq!(refusal(&bytes[..end], metadata.len() as u64), FailureKind::CORRUPT, "cut at {end}");
        }
    }

    #[test]
    fn lengths_that_lie_are_refused_before_anything_is_allocated() {
        let pair = |rest: &[u8]| [&1u64.to_le_bytes(), b"k".as_slice(), rest].concat();
        let array = |element: u32, count: u64| {
            pair(&[&tag::ARRAY.to_le_bytes()[..], &element.to_le_bytes(), &count.to_le_bytes(), &[0; 64]].concat())
        };
        let huge = [u64::MAX, u64::MAX / 2, 1 << 61, 1 << 32];
        for count in huge {
            for element in 0..=13 {
                assert_eq!(refusal(&array(element, count), 1), FailureKind::CORRUPT);
            }
            let string = pair(&[&tag::STRING.to_le_bytes()[..], &count.to_le_bytes(), b"abc"].concat());
            assert_eq!(refusal(&string, 1), FailureKind::CORRUPT);
            assert_eq!(refusal(&count.to_le_bytes(), 1), FailureKind::CORRUPT);
        }
        assert_eq!(refusal(&[], u64::MAX), FailureKind::CORRUPT);
    }

    #[test]
    fn values_that_are_no_utf8_are_read_all_the_same() {
        let text = [&1u64.to_le_bytes()[..], b"k", &tag::STRING.to_le_bytes(), &1u64.to_le_bytes(), &[0xff]].concat();
        let metadata = Metadata::read(&mut Cursor::new(&text), 1).unwrap();
        assert_eq!(metadata.get("k").and_then(Value::as_str), Some("\u{fffd}"));
    }

    #[test]
    fn what_no_writer_produces_is_refused() {
        let pair = |rest: &[u8]| [&1u64.to_le_bytes(), b"k".as_slice(), rest].concat();
        let nested = pair(&[&tag::ARRAY.to_le_bytes()[..], &tag::ARRAY.to_le_bytes(), &0u64.to_le_bytes()].concat());
        let unknown = pair(&13u32.to_le_bytes());
        let boolean = pair(&[&tag::BOOL.to_le_bytes()[..], &[2]].concat());
        let key = [&1u64.to_le_bytes()[..], &[0xff], &tag::U8.to_le_bytes(), &[1]].concat();
        for bytes in [nested, unknown, boolean, key] {
            assert_eq!(refusal(&bytes, 1), FailureKind::CORRUPT);
        }
    }
}
