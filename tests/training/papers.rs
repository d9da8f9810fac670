//! The published recipes are planned from shapes alone: folders with a config.json and a tokenizer, no weights.

use std::path::{Path, PathBuf};

use retort::config::RunConfig;
use serde_json::{Value, json};

use crate::Case;
use crate::support::fixture;

/// The models of the recipes, by a name in their files' names: their parameters as published, and config.json.
fn shapes() -> Vec<(&'static str, u64, Value)> {
    let gpt2 = |width: u32, layers: u32, heads: u32| {
        json!({
            "model_type": "gpt2", "n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": 1024,
            "vocab_size": 50_257, "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new",
            "bos_token_id": 319, "eos_token_id": 319,
        })
    };
    let opt = |width: u32, layers: u32, heads: u32| {
        json!({
            "model_type": "opt", "hidden_size": width, "word_embed_proj_dim": width, "num_hidden_layers": layers,
            "num_attention_heads": heads, "ffn_dim": 4 * width, "max_position_embeddings": 2048,
            "vocab_size": 50_272, "do_layer_norm_before": true, "activation_function": "relu",
            "bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1,
        })
    };
    let llama = |width: u32, layers: u32, heads: u32, ffn: u32| {
        json!({
            "model_type": "llama", "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": heads, "intermediate_size": ffn, "max_position_embeddings": 4096,
            "vocab_size": 32_000, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": false,
            "bos_token_id": 1, "eos_token_id": 2,
        })
    };
    vec![
        ("gpt2-base", 124_439_808, gpt2(768, 12, 12)),
        ("gpt2-medium", 354_823_168, gpt2(1024, 24, 16)),
        ("gpt2-large", 774_030_080, gpt2(1280, 36, 20)),
        ("gpt2-xl", 1_557_611_200, gpt2(1600, 48, 25)),
        ("opt-1.3b", 1_315_758_080, opt(2048, 24, 32)),
        ("opt-2.7b", 2_651_596_800, opt(2560, 32, 32)),
        ("opt-6.7b", 6_658_473_984, opt(4096, 32, 32)),
        ("opt-13b", 12_853_473_280, opt(5120, 40, 40)),
        ("llama-7b", 6_738_415_616, llama(4096, 32, 32, 11_008)),
        ("llama-13b", 13_015_864_320, llama(5120, 40, 40, 13_824)),
        ("3b", 2_914_667_520, llama(3072, 24, 24, 8192)),
    ]
}

/// Which of them a recipe's teacher is.
fn teacher_of(recipe: &str) -> &'static str {
    match recipe {
        name if name.starts_with("gpt2") => "gpt2-xl",
        name if name.starts_with("opt") => "opt-13b",
        "minima-3b" => "llama-7b",
        _ => "llama-13b",
    }
}

/// Writes a shape's folder: its config.json, and a small tokenizer of its family.
fn bare_folder(case: &Case, name: &str, config: &Value) -> PathBuf {
    let family = config["model_type"].as_str().unwrap();
    let kin = if family == "llama" { "llama2" } else { family };
    let tokenizer = fixture(&format!("score/{kin}"));
    let folder = case.path(name);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    for file in ["tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json"] {
        if tokenizer.join(file).exists() {
            std::fs::copy(tokenizer.join(file), folder.join(file)).unwrap();
        }
    }
    if family == "llama" {
        let template = fixture("score/llama/chat_template.jinja");
        std::fs::copy(template, folder.join("chat_template.jinja")).unwrap();
    }
    folder
}

