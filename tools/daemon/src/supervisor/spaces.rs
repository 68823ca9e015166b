//! Lockspaces: from the watchdog's arming to the end of their last write.
//!
//! ```text
//! Joining -> Active -> Failing -> Leaving -> (gone)
//!    |         |                    ^
//!    |         +--> Removing -------+
//!    +------------------------------+   (a join that did not succeed)
//! ```
//!
//! No arrow leads back to Active: a lockspace whose instant has passed (D2) is lost for good, even if a renewal gets
//! through later; it is left without a write and may be joined anew.

use std::collections::BTreeMap;
use std::time::Duration;

use delta_lease::Past;
use holdfast_io::clock::LocalInstant;
use holdfast_io::ids::{Generation, HostId, SpaceName};
use holdfast_io::planted::{Bug, planted};
use holdfast_io::stop::Stop;
use holdfast_io::sys::rights::Rights;
use holdfast_io::timing::{FireTimeout, IoTimeout, Timing};
use holdfast_io::units::Geometry;
use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::command::{AddLockspaceFlags, InqLockspaceFlags, LockspaceUse, RemLockspaceFlags};
use holdfast_protocol::payload::Lockspace as Wire;
use holdfast_protocol::text::Name48;

use super::Supervisor;
use super::calls::Calls;
use super::event::{ClientId, Effect, Join, JoinRequest, LostTo, Place, ReplyTo, Took};
use super::history::History;
use super::losses::Ousted;
use crate::log_ring::AT_WILL;
use crate::state_file::{FenceRecord, SpaceRecord};
use crate::watchdog::Kind;
use crate::wdmd;

/// One lockspace.
#[derive(Debug)]
pub struct Space {
    /// A number for STATUS, in the order of the joins.
    pub number: u32,
    /// Our host_id in it.
    pub host_id: HostId,
    /// Where it lies.
    pub place: Place,
    /// Our io_timeout in it.
    pub io_timeout: IoTimeout,
    /// Where it stands.
    pub life: Life,
    /// Its join was allowed to write: from here on it is under the watchdog (D3).
    pub may_write: bool,
    /// What the state file says of it: set before the first delta write.
    pub record: Option<SpaceRecord>,
    /// When it was set: no delta write begins before.
    pub fenced_at: LocalInstant,
    /// How its join is asked to end.
    pub stop: Stop,
    /// The answer to a join that was stopped for a reason of ours, or that is given when nothing of it is left.
    pub veto: Option<ResultCode>,
    /// That reason in words; what the join itself says of its end is only that it was asked to.
    pub veto_why: Option<String>,
    /// Who wants to hear of the end of the join.
    pub join_waits: Vec<ReplyTo>,
    /// Who wants to hear of the end of leaving.
    pub leave_waits: Vec<ReplyTo>,
    /// Who wants to hear when joining or leaving is over.
    pub inquiries: Vec<ReplyTo>,
    /// Clients that must be seen gone before it is safe to leave, and when the ladder may next act on each.
    pub guards: BTreeMap<ClientId, LocalInstant>,
    /// Those of them that are being ended while the lockspace is well, because a lease of theirs is lost.
    pub ousted: BTreeMap<ClientId, Ousted>,
    /// Start of the write that joined it.
    pub joined_at: Option<LocalInstant>,
    /// Start of the last good renewal.
    pub last_success: Option<LocalInstant>,
    /// When the latest renewal began, or was seen to fail.
    pub last_attempt: Option<LocalInstant>,
    /// What the latest one that failed failed by.
    pub last_fault: ResultCode,
    /// By what the delta lease was found to be lost.
    pub found_lost: ResultCode,
    /// Failed renewals in a row.
    pub failures: u32,
    /// Half the budget was used up and said so.
    pub warned: bool,
    /// The sizes of its area, once joined.
    pub geometry: Option<Geometry>,
    /// Its latest renewals.
    pub history: History,
    /// Whom we call in it, and what we tell.
    pub calls: Calls,
    /// Who wants to hear of its events.
    pub listeners: Vec<ClientId>,
    /// Its tasks were told to end.
    pub ending: bool,
    /// SET_CONFIG: somebody uses it whom we know nothing of. It is not given back.
    pub used: bool,
    /// SET_CONFIG: the same, as long as it has orphans.
    pub used_by_orphans: bool,
}

