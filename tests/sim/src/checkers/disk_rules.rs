//! I1 to I6 and the format, at every sector that lands.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_io::bytes::{is_zero, u64_at};
use holdfast_io::ids::{Generation, HostId, HostTerm};

use super::sectors::{DELTA, Dblock, Leader, PAXOS};
use super::time_rules::{Look, instant_of};
use super::{Area, Checkers};
use crate::disk::{Facts, HostIndex, Writer};
use crate::executor::Nanos;

/// What is on the media, and what is on its way there.
#[derive(Default)]
pub(super) struct State {
    /// (area, lver, bal) -> inp.
    inps: BTreeMap<(Area, u64, u64), [u64; 3]>,
    /// (area, lver) -> (owner_id, generation), in landed leaders, and when the first of them landed.
    owners: BTreeMap<(Area, u64), ([u64; 2], Nanos)>,
    /// Versions that were given up before anybody had them, for the sake of a damaged sector: that may hide another owner, who is over.
    spent: BTreeSet<(Area, u64)>,
    /// The hosts whose dblocks in a lease a process has read as damaged, by its latest read of all of them.
    damaged: BTreeMap<(Writer, Area), BTreeSet<u64>>,
    /// Processes that have read their own dblock alone, and as damaged: they write it anew.
    lost_own: BTreeSet<Writer>,
    /// Leaders and delta sectors as they stand.
    leaders: BTreeMap<(Area, u64), Leader>,
    dblocks: BTreeMap<(Area, u64), Dblock>,
    /// What dblocks have ever said, whatever a peer put over it: nobody can unsee it.
    said: BTreeMap<(Area, u64), Said>,
    /// Who wrote the delta sectors and dblocks that stand there, and when they landed.
    by: BTreeMap<(Area, u64), (HostIndex, Nanos)>,
    /// Writes in flight: (disk, number) -> which.
    flights: BTreeMap<(usize, u64), Flight>,
    /// The sector of another host that a process has read last, alone, and whether it read right.
    read: BTreeMap<Writer, (Area, u64, Dblock, bool)>,
}

struct Flight {
    writer: Writer,
    at: u64,
    /// Of a write to another host's dblock.
    foreign: Option<Foreign>,
}

/// What whoever begins to write another host's dblock goes by.
pub(super) struct Foreign {
    /// That dblock, as it was read: a host that wakes may have written another since (A7).
    before: Dblock,
    /// Whether it was read as it stands on the medium.
    whole: bool,
    /// What it has seen of that host.
    seen: Vec<Look>,
}

/// The furthest that the dblock of one host has been.
#[derive(Clone, Copy, Default)]
struct Said {
    /// The highest lver.
    lver: u64,
    /// The highest lver with RELEASED, and the latest generation that said so there.
    released: Option<(u64, u64)>,
}

impl State {
    pub(super) fn reads(&mut self, reader: Writer, area: Area, of: u64, (sector, whole): (&[u8], bool)) {
        self.read.insert(reader, (area, of, Dblock::read(sector), whole));
    }

    /// A read that reaches over more than one dblock, or over its reader's own alone.
    pub(super) fn reads_dblocks(&mut self, reader: Writer, area: Area, own_alone: bool, damaged: BTreeSet<u64>) {
        if !own_alone {
            self.damaged.insert((reader, area), damaged);
        } else if damaged.is_empty() {
            self.lost_own.remove(&reader);
        } else {
            self.lost_own.insert(reader);
        }
    }

    /// Whether a process that writes its own dblock has read it as damaged.
    pub(super) fn has_lost_its_own(&self, writer: Writer) -> bool {
        self.lost_own.contains(&writer)
    }

