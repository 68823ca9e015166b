//! The real machine: files and block devices, threads, `/dev/watchdog`, the run directory, processes.

use std::collections::BTreeSet;
use std::fs::File;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};

use holdfast_io::clock::BootClock;
use holdfast_io::sys::linux::{BlockFile, Engines, FenceOutcome, NodeId, OpenError, ThreadsEngine};
use holdfast_io::sys::memory;
use holdfast_io::sys::rights::Rights;
use holdfast_io::timing::FireTimeout;
use holdfast_io::units::SectorSize;
use nix::libc;
use nix::sys::signal::Signal;
use paxos_lease::Held;

use crate::codes;
use crate::guard;
use crate::lockspace::Lockspace;
use crate::nodes::Nodes;
use crate::platform::{LeaseFile, Platform};
use crate::procfs::Procfs;
use crate::rings::Rings;
use crate::state_file::{Guarded, StateFile, StateFileError};
use crate::supervisor::event::Effect;
use crate::sysfs::Sysfs;
use crate::watchdog::facts::Facts;
use crate::watchdog::{Choice, Watchdog, WatchdogError};
use crate::wdmd;

/// Descriptors kept back so that the state file can be written when no other is to be had.
const RESERVE: usize = 2;

/// The major number of loop devices.
const LOOP: u32 = 7;

/// The missing priority is said once, not for every lockspace.
static SAID: Once = Once::new();

/// A block device is what hosts share. A file, and a loop device over one, is mostly this host's own.
fn is_shared(node: NodeId) -> bool {
    node.device.is_some_and(|device| libc::major(device) != LOOP)
}

impl LeaseFile for BlockFile {
    fn path(&self) -> &Arc<str> {
        self.path()
    }
    fn node(&self) -> NodeId {
        self.node()
    }
    fn sector(&self) -> SectorSize {
        self.sector()
    }
    fn try_fence(&self, start: u64, len: u64) -> io::Result<FenceOutcome> {
        self.try_fence(start, len)
    }
    fn release_fence(&self, start: u64, len: u64) -> io::Result<()> {
        self.release_fence(start, len)
    }
}

/// This machine.
#[derive(Clone)]
pub struct Linux {
    clock: BootClock,
    nodes: Arc<Nodes>,
    engines: Arc<Engines>,
    watchdog: Choice,
    /// Block devices may be used without one.
    unsafe_no_watchdog: bool,
    run_dir: PathBuf,
    reserve: Arc<Mutex<Vec<File>>>,
    /// What a predecessor's clients write through was looked at.
    looked: Arc<AtomicBool>,
}

impl Linux {
    /// This machine, with the run directory and the watchdog that the administrator chose.
    ///
    /// # Errors
    /// No timer or no thread for it.
    pub fn new(watchdog: Choice, run_dir: PathBuf) -> io::Result<Self> {
        let (clock, engines, reserve, looked) = (BootClock::new()?, Arc::default(), Arc::default(), Arc::default());
        let (nodes, unsafe_no_watchdog) = (Arc::default(), false);
        let linux = Linux { clock, nodes, engines, watchdog, unsafe_no_watchdog, run_dir, reserve, looked };
        linux.keep_reserve();
        Ok(linux)
    }

    /// The administrator has said that block devices may be used without a watchdog, or has not.
    #[must_use]
    pub fn without_watchdog(self, unsafe_no_watchdog: bool) -> Self {
        Linux { unsafe_no_watchdog, ..self }
    }

    /// Whether a device that cannot be stopped counts, with nobody left to pet it: a daemon of this boot has ended in this run directory,
    /// and has left it so. What a state file does not tell of may have something behind it that it is to end.
    #[must_use]
    pub fn has_left_it_counting(&self, boot_id: &str) -> bool {
        let known = matches!(self.read_state(), Ok(Some(state)) if state.boot_id == boot_id);
        let facts = Facts::of(&self.watchdog, &Sysfs::default());
        known && facts.is_some_and(|facts| facts.nowayout == Some(true) && facts.counts == Some(true))
    }

    /// The devices, to be shared with tasks that answer clients.
    #[must_use]
    pub fn shared_nodes(&self) -> Arc<Nodes> {
        Arc::clone(&self.nodes)
    }

    /// What moves bytes for tasks that answer clients.
    #[must_use]
    pub fn shared_engines(&self) -> Arc<Engines> {
        Arc::clone(&self.engines)
    }

