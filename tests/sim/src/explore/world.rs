//! The medium, the hosts, and the steps that can be taken from a state.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::rc::Rc;

use holdfast_io::bytes::array_at;
use holdfast_io::clock::LocalInstant;
use holdfast_io::identity::{BootHash, Machine, MachineHash};
use holdfast_io::ids::{Generation, HostId, HostTerm, Lver, ResourceName, SpaceName};
use holdfast_io::leader::LeaderRecord;
use holdfast_io::seal::{AreaUuid, SealedFire};
use holdfast_io::units::{Geometry, LeaseOffset};
use paxos_lease::LeaseAt;
use paxos_lease::dblock::{Dblock, HostSector};
use paxos_lease::format::{NewLease, Writer};
use paxos_lease::layout::{LEADER, dblock_of};
use paxos_lease::liveness::{Gone, Verdict};

use super::histories::{Content, Histories, History, News, Wait};
use super::host::Role;
use super::{Crash, Setup};

const SECTOR: usize = 512;
const GEOMETRY: Geometry = Geometry::ALL[0];

/// Something that can happen next. Hosts, sectors and late writes by their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A host's read moves this sector: 0 is the leader record, n + 1 the dblock of host n.
    Reads(usize, usize),
    /// A host's write lands and is acknowledged.
    Writes(usize),
    /// What a host waits for passes its deadline.
    Deadline(usize),
    /// A host looks whether another is over.
    Looks(usize),
    /// The client of a host is over.
    ClientOver(usize),
    /// A late write lands.
    Lands(usize),
    /// A late write is over, and has not landed.
    Fails(usize),
    /// The daemon of a host dies.
    Dies(usize),
    /// A host is found dead.
    IsDead(usize),
    /// The daemon of a host starts again.
    Restarts(usize),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Host {
    role: Role,
    /// `None`: it is dead, or will do nothing more.
    history: Option<History>,
    holds: Option<Lver>,
    /// What its read has moved: (sector, content), in the order of the sectors.
    moved: Vec<(usize, Content)>,
    /// How many of its writes have passed their deadlines.
    late: u8,
    /// The last ballot that it has begun, and how many it were.
    ballot: (u64, u64),
    ballots: u32,
}

impl Host {
    const fn new(role: Role) -> Self {
        Host { role, history: None, holds: None, moved: Vec::new(), late: 0, ballot: (0, 0), ballots: 0 }
    }
}

/// A write that nobody waits for any longer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Flight {
    host: usize,
    /// Of the term that wrote it.
    generation: Generation,
    /// Which of that term's late writes.
    number: u8,
    sector: usize,
    data: Content,
}

/// A state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    /// The leader record, and a dblock for each host.
    medium: Vec<Content>,
    hosts: Vec<Host>,
    flights: Vec<Flight>,
    timeouts: u32,
    /// The host that may still die.
    mortal: Option<usize>,
    /// The host that has died, until it starts again.
    died: Option<usize>,
    /// It is found dead.
    dead: bool,
    /// Looks at it that may still be in vain.
    vain: u32,
    /// I5: lver, owner, generation, of leader records that landed.
    owners: Vec<[u64; 3]>,
    /// I4: lver, bal, owner, generation, of dblocks that landed.
    inps: Vec<[u64; 4]>,
    /// Without I6 nothing but a disagreement is looked for: S1 and I5.
    all_rules: bool,
    broken: Option<String>,
}

fn id(host: usize) -> HostId {
    u32::try_from(host).ok().and_then(HostId::from_slot).unwrap_or_else(|| unreachable!("a few hosts"))
}

/// Where a sector stands.
fn at_of(sector: usize) -> u64 {
    let index = if sector == 0 { LEADER } else { dblock_of(id(sector - 1)) };
    LeaseOffset(0).sector(index, GEOMETRY.sector())
}

