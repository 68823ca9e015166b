//! What must hold at every landed write and at every instant, whatever the hosts and the disks do.
//!
//! The checkers see the medium, processes and watchdogs, and nothing of the program's state: they decode sectors with a
//! reader of their own (spec D 2.2, 2.4, 2.5), so that a codec's mistake is not made twice.
//!
//! | file | rules |
//! | --- | --- |
//! | this one | **S1**: no two hosts hold one exclusive lease at one instant, from when a client may write until it has stopped, or is gone with all that it wrote; the timeline of a violation |
//! | `disk_rules.rs` | **I1** to **I6**; a leader is freed by its owner alone; a record is what the format says; bytes outside the areas stay as they are |
//! | `excuses.rs` | what is not demanded of real sanlock |
//! | `outlived.rs` | **A7**: what is excused where a host stood still as a whole |
//! | `time_rules.rs` | **D1** silence seen by the taker, **D2** no write past its instant, **D3** under the watchdog, and over in time, **W1** a late pet ends the host, **P1** a generation rises over nothing that lives |
//!
//! Where every host keeps our rules and has one daemon, every step of the run must also be one that the written
//! specification permits ([`crate::spec`]): rule **spec**.
//!
//! The first violation ends the run. Its timeline is told by a second run of the same seed: nobody pays for it before.
//!
//! **A7.** The leases of a host that stood still as a whole for longer than the margin of D1 may be outlived by its clients: no
//! lease protects against that (docs/safety.md). What of that is *excused*, and how long, is told in `outlived.rs`.

mod disk_rules;
mod excuses;
mod outlived;
mod sectors;
mod time_rules;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::{self, Write as _};
use std::rc::{Rc, Weak};
use std::time::Duration;

use holdfast_io::disk::Op;
use holdfast_io::ids::{HostId, HostTerm};
use holdfast_io::units::{Geometry, LeaseOffset};

use crate::coverage::{Coverage, Fault, Phase};
use crate::disk::{Facts, HostIndex, Witness, Writer};
use crate::executor::{Nanos, Sim, SimClock};
use crate::spec::accept::{Acceptor, Rejection};

/// How many rows of the past a violation shows.
const ROWS: usize = 200;
/// Width of one host's column.
const COLUMN: usize = 44;
/// A whole host that stood still for longer than this may have used up D1's margin of one tick.
const A7_MARGIN: Duration = Duration::from_millis(400);

/// A lease area that is watched: on which disk, where, of which shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Area {
    /// A lockspace.
    Delta(usize, LeaseOffset, Geometry),
    /// A resource.
    Paxos(usize, LeaseOffset, Geometry),
}

impl Area {
    const fn place(self) -> (usize, LeaseOffset, Geometry) {
        match self {
            Area::Delta(disk, at, geometry) | Area::Paxos(disk, at, geometry) => (disk, at, geometry),
        }
    }

    /// Whether bytes of a disk are bytes of it.
    fn meets(self, disk: usize, from: u64, to: u64) -> bool {
        let (own, LeaseOffset(start), geometry) = self.place();
        own == disk && start < to && from < start + geometry.area_len() as u64
    }

    fn sector_len(self) -> usize {
        let (_, _, geometry) = self.place();
        geometry.sector().bytes()
    }

    /// The sector of the area in which byte `at` of a disk lies.
    fn sector_of(self, disk: usize, at: u64) -> Option<u64> {
        let (own, LeaseOffset(start), geometry) = self.place();
        let sector = at.checked_sub(start)? / geometry.sector().bytes() as u64;
        (own == disk && sector < u64::from(geometry.sectors())).then_some(sector)
    }
}

impl State {
    /// The lease of which an area is a copy: its first.
    fn lease_of(&self, area: Area) -> Area {
        self.copy_of.get(&area).copied().unwrap_or(area)
    }

    /// All copies of the lease of which an area is one.
    fn copies_of(&self, area: Area) -> impl Iterator<Item = Area> {
        let first = self.lease_of(area);
        let others = self.copy_of.iter().filter(move |(_, of)| **of == first).map(|(copy, _)| *copy);
        std::iter::once(first).chain(others)
    }
}

