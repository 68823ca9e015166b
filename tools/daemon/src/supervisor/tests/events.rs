//! Host events: what is told, to whom, and how long.

use super::*;
use crate::supervisor::event::{AskRequest, Call, SetEvent};
use delta_lease::{HostEvent, Publication};
use holdfast_io::ids::{HostId, HostTerm};
use holdfast_protocol::command::{RequestFlags, SetEventFlags};
use holdfast_protocol::payload::HostEvent as Wire;

/// What stands on disk after each renewal: event, and whom it is for.
type Said = (u64, Vec<u64>);

impl World {
    fn sets(&mut self, flags: SetEventFlags, host_id: u64, event: u64) -> i32 {
        let event = Wire { host_id, generation: 3, event, data: 7 };
        self.ask(900, Request::SetEvent { flags, lockspace: wire_space("LS", 0), event });
        *self.codes(900).last().unwrap()
    }

    fn said(&self) -> Said {
        let published = |e: &Effect<u32>| match e {
            Effect::Publish { publication, .. } => Some(*publication),
            _ => None,
        };
        let Publication { event, bitmap } = self.log.iter().rev().find_map(published).unwrap_or_default();
        (event.event, bitmap.hosts().map(HostId::get).collect())
    }

    /// One renewal interval.
    fn renews(&mut self) -> Said {
        let said = self.said();
        self.wait(2 * IO * 1000).renewed(0);
        said
    }

    pub(super) fn listens(&mut self, client: u64) -> &mut Self {
        self.apply(Event::Connected { client: ClientId(client), pid: 77, rights: Rights::Ours });
        self.ask(client, Request::RegEvent { lockspace: wire_space("LS", 0), event: Wire::default() })
    }

    fn is_told(&mut self, event: u64) -> &mut Self {
        let from = HostTerm { host_id: HostId::new(2).unwrap(), generation: Generation(5) };
        let event = HostEvent { generation: 3, event, data: 7 };
        self.apply(Event::Called { space: name("LS"), calls: vec![Call { from, event }] })
    }

    fn told(&self, client: u64) -> usize {
        self.count(|e| matches!(e, Effect::Tell { client: to, .. } if *to == ClientId(client)))
    }

    fn closes(&self, client: u64) -> usize {
        self.count(|e| matches!(e, Effect::Close { client: of } if *of == ClientId(client)))
    }

    fn asks_owner(&mut self, owner: u64) -> &mut Self {
        let resource = wire_lease("LS", "R");
        self.ask(1, Request::AskOwner { flags: RequestFlags::NEXT_LVER, force_mode: 1, resource });
        let asked = |e: &Effect<u32>| match e {
            Effect::Ask(AskRequest { to, key, .. }) => Some((*to, *key)),
            _ => None,
        };
        let (to, key) = self.log.iter().rev().find_map(asked).unwrap();
        let owner = HostTerm { host_id: HostId::new(owner).unwrap(), generation: Generation(1) };
        self.apply(Event::Asked { to, key, result: Ok(Some(owner)) })
    }
}

fn joined() -> World {
    let mut w = World::joined();
    w.apply(Event::Connected { client: ClientId(900), pid: 60, rights: Rights::Ours });
    w
}

#[test]
fn an_event_stands_for_six_io_timeouts_beside_the_bits_of_those_it_is_for() {
    let mut w = joined();
    assert_eq!(w.sets(SetEventFlags::NONE, 2, 5), 0);
    assert_eq!(w.sets(SetEventFlags::NONE, 3, 5), 0, "the same event, for one host more");
    assert_eq!([w.renews(), w.renews(), w.renews()], [(5, vec![2, 3]), (5, vec![2, 3]), (5, vec![2, 3])]);
    assert_eq!(w.renews(), (0, vec![]), "sanlock leaves the event standing");
}

#[test]
fn another_event_waits_for_the_one_before_it_unless_it_is_to_replace_it() {
    let mut w = joined();
    w.sets(SetEventFlags::NONE, 2, 5);
    assert_eq!(w.sets(SetEventFlags::NONE, 3, 6), ResultCode::EBUSY.number());
    assert_eq!(w.said(), (5, vec![2]));
    assert_eq!(w.sets(SetEventFlags::REPLACE_EVENT, 3, 6), 0);
    assert_eq!(w.said(), (6, vec![3]), "host 2 does not hear what is not for it");
    w.wait(6 * IO * 1000).renewed(0);
    assert_eq!((w.sets(SetEventFlags::NONE, 4, 7), w.said()), (0, (7, vec![4])));
}

