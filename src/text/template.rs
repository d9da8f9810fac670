//! How a row becomes the text that a model reads: its chat template, the Alpaca wording, or nothing.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::jinja::Jinja;
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::store::read_file;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, `tool` or what the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
    /// The other keys of the row's message (`name`, `tool_calls`, ...), for the template.
    pub extra: Map<String, Value>,
}

impl Message {
    /// A turn with no other keys.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Message { role: role.into(), content: content.into(), extra: Map::new() }
    }

    /// As transformers hands it to a template: keys that are null left out, reasoning under its names.
    fn to_json(&self) -> Value {
        let mut map = Map::new();
        map.insert("role".into(), self.role.clone().into());
        map.insert("content".into(), self.content.clone().into());
        map.extend(self.extra.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())));
        let reasoning =
            ["reasoning_content", "thinking", "reasoning"].iter().find_map(|k| map.get(*k).cloned());
        if let Some(reasoning) = reasoning {
            map.entry("thinking").or_insert_with(|| reasoning.clone());
            map.insert("reasoning_content".into(), reasoning);
        }
        Value::Object(map)
    }
}

/// What the user asked for: `auto`, `chat`, `alpaca`, `plain`, or the path of a .jinja file.
///
/// ```
/// use retort::text::TemplateChoice;
/// assert_eq!("alpaca".parse::<TemplateChoice>().unwrap(), TemplateChoice::Alpaca);
/// assert!("chatml".parse::<TemplateChoice>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TemplateChoice {
    /// The model's chat template if it has one, else Alpaca for rows with an instruction, else plain.
    #[default]
    Auto,
    /// The model's chat template.
    Chat,
    /// The wording of Stanford Alpaca.
    Alpaca,
    /// The text as it is.
    Plain,
    /// This chat template.
    File(PathBuf),
}

impl FromStr for TemplateChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(TemplateChoice::Auto),
            "chat" => Ok(TemplateChoice::Chat),
            "alpaca" => Ok(TemplateChoice::Alpaca),
            "plain" => Ok(TemplateChoice::Plain),
            path if path.ends_with(".jinja") || path.ends_with(".jinja2") || path.ends_with(".j2") => {
                Ok(TemplateChoice::File(PathBuf::from(path)))
            }
            other => Err(Error::user("no such template")
                .field("template")
                .expected("auto, chat, alpaca, plain or the path of a .jinja file")
                .found(other)),
        }
    }
}

/// A template in force.
#[derive(Debug, Clone)]
pub enum Template {
    /// A chat template.
    Chat(Arc<Chat>),
    /// The wording of Stanford Alpaca.
    Alpaca,
    /// The text as it is.
    Plain,
}

impl Template {
    /// Settles a choice for this model (in training: the student) and rows that have an instruction or
    /// not.
    pub fn resolve(choice: &TemplateChoice, tokenizer: &Tokenizer, instructions: bool) -> Result<Self> {
        match choice {
            TemplateChoice::Auto if tokenizer.chat_template().is_some() => Self::of_model(tokenizer),
            TemplateChoice::Auto if instructions => Ok(Template::Alpaca),
            TemplateChoice::Auto | TemplateChoice::Plain => Ok(Template::Plain),
            TemplateChoice::Alpaca => Ok(Template::Alpaca),
            TemplateChoice::Chat => Self::of_model(tokenizer),
            TemplateChoice::File(path) => {
                let bytes = read_file(path, super::folder::LONGEST_TEMPLATE)?
                    .ok_or_else(|| Error::user("no such file").file(path).field("template"))?;
                let text = String::from_utf8(bytes).map_err(|_| Error::data("not UTF-8").file(path))?;
                let chat = Chat::new(&text, tokenizer).map_err(|e| e.or_file(path))?;
                Ok(Template::Chat(Arc::new(chat)))
            }
        }
    }

    fn of_model(tokenizer: &Tokenizer) -> Result<Self> {
        let text = tokenizer.chat_template().ok_or_else(|| {
            Error::user("the model has no chat template")
                .file(tokenizer.file())
                .field("template")
                .advice("use --template alpaca, plain, or the path of a .jinja file")
        })?;
        let chat = Chat::new(text, tokenizer).map_err(|e| e.or_file(tokenizer.file()))?;
        Ok(Template::Chat(Arc::new(chat)))
    }

    /// Its name, for a run's record.
    pub fn name(&self) -> &'static str {
        match self {
            Template::Chat(_) => "chat",
            Template::Alpaca => "alpaca",
            Template::Plain => "plain",
        }
    }
}

/// A chat template with the special tokens of its model.
#[derive(Debug)]
pub struct Chat {
    jinja: Jinja,
    named: Map<String, Value>,
}

impl Chat {
    /// Compiles a template for the tokenizer whose special tokens it may use.
    pub fn new(text: &str, tokenizer: &Tokenizer) -> Result<Self> {
        let named = tokenizer.named().iter().map(|(k, v)| (k.as_str(), v.as_str()));
        Self::with_tokens(text, named)
    }

    /// Compiles a template with these special tokens (`bos_token`, `eos_token`, ...).
    pub fn with_tokens<'a>(text: &str, named: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        let jinja = Jinja::new(text).map_err(|found| {
            Error::data("the chat template cannot be used").field("chat_template").found(found)
        })?;
        let named = named.into_iter().map(|(k, v)| (k.to_string(), Value::from(v))).collect();
        Ok(Chat { jinja, named })
    }

    /// The text of a conversation, as transformers' `apply_chat_template(tokenize=False)` gives it.
    ///
    /// ```
    /// use retort::text::{Message, template::Chat};
    /// let chat = Chat::with_tokens(
    ///     "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}\
    ///      {% if add_generation_prompt %}<assistant>{% endif %}",
    ///     [("eos_token", "</s>")],
    /// ).unwrap();
    /// let text = chat.render(&[Message::new("user", "Hi")], true).unwrap();
    /// assert_eq!(text, "<user>Hi</s><assistant>");
    /// ```
    pub fn render(&self, messages: &[Message], generation_prompt: bool) -> Result<String> {
        let mut context = self.named.clone();
        context.insert("messages".into(), messages.iter().map(Message::to_json).collect());
        context.insert("tools".into(), Value::Null);
        context.insert("documents".into(), Value::Null);
        context.insert("add_generation_prompt".into(), json!(generation_prompt));
        self.jinja.render(&Value::Object(context)).map_err(|found| {
            Error::data("the chat template refuses a conversation").field("chat_template").found(found)
        })
    }
}

/// The prompt of Stanford Alpaca, with or without an input; it ends in `### Response:`.
///
/// ```
/// let prompt = retort::text::template::alpaca("Add.", "1 and 2");
/// assert!(prompt.ends_with("### Instruction:\nAdd.\n\n### Input:\n1 and 2\n\n### Response:"));
/// ```
pub fn alpaca(instruction: &str, input: &str) -> String {
    let task = "Below is an instruction that describes a task";
    let ask = "Write a response that appropriately completes the request.";
    if input.is_empty() {
        format!("{task}. {ask}\n\n### Instruction:\n{instruction}\n\n### Response:")
    } else {
        format!(
            "{task}, paired with an input that provides further context. {ask}\n\n\
             ### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
        )
    }
}
