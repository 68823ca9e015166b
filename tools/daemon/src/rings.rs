//! Clients that write through io_uring: what they have queued may land after they are gone (S1, D2).
//!
//! While such a client uses a lease, every open file description through which it, its group or an heir of its connection may write to a disk
//! is marked ([`holdfast_io::sys::mark`]). A mark that is there when all of them are gone is a write in flight - or another process that
//! shares the description, and could write through it. Either way the client's writes are not over: its leases stay, a lost lockspace is not left,
//! and where that lasts the watchdog, unpetted, ends the host. The marks are the kernel's: they outlive this daemon, and its successor finds them.
//!
//! Where a description cannot be marked, what its device has in flight is looked at instead, as a **heuristic**: once nothing is, whatever the client
//! wrote before is over. Others may keep a device busy for ever, so that is waited for ten seconds at most, and it is said if it did not help.
//!
//! | seen | not seen, or not in time |
//! | --- | --- |
//! | block devices, opened for writing | a descriptor that was closed while the ring uses it on (registered files), or is of a thread that shares none |
//! | files opened with `O_DIRECT` on a local file system | files on a network or user-space file system; that is said in the log |
//! | rings by descriptor, mapping or kernel thread (`procfs.rs`) | what was opened within the last [`LOOK`] before its process died |
//! | heirs of a client that has exited | heirs of one that lives, within the last six looks |
//!
//! What is written through the page cache is not looked at: with or without a ring it reaches the disk when the kernel likes, and no lease
//! knows. A client that closes its connection and lives on is taken at its word after a second.
//! A client that locks all of its device, or gives such a lock back, takes its mark away until the next look.
//!
//! **NFS.** There a process ends in the middle of a write, with or without a ring: the kernel goes on without it, and sends the write again until the
//! server answers. Who was seen to have a file open there with `O_DIRECT`, for writing, and ends when its lockspace is lost, is therefore never
//! gone ([`Rings::outlived`]): the watchdog ends its host, and with it what the kernel would send. While its lockspace lives, and the storage
//! with it, the end of such a process is taken for the end of its writes, as everywhere.
//!
//! One that lives and gives back a lease keeps its descriptors, and their marks: of its writes only its devices tell something, as
//! above, by a **heuristic**: until none of those that it was seen to write to has a write in flight, its own or another's, its
//! lease is not given back, for ten seconds at most. What its ring has not handed on to a device yet is not counted there.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsFd as _;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use holdfast_io::clock::{BootClock, Clock, LocalInstant};
use holdfast_io::sys::mark::Mark;
use holdfast_io::sys::process::descriptor_of;
use nix::libc;
use nix::sys::stat::{FileStat, fstat, major, minor};

use crate::codes;
use crate::log_ring::AT_WILL;
use crate::note::Notes;
use crate::procfs::{Descriptor, ProcError, ProcessId, Procfs};
use crate::state_file::Guarded;
use crate::supervisor::event::{ClientId, Event};

/// How often the descriptors of clients that hold leases are looked at.
pub const LOOK: Duration = Duration::from_secs(5);

/// Every so many looks heirs are looked for of those as well that have not exited: that takes a look through all of /proc.
const THOROUGH: u32 = 6;

/// For so long a client's writes are waited for that has closed its connection, and lives.
const ITS_WORD: Duration = Duration::from_secs(1);

/// For so long a device is waited for to have nothing in flight: one on which a description could not be marked, or one that a client
/// may have written to that gives back a lease.
const DRAIN: Duration = Duration::from_secs(10);

/// Between two looks at the marks of those that are gone: at first, and at most.
const PAUSE: Duration = Duration::from_millis(50);
const LONG_PAUSE: Duration = Duration::from_secs(1);

/// Between two looks at what the devices of one that lives have in flight: others may keep them busy nearly always.
const GLANCE: Duration = Duration::from_millis(10);

/// Between two words about one that is gone, or about a look that hangs.
const SAY: Duration = Duration::from_secs(30);

