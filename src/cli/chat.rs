//! `retort chat`: a conversation, line by line.

use std::io::{BufRead, IsTerminal, Write};

use serde_json::json;

use super::args::{Chat, Common};
use super::generate::check_drawn;
use super::models;
use super::output::Out;
use crate::data::{Row, Schema};
use crate::decode::{Dialogue, Finish, Sampling, Speaker};
use crate::error::{Error, Result};
use crate::model::score::check_finite;
use crate::signal;
use crate::text::Message;

/// Tokens of the context that are kept free for a reply; older turns are forgotten for it.
const ROOM: usize = 64;

pub(super) fn run(args: &Chat, common: &Common) -> Result<()> {
    let settings = args.sampling.settings();
    settings.check()?;
    let loaded = models::open(&args.model, common)?;
    let settings = loaded.sampling(settings);
    let terminal = std::io::stdin().is_terminal();
    if terminal && !common.quiet {
        let _ = writeln!(
            std::io::stderr(),
            "/new starts again; Ctrl-C stops a reply; Ctrl-D, or Ctrl-C at the prompt, ends it."
        );
    }
    let dialogue = Dialogue::new(&loaded.model)?;
    let mut talk = Talk { loaded: &loaded, args, settings, dialogue, turns: Vec::new(), out: Out::stdout() };
    let mut lines = std::io::stdin().lock().lines();
    loop {
        if terminal {
            let _ = write!(std::io::stderr(), "> ").and_then(|()| std::io::stderr().flush());
        }
        signal::at_prompt(true);
        // What came before the prompt was there is not about the next reply.
        signal::take_interrupt()?;
        let line = lines.next();
        signal::at_prompt(false);
        let Some(line) = line else { return Ok(()) };
        let line = line.map_err(|e| Error::io("cannot read", "standard input", &e))?;
        match line.trim() {
            "" => {}
            "/new" => talk.turns.clear(),
            text => talk.say(text, common.json)?,
        }
    }
}

struct Talk<'a> {
    loaded: &'a Speaker,
    args: &'a Chat,
    settings: Sampling,
    dialogue: Dialogue<'a>,
    turns: Vec<Message>,
    out: Out,
}

impl Talk<'_> {
    /// Takes what the user says, and streams the answer.
    fn say(&mut self, text: &str, as_json: bool) -> Result<()> {
        self.turns.push(Message::new("user", text));
        let ids = self.fitting()?;
        let mut shown = Shown::default();
        let (loaded, out) = (self.loaded, &mut self.out);
        let reply = self.dialogue.reply(&ids, &self.settings, &mut |id| {
            if signal::take_interrupt()? {
                return Ok(false);
            }
            let new = shown.add(loaded, id)?;
            if !as_json {
                out.text(&new)?;
            }
            Ok(true)
        })?;
        // One that came with the last token has nothing left to stop, but SIGTERM still ends the program.
        signal::take_interrupt()?;
        check_finite(&reply.logprobs, 0)?;
        check_drawn(&reply)?;
        let response = self.loaded.response(&reply)?;
        if as_json {
            self.out.json(&json!({
                "prompt": text, "response": response, "ids": reply.ids,
                "logprobs": reply.logprobs, "finish": reply.finish.name(),
            }))?;
        } else {
            // What waited for the rest of a character, and the end of the line.
            self.out.text(&format!("{}\n", response.get(shown.bytes..).unwrap_or_default()))?;
        }
        if reply.finish == Finish::Context {
            tracing::warn!("the reply ends where the model's context ends: /new starts again");
        }
        self.turns.push(Message::new("assistant", response));
        Ok(())
    }

    /// The conversation as tokens; the oldest turns go where there is no room for a reply.
    fn fitting(&mut self) -> Result<Vec<u32>> {
        let context = self.loaded.model.shape().context as usize;
        let encoder = self.loaded.encoder(&self.args.template, Schema::Messages)?;
        let mut forgotten = 0;
        loop {
            let ids = encoder.prompt(&Row::Chat(self.turns.clone()))?;
            if ids.len() + ROOM.min(context / 2) <= context || self.turns.len() == 1 {
                if forgotten > 0 {
                    tracing::warn!(
                        "{forgotten} turns are forgotten: the context of {context} tokens is full"
                    );
                }
                return Ok(ids);
            }
            let gone = self.turns.len().min(2);
            self.turns.drain(..gone);
            forgotten += gone;
        }
    }
}

/// How much of a growing reply is on the screen.
#[derive(Default)]
struct Shown {
    ids: Vec<u32>,
    bytes: usize,
}

impl Shown {
    /// The text that a token adds. A character that comes in several tokens waits for its last one.
    fn add(&mut self, loaded: &Speaker, id: u32) -> Result<String> {
        self.ids.push(id);
        let text = loaded.tokenizer.decode(&self.ids, true)?;
        let new = text.get(self.bytes..).unwrap_or_default();
        if new.ends_with('\u{fffd}') {
            return Ok(String::new());
        }
        let new = new.to_string();
        self.bytes = text.len();
        Ok(new)
    }
}