/// A formatted lease, and what all hosts do.
pub(super) fn formatted(hosts: usize) -> (Histories, Vec<Content>) {
    let space = SpaceName::new(b"space").unwrap_or_else(|e| unreachable!("a fixed name: {e}"));
    let resource = ResourceName::new(b"disk").unwrap_or_else(|e| unreachable!("a fixed name: {e}"));
    let lease = LeaseAt { at: LeaseOffset(0), space, resource, geometry_hint: GEOMETRY };
    let machine = Machine { machine: MachineHash(9), boot: BootHash(1) };
    let writer = Writer { machine, fire: SealedFire::NoWatchdog };
    let uuid = AreaUuid(uuid::Uuid::from_u128(1));
    let new = NewLease { geometry: GEOMETRY, space, resource, num_hosts: u32::try_from(hosts).ok(), uuid, place: None };
    let plan = paxos_lease::format::plan(&new, &writer).unwrap_or_else(|e| unreachable!("a few hosts fit: {e}"));
    let blank: Rc<[u8]> = [0; SECTOR].into();
    let (mut shared, mut others) = (vec![blank; hosts + 1], Vec::new());
    for write in &plan {
        for (at, sector) in (write.offset_in_area..).step_by(SECTOR).zip(write.bytes.chunks(SECTOR)) {
            match (0..=hosts).find(|n| at_of(*n) == at) {
                Some(n) => shared[n] = sector.into(),
                None if sector.iter().any(|b| *b != 0) => others.push((at, sector.into())),
                None => {}
            }
        }
    }
    let mut histories = Histories::new(lease, others);
    let medium = shared.iter().map(|sector| histories.number(sector)).collect();
    (histories, medium)
}

impl World {
    /// Where all begins: an owner has acquired the lease, the others have begun nothing.
    pub(super) fn new(setup: &Setup, histories: &mut Histories, medium: Vec<Content>) -> Self {
        let term = |n| HostTerm { host_id: id(n), generation: Generation(1) };
        let roles = setup.parts.iter().enumerate().map(|(n, part)| Role {
            term: term(n),
            attempts: part.attempts,
            releases: part.releases,
            waits: part.waits,
        });
        let mut world = World {
            medium,
            hosts: roles.map(Host::new).collect(),
            flights: Vec::new(),
            timeouts: 0,
            mortal: None,
            died: None,
            dead: false,
            vain: 1,
            owners: Vec::new(),
            inps: Vec::new(),
            all_rules: setup.i6,
            broken: None,
        };
        for n in 0..setup.parts.len() {
            world.starts(n, histories);
            if setup.parts[n].owner {
                world.runs_alone(n, setup, histories);
            }
        }
        (world.timeouts, world.mortal) = (setup.timeouts, setup.crash.map(|(who, _)| who));
        world
    }

    /// One host goes on alone until it has nothing left to do but to wait for its client.
    fn runs_alone(&mut self, n: usize, setup: &Setup, histories: &mut Histories) {
        let own = |step: &Step| matches!(step, Step::Reads(h, _) | Step::Writes(h) | Step::Looks(h) if *h == n);
        while let Some(step) = self.steps(setup, histories).into_iter().find(own) {
            self.take(step, histories);
        }
    }

    pub(super) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    fn breaks(&mut self, what: impl FnOnce() -> String) {
        if self.broken.is_none() {
            self.broken =
                Some(what()).filter(|what| self.all_rules || what.starts_with("S1") || what.starts_with("I5"));
        }
    }

    pub(super) fn is_held(&self) -> bool {
        self.hosts.iter().any(|h| h.holds.is_some())
    }

    /// Whether somebody has begun too many ballots.
    pub(super) fn is_cut(&self, setup: &Setup) -> bool {
        self.hosts.iter().any(|h| h.ballots > setup.ballots)
    }

    pub(super) fn fingerprint(&self) -> u128 {
        let half = |salt: u64| {
            let mut state = DefaultHasher::new();
            salt.hash(&mut state);
            self.hash(&mut state);
            u128::from(state.finish())
        };
        half(1) << 64 | half(2)
    }

    /// All that can happen next.
    pub(super) fn steps(&self, setup: &Setup, histories: &Histories) -> Vec<Step> {
        let mut steps = Vec::new();
        for n in 0..self.hosts.len() {
            self.steps_of(n, histories, &mut steps);
        }
        for n in 0..self.flights.len() {
            steps.extend([Step::Lands(n), Step::Fails(n)]);
        }
        steps.extend(self.mortal.map(Step::Dies));
        // Its client is over: D3, or P1 (b).
        if let Some(n) = self.died.filter(|n| self.hosts[*n].holds.is_none() && !self.dead) {
            let under_way = self.flights.iter().any(|f| f.host == n);
            match setup.crash {
                Some((_, Crash::Death)) => steps.push(Step::IsDead(n)),
                // The fence.
                Some((_, Crash::Restart)) if !setup.i6 || !under_way => steps.push(Step::Restarts(n)),
                _ => {}
            }
        }
        steps
    }

