//! Giving a lease back: [`release`] what is held, [`retract`] what was left half-way (spec D 4.8, 4.9).
//!
//! Both say RELEASED in our own dblock first and free the leader record second, and the second only if we wrote that
//! record. If another host published our value, it may still be at work on the leader: we do not touch it, and RELEASED
//! at this lver tells everybody that the lver is over. On several disks that word can be on one of those that are left, with a claim
//! beside it, and is not acted upon then (merge.rs): there we free the record whoever published it. A publisher that was
//! held up may bring it back on one disk; then the word is what it is for, and a sharer frees the record again (tend.rs).
//!
//! A lease held in shared mode has a free leader record. What is given back is the claim in our mode block.
//!
//! I/O of a release: W dblock, R leader, W leader (without the last where another host published); of a shared one: R own
//! sector, W it. Of a retract: R own sector, W it, R leader, and W leader where it is ours. A rename on several disks: R leader, W leader,
//! and a release.

use std::fmt;

use holdfast_io::clock::{Clock, First, first_of};
use holdfast_io::disk::Disk;
use holdfast_io::ids::{HostTerm, Lver, RemoteTimestamp, ResourceName};
use holdfast_io::leader::{LeaderRecord, SHORT_HOLD};
use holdfast_io::planted::{Bug, planted};
use holdfast_io::seal::AreaUuid;
use holdfast_io::timing::Timing;
use holdfast_io::units::Geometry;
use tracing::{info, warn};

use crate::area::{Area, LeaseAt, Me};
use crate::dblock::{Dblock, HostSector, ModeBlock};
use crate::error::{AreaError, ReleaseError, ReleaseFailed};
use crate::request::RequestRecord;

/// How a lease is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// By one host. The leader record names it.
    #[default]
    Exclusive,
    /// By any number of hosts. The mode block of each says so, and the leader record is free.
    Shared,
}

/// A lease that is held: what a release needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The lease.
    pub lease: LeaseAt,
    /// How.
    pub mode: Mode,
    /// The shape of its area, as its leader says.
    pub geometry: Geometry,
    /// The area's UUID.
    pub area: AreaUuid,
    /// The leader record by which it is ours, or was when we began to share it.
    pub leader: LeaderRecord,
    /// Our dblock as we wrote it when it became ours; of a shared lease as the last conversion that failed wrote it.
    pub dblock: Dblock,
    /// What the request record said then: that was for somebody else.
    pub asked_before: RequestRecord,
}

impl Held {
    pub(crate) fn new<D, C>(
        area: &Area<'_, D, C>,
        leader: LeaderRecord,
        dblock: Dblock,
        asked_before: RequestRecord,
    ) -> Self {
        let (lease, mode) = (*area.lease, Mode::Exclusive);
        Held { lease, mode, geometry: area.geometry, area: area.uuid, leader, dblock, asked_before }
    }

    pub(crate) fn area<'a, D, C>(&'a self, disk: &'a D, clock: &'a C, me: &'a Me) -> Area<'a, D, C> {
        Area { disk, clock, lease: &self.lease, me, geometry: self.geometry, uuid: self.area, unread: Vec::new() }
    }

    /// The lease version under which it is held.
    #[must_use]
    pub const fn lver(&self) -> Lver {
        self.leader.lver
    }
}

/// The duty to undo what an acquire or a release left half-way. While it is outstanding the lease must not be acquired
/// anew by this host; only [`retract`] consumes it. Past D2's instant nothing of it can be done any more, and
/// [`Retract::abandon`] leaves it to host_dead.
#[must_use = "hand it to release::retract"]
pub struct Retract(Box<Duty>);

struct Duty {
    lease: LeaseAt,
    geometry: Geometry,
    area: AreaUuid,
    term: HostTerm,
    lver: Lver,
    left: Left,
}

