//! Areas that are about to be overwritten, to create a resource there or to clear one: what stands there, and whether that
//! may go.
//!
//! A lease of this lockspace may go if it can be *acquired*. The ballot proves that nobody holds it, exclusively or shared, and
//! from then on nobody else can: who tries finds us, alive. Held up after that past D2's instant, we write nothing (the disk
//! refuses); others take the lease once we are dead (D1). What may still happen is that a host which ran a ballot against ours
//! publishes our ownership late, over what we have made of the area: a leader record that names us, who do not use it. Ours
//! is the next ballot there, or host_dead's.
//!
//! Of leases of other lockspaces nothing is known here but what the disk says: those that are free may go (devices are used
//! again), others not. Lockspaces and indexes never may.
//!
//! I/O: R 4096 bytes; of a lease its acquire, or R area.

use holdfast_io::bytes::{array_at, u32_at};
use holdfast_io::clock::Clock;
use holdfast_io::disk::{Disk, IoError, IoErrorKind};
use holdfast_io::ids::{ResourceName, SpaceName};
use holdfast_io::leader::{self, Decoded, Expected, LeaderKind, LeaderRecord};
use holdfast_io::seal::{self, SealedKind};
use holdfast_io::units::{Geometry, LeaseOffset, SectorSize};

use super::change::{Change, Reserve};
use super::codec::{HEADER_LEN, MAGIC, geometry, rx_offset};
use super::error::IndexError;
use super::lease_name;
use crate::acquire::{Acquired, Options, RefusalKind, acquire};
use crate::area::LeaseAt;
use crate::copies::Place;
use crate::error::{AcquireError, AcquireFailed, AreaError};
use crate::layout::uuid_sector;
use crate::liveness::HostLiveness;
use crate::owners;
use crate::release::Held;

/// What stands in a resource's area.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Occupant {
    /// Nothing that anybody could hold.
    Nothing,
    /// A lease of this lockspace.
    Lease(ResourceName),
    /// A lease of another lockspace.
    Foreign,
    /// What stays, and why.
    Stays(String),
}

/// What the first sector of an area says of it, to somebody from lockspace `space`.
pub(super) fn occupant(sector: &[u8], space: SpaceName) -> Occupant {
    let bytes: [u8; leader::LEN] = array_at(sector, 0);
    let magic = u32_at(&bytes, 0);
    if magic == MAGIC {
        return Occupant::Stays("a resource index begins there".to_owned());
    }
    match LeaderKind::of_magic(magic) {
        None | Some(LeaderKind::Cleared) => Occupant::Nothing,
        Some(LeaderKind::Delta) => {
            Occupant::Stays(format!("lockspace {} begins there", LeaderRecord::parse(&bytes).space_name))
        }
        Some(LeaderKind::Paxos) => match LeaderRecord::decode(&bytes, LeaderKind::Paxos, &Expected::default()) {
            Ok(Decoded::Blank | Decoded::Cleared(_)) => Occupant::Nothing,
            Ok(Decoded::Record(r)) if r.space_name != space => Occupant::Foreign,
            Ok(Decoded::Record(r)) => Occupant::Lease(r.resource_name),
            // It may hide an owner.
            Err(e) => Occupant::Stays(format!("the leader record there is damaged: {e}")),
        },
    }
}

/// How it went.
pub(super) enum Seized {
    /// The area is nobody's.
    Free,
    /// The lease there is ours now.
    Ours(Box<Held>),
    /// It is not to be overwritten, and why.
    Stays(String),
}

