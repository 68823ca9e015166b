//! A cluster, made from a plan: hosts, disks, daemons, clients, and everything that goes wrong.
//!
//! **Safety phase**: the disks are faulty, daemons die and come back, stand still and go on; hosts are reset, paused, put to
//! sleep; paths are lost, sectors damaged, clients killed. The checkers watch every I/O, every watchdog and every client.
//! **Liveness phase**: the faults end, whatever hangs for ever is swept away by a reset, and within a bound that the
//! timing of the hosts gives a client must get a lease.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Once;
use std::time::Duration;

use holdfast_io::identity::MachineHash;
use holdfast_io::ids::{HostId, HostName, NameError, SpaceName};
use holdfast_io::units::LeaseOffset;

use crate::areas;
use crate::checkers::{Area, Checkers, Counts, Progress, Row, Violation};
use crate::clients;
use crate::coverage::{Coverage, Fault};
use crate::daemon::{self, Config, CopyAt, Habits, ResourceAt, World};
use crate::dice::{Dice, Stream, nanos};
use crate::disk::{FaultRates, HostIndex, PathLoss, SimDisk};
use crate::executor::{Ended, Group, Nanos, Sim};
use crate::host::{Seat, SimHost};
use crate::machine::SimMachine;
use crate::mixed::OfPeers;
use crate::peer::{PeerMachine, wdmd};
use crate::plan::{Mishap, Plan, Trouble, Whom, seconds};

/// The name of the lockspace.
pub const SPACE: &str = "space";

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What happened in it.
    pub counts: Counts,
    /// Which fault struck in which phase.
    pub coverage: Coverage,
    /// What peers did.
    pub peers: OfPeers,
    /// Steps of the executor: equal for equal seeds.
    pub steps: u64,
    /// Virtual time.
    pub end: Nanos,
}

/// One daemon, over all its processes.
pub struct Member {
    /// Its host.
    pub host: SimHost,
    /// Its seat there.
    pub seat: Seat,
    /// What outlives its daemon, where that is real sanlock.
    pub peer: Option<Rc<PeerMachine>>,
    number: usize,
    config: Config,
    name: RefCell<String>,
    machine: RefCell<Option<SimMachine>>,
    dice: RefCell<Dice>,
}

/// Hosts, disks and areas of a run.
pub struct Cluster {
    /// The run.
    pub sim: Sim,
    /// What its hosts share.
    pub world: Rc<World>,
    /// Its hosts.
    pub hosts: Vec<SimHost>,
    /// Its daemons.
    pub members: Vec<Rc<Member>>,
    rates: FaultRates,
    sharers_stay: bool,
    mishaps: Group,
}

impl Cluster {
    /// Formats the areas and makes the hosts, which are down.
    ///
    /// # Errors
    /// A name that does not fit.
    pub fn new(plan: &Plan, telling: bool) -> Result<Self, NameError> {
        let sim = Sim::new(plan.seed);
        let checkers = Checkers::new(&sim, telling);
        let space = SpaceName::new(SPACE.as_bytes())?;
        let resources = resources(plan);
        let disks = areas::disks(&sim, plan, space, &resources);
        checkers.watch(Area::Delta(0, LeaseOffset(0), plan.geometry));
        resources.iter().for_each(|r| checkers.watch_copies(r.area, r.more.iter().map(|copy| copy.area)));
        disks.iter().for_each(|disk| disk.set_witness(checkers.clone()));
        checkers.has_hosts(titles(plan));
        checkers.leave_unspoken(plan.unspoken);
        if let Some(hosts) = kept_by_all(plan).filter(|_| !plan.unspoken.contains(&"spec")) {
            checkers.follow_spec(&hosts);
        }
        let hosts: Vec<SimHost> = plan
            .hosts
            .iter()
            .enumerate()
            .map(|(i, host)| {
                let dice = Dice::new(plan.seed, Stream::Host(u8::try_from(i).unwrap_or(u8::MAX)));
                let made =
                    SimHost::new(&sim, &checkers, &disks, HostIndex(i), MachineHash(host.machine), host.ppm, dice);
                for seat in [Seat(0), Seat(1), wdmd::SEAT] {
                    made.make_watchdog(seat, host.steps, host.no_watchdog);
                }
                if !host.punctual {
                    made.fire_at_any_time();
                }
                if host.rings {
                    made.uses_rings();
                }
                made
            })
            .collect();
        let members = plan.daemons.iter().enumerate().map(|(n, daemon)| {
            Rc::new(Member {
                host: hosts[daemon.host].clone(),
                seat: daemon.seat,
                peer: daemon.peer.map(|peer| PeerMachine::new(&hosts[daemon.host], &disks, daemon.config, peer)),
                number: n,
                config: daemon.config,
                name: RefCell::new(daemon.name.clone()),
                machine: RefCell::default(),
                dice: RefCell::new(Dice::new(plan.seed, Stream::Host(u8::try_from(64 + n).unwrap_or(u8::MAX)))),
            })
        });
        let members = members.collect();
        let habits = Cell::new(plan.habits);
        let world = Rc::new(World { sim: sim.clone(), disks, checkers, space, resources, habits });
        if plan.copies > 1 {
            world.disks.iter().for_each(SimDisk::fail_opens);
        }
        let mishaps = sim.new_group();
        Ok(Cluster { sim, world, hosts, members, rates: plan.rates, sharers_stay: plan.sharers_stay, mishaps })
    }