/// What an acquire or a release has left.
#[derive(Clone, Copy)]
pub(crate) struct Left {
    /// Our dblock as we wrote it last, or tried to.
    pub(crate) own: Dblock,
    /// What our mode block is to say: a claim where we go on sharing the lease.
    pub(crate) mode: ModeBlock,
    /// A version that we have published and spent on the way (acquire/obscured.rs).
    pub(crate) spent: Option<Lver>,
}

impl Retract {
    pub(crate) fn new(
        lease: &LeaseAt,
        (geometry, area): (Geometry, AreaUuid),
        term: HostTerm,
        lver: Lver,
        left: Left,
    ) -> Self {
        Retract(Box::new(Duty { lease: *lease, geometry, area, term, lver, left }))
    }

    /// The lease it is about.
    #[must_use]
    pub fn lease(&self) -> &LeaseAt {
        &self.0.lease
    }

    /// The lease version it is about.
    #[must_use]
    pub fn lver(&self) -> Lver {
        self.0.lver
    }

    /// Gives the duty up, because the lockspace's own lease is lost for good (D2).
    pub fn abandon(self) {}
}

impl fmt::Debug for Retract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Retract({} of {:?} at lver {})", self.0.term, self.0.lease.resource, self.0.lver)
    }
}

/// Gives back a lease that is held. Every process that used it must be gone.
///
/// # Errors
/// [`ReleaseFailed`], with a duty unless the lease turns out not to be ours any more.
pub async fn release<D: Disk, C: Clock>(disk: &D, clock: &C, held: Held, me: &Me) -> Result<(), ReleaseFailed> {
    release_as(disk, clock, held, me, None).await
}

/// Gives back a lease that is held exclusively, and gives it another name: on one disk by the same write of the leader record (spec D
/// 4.8), on several by one before the release. Where another host has published the record on the one disk, it is that host's, and
/// keeps its name.
///
/// # Errors
/// [`ReleaseFailed`], as [`release`]; with [`ReleaseError::NotRenamed`] the lease is given back, under its old name. After an I/O that failed
/// it has either.
pub async fn rename<D: Disk, C: Clock>(
    disk: &D,
    clock: &C,
    held: Held,
    me: &Me,
    name: ResourceName,
) -> Result<(), ReleaseFailed> {
    assert_eq!(held.mode, Mode::Exclusive, "a shared lease is others' as well");
    if disk.copies() == 1 {
        return release_as(disk, clock, held, me, Some(name)).await;
    }
    let named = name_anew(&held.area(disk, clock, me), &held, name).await;
    match named {
        Ok(held) => release(disk, clock, held, me).await,
        Err(error) => {
            let undo = release(disk, clock, held, me).await.err().and_then(|failed| failed.undo);
            Err(ReleaseFailed { error, undo })
        }
    }
}

/// On several disks others go on from our RELEASED alone: whoever does so must find the new name, on each majority, or he holds the lease
/// under the old one while everybody else knows it by the new. So the record by which it is ours has it before.
///
/// Safe: it is our own record of the lver that we hold, and says the same of the lease (I5). A crash after it leaves a lease that is ours until
/// we are dead, as before. Landing late it finds our next write of the record waiting (I6); later than D2 it is refused, and over a newer
/// one it is one more outdated record (entry.rs).
async fn name_anew<D: Disk, C: Clock>(
    area: &Area<'_, D, C>,
    held: &Held,
    name: ResourceName,
) -> Result<Held, ReleaseError> {
    let found = area.read_leader().await?;
    if found.lver != held.lver() {
        let (path, offset) = (area.disk.path().clone(), area.lease.at.0);
        return Err(ReleaseError::NotRenamed { path, offset, name, by: found.write_id });
    }
    same_record(area, &held.leader, &found)?;
    // Of two records of one lver the later counts (merge.rs): a disk that misses this one must not bring the old name back.
    let write_timestamp = area.clock.now().disk_seconds().max(found.write_timestamp.saturating_add(1));
    let leader = LeaderRecord { resource_name: name, write_timestamp, ..found };
    area.write_leader(&leader).await?;
    Ok(Held { lease: LeaseAt { resource: name, ..held.lease }, leader, ..held.clone() })
}

