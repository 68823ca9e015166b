//! Connections: what registers, what is restricted, and how a client ends.
//!
//! The registered *connection* is the life of a client's leases: its end releases them, as sanlock's clients expect (spec
//! A 7). The *process* is what the ladder kills. Gone is both: the process exited and the connection at its end. A
//! connection that outlives its process was inherited by another one; the lease stays.

use std::collections::BTreeSet;

use holdfast_io::clock::LocalInstant;
use holdfast_io::planted::{Bug, planted};
use holdfast_io::sys::rights::Rights;
use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::command::{Class, Command, RestrictFlags};
use holdfast_protocol::request::Target;
use holdfast_protocol::text::Name48;

use super::event::{ClientId, Effect, ReplyTo};
use super::leases::Running;
use super::{Life, Program, Supervisor};
use crate::log_ring::AT_WILL;
use crate::procfs::ProcessId;
use crate::state_file::Guarded;

/// One connection.
#[derive(Debug)]
pub struct Client {
    /// Its number in STATUS: the lowest that was free. None: it is no client any more, and listens.
    pub slot: Option<u32>,
    /// The pid at the other end when it connected.
    pub pid: i32,
    /// Whose rights it may ask for.
    pub rights: Rights,
    /// Whether it asked to own leases.
    pub registered: bool,
    /// The process behind it, once looked up.
    pub process: Option<Guarded>,
    /// The pidfd says that the process has exited.
    pub exited: bool,
    /// Of the process group that it led, if it led one, nothing runs any more.
    pub group_gone: bool,
    /// Since its process and its connection are at their end, nothing that it wrote is in flight any more.
    pub writes_over: bool,
    /// The connection is at its end.
    pub closed: bool,
    /// Display name: pid text, then what ACQUIRE's options say.
    pub name: Name48,
    /// What it restricted.
    pub restrict: RestrictFlags,
    /// What to run before it is ended.
    pub killpath: Option<Program>,
    /// That has been run.
    pub killpath_run: bool,
    /// One of its was to be told its pid.
    pub killpath_pid: bool,
    /// Its leases outlive its connection.
    pub strict: bool,
    /// The command that runs for it as a target: at most one (spec A 4).
    pub running: Option<Running>,
    /// Its last command is not answered yet.
    pub waits: bool,
    /// The number of its last command.
    pub last_command: u32,
    /// Signals sent by the ladder.
    pub signals_sent: u32,
    /// How often the ladder has acted on it.
    pub kill_count: u32,
    /// When it last has.
    pub kill_last: Option<LocalInstant>,
}

/// Before it come sanlock's helper and its listener.
const FIRST_SLOT: u32 = 2;

/// The numbers of connections in STATUS.
#[derive(Debug)]
pub(super) struct Slots {
    /// Those that were given back.
    free: BTreeSet<u32>,
    /// From here on none was ever taken.
    fresh: u32,
}

impl Default for Slots {
    fn default() -> Self {
        Slots { free: BTreeSet::new(), fresh: FIRST_SLOT }
    }
}

impl Slots {
    /// The lowest that is free.
    fn take(&mut self) -> u32 {
        self.free.pop_first().unwrap_or_else(|| {
            let fresh = self.fresh;
            self.fresh += 1;
            fresh
        })
    }

    pub(super) fn give_back(&mut self, slot: Option<u32>) {
        self.free.extend(slot);
    }
}

impl Client {
    /// Nothing of it can act any more: process exited, with all of its group if it led one, and connection at its end.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        // A write in flight is a write (S1).
        let exited = planted(Bug::GoneWithoutItsWrites) && self.has_exited();
        self.closed && (self.process.is_none() || self.writes_over || exited || planted(Bug::GoneAtEndOfConnection))
    }

    /// What runs under `holdfast exec` is one process group from first to last: that it closed a descriptor it never knew
    /// it had does not mean that it no longer uses the disk. With `strict_clients` that goes for every client.
    fn is_strict(&self) -> bool {
        self.process.as_ref().is_some_and(|p| p.group || self.strict) && !self.has_exited()
    }

    /// Its process has exited, with all of its group if it led one. Heirs of its connection may write on.
    fn has_exited(&self) -> bool {
        self.process.as_ref().is_none_or(|process| self.exited && (!process.group || self.group_gone))
    }

    /// What STATUS calls a connection that is no client: its latest command, by name or by number as sanlock does.
    pub(super) fn shows(&mut self, command: Command) {
        if self.registered {
            return;
        }
        let name = match (command.class(), command) {
            (Class::MainClose, _) | (_, Command::AddLockspace | Command::RemLockspace | Command::InqLockspace) => {
                Name48::cut(command.name().as_bytes())
            }
            (Class::Worker, _) => Name48::cut(format!("cmd{}", command.number()).as_bytes()),
            (Class::MainKeep | Class::Targeted, _) => return,
        };
        self.name = name;
    }

    /// It is gone but for what it has in flight.
    #[must_use]
    pub fn waits_for_its_writes(&self) -> bool {
        self.closed && self.process.is_some() && self.has_exited() && !self.writes_over
    }

    /// The connection outlived its process.
    #[must_use]
    pub fn is_inherited(&self) -> bool {
        self.registered && self.exited && !self.closed
    }
}

