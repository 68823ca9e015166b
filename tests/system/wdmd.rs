//! The real daemon with `--watchdog wdmd` beside a fake wdmd, another process, which is written from the description of the real
//! one alone (`wdmd/fake_wdmd.py`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use harness::{AT_MOST, Area, Daemon, LATE, LocalInstant, Machine, Process, boot_now, wait_until};
use holdfast_io::clock::monotonic_nanos;
use nix::sys::signal::Signal;
use tempfile::TempDir;

/// The shortest io_timeout under wdmd, seconds.
const IO_TIMEOUT: u32 = 2;
/// D2 for it.
const RENEWAL_FAIL: Duration = Duration::from_secs(16);

/// A fake wdmd, and what it wrote down.
struct Wdmd {
    process: Process,
    log: PathBuf,
}

/// A line of it: when, seconds of CLOCK_MONOTONIC; and the words.
#[derive(Clone)]
struct Said {
    at: f64,
    words: Vec<String>,
}

impl Wdmd {
    fn start(machine: &mut Machine) -> Wdmd {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/system/wdmd/fake_wdmd.py");
        let name = machine.next_name("wdmd");
        let process = machine.start(&name, &format!("python3 {program} {}", machine.path("").display()));
        let wdmd = Wdmd { process, log: machine.path(&format!("{name}.log")) };
        wait_until("wdmd listens", AT_MOST, || !wdmd.all("listens").is_empty());
        wdmd
    }

    fn all(&self, word: &str) -> Vec<Said> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let said = whole.lines().filter_map(|line| {
            let (at, rest) = line.split_once(' ')?;
            Some(Said { at: at.parse().ok()?, words: rest.split(' ').map(str::to_owned).collect() })
        });
        said.filter(|said| said.words[0] == word).collect()
    }

    /// The expiries it was told so far.
    fn told(&self) -> Vec<u64> {
        self.all("test_live").iter().map(|said| said.words[2].parse().unwrap()).collect()
    }
}

/// A second of CLOCK_MONOTONIC as an instant of ours: this machine is not suspended while it is tested.
fn instant(second: u64) -> LocalInstant {
    let (monotonic, boot) = (monotonic_nanos(), boot_now());
    LocalInstant::from_nanos(boot.as_nanos() - monotonic).after(Duration::from_secs(second))
}

fn start_daemon(machine: &mut Machine) -> Daemon {
    let name = machine.next_name("daemon");
    let program = env!("CARGO_BIN_EXE_holdfast");
    let (run_dir, directory) = (machine.path("run"), machine.path(""));
    let command = format!("WDMD_RUN_DIR={} {program} daemon -l 0 -e first --watchdog wdmd", directory.display());
    let process = machine.start(&name, &command);
    Daemon::other(process, run_dir, machine.path(&format!("{name}.log")))
}

fn daemon(machine: &mut Machine) -> Daemon {
    let daemon = start_daemon(machine);
    daemon.wait_said("ready", AT_MOST);
    daemon
}

/// A daemon that has joined an area on `disk`.
fn member(disk: &TempDir) -> (Machine, Wdmd, Area, Daemon) {
    let area = Area::file(disk.path(), "leases");
    let mut machine = Machine::boot();
    let wdmd = Wdmd::start(&mut machine);
    let daemon = daemon(&mut machine);
    daemon.format(&area);
    daemon.try_join_with(&area, 1, IO_TIMEOUT).unwrap();
    (machine, wdmd, area, daemon)
}

/// D2's instant of the lockspace, at the latest.
fn fails_at(daemon: &Daemon) -> LocalInstant {
    let left = daemon.space().unwrap()["fails_in_ms"].as_u64().expect("an active lockspace");
    boot_now().after(Duration::from_millis(left + 1))
}

