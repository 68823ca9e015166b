//! A daemon as short as it can be: what stands between the lease code and its host, written down as data flows 2, 3, 5
//! and 6 of the architecture tell it.
//!
//! One process has these tasks:
//! - **life**: a successor's duties, join, guard the join until it ends (lost, or left), join again;
//! - **renewal**: one renewal every 2 io_timeouts; feeds the host table, and moves D2's instant;
//! - **petting**: pets the watchdog while nothing is guarded or the join is fresh, and reads the clock again (W1);
//! - **client**: acquires the resource, lets a client run under it, releases it, again and again.
//!
//! A client outlives its daemon. What outlives the process is the [`RunState`]: the state file of the run directory, which
//! a reset wipes out.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use delta_lease::liveness::GoneReason;
use delta_lease::{
    AreaView, DeltaArea, DeltaError, Held, HostTable, Joined, LocalHost, OwnerVerdict, Publication, ReleaseError,
    RenewError,
};
use holdfast_io::clock::{Clock, First, LocalInstant, first_of};
use holdfast_io::device::{Device, WriteLimit};
use holdfast_io::disk::Disk;
use holdfast_io::identity::{BootHash, Machine, MachineHash};
use holdfast_io::ids::{Generation, HostName, HostTerm};
use holdfast_io::seal::SealedFire;
use holdfast_io::stop::{Stop, Waited};
use holdfast_io::timing::{FireTimeout, IoTimeout, Timing};
use paxos_lease::{Acquired, Gone, HostLiveness, LeaseAt, LivenessError, Me, Options, RefusalKind, Retract, Verdict};

use crate::checkers::{Area, Checkers};
use crate::dice::Dice;
use crate::disk::{SimDisk, SimEngine};
use crate::executor::{Sim, SimClock};
use crate::host::{Process, SimHost};

/// What all hosts of a run share.
pub struct World {
    /// The run.
    pub sim: Sim,
    /// The disk with both areas on it.
    pub disk: SimDisk,
    /// Who watches.
    pub checkers: Rc<Checkers>,
    /// The lockspace.
    pub space: DeltaArea,
    /// The resource.
    pub lease: LeaseAt,
    /// How the hosts behave at the moment.
    pub habits: Cell<Habits>,
    /// Rules broken on purpose.
    pub sabotage: Sabotage,
}

impl World {
    /// The resource as the checkers know it.
    #[must_use]
    pub const fn resource(&self) -> Area {
        Area::Paxos(self.lease.at, self.lease.geometry_hint)
    }
}

/// How hosts behave: part of the scenario.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// The longest a client runs.
    pub longest_run: Duration,
    /// The longest a host does not want the lease.
    pub longest_pause: Duration,
    /// Of a thousand clients, how many SIGKILL does not end.
    pub unkillable: u32,
    /// Of a thousand joins, how many end by leaving after a while.
    pub leaves: u32,
    /// Of a thousand acquires, how many wait for a silent owner.
    pub waits: u32,
    /// Which hosts want the lease, a bit for each.
    pub wants: u64,
    /// The longest that a host stays down, or without a daemon.
    pub absence: Duration,
}

/// Rules broken on purpose, for runs that must fail. All of it is in the harness: the lease code is as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sabotage {
    /// D3: watchdogs never fire.
    pub no_watchdog: bool,
    /// D1: hosts are taken for dead this much too early.
    pub early: Duration,
    /// P1: a successor believes its predecessor's clients to be gone.
    pub blind_successor: bool,
    /// I6: a successor does not wait for its predecessor's writes.
    pub no_fence: bool,
}

/// A host's settings, which it keeps over reboots.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Its io_timeout.
    pub io_timeout: IoTimeout,
    /// Its fire timeout.
    pub fire: FireTimeout,
}

/// What a daemon's process leaves to its successor in the same boot.
#[derive(Clone, Debug, Default)]
pub struct RunState {
    /// The boot in which it was written.
    pub boot: u32,
    /// Name and generation under which the lockspace was joined.
    pub joined: Option<(HostName, Generation)>,
    /// The clients that may run, noted before they do.
    pub clients: Vec<u64>,
}