/// A rule that was broken.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{rule} violated at {at:.6}s of seed {seed}, step {step}: {what}\n{timeline}")]
pub struct Violation {
    /// The seed of the run.
    pub seed: u64,
    /// Which rule: S1, I1 to I6, D1 to D3, W1, P1, or a name of its own.
    pub rule: &'static str,
    /// What happened.
    pub what: String,
    /// True time in seconds.
    pub at: f64,
    /// The step of the run.
    pub step: u64,
    /// What led to it, a column for each host.
    pub timeline: String,
}

/// One line of a run's story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// True time.
    pub at: Nanos,
    /// Whose column; `None`: all of them.
    pub host: Option<HostIndex>,
    /// What happened.
    pub what: String,
}

/// What S1 counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holder {
    host: HostIndex,
    term: HostTerm,
    area: Area,
    /// What it was granted, by its host's own sector.
    lver: u64,
    since: Nanos,
    shared: bool,
    /// Its host stands still: it does not write (A7).
    still: bool,
}

/// The checkers of one run.
pub struct Checkers {
    sim: Sim,
    /// Whether the story is told.
    telling: Cell<bool>,
    state: RefCell<State>,
    coverage: RefCell<Coverage>,
    spec: RefCell<Option<Acceptor>>,
    itself: RefCell<Weak<Checkers>>,
}

#[derive(Default)]
struct State {
    areas: Vec<Area>,
    /// Further copies of a lease: of which.
    copy_of: BTreeMap<Area, Area>,
    hosts: Vec<String>,
    holders: BTreeMap<u64, Holder>,
    last_holder: u64,
    /// Terms of real sanlock's.
    excused: BTreeSet<HostTerm>,
    outlived: outlived::State,
    /// Hosts that stand still as a whole.
    still: BTreeSet<HostIndex>,
    disk: disk_rules::State,
    time: time_rules::State,
    phases: BTreeMap<(HostIndex, u32), Phase>,
    progress: Progress,
    excuses: excuses::Excuses,
    unspoken: &'static [&'static str],
    rows: VecDeque<Row>,
    counts: Counts,
    violation: Option<Box<Violation>>,
}

/// What has succeeded since somebody asked for it last.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Which leases were had.
    pub held: BTreeSet<Area>,
    /// Which daemons were joined.
    pub joined: BTreeSet<(HostIndex, HostId)>,
}

/// What a run did: a run in which nothing happens proves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Times that a client held a lease.
    pub holds: u64,
    /// Ballots begun over an owner that had not given its lease back.
    pub takeovers: u64,
    /// Sectors that landed.
    pub landed: u64,
    /// Of those, 1 s or more after their write began.
    pub landed_late: u64,
    /// Hosts reset by their watchdog.
    pub resets: u64,
    /// Processes that crashed.
    pub crashes: u64,
    /// Generations that began.
    pub joins: u64,
    /// Joins that D2 ended.
    pub lost: u64,
    /// Times that one of the rules excused by A7 would have been broken but for A7.
    pub excused: u64,
    /// Runs that the written specification permits from their beginning to their end.
    pub followed: u64,
    /// Ballots over a damaged sector.
    pub spent: u64,
    /// Damaged sectors of hosts that were gone, made anew.
    pub made_anew: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, more: Counts) {
        self.holds += more.holds;
        self.takeovers += more.takeovers;
        self.landed += more.landed;
        self.landed_late += more.landed_late;
        self.resets += more.resets;
        self.crashes += more.crashes;
        self.joins += more.joins;
        self.lost += more.lost;
        self.excused += more.excused;
        self.followed += more.followed;
        self.spent += more.spent;
        self.made_anew += more.made_anew;
    }
}

impl Checkers {
    /// Checkers for one run. `telling`: they keep its story.
    #[must_use]
    pub fn new(sim: &Sim, telling: bool) -> Rc<Self> {
        let checkers = Rc::new(Checkers {
            sim: sim.clone(),
            telling: Cell::new(telling),
            state: RefCell::default(),
            coverage: RefCell::default(),
            spec: RefCell::default(),
            itself: RefCell::default(),
        });
        checkers.itself.replace(Rc::downgrade(&checkers));
        checkers
    }

    /// From now on this area is watched, and everything outside all watched areas must not be written.
    pub fn watch(&self, area: Area) {
        self.state.borrow_mut().areas.push(area);
    }

