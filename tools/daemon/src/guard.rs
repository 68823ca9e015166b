//! Processes under guard: who is behind a connection, when it exits, and how it is ended.

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use holdfast_io::sys::process;
use nix::sys::signal::Signal;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::task::AbortHandle;

use crate::note::Notes;
use crate::procfs::{ProcessId, Procfs};
use crate::sock_diag;
use crate::state_file::Guarded;
use crate::supervisor::event::{ClientId, Event};

/// What is needed to identify the process behind a connection later, kept from the moment it connected.
pub struct Peer {
    pid: i32,
    uid: u32,
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
        let pidfd = process::peer_pidfd(stream).ok().flatten().map(Arc::new);
        let inode = match sock_diag::peer_inode(stream) {
            Ok(inode) => inode,
            Err(error) => {
                tracing::warn!(pid, %error, "cannot tell which processes share a connection");
                None
            }
        };
        Some(Peer { pid, uid, pidfd, inode, watch: RefCell::default() })
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
            tracing::warn!(pid = self.pid, "the exit of a client cannot be watched");
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

    /// Sends a signal to the process, to its group if it leads one of its own, and to whoever inherited its connection.
    pub fn kill(&self, signal: Signal, group: bool, procfs: &Procfs) {
        if let Some(pidfd) = &self.pidfd
            && let Err(error) = process::send_signal(pidfd.as_fd(), signal)
        {
            tracing::error!(pid = self.pid, %signal, %error, "a client could not be signalled");
        }
        if group && let Err(error) = process::signal_group(self.pid, signal) {
            tracing::error!(pid = self.pid, %signal, %error, "a client's process group could not be signalled");
        }
        if let Some(inode) = self.inode {
            signal_heirs(inode, self.pid, signal, procfs);
        }
    }
}

/// Signals every process that has a connection open, except the one it belongs to.
pub fn signal_heirs(inode: u64, but: i32, signal: Signal, procfs: &Procfs) {
    match procfs.holders_of_socket(inode) {
        Ok(holders) => {
            let own = nix::unistd::getpid().as_raw();
            for heir in holders.found.iter().filter(|h| h.pid != but && h.pid != own) {
                tracing::warn!(pid = heir.pid, %signal, "ending a process that inherited a client's connection");
                signal_identity(*heir, signal, procfs);
            }
        }
        Err(error) => tracing::error!(%error, "cannot tell who inherited a client's connection"),
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

/// Whether a guarded process and everyone who inherited its connection are seen gone. What cannot be seen is not gone.
///
/// There are always processes that may not be looked into, pid 1 of a container for one. So the kernel's own table
/// decides: a socket stays in it until its last descriptor is closed, wherever that is, in a message under way to
/// another process too. (Inodes are reused after 2^32 sockets; then we wait for a stranger, which is the safe side.)
/// The look at the processes covers a daemon whose network namespace is not its predecessor's.
pub fn is_over(guarded: &Guarded, procfs: &Procfs) -> bool {
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

/// Signals a process that a predecessor guarded, the rest of its group, and everyone who inherited its connection.
pub fn end(guarded: &Guarded, signal: Signal, procfs: &Procfs) {
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
