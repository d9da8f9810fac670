//! What fits into a machine: from its total memory and the shapes alone, never from what is free at the
//! moment, so that the same run on the same machine makes the same cuts.

use tch::Device;

use crate::model::CausalLm;
use crate::model::config::Shape;
use crate::native::cuda;

/// The most tokens at once: beyond these products get no faster.
const MOST_CPU: usize = 4096;
const MOST_GPU: usize = 16384;

/// Tokens of a micro-batch, padding in, for a student whose longest row has this many.
pub fn tokens_at_once(student: &CausalLm, longest: usize) -> usize {
    let most = if student.device() == Device::Cpu { MOST_CPU } else { MOST_GPU };
    let Some(total) = total_memory(student.device()) else { return most.max(longest) };
    let per_token = activation_bytes(student.shape(), student.kind().elt_size_in_bytes() as u64).max(1);
    // Half of what the weights, their gradients and moments leave: teacher, head and libtorch need the rest.
    let left = total.saturating_sub(state_bytes(student)) / 2;
    ((left / per_token) as usize).min(most).max(longest)
}

/// Bytes that a token's activations take until the backward pass.
pub fn activation_bytes(shape: &Shape, size: u64) -> u64 {
    let n = |x: i64| x.max(0) as u64;
    let (d, f) = (n(shape.hidden), n(shape.ffn));
    let (q, kv) = (n(shape.heads * shape.head_dim), n(shape.kv_heads * shape.head_dim));
    // Two residual states and two normed ones; queries, keys and values before and behind the rotation and
    // the attention's value; the feed-forward net's gate, its activation, up and product.
    let layer = 4 * d + 3 * q + 4 * kv + 4 * f;
    size * (n(shape.layers) * layer + 4 * d)
}

/// Bytes of weights, masters, gradients, their sums and both moments.
fn state_bytes(student: &CausalLm) -> u64 {
    let numbers: u64 = student.params().masters().iter().map(|t| t.numel() as u64).sum();
    let size = student.kind().elt_size_in_bytes() as u64;
    let copy = if size < 4 { size } else { 0 };
    numbers * (4 + copy + size + 4 + 8)
}

/// The memory of a device, in bytes, where it can be told.
pub fn total_memory(device: Device) -> Option<u64> {
    match device {
        Device::Cuda(n) => cuda::memory(n).ok().map(|m| m.total as u64),
        _ => [of_machine(), of_group()].into_iter().flatten().min(),
    }
}

fn of_machine() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("MemTotal:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// What a container may use.
fn of_group() -> Option<u64> {
    std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok()?.trim().parse().ok()
}
