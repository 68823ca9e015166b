//! A single-threaded executor with virtual time, in which a seed decides every choice.
//!
//! Tasks are boxed local futures. Whenever several things could happen at one virtual instant - tasks that are awake,
//! completions and timers that are due - the seed picks the next one. When nothing can happen, time jumps to the next
//! timer. One seed is one run, bit for bit: there is no other source of chance, no thread, no real clock.
//!
//! A *group* is what lives and dies together, a process: its tasks and its timed actions run only while it is neither
//! frozen nor dead. Freezing loses nothing (what fell due waits for the thaw); killing drops all of it.
//!
//! Time is true time, in nanoseconds from the beginning of the run. Hosts see it through a [`SimClock`], which has an
//! offset and a drift of its own, and whose sleeps end late by a little, as real ones do.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use holdfast_io::clock::{Clock, LocalInstant};
use holdfast_io::planted::{Bug, planted};

use crate::dice::{Dice, Stream, nanos};

/// True time: nanoseconds since the run began.
pub type Nanos = u64;

/// Steps at one virtual instant after which something is taken to spin.
const SPIN: u32 = 200_000;

/// A process: tasks and timed actions that freeze and die together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(u32);

impl Group {
    /// What belongs to the run itself: it is never frozen and never dies.
    pub const RUN: Group = Group(0);
}

/// Why a run came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The instant asked for was reached.
    TimeUp,
    /// [`Sim::halt`] was called.
    Halted,
    /// Every task has ended.
    Idle,
    /// Nothing can ever happen again; the tasks that wait.
    Deadlock(Vec<String>),
    /// Something runs and runs without any time passing.
    Spinning(String),
}

/// The executor. Clones are the same one.
#[derive(Clone)]
pub struct Sim(Rc<Inner>);

struct Inner {
    seed: u64,
    now: Cell<Nanos>,
    halted: Cell<bool>,
    last_id: Cell<u64>,
    steps: Cell<u64>,
    dice: RefCell<Dice>,
    tasks: RefCell<BTreeMap<u64, Task>>,
    awake: Arc<Awake>,
    timers: RefCell<BTreeMap<(Nanos, u64), Timer>>,
    due: RefCell<Vec<Timer>>,
    groups: RefCell<BTreeMap<Group, Life>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    /// So many reasons keep it from running.
    Frozen(u32),
    Dead,
}

impl Life {
    const RUNNING: Life = Life::Frozen(0);
}

