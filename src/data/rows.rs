//! The schemas of a row, and a JSON object turned into a row of one of them.
//!
//! A key that occurs twice in an object is an error: readers differ in which one they keep. Keys that
//! no schema knows (`id`, `category`, ...) are passed over.

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::text::Message;
use crate::text::json::kind;

/// What a row may look like; a file keeps to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// `{"prompt", "response"?}`
    Prompt,
    /// `{"instruction", "input"?, "output"}`, also with Dolly's `context` and `response`.
    Instruction,
    /// `{"messages": [{"role", "content"}]}`
    Messages,
    /// `{"conversations": [{"from", "value"}]}`, ShareGPT's.
    Conversations,
    /// `{"text"}`
    Text,
    /// `{"prompt", "choices", "answer"}`
    Choices,
    /// `{"ids", "prompt_len"?}`
    Ids,
}

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub enum Row {
    /// A prompt and its references; the first one is trained on, none makes it a prompt alone.
    Prompt {
        /// What is asked.
        prompt: String,
        /// What may be answered.
        responses: Vec<String>,
    },
    /// An instruction with an input, which may be empty, and its references.
    Instruction {
        /// The task.
        instruction: String,
        /// What it is about.
        input: String,
        /// What may be answered.
        responses: Vec<String>,
    },
    /// A conversation, of either spelling.
    Chat(Vec<Message>),
    /// Text without a prompt.
    Text(String),
    /// A question with choices.
    Choices {
        /// What is asked.
        prompt: String,
        /// What may be chosen.
        choices: Vec<String>,
        /// Which choice is right, from 0.
        answer: usize,
    },
    /// Tokens as they are.
    Ids {
        /// All of them.
        ids: Vec<u32>,
        /// How many of them are the prompt, where the row says so.
        prompt_len: Option<usize>,
    },
}

impl Row {
    /// The references of the row: what a reply is compared with.
    ///
    /// ```
    /// use retort::data::{Row, Schema};
    /// let object = serde_json::json!({"prompt": "Hi", "response": ["Hello", "Hey"]});
    /// let row = Schema::Prompt.row(object.as_object().unwrap()).unwrap();
    /// assert_eq!(row.references(), ["Hello", "Hey"]);
    /// ```
    pub fn references(&self) -> Vec<&str> {
        match self {
            Row::Prompt { responses, .. } | Row::Instruction { responses, .. } => {
                responses.iter().map(String::as_str).collect()
            }
            Row::Chat(messages) => last_reply(messages).iter().map(|m| m.content.as_str()).collect(),
            Row::Choices { choices, answer, .. } => choices.get(*answer).iter().map(|c| c.as_str()).collect(),
            Row::Text(_) | Row::Ids { .. } => Vec::new(),
        }
    }
}

/// The last message, where it is the assistant's.
pub(super) fn last_reply(messages: &[Message]) -> Option<&Message> {
    messages.last().filter(|m| m.role == "assistant")
}

/// The keys that tell schemas apart.
const MARKS: [(&str, Schema); 6] = [
    ("ids", Schema::Ids),
    ("messages", Schema::Messages),
    ("conversations", Schema::Conversations),
    ("instruction", Schema::Instruction),
    ("prompt", Schema::Prompt),
    ("text", Schema::Text),
];

/// Keys of other formats beside a prompt that would be a response left out in silence.
const OTHER_RESPONSES: [&str; 4] = ["output", "completion", "chosen", "target"];

