//! Creating and deleting resources. The caller holds the index ([`super::IndexAt::lease`]) and keeps holding it until every write
//! issued here is over; then it sees to what was left ([`Leftovers`]), and only then gives the index back.
//!
//! I/O of a create: R 4096 bytes, R entries, R 4096 bytes of the area (and acquires what stands there), the 3 writes of a format,
//! R and W the sector of the entry. Of a delete: R 4096 bytes, R entries, R 4096 bytes of the area, its acquire, R and W the
//! sector of the entry, the 2 writes of a clear.

use std::time::Duration;

use holdfast_io::clock::Clock;
use holdfast_io::disk::{Disk, IoError};
use holdfast_io::ids::ResourceName;
use holdfast_io::seal::AreaUuid;
use holdfast_io::stop::Stop;
use holdfast_io::units::{Geometry, LeaseOffset};
use tracing::info;

use super::codec::Entry;
use super::error::IndexError;
use super::read::{Found, Index, Reader};
use super::seize::{Occupant, Seized};
use super::slots::Slot;
use crate::area::Me;
use crate::error::{AcquireError, AreaError};
use crate::format::{self, FormatWrite, NewLease, Writer};
use crate::liveness::HostLiveness;
use crate::release::{Held, Retract};

/// How long the write of a whole area may take (spec D 1.5).
pub const FORMAT_PATIENCE: Duration = Duration::from_secs(60);

/// What else on this host stands against overwriting an area: its other users, whom the disk does not show.
pub trait Reserve {
    /// While it is there, nobody else here uses the area.
    type Kept;

    /// Asks for `len` bytes from `at` on.
    ///
    /// # Errors
    /// Who uses them.
    fn reserve(&self, at: LeaseOffset, len: u64) -> Result<Self::Kept, String>;
}

/// A host on which nobody else uses anything.
#[derive(Clone, Copy, Debug)]
pub struct Nobody;

impl Reserve for Nobody {
    type Kept = ();
    fn reserve(&self, _: LeaseOffset, _: u64) -> Result<(), String> {
        Ok(())
    }
}

/// What is to be done once every write is over, whether or not the operation has succeeded.
#[must_use = "what was acquired on the way is to be given back"]
pub struct Leftovers<K> {
    /// Leases acquired, and not overwritten after all: to be released.
    pub held: Vec<Held>,
    /// What lost ballots left behind: to be retracted.
    pub undo: Vec<Retract>,
    /// Kept until every write is over.
    pub kept: Vec<K>,
}

impl<K> Default for Leftovers<K> {
    fn default() -> Self {
        Leftovers { held: Vec::new(), undo: Vec::new(), kept: Vec::new() }
    }
}

/// A change of an index that we hold.
pub struct Change<'a, D, C, H, R: Reserve> {
    /// The index.
    pub reader: Reader<'a, D, C>,
    /// Its shape.
    pub geometry: Geometry,
    /// Who lives.
    pub hosts: &'a H,
    /// We.
    pub me: &'a Me,
    /// Who else is here.
    pub reserve: &'a R,
    /// How we are asked to end.
    pub stop: &'a Stop,
    /// What is left to do.
    pub left: Leftovers<R::Kept>,
}

