//! D1 to D3, W1 and P1: what hosts may do when, by what they have seen and written themselves.
//!
//! Everything is derived from the I/O and the watchdogs alone. A renewal counts from the instant that its own sector names
//! (seconds in the record, milliseconds in the seal), once it is over. What a host has seen
//! of another is what its reads brought, from their start to their end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast_io::bytes::u64_at;
use holdfast_io::clock::LocalInstant;
use holdfast_io::ids::{Generation, HostId, HostTerm};

use super::outlived::{Instant, Silence, Taken};
use super::sectors::{Dblock, Leader, passed_over};
use super::{Area, Checkers, Holder};
use crate::coverage::Phase;
use crate::dice::nanos;
use crate::disk::{Facts, HostIndex, Writer};
use crate::executor::{Group, Nanos, SimClock};

/// Bytes of a sector that say anything.
const RECORD: usize = 256;
/// In what time a watchdog fires that is told to fire at once: the shortest timeout of the coarsest device is 5 s, and its
/// tick comes on top.
const WITHIN: Duration = Duration::from_secs(7);
/// In what time a process acts upon what it has read.
const TO_ACT: Duration = Duration::from_secs(1);
/// Images of one sector that are told apart at one time.
const IMAGES: usize = 4;

#[derive(Default)]
pub(super) struct State {
    processes: BTreeMap<Writer, Process>,
    looks: BTreeMap<(Writer, u64), Vec<Look>>,
    /// When reads began, on their hosts' own clocks.
    began: BTreeMap<(usize, u64), LocalInstant>,
    /// Writes of delta sectors that are not acknowledged yet.
    pending: BTreeMap<(usize, u64), Pending>,
    /// Who has passed claims over, of which lease and under which version.
    passed: BTreeSet<(Writer, Area, u64)>,
}

struct Process {
    clock: SimClock,
    watchdog: bool,
    /// It has opened it, whatever became of it.
    opened: bool,
    /// When the kernel closed its watchdog, since it was gone.
    closed: Option<Nanos>,
    /// It has ended.
    gone: bool,
    /// Since when it runs without having been stopped.
    runs_since: Nanos,
    join: Option<Join>,
}

/// One term of a host_id, from its first write.
#[derive(Clone, Copy, Debug)]
struct Join {
    term: HostTerm,
    /// D2's instant.
    limit: LocalInstant,
    /// From there to D3's.
    fire: Duration,
    /// How long its watchdog has slept since the last good renewal that began after it, by a clock that did not, and when it woke.
    slept: (Duration, LocalInstant),
    /// How long it waits for an I/O.
    io_timeout: Duration,
    /// A lease was asked for under it. Before, nothing can be lost: a join that settled for longer than its own term lasts
    /// renews first.
    used: bool,
    freed: bool,
    /// When its latest renewal began.
    written: Instant,
    /// How long its host stood still as a whole since the last good renewal that began after it, and when it woke last.
    stood: (Duration, LocalInstant),
}

#[derive(Clone, Copy)]
struct Pending {
    sector: Leader,
    started: LocalInstant,
    term: HostTerm,
}

/// One image of a delta sector, as a process has seen it.
#[derive(Clone, Copy)]
pub(super) struct Look {
    image: u64,
    sector: Leader,
    /// The end of the first read that showed it.
    seen_at: LocalInstant,
    /// The start of the latest read that showed it.
    unchanged_at: LocalInstant,
    /// The end of the first and the start of the latest, in true time.
    first: Nanos,
    latest: Nanos,
}

impl Look {
    fn silence(&self) -> Duration {
        self.unchanged_at.since(self.seen_at)
    }

    /// It shows this generation, silent for so long: D1's time, or `least`.
    fn silent(&self, of: u64, least: Option<Duration>) -> Option<Silence> {
        let silent = self.sector.owner[1] == of && self.silence() >= least.unwrap_or_else(|| self.needed());
        silent.then(|| self.relied_on())
    }

    /// What whoever has seen it relies on.
    fn relied_on(&self) -> Silence {
        let fire = u64::from(self.sector.seal.map_or(60, |s| s.fire));
        Silence { renewal: instant_of(&self.sector), timeouts: (u64::from(self.sector.io_timeout), fire) }
    }

