//! Changing how a lease is held (spec D 4.9): [`share`] what is held exclusively, take what is shared exclusively
//! ([`exclude`]).
//!
//! I/O of sharing: R leader, W dblock, R leader, W leader. Of excluding: an acquire's, each write of our sector with our claim
//! beside the dblock; at its end W dblock without it, or, where other hosts share the lease and live, W dblock, R leader, W leader.

use holdfast_io::clock::Clock;
use holdfast_io::disk::Disk;
use holdfast_io::ids::Lver;
use holdfast_io::stop::Stop;

use crate::acquire::{Acquired, Options, attempt};
use crate::area::{Area, Me};
use crate::dblock::ModeBlock;
use crate::error::{AcquireFailed, AreaError, ReleaseError};
use crate::liveness::HostLiveness;
use crate::release::{Held, Mode, give_back, reaped};

/// A lease on its way from exclusive to shared.
#[derive(Debug)]
pub struct Sharing {
    held: Held,
    /// Our claim may be on the disk, and the leader record freed.
    written: bool,
}

impl Sharing {
    /// Of a lease that is held exclusively.
    #[must_use]
    pub const fn new(held: Held) -> Self {
        Sharing { held, written: false }
    }

    /// Nothing of it was written: the lease is as exclusive as before, and may stay so.
    #[must_use]
    pub const fn is_untouched(&self) -> bool {
        !self.written
    }
}

/// A lease that could not be shared yet.
#[derive(Debug)]
pub struct ShareFailed {
    /// Why.
    pub error: ReleaseError,
    /// What we have now.
    pub now: AfterShare,
}

/// What is left of a lease that could not be shared properly.
#[derive(Debug)]
pub enum AfterShare {
    /// To be tried again: what is on the disk is not known.
    Again(Sharing),
    /// Our claim is on the disk. The leader record, which is damaged or not as we left it, keeps others out for now.
    Shared(Held),
    /// Another host has taken it from under us.
    Lost,
}

/// Makes a lease that is held exclusively a shared one. Its lver stays. To be called again with what a failure returned:
/// then a write of ours may have done it already, and another host may have taken the lease since, to share it too.
///
/// Whoever used the lease exclusively does so no more when this is called: the claim may be on the disk from its first
/// write on.
///
/// # Errors
/// [`ShareFailed`].
pub async fn share<D: Disk, C: Clock>(disk: &D, clock: &C, sharing: Sharing, me: &Me) -> Result<Held, ShareFailed> {
    let Sharing { held, written } = sharing;
    assert_eq!(held.leader.owner(), Some(me.term), "a lease is shared by the term that holds it");
    // I6: nothing below may be judged while a write of ours is on its way.
    if let Err(error) = reaped(disk, clock, &held.lease, me).await {
        return Err(ShareFailed { error, now: AfterShare::Again(Sharing { held, written }) });
    }
    let area = held.area(disk, clock, me);
    if !written {
        match taken_since(&area, &held).await {
            Ok(None) => {}
            Ok(Some((found, expected))) => {
                let error = ReleaseError::Lver { path: disk.path().clone(), offset: held.lease.at.0, found, expected };
                return Err(ShareFailed { error, now: AfterShare::Lost });
            }
            Err(error) => {
                return Err(ShareFailed { error: error.into(), now: AfterShare::Again(Sharing { held, written }) });
            }
        }
    }
    let claim = ModeBlock::shared(me.term.generation);
    match give_back(&area, &held, &claim, None).await {
        Ok(()) => Ok(Held { mode: Mode::Shared, ..held }),
        // Our claim is on the disk. The leader record was freed by the try before, and may have moved on since.
        Err(ReleaseError::Lver { .. } | ReleaseError::Record { .. }) if written => {
            Ok(Held { mode: Mode::Shared, ..held })
        }
        Err(error @ ReleaseError::Area(AreaError::Io(_))) => {
            Err(ShareFailed { error, now: AfterShare::Again(Sharing { held, written: true }) })
        }
        Err(error @ ReleaseError::Lver { found, expected, .. }) if found > expected => {
            Err(ShareFailed { error, now: AfterShare::Lost })
        }
        Err(error) => Err(ShareFailed { error, now: AfterShare::Shared(Held { mode: Mode::Shared, ..held }) }),
    }
}

/// The lver that another host has come to, and ours: while this one stood still as a whole (A7), say. A claim that we wrote
/// beside that host's exclusive lease would stand there as if it had been there before, and no later look could tell (S1).
/// Only before our first write: from then on others go on by right. A record that is damaged tells nothing, and keeps others out; of
/// one that cannot be read nobody knows, so nothing is written until it can be. A pause between this look and that write is A7's, as
/// before any write.
async fn taken_since<D: Disk, C: Clock>(area: &Area<'_, D, C>, held: &Held) -> Result<Option<(Lver, Lver)>, AreaError> {
    match area.read_leader().await {
        Ok(leader) => Ok((leader.lver > held.lver()).then_some((leader.lver, held.lver()))),
        Err(error @ AreaError::Io(_)) => Err(error),
        Err(_) => Ok(None),
    }
}

/// Takes a lease that this host shares exclusively, if no other host that lives shares it. Its lver becomes a new one. Refused or
/// failed, the lease is shared as before, once what that leaves to be undone is undone.
///
/// Safety: until it is won everything this writes keeps our claim, so at no instant is the lease less than shared; and it is
/// won like by any other acquire.
///
/// # Errors
/// [`AcquireFailed`], with a duty where something was written.
pub async fn exclude<D: Disk, C: Clock, H: HostLiveness>(
    disk: &D,
    clock: &C,
    hosts: &H,
    held: &mut Held,
    me: &Me,
    options: &Options,
    stop: &Stop,
) -> Result<Acquired, AcquireFailed> {
    let options = Options { mode: Mode::Exclusive, expected_lver: None, num_hosts: None, ..*options };
    let lease = held.lease;
    attempt(disk, clock, hosts, &lease, me, &options, stop, Some(held)).await
}
