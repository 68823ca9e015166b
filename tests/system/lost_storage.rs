//! Renewals that do not get through any more: what is guarded is ended by the computed schedule, SIGTERM before SIGKILL;
//! where that does not help, or nobody is left to do it, the watchdog resets the host within the sealed fire timeout of
//! D2's instant (D2, D3, W1; ARCHITECTURE.md, data flow 3). Nothing may come early, not by a millisecond.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;

use std::time::Duration;

use harness::{
    AT_MOST, Area, Daemon, FreezableDisk, Guest, LATE, LocalInstant, Machine, boot_now, stays_so_until, wait_until,
};
use nix::sys::signal::Signal;

/// One step of a watchdog's counter.
const TICK: Duration = Duration::from_secs(1);

const fn seconds(n: u32) -> Duration {
    Duration::from_secs(n as u64)
}

/// A host with a lockspace joined as host 1, under its watchdog.
fn host(area: &Area, fire_timeout: u32, grace: u32) -> (Machine, Daemon) {
    let mut machine = Machine::boot();
    let options = format!("{} -g {grace}", machine.watchdog(fire_timeout));
    let daemon = machine.daemon("first", &options);
    daemon.format(area);
    daemon.join(area, 1);
    (machine, daemon)
}

/// A client whose work hangs in the kernel from now on: no signal ends it.
fn unkillable<'a>(machine: &mut Machine, area: &Area, stuck_on: &'a FreezableDisk) -> (Guest, harness::Frozen<'a>) {
    let guest = Guest::start(machine, area, "one", "", &stuck_on.mount);
    guest.held();
    let (frozen, _) = stuck_on.freeze();
    wait_until("the client hangs", AT_MOST, || guest.process.hangs_in_io());
    (guest, frozen)
}

/// Stops the daemon between two renewals; D2's instant at the latest.
fn freeze_daemon(daemon: &Daemon, area: &Area) -> LocalInstant {
    daemon.wait_renewal();
    let before = area.delta(1);
    let (_, latest) = daemon.fails_at();
    daemon.process.signal(Signal::SIGSTOP);
    assert!(area.delta(1) == before, "it renewed once more while it was being stopped: this machine is too slow");
    latest
}

#[test]
fn what_is_guarded_ends_by_the_schedule_with_sigterm_before_sigkill() {
    const GRACE: u32 = 3;
    let disk = FreezableDisk::new();
    let (mut machine, daemon) = host(&disk.area, 20, GRACE);
    let guest = Guest::holding(&mut machine, &disk.area, "one", "--ignore-term");
    let (frozen, _) = disk.freeze();
    let (earliest, latest) = daemon.fails_at_once_blocked();
    daemon.wait_said("half of the renewal budget is used up", AT_MOST);
    assert!(boot_now() < earliest, "said only when it was too late to do anything about it");

    let term = guest.wait_said("sigterm", AT_MOST);
    let gone = guest.process.wait_over("the client", AT_MOST);
    let last_beat = guest.last_beat().unwrap();
    assert!(term >= earliest, "SIGTERM at {term:?}, before D2's instant {earliest:?}");
    assert!(term <= latest.after(LATE), "SIGTERM at {term:?}, D2's instant was {latest:?}");
    assert!(gone >= earliest.after(seconds(GRACE)), "SIGKILL at {gone:?}, in the grace after {earliest:?}");
    assert!(last_beat >= term && last_beat <= latest.after(seconds(GRACE) + LATE), "{last_beat:?}");

    // Nothing guarded is left, and a renewal that lands late frees nothing: the host need not be reset for it.
    wait_until("the lockspace is only waiting for its last write", AT_MOST, || {
        daemon.space().is_some_and(|s| s["state"] == "leaving")
    });
    let generation = disk.area.generation(1);
    stays_so_until("the host is up", latest.after(seconds(20) + TICK), || machine.is_up());
    frozen.thaw();
    wait_until("the lockspace is left", AT_MOST, || daemon.space().is_none());
    assert_eq!(disk.area.generation(1), generation);
    assert_ne!(disk.area.delta(1).record.timestamp.0, 0, "a lost lease is left without a write (D2)");
    daemon.join(&disk.area, 1);
    assert_eq!(disk.area.generation(1), generation + 1);
}

