//! What the tests of this crate run on: a clock that tests move, a sparse medium that several hosts share, and an engine
//! for it that can be told to fail, to hold a write back, or to let another host act between two of our I/Os.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use holdfast_io::clock::{Clock, LocalInstant};
use holdfast_io::device::{Device, Engine, Io, Started, WriteLimit};
use holdfast_io::disk::{Disk, IoError, Op, ReadDisk};
use holdfast_io::identity::{BootHash, Machine, MachineHash};
use holdfast_io::ids::{Generation, HostId, HostTerm, Lver, RemoteTimestamp, ResourceName, SpaceName};
use holdfast_io::leader::{self, LeaderKind, LeaderRecord};
use holdfast_io::seal::{AreaUuid, Seal, SealedFire};
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::timing::IoTimeout;
use holdfast_io::units::{Geometry, LeaseOffset, SectorIndex};
use nix::errno::Errno;

use crate::area::{LeaseAt, Me};
use crate::copies::Place;
use crate::dblock::{Dblock, HostSector, Inp, ModeBlock, SHARED};
use crate::format::{NewLease, Writer, plan};
use crate::layout::{LEADER, dblock_of};
use crate::liveness::{HostLiveness, LivenessError, Verdict};
use crate::number::Ballot;

pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|d| u8::try_from(d[0] * 16 + d[1]).unwrap()).collect()
}

pub(crate) fn machine(n: u64) -> Machine {
    Machine { machine: MachineHash(n), boot: BootHash(n + 100) }
}

pub(crate) fn uuid() -> AreaUuid {
    const BYTES: [u8; 16] = *b"a lease for test";
    AreaUuid(uuid::Uuid::from_bytes(BYTES))
}

pub(crate) fn seal_of(sector: SectorIndex) -> Seal {
    let Machine { machine, boot } = machine(1);
    Seal { fire: SealedFire::NoWatchdog, machine, boot, area: uuid(), millis: 7, sector }
}

pub(crate) fn host(n: u64) -> HostId {
    HostId::new(n).unwrap()
}

pub(crate) fn term(host_id: u64, generation: u64) -> HostTerm {
    HostTerm { host_id: host(host_id), generation: Generation(generation) }
}

pub(crate) fn me(host_id: u64) -> Me {
    Me {
        term: term(host_id, 1),
        machine: machine(host_id),
        fire: SealedFire::NoWatchdog,
        io_timeout: IoTimeout::DEFAULT,
    }
}

pub(crate) const SMALL: Geometry = Geometry::ALL[0];

pub(crate) fn lease() -> LeaseAt {
    LeaseAt {
        at: LeaseOffset(1024 * 1024),
        space: SpaceName::new(b"LS").unwrap(),
        resource: ResourceName::new(b"R").unwrap(),
        geometry_hint: SMALL,
    }
}

/// The leader of an lver, as `writer` published it for `owner`.
pub(crate) fn leader_at(lver: u64, owner: HostTerm, writer: u64) -> LeaderRecord {
    LeaderRecord {
        resource_name: lease().resource,
        num_hosts: 5,
        lver: Lver(lver),
        owner_id: owner.host_id.get(),
        owner_generation: owner.generation,
        timestamp: RemoteTimestamp(50 + lver),
        write_id: writer,
        write_generation: 1,
        write_timestamp: 60,
        ..LeaderRecord::formatted(LeaderKind::Paxos, SMALL, lease().space)
    }
}

pub(crate) fn ballot(n: u64) -> Option<Ballot> {
    Ballot::new(n)
}

/// A dblock in phase 2 (or after it) with its owner's value.
pub(crate) fn proposed(lver: u64, bal: u64, owner: HostTerm) -> Dblock {
    Dblock { mbal: ballot(bal), bal: ballot(bal), inp: Inp::new(owner, 50 + lver), lver: Lver(lver), flags: 0 }
}

/// A dblock in phase 1.
pub(crate) fn announced(lver: u64, mbal: u64) -> Dblock {
    Dblock { mbal: ballot(mbal), lver: Lver(lver), ..Dblock::default() }
}

/// Time that moves only when a test, or a sleep, moves it.
#[derive(Clone)]
pub(crate) struct ManualClock(Rc<RefCell<ClockState>>);

struct ClockState {
    now: LocalInstant,
    /// Sleeps end at once and move the time; else they wait until the time is moved.
    jumps: bool,
    slept: Vec<Duration>,
}