    /// Whether it shows this generation, or a later one, given back.
    fn is_left(&self, generation: u64) -> bool {
        self.sector.is_free() && self.sector.owner[1] >= generation
    }

    /// Whether nobody is at work under that host_id: silent for D1's time, held or free.
    pub(super) fn is_of_nobody(&self) -> bool {
        self.silence() >= self.needed()
    }

    /// D1, by the checkers' own arithmetic: 8x + fire + 1 s, on a clock fast by 500 ppm against one slow by as much.
    fn needed(&self) -> Duration {
        let fire = self.sector.seal.map_or(60, |s| s.fire);
        let seconds = u64::from(self.sector.io_timeout) * 8 + u64::from(fire) + 1;
        Duration::from_secs(seconds) * 1_000_500 / 999_500
    }
}

impl State {
    pub(super) fn clock_of(&self, writer: Writer) -> Option<SimClock> {
        self.processes.get(&writer).map(|p| p.clock.clone())
    }

    /// The terms of a host_id that processes have.
    pub(super) fn terms_of(&self, host_id: HostId) -> Vec<HostTerm> {
        self.processes.values().filter_map(|p| p.join).map(|j| j.term).filter(|t| t.host_id == host_id).collect()
    }

    /// The terms that processes of a host have, and their latest renewals.
    pub(super) fn terms_on(&self, host: HostIndex) -> Vec<(HostTerm, Instant)> {
        let its = self.processes.iter().filter(|(w, _)| w.host == host).filter_map(|(_, p)| p.join);
        its.filter(|j| !j.freed).map(|j| (j.term, j.written)).collect()
    }

    /// The hosts on which a process has, or had, this term.
    pub(super) fn hosts_of(&self, term: HostTerm) -> impl Iterator<Item = HostIndex> {
        let its = self.processes.iter().filter(move |(_, p)| p.join.is_some_and(|j| j.term == term));
        its.map(|(writer, _)| writer.host)
    }

    /// A host stood still, in one way or another as no lease can bear for long. The terms that it did so for longer than
    /// `margin`, in all, and their latest renewals.
    pub(super) fn stood_still(
        &mut self,
        host: HostIndex,
        still: Duration,
        margin: Duration,
    ) -> Vec<(HostTerm, Instant)> {
        let mut weak = Vec::new();
        for (_, process) in self.processes.iter_mut().filter(|(w, _)| w.host == host) {
            let now = process.clock.dial();
            if let Some(join) = process.join.as_mut().filter(|j| !j.freed) {
                join.stood = (join.stood.0 + still, now);
                weak.extend((join.stood.0 > margin).then_some((join.term, join.written)));
            }
        }
        weak
    }

    /// The latest term under which a process writes.
    pub(super) fn term_of(&self, writer: Writer) -> Option<HostTerm> {
        Some(self.processes.get(&writer)?.join?.term)
    }

    pub(super) fn host_reset(&mut self, host: HostIndex) {
        self.processes.retain(|w, _| w.host != host);
        self.looks.retain(|(w, _), _| w.host != host);
    }

    /// A watchdog that stood still fires that much later.
    pub(super) fn watchdog_slept(&mut self, host: HostIndex, still: Duration) {
        for (_, process) in self.processes.iter_mut().filter(|(w, _)| w.host == host) {
            let now = process.clock.dial();
            if let Some(join) = &mut process.join {
                join.slept = (join.slept.0 + still, now);
            }
        }
    }

    /// How long a process waits for an I/O.
    pub(super) fn io_timeout(&self, writer: Writer) -> Option<Duration> {
        Some(self.processes.get(&writer)?.join?.io_timeout)
    }
}

/// When a renewal began.
pub(super) fn instant_of(sector: &Leader) -> Instant {
    (sector.timestamp, u64::from(sector.seal.map_or(0, |s| s.millis)))
}

impl Checkers {
    /// A process starts that will write as `writer`, by this clock.
    pub fn process_starts(&self, writer: Writer, clock: SimClock) {
        let (closed, join, runs_since) = (None, None, self.sim.now());
        let process = Process { clock, watchdog: false, opened: false, closed, gone: false, runs_since, join };
        self.state.borrow_mut().time.processes.insert(writer, process);
    }