/// So many looks have to agree that a mark is gone: the kernel shows its table piece by piece, and who is removed from it
/// meanwhile moves the others up, one of them perhaps unseen.
const AGREE: u32 = 3;

/// File systems on which a lock is a matter of this host, and asking for one never hangs.
const LOCAL: [&str; 13] =
    ["devtmpfs", "tmpfs", "ramfs", "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs", "zfs", "overlay", "jfs"];

/// File systems on which a process ends though a write of it is under way.
const OUTLIVING: [&str; 2] = ["nfs", "nfs4"];

/// Somebody whose writes matter.
#[derive(Clone, Debug)]
pub struct User {
    /// It, as the state file names it.
    pub process: Guarded,
    /// Its process has exited, and others have its connection.
    pub inherited: bool,
}

/// A device, major and minor number.
type Device = (u64, u64);

/// What this daemon knows of clients with an io_uring.
#[derive(Clone, Default)]
pub struct Rings(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    looks: u32,
    /// It is being found out who is to be looked at, since then; that this hangs was said.
    scanning: Option<LocalInstant>,
    hangs: bool,
    /// Those that are being looked at. A look that hangs in one of them keeps no other from being looked at.
    looked_at: BTreeSet<Mark>,
    /// Those of whom a description was ever marked, or was about to be: of no other there is a mark.
    marked: BTreeSet<Mark>,
    /// The devices through which they were seen to write.
    devices: BTreeMap<Mark, BTreeSet<Device>>,
    /// Devices of those of whom one could not be.
    unmarked: BTreeMap<Mark, BTreeSet<Device>>,
    /// Through what those write whose writes go on without them, as somebody reads it.
    outliving: BTreeMap<Mark, String>,
    /// Who else has the connections of those that were looked at, as of the latest look: their pids by the inodes of these.
    heirs: BTreeMap<u64, Vec<i32>>,
    /// Those of whom it was said that not all can be seen.
    told: BTreeSet<Mark>,
}

impl Rings {
    /// Marks what these write through, on a thread of its own: a look may hang where a process does.
    pub fn look(&self, users: Vec<User>, now: LocalInstant) {
        let Some(thorough) = self.begins(now) else { return };
        let rings = self.clone();
        let look = move || rings.mark_all(&users, thorough, &Procfs::default());
        if let Err(error) = std::thread::Builder::new().name("rings".into()).spawn(look) {
            self.seen().scanning = None;
            tracing::error!(%error, "no thread to look for clients that use io_uring");
        }
    }

    /// Marks what is left of a predecessor's clients before it is ended; not for longer than a second.
    pub fn look_at_the_left(guarded: &[&Guarded]) {
        let user = |g: &&Guarded| User { process: (*g).clone(), inherited: true };
        let (users, (over, is_over)) = (guarded.iter().map(user).collect::<Vec<_>>(), mpsc::channel());
        let look = move || {
            Rings::default().mark_all(&users, true, &Procfs::default());
            // Nobody waits any more, if it took too long.
            let _ = over.send(());
        };
        match std::thread::Builder::new().name("rings".into()).spawn(look) {
            Ok(_) if is_over.recv_timeout(ITS_WORD).is_ok() => {}
            _ => tracing::warn!(
                "what a predecessor's clients write through could not be looked at before they are ended"
            ),
        }
    }

    /// Whether there may be a mark of this one, or a device to be looked at.
    #[must_use]
    pub fn knows(&self, process: &Guarded) -> bool {
        self.seen().marked.contains(&mark_of(process))
    }

    /// Through what a write of this one may be under way when it has ended.
    #[must_use]
    pub fn outlived(&self, process: &Guarded) -> Option<String> {
        self.seen().outliving.get(&mark_of(process)).cloned()
    }

    /// The processes that had the connection with this inode when its heirs were last looked for, but for its client's own.
    #[must_use]
    pub fn heirs_of(&self, inode: u64) -> Vec<i32> {
        self.seen().heirs.get(&inode).cloned().unwrap_or_default()
    }