struct Task {
    group: Group,
    label: String,
    /// Out while it is polled.
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

struct Timer {
    group: Group,
    action: Action,
}

enum Action {
    Wake(Waker),
    Call(Box<dyn FnOnce()>),
}

/// Which tasks are awake. The only part that a waker reaches.
#[derive(Default)]
struct Awake(Mutex<BTreeSet<u64>>);

impl Awake {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct TaskWaker {
    id: u64,
    awake: Arc<Awake>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.awake.lock().insert(self.id);
    }
}

/// One thing that can happen now.
enum Next {
    Task(u64),
    Due(usize),
}

impl Sim {
    /// A run of seed `seed`, at instant 0.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Sim(Rc::new(Inner {
            seed,
            now: Cell::new(0),
            halted: Cell::new(false),
            last_id: Cell::new(0),
            steps: Cell::new(0),
            dice: RefCell::new(Dice::new(seed, Stream::Schedule)),
            tasks: RefCell::default(),
            awake: Arc::default(),
            timers: RefCell::default(),
            due: RefCell::default(),
            groups: RefCell::new(BTreeMap::from([(Group::RUN, Life::RUNNING)])),
        }))
    }

    /// The seed of this run.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// True time.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.0.now.get()
    }

    /// How many steps were taken so far: equal for equal seeds.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.0.steps.get()
    }

    /// Ends the run after the step under way.
    pub fn halt(&self) {
        self.0.halted.set(true);
    }

    fn next_id(&self) -> u64 {
        self.0.last_id.set(self.0.last_id.get() + 1);
        self.0.last_id.get()
    }

    /// A new process.
    #[must_use]
    pub fn new_group(&self) -> Group {
        let group = Group(u32::try_from(self.0.groups.borrow().len()).unwrap_or(u32::MAX));
        self.0.groups.borrow_mut().insert(group, Life::RUNNING);
        group
    }

    /// Nothing of this process runs until it is thawed as often as it was frozen.
    pub fn freeze(&self, group: Group) {
        if let Some(Life::Frozen(reasons)) = self.0.groups.borrow_mut().get_mut(&group) {
            *reasons += 1;
        }
    }

    /// One reason less for the process not to run.
    pub fn thaw(&self, group: Group) {
        if let Some(Life::Frozen(reasons)) = self.0.groups.borrow_mut().get_mut(&group) {
            *reasons = reasons.saturating_sub(1);
        }
    }

    /// Whether it is frozen.
    #[must_use]
    pub fn is_frozen(&self, group: Group) -> bool {
        matches!(self.life(group), Life::Frozen(1..))
    }

    /// The process is gone: what it was doing is dropped where it stood.
    pub fn kill(&self, group: Group) {
        self.0.groups.borrow_mut().insert(group, Life::Dead);
        // Futures are dropped last, with nothing borrowed: they take their timers away.
        let mut gone = Vec::new();
        {
            let mut tasks = self.0.tasks.borrow_mut();
            let ids: Vec<u64> = tasks.iter().filter(|(_, t)| t.group == group).map(|(id, _)| *id).collect();
            gone.extend(ids.into_iter().filter_map(|id| tasks.remove(&id)));
        }
        let timers = std::mem::take(&mut *self.0.timers.borrow_mut());
        let due = std::mem::take(&mut *self.0.due.borrow_mut());
        let (dead, kept): (Vec<_>, Vec<_>) = timers.into_iter().partition(|(_, t)| t.group == group);
        let (dead_due, kept_due): (Vec<_>, Vec<_>) = due.into_iter().partition(|t| t.group == group);
        self.0.timers.borrow_mut().extend(kept);
        self.0.due.borrow_mut().extend(kept_due);
        drop((gone, dead, dead_due));
    }

    fn life(&self, group: Group) -> Life {
        self.0.groups.borrow().get(&group).copied().unwrap_or(Life::Dead)
    }

    /// Drops whatever has not ended. Tasks hold the run that holds them, so a run has to be taken apart.
    pub fn clear(&self) {
        let groups: Vec<Group> = self.0.groups.borrow().keys().copied().collect();
        groups.into_iter().for_each(|group| self.kill(group));
    }

    fn runs(&self, group: Group) -> bool {
        self.life(group) == Life::RUNNING
    }

    /// Starts a task; nothing happens if `group` is dead.
    pub fn spawn(&self, group: Group, label: impl Into<String>, future: impl Future<Output = ()> + 'static) {
        if self.life(group) == Life::Dead {
            return;
        }
        let id = self.next_id();
        let task = Task { group, label: label.into(), future: Some(Box::pin(future)) };
        self.0.tasks.borrow_mut().insert(id, task);
        self.0.awake.lock().insert(id);
    }

    /// Does something at `at`, unless `group` is dead by then; if it is frozen, once it is thawed.
    pub fn call_at(&self, group: Group, at: Nanos, call: impl FnOnce() + 'static) {
        if self.life(group) == Life::Dead {
            return;
        }
        let key = (at.max(self.now()), self.next_id());
        let timer = Timer { group, action: Action::Call(Box::new(call)) };
        self.0.timers.borrow_mut().insert(key, timer);
    }

    /// Does something after `wait` of true time.
    pub fn call_after(&self, group: Group, wait: Duration, call: impl FnOnce() + 'static) {
        self.call_at(group, self.now().saturating_add(nanos(wait)), call);
    }

    /// Waits until true time `at`.
    pub fn sleep_until(&self, at: Nanos) -> SimSleep {
        SimSleep { sim: self.clone(), at, id: None }
    }

    /// Waits for `wait` of true time.
    pub fn sleep(&self, wait: Duration) -> SimSleep {
        self.sleep_until(self.now().saturating_add(nanos(wait)))
    }

    /// Runs until true time `end`, or until something ends the run before.
    pub fn run_until(&self, end: Nanos) -> Ended {
        let mut spin = 0;
        loop {
            if self.0.halted.get() {
                return Ended::Halted;
            }
            if let Some(next) = self.pick() {
                self.0.steps.set(self.steps() + 1);
                spin += 1;
                if let Some(label) = self.step(next).filter(|_| spin > SPIN) {
                    return Ended::Spinning(label);
                }
                continue;
            }
            spin = 0;
            let first = self.0.timers.borrow().first_key_value().map(|(key, _)| key.0);
            match first {
                None => {
                    self.0.now.set(end);
                    return self.nothing_left();
                }
                Some(at) if at > end => {
                    self.0.now.set(end);
                    return Ended::TimeUp;
                }
                Some(at) => self.advance(at),
            }
        }
    }

    /// Moves time to `at` and everything of that instant to what is due.
    fn advance(&self, at: Nanos) {
        self.0.now.set(at);
        let mut timers = self.0.timers.borrow_mut();
        let mut due = self.0.due.borrow_mut();
        while let Some(first) = timers.first_entry().filter(|e| e.key().0 <= at) {
            due.push(first.remove());
        }
    }

    /// Picks, by the seed, among all that can happen at this instant.
    fn pick(&self) -> Option<Next> {
        let mut can = Vec::new();
        {
            let awake = self.0.awake.lock();
            let tasks = self.0.tasks.borrow();
            can.extend(
                awake.iter().filter(|id| tasks.get(id).is_none_or(|t| self.runs(t.group))).map(|id| Next::Task(*id)),
            );
        }
        let due = self.0.due.borrow();
        can.extend(due.iter().enumerate().filter(|(_, t)| self.runs(t.group)).map(|(i, _)| Next::Due(i)));
        if can.is_empty() {
            return None;
        }
        let which = if can.len() == 1 { 0 } else { self.0.dice.borrow_mut().index(can.len()) };
        Some(can.swap_remove(which))
    }

    /// Does it; the label of the task that was polled, if any.
    fn step(&self, next: Next) -> Option<String> {
        match next {
            Next::Due(i) => {
                let timer = self.0.due.borrow_mut().swap_remove(i);
                match timer.action {
                    Action::Wake(waker) => waker.wake(),
                    Action::Call(call) => call(),
                }
                None
            }
            Next::Task(id) => {
                self.0.awake.lock().remove(&id);
                let mut future = self.0.tasks.borrow_mut().get_mut(&id)?.future.take()?;
                let waker = Waker::from(Arc::new(TaskWaker { id, awake: Arc::clone(&self.0.awake) }));
                let poll = future.as_mut().poll(&mut Context::from_waker(&waker));
                // Dropped at the end, with nothing borrowed.
                let mut over = Some(future);
                let mut label = None;
                if let Some(task) = self.0.tasks.borrow_mut().get_mut(&id) {
                    label = Some(task.label.clone());
                    if poll.is_pending() {
                        task.future = over.take();
                    }
                }
                if over.is_some() {
                    self.0.tasks.borrow_mut().remove(&id);
                }
                label
            }
        }
    }

    /// No task is awake and no timer is set. A frozen process may still be thawed; otherwise this is the end.
    fn nothing_left(&self) -> Ended {
        let waiting: Vec<String> = self.0.tasks.borrow().values().map(|t| t.label.clone()).collect();
        if self.0.groups.borrow().values().any(|life| matches!(life, Life::Frozen(1..))) {
            Ended::TimeUp
        } else if waiting.is_empty() {
            Ended::Idle
        } else {
            Ended::Deadlock(waiting)
        }
    }
}