    /// Whether it is a write to another host's sector that its writer has read as damaged.
    pub(super) fn begins(&mut self, io: &Facts, foreign: Option<(Area, u64, Vec<Look>)>) -> bool {
        let foreign = foreign.map(|(area, of, seen)| {
            let read = self.read.get(&io.writer).filter(|(a, p, ..)| (*a, *p) == (area, of));
            let read = read.map(|(.., dblock, whole)| (*dblock, *whole));
            let (before, whole) = read.unwrap_or_else(|| (self.dblock(area, of), true));
            Foreign { before, whole, seen }
        });
        let anew = foreign.as_ref().is_some_and(|foreign| !foreign.whole);
        self.flights.insert((io.disk, io.id), Flight { writer: io.writer, at: io.at, foreign });
        anew
    }

    pub(super) fn over(&mut self, io: &Facts) {
        self.flights.remove(&(io.disk, io.id));
    }

    pub(super) fn host_reset(&mut self, host: HostIndex) {
        self.flights.retain(|_, flight| flight.writer.host != host);
        self.read.retain(|reader, _| reader.host != host);
    }

    /// The leader of a resource, or sector `index` of a lockspace; formatted if nobody has written it yet.
    pub(super) fn leader(&self, area: Area, index: u64) -> Leader {
        self.leaders.get(&(area, index)).copied().unwrap_or_default()
    }

    pub(super) fn dblock(&self, area: Area, host_id: u64) -> Dblock {
        self.dblocks.get(&(area, host_id)).copied().unwrap_or_default()
    }

    /// The highest lver for which anybody has ever begun a ballot.
    pub(super) fn begun(&self, area: Area) -> u64 {
        self.said.iter().filter(|((a, _), _)| *a == area).map(|(_, said)| said.lver).max().unwrap_or(0)
    }

    /// Whether an owner (host_id, generation) has ever said of itself that it is done with a version: RELEASED, or a ballot for a
    /// later one. Final, whoever publishes what afterwards. Of an earlier generation's word a later one may know nothing, where it
    /// did not get onto more than a few of several disks.
    pub(super) fn gave_up(&self, area: Area, [host_id, generation]: [u64; 2], lver: u64) -> bool {
        let word = |said: &Said| said.lver > lver || said.released >= Some((lver, generation));
        self.said.get(&(area, host_id)).is_some_and(word)
    }

    pub(super) fn flights(&self) -> impl Iterator<Item = (usize, Writer, u64)> {
        self.flights.iter().map(|((disk, _), flight)| (*disk, flight.writer, flight.at))
    }

    /// When an owner's record of this lver was first seen on a disk.
    pub(super) fn published(&self, lease: Area, lver: u64) -> Nanos {
        self.owners.get(&(lease, lver)).map_or(0, |(_, at)| *at)
    }
}

impl Checkers {
    pub(super) fn check_landed(&self, io: &Facts, at: u64, old: &[u8], new: &[u8]) {
        let outside = |what: &str| self.violate("outside", Some(io.writer.host), format!("{what} at {at} written"));
        match self.area_of(io.disk, at) {
            None => outside("a sector outside the lease areas"),
            Some((area @ Area::Delta(_, _, geometry), index)) => {
                if index >= u64::from(geometry.max_hosts()) {
                    return outside("the tail of a lockspace");
                }
                self.landed_delta(io, area, index, new);
            }
            Some((area @ Area::Paxos(..), 0)) => self.landed_leader(io, area, new),
            Some((Area::Paxos(..), 1)) => outside("a request record"),
            Some((area @ Area::Paxos(_, _, geometry), index)) => {
                if index > u64::from(geometry.max_hosts()) + 1 {
                    return outside("the tail of a resource");
                }
                // Dblock p stands in sector p + 1.
                self.landed_dblock(io, area, index - 1, old, new);
            }
        }
    }

