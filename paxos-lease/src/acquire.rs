//! Acquiring a lease exclusively (spec D 4.3 to 4.7).
//!
//! 1. Read the area, find the current lver to be over, or wait for that, or be refused.
//! 2. Run ballots for the next lver until one is not outrun, or somebody else's is published.
//! 3. Publish what was committed, whoever's it is, in the leader record.
//! 4. As owner: see that nobody shares the lease. Or, to share it: claim that in our mode block, and free the leader record.
//!
//! I/O of a free lease: R area, W dblock, R dblocks, W dblock, R dblocks, R leader, W leader. Refused by a living owner:
//! R area. Owner gone: one R leader more, and while waiting for it one R leader a look. Each lost ballot: R leader and up
//! to 2 W dblock, 2 R dblocks. Each other host's mode block: R its sector, and W it if that host is dead; on several disks W dblock
//! for all of those instead. To share it: W dblock, R leader, W leader. On several disks, where another host published it: W leader.
//!
//! Nothing here needs to be timely. The lver that ends is over for good before the first write; a pause of any length
//! after that finds either its ballot outrun or, at the worst, lets an outdated leader record land, which the dblocks
//! correct (entry.rs). A host paused past D2's instant has its writes refused by the disk.

use std::sync::Arc;

use holdfast_io::clock::{Clock, LocalInstant};
use holdfast_io::disk::Disk;
use holdfast_io::ids::{HostId, HostTerm, Lver};
use holdfast_io::leader::{LeaderRecord, SHORT_HOLD};
use holdfast_io::planted::{Bug, planted};
use holdfast_io::seal::AreaUuid;
use holdfast_io::stop::{Stop, Waited};
use holdfast_io::units::Geometry;
use tracing::{debug, info};

use crate::area::{Area, LeaseAt, Me, Snapshot, may_have_landed};
use crate::ballot::{BallotEnd, Chosen, Contested, Mine, run_ballot};
use crate::choose::{Outrun, block_of, largest_mbal, shared_holders};
use crate::damage::{Damage, lost_mbal};
use crate::dblock::{HostSector, ModeBlock};
use crate::entry::{Entry, Reread, compare, decide, given_up};
use crate::error::{AcquireError, AcquireFailed, AreaError, ReleaseError, Unread};
use crate::liveness::{HostLiveness, Verdict};
use crate::number::{Backoff, Ballot};
use crate::release::{Held, Left, Mode, Retract, give_back};
use crate::request::RequestRecord;
use crate::shared::{Standing, settle_shared};

mod obscured;

use obscured::Way;

/// How an acquire is to go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Exclusively, or shared.
    pub mode: Mode,
    /// Only if the leader record has this lver.
    pub expected_lver: Option<Lver>,
    /// Change the number of dblocks in use, if the lease becomes ours.
    pub num_hosts: Option<u32>,
    /// Wait for a silent owner to be gone; `false` is sanlock's OWNER_NOWAIT. Nobody waits for a living one.
    pub wait_for_silent: bool,
    /// Seeds the waits between ballots.
    pub backoff_seed: u64,
}

/// How it went.
#[derive(Debug)]
pub enum Acquired {
    /// The lease is ours.
    Ours(Held),
    /// It is not.
    Theirs(Refusal),
}

/// Why the lease is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// Its owner lives (-243).
    Alive,
    /// Its owner may be dying, and we were not to wait (-247).
    Silent,
    /// These hosts hold it in shared mode (-11).
    SharedHolders(Vec<HostTerm>),
    /// Another host won this lver (-244).
    LostBallot,
    /// Our ballot committed another host's value (-245).
    CommittedOther,
    /// Whoever stood in the way of sharing it was about to share it too, each time we looked (-246).
    SharedRetries,
    /// We were asked to stop.
    Stopped,
}