/// Until when the watchdog may be petted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fresh {
    /// Nothing is guarded.
    Always,
    /// The join under which things are guarded is good until then.
    Until(LocalInstant),
    /// Something may still run that nothing protects.
    Never,
}

/// What a daemon knows of the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Predecessor {
    /// There was none in this boot, or it had joined nothing under this name.
    None,
    /// There was one, and nothing is known about what it left.
    Unknown,
    /// P1 (b): nothing of this generation can still write.
    Proven(Generation),
}

impl Predecessor {
    const fn proven(self) -> Option<Generation> {
        match self {
            Predecessor::Proven(generation) => Some(generation),
            Predecessor::None | Predecessor::Unknown => None,
        }
    }
}

/// How a join ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Lost,
    Left,
}

/// One daemon process.
pub struct Daemon {
    world: Rc<World>,
    host: SimHost,
    local: LocalHost,
    clock: SimClock,
    /// For the host's own delta sector: D2 lets renewals through.
    delta: Device<SimEngine, SimClock>,
    /// For everything else of the lockspace.
    leases: Device<SimEngine, SimClock>,
    table: RefCell<HostTable>,
    limit: WriteLimit,
    run_state: Rc<RefCell<RunState>>,
    process: Process,
    fresh: Cell<Fresh>,
    dice: RefCell<Dice>,
    /// The latest refusal: the timeline shows each kind once in a row.
    refused: RefCell<Option<RefusalKind>>,
}

/// One join of the lockspace.
struct Join {
    term: HostTerm,
    held: RefCell<Option<Held>>,
    fails_at: Cell<LocalInstant>,
    /// A renewal found the lease taken.
    taken: Stop,
    /// The client task is to end.
    end_client: Stop,
    client_ended: Stop,
    end_renewal: Stop,
    renewal_ended: Stop,
}

/// How long after a failed renewal, or join, the next is tried.
const RETRY: Duration = Duration::from_millis(500);

impl Daemon {
    /// The daemon of a process that has just been started on `host` under `name`.
    #[must_use]
    pub fn new(
        world: &Rc<World>,
        host: &SimHost,
        process: Process,
        name: HostName,
        settings: Settings,
        run_state: &Rc<RefCell<RunState>>,
        dice: Dice,
    ) -> Rc<Self> {
        let machine = Machine {
            machine: MachineHash(0xAA00 + host.index().0 as u64),
            boot: BootHash(u64::from(process.writer.boot)),
        };
        let local = LocalHost {
            host_id: host.host_id(),
            name,
            machine,
            io_timeout: settings.io_timeout,
            fire: SealedFire::Within(settings.fire),
        };
        let limit = WriteLimit::until(LocalInstant::EARLIEST);
        let clock = process.clock.clone();
        let device = |limit| Device::new(process.engine(&world.disk), clock.clone(), limit);
        Rc::new(Daemon {
            world: Rc::clone(world),
            host: host.clone(),
            local,
            delta: device(WriteLimit::none()),
            leases: device(limit.clone()),
            clock,
            limit,
            run_state: Rc::clone(run_state),
            process,
            fresh: Cell::new(Fresh::Never),
            table: RefCell::new(HostTable::new(world.space, settings.io_timeout)),
            dice: RefCell::new(dice),
            refused: RefCell::default(),
        })
    }

    /// Starts its tasks.
    pub fn start(self: &Rc<Self>) {
        self.spawn("life", Self::life);
        self.spawn("petting", Self::petting);
    }

