//! The acquire command: what it may have, on this host and on disk, what becomes of it, and who waits for its turn.

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast_io::clock::LocalInstant;
use holdfast_io::ids::{Lver, SpaceName};
use holdfast_io::stop::Stop;
use holdfast_io::sys::rights::Rights;
use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::command::{AcquireFlags, LeaseFlags};
use holdfast_protocol::payload::{Options, Resource};
use holdfast_protocol::request::Target;
use paxos_lease::Mode;
use paxos_lease::copies::MOST as MOST_DISKS;

use super::{
    Acquire, Lease, Manners, NOT_JOINED, Phase, Refused, Running, Token, Tokens, Value, WaitingAcquire, Work, key_of,
    mode_word, not_admitted, places_of,
};
use crate::log_ring::AT_WILL;
use crate::supervisor::event::{
    AcquireEnd, ClientId, Effect, LeaseKey, LeaseRequest, Orphans, Prepared, ReplyTo, TaskId,
};
use crate::supervisor::{Supervisor, Who};

/// How a resource of an acquire is had.
enum Admission {
    /// By asking the disk.
    Ask,
    /// It is this host's already, to share or to adopt.
    Here,
}

/// What stands against it on this host alone.
struct Local {
    code: ResultCode,
    /// It may pass.
    wait: bool,
    why: String,
}

const BEING_ENDED: &str = "its client is being ended";

/// Tokens of one client: each is looked at after every event.
const MOST_TOKENS: usize = 1024;

/// Between two attempts of a waiting acquire: two small reads of the disk each.
const RETRY: Duration = Duration::from_millis(500);

impl<L: Clone + std::fmt::Debug> Supervisor<L> {
    pub(in crate::supervisor) fn acquire(
        &mut self,
        to: ReplyTo,
        flags: AcquireFlags,
        target: Target,
        resources: &[Resource],
        options: &Options,
        now: LocalInstant,
    ) {
        let (target, wanted) = match self.admit_acquire(to, flags, target, resources, options) {
            Ok(admitted) => admitted,
            Err((code, why)) => return self.not_begun(to, target, resources, options, (code, why), now),
        };
        let Some(client) = self.clients.get_mut(&target) else { return };
        if let Some(process) = client.process.as_mut().filter(|p| flags.contains(AcquireFlags::GROUP) && !p.group) {
            process.group = true;
            if client.exited {
                // An heir of its connection asks: the group is watched from now on.
                self.effects.push(Effect::WatchGroup { client: target });
            }
        }
        // The state file names a guarded process as it now is (P1), also one that already holds something.
        self.save();
        let Some(client) = self.clients.get_mut(&target) else { return };
        let wait = flags.contains(AcquireFlags::WAIT);
        let acquire = Acquire {
            todo: wanted.iter().cloned().collect(),
            wanted,
            done: Vec::new(),
            adopted: Vec::new(),
            wait,
            refused: None,
        };
        client.running = Some(Running { stop: Stop::new(), to, work: Work::Acquire(acquire) });
        self.step_acquire(target, now);
    }

    /// Who is to get what, before any of it is asked for.
    fn admit_acquire(
        &mut self,
        to: ReplyTo,
        flags: AcquireFlags,
        target: Target,
        resources: &[Resource],
        options: &Options,
    ) -> Result<(ClientId, Vec<LeaseRequest>), (ResultCode, String)> {
        let refused = |code: ResultCode, why: &str| (code, why.to_owned());
        let target = self.admit(to, target).map_err(|code| refused(code, not_admitted(code)))?;
        if self.is_being_ended(target) {
            return Err(refused(ResultCode::EBUSY, BEING_ENDED));
        }
        let nowait = flags.contains(AcquireFlags::OWNER_NOWAIT);
        let by = self.rights_of(to.client).ok_or_else(|| refused(ResultCode::ESRCH, "nobody waits for it"))?;
        let wanted =
            read_requests(flags, resources, nowait, &by).map_err(|code| refused(code, "a lease is not understood"))?;
        let lacking = wanted.iter().map(|r| r.key.space).find(|space| !self.is_active(space)).map(|space| {
            let word = self.spaces.get(&space).map_or("not joined", |s| s.life.word());
            (ResultCode::ENOSPC, format!("lockspace {space} is {word}"))
        });
        let client = self.clients.get_mut(&target).ok_or_else(|| refused(ResultCode::ESRCH, "no such client"))?;
        client.name = options.owner_name;
        if let Some(lacking) = lacking {
            return Err(lacking);
        }
        if client.process.is_none() && !wanted.is_empty() {
            // P1: what cannot be named in the state file cannot be guarded.
            return Err((ResultCode::ESTALE, self.why_unidentified()));
        }
        Ok((target, wanted))
    }

