//! NVIDIA GPUs: products by cuBLAS, all else by the kernels of `kernels.cu`, which NVRTC compiles when a device is
//! opened.
//!
//! The driver and both libraries are loaded when they are there; without them nothing is linked, and nothing
//! panics. Arithmetic is in `f32`, as on the CPU: TF32 is off, weights are widened on the device. All work is in
//! one stream and no sum uses atomic operations, so that the same operands give the same bits on the same device
//! and libraries. They are not the CPU's bits, and a product's bits may depend on how many rows there are.
//!
//! The kernels need no GPU to be compiled, which shows whether they are right as far as a compiler can tell:
//!
//! ```sh
//! pip install --target nvrtc nvidia-cuda-nvrtc-cu12
//! LD_LIBRARY_PATH=nvrtc/nvidia/cuda_nvrtc/lib cargo run -p qhost-compute --example kernels
//! ```
#![expect(unsafe_code, reason = "kernels are launched with pointers")]

mod blas;
mod kernels;
mod presence;

use std::{panic, sync::Arc};

use cudarc::driver::{
    CudaContext, CudaSlice, CudaStream, DevicePtr, DeviceRepr, DriverError, LaunchConfig, PushKernelArg,
    sys::cudaError_enum,
};

use self::{
    blas::Blas,
    kernels::{Kernels, QUERIES, THREADS, VALUES, kind},
};
use crate::{Activation, Attention, Columns, Device, Dtype, Error, Norm, NormKind, Rotation, Stored, check};

/// Bytes of weights that are brought to the device at a time.
const PIECE: usize = 64 << 20;

/// Rows whose products are summed before they are added to a Gram matrix.
const ROWS: usize = 2048;

/// Numbers that are widened to `f64` at a time, at most, unless a row is longer.
const WIDENED: usize = 32 << 20;

/// Blocks of loops over numbers, at most.
const BLOCKS: usize = 1 << 16;

/// Blocks that look for what is not finite, at most; each gives an index.
const FINDERS: usize = 1024;

/// An NVIDIA GPU.
#[derive(Debug)]
pub struct Cuda {
    // Before the context, so that it goes first.
    blas: Blas,
    kernels: Kernels,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
    name: String,
}

/// `f32` numbers on a GPU.
#[derive(Debug)]
pub struct Numbers {
    /// At least one number, since nothing cannot be allocated.
    numbers: CudaSlice<f32>,
    length: usize,
}

/// Weights on a GPU, as `f32`.
#[derive(Debug)]
pub struct Weights {
    numbers: CudaSlice<f32>,
    outputs: usize,
    inputs: usize,
    transposed: bool,
}

