//! A daemon is killed under living clients, and another one takes its place under the same name (P1 b; ARCHITECTURE.md,
//! data flow 6): the successor ends what nobody guards any more, waits for writes still in flight, and only then does
//! anything that other hosts could take for the end of the old term.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;

use std::time::Duration;

use harness::host::IO_TIMEOUT;
use harness::{
    AT_MOST, Area, FreezableDisk, Guest, LATE, Machine, Process, SPACE, boot_now, stays_so_until, wait_until,
};
use holdfast_protocol::command::LockspaceUse;
use holdfast_protocol::text::Name48;
use nix::sys::signal::Signal;

/// Fire timeout 10 s: the device counts 5 s, of which SIGTERM gets 2.
const GRACE: Duration = Duration::from_secs(2);
const FIRE: u32 = 10;
const DEVICE: Duration = Duration::from_secs(5);

/// A host with a lockspace joined as host 1, under its watchdog.
fn first_host(area: &Area) -> (Machine, harness::Daemon) {
    let mut machine = Machine::boot();
    let daemon = machine.daemon("first", &options(&machine));
    daemon.format(area);
    daemon.join(area, 1);
    (machine, daemon)
}

fn options(machine: &Machine) -> String {
    format!("{} -g {}", machine.watchdog(FIRE), GRACE.as_secs())
}

/// Another host, joined as host 2.
fn second_host(area: &Area) -> (Machine, harness::Daemon) {
    let mut machine = Machine::boot();
    let daemon = machine.daemon("second", "--watchdog none");
    daemon.join(area, 2);
    (machine, daemon)
}

#[test]
fn a_lease_changes_hands_only_after_the_client_of_a_killed_daemon_is_seen_gone() {
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let (mut first, daemon) = first_host(&area);
    let (mut second, _other) = second_host(&area);
    let guest = Guest::holding(&mut first, &area, "one", "--ignore-term");
    let beats = second.path("");
    let rival = Guest::start(&mut second, &area, "one", "--keep-trying", &beats);
    rival.wait_said("refused", AT_MOST);

    let generation = area.generation(1);
    daemon.process.signal(Signal::SIGKILL);
    daemon.process.wait_over("the daemon", AT_MOST);
    wait_until("the dead daemon's watchdog is closed", AT_MOST, || first.watchdog_openers() == 0);
    let restarted = boot_now();
    let successor = first.start_daemon("first", &options(&first));
    let gone = loop {
        // Openers first: whoever was there while the guest still ran pets for a client nobody guards.
        let openers = first.watchdog_openers();
        let old_term = area.generation(1) == generation;
        if guest.process.is_over() {
            break boot_now();
        }
        assert_eq!(openers, 0, "the successor opened the watchdog while the client ran");
        assert!(old_term, "the successor raised its generation while the client ran");
    };
    let (term, last_beat) = (guest.said("sigterm").expect("SIGTERM comes first"), guest.last_beat().unwrap());
    assert!(gone >= restarted.after(GRACE), "SIGTERM had its grace");
    assert!(last_beat <= term.after(GRACE + LATE), "SIGKILL followed");
    successor.wait_said("ready", AT_MOST);
    assert!(rival.said("held").is_none(), "the old term is not over on disk yet");

    // P1 (b): proven over, so the successor need not wait itself out, and its new term frees what the old one held.
    let asked = boot_now();
    let joined = successor.join(&area, 1);
    assert!(joined.since(asked) < Duration::from_secs(8), "waited its own predecessor out");
    assert_eq!(area.generation(1), generation + 1);
    assert!(rival.held() > last_beat);
    assert!(first.is_up());
}

#[test]
fn an_heir_of_the_connection_is_found_and_ended_too() {
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let (mut first, daemon) = first_host(&area);
    let (mut second, _other) = second_host(&area);
    let guest = Guest::holding(&mut first, &area, "one", "--heir --ignore-term");
    guest.wait_said("heir", AT_MOST);
    let heir = Process::of(guest.pid_of("heir").unwrap());
    guest.process.wait_over("the client that registered", AT_MOST);
    wait_until("status names the heir", AT_MOST, || {
        let client = &daemon.status()["clients"][0];
        client["inherited"] == true && client["heirs"] == serde_json::json!([heir.pid])
    });
    let beats = second.path("");
    let rival = Guest::start(&mut second, &area, "one", "--keep-trying", &beats);
    rival.wait_said("refused", AT_MOST);

    daemon.process.signal(Signal::SIGKILL);
    daemon.process.wait_over("the daemon", AT_MOST);
    let successor = first.start_daemon("first", &options(&first));
    guest.wait_said("sigterm", AT_MOST);
    heir.wait_over("the heir", GRACE + LATE);
    successor.wait_said("ready", AT_MOST);
    successor.join(&area, 1);
    assert!(rival.held() > guest.last_beat().unwrap());
}

