//! A real sanlock host in the model: what spec D says that sanlock 3.8.5 does, on the simulator's hosts, clocks and disks.
//!
//! It shares no code with the lease crates, on purpose: it is the stranger on the other side of the disk. It reads and
//! writes the records with a codec of its own, at sanlock's times, and with everything that sanlock does otherwise than
//! Holdfast ([`quirks`]).
//!
//! | file | its story |
//! | --- | --- |
//! | [`quirks`] | every behaviour that differs, as a switch |
//! | [`records`] | bytes |
//! | `delta.rs` | a host_id: join, renewal, watching the others, leaving |
//! | `paxos.rs` | a resource: the owner's life, ballots, the leader, shared holders, release |
//! | [`wdmd`] | the watchdog's daemon |
//! | here | the sanlock daemon: I/O, main loop, kill ladder, clients |
//!
//! One process has these tasks: **main loop** (joins, checks the renewals, kills, leaves), **thread** of the lockspace
//! (renewals), **worker** (acquires for one client at a time, and gives back).
//!
//! Not spelt out in the spec, and taken so here: a client whose acquire ends after its lockspace has died does not start;
//! an I/O that has not been taken up when it times out is cancelled.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use holdfast_io::clock::{Clock, First, LocalInstant, first_of};
use holdfast_io::device::{Device, WriteLimit};
use holdfast_io::disk::{Disk, Op, ReadDisk};
use holdfast_io::ids::{Generation, HostTerm};
use holdfast_io::stop::Stop;
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::units::{Geometry, LeaseOffset};

use crate::checkers::{Area, Checkers};
use crate::daemon::{Config, World};
use crate::dice::{Dice, Stream};
use crate::disk::{Facts, SimDisk, SimEngine, Writer};
use crate::executor::{Group, SimClock};
use crate::host::{Process, Seat, SimHost};

mod delta;
mod paxos;
pub mod quirks;
pub mod records;
pub mod wdmd;

use delta::Space;
use paxos::{Held, Wanted};
use quirks::{Quirk, Quirks};
use records::{Code, FAILED, TIMED_OUT};
use wdmd::Wdmd;

/// watchdog_fire_timeout in seconds: constant.
pub const WFT: u64 = 60;
/// kill_grace_seconds.
const GRACE: u64 = 40;

/// How a daemon that is real sanlock behaves, and what goes wrong at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerPlan {
    /// What it does otherwise than Holdfast.
    pub quirks: Quirks,
    /// Of a thousand of its acquires, how many are shared.
    pub shared: u32,
    /// Its I/O may land after it has been given up; otherwise then it is lost.
    pub late: bool,
    /// A daemon that died is started again under the same name; otherwise under another, until its host has booted.
    pub same_name: bool,
}

impl PeerPlan {
    /// Real sanlock that takes exclusive leases only, with everything else left open.
    pub const REAL: PeerPlan = PeerPlan { quirks: Quirks::REAL, shared: 0, late: true, same_name: true };
}

/// What of a peer outlives its daemon: wdmd, and its clients.
pub struct PeerMachine {
    host: SimHost,
    config: Config,
    plan: Cell<PeerPlan>,
    wdmd: Rc<Wdmd>,
    clients: RefCell<BTreeMap<u64, Client>>,
    /// The boot in which its latest daemon was started, and how many were started under another name than the one before.
    boot: Cell<u32>,
    renamed: Cell<u32>,
    outruns: Cell<u64>,
}

/// Somebody who uses a lease.
#[derive(Clone, Default)]
struct Client {
    /// Nothing but a reset ends it.
    unkillable: bool,
    over: Stop,
}