/// A refusal, with all that is known about it.
#[derive(Debug)]
#[must_use = "a refusal may leave a proposal on disk that has to be retracted"]
pub struct Refusal {
    /// Why.
    pub kind: RefusalKind,
    /// The leader record as last read; `None` if it never came to that.
    pub leader: Option<LeaderRecord>,
    /// Who owns the lease, or stands in its way.
    pub owner: Option<HostTerm>,
    /// The earliest instant at which the lease could change hands without a release, as far as that can be said.
    pub earliest: Option<LocalInstant>,
    /// What was written and has to be undone with [`crate::release::retract`].
    pub undo: Option<Retract>,
}

/// The longest time between two looks at a lease that is waited for: it may be released, or taken by another.
const LOOK: std::time::Duration = std::time::Duration::from_secs(1);
/// The shortest, should a verdict name an instant that has passed.
const SHORTEST_LOOK: std::time::Duration = std::time::Duration::from_millis(20);

/// How often a lease that is to be shared is asked for again while another host has it for as long as it takes to begin to
/// share it (spec D 4.9: SHORT_HOLD).
const SHORT_HOLD_RETRIES: u32 = 40;

/// Acquires `lease` for `me`, in the mode that `options` say.
///
/// The caller keeps two promises: one acquire at a time for a lease, and none while a [`Retract`] of that lease is
/// outstanding. So no write of ours is on its way to our dblock when it is read here.
///
/// # Errors
/// [`AcquireFailed`], with a duty where something was written.
pub async fn acquire<D: Disk, C: Clock, H: HostLiveness>(
    disk: &D,
    clock: &C,
    hosts: &H,
    lease: &LeaseAt,
    me: &Me,
    options: &Options,
    stop: &Stop,
) -> Result<Acquired, AcquireFailed> {
    attempt(disk, clock, hosts, lease, me, options, stop, None).await
}

/// An acquire by a host that shares the lease already: a conversion. What it writes of our dblock is noted there, however it ends.
#[expect(clippy::too_many_arguments, reason = "an acquire's own, and the claim")]
pub(crate) async fn attempt<D: Disk, C: Clock, H: HostLiveness>(
    disk: &D,
    clock: &C,
    hosts: &H,
    lease: &LeaseAt,
    me: &Me,
    options: &Options,
    stop: &Stop,
    sharing: Option<&mut Held>,
) -> Result<Acquired, AcquireFailed> {
    let claimed = sharing.as_ref().map(|held| held.lver());
    let claim = claimed.map_or(ModeBlock::NONE, |_| ModeBlock::shared(me.term.generation));
    let backoff = Backoff::new(options.backoff_seed);
    let mut attempt = Attempt {
        disk,
        clock,
        hosts,
        lease,
        me,
        options,
        stop,
        claim,
        claimed,
        backoff,
        mine: None,
        shape: None,
        leader: None,
        given_up: None,
        damaged: Vec::new(),
        spent: None,
        asked_before: RequestRecord::formatted(),
        undone: false,
    };
    let end = attempt.run_patiently().await;
    if let (Some(held), Some(mine)) = (sharing, &attempt.mine) {
        held.dblock = *mine.dblock();
    }
    match end {
        Ok(Done::Held(held)) => {
            info!(resource = %lease.resource, lver = %held.leader.lver, mode = ?held.mode, "acquired");
            Ok(Acquired::Ours(*held))
        }
        Ok(Done::Refused(kind, owner, earliest)) => {
            let leader = attempt.leader;
            Ok(Acquired::Theirs(Refusal { kind, leader, owner, earliest, undo: attempt.undo() }))
        }
        Err(error) => Err(AcquireFailed { error, undo: attempt.undo() }),
    }
}

/// The end of an acquire.
enum Done {
    Held(Box<Held>),
    Refused(RefusalKind, Option<HostTerm>, Option<LocalInstant>),
}

/// After each step: the end, or read the lease anew.
enum Next {
    Done(Done),
    Again,
}

fn refused(kind: RefusalKind, owner: Option<HostTerm>, earliest: Option<LocalInstant>) -> Next {
    Next::Done(Done::Refused(kind, owner, earliest))
}

/// Whether the lver that stands in the way is over.
enum Over {
    Yes,
    No(Next),
}