async fn release_as<D: Disk, C: Clock>(
    disk: &D,
    clock: &C,
    held: Held,
    me: &Me,
    name: Option<ResourceName>,
) -> Result<(), ReleaseFailed> {
    assert_eq!(held.leader.owner(), Some(me.term), "a lease is released by the term that holds it");
    let area = held.area(disk, clock, me);
    let lver = held.leader.lver;
    let done = match held.mode {
        Mode::Exclusive => give_back(&area, &held, &ModeBlock::NONE, name).await,
        Mode::Shared => unshare(&area, &held.dblock).await,
    };
    done.map_err(|error| {
        let again = may_pass(&error, me);
        let shape = (held.geometry, held.area);
        let left = Left { own: held.dblock, mode: ModeBlock::NONE, spent: None };
        let duty = || Retract::new(&held.lease, shape, me.term, lver, left);
        ReleaseFailed { undo: again.then(duty), error }
    })
}

/// Whether another try may succeed. Of an I/O that failed the outcome is open. Our own sector, which nobody else writes, may be
/// readable again; as long as it is not, it tells others that we hold what we do not. A leader record that is damaged or not
/// ours is not ours to retry on: our own next acquire, or our end, makes up for it.
fn may_pass(error: &ReleaseError, me: &Me) -> bool {
    match error {
        ReleaseError::StillInFlight { .. } | ReleaseError::Area(AreaError::Io(_)) => true,
        ReleaseError::Area(AreaError::Dblock { host_id, .. }) => *host_id == me.term.host_id,
        _ => false,
    }
}

/// Gives a lease that is ours exclusively back, or into shared mode: `mode` is what our mode block says from then on. `name`: its
/// new one.
pub(crate) async fn give_back<D: Disk, C: Clock>(
    area: &Area<'_, D, C>,
    held: &Held,
    mode: &ModeBlock,
    name: Option<ResourceName>,
) -> Result<(), ReleaseError> {
    // mbal, bal, inp and lver stay (I2). Crash after this: the leader still names us, and others wait for host_dead,
    // or, if another published our value, take the lease at once. Both are right, since we hold nothing exclusively any more.
    // A claim to share it says the same write: whoever finds this lver over by our RELEASED, or by a leader record that we
    // free after it, reads our block after that, with the claim (S1).
    area.write_own(&held.dblock.released(), mode).await?;
    let found = area.read_leader().await?;
    // On several disks others go on from our RELEASED alone, or the record is an older one: either way the lver is over.
    let passed = area.disk.copies() > 1 && found.lver != held.lver();
    let ours = found.write_id == area.me.term.host_id.get() || area.disk.copies() > 1;
    if passed || !ours {
        let (path, offset) = (area.disk.path().clone(), area.lease.at.0);
        return name.map_or(Ok(()), |name| Err(ReleaseError::NotRenamed { path, offset, name, by: found.write_id }));
    }
    same_record(area, &held.leader, &found)?;
    // Held up here, we are still the owner on disk: nobody takes the lver before we are dead, and then D2 has long
    // refused this write. Should a late publisher come in between, ours is the outdated record (entry.rs).
    free_leader(area, &found, name).await?;
    Ok(())
}

