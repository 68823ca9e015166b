//! What must hold at every landed write, whatever the hosts and the disk do.
//!
//! The checkers see the medium and nothing of the program's state: they decode sectors with a reader of their own (spec
//! D 2.2, 2.4, 2.5), so that a codec's mistake is not made twice. They check
//! - **S1**: no two hosts hold one exclusive lease at one virtual instant. A host holds it from the moment its client may
//!   write until the client is over: released, seen gone, or its host reset;
//! - **I1**: only host p writes dblock\\[p\\] (or the owner clears the mode block of another, and nothing else of it), only
//!   host p writes delta sector p;
//! - **I2**: in a dblock lver never falls, nor mbal within one lver; a delta sector's generation never falls;
//! - **I3**: bal <= mbal, and bal and inp are set together; **I4**: one inp for each (lver, bal);
//! - **I5**: one owner for each lver in every leader that lands and in what each host believes;
//! - **I6**: no host has two writes in flight on one sector;
//! - **D2**: past 8 io_timeouts after the start of its last good renewal a host begins no write but to its delta sector;
//! - a leader is freed by its owner alone; bytes outside the areas stay as they are.
//!
//! The first violation ends the run, and prints a timeline with a column for each host.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Write as _};
use std::rc::Rc;

use holdfast_io::bytes::{array_at, is_zero, u32_at, u64_at};
use holdfast_io::checksum::lease_crc;
use holdfast_io::clock::LocalInstant;
use holdfast_io::disk::Op;
use holdfast_io::ids::HostId;
use holdfast_io::leader::{self, LeaderKind, LeaderRecord};
use holdfast_io::units::{Geometry, LeaseOffset};

use crate::disk::{Facts, HostIndex, Witness};
use crate::executor::{ClockRate, Nanos, Sim};

/// How many rows of the past a violation shows.
const ROWS: usize = 160;
/// Width of one host's column.
const COLUMN: usize = 44;

/// A lease area that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Area {
    /// A lockspace.
    Delta(LeaseOffset, Geometry),
    /// A resource.
    Paxos(LeaseOffset, Geometry),
}

impl Area {
    const fn place(self) -> (LeaseOffset, Geometry) {
        match self {
            Area::Delta(at, geometry) | Area::Paxos(at, geometry) => (at, geometry),
        }
    }
}

/// A rule that was broken.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{rule} violated at {at:.6}s of seed {seed}: {what}\n{timeline}")]
pub struct Violation {
    /// The seed of the run.
    pub seed: u64,
    /// Which rule: S1, I1 to I6, D2, or a name of its own.
    pub rule: &'static str,
    /// What happened.
    pub what: String,
    /// True time in seconds.
    pub at: f64,
    /// What led to it, a column for each host.
    pub timeline: String,
}

/// One dblock sector, as far as the rules speak of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Dblock {
    mbal: u64,
    bal: u64,
    inp: [u64; 3],
    lver: u64,
    released: bool,
    valid: bool,
}

impl Dblock {
    fn read(sector: &[u8]) -> Self {
        let checksum = u32_at(sector, 48);
        let (mbal, bal, lver) = (u64_at(sector, 0), u64_at(sector, 8), u64_at(sector, 40));
        let inp = [u64_at(sector, 16), u64_at(sector, 24), u64_at(sector, 32)];
        let blank = checksum == 0 && mbal == 0 && bal == 0 && lver == 0 && inp[0] == 0;
        let valid = blank || checksum == lease_crc(&sector[..48]);
        Dblock { mbal, bal, inp, lver, released: u32_at(sector, 52) & 1 != 0, valid }
    }
}

/// A guarded client: what S1 counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holder {
    host: HostIndex,
    area: Area,
    since: Nanos,
}

/// The checkers of one run.
pub struct Checkers {
    sim: Sim,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    areas: Vec<Area>,
    host_ids: BTreeMap<HostIndex, HostId>,
    holders: BTreeMap<u64, Holder>,
    last_holder: u64,
    /// (area, lver, bal) -> inp.
    inps: BTreeMap<(Area, u64, u64), [u64; 3]>,
    /// (area, lver) -> (owner_id, generation, timestamp) in landed leaders and in the belief of hosts.
    owners: BTreeMap<(Area, u64), [u64; 2]>,
    /// When each host may no longer write, on its own clock.
    limits: BTreeMap<HostIndex, (ClockRate, LocalInstant)>,
    rows: VecDeque<(Nanos, Option<HostIndex>, String)>,
    counts: Counts,
    violation: Option<Box<Violation>>,
}