/// Launches a kernel with as many blocks of [`THREADS`] threads.
macro_rules! launch {
    ($cuda:expr, $kernel:ident, $grid:expr, $($argument:expr),+ $(,)?) => {{
        let config = LaunchConfig { grid_dim: $grid, block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: the arguments are those of the kernel in their order, and operands were checked to fit.
        unsafe { $cuda.stream.launch_builder(&$cuda.kernels.$kernel)$(.arg($argument))+.launch(config) }
            .map(|_| ())
            .map_err(|error| fault(concat!("run the kernel ", stringify!($kernel)), error))
    }};
}

impl Cuda {
    /// The first GPU, if this machine has a CUDA driver and a GPU.
    ///
    /// # Errors
    /// There is one that cannot be used: a library is missing, or the driver says why.
    pub fn probe() -> Result<Option<Self>, Error> {
        if !presence::driver() || guarded(devices)? == 0 {
            return Ok(None);
        }
        Self::open(0).map(Some)
    }

    /// A GPU by its number.
    ///
    /// # Errors
    /// There is no driver, library or such GPU, or the driver's own.
    pub fn open(ordinal: usize) -> Result<Self, Error> {
        if !presence::driver() {
            return Err(Error::Device("no CUDA driver was found".into()));
        }
        if size_of::<usize>() != size_of::<u64>() {
            return Err(Error::Device("CUDA is for 64-bit programs".into()));
        }
        guarded(|| {
            match devices()? {
                0 => return Err(Error::Device("a CUDA driver was found, but no GPU".into())),
                count if ordinal < count => {}
                1 => {
                    return Err(Error::Device(format!("there is no GPU {ordinal}: the CUDA driver found GPU 0 alone")));
                }
                count => {
                    let last = count - 1;
                    return Err(Error::Device(format!("there is no GPU {ordinal}: the CUDA driver found 0 to {last}")));
                }
            }
            presence::toolkit()?;
            let context = CudaContext::new(ordinal).map_err(|error| fault("be opened", error))?;
            let name = context.name().map_err(|error| fault("be asked for its name", error))?;
            // The only stream: what is freed or copied in it follows what uses it.
            let stream = context.default_stream();
            let kernels = Kernels::new(&context)?;
            Ok(Self { blas: Blas::new(&stream)?, kernels, stream, context, name })
        })
    }

    /// The kernels as the driver gets them, for a compute capability: this needs NVRTC, but no GPU and no driver.
    #[doc(hidden)]
    pub fn kernels_for(capability: (i32, i32)) -> Result<String, Error> {
        presence::compiler()?;
        guarded(|| Ok(kernels::exactly(capability)?.to_src()))
    }

    /// What the driver calls it, and its number.
    #[must_use]
    pub fn describe(&self) -> String {
        format!("GPU {}, {}", self.context.ordinal(), self.name)
    }

    /// Bytes of its memory that are free, and all.
    pub fn memory(&self) -> Result<(usize, usize), Error> {
        self.context.mem_get_info().map_err(|error| fault("be asked for its memory", error))
    }

    fn empty<T: DeviceRepr>(&self, length: usize) -> Result<CudaSlice<T>, Error> {
        // SAFETY: it is written before it is read, and any bits are a number.
        unsafe { self.stream.alloc(length.max(1)) }.map_err(|error| {
            if error.0 == cudaError_enum::CUDA_ERROR_OUT_OF_MEMORY {
                let bytes = length * size_of::<T>();
                Error::Device(format!("the GPU's memory is full: {bytes} more bytes were needed"))
            } else {
                fault("give memory", error)
            }
        })
    }

    fn numbers(&self, length: usize) -> Result<Numbers, Error> {
        Ok(Numbers { numbers: self.empty(length)?, length })
    }

    fn sent<T: DeviceRepr>(&self, values: &[T]) -> Result<CudaSlice<T>, Error> {
        let mut slice = self.empty(values.len())?;
        if !values.is_empty() {
            self.stream.memcpy_htod(values, &mut slice).map_err(|error| fault("take numbers", error))?;
        }
        Ok(slice)
    }

    fn received<T: DeviceRepr>(&self, slice: &CudaSlice<T>, first: usize, out: &mut [T]) -> Result<(), Error> {
        if out.is_empty() {
            return Ok(());
        }
        let part = slice.try_slice(first..first + out.len()).ok_or_else(|| Error::Shape {
            operation: "download",
            detail: format!("{first} and {} of {}", out.len(), slice.len()),
        })?;
        self.stream.memcpy_dtoh(&part, out).map_err(|error| fault("give numbers back", error))?;
        self.stream.synchronize().map_err(|error| fault("finish its work", error))
    }

    /// Where numbers are, or the null pointer.
    fn pointer(&self, numbers: Option<&Numbers>) -> u64 {
        numbers.map_or(0, |numbers| numbers.numbers.device_ptr(&self.stream).0)
    }
}

/// How many GPUs there are.
fn devices() -> Result<usize, Error> {
    match CudaContext::device_count() {
        Ok(count) => Ok(usize::try_from(count).unwrap_or(0)),
        Err(error) if error.0 == cudaError_enum::CUDA_ERROR_NO_DEVICE => Ok(0),
        Err(error) => Err(fault("be counted", error)),
    }
}

/// Makes an error of a panic: the bindings panic where a library lacks a function.
fn guarded<T>(work: impl FnOnce() -> Result<T, Error> + panic::UnwindSafe) -> Result<T, Error> {
    panic::catch_unwind(work).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("for no given reason");
        Err(Error::Device(format!("the CUDA libraries cannot be used: {text}")))
    })
}

