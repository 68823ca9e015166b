//! The write that changes an index, and changes by hand (UPDATE_RINDEX).
//!
//! I/O of a change: R the sector of the entry, W it.

use holdfast_io::bytes::{array_at, put};
use holdfast_io::clock::Clock;
use holdfast_io::disk::Disk;
use holdfast_io::ids::ResourceName;
use holdfast_io::sys::aligned::AlignedBuf;
use tracing::info;

use super::codec::{ENTRY_LEN, Entry};
use super::error::IndexError;
use super::read::{Found, Index, Reader};
use super::slots::Slot;

impl<D: Disk, C: Clock> Reader<'_, D, C> {
    /// Changes the entry of a place from what it is in `index` to `new`.
    ///
    /// The caller holds the index, so nobody who keeps the rules writes this sector between the read and the write; the
    /// other entries in it go back as they were. Crash or failure: the sector is the old one or the new one. Held up past
    /// D2's instant, when another host may have taken the index: the write is refused. Landing late: the index lease stays
    /// ours until it has landed, or we are dead and reset (D3).
    pub(super) async fn put(&self, index: &Index, slot: Slot, new: &Entry) -> Result<(), IndexError> {
        let size = index.header.geometry.sector();
        let (sector, at) = index.slots.entry(slot);
        let place = self.index.at.sector(sector, size);
        let now = self.disk.read(place, size.bytes(), self.deadline()).await?;
        if Entry::parse(&array_at(&now, at)) != index.entry(slot) {
            let (path, offset) = (self.disk.path().clone(), self.index.at.0);
            return Err(IndexError::Changed { path, offset, at: index.slots.area(slot).0 });
        }
        let mut bytes = AlignedBuf::from_slice(&now);
        put(&mut bytes[at..at + ENTRY_LEN], 0, &new.encode());
        self.disk.write(place, bytes, self.deadline()).await?;
        Ok(())
    }
}

/// Lists a resource that is at `offset`, or is to be. Nothing is looked at but the index.
///
/// # Errors
/// [`IndexError::Listed`]: the name has another place, or the place another name. An entry that was overwritten would be lost.
pub async fn add<D: Disk, C: Clock>(
    reader: &Reader<'_, D, C>,
    name: ResourceName,
    offset: u64,
) -> Result<Found, IndexError> {
    let index = reader.read().await?;
    let slot = reader.slot(&index, offset)?;
    let new = Found { slot, name, area: index.slots.area(slot) };
    let there = index.found(slot);
    if !index.entry(slot).is_free() && there.name != name {
        return Err(reader.listed(&there));
    }
    if let Some(other) = index.used().find(|found| found.name == name && found.slot != slot) {
        return Err(reader.listed(&other));
    }
    reader.put(&index, slot, &Entry::of(name, new.area)).await?;
    info!(%name, offset, "listed by hand");
    Ok(new)
}

/// Takes the entry of what is at `offset` away; its area stays as it is. `name`: what is expected there, if anything.
///
/// # Errors
/// [`IndexError::Differs`]: something else is there.
pub async fn remove<D: Disk, C: Clock>(
    reader: &Reader<'_, D, C>,
    name: Option<ResourceName>,
    offset: u64,
) -> Result<(), IndexError> {
    let index = reader.read().await?;
    let slot = reader.slot(&index, offset)?;
    let there = index.found(slot);
    if index.entry(slot).is_free() {
        return Ok(());
    }
    if let Some(expected) = name.filter(|name| *name != there.name) {
        let path = reader.disk.path().clone();
        return Err(IndexError::Differs {
            path,
            at: offset,
            found: Box::new(there.name),
            expected: Box::new(expected),
        });
    }
    reader.put(&index, slot, &Entry::FREE).await?;
    info!(name = %there.name, offset, "taken off the list by hand");
    Ok(())
}