    /// A client that lives gives back a lease: what is to be waited for before. `None`: nothing.
    #[must_use]
    pub fn drain(&self, of: &Guarded) -> Option<Drain> {
        let mark = mark_of(of);
        let mut busy = self.seen().devices.get(&mark).cloned()?;
        busy.retain(|device| {
            let count = in_flight(*device);
            if count.is_none() {
                self.tell(mark, &format!("device {device:?} does not say what it has in flight"));
            }
            count.is_some_and(|writes| writes > 0)
        });
        (!busy.is_empty()).then_some(Drain { pid: of.pid, busy })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a look can begin, and is a thorough one: nobody is still finding out whom the last one is for.
    fn begins(&self, now: LocalInstant) -> Option<bool> {
        let mut seen = self.seen();
        if let Some(since) = seen.scanning {
            if now.since(since) >= SAY && !std::mem::replace(&mut seen.hangs, true) {
                tracing::warn!("a look for clients that use io_uring hangs: until it is over there is no other");
            }
            return None;
        }
        (seen.scanning, seen.hangs) = (Some(now), false);
        seen.looks = seen.looks.wrapping_add(1);
        Some(seen.looks % THOROUGH == 1)
    }

    fn mark_all(&self, users: &[User], thorough: bool, procfs: &Procfs) {
        let found = {
            let _over = Over(|| self.seen().scanning = None);
            everybody(users, thorough, procfs)
        };
        self.note_heirs(users, &found);
        for Found { mark, processes, unseen, .. } in found {
            if self.seen().looked_at.insert(mark) {
                let _over = Over(|| {
                    self.seen().looked_at.remove(&mark);
                });
                unseen.into_iter().for_each(|why| self.tell(mark, &why));
                for process in processes {
                    if let Err(error) = self.mark_process(process, mark, procfs) {
                        self.tell(mark, &codes::chain(&error));
                    }
                }
            }
        }
    }

    /// Those of whom no heirs were looked for this time have those of the time before.
    fn note_heirs(&self, users: &[User], found: &[Found]) {
        let users: BTreeSet<u64> = users.iter().map(|user| user.process.connection_inode).collect();
        let mut seen = self.seen();
        seen.heirs.retain(|inode, _| users.contains(inode));
        seen.heirs.extend(found.iter().filter_map(|found| found.heirs.clone()));
    }

    fn mark_process(&self, process: ProcessId, mark: Mark, procfs: &Procfs) -> Result<(), ProcError> {
        if let Some(through) = outliving(process.pid, procfs)? {
            self.seen().outliving.insert(mark, through);
        }
        if !procfs.has_io_uring(process.pid)? {
            return Ok(());
        }
        let Some(pidfd) = procfs.open(process)? else { return Ok(()) };
        let mut mounts = procfs.mounts_of(nix::unistd::getpid().as_raw())?;
        mounts.extend(procfs.mounts_of(process.pid)?);
        for descriptor in procfs.written_through(process.pid)? {
            if descriptor.marks.contains(&mark) {
                self.seen().marked.insert(mark);
                // Perhaps by a predecessor of this daemon, which has not told its device.
                let device =
                    procfs.leads_to(process.pid, descriptor.number).and_then(|s| disk_of(&s, descriptor.direct));
                self.seen().devices.entry(mark).or_default().extend(device);
                continue;
            }
            let kind = mounts.get(&descriptor.mount).map(String::as_str);
            if !kind.is_some_and(|kind| LOCAL.contains(&kind)) {
                if descriptor.direct {
                    self.tell(
                        mark,
                        &format!("descriptor {} is on {}", descriptor.number, kind.unwrap_or("an unknown mount")),
                    );
                }
                continue;
            }
            // One that cannot be had says nothing of the others.
            match descriptor_of(pidfd.as_fd(), descriptor.number) {
                Ok(Some(same)) => self.mark_description(&same, mark, process.pid, &descriptor, procfs),
                Ok(None) => {}
                Err(error) => self.tell(mark, &format!("descriptor {}: {error}", descriptor.number)),
            }
        }
        Ok(())
    }

    fn mark_description(&self, same: &std::os::fd::OwnedFd, mark: Mark, pid: i32, of: &Descriptor, procfs: &Procfs) {
        let Ok(stat) = fstat(same) else { return };
        let Some(device) = disk_of(&stat, of.direct) else { return };
        // Known before it is there: its process may end at any moment.
        self.seen().marked.insert(mark);
        self.seen().devices.entry(mark).or_default().insert(device);
        let put = mark.put_on(same);
        // A lock of its own over all of the file swallows the mark.
        let shows = || procfs.descriptor(pid, of.number).ok().flatten().is_none_or(|d| d.marks.contains(&mark));
        let why = match put {
            Ok(()) if shows() => return,
            Ok(()) => "it is locked as a whole".to_owned(),
            Err(error) => error.to_string(),
        };
        self.seen().unmarked.entry(mark).or_default().insert(device);
        self.tell(mark, &format!("descriptor {} cannot be marked, and only its device is looked at: {why}", of.number));
    }

    /// Once for each client.
    fn tell(&self, mark: Mark, why: &str) {
        if self.seen().told.insert(mark) {
            tracing::warn!(target: AT_WILL, %mark, why, "the end of what a client writes through io_uring may not be seen");
        }
    }

    /// Devices on which this one has something that could not be marked.
    fn unmarked(&self, of: &Guarded) -> BTreeSet<Device> {
        self.seen().unmarked.get(&mark_of(of)).cloned().unwrap_or_default()
    }

    /// It is over, with all of its writes.
    pub fn forget(&self, of: &Guarded) {
        let (mut seen, mark) = (self.seen(), mark_of(of));
        seen.outliving.remove(&mark);
        seen.marked.remove(&mark);
        seen.devices.remove(&mark);
        seen.unmarked.remove(&mark);
        seen.told.remove(&mark);
    }
}

/// A look that panics must not be the last one: what ends with it ends all the same.
struct Over<F: FnMut()>(F);

impl<F: FnMut()> Drop for Over<F> {
    fn drop(&mut self) {
        self.0();
    }
}

/// Whom a look is at for a user.
struct Found {
    mark: Mark,
    /// Itself, its group, and who has its connection.
    processes: BTreeSet<ProcessId>,
    /// What could not be found out.
    unseen: Option<String>,
    /// Its connection, and who else has it. `None`: that was not looked for, or not to be seen.
    heirs: Option<(u64, Vec<i32>)>,
}

/// For each user, whom to look at. Through all of /proc heirs are looked for of these alone that have exited, unless it is a thorough look.
fn everybody(users: &[User], thorough: bool, procfs: &Procfs) -> Vec<Found> {
    let leaders = users.iter().filter(|u| u.process.group).map(|u| id_of(&u.process)).collect();
    let groups = procfs.groups_of(&leaders);
    let shared = |u: &&User| thorough || u.inherited;
    let connections = users.iter().filter(shared).map(|u| u.process.connection_inode).collect();
    let heirs = procfs.holders_of_sockets(&connections);
    let error = groups.as_ref().err().or(heirs.as_ref().err()).map(|error| codes::chain(error));
    let (groups, heirs) = (groups.unwrap_or_default(), heirs.map(|look| look.holders).unwrap_or_default());
    let own = nix::unistd::getpid().as_raw();
    let of = |user: &User| {
        let (id, inode) = (id_of(&user.process), user.process.connection_inode);
        let members = groups.get(&id).into_iter().flatten();
        let have_it = heirs.get(&inode).map(|h| h.found.as_slice());
        let all =
            members.chain(have_it.into_iter().flatten()).copied().chain([id]).filter(|process| process.pid != own);
        let others = |all: &[ProcessId]| all.iter().filter(|p| **p != id && p.pid != own).map(|p| p.pid).collect();
        let heirs = have_it.map(|all| (inode, others(all)));
        Found { mark: mark_of(&user.process), processes: all.collect(), unseen: error.clone(), heirs }
    };
    users.iter().map(of).collect()
}

/// What a process has open, with `O_DIRECT`, where its end is not the end of its writes.
fn outliving(pid: i32, procfs: &Procfs) -> Result<Option<String>, ProcError> {
    let mounts = procfs.mounts_of(pid)?;
    let is_such = |kind: &&String| OUTLIVING.contains(&kind.as_str());
    if !mounts.values().any(|kind| is_such(&kind)) {
        return Ok(None);
    }
    let mut open = procfs.written_through(pid)?.into_iter().filter(|descriptor| descriptor.direct);
    Ok(open.find_map(|it| {
        let kind = mounts.get(&it.mount).filter(is_such)?;
        Some(format!("descriptor {} of process {pid}, on {kind}", it.number))
    }))
}

/// The disk that is written through such a description, if one is.
fn disk_of(stat: &FileStat, direct: bool) -> Option<Device> {
    let device = |number| (major(number), minor(number));
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFBLK => Some(device(stat.st_rdev)),
        libc::S_IFREG if direct => Some(device(stat.st_dev)),
        _ => None,
    }
}

