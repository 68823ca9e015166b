//! Host events: one host tells another something, through its delta sector (REG_EVENT, END_EVENT, SET_EVENT of spec A 9).
//!
//! A connection that has registered for the events of a lockspace gets 80 bytes for each, as often as its sender renews while it
//! stands: whoever listens takes the same one twice for once. What an event means, and for which generation of us it was, is the
//! listeners' business.

use crate::log_ring::AT_WILL;
use delta_lease::HostEvent;
use holdfast_io::clock::LocalInstant;
use holdfast_io::ids::{HostId, SpaceName};
use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::command::SetEventFlags;
use holdfast_protocol::payload::{EventCallback, HostEvent as Wire, Lockspace};

use super::Supervisor;
use super::event::{Call, ClientId, Effect, ReplyTo, SetEvent};

/// Event connections of one lockspace (spec A 9).
const MOST_LISTENERS: usize = 32;

impl<L: Clone + std::fmt::Debug> Supervisor<L> {
    /// Whether a connection waits for events.
    #[must_use]
    pub fn listens(&self, client: ClientId) -> bool {
        self.spaces.values().any(|space| space.listeners.contains(&client))
    }

    /// REG_EVENT. From now on the connection is for events; one that is a client's stays that as well.
    pub(super) fn register_events(&mut self, to: ReplyTo, lockspace: &Lockspace) {
        let code = match self.event_space(lockspace) {
            Ok(name) => self.listen(name, to.client),
            Err(code) => code,
        };
        if code != ResultCode::OK {
            return self.last_reply(to, code);
        }
        let bytes = to.header.answer(code, to.header.data2, 0).encode().to_vec();
        self.effects.push(Effect::Reply { client: to.client, bytes });
        if self.is_registered(to.client) {
            return self.effects.push(Effect::Next { client: to.client });
        }
        // It is no client any more, and STATUS does not list it.
        let slot = self.clients.get_mut(&to.client).and_then(|listener| listener.slot.take());
        self.slots.give_back(slot);
    }

    fn listen(&mut self, name: SpaceName, client: ClientId) -> ResultCode {
        let Some(space) = self.spaces.get_mut(&name) else { return ResultCode::ENOENT };
        if space.listeners.contains(&client) {
            return ResultCode::OK;
        }
        if space.listeners.len() >= MOST_LISTENERS {
            return ResultCode::ENOCSI;
        }
        space.listeners.push(client);
        ResultCode::OK
    }

    /// END_EVENT. Its library has ended the event connection itself, before it asks.
    pub(super) fn end_events(&mut self, to: ReplyTo, lockspace: &Lockspace) {
        let code = self.event_space(lockspace).err().unwrap_or(ResultCode::OK);
        self.last_reply(to, code);
    }

    fn event_space(&self, lockspace: &Lockspace) -> Result<SpaceName, ResultCode> {
        if lockspace.name.is_empty() {
            return Err(ResultCode::EINVAL);
        }
        let found = self.space_named(&lockspace.name).filter(|(_, space)| space.life.is_active());
        found.map(|(name, _)| name).ok_or(ResultCode::ENOENT)
    }

    /// SET_EVENT.
    pub(super) fn set_event(
        &mut self,
        to: ReplyTo,
        flags: SetEventFlags,
        lockspace: &Lockspace,
        event: Wire,
        now: LocalInstant,
    ) {
        let Some(host_id) = HostId::new(event.host_id) else { return self.reply(to, ResultCode::EINVAL) };
        let space = match self.event_space(lockspace) {
            Ok(space) => space,
            Err(code) => return self.reply(to, code),
        };
        let Wire { generation, event, data, .. } = event;
        let set = SetEvent { space, host_id, generation, event, data, flags };
        if flags.contains(SetEventFlags::CUR_GENERATION) && generation == 0 {
            return self.effects.push(Effect::FindGeneration { to, set });
        }
        self.event_aimed(to, set, now);
    }

    /// An event whose generation is known is told from the next renewal on.
    pub(super) fn event_aimed(&mut self, to: ReplyTo, set: SetEvent, now: LocalInstant) {
        let SetEvent { space: name, host_id, generation, event, data, flags } = set;
        let Some(space) = self.spaces.get_mut(&name) else { return self.reply(to, ResultCode::ENOENT) };
        let told = HostEvent { generation, event, data };
        let clears = flags.contains(SetEventFlags::CLEAR_EVENT) || flags.contains(SetEventFlags::CLEAR_HOSTID);
        if flags.contains(SetEventFlags::CLEAR_EVENT) {
            space.calls.clear_event();
        }
        if flags.contains(SetEventFlags::CLEAR_HOSTID) {
            space.calls.clear_host(host_id);
        }
        if !clears {
            if !flags.contains(SetEventFlags::REPLACE_EVENT) && !space.calls.may_tell(told, now) {
                return self.reply(to, ResultCode::EBUSY);
            }
            let all = flags.contains(SetEventFlags::ALL_HOSTS);
            let own = space.host_id;
            let hosts = (0..holdfast_io::ids::MAX_HOSTS).filter_map(HostId::from_slot);
            let for_whom = hosts.filter(|host| *host != own && (all || *host == host_id));
            space.calls.tell(told, for_whom, now, space.timing().io_deadline());
        }
        self.publish(name, now);
        self.reply(to, ResultCode::OK);
    }

    /// Other hosts call us: they tell an event, or one of our leases is wanted.
    pub(super) fn called(&mut self, name: SpaceName, calls: &[Call]) {
        self.examine_all(name);
        let Some(space) = self.spaces.get(&name) else { return };
        for Call { from, event } in calls.iter().filter(|call| call.event.event != 0) {
            tracing::info!(target: AT_WILL, lockspace = %name, %from, event = event.event, data = event.data, "an event");
            let HostEvent { generation, event, data } = *event;
            let event = Wire { host_id: space.host_id.get(), generation, event, data };
            let callback =
                EventCallback { event, from_host_id: from.host_id.get(), from_generation: from.generation.0 };
            let tell = |client: &ClientId| Effect::Tell { client: *client, bytes: callback.encode() };
            self.effects.extend(space.listeners.iter().map(tell));
        }
    }

    /// A connection has come to its end: it listens to nothing any more.
    pub(super) fn stop_listening(&mut self, client: ClientId) {
        for space in self.spaces.values_mut() {
            space.listeners.retain(|listener| *listener != client);
        }
    }
}
