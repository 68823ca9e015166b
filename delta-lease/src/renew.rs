//! Keeping a lease, and giving it back (spec D 3.4, 3.5).
//!
//! Renewal: read the whole area; our own sector must be what this very process wrote last; write it anew with the time
//! of now. I/O: 1. read one area; 2. write one sector. Release: 1. read our sector; 2. write it with timestamp 0.
//!
//! **Which of our own images may stand on disk.** The last confirmed one, and after a write whose outcome is unknown
//! that one too. I6 keeps this short: a write is issued only once the one before it is over. So what a read can find
//! is what it found last time, or the newest write before it, and nothing else of ours can ever come back. Anything
//! but these means that somebody else wrote here; the lease is lost, for good.

use std::fmt;
use std::sync::Arc;

use holdfast_io::clock::{Clock, LocalInstant};
use holdfast_io::disk::{Disk, IoError};
use holdfast_io::ids::{Generation, HostName, HostTerm, RemoteTimestamp};
use holdfast_io::leader::LeaderRecord;
use holdfast_io::planted::{Bug, planted};
use holdfast_io::seal::{AreaUuid, SealedFire};
use holdfast_io::sys::aligned::AlignedBuf;

use crate::bitmap::HostBitmap;
use crate::error::SectorError;
use crate::host::LocalHost;
use crate::layout::DeltaArea;
use crate::look::{AreaView, read_area, read_sector};
use crate::sector::DeltaSector;

/// A lease of ours. It ends by [`Held::release`], by being lost, or by being dropped: then others wait it out.
pub struct Held {
    area: DeltaArea,
    host: LocalHost,
    /// What we wrote last, as the pattern of the next write.
    sector: DeltaSector,
    /// Images of ours that may stand on disk, in the order in which they were issued; never empty.
    images: Vec<AlignedBuf>,
    started_at: LocalInstant,
    /// D2 is final from here on, see [`Held::comes_into_force`].
    in_force: bool,
    /// D2's instant came before a renewal did.
    expired: bool,
    lost: Option<Lost>,
}

/// The one host event that a sector can carry (spec D 2.2: extra1 to extra3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostEvent {
    /// The generation it is meant for.
    pub generation: u64,
    /// The event; 0 for none.
    pub event: u64,
    /// Its data.
    pub data: u64,
}

/// What a renewal tells the other hosts beside that we live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Publication {
    /// The event slot.
    pub event: HostEvent,
    /// Whom it calls.
    pub bitmap: HostBitmap,
}

/// Both results of a renewal: what it read, and whether it renewed. The first is good without the second.
#[derive(Debug)]
pub struct Renewal {
    /// The area as read, for [`crate::liveness::HostTable`]; `None` if the read failed.
    pub view: Option<AreaView>,
    /// The new [`Held::started_at`].
    pub result: Result<LocalInstant, RenewError>,
}

/// Why a renewal did not renew.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenewError {
    /// The disk; try again.
    #[error(transparent)]
    Io(#[from] IoError),
    /// Somebody else wrote our sector, or the area was formatted. Final: end everything guarded now.
    #[error(transparent)]
    Lost(#[from] Box<Lost>),
}

/// A lease that is no longer ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lease of {expected} at offset {offset} of {path} is lost: {found}")]
pub struct Lost {
    /// The device.
    pub path: Arc<str>,
    /// Where our sector is, bytes.
    pub offset: u64,
    /// What we held.
    pub expected: HostTerm,
    /// What stands there now.
    pub found: LostFound,
}

/// What stands where our lease was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LostFound {
    /// Another generation or name: somebody took the host_id (sanlock's -260).
    Owner {
        /// Its name.
        name: HostName,
        /// Its generation.
        generation: Generation,
        /// Its timestamp; 0: the host_id is free.
        timestamp: RemoteTimestamp,
    },
    /// Our name and generation, but not what this process wrote (sanlock's -261).
    Record {
        /// The timestamp found.
        timestamp: RemoteTimestamp,
    },
    /// No valid delta sector of this area.
    Damaged(SectorError),
    /// The area was formatted anew under us.
    Reformatted {
        /// The UUID it has now.
        found: AreaUuid,
    },
}