/// Where a lockspace stands.
#[derive(Debug)]
pub enum Life {
    /// The join task runs. Nothing can be held, so there is nothing that could go stale.
    Joining,
    /// Joined and fresh.
    Active {
        /// Our generation.
        generation: Generation,
        /// D2's instant.
        fail_at: LocalInstant,
    },
    /// Someone asked to leave. It is still renewed, and goes stale like an active one.
    Removing {
        /// D2's instant.
        fail_at: LocalInstant,
    },
    /// Lost. What it guarded is being ended; the watchdog is not petted.
    Failing {
        /// When SIGTERM gives way to SIGKILL.
        kill_at: LocalInstant,
    },
    /// Everything guarded is gone; its tasks and writes are coming to their end.
    Leaving {
        /// Until when it counts as fresh. D2's instant where the delta lease is being given back: that write frees the
        /// host_id and must not land late. It moves on with each renewal while the last lease write is waited for. `EARLIEST` after a loss: a lease task's write may still be in flight, and
        /// until all are reaped the watchdog stays unpetted (D3); then `NEVER`. `NEVER` after a join that did not succeed: its
        /// write raises a generation under which nothing was ever held, so landing late it frees nothing.
        fail_at: LocalInstant,
    },
}

impl Life {
    /// Whether leases can be granted in it.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        matches!(self, Life::Active { .. })
    }

    /// The word for people and logs.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Life::Joining => "joining",
            Life::Active { .. } => "active",
            Life::Removing { .. } => "removing",
            Life::Failing { .. } => "failing",
            Life::Leaving { .. } => "leaving",
        }
    }
}

impl Space {
    /// The intervals of our own host in this lockspace; the fire timeout plays no part in those used here.
    pub(super) const fn timing(&self) -> Timing {
        Timing::new(self.io_timeout, FireTimeout::SANLOCK)
    }

    /// D2's instant, counted from the *start* of the last good renewal.
    fn fail_at(&self, started_at: LocalInstant) -> LocalInstant {
        started_at.after(self.timing().id_renewal_fail())
    }

    /// Something of ours may be on its disk, or on its way there.
    pub(super) fn is_under_d3(&self) -> bool {
        self.may_write && (!planted(Bug::WatchdogOnlyWithClients) || !self.guards.is_empty())
    }

    /// Its generation and fences are in the state file, and its join waits for the watchdog before it writes.
    pub(super) const fn waits_for_watchdog(&self) -> bool {
        !self.may_write && self.record.is_some()
    }

    /// Until when a watchdog that is told an instant may be told to let this host live on this lockspace's account (D3).
    ///
    /// A join counts as renewed when it was about to write: nothing of it can be on disk earlier. One that outlasts that, and
    /// a lockspace of which nothing is left but a write that can free nothing, protect nobody: they are good for a while from
    /// now on, again and again, as long as this daemon lives.
    pub(super) fn vouched_until(&self, now: LocalInstant) -> LocalInstant {
        let a_while = now.after(UNPROTECTED);
        match self.life {
            Life::Joining if now < self.fail_at(self.fenced_at) => self.fail_at(self.fenced_at),
            Life::Joining | Life::Leaving { fail_at: LocalInstant::NEVER } => a_while,
            Life::Active { fail_at, .. } | Life::Removing { fail_at } | Life::Leaving { fail_at } => fail_at,
            Life::Failing { .. } => LocalInstant::EARLIEST,
        }
    }

    /// Fresh in the sense of D3: the watchdog may be petted on its account.
    pub(super) fn is_fresh(&self, now: LocalInstant) -> bool {
        match self.life {
            Life::Joining => true,
            Life::Active { fail_at, .. } | Life::Removing { fail_at } | Life::Leaving { fail_at } => now < fail_at,
            Life::Failing { .. } => false,
        }
    }

    pub(super) fn next_wakeup(&self, now: LocalInstant) -> LocalInstant {
        let waits = |id: &ClientId| super::ladder::kill_at(&self.life, self.ousted.get(id)).is_some();
        let due = self.guards.iter().filter(|(id, _)| waits(id)).map(|(_, due)| *due);
        let ladder = due.min().unwrap_or(LocalInstant::NEVER);
        match self.life {
            Life::Joining | Life::Leaving { .. } => LocalInstant::NEVER,
            Life::Active { fail_at, .. } => {
                let warn = self.last_success.map(|t| t.after(self.timing().id_renewal_fail() / 2));
                warn.filter(|t| !self.warned && *t > now).map_or(fail_at, |t| t.min(fail_at)).min(ladder)
            }
            Life::Removing { fail_at } => fail_at.min(ladder),
            Life::Failing { .. } => ladder,
        }
    }

