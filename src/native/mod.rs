//! What tch lacks of libtorch, through a small C++ shim. Layer 0: uses `error`.
//!
//! Every call is safe: tensors go in by reference, an exception of libtorch comes back as an error.
//! `cuda` holds what exists on a GPU alone, and says so where there is none.

pub mod arrivals;
pub mod count;
pub mod cuda;
pub mod group;
pub mod host;
pub mod nccl;
pub mod parallel;
pub mod small;
pub mod widen;

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tch::{Kind, Tensor};
use torch_sys::C_tensor;

use crate::error::{Error, Result};

/// Tensors one after the other, and the place for a new one.
type List = *const *mut C_tensor;
type Out = *mut *mut C_tensor;

unsafe extern "C" {
    fn retort_error() -> *const c_char;
    fn retort_keep_error(text: *const c_char);
    fn retort_from_memory(
        data: *const c_void,
        shape: *const i64,
        dims: usize,
        dtype: c_int,
        owner: *mut c_void,
        release: extern "C" fn(*mut c_void),
        out: Out,
    ) -> c_int;
    fn retort_adamw(
        params: List,
        grads: List,
        m: List,
        v: List,
        steps: List,
        n: usize,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
    ) -> c_int;
    fn retort_global_norm(tensors: List, n: usize, out: Out) -> c_int;
    fn retort_clip(tensors: List, n: usize, most: f64, out: Out) -> c_int;
    fn retort_add_all(into: List, from: List, n: usize, factor: f64) -> c_int;
    fn retort_copy_all(into: List, from: List, n: usize) -> c_int;
    fn retort_zero_all(tensors: List, n: usize) -> c_int;
    fn retort_drop_grads(tensors: List, n: usize) -> c_int;
    fn retort_backward(outputs: List, grads: List, n: usize, keep_graph: bool) -> c_int;
    fn retort_wide_linear(x: *mut C_tensor, w: *mut C_tensor, bias: *mut C_tensor, out: Out) -> c_int;
    fn retort_recompute(
        x: *mut C_tensor,
        context: *mut c_void,
        run: extern "C" fn(*mut c_void, *mut C_tensor) -> *mut C_tensor,
        release: extern "C" fn(*mut c_void),
        out: Out,
    ) -> c_int;
    fn retort_set_deterministic(on: bool) -> c_int;
    fn retort_set_tf32(on: bool) -> c_int;
    fn retort_torch_version(text: *mut c_char, room: usize) -> c_int;
    fn retort_torch_address() -> *const c_void;
}

thread_local! {
    /// The error of a recomputed block, which C++ can only hand on as text.
    static BLOCK_ERROR: RefCell<Option<Error>> = const { RefCell::new(None) };
}

/// Turns the shim's answer into a result.
fn check(code: c_int) -> Result<()> {
    let of_block = BLOCK_ERROR.with(RefCell::take);
    if code == 0 {
        return Ok(());
    }
    if let Some(e) = of_block {
        return Err(e);
    }
    // SAFETY: the shim keeps a NUL-terminated string for this thread.
    let text = unsafe { CStr::from_ptr(retort_error()) }.to_string_lossy().into_owned();
    Err(tch::TchError::Torch(text).into())
}

fn pointers<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Vec<*mut C_tensor> {
    tensors.into_iter().map(|t| t.as_ptr().cast_mut()).collect()
}

/// Takes a tensor that the shim handed out.
fn taken(out: *mut C_tensor) -> Tensor {
    // SAFETY: the shim allocated it for the caller, who is here.
    unsafe { Tensor::from_ptr(out) }
}

fn same_number(a: usize, b: usize) -> Result<()> {
    if a == b { Ok(()) } else { Err(Error::bug("lists of tensors differ in length").expected(a).found(b)) }
}

/// A tensor over a part of the memory that `owner` keeps alive: nothing is copied, and the owner is
/// released when the last tensor over it is gone. `kind` elements of `shape` must fill the part, aligned
/// for their kind. Where the memory is a mapped file, nothing may write to the tensor.
pub fn tensor_over<T: AsRef<[u8]> + Send + Sync + 'static>(
    owner: Arc<T>,
    part: Range<usize>,
    shape: &[i64],
    kind: Kind,
) -> Result<Tensor> {
    extern "C" fn release<T>(owner: *mut c_void) {
        // SAFETY: `into_raw` of the same type below.
        drop(unsafe { Arc::from_raw(owner.cast_const().cast::<T>()) });
    }
    let bytes =
        owner.as_ref().as_ref().get(part).ok_or_else(|| Error::bug("a tensor ends behind its memory"))?;
    let size = kind.elt_size_in_bytes();
    let need = shape.iter().try_fold(size as i64, |n, &d| if d < 0 { None } else { n.checked_mul(d) });
    if need != Some(bytes.len() as i64) || bytes.as_ptr().align_offset(size) != 0 {
        return Err(Error::bug("a tensor does not fit its memory")
            .expected(format!("{shape:?} of {kind:?}"))
            .found(bytes.len()));
    }
    let (data, number) = (bytes.as_ptr().cast(), kind_number(kind)?);
    let mut out = std::ptr::null_mut();
    let raw = Arc::into_raw(owner).cast_mut().cast::<c_void>();
    // SAFETY: size and alignment are checked; the owner lives until libtorch releases it.
    check(unsafe {
        retort_from_memory(data, shape.as_ptr(), shape.len(), number, raw, release::<T>, &mut out)
    })?;
    Ok(taken(out))
}

