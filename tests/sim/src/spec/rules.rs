//! The rules: which writes a host may issue, and on what it must have read. Each is stated here and nowhere else.
//!
//! | a write of p to | that | is permitted when |
//! | --- | --- | --- |
//! | its block | begins a ballot (phase 1) | the lver before is over, and nothing of p holds |
//! | its block | proposes (phase 2) | every block was read after phase 1's, none outruns it, and the paper's choice is kept |
//! | its block | releases | nothing of p holds |
//! | the leader | publishes | p's ballot has decided, after every block was read once more |
//! | the leader | frees | p owns and wrote it, has released that lver, and nothing of p holds |

use holdfast_io::ids::{HostId, Lver};
use paxos_lease::number::Ballot;

use super::state::{Contest, Dblock, Inp, Leader, Mind, Proposal, Sector, State};
use super::why::Why;
use super::{Rule, Spec};

/// Why an lver is over: nobody holds the lease under it, and nobody will. All of it is final once true, so it may be
/// concluded from sectors that were read at different times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Over {
    /// Its leader record is free: its owner wrote that.
    Freed,
    /// It was our own, or a generation's of ours that is over (P1). Nothing of it holds.
    Own,
    /// Its owner's block is at a later lver: it could only begin that once it was done with this one.
    MovedOn,
    /// Another host published the owner's value, and the owner's block says RELEASED at this very lver.
    Released,
    /// Its owner's term is over: left, taken anew (P1), or silent (D1).
    TermOver,
    /// A block is two versions or more ahead of the leader record, which is therefore outdated; whoever began the ballot
    /// of that block knew the lver before it to be over.
    Outdated,
}

/// Whether `other` outruns `mine`: a later lver, or a larger mbal of the same.
#[must_use]
pub fn outruns(other: &Dblock, mine: &Dblock) -> bool {
    other.lver > mine.lver || (other.lver == mine.lver && other.mbal >= mine.mbal)
}

/// Whether a host may know, by what it has read, that an lver is over.
fn over(state: &State, p: HostId, lver: Lver) -> Result<Option<Over>, Why> {
    let mind = &state.host(p)?.mind;
    let seen = || mind.seen.iter().flatten();
    let ahead = state.host(p)?.dblock.lver == lver.next() || seen().any(|b| b.lver == lver.next());
    for leader in &mind.leaders {
        if leader.lver < lver && ahead {
            return Ok(Some(Over::Outdated));
        }
        if leader.lver != lver {
            continue;
        }
        let Some(owner) = leader.owner.filter(|_| !leader.timestamp.is_free()) else { return Ok(Some(Over::Freed)) };
        if owner.host_id == p && owner.generation <= state.host(p)?.generation {
            return Ok(Some(Over::Own));
        }
        let by_another = leader.writer != Some(owner.host_id);
        let owners = mind.seen.get(owner.host_id.slot() as usize);
        for block in owners.into_iter().flatten() {
            if block.lver > lver {
                return Ok(Some(Over::MovedOn));
            }
            if by_another && block.lver == lver && block.released {
                return Ok(Some(Over::Released));
            }
        }
        if state.is_over(owner) {
            return Ok(Some(Over::TermOver));
        }
    }
    Ok(None)
}

/// The proposal of the larger bal.
fn larger(a: Option<Proposal>, b: Option<Proposal>) -> Option<Proposal> {
    [a, b].into_iter().flatten().max_by_key(|p| p.bal)
}

impl Spec {
    /// Whether `number` is one of `p`'s: no two hosts ever use the same.
    #[must_use]
    pub fn is_number_of(&self, p: HostId, number: Ballot) -> bool {
        let hosts = u64::from(self.max_hosts);
        number.get() % hosts == p.get() % hosts
    }

    /// Whether a write of `p` to a sector may still land, so that `p` neither writes it nor relies on it (I6).
    #[must_use]
    pub fn in_doubt(&self, state: &State, p: HostId, sector: Sector) -> bool {
        self.keeps(Rule::I6) && state.in_flight(p, sector)
    }

    /// What `p` may begin a ballot for: `lver`, if the one before it is over as far as it knows.
    ///
    /// # Errors
    /// [`Why::NotOver`].
    pub fn may_contest(&self, state: &State, p: HostId, lver: Lver) -> Result<Over, Why> {
        let before = lver.0.checked_sub(1).map(Lver).ok_or(Why::NotOver(lver))?;
        match state.host(p)?.mind.contest {
            Some(contest) if contest.lver == lver => Ok(contest.over),
            _ => over(state, p, before)?.ok_or(Why::NotOver(before)),
        }
    }