#[test]
fn a_client_that_cannot_be_killed_is_reset_with_its_host_in_time() {
    const FIRE: u32 = 10;
    let disk = FreezableDisk::new();
    let (mut machine, daemon) = host(&disk.area, FIRE, 2);
    let (guest, frozen) = unkillable(&mut machine, &disk.area, &disk);
    let (earliest, latest) = daemon.fails_at_once_blocked();
    // Neither the client nor the daemon's writing threads can even die with their host; the daemon's main one can.
    wait_until("the host is reset", AT_MOST, || daemon.process.is_dead());
    assert!(!guest.process.is_over());
    frozen.thaw();
    let fired = machine.wait_fired(AT_MOST);
    assert!(fired.at >= earliest, "{fired:?} before D2's instant {earliest:?}");
    // W1: a pet whose instant has passed when it is over is followed by the shortest timeout, which counts anew.
    let at_once = fired.at.since(fired.last_pet) <= Duration::from_millis(1500);
    assert!(fired.last_pet <= latest || at_once, "{fired:?}: petted past D2's instant {latest:?}");
    assert!(fired.at <= latest.after(seconds(FIRE) + TICK), "{fired:?}, D2's instant was {latest:?}");
}

#[test]
fn a_daemon_that_wakes_up_past_the_deadline_never_pets_again() {
    const FIRE: u32 = 30;
    let stuck_on = FreezableDisk::new();
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let (mut machine, daemon) = host(&area, FIRE, 2);
    let (guest, frozen) = unkillable(&mut machine, &area, &stuck_on);
    let latest = freeze_daemon(&daemon, &area);
    wait_until("D2's instant is past", AT_MOST, || boot_now() > latest.after(Duration::from_millis(200)));
    assert!(machine.is_up(), "the device counts longer than that");
    daemon.process.signal(Signal::SIGCONT);
    daemon.process.wait_over("the host", AT_MOST);
    assert!(!guest.process.is_over());
    frozen.thaw();
    let fired = machine.wait_fired(AT_MOST);
    assert!(fired.last_pet <= latest, "{fired:?}: petted past D2's instant {latest:?}");
    assert!(fired.at <= latest.after(seconds(FIRE) + TICK), "{fired:?}, D2's instant was {latest:?}");
}

#[test]
fn a_daemon_frozen_past_the_deadline_and_then_killed_leaves_the_host_to_be_reset_in_time() {
    const FIRE: u32 = 30;
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let (mut machine, daemon) = host(&area, FIRE, 2);
    let guest = Guest::holding(&mut machine, &area, "one", "");
    let latest = freeze_daemon(&daemon, &area);
    wait_until("D2's instant is past", AT_MOST, || boot_now() > latest.after(Duration::from_millis(200)));
    assert!(machine.is_up(), "the device counts longer than that");
    let killed = boot_now();
    // Its death closes the device, which pets it: the reason for which the device counts half of what is sealed.
    daemon.process.signal(Signal::SIGKILL);
    let fired = machine.wait_fired(AT_MOST);
    assert!(fired.last_pet >= killed, "{fired:?}: the close at {killed:?} pets");
    assert!(fired.at <= latest.after(seconds(FIRE) + TICK), "{fired:?}, D2's instant was {latest:?}");
    assert!(guest.process.is_over());
    assert!(guest.last_beat().unwrap() <= fired.at.after(TICK));
}

#[test]
fn a_daemon_frozen_between_check_and_pet_resets_the_host_at_once() {
    // W1. The device hangs, so the daemon stays in its pet; there it is frozen until its deadline is past. Then the pet
    // gets through: a whole timeout more for a host that must already be dying, had the daemon not looked at the clock.
    const FIRE: u32 = 60;
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let (mut machine, daemon) = host(&area, FIRE, 2);
    let device = Duration::from_secs(daemon.status()["watchdog"]["device_timeout_s"].as_u64().unwrap());
    machine.signal_watchdog(Signal::SIGSTOP);
    wait_until("a pet", device / 4 + LATE, || daemon.process.waits_for_an_answer());
    daemon.process.signal(Signal::SIGSTOP);
    let frozen = boot_now();
    let past = frozen.after(harness::host::RENEWAL_FAIL);
    wait_until("D2's instant is past", AT_MOST, || boot_now() > past);
    machine.signal_watchdog(Signal::SIGCONT);
    daemon.process.signal(Signal::SIGCONT);
    let resumed = boot_now();
    let fired = machine.wait_fired(AT_MOST);
    assert!(fired.last_pet >= past, "{fired:?}: the pet got through, after {past:?}");
    assert!(fired.at <= resumed.after(TICK + LATE), "{fired:?}: not at once after {resumed:?}");
}
