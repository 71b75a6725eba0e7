//! Compiles the kernels of the CUDA device for some generations of GPUs, which needs NVRTC and no GPU.
#![allow(clippy::print_stdout, reason = "a command")]

use qhost_compute::{Cuda, Error};

fn main() -> Result<(), Error> {
    let named: Vec<i32> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let generations = if named.is_empty() { vec![75, 80, 86, 89, 90] } else { named };
    for generation in generations {
        let ptx = Cuda::kernels_for((generation / 10, generation % 10))?;
        let kernels = ptx.matches(".entry").count();
        println!("compute capability {generation}: {kernels} kernels, {} bytes of PTX", ptx.len());
    }
    Ok(())
}