    fn why_unidentified(&self) -> String {
        match &self.settings.report.no_peers {
            Some(why) => format!("no process can be identified on this host: {why}"),
            None => {
                "its process could not be identified when it registered: it had ended, or is not to be seen in /proc"
                    .to_owned()
            }
        }
    }

    /// It gets nothing more.
    fn is_being_ended(&self, client: ClientId) -> bool {
        self.spaces.values().any(|s| s.guards.contains_key(&client))
    }

    /// An acquire that does not even begin.
    fn not_begun(
        &mut self,
        to: ReplyTo,
        target: Target,
        resources: &[Resource],
        options: &Options,
        (code, why): (ResultCode, String),
        now: LocalInstant,
    ) {
        let pid = match target {
            Target::This => self.clients.get(&to.client).map_or(0, |c| c.pid),
            Target::Pid(pid) => i32::try_from(pid).unwrap_or(-1),
        };
        let who = Who { pid, name: options.owner_name };
        let leases: Vec<String> =
            resources.iter().map(|r| format!("{}:{}", r.head.lockspace_name, r.head.name)).collect();
        let leases = leases.join(" ");
        tracing::info!(target: AT_WILL, leases, pid = who.pid, name = %who.name, code = code.number(), why, "not acquired");
        self.refused(format!("lease {leases}"), code, format!("{why}, for {who}"), now);
        self.reply(to, code);
    }

    /// Who may run a command now (spec A 4).
    pub(in crate::supervisor) fn admit(&self, to: ReplyTo, target: Target) -> Result<ClientId, ResultCode> {
        let target = self.target(to, target)?;
        match self.clients.get(&target) {
            Some(client) if client.running.is_none() => Ok(target),
            _ => Err(ResultCode::EBUSY),
        }
    }

    /// Goes on with a target's acquire: the next resource, or the end.
    fn step_acquire(&mut self, target: ClientId, now: LocalInstant) {
        let Some(acquire) = self.acquire_of(target) else { return };
        let Some(request) = acquire.todo.pop_front() else { return self.end_acquire(target, now) };
        let token = match self.may_acquire(&request, target) {
            Ok(Admission::Ask) => self.next_token(target),
            Ok(Admission::Here) => return self.have_here(target, &request, now),
            Err(local) => return self.refuse_here(target, request.key, local, now),
        };
        let key = request.key;
        let task = self.next_task(key);
        self.last_res_id += 1;
        let reused = self.reuse(&key, &request.places);
        let manners = self.clients.get(&target).map(Manners::of).unwrap_or_default();
        let lease = Lease {
            given_back_by: None,
            manners,
            reused,
            geometry: None,
            key,
            places: request.places.clone(),
            mode: request.mode,
            tokens: vec![token],
            left_by: Vec::new(),
            value: None,
            lver: Lver(0),
            res_id: self.last_res_id,
            since: None,
            asked: None,
            verifying: false,
            warned: false,
            phase: Phase::Opening(request.clone()),
        };
        self.leases.insert(key, lease);
        self.effects.push(Effect::OpenDevice { task, request });
    }

