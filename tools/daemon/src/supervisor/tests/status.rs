//! What STATUS tells.

use super::*;
use holdfast_protocol::state::{StateKind, StateRecord};

impl World {
    /// The records of one kind.
    fn records(&mut self, kind: StateKind) -> Vec<StateRecord> {
        self.apply(Event::Connected { client: ClientId(99), pid: 99, rights: Rights::Ours })
            .ask(99, Request::Status { stop_after: 0 });
        let stream = self.log.iter().rev().find_map(|e| match e {
            Effect::Reply { client: ClientId(99), bytes } => Some(bytes[32..].to_vec()),
            _ => None,
        });
        self.closed(99);
        StateRecord::decode_stream(&stream.unwrap()).unwrap().into_iter().filter(|r| r.kind == kind).collect()
    }

    /// Of each the values of these keys.
    fn values(&mut self, kind: StateKind, keys: &[&str]) -> Vec<Vec<String>> {
        let of = |record: StateRecord| keys.iter().map(|key| record.text.get(key).unwrap()).collect();
        self.records(kind).into_iter().map(of).collect()
    }

    fn lists(&mut self) -> Vec<String> {
        let name = |r: StateRecord| format!("{} {}", r.text.get("list").unwrap(), r.name);
        self.records(StateKind::Resource).into_iter().map(name).collect()
    }
}

#[test]
fn leases_are_listed_as_held_begun_given_back_left_behind_and_the_latest_first() {
    let mut w = World::joined();
    w.client(2).client(3).persists(3, AcquireFlags::NONE, LeaseFlags::NONE).device_ready().ours().exited(3).closed(3);
    w.client(5).hold(5, "S").release(5, "S").hold(1, "T").acquire(2, &["U"], AcquireFlags::NONE).client(4).hold(4, "V");
    assert_eq!(w.lists(), ["held V", "held T", "add U", "rem S", "orphan R"]);
}

#[test]
fn a_lease_tells_how_often_it_was_wanted_before_in_its_place() {
    let mut w = World::joined();
    let reused = |w: &mut World| w.values(StateKind::Resource, &["reused"]);
    w.hold(1, "R");
    assert_eq!(reused(&mut w), [["0"]]);
    w.release_all(1).released().acquire(1, &["R"], AcquireFlags::NONE).device_ready().theirs().hold(1, "R");
    assert_eq!(reused(&mut w), [["2"]], "in vain as well");
    w.release_all(1).released();
    w.ask(900, Request::RemLockspace { flags: RemLockspaceFlags::ASYNC, lockspace: wire_space("LS", 1) });
    w.apply(Event::Left { space: name("LS") }).join("LS").hold(1, "R");
    assert_eq!(reused(&mut w), [["0"]], "what a lockspace had is forgotten with it");
    w.release_all(1).released();
    for number in 0..200 {
        w.hold(1, &format!("other{number}")).release_all(1).released();
    }
    w.hold(1, "R");
    assert_eq!(reused(&mut w), [["0"]], "after many others nobody remembers");
}

#[test]
fn a_lease_whose_release_hangs_tells_whose_it_was() {
    let mut w = World::joined();
    w.hold(1, "R").exited(1).closed(1);
    let task = w.last_task();
    let (code, why) = (ResultCode::IO_TIMEOUT, Some("late".to_owned()));
    w.apply(Event::Released { task, code, why, done: false });
    let told = w.records(StateKind::Resource);
    assert_eq!((told[0].data32.cast_signed(), w.lists()), (101, vec!["rem R".to_owned()]));
}

#[test]
fn what_was_restricted_when_a_lease_was_acquired_is_told_of_it() {
    let mut w = World::joined();
    w.ask(1, Request::Restrict { flags: RestrictFlags::SIGKILL }).hold(1, "R");
    w.ask(1, Request::Restrict { flags: RestrictFlags::NONE }).hold(1, "S");
    assert_eq!(w.values(StateKind::Resource, &["flags"]), [["0"], ["8"]]);
}

#[test]
fn a_client_tells_of_a_killpath_that_has_a_pid_and_of_one_that_was_run() {
    let mut w = World::joined();
    let told = |w: &mut World| {
        let clients = w.values(StateKind::Client, &["pid", "flags", "kill_count", "kill_last"]);
        clients.into_iter().find(|client| client[0] == "101").unwrap()
    };
    assert_eq!(told(&mut w), ["101", "0", "0", "0"]);
    w.killpath(1, "/bin/kp").hold(1, "R");
    assert_eq!(told(&mut w), ["101", "1", "0", "0"]);
    w.pass(9);
    let now = told(&mut w);
    assert_eq!((&*now[1], now[2] != "0", now[3] != "0"), ("3", true, true), "{now:?}");
}

#[test]
fn a_connection_that_listens_is_no_client_and_its_number_is_free() {
    let mut w = World::joined();
    let numbers = |w: &mut World| w.values(StateKind::Client, &["ci"]).len();
    let before = numbers(&mut w);
    w.listens(60);
    assert_eq!(numbers(&mut w), before);
    w.apply(Event::Connected { client: ClientId(61), pid: 61, rights: Rights::Ours });
    assert_eq!(numbers(&mut w), before + 1);
    w.closed(60).closed(61);
    assert_eq!(numbers(&mut w), before);
}

#[test]
fn a_lost_lockspace_is_listed_where_it_was_and_says_by_what_it_was_lost() {
    let mut w = World::joined();
    let keys = ["list", "space_dead", "renew_fail", "corrupt_result", "renewal_last_result"];
    assert_eq!(w.values(StateKind::Lockspace, &keys), [["spaces", "0", "0", "0", "1"]]);
    let (space, lost) = (name("LS"), Some(LostTo::Nobody));
    w.hold(1, "R").apply(Event::RenewalFailed { space, why: "changed".into(), lost, code: ResultCode::RENEW_OWNER });
    assert_eq!(w.values(StateKind::Lockspace, &keys), [["spaces", "1", "1", "-260", "-260"]]);
    assert!(w.daemon.tells_hosts(&space) && !w.daemon.is_active(&space));
    w.exited(1).closed(1).pass(1);
    assert_eq!(
        (w.values(StateKind::Lockspace, &keys[..1]), w.daemon.tells_hosts(&space)),
        (vec![vec!["rem".to_owned()]], false)
    );
}
