//! The kill ladder: ending what a lost or removed lockspace guards (spec A 7.3, B; ARCHITECTURE.md data flow 3).
//!
//! The same ends who uses a lease that turns out to be lost while its lockspace is well (`losses.rs`).
//!
//! For each guarded client, at most once a second until it is gone: SIGTERM while grace lasts, then SIGKILL; at once
//! SIGKILL when somebody asked for the lockspace to be left. A client that restricted one signal gets the other. If it
//! will not die the watchdog, unpetted, ends the host. A client with a killpath has that run once, and no signal while grace
//! lasts. A client that gives back its last lease survives; one that only
//! closes its connection does not: it could still write.

use std::collections::BTreeSet;

use holdfast_io::clock::LocalInstant;
use holdfast_io::ids::SpaceName;
use holdfast_io::planted::{Bug, planted};
use holdfast_protocol::command::RestrictFlags;
use nix::sys::signal::Signal;

use super::Supervisor;
use super::event::{ClientId, Effect, Kill};
use super::losses::Ousted;
use super::spaces::{LADDER_STEP, Life};

/// Signals for one client, after which its lockspace waits for the watchdog alone (spec A 7.3).
const MOST_KILLS: u32 = 100;

impl<L: Clone + std::fmt::Debug> Supervisor<L> {
    /// Puts every client that uses a lockspace under its guard.
    pub(super) fn guard_users_of(&mut self, name: SpaceName, now: LocalInstant) {
        let users: BTreeSet<ClientId> =
            self.leases.values().filter(|l| l.key.space == name).flat_map(|l| &l.tokens).map(|t| t.client).collect();
        let Some(space) = self.spaces.get_mut(&name) else { return };
        for client in users {
            space.guards.entry(client).or_insert(now);
        }
    }

    pub(super) fn step_ladders(&mut self, now: LocalInstant) {
        let names: Vec<SpaceName> = self.spaces.keys().copied().collect();
        for name in names {
            self.step_ladder(name, now);
            self.leave_if_clear(name);
        }
    }

    fn step_ladder(&mut self, name: SpaceName, now: LocalInstant) {
        self.lose_to_ousted(name, now);
        let Some(space) = self.spaces.get_mut(&name) else { return };
        for (id, due) in &mut space.guards {
            let Some(client) = self.clients.get_mut(id) else { continue };
            let Some(kill_at) = kill_at(&space.life, space.ousted.get(id)) else { continue };
            if now < *due {
                continue;
            }
            let signal = if now < kill_at { Signal::SIGTERM } else { Signal::SIGKILL };
            // SIGKILL is due at its instant, not a whole step after the last SIGTERM.
            let step = now.after(LADDER_STEP);
            *due = if now < kill_at { step.min(kill_at) } else { step };
            if client.is_gone() || client.signals_sent >= MOST_KILLS || planted(Bug::NobodyIsEnded) {
                continue;
            }
            client.kill_count += 1;
            client.kill_last = Some(now);
            if let Some(program) = client.killpath.as_ref().filter(|_| signal == Signal::SIGTERM) {
                // It has its grace to give everything back; then it is ended like any other.
                if !std::mem::replace(&mut client.killpath_run, true) {
                    tracing::warn!(lockspace = %name, pid = client.pid, program = %program.path.display(), "running a killpath");
                    self.effects.push(Effect::RunProgram { client: *id, program: program.clone() });
                }
                continue;
            }
            let signal = permitted(signal, client.restrict);
            client.signals_sent += 1;
            tracing::warn!(lockspace = %name, pid = client.pid, name = %client.name, %signal, "ending a client");
            self.effects.push(Effect::Kill(Kill { client: *id, signal }));
        }
        let gone: Vec<ClientId> =
            space.guards.keys().copied().filter(|id| self.clients.get(id).is_none_or(super::Client::is_gone)).collect();
        for client in gone {
            self.guard_ends(name, client);
        }
    }

    /// A guarded client is gone, or has given everything back.
    pub(super) fn guard_ends(&mut self, name: SpaceName, client: ClientId) {
        if let Some(space) = self.spaces.get_mut(&name) {
            space.guards.remove(&client);
            space.ousted.remove(&client);
        }
        let guarded = self.spaces.values().any(|s| s.guards.contains_key(&client));
        if let Some(client) = self.clients.get_mut(&client).filter(|_| !guarded) {
            client.killpath_run = false;
        }
        self.forget_if_over(client);
    }
}

/// When SIGTERM gives way to SIGKILL for a guarded client; `None`: nothing is to be done about it.
pub(super) fn kill_at(life: &Life, ousted: Option<&Ousted>) -> Option<LocalInstant> {
    match life {
        Life::Removing { .. } => Some(LocalInstant::EARLIEST),
        // What was due at once stays so when its lockspace is lost as well.
        Life::Failing { kill_at } => Some(ousted.map_or(*kill_at, |o| o.kill_at.min(*kill_at))),
        Life::Active { .. } => ousted.map(|o| o.kill_at),
        Life::Joining | Life::Leaving { .. } => None,
    }
}

/// RESTRICT's mapping: SIGKILL becomes SIGTERM if restricted, and the result SIGTERM becomes SIGKILL if restricted.
fn permitted(signal: Signal, restrict: RestrictFlags) -> Signal {
    let first = match signal {
        Signal::SIGKILL if restrict.contains(RestrictFlags::SIGKILL) => Signal::SIGTERM,
        other => other,
    };
    match first {
        Signal::SIGTERM if restrict.contains(RestrictFlags::SIGTERM) => Signal::SIGKILL,
        other => other,
    }
}
