//! Which device is taken: what a user says, and what is opened then.

use std::{fmt, str::FromStr};

use crate::{Cpu, Cuda, Error};

/// What a user says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// A GPU if there is one that can be used, and the CPU otherwise.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU with this number.
    Cuda(usize),
}

/// A device that can be used.
///
/// An operation is generic over the device, so that it is called once for each:
///
/// ```
/// use qhost_compute::{Device, DeviceChoice, Error, Opened};
///
/// fn largest<D: Device>(device: &D, numbers: &[f32]) -> Result<f32, Error> {
///     let mut buffer = device.upload(numbers)?;
///     device.scale(&mut buffer, 2.0)?;
///     let mut out = vec![0.0; device.length(&buffer)];
///     device.download(&buffer, &mut out)?;
///     Ok(out.into_iter().fold(f32::MIN, f32::max))
/// }
///
/// let choice: DeviceChoice = "auto".parse()?;
/// let found = match choice.open(|unusable| eprintln!("{unusable}"))? {
///     Opened::Cpu(cpu) => largest(&cpu, &[1.0, 3.0])?,
///     Opened::Cuda(cuda) => largest(&*cuda, &[1.0, 3.0])?,
/// };
/// assert_eq!(found, 6.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub enum Opened {
    /// The CPU.
    Cpu(Cpu),
    /// A GPU.
    Cuda(Box<Cuda>),
}

impl DeviceChoice {
    /// Opens it; `unusable` gets to know why a GPU that is there is passed over for the CPU.
    ///
    /// # Errors
    /// The GPU that was asked for by its number cannot be used.
    pub fn open(self, unusable: impl FnOnce(&Error)) -> Result<Opened, Error> {
        match self {
            Self::Cpu => Ok(Opened::Cpu(Cpu::new())),
            Self::Cuda(ordinal) => Ok(Opened::Cuda(Box::new(Cuda::open(ordinal)?))),
            Self::Auto => match Cuda::probe() {
                Ok(Some(cuda)) => Ok(Opened::Cuda(Box::new(cuda))),
                Ok(None) => Ok(Opened::Cpu(Cpu::new())),
                Err(error) => {
                    unusable(&error);
                    Ok(Opened::Cpu(Cpu::new()))
                }
            },
        }
    }

    /// What it means, in words.
    #[must_use]
    pub fn describe(self) -> String {
        match self {
            Self::Auto => "a GPU if there is one, and the CPU otherwise".into(),
            Self::Cpu => "the CPU".into(),
            Self::Cuda(ordinal) => format!("GPU {ordinal}"),
        }
    }
}

impl Opened {
    /// What it is, in words.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Cpu(cpu) => format!("CPU, {:?} instructions", cpu.instruction_set()),
            Self::Cuda(cuda) => cuda.describe(),
        }
    }
}

/// As it is written: what is displayed parses to the same.
impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

/// Words that name no device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no device: it is auto, cpu, cuda or cuda:N")]
pub struct UnknownDevice(String);

impl FromStr for DeviceChoice {
    type Err = UnknownDevice;

    fn from_str(text: &str) -> Result<Self, UnknownDevice> {
        let unknown = || UnknownDevice(text.into());
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let number = text.strip_prefix("cuda:").ok_or_else(unknown)?;
                // No sign, no space: only what a number is written with.
                if !number.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(unknown());
                }
                number.parse().map(Self::Cuda).map_err(|_| unknown())
            }
        }
    }
}