impl<D: Disk, C: Clock, H: HostLiveness, R: Reserve> Change<'_, D, C, H, R> {
    /// What stands at `at`.
    pub(super) async fn look(&self, at: LeaseOffset) -> Result<Occupant, IndexError> {
        let reader = &self.reader;
        match reader.disk.read(at.0, SectorSize::B4096.bytes(), reader.deadline()).await {
            Ok(first) => match occupant(&first, reader.index.space) {
                Occupant::Lease(name) if name == lease_name() => self.lease_of_index(at, &first).await,
                found => Ok(found),
            },
            // Behind the end of a file, which grows, or of a device, which says so when it is written.
            Err(e) if is_end(&e) => Ok(Occupant::Nothing),
            Err(e) => Err(e.into()),
        }
    }

    /// The lease of an index, which stands an area before it - or did, in an index that was moved or has other sizes now.
    async fn lease_of_index(&self, at: LeaseOffset, first: &[u8]) -> Result<Occupant, IndexError> {
        let reader = &self.reader;
        let sizes = LeaderRecord::parse(&array_at(first, 0)).geometry();
        let before = sizes.and_then(|sizes| at.0.checked_sub(sizes.align().bytes()));
        let Some(before) = before else { return Ok(Occupant::Lease(lease_name())) };
        let header = reader.disk.read(before, SectorSize::B4096.bytes(), reader.deadline()).await?;
        let header: [u8; HEADER_LEN] = array_at(&header, 0);
        let its_own = u32_at(&header, 0) == MAGIC && rx_offset(&header) == before && geometry(&header) == sizes;
        Ok(match its_own {
            true => Occupant::Stays("the lease of another resource index stands there".to_owned()),
            false => Occupant::Lease(lease_name()),
        })
    }

    /// Sees to it that what stands at `at` is nobody's, or ours.
    pub(super) async fn seize(&mut self, at: LeaseOffset, found: Occupant) -> Result<Seized, IndexError> {
        match found {
            Occupant::Nothing => Ok(Seized::Free),
            Occupant::Stays(why) => Ok(Seized::Stays(why)),
            Occupant::Foreign => self.foreign(at).await,
            Occupant::Lease(resource) => self.take(at, resource).await,
        }
    }

    async fn take(&mut self, at: LeaseOffset, resource: ResourceName) -> Result<Seized, IndexError> {
        let reader = &self.reader;
        let lease = LeaseAt { at, space: reader.index.space, resource, geometry_hint: self.geometry };
        let options = Options { backoff_seed: reader.clock.now().as_nanos() ^ at.0, ..Options::default() };
        let mut again = true;
        loop {
            let ended = acquire(reader.disk, reader.clock, self.hosts, &lease, self.me, &options, self.stop).await;
            let refusal = match ended {
                Ok(Acquired::Ours(held)) => return Ok(Seized::Ours(Box::new(held))),
                Ok(Acquired::Theirs(refusal)) => refusal,
                Err(AcquireFailed {
                    error: AcquireError::Area(AreaError::Copies { found: Some(_), .. }),
                    undo: None,
                }) => {
                    return Ok(Seized::Stays(format!("a copy of resource {resource}, on several disks, stands there")));
                }
                Err(failed) => {
                    self.left.undo.extend(failed.undo);
                    return Err(IndexError::Acquire(Box::new(failed.error)));
                }
            };
            // What a host that has crashed meanwhile had committed is published by our ballot; then it is found gone.
            let published = refusal.kind == RefusalKind::CommittedOther && refusal.undo.is_none();
            if published && std::mem::take(&mut again) {
                continue;
            }
            self.left.undo.extend(refusal.undo);
            let who = refusal.owner.map_or_else(String::new, |owner| format!(" by {owner}"));
            return match refusal.kind {
                RefusalKind::Stopped => Err(IndexError::Stopped),
                kind => Ok(Seized::Stays(format!("resource {resource} is held there{who} ({kind:?})"))),
            };
        }
    }

    async fn foreign(&self, at: LeaseOffset) -> Result<Seized, IndexError> {
        let reader = &self.reader;
        let stays = |why: String| Ok(Seized::Stays(format!("a lease of another lockspace stands there: {why}")));
        let first = reader.disk.read(at.0, SectorSize::B4096.bytes(), reader.deadline()).await?;
        let record = LeaderRecord::parse(&array_at(&first, 0));
        let Some(geometry) = record.geometry() else { return stays("its sizes are none".to_owned()) };
        let area = reader.disk.read(at.0, geometry.area_len(), reader.deadline()).await?;
        // Who holds a lease on several disks one of them does not say.
        if is_copy(&area, geometry) {
            return stays(format!("of {}, one of several copies", record.space_name));
        }
        match owners::read(&LeaderRecord::parse(&array_at(&area, 0)), geometry, &area, 1) {
            Ok(owners) if owners.exclusive.is_none() && owners.shared.is_empty() => Ok(Seized::Free),
            Ok(owners) => stays(format!("of {}, held by {owners:?}", record.space_name)),
            Err((host, e)) => stays(format!("of {}, dblock of host_id {host}: {e}", record.space_name)),
        }
    }
}

/// Whether an area of a lease is one of several copies, or may be: a damaged sector does not say.
fn is_copy(area: &[u8], geometry: Geometry) -> bool {
    let at = uuid_sector(geometry);
    let sector = &area[at.at(geometry.sector())..][..geometry.sector().bytes()];
    match seal::read(sector, SealedKind::Plain, at) {
        Ok(sealed) => sealed.is_some() && Place::of_sealed(sector).is_some(),
        Err(_) => true,
    }
}

/// Whether a read failed because there is no more.
pub(super) const fn is_end(e: &IoError) -> bool {
    matches!(e.kind, IoErrorKind::Short { .. })
}
