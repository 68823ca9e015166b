//! The release command, and every other way in which a lease is given back or let go.

use holdfast_io::clock::LocalInstant;
use holdfast_io::ids::ResourceName;
use holdfast_io::stop::Stop;
use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::command::ReleaseFlags;
use holdfast_protocol::payload::ResourceHead;
use holdfast_protocol::request::Target;
use paxos_lease::Mode;

use super::{GivesBack, Phase, Running, Token, Tokens, Work, key_of, not_admitted};
use crate::log_ring::AT_WILL;
use crate::supervisor::event::{ClientId, Effect, LeaseKey, ReplyTo, TaskId};
use crate::supervisor::spaces::{Life, Space};
use crate::supervisor::{Supervisor, Who};

const NOT_HELD: &str = "its client does not hold it, or not so often";

impl<L: Clone + std::fmt::Debug> Supervisor<L> {
    pub(in crate::supervisor) fn release(
        &mut self,
        to: ReplyTo,
        flags: ReleaseFlags,
        target: Target,
        heads: &[ResourceHead],
        now: LocalInstant,
    ) {
        let lease = |head: &ResourceHead| format!("lease {}:{}", head.lockspace_name, head.name);
        let named: Vec<String> = heads.iter().map(lease).collect();
        let about = if named.is_empty() { "all leases of a client".to_owned() } else { named.join(", ") };
        let target = match self.admit(to, target) {
            Ok(target) => target,
            Err(code) => return self.deny(to, about, code, not_admitted(code), now),
        };
        // ALL counts before the others, as it does for what follows the header.
        let everything = flags.contains(ReleaseFlags::ALL);
        if flags.contains(ReleaseFlags::ORPHAN) && !everything {
            return self.release_orphans(to, heads);
        }
        if flags.contains(ReleaseFlags::RENAME) && !everything {
            if let Err((code, why)) = self.rename(to, target, heads) {
                self.deny(to, about, code, why, now);
            }
            return;
        }
        let held = |key: &LeaseKey| self.leases.get(key).is_some_and(|l| l.is_had_by(target));
        let mut code = ResultCode::OK;
        let (mut keys, mut unheld) = (Vec::new(), Vec::new());
        if everything {
            keys.extend(self.leases.keys().copied().filter(held));
        } else {
            // As often as it is named, and as it is held.
            let tokens = |key: &LeaseKey| self.leases.get(key).map_or(0, |l| l.tokens_of(target));
            for head in heads {
                let named = |key: &LeaseKey| keys.iter().filter(|k| *k == key).count();
                match key_of(head).filter(|key| held(key) && named(key) < tokens(key)) {
                    Some(key) => keys.push(key),
                    None => {
                        code = ResultCode::EPERM;
                        unheld.push(lease(head));
                    }
                }
            }
        }
        for lease in unheld {
            let who = self.who(target);
            tracing::info!(target: AT_WILL, lease, pid = who.pid, name = %who.name, code = code.number(), "not released: {NOT_HELD}");
            self.refused(lease, code, format!("{NOT_HELD}: {who}"), now);
        }
        let which = if everything { Tokens::All } else { Tokens::Latest };
        self.drain(to, target, GivesBack { keys, which, rename: None, code });
    }

    /// What its client wrote before it asked must have landed (S1). Until then it holds what it gives back: a crash or a hang
    /// here leaves the lease taken, and a lockspace that is lost meanwhile does not wait: whoever holds something in it is ended.
    fn drain(&mut self, to: ReplyTo, target: ClientId, gives_back: GivesBack) {
        let Some(client) = self.clients.get_mut(&target) else { return };
        let nothing = gives_back.keys.is_empty();
        client.running = Some(Running { stop: Stop::new(), to, work: Work::Drain(gives_back) });
        if nothing {
            return self.writes_drained(target, true);
        }
        self.effects.push(Effect::DrainWrites { client: target });
    }