#[test]
fn a_client_that_cannot_be_killed_keeps_the_successor_away_from_the_watchdog_until_it_fires() {
    let stuck_on = FreezableDisk::new();
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let (mut first, daemon) = first_host(&area);
    // Its work goes to a disk that stops to answer: no signal ends it until that is over.
    let guest = Guest::start(&mut first, &area, "one", "", &stuck_on.mount);
    guest.held();
    let (frozen, _) = stuck_on.freeze();
    wait_until("the client hangs", AT_MOST, || guest.process.hangs_in_io());

    let generation = area.generation(1);
    let killed = boot_now();
    daemon.process.signal(Signal::SIGKILL);
    daemon.process.wait_over("the daemon", AT_MOST);
    let closed = boot_now();
    wait_until("the watchdog sees its opener gone", AT_MOST, || first.watchdog_openers() == 0);
    let successor = first.start_daemon("first", &options(&first));
    // The watchdog kills the successor like everything else here; the client cannot even die by that.
    wait_until("the host is reset", DEVICE + LATE, || {
        assert_eq!(first.watchdog_openers(), 0, "the successor opened the watchdog");
        successor.process.is_over()
    });
    assert!(!successor.log().contains("ready"), "{}", successor.log());
    assert_eq!(area.generation(1), generation, "nothing was written over the old term");
    frozen.thaw();
    let fired = first.wait_fired(AT_MOST);
    assert!(
        fired.last_pet <= closed.after(Duration::from_millis(500)),
        "petted after the close: {fired:?}, {closed:?}"
    );
    assert!(fired.at <= killed.after(2 * DEVICE), "{fired:?}, killed at {killed:?}");
}

#[test]
fn a_write_held_back_on_another_device_keeps_the_old_term_on_a_healthy_one() {
    let slow = FreezableDisk::new();
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let mut first = Machine::boot();
    // Without a watchdog: it would end the host while the write is held back, and rightly so.
    let daemon = first.daemon("first", "--watchdog none -g 2");
    daemon.format(&area);
    daemon.format_resources(&slow.area);
    daemon.join(&area, 1);
    let (mut second, _other) = second_host(&area);
    let guest = Guest::holding(&mut first, &area, "one", "");
    let untouched = slow.area.dblock("two", 1);
    let (frozen, _) = slow.freeze();
    let beats = first.path("");
    let asking = Guest::start(&mut first, &slow.area, "two", "", &beats);
    wait_until("the acquire's write is held back", AT_MOST, || daemon.process.hangs_in_io());
    let rival_beats = second.path("");
    let rival = Guest::start(&mut second, &area, "one", "--keep-trying", &rival_beats);
    rival.wait_said("refused", AT_MOST);

    daemon.process.signal(Signal::SIGKILL);
    let old_term = area.delta(1);
    let config = first.path("holdfast.toml");
    let text = format!("lockspaces = [\"{SPACE}:1:{}:0\"]\n", area.path.display());
    std::fs::write(&config, text).unwrap();
    let successor = first.start_daemon("first", &format!("--watchdog none -g 2 --config {}", config.display()));
    guest.process.wait_over("the client", GRACE + LATE);
    asking.process.wait_over("the client that asked", GRACE + LATE);
    stays_so_until("the old term stands", boot_now().after(Duration::from_secs(3)), || {
        area.generation(1) == old_term.record.owner_generation.0 && rival.said("held").is_none()
    });
    assert!(!successor.log().contains("ready"), "{}", successor.log());
    assert!(slow.area.dblock("two", 1) == untouched, "the write is still held back");
    frozen.thaw();
    wait_until("the successor joins", AT_MOST, || {
        let risen = area.generation(1) > old_term.record.owner_generation.0;
        // Read after the generation: it had landed before that rose.
        assert!(
            !risen || slow.area.dblock("two", 1) != untouched,
            "a new term while a write of the old one is in flight"
        );
        risen
    });
    assert!(rival.held() > guest.last_beat().unwrap());
}