    fn matches(&self, name: &SpaceName, wire: &SpaceAsk, own: &SpaceName) -> bool {
        own == name && self.place == wire.place && wire.host_id.is_none_or(|h| h == self.host_id)
    }
}

/// What a client says of a lockspace, checked.
struct SpaceAsk {
    name: SpaceName,
    place: Place,
    host_id: Option<HostId>,
}

impl SpaceAsk {
    fn read(wire: &Wire, by: Rights) -> Option<Self> {
        let name = SpaceName::new(wire.name.as_bytes()).ok()?;
        let path = super::answers::path_of(&wire.disk.path)?;
        let host_id = if wire.host_id == 0 { None } else { Some(HostId::new(wire.host_id)) };
        Some(SpaceAsk { name, place: Place { path, offset: wire.disk.offset, by }, host_id: host_id.flatten() })
    }
}

/// How far ahead a host is vouched for on account of what protects nobody: two of wdmd's tests.
const UNPROTECTED: Duration = Duration::from_secs(20);

/// How long the daemon waits, at the most, between two looks at a ladder.
pub(super) const LADDER_STEP: Duration = Duration::from_secs(1);

impl<L: Clone + std::fmt::Debug> Supervisor<L> {
    pub(super) fn add_lockspace(
        &mut self,
        to: ReplyTo,
        flags: AddLockspaceFlags,
        io_timeout: u32,
        wire: &Wire,
        now: LocalInstant,
    ) {
        let Some(by) = self.rights_of(to.client) else { return };
        let (ask, host_id, io_timeout) = match self.admit_join(io_timeout, wire, by) {
            Ok(admitted) => admitted,
            Err((code, why)) => return self.deny(to, format!("lockspace {}", wire.name), code, &why, now),
        };
        let who = self.who(to.client);
        tracing::info!(target: AT_WILL, lockspace = %ask.name, %host_id, place = %ask.place, pid = who.pid, "joining");
        self.last_space += 1;
        let mut space = Space {
            number: self.last_space,
            host_id,
            place: ask.place,
            io_timeout,
            life: Life::Joining,
            may_write: false,
            record: None,
            fenced_at: LocalInstant::NEVER,
            stop: Stop::new(),
            veto: None,
            veto_why: None,
            join_waits: Vec::new(),
            leave_waits: Vec::new(),
            inquiries: Vec::new(),
            guards: BTreeMap::new(),
            ousted: BTreeMap::new(),
            joined_at: None,
            last_success: None,
            last_attempt: None,
            last_fault: ResultCode::OK,
            found_lost: ResultCode::OK,
            failures: 0,
            warned: false,
            geometry: None,
            history: History::default(),
            calls: Calls::default(),
            listeners: Vec::new(),
            ending: false,
            used: false,
            used_by_orphans: false,
        };
        if flags.contains(AddLockspaceFlags::ASYNC) {
            self.reply(to, ResultCode::OK);
        } else {
            space.join_waits.push(to);
        }
        self.effects.push(Effect::StartJoin(JoinRequest {
            space: ask.name,
            host_id,
            place: space.place.clone(),
            io_timeout,
            fire: self.settings.sealed,
            past: self.past_of(&ask.name, &space),
            stop: space.stop.clone(),
        }));
        self.spaces.insert(ask.name, space);
    }

    /// What is to be joined, if anything can be.
    fn admit_join(
        &self,
        io_timeout: u32,
        wire: &Wire,
        by: Rights,
    ) -> Result<(SpaceAsk, HostId, IoTimeout), (ResultCode, String)> {
        let refuse = |code, why: &str| Err((code, why.to_owned()));
        let Some(ask) = SpaceAsk::read(wire, by) else {
            return refuse(ResultCode::EINVAL, "it has no name, or no path");
        };
        let most = holdfast_io::ids::MAX_HOSTS;
        if wire.host_id > u64::from(most) {
            let why = format!("host_id {}, expected 1 to {most}", wire.host_id);
            return Err((ResultCode::LOCKSPACE_HOST_ID, why));
        }
        let Some(host_id) = ask.host_id else { return refuse(ResultCode::EINVAL, "it has no host_id") };
        let Some(io_timeout) = self.io_timeout(io_timeout) else {
            return Err((ResultCode::EINVAL, format!("io_timeout {io_timeout}, expected 1 to 255 seconds")));
        };
        let too_short = wdmd::too_short(io_timeout).filter(|_| self.settings.watchdog == Kind::Wdmd);
        if let Some(why) = too_short {
            return Err((ResultCode::EINVAL, why));
        }
        if self.shutdown.is_some() {
            return refuse(ResultCode::EBUSY, "the daemon is ending");
        }
        self.add_conflict(&ask, host_id).map_or(Ok((ask, host_id, io_timeout)), Err)
    }

