//! From tensors to the loops over their memory, and back.

use std::arch::is_x86_feature_detected;

use half::bf16;
use tch::{Device, Kind, Tensor};

use super::attend::Attend;
use super::number::{Number, exp};
use super::product::Product;
use super::{Behind, Order, allowed};
use crate::error::Result;
use crate::native::{host, parallel};

/// Rows up to which these loops are worth it; beyond, libtorch's products are.
const MOST_ROWS: usize = 64;
/// Multiplications that are worth a thread.
const WORTH_A_THREAD: usize = 1 << 18;

fn usable(tensors: &[&Tensor]) -> bool {
    let same = |t: &&Tensor| {
        t.device() == Device::Cpu
            && t.kind() == tensors[0].kind()
            && matches!(t.kind(), Kind::Float | Kind::BFloat16)
            && t.is_contiguous()
    };
    allowed()
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && tensors.iter().all(same)
}

/// The same numbers without gaps, where anything may be computed here: parts of a fused projection have gaps.
fn packed(x: &Tensor) -> Result<Option<Tensor>> {
    Ok(if allowed() && x.device() == Device::Cpu { Some(x.f_contiguous()?) } else { None })
}

/// Calls a function for the float type of a tensor.
macro_rules! of_kind {
    ($tensor:expr, $function:ident($($argument:expr),*)) => {
        if $tensor.kind() == Kind::Float { $function::<f32>($($argument),*) } else { $function::<bf16>($($argument),*) }
    };
}

/// Rows of `width` in a tensor; none where they are many, or do not come out even.
fn few(x: &Tensor, width: usize) -> Option<usize> {
    let rows = x.numel() / width.max(1);
    (rows > 0 && rows <= MOST_ROWS && rows * width == x.numel()).then_some(rows)
}

/// `x w^T + bias` or, where the input comes first, `x w + bias`, in this float type.
pub fn linear(
    x: &Tensor,
    w: &Tensor,
    order: Order,
    bias: Option<&Tensor>,
    kind: Kind,
) -> Result<Option<Tensor>> {
    let (k, n) = match (w.size2()?, order) {
        ((n, k), Order::OutputFirst) | ((k, n), Order::InputFirst) => (k as usize, n as usize),
    };
    let even = if order == Order::OutputFirst { k } else { n };
    let (Some(rows), true, 0) = (few(x, k), usable(&[x, w]), even % 8) else { return Ok(None) };
    if bias.is_some_and(|b| !usable(&[x, b])) {
        return Ok(None);
    }
    of_kind!(x, product(x, w, (order, rows, k, n), bias, kind)).map(Some)
}

/// A pointer that threads share; each writes places of its own.
struct Shared<T>(*mut T);
// SAFETY: see the loops below: each place belongs to one part.
unsafe impl<T: Send> Sync for Shared<T> {}

fn product<W: Number>(
    x: &Tensor,
    w: &Tensor,
    (order, rows, k, n): (Order, usize, usize, usize),
    bias: Option<&Tensor>,
    kind: Kind,
) -> Result<Tensor> {
    let (mut wide_x, mut wide_bias) = (Vec::new(), Vec::new());
    let product = Product {
        x: widened(host::slice::<W>(x)?, &mut wide_x),
        w: host::slice::<W>(w)?,
        bias: match bias {
            Some(bias) => Some(widened(host::slice::<W>(bias)?, &mut wide_bias)),
            None => None,
        },
        rows,
        k,
        n,
    };
    let mut shape = x.size();
    if let Some(last) = shape.last_mut() {
        *last = n as i64;
    }
    let mut out = Tensor::f_empty(&shape, (kind, Device::Cpu))?;
    if kind == Kind::Float {
        run(&product, order, host::slice_mut(&mut out)?)?;
        return Ok(out);
    }
    let mut sums = vec![0f32; rows * n];
    run(&product, order, &mut sums)?;
    let to = host::slice_mut::<W>(&mut out)?;
    to.iter_mut().zip(sums).for_each(|(to, x)| *to = W::narrow(x));
    Ok(out)
}

fn run<W: Number>(product: &Product<'_, W>, order: Order, out: &mut [f32]) -> Result<()> {
    let to = Shared(out.as_mut_ptr());
    let to = &to;
    // In multiples of what one pass of the inner loops takes.
    let grain = (WORTH_A_THREAD / (product.rows * product.k).max(1)).max(1).next_multiple_of(64);
    parallel::for_each(product.n, grain, &|part| {
        // SAFETY: `usable` has seen that the machine can; parts are disjoint columns of `out`.
        unsafe {
            match order {
                Order::OutputFirst => product.output_first(part, to.0),
                Order::InputFirst => product.input_first(part, to.0),
            }
        }
    })
}