/// A wait for the devices of a client that lives.
///
/// Crash, hang or pause here: its lease is held meanwhile, and nothing was written to give it back.
#[derive(Debug)]
pub struct Drain {
    pid: i32,
    /// Those that were not seen idle yet.
    busy: BTreeSet<Device>,
}

impl Drain {
    /// Waits until each of the devices was seen with no write in flight, and says whether that was in time.
    pub async fn over(mut self, clock: &BootClock) -> bool {
        let (pid, began) = (self.pid, clock.now());
        tracing::info!(target: AT_WILL, pid, devices = ?self.busy, "a client with an io_uring gives back a lease: what its devices have in flight is waited for");
        while !self.busy.is_empty() {
            if clock.now().since(began) >= DRAIN {
                tracing::warn!(pid, devices = ?self.busy, "devices that a client writes to through io_uring are never idle: it gives back a lease, and is taken at its word");
                return false;
            }
            clock.sleep(GLANCE).await;
            // One that is there no more has nothing in flight.
            self.busy.retain(|device| in_flight(*device).is_some_and(|writes| writes > 0));
        }
        true
    }
}

/// Those whose writes are waited for, all of them by one task: the kernel's table is read once for all.
///
/// Crash, hang or pause here: the marks are the kernel's and tell the next daemon the same. What cannot be seen is not over.
pub struct Ends {
    rings: Rings,
    procfs: Procfs,
    waiting: Rc<RefCell<Vec<Waiting>>>,
}

