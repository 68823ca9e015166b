//! Work on an index by lease tasks, on a file.

use super::*;
use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use delta_lease::DeltaArea;
use holdfast_io::clock::{BootClock, LocalInstant};
use holdfast_io::device::{Engine, Io, Started};
use holdfast_io::disk::Op;
use holdfast_io::identity::Machine;
use holdfast_io::ids::{Generation, HostId, HostTerm, ResourceName, SpaceName};
use holdfast_io::seal::{AreaUuid, SealedFire};
use holdfast_io::sys::linux::{BlockFile, OpenError};
use holdfast_io::sys::rights::Rights;
use holdfast_io::timing::{FireTimeout, IoTimeout};
use holdfast_io::units::{Geometry, SectorSize};
use nix::sys::signal::Signal;
use paxos_lease::Me;
use paxos_lease::format::Writer;
use tokio::task::LocalSet;

use crate::linux::Linux;
use crate::lockspace::Lockspace;
use crate::nodes::Nodes;
use crate::note::Note;
use crate::state_file::{Guarded, StateFile, StateFileError};
use crate::supervisor::event::{AcquireEnd, Effect};
use crate::watchdog::{Choice, Watchdog, WatchdogError};

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
        places: vec![Place { path: path.to_owned(), offset, by: Rights::Ours }],
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
struct Rig<P: Platform = Linux> {
    _dir: tempfile::TempDir,
    path: PathBuf,
    shared: Rc<SpaceShared<P>>,
    formats: Formats,
}

impl Rig {
    fn new() -> Self {
        Self::on(|linux, _| linux, IoTimeout::DEFAULT)
    }
}

impl<P: Platform<File = BlockFile>> Rig<P> {
    fn on(platform: impl FnOnce(Linux, &Path) -> P, io_timeout: IoTimeout) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(8 * MIB).unwrap();
        let geometry = Geometry::default_for(SectorSize::B512);
        let platform = platform(Linux::new(Choice::None, dir.path().to_owned()).unwrap(), &path);
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
        let opened = platform.nodes().open(&path, &Rights::Ours).unwrap();
        let area = DeltaArea { at: LeaseOffset(0), geometry, space: space(), uuid: AreaUuid::NONE };
        let term = HostTerm { host_id: HostId::new(1).unwrap(), generation: Generation(1) };
        let me = Me { term, machine, fire: SealedFire::NoWatchdog, io_timeout };
        let shared = Rc::new(SpaceShared::new(area, opened, me, &platform));
        shared.limit.set(LocalInstant::NEVER);
        Rig { _dir: dir, path, shared, formats: Formats::default() }
    }

    /// What the daemon answers, and whether that was all.
    async fn work(&self, work: IndexWork) -> (IndexEnd, bool) {
        let place = Place { path: self.path.clone(), offset: INDEX, by: Rights::Ours };
        let request = IndexRequest { space: space(), place, work };
        prepare_index(&self.shared, Arc::clone(&self.shared.file), &request).await.result.unwrap();
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
        prepare(&shared, opened(&shared, &request), &request).await.result.unwrap();
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

fn opened<P: Platform>(shared: &SpaceShared<P>, request: &LeaseRequest) -> Vec<Opened<P::File>> {
    vec![Opened { place: request.places[0].clone(), file: Ok(Arc::clone(&shared.file)) }]
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
        prepare(&rig.shared, opened(&rig.shared, &request), &request).await.result.unwrap();
        let formatting = rig.formats.begin(Bytes::of(rig.shared.file.node(), FIRST, MIB)).unwrap();
        assert!(rig.shared.begin_acquire(&request, &rig.formats).unwrap_err().contains("being formatted"));
        assert_eq!(rig.shared.leased_areas(), []);
        drop(formatting);
        prepare(&rig.shared, opened(&rig.shared, &request), &request).await.result.unwrap();
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

/// A machine on which one write is held until it is let go.
#[derive(Clone)]
struct Gated {
    linux: Linux,
    gate: Arc<Gate>,
}

struct Gate {
    file: std::fs::File,
    path: Arc<str>,
    /// Where the write goes that is held.
    at: u64,
    held: Mutex<Option<Started>>,
}

impl Gate {
    fn perform(&self, mut io: Started) {
        let (at, len) = (io.at(), io.len());
        let done = match io.op() {
            Op::Read => self.file.read_exact_at(io.buf(), at),
            Op::Write => self.file.write_all_at(io.buf(), at),
        };
        io.complete(done.map(|()| len).map_err(|_| nix::errno::Errno::EIO));
    }

    fn let_go(&self) {
        let held = self.held.lock().unwrap().take();
        self.perform(held.expect("a write is held"));
    }
}

impl Engine for Gated {
    fn path(&self) -> &Arc<str> {
        &self.gate.path
    }

    fn submit(&self, io: Io) {
        let Some(io) = io.start(self.linux.clock().now()) else { return };
        if io.op() == Op::Write && io.at() == self.gate.at {
            *self.gate.held.lock().unwrap() = Some(io);
        } else {
            self.gate.perform(io);
        }
    }
}

impl Platform for Gated {
    type Clock = BootClock;
    type File = BlockFile;
    type Engine = Gated;

    fn clock(&self) -> &BootClock {
        self.linux.clock()
    }
    fn nodes(&self) -> &Nodes {
        self.linux.nodes()
    }
    fn open(&self, path: &Path, by: &Rights) -> Result<Arc<BlockFile>, OpenError> {
        self.linux.open(path, by)
    }
    async fn open_apart(&self, path: &Path, by: &Rights) -> Result<Result<Arc<BlockFile>, OpenError>, String> {
        self.linux.open_apart(path, by).await
    }
    fn engine(&self, _: &Arc<BlockFile>, _: usize, _: &'static str) -> Gated {
        self.clone()
    }
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.linux.spawn(task);
    }
    fn start_lockspace(&self, _: Lockspace<Self>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn open_watchdog(&self, sealed: FireTimeout) -> Result<Box<dyn Watchdog>, WatchdogError> {
        self.linux.open_watchdog(sealed)
    }
    fn is_clear_of_wdmd(&self) -> Result<(), WatchdogError> {
        self.linux.is_clear_of_wdmd()
    }
    fn read_state(&self) -> Result<Option<StateFile>, StateFileError> {
        self.linux.read_state()
    }
    fn write_state(&self, state: &StateFile) -> Result<(), StateFileError> {
        self.linux.write_state(state)
    }
    fn left_of<'a>(&self, guarded: &'a BTreeSet<Guarded>) -> Vec<&'a Guarded> {
        self.linux.left_of(guarded)
    }
    fn end(&self, guarded: &[&Guarded], signal: Signal) {
        self.linux.end(guarded, signal);
    }
    async fn before(&self, _: &Effect<Held>) {}
}