    /// Everything was had. What of it was lost meanwhile, with its lockspace or alone, is granted to nobody (S1).
    fn end_acquire(&mut self, target: ClientId, now: LocalInstant) {
        let done = self.acquire_of(target).map(|acquire| acquire.done.clone()).unwrap_or_default();
        let gone = |key: &&LeaseKey| !self.leases.get(key).is_some_and(|l| l.is_held_by(target));
        let (lost, code) = match done.iter().find(|key| !self.is_active(&key.space)) {
            Some(lost) => (Some(*lost), ResultCode::ENOSPC),
            None => (done.iter().find(gone).copied(), ResultCode::EAGAIN),
        };
        let Some(lost) = lost else { return self.finish_acquire(target) };
        let who = self.who(target);
        tracing::info!(lease = %lost, pid = who.pid, name = %who.name, code = code.number(), "lost before it was granted: granted to nobody");
        self.refuse(target, code, None, now);
    }

    fn slots_of(&self, client: ClientId) -> BTreeSet<usize> {
        self.leases.values().flat_map(|l| &l.tokens).filter(|t| t.client == client).map(|t| t.slot).collect()
    }

    fn next_token(&mut self, client: ClientId) -> Token {
        let slots = self.slots_of(client);
        self.last_token += 1;
        let slot = (0..).find(|slot| !slots.contains(slot)).unwrap_or(usize::MAX);
        Token { client, slot, number: self.last_token, persistent: false }
    }

    /// This host has the lease already, shared or for nobody: one more client has it, too (spec D 4.9, A 8: no I/O).
    fn have_here(&mut self, target: ClientId, request: &LeaseRequest, now: LocalInstant) {
        let token = self.next_token(target);
        // Also beside others here who share what was left behind: it is theirs and the adopter's then, and nobody's any more.
        let left = self.leases.get(&request.key).is_some_and(|l| !l.left_by.is_empty());
        let adopts = left && request.orphans != Orphans::Refused;
        if let Some(acquire) = self.acquire_of(target).filter(|_| adopts) {
            acquire.adopted.push(request.key);
        }
        let manners = self.clients.get(&target).map(Manners::of).unwrap_or_default();
        if let Some(lease) = self.leases.get_mut(&request.key) {
            lease.tokens.push(token);
            if adopts && lease.mode == Mode::Exclusive {
                // Whoever is asked from now on is the adopter, in its own manner; what was asked of nobody is asked anew.
                (lease.manners, lease.asked) = (manners, None);
            }
        }
        // Named before it is granted (P1).
        self.save();
        self.got(Some(target), request.key, now);
    }

    /// What stands against an acquire on this host alone (spec A 6: the daemon refuses a second local owner at once).
    fn may_acquire(&self, request: &LeaseRequest, target: ClientId) -> Result<Admission, Local> {
        let never = |code, why: &str| Err(Local { code, wait: false, why: why.to_owned() });
        let wait = |code, why: String| Err(Local { code, wait: true, why });
        if self.clients.get(&target).is_none_or(|c| c.closed) {
            return never(ResultCode::ENOTTY, "its client has gone");
        }
        if self.is_being_ended(target) {
            return never(ResultCode::EBUSY, BEING_ENDED);
        }
        if self.slots_of(target).len() >= MOST_TOKENS {
            return never(ResultCode::E2BIG, "its client has more leases than one can have");
        }
        if !self.is_active(&request.key.space) {
            return never(ResultCode::ENOSPC, NOT_JOINED);
        }
        if self.turns.works_on(&request.key) {
            return wait(ResultCode::EBUSY, "work on the resource index has it".to_owned());
        }
        let Some(lease) = self.leases.get(&request.key) else {
            let demanded = request.orphans == Orphans::Demanded;
            return if demanded { never(ResultCode::ENOENT, "no orphan here") } else { Ok(Admission::Ask) };
        };
        match &lease.phase {
            Phase::Held { .. } if lease.is_orphan() => {
                let fits = request.orphans != Orphans::Refused && lease.mode == request.mode;
                if fits { Ok(Admission::Here) } else { never(ResultCode::EUCLEAN, &self.standing_of(lease)) }
            }
            Phase::Releasing | Phase::Lost { .. } => wait(ResultCode::EAGAIN, self.standing_of(lease)),
            Phase::Opening(_) | Phase::Acquiring | Phase::Converting { .. } => {
                wait(ResultCode::EBUSY, self.standing_of(lease))
            }
            Phase::Held { .. } if (lease.mode, request.mode) == (Mode::Shared, Mode::Shared) => {
                let nothing_left = request.orphans == Orphans::Demanded && lease.left_by.is_empty();
                if nothing_left { never(ResultCode::ENOENT, "nobody has left it behind") } else { Ok(Admission::Here) }
            }
            Phase::Held { .. } => wait(ResultCode::EEXIST, self.standing_of(lease)),
        }
    }