impl Schema {
    /// The schema of a row: it must have the keys of one and of no other.
    pub fn of(row: &Map<String, Value>) -> Result<Self> {
        let found: Vec<(&str, Schema)> =
            MARKS.into_iter().filter(|(key, _)| row.contains_key(*key)).collect();
        match found[..] {
            [(_, Schema::Prompt)] if row.contains_key("choices") => Ok(Schema::Choices),
            [(_, schema)] => Ok(schema),
            [] => {
                let keys: Vec<&str> = row.keys().map(String::as_str).collect();
                Err(Error::data("not a row of a known schema")
                    .expected("one of ids, messages, conversations, instruction, prompt, text")
                    .found(if keys.is_empty() { "no keys".to_string() } else { keys.join(", ") }))
            }
            _ => {
                let keys: Vec<&str> = found.iter().map(|(key, _)| *key).collect();
                Err(Error::data("the schema is ambiguous")
                    .field(keys[1])
                    .expected("the keys of one schema")
                    .found(keys.join(" and "))
                    .advice("leave one of them out of the rows"))
            }
        }
    }

    /// How the schema is written.
    pub fn shape(self) -> &'static str {
        match self {
            Schema::Prompt => "{prompt, response?}",
            Schema::Instruction => "{instruction, input?, output}",
            Schema::Messages => "{messages}",
            Schema::Conversations => "{conversations}",
            Schema::Text => "{text}",
            Schema::Choices => "{prompt, choices, answer}",
            Schema::Ids => "{ids, prompt_len?}",
        }
    }

    /// Whether the rows have an instruction, which `auto` templates as Alpaca.
    pub fn has_instruction(self) -> bool {
        self == Schema::Instruction
    }

    /// The row of this schema in an object.
    pub fn row(self, object: &Map<String, Value>) -> Result<Row> {
        let is = Schema::of(object)?;
        if is != self {
            let mark = MARKS.iter().find(|(_, s)| *s == is).map_or("choices", |(key, _)| key);
            return Err(Error::data("the file mixes schemas")
                .field(mark)
                .expected(format!("{} as in the first row", self.shape()))
                .found(is.shape()));
        }
        match self {
            Schema::Prompt => {
                if let Some(key) = OTHER_RESPONSES.iter().find(|k| object.contains_key(**k)) {
                    return Err(Error::data("not a key of this schema")
                        .field(*key)
                        .expected("response")
                        .found(*key));
                }
                let responses = object.get("response").map(|v| references("response", v)).transpose()?;
                Ok(Row::Prompt { prompt: text(object, "prompt")?, responses: responses.unwrap_or_default() })
            }
            Schema::Instruction => instruction(object),
            Schema::Messages => chat(object, "messages", "role", "content"),
            Schema::Conversations => chat(object, "conversations", "from", "value"),
            Schema::Text => Ok(Row::Text(text(object, "text")?)),
            Schema::Choices => choices(object),
            Schema::Ids => ids(object),
        }
    }
}

fn wrong(field: impl Into<String>, expected: &str, found: impl std::fmt::Display) -> Error {
    Error::data("a bad row").field(field).expected(expected).found(found)
}

fn text(object: &Map<String, Value>, key: &str) -> Result<String> {
    match object.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        other => Err(wrong(key, "a string", other.map_or("nothing", kind))),
    }
}

fn references(key: &str, value: &Value) -> Result<Vec<String>> {
    match value {
        Value::String(text) => Ok(vec![text.clone()]),
        Value::Array(list) if list.is_empty() => Err(wrong(key, "at least one reference", "an empty list")),
        Value::Array(list) => {
            let string = |(at, v): (usize, &Value)| {
                v.as_str()
                    .map(str::to_string)
                    .ok_or_else(|| wrong(format!("{key}[{at}]"), "a string", kind(v)))
            };
            list.iter().enumerate().map(string).collect()
        }
        other => Err(wrong(key, "a string or a list of strings", kind(other))),
    }
}

/// One of two keys for the same thing.
fn either<'o>(
    object: &'o Map<String, Value>,
    a: &'static str,
    b: &'static str,
) -> Result<Option<(&'static str, &'o Value)>> {
    match (object.get(a), object.get(b)) {
        (Some(_), Some(_)) => Err(Error::data("the schema is ambiguous")
            .field(b)
            .expected(format!("{a} or {b}"))
            .found(format!("{a} and {b}"))),
        (Some(v), None) => Ok(Some((a, v))),
        (None, Some(v)) => Ok(Some((b, v))),
        (None, None) => Ok(None),
    }
}

