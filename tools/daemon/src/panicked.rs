//! A lease task that panics comes to an end all the same: else its lease would be `Acquiring`, or `Releasing`, for ever.
//!
//! Nothing is known of what it has written. So nothing is granted by it, and what it was to change is taken for lost; what stands on
//! the disk is left to the next acquire, or to the end of the lockspace. Nobody acquires the lease anew while a write of
//! the task is on its way (I6; `SpaceShared::begin_acquire`).

use std::future::Future;

use holdfast_protocol::codes::ResultCode;
use paxos_lease::Held;

use crate::note::Notes;
use crate::platform::Platform;
use crate::supervisor::event::{AcquireEnd, Converted, Event, Prepared, TaskId};
use crate::supervisor::index::IndexEnd;

/// What a task was to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Open devices for a lease.
    Open,
    /// Acquire it.
    Acquire,
    /// Give it back.
    Release,
    /// Change how it is held.
    Convert,
    /// Work on an index.
    Index,
}

impl Task {
    /// What the supervisor is to hear. Of these it heeds what it still waits for.
    fn ends(self, task: TaskId) -> Vec<Event<Held>> {
        let (code, why) = (ResultCode::EIO, "its task has panicked: nothing is known of what it wrote".to_owned());
        let done = Event::TaskDone { task };
        match self {
            Task::Open => vec![Event::DeviceReady { task, prepared: Prepared::refused(code, why) }],
            Task::Acquire => {
                let end = AcquireEnd::Refused { code, why, may_change: false, undoing: false };
                vec![Event::Acquired { task, end }, done]
            }
            Task::Release => vec![Event::Released { task, code, why: Some(why), done: true }, done],
            Task::Convert => vec![Event::Converted { task, end: Converted { held: None, code, why: Some(why) } }],
            Task::Index => vec![Event::IndexDone { task, end: IndexEnd::failed(code, why), over: true }, done],
        }
    }
}

/// Runs a task's work; should it panic, its end is reported, after `note` was told so.
pub async fn reported<P: Platform>(
    work: impl Future<Output = ()>,
    what: Task,
    task: TaskId,
    notes: Notes<P>,
    note: impl FnOnce(),
) {
    let mut guard = Guard { what, task, notes, note: Some(note) };
    work.await;
    guard.note = None;
}

struct Guard<P: Platform, N: FnOnce()> {
    what: Task,
    task: TaskId,
    notes: Notes<P>,
    /// Until the work is over.
    note: Option<N>,
}

impl<P: Platform, N: FnOnce()> Drop for Guard<P, N> {
    fn drop(&mut self) {
        // A task that is dropped half way has a daemon that is at its end.
        let Some(note) = self.note.take().filter(|_| std::thread::panicking()) else { return };
        tracing::error!(task = ?self.what, "a lease task has panicked: what it held is taken for lost");
        note();
        for event in self.what.ends(self.task) {
            self.notes.event(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::linux::Linux;
    use crate::note::Note;

    /// What the supervisor hears of such a task.
    fn heard(what: Task, work: impl Future<Output = ()>) -> (bool, Vec<Event<Held>>) {
        let (notes, mut inbox) = Notes::<Linux>::channel();
        let noted = Cell::new(false);
        let task = reported(work, what, TaskId(7), notes, || noted.set(true));
        let _ = catch_unwind(AssertUnwindSafe(|| pollster::block_on(task)));
        let events = std::iter::from_fn(|| match inbox.try_recv() {
            Ok(Note::Event(event)) => Some(*event),
            _ => None,
        });
        (noted.get(), events.collect())
    }

    #[test]
    fn a_lease_task_that_panics_reports_its_end_and_one_that_does_not_says_nothing() {
        for what in [Task::Open, Task::Acquire, Task::Release, Task::Convert, Task::Index] {
            let (noted, events) = heard(what, async { panic!("on purpose") });
            assert!(noted && !events.is_empty(), "{what:?}");
            assert!(heard(what, async {}).1.is_empty(), "{what:?}");
        }
        let (_, events) = heard(Task::Convert, async { panic!("on purpose") });
        assert!(matches!(&events[..], [Event::Converted { end: Converted { held: None, .. }, .. }]), "{events:?}");
    }
}