struct Waiting {
    client: ClientId,
    of: Guarded,
    /// What [`Event::WritesOver`] answers.
    exited: bool,
    began: LocalInstant,
    said: Option<LocalInstant>,
    /// Devices that were not seen idle yet, of those on which something could not be marked.
    busy: BTreeSet<Device>,
}

impl Ends {
    /// Nobody waits.
    #[must_use]
    pub fn new(rings: Rings) -> Self {
        Ends { rings, procfs: Procfs::default(), waiting: Rc::default() }
    }

    /// Reports [`Event::WritesOver`] when nothing of a client is in flight any more; `exited` is what it answers.
    pub fn wait(&self, client: ClientId, of: Guarded, exited: bool, notes: &Notes, clock: &BootClock) {
        let busy = self.rings.unmarked(&of);
        let mut waiting = self.waiting.borrow_mut();
        waiting.push(Waiting { client, of, exited, began: clock.now(), said: None, busy });
        if waiting.len() == 1 {
            let ends =
                Ends { rings: self.rings.clone(), procfs: self.procfs.clone(), waiting: Rc::clone(&self.waiting) };
            tokio::task::spawn_local(ends.watch(notes.clone(), clock.clone()));
        }
    }

    async fn watch(self, notes: Notes, clock: BootClock) {
        loop {
            let now = clock.now();
            let over = self.look(now);
            over.iter().filter(|w| w.exited).for_each(|w| self.rings.forget(&w.of));
            over.into_iter().for_each(|w| notes.event(Event::WritesOver { client: w.client, exited: w.exited }));
            let newest = self.waiting.borrow().iter().map(|w| now.since(w.began)).min();
            let Some(newest) = newest else { return };
            clock.sleep((newest / 8).clamp(PAUSE, LONG_PAUSE)).await;
        }
    }

