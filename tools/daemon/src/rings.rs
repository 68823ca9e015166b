//! Clients that write through io_uring: what they have queued may land after they are gone (S1, D2).
//!
//! While such a client uses a lease, every open file description through which it, its group or an heir of its connection may write to a disk
//! is marked ([`holdfast_io::sys::mark`]). A mark that is there when all of them are gone is a write in flight - or another process that
//! shares the description, and could write through it. Either way the client's writes are not over: its leases stay, a lost lockspace is not left,
//! and where that lasts the watchdog, unpetted, ends the host. The marks are the kernel's: they outlive this daemon, and its successor finds them.
//!
//! | seen | not seen, or not in time |
//! | --- | --- |
//! | block devices, opened for writing | a descriptor that was closed while the ring uses it on (registered files), or is of a thread that shares none |
//! | files opened with `O_DIRECT` on a local file system | files on a network or user-space file system; that is said in the log |
//! | rings by descriptor, mapping or kernel thread (`procfs.rs`) | what was opened within the last [`LOOK`] before its process died |
//!
//! What is written through the page cache is not looked at: with or without a ring it reaches the disk when the kernel likes, and no lease
//! knows. A client that closes its connection and lives on is taken at its word after a second, as one is that gives back a lease itself.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_io::clock::{BootClock, Clock, LocalInstant};
use holdfast_io::sys::mark::Mark;
use holdfast_io::sys::process::descriptor_of;
use nix::libc;
use nix::sys::stat::fstat;

use crate::codes;
use crate::log_ring::AT_WILL;
use crate::note::Notes;
use crate::procfs::{Descriptor, ProcError, ProcessId, Procfs};
use crate::state_file::Guarded;
use crate::supervisor::event::{ClientId, Event};

/// How often the descriptors of clients that hold leases are looked at.
pub const LOOK: Duration = Duration::from_secs(5);

/// For so long a client's writes are waited for that has closed its connection, and lives.
const ITS_WORD: Duration = Duration::from_secs(1);

/// Between two looks at the marks of a client that is gone, and between two words about it or about a look that hangs.
const PAUSE: Duration = Duration::from_millis(50);
const SAY: Duration = Duration::from_secs(30);

/// So many looks have to agree that a mark is gone: the kernel shows its table piece by piece, and who is removed from it
/// meanwhile moves the others up, one of them perhaps unseen.
const AGREE: u32 = 3;

/// File systems on which a lock is a matter of this host, and asking for one never hangs.
const LOCAL: [&str; 13] =
    ["devtmpfs", "tmpfs", "ramfs", "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs", "zfs", "overlay", "jfs"];

/// Somebody whose writes matter.
#[derive(Clone, Debug)]
pub struct User {
    /// It, as the state file names it.
    pub process: Guarded,
    /// Its process has exited, and others have its connection.
    pub inherited: bool,
}

/// The marks that this daemon has put.
#[derive(Clone, Default)]
pub struct Rings(Arc<Shared>);

#[derive(Default)]
struct Shared(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    /// A look goes on, since then.
    looking: Option<LocalInstant>,
    /// That it hangs was said.
    hangs: bool,
    /// Those of whom any description was ever marked: of no other there is a mark.
    marked: BTreeSet<Mark>,
    /// Those of whom it was said that not all can be seen.
    told: BTreeSet<Mark>,
}

impl Rings {
    /// Marks what these write through, on a thread of its own: a look may hang where a process does. Then there are no others, and
    /// what was marked before stays so.
    pub fn look(&self, users: Vec<User>, now: LocalInstant) {
        if !self.0.begins(now) {
            return;
        }
        let rings = self.clone();
        let look = move || {
            let _over = Over(&rings.0);
            rings.mark_all(&users, &Procfs::default());
        };
        if let Err(error) = std::thread::Builder::new().name("rings".into()).spawn(look) {
            self.0.seen().looking = None;
            tracing::error!(%error, "no thread to look for clients that use io_uring");
        }
    }