struct Attempt<'a, D, C, H> {
    disk: &'a D,
    clock: &'a C,
    hosts: &'a H,
    lease: &'a LeaseAt,
    me: &'a Me,
    options: &'a Options,
    stop: &'a Stop,
    /// What our mode block says, and keeps saying.
    claim: ModeBlock,
    /// If that we share the lease: since which version.
    claimed: Option<Lver>,
    backoff: Backoff,
    /// Our block, from the first read on.
    mine: Option<Mine>,
    /// The area's geometry and UUID, from the first read on.
    shape: Option<(Geometry, AreaUuid)>,
    /// The leader record as last seen.
    leader: Option<LeaderRecord>,
    /// Our record of a version that we have given up, as it has landed, and the num_hosts of the one before it.
    given_up: Option<(LeaderRecord, u64)>,
    /// Hosts' sectors that were damaged at the latest read of the area (obscured.rs).
    damaged: Vec<Damage>,
    /// The version that was spent for their sake.
    spent: Option<Lver>,
    /// The request record as last seen.
    asked_before: RequestRecord,
    /// What we wrote has been undone already.
    undone: bool,
}

impl<'a, D: Disk, C: Clock, H: HostLiveness> Attempt<'a, D, C, H> {
    /// Asks again where a host that holds the lease exclusively does so only to begin to share it: after milliseconds, for
    /// that is how long it takes.
    async fn run_patiently(&mut self) -> Result<Done, AcquireError> {
        let mut retries = 0;
        loop {
            let done = self.run().await?;
            let Done::Refused(kind, owner, earliest) = &done else { return Ok(done) };
            let passing = self.leader.is_some_and(|leader| leader.flags & SHORT_HOLD != 0);
            let busy = matches!(kind, RefusalKind::Alive | RefusalKind::LostBallot | RefusalKind::CommittedOther);
            if self.options.mode == Mode::Exclusive || !passing || !busy {
                return Ok(done);
            }
            if retries == SHORT_HOLD_RETRIES {
                return Ok(Done::Refused(RefusalKind::SharedRetries, *owner, *earliest));
            }
            retries += 1;
            let at = self.clock.now().after(self.backoff.next_wait());
            if self.stop.sleep_until(self.clock, at).await == Waited::Stopped {
                return Ok(Done::Refused(RefusalKind::Stopped, *owner, *earliest));
            }
        }
    }

    /// Reads the lease and acts on it, until there is an answer. Each new reading is due to a change that another host
    /// made, or to a back-off, so this loop makes no progress only where others do.
    async fn run(&mut self) -> Result<Done, AcquireError> {
        loop {
            if self.stop.is_set() {
                return Ok(Done::Refused(RefusalKind::Stopped, None, None));
            }
            let (area, snapshot) = Area::open(self.disk, self.clock, self.lease, self.me).await?;
            self.leader = Some(snapshot.leader);
            self.asked_before = snapshot.request;
            self.shape = Some((area.geometry, area.uuid));
            let mut mine = self.own_block(&area, &snapshot)?;
            let next = self.enter(&area, &snapshot, &mut mine).await;
            self.mine = Some(mine);
            match next? {
                Next::Done(done) => return Ok(done),
                Next::Again => {}
            }
        }
    }