impl ManualClock {
    pub(crate) fn jumping() -> Self {
        Self::at(true)
    }

    pub(crate) fn waiting() -> Self {
        Self::at(false)
    }

    fn at(jumps: bool) -> Self {
        let now = LocalInstant::from_nanos(1_000_000_000_000);
        ManualClock(Rc::new(RefCell::new(ClockState { now, jumps, slept: Vec::new() })))
    }

    pub(crate) fn advance(&self, by: Duration) {
        let mut state = self.0.borrow_mut();
        state.now = state.now.after(by);
    }

    /// Every sleep that ended so far.
    pub(crate) fn slept(&self) -> Vec<Duration> {
        self.0.borrow().slept.clone()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> LocalInstant {
        self.0.borrow().now
    }

    fn suspended(&self) -> Duration {
        Duration::ZERO
    }

    async fn sleep_until(&self, at: LocalInstant) {
        poll_fn(|_| {
            let mut state = self.0.borrow_mut();
            if state.now < at {
                if !state.jumps || at == LocalInstant::NEVER {
                    return Poll::Pending;
                }
                let slept = at.since(state.now);
                state.slept.push(slept);
                state.now = at;
            }
            Poll::Ready(())
        })
        .await;
    }
}

/// A device of sectors, most of them never written, that several hosts share.
#[derive(Clone, Default)]
pub(crate) struct Medium(Rc<RefCell<BTreeMap<u64, Vec<u8>>>>);

impl Medium {
    /// With a lease on it, formatted by us.
    pub(crate) fn formatted(num_hosts: u32) -> Self {
        Self::formatted_as(num_hosts, None)
    }

    /// With one of several copies of a lease on it.
    pub(crate) fn formatted_as(num_hosts: u32, place: Option<Place>) -> Self {
        Self::formatted_with(lease().geometry_hint, num_hosts, place)
    }

    /// The same, of these sizes.
    pub(crate) fn formatted_with(geometry: Geometry, num_hosts: u32, place: Option<Place>) -> Self {
        Self::formatted_under(uuid(), geometry, num_hosts, place)
    }

    /// The same, by another format than that of all other tests.
    pub(crate) fn formatted_anew(num_hosts: u32, place: Option<Place>) -> Self {
        let other = AreaUuid(uuid::Uuid::from_bytes(*b"one more for it."));
        Self::formatted_under(other, lease().geometry_hint, num_hosts, place)
    }

    fn formatted_under(uuid: AreaUuid, geometry: Geometry, num_hosts: u32, place: Option<Place>) -> Self {
        let medium = Medium::default();
        let LeaseAt { space, resource, .. } = lease();
        let new = NewLease { geometry, space, resource, num_hosts: Some(num_hosts), uuid, place };
        for write in plan(&new, &Writer { machine: machine(9), fire: SealedFire::NoWatchdog }).unwrap() {
            medium.write(lease().at.0 + write.offset_in_area, &write.bytes);
        }
        medium
    }

    /// Another device with the same content.
    pub(crate) fn copy_of(other: &Medium) -> Self {
        Medium(Rc::new(RefCell::new(other.0.borrow().clone())))
    }

    /// Its content is replaced by that of another.
    pub(crate) fn become_copy_of(&self, other: &Medium) {
        let content = other.0.borrow().clone();
        *self.0.borrow_mut() = content;
    }

    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        let mut sectors = self.0.borrow_mut();
        for (i, sector) in (0u64..).zip(bytes.chunks(512)) {
            if sectors.contains_key(&(at + i * 512)) || sector.iter().any(|b| *b != 0) {
                sectors.insert(at + i * 512, sector.to_vec());
            }
        }
    }

    pub(crate) fn read(&self, at: u64, buf: &mut [u8]) {
        let len = buf.len();
        for (from, sector) in self.0.borrow().range(at..at + len as u64) {
            let to = usize::try_from(from - at).unwrap();
            buf[to..to + 512].copy_from_slice(sector);
        }
    }

    fn offset(sector: SectorIndex) -> u64 {
        lease().at.sector(sector, SMALL.sector())
    }

