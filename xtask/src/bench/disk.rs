//! Files as the disk has them: reading, writing, and forgetting what the system holds of them in memory.
#![cfg_attr(target_os = "linux", expect(unsafe_code, reason = "advice to the system about a file's pages"))]

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result};

/// Bytes of a call.
const PIECE: usize = 4 << 20;

/// Seconds for reading files from the first byte to the last, on one thread.
pub(super) fn read(files: &[PathBuf]) -> Result<f64> {
    let mut piece = vec![0; PIECE];
    let start = Instant::now();
    for path in files {
        let mut file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
        while file.read(&mut piece)? > 0 {}
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Seconds for writing a file until the disk has it.
pub(super) fn write(path: &Path, bytes: u64) -> Result<f64> {
    let mut state = 1_u64;
    // A disk that compresses, or keeps one copy of what is equal, is to have no use of it.
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    let mut piece: Vec<u8> = (0..PIECE).map(|_| draw()).collect();
    let mut file = File::create(path).with_context(|| format!("{} cannot be written", path.display()))?;
    let start = Instant::now();
    for index in 0..bytes / PIECE as u64 {
        for line in piece.chunks_mut(4096) {
            line[..8].copy_from_slice(&index.to_le_bytes());
        }
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    Ok(start.elapsed().as_secs_f64())
}

/// Has the disk have the files, and the system forget them, so that the next reader waits for the disk; whether that is
/// possible here.
pub(super) fn forget(files: &[PathBuf]) -> Result<bool> {
    for path in files {
        let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
        file.sync_all()?;
        if !drop_pages(&file) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(target_os = "linux")]
fn drop_pages(file: &File) -> bool {
    use std::os::fd::AsRawFd as _;

    // SAFETY: the descriptor is open as long as the file lives; no memory is passed.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn drop_pages(_: &File) -> bool {
    false
}

/// The weight files of a checkpoint.
pub(super) fn weights(model: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(model).with_context(|| format!("{} cannot be read", model.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let mut files: Vec<_> =
        paths.into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "safetensors")).collect();
    files.sort();
    Ok(files)
}
