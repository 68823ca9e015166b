//! The daemon's own end: asked for by a client, at once or only if nothing is joined (spec A 6), or by a signal.
//!
//! A signal is what a service manager sends, mostly because the host shuts down. Guests are ended then as well, but not by us and
//! not in an order that we could rely on: so the signal waits for them. As soon as nothing is guarded the lockspaces are left, which
//! stops the watchdog, and the daemon ends. What is guarded still when the signal is over keeps the daemon as it was.

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast_io::clock::LocalInstant;
use holdfast_io::ids::SpaceName;
use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::header::Header;

use super::event::{Effect, ReplyTo};
use super::{Life, Space, Supervisor};
use crate::log_ring::AT_WILL;

/// How long a signal to end lasts: twice what service managers grant a unit by default, so that guests that need all of it
/// are waited for. The unit's TimeoutStopSec is a little longer.
const SIGNAL_LASTS: Duration = Duration::from_secs(180);

/// How long a shutdown waits for joins that are not over: what ends by itself has ended by then.
const JOINS_LAST: Duration = Duration::from_secs(20);

/// A shutdown that goes on, and who wants to hear of its end.
#[derive(Debug)]
pub(super) struct Shutdown {
    waiting: Vec<ReplyTo>,
    /// Until when joins are waited for.
    pub(super) joins_last: LocalInstant,
}

impl Shutdown {
    fn at(now: LocalInstant) -> Self {
        Shutdown { waiting: Vec::new(), joins_last: now.after(JOINS_LAST) }
    }
}

impl<L: Clone + std::fmt::Debug> Supervisor<L> {
    pub(super) fn shutdown(&mut self, to: ReplyTo, force: bool, wait: bool, now: LocalInstant) {
        let pid = self.who(to.client).pid;
        if !force && !self.spaces.is_empty() {
            // SHUTDOWN has no reply: its connection just ends. SHUTDOWN_WAIT is told why (spec A 6).
            if wait {
                self.reply(to, ResultCode::EBUSY);
            } else {
                self.close(to.client);
            }
            tracing::warn!(target: AT_WILL, pid, "shutdown ignored: {} lockspaces are joined", self.spaces.len());
            return;
        }
        tracing::warn!(
            pid,
            force,
            "shutdown asked for: {} lockspaces are left, and what they guard is ended",
            self.spaces.len()
        );
        let shutdown = self.shutdown.get_or_insert_with(|| Shutdown::at(now));
        if wait {
            // Its one reply has a header of zeros but for magic, version and length (spec A 6).
            let header = Header { cmd: 0, cmd_flags: 0, seq: 0, data: 0, data2: 0, ..to.header };
            shutdown.waiting.push(ReplyTo { header, ..to });
        } else {
            self.close(to.client);
        }
        self.remove_all(now);
    }

    pub(super) fn shutdown_signal(&mut self, now: LocalInstant) {
        self.ends_by = Some(now.after(SIGNAL_LASTS));
        if self.guards_something() {
            let names: Vec<String> = self.spaces.keys().map(ToString::to_string).collect();
            tracing::warn!(
                lockspaces = names.join(" "),
                for_s = SIGNAL_LASTS.as_secs(),
                "signal to shut down: waiting until nothing is guarded any more"
            );
        }
    }

    /// Leaving ends what is guarded, and a signal must not: it is followed only once nothing is. What comes later finds its
    /// lockspace being left, and gets no lease (D2 counts on until the host_id is given back).
    pub(super) fn follow_signal(&mut self, now: LocalInstant) {
        let Some(ends_by) = self.ends_by else { return };
        if !self.guards_something() {
            self.ends_by = None;
            tracing::info!("nothing is guarded: leaving all lockspaces, as the signal says, and ending");
            self.shutdown.get_or_insert_with(|| Shutdown::at(now));
            self.remove_all(now);
        } else if now >= ends_by {
            self.ends_by = None;
            tracing::warn!("the signal to shut down is over: something is guarded still, and the daemon goes on");
        }
    }

    /// Whether anything uses a lockspace: a client, a lease that is on its way, an orphan, whoever SET_CONFIG told of; or what a
    /// lockspace that is lost still has to end.
    fn guards_something(&self) -> bool {
        let failing = |life: &Life| matches!(life, Life::Failing { .. });
        !self.leases.is_empty()
            || !self.waiting.is_empty()
            || self.spaces.values().any(|s| s.used || !s.guards.is_empty() || failing(&s.life))
            || self.spaces.keys().any(|name| self.turns.any_in(name))
    }

    /// A join may hang for ever, in open(2) or in its write. Once nothing else is left, a shutdown does not wait for it.
    ///
    /// Safe, because nothing was ever held under it. What has not been allowed to write never will be: this loop allows it. A write that
    /// lands later raises a generation under which nothing is to be freed; whoever has the host_id by then finds it at
    /// its next renewal and ends what it guards (D1 let it in, `LostTo::Another`). The state file goes on naming term and fence, as
    /// one that did not join: a successor waits for that write first (P1 b, I6).
    pub(super) fn give_up_joins(&mut self, now: LocalInstant) {
        let over = self.shutdown.as_ref().is_some_and(|shutdown| now >= shutdown.joins_last);
        let never_joined = |s: &Space| s.joined_at.is_none() && matches!(s.life, Life::Joining | Life::Leaving { .. });
        if !over || !self.spaces.values().all(never_joined) {
            return;
        }
        for (name, space) in std::mem::take(&mut self.spaces) {
            let (place, may_write) = (&space.place, space.may_write);
            tracing::warn!(lockspace = %name, %place, may_write, "its join does not end, and is not waited for any more");
            if let Some(record) = space.record {
                self.inherited.retain(|i| !i.is_of_the_same(&record));
                self.inherited.push(record);
            }
            let waits = [
                (space.join_waits, ResultCode::EPERM),
                (space.leave_waits, ResultCode::OK),
                (space.inquiries, ResultCode::ENOENT),
            ];
            for (waits, code) in waits {
                self.answer_waits(waits, code);
            }
        }
        self.save();
    }

    pub(super) fn step_shutdown(&mut self) {
        if self.shutdown.is_none() || !self.spaces.is_empty() {
            return;
        }
        // One that cannot be stopped was petted until now.
        self.put_down();
        let waiting = self.shutdown.as_mut().map(|s| std::mem::take(&mut s.waiting)).unwrap_or_default();
        for to in waiting {
            self.reply(to, ResultCode::OK);
        }
        if !self.effects.iter().any(|e| matches!(e, Effect::Exit)) {
            self.effects.push(Effect::Exit);
        }
    }

    /// Of `all` lockspaces that ought to be joined these are new. Of the others those that somebody had removed stay removed.
    pub fn want(&mut self, new: impl IntoIterator<Item = SpaceName>, all: &BTreeSet<SpaceName>) {
        self.wanted.retain(|name| all.contains(name));
        self.wanted.extend(new);
    }

    /// Whether a lockspace that ought to be joined is not, and nobody had it removed.
    #[must_use]
    pub fn lacks(&self, space: &SpaceName) -> bool {
        let ends = self.shutdown.is_some() || self.ends_by.is_some();
        !ends && self.wanted.contains(space) && !self.spaces.contains_key(space)
    }
}