    /// A release goes on. One whose client has closed its connection meanwhile ends: what that takes back waits for more.
    pub(in crate::supervisor) fn writes_drained(&mut self, target: ClientId, idle: bool) {
        let Some(client) = self.clients.get_mut(&target) else { return };
        let Some(Running { to, work: Work::Drain(gives_back), .. }) = &mut client.running else { return };
        let to = *to;
        let GivesBack { keys, which, rename, code } = gives_back;
        let (keys, which, rename, code) = (std::mem::take(keys), *which, rename.take(), *code);
        if client.closed {
            client.running = None;
            if to.client != target {
                self.reply(to, ResultCode::ENOTTY);
            }
            return self.forget_if_over(target);
        }
        // Who is being ended is not taken at its word: it is over once it is gone.
        let stays =
            |key: &LeaseKey| !idle && self.spaces.get(&key.space).is_some_and(|s| s.guards.contains_key(&target));
        let (stay, keys): (Vec<_>, Vec<_>) = keys.into_iter().partition(stays);
        let code = if stay.is_empty() { code } else { ResultCode::EBUSY };
        if let Some(client) = self.clients.get_mut(&target) {
            let work = Work::Release { pending: keys.iter().copied().collect(), code };
            client.running = Some(Running { stop: Stop::new(), to, work });
        }
        self.give_back(target, keys, which, rename);
    }

    fn give_back(&mut self, target: ClientId, keys: Vec<LeaseKey>, which: Tokens, rename: Option<ResourceName>) {
        for key in &keys {
            match rename {
                Some(name) => self.start_release_as(*key, Some(name)),
                None => self.give_up(*key, target, which),
            }
        }
        for key in keys {
            if !self.is_releasing(key) {
                self.lease_ended(key, Some(target), ResultCode::OK);
            }
        }
        self.end_release(target);
    }

    /// Gives a lease back under another name, which its area has from then on (spec A 6).
    fn rename(
        &mut self,
        to: ReplyTo,
        target: ClientId,
        heads: &[ResourceHead],
    ) -> Result<(), (ResultCode, &'static str)> {
        let [held, renamed] = heads else {
            return Err((ResultCode::EINVAL, "one lease and its new name are expected"));
        };
        let found = key_of(held).and_then(|key| self.leases.get(&key)).filter(|l| l.is_held_by(target));
        let Some((key, mode)) = found.map(|l| (l.key, l.mode)) else { return Err((ResultCode::EPERM, NOT_HELD)) };
        let name = ResourceName::new(renamed.name.as_bytes());
        let (Ok(name), Mode::Exclusive) = (name, mode) else {
            return Err((ResultCode::EINVAL, "it is shared, or its new name is none"));
        };
        let gives_back = GivesBack { keys: vec![key], which: Tokens::Latest, rename: Some(name), code: ResultCode::OK };
        self.drain(to, target, gives_back);
        Ok(())
    }

    /// Gives orphans back; the answer, which does not wait for that, is their number (spec A 6).
    fn release_orphans(&mut self, to: ReplyTo, heads: &[ResourceHead]) {
        let Some(head) = heads.first() else { return self.reply(to, ResultCode::OK) };
        let named = |key: &LeaseKey| {
            key.space.field() == head.lockspace_name.raw()
                && (head.name.is_empty() || key.resource.field() == head.name.raw())
        };
        let orphans = self.leases.values().filter(|l| l.is_orphan());
        let keys: Vec<LeaseKey> = orphans.map(|l| l.key).filter(named).collect();
        for key in &keys {
            if let Some(lease) = self.leases.get_mut(key) {
                lease.left_by.clear();
            }
            self.start_release(*key);
        }
        self.reply(to, ResultCode::new(i32::try_from(keys.len()).unwrap_or(i32::MAX)));
    }

    fn is_releasing(&self, key: LeaseKey) -> bool {
        self.leases.get(&key).is_some_and(|l| matches!(l.phase, Phase::Releasing))
    }