    /// The same of a lease that has copies on further disks.
    pub fn watch_copies(&self, first: Area, others: impl Iterator<Item = Area>) {
        self.watch(first);
        for other in others {
            self.watch(other);
            self.state.borrow_mut().copy_of.insert(other, first);
        }
    }

    /// From now on every step must be one that the written specification permits. The areas are as they were formatted.
    pub fn follow_spec(&self, hosts: &BTreeMap<HostIndex, HostId>) {
        self.spec.replace(Some(Acceptor::new(&self.state.borrow().areas, hosts)));
    }

    fn accept(&self, host: HostIndex, step: impl FnOnce(&mut Acceptor) -> Result<(), Rejection>) {
        let (rejected, expired) = match self.spec.borrow_mut().as_mut() {
            Some(spec) => (step(spec).err(), spec.take_expired()),
            None => return,
        };
        // What it has seen end may run on: it knows no hosts that stand still.
        let sleeps = expired.into_iter().any(|term| self.stood_still_as(term));
        if sleeps || rejected.as_ref().is_some_and(|rejection| self.is_of_a_sleeper(rejection)) {
            self.without_spec();
        } else if let Some(rejection) = rejected {
            self.violate("spec", Some(host), rejection.to_string());
        }
    }

    /// The heads of the timeline's columns.
    pub fn has_hosts(&self, titles: Vec<String>) {
        self.state.borrow_mut().hosts = titles;
    }

