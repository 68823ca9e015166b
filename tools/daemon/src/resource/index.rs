//! Lease tasks of a resource index: taking its lease, doing what was asked for, giving the lease back.
//!
//! All of it goes through one disk, that of the lease `rindex_lease`: its writes are bound by D2 and fenced like any lease's, and are
//! waited for before the lockspace is left. While one of them may still land, the index lease is kept: whoever has it next must not
//! find an entry changed, or an area formatted, by us.

use std::rc::Rc;
use std::sync::Arc;

use holdfast_io::clock::{Clock, first_of};
use holdfast_io::device::{Device, WriteLimit};
use holdfast_io::disk::Disk;
use holdfast_io::stop::Stop;
use holdfast_io::sys::linux::NodeId;
use holdfast_io::units::LeaseOffset;
use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::payload::RindexEntry;
use paxos_lease::index::{self, Change, Header, IndexAt, IndexError, Leftovers, Reader, Reserve};
use paxos_lease::{Acquired, Held, Mode, Options, ReleaseFailed, acquire, release};

use super::{LeaseDisk, Opened, SpaceShared, explain, finish, prepare};
use crate::codes;
use crate::note::Notes;
use crate::platform::{LeaseFile, Platform};
use crate::queries::format::{Bytes, Formats, Formatting, InUse};
use crate::queries::wire_entry;
use crate::supervisor::event::{Event, LeaseRequest, Orphans, Place, Prepared, TaskId};
use crate::supervisor::index::{IndexEnd, IndexRequest, IndexWork};

type Refused = (ResultCode, String);

impl<P: Platform> SpaceShared<P> {
    /// An acquire is about to begin: from now on its area is in use. Not while it is being formatted, or is to be: by our own
    /// host_id a lease could be had that is about to be another one.
    ///
    /// # Errors
    /// Its area is being formatted, or a write of ours to one of its disks is on its way under another number of that disk.
    pub fn begin_acquire(&self, request: &LeaseRequest, formats: &Formats) -> Result<(), String> {
        let Some(disk) = self.disk_of(request.key) else { return Ok(()) };
        if self.is_spoilt(request.key) {
            return Err(format!(
                "an earlier task of {} panicked: what it wrote may still land, or be on a few disks",
                request.key
            ));
        }
        let areas: Vec<(NodeId, u64)> = disk.areas().collect();
        if disk.copies.copies() > 1 && self.may_be_renumbered(request.key, &areas) {
            self.forget_disk(request.key);
            return Err(format!(
                "a write to a disk that {} was on is not over, and one of its disks now may be that one",
                request.key
            ));
        }
        let len = self.area.geometry.align().bytes();
        let formatted = disk.areas().find_map(|(node, at)| formats.touching(&Bytes::of(node, at, len)));
        if let Some(other) = formatted {
            self.forget_disk(request.key);
            return Err(format!("bytes {other} of a device of {} are being formatted", request.key));
        }
        self.places.borrow_mut().insert(request.key, (len, false));
        Ok(())
    }
}

/// What else this daemon does with devices.
pub struct Surroundings<P: Platform> {
    /// Its lockspaces, and their leases.
    pub used: Vec<InUse<P>>,
    /// The formattings that are not over.
    pub formats: Formats,
}

/// The same, on one device.
struct Here<P: Platform> {
    surroundings: Surroundings<P>,
    node: NodeId,
    /// Lockspaces that are being joined, by where they may be.
    opening: Vec<(Bytes, String)>,
}

impl<P: Platform> Here<P> {
    async fn on(platform: &P, node: NodeId, surroundings: Surroundings<P>) -> Self {
        let mut opening = Vec::new();
        for place in surroundings.used.iter().filter_map(InUse::opening) {
            // What cannot be opened, by the rights of who joins it, has not been joined either.
            if let Ok(Ok(file)) = platform.open_apart(&place.path, &place.by).await {
                opening.push(InUse::<P>::may_be_at(file.node(), place));
            }
        }
        Here { surroundings, node, opening }
    }

    fn keep(&self, at: LeaseOffset, len: u64) -> Result<Formatting, String> {
        let area = Bytes::of(self.node, at.0, len);
        self.surroundings.formats.begin(area).map_err(|other| format!("a format of bytes {other} is not over"))
    }
}

impl<P: Platform> Reserve for Here<P> {
    type Kept = Formatting;

