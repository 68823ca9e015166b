//! Processes under guard: who is behind a connection, when it exits, and how it is ended.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use holdfast_io::sys::process;
use holdfast_io::sys::rights::Rights;
use nix::sys::signal::Signal;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::task::AbortHandle;

use crate::heirs::{Connections, Heirs, Named};
use crate::log_ring::AT_WILL;
use crate::note::Notes;
use crate::procfs::{ProcessId, Procfs};
use crate::rings;
use crate::sock_diag;
use crate::state_file::Guarded;
use crate::supervisor::event::{ClientId, Event};

/// What is needed to identify the process behind a connection later, kept from the moment it connected.
pub struct Peer {
    pid: i32,
    uid: u32,
    rights: Rights,
    pidfd: Option<Arc<OwnedFd>>,
    inode: Option<u64>,
    /// The task that waits for its exit; it ends with this.
    watch: RefCell<Option<AbortHandle>>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(watch) = self.watch.take() {
            watch.abort();
        }
    }
}

impl Peer {
    /// Notes who connected.
    #[must_use]
    pub fn of(stream: &UnixStream) -> Option<Self> {
        let process::Peer { pid, uid, .. } = process::peer(stream).ok()?;
        let rights = match Rights::of_peer(stream) {
            Ok(rights) => rights,
            Err(error) => {
                tracing::warn!(target: AT_WILL, pid, uid, %error, "a connection is closed: it cannot be told what it may ask for");
                return None;
            }
        };
        let pidfd = process::peer_pidfd(stream).ok().flatten().map(Arc::new);
        let inode = match sock_diag::peer_inode(stream) {
            Ok(inode) => inode,
            Err(error) => {
                tracing::warn!(target: AT_WILL, pid, %error, "cannot tell which processes share a connection");
                None
            }
        };
        Some(Peer { pid, uid, rights, pidfd, inode, watch: RefCell::default() })
    }

    /// Its process when it connected.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// Its user when it connected.
    #[must_use]
    pub const fn uid(&self) -> u32 {
        self.uid
    }

    /// Whose rights it may ask for.
    #[must_use]
    pub const fn rights(&self) -> &Rights {
        &self.rights
    }

    /// The identity of the process, if it still runs and can be told.
    #[must_use]
    pub fn identify(&self, procfs: &Procfs) -> Option<Guarded> {
        let pidfd = self.pidfd.as_ref()?;
        let identity = procfs.identity(self.pid).ok().flatten()?;
        // The pid was looked up by number: only if the pidfd's process has not exited since is it the same one.
        if process::has_exited(pidfd.as_fd()).unwrap_or(true) {
            return None;
        }
        let connection_inode = self.inode?; // without it heirs could not be found, and P1 (b) never be proven
        Some(Guarded { pid: self.pid, start_time: identity.start_time, connection_inode, group: false })
    }

    /// Reports the exit of the process, from now on.
    pub fn watch(&self, client: ClientId, notes: &Notes) {
        let notes = notes.clone();
        #[expect(deprecated, reason = "its successor is unsafe to call; an OwnedFd never changes its descriptor")]
        let fd = self.pidfd.as_ref().and_then(|fd| AsyncFd::new(Arc::clone(fd)).ok());
        let Some(fd) = fd else {
            // Without a pidfd the exit cannot be seen: the process counts as running, which is the safe side.
            tracing::warn!(target: AT_WILL, pid = self.pid, "the exit of a client cannot be watched");
            return;
        };
        let watch = tokio::task::spawn_local(async move {
            loop {
                let Ok(mut ready) = fd.readable().await else { return };
                if process::has_exited(fd.get_ref().as_fd()).unwrap_or(false) {
                    notes.event(Event::Exited { client });
                    return;
                }
                ready.clear_ready();
            }
        });
        self.watch.replace(Some(watch.abort_handle()));
    }

