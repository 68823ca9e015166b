//! What the daemon asks of the machine it runs on: the one seam between its own code and everything outside.
//!
//! [`crate::linux::Linux`] is the real machine. The simulator has another one, and runs everything above this line -
//! supervisor, restart, joining and renewing, lease tasks, the order in which effects are done - as it is.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;

use holdfast_io::clock::Clock;
use holdfast_io::device::{Device, Engine};
use holdfast_io::sys::linux::{FenceOutcome, NodeId, OpenError};
use holdfast_io::sys::rights::Rights;
use holdfast_io::timing::FireTimeout;
use holdfast_io::units::SectorSize;
use nix::sys::signal::Signal;
use paxos_lease::Held;

use crate::lockspace::Lockspace;
use crate::nodes::Nodes;
use crate::state_file::{Guarded, StateFile, StateFileError};
use crate::supervisor::event::Effect;
use crate::watchdog::{Watchdog, WatchdogError};

/// An open device or file that carries leases, and the open file description that carries its fences.
pub trait LeaseFile {
    /// What it is called.
    fn path(&self) -> &Arc<str>;
    /// Which node it is.
    fn node(&self) -> NodeId;
    /// Its sector size.
    fn sector(&self) -> SectorSize;
    /// Tries to take the fence over these bytes.
    ///
    /// # Errors
    /// The kernel's, if it is anything but "held by somebody".
    fn try_fence(&self, start: u64, len: u64) -> io::Result<FenceOutcome>;
    /// Gives a fence back; only once every write through this description is reaped.
    ///
    /// # Errors
    /// The kernel's.
    fn release_fence(&self, start: u64, len: u64) -> io::Result<()>;
}

/// The machine. Clones are the same one.
pub trait Platform: Clone + 'static {
    /// Its clock.
    type Clock: Clock + Clone + 'static;
    /// Its lease devices.
    type File: LeaseFile + 'static;
    /// What moves bytes to and from one of them.
    type Engine: Engine + 'static;

    /// The clock.
    fn clock(&self) -> &Self::Clock;

    /// The devices that this daemon has open.
    fn nodes(&self) -> &Nodes<Self::File>;

    /// The description for the node that `path` names now, if these rights open it. May hang where the path does.
    ///
    /// # Errors
    /// See [`OpenError`].
    fn open(&self, path: &Path, by: &Rights) -> Result<Arc<Self::File>, OpenError>;

    /// [`Platform::open`], without holding up the caller's thread. The inner error: no thread was to be had.
    fn open_apart(
        &self,
        path: &Path,
        by: &Rights,
    ) -> impl Future<Output = Result<Result<Arc<Self::File>, OpenError>, String>>;

    /// A new engine for a file, with at most so many I/Os at work at once.
    fn engine(&self, file: &Arc<Self::File>, at_once: usize, name: &'static str) -> Self::Engine;

    /// Runs a task beside the main loop, on its thread.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);

    /// Runs a lockspace where nothing but its own disk can hold it up.
    ///
    /// # Errors
    /// No thread, no clock.
    fn start_lockspace(&self, lockspace: Lockspace<Self>) -> io::Result<()>;

    /// Why a lockspace in this file may not be joined without a watchdog; `None`: it may, or there is one.
    fn needs_watchdog(&self, _file: &Self::File) -> Option<String> {
        None
    }

    /// Opens the watchdog, **which arms and pets it**.
    ///
    /// # Errors
    /// See [`WatchdogError`].
    fn open_watchdog(&self, sealed: FireTimeout) -> Result<Box<dyn Watchdog>, WatchdogError>;

    /// Whether no daemon that ran here before has left an entry counting in wdmd.
    ///
    /// # Errors
    /// One has, and nobody can clear it; or wdmd cannot be asked.
    fn is_clear_of_wdmd(&self) -> Result<(), WatchdogError>;

    /// What a predecessor left in the run directory.
    ///
    /// # Errors
    /// See [`StateFileError`].
    fn read_state(&self) -> Result<Option<StateFile>, StateFileError>;

    /// Replaces the state file. When this returns, it is what a successor reads.
    ///
    /// # Errors
    /// See [`StateFileError`].
    fn write_state(&self, state: &StateFile) -> Result<(), StateFileError>;

    /// Those of these guarded processes that are not seen gone, each with everyone who inherited its connection. What cannot be
    /// seen is not gone.
    fn left_of<'a>(&self, guarded: &'a BTreeSet<Guarded>) -> Vec<&'a Guarded>;

    /// Signals processes that a predecessor guarded, the rest of their groups, and everyone who inherited their connections.
    fn end(&self, guarded: &[&Guarded], signal: Signal);

    /// Passed before every effect. A process can be stopped at any of these points, and the simulator does.
    fn before(&self, effect: &Effect<Held>) -> impl Future<Output = ()>;
}

/// A lease device under the machine's clock, with the table of what is in flight on it.
pub type Disk<P> = Device<<P as Platform>::Engine, <P as Platform>::Clock>;
/// The same where several share its engine.
pub type SharedDisk<P> = Device<Arc<<P as Platform>::Engine>, <P as Platform>::Clock>;