fn instruction(object: &Map<String, Value>) -> Result<Row> {
    let input = match either(object, "input", "context")? {
        None | Some((_, Value::Null)) => String::new(),
        Some((_, Value::String(text))) => text.clone(),
        Some((key, other)) => return Err(wrong(key, "a string", kind(other))),
    };
    let (key, output) =
        either(object, "output", "response")?.ok_or_else(|| wrong("output", "a string", "nothing"))?;
    let responses = references(key, output)?;
    Ok(Row::Instruction { instruction: text(object, "instruction")?, input, responses })
}

fn chat(object: &Map<String, Value>, key: &str, who: &str, what: &str) -> Result<Row> {
    let list = match object.get(key) {
        Some(Value::Array(list)) if !list.is_empty() => list,
        Some(Value::Array(_)) => return Err(wrong(key, "at least one message", "an empty list")),
        other => return Err(wrong(key, "a list of messages", other.map_or("nothing", kind))),
    };
    let mut messages = Vec::with_capacity(list.len());
    for (at, item) in list.iter().enumerate() {
        let place = |name: &str| format!("{key}[{at}].{name}");
        let map = item.as_object().ok_or_else(|| wrong(format!("{key}[{at}]"), "an object", kind(item)))?;
        let string = |name: &str| match map.get(name) {
            Some(Value::String(text)) => Ok(text.clone()),
            // An assistant that only calls a tool says nothing.
            Some(Value::Null) if name == what && map.contains_key("tool_calls") => Ok(String::new()),
            other => Err(wrong(place(name), "a string", other.map_or("nothing", kind))),
        };
        let mut role = string(who)?;
        if who == "from" {
            role = sharegpt_role(&role)
                .ok_or_else(|| wrong(place(who), "system, human or gpt", &role))?
                .to_string();
        }
        let extra = map.iter().filter(|(k, _)| *k != who && *k != what);
        let extra = extra.map(|(k, v)| (k.clone(), v.clone())).filter(|_| who == "role").collect();
        messages.push(Message { role, content: string(what)?, extra });
    }
    Ok(Row::Chat(messages))
}

/// ShareGPT's names for who speaks, as the data sets in use spell them.
fn sharegpt_role(name: &str) -> Option<&'static str> {
    Some(match name {
        "human" | "user" => "user",
        "gpt" | "assistant" | "chatgpt" | "bing" | "bard" | "model" => "assistant",
        "system" => "system",
        "tool" | "function_response" | "observation" => "tool",
        _ => return None,
    })
}

fn choices(object: &Map<String, Value>) -> Result<Row> {
    let prompt = text(object, "prompt")?;
    let list = object.get("choices").map_or(Err(wrong("choices", "a list", "nothing")), |v| match v {
        Value::Array(_) => references("choices", v),
        other => Err(wrong("choices", "a list of strings", kind(other))),
    })?;
    let bad = |found: &str| wrong("answer", "the place of a choice, from 0, or one of the choices", found);
    let answer = match object.get("answer") {
        Some(Value::Number(n)) => n.as_u64().map(|n| n as usize).filter(|n| *n < list.len()),
        Some(Value::String(text)) => list.iter().position(|choice| choice == text),
        other => return Err(bad(other.map_or("nothing", kind))),
    };
    let found = || object.get("answer").map_or(String::new(), Value::to_string);
    Ok(Row::Choices { prompt, answer: answer.ok_or_else(|| bad(&found()))?, choices: list })
}