    /// P1: our earlier terms in this lockspace. A predecessor (b) is only one that did hold the host_id: a join that failed
    /// says nothing about whom its write, landing late, has hit. That one is waited out like a stranger.
    fn past_of(&self, name: &SpaceName, space: &Space) -> Past {
        let name = name.to_string();
        let place = |i: &SpaceRecord| i.path == space.place.path && i.offset == space.place.offset;
        let same = |i: &&SpaceRecord| i.name == name && i.host_id == space.host_id.get() && place(i);
        let held = |i: &&SpaceRecord| i.joined || planted(Bug::UnconfirmedJoinBelieved);
        let ours = || self.inherited.iter().filter(same);
        Past {
            predecessor: ours().find(held).map(|i| Generation(i.generation)),
            used: ours().map(|i| Generation(i.generation)).max(),
        }
    }

    fn io_timeout(&self, seconds: u32) -> Option<IoTimeout> {
        match seconds {
            0 => Some(self.settings.io_timeout),
            n => IoTimeout::new(u64::from(n)),
        }
    }

    /// Whether a lockspace like this is there already (spec A 6, ADD_LOCKSPACE).
    fn add_conflict(&self, ask: &SpaceAsk, host_id: HostId) -> Option<(ResultCode, String)> {
        for (name, space) in &self.spaces {
            let same_name = *name == ask.name;
            let same_place = space.place == ask.place;
            if same_name && same_place && space.host_id == host_id {
                let code = match space.life {
                    Life::Joining => ResultCode::EINPROGRESS,
                    Life::Active { .. } => ResultCode::EEXIST,
                    Life::Removing { .. } | Life::Failing { .. } | Life::Leaving { .. } => ResultCode::EAGAIN,
                };
                return Some((code, format!("it is there already, and {}", space.life.word())));
            }
            if same_name || same_place {
                let why = format!("lockspace {name} is at {} with host_id {} already", space.place, space.host_id);
                return Some((ResultCode::EINVAL, why));
            }
        }
        None
    }

    /// The watchdog keeps this host alive until `until` at the latest: joins whose generation and fences are in the state file,
    /// and which need it no earlier, may write (D3, P1).
    pub(super) fn allow_joins(&mut self, until: LocalInstant, now: LocalInstant) {
        for (name, space) in &mut self.spaces {
            if space.waits_for_watchdog() && until <= space.vouched_until(now) {
                space.may_write = true;
                self.effects.push(Effect::AllowJoin { space: *name });
            }
        }
    }

    /// The watchdog cannot be used: the joins that wait for it end without a write.
    pub(super) fn refuse_joins(&mut self, why: &str) {
        for (name, space) in &mut self.spaces {
            if space.waits_for_watchdog() {
                tracing::error!(lockspace = %name, why, "cannot join: no watchdog");
                space.record = None;
                (space.veto, space.veto_why) = (Some(ResultCode::WATCHDOG_ERROR), Some(why.to_owned()));
                space.stop.set();
                self.effects.push(Effect::AllowJoin { space: *name });
            }
        }
        self.save();
    }

    pub(super) fn join_fenced(
        &mut self,
        name: SpaceName,
        generation: Generation,
        fences: Vec<FenceRecord>,
        now: LocalInstant,
    ) {
        let Some(space) = self.spaces.get_mut(&name) else { return };
        space.fenced_at = now;
        space.record = Some(SpaceRecord {
            name: name.to_string(),
            host_id: space.host_id.get(),
            generation: generation.0,
            joined: false,
            path: space.place.path.clone(),
            offset: space.place.offset,
            fences,
            unseen: false,
            over: false,
        });
        self.save();
        self.want_armed(now);
    }

    /// A further device has its fence: in the state file before the first write through it (P1).
    pub(super) fn fenced(&mut self, name: SpaceName, fence: FenceRecord, saved: Stop) {
        let Some(record) = self.spaces.get_mut(&name).and_then(|space| space.record.as_mut()) else { return };
        record.fences.push(fence);
        self.save();
        self.effects.push(Effect::FenceSaved { saved });
    }