    /// Where a lease stands on this host, and with whom, for whoever wants it here.
    fn standing_of(&self, lease: &Lease<L>) -> String {
        let (word, mode) = (lease.phase.word(), lease.mode);
        let first = lease.client().map(|client| self.who(client));
        match (first, lease.left_by.first()) {
            (Some(first), _) if lease.tokens.len() > 1 => {
                format!("{word} here, {mode:?}, by {first} and {} more", lease.tokens.len() - 1)
            }
            (Some(first), _) => format!("{word} here, {mode:?}, by {first}"),
            (None, Some(pid)) => format!("{word} here, {mode:?}, as an orphan that process {pid} left"),
            (None, None) => format!("{word} here, by nobody any more"),
        }
    }

    /// What stands against an acquire on this host is said in words, as what the disk says is: to the log, and to `status`. Once, where
    /// the acquire waits and tries again.
    fn refuse_here(&mut self, target: ClientId, key: LeaseKey, local: Local, now: LocalInstant) {
        let Local { code, wait, why } = local;
        let who = self.who(target);
        if self.waiting.iter().any(|w| w.client == target) {
            tracing::debug!(lease = %key, pid = who.pid, name = %who.name, code = code.number(), why, "still not acquired");
        } else {
            tracing::info!(target: AT_WILL, lease = %key, pid = who.pid, name = %who.name, code = code.number(), why, "not acquired");
            self.refused(format!("lease {key}"), code, why, now);
        }
        self.refuse(target, code, wait.then_some(key), now);
    }

    fn acquire_of(&mut self, target: ClientId) -> Option<&mut Acquire> {
        match self.clients.get_mut(&target)?.running.as_mut()?.work {
            Work::Acquire(ref mut acquire) => Some(acquire),
            Work::Drain(_) | Work::Release { .. } | Work::Convert => None,
        }
    }

    fn stop_of(&self, target: ClientId) -> Option<Stop> {
        self.clients.get(&target)?.running.as_ref().map(|r| r.stop.clone())
    }

    pub(in crate::supervisor) fn device_ready(
        &mut self,
        task: TaskId,
        Prepared { fences, result }: Prepared,
        now: LocalInstant,
    ) {
        let Some(key) = self.tasks.get(&task).copied() else { return };
        let Some(lease) = self.leases.get(&key) else { return };
        let target = lease.client();
        let stop = target.and_then(|t| self.stop_of(t)).filter(|s| !s.is_set());
        let active = self.spaces.get(&key.space).is_some_and(|s| s.life.is_active());
        // The fences are in the state file before the first write through them, whatever comes of this acquire.
        let fenced = !fences.is_empty();
        if let Some(record) = self.spaces.get_mut(&key.space).and_then(|s| s.record.as_mut()) {
            record.fences.extend(fences);
        }
        if let Err((code, why)) = result {
            let who = self.who(target);
            tracing::info!(target: AT_WILL, lease = %key, pid = who.pid, name = %who.name, why, "not acquired: its device cannot be used");
            self.refused(format!("lease {key}"), code, why, now);
            self.forget_lease(task, key);
            if fenced {
                self.save();
            }
            return self.refuse_for(target, code, None, now);
        }
        let Some(lease) = self.leases.get_mut(&key) else { return };
        let Phase::Opening(request) = &lease.phase else { return };
        let request = request.clone();
        match stop {
            Some(stop) if active => {
                lease.phase = Phase::Acquiring;
                // Named before it can be granted (P1): the process is about to hold a lease.
                self.save();
                self.effects.push(Effect::StartAcquire { task, request, stop });
            }
            _ => {
                self.save();
                self.forget_lease(task, key);
                let code = if active { ResultCode::ENOTTY } else { ResultCode::ENOSPC };
                self.refuse_for(target, code, None, now);
            }
        }
    }

