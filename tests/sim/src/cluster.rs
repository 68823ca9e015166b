//! A cluster made up by a seed: two or three hosts, one lockspace, one resource, and everything that can go wrong.
//!
//! **Safety phase**: the disk is faulty, daemons crash and come back under the same or a new name, with or without their
//! state file, freeze and go on; hosts are reset and boot again; paths are lost. The checkers watch every landed write.
//! **Liveness phase**: the faults end, whatever hangs for ever is swept away by a reset, and within a bound that the
//! timing of the hosts gives somebody must hold the lease.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use delta_lease::DeltaArea;
use holdfast_io::identity::{BootHash, Machine, MachineHash};
use holdfast_io::ids::{HostId, HostName, NameError, ResourceName, SpaceName};
use holdfast_io::seal::{AreaUuid, SealedFire};
use holdfast_io::timing::{FireTimeout, IoTimeout, Timing};
use holdfast_io::units::{AlignSize, Geometry, LeaseOffset, SectorSize};
use paxos_lease::LeaseAt;

use crate::checkers::{Area, Checkers, Counts, Violation};
use crate::daemon::{Daemon, Habits, RunState, Sabotage, Settings, World};
use crate::dice::{Dice, Stream, nanos};
use crate::disk::{FaultRates, HostIndex, PathLoss, SimDisk};
use crate::executor::{Ended, Group, Nanos, Sim};
use crate::host::SimHost;

const MIB: u64 = 1024 * 1024;

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Sizes of both areas.
    pub geometry: Geometry,
    /// io_timeout and fire timeout of each host.
    pub hosts: Vec<Settings>,
    /// What the hosts' clocks gain, in parts per million.
    pub ppm: Vec<i32>,
    /// How hosts behave.
    pub habits: Habits,
    /// How the disk behaves while it is faulty.
    pub rates: FaultRates,
    /// Length of the safety phase.
    pub safety: Duration,
    /// The mean time between two mishaps.
    pub mishaps: Duration,
    /// Rules broken on purpose.
    pub sabotage: Sabotage,
}

/// What came of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What happened in it.
    pub counts: Counts,
    /// Steps of the executor: equal for equal seeds.
    pub steps: u64,
    /// Virtual time.
    pub end: Nanos,
}

/// One host with what it keeps.
pub struct Member {
    /// The host.
    pub host: SimHost,
    settings: Settings,
    run_state: Rc<RefCell<RunState>>,
    dice: RefCell<Dice>,
    /// How often it was given a new name.
    names: Cell<u32>,
}

/// Hosts, disk and areas of a run.
pub struct Cluster {
    /// The run.
    pub sim: Sim,
    /// What its hosts share.
    pub world: Rc<World>,
    /// Its hosts.
    pub members: Vec<Rc<Member>>,
    mishaps: Group,
}

fn pick<T: Copy>(dice: &mut Dice, from: &[T]) -> T {
    from[dice.index(from.len())]
}

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