impl PeerMachine {
    /// A machine that is down. What its writes are not held to is told to the checkers.
    #[must_use]
    pub fn new(host: &SimHost, disks: &[SimDisk], config: Config, plan: PeerPlan) -> Rc<Self> {
        host.checkers().excuse(host.index(), plan.quirks.excused());
        if !plan.late {
            let patience = Duration::from_secs(u64::from(config.io_timeout.seconds()));
            disks.iter().for_each(|disk| disk.is_prompt(host.index(), patience));
        }
        Rc::new(PeerMachine {
            host: host.clone(),
            config,
            plan: Cell::new(plan),
            wdmd: Wdmd::new(host),
            clients: RefCell::default(),
            boot: Cell::new(0),
            renamed: Cell::new(0),
            outruns: Cell::new(0),
        })
    }

    /// Of a thousand acquires, how many are shared from now on.
    pub fn share(&self, per_mille: u32) {
        self.plan.set(PeerPlan { shared: per_mille, ..self.plan.get() });
    }

    /// How many of its ballots were outrun by another's.
    #[must_use]
    pub fn outruns(&self) -> u64 {
        self.outruns.get()
    }

    fn outrun(&self) {
        self.outruns.set(self.outruns.get() + 1);
    }

    /// Starts a daemon in this seat, if the host is up and the seat free.
    pub fn start(self: &Rc<Self>, world: &Rc<World>, seat: Seat, number: usize, name: &str, dice: &RefCell<Dice>) {
        let Some(process) = self.host.start_daemon(seat, self.config.host_id) else { return };
        let again = self.boot.replace(self.host.boot_number()) == self.host.boot_number();
        if again && !self.plan.get().same_name {
            self.renamed.set(self.renamed.get() + 1);
        }
        let name = format!("{}.{name}", self.renamed.get());
        let dice = Dice::new(dice.borrow_mut().bits(), Stream::Scenario);
        Peer::start(world, self, process, number, &name, dice);
    }

    /// A client begins.
    fn client_begins(&self, number: u64) -> Stop {
        let client = Client::default();
        let over = client.over.clone();
        self.clients.borrow_mut().insert(number, client);
        over
    }

    /// A client that can be ended is over.
    fn end_client(&self, number: u64) {
        if self.is_unkillable(number) {
            return;
        }
        if let Some(client) = self.clients.borrow_mut().remove(&number) {
            self.host.checkers().holds_no_more(number);
            client.over.set();
        }
    }

    /// The clients that have not ended: a reset ends all.
    fn running(&self) -> Vec<u64> {
        let checkers = self.host.checkers();
        let mut clients = self.clients.borrow_mut();
        clients.retain(|number, _| checkers.still_holds(*number));
        clients.keys().copied().collect()
    }

    fn is_unkillable(&self, number: u64) -> bool {
        self.clients.borrow().get(&number).is_some_and(|c| c.unkillable)
    }

    fn set_unkillable(&self, number: u64) {
        if let Some(client) = self.clients.borrow_mut().get_mut(&number) {
            client.unkillable = true;
        }
    }

    /// Whether a client is left that only a reset ends.
    #[must_use]
    pub fn is_stubborn(&self) -> bool {
        self.running().into_iter().any(|number| self.is_unkillable(number))
    }

    /// Its oldest client is killed by somebody else.
    pub fn kill_one(&self) {
        if let Some(oldest) = self.running().first() {
            self.end_client(*oldest);
        }
    }
}

/// One sanlock daemon process.
pub struct Peer {
    world: Rc<World>,
    host: SimHost,
    machine: Rc<PeerMachine>,
    process: Process,
    clock: SimClock,
    engine: SimEngine,
    /// For reads: what times out stays in its table.
    device: Device<SimEngine, SimClock>,
    limit: WriteLimit,
    config: Config,
    /// Its bit in what hosts want.
    number: usize,
    quirks: Quirks,
    geometry: Geometry,
    /// The resource that it uses, on the lockspace's disk.
    resource: Area,
    resource_at: u64,
    name: [u8; 48],
    space_name: [u8; 48],
    resource_name: [u8; 48],
    dice: RefCell<Dice>,
    /// The resource is being acquired, held, or given back: -EBUSY, -EEXIST or -EAGAIN for anybody else.
    busy: Cell<bool>,
}