/// A wait for an instant of true time.
pub struct SimSleep {
    sim: Sim,
    at: Nanos,
    id: Option<u64>,
}

impl Future for SimSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.sim.now() >= self.at {
            return Poll::Ready(());
        }
        if self.at == Nanos::MAX {
            return Poll::Pending;
        }
        let id = match self.id {
            Some(id) => id,
            None => self.sim.next_id(),
        };
        self.id = Some(id);
        let timer = Timer { group: Group::RUN, action: Action::Wake(cx.waker().clone()) };
        self.sim.0.timers.borrow_mut().insert((self.at, id), timer);
        Poll::Pending
    }
}

impl Drop for SimSleep {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.sim.0.timers.borrow_mut().remove(&(self.at, id));
        }
    }
}

/// One boot of a host as its clock sees it: when it began, what the clock said then, and how fast it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockRate {
    /// True time at which the clock said `host_at`.
    pub true_at: Nanos,
    /// What the clock said then, in nanoseconds since the host's boot.
    pub host_at: u64,
    /// Parts per million that it gains on true time; negative, it loses.
    pub ppm: i32,
}

const MILLION: i128 = 1_000_000;

impl ClockRate {
    /// What the clock says at true time `now`.
    #[must_use]
    pub fn local(self, now: Nanos) -> LocalInstant {
        let passed = i128::from(now) - i128::from(self.true_at);
        let local = i128::from(self.host_at) + passed * (MILLION + i128::from(self.ppm)) / MILLION;
        LocalInstant::from_nanos(u64::try_from(local).unwrap_or(0))
    }