/// Whoever has the index next must not find that an entry of ours appears under its hands.
#[test]
fn while_a_write_may_still_land_the_index_is_kept_though_its_client_is_answered() {
    local(async {
        let mut gate = None;
        let gated = |linux: Linux, path: &Path| {
            let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
            // The first entries of the index.
            let made = Gate { file, path: Arc::from("gated"), at: INDEX + 512, held: Mutex::default() };
            let gate = gate.insert(Arc::new(made));
            Gated { linux, gate: Arc::clone(gate) }
        };
        let rig = Rig::on(gated, IoTimeout::new(1).unwrap());
        let gate = gate.unwrap();
        let (notes, mut inbox) = Notes::channel();
        let place = Place { path: rig.path.clone(), offset: INDEX, by: Rights::Ours };
        let request = IndexRequest { space: space(), place, work: create("a") };
        prepare_index(&rig.shared, Arc::clone(&rig.shared.file), &request).await.result.unwrap();
        let surroundings = Surroundings { used: Vec::new(), formats: rig.formats.clone() };
        let work = run_index(Rc::clone(&rig.shared), TaskId(1), request, Stop::new(), surroundings, notes);
        let work = tokio::task::spawn_local(work);
        let Some(Note::Event(event)) = inbox.recv().await else { panic!("no event") };
        let answered =
            matches!(&*event, Event::IndexDone { end, over: false, .. } if end.code == ResultCode::IO_TIMEOUT);
        assert!(answered, "{event:?}");

        // Our host_id owns the lease of the index, and all that was touched is ours here, too.
        let owner = |bytes: &[u8]| {
            let at = usize::try_from(INDEX + MIB).unwrap();
            let record = holdfast_io::leader::LeaderRecord::parse(&holdfast_io::bytes::array_at(bytes, at));
            record.owner().filter(|_| !record.is_free())
        };
        assert_eq!(owner(&rig.bytes()), Some(rig.shared.me.term));
        let node = rig.shared.file.node();
        assert!(rig.formats.begin(Bytes::of(node, FIRST, MIB)).is_err());
        assert_eq!(rig.shared.leased_areas(), [(node, INDEX + MIB, MIB)]);

        gate.let_go();
        let Some(Note::Event(event)) = inbox.recv().await else { panic!("no event") };
        assert!(matches!(&*event, Event::TaskDone { .. }), "{event:?}");
        work.await.unwrap();
        assert_eq!(owner(&rig.bytes()), None, "given back once it has landed");
        assert!(rig.formats.begin(Bytes::of(node, 0, 8 * MIB)).is_ok());
        assert_eq!(rig.shared.leased_areas(), []);
    });
}
