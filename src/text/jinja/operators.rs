//! The operators that [`super::rewrite`] turns into calls, and the methods of Python's values.

use minijinja::value::{Rest, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

use super::budget::{bounded, charge, charge_times, charged, fail, items, keep};
use super::python::{is_space, str_of};

/// `a ~ b ~ ...`
pub fn cat(parts: Rest<Value>) -> Result<Value, Error> {
    let mut out = String::new();
    for part in parts.iter() {
        out.push_str(&str_of(part)?);
    }
    Ok(Value::from(out))
}

/// `a + b`: numbers, texts, lists, tuples.
pub fn add(a: &Value, b: &Value) -> Result<Value, Error> {
    if let (Some(x), Some(y)) = (a.as_str(), b.as_str()) {
        charge(x.len() + y.len())?;
        return Ok(Value::from(format!("{x}{y}")));
    }
    let list = |v: &Value| matches!(v.kind(), ValueKind::Seq | ValueKind::Iterable);
    if list(a) && list(b) && a.is_tuple() == b.is_tuple() {
        let mut all = items(a)?;
        all.extend(items(b)?);
        return keep(if a.is_tuple() { Value::from(Tuple::from(all)) } else { Value::from(all) });
    }
    number(a, b, i128::checked_add, |x, y| x + y).unwrap_or_else(|| Err(unsupported("+", a, b)))
}

/// `a * b`: numbers, and a text or list so many times.
pub fn mul(a: &Value, b: &Value) -> Result<Value, Error> {
    let (what, times) = if a.is_integer() { (b, a) } else { (a, b) };
    let repeated = what.as_str().is_some() || matches!(what.kind(), ValueKind::Seq | ValueKind::Iterable);
    if !repeated {
        return number(a, b, i128::checked_mul, |x, y| x * y).unwrap_or_else(|| Err(unsupported("*", a, b)));
    }
    let Some(times) = int(times) else { return Err(unsupported("*", a, b)) };
    let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
    if let Some(text) = what.as_str() {
        charge_times(times, text.len())?;
        return Ok(Value::from(if text.is_empty() { String::new() } else { text.repeat(times) }));
    }
    let one = items(what)?;
    charge_times(times, one.len().saturating_mul(32))?;
    let all: Vec<Value> =
        (0..if one.is_empty() { 0 } else { times }).flat_map(|_| one.iter().cloned()).collect();
    keep(if what.is_tuple() { Value::from(Tuple::from(all)) } else { Value::from(all) })
}

fn int(value: &Value) -> Option<i128> {
    match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    }
}

fn number(
    a: &Value,
    b: &Value,
    whole: impl Fn(i128, i128) -> Option<i128>,
    real: impl Fn(f64, f64) -> f64,
) -> Option<Result<Value, Error>> {
    if let (Some(x), Some(y)) = (int(a), int(b)) {
        let made = whole(x, y).map(|n| i64::try_from(n).map_or_else(|_| Value::from(n), Value::from));
        return Some(made.ok_or_else(|| fail("a number is too large")));
    }
    let float = |v: &Value| match v.kind() {
        ValueKind::Number => f64::try_from(v.clone()).ok(),
        ValueKind::Bool => Some(f64::from(u8::from(v.is_true()))),
        _ => None,
    };
    Some(Ok(Value::from(real(float(a)?, float(b)?))))
}

fn unsupported(op: &str, a: &Value, b: &Value) -> Error {
    fail(format!("unsupported operand types for {op}: {} and {}", a.kind(), b.kind()))
}

/// `of[start:stop:step]`, as a list, a tuple or a text.
pub fn slice(of: &Value, start: &Value, stop: &Value, step: &Value) -> Result<Value, Error> {
    if of.is_undefined() {
        return Err(Error::new(ErrorKind::UndefinedError, "a slice of what is not defined"));
    }
    let bound = |v: &Value| match v.kind() {
        ValueKind::None => Ok(None),
        _ => int(v).map(Some).ok_or_else(|| fail("a slice takes whole numbers")),
    };
    let (start, stop, step) = (bound(start)?, bound(stop)?, bound(step)?.unwrap_or(1));
    if of.kind() == ValueKind::Map {
        return Err(fail("a map cannot be sliced"));
    }
    if step == 0 {
        return Err(fail("a slice's step cannot be 0"));
    }
    let all = items(of)?;
    let n = all.len() as i128;
    // Python's slice.indices.
    let (low, high) = if step > 0 { (0, n) } else { (-1, n - 1) };
    let place = |at: Option<i128>, default: i128| {
        at.map_or(default, |at| if at < 0 { at.saturating_add(n) } else { at }.clamp(low, high))
    };
    let (mut at, end) =
        if step > 0 { (place(start, 0), place(stop, n)) } else { (place(start, n - 1), place(stop, -1)) };
    let mut kept = Vec::new();
    while (step > 0 && at < end) || (step < 0 && at > end) {
        kept.extend(all.get(at as usize).cloned());
        at = at.saturating_add(step);
    }
    Ok(match of.as_str() {
        Some(_) => Value::from(kept.iter().filter_map(Value::as_str).collect::<String>()),
        None if of.is_tuple() => Value::from(Tuple::from(kept)),
        None => Value::from(kept),
    })
}