impl<L: Clone + std::fmt::Debug> Supervisor<L> {
    pub(super) fn connected(&mut self, client: ClientId, pid: i32, rights: Rights) {
        let fresh = Client {
            slot: Some(self.slots.take()),
            pid,
            rights,
            registered: false,
            process: None,
            exited: false,
            group_gone: false,
            writes_over: false,
            closed: false,
            name: Name48::EMPTY,
            restrict: RestrictFlags::NONE,
            killpath: None,
            killpath_run: false,
            killpath_pid: false,
            strict: self.settings.strict_clients,
            running: None,
            waits: false,
            last_command: 0,
            signals_sent: 0,
            kill_count: 0,
            kill_last: None,
        };
        if let Some(before) = self.clients.insert(client, fresh) {
            self.slots.give_back(before.slot);
        }
    }

    /// REGISTER has no reply. A second one on the same connection changes nothing (spec A 7.1: sanlock forgets leases).
    pub(super) fn register(&mut self, client: ClientId) {
        let Some(asking) = self.clients.get_mut(&client) else { return };
        if asking.registered {
            self.effects.push(Effect::Next { client });
            return;
        }
        asking.registered = true;
        asking.name = Name48::cut(asking.pid.to_string().as_bytes());
        // The next request of this connection waits for the look-up: an acquire needs the process's identity.
        self.effects.push(Effect::Identify { client });
    }

    pub(super) fn registered(&mut self, client: ClientId, process: Option<Guarded>) {
        if let Some(asking) = self.clients.get_mut(&client) {
            if process.is_none() {
                // Told in words, and counted as a refusal, once it asks for a lease. Many have ended by then, and never will.
                tracing::debug!(pid = asking.pid, "a registered process cannot be identified: it will get no lease");
            }
            asking.process = process;
        }
        self.effects.push(Effect::Next { client });
    }

    pub(super) fn restrict(&mut self, to: ReplyTo, flags: RestrictFlags) {
        if let Some(asking) = self.clients.get_mut(&to.client) {
            asking.restrict = flags;
        }
        self.reply(to, ResultCode::OK);
    }

    /// The end of a connection: a running command is asked to end, leases are given back. In a failing lockspace they
    /// are not, and the process stays under guard until it is gone.
    pub(super) fn closed(&mut self, client: ClientId) {
        let Some(ended) = self.clients.get_mut(&client) else { return };
        ended.closed = true;
        if let Some(running) = &ended.running {
            running.stop.set();
        }
        let (known, strict, exited) = (ended.process.is_some(), ended.is_strict(), ended.has_exited());
        self.stop_listening(client);
        self.drop_waiting(client);
        if planted(Bug::GoneWithoutItsWrites) && !strict || planted(Bug::GoneAtEndOfConnection) {
            self.release_all_of(client);
        }
        if known && !strict {
            // What it wrote before must have landed (S1).
            self.effects.push(Effect::WatchWrites { client, exited });
        }
        self.forget_if_over(client);
    }

    pub(super) fn exited(&mut self, client: ClientId) {
        let Some(ended) = self.clients.get_mut(&client) else { return };
        ended.exited = true;
        if ended.process.as_ref().is_some_and(|p| p.group) {
            return self.effects.push(Effect::WatchGroup { client });
        }
        self.ended(client);
    }

    pub(super) fn group_gone(&mut self, client: ClientId) {
        let Some(ended) = self.clients.get_mut(&client) else { return };
        ended.group_gone = true;
        self.ended(client);
    }

    /// A client's process has ended, with all that ends with it.
    fn ended(&mut self, client: ClientId) {
        let Some(ended) = self.clients.get(&client) else { return };
        if ended.closed {
            self.effects.push(Effect::WatchWrites { client, exited: true });
        } else {
            tracing::warn!(target: AT_WILL,
                pid = ended.pid,
                name = %ended.name,
                "a client's process has exited but its connection lives on in another process: its leases stay"
            );
        }
    }

