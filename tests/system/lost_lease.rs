//! Leases that are lost while they are held: the daemon sees it with its next renewal, and ends who must not go on, and
//! nobody else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;

use harness::{AT_MOST, Area, Guest, Machine, boot_now, wait_until};

#[test]
fn who_uses_a_lease_that_is_formatted_under_it_is_ended_and_nobody_else() {
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let (mut machine, mut elsewhere) = (Machine::boot(), Machine::boot());
    let daemon = machine.daemon("first", "--watchdog none");
    daemon.format(&area);
    daemon.join(&area, 1);
    let guest = Guest::holding(&mut machine, &area, "one", "--ignore-term");
    let other = Guest::holding(&mut machine, &area, "two", "");
    daemon.wait_renewal();
    assert!(guest.said("sigterm").is_none());

    let formatted = boot_now();
    elsewhere.daemon("second", "--watchdog none").format_resource(&area, "one");
    // Whoever has the new one by now looks older than this holder: no grace.
    let gone = guest.process.wait_over("the client", AT_MOST);
    assert!(gone >= formatted && guest.said("sigterm").is_none(), "{formatted:?} {gone:?}");
    daemon.wait_said("its area was formatted anew", AT_MOST);

    let leases = || daemon.status()["leases"].as_array().unwrap().clone();
    wait_until("the lost lease is nobody's", AT_MOST, || leases().iter().all(|l| l["resource"] != "one"));
    daemon.wait_renewal();
    let (left, beat) = (leases(), other.last_beat());
    assert!(matches!(left.as_slice(), [l] if l["resource"] == "two" && l["state"] == "held"), "{left:?}");
    wait_until("the other client works on", AT_MOST, || other.last_beat() > beat);
    let next = Guest::holding(&mut machine, &area, "one", "");
    assert!(next.said("refused").is_none(), "whoever comes next gets it");
}
