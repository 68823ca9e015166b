//! A thousand connections that say nothing, or nonsense, or ask all the time: no renewal is late, and every request of a client
//! is answered.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;

use harness::{AT_MOST, Area, Crowd, Guest, Inquirers, Machine, Process, wait_until};

#[test]
fn a_thousand_hostile_connections_delay_no_renewal_and_no_client() {
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let mut machine = Machine::boot();
    let daemon = machine.daemon("first", "--watchdog none");
    daemon.format(&area);
    daemon.join(&area, 1);
    let crowd = Crowd::of(&daemon, 1000);
    let mut client = daemon.connection().register().unwrap();
    for _ in 0..5 {
        for _ in 0..10 {
            daemon.take_and_give_back(&mut client, &area, "one");
        }
        daemon.wait_renewal();
    }
    assert!(daemon.space().is_some_and(|s| s["state"] == "active" && s["failed_renewals"] == 0));
    assert!(!daemon.log().contains("renewal failed"), "{}", daemon.log());
    let answers = crowd.answers();
    assert!(answers.len() > 150 && answers.iter().all(|n| *n == 64), "{answers:?}");
    daemon.take_and_give_back(&mut client, &area, "one");
    assert!(daemon.answers());
}

#[test]
fn a_thousand_clients_that_ask_for_the_status_all_the_time_let_no_renewal_be_heard_of_late() {
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let mut machine = Machine::boot();
    let daemon = machine.daemon("first", "--watchdog none");
    daemon.format(&area);
    daemon.join(&area, 1);
    let inquirers = Inquirers::of(&daemon, 1000);
    // Renewals land on disk whatever the loop does. Between the first and the last of these D2's instant comes, and comes
    // again, unless the loop hears of them.
    let mut last = area.delta(1).bytes;
    let renewals = 10;
    for _ in 0..renewals {
        wait_until("a renewal on disk", AT_MOST, || area.delta(1).bytes != last);
        last = area.delta(1).bytes;
    }
    assert!(!daemon.log().contains("lockspace lost"), "{}", daemon.log());
    assert!(inquirers.answers() > 100, "they were answered, too");
    assert!(daemon.space().is_some_and(|s| s["state"] == "active"));
}

/// Whoever inherited a connection is found by a look through all processes. The ladder does not wait for that.
#[test]
fn two_hundred_connections_that_are_ended_at_once_with_their_heir_let_no_other_lockspace_miss_a_renewal() {
    let disk = tempfile::tempdir().unwrap();
    let (area, other) = (Area::file(disk.path(), "leases"), Area::file(disk.path(), "other"));
    let mut machine = Machine::boot();
    let daemon = machine.daemon("first", "--watchdog none");
    daemon.format(&area);
    daemon.join(&area, 1);
    daemon.format_space_as(&other, "OTHER");
    daemon.join_as(&other, "OTHER", 1);
    let _processes = machine.start("sleeps", "sh -c 'for i in $(seq 800); do sleep 1000 & done; wait'");
    let guest = Guest::holding(&mut machine, &area, "one", "--connections 200 --ignore-term --heir");
    guest.wait_said("heir", AT_MOST);
    let heir = Process::of(guest.pid_of("heir").unwrap());
    guest.process.wait_over("the client that left an heir", AT_MOST);
    daemon.leave(&area, 1);
    heir.wait_over("the heir", AT_MOST);
    let left = daemon.status()["lockspaces"].as_array().unwrap().clone();
    assert!(matches!(left.as_slice(), [s] if s["name"] == "OTHER" && s["state"] == "active"), "{left:?}");
    assert!(!daemon.log().contains("lockspace lost"), "{}", daemon.log());
    assert!(!daemon.log().contains("half of the renewal budget"), "{}", daemon.log());
}