/// libtorch's number for an element type.
fn kind_number(kind: Kind) -> Result<c_int> {
    Ok(match kind {
        Kind::Uint8 => 0,
        Kind::Int8 => 1,
        Kind::Int16 => 2,
        Kind::Int => 3,
        Kind::Int64 => 4,
        Kind::Half => 5,
        Kind::Float => 6,
        Kind::Double => 7,
        Kind::Bool => 11,
        Kind::BFloat16 => 15,
        other => return Err(Error::bug("an element type without a number").found(format!("{other:?}"))),
    })
}

/// The numbers of one AdamW update.
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    /// Learning rate of this update.
    pub lr: f64,
    /// Decay of the two moments.
    pub betas: [f64; 2],
    /// Added to the denominator.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

/// The tensors of one AdamW update, index by index: a parameter, its gradient, its two moments, and
/// its step counter (a float32 scalar, counted up here).
#[derive(Debug, Clone, Copy)]
pub struct AdamWTensors<'a> {
    /// Parameters, changed in place.
    pub params: &'a [Tensor],
    /// Their gradients.
    pub grads: &'a [Tensor],
    /// First moments, changed in place.
    pub first: &'a [Tensor],
    /// Second moments, changed in place.
    pub second: &'a [Tensor],
    /// Step counters, changed in place.
    pub steps: &'a [Tensor],
}

/// One fused AdamW update of many tensors (`_fused_adamw_`).
pub fn adamw(t: AdamWTensors<'_>, s: AdamW) -> Result<()> {
    let n = t.params.len();
    for list in [t.grads, t.first, t.second, t.steps] {
        same_number(n, list.len())?;
    }
    let lists = [t.params, t.grads, t.first, t.second, t.steps].map(pointers);
    let [p, g, m, v, steps] = lists.each_ref().map(|l| l.as_ptr());
    // SAFETY: five lists of n live tensors.
    check(unsafe { retort_adamw(p, g, m, v, steps, n, s.lr, s.betas[0], s.betas[1], s.weight_decay, s.eps) })
}

/// The 2-norm over all these tensors together, as a float32 scalar on their device.
pub fn global_norm(tensors: &[Tensor]) -> Result<Tensor> {
    if tensors.is_empty() {
        return Ok(Tensor::from(0f32));
    }
    let list = pointers(tensors);
    let mut out = std::ptr::null_mut();
    // SAFETY: a list of n live tensors.
    check(unsafe { retort_global_norm(list.as_ptr(), list.len(), &mut out) })?;
    Ok(taken(out))
}

/// Scales all these tensors so that their common 2-norm is at most `most`, and answers the norm
/// before. Nothing waits for the device.
pub fn clip(tensors: &[Tensor], most: f64) -> Result<Tensor> {
    if tensors.is_empty() {
        return Ok(Tensor::from(0f32));
    }
    let list = pointers(tensors);
    let mut out = std::ptr::null_mut();
    // SAFETY: a list of n live tensors.
    check(unsafe { retort_clip(list.as_ptr(), list.len(), most, &mut out) })?;
    Ok(taken(out))
}

/// `into[i] += factor * from[i]`, whatever the element types.
pub fn add_all(into: &[Tensor], from: &[Tensor], factor: f64) -> Result<()> {
    same_number(into.len(), from.len())?;
    let (a, b) = (pointers(into), pointers(from));
    // SAFETY: two lists of n live tensors.
    check(unsafe { retort_add_all(a.as_ptr(), b.as_ptr(), a.len(), factor) })
}

/// `into[i] = from[i]`, whatever the element types.
pub fn copy_all(into: &[Tensor], from: &[Tensor]) -> Result<()> {
    same_number(into.len(), from.len())?;
    if into.is_empty() {
        return Ok(());
    }
    let (a, b) = (pointers(into), pointers(from));
    // SAFETY: two lists of n live tensors.
    check(unsafe { retort_copy_all(a.as_ptr(), b.as_ptr(), a.len()) })
}

