//! A host: a clock with an offset and a drift, processes, watchdog devices, run directories; it boots, stands still,
//! sleeps, and is reset.
//!
//! - **Seats**: a host has room for several daemons, each with a run directory and a watchdog device of its own. A seat's
//!   daemon has a host_id, and its successor in the same seat finds what it left.
//! - **Clock**: runs fast or slow, begins anew at each boot, counts while processes are frozen.
//! - **Freeze**: a daemon stands still (SIGSTOP, a page that cannot be read); time passes and its watchdog counts.
//! - **Pause**: the host as a whole is stopped from outside; its clock and its watchdogs stand still with it.
//! - **Sleep** (suspend): as a pause, but the clock counts on.
//! - **Watchdog**: armed by opening it, petted, and by its last holder's end petted once more - when that end is seen by
//!   the kernel, which can be long after the kill. It fires at the last instant that is allowed: its timeout on the
//!   host's own clock, and almost a second (its tick) on top. Firing resets the host.
//! - **Reset**: every process is gone, every I/O in flight on every disk. Then the host is down until it boots.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use holdfast_daemon::state_file::StateFile;
use holdfast_io::clock::Clock;
use holdfast_io::identity::{BootHash, Machine, MachineHash};
use holdfast_io::ids::HostId;

use crate::checkers::Checkers;
use crate::coverage::Fault;
use crate::dice::{Dice, nanos};
use crate::disk::{HostIndex, SimDisk, Writer};
use crate::executor::{ClockRate, Group, Nanos, Sim, SimClock};
use crate::guests::{Guests, HEAD_START, Port};

/// How far a watchdog's count may lag: almost one step of its counter of seconds.
pub const WATCHDOG_LAG: Duration = Duration::from_millis(999);

/// A place for a daemon on a host: its run directory and its watchdog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seat(pub u8);

/// A host. Clones are the same one.
#[derive(Clone)]
pub struct SimHost(Rc<Inner>);

struct Inner {
    sim: Sim,
    checkers: Rc<Checkers>,
    disks: Vec<SimDisk>,
    index: HostIndex,
    machine: MachineHash,
    ppm: i32,
    guests: Guests,
    dice: RefCell<Dice>,
    state: RefCell<State>,
    /// Whether a watchdog fires at the last instant that is allowed or anywhere in its last second.
    punctual: Cell<bool>,
    /// Whether a daemon that is killed is gone before its I/O is (io_uring), or after it (threads, libaio).
    rings: Cell<bool>,
}

#[derive(Default)]
struct State {
    up: bool,
    boot: u32,
    process: u32,
    last_pid: i32,
    last_description: u64,
    clock: Option<SimClock>,
    /// Since when it stands still, and whether its clock does too.
    still: Option<(Nanos, bool)>,
    /// How often it has stood still.
    stops: u64,
    /// Nobody boots it before.
    dark_until: Nanos,
    daemons: BTreeMap<Seat, Running>,
    watchdogs: BTreeMap<Seat, Dog>,
    run_dirs: BTreeMap<Seat, StateFile>,
}

struct Running {
    group: Group,
    writer: Writer,
    port: Rc<Port>,
    /// How often it was frozen by itself, its host apart.
    frozen: u32,
}

/// A watchdog device.
#[derive(Default)]
struct Dog {
    /// The steps in which it counts, in seconds; 0 and 1: it takes every second.
    steps: u32,
    /// It never fires, whatever it is told: a broken rule, for runs that must fail.
    broken: bool,
    /// The process that has it open.
    open_by: Option<u32>,
    /// The timeout while it counts.
    counting: Option<Duration>,
    /// When it fires, in true time.
    fires_at: Nanos,
    /// Counts what moved that instant: a firing that was timed before the latest is void.
    moves: u64,
}

