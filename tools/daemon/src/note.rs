//! What the daemon's threads and tasks tell its main loop.

use std::sync::Arc;

use delta_lease::{AreaView, DeltaArea};
use holdfast_io::clock::BootClock;
use holdfast_io::device::Device;
use holdfast_io::ids::SpaceName;
use holdfast_io::sys::linux::{BlockFile, ThreadsEngine};
use paxos_lease::Held;
use tokio::sync::mpsc;

use crate::supervisor::event::Event;

/// A real device under the real clock.
pub type LinuxDisk = Device<ThreadsEngine, BootClock>;

/// One message.
pub enum Note {
    /// For the supervisor.
    Event(Box<Event<Held>>),
    /// A lockspace's area was found and its device opened.
    Opened {
        /// Which lockspace.
        space: SpaceName,
        /// Its area.
        area: DeltaArea,
        /// Its device.
        file: Arc<BlockFile>,
    },
    /// A renewal has read its area: news of all hosts.
    Seen {
        /// Which lockspace.
        space: SpaceName,
        /// The area.
        view: AreaView,
    },
}

/// Where notes go. Unbounded: each sender has at most a few notes under way (a renewal, a request of one connection).
#[derive(Clone)]
pub struct Notes(mpsc::UnboundedSender<Note>);

impl Notes {
    /// A channel for notes.
    #[must_use]
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<Note>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Notes(sender), receiver)
    }

    /// Sends an event. The main loop outlives its senders but for the last moments of the process, when nothing that
    /// is told matters any more.
    pub fn event(&self, event: Event<Held>) {
        self.send(Note::Event(Box::new(event)));
    }

    /// Sends a note.
    pub fn send(&self, note: Note) {
        if self.0.send(note).is_err() {
            tracing::debug!("a note came after the main loop's end");
        }
    }
}
