//! The lease value block: a sector of the area in which the users of a lease leave each other a value (spec D 4.10).
//!
//! It belongs to whoever holds the lease exclusively, is read when the lease is acquired and written right before it is given
//! back or shared. It has no checksum of its own and no version. In areas of less than 2048 sectors it has no place: sanlock
//! uses the sector all the same, and with it the next lease's; here such a lease has no value.
//!
//! A write of it that may still land keeps the lease from being given back: it would fall on the next owner's value (I6, S1).
//!
//! # On several disks
//! There a write may land on one of them long after the lease was given back, and a disk that was away has an older value. So a
//! value is written where none is that still counts, and nothing of an older one may be on its way; and a host's own sector, of which
//! everybody sees the latest that counts, says which one counts (`copies/remarks.rs`). In order:
//! 1. Its owner says in its own sector to which slot it is going to write, and vouches for the value that it found: that is on a
//!    majority now, and no other slot is needed any more.
//! 2. It writes the value to that slot.
//! 3. With RELEASED, in the same write of its own sector, it says where the value stands and what it sums up to: from then on that counts.
//!    Others act on the word only if a majority says it (`copies/merge.rs`).
//!
//! A crash before 3 leaves the value that was. A slot to which its writer does not know every write to be over is not used again
//! before it does. Whoever reads takes the value that was set under the greatest lver, of all that anybody answers for, from a copy with its
//! CRC, and vouches for it before he hands it on: nobody after him finds an older one. What an owner has said on a few disks before it
//! died counts from whenever somebody sees it, or never, if another was set before.
//!
//! I/O: R or W one sector; on several disks, to read: R dblocks, R value, R and W own sector; to write: R dblocks, W own sector, W value.

use holdfast_io::checksum::seal_crc;
use holdfast_io::clock::Clock;
use holdfast_io::disk::{Disk, ReadDisk};
use holdfast_io::ids::Lver;
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::units::SectorIndex;

use crate::area::Me;
use crate::copies::{Copies, Slot, Tag, ValueRemarks};
use crate::dblock::ModeBlock;
use crate::error::AreaError;
use crate::layout::value_sector;
use crate::release::Held;

/// Whether a lease has room for a value.
#[must_use]
pub const fn has_room(held: &Held) -> bool {
    value_sector(held.geometry).is_some()
}

/// The value of a lease that is held: a whole sector; zeros where nobody has set one. The caller sees to it that nothing of its own
/// works on the lease meanwhile.
///
/// # Errors
/// The read failed, or there is no room for a value (see [`has_room`]); on several disks [`AreaError::ValueLost`], or the value may not
/// be what the next owner finds: the write failed that vouches for it.
pub async fn read_value<D: Disk, C: Clock>(
    disk: &Copies<D, C>,
    clock: &C,
    held: &Held,
    me: &Me,
) -> Result<Vec<u8>, AreaError> {
    let (at, size) = place_for(disk, held, 0)?;
    let area = held.area(disk, clock, me);
    if disk.copies() == 1 {
        return Ok(area.read(at, size).await?.to_vec());
    }
    let Some((lver, tag)) = latest(&area.value_remarks().await?) else { return Ok(vec![0; size]) };
    let sector = tag.slot.sector(held.geometry);
    let is_good = |bytes: &[u8]| seal_crc(&[bytes]) == tag.crc;
    let found = match tag.slot.is_in(held.geometry) {
        true => disk.read_good(area.offset(sector), size, area.deadline(), is_good).await?,
        // Behind the area another lease begins.
        false => None,
    };
    let (path, offset) = (disk.path().clone(), held.lease.at.0);
    let found = found.ok_or(AreaError::ValueLost { path, offset, lver, sector: sector.0, expected: tag.crc })?;
    disk.say_of_value(ValueRemarks { settled: Some((lver, tag)), ..disk.value_remarks() }, None);
    // As it stands there: nothing of ours is on its way. Landing late, or never, it says what others find anyhow, or would have.
    let own = area.read_host(me.term.host_id).await?;
    area.write_own(&own.dblock, &own.mode).await?;
    Ok(found.to_vec())
}

/// Writes the value of a lease that is held exclusively; zeros follow it. On several disks it counts from the release on, or from
/// the conversion to shared, that comes next: where this has failed, the value that was is the lease's. The caller sees to it that
/// nothing of its own works on the lease meanwhile.
///
/// # Errors
/// The write failed, and where it may still land the lease must not be given back; or the value is longer than a sector, or
/// there is no room for one (see [`has_room`]); on several disks also [`AreaError::NoSlot`].
pub async fn write_value<D: Disk, C: Clock>(
    disk: &Copies<D, C>,
    clock: &C,
    held: &Held,
    me: &Me,
    value: &[u8],
) -> Result<(), AreaError> {
    let (at, size) = place_for(disk, held, value.len())?;
    let mut sector = AlignedBuf::zeroed(size);
    sector[..value.len()].copy_from_slice(value);
    let area = held.area(disk, clock, me);
    if disk.copies() == 1 {
        return area.write(at, sector).await;
    }
    let said = area.value_remarks().await?;
    let tag = Tag { slot: free_slot(disk, held, me, &said)?, crc: seal_crc(&[&sector]) };
    let mut own = disk.value_remarks();
    own.settled = latest(&said).or(own.settled);
    own.writes(tag.slot);
    disk.say_of_value(own, None);
    // Our dblock says before and after it that we hold this lver. A crash from here to RELEASED leaves a slot that nobody uses, and the
    // value that was; a write that lands later falls into that slot, which is ours until we know it to be over.
    area.write_own(&held.dblock, &ModeBlock::NONE).await?;
    area.write(tag.slot.sector(held.geometry), sector).await?;
    disk.say_of_value(disk.value_remarks(), Some((held.lver(), tag)));
    Ok(())
}

/// The value that the lease has on several disks, and under which version it was set.
fn latest(said: &[ValueRemarks]) -> Option<(Lver, Tag)> {
    said.iter().filter_map(|said| said.settled).max_by_key(|(lver, _)| *lver)
}

/// A slot in which neither the lease's value stands nor a write of anybody may be on its way.
fn free_slot<D: Disk, C: Clock>(
    disk: &Copies<D, C>,
    held: &Held,
    me: &Me,
    said: &[ValueRemarks],
) -> Result<Slot, AreaError> {
    let (own, value) = (disk.value_remarks(), latest(said).map(|(_, tag)| tag.slot));
    let us = me.term.host_id.slot() as usize;
    // Of our own writes we know more than we have said.
    let others = || said.iter().enumerate().filter(|(host, _)| *host != us).map(|(_, said)| said);
    let busy = |slot: Slot| Some(slot) == value || own.may_write(slot) || others().any(|said| said.may_write(slot));
    let (path, offset) = (disk.path().clone(), held.lease.at.0);
    let slots = Slot::all(held.geometry).count();
    Slot::all(held.geometry).find(|slot| !busy(*slot)).ok_or(AreaError::NoSlot { path, offset, slots })
}

/// The sector for a value of that many bytes, and its size.
fn place_for<D: Disk>(disk: &D, held: &Held, needed: usize) -> Result<(SectorIndex, usize), AreaError> {
    let size = held.geometry.sector().bytes();
    let room = value_sector(held.geometry).filter(|_| needed <= size);
    let no_room = || AreaError::NoRoom { path: disk.path().clone(), offset: held.lease.at.0, needed };
    room.map(|at| (at, size)).ok_or_else(no_room)
}
