//! An operator's word that a host is dead: taken for the record that was shown and for no other, and for nothing once that host
//! writes again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::process::{Command, Output};
use std::time::Duration;

use harness::host::IO_TIMEOUT;
use harness::{AT_MOST, Area, Daemon, Guest, Machine, boot_now, lease_on, wait_until};
use holdfast_io::ids::HostId;
use holdfast_io::leader::Decoded;
use holdfast_io::timing::{FireTimeout, IoTimeout, Timing};
use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::command::AcquireFlags;
use holdfast_protocol::payload::Options;
use nix::sys::signal::Signal;
use paxos_lease::dblock::HostSector;
use paxos_lease::layout::dblock_of;
use serde_json::Value;

/// The command line, as the daemon's host would use it.
fn confirm(daemon: &Daemon, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.args(["confirm-dead", "SYSTEM"]).args(words).env("SANLOCK_RUN_DIR", &daemon.run_dir);
    command.stdin(std::process::Stdio::null()).output().unwrap()
}

/// Refused with these words, and nothing has become of it.
fn refused(daemon: &Daemon, words: &[&str], why: &str) {
    let said = confirm(daemon, words);
    let error = String::from_utf8_lossy(&said.stderr);
    assert_eq!(said.status.code(), Some(1), "{error}");
    assert!(error.contains(why), "expected {why:?}, found {error:?}");
    assert!(error.contains("nothing was changed"), "{error}");
    assert_eq!(host(daemon, 2)["confirmed_dead"], false);
}

fn host(daemon: &Daemon, host_id: u64) -> Value {
    let status = daemon.status();
    let hosts = status["hosts"]["SYSTEM"].as_array().unwrap();
    hosts.iter().find(|host| host["host_id"] == host_id).expect("a host with this id").clone()
}

/// Its daemon takes it for a machine of its own, by another /etc/machine-id.
fn daemon_elsewhere(machine: &mut Machine, name: &str) -> Daemon {
    let id = machine.path("machine-id");
    std::fs::write(&id, "00000000000000000000000000000002\n").unwrap();
    let run = format!(
        "unshare -m sh -c 'mount --bind {} /etc/machine-id && exec {} daemon -l 0 -e {name} -o {IO_TIMEOUT} --watchdog none'",
        id.display(),
        env!("CARGO_BIN_EXE_holdfast"),
    );
    let process = machine.start("elsewhere", &run);
    let daemon = Daemon::other(process, machine.path("run"), machine.path("elsewhere.log"));
    daemon.wait_said("ready", AT_MOST);
    daemon
}

fn silent(daemon: &Daemon) {
    // Shown as the last renewal's age: a host without power misses the next one after this long.
    let missed = Duration::from_secs(u64::from(3 * IO_TIMEOUT) + 2);
    wait_until("a renewal is missed", AT_MOST, || {
        let ago = host(daemon, 2)["last_renewal_seen_ms_ago"].as_u64().unwrap();
        Duration::from_millis(ago) > missed
    });
}

/// D1's silence for hosts without a watchdog.
fn silence() -> Duration {
    Timing::new(IoTimeout::new(u64::from(IO_TIMEOUT)).unwrap(), FireTimeout::SANLOCK).silence_for_takeover()
}

#[test]
fn what_a_host_without_power_held_can_be_taken_on_an_operators_word_and_not_before() {
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let (mut living, mut dying) = (Machine::boot(), Machine::boot());
    let daemon = living.daemon("living", "--watchdog none");
    daemon.format(&area);
    daemon.join(&area, 1);
    let elsewhere = daemon_elsewhere(&mut dying, "dying");
    elsewhere.join(&area, 2);
    let guest = Guest::holding(&mut dying, &area, "one", "");
    wait_until("it is seen", AT_MOST, || daemon.sees_live(2));
    // It renews all the while, also between the look at it and the word.
    wait_until("its last renewal is too fresh", AT_MOST, || {
        let said = confirm(&daemon, &["2", "--typed", "dying 1"]);
        assert_eq!(said.status.code(), Some(1));
        String::from_utf8_lossy(&said.stderr).contains("its last renewal is too fresh")
    });
    drop(dying);
    let off = boot_now();
    assert!(guest.process.is_dead());

    silent(&daemon);
    refused(&daemon, &["2"], "standard input is no terminal");
    refused(&daemon, &["2", "--typed", "dying"], "the words to type are \"dying 1\"");
    refused(&daemon, &["2", "--typed", "living 1"], "the words to type are \"dying 1\"");
    refused(&daemon, &["2", "--typed", "dying 1", "--generation", "2"], "has generation 1, expected 2");
    refused(&daemon, &["3", "--typed", "dying 1"], "nobody ever held host_id 3");
    refused(&daemon, &["1", "--typed", "living 1"], "host_id 1 is this very host's");
    let next = Guest::start(&mut living, &area, "one", "", disk.path());
    wait_until("it waits for the owner", AT_MOST, || next.said("registered").is_some());
    assert!(next.said("held").is_none());

    let said = confirm(&daemon, &["2", "--typed", "dying 1", "--generation", "1"]);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    daemon.wait_said("an operator says that this host is dead", AT_MOST);
    let shown = host(&daemon, 2);
    assert!(shown["confirmed_dead"] == true && shown["state"] == "DEAD", "{shown}");
    next.held();
    assert!(boot_now() < off.after(silence()), "it was waited out after all");
}

