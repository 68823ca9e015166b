//! Accepts a run: takes, in the specification, the steps that the run took on the medium, and names the first that is not
//! permitted.
//!
//! It sees what the disk sees: which sectors a read moves, which writes begin and land, whose host is reset. What a host
//! has read it knows as exactly as the host itself, since it reads the same sectors at the same instants. Three things it
//! concludes:
//! - A process that reads or writes under a higher number than before has a dead predecessor: what that one knew is gone.
//! - A term begins, and the one before it ends, when a delta sector with a higher generation lands; it ends when the sector
//!   lands free.
//! - A term may have ended by silence if its delta sector did not change for host_dead, the drift of both clocks and one
//!   tick, of true time. It is taken to have ended when somebody acts on that, and from then on must be quiet for good.
//!
//! It is meant for clusters in which every host is ours: real sanlock keeps other rules.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_io::ids::{HostId, HostTerm, Lver, RemoteTimestamp};
use holdfast_io::units::{Geometry, LeaseOffset};

use super::sectors::{self, Delta};
use super::state::{Invariant, Sector, State, Write};
use super::why::Why;
use super::{Spec, Step};
use crate::checkers::Area;
use crate::dice::nanos;
use crate::disk::{Facts, HostIndex};
use crate::executor::Nanos;

/// What is wrong with a step of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// It is not permitted.
    #[error("{step:?}: {why}")]
    Refused {
        /// The step.
        step: Step,
        /// Why not.
        why: Why,
    },
    /// It is permitted, and breaks an invariant: the specification itself would be wrong.
    #[error("{step:?} breaks {broken:?}")]
    Breaks {
        /// The step.
        step: Step,
        /// What it breaks.
        broken: Invariant,
    },
    /// What is written is no record.
    #[error("a {record} with {fault}")]
    Record {
        /// Which.
        record: &'static str,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// I1.
    #[error("I1: host {by} writes {sector:?}")]
    Foreign {
        /// Who.
        by: HostId,
        /// What.
        sector: Sector,
    },
    /// A write of several sectors, which may be torn.
    #[error("a lease sector is written by itself, not in {0} bytes")]
    NotOneSector(usize),
    /// The host was never named to the acceptor.
    #[error("host {} has no host_id", .0.0)]
    Nobody(HostIndex),
}

/// One resource, and where its run stands.
struct Resource {
    area: Area,
    disk: usize,
    at: LeaseOffset,
    geometry: Geometry,
    spec: Spec,
    state: State,
    /// Clients of each host that run.
    clients: BTreeMap<HostId, u32>,
    /// Writes in flight, by the number of the I/O.
    writes: BTreeMap<(usize, u64), (HostId, Write)>,
}

/// What is known about the silence of a term.
#[derive(Clone, Copy, Debug)]
struct Pulse {
    delta: Delta,
    changed: Nanos,
    /// It has been silent long enough before it changed last.
    was_silent: bool,
}

/// The acceptor of a run.
pub struct Acceptor {
    hosts: BTreeMap<HostIndex, HostId>,
    lockspaces: Vec<(usize, LeaseOffset, Geometry)>,
    resources: Vec<Resource>,
    pulses: BTreeMap<HostId, Pulse>,
    processes: BTreeMap<HostId, u32>,
    /// Terms that were taken to have ended by silence, since that was last asked.
    expired: Vec<HostTerm>,
}

impl Acceptor {
    /// For areas as they were formatted, used by these hosts.
    #[must_use]
    pub fn new(areas: &[Area], hosts: &BTreeMap<HostIndex, HostId>) -> Self {
        let most = hosts.values().map(|id| id.slot() as usize + 1).max().unwrap_or(0);
        let mut acceptor = Acceptor {
            hosts: hosts.clone(),
            lockspaces: Vec::new(),
            resources: Vec::new(),
            pulses: BTreeMap::new(),
            processes: BTreeMap::new(),
            expired: Vec::new(),
        };
        for area in areas {
            match *area {
                Area::Delta(disk, at, geometry) => acceptor.lockspaces.push((disk, at, geometry)),
                Area::Paxos(disk, at, geometry) => acceptor.resources.push(Resource {
                    area: *area,
                    disk,
                    at,
                    geometry,
                    spec: Spec::new(geometry.max_hosts()),
                    state: State::formatted(most),
                    clients: BTreeMap::new(),
                    writes: BTreeMap::new(),
                }),
            }
        }
        acceptor
    }

    fn host_id(&self, host: HostIndex) -> Result<HostId, Rejection> {
        self.hosts.get(&host).copied().ok_or(Rejection::Nobody(host))
    }

    /// Whether the I/O is of the latest process of its host. The first one of a later process tells that what the one
    /// before it knew is gone.
    fn is_current(&mut self, p: HostId, process: u32) -> Result<bool, Rejection> {
        let latest = self.processes.entry(p).or_insert(process);
        if *latest < process {
            *latest = process;
            self.resources.iter_mut().try_for_each(|r| r.step(Step::Forgets(p)))?;
        }
        Ok(self.processes.get(&p) == Some(&process))
    }

