//! Requests: clients here ask the owners of leases elsewhere to let go, and others ask ours (REQUEST, EXAMINE of spec A 6;
//! D 4.11).
//!
//! Asking is two steps: the request record of the lease is written, and its owner's bit set in the bitmap of our own delta
//! sector, for a time, so that the owner looks. An owner that sees its bit reads the request record of each lease that it holds
//! exclusively, and does what is asked of it: the client is ended, or its killpath run. It has been asked to end and nothing
//! else: it has its lease until it is gone or gives it back, like any other (S1).
//!
//! A request is for one owner and one lease version (`paxos_lease::ask`), and is heard once. It is heeded in the manner that the
//! client had chosen when the lease became its own: what it restricts later, or sets as its killpath, is for what it acquires later.

use crate::log_ring::AT_WILL;
use holdfast_io::clock::LocalInstant;
use holdfast_io::ids::{HostTerm, Lver, SpaceName};
use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::command::{RequestFlags, RestrictFlags};
use holdfast_protocol::payload::{Lockspace, Resource, ResourceHead};
use nix::sys::signal::Signal;
use paxos_lease::request::Force;
use paxos_lease::{Ask, Mode};

use paxos_lease::copies::MOST as MOST_DISKS;

use super::Supervisor;
use super::event::{AskRequest, ClientId, Effect, Kill, LeaseKey, ReplyTo};
use super::leases::{Manners, Phase, key_of, places_of};

impl<L: Clone + std::fmt::Debug> Supervisor<L> {
    /// REQUEST.
    pub(super) fn ask_owner(&mut self, to: ReplyTo, flags: RequestFlags, force_mode: u32, resource: &Resource) {
        let head = &resource.head;
        let Some(by) = self.rights_of(to.client) else { return };
        if !self.has_active(&head.lockspace_name) {
            return self.reply(to, ResultCode::ENOSPC);
        }
        if !(1..=MOST_DISKS).contains(&resource.disks.len()) {
            return self.reply(to, ResultCode::ERANGE);
        }
        let (Some(key), Some(places)) = (key_of(head), places_of(resource, &by)) else {
            return self.reply(to, ResultCode::EINVAL);
        };
        let force = Force::from_number(force_mode);
        if force.is_none() && force_mode != 0 {
            return self.reply(to, ResultCode::EINVAL);
        }
        let next = head.lver == 0 && flags.contains(RequestFlags::NEXT_LVER);
        let ask = Ask { lver: (!next).then_some(Lver(head.lver)), force };
        self.effects.push(Effect::Ask(AskRequest { to, key, places, ask }));
    }

    /// A request was written, or not.
    pub(super) fn asked(
        &mut self,
        to: ReplyTo,
        key: LeaseKey,
        result: Result<Option<HostTerm>, (ResultCode, String)>,
        now: LocalInstant,
    ) {
        let owner = match result {
            Ok(owner) => owner,
            Err((code, why)) => {
                tracing::info!(target: AT_WILL, lease = %key, code = code.number(), why, "its owner was not asked");
                return self.reply(to, code);
            }
        };
        if let (Some(owner), Some(space)) = (owner, self.spaces.get_mut(&key.space)) {
            tracing::info!(target: AT_WILL, lease = %key, %owner, "its owner is asked to let go");
            space.calls.ask(owner.host_id, now, space.timing().io_deadline());
            self.publish(key.space, now);
        }
        self.reply(to, ResultCode::OK);
    }

    /// EXAMINE_LOCKSPACE.
    pub(super) fn examine_lockspace(&mut self, to: ReplyTo, lockspace: &Lockspace) {
        if let Some((name, _)) = self.space_named(&lockspace.name) {
            self.examine_all(name);
        }
        self.reply(to, ResultCode::OK);
    }

    /// EXAMINE_RESOURCE.
    pub(super) fn examine_resource(&mut self, to: ReplyTo, resource: &ResourceHead) {
        if let Some(key) = key_of(resource) {
            self.examine(key);
        }
        self.reply(to, ResultCode::OK);
    }

    /// One of our leases may be wanted.
    pub(super) fn examine_all(&mut self, name: SpaceName) {
        let keys: Vec<LeaseKey> = self.leases.keys().copied().filter(|key| key.space == name).collect();
        keys.into_iter().for_each(|key| self.examine(key));
    }

    fn examine(&mut self, key: LeaseKey) {
        let active = self.spaces.get(&key.space).is_some_and(|s| s.life.is_active());
        let Some(lease) = self.leases.get(&key).filter(|l| active && l.mode == Mode::Exclusive) else { return };
        if let Phase::Held { held } = &lease.phase {
            self.effects.push(Effect::Examine { key, lver: lease.lver, held: held.clone() });
        }
    }

    /// What the request record of a lease says to us, who held it at `lver` when it was read. Nothing is owed to a lease that has been
    /// given back meanwhile, or is held anew: nobody has asked for that one.
    pub(super) fn examined(&mut self, key: LeaseKey, lver: Lver, found: Result<Option<Force>, String>) {
        let force = match found {
            Ok(Some(force)) => force,
            Ok(None) => return,
            Err(why) => return tracing::warn!(lease = %key, why, "its request record cannot be read"),
        };
        let held = |l: &&mut super::Lease<L>| l.lver == lver && matches!(l.phase, Phase::Held { .. });
        let Some(lease) = self.leases.get_mut(&key).filter(held) else { return };
        if lease.asked == Some(force) || lease.asked == Some(Force::Kill) {
            return;
        }
        lease.asked = Some(force);
        match lease.client() {
            Some(client) => self.let_go(key, client, force),
            None => {
                tracing::warn!(lease = %key, left_by = ?lease.left_by, "another host asks for an orphan: nobody can be asked")
            }
        }
    }

    fn let_go(&mut self, key: LeaseKey, id: ClientId, force: Force) {
        let Some(client) = self.clients.get(&id).filter(|c| !c.is_gone()) else { return };
        let Some(Manners { restrict, killpath }) = self.leases.get(&key).map(|lease| &lease.manners) else { return };
        let program = killpath.as_ref().filter(|_| force == Force::Graceful);
        if let Some(program) = program.map(super::Program::without_pid) {
            tracing::warn!(lease = %key, pid = client.pid, program = %program.path.display(),
                "another host asks for this lease: running a killpath");
            return self.effects.push(Effect::RunProgram { client: id, program });
        }
        // One that is restricted is replaced by the other, whatever is said of that one.
        let signal = match force {
            Force::Kill if restrict.contains(RestrictFlags::SIGKILL) => Signal::SIGTERM,
            Force::Graceful if restrict.contains(RestrictFlags::SIGTERM) => Signal::SIGKILL,
            Force::Kill => Signal::SIGKILL,
            Force::Graceful => Signal::SIGTERM,
        };
        tracing::warn!(lease = %key, pid = client.pid, name = %client.name, %signal, "another host asks for this lease");
        self.effects.push(Effect::Kill(Kill { client: id, signal }));
    }
}
