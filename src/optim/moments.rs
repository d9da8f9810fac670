//! Moments as they are saved: those of a whole parameter, or of stretches of it by several processes. Whoever resumes
//! takes of them what it needs.

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::native;

/// What stands between a parameter's name and where a stretch of it begins.
pub const AT: char = '@';

/// A saved stretch: where it begins, and its values.
type Stretch<'t> = (usize, &'t Tensor);

fn other() -> Error {
    Error::data("an optimizer's state is of another model")
}

/// The name, and where the stretch begins.
fn parted(name: &str) -> Result<(&str, usize)> {
    match name.rsplit_once(AT) {
        Some((whole, start)) => {
            let start = start.parse().map_err(|_| other().field(name).expected("a number behind @"))?;
            Ok((whole, start))
        }
        None => Ok((name, 0)),
    }
}

/// Copies into `own` (by name) what is saved of it, however either is cut. All of it must be there, and nothing of
/// another model.
pub fn copy(own: &[(String, Tensor)], saved: &[(String, Tensor)]) -> Result<()> {
    let mut found: BTreeMap<&str, Vec<Stretch<'_>>> = BTreeMap::new();
    for (name, tensor) in saved {
        if tensor.kind() != Kind::Float {
            return Err(other().field(name.as_str()).expected("float32"));
        }
        let (whole, start) = parted(name)?;
        found.entry(whole).or_default().push((start, tensor));
    }
    let uncut = !own.iter().any(|(name, _)| name.contains(AT));
    if uncut && !own.is_empty() && own.len() != found.len() {
        return Err(other().expected(format!("{} tensors", own.len())).found(found.len()));
    }
    for (name, tensor) in own {
        let (whole, start) = parted(name)?;
        let stretches = found.get(whole).ok_or_else(|| other().field(name.as_str()))?;
        if let [(0, one)] = stretches[..]
            && uncut
            && one.dim() != 1
            && one.size() != tensor.size()
        {
            return Err(other()
                .field(name.as_str())
                .expected(format!("{:?}", tensor.size()))
                .found(format!("{:?}", one.size())));
        }
        fill(&tensor.f_view([-1])?, start, stretches).map_err(|e| e.field(name.as_str()))?;
    }
    Ok(())
}

/// Fills the elements from `start` on of a parameter's moment.
fn fill(into: &Tensor, start: usize, stretches: &[Stretch<'_>]) -> Result<()> {
    let end = start + into.numel();
    let mut filled = 0;
    for (at, values) in stretches {
        let (from, to) = (start.max(*at), end.min(at + values.numel()));
        if from < to {
            let values = values.f_reshape([-1])?.f_narrow(0, (from - at) as i64, (to - from) as i64)?;
            let target = into.f_narrow(0, (from - start) as i64, (to - from) as i64)?;
            native::copy_all(&[target], &[values.f_to_device(into.device())?])?;
            filled += to - from;
        }
    }
    if filled == into.numel() {
        return Ok(());
    }
    Err(other().expected(format!("{} numbers", into.numel())).found(filled))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, values: &[f32]) -> (String, Tensor) {
        (name.to_string(), Tensor::from_slice(values))
    }

    fn values(t: &Tensor) -> Vec<f32> {
        Vec::try_from(t.flatten(0, -1)).unwrap()
    }

    /// Saved by three, taken by one and by two others, and the other way round.
    #[test]
    fn moments_are_cut_anew() {
        let saved =
            [of("first/w@0", &[1.0, 2.0]), of("first/w@2", &[3.0]), of("first/w@3", &[4.0, 5.0, 6.0])];
        let whole = [("first/w".to_string(), Tensor::zeros([2, 3], (Kind::Float, tch::Device::Cpu)))];
        copy(&whole, &saved).unwrap();
        assert_eq!(values(&whole[0].1), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let parts = [of("first/w@1", &[0.0; 3]), of("first/w@4", &[0.0; 2])];
        for saved in [&saved[..], &whole[..]] {
            copy(&parts, saved).unwrap();
            assert_eq!((values(&parts[0].1), values(&parts[1].1)), (vec![2.0, 3.0, 4.0], vec![5.0, 6.0]));
        }
    }

    #[test]
    fn what_is_missing_is_told() {
        let whole = [of("first/w", &[0.0; 4])];
        for saved in [
            vec![],
            vec![of("first/w@0", &[1.0; 2])],
            vec![of("first/v", &[1.0; 4])],
            vec![of("first/w@x", &[1.0; 4])],
        ] {
            assert!(copy(&whole, &saved).is_err(), "{saved:?}");
        }
        let more = [of("first/w", &[1.0; 4]), of("first/v", &[1.0; 4])];
        assert!(copy(&whole, &more).is_err());
        let shaped = [("first/w".to_string(), Tensor::zeros([4, 1], (Kind::Float, tch::Device::Cpu)))];
        let other = [("first/w".to_string(), Tensor::zeros([2, 2], (Kind::Float, tch::Device::Cpu)))];
        assert!(copy(&shaped, &other).is_err());
    }
}
