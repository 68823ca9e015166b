//! What our delta sector says to other hosts, beside that we live: whom it calls, and one event (spec D 2.2, 2.3, 6.7).
//!
//! A bit calls a host, for six of our io_timeouts: to look at its leases, since one of them is asked for (`requests.rs`), or to
//! hear the event (`events.rs`). On disk the two look alike: whoever is called takes the event for his. So an event stands
//! there only beside the bits of those whom it is for, and no longer than they do; while somebody else is called at the
//! same time, the two take turns, renewal by renewal, for twice as long. sanlock leaves its event standing, and a request that
//! it makes later tells it again.

use std::collections::BTreeMap;
use std::time::Duration;

use delta_lease::bitmap::HostBitmap;
use delta_lease::{HostEvent, Publication};
use holdfast_io::clock::LocalInstant;
use holdfast_io::ids::{HostId, SpaceName};

use super::Supervisor;
use super::event::Effect;

/// How many of our io_timeouts a host is called for (spec A, `set_bitmap_seconds`).
pub(crate) const CALLED_FOR: u32 = 6;

/// Whom we call in a lockspace, and what we tell.
#[derive(Debug, Default)]
pub struct Calls {
    asked: BTreeMap<HostId, LocalInstant>,
    told: BTreeMap<HostId, LocalInstant>,
    event: HostEvent,
    /// Until when the event stands, and another one may not.
    until: LocalInstant,
    /// Whose turn it is, where they take turns: of those who are asked.
    askeds_turn: bool,
    published: Publication,
}

impl Calls {
    /// Calls the owner of a lease.
    pub(super) fn ask(&mut self, owner: HostId, now: LocalInstant, io_timeout: Duration) {
        let rounds = if self.event.event == 0 { 1 } else { 2 };
        self.asked.insert(owner, now.after(io_timeout * CALLED_FOR * rounds));
    }

    /// Whether an event may stand in the place of the one that is there.
    pub(super) fn may_tell(&self, event: HostEvent, now: LocalInstant) -> bool {
        self.event.event == 0 || event.event == 0 || event.event == self.event.event || now >= self.until
    }

    /// Tells these hosts an event.
    pub(super) fn tell(
        &mut self,
        event: HostEvent,
        hosts: impl Iterator<Item = HostId>,
        now: LocalInstant,
        io_timeout: Duration,
    ) {
        let rounds = if self.asked.is_empty() { 1 } else { 2 };
        let until = now.after(io_timeout * CALLED_FOR * rounds);
        if event != self.event {
            // Whom an earlier one was for has nothing to do with this one.
            self.told.clear();
        }
        (self.event, self.until) = (event, until);
        self.told.extend(hosts.map(|host| (host, until)));
    }

    /// There is no event any more. Those who were called are called on.
    pub(super) fn clear_event(&mut self) {
        self.event = HostEvent::default();
    }

    /// A host is not called any more.
    pub(super) fn clear_host(&mut self, host: HostId) {
        self.told.remove(&host);
        self.asked.remove(&host);
    }

    /// What the next renewal says.
    fn next(&mut self, now: LocalInstant, renewed: bool) -> Publication {
        self.asked.retain(|_, until| now < *until);
        self.told.retain(|_, until| now < *until);
        if now >= self.until {
            self.clear_event();
        }
        let set = |hosts: &BTreeMap<HostId, LocalInstant>| {
            let mut bitmap = HostBitmap::EMPTY;
            hosts.keys().for_each(|host| bitmap.insert(*host));
            bitmap
        };
        let (event, told) = (self.event, set(&self.told));
        if event.event == 0 {
            let mut bitmap = told;
            self.asked.keys().for_each(|host| bitmap.insert(*host));
            return Publication { event, bitmap };
        }
        self.askeds_turn ^= renewed;
        if self.asked.keys().all(|host| told.contains(*host)) {
            // Whoever is asked hears the event in any case.
            return Publication { event, bitmap: told };
        }
        if self.askeds_turn {
            return Publication { event: HostEvent::default(), bitmap: set(&self.asked) };
        }
        Publication { event, bitmap: told }
    }
}

impl<L: Clone + std::fmt::Debug> Supervisor<L> {
    /// Sees that our sector says from the next renewal on what it is to say now.
    pub(super) fn publish(&mut self, name: SpaceName, now: LocalInstant) {
        self.publish_next(name, now, false);
    }

    /// The same, a renewal having said what it was to say before.
    pub(super) fn publish_next(&mut self, name: SpaceName, now: LocalInstant, renewed: bool) {
        let Some(space) = self.spaces.get_mut(&name) else { return };
        let publication = space.calls.next(now, renewed);
        if publication != space.calls.published {
            space.calls.published = publication;
            self.effects.push(Effect::Publish { space: name, publication });
        }
    }
}
