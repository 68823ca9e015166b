//! Leases that turn out to be lost while they are held.
//!
//! After each renewal the daemon reads how each lease that it holds stands on disk (`paxos_lease::standing`, one sector). While
//! a host renews in time nobody takes its leases, so this finds what the rules cannot prevent: a host that was paused as a
//! whole, its watchdog with it, and was rightly taken for dead meanwhile (A7); an area that was formatted under its holder.
//!
//! The client of a lost lease is ended by the ladder: at once where another host may have the lease (S1), after a grace where
//! it is only free to be had. The other leases of the lockspace are as good as they were. If that client will not end, the lockspace is
//! given up with all that it guards, and the watchdog does the rest (D3). Of a lost lease nothing is written, but that a claim to share it
//! is taken back where it still stands (on several disks nobody else does that).

use std::time::Duration;

use holdfast_io::clock::LocalInstant;
use holdfast_io::ids::{Lver, SpaceName};
use holdfast_io::planted::{Bug, planted};
use paxos_lease::{Loss, Mode, Standing};

use super::Supervisor;
use super::event::{ClientId, Effect, LeaseKey};
use super::leases::Phase;

/// From SIGKILL to the end of the lockspace, for a client that is still there.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client that is being ended because a lease of its is lost.
#[derive(Clone, Copy, Debug)]
pub struct Ousted {
    /// When SIGTERM gives way to SIGKILL.
    pub kill_at: LocalInstant,
    /// When the lockspace is given up, if it is still there.
    pub lose_at: LocalInstant,
}

impl<L: Clone + std::fmt::Debug> Supervisor<L> {
    /// A lockspace was renewed: it is time to look at its leases. A look that is not over is not doubled.
    pub(super) fn verify_leases(&mut self, name: SpaceName) {
        if !self.is_active(&name) || planted(Bug::LossOverlooked) {
            return;
        }
        for lease in self.leases.values_mut().filter(|l| l.key.space == name && !l.verifying) {
            if let Phase::Held { held } = &lease.phase {
                lease.verifying = true;
                self.effects.push(Effect::Verify { key: lease.key, held: held.clone() });
            }
        }
    }

    /// What the disk says of a lease that we held when it was read. If it was given back or converted meanwhile that says nothing of
    /// how it stands now.
    pub(super) fn verified(
        &mut self,
        key: LeaseKey,
        lver: Lver,
        mode: Mode,
        found: Result<Standing, String>,
        now: LocalInstant,
    ) {
        let Some(lease) = self.leases.get_mut(&key) else { return };
        lease.verifying = false;
        if !matches!(lease.phase, Phase::Held { .. }) || (lease.lver, lease.mode) != (lver, mode) {
            return;
        }
        let warned = lease.warned;
        lease.warned = !matches!(found, Ok(Standing::Ours));
        match found {
            Ok(Standing::Ours) => {}
            Ok(Standing::Outdated) if warned => {}
            Ok(Standing::Outdated) => {
                tracing::warn!(lease = %key, %lver, "its leader record is an older one, written late: the lease is still ours");
            }
            Err(_) if warned => {}
            Err(why) => tracing::warn!(lease = %key, %lver, why, "cannot see whether it is still ours on disk"),
            Ok(Standing::Lost(loss)) => {
                let held = std::mem::replace(&mut lease.phase, Phase::Lost { claim: None });
                if let (Phase::Held { held }, Loss::ClaimCleared) = (held, loss) {
                    lease.phase = Phase::Lost { claim: Some(held) };
                }
                tracing::error!(lease = %key, %lver, found = %loss, "lost while it was held");
                self.end_users_of(key, loss.is_anothers(), now);
            }
        }
    }

    /// Ends who uses a lost lease: at once if it may be another host's by now.
    pub(super) fn end_users_of(&mut self, key: LeaseKey, at_once: bool, now: LocalInstant) {
        let Some(lease) = self.leases.get_mut(&key) else { return };
        let users: Vec<ClientId> = lease.tokens.iter().map(|t| t.client).collect();
        let persists = lease.tokens.iter().any(|t| t.persistent);
        let (left_by, orphan) = (std::mem::take(&mut lease.left_by), lease.tokens.is_empty());
        let kill_at = if at_once { now } else { now.after(self.settings.kill_grace) };
        let Some(space) = self.spaces.get_mut(&key.space) else { return };
        let unseen = space.used || (space.used_by_orphans && (!left_by.is_empty() || persists));
        for client in users {
            space.guards.entry(client).and_modify(|due| *due = (*due).min(now)).or_insert(now);
            let ousted = space.ousted.entry(client).or_insert(Ousted { kill_at, lose_at: kill_at.after(PATIENCE) });
            ousted.kill_at = ousted.kill_at.min(kill_at);
            ousted.lose_at = ousted.lose_at.min(kill_at.after(PATIENCE));
        }
        if unseen {
            // Somebody may use it whom we can neither see nor end (SET_CONFIG): until he says that he does not, the lockspace is not
            // left, and the watchdog not petted (D3).
            space.used = true;
            self.lose(key.space, now, &format!("lease {key} is lost, and may be used unseen"));
        }
        if orphan {
            tracing::warn!(lease = %key, ?left_by, "the lost lease was an orphan");
            self.end_lease(key);
        }
        self.save();
    }

    /// Whether a guarded client has still something for which it is to be ended.
    pub(super) fn must_end(&self, client: ClientId, space: &SpaceName) -> bool {
        let mut its = self.leases.values().filter(|l| l.is_of(client) && l.key.space == *space);
        if self.is_active(space) { its.any(|l| matches!(l.phase, Phase::Lost { .. })) } else { its.next().is_some() }
    }

    /// A client that should have ended by now has not: the lockspace is given up.
    pub(super) fn lose_to_ousted(&mut self, name: SpaceName, now: LocalInstant) {
        let Some(space) = self.spaces.get(&name).filter(|s| s.life.is_active()) else { return };
        let overdue =
            |(id, o): &(&ClientId, &Ousted)| now >= o.lose_at && self.clients.get(id).is_some_and(|c| !c.is_gone());
        let overdue = space.ousted.iter().find(overdue).and_then(|(id, _)| self.clients.get(id)).map(|c| c.pid);
        if let Some(pid) = overdue {
            self.lose(name, now, &format!("process {pid} uses a lost lease and does not end"));
        }
    }
}
