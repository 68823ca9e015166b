//! After an unclean end: what the successor does before anything else (P1 b, ARCHITECTURE.md data flow 6).
//!
//! 1. It reads the predecessor's state file. Its lockspaces count as under D3 and *not fresh* from that moment: nobody
//!    pets, the watchdog is not even opened, since opening pets it.
//! 2. Every process listed, and every process that inherited its connection, is ended (SIGTERM, grace, SIGKILL) and seen
//!    gone. One that will not go keeps us here until the watchdog resets the host.
//! 3. Every fence listed is taken: a write of the predecessor that is still in flight holds its fence until it lands.
//!    Meanwhile our old delta sector is watched; if it changes, a living daemon has our host_id and nothing is proven.
//! 4. Only then the watchdog that the predecessor left counting is opened, and stopped; where a fence could not be
//!    taken, a lease write may land any time (I6), and the watchdog is left to fire (D3). What it left counting in wdmd
//!    nobody can stop: then this host will be reset, and the successor does not begin.
//!
//! What comes out is the list of lockspaces under whose generation nothing can write any more. A file of another boot
//! lists nothing that can still run, and proves nothing either: P1 (a) has its own way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use holdfast_io::clock::{Clock, LocalInstant};
use holdfast_io::device::{Device, WriteLimit};
use holdfast_io::disk::ReadDisk;
use holdfast_io::planted::{Bug, planted};
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::sys::linux::FenceOutcome;
use holdfast_io::sys::rights::Rights;
use holdfast_io::timing::FireTimeout;
use nix::sys::signal::Signal;

use crate::codes;
use crate::platform::{Disk, LeaseFile, Platform};
use crate::state_file::{FenceRecord, Guarded, SpaceRecord, StateFile, StateFileError};
use crate::watchdog::Kind;

/// How the successor goes about it.
pub struct Succession<'a, P> {
    /// The machine: its run directory has the state file, and the fences stay with its open devices.
    pub platform: &'a P,
    /// The kernel's boot id.
    pub boot_id: &'a str,
    /// From SIGTERM to SIGKILL.
    pub kill_grace: Duration,
}

/// What a predecessor left.
#[derive(Debug, Default)]
pub struct Inheritance {
    /// Lockspaces under whose generation nothing can write any more.
    pub proven: Vec<SpaceRecord>,
    /// Lockspaces of which that is not known: a lease write of the predecessor may still land.
    pub unproven: Vec<String>,
    /// Whether a predecessor in this boot may have left a watchdog counting.
    pub unclean: bool,
    /// Which kind, if its state file says so.
    pub watchdog: Option<Kind>,
}

/// Between two looks at something that is waited for.
const POLL: Duration = Duration::from_millis(100);
/// Between two words about it in the log.
const WORD: Duration = Duration::from_secs(10);
/// Before the first.
const FIRST_WORD: Duration = Duration::from_secs(1);