    fn spawn<F: Future<Output = ()> + 'static>(self: &Rc<Self>, what: &str, task: impl FnOnce(Rc<Self>) -> F) {
        let label = format!("{what} of host {} process {}", self.host.index().0, self.process.writer.process);
        self.world.sim.spawn(self.process.group, label, task(Rc::clone(self)));
    }

    fn note(&self, text: impl Into<String>) {
        self.host.note(text);
    }

    fn timing(&self) -> Timing {
        self.local.timing()
    }

    fn within(&self, most: Duration) -> Duration {
        self.dice.borrow_mut().between(Duration::from_millis(1), most)
    }

    fn chance(&self, per_mille: u32) -> bool {
        self.dice.borrow_mut().chance(per_mille)
    }

    fn device_timeout(&self) -> Duration {
        self.local.fire.judged().device_limit()
    }

    async fn life(self: Rc<Self>) {
        let mut predecessor = self.succeed().await;
        loop {
            if predecessor != Predecessor::Unknown {
                // D3: under the watchdog before the first delta write.
                self.fresh.set(Fresh::Always);
                self.host.arm(self.device_timeout());
            }
            match self.join(predecessor.proven()).await {
                Some(held) => predecessor = Predecessor::Proven(self.serve(held).await),
                None => self.clock.sleep(self.within(RETRY * 4)).await,
            }
        }
    }

    /// Data flow 6 and P1: what a successor does first.
    ///
    /// Every client in the state file is ended and seen gone before the watchdog is opened; where one cannot be ended,
    /// or a write of the predecessor is still in flight, the watchdog is left to fire. Without a state file nobody knows
    /// whom to end: then the watchdog is not touched at all, and the predecessor is waited out like anyone else (D1). If
    /// it left something guarded, its watchdog fires before that.
    async fn succeed(&self) -> Predecessor {
        let state = self.run_state.borrow().clone();
        if self.process.has_predecessor && state.boot != self.process.writer.boot {
            self.note("no state file");
            self.world.disk.predecessors_reaped(self.process.writer).await;
            return Predecessor::Unknown;
        }
        if !self.world.sabotage.blind_successor {
            for client in state.clients {
                self.end_client(client).await;
            }
        }
        if !self.world.sabotage.no_fence {
            // The fence: no write of ours before every one of the predecessor's is over (I6 across processes).
            self.world.disk.predecessors_reaped(self.process.writer).await;
        }
        self.run_state.borrow_mut().boot = self.process.writer.boot;
        let joined = state.joined.filter(|(name, _)| *name == self.local.name);
        joined.map_or(Predecessor::None, |(_, generation)| Predecessor::Proven(generation))
    }

    async fn join(&self, predecessor: Option<Generation>) -> Option<Held> {
        let World { space, .. } = &*self.world;
        let stop = Stop::new();
        let joined =
            delta_lease::acquire(&self.delta, &self.clock, space, &self.local, predecessor, &stop, async |_| {}).await;
        match joined {
            Ok(Joined::Ours(held)) => {
                self.note(format!("joined, generation {}", held.generation()));
                self.world.checkers.count(|c| c.joins += 1);
                // Joined too slowly to guard anything under it: left for D1.
                Some(*held).filter(|held| self.clock.now() < held.fails_at())
            }
            Ok(Joined::Theirs(by)) => {
                self.note(format!("not joined: {by}"));
                None
            }
            Ok(Joined::Stopped) => None,
            Err(error) => {
                self.note(format!("not joined: {error}"));
                None
            }
        }
    }

    /// Guards a join until it is over. What it leaves behind is proven gone: the generation, for P1.
    async fn serve(self: &Rc<Self>, held: Held) -> Generation {
        let term = held.term();
        if !self.host.is_armed() {
            self.host.arm(self.device_timeout());
        }
        let (boot, joined) = (self.process.writer.boot, Some((self.local.name, term.generation)));
        *self.run_state.borrow_mut() = RunState { boot, joined, clients: Vec::new() };
        let join = Rc::new(Join::new(held));
        self.renewed(&join, join.fails_at.get());
        let (renewing, using) = (Rc::clone(&join), Rc::clone(&join));
        self.spawn("renewal", |daemon| async move { daemon.renewal(&renewing).await });
        self.spawn("client", |daemon| async move { daemon.client(&using).await });

        let leaves = self.chance(self.world.habits.get().leaves);
        let leave_at =
            if leaves { self.clock.now().after(self.within(self.timing().host_dead())) } else { LocalInstant::NEVER };
        let mut over = self.until_over(&join, leave_at, &Stop::new()).await;
        join.end_client.set();
        if over == Over::Left {
            // Leaving takes until the client task has ended, and D2 goes on counting.
            over = self.until_over(&join, LocalInstant::NEVER, &join.client_ended).await;
        }
        match over {
            Over::Lost => self.lose(&join).await,
            Over::Left => self.leave(&join).await,
        }
        term.generation
    }

    /// Waits until the join is lost, or `leave_at` or `done` comes.
    async fn until_over(&self, join: &Join, leave_at: LocalInstant, done: &Stop) -> Over {
        loop {
            let next = join.fails_at.get().min(leave_at);
            let waited = first_of(join.taken.wait(), done.sleep_until(&self.clock, next)).await;
            let now = self.clock.now();
            match waited {
                First::A(()) => return Over::Lost,
                _ if now >= join.fails_at.get() => return Over::Lost,
                First::B(Waited::Stopped) => return Over::Left,
                First::B(Waited::Elapsed) if now >= leave_at => return Over::Left,
                First::B(Waited::Elapsed) => {}
            }
        }
    }

    /// Data flow 3: past D2's instant nothing is protected. Petting ends, the clients are ended; once they are seen gone
    /// and every write of a lease sector is reaped, the lockspace leaves D3. No lease sector is written.
    async fn lose(&self, join: &Join) {
        self.note("LOCKSPACE LOST");
        self.world.checkers.count(|c| c.lost += 1);
        self.fresh.set(Fresh::Never);
        self.limit.close();
        join.end_renewal.set();
        for client in self.clients() {
            self.end_client(client).await;
        }
        join.client_ended.wait().await;
        // A client may have begun between the ladder and the end of its task.
        for client in self.clients() {
            self.end_client(client).await;
        }
        self.leases.reaped().await;
        join.renewal_ended.wait().await;
        self.host.disarm();
        self.note("all gone, watchdog off");
    }

    /// Data flow 5: everything guarded is gone and every lease task has ended.
    async fn leave(&self, join: &Join) {
        self.leases.reaped().await;
        self.limit.close();
        join.end_renewal.set();
        join.renewal_ended.wait().await;
        let held = join.held.borrow_mut().take();
        if let Some(held) = held {
            let released = held.release(&self.delta, &self.clock).await;
            self.note(format!("left: {}", if released.is_ok() { "released" } else { "not released" }));
            if matches!(released, Err(ReleaseError::InDoubt(_))) {
                // The one write that frees: the watchdog stays until it is over.
                self.delta.reaped().await;
            }
        }
        self.fresh.set(Fresh::Always);
        self.host.disarm();
        self.clock.sleep(self.within(self.timing().renewal_interval())).await;
    }

    /// A good renewal moves D2's instant, for the petting, the ladder and every write.
    fn renewed(&self, join: &Join, fails_at: LocalInstant) {
        // D2 is final: what comes after its instant revives nothing.
        if self.clock.now() >= join.fails_at.get() || join.taken.is_set() {
            return;
        }
        join.fails_at.set(fails_at);
        self.fresh.set(Fresh::Until(fails_at));
        self.limit.set(fails_at);
        self.world.checkers.limit(self.host.index(), self.clock.rate(), fails_at);
    }

    async fn renewal(&self, join: &Join) {
        let Some(mut held) = join.held.borrow_mut().take() else { return };
        let mut next = self.clock.now();
        while join.end_renewal.sleep_until(&self.clock, next).await == Waited::Elapsed {
            let started = self.clock.now();
            let renewal = held.renew(&self.delta, &self.clock, &Publication::default()).await;
            if let Some(view) = renewal.view {
                self.observe(view);
            }
            match renewal.result {
                Ok(_) => {
                    self.renewed(join, held.fails_at());
                    next = started.after(self.timing().renewal_interval());
                }
                Err(RenewError::Io(_)) => next = self.clock.now().after(RETRY),
                Err(RenewError::Lost(lost)) => {
                    self.note(lost.to_string());
                    join.taken.set();
                    break;
                }
            }
        }
        *join.held.borrow_mut() = Some(held);
        join.renewal_ended.set();
    }

    fn observe(&self, mut view: AreaView) {
        let mut table = self.table.borrow_mut();
        table.observe_area(&view);
        if self.world.sabotage.early > Duration::ZERO {
            (view.read_started, view.read_ended) = self.lie(view.read_started, view.read_ended);
            table.observe_area(&view);
        }
    }

    /// Sabotage of D1: the same look once more, as if taken later than it was. Without sabotage, as it was.
    fn lie(&self, started: LocalInstant, ended: LocalInstant) -> (LocalInstant, LocalInstant) {
        let early = self.world.sabotage.early;
        (started.after(early), ended.after(early))
    }

    /// The only place that pets: while the join is fresh, or nothing is guarded.
    async fn petting(self: Rc<Self>) {
        loop {
            self.clock.sleep(self.device_timeout() / 4).await;
            let fresh = self.fresh.get();
            let may = |fresh| match fresh {
                Fresh::Always => true,
                Fresh::Until(fails_at) => self.clock.now() < fails_at,
                Fresh::Never => false,
            };
            if !may(fresh) {
                continue;
            }
            // A freeze may come between the check and the pet.
            self.world.sim.sleep(Duration::from_micros(5)).await;
            self.host.pet();
            if !may(fresh) {
                // W1: the pet came too late. The shortest timeout, and the host is gone.
                self.note("W1: petted too late");
                self.host.reset();
            }
        }
    }

    /// The life of the resource on this host: wanted, acquired, used by a client, released.
    async fn client(&self, join: &Join) {
        let me = Me {
            term: join.term,
            machine: self.local.machine,
            fire: self.local.fire,
            io_timeout: self.local.io_timeout,
        };
        let stop = &join.end_client;
        let mut duty = None;
        loop {
            let pause = self.within(self.world.habits.get().longest_pause);
            let stopped = stop.sleep_until(&self.clock, self.clock.now().after(pause)).await == Waited::Stopped;
            if self.fresh.get() == Fresh::Never || (stopped && duty.is_none()) {
                break;
            }
            // A duty comes before anything new, also while leaving.
            duty = match duty.take() {
                Some(duty) => self.retract(duty, &me).await,
                None if self.world.habits.get().wants >> self.host.index().0 & 1 == 0 => None,
                None => self.acquire(join, &me).await,
            };
        }
        if let Some(duty) = duty {
            Retract::abandon(duty);
        }
        join.client_ended.set();
    }

    /// One acquire, and what follows from it; what is left to be undone.
    async fn acquire(&self, join: &Join, me: &Me) -> Option<Retract> {
        let options = Options {
            wait_for_silent: self.chance(self.world.habits.get().waits),
            backoff_seed: self.dice.borrow_mut().bits(),
            ..Options::default()
        };
        let World { lease, .. } = &*self.world;
        match paxos_lease::acquire(&self.leases, &self.clock, self, lease, me, &options, &join.end_client).await {
            Ok(Acquired::Ours(held)) => {
                self.refused.replace(None);
                self.hold(join, held, me).await
            }
            Ok(Acquired::Theirs(refusal)) => {
                if self.refused.replace(Some(refusal.kind.clone())).as_ref() != Some(&refusal.kind) {
                    self.note(format!("refused: {:?}", refusal.kind));
                }
                if matches!(refusal.kind, RefusalKind::LostBallot | RefusalKind::CommittedOther) {
                    self.world.checkers.count(|c| c.contested += 1);
                }
                refusal.undo
            }
            Err(failed) => {
                self.note(format!("not acquired: {failed}"));
                failed.undo
            }
        }
    }

    /// The lease is ours: a client runs under it until it ends, or until the host ends it.
    async fn hold(&self, join: &Join, held: paxos_lease::Held, me: &Me) -> Option<Retract> {
        let resource = self.world.resource();
        let (lver, term) = (held.lver(), me.term);
        self.note(format!("ACQUIRED lver {lver}"));
        let owner = [term.host_id.get(), term.generation.0];
        self.world.checkers.believes(self.host.index(), resource, lver.0, owner);
        // Still alive? D2's instant may have come while the acquire ran.
        if self.clock.now() < join.fails_at.get() && !join.end_client.is_set() {
            let client = self.host.client_begins(resource);
            // The same instant: the state file names it before it may write.
            self.run_state.borrow_mut().clients.push(client);
            let until = self.clock.now().after(self.within(self.world.habits.get().longest_run));
            let ended = first_of(self.host.client_gone(client), join.end_client.sleep_until(&self.clock, until)).await;
            if self.fresh.get() == Fresh::Never {
                // Lost: the ladder ends it, and nothing is written any more.
                return None;
            }
            if matches!(ended, First::B(Waited::Stopped)) {
                self.end_client(client).await;
            }
            self.client_over(client);
        }
        let released = paxos_lease::release(&self.leases, &self.clock, held, me).await;
        self.note(format!(
            "release of lver {lver}: {}",
            released.as_ref().map_or_else(ToString::to_string, |()| "done".into())
        ));
        released.err().and_then(|failed| failed.undo)
    }

    async fn retract(&self, duty: Retract, me: &Me) -> Option<Retract> {
        let lver = duty.lver();
        let undone = paxos_lease::retract(&self.leases, &self.clock, duty, me).await;
        self.note(format!(
            "retract of lver {lver}: {}",
            undone.as_ref().map_or_else(ToString::to_string, |()| "done".into())
        ));
        undone.err().and_then(|failed| failed.undo)
    }

    /// SIGTERM, SIGKILL, and the wait until the client is seen gone; some never go.
    async fn end_client(&self, client: u64) {
        self.clock.sleep(self.within(Duration::from_secs(3))).await;
        if self.chance(self.world.habits.get().unkillable) {
            self.note("client cannot be killed");
            self.host.set_unkillable(client);
            self.host.client_gone(client).await;
        }
        self.client_over(client);
    }

    fn client_over(&self, client: u64) {
        self.host.client_over(client);
        self.run_state.borrow_mut().clients.retain(|c| *c != client);
    }

    /// The clients that this daemon knows of.
    fn clients(&self) -> Vec<u64> {
        self.run_state.borrow().clients.clone()
    }
}