impl Plan {
    /// The plan that a seed makes.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        let mut dice = Dice::new(seed, Stream::Scenario);
        let small = Geometry::new(SectorSize::B4096, AlignSize::M1);
        let classic = Geometry::new(SectorSize::B512, AlignSize::M1);
        let geometry = if dice.chance(100) { classic } else { small };
        let count = 2 + dice.index(2);
        let same =
            Settings { io_timeout: x(pick(&mut dice, &[5, 10, 10, 20])), fire: fire(pick(&mut dice, &[10, 20, 60])) };
        let mixed = dice.chance(300);
        let hosts: Vec<Settings> = (0..count)
            .map(|_| match mixed {
                false => same,
                true => Settings {
                    io_timeout: x(pick(&mut dice, &[3, 5, 10, 20])),
                    fire: fire(pick(&mut dice, &[10, 30, 60])),
                },
            })
            .collect();
        let ppm = (0..count).map(|_| pick(&mut dice, &[-500, -80, 0, 30, 500])).collect();
        let longest = hosts.iter().map(|s| s.timing().host_dead()).max().unwrap_or_default();
        let habits = Habits {
            longest_run: pick(&mut dice, &[seconds(2), seconds(20), longest]),
            longest_pause: pick(&mut dice, &[seconds(1), seconds(10), seconds(40)]),
            unkillable: pick(&mut dice, &[0, 100, 500]),
            leaves: pick(&mut dice, &[0, 300]),
            waits: 500,
            wants: u64::MAX,
            absence: longest * 2,
        };
        let plan_x = same.io_timeout.seconds();
        // A short run in which all hosts want the lease all the time: ballots meet.
        let hot = dice.chance(150);
        let habits = match hot {
            true => {
                Habits { longest_run: Duration::from_millis(50), longest_pause: Duration::from_millis(100), ..habits }
            }
            false => habits,
        };
        Plan {
            geometry: geometry.unwrap_or_else(|e| unreachable!("{e}")),
            rates: rates(&mut dice, seconds(u64::from(plan_x)), hot),
            safety: if hot { longest + seconds(60) } else { longest * 6 },
            mishaps: seconds(pick(&mut dice, if hot { &[5, 20, 60] } else { &[20, 60, 150] })),
            hosts,
            ppm,
            habits,
            sabotage: Sabotage::default(),
        }
    }

    /// A plan without faults for named scenarios: `count` hosts with io_timeout 10 and fire timeout 60.
    #[must_use]
    pub fn quiet(count: usize) -> Self {
        let mut plan = Self::of_seed(0);
        plan.hosts = vec![Settings { io_timeout: x(10), fire: fire(60) }; count];
        plan.ppm = vec![0; count];
        plan.rates = FaultRates::NONE;
        plan.habits = Habits {
            longest_run: seconds(1_000_000),
            longest_pause: seconds(1),
            unkillable: 0,
            leaves: 0,
            waits: 1000,
            wants: u64::MAX,
            absence: seconds(10),
        };
        plan
    }

    /// D1's silence of the slowest host.
    #[must_use]
    pub fn longest_silence(&self) -> Duration {
        self.hosts.iter().map(|s| s.timing().silence_for_takeover()).max().unwrap_or_default()
    }

    /// Within this time after the faults have ended somebody must hold the lease: a host boots (up to 2 minutes), waits
    /// out its own former lease, joins, waits out the owner, and lets a client that holds it run to its end.
    #[must_use]
    pub fn liveness_bound(&self) -> Duration {
        seconds(240) + self.longest_silence() * 3 + self.habits.longest_run + self.habits.longest_pause
    }
}

fn x(seconds: u64) -> IoTimeout {
    IoTimeout::new(seconds).unwrap_or(IoTimeout::DEFAULT)
}

fn fire(seconds: u64) -> FireTimeout {
    FireTimeout::new(seconds).unwrap_or(FireTimeout::SANLOCK)
}

impl Settings {
    /// The intervals that follow.
    #[must_use]
    pub const fn timing(&self) -> Timing {
        Timing::new(self.io_timeout, self.fire)
    }
}

fn rates(dice: &mut Dice, x: Duration, hot: bool) -> FaultRates {
    if dice.chance(150) {
        return FaultRates::NONE;
    }
    FaultRates {
        latency: (Duration::from_micros(50), pick(dice, &[Duration::from_millis(20), seconds(1), x / 2])),
        error: pick(dice, &[0, 10, 60]),
        late_per_mille: pick(dice, if hot { &[5, 20, 50] } else { &[0, 20, 80] }),
        late: (x / 2, x * pick(dice, &[2, 8, 40])),
        never: pick(dice, &[0, 0, 4]),
        torn: 300,
        queued: pick(dice, &[0, 10]),
    }
}

impl Cluster {
    /// Formats the areas and makes the hosts, which are down.
    ///
    /// # Errors
    /// A name that does not fit.
    pub fn new(seed: u64, plan: &Plan) -> Result<Self, NameError> {
        let sim = Sim::new(seed);
        let space = DeltaArea {
            at: LeaseOffset(0),
            geometry: plan.geometry,
            space: SpaceName::new(b"space")?,
            uuid: AreaUuid(uuid::Uuid::from_u128(0x5EED_0001)),
        };
        let lease = LeaseAt {
            at: LeaseOffset(MIB),
            space: space.space,
            resource: ResourceName::new(b"resource")?,
            geometry_hint: plan.geometry,
        };
        let disk = SimDisk::new(&sim, "shared disk", plan.geometry.sector(), formatted(&space, &lease, plan));
        let checkers = Checkers::new(&sim);
        checkers.watch(Area::Delta(space.at, space.geometry));
        checkers.watch(Area::Paxos(lease.at, lease.geometry_hint));
        disk.set_witness(checkers.clone());
        let habits = Cell::new(plan.habits);
        let world = Rc::new(World { sim: sim.clone(), disk, checkers, space, lease, habits, sabotage: plan.sabotage });
        let mut members = Vec::new();
        for (i, settings) in plan.hosts.iter().enumerate() {
            let Some(host_id) = u32::try_from(i).ok().and_then(HostId::from_slot) else { break };
            let disks = std::slice::from_ref(&world.disk);
            let host = SimHost::new(&sim, &world.checkers, disks, HostIndex(i), host_id, plan.ppm[i]);
            if plan.sabotage.no_watchdog {
                host.break_watchdog();
            }
            members.push(Rc::new(Member {
                host,
                settings: *settings,
                run_state: Rc::default(),
                dice: RefCell::new(Dice::new(seed, Stream::Host(u8::try_from(i).unwrap_or(u8::MAX)))),
                names: Cell::new(0),
            }));
        }
        let mishaps = sim.new_group();
        Ok(Cluster { sim, world, members, mishaps })
    }