    pub(super) fn joined(&mut self, name: SpaceName, result: Result<Join, (ResultCode, String)>, now: LocalInstant) {
        let Some(space) = self.spaces.get_mut(&name) else { return };
        let mut waits = std::mem::take(&mut space.join_waits);
        match result {
            Ok(join) => {
                let fail_at = space.fail_at(join.started_at);
                (space.joined_at, space.last_attempt) = (Some(join.started_at), Some(join.started_at));
                space.last_success = Some(join.started_at);
                space.geometry = Some(join.geometry);
                space.history.renewed(join.started_at, Took::default());
                if let Some(record) = &mut space.record {
                    record.generation = join.generation.0;
                    record.joined = true;
                }
                if space.stop.is_set() || now >= fail_at {
                    // Asked to leave while joining, or frozen until past its instant. Nothing is held in it.
                    space.life = Life::Removing { fail_at };
                    let code = if now >= fail_at { ResultCode::RENEW_DIFFERS } else { ResultCode::EPERM };
                    self.answer_waits(waits, code);
                    return;
                }
                space.life = Life::Active { generation: join.generation, fail_at };
                tracing::info!(lockspace = %name, host_id = %space.host_id, generation = %join.generation, "joined");
                self.effects.push(Effect::SetLimit { space: name, until: fail_at });
                let inquiries = std::mem::take(&mut space.inquiries);
                self.save();
                self.answer_waits(waits, ResultCode::OK);
                self.answer_waits(inquiries, ResultCode::OK);
            }
            Err((code, why)) => {
                tracing::error!(target: AT_WILL, lockspace = %name, %why, "not joined");
                let (code, why) = (space.veto.unwrap_or(code), space.veto_why.take().unwrap_or(why));
                let about = format!("lockspace {name}");
                space.life = Life::Leaving { fail_at: LocalInstant::NEVER };
                if code == ResultCode::ENODEV {
                    // Nothing was opened and nothing is to be waited for: answered when no trace of it is left, to who may ask again
                    // at once.
                    (space.join_waits, space.veto) = (std::mem::take(&mut waits), Some(code));
                }
                self.refused(about, code, why, now);
                self.answer_waits(waits, code);
                self.effects.push(Effect::Leave { space: name, free: false });
            }
        }
    }

    pub(super) fn renewed(&mut self, name: SpaceName, started_at: LocalInstant, took: Took, now: LocalInstant) {
        let Some(space) = self.spaces.get_mut(&name) else { return };
        space.failures = 0;
        space.last_attempt = Some(started_at);
        space.history.renewed(started_at, took);
        let renewed_until = space.fail_at(started_at);
        match &mut space.life {
            Life::Active { fail_at, .. } | Life::Removing { fail_at } => {
                // Late news of an old renewal never shortens nor, once past, revives anything: `expire` ran first.
                if renewed_until > *fail_at {
                    *fail_at = renewed_until;
                    space.last_success = Some(started_at);
                    space.warned = false;
                    self.effects.push(Effect::SetLimit { space: name, until: renewed_until });
                }
            }
            Life::Failing { .. } if planted(Bug::ExpiredRevived) => {
                let generation = Generation(space.record.as_ref().map_or(0, |r| r.generation));
                space.life = Life::Active { generation, fail_at: renewed_until };
                self.effects.push(Effect::SetLimit { space: name, until: renewed_until });
            }
            Life::Failing { .. } => {
                tracing::warn!(lockspace = %name, at = ?now, "a renewal succeeded too late: the lockspace stays lost (D2)");
            }
            // A write of ours to a disk that hangs may be waited for longer than one renewal lasts. Until the delta lease is given back the host_id
            // is held and renewed, so nobody is free of us yet and there is nothing to reset the host for; the write that frees it is
            // refused by its own deadline, which has moved along. Not after a loss (`EARLIEST`), and not once the instant is past (D2).
            Life::Leaving { fail_at } if now < *fail_at && *fail_at != LocalInstant::NEVER => {
                if renewed_until > *fail_at {
                    *fail_at = renewed_until;
                    space.last_success = Some(started_at);
                }
            }
            Life::Joining | Life::Leaving { .. } => {}
        }
        self.publish_next(name, now, true);
        self.verify_leases(name);
    }