/// The same numbers as float32, in memory of `own` where they are not.
fn widened<'a, W: Number>(x: &'a [W], own: &'a mut Vec<f32>) -> &'a [f32] {
    if W::KIND == Kind::Float {
        // SAFETY: the type is f32, as its kind says.
        return unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), x.len()) };
    }
    own.extend(x.iter().map(|x| x.wide()));
    own
}

/// Root mean square norm over the last dimension.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Option<Tensor>> {
    // A head's norm has a row for each head of each position, one of the last width.
    let widest = x.size().get(2..).map_or(0, |sizes| sizes.iter().product::<i64>() as usize);
    if !usable(&[x, weight]) || few(x, widest.max(weight.numel())).is_none() {
        return Ok(None);
    }
    of_kind!(x, norms(x, weight, eps as f32)).map(Some)
}

fn norms<W: Number>(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    #[target_feature(enable = "avx2,fma")]
    fn row<W: Number>(x: &[W], weight: &[W], eps: f32, out: &mut [W]) {
        let mut sums = [0f32; 16];
        let (whole, rest) = x.split_at(x.len() / 16 * 16);
        for part in whole.chunks_exact(16) {
            sums.iter_mut().zip(part).for_each(|(sum, x)| *sum += x.wide() * x.wide());
        }
        let rest: f32 = rest.iter().map(|x| x.wide() * x.wide()).sum();
        let mean = (sums.iter().sum::<f32>() + rest) / x.len() as f32;
        let factor = 1.0 / (mean + eps).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = W::narrow(x.wide() * factor * weight.wide());
        }
    }
    let mut out = Tensor::f_empty(x.size(), (x.kind(), Device::Cpu))?;
    let weight = host::slice::<W>(weight)?;
    let rows = host::slice::<W>(x)?.chunks_exact(weight.len().max(1));
    for (x, out) in rows.zip(host::slice_mut::<W>(&mut out)?.chunks_exact_mut(weight.len().max(1))) {
        // SAFETY: `usable` has seen that the machine can.
        unsafe { row(x, weight, eps, out) };
    }
    Ok(out)
}

/// Turns heads [b, t, h, d] by tables [b, t, 1, d]: channel i becomes `x_i cos_i + x_(i +- d/2) sin_i`.
pub fn turn(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Option<Tensor>> {
    let Some(x) = packed(x)? else { return Ok(None) };
    let (b, t, _, d) = x.size4()?;
    let tables = [b, t, 1, d];
    if !usable(&[&x, cos, sin])
        || cos.size() != tables
        || sin.size() != tables
        || (b * t) as usize > MOST_ROWS
    {
        return Ok(None);
    }
    of_kind!(x, turned(&x, cos, sin)).map(Some)
}

fn turned<W: Number>(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    #[target_feature(enable = "avx2,fma")]
    fn head<W: Number>(x: &[W], cos: &[W], sin: &[W], out: &mut [W]) {
        let half = x.len() / 2;
        let mut part = |own: &[W], other: &[W], at: usize| {
            let tables = cos[at..at + half].iter().zip(&sin[at..at + half]);
            let out = out[at..at + half].iter_mut();
            for (((out, x), other), (cos, sin)) in out.zip(own).zip(other).zip(tables) {
                *out = W::narrow(x.wide() * cos.wide() + other.wide() * sin.wide());
            }
        };
        let (first, second) = x.split_at(half);
        part(first, second, 0);
        part(second, first, half);
    }
    let (_, _, heads, d) = x.size4()?;
    let (heads, d) = (heads as usize, d as usize);
    let mut out = Tensor::f_empty(x.size(), (x.kind(), Device::Cpu))?;
    let (cos, sin) = (host::slice::<W>(cos)?, host::slice::<W>(sin)?);
    let rows = host::slice::<W>(x)?.chunks_exact(d);
    for (i, (x, out)) in rows.zip(host::slice_mut::<W>(&mut out)?.chunks_exact_mut(d)).enumerate() {
        let at = i / heads * d;
        // SAFETY: `usable` has seen that the machine can.
        unsafe { head(x, &cos[at..at + d], &sin[at..at + d], out) };
    }
    Ok(out)
}

/// `silu(gate) * up`.
pub fn gate(gate: &Tensor, up: &Tensor) -> Result<Option<Tensor>> {
    let width = gate.size().last().map_or(0, |&n| n as usize);
    if !usable(&[gate, up]) || gate.size() != up.size() || few(gate, width).is_none() {
        return Ok(None);
    }
    of_kind!(gate, gated(gate, up)).map(Some)
}

fn gated<W: Number>(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    #[target_feature(enable = "avx2,fma")]
    fn all<W: Number>(gate: &[W], up: &[W], out: &mut [W]) {
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            let x = gate.wide();
            let small = exp(-x.abs());
            let sigmoid = if x < 0.0 { small } else { 1.0 } / (1.0 + small);
            *out = W::narrow(x * sigmoid * up.wide());
        }
    }
    let mut out = Tensor::f_empty(gate.size(), (gate.kind(), Device::Cpu))?;
    // SAFETY: `usable` has seen that the machine can.
    unsafe { all(host::slice::<W>(gate)?, host::slice(up)?, host::slice_mut(&mut out)?) };
    Ok(out)
}

