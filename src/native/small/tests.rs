//! Against libtorch's own operations, and alone against in a batch, bit by bit.

use tch::{Device, Kind, Tensor};

use super::*;
use crate::seed::{Stream, uniform};

fn numbers(shape: &[i64], salt: u64) -> Tensor {
    let n: i64 = shape.iter().product();
    let x: Vec<f32> = (0..n).map(|i| (uniform(salt, Stream::Noise, 0, i as u64) - 0.5) as f32).collect();
    Tensor::from_slice(&x).view(shape)
}

fn off(a: &Tensor, b: &Tensor) -> f64 {
    (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[])
}

/// The machine that runs this may have no loops of ours; then there is nothing to test.
fn here() -> bool {
    std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
}

const KINDS: [(Kind, f64); 2] = [(Kind::Float, 1e-6), (Kind::BFloat16, 8e-3)];

#[test]
fn products_equal_float64s_and_do_not_depend_on_the_batch() {
    if !here() {
        return;
    }
    let _few = allow();
    let both = [Order::OutputFirst, Order::InputFirst];
    for (rows, k, n) in [(1, 8, 8), (2, 24, 40), (3, 288, 16), (7, 64, 72), (8, 1536, 136), (33, 576, 200)] {
        for ((kind, unit), order) in KINDS.into_iter().flat_map(|kind| both.map(|order| (kind, order))) {
            let w = numbers(&[n, k], 2).to_kind(kind);
            let stored = if order == Order::InputFirst { w.tr().contiguous() } else { w.shallow_clone() };
            let [x, b] = [numbers(&[rows, 1, k], 1), numbers(&[n], 3)].map(|t| t.to_kind(kind));
            let double = |t: &Tensor| t.to_kind(Kind::Double);
            let exact = double(&x).linear(&double(&w), Some(&double(&b)));
            for (out, unit) in [(kind, unit), (Kind::Float, 1e-6)] {
                let all = linear(&x, &stored, order, Some(&b), out).unwrap().unwrap();
                assert_eq!((all.size(), all.kind()), (vec![rows, 1, n], out));
                let most = exact.abs().max().double_value(&[]);
                assert!(off(&all, &exact) <= unit * most, "{rows} x {k} x {n} {order:?} {kind:?} to {out:?}");
                for row in 0..rows {
                    let alone = linear(&x.narrow(0, row, 1), &stored, order, Some(&b), out).unwrap().unwrap();
                    assert!(alone.equal(&all.narrow(0, row, 1)));
                }
            }
        }
    }
}

#[test]
fn columns_need_not_come_out_even() {
    if !here() {
        return;
    }
    let _few = allow();
    for (n, threads) in [(1, 1), (3, 1), (19, 1), (1001, 2)] {
        let before = tch::get_num_threads();
        tch::set_num_threads(threads);
        let (x, w) = (numbers(&[5, 768], 1), numbers(&[n, 768], 2));
        let out = linear(&x, &w, Order::OutputFirst, None, Kind::Float).unwrap().unwrap();
        tch::set_num_threads(before);
        assert!(off(&out, &x.linear(&w, None::<Tensor>)) < 1e-4);
    }
}

#[test]
fn what_libtorch_does_better_is_left_to_it() {
    let product = |rows, k| {
        linear(&numbers(&[rows, k], 1), &numbers(&[4, k], 2), Order::OutputFirst, None, Kind::Float).unwrap()
    };
    assert!(product(2, 8).is_none(), "nobody has allowed it");
    let _few = allow();
    assert!(product(65, 8).is_none() && product(2, 9).is_none());
    assert_eq!(product(2, 8).is_some(), here());
    let (x, w) = (numbers(&[2, 8], 1).to_kind(Kind::Double), numbers(&[4, 8], 2));
    assert!(linear(&x, &w, Order::OutputFirst, None, Kind::Float).unwrap().is_none());
}

