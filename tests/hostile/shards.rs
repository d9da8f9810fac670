//! The index of shards, the shards it names, and folders whose weights are of another kind.

use serde_json::{Value, json};

use super::folder::Folder;
use super::{Case, Run};

const INDEX: &str = "model.safetensors.index.json";
const SECOND: &str = "model-00002-of-00004.safetensors";

fn case(name: &str, says: &str, change: impl Fn(&Folder) + 'static) -> Case {
    Case::new(format!("shards: {name}"), Run::Inspect, says, change).of("folders/llama-sharded")
}

/// Where the index puts a tensor.
fn put(name: &str, says: &str, tensor: &'static str, file: Value) -> Case {
    case(name, says, move |f| f.edit(INDEX, |i| i["weight_map"][tensor] = file.clone()))
}

/// An index of this text.
fn text(name: &str, says: &str, text: impl AsRef<[u8]> + 'static) -> Case {
    case(name, says, move |f| f.write(INDEX, &text))
}

pub fn cases() -> Vec<Case> {
    [the_index(), the_names(), the_shards(), other_kinds()].into_iter().flatten().collect()
}

fn the_index() -> Vec<Case> {
    vec![
        text("an empty index", "not an index", ""),
        text("an index without a map", "not an index", "{}"),
        text("an empty map", "names no shard", "{\"weight_map\": {}}"),
        text("two maps", "not an index", "{\"weight_map\": {}, \"weight_map\": {}}"),
        text("an index nested a million deep", "not an index", b"{\"a\":".repeat(1_000_000)),
        text("an index that is not UTF-8", "not an index", b"{\"weight_map\": {\"\xff\": \"x\"}}"),
        text("an index of 70 MiB", "too large", vec![b' '; 70 << 20]),
        case("an index cut in the middle", "not an index", |f| f.cut(INDEX, 400)),
        case("a pipe for an index", "not a file", |f| f.pipe(INDEX)),
        case("a device for an index", "not a file", |f| f.link(INDEX, "/dev/zero")),
    ]
}

fn the_names() -> Vec<Case> {
    const PLAIN: &str = "not a plain file name";
    const NORM: &str = "model.norm.weight";
    vec![
        put("a shard above the folder", PLAIN, NORM, json!("../model.safetensors")),
        put("a shard by its absolute path", PLAIN, NORM, json!("/etc/passwd.safetensors")),
        put("a shard in a folder below", PLAIN, NORM, json!("a/b.safetensors")),
        put("a shard named ..", PLAIN, NORM, json!("..")),
        put("a shard with a NUL in its name", PLAIN, NORM, json!("a\u{0}.safetensors")),
        put("a shard that is no safetensors", PLAIN, NORM, json!("pytorch_model.bin")),
        put("a shard that is not there", "a weight file is missing", NORM, json!("model-9.safetensors")),
        put("a tensor that the shard lacks", "lacks a tensor", NORM, json!(SECOND)),
        put("a tensor that nobody has", "lacks a tensor", "model.x", json!(SECOND)),
    ]
}

fn the_shards() -> Vec<Case> {
    vec![
        case("a shard that was not fetched", "a weight file is missing", |f| f.remove(SECOND)),
        case("a shard cut short", "shorter or longer", |f| f.cut(SECOND, 9000)),
        case("a shard that is a link to nothing", "a weight file is missing", |f| f.link(SECOND, "nowhere")),
        case("a shard that is a pipe", "not a file", |f| f.pipe(SECOND)),
        case("a shard that is another one", "lacks a tensor", |f| {
            std::fs::copy(f.at("model-00001-of-00004.safetensors"), f.at(SECOND)).unwrap();
        }),
        case("one tensor in two shards", "there twice", |f| {
            std::fs::copy(f.at(SECOND), f.at("model-00005.safetensors")).unwrap();
            f.edit(INDEX, |i| {
                i["weight_map"]["model.layers.0.input_layernorm.weight"] = json!("model-00005.safetensors");
            });
        }),
    ]
}

fn other_kinds() -> Vec<Case> {
    let instead = |name: &str, says: &str, file: &'static str| {
        Case::new(format!("shards: {name}"), Run::Inspect, says, move |f| {
            f.rename("model.safetensors", file);
        })
    };
    vec![
        instead("a pickle", "save_pretrained() writes safetensors", "pytorch_model.bin"),
        instead("an older pickle", "a pickle can run code", "consolidated.00.pth"),
        instead("a GGUF file", "retort import FILE.gguf", "model-q4.gguf"),
        instead("no weights at all", "no weights in the model folder", "weights.msgpack"),
        Case::new("shards: a link to nothing", Run::Inspect, "no weights in the model folder", |f| {
            f.link("model.safetensors", "nowhere");
        }),
    ]
}
