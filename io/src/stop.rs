//! A request to stop, seen by lease code at its waits.
//!
//! Lease procedures run to their end: they are never dropped half-way, because a dropped future would leave a write in
//! flight that nobody answers for. Whoever wants one to end sets its [`Stop`]; it ends at the next wait.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use crate::clock::{Clock, First, LocalInstant, first_of};

/// Shared between who asks and who is to stop. Clones are the same request.
#[derive(Clone, Default)]
pub struct Stop(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    set: bool,
    waiting: Vec<Waker>,
}

impl std::fmt::Debug for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stop({})", self.is_set())
    }
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// The instant came.
    Elapsed,
    /// Stop was asked for.
    Stopped,
}

impl Stop {
    /// A request that nobody has made yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for the end. Final.
    pub fn set(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.set = true;
        state.waiting.drain(..).for_each(Waker::wake);
    }

    /// Whether the end was asked for.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).set
    }

    /// Resolves when the end is asked for.
    pub async fn wait(&self) {
        poll_fn(|cx| {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if state.set {
                return Poll::Ready(());
            }
            if !state.waiting.iter().any(|w| w.will_wake(cx.waker())) {
                state.waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    /// Waits until `at`, or until stopped, whichever is first.
    pub async fn sleep_until(&self, clock: &impl Clock, at: LocalInstant) -> Waited {
        match first_of(self.wait(), clock.sleep_until(at)).await {
            First::A(()) => Waited::Stopped,
            First::B(()) => Waited::Elapsed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::BootClock;
    use std::time::Duration;

    #[test]
    fn a_stop_ends_a_wait_at_once_and_for_good() {
        let clock = BootClock::new().unwrap();
        let stop = Stop::new();
        let in_an_hour = clock.now().after(Duration::from_secs(3600));
        assert_eq!(pollster::block_on(stop.sleep_until(&clock, clock.now())), Waited::Elapsed);
        let other = stop.clone();
        let asker = std::thread::spawn(move || other.set());
        assert_eq!(pollster::block_on(stop.sleep_until(&clock, in_an_hour)), Waited::Stopped);
        asker.join().unwrap();
        assert_eq!(pollster::block_on(stop.sleep_until(&clock, in_an_hour)), Waited::Stopped);
    }
}
