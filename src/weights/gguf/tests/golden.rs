//! Blocks of every format against gguf-py (tests/golden/make_gguf.py), to the bit.

use std::path::Path;

use crate::weights::gguf::Gguf;
use crate::weights::gguf::dequant::dequantise;

#[test]
fn gguf_blocks_of_every_format_equal_gguf_py_to_the_bit() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf");
    let gguf = Gguf::open(&dir.join("blocks.gguf")).unwrap();
    let expected = std::fs::read(dir.join("blocks.f32")).unwrap();
    assert_eq!(gguf.tensors.len(), 13);
    let mut expected = expected.chunks_exact(4);
    for t in &gguf.tensors {
        assert_eq!(t.shape, [3, 512], "{}", t.name);
        assert_eq!(format!("{:?}", t.kind), t.name);
        let mut out = vec![0.0; t.len()];
        dequantise(t.kind, gguf.bytes(t), &mut out).unwrap();
        for (i, x) in out.iter().enumerate() {
            let want = f32::from_le_bytes(expected.next().unwrap().try_into().unwrap());
            assert_eq!(x.to_bits(), want.to_bits(), "{} number {i}: {x} is not {want}", t.name);
        }
    }
    assert!(expected.next().is_none());
}
