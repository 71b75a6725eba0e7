//! The kernels of `kernels.cu`, compiled for the device that is there.

use std::sync::Arc;

use cudarc::{
    driver::{CudaContext, CudaFunction, CudaModule},
    nvrtc::{CompileError, CompileOptions, Ptx, compile_ptx_with_opts},
};

use super::fault;
use crate::Error;

/// What is compiled.
const SOURCE: &str = include_str!("kernels.cu");

/// Threads of a block, `THREADS` of the source.
pub(super) const THREADS: u32 = 256;

/// Queries of a block of attention, `QUERIES` of the source.
pub(super) const QUERIES: usize = 32;

/// Values of a block of attention, `VALUES` of the source.
pub(super) const VALUES: usize = 128;

/// What stands for each activation in the source.
pub(super) mod kind {
    pub(in super::super) const SILU: u32 = 0;
    pub(in super::super) const GELU: u32 = 1;
    pub(in super::super) const GELU_TANH: u32 = 2;
    pub(in super::super) const GELU_QUICK: u32 = 3;
    pub(in super::super) const RELU: u32 = 4;
    pub(in super::super) const SQUARED_RELU: u32 = 5;
}

macro_rules! kernels {
    ($($name:ident),* $(,)?) => {
        /// A function for each kernel.
        #[derive(Debug)]
        pub(super) struct Kernels {
            $(pub(super) $name: CudaFunction,)*
        }

        impl Kernels {
            fn of(module: &Arc<CudaModule>) -> Result<Self, Error> {
                Ok(Self {
                    $($name: module.load_function(stringify!($name)).map_err(|error| fault("load a kernel", error))?,)*
                })
            }
        }
    };
}

kernels! {
    activate, add, add_bias, add_parts, attention, clamped_swiglu, columns, copy_f32, gather, moments, normalize, not_finite,
    place, rotate, scale, scatter_add, soft_cap, widen_bf16, widen_f16, widen_f64,
}

impl Kernels {
    /// Compiles them and loads them.
    pub(super) fn new(context: &Arc<CudaContext>) -> Result<Self, Error> {
        let capability = context.compute_capability().map_err(|error| fault("be asked what it is", error))?;
        let module = context.load_module(compile(capability)?).map_err(|error| fault("load the kernels", error))?;
        Self::of(&module)
    }
}

/// For a device, or, with a compiler that does not know it, for the oldest that the compiler knows: the driver
/// translates that for every younger one.
fn compile(capability: (i32, i32)) -> Result<Ptx, Error> {
    exactly(capability).or_else(|_| with(Vec::new()))
}

/// For a device.
pub(super) fn exactly((major, minor): (i32, i32)) -> Result<Ptx, Error> {
    with(vec![format!("--gpu-architecture=compute_{major}{minor}")])
}

fn with(options: Vec<String>) -> Result<Ptx, Error> {
    compile_ptx_with_opts(SOURCE, CompileOptions { options, ..CompileOptions::default() }).map_err(|error| {
        let detail = match &error {
            CompileError::CompileError { log, .. } => log.to_string_lossy().into_owned(),
            other => other.to_string(),
        };
        Error::Device(format!("the kernels could not be compiled by NVRTC: {}", detail.trim()))
    })
}
