//! A model folder in a place of its own, to be broken.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::support::fixture;

/// A copy of a fixture.
pub struct Folder {
    dir: tempfile::TempDir,
}

impl Folder {
    /// A copy of the folder of this name below `tests/fixtures`.
    pub fn of(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(fixture(name)).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
        }
        Folder { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.at(name), bytes).unwrap();
    }

    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.at(name)).unwrap();
    }

    pub fn rename(&self, from: &str, to: &str) {
        std::fs::rename(self.at(from), self.at(to)).unwrap();
    }

    pub fn link(&self, name: &str, target: &str) {
        if self.at(name).exists() {
            self.remove(name);
        }
        std::os::unix::fs::symlink(target, self.at(name)).unwrap();
    }

    /// A named pipe under this name: reading it would wait for ever.
    pub fn pipe(&self, name: &str) {
        if self.at(name).exists() {
            self.remove(name);
        }
        let path = std::ffi::CString::new(self.at(name).to_str().unwrap()).unwrap();
        // SAFETY: the path is a C string that lives through the call.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    }

    pub fn cut(&self, name: &str, length: usize) {
        let bytes = std::fs::read(self.at(name)).unwrap();
        self.write(name, &bytes[..length]);
    }

    pub fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.at(name)).unwrap()).unwrap()
    }

    /// Changes a file of JSON.
    pub fn edit(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut value = self.json(name);
        change(&mut value);
        self.write(name, value.to_string());
    }

    /// Sets a field of config.json.
    pub fn set(&self, key: &str, value: Value) {
        self.edit("config.json", |c| c[key] = value);
    }

    /// Changes the text of a file, which must hold what is replaced.
    pub fn replace(&self, name: &str, old: &str, new: &str) {
        let text = std::fs::read_to_string(self.at(name)).unwrap();
        assert!(text.contains(old), "{name} has no {old}");
        self.write(name, text.replacen(old, new, 1));
    }

    pub fn tensors(&self) -> Tensors {
        Tensors::read(&self.at("model.safetensors"))
    }

    /// Changes the weights.
    pub fn weights(&self, change: impl FnOnce(&mut Tensors)) {
        let mut tensors = self.tensors();
        change(&mut tensors);
        self.write("model.safetensors", tensors.bytes());
    }
}

/// A safetensors file of the header's text and the data, nothing checked.
pub fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// A safetensors file taken apart.
#[derive(Clone)]
pub struct Tensors {
    pub all: Vec<One>,
}

/// One tensor.
#[derive(Clone)]
pub struct One {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<u64>,
    pub data: Vec<u8>,
}

impl Tensors {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
        let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
        let header: Map<String, Value> = serde_json::from_slice(header).unwrap();
        let one = |(name, info): (&String, &Value)| {
            let at = |i: usize| info["data_offsets"][i].as_u64().unwrap() as usize;
            One {
                name: name.clone(),
                dtype: info["dtype"].as_str().unwrap().into(),
                shape: serde_json::from_value(info["shape"].clone()).unwrap(),
                data: data[at(0)..at(1)].to_vec(),
            }
        };
        Tensors { all: header.iter().filter(|(name, _)| *name != "__metadata__").map(one).collect() }
    }

    /// The header and the data.
    pub fn parts(&self) -> (Map<String, Value>, Vec<u8>) {
        let (mut header, mut data) = (Map::new(), Vec::new());
        for t in &self.all {
            let range = [data.len(), data.len() + t.data.len()];
            data.extend(&t.data);
            header.insert(t.name.clone(), json!({"dtype": t.dtype, "shape": t.shape, "data_offsets": range}));
        }
        (header, data)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let (header, data) = self.parts();
        raw(&Value::Object(header).to_string(), &data)
    }

    pub fn get(&mut self, name: &str) -> &mut One {
        self.all.iter_mut().find(|t| t.name == name).unwrap()
    }

    pub fn take(&mut self, name: &str) -> One {
        let at = self.all.iter().position(|t| t.name == name).unwrap();
        self.all.remove(at)
    }
}