    /// Sectors of a read move, from byte `at` on.
    ///
    /// # Errors
    /// [`Rejection`].
    pub fn read(&mut self, io: &Facts, at: u64, len: u64) -> Result<(), Rejection> {
        if !self.resources.iter().any(|r| r.meets(io.disk, at, len)) {
            return Ok(());
        }
        let p = self.host_id(io.writer.host)?;
        if !self.is_current(p, io.writer.process)? {
            return Ok(());
        }
        self.resources.iter_mut().filter(|r| r.meets(io.disk, at, len)).try_for_each(|r| r.read(p, at, len))
    }

    /// The terms that were taken to have ended by silence, since this was last asked.
    pub fn take_expired(&mut self) -> Vec<HostTerm> {
        std::mem::take(&mut self.expired)
    }

    /// A write begins, with this content.
    ///
    /// # Errors
    /// [`Rejection`]: it is not permitted.
    pub fn issued(&mut self, io: &Facts, bytes: &[u8], now: Nanos) -> Result<(), Rejection> {
        let Some(index) = self.resources.iter().position(|r| r.meets(io.disk, io.at, io.len as u64)) else {
            return Ok(());
        };
        let p = self.host_id(io.writer.host)?;
        self.is_current(p, io.writer.process)?;
        let Acceptor { resources, pulses, expired, .. } = self;
        let resource = &mut resources[index];
        let Some(write) = resource.write(p, io, bytes)? else { return Ok(()) };
        resource.writes.insert((io.disk, io.id), (p, write));
        let step = Step::Issues(p, write);
        match resource.step(step) {
            Err(Rejection::Refused { why: Why::NotOver(lver), .. }) => {
                let silent = |term: HostTerm| pulses.get(&term.host_id).is_some_and(|pulse| pulse.silent(now));
                expired.extend(resource.expire_owners(p, lver, silent)?);
                resource.step(step)
            }
            done => done,
        }
    }

    /// A sector of a write landed.
    ///
    /// # Errors
    /// [`Rejection`].
    pub fn landed(&mut self, io: &Facts, at: u64, old: &[u8], new: &[u8], now: Nanos) -> Result<(), Rejection> {
        if let Some(slot) = self
            .lockspaces
            .iter()
            .find_map(|(disk, start, geometry)| sector_of(*start, *geometry, at).filter(|_| *disk == io.disk))
        {
            return self.delta_landed(slot, old, new, now);
        }
        let mut resources = self.resources.iter_mut();
        let Some((resource, (p, write))) =
            resources.find_map(|r| Some(r.writes.remove(&(io.disk, io.id))).flatten().map(|w| (r, w)))
        else {
            return Ok(());
        };
        resource.step(Step::Lands(p, write))
    }

    /// An I/O is over. What has not landed by now never does.
    ///
    /// # Errors
    /// [`Rejection`].
    pub fn over(&mut self, io: &Facts) -> Result<(), Rejection> {
        for resource in &mut self.resources {
            if let Some((p, write)) = resource.writes.remove(&(io.disk, io.id)) {
                return resource.step(Step::Fails(p, write));
            }
        }
        Ok(())
    }

    /// A delta sector landed: a term begins, ends, or goes on.
    fn delta_landed(&mut self, slot: u32, old: &[u8], new: &[u8], now: Nanos) -> Result<(), Rejection> {
        let Some(p) = HostId::from_slot(slot) else { return Ok(()) };
        let delta = sectors::delta(new).map_err(|fault| Rejection::Record { record: "delta sector", fault })?;
        let before = self.pulses.get(&p).copied();
        let rises = before.is_none_or(|b| b.delta.generation < delta.generation);
        let was_silent = !rises && before.is_some_and(|b| b.silent(now));
        if rises || old != new {
            self.pulses.insert(p, Pulse { delta, changed: now, was_silent });
        }
        for resource in &mut self.resources {
            if rises && delta.generation.0 > 0 {
                resource.step(Step::Joins(p, delta.generation))?;
            }
            if delta.free {
                resource.step(Step::Leaves(p))?;
            }
        }
        Ok(())
    }

    /// A client of this host runs under a resource.
    ///
    /// # Errors
    /// [`Rejection`]: the host does not know it to be its own.
    pub fn holds(&mut self, host: HostIndex, area: Area) -> Result<(), Rejection> {
        let p = self.host_id(host)?;
        let Some(resource) = self.resources.iter_mut().find(|r| r.area == area) else { return Ok(()) };
        let clients = resource.clients.entry(p).or_default();
        *clients += 1;
        if *clients == 1 { resource.step(Step::Holds(p)) } else { Ok(()) }
    }

    /// That client is over.
    ///
    /// # Errors
    /// [`Rejection`].
    pub fn ends(&mut self, host: HostIndex, area: Area) -> Result<(), Rejection> {
        let p = self.host_id(host)?;
        let Some(resource) = self.resources.iter_mut().find(|r| r.area == area) else { return Ok(()) };
        let clients = resource.clients.entry(p).or_default();
        *clients = clients.saturating_sub(1);
        if *clients == 0 { resource.step(Step::Ends(p)) } else { Ok(()) }
    }