    /// Takes tokens of a client back, and gives the lease back if nobody else has any, and nobody left it behind.
    pub(super) fn give_up(&mut self, key: LeaseKey, client: ClientId, which: Tokens) {
        let who = self.who(client);
        let Some(lease) = self.leases.get_mut(&key).filter(|l| l.is_had_by(client)) else { return };
        let last = lease.tokens.iter().rposition(|t| t.client == client);
        let stays = |(at, t): &(usize, &Token)| t.client != client || (which == Tokens::Latest && Some(*at) != last);
        let left: Vec<Token> = lease.tokens.iter().enumerate().filter(stays).map(|(_, t)| *t).collect();
        if left.is_empty() && lease.left_by.is_empty() {
            lease.tokens.truncate(1);
            return self.start_release(key);
        }
        lease.tokens = left;
        if lease.is_orphan() {
            tracing::info!(lease = %key, lver = %lease.lver, left_by = ?lease.left_by, "an orphan");
        } else {
            let (holds, left_by) = (lease.tokens.len(), &lease.left_by);
            tracing::info!(lease = %key, pid = who.pid, name = %who.name, lver = %lease.lver, holds, ?left_by, "no longer its client's: others on this host have it still");
        }
    }

    /// Gives a held lease back: on disk while its lockspace may be written, else by forgetting it (D2: left to host_dead).
    fn start_release(&mut self, key: LeaseKey) {
        self.start_release_as(key, None);
    }

    fn start_release_as(&mut self, key: LeaseKey, rename: Option<ResourceName>) {
        // Once its tasks were told to end, a lockspace gives everything back with its host_id.
        let writable = self
            .spaces
            .get(&key.space)
            .is_some_and(|s| matches!(s.life, Life::Active { .. } | Life::Removing { .. }) && !s.ending);
        let Some(lease) = self.leases.get_mut(&key) else { return };
        if !matches!(lease.phase, Phase::Held { .. } | Phase::Lost { .. }) {
            return;
        }
        // Of what is somebody else's nothing is given back.
        let held = match std::mem::replace(&mut lease.phase, Phase::Releasing) {
            Phase::Held { held } | Phase::Lost { claim: Some(held) } => Some(held),
            _ => None,
        };
        if let Some(held) = held.filter(|_| writable) {
            let value = lease.value_to_write();
            let task = self.next_task(key);
            if let Some(name) = &rename {
                tracing::info!(lease = %key, %name, "released under another name");
            }
            self.effects.push(Effect::StartRelease { task, key, held, rename, value });
        } else {
            let (client, lver) = (lease.client(), lease.lver);
            let who = self.who(client);
            tracing::info!(lease = %key, pid = who.pid, name = %who.name, %lver, "let go without a write");
            self.end_lease(key);
            self.lease_ended(key, client, ResultCode::OK);
        }
    }

    /// The end of a connection gives back what it held; in a failing lockspace nothing is written, and the process stays
    /// under guard.
    pub(in crate::supervisor) fn release_all_of(&mut self, client: ClientId) {
        let keys: Vec<LeaseKey> = self.leases.values().filter(|l| l.is_of(client)).map(|l| l.key).collect();
        for key in keys {
            let failing = |s: &Space| !s.life.is_active() && s.guards.contains_key(&client);
            let guarded = self.spaces.get(&key.space).is_some_and(failing);
            let (pid, gone) = self.clients.get(&client).map_or((0, true), |c| (c.pid, c.is_gone()));
            let Some(lease) = self.leases.get_mut(&key) else { continue };
            let persists = lease.tokens.iter().any(|t| t.client == client && t.persistent);
            match &mut lease.phase {
                Phase::Converting { abandoned } => *abandoned = true,
                Phase::Held { .. } if guarded => {
                    // What outlives its client may be used by whom nobody sees end: an orphan, also where nothing is written.
                    lease.left_by.extend(persists.then_some(pid));
                    lease.tokens.retain(|t| t.client != client);
                    if lease.tokens.is_empty() && lease.left_by.is_empty() {
                        tracing::info!(lease = %key, lver = %lease.lver, pid, "its last client is gone; its lockspace is lost");
                        self.end_lease(key);
                    }
                }
                Phase::Held { .. } => {
                    lease.left_by.extend(persists.then_some(pid));
                    self.give_up(key, client, Tokens::All);
                }
                // As long as anything of its client may use it, it is nobody else's here.
                Phase::Lost { .. } if gone => self.give_up(key, client, Tokens::All),
                Phase::Opening(_) | Phase::Acquiring | Phase::Releasing | Phase::Lost { .. } => {}
            }
        }
    }