fn ids(object: &Map<String, Value>) -> Result<Row> {
    let list = match object.get("ids") {
        Some(Value::Array(list)) if !list.is_empty() => list,
        Some(Value::Array(_)) => return Err(wrong("ids", "at least one id", "an empty list")),
        other => return Err(wrong("ids", "a list of token ids", other.map_or("nothing", kind))),
    };
    let mut ids = Vec::with_capacity(list.len());
    for (at, id) in list.iter().enumerate() {
        let id32 = id.as_u64().and_then(|id| u32::try_from(id).ok());
        ids.push(id32.ok_or_else(|| wrong(format!("ids[{at}]"), "a token id", id))?);
    }
    let prompt_len = match object.get("prompt_len") {
        None | Some(Value::Null) => None,
        Some(n) => {
            let fits = n.as_u64().map(|n| n as usize).filter(|n| *n <= ids.len());
            let expected = format!("an integer from 0 to {}", ids.len());
            Some(fits.ok_or_else(|| wrong("prompt_len", &expected, n))?)
        }
    };
    Ok(Row::Ids { ids, prompt_len })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(value: Value) -> Result<Row> {
        let object = value.as_object().unwrap();
        Schema::of(object)?.row(object)
    }

    #[test]
    fn every_schema_is_read() {
        let dolly =
            row(json!({"instruction": "i", "context": "c", "response": "r", "category": "x"})).unwrap();
        let alpaca = row(json!({"instruction": "i", "input": "c", "output": "r"})).unwrap();
        assert_eq!(dolly, alpaca);
        let chat = row(
            json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}),
        );
        let share =
            row(json!({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}));
        assert_eq!(chat.clone().unwrap(), share.unwrap());
        assert_eq!(chat.unwrap().references(), ["b"]);
        assert_eq!(row(json!({"prompt": "p"})).unwrap().references(), Vec::<&str>::new());
        assert_eq!(row(json!({"prompt": "p", "response": ""})).unwrap().references(), [""]);
        assert_eq!(
            row(json!({"prompt": "p", "choices": ["a", "b"], "answer": "b"})).unwrap().references(),
            ["b"]
        );
        assert_eq!(
            row(json!({"ids": [1, 2], "prompt_len": 2})).unwrap(),
            Row::Ids { ids: vec![1, 2], prompt_len: Some(2) }
        );
        assert_eq!(row(json!({"text": "t"})).unwrap(), Row::Text("t".into()));
    }

    #[test]
    fn bad_rows_name_the_field() {
        for (value, field) in [
            (json!({"prompt": 1}), "prompt"),
            (json!({"prompt": "a", "text": "b"}), "text"),
            (json!({"prompt": "a", "output": "b"}), "output"),
            (json!({"instruction": "a"}), "output"),
            (json!({"instruction": "a", "output": "b", "response": "c"}), "response"),
            (json!({"instruction": "a", "output": ["b", 3]}), "output[1]"),
            (json!({"instruction": "a", "output": []}), "output"),
            (json!({"messages": []}), "messages"),
            (json!({"messages": [{"role": "user"}]}), "messages[0].content"),
            (json!({"messages": [{"role": "user", "content": ["x"]}]}), "messages[0].content"),
            (json!({"conversations": [{"from": "alien", "value": "x"}]}), "conversations[0].from"),
            (json!({"prompt": "a", "choices": ["x"], "answer": 1}), "answer"),
            (json!({"prompt": "a", "choices": ["x"]}), "answer"),
            (json!({"ids": [1, -1]}), "ids[1]"),
            (json!({"ids": [1.5]}), "ids[0]"),
            (json!({"ids": [4294967296u64]}), "ids[0]"),
            (json!({"ids": [1], "prompt_len": 2}), "prompt_len"),
            (json!({"text": null}), "text"),
        ] {
            let e = row(value.clone()).unwrap_err();
            assert_eq!(e.cause(), crate::error::Cause::Data, "{value}");
            assert!(e.to_string().contains(&format!(": {field}: ")), "{value}: {e}");
        }
        assert!(row(json!({"a": 1})).is_err());
    }
}
