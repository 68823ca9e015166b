//! The supervisor: the only owner of the daemon's state. [`Supervisor::apply`] takes one event and the time, changes
//! the state, and says what is to be done; it does no I/O and knows no clock of its own, so every rule of the daemon can
//! be tested, and simulated, without a disk, a socket or a process.
//!
//! | file | what |
//! | --- | --- |
//! | `event.rs` | events and effects |
//! | `clients.rs` | connections: registration, restriction, the end of a connection and of a process |
//! | `spaces.rs` | lockspaces: join, renewal, D2's instant, leaving |
//! | `shutdown.rs` | the daemon's own end, asked for by a client or by a signal |
//! | `leases.rs` | what a lease is here; `leases/acquire.rs`, `leases/release.rs`: those commands, one resource after the other, all or none |
//! | `convert.rs` | the convert command |
//! | `killpath.rs` | what a client wants to be run in its place |
//! | `ladder.rs` | ending what is guarded when a lockspace is lost or taken away |
//! | `calls.rs` | what our delta sector says to other hosts |
//! | `events.rs` | events from host to host |
//! | `care.rs` | the watchdog: armed before the first delta write, petted while all is fresh (D3, W1) |
//! | `answers.rs` | replies that need nothing but this state |
//! | `history.rs` | the latest renewals of a lockspace |
//! | `requests.rs` | asking owners elsewhere to let go, and being asked |
//! | `losses.rs` | leases that turn out to be lost while they are held |
//! | `values.rs` | the values of leases |
//! | `index.rs` | the resource index |
//!
//! Invariants kept here, each asserted in `Supervisor::check` after every event:
//! - **D2** a lockspace past its instant is never active, and an active one is the only kind in which a lease can be
//!   granted. Losing a lockspace is final: no event leads back from failing to active.
//! - **D3** while any lockspace is between the permission for its first delta write and its [`Event::Left`], the watchdog
//!   is armed.
//! - **P1** whatever is guarded stands in the state file before the reply that grants its lease.

mod answers;
mod calls;
mod care;
mod clients;
mod convert;
pub mod event;
mod events;
mod history;
pub mod index;
mod killpath;
mod ladder;
mod leases;
mod losses;
mod requests;
mod shutdown;
mod spaces;
#[cfg(test)]
mod tests;
mod values;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use holdfast_io::clock::LocalInstant;
use holdfast_io::ids::{Generation, SpaceName};
use holdfast_io::planted::{Bug, planted};
use holdfast_io::seal::SealedFire;
use holdfast_io::timing::{FireTimeout, IoTimeout, Timing};
use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::command::Command;
use holdfast_protocol::request::{Message, Request};
use holdfast_protocol::text::Name48;
use paxos_lease::Mode;

use crate::log_ring::AT_WILL;
use crate::state_file::{SpaceRecord, StateFile};
use crate::watchdog::Kind;
pub(crate) use calls::CALLED_FOR;
pub use care::Care;
pub use clients::Client;
use event::{ClientId, Effect, Event, LeaseKey, Reloaded, ReplyTo, TaskId};
pub use killpath::Program;
pub use leases::{Lease, Phase};
use shutdown::Shutdown;
pub use spaces::{Life, Space};

/// What the administrator decided.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our host's name, as it stands in delta sectors.
    pub host_name: String,
    /// For lockspaces that are added without an io_timeout of their own.
    pub io_timeout: IoTimeout,
    /// What the watchdog is to keep, and what is sealed if there is one.
    pub fire_timeout: FireTimeout,
    /// What is sealed on disk: the same, or that there is no watchdog.
    pub sealed: SealedFire,
    /// What keeps the watchdog, for the state file, and for what wdmd needs.
    pub watchdog: Kind,
    /// From SIGTERM to SIGKILL, already shortened to what the watchdog leaves.
    pub kill_grace: Duration,
    /// A lease outlives the descriptor of its connection until its process is gone.
    pub strict_clients: bool,
    /// The kernel's boot id, for the state file.
    pub boot_id: String,
    /// Our uid and gid, and the like, for STATUS.
    pub report: Report,
}