    pub(in crate::supervisor) fn acquired(&mut self, task: TaskId, end: AcquireEnd<L>, now: LocalInstant) {
        let Some(key) = self.tasks.get(&task).copied() else { return };
        let active = self.spaces.get(&key.space).is_some_and(|s| s.life.is_active());
        let target = self.leases.get(&key).and_then(Lease::client);
        let who = self.who(target);
        let Some(lease) = self.leases.get_mut(&key).filter(|l| matches!(l.phase, Phase::Acquiring)) else { return };
        match end {
            AcquireEnd::Ours { held, lver, geometry, value } => {
                (lease.lver, lease.since, lease.geometry) = (lver, Some(now), Some(geometry));
                lease.value = value.map(|bytes| Value { bytes, set: false, offered: false });
                let there = target.and_then(|t| self.clients.get(&t)).is_some_and(|c| !c.closed && c.running.is_some());
                if there && active {
                    lease.phase = Phase::Held { held };
                    self.tasks.remove(&task);
                    return self.got(target, key, now);
                }
                // Too late: the lockspace is lost (nothing may be written, D2), or the client went away (give it back).
                tracing::info!(lease = %key, pid = who.pid, name = %who.name, %lver, lost = !active, "got too late, and granted to nobody");
                if active {
                    lease.phase = Phase::Releasing;
                    lease.tokens.clear();
                    lease.given_back_by = Some(who.pid).filter(|pid| *pid > 0);
                    self.effects.push(Effect::StartRelease { task, key, held, rename: None, value: None });
                } else {
                    self.forget_lease(task, key);
                }
                let code = if active { ResultCode::ENOTTY } else { ResultCode::ENOSPC };
                self.refuse_for(target, code, None, now);
            }
            AcquireEnd::Refused { code, why, may_change, undoing } => {
                let waits = target.is_some_and(|t| self.waiting.iter().any(|w| w.client == t));
                if waits {
                    tracing::debug!(lease = %key, pid = who.pid, name = %who.name, code = code.number(), why, "still not acquired");
                } else {
                    tracing::info!(target: AT_WILL, lease = %key, pid = who.pid, name = %who.name, code = code.number(), why, "not acquired");
                }
                if undoing {
                    lease.phase = Phase::Releasing;
                    lease.tokens.clear();
                    lease.given_back_by = Some(who.pid).filter(|pid| *pid > 0);
                } else {
                    self.forget_lease(task, key);
                }
                let code = if active { code } else { ResultCode::ENOSPC };
                if !waits {
                    self.refused(format!("lease {key}"), code, why, now);
                }
                self.refuse_for(target, code, may_change.then_some(key), now);
            }
        }
    }

    fn got(&mut self, target: Option<ClientId>, key: LeaseKey, now: LocalInstant) {
        let Some(target) = target else { return };
        if let Some(acquire) = self.acquire_of(target) {
            acquire.done.push(key);
        }
        self.step_acquire(target, now);
    }

