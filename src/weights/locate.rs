//! Where a model folder is: a path, or `org/name` in the Hugging Face cache. Nothing is downloaded.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The folder of a model that was named by path or as `org/name`.
pub fn model_folder(name: &str) -> Result<PathBuf> {
    let path = Path::new(name);
    if path.is_dir() {
        return Ok(path.to_path_buf());
    }
    if path.exists() {
        let advice = if name.ends_with(".gguf") {
            "retort import FILE.gguf --out DIR makes a model folder of it"
        } else {
            "name the folder that holds config.json"
        };
        return Err(Error::user("not a model folder").file(path).found("a file").advice(advice));
    }
    let missing = || Error::user("no such model folder").file(path);
    let Some((org, model)) = name.split_once('/') else { return Err(missing()) };
    if !is_hub_part(org) || !is_hub_part(model) {
        return Err(missing());
    }
    let Some(cache) = hub_cache() else { return Err(missing()) };
    in_cache(&cache, org, model).ok_or_else(|| {
        missing()
            .found(format!("not in the Hugging Face cache at {} either", cache.display()))
            .advice(format!("nothing is downloaded here: `hf download {name}` fills the cache"))
    })
}

fn is_hub_part(part: &str) -> bool {
    !part.is_empty()
        && !part.starts_with('.')
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// The cache folder, by the variables that huggingface_hub itself reads.
fn hub_cache() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("HF_HUB_CACHE")
        .or_else(|| set("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("huggingface/hub")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/huggingface/hub")))
}

/// The snapshot that `main` points to, or the newest one where there is no such reference.
fn in_cache(cache: &Path, org: &str, model: &str) -> Option<PathBuf> {
    let repo = cache.join(format!("models--{org}--{model}"));
    let snapshots = repo.join("snapshots");
    if let Ok(commit) = std::fs::read_to_string(repo.join("refs/main")) {
        let commit = commit.trim();
        if is_hub_part(commit) && snapshots.join(commit).is_dir() {
            return Some(snapshots.join(commit));
        }
    }
    let all = std::fs::read_dir(snapshots).ok()?.flatten().filter(|d| d.path().is_dir());
    all.max_by_key(|d| d.metadata().and_then(|m| m.modified()).ok()).map(|d| d.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_read_through_its_reference() {
        let dir = tempfile::tempdir().unwrap();
        let repo = dir.path().join("models--org--tiny");
        for commit in ["abc", "def"] {
            std::fs::create_dir_all(repo.join("snapshots").join(commit)).unwrap();
        }
        crate::store::Folder::create(repo.join("refs")).unwrap().write_bytes("main", b"abc\n").unwrap();
        assert_eq!(in_cache(dir.path(), "org", "tiny").unwrap(), repo.join("snapshots/abc"));
        assert_eq!(in_cache(dir.path(), "org", "other"), None);
    }

    #[test]
    fn a_reference_cannot_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        let repo = dir.path().join("models--org--tiny");
        std::fs::create_dir_all(repo.join("snapshots")).unwrap();
        crate::store::Folder::create(repo.join("refs")).unwrap().write_bytes("main", b"../..").unwrap();
        assert_eq!(in_cache(dir.path(), "org", "tiny"), None);
        assert_eq!(model_folder("../x").unwrap_err().cause().exit_code(), 2);
    }
}