/// Facts for STATUS that decide nothing.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Our user id.
    pub uid: u32,
    /// Our group id.
    pub gid: u32,
    /// Whether a watchdog is used.
    pub use_watchdog: bool,
    /// Whether real-time priority was granted.
    pub high_priority: bool,
    /// 0: memory is not locked; 1: it is.
    pub mlock_level: u32,
    /// Whether the watchdog chosen had reset this host before it started as it runs now; `None`: it does not tell.
    pub reset_by_watchdog: Option<bool>,
    /// Why the kernel does not tell who shares a connection, so that no client can be guarded; `None`: it does.
    pub no_peers: Option<String>,
}

/// The daemon's state. `L` is what a lease task needs to release a lease; the supervisor only keeps it.
#[derive(Debug)]
pub struct Supervisor<L> {
    settings: Settings,
    clients: BTreeMap<ClientId, Client>,
    slots: clients::Slots,
    spaces: BTreeMap<SpaceName, Space>,
    leases: BTreeMap<LeaseKey, Lease<L>>,
    /// The latest that are over.
    former: VecDeque<leases::Former>,
    tasks: BTreeMap<TaskId, LeaseKey>,
    waiting: VecDeque<leases::WaitingAcquire>,
    turns: index::Turns,
    care: Care,
    /// Lockspaces of a predecessor that is proven gone: its fences are ours (P1 b).
    inherited: Vec<SpaceRecord>,
    last_saved: StateFile,
    /// The latest refusals, with their reasons in words: a result code is all that sanlock's protocol has room for.
    refusals: VecDeque<Refusal>,
    shutdown: Option<Shutdown>,
    /// Until when a signal to end lasts.
    ends_by: Option<LocalInstant>,
    /// Lockspaces that are to be joined again where they were lost or could not be joined.
    wanted: BTreeSet<SpaceName>,
    last_task: u64,
    last_res_id: u32,
    last_token: u32,
    last_space: u32,
    effects: Vec<Effect<L>>,
}

/// Why something was refused.
#[derive(Debug)]
struct Refusal {
    at: LocalInstant,
    about: String,
    code: ResultCode,
    why: String,
}

/// A client, for people and logs.
struct Who {
    pid: i32,
    name: Name48,
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.name.is_empty() {
            return write!(f, "process {}", self.pid);
        }
        write!(f, "process {} ({})", self.pid, self.name)
    }
}

/// How many refusals are kept.
const MOST_REFUSALS: usize = 64;

impl<L: Clone + std::fmt::Debug> Supervisor<L> {
    /// A supervisor that has inherited these lockspaces from a predecessor proven gone.
    #[must_use]
    pub fn new(settings: Settings, inherited: Vec<SpaceRecord>) -> Self {
        let last_saved = StateFile { lockspaces: inherited.clone(), ..StateFile::empty(&settings.boot_id) };
        Supervisor {
            settings,
            clients: BTreeMap::new(),
            slots: clients::Slots::default(),
            spaces: BTreeMap::new(),
            leases: BTreeMap::new(),
            former: VecDeque::new(),
            tasks: BTreeMap::new(),
            waiting: VecDeque::new(),
            turns: index::Turns::default(),
            care: Care::default(),
            inherited,
            last_saved,
            refusals: VecDeque::new(),
            shutdown: None,
            ends_by: None,
            wanted: BTreeSet::new(),
            last_task: 0,
            last_res_id: 0,
            last_token: 0,
            last_space: 0,
            effects: Vec::new(),
        }
    }

