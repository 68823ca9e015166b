//! One ballot. Gafni & Lamport, "Disk Paxos", Distributed Computing 16 (2003), section 2: one Disk Synod for each lver.
//!
//! | paper | here |
//! | --- | --- |
//! | processor p | host_id |
//! | dblock\[p] | [`Dblock`], in the host's own sector |
//! | mbal, bal, inp | the fields of that name; inp is a proposed owner |
//! | "not an input" | bal and inp both none |
//! | blocksSeen | what [`write_then_read_majority`] returns |
//! | choose v in phase 1 | [`choose_inp`] |
//! | commit | the end of phase 2; the leader record only publishes it |
//!
//! A crash, a hang or a late write is harmless at every point of a ballot, because a block only ever says more (I2):
//! after phase 1's write others know a larger mbal; after phase 2's write they know a value that they adopt if it can
//! have been committed (I5). I6 keeps an older block from landing over a newer one.

use holdfast_io::clock::Clock;
use holdfast_io::disk::Disk;
use holdfast_io::ids::Lver;
use holdfast_io::planted::{Bug, planted};
use tracing::debug;

use crate::area::Area;
use crate::choose::{Outrun, choose_inp, outrun};
use crate::dblock::{Dblock, HostSector, Inp, ModeBlock};
use crate::error::AreaError;
use crate::majority::write_then_read_majority;
use crate::number::Ballot;

/// Our own block as we last read or wrote it, and what of it others may act upon.
pub(crate) struct Mine {
    dblock: Dblock,
    /// The mode block beside it.
    mode: ModeBlock,
    /// What our writes say of sharing: our claim, while we convert it, or nothing.
    keeps: ModeBlock,
    /// This acquire has written it, or tried to.
    pub(crate) begun: bool,
    /// The lver for which this acquire has proposed a value: others may adopt it until the lver is decided.
    pub(crate) proposed: Option<Lver>,
    /// A write of ours may still land.
    pub(crate) in_doubt: bool,
}

impl Mine {
    /// From our sector as it was read. `keeps`: what our writes say of sharing.
    pub(crate) const fn new(own: &HostSector, keeps: ModeBlock) -> Self {
        Mine { dblock: own.dblock, mode: own.mode, keeps, begun: false, proposed: None, in_doubt: false }
    }

    /// The mode block as last read or written.
    pub(crate) const fn mode(&self) -> &ModeBlock {
        &self.mode
    }

    /// What our writes say of sharing.
    pub(crate) const fn keeps(&self) -> &ModeBlock {
        &self.keeps
    }

    /// As last read or written.
    pub(crate) const fn dblock(&self) -> &Dblock {
        &self.dblock
    }

    /// Phase 1: only mbal changes within one lver - bal and inp are what others may have adopted, and RELEASED is final
    /// for the lver (another host may have concluded from it that the lver is over, whatever we write later). A new
    /// lver is a new Disk Synod: its block begins empty. A version that is to be `spent` we give up before we have it: whoever ever finds
    /// us to be its owner finds that with it.
    fn start_ballot(&mut self, Contested { lver, spent }: Contested, mbal: Ballot) {
        let old = self.dblock;
        let kept = if lver == old.lver && !planted(Bug::BallotFromEmptyBlock) {
            old
        } else {
            Dblock { lver, ..Dblock::default() }
        };
        self.dblock = Dblock { mbal: Some(mbal), ..if spent { kept.released() } else { kept } };
        self.mode = self.keeps;
        self.begun = true;
        assert!(self.dblock.lver >= old.lver, "I2: lver never falls");
        assert!(self.dblock.mbal > old.mbal, "I2: mbal never falls, and no number is used twice");
    }

    /// Phase 2: bal and inp, together (I3).
    fn propose(&mut self, inp: Inp) {
        assert!(self.dblock.mbal > self.dblock.bal, "I4: one inp per (lver, bal)");
        self.dblock = Dblock { bal: self.dblock.mbal, inp, ..self.dblock };
        self.proposed = Some(self.dblock.lver);
    }
}

/// A version that is contested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Contested {
    pub(crate) lver: Lver,
    /// Not to be held, but to be over (acquire/obscured.rs).
    pub(crate) spent: bool,
}

/// A value that is committed for its lver: it is in our block, and nobody can commit another (I5).
pub(crate) struct Chosen {
    pub(crate) inp: Inp,
    /// The blocks as phase 2 read them, mode blocks included. A host that shares the lease has said so before the lver
    /// before ours was over, so they are complete.
    pub(crate) seen: Vec<HostSector>,
}

/// A ballot without a result.
#[derive(Debug)]
pub(crate) enum BallotEnd {
    Outrun(Outrun),
    Area(AreaError),
}

impl From<AreaError> for BallotEnd {
    fn from(e: AreaError) -> Self {
        BallotEnd::Area(e)
    }
}

/// Runs ballot `mbal` of one lver among hosts 1 to `hosts`.
///
/// I/O: W dblock, R dblocks, W dblock, R dblocks.
pub(crate) async fn run_ballot<D: Disk, C: Clock>(
    area: &Area<'_, D, C>,
    hosts: u32,
    mine: &mut Mine,
    next: Contested,
    mbal: Ballot,
) -> Result<Chosen, BallotEnd> {
    debug!(lver = %next.lver, next.spent, %mbal, "ballot");
    mine.start_ballot(next, mbal);
    let seen = write_then_read_majority(area, hosts, mine).await?;
    not_outrun(area, mine, &seen)?;

    mine.propose(choose_inp(&seen, next.lver, area.fresh_inp()));
    let seen = write_then_read_majority(area, hosts, mine).await?;
    if !planted(Bug::Phase2ReadSkipped) {
        not_outrun(area, mine, &seen)?;
    }
    Ok(Chosen { inp: mine.dblock.inp, seen })
}

fn not_outrun<D: Disk, C: Clock>(area: &Area<'_, D, C>, mine: &Mine, seen: &[HostSector]) -> Result<(), BallotEnd> {
    match outrun(seen, area.me.term.host_id, &mine.dblock) {
        Some(by) => Err(BallotEnd::Outrun(by)),
        None => Ok(()),
    }
}