    fn landed_delta(&self, io: &Facts, area: Area, index: u64, new: &[u8]) {
        let host = io.writer.host;
        if u64::from(io.writer.host_id.slot()) != index {
            return self.violate_unexcused("I1", Some(host), format!("wrote the delta sector of slot {index}"));
        }
        let old = self.state.borrow().disk.leader(area, index);
        let new = Leader::read(new);
        self.note(Some(host), || format!("delta gen {} ts {} landed", new.owner[1], new.timestamp));
        if new.magic != DELTA || !new.valid {
            return self.violate("format", Some(host), format!("delta sector with magic {:08x}", new.magic));
        }
        let (by, since) = self.state.borrow().disk.by.get(&(area, index)).copied().unwrap_or((host, 0));
        if new.owner[1] < old.owner[1] {
            let what = format!("generation fell from {} to {}", old.owner[1], new.owner[1]);
            let term = self.state.borrow().time.term_of(io.writer);
            if by == host || new.is_free() {
                self.fell(io.writer, (area, index), what);
            } else if io.began >= since && self.clock_of(io.writer).is_some() {
                // A renewal of a host whose term is over may land late over another host's (D3), or be begun by one that stood still (A7);
                // a host's own never do (I6).
                let outlived = term.is_some_and(|term| self.state.borrow().outlived.has_outlived_itself(term));
                self.violate_unless(outlived, "I2", host, what);
            }
            self.state.borrow_mut().outlived.overwrites(io.writer.host_id, term, self.sim.now());
        }
        let mut state = self.state.borrow_mut();
        if new.owner == old.owner {
            let term = HostTerm { host_id: io.writer.host_id, generation: Generation(new.owner[1]) };
            state.outlived.replaces(term, instant_of(&old));
        }
        state.disk.leaders.insert((area, index), new);
        state.disk.by.insert((area, index), (host, self.sim.now()));
    }

    fn landed_leader(&self, io: &Facts, area: Area, new: &[u8]) {
        let new = Leader::read(new);
        let host = io.writer.host;
        let held = if new.is_free() { "free" } else { "held" };
        let on = self.copy_named(io.disk);
        self.note(Some(host), || {
            format!("leader lver {} owner {}/{} {held}{on}", new.lver, new.owner[0], new.owner[1])
        });
        if new.magic != PAXOS || !new.valid {
            return self.violate("format", Some(host), format!("leader with magic {:08x}", new.magic));
        }
        let lease = self.state.borrow().lease_of(area);
        let now = self.sim.now();
        let (known, _) = *self.state.borrow_mut().disk.owners.entry((lease, new.lver)).or_insert((new.owner, now));
        let spent = self.state.borrow().disk.spent.contains(&(lease, new.lver));
        let over = |owner| self.is_done_with(area, owner, new.lver);
        if known != new.owner && !(spent && over(known) && over(new.owner)) {
            let [a, b] = [known, new.owner];
            let what = format!("lver {} belongs to host_id {}/{}, not to {}/{}", new.lver, a[0], a[1], b[0], b[1]);
            self.violate("I5", Some(host), what);
        }
        if new.is_free() && io.writer.host_id.get() != new.owner[0] {
            self.violate("release", Some(host), format!("freed the lease of host_id {}", new.owner[0]));
        }
        self.state.borrow_mut().disk.leaders.insert((area, 0), new);
    }

    /// Which of several copies, to be said.
    fn copy_named(&self, disk: usize) -> String {
        if self.state.borrow().copy_of.is_empty() { String::new() } else { format!(" on disk {disk}") }
    }