    /// The paper's phase 0, on one disk: our block is what we wrote last or, at first, what stands on the disk.
    fn own_block(&mut self, area: &Area<'a, D, C>, snapshot: &Snapshot) -> Result<Mine, AcquireError> {
        let (path, offset) = self.place();
        let spent = self.spent == Some(snapshot.leader.lver);
        if let Some(expected) = self.options.expected_lver.filter(|l| *l != snapshot.leader.lver && !spent) {
            // On a second reading the lver may have moved on by our own ballot; then, too, it is not what was asked for - unless it
            // was never to be had (obscured.rs).
            return Err(AcquireError::Lver { path, offset, found: snapshot.leader.lver, expected });
        }
        let (least, most) = (self.me.term.host_id.get(), area.geometry.max_hosts());
        if let Some(found) = self.options.num_hosts.filter(|n| u64::from(*n) < least || *n > most) {
            return Err(AcquireError::NumHosts { path, offset, found, least, most });
        }
        if let Some(own) = area.unread.iter().find(|d| d.host_id == self.me.term.host_id) {
            if self.claim.is_shared() || self.mine.as_ref().is_some_and(|mine| mine.begun) {
                let source = area.dblock_error(own.host_id, own.source.clone());
                return Err(AcquireError::Obscured { host_id: own.host_id, why: Unread::Ours, source });
            }
            // Nothing of this acquire stands there.
            self.mine = None;
        }
        if let Some(mine) = self.mine.take() {
            let checked = crate::majority::untouched(area, &mine, &snapshot.hosts);
            if let Err(e) = checked {
                self.mine = Some(mine);
                return Err(e.into());
            }
            return Ok(mine);
        }
        let own = block_of(&snapshot.hosts, self.me.term.host_id).copied().unwrap_or_default();
        let sharing = own.mode.says(&ModeBlock::shared(self.me.term.generation));
        match (sharing, self.claim.is_shared()) {
            (true, false) => Err(AcquireError::AlreadyShared { path, offset }),
            (false, true) => Err(AcquireError::ClaimGone { path, offset, found: own.mode.generation }),
            _ if planted(Bug::ClaimDroppedInBallot) => Ok(Mine::new(&own, ModeBlock::NONE)),
            _ => Ok(Mine::new(&own, self.claim)),
        }
    }

    fn place(&self) -> (Arc<str>, u64) {
        (Arc::clone(self.disk.path()), self.lease.at.0)
    }

    /// Decides by what was read, waits if need be, and contests the next lver.
    async fn enter(
        &mut self,
        area: &Area<'a, D, C>,
        snapshot: &Snapshot,
        mine: &mut Mine,
    ) -> Result<Next, AcquireError> {
        let (path, offset) = self.place();
        let entry = decide(&snapshot.leader, &snapshot.hosts, self.me.term, self.disk.copies());
        debug!(lver = %snapshot.leader.lver, ?entry, "entry");
        let (next, reread) = match entry {
            Entry::Superseded(found) => {
                return Err(AcquireError::Superseded { path, offset, found, expected: self.me.term });
            }
            Entry::Ballot(next) => (next, false),
            Entry::IfGone(owner, next) => match self.await_over(area, &snapshot.leader, owner).await? {
                Over::Yes => (next, true),
                Over::No(then) => return Ok(then),
            },
        };
        match self.pass_over(area, snapshot, next).await? {
            Way::On(next) => self.contest(area, snapshot, mine, next, reread).await,
            Way::Ends(end) => Ok(end),
        }
    }

    /// Waits until the owner is gone, the lease has changed, or there is no use in waiting (spec D 4.4).
    async fn await_over(
        &mut self,
        area: &Area<'a, D, C>,
        leader: &LeaderRecord,
        owner: HostTerm,
    ) -> Result<Over, AcquireError> {
        loop {
            let earliest = match self.hosts.verdict(owner).await? {
                Verdict::Gone(why) => {
                    info!(%owner, ?why, lver = %leader.lver, "owner gone");
                    return Ok(Over::Yes);
                }
                Verdict::Alive { earliest } => {
                    return Ok(Over::No(refused(RefusalKind::Alive, Some(owner), Some(earliest))));
                }
                Verdict::Silent { earliest } => Some(earliest),
                Verdict::Unknown => None,
            };
            if !self.options.wait_for_silent {
                return Ok(Over::No(refused(RefusalKind::Silent, Some(owner), earliest)));
            }
            if self.stop.sleep_until(self.clock, self.next_look(earliest)).await == Waited::Stopped {
                return Ok(Over::No(refused(RefusalKind::Stopped, Some(owner), earliest)));
            }
            let found = area.read_leader().await?;
            if found != *leader {
                return Ok(Over::No(Next::Again));
            }
            let copies = self.disk.copies();
            let word = leader.write_id != leader.owner_id || copies > 1;
            if word && given_up(leader, &area.read_host(owner.host_id).await?.dblock, copies) {
                return Ok(Over::Yes);
            }
        }
    }