    /// A process is gone. What it promised on disk stands.
    pub fn process_gone(&self, writer: Writer) {
        let mut state = self.state.borrow_mut();
        // What it saw still counts for what it has in flight.
        if !state.disk.flights().any(|(_, w, _)| w == writer) {
            state.time.looks.retain(|(w, _), _| *w != writer);
        }
        if let Some(process) = state.time.processes.get_mut(&writer) {
            process.gone = true;
        }
        state.phases.insert((writer.host, writer.process), Phase::Down);
    }

    /// A process goes on that was stopped.
    pub fn process_goes_on(&self, writer: Writer) {
        if let Some(process) = self.state.borrow_mut().time.processes.get_mut(&writer) {
            process.runs_since = self.sim.now();
        }
    }

    /// A process has opened its watchdog, which pets it. D3: not over what a predecessor has left.
    pub fn watchdog_opened(&self, writer: Writer) {
        let left = {
            let mut state = self.state.borrow_mut();
            if let Some(process) = state.time.processes.get_mut(&writer) {
                (process.watchdog, process.opened) = (true, true);
            }
            let mut holders = state.holders.values();
            let own = state.time.processes.get(&writer).and_then(|p| p.join).map(|j| j.term);
            let left = |h: &&Holder| h.host == writer.host && h.term.host_id == writer.host_id && Some(h.term) != own;
            holders.any(|h| left(&h))
        };
        if left {
            self.violate("D3", Some(writer.host), "opens the watchdog over living clients of a predecessor");
        }
    }

    /// It has stopped and closed it, or is gone and its watchdog counts on.
    pub fn watchdog_stopped(&self, writer: Writer) {
        if let Some(process) = self.state.borrow_mut().time.processes.get_mut(&writer) {
            process.watchdog = false;
        }
    }

    /// It is gone, and the kernel closes its watchdog, which pets it.
    pub fn watchdog_closed(&self, writer: Writer) {
        if let Some(process) = self.state.borrow_mut().time.processes.get_mut(&writer) {
            process.closed = Some(self.sim.now());
        }
    }

    /// W1: a process pets. Past D2's instant, with something left that it guards, the host must be gone in a moment.
    pub fn petted(&self, writer: Writer) {
        let late = {
            let state = self.state.borrow();
            let Some(process) = state.time.processes.get(&writer) else { return };
            let past = |j: &Join| !j.freed && j.limit > LocalInstant::EARLIEST && process.clock.dial() >= j.limit;
            process.join.filter(past).map(|j| j.term)
        };
        if !late.is_some_and(|term| self.leaves_something(writer, term)) {
            return;
        }
        self.note(Some(writer.host), || "petted past D2's instant".into());
        let Some(checkers) = self.itself.borrow().upgrade() else { return };
        self.sim.call_after(Group::RUN, WITHIN, move || checkers.check_reset(writer));
    }

    fn check_reset(&self, writer: Writer) {
        let now = self.sim.now();
        let due = {
            let state = self.state.borrow();
            let Some(process) = state.time.processes.get(&writer) else { return };
            let is_successor = |w: &Writer| w.host == writer.host && w.host_id == writer.host_id && *w > writer;
            if state.time.processes.iter().any(|(w, p)| is_successor(w) && p.opened) {
                // It has ended what its predecessor guarded before it opened it (D3).
                return;
            }
            // It stood still, and its watchdog with it; or it died, and its end has petted once more.
            let still = state.still.contains(&writer.host);
            let awake = if still { now } else { state.outlived.awake_since(writer.host) };
            awake.max(process.closed.unwrap_or(0)) + nanos(WITHIN)
        };
        if now < due {
            let Some(checkers) = self.itself.borrow().upgrade() else { return };
            self.sim.call_at(Group::RUN, due, move || checkers.check_reset(writer));
        } else {
            self.violate("W1", Some(writer.host), "petted too late, and not reset");
        }
    }