    /// Starts a daemon on a host that is up, if its seat is free.
    pub fn start_daemon(&self, member: usize) {
        self.members[member].start(&self.world);
    }

    /// Boots a host if need be and starts its daemon and its clients.
    pub fn start(&self, member: usize) {
        if !self.members[member].host.is_up() {
            self.members[member].host.boot(seconds(100 + 1000 * member as u64));
        }
        self.start_daemon(member);
        self.members[member].spawn_clients(&self.world);
    }

    /// A daemon goes by another name from its next process on.
    pub fn rename(&self, member: usize) {
        self.members[member].rename();
    }

    /// Runs on for `time`.
    ///
    /// # Errors
    /// The violation found.
    pub fn run_for(&self, time: Duration) -> Result<Ended, Box<Violation>> {
        let ended = self.sim.run_until(self.sim.now().saturating_add(nanos(time)));
        if matches!(ended, Ended::Deadlock(_) | Ended::Spinning(_)) {
            self.world.checkers.violate("progress", None, format!("{ended:?}"));
        }
        self.world.checkers.violation().map_or(Ok(ended), Err)
    }

    /// Runs until `condition` holds, looking every 20 ms; `false` if `most` passes first.
    ///
    /// # Errors
    /// The violation found.
    pub fn run_until(&self, most: Duration, condition: impl Fn(&Self) -> bool) -> Result<bool, Box<Violation>> {
        let end = self.sim.now() + nanos(most);
        while !condition(self) {
            if self.sim.now() >= end || matches!(self.run_for(Duration::from_millis(20))?, Ended::Halted) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a client holds a lease on this daemon's host.
    #[must_use]
    pub fn holds(&self, member: usize) -> bool {
        self.world.checkers.held_by(self.members[member].host.index()) > 0
    }

    /// Changes how hosts behave.
    pub fn change_habits(&self, change: impl FnOnce(&mut Habits)) {
        let mut habits = self.world.habits.get();
        change(&mut habits);
        self.world.habits.set(habits);
    }

    /// Somebody who boots hosts that are down and starts daemons where there are none.
    fn spawn_operators(&self) {
        for (n, member) in self.members.iter().enumerate() {
            member.spawn_clients(&self.world);
            let (sim, world, member) = (self.sim.clone(), Rc::clone(&self.world), Rc::clone(member));
            self.sim.spawn(Group::RUN, format!("operator {n}"), async move {
                let mut pause = member.dice.borrow_mut().skewed(Duration::from_millis(100), seconds(5));
                loop {
                    let since = sim.now();
                    while sim.now() < since + nanos(pause.min(world.habits.get().absence)) {
                        sim.sleep(pause.min(seconds(5))).await;
                    }
                    while member.host.must_stay_down() {
                        sim.sleep(seconds(1)).await;
                    }
                    if !member.host.is_up() {
                        // Not at second 0: a host's clock says more than nothing when its daemon starts.
                        member.host.boot(pause.max(seconds(1)));
                    }
                    member.start(&world);
                    pause = {
                        let mut dice = member.dice.borrow_mut();
                        let (long, most) = (dice.chance(300), world.habits.get().absence);
                        let least = Duration::from_millis(100);
                        if long { dice.between(least, most) } else { dice.skewed(least, seconds(60)) }
                    };
                }
            });
        }
    }

    /// What goes wrong beside the disks, until [`Cluster::end_faults`].
    fn spawn_mishaps(&self, plan: &Plan) {
        let (sim, group) = (self.sim.clone(), self.mishaps);
        let scene = Rc::new(self.scene());
        let mishaps = plan.mishaps.clone();
        self.sim.spawn(group, "mishaps", async move {
            for mishap in mishaps {
                sim.sleep_until(nanos(mishap.at)).await;
                if mishap.whom == Whom::NextHolder {
                    let scene = Rc::clone(&scene);
                    sim.spawn(group, "mishap", async move { scene.strike_the_next_holder(mishap.what).await });
                } else {
                    scene.strike(mishap);
                }
            }
            std::future::pending::<()>().await;
        });
    }

    fn scene(&self) -> Scene {
        Scene { world: Rc::clone(&self.world), members: self.members.clone(), rates: self.rates }
    }

    /// Lets something go wrong now.
    pub fn strike(&self, whom: Whom, what: Trouble) {
        self.scene().strike(Mishap { at: Duration::ZERO, whom, what });
    }

    /// Ends every fault: what can go on goes on; what hangs for ever is swept away with its host.
    pub fn end_faults(&self) {
        let World { disks, habits, checkers, .. } = &*self.world;
        checkers.note(None, || "the faults end".into());
        self.sim.kill(self.mishaps);
        let now = habits.get();
        habits.set(Habits {
            unkillable: 0,
            slow_writes: 0,
            absence: seconds(10),
            longest_run: now.longest_run.min(if self.sharers_stay { now.longest_run } else { seconds(20) }),
            ..now
        });
        for disk in disks {
            disk.set_rates(FaultRates::NONE);
            disk.clear_script();
            disk.repair();
        }
        for member in &self.members {
            let host = &member.host;
            disks.iter().for_each(|disk| disk.restore_path(host.index()));
            host.go_on();
            host.stays_down(Duration::ZERO);
            member.machine.borrow().iter().for_each(SimMachine::spare);
            while host.is_frozen(member.seat) {
                host.thaw(member.seat);
            }
            // What never ends, ends with its host alone.
            let stuck = disks.iter().any(|d| d.has_lost(host.index()));
            let stubborn = host.guests().are_stubborn() || member.peer.as_ref().is_some_and(|p| p.is_stubborn());
            if stuck || stubborn {
                host.reset();
            }
        }
    }
}

impl Cluster {
    /// No host reaches this disk any more, now or later.
    fn lose_for_good(&self, disk: usize) {
        self.world.checkers.note(None, || format!("disk {disk} is lost for good"));
        let disk = &self.world.disks[disk];
        self.hosts.iter().for_each(|host| disk.lose_path(host.index(), PathLoss::Fails));
        disk.stay_lost();
    }

    /// What is not as it should be while there are no faults.
    fn missing(&self, plan: &Plan, progress: &Progress) -> Option<String> {
        let shared = |id: HostId| self.members.iter().filter(|m| m.config.host_id == id).count() > 1;
        let ours = |m: &&Rc<Member>| m.peer.is_none() && !shared(m.config.host_id);
        for member in self.members.iter().filter(ours) {
            if !progress.joined.contains(&(member.host.index(), member.config.host_id)) {
                return Some(format!("host {} has not joined as {}", member.host.index().0, member.config.host_id));
            }
        }
        let shares = |m: &&Rc<Member>| self.world.checkers.held_by(m.host.index()) > 0;
        if let Some(member) = self.members.iter().filter(ours).find(|m| plan.sharers_stay && !shares(m)) {
            return Some(format!("host {} does not come to share the lease", member.host.index().0));
        }
        if let Some(host) = self.world.checkers.outliver() {
            return Some(format!("a client of host {} outlives its lease", host.0));
        }
        // What a later generation held waits for whoever has its host_id now: nothing but leaving ends that.
        let waits = |area| self.world.checkers.outlives_its_generation(area);
        let wanted = |area| !progress.held.contains(&area) && !plan.sharers_stay && !waits(area);
        let free = self.world.resources.iter().find(|r| wanted(r.area));
        free.map(|resource| format!("nobody got the lease at {:?}", resource.area))
    }
}

impl Member {
    /// The programs that use its leases; real sanlock brings its own.
    fn spawn_clients(self: &Rc<Self>, world: &Rc<World>) {
        if self.peer.is_none() {
            clients::spawn(world, self, self.number);
        }
    }

    fn start(&self, world: &Rc<World>) {
        if let Some(machine) = &self.peer {
            return machine.start(world, self.seat, self.number, &self.name.borrow(), &self.dice);
        }
        let Ok(name) = HostName::new(self.name.borrow().as_bytes()) else { return };
        if self.host.has_daemon(self.seat) {
            return;
        }
        let dice = Dice::new(self.dice.borrow_mut().bits(), Stream::Scenario);
        if let Some(machine) = daemon::start(world, &self.host, self.seat, self.config, name, dice) {
            self.machine.replace(Some(machine));
        }
    }

    fn rename(&self) {
        let mut name = self.name.borrow_mut();
        name.push('\'');
        name.truncate(40);
    }

    /// Its settings.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }
}

/// What mishaps reach.
struct Scene {
    world: Rc<World>,
    members: Vec<Rc<Member>>,
    rates: FaultRates,
}

impl Scene {
    fn holder(&self) -> Option<&Rc<Member>> {
        self.members.iter().find(|m| self.world.checkers.held_by(m.host.index()) > 0)
    }

    async fn strike_the_next_holder(&self, what: Trouble) {
        while self.holder().is_none() {
            self.world.sim.sleep(Duration::from_millis(100)).await;
        }
        self.strike(Mishap { at: Duration::ZERO, whom: Whom::NextHolder, what });
    }

    fn strike(&self, mishap: Mishap) {
        let member = match mishap.whom {
            Whom::Daemon(n) => Some(&self.members[n]),
            Whom::Holder(n) => self.holder().or(Some(&self.members[n])),
            Whom::NextHolder => self.holder(),
        };
        let Some(member) = member.cloned() else { return };
        let (host, seat) = (member.host.clone(), member.seat);
        let strikes = |fault| self.world.checkers.strikes(host.index(), fault);
        match mishap.what {
            Trouble::Crash { loses_state, renamed } => {
                host.crash_daemon(seat, Fault::Crash);
                if loses_state {
                    if host.state_file(seat).is_some() {
                        strikes(Fault::StateLost);
                    }
                    host.lose_state_file(seat);
                }
                if renamed {
                    member.rename();
                }
            }
            Trouble::Freeze { lasts, killed } => {
                if host.has_daemon(seat) {
                    strikes(Fault::Freeze);
                }
                host.freeze(seat);
                self.later(lasts, move || host.thaw_or_kill(seat, killed));
            }
            Trouble::Stop { at, lasts, killed } => {
                if host.has_daemon(seat) {
                    strikes(Fault::Stop);
                }
                let machine = member.machine.borrow().clone();
                match &machine {
                    Some(machine) => machine.stop(at),
                    // Real sanlock is not stopped at a chosen step.
                    None if member.peer.is_some() => host.freeze(seat),
                    None => {}
                }
                // It may take a quarter of the device's timeout until the next pet.
                self.later(lasts + member.config.fire.device_limit() / 4, move || {
                    machine.iter().for_each(SimMachine::spare);
                    host.thaw_or_kill(seat, killed);
                });
            }
            Trouble::CrashInWrite { lasts } => self.crash_in_write(&member, lasts),
            Trouble::PowerCut => {
                if host.is_up() {
                    strikes(Fault::PowerCut);
                }
                host.note(|| "power cut".into());
                host.reset();
            }
            Trouble::Dark { lasts } => {
                if host.is_up() {
                    strikes(Fault::PowerCut);
                }
                host.note(|| "power cut, for long".into());
                host.reset();
                host.stays_down(lasts);
            }
            Trouble::Path { disk, everyone: false, how, lasts } => self.lose_path(&host, disk, how, lasts),
            Trouble::Path { disk, everyone: true, how, lasts } => {
                let hosts: BTreeMap<_, _> = self.members.iter().map(|m| (m.host.index(), &m.host)).collect();
                hosts.into_values().for_each(|host| self.lose_path(host, disk, how, lasts));
            }
            Trouble::Still { lasts, clock_too } => {
                if host.is_up() {
                    strikes(if clock_too { Fault::Pause } else { Fault::Sleep });
                }
                host.stand_still(clock_too);
                self.later(lasts, move || host.go_on());
            }
            Trouble::Damage { area, own, byte, bit } => self.damage(&member, area, own, byte, bit),
            Trouble::KillClient => {
                let killed = host.guests().kill_one();
                if let Some(peer) = member.peer.as_ref().filter(|_| !killed) {
                    peer.kill_one();
                }
                if killed || member.peer.is_some() {
                    strikes(Fault::ClientKilled);
                }
            }
            Trouble::Calm => self.world.disks.iter().for_each(|d| d.set_rates(FaultRates::NONE)),
            Trouble::Storm => self.world.disks.iter().for_each(|d| d.set_rates(self.rates)),
        }
    }

    fn later(&self, after: Duration, what: impl FnOnce() + 'static) {
        self.world.sim.call_after(Group::RUN, after, what);
    }

    fn lose_path(&self, host: &SimHost, disk: usize, how: PathLoss, lasts: Duration) {
        let fault = if how == PathLoss::Fails { Fault::PathFails } else { Fault::PathHangs };
        if host.is_up() {
            self.world.checkers.strikes(host.index(), fault);
        }
        let Some(disk) = self.world.disks.get(disk).or(self.world.disks.first()).cloned() else { return };
        host.note(|| format!("path to {} lost: {how:?}", disk.path()));
        disk.lose_path(host.index(), how);
        let host = host.clone();
        self.later(lasts, move || {
            host.note(|| format!("path to {} is back", disk.path()));
            disk.restore_path(host.index());
        });
    }

    /// The next lease write of a daemon is held back, and the daemon dies under it.
    fn crash_in_write(&self, member: &Rc<Member>, lasts: Duration) {
        for disk in &self.world.disks {
            let (sim, held, dies) = (self.world.sim.clone(), disk.clone(), Rc::clone(member));
            disk.hold_next_lease_write(member.host.index(), member.config.host_id, move |io| {
                let die = move || dies.host.crash_daemon(dies.seat, Fault::CrashInWrite);
                sim.call_after(Group::RUN, Duration::from_millis(1), die);
                sim.call_after(Group::RUN, lasts, move || {
                    held.release(|other| other.id == io.id);
                });
            });
        }
    }

    fn damage(&self, member: &Member, area: usize, own: bool, byte: usize, bit: u8) {
        let id = member.config.host_id.get();
        let (disk, start, sector) = match area.checked_sub(1).and_then(|n| self.world.resources.get(n)) {
            None => (&self.world.disks[0], 0, id - 1),
            Some(resource) => {
                let Area::Paxos(disk, at, _) = resource.area else { return };
                (&self.world.disks[disk], at.0, if own { id + 1 } else { 0 })
            }
        };
        self.world.checkers.strikes(member.host.index(), Fault::Damage);
        disk.damage(start + sector * disk.sector().bytes() as u64, byte, 1 << bit);
    }
}

fn resources(plan: &Plan) -> Vec<ResourceAt> {
    const MIB: u64 = 1024 * 1024;
    let at = |disk: usize, offset: u64| CopyAt {
        path: areas::path(disk),
        offset,
        area: Area::Paxos(disk, LeaseOffset(offset), plan.geometry),
    };
    let behind_vm2 = if plan.two_disks { MIB } else { 0 };
    let more = if plan.copies > 1 { vec![at(1, behind_vm2), at(2, 0)] } else { Vec::new() };
    let mut places = vec![("vm1", at(0, MIB), more)];
    if plan.two_disks {
        places.push(("vm2", at(1, 0), Vec::new()));
    }
    let resource = |(name, CopyAt { path, offset, area }, more)| ResourceAt { name, path, offset, area, more };
    places.into_iter().map(resource).collect()
}

/// The host_id of each host, where the written specification speaks of such a cluster: every host is ours, has one daemon
/// and a host_id of its own, and a lease lies on one disk.
fn kept_by_all(plan: &Plan) -> Option<BTreeMap<HostIndex, HostId>> {
    if plan.copies > 1 || plan.daemons.iter().any(|d| d.peer.is_some()) {
        return None;
    }
    let ids: BTreeMap<HostIndex, HostId> = plan.daemons.iter().map(|d| (HostIndex(d.host), d.config.host_id)).collect();
    let distinct: BTreeSet<HostId> = ids.values().copied().collect();
    (ids.len() == plan.daemons.len() && distinct.len() == ids.len()).then_some(ids)
}

fn titles(plan: &Plan) -> Vec<String> {
    let title = |n: usize| {
        let of_host = plan.daemons.iter().filter(|d| d.host == n);
        let ids: Vec<String> = of_host.map(|d| d.config.host_id.to_string()).collect();
        format!("host {n} (host_id {})", ids.join(", "))
    };
    (0..plan.hosts.len()).map(title).collect()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // While a panic unwinds, something of the run may be borrowed: it is leaked then.
        if !std::thread::panicking() {
            self.sim.clear();
            self.hosts.iter().for_each(SimHost::hang_up);
            self.world.disks.iter().for_each(SimDisk::clear_script);
        }
    }
}

/// The story of a run: what happened, in columns.
#[derive(Clone, Debug, Default)]
pub struct Story {
    /// The heads of the columns, one for each host.
    pub columns: Vec<String>,
    /// What happened, in order.
    pub rows: Vec<Row>,
}

/// Runs a plan from its beginning to its end.
///
/// # Errors
/// The first violation of a rule, with its timeline. A panic of the program counts as one: its own assertions are rules.
pub fn run(plan: &Plan) -> Result<Outcome, Box<Violation>> {
    match run_untold(plan) {
        // The same run again, with its story.
        Err(violation) => Err(tell(plan).1.err().unwrap_or(violation)),
        good => good,
    }
}

/// [`run`], once and without a timeline.
///
/// # Errors
/// As [`run`].
pub fn run_untold(plan: &Plan) -> Result<Outcome, Box<Violation>> {
    play(plan, false, &RefCell::default())
}

/// [`run`], once, with its story.
pub fn tell(plan: &Plan) -> (Story, Result<Outcome, Box<Violation>>) {
    let seen = RefCell::default();
    let result = play(plan, true, &seen);
    let story = seen.take().map(|seen| Story { columns: seen.checkers.columns(), rows: seen.checkers.rows() });
    (story.unwrap_or_default(), result)
}

/// What is left of a run that panicked.
struct Seen {
    sim: Sim,
    checkers: Rc<Checkers>,
}

/// Runs make and drop buffers of a MiB again and again. glibc gives those back to the kernel at once, which takes more
/// time than the run itself, until it has seen a larger one freed; then it keeps them.
fn keep_freed_memory() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| drop(std::hint::black_box(vec![1u8; 30 << 20])));
}

