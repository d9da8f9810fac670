//! config.json: the file, its fields, and what goes with the fields.

use serde_json::{Value, json};

use super::folder::Folder;
use super::{Case, Run};

const FILE: &str = "config.json";

fn case(name: &str, says: &str, change: impl Fn(&Folder) + 'static) -> Case {
    Case::new(format!("config: {name}"), Run::Inspect, says, change)
}

/// A field set to a value; the error must name the field.
fn field(key: &'static str, value: Value) -> Case {
    case(&format!("{key} is {value}"), key, move |f| f.set(key, value.clone()))
}

/// A field inside `rope_parameters`.
fn rope(key: &'static str, value: Value, says: &str) -> Case {
    case(&format!("rope_parameters.{key} is {value}"), says, move |f| {
        f.edit(FILE, |c| c["rope_parameters"][key] = value.clone());
    })
}

fn removed(key: &'static str) -> Case {
    case(&format!("without {key}"), key, move |f| {
        f.edit(FILE, |c| {
            c.as_object_mut().unwrap().remove(key);
        });
    })
}

pub fn cases() -> Vec<Case> {
    [the_file(), the_json(), sizes(), switches(), ropes(), families()].into_iter().flatten().collect()
}

fn the_file() -> Vec<Case> {
    vec![
        case("no file", "config.json is missing", |f| f.remove(FILE)),
        case("a folder under the file's name", "not a file", |f| {
            f.remove(FILE);
            std::fs::create_dir(f.at(FILE)).unwrap();
        }),
        case("a pipe under the file's name", "not a file", |f| f.pipe(FILE)),
        case("a device that never ends", "not a file", |f| f.link(FILE, "/dev/zero")),
        case("a link to nothing", "config.json is missing", |f| f.link(FILE, "nowhere")),
        case("20 MiB of spaces", "too large", |f| f.write(FILE, vec![b' '; 20 << 20])),
    ]
}

fn the_json() -> Vec<Case> {
    let text = |name: &str, says: &str, text: Vec<u8>| case(name, says, move |f| f.write(FILE, &text));
    vec![
        text("empty", "not valid JSON", vec![]),
        text("a list", "expected an object, found a list", b"[]".into()),
        text("not UTF-8", "offset 10", b"{\"type\": \"\xff\"}".into()),
        text("nested a million deep", "nested too deep", b"{\"a\":".repeat(1_000_000)),
        text("a list a million deep", "nested too deep", b"[".repeat(1_000_000)),
        text("two documents", "not valid JSON", b"{} {}".into()),
        case("cut in the middle", "not valid JSON", |f| f.cut(FILE, 300)),
        case("a comment", "not valid JSON", |f| f.replace(FILE, "{", "{ // made by hand\n")),
        case("a literal NaN", "not valid JSON", |f| f.replace(FILE, "1e-05", "NaN")),
        case("a number beyond every float", "not valid JSON", |f| f.replace(FILE, "1e-05", "1e999")),
        case("a comma at the end", "not valid JSON", |f| f.replace(FILE, "352", "352,")),
        case("a key that occurs twice", "\"hidden_size\" occurs twice", |f| {
            f.replace(FILE, "{", "{ \"hidden_size\": 24,");
        }),
        case("an escape sequence in a value", "u{1b}", |f| f.set("model_type", json!("\u{1b}[2J\n\u{202e}"))),
        case("a value of a million letters", "...", |f| f.set("model_type", json!("x".repeat(1_000_000)))),
    ]
}

fn sizes() -> Vec<Case> {
    let mut all = Vec::new();
    for value in [json!(0), json!(-1), json!(1e30), json!(2.5), json!("64"), json!(null)] {
        all.push(field("hidden_size", value));
    }
    for value in [json!(0), json!(1_000_000_000)] {
        all.push(field("num_hidden_layers", value));
    }
    for key in ["num_attention_heads", "vocab_size", "intermediate_size", "max_position_embeddings"] {
        all.extend([json!(1u64 << 40)].map(|value| field(key, value)));
    }
    for value in [json!(0), json!(2)] {
        all.push(field("num_key_value_heads", value));
    }
    for value in [json!(0), json!(4.0)] {
        all.push(field("head_dim", value));
    }
    all.extend(["model_type", "hidden_size"].map(removed));
    all.push(case("more layers than the file has", "a tensor is missing", |f| {
        f.set("num_hidden_layers", json!(1024));
    }));
    all.push(case("fewer layers than the file has", "no place for", |f| {
        f.set("num_hidden_layers", json!(1))
    }));
    all.push(case("a vocabulary larger than the file's", "expected [16777216, 20]", |f| {
        f.set("vocab_size", json!(1 << 24));
    }));
    all.push(case("heads that do not divide the width", "a divisor of the hidden size 20", |f| {
        f.edit(FILE, |c| {
            c["num_attention_heads"] = json!(3);
            c["head_dim"] = Value::Null;
        });
    }));
    all.push(case("the largest sizes that are believed", "wrong shape", |f| {
        f.edit(FILE, |c| {
            for (key, size) in [("hidden_size", 1 << 20), ("intermediate_size", 1 << 20), ("head_dim", 4096)]
            {
                c[key] = json!(size);
            }
            (c["num_attention_heads"], c["num_key_value_heads"]) = (json!(1 << 14), json!(1 << 14));
        });
    }));
    all
}