    pub(super) fn renewal_failed(
        &mut self,
        name: SpaceName,
        why: String,
        lost: Option<LostTo>,
        code: ResultCode,
        now: LocalInstant,
    ) {
        let Some(space) = self.spaces.get_mut(&name) else { return };
        space.failures += 1;
        space.last_attempt = Some(now);
        space.last_fault = code;
        if lost.is_some() {
            space.found_lost = code;
        }
        space.history.failed(code == ResultCode::IO_TIMEOUT);
        tracing::warn!(lockspace = %name, %why, failures = space.failures, "renewal failed");
        match lost {
            None => {}
            Some(LostTo::Nobody) => self.lose(name, now, "renewals have come to their end"),
            // What was granted under it may be another host's at this moment (S1).
            Some(LostTo::Another) => self.lose_within(name, now, Duration::ZERO, "its host_id is not ours any more"),
        }
    }

    /// D2: lockspaces whose instant has come are lost, whatever else is in the queue.
    pub(super) fn expire(&mut self, now: LocalInstant) {
        let mut over = Vec::new();
        for (name, space) in &mut self.spaces {
            match space.life {
                Life::Active { fail_at, .. } | Life::Removing { fail_at } if now >= fail_at => over.push(*name),
                Life::Active { .. } => {
                    let half = space.timing().id_renewal_fail() / 2;
                    if !space.warned && space.last_success.is_some_and(|t| now >= t.after(half)) {
                        space.warned = true;
                        tracing::warn!(lockspace = %name, failures = space.failures,
                            "half of the renewal budget is used up: no renewal for {half:?}");
                    }
                }
                _ => {}
            }
        }
        for name in over {
            self.lose(name, now, "not renewed in time (D2)");
        }
    }

    /// A lockspace is lost: nothing is written under it any more, and what it guards is ended.
    pub(super) fn lose(&mut self, name: SpaceName, now: LocalInstant, why: &str) {
        self.lose_within(name, now, self.settings.kill_grace, why);
    }

    fn lose_within(&mut self, name: SpaceName, now: LocalInstant, grace: Duration, why: &str) {
        let Some(space) = self.spaces.get_mut(&name) else { return };
        if let Life::Failing { kill_at } = &mut space.life {
            *kill_at = now.after(grace).min(*kill_at);
        }
        if matches!(space.life, Life::Failing { .. } | Life::Leaving { .. }) {
            return;
        }
        tracing::error!(lockspace = %name, why, "lockspace lost: ending what it guards");
        // Grace counts from D2's instant, not from when we noticed: a daemon frozen past it has none left to give.
        let from = match space.life {
            Life::Active { fail_at, .. } | Life::Removing { fail_at } => fail_at.min(now),
            _ => now,
        };
        space.life = Life::Failing { kill_at: from.after(grace) };
        space.stop.set();
        // A write of ours may still be on its way that lands over whoever takes the host_id after D1 (P1 b).
        if let Some(record) = &mut space.record {
            record.joined = false;
        }
        let waits = std::mem::take(&mut space.join_waits);
        self.effects.push(Effect::CloseLimit { space: name });
        self.answer_waits(waits, ResultCode::RENEW_DIFFERS);
        self.guard_users_of(name, now);
        self.stop_tasks_of(name, now);
        self.save();
    }

    pub(super) fn rem_lockspace(&mut self, to: ReplyTo, flags: RemLockspaceFlags, wire: &Wire, now: LocalInstant) {
        let about = format!("lockspace {}", wire.name);
        // By its name alone, and before it is looked for, as sanlock has it.
        let in_use = self.leases.keys().any(|k| k.space.field() == wire.name.raw());
        if flags.contains(RemLockspaceFlags::UNUSED) && in_use {
            return self.deny(to, about, ResultCode::EBUSY, "leases are held in it", now);
        }
        let Some(name) = self.find_space(wire) else {
            // Between two attempts to join it, too, it is not wanted any more.
            self.wanted.retain(|name| name.field() != wire.name.raw() || self.spaces.contains_key(name));
            let why = match self.space_named(&wire.name) {
                Some((_, space)) => format!("it is at {} with host_id {}", space.place, space.host_id),
                None => "it is not joined".to_owned(),
            };
            return self.deny(to, about, ResultCode::ENOENT, &why, now);
        };
        let indexing = self.turns.any_in(&name);
        let Some(space) = self.spaces.get_mut(&name) else { return };
        if matches!(space.life, Life::Removing { .. } | Life::Failing { .. } | Life::Leaving { .. }) {
            self.wanted.remove(&name);
            let why = format!("it is {} already", space.life.word());
            return self.deny(to, about, ResultCode::EINPROGRESS, &why, now);
        }
        if indexing {
            return self.deny(to, about, ResultCode::EBUSY, "work on its resource index is under way", now);
        }
        let waits = !flags.contains(RemLockspaceFlags::ASYNC);
        if waits {
            space.leave_waits.push(to);
        }
        let who = self.who(to.client);
        tracing::info!(lockspace = %name, pid = who.pid, name = %who.name, in_use, "asked to leave: what it guards is ended");
        self.remove(name, now);
        if !waits {
            self.reply(to, ResultCode::OK);
        }
    }