fn padded(name: &[u8]) -> [u8; 48] {
    let mut bytes = [0; 48];
    bytes[..name.len()].copy_from_slice(name);
    bytes
}

impl Peer {
    /// Starts the daemon of a process that has just been started.
    fn start(world: &Rc<World>, machine: &Rc<PeerMachine>, process: Process, number: usize, name: &str, dice: Dice) {
        let (Some(disk), Some(resource)) = (world.disks.first(), world.resources.first()) else { return };
        let Area::Paxos(_, LeaseOffset(resource_at), geometry) = resource.area else { return };
        let clock = process.clock.clone();
        let engine = disk.engine(process.writer, 0, process.group, clock.clone());
        let quirks = machine.plan.get().quirks;
        let limit = if quirks.has(Quirk::NoWriteLimit) {
            WriteLimit::none()
        } else {
            WriteLimit::until(LocalInstant::EARLIEST)
        };
        let peer = Rc::new(Peer {
            device: Device::new(engine.clone(), clock.clone(), WriteLimit::none()),
            name: padded(name.as_bytes()),
            space_name: padded(world.space.as_bytes()),
            resource_name: padded(resource.name.as_bytes()),
            world: Rc::clone(world),
            host: process.host.clone(),
            machine: Rc::clone(machine),
            process,
            clock,
            engine,
            limit,
            config: machine.config,
            number,
            quirks,
            geometry,
            resource: resource.area,
            resource_at,
            dice: RefCell::new(dice),
            busy: Cell::new(false),
        });
        machine.wdmd.run(machine.config.host_id);
        peer.spawn("main loop", Self::life);
    }

    fn spawn<F: Future<Output = ()> + 'static>(self: &Rc<Self>, what: &str, task: impl FnOnce(Rc<Self>) -> F) {
        let label = format!("{what} of peer {} process {}", self.host.index().0, self.process.writer.process);
        self.world.sim.spawn(self.process.group, label, task(Rc::clone(self)));
    }

    fn note(&self, text: impl Into<String>) {
        let text = text.into();
        self.host.note(|| text);
    }

    fn has(&self, quirk: Quirk) -> bool {
        self.quirks.has(quirk)
    }

    /// CLOCK_MONOTONIC in whole seconds: all the time that sanlock knows.
    fn now(&self) -> u64 {
        self.clock.now().as_nanos() / 1_000_000_000
    }

    fn io_timeout(&self) -> u64 {
        u64::from(self.config.io_timeout.seconds())
    }

    fn iot(&self) -> Duration {
        Duration::from_secs(self.io_timeout())
    }

    async fn sleep_s(&self, seconds: u64) {
        self.clock.sleep(Duration::from_secs(seconds)).await;
    }

    /// The random wait after a lost ballot.
    async fn back_off(&self) {
        let wait = self.dice.borrow_mut().between(Duration::ZERO, Duration::from_secs(1));
        self.clock.sleep(wait).await;
    }

    fn within(&self, most: Duration) -> Duration {
        self.dice.borrow_mut().between(Duration::from_millis(1), most)
    }

    fn chance(&self, per_mille: u32) -> bool {
        self.dice.borrow_mut().chance(per_mille)
    }

    fn host_id(&self) -> u64 {
        self.config.host_id.get()
    }

    fn term(&self, space: &Space) -> HostTerm {
        HostTerm { host_id: self.config.host_id, generation: Generation(space.generation) }
    }

    fn sector(&self) -> usize {
        self.geometry.sector().bytes()
    }

    fn area_len(&self) -> usize {
        self.geometry.area_len()
    }

    fn max_hosts(&self) -> u64 {
        u64::from(self.geometry.max_hosts())
    }

    fn delta_at(&self, host_id: u64) -> u64 {
        (host_id - 1) * self.sector() as u64
    }
}

