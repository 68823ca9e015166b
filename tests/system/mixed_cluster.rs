//! A real sanlock daemon and ours on one device: they see each other live, hand one lease back and forth, and their
//! tools read the same from the same sectors. (The python3-sanlock binding against each: `tests/interop/python_surface.py`.)
//!
//! Needs root and the packages `sanlock` and `python3-sanlock` (black boxes, run as they are); says so where they lack.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;

use std::path::Path;
use std::process::Command;

use harness::host::IO_TIMEOUT;
use harness::{
    AT_MOST, Area, Daemon, Guest, LoopDevice, Machine, RESOURCES, SPACE, run, stays_so_until, wait_for, wait_until,
};
use serde_json::Value;

const PYTHON: &str = "/usr/bin/python3";

fn script(name: &str) -> String {
    format!("{}/../../tests/interop/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// What the tests here cannot do without.
fn needed() {
    let sanlock = Command::new("sanlock").arg("version").output();
    assert!(sanlock.is_ok(), "the real sanlock program is needed here: install the package `sanlock`");
    let binding = Command::new(PYTHON).args(["-c", "import sanlock"]).output();
    assert!(
        binding.is_ok_and(|done| done.status.success()),
        "the real binding is needed here, for {PYTHON}: install the package `python3-sanlock`"
    );
}

/// A host with the real daemon.
fn real_host(name: &str) -> (Machine, Daemon) {
    needed();
    let mut machine = Machine::boot();
    std::fs::create_dir(machine.path("run")).unwrap();
    let command = format!("SANLOCK_PRIVILEGED=0 sanlock daemon -D -w 0 -h 0 -l 0 -U root -G root -e {name}");
    let process = machine.start("real", &command);
    let daemon = Daemon::other(process, machine.path("run"), machine.path("real.log"));
    wait_until("the real daemon's socket", AT_MOST, || daemon.answers());
    (machine, daemon)
}

/// A host with ours.
fn our_host(name: &str) -> (Machine, Daemon) {
    let mut machine = Machine::boot();
    let daemon = machine.daemon(name, "--watchdog none");
    (machine, daemon)
}

/// What a script of tests/interop says that drives clients of both programs, each on a host of its own, on one device.
fn told_by_both(name: &str, device: &LoopDevice, more: &[&str]) -> Value {
    let (_machine, real) = real_host("theirs");
    let (_our_machine, ours) = our_host("ours");
    let host = |option: &str, daemon: &Daemon| format!("--{option}={}", daemon.run_dir.display());
    let (a, b, device) = (host("a", &real), host("b", &ours), format!("--device={}", device.path.display()));
    let script = script(name);
    let told = run(PYTHON, &[&[script.as_str(), &a, &b, &device], more].concat());
    serde_json::from_str(&told).unwrap()
}

/// 300 acquisitions of one lease by clients of both; the counter under it ends exact.
fn one_lease_goes_back_and_forth(sector: u32) {
    let device = LoopDevice::new(sector);
    let directory = tempfile::tempdir().unwrap();
    let counter = directory.path().join("counter");
    let told = told_by_both(
        "mixed_counter.py",
        &device,
        &[
            &format!("--counter={}", counter.display()),
            &format!("--sector={sector}"),
            "--count=300",
            "--io-timeout=2",
            "--within=180",
        ],
    );
    assert_eq!(std::fs::read_to_string(&counter).unwrap(), "300");
    assert_eq!((&told["ok"], &told["counter"]), (&true.into(), &300.into()), "{told}");
    assert_eq!((&told["a"]["acquired"], &told["b"]["acquired"]), (&150.into(), &150.into()), "{told}");
    // The first half goes in turns.
    assert!(told["handovers"].as_u64() >= Some(149), "{told}");
}

#[test]
fn one_lease_goes_back_and_forth_300_times_on_sectors_of_512_bytes() {
    one_lease_goes_back_and_forth(512);
}

#[test]
fn one_lease_goes_back_and_forth_300_times_on_sectors_of_4096_bytes() {
    one_lease_goes_back_and_forth(4096);
}

#[test]
fn each_program_hears_the_events_of_the_other() {
    let device = LoopDevice::new(512);
    let told = told_by_both("mixed_events.py", &device, &[]);
    assert_eq!(told["ok"], true, "{told}");
}

/// Clients of both create and delete resources of one index at once: none is lost, none listed twice.
fn an_index_is_used_by_both(sector: u32) {
    let device = LoopDevice::new(sector);
    let told = told_by_both("mixed_index.py", &device, &[&format!("--sector={sector}")]);
    assert_eq!((&told["ok"], &told["resources"]), (&true.into(), &16.into()), "{told}");
}

#[test]
fn both_programs_create_in_one_index_and_lose_nothing_on_sectors_of_512_bytes() {
    an_index_is_used_by_both(512);
}

#[test]
fn both_programs_create_in_one_index_and_lose_nothing_on_sectors_of_4096_bytes() {
    an_index_is_used_by_both(4096);
}

/// Clients of both take leases exclusively and shared, convert them, ask for each other's, set values, give back and die,
/// at random: every answer is known beforehand, and so is what then stands on the disk.
fn leases_are_used_in_every_way(sector: u32) {
    let device = LoopDevice::new(sector);
    let seconds = if std::env::var_os("HOLDFAST_LONG").is_some() { 600 } else { 60 };
    // The two sizes go two ways.
    let seed = std::env::var("HOLDFAST_WALK_SEED").unwrap_or_else(|_| sector.to_string());
    let options = [format!("--sector={sector}"), format!("--seconds={seconds}"), format!("--seed={seed}")];
    let told = told_by_both("mixed_walk.py", &device, &options.each_ref().map(String::as_str));
    // Every answer that a walk must come across: WANTED in the script.
    assert_eq!((&told["ok"], &told["missing"]), (&true.into(), &serde_json::json!([])), "{told}");
    println!("{told}");
}

#[test]
fn leases_are_used_in_every_way_across_both_programs_on_sectors_of_512_bytes() {
    leases_are_used_in_every_way(512);
}

#[test]
fn leases_are_used_in_every_way_across_both_programs_on_sectors_of_4096_bytes() {
    leases_are_used_in_every_way(4096);
}

#[test]
fn both_dumpers_say_the_same_of_a_live_device_that_both_write() {
    let device = LoopDevice::new(512);
    let area = Area { path: device.path.clone(), backing: device.path.clone() };
    let (mut their_machine, real) = real_host("theirs");
    let (mut our_machine, ours) = our_host("ours");
    real.format(&area);
    real.join(&area, 1);
    ours.join(&area, 2);
    wait_until("they see each other live", AT_MOST, || real.sees_live(2) && ours.sees_live(1));
    let _theirs = Guest::holding(&mut their_machine, &area, RESOURCES[0], "");
    let _ours = Guest::holding(&mut our_machine, &area, RESOURCES[1], "");

    // Both renew all the while: two of our dumps that agree, with one of theirs in between, show the same instant.
    let (report, rows) = wait_for("a quiet moment", AT_MOST, || {
        let (before, rows, after) = (our_dump(&device.path), their_rows(&device.path), our_dump(&device.path));
        (before == after).then_some((after, rows))
    });
    assert_eq!(our_rows(&report), rows);
    let hosts = &report["areas"][0]["hosts"];
    assert_eq!(
        (&hosts[0]["record"]["owner_generation"], &hosts[1]["record"]["owner_generation"]),
        (&1.into(), &1.into())
    );
    assert!(hosts[0]["seal"].is_null() && !hosts[1]["seal"].is_null(), "only ours seals");
    let owners = [1, 2].map(|area| (&report["areas"][area]["record"]["owner_id"], &report["areas"][area]["lver"]));
    assert_eq!(owners, [(&1.into(), &1.into()), (&2.into(), &1.into())]);
    for area in [1, 2] {
        assert_ne!(report["areas"][area]["record"]["timestamp"], 0, "held");
    }
}

#[test]
fn each_waits_for_the_other_and_gets_the_lease_when_it_is_given_back() {
    let device = LoopDevice::new(512);
    let area = Area { path: device.path.clone(), backing: device.path.clone() };
    let (mut their_machine, real) = real_host("theirs");
    let (mut our_machine, ours) = our_host("ours");
    ours.format(&area);
    ours.join(&area, 2);
    real.join(&area, 1);
    wait_until("they see each other live", AT_MOST, || real.sees_live(2) && ours.sees_live(1));
    for round in 0..2 {
        let (holders, waiters) = match round {
            0 => (&mut their_machine, &mut our_machine),
            _ => (&mut our_machine, &mut their_machine),
        };
        // The release before may still be on its way to the disk.
        let holder = Guest::holding(holders, &area, RESOURCES[0], "--keep-trying");
        let beats = waiters.path("");
        let waiter = Guest::start(waiters, &area, RESOURCES[0], "--keep-trying", &beats);
        let refused = waiter.wait_said("refused", AT_MOST);
        let wait = std::time::Duration::from_secs(u64::from(2 * IO_TIMEOUT));
        stays_so_until("the lease stays where it is", refused.after(wait), || waiter.said("held").is_none());
        holder.process.signal(nix::sys::signal::Signal::SIGTERM);
        assert!(waiter.held() > holder.last_beat().unwrap());
        waiter.process.signal(nix::sys::signal::Signal::SIGTERM);
        waiter.process.wait_over("the client", AT_MOST);
    }
}

fn our_dump(device: &Path) -> Value {
    let text = run(env!("CARGO_BIN_EXE_holdfast"), &["dump", "--json", device.to_str().unwrap()]);
    serde_json::from_str(&text).unwrap()
}

/// The rows of `sanlock direct dump`, split at white space, without the header.
fn their_rows(device: &Path) -> Vec<Vec<String>> {
    let range = format!("{}:0:{}", device.display(), 3 << 20);
    let text = run("sanlock", &["direct", "dump", &range, "-f", "2", "-Z", "512", "-A", "1M"]);
    let rows = text.lines().map(|l| l.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    rows.filter(|r| r.first().is_some_and(|w| w != "offset")).collect()
}

/// What those rows should be, made from our report.
fn our_rows(report: &Value) -> Vec<Vec<String>> {
    let number = |v: &Value| v.as_u64().unwrap();
    let head = |offset: u64, record: &Value| -> Vec<String> {
        let text = |field: &str| record[field].as_str().unwrap().to_owned();
        let digits = |field: &str, width: usize| format!("{:0width$}", number(&record[field]));
        let names = [format!("{offset:08}"), text("space_name"), text("resource_name")];
        let numbers = [digits("timestamp", 10), digits("owner_id", 4), digits("owner_generation", 4)];
        names.into_iter().chain(numbers).collect()
    };
    let mut rows = Vec::new();
    for area in report["areas"].as_array().unwrap() {
        let offset = number(&area["offset"]);
        if area["kind"] == "lockspace" {
            assert_eq!(area["lockspace"], SPACE);
            for host in area["hosts"].as_array().unwrap() {
                rows.push(head(offset + (number(&host["host_id"]) - 1) * 512, &host["record"]));
            }
            continue;
        }
        let mut row = head(offset, &area["record"]);
        row.push(format!("{}/{}/{}", area["record"]["lver"], area["request"]["lver"], area["request"]["force_mode"]));
        rows.push(row);
        for d in area["dblocks"].as_array().unwrap() {
            let sum = number(&d["checksum"]);
            let text = format!(
                "dblock[{:04}] mbal {} bal {} inp {} inp2 {} inp3 {} lver {} sum {sum:x}",
                number(&d["host_id"]) - 1,
                d["mbal"],
                d["bal"],
                d["inp"],
                d["inp2"],
                d["inp3"],
                d["lver"],
            );
            rows.push(text.split(' ').map(str::to_owned).collect());
        }
    }
    rows
}