    pub(in crate::supervisor) fn released(
        &mut self,
        task: TaskId,
        code: ResultCode,
        why: Option<String>,
        done: bool,
        now: LocalInstant,
    ) {
        let Some(key) = self.releasing(task) else { return };
        if let Some(why) = why {
            tracing::warn!(lease = %key, why, "release went wrong");
        }
        let lease = self.leases.get_mut(&key);
        let (client, lver) = lease.map(|l| (std::mem::take(&mut l.tokens).first().map(|t| t.client), l.lver)).unzip();
        let (client, lver) = (client.flatten(), lver.map_or(0, |l| l.0));
        let Who { pid, name } = self.who(client);
        if code == ResultCode::OK {
            tracing::info!(lease = %key, pid, %name, lver, "released");
        } else {
            tracing::warn!(lease = %key, pid, %name, lver, code = code.number(), done, "let go, not released on the disk");
        }
        if let Some(lease) = self.leases.get_mut(&key) {
            lease.given_back_by = client.and_then(|c| self.clients.get(&c)).map(|c| c.pid);
        }
        if done {
            self.forget_lease(task, key);
        }
        self.lease_ended(key, client, code);
        if let Some(client) = client {
            self.end_refused(client, now);
        }
    }

    /// A task that went on undoing, or retrying a release, has come to its end.
    pub(in crate::supervisor) fn task_done(&mut self, task: TaskId) {
        if self.end_turn(task) {
            return;
        }
        if let Some(key) = self.releasing(task) {
            if self.leases.get(&key).is_some_and(|l| l.since.is_some()) {
                tracing::info!(lease = %key, "its release has come to its end");
            }
            self.forget_lease(task, key);
            self.save();
        }
    }

    /// The lease that a task gives back.
    fn releasing(&self, task: TaskId) -> Option<LeaseKey> {
        let key = self.tasks.get(&task).copied()?;
        self.leases.get(&key).filter(|l| matches!(l.phase, Phase::Releasing)).map(|l| l.key)
    }

    /// A lease no longer belongs to its client: the release command that asked for it goes on, a guard may be over.
    fn lease_ended(&mut self, key: LeaseKey, client: Option<ClientId>, code: ResultCode) {
        let Some(client) = client else { return };
        if let Some(Running { work: Work::Release { pending, code: worst }, .. }) =
            self.clients.get_mut(&client).and_then(|c| c.running.as_mut())
        {
            pending.remove(&key);
            if code != ResultCode::OK {
                *worst = code;
            }
        }
        self.end_release(client);
        let alive = self.clients.get(&client).is_some_and(|c| !c.closed);
        if alive && !self.must_end(client, &key.space) {
            // It gave everything back and said so: it survives the loss of the lockspace (spec A 7.3).
            self.guard_ends(key.space, client);
        }
        self.forget_if_over(client);
    }

    fn end_release(&mut self, target: ClientId) {
        let Some(client) = self.clients.get_mut(&target) else { return };
        let Some(Running { to, work: Work::Release { pending, code }, .. }) = &client.running else { return };
        if !pending.is_empty() {
            return;
        }
        let (to, code) = (*to, *code);
        client.running = None;
        self.save();
        self.reply(to, code);
    }
}