    /// Whether anything of this one was ever marked.
    #[must_use]
    pub fn knows(&self, process: &Guarded) -> bool {
        self.0.seen().marked.contains(&mark_of(process))
    }

    fn mark_all(&self, users: &[User], procfs: &Procfs) {
        let leaders = users.iter().filter(|u| u.process.group).map(|u| id_of(&u.process)).collect();
        let groups = procfs.groups_of(&leaders).unwrap_or_default();
        let connections = users.iter().filter(|u| u.inherited).map(|u| u.process.connection_inode).collect();
        let heirs = procfs.holders_of_sockets(&connections).map(|look| look.holders).unwrap_or_default();
        for user in users {
            let (id, mark) = (id_of(&user.process), mark_of(&user.process));
            let members = groups.get(&id).into_iter().flatten();
            let heirs = heirs.get(&user.process.connection_inode).filter(|_| user.inherited);
            let all: BTreeSet<ProcessId> =
                members.chain(heirs.into_iter().flat_map(|h| &h.found)).copied().chain([id]).collect();
            for process in all {
                match mark_process(process, mark, procfs) {
                    Ok(Marked { any, unseen }) => self.0.note(mark, process, any, unseen),
                    Err(error) => self.0.note(mark, process, false, Some(codes::chain(&error))),
                }
            }
        }
    }
}

impl Shared {
    /// Whether a look can begin: none goes on.
    fn begins(&self, now: LocalInstant) -> bool {
        let mut seen = self.seen();
        let Some(since) = seen.looking else {
            (seen.looking, seen.hangs) = (Some(now), false);
            return true;
        };
        if now.since(since) >= SAY && !std::mem::replace(&mut seen.hangs, true) {
            tracing::warn!(
                for_s = now.since(since).as_secs(),
                "a look for clients that use io_uring hangs: until it is over there is no other"
            );
        }
        false
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, mark: Mark, process: ProcessId, any: bool, unseen: Option<String>) {
        let mut seen = self.seen();
        if any {
            seen.marked.insert(mark);
        }
        if let Some(why) = unseen.filter(|_| seen.told.insert(mark)) {
            tracing::warn!(target: AT_WILL, pid = process.pid, why,
                "a client uses io_uring, or may: the end of what it writes cannot be seen, and its end is taken for that");
        }
    }
}

/// A look that panics must not be the last one.
struct Over<'a>(&'a Shared);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.seen().looking = None;
    }
}

/// What a look at one process has come to.
#[derive(Debug, Default)]
struct Marked {
    /// Something has the mark.
    any: bool,
    /// Something should have it and cannot, and why.
    unseen: Option<String>,
}

fn mark_process(process: ProcessId, mark: Mark, procfs: &Procfs) -> Result<Marked, ProcError> {
    let mut marked = Marked::default();
    if !procfs.has_io_uring(process.pid)? {
        return Ok(marked);
    }
    let Some(pidfd) = procfs.open(process)? else { return Ok(marked) };
    let mounts = procfs.mounts_of(process.pid)?;
    for descriptor in procfs.written_through(process.pid)? {
        let Some(kind) = mounts.get(&descriptor.mount) else { continue };
        if descriptor.marks.contains(&mark) {
            marked.any = true;
        } else if LOCAL.contains(&kind.as_str()) {
            let Some(same) = descriptor_of(pidfd.as_fd(), descriptor.number)? else { continue };
            let reaches_a_disk = fstat(&same).is_ok_and(|stat| match stat.st_mode & libc::S_IFMT {
                libc::S_IFBLK => true,
                libc::S_IFREG => descriptor.direct,
                _ => false,
            });
            match mark.put_on(&same) {
                _ if !reaches_a_disk => {}
                Ok(()) => marked.any = true,
                Err(error) => marked.unseen = Some(unmarked(&descriptor, &error)),
            }
        } else if descriptor.direct {
            marked.unseen = Some(unmarked(&descriptor, &format!("it is on {kind}")));
        }
    }
    Ok(marked)
}