    /// One event in, what is to be done out. `now` is the daemon's clock, read right before the call.
    pub fn apply(&mut self, event: Event<L>, now: LocalInstant) -> Vec<Effect<L>> {
        // Whatever the event is: first see which lockspaces are past their instant. Nothing below may act on one that
        // only looks alive because no tick came in time (a frozen daemon wakes with a queue full of old events).
        if !planted(Bug::ExpiryAtTicksOnly) || matches!(event, Event::Tick) {
            self.expire(now);
        }
        match event {
            Event::Connected { client, pid, rights } => self.connected(client, pid, rights),
            Event::Request { client, message } => self.request(client, message, now),
            Event::Registered { client, process } => self.registered(client, process),
            Event::Closed { client } => self.closed(client),
            Event::Exited { client } => self.exited(client),
            Event::GroupGone { client } => self.group_gone(client),
            Event::WritesOver { client, exited } => self.writes_over(client, exited),
            Event::WritesDrained { client, idle } => self.writes_drained(client, idle),
            Event::Armed { result, device_seconds, stays_on } => self.armed(result, device_seconds, stays_on, now),
            Event::CountsOn => self.want_armed(now),
            Event::Petted { result, until } => self.petted(result, until, now),
            Event::JoinFenced { space, generation, fences } => self.join_fenced(space, generation, fences, now),
            Event::Joined { space, result } => self.joined(space, result, now),
            Event::Renewed { space, started_at, took } => self.renewed(space, started_at, took, now),
            Event::RenewalFailed { space, why, lost, code } => {
                self.renewal_failed(space, why, lost, code, now);
            }
            Event::Reaped { space } => self.reaped(space),
            Event::Left { space } => self.left(space, now),
            Event::DeviceReady { task, prepared } => self.device_ready(task, prepared, now),
            Event::Fenced { space, fence, saved } => self.fenced(space, fence, saved),
            Event::Acquired { task, end } => self.acquired(task, end, now),
            Event::Released { task, code, why, done } => self.released(task, code, why, done, now),
            Event::Converted { task, end } => self.converted(task, end, now),
            Event::TaskDone { task } => self.task_done(task),
            Event::IndexReady { task, prepared } => self.index_ready(task, prepared, now),
            Event::IndexDone { task, end, over } => self.index_done(task, &end, over, now),
            Event::Asked { to, key, result } => self.asked(to, key, result, now),
            Event::Called { space, calls } => self.called(space, &calls),
            Event::EventAimed { to, set } => self.event_aimed(to, set, now),
            Event::Examined { key, lver, found } => self.examined(key, lver, found),
            Event::Verified { key, lver, mode, found } => self.verified(key, lver, mode, found, now),
            Event::Tick => self.retry_waiting(now),
            Event::ShutdownSignal => self.shutdown_signal(now),
            Event::Reloaded(new) => self.reloaded(new),
        }
        self.step_ladders(now);
        self.give_up_joins(now);
        self.step_care(now);
        self.follow_signal(now);
        self.step_shutdown();
        self.check(now);
        self.note_answers();
        std::mem::take(&mut self.effects)
    }

    /// Our generation in a lockspace that is active.
    #[must_use]
    pub fn generation_in(&self, space: &SpaceName) -> Option<Generation> {
        match self.spaces.get(space)?.life {
            Life::Active { generation, .. } => Some(generation),
            _ => None,
        }
    }

    /// Where a lockspace stands, in a word, and what is done with its leases: the most delicate of it.
    #[must_use]
    pub fn standing(&self, space: &SpaceName) -> (Option<&'static str>, Option<&'static str>) {
        let phase = self.leases.values().filter(|l| l.key.space == *space).map(|l| l.phase.word()).max();
        (self.spaces.get(space).map(|s| s.life.word()), phase)
    }

    /// When [`Event::Tick`] is due at the latest.
    #[must_use]
    pub fn next_wakeup(&self, now: LocalInstant) -> LocalInstant {
        let spaces = self.spaces.values().map(|s| s.next_wakeup(now));
        let waiting = self.waiting.iter().map(|w| w.retry_at);
        let joins = self.shutdown.as_ref().map(|shutdown| shutdown.joins_last).filter(|_| !self.spaces.is_empty());
        let due = spaces.chain(waiting).chain(self.ends_by).chain(joins.filter(|due| *due > now));
        due.chain([self.care.next_pet]).min().unwrap_or(LocalInstant::NEVER)
    }

    /// The invariants of this file's head. They hold whatever clients, disks and hosts do: a violation is our own bug,
    /// and a daemon that dies leaves the watchdog armed, which is the safe side.
    fn check(&self, now: LocalInstant) {
        for (name, space) in &self.spaces {
            if let Life::Active { fail_at, .. } = space.life {
                assert!(now < fail_at, "D2: lockspace {name} is active at {now:?}, past its instant {fail_at:?}");
            }
        }
        let under_d3 = self.spaces.values().any(Space::is_under_d3);
        assert!(!under_d3 || self.care.armed, "D3: a lockspace may be written and no watchdog seam is open");
        for lease in self.leases.values() {
            assert!(
                lease.mode == Mode::Shared || lease.tokens.len() <= 1,
                "S1: {} has two exclusive holders",
                lease.key
            );
            if matches!(lease.phase, Phase::Held { .. } | Phase::Converting { abandoned: false }) {
                for token in &lease.tokens {
                    let process = self.clients.get(&token.client).and_then(|c| c.process.as_ref());
                    let named = process.is_some_and(|p| self.last_saved.guarded.contains(p));
                    assert!(named, "P1: {} is held by a process that the state file does not name", lease.key);
                }
            }
        }
    }