#[test]
fn an_event_can_be_cleared_for_all_and_for_one() {
    let mut w = joined();
    w.sets(SetEventFlags::ALL_HOSTS, 2, 5);
    let (event, hosts) = w.said();
    assert_eq!((event, hosts.len(), hosts[0]), (5, 1999, 2), "everybody but us");
    assert_eq!(w.sets(SetEventFlags::CLEAR_HOSTID, 3, 0), 0);
    assert!(!w.said().1.contains(&3));
    assert_eq!(w.sets(SetEventFlags::CLEAR_EVENT, 1, 0), 0);
    assert_eq!(w.said().0, 0);
}

#[test]
fn a_request_tells_no_event_to_whom_it_is_not_for() {
    let mut w = joined();
    w.sets(SetEventFlags::NONE, 2, 5);
    w.asks_owner(3);
    let said: Vec<Said> = (0..6).map(|_| w.renews()).collect();
    assert!(said.iter().all(|s| *s == (5, vec![2]) || *s == (0, vec![3])), "{said:?}");
    assert!(said.iter().filter(|s| s.0 == 5).count() >= 2 && said.iter().filter(|s| s.0 == 0).count() >= 3, "{said:?}");
    // To whom it is for it may.
    let mut w = joined();
    w.sets(SetEventFlags::NONE, 2, 5);
    w.asks_owner(2);
    assert_eq!(w.renews(), (5, vec![2]));
    // And never once the event is over.
    w.wait(6 * IO * 1000).renewed(0).asks_owner(2);
    assert_eq!(w.said(), (0, vec![2]));
}

#[test]
fn the_current_generation_is_looked_up_where_none_is_named() {
    let mut w = joined();
    let event = Wire { host_id: 2, generation: 0, event: 5, data: 7 };
    let lockspace = wire_space("LS", 0);
    w.ask(900, Request::SetEvent { flags: SetEventFlags::CUR_GENERATION, lockspace, event });
    let found = |e: &Effect<u32>| match e {
        Effect::FindGeneration { to, set } => Some((*to, *set)),
        _ => None,
    };
    let (to, set) = w.log.iter().find_map(found).unwrap();
    assert!(w.codes(900).is_empty());
    w.apply(Event::EventAimed { to, set: SetEvent { generation: 9, ..set } });
    let told = |e: &Effect<u32>| match e {
        Effect::Publish { publication, .. } => Some(publication.event),
        _ => None,
    };
    assert_eq!(w.log.iter().find_map(told), Some(HostEvent { generation: 9, event: 5, data: 7 }));
    assert_eq!(w.codes(900), [0]);
}

#[test]
fn listeners_hear_of_events_until_their_end() {
    let mut w = joined();
    w.listens(5).listens(6);
    assert_eq!((w.codes(5), w.codes(6), w.closes(5)), (vec![0], vec![0], 0));
    w.is_told(5).is_told(0);
    assert_eq!((w.told(5), w.told(6)), (1, 1), "0 is no event");
    let bytes = w.log.iter().find_map(|e| match e {
        Effect::Tell { bytes, .. } => Some(bytes.clone()),
        _ => None,
    });
    let words: Vec<u64> = bytes.unwrap()[32..].chunks(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect();
    assert_eq!(words, [1, 3, 5, 7, 2, 5], "for us, generation, event, data, from whom");
    w.closed(5).is_told(6);
    assert_eq!((w.told(5), w.told(6)), (1, 2));
    w.apply(Event::Left { space: name("LS") });
    assert_eq!(w.closes(6), 1);
}

#[test]
fn there_are_thirty_two_listeners_at_most_and_none_where_there_is_nothing() {
    let mut w = joined();
    for client in 10..42 {
        w.listens(client);
    }
    w.listens(50);
    assert_eq!((w.codes(50), w.closes(50)), (vec![-50], 1));
    w.closed(10).listens(51);
    assert_eq!(w.codes(51), [0]);
    for (space, code) in [("", ResultCode::EINVAL), ("NO", ResultCode::ENOENT)] {
        let lockspace = || Lockspace { name: Name48::new(space).unwrap(), ..wire_space("LS", 0) };
        for request in [
            Request::RegEvent { lockspace: lockspace(), event: Wire::default() },
            Request::EndEvent { lockspace: lockspace() },
        ] {
            w.apply(Event::Connected { client: ClientId(60), pid: 60, rights: Rights::Ours }).ask(60, request);
            assert_eq!(w.codes(60).last(), Some(&code.number()), "{space:?}");
        }
    }
    let event = Wire { host_id: 2001, ..Wire::default() };
    w.ask(900, Request::SetEvent { flags: SetEventFlags::NONE, lockspace: wire_space("LS", 0), event });
    assert_eq!(w.codes(900), [ResultCode::EINVAL.number()]);
}
