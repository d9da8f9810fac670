"""Writes tests/fixtures/gguf/: blocks of every format that is read, and what gguf-py makes of them.

    python tests/golden/make_gguf.py          (needs numpy and gguf 0.19)

blocks.gguf holds a tensor a format; blocks.f32 their numbers as float32, one tensor after another.
Formats that gguf-py can write hold quantised random numbers and then random bytes; the others hold
random bytes. Scales are finite: every other pattern of bytes is a valid block.
"""

from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

HERE = Path(__file__).parent.parent / "fixtures" / "gguf"
ROWS, ROW = 3, 512

# Where the float16 scales stand in a block.
SCALES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
    T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
}


def blocks(kind, rng):
    if kind == T.F32:
        return rng.standard_normal((ROWS, ROW)).astype(np.float32)
    if kind == T.F16:
        bits = rng.integers(0, 65536, (ROWS, ROW)).astype(np.uint16)
        bits[(bits & 0x7C00) == 0x7C00] &= 0x83FF  # no infinity, no NaN: subnormals instead
        return bits.view(np.float16)
    if kind == T.BF16:
        return gguf.quants.quantize(rng.standard_normal((ROWS, ROW)).astype(np.float32), kind)
    numbers, size = gguf.GGML_QUANT_SIZES[kind]
    raw = rng.integers(0, 256, (ROWS * ROW // numbers, size)).astype(np.uint8)
    for at in SCALES[kind]:
        scale = rng.integers(0, 0x7C00, len(raw)).astype(np.uint16) | (rng.integers(0, 2, len(raw)) << 15).astype(np.uint16)
        raw[:, at] = scale & 255
        raw[:, at + 1] = scale >> 8
    raw = raw.reshape(ROWS, -1)
    try:
        raw[0] = gguf.quants.quantize(rng.standard_normal((1, ROW)).astype(np.float32), kind)[0]
    except NotImplementedError:
        pass
    return raw


def main():
    rng = np.random.default_rng(1)
    HERE.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(HERE / "blocks.gguf", "test")
    numbers = []
    for kind in [T.F32, T.F16, T.BF16, *SCALES]:
        raw = blocks(kind, rng)
        writer.add_tensor(kind.name, raw, raw_dtype=kind)
        numbers.append(gguf.quants.dequantize(raw, kind).astype(np.float32))
        assert np.isfinite(numbers[-1]).all() and numbers[-1].shape == (ROWS, ROW), kind
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    np.stack(numbers).astype("<f4").tofile(HERE / "blocks.f32")


if __name__ == "__main__":
    main()