/// Sets all these tensors to zero.
pub fn zero_all(tensors: &[Tensor]) -> Result<()> {
    if tensors.is_empty() {
        return Ok(());
    }
    let list = pointers(tensors);
    // SAFETY: a list of n live tensors.
    check(unsafe { retort_zero_all(list.as_ptr(), list.len()) })
}

/// Forgets the gradients that a backward pass left at these tensors: their memory is free, and the next pass need
/// not add to them.
pub fn drop_grads(tensors: &[Tensor]) -> Result<()> {
    let list = pointers(tensors);
    // SAFETY: a list of n live tensors.
    check(unsafe { retort_drop_grads(list.as_ptr(), list.len()) })
}

/// Runs the backward pass from `outputs` with these gradients (tch starts from ones alone).
pub fn backward(outputs: &[Tensor], grads: &[Tensor], keep_graph: bool) -> Result<()> {
    same_number(outputs.len(), grads.len())?;
    let (o, g) = (pointers(outputs), pointers(grads));
    // SAFETY: two lists of n live tensors.
    check(unsafe { retort_backward(o.as_ptr(), g.as_ptr(), o.len(), keep_graph) })
}

/// `x w^T + bias` of narrow numbers, computed in float32 forward and back, in the type of x. What is kept for the
/// backward pass is narrow.
fn wide_linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let bias = bias.map_or(std::ptr::null_mut(), |t| t.as_ptr().cast_mut());
    let mut out = std::ptr::null_mut();
    // SAFETY: live tensors, or null where there is no bias.
    check(unsafe { retort_wide_linear(x.as_ptr().cast_mut(), w.as_ptr().cast_mut(), bias, &raw mut out) })?;
    // SAFETY: a new tensor that nobody else owns.
    Ok(unsafe { Tensor::from_ptr(out) })
}

/// What [`recompute`] runs, once forward and once more in the backward pass.
type Block = Box<dyn Fn(&Tensor) -> Result<Tensor> + Send>;

/// Runs `block` on `x` without keeping what its gradient needs: the backward pass computes it again
/// from `x`. Gradients reach `x` and every leaf that the block holds.
///
/// The block runs in the forward pass with gradients off, so it must not look at the gradient mode,
/// and must give the same result each time.
pub fn recompute(x: &Tensor, block: impl Fn(&Tensor) -> Result<Tensor> + Send + 'static) -> Result<Tensor> {
    extern "C" fn run(context: *mut c_void, x: *mut C_tensor) -> *mut C_tensor {
        // SAFETY: the shim hands back the box made below, and a tensor that lives through the call.
        let (block, x) = unsafe { (&*context.cast::<Block>(), Tensor::clone_from_ptr(x)) };
        // Unwinding must not cross into C++.
        let done = catch_unwind(AssertUnwindSafe(|| block(&x)));
        match done.unwrap_or_else(|_| Err(Error::bug("a block panicked"))) {
            Ok(mut y) => {
                let raw = y.as_mut_ptr();
                std::mem::forget(y);
                raw
            }
            Err(e) => {
                let text = CString::new(e.to_string()).unwrap_or_default();
                // SAFETY: a NUL-terminated string, copied by the shim.
                unsafe { retort_keep_error(text.as_ptr()) };
                BLOCK_ERROR.with(|kept| kept.replace(Some(e)));
                std::ptr::null_mut()
            }
        }
    }
    extern "C" fn release(context: *mut c_void) {
        // SAFETY: the box made below, released once by the shim.
        drop(unsafe { Box::from_raw(context.cast::<Block>()) });
    }
    let context: Box<Block> = Box::new(Box::new(block));
    let mut out = std::ptr::null_mut();
    // SAFETY: the shim owns the context from here, also when it fails.
    let code = unsafe {
        retort_recompute(x.as_ptr().cast_mut(), Box::into_raw(context).cast(), run, release, &mut out)
    };
    check(code)?;
    Ok(taken(out))
}

/// Makes every operation give the same bits each time, or fail where it cannot.
pub fn set_deterministic(on: bool) -> Result<()> {
    // SAFETY: a plain switch.
    check(unsafe { retort_set_deterministic(on) })
}

/// Lets float32 products on a GPU round their factors to TF32 (10 bits of mantissa), or not.
pub fn set_tf32(on: bool) -> Result<()> {
    // SAFETY: a plain switch.
    check(unsafe { retort_set_tf32(on) })
}

/// The libtorch that this binary was built against.
pub fn torch_version() -> String {
    let mut text = [0 as c_char; 64];
    // SAFETY: the shim writes at most 64 bytes, NUL included.
    match check(unsafe { retort_torch_version(text.as_mut_ptr(), text.len()) }) {
        // SAFETY: NUL-terminated by the shim.
        Ok(()) => unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned(),
        Err(_) => "unknown".into(),
    }
}

#[cfg(test)]
mod tests;