    fn keep_reserve(&self) {
        let mut reserve = self.reserve.lock().unwrap_or_else(PoisonError::into_inner);
        while reserve.len() < RESERVE
            && let Ok(file) = File::open("/dev/null")
        {
            reserve.push(file);
        }
    }
}

impl Platform for Linux {
    type Clock = BootClock;
    type File = BlockFile;
    type Engine = ThreadsEngine;

    fn clock(&self) -> &BootClock {
        &self.clock
    }

    fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    fn open(&self, path: &Path, by: &Rights) -> Result<Arc<BlockFile>, OpenError> {
        self.nodes.open(path, by)
    }

    /// On a thread of its own: a path on a dead server may hang in open(2).
    async fn open_apart(&self, path: &Path, by: &Rights) -> Result<Result<Arc<BlockFile>, OpenError>, String> {
        self.nodes.open_apart(path, by).await
    }

    fn engine(&self, file: &Arc<BlockFile>, at_once: usize, name: &'static str) -> ThreadsEngine {
        self.engines.own(file, at_once, name)
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        tokio::task::spawn_local(task);
    }

    /// A thread and a clock of its own: once it has its device, no lock is shared with the request path.
    fn start_lockspace(&self, lockspace: Lockspace<Self>) -> io::Result<()> {
        let clock = BootClock::new()?;
        let builder = std::thread::Builder::new().name("renewal".into()).stack_size(256 * 1024);
        builder.spawn(move || {
            if let Err(error) = memory::realtime_priority(1) {
                SAID.call_once(
                    || tracing::warn!(%error, "renewals run at normal priority: under load they may be late"),
                );
            }
            pollster::block_on(lockspace.run(&clock));
        })?;
        Ok(())
    }

    fn needs_watchdog(&self, file: &BlockFile) -> Option<String> {
        let unguarded = self.watchdog == Choice::None && !self.unsafe_no_watchdog && is_shared(file.node());
        unguarded.then(|| {
            format!(
                "{} is a block device, and there is no watchdog: nothing would reset this host if it hangs, and two hosts would write to one \
                 disk. Choose a watchdog, or say that you know with --unsafe-no-watchdog (unsafe_no_watchdog = true)",
                file.path()
            )
        })
    }

    fn open_watchdog(&self, sealed: FireTimeout) -> Result<Box<dyn Watchdog>, WatchdogError> {
        self.watchdog.open(sealed, &wdmd::entry_name(&self.run_dir))
    }

    fn is_clear_of_wdmd(&self) -> Result<(), WatchdogError> {
        let socket = match &self.watchdog {
            Choice::Wdmd(socket) => socket.clone(),
            _ => wdmd::socket_from_environment(),
        };
        wdmd::is_clear(&socket, &wdmd::entry_name(&self.run_dir))
    }

    fn read_state(&self) -> Result<Option<StateFile>, StateFileError> {
        StateFile::read(&self.run_dir)
    }

    /// Written even if every descriptor is taken: those in reserve are for this alone.
    fn write_state(&self, state: &StateFile) -> Result<(), StateFileError> {
        if let Err(error) = state.write(&self.run_dir) {
            self.reserve.lock().unwrap_or_else(PoisonError::into_inner).clear();
            tracing::warn!(error = codes::chain(&error), "the state file is written again");
            state.write(&self.run_dir)?;
        }
        self.keep_reserve();
        Ok(())
    }

    fn left_of<'a>(&self, guarded: &'a BTreeSet<Guarded>) -> Vec<&'a Guarded> {
        guard::left_of(guarded, &Procfs::default())
    }

    fn end(&self, guarded: &[&Guarded], signal: Signal) {
        if !self.looked.swap(true, Ordering::AcqRel) {
            Rings::look_at_the_left(guarded);
        }
        guard::end(guarded, signal, &Procfs::default());
    }

    async fn before(&self, _effect: &Effect<Held>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_device_is_shared_and_files_and_loop_devices_are_not() {
        let of = |major, minor| NodeId { dev: 5, ino: 7, device: Some(libc::makedev(major, minor)) };
        assert!(is_shared(of(8, 1)) && is_shared(of(253, 7)) && is_shared(of(259, 0)));
        assert!(!is_shared(of(LOOP, 3)) && !is_shared(NodeId::file(5, 7)));
    }
}