/// One bit of a host's dblock flips.
fn damage(area: &Area, resource: &str, host_id: u64) {
    let at = Area::offset_of(resource) + (host_id + 1) * 512 + 9;
    let file = OpenOptions::new().read(true).write(true).open(&area.backing).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn a_damaged_sector_of_a_host_without_power_keeps_its_lease_until_an_operator_says_that_it_is_dead() {
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let (mut living, mut dying) = (Machine::boot(), Machine::boot());
    let daemon = living.daemon("living", "--watchdog none");
    daemon.format(&area);
    daemon.join(&area, 1);
    let elsewhere = daemon_elsewhere(&mut dying, "dying");
    elsewhere.join(&area, 2);
    Guest::holding(&mut dying, &area, "one", "");
    wait_until("it is seen", AT_MOST, || daemon.sees_live(2));
    damage(&area, "one", 2);
    damage(&area, "two", 2);

    // Nobody holds the other lease, as far as can be read.
    let mut client = daemon.connection().register().unwrap();
    let mut code = || {
        let lease = vec![lease_on(&[&area], "two")];
        client.acquire(AcquireFlags::OWNER_NOWAIT, lease, Options::default()).unwrap_err().refusal()
    };
    assert_eq!(code(), Some(ResultCode::DBLOCK_CHECKSUM));
    daemon.wait_said("whether host_id 2 holds or shares the lease cannot be read", AT_MOST);
    drop(dying);
    silent(&daemon);
    assert_eq!(code(), Some(ResultCode::DBLOCK_CHECKSUM));

    let said = confirm(&daemon, &["2", "--typed", "dying 1"]);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    for resource in ["one", "two"] {
        Guest::holding(&mut living, &area, resource, "");
        let at = dblock_of(HostId::new(2).unwrap());
        let anew = HostSector::decode(&area.dblock(resource, 2).bytes, at);
        let Ok(Decoded::Record(anew)) = anew else { panic!("{resource}: {anew:?}") };
        assert!(anew.dblock.is_released() && !anew.mode.is_shared(), "{anew:?}");
    }
    daemon.wait_said("its damaged sector is made anew", AT_MOST);
}

#[test]
fn a_host_that_writes_after_it_was_called_dead_is_alive_and_the_log_says_what_to_do() {
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let (mut here, mut there) = (Machine::boot(), Machine::boot());
    let daemon = here.daemon("here", "--watchdog none");
    daemon.format(&area);
    daemon.join(&area, 1);
    let elsewhere = daemon_elsewhere(&mut there, "there");
    elsewhere.join(&area, 2);
    wait_until("it is seen", AT_MOST, || daemon.sees_live(2));
    elsewhere.process.signal(Signal::SIGSTOP);
    silent(&daemon);
    let said = confirm(&daemon, &["2", "--typed", "there 1"]);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    assert_eq!(host(&daemon, 2)["confirmed_dead"], true);
    elsewhere.process.signal(Signal::SIGCONT);
    daemon.wait_said("this host was confirmed dead and has written since", AT_MOST);
    assert_eq!(host(&daemon, 2)["confirmed_dead"], false);
}

#[test]
fn a_daemon_of_this_very_machine_is_not_dead_by_word() {
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let (mut first, mut second) = (Machine::boot(), Machine::boot());
    let daemon = first.daemon("first", "--watchdog none");
    daemon.format(&area);
    daemon.join(&area, 1);
    second.daemon("second", "--watchdog none").join(&area, 2);
    wait_until("it is seen", AT_MOST, || daemon.sees_live(2));
    drop(second);
    silent(&daemon);
    refused(&daemon, &["2", "--typed", "second 1"], "its power is on");
}
