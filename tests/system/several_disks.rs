//! A lease on three disks, with real processes: a disk that is gone, one whose writes hang, and one that comes back with what it
//! had before.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use harness::host::RENEWAL_FAIL;
use harness::{AT_MOST, Area, Daemon, FreezableDisk, Machine, SPACE, boot_now, lease_on, stays_so_until, wait_until};
use holdfast_client::blocking::Registered;
use holdfast_protocol::command::{AcquireFlags, ReleaseFlags, WriteResourceFlags};
use holdfast_protocol::payload::{Options, Resource};

fn takes(client: &mut Registered, lease: &Resource) -> bool {
    client.acquire(AcquireFlags::NONE, vec![lease.clone()], Options::default()).is_ok()
}

/// Formats a lease on all of these without a daemon, as `sanlock direct init` is asked to.
fn formats_offline(areas: &[&Area], resource: &str) {
    let place = |area: &&Area| format!(":{}:{}", area.path.display(), Area::offset_of(resource));
    let lease = format!("{SPACE}:{resource}{}", areas.iter().map(place).collect::<String>());
    let sanlock =
        Command::new(env!("CARGO_BIN_EXE_holdfast")).arg0("sanlock").args(["direct", "init", "-r", &lease]).output();
    assert_eq!(String::from_utf8(sanlock.unwrap().stdout).unwrap(), "init done 0\n");
}

fn gives_back(client: &mut Registered, lease: &Resource) {
    client.release(ReleaseFlags::NONE, vec![lease.head.clone()]).unwrap();
}

fn lver(daemon: &Daemon) -> u64 {
    let status = daemon.status();
    let leases = status["leases"].as_array().unwrap();
    assert_eq!(leases.len(), 1, "{leases:?}");
    leases[0]["lver"].as_u64().unwrap()
}

/// What each of the disks is to the one lease that is held.
fn copies(daemon: &Daemon) -> Vec<String> {
    let status = daemon.status();
    let copies = status["leases"][0]["copies"].as_array().unwrap();
    copies.iter().map(|copy| copy["state"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_lease_on_three_disks_lives_through_the_loss_of_any_one_and_is_lost_with_two() {
    let directory = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| Area::file(directory.path(), name));
    let frozen = FreezableDisk::new();
    let lease = lease_on(&[&a, &b, &frozen.area], "one");
    let (mut here, mut there) = (Machine::boot(), Machine::boot());
    let (first, second) = (here.daemon("first", "--watchdog none"), there.daemon("second", "--watchdog none"));
    first.format(&a);
    formats_offline(&[&a, &b, &frozen.area], "one");
    first.join(&a, 1);
    second.join(&a, 2);
    let [mut one, mut two] = [&first, &second].map(|daemon| daemon.connection().register().unwrap());

    assert!(takes(&mut one, &lease));
    assert!(!takes(&mut two, &lease), "it is held");
    assert_eq!(lver(&first), 1);
    assert_eq!(copies(&first), ["member", "member", "member"]);

    // Its writes to the third hang; it is given back all the same, and taken, and given back.
    let (freeze, _) = frozen.freeze();
    gives_back(&mut one, &lease);
    assert!(takes(&mut two, &lease));
    assert_eq!(lver(&second), 2);
    assert!(!takes(&mut one, &lease), "it is held, whatever the third disk says");

    // With another one gone as well nobody is granted anything.
    let hidden = directory.path().join("hidden");
    std::fs::rename(&b.path, &hidden).unwrap();
    assert!(!takes(&mut one, &lease));
    std::fs::rename(&hidden, &b.path).unwrap();

    // The third is back, and what hung lands there; of version 2 it knows nothing. The second of them is away now.
    freeze.thaw();
    gives_back(&mut two, &lease);
    wait_until("what was held back has landed", AT_MOST, || frozen.area.dblock("one", 1).bytes[52] == 1);
    std::fs::rename(&b.path, &hidden).unwrap();
    assert!(takes(&mut one, &lease));
    assert_eq!(lver(&first), 3);
    assert_eq!(copies(&first), ["member", "unknown", "member"]);
    gives_back(&mut one, &lease);
    std::fs::rename(&hidden, &b.path).unwrap();

    // And that one has missed a version. With it and each of the others the next is found.
    assert!(takes(&mut two, &lease));
    assert_eq!(lver(&second), 4);
}

/// What one host sets another finds, though a disk hangs under the one and another is away from the other; and what hung lands on nothing.
#[test]
fn a_value_on_three_disks_is_handed_on_with_any_one_of_them_lost() {
    let directory = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| Area::file(directory.path(), name));
    let frozen = FreezableDisk::new();
    let lease = lease_on(&[&a, &b, &frozen.area], "one");
    let (mut here, mut there) = (Machine::boot(), Machine::boot());
    let (first, second) = (here.daemon("first", "--watchdog none"), there.daemon("second", "--watchdog none"));
    first.format(&a);
    first.connection().write_resource(WriteResourceFlags::NONE, 0, lease.clone()).unwrap();
    first.join(&a, 1);
    second.join(&a, 2);
    let [mut one, mut two] = [&first, &second].map(|daemon| daemon.connection().register().unwrap());
    let takes = |client: &mut Registered| client.acquire(AcquireFlags::LVB, vec![lease.clone()], Options::default());
    let value = |daemon: &Daemon| {
        let value = daemon.connection().get_lvb(lease.head.clone(), 0).unwrap();
        String::from_utf8(value).unwrap().trim_end_matches('\0').to_owned()
    };
    let sets = |daemon: &Daemon, value: &str| {
        daemon.connection().set_lvb(lease.head.clone(), value.as_bytes().to_vec()).unwrap();
    };

    takes(&mut one).unwrap();
    assert_eq!(value(&first), "");
    sets(&first, "from the first");
    let (freeze, _) = frozen.freeze();
    gives_back(&mut one, &lease);
    takes(&mut two).unwrap();
    assert_eq!(value(&second), "from the first");
    sets(&second, "from the second");
    gives_back(&mut two, &lease);

    freeze.thaw();
    let says_where_to = || frozen.area.dblock("one", 1).bytes[72] != 0;
    wait_until("what hung has landed", AT_MOST, says_where_to);
    let hidden = directory.path().join("hidden");
    std::fs::rename(&b.path, &hidden).unwrap();
    takes(&mut one).unwrap();
    assert_eq!(value(&first), "from the second");
    gives_back(&mut one, &lease);
    std::fs::rename(&hidden, &b.path).unwrap();
    takes(&mut two).unwrap();
    assert_eq!(value(&second), "from the second", "nobody has set another");
}

/// Its last write to one of three disks hangs, so the host_id cannot be given back; it is held and renewed all the same, and the host lives.
#[test]
fn a_lockspace_that_waits_for_a_disk_that_hangs_before_it_is_left_does_not_cost_the_host_its_life() {
    let directory = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| Area::file(directory.path(), name));
    let frozen = FreezableDisk::new();
    let lease = lease_on(&[&a, &b, &frozen.area], "one");
    let mut machine = Machine::boot();
    let options = machine.watchdog(10);
    let daemon = machine.daemon("first", &options);
    daemon.format(&a);
    daemon.connection().write_resource(WriteResourceFlags::NONE, 0, lease.clone()).unwrap();
    daemon.join(&a, 1);
    let mut client = daemon.connection().register().unwrap();
    assert!(takes(&mut client, &lease));
    let (freeze, _) = frozen.freeze();
    gives_back(&mut client, &lease);
    wait_until("a write hangs", AT_MOST, || daemon.process.hangs_in_io());

    daemon.leave_soon(&a, 1);
    // D2, and as long as the watchdog would have waited after that.
    let until = boot_now().after(RENEWAL_FAIL + Duration::from_secs(12));
    stays_so_until("the host is up, and its host_id held", until, || machine.is_up() && daemon.space().is_some());
    freeze.thaw();
    wait_until("it is left", AT_MOST, || daemon.space().is_none());
}

