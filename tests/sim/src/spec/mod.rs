//! The written specification: what hosts may do to a lease area, and nothing of how they do it.
//!
//! A state ([`State`]) is the medium, the writes that are on their way to it, and for each host its term, whether a client
//! of it runs, and what it has read. A step ([`Step`]) moves one sector, or tells what became of a host. [`Spec::advance`]
//! says which steps are permitted in a state, and what they lead to. It is the only statement of each rule, and two
//! readers hold the program against it:
//! - a model checker takes every permitted step from every state there is, within bounds, and looks for a state in which
//!   an invariant is broken (`tests/tests/spec_model.rs`);
//! - the acceptor ([`accept`]) takes the steps that a run of the simulator took, and complains about the first that is not
//!   permitted.
//!
//! # The protocol, as Gafni & Lamport ("Disk Paxos", 2003) would tell it
//! Each lver is one Disk Synod. To *begin a ballot* is phase 1: write mbal, read every block. To *propose* is phase 2:
//! write bal and inp, read every block. A ballot that no block read outruns *decides*: inp is committed for the lver.
//! Whoever decides may *publish* in the leader record. The owner that was decided on may let a client run; it *releases*
//! by a flag in its own block, and *frees* the leader record if it wrote that itself. Lver N + 1 begins when N is *over*.
//! A term - a host_id and its generation - ends by leaving, by a newer generation (P1), or by silence (D1 to D3).
//!
//! | to read about | in |
//! | --- | --- |
//! | the state, and what each part stands for | [`state`] |
//! | which writes are permitted; the choice of a value; when an lver is over | [`rules`] |
//! | steps, and what they lead to | this file |
//! | refusals | [`why`] |
//! | raw sectors | [`sectors`] |
//! | accepting a run | [`accept`] |
//!
//! # What is left out
//! Time (silence is one step), shared mode, several disks, damaged sectors. A read moves one sector at one instant, so a
//! read of an area is as many steps as it has sectors. What a host has read it may act on at any later time, in any
//! combination: a rule that only holds for fresh reads would be no rule.

pub mod accept;
pub mod rules;
pub mod sectors;
pub mod state;
pub mod why;

#[cfg(test)]
mod tests;

use holdfast_io::ids::{Generation, HostId};

use state::{Dblock, Flight, Invariant, Mind, Sector, State, Write, remember};
use why::Why;

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// A host reads a sector.
    Reads(HostId, Sector),
    /// A host issues a write. It may land at any later time.
    Issues(HostId, Write),
    /// A write lands, and is over.
    Lands(HostId, Write),
    /// A write is over without having landed.
    Fails(HostId, Write),
    /// A client of this host may write under the lease from now on.
    Holds(HostId),
    /// That client is over.
    Ends(HostId),
    /// What the host knew is gone: an acquire starts over, or the daemon's process has died. Its writes in flight and its
    /// client are not gone.
    Forgets(HostId),
    /// Nothing of the host runs any more and nothing of it is on its way. Its term is not over by that: nobody knows.
    Resets(HostId),
    /// The host_id is taken, by a newer generation: the term before it is over (P1).
    Joins(HostId, Generation),
    /// The host_id is given back: the term is over.
    Leaves(HostId),
    /// The host_id has been silent for so long that the term is over (D1).
    Expires(HostId),
}

/// A rule that can be switched off, to see what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// One write in flight for each sector.
    I6,
    /// A generation rises only when nothing of the one before it can write.
    P1,
    /// A term ends by silence only when nothing of it can write (with D2 and D3, which see to that).
    D1,
    /// A ballot reads every block after phase 2's write, too.
    ReadAfterPhase2,
    /// RELEASED stays for the rest of its lver. Real sanlock's next ballot clears it.
    ReleasedStays,
    /// Phase 1 keeps bal and inp of its lver. Real sanlock's writes zeros.
    ProposalStays,
}

/// The specification, for areas with this many hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// What ballot numbers are divided by to know whose they are.
    pub max_hosts: u32,
    /// A rule that is not in force.
    pub without: Option<Rule>,
}

impl Spec {
    /// All rules in force.
    #[must_use]
    pub const fn new(max_hosts: u32) -> Self {
        Spec { max_hosts, without: None }
    }