    /// Whether clients that write, or lease writes in flight, are left under a term.
    fn leaves_something(&self, writer: Writer, term: HostTerm) -> bool {
        let state = self.state.borrow();
        let writes = state.holders.values().any(|h| h.term == term && h.host == writer.host && !h.still);
        drop(state);
        writes || self.lease_write_in_flight(writer).is_some()
    }

    /// A write of a process to anything but its delta sector that is in flight: where.
    fn lease_write_in_flight(&self, writer: Writer) -> Option<u64> {
        let state = self.state.borrow();
        let delta =
            |disk, at| state.areas.iter().any(|a| matches!(a, Area::Delta(..)) && a.sector_of(disk, at).is_some());
        state.disk.flights().find(|(disk, w, at)| *w == writer && !delta(*disk, *at)).map(|(_, _, at)| at)
    }

    pub(super) fn looked(&self, io: &Facts, bytes: &[u8], damaged: &[u64]) {
        let Some(clock) = self.clock_of(io.writer) else { return };
        let began = self.state.borrow_mut().time.began.remove(&(io.disk, io.id));
        let Some(started) = began else { return };
        let ended = clock.dial();
        let slots = crate::areas::slots(self.state.borrow().hosts.len());
        let areas = self.state.borrow().areas.clone();
        for area in areas {
            let Area::Delta(_, at, geometry) = area else { continue };
            let size = geometry.sector().bytes() as u64;
            for slot in 0..u64::from(slots) {
                let place = at.0 + slot * size;
                let Some(from) = place.checked_sub(io.at).and_then(|f| usize::try_from(f).ok()) else { continue };
                let Some(sector) = bytes.get(from..from + geometry.sector().bytes()) else { continue };
                let spoilt = damaged.iter().any(|byte| (place..place + RECORD as u64).contains(byte));
                // Where there is no seal, damage behind what the checksum covers is what the sector says.
                let readable = || Some(Leader::read(sector)).is_some_and(|l| l.valid && l.seal.is_none());
                if area.sector_of(io.disk, place).is_some() && (!spoilt || readable()) {
                    self.look(io, slot, sector, (started, ended));
                }
            }
        }
    }

    /// A read begins. Noted now: a clock that stands still meanwhile says another instant afterwards.
    pub(super) fn read_begins(&self, io: &Facts) {
        if let Some(clock) = self.clock_of(io.writer) {
            let now = clock.dial();
            self.state.borrow_mut().time.began.insert((io.disk, io.id), now);
        }
    }

    fn look(&self, io: &Facts, slot: u64, sector: &[u8], (started, ended): (LocalInstant, LocalInstant)) {
        // The seal's CRC, among these bytes, covers the rest.
        let image = (0..RECORD)
            .step_by(8)
            .fold(0u64, |hash, at| (hash ^ u64_at(sector, at)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23));
        let mut state = self.state.borrow_mut();
        let looks = state.time.looks.entry((io.writer, slot)).or_default();
        if let Some(look) = looks.iter_mut().find(|l| l.image == image) {
            look.unchanged_at = look.unchanged_at.max(started);
            look.latest = look.latest.max(io.began);
            look.seen_at = look.seen_at.min(ended);
            return;
        }
        if looks.len() == IMAGES {
            looks.remove(0);
        }
        let (sector, unchanged_at) = (Leader::read(sector), started.min(ended));
        looks.push(Look { image, sector, seen_at: ended, unchanged_at, first: self.sim.now(), latest: io.began });
    }

    /// What a process has seen of a slot.
    pub(super) fn looks_at(&self, writer: Writer, slot: u64) -> Vec<Look> {
        self.state.borrow().time.looks.get(&(writer, slot)).cloned().unwrap_or_default()
    }

    /// P1: a process that has read, for as long as it takes to act upon that, that its host_id has a later generation, writes nothing more
    /// under its own.
    fn check_succeeded(&self, writer: Writer, at: u64) {
        let state = self.state.borrow();
        let Some(process) = state.time.processes.get(&writer) else { return };
        let Some(term) = process.join.map(|join| join.term) else { return };
        let looks = state.time.looks.get(&(writer, u64::from(term.host_id.slot()))).into_iter().flatten();
        let awake = process.runs_since.max(state.outlived.awake_since(writer.host));
        let later = |look: &&Look| look.sector.owner[1] > term.generation.0 && !look.sector.is_free();
        let known = looks.filter(later).map(|look| look.first.max(awake)).min();
        drop(state);
        if known.is_some_and(|known| self.sim.now() > known + nanos(TO_ACT)) {
            let what = format!("writes at {at} under {term}, though it has seen a later generation");
            self.violate("P1", Some(writer.host), what);
        }
    }