fn fault(doing: &str, error: DriverError) -> Error {
    let name = error.error_name().map_or_else(|_| format!("{:?}", error.0), |name| name.to_string_lossy().into());
    match error.error_string() {
        Ok(text) => Error::Device(format!("the GPU could not {doing}: {} ({name})", text.to_string_lossy())),
        Err(_) => Error::Device(format!("the GPU could not {doing}: {name}")),
    }
}

/// Blocks for a loop over as many numbers.
fn blocks(numbers: usize) -> (u32, u32, u32) {
    (small(numbers.div_ceil(THREADS as usize).clamp(1, BLOCKS)), 1, 1)
}

/// A number that is known to be small.
fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl Device for Cuda {
    type Buffer = Numbers;
    type Matrix<'a> = Weights;

    fn upload(&self, numbers: &[f32]) -> Result<Numbers, Error> {
        Ok(Numbers { numbers: self.sent(numbers)?, length: numbers.len() })
    }

    fn zeros(&self, length: usize) -> Result<Numbers, Error> {
        let mut out = self.numbers(length)?;
        self.stream.memset_zeros(&mut out.numbers).map_err(|error| fault("clear memory", error))?;
        Ok(out)
    }

    fn length(&self, buffer: &Numbers) -> usize {
        buffer.length
    }

    fn download(&self, buffer: &Numbers, out: &mut [f32]) -> Result<(), Error> {
        check::download(buffer.length, out.len())?;
        self.received(&buffer.numbers, 0, out)
    }

    fn matrix(&self, stored: Stored<'_>) -> Result<Weights, Error> {
        check::matrix(&stored)?;
        let Stored { bytes, dtype, outputs, inputs, transposed } = stored;
        let numbers = self.empty::<f32>(outputs * inputs)?;
        let start = numbers.device_ptr(&self.stream).0;
        for (piece, bytes) in bytes.chunks(PIECE).enumerate() {
            let sent = self.sent(bytes)?;
            let count = bytes.len() / dtype.bytes();
            let out = start + (piece * (PIECE / dtype.bytes()) * size_of::<f32>()) as u64;
            match dtype {
                Dtype::F32 => launch!(self, copy_f32, blocks(count), &sent, &out, &count)?,
                Dtype::F16 => launch!(self, widen_f16, blocks(count), &sent, &out, &count)?,
                Dtype::BF16 => launch!(self, widen_bf16, blocks(count), &sent, &out, &count)?,
            }
        }
        Ok(Weights { numbers, outputs, inputs, transposed })
    }

    fn linear(&self, x: &Numbers, rows: usize, weights: &Weights, bias: Option<&Numbers>) -> Result<Numbers, Error> {
        let (inputs, outputs) = (weights.inputs, weights.outputs);
        check::linear(x.length, rows, (inputs, outputs), bias.map(|bias| bias.length))?;
        if inputs == 0 || outputs == 0 || rows == 0 {
            return self.zeros(rows * outputs);
        }
        let mut out = self.numbers(rows * outputs)?;
        self.blas.product(&x.numbers, rows, weights, &mut out.numbers)?;
        if let Some(bias) = bias {
            let n = out.length;
            launch!(self, add_bias, blocks(n), &mut out.numbers, &n, &outputs, &bias.numbers)?;
        }
        Ok(out)
    }

    fn norm(&self, x: &Numbers, norm: &Norm<'_, Numbers>) -> Result<Numbers, Error> {
        let lengths = (norm.gain.map(|gain| gain.length), norm.bias.map(|bias| bias.length));
        let row = check::norm(x.length, norm.width, lengths)?;
        let mut out = self.numbers(x.length)?;
        let (width, groups) = (norm.width, row / norm.width);
        let all = x.length / width;
        if all == 0 {
            return Ok(out);
        }
        let grid = u32::try_from(all).ok().filter(|all| *all <= i32::MAX.cast_unsigned());
        let grid = grid.ok_or_else(|| Error::Device(format!("{all} groups are too many to norm at once")))?;
        let layer = u32::from(norm.kind == NormKind::Layer);
        let one: f32 = if norm.plus_one { 1.0 } else { 0.0 };
        let (gain, bias) = (self.pointer(norm.gain), self.pointer(norm.bias));
        launch!(
            self,
            normalize,
            (grid, 1, 1),
            &x.numbers,
            &mut out.numbers,
            &width,
            &groups,
            &layer,
            &norm.epsilon,
            &gain,
            &one,
            &bias,
        )?;
        Ok(out)
    }

    fn rotate(&self, x: &mut Numbers, positions: &[u32], rotation: &Rotation<'_, Numbers>) -> Result<(), Error> {
        let &Rotation { head, first, dimensions, interleaved, cosines, sines } = rotation;
        let tables = cosines.length.min(sines.length);
        let width = check::rotate(x.length, positions, head, first + dimensions, (dimensions / 2, tables))?;
        let half = dimensions / 2;
        let pairs = positions.len() * (width / head) * half;
        if pairs == 0 {
            return Ok(());
        }
        let positions = self.sent(positions)?;
        let interleaved = u32::from(interleaved);
        launch!(
            self,
            rotate,
            blocks(pairs),
            &mut x.numbers,
            &positions,
            &cosines.numbers,
            &sines.numbers,
            &width,
            &head,
            &first,
            &half,
            &interleaved,
            &pairs,
        )
    }

    fn attention(
        &self,
        q: &Numbers,
        k: &Numbers,
        v: &Numbers,
        lengths: &[usize],
        shape: &Attention,
        sinks: Option<&Numbers>,
    ) -> Result<Numbers, Error> {
        let rows = check::attention((q.length, k.length, v.length), lengths, shape, sinks.map(|sinks| sinks.length))?;
        let &Attention { heads, kv_heads, key, value, scale, soft_cap, window } = shape;
        let mut out = self.numbers(rows * heads * value)?;
        if out.length == 0 {
            return Ok(out);
        }
        // The last dimensions of a grid are of 16 bits.
        let fits = u32::try_from(rows).is_ok() && heads <= 0xffff && value.div_ceil(VALUES) <= 0xffff;
        if !fits {
            return Err(Error::Device(format!("attention of {rows} rows and {heads} heads at once is too much")));
        }
        let mut tiles: Vec<u32> = Vec::new();
        let mut start = 0;
        for &length in lengths {
            for query in (0..length).step_by(QUERIES) {
                tiles.extend([start, query, length].map(small));
            }
            start += length;
        }
        let grid = (small(tiles.len() / 3), small(heads), small(value.div_ceil(VALUES)));
        let tiles = self.sent(&tiles)?;
        let (cap, window, sinks) = (soft_cap.unwrap_or(0.0), window.unwrap_or(0), self.pointer(sinks));
        launch!(
            self,
            attention,
            grid,
            &q.numbers,
            &k.numbers,
            &v.numbers,
            &tiles,
            &mut out.numbers,
            &heads,
            &kv_heads,
            &key,
            &value,
            &scale,
            &cap,
            &window,
            &sinks,
        )?;
        Ok(out)
    }

    fn activate(&self, gate: &mut Numbers, up: Option<&Numbers>, activation: Activation) -> Result<(), Error> {
        check::activate(gate.length, up.map(|up| up.length))?;
        let (n, up) = (gate.length, self.pointer(up));
        let kind = match activation {
            Activation::Silu => kind::SILU,
            Activation::Gelu => kind::GELU,
            Activation::GeluTanh => kind::GELU_TANH,
            Activation::GeluQuick => kind::GELU_QUICK,
            Activation::Relu => kind::RELU,
            Activation::SquaredRelu => kind::SQUARED_RELU,
            Activation::ClampedSwiglu { alpha, limit } => {
                return launch!(self, clamped_swiglu, blocks(n), &mut gate.numbers, &up, &n, &alpha, &limit);
            }
        };
        launch!(self, activate, blocks(n), &mut gate.numbers, &up, &n, &kind)
    }

    fn add(&self, y: &mut Numbers, factor: f32, x: &Numbers) -> Result<(), Error> {
        check::add(y.length, x.length)?;
        let n = y.length;
        launch!(self, add, blocks(n), &mut y.numbers, &factor, &x.numbers, &n)
    }

    fn scale(&self, x: &mut Numbers, factor: f32) -> Result<(), Error> {
        let n = x.length;
        launch!(self, scale, blocks(n), &mut x.numbers, &factor, &n)
    }

    fn soft_cap(&self, x: &mut Numbers, cap: f32) -> Result<(), Error> {
        let n = x.length;
        launch!(self, soft_cap, blocks(n), &mut x.numbers, &cap, &n)
    }

    fn columns(&self, x: &Numbers, width: usize, columns: Columns) -> Result<Numbers, Error> {
        check::rows("columns", x.length, width)?;
        check::columns("columns", width, columns)?;
        let mut out = self.numbers(x.length / width.max(1) * columns.width())?;
        let n = out.length;
        let Columns { first, take, stride, count } = columns;
        if n > 0 {
            let (x, out) = (&x.numbers, &mut out.numbers);
            launch!(self, columns, blocks(n), x, &width, &first, &take, &stride, &count, out, &n)?;
        }
        Ok(out)
    }

    fn place(&self, out: &mut Numbers, width: usize, columns: Columns, x: &Numbers) -> Result<(), Error> {
        check::place(out.length, width, columns, x.length)?;
        let n = x.length;
        let Columns { first, take, stride, count } = columns;
        if n == 0 {
            return Ok(());
        }
        let (x, out) = (&x.numbers, &mut out.numbers);
        launch!(self, place, blocks(n), out, &width, &first, &take, &stride, &count, x, &n)
    }

    fn gather(&self, x: &Numbers, width: usize, rows: &[u32]) -> Result<Numbers, Error> {
        check::rows("gather", x.length, width)?;
        check::named("gather", x.length, width, rows)?;
        let mut out = self.numbers(rows.len() * width)?;
        let n = out.length;
        if n > 0 {
            let rows = self.sent(rows)?;
            launch!(self, gather, blocks(n), &x.numbers, &width, &rows, &mut out.numbers, &n)?;
        }
        Ok(out)
    }

    fn scatter_add(
        &self,
        out: &mut Numbers,
        width: usize,
        rows: &[u32],
        factors: &[f32],
        x: &Numbers,
    ) -> Result<(), Error> {
        check::scatter(out.length, width, (rows, factors.len()), x.length)?;
        let n = x.length;
        if n == 0 {
            return Ok(());
        }
        let (rows, factors) = (self.sent(rows)?, self.sent(factors)?);
        launch!(self, scatter_add, blocks(n), &mut out.numbers, &width, &rows, &factors, &x.numbers, &n)
    }

    fn gram(&self, x: &Numbers, width: usize, gram: &mut Numbers) -> Result<(), Error> {
        check::gram(x.length, width, gram.length)?;
        let rows = x.length / width.max(1);
        for first in (0..rows).step_by(ROWS) {
            self.blas.gram(&x.numbers, (first, ROWS.min(rows - first)), width, &mut gram.numbers)?;
        }
        Ok(())
    }

    fn cross(&self, a: &Numbers, b: &Numbers, (height, width): (usize, usize), sum: &mut Numbers) -> Result<(), Error> {
        check::cross((a.length, b.length), (height, width), sum.length)?;
        if sum.length == 0 {
            return Ok(());
        }
        let rows = b.length / width;
        for first in (0..rows).step_by(ROWS) {
            let part = (first, ROWS.min(rows - first));
            self.blas.cross((&a.numbers, &b.numbers), part, (height, width), &mut sum.numbers)?;
        }
        Ok(())
    }

    fn gram_f64(&self, x: &Numbers, width: usize, gram: &mut [f64]) -> Result<(), Error> {
        check::gram(x.length, width, gram.len())?;
        if x.length == 0 {
            return Ok(());
        }
        let mut sums = self.empty::<f64>(width * width)?;
        self.stream.memset_zeros(&mut sums).map_err(|error| fault("clear memory", error))?;
        let rows = x.length / width;
        let taken = (WIDENED / width).max(1).min(rows);
        let mut widened = self.empty::<f64>(taken * width)?;
        for row in (0..rows).step_by(taken) {
            let count = taken.min(rows - row);
            let (first, n) = (row * width, count * width);
            launch!(self, widen_f64, blocks(n), &x.numbers, &mut widened, &first, &n)?;
            self.blas.gram_f64(&widened, count, width, &mut sums)?;
        }
        // Some rows at a time, so that there is no second matrix in memory.
        let taken = (PIECE / size_of::<f64>() / width).max(1).min(width);
        let mut received = vec![0.0; taken * width];
        for (piece, gram) in gram.chunks_mut(taken * width).enumerate() {
            let received = &mut received[..gram.len()];
            self.received(&sums, piece * taken * width, received)?;
            for (row, (gram, received)) in gram.chunks_mut(width).zip(received.chunks(width)).enumerate() {
                let lower = 0..=piece * taken + row;
                gram[lower.clone()].iter_mut().zip(&received[lower]).for_each(|(gram, sum)| *gram += sum);
            }
        }
        Ok(())
    }

    fn moments(&self, x: &Numbers, width: usize, absolute: &mut [f64], squares: &mut [f64]) -> Result<(), Error> {
        check::moments(x.length, width, (absolute.len(), squares.len()))?;
        if x.length == 0 {
            return Ok(());
        }
        let rows = x.length / width;
        let taken = rows.div_ceil(64).max(64);
        let (parts, n) = (rows.div_ceil(taken), 2 * width);
        let mut part_sums = self.empty::<f64>(parts * n)?;
        let mut sums = self.empty::<f64>(n)?;
        let grid = (small(width.div_ceil(THREADS as usize)), small(parts), 1);
        launch!(self, moments, grid, &x.numbers, &rows, &width, &taken, &mut part_sums)?;
        launch!(self, add_parts, blocks(n), &part_sums, &parts, &mut sums, &n)?;
        let mut received = vec![0.0; n];
        self.received(&sums, 0, &mut received)?;
        let (first, second) = received.split_at(width);
        absolute.iter_mut().zip(first).for_each(|(sum, part)| *sum += part);
        squares.iter_mut().zip(second).for_each(|(sum, part)| *sum += part);
        Ok(())
    }

    fn first_not_finite(&self, x: &Numbers) -> Result<Option<usize>, Error> {
        let n = x.length;
        let count = n.div_ceil(THREADS as usize).clamp(1, FINDERS);
        let mut found = self.empty::<u64>(count)?;
        launch!(self, not_finite, (small(count), 1, 1), &x.numbers, &n, &mut found)?;
        let mut received = vec![u64::MAX; count];
        self.received(&found, 0, &mut received)?;
        let first = received.into_iter().min().filter(|first| *first != u64::MAX);
        Ok(first.and_then(|first| usize::try_from(first).ok()))
    }
}
