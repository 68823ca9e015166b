//! Leases: the acquire and release commands, one resource after the other, all or none (spec A 6).
//!
//! A command runs for a *target*, at most one at a time. Its resources are acquired in the order given; the first refusal
//! gives back what this call already got. With the WAIT flag the command then waits, holding nothing (two commands that
//! want the same leases in different orders never block each other), and starts over when its turn comes: waiting
//! commands are served in the order of their arrival.
//!
//! Safety: a lease counts as held only after its task said so *and* its lockspace is still active at that moment *and*
//! the client is still there. Between the two nothing protects it, but nothing uses it either: no reply was sent.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use holdfast_io::clock::LocalInstant;
use holdfast_io::ids::{Lver, ResourceName, SpaceName};
use holdfast_io::stop::Stop;
use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::command::{AcquireFlags, LeaseFlags, ReleaseFlags};
use holdfast_protocol::payload::{Options, Resource, ResourceHead};
use holdfast_protocol::request::Target;

use super::Supervisor;
use super::answers::path_of;
use super::event::{AcquireEnd, ClientId, Effect, LeaseKey, LeaseRequest, Place, ReplyTo, TaskId};
use super::spaces::Life;
use crate::state_file::FenceRecord;

/// A lease that this daemon holds, or is about to, or no longer quite.
#[derive(Debug)]
pub struct Lease<L> {
    /// Which.
    pub key: LeaseKey,
    /// Where it lies.
    pub place: Place,
    /// Whose; `None` once its client has gone and it is being given back.
    pub client: Option<ClientId>,
    /// Its version; 0 until it is ours.
    pub lver: Lver,
    /// A number for STATUS.
    pub res_id: u32,
    /// Since when it is ours.
    pub since: Option<LocalInstant>,
    /// Where it stands.
    pub phase: Phase<L>,
}

/// Where a lease stands.
#[derive(Debug)]
pub enum Phase<L> {
    /// A task opens its device.
    Opening(LeaseRequest),
    /// A task runs for it.
    Acquiring,
    /// Ours.
    Held {
        /// What release needs.
        held: L,
    },
    /// A task gives it back, or undoes an attempt.
    Releasing,
}

impl<L> Phase<L> {
    /// The word for people and logs.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Phase::Acquiring => "acquiring",
            Phase::Held { .. } => "held",
            Phase::Opening(_) => "opening",
            Phase::Releasing => "releasing",
        }
    }
}

/// A command that runs for a target.
#[derive(Debug)]
pub struct Running {
    /// How its tasks are asked to end.
    pub stop: Stop,
    to: ReplyTo,
    work: Work,
}

#[derive(Debug)]
pub(super) enum Work {
    Acquire(Acquire),
    Release { pending: BTreeSet<LeaseKey>, code: ResultCode },
}

#[derive(Debug)]
pub(super) struct Acquire {
    /// All of the call, to start over from.
    wanted: Vec<LeaseRequest>,
    todo: VecDeque<LeaseRequest>,
    done: Vec<LeaseKey>,
    wait: bool,
    /// Set once refused: what to do when everything got so far is given back.
    refused: Option<Refused>,
}

#[derive(Clone, Copy, Debug)]
struct Refused {
    code: ResultCode,
    wait_for: Option<LeaseKey>,
}

/// An acquire that waits for its turn.
#[derive(Debug)]
pub struct WaitingAcquire {
    /// Who waits.
    pub client: ClientId,
    /// For what.
    pub key: LeaseKey,
    /// When it tries again.
    pub retry_at: LocalInstant,
    /// Its attempt is under way; it keeps its place in the queue.
    trying: bool,
}

/// Between two attempts of a waiting acquire: two small reads of the disk each.
const RETRY: Duration = Duration::from_millis(500);