    fn reserve(&self, at: LeaseOffset, len: u64) -> Result<Formatting, String> {
        let area = Bytes::of(self.node, at.0, len);
        let opening = self.opening.iter().find(|(other, _)| other.touches(&area)).map(|(_, what)| what.clone());
        let used = || self.surroundings.used.iter().find_map(|used| used.in_the_way_of(&area));
        opening.or_else(used).map_or_else(|| self.keep(at, len), Err)
    }
}

fn refuse(e: &IndexError) -> Refused {
    (codes::of_index(e), codes::chain(e))
}

fn reader<'a, P: Platform, D: Disk>(
    shared: &'a SpaceShared<P>,
    disk: &'a D,
    request: &IndexRequest,
) -> Reader<'a, D, P::Clock> {
    let index = IndexAt { at: LeaseOffset(request.place.offset), space: request.space };
    let patience = shared.deadline().since(shared.clock().now());
    Reader { disk, clock: shared.clock(), index, patience }
}

/// Prepares the device of an index: a disk of its own, and the fence where this device has none yet.
pub async fn prepare_index<P: Platform>(
    shared: &SpaceShared<P>,
    file: Arc<P::File>,
    request: &IndexRequest,
) -> Prepared {
    let look = Device::new(shared.engine_for(&file), shared.clock().clone(), WriteLimit::none());
    let header = match reader(shared, &look, request).header().await {
        Ok(header) => header,
        Err(e) => return Prepared::refused(codes::of_index(&e), codes::chain(&e)),
    };
    let lease = lease_request(request, &header);
    let opened = lease.places.iter().map(|place| Opened { place: place.clone(), file: Ok(Arc::clone(&file)) });
    prepare(shared, opened.collect(), &lease).await
}

/// The acquire of the lease that guards an index.
fn lease_request(request: &IndexRequest, header: &Header) -> LeaseRequest {
    let lease = header.index.lease(header.geometry);
    LeaseRequest {
        key: request.key(),
        places: vec![Place { offset: lease.at.0, ..request.place.clone() }],
        expected_lver: None,
        num_hosts: None,
        // As in sanlock: who works on an index is not waited for.
        nowait: true,
        mode: Mode::Exclusive,
        value: false,
        persistent: false,
        orphans: Orphans::Refused,
    }
}

/// Works on an index.
pub async fn run_index<P: Platform>(
    shared: Rc<SpaceShared<P>>,
    task: TaskId,
    request: IndexRequest,
    stop: Stop,
    surroundings: Surroundings<P>,
    notes: Notes<P>,
) {
    let Some(disk) = shared.disk_of(request.key()) else {
        let end = IndexEnd::failed(ResultCode::EBADF, "its device was closed");
        return notes.event(Event::IndexDone { task, end, over: true });
    };
    let Some((node, _)) = disk.areas().next() else {
        let end = IndexEnd::failed(ResultCode::EBADF, "its device was closed");
        return notes.event(Event::IndexDone { task, end, over: true });
    };
    let here = Here::on(&shared.platform, node, surroundings).await;
    let work = Work { shared, disk, request, stop, here, left: Leftovers::default() };
    work.run(task, &notes).await;
}

struct Work<P: Platform> {
    shared: Rc<SpaceShared<P>>,
    disk: Rc<LeaseDisk<P>>,
    request: IndexRequest,
    stop: Stop,
    here: Here<P>,
    left: Leftovers<Formatting>,
}

impl<P: Platform> Work<P> {
    async fn run(mut self, task: TaskId, notes: &Notes<P>) {
        let (ended, lease) = match self.take().await {
            Ok((header, lease)) => (self.perform(&header).await, Some(lease)),
            Err(refused) => (Err(refused), None),
        };
        let end = match ended {
            Ok(entry) => IndexEnd { code: ResultCode::OK, entry, why: None },
            Err((code, why)) => IndexEnd::failed(code, why),
        };
        // What takes long is not waited for with the answer: a write that is held up.
        let told = self.disk.writes_in_flight() > 0;
        if told {
            notes.event(Event::IndexDone { task, end: end.clone(), over: false });
            let _ = first_of(self.disk.copies.reaped(), self.shared.over.wait()).await;
        }
        let late = self.settle(lease).await;
        if late && !told {
            notes.event(Event::IndexDone { task, end: end.clone(), over: false });
        }
        self.let_go().await;
        if told || late {
            notes.event(Event::TaskDone { task });
        } else {
            notes.event(Event::IndexDone { task, end, over: true });
        }
    }