/// What a run did: a run in which nothing happens proves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Times that a client held the lease.
    pub holds: u64,
    /// Those whose predecessor had not released it.
    pub takeovers: u64,
    /// Ballots that another host won.
    pub contested: u64,
    /// Sectors that landed.
    pub landed: u64,
    /// Of those, 1 s or more after their write began.
    pub landed_late: u64,
    /// Hosts reset by their watchdog.
    pub resets: u64,
    /// Processes that crashed.
    pub crashes: u64,
    /// Joins of a lockspace.
    pub joins: u64,
    /// Leases of a lockspace lost to D2.
    pub lost: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, more: Counts) {
        self.holds += more.holds;
        self.takeovers += more.takeovers;
        self.contested += more.contested;
        self.landed += more.landed;
        self.landed_late += more.landed_late;
        self.resets += more.resets;
        self.crashes += more.crashes;
        self.joins += more.joins;
        self.lost += more.lost;
    }
}

impl Checkers {
    /// Checkers for one run.
    #[must_use]
    pub fn new(sim: &Sim) -> Rc<Self> {
        Rc::new(Checkers { sim: sim.clone(), state: RefCell::default() })
    }

    /// From now on this area is watched, and everything outside all watched areas must not be written.
    pub fn watch(&self, area: Area) {
        self.state.borrow_mut().areas.push(area);
    }

