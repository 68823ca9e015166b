//! A thousand connections that say nothing, or nonsense: no renewal is late, and every request of a client is answered.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;

use harness::{Area, Crowd, Machine};

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
