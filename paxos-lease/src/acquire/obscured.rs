//! Acquiring a lease of which a host's sector is damaged.
//!
//! That sector may hide all that a host says: that it shares the lease, that it holds it, what its ballots have committed. A lease goes on
//! without it only once nobody can be at work on what it said:
//!
//! 1. *Its host is gone*: nobody is at work under its host_id, in whatever generation, by D1's silence of its delta sector, or an operator's
//!    word. So what it held or shared is over, its ballots have ended, and no write of it is on its way. What reads as damaged was
//!    written before, since that is asked after the sector was read, twice alike.
//! 2. *Nobody who lives may own a later version than the leader record's*: whomever a block proposes for one, and has not given up, is over. Of
//!    such versions the record would know if it were the latest; the sector that is damaged could be the only one to say who has which.
//! 3. *The next version, N, is spent*. Hosts that read the sector before, or by a path that does not damage it, can commit what it says for N
//!    while we commit something else. So our block says RELEASED from our first ballot for N on: whoever is found to be N's owner, by anybody, is
//!    over - we have given it up, the damaged sector's host is gone, and so is, by rule 2, every other. The version after it is contested like
//!    any other; the lost sector says nothing of that. Real sanlock forgets what it has proposed, and may propose itself for N again with
//!    what it reads in that sector. So rule 2 is asked of N once more, in what the ballots for the version after it have read: whoever
//!    has proposed by then is seen, and whoever has not finds our block at the later version.
//! 4. *What the sector says of its version is not believably later than N*: then the leader record is an outdated one, and a host that knew the true
//!    one may be on its way to a version that we would pass. Refused; a number that no lease comes to is part of the damage.
//!
//! Its exclusive owner then makes the sector anew ([`Attempt::make_anew`]). On several disks nothing is passed over: what is damaged on one of
//! them is whole on others, or lost on a majority.
//!
//! Not covered: a leader record that a late write has put two versions back, damage in the one sector that tells, in the very number that tells,
//! and a host that read both before and begins its ballot only now.
//!
//! I/O: R area once more, to see the same damage; a ballot more, for the version that is spent; as its owner R sector and W it.

use holdfast_io::ids::{HostId, Lver};
use holdfast_io::planted::{Bug, planted};
use holdfast_io::stop::Waited;
use tracing::{info, warn};

use super::{Attempt, Clock, Disk, Next, RefusalKind, refused};
use crate::area::{Area, Snapshot, may_have_landed};
use crate::ballot::{Contested, Mine};
use crate::choose::may_own;
use crate::damage::Damage;
use crate::dblock::HostSector;
use crate::error::{AcquireError, Unread};
use crate::liveness::{HostLiveness, Verdict};

/// Where an acquire goes on to.
pub(super) enum Way {
    On(Contested),
    Ends(Next),
}

/// What came of waiting for a host to be gone.
enum Absence {
    Gone { waited: bool },
    Stays(Verdict),
    Stopped,
}