fn play(plan: &Plan, telling: bool, seen: &RefCell<Option<Seen>>) -> Result<Outcome, Box<Violation>> {
    keep_freed_memory();
    crate::plant(plan.bug);
    let played = catch_unwind(AssertUnwindSafe(|| phases(plan, telling, seen)));
    crate::plant(None);
    played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let what = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default();
        let seen = seen.borrow();
        let (step, at) = seen.as_ref().map_or((0, 0), |s| (s.sim.steps(), s.sim.now()));
        let at = Duration::from_nanos(at).as_secs_f64();
        let timeline = seen.as_ref().map(|s| s.checkers.timeline()).unwrap_or_default();
        Err(Box::new(Violation { seed: plan.seed, rule: "assertion", what, at, step, timeline }))
    })
}

fn phases(plan: &Plan, telling: bool, seen: &RefCell<Option<Seen>>) -> Result<Outcome, Box<Violation>> {
    let cluster = Cluster::new(plan, telling).unwrap_or_else(|e| unreachable!("fixed names: {e}"));
    let checkers = Rc::clone(&cluster.world.checkers);
    seen.replace(Some(Seen { sim: cluster.sim.clone(), checkers: Rc::clone(&checkers) }));
    cluster.world.disks.iter().for_each(|disk| disk.set_rates(plan.rates));
    cluster.spawn_operators();
    cluster.spawn_mishaps(plan);
    // Halted without a violation: nothing more can be demanded of this run (A7).
    if !matches!(cluster.run_for(plan.safety)?, Ended::Halted) {
        until_progress(&cluster, plan)?;
    }
    checkers.count(|c| c.followed += u64::from(checkers.follows_spec()));
    Ok(Outcome {
        counts: checkers.counts(),
        coverage: checkers.coverage(),
        peers: OfPeers {
            excused: checkers.excused(),
            outruns: cluster.members.iter().filter_map(|m| m.peer.as_ref()).map(|p| p.outruns()).sum(),
        },
        steps: cluster.sim.steps(),
        end: cluster.sim.now(),
    })
}

/// Without faults every daemon joins and clients get every lease, within the bound.
fn until_progress(cluster: &Cluster, plan: &Plan) -> Result<(), Box<Violation>> {
    let checkers = &cluster.world.checkers;
    cluster.end_faults();
    if let Some(disk) = plan.lost {
        cluster.lose_for_good(disk);
    }
    checkers.forget_progress();
    let bound = cluster.sim.now() + nanos(plan.liveness_bound());
    let missing = || cluster.missing(plan, &checkers.progress());
    while let Some(missing) = missing() {
        if cluster.sim.now() >= bound {
            checkers.violate("liveness", None, format!("{missing} within {:?}", plan.liveness_bound()));
        }
        if matches!(cluster.run_for(seconds(5))?, Ended::Halted) {
            break;
        }
    }
    Ok(())
}