    /// Of those about one thing with one answer the latest is kept: who asks again and again pushes nobody else's out.
    fn refused(&mut self, about: String, code: ResultCode, why: String, at: LocalInstant) {
        self.refusals.retain(|r| (&r.about, r.code) != (&about, code));
        self.refusals.push_back(Refusal { at, about, code, why });
        if self.refusals.len() > MOST_REFUSALS {
            self.refusals.pop_front();
        }
    }

    /// A command is refused before anything is done for it: by its code to who asked, in words to the log and to `status`.
    fn deny(&mut self, to: ReplyTo, about: String, code: ResultCode, why: &str, now: LocalInstant) {
        let (command, who) = (Command::from_number(to.header.cmd).map(Command::name), self.who(to.client));
        tracing::info!(target: AT_WILL, about, command, pid = who.pid, name = %who.name, code = code.number(), why, "refused");
        self.refused(about, code, format!("{why}, for {who}"), now);
        self.reply(to, code);
    }

    /// A client, for people and logs.
    fn who(&self, client: impl Into<Option<ClientId>>) -> Who {
        client
            .into()
            .and_then(|id| self.clients.get(&id))
            .map_or(Who { pid: 0, name: Name48::EMPTY }, |c| Who { pid: c.pid, name: c.name })
    }

    fn next_task(&mut self, key: LeaseKey) -> TaskId {
        self.last_task += 1;
        let task = TaskId(self.last_task);
        self.tasks.insert(task, key);
        task
    }

    fn reply(&mut self, to: ReplyTo, code: ResultCode) {
        self.reply_with(to, code, 0, &[]);
    }

    fn reply_with(&mut self, to: ReplyTo, code: ResultCode, data2: u32, payload: &[u8]) {
        let mut bytes = to.header.answer(code, data2, payload.len()).encode().to_vec();
        bytes.extend_from_slice(payload);
        self.effects.push(Effect::Reply { client: to.client, bytes });
        self.effects.push(Effect::Next { client: to.client });
    }

    /// The reply of a command after which the connection is closed, unless it is a client's life (spec A 4).
    fn last_reply(&mut self, to: ReplyTo, code: ResultCode) {
        let bytes = to.header.answer(code, to.header.data2, 0).encode().to_vec();
        self.effects.push(Effect::Reply { client: to.client, bytes });
        self.close(to.client);
    }

    /// Writes the state file if what it must say has changed.
    fn save(&mut self) {
        let state = self.state();
        if state != self.last_saved {
            self.last_saved = state.clone();
            self.effects.push(Effect::Save(state));
        }
    }

    fn state(&self) -> StateFile {
        let joined = self
            .spaces
            .iter()
            .filter_map(|(name, s)| Some(SpaceRecord { unseen: self.is_used_unseen(name, s), ..s.record.clone()? }));
        let inherited = self.inherited.iter().filter(|i| !self.names_it_anew(i)).cloned();
        let guarded = self.guarded().into_iter().filter_map(|id| self.clients.get(&id));
        let guarded = guarded.filter(|client| !client.is_gone()).filter_map(|client| client.process.clone());
        StateFile {
            watchdog_armed: self.care.may_count(),
            watchdog: self.care.may_count().then_some(self.settings.watchdog),
            lockspaces: joined.chain(inherited).collect(),
            guarded: guarded.collect(),
            ..StateFile::empty(&self.settings.boot_id)
        }
    }

    /// Whether something uses a lockspace that no successor could see end.
    fn is_used_unseen(&self, name: &SpaceName, space: &Space) -> bool {
        let mut leases = self.leases.values().filter(|l| l.key.space == *name);
        let persists = |l: &Lease<L>| l.tokens.iter().any(|t| t.persistent);
        space.used || leases.any(|l| !l.left_by.is_empty() || (space.used_by_orphans && persists(l)))
    }

    fn names_it_anew(&self, inherited: &SpaceRecord) -> bool {
        self.spaces.values().filter_map(|s| s.record.as_ref()).any(|record| record.is_of_the_same(inherited))
    }

