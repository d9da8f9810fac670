//! How many bytes a template may make in one rendering. minijinja's fuel bounds its steps; every step
//! that can make much out of little goes through here.

use std::cell::Cell;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

thread_local! {
    static LEFT: Cell<usize> = const { Cell::new(0) };
}

/// What an item of a list counts for.
const ITEM: usize = 32;
/// The longest list that a filter is handed.
const LONGEST_LIST: usize = 100_000;

/// Begins a rendering on this thread with so many bytes.
pub fn begin(bytes: usize) {
    LEFT.with(|left| left.set(bytes));
}

/// Takes bytes from the budget, or says that it is spent.
pub fn charge(bytes: usize) -> Result<(), Error> {
    LEFT.with(|left| match left.get().checked_sub(bytes) {
        Some(rest) => {
            left.set(rest);
            Ok(())
        }
        None => Err(fail("the template makes too much text")),
    })
}

/// Takes `times` pieces of `each` bytes.
pub fn charge_times(times: usize, each: usize) -> Result<(), Error> {
    charge(times.saturating_mul(each))
}

/// An error of ours, in minijinja's type.
pub fn fail(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.into())
}

/// The bytes of a value: of a text its length, of a list so much an item.
pub fn weight(value: &Value) -> usize {
    match value.as_str() {
        Some(text) => text.len(),
        None if value.as_object().is_some() => value.len().unwrap_or(0).saturating_mul(ITEM),
        None => ITEM,
    }
}

/// Charges a value that was made, and hands it on.
pub fn charged(value: Value) -> Result<Value, Error> {
    charge(weight(&value))?;
    Ok(value)
}

/// Values within each other that a template may make.
const DEEPEST: usize = 32;

/// Charges a whole value, lists within lists as often as they occur, and hands it on: sixty times
/// `x = [x, x]` takes little memory, but a comparison of two such values never ends. A namespace may
/// not stand within another value, so that no value holds itself.
pub fn keep(value: Value) -> Result<Value, Error> {
    weigh(&value, 0)?;
    Ok(value)
}

fn weigh(value: &Value, level: usize) -> Result<(), Error> {
    if level > DEEPEST {
        return Err(fail("a value is nested too deep"));
    }
    charge(ITEM)?;
    if level > 0 && value.as_object().is_some_and(|o| o.type_name().contains("Namespace")) {
        return Err(fail("a namespace within another value"));
    }
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => items(value)?.iter().try_for_each(|v| weigh(v, level + 1)),
        ValueKind::Map => items(value)?.iter().try_for_each(|key| weigh(&value.get_item(key)?, level + 1)),
        _ => Ok(()),
    }
}

/// The items of a list, a tuple, the keys of a map, the letters of a text, charged as they are read.
pub fn items(value: &Value) -> Result<Vec<Value>, Error> {
    let mut all = Vec::new();
    if value.is_undefined() {
        return Ok(all);
    }
    if let Some(text) = value.as_str() {
        charge_times(text.len(), ITEM)?;
        return Ok(text.chars().map(|c| Value::from(c.to_string())).collect());
    }
    for item in value.try_iter()? {
        if item.kind() == ValueKind::Invalid || all.len() == LONGEST_LIST {
            return Err(fail("a list is too long for a chat template"));
        }
        charge(ITEM)?;
        all.push(item);
    }
    Ok(all)
}

/// A bound on an argument before a filter gets it: a list is counted, lazily made ones too.
pub fn bounded(value: &Value) -> Result<Value, Error> {
    if value.kind() == ValueKind::Iterable {
        return Ok(Value::from(items(value)?));
    }
    if value.as_object().is_some() && value.len().is_some_and(|n| n > LONGEST_LIST) {
        return Err(fail("a list is too long for a chat template"));
    }
    // Work counts too, or a long text could be searched a million times.
    charge(weight(value) / 16)?;
    Ok(value.clone())
}