    /// D1: whether a process has seen the holder of a slot silent for long enough, and since `since` that it still was.
    fn saw_silence(
        &self,
        (writer, slot): (Writer, u64),
        of: u64,
        since: Nanos,
        least: Option<Duration>,
    ) -> Option<Silence> {
        let looks = self.looks_at(writer, slot);
        looks
            .iter()
            .filter(|look| look.latest >= since)
            .filter_map(|look| look.silent(of, least))
            .max_by_key(|s| s.renewal)
    }

    /// A write begins.
    pub(super) fn check_times(&self, io: &Facts, data: &[u8]) {
        if self.clock_of(io.writer).is_none() {
            return; // Real sanlock, which keeps other times.
        }
        match self.area_of(io.disk, io.at) {
            Some((area @ Area::Delta(..), index)) => self.check_delta(io, area, index, &Leader::read(data)),
            Some((area @ Area::Paxos(..), index)) => {
                self.check_limit(io);
                self.check_succeeded(io.writer, io.at);
                if index > 1 && index - 1 == io.writer.host_id.get() {
                    self.check_takeover(io.writer, area, &Dblock::read(data));
                    self.check_passed_over(io.writer, area, data);
                }
            }
            None => {}
        }
    }

    /// D2: nothing but renewals is begun past its instant, nor without a join.
    fn check_limit(&self, io: &Facts) {
        let mut state = self.state.borrow_mut();
        let Some(process) = state.time.processes.get_mut(&io.writer) else { return };
        let (now, join) = (process.clock.dial(), process.join);
        if let Some(join) = &mut process.join {
            join.used = true;
        }
        drop(state);
        if join.is_none_or(|j| j.freed || now >= j.limit) {
            let what = format!("a write at {} begins at {now:?}, under {join:?}", io.at);
            self.violate("D2", Some(io.writer.host), what);
        }
    }

    fn check_delta(&self, io: &Facts, area: Area, index: u64, new: &Leader) {
        let (writer, host) = (io.writer, io.writer.host);
        let (current, watchdog, join, now) = {
            let state = self.state.borrow();
            let Some(process) = state.time.processes.get(&writer) else { return };
            let now = process.clock.dial();
            (state.disk.leader(area, index), process.watchdog, process.join, now)
        };
        if !watchdog {
            self.violate("D3", Some(host), "writes its delta sector with no watchdog open");
        }
        let term = HostTerm { host_id: writer.host_id, generation: Generation(new.owner[1]) };
        if new.is_free() {
            self.check_succeeded(writer, io.at);
            self.check_freed(io, term, join, now);
        } else if join.is_none_or(|j| j.term != term) {
            self.check_join(writer, index, &current, new);
            let fire = Duration::from_secs(u64::from(new.seal.map_or(60, |s| s.fire)));
            let mut state = self.state.borrow_mut();
            state.counts.joins += 1;
            if let Some(process) = state.time.processes.get_mut(&writer) {
                let never = (Duration::ZERO, LocalInstant::EARLIEST);
                process.join = Some(Join {
                    term,
                    limit: LocalInstant::EARLIEST,
                    fire,
                    io_timeout: Duration::from_secs(u64::from(new.io_timeout)),
                    used: false,
                    freed: false,
                    written: instant_of(new),
                    stood: never,
                    slept: never,
                });
            }
        } else {
            self.check_succeeded(writer, io.at);
        }
        let written = instant_of(new);
        let started = LocalInstant::from_nanos((written.0 * 1000 + written.1) * 1_000_000);
        let pending = Pending { sector: *new, started, term };
        let mut state = self.state.borrow_mut();
        if let Some(join) = state.time.processes.get_mut(&writer).and_then(|p| p.join.as_mut()) {
            join.written = join.written.max(written);
        }
        state.time.pending.insert((io.disk, io.id), pending);
    }