    /// Takes out those whose writes are over.
    fn look(&self, now: LocalInstant) -> Vec<Waiting> {
        let mut waiting = self.waiting.borrow_mut();
        let marked = marked_of(&waiting.iter().map(|w| &w.of).collect::<Vec<_>>(), &self.procfs);
        let mut over = Vec::new();
        for mut one in std::mem::take(&mut *waiting) {
            let is_over = one.is_over(marked.get(&one.of).map(String::as_str), now, &self.procfs);
            if is_over { over.push(one) } else { waiting.push(one) }
        }
        over
    }
}

impl Waiting {
    fn is_over(&mut self, marked: Option<&str>, now: LocalInstant, procfs: &Procfs) -> bool {
        match marked {
            Some(through) => self.say(through, now),
            None => self.drain(now),
        }
        marked.is_none() && self.busy.is_empty() || self.is_taken_at_its_word(now, procfs)
    }

    fn say(&mut self, through: &str, now: LocalInstant) {
        let long = now.since(self.began);
        if long >= ITS_WORD && self.exited && self.said.is_none_or(|said| now.since(said) >= SAY) {
            self.said = Some(now);
            let find = format!("grep -l {} /proc/[0-9]*/fdinfo/*", mark_of(&self.of));
            tracing::warn!(
                pid = self.of.pid,
                through,
                for_s = long.as_secs(),
                find,
                "a client is gone, and what it queued in io_uring is in flight still, or another process shares its open device: its leases stay"
            );
        }
    }

    /// Strikes out the devices that have nothing in flight, and in the end all.
    fn drain(&mut self, now: LocalInstant) {
        self.busy.retain(|device| in_flight(*device) != Some(0));
        if !self.busy.is_empty() && now.since(self.began) >= DRAIN {
            tracing::warn!(pid = self.of.pid, devices = ?self.busy, "devices that a client wrote to through io_uring are never idle: its writes are taken to be over");
            self.busy.clear();
        }
    }

    /// It has closed its connection and lives. One that did so because it is dying is waited for.
    fn is_taken_at_its_word(&self, now: LocalInstant, procfs: &Procfs) -> bool {
        let lives = || !procfs.is_ending(id_of(&self.of)).unwrap_or(true);
        let taken = !self.exited && now.since(self.began) >= ITS_WORD && lives();
        if taken {
            tracing::info!(target: AT_WILL, pid = self.of.pid, "a client with an io_uring has closed its connection and lives on: taken at its word");
        }
        taken
    }
}

/// Writes that a device has in flight. `None`: nobody knows.
fn in_flight((major, minor): Device) -> Option<u64> {
    let counts = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/inflight")).ok()?;
    counts.split_whitespace().nth(1)?.parse().ok()
}

