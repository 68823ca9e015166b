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
use super::{Life, Supervisor};
use crate::log_ring::AT_WILL;

/// How long a signal to end lasts: twice what service managers grant a unit by default, so that guests that need all of it
/// are waited for. The unit's TimeoutStopSec is a little longer.
const SIGNAL_LASTS: Duration = Duration::from_secs(180);

/// A shutdown that goes on, and who wants to hear of its end.
#[derive(Debug, Default)]
pub(super) struct Shutdown {
    waiting: Vec<ReplyTo>,
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
        let shutdown = self.shutdown.get_or_insert_default();
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
            self.shutdown.get_or_insert_default();
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

    pub(super) fn step_shutdown(&mut self) {
        if self.shutdown.is_none() || !self.spaces.is_empty() {
            return;
        }
        for to in self.shutdown.take().map(|s| s.waiting).unwrap_or_default() {
            self.reply(to, ResultCode::OK);
        }
        self.shutdown = Some(Shutdown::default());
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
