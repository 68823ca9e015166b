//! A host: a clock with an offset and a drift, processes that crash, a watchdog that resets it.
//!
//! - **Clock**: runs up to 500 ppm fast or slow, begins anew at each boot, counts while the host is frozen.
//! - **Process**: the daemon. When it crashes its tasks are gone, its I/O in flight is not, nor are its clients.
//! - **Freeze**: nothing of the host runs, or nothing of the daemon alone; time passes, and the watchdog counts.
//! - **Watchdog**: armed with a timeout and petted. The last holder's end of its descriptor, by a crash, pets it once more.
//!   It fires at the last instant that is allowed: its timeout on the host's own clock, and almost a second (its tick) on
//!   top. Firing resets the host.
//! - **Reset**: every process is gone, every client, every I/O in flight on every disk. Then the host is down until
//!   [`SimHost::boot`].
//! - **Client**: a process that writes under an exclusive lease, as an interval of true time: it begins and ends where the
//!   daemon's code says so, or with the host. It outlives the daemon.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use holdfast_io::ids::HostId;

use crate::checkers::{Area, Checkers};
use crate::dice::nanos;
use crate::disk::{HostIndex, SimDisk, SimEngine, Writer};
use crate::executor::{ClockRate, Group, Sim, SimClock};

/// How far a watchdog's count may lag: almost one step of its counter of seconds.
const WATCHDOG_LAG: Duration = Duration::from_millis(999);

/// A host. Clones are the same one.
#[derive(Clone)]
pub struct SimHost(Rc<Inner>);

struct Inner {
    sim: Sim,
    checkers: Rc<Checkers>,
    disks: Vec<SimDisk>,
    index: HostIndex,
    host_id: HostId,
    ppm: i32,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    up: bool,
    boot: u32,
    process: u32,
    had_daemon: bool,
    rate: Option<ClockRate>,
    daemon: Option<Group>,
    /// The timeout while armed.
    watchdog: Option<Duration>,
    /// Counts pets: a firing that was timed before the latest is void.
    pets: u64,
    watchdog_broken: bool,
    clients: BTreeMap<u64, Area>,
    unkillable: BTreeSet<u64>,
    /// Whoever waits for the end of a client.
    waiting: Vec<Waker>,
}

/// The daemon's process, as its tasks need it.
#[derive(Clone)]
pub struct Process {
    /// What its tasks belong to.
    pub group: Group,
    /// Its name on the disk.
    pub writer: Writer,
    /// Whether there was a daemon before it in this boot.
    pub has_predecessor: bool,
    /// The host's clock in this boot.
    pub clock: SimClock,
}

impl Process {
    /// A disk as this process reaches it.
    #[must_use]
    pub fn engine(&self, disk: &SimDisk) -> SimEngine {
        disk.engine(self.writer, self.group, self.clock.clone())
    }
}

impl SimHost {
    /// A host that is down. Its clock gains `ppm` on true time.
    #[must_use]
    pub fn new(
        sim: &Sim,
        checkers: &Rc<Checkers>,
        disks: &[SimDisk],
        index: HostIndex,
        host_id: HostId,
        ppm: i32,
    ) -> Self {
        checkers.is_host_id(index, host_id);
        SimHost(Rc::new(Inner {
            sim: sim.clone(),
            checkers: Rc::clone(checkers),
            disks: disks.to_vec(),
            index,
            host_id,
            ppm,
            state: RefCell::default(),
        }))
    }

    /// Which one of the run.
    #[must_use]
    pub fn index(&self) -> HostIndex {
        self.0.index
    }

    /// Its host_id.
    #[must_use]
    pub fn host_id(&self) -> HostId {
        self.0.host_id
    }

    /// A line in its column of the timeline.
    pub fn note(&self, text: impl Into<String>) {
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

    /// Whether a daemon runs on it.
    #[must_use]
    pub fn has_daemon(&self) -> bool {
        self.0.state.borrow().daemon.is_some()
    }

    /// Comes up, with a clock that says `uptime`.
    pub fn boot(&self, uptime: Duration) {
        let mut state = self.0.state.borrow_mut();
        assert!(!state.up, "a host that is up does not boot");
        state.up = true;
        state.boot += 1;
        state.had_daemon = false;
        state.rate = Some(ClockRate { true_at: self.0.sim.now(), host_at: nanos(uptime), ppm: self.0.ppm });
        let text = format!("boot {}", state.boot);
        drop(state);
        self.note(text);
    }

    /// Starts the daemon's process; `None` while the host is down or has one.
    #[must_use]
    pub fn start_daemon(&self) -> Option<Process> {
        let mut state = self.0.state.borrow_mut();
        let rate = state.rate.filter(|_| state.up && state.daemon.is_none())?;
        state.process += 1;
        let has_predecessor = std::mem::replace(&mut state.had_daemon, true);
        let group = self.0.sim.new_group();
        state.daemon = Some(group);
        let writer = Writer { host: self.0.index, boot: state.boot, process: state.process };
        drop(state);
        self.note(format!("daemon {} starts", writer.process));
        Some(Process { group, writer, has_predecessor, clock: SimClock::new(&self.0.sim, rate) })
    }

    /// The daemon is gone at whatever it was doing. Its I/O in flight and its clients are not, and the closing of its
    /// watchdog descriptor pets the device.
    pub fn crash_daemon(&self) {
        let Some(group) = self.0.state.borrow_mut().daemon.take() else { return };
        self.note("daemon CRASHES");
        self.0.checkers.count(|c| c.crashes += 1);
        self.0.sim.kill(group);
        self.pet();
    }

    /// The daemon stands still; its clients do not.
    pub fn freeze(&self) {
        let group = self.0.state.borrow().daemon;
        if let Some(group) = group {
            self.note("FROZEN");
            self.0.sim.freeze(group);
        }
    }

    /// It goes on.
    pub fn thaw(&self) {
        let group = self.0.state.borrow().daemon;
        if let Some(group) = group {
            self.note("thawed");
            self.0.sim.thaw(group);
        }
    }

    /// Power off: nothing of this host writes any more.
    pub fn reset(&self) {
        let group = {
            let mut state = self.0.state.borrow_mut();
            if !state.up {
                return;
            }
            state.up = false;
            state.watchdog = None;
            state.pets += 1;
            state.rate = None;
            state.clients.clear();
            state.daemon.take()
        };
        self.note("RESET");
        if let Some(group) = group {
            self.0.sim.kill(group);
        }
        self.0.disks.iter().for_each(|disk| disk.host_reset(self.0.index));
        self.0.checkers.host_reset(self.0.index);
    }

    /// The watchdog no longer fires, whatever it is told: a broken rule, for runs that must fail.
    pub fn break_watchdog(&self) {
        self.0.state.borrow_mut().watchdog_broken = true;
    }

    /// Arms the watchdog, or changes its timeout; pets it.
    pub fn arm(&self, timeout: Duration) {
        self.0.state.borrow_mut().watchdog = Some(timeout);
        self.pet();
    }

    /// Whether it is armed.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.0.state.borrow().watchdog.is_some()
    }