    /// Nothing of a client is in flight, whose connection is at its end: its leases go, unless it is one that keeps them to
    /// the end of its group. An answer that was begun while it lived says nothing of what it wrote since.
    pub(super) fn writes_over(&mut self, client: ClientId, exited: bool) {
        let Some(ended) = self.clients.get_mut(&client).filter(|c| c.closed) else { return };
        ended.writes_over |= exited;
        if !ended.is_strict() {
            self.release_all_of(client);
        }
        self.forget_if_over(client);
    }

    /// Forgets a connection that is at its end, once no lease, command or guard names it any more.
    pub(super) fn forget_if_over(&mut self, client: ClientId) {
        let Some(ended) = self.clients.get(&client) else { return };
        if ended.is_gone() {
            for space in self.spaces.values_mut() {
                space.guards.remove(&client);
                space.ousted.remove(&client);
            }
        }
        let guarded = self.spaces.values().any(|s| s.guards.contains_key(&client));
        let holds = self.leases.values().any(|l| l.is_of(client));
        let Some(ended) = self.clients.get(&client) else { return };
        if ended.closed && ended.running.is_none() && !guarded && !holds {
            self.slots.give_back(ended.slot);
            self.clients.remove(&client);
            self.effects.push(Effect::Forget { client });
        }
        self.save();
    }

    /// The registered client that a command is about (spec A 4).
    pub(super) fn target(&self, to: ReplyTo, target: Target) -> Result<ClientId, ResultCode> {
        match target {
            Target::This => match self.clients.get(&to.client) {
                Some(c) if c.registered && !c.closed => Ok(to.client),
                _ => Err(ResultCode::EBUSY),
            },
            Target::Pid(pid) => {
                let wanted = i32::try_from(pid).map_err(|_| ResultCode::ESRCH)?;
                let found = self.clients.iter().find(|(_, c)| c.registered && !c.closed && c.pid == wanted);
                found.map(|(id, _)| *id).ok_or(ResultCode::ESRCH)
            }
        }
    }

    /// Whose rights whoever asks may ask for. Nobody's connection has none: what it asked for is not done any more.
    pub(super) fn rights_of(&self, client: ClientId) -> Option<Rights> {
        self.clients.get(&client).map(|c| c.rights.clone())
    }

    /// Whether a connection has registered.
    #[must_use]
    pub fn is_registered(&self, client: ClientId) -> bool {
        self.clients.get(&client).is_some_and(|c| c.registered)
    }

    /// Whether a client's process leads, or led, a process group of which something may still run.
    #[must_use]
    pub fn leads_group(&self, client: ClientId) -> bool {
        self.clients.get(&client).is_some_and(|c| !c.group_gone && c.process.as_ref().is_some_and(|p| p.group))
    }

    /// Everybody who uses a lease, and whether others have inherited its connection.
    #[must_use]
    pub fn users(&self) -> Vec<(Guarded, bool)> {
        let clients: BTreeSet<ClientId> = self.leases.values().flat_map(|l| &l.tokens).map(|t| t.client).collect();
        let clients = clients.into_iter().filter_map(|id| self.clients.get(&id));
        clients.filter_map(|c| Some((c.process.clone()?, c.is_inherited()))).collect()
    }

    /// Whether anybody does, or wants to.
    #[must_use]
    pub fn has_leases(&self) -> bool {
        !self.leases.is_empty()
    }

    /// The process behind a registered connection, as the state file names it.
    #[must_use]
    pub fn guarded_of(&self, client: ClientId) -> Option<&Guarded> {
        self.clients.get(&client)?.process.as_ref()
    }

    /// Whether it is ended with a lockspace that is lost: what it still has under way is past D2.
    #[must_use]
    pub fn is_of_a_lost_lockspace(&self, client: ClientId) -> bool {
        self.spaces.values().any(|s| matches!(s.life, Life::Failing { .. }) && s.guards.contains_key(&client))
    }

    /// The process behind a registered connection.
    #[must_use]
    pub fn process_of(&self, client: ClientId) -> Option<ProcessId> {
        let process = self.clients.get(&client)?.process.as_ref()?;
        Some(ProcessId { pid: process.pid, start_time: process.start_time })
    }

    /// The end of a reply after which the connection is closed, unless it is a client's life (spec A 4).
    pub(super) fn close(&mut self, client: ClientId) {
        self.effects.push(if self.is_registered(client) { Effect::Next { client } } else { Effect::Close { client } });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_has_the_lowest_number_that_is_free() {
        let mut slots = Slots::default();
        assert_eq!([slots.take(), slots.take(), slots.take()], [2, 3, 4]);
        slots.give_back(Some(3));
        slots.give_back(Some(2));
        slots.give_back(None);
        assert_eq!([slots.take(), slots.take(), slots.take()], [2, 3, 5]);
    }
}
