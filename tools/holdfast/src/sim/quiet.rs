//! A run that panics has broken a rule: the program's own assertions are rules, and the simulator catches them. Nothing of it
//! may be printed into the report; only where it happened is kept.

use std::cell::{Cell, RefCell};
use std::panic;

thread_local! {
    static RUNNING: Cell<bool> = const { Cell::new(false) };
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// From now on panics within [`quietly`] are not printed.
pub fn install() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if RUNNING.get() {
            PLACE.set(info.location().map(ToString::to_string));
        } else {
            usual(info);
        }
    }));
}

/// Runs plans without a word about their panics; and where the last of these happened, if any did.
pub fn quietly<T>(run: impl FnOnce() -> T) -> (T, Option<String>) {
    PLACE.set(None);
    RUNNING.set(true);
    let result = run();
    RUNNING.set(false);
    (result, PLACE.take())
}