impl<L: Clone + std::fmt::Debug> Supervisor<L> {
    pub(super) fn acquire(
        &mut self,
        to: ReplyTo,
        flags: AcquireFlags,
        target: Target,
        resources: &[Resource],
        options: &Options,
        now: LocalInstant,
    ) {
        let target = match self.admit(to, target) {
            Ok(target) => target,
            Err(code) => return self.reply(to, code),
        };
        if self.spaces.values().any(|s| s.guards.contains_key(&target)) {
            return self.reply(to, ResultCode::EBUSY); // being ended: it gets nothing more
        }
        let nowait = flags.contains(AcquireFlags::OWNER_NOWAIT);
        let wanted = match self.read_requests(flags, resources, nowait) {
            Ok(wanted) => wanted,
            Err(code) => return self.reply(to, code),
        };
        let Some(client) = self.clients.get_mut(&target) else { return };
        client.name = options.owner_name;
        if client.process.is_none() && !wanted.is_empty() {
            // P1: what cannot be named in the state file cannot be guarded.
            return self.reply(to, ResultCode::ESTALE);
        }
        if let Some(process) = client.process.as_mut().filter(|_| flags.contains(AcquireFlags::GROUP)) {
            process.group = true;
        }
        // The state file names a guarded process as it now is (P1), also one that already holds something.
        self.save();
        let Some(client) = self.clients.get_mut(&target) else { return };
        let wait = flags.contains(AcquireFlags::WAIT);
        let acquire = Acquire { todo: wanted.iter().cloned().collect(), wanted, done: Vec::new(), wait, refused: None };
        client.running = Some(Running { stop: Stop::new(), to, work: Work::Acquire(acquire) });
        self.step_acquire(target, now);
    }

    /// Who may run a command now (spec A 4).
    fn admit(&self, to: ReplyTo, target: Target) -> Result<ClientId, ResultCode> {
        let target = self.target(to, target)?;
        match self.clients.get(&target) {
            Some(client) if client.running.is_none() => Ok(target),
            _ => Err(ResultCode::EBUSY),
        }
    }

    fn read_requests(
        &self,
        flags: AcquireFlags,
        resources: &[Resource],
        nowait: bool,
    ) -> Result<Vec<LeaseRequest>, ResultCode> {
        let unserved = AcquireFlags::LVB | AcquireFlags::ORPHAN | AcquireFlags::ORPHAN_ONLY;
        if flags.bits() & unserved.bits() != 0 {
            return Err(ResultCode::EOPNOTSUPP);
        }
        resources.iter().map(|r| read_request(r, nowait)).collect()
    }

    /// Goes on with a target's acquire: the next resource, or the end.
    fn step_acquire(&mut self, target: ClientId, now: LocalInstant) {
        let Some(acquire) = self.acquire_of(target) else { return };
        let Some(request) = acquire.todo.pop_front() else { return self.finish_acquire(target) };
        if let Err((code, wait_for)) = self.may_acquire(&request, target) {
            return self.refuse(target, code, wait_for, now);
        }
        let key = request.key;
        let task = self.next_task(key);
        self.last_res_id += 1;
        let lease = Lease {
            key,
            place: request.place.clone(),
            client: Some(target),
            lver: Lver(0),
            res_id: self.last_res_id,
            since: None,
            phase: Phase::Opening(request.clone()),
        };
        self.leases.insert(key, lease);
        self.effects.push(Effect::OpenDevice { task, request });
    }

    /// What stands against an acquire on this host alone (spec A 6: the daemon refuses a second local owner at once).
    fn may_acquire(&self, request: &LeaseRequest, target: ClientId) -> Result<(), (ResultCode, Option<LeaseKey>)> {
        if self.clients.get(&target).is_none_or(|c| c.closed) {
            return Err((ResultCode::ENOTTY, None));
        }
        if !self.spaces.get(&request.key.space).is_some_and(|s| s.life.is_active()) {
            return Err((ResultCode::ENOSPC, None));
        }
        let wait = Some(request.key);
        match self.leases.get(&request.key).map(|l| &l.phase) {
            None => Ok(()),
            Some(Phase::Releasing) => Err((ResultCode::EAGAIN, wait)),
            Some(Phase::Opening(_) | Phase::Acquiring) => Err((ResultCode::EBUSY, wait)),
            Some(Phase::Held { .. }) => Err((ResultCode::EEXIST, wait)),
        }
    }

