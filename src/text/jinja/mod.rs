//! Chat templates, rendered as transformers 5 renders them with Jinja2 (`trim_blocks`, `lstrip_blocks`,
//! loop controls, Python's methods, `tojson`, `raise_exception`, `strftime_now`, `{% generation %}`),
//! but within bounds: the template's size, the steps, the bytes made and the bytes written.
//!
//! What differs from Jinja2, on purpose or because minijinja does: `strftime_now` gives UTC; there is no
//! `format`, `indent`, `batch`, `slice`, `pprint`, `wordwrap`, `center`, `truncate` and no `%` on texts;
//! nothing is included, imported or extended; integers end at 128 bits.

pub mod budget;
pub mod clock;
mod lexer;
pub mod operators;
pub mod python;
pub mod rewrite;

use std::io::Write;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Serde, ValueKind};
use minijinja::{AutoEscape, Environment, Error, State, Value, filters};

use self::budget::{bounded, charge, charged, fail};
use self::python::{Layout, dumps, str_of};
use super::fence::guarded;

/// The largest template, in bytes.
pub const LARGEST: usize = 256 << 10;
/// The steps of one rendering.
const FUEL: u64 = 500_000;
/// The bytes one rendering may make on the way, besides [`PER_INPUT`] times its input.
const BUDGET: usize = 16 << 20;
/// How often the input may be copied.
const PER_INPUT: usize = 32;
/// The longest text that may come out, besides [`PER_INPUT`] times the input.
const LONGEST_OUTPUT: usize = 16 << 20;
/// Macros within each other; a thread of a pool has a small stack.
const RECURSION: usize = 100;

/// A compiled chat template.
#[derive(Debug)]
pub struct Jinja {
    env: Environment<'static>,
}

const NAME: &str = "chat_template";

impl Jinja {
    /// Compiles a template, or says on one line why not.
    ///
    /// ```
    /// use retort::text::jinja::Jinja;
    /// let jinja = Jinja::new("{% for m in messages %}[{{ m.role ~ ': ' ~ m['content'] | trim }}]{% endfor %}").unwrap();
    /// let context = serde_json::json!({"messages": [{"role": "user", "content": " hi "}]});
    /// assert_eq!(jinja.render(&context).unwrap(), "[user: hi]");
    /// ```
    pub fn new(source: &str) -> Result<Self, String> {
        if source.len() > LARGEST {
            return Err(format!("{} bytes, more than the {LARGEST} that a template may have", source.len()));
        }
        // Jinja2's lexer knows one newline.
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        let source = rewrite::rewrite(&source)?;
        guarded(move || {
            let mut env = environment();
            env.add_template_owned(NAME, source).map_err(|e| line(&e))?;
            Ok(Jinja { env })
        })?
    }

    /// Renders with these variables.
    pub fn render(&self, context: &serde_json::Value) -> Result<String, String> {
        let input = context.to_string().len();
        let allowance = input.saturating_mul(PER_INPUT);
        guarded(|| {
            budget::begin(BUDGET.saturating_add(allowance));
            let template = self.env.get_template(NAME).map_err(|e| line(&e))?;
            let mut out = Capped { bytes: Vec::new(), most: LONGEST_OUTPUT.saturating_add(allowance) };
            template.render_captured_to(Value::from(Serde(context)), &mut out).map_err(|e| line(&e))?;
            String::from_utf8(out.bytes).map_err(|e| e.to_string())
        })?
    }
}

/// One line of an error, with the detail that a template gave.
fn line(error: &Error) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
    let at = error.line().map_or(String::new(), |n| format!(" (line {n} of the template)"));
    what.lines().next().unwrap_or_default().to_string() + &at
}

