//! D1 to D3, W1 and P1: what hosts may do when, by what they have seen and written themselves.
//!
//! Everything is derived from the I/O and the watchdogs alone. A renewal counts from the instant that its own sector names
//! (seconds in the record, milliseconds in the seal), once it is over. What a host has seen
//! of another is what its reads brought, from their start to their end.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_io::bytes::u64_at;
use holdfast_io::clock::LocalInstant;
use holdfast_io::ids::{Generation, HostTerm};

use super::sectors::{Dblock, Leader};
use super::{Area, Checkers, Holder};
use crate::dice::nanos;
use crate::disk::{Facts, HostIndex, Writer};
use crate::executor::{Group, SimClock};

/// Bytes of a sector that say anything.
const RECORD: usize = 256;
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
}

struct Process {
    clock: SimClock,
    watchdog: bool,
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
    /// A lease was asked for under it. Before, nothing can be lost: a join that settled for longer than its own term lasts
    /// renews first.
    used: bool,
    freed: bool,
}

#[derive(Clone, Copy)]
struct Pending {
    sector: Leader,
    started: LocalInstant,
    term: HostTerm,
}

/// One image of a delta sector, as a process has seen it.
#[derive(Clone, Copy)]
struct Look {
    image: u64,
    sector: Leader,
    /// The end of the first read that showed it.
    seen_at: LocalInstant,
    /// The start of the latest read that showed it.
    unchanged_at: LocalInstant,
}

