//! ggml's block formats -> float32, equal to the bit to gguf-py's `gguf.quants.dequantize`.
//!
//! A row is cut into blocks of 32 (Q4_0 .. Q8_0) or 256 (the K formats) numbers that share their
//! scales. Products and sums are rounded one by one, in the reference's order.

use half::f16;
use rayon::prelude::*;

use crate::error::{Error, Result};

/// How a tensor's numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(non_camel_case_types, reason = "these are the names that GGUF files and tools use")]
#[expect(missing_docs, reason = "each is ggml's format of that name")]
pub enum Kind {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
}

/// What is read, for the line that refuses what is not.
const SUPPORTED: &str = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K";

/// ggml's types that are not read, by id.
const OTHERS: [(u32, &str); 21] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];

impl Kind {
    /// The format with ggml's id.
    pub fn of(id: u32) -> Result<Self> {
        use Kind::*;
        Ok(match id {
            0 => F32,
            1 => F16,
            2 => Q4_0,
            3 => Q4_1,
            6 => Q5_0,
            7 => Q5_1,
            8 => Q8_0,
            10 => Q2_K,
            11 => Q3_K,
            12 => Q4_K,
            13 => Q5_K,
            14 => Q6_K,
            30 => BF16,
            _ => {
                let name = OTHERS.iter().find(|o| o.0 == id).map(|o| o.1);
                return Err(Error::data("a tensor type that is not read")
                    .expected(SUPPORTED)
                    .found(name.map_or_else(|| format!("type {id}"), str::to_string)));
            }
        })
    }

    /// Numbers a block, and bytes a block.
    pub fn block(self) -> (usize, usize) {
        use Kind::*;
        match self {
            F32 => (1, 4),
            F16 | BF16 => (1, 2),
            Q4_0 => (32, 18),
            Q4_1 => (32, 20),
            Q5_0 => (32, 22),
            Q5_1 => (32, 24),
            Q8_0 => (32, 34),
            Q2_K => (256, 84),
            Q3_K => (256, 110),
            Q4_K => (256, 144),
            Q5_K => (256, 176),
            Q6_K => (256, 210),
        }
    }
}

/// The stored bytes of a tensor of this shape, whose rows must be whole blocks.
pub fn stored_len(kind: Kind, shape: &[usize]) -> Result<usize> {
    let (numbers, bytes) = kind.block();
    let row = shape.last().copied().unwrap_or_default();
    if row % numbers != 0 {
        return Err(Error::data("a row is not made of whole blocks")
            .expected(format!("a multiple of {numbers} for {kind:?}"))
            .found(row));
    }
    let all = shape.iter().try_fold(1_usize, |n, &d| n.checked_mul(d));
    all.and_then(|n| n.checked_mul(4).and((n / numbers).checked_mul(bytes)))
        .ok_or_else(|| Error::data("a tensor is too large").found(format!("{shape:?}")))
}

/// Blocks that one thread takes at a time: 4,096 or 32,768 numbers.
const RUN: usize = 128;

/// Turns whole blocks into numbers; `out` has exactly as many as `bytes` holds.
pub fn dequantise(kind: Kind, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    let (numbers, size) = kind.block();
    if !bytes.len().is_multiple_of(size) || bytes.len() / size * numbers != out.len() {
        return Err(Error::bug("blocks and numbers do not match").field(format!("{kind:?}")));
    }
    let run = if numbers == 1 { 32 * RUN } else { RUN };
    out.par_chunks_mut(run * numbers).zip(bytes.par_chunks(run * size)).for_each(|(out, bytes)| {
        let blocks = out.chunks_exact_mut(numbers).zip(bytes.chunks_exact(size));
        match kind {
            Kind::F32 => blocks.for_each(|(o, b)| o[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            Kind::F16 => blocks.for_each(|(o, b)| o[0] = half_at(b, 0)),
            Kind::BF16 => blocks.for_each(|(o, b)| o[0] = f32::from_le_bytes([0, 0, b[0], b[1]])),
            Kind::Q4_0 => blocks.for_each(|(o, b)| q4_0(b, o)),
            Kind::Q4_1 => blocks.for_each(|(o, b)| q4_1(b, o)),
            Kind::Q5_0 => blocks.for_each(|(o, b)| q5_0(b, o)),
            Kind::Q5_1 => blocks.for_each(|(o, b)| q5_1(b, o)),
            Kind::Q8_0 => blocks.for_each(|(o, b)| q8_0(b, o)),
            Kind::Q2_K => blocks.for_each(|(o, b)| q2_k(b, o)),
            Kind::Q3_K => blocks.for_each(|(o, b)| q3_k(b, o)),
            Kind::Q4_K => blocks.for_each(|(o, b)| q4_k(b, o)),
            Kind::Q5_K => blocks.for_each(|(o, b)| q5_k(b, o)),
            Kind::Q6_K => blocks.for_each(|(o, b)| q6_k(b, o)),
        }
    });
    Ok(())
}

fn half_at(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

/// d, 16 bytes: number i in the low nibble of byte i, number 16 + i in the high one.
fn q4_0(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 0);
    for (i, &q) in b[2..18].iter().enumerate() {
        out[i] = d * f32::from((q & 15) as i8 - 8);
        out[i + 16] = d * f32::from((q >> 4) as i8 - 8);
    }
}

/// d, m, nibbles as in Q4_0.
fn q4_1(b: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    for (i, &q) in b[4..20].iter().enumerate() {
        out[i] = d * f32::from(q & 15) + m;
        out[i + 16] = d * f32::from(q >> 4) + m;
    }
}

/// Number i of a five-bit block: nibbles as in Q4_0, the fifth bits in 4 bytes before them.
fn five_bits(high: &[u8], nibbles: &[u8], i: usize) -> u8 {
    let low = if i < 16 { nibbles[i] & 15 } else { nibbles[i - 16] >> 4 };
    low | ((high[i / 8] >> (i % 8)) & 1) << 4
}

fn q5_0(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 0);
    for (i, o) in out.iter_mut().enumerate() {
        *o = d * f32::from(five_bits(&b[2..6], &b[6..22], i) as i8 - 16);
    }
}

fn q5_1(b: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    for (i, o) in out.iter_mut().enumerate() {
        *o = d * f32::from(five_bits(&b[4..8], &b[8..24], i)) + m;
    }
}

fn q8_0(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 0);
    for (o, &q) in out.iter_mut().zip(&b[2..34]) {
        *o = f32::from(q as i8) * d;
    }
}

