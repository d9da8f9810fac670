//! Tells the linker where libtorch is, so that this crate's tests and benches start from any folder.

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    let lib = std::env::var_os("DEP_TCH_LIBTORCH_LIB").ok_or("torch-sys did not say where libtorch is")?;
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", PathBuf::from(lib).display());
    Ok(())
}
