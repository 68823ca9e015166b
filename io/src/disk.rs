//! The disk, the first seam: what lease code may ask of a device, and what can go wrong.
//!
//! What holds for every implementation:
//! - one sector is read or written atomically, a larger I/O is atomic for each of its sectors only;
//! - an I/O that passed its deadline is *not over*: it may still land at any time until its host is dead. Its caller
//!   gets [`IoErrorKind::OutcomeUnknown`] and its buffer stays with it;
//! - a write waits until an older write to any of the same sectors has been reaped (I6); if that does not happen before
//!   its deadline, nothing was issued and the error says so.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use nix::errno::Errno;

use crate::clock::LocalInstant;
use crate::sys::aligned::AlignedBuf;

/// Read access to a device. The dumper is generic over this half alone and so cannot write.
pub trait ReadDisk {
    /// What to call the device in an error or a report.
    fn path(&self) -> &Arc<str>;

    /// Reads `len` bytes at byte offset `at`; both are multiples of the sector size. All of it or an error.
    ///
    /// # Errors
    /// See [`IoErrorKind`].
    fn read(&self, at: u64, len: usize, deadline: LocalInstant) -> impl Future<Output = Result<AlignedBuf, IoError>>;
}

/// Read and write access.
pub trait Disk: ReadDisk {
    /// Writes the whole buffer at byte offset `at`, durably (O_SYNC). `Ok` means that all of it is on the medium.
    ///
    /// # Errors
    /// See [`IoErrorKind`]. Only [`IoErrorKind::NotIssued`] and [`IoErrorKind::Refused`] promise that nothing was and
    /// nothing will be written; after [`IoErrorKind::Failed`] each sector has its old or its new content.
    fn write(&self, at: u64, data: AlignedBuf, deadline: LocalInstant) -> impl Future<Output = Result<(), IoError>>;

    /// Resolves once every write issued through this disk has been reaped: landed, or failed for good.
    fn reaped(&self) -> impl Future<Output = ()>;

    /// How many disks stand behind it. On more than one, a write that succeeded is on a majority, and may still land on others.
    fn copies(&self) -> usize {
        1
    }
}

impl<D: ReadDisk> ReadDisk for &D {
    fn path(&self) -> &Arc<str> {
        (**self).path()
    }
    fn read(&self, at: u64, len: usize, deadline: LocalInstant) -> impl Future<Output = Result<AlignedBuf, IoError>> {
        (**self).read(at, len, deadline)
    }
}

impl<D: Disk> Disk for &D {
    fn write(&self, at: u64, data: AlignedBuf, deadline: LocalInstant) -> impl Future<Output = Result<(), IoError>> {
        (**self).write(at, data, deadline)
    }
    fn reaped(&self) -> impl Future<Output = ()> {
        (**self).reaped()
    }
    fn copies(&self) -> usize {
        (**self).copies()
    }
}

/// The direction of an I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// From the device.
    Read,
    /// To the device.
    Write,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Op::Read => "read",
            Op::Write => "write",
        })
    }
}

/// Why an I/O did not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IoErrorKind {
    /// The kernel said no.
    #[error("{}", .0.desc())]
    Failed(Errno),
    /// Fewer bytes than asked: the device or file ends here.
    #[error("only {found} bytes there: the device ends too early")]
    Short {
        /// Bytes that were moved.
        found: usize,
    },
    /// The deadline passed while the I/O was under way.
    #[error("no answer before the deadline, outcome unknown: it may still land")]
    OutcomeUnknown,
    /// The deadline passed before the I/O could begin. Nothing was issued.
    #[error("not issued before its deadline: an older write to the same sectors, or the I/O queue, is stuck")]
    NotIssued,
    /// On several disks: too few of them did it, or say the same. What was written may be on some.
    #[error("only {done} of {disks} disks agree, a majority is needed")]
    Minority {
        /// How many did it.
        done: usize,
        /// Of how many.
        disks: usize,
    },
    /// On several disks: what stands there is a lease, but by its own word no copy of one on several disks.
    #[error("it is no copy of a lease on several disks: {0}")]
    NoCopy(&'static str),
    /// The lockspace's lease is past D2's instant. Nothing was issued.
    #[error("refused: the lockspace's own lease is no longer renewed, so nothing may be written under it (D2)")]
    Refused,
}

/// A failed I/O: what, where, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op} of {len} bytes at offset {offset} of {path}: {kind}")]
pub struct IoError {
    /// The device.
    pub path: Arc<str>,
    /// Read or write.
    pub op: Op,
    /// Byte offset on the device.
    pub offset: u64,
    /// Bytes asked for.
    pub len: usize,
    /// What happened.
    pub kind: IoErrorKind,
}

impl IoError {
    /// Whether a write that ended so may still reach the medium, now or later, in part or whole.
    #[must_use]
    pub const fn may_have_landed(&self) -> bool {
        !matches!(self.kind, IoErrorKind::NotIssued | IoErrorKind::NoCopy(_) | IoErrorKind::Refused)
    }
}
