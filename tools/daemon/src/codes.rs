//! The one table from our errors to the results that sanlock's clients know (spec D 7, A 14), and errors in full.

use delta_lease::renew::LostFound;
use delta_lease::{DeltaError, RenewError, SectorError};
use holdfast_io::disk::{IoError, IoErrorKind, Op};
use holdfast_io::leader::LeaderError;
use holdfast_io::sys::linux::OpenError;
use holdfast_io::units::LeaseOffset;
use holdfast_protocol::codes::ResultCode;
use nix::errno::Errno;
use paxos_lease::index::{HeaderError, IndexError};
use paxos_lease::request::RequestError;
use paxos_lease::{AcquireError, AreaError, AskError, LivenessError, RefusalKind, ReleaseError};

/// An error with everything behind it, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// Of an I/O.
#[must_use]
pub fn of_io(e: &IoError) -> ResultCode {
    match e.kind {
        // An error is never success, even one without a number.
        IoErrorKind::Failed(Errno::UnknownErrno) => ResultCode::EIO,
        IoErrorKind::Failed(errno) => ResultCode::from_errno(errno as i32),
        IoErrorKind::Short { .. } => ResultCode::EMSGSIZE,
        IoErrorKind::OutcomeUnknown | IoErrorKind::NotIssued => ResultCode::IO_TIMEOUT,
        IoErrorKind::Minority { .. } => ResultCode::EIO,
        IoErrorKind::NoCopy(_) => ResultCode::EOPNOTSUPP,
        IoErrorKind::Refused => ResultCode::ENOSPC,
    }
}

/// Of a path that cannot be used as a device.
#[must_use]
pub fn of_open(e: &OpenError) -> ResultCode {
    e.errno().map_or(ResultCode::ENODEV, ResultCode::from_errno)
}

/// Of a path that was opened apart. The outer error, that no thread was to be had, says nothing of the device: whoever asks
/// may ask again.
///
/// # Errors
/// Either, with the code for it.
pub fn opened<F>(opened: Result<Result<F, OpenError>, String>) -> Result<F, (ResultCode, String)> {
    match opened {
        Ok(Ok(file)) => Ok(file),
        Ok(Err(e)) => Err((of_open(&e), chain(&e))),
        Err(e) => Err((ResultCode::EAGAIN, format!("no thread to open it: {e}"))),
    }
}

/// Of a leader record of either kind.
#[must_use]
pub fn of_leader(e: &LeaderError) -> ResultCode {
    match e {
        LeaderError::Magic { .. } => ResultCode::LEADER_MAGIC,
        // A flag whose meaning is not known makes it a format that is not known.
        LeaderError::Version { .. } | LeaderError::UnknownFlags { .. } => ResultCode::LEADER_VERSION,
        LeaderError::Space { .. } => ResultCode::LEADER_LOCKSPACE,
        LeaderError::Resource { .. } => ResultCode::LEADER_RESOURCE,
        LeaderError::NumHosts { .. } => ResultCode::LEADER_NUM_HOSTS,
        LeaderError::Checksum { .. } => ResultCode::LEADER_CHECKSUM,
        LeaderError::Field { field: "sector_size", .. } => ResultCode::LEADER_SECTOR_SIZE,
        LeaderError::Field { .. } => ResultCode::LEADER_CHECKSUM,
    }
}

/// Of a delta sector.
#[must_use]
pub fn of_sector(e: &SectorError) -> ResultCode {
    match e {
        SectorError::Leader(e) => of_leader(e),
        SectorError::Seal(_) | SectorError::Area { .. } | SectorError::Owner { .. } => ResultCode::LEADER_CHECKSUM,
        SectorError::Geometry { .. } => ResultCode::LEADER_SECTOR_SIZE,
    }
}

/// Of a lockspace.
#[must_use]
pub fn of_delta(e: &DeltaError) -> ResultCode {
    match e {
        DeltaError::Io(e) => of_io(e),
        DeltaError::Sector { source, .. } => of_sector(source),
        DeltaError::Tail { .. } => ResultCode::LEADER_CHECKSUM,
        DeltaError::SectorSize { .. } => ResultCode::LEADER_SECTOR_SIZE,
        DeltaError::Geometry { .. } => ResultCode::LOCKSPACE_SIZES,
        DeltaError::HostId { .. } => ResultCode::LOCKSPACE_HOST_ID,
        DeltaError::Generation { .. } => ResultCode::LEADER_CHECKSUM,
        DeltaError::WriteVanished { .. } => ResultCode::EIO,
    }
}

