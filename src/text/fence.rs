//! A fence around code that panics on bad input: the panic becomes an error and prints nothing.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    static INSIDE: Cell<u32> = const { Cell::new(0) };
}

/// Counts this thread in and out of the fence, also when a panic passes through.
struct Inside;

impl Inside {
    fn enter() -> Self {
        INSIDE.with(|n| n.set(n.get() + 1));
        Inside
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.with(|n| n.set(n.get() - 1));
    }
}

/// Runs `work`; a panic inside comes back as its message, on one line, and stderr stays silent.
///
/// ```
/// let short: Result<u8, String> = retort::text::fence::guarded(|| Vec::new()[3]);
/// assert!(short.unwrap_err().contains("out of bounds"));
/// ```
pub fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // A thread that is on its way out has lost its counter; it is not inside.
            if INSIDE.try_with(Cell::get).unwrap_or(0) == 0 {
                usual(info);
            }
        }));
    });
    let _inside = Inside::enter();
    // What was half changed by a panic is dropped by the callers: they hand in work that owns its state
    // or only reads.
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let text = payload
            .downcast_ref::<&str>()
            .map(|s| (*s).to_string())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without a message".to_string());
        text.lines().next().unwrap_or_default().to_string()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_and_the_next_call_works() {
        assert!(guarded(|| panic!("seven")).unwrap_err().contains("seven"));
        assert_eq!(guarded(|| guarded(|| 1).unwrap() + 1), Ok(2));
        assert_eq!(INSIDE.with(Cell::get), 0);
    }
}
