//! Clients that write through io_uring: they can be gone, every process of them, while a write of theirs is in flight. The write
//! counts (S1): until it is over their lease stays, a lost lockspace is not left, and a successor of the daemon does not join.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;

use std::fs;
use std::time::Duration;

use harness::{
    AT_MOST, Area, Daemon, FreezableDisk, Frozen, Guest, Machine, Process, boot_now, stays_so_until, wait_until,
};
use nix::sys::signal::Signal;

const FIRE: u32 = 20;
const GRACE: u32 = 3;
/// For so long the daemon waits for the devices of a client that gives back a lease.
const DRAIN: Duration = Duration::from_secs(10);
const WAITS: &str = "gives back a lease: what its devices have in flight is waited for";
const NEVER_IDLE: &str = "it gives back a lease, and is taken at its word";
/// One step of a watchdog's counter.
const TICK: Duration = Duration::from_secs(1);

const fn seconds(n: u32) -> Duration {
    Duration::from_secs(n as u64)
}

fn options(machine: &Machine) -> String {
    format!("{} -g {GRACE}", machine.watchdog(FIRE))
}

fn first_host(area: &Area) -> (Machine, Daemon) {
    let mut machine = Machine::boot();
    let daemon = machine.daemon("first", &options(&machine));
    daemon.format(area);
    daemon.join(area, 1);
    (machine, daemon)
}

/// How many open files bear the mark of this process: bit 62, then its start time, then its pid in 22 bits and three of other use.
fn marks(pid: i32) -> usize {
    let starts = |line: &str| line.contains("OFDLCK").then(|| line.split_whitespace().nth(6)?.parse::<u64>().ok())?;
    let its = |start: &u64| start >> 62 == 1 && start >> 3 & ((1 << 22) - 1) == u64::try_from(pid).unwrap();
    fs::read_to_string("/proc/locks").unwrap().lines().filter_map(starts).filter(its).count()
}

fn holds_its_lease(daemon: &Daemon) -> bool {
    daemon.status()["leases"].as_array().is_some_and(|leases| leases.len() == 1)
}

/// A guest that holds a lease, and whose write to a disk of its own is in flight until the disk is thawed.
fn writes_for_long<'a>(
    machine: &mut Machine,
    area: &Area,
    writes_to: &'a FreezableDisk,
    options: &str,
) -> (Guest, Frozen<'a>) {
    let ring = format!("--ring {} {options}", writes_to.area.path.display());
    let guest = Guest::holding(machine, area, "one", &ring);
    if options != "--lock" {
        wait_until("its device is marked", AT_MOST, || marks(guest.process_id()) > 0);
        assert_eq!(marks(guest.process_id()), 1, "the files that it writes to besides are no disks");
    }
    let (frozen, _) = writes_to.freeze();
    guest.wait_said("hangs", AT_MOST);
    (guest, frozen)
}

#[test]
fn s1_a_lease_stays_until_the_last_write_of_its_dead_clients_ring_has_landed() {
    let (directory, writes_to) = (tempfile::tempdir().unwrap(), FreezableDisk::new());
    let area = Area::file(directory.path(), "leases");
    let (mut first, daemon) = first_host(&area);
    let mut second = Machine::boot();
    let other = second.daemon("second", "--watchdog none");
    other.join(&area, 2);
    let (guest, frozen) = writes_for_long(&mut first, &area, &writes_to, "");
    let beats = second.path("");
    let rival = Guest::start(&mut second, &area, "one", "--keep-trying", &beats);
    rival.wait_said("refused", AT_MOST);

    guest.process.signal(Signal::SIGKILL);
    guest.process.wait_over("the client", AT_MOST);
    wait_until("it waits for its writes", AT_MOST, || daemon.status()["clients"][0]["writes_in_flight"] == true);
    stays_so_until("its lease is its own", boot_now().after(seconds(3)), || rival.said("held").is_none());
    daemon.wait_said("what it queued in io_uring is in flight still", AT_MOST);
    frozen.thaw();
    rival.held();
    let landed = fs::read(&writes_to.area.backing).unwrap()[..20].to_vec();
    assert_eq!(String::from_utf8(landed).unwrap(), guest.last_word(), "its last write landed before that");
    assert_eq!(marks(guest.process_id()), 0);
}

#[test]
fn s1_what_an_heir_of_a_clients_connection_has_in_its_ring_counts_like_the_clients_own() {
    let (directory, writes_to) = (tempfile::tempdir().unwrap(), FreezableDisk::new());
    let area = Area::file(directory.path(), "leases");
    let (mut machine, daemon) = first_host(&area);
    let (guest, frozen) = writes_for_long(&mut machine, &area, &writes_to, "--heir");
    assert!(guest.process.is_over(), "an heir writes, and the lease is its parent's");
    let heir = Process::of(guest.pid_of("heir").unwrap());
    heir.signal(Signal::SIGKILL);
    heir.wait_over("the heir", AT_MOST);
    stays_so_until("the lease is held", boot_now().after(seconds(3)), || holds_its_lease(&daemon));
    frozen.thaw();
    wait_until("it is given back", AT_MOST, || !holds_its_lease(&daemon));
}