    fn keeps(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    /// The state after a step.
    ///
    /// # Errors
    /// [`Why`] the step is not permitted.
    pub fn next(&self, state: &State, step: Step) -> Result<State, Why> {
        let mut next = state.clone();
        self.advance(&mut next, step)?;
        Ok(next)
    }

    /// Takes a step. A step that is not permitted leaves the state as it was.
    ///
    /// # Errors
    /// [`Why`] it is not permitted.
    pub fn advance(&self, state: &mut State, step: Step) -> Result<(), Why> {
        match step {
            Step::Reads(p, sector) => self.reads(state, p, sector),
            Step::Issues(p, write) => self.issues(state, p, write),
            Step::Lands(p, write) => self.lands(state, p, write),
            Step::Fails(p, write) => state.take_flight(p, write),
            Step::Holds(p) => self.holds(state, p),
            Step::Ends(p) => {
                state.host_mut(p)?.holds = None;
                Ok(())
            }
            Step::Forgets(p) => {
                state.host_mut(p)?.mind = Mind::default();
                Ok(())
            }
            Step::Resets(p) => {
                let host = state.host_mut(p)?;
                (host.holds, host.mind) = (None, Mind::default());
                state.flights.retain(|f| f.host != p);
                Ok(())
            }
            Step::Joins(p, generation) => self.joins(state, p, generation),
            Step::Leaves(p) => self.term_ends(state, p, true),
            Step::Expires(p) => self.term_ends(state, p, self.keeps(Rule::D1)),
        }
    }

    /// What is read is remembered. The last block that phase 2 needed decides the ballot.
    fn reads(&self, state: &mut State, p: HostId, sector: Sector) -> Result<(), Why> {
        match sector {
            Sector::Leader => {
                let leader = state.leader;
                remember(&mut state.host_mut(p)?.mind.leaders, leader);
            }
            Sector::Dblock(q) => {
                let dblock = state.host(q)?.dblock;
                let seen = &mut state.host_mut(p)?.mind.seen;
                let slot = q.slot() as usize;
                if seen.len() <= slot {
                    seen.resize(slot + 1, Vec::new());
                }
                remember(&mut seen[slot], dblock);
            }
        }
        self.decides(state, p)
    }

    /// A write begins its way. Only a term that is not over writes, and only one write at a time to each sector (I6).
    fn issues(&self, state: &mut State, p: HostId, write: Write) -> Result<(), Why> {
        if !state.host(p)?.alive {
            return Err(Why::TermOver(p));
        }
        let sector = write.sector(p);
        if self.in_doubt(state, p, sector) {
            return Err(Why::InFlight(sector));
        }
        let mind = match write {
            Write::Leader(leader) => {
                self.may_write_leader(state, p, &leader)?;
                None
            }
            Write::Dblock(dblock) => self.may_write_dblock(state, p, &dblock)?,
        };
        if let Some(mind) = mind {
            state.host_mut(p)?.mind = mind;
        }
        let flight = Flight { host: p, write };
        let place = state.flights.partition_point(|f| f.place() <= flight.place());
        state.flights.insert(place, flight);
        Ok(())
    }

    /// The medium takes what comes. What an invariant says about it is written down.
    fn lands(&self, state: &mut State, p: HostId, write: Write) -> Result<(), Why> {
        state.take_flight(p, write)?;
        match write {
            Write::Leader(leader) => {
                state.leader = leader;
                if let Some(owner) = leader.owner {
                    state.history.committed(leader.lver, owner, leader.timestamp);
                }
                Ok(())
            }
            Write::Dblock(dblock) => {
                let host = state.host_mut(p)?;
                let old = std::mem::replace(&mut host.dblock, dblock);
                // What was read before our block landed says nothing about who has seen it.
                host.mind.seen.iter_mut().for_each(Vec::clear);
                for broken in broken_by(&old, &dblock) {
                    state.history.breaks(broken);
                }
                self.decides(state, p)
            }
        }
    }

    /// Notes that the ballot of `p` has decided, if it has (I5).
    fn decides(&self, state: &mut State, p: HostId) -> Result<(), Why> {
        let Some(inp) = self.decided(state, p)? else { return Ok(()) };
        let host = state.host_mut(p)?;
        let lver = host.dblock.lver;
        // The ballot needs them no more; but what says that its lver is over already stays true.
        let tells = |b: &Dblock| b.lver > lver || (b.lver == lver && b.released);
        host.mind.seen.iter_mut().for_each(|blocks| blocks.retain(tells));
        if let Some(contest) = &mut host.mind.contest {
            contest.decided = true;
        }
        state.history.committed(lver, inp.owner, inp.timestamp);
        Ok(())
    }

    /// A client runs: its host knows that it was decided on, and has not given the lver up.
    fn holds(&self, state: &mut State, p: HostId) -> Result<(), Why> {
        self.may_hold(state, p)?;
        if state.hosts().any(|(q, host)| q != p && host.holds.is_some()) {
            state.history.breaks(Invariant::S1);
        }
        let host = state.host_mut(p)?;
        let lver = host.dblock.lver;
        host.holds = Some(lver);
        state.history.held(lver);
        Ok(())
    }

    fn joins(&self, state: &mut State, p: HostId, generation: Generation) -> Result<(), Why> {
        let found = state.host(p)?.generation;
        if generation <= found {
            return Err(Why::Generation { found, wanted: generation });
        }
        self.term_ends(state, p, self.keeps(Rule::P1))?;
        let host = state.host_mut(p)?;
        (host.generation, host.alive) = (generation, true);
        Ok(())
    }

    /// A term is over for good. That nothing of it can write any more is what P1 and D1 to D3 are for.
    fn term_ends(&self, state: &mut State, p: HostId, must_be_quiet: bool) -> Result<(), Why> {
        if must_be_quiet && state.host(p)?.holds.is_some() {
            return Err(Why::StillHolds(p));
        }
        if must_be_quiet && state.flights.iter().any(|f| f.host == p) {
            return Err(Why::StillInFlight(p));
        }
        let host = state.host_mut(p)?;
        (host.alive, host.mind) = (false, Mind::default());
        Ok(())
    }
}

/// What the rules for writes must prevent: a block that falls (I2), a value of a later ballot than the block's (I3), a
/// second value for one ballot (I4).
fn broken_by(old: &Dblock, new: &Dblock) -> impl Iterator<Item = Invariant> {
    let falls = (new.lver, new.mbal) < (old.lver, old.mbal);
    let ahead = new.proposal.is_some_and(|p| Some(p.bal) > new.mbal);
    let second = match (old.proposal, new.proposal) {
        (Some(a), Some(b)) => old.lver == new.lver && a.bal == b.bal && a.inp != b.inp,
        _ => false,
    };
    [(falls, Invariant::I2), (ahead, Invariant::I3), (second, Invariant::I4)]
        .into_iter()
        .filter_map(|(broken, invariant)| broken.then_some(invariant))
}