#[test]
fn wdmd_is_told_in_time_and_early_enough_and_a_clean_end_clears_its_entry() {
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let mut machine = Machine::boot();

    let without = start_daemon(&mut machine);
    without.process.wait_over("the daemon without wdmd", AT_MOST);
    let said = without.log();
    assert!(said.contains("wdmd.sock: connecting failed") && said.contains("Is wdmd running?"), "{said}");

    let wdmd = Wdmd::start(&mut machine);
    let daemon = daemon(&mut machine);
    daemon.format(&area);
    assert_eq!(wdmd.told(), [] as [u64; 0], "nothing is armed before a lockspace is joined");
    daemon.try_join_with(&area, 1, 1).unwrap_err();
    let refused = daemon.status()["refusals"].to_string();
    assert!(refused.contains("an io_timeout of 1 s cannot be kept under wdmd"), "{refused}");
    let before = boot_now();
    daemon.try_join_with(&area, 1, IO_TIMEOUT).unwrap();
    assert_eq!(wdmd.all("register")[0].words[1], format!("holdfast_{}", machine.path("run").display()));
    assert_eq!(wdmd.all("refcount")[0].words[1], "1");
    let first = instant(wdmd.told()[0]);
    assert!(first >= before && first <= boot_now().after(RENEWAL_FAIL), "told before the first delta write");

    // Three renewals and more, each of which moves the expiry on.
    for _ in 0..4 {
        let told = *wdmd.told().last().unwrap();
        let fails_at = fails_at(&daemon);
        assert!(instant(told).after(Duration::from_secs(2)) <= fails_at, "two seconds before D2's instant");
        assert!(instant(told).after(Duration::from_secs(3 + 4) + LATE) >= fails_at, "and no more than a renewal older");
        wait_until("a renewal moves the expiry", AT_MOST, || *wdmd.told().last().unwrap() > told);
    }
    let status = daemon.status()["watchdog"].clone();
    assert_eq!((status["kind"].as_str(), status["armed"].as_bool()), (Some("wdmd"), Some(true)));
    let state = fs::read_to_string(machine.path("run/holdfast.state")).unwrap();
    assert!(state.contains("\"watchdog\": \"wdmd\""), "{state}");

    daemon.leave(&area, 1);
    wait_until("the entry is cleared", AT_MOST, || wdmd.told().last() == Some(&0));
    wait_until("and its connection closed", AT_MOST, || !wdmd.all("gone").is_empty());
    assert_eq!(wdmd.all("refcount").last().unwrap().words[1], "0");
    assert_eq!(wdmd.all("torn").len() + wdmd.all("dead").len(), 0);
    daemon.process.signal(Signal::SIGTERM);
    daemon.process.wait_over("the daemon", AT_MOST);
    let next = self::daemon(&mut machine);
    next.try_join_with(&area, 1, IO_TIMEOUT).unwrap();
}

#[test]
fn a_killed_daemon_leaves_its_entry_which_ends_the_host_in_time_and_nothing_is_joined_beside_it() {
    let disk = tempfile::tempdir().unwrap();
    let (mut machine, wdmd, area, daemon) = member(&disk);
    let generation = area.generation(1);
    daemon.process.signal(Signal::SIGKILL);
    daemon.process.wait_over("the daemon", AT_MOST);
    wait_until("wdmd sees it dead", AT_MOST, || !wdmd.all("dead").is_empty());

    let successor = start_daemon(&mut machine);
    successor.process.wait_over("the successor", AT_MOST);
    let said = successor.log();
    assert!(said.contains("THIS HOST WILL BE RESET") && said.contains("has not ended in good order"), "{said}");
    // Nor does it help to take its memory away, even where there is no old term to be waited out.
    fs::remove_file(machine.path("run/holdfast.state")).unwrap();
    let forgetful = self::daemon(&mut machine);
    let other = Area::file(disk.path(), "others");
    forgetful.format(&other);
    forgetful.try_join_with(&other, 1, IO_TIMEOUT).unwrap_err();
    forgetful.wait_said("THIS HOST WILL BE RESET", AT_MOST);
    assert_eq!(area.generation(1), generation, "no delta write");

    // From its expiry on nobody pets. The device fires 60 s and a tick after the last pet: by the fire timeout from D2's
    // instant, which is two seconds later than the expiry.
    let expiry = *wdmd.told().last().unwrap();
    wait_until("the entry expires", RENEWAL_FAIL + LATE, || {
        boot_now() >= instant(expiry).after(Duration::from_secs(3))
    });
    let pets = [wdmd.all("keepalive"), wdmd.all("closed")].concat();
    let last = pets.iter().map(|said| said.at).fold(0.0, f64::max);
    assert!(last < (expiry + 1) as f64, "petted at {last}, expired at {expiry}");
    assert!(wdmd.all("closed").last().unwrap().words.last().unwrap().starts_with("holdfast_"));
}

#[test]
fn a_wdmd_that_hangs_or_ends_is_a_pet_that_was_missed_and_the_daemon_goes_on() {
    let disk = tempfile::tempdir().unwrap();
    let (_machine, wdmd, area, daemon) = member(&disk);

    wdmd.process.signal(Signal::SIGSTOP);
    daemon.wait_said("it does not answer. wdmd hangs", AT_MOST);
    let asked = boot_now();
    daemon.wait_renewal();
    assert!(
        daemon.answers() && daemon.space().unwrap()["state"] == "active",
        "a device that is not petted is no lost lease"
    );
    assert!(boot_now().since(asked) < RENEWAL_FAIL, "nothing is held up");
    let told = *wdmd.told().last().unwrap();
    wdmd.process.signal(Signal::SIGCONT);
    wait_until("it is told again", AT_MOST, || *wdmd.told().last().unwrap() > told + 1);

    wdmd.process.signal(Signal::SIGKILL);
    daemon.wait_said("wdmd has ended, and nobody pets the watchdog", AT_MOST);
    assert_eq!(daemon.space().unwrap()["state"], "active");
    daemon.leave(&area, 1);
    daemon.wait_said("the watchdog could not be stopped", AT_MOST);
    daemon.try_join_with(&area, 1, IO_TIMEOUT).unwrap_err();
}