    fn steps_of(&self, n: usize, histories: &Histories, steps: &mut Vec<Step>) {
        let host = &self.hosts[n];
        if host.holds.is_some() {
            // That of a dead daemon comes to its end too.
            if self.died == Some(n) || host.role.releases {
                steps.push(Step::ClientOver(n));
            }
            return;
        }
        let Some(history) = host.history else { return };
        match histories.waits(history) {
            Wait::Read { at, len } => {
                // Its own sector changes by its own late writes alone: without one, it is read along with the others.
                let own = !self.flights.iter().any(|f| f.host == n);
                let covered = self.covered(*at, *len).filter(|s| host.moved.iter().all(|(moved, _)| moved != s));
                let left: Vec<usize> = covered.collect();
                let others = left.iter().filter(|s| left.len() == 1 || !own || **s != n + 1);
                steps.extend(others.map(|s| Step::Reads(n, *s)));
            }
            Wait::Write { .. } => steps.push(Step::Writes(n)),
            Wait::Look(of) => {
                // One look too many would be one more delay.
                if self.vain > 0 || !matches!(self.verdict(*of), Verdict::Silent { .. }) {
                    steps.push(Step::Looks(n));
                }
                return;
            }
            _ => {}
        }
        // Whoever waits for a late write of its own may lose patience too.
        if self.timeouts > 0 {
            steps.push(Step::Deadline(n));
        }
    }

    fn covered(&self, at: u64, len: u64) -> impl Iterator<Item = usize> {
        (0..self.medium.len()).filter(move |s| (at..at + len).contains(&at_of(*s)))
    }

    pub(super) fn take(&mut self, step: Step, histories: &mut Histories) {
        match step {
            Step::Reads(n, sector) => self.reads(n, sector, histories),
            Step::Writes(n) => {
                if let Some((sector, data)) = self.writes(n, histories) {
                    self.lands(n, sector, data, histories);
                    self.learns(n, News::Written, histories);
                }
            }
            Step::Deadline(n) => {
                self.timeouts -= 1;
                self.loses_patience(n, histories);
                self.learns(n, News::Deadline, histories);
            }
            Step::Looks(n) => {
                let waits = self.hosts[n].history.map(|h| histories.waits(h));
                if let Some(Wait::Look(of)) = waits {
                    let verdict = self.verdict(*of);
                    self.vain -= u32::from(matches!(verdict, Verdict::Silent { .. }));
                    self.learns(n, News::Answer(verdict), histories);
                }
            }
            Step::ClientOver(n) => {
                self.hosts[n].holds = None;
                self.learns(n, News::ClientOver, histories);
            }
            Step::Lands(n) => {
                let flight = self.flights.remove(n);
                self.lands(flight.host, flight.sector, flight.data, histories);
                self.reaped(&flight, histories);
            }
            Step::Fails(n) => {
                let flight = self.flights.remove(n);
                self.reaped(&flight, histories);
            }
            Step::Dies(n) => {
                (self.mortal, self.died) = (None, Some(n));
                self.loses_patience(n, histories);
                self.hosts[n].history = None;
            }
            Step::IsDead(_) => self.dead = true,
            Step::Restarts(n) => {
                let Host { role: Role { term, .. }, ballot, .. } = self.hosts[n];
                let term = HostTerm { generation: term.generation.next(), ..term };
                self.hosts[n] = Host { ballot, ..Host::new(Role { term, attempts: 1, releases: false, waits: false }) };
                self.died = None;
                self.starts(n, histories);
            }
        }
    }

    fn starts(&mut self, n: usize, histories: &mut Histories) {
        let history = histories.start(self.hosts[n].role);
        self.stands(n, history, histories);
    }

    /// A host learns something, and goes on.
    fn learns(&mut self, n: usize, news: News, histories: &mut Histories) {
        if let Some(before) = self.hosts[n].history {
            let history = histories.after(before, news);
            self.stands(n, history, histories);
        }
    }