    /// What the run did so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.state.borrow().counts
    }

    /// Counts something.
    pub fn count(&self, what: impl FnOnce(&mut Counts)) {
        what(&mut self.state.borrow_mut().counts);
    }

    /// What a daemon is at.
    pub fn phase(&self, writer: Writer, phase: Phase) {
        let mut state = self.state.borrow_mut();
        state.phases.insert((writer.host, writer.process), phase);
        let joined = (Phase::Joined..=Phase::Releasing).contains(&phase);
        if joined {
            state.progress.joined.insert((writer.host, writer.host_id));
        }
    }

    /// What has succeeded since [`Checkers::forget_progress`].
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.state.borrow().progress.clone()
    }

    /// Whether a lease's record names a generation of a host_id that is later than the one that stands for that host_id, since a host
    /// whose host_id was taken has written over its successor's sector (A7, two hosts with one host_id): while it has the
    /// host_id nobody can see that later generation end.
    #[must_use]
    pub fn outlives_its_generation(&self, area: Area) -> bool {
        let state = self.state.borrow();
        let space = state.areas.iter().copied().find(|a| matches!(a, Area::Delta(..)));
        let stands = |slot| space.map(|space| state.disk.leader(space, slot)).filter(|delta| !delta.is_free());
        let mut records = state.copies_of(area).map(|copy| state.disk.leader(copy, 0)).filter(|l| !l.is_free());
        records.any(|l| {
            let later = stands(l.owner[0] - 1).is_some_and(|delta| delta.owner[1] < l.owner[1]);
            later && state.outlived.is_overwritten(l.owner[0])
        })
    }

    /// From here on it is looked for anew.
    pub fn forget_progress(&self) {
        self.state.borrow_mut().progress = Progress::default();
    }

    /// Whether a daemon has not begun its work yet.
    #[must_use]
    pub fn is_starting(&self, writer: Writer) -> bool {
        self.state.borrow().phases.get(&(writer.host, writer.process)) == Some(&Phase::Starting)
    }

    /// A fault strikes a host, in whatever phase its latest daemon is.
    pub fn strikes(&self, host: HostIndex, fault: Fault) {
        let phases = &self.state.borrow().phases;
        let latest = phases.range((host, 0)..=(host, u32::MAX)).next_back().map_or(Phase::Down, |(_, phase)| *phase);
        self.coverage.borrow_mut().add(fault, latest);
    }

    /// Which fault struck in which phase.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        self.coverage.borrow().clone()
    }

    /// A line for the timeline, made only if it is told.
    pub fn note(&self, host: Option<HostIndex>, text: impl FnOnce() -> String) {
        if self.telling.get() {
            let mut state = self.state.borrow_mut();
            state.rows.push_back(Row { at: self.sim.now(), host, what: text() });
        }
    }

    /// The story so far.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        self.state.borrow().rows.iter().cloned().collect()
    }

    /// The heads of its columns.
    #[must_use]
    pub fn columns(&self) -> Vec<String> {
        self.state.borrow().hosts.clone()
    }

    /// The latest part of the story, in columns.
    #[must_use]
    pub fn timeline(&self) -> String {
        timeline(&self.state.borrow())
    }

    /// The violation found, if any.
    #[must_use]
    pub fn violation(&self) -> Option<Box<Violation>> {
        self.state.borrow().violation.clone()
    }

    /// A rule is broken: the first one ends the run, unless `host` is excused from it.
    pub fn violate(&self, rule: &'static str, host: Option<HostIndex>, what: impl Into<String>) {
        let what = what.into();
        if self.is_excused(host, rule) {
            return self.note(host, || format!("(excused, {rule}: {what})"));
        }
        self.violate_unexcused(rule, host, what);
    }

    fn violate_unexcused(&self, rule: &'static str, host: Option<HostIndex>, what: String) {
        self.note(host, || format!("!! {rule}: {what}"));
        let mut state = self.state.borrow_mut();
        if state.violation.is_some() || state.unspoken.contains(&rule) {
            return;
        }
        let timeline = timeline(&state);
        let at = Duration::from_nanos(self.sim.now()).as_secs_f64();
        let (seed, step) = (self.sim.seed(), self.sim.steps());
        state.violation = Some(Box::new(Violation { seed, rule, what, at, step, timeline }));
        self.sim.halt();
    }

    /// As [`Checkers::violate`], unless it is excused (A7).
    fn violate_unless(&self, excused: bool, rule: &'static str, host: HostIndex, what: String) {
        if excused {
            self.note(Some(host), || format!("({rule} {what}: A7)"));
            self.count(|c| c.excused += 1);
        } else {
            self.violate(rule, Some(host), what);
        }
    }

    /// A client of `host`, granted under `term`, writes from now on under the exclusive lease of `area` (S1). The number
    /// ends it.
    #[must_use]
    pub fn holds(&self, host: HostIndex, term: HostTerm, area: Area) -> u64 {
        self.begins_to_hold(host, term, area, false)
    }

    fn begins_to_hold(&self, host: HostIndex, term: HostTerm, area: Area, shared: bool) -> u64 {
        let number = {
            let mut state = self.state.borrow_mut();
            state.counts.holds += 1;
            state.progress.held.insert(area);
            state.last_holder += 1;
            let number = state.last_holder;
            let copies = state.areas.iter().filter(|copy| state.lease_of(**copy) == area);
            let lver = copies.map(|copy| state.disk.dblock(*copy, term.host_id.get()).lver).max().unwrap_or(0);
            let since = self.sim.now();
            state.holders.insert(number, Holder { host, term, area, lver, since, shared, still: false });
            number
        };
        self.note(Some(host), || if shared { "CLIENT READS, shared" } else { "CLIENT WRITES" }.into());
        self.look_for_rivals(number);
        self.look_at_latecomer(term);
        // The specification knows no shared leases: for it their owner gives them back at once.
        if !shared {
            self.accept(host, |spec| spec.holds(host, area));
        }
        number
    }

    fn look_for_rivals(&self, number: u64) {
        let (one, rivals) = {
            let state = self.state.borrow();
            let Some(one) = state.holders.get(&number).copied().filter(|h| !h.still) else { return };
            // Two clients of one host, of one daemon even, are rivals like any.
            let rival = |h: &Holder| h.area == one.area && !h.still && !(h.shared && one.shared);
            let others = state.holders.iter().filter(|(other, holder)| **other != number && rival(holder));
            (one, others.map(|(_, other)| *other).collect::<Vec<Holder>>())
        };
        // Each of them: that one is excused says nothing of the next.
        for other in rivals {
            let since = Duration::from_nanos(other.since).as_secs_f64();
            let what = format!("a client of host {} still writes, since {since:.6}s", other.host.0);
            let excused = self.is_outlived(&one) || self.is_outlived(&other);
            self.violate_unless(excused, "S1", one.host, what);
        }
    }

    /// Of these rules nothing is said.
    pub fn leave_unspoken(&self, rules: &'static [&'static str]) {
        self.state.borrow_mut().unspoken = rules;
    }

    /// From here on runs are not held against the specification, which would speak before the other rules.
    pub fn without_spec(&self) {
        self.spec.replace(None);
    }

    /// Whether the run is still held against it.
    #[must_use]
    pub fn follows_spec(&self) -> bool {
        self.spec.borrow().is_some()
    }

    /// That client is over.
    pub fn holds_no_more(&self, number: u64) {
        let gone = self.state.borrow_mut().holders.remove(&number);
        if let Some(holder) = gone {
            self.note(Some(holder.host), || "client over".into());
            if !holder.shared {
                self.accept(holder.host, |spec| spec.ends(holder.host, holder.area));
            }
        }
    }

    /// The clients of a host stand still, or go on.
    pub fn holders_stand_still(&self, host: HostIndex, still: bool) {
        let numbers: Vec<u64> = {
            let mut state = self.state.borrow_mut();
            if still {
                state.still.insert(host);
            } else {
                state.still.remove(&host);
            }
            let mine = state.holders.iter_mut().filter(|(_, h)| h.host == host);
            mine.map(|(number, holder)| {
                holder.still = still;
                *number
            })
            .collect()
        };
        numbers.into_iter().for_each(|number| self.look_for_rivals(number));
    }

    /// Everything on this host is over.
    pub fn host_reset(&self, host: HostIndex) {
        let mut state = self.state.borrow_mut();
        state.holders.retain(|_, h| h.host != host);
        state.still.remove(&host);
        state.phases.range_mut((host, 0)..=(host, u32::MAX)).for_each(|(_, phase)| *phase = Phase::Down);
        state.time.host_reset(host);
        state.disk.host_reset(host);
        drop(state);
        self.accept(host, |spec| spec.reset(host));
    }

    /// A host stood still as a whole. `clock_too`: so did its clock.
    pub fn stood_still(&self, host: HostIndex, still: Duration, clock_too: bool) {
        if still > A7_MARGIN {
            self.peer_stood_still(host);
        }
        let mut state = self.state.borrow_mut();
        state.outlived.wakes(host, self.sim.now());
        if !clock_too && still > A7_MARGIN {
            state.time.watchdog_slept(host, still);
        }
        if clock_too || still > A7_MARGIN {
            for (term, renewal) in state.time.terms_on(host) {
                state.outlived.stands(term, renewal);
            }
        }
    }

    /// Its clients may go on before anybody ends them (A7): its clock does not say how long it stood still, or nobody can
    /// end them in the first moment.
    pub fn may_be_outlived(&self, host: HostIndex, still: Duration) {
        let mut state = self.state.borrow_mut();
        for (term, renewal) in state.time.stood_still(host, still, A7_MARGIN) {
            state.outlived.weakens(term, renewal);
        }
    }

    /// How many clients hold a lease on this host.
    #[must_use]
    pub fn held_by(&self, host: HostIndex) -> usize {
        self.state.borrow().holders.values().filter(|h| h.host == host).count()
    }

    fn area_of(&self, disk: usize, at: u64) -> Option<(Area, u64)> {
        let state = self.state.borrow();
        state.areas.iter().find_map(|a| a.sector_of(disk, at).map(|index| (*a, index)))
    }

    /// Which dblock of another host an I/O begins with.
    fn dblock_of_another(&self, io: &Facts) -> Option<(Area, u64)> {
        match self.area_of(io.disk, io.at) {
            Some((area @ Area::Paxos(..), index)) if index > 1 && index - 1 != io.writer.host_id.get() => {
                Some((area, index - 1))
            }
            _ => None,
        }
    }

    /// Which dblocks a read has shown to be damaged.
    fn reads_dblocks(&self, io: &Facts, damaged: &[u64]) {
        let areas = self.state.borrow().areas.clone();
        let Some(area) = areas.into_iter().find(|a| matches!(a, Area::Paxos(..)) && a.meets(io.disk, io.at, io.at + 1))
        else {
            return;
        };
        let Some((_, own)) = self.area_of(io.disk, io.at).filter(|_| io.len == area.sector_len()) else {
            let of = |at: &u64| self.area_of(io.disk, at - at % area.sector_len() as u64).map(|(_, index)| index);
            let hosts =
                damaged.iter().filter_map(of).filter_map(|index| index.checked_sub(1)).filter(|p| *p > 0).collect();
            return self.state.borrow_mut().disk.reads_dblocks(io.writer, area, false, hosts);
        };
        if own == io.writer.host_id.get() + 1 {
            let hosts = damaged.iter().map(|_| io.writer.host_id.get()).collect();
            self.state.borrow_mut().disk.reads_dblocks(io.writer, area, true, hosts);
        }
    }

    fn clock_of(&self, writer: Writer) -> Option<SimClock> {
        self.state.borrow().time.clock_of(writer)
    }
}

