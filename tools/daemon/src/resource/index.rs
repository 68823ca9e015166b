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

use super::{LeaseDisk, SpaceShared, explain, finish, prepare};
use crate::codes;
use crate::note::Notes;
use crate::platform::{LeaseFile, Platform, SharedDisk};
use crate::queries::format::{Bytes, Formats, Formatting, InUse};
use crate::queries::wire_entry;
use crate::state_file::FenceRecord;
use crate::supervisor::event::{Event, LeaseRequest, Orphans, Place, TaskId};
use crate::supervisor::index::{IndexEnd, IndexRequest, IndexWork};

type Refused = (ResultCode, String);

impl<P: Platform> SpaceShared<P> {
    /// An acquire is about to begin: from now on its area is in use. Not while it is being formatted, or is to be: by our own
    /// host_id a lease could be had that is about to be another one.
    ///
    /// # Errors
    /// Its area is being formatted.
    pub fn begin_acquire(&self, request: &LeaseRequest, formats: &Formats) -> Result<(), String> {
        let Some(disk) = self.disk_of(request.key) else { return Ok(()) };
        let (at, len) = (request.place.offset, self.area.geometry.align().bytes());
        if let Some(other) = formats.touching(&Bytes::of(disk.node, at, len)) {
            self.forget_disk(request.key);
            return Err(format!("bytes {other} of {} are being formatted", request.place.path.display()));
        }
        self.places.borrow_mut().insert(request.key, (at, len, false));
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
        for (path, offset) in surroundings.used.iter().filter_map(InUse::opening) {
            // What cannot be opened has not been joined either.
            if let Ok(Ok(file)) = platform.open_apart(path).await {
                opening.push(InUse::<P>::may_be_at(file.node(), path, offset));
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

fn reader<'a, P: Platform>(
    shared: &'a SpaceShared<P>,
    disk: &'a SharedDisk<P>,
    request: &IndexRequest,
) -> Reader<'a, SharedDisk<P>, P::Clock> {
    let index = IndexAt { at: LeaseOffset(request.place.offset), space: request.space };
    let patience = shared.deadline().since(shared.clock().now());
    Reader { disk, clock: shared.clock(), index, patience }
}

/// Prepares the device of an index: a disk of its own, and the fence where this device has none yet.
///
/// # Errors
/// The answer and the reason.
pub async fn prepare_index<P: Platform>(
    shared: &SpaceShared<P>,
    file: Arc<P::File>,
    request: &IndexRequest,
) -> Result<Option<FenceRecord>, Refused> {
    let look = Device::new(shared.engine_for(&file), shared.clock().clone(), WriteLimit::none());
    let header = reader(shared, &look, request).header().await.map_err(|e| refuse(&e))?;
    prepare(shared, file, &lease_request(request, &header)).await
}

/// The acquire of the lease that guards an index.
fn lease_request(request: &IndexRequest, header: &Header) -> LeaseRequest {
    let lease = header.index.lease(header.geometry);
    LeaseRequest {
        key: request.key(),
        place: Place { path: request.place.path.clone(), offset: lease.at.0 },
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
    let here = Here::on(&shared.platform, disk.node, surroundings).await;
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
        let told = self.disk.device.writes_in_flight() > 0;
        if told {
            notes.event(Event::IndexDone { task, end: end.clone(), over: false });
            let _ = first_of(self.disk.device.reaped(), self.shared.over.wait()).await;
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
        let (shared, disk) = (&self.shared, &self.disk.device);
        let header = reader(shared, disk, &self.request).header().await.map_err(|e| refuse(&e))?;
        let lease = header.index.lease(header.geometry);
        let len = header.geometry.align().bytes();
        let kept = self.here.keep(header.index.at, len).map_err(|why| (ResultCode::EAGAIN, why))?;
        self.left.kept.push(kept);
        shared.places.borrow_mut().insert(self.request.key(), (lease.at.0, len, false));
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
        let reader = reader(&self.shared, &self.disk.device, &self.request);
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
            match release(&self.disk.device, self.shared.clock(), held, &self.shared.me).await {
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
            finish(&self.shared, &self.disk.device, duty).await;
        }
        self.shared.forget_disk(self.request.key());
        let (disk, kept) = (self.disk, self.left.kept);
        if disk.device.writes_in_flight() > 0 {
            self.shared.platform.spawn(async move {
                disk.device.reaped().await;
                drop(kept);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;
    use std::path::PathBuf;

    use delta_lease::DeltaArea;
    use holdfast_io::clock::LocalInstant;
    use holdfast_io::identity::Machine;
    use holdfast_io::ids::{Generation, HostId, HostTerm, ResourceName, SpaceName};
    use holdfast_io::seal::{AreaUuid, SealedFire};
    use holdfast_io::timing::IoTimeout;
    use holdfast_io::units::{Geometry, SectorSize};
    use paxos_lease::Me;
    use paxos_lease::format::Writer;
    use tokio::task::LocalSet;

    use crate::linux::Linux;
    use crate::note::Note;
    use crate::supervisor::event::AcquireEnd;
    use crate::watchdog::Choice;

    const MIB: u64 = 1 << 20;
    /// Where the index is, and the first two of its resources.
    const INDEX: u64 = MIB;
    const FIRST: u64 = 3 * MIB;
    const SECOND: u64 = 4 * MIB;

    fn local<T>(run: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, run)
    }

    fn space() -> SpaceName {
        SpaceName::new(b"LS").unwrap()
    }

    fn name(text: &str) -> ResourceName {
        ResourceName::new(text.as_bytes()).unwrap()
    }

    fn create(text: &str) -> IndexWork {
        IndexWork::Create { name: name(text), num_hosts: 0 }
    }

    fn acquire_of(resource: &str, path: &std::path::Path, offset: u64) -> LeaseRequest {
        LeaseRequest {
            key: crate::supervisor::event::LeaseKey { space: space(), resource: name(resource) },
            place: Place { path: path.to_owned(), offset },
            expected_lver: None,
            num_hosts: None,
            nowait: true,
            mode: Mode::Exclusive,
            value: false,
            persistent: false,
            orphans: Orphans::Refused,
        }
    }

    /// A file with an index of LS, which is joined.
    struct Rig {
        _dir: tempfile::TempDir,
        path: PathBuf,
        shared: Rc<SpaceShared>,
        formats: Formats,
    }

    impl Rig {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("disk");
            let file = std::fs::File::create(&path).unwrap();
            file.set_len(8 * MIB).unwrap();
            let geometry = Geometry::default_for(SectorSize::B512);
            let linux = Linux::new(Choice::None, dir.path().to_owned()).unwrap();
            let machine = Machine::from_ids("m", "", "b");
            for write in delta_lease::format::plan(geometry, space(), IoTimeout::DEFAULT, None) {
                file.write_all_at(&write.bytes, write.offset_in_area).unwrap();
            }
            let at = IndexAt { at: LeaseOffset(INDEX), space: space() };
            let header = Header::new(at, geometry, 4, AreaUuid::random());
            let writer = Writer { machine, fire: SealedFire::NoWatchdog };
            for write in index::format::plan(&header, &writer).unwrap() {
                file.write_all_at(&write.bytes, INDEX + write.offset_in_area).unwrap();
            }
            let opened = linux.nodes().open(&path).unwrap();
            let area = DeltaArea { at: LeaseOffset(0), geometry, space: space(), uuid: AreaUuid::NONE };
            let term = HostTerm { host_id: HostId::new(1).unwrap(), generation: Generation(1) };
            let me = Me { term, machine, fire: SealedFire::NoWatchdog, io_timeout: IoTimeout::DEFAULT };
            let shared = Rc::new(SpaceShared::new(area, opened, me, &linux));
            shared.limit.set(LocalInstant::NEVER);
            Rig { _dir: dir, path, shared, formats: Formats::default() }
        }

        /// What the daemon answers, and whether that was all.
        async fn work(&self, work: IndexWork) -> (IndexEnd, bool) {
            let place = Place { path: self.path.clone(), offset: INDEX };
            let request = IndexRequest { space: space(), place, work };
            prepare_index(&self.shared, Arc::clone(&self.shared.file), &request).await.unwrap();
            let used = vec![InUse::Joined(Rc::downgrade(&self.shared))];
            let surroundings = Surroundings { used, formats: self.formats.clone() };
            let (notes, mut inbox) = Notes::channel();
            run_index(Rc::clone(&self.shared), TaskId(1), request, Stop::new(), surroundings, notes).await;
            let Some(Note::Event(event)) = inbox.recv().await else { panic!("no event") };
            match *event {
                Event::IndexDone { end, over, .. } => (end, over),
                other => panic!("{other:?}"),
            }
        }

        async fn acquire(&self, resource: &str, offset: u64) -> Held {
            let (notes, mut inbox) = Notes::channel();
            let shared = Rc::clone(&self.shared);
            let request = acquire_of(resource, &self.path, offset);
            prepare(&shared, Arc::clone(&shared.file), &request).await.unwrap();
            crate::resource::run_acquire(shared, TaskId(2), request, Stop::new(), notes).await;
            let Some(Note::Event(event)) = inbox.recv().await else { panic!("no event") };
            match *event {
                Event::Acquired { end: AcquireEnd::Ours { held, .. }, .. } => held,
                other => panic!("{other:?}"),
            }
        }

        fn bytes(&self) -> Vec<u8> {
            std::fs::read(&self.path).unwrap()
        }
    }

    #[test]
    fn a_resource_is_created_and_deleted_and_nothing_stays_in_use() {
        local(async {
            let rig = Rig::new();
            let (end, over) = rig.work(create("a")).await;
            assert_eq!((end.code, end.entry.offset, over), (ResultCode::OK, FIRST, true), "{:?}", end.why);
            let (again, _) = rig.work(create("a")).await;
            assert_eq!(again.code, ResultCode::EEXIST);
            let (end, _) = rig.work(IndexWork::Delete { name: name("a"), offset: None }).await;
            assert_eq!(end.code, ResultCode::OK, "{:?}", end.why);
            assert_eq!(rig.shared.leased_areas(), []);
            assert!(rig.formats.begin(Bytes::of(rig.shared.file.node(), 0, 8 * MIB)).is_ok());
        });
    }

    #[test]
    fn an_area_that_this_daemon_uses_is_neither_formatted_nor_cleared() {
        local(async {
            let rig = Rig::new();
            assert_eq!(rig.work(create("a")).await.0.code, ResultCode::OK);
            let _held = rig.acquire("a", FIRST).await;
            let before = rig.bytes();
            let (end, _) = rig.work(IndexWork::Delete { name: name("a"), offset: None }).await;
            assert_eq!(end.code, ResultCode::EBUSY, "{:?}", end.why);
            let range = usize::try_from(FIRST).unwrap()..usize::try_from(SECOND).unwrap();
            assert!(rig.bytes()[range.clone()] == before[range.clone()]);
            // Nor where the index has forgotten it.
            rig.work(IndexWork::Remove { name: None, offset: FIRST }).await;
            assert_eq!(rig.work(create("b")).await.0.entry.offset, SECOND);
            assert!(rig.bytes()[range.clone()] == before[range]);
        });
    }

    #[test]
    fn a_place_that_is_being_formatted_is_passed_over_and_an_index_that_is_waits() {
        local(async {
            let rig = Rig::new();
            let node = rig.shared.file.node();
            let formatting = rig.formats.begin(Bytes::of(node, FIRST, MIB)).unwrap();
            assert_eq!(rig.work(create("a")).await.0.entry.offset, SECOND);
            drop(formatting);
            let _formatting = rig.formats.begin(Bytes::of(node, INDEX, 512)).unwrap();
            assert_eq!(rig.work(create("b")).await.0.code, ResultCode::EAGAIN);
        });
    }

    #[test]
    fn a_lease_is_not_acquired_while_its_area_is_being_formatted() {
        local(async {
            let rig = Rig::new();
            assert_eq!(rig.work(create("a")).await.0.code, ResultCode::OK);
            let request = acquire_of("a", &rig.path, FIRST);
            prepare(&rig.shared, Arc::clone(&rig.shared.file), &request).await.unwrap();
            let formatting = rig.formats.begin(Bytes::of(rig.shared.file.node(), FIRST, MIB)).unwrap();
            assert!(rig.shared.begin_acquire(&request, &rig.formats).unwrap_err().contains("being formatted"));
            assert_eq!(rig.shared.leased_areas(), []);
            drop(formatting);
            prepare(&rig.shared, Arc::clone(&rig.shared.file), &request).await.unwrap();
            rig.shared.begin_acquire(&request, &rig.formats).unwrap();
            // And not formatted while it is about to be acquired.
            let (end, _) = rig.work(IndexWork::Delete { name: name("a"), offset: None }).await;
            assert_eq!(end.code, ResultCode::EBUSY, "{:?}", end.why);
        });
    }

    #[test]
    fn d2_past_the_instant_an_index_is_not_written() {
        local(async {
            let rig = Rig::new();
            let before = rig.bytes();
            rig.shared.limit.close();
            rig.shared.over.set();
            for work in [create("a"), IndexWork::Add { name: name("a"), offset: FIRST }, IndexWork::Rebuild] {
                let (end, _) = rig.work(work).await;
                assert_eq!(end.code, ResultCode::ENOSPC, "{:?}", end.why);
            }
            assert!(rig.bytes() == before);
        });
    }
}