fn switches() -> Vec<Case> {
    let mut all = Vec::new();
    for value in [json!(0), json!(-1e-5)] {
        all.push(field("rms_norm_eps", value));
    }
    for value in [json!("swoosh"), json!(3)] {
        all.push(field("hidden_act", value));
    }
    for value in [json!("bert"), json!(7)] {
        all.push(field("model_type", value));
    }
    for key in ["tie_word_embeddings", "attention_bias", "mlp_bias"] {
        all.push(field(key, json!("no")));
    }
    all
}

fn ropes() -> Vec<Case> {
    let scaled = |name: &str, says: &str, scaling: Value| {
        case(&format!("rope: {name}"), says, move |f| f.set("rope_scaling", scaling.clone()))
    };
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64});
    let changed = |key: &str, value: Value| {
        let mut all = llama3.clone();
        all[key] = value;
        all
    };
    vec![
        rope("rope_type", json!("spiral"), "spiral"),
        rope("rope_theta", json!(-10000.0), "rope_theta"),
        rope("rope_theta", json!("NaN"), "rope_theta"),
        rope("full_attention", json!({"rope_theta": 10000.0}), "one set of rope parameters"),
        rope("rope_theta", json!(1e-300), "finite"),
        field("quantization_config", json!({"quant_method": "gptq", "bits": 4})),
        field("pruned_heads", json!({"0": [1]})),
        field("rope_parameters", json!("default")),
        scaled("linear by 0", "factor", json!({"rope_type": "linear", "factor": 0})),
        scaled("linear by a text", "factor", json!({"type": "linear", "factor": "NaN"})),
        scaled("linear by nothing", "factor", json!({"rope_type": "linear"})),
        scaled("llama3 without its bounds", "factor", json!({"rope_type": "llama3", "factor": 8.0})),
        scaled("llama3 with bounds the wrong way", "less than", changed("low_freq_factor", json!(4.0))),
        scaled("llama3 with a bound of 0", "high_freq_factor", changed("high_freq_factor", json!(0))),
    ]
}

/// Fields that only some architectures have. These folders have no tokenizer: it is never reached.
fn families() -> Vec<Case> {
    let on = |base: &'static str, key: &'static str, value: Value| {
        let name = base.rsplit('/').next().unwrap();
        case(&format!("{name}: {key} is {value}"), key, move |f| f.set(key, value.clone())).of(base)
    };
    let window = "parity/qwen2-window";
    vec![
        on("parity/mistral", "sliding_window", json!(0)),
        on(window, "sliding_window", json!(0)),
        on(window, "use_sliding_window", json!("yes")),
        on(window, "layer_types", json!(["full_attention", "sliding_attention"])),
        on(window, "layer_types", json!(["full_attention", "sliding_attention", "chunked_attention"])),
        on(window, "layer_types", json!([1, 2, 3])),
        on("parity/gpt2", "n_head", json!(4)),
        on("parity/gpt2", "n_inner", json!(-1)),
        on("parity/gpt2", "layer_norm_epsilon", json!(0)),
        on("parity/gpt2", "activation_function", json!("relu7")),
        on("parity/gpt2", "add_cross_attention", json!(true)),
        on("parity/gpt_neox", "num_attention_heads", json!(3)),
        on("parity/opt-pre", "num_attention_heads", json!(3)),
        on("parity/opt-pre", "word_embed_proj_dim", json!(0)),
        on("parity/opt-pre", "ffn_dim", json!(1u64 << 50)),
    ]
}
