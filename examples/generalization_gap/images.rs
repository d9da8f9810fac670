//! Fashion-MNIST, as its unpacked idx files: a big-endian header (a magic number, the sizes), then bytes.

use std::path::Path;

use retort::error::{Error, Result};
use retort::store::read_file;
use tch::{Kind, Tensor};

/// Pixels of an image along a side.
pub const SIDE: usize = 28;

/// The largest of the files has 45 MiB.
const LONGEST: u64 = 64 << 20;

/// Images with their classes.
pub struct Images {
    /// Float32, `[rows, 1, 28, 28]`, mean 0 and variance 1 over the learnt ones.
    pub pixels: Tensor,
    /// From 0 to 9.
    pub classes: Tensor,
}

impl Images {
    pub fn rows(&self) -> usize {
        self.classes.size()[0] as usize
    }
}

/// The first `rows` images to learn from, and all that are held out (at most `held`).
pub fn load(folder: &Path, rows: usize, held: usize) -> Result<(Images, Images)> {
    let (pixels, classes) = part(folder, "train", rows)?;
    let (mean, spread) = (pixels.f_mean(Kind::Float)?, pixels.f_std(true)?);
    let same = |t: &Tensor| -> Result<Tensor> { Ok(t.f_sub(&mean)?.f_div(&spread)?) };
    let (held_pixels, held_classes) = part(folder, "t10k", held)?;
    Ok((
        Images { pixels: same(&pixels)?, classes },
        Images { pixels: same(&held_pixels)?, classes: held_classes },
    ))
}

fn part(folder: &Path, name: &str, most: usize) -> Result<(Tensor, Tensor)> {
    let images = file(folder, &format!("{name}-images-idx3-ubyte"), &[SIDE, SIDE])?;
    let labels = file(folder, &format!("{name}-labels-idx1-ubyte"), &[])?;
    let (each, rows) = (SIDE * SIDE, labels.len());
    if images.len() != rows * each {
        return Err(Error::data("as many images as labels were expected")
            .file(folder)
            .found(images.len() / each));
    }
    if labels.iter().any(|class| *class > 9) {
        return Err(Error::data("a label above 9").file(folder));
    }
    let rows = rows.min(most);
    let pixels = Tensor::f_from_slice(&images[..rows * each])?.f_to_kind(Kind::Float)?;
    let shape = [rows as i64, 1, SIDE as i64, SIDE as i64];
    let classes = Tensor::f_from_slice(&labels[..rows])?.f_to_kind(Kind::Int64)?;
    Ok((pixels.f_div_scalar(255.0)?.f_view(shape)?, classes))
}

/// The bytes behind the header of a file whose rows have this shape.
fn file(folder: &Path, name: &str, shape: &[usize]) -> Result<Vec<u8>> {
    let path = folder.join(name);
    let missing = || {
        Error::user("no such file").file(&path).advice("scripts/fashion-mnist fetches and unpacks the images")
    };
    let bytes = read_file(&path, LONGEST)?.ok_or_else(missing)?;
    let word = |n: usize| bytes.get(4 * n..4 * n + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    let magic = 0x800 + 1 + shape.len() as u32;
    let sizes_fit = shape.iter().enumerate().all(|(n, size)| word(n + 2) == Some(*size as u32));
    let from = 8 + 4 * shape.len();
    let rows = word(1).unwrap_or(0) as usize;
    let whole = bytes.len() == from + rows * shape.iter().product::<usize>();
    if word(0) != Some(magic) || !sizes_fit || !whole {
        let expected = format!("magic {magic:#x}, rows of {shape:?} bytes");
        return Err(Error::data("not an idx file of these images").file(&path).expected(expected));
    }
    Ok(bytes[from..].to_vec())
}
