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

mod acquire;
mod release;

use std::collections::{BTreeSet, VecDeque};

use holdfast_io::clock::LocalInstant;
use holdfast_io::ids::{Lver, ResourceName, SpaceName};
use holdfast_io::stop::Stop;
use holdfast_io::sys::rights::Rights;
use holdfast_io::units::Geometry;
use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::command::RestrictFlags;
use holdfast_protocol::payload::{Disk, Resource, ResourceHead};
use paxos_lease::Mode;
use paxos_lease::request::Force;

use super::answers::path_of;
use super::event::{ClientId, LeaseKey, LeaseRequest, Place, ReplyTo, TaskId};
use super::{Client, Program, Supervisor};

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
    /// The pids of clients that had it persistently and are gone. An orphan, unless others here share it.
    pub left_by: Vec<i32>,
    /// The pid of its last client, who gives it back.
    pub given_back_by: Option<i32>,
    /// How its client wants to be asked for it.
    pub manners: Manners,
    /// How often it was wanted here before, in these places.
    pub reused: u32,
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

/// How a client wants to be asked for a lease by another host: as it was said when the lease became its own.
#[derive(Clone, Debug, Default)]
pub struct Manners {
    /// What it restricted.
    pub restrict: RestrictFlags,
    /// What to run in its place.
    pub killpath: Option<Program>,
}

impl Manners {
    pub(super) fn of(client: &Client) -> Self {
        Manners { restrict: client.restrict, killpath: client.killpath.clone() }
    }
}

/// A lease that is over, for STATUS: how often it was wanted again.
#[derive(Debug)]
pub(super) struct Former {
    pub(super) key: LeaseKey,
    places: Vec<Place>,
    reused: u32,
}

/// How many of them are remembered.
const MOST_FORMER: usize = 128;

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
        !self.left_by.is_empty() && self.tokens.is_empty() && matches!(self.phase, Phase::Held { .. })
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
    /// A release whose client may have writes in flight still.
    Drain(GivesBack),
    Release {
        pending: BTreeSet<LeaseKey>,
        code: ResultCode,
    },
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

/// What a release is to give back.
#[derive(Debug)]
pub(super) struct GivesBack {
    keys: Vec<LeaseKey>,
    which: Tokens,
    rename: Option<ResourceName>,
    /// The answer, if nothing goes wrong.
    code: ResultCode,
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

/// Why a command does not begin, in words.
pub(super) const NOT_JOINED: &str = "the lockspace is not joined";

/// The same, of one that is for no client, or for one that has no time for it.
pub(super) fn not_admitted(code: ResultCode) -> &'static str {
    match code {
        ResultCode::ESRCH => "no client of that pid has registered",
        _ => "its client has not registered, or a command runs for it already",
    }
}

/// Which tokens of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tokens {
    Latest,
    All,
}

impl<L: Clone + std::fmt::Debug> Supervisor<L> {
    fn forget_lease(&mut self, task: TaskId, key: LeaseKey) {
        self.tasks.remove(&task);
        self.end_lease(key);
    }

    /// Nothing of a lease is here any more.
    pub(super) fn end_lease(&mut self, key: LeaseKey) {
        let Some(Lease { places, reused, .. }) = self.leases.remove(&key) else { return };
        self.former.push_back(Former { key, places, reused });
        if self.former.len() > MOST_FORMER {
            self.former.pop_front();
        }
    }

    /// How often a lease in these places was wanted before.
    fn reuse(&mut self, key: &LeaseKey, places: &[Place]) -> u32 {
        let known = self.former.iter().position(|former| former.key == *key && former.places == places);
        known.and_then(|at| self.former.remove(at)).map_or(0, |former| former.reused.saturating_add(1))
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

/// Where a resource lies; `None`: in one place twice. No path is refused by who opens it, once the lockspace is known to be there.
pub(super) fn places_of(resource: &Resource, by: &Rights) -> Option<Vec<Place>> {
    let path = |disk: &Disk| path_of(&disk.path).unwrap_or_default();
    let place = |disk: &Disk| Place { path: path(disk), offset: disk.offset, by: by.clone() };
    let places: Vec<Place> = resource.disks.iter().map(place).collect();
    let different: BTreeSet<&Place> = places.iter().collect();
    (different.len() == places.len()).then_some(places)
}

pub(super) fn key_of(head: &ResourceHead) -> Option<LeaseKey> {
    let space = SpaceName::new(head.lockspace_name.as_bytes()).ok()?;
    let resource = ResourceName::new(head.name.as_bytes()).ok()?;
    Some(LeaseKey { space, resource })
}
