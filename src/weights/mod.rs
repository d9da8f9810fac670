//! Bytes on disk <-> checked, named tensors. Layer 1: uses layer 0.
//!
//! A model's architecture says which tensors it needs ([`Spec`]) and how its names may vary
//! ([`Naming`]); this room finds them in a folder, checks every name, shape and element type before a
//! tensor is made, and makes tensors over the mapped file or copies of it. Nothing is broadcast,
//! dropped or converted without being asked for.

pub mod beside;
pub mod finite;
pub mod folder;
pub mod gguf;
pub mod locate;
pub mod lora;
pub mod names;
pub mod params;
pub mod safetensors;
pub mod save;
pub mod tap;

pub use beside::ModelFiles;
pub use folder::{Plan, WeightFiles};
pub use lora::{Adapter, Lora};
pub use names::{Naming, Spec};
pub use params::{Params, Residence};
pub use save::{Dtype, Entry, write_safetensors};
pub use tap::Tap;
