//! Bugs on purpose: each breaks one rule of the program, so that the simulator can be shown to find it.
//!
//! They exist only where the feature `planted` is on, and only this project's own tests turn it on. In every other build
//! [`planted`] is the constant `false`, and each place that asks is compiled away. Even where they exist nothing is broken
//! before [`plant`] has been called on the very thread that asks.

/// One broken rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bug {
    /// The clock stands still while the host is suspended (CLOCK_MONOTONIC for CLOCK_BOOTTIME).
    ClockStopsInSuspend,
}

#[cfg(feature = "planted")]
mod on {
    use super::Bug;
    use std::cell::Cell;

    thread_local! {
        static BUG: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// From now on this rule is broken on this thread; `None`: none is.
    pub fn plant(bug: Option<Bug>) {
        BUG.set(bug);
    }

    /// Whether this rule is broken here.
    #[must_use]
    pub fn planted(bug: Bug) -> bool {
        BUG.get() == Some(bug)
    }
}

#[cfg(feature = "planted")]
pub use on::{plant, planted};

/// No rule is broken in this build.
#[cfg(not(feature = "planted"))]
#[must_use]
pub const fn planted(_: Bug) -> bool {
    false
}