    /// Ballots for lver `next`, whose predecessor is over, until one is decided (spec D 4.5).
    async fn contest(
        &mut self,
        area: &Area<'a, D, C>,
        snapshot: &Snapshot,
        mine: &mut Mine,
        next: Contested,
        mut reread: bool,
    ) -> Result<Next, AcquireError> {
        let hosts = u32::try_from(snapshot.hosts.len()).unwrap_or(area.geometry.max_hosts());
        let mut seen =
            largest_mbal(&snapshot.hosts).max(lost_mbal(&area.unread, self.me.term.host_id, &snapshot.hosts));
        if next.lver == Lver(u64::MAX) {
            return Err(self.used_up("lver"));
        }
        loop {
            if reread {
                match self.look_again(area, &snapshot.leader, mine, next.lver).await? {
                    Ok(()) => {}
                    Err((leader, end)) => return self.published(area, mine, hosts, leader, end).await,
                }
            }
            reread = true;
            let mbal = Ballot::above(seen, self.me.term.host_id, area.geometry.max_hosts());
            let mbal = mbal.ok_or_else(|| self.used_up("mbal"))?;
            let by = match run_ballot(area, hosts, mine, next, mbal).await {
                Ok(chosen) => return self.commit(area, &snapshot.leader, mine, (chosen, next)).await,
                Err(BallotEnd::Area(e)) => return Err(e.into()),
                Err(BallotEnd::Outrun(by)) => by,
            };
            debug!(lver = %next.lver, %mbal, ?by, "outrun");
            let at = self.clock.now().after(self.backoff.next_wait());
            if self.stop.sleep_until(self.clock, at).await == Waited::Stopped {
                return Ok(refused(RefusalKind::Stopped, None, None));
            }
            match by {
                Outrun::Lver(_) => return Ok(Next::Again),
                Outrun::Mbal(larger) => seen = Some(larger.max(mbal)),
            }
        }
    }

    fn used_up(&self, field: &'static str) -> AcquireError {
        let (path, offset) = self.place();
        AcquireError::UsedUp { path, offset, field }
    }

    /// Before another ballot: is the leader record still the one that this lver follows? The inner `Err` is how it ends.
    async fn look_again(
        &mut self,
        area: &Area<'a, D, C>,
        known: &LeaderRecord,
        mine: &Mine,
        next: Lver,
    ) -> Result<Result<(), (LeaderRecord, Published)>, AcquireError> {
        let found = area.read_leader().await?;
        self.leader = Some(found);
        Ok(match compare(known, &found, next) {
            Reread::Unchanged => Ok(()),
            Reread::Past | Reread::Changed => Err((found, Published::Again)),
            Reread::Published => Err((found, whose(&found, self.me.term, mine))),
        })
    }

    /// Somebody published what was committed for our lver.
    async fn published(
        &mut self,
        area: &Area<'a, D, C>,
        mine: &mut Mine,
        hosts: u32,
        leader: LeaderRecord,
        end: Published,
    ) -> Result<Next, AcquireError> {
        match end {
            Published::Again => Ok(Next::Again),
            Published::Theirs(owner) => Ok(refused(RefusalKind::LostBallot, owner, None)),
            Published::Ours => {
                // Our last ballot was outrun, so what it read is old; whoever shares has said so before our lver began.
                let seen = area.read_hosts(hosts).await?;
                self.own(area, leader, mine, &seen).await
            }
        }
    }