    /// The block with which `p` begins ballot `mbal` of `lver`. Within one lver only mbal changes: others may have
    /// adopted bal and inp, and may have concluded from RELEASED that the lver is over. A new lver is a new Synod.
    #[must_use]
    pub fn phase_1(&self, old: &Dblock, lver: Lver, mbal: Ballot) -> Dblock {
        let kept = Dblock {
            proposal: old.proposal.filter(|_| self.keeps(Rule::ProposalStays)),
            released: old.released && self.keeps(Rule::ReleasedStays),
            ..*old
        };
        let kept = if lver == old.lver { kept } else { Dblock { lver, ..Dblock::default() } };
        Dblock { mbal: Some(mbal), ..kept }
    }

    /// The paper's choice, for every combination of what was read since phase 1 landed: the proposal of the largest bal,
    /// or `None` for a value of one's own.
    ///
    /// # Errors
    /// [`Why::NotRead`], [`Why::Outrun`]: there is a block of which nothing was read that does not outrun the ballot.
    pub fn choices(&self, state: &State, p: HostId) -> Result<Vec<Option<Proposal>>, Why> {
        let mine = &state.host(p)?.dblock;
        let mut choices = vec![mine.proposal];
        for (q, _) in state.hosts().filter(|(q, _)| *q != p) {
            let mut with_q = Vec::new();
            for block in in_time(state, p, q)? {
                let proposal = block.proposal.filter(|_| block.lver == mine.lver);
                with_q.extend(choices.iter().map(|c| larger(*c, proposal)));
            }
            with_q.dedup();
            choices = with_q;
        }
        Ok(choices)
    }

    /// The value that `p`'s ballot has just decided on: phase 2 has landed, and every block was read after it.
    pub(super) fn decided(&self, state: &State, p: HostId) -> Result<Option<Inp>, Why> {
        let host = state.host(p)?;
        let (Some(contest), Some(proposal)) = (host.mind.contest, host.dblock.proposal) else { return Ok(None) };
        let phase_2 = host.dblock.lver == contest.lver && host.dblock.mbal == Some(proposal.bal);
        if contest.decided || !phase_2 || proposal.bal != contest.mbal {
            return Ok(None);
        }
        let all = state.hosts().all(|(q, _)| q == p || in_time(state, p, q).is_ok());
        Ok((all || !self.keeps(Rule::ReadAfterPhase2)).then_some(proposal.inp))
    }

    /// Whether `p` may write this to its block. What it knows afterwards, if that changes.
    pub(super) fn may_write_dblock(&self, state: &State, p: HostId, new: &Dblock) -> Result<Option<Mind>, Why> {
        let old = &state.host(p)?.dblock;
        if new == old {
            return Ok(None);
        }
        if state.host(p)?.holds.is_some() {
            return Err(Why::StillHolds(p));
        }
        if new.lver < old.lver || (new.lver == old.lver && new.mbal < old.mbal) {
            return Err(Why::Falls);
        }
        if new.lver > old.lver || new.mbal > old.mbal {
            return self.may_begin(state, p, new).map(Some);
        }
        if *new == (Dblock { released: true, ..*old }) {
            // Whoever gives an lver up is done with it.
            return Ok(Some(Mind { contest: None, ..state.host(p)?.mind.clone() }));
        }
        self.may_propose(state, p, new).map(|()| None)
    }

    /// Phase 1.
    fn may_begin(&self, state: &State, p: HostId, new: &Dblock) -> Result<Mind, Why> {
        let host = state.host(p)?;
        let mbal = new.mbal.filter(|number| self.is_number_of(p, *number)).ok_or(Why::NotItsNumber)?;
        if *new != self.phase_1(&host.dblock, new.lver, mbal) {
            return Err(Why::Phase1Changes);
        }
        let over = self.may_contest(state, p, new.lver)?;
        let contest = Some(Contest { lver: new.lver, over, mbal, decided: false });
        Ok(Mind { leaders: Vec::new(), seen: host.mind.seen.clone(), contest })
    }

