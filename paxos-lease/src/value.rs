//! The lease value block: a sector of the area in which the users of a lease leave each other a value (spec D 4.10).
//!
//! It belongs to whoever holds the lease exclusively, is read when the lease is acquired and written right before it is given
//! back or shared. It has no checksum of its own and no version. In areas of less than 2048 sectors it has no place: sanlock
//! uses the sector all the same, and with it the next lease's; here such a lease has no value.
//!
//! A write of it that may still land keeps the lease from being given back: it would fall on the next owner's value (I6, S1).
//!
//! I/O: R or W one sector.

use holdfast_io::clock::Clock;
use holdfast_io::disk::Disk;
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::units::SectorIndex;

use crate::area::Me;
use crate::error::AreaError;
use crate::layout::value_sector;
use crate::release::Held;

/// Whether a lease has room for a value.
#[must_use]
pub const fn has_room(held: &Held) -> bool {
    value_sector(held.geometry).is_some()
}

/// The value of a lease that is held: a whole sector.
///
/// # Errors
/// The read failed, or there is no room for a value (see [`has_room`]).
pub async fn read_value<D: Disk, C: Clock>(disk: &D, clock: &C, held: &Held, me: &Me) -> Result<Vec<u8>, AreaError> {
    let (at, size) = place_for(disk, held, 0)?;
    Ok(held.area(disk, clock, me).read(at, size).await?.to_vec())
}

/// Writes the value of a lease that is held exclusively; zeros follow it.
///
/// # Errors
/// The write failed, and where it may still land the lease must not be given back; or the value is longer than a sector, or
/// there is no room for one (see [`has_room`]).
pub async fn write_value<D: Disk, C: Clock>(
    disk: &D,
    clock: &C,
    held: &Held,
    me: &Me,
    value: &[u8],
) -> Result<(), AreaError> {
    let (at, size) = place_for(disk, held, value.len())?;
    let mut sector = AlignedBuf::zeroed(size);
    sector[..value.len()].copy_from_slice(value);
    held.area(disk, clock, me).write(at, sector).await
}

/// The sector for a value of that many bytes, and its size.
fn place_for<D: Disk>(disk: &D, held: &Held, needed: usize) -> Result<(SectorIndex, usize), AreaError> {
    let size = held.geometry.sector().bytes();
    let room = value_sector(held.geometry).filter(|_| needed <= size);
    let no_room = || AreaError::NoRoom { path: disk.path().clone(), offset: held.lease.at.0, needed };
    room.map(|at| (at, size)).ok_or_else(no_room)
}