/// A daemon's process, as its tasks need it.
#[derive(Clone)]
pub struct Process {
    /// The host it runs on.
    pub host: SimHost,
    /// Its seat there.
    pub seat: Seat,
    /// What its tasks belong to.
    pub group: Group,
    /// Its name on the disk.
    pub writer: Writer,
    /// The host's clock in this boot.
    pub clock: SimClock,
    /// Where clients connect.
    pub port: Rc<Port>,
}

impl SimHost {
    /// A host that is down. Its clock gains `ppm` on true time.
    #[must_use]
    pub fn new(
        sim: &Sim,
        checkers: &Rc<Checkers>,
        disks: &[SimDisk],
        index: HostIndex,
        machine: MachineHash,
        ppm: i32,
        dice: Dice,
    ) -> Self {
        SimHost(Rc::new(Inner {
            sim: sim.clone(),
            checkers: Rc::clone(checkers),
            disks: disks.to_vec(),
            index,
            machine,
            ppm,
            guests: Guests::new(sim, checkers, index),
            dice: RefCell::new(dice),
            state: RefCell::default(),
            punctual: Cell::new(true),
            rings: Cell::default(),
        }))
    }

    /// Which one of the run.
    #[must_use]
    pub fn index(&self) -> HostIndex {
        self.0.index
    }

    /// The run.
    #[must_use]
    pub fn sim(&self) -> &Sim {
        &self.0.sim
    }

    /// Who watches.
    #[must_use]
    pub fn checkers(&self) -> &Rc<Checkers> {
        &self.0.checkers
    }

    /// The disk at a path, as every host sees it.
    #[must_use]
    pub fn disk(&self, path: &str) -> Option<&SimDisk> {
        self.0.disks.iter().find(|d| &**d.path() == path)
    }

    /// Its processes but daemons.
    #[must_use]
    pub fn guests(&self) -> &Guests {
        &self.0.guests
    }

    /// Chance, for what this host does by itself.
    #[must_use]
    pub fn within(&self, least: Duration, most: Duration) -> Duration {
        self.0.dice.borrow_mut().skewed(least.max(Duration::from_nanos(1)), most.max(least))
    }

    /// Chance, in parts per thousand.
    #[must_use]
    pub fn chance(&self, per_mille: u32) -> bool {
        self.0.dice.borrow_mut().chance(per_mille)
    }

    /// A line in its column of the timeline.
    pub fn note(&self, text: impl FnOnce() -> String) {
        self.0.checkers.note(Some(self.0.index), text);
    }

