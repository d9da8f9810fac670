//! Rows of a micro-batch as tensors: padded on the right, the scored positions told by lengths alone.

use retort_policies::objective::rows::Rows;
use tch::{Device, Tensor};

use crate::data::Example;
use crate::error::{Error, Result};

/// A micro-batch.
#[derive(Debug)]
pub struct Micro {
    /// What the models read: every token but the last of each row.
    pub ids_bt: Tensor,
    /// Where the scored positions are.
    pub rows: Rows,
    /// What each of them should say.
    pub targets_n: Tensor,
    /// How many each row has.
    pub lengths: Vec<usize>,
}

impl Micro {
    /// Makes it of these rows.
    pub fn of(examples: &[&Example], device: Device) -> Result<Self> {
        let width = examples.iter().map(|e| e.ids.len()).max().unwrap_or(0).saturating_sub(1);
        if width == 0 {
            return Err(Error::bug("a micro-batch with nothing to learn"));
        }
        let mut ids = vec![0i64; examples.len() * width];
        let (mut targets, mut spans) = (Vec::new(), Vec::new());
        for (slots, example) in ids.chunks_mut(width).zip(examples) {
            let inputs = &example.ids[..example.ids.len().saturating_sub(1)];
            for (slot, &id) in slots.iter_mut().zip(inputs) {
                *slot = i64::from(id);
            }
            let mut stretches = Vec::new();
            for learnt in example.learnt() {
                // The state that predicts a token stands before it.
                stretches.push((learnt.start - 1, learnt.len()));
                targets.extend(example.ids[learnt].iter().map(|&id| i64::from(id)));
            }
            spans.push(stretches);
        }
        let rows = Rows::of_stretches(width, spans)?;
        let ids_bt = Tensor::f_from_slice(&ids)?.f_view([examples.len() as i64, width as i64])?;
        Ok(Micro {
            ids_bt: ids_bt.f_to_device(device)?,
            lengths: rows.lengths(),
            rows,
            targets_n: Tensor::f_from_slice(&targets)?.f_to_device(device)?,
        })
    }

    /// Tokens that are learnt.
    pub fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::update::states;
    use super::*;
    use crate::data::tokens::{Origin, Writer};
    use crate::data::{Packed, TokenFile};
    use crate::model::{CausalLm, LoadOptions};

    /// Documents of a packed row go through a model side by side, and each has the states that it has alone: in every
    /// architecture, with positions that are learnt or turned, and with windows.
    #[test]
    fn documents_of_a_packed_row_do_not_see_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("documents.tokens");
        let mut writer = Writer::create(&path).unwrap();
        for length in [5, 2, 9, 1, 12, 3] {
            let ids: Vec<u32> = (0..length).map(|n| (n * 7 + length) % 40).collect();
            writer.add(&ids, 0, Origin { file: 0, line: 1 }).unwrap();
        }
        writer.finish("x").unwrap();
        let mut packed = Packed::new(TokenFile::open_any(&path).unwrap(), 24, None, 3);
        let (row, pieces) = (packed.row(0), packed.pieces(0));
        assert!(pieces.len() >= 3);
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity");
        let mut checked = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let model = CausalLm::load(&path, LoadOptions::default()).unwrap();
            let of =
                |examples: &[&Example]| states(&model, &Micro::of(examples, Device::Cpu).unwrap()).unwrap();
            let together = of(&pieces.iter().collect::<Vec<_>>());
            let alone = Tensor::cat(&pieces.iter().map(|piece| of(&[piece])).collect::<Vec<_>>(), 0);
            let off = (&together - &alone).abs().max().double_value(&[]);
            assert!(off < 1e-5, "{}: {off}", path.display());
            // Packed they do see each other: the last document has other states.
            let many = pieces[pieces.len() - 1].targets() as i64;
            let last = |states: Tensor| states.narrow(0, states.size()[0] - many, many);
            let last = last(of(&[&row])) - last(alone);
            assert!(last.abs().max().double_value(&[]) > 1e-2, "{}", path.display());
            checked += 1;
        }
        assert!(checked >= 12, "{checked}");
    }

    #[test]
    fn states_stand_before_what_they_predict() {
        let example = |ids: &[u32], from, given: &[std::ops::Range<usize>]| Example {
            ids: ids.to_vec(),
            from,
            given: given.to_vec(),
        };
        let rows = [example(&[5, 6, 7, 8], 2, &[]), example(&[9, 4], 1, &[])];
        let micro = Micro::of(&rows.iter().collect::<Vec<_>>(), Device::Cpu).unwrap();
        let ids: Vec<i64> = micro.ids_bt.flatten(0, 1).try_into().unwrap();
        assert_eq!(ids, [5, 6, 7, 9, 0, 0]);
        assert_eq!(Vec::<i64>::try_from(&micro.targets_n).unwrap(), [7, 8, 4]);
        let seen: Vec<i64> = micro.rows.pack(&micro.ids_bt).unwrap().try_into().unwrap();
        assert_eq!(seen, [6, 7, 9], "the states of these tokens are scored");
        assert_eq!((micro.lengths.clone(), micro.tokens()), (vec![2, 1], 3));
        // Two replies, and what is said between them.
        let talk = [example(&[1, 2, 3, 4, 5, 6, 7], 2, &[4..6, 6..7]), example(&[8, 9], 1, &[])];
        let micro = Micro::of(&talk.iter().collect::<Vec<_>>(), Device::Cpu).unwrap();
        assert_eq!(Vec::<i64>::try_from(&micro.targets_n).unwrap(), [3, 4, 9]);
        let seen: Vec<i64> = micro.rows.pack(&micro.ids_bt).unwrap().try_into().unwrap();
        assert_eq!((seen, micro.lengths), (vec![2, 3, 8], vec![2, 1]));
    }
}
