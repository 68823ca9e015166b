//! SIGHUP: the configuration is read again, and nobody loses anything by it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;

use std::fs;

use harness::{AT_MOST, Area, Guest, Machine, SPACE, wait_until};
use nix::sys::signal::Signal;

#[test]
fn a_reload_joins_what_is_new_and_a_file_that_cannot_be_read_changes_nothing() {
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let mut machine = Machine::boot();
    let file = machine.path("holdfast.toml");
    fs::write(&file, "strict_clients = false\n").unwrap();
    let daemon = machine.daemon("first", &format!("--watchdog none --config {}", file.display()));
    daemon.format(&area);
    assert!(daemon.space().is_none());

    fs::write(&file, format!("lockspaces = [\"{SPACE}:1:{}:0\"]\n", area.path.display())).unwrap();
    daemon.process.signal(Signal::SIGHUP);
    wait_until("the lockspace is joined", AT_MOST, || daemon.space().is_some_and(|s| s["state"] == "active"));
    let guest = Guest::holding(&mut machine, &area, "one", "");

    fs::write(&file, "no_such_key = 1\n").unwrap();
    daemon.process.signal(Signal::SIGHUP);
    daemon.wait_said("the one before stays in force", AT_MOST);
    fs::write(&file, "host_name = \"other\"\nwatchdog_fire_timeout = 30\n").unwrap();
    daemon.process.signal(Signal::SIGHUP);
    daemon.wait_said("was changed: what was in force at the start stays so until a restart", AT_MOST);
    fs::write(&file, "").unwrap();
    daemon.process.signal(Signal::SIGHUP);
    daemon.wait_said("was changed back to what is in force", AT_MOST);
    daemon.wait_renewal();
    assert!(daemon.space().is_some_and(|s| s["state"] == "active") && !guest.process.is_over());
}
