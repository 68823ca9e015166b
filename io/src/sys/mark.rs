//! Marks on the open file descriptions of other processes, by which the end of what they queued in io_uring can be seen.
//!
//! The kernel waits for blocking writes and for libaio before a process has exited. It does not wait for an io_uring: such a write
//! lands when nothing of its process is left. But it keeps its open file description until then, and the kernel keeps a lock that
//! belongs to a description (an OFD lock) until the description is closed for good. That is the daemon's own fence, turned on others: a
//! lock on one byte that lies beyond the end of every device and file, at an offset that names a process. It is for reading, unless the
//! description is for writing alone, and is in nobody's way but that of a lock over the whole of the file: who asks for one for writing,
//! of either kind, is refused it, its own process too.
//!
//! | bits of the offset | |
//! | --- | --- |
//! | 62 | 1 |
//! | 25 to 61 | start time, clock ticks since boot, its low 37 bits |
//! | 3 to 24 | pid; the kernel gives none above 2^22 |
//! | 1 to 2 | 0; or which of the descriptions of one file that are for writing alone |
//! | 0 | 0: the kernel shows locks that touch as one |
//!
//! So `/proc/locks` says whose a mark is, and `grep -l OFFSET /proc/[0-9]*/fdinfo/*` who has it. Source: fcntl(2) on open file
//! description locks; seen on Linux 6.18 (`tests/system/io_uring.rs`).

use std::fmt;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;

use super::linux::flock;

/// The mark of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

const SLOTS: u64 = 4;
const PID_AT: u32 = 3;
const PID_BITS: u32 = 22;
const TIME_BITS: u32 = 37;
const TIME_AT: u32 = PID_AT + PID_BITS;
const BASE: u64 = 1 << (TIME_AT + TIME_BITS);

impl Mark {
    /// That of the process with this pid that was started at this time, in clock ticks since boot.
    #[must_use]
    pub fn of(pid: i32, start_time: u64) -> Mark {
        let low = |value: u64, bits: u32| value & ((1 << bits) - 1);
        Mark(BASE | low(start_time, TIME_BITS) << TIME_AT | low(u64::from(pid.unsigned_abs()), PID_BITS) << PID_AT)
    }

    /// The one that a lock from this byte on is of, if it is a mark.
    #[must_use]
    pub fn at(offset: u64) -> Option<Mark> {
        (offset >= BASE).then_some(Mark(offset & !((1 << PID_AT) - 1)))
    }

    /// Puts it on an open file description.
    ///
    /// # Errors
    /// The kernel's. `EAGAIN`: somebody has locked all of the file, or too many descriptions of it for writing alone have this mark.
    pub fn put_on<Description: AsFd>(self, description: &Description) -> Result<(), Errno> {
        let flags = OFlag::from_bits_retain(fcntl(description, FcntlArg::F_GETFL)?);
        let put = |kind: libc::c_int, slot: u64| {
            let lock = flock(kind, self.0 + 2 * slot, 1).map_err(|_| Errno::EOVERFLOW)?;
            fcntl(description, FcntlArg::F_OFD_SETLK(&lock)).map(drop)
        };
        if flags.intersection(OFlag::O_ACCMODE) != OFlag::O_WRONLY {
            return put(libc::F_RDLCK, 0);
        }
        // Such a lock is alone: each description has its own.
        let mut tried = (1..SLOTS).map(|slot| put(libc::F_WRLCK, slot));
        tried.find(|result| *result != Err(Errno::EAGAIN)).unwrap_or(Err(Errno::EAGAIN))
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_names_one_process_and_its_byte_can_be_locked() {
        let mark = Mark::of(4321, 987_654);
        assert_eq!(mark.0, (1 << 62) + (987_654 << 25) + (4321 << 3));
        assert!((0..8).all(|n| Mark::at(mark.0 + n) == Some(mark)));
        assert_eq!(Mark::at((1 << 62) - 1), None);
        let last = Mark::of((1 << 22) - 1, u64::MAX);
        assert_eq!(last.0, (1 << 63) - 8);
        assert_ne!(Mark::of(4321, 987_655), mark);
        let file = tempfile::tempfile().unwrap();
        last.put_on(&file).unwrap();
    }

    #[test]
    fn several_descriptions_of_one_file_can_have_a_mark_also_where_they_are_for_writing_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = |read| std::fs::OpenOptions::new().read(read).write(true).open(file.path()).unwrap();
        let both: Vec<_> = (0..5).map(|_| open(true)).collect();
        let writes: Vec<_> = (0..4).map(|_| open(false)).collect();
        let mark = Mark::of(1, 1);
        assert!(both.iter().chain(&writes[..3]).all(|f| mark.put_on(f).is_ok()));
        assert_eq!(mark.put_on(&writes[3]), Err(Errno::EAGAIN));
        Mark::of(2, 1).put_on(&writes[3]).unwrap();
    }
}