/// Writes keys or values [b, t, h, d] to their places [b, h, t] in a cache [.., d] that is seen as one list; says
/// whether it did.
pub fn keep(cache: &mut Tensor, new_bthd: &Tensor, places: &Tensor) -> Result<bool> {
    let Some(new_bthd) = packed(new_bthd)? else { return Ok(false) };
    if !usable(&[cache, &new_bthd]) {
        return Ok(false);
    }
    of_kind!(new_bthd, kept(cache, &new_bthd, places)).map(|()| true)
}

fn kept<W: Number>(cache: &mut Tensor, new_bthd: &Tensor, places: &Tensor) -> Result<()> {
    let (_, t, h, d) = new_bthd.size4()?;
    let (t, h, d) = (t as usize, h as usize, d as usize);
    let (new, places) = (host::slice::<W>(new_bthd)?, host::slice::<i64>(places)?);
    let to = host::slice_mut::<W>(cache)?;
    for (i, new) in new.chunks_exact(d).enumerate() {
        let (b, at, head) = (i / h / t, i / h % t, i % h);
        let place = places[(b * h + head) * t + at] as usize;
        to[place * d..(place + 1) * d].copy_from_slice(new);
    }
    Ok(())
}

/// Attention of queries [b, t, h, d] to the keys and values of a cache: [b, t, h * d].
pub fn attend(q: &Tensor, keys: &Tensor, values: &Tensor, behind: Behind<'_>) -> Result<Option<Tensor>> {
    let Some(q) = packed(q)? else { return Ok(None) };
    let (_, t, heads, d) = q.size4()?;
    let together = (t * heads / keys.size4()?.1.max(1)) as usize;
    if !usable(&[&q, keys, values]) || d % 8 != 0 || together > MOST_ROWS {
        return Ok(None);
    }
    of_kind!(q, attended(&q, keys, values, behind)).map(Some)
}

fn attended<W: Number>(q: &Tensor, keys: &Tensor, values: &Tensor, behind: Behind<'_>) -> Result<Tensor> {
    let (b, t, heads, d) = q.size4()?;
    let (_, kv_heads, room, _) = keys.size4()?;
    let attend = Attend {
        q: host::slice::<W>(q)?,
        keys: host::slice(keys)?,
        values: host::slice(values)?,
        positions: host::slice(behind.positions_bt)?,
        rows: behind.rows.map(host::slice).transpose()?,
        t: t as usize,
        heads: heads as usize,
        kv_heads: kv_heads as usize,
        room: room as usize,
        d: d as usize,
        most: behind.most as usize,
        window: behind.window.map(|w| w as usize),
        scale: behind.scale.unwrap_or(1.0 / (d as f64).sqrt()) as f32,
    };
    let mut out = Tensor::f_empty([b, t, heads * d], (q.kind(), Device::Cpu))?;
    let to = Shared(host::slice_mut::<W>(&mut out)?.as_mut_ptr());
    let to = &to;
    let work = attend.t * (attend.heads / attend.kv_heads) * attend.most * attend.d * 2;
    parallel::for_each(attend.parts(), (WORTH_A_THREAD / work.max(1)).max(1), &|parts| {
        // SAFETY: `usable` has seen that the machine can; a part writes its own heads alone.
        unsafe { attend.run(parts, to.0) }
    })?;
    Ok(out)
}