    /// Leaving was asked for: what the lockspace guards is ended at once (spec A 7.3), then it is left.
    fn remove(&mut self, name: SpaceName, now: LocalInstant) {
        let Some(space) = self.spaces.get_mut(&name) else { return };
        self.wanted.remove(&name);
        space.stop.set();
        if let Life::Active { fail_at, .. } = space.life {
            space.life = Life::Removing { fail_at };
            self.guard_users_of(name, now);
            self.stop_tasks_of(name, now);
        }
    }

    pub(super) fn remove_all(&mut self, now: LocalInstant) {
        let names: Vec<SpaceName> = self.spaces.keys().copied().collect();
        for name in names {
            self.remove(name, now);
            self.leave_if_clear(name);
        }
    }

    pub(super) fn inq_lockspace(&mut self, to: ReplyTo, flags: InqLockspaceFlags, wire: &Wire) {
        let Some(name) = self.find_space(wire) else { return self.reply(to, ResultCode::ENOENT) };
        let Some(space) = self.spaces.get_mut(&name) else { return };
        match space.life {
            Life::Active { .. } => self.reply(to, ResultCode::OK),
            _ if flags.contains(InqLockspaceFlags::WAIT) => space.inquiries.push(to),
            _ => self.reply(to, ResultCode::EINPROGRESS),
        }
    }

    /// SET_CONFIG: whether somebody uses a lockspace whom we do not guard. Such a one is neither given back nor left, and
    /// once lost it takes the host with it (D3): what runs in it may write on.
    pub(super) fn set_config(&mut self, to: ReplyTo, config: u32, wire: &Wire) {
        let found = self.spaces.iter_mut().find(|(name, _)| name.field() == wire.name.raw());
        let Some((name, space)) = found else { return self.last_reply(to, ResultCode::ENOENT) };
        let lost = !space.life.is_active();
        let code = match LockspaceUse::from_number(config) {
            Some(LockspaceUse::Used | LockspaceUse::UsedByOrphans) if lost => ResultCode::ENOSPC,
            Some(what @ (LockspaceUse::Used | LockspaceUse::Unused)) => {
                space.used = what == LockspaceUse::Used;
                ResultCode::OK
            }
            Some(what) => {
                space.used_by_orphans = what == LockspaceUse::UsedByOrphans;
                ResultCode::OK
            }
            None => ResultCode::EINVAL,
        };
        let (name, used, used_by_orphans) = (*name, space.used, space.used_by_orphans);
        let pid = self.who(to.client).pid;
        if code.is_error() {
            tracing::info!(target: AT_WILL, lockspace = %name, pid, config, code = code.number(), lost, "not configured");
        } else {
            tracing::info!(target: AT_WILL, lockspace = %name, pid, used, used_by_orphans, "configured");
        }
        // A successor must know before anybody relies on it (P1).
        self.save();
        self.last_reply(to, code);
    }

    /// Everything guarded in a failing or removed lockspace is gone: leave it. Called by the ladder, and where all are removed.
    pub(super) fn leave_if_clear(&mut self, name: SpaceName) {
        let busy = self.tasks.values().any(|k| k.space == name);
        let orphans = self.leases.values().any(|l| l.key.space == name && l.is_orphan());
        let Some(space) = self.spaces.get_mut(&name) else { return };
        // What SET_CONFIG says of a use that we cannot see end is believed.
        let used = space.used || (space.used_by_orphans && orphans);
        if !space.guards.is_empty() || used {
            return;
        }
        if busy {
            // Nothing is guarded any more: what tasks still want to undo, the freed host_id undoes. They end with what is in
            // flight.
            if matches!(space.life, Life::Removing { .. }) && !std::mem::replace(&mut space.ending, true) {
                self.effects.push(Effect::EndTasks { space: name });
            }
            return;
        }
        let (free, fail_at) = match space.life {
            // D2 still allows a write, and nothing of ours is left that the freed host_id could endanger.
            Life::Removing { fail_at } => (true, fail_at),
            Life::Failing { .. } => (false, LocalInstant::EARLIEST),
            _ => return,
        };
        space.life = Life::Leaving { fail_at };
        for (key, lease) in self.leases.iter().filter(|(key, _)| key.space == name) {
            tracing::info!(lease = %key, lver = %lease.lver, left_by = ?lease.left_by, "let go with its lockspace");
        }
        self.leases.retain(|key, _| key.space != name);
        self.effects.push(Effect::Leave { space: name, free });
    }