/// Those of these of which something is marked, and through what; all of them, if that cannot be seen.
pub fn marked_of<'a>(these: &[&'a Guarded], procfs: &Procfs) -> BTreeMap<Guarded, String> {
    let mut marked = BTreeMap::new();
    for _ in 0..AGREE {
        let left = these.iter().filter(|g| !marked.contains_key(**g)).copied().collect::<Vec<&'a Guarded>>();
        if left.is_empty() {
            break;
        }
        let found = procfs.marks();
        let through = |g: &Guarded| match &found {
            Ok(marks) => marks.get(&mark_of(g)).cloned(),
            Err(error) => Some(codes::chain(error)),
        };
        marked.extend(left.into_iter().filter_map(|g| Some((g.clone(), through(g)?))));
    }
    marked
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

    fn this_process() -> Guarded {
        let id = Procfs::default().identity(nix::unistd::getpid().as_raw()).unwrap().unwrap();
        Guarded { pid: id.pid, start_time: id.start_time, connection_inode: 0, group: false }
    }

    /// Watches for this process's writes, with its mark on a file, until they are over; after `closes` the file is closed.
    fn watched(exited: bool, closes: Option<Duration>) -> Duration {
        let of = this_process();
        let file = tempfile::tempfile().unwrap();
        mark_of(&of).put_on(&file).unwrap();
        let (notes, mut told) = Notes::<Linux>::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async move {
            let clock = BootClock::new().unwrap();
            let began = clock.now();
            let ends = Ends::new(Rings::default());
            ends.wait(ClientId(1), of, exited, &notes, &clock);
            if let Some(after) = closes {
                clock.sleep(after).await;
                assert!(told.try_recv().is_err(), "not while it is marked");
                drop(file);
            }
            let Some(Note::Event(event)) = told.recv().await else { panic!("nothing") };
            assert!(
                matches!(*event, Event::WritesOver { client: ClientId(1), exited: answered } if answered == exited)
            );
            clock.now().since(began)
        })
    }

    /// A process 100 with one file, opened with these flags, on a file system of this kind.
    fn with_a_file_on(kind: &str, flags: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let process = root.path().join("100");
        for directory in ["fd", "fdinfo"] {
            fs::create_dir_all(process.join(directory)).unwrap();
        }
        std::os::unix::fs::symlink("/images/vm", process.join("fd/7")).unwrap();
        fs::write(process.join("fdinfo/7"), format!("pos:\t0\nflags:\t{flags}\nmnt_id:\t41\n")).unwrap();
        let mounts = format!(
            "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n41 22 0:37 / /images rw shared:1 - {kind} server:/ rw,hard\n"
        );
        fs::write(process.join("mountinfo"), mounts).unwrap();
        root
    }

    #[test]
    fn whose_writes_go_on_without_it_is_known_by_what_it_has_open_on_nfs() {
        let found = |kind, flags| outliving(100, &Procfs::at(with_a_file_on(kind, flags).path())).unwrap();
        let (direct_and_writes, direct_and_reads, buffered) = ("0140002", "0140000", "0100002");
        for kind in OUTLIVING {
            assert_eq!(found(kind, direct_and_writes), Some(format!("descriptor 7 of process 100, on {kind}")));
            assert_eq!((found(kind, direct_and_reads), found(kind, buffered)), (None, None));
        }
        assert_eq!(found("xfs", direct_and_writes), None);
        let nobody = Procfs::at(tempfile::tempdir().unwrap().path());
        assert_eq!(outliving(100, &nobody).unwrap(), None);
    }

    // One test: what is marked is this process, and there is one of it.
    #[test]
    fn a_client_that_is_gone_is_waited_for_while_its_mark_is_there_and_one_that_lives_is_taken_at_its_word() {
        let long = ITS_WORD * 2;
        assert!(watched(true, Some(long)) >= long);
        assert!(watched(false, None) >= ITS_WORD);
        assert!(marked_of(&[&this_process()], &Procfs::default()).is_empty());
        let nowhere = Procfs::at(std::path::Path::new("/nowhere"));
        assert_eq!(marked_of(&[&this_process()], &nowhere).len(), 1, "what cannot be seen is not over");
    }

    #[test]
    fn a_device_has_a_count_and_what_is_none_has_not() {
        let mut devices = fs::read_dir("/sys/dev/block").unwrap().flatten();
        let known = devices.find_map(|entry| {
            let (major, minor) =
                entry.file_name().to_str()?.split_once(':').map(|(a, b)| (a.to_owned(), b.to_owned()))?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        });
        assert!(known.is_none_or(|device| in_flight(device).is_some()));
        assert_eq!(in_flight((0, 123)), None);
    }
}