    fn landed_dblock(&self, io: &Facts, area: Area, p: u64, old: &[u8], new: &[u8]) {
        let host = io.writer.host;
        let (was, is) = (Dblock::read(old), Dblock::read(new));
        let Dblock { mbal, bal, inp, lver, .. } = is;
        let released = if is.released { " RELEASED" } else { "" };
        let on = self.copy_named(io.disk);
        self.note(Some(host), || {
            format!("dblock {p} lver {lver} mbal {mbal} bal {bal} inp {}/{}{released}{on}", inp[0], inp[1])
        });
        if io.writer.host_id.get() != p {
            if self.is_made_anew(io, area, p, &is) {
                return;
            }
            // The exception: the mode block of a host that shares, and is dead, is cleared, and nothing else of it.
            // A peer that is excused from I1 zeroes all of it, and does nothing else.
            let zeroed = is_zero(new) && was.shared && self.is_excused(Some(host), "I1");
            let kept = zeroed || old[..56] == new[..56] && is_zero(&new[128..144]) && was.shared;
            let foreign =
                self.state.borrow_mut().disk.flights.get_mut(&(io.disk, io.id)).and_then(|f| f.foreign.take());
            let (before, seen) = foreign.map_or_else(Default::default, |f| (f.before, f.seen));
            if !kept {
                // It was dead, and shared the lease, when its sector was read, and has gone on since (A7).
                let slept = HostId::new(p).is_some_and(|id| self.has_a_sleeper(id));
                let cleared = before.shared && is == Dblock { shared: false, generation: 0, ..before };
                if slept && cleared {
                    self.note(Some(host), || format!("(I1 wrote dblock {p}: A7)"));
                    self.count(|c| c.excused += 1);
                    self.check_cleared(io.writer, area, (p, before.generation), &seen);
                } else {
                    self.violate_unexcused("I1", Some(host), format!("wrote dblock {p}"));
                }
            } else if !zeroed {
                self.check_cleared(io.writer, area, (p, u64_at(old, 136)), &seen);
            }
            return;
        }
        if !is.valid {
            self.violate("format", Some(host), format!("dblock {p} with a wrong checksum"));
        }
        if is.lver < was.lver || (is.lver == was.lver && is.mbal < was.mbal) {
            let what = format!("dblock {p} fell from lver {} mbal {} to lver {lver} mbal {mbal}", was.lver, was.mbal);
            self.fell(io.writer, (area, p), what);
        }
        if is.lver == was.lver && was.released && !is.released {
            self.fell(io.writer, (area, p), format!("dblock {p} took RELEASED back at lver {lver}"));
        }
        if bal > mbal || (bal == 0) != (inp[0] == 0) {
            self.violate("I3", Some(host), format!("dblock {p}: mbal {mbal} bal {bal} inp {}", inp[0]));
        }
        if bal != 0 {
            let lease = self.state.borrow().lease_of(area);
            let known = *self.state.borrow_mut().disk.inps.entry((lease, lver, bal)).or_insert(inp);
            if known != inp {
                self.violate("I4", Some(host), format!("lver {lver} bal {bal} has inp {known:?} and {inp:?}"));
            }
        }
        let mut state = self.state.borrow_mut();
        // A peer's terms are not followed: its word is its own host_id's for good, on the one disk that it uses.
        let generation = state.time.term_of(io.writer).map_or(u64::MAX, |term| term.generation.0);
        let said = state.disk.said.entry((area, p)).or_default();
        said.lver = said.lver.max(lver);
        said.released = said.released.max(is.released.then_some((lver, generation)));
        state.disk.dblocks.insert((area, p), is);
        state.disk.by.insert((area, p), (host, self.sim.now()));
    }

    /// Whether an owner (host_id, generation) of a version is over: it has said so, runs nowhere any more, or stood still as a whole (A7).
    fn is_done_with(&self, area: Area, owner: [u64; 2], lver: u64) -> bool {
        let Some(host_id) = HostId::new(owner[0]) else { return false };
        let term = HostTerm { host_id, generation: Generation(owner[1]) };
        let state = self.state.borrow();
        let runs = state.time.terms_of(host_id).contains(&term);
        let word = state.disk.gave_up(area, owner, lver);
        drop(state);
        word || !runs || self.stood_still_as(term)
    }

