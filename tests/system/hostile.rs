//! A thousand connections that say nothing, or nonsense, or ask all the time: no renewal is late, and every request of a client
//! is answered.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;

use harness::{AT_MOST, Area, Crowd, Inquirers, Machine, wait_until};

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
    assert!(inquirers.answers() > 1000);
    assert!(daemon.space().is_some_and(|s| s["state"] == "active"));
}