/// I/O (1.5): one at a time for each caller, given up after its timeout, and then still on its way.
impl Peer {
    async fn read_untimed(&self, at: u64, len: usize) -> Result<AlignedBuf, Code> {
        self.device.read(at, len, LocalInstant::NEVER).await.map_err(|_| FAILED)
    }

    async fn read(&self, at: u64, len: usize, timeout: Duration) -> Result<AlignedBuf, Code> {
        match first_of(self.read_untimed(at, len), self.clock.sleep(timeout)).await {
            First::A(read) => read,
            First::B(()) => Err(TIMED_OUT),
        }
    }

    async fn write(&self, at: u64, sector: Vec<u8>, timeout: Duration) -> Result<(), Code> {
        let data = AlignedBuf::from_slice(&sector);
        let own_delta = at == self.delta_at(self.host_id());
        let limit = if own_delta { WriteLimit::none() } else { self.limit.clone() };
        // A device of its own has a table of its own of what is in flight: that is a write without I6.
        let alone = Device::new(self.engine.clone(), self.clock.clone(), limit.clone());
        let write = async {
            if self.has(Quirk::OverlappingWrites) {
                return alone.write(at, data, LocalInstant::NEVER).await;
            }
            self.sector_is_free(at).await;
            alone.write(at, data, LocalInstant::NEVER).await
        };
        match first_of(write, self.clock.sleep(timeout)).await {
            First::A(written) => written.map_err(|_| FAILED),
            First::B(()) => Err(TIMED_OUT),
        }
    }

    /// I6, for a peer that keeps it.
    async fn sector_is_free(&self, at: u64) {
        let me = self.process.writer;
        self.none_in_flight(move |w, offset| w == me && offset == at).await;
    }

    /// Waits until no write that `choose` chooses is in flight.
    async fn none_in_flight(&self, choose: impl Fn(Writer, u64) -> bool) {
        let write = |io: &Facts| io.op == Op::Write && choose(io.writer, io.at);
        while !self.engine.disk().in_flight(write).is_empty() {
            self.clock.sleep(Duration::from_millis(100)).await;
        }
    }
}

/// The daemon (6).
impl Peer {
    async fn life(self: Rc<Self>) {
        if !self.has(Quirk::NoFence) {
            let me = self.process.writer;
            self.none_in_flight(move |w, _| w.host == me.host && w.process != me.process).await;
        }
        loop {
            match self.join().await {
                Ok(space) => self.serve(&Rc::new(space)).await,
                Err(code) => self.note(format!("not joined: {code}")),
            }
            self.clock.sleep(self.within(Duration::from_secs(2))).await;
        }
    }

    /// The main loop, for one join (6.3).
    async fn serve(self: &Rc<Self>, space: &Rc<Space>) {
        self.note(format!("joined, generation {}", space.generation));
        self.world.checkers.count(|c| c.joins += 1);
        self.world.checkers.peer_joined(self.host.index(), self.term(space));
        let expire = space.last_success.get() + 8 * self.io_timeout();
        self.machine.wdmd.test_live(self.process.writer.process, expire);
        self.allow_writes_until(expire);
        let (thread, worker) = (Rc::clone(space), Rc::clone(space));
        self.spawn("thread", |peer| peer.renewals(thread));
        self.spawn("worker", |peer| async move { peer.worker(worker).await });

        let leaves = self.chance(self.world.habits.get().leaves);
        let stay = self.within(Duration::from_secs(paxos::host_dead(self.io_timeout())));
        let leave_at = if leaves { self.clock.now().after(stay) } else { LocalInstant::NEVER };
        let (mut removed, mut rounds) = (false, 0);
        while !(space.is_dead() && self.clients(space).is_empty()) {
            let pause = if space.is_dead() { 200 } else { 1000 };
            self.clock.sleep(Duration::from_millis(pause)).await;
            let failed = space.corrupt.get() || self.now() - space.last_success.get() >= 8 * self.io_timeout();
            if !space.is_dead() && !failed && self.clock.now() < leave_at {
                space.scan(self);
                continue;
            }
            if !space.is_dead() {
                removed = !failed;
                self.note(if failed { "LOCKSPACE LOST" } else { "lockspace removed" });
                self.world.checkers.count(|c| c.lost += u64::from(failed));
                space.die();
            }
            self.kill(space, removed, rounds == 0);
            rounds += 1;
        }
        self.stop(space).await;
    }

