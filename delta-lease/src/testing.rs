//! What the unit tests stand on: a clock that only moves when somebody waits, and a device in memory that can be slow,
//! fail, or keep a write back. A wait of 140 s takes no time, and what others do is scheduled at instants.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use holdfast_io::clock::{Clock, LocalInstant};
use holdfast_io::device::{Device, Engine, Io, Started, WriteLimit};
use holdfast_io::disk::Op;
use holdfast_io::identity::{BootHash, Machine, MachineHash};
use holdfast_io::ids::{Generation, HostId, RemoteTimestamp, ResourceName, SpaceName};
use holdfast_io::leader::{LeaderKind, LeaderRecord};
use holdfast_io::seal::{AreaUuid, Seal, SealedFire};
use holdfast_io::timing::{FireTimeout, IoTimeout};
use holdfast_io::units::{Geometry, LeaseOffset};
use nix::errno::Errno;

use crate::bitmap::HostBitmap;
use crate::format::{FormatSeal, plan};
use crate::layout::DeltaArea;
use crate::sector::{DeltaSector, index_of};

/// An instant, in seconds.
pub fn at(seconds: u64) -> LocalInstant {
    LocalInstant::from_nanos(seconds * 1_000_000_000)
}

/// An io_timeout.
pub fn x(seconds: u64) -> IoTimeout {
    IoTimeout::new(seconds).unwrap()
}

pub fn host_id(number: u64) -> HostId {
    HostId::new(number).unwrap()
}

pub fn machine(machine: u64, boot: u64) -> Machine {
    Machine { machine: MachineHash(machine), boot: BootHash(boot) }
}

pub fn format_seal() -> FormatSeal {
    FormatSeal { uuid: AreaUuid(uuid::Uuid::from_bytes([7; 16])), machine: machine(9, 9), fire: SealedFire::NoWatchdog }
}

/// 512/1M, at 1 MiB of its device.
pub fn area() -> DeltaArea {
    area_of(Geometry::ALL[0])
}

fn area_of(geometry: Geometry) -> DeltaArea {
    let space = SpaceName::new(b"space").unwrap();
    DeltaArea { at: LeaseOffset(1 << 20), geometry, space, uuid: format_seal().uuid }
}

/// A sector of [`area`]: host name "host", machine 1 in boot 1, io_timeout 10, fire timeout 60.
pub fn sealed_sector(host: u64, generation: u64, timestamp: u64) -> DeltaSector {
    let host = host_id(host);
    let leader = LeaderRecord {
        owner_id: host.get(),
        owner_generation: Generation(generation),
        resource_name: ResourceName::new(b"host").unwrap(),
        timestamp: RemoteTimestamp(timestamp),
        io_timeout: 10,
        ..LeaderRecord::formatted(LeaderKind::Delta, area().geometry, area().space)
    };
    let seal = Seal {
        fire: SealedFire::Within(FireTimeout::SANLOCK),
        machine: MachineHash(1),
        boot: BootHash(1),
        area: area().uuid,
        millis: 0,
        sector: index_of(host),
    };
    DeltaSector { leader, bitmap: HostBitmap::EMPTY, seal: Some(seal) }
}

type Event = Box<dyn FnOnce()>;

/// Stands still until somebody waits, and then jumps: to the end of the wait, or to the next event before it.
#[derive(Clone, Default)]
pub struct TestClock(Rc<Timeline>);

#[derive(Default)]
struct Timeline {
    now: Cell<LocalInstant>,
    events: RefCell<BTreeMap<(LocalInstant, usize), Event>>,
    scheduled: Cell<usize>,
    suspended: Cell<Duration>,
}

impl TestClock {
    pub fn starting_at(seconds: u64) -> Self {
        let clock = TestClock::default();
        clock.0.now.set(at(seconds));
        clock
    }

    /// Has something happen at an instant, before anyone who waits for that instant goes on.
    pub fn schedule(&self, instant: LocalInstant, event: impl FnOnce() + 'static) {
        let number = self.0.scheduled.get();
        self.0.scheduled.set(number + 1);
        self.0.events.borrow_mut().insert((instant, number), Box::new(event));
    }