    fn acquire_of(&mut self, target: ClientId) -> Option<&mut Acquire> {
        match self.clients.get_mut(&target)?.running.as_mut()?.work {
            Work::Acquire(ref mut acquire) => Some(acquire),
            Work::Release { .. } => None,
        }
    }

    fn stop_of(&self, target: ClientId) -> Option<Stop> {
        self.clients.get(&target)?.running.as_ref().map(|r| r.stop.clone())
    }

    pub(super) fn device_ready(
        &mut self,
        task: TaskId,
        result: Result<Option<FenceRecord>, (ResultCode, String)>,
        now: LocalInstant,
    ) {
        let Some(key) = self.tasks.get(&task).copied() else { return };
        let Some(lease) = self.leases.get(&key) else { return };
        let target = lease.client;
        let stop = target.and_then(|t| self.stop_of(t)).filter(|s| !s.is_set());
        let active = self.spaces.get(&key.space).is_some_and(|s| s.life.is_active());
        let fence = match result {
            Ok(fence) => fence,
            Err((code, why)) => {
                tracing::info!(lease = %key, why, "not acquired: its device cannot be used");
                self.refused(format!("lease {key}"), code, why, now);
                self.forget_lease(task, key);
                return self.refuse_for(target, code, None, now);
            }
        };
        // The fence is in the state file before the first write through it, whatever comes of this acquire.
        if let (Some(fence), Some(record)) = (fence, self.spaces.get_mut(&key.space).and_then(|s| s.record.as_mut())) {
            record.fences.push(fence);
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

    pub(super) fn acquired(&mut self, task: TaskId, end: AcquireEnd<L>, now: LocalInstant) {
        let Some(key) = self.tasks.get(&task).copied() else { return };
        let active = self.spaces.get(&key.space).is_some_and(|s| s.life.is_active());
        let Some(lease) = self.leases.get_mut(&key).filter(|l| matches!(l.phase, Phase::Acquiring)) else { return };
        let target = lease.client;
        match end {
            AcquireEnd::Ours { held, lver } => {
                (lease.lver, lease.since) = (lver, Some(now));
                let there = target.and_then(|t| self.clients.get(&t)).is_some_and(|c| !c.closed && c.running.is_some());
                if there && active {
                    lease.phase = Phase::Held { held };
                    self.tasks.remove(&task);
                    return self.got(target, key, now);
                }
                // Too late: the lockspace is lost (nothing may be written, D2), or the client went away (give it back).
                if active {
                    lease.phase = Phase::Releasing;
                    let place = lease.place.clone();
                    lease.client = None;
                    self.effects.push(Effect::StartRelease { task, key, place, held });
                } else {
                    self.forget_lease(task, key);
                }
                let code = if active { ResultCode::ENOTTY } else { ResultCode::ENOSPC };
                self.refuse_for(target, code, None, now);
            }
            AcquireEnd::Refused { code, why, may_change, undoing } => {
                let waits = target.is_some_and(|t| self.waiting.iter().any(|w| w.client == t));
                if waits {
                    tracing::debug!(lease = %key, code = code.number(), why, "still not acquired");
                } else {
                    tracing::info!(lease = %key, code = code.number(), why, "not acquired");
                }
                if undoing {
                    lease.phase = Phase::Releasing;
                    lease.client = None;
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
        let (pid, name) = (client.pid, client.name);
        if let Work::Acquire(acquire) = &running.work {
            for key in &acquire.done {
                tracing::info!(lease = %key, pid, %name, "acquired");
            }
        }
        self.waiting.retain(|w| w.client != target);
        self.save();
        self.reply(running.to, ResultCode::OK);
    }

    fn forget_lease(&mut self, task: TaskId, key: LeaseKey) {
        self.tasks.remove(&task);
        self.leases.remove(&key);
    }

    fn refuse_for(
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
        for key in done {
            if self.leases.get(&key).is_some_and(|l| l.client == Some(target)) {
                self.start_release(key);
            }
        }
        self.end_refused(target, now);
    }

    /// Answers a refused acquire once nothing of it is held any more.
    fn end_refused(&mut self, target: ClientId, now: LocalInstant) {
        let leases = &self.leases;
        let Some(running) = self.clients.get_mut(&target).and_then(|c| c.running.as_mut()) else { return };
        let stopped = running.stop.is_set();
        let Work::Acquire(acquire) = &mut running.work else { return };
        let Some(refused) = acquire.refused else { return };
        acquire.done.retain(|key| leases.get(key).is_some_and(|l| l.client == Some(target)));
        if !acquire.done.is_empty() {
            return;
        }
        match refused.wait_for.filter(|_| acquire.wait && !stopped) {
            Some(key) => {
                acquire.refused = None;
                acquire.todo = acquire.wanted.iter().cloned().collect();
                self.enqueue(target, key, now);
            }
            None => {
                let to = running.to;
                if let Some(client) = self.clients.get_mut(&target) {
                    client.running = None;
                }
                self.waiting.retain(|w| w.client != target);
                self.reply(to, refused.code);
                self.forget_if_over(target);
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
    pub(super) fn retry_waiting(&mut self, now: LocalInstant) {
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
    pub(super) fn drop_waiting(&mut self, client: ClientId) {
        let Some(at) = self.waiting.iter().position(|w| w.client == client && !w.trying) else { return };
        self.waiting.remove(at);
        let running = self.clients.get_mut(&client).and_then(|c| c.running.take());
        if let Some(Running { to, .. }) = running.filter(|r| r.to.client != client) {
            // Another connection has asked for it.
            self.reply(to, ResultCode::ENOTTY);
        }
    }

    pub(super) fn release(&mut self, to: ReplyTo, flags: ReleaseFlags, target: Target, heads: &[ResourceHead]) {
        let target = match self.admit(to, target) {
            Ok(target) => target,
            Err(code) => return self.reply(to, code),
        };
        if flags.contains(ReleaseFlags::RENAME) {
            return self.reply(to, ResultCode::EOPNOTSUPP);
        }
        if flags.contains(ReleaseFlags::ORPHAN) {
            return self.reply(to, ResultCode::OK); // a count: this version keeps no orphans
        }
        let held = |key: &LeaseKey| {
            self.leases.get(key).is_some_and(|l| l.client == Some(target) && matches!(l.phase, Phase::Held { .. }))
        };
        let mut code = ResultCode::OK;
        let mut keys = BTreeSet::new();
        if flags.contains(ReleaseFlags::ALL) {
            keys.extend(self.leases.keys().copied().filter(held));
        } else {
            for head in heads {
                match key_of(head).filter(&held) {
                    Some(key) => drop(keys.insert(key)),
                    None => code = ResultCode::EPERM,
                }
            }
        }
        if let Some(client) = self.clients.get_mut(&target) {
            let work = Work::Release { pending: keys.clone(), code };
            client.running = Some(Running { stop: Stop::new(), to, work });
        }
        for key in keys {
            self.start_release(key);
        }
        self.end_release(target);
    }

    /// Gives a held lease back: on disk while its lockspace may be written, else by forgetting it (D2: left to host_dead).
    fn start_release(&mut self, key: LeaseKey) {
        let writable =
            self.spaces.get(&key.space).is_some_and(|s| matches!(s.life, Life::Active { .. } | Life::Removing { .. }));
        let Some(lease) = self.leases.get_mut(&key) else { return };
        if !matches!(lease.phase, Phase::Held { .. }) {
            return;
        }
        let Phase::Held { held } = std::mem::replace(&mut lease.phase, Phase::Releasing) else { return };
        if writable {
            let place = lease.place.clone();
            let task = self.next_task(key);
            self.effects.push(Effect::StartRelease { task, key, place, held });
        } else {
            let client = lease.client;
            self.leases.remove(&key);
            self.lease_ended(key, client, ResultCode::OK);
        }
    }

    /// The end of a connection gives back what it held; in a failing lockspace nothing is written, and the process stays
    /// under guard.
    pub(super) fn release_all_of(&mut self, client: ClientId) {
        let keys: Vec<LeaseKey> = self
            .leases
            .values()
            .filter(|l| l.client == Some(client) && matches!(l.phase, Phase::Held { .. }))
            .map(|l| l.key)
            .collect();
        for key in keys {
            if self.spaces.get(&key.space).is_some_and(|s| s.guards.contains_key(&client)) {
                self.leases.remove(&key);
            } else {
                self.start_release(key);
            }
        }
    }

    pub(super) fn released(
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
        let client = self.leases.get_mut(&key).and_then(|l| l.client.take());
        if done {
            self.forget_lease(task, key);
            tracing::info!(lease = %key, "released");
        }
        self.lease_ended(key, client, code);
        if let Some(client) = client {
            self.end_refused(client, now);
        }
    }

    /// A task that went on undoing, or retrying a release, has come to its end.
    pub(super) fn task_done(&mut self, task: TaskId) {
        if let Some(key) = self.releasing(task) {
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
        if alive && !self.uses(client, &key.space) {
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

    /// Asks every task of a lockspace to end. One that still opens its device has written nothing and may hang in
    /// open(2) for ever: it is forgotten.
    pub(super) fn stop_tasks_of(&mut self, name: SpaceName, now: LocalInstant) {
        let opening: Vec<(TaskId, LeaseKey)> = self
            .tasks
            .iter()
            .filter(|(_, key)| key.space == name)
            .filter(|(_, key)| self.leases.get(key).is_some_and(|l| matches!(l.phase, Phase::Opening(_))))
            .map(|(task, key)| (*task, *key))
            .collect();
        for (task, key) in opening {
            let target = self.leases.get(&key).and_then(|l| l.client);
            self.forget_lease(task, key);
            self.refuse_for(target, ResultCode::ENOSPC, None, now);
        }
        let users: BTreeSet<ClientId> =
            self.leases.values().filter(|l| l.key.space == name).filter_map(|l| l.client).collect();
        for client in users {
            if let Some(running) = self.clients.get(&client).and_then(|c| c.running.as_ref())
                && matches!(running.work, Work::Acquire(_))
            {
                running.stop.set();
            }
        }
    }
}

fn read_request(resource: &Resource, nowait: bool) -> Result<LeaseRequest, ResultCode> {
    let head = &resource.head;
    if head.flags.contains(LeaseFlags::SHARED) || head.flags.contains(LeaseFlags::PERSISTENT) {
        return Err(ResultCode::EOPNOTSUPP);
    }
    let [disk] = resource.disks.as_slice() else {
        // Several disks are a majority, not a choice: one alone would not be the lease that was asked for.
        return Err(if resource.disks.is_empty() { ResultCode::ERANGE } else { ResultCode::EOPNOTSUPP });
    };
    let key = key_of(head).ok_or(ResultCode::EINVAL)?;
    let path = path_of(&disk.path).ok_or(ResultCode::EINVAL)?;
    let expected_lver = head.flags.contains(LeaseFlags::LVER).then_some(Lver(head.lver)).filter(|l| l.0 != 0);
    let num_hosts = head.flags.contains(LeaseFlags::NUM_HOSTS).then_some(head.data32);
    Ok(LeaseRequest { key, place: Place { path, offset: disk.offset }, expected_lver, num_hosts, nowait })
}

fn key_of(head: &ResourceHead) -> Option<LeaseKey> {
    let space = SpaceName::new(head.lockspace_name.as_bytes()).ok()?;
    let resource = ResourceName::new(head.name.as_bytes()).ok()?;
    Some(LeaseKey { space, resource })
}