    /// Starts a daemon on a host that is up and has none. With `new_name` it goes by another name than before.
    pub fn start_daemon(&self, member: usize, new_name: bool) {
        start_daemon(&self.world, &self.members[member], new_name);
    }

    /// Boots a host and starts its daemon.
    pub fn start(&self, member: usize) {
        self.members[member].host.boot(seconds(100 + 1000 * member as u64));
        self.start_daemon(member, false);
    }

    /// The state file of a host is gone.
    pub fn lose_state_file(&self, member: usize) {
        *self.members[member].run_state.borrow_mut() = RunState::default();
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
}

fn start_daemon(world: &Rc<World>, member: &Rc<Member>, new_name: bool) {
    if new_name {
        member.names.set(member.names.get() + 1);
    }
    let name = format!("host-{}-{}", member.host.index().0, member.names.get());
    let (Ok(name), Some(process)) = (HostName::new(name.as_bytes()), member.host.start_daemon()) else { return };
    let dice = Dice::new(member.dice.borrow_mut().bits(), Stream::Scenario);
    Daemon::new(world, &member.host, process, name, member.settings, &member.run_state, dice).start();
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.sim.clear();
        self.world.disk.clear_script();
    }
}

/// Both areas as `init` leaves them, and a MiB behind them that belongs to nobody.
fn formatted(space: &DeltaArea, lease: &LeaseAt, plan: &Plan) -> Vec<u8> {
    let mut bytes = vec![0; 3 * 1024 * 1024];
    let mut put = |at: u64, data: &[u8]| {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        bytes[at..at + data.len()].copy_from_slice(data);
    };
    let machine = Machine { machine: MachineHash(1), boot: BootHash(1) };
    let watchdog = SealedFire::Within(FireTimeout::SANLOCK);
    let seal = delta_lease::format::FormatSeal { uuid: space.uuid, machine, fire: watchdog };
    let io_timeout = plan.hosts.first().map_or(IoTimeout::DEFAULT, |s| s.io_timeout);
    for write in delta_lease::format::plan(space.geometry, space.space, io_timeout, Some(&seal)) {
        put(space.at.0 + write.offset_in_area, &write.bytes);
    }
    let new = paxos_lease::format::NewLease {
        geometry: lease.geometry_hint,
        space: lease.space,
        resource: lease.resource,
        num_hosts: Some(8),
        uuid: AreaUuid(uuid::Uuid::from_u128(0x5EED_0002)),
    };
    let writer = paxos_lease::format::Writer { machine, fire: watchdog };
    for write in paxos_lease::format::plan(&new, &writer).unwrap_or_default() {
        put(lease.at.0 + write.offset_in_area, &write.bytes);
    }
    bytes
}

/// Runs one seed from its beginning to its end.
///
/// # Errors
/// The first violation of a rule, with its timeline.
pub fn run(seed: u64, plan: &Plan) -> Result<Outcome, Box<Violation>> {
    let cluster = Cluster::new(seed, plan).unwrap_or_else(|e| unreachable!("fixed names: {e}"));
    let checkers = Rc::clone(&cluster.world.checkers);
    cluster.world.disk.set_rates(plan.rates);
    cluster.spawn_operators();
    cluster.spawn_mishaps(plan);
    cluster.run_for(plan.safety)?;

    cluster.end_faults();
    let before = checkers.counts().holds;
    let bound = cluster.sim.now() + nanos(plan.liveness_bound());
    while checkers.counts().holds == before {
        if cluster.sim.now() >= bound {
            checkers.violate("liveness", None, format!("nobody got the lease within {:?}", plan.liveness_bound()));
        }
        cluster.run_for(seconds(5))?;
    }
    Ok(Outcome { counts: checkers.counts(), steps: cluster.sim.steps(), end: cluster.sim.now() })
}

impl Cluster {
    /// Runs until `condition` holds, looking every 20 ms; `false` if `most` passes first.
    ///
    /// # Errors
    /// The violation found.
    pub fn run_until(&self, most: Duration, condition: impl Fn(&Self) -> bool) -> Result<bool, Box<Violation>> {
        let end = self.sim.now() + nanos(most);
        while !condition(self) {
            if self.sim.now() >= end {
                return Ok(false);
            }
            self.run_for(Duration::from_millis(20))?;
        }
        Ok(true)
    }