    /// A value is committed: publish it (spec D 4.7).
    ///
    /// The leader record is read once more right before it is written. That does not make the write safe - we may be
    /// held up between the two, and our record land over a newer one - but rare; what makes it safe is that every host
    /// that holds the lease keeps its dblock at its lver, so that the next acquire finds it there (entry.rs). A record
    /// of an older lver is overwritten whatever it says: it is out of date.
    ///
    /// Another host's value is published as well: that host may have crashed, and without a leader record for this lver
    /// everybody would run the same ballot again. It is safe, since all who publish this lver name the same owner (I5);
    /// if that owner has moved on meanwhile, the reread shows it, or the record is out of date as above.
    async fn commit(
        &mut self,
        area: &Area<'a, D, C>,
        known: &LeaderRecord,
        mine: &mut Mine,
        (chosen, Contested { lver, spent }): (Chosen, Contested),
    ) -> Result<Next, AcquireError> {
        if let Some(end) = self.nobody_may_own(area, &chosen.seen, known.lver).await? {
            return Ok(end);
        }
        let found = area.read_leader().await?;
        self.leader = Some(found);
        let leader = match compare(known, &found, lver) {
            Reread::Past => return Ok(Next::Again),
            // A version that is spent may have two owners, who are both over (obscured.rs).
            Reread::Published
                if found.owner() != chosen.inp.owner() && !spent && !given_up_in(&chosen.seen, &found) =>
            {
                let (path, offset) = self.place();
                let (found, expected) = (found.owner(), chosen.inp.owner());
                return Err(AcquireError::Disagreement { path, offset, lver, found, expected });
            }
            Reread::Published => found,
            Reread::Unchanged | Reread::Changed => {
                let leader = self.record(known, mine, &chosen);
                if let Err(e) = area.write_leader(&leader).await {
                    mine.in_doubt |= may_have_landed(&e);
                    return Err(e.into());
                }
                self.leader = Some(leader);
                if leader.owner() == Some(self.me.term) && mine.dblock().is_released() {
                    self.given_up = Some((leader, known.num_hosts));
                }
                leader
            }
        };
        if spent {
            self.spent = Some(lver);
            return Ok(Next::Again);
        }
        match whose(&leader, self.me.term, mine) {
            Published::Ours => self.own(area, leader, mine, &chosen.seen).await,
            Published::Again => Ok(Next::Again),
            // A value whose proposer has given the lver up: nobody holds it, go on to the next lver.
            Published::Theirs(Some(owner)) if released_at(&chosen.seen, owner.host_id, lver) => Ok(Next::Again),
            Published::Theirs(owner) => Ok(refused(RefusalKind::CommittedOther, owner, None)),
        }
    }

    fn record(&self, known: &LeaderRecord, mine: &Mine, chosen: &Chosen) -> LeaderRecord {
        let mut leader = LeaderRecord {
            lver: mine.dblock().lver,
            owner_id: chosen.inp.owner_id,
            owner_generation: chosen.inp.generation,
            timestamp: chosen.inp.timestamp,
            write_id: self.me.term.host_id.get(),
            write_generation: self.me.term.generation.0,
            write_timestamp: self.clock.now().disk_seconds(),
            ..*known
        };
        if chosen.inp.owner() == Some(self.me.term) {
            leader.flags &= !SHORT_HOLD;
            if self.options.mode == Mode::Shared {
                leader.flags |= SHORT_HOLD;
            }
            // What we publish and pass over may land late, over a record with a larger num_hosts, and our block has gone on by then:
            // whoever relied on it would overlook hosts that hold or share the lease (S1). So it leaves out nobody.
            if mine.dblock().is_released() {
                leader.num_hosts = leader.max_hosts;
                return leader;
            }
            // Where it has landed and we win the very next version, it fell on no later record: every sector was read, and nobody has
            // had that version. Any later one, and it may have fallen on a larger number.
            let is_next = |ours: &LeaderRecord| ours == known && ours.lver.next() == leader.lver;
            let before = self.given_up.filter(|(ours, _)| is_next(ours)).map_or(known.num_hosts, |(_, before)| before);
            // Never so few that a host that shares the lease is overlooked from then on (S1).
            let sharing = shared_holders(&chosen.seen, self.me.term.host_id);
            let least = sharing.iter().map(|holder| holder.host_id.get()).max().unwrap_or(0);
            leader.num_hosts = self.options.num_hosts.map_or(before, u64::from).max(least);
        }
        leader
    }