/// The methods of Python's texts, maps and lists. What grows a text is written here, with its bound;
/// the rest is minijinja-contrib's.
pub fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    bounded(value)?;
    if let Some(text) = value.as_str() {
        match name {
            "strip" | "lstrip" | "rstrip" => {
                let (chars,): (Option<&str>,) = from_args(args)?;
                return charged(Value::from(strip(text, chars, name != "rstrip", name != "lstrip")));
            }
            "replace" => {
                let (old, new, count): (&str, &str, Option<i64>) = from_args(args)?;
                return replace(text, old, new, count);
            }
            "split" | "rsplit" => {
                let (separator, most, named): (Option<&str>, Option<i64>, minijinja::value::Kwargs) =
                    from_args(args)?;
                let most = most.or(named.get("maxsplit")?);
                let separator = separator.or(named.get("sep")?);
                named.assert_all_used()?;
                return split(text, separator, most, name == "rsplit");
            }
            "join" => {
                let (values,): (&Value,) = from_args(args)?;
                return join(values, text);
            }
            "removeprefix" => {
                let (prefix,): (&str,) = from_args(args)?;
                return Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)));
            }
            "removesuffix" => {
                let (suffix,): (&str,) = from_args(args)?;
                return Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)));
            }
            "partition" | "rpartition" => {
                let (separator,): (&str,) = from_args(args)?;
                return partition(text, separator, name == "rpartition");
            }
            // Its widths make much out of little, and no chat template in use formats.
            "format" => return Err(fail("format() is not available in chat templates")),
            _ => {}
        }
    }
    charged(minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)?)
}

/// `strip`, on one side or both.
pub fn strip<'t>(text: &'t str, chars: Option<&str>, left: bool, right: bool) -> &'t str {
    let drop = |c: char| chars.map_or_else(|| is_space(c), |set| set.contains(c));
    let text = if left { text.trim_start_matches(drop) } else { text };
    if right { text.trim_end_matches(drop) } else { text }
}

/// `replace`, with its result charged before it is made.
pub fn replace(text: &str, old: &str, new: &str, count: Option<i64>) -> Result<Value, Error> {
    let most = count.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let found = text.matches(old).count().min(most);
    charge(text.len().saturating_add(found.saturating_mul(new.len())))?;
    Ok(Value::from(text.replacen(old, new, most)))
}

fn split(text: &str, separator: Option<&str>, most: Option<i64>, from_right: bool) -> Result<Value, Error> {
    let most = most.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    if separator == Some("") {
        return Err(fail("empty separator"));
    }
    charge_times(separator.map_or(text.len() / 2, |s| text.matches(s).count()), 32)?;
    charge(text.len())?;
    let parts: Vec<&str> = match (separator, from_right) {
        (Some(s), false) => text.splitn(most.saturating_add(1), s).collect(),
        (Some(s), true) => {
            let mut parts: Vec<&str> = text.rsplitn(most.saturating_add(1), s).collect();
            parts.reverse();
            parts
        }
        (None, false) => words(text, most),
        (None, true) => {
            let mut parts = Vec::new();
            let mut rest = strip(text, None, true, true);
            while let (false, Some(at)) = (parts.len() == most, rest.rfind(is_space)) {
                let space = rest[at..].chars().next().map_or(1, char::len_utf8);
                parts.push(&rest[at + space..]);
                rest = strip(&rest[..at], None, false, true);
            }
            parts.extend((!rest.is_empty()).then_some(rest));
            parts.reverse();
            parts
        }
    };
    Ok(parts.into_iter().map(Value::from).collect())
}

fn words(text: &str, most: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = strip(text, None, true, false);
    while !rest.is_empty() {
        if parts.len() == most {
            parts.push(strip(rest, None, false, true));
            break;
        }
        let end = rest.find(is_space).unwrap_or(rest.len());
        parts.push(&rest[..end]);
        rest = strip(&rest[end..], None, true, false);
    }
    parts
}

fn partition(text: &str, separator: &str, from_right: bool) -> Result<Value, Error> {
    if separator.is_empty() {
        return Err(fail("empty separator"));
    }
    charge(text.len())?;
    let cut = if from_right { text.rsplit_once(separator) } else { text.split_once(separator) };
    let parts = match cut {
        Some((before, after)) => [before, separator, after],
        None if from_right => ["", "", text],
        None => [text, "", ""],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from).to_vec())))
}

/// The items' texts with `between` between them.
pub fn join(values: &Value, between: &str) -> Result<Value, Error> {
    let mut out = String::new();
    for (at, item) in items(values)?.iter().enumerate() {
        let text = str_of(item)?;
        charge(between.len())?;
        if at > 0 {
            out.push_str(between);
        }
        out.push_str(&text);
    }
    Ok(Value::from(out))
}
