//! What a GGUF file says of itself, read by ggml.
#![expect(unsafe_code, reason = "ggml's reader hands out pointers into its context")]

use std::ffi::{CStr, c_char};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use llama_cpp_sys_2 as sys;

use crate::ffi::c_path;
use crate::{Error, Result, log};

/// A GGUF file's metadata and the list of its tensors, in the order of the file.
#[derive(Debug, Clone)]
pub struct Gguf {
    path: PathBuf,
    /// The version of the container.
    pub version: u32,
    /// What offsets are multiples of.
    pub alignment: usize,
    /// Where the tensors' data begin in the file.
    pub data_offset: usize,
    /// Keys and values.
    pub metadata: Vec<(String, Value)>,
    /// The tensors.
    pub tensors: Vec<TensorInfo>,
}

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the variants are the format's value types")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    U64(u64),
    I64(i64),
    F64(f64),
    Bool(bool),
    /// Bytes that are no UTF-8 are replaced, and a NUL ends it: ggml gives C strings.
    Text(String),
    /// Values of one type.
    Array(Vec<Value>),
}

/// A tensor's entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name.
    pub name: String,
    /// A number of `enum ggml_type`.
    pub ggml_type: u32,
    /// Row length first. Trailing ones are not told: ggml drops them.
    pub dims: Vec<u64>,
    /// Where its data begin, from [`Gguf::data_offset`].
    pub offset: usize,
    /// The length of its data.
    pub bytes: usize,
}

impl Gguf {
    /// Reads a file's head.
    ///
    /// # Errors
    /// Fails if ggml cannot read it.
    pub fn open(path: &Path) -> Result<Self> {
        let path_c = c_path(path)?;
        let context = log::recorded(format!("read {}", path.display()), || {
            let params = sys::gguf_init_params { no_alloc: true, ctx: std::ptr::null_mut() };
            // SAFETY: the path ends in NUL; no tensors are asked for.
            let context = unsafe { sys::gguf_init_from_file(path_c.as_ptr(), params) };
            (!context.is_null()).then_some(Context(context))
        })?;
        // SAFETY: the context is valid until it is dropped, for these and all calls below.
        let (version, alignment, data_offset) = unsafe {
            (sys::gguf_get_version(context.0), sys::gguf_get_alignment(context.0), sys::gguf_get_data_offset(context.0))
        };
        Ok(Self {
            path: path.to_owned(),
            version,
            alignment,
            data_offset,
            metadata: context.metadata()?,
            tensors: context.tensors(),
        })
    }

    /// The value of a key.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.iter().find(|entry| entry.0 == key).map(|entry| &entry.1)
    }

    /// The entry of a tensor.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// Reads the data of a tensor of this file.
    ///
    /// # Errors
    /// Fails if the file cannot be read or ends before.
    pub fn read(&self, tensor: &TensorInfo) -> Result<Vec<u8>> {
        let read = || {
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::Start((self.data_offset + tensor.offset) as u64))?;
            let mut data = vec![0; tensor.bytes];
            file.read_exact(&mut data)?;
            Ok(data)
        };
        read().map_err(|source| Error::Io { path: self.path.clone(), source })
    }

    /// Says what is different in another file, from the metadata to the bytes of tensors; nothing if that is all the same.
    /// Padding is not looked at.
    ///
    /// # Errors
    /// Fails if a file cannot be read or ends before.
    pub fn difference(&self, other: &Self) -> Result<Option<String>> {
        if self.metadata != other.metadata {
            return Ok(Some("the metadata differ".to_owned()));
        }
        if self.tensors.len() != other.tensors.len() {
            return Ok(Some(format!("{} tensors are not {}", self.tensors.len(), other.tensors.len())));
        }
        for (mine, theirs) in self.tensors.iter().zip(&other.tensors) {
            if mine != theirs {
                return Ok(Some(format!("{mine:?} is not {theirs:?}")));
            }
            if self.read(mine)? != other.read(theirs)? {
                return Ok(Some(format!("the bytes of {} differ", mine.name)));
            }
        }
        Ok(None)
    }
}

/// ggml's reader, freed when dropped.
struct Context(*mut sys::gguf_context);

