//! The state of one lease area and of the hosts that use it.
//!
//! | name in the paper | here |
//! | --- | --- |
//! | processor p | a [`Host`], by its host_id |
//! | dblock\[p] | [`Host::dblock`], on the medium |
//! | mbal; bal and inp | [`Dblock::mbal`]; [`Dblock::proposal`] |
//! | blocksSeen | [`Mind::seen`] |
//! | the output, committed | [`History::lvers`], known to nobody in the protocol |

use std::collections::{BTreeMap, BTreeSet};

use holdfast_io::ids::{Generation, HostId, HostTerm, Lver, RemoteTimestamp};
use paxos_lease::number::Ballot;

use super::rules::Over;
use super::why::Why;

/// What a ballot decides: the owner of the lease, and when it asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Inp {
    /// The owner to be.
    pub owner: HostTerm,
    /// The leader's timestamp to be.
    pub timestamp: RemoteTimestamp,
}

/// A value with the ballot at which it was proposed: set together (I3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Proposal {
    /// The ballot.
    pub bal: Ballot,
    /// The value.
    pub inp: Inp,
}

/// A host's block. Only that host writes it (I1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Dblock {
    /// Lease version.
    pub lver: Lver,
    /// Ballot in progress.
    pub mbal: Option<Ballot>,
    /// bal and inp.
    pub proposal: Option<Proposal>,
    /// The host has given this lver up, for good.
    pub released: bool,
}

/// The leader record: what somebody knew to be committed when he wrote it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Leader {
    /// Lease version.
    pub lver: Lver,
    /// Its owner; none after a format.
    pub owner: Option<HostTerm>,
    /// 0: the owner has freed it.
    pub timestamp: RemoteTimestamp,
    /// Who wrote it.
    pub writer: Option<HostId>,
}

/// A sector of the area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sector {
    /// Sector 0.
    Leader,
    /// The sector of a host.
    Dblock(HostId),
}

/// A write to the leader record, or to the host's own block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Write {
    /// The leader record.
    Leader(Leader),
    /// The writer's own block.
    Dblock(Dblock),
}

impl Write {
    /// The sector that it writes, if `by` issues it.
    #[must_use]
    pub const fn sector(&self, by: HostId) -> Sector {
        match self {
            Write::Leader(_) => Sector::Leader,
            Write::Dblock(_) => Sector::Dblock(by),
        }
    }
}

/// A write that has been issued and is not over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flight {
    /// Whose.
    pub host: HostId,
    /// What it writes.
    pub write: Write,
}

impl Flight {
    /// In which order flights stand in a state, so that equal states look alike.
    pub(super) const fn place(&self) -> (HostId, Sector) {
        (self.host, self.write.sector(self.host))
    }
}

/// A host, and what stands on the disk of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Host {
    /// Its block.
    pub dblock: Dblock,
    /// The generation of its latest term.
    pub generation: Generation,
    /// That term is not over.
    pub alive: bool,
    /// A client may write under this lver.
    pub holds: Option<Lver>,
    /// What it has read.
    pub mind: Mind,
}

/// What a host's process knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mind {
    /// Leader records it has read since it last began a ballot, the latest last.
    pub leaders: Vec<Leader>,
    /// Blocks it has read since its own block last landed, by slot.
    pub seen: Vec<Vec<Dblock>>,
    /// The lver for which it runs ballots.
    pub contest: Option<Contest>,
}

/// A host's ballots for one lver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Contest {
    /// The lver.
    pub lver: Lver,
    /// Why the one before it was known to be over.
    pub over: Over,
    /// The latest ballot.
    pub mbal: Ballot,
    /// That ballot has decided.
    pub decided: bool,
}

/// Readings of one sector that a host may still act on. It acts on the latest as a rule; what was on its way when an I/O
/// was given up may add some.
const READINGS: usize = 8;