    /// This is a host's history now.
    fn stands(&mut self, n: usize, history: History, histories: &Histories) {
        self.hosts[n].history = Some(history);
        match histories.waits(history) {
            Wait::Client(lver) => {
                self.holds(n, *lver);
                if !self.hosts[n].role.releases {
                    self.hosts[n].history = None;
                }
            }
            Wait::Write { at, data } if *at == at_of(n + 1) => {
                let Dblock { lver, mbal, .. } = HostSector::parse(histories.content(*data)).dblock;
                let host = &mut self.hosts[n];
                let ballot = (lver.0, mbal.map_or(0, |b| b.get()));
                host.ballots += u32::from(ballot != host.ballot);
                host.ballot = ballot;
            }
            // What it has been told does not matter any more.
            Wait::Nothing => self.hosts[n].history = None,
            Wait::Failed(why) => {
                self.hosts[n].history = None;
                self.breaks(|| format!("host {n} cannot go on: {why}"));
            }
            _ => {}
        }
    }

    fn reads(&mut self, n: usize, sector: usize, histories: &mut Histories) {
        let Some(Wait::Read { at, len }) = self.hosts[n].history.map(|h| histories.waits(h).clone()) else { return };
        let covered: Vec<usize> = self.covered(at, len).collect();
        let content = self.medium[sector];
        let host = &mut self.hosts[n];
        host.moved.push((sector, content));
        if host.moved.len() + 1 == covered.len() && !self.flights.iter().any(|f| f.host == n) {
            // Its own sector, along with the last of the others.
            let own = covered.iter().find(|s| **s == n + 1 && host.moved.iter().all(|(moved, _)| moved != *s));
            host.moved.extend(own.map(|s| (*s, self.medium[*s])));
        }
        host.moved.sort_unstable();
        if host.moved.len() == covered.len() {
            let read = std::mem::take(&mut host.moved).into_iter().map(|(s, content)| (at_of(s), content)).collect();
            self.learns(n, News::Read(read), histories);
        }
    }

    /// What a host writes, and to which sector.
    fn writes(&mut self, n: usize, histories: &Histories) -> Option<(usize, Content)> {
        let Some(Wait::Write { at, data }) = self.hosts[n].history.map(|h| histories.waits(h)) else { return None };
        let sector = (0..self.medium.len()).find(|s| at_of(*s) == *at);
        if sector.is_none_or(|s| s != 0 && s != n + 1) {
            self.breaks(|| format!("I1: host {n} writes at {at}"));
        }
        sector.map(|sector| (sector, *data))
    }

    /// It stops waiting: a write goes on.
    fn loses_patience(&mut self, n: usize, histories: &Histories) {
        self.hosts[n].moved.clear();
        if let Some((sector, data)) = self.writes(n, histories) {
            let host = &mut self.hosts[n];
            let (number, generation) = (host.late, host.role.term.generation);
            host.late += 1;
            self.flights.push(Flight { host: n, generation, number, sector, data });
        }
    }

    fn reaped(&mut self, flight: &Flight, histories: &mut Histories) {
        if self.hosts[flight.host].role.term.generation == flight.generation {
            self.learns(flight.host, News::Reaped(flight.number), histories);
        }
    }

    fn verdict(&self, of: HostTerm) -> Verdict {
        match self.hosts.iter().enumerate().find(|(_, h)| h.role.term.host_id == of.host_id) {
            Some((_, host)) if host.role.term.generation > of.generation => Verdict::Gone(Gone::NewerGeneration),
            Some((n, _)) if self.died == Some(n) && self.dead => Verdict::Gone(Gone::Silent),
            Some((n, _)) if self.died == Some(n) => Verdict::Silent { earliest: LocalInstant::EARLIEST },
            _ => Verdict::Alive { earliest: LocalInstant::NEVER },
        }
    }

    // The rules.

    /// S1.
    fn holds(&mut self, n: usize, lver: Lver) {
        if self.hosts[n].holds.is_some() {
            return;
        }
        if let Some(rival) = self.hosts.iter().position(|h| h.holds.is_some()) {
            self.breaks(|| format!("S1: host {n} holds the lease beside host {rival}"));
        }
        self.hosts[n].holds = Some(lver);
    }

    fn lands(&mut self, n: usize, sector: usize, data: Content, histories: &Histories) {
        let new = histories.content(data);
        if sector == 0 {
            self.leader_lands(&LeaderRecord::parse(&array_at(new, 0)));
        } else {
            let old = HostSector::parse(histories.content(self.medium[sector])).dblock;
            self.dblock_lands(n, &old, &HostSector::parse(new).dblock);
        }
        self.medium[sector] = data;
    }

