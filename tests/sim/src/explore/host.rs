//! One host of an exploration: the product's lease code over its own `Device`, up to the next thing it waits for.
//!
//! What a host does depends on nothing but what it has been told since it started ([`Event`]).

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use holdfast_io::clock::{Clock, LocalInstant};
use holdfast_io::device::{Device, Engine, Io, Started, WriteLimit};
use holdfast_io::disk::Op;
use holdfast_io::identity::{BootHash, Machine, MachineHash};
use holdfast_io::ids::{HostId, HostTerm, Lver};
use holdfast_io::seal::SealedFire;
use holdfast_io::stop::Stop;
use holdfast_io::timing::IoTimeout;
use nix::errno::Errno;
use paxos_lease::acquire::{Acquired, Options, acquire};
use paxos_lease::liveness::{HostLiveness, LivenessError, Verdict};
use paxos_lease::release::{Retract, release, retract};
use paxos_lease::{AcquireError, AcquireFailed, AreaError, LeaseAt, Me, ReleaseError};

/// A host and what it is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Role {
    pub(super) term: HostTerm,
    /// How often it tries to acquire the lease.
    pub(super) attempts: u32,
    /// It gives back what it has acquired.
    pub(super) releases: bool,
    /// It waits for an owner that may be dead.
    pub(super) waits: bool,
}

/// What a host waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// A read of `len` bytes at `at`.
    Read { at: u64, len: usize },
    /// A write.
    Write { at: u64, data: Vec<u8> },
    /// A look at another host.
    Look(HostTerm),
    /// The end of its client, which holds the lease.
    Client(Lver),
    /// The end of a write of its own, or its deadline.
    OwnWrite,
    /// Nothing: it has done all that it is there for.
    Nothing,
    /// Nothing: it could not go on, by no fault of the disk's.
    Failed(String),
}

/// What a host is told. Sectors: offset and content.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Read(Vec<(u64, Rc<[u8]>)>),
    Written,
    /// The deadline of what it waits for has passed. A write goes on, as the next of its flights.
    Deadline,
    Answer(Verdict),
    ClientOver,
    /// This one of its flights is over.
    Reaped(usize),
}

/// What the daemon and the world have between them.
#[derive(Default)]
struct Desk {
    pending: RefCell<Option<Started>>,
    asks: Cell<Option<HostTerm>>,
    answer: Cell<Option<Verdict>>,
    /// Nanoseconds since [`EPOCH`].
    now: Cell<u64>,
    wakes: Cell<Option<LocalInstant>>,
    holds: Cell<Option<Lver>>,
    failed: RefCell<Option<String>>,
}

impl Desk {
    fn fails(&self, why: &dyn std::error::Error) {
        self.failed.replace(Some(why.to_string()));
    }
}

/// Not 0: on disk that would say "free".
const EPOCH: u64 = 1_000_000_000_000;

/// Its clock, which moves only when it has nothing else to wait for.
#[derive(Clone)]
struct DeskClock(Rc<Desk>);

impl Clock for DeskClock {
    fn now(&self) -> LocalInstant {
        LocalInstant::from_nanos(EPOCH + self.0.now.get())
    }

    fn suspended(&self) -> Duration {
        Duration::ZERO
    }

    async fn sleep_until(&self, at: LocalInstant) {
        poll_fn(|_| {
            if self.now() >= at {
                return Poll::Ready(());
            }
            self.0.wakes.set(Some(self.0.wakes.get().map_or(at, |other| other.min(at))));
            Poll::Pending
        })
        .await;
    }
}

struct DeskEngine {
    path: Arc<str>,
    clock: DeskClock,
}

impl Engine for DeskEngine {
    fn path(&self) -> &Arc<str> {
        &self.path
    }

    fn submit(&self, io: Io) {
        if let Some(started) = io.start(self.clock.now()) {
            let before = self.clock.0.pending.replace(Some(started));
            assert!(before.is_none(), "one I/O at a time");
        }
    }
}

/// Whoever observes the lockspace.
struct Asks(Rc<Desk>);

impl HostLiveness for Asks {
    async fn verdict(&self, of: HostTerm) -> Result<Verdict, LivenessError> {
        self.0.asks.set(Some(of));
        Ok(poll_fn(|_| self.0.answer.take().map_or(Poll::Pending, Poll::Ready)).await)
    }

    async fn absence(&self, host: HostId) -> Result<Verdict, LivenessError> {
        unreachable!("nobody asks for the absence of host_id {host}: nothing is damaged in these runs")
    }
}

type SharedDevice = Device<DeskEngine, DeskClock>;

