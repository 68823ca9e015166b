//! What the daemon's threads and tasks tell its main loop.

use std::sync::Arc;

use delta_lease::{AreaView, DeltaArea};
use holdfast_io::ids::SpaceName;
use paxos_lease::Held;
use tokio::sync::mpsc;

use crate::linux::Linux;
use crate::platform::Platform;
use crate::supervisor::event::Event;

/// One message.
pub enum Note<P: Platform = Linux> {
    /// For the supervisor.
    Event(Box<Event<Held>>),
    /// A lockspace's area was found and its device opened.
    Opened {
        /// Which lockspace.
        space: SpaceName,
        /// Its area.
        area: DeltaArea,
        /// Its device.
        file: Arc<P::File>,
    },
    /// A renewal has read its area: news of all hosts.
    Seen {
        /// Which lockspace.
        space: SpaceName,
        /// The area.
        view: AreaView,
    },
}

/// Where notes go: the loop has one way for lockspaces, and one for everybody else (`Works::next`). Unbounded: each sender has
/// at most a few notes under way (a renewal, a request of one connection).
pub struct Notes<P: Platform = Linux>(mpsc::UnboundedSender<Note<P>>);

impl<P: Platform> Clone for Notes<P> {
    fn clone(&self) -> Self {
        Notes(self.0.clone())
    }
}

impl<P: Platform> Notes<P> {
    /// A channel for notes.
    #[must_use]
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<Note<P>>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Notes(sender), receiver)
    }

    /// Sends an event. The main loop outlives its senders but for the last moments of the process, when nothing that
    /// is told matters any more.
    pub fn event(&self, event: Event<Held>) {
        self.send(Note::Event(Box::new(event)));
    }

    /// Sends a note.
    pub fn send(&self, note: Note<P>) {
        if self.0.send(note).is_err() {
            tracing::debug!("a note came after the main loop's end");
        }
    }
}