    /// Clients that must be seen gone before their lockspaces are safe to leave: each holds a lease, is about to get one, or
    /// held one when its lockspace failed.
    fn guarded(&self) -> BTreeSet<ClientId> {
        let holders = self.leases.values().flat_map(|l| &l.tokens).map(|t| t.client);
        holders.chain(self.spaces.values().flat_map(|s| s.guards.keys().copied())).collect()
    }

    fn request(&mut self, client: ClientId, message: Message, now: LocalInstant) {
        let Some(asking) = self.clients.get_mut(&client) else { return };
        let to = ReplyTo { client, header: message.header };
        asking.last_command = message.header.cmd;
        asking.shows(message.command);
        match message.request {
            Request::Register => self.register(client),
            Request::Restrict { flags } => self.restrict(to, flags),
            Request::AddLockspace { flags, io_timeout, lockspace } => {
                self.add_lockspace(to, flags, io_timeout, &lockspace, now);
            }
            Request::RemLockspace { flags, lockspace } => self.rem_lockspace(to, flags, &lockspace, now),
            Request::InqLockspace { flags, lockspace } => self.inq_lockspace(to, flags, &lockspace),
            Request::Acquire { flags, target, resources, options } => {
                self.acquire(to, flags, target, &resources, &options, now);
            }
            Request::Release { flags, target, resources } => self.release(to, flags, target, &resources, now),
            Request::Inquire { target } => self.inquire(to, target),
            Request::GetLockspaces => self.get_lockspaces(to),
            Request::Status { stop_after } => self.status(to, stop_after, now),
            Request::Version => self.version(to),
            Request::Shutdown { force } => self.shutdown(to, force, false, now),
            Request::ShutdownWait { force } => self.shutdown(to, force, true, now),
            Request::HoldfastStatus => self.effects.push(Effect::AnswerStatus { to }),
            Request::Renewal { lockspace } => self.renewals(to, &lockspace),
            Request::SetConfig { config, lockspace } => self.set_config(to, config, &lockspace),
            Request::Convert { flags, target, resource } => self.convert(to, flags, target, &resource, now),
            Request::AskOwner { flags, force_mode, resource } => self.ask_owner(to, flags, force_mode, &resource),
            Request::ExamineLockspace { lockspace } => self.examine_lockspace(to, &lockspace),
            Request::ExamineResource { resource } => self.examine_resource(to, &resource),
            Request::SetLvb { resource, value } => self.set_lvb(to, &resource, &value),
            Request::GetLvb { resource, length } => self.get_lvb(to, &resource, length),
            Request::RegEvent { lockspace, .. } => self.register_events(to, &lockspace),
            Request::EndEvent { lockspace } => self.end_events(to, &lockspace),
            Request::SetEvent { flags, lockspace, event } => self.set_event(to, flags, &lockspace, event, now),
            Request::KillPath { flags, killpath } => self.killpath(to, flags, &killpath),
            request @ (Request::RebuildRindex { .. } | Request::RindexEntry { .. }) => self.rindex(to, request),
            request @ (Request::GetHosts { .. }
            | Request::FormatRindex { .. }
            | Request::HostStatus { .. }
            | Request::Align { .. }
            | Request::LogDump
            | Request::ReadResourceOwners { .. }
            | Request::ReadLockspace { .. }
            | Request::WriteLockspace { .. }
            | Request::ReadResource { .. }
            | Request::WriteResource { .. }
            | Request::ConfirmDead { .. }
            | Request::Explain { .. }) => self.effects.push(Effect::Answer { to, request }),
        }
        if let Some(asking) = self.clients.get_mut(&client) {
            asking.waits = true;
        }
    }

    /// Who is answered by this step's effects waits no longer.
    fn note_answers(&mut self) {
        for client in self.effects.iter().filter_map(Effect::answers) {
            if let Some(asking) = self.clients.get_mut(&client) {
                asking.waits = false;
            }
        }
    }

    /// What is under way goes on by what was in force when it began.
    fn reloaded(&mut self, new: Reloaded) {
        let Reloaded { io_timeout, kill_grace, strict_clients } = new;
        // What the watchdog leaves, by the fire timeout that is sealed.
        let kill_grace = kill_grace.min(Timing::longest_kill_grace(self.settings.fire_timeout));
        tracing::info!(io_timeout = io_timeout.seconds(), ?kill_grace, strict_clients, "configuration read again");
        self.settings = Settings { io_timeout, kill_grace, strict_clients, ..self.settings.clone() };
    }
}