/// The two-bit part of number i in Q2_K and Q3_K: 32 numbers share 32 bytes, four such groups on top
/// of each other.
fn two_bits(qs: &[u8], i: usize) -> u8 {
    (qs[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2)) & 3
}

/// 16 scale-and-minimum nibbles, 64 bytes of two-bit numbers, d, dmin.
fn q2_k(b: &[u8], out: &mut [f32]) {
    let (scales, qs, d, dmin) = (&b[..16], &b[16..80], half_at(b, 80), half_at(b, 82));
    for (i, o) in out.iter_mut().enumerate() {
        let s = scales[i / 16];
        *o = d * f32::from(s & 15) * f32::from(two_bits(qs, i)) - dmin * f32::from(s >> 4);
    }
}

/// 32 bytes of third bits (clear where 4 is taken off), 64 bytes of low bits, 16 six-bit scales in 12
/// bytes, d.
fn q3_k(b: &[u8], out: &mut [f32]) {
    let (high, qs, scales, d) = (&b[..32], &b[32..96], &b[96..108], half_at(b, 108));
    let mut dl = [0.0; 16];
    for (j, dl) in dl.iter_mut().enumerate() {
        let low = if j < 8 { scales[j] & 15 } else { scales[j - 8] >> 4 };
        let top = (scales[8 + j % 4] >> (j / 4 * 2)) & 3;
        *dl = d * f32::from((low | top << 4) as i8 - 32);
    }
    for (i, o) in out.iter_mut().enumerate() {
        let off = if (high[i % 32] >> (i / 32)) & 1 == 0 { 4 } else { 0 };
        *o = dl[i / 16] * f32::from(two_bits(qs, i) as i8 - off);
    }
}

/// The eight scales and minima of Q4_K and Q5_K, six bits each in 12 bytes, times d and dmin.
fn scales_k(b: &[u8]) -> ([f32; 8], [f32; 8]) {
    let (d, dmin, s) = (half_at(b, 0), half_at(b, 2), &b[4..16]);
    let (mut scale, mut min) = ([0.0; 8], [0.0; 8]);
    for j in 0..4 {
        scale[j] = d * f32::from(s[j] & 63);
        min[j] = dmin * f32::from(s[j + 4] & 63);
        scale[j + 4] = d * f32::from((s[j + 8] & 15) | ((s[j] >> 2) & 48));
        min[j + 4] = dmin * f32::from((s[j + 8] >> 4) | ((s[j + 4] >> 2) & 48));
    }
    (scale, min)
}

/// The low four bits of number i in Q4_K and Q5_K: 64 numbers share 32 bytes.
fn four_bits(qs: &[u8], i: usize) -> u8 {
    (qs[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4)) & 15
}

fn q4_k(b: &[u8], out: &mut [f32]) {
    let (scale, min) = scales_k(b);
    for (i, o) in out.iter_mut().enumerate() {
        *o = scale[i / 32] * f32::from(four_bits(&b[16..144], i)) - min[i / 32];
    }
}

/// As Q4_K, with 32 bytes of fifth bits before the nibbles.
fn q5_k(b: &[u8], out: &mut [f32]) {
    let (scale, min) = scales_k(b);
    let high = &b[16..48];
    for (i, o) in out.iter_mut().enumerate() {
        let q = four_bits(&b[48..176], i) | ((high[i % 32] >> (i / 32)) & 1) << 4;
        *o = scale[i / 32] * f32::from(q) - min[i / 32];
    }
}

/// 128 bytes of low nibbles, 64 bytes of the two bits above them, 16 signed scales, d.
fn q6_k(b: &[u8], out: &mut [f32]) {
    let (low, high, scales, d) = (&b[..128], &b[128..192], &b[192..208], half_at(b, 208));
    for (i, o) in out.iter_mut().enumerate() {
        let l = (low[i / 128 * 64 + i % 64] >> (i / 64 % 2 * 4)) & 15;
        let h = (high[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2)) & 3;
        *o = d * f32::from(scales[i / 16] as i8) * f32::from((l | h << 4) as i8 - 32);
    }
}
