//! The values of leases.

use super::*;

impl World {
    fn acquired_with_value(&mut self, bytes: Vec<u8>) -> &mut Self {
        self.acquire(1, &["R"], AcquireFlags::LVB).device_ready();
        let (task, geometry) = (self.last_task(), Geometry::default_for(SectorSize::B512));
        self.apply(Event::Acquired {
            task,
            end: AcquireEnd::Ours { held: 7, lver: Lver(3), geometry, value: Some(bytes) },
        })
    }

    fn set(&mut self, client: u64, resource: &str, value: &[u8]) -> i32 {
        let resource = wire_lease("LS", resource).head;
        self.ask(client, Request::SetLvb { resource, value: value.to_vec() });
        *self.codes(client).last().unwrap()
    }

    /// What GET_LVB answers, and the code.
    fn get(&mut self, client: u64, resource: &str, length: u32) -> (i32, Vec<u8>) {
        let resource = wire_lease("LS", resource).head;
        self.ask(client, Request::GetLvb { length, resource });
        let reply = self.log.iter().rev().find_map(|e| match e {
            Effect::Reply { bytes, .. } => Some(bytes[32..].to_vec()),
            _ => None,
        });
        (*self.codes(client).last().unwrap(), reply.unwrap())
    }

    fn written(&self) -> Vec<Option<Vec<u8>>> {
        let value = |e: &Effect<u32>| match e {
            Effect::StartRelease { value, .. } => Some(value.clone()),
            Effect::StartConvert { request, .. } => Some(request.value.clone()),
            _ => None,
        };
        self.log.iter().filter_map(value).collect()
    }
}

#[test]
fn a_value_is_read_with_the_lease_and_written_with_its_end_if_it_was_set() {
    let mut w = World::joined();
    w.client(2).acquired_with_value(vec![9; 512]);
    assert_eq!(w.get(2, "R", 0), (0, vec![9; 512]), "to anybody");
    assert_eq!(w.get(2, "R", 4), (0, vec![9; 4]), "as much as is asked for");
    let (code, long) = w.get(2, "R", 4096);
    assert_eq!(
        (code, &long[..512], &long[512..]),
        (0, &[9; 512][..], &[0; 4096 - 512][..]),
        "and zeros behind its end"
    );
    for absurd in [1 << 20, u32::MAX] {
        assert_eq!(w.get(2, "R", absurd), (-12, Vec::new()));
    }
    w.log.clear();
    w.release_all(1);
    assert_eq!(w.written(), [None], "as it stands there already");

    let mut w = World::joined();
    w.acquired_with_value(vec![9; 512]);
    assert_eq!(w.set(1, "R", b"new"), 0);
    let mut expected = b"new".to_vec();
    expected.resize(512, 9); // it lies over the old one, whose end stays
    assert_eq!(w.get(1, "R", 0), (0, expected.clone()));
    w.log.clear();
    w.release_all(1);
    assert_eq!(w.written(), [Some(expected)]);
}

#[test]
fn a_value_is_written_before_the_lease_is_shared_and_only_once() {
    let mut w = World::joined();
    w.acquired_with_value(vec![0; 512]);
    w.set(1, "R", b"v");
    w.log.clear();
    w.convert(1, "R", Mode::Shared);
    assert!(w.written()[0].as_ref().is_some_and(|v| v.starts_with(b"v")));
    let task = w.log.iter().find_map(|e| match e {
        Effect::StartConvert { task, .. } => Some(*task),
        _ => None,
    });
    let end = Converted { held: Some((7, Mode::Shared, Lver(3))), code: ResultCode::OK, why: None };
    w.apply(Event::Converted { task: task.unwrap(), end });
    w.set(1, "R", b"not ours to write");
    w.log.clear();
    w.release_all(1);
    assert_eq!(w.written(), [None], "a sharer writes none");
}

#[test]
fn where_there_is_no_value_none_is_set_or_told() {
    let mut w = World::joined();
    w.hold(1, "R");
    assert_eq!((w.set(1, "R", b"v"), w.get(1, "R", 0)), (-22, (-22, Vec::new())));
    assert_eq!((w.set(1, "OTHER", b"v"), w.get(1, "OTHER", 0).0), (-2, -2));
    assert_eq!(w.get(1, "OTHER", 16), (-2, Vec::new()));
    let length = w.log.iter().rev().find_map(|e| match e {
        Effect::Reply { bytes, .. } => Some(u32::from_le_bytes(bytes[16..20].try_into().unwrap())),
        _ => None,
    });
    assert_eq!(length, Some(48), "as if a value followed: sanlock's header");
    let mut w = World::joined();
    w.acquired_with_value(vec![0; 512]);
    assert_eq!(w.set(1, "R", &[1; 513]), -7);
}