/// Adds a reading.
pub(super) fn remember<T: PartialEq>(readings: &mut Vec<T>, reading: T) {
    match readings.iter().position(|r| *r == reading) {
        Some(known) => readings[known..].rotate_left(1),
        None => {
            if readings.len() == READINGS {
                readings.remove(0);
            }
            readings.push(reading);
        }
    }
}

/// What must never be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// Two hosts never hold the lease.
    S1,
    /// lver, and within it mbal, never fall.
    I2,
    /// bal <= mbal.
    I3,
    /// One inp for each (lver, bal).
    I4,
    /// One committed inp for each lver.
    I5,
}

/// What an observer of everything knows of one lver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decided {
    /// Its committed value.
    pub inp: Inp,
    /// A client has run under it.
    pub held: bool,
}

/// What no host knows: the observer's notes, from which the invariants are judged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct History {
    /// What has been committed.
    pub lvers: BTreeMap<Lver, Decided>,
    /// What has been broken.
    pub broken: BTreeSet<Invariant>,
}

impl History {
    /// A value is known to be committed. A leader record that is free no longer says when its owner asked.
    pub(super) fn committed(&mut self, lver: Lver, owner: HostTerm, timestamp: RemoteTimestamp) {
        let inp = Inp { owner, timestamp };
        let known = self.lvers.entry(lver).or_insert(Decided { inp, held: false }).inp;
        if known.owner != owner || (known.timestamp != timestamp && !timestamp.is_free()) {
            self.breaks(Invariant::I5);
        }
    }

    pub(super) fn held(&mut self, lver: Lver) {
        if let Some(decided) = self.lvers.get_mut(&lver) {
            decided.held = true;
        }
    }

    pub(super) fn breaks(&mut self, invariant: Invariant) {
        self.broken.insert(invariant);
    }
}

/// The whole of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    /// The leader record on the medium.
    pub leader: Leader,
    /// The hosts, by slot.
    pub hosts: Vec<Host>,
    /// Writes on their way.
    pub flights: Vec<Flight>,
    /// The observer's notes.
    pub history: History,
}

impl State {
    /// An area as it was formatted, and `hosts` hosts that have never joined.
    #[must_use]
    pub fn formatted(hosts: usize) -> Self {
        State { hosts: vec![Host::default(); hosts], ..State::default() }
    }

    /// The hosts with their host_ids.
    pub fn hosts(&self) -> impl Iterator<Item = (HostId, &Host)> {
        (0u32..).map_while(HostId::from_slot).zip(&self.hosts)
    }

    /// One host.
    ///
    /// # Errors
    /// [`Why::Unknown`]: there is none of this host_id.
    pub fn host(&self, p: HostId) -> Result<&Host, Why> {
        self.hosts.get(p.slot() as usize).ok_or(Why::Unknown(p))
    }

    pub(super) fn host_mut(&mut self, p: HostId) -> Result<&mut Host, Why> {
        self.hosts.get_mut(p.slot() as usize).ok_or(Why::Unknown(p))
    }

    /// Whether a write of `p` to this sector is on its way.
    #[must_use]
    pub fn in_flight(&self, p: HostId, sector: Sector) -> bool {
        self.flights.iter().any(|f| f.place() == (p, sector))
    }

    pub(super) fn take_flight(&mut self, host: HostId, write: Write) -> Result<(), Why> {
        let flight = Flight { host, write };
        let at = self.flights.iter().position(|f| *f == flight).ok_or(Why::NotInFlight(write.sector(host)))?;
        self.flights.remove(at);
        Ok(())
    }

    /// The term in which a host acts.
    ///
    /// # Errors
    /// [`Why::Unknown`].
    pub fn term(&self, p: HostId) -> Result<HostTerm, Why> {
        Ok(HostTerm { host_id: p, generation: self.host(p)?.generation })
    }

    /// Whether a term is over: its host_id is free, taken anew, or silent for long enough. Final once true.
    #[must_use]
    pub fn is_over(&self, term: HostTerm) -> bool {
        self.host(term.host_id)
            .is_ok_and(|h| h.generation > term.generation || (h.generation == term.generation && !h.alive))
    }
}