impl<P: Platform> Succession<'_, P> {
    /// Runs to its end, however long that takes: until everything is seen gone, or the host is reset.
    ///
    /// # Errors
    /// The state file is there and cannot be understood. Then it is not known what may still run, and starting would be a
    /// guess: the error says so.
    pub async fn run(&self) -> Result<Inheritance, StateFileError> {
        let Some(state) = self.platform.read_state()? else { return Ok(Inheritance::default()) };
        if state.boot_id != self.boot_id {
            tracing::info!("the state file is of another boot: nothing it names can still run");
            return Ok(Inheritance::default());
        }
        if !state.guarded.is_empty() {
            tracing::warn!(
                processes = state.guarded.len(),
                "a predecessor ended and left guarded processes: ending them"
            );
            self.end_all(&state.guarded).await;
        }
        let StateFile { watchdog_armed: unclean, watchdog, .. } = state;
        let mut inheritance = Inheritance { unclean, watchdog, ..Inheritance::default() };
        for space in state.lockspaces {
            let over = match &space {
                space if space.over => Ok(()),
                // Whatever it is may write on, and is not ours to end.
                space if space.unseen => {
                    Err("something uses it that is no process of ours (SET_CONFIG, orphans)".to_owned())
                }
                space => self.take_fences(space).await,
            };
            match over {
                Ok(()) => inheritance.proven.push(SpaceRecord { over: true, ..space }),
                Err(why) => {
                    tracing::warn!(lockspace = space.name, why, "not proven over: its host_id will be waited out (D1)");
                    inheritance.unproven.push(space.name);
                }
            }
        }
        Ok(inheritance)
    }

    /// The ladder, for processes that are known by their identity alone.
    async fn end_all(&self, guarded: &BTreeSet<Guarded>) {
        let clock = self.platform.clock();
        let kill_at = clock.now().after(self.kill_grace);
        let mut said = BTreeMap::new();
        let mut next_signal = LocalInstant::EARLIEST;
        loop {
            let left = self.platform.left_of(guarded);
            if planted(Bug::PetsForTheDead) {
                drop(self.platform.open_watchdog(FireTimeout::SANLOCK));
            }
            if left.is_empty() || planted(Bug::GenerationOverLiveClients) {
                return;
            }
            let now = clock.now();
            if now >= next_signal {
                let signal = if now >= kill_at { Signal::SIGKILL } else { Signal::SIGTERM };
                self.platform.end(&left, signal);
                next_signal = now.after(Duration::from_secs(1));
                if now < kill_at {
                    next_signal = next_signal.min(kill_at);
                }
            }
            for g in left {
                let last = said.entry(g.pid).or_insert(now);
                if now.since(*last) >= WORD {
                    *last = now;
                    tracing::error!(
                        pid = g.pid,
                        "a guarded process will not end; the watchdog, unpetted, will end this host"
                    );
                }
            }
            clock.sleep(POLL).await;
        }
    }

    /// Every fence of a lockspace is ours, through the very node it was taken on.
    async fn take_fences(&self, space: &SpaceRecord) -> Result<(), String> {
        let mut files = Vec::new();
        for fence in &space.fences {
            if !fence.locked {
                return Err(format!("no lock can stand for the end of I/O on {}", fence.path.display()));
            }
            let file = self.platform.open(&fence.path, &Rights::Ours).map_err(|e| codes::chain(&e))?;
            // The same device under another node would not do: the lock lies on the node.
            if (file.node().dev, file.node().ino) != (fence.dev, fence.ino) {
                return Err(format!("{} is another node now than the one that was fenced", fence.path.display()));
            }
            self.take_fence(&file, fence, space).await?;
            files.push(file);
        }
        files.into_iter().for_each(|file| self.platform.nodes().pin(file));
        Ok(())
    }

    async fn take_fence(&self, file: &Arc<P::File>, fence: &FenceRecord, space: &SpaceRecord) -> Result<(), String> {
        let mut watch = Watch::new(self.platform, space);
        let clock = self.platform.clock();
        let mut word = clock.now().after(FIRST_WORD);
        loop {
            match file.try_fence(fence.start, fence.len) {
                Ok(FenceOutcome::Held) => return Ok(()),
                Ok(FenceOutcome::Impossible) => return Err(format!("{} takes no lock", file.path())),
                Ok(FenceOutcome::Busy) if planted(Bug::I6NotAcrossRestart) => return Ok(()),
                Ok(FenceOutcome::Busy) => {}
                Err(e) => return Err(format!("cannot lock {}: {e}", file.path())),
            }
            if clock.now() >= word {
                word = clock.now().after(WORD);
                tracing::warn!(
                    path = %file.path(),
                    offset = fence.start,
                    "a predecessor's write is still in flight; its host_id is not taken before it has landed"
                );
            }
            if watch.saw_a_change(clock).await {
                return Err(format!(
                    "host_id {} of lockspace {} is renewed by a living daemon",
                    space.host_id, space.name
                ));
            }
            clock.sleep(POLL).await;
        }
    }
}

/// The delta sector of a predecessor, watched while its fence is held by somebody.
struct Watch<P: Platform> {
    /// Its device, and where it lies. One engine for all looks: a read that hangs must not cost a thread each.
    sector: Option<(Disk<P>, u64, usize)>,
    first: Option<AlignedBuf>,
}

impl<P: Platform> Watch<P> {
    fn new(platform: &P, space: &SpaceRecord) -> Self {
        let disk = |fence: &FenceRecord| {
            let file = platform.open(&fence.path, &Rights::Ours).ok()?;
            let engine = platform.engine(&file, 1, "restart-io");
            let disk = Device::new(engine, platform.clock().clone(), WriteLimit::none());
            Some((disk, fence.start, usize::try_from(fence.len).ok()?))
        };
        Watch { sector: space.fences.first().and_then(disk), first: None }
    }

    async fn saw_a_change(&mut self, clock: &P::Clock) -> bool {
        let Some((disk, start, len)) = &self.sector else { return false };
        let deadline = clock.now().after(Duration::from_secs(1));
        // A read that fails or hangs shows no life.
        let Ok(bytes) = disk.read(*start, *len, deadline).await else { return false };
        *self.first.get_or_insert_with(|| bytes.clone()) != bytes
    }
}
