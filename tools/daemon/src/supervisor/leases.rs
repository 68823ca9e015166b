//! Leases: the acquire and release commands, one resource after the other, all or none (spec A 6).
//!
//! A lease is held under *tokens*: one, where it is held exclusively; one for each acquire, where it is shared. On disk the
//! first of them takes it and the last gives it back; those between cost no I/O. A *persistent* lease whose client goes
//! becomes an *orphan*: this host holds it for nobody, until somebody adopts it or gives it back (spec A 8).
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

use crate::log_ring::AT_WILL;
use holdfast_io::clock::LocalInstant;
use holdfast_io::ids::{Lver, ResourceName, SpaceName};
use holdfast_io::stop::Stop;
use holdfast_io::units::Geometry;
use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::command::{AcquireFlags, LeaseFlags, ReleaseFlags};
use holdfast_protocol::payload::{Disk, Options, Resource, ResourceHead};
use holdfast_protocol::request::Target;
use holdfast_protocol::text::Name48;
use paxos_lease::Mode;
use paxos_lease::copies::MOST as MOST_DISKS;
use paxos_lease::request::Force;

use super::Supervisor;
use super::answers::path_of;
use super::event::{AcquireEnd, ClientId, Effect, LeaseKey, LeaseRequest, Orphans, Place, Prepared, ReplyTo, TaskId};
use super::spaces::Life;

/// A lease that this daemon holds, or is about to, or no longer quite.
#[derive(Debug)]
pub struct Lease<L> {
    /// Which.
    pub key: LeaseKey,
    /// Where it lies, on 1 to 4 disks.
    pub places: Vec<Place>,
    /// How it is held, or to be held.
    pub mode: Mode,
    /// Whose; none of an orphan, and once its client has gone and it is being given back.
    pub tokens: Vec<Token>,
    /// The pid of a client that had it persistently and is gone. An orphan, unless others here share it.
    pub left_by: Option<i32>,
    /// Its value, if it was acquired with one.
    pub value: Option<Value>,
    /// Its version; 0 until it is ours.
    pub lver: Lver,
    /// A number for STATUS.
    pub res_id: u32,
    /// The sizes of its area, once it is ours.
    pub geometry: Option<Geometry>,
    /// Since when it is ours.
    pub since: Option<LocalInstant>,
    /// What another host has asked its client to do.
    pub asked: Option<Force>,
    /// How it stands on disk is being read.
    pub verifying: bool,
    /// That its record is damaged, or an older one, was said.
    pub warned: bool,
    /// Where it stands.
    pub phase: Phase<L>,
}

/// The value of a lease: read when it was acquired, written when it is given back or shared (spec D 4.10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// A sector.
    pub bytes: Vec<u8>,
    /// It was set since.
    pub set: bool,
    /// A conversion was given it to be written, as set since.
    pub offered: bool,
}

/// One client's hold on a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Whose.
    pub client: ClientId,
    /// Its place among the leases of its client: the lowest that was free.
    pub slot: usize,
    /// A number for STATUS.
    pub number: u32,
    /// The lease is to outlive the client. Only once the client was told that it has it.
    pub persistent: bool,
}

impl<L> Lease<L> {
    /// Whether it is a client's, or is to be.
    #[must_use]
    pub fn is_of(&self, client: ClientId) -> bool {
        self.tokens.iter().any(|t| t.client == client)
    }

    /// Whether this host holds it for nobody.
    #[must_use]
    pub fn is_orphan(&self) -> bool {
        self.left_by.is_some() && self.tokens.is_empty() && matches!(self.phase, Phase::Held { .. })
    }

    /// How often a client has it.
    fn tokens_of(&self, client: ClientId) -> usize {
        self.tokens.iter().filter(|t| t.client == client).count()
    }

    /// Whether a client holds it.
    pub(super) fn is_held_by(&self, client: ClientId) -> bool {
        self.is_of(client) && matches!(self.phase, Phase::Held { .. })
    }

    /// Whether a client has it to give back.
    fn is_had_by(&self, client: ClientId) -> bool {
        self.is_of(client) && matches!(self.phase, Phase::Held { .. } | Phase::Lost { .. })
    }

    /// What of its value is to be written now.
    pub(super) fn value_to_write(&mut self) -> Option<Vec<u8>> {
        let exclusive = self.mode == Mode::Exclusive;
        let value = self.value.as_mut().filter(|v| v.set && exclusive)?;
        value.set = false;
        Some(value.bytes.clone())
    }

