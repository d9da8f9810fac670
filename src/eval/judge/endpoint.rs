//! A judge behind an OpenAI-compatible chat endpoint, over http or https.
//!
//! Time-outs, refused connections, 429 and 5xx are tried again after a pause that doubles, or as long as the
//! server asks; everything else is an error at once. Redirects are not followed: the key goes to the place
//! that was named and to no other. Neither an error nor an answer repeats the key.

use std::time::Duration;

use serde_json::{Value, json};

use super::Shown;
use crate::error::{Cause, Error, Result};
use crate::text::json::{Limits, parse};

/// The most of an answer that is read.
const LARGEST: u64 = 1 << 20;

/// What an answer's JSON may hold.
const LIMITS: Limits = Limits { bytes: LARGEST, depth: 32, values: 1 << 16 };

/// The longest answer that is asked for: two numbers and a sentence are far less.
const ANSWER_TOKENS: u32 = 512;

/// The longest pause, a server's own wish included.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long an endpoint is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For one answer, from the connection to its last byte.
    pub timeout: Duration,
    /// How often a question is asked again.
    pub retries: u32,
    /// Before it is asked again the first time; doubled each time.
    pub pause: Duration,
}

/// Where a judge is asked.
pub struct Endpoint {
    agent: ureq::Agent,
    url: String,
    model: String,
    key: Option<String>,
    patience: Patience,
}

/// Why there is no answer.
enum Failure {
    /// It may come if it is asked for again, after this pause if the server named one.
    Passing(String, Option<Duration>),
    /// It will not.
    Lasting(Error),
}

impl Endpoint {
    /// The endpoint at a URL such as `https://host/v1`, or the whole of it up to `/chat/completions`.
    pub fn new(url: &str, model: &str, key: Option<String>, patience: Patience) -> Result<Self> {
        let (path, query) = url.split_once('?').map_or((url, None), |(path, query)| (path, Some(query)));
        let host = path.strip_prefix("http://").or_else(|| path.strip_prefix("https://"));
        let host = host.unwrap_or_default().split('/').next().unwrap_or_default();
        if host.is_empty() || host.contains('@') {
            return Err(Error::user("not a judge's address")
                .field("--judge-url")
                .expected("http:// or https://, a host without a user name, and a path such as /v1"));
        }
        let fit = |key: &String| !key.is_empty() && key.bytes().all(|b| b.is_ascii_graphic());
        if key.as_ref().is_some_and(|key| !fit(key)) {
            return Err(Error::user("the judge's key has other characters than a key may have"));
        }
        let path = path.trim_end_matches('/');
        let path = path.strip_suffix("/chat/completions").unwrap_or(path);
        let url = format!("{path}/chat/completions{}", query.map(|q| format!("?{q}")).unwrap_or_default());
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(patience.timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("retort/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        Ok(Endpoint { agent, url, model: model.to_string(), key, patience })
    }

    /// The judge's answer to this.
    pub fn ask(&self, shown: &Shown) -> Result<String> {
        let body = json!({
            "model": self.model,
            "messages": [{"role": "user", "content": shown.words()}],
            "temperature": 0,
            "max_tokens": ANSWER_TOKENS,
        });
        let body = body.to_string();
        for tried in 0.. {
            match self.once(&body) {
                Ok(answer) => return Ok(self.without_key(&answer)),
                Err(Failure::Lasting(error)) => return Err(error),
                Err(Failure::Passing(why, _)) if tried >= self.patience.retries => {
                    return Err(self.broken(&format!("{why}, tries: {}", tried + 1)).expected("an answer"));
                }
                Err(Failure::Passing(why, wish)) => {
                    let doubled = self.patience.pause.saturating_mul(1 << tried.min(16));
                    let pause = wish.unwrap_or(doubled).min(LONGEST_PAUSE);
                    tracing::debug!("the judge: {why}; asked again in {:.1} s", pause.as_secs_f64());
                    std::thread::sleep(pause);
                }
            }
        }
        Err(Error::bug("the judge was asked without an end"))
    }

    fn once(&self, body: &str) -> Result<String, Failure> {
        let mut request = self.agent.post(&self.url).header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let mut response = request.send(body).map_err(|e| self.failure(e))?;
        let status = response.status().as_u16();
        let wish = response.headers().get("retry-after").and_then(|v| v.to_str().ok()?.trim().parse().ok());
        let bytes =
            response.body_mut().with_config().limit(LARGEST).read_to_vec().map_err(|e| self.failure(e))?;
        match status {
            200..=299 => self.content(&bytes).map_err(Failure::Lasting),
            408 | 429 | 500..=599 => {
                Err(Failure::Passing(format!("status {status}"), wish.map(Duration::from_secs)))
            }
            _ => Err(Failure::Lasting(self.refused(status, &bytes))),
        }
    }

    fn failure(&self, error: ureq::Error) -> Failure {
        match error {
            ureq::Error::Timeout(_) => {
                Failure::Passing(format!("none in {} s", self.patience.timeout.as_secs_f64()), None)
            }
            ureq::Error::Io(e) => Failure::Passing(self.without_key(&e.to_string()), None),
            ureq::Error::BodyExceedsLimit(_) => {
                let error = self.broken("more").expected(format!("an answer of at most {LARGEST} bytes"));
                Failure::Lasting(error)
            }
            other => Failure::Lasting(self.broken(&other.to_string())),
        }
    }

    /// What the judge wrote, from a chat completion. One that wrote nothing wrote the empty text.
    fn content(&self, bytes: &[u8]) -> Result<String> {
        let wrong = || Error::data("the judge's answer is no chat completion").field(self.place());
        let value = parse(bytes, LIMITS).map_err(|e| wrong().found(e))?;
        let message = value.get("choices").and_then(|c| c.get(0)).and_then(|c| c.get("message"));
        let expected = "choices[0].message.content";
        match message.ok_or_else(|| wrong().expected(expected))?.get("content") {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(Value::Null) | None => Ok(String::new()),
            Some(_) => Err(wrong().expected(expected).found("no text")),
        }
    }

    /// The server's own words, where it has any.
    fn refused(&self, status: u16, bytes: &[u8]) -> Error {
        let text = String::from_utf8_lossy(bytes);
        let value = parse(bytes, LIMITS).unwrap_or_default();
        let error = value.get("error");
        let said = error.and_then(|e| e.get("message").or(Some(e))).and_then(Value::as_str);
        let said = self.without_key(said.unwrap_or(text.trim()));
        let what =
            Error::user("the judge refuses").field(self.place()).found(format!("status {status}: {said}"));
        match status {
            401 | 403 => what.advice("the key is read from RETORT_JUDGE_KEY"),
            _ => what.advice("check --judge-url and --judge-model"),
        }
    }

    fn broken(&self, why: &str) -> Error {
        Error::new(Cause::Io, "the judge cannot be asked")
            .field(self.place())
            .found(self.without_key(why))
            .advice("what it has answered is kept: the same command goes on from there")
    }

    /// The address without its query, which may hold what is secret.
    fn place(&self) -> &str {
        self.url.split('?').next().unwrap_or_default()
    }

    fn without_key(&self, text: &str) -> String {
        match &self.key {
            Some(key) => text.replace(key.as_str(), "***"),
            None => text.to_string(),
        }
    }
}