    /// Whether a client runs on this host.
    #[must_use]
    pub fn holds(&self, member: usize) -> bool {
        self.world.checkers.held_by(HostIndex(member)) > 0
    }

    /// Changes how hosts behave.
    pub fn change_habits(&self, change: impl FnOnce(&mut Habits)) {
        let mut habits = self.world.habits.get();
        change(&mut habits);
        self.world.habits.set(habits);
    }

    /// Somebody who boots hosts that are down and starts daemons where there are none: under the same name as a rule.
    fn spawn_operators(&self) {
        for member in &self.members {
            let (sim, world, member) = (self.sim.clone(), Rc::clone(&self.world), Rc::clone(member));
            let label = format!("operator of host {}", member.host.index().0);
            self.sim.spawn(Group::RUN, label, async move {
                loop {
                    let (pause, new_name, keeps_state) = {
                        let mut dice = member.dice.borrow_mut();
                        let long = dice.chance(300);
                        let (least, most) = (Duration::from_millis(100), world.habits.get().absence);
                        let pause = if long { dice.between(least, most) } else { dice.skewed(least, seconds(60)) };
                        (pause, dice.chance(100), dice.chance(900))
                    };
                    let since = sim.now();
                    while sim.now() < since + nanos(pause.min(world.habits.get().absence)) {
                        sim.sleep(pause.min(seconds(5))).await;
                    }
                    if !member.host.is_up() {
                        *member.run_state.borrow_mut() = RunState::default();
                        member.host.boot(pause);
                    }
                    if !member.host.has_daemon() {
                        if !keeps_state {
                            *member.run_state.borrow_mut() = RunState::default();
                        }
                        start_daemon(&world, &member, new_name);
                    }
                }
            });
        }
    }

    /// What goes wrong beside the disk, until [`Cluster::end_faults`].
    fn spawn_mishaps(&self, plan: &Plan) {
        let (sim, world, members) = (self.sim.clone(), Rc::clone(&self.world), self.members.clone());
        let (mean, longest, rates) = (plan.mishaps, plan.longest_silence() * 2, plan.rates);
        let mut dice = Dice::new(self.sim.seed() ^ 0x6d69_7368_6170, Stream::Scenario);
        self.sim.spawn(self.mishaps, "mishaps", async move {
            loop {
                sim.sleep(dice.between(Duration::from_millis(1), mean * 2)).await;
                // Rather the one that holds the lease: there it hurts.
                let holder = members.iter().find(|m| world.checkers.held_by(m.host.index()) > 0);
                let victim = holder.filter(|_| dice.chance(500)).unwrap_or(&members[dice.index(members.len())]);
                let (host, index) = (victim.host.clone(), victim.host.index());
                let least = Duration::from_millis(500);
                let lasts = if dice.chance(500) { dice.skewed(least, longest) } else { dice.between(least, longest) };
                match dice.below(10) {
                    0..=2 => host.crash_daemon(),
                    3..=4 => {
                        let killed = dice.chance(300);
                        host.freeze();
                        sim.call_after(
                            Group::RUN,
                            lasts,
                            move || if killed { host.crash_daemon() } else { host.thaw() },
                        );
                    }
                    5 => {
                        host.note("power cut");
                        host.reset();
                    }
                    6..=7 => {
                        let how = if dice.chance(500) { PathLoss::Fails } else { PathLoss::Hangs };
                        host.note(format!("path lost: {how:?}"));
                        world.disk.lose_path(index, how);
                        let disk = world.disk.clone();
                        sim.call_after(Group::RUN, lasts, move || {
                            host.note("path is back");
                            disk.restore_path(index);
                        });
                    }
                    8 => world.disk.set_rates(FaultRates::NONE),
                    _ => world.disk.set_rates(rates),
                }
            }
        });
    }

    /// Ends every fault: what can go on goes on; what hangs for ever is swept away with its host.
    pub fn end_faults(&self) {
        let World { disk, habits, checkers, .. } = &*self.world;
        checkers.note(None, "the faults end");
        self.sim.kill(self.mishaps);
        disk.set_rates(FaultRates::NONE);
        habits.set(Habits { unkillable: 0, absence: seconds(10), ..habits.get() });
        for member in &self.members {
            let host = &member.host;
            disk.restore_path(host.index());
            host.thaw();
            let stuck = disk.in_flight(|io| io.writer.host == host.index());
            let stuck_client = host.clients().into_iter().any(|client| host.is_unkillable(client));
            if stuck_client || !stuck.is_empty() {
                host.reset();
            }
        }
    }
}