    /// A host is reset: whatever it had on its way never lands.
    ///
    /// # Errors
    /// [`Rejection`].
    pub fn reset(&mut self, host: HostIndex) -> Result<(), Rejection> {
        let p = self.host_id(host)?;
        for resource in &mut self.resources {
            resource.clients.remove(&p);
            resource.writes.retain(|_, (q, _)| *q != p);
            resource.step(Step::Resets(p))?;
        }
        Ok(())
    }
}

impl Pulse {
    /// Whether the term has been silent for as long as D1 asks, now or before its sector changed last. A taker waits for
    /// (host_dead + a tick) * (1 + drift) / (1 - drift) on its own clock, which gains at most the drift.
    fn silent(&self, now: Nanos) -> bool {
        const DRIFT_PPM: u64 = 500;
        let needed = nanos(Duration::from_secs(self.delta.host_dead_s + 1)) / (1_000_000 - DRIFT_PPM) * 1_000_000;
        self.was_silent || now.saturating_sub(self.changed) >= needed
    }
}

impl Resource {
    fn meets(&self, disk: usize, at: u64, len: u64) -> bool {
        let LeaseOffset(start) = self.at;
        disk == self.disk && at < start + self.geometry.area_len() as u64 && start < at + len
    }

    fn offset(&self, sector: u64) -> u64 {
        self.at.0 + sector * self.geometry.sector().bytes() as u64
    }

    /// Takes a step, and looks whether it did any harm.
    fn step(&mut self, step: Step) -> Result<(), Rejection> {
        self.spec.advance(&mut self.state, step).map_err(|why| Rejection::Refused { step, why })?;
        match self.state.history.broken.first() {
            Some(broken) => Err(Rejection::Breaks { step, broken: *broken }),
            None => Ok(()),
        }
    }

    /// The leader record, and the blocks of the hosts there are. The others stay blank.
    fn read(&mut self, p: HostId, at: u64, len: u64) -> Result<(), Rejection> {
        let moved = |offset: u64| at <= offset && offset < at + len;
        if moved(self.offset(0)) {
            self.step(Step::Reads(p, Sector::Leader))?;
        }
        let hosts: Vec<HostId> = self.state.hosts().map(|(q, _)| q).collect();
        for q in hosts {
            if moved(self.offset(q.get() + 1)) {
                self.step(Step::Reads(p, Sector::Dblock(q)))?;
            }
        }
        Ok(())
    }

    /// What is being written. `None`: another host's block, unchanged, with its mode block cleared (I1's exception), of
    /// which the specification knows nothing.
    fn write(&self, p: HostId, io: &Facts, bytes: &[u8]) -> Result<Option<Write>, Rejection> {
        if io.len != self.geometry.sector().bytes() {
            return Err(Rejection::NotOneSector(io.len));
        }
        let bad = |record| move |fault| Rejection::Record { record, fault };
        let sector = sector_of(self.at, self.geometry, io.at).map(u64::from).unwrap_or_default();
        if sector == 0 {
            return sectors::leader(bytes).map(|l| Some(Write::Leader(l))).map_err(bad("leader record"));
        }
        let dblock = sectors::dblock(bytes).map_err(bad("dblock"))?;
        let Some(q) = sector.checked_sub(1).and_then(HostId::new) else {
            return Err(Rejection::Record { record: "request record", fault: "no business in a run" });
        };
        if q == p {
            return Ok(Some(Write::Dblock(dblock)));
        }
        let kept = self.state.host(q).is_ok_and(|host| host.dblock == dblock);
        if kept { Ok(None) } else { Err(Rejection::Foreign { by: p, sector: Sector::Dblock(q) }) }
    }

    /// `p` acts as if the owner of an lver that it read of were over: if it was silent for long enough it is. Nobody else is,
    /// though he was as silent: while it settled, say, with an io_timeout far below the one that was stored.
    fn expire_owners(
        &mut self,
        p: HostId,
        lver: Lver,
        silent: impl Fn(HostTerm) -> bool,
    ) -> Result<Vec<HostTerm>, Rejection> {
        let Ok(host) = self.state.host(p) else { return Ok(Vec::new()) };
        let held = host.mind.leaders.iter().filter(|l| l.lver == lver && l.timestamp != RemoteTimestamp::FREE);
        let owners: Vec<HostTerm> = held.filter_map(|l| l.owner).filter(|owner| owner.host_id != p).collect();
        let mut expired = Vec::new();
        for owner in owners {
            let current = self.state.term(owner.host_id) == Ok(owner);
            if current && !self.state.is_over(owner) && silent(owner) {
                self.step(Step::Expires(owner.host_id))?;
                expired.push(owner);
            }
        }
        Ok(expired)
    }
}

/// The sector of an area in which byte `at` lies.
fn sector_of(LeaseOffset(start): LeaseOffset, geometry: Geometry, at: u64) -> Option<u32> {
    let sector = at.checked_sub(start)? / geometry.sector().bytes() as u64;
    u32::try_from(sector).ok().filter(|s| *s < geometry.sectors())
}