    /// Sends a signal to the process, to its group if it leads one of its own, and by and by to whoever inherited its
    /// connection: many are ended at once, and none of them waits for a look through /proc.
    pub fn kill(&self, signal: Signal, group: bool, heirs: &Heirs) {
        if let Some(pidfd) = &self.pidfd
            && let Err(error) = process::send_signal(pidfd.as_fd(), signal)
        {
            tracing::error!(pid = self.pid, %signal, %error, "a client could not be signalled");
        }
        if group && let Err(error) = process::signal_group(self.pid, signal) {
            tracing::error!(pid = self.pid, %signal, %error, "a client's process group could not be signalled");
        }
        if let Some(inode) = self.inode {
            heirs.end(inode, Named { pid: self.pid, signal });
        }
    }
}

/// Signals every process that has one of these connections open, except the one it belongs to. Somebody may be missing who was
/// passed one while we looked: the ladder's next step looks again.
pub fn signal_heirs(of: &Connections, procfs: &Procfs) {
    let look = match procfs.holders_of_sockets(&of.keys().copied().collect()) {
        Ok(look) => look,
        Err(error) => return tracing::error!(%error, "cannot tell who inherited a client's connection"),
    };
    let own = nix::unistd::getpid().as_raw();
    let mut heirs = BTreeMap::new();
    for (inode, Named { pid, signal }) in of {
        let found = look.holders.get(inode).into_iter().flat_map(|h| &h.found);
        for heir in found.filter(|h| h.pid != *pid && h.pid != own) {
            // An heir of many connections is signalled once, by the strongest of what is due.
            let due = heirs.entry(*heir).or_insert(*signal);
            if *signal == Signal::SIGKILL {
                *due = *signal;
            }
        }
    }
    for (heir, signal) in heirs {
        tracing::warn!(pid = heir.pid, %signal, "ending a process that inherited a client's connection");
        signal_identity(heir, signal, procfs);
    }
}

/// Signals a process known by identity; nothing if it is gone.
pub fn signal_identity(process: crate::procfs::ProcessId, signal: Signal, procfs: &Procfs) {
    match procfs.open(process) {
        Ok(Some(pidfd)) => {
            if let Err(error) = process::send_signal(pidfd.as_fd(), signal) {
                tracing::error!(pid = process.pid, %error, "could not be signalled");
            }
        }
        Ok(None) => {}
        Err(error) => tracing::error!(pid = process.pid, %error, "could not be found"),
    }
}

/// Those of these guarded processes that are not seen gone, each with everyone who inherited its connection. What cannot be seen is
/// not gone. One look for all.
///
/// There are always processes that may not be looked into, pid 1 of a container for one. So the kernel's own table
/// decides: a socket stays in it until its last descriptor is closed, wherever that is, in a message under way to
/// another process too. (Inodes are reused after 2^32 sockets; then we wait for a stranger, which is the safe side.)
/// The look at the processes covers a daemon whose network namespace is not its predecessor's.
pub fn left_of<'a>(guarded: &'a BTreeSet<Guarded>, procfs: &Procfs) -> Vec<&'a Guarded> {
    let gone: Vec<&Guarded> = guarded.iter().filter(|g| procfs.is_gone(id_of(g)).unwrap_or(false)).collect();
    let groups = procfs.groups_of(&leaders(&gone));
    let ended =
        |g: &Guarded| !g.group || groups.as_ref().is_ok_and(|groups| groups.get(&id_of(g)).is_none_or(Vec::is_empty));
    let open = open_sockets();
    let closed = |g: &Guarded| open.as_ref().is_some_and(|open| !open.contains(&g.connection_inode));
    let gone: Vec<&Guarded> = gone.into_iter().filter(|g| ended(g) && closed(g)).collect();
    let look = procfs.holders_of_sockets(&gone.iter().map(|g| g.connection_inode).collect());
    let over = |g: &&Guarded| look.as_ref().is_ok_and(|look| look.shows_nobody(g.connection_inode));
    let gone: Vec<&Guarded> = gone.into_iter().filter(over).collect();
    // What they queued in io_uring lands later, and is marked by the predecessor for as long.
    let marked = rings::marked_of(&gone, procfs);
    let over: BTreeSet<&Guarded> = gone.into_iter().filter(|g| !marked.contains_key(*g)).collect();
    guarded.iter().filter(|g| !over.contains(g)).collect()
}