    fn finish_acquire(&mut self, target: ClientId) {
        let Some(client) = self.clients.get_mut(&target) else { return };
        let Some(running) = client.running.take() else { return };
        let who = Who { pid: client.pid, name: client.name };
        if let Work::Acquire(acquire) = &running.work {
            for lease in acquire.done.iter().filter_map(|key| self.leases.get(key)) {
                let generation = self.generation_in(&lease.key.space).map(|g| g.0);
                let (key, mode, lver) = (lease.key, mode_word(lease.mode), lease.lver);
                tracing::info!(lease = %key, pid = who.pid, name = %who.name, mode, %lver, generation, "acquired");
            }
            self.grant(target, acquire);
        }
        self.waiting.retain(|w| w.client != target);
        self.save();
        self.reply(running.to, ResultCode::OK);
    }

    /// All of a call has succeeded: what it asked for persistently outlives its client from now on, and what it adopted is
    /// its own.
    fn grant(&mut self, target: ClientId, acquire: &Acquire) {
        for key in &acquire.adopted {
            let Some(lease) = self.leases.get_mut(key) else { continue };
            lease.manners = self.clients.get(&target).map(Manners::of).unwrap_or_default();
            if !lease.left_by.is_empty() {
                // Of each who left it behind it is adopted anew: that of one says nothing of what another's is used for.
                let pid = lease.left_by.remove(0);
                tracing::info!(lease = %key, left_by = pid, "orphan adopted");
            }
        }
        for request in acquire.wanted.iter().filter(|r| r.persistent) {
            let lease = self.leases.get_mut(&request.key);
            let token = lease.and_then(|l| l.tokens.iter_mut().rev().find(|t| t.client == target && !t.persistent));
            if let Some(token) = token {
                token.persistent = true;
            }
        }
    }

    pub(super) fn refuse_for(
        &mut self,
        target: Option<ClientId>,
        code: ResultCode,
        wait_for: Option<LeaseKey>,
        now: LocalInstant,
    ) {
        match target {
            Some(target) => self.refuse(target, code, wait_for, now),
            None => self.save(),
        }
    }

    /// One resource was refused: give back what this call got, then answer or wait.
    fn refuse(&mut self, target: ClientId, code: ResultCode, wait_for: Option<LeaseKey>, now: LocalInstant) {
        let Some(acquire) = self.acquire_of(target) else { return };
        acquire.refused = Some(Refused { code, wait_for });
        // Of what it got, what is still its own: a client that has gone gave it back at once, and another may have it by now.
        let done = acquire.done.clone();
        acquire.adopted.clear();
        for key in done {
            self.give_up(key, target, Tokens::Latest);
        }
        self.end_refused(target, now);
    }

    /// Answers a refused acquire once nothing of it is held any more.
    pub(super) fn end_refused(&mut self, target: ClientId, now: LocalInstant) {
        let leases = &self.leases;
        let Some(running) = self.clients.get_mut(&target).and_then(|c| c.running.as_mut()) else { return };
        let stopped = running.stop.is_set();
        let Work::Acquire(acquire) = &mut running.work else { return };
        let Some(refused) = acquire.refused else { return };
        acquire
            .done
            .retain(|key| leases.get(key).is_some_and(|l| l.is_of(target) && matches!(l.phase, Phase::Releasing)));
        if !acquire.done.is_empty() {
            return;
        }
        match refused.wait_for.filter(|_| acquire.wait && !stopped) {
            Some(key) => {
                acquire.refused = None;
                acquire.todo = acquire.wanted.iter().cloned().collect();
                self.enqueue(target, key, now);
                // It holds nothing of what was lost any more.
                self.lift_guards(target);
            }
            None => {
                let to = running.to;
                if let Some(client) = self.clients.get_mut(&target) {
                    client.running = None;
                }
                self.waiting.retain(|w| w.client != target);
                self.reply(to, refused.code);
                self.lift_guards(target);
                self.forget_if_over(target);
            }
        }
    }