impl<D: Disk, C: Clock, H: HostLiveness, R: Reserve> Change<'_, D, C, H, R> {
    /// Creates a resource in the first free place in whose area nothing stands that somebody uses. `num_hosts`: host ids that it
    /// serves; `None` for as many as fit.
    ///
    /// # Errors
    /// [`IndexError::Listed`], [`IndexError::Full`], [`IndexError::NothingToTake`], and whatever the device has to say.
    pub async fn create(&mut self, name: ResourceName, num_hosts: Option<u32>) -> Result<Found, IndexError> {
        let index = self.reader.read().await?;
        if let Some(slot) = index.named(&name) {
            return Err(self.reader.listed(&index.found(slot)));
        }
        let (slot, seized) = self.free_place(&index).await?;
        let area = index.slots.area(slot);
        if let Err(error) = self.format(area, name, num_hosts).await {
            // Where nothing of it landed the lease is there still, and ours.
            self.left.held.extend(seized);
            return Err(error);
        }
        // The area is a lease now, and nobody's. Crash before the entry is written, or the write fails: nobody was told of it.
        self.reader.put(&index, slot, &Entry::of(name, area)).await?;
        info!(%name, at = area.0, "created");
        Ok(Found { slot, name, area })
    }

    /// The first free place that can be formatted, with the lease that was there, if any.
    async fn free_place(&mut self, index: &Index) -> Result<(Slot, Option<Held>), IndexError> {
        let (mut free, mut why) = (0, String::new());
        for slot in index.free() {
            if self.stop.is_set() {
                return Err(IndexError::Stopped);
            }
            let at = index.slots.area(slot);
            let stays = match self.may_go(at).await? {
                Seized::Free => return Ok((slot, None)),
                Seized::Ours(held) => return Ok((slot, Some(*held))),
                Seized::Stays(stays) => stays,
            };
            info!(at = at.0, why = stays, "a free place of the index is passed over");
            if free == 0 {
                why = stays;
            }
            free += 1;
        }
        if free == 0 {
            return Err(self.reader.full(index));
        }
        let (path, offset) = (self.reader.disk.path().clone(), self.reader.index.at.0);
        Err(IndexError::NothingToTake { path, offset, free, why })
    }

    /// Whether what stands at `at` may go, whoever may use it: others here, or hosts elsewhere.
    async fn may_go(&mut self, at: LeaseOffset) -> Result<Seized, IndexError> {
        match self.reserve.reserve(at, self.geometry.align().bytes()) {
            Ok(kept) => self.left.kept.push(kept),
            Err(why) => return Ok(Seized::Stays(why)),
        }
        let found = self.look(at).await?;
        match self.seize(at, found).await {
            // What cannot be believed may hide an owner.
            Err(IndexError::Acquire(error)) if !matches!(*error, AcquireError::Area(AreaError::Io(_))) => {
                Ok(Seized::Stays(error.to_string()))
            }
            other => other,
        }
    }

    /// Deletes a resource. `offset`: where it is expected, if that is known.
    ///
    /// # Errors
    /// [`IndexError::NotListed`]; [`IndexError::Offset`], [`IndexError::Differs`]: it is not where it is expected, or its area
    /// has something else in it; [`IndexError::InUse`]: somebody holds it; and whatever the device has to say.
    pub async fn delete(&mut self, name: ResourceName, offset: Option<u64>) -> Result<(), IndexError> {
        let index = self.reader.read().await?;
        let slot = self.listed_at(&index, name, offset)?;
        let area = index.slots.area(slot);
        let path = self.reader.disk.path().clone();
        let busy = |why| IndexError::InUse { path: path.clone(), at: area.0, why };
        let kept = self.reserve.reserve(area, self.geometry.align().bytes()).map_err(busy)?;
        self.left.kept.push(kept);
        let found = match self.look(area).await? {
            Occupant::Lease(found) if found != name => {
                let (found, expected) = (Box::new(found), Box::new(name));
                return Err(IndexError::Differs { path, at: area.0, found, expected });
            }
            found => found,
        };
        // An entry whose resource is gone already, or never was, leads nowhere.
        let lease = matches!(found, Occupant::Lease(_));
        let seized = match found {
            Occupant::Foreign => Seized::Stays("a lease of another lockspace stands there".to_owned()),
            found => self.seize(area, found).await?,
        };
        let held = match seized {
            Seized::Stays(why) => return Err(busy(why)),
            Seized::Free => None,
            Seized::Ours(held) => Some(*held),
        };
        if let Err(error) = self.reader.put(&index, slot, &Entry::FREE).await {
            self.left.held.extend(held);
            return Err(error);
        }
        // Crash here: the lease is there, unlisted and ours. A rebuild lists it, and it is free when we are gone.
        if lease && let Err(error) = self.clear(area, name).await {
            self.left.held.extend(held);
            return Err(error.into());
        }
        info!(%name, at = area.0, "deleted");
        Ok(())
    }

    /// The place of a resource that is to be deleted.
    fn listed_at(&self, index: &Index, name: ResourceName, offset: Option<u64>) -> Result<Slot, IndexError> {
        let Some(offset) = offset else { return index.named(&name).ok_or_else(|| self.reader.not_listed(name)) };
        let slot = self.reader.slot(index, offset)?;
        // Nothing is deleted by a name that is nowhere, whatever is at the offset.
        index.named(&name).ok_or_else(|| self.reader.not_listed(name))?;
        match index.found(slot).name {
            found if found == name => Ok(slot),
            found => {
                let path = self.reader.disk.path().clone();
                let (found, expected) = (Box::new(found), Box::new(name));
                Err(IndexError::Differs { path, at: offset, found, expected })
            }
        }
    }

    fn new_lease(&self, resource: ResourceName, num_hosts: Option<u32>) -> NewLease {
        let (geometry, space) = (self.geometry, self.reader.index.space);
        NewLease { geometry, space, resource, num_hosts, uuid: AreaUuid::random(), place: None }
    }

    const fn writer(&self) -> Writer {
        Writer { machine: self.me.machine, fire: self.me.fire }
    }

    async fn format(&self, at: LeaseOffset, name: ResourceName, num_hosts: Option<u32>) -> Result<(), IndexError> {
        let writes = format::plan(&self.new_lease(name, num_hosts), &self.writer())?;
        Ok(self.carry_out(at, writes).await?)
    }

    async fn clear(&self, at: LeaseOffset, name: ResourceName) -> Result<(), IoError> {
        match format::clear(&self.new_lease(name, None), &self.writer(), self.reader.clock.now()) {
            Ok(writes) => self.carry_out(at, writes).await,
            // As many hosts as fit always do.
            Err(_) => Ok(()),
        }
    }

    /// The writes of a plan, one after the other. The area is ours or nobody's, so whichever of them lands, and when, it lands
    /// under a lease that nobody holds: the caller keeps the index until all are over.
    async fn carry_out(&self, at: LeaseOffset, writes: Vec<FormatWrite>) -> Result<(), IoError> {
        for FormatWrite { offset_in_area, bytes, .. } in writes {
            let long = bytes.len() > self.geometry.sector().bytes();
            let deadline = if long {
                self.reader.clock.now().after(FORMAT_PATIENCE.max(self.reader.patience))
            } else {
                self.reader.deadline()
            };
            self.reader.disk.write(at.0.saturating_add(offset_in_area), bytes, deadline).await?;
        }
        Ok(())
    }
}
