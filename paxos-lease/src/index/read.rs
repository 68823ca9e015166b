//! Reading an index, and looking something up in it.
//!
//! Nobody needs the index lease for that: each sector of entries is read whole or not at all, so a resource that is being
//! created or deleted meanwhile is found, or is not.
//!
//! I/O: R 4096 bytes, R the sectors with entries.

use std::time::Duration;

use holdfast_io::bytes::array_at;
use holdfast_io::clock::{Clock, LocalInstant};
use holdfast_io::disk::ReadDisk;
use holdfast_io::ids::ResourceName;
use holdfast_io::units::{LeaseOffset, SectorIndex, SectorSize};

use super::IndexAt;
use super::codec::{ENTRY_LEN, Entry, Header};
use super::error::IndexError;
use super::slots::{Slot, Slots};

/// Bytes of the largest sector.
const FIRST: usize = SectorSize::B4096.bytes();

/// An index on a device.
#[derive(Debug)]
pub struct Reader<'a, D, C> {
    /// The device.
    pub disk: &'a D,
    /// The clock.
    pub clock: &'a C,
    /// Where on it.
    pub index: IndexAt,
    /// How long one I/O may take; a whole area that is formatted may take longer.
    pub patience: Duration,
}

/// An index as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Its header.
    pub header: Header,
    /// Where its resources are.
    pub slots: Slots,
    entries: Vec<Entry>,
}

/// A place that was looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which place.
    pub slot: Slot,
    /// The resource's name; empty for a free place.
    pub name: ResourceName,
    /// Where the resource's area is.
    pub area: LeaseOffset,
}

impl<D: ReadDisk, C: Clock> Reader<'_, D, C> {
    pub(super) fn deadline(&self) -> LocalInstant {
        self.clock.now().after(self.patience)
    }

    /// Reads the header.
    ///
    /// # Errors
    /// [`IndexError::Io`], [`IndexError::Header`].
    pub async fn header(&self) -> Result<Header, IndexError> {
        let first = self.disk.read(self.index.at.0, FIRST, self.deadline()).await?;
        Header::decode(&array_at(&first, 0), &self.index).map_err(|source| IndexError::Header {
            path: self.disk.path().clone(),
            offset: self.index.at.0,
            source: Box::new(source),
        })
    }

    /// Reads header and entries.
    ///
    /// # Errors
    /// [`IndexError::Io`], [`IndexError::Header`], [`IndexError::TooFar`].
    pub async fn read(&self) -> Result<Index, IndexError> {
        let header = self.header().await?;
        let (path, offset) = (self.disk.path(), self.index.at.0);
        let slots = Slots::of(&header).ok_or_else(|| IndexError::TooFar { path: path.clone(), offset })?;
        let size = header.geometry.sector();
        let len = slots.entry_sectors() as usize * size.bytes();
        let bytes = self.disk.read(self.index.at.sector(SectorIndex(1), size), len, self.deadline()).await?;
        let entries = bytes.chunks_exact(ENTRY_LEN).take(slots.count() as usize);
        let entries = entries.map(|entry| Entry::parse(&array_at(entry, 0))).collect();
        Ok(Index { header, slots, entries })
    }

    /// Finds a resource by its name, or what is at an offset, or - asked for neither - the first free place (spec A 6).
    ///
    /// The inner error is what is at that offset, where that has another name (-278).
    ///
    /// # Errors
    /// Those of [`Reader::read`]; [`IndexError::Offset`]; [`IndexError::NotListed`], [`IndexError::Full`].
    pub async fn lookup(
        &self,
        name: Option<ResourceName>,
        offset: Option<u64>,
    ) -> Result<Result<Found, Found>, IndexError> {
        let index = self.read().await?;
        let Some(offset) = offset else {
            let slot = match name {
                Some(name) => index.named(&name).ok_or_else(|| self.not_listed(name))?,
                None => index.free().next().ok_or_else(|| self.full(&index))?,
            };
            return Ok(Ok(index.found(slot)));
        };
        let found = index.found(self.slot(&index, offset)?);
        Ok(if name.is_none_or(|name| name == found.name) { Ok(found) } else { Err(found) })
    }

    /// The place of the resource at an offset.
    pub(super) fn slot(&self, index: &Index, offset: u64) -> Result<Slot, IndexError> {
        let (path, of) = (self.disk.path(), self.index.at.0);
        index.slots.slot(offset).map_err(|source| IndexError::Offset { path: path.clone(), offset: of, source })
    }

    pub(super) fn not_listed(&self, name: ResourceName) -> IndexError {
        IndexError::NotListed { path: self.disk.path().clone(), offset: self.index.at.0, name }
    }

    pub(super) fn full(&self, index: &Index) -> IndexError {
        let count = index.slots.count();
        IndexError::Full { path: self.disk.path().clone(), offset: self.index.at.0, count }
    }

    pub(super) fn listed(&self, found: &Found) -> IndexError {
        let (path, offset) = (self.disk.path().clone(), self.index.at.0);
        IndexError::Listed { path, offset, name: found.name, at: found.area.0 }
    }
}

impl Index {
    /// The entry of a place.
    #[must_use]
    pub fn entry(&self, slot: Slot) -> Entry {
        self.entries.get(slot.number() as usize).copied().unwrap_or(Entry::FREE)
    }

    /// Every place that is taken.
    pub fn used(&self) -> impl Iterator<Item = Found> {
        self.slots.all().filter(|slot| !self.entry(*slot).is_free()).map(|slot| self.found(slot))
    }

    /// Every place that is free.
    pub fn free(&self) -> impl Iterator<Item = Slot> {
        self.slots.all().filter(|slot| self.entry(*slot).is_free())
    }

    /// The first place with a resource of this name.
    #[must_use]
    pub fn named(&self, name: &ResourceName) -> Option<Slot> {
        self.used().find(|found| found.name == *name).map(|found| found.slot)
    }

    pub(super) fn found(&self, slot: Slot) -> Found {
        Found { slot, name: self.entry(slot).name, area: self.slots.area(slot) }
    }
}
