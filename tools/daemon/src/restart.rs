//! After an unclean end: what the successor does before anything else (P1 b, ARCHITECTURE.md data flow 6).
//!
//! 1. It reads the predecessor's state file. Its lockspaces count as under D3 and *not fresh* from that moment: nobody
//!    pets, the watchdog is not even opened, since opening pets it.
//! 2. Every process listed, and every process that inherited its connection, is ended (SIGTERM, grace, SIGKILL) and seen
//!    gone. One that will not go keeps us here until the watchdog resets the host.
//! 3. Every fence listed is taken: a write of the predecessor that is still in flight holds its fence until it lands.
//!    Meanwhile our old delta sector is watched; if it changes, a living daemon has our host_id and nothing is proven.
//! 4. Only then the watchdog that the predecessor left counting is opened, and stopped; where a fence could not be
//!    taken, a lease write may land any time (I6), and the watchdog is left to fire (D3).
//!
//! What comes out is the list of lockspaces under whose generation nothing can write any more. A file of another boot
//! lists nothing that can still run, and proves nothing either: P1 (a) has its own way.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use holdfast_io::clock::{BootClock, Clock, LocalInstant};
use holdfast_io::device::{Device, WriteLimit};
use holdfast_io::disk::ReadDisk;
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::sys::linux::{BlockFile, FenceOutcome, NodeId, ThreadsEngine};
use nix::sys::signal::Signal;

use crate::codes;
use crate::guard::{signal_heirs, signal_identity};
use crate::nodes::Nodes;
use crate::procfs::{ProcessId, Procfs};
use crate::state_file::{FenceRecord, Guarded, SpaceRecord, StateFile, StateFileError};

/// How the successor goes about it.
pub struct Succession<'a> {
    /// The run directory.
    pub run_dir: &'a Path,
    /// The kernel's boot id.
    pub boot_id: &'a str,
    /// From SIGTERM to SIGKILL.
    pub kill_grace: Duration,
    /// The daemon's open devices: the fences stay with them.
    pub nodes: &'a Nodes,
    /// The clock.
    pub clock: &'a BootClock,
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
}

/// Between two looks at something that is waited for.
const POLL: Duration = Duration::from_millis(100);
/// Between two words about it in the log.
const WORD: Duration = Duration::from_secs(10);
/// Before the first.
const FIRST_WORD: Duration = Duration::from_secs(1);