    /// The first true instant at which the clock says `at` or later.
    #[must_use]
    pub fn true_time(self, at: LocalInstant) -> Nanos {
        if at == LocalInstant::NEVER {
            return Nanos::MAX;
        }
        let wanted = i128::from(at.as_nanos()) - i128::from(self.host_at);
        let rate = MILLION + i128::from(self.ppm);
        let guess = i128::from(self.true_at) + wanted * MILLION / rate;
        let mut now = u64::try_from(guess - 2).unwrap_or(0);
        while self.local(now) < at {
            now += 1;
        }
        now
    }

    /// How long `wait` of this clock takes in true time.
    #[must_use]
    pub fn true_wait(self, wait: Duration) -> Duration {
        let scaled = i128::from(nanos(wait)) * MILLION / (MILLION + i128::from(self.ppm));
        Duration::from_nanos(u64::try_from(scaled).unwrap_or(u64::MAX))
    }
}

/// A host's clock: what lease code waits on. Clones are the same one.
#[derive(Clone)]
pub struct SimClock {
    sim: Sim,
    dial: Rc<Dial>,
}

struct Dial {
    rate: Cell<ClockRate>,
    /// Since when it stands still.
    still: Cell<Option<Nanos>>,
    /// How long the host slept in this boot: a clock that counts through suspend counts it, another does not.
    suspended: Cell<Duration>,
}

impl SimClock {
    /// The clock of a host that runs at `rate`.
    #[must_use]
    pub fn new(sim: &Sim, rate: ClockRate) -> Self {
        SimClock {
            sim: sim.clone(),
            dial: Rc::new(Dial { rate: Cell::new(rate), still: Cell::default(), suspended: Cell::default() }),
        }
    }

    /// Offset and drift.
    #[must_use]
    pub fn rate(&self) -> ClockRate {
        self.dial.rate.get()
    }

    /// The clock stands still from now on: its host was stopped from outside.
    pub fn stands_still(&self) {
        self.dial.still.set(Some(self.sim.now()));
    }

    /// What the dial shows, whatever the host makes of it.
    #[must_use]
    pub fn dial(&self) -> LocalInstant {
        self.rate().local(self.dial.still.get().unwrap_or_else(|| self.sim.now()))
    }

    /// The clock stood still for `pause`, and goes on.
    pub fn stood_still(&self, pause: Duration) {
        self.dial.still.set(None);
        let rate = self.rate();
        self.dial.rate.set(ClockRate { true_at: rate.true_at + nanos(pause), ..rate });
    }

    /// The host slept for `sleep`, and this clock counted on.
    pub fn slept(&self, sleep: Duration) {
        self.dial.suspended.set(self.dial.suspended.get() + sleep);
    }
}

impl Clock for SimClock {
    fn now(&self) -> LocalInstant {
        let now = self.dial();
        if planted(Bug::ClockStopsInSuspend) { now.before(self.dial.suspended.get()) } else { now }
    }

    fn suspended(&self) -> Duration {
        self.dial.suspended.get()
    }

