//! The shim against sums written out, and against what must be refused.

use tch::{Device, Kind, Tensor};

use super::*;

fn close(a: &Tensor, b: &Tensor, tolerance: f64) {
    let worst = (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[]);
    assert!(worst <= tolerance, "worst difference {worst}");
}

#[test]
fn memory_is_lent_and_given_back() {
    struct Floats(Vec<f32>);
    impl AsRef<[u8]> for Floats {
        fn as_ref(&self) -> &[u8] {
            // SAFETY: plain floats read as bytes.
            unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast::<u8>(), self.0.len() * 4) }
        }
    }
    let owner = Arc::new(Floats(vec![1f32, 2., 3., 4., 5., 6.]));
    let t = tensor_over(owner.clone(), 0..24, &[2, 3], Kind::Float).unwrap();
    assert_eq!(t.data_ptr().cast_const().cast::<f32>(), owner.0.as_ptr(), "nothing is copied");
    let view = t.narrow(1, 1, 2);
    drop(t);
    assert_eq!(Arc::strong_count(&owner), 2, "a view keeps the memory");
    assert_eq!(view.sum(Kind::Float).double_value(&[]), 2. + 3. + 5. + 6.);
    drop(view);
    assert_eq!(Arc::strong_count(&owner), 1);
    assert!(tensor_over(owner.clone(), 0..24, &[7], Kind::Float).is_err());
    assert!(tensor_over(owner.clone(), 0..28, &[7], Kind::Float).is_err(), "behind the end");
    assert!(tensor_over(owner.clone(), 1..5, &[1], Kind::Float).is_err(), "misaligned");
}

/// Three steps against the update written out in float64.
#[test]
fn adamw_is_adamw() {
    let s = AdamW { lr: 0.01, betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1 };
    let start = Tensor::from_slice(&[0.5f32, -1.0, 2.0]);
    let params = [start.copy()];
    let (first, second, steps) = ([start.zeros_like()], [start.zeros_like()], [Tensor::from(0f32)]);
    let mut x = [0.5f64, -1.0, 2.0];
    let (mut m, mut v) = ([0f64; 3], [0f64; 3]);
    for step in 1..=3 {
        let g = [0.3 * f64::from(step), -0.2, 0.05];
        let grads = [Tensor::from_slice(&g).to_kind(Kind::Float)];
        adamw(
            AdamWTensors { params: &params, grads: &grads, first: &first, second: &second, steps: &steps },
            s,
        )
        .unwrap();
        for i in 0..3 {
            x[i] -= s.lr * s.weight_decay * x[i];
            m[i] = 0.9 * m[i] + 0.1 * g[i];
            v[i] = 0.95 * v[i] + 0.05 * g[i] * g[i];
            let (mh, vh) = (m[i] / (1. - 0.9f64.powi(step)), v[i] / (1. - 0.95f64.powi(step)));
            x[i] -= s.lr * mh / (vh.sqrt() + s.eps);
        }
    }
    close(&params[0], &Tensor::from_slice(&x), 1e-6);
    assert_eq!(steps[0].double_value(&[]), 3.0);
}

/// The kernel itself would read behind the end, or apply a transposed gradient in memory's order.
#[test]
fn adamw_refuses_what_does_not_fit_and_straightens_gradients() {
    let s = AdamW { lr: 0.1, betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.0 };
    let zeros = || Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
    let run = |grad: Tensor, first: Tensor| {
        let params = [zeros()];
        let (grads, first, second, steps) = ([grad], [first], [zeros()], [Tensor::from(0f32)]);
        let t =
            AdamWTensors { params: &params, grads: &grads, first: &first, second: &second, steps: &steps };
        adamw(t, s).map(|()| params[0].copy())
    };
    assert!(run(Tensor::zeros([2], (Kind::Float, Device::Cpu)), zeros()).is_err());
    assert!(run(zeros(), zeros().to_kind(Kind::Double)).is_err());
    let grad = Tensor::from_slice(&[1f32, -1., 0., 0., -1., 1.]).view([3, 2]).transpose(0, 1);
    close(&run(grad.shallow_clone(), zeros()).unwrap(), &(-0.1 * grad.sign()), 1e-6);
}

#[test]
fn clipping_scales_all_by_one_factor() {
    let a = [Tensor::from_slice(&[3f32, 0.]), Tensor::from_slice(&[4f32])];
    assert_eq!(global_norm(&a).unwrap().double_value(&[]), 5.0);
    assert_eq!(clip(&a, 1.0).unwrap().double_value(&[]), 5.0);
    close(&a[0], &Tensor::from_slice(&[0.6f32, 0.]), 1e-6);
    close(&a[1], &Tensor::from_slice(&[0.8f32]), 1e-6);
    assert!((clip(&a, 7.0).unwrap().double_value(&[]) - 1.0).abs() < 1e-5, "below the bound nothing changes");
    close(&a[1], &Tensor::from_slice(&[0.8f32]), 1e-6);
}