    /// The host_id is given back: D2 allows it still, and nothing is left under the term.
    fn check_freed(&self, io: &Facts, term: HostTerm, join: Option<Join>, now: LocalInstant) {
        if join.is_none_or(|j| j.term != term || now >= j.limit) {
            let what = format!("gives its host_id back at {now:?}, under {join:?}");
            self.violate("D2", Some(io.writer.host), what);
        }
        if self.leaves_something(io.writer, term) {
            self.violate("P1", Some(io.writer.host), "gives its host_id back with clients or writes left under it");
        }
    }

    /// P1 and D1 for a host_id: a generation begins.
    fn check_join(&self, writer: Writer, slot: u64, current: &Leader, new: &Leader) {
        let host = writer.host;
        if new.owner[1] <= current.owner[1] {
            // A rival was faster: the later write of the two stands, and the other finds that out.
            return;
        }
        let under = HostTerm { host_id: writer.host_id, generation: Generation(current.owner[1]) };
        let (old, own) = (current.seal.unwrap_or_default(), new.seal.unwrap_or_default());
        // P1 (a): another boot of its own machine.
        let least = Duration::from_secs(3 * u64::from(current.io_timeout));
        let newest = self.looks_at(writer, slot).iter().map(|look| look.latest).max().unwrap_or(0);
        let look = (writer, slot);
        let silence = self.saw_silence(look, current.owner[1], newest, (old.machine == own.machine).then_some(least));
        if let Some(silence) = silence.filter(|_| !current.is_free()) {
            self.taken(under, None, silence);
        }
        let left: Vec<Holder> = {
            let state = self.state.borrow();
            let older = |h: &&Holder| h.term.host_id == under.host_id && h.term.generation.0 < new.owner[1] && !h.still;
            state.holders.values().filter(older).copied().collect()
        };
        for holder in left {
            let what = format!("generation {} begins over a living client of {}", new.owner[1], holder.term);
            let outlived = self.state.borrow().outlived.has_outlived_itself(holder.term);
            self.violate_unless(outlived && holder.host != host, "P1", host, what);
        }
        if current.is_free() || current.owner[0] == 0 {
            return;
        }
        let same_boot = old.machine == own.machine && old.boot == own.boot;
        if same_boot && self.saw_silence(look, current.owner[1], newest, None).is_none() {
            // P1 (b): whatever wrote under the older generation has ended, and has nothing in flight.
            let state = self.state.borrow();
            let older = |w: &Writer| w.host == host && w.host_id == writer.host_id && w.process != writer.process;
            let has_it = |p: &Process| p.join.is_some_and(|j| j.term == under && !j.freed && p.clock.dial() < j.limit);
            let runs = |(w, p): &(&Writer, &Process)| older(w) && !p.gone && has_it(p);
            let running = state.time.processes.iter().find(runs).map(|(w, _)| w.process);
            let flight = state.disk.flights().find(|(_, w, _)| older(w));
            drop(state);
            if let Some(process) = running {
                self.violate(
                    "P1",
                    Some(host),
                    format!("a generation begins beside process {process}, which has {under}"),
                );
            }
            if let Some((_, by, at)) = flight {
                let what = format!("a generation begins beside a write at {at} of process {}", by.process);
                self.violate("P1", Some(host), what);
            }
            return;
        }
        if silence.is_none() {
            self.violate("D1", Some(host), format!("takes host_id {} after too short a silence", writer.host_id));
        }
    }