/// The third disk is away when the lease is taken and back before the second is lost: the lease is given back, and had by another host.
#[test]
fn a_disk_that_was_away_when_a_lease_was_taken_makes_up_for_one_that_is_lost_later() {
    let directory = tempfile::tempdir().unwrap();
    let [a, c] = ["a", "c"].map(|name| Area::file(directory.path(), name));
    let lost_later = FreezableDisk::new();
    let lease = lease_on(&[&a, &lost_later.area, &c], "one");
    let (mut here, mut there) = (Machine::boot(), Machine::boot());
    let (first, second) = (here.daemon("first", "--watchdog none"), there.daemon("second", "--watchdog none"));
    first.format(&a);
    first.connection().write_resource(WriteResourceFlags::NONE, 0, lease.clone()).unwrap();
    first.join(&a, 1);
    second.join(&a, 2);
    let [mut one, mut two] = [&first, &second].map(|daemon| daemon.connection().register().unwrap());
    let hidden = directory.path().join("hidden");
    std::fs::rename(&c.path, &hidden).unwrap();
    assert!(takes(&mut one, &lease));
    assert_eq!(copies(&first), ["member", "member", "unknown"]);
    std::fs::rename(&hidden, &c.path).unwrap();
    wait_until("it is used", AT_MOST, || copies(&first) == ["member", "member", "member"]);
    wait_until("it has what it missed", AT_MOST, || c.dblock("one", 1).bytes[..] == a.dblock("one", 1).bytes[..]);

    let (freeze, _) = lost_later.freeze();
    let begun = boot_now();
    gives_back(&mut one, &lease);
    assert!(takes(&mut two, &lease));
    assert!(boot_now().since(begun) < Duration::from_secs(8), "nobody waits for the one that is lost");
    assert_eq!(lver(&second), 2);
    gives_back(&mut two, &lease);
    freeze.thaw();
}

#[test]
fn a_part_of_the_disks_of_a_lease_is_not_taken_for_all_of_them() {
    let directory = tempfile::tempdir().unwrap();
    let areas = ["a", "b", "c"].map(|name| Area::file(directory.path(), name));
    let [a, b, c] = &areas;
    let mut machine = Machine::boot();
    let daemon = machine.daemon("first", "--watchdog none");
    daemon.format(a);
    let lease = lease_on(&[a, b, c], "one");
    daemon.connection().write_resource(WriteResourceFlags::NONE, 0, lease.clone()).unwrap();
    daemon.join(a, 1);
    let mut client = daemon.connection().register().unwrap();
    for part in [&[a][..], &[c], &[a, b], &[b, c], &[a, b, b]] {
        assert!(!takes(&mut client, &lease_on(part, "one")), "{} of its disks", part.len());
    }
    // In whatever order they are named.
    assert!(takes(&mut client, &lease_on(&[c, a, b], "one")));
    gives_back(&mut client, &lease);
}