impl fmt::Display for LostFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LostFound::Owner { name, generation, timestamp } if timestamp.is_free() => {
                write!(f, "the sector was freed by {name:?} (generation {generation})")
            }
            LostFound::Owner { name, generation, .. } => {
                write!(f, "the host_id was taken by {name:?} (generation {generation})")
            }
            LostFound::Record { timestamp } => {
                write!(
                    f,
                    "the sector shows our name and generation, but a record (timestamp {timestamp}) not written here"
                )
            }
            LostFound::Damaged(e) => write!(f, "{e}"),
            LostFound::Reformatted { found } => write!(f, "the lease area was formatted anew (UUID {})", found.0),
        }
    }
}

/// Why a release did not release. Only a lease that nothing was written to can be tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// Nothing was written: the lease is still held.
    #[error("not released: {source}")]
    NotWritten {
        /// To renew, or to release again.
        held: Box<Held>,
        /// The failed read, or the write that was never issued.
        source: IoError,
    },
    /// The freeing write may land, now or later. The host must stay under the watchdog until it is reaped (D3).
    #[error("released or not: {0}")]
    InDoubt(IoError),
    /// It was not ours any more; nothing was written.
    #[error(transparent)]
    Lost(Box<Lost>),
    /// It was not renewed in time: D2 allows no word about it any more, and others wait until it counts as dead.
    #[error("the lease of {term} is past its instant, and left to host_dead (D2)")]
    Expired {
        /// What we held.
        term: HostTerm,
    },
}

impl Held {
    /// A lease whose write `image` was read back.
    pub(crate) fn confirmed(
        area: DeltaArea,
        host: LocalHost,
        sector: DeltaSector,
        image: AlignedBuf,
        started_at: LocalInstant,
    ) -> Self {
        Held { area, host, sector, images: vec![image], started_at, in_force: false, expired: false, lost: None }
    }

    /// Our host_id and generation.
    #[must_use]
    pub const fn term(&self) -> HostTerm {
        HostTerm { host_id: self.host.host_id, generation: self.generation() }
    }