    /// For whom a task of it runs: there is one client then, or none.
    pub(super) fn client(&self) -> Option<ClientId> {
        self.tokens.first().map(|t| t.client)
    }
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
    /// Ours, and a task changes how.
    Converting {
        /// Its client has gone meanwhile: it is given back once the task is over.
        abandoned: bool,
    },
    /// A task gives it back, or undoes an attempt.
    Releasing,
    /// It is not ours any more. Whoever used it here is being ended.
    Lost {
        /// It was shared, and our claim may stand on the disks still: it is taken back once nobody uses it here. Nothing else is
        /// written for it.
        claim: Option<L>,
    },
}

impl<L> Phase<L> {
    /// The word for people and logs.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Phase::Acquiring => "acquiring",
            Phase::Held { .. } => "held",
            Phase::Opening(_) => "opening",
            Phase::Converting { .. } => "converting",
            Phase::Releasing => "releasing",
            Phase::Lost { .. } => "lost",
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

impl Running {
    pub(super) const fn convert(stop: Stop, to: ReplyTo) -> Self {
        Running { stop, to, work: Work::Convert }
    }

    pub(super) const fn reply_to(&self) -> ReplyTo {
        self.to
    }
}

#[derive(Debug)]
pub(super) enum Work {
    Acquire(Acquire),
    Release { pending: BTreeSet<LeaseKey>, code: ResultCode },
    Convert,
}

#[derive(Debug)]
pub(super) struct Acquire {
    /// All of the call, to start over from.
    wanted: Vec<LeaseRequest>,
    todo: VecDeque<LeaseRequest>,
    done: Vec<LeaseKey>,
    /// Those of `done` that were orphans, and are again unless all of the call succeeds.
    adopted: Vec<LeaseKey>,
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
const NOT_JOINED: &str = "the lockspace is not joined";

/// A client, for people.
fn who(pid: i32, name: &Name48) -> String {
    format!("process {pid} ({name})")
}

/// Which tokens of a client.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tokens {
    Latest,
    All,
}

/// Tokens of one client: each is looked at after every event.
const MOST_TOKENS: usize = 1024;

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
    ) -> Result<(ClientId, Vec<LeaseRequest>), (ResultCode, &'static str)> {
        let target = self.admit(to, target).map_err(|code| (code, "no such client, or a command runs for it"))?;
        if self.is_being_ended(target) {
            return Err((ResultCode::EBUSY, BEING_ENDED));
        }
        let nowait = flags.contains(AcquireFlags::OWNER_NOWAIT);
        let wanted = self.read_requests(flags, resources, nowait).map_err(|code| (code, "not understood"))?;
        let known = |r: &LeaseRequest| self.spaces.get(&r.key.space).is_some_and(|s| s.life.is_active());
        let joined = wanted.iter().all(known);
        let client = self.clients.get_mut(&target).ok_or((ResultCode::ESRCH, "no such client"))?;
        client.name = options.owner_name;
        if !joined {
            return Err((ResultCode::ENOSPC, NOT_JOINED));
        }
        if client.process.is_none() && !wanted.is_empty() {
            // P1: what cannot be named in the state file cannot be guarded.
            return Err((ResultCode::ESTALE, "its process could not be identified when it registered"));
        }
        Ok((target, wanted))
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
        (code, why): (ResultCode, &'static str),
        now: LocalInstant,
    ) {
        let pid = match target {
            Target::This => self.clients.get(&to.client).map_or(0, |c| c.pid),
            Target::Pid(pid) => i32::try_from(pid).unwrap_or(-1),
        };
        let name = options.owner_name;
        let leases: Vec<String> =
            resources.iter().map(|r| format!("{}:{}", r.head.lockspace_name, r.head.name)).collect();
        let leases = leases.join(" ");
        tracing::info!(leases, pid, %name, code = code.number(), why, "not acquired");
        self.refused(format!("lease {leases}"), code, format!("{why}, for {}", who(pid, &name)), now);
        self.reply(to, code);
    }

    /// Who may run a command now (spec A 4).
    pub(super) fn admit(&self, to: ReplyTo, target: Target) -> Result<ClientId, ResultCode> {
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
        let value = flags.contains(AcquireFlags::LVB);
        let orphans = match (flags.contains(AcquireFlags::ORPHAN_ONLY), flags.contains(AcquireFlags::ORPHAN)) {
            (true, _) => Orphans::Demanded,
            (false, true) => Orphans::Adopted,
            (false, false) => Orphans::Refused,
        };
        resources.iter().map(|r| Ok(LeaseRequest { value, ..read_request(r, nowait, orphans)? })).collect()
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
        let lease = Lease {
            geometry: None,
            key,
            places: request.places.clone(),
            mode: request.mode,
            tokens: vec![token],
            left_by: None,
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
        if done.iter().any(|key| !self.is_active(&key.space)) {
            return self.refuse(target, ResultCode::ENOSPC, None, now);
        }
        if done.iter().any(|key| !self.leases.get(key).is_some_and(|l| l.is_held_by(target))) {
            return self.refuse(target, ResultCode::EAGAIN, None, now);
        }
        self.finish_acquire(target);
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
        let adopts = self.leases.get(&request.key).is_some_and(Lease::is_orphan);
        if let Some(acquire) = self.acquire_of(target).filter(|_| adopts) {
            acquire.adopted.push(request.key);
        }
        if let Some(lease) = self.leases.get_mut(&request.key) {
            lease.tokens.push(token);
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
            Phase::Held { .. } if (lease.mode, request.mode) == (Mode::Shared, Mode::Shared) => Ok(Admission::Here),
            Phase::Held { .. } => wait(ResultCode::EEXIST, self.standing_of(lease)),
        }
    }

    /// Where a lease stands on this host, and with whom, for whoever wants it here.
    fn standing_of(&self, lease: &Lease<L>) -> String {
        let (word, mode) = (lease.phase.word(), lease.mode);
        let first = lease.client().and_then(|id| self.clients.get(&id)).map(|c| who(c.pid, &c.name));
        match (first, lease.left_by) {
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
        let (pid, name) = self.clients.get(&target).map_or((0, Name48::EMPTY), |c| (c.pid, c.name));
        if self.waiting.iter().any(|w| w.client == target) {
            tracing::debug!(lease = %key, pid, %name, code = code.number(), why, "still not acquired");
        } else {
            tracing::info!(lease = %key, pid, %name, code = code.number(), why, "not acquired");
            self.refused(format!("lease {key}"), code, why, now);
        }
        self.refuse(target, code, wait.then_some(key), now);
    }

    fn acquire_of(&mut self, target: ClientId) -> Option<&mut Acquire> {
        match self.clients.get_mut(&target)?.running.as_mut()?.work {
            Work::Acquire(ref mut acquire) => Some(acquire),
            Work::Release { .. } | Work::Convert => None,
        }
    }

    fn stop_of(&self, target: ClientId) -> Option<Stop> {
        self.clients.get(&target)?.running.as_ref().map(|r| r.stop.clone())
    }

    pub(super) fn device_ready(&mut self, task: TaskId, Prepared { fences, result }: Prepared, now: LocalInstant) {
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
            tracing::info!(target: AT_WILL, lease = %key, why, "not acquired: its device cannot be used");
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

    pub(super) fn acquired(&mut self, task: TaskId, end: AcquireEnd<L>, now: LocalInstant) {
        let Some(key) = self.tasks.get(&task).copied() else { return };
        let active = self.spaces.get(&key.space).is_some_and(|s| s.life.is_active());
        let Some(lease) = self.leases.get_mut(&key).filter(|l| matches!(l.phase, Phase::Acquiring)) else { return };
        let target = lease.client();
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
                if active {
                    lease.phase = Phase::Releasing;
                    lease.tokens.clear();
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
                    tracing::debug!(lease = %key, code = code.number(), why, "still not acquired");
                } else {
                    tracing::info!(target: AT_WILL, lease = %key, code = code.number(), why, "not acquired");
                }
                if undoing {
                    lease.phase = Phase::Releasing;
                    lease.tokens.clear();
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
            for lease in acquire.done.iter().filter_map(|key| self.leases.get(key)) {
                let generation = self.generation_in(&lease.key.space).map(|g| g.0);
                let (key, mode, lver) = (lease.key, mode_word(lease.mode), lease.lver);
                tracing::info!(lease = %key, pid, %name, mode, %lver, generation, "acquired");
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
            if let Some(pid) = self.leases.get_mut(key).and_then(|l| l.left_by.take()) {
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
        acquire.adopted.clear();
        for key in done {
            self.give_up(key, target, Tokens::Latest);
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
        if flags.contains(ReleaseFlags::ORPHAN) {
            return self.release_orphans(to, heads);
        }
        let held = |key: &LeaseKey| self.leases.get(key).is_some_and(|l| l.is_had_by(target));
        if flags.contains(ReleaseFlags::RENAME) {
            return self.rename(to, target, heads);
        }
        let mut code = ResultCode::OK;
        let mut keys = Vec::new();
        if flags.contains(ReleaseFlags::ALL) {
            keys.extend(self.leases.keys().copied().filter(held));
        } else {
            // As often as it is named, and as it is held.
            let tokens = |key: &LeaseKey| self.leases.get(key).map_or(0, |l| l.tokens_of(target));
            for head in heads {
                let named = |key: &LeaseKey| keys.iter().filter(|k| *k == key).count();
                match key_of(head).filter(|key| held(key) && named(key) < tokens(key)) {
                    Some(key) => keys.push(key),
                    None => code = ResultCode::EPERM,
                }
            }
        }
        if let Some(client) = self.clients.get_mut(&target) {
            let work = Work::Release { pending: keys.iter().copied().collect(), code };
            client.running = Some(Running { stop: Stop::new(), to, work });
        }
        let all = if flags.contains(ReleaseFlags::ALL) { Tokens::All } else { Tokens::Latest };
        for key in &keys {
            self.give_up(*key, target, all);
        }
        for key in keys {
            if !self.is_releasing(key) {
                self.lease_ended(key, Some(target), ResultCode::OK);
            }
        }
        self.end_release(target);
    }

    /// Gives a lease back under another name, which its area has from then on (spec A 6).
    fn rename(&mut self, to: ReplyTo, target: ClientId, heads: &[ResourceHead]) {
        let [held, renamed] = heads else { return self.reply(to, ResultCode::EINVAL) };
        let found = key_of(held).and_then(|key| self.leases.get(&key)).filter(|l| l.is_held_by(target));
        let Some((key, mode)) = found.map(|l| (l.key, l.mode)) else { return self.reply(to, ResultCode::EPERM) };
        let name = ResourceName::new(renamed.name.as_bytes());
        let (Ok(name), Mode::Exclusive) = (name, mode) else { return self.reply(to, ResultCode::EINVAL) };
        if let Some(client) = self.clients.get_mut(&target) {
            let work = Work::Release { pending: BTreeSet::from([key]), code: ResultCode::OK };
            client.running = Some(Running { stop: Stop::new(), to, work });
        }
        self.start_release_as(key, Some(name));
        self.end_release(target);
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
                lease.left_by = None;
            }
            self.start_release(*key);
        }
        self.reply(to, ResultCode::new(i32::try_from(keys.len()).unwrap_or(i32::MAX)));
    }

    fn is_releasing(&self, key: LeaseKey) -> bool {
        self.leases.get(&key).is_some_and(|l| matches!(l.phase, Phase::Releasing))
    }

    /// Takes tokens of a client back, and gives the lease back if nobody else has any, and nobody left it behind.
    fn give_up(&mut self, key: LeaseKey, client: ClientId, which: Tokens) {
        let Some(lease) = self.leases.get_mut(&key).filter(|l| l.is_had_by(client)) else { return };
        let last = lease.tokens.iter().rposition(|t| t.client == client);
        let stays = |(at, t): &(usize, &Token)| t.client != client || (which == Tokens::Latest && Some(*at) != last);
        let left: Vec<Token> = lease.tokens.iter().enumerate().filter(stays).map(|(_, t)| *t).collect();
        if left.is_empty() && lease.left_by.is_none() {
            lease.tokens.truncate(1);
            return self.start_release(key);
        }
        lease.tokens = left;
        if lease.is_orphan() {
            tracing::info!(lease = %key, left_by = lease.left_by, "an orphan");
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
            let client = lease.client();
            tracing::info!(lease = %key, lver = %lease.lver, "let go without a write: the end of our host_id's term frees it");
            self.leases.remove(&key);
            self.lease_ended(key, client, ResultCode::OK);
        }
    }

    /// The end of a connection gives back what it held; in a failing lockspace nothing is written, and the process stays
    /// under guard.
    pub(super) fn release_all_of(&mut self, client: ClientId) {
        let keys: Vec<LeaseKey> = self.leases.values().filter(|l| l.is_of(client)).map(|l| l.key).collect();
        for key in keys {
            let failing = |s: &super::Space| !s.life.is_active() && s.guards.contains_key(&client);
            let guarded = self.spaces.get(&key.space).is_some_and(failing);
            let (pid, gone) = self.clients.get(&client).map_or((0, true), |c| (c.pid, c.is_gone()));
            let Some(lease) = self.leases.get_mut(&key) else { continue };
            let persists = lease.tokens.iter().any(|t| t.client == client && t.persistent);
            match &mut lease.phase {
                Phase::Converting { abandoned } => *abandoned = true,
                Phase::Held { .. } if guarded => {
                    // What outlives its client may be used by whom nobody sees end: an orphan, also where nothing is written.
                    lease.left_by = lease.left_by.or(persists.then_some(pid));
                    lease.tokens.retain(|t| t.client != client);
                    if lease.tokens.is_empty() && lease.left_by.is_none() {
                        tracing::info!(lease = %key, lver = %lease.lver, pid, "its last client is gone; its lockspace is lost");
                        self.leases.remove(&key);
                    }
                }
                Phase::Held { .. } => {
                    lease.left_by = lease.left_by.or(persists.then_some(pid));
                    self.give_up(key, client, Tokens::All);
                }
                // As long as anything of its client may use it, it is nobody else's here.
                Phase::Lost { .. } if gone => self.give_up(key, client, Tokens::All),
                Phase::Opening(_) | Phase::Acquiring | Phase::Releasing | Phase::Lost { .. } => {}
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
        let client = self.leases.get_mut(&key).and_then(|l| std::mem::take(&mut l.tokens).first().map(|t| t.client));
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
        if self.end_turn(task) {
            return;
        }
        if let Some(key) = self.releasing(task) {
            if self.leases.get(&key).is_some_and(|l| l.since.is_some()) {
                tracing::info!(lease = %key, "released, later than it was asked for");
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
            let target = self.leases.get(&key).and_then(Lease::client);
            self.forget_lease(task, key);
            self.refuse_for(target, ResultCode::ENOSPC, None, now);
        }
        self.stop_turns_in(&name, now);
        let users: BTreeSet<ClientId> =
            self.leases.values().filter(|l| l.key.space == name).flat_map(|l| &l.tokens).map(|t| t.client).collect();
        for client in users {
            if let Some(running) = self.clients.get(&client).and_then(|c| c.running.as_ref())
                && matches!(running.work, Work::Acquire(_) | Work::Convert)
            {
                running.stop.set();
            }
        }
    }
}

/// A mode, as people read it.
pub(super) fn mode_word(mode: Mode) -> &'static str {
    match mode {
        Mode::Exclusive => "exclusive",
        Mode::Shared => "shared",
    }
}

fn read_request(resource: &Resource, nowait: bool, orphans: Orphans) -> Result<LeaseRequest, ResultCode> {
    let head = &resource.head;
    let persistent = head.flags.contains(LeaseFlags::PERSISTENT);
    let mode = if head.flags.contains(LeaseFlags::SHARED) { Mode::Shared } else { Mode::Exclusive };
    if !(1..=MOST_DISKS).contains(&resource.disks.len()) {
        return Err(ResultCode::ERANGE);
    }
    // No lockspace has an empty name, or one that is none.
    SpaceName::new(head.lockspace_name.as_bytes()).map_err(|_| ResultCode::ENOSPC)?;
    let key = key_of(head).ok_or(ResultCode::EINVAL)?;
    let places = places_of(resource).ok_or(ResultCode::EINVAL)?;
    let expected_lver = head.flags.contains(LeaseFlags::LVER).then_some(Lver(head.lver)).filter(|l| l.0 != 0);
    let num_hosts = head.flags.contains(LeaseFlags::NUM_HOSTS).then_some(head.data32);
    Ok(LeaseRequest { value: false, persistent, orphans, key, places, expected_lver, num_hosts, nowait, mode })
}

/// Where a resource lies; `None`: in one place twice. No path is refused by who opens it, once the lockspace is known to be there.
pub(super) fn places_of(resource: &Resource) -> Option<Vec<Place>> {
    let place = |disk: &Disk| Place { path: path_of(&disk.path).unwrap_or_default(), offset: disk.offset };
    let places: Vec<Place> = resource.disks.iter().map(place).collect();
    let different: BTreeSet<&Place> = places.iter().collect();
    (different.len() == places.len()).then_some(places)
}

pub(super) fn key_of(head: &ResourceHead) -> Option<LeaseKey> {
    let space = SpaceName::new(head.lockspace_name.as_bytes()).ok()?;
    let resource = ResourceName::new(head.name.as_bytes()).ok()?;
    Some(LeaseKey { space, resource })
}