    /// Nobody uses the lockspace any more (6.3 step 1, 6.5).
    async fn stop(&self, space: &Space) {
        let me = self.process.writer;
        if !self.has(Quirk::FreesUnderABallot) {
            while self.busy.get() {
                self.clock.sleep(Duration::from_millis(100)).await;
            }
            self.none_in_flight(|w, _| w == me).await;
        }
        if self.has(Quirk::DisarmsAtOnce) {
            self.machine.wdmd.test_live(me.process, 0);
        }
        space.thread_stop.set();
        space.thread_ended.wait().await;
        if !self.has(Quirk::DisarmsAtOnce) {
            self.none_in_flight(|w, _| w == me).await;
            self.machine.wdmd.test_live(me.process, 0);
        }
        self.note("lockspace stopped");
    }

    /// The clients of this lockspace that still run.
    fn clients(&self, space: &Space) -> Vec<u64> {
        let run = self.machine.running();
        space.clients.borrow_mut().retain(|client| run.contains(client));
        space.clients.borrow().clone()
    }

    /// 6.4: one round of signals. SIGTERM is obeyed after some seconds; SIGKILL ends a client at once; some, nothing ends.
    fn kill(&self, space: &Space, removed: bool, first: bool) {
        let graceful = !removed && self.now() < space.last_success.get() + 8 * self.io_timeout() + GRACE;
        for client in self.clients(space) {
            if self.machine.is_unkillable(client) {
                continue;
            }
            if first && self.chance(self.world.habits.get().unkillable) {
                self.note("client cannot be killed");
                self.machine.set_unkillable(client);
            } else if !graceful || self.chance(50) {
                self.machine.end_client(client);
            }
        }
    }

    /// The clients: one at a time asks for the resource, uses it, and ends.
    async fn worker(self: Rc<Self>, space: Rc<Space>) {
        loop {
            let pause = self.within(self.world.habits.get().longest_pause);
            self.clock.sleep(pause).await;
            if space.is_dead() {
                return;
            }
            let wants = self.world.habits.get().wants >> self.number & 1 != 0;
            if wants && !self.busy.replace(true) {
                self.client(&space).await;
                self.busy.set(false);
            }
        }
    }

    async fn client(self: &Rc<Self>, space: &Rc<Space>) {
        let shared = self.chance(self.machine.plan.get().shared);
        let nowait = !self.chance(self.world.habits.get().waits);
        match paxos::acquire(self, space, Wanted { shared, nowait }).await {
            Ok(held) => self.run_client(space, held, shared).await,
            Err(code) if code > -200 || code == TIMED_OUT => self.note(format!("not acquired: {code}")),
            Err(_) => {}
        }
    }

    async fn run_client(self: &Rc<Self>, space: &Rc<Space>, held: Held, shared: bool) {
        self.note(format!("ACQUIRED lver {}{}", held.leader.lver(), if shared { " shared" } else { "" }));
        if space.is_dead() {
            return;
        }
        let (checkers, term) = (&self.world.checkers, self.term(space));
        let begin = if shared { Checkers::shares } else { Checkers::holds };
        let client = begin(checkers, self.host.index(), term, self.resource);
        let over = self.machine.client_begins(client);
        space.clients.borrow_mut().push(client);
        // It runs whether or not the daemon does.
        let (machine, natural) = (Rc::clone(&self.machine), self.within(self.world.habits.get().longest_run));
        self.world.sim.call_after(Group::RUN, natural, move || machine.end_client(client));
        over.wait().await;
        let given_back = paxos::give_back(self, space, held).await;
        self.note(format!("release: {given_back:?}"));
    }
}