fn unmarked(descriptor: &Descriptor, why: &dyn std::fmt::Display) -> String {
    format!("descriptor {} cannot be marked: {why}", descriptor.number)
}

/// Reports [`Event::WritesOver`] when nothing of a client is in flight any more; `exited` is what it answers.
///
/// Crash, hang or pause here: the mark is the kernel's and tells the next daemon the same. What cannot be seen is not over.
pub async fn watch(client: ClientId, of: Guarded, exited: bool, notes: Notes, clock: BootClock) {
    let procfs = Procfs::default();
    let (began, mut said) = (clock.now(), None);
    while let Some(through) = still_marked(&of, &procfs) {
        let now = clock.now();
        let long = now.since(began) >= ITS_WORD;
        // One that closed its connection because it died is waited for.
        if long && !exited && !procfs.is_gone(id_of(&of)).unwrap_or(true) {
            tracing::info!(target: AT_WILL, pid = of.pid, "a client with an io_uring has closed its connection and lives on: taken at its word");
            break;
        }
        if long && exited && said.is_none_or(|said| now.since(said) >= SAY) {
            said = Some(now);
            let for_s = now.since(began).as_secs();
            tracing::warn!(
                pid = of.pid,
                through,
                for_s,
                "a client is gone, and what it queued in io_uring is in flight still, or another process shares its open device: its leases stay"
            );
        }
        clock.sleep(PAUSE).await;
    }
    notes.event(Event::WritesOver { client, exited });
}

/// Through what something of it may be in flight.
fn still_marked(of: &Guarded, procfs: &Procfs) -> Option<String> {
    let mut marks = (0..AGREE).map(|_| marks_of(std::slice::from_ref(&of), procfs));
    marks.find_map(|found| match found {
        Ok(found) => found.into_values().next(),
        Err(error) => Some(codes::chain(&error)),
    })
}

/// Those of these of which something is marked, and through what.
///
/// # Errors
/// It cannot be seen.
pub fn marks_of<'a>(these: &[&'a Guarded], procfs: &Procfs) -> Result<BTreeMap<&'a Guarded, String>, ProcError> {
    let marks = procfs.marks()?;
    Ok(these.iter().filter_map(|g| Some((*g, marks.get(&mark_of(g))?.clone()))).collect())
}

const fn id_of(guarded: &Guarded) -> ProcessId {
    ProcessId { pid: guarded.pid, start_time: guarded.start_time }
}

fn mark_of(guarded: &Guarded) -> Mark {
    Mark::of(guarded.pid, guarded.start_time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::Linux;
    use crate::note::Note;

    /// Watches for this process's writes, with a mark of its own on a file, for longer than its word is waited for. Whether they
    /// were over by then, and are once the file is closed.
    fn watched(exited: bool) -> [bool; 2] {
        let id = Procfs::default().identity(nix::unistd::getpid().as_raw()).unwrap().unwrap();
        let of = Guarded { pid: id.pid, start_time: id.start_time, connection_inode: 0, group: false };
        let file = tempfile::tempfile().unwrap();
        mark_of(&of).put_on(&file).unwrap();
        let (notes, mut told) = Notes::<Linux>::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async move {
            let clock = BootClock::new().unwrap();
            let watch = tokio::task::spawn_local(watch(ClientId(1), of, exited, notes, clock.clone()));
            clock.sleep(ITS_WORD + PAUSE * 4).await;
            let mut is_over = || {
                let Ok(Note::Event(event)) = told.try_recv() else { return false };
                matches!(*event, Event::WritesOver { client: ClientId(1), exited: answered } if answered == exited)
            };
            let before = is_over();
            drop(file);
            watch.await.unwrap();
            [before, before || is_over()]
        })
    }

    // One test: what is marked is this process, and there is one of it.
    #[test]
    fn a_client_that_is_gone_is_waited_for_while_its_mark_is_there_and_one_that_lives_is_taken_at_its_word() {
        assert_eq!(watched(true), [false, true]);
        assert_eq!(watched(false), [true, true]);
    }
}