    /// Host `host` owns the sectors of `host_id`.
    pub fn is_host_id(&self, host: HostIndex, host_id: HostId) {
        self.state.borrow_mut().host_ids.insert(host, host_id);
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

    /// A line for the timeline.
    pub fn note(&self, host: Option<HostIndex>, text: impl Into<String>) {
        let mut state = self.state.borrow_mut();
        if state.rows.len() == ROWS {
            state.rows.pop_front();
        }
        state.rows.push_back((self.sim.now(), host, text.into()));
    }

    /// The violation found, if any.
    #[must_use]
    pub fn violation(&self) -> Option<Box<Violation>> {
        self.state.borrow().violation.clone()
    }

    /// A rule is broken: the first one ends the run.
    pub fn violate(&self, rule: &'static str, host: Option<HostIndex>, what: impl Into<String>) {
        let what = what.into();
        self.note(host, format!("!! {rule}: {what}"));
        let mut state = self.state.borrow_mut();
        if state.violation.is_some() {
            return;
        }
        let timeline = timeline(&state);
        let at = std::time::Duration::from_nanos(self.sim.now()).as_secs_f64();
        state.violation = Some(Box::new(Violation { seed: self.sim.seed(), rule, what, at, timeline }));
        self.sim.halt();
    }

    /// A client of `host` may write from now on under the exclusive lease of `area` (S1). The number ends it.
    pub fn holds(&self, host: HostIndex, area: Area) -> u64 {
        let now = self.sim.now();
        let rival = {
            let mut state = self.state.borrow_mut();
            state.counts.holds += 1;
            state.last_holder += 1;
            let number = state.last_holder;
            let rival = state.holders.values().copied().find(|h| h.area == area && h.host != host);
            state.holders.insert(number, Holder { host, area, since: now });
            rival
        };
        self.note(Some(host), "CLIENT RUNS");
        if let Some(rival) = rival {
            let since = std::time::Duration::from_nanos(rival.since).as_secs_f64();
            self.violate(
                "S1",
                Some(host),
                format!("a client of host {} still holds it since {since:.6}s", rival.host.0),
            );
        }
        self.state.borrow().last_holder
    }

    /// That client is over.
    pub fn holds_no_more(&self, number: u64) {
        let gone = self.state.borrow_mut().holders.remove(&number);
        if let Some(holder) = gone {
            self.note(Some(holder.host), "client over");
        }
    }

    /// Everything on this host is over.
    pub fn host_reset(&self, host: HostIndex) {
        let mut state = self.state.borrow_mut();
        state.holders.retain(|_, h| h.host != host);
        state.limits.remove(&host);
    }

    /// How many clients hold a lease on this host.
    #[must_use]
    pub fn held_by(&self, host: HostIndex) -> usize {
        self.state.borrow().holders.values().filter(|h| h.host == host).count()
    }

    /// D2: from `limit` on its own clock on, this host begins no write to an area but to its own delta sector.
    pub fn limit(&self, host: HostIndex, rate: ClockRate, limit: LocalInstant) {
        self.state.borrow_mut().limits.insert(host, (rate, limit));
    }

    /// Host `host` believes that (owner_id, generation) owns `area` at `lver` (I5).
    pub fn believes(&self, host: HostIndex, area: Area, lver: u64, owner: [u64; 2]) {
        let known = *self.state.borrow_mut().owners.entry((area, lver)).or_insert(owner);
        if known != owner {
            let what =
                format!("lver {lver} belongs to host_id {}/{}, not to {}/{}", known[0], known[1], owner[0], owner[1]);
            self.violate("I5", Some(host), what);
        }
    }

    fn landed_delta(&self, io: &Facts, index: u64, old: &[u8], new: &[u8]) {
        let mine = self.state.borrow().host_ids.get(&io.writer.host).map(|id| u64::from(id.slot()));
        if mine != Some(index) {
            return self.violate("I1", Some(io.writer.host), format!("wrote the delta sector of slot {index}"));
        }
        let (old, new) = (read_leader(old), read_leader(new));
        let text = format!("delta gen {} ts {} landed", new.owner_generation, new.timestamp);
        self.note(Some(io.writer.host), text);
        if new.magic != LeaderKind::Delta.magic() {
            self.violate("format", Some(io.writer.host), format!("delta sector with magic {:08x}", new.magic));
        }
        if new.owner_generation < old.owner_generation {
            let what = format!("generation fell from {} to {}", old.owner_generation, new.owner_generation);
            self.violate("I2", Some(io.writer.host), what);
        }
    }

    fn landed_leader(&self, io: &Facts, area: Area, new: &[u8]) {
        let new = read_leader(new);
        let host = io.writer.host;
        let owner = [new.owner_id, new.owner_generation.0];
        let held = if new.timestamp.is_free() { "free" } else { "held" };
        self.note(Some(host), format!("leader lver {} owner {}/{} {held} landed", new.lver, owner[0], owner[1]));
        if new.magic != LeaderKind::Paxos.magic() {
            return self.violate("format", Some(host), format!("leader with magic {:08x}", new.magic));
        }
        self.believes(host, area, new.lver.0, owner);
        let mine = self.state.borrow().host_ids.get(&host).map(|id| id.get());
        if new.timestamp.is_free() && mine != Some(new.owner_id) {
            self.violate("release", Some(host), format!("freed the lease of host_id {}", new.owner_id));
        }
    }

    fn landed_dblock(&self, io: &Facts, area: Area, index: u64, old: &[u8], new: &[u8]) {
        let host = io.writer.host;
        let mine = self.state.borrow().host_ids.get(&host).map(|id| id.get());
        // Dblock p stands in sector p + 1.
        let p = index - 1;
        let (was, is) = (Dblock::read(old), Dblock::read(new));
        let Dblock { mbal, bal, inp, lver, .. } = is;
        let released = if is.released { " RELEASED" } else { "" };
        self.note(
            Some(host),
            format!("dblock {p} lver {lver} mbal {mbal} bal {bal} inp {}/{}{released}", inp[0], inp[1]),
        );
        if mine != Some(p) {
            let kept = old[..56] == new[..56] && is_zero(&new[128..144]);
            if !kept {
                self.violate("I1", Some(host), format!("wrote dblock {p}"));
            }
            return;
        }
        if !is.valid {
            self.violate("format", Some(host), format!("dblock {p} with a wrong checksum"));
        }
        if is.lver < was.lver || (is.lver == was.lver && is.mbal < was.mbal) {
            let what = format!("dblock {p} fell from lver {} mbal {} to lver {lver} mbal {mbal}", was.lver, was.mbal);
            self.violate("I2", Some(host), what);
        }
        if bal > mbal || (bal == 0) != (inp[0] == 0) {
            self.violate("I3", Some(host), format!("dblock {p}: mbal {mbal} bal {bal} inp {}", inp[0]));
        }
        if bal != 0 {
            let known = *self.state.borrow_mut().inps.entry((area, lver, bal)).or_insert(inp);
            if known != inp {
                self.violate("I4", Some(host), format!("lver {lver} bal {bal} has inp {known:?} and {inp:?}"));
            }
        }
    }
}

fn read_leader(sector: &[u8]) -> LeaderRecord {
    LeaderRecord::parse(&array_at::<{ leader::LEN }>(sector, 0))
}

impl Witness for Checkers {
    fn begins(&self, io: &Facts, beside: Option<&Facts>) {
        if io.op == Op::Read {
            return;
        }
        let host = io.writer.host;
        if let Some(other) = beside {
            let (pid, id) = (other.writer.process, other.id);
            let what = format!("a write at {} begins beside write {id} of process {pid}, still in flight", io.at);
            return self.violate("I6", Some(host), what);
        }
        let state = self.state.borrow();
        let Some((rate, limit)) = state.limits.get(&host).copied() else { return };
        let delta = state.areas.iter().any(|a| matches!(a, Area::Delta(..)) && inside(*a, io.at).is_some());
        drop(state);
        let now = rate.local(self.sim.now());
        if now >= limit && !delta {
            self.violate(
                "D2",
                Some(host),
                format!("a write at {} begins at {now:?}, past {limit:?} of its clock", io.at),
            );
        }
    }