impl Witness for Checkers {
    fn begins(&self, io: &Facts, beside: Option<&Facts>) {
        if io.op == Op::Read {
            self.read_begins(io);
        } else if let Some(other) = beside {
            let (pid, id) = (other.writer.process, other.id);
            let what = format!("a write at {} begins beside write {id} of process {pid}, still in flight", io.at);
            self.violate("I6", Some(io.writer.host), what);
        }
    }

    fn writes(&self, io: &Facts, data: &[u8]) {
        self.check_times(io, data);
        self.note_spent(io, data);
        let foreign = self.dblock_of_another(io);
        let foreign = foreign.map(|(area, of)| (area, of, self.looks_at(io.writer, of - 1)));
        // What was lost is written anew, whatever the specification takes to be there.
        let anew =
            self.state.borrow_mut().disk.begins(io, foreign) || self.state.borrow().disk.has_lost_its_own(io.writer);
        if anew {
            self.without_spec();
        }
        self.accept(io.writer.host, |spec| spec.issued(io, data, self.sim.now()));
    }

    fn read(&self, io: &Facts, bytes: &[u8], damaged: &[u64]) {
        // A read past its deadline too: a caller that stood still takes it, and what it shows counts from its start.
        self.looked(io, bytes, damaged);
        self.read_in_vain(io, damaged.is_empty());
        self.reads_dblocks(io, damaged);
        if let Some((area, of)) = self.dblock_of_another(io).filter(|(area, _)| bytes.len() == area.sector_len()) {
            self.state.borrow_mut().disk.reads(io.writer, area, of, (bytes, damaged.is_empty()));
        }
    }

