//! The configs that come with the project are read, every one of them.

use std::path::Path;

use retort::config::RunConfig;
use retort::config::grid::GridConfig;

#[test]
fn every_config_of_the_tree_is_read() {
    let mut waiting = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("configs")];
    let mut read = 0;
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            if text.contains("retort law run configs/") {
                assert!(text.starts_with("# "), "{}", path.display());
                GridConfig::load(&path, &[]).unwrap_or_else(|e| panic!("{e}"));
                read += 1;
                continue;
            }
            let config = RunConfig::load(&path, &[]).unwrap_or_else(|e| panic!("{e}"));
            assert!(text.starts_with("# ") && text.contains("retort distill configs/"), "{}", path.display());
            assert!(config.unused.is_empty(), "{}", path.display());
            read += 1;
        }
    }
    assert!(read >= 12, "{read}");
}
