//! What /proc tells about processes: who they are, who their parents are, which sockets and rings they hold.
//!
//! A pid is reused; a pid together with the instant its process was started (in clock ticks since boot, field 22 of
//! `/proc/PID/stat`) is not, within one boot. That pair is [`ProcessId`], and it is what the state file notes.
//!
//! P1 rests on the answers here, so they are made to err on one side: a process that may not be looked into is
//! reported as *unknown*, never as "holds nothing"; every thread's descriptors are read, since threads need not share
//! them and the leader may have exited before the others; and a scan counts only when a second one finds the same.
//! What it cannot see: processes hidden by `hidepid` or outside this pid namespace, and a descriptor that is in flight
//! inside a unix socket's queue. The daemon therefore has to run in the host's pid namespace.
//!
//! Errors: [`ProcError`], with the path. A process that vanished while it was looked at is no error.
//! Source: proc_pid_stat(5), proc_pid_fd(5).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use holdfast_io::sys::mark::Mark;
use holdfast_io::sys::process::{ProcessError, pidfd_open};
use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::{FileStat, stat};
use serde::{Deserialize, Serialize};

/// One process, for as long as this boot lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number, which another process may bear later.
    pub pid: i32,
    /// When it was started, in clock ticks since boot.
    pub start_time: u64,
}

/// A file under /proc that could not be read or understood.
#[derive(Debug, thiserror::Error)]
pub enum ProcError {
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The content is not what the kernel documents.
    #[error("{}: expected {expected}, found {found:?}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What belongs there.
        expected: &'static str,
        /// What is there, cut short.
        found: String,
    },
    /// A call on a descriptor failed.
    #[error("{operation} failed: {source}")]
    Call {
        /// The call.
        operation: &'static str,
        /// Why.
        source: Errno,
    },
    /// A pidfd could not be had.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Processes came and went between any two scans.
    #[error("{}: the holders of socket:[{inode}] did not settle in {scans} scans", path.display())]
    Unsettled {
        /// The root that was scanned.
        path: PathBuf,
        /// The socket.
        inode: u64,
        /// How often.
        scans: u32,
    },
}

/// The fields of `/proc/PID/stat` that are of use here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// `R`, `S`, `D`, `T`, `Z` and so on. `Z` is also shown for a leader that exited before its other threads.
    pub state: char,
    /// Parent.
    pub ppid: i32,
    /// Process group.
    pub pgrp: i32,
    /// Session.
    pub session: i32,
    /// `PF_*` flags of the kernel.
    pub flags: u32,
    /// Threads that are still there.
    pub threads: u64,
    /// Start, in clock ticks since boot.
    pub start_time: u64,
}

impl Stat {
    /// Whether nothing of the process runs any more: a zombie, every thread of it.
    #[must_use]
    pub fn has_exited(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x') && self.threads <= 1
    }

    fn is_kernel_thread(&self) -> bool {
        const PF_KTHREAD: u32 = 0x0020_0000;
        self.flags & PF_KTHREAD != 0
    }
}

/// Who has a socket open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// Processes seen to have it.
    pub found: Vec<ProcessId>,
    /// Processes that may not be looked into: any of them may have it.
    pub unknown: Vec<ProcessId>,
}

impl Holders {
    /// Whether it is certain that nobody has it.
    #[must_use]
    pub fn certainly_nobody(&self) -> bool {
        self.found.is_empty() && self.unknown.is_empty()
    }
}

/// Who has each of several sockets open.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// Every socket that was asked for, by its inode.
    pub holders: BTreeMap<u64, Holders>,
    /// Those of which no two scans in a row said the same: somebody may be missing.
    pub unsettled: BTreeSet<u64>,
}

impl Look {
    /// Whether nobody was seen to have a socket, twice in a row.
    #[must_use]
    pub fn shows_nobody(&self, inode: u64) -> bool {
        !self.unsettled.contains(&inode) && self.holders.get(&inode).is_some_and(|h| h.found.is_empty())
    }
}

/// The most scans that a look takes.
const SCANS: u32 = 8;

/// A descriptor of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Its number.
    pub number: i32,
    /// It was opened for writing.
    pub writes: bool,
    /// Past the page cache.
    pub direct: bool,
    /// Where what it leads to is mounted.
    pub mount: u64,
    /// The marks on it.
    pub marks: Vec<Mark>,
}

/// What one process answers to "do you have this open?".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    Yes,
    No,
    /// Permission was denied somewhere, and nothing was found elsewhere.
    Unknown,
}

/// The inode of a socket we have open: *our* end of the connection, see `sock_diag` for the other.
///
/// # Errors
/// A descriptor that is no socket.
pub fn socket_inode<Socket: AsFd>(socket: &Socket) -> Result<u64, ProcError> {
    let failed = |source| ProcError::Call { operation: "fstat of a socket", source };
    let stat = nix::sys::stat::fstat(socket).map_err(failed)?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFSOCK {
        return Err(failed(Errno::ENOTSOCK));
    }
    Ok(stat.st_ino)
}

