//! Engines in memory, for unit tests and doc examples: one that answers at once, one that holds back what it got.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

use crate::clock::LocalInstant;
use crate::device::{Engine, Io, Started};
use crate::disk::Op;

/// A device in memory that answers every I/O at once.
#[derive(Clone)]
pub struct MemEngine {
    path: Arc<str>,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl MemEngine {
    /// A device of `len` zero bytes.
    #[must_use]
    pub fn new(len: usize) -> Self {
        Self::with(vec![0; len])
    }

    /// A device with this content.
    #[must_use]
    pub fn with(bytes: Vec<u8>) -> Self {
        MemEngine { path: Arc::from("memory"), bytes: Arc::new(Mutex::new(bytes)) }
    }

    /// The content, to look at or to damage.
    pub fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn perform(&self, mut io: Started) {
        let mut bytes = self.bytes();
        let result = usize::try_from(io.at()).map_err(|_| Errno::EINVAL).map(|at| {
            let from = at.min(bytes.len());
            let moved = io.buf().len().min(bytes.len() - from);
            match io.op() {
                Op::Read => io.buf()[..moved].copy_from_slice(&bytes[from..from + moved]),
                Op::Write => bytes[from..from + moved].copy_from_slice(&io.buf()[..moved]),
            }
            moved
        });
        drop(bytes);
        io.complete(result);
    }
}

impl Engine for MemEngine {
    fn path(&self) -> &Arc<str> {
        &self.path
    }

    fn submit(&self, io: Io) {
        // Time in memory stands still at its beginning: only D2's closed limit refuses.
        if let Some(io) = io.start(LocalInstant::from_nanos(1)) {
            self.perform(io);
        }
    }
}

/// A device in memory that keeps every write until told to let it land.
pub struct HeldEngine {
    memory: MemEngine,
    state: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    pass: bool,
    queue_only: bool,
    queued: Vec<Io>,
    started: Vec<Started>,
}

impl HeldEngine {
    /// A device of `len` zero bytes.
    #[must_use]
    pub fn new(len: usize) -> Self {
        HeldEngine { memory: MemEngine::new(len), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, Held> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on writes land at once.
    pub fn pass_through(&self) {
        self.state().pass = true;
    }

    /// From now on writes are not even begun.
    pub fn queue_only(&self) {
        self.state().queue_only = true;
    }

    /// Begins what was queued.
    pub fn start_queued(&self) {
        let mut state = self.state();
        let begun: Vec<_> = state.queued.drain(..).filter_map(|io| io.start(crate::clock::boot_now())).collect();
        state.started.extend(begun);
    }

    /// How many writes are begun and held.
    pub fn held(&self) -> usize {
        self.state().started.len()
    }

    /// Lets every held write land.
    pub fn release_all(&self) {
        let held: Vec<_> = self.state().started.drain(..).collect();
        held.into_iter().for_each(|io| self.memory.perform(io));
    }

    /// One byte of the medium.
    #[must_use]
    pub fn byte(&self, at: usize) -> u8 {
        self.memory.bytes()[at]
    }
}

impl Engine for HeldEngine {
    fn path(&self) -> &Arc<str> {
        self.memory.path()
    }

    fn submit(&self, io: Io) {
        let mut state = self.state();
        if state.queue_only {
            state.queued.push(io);
            return;
        }
        let hold = io.op() == Op::Write && !state.pass;
        let Some(io) = io.start(crate::clock::boot_now()) else { return };
        if hold {
            state.started.push(io);
        } else {
            drop(state);
            self.memory.perform(io);
        }
    }
}
