//! A thousand connections that say nothing, or nonsense, or ask all the time, or do not read, and a log that nobody reads: no renewal is
//! late, and every request of a client is answered.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd as _;

use harness::{AT_MOST, Area, Crowd, Daemon, Guest, Inquirers, Machine, Process, wait_until};
use holdfast_client::protocol::{Disk, DiskPath, Name48, Resource, ResourceHead};
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// No renewal has failed, and the next one is not far.
fn renews(daemon: &Daemon) {
    daemon.wait_renewal();
    assert!(daemon.space().is_some_and(|s| s["state"] == "active" && s["failed_renewals"] == 0));
}

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
    renews(&daemon);
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

#[test]
fn a_log_that_nobody_reads_holds_up_no_renewal_and_no_request() {
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let mut machine = Machine::boot();
    let path = machine.path("stderr");
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    // Open at both ends: nobody waits for the other to open it, and what is written stays in it.
    let mut pipe = File::options().read(true).write(true).open(&path).unwrap();
    fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    let into_it = |command: String| format!("sh -c 'exec {command} 2>{}'", path.display());
    let daemon = machine.start_daemon_by("first", "--watchdog none", into_it);
    wait_until("it takes connections", AT_MOST, || daemon.run_dir.join("sanlock.sock").exists() && daemon.answers());
    daemon.format(&area);
    daemon.join(&area, 1);

    let mut asking = daemon.connection();
    let nowhere = Disk::new(DiskPath::new("/nowhere").unwrap(), 0);
    let head = ResourceHead::named(Name48::new("LS").unwrap(), Name48::new("r").unwrap());
    for _ in 0..10_000 {
        asking.read_resource(Resource::new(head.clone(), vec![nowhere.clone()])).unwrap_err();
    }
    let mut client = daemon.connection().register().unwrap();
    for _ in 0..100 {
        daemon.take_and_give_back(&mut client, &area, "one");
    }
    renews(&daemon);

    // Once it is read, everything is there that clients cannot cause at will, and of the rest how much there was.
    let mut log = String::new();
    while log.matches("more like this").count() == 0 || log.matches(": released lease=").count() < 100 {
        let ready = poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], PollTimeout::from(60_000_u16)).unwrap();
        assert!(ready > 0, "nothing more is logged:\n{log}");
        let mut bytes = [0; 4096];
        let read = pipe.read(&mut bytes).unwrap();
        log.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    let lines = |words: &str| log.lines().filter(|line| line.contains(words) && !line.contains("like=")).count();
    assert_eq!(lines(": acquired lease="), 100, "{log}");
    assert!((50..2000).contains(&lines(": refused")), "{log}");
    assert!(log.contains("like=\"refused\""), "{log}");
}