const fn id_of(guarded: &Guarded) -> ProcessId {
    ProcessId { pid: guarded.pid, start_time: guarded.start_time }
}

fn leaders(guarded: &[&Guarded]) -> BTreeSet<ProcessId> {
    guarded.iter().filter(|g| g.group).map(|g| id_of(g)).collect()
}

/// The inodes of the unix sockets that the kernel knows. `None`: that is not known.
fn open_sockets() -> Option<BTreeSet<u64>> {
    std::fs::read_to_string("/proc/self/net/unix").ok().map(|table| listed(&table))
}

/// `Num RefCount Protocol Flags Type St Inode Path`. The path may hold line breaks; what follows them is no socket.
fn listed(table: &str) -> BTreeSet<u64> {
    let inode_in = |line: &str| line.split_whitespace().nth(6).and_then(|word| word.parse::<u64>().ok());
    table.lines().filter_map(inode_in).collect()
}

/// Signals processes that a predecessor guarded, the rest of their groups, and everyone who inherited their connections. Nothing
/// else goes on while a successor does this, so nothing waits for the look.
pub fn end(guarded: &[&Guarded], signal: Signal, procfs: &Procfs) {
    let groups = procfs.groups_of(&leaders(guarded)).unwrap_or_default();
    for id in guarded.iter().map(|g| id_of(g)) {
        let gone = procfs.is_gone(id).unwrap_or(false);
        tracing::warn!(pid = id.pid, %signal, gone, "ending what a predecessor guarded");
        // One by one, by identity: the group's number may be another's by now.
        for member in groups.get(&id).into_iter().flatten().filter(|m| **m != id) {
            signal_identity(*member, signal, procfs);
        }
        signal_identity(id, signal, procfs);
    }
    let named = |g: &&Guarded| (g.connection_inode, Named { pid: g.pid, signal });
    signal_heirs(&guarded.iter().map(named).collect(), procfs);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_socket_is_closed_when_its_last_descriptor_is() {
        let seen_closed = |_| {
            let (_ours, theirs) = UnixStream::pair().unwrap();
            let inode = crate::procfs::socket_inode(&theirs).unwrap();
            let inherited = theirs.try_clone().unwrap();
            drop(theirs);
            assert!(open_sockets().unwrap().contains(&inode));
            drop(inherited);
            !open_sockets().unwrap().contains(&inode)
        };
        // Another test's socket may have the number by then.
        assert!((0..100).any(seen_closed));
    }

    #[test]
    fn the_table_is_read_by_its_inode_column() {
        let head = "Num       RefCount Protocol Flags    Type St Inode Path\n";
        assert!(!listed(head).contains(&7));
        let line = |inode: &str| format!("{head}0000000000000000: 00000003 00000000 00000000 0001 03 {inode} /run/7\n");
        assert!(listed(&line("    7")).contains(&7));
        assert!(!listed(&line("   17")).contains(&7));
    }

    #[test]
    fn of_many_guarded_processes_those_are_left_that_run_or_whose_connection_is_open() {
        let procfs = Procfs::default();
        let mut sleeps = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let open = crate::procfs::socket_inode(&theirs).unwrap();
        let (closed, _) = UnixStream::pair().unwrap();
        let inode = crate::procfs::socket_inode(&closed).unwrap();
        drop(closed);
        let running = procfs.identity(i32::try_from(sleeps.id()).unwrap()).unwrap().unwrap();
        let of = |id: ProcessId, connection_inode, group| Guarded {
            pid: id.pid,
            start_time: id.start_time,
            connection_inode,
            group,
        };
        let another = ProcessId { start_time: running.start_time + 1, ..running };
        let runs = of(running, inode, false);
        let inherited = of(another, open, false);
        let guarded =
            BTreeSet::from([runs.clone(), inherited.clone(), of(another, inode, false), of(another, inode, true)]);
        assert_eq!(left_of(&guarded, &procfs), [&runs, &inherited]);
        end(&[&runs], Signal::SIGKILL, &procfs);
        sleeps.wait().unwrap();
        drop((ours, theirs));
        assert!(left_of(&guarded, &procfs).is_empty());
    }
}