/// Of a renewal.
#[must_use]
pub fn of_renewal(e: &RenewError) -> ResultCode {
    let lost = match e {
        RenewError::Io(e) => return of_io(e),
        RenewError::Lost(lost) => lost,
    };
    match &lost.found {
        LostFound::Owner { .. } | LostFound::Damaged(SectorError::Owner { .. }) => ResultCode::RENEW_OWNER,
        LostFound::Record { .. } | LostFound::Reformatted { .. } => ResultCode::RENEW_DIFFERS,
        LostFound::Damaged(e) => of_sector(e),
    }
}

/// Of a resource's area.
#[must_use]
pub fn of_area(e: &AreaError) -> ResultCode {
    match e {
        AreaError::Io(e) => of_io(e),
        AreaError::Leader { source, .. } => of_leader(source),
        AreaError::Blank { .. } | AreaError::Cleared { .. } => ResultCode::LEADER_MAGIC,
        AreaError::Seal { .. } | AreaError::OtherArea { .. } => ResultCode::LEADER_CHECKSUM,
        AreaError::Dblock { .. } | AreaError::ForeignWrite { .. } => ResultCode::DBLOCK_CHECKSUM,
        AreaError::Shape { .. } => ResultCode::LEADER_DIFFERS,
        AreaError::Copies { .. } => ResultCode::EINVAL,
        AreaError::NoRoom { .. } => ResultCode::EOPNOTSUPP,
        AreaError::ValueLost { .. } | AreaError::NoSlot { .. } => ResultCode::EIO,
        AreaError::Request { source: RequestError::Version { .. }, .. } => ResultCode::REQUEST_VERSION,
        AreaError::Request { .. } => ResultCode::REQUEST_MAGIC,
    }
}

/// Of an owner that was not asked.
#[must_use]
pub fn of_ask(e: &AskError) -> ResultCode {
    match e {
        AskError::Area(e) => of_area(e),
        AskError::Reached { .. } => ResultCode::REQUEST_OLD,
        AskError::Outbid { .. } => ResultCode::REQUEST_LVER,
    }
}

/// Of an acquire that failed.
#[must_use]
pub fn of_acquire(e: &AcquireError) -> ResultCode {
    match e {
        AcquireError::Area(e) | AcquireError::Obscured { source: e, .. } => of_area(e),
        AcquireError::Liveness(LivenessError::NotJoined { .. }) => ResultCode::NO_LOCKSPACE,
        AcquireError::Liveness(LivenessError::Io { source, .. }) => of_io(source),
        AcquireError::Liveness(LivenessError::Damaged { .. }) => ResultCode::LEADER_CHECKSUM,
        AcquireError::Lver { .. } => ResultCode::LVER_DIFFERS,
        AcquireError::NumHosts { .. } => ResultCode::EINVAL,
        AcquireError::Superseded { .. } => ResultCode::HELD_BY_LIVE_HOST,
        AcquireError::AlreadyShared { .. } => ResultCode::EEXIST,
        AcquireError::ClaimGone { .. } => ResultCode::RELEASE_OWNER,
        AcquireError::Share(e) => of_release(e),
        AcquireError::UsedUp { .. } => ResultCode::DBLOCK_CHECKSUM,
        AcquireError::Disagreement { .. } => ResultCode::LEADER_DIFFERS,
    }
}

/// Of an attempt to have the lease at `at` that failed. A write that is late is told by what it was to write, as in sanlock.
#[must_use]
pub fn of_attempt(e: &AcquireError, at: LeaseOffset) -> ResultCode {
    match e {
        AcquireError::Area(AreaError::Io(e)) if e.op == Op::Write && of_io(e) == ResultCode::IO_TIMEOUT => {
            if e.offset == at.0 { ResultCode::LEADER_WRITE } else { ResultCode::DBLOCK_WRITE }
        }
        other => of_acquire(other),
    }
}

