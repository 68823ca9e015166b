//! Requests: asking the owner of a lease to let go (spec D 4.11).
//!
//! Whoever wants a lease writes into the request record, sector 1 of its area, and sets the owner's bit in the bitmap of its own
//! delta sector; the owner then looks. It is a letter and nothing more: it decides nothing about who owns the lease, and an
//! owner that ends gives back what it has like any other.
//!
//! **To whom.** sanlock's record names a lease version L, and whoever holds a smaller one is to end: so does a later owner,
//! to whom nobody wrote, if L was large. A record of ours names the owner as well - host_id, generation and lver, under the
//! seal - and is for no other term and no other lver. Of a record without a seal an owner knows what stood there when it
//! acquired the lease: that was for somebody else.
//!
//! A write of a request that lands late is therefore harmless wherever it lands: at worst a newer letter is lost with it, and
//! its sender asks again.
//!
//! I/O: R area, R request sector, W it; of an owner that looks: R request sector.

use holdfast_io::clock::Clock;
use holdfast_io::disk::Disk;
use holdfast_io::ids::{HostTerm, Lver};

use crate::area::{Area, LeaseAt, Me};
use crate::error::{AreaError, AskError};
use crate::layout::REQUEST;
use crate::release::{Held, Mode};
use crate::request::{Address, Addressee, FORCE_NONE, Force, RequestRecord};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The lease version that is wanted; `None`: the one after the owner's.
    pub lver: Option<Lver>,
    /// What the owner is to do; `None`: nothing.
    pub force: Option<Force>,
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The record asks for nothing any more.
    Cleared,
    /// Nobody owns the lease exclusively; nothing was written.
    Free,
    /// It is written, and this owner has to be called.
    Owner(HostTerm),
}

/// Writes a request.
///
/// # Errors
/// [`AskError`]: nothing was written, or it is not known whether it was.
pub async fn ask<D: Disk, C: Clock>(
    disk: &D,
    clock: &C,
    lease: &LeaseAt,
    me: &Me,
    ask: Ask,
) -> Result<Asked, AskError> {
    let (area, snapshot) = Area::open(disk, clock, lease, me).await?;
    let (path, offset) = (disk.path().clone(), area.offset(REQUEST));
    if ask.lver == Some(Lver(0)) && ask.force.is_none() {
        area.read_request().await?;
        area.write_request(&RequestRecord::formatted(), None).await?;
        return Ok(Asked::Cleared);
    }
    let leader = snapshot.leader;
    let Some(owner) = leader.owner().filter(|_| !leader.is_free()) else { return Ok(Asked::Free) };
    let lver = ask.lver.unwrap_or(leader.lver.next());
    if leader.lver >= lver {
        return Err(AskError::Reached { path, offset: lease.at.0, found: leader.lver, asked: lver });
    }
    let (before, address) = area.read_request().await?;
    let addressee = Addressee { owner, lver: leader.lver };
    // One that was for somebody else, or of the same owner as of another version, is heard by nobody any more.
    let for_another = matches!(address, Address::To(to) if to != addressee);
    if before.lver > lver && !for_another {
        return Err(AskError::Outbid { path, offset, found: before.lver, asked: lver });
    }
    let force_mode = ask.force.map_or(FORCE_NONE, Force::number);
    area.write_request(&RequestRecord { lver, force_mode, ..RequestRecord::formatted() }, Some(&addressee)).await?;
    Ok(Asked::Owner(owner))
}

/// What the owner of a held lease is asked to do now, if anything: by its own record or by none of an earlier owner's.
///
/// # Errors
/// The record could not be read, or is damaged: nothing is asked for.
pub async fn asked_of<D: Disk, C: Clock>(
    disk: &D,
    clock: &C,
    held: &Held,
    me: &Me,
) -> Result<Option<Force>, AreaError> {
    let (record, address) = held.area(disk, clock, me).read_request().await?;
    let for_us = match address {
        Address::To(addressee) => addressee == Addressee { owner: me.term, lver: held.lver() },
        Address::Nobody => false,
        Address::Unsealed => record.lver > held.lver() && !same(&record, &held.asked_before),
    };
    // Those who share a lease are asked by nobody: whoever wants it sees a free leader record.
    Ok(Force::from_number(record.force_mode).filter(|_| for_us && held.mode == Mode::Exclusive))
}

/// sanlock leaves anything in the reserved word when it writes a record again.
fn same(a: &RequestRecord, b: &RequestRecord) -> bool {
    (a.lver, a.force_mode) == (b.lver, b.force_mode)
}