    /// I1's other exception: a damaged sector of a host that is gone is made anew by the exclusive owner of the version after the one that
    /// it says. What it said before is lost with it.
    fn is_made_anew(&self, io: &Facts, area: Area, p: u64, is: &Dblock) -> bool {
        let id = (io.disk, io.id);
        let owner = self.state.borrow().disk.dblock(area, io.writer.host_id.get());
        let held = !owner.released && owner.lver == is.lver + 1;
        let anew = Dblock { mbal: p, lver: is.lver, released: true, valid: true, ..Dblock::default() };
        let foreign = {
            let mut state = self.state.borrow_mut();
            let damaged = state.disk.flights.get(&id).is_some_and(|f| f.foreign.as_ref().is_some_and(|f| !f.whole));
            if !damaged || !held || *is != anew {
                return false;
            }
            state.disk.dblocks.insert((area, p), *is);
            state.disk.by.insert((area, p), (io.writer.host, self.sim.now()));
            state.disk.flights.get_mut(&id).and_then(|f| f.foreign.take())
        };
        self.count(|c| c.made_anew += 1);
        let published = self.state.borrow().lease_of(area);
        let published = self.state.borrow().disk.published(published, is.lver + 1);
        let seen = foreign.map_or_else(Vec::new, |f| f.seen);
        if self.check_absent(io.writer, p, &seen, published) {
            self.taken_by_damage(area, p, &seen);
        }
        true
    }

    /// A host that begins to spend a version says RELEASED there before anything else. It does so only over a damaged sector, of which the
    /// written specification knows nothing; what its own damaged sector had said may be lost, too.
    pub(super) fn note_spent(&self, io: &Facts, data: &[u8]) {
        let Some((area @ Area::Paxos(..), index)) = self.area_of(io.disk, io.at) else { return };
        let is = Dblock::read(data);
        let ours = self.clock_of(io.writer).is_some() && index == io.writer.host_id.get() + 1;
        // On several disks nothing is passed over; one that was slow is told of several steps at once.
        let alone = self.state.borrow().copies_of(area).count() == 1;
        if !ours || !alone || !is.released || is.bal > 0 {
            return;
        }
        let was = self.state.borrow().disk.dblock(area, index - 1);
        if is.lver > was.lver || was.bal > 0 || is.mbal > was.mbal && !was.released {
            let lease = self.state.borrow().lease_of(area);
            self.state.borrow_mut().disk.spent.insert((lease, is.lver));
            self.count(|c| c.spent += 1);
            self.without_spec();
            self.check_spent(io.writer, area);
        }
    }

    /// What a process has read as damaged in a lease, and who of those is not itself must be gone.
    fn check_spent(&self, writer: Writer, area: Area) {
        let damaged = self.state.borrow().disk.damaged.get(&(writer, area)).cloned().unwrap_or_default();
        // Damage behind what sanlock's checksum covers is none that anybody finds: one of them is enough.
        let own = writer.host_id.get();
        let passed = |p: &u64| *p == own || self.looks_at(writer, p - 1).iter().any(Look::is_of_nobody);
        if !damaged.iter().any(passed) {
            self.violate("D1", Some(writer.host), format!("passes over the damaged dblocks {damaged:?}"));
        }
    }

    /// I2: a sector says less than it did. A term that was outlived while its host stood still as a whole is excused, where
    /// another host with its host_id has written there since, or one that made its damaged sector anew (A7). Of this medium nothing more can be demanded: the run
    /// is over.
    fn fell(&self, writer: Writer, sector: (Area, u64), what: String) {
        let outlived = {
            let state = self.state.borrow();
            let anothers = state.disk.by.get(&sector).is_some_and(|(by, _)| *by != writer.host);
            let term = state.time.term_of(writer).filter(|_| anothers);
            term.is_some_and(|term| state.outlived.has_outlived_its_sector(term, sector.0))
        };
        if !outlived {
            return self.violate("I2", Some(writer.host), what);
        }
        self.violate_unless(true, "I2", writer.host, what);
        self.sim.halt();
    }
}