/// A heuristic: what the device has in flight.
#[test]
fn s1_where_a_client_has_locked_its_device_the_writes_in_flight_there_are_waited_for() {
    let (directory, writes_to) = (tempfile::tempdir().unwrap(), FreezableDisk::new());
    let area = Area::file(directory.path(), "leases");
    let (mut machine, daemon) = first_host(&area);
    let (guest, frozen) = writes_for_long(&mut machine, &area, &writes_to, "--lock");
    daemon.wait_said("cannot be marked, and only its device is looked at", AT_MOST);
    assert_eq!(marks(guest.process_id()), 0);
    guest.process.signal(Signal::SIGKILL);
    guest.process.wait_over("the client", AT_MOST);
    stays_so_until("the lease is held", boot_now().after(seconds(3)), || holds_its_lease(&daemon));
    frozen.thaw();
    wait_until("it is given back", AT_MOST, || !holds_its_lease(&daemon));
    assert!(!daemon.log().contains("are never idle"), "{}", daemon.log());
}

/// A heuristic: what the device has in flight.
#[test]
fn s1_what_a_living_client_has_in_its_ring_lands_before_its_lease_is_given_back() {
    let (directory, writes_to) = (tempfile::tempdir().unwrap(), FreezableDisk::new());
    let area = Area::file(directory.path(), "leases");
    let (mut machine, daemon) = first_host(&area);
    let (guest, frozen) = writes_for_long(&mut machine, &area, &writes_to, "--release");
    daemon.wait_said(WAITS, AT_MOST);
    stays_so_until("the lease is held", boot_now().after(seconds(3)), || {
        holds_its_lease(&daemon) && guest.said("released").is_none()
    });
    frozen.thaw();
    guest.wait_said("released", AT_MOST);
    assert!(!holds_its_lease(&daemon));
    let landed = fs::read(&writes_to.area.backing).unwrap()[..20].to_vec();
    assert_eq!(String::from_utf8(landed).unwrap(), guest.last_word(), "its last write landed before that");
    assert!(!daemon.log().contains(NEVER_IDLE), "{}", daemon.log());
}

#[test]
fn a_living_client_whose_device_is_never_idle_gives_its_lease_back_after_a_bounded_time_and_the_log_says_so() {
    let (directory, writes_to) = (tempfile::tempdir().unwrap(), FreezableDisk::new());
    let area = Area::file(directory.path(), "leases");
    let (mut machine, daemon) = first_host(&area);
    let (guest, frozen) = writes_for_long(&mut machine, &area, &writes_to, "--release");
    let (asked, answered) = (guest.said("hangs").unwrap(), guest.wait_said("released", AT_MOST));
    let waited = answered.since(asked);
    assert!(waited >= DRAIN && waited < DRAIN * 2, "{waited:?}");
    daemon.wait_said(NEVER_IDLE, AT_MOST);
    assert!(!holds_its_lease(&daemon));
    frozen.thaw();
}

#[test]
fn d2_a_host_whose_dead_client_has_a_write_of_its_ring_in_flight_is_reset() {
    let (disk, writes_to) = (FreezableDisk::new(), FreezableDisk::new());
    let (mut machine, daemon) = first_host(&disk.area);
    let (guest, frozen) = writes_for_long(&mut machine, &disk.area, &writes_to, "");
    let (lost, _) = disk.freeze();
    let (earliest, latest) = daemon.fails_at_once_blocked();
    guest.process.wait_over("the client, which the ladder ends", AT_MOST);
    stays_so_until("the lockspace is not left", latest.after(seconds(GRACE + 2)), || {
        daemon.space().is_some_and(|s| s["state"] == "failing")
    });
    // The daemon's writing threads cannot die before their write is over; its main one can.
    wait_until("the host is reset", AT_MOST, || daemon.process.is_dead());
    assert_eq!(marks(guest.process_id()), 1, "and the write is in flight still");
    lost.thaw();
    frozen.thaw();
    let fired = machine.wait_fired(AT_MOST);
    assert!(fired.at >= earliest, "{fired:?} before D2's instant {earliest:?}");
    assert!(fired.at <= latest.after(seconds(FIRE) + TICK), "{fired:?}, D2's instant was {latest:?}");
}

#[test]
fn p1_a_successor_waits_for_the_ring_of_its_predecessors_dead_client() {
    let (directory, writes_to) = (tempfile::tempdir().unwrap(), FreezableDisk::new());
    let area = Area::file(directory.path(), "leases");
    let (mut machine, daemon) = first_host(&area);
    let (guest, frozen) = writes_for_long(&mut machine, &area, &writes_to, "");
    let generation = area.generation(1);
    daemon.process.signal(Signal::SIGKILL);
    daemon.process.wait_over("the daemon", AT_MOST);
    guest.process.signal(Signal::SIGKILL);
    guest.process.wait_over("the client", AT_MOST);
    let successor = machine.start_daemon("first", &options(&machine));
    successor.wait_said("ending what a predecessor guarded", AT_MOST);
    stays_so_until("it waits", boot_now().after(seconds(3)), || area.generation(1) == generation && machine.is_up());
    frozen.thaw();
    wait_until("it serves", AT_MOST, || successor.answers());
    successor.join(&area, 1);
    assert_eq!(area.generation(1), generation + 1);
    assert!(machine.is_up());
}
