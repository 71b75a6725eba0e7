//! The choice of a device, and what is said where there is none.

#![allow(clippy::unwrap_used, reason = "a test")]

use qhost_compute::{Cuda, Device, DeviceChoice, Error, Opened};

#[test]
fn what_a_user_says_is_understood() {
    for (text, choice) in [
        ("auto", DeviceChoice::Auto),
        ("cpu", DeviceChoice::Cpu),
        ("cuda", DeviceChoice::Cuda(0)),
        ("cuda:0", DeviceChoice::Cuda(0)),
        ("cuda:11", DeviceChoice::Cuda(11)),
    ] {
        assert_eq!(text.parse(), Ok(choice), "{text}");
        assert_eq!(choice.to_string().parse(), Ok(choice), "{text}");
    }
}

#[test]
fn everything_else_is_refused_by_name() {
    for text in ["", "CPU", "gpu", "cuda:", "cuda:-1", "cuda:+1", "cuda: 1", "cuda:x", "cuda0", "cuda:1:2"] {
        let error = text.parse::<DeviceChoice>().unwrap_err().to_string();
        assert_eq!(error, format!("`{text}` is no device: it is auto, cpu, cuda or cuda:N"));
    }
    assert!("cuda:99999999999999999999999".parse::<DeviceChoice>().is_err());
}

#[test]
fn the_cpu_can_always_be_opened() {
    let opened = DeviceChoice::Cpu.open(|_| ()).unwrap();
    assert!(opened.describe().starts_with("CPU, "), "{}", opened.describe());
}

#[test]
fn something_that_computes_is_found() {
    let mut out = [0.0; 2];
    let opened = DeviceChoice::Auto.open(|_| ()).unwrap();
    match &opened {
        Opened::Cpu(cpu) => double(cpu, &[1.0, 2.0], &mut out),
        Opened::Cuda(cuda) => double(&**cuda, &[1.0, 2.0], &mut out),
    }
    .unwrap();
    assert!(out[0].to_bits() == 2.0_f32.to_bits() && out[1].to_bits() == 4.0_f32.to_bits());
}

fn double<D: Device>(device: &D, numbers: &[f32], out: &mut [f32]) -> Result<(), Error> {
    let mut buffer = device.upload(numbers)?;
    device.scale(&mut buffer, 2.0)?;
    device.download(&buffer, out)
}

#[test]
fn a_gpu_that_cannot_be_had_is_an_error_in_plain_words() {
    // No machine has that many: whatever of CUDA there is, it is refused, and nothing panics.
    let error = Cuda::open(1 << 20).unwrap_err().to_string();
    if error == "no CUDA driver was found" {
        assert!(Cuda::probe().unwrap().is_none());
        assert_eq!(DeviceChoice::Cuda(0).open(|_| ()).unwrap_err().to_string(), error);
        let opened = DeviceChoice::Auto.open(|unusable| assert_eq!(unusable.to_string(), "")).unwrap();
        assert!(matches!(opened, Opened::Cpu(_)));
    } else {
        let known =
            ["there is no GPU 1048576: ", "a CUDA driver was found, but no GPU", "the GPU could not be counted: "];
        assert!(known.iter().any(|known| error.starts_with(known)), "{error}");
    }
}