impl Succession<'_> {
    /// Runs to its end, however long that takes: until everything is seen gone, or the host is reset.
    ///
    /// # Errors
    /// The state file is there and cannot be understood. Then it is not known what may still run, and starting would be a
    /// guess: the error says so.
    pub async fn run(&self) -> Result<Inheritance, StateFileError> {
        let Some(state) = StateFile::read(self.run_dir)? else { return Ok(Inheritance::default()) };
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
        let mut inheritance = Inheritance { unclean: state.watchdog_armed, ..Inheritance::default() };
        for space in state.lockspaces {
            let over = if space.over { Ok(()) } else { self.take_fences(&space).await };
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
    async fn end_all(&self, guarded: &[Guarded]) {
        let procfs = Procfs::default();
        let kill_at = self.clock.now().after(self.kill_grace);
        let mut said = BTreeMap::new();
        let mut next_signal = LocalInstant::EARLIEST;
        loop {
            let left: Vec<&Guarded> = guarded.iter().filter(|g| !is_over(g, &procfs)).collect();
            if left.is_empty() {
                return;
            }
            let now = self.clock.now();
            if now >= next_signal {
                let signal = if now >= kill_at { Signal::SIGKILL } else { Signal::SIGTERM };
                left.iter().for_each(|g| end(g, signal, &procfs));
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
            self.clock.sleep(POLL).await;
        }
    }

    /// Every fence of a lockspace is ours, through the very node it was taken on.
    async fn take_fences(&self, space: &SpaceRecord) -> Result<(), String> {
        let mut files = Vec::new();
        for fence in &space.fences {
            if !fence.locked {
                return Err(format!("no lock can stand for the end of I/O on {}", fence.path.display()));
            }
            let file = self.nodes.open(&fence.path).map_err(|e| codes::chain(&e))?;
            if file.node() != (NodeId { dev: fence.dev, ino: fence.ino }) {
                return Err(format!("{} is another node now than the one that was fenced", fence.path.display()));
            }
            self.take_fence(&file, fence, space).await?;
            files.push(file);
        }
        files.into_iter().for_each(|file| self.nodes.pin(file));
        Ok(())
    }

    async fn take_fence(&self, file: &Arc<BlockFile>, fence: &FenceRecord, space: &SpaceRecord) -> Result<(), String> {
        let mut watch = Watch::new(self, space);
        let mut word = self.clock.now().after(FIRST_WORD);
        loop {
            match file.try_fence(fence.start, fence.len) {
                Ok(FenceOutcome::Held) => return Ok(()),
                Ok(FenceOutcome::Impossible) => return Err(format!("{} takes no lock", file.path())),
                Ok(FenceOutcome::Busy) => {}
                Err(e) => return Err(format!("cannot lock {}: {e}", file.path())),
            }
            if self.clock.now() >= word {
                word = self.clock.now().after(WORD);
                tracing::warn!(
                    path = %file.path(),
                    offset = fence.start,
                    "a predecessor's write is still in flight; its host_id is not taken before it has landed"
                );
            }
            if watch.saw_a_change(self.clock).await {
                return Err(format!(
                    "host_id {} of lockspace {} is renewed by a living daemon",
                    space.host_id, space.name
                ));
            }
            self.clock.sleep(POLL).await;
        }
    }
}

/// The delta sector of a predecessor, watched while its fence is held by somebody.
#[derive(Default)]
struct Watch {
    /// Its device, and where it lies. One engine for all looks: a read that hangs must not cost a thread each.
    sector: Option<(Device<ThreadsEngine, BootClock>, u64, usize)>,
    first: Option<AlignedBuf>,
}

impl Watch {
    fn new(by: &Succession<'_>, space: &SpaceRecord) -> Self {
        let Some(fence) = space.fences.first() else { return Watch::default() };
        let (Ok(file), Ok(len)) = (by.nodes.open(&fence.path), usize::try_from(fence.len)) else {
            return Watch::default();
        };
        let disk = Device::new(ThreadsEngine::new(file, 1, "restart-io"), by.clock.clone(), WriteLimit::none());
        Watch { sector: Some((disk, fence.start, len)), first: None }
    }

    async fn saw_a_change(&mut self, clock: &BootClock) -> bool {
        let Some((disk, start, len)) = &self.sector else { return false };
        let deadline = clock.now().after(Duration::from_secs(1));
        // A read that fails or hangs shows no life.
        let Ok(bytes) = disk.read(*start, *len, deadline).await else { return false };
        *self.first.get_or_insert_with(|| bytes.clone()) != bytes
    }
}

/// Whether a guarded process and everyone who inherited its connection are seen gone. What cannot be seen is not gone.
///
/// There are always processes that may not be looked into, pid 1 of a container for one. So the kernel's own table
/// decides: a socket stays in it until its last descriptor is closed, wherever that is, in a message under way to
/// another process too. (Inodes are reused after 2^32 sockets; then we wait for a stranger, which is the safe side.)
/// The look at the processes covers a daemon whose network namespace is not its predecessor's.
fn is_over(guarded: &Guarded, procfs: &Procfs) -> bool {
    let id = ProcessId { pid: guarded.pid, start_time: guarded.start_time };
    procfs.is_gone(id).unwrap_or(false)
        && (!guarded.group || procfs.group_of(id).is_ok_and(|left| left.is_empty()))
        && is_closed(guarded.connection_inode)
        && procfs.holders_of_socket(guarded.connection_inode).is_ok_and(|h| h.found.is_empty())
}

/// Whether the kernel knows no unix socket of this inode.
fn is_closed(inode: u64) -> bool {
    std::fs::read_to_string("/proc/self/net/unix").is_ok_and(|table| !lists(&table, inode))
}

/// `Num RefCount Protocol Flags Type St Inode Path`. The path may hold line breaks; what follows them is no socket.
fn lists(table: &str, inode: u64) -> bool {
    let inode_in = |line: &str| line.split_whitespace().nth(6).and_then(|word| word.parse::<u64>().ok());
    table.lines().any(|line| inode_in(line) == Some(inode))
}

fn end(guarded: &Guarded, signal: Signal, procfs: &Procfs) {
    let id = ProcessId { pid: guarded.pid, start_time: guarded.start_time };
    let gone = procfs.is_gone(id).unwrap_or(false);
    tracing::warn!(pid = guarded.pid, %signal, gone, "ending what a predecessor guarded");
    // One by one, by identity: the group's number may be another's by now.
    for member in procfs.group_of(id).unwrap_or_default().into_iter().filter(|m| guarded.group && *m != id) {
        signal_identity(member, signal, procfs);
    }
    signal_identity(id, signal, procfs);
    signal_heirs(guarded.connection_inode, guarded.pid, signal, procfs);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_socket_is_closed_when_its_last_descriptor_is() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let inode = crate::procfs::socket_inode(&theirs).unwrap();
        let inherited = theirs.try_clone().unwrap();
        drop(theirs);
        assert!(!is_closed(inode));
        drop(inherited);
        assert!(is_closed(inode));
        drop(ours);
    }

    #[test]
    fn the_table_is_read_by_its_inode_column() {
        let head = "Num       RefCount Protocol Flags    Type St Inode Path\n";
        assert!(!lists(head, 7));
        let line = |inode: &str| format!("{head}0000000000000000: 00000003 00000000 00000000 0001 03 {inode} /run/7\n");
        assert!(lists(&line("    7"), 7));
        assert!(!lists(&line("   17"), 7));
    }
}