impl Context {
    fn metadata(&self) -> Result<Vec<(String, Value)>> {
        // SAFETY: the context is valid.
        let count = unsafe { sys::gguf_get_n_kv(self.0) };
        (0..count)
            .map(|id| {
                // SAFETY: the id is below the count.
                let (key, kind) = unsafe { (text(sys::gguf_get_key(self.0, id)), sys::gguf_get_kv_type(self.0, id)) };
                let value = match kind {
                    sys::GGUF_TYPE_ARRAY => self.array(id),
                    // SAFETY: the string of a string key; it lives as long as the context.
                    sys::GGUF_TYPE_STRING => Some(Value::Text(unsafe { text(sys::gguf_get_val_str(self.0, id)) })),
                    // SAFETY: neither an array nor a string, as the function demands; the pointer
                    // is to one value of the kind.
                    _ => unsafe { scalar(kind, sys::gguf_get_val_data(self.0, id).cast(), 0) },
                };
                let unknown = || Error::Llama { what: format!("read {key}"), log: format!("value type {kind}") };
                Ok((key.clone(), value.ok_or_else(unknown)?))
            })
            .collect()
    }

    fn array(&self, id: i64) -> Option<Value> {
        // SAFETY: the id is that of an array.
        let (kind, count) = unsafe { (sys::gguf_get_arr_type(self.0, id), sys::gguf_get_arr_n(self.0, id)) };
        let values: Option<Vec<Value>> = if kind == sys::GGUF_TYPE_STRING {
            // SAFETY: an array of strings, and the index is below its length.
            (0..count)
                .map(|index| Some(Value::Text(unsafe { text(sys::gguf_get_arr_str(self.0, id, index)) })))
                .collect()
        } else {
            // SAFETY: an array of no strings; the pointer is to `count` values of the kind.
            let data: *const u8 = unsafe { sys::gguf_get_arr_data(self.0, id) }.cast();
            // SAFETY: as above, and the index is below the count.
            (0..count).map(|index| unsafe { scalar(kind, data, index) }).collect()
        };
        values.map(Value::Array)
    }

    fn tensors(&self) -> Vec<TensorInfo> {
        // SAFETY: the context is valid.
        let count = unsafe { sys::gguf_get_n_tensors(self.0) };
        (0..count)
            .map(|id| {
                // SAFETY: the id is below the count; the extents are an array of four.
                let dims: [i64; 4] = unsafe { *sys::gguf_get_tensor_ne(self.0, id).cast() };
                let used = dims.iter().rposition(|&dim| dim != 1).map_or(1, |last| last + 1);
                // SAFETY: as above.
                unsafe {
                    TensorInfo {
                        name: text(sys::gguf_get_tensor_name(self.0, id)),
                        ggml_type: sys::gguf_get_tensor_type(self.0, id),
                        dims: dims[..used].iter().map(|dim| dim.unsigned_abs()).collect(),
                        offset: sys::gguf_get_tensor_offset(self.0, id),
                        bytes: sys::gguf_get_tensor_size(self.0, id),
                    }
                }
            })
            .collect()
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: made by `gguf_init_from_file` and freed once.
        unsafe { sys::gguf_free(self.0) };
    }
}

/// A copy of a C string.
///
/// # Safety
/// The pointer is to a string that ends in NUL.
unsafe fn text(string: *const c_char) -> String {
    // SAFETY: what the caller promises.
    unsafe { CStr::from_ptr(string) }.to_string_lossy().into_owned()
}

/// The value at an index of packed values of a scalar kind; `None` for a kind that is not scalar.
///
/// # Safety
/// At `data` there are more than `index` values of the kind, at any alignment.
unsafe fn scalar(kind: sys::gguf_type, data: *const u8, index: usize) -> Option<Value> {
    // SAFETY: what the caller promises; every bit pattern is a value of these types.
    unsafe {
        Some(match kind {
            sys::GGUF_TYPE_UINT8 => Value::U8(at(data, index)),
            sys::GGUF_TYPE_INT8 => Value::I8(at(data, index)),
            sys::GGUF_TYPE_UINT16 => Value::U16(at(data, index)),
            sys::GGUF_TYPE_INT16 => Value::I16(at(data, index)),
            sys::GGUF_TYPE_UINT32 => Value::U32(at(data, index)),
            sys::GGUF_TYPE_INT32 => Value::I32(at(data, index)),
            sys::GGUF_TYPE_FLOAT32 => Value::F32(at(data, index)),
            sys::GGUF_TYPE_UINT64 => Value::U64(at(data, index)),
            sys::GGUF_TYPE_INT64 => Value::I64(at(data, index)),
            sys::GGUF_TYPE_FLOAT64 => Value::F64(at(data, index)),
            sys::GGUF_TYPE_BOOL => Value::Bool(at::<u8>(data, index) != 0),
            _ => return None,
        })
    }
}

/// # Safety
/// At `data` there are more than `index` values of the type, and every bit pattern is one of it.
unsafe fn at<T: Copy>(data: *const u8, index: usize) -> T {
    // SAFETY: what the caller promises.
    unsafe { data.cast::<T>().add(index).read_unaligned() }
}