    /// Runs the next event up to `limit`, at its own time.
    fn next_event(&self, limit: LocalInstant) -> bool {
        let mut events = self.0.events.borrow_mut();
        let Some(first) = events.first_entry().filter(|e| e.key().0 <= limit) else { return false };
        let ((instant, _), event) = first.remove_entry();
        drop(events);
        self.0.now.set(self.now().max(instant));
        event();
        true
    }

    /// The machine sleeps, and the clock counts on: what waits for an instant in it wakes at its end.
    pub fn suspend(&self, time: Duration) {
        self.0.suspended.set(self.0.suspended.get() + time);
        self.0.now.set(self.now().after(time));
    }

    /// Time passes for everyone.
    pub fn pass(&self, time: Duration) {
        let end = self.now().after(time);
        while self.next_event(end) {}
        self.0.now.set(end);
    }
}

impl Clock for TestClock {
    fn now(&self) -> LocalInstant {
        self.0.now.get()
    }

    fn suspended(&self) -> Duration {
        self.0.suspended.get()
    }

    fn sleep_until(&self, at: LocalInstant) -> impl Future<Output = ()> {
        let clock = self.clone();
        poll_fn(move |cx| {
            if clock.now() >= at {
                return Poll::Ready(());
            }
            if clock.next_event(at) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            clock.0.now.set(at);
            Poll::Ready(())
        })
    }
}

/// What becomes of one I/O.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// EIO, nothing landed.
    Fail,
    /// EIO, and it landed all the same.
    FailLanded,
    /// No answer, until [`TestEngine::land_held`].
    Hold,
    /// The bytes move at once, the answer takes this long.
    Slow(Duration),
    /// The bytes move after this long, then the answer comes.
    Late(Duration),
}

/// One I/O that reached the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub op: Op,
    pub at: u64,
    pub len: usize,
    pub when: LocalInstant,
}

/// A device in memory that does as it is told.
#[derive(Clone)]
pub struct TestEngine {
    path: Arc<str>,
    clock: TestClock,
    medium: Rc<RefCell<Vec<u8>>>,
    log: Rc<RefCell<Vec<Record>>>,
    faults: Rc<RefCell<Vec<(Op, usize, Fault)>>>,
    held: Rc<RefCell<Vec<Started>>>,
}

impl TestEngine {
    /// The `nth` read or write from now on (the next is the first) meets this fault.
    pub fn fault(&self, op: Op, nth: usize, fault: Fault) {
        let sofar = self.count(op);
        self.faults.borrow_mut().push((op, sofar + nth, fault));
    }

    pub fn log(&self) -> Vec<Record> {
        self.log.borrow().clone()
    }

    pub fn count(&self, op: Op) -> usize {
        self.log.borrow().iter().filter(|r| r.op == op).count()
    }

    pub fn reads(&self) -> usize {
        self.count(Op::Read)
    }

    pub fn writes(&self) -> usize {
        self.count(Op::Write)
    }

    /// Lets every held I/O happen now.
    pub fn land_held(&self) {
        let held: Vec<_> = self.held.borrow_mut().drain(..).collect();
        held.into_iter().for_each(|io| self.perform(io));
    }

    fn move_bytes(&self, io: &mut Started) {
        let mut medium = self.medium.borrow_mut();
        let from = usize::try_from(io.at()).unwrap();
        let len = io.buf().len();
        match io.op() {
            Op::Read => io.buf().copy_from_slice(&medium[from..from + len]),
            Op::Write => medium[from..from + len].copy_from_slice(io.buf()),
        }
    }

    fn perform(&self, mut io: Started) {
        self.move_bytes(&mut io);
        let len = io.buf().len();
        io.complete(Ok(len));
    }
}

impl Engine for TestEngine {
    fn path(&self) -> &Arc<str> {
        &self.path
    }