#[test]
fn the_successor_writes_nothing_before_a_renewal_that_was_held_back_has_landed() {
    let disk = FreezableDisk::new();
    let mut machine = Machine::boot();
    let daemon = machine.daemon("first", "--watchdog none");
    daemon.format(&disk.area);
    daemon.join(&disk.area, 1);
    daemon.wait_renewal();
    let (frozen, _) = disk.freeze();
    let held_back = disk.area.delta(1);
    wait_until("a renewal is held back", AT_MOST, || daemon.process.hangs_in_io());
    daemon.process.signal(Signal::SIGKILL);
    let config = machine.path("holdfast.toml");
    let text = format!("lockspaces = [\"{SPACE}:1:{}:0\"]\n", disk.area.path.display());
    std::fs::write(&config, text).unwrap();
    let successor = machine.start_daemon("first", &format!("--watchdog none --config {}", config.display()));
    successor.wait_said("a predecessor's write is still in flight", AT_MOST);
    assert!(!daemon.process.is_over() && !successor.process.is_over());
    assert!(disk.area.delta(1) == held_back, "somebody wrote");
    frozen.thaw();

    let (old, mut landed) = (held_back.record.owner_generation.0, false);
    wait_until("the successor is joined and renews", AT_MOST, || {
        let now = disk.area.delta(1);
        match now.record.owner_generation.0 {
            generation if generation == old => {
                assert!(now == held_back || !landed || now.record.timestamp != held_back.record.timestamp);
                landed |= now != held_back;
                false
            }
            generation => {
                assert_eq!(generation, old + 1);
                daemon.process.is_over() && successor.space().is_some_and(|s| s["state"] == "active")
            }
        }
    });
    // Had the old renewal come after the new term, it would stand here, or the next renewal would have found it.
    successor.wait_renewal();
    assert_eq!(disk.area.generation(1), old + 1);
    assert!(landed, "the renewal that was held back has landed, before the successor's first write");
}

#[test]
fn hosts_on_one_device_are_never_held_up_by_each_others_fences() {
    let disk = tempfile::tempdir().unwrap();
    let (area, further) = (Area::file(disk.path(), "leases"), Area::file(disk.path(), "further"));
    let (mut first, daemon) = first_host(&area);
    daemon.format_resources(&further);
    let (mut second, other) = second_host(&area);
    // Both have both devices fenced, each by bytes of its own.
    let guest = Guest::holding(&mut first, &further, "one", "");
    let neighbour = Guest::holding(&mut second, &further, "two", "");

    daemon.process.signal(Signal::SIGKILL);
    daemon.process.wait_over("the daemon", AT_MOST);
    let restarted = boot_now();
    let successor = first.daemon("first", &options(&first));
    let joined = successor.join(&area, 1);
    // Ending the client, 2 x io_timeout to settle, and no wait for anybody: a fence that is held is polled for longer.
    assert!(joined.since(restarted) < Duration::from_secs(u64::from(2 * IO_TIMEOUT)) + LATE);
    assert!(guest.process.is_over());
    assert!(!successor.log().contains("in flight"), "{}", successor.log());
    let again = Guest::holding(&mut first, &further, "one", "");
    assert!(!neighbour.process.is_over() && !again.process.is_over());
    wait_until("they see each other live", AT_MOST, || successor.sees_live(2) && other.sees_live(1));
}

#[test]
fn p1_a_lockspace_in_use_by_what_no_daemon_can_see_is_left_to_the_watchdog() {
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let (mut first, daemon) = first_host(&area);
    daemon.connection().set_config(LockspaceUse::Used, Name48::new(SPACE).unwrap()).unwrap();
    daemon.process.signal(Signal::SIGKILL);
    daemon.process.wait_over("the daemon", AT_MOST);
    let before = area.delta(1);
    let successor = first.start_daemon("first", &options(&first));
    successor.wait_said("something uses it that is no process of ours", AT_MOST);
    successor.wait_said("it is not known whether writes of the daemon before this one are still in flight", AT_MOST);
    first.wait_fired(AT_MOST);
    assert!(area.delta(1) == before, "nothing was written over the old term");
}

#[test]
fn where_a_write_may_still_be_in_flight_the_successor_leaves_the_watchdog_to_fire() {
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let (mut first, daemon) = first_host(&area);
    daemon.process.signal(Signal::SIGKILL);
    daemon.process.wait_over("the daemon", AT_MOST);
    let closed = boot_now();
    // Another node under the old name: whoever locks it learns nothing of what is in flight to the old one.
    std::fs::copy(&area.path, disk.path().join("copy")).unwrap();
    std::fs::rename(disk.path().join("copy"), &area.path).unwrap();
    let before = area.delta(1);
    let successor = first.start_daemon("first", &options(&first));
    successor.wait_said("another node now than the one that was fenced", AT_MOST);
    successor.wait_said("it is not known whether writes of the daemon before this one are still in flight", AT_MOST);
    let fired = first.wait_fired(AT_MOST);
    assert!(
        fired.last_pet <= closed.after(Duration::from_millis(500)),
        "petted after the close: {fired:?}, {closed:?}"
    );
    assert!(area.delta(1) == before, "nothing was written over the old term");
}