impl<D: Disk, C: Clock, H: HostLiveness> Attempt<'_, D, C, H> {
    /// How to go on to version `next`, whose predecessor is over by all that can be read.
    pub(super) async fn pass_over(
        &mut self,
        area: &Area<'_, D, C>,
        snapshot: &Snapshot,
        next: Lver,
    ) -> Result<Way, AcquireError> {
        let before = std::mem::replace(&mut self.damaged, area.unread.clone());
        let Some(first) = area.unread.first() else { return Ok(Way::On(Contested { lver: next, spent: false })) };
        if before.is_empty() {
            // Bits that flip on their way look otherwise the next time.
            return Ok(Way::Ends(Next::Again));
        }
        if before != area.unread {
            return Err(obscured(area, first, Unread::Changing));
        }
        for damage in &area.unread {
            if let Some(end) = self.says_nothing(area, damage, next).await? {
                return Ok(Way::Ends(end));
            }
        }
        if let Some(end) = self.nobody_may_own(area, &snapshot.hosts, snapshot.leader.lver).await? {
            return Ok(Way::Ends(end));
        }
        let spent = !self.has_spent(snapshot.leader.lver);
        Ok(Way::On(Contested { lver: next, spent }))
    }

    /// Whether the version that a damaged sector may tell of is spent: this one, or an earlier one.
    pub(super) fn has_spent(&self, lver: Lver) -> bool {
        self.spent.is_some_and(|spent| spent <= lver)
    }

    /// Rules 1 and 4. `Some`: how the acquire ends, or goes on.
    async fn says_nothing(
        &self,
        area: &Area<'_, D, C>,
        damage: &Damage,
        next: Lver,
    ) -> Result<Option<Next>, AcquireError> {
        if damage.may_be_later_than(next) {
            return Err(obscured(area, damage, Unread::Later { next }));
        }
        if damage.host_id == self.me.term.host_id {
            // Earlier generations of ours are over (P1), and in this one we are done with the lease: whoever shares it converts it
            // (`own_block`), and whoever holds it gives it back before it asks again. Our own ballot writes the sector anew.
            return Ok(None);
        }
        match self.absence_of(damage.host_id).await? {
            Absence::Gone { waited: false } => {
                let (host_id, error) = (damage.host_id, &damage.source);
                warn!(%host_id, resource = %self.lease.resource, %error, "passing over the damaged sector of a host that is gone");
                Ok(None)
            }
            // What was read before may be something else now.
            Absence::Gone { waited: true } => Ok(Some(Next::Again)),
            Absence::Stays(verdict) => Err(obscured(area, damage, Unread::of(verdict))),
            Absence::Stopped => Ok(Some(refused(RefusalKind::Stopped, None, None))),
        }
    }

    /// Rule 2, of the versions later than the leader record's, or else of the one that was spent: asked before each ballot, and of what that has
    /// read before anything is published by it.
    pub(super) async fn nobody_may_own(
        &self,
        area: &Area<'_, D, C>,
        hosts: &[HostSector],
        leader: Lver,
    ) -> Result<Option<Next>, AcquireError> {
        if area.unread.is_empty() {
            return Ok(None);
        }
        let spent = self.spent.filter(|_| self.has_spent(leader));
        let of = |lver: Lver| spent.map_or(lver > leader, |spent| lver == spent);
        for owner in may_own(hosts, self.me.term, of) {
            let (kind, earliest) = match self.hosts.verdict(owner).await? {
                Verdict::Gone(_) => continue,
                Verdict::Alive { earliest } => (RefusalKind::Alive, Some(earliest)),
                Verdict::Silent { earliest } => (RefusalKind::Silent, Some(earliest)),
                Verdict::Unknown => (RefusalKind::Silent, None),
            };
            if kind == RefusalKind::Alive || !self.options.wait_for_silent {
                return Ok(Some(refused(kind, Some(owner), earliest)));
            }
            return Ok(Some(match self.stop.sleep_until(self.clock, self.next_look(earliest)).await {
                Waited::Stopped => refused(RefusalKind::Stopped, Some(owner), earliest),
                Waited::Elapsed => Next::Again,
            }));
        }
        Ok(None)
    }

    /// Whether nobody is at work under a host_id; waited for where it can be said when that will be seen.
    async fn absence_of(&self, host: HostId) -> Result<Absence, AcquireError> {
        let mut waited = false;
        loop {
            let earliest = match self.hosts.absence(host).await? {
                Verdict::Gone(_) => return Ok(Absence::Gone { waited }),
                _ if planted(Bug::LivingDamagePassedOver) => return Ok(Absence::Gone { waited }),
                Verdict::Silent { earliest } if self.options.wait_for_silent => earliest,
                verdict => return Ok(Absence::Stays(verdict)),
            };
            if self.stop.sleep_until(self.clock, self.next_look(Some(earliest))).await == Waited::Stopped {
                return Ok(Absence::Stopped);
            }
            waited = true;
        }
    }

    /// Makes the sectors anew that were passed over: I1's other exception.
    ///
    /// We are the exclusive owner of version `held`, by a leader record that is on the disk. A look that was begun after that shows nobody at
    /// work under the host_id; so whoever joins under it later reads our record first, and writes nothing here before we have given the lease
    /// back. We do that only once this write is over: where it fails, the acquire ends with a [`crate::release::Retract`],
    /// which waits until it is reaped. A crash before it leaves the damage to the next owner; a host paused here as a whole is A7's. What is
    /// written is of the version before ours, which is over whatever was proposed for it.
    pub(super) async fn make_anew(
        &self,
        area: &Area<'_, D, C>,
        held: Lver,
        mine: &mut Mine,
    ) -> Result<(), AcquireError> {
        for damage in area.unread.iter().filter(|damage| damage.host_id != self.me.term.host_id) {
            // A host that was paused as a whole (A7) and is back would go on with what its sector may say, and never find out.
            let verdict = self.hosts.absence(damage.host_id).await?;
            if !matches!(verdict, Verdict::Gone(_)) && !planted(Bug::LivingDamagePassedOver) {
                return Err(obscured(area, damage, Unread::of(verdict)));
            }
            if !area.is_still(damage).await? {
                return Err(obscured(area, damage, Unread::Changing));
            }
            if let Err(e) = area.make_anew(damage.host_id, held).await {
                mine.in_doubt |= may_have_landed(&e);
                return Err(e.into());
            }
            info!(host_id = %damage.host_id, resource = %self.lease.resource, "its damaged sector is made anew");
        }
        Ok(())
    }
}

fn obscured<D: Disk, C: Clock>(area: &Area<'_, D, C>, damage: &Damage, why: Unread) -> AcquireError {
    let source = area.dblock_error(damage.host_id, damage.source.clone());
    AcquireError::Obscured { host_id: damage.host_id, why, source }
}
