//! Marks on the open file descriptions of other processes, by which the end of what they queued in io_uring can be seen.
//!
//! The kernel waits for blocking writes and for libaio before a process has exited. It does not wait for an io_uring: such a write
//! lands when nothing of its process is left. But it keeps its open file description until then, and the kernel keeps a lock that
//! belongs to a description (an OFD lock) until the description is closed for good. That is the daemon's own fence, turned on others: a
//! lock for *reading*, on one byte that lies beyond the end of every device and file, at an offset that names a process. It is in
//! nobody's way but that of a lock for writing over that byte.
//!
//! | bits of the offset | |
//! | --- | --- |
//! | 62 | 1 |
//! | 22 to 61 | start time, clock ticks since boot, its low 40 bits |
//! | 0 to 21 | pid; the kernel gives none above 2^22 |
//!
//! So `/proc/locks` says whose a mark is. Source: fcntl(2) on open file description locks; seen on Linux 6.18
//! (`tests/system/io_uring.rs`).

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;

use super::linux::flock;

/// The mark of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

const PID_BITS: u32 = 22;
const TIME_BITS: u32 = 40;
const BASE: u64 = 1 << (PID_BITS + TIME_BITS);

impl Mark {
    /// That of the process with this pid that was started at this time, in clock ticks since boot.
    #[must_use]
    pub fn of(pid: i32, start_time: u64) -> Mark {
        let low = |value: u64, bits: u32| value & ((1 << bits) - 1);
        Mark(BASE | low(start_time, TIME_BITS) << PID_BITS | low(u64::from(pid.unsigned_abs()), PID_BITS))
    }

    /// The one whose byte this is.
    #[must_use]
    pub fn at(offset: u64) -> Option<Mark> {
        (offset >= BASE).then_some(Mark(offset))
    }

    /// Puts it on an open file description.
    ///
    /// # Errors
    /// The kernel's. `EAGAIN`: somebody has locked all that can be locked for writing, or the description is for writing alone and
    /// another one of the same file has this mark.
    pub fn put_on<Description: AsFd>(self, description: &Description) -> Result<(), Errno> {
        let flags = OFlag::from_bits_retain(fcntl(description, FcntlArg::F_GETFL)?);
        let writes_only = flags.intersection(OFlag::O_ACCMODE) == OFlag::O_WRONLY;
        let kind = if writes_only { libc::F_WRLCK } else { libc::F_RDLCK };
        let lock = flock(kind, self.0, 1).map_err(|_| Errno::EOVERFLOW)?;
        fcntl(description, FcntlArg::F_OFD_SETLK(&lock)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_names_one_process_and_its_byte_can_be_locked() {
        let mark = Mark::of(4321, 987_654);
        assert_eq!(mark.0, (1 << 62) + (987_654 << 22) + 4321);
        assert_eq!(Mark::at(mark.0), Some(mark));
        assert_eq!(Mark::at((1 << 62) - 1), None);
        let last = Mark::of((1 << 22) - 1, u64::MAX);
        assert_eq!(last.0, (1 << 63) - 1);
        assert_ne!(Mark::of(4321, 987_655), mark);
        let file = tempfile::tempfile().unwrap();
        last.put_on(&file).unwrap();
    }

    #[test]
    fn two_descriptions_of_one_file_can_have_the_mark_but_not_if_one_of_them_is_for_writing_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = |read| std::fs::OpenOptions::new().read(read).write(true).open(file.path()).unwrap();
        let (a, b, writes_only) = (open(true), open(true), open(false));
        let mark = Mark::of(1, 1);
        mark.put_on(&a).unwrap();
        mark.put_on(&b).unwrap();
        assert_eq!(mark.put_on(&writes_only), Err(Errno::EAGAIN));
        Mark::of(2, 1).put_on(&writes_only).unwrap();
    }
}