/// What is written, up to a bound.
struct Capped {
    bytes: Vec<u8>,
    most: usize,
}

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.most {
            return Err(std::io::Error::other("the template writes too much"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn environment() -> Environment<'static> {
    let mut env = Environment::empty();
    // The default syntax with two switches can always be built.
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        env.set_syntax(syntax);
    }
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(RECURSION);
    env.set_unknown_method_callback(operators::method);
    env.set_formatter(|out, _, value| {
        let text = str_of(value)?;
        out.write_str(&text).map_err(|_| fail("the template writes too much"))
    });
    globals(&mut env);
    add_filters(&mut env);
    add_tests(&mut env);
    env
}

fn globals(env: &mut Environment<'static>) {
    env.add_function("__cat", operators::cat);
    env.add_function("__add", operators::add);
    env.add_function("__mul", operators::mul);
    env.add_function("__slice", operators::slice);
    env.add_function("__keep", budget::keep);
    env.add_function("raise_exception", |what: Value| -> Result<Value, Error> { Err(fail(str_of(&what)?)) });
    env.add_function("strftime_now", |format: &str| -> Result<Value, Error> {
        charge(format.len().saturating_mul(32))?;
        Ok(Value::from(clock::strftime(format, clock::now())))
    });
    let plain = Environment::new();
    for (name, function) in plain.globals().filter(|(n, _)| ["range", "dict", "namespace"].contains(n)) {
        // `keep` looks at what the new map or namespace holds.
        let call = move |state: &mut State, args: Rest<Value>, named: Kwargs| -> Result<Value, Error> {
            let mut all = args.to_vec();
            if named.args().next().is_some() {
                all.push(Value::from(named));
            }
            budget::keep(function.call(state, &all)?)
        };
        env.add_function(name.to_string(), call);
    }
}

/// A filter of minijinja's behind the budget: what goes in is bounded, what comes out is charged.
fn fenced(env: &mut Environment<'static>, name: &'static str, filter: Value) {
    env.add_filter(
        name,
        move |state: &mut State, args: Rest<Value>, named: Kwargs| -> Result<Value, Error> {
            let mut all = args.iter().map(bounded).collect::<Result<Vec<_>, _>>()?;
            if named.args().next().is_some() {
                all.push(Value::from(named));
            }
            charged(filter.call(state, &all)?)
        },
    );
}

fn add_filters(env: &mut Environment<'static>) {
    macro_rules! fence {
        ($($name:ident)*) => {$( fenced(env, stringify!($name), Value::from_function(filters::$name)); )*};
    }
    fence!(abs attr capitalize default dictsort escape first float groupby int items last list lower map max
        min reject rejectattr reverse round safe select selectattr sort sum title unique upper);
    fenced(env, "d", Value::from_function(filters::default));
    fenced(env, "e", Value::from_function(filters::escape));
    for name in ["length", "count"] {
        // Jinja2's undefined has the length 0.
        env.add_filter(name, |value: &Value| match (value.is_undefined(), value.as_str(), value.len()) {
            (true, _, _) => Ok(0),
            (_, Some(text), _) => Ok(text.chars().count()),
            (_, _, Some(n)) => Ok(n),
            _ => budget::items(value).map(|all| all.len()),
        });
    }
    env.add_filter("string", |value: &Value| str_of(value).map(Value::from));
    env.add_filter("trim", |value: &Value, chars: Option<&str>| {
        let text = str_of(value)?;
        charged(Value::from(operators::strip(&text, chars, true, true)))
    });
    env.add_filter("replace", |value: &Value, old: &str, new: &str, count: Option<i64>| {
        operators::replace(&str_of(value)?, old, new, count)
    });
    env.add_filter("join", join);
    env.add_filter("tojson", tojson);
}

fn join(value: &Value, between: Option<&Value>, named: Kwargs) -> Result<Value, Error> {
    let attribute: Option<String> = named.get("attribute")?;
    let between = between.cloned().or(named.get("d")?).map_or(Ok(String::new()), |d| str_of(&d))?;
    named.assert_all_used()?;
    match attribute {
        None => operators::join(value, &between),
        Some(name) => {
            let all: Result<Vec<Value>, Error> =
                budget::items(value)?.iter().map(|v| v.get_attr(&name)).collect();
            operators::join(&Value::from(all?), &between)
        }
    }
}

fn tojson(value: &Value, named: Kwargs) -> Result<Value, Error> {
    let text = |key: &str| -> Result<Option<Value>, Error> { named.get::<Option<Value>>(key) };
    let indent = text("indent")?.filter(|v| !v.is_none());
    let separators = text("separators")?.filter(|v| !v.is_none()).map(|v| budget::items(&v)).transpose()?;
    let mut layout = Layout {
        ascii: text("ensure_ascii")?.is_some_and(|v| v.is_true()),
        sort: text("sort_keys")?.is_some_and(|v| v.is_true()),
        ..Layout::default()
    };
    named.assert_all_used()?;
    if let Some(indent) = indent {
        layout.indent = Some(match (indent.as_str(), indent.as_usize()) {
            (Some(text), _) if text.len() <= 16 => text.to_string(),
            (_, Some(n)) if n <= 16 => " ".repeat(n),
            _ => return Err(fail("tojson: an indent of at most 16")),
        });
    }
    if let Some([item, key]) = separators.as_deref() {
        layout.item = Some(str_of(item)?);
        layout.key = Some(str_of(key)?);
        charge(layout.item.as_ref().map_or(0, String::len).saturating_mul(1024))?;
    }
    if value.kind() == ValueKind::Undefined {
        return Err(fail("tojson of what is not defined"));
    }
    let size = json_size(value, 0)?;
    charge(size.saturating_mul(2))?;
    let made = dumps(value, &layout).ok_or_else(|| fail("tojson of what JSON cannot write"))?;
    charged(Value::from(made))
}

/// About the bytes of a value as JSON, charged item by item, so that a list of lists of the same list
/// is found out before it is written.
fn json_size(value: &Value, level: usize) -> Result<usize, Error> {
    if level > 100 {
        return Err(fail("tojson of a value nested too deep"));
    }
    let size = match value.kind() {
        ValueKind::String => value.as_str().map_or(0, str::len),
        ValueKind::Map | ValueKind::Seq | ValueKind::Iterable => {
            let mut size = 2;
            for key in budget::items(value)? {
                size += json_size(&key, level + 1)?;
                if value.kind() == ValueKind::Map {
                    size += json_size(&value.get_item(&key)?, level + 1)?;
                }
            }
            size
        }
        _ => 8,
    };
    charge(size / 4)?;
    Ok(size)
}

fn add_tests(env: &mut Environment<'static>) {
    use minijinja::tests as t;
    macro_rules! tests {
        ($($name:literal $function:ident)*) => {$( env.add_test($name, t::$function); )*};
    }
    tests!("undefined" is_undefined "defined" is_defined "none" is_none "boolean" is_boolean "odd" is_odd
        "even" is_even "divisibleby" is_divisibleby "number" is_number "integer" is_integer "float" is_float
        "string" is_string "mapping" is_mapping "lower" is_lower "upper" is_upper "sameas" is_sameas
        "eq" is_eq "equalto" is_eq "==" is_eq "ne" is_ne "!=" is_ne "lt" is_lt "lessthan" is_lt "<" is_lt
        "le" is_le "<=" is_le "gt" is_gt "greaterthan" is_gt ">" is_gt "ge" is_ge ">=" is_ge "in" is_in
        "true" is_true "false" is_false "filter" is_filter "test" is_test);
    // A text and a map are iterable, and sequences, for Python.
    let listed = |v: &Value| {
        matches!(v.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable)
    };
    env.add_test("iterable", listed);
    env.add_test("sequence", listed);
    env.add_test("callable", |v: &Value| v.kind() == ValueKind::Plain);
}