    /// D1 for a resource: a ballot for the next version begins.
    fn check_takeover(&self, writer: Writer, area: Area, new: &Dblock) {
        let own = writer.host_id.get();
        let (owner, slot) = {
            let state = self.state.borrow();
            if new.lver <= state.disk.dblock(area, own).lver {
                return;
            }
            // Of several copies any one may be what the host went by.
            let copies: Vec<Area> = state.copies_of(area).collect();
            let leaders = copies.iter().map(|copy| state.disk.leader(*copy, 0));
            let leader = leaders.max_by_key(|l| (l.lver, l.is_free())).unwrap_or_default();
            let begun = copies.iter().map(|copy| state.disk.begun(*copy)).max().unwrap_or(0);
            if leader.lver + 1 != new.lver
                || begun > new.lver
                || leader.is_free()
                || [0, own].contains(&leader.owner[0])
            {
                return;
            }
            let given_up = copies.iter().any(|copy| state.disk.gave_up(*copy, leader.owner, leader.lver));
            let slot = leader.owner[0] - 1;
            let space = state.areas.iter().find(|a| matches!(a, Area::Delta(..)));
            let delta = space.map(|a| state.disk.leader(*a, slot)).unwrap_or_default();
            let newer = delta.owner[1] > leader.owner[1];
            if given_up || newer || (delta.is_free() && delta.owner[1] == leader.owner[1]) {
                return;
            }
            (leader.owner, slot)
        };
        let (lease, since) = {
            let state = self.state.borrow();
            let lease = state.lease_of(area);
            (lease, state.disk.published(lease, new.lver - 1))
        };
        self.count(|c| c.takeovers += 1);
        let host_id = holdfast_io::ids::HostId::new(owner[0]).unwrap_or(writer.host_id);
        let term = HostTerm { host_id, generation: Generation(owner[1]) };
        match self.saw_silence((writer, slot), owner[1], since, None) {
            Some(silence) => {
                let taken = Taken { lease, lver: new.lver.saturating_sub(1) };
                self.taken(term, Some(taken), silence);
            }
            None => {
                let what = format!("begins lver {} over {term} after too short a silence", new.lver);
                self.violate("D1", Some(writer.host), what);
            }
        }
    }

    /// D1 for the sharers of a lease on several disks, whose claims stay where they are: an exclusive owner says which it has passed over.
    fn check_passed_over(&self, writer: Writer, area: Area, data: &[u8]) {
        let (own, over) = (Dblock::read(data), passed_over(data));
        let (lease, claims) = {
            let mut state = self.state.borrow_mut();
            let lease = state.lease_of(area);
            if over.is_empty() || !state.time.passed.insert((writer, lease, own.lver)) {
                return;
            }
            let claim = |of: u64| {
                let copies = state.copies_of(area).map(|copy| state.disk.dblock(copy, of));
                copies.filter(|dblock| dblock.shared).map(|dblock| (of, dblock.generation)).max()
            };
            (lease, over.into_iter().filter_map(claim).collect::<Vec<_>>())
        };
        for (of, generation) in claims {
            let host_id = HostId::new(of).unwrap_or(writer.host_id);
            let term = HostTerm { host_id, generation: Generation(generation) };
            let seen = self.looks_at(writer, of - 1);
            match seen.iter().filter_map(|look| look.silent(generation, None)).max_by_key(|s| s.renewal) {
                _ if seen.iter().any(|look| look.is_left(generation)) => {}
                Some(silence) => self.taken(term, Some(Taken { lease, lver: own.lver.saturating_sub(1) }), silence),
                None => {
                    let what = format!("passed over the claim of {term} after too short a silence");
                    self.violate("D1", Some(writer.host), what);
                }
            }
        }
    }

    /// I1's exception: only a claim of a host that has left or was found dead is cleared, as whoever does so had seen when its write
    /// began.
    pub(super) fn check_cleared(&self, writer: Writer, area: Area, (of, generation): (u64, u64), seen: &[Look]) {
        if self.clock_of(writer).is_none() {
            return; // Real sanlock, which keeps other times.
        }
        let host_id = holdfast_io::ids::HostId::new(of).unwrap_or(writer.host_id);
        let term = HostTerm { host_id, generation: Generation(generation) };
        let silence = seen.iter().filter_map(|look| look.silent(generation, None)).max_by_key(|s| s.renewal);
        match silence {
            _ if seen.iter().any(|look| look.is_left(generation)) => {}
            Some(silence) => {
                // The taker's own ballot is for a later one.
                let lver = self.state.borrow().disk.begun(area).saturating_sub(1);
                self.taken(term, Some(Taken { lease: area, lver }), silence);
            }
            None => {
                let what = format!("cleared the claim of {term} after too short a silence");
                self.violate("I1", Some(writer.host), what);
            }
        }
    }