    /// D3: a renewal that lands late frees nothing (older generation, nonzero timestamp), so what is left of this
    /// lockspace need not end the host. Its last write is still waited for before the host_id is joined again (I6).
    pub(super) fn reaped(&mut self, name: SpaceName) {
        if let Some(Space { life: Life::Leaving { fail_at }, .. }) = self.spaces.get_mut(&name)
            && *fail_at == LocalInstant::EARLIEST
        {
            *fail_at = LocalInstant::NEVER;
        }
    }

    pub(super) fn left(&mut self, name: SpaceName, now: LocalInstant) {
        let Some(space) = self.spaces.remove(&name) else { return };
        tracing::info!(lockspace = %name, "left");
        self.former.retain(|former| former.key.space != name);
        // A client's connection is its life, whatever it listened to.
        let over = space.listeners.iter().copied().filter(|client| !self.is_registered(*client));
        let over: Vec<ClientId> = over.collect();
        self.effects.extend(over.into_iter().map(|client| Effect::Close { client }));
        // Everything under this term is over and reaped: for the next join the daemon is its own predecessor (P1 b). Unless
        // that took so long that somebody may have taken the host_id before our last write landed over it: nobody can
        // within host_dead from the start of the last good renewal (D1).
        let host_dead = Timing::new(space.io_timeout, self.settings.sealed.judged()).host_dead();
        let joined = space.last_success.is_some_and(|started| now < started.after(host_dead));
        if let Some(record) = space.record.map(|r| SpaceRecord { over: true, joined, ..r }) {
            self.inherited.retain(|i| !i.is_of_the_same(&record));
            self.inherited.push(record);
        }
        self.save();
        self.answer_waits(space.join_waits, space.veto.unwrap_or(ResultCode::EPERM));
        self.answer_waits(space.leave_waits, ResultCode::OK);
        self.answer_waits(space.inquiries, ResultCode::ENOENT);
    }

    /// Whether clients are told of a lockspace's hosts: of a lost one too, until it is being left.
    #[must_use]
    pub fn tells_hosts(&self, name: &SpaceName) -> bool {
        self.spaces.get(name).is_some_and(|s| matches!(s.life, Life::Active { .. } | Life::Failing { .. }))
    }

    /// Whether a lockspace is joined and fresh, as far as time was last told.
    #[must_use]
    pub fn is_active(&self, name: &SpaceName) -> bool {
        self.spaces.get(name).is_some_and(|s| s.life.is_active())
    }

    /// Whether a lockspace is being joined.
    #[must_use]
    pub fn is_joining(&self, name: &SpaceName) -> bool {
        self.spaces.get(name).is_some_and(|s| matches!(s.life, Life::Joining))
    }

    /// A lockspace by its name alone, as it stands in a message.
    pub(super) fn space_named(&self, name: &Name48) -> Option<(SpaceName, &Space)> {
        self.spaces.iter().find(|(known, _)| known.field() == name.raw()).map(|(known, space)| (*known, space))
    }

    /// Whether there is one of that name in which leases can be had.
    pub(super) fn has_active(&self, name: &Name48) -> bool {
        self.space_named(name).is_some_and(|(_, space)| space.life.is_active())
    }

    fn find_space(&self, wire: &Wire) -> Option<SpaceName> {
        // It is not opened for who asks.
        let ask = SpaceAsk::read(wire, Rights::Ours)?;
        // Any host_id is meant by 0 alone, not by one that no host has.
        if ask.host_id.is_none() && wire.host_id != 0 {
            return None;
        }
        self.spaces.iter().find(|(name, space)| space.matches(&ask.name, &ask, name)).map(|(name, _)| *name)
    }

    pub(super) fn answer_waits(&mut self, waits: Vec<ReplyTo>, code: ResultCode) {
        for to in waits {
            self.reply(to, code);
        }
    }
}
