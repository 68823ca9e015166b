//! Watchdogs with ways of their own: one that cannot be stopped, and one that has reset its host.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;

use std::time::Duration;

use harness::{AT_MOST, Area, Machine, boot_now, stays_so_until, wait_until};
use nix::sys::signal::Signal;

/// Of which the device gets 4.
const FIRE: u32 = 10;
const DEVICE: Duration = Duration::from_secs(4);

fn attribute(machine: &Machine, name: &str) -> String {
    std::fs::read_to_string(machine.path("watchdog.attributes").join(name)).unwrap().trim().to_owned()
}

#[test]
fn a_watchdog_that_cannot_be_stopped_resets_no_host_that_leaves_in_good_order_and_goes_on() {
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let mut machine = Machine::boot_with(tempfile::tempdir().unwrap(), &["--nowayout"]);
    let options = machine.watchdog(FIRE);
    let daemon = machine.daemon("first", &options);
    daemon.format(&area);
    daemon.join(&area, 1);
    daemon.leave(&area, 1);
    wait_until("it is said", AT_MOST, || {
        daemon.log().contains("nothing is guarded, but the watchdog cannot be stopped")
    });
    stays_so_until("the host is up with nothing to guard", boot_now().after(DEVICE * 2), || machine.is_up());
    let told = &daemon.status()["watchdog"];
    assert_eq!((&told["armed"], &told["stays_on"]), (&true.into(), &true.into()));

    // Nobody pets it from here on until the next daemon does.
    daemon.process.signal(Signal::SIGTERM);
    daemon.process.wait_over("the daemon, which guards nothing", AT_MOST);
    assert!(daemon.log().contains("THIS HOST WILL BE RESET"), "{}", daemon.log());
    wait_until("the device is closed, with a long timeout", AT_MOST, || machine.watchdog_openers() == 0);
    assert_eq!((attribute(&machine, "state"), attribute(&machine, "timeout")), ("active".into(), "600".into()));

    let next = machine.daemon("first", &options);
    wait_until("the next daemon pets it", AT_MOST, || attribute(&machine, "timeout") == DEVICE.as_secs().to_string());
    stays_so_until("the host is up", boot_now().after(DEVICE * 2), || machine.is_up());
    next.process.signal(Signal::SIGKILL);
    machine.wait_fired(AT_MOST);
}

#[test]
fn a_host_that_its_watchdog_has_reset_says_so_in_its_log_and_its_status() {
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let mut first = Machine::boot();
    let daemon = first.daemon("first", &first.watchdog(FIRE));
    daemon.format(&area);
    daemon.join(&area, 1);
    assert_eq!(daemon.status()["watchdog"]["reset_this_host"], false);
    daemon.process.signal(Signal::SIGKILL);
    first.wait_fired(AT_MOST);

    // What outlasts the reset is what the device tells.
    let directory = tempfile::tempdir().unwrap();
    let (before, after) = (first.path("watchdog.attributes"), directory.path().join("watchdog.attributes"));
    std::fs::create_dir(&after).unwrap();
    std::fs::copy(before.join("state"), after.join("state")).unwrap();
    let mut again = Machine::boot_with(directory, &[]);
    let daemon = again.daemon("first", &again.watchdog(FIRE));
    assert!(daemon.log().contains("THIS HOST WAS RESET BY ITS WATCHDOG"), "{}", daemon.log());
    assert_eq!(daemon.status()["watchdog"]["reset_this_host"], true);
}
