//! Documents become rows that hold every token once.

use super::*;

fn documents(dir: &Path, lengths: &[u32]) -> TokenFile {
    let path = dir.join("documents.tokens");
    let mut writer = Writer::create(&path).unwrap();
    let mut next = 0;
    for &length in lengths {
        let ids: Vec<u32> = (next..next + length).collect();
        writer.add(&ids, 0, Origin { file: 0, line: 1 }).unwrap();
        next += length;
    }
    writer.finish("x").unwrap();
    TokenFile::open(&path, "x").unwrap().unwrap()
}

/// Over three epochs every token comes three times, documents whole, in another order each time.
#[test]
fn every_token_comes_once_an_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let mut packed = Packed::new(documents(dir.path(), &[5, 1, 9, 0, 3]), 4, None, 7);
    assert_eq!((packed.tokens(), packed.rows()), (18, 5));
    let stream: Vec<u32> = (0..14).flat_map(|n| packed.row(n).ids).collect();
    let mut orders = Vec::new();
    for epoch in stream.chunks(18).take(3) {
        let mut all = epoch.to_vec();
        orders.push(all.clone());
        all.sort();
        assert_eq!(all, (0..18).collect::<Vec<_>>());
        let at = epoch.iter().position(|&id| id == 6).unwrap();
        assert_eq!(epoch[at..at + 9], [6, 7, 8, 9, 10, 11, 12, 13, 14]);
    }
    assert!(orders[0] != orders[1] || orders[1] != orders[2]);
}

#[test]
fn any_row_is_found_without_the_ones_before() {
    let dir = tempfile::tempdir().unwrap();
    let make = || Packed::new(documents(dir.path(), &[5, 1, 9, 3]), 7, Some(99), 7);
    let mut packed = make();
    let rows: Vec<Example> = (0..12).map(|n| packed.row(n)).collect();
    for (n, row) in rows.iter().enumerate().rev() {
        assert_eq!(make().row(n as u64), *row);
        assert_eq!((row.ids.len(), row.ids[0], row.from), (8, 99, 1));
    }
}

/// The pieces of all rows are the documents, cut where rows end, and say what was before a cut by a BOS.
#[test]
fn pieces_are_documents_by_themselves() {
    let dir = tempfile::tempdir().unwrap();
    for bos in [None, Some(99)] {
        let mut packed = Packed::new(documents(dir.path(), &[5, 2, 9, 0, 4]), 10, bos, 7);
        let lengths = [0..5, 5..7, 7..16, 16..20];
        let mut seen = 0;
        for n in 0..2 {
            let row = packed.row(n).ids;
            let pieces = packed.pieces(n);
            let tokens = || pieces.iter().flat_map(|piece| &piece.ids).filter(|id| Some(**id) != bos);
            let left_out = row.iter().filter(|id| Some(**id) != bos && !tokens().any(|t| t == *id)).count();
            assert!(left_out < 3, "single tokens alone are left out");
            for piece in &pieces {
                let own: Vec<u32> = piece.ids.iter().copied().filter(|id| Some(*id) != bos).collect();
                let document = lengths.iter().find(|d| d.contains(&own[0])).unwrap();
                let goes_on = own[0] > document.start;
                assert!(
                    own.iter().enumerate().all(|(k, id)| *id == own[0] + k as u32 && document.contains(id))
                );
                assert_eq!(piece.ids.len() - own.len(), usize::from(goes_on && bos.is_some()));
                assert_eq!(piece.targets(), piece.ids.len() - 1);
                seen += own.len();
            }
        }
        assert!((16..=20).contains(&seen), "{seen}");
    }
}

#[test]
fn long_documents_are_cut_behind_lines() {
    let line = "x".repeat(600_000) + "\n";
    let text = line.repeat(3) + &"y".repeat(PIECE + 5);
    let lengths: Vec<usize> = pieces(&text).map(str::len).collect();
    assert_eq!(lengths, [600_001, 600_001, 600_001, PIECE, 5]);
    assert_eq!(pieces(&text).collect::<String>(), text);
}