impl Join {
    fn new(held: Held) -> Self {
        Join {
            term: held.term(),
            fails_at: Cell::new(held.fails_at()),
            held: RefCell::new(Some(held)),
            taken: Stop::new(),
            end_client: Stop::new(),
            client_ended: Stop::new(),
            end_renewal: Stop::new(),
            renewal_ended: Stop::new(),
        }
    }
}

/// What the daemon knows of other hosts: its host table, and a look of its own at the sector in question.
impl HostLiveness for Daemon {
    async fn verdict(&self, of: HostTerm) -> Result<Verdict, LivenessError> {
        let deadline = self.clock.now().after(self.timing().io_deadline());
        let look = delta_lease::read_host(&self.leases, &self.clock, &self.world.space, of.host_id, deadline).await;
        match look {
            Ok(mut view) => {
                let mut table = self.table.borrow_mut();
                table.observe_sector(&view);
                (view.read_started, view.read_ended) = self.lie(view.read_started, view.read_ended);
                table.observe_sector(&view);
            }
            Err(DeltaError::Io(source)) => return Err(LivenessError::Io { of, source }),
            Err(other) => return Err(LivenessError::Damaged { of, reason: other.to_string() }),
        }
        Ok(match self.table.borrow().verdict(of, self.clock.now()) {
            OwnerVerdict::Gone(GoneReason::Free) => Verdict::Gone(Gone::Free),
            OwnerVerdict::Gone(GoneReason::NewerGeneration { .. }) => Verdict::Gone(Gone::NewerGeneration),
            OwnerVerdict::Gone(GoneReason::Silent { seen }) => {
                self.note(format!("{of} silent for {seen:?}"));
                self.world.checkers.count(|c| c.takeovers += 1);
                Verdict::Gone(Gone::Silent)
            }
            OwnerVerdict::Alive { earliest } => Verdict::Alive { earliest },
            OwnerVerdict::Silent { earliest } => Verdict::Silent { earliest },
            OwnerVerdict::Unknown(_) => Verdict::Unknown,
        })
    }
}