/// Of work on an index.
#[must_use]
pub fn of_index(e: &IndexError) -> ResultCode {
    match e {
        IndexError::Io(e) => of_io(e),
        IndexError::Header { source, .. } => match **source {
            HeaderError::Magic { .. } | HeaderError::Seal(_) => ResultCode::RINDEX_MAGIC,
            HeaderError::Version { .. } | HeaderError::UnknownFlags { .. } | HeaderError::Sizes { .. } => {
                ResultCode::RINDEX_VERSION
            }
            HeaderError::Space { .. } => ResultCode::RINDEX_LOCKSPACE,
            HeaderError::Offset { .. } => ResultCode::RINDEX_OFFSET,
        },
        IndexError::TooFar { .. } | IndexError::Offset { .. } => ResultCode::RINDEX_OFFSET,
        IndexError::NotListed { .. } | IndexError::Full { .. } => ResultCode::ENOENT,
        IndexError::Listed { .. } => ResultCode::EEXIST,
        IndexError::Differs { .. } => ResultCode::RINDEX_DIFFERS,
        IndexError::InUse { .. } | IndexError::NothingToTake { .. } => ResultCode::EBUSY,
        IndexError::Changed { .. } => ResultCode::EAGAIN,
        IndexError::Stopped => ResultCode::ENOSPC,
        IndexError::Area(e) => of_area(e),
        IndexError::Acquire(e) => of_acquire(e),
        IndexError::Format(_) => ResultCode::EINVAL,
    }
}

/// Of an acquire that was refused.
#[must_use]
pub const fn of_refusal(kind: &RefusalKind) -> ResultCode {
    match kind {
        RefusalKind::Alive => ResultCode::HELD_BY_LIVE_HOST,
        RefusalKind::Silent => ResultCode::OWNER_NOT_DEAD_YET,
        RefusalKind::SharedHolders(_) => ResultCode::EAGAIN,
        RefusalKind::LostBallot => ResultCode::LOST_BALLOT,
        RefusalKind::CommittedOther => ResultCode::LOST_COMMIT,
        RefusalKind::SharedRetries => ResultCode::SHARED_RETRIES,
        RefusalKind::Stopped => ResultCode::ENOTTY,
    }
}

/// Of a release that failed.
#[must_use]
pub fn of_release(e: &ReleaseError) -> ResultCode {
    match e {
        ReleaseError::Area(e) => of_area(e),
        ReleaseError::StillInFlight { .. } => ResultCode::IO_TIMEOUT,
        ReleaseError::NotRenamed { .. } => ResultCode::GENERAL_ERROR,
        ReleaseError::Lver { .. } => ResultCode::RELEASE_LVER,
        ReleaseError::Record { .. } => ResultCode::RELEASE_OWNER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_write_of_an_attempt_is_told_by_its_sector_and_whatever_else_as_ever() {
        let failed = |op, offset, kind| {
            let error = IoError { path: "/dev/x".into(), op, offset, len: 512, kind };
            of_attempt(&AcquireError::Area(AreaError::Io(error)), LeaseOffset(1 << 20))
        };
        let late = IoErrorKind::OutcomeUnknown;
        assert_eq!(failed(Op::Write, 1 << 20, late), ResultCode::LEADER_WRITE);
        assert_eq!(failed(Op::Write, (1 << 20) + 1024, late), ResultCode::DBLOCK_WRITE);
        assert_eq!(failed(Op::Read, (1 << 20) + 1024, late), ResultCode::IO_TIMEOUT);
        assert_eq!(failed(Op::Write, 1 << 20, IoErrorKind::Failed(Errno::EIO)), ResultCode::EIO);
    }

    #[test]
    fn no_thread_to_open_a_device_is_no_word_on_the_device() {
        let (code, why) = opened::<()>(Err("out of threads".to_owned())).unwrap_err();
        assert_eq!(code, ResultCode::EAGAIN);
        assert!(why.contains("no thread to open it: out of threads"), "{why}");
        assert!(opened(Ok(Ok(()))).is_ok());
    }
}