    /// The lease is ours by the ballot; it is ours to use if nobody shares it.
    async fn own(
        &mut self,
        area: &Area<'a, D, C>,
        leader: LeaderRecord,
        mine: &mut Mine,
        seen: &[HostSector],
    ) -> Result<Next, AcquireError> {
        assert_eq!(leader.lver, mine.dblock().lver, "our block stays at the lver that we hold");
        let leader = self.by_our_own_hand(area, leader, mine).await?;
        self.still_claimed(area).await?;
        self.make_anew(area, leader.lver, mine).await?;
        let held = Held::new(area, leader, *mine.dblock(), self.asked_before);
        if self.options.mode == Mode::Shared {
            // Others may share it as well: they need not be looked at.
            let claim = ModeBlock::shared(self.me.term.generation);
            return match give_back(area, &held, &claim, None).await {
                Ok(()) => Ok(Next::Done(Done::Held(Box::new(Held { mode: Mode::Shared, ..held })))),
                Err(e) => Err(self.in_doubt(mine, e)),
            };
        }
        let mut sharing = shared_holders(seen, self.me.term.host_id);
        if planted(Bug::SharersOverlooked) {
            sharing.clear();
        }
        let standing = self.settled(area, &sharing).await?;
        let Some(first) = standing.hosts.first().copied() else {
            if let Err(e) = self.unclaim(area, mine, &standing.passed_over).await {
                return Err(self.in_doubt(mine, e.into()));
            }
            return Ok(Next::Done(Done::Held(Box::new(held))));
        };
        // Shared holders live: give back what we have just won, and go on sharing what we shared.
        let released = give_back(area, &held, mine.keeps(), None).await;
        self.undone = released.is_ok();
        let kind = RefusalKind::SharedHolders(standing.hosts);
        Ok(refused(kind, Some(first), standing.earliest))
    }

    /// A conversion goes on from a claim that nobody has passed over (A7): whoever shared the lease without a gap knows what it guards. On
    /// one disk such a claim is cleared, and our first look tells.
    async fn still_claimed(&self, area: &Area<'a, D, C>) -> Result<(), AcquireError> {
        match self.claimed {
            Some(since) if self.disk.copies() > 1 && area.is_passed_over(since).await? => {
                let (path, offset) = self.place();
                Err(AcquireError::ClaimGone { path, offset, found: self.me.term.generation })
            }
            _ => Ok(()),
        }
    }

    /// Who of the hosts that share the lease stands in our way. On several disks the claim of a dead host stays where it is (shared.rs), so each
    /// newcomer meets it; where it may wait, it waits until it has seen for itself that the host is dead, as for a silent owner. Nobody waits
    /// for a living one.
    ///
    /// Meanwhile we are the owner on disk and use nothing. Paused or dead here, we are an owner who is (D1); asked to stop, we give back what
    /// we have won like whoever is refused.
    async fn settled(&self, area: &Area<'a, D, C>, sharing: &[HostTerm]) -> Result<Standing, AcquireError> {
        loop {
            let standing = settle_shared(area, self.hosts, sharing).await?;
            let waits = self.disk.copies() > 1 && self.options.wait_for_silent;
            if !waits || standing.hosts.is_empty() || standing.lives {
                return Ok(standing);
            }
            let at = self.next_look(standing.earliest);
            if self.stop.sleep_until(self.clock, at).await == Waited::Stopped {
                return Ok(standing);
            }
        }
    }

    /// When to look again at what is waited for.
    fn next_look(&self, earliest: Option<LocalInstant>) -> LocalInstant {
        let now = self.clock.now();
        earliest.map_or(now.after(LOOK), |e| e.min(now.after(LOOK)).max(now.after(SHORTEST_LOOK)))
    }

    /// On several disks a record that another host published for us may be on one of them alone, if that host has died over it. With that disk
    /// an earlier owner who was paused as a whole (A7) would lose the only word of us. So whoever is to hold the lease exclusively
    /// has its record on a majority, as after a write of its own. (To share it, it is freed by our hand next.)
    ///
    /// Safe: the value is committed, so all who publish this lver name us (I5), and nobody goes past it before we say so or are dead (D1), when
    /// D2 has long refused this write. On its way to a slow disk it is a flight of ours, for which our next one there waits
    /// (I6); landing later than that it is an outdated record (entry.rs). A crash leaves what another host's hand would have left.
    async fn by_our_own_hand(
        &mut self,
        area: &Area<'a, D, C>,
        found: LeaderRecord,
        mine: &mut Mine,
    ) -> Result<LeaderRecord, AcquireError> {
        let me = self.me.term;
        let ours = found.write_id == me.host_id.get();
        if self.disk.copies() == 1 || ours || self.options.mode == Mode::Shared {
            return Ok(found);
        }
        let (write_generation, write_timestamp) = (me.generation.0, self.clock.now().disk_seconds());
        // What an earlier record said of a short hold is not said of this one.
        let flags = found.flags & !SHORT_HOLD;
        let leader = LeaderRecord { write_id: me.host_id.get(), write_generation, write_timestamp, flags, ..found };
        if let Err(e) = area.write_leader(&leader).await {
            mine.in_doubt |= may_have_landed(&e);
            return Err(e.into());
        }
        self.leader = Some(leader);
        Ok(leader)
    }

