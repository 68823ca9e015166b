//! `holdfast sim` as its users run it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests; clippy exempts only #[test]

use std::io::Read as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn command(options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.arg("sim").args(options).stdin(Stdio::null());
    command
}

fn sim(options: &[&str]) -> Output {
    command(options).output().unwrap()
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", said(&output.stdout)))
}

/// The lowest seed that breaks a rule without watchdogs.
fn a_bad_seed() -> (u64, Value) {
    let output = sim(&["--seeds", "200", "--sabotage", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output.stderr));
    assert_eq!(said(&output.stderr), "", "no panic of a run is printed");
    let violation = document(&output)["violation"].clone();
    (violation["seed"].as_u64().unwrap(), violation)
}

#[test]
fn seeds_that_break_no_rule_are_counted() {
    let output = sim(&["--seeds", "0..5", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output.stdout));
    let told = document(&output);
    assert_eq!((told["runs"].as_u64(), &told["seeds"]["to"], &told["violation"]), (Some(5), &5.into(), &Value::Null));
    for field in ["steps", "virtual_seconds", "seeds_per_second", "threads", "seconds"] {
        assert!(told[field].as_f64().is_some_and(|n| n > 0.0), "{field}: {told}");
    }
    for field in ["holds", "takeovers", "joins", "landed", "landed_late", "resets", "crashes", "lost", "excused"] {
        assert!(told["counts"][field].is_u64(), "{field}: {told}");
    }
    assert!(told["coverage"]["daemon killed"].is_object(), "{told}");

    let text = said(&sim(&["--seeds", "0..5", "--coverage", "--threads", "1"]).stdout);
    assert!(text.starts_with("seeds 0..5: 5 runs in ") && text.ends_with("\nno rule was broken\n"), "{text}");
    assert!(text.contains("releasing") && text.contains("\nwatchdog fired "), "{text}");
}

#[test]
fn wrong_options_name_what_is_allowed() {
    for (options, allowed) in [
        (&["--disks", "4"][..], "1..=3"),
        (&["--disks", "3", "--peers", "sanlock"], "is not for sanlock"),
        (&["--hosts", "1"], "2..=16"),
        (&["--seeds", "9..3"], "FROM..TO"),
        (&["--minutes", "0"], "a number of minutes above 0"),
        (&["--peers", "drbd"], "sanlock"),
        (&["--svg", "x.svg"], "--seed"),
        (&["--seed", "1", "--seeds", "2"], "cannot be used with"),
    ] {
        let output = sim(options);
        assert_eq!(output.status.code(), Some(2), "{options:?}");
        let complaint = said(&output.stderr);
        assert!(complaint.contains(allowed), "{options:?}: {complaint}");
    }
}

#[test]
fn hosts_and_disks_are_as_wished() {
    for (hosts, disks) in [(2, 1), (5, 2), (16, 3)] {
        let output = sim(&["--seed", "3", "--hosts", &hosts.to_string(), "--disks", &disks.to_string(), "--json"]);
        let told = document(&output);
        assert_eq!((&told["hosts"], &told["disks"]), (&hosts.into(), &disks.into()));
        assert_eq!(output.status.code(), Some(0), "{told}");
    }
}

#[test]
fn a_seed_is_told_and_drawn() {
    let directory = tempfile::tempdir().unwrap();
    let picture = directory.path().join("a.svg");
    let output = sim(&["--seed", "1", "--timeline", "--svg", picture.to_str().unwrap()]);
    let text = said(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("| host 0 (host_id 1)") && text.contains("| boot 1\n"), "{text}");
    assert!(text.contains("no rule was broken\n"), "{text}");
    let svg = std::fs::read_to_string(&picture).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert!(svg.contains("holdfast sim --seed 1: no rule was broken") && svg.contains("boot 1"));

    let nowhere = directory.path().join("nowhere/a.svg");
    let output = sim(&["--seed", "1", "--svg", nowhere.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output.stderr).contains("nowhere/a.svg cannot be written: "), "{}", said(&output.stderr));
}

#[test]
fn a_broken_rule_is_shown_again_by_the_command_that_is_printed() {
    let (seed, violation) = a_bad_seed();
    let text = said(&sim(&["--seeds", "200", "--sabotage", "--threads", "3"]).stdout);
    let (rule, step) = (violation["rule"].as_str().unwrap(), &violation["step"]);
    assert!(text.contains(&format!("{rule} WAS BROKEN by seed {seed} at ")), "{text}");
    assert!(text.contains(&format!("| !! {rule}: ")), "{text}");

    let replay = violation["replay"].as_str().unwrap();
    assert_eq!(replay, format!("holdfast sim --seed {seed} --sabotage"));
    assert!(text.contains(&format!("\nagain: {replay}\n")), "{text}");
    let again = sim(&["--seed", &seed.to_string(), "--sabotage"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(said(&again.stdout).contains(&format!(" step {step}: ")), "{}", said(&again.stdout));
}

#[test]
fn a_plan_that_breaks_a_rule_is_made_smaller() {
    let (seed, violation) = a_bad_seed();
    let output = sim(&["--seed", &seed.to_string(), "--sabotage", "--shrink", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let told = document(&output);
    let shrunk = &told["shrunk"];
    assert_eq!(shrunk["violation"]["rule"], violation["rule"]);
    assert!(shrunk["mishaps"].as_u64() <= told["mishaps"].as_u64() && shrunk["runs"].as_u64() > Some(0), "{told}");
    assert!(shrunk["plan"].as_str().unwrap().starts_with("Plan {"), "{told}");
}

#[test]
fn a_reader_that_goes_is_no_accident() {
    let mut child =
        command(&["--seed", "1", "--timeline"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut complaint = String::new();
    child.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
    assert_eq!((child.wait().unwrap().code(), complaint.as_str()), (Some(0), ""));
}

#[test]
fn drawn_seeds_end_when_their_time_is_up() {
    let output = sim(&["--minutes", "0.02", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output.stdout));
    let told = document(&output);
    assert!(told["runs"].as_u64() > Some(0) && told["seeds"]["from"].is_u64() && told["seeds"]["to"].is_null());
}