impl Look {
    fn silence(&self) -> Duration {
        self.unchanged_at.since(self.seen_at)
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

    /// The terms that processes of a host hold.
    pub(super) fn terms_of(&self, host: HostIndex) -> Vec<HostTerm> {
        let mine = self.processes.iter().filter(|(w, _)| w.host == host);
        mine.filter_map(|(_, p)| p.join).filter(|j| !j.freed).map(|j| j.term).collect()
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
    pub(super) fn stood_still(&mut self, host: HostIndex, still: Duration) {
        for (_, process) in self.processes.iter_mut().filter(|(w, _)| w.host == host) {
            if let Some(join) = &mut process.join {
                join.fire += still;
            }
        }
    }
}

impl Checkers {
    /// A process starts that will write as `writer`, by this clock.
    pub fn process_starts(&self, writer: Writer, clock: SimClock) {
        let process = Process { clock, watchdog: false, join: None };
        self.state.borrow_mut().time.processes.insert(writer, process);
    }

    /// A process is gone. What it promised on disk stands.
    pub fn process_gone(&self, writer: Writer) {
        self.state.borrow_mut().time.looks.retain(|(w, _), _| *w != writer);
    }

    /// A process has opened its watchdog, which pets it. D3: not over what a predecessor has left.
    pub fn watchdog_opened(&self, writer: Writer) {
        let left = {
            let mut state = self.state.borrow_mut();
            if let Some(process) = state.time.processes.get_mut(&writer) {
                process.watchdog = true;
            }
            let mut holders = state.holders.values();
            let own = state.time.processes.get(&writer).and_then(|p| p.join).map(|j| j.term);
            let left = |h: &&Holder| h.host == writer.host && h.term.host_id == writer.host_id && Some(h.term) != own;
            holders.find(left).map(|h| h.term)
        };
        if let Some(term) = left {
            let what = "opens the watchdog over living clients of a predecessor".into();
            self.violate_unless_excused("D3", term, writer.host, what);
        }
    }

    /// It has stopped and closed it, or is gone and its watchdog counts on.
    pub fn watchdog_stopped(&self, writer: Writer) {
        if let Some(process) = self.state.borrow_mut().time.processes.get_mut(&writer) {
            process.watchdog = false;
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
        let Some(term) = late.filter(|term| self.leaves_something(writer, *term)) else { return };
        self.note(Some(writer.host), || "petted past D2's instant".into());
        let Some(checkers) = self.itself.borrow().upgrade() else { return };
        // The shortest timeout of the coarsest device is 5 s, and its tick comes on top.
        self.sim.call_after(Group::RUN, Duration::from_secs(7), move || {
            let up = checkers.state.borrow().time.processes.contains_key(&writer);
            if up {
                checkers.violate_unless_excused("W1", term, writer.host, "petted too late, and not reset".into());
            }
        });
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
                    self.look(io.writer, slot, sector, (started, ended));
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

    fn look(&self, writer: Writer, slot: u64, sector: &[u8], (started, ended): (LocalInstant, LocalInstant)) {
        // The seal's CRC, among these bytes, covers the rest.
        let image = (0..RECORD)
            .step_by(8)
            .fold(0u64, |hash, at| (hash ^ u64_at(sector, at)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23));
        let mut state = self.state.borrow_mut();
        let looks = state.time.looks.entry((writer, slot)).or_default();
        if let Some(look) = looks.iter_mut().find(|l| l.image == image) {
            look.unchanged_at = look.unchanged_at.max(started);
            look.seen_at = look.seen_at.min(ended);
            return;
        }
        if looks.len() == IMAGES {
            looks.remove(0);
        }
        looks.push(Look { image, sector: Leader::read(sector), seen_at: ended, unchanged_at: started.min(ended) });
    }

    /// D1: whether a process has seen the holder of a slot silent for long enough.
    fn saw_silence(&self, writer: Writer, slot: u64, of: u64, least: Option<Duration>) -> bool {
        let state = self.state.borrow();
        let Some(looks) = state.time.looks.get(&(writer, slot)) else { return false };
        looks.iter().any(|l| l.sector.owner[1] == of && l.silence() >= least.unwrap_or_else(|| l.needed()))
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
                if index > 1 && index - 1 == io.writer.host_id.get() {
                    self.check_takeover(io.writer, area, &Dblock::read(data));
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
            self.check_freed(io, term, join, now);
        } else if join.is_none_or(|j| j.term != term) {
            self.check_join(writer, index, &current, new);
            let fire = Duration::from_secs(u64::from(new.seal.map_or(60, |s| s.fire)));
            let mut state = self.state.borrow_mut();
            state.counts.joins += 1;
            if let Some(process) = state.time.processes.get_mut(&writer) {
                process.join = Some(Join { term, limit: LocalInstant::EARLIEST, fire, used: false, freed: false });
            }
        }
        let millis = u64::from(new.seal.map_or(0, |s| s.millis));
        let started = LocalInstant::from_nanos((new.timestamp * 1000 + millis) * 1_000_000);
        let pending = Pending { sector: *new, started, term };
        self.state.borrow_mut().time.pending.insert((io.disk, io.id), pending);
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
        let left = {
            let state = self.state.borrow();
            let older = |h: &&Holder| h.term.host_id == under.host_id && h.term.generation.0 < new.owner[1] && !h.still;
            state.holders.values().find(older).copied()
        };
        if let Some(holder) = left {
            let what = format!("generation {} begins over a living client of {}", new.owner[1], holder.term);
            self.violate_unless_excused("P1", holder.term, host, what);
        }
        if current.is_free() || current.owner[0] == 0 {
            return;
        }
        let (old, own) = (current.seal.unwrap_or_default(), new.seal.unwrap_or_default());
        let same_boot = old.machine == own.machine && old.boot == own.boot;
        if same_boot && !self.saw_silence(writer, slot, current.owner[1], None) {
            // P1 (b): whatever wrote under the older generation has nothing in flight.
            let state = self.state.borrow();
            let older = |w: &Writer| w.host == host && w.host_id == writer.host_id && w.process != writer.process;
            let flight = state.disk.flights().find(|(_, w, _)| older(w));
            drop(state);
            if let Some((_, by, at)) = flight {
                let what = format!("a generation begins beside a write at {at} of process {}", by.process);
                self.violate("P1", Some(host), what);
            }
            return;
        }
        let x = u64::from(current.io_timeout);
        let least = (old.machine == own.machine).then(|| Duration::from_secs(3 * x));
        if !self.saw_silence(writer, slot, current.owner[1], least) {
            let what = format!("takes host_id {} after too short a silence", writer.host_id);
            self.violate_unless_excused("D1", under, host, what);
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
            let leader = state.disk.leader(area, 0);
            let begun = state.disk.begun(area);
            if leader.lver + 1 != new.lver
                || begun > new.lver
                || leader.is_free()
                || [0, own].contains(&leader.owner[0])
            {
                return;
            }
            let given_up = state.disk.gave_up(area, leader.owner[0], leader.lver);
            let slot = leader.owner[0] - 1;
            let space = state.areas.iter().find(|a| matches!(a, Area::Delta(..)));
            let delta = space.map(|a| state.disk.leader(*a, slot)).unwrap_or_default();
            let newer = delta.owner[1] > leader.owner[1];
            if given_up || newer || delta.is_free() {
                return;
            }
            (leader.owner, slot)
        };
        self.count(|c| c.takeovers += 1);
        if !self.saw_silence(writer, slot, owner[1], None) {
            let host_id = holdfast_io::ids::HostId::new(owner[0]).unwrap_or(writer.host_id);
            let term = HostTerm { host_id, generation: Generation(owner[1]) };
            let what = format!("begins lver {} over {term} after too short a silence", new.lver);
            self.violate_unless_excused("D1", term, writer.host, what);
        }
    }

    /// I1's exception: only a claim of a host that has left, was found dead, or has begun anew since is cleared.
    pub(super) fn check_cleared(&self, writer: Writer, of: u64, generation: u64) {
        if self.clock_of(writer).is_none() {
            return; // Real sanlock, which keeps other times.
        }
        let slot = of - 1;
        let over = {
            let state = self.state.borrow();
            let space = state.areas.iter().find(|a| matches!(a, Area::Delta(..)));
            let delta = space.map(|a| state.disk.leader(*a, slot)).unwrap_or_default();
            delta.owner[1] > generation || delta.is_free()
        };
        if !over && !self.saw_silence(writer, slot, generation, None) {
            let host_id = holdfast_io::ids::HostId::new(of).unwrap_or(writer.host_id);
            let term = HostTerm { host_id, generation: Generation(generation) };
            let what = format!("cleared the claim of {term} after too short a silence");
            self.violate_unless_excused("I1", term, writer.host, what);
        }
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
        let x = Duration::from_secs(u64::from(pending.sector.io_timeout));
        // The sector cuts its instant to milliseconds.
        join.limit = pending.started.after(x * 8 + Duration::from_millis(1));
        let (limit, clock) = (join.limit, process.clock.clone());
        let due = clock.rate().true_time(limit.after(join.fire));
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
            let due = process.clock.rate().true_time(limit.after(join.fire));
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
            self.violate_unless_excused("D3", term, writer.host, what);
        }
    }
}