    /// Phase 2.
    fn may_propose(&self, state: &State, p: HostId, new: &Dblock) -> Result<(), Why> {
        let host = state.host(p)?;
        let contest = host.mind.contest.filter(|c| (c.lver, Some(c.mbal)) == (host.dblock.lver, host.dblock.mbal));
        let bal = contest.map(|c| c.mbal).ok_or(Why::NoBallot)?;
        let proposal = new.proposal.filter(|proposal| proposal.bal == bal).ok_or(Why::Phase2Changes)?;
        if *new != (Dblock { proposal: new.proposal, ..host.dblock }) {
            return Err(Why::Phase2Changes);
        }
        if host.dblock.proposal.is_some_and(|p| p.bal == bal) {
            return Err(Why::SecondValue);
        }
        let (fresh, inp) = (state.term(p)?, proposal.inp);
        let is_chosen = |choice: &Option<Proposal>| match choice {
            Some(best) => best.inp == inp,
            None => inp.owner == fresh && !inp.timestamp.is_free(),
        };
        if self.choices(state, p)?.iter().any(is_chosen) { Ok(()) } else { Err(Why::NotTheChoice(inp.owner)) }
    }

    pub(super) fn may_write_leader(&self, state: &State, p: HostId, new: &Leader) -> Result<(), Why> {
        if new.writer != Some(p) {
            return Err(Why::NotTheWriter);
        }
        if new.timestamp.is_free() { self.may_free(state, p, new) } else { self.may_publish(state, p, new) }
    }

    /// Whoever decided may publish, whoever's value it is. It may be held up before that, so the record may land late,
    /// over a newer one. No rule is against it: the blocks prove it outdated ([`Over::Outdated`]).
    fn may_publish(&self, state: &State, p: HostId, new: &Leader) -> Result<(), Why> {
        let host = state.host(p)?;
        let decided = host.mind.contest.is_some_and(|c| c.decided && c.lver == new.lver && c.lver == host.dblock.lver);
        let inp = host.dblock.proposal.filter(|_| decided).map(|p| p.inp).ok_or(Why::NotDecided(new.lver))?;
        if (new.owner, new.timestamp) == (Some(inp.owner), inp.timestamp) { Ok(()) } else { Err(Why::NotTheDecision) }
    }

    /// A leader record is freed by its owner's term, and only where it wrote that record itself: where another published,
    /// that host may still be at work, and RELEASED tells the same.
    fn may_free(&self, state: &State, p: HostId, new: &Leader) -> Result<(), Why> {
        let (host, me) = (state.host(p)?, state.term(p)?);
        if host.holds.is_some() {
            return Err(Why::StillHolds(p));
        }
        if host.dblock.lver != new.lver || !host.dblock.released {
            return Err(Why::NotReleased);
        }
        let ours = |l: &Leader| l.lver == new.lver && l.owner == Some(me) && l.writer == Some(p);
        if new.owner == Some(me) && host.mind.leaders.iter().any(ours) { Ok(()) } else { Err(Why::NotByItsHand) }
    }

    /// Whether a client of `p` may run.
    pub(super) fn may_hold(&self, state: &State, p: HostId) -> Result<(), Why> {
        let (host, me) = (state.host(p)?, state.term(p)?);
        if !host.alive {
            return Err(Why::TermOver(p));
        }
        if self.in_doubt(state, p, Sector::Dblock(p)) {
            return Err(Why::InFlight(Sector::Dblock(p)));
        }
        if host.dblock.released {
            return Err(Why::GivenUp(host.dblock.lver));
        }
        let lver = host.dblock.lver;
        let by_ballot = host.mind.contest.is_some_and(|c| c.decided && c.lver == lver)
            && host.dblock.proposal.is_some_and(|p| p.inp.owner == me);
        let published =
            host.mind.leaders.iter().any(|l| l.lver == lver && l.owner == Some(me) && !l.timestamp.is_free());
        if by_ballot || published { Ok(()) } else { Err(Why::NotDecided(lver)) }
    }
}

/// The readings of `q`'s block that do not outrun `p`'s: one at least.
fn in_time(state: &State, p: HostId, q: HostId) -> Result<impl Iterator<Item = &Dblock>, Why> {
    let host = state.host(p)?;
    let readings = host.mind.seen.get(q.slot() as usize).filter(|r| !r.is_empty()).ok_or(Why::NotRead(q))?;
    let mine = host.dblock;
    if readings.iter().all(|block| outruns(block, &mine)) {
        return Err(Why::Outrun(q));
    }
    Ok(readings.iter().filter(move |block| !outruns(block, &mine)))
}
