//! Makes the two models that `retort quickstart` ships: its teacher, and the student it begins with.
//!
//!     cargo run --release --example quickstart_models -- runs/quickstart-models
//!
//! writes a tokenizer, the models' shapes and their rows, and trains both as `configs/quickstart/teacher.toml`
//! and `base.toml` say (half an hour of one core; stopped, it goes on where it was). What is shipped
//! is `best` of each run, in bfloat16.

use std::path::Path;

use retort::config::RunConfig;
use retort::error::{Error, Result};
use retort::quickstart::grammar::{Grammar, Split};
use retort::quickstart::rows::{Draw, Replies, write};
use retort::seed::{Stream, generator};
use retort::store::{Folder, write_file};
use retort::train::{self, News, Options, Watch};
use retort::weights::Dtype;
use serde_json::json;
use tch::{Device, Kind};
use tokenizers::decoders::byte_level::ByteLevel as Decoder;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::byte_level::ByteLevel as Processor;
use tokenizers::{AddedToken, TokenizerBuilder};

/// Rows of the vocabulary, and the tokens that mark who speaks.
const VOCABULARY: usize = 1024;
const MARKS: [&str; 3] = ["<|end|>", "<|ask|>", "<|answer|>"];

/// Each turn stands alone: what was said before is left out.
const TEMPLATE: &str = "{%- for message in messages[(messages | length - 1) // 2 * 2:] -%}\
{%- if message.role == 'user' -%}{{ '<|ask|>' + message.content + '<|answer|>' }}\
{%- else -%}{{ message.content + '<|end|>' }}{%- endif -%}{%- endfor -%}\n";

/// A shape and how much it reads.
struct Model {
    name: &'static str,
    hidden: usize,
    layers: usize,
    heads: usize,
    ffn: usize,
    rows: usize,
    /// The share of its rows that have an argument wrong.
    mistaken: f64,
}

const MODELS: [Model; 2] = [
    Model { name: "base", hidden: 48, layers: 3, heads: 4, ffn: 128, rows: 96_000, mistaken: 0.4 },
    Model { name: "teacher", hidden: 192, layers: 5, heads: 6, ffn: 512, rows: 96_000, mistaken: 0.0 },
];

fn main() -> Result<()> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "runs/quickstart-models".into());
    let dir = Path::new(&dir);
    let folder = Folder::create(dir)?;
    let grammar = Grammar::built_in()?;
    let tokenizer = tokenizer(&grammar)?;
    write(
        &grammar,
        &dir.join("valid.jsonl"),
        480,
        (Split::Valid, Replies::Several(4)),
        Draw { seed: 0, file: 0 },
    )?;
    for (model, file) in MODELS.iter().zip(1..) {
        let Model { name, rows, mistaken, .. } = *model;
        let replies = (Split::Train, Replies::One { mistaken });
        write(&grammar, &dir.join(format!("{name}.jsonl")), rows, replies, Draw { seed: 0, file })?;
        let shape = Folder::create(dir.join(name))?;
        write_shape(&shape, model, &tokenizer)?;
        let set = [
            format!("student.model.config={}/{name}/config.json", dir.display()),
            format!("data.train=[\"{}/{name}.jsonl\"]", dir.display()),
            format!("data.valid=[\"{}/valid.jsonl\"]", dir.display()),
        ];
        let config = RunConfig::load(Path::new(&format!("configs/quickstart/{name}.toml")), &set)?;
        let options = Options { device: Device::Cpu, kind: Kind::Float, write: Dtype::BF16, resume: true };
        train::run(config, &folder.path(&format!("{name}-run"))?, &options, &mut Lines)?;
    }
    Ok(())
}

/// A byte-level BPE of the task's own text.
fn tokenizer(grammar: &Grammar) -> Result<String> {
    let mut draws = generator(0, Stream::Task, 3, 0);
    let mut texts = Vec::new();
    for _ in 0..20_000 {
        let request = grammar.request(Split::Train, &mut draws)?;
        texts.push(grammar.reply(&request, &mut draws)?);
        texts.push(request.prompt);
    }
    let failed = |e: tokenizers::Error| Error::bug("no tokenizer came out").found(e);
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(VOCABULARY)
        .special_tokens(MARKS.map(|mark| AddedToken::from(mark, true)).to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None::<NFC>)
        .with_pre_tokenizer(Some(ByteLevel::new(false, true, true)))
        .with_post_processor(None::<Processor>)
        .with_decoder(Some(Decoder::default()))
        .build()
        .map_err(failed)?;
    tokenizer.train(&mut trainer, texts.into_iter()).map_err(failed)?;
    tokenizer.to_string(false).map_err(failed)
}

/// The folder of a model without weights.
fn write_shape(folder: &Folder, model: &Model, tokenizer: &str) -> Result<()> {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCABULARY,
        "hidden_size": model.hidden, "intermediate_size": model.ffn, "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads, "num_key_value_heads": model.heads, "hidden_act": "silu",
        "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": true, "initializer_range": 0.02, "eos_token_id": 0, "bos_token_id": null,
        "torch_dtype": "float32",
    });
    let about = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": MARKS[0], "clean_up_tokenization_spaces": false,
        "model_max_length": 256,
    });
    folder.write_bytes("config.json", format!("{config:#}\n").as_bytes())?;
    folder.write_bytes("tokenizer_config.json", format!("{about:#}\n").as_bytes())?;
    folder.write_bytes("chat_template.jinja", TEMPLATE.as_bytes())?;
    write_file(&folder.path("tokenizer.json")?, |out| Ok(out.write_all(tokenizer.as_bytes())?))
}

/// Says how far a run is.
struct Lines;

impl Watch for Lines {
    fn update(&mut self, news: News<'_>) {
        if news.step.is_multiple_of(100) {
            println!(
                "update {} of {}: loss {:.4}, {:.2} s",
                news.step,
                news.steps,
                news.loss,
                news.work.as_secs_f64()
            );
        }
    }

    fn evaluated(&mut self, step: u64, values: &[(&'static str, f64)]) {
        println!("after update {step}: {values:?}");
    }

    fn preparing(&mut self, _: &'static str, _: usize, _: usize) {}
}