    /// A damaged sector is made anew by a host that has seen nobody to be at work under that host_id, held or free, for D1's time, by a look
    /// that it took after its own record was published.
    pub(super) fn check_absent(&self, writer: Writer, of: u64, seen: &[Look], published: Nanos) -> bool {
        let Some(latest) = seen.iter().max_by_key(|look| look.latest) else {
            self.violate("I1", Some(writer.host), format!("made dblock {of} anew, and has never looked at its host"));
            return false;
        };
        let (silence, stale) = (latest.silence(), latest.latest < published);
        if stale || !latest.is_of_nobody() {
            let when = if stale { ", seen before it was the owner" } else { "" };
            self.violate("I1", Some(writer.host), format!("made dblock {of} anew after {silence:?} of silence{when}"));
        }
        !stale
    }

    /// What a damaged sector may have said counts as taken from its host.
    pub(super) fn taken_by_damage(&self, area: Area, of: u64, seen: &[Look]) {
        let latest = seen.iter().max_by_key(|look| look.latest).filter(|look| !look.sector.is_free());
        let Some((latest, host_id)) = latest.zip(HostId::new(of)) else { return };
        let term = HostTerm { host_id, generation: Generation(latest.sector.owner[1]) };
        let lver = self.state.borrow().disk.begun(area).saturating_sub(1);
        self.taken(term, Some(Taken { lease: area, lver }), latest.relied_on());
    }

    /// A write is on the disk, and over.
    pub(super) fn acknowledged(&self, io: &Facts) {
        let mut state = self.state.borrow_mut();
        let Some(pending) = state.time.pending.remove(&(io.disk, io.id)) else { return };
        let Some(process) = state.time.processes.get_mut(&io.writer) else { return };
        let now = process.clock.dial();
        let Some(join) = process.join.as_mut().filter(|j| j.term == pending.term) else { return };
        if pending.sector.is_free() {
            join.freed = true;
            return;
        }
        // Past D2's instant nothing is revived. Past its own deadline a renewal may count: a host that stood still meanwhile
        // takes it, and the record it rests on is there for all to see.
        if join.used && now >= join.limit {
            return;
        }
        if pending.started >= join.stood.1 {
            join.stood.0 = Duration::ZERO;
        }
        if pending.started >= join.slept.1 {
            join.slept.0 = Duration::ZERO;
        }
        let x = Duration::from_secs(u64::from(pending.sector.io_timeout));
        // The sector cuts its instant to milliseconds.
        join.limit = pending.started.after(x * 8 + Duration::from_millis(1));
        let (limit, clock) = (join.limit, process.clock.clone());
        let due = clock.rate().true_time(limit.after(join.fire + join.slept.0));
        drop(state);
        self.time_end(io.writer, pending.term, limit, due);
    }

    /// D3: at this instant everything under the term is over, unless it was renewed meanwhile.
    fn time_end(&self, writer: Writer, term: HostTerm, limit: LocalInstant, due: u64) {
        let Some(checkers) = self.itself.borrow().upgrade() else { return };
        self.sim.call_at(Group::RUN, due, move || checkers.check_end(writer, term, limit));
    }

    fn check_end(&self, writer: Writer, term: HostTerm, limit: LocalInstant) {
        let due = {
            let state = self.state.borrow();
            let Some(process) = state.time.processes.get(&writer) else { return };
            let Some(join) = process.join.filter(|j| j.term == term && j.limit == limit && !j.freed) else { return };
            let asleep = state.still.contains(&writer.host);
            let due = process.clock.rate().true_time(limit.after(join.fire + join.slept.0));
            if asleep {
                Some(self.sim.now() + nanos(Duration::from_secs(1)))
            } else {
                Some(due).filter(|d| *d > self.sim.now())
            }
        };
        if let Some(due) = due {
            // The host, or its clock, stood still meanwhile.
            return self.time_end(writer, term, limit, due);
        }
        self.count(|c| c.lost += 1);
        if self.leaves_something(writer, term) {
            let what = format!("something of {term} is left, and the host is up");
            self.violate("D3", Some(writer.host), what);
        }
    }
}