    /// The generation of this join.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.sector.leader.owner_generation
    }

    /// The area.
    #[must_use]
    pub const fn area(&self) -> &DeltaArea {
        &self.area
    }

    /// Who we are in it.
    #[must_use]
    pub const fn host(&self) -> &LocalHost {
        &self.host
    }

    /// The start of the last successful renewal, taken before its write was issued: D2 counts from here.
    #[must_use]
    pub const fn started_at(&self) -> LocalInstant {
        self.started_at
    }

    /// Something may be held under this lease from now on: D2 is final. Before, a join that settled for longer than its
    /// own term lasts is renewed first.
    pub const fn comes_into_force(&mut self) {
        self.in_force = true;
    }

    /// D2's instant: from then on nothing is protected and nothing but renewal attempts is written.
    #[must_use]
    pub fn fails_at(&self) -> LocalInstant {
        self.started_at.after(self.host.timing().id_renewal_fail())
    }

    /// Why it is lost, once it is.
    #[must_use]
    pub const fn lost(&self) -> Option<&Lost> {
        self.lost.as_ref()
    }

    /// Changes what the next renewals promise of our watchdog. A longer time must be on disk before it is on the
    /// device, a shorter one on the device before it is on disk (D3).
    pub const fn set_fire(&mut self, fire: SealedFire) {
        self.host.fire = fire;
    }

    /// Renews once. A lost lease stays lost, without any I/O.
    pub async fn renew<D: Disk, C: Clock>(&mut self, disk: &D, clock: &C, publish: &Publication) -> Renewal {
        if let Some(lost) = &self.lost {
            return Renewal { view: None, result: Err(Box::new(lost.clone()).into()) };
        }
        let deadline = clock.now().after(self.host.timing().io_deadline());
        let view = match read_area(disk, clock, &self.area, deadline).await {
            Ok(view) => view,
            Err(e) => return Renewal { view: None, result: Err(e.into()) },
        };
        if let Err(lost) = self.still_ours(&view, disk.path()) {
            tracing::error!(%lost, "host_id lease lost");
            self.lost = Some((*lost).clone());
            return Renewal { view: Some(view), result: Err(lost.into()) };
        }
        let HostEvent { generation, event, data } = publish.event;
        let leader = &mut self.sector.leader;
        (leader.write_id, leader.write_generation, leader.write_timestamp) = (generation, event, data);
        self.sector.bitmap = publish.bitmap;
        let result = self.write(disk, clock, view.read_ended).await.map_err(RenewError::from);
        Renewal { view: Some(view), result }
    }

    /// Writes our sector with the time of now. `seen_at`: when the look ended that showed it to be ours.
    ///
    /// The write is not begun later than one io_timeout after that look, so a pause in between makes it fail rather
    /// than overwrite a host that took the sector meanwhile. If it lands late all the same, it shows our old generation
    /// with a nonzero timestamp: it frees nothing, and the taker sees its sector changed.
    pub(crate) async fn write<D: Disk, C: Clock>(
        &mut self,
        disk: &D,
        clock: &C,
        seen_at: LocalInstant,
    ) -> Result<LocalInstant, IoError> {
        let started_at = clock.now();
        let sector = self.dated(RemoteTimestamp(started_at.disk_seconds()), started_at);
        assert!(!sector.leader.is_free(), "a renewal never writes timestamp 0");
        let image = sector.encode(self.area.geometry.sector());
        let io_deadline = self.host.timing().io_deadline();
        let deadline = started_at.after(io_deadline).min(seen_at.after(io_deadline));
        match disk.write(self.area.offset_of(self.host.host_id), image.clone(), deadline).await {
            Ok(()) => {
                self.images = vec![image];
                self.sector = sector;
                // D2 is final: a renewal that is not over before its instant stands on the disk, and revives nothing.
                self.expired |= self.in_force && clock.now() >= self.fails_at();
                if self.expired {
                    return Ok(started_at);
                }
                self.started_at = if planted(Bug::RenewalCountsFromTheEnd) { clock.now() } else { started_at };
                Ok(self.started_at)
            }
            Err(e) => {
                if e.may_have_landed() {
                    self.images.push(image);
                }
                Err(e)
            }
        }
    }

    /// Writes our sector under the next generation; nothing is held under this one. `seen_at`: as for `write`.
    pub(crate) async fn raise<D: Disk, C: Clock>(
        &mut self,
        disk: &D,
        clock: &C,
        seen_at: LocalInstant,
    ) -> Result<(), IoError> {
        self.sector.leader.owner_generation = self.generation().next();
        self.write(disk, clock, seen_at).await.map(drop)
    }

    /// Whether the sector's bytes are no image of ours.
    pub(crate) fn shows_another(&mut self, bytes: &[u8], path: &Arc<str>) -> bool {
        self.recognise(bytes, path).is_err()
    }

    fn dated(&self, timestamp: RemoteTimestamp, now: LocalInstant) -> DeltaSector {
        let leader = LeaderRecord { timestamp, ..self.sector.leader };
        DeltaSector { leader, seal: Some(self.host.seal(self.area.uuid, now)), ..self.sector }
    }

    /// Gives the lease back: timestamp 0, owner, generation and name kept, so that the next generation is above ours.
    /// Nothing guarded is left, every other write of this lockspace is reaped (the caller's part).
    ///
    /// # Errors
    /// See [`ReleaseError`].
    pub async fn release<D: Disk, C: Clock>(mut self, disk: &D, clock: &C) -> Result<(), ReleaseError> {
        if let Some(lost) = self.lost.take() {
            return Err(ReleaseError::Lost(Box::new(lost)));
        }
        if self.expired {
            return Err(ReleaseError::Expired { term: self.term() });
        }
        let io_deadline = self.host.timing().io_deadline();
        let deadline = clock.now().after(io_deadline);
        let view = match read_sector(disk, clock, &self.area, self.host.host_id, deadline).await {
            Ok(view) => view,
            Err(source) => return Err(ReleaseError::NotWritten { held: Box::new(self), source }),
        };
        self.recognise(&view.bytes, disk.path()).map_err(ReleaseError::Lost)?;
        let mut freed = self.dated(RemoteTimestamp::FREE, clock.now());
        freed.bitmap = HostBitmap::EMPTY;
        // This is the one write that frees, so it is not even begun past D2's instant, nor long after the look: nobody
        // can have taken the sector by then (D1 is longer than D2). If it lands late, over a taker's sector, that took
        // D1's silence: this host was under the watchdog all the while and the watchdog's time was up; and readers
        // take a freed record of our generation for no word on a newer one.
        let deadline = view.read_ended.after(io_deadline).min(self.fails_at());
        let image = freed.encode(self.area.geometry.sector());
        match disk.write(self.area.offset_of(self.host.host_id), image, deadline).await {
            Ok(()) => Ok(()),
            Err(e) if e.may_have_landed() => Err(ReleaseError::InDoubt(e)),
            Err(source) => Err(ReleaseError::NotWritten { held: Box::new(self), source }),
        }
    }

    /// Whether a whole area still shows our lease.
    fn still_ours(&mut self, view: &AreaView, path: &Arc<str>) -> Result<(), Box<Lost>> {
        // Formatting zeroes our sector, but a renewal that crossed it writes it back: the tail's UUID tells. A damaged
        // tail tells nothing, and takes nothing from us.
        match view.uuid() {
            Ok(found) if found != self.area.uuid => return Err(self.loss(path, LostFound::Reformatted { found })),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the sector with the area's UUID is damaged"),
        }
        self.recognise(view.sector(self.host.host_id), path)
    }

    /// Finds the image of ours that `bytes` are, and forgets those that can no longer come back (head of this file).
    fn recognise(&mut self, bytes: &[u8], path: &Arc<str>) -> Result<(), Box<Lost>> {
        let Some(found) = self.images.iter().rposition(|image| **image == *bytes) else {
            let found = self.what_is(bytes);
            if planted(Bug::SuccessorOverlooked) && matches!(found, LostFound::Owner { .. }) {
                return Ok(());
            }
            return Err(self.loss(path, found));
        };
        let newest = self.images.len() - 1;
        let mut place = 0..;
        self.images.retain(|_| place.next().is_some_and(|i: usize| i == found || i == newest));
        assert!(!self.images.is_empty(), "the image just found is kept");
        Ok(())
    }

    fn what_is(&self, bytes: &[u8]) -> LostFound {
        match self.area.decode(self.host.host_id, bytes) {
            Err(e) => LostFound::Damaged(e),
            Ok(sector) => {
                let LeaderRecord { timestamp, .. } = sector.leader;
                let (name, generation) = (sector.host_name(), sector.generation());
                if name == self.host.name && generation == self.generation() {
                    LostFound::Record { timestamp }
                } else {
                    LostFound::Owner { name, generation, timestamp }
                }
            }
        }
    }

    fn loss(&self, path: &Arc<str>, found: LostFound) -> Box<Lost> {
        let offset = self.area.offset_of(self.host.host_id);
        Box::new(Lost { path: Arc::clone(path), offset, expected: self.term(), found })
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut held = f.debug_struct("Held");
        held.field("term", &self.term()).field("started_at", &self.started_at).field("lost", &self.lost).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acquire::{Joined, Past, acquire};
    use crate::error::DeltaError;
    use crate::testing::{Fault, Record, Rig, at, host_id, machine, sealed_sector, x};
    use holdfast_io::disk::{IoErrorKind, Op};
    use holdfast_io::stop::Stop;
    use holdfast_io::timing::FireTimeout;
    use holdfast_io::units::{Geometry, SectorSize};
    use proptest::prelude::*;
    use std::time::Duration;

    fn joined(geometry: Geometry) -> (Rig, Held) {
        let rig = Rig::formatted(geometry);
        let held = join(&rig).unwrap();
        (rig, held)
    }

    fn join(rig: &Rig) -> Result<Held, DeltaError> {
        let host = LocalHost {
            host_id: host_id(3),
            name: HostName::new(b"me").unwrap(),
            machine: machine(1, 1),
            io_timeout: x(10),
            fire: SealedFire::Within(FireTimeout::SANLOCK),
        };
        match pollster::block_on(acquire(
            &rig.disk,
            &rig.clock,
            &rig.area,
            &host,
            Past::default(),
            &Stop::new(),
            async |_| (),
        ))? {
            Joined::Ours(held) => Ok(*held),
            other => panic!("{other:?}"),
        }
    }

    fn small() -> (Rig, Held) {
        joined(Geometry::ALL[0])
    }

    fn renew(rig: &Rig, held: &mut Held) -> Renewal {
        pollster::block_on(held.renew(&rig.disk, &rig.clock, &Publication::default()))
    }

    /// A renewal later than the one before.
    fn renew_later(rig: &Rig, held: &mut Held) -> Renewal {
        rig.clock.pass(Duration::from_secs(1));
        renew(rig, held)
    }

    fn release(rig: &Rig, held: Held) -> Result<(), ReleaseError> {
        pollster::block_on(held.release(&rig.disk, &rig.clock))
    }

    fn lost(renewal: Renewal) -> LostFound {
        match renewal.result {
            Err(RenewError::Lost(lost)) => lost.found,
            other => panic!("{other:?}"),
        }
    }

    fn io_kind(renewal: &Renewal) -> IoErrorKind {
        match &renewal.result {
            Err(RenewError::Io(e)) => e.kind,
            other => panic!("{other:?}"),
        }
    }

    fn place(rig: &Rig) -> usize {
        usize::try_from(rig.area.offset_of(host_id(3))).unwrap()
    }

    #[test]
    fn a_renewal_reads_the_area_once_and_writes_its_sector_once() {
        for geometry in Geometry::ALL {
            let (rig, mut held) = joined(geometry);
            let before = rig.engine().log().len();
            rig.clock.pass(Duration::from_secs(3));
            let started = rig.clock.now();
            let mut publish =
                Publication { event: HostEvent { generation: 4, event: 5, data: 6 }, ..Publication::default() };
            publish.bitmap.insert(host_id(9));
            let renewal = pollster::block_on(held.renew(&rig.disk, &rig.clock, &publish));
            assert_eq!(renewal.result, Ok(started));
            assert_eq!(renewal.view.unwrap().bytes().len(), geometry.area_len());
            let log: Vec<_> = rig.engine().log()[before..].iter().map(|r| (r.op, r.at, r.len)).collect();
            let own = (Op::Write, rig.area.offset_of(host_id(3)), geometry.sector().bytes());
            assert_eq!(log, [(Op::Read, rig.area.at.0, geometry.area_len()), own]);
            assert_eq!((held.started_at(), held.fails_at()), (started, started.after(Duration::from_secs(80))));
            let sector = rig.sector(host_id(3));
            assert_eq!(sector.leader.timestamp, RemoteTimestamp(1023));
            assert_eq!(sector.bitmap, publish.bitmap);
            let leader = sector.leader;
            assert_eq!((leader.write_id, leader.write_generation, leader.write_timestamp), (4, 5, 6));
            assert!(renew_later(&rig, &mut held).result.is_ok());
        }
    }

    #[test]
    fn d2_a_slow_renewal_counts_from_before_its_write() {
        let (rig, mut held) = small();
        rig.engine().fault(Op::Read, 1, Fault::Slow(Duration::from_secs(2)));
        rig.engine().fault(Op::Write, 1, Fault::Late(Duration::from_secs(3)));
        let start = rig.clock.now();
        let renewal = renew(&rig, &mut held);
        let write_started = start.after(Duration::from_secs(2));
        assert_eq!((renewal.result, held.started_at()), (Ok(write_started), write_started));
        assert_eq!(rig.clock.now(), start.after(Duration::from_secs(5)));
        let view = renewal.view.unwrap();
        assert_eq!((view.read_started, view.read_ended), (start, write_started));
    }

    #[test]
    fn a_change_of_the_fire_timeout_is_sealed_by_the_next_renewal() {
        let (rig, mut held) = small();
        let fire = SealedFire::Within(FireTimeout::new(20).unwrap());
        held.set_fire(fire);
        assert!(renew(&rig, &mut held).result.is_ok());
        assert_eq!(rig.sector(host_id(3)).seal.unwrap().fire, fire);
        assert!(renew_later(&rig, &mut held).result.is_ok());
    }

    #[test]
    fn a_read_that_fails_leaves_the_lease_as_it_was() {
        let (rig, mut held) = small();
        for fault in [Fault::Fail, Fault::Hold] {
            rig.engine().fault(Op::Read, 1, fault);
            let (started, writes) = (held.started_at(), rig.engine().writes());
            let renewal = renew_later(&rig, &mut held);
            assert!(renewal.view.is_none());
            io_kind(&renewal);
            assert_eq!((held.started_at(), rig.engine().writes()), (started, writes));
        }
        assert!(renew_later(&rig, &mut held).result.is_ok());
    }

    #[test]
    fn a_view_is_handed_out_even_if_the_write_then_fails() {
        for fault in [Fault::Fail, Fault::FailLanded, Fault::Hold] {
            let (rig, mut held) = small();
            let started = held.started_at();
            rig.engine().fault(Op::Write, 1, fault);
            let renewal = renew_later(&rig, &mut held);
            assert!(renewal.view.is_some() && renewal.result.is_err());
            assert_eq!(held.started_at(), started, "only an acknowledged write counts (D2)");
        }
    }

    #[test]
    fn after_a_failed_write_both_its_image_and_the_one_before_are_ours() {
        for fault in [Fault::Fail, Fault::FailLanded] {
            let (rig, mut held) = small();
            rig.engine().fault(Op::Write, 1, fault);
            io_kind(&renew_later(&rig, &mut held));
            assert!(renew_later(&rig, &mut held).result.is_ok(), "{fault:?}");
            assert!(renew_later(&rig, &mut held).result.is_ok(), "{fault:?}");
        }
    }

    #[test]
    fn i6_a_write_that_lands_late_is_waited_for_and_recognised() {
        let (rig, mut held) = small();
        rig.engine().fault(Op::Write, 1, Fault::Hold);
        assert_eq!(io_kind(&renew_later(&rig, &mut held)), IoErrorKind::OutcomeUnknown);
        assert_eq!(io_kind(&renew_later(&rig, &mut held)), IoErrorKind::NotIssued);
        // It lands while the next renewal waits to write, after that one has read the area.
        let (engine, soon) = (rig.engine().clone(), rig.clock.now().after(Duration::from_secs(4)));
        rig.clock.schedule(soon, move || engine.land_held());
        assert!(renew_later(&rig, &mut held).result.is_ok());
        assert!(renew_later(&rig, &mut held).result.is_ok());
    }

    #[test]
    fn an_image_that_can_no_longer_come_back_is_not_ours_any_more() {
        let (rig, mut held) = small();
        let old = rig.sector_bytes(host_id(3));
        assert!(renew_later(&rig, &mut held).result.is_ok());
        let from = place(&rig);
        rig.medium()[from..from + 512].copy_from_slice(&old);
        // A rolled-back snapshot, say.
        assert_eq!(lost(renew_later(&rig, &mut held)), LostFound::Record { timestamp: RemoteTimestamp(1000) });
    }

    #[test]
    fn a_stuck_disk_does_not_grow_the_list_of_images() {
        let (rig, mut held) = small();
        for _ in 0..20 {
            rig.engine().fault(Op::Write, 1, Fault::Fail);
            io_kind(&renew_later(&rig, &mut held));
            assert!(held.images.len() <= 3);
        }
        assert!(renew_later(&rig, &mut held).result.is_ok());
        assert_eq!(held.images.len(), 1);
    }

    #[test]
    fn a_lease_taken_by_another_host_is_lost_for_good_and_left_alone() {
        let (rig, mut held) = small();
        let taker = sealed_sector(3, 2, 77);
        rig.put_sector(&taker);
        let renewal = renew_later(&rig, &mut held);
        assert!(renewal.view.is_some());
        let found = LostFound::Owner {
            name: HostName::new(b"host").unwrap(),
            generation: Generation(2),
            timestamp: RemoteTimestamp(77),
        };
        assert_eq!(lost(renewal), found);
        let ios = rig.engine().log().len();
        let again = renew_later(&rig, &mut held);
        assert!(again.view.is_none());
        assert_eq!(lost(again), found);
        assert_eq!(held.lost().map(|l| &l.found), Some(&found));
        let released = release(&rig, held).unwrap_err();
        assert!(
            released.to_string().ends_with("is lost: the host_id was taken by \"host\" (generation 2)"),
            "{released}"
        );
        assert_eq!(rig.engine().log().len(), ios, "no I/O once it is lost");
        assert_eq!(rig.sector(host_id(3)), taker);
    }

    #[test]
    fn our_name_and_generation_in_a_record_not_written_here_is_lost() {
        let (rig, mut held) = small();
        let mut other = rig.sector(host_id(3));
        other.leader.timestamp = RemoteTimestamp(1001);
        rig.put_sector(&other);
        assert_eq!(lost(renew(&rig, &mut held)), LostFound::Record { timestamp: RemoteTimestamp(1001) });
    }

    #[test]
    fn every_changed_byte_of_our_sector_is_noticed() {
        let (rig, held) = small();
        let good = rig.sector_bytes(host_id(3));
        for byte in 0..good.len() {
            let mut bytes = good.clone();
            bytes[byte] ^= 0x10;
            let mut held = Held::confirmed(
                held.area,
                held.host,
                held.sector.clone(),
                AlignedBuf::from_slice(&good),
                held.started_at,
            );
            let lost = held.recognise(&bytes, &Arc::from("disk")).unwrap_err();
            assert!(matches!(lost.found, LostFound::Damaged(_)), "byte {byte}: {lost}");
        }
    }

    #[test]
    fn an_area_formatted_under_us_is_noticed_even_if_our_renewal_wrote_our_sector_back() {
        let (rig, mut held) = small();
        let tail = rig.tail();
        let uuid = rig.medium()[tail + 224];
        rig.medium()[tail + 224] = uuid ^ 1;
        assert!(renew_later(&rig, &mut held).result.is_ok(), "a damaged tail says nothing");
        rig.medium()[tail..tail + 512].fill(0);
        assert_eq!(lost(renew_later(&rig, &mut held)), LostFound::Reformatted { found: AreaUuid::NONE });
    }

    #[test]
    fn a_pause_between_read_and_write_makes_the_renewal_fail_instead_of_overwriting_a_taker() {
        let (rig, mut held) = small();
        let seen_at = rig.clock.now();
        rig.clock.pass(Duration::from_secs(200));
        let taker = sealed_sector(3, 2, 77);
        rig.put_sector(&taker);
        let error = pollster::block_on(held.write(&rig.disk, &rig.clock, seen_at)).unwrap_err();
        assert_eq!(error.kind, IoErrorKind::NotIssued);
        assert_eq!(rig.sector(host_id(3)), taker);
    }

    #[test]
    fn a_release_reads_once_writes_once_and_keeps_who_held_it() {
        let (rig, mut held) = small();
        let mut publish =
            Publication { event: HostEvent { generation: 4, event: 5, data: 6 }, ..Publication::default() };
        publish.bitmap.insert(host_id(9));
        rig.clock.pass(Duration::from_secs(1));
        pollster::block_on(held.renew(&rig.disk, &rig.clock, &publish)).result.unwrap();
        let renewed = rig.sector(host_id(3));
        let before = rig.engine().log().len();
        release(&rig, held).unwrap();
        let log: Vec<Record> = rig.engine().log()[before..].to_vec();
        let own = rig.area.offset_of(host_id(3));
        assert_eq!(log.iter().map(|r| r.op).collect::<Vec<_>>(), [Op::Read, Op::Write]);
        assert!(log.iter().all(|r| r.at == own && r.len == 512));
        let freed = rig.sector(host_id(3));
        assert_eq!(freed.leader, LeaderRecord { timestamp: RemoteTimestamp::FREE, ..renewed.leader });
        assert!(freed.bitmap.is_empty());
        assert_eq!(join(&rig).unwrap().generation(), Generation(2), "the next join counts on");
    }

    #[test]
    fn d2_a_release_is_not_begun_past_the_leases_own_end() {
        let (rig, held) = small();
        assert_eq!(held.fails_at(), at(1080));
        rig.clock.pass(Duration::from_secs(60));
        let before = rig.sector(host_id(3));
        match release(&rig, held) {
            Err(ReleaseError::NotWritten { held, source }) => {
                assert_eq!((source.kind, held.generation()), (IoErrorKind::NotIssued, Generation(1)));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(rig.sector(host_id(3)), before);
    }

    /// A host that was frozen while it left woke past its instant, renewed in passing, and took that for a reprieve.
    #[test]
    fn d2_a_renewal_past_the_instant_revives_nothing_and_allows_no_release() {
        let (rig, mut held) = joined(Geometry::ALL[0]);
        held.comes_into_force();
        let (started, instant) = (held.started_at(), held.fails_at());
        rig.clock.pass(held.host().timing().id_renewal_fail());
        assert!(renew(&rig, &mut held).result.is_ok(), "the record on disk stays ours, and frees nobody");
        assert_eq!((held.started_at(), held.fails_at()), (started, instant));
        let writes = rig.engine().log().iter().filter(|r| r.op == Op::Write).count();
        assert!(matches!(release(&rig, held), Err(ReleaseError::Expired { .. })));
        assert_eq!(rig.engine().log().iter().filter(|r| r.op == Op::Write).count(), writes);
    }

    /// So did a host that was leaving when its instant came, between the start of a renewal and its end.
    #[test]
    fn d2_a_renewal_across_the_instant_revives_nothing_either() {
        let (rig, mut held) = joined(Geometry::ALL[0]);
        held.comes_into_force();
        let (started, instant) = (held.started_at(), held.fails_at());
        rig.clock.pass(held.host().timing().id_renewal_fail() - Duration::from_secs(1));
        rig.engine().fault(Op::Write, 1, Fault::Late(Duration::from_secs(2)));
        assert!(renew(&rig, &mut held).result.is_ok());
        assert_eq!((held.started_at(), held.fails_at()), (started, instant));
        assert!(matches!(release(&rig, held), Err(ReleaseError::Expired { .. })));
    }

    #[test]
    fn d2_the_devices_write_limit_refuses_a_release_too() {
        let (rig, held) = small();
        rig.limit.close();
        let released = release(&rig, held);
        assert!(
            matches!(released, Err(ReleaseError::NotWritten { source, .. }) if source.kind == IoErrorKind::Refused)
        );
    }

    #[test]
    fn a_release_whose_read_failed_can_be_tried_again() {
        let (rig, held) = small();
        rig.engine().fault(Op::Read, 1, Fault::Fail);
        let Err(ReleaseError::NotWritten { held, .. }) = release(&rig, held) else { panic!("nothing was written") };
        release(&rig, *held).unwrap();
        assert!(rig.sector(host_id(3)).leader.is_free());
    }

    #[test]
    fn a_release_of_unknown_outcome_says_so_and_gives_nothing_to_renew() {
        for fault in [Fault::Fail, Fault::FailLanded, Fault::Hold] {
            let (rig, held) = small();
            rig.engine().fault(Op::Write, 1, fault);
            assert!(matches!(release(&rig, held), Err(ReleaseError::InDoubt(_))), "{fault:?}");
        }
    }

    #[test]
    fn a_release_does_not_touch_a_sector_that_is_not_ours() {
        let (rig, held) = small();
        let taker = sealed_sector(3, 2, 77);
        rig.put_sector(&taker);
        assert!(matches!(release(&rig, held), Err(ReleaseError::Lost(_))));
        assert_eq!(rig.sector(host_id(3)), taker);
    }

    fn any_fault() -> impl Strategy<Value = Option<Fault>> {
        prop_oneof![
            2 => Just(None),
            1 => Just(Some(Fault::Fail)),
            1 => Just(Some(Fault::FailLanded)),
            2 => Just(Some(Fault::Hold)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// However writes fail, and however late they land: a lease that nobody else touched is never lost, and one that
        /// somebody touched always is.
        #[test]
        fn only_a_strangers_write_loses_the_lease(
            faults in prop::collection::vec((any_fault(), 0u64..30), 1..12),
            taken: bool,
        ) {
            let (rig, mut held) = small();
            for (fault, lands_after) in faults {
                if let Some(fault) = fault {
                    rig.engine().fault(Op::Write, 1, fault);
                }
                let (engine, then) = (rig.engine().clone(), rig.clock.now().after(Duration::from_secs(lands_after)));
                rig.clock.schedule(then, move || engine.land_held());
                let renewal = renew_later(&rig, &mut held);
                prop_assert!(!matches!(renewal.result, Err(RenewError::Lost(_))), "{:?}", renewal.result);
                prop_assert!(held.images.len() <= 3);
            }
            rig.engine().land_held();
            if taken {
                rig.put_sector(&sealed_sector(3, 2, 77));
            }
            let renewal = renew_later(&rig, &mut held);
            prop_assert_eq!(matches!(renewal.result, Err(RenewError::Lost(_))), taken, "{:?}", renewal.result);
        }
    }

    #[test]
    fn a_loss_is_one_line_with_its_place() {
        let (rig, held) = small();
        let freed = sealed_sector(3, 1, 0).encode(SectorSize::B512);
        let what = held.what_is(&freed);
        let text = held.loss(&Arc::from("/dev/x"), what).to_string();
        assert_eq!(
            text,
            "lease of host_id 3 generation 1 at offset 1049600 of /dev/x is lost: \
             the sector was freed by \"host\" (generation 1)"
        );
        assert_eq!(rig.area.offset_of(host_id(3)), 1_049_600);
    }
}
