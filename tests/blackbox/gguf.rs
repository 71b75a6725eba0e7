//! Reading GGUF files, written from the specification alone.
//!
//! It is apart from the plugin's own reader, so that a mistake made there is not made here too. It
//! trusts the file: a test that is given another has failed.

use std::{fs, path::Path};

use serde_json::json;
use xxhash_rust::xxh3::xxh3_64;

/// A whole file in memory.
pub(crate) struct Gguf {
    /// The keys in the order of the file, each with type and value: `llama.block_count u32 3`.
    pub(crate) keys: Vec<String>,
    /// The tensors in the order of the file.
    pub(crate) tensors: Vec<Tensor>,
}

pub(crate) struct Tensor {
    pub(crate) name: String,
    /// The row length first.
    pub(crate) dimensions: Vec<usize>,
    /// The number of its type in ggml; 0 is F32.
    pub(crate) kind: u32,
    /// For F32 only.
    pub(crate) data: Vec<u8>,
}

impl Gguf {
    pub(crate) fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let mut reader = Reader { bytes: &bytes, at: 0 };
        assert_eq!((reader.take(4), reader.u32()), (b"GGUF".as_slice(), 3), "{}", path.display());
        let (tensor_count, key_count) = (reader.length(), reader.length());
        let keys = (0..key_count).map(|_| format!("{} {}", reader.string(), reader.value())).collect();
        let infos = (0..tensor_count).map(|_| {
            let (name, rank) = (reader.string(), reader.u32());
            let dimensions: Vec<_> = (0..rank).map(|_| reader.length()).collect();
            (name, dimensions, reader.u32(), reader.length())
        });
        let infos: Vec<_> = infos.collect();
        let data = &bytes[reader.at.next_multiple_of(32)..];
        let tensors = infos.into_iter().map(|(name, dimensions, kind, offset)| {
            let length = if kind == 0 { 4 * dimensions.iter().product::<usize>() } else { 0 };
            Tensor { name, dimensions, kind, data: data[offset..][..length].to_vec() }
        });
        Self { keys, tensors: tensors.collect() }
    }

    pub(crate) fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.iter().find(|tensor| tensor.name == name).unwrap()
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> &'a [u8] {
        self.at += length;
        &self.bytes[self.at - length..self.at]
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }

    fn length(&mut self) -> usize {
        u64::from_le_bytes(self.take(8).try_into().unwrap()).try_into().unwrap()
    }

    fn string(&mut self) -> String {
        let length = self.length();
        String::from_utf8(self.take(length).to_vec()).unwrap()
    }

    /// Floats as bits, so that comparing is exact; of an array the number and the XXH3 of its bytes.
    fn value(&mut self) -> String {
        match self.u32() {
            9 => {
                let (kind, count) = (self.u32(), self.length());
                let start = self.at;
                let name = (0..count).map(|_| self.scalar(kind).0).last().unwrap();
                format!("[{name}] {count} {:016x}", xxh3_64(&self.bytes[start..self.at]))
            }
            kind => {
                let (name, value) = self.scalar(kind);
                format!("{name} {value}")
            }
        }
    }

    fn scalar(&mut self, kind: u32) -> (&'static str, String) {
        match kind {
            4 => ("u32", self.u32().to_string()),
            5 => ("i32", self.u32().cast_signed().to_string()),
            6 => ("f32", format!("{:08x}", self.u32())),
            7 => ("bool", (self.take(1) != [0]).to_string()),
            8 => ("string", json!(self.string()).to_string()),
            other => unreachable!("our files have no values of type {other}"),
        }
    }
}