    fn landed(&self, io: &Facts, sector_at: u64, old: &[u8], new: &[u8]) {
        let area = self.state.borrow().areas.iter().find_map(|a| inside(*a, sector_at).map(|index| (*a, index)));
        self.count(|c| {
            c.landed += 1;
            c.landed_late += u64::from(self.sim.now() - io.began >= 1_000_000_000);
        });
        if self.sim.now() - io.began >= 1_000_000_000 {
            self.note(Some(io.writer.host), format!("(late: write {} lands)", io.id));
        }
        let outside =
            |what: &str| self.violate("outside", Some(io.writer.host), format!("{what} at {sector_at} written"));
        match area {
            None => outside("a sector outside the lease areas"),
            Some((Area::Delta(_, geometry), index)) => {
                if index >= u64::from(geometry.max_hosts()) {
                    return outside("the tail of a lockspace");
                }
                self.landed_delta(io, index, old, new);
            }
            Some((area @ Area::Paxos(..), 0)) => self.landed_leader(io, area, new),
            Some((Area::Paxos(..), 1)) => outside("a request record"),
            Some((area @ Area::Paxos(_, geometry), index)) => {
                if index > u64::from(geometry.max_hosts()) + 1 {
                    return outside("the tail of a resource");
                }
                self.landed_dblock(io, area, index, old, new);
            }
        }
    }

    fn over(&self, io: &Facts, how: &str) {
        if io.op == Op::Write && how != "done" {
            self.note(Some(io.writer.host), format!("write {} at {} {how}", io.id, io.at));
        }
    }
}

/// The sector of `area` in which byte `at` lies.
fn inside(area: Area, at: u64) -> Option<u64> {
    let (LeaseOffset(start), geometry) = area.place();
    let sector = at.checked_sub(start)? / geometry.sector().bytes() as u64;
    (sector < u64::from(geometry.sectors())).then_some(sector)
}

/// A column for each host, a row for each thing that happened.
fn timeline(state: &State) -> String {
    let hosts = state.host_ids.len();
    let mut text = format!("{:>14} ", "seconds");
    for (host, id) in &state.host_ids {
        let title = format!("host {} (host_id {id})", host.0);
        let _ = write!(text, "| {title:COLUMN$}");
    }
    text.push('\n');
    for (at, host, what) in &state.rows {
        let _ = write!(text, "{:>14.6} ", std::time::Duration::from_nanos(*at).as_secs_f64());
        match host {
            Some(HostIndex(column)) => {
                (0..*column).for_each(|_| text.push_str(&format!("| {:COLUMN$}", "")));
                let _ = writeln!(text, "| {what}");
            }
            None => {
                let _ = writeln!(text, "{}| {what}", "-".repeat(hosts * (COLUMN + 2)));
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
