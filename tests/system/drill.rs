//! A rehearsal of the watchdog, on a host that is a tree of processes: it dies in time, and the report tells so afterwards. Nothing is armed
//! without an operator's word, nor beside a daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use harness::{AT_MOST, Area, Machine, boot_now, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Of which the device gets 4, and a tick.
const FIRE: u32 = 10;
const WITHIN: Duration = Duration::from_secs(5);

fn state(machine: &Machine) -> String {
    std::fs::read_to_string(machine.path("watchdog.attributes/state")).unwrap().trim().to_owned()
}

/// Starts it on the host; what it prints goes to `drill.log`.
fn drill(machine: &mut Machine, more: &str) -> harness::Process {
    let (options, note) = (machine.watchdog(FIRE), machine.path("note/drill.json"));
    let program = env!("CARGO_BIN_EXE_holdfast");
    machine.start("drill", &format!("{program} drill --config /dev/null {options} --note {} {more}", note.display()))
}

fn said(machine: &Machine) -> String {
    std::fs::read_to_string(machine.path("drill.log")).unwrap_or_default()
}

fn report(note: &Path) -> (bool, Value) {
    let arguments = ["drill", "--report", "--json", "--note", note.to_str().unwrap()];
    let output = Command::new(env!("CARGO_BIN_EXE_holdfast")).args(arguments).output().unwrap();
    let document = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    (output.status.success(), document)
}

#[test]
fn a_host_is_reset_in_time_and_says_so_when_it_is_up_again() {
    let mut machine = Machine::boot();
    let begun = boot_now();
    drill(&mut machine, "--yes-reset-this-host");
    let fired = machine.wait_fired(AT_MOST);
    assert!(fired.last_pet >= begun && fired.at.since(fired.last_pet) <= WITHIN, "{fired:?}");
    assert!(said(&machine).contains("this host is reset within 5 s"), "{}", said(&machine));
    let note = machine.path("note/drill.json");
    assert_eq!(report(&note).1["rebooted"], false, "nobody has switched it on again");

    let directory = std::mem::replace(&mut machine.directory, tempfile::tempdir().unwrap());
    drop(machine);
    let _again = Machine::boot_with(directory, &[]);
    wait_until("the device says what it has done", AT_MOST, || report(&note).1["reset_by_watchdog"] == true);
    let (passed, document) = report(&note);
    assert!(passed && document["passed"] == true && document["rebooted"] == true, "{document:#}");
    assert!(document["verdict"].as_str().unwrap().starts_with("the watchdog has reset this host, "), "{document:#}");
    assert!(document["note"]["armed"]["alive_ms"].as_u64() <= Some(4100), "{document:#}");
}

#[test]
fn nothing_is_armed_without_an_operators_word_nor_beside_a_daemon() {
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let mut machine = Machine::boot();
    drill(&mut machine, "").wait_over("the drill that nobody has confirmed", AT_MOST);
    assert!(said(&machine).contains("THIS HOST IS THEN RESET"), "it says what would happen: {}", said(&machine));
    assert!(said(&machine).contains("a script says --yes-reset-this-host; nothing was armed"), "{}", said(&machine));
    assert_eq!((state(&machine).as_str(), machine.path("note").exists()), ("inactive", false));

    let options = machine.watchdog(FIRE);
    let daemon = machine.daemon("first", &options);
    drill(&mut machine, "--yes-reset-this-host").wait_over("the drill beside a daemon", AT_MOST);
    assert!(said(&machine).contains("a drill is not held beside a daemon"), "{}", said(&machine));
    daemon.format(&area);
    daemon.join(&area, 1);
    daemon.process.signal(Signal::SIGKILL);
    daemon.process.wait_over("the daemon", AT_MOST);
    wait_until("its watchdog is closed", AT_MOST, || machine.watchdog_openers() == 0);
    drill(&mut machine, "--yes-reset-this-host").wait_over("the drill after a daemon that has died", AT_MOST);
    assert!(said(&machine).contains("has not ended in good order"), "{}", said(&machine));
}

#[test]
fn a_host_that_outlives_its_watchdog_says_so_loudly() {
    let mut machine = Machine::boot();
    let drill = drill(&mut machine, "--yes-reset-this-host");
    wait_until("it is armed", AT_MOST, || said(&machine).contains("armed: "));
    machine.signal_watchdog(Signal::SIGSTOP);
    drill.wait_over("the drill of a watchdog that does not fire", AT_MOST);
    assert!(
        said(&machine).contains("OVERDUE") && said(&machine).contains("THIS HOST HAS OUTLIVED ITS WATCHDOG"),
        "{}",
        said(&machine)
    );
    let (passed, document) = report(&machine.path("note/drill.json"));
    assert!(!passed && document["note"]["armed"]["outlived"] == true, "{document:#}");
    assert!(document["verdict"].as_str().unwrap().contains("others may have taken over from it"), "{document:#}");
}
