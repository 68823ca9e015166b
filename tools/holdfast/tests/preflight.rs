//! `holdfast preflight` as a command: what it prints, its JSON and its exit status, on this very machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn holdfast(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_holdfast")).args(arguments).output().unwrap()
}

fn preflight(arguments: &[&str]) -> Output {
    holdfast(
        &[&["preflight", "--host-name", "hostA", "--watchdog", "none", "--config", "/dev/null"], arguments].concat(),
    )
}

/// A file with a lockspace, on a file system that takes O_DIRECT.
fn area(directory: &Path) -> String {
    let path = directory.join("leases").display().to_string();
    let made = holdfast(&["init", "lockspace", "LS", &path, "--create"]);
    assert!(made.status.success(), "{made:?}");
    path
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_site_is_looked_at_and_its_failover_times_are_those_of_the_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let lockspace = format!("LS:1:{}:0", area(directory.path()));
    let before = std::fs::read(directory.path().join("leases")).unwrap();
    let shown = text(&preflight(&["--io-timeout", "5", "--fire-timeout", "30", &lockspace]));
    for line in [
        "warn  watchdog: none: a host that hangs is ended by nobody",
        "lockspace LS: host_id 1 is free for hostA",
        "latency: 220 reads, median ",
        "% of the io_timeout of 5 s",
        "THERE IS NO WATCHDOG",
        // Without a watchdog others wait for sanlock's 60 s.
        "can be taken over from     after 1 min 41 s of silence",
        "power cut, or a kernel that hangs",
    ] {
        assert!(shown.contains(line), "{line:?} in:\n{shown}");
    }

    let output = preflight(&["--json", "--io-timeout", "5", &lockspace]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let failed = document["checks"].as_array().unwrap().iter().any(|check| check["grade"] == "fail");
    assert_eq!((&document["ok"], output.status.code()), (&Value::Bool(!failed), Some(i32::from(failed))));
    assert_eq!(document["failover"]["id_renewal_fail_ms"], 40_000);
    assert_eq!(before, std::fs::read(directory.path().join("leases")).unwrap(), "it reads only");
}

#[test]
fn what_keeps_a_host_from_joining_is_a_failure_and_nonsense_is_wrong_usage() {
    let directory = tempfile::tempdir().unwrap();
    let path = area(directory.path());
    for (lockspace, said) in [
        (format!("OTHER:1:{path}:0"), "what lies there is lockspace LS"),
        (format!("LS:1:{path}:1M"), "it ends at 1048576, before offset 1048576"),
        ("LS:1:/dev/no-such:0".to_owned(), "cannot open /dev/no-such"),
    ] {
        let output = preflight(&[&lockspace]);
        assert!(output.status.code() == Some(1) && text(&output).contains(said), "{said:?} in:\n{}", text(&output));
    }
    let output = preflight(&["--io-timeout", "0"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(preflight(&["LS:x:/dev/no-such:0"]).status.code(), Some(2));
}