    /// A living client that has nothing in a lockspace any more survives its loss.
    fn lift_guards(&mut self, client: ClientId) {
        if self.clients.get(&client).is_none_or(|c| c.closed) {
            return;
        }
        let guarding: Vec<SpaceName> =
            self.spaces.iter().filter(|(_, s)| s.guards.contains_key(&client)).map(|(name, _)| *name).collect();
        for space in guarding {
            if !self.must_end(client, &space) {
                self.guard_ends(space, client);
            }
        }
    }

    fn enqueue(&mut self, client: ClientId, key: LeaseKey, now: LocalInstant) {
        let retry_at = now.after(RETRY);
        match self.waiting.iter_mut().find(|w| w.client == client) {
            Some(waiting) => {
                (waiting.key, waiting.retry_at, waiting.trying) = (key, retry_at, false);
            }
            None => self.waiting.push_back(WaitingAcquire { client, key, retry_at, trying: false }),
        }
        self.save();
    }

    /// Waiting acquires whose turn has come try again: for each lease the one that came first.
    pub(in crate::supervisor) fn retry_waiting(&mut self, now: LocalInstant) {
        let mut seen = BTreeSet::new();
        let mut due = Vec::new();
        for waiting in &mut self.waiting {
            let first = seen.insert(waiting.key);
            if now < waiting.retry_at {
                continue;
            }
            waiting.retry_at = now.after(RETRY);
            if first && !waiting.trying {
                waiting.trying = true;
                due.push(waiting.client);
            }
        }
        for client in due {
            self.step_acquire(client, now);
        }
    }

    /// A client that waits has gone: its command ends here, since no task runs for it.
    pub(in crate::supervisor) fn drop_waiting(&mut self, client: ClientId) {
        let Some(at) = self.waiting.iter().position(|w| w.client == client && !w.trying) else { return };
        self.waiting.remove(at);
        let running = self.clients.get_mut(&client).and_then(|c| c.running.take());
        if let Some(Running { to, .. }) = running.filter(|r| r.to.client != client) {
            // Another connection has asked for it.
            self.reply(to, ResultCode::ENOTTY);
        }
    }
}

fn read_requests(
    flags: AcquireFlags,
    resources: &[Resource],
    nowait: bool,
    by: &Rights,
) -> Result<Vec<LeaseRequest>, ResultCode> {
    let value = flags.contains(AcquireFlags::LVB);
    let orphans = match (flags.contains(AcquireFlags::ORPHAN_ONLY), flags.contains(AcquireFlags::ORPHAN)) {
        (true, _) => Orphans::Demanded,
        (false, true) => Orphans::Adopted,
        (false, false) => Orphans::Refused,
    };
    resources.iter().map(|r| Ok(LeaseRequest { value, ..read_request(r, nowait, orphans, by)? })).collect()
}

fn read_request(resource: &Resource, nowait: bool, orphans: Orphans, by: &Rights) -> Result<LeaseRequest, ResultCode> {
    let head = &resource.head;
    let persistent = head.flags.contains(LeaseFlags::PERSISTENT);
    let mode = if head.flags.contains(LeaseFlags::SHARED) { Mode::Shared } else { Mode::Exclusive };
    if !(1..=MOST_DISKS).contains(&resource.disks.len()) {
        return Err(ResultCode::ERANGE);
    }
    // No lockspace has an empty name, or one that is none.
    SpaceName::new(head.lockspace_name.as_bytes()).map_err(|_| ResultCode::ENOSPC)?;
    let key = key_of(head).ok_or(ResultCode::EINVAL)?;
    let places = places_of(resource, by).ok_or(ResultCode::EINVAL)?;
    let expected_lver = head.flags.contains(LeaseFlags::LVER).then_some(Lver(head.lver)).filter(|l| l.0 != 0);
    let num_hosts = head.flags.contains(LeaseFlags::NUM_HOSTS).then_some(head.data32);
    Ok(LeaseRequest { value: false, persistent, orphans, key, places, expected_lver, num_hosts, nowait, mode })
}