#[test]
fn masters_and_copies_of_another_type() {
    let masters = [Tensor::from_slice(&[1f32, 1e-4])];
    let copies = [masters[0].to_kind(Kind::BFloat16)];
    add_all(&masters, &copies, 2.0).unwrap();
    close(&masters[0], &Tensor::from_slice(&[3f32, 3e-4]), 1e-6);
    copy_all(&copies, &masters).unwrap();
    assert_eq!(copies[0].kind(), Kind::BFloat16);
    close(&copies[0], &masters[0], 1e-2);
    zero_all(&copies).unwrap();
    assert_eq!(copies[0].abs().max().double_value(&[]), 0.0);
    assert!(add_all(&masters, &[], 1.0).is_err());
}

#[test]
fn backward_takes_the_gradient_it_is_given() {
    let x = Tensor::from_slice(&[1f32, 2., 3.]).set_requires_grad(true);
    let y = &x * &x;
    backward(&[y], &[Tensor::from_slice(&[1f32, 0., -1.])], false).unwrap();
    close(&x.grad(), &Tensor::from_slice(&[2f32, 0., -6.]), 0.0);
}

/// Without them the second pass would give the sum of both.
#[test]
fn gradients_that_are_dropped_are_not_added_to() {
    let x = Tensor::from_slice(&[1f32, 2.]).set_requires_grad(true);
    for _ in 0..2 {
        backward(&[&x * &x], &[Tensor::from_slice(&[1f32, 1.])], false).unwrap();
        close(&x.grad(), &Tensor::from_slice(&[2f32, 4.]), 0.0);
        drop_grads(&[x.shallow_clone()]).unwrap();
        assert!(!x.grad().defined());
    }
}

/// A block run twice gives the gradients of a block run once, for its input and for what it holds.
#[test]
fn recomputing_changes_no_gradient() {
    let grads = |again: bool| {
        tch::manual_seed(3);
        let w = Tensor::randn([4, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let x = Tensor::randn([2, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let held = w.shallow_clone();
        let block = move |x: &Tensor| Ok(x.f_matmul(&held)?.f_tanh()?);
        let y = if again { recompute(&x, block).unwrap() } else { block(&x).unwrap() };
        (&y * &y).sum(Kind::Float).backward();
        (y.detach(), x.grad(), w.grad())
    };
    let (a, b) = (grads(false), grads(true));
    close(&a.0, &b.0, 0.0);
    close(&a.1, &b.1, 0.0);
    close(&a.2, &b.2, 0.0);
}

#[test]
fn recomputing_reaches_leaves_behind_a_frozen_input() {
    let w = Tensor::from_slice(&[2f32]).set_requires_grad(true);
    let held = w.shallow_clone();
    let y = recompute(&Tensor::from_slice(&[3f32]), move |x| Ok(x * &held)).unwrap();
    y.backward();
    close(&w.grad(), &Tensor::from_slice(&[3f32]), 0.0);
}

#[test]
fn a_failing_block_is_an_error_that_says_why() {
    let x = Tensor::from_slice(&[1f32]);
    let e = recompute(&x, |_| Err(Error::numeric("lost it"))).unwrap_err();
    assert!(e.to_string().contains("lost it"), "{e}");
    assert_eq!(e.cause(), crate::error::Cause::Numeric, "the cause comes through C++");
    let e = recompute(&x, |x| Ok(x.f_view([7])?)).unwrap_err();
    assert!(e.to_string().contains("shape"), "{e}");
}

#[test]
fn without_a_gpu_every_call_says_why() {
    if cuda::load().is_ok() {
        return;
    }
    for e in [cuda::memory(0).unwrap_err(), cuda::Graph::capture(0, || Ok(())).unwrap_err()] {
        assert!(e.to_string().contains("no GPU"), "{e}");
        assert_eq!(e.cause().exit_code(), 2);
    }
}

#[test]
fn the_version_is_the_one_that_was_pinned() {
    assert!(torch_version().starts_with("2.11.0"), "{}", torch_version());
}

#[test]
fn libtorch_knows_its_folder() {
    let folder = cuda::torch_folder().unwrap();
    assert!(
        folder.join("libtorch_cpu.so").exists() || folder.join("libtorch_cpu.dylib").exists(),
        "{folder:?}"
    );
}
