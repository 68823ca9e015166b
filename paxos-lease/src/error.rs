//! What can go wrong with a lease area. Normal outcomes (held by another host, outrun) are values and not here.

use std::fmt;
use std::sync::Arc;

use holdfast_io::disk::IoError;
use holdfast_io::ids::{Generation, HostId, HostTerm, Lver, ResourceName};
use holdfast_io::leader::LeaderError;
use holdfast_io::seal::{AreaUuid, SealError};
use holdfast_io::units::Geometry;

use crate::copies::Place;
use crate::dblock::DblockError;
use crate::liveness::{LivenessError, Verdict};
use crate::release::Retract;
use crate::request::RequestError;

/// A lease area that could not be read, trusted or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AreaError {
    /// The device.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The leader record is not what it must be (-223 to -229).
    #[error("leader record at offset {offset} of {path} cannot be used")]
    Leader {
        /// Device.
        path: Arc<str>,
        /// Byte offset on it.
        offset: u64,
        /// Which field, expected and found.
        source: Box<LeaderError>,
    },
    /// Nothing was ever formatted here (-223).
    #[error("no lease at offset {offset} of {path}: the sector is blank")]
    Blank {
        /// Device.
        path: Arc<str>,
        /// Byte offset on it.
        offset: u64,
    },
    /// The lease was cleared (-223).
    #[error("the lease at offset {offset} of {path} was cleared and has not been formatted since")]
    Cleared {
        /// Device.
        path: Arc<str>,
        /// Byte offset on it.
        offset: u64,
    },
    /// The seal of a leader, or of the sector with the area's UUID, is wrong.
    #[error("the seal of the {record} at offset {offset} of {path} is wrong")]
    Seal {
        /// "leader record" or "area UUID".
        record: &'static str,
        /// Device.
        path: Arc<str>,
        /// Byte offset on it.
        offset: u64,
        /// What is wrong.
        source: SealError,
    },
    /// The leader record was sealed for another area, or for an earlier format of this one.
    #[error("leader record at offset {offset} of {path} is sealed for area {}, expected {}", .found.0, .expected.0)]
    OtherArea {
        /// Device.
        path: Arc<str>,
        /// Byte offset on it.
        offset: u64,
        /// In the seal.
        found: AreaUuid,
        /// In the area's tail.
        expected: AreaUuid,
    },
    /// The request record is damaged (-270, -271).
    #[error("request record at offset {offset} of {path} cannot be trusted")]
    Request {
        /// Device.
        path: Arc<str>,
        /// Byte offset on it.
        offset: u64,
        /// What is wrong.
        source: RequestError,
    },
    /// A value that its lease has no room for.
    #[error("the lease at offset {offset} of {path} has no room for a value of {needed} bytes")]
    NoRoom {
        /// Device.
        path: Arc<str>,
        /// Byte offset on it.
        offset: u64,
        /// Bytes.
        needed: usize,
    },
    /// On several disks a value that no copy has as it was written (-EIO).
    #[error(
        "no copy of the lease at offset {offset} of {path} has its value of lver {lver}, of CRC 0x{expected:08x}, in sector {sector}"
    )]
    ValueLost {
        /// The disks.
        path: Arc<str>,
        /// Byte offset on the first.
        offset: u64,
        /// Under which version it was set.
        lver: Lver,
        /// Where it should be.
        sector: u32,
        /// Its CRC-32.
        expected: u32,
    },
    /// On several disks no sector is left in which no write may be on its way, to write a value to (-EIO).
    #[error(
        "no room for a value in the lease at offset {offset} of {path}: a write of an earlier one may be on its way to each of {slots} sectors"
    )]
    NoSlot {
        /// The disks.
        path: Arc<str>,
        /// Byte offset on the first.
        offset: u64,
        /// How many there are.
        slots: usize,
    },
    /// A host's dblock sector is damaged (-214). It may hide a shared holder or a committed value.
    #[error("dblock of host_id {host_id} at offset {offset} of {path} cannot be trusted")]
    Dblock {
        /// Device.
        path: Arc<str>,
        /// Byte offset on it.
        offset: u64,
        /// Whose.
        host_id: HostId,
        /// What is wrong.
        source: DblockError,
    },
    /// Our own dblock is not what we wrote there: somebody else uses our host_id (I1).
    #[error(
        "own dblock of host_id {host_id} at offset {offset} of {path} was changed by somebody else (I1): \
         found {found}, expected {expected}"
    )]
    ForeignWrite {
        /// Device.
        path: Arc<str>,
        /// Byte offset on it.
        offset: u64,
        /// Ours.
        host_id: HostId,
        /// lver, mbal, bal, inp and flags on disk.
        found: String,
        /// As we wrote them.
        expected: String,
    },
    /// The lease has another number of copies than it is used with.
    #[error(
        "the lease at offset {offset} of {path} has copies on other disks: this is {found:?}, used as one of {expected}"
    )]
    Copies {
        /// Device.
        path: Arc<str>,
        /// Byte offset of the sector that says so.
        offset: u64,
        /// Which copy of how many; `None`: the only one.
        found: Option<Place>,
        /// How many disks were named.
        expected: usize,
    },
    /// The area changes its shape while being read.
    #[error(
        "the lease at offset {offset} of {path} is now {found}, was {expected} a moment ago: is it being formatted?"
    )]
    Shape {
        /// Device.
        path: Arc<str>,
        /// Byte offset on it.
        offset: u64,
        /// In the latest leader record.
        found: Geometry,
        /// As it was read.
        expected: Geometry,
    },
}

