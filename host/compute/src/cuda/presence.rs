//! Which of the CUDA libraries this machine has.
//!
//! A library that is missing makes the bindings panic when they first call it, so that they are looked for before.
#![expect(unsafe_code, reason = "libraries are opened to see whether they are there")]

use cudarc::{cublas, driver, nvrtc};

use crate::Error;

/// Whether there is a CUDA driver.
pub(super) fn driver() -> bool {
    // SAFETY: the driver's library runs what it does when it is opened, and nothing is called in it.
    unsafe { driver::sys::is_culib_present() }
}

/// Whether there is the compiler of kernels.
pub(super) fn compiler() -> Result<(), Error> {
    // SAFETY: as above.
    let present = unsafe { nvrtc::sys::is_culib_present() };
    if present { Ok(()) } else { Err(Error::Device("NVRTC (libnvrtc) was not found".into())) }
}

/// Whether there is what arithmetic takes beside the driver.
pub(super) fn toolkit() -> Result<(), Error> {
    // SAFETY: as above.
    let (blas, compiler) = unsafe { (cublas::sys::is_culib_present(), nvrtc::sys::is_culib_present()) };
    let missing = match (blas, compiler) {
        (true, true) => return Ok(()),
        (false, true) => "cuBLAS (libcublas) was not",
        (true, false) => "NVRTC (libnvrtc) was not",
        (false, false) => "cuBLAS (libcublas) and NVRTC (libnvrtc) were not",
    };
    Err(Error::Device(format!(
        "a CUDA driver was found, but {missing}: install the CUDA toolkit 12 or 13, and name its folder of \
         libraries in LD_LIBRARY_PATH"
    )))
}