#[test]
fn norms_rotations_and_gates_equal_libtorchs() {
    if !here() {
        return;
    }
    let _few = allow();
    for (kind, unit) in KINDS {
        let [x, weight] = [numbers(&[5, 1, 36], 1), numbers(&[36], 2)].map(|t| t.to_kind(kind));
        let normed = rms_norm(&x, &weight, 1e-5).unwrap().unwrap();
        let wide = [&x, &weight].map(|t| t.to_kind(Kind::Double));
        assert!(off(&normed, &wide[0].rms_norm([36], Some(&wide[1]), 1e-5)) < 2.0 * unit);
        let heads = numbers(&[5, 2, 3, 12], 1).to_kind(kind);
        let [cos, sin] = [2, 3].map(|salt| numbers(&[5, 2, 1, 12], salt).to_kind(kind));
        let expected = &heads * &cos + heads.roll([6], [-1]) * &sin;
        assert!(off(&turn(&heads, &cos, &sin).unwrap().unwrap(), &expected) < unit);
        let [gate_in, up] =
            [numbers(&[3, 1, 20], 1) * 60.0, numbers(&[3, 1, 20], 2)].map(|t| t.to_kind(kind));
        let wide = [&gate_in, &up].map(|t| t.to_kind(Kind::Double));
        assert!(off(&gate(&gate_in, &up).unwrap().unwrap(), &(wide[0].silu() * &wide[1])) < 15.0 * unit);
    }
}

/// Rows of a cache with lengths of their own, in an order of their own, against libtorch's attention
/// over each row's keys alone.
#[test]
fn attention_looks_at_each_rows_own_keys() {
    if !here() {
        return;
    }
    let _few = allow();
    for ((kind, unit), (heads, kv, d, t, window)) in KINDS.into_iter().flat_map(|kind| {
        [(4, 4, 48, 1, None), (6, 2, 64, 3, None), (4, 1, 8, 5, Some(7)), (3, 3, 120, 1, Some(90))]
            .map(|shape| (kind, shape))
    }) {
        let room = 150;
        let [keys, values] = [1, 2].map(|salt| numbers(&[4, kv, room, d], salt).to_kind(kind));
        let q = (numbers(&[3, t, heads, d], 3) * 8.0).to_kind(kind);
        let (rows, starts) = ([3i64, 0, 2], [140i64, 3, 64]);
        let positions: Vec<i64> = starts.iter().flat_map(|s| (0..t).map(move |j| s + j)).collect();
        let positions = Tensor::from_slice(&positions).view([3, t]);
        let index = Tensor::from_slice(&rows);
        let behind =
            Behind { positions_bt: &positions, rows: Some(&index), most: 140 + t, window, scale: Some(0.3) };
        let all = attend(&q, &keys, &values, behind).unwrap().unwrap();
        assert_eq!(all.size(), [3, t, heads * d]);
        for b in 0..3 {
            for j in 0..t {
                let until = starts[b as usize] + j + 1;
                let from = window.map_or(0, |w: i64| (until - w).max(0));
                let of = |x: &Tensor| {
                    let row = x.narrow(0, rows[b as usize], 1).narrow(2, from, until - from);
                    row.repeat_interleave_self_int(heads / kv, 1, None).to_kind(Kind::Double)
                };
                let one = q.narrow(0, b, 1).narrow(1, j, 1).transpose(1, 2).to_kind(Kind::Double);
                let none = None::<Tensor>;
                let (k, v) = (of(&keys), of(&values));
                let want = Tensor::scaled_dot_product_attention(&one, &k, &v, none, 0.0, false, 0.3, false);
                let got = all.narrow(0, b, 1).narrow(1, j, 1).view([1, heads, 1, d]);
                assert!(off(&got, &want) < 3.0 * unit, "{heads} heads, {kv} of keys, {kind:?}");
            }
        }
    }
}

#[test]
fn keys_are_kept_at_their_places() {
    if !here() {
        return;
    }
    let _few = allow();
    let mut cache = Tensor::zeros([2, 2, 5, 4], (Kind::Float, Device::Cpu));
    let new = numbers(&[2, 2, 2, 4], 1);
    let places = Tensor::from_slice(&[0i64, 1, 5, 6, 12, 13, 17, 18]);
    let want = cache.copy();
    let flat = new.transpose(1, 2).reshape([8, 4]);
    let _ = want.view([-1, 4]).index_copy_(0, &places, &flat);
    assert!(keep(&mut cache, &new, &places).unwrap());
    assert!(cache.equal(&want));
}
