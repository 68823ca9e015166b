//! Giving a lease back: [`release`] what is held, [`retract`] what was left half-way (spec D 4.8).
//!
//! Both say RELEASED in our own dblock first and free the leader record second, and the second only if we wrote that
//! record. If another host published our value, it may still be at work on the leader: we do not touch it, and RELEASED
//! at this lver tells everybody that the lver is over.
//!
//! I/O of a release: W dblock, R leader, W leader (without the last where another host published). Of a retract: R own
//! sector, W dblock, R leader, and W leader where it is ours.

use std::fmt;

use holdfast_io::clock::{Clock, First, first_of};
use holdfast_io::disk::Disk;
use holdfast_io::ids::{HostTerm, Lver, RemoteTimestamp};
use holdfast_io::leader::{LeaderRecord, SHORT_HOLD};
use holdfast_io::planted::{Bug, planted};
use holdfast_io::seal::AreaUuid;
use holdfast_io::timing::Timing;
use holdfast_io::units::Geometry;
use tracing::info;

use crate::area::{Area, LeaseAt, Me};
use crate::dblock::Dblock;
use crate::error::{AreaError, ReleaseError, ReleaseFailed};

/// A lease held exclusively: what a release needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The lease.
    pub lease: LeaseAt,
    /// The shape of its area, as its leader says.
    pub geometry: Geometry,
    /// The area's UUID.
    pub area: AreaUuid,
    /// The leader record by which it is ours.
    pub leader: LeaderRecord,
    /// Our dblock as we wrote it last.
    pub dblock: Dblock,
}

impl Held {
    pub(crate) fn new<D, C>(area: &Area<'_, D, C>, leader: LeaderRecord, dblock: Dblock) -> Self {
        Held { lease: *area.lease, geometry: area.geometry, area: area.uuid, leader, dblock }
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
}

impl Retract {
    pub(crate) fn new(lease: &LeaseAt, (geometry, area): (Geometry, AreaUuid), term: HostTerm, lver: Lver) -> Self {
        Retract(Box::new(Duty { lease: *lease, geometry, area, term, lver }))
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
    assert_eq!(held.leader.owner(), Some(me.term), "a lease is released by the term that holds it");
    let area = Area { disk, clock, lease: &held.lease, me, geometry: held.geometry, uuid: held.area };
    let lver = held.leader.lver;
    give_back(&area, &held).await.map_err(|error| {
        // Of an I/O that failed the outcome is open; a record that is not ours is not ours to retry on.
        let again = matches!(error, ReleaseError::Area(AreaError::Io(_)));
        ReleaseFailed {
            undo: again.then(|| Retract::new(&held.lease, (held.geometry, held.area), me.term, lver)),
            error,
        }
    })
}

async fn give_back<D: Disk, C: Clock>(area: &Area<'_, D, C>, held: &Held) -> Result<(), ReleaseError> {
    // mbal, bal, inp and lver stay (I2). Crash after this: the leader still names us, and others wait for host_dead,
    // or, if another published our value, take the lease at once. Both are right, since we hold nothing any more.
    area.write_own(&held.dblock.released()).await?;
    let found = area.read_leader().await?;
    if found.write_id != area.me.term.host_id.get() {
        return Ok(());
    }
    same_record(area, &held.leader, &found)?;
    // Held up here, we are still the owner on disk: nobody takes the lver before we are dead, and then D2 has long
    // refused this write. Should a late publisher come in between, ours is the outdated record (entry.rs).
    free_leader(area, &found).await?;
    Ok(())
}

/// Frees a leader record that is ours, by our own hand (spec D 4.8, 6).
async fn free_leader<D: Disk, C: Clock>(area: &Area<'_, D, C>, leader: &LeaderRecord) -> Result<(), AreaError> {
    let me = area.me.term;
    assert!(leader.owner() == Some(me) && leader.write_id == me.host_id.get(), "only what we own and wrote ourselves");
    let free = LeaderRecord {
        timestamp: RemoteTimestamp::FREE,
        flags: leader.flags & !SHORT_HOLD,
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
    if found == ours {
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
        let again = matches!(error, ReleaseError::StillInFlight { .. } | ReleaseError::Area(AreaError::Io(_)));
        ReleaseFailed { error, undo: again.then_some(duty) }
    })
}

async fn withdraw<D: Disk, C: Clock>(disk: &D, clock: &C, duty: &Duty, me: &Me) -> Result<(), ReleaseError> {
    // A write of ours that is still on its way would make everything read below a guess: a leader record that lands
    // after we found it free would resurrect the lver, a free one would fall on the next owner's (I6).
    let deadline = clock.now().after(Timing::new(me.io_timeout, me.fire.judged()).io_deadline());
    if let First::B(()) = first_of(disk.reaped(), clock.sleep_until(deadline)).await {
        return Err(ReleaseError::StillInFlight { path: disk.path().clone(), offset: duty.lease.at.0 });
    }
    let area = Area { disk, clock, lease: &duty.lease, me, geometry: duty.geometry, uuid: duty.area };
    let own = area.read_host(me.term.host_id).await?.dblock;
    // Where nothing of ours ever reached the disk for this lver, there is nothing that another host could adopt. What stands
    // there then is of an earlier one, and if it proposes us, another host may have published us for it: we are done with
    // that one too, or we would not have gone on.
    let ours = own.lver == duty.lver || (own.lver < duty.lver && own.inp.owner() == Some(me.term));
    if ours && !own.is_released() {
        // Never zero (I2): what others have seen of this lver stays, and gets the word that we are done with it.
        let empty = Dblock { lver: own.lver, ..Dblock::default() };
        area.write_own(&if planted(Bug::RetractForgets) { empty } else { own.released() }).await?;
    }
    let leader = area.read_leader().await?;
    let by_our_hand = leader.owner() == Some(me.term) && leader.write_id == me.term.host_id.get();
    // We may have published an earlier lver of ours on the way, which we had given up: nobody but us can say so there.
    let given_up = leader.lver == duty.lver || (ours && leader.lver == own.lver);
    if by_our_hand && given_up && !leader.is_free() {
        // The same argument as in a release.
        free_leader(&area, &leader).await?;
    }
    Ok(())
}