    /// Switches it off.
    pub fn disarm(&self) {
        let mut state = self.0.state.borrow_mut();
        state.watchdog = None;
        state.pets += 1;
    }

    /// Begins its count anew, if it is armed.
    pub fn pet(&self) {
        let mut state = self.0.state.borrow_mut();
        let (Some(timeout), Some(rate)) = (state.watchdog, state.rate) else { return };
        state.pets += 1;
        let pets = state.pets;
        drop(state);
        let host = self.clone();
        self.0.sim.call_after(Group::RUN, rate.true_wait(timeout) + WATCHDOG_LAG, move || host.fire(pets));
    }

    fn fire(&self, pets: u64) {
        let state = self.0.state.borrow();
        if state.pets != pets || state.watchdog.is_none() || state.watchdog_broken {
            return;
        }
        drop(state);
        self.note("WATCHDOG FIRES");
        self.0.checkers.count(|c| c.resets += 1);
        self.reset();
    }

    /// A client of this host may write under the exclusive lease of `area` from now on.
    #[must_use]
    pub fn client_begins(&self, area: Area) -> u64 {
        let number = self.0.checkers.holds(self.0.index, area);
        self.0.state.borrow_mut().clients.insert(number, area);
        number
    }

    /// That client is over: it ended, or was seen gone.
    pub fn client_over(&self, number: u64) {
        let mut state = self.0.state.borrow_mut();
        let ran = state.clients.remove(&number).is_some();
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
        if ran {
            self.0.checkers.holds_no_more(number);
        }
    }

    /// Resolves once that client is over.
    pub async fn client_gone(&self, number: u64) {
        std::future::poll_fn(|cx| {
            let mut state = self.0.state.borrow_mut();
            if !state.clients.contains_key(&number) {
                return Poll::Ready(());
            }
            state.waiting.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Nothing but a reset ends this client.
    pub fn set_unkillable(&self, number: u64) {
        self.0.state.borrow_mut().unkillable.insert(number);
    }

    /// Whether it is such a client.
    #[must_use]
    pub fn is_unkillable(&self, number: u64) -> bool {
        self.0.state.borrow().unkillable.contains(&number)
    }

    /// The clients that run.
    #[must_use]
    pub fn clients(&self) -> Vec<u64> {
        self.0.state.borrow().clients.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::Ended;

    const S: u64 = 1_000_000_000;

    fn host(sim: &Sim) -> SimHost {
        let checkers = Checkers::new(sim);
        let host = SimHost::new(sim, &checkers, &[], HostIndex(0), HostId::new(1).unwrap(), -500);
        host.boot(Duration::from_secs(100));
        host
    }

    #[test]
    fn an_unpetted_watchdog_resets_its_host_at_the_last_allowed_instant() {
        let sim = Sim::new(1);
        let host = host(&sim);
        host.arm(Duration::from_secs(30));
        sim.run_until(30 * S + 900_000_000);
        assert!(host.is_up());
        sim.run_until(31 * S + 100_000_000);
        assert!(!host.is_up());
    }

    #[test]
    fn a_crash_pets_the_watchdog_once_more() {
        let sim = Sim::new(1);
        let host = host(&sim);
        assert!(host.start_daemon().is_some());
        host.arm(Duration::from_secs(30));
        sim.run_until(29 * S);
        host.crash_daemon();
        sim.run_until(59 * S);
        assert!(host.is_up());
        assert_eq!(sim.run_until(61 * S), Ended::Idle);
        assert!(!host.is_up());
    }

    #[test]
    fn a_petted_or_disarmed_watchdog_does_not_fire() {
        let sim = Sim::new(1);
        let host = host(&sim);
        host.arm(Duration::from_secs(30));
        sim.run_until(29 * S);
        host.pet();
        sim.run_until(58 * S);
        host.disarm();
        sim.run_until(600 * S);
        assert!(host.is_up());
    }
}