    pub(crate) fn sector(&self, sector: SectorIndex) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        self.read(Self::offset(sector), &mut bytes);
        bytes
    }

    pub(crate) fn damage(&self, sector: SectorIndex, byte: usize) {
        let mut bytes = self.sector(sector);
        bytes[byte] ^= 0x40;
        self.write(Self::offset(sector), &bytes);
    }

    pub(crate) fn leader(&self) -> LeaderRecord {
        LeaderRecord::parse(&holdfast_io::bytes::array_at(&self.sector(LEADER), 0))
    }

    /// As sanlock writes it: without a seal.
    pub(crate) fn put_leader(&self, leader: &LeaderRecord) {
        let mut bytes = vec![0; 512];
        bytes[..leader::LEN].copy_from_slice(&leader.encode());
        self.write(Self::offset(LEADER), &bytes);
    }

    pub(crate) fn host(&self, n: u64) -> HostSector {
        HostSector::parse(&self.sector(dblock_of(host(n))))
    }

    pub(crate) fn dblock(&self, n: u64) -> Dblock {
        self.host(n).dblock
    }

    /// As another host writes it, sealed.
    pub(crate) fn put_host(&self, n: u64, dblock: Dblock, shared: Option<u64>) {
        let mode = shared.map_or(ModeBlock::default(), |generation| ModeBlock {
            flags: SHARED,
            reserved: 0,
            generation: Generation(generation),
        });
        let at = dblock_of(host(n));
        let sector = HostSector { dblock, mode, seal: None }.sector(SMALL.sector(), &seal_of(at));
        self.write(Self::offset(at), &sector);
    }

    pub(crate) fn put_dblock(&self, n: u64, dblock: Dblock) {
        self.put_host(n, dblock, None);
    }
}

/// What an I/O was about, as the budgets name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Area,
    Leader,
    Dblocks,
    Own,
    OtherHost(u64),
    Other,
}

/// One I/O that a host issued.
pub(crate) type Step = (Op, Kind);

/// What is to become of an I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// As it should.
    Done,
    /// The device reports an error and does nothing.
    Fails,
    /// It is performed, and an error reported.
    DoneButFails,
    /// It stays with the device until [`TestEngine::release`].
    Held,
}

type Hook = Box<dyn FnMut(&Medium)>;

#[derive(Default)]
struct Script {
    steps: Vec<Step>,
    /// What happens right before our I/O number n (from 0).
    before: BTreeMap<usize, Hook>,
    fates: BTreeMap<usize, Fate>,
    held: VecDeque<Started>,
}

/// One host's way to the medium.
pub(crate) struct TestEngine {
    path: Arc<str>,
    me: u64,
    medium: Medium,
    clock: ManualClock,
    script: RefCell<Script>,
}

impl TestEngine {
    fn kind(&self, io: &Io) -> Kind {
        let sector = io.at().checked_sub(lease().at.0).map(|b| b / 512);
        match (sector, io.len()) {
            (Some(0), 512) => Kind::Leader,
            (Some(0), len) if len == SMALL.area_len() => Kind::Area,
            (Some(n), 512) if n == self.me + 1 => Kind::Own,
            (Some(n), 512) if (2..2002).contains(&n) => Kind::OtherHost(n - 1),
            (Some(2), _) => Kind::Dblocks,
            _ => Kind::Other,
        }
    }

    fn perform(&self, mut io: Started, errno: Option<Errno>) {
        let (at, op) = (io.at(), io.op());
        let len = io.buf().len();
        match op {
            Op::Read => self.medium.read(at, io.buf()),
            Op::Write => self.medium.write(at, io.buf()),
        }
        io.complete(errno.map_or(Ok(len), Err));
    }

    /// Right before our I/O number `step` (from 0), another host acts.
    pub(crate) fn before(&self, step: usize, act: impl FnMut(&Medium) + 'static) {
        self.script.borrow_mut().before.insert(step, Box::new(act));
    }

    pub(crate) fn fate(&self, step: usize, fate: Fate) {
        self.script.borrow_mut().fates.insert(step, fate);
    }

    /// Lets the writes that are held land.
    pub(crate) fn release(&self) {
        let held: Vec<_> = self.script.borrow_mut().held.drain(..).collect();
        held.into_iter().for_each(|io| self.perform(io, None));
    }

    pub(crate) fn steps(&self) -> Vec<Step> {
        self.script.borrow().steps.clone()
    }

    pub(crate) fn forget_steps(&self) {
        let mut script = self.script.borrow_mut();
        let held = std::mem::take(&mut script.held);
        *script = Script { held, ..Script::default() };
    }
}