/// Why an owner was not asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The area.
    #[error(transparent)]
    Area(#[from] AreaError),
    /// The version asked for is there already (-272).
    #[error("the lease at offset {offset} of {path} is at lver {found}: lver {asked} cannot be asked for any more")]
    Reached {
        /// Device.
        path: Arc<str>,
        /// Byte offset on it.
        offset: u64,
        /// The leader's.
        found: Lver,
        /// In the request.
        asked: Lver,
    },
    /// A later version was asked for before (-273).
    #[error("the request record at offset {offset} of {path} asks for lver {found} already, later than {asked}")]
    Outbid {
        /// Device.
        path: Arc<str>,
        /// Byte offset on it.
        offset: u64,
        /// On disk.
        found: Lver,
        /// In the request.
        asked: Lver,
    },
}

/// Why a damaged sector is not passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// Somebody is at work under its host_id.
    #[error("that host lives: it writes its sector anew when it acquires the lease and gives it back")]
    Alive,
    /// Somebody may be.
    #[error("that host may live: an acquire that waits goes on once its delta lease has been silent for long enough")]
    Silent,
    /// Its delta sector is damaged as well, or was never read.
    #[error("nothing is known of that host: is its delta sector damaged as well?")]
    Unknown,
    /// It says that there are versions of which the leader record does not know.
    #[error(
        "it may be the only one to know of later versions than {next}: see that nobody uses the lease, and format it anew"
    )]
    Later {
        /// The one that would be taken.
        next: Lver,
    },
    /// It was damaged in another way a moment ago.
    #[error("it does not read the same twice: is the path to the device sound?")]
    Changing,
    /// It is our own, and we share the lease.
    #[error("it is our own, under which we are at work on the lease")]
    Ours,
}

impl Unread {
    /// By what is known of its host.
    pub(crate) const fn of(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Alive { .. } => Unread::Alive,
            Verdict::Silent { .. } => Unread::Silent,
            Verdict::Unknown | Verdict::Gone(_) => Unread::Unknown,
        }
    }
}

