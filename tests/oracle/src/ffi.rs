//! Small conversions between Rust's and C's ways of saying things.

use std::ffi::CString;
use std::path::Path;

use crate::{Error, Result};

/// A path for C; llama.cpp takes UTF-8.
pub(crate) fn c_path(path: &Path) -> Result<CString> {
    path.to_str().and_then(|path| CString::new(path).ok()).ok_or_else(|| Error::Path(path.to_owned()))
}

/// A length for C.
pub(crate) fn c_int<T: TryFrom<usize>>(length: usize) -> Result<T> {
    T::try_from(length).map_err(|_| Error::Length(format!("{length} is too long for llama.cpp")))
}

/// A number of threads: as many as there are cores, if not told.
pub(crate) fn threads(asked: Option<usize>) -> i32 {
    let count = asked.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    i32::try_from(count).unwrap_or(i32::MAX).max(1)
}

/// A text for C.
pub(crate) fn c_text(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::Length(format!("`{}` has a NUL in it", text.escape_debug())))
}