    /// A conversion has won the lease: its claim to share it goes. And whoever was found dead, and has a claim that stays where it is, is
    /// to be told: a host that was paused as a whole goes on with it (`standing.rs`). Our dblock says that we hold this lver before and
    /// after it, so a crash, or a write that lands late, changes nothing but what others must look at once we are gone.
    async fn unclaim(&self, area: &Area<'a, D, C>, mine: &Mine, passed_over: &[HostTerm]) -> Result<(), AreaError> {
        if !passed_over.is_empty() {
            return area.write_own_over(mine.dblock(), passed_over).await;
        }
        if !mine.mode().is_shared() {
            return Ok(());
        }
        area.write_own(mine.dblock(), &ModeBlock::NONE).await
    }

    /// A write of our own sector failed: it may land, and has to be undone.
    fn in_doubt(&self, mine: &mut Mine, e: ReleaseError) -> AcquireError {
        mine.in_doubt |= matches!(&e, ReleaseError::Area(e) if may_have_landed(e));
        AcquireError::Share(e)
    }

    /// What others may still act upon, once this acquire is over without a lease: a write that may land, or a proposal
    /// for an lver that is not decided, or decided for us.
    fn undo(&self) -> Option<Retract> {
        let mine = self.mine.as_ref()?;
        let open = match (mine.proposed, &self.leader) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(lver), Some(leader)) => {
                leader.lver < lver || (leader.lver == lver && leader.owner() == Some(self.me.term))
            }
        };
        let due = (mine.in_doubt || open) && !self.undone;
        let shape = self.shape.filter(|_| due)?;
        let left = Left { own: *mine.dblock(), mode: *mine.keeps(), spent: self.spent };
        Some(Retract::new(self.lease, shape, self.me.term, left.own.lver, left))
    }
}

/// A published lver, from our point of view.
enum Published {
    /// Ours to hold.
    Ours,
    /// Another host's.
    Theirs(Option<HostTerm>),
    /// Ours by name only: an earlier generation's, or one that we have given up. The next lver may be ours.
    Again,
}

/// Whether a published lver is ours to hold. It is if this acquire proposed it, and our block does not say RELEASED
/// there: an earlier acquire of ours retracted it then, another host adopted the value, and a third may already act on
/// our word that the lver is over.
fn whose(leader: &LeaderRecord, me: HostTerm, mine: &Mine) -> Published {
    let dblock = mine.dblock();
    match leader.owner() {
        Some(owner) if owner == me || (planted(Bug::GenerationNotCompared) && owner.host_id == me.host_id) => {
            let proposed = mine.proposed == Some(leader.lver) && dblock.lver == leader.lver;
            let released = dblock.is_released() && !planted(Bug::ReleasedIgnored);
            if proposed && !released && !leader.is_free() { Published::Ours } else { Published::Again }
        }
        Some(owner) if owner.host_id == me.host_id => Published::Again,
        owner => Published::Theirs(owner),
    }
}

/// Whether the owner of a record says that it is done with that version.
fn given_up_in(seen: &[HostSector], leader: &LeaderRecord) -> bool {
    leader.owner().is_some_and(|owner| released_at(seen, owner.host_id, leader.lver))
}

fn released_at(seen: &[HostSector], host: HostId, lver: Lver) -> bool {
    block_of(seen, host).is_some_and(|s| s.dblock.lver == lver && s.dblock.is_released())
}
