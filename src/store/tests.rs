//! What `store` promises: whole or not at all, and never outside.

use super::*;

fn names(dir: &Path) -> Vec<String> {
    let mut all: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    all
}

#[test]
fn a_failed_write_leaves_the_old_file_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::create(dir.path()).unwrap();
    folder.write_bytes("a", b"old").unwrap();
    let e = folder.write("a", |w| {
        w.write_all(b"half")?;
        Err(Error::data("no more").into())
    });
    assert!(e.is_err());
    assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), b"old");
    assert_eq!(names(dir.path()), ["a"]);
}

#[test]
fn a_device_is_written_to_and_a_link_stays_one() {
    use std::os::unix::fs::{FileTypeExt, symlink};
    let fill = |w: &mut dyn Write| Ok(w.write_all(b"text")?);
    write_file(Path::new("/dev/null"), fill).unwrap();
    assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    let e = write_file(Path::new("/dev/full"), fill).unwrap_err();
    assert_eq!(e.cause().exit_code(), 4, "{e}");
    let dir = tempfile::tempdir().unwrap();
    let (real, link) = (dir.path().join("real"), dir.path().join("link"));
    std::fs::write(&real, "old").unwrap();
    symlink("real", &link).unwrap();
    write_file(&link, fill).unwrap();
    assert_eq!(std::fs::read(&real).unwrap(), b"text");
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
}

#[test]
fn only_regular_files_of_a_bounded_size_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    assert_eq!(read_file(&path, 9).unwrap(), None);
    std::fs::write(&path, "12345").unwrap();
    assert_eq!(read_file(&path, 5).unwrap().unwrap(), b"12345");
    assert!(read_file(&path, 4).unwrap_err().to_string().contains("too large"));
    assert!(read_file(Path::new("/dev/zero"), 9).unwrap_err().to_string().contains("not a file"));
}

#[test]
fn a_folder_appears_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("model");
    let staged = Staged::create(&target).unwrap();
    staged.folder().write_bytes("x", b"1").unwrap();
    assert!(!target.exists());
    drop(staged);
    assert!(names(dir.path()).is_empty());
    let staged = Staged::create(&target).unwrap();
    staged.folder().write_bytes("x", b"1").unwrap();
    staged.commit().unwrap();
    assert_eq!(names(&target), ["x"]);
    assert!(Staged::create(&target).is_err(), "an occupied folder is refused");
}

#[test]
fn names_that_lead_out_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::create(dir.path()).unwrap();
    for name in ["", "..", "../a", "a/../../b", "/etc/x", "a\0b", "./../a"] {
        assert!(folder.path(name).is_err(), "{name:?}");
    }
    assert!(folder.path("checkpoints/step-1/model.safetensors").is_ok());
}

#[test]
fn a_second_lock_is_refused_until_the_first_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::create(dir.path()).unwrap();
    let first = folder.lock().unwrap();
    assert!(folder.lock().is_err());
    drop(first);
    assert!(folder.lock().is_ok());
}