    fn landed(&self, io: &Facts, sector_at: u64, old: &[u8], new: &[u8]) {
        let late = self.sim.now() - io.began >= 1_000_000_000;
        self.count(|c| {
            c.landed += 1;
            c.landed_late += u64::from(late);
        });
        if late {
            self.note(Some(io.writer.host), || format!("(late: write {} lands)", io.id));
        }
        self.check_landed(io, sector_at, old, new);
        self.accept(io.writer.host, |spec| spec.landed(io, sector_at, old, new, self.sim.now()));
    }

    fn moved(&self, io: &Facts, at: u64, len: usize) {
        self.accept(io.writer.host, |spec| spec.read(io, at, len as u64));
    }

    fn fault(&self, host: HostIndex, fault: Fault) {
        self.strikes(host, fault);
    }

    fn over(&self, io: &Facts, how: &str) {
        self.state.borrow_mut().disk.over(io);
        if io.op == Op::Read && how != "done" {
            self.read_in_vain(io, false);
        }
        if io.op == Op::Write {
            self.accept(io.writer.host, |spec| spec.over(io));
            if how == "done" {
                self.acknowledged(io);
            } else {
                self.note(Some(io.writer.host), || format!("write {} at {} {how}", io.id, io.at));
            }
        }
    }
}

/// The latest rows, in columns.
fn timeline(state: &State) -> String {
    columns(&state.hosts, state.rows.iter().skip(state.rows.len().saturating_sub(ROWS)))
}

/// A column for each host, a row for each thing that happened.
pub fn columns<'a>(titles: &[String], rows: impl Iterator<Item = &'a Row>) -> String {
    let mut text = format!("{:>14} ", "seconds");
    for title in titles {
        let _ = write!(text, "| {title:COLUMN$}");
    }
    text.push('\n');
    for Row { at, host, what } in rows {
        let _ = write!(text, "{:>14.6} ", Duration::from_nanos(*at).as_secs_f64());
        match host {
            Some(HostIndex(column)) => {
                (0..*column).for_each(|_| text.push_str(&format!("| {:COLUMN$}", "")));
                let _ = writeln!(text, "| {what}");
            }
            None => {
                let _ = writeln!(text, "{}| {what}", "-".repeat(titles.len() * (COLUMN + 2)));
            }
        }
    }
    text
}

impl fmt::Debug for Checkers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checkers({:?})", self.counts())
    }
}