    fn submit(&self, io: Io) {
        let Some(mut io) = io.start(self.clock.now()) else { return };
        let op = io.op();
        let record = Record { op, at: io.at(), len: io.buf().len(), when: self.clock.now() };
        self.log.borrow_mut().push(record);
        let nth = self.count(op);
        let fault = self.faults.borrow().iter().find(|(o, n, _)| *o == op && *n == nth).map(|f| f.2);
        match fault {
            None => self.perform(io),
            Some(Fault::Fail) => io.complete(Err(Errno::EIO)),
            Some(Fault::FailLanded) => {
                self.move_bytes(&mut io);
                io.complete(Err(Errno::EIO));
            }
            Some(Fault::Hold) => self.held.borrow_mut().push(io),
            Some(Fault::Slow(time)) => {
                self.move_bytes(&mut io);
                self.clock.pass(time);
                let len = io.buf().len();
                io.complete(Ok(len));
            }
            Some(Fault::Late(time)) => {
                self.clock.pass(time);
                self.perform(io);
            }
        }
    }
}

/// A formatted area on such a device, at 1000 s of this host's clock.
pub struct Rig {
    pub clock: TestClock,
    pub disk: Device<TestEngine, TestClock>,
    pub limit: WriteLimit,
    pub area: DeltaArea,
}

impl Rig {
    pub fn formatted(geometry: Geometry) -> Self {
        let area = area_of(geometry);
        let base = usize::try_from(area.at.0).unwrap();
        let mut medium = vec![0xEE; base + geometry.area_len() + 4096];
        for write in plan(geometry, area.space, x(10), Some(&format_seal())) {
            let from = base + usize::try_from(write.offset_in_area).unwrap();
            medium[from..from + write.bytes.len()].copy_from_slice(&write.bytes);
        }
        let clock = TestClock::starting_at(1000);
        let engine = TestEngine {
            path: Arc::from("disk"),
            clock: clock.clone(),
            medium: Rc::new(RefCell::new(medium)),
            log: Rc::default(),
            faults: Rc::default(),
            held: Rc::default(),
        };
        let limit = WriteLimit::none();
        Rig { disk: Device::new(engine, clock.clone(), limit.clone()), clock, limit, area }
    }

    pub fn engine(&self) -> &TestEngine {
        self.disk.engine()
    }

    pub fn medium(&self) -> RefMut<'_, Vec<u8>> {
        self.engine().medium.borrow_mut()
    }

    /// Where the area begins, as an index into the medium.
    pub fn base(&self) -> usize {
        usize::try_from(self.area.at.0).unwrap()
    }

    /// Where the sector with the UUID begins, as an index into the medium.
    pub fn tail(&self) -> usize {
        usize::try_from(self.area.tail_offset()).unwrap()
    }

    fn place(&self, host: HostId) -> std::ops::Range<usize> {
        let from = usize::try_from(self.area.offset_of(host)).unwrap();
        from..from + self.area.geometry.sector().bytes()
    }

    /// The bytes of a host's sector.
    pub fn sector_bytes(&self, host: HostId) -> Vec<u8> {
        self.medium()[self.place(host)].to_vec()
    }

    /// The verified sector of a host.
    pub fn sector(&self, host: HostId) -> DeltaSector {
        self.area.decode(host, &self.sector_bytes(host)).unwrap()
    }

    /// Another host writes its sector, now.
    pub fn put_sector(&self, sector: &DeltaSector) {
        let host = HostId::new(sector.leader.owner_id).unwrap();
        let bytes = sector.encode(self.area.geometry.sector());
        self.medium()[self.place(host)].copy_from_slice(&bytes);
    }

    /// Another host writes its sector, at `instant`.
    pub fn put_sector_at(&self, instant: LocalInstant, sector: &DeltaSector) {
        let place = self.place(HostId::new(sector.leader.owner_id).unwrap());
        let bytes = sector.encode(self.area.geometry.sector());
        self.put_bytes_at(instant, place.start, bytes.to_vec());
    }

    /// The medium changes at `instant`.
    pub fn put_bytes_at(&self, instant: LocalInstant, from: usize, bytes: Vec<u8>) {
        let medium = Rc::clone(&self.engine().medium);
        self.clock.schedule(instant, move || medium.borrow_mut()[from..from + bytes.len()].copy_from_slice(&bytes));
    }
}