/// Takes our claim to share the lease back. Our dblock stays as it stands there: since we began to share, a conversion may have
/// raised it (I2), and a write of that may still be on its way: what is read before it is over is no more what stands there when
/// ours is issued (I6). Held up before the write we are one more sharer for others; landing late it finds our sector as we left
/// it, for nobody else writes it while we live, and our own next write waits for it (I6).
async fn unshare<D: Disk, C: Clock>(area: &Area<'_, D, C>, last: &Dblock) -> Result<(), ReleaseError> {
    reaped(area.disk, area.clock, area.lease, area.me).await?;
    let Some(own) = own_unless_damaged(area).await? else { return says_anew(area, last, &ModeBlock::NONE).await };
    // A claim of a later generation is another host's, which has taken our host_id (A7).
    let ours = !own.mode.is_shared() || own.mode.generation == area.me.term.generation;
    // On several disks what is read of our own sector is what we wrote last, and whether that is on a majority nobody knows.
    if ours && (own.mode.is_shared() || area.disk.copies() > 1) {
        area.write_own(&own.dblock, &ModeBlock::NONE).await?;
    }
    info!(resource = %area.lease.resource, "shared lease released");
    Ok(())
}

/// Our own sector, once every write of ours is over. `None`: it is damaged - on one disk, for of several most are - and others wait for us
/// to be gone.
async fn own_unless_damaged<D: Disk, C: Clock>(area: &Area<'_, D, C>) -> Result<Option<HostSector>, AreaError> {
    let us = area.me.term.host_id;
    for _ in 0..2 {
        match area.read_host(us).await {
            Ok(own) => return Ok(Some(own)),
            // Bits may have flipped on their way.
            Err(AreaError::Dblock { source, .. }) if source.is_damage() && area.disk.copies() == 1 => {}
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// Our own sector was lost, and is written anew: as we wrote it last, and that we hold nothing any more. It never says less than it did (I2),
/// since nobody else writes it while we live (I1); and that it is still of this area the leader record says. Landing late it finds our own
/// next write waiting for it (I6).
async fn says_anew<D: Disk, C: Clock>(
    area: &Area<'_, D, C>,
    last: &Dblock,
    mode: &ModeBlock,
) -> Result<(), ReleaseError> {
    area.read_leader().await?;
    warn!(resource = %area.lease.resource, "our own sector is damaged, and written anew");
    Ok(area.write_own(&last.released(), mode).await?)
}

/// Waits until every write of ours to this disk is over, for one I/O's time.
pub(crate) async fn reaped<D: Disk, C: Clock>(
    disk: &D,
    clock: &C,
    lease: &LeaseAt,
    me: &Me,
) -> Result<(), ReleaseError> {
    let deadline = clock.now().after(Timing::new(me.io_timeout, me.fire.judged()).io_deadline());
    match first_of(disk.reaped(), clock.sleep_until(deadline)).await {
        First::A(()) => Ok(()),
        First::B(()) => Err(ReleaseError::StillInFlight { path: disk.path().clone(), offset: lease.at.0 }),
    }
}

/// Frees a leader record that is ours, by our own hand (spec D 4.8, 6).
pub(crate) async fn free_leader<D: Disk, C: Clock>(
    area: &Area<'_, D, C>,
    leader: &LeaderRecord,
    name: Option<ResourceName>,
) -> Result<(), AreaError> {
    let me = area.me.term;
    let by_us = leader.write_id == me.host_id.get() || area.disk.copies() > 1;
    assert!(leader.owner() == Some(me) && by_us, "only what we own and wrote ourselves");
    let free = LeaderRecord {
        timestamp: RemoteTimestamp::FREE,
        flags: leader.flags & !SHORT_HOLD,
        resource_name: name.unwrap_or(leader.resource_name),
        write_id: me.host_id.get(),
        write_generation: me.generation.0,
        write_timestamp: area.clock.now().disk_seconds(),
        ..*leader
    };
    area.write_leader(&free).await?;
    info!(resource = %area.lease.resource, lver = %leader.lver, "released");
    Ok(())
}

fn same_record<D: Disk, C: Clock>(
    area: &Area<'_, D, C>,
    ours: &LeaderRecord,
    found: &LeaderRecord,
) -> Result<(), ReleaseError> {
    let (path, offset) = (area.disk.path().clone(), area.lease.at.0);
    if found.lver != ours.lver {
        return Err(ReleaseError::Lver { path, offset, found: found.lver, expected: ours.lver });
    }
    // Where another host has published us since, the record is ours all the same.
    let same = (found.timestamp, found.owner()) == (ours.timestamp, ours.owner());
    if found == ours || (area.disk.copies() > 1 && same) {
        return Ok(());
    }
    let (field, found, expected) = if found.timestamp != ours.timestamp {
        ("timestamp", found.timestamp.to_string(), ours.timestamp.to_string())
    } else if found.owner() != ours.owner() {
        ("owner", format!("{:?}", found.owner()), format!("{:?}", ours.owner()))
    } else {
        ("another field", format!("{found:?}"), format!("{ours:?}"))
    };
    Err(ReleaseError::Record { path, offset, field, found, expected })
}

/// Undoes what an acquire or a release left half-way: says RELEASED at the duty's lver, and frees the leader record if
/// it is ours by our own hand.
///
/// # Errors
/// [`ReleaseFailed`], with the duty again where another try may help.
pub async fn retract<D: Disk, C: Clock>(disk: &D, clock: &C, duty: Retract, me: &Me) -> Result<(), ReleaseFailed> {
    assert_eq!(duty.0.term, me.term, "a duty ends with the term that left it");
    withdraw(disk, clock, &duty.0, me).await.map_err(|error| {
        let again = may_pass(&error, me);
        ReleaseFailed { error, undo: again.then_some(duty) }
    })
}

async fn withdraw<D: Disk, C: Clock>(disk: &D, clock: &C, duty: &Duty, me: &Me) -> Result<(), ReleaseError> {
    // A write of ours that is still on its way would make everything read below a guess: a leader record that lands
    // after we found it free would resurrect the lver, a free one would fall on the next owner's (I6).
    reaped(disk, clock, &duty.lease, me).await?;
    let (geometry, uuid) = (duty.geometry, duty.area);
    let area = Area { disk, clock, lease: &duty.lease, me, geometry, uuid, unread: Vec::new() };
    let HostSector { dblock: own, mode, .. } = match own_unless_damaged(&area).await? {
        Some(own) => own,
        None => {
            says_anew(&area, &duty.left.own, &duty.left.mode).await?;
            HostSector { dblock: duty.left.own.released(), mode: duty.left.mode, seal: None }
        }
    };
    // Where nothing of ours ever reached the disk for this lver, there is nothing that another host could adopt. What stands
    // there then is of an earlier one, and if it proposes us, another host may have published us for it: we are done with
    // that one too, or we would not have gone on.
    let ours = own.lver == duty.lver || (own.lver < duty.lver && own.inp.owner() == Some(me.term));
    // On several disks what is read of our own sector is what we wrote last, and whether that is on a majority nobody knows.
    if (ours && !own.is_released()) || !mode.says(&duty.left.mode) || disk.copies() > 1 {
        // Never zero (I2): what others have seen of this lver stays, and gets the word that we are done with it.
        let empty = Dblock { lver: own.lver, ..Dblock::default() };
        let kept = if ours { own.released() } else { own };
        area.write_own(if planted(Bug::RetractForgets) { &empty } else { &kept }, &duty.left.mode).await?;
    }
    let leader = area.read_leader().await?;
    let by_us = leader.write_id == me.term.host_id.get() || disk.copies() > 1;
    let by_our_hand = leader.owner() == Some(me.term) && by_us;
    // We may have published an earlier lver of ours on the way, which we had given up: nobody but us can say so there.
    // Or one that we have spent: others go past it already, so that a free record may land late over a newer one. Then it hides nobody, for it
    // says that all hosts count.
    let spent = duty.left.spent == Some(leader.lver);
    let given_up = leader.lver == duty.lver || (ours && leader.lver == own.lver) || spent;
    if by_our_hand && given_up && !leader.is_free() {
        // The same argument as in a release.
        free_leader(&area, &leader, None).await?;
    }
    Ok(())
}