/// A daemon's life, as far as the lease is concerned.
async fn life(desk: Rc<Desk>, lease: LeaseAt, role: Role) {
    let clock = DeskClock(Rc::clone(&desk));
    let engine = DeskEngine { path: Arc::from("disk"), clock: clock.clone() };
    let disk: SharedDevice = Device::new(engine, clock.clone(), WriteLimit::none());
    let term = role.term;
    let machine = Machine { machine: MachineHash(term.host_id.get()), boot: BootHash(1) };
    let me = Me { term, machine, fire: SealedFire::NoWatchdog, io_timeout: IoTimeout::DEFAULT };
    for attempt in 0..role.attempts {
        let backoff_seed = term.host_id.get() * 1000 + u64::from(attempt);
        let options = Options { wait_for_silent: role.waits, backoff_seed, ..Options::default() };
        let undo = match acquire(&disk, &clock, &Asks(Rc::clone(&desk)), &lease, &me, &options, &Stop::new()).await {
            Ok(Acquired::Ours(held)) => {
                desk.holds.set(Some(held.lver()));
                poll_fn(|_| if desk.holds.get().is_none() { Poll::Ready(()) } else { Poll::Pending }).await;
                match release(&disk, &clock, held, &me).await {
                    Ok(()) => None,
                    Err(failed) if may_fail(&failed.error) => failed.undo,
                    Err(failed) => return desk.fails(&failed.error),
                }
            }
            Ok(Acquired::Theirs(refusal)) => refusal.undo,
            Err(AcquireFailed { error: AcquireError::Area(AreaError::Io(_)), undo }) => undo,
            // Its own alarms: a committed value that is another's, a block of its own that it has not written.
            Err(failed) => return desk.fails(&failed.error),
        };
        if let Some(duty) = undo {
            give_up(&desk, &disk, &clock, duty, &me).await;
        }
    }
}

/// What the disk alone can do to a release. Anything else says that the lease was not ours.
const fn may_fail(error: &ReleaseError) -> bool {
    matches!(error, ReleaseError::StillInFlight { .. } | ReleaseError::Area(AreaError::Io(_)))
}

/// As the daemon does it: until it is done.
async fn give_up(desk: &Desk, disk: &SharedDevice, clock: &DeskClock, mut duty: Retract, me: &Me) {
    loop {
        match retract(disk, clock, duty, me).await {
            Ok(()) => return,
            Err(failed) => match failed.undo {
                Some(again) => duty = again,
                // Whoever cannot give back what it has begun to take blocks it for good.
                None => return desk.fails(&failed.error),
            },
        }
        clock.sleep(Duration::from_secs(1)).await;
    }
}

/// A host that runs.
pub(super) struct Host {
    desk: Rc<Desk>,
    daemon: Pin<Box<dyn Future<Output = ()>>>,
    ended: bool,
    /// Its writes past their deadlines, in order.
    flights: Vec<Option<Started>>,
    /// What stands in the sectors that nobody writes.
    formatted: Rc<[(u64, Rc<[u8]>)]>,
}

impl Host {
    pub(super) fn start(lease: LeaseAt, role: Role, formatted: Rc<[(u64, Rc<[u8]>)]>) -> Self {
        let desk = Rc::<Desk>::default();
        let daemon = Box::pin(life(Rc::clone(&desk), lease, role));
        let mut host = Host { desk, daemon, ended: false, flights: Vec::new(), formatted };
        host.goes_on();
        host
    }

    pub(super) fn waits(&self) -> Waits {
        if let Some(why) = &*self.desk.failed.borrow() {
            return Waits::Failed(why.clone());
        }
        match &mut *self.desk.pending.borrow_mut() {
            Some(io) if io.op() == Op::Read => return Waits::Read { at: io.at(), len: io.len() },
            Some(io) => return Waits::Write { at: io.at(), data: io.buf().to_vec() },
            None => {}
        }
        match (self.desk.asks.get(), self.desk.holds.get()) {
            (Some(of), _) => Waits::Look(of),
            (None, Some(lver)) => Waits::Client(lver),
            (None, None) if self.ended => Waits::Nothing,
            (None, None) => Waits::OwnWrite,
        }
    }

    pub(super) fn learns(&mut self, event: &Event) {
        match event {
            Event::Read(sectors) => self.reads(sectors),
            Event::Written => {
                if let Some(io) = self.desk.pending.take() {
                    let len = io.len();
                    io.complete(Ok(len));
                }
            }
            Event::Deadline => {
                let wakes = self.desk.wakes.get().unwrap_or_else(|| unreachable!("every I/O has a deadline"));
                self.desk.now.set(wakes.as_nanos() - EPOCH);
                // It stays with the device while its caller finds its deadline passed.
                let io = self.desk.pending.take();
                self.flights.extend(io.filter(|io| io.op() == Op::Write).map(Some));
            }
            Event::Answer(verdict) => {
                self.desk.asks.set(None);
                self.desk.answer.set(Some(*verdict));
            }
            Event::ClientOver => self.desk.holds.set(None),
            Event::Reaped(flight) => {
                if let Some(io) = self.flights[*flight].take() {
                    // Nobody collects the end: that it landed or not makes no difference to the host.
                    io.complete(Err(Errno::EIO));
                }
            }
        }
        self.goes_on();
    }

    fn reads(&self, sectors: &[(u64, Rc<[u8]>)]) {
        let Some(mut io) = self.desk.pending.take() else { return };
        let (from, len) = (io.at(), io.len());
        let covered = from..from + len as u64;
        let buf = io.buf();
        for (at, sector) in self.formatted.iter().chain(sectors).filter(|(at, _)| covered.contains(at)) {
            let to = usize::try_from(at - from).unwrap_or(usize::MAX);
            buf[to..to + sector.len()].copy_from_slice(sector);
        }
        io.complete(Ok(len));
    }

    /// It goes on until it waits for something. While a write of its is on its way, which it may be waiting for, time does not
    /// pass by itself.
    fn goes_on(&mut self) {
        let held_up = self.flights.iter().any(Option::is_some);
        while !self.ended {
            self.desk.wakes.set(None);
            self.ended = self.daemon.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
            if self.ended || self.waits() != Waits::OwnWrite {
                return;
            }
            match self.desk.wakes.get() {
                Some(at) if !held_up => self.desk.now.set(at.as_nanos() - EPOCH),
                _ => return,
            }
        }
    }
}