    /// Whether it runs (frozen or not).
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.0.state.borrow().up
    }

    /// Which boot this is, from 1.
    #[must_use]
    pub fn boot_number(&self) -> u32 {
        self.0.state.borrow().boot
    }

    /// Who it says it is, in this boot.
    #[must_use]
    pub fn machine(&self) -> Machine {
        let boot = u64::from(self.boot_number()) + 1000 * self.0.index.0 as u64;
        Machine { machine: self.0.machine, boot: BootHash(boot) }
    }

    /// The boot id, as the state file names it.
    #[must_use]
    pub fn boot_id(&self) -> String {
        format!("boot {} of host {}", self.boot_number(), self.0.index.0)
    }

    /// Its clock, while it is up.
    #[must_use]
    pub fn clock(&self) -> Option<SimClock> {
        self.0.state.borrow().clock.clone()
    }

    /// Comes up, with a clock that says `uptime`.
    pub fn boot(&self, uptime: Duration) {
        let mut state = self.0.state.borrow_mut();
        assert!(!state.up, "a host that is up does not boot");
        state.up = true;
        state.boot += 1;
        // Run directories are memory.
        state.run_dirs.clear();
        let rate = ClockRate { true_at: self.0.sim.now(), host_at: nanos(uptime), ppm: self.0.ppm };
        state.clock = Some(SimClock::new(&self.0.sim, rate));
        let boot = state.boot;
        drop(state);
        self.note(|| format!("boot {boot}"));
    }

    /// Power off: nothing of this host writes any more.
    pub fn reset(&self) {
        let gone = {
            let mut state = self.0.state.borrow_mut();
            if !state.up {
                return;
            }
            state.up = false;
            state.clock = None;
            state.still = None;
            for dog in state.watchdogs.values_mut() {
                (dog.open_by, dog.counting) = (None, None);
                dog.moves += 1;
            }
            std::mem::take(&mut state.daemons)
        };
        self.note(|| "RESET".into());
        self.0.disks.iter().for_each(|disk| disk.host_reset(self.0.index));
        self.0.guests.reset();
        self.0.checkers.host_reset(self.0.index);
        for running in gone.into_values() {
            self.0.sim.kill(running.group);
            running.port.hang_up();
        }
    }

    /// Nobody boots it for so long from now on.
    pub fn stays_down(&self, lasts: Duration) {
        self.0.state.borrow_mut().dark_until = self.0.sim.now() + nanos(lasts);
    }

    /// Whether it is down, and not to be booted yet.
    #[must_use]
    pub fn must_stay_down(&self) -> bool {
        let state = self.0.state.borrow();
        !state.up && self.0.sim.now() < state.dark_until
    }

    // --- daemons -------------------------------------------------------------------------------------------------

    /// Starts a daemon's process; `None` while the host is down or stands still, or the seat is taken.
    #[must_use]
    pub fn start_daemon(&self, seat: Seat, host_id: HostId) -> Option<Process> {
        let mut state = self.0.state.borrow_mut();
        let clock =
            state.clock.clone().filter(|_| state.up && state.still.is_none() && !state.daemons.contains_key(&seat))?;
        state.process += 1;
        let group = self.0.sim.new_group();
        let writer = Writer { host: self.0.index, boot: state.boot, process: state.process, host_id };
        let port = Rc::new(Port::default());
        state.daemons.insert(seat, Running { group, writer, port: Rc::clone(&port), frozen: 0 });
        drop(state);
        self.note(|| format!("daemon {} starts", writer.process));
        Some(Process { host: self.clone(), seat, group, writer, clock, port })
    }

    /// Whether a daemon runs in a seat.
    #[must_use]
    pub fn has_daemon(&self, seat: Seat) -> bool {
        self.0.state.borrow().daemons.contains_key(&seat)
    }

    /// Where the clients of a seat's daemon connect.
    #[must_use]
    pub fn port(&self, seat: Seat) -> Option<Rc<Port>> {
        self.0.state.borrow().daemons.get(&seat).map(|d| Rc::clone(&d.port))
    }

    /// The daemon is gone at whatever it was doing. Its I/O in flight and its clients are not. Where a host stands still, nothing
    /// dies.
    pub fn crash_daemon(&self, seat: Seat, by: Fault) {
        if self.can_die(seat) {
            self.0.checkers.strikes(self.0.index, by);
        }
        let running = {
            let mut state = self.0.state.borrow_mut();
            if state.still.is_some() { None } else { state.daemons.remove(&seat) }
        };
        if let Some(running) = running {
            self.note(|| format!("daemon {} CRASHES", running.writer.process));
            self.0.checkers.count(|c| c.crashes += 1);
            self.ended(running);
        }
    }

    fn can_die(&self, seat: Seat) -> bool {
        let state = self.0.state.borrow();
        state.still.is_none() && state.daemons.contains_key(&seat)
    }

    /// The daemon's process has come to its end by itself. Called from one of its tasks, which ends with it.
    pub fn daemon_exits(&self, process: &Process, why: &str) {
        let mut state = self.0.state.borrow_mut();
        if state.daemons.get(&process.seat).is_some_and(|d| d.writer == process.writer)
            && let Some(running) = state.daemons.remove(&process.seat)
        {
            drop(state);
            self.note(|| format!("daemon {} ends: {why}", running.writer.process));
            let host = self.clone();
            self.0.sim.call_at(Group::RUN, self.0.sim.now(), move || host.ended(running));
        }
    }

    fn ended(&self, running: Running) {
        self.0.sim.kill(running.group);
        self.0.checkers.process_gone(running.writer);
        running.port.hang_up();
    }

    /// The run is over: connections hold the daemon that holds them.
    pub fn hang_up(&self) {
        let daemons = std::mem::take(&mut self.0.state.borrow_mut().daemons);
        daemons.into_values().for_each(|running| running.port.hang_up());
    }

    /// The daemon stands still; its clients do not.
    pub fn freeze(&self, seat: Seat) {
        if let Some(running) = self.0.state.borrow_mut().daemons.get_mut(&seat) {
            running.frozen += 1;
            self.0.sim.freeze(running.group);
        }
        self.note(|| "FROZEN".into());
    }

    /// It goes on.
    pub fn thaw(&self, seat: Seat) {
        if let Some(running) = self.0.state.borrow_mut().daemons.get_mut(&seat)
            && running.frozen > 0
        {
            running.frozen -= 1;
            self.0.sim.thaw(running.group);
            self.0.checkers.process_goes_on(running.writer);
            self.note(|| "thawed".into());
        }
    }

    /// It goes on, or is killed as it stands.
    pub fn thaw_or_kill(&self, seat: Seat, killed: bool) {
        if killed { self.crash_daemon(seat, Fault::Crash) } else { self.thaw(seat) }
    }

    /// Whether a seat's daemon stands still.
    #[must_use]
    pub fn is_frozen(&self, seat: Seat) -> bool {
        self.0.state.borrow().daemons.get(&seat).is_some_and(|d| self.0.sim.is_frozen(d.group))
    }

    /// A pid that nobody had in this boot.
    #[must_use]
    pub fn next_pid(&self) -> i32 {
        let mut state = self.0.state.borrow_mut();
        state.last_pid += 1;
        state.last_pid
    }

    /// The number of a new open file description.
    #[must_use]
    pub fn next_description(&self) -> u64 {
        let mut state = self.0.state.borrow_mut();
        state.last_description += 1;
        // Unique over all hosts of the run: the disks know nothing of hosts' own numbers.
        state.last_description * 64 + self.0.index.0 as u64
    }

    // --- standing still ------------------------------------------------------------------------------------------

    /// The host stands still as a whole: nothing of it runs and no watchdog counts. `clock_too`: its clock stands still
    /// (paused by a hypervisor), or counts on (asleep).
    pub fn stand_still(&self, clock_too: bool) {
        let mut state = self.0.state.borrow_mut();
        if !state.up || state.still.is_some() {
            return;
        }
        state.still = Some((self.0.sim.now(), clock_too));
        state.stops += 1;
        if let Some(clock) = state.clock.as_ref().filter(|_| clock_too) {
            clock.stands_still();
        }
        state.daemons.values().for_each(|d| self.0.sim.freeze(d.group));
        self.0.guests.stand_still();
        state.watchdogs.values_mut().for_each(|dog| dog.moves += 1);
        drop(state);
        self.note(|| if clock_too { "PAUSED".into() } else { "ASLEEP".into() });
    }

    /// It goes on. Its daemons have their first turn before any other process of it (A7).
    pub fn go_on(&self) {
        let mut state = self.0.state.borrow_mut();
        let Some((since, clock_too)) = state.still.take() else { return };
        let still = Duration::from_nanos(self.0.sim.now() - since);
        if let Some(clock) = &state.clock {
            if clock_too { clock.stood_still(still) } else { clock.slept(still) }
        }
        state.daemons.values().for_each(|d| self.0.sim.thaw(d.group));
        let ports: Vec<Rc<Port>> = state.daemons.values().map(|d| Rc::clone(&d.port)).collect();
        let dogs: Vec<Seat> = state.watchdogs.iter().filter(|(_, d)| d.counting.is_some()).map(|(s, _)| *s).collect();
        for dog in state.watchdogs.values_mut() {
            dog.fires_at += nanos(still);
        }
        let stops = state.stops;
        drop(state);

        let stubborn = self.0.guests.are_stubborn() || self.0.guests.are_left_alone(&ports);
        let outlived = clock_too || stubborn || !self.daemons_run();
        self.0.checkers.stood_still(self.0.index, still, clock_too);
        if outlived {
            self.0.checkers.may_be_outlived(self.0.index, still);
        }
        dogs.into_iter().for_each(|seat| self.time_firing(seat));
        let host = self.clone();
        self.0.sim.call_after(Group::RUN, HEAD_START, move || {
            // Unless it stands still again: then they have never gone on.
            if host.0.state.borrow().stops != stops {
                return;
            }
            // A daemon that was stopped within its head start did not have it.
            if !outlived && !host.daemons_run() {
                host.0.checkers.may_be_outlived(host.0.index, still);
            }
            host.0.guests.go_on();
        });
        self.note(|| format!("goes on after {still:?}"));
    }

    /// Whether every seat's daemon runs, and can end its clients: one that has just been started has its predecessor's to
    /// find first.
    fn daemons_run(&self) -> bool {
        let state = self.0.state.borrow();
        let runs = |d: &Running| !self.0.sim.is_frozen(d.group) && !self.0.checkers.is_starting(d.writer);
        !state.daemons.is_empty() && state.daemons.values().all(runs)
    }

    /// Since when it stands still.
    #[must_use]
    pub fn still_since(&self) -> Option<Nanos> {
        self.0.state.borrow().still.map(|(since, _)| since)
    }

    // --- watchdogs -----------------------------------------------------------------------------------------------

    /// How a seat's watchdog is made: it counts in steps of so many seconds, or, broken, never fires.
    pub fn make_watchdog(&self, seat: Seat, steps: u32, broken: bool) {
        self.0.state.borrow_mut().watchdogs.insert(seat, Dog { steps, broken, ..Dog::default() });
    }

    /// Watchdogs fire anywhere in the second in which they may.
    pub fn fire_at_any_time(&self) {
        self.0.punctual.set(false);
    }

    /// Daemons here do their I/O through rings: a process that is killed is gone at once, and its writes land later.
    pub fn uses_rings(&self) {
        self.0.rings.set(true);
    }

    /// Opens a seat's watchdog, which pets it and makes it count. `false`: another process has it open.
    #[must_use]
    pub fn open_watchdog(&self, process: &Process) -> bool {
        let mut state = self.0.state.borrow_mut();
        let dog = state.watchdogs.entry(process.seat).or_default();
        if dog.open_by.is_some() {
            return false;
        }
        dog.open_by = Some(process.writer.process);
        // What it was set to last, or what such devices begin with.
        dog.counting.get_or_insert(Duration::from_secs(60));
        drop(state);
        self.0.checkers.watchdog_opened(process.writer);
        self.pet(process.seat);
        true
    }

    /// Sets the timeout of a device that `process` has open; what it counts from now on, beginning anew.
    #[must_use]
    pub fn set_watchdog(&self, seat: Seat, seconds: u32) -> u32 {
        let set = {
            let mut state = self.0.state.borrow_mut();
            let dog = state.watchdogs.entry(seat).or_default();
            let set = seconds.next_multiple_of(dog.steps.max(1));
            dog.counting = Some(Duration::from_secs(u64::from(set)));
            set
        };
        self.pet(seat);
        set
    }

    /// Stops a device and closes it.
    pub fn stop_watchdog(&self, process: &Process) {
        let mut state = self.0.state.borrow_mut();
        let dog = state.watchdogs.entry(process.seat).or_default();
        (dog.counting, dog.open_by) = (None, None);
        dog.moves += 1;
        drop(state);
        self.0.checkers.watchdog_stopped(process.writer);
    }

    /// The process that has a device open is gone. The kernel closes the descriptor with its last thread, which waits for
    /// its I/O; closing pets.
    pub fn close_watchdog(&self, process: &Process) {
        self.0.checkers.watchdog_stopped(process.writer);
        self.close_when_over(process.seat, process.writer);
    }

    fn close_when_over(&self, seat: Seat, writer: Writer) {
        let host = self.clone();
        let in_flight = |d: &SimDisk| !d.in_flight(|io| io.writer == writer).is_empty();
        if !self.0.rings.get() && self.0.disks.iter().any(in_flight) {
            let again = move || host.close_when_over(seat, writer);
            return self.0.sim.call_after(Group::RUN, Duration::from_millis(50), again);
        }
        let mut state = self.0.state.borrow_mut();
        let Some(dog) = state.watchdogs.get_mut(&seat).filter(|d| d.open_by == Some(writer.process)) else { return };
        dog.open_by = None;
        drop(state);
        self.0.checkers.watchdog_closed(writer);
        self.pet(seat);
    }

    /// Whether the process before has a seat's watchdog open still.
    #[must_use]
    pub fn watchdog_is_open(&self, seat: Seat) -> bool {
        self.0.state.borrow().watchdogs.get(&seat).is_some_and(|d| d.open_by.is_some())
    }

    /// Begins a device's count anew, if it counts.
    pub fn pet(&self, seat: Seat) {
        let mut state = self.0.state.borrow_mut();
        // While the host stands still it does not count: all of that comes on top when the host goes on.
        let (still, now) = (state.still.is_some(), state.still.map_or(self.0.sim.now(), |(since, _)| since));
        let Some(clock) = state.clock.clone() else { return };
        let Some(dog) = state.watchdogs.get_mut(&seat) else { return };
        let Some(timeout) = dog.counting else { return };
        let lag =
            if self.0.punctual.get() { WATCHDOG_LAG } else { self.within(Duration::from_millis(1), WATCHDOG_LAG) };
        dog.fires_at = now + nanos(clock.rate().true_wait(timeout) + lag);
        dog.moves += 1;
        drop(state);
        if !still {
            self.time_firing(seat);
        }
    }

    fn time_firing(&self, seat: Seat) {
        let mut state = self.0.state.borrow_mut();
        let Some(dog) = state.watchdogs.get_mut(&seat) else { return };
        dog.moves += 1;
        let (moves, at, host) = (dog.moves, dog.fires_at, self.clone());
        drop(state);
        self.0.sim.call_at(Group::RUN, at, move || host.fire(seat, moves));
    }

    fn fire(&self, seat: Seat, moves: u64) {
        let state = self.0.state.borrow();
        let dog = state.watchdogs.get(&seat);
        if dog.is_none_or(|d| d.moves != moves || d.counting.is_none() || d.broken) {
            return;
        }
        drop(state);
        self.note(|| "WATCHDOG FIRES".into());
        self.0.checkers.strikes(self.0.index, Fault::Fired);
        self.0.checkers.count(|c| c.resets += 1);
        self.reset();
    }

    // --- run directories -----------------------------------------------------------------------------------------

    /// The state file of a seat.
    #[must_use]
    pub fn state_file(&self, seat: Seat) -> Option<StateFile> {
        self.0.state.borrow().run_dirs.get(&seat).cloned()
    }

    /// Replaces it.
    pub fn write_state_file(&self, seat: Seat, state: &StateFile) {
        self.0.state.borrow_mut().run_dirs.insert(seat, state.clone());
    }

    /// Somebody removes it.
    pub fn lose_state_file(&self, seat: Seat) {
        self.0.state.borrow_mut().run_dirs.remove(&seat);
    }

    /// What the clock says now.
    #[must_use]
    pub fn now(&self) -> Option<holdfast_io::clock::LocalInstant> {
        self.clock().map(|c| c.now())
    }
}