impl Engine for TestEngine {
    fn path(&self) -> &Arc<str> {
        &self.path
    }

    fn submit(&self, io: Io) {
        let kind = self.kind(&io);
        let (hook, fate) = {
            let mut script = self.script.borrow_mut();
            let step = script.steps.len();
            script.steps.push((io.op(), kind));
            (script.before.remove(&step), script.fates.get(&step).copied().unwrap_or(Fate::Done))
        };
        if let Some(mut act) = hook {
            act(&self.medium);
        }
        let Some(started) = io.start(self.clock.now()) else { return };
        match fate {
            Fate::Done => self.perform(started, None),
            Fate::DoneButFails => self.perform(started, Some(Errno::EIO)),
            Fate::Fails => started.complete(Err(Errno::EIO)),
            Fate::Held => self.script.borrow_mut().held.push_back(started),
        }
    }
}

pub(crate) type TestDevice = Device<TestEngine, ManualClock>;

pub(crate) fn device(me: u64, medium: &Medium, clock: &ManualClock) -> TestDevice {
    limited_device(me, medium, clock, WriteLimit::none())
}

pub(crate) fn limited_device(me: u64, medium: &Medium, clock: &ManualClock, limit: WriteLimit) -> TestDevice {
    let engine = TestEngine {
        path: Arc::from("test"),
        me,
        medium: medium.clone(),
        clock: clock.clone(),
        script: RefCell::default(),
    };
    Device::new(engine, clock.clone(), limit)
}

/// Lets others run before each I/O, so that an interleaver decides their order.
pub(crate) struct Paced<D>(pub(crate) D);

pub(crate) async fn let_others_run() {
    let mut waited = false;
    poll_fn(|_| if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

impl<D: Disk> ReadDisk for Paced<D> {
    fn path(&self) -> &Arc<str> {
        self.0.path()
    }

    async fn read(&self, at: u64, len: usize, deadline: LocalInstant) -> Result<AlignedBuf, IoError> {
        let_others_run().await;
        self.0.read(at, len, deadline).await
    }
}

impl<D: Disk> Disk for Paced<D> {
    async fn write(&self, at: u64, data: AlignedBuf, deadline: LocalInstant) -> Result<(), IoError> {
        let_others_run().await;
        self.0.write(at, data, deadline).await
    }

    async fn reaped(&self) {
        self.0.reaped().await;
    }
}

/// Verdicts as a test says them: a queue for each term, whose last entry stays.
#[derive(Default)]
pub(crate) struct Said {
    verdicts: RefCell<BTreeMap<HostTerm, VecDeque<Verdict>>>,
    absences: RefCell<BTreeMap<HostId, VecDeque<Verdict>>>,
    pub(crate) asked: RefCell<Vec<HostTerm>>,
}

impl Said {
    /// Nothing about anybody: whoever is asked about counts as alive.
    pub(crate) fn nothing() -> Self {
        Said::default()
    }

    pub(crate) fn of(of: HostTerm, verdicts: &[Verdict]) -> Self {
        Said::nothing().and(of, verdicts)
    }

    pub(crate) fn and(self, of: HostTerm, verdicts: &[Verdict]) -> Self {
        self.verdicts.borrow_mut().insert(of, verdicts.iter().copied().collect());
        self
    }

    /// The same of whoever is at work under a host_id.
    pub(crate) fn absence(self, n: u64, verdicts: &[Verdict]) -> Self {
        self.absences.borrow_mut().insert(host(n), verdicts.iter().copied().collect());
        self
    }
}

/// What a host that nothing was said about is taken for.
pub(crate) const ALIVE: Verdict = Verdict::Alive { earliest: LocalInstant::NEVER };

fn next_of(said: &mut VecDeque<Verdict>) -> Verdict {
    if said.len() > 1 { said.pop_front().unwrap() } else { said[0] }
}

impl HostLiveness for Said {
    async fn verdict(&self, of: HostTerm) -> Result<Verdict, LivenessError> {
        self.asked.borrow_mut().push(of);
        Ok(self.verdicts.borrow_mut().get_mut(&of).map_or(ALIVE, next_of))
    }

    async fn absence(&self, host: HostId) -> Result<Verdict, LivenessError> {
        Ok(self.absences.borrow_mut().get_mut(&host).map_or(ALIVE, next_of))
    }
}