/// Why an acquire could not come to an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcquireError {
    /// The area.
    #[error(transparent)]
    Area(#[from] AreaError),
    /// No verdict on the owner, or on a shared holder.
    #[error(transparent)]
    Liveness(#[from] LivenessError),
    /// The caller asked for another lease version (-240).
    #[error("lease at offset {offset} of {path} has lver {found}, expected {expected}")]
    Lver {
        /// Device.
        path: Arc<str>,
        /// Byte offset on it.
        offset: u64,
        /// On disk.
        found: Lver,
        /// Asked for.
        expected: Lver,
    },
    /// The caller's num_hosts does not fit the area, or leaves out our host_id.
    #[error("num_hosts {found} does not fit the lease at offset {offset} of {path}, expected {least} to {most}")]
    NumHosts {
        /// Device.
        path: Arc<str>,
        /// Byte offset on it.
        offset: u64,
        /// Asked for.
        found: u32,
        /// Our host_id.
        least: u64,
        /// What the area has room for.
        most: u32,
    },
    /// The lease names a later generation of our own host_id: our lockspace lease was taken over.
    #[error("lease at offset {offset} of {path} belongs to {found}, later than our own generation, {expected}")]
    Superseded {
        /// Device.
        path: Arc<str>,
        /// Byte offset on it.
        offset: u64,
        /// On disk.
        found: HostTerm,
        /// We.
        expected: HostTerm,
    },
    /// We hold the lease in shared mode: taking it exclusively is a conversion, and an acquire would erase our claim.
    #[error("this host holds the lease at offset {offset} of {path} in shared mode: convert it instead")]
    AlreadyShared {
        /// Device.
        path: Arc<str>,
        /// Byte offset on it.
        offset: u64,
    },
    /// We share the lease, and our mode block does not say so: a host that took us for dead has cleared it.
    #[error(
        "this host shares the lease at offset {offset} of {path}, and its mode block there names generation {found} \
         (0: nobody): another host has taken it for dead"
    )]
    ClaimGone {
        /// Device.
        path: Arc<str>,
        /// Byte offset on it.
        offset: u64,
        /// In our mode block.
        found: Generation,
    },
    /// The lease was won, and could not be turned into what was asked for.
    #[error(transparent)]
    Share(ReleaseError),
    /// A host's sector is damaged, and that host may be at work on the lease (-214).
    #[error("whether host_id {host_id} holds or shares the lease cannot be read, and {why}")]
    Obscured {
        /// Whose.
        host_id: HostId,
        /// Why it is not passed over.
        why: Unread,
        /// Where, and what is wrong with it.
        source: AreaError,
    },
    /// lver or ballot numbers are used up; only a damaged or forged record can bring that about.
    #[error("{field} at offset {offset} of {path} cannot rise any further: format the lease anew")]
    UsedUp {
        /// Device.
        path: Arc<str>,
        /// Byte offset on it.
        offset: u64,
        /// "lver" or "mbal".
        field: &'static str,
    },
    /// Two values were committed for one lver (I5): some host, or the device, broke the rules.
    #[error(
        "two owners were committed for lver {lver} at offset {offset} of {path} (I5): found {found:?}, expected {expected:?}"
    )]
    Disagreement {
        /// Device.
        path: Arc<str>,
        /// Byte offset on it.
        offset: u64,
        /// The lease version.
        lver: Lver,
        /// In the leader record.
        found: Option<HostTerm>,
        /// From the ballot.
        expected: Option<HostTerm>,
    },
}

impl AcquireError {
    /// Whether it is another host that stands in the way, and may not do so later.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        matches!(self, AcquireError::Obscured { why: Unread::Alive | Unread::Silent, .. })
    }
}

/// An acquire that failed, and what it leaves to be done.
#[derive(Debug)]
#[must_use = "a failed acquire may leave a proposal on disk that has to be retracted"]
pub struct AcquireFailed {
    /// Why.
    pub error: AcquireError,
    /// What was written and has to be undone with [`crate::release::retract`].
    pub undo: Option<Retract>,
}

/// Why a release did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// The area.
    #[error(transparent)]
    Area(#[from] AreaError),
    /// An earlier write of ours is still on its way, and the leader may not be judged before it is over.
    #[error("an earlier write to {path} is still on its way: the release of the lease at offset {offset} has to wait")]
    StillInFlight {
        /// Device.
        path: Arc<str>,
        /// Byte offset of the lease.
        offset: u64,
    },
    /// The lease is given back, and has kept its name.
    #[error(
        "the lease at offset {offset} of {path} is given back but not renamed to {name}: its leader record was written by host \
         {by}, who may still be at work on it"
    )]
    NotRenamed {
        /// Device.
        path: Arc<str>,
        /// Byte offset on it.
        offset: u64,
        /// The name it was to have.
        name: ResourceName,
        /// Who published the record.
        by: u64,
    },
    /// The leader record has another lver (-250).
    #[error("lease at offset {offset} of {path} has lver {found}, expected {expected}")]
    Lver {
        /// Device.
        path: Arc<str>,
        /// Byte offset on it.
        offset: u64,
        /// On disk.
        found: Lver,
        /// Ours.
        expected: Lver,
    },
    /// The leader record is not the one we hold the lease by (-251).
    #[error("leader record at offset {offset} of {path} has {field} {found}, expected {expected}")]
    Record {
        /// Device.
        path: Arc<str>,
        /// Byte offset on it.
        offset: u64,
        /// The first field that differs.
        field: &'static str,
        /// On disk.
        found: String,
        /// Ours.
        expected: String,
    },
}

/// A release that failed, and what it leaves to be done.
#[derive(Debug)]
#[must_use = "a failed release may have to be tried again"]
pub struct ReleaseFailed {
    /// Why.
    pub error: ReleaseError,
    /// To be handed to [`crate::release::retract`], again and again until it succeeds or D2 has passed. `None`: the lease
    /// is no longer ours to release.
    pub undo: Option<Retract>,
}

macro_rules! wraps_error {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.error.fmt(f)
            }
        }
        impl std::error::Error for $name {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                self.error.source()
            }
        }
    };
}
wraps_error!(AcquireFailed);
wraps_error!(ReleaseFailed);