    /// Ends up to a millisecond late as a rule, now and then up to a fifth of a second: a busy host.
    async fn sleep_until(&self, at: LocalInstant) {
        let late = {
            let mut dice = self.sim.0.dice.borrow_mut();
            let most = if dice.chance(20) { 200 } else { 1 };
            nanos(dice.between(Duration::ZERO, Duration::from_millis(most)))
        };
        self.sim.sleep_until(self.rate().true_time(at).saturating_add(late)).await;
        // Never early: the clock may have stood still meanwhile.
        while self.now() < at {
            let short = at.since(self.now()).max(Duration::from_nanos(1));
            self.sim.sleep(self.rate().true_wait(short) + Duration::from_nanos(1)).await;
        }
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {} at {}.{:03}s", self.seed(), self.now() / 1_000_000_000, self.now() / 1_000_000 % 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;

    fn order_of(seed: u64) -> Vec<u32> {
        let sim = Sim::new(seed);
        let order = Rc::new(RefCell::new(Vec::new()));
        for n in 0..8 {
            let (inner, order) = (sim.clone(), Rc::clone(&order));
            sim.spawn(Group::RUN, "n", async move {
                for _ in 0..3 {
                    inner.sleep(Duration::from_millis(1)).await;
                    order.borrow_mut().push(n);
                }
            });
        }
        assert_eq!(sim.run_until(10 * MS), Ended::Idle);
        order.take()
    }

    #[test]
    fn one_seed_is_one_order_and_another_seed_another() {
        assert_eq!(order_of(1), order_of(1));
        assert_ne!(order_of(1), order_of(2));
    }

    #[test]
    fn a_task_that_nobody_will_wake_is_found() {
        let sim = Sim::new(1);
        sim.spawn(Group::RUN, "stuck", std::future::pending());
        assert_eq!(sim.run_until(MS), Ended::Deadlock(vec!["stuck".into()]));
    }

    #[test]
    fn a_task_that_spins_is_found() {
        let sim = Sim::new(1);
        sim.spawn(
            Group::RUN,
            "spinner",
            std::future::poll_fn(|cx| {
                cx.waker().wake_by_ref();
                Poll::Pending
            }),
        );
        assert_eq!(sim.run_until(MS), Ended::Spinning("spinner".into()));
    }

    #[test]
    fn a_frozen_process_loses_nothing_and_a_killed_one_everything() {
        let sim = Sim::new(1);
        let (frozen, killed) = (sim.new_group(), sim.new_group());
        let ran = Rc::new(RefCell::new(Vec::new()));
        for (group, name) in [(frozen, "frozen"), (killed, "killed")] {
            let (inner, by_task, by_timer) = (sim.clone(), Rc::clone(&ran), Rc::clone(&ran));
            sim.spawn(group, name, async move {
                inner.sleep(Duration::from_millis(1)).await;
                by_task.borrow_mut().push((name, inner.now()));
            });
            sim.call_at(group, MS, move || by_timer.borrow_mut().push((name, 0)));
        }
        sim.run_until(0);
        sim.freeze(frozen);
        let at_5 = sim.clone();
        sim.call_at(Group::RUN, 5 * MS, move || at_5.thaw(frozen));
        sim.kill(killed);
        sim.run_until(10 * MS);
        let mut ran = ran.take();
        ran.sort_unstable();
        assert_eq!(ran, [("frozen", 0), ("frozen", 5 * MS)]);
    }

    #[test]
    fn a_clock_with_drift_is_inverted_exactly() {
        for ppm in [-500, -1, 0, 1, 500] {
            let rate = ClockRate { true_at: 5_000, host_at: 1_000_000_007, ppm };
            for at in [1_000_000_007, 1_000_000_008, 77_000_000_123, 900_000_000_000_001] {
                let at = LocalInstant::from_nanos(at);
                let now = rate.true_time(at);
                assert!(rate.local(now) >= at && (now == 5_000 || rate.local(now - 1) < at), "{ppm} {at:?}");
            }
            assert_eq!(rate.true_time(LocalInstant::NEVER), Nanos::MAX);
        }
    }

    #[test]
    fn a_host_clock_never_wakes_a_sleeper_early() {
        let sim = Sim::new(3);
        let clock = SimClock::new(&sim, ClockRate { true_at: 0, host_at: 9, ppm: 500 });
        let done = Rc::new(Cell::new(0));
        let seen = Rc::clone(&done);
        sim.spawn(Group::RUN, "sleeper", async move {
            for _ in 0..100 {
                let until = clock.now().after(Duration::from_millis(3));
                clock.sleep_until(until).await;
                assert!(clock.now() >= until);
                seen.set(seen.get() + 1);
            }
        });
        sim.run_until(100_000 * MS);
        assert_eq!(done.get(), 100);
    }
}