/// Everything below `root` in the tree of parents; `root` itself is not in it.
#[must_use]
pub fn descendants_of(root: i32, parent_of: &BTreeMap<i32, i32>) -> BTreeSet<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for (pid, ppid) in parent_of {
        children.entry(*ppid).or_default().push(*pid);
    }
    let mut below = BTreeSet::new();
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        for child in children.get(&pid).into_iter().flatten() {
            // A table read while processes came and went may contain a ring: each is entered once.
            if *child != root && below.insert(*child) {
                open.push(*child);
            }
        }
    }
    below
}

/// A process file system, the system's or one made up for a test.
#[derive(Clone, Debug)]
pub struct Procfs {
    root: PathBuf,
}

impl Default for Procfs {
    fn default() -> Self {
        Procfs::at(Path::new("/proc"))
    }
}

impl Procfs {
    /// The one at `root`.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Procfs { root: root.to_owned() }
    }

    /// The id of this boot, 36 characters, another one after every start of the kernel.
    ///
    /// # Errors
    /// Unreadable, or not of that form.
    pub fn boot_id(&self) -> Result<String, ProcError> {
        let path = self.root.join("sys/kernel/random/boot_id");
        let text = fs::read_to_string(&path).map_err(|source| ProcError::Io { path: path.clone(), source })?;
        let id = text.trim();
        let well_formed = id.len() == 36 && id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        if !well_formed {
            return Err(content(path, "a UUID of 36 characters", id));
        }
        Ok(id.to_owned())
    }

    /// When this kernel came up, by the host's own calendar.
    #[must_use]
    pub fn up_since(&self) -> Option<jiff::Zoned> {
        let text = fs::read_to_string(self.root.join("stat")).ok()?;
        let seconds = text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        Some(jiff::Timestamp::from_second(seconds).ok()?.to_zoned(jiff::tz::TimeZone::system()))
    }

    /// Every process there is, by number.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn pids(&self) -> Result<BTreeSet<i32>, ProcError> {
        // No /proc at all must not read as "no process at all".
        let missing = || ProcError::Io { path: self.root.clone(), source: ErrorKind::NotFound.into() };
        numbers_in(&self.root)?.ok_or_else(missing)
    }

    /// The process's own name, `None` when there is no such process.
    ///
    /// # Errors
    /// Unreadable for another reason.
    pub fn comm(&self, pid: i32) -> Result<Option<String>, ProcError> {
        let name = if_there(&self.process(pid).join("comm"), |path| fs::read(path))?;
        Ok(name.map(|bytes| String::from_utf8_lossy(bytes.trim_ascii_end()).into_owned()))
    }

    /// `/proc/PID/stat`, `None` when there is no such process.
    ///
    /// # Errors
    /// Unreadable for another reason, or not in the documented form.
    pub fn stat(&self, pid: i32) -> Result<Option<Stat>, ProcError> {
        let path = self.process(pid).join("stat");
        let Some(bytes) = if_there(&path, |path| fs::read(path))? else { return Ok(None) };
        let text = String::from_utf8_lossy(&bytes);
        match parse_stat(&text) {
            Some(stat) => Ok(Some(stat)),
            None => Err(content(path, "the fields of proc_pid_stat(5)", &text)),
        }
    }

    /// The process that bears this number now, `None` when there is none.
    ///
    /// # Errors
    /// As [`stat`](Self::stat).
    pub fn identity(&self, pid: i32) -> Result<Option<ProcessId>, ProcError> {
        Ok(self.stat(pid)?.map(|stat| ProcessId { pid, start_time: stat.start_time }))
    }

    /// Whether that process has ended: its number is free, or borne by another, or by its zombie.
    ///
    /// # Errors
    /// As [`stat`](Self::stat).
    pub fn is_gone(&self, process: ProcessId) -> Result<bool, ProcError> {
        let stat = self.stat(process.pid)?;
        Ok(stat.is_none_or(|stat| stat.start_time != process.start_time || stat.has_exited()))
    }

    /// Whether that process has ended, or is about to: its connections may be closed by then, and it a zombie not yet.
    ///
    /// # Errors
    /// As [`stat`](Self::stat).
    pub fn is_ending(&self, process: ProcessId) -> Result<bool, ProcError> {
        const PF_EXITING: u32 = 4;
        let stat = self.stat(process.pid)?;
        let lives = |s: Stat| s.start_time == process.start_time && !s.has_exited() && s.flags & PF_EXITING == 0;
        Ok(!stat.is_some_and(lives))
    }

    /// A pidfd of exactly that process, `None` when it is gone.
    ///
    /// # Errors
    /// No pidfd can be had, or as [`stat`](Self::stat).
    pub fn open(&self, process: ProcessId) -> Result<Option<OwnedFd>, ProcError> {
        let Some(pidfd) = pidfd_open(process.pid)? else { return Ok(None) };
        // In this order: while the pidfd is held to a process found unreaped below, the number cannot be reused.
        Ok((self.identity(process.pid)? == Some(process)).then_some(pidfd))
    }

    /// The processes that still run of the group that `leader` led. While any is left, the kernel gives the leader's number
    /// to no new process; so where another process bears it, the group is over and a new one has its number.
    ///
    /// # Errors
    /// /proc cannot be read: then it is not known.
    pub fn group_of(&self, leader: ProcessId) -> Result<Vec<ProcessId>, ProcError> {
        Ok(self.groups_of(&BTreeSet::from([leader]))?.remove(&leader).unwrap_or_default())
    }

    /// The same for several, in one look.
    ///
    /// # Errors
    /// As [`group_of`](Self::group_of).
    pub fn groups_of(&self, leaders: &BTreeSet<ProcessId>) -> Result<BTreeMap<ProcessId, Vec<ProcessId>>, ProcError> {
        let mut groups: BTreeMap<ProcessId, Vec<ProcessId>> = leaders.iter().map(|l| (*l, Vec::new())).collect();
        let mut over = BTreeSet::new();
        let pids = if leaders.is_empty() { BTreeSet::new() } else { self.pids()? };
        for pid in pids {
            let Some(stat) = self.stat(pid)? else { continue };
            for (leader, members) in groups.iter_mut().filter(|(leader, _)| leader.pid == stat.pgrp) {
                if pid == leader.pid && stat.start_time != leader.start_time {
                    over.insert(*leader);
                } else if !stat.has_exited() {
                    members.push(ProcessId { pid, start_time: stat.start_time });
                }
            }
        }
        over.into_iter().for_each(|leader| drop(groups.insert(leader, Vec::new())));
        Ok(groups)
    }

    /// Parents of all processes. Processes come and go while it is read.
    ///
    /// # Errors
    /// As [`stat`](Self::stat).
    pub fn parents(&self) -> Result<BTreeMap<i32, i32>, ProcError> {
        let mut parents = BTreeMap::new();
        for pid in self.pids()? {
            if let Some(stat) = self.stat(pid)? {
                parents.insert(pid, stat.ppid);
            }
        }
        Ok(parents)
    }

    /// Every process with a descriptor of the socket `inode`, ourselves included if we have one.
    ///
    /// A process passed on the socket while we looked may be missed by one scan: the holder looked at late gave it to
    /// one looked at early. The answer is the first that two scans in a row agree on.
    ///
    /// # Errors
    /// [`ProcError::Unsettled`], and whatever else than a vanished process or a denied permission.
    pub fn holders_of_socket(&self, inode: u64) -> Result<Holders, ProcError> {
        let mut look = self.holders_of_sockets(&BTreeSet::from([inode]))?;
        if look.unsettled.contains(&inode) {
            return Err(ProcError::Unsettled { path: self.root.clone(), inode, scans: SCANS });
        }
        Ok(look.holders.remove(&inode).unwrap_or_default())
    }

    /// The same for several sockets, in as many scans as one takes.
    ///
    /// # Errors
    /// Whatever else than a vanished process or a denied permission.
    pub fn holders_of_sockets(&self, inodes: &BTreeSet<u64>) -> Result<Look, ProcError> {
        let (mut holders, mut unsettled) = (self.scan_for_sockets(inodes)?, inodes.clone());
        for _ in 1..SCANS {
            if unsettled.is_empty() {
                break;
            }
            let next = self.scan_for_sockets(&unsettled)?;
            unsettled.retain(|inode| next.get(inode) != holders.get(inode));
            holders.extend(next);
        }
        Ok(Look { holders, unsettled })
    }

    fn scan_for_sockets(&self, inodes: &BTreeSet<u64>) -> Result<BTreeMap<u64, Holders>, ProcError> {
        let mut holders: BTreeMap<u64, Holders> = inodes.iter().map(|inode| (*inode, Holders::default())).collect();
        let pids = if inodes.is_empty() { BTreeSet::new() } else { self.pids()? };
        for pid in pids {
            let Some(stat) = self.stat(pid)? else { continue };
            if stat.is_kernel_thread() || stat.has_exited() {
                continue;
            }
            let process = ProcessId { pid, start_time: stat.start_time };
            let mut found = BTreeSet::new();
            let denied = self.links_of(pid, |link| {
                found.extend(socket_of(link).filter(|inode| inodes.contains(inode)));
                ControlFlow::Continue(())
            })?;
            for (inode, holders) in &mut holders {
                if found.contains(inode) {
                    holders.found.push(process);
                } else if denied {
                    holders.unknown.push(process);
                }
            }
        }
        Ok(holders)
    }

    /// Whether the process has, or ever set up and still maps, an io_uring: its writes may outlive it by a moment.
    ///
    /// A ring is found by a descriptor, by its mapped queues (the descriptor may be closed, or registered with the ring
    /// itself), or by the kernel's worker threads in the process.
    ///
    /// # Errors
    /// Permission denied among them: then the answer has to be taken as "it may have".
    pub fn has_io_uring(&self, pid: i32) -> Result<bool, ProcError> {
        let descriptors = self.process(pid).join("fd");
        match self.holds(pid, Path::new("anon_inode:[io_uring]"))? {
            Holds::Yes => return Ok(true),
            Holds::Unknown => {
                return Err(ProcError::Io { path: descriptors, source: ErrorKind::PermissionDenied.into() });
            }
            Holds::No => {}
        }
        let maps = if_there(&self.process(pid).join("maps"), |path| fs::read(path))?.unwrap_or_default();
        if contains(&maps, b"anon_inode:[io_uring]") {
            return Ok(true);
        }
        self.has_ring_workers(pid)
    }

    /// The marks that open file descriptions bear, each with one that does: `MAJOR:MINOR:INODE`, of a device its node's.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn marks(&self) -> Result<BTreeMap<Mark, String>, ProcError> {
        let path = self.root.join("locks");
        let table = fs::read_to_string(&path).map_err(|source| ProcError::Io { path, source })?;
        Ok(table.lines().filter_map(mark_in).collect())
    }

    /// The descriptors through which a process may write to what has a path, of its first thread: others that do not share them are
    /// not seen.
    ///
    /// # Errors
    /// Permission denied among them.
    pub fn written_through(&self, pid: i32) -> Result<Vec<Descriptor>, ProcError> {
        let directory = self.process(pid).join("fd");
        let mut found = Vec::new();
        for number in numbers_in(&directory)?.unwrap_or_default() {
            // Pipes, sockets and the like have none.
            let link = if_there(&directory.join(number.to_string()), |path| fs::read_link(path))?;
            if link.is_some_and(|link| link.is_absolute()) {
                found.extend(self.descriptor(pid, number)?.filter(|d| d.writes));
            }
        }
        Ok(found)
    }

    /// One descriptor of a process, of its first thread; `None` when it is not there.
    ///
    /// # Errors
    /// Permission denied among them.
    pub fn descriptor(&self, pid: i32, number: i32) -> Result<Option<Descriptor>, ProcError> {
        let path = self.process(pid).join("fdinfo").join(number.to_string());
        let text = if_there(&path, |path| fs::read_to_string(path))?;
        Ok(text.and_then(|text| parse_fdinfo(number, &text)))
    }

    /// What a descriptor of a process leads to; `None` when it is not there, or not to be seen. Not for what may be on a network.
    #[must_use]
    pub fn leads_to(&self, pid: i32, number: i32) -> Option<FileStat> {
        stat(&self.process(pid).join("fd").join(number.to_string())).ok()
    }

    /// The processes that have a device open, by its number, with their names: those that may be looked into. Only links below `/dev` are
    /// followed, since others may lead to a server that does not answer.
    #[must_use]
    pub fn holders_of_device(&self, is_wanted: impl Fn(u64) -> bool) -> Vec<(i32, String)> {
        let has_it = |pid: &i32| {
            let descriptors = self.process(*pid).join("fd");
            let numbers = numbers_in(&descriptors).ok().flatten().unwrap_or_default();
            numbers.into_iter().map(|number| descriptors.join(number.to_string())).any(|link| {
                fs::read_link(&link).is_ok_and(|target| target.starts_with("/dev"))
                    && fs::metadata(&link).is_ok_and(|m| m.file_type().is_char_device() && is_wanted(m.rdev()))
            })
        };
        let holders = self.pids().unwrap_or_default().into_iter().filter(has_it);
        holders.map(|pid| (pid, self.comm(pid).ok().flatten().unwrap_or_default())).collect()
    }

    /// The kinds of file system that a process has mounted, by the numbers that [`Descriptor::mount`] names.
    ///
    /// # Errors
    /// Permission denied among them.
    pub fn mounts_of(&self, pid: i32) -> Result<BTreeMap<u64, String>, ProcError> {
        let table = if_there(&self.process(pid).join("mountinfo"), |path| fs::read_to_string(path))?;
        // ID, parent, device, root, mount point, options, any number of tags, "-", kind, source.
        let kind_of = |line: &str| {
            let (head, tail) = line.split_once(" - ")?;
            Some((head.split(' ').next()?.parse().ok()?, tail.split(' ').next()?.to_owned()))
        };
        Ok(table.unwrap_or_default().lines().filter_map(kind_of).collect())
    }

    fn has_ring_workers(&self, pid: i32) -> Result<bool, ProcError> {
        let tasks = self.process(pid).join("task");
        for tid in numbers_in(&tasks)?.unwrap_or_default() {
            let comm = if_there(&tasks.join(tid.to_string()).join("comm"), |path| fs::read(path))?;
            // "iou-wrk-PID" and "iou-sqp-PID", names the kernel gives.
            if comm.is_some_and(|name| name.starts_with(b"iou-")) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a descriptor of any thread of `pid` leads to `wanted`.
    fn holds(&self, pid: i32, wanted: &Path) -> Result<Holds, ProcError> {
        let mut there = false;
        let denied = self.links_of(pid, |link| {
            there = link == wanted;
            if there { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(match (there, denied) {
            (true, _) => Holds::Yes,
            (false, true) => Holds::Unknown,
            (false, false) => Holds::No,
        })
    }

    /// Shows where the descriptors of each thread of `pid` lead, until it is enough. Whether something may not be looked into.
    fn links_of(&self, pid: i32, mut see: impl FnMut(&Path) -> ControlFlow<()>) -> Result<bool, ProcError> {
        let tasks = self.process(pid).join("task");
        let mut denied = false;
        let tids = match numbers_in(&tasks) {
            Ok(tids) => tids.unwrap_or_default(),
            Err(error) => return true_if_denied(error),
        };
        for tid in tids {
            match links_in(&tasks.join(tid.to_string()).join("fd"), &mut see) {
                Ok(ControlFlow::Break(())) => return Ok(denied),
                Ok(ControlFlow::Continue(())) => {}
                Err(error) => denied |= true_if_denied(error)?,
            }
        }
        Ok(denied)
    }

    fn process(&self, pid: i32) -> PathBuf {
        self.root.join(pid.to_string())
    }
}

/// Shows where the links in a `fd` directory lead, until it is enough.
fn links_in(directory: &Path, see: &mut impl FnMut(&Path) -> ControlFlow<()>) -> Result<ControlFlow<()>, ProcError> {
    for number in numbers_in(directory)?.unwrap_or_default() {
        let target = if_there(&directory.join(number.to_string()), |path| fs::read_link(path))?;
        if target.is_some_and(|target| see(&target).is_break()) {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// `KEY:\tVALUE`, flags in octal, and a line for each lock.
fn parse_fdinfo(number: i32, text: &str) -> Option<Descriptor> {
    let fields: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once(':')).collect();
    let field = |key: &str| fields.iter().find(|(k, _)| *k == key).map(|(_, value)| value.trim());
    let flags = libc::c_int::from_str_radix(field("flags")?, 8).ok()?;
    let locks = fields.iter().filter(|(key, _)| *key == "lock");
    Some(Descriptor {
        number,
        writes: flags & libc::O_ACCMODE != libc::O_RDONLY,
        direct: flags & libc::O_DIRECT != 0,
        mount: field("mnt_id")?.parse().ok()?,
        marks: locks.filter_map(|(_, lock)| Some(mark_in(lock)?.0)).collect(),
    })
}

/// `NUMBER: OFDLCK ADVISORY READ -1 MAJOR:MINOR:INODE START END`. What waits for a lock has an arrow behind its number, and no lock.
fn mark_in(line: &str) -> Option<(Mark, String)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, "OFDLCK", _, _, _, file, start, _] = *words.as_slice() else { return None };
    Some((Mark::at(start.parse().ok()?)?, file.to_owned()))
}

/// The inode in `socket:[INODE]`.
fn socket_of(link: &Path) -> Option<u64> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn true_if_denied(error: ProcError) -> Result<bool, ProcError> {
    match &error {
        ProcError::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied => Ok(true),
        _ => Err(error),
    }
}

/// The entries of a directory that are numbers; `None` when the directory is not there (any more).
fn numbers_in(directory: &Path) -> Result<Option<BTreeSet<i32>>, ProcError> {
    let Some(entries) = if_there(directory, |path| fs::read_dir(path))? else { return Ok(None) };
    let mut numbers = BTreeSet::new();
    for entry in entries {
        match entry {
            Ok(entry) => numbers.extend(entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok())),
            Err(source) if vanished(&source) => break,
            Err(source) => return Err(ProcError::Io { path: directory.to_owned(), source }),
        }
    }
    Ok(Some(numbers))
}

/// `read` of a path, with "there is no such process" as an answer.
fn if_there<T>(path: &Path, read: impl FnOnce(&Path) -> std::io::Result<T>) -> Result<Option<T>, ProcError> {
    match read(path) {
        Ok(value) => Ok(Some(value)),
        Err(source) if vanished(&source) => Ok(None),
        Err(source) => Err(ProcError::Io { path: path.to_owned(), source }),
    }
}

/// ENOENT from a lookup, ESRCH from a read: the process ended in between.
fn vanished(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

fn content(path: PathBuf, expected: &'static str, found: &str) -> ProcError {
    ProcError::Content { path, expected, found: found.chars().take(80).collect() }
}

/// The name, field 2, may contain spaces and parentheses itself: fields are counted from behind the last one.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_pid_and_name, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).copied();
    Some(Stat {
        state: field(3)?.chars().next()?,
        ppid: field(4)?.parse().ok()?,
        pgrp: field(5)?.parse().ok()?,
        session: field(6)?.parse().ok()?,
        flags: field(9)?.parse().ok()?,
        threads: field(20)?.parse().ok()?,
        start_time: field(22)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sock_diag::peer_inode;
    use nix::sched::{CloneFlags, unshare};
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::os::unix::net::UnixStream;
    use std::process::{Child, Command, Stdio};

    fn our_pid() -> i32 {
        nix::unistd::getpid().as_raw()
    }

    fn kill(pid: i32) {
        let pidfd = pidfd_open(pid).unwrap().unwrap();
        holdfast_io::sys::process::send_signal(pidfd.as_fd(), nix::sys::signal::Signal::SIGKILL).unwrap();
        holdfast_io::sys::process::wait_for_exit(pidfd.as_fd(), None).unwrap();
    }

    /// A client whose child inherits the connection as its standard output, and which exits at once.
    fn client_that_leaves_a_child(client_end: UnixStream) -> (Child, i32) {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 2>/dev/null & echo $! >&2"]).stderr(Stdio::piped());
        let mut client = command.stdout(std::os::fd::OwnedFd::from(client_end)).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(client.stderr.take().unwrap()).read_line(&mut line).unwrap();
        client.wait().unwrap();
        (client, line.trim().parse().unwrap())
    }

    #[test]
    fn a_child_that_inherited_the_connection_is_found_after_its_parent_exited() {
        let (daemon_end, client_end) = UnixStream::pair().unwrap();
        let proc = Procfs::default();
        let noted = peer_inode(&daemon_end).unwrap().unwrap();
        let (_client, child) = client_that_leaves_a_child(client_end);
        drop(daemon_end); // the daemon died too: the noted inode is all its successor has

        let child = proc.identity(child).unwrap().unwrap();
        let holders = proc.holders_of_socket(noted).unwrap();
        assert_eq!(holders.found, [child]);
        assert!(!holders.certainly_nobody());

        kill(child.pid);
        assert!(proc.is_gone(child).unwrap());
        assert_eq!(proc.holders_of_socket(noted).unwrap().found, []);
    }

    #[test]
    fn one_look_finds_the_holders_of_many_sockets() {
        let pairs: Vec<_> = (0..20).map(|_| UnixStream::pair().unwrap()).collect();
        let inodes: BTreeSet<u64> = pairs.iter().map(|(one, _)| socket_inode(one).unwrap()).collect();
        let (gone, other) = UnixStream::pair().unwrap();
        let closed = socket_inode(&gone).unwrap();
        drop((gone, other));
        let look = Procfs::default().holders_of_sockets(&inodes.iter().copied().chain([closed]).collect()).unwrap();
        for inode in &inodes {
            let pids: Vec<i32> = look.holders[inode].found.iter().map(|process| process.pid).collect();
            assert_eq!(pids, [our_pid()]);
            assert!(!look.shows_nobody(*inode));
        }
        assert!(look.shows_nobody(closed));
    }

    #[test]
    fn a_thread_with_descriptors_of_its_own_is_found_too() {
        let (ask, asked) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_FILES).unwrap();
            let (one, _other) = UnixStream::pair().unwrap();
            tell.send(socket_inode(&one).unwrap()).unwrap();
            asked.recv().unwrap_err();
        });
        let inode = told.recv().unwrap();
        let holders = Procfs::default().holders_of_socket(inode).unwrap();
        assert_eq!(holders.found.iter().map(|process| process.pid).collect::<Vec<_>>(), [our_pid()]);
        drop(ask);
        thread.join().unwrap();
    }

    #[test]
    fn a_process_is_itself_by_start_time_and_gone_once_it_is_a_zombie() {
        let proc = Procfs::default();
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = proc.identity(i32::try_from(child.id()).unwrap()).unwrap().unwrap();
        assert!(!proc.is_gone(process).unwrap());
        assert!(proc.open(process).unwrap().is_some());
        let other = ProcessId { start_time: process.start_time + 1, ..process };
        assert!(proc.is_gone(other).unwrap(), "same number, another process");
        assert!(proc.open(other).unwrap().is_none());

        kill(process.pid);
        assert!(proc.stat(process.pid).unwrap().unwrap().has_exited(), "a zombie");
        assert!(proc.is_gone(process).unwrap());
        child.wait().unwrap();
        assert!(proc.is_gone(process).unwrap());
        assert!(proc.open(process).unwrap().is_none());
        assert_eq!(proc.comm(process.pid).unwrap(), None);
    }

    #[test]
    fn our_own_parent_and_name_are_found() {
        let proc = Procfs::default();
        assert_eq!(proc.parents().unwrap()[&our_pid()], nix::unistd::getppid().as_raw());
        let name = fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(proc.comm(our_pid()).unwrap().unwrap(), name.trim_end());
        assert_eq!(proc.boot_id().unwrap().len(), 36);
        assert!(!proc.has_io_uring(our_pid()).unwrap());
    }

    /// A made-up /proc with process 100, one thread, descriptor 3.
    fn made_up(descriptor: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let process = root.path().join("100");
        fs::create_dir_all(process.join("task/100/fd")).unwrap();
        fs::write(process.join("stat"), stat_line("S", 1, 0)).unwrap();
        fs::write(process.join("task/100/comm"), "worker\n").unwrap();
        fs::write(process.join("maps"), "00400000-00401000 r-xp 00000000 00:00 0 /bin/x\n").unwrap();
        symlink(descriptor, process.join("task/100/fd/3")).unwrap();
        root
    }

    fn stat_line(state: &str, threads: u64, flags: u32) -> String {
        format!("100 (a ) b (c) {state} 7 100 100 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 {threads} 0 4242 0 0 0")
    }

    #[test]
    fn descriptors_are_what_fdinfo_says_with_the_marks_on_them() {
        let ours = Mark::of(100, 4242);
        let start = (1u64 << 62) + (4242 << 25) + (100 << 3);
        let text = format!(
            "pos:\t0\nflags:\t02140002\nmnt_id:\t24\nino:\t96\n\
             lock:\t1: OFDLCK ADVISORY  READ -1 00:06:96 {start} {start}\n\
             lock:\t2: OFDLCK ADVISORY  WRITE -1 00:06:96 100 102\n"
        );
        let disk = Descriptor { number: 7, writes: true, direct: true, mount: 24, marks: vec![ours] };
        assert_eq!(parse_fdinfo(7, &text), Some(disk));
        let reads = parse_fdinfo(0, "pos:\t0\nflags:\t0100000\nmnt_id:\t16\n").unwrap();
        assert!(!reads.writes && !reads.direct && reads.marks.is_empty());
        for cut in ["", "flags:\t02\n", "mnt_id:\t1\n", "flags:\tx\nmnt_id:\t1\n"] {
            assert_eq!(parse_fdinfo(7, cut), None, "{cut:?}");
        }
    }

    #[test]
    fn marks_are_found_in_the_table_of_locks_and_nothing_else_is_one() {
        let root = tempfile::tempdir().unwrap();
        let start = (1u64 << 62) + (9 << 25) + (5 << 3);
        let table = format!(
            "1: POSIX  ADVISORY  WRITE 5 00:06:1 {start} {start}\n2: FLOCK  ADVISORY  WRITE 5 00:06:2 0 EOF\n\
             3: OFDLCK ADVISORY  READ -1 00:06:96 {start} {start}\n3: -> OFDLCK ADVISORY  WRITE -1 00:06:96 {start} {start}\n\
             4: OFDLCK ADVISORY  READ -1 fe:00:7 100 103\n"
        );
        fs::write(root.path().join("locks"), table).unwrap();
        let found = Procfs::at(root.path()).marks().unwrap();
        assert_eq!(found, BTreeMap::from([(Mark::of(5, 9), "00:06:96".to_owned())]));
        assert!(Procfs::at(&root.path().join("nowhere")).marks().is_err(), "no table is not an empty one");
    }

    #[test]
    fn our_own_mounts_have_the_kinds_that_they_have() {
        let file = tempfile::tempfile().unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&file);
        let procfs = Procfs::default();
        let ours = procfs.written_through(our_pid()).unwrap().into_iter().find(|d| d.number == number).unwrap();
        assert!(ours.writes && !ours.direct);
        assert!(procfs.mounts_of(our_pid()).unwrap().contains_key(&ours.mount));
        let (reads, writes) = nix::unistd::pipe().unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&writes);
        assert!(procfs.descriptor(our_pid(), number).unwrap().unwrap().writes);
        assert!(procfs.written_through(our_pid()).unwrap().iter().all(|d| d.number != number), "a pipe has no path");
        assert_eq!(procfs.descriptor(our_pid(), 1_000_000).unwrap(), None);
        drop(reads);
    }

    #[test]
    fn a_process_is_ending_when_the_kernel_says_so_and_when_it_is_gone() {
        let root = made_up("/dev/null");
        let procfs = Procfs::at(root.path());
        let process = ProcessId { pid: 100, start_time: 4242 };
        let ending = |state: &str, flags: u32| {
            fs::write(root.path().join("100/stat"), stat_line(state, 1, flags)).unwrap();
            procfs.is_ending(process).unwrap()
        };
        assert!(!ending("S", 0x0040_0000));
        assert!(ending("S", 0x0040_0004) && ending("Z", 0));
        assert!(!ending("D", 0) && procfs.is_ending(ProcessId { start_time: 4241, ..process }).unwrap());
        assert!(procfs.is_ending(ProcessId { pid: 101, ..process }).unwrap());
    }

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = parse_stat(&stat_line("S", 3, 9)).unwrap();
        let expected = Stat { state: 'S', ppid: 7, pgrp: 100, session: 100, flags: 9, threads: 3, start_time: 4242 };
        assert_eq!(stat, expected);
        for cut in ["", "100 (x", "100 (x)", "100 (x) S 7 100 100", "100 (x) S seven 100"] {
            assert_eq!(parse_stat(cut), None, "{cut:?}");
        }
    }

    #[test]
    fn a_leader_that_exited_before_its_threads_is_not_gone() {
        assert!(!parse_stat(&stat_line("Z", 2, 0)).unwrap().has_exited());
        assert!(parse_stat(&stat_line("Z", 1, 0)).unwrap().has_exited());
    }

    #[test]
    fn a_process_that_may_not_be_looked_into_is_unknown_and_never_nobody() {
        let root = made_up("socket:[55]");
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let descriptors = root.path().join("100/task/100/fd");
        fs::set_permissions(&descriptors, fs::Permissions::from_mode(0o000)).unwrap();
        let proc = Procfs::at(root.path());
        // Permissions of files do not bind root; a thread with another user's file-system id is bound.
        let (holders, ring) = std::thread::spawn(move || {
            nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
            (proc.holders_of_socket(55).unwrap(), proc.has_io_uring(100))
        })
        .join()
        .unwrap();
        fs::set_permissions(&descriptors, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(holders.found, []);
        assert_eq!(holders.unknown, [ProcessId { pid: 100, start_time: 4242 }]);
        assert!(!holders.certainly_nobody());
        assert!(ring.is_err(), "not known to have none");
        assert_eq!(Procfs::at(root.path()).holders_of_socket(55).unwrap().found.len(), 1, "readable again");
    }

    #[test]
    fn zombies_and_kernel_threads_hold_nothing_and_are_not_unknown() {
        let root = made_up("socket:[55]");
        for line in [stat_line("Z", 1, 0), stat_line("S", 1, 0x0020_0040)] {
            fs::write(root.path().join("100/stat"), line).unwrap();
            assert!(Procfs::at(root.path()).holders_of_socket(55).unwrap().certainly_nobody());
        }
    }

    #[test]
    fn a_ring_is_found_by_descriptor_by_mapping_and_by_worker() {
        let proc_of = |root: &tempfile::TempDir| Procfs::at(root.path()).has_io_uring(100).unwrap();
        assert!(proc_of(&made_up("anon_inode:[io_uring]")));
        let root = made_up("/dev/null");
        assert!(!proc_of(&root));
        let mapped = "7f0000000000-7f0000001000 rw-s 00000000 00:10 1033 anon_inode:[io_uring]\n";
        fs::write(root.path().join("100/maps"), mapped).unwrap();
        assert!(proc_of(&root));
        let root = made_up("/dev/null");
        fs::create_dir_all(root.path().join("100/task/101")).unwrap();
        fs::write(root.path().join("100/task/101/comm"), "iou-wrk-100\n").unwrap();
        assert!(proc_of(&root));
    }

    #[test]
    fn a_missing_proc_is_an_error_not_an_empty_machine() {
        let root = tempfile::tempdir().unwrap();
        let proc = Procfs::at(&root.path().join("proc"));
        assert!(proc.pids().is_err());
        assert!(proc.holders_of_socket(1).is_err());
    }

    #[test]
    fn a_malformed_stat_or_boot_id_names_its_file() {
        let root = made_up("/dev/null");
        fs::write(root.path().join("100/stat"), "nonsense").unwrap();
        let error = Procfs::at(root.path()).stat(100).unwrap_err().to_string();
        assert!(error.ends_with("100/stat: expected the fields of proc_pid_stat(5), found \"nonsense\""), "{error}");
        fs::create_dir_all(root.path().join("sys/kernel/random")).unwrap();
        fs::write(root.path().join("sys/kernel/random/boot_id"), "short\n").unwrap();
        let error = Procfs::at(root.path()).boot_id().unwrap_err().to_string();
        assert!(error.ends_with("boot_id: expected a UUID of 36 characters, found \"short\""), "{error}");
    }

    #[test]
    fn a_group_lasts_as_long_as_its_last_member() {
        use std::os::unix::process::CommandExt as _;
        let mut script = std::process::Command::new("sh");
        script.args(["-c", "sleep 1000 & echo $!"]).process_group(0).stdout(std::process::Stdio::piped());
        let mut leader = script.spawn().unwrap();
        let procfs = Procfs::default();
        let id = procfs.identity(i32::try_from(leader.id()).unwrap()).unwrap().unwrap();
        let mut line = String::new();
        let output = leader.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).unwrap();
        leader.wait().unwrap();
        let member: i32 = line.trim().parse().unwrap();
        assert!(procfs.group_of(id).unwrap().iter().any(|m| m.pid == member));
        kill(member);
        while !procfs.group_of(id).unwrap().iter().all(|m| m.pid != member) {}
    }

    #[test]
    fn descendants_are_found_at_any_depth_and_a_torn_table_ends() {
        let parents = BTreeMap::from([(2, 1), (3, 2), (4, 3), (5, 1), (9, 8), (8, 9)]);
        assert_eq!(descendants_of(2, &parents), BTreeSet::from([3, 4]));
        assert_eq!(descendants_of(1, &parents), BTreeSet::from([2, 3, 4, 5]));
        assert_eq!(descendants_of(8, &parents), BTreeSet::from([9]));
        assert_eq!(descendants_of(77, &parents), BTreeSet::new());
    }
}