    /// Takes the lease of the index, and keeps everybody here from formatting over it.
    async fn take(&mut self) -> Result<(Header, Held), Refused> {
        let (shared, disk) = (&self.shared, &self.disk.copies);
        let header = reader(shared, disk, &self.request).header().await.map_err(|e| refuse(&e))?;
        let lease = header.index.lease(header.geometry);
        let len = header.geometry.align().bytes();
        let kept = self.here.keep(header.index.at, len).map_err(|why| (ResultCode::EAGAIN, why))?;
        self.left.kept.push(kept);
        shared.places.borrow_mut().insert(self.request.key(), (len, false));
        let backoff_seed = shared.clock().now().as_nanos() ^ shared.me.term.host_id.get();
        let options = Options { backoff_seed, ..Options::default() };
        match acquire(disk, shared.clock(), &**shared, &lease, &shared.me, &options, &self.stop).await {
            Ok(Acquired::Ours(held)) => Ok((header, held)),
            Ok(Acquired::Theirs(refusal)) => {
                let why =
                    format!("the lease of the index is not ours: {}", explain(shared, &refusal, shared.clock().now()));
                self.left.undo.extend(refusal.undo);
                Err((codes::of_refusal(&refusal.kind), why))
            }
            Err(failed) => {
                let refused = (codes::of_acquire(&failed.error), codes::chain(&failed));
                self.left.undo.extend(failed.undo);
                Err(refused)
            }
        }
    }

    async fn perform(&mut self, header: &Header) -> Result<RindexEntry, Refused> {
        let reader = reader(&self.shared, &self.disk.copies, &self.request);
        let mut change = Change {
            reader,
            geometry: header.geometry,
            hosts: &*self.shared,
            me: &self.shared.me,
            reserve: &self.here,
            stop: &self.stop,
            left: std::mem::take(&mut self.left),
        };
        let done = match self.request.work.clone() {
            IndexWork::Create { name, num_hosts } => {
                let fits = (1..=header.geometry.max_hosts()).contains(&num_hosts);
                // Its place is told, and nothing else (spec A 6).
                let created = change.create(name, fits.then_some(num_hosts)).await;
                created.map(|found| RindexEntry { offset: found.area.0, ..RindexEntry::default() })
            }
            IndexWork::Delete { name, offset } => change.delete(name, offset).await.map(|()| RindexEntry::default()),
            IndexWork::Add { name, offset } => index::add(&change.reader, name, offset).await.map(|f| wire_entry(&f)),
            IndexWork::Remove { name, offset } => {
                index::remove(&change.reader, name, offset).await.map(|()| RindexEntry::default())
            }
            IndexWork::Rebuild => index::rebuild(&change.reader, &self.stop).await.map(|_| RindexEntry::default()),
        };
        self.left = change.left;
        done.map_err(|e| refuse(&e))
    }

    /// Gives back what was acquired; whether something of it is still to be done, which waits for the disk.
    async fn settle(&mut self, lease: Option<Held>) -> bool {
        let held = std::mem::take(&mut self.left.held);
        // The index last: while anything of ours is on its way, it is nobody else's.
        for held in held.into_iter().chain(lease) {
            if self.shared.over.is_set() {
                // With the host_id, or by host_dead (D2).
                continue;
            }
            match release(&self.disk.copies, self.shared.clock(), held, &self.shared.me).await {
                Ok(()) => {}
                Err(ReleaseFailed { error, undo }) => {
                    tracing::warn!(why = codes::chain(&error), "a lease of an index is not given back yet");
                    self.left.undo.extend(undo);
                }
            }
        }
        !self.left.undo.is_empty()
    }

    /// Undoes what is left to undo, and lets go of the disk and of what was kept for it.
    async fn let_go(self) {
        for duty in self.left.undo {
            finish(&self.shared, &self.disk.copies, duty).await;
        }
        self.shared.forget_disk(self.request.key());
        let (disk, kept) = (self.disk, self.left.kept);
        if disk.writes_in_flight() > 0 {
            self.shared.platform.spawn(async move {
                disk.all_reaped().await;
                drop(kept);
            });
        }
    }
}

#[cfg(test)]
mod tests;
