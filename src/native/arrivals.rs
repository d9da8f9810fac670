//! Gradients as they come: a backward pass that says of each parameter when its gradient is whole, while it still
//! runs for the parameters before it.

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tch::Tensor;

use super::{List, check, pointers};
use crate::error::{Error, Result};

unsafe extern "C" {
    fn retort_tell_arrivals(
        params: List,
        n: usize,
        context: *mut c_void,
        tell: extern "C" fn(*mut c_void, usize),
    ) -> c_int;
    fn retort_forget_arrivals(params: List, n: usize) -> c_int;
}

/// What is told of arrivals, and whether it panicked.
struct Listener<'l> {
    hear: &'l mut dyn FnMut(usize),
    panicked: bool,
}

extern "C" fn tell(context: *mut c_void, place: usize) {
    // SAFETY: `with_arrivals` keeps it alive through the backward pass, waits for that, and uses it for nothing else;
    // libtorch computes the gradients of one device one after the other.
    let listener = unsafe { &mut *context.cast::<Listener<'_>>() };
    // Unwinding must not cross into C++.
    let heard = catch_unwind(AssertUnwindSafe(|| (listener.hear)(place)));
    listener.panicked |= heard.is_err();
}

/// Runs a backward pass, and tells `hear` the place of each of these parameters when its gradient is whole. The
/// gradient may be taken away there and then.
///
/// `hear` may be called from libtorch's own thread while the caller waits.
pub fn with_arrivals(
    params: &[Tensor],
    hear: &mut dyn FnMut(usize),
    backward: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let list = pointers(params);
    let mut listener = Listener { hear, panicked: false };
    let context = (&raw mut listener).cast::<c_void>();
    // SAFETY: a list of n live tensors; the listener outlives what is told to it, as it is forgotten below.
    let told = check(unsafe { retort_tell_arrivals(list.as_ptr(), list.len(), context, tell) });
    let done = told.and_then(|()| backward());
    // SAFETY: as above.
    let forgotten = check(unsafe { retort_forget_arrivals(list.as_ptr(), list.len()) });
    if listener.panicked {
        return Err(Error::bug("what listens to gradients panicked"));
    }
    done.and(forgotten)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native;
    use tch::{Device, Kind};

    fn leaf(value: f32) -> Tensor {
        Tensor::from_slice(&[value]).set_requires_grad(true)
    }

    /// The parameter that was used last is told first, while the pass still runs, and its gradient may be taken.
    #[test]
    fn gradients_are_told_as_they_come() {
        let (a, b, unused) = (leaf(2.0), leaf(3.0), leaf(5.0));
        let params = [a.shallow_clone(), unused.shallow_clone(), b.shallow_clone()];
        let mut came = Vec::new();
        let loss = (&a * 2.0).exp() * &b;
        let mut hear = |place: usize| {
            came.push((place, params[place].grad().double_value(&[0]), a.grad().defined()));
            native::drop_grads(&[params[place].shallow_clone()]).unwrap();
        };
        let ones = [Tensor::ones([1], (Kind::Float, Device::Cpu))];
        with_arrivals(&params, &mut hear, || native::backward(&[loss], &ones, false)).unwrap();
        let exp = 4f64.exp();
        assert_eq!(came.iter().map(|c| (c.0, c.2)).collect::<Vec<_>>(), [(2, false), (0, true)]);
        assert!((came[0].1 - exp).abs() < 1e-3 && (came[1].1 - 6.0 * exp).abs() < 1e-2, "{came:?}");
        // Behind it nobody listens.
        (&b * 1.0).backward();
        assert!(b.grad().defined());
    }

    /// Blocks that are computed again tell of theirs, each once.
    #[test]
    fn recomputed_blocks_tell_of_theirs() {
        let weights: Vec<Tensor> = (0..3).map(|n| leaf(1.0 + n as f32)).collect();
        let mut x = Tensor::from_slice(&[1f32]).set_requires_grad(true);
        for w in &weights {
            let w = w.shallow_clone();
            x = native::recompute(&x, move |x| Ok(x * &w)).unwrap();
        }
        let mut came = Vec::new();
        let ones = [Tensor::ones([1], (Kind::Float, Device::Cpu))];
        with_arrivals(&weights, &mut |place| came.push(place), || native::backward(&[x], &ones, false))
            .unwrap();
        assert_eq!(came, [2, 1, 0]);
    }

    #[test]
    fn a_listener_that_panics_is_an_error() {
        let a = leaf(1.0);
        let ones = [Tensor::ones([1], (Kind::Float, Device::Cpu))];
        let params = [a.shallow_clone()];
        let done =
            with_arrivals(&params, &mut |_| panic!("no"), || native::backward(&[&a * 1.0], &ones, false));
        assert!(done.is_err());
    }
}
