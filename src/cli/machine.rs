//! What to compute on and in: --device, --dtype, --threads.

use std::str::FromStr;

use clap::ValueEnum;
use tch::{Device, Kind};

use crate::error::{Error, Result};
use crate::native::cuda;
use crate::weights::Dtype;

/// --device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU where there is one.
    Auto,
    /// The CPU.
    Cpu,
    /// This GPU.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            "cuda" => Ok(DeviceChoice::Cuda(0)),
            _ => {
                let number = text.strip_prefix("cuda:").and_then(|n| n.parse().ok());
                number
                    .map(DeviceChoice::Cuda)
                    .ok_or_else(|| Error::user("not a device").expected("auto, cpu, cuda or cuda:N"))
            }
        }
    }
}

impl DeviceChoice {
    /// The device of the n-th process on a machine: a GPU of its own where none is named by number.
    pub fn resolve_for(self, process: usize) -> Result<Device> {
        match self {
            DeviceChoice::Cuda(0) => DeviceChoice::Cuda(process).resolve(),
            DeviceChoice::Auto => match self.resolve()? {
                Device::Cuda(_) => DeviceChoice::Cuda(process).resolve(),
                other => Ok(other),
            },
            other => other.resolve(),
        }
    }

    /// The device, with CUDA loaded where it is asked for or found.
    pub fn resolve(self) -> Result<Device> {
        match self {
            DeviceChoice::Cpu => Ok(Device::Cpu),
            DeviceChoice::Auto => match cuda::load() {
                Ok(()) if tch::Cuda::device_count() > 0 => Ok(Device::Cuda(0)),
                Err(why) if cuda::has_driver() => {
                    tracing::warn!("this machine has an NVIDIA driver, but the CPU is used: {why}");
                    Ok(Device::Cpu)
                }
                _ => Ok(Device::Cpu),
            },
            DeviceChoice::Cuda(n) => {
                let none = |why: String| {
                    Error::user("no such GPU")
                        .field(format!("cuda:{n}"))
                        .found(why)
                        .advice("use --device cpu")
                };
                cuda::load().map_err(none)?;
                let count = tch::Cuda::device_count();
                if (n as i64) < count { Ok(Device::Cuda(n)) } else { Err(none(format!("{count} GPUs"))) }
            }
        }
    }
}

/// --dtype.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DtypeChoice {
    /// bf16 where the machine multiplies it fast, else f32
    Auto,
    /// float32
    F32,
    /// bfloat16
    Bf16,
    /// float16
    F16,
}

impl DtypeChoice {
    /// The float type to compute in on this device.
    pub fn resolve(self, device: Device) -> Kind {
        match self {
            DtypeChoice::F32 => Kind::Float,
            DtypeChoice::Bf16 => Kind::BFloat16,
            DtypeChoice::F16 => Kind::Half,
            DtypeChoice::Auto if fast_bf16(device) => Kind::BFloat16,
            DtypeChoice::Auto => Kind::Float,
        }
    }

    /// The float type to write, float32 unless told.
    pub fn to_write(self) -> Dtype {
        match self {
            DtypeChoice::Auto | DtypeChoice::F32 => Dtype::F32,
            DtypeChoice::Bf16 => Dtype::BF16,
            DtypeChoice::F16 => Dtype::F16,
        }
    }
}

/// Whether the device multiplies bfloat16 in hardware: a GPU from Ampere on, a CPU with AVX512-BF16.
/// libtorch's emulation on the CPU is ten times slower than float32.
fn fast_bf16(device: Device) -> bool {
    if let Device::Cuda(n) = device {
        return cuda::capability(n).is_ok_and(|c| c >= 80);
    }
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Sets the threads of libtorch and of the Rust side: the flag, else OMP_NUM_THREADS, else all cores.
pub(super) fn set_threads(flag: Option<u16>) -> Result<()> {
    let from_environment = || std::env::var("OMP_NUM_THREADS").ok()?.split(',').next()?.trim().parse().ok();
    let Some(threads) = flag.or_else(from_environment).filter(|&n: &u16| n > 0) else { return Ok(()) };
    tch::set_num_threads(i32::from(threads));
    // A pool that is there already (tests) stays as it is.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(usize::from(threads)).build_global();
    Ok(())
}