/// The rows and the text that the recipes learn from, and the settings that name them and the models.
fn settings_of(case: &Case, recipe: &Path, folder: &dyn Fn(&str) -> String) -> (Vec<String>, [String; 2]) {
    let name = recipe.file_stem().unwrap().to_str().unwrap();
    let row = |n: usize| json!({"instruction": format!("Say {n}."), "output": format!("It is {n}.")});
    let rows = (0..200).map(|n| format!("{}\n", row(n))).collect::<String>();
    let text = json!({"text": "The vessel has a neck, and the neck a mouth. ".repeat(2000)});
    std::fs::write(case.path("rows.jsonl"), rows).unwrap();
    std::fs::write(case.path("text.jsonl"), format!("{text}\n")).unwrap();
    let config = RunConfig::load(recipe, &[]).unwrap();
    let student = shapes().into_iter().find(|(shape, ..)| name.contains(shape)).unwrap().0;
    let mut settings = vec![format!("student.model={:?}", folder(student))];
    let teacher = config.settings.teacher.is_some().then(|| teacher_of(name));
    settings.extend(teacher.map(|shape| format!("teacher.model={:?}", folder(shape))));
    let data = &config.settings.data;
    let files =
        [("train", &data.train, "rows"), ("valid", &data.valid, "rows"), ("corpus", &data.corpus, "text")];
    for (key, _, file) in files.iter().filter(|(_, named, _)| !named.is_empty()) {
        settings.push(format!("data.{key}=[{:?}]", case.text(&format!("{file}.jsonl"))));
    }
    (settings, [student.to_string(), teacher.unwrap_or_default().to_string()])
}

/// Every recipe passes `--dry-run` with folders that have no weights, and says the memory that it would hold: the
/// number of parameters is the published one, and what does not fit this machine is said and not refused.
#[test]
fn every_recipe_is_planned_without_weights() {
    let case = Case::new("sft", Path::new("none"));
    let shapes = shapes();
    for (name, _, config) in &shapes {
        bare_folder(&case, name, config);
    }
    let size = |name: &str| shapes.iter().find(|(shape, ..)| *shape == name).map(|(_, size, _)| *size);
    let papers = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/papers");
    let mut planned = 0;
    for entry in std::fs::read_dir(papers).unwrap() {
        let recipe = entry.unwrap().path();
        let (settings, [student, teacher]) = settings_of(&case, &recipe, &|name| case.text(name));
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        std::fs::copy(&recipe, case.path("run.toml")).unwrap();
        let answer = case.good("run", &settings, &["--dry-run"]);
        let plan: Value = serde_json::from_str(answer.out.trim()).unwrap();
        let what = recipe.display();
        assert_eq!(plan["params"].as_u64(), size(&student), "{what}");
        assert_eq!(plan["teacher_params"].as_u64(), size(&teacher), "{what}");
        assert!(plan["steps"].as_u64() > Some(0) && plan["rows"]["tokens"].as_u64() > Some(0), "{what}");
        // Weights, the gradients' sum and two moments in float32, and the teacher's weights; what is left of the
        // machine decides how much comes to it.
        let least = 16 * size(&student).unwrap() + 4 * size(&teacher).unwrap_or(0);
        let memory = plan["memory"].as_u64().unwrap();
        assert!(memory > least, "{what}: {memory}, at least {least}");
        let said = plan["missing"].to_string();
        assert!(said.contains("the student's weights"), "{what}: {said}");
        assert_eq!(said.contains("the teacher's weights"), !teacher.is_empty(), "{what}: {said}");
        let too_much = plan["total_memory"].as_u64().is_some_and(|total| memory > total);
        assert_eq!(said.contains("memory"), too_much, "{what}: {said}");
        assert!(!case.path("run").exists(), "{what}: nothing is written");
        planned += 1;
    }

    assert!(planned >= 16, "{planned}");
}

/// Weights in a form that is not read are no missing ones, and a run does not begin without weights.
#[test]
fn weights_that_are_not_read_are_refused() {
    let case = Case::new("sft", &fixture("score/llama/rows_prompt.jsonl"));
    let (name, _, config) = shapes().swap_remove(0);
    let folder = bare_folder(&case, name, &config);
    let student = format!("student.model={:?}", case.text(name));
    let settings = [student.as_str(), "train.steps=1"];
    case.good("run", &settings, &["--dry-run"]);
    let answer = case.run("run", &settings, &[]);
    assert_eq!(answer.code, 3, "{}", answer.err);
    assert!(answer.err.contains("no weights in the model folder"), "{}", answer.err);
    std::fs::write(folder.join("pytorch_model.bin"), b"pickled").unwrap();
    let answer = case.run("run", &settings, &["--dry-run"]);
    assert_eq!(answer.code, 3, "{}", answer.err);
    assert!(answer.err.contains("pickled weights"), "{}", answer.err);
}
