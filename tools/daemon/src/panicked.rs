//! A lease task that panics comes to an end all the same: else its lease would be `Acquiring`, or `Releasing`, for ever.
//!
//! Nothing is known of what it has written. So nothing is granted by it, and what it was to change is taken for lost; what stands on
//! the disk is left to the next acquire, or to the end of the lockspace. Nobody acquires the lease anew while a write of
//! the task is on its way (I6; `SpaceShared::begin_acquire`).
//!
//! The thread of a lockspace that panics renews no more, and its join has no end of its own. So the lockspace is lost, as if
//! another host had its host_id: nothing is granted in it, what it guards is ended, and until that is gone the watchdog is not
//! petted (D3). Nobody says that it was left: its last write may be in flight, and until this daemon ends the host_id is not joined
//! again (I6). What lands late frees nothing: an older generation, and no timestamp of 0.

use std::future::Future;

use holdfast_io::ids::SpaceName;
use holdfast_protocol::codes::ResultCode;
use paxos_lease::Held;

use crate::note::Notes;
use crate::platform::Platform;
use crate::supervisor::event::{AcquireEnd, Converted, Event, LeaseKey, LostTo, Prepared, TaskId};
use crate::supervisor::index::IndexEnd;

/// What a task was to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Open devices for a lease.
    Open,
    /// Open the device of an index.
    OpenIndex,
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
        let (code, why) = (ResultCode::EIO, UNKNOWN.to_owned());
        let done = Event::TaskDone { task };
        match self {
            Task::Open => vec![Event::DeviceReady { task, prepared: Prepared::refused(code, why) }],
            Task::OpenIndex => vec![Event::IndexReady { task, prepared: Prepared::refused(code, why) }],
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

/// What is said of it.
const UNKNOWN: &str = "its task has panicked: nothing is known of what it wrote";

/// Runs a task's work; should it panic, its end is reported, after `note` was told so.
pub async fn reported<P: Platform>(
    work: impl Future<Output = ()>,
    what: Task,
    task: TaskId,
    notes: Notes<P>,
    note: impl FnOnce(),
) {
    let tell = || {
        tracing::error!(task = ?what, "a lease task has panicked: what it held is taken for lost");
        note();
        what.ends(task).into_iter().for_each(|event| notes.event(event));
    };
    watched(work, tell).await;
}

/// Runs a look at how a held lease stands on disk. Should it panic, nothing was seen, and the next look is due as ever.
pub async fn verifying<P: Platform>(work: impl Future<Output = ()>, key: LeaseKey, held: &Held, notes: Notes<P>) {
    let (lver, mode) = (held.lver(), held.mode);
    let tell = || {
        tracing::error!(lease = %key, "a look at how it stands on disk has panicked");
        notes.event(Event::Verified { key, lver, mode, found: Err(UNKNOWN.to_owned()) });
    };
    watched(work, tell).await;
}

/// Runs the thread of a lockspace; should it panic, the lockspace is lost.
pub async fn lockspace<P: Platform>(work: impl Future<Output = ()>, space: SpaceName, news: Notes<P>) {
    let tell = || {
        tracing::error!(lockspace = %space, "its thread has panicked: it is not joined again before this daemon is restarted");
        let why = UNKNOWN.to_owned();
        news.event(Event::RenewalFailed { space, why, lost: Some(LostTo::Nobody), code: ResultCode::EIO });
    };
    watched(work, tell).await;
}

async fn watched(work: impl Future<Output = ()>, tell: impl FnOnce()) {
    let mut guard = Guard(Some(tell));
    work.await;
    guard.0 = None;
}

/// What to say, until the work is over.
struct Guard<T: FnOnce()>(Option<T>);

impl<T: FnOnce()> Drop for Guard<T> {
    fn drop(&mut self) {
        // A task that is dropped half way has a daemon that is at its end.
        if let Some(tell) = self.0.take().filter(|_| std::thread::panicking()) {
            tell();
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
        let noted = Cell::new(false);
        let events = told(|notes| reported(work, what, TaskId(7), notes, || noted.set(true)));
        (noted.get(), events)
    }

    /// What the loop hears of it.
    fn told<F: Future<Output = ()>>(run: impl FnOnce(Notes<Linux>) -> F) -> Vec<Event<Held>> {
        let (notes, mut inbox) = Notes::<Linux>::channel();
        let run = run(notes);
        let _ = catch_unwind(AssertUnwindSafe(|| pollster::block_on(run)));
        let events = std::iter::from_fn(|| match inbox.try_recv() {
            Ok(Note::Event(event)) => Some(*event),
            _ => None,
        });
        events.collect()
    }

    #[test]
    fn a_lease_task_that_panics_reports_its_end_and_one_that_does_not_says_nothing() {
        for what in [Task::Open, Task::OpenIndex, Task::Acquire, Task::Release, Task::Convert, Task::Index] {
            let (noted, events) = heard(what, async { panic!("on purpose") });
            assert!(noted && !events.is_empty(), "{what:?}");
            assert!(heard(what, async {}).1.is_empty(), "{what:?}");
        }
        let (_, events) = heard(Task::Convert, async { panic!("on purpose") });
        assert!(matches!(&events[..], [Event::Converted { end: Converted { held: None, .. }, .. }]), "{events:?}");
        let (_, events) = heard(Task::OpenIndex, async { panic!("on purpose") });
        assert!(matches!(&events[..], [Event::IndexReady { prepared: Prepared { result: Err(_), .. }, .. }]));
    }

    #[test]
    fn a_lockspace_whose_thread_panics_is_lost() {
        let space = "LS".parse().unwrap();
        let events = told(|news| lockspace(async { panic!("on purpose") }, space, news));
        assert!(matches!(&events[..], [Event::RenewalFailed { lost: Some(LostTo::Nobody), .. }]), "{events:?}");
        assert!(told(|news| lockspace(async {}, space, news)).is_empty());
    }
}