    fn leader_lands(&mut self, new: &LeaderRecord) {
        let is = [new.lver.0, new.owner_id, new.owner_generation.0];
        match self.owners.iter().find(|known| known[0] == is[0]).copied() {
            None => self.owners.push(is),
            Some(known) if known != is => {
                self.breaks(|| format!("I5: lver {} belongs to {:?}, and to {:?}", is[0], &known[1..], &is[1..]));
            }
            Some(_) => {}
        }
        self.owners.sort_unstable();
    }

    fn dblock_lands(&mut self, n: usize, old: &Dblock, new: &Dblock) {
        let Dblock { mbal, bal, inp, lver, .. } = *new;
        if (lver, mbal) < (old.lver, old.mbal) || (lver == old.lver && old.is_released() && !new.is_released()) {
            self.breaks(|| format!("I2: the dblock of host {n} falls from {old:?} to {new:?}"));
        }
        if bal > mbal || bal.is_some() != (inp.owner_id != 0) {
            self.breaks(|| format!("I3: host {n} writes {new:?}"));
        }
        let Some(bal) = bal else { return };
        let is = [lver.0, bal.get(), inp.owner_id, inp.generation.0];
        match self.inps.iter().find(|known| known[..2] == is[..2]).copied() {
            None => self.inps.push(is),
            Some(known) if known != is => self.breaks(|| format!("I4: ballot {bal} of lver {lver}: {known:?}, {is:?}")),
            Some(_) => {}
        }
        self.inps.sort_unstable();
    }

    /// Where nothing can happen any more: nobody is stuck, and a lease that nobody holds can be acquired. The first attempt may
    /// find that a host has won which is gone, and must say so in the leader record; the second succeeds.
    pub(super) fn check_end(&self, setup: &Setup, histories: &mut Histories) -> Result<(), String> {
        if let Some(n) = self.hosts.iter().position(|h| h.history.is_some() && h.holds.is_none()) {
            return Err(format!("host {n} is stuck"));
        }
        if self.is_held() || !self.all_rules {
            return Ok(());
        }
        let mut alive = (0..self.hosts.len()).filter(|n| self.died != Some(*n));
        alive.try_for_each(|n| self.clone().taken_by(n, setup, histories))
    }

    fn taken_by(mut self, n: usize, setup: &Setup, histories: &mut Histories) -> Result<(), String> {
        let Host { role, ballot, .. } = self.hosts[n];
        self.hosts[n] = Host { ballot, ..Host::new(Role { attempts: 2, releases: false, waits: false, ..role }) };
        self.starts(n, histories);
        self.runs_alone(n, setup, histories);
        match self.broken {
            Some(what) => Err(what),
            None if self.hosts[n].holds.is_none() => {
                Err(format!("nobody holds the lease, and host {n} cannot have it"))
            }
            None => Ok(()),
        }
    }

    /// A step, for a reader.
    pub(super) fn tell(&self, step: Step, histories: &Histories) -> String {
        let written = match step {
            Step::Writes(n) | Step::Deadline(n) => self.hosts[n].history.and_then(|h| match histories.waits(h) {
                Wait::Write { at, data } => Some((*at, *data)),
                _ => None,
            }),
            Step::Lands(n) | Step::Fails(n) => self.flights.get(n).map(|f| (at_of(f.sector), f.data)),
            _ => None,
        };
        written.map_or(format!("{step:?}"), |(at, data)| format!("{step:?}: {}", describe(at, histories.content(data))))
    }
}

fn describe(at: u64, sector: &[u8]) -> String {
    if at == at_of(0) {
        let leader = LeaderRecord::parse(&array_at(sector, 0));
        let free = if leader.timestamp.is_free() { " free" } else { "" };
        return format!("leader lver {} owner {}/{}{free}", leader.lver, leader.owner_id, leader.owner_generation);
    }
    let block = HostSector::parse(sector).dblock;
    let (mbal, bal) = (block.mbal.map_or(0, |b| b.get()), block.bal.map_or(0, |b| b.get()));
    let released = if block.is_released() { " RELEASED" } else { "" };
    let inp = block.inp;
    format!("dblock lver {} mbal {mbal} bal {bal} inp {}/{}{released}", block.lver, inp.owner_id, inp.generation)
}
