//! The commands that ask the daemon, as their users meet them: what they print, for people and as JSON, and how they fail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests; clippy exempts only #[test]

mod two_hosts;

use serde_json::Value;
use two_hosts::{Host, TwoHosts, holdfast};

fn json(host: &Host, args: &[&str]) -> Value {
    serde_json::from_str(&host.ok(&[args, &["--json"]].concat())).unwrap()
}

#[test]
fn without_a_daemon_every_command_says_so_with_exit_status_3() {
    let dir = tempfile::tempdir().unwrap();
    let commands: [&[&str]; 7] = [
        &["status"],
        &["hosts"],
        &["lockspace", "list"],
        &["lockspace", "add", "LS:1:/dev/null:0"],
        &["inquire", "1"],
        &["acquire", "-r", "LS:vm1:/dev/null:0", "--pid", "1"],
        &["release", "--all", "--pid", "1"],
    ];
    for command in commands {
        let output = holdfast(dir.path(), &[command, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(3), "{command:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.starts_with("holdfast: no daemon at ") && said.contains("SANLOCK_RUN_DIR"), "{said}");
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["ok"], false);
        assert!(document["error"]["message"].as_str().unwrap().starts_with("no daemon at "));
    }
}

#[test]
fn wrong_usage_has_exit_status_2_and_names_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let wrong: [(&[&str], &str); 6] = [
        (&["lockspace", "add", "LS:0:/dev/null:0"], "the host_id is 0"),
        (&["lockspace", "add", "LS:1"], "the path is missing"),
        (&["lockspace", "add", "--io-timeout", "0", "LS:1:/dev/null"], "0 is not in 1..=255"),
        (&["acquire", "-r", "LS:vm1:/dev/null:1X", "--pid", "1"], "the offset is \"1X\""),
        (&["release", "--pid", "1"], "--all"),
        (&["inquire", "0"], "0 is not in 1..=2147483647"),
    ];
    for (args, part) in wrong {
        let output = holdfast(dir.path(), args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), said.contains(part)), (Some(2), true), "{args:?}: {said}");
    }
}

#[test]
fn lockspaces_are_joined_shown_and_left() {
    let hosts = TwoHosts::apart();
    let (a, b) = (&hosts.a, &hosts.b);
    assert_eq!(a.ok(&["lockspace", "list"]), "no lockspace is joined\n");
    assert!(a.ok(&["status"]).contains("lockspaces: none joined\n"));
    let begun = a.ok(&["lockspace", "add", "--io-timeout", "1", "--no-wait", &a.lockspace()]);
    assert!(begun.starts_with("joining LS as host_id 1"), "{begun}");
    b.join();
    two_hosts::eventually("A has joined", || (a.status()["lockspaces"][0]["state"] == "active").then_some(()));
    assert_eq!(json(a, &["lockspace", "list"])[0]["state"], "joined");
    let status = a.ok(&["status"]);
    let row = status.lines().find(|l| l.starts_with("  LS ")).unwrap();
    assert!(row.contains("  active  ") && row.contains(" s ago  ") && row.ends_with(":0"), "{status}");
    assert!(status.starts_with("host hostA\nwatchdog none: a host that fails is not reset\n"), "{status}");

    // B's first look at A and A's at B come with their renewals.
    two_hosts::eventually("A sees B live", || {
        let hosts = json(a, &["hosts", "LS"]);
        (hosts["LS"].as_array()?.iter().any(|h| h["name"] == "hostB" && h["state"] == "LIVE")).then_some(())
    });
    let table = a.ok(&["hosts"]);
    assert!(table.contains("LIVE (this host)") && table.contains("hostB"), "{table}");
    let (code, said) = a.refused(&["hosts", "XX"]);
    assert_eq!(code, 1);
    assert!(said.contains("lockspace XX is not joined on this host; joined are: LS"), "{said}");

    let (code, said) = a.refused(&["lockspace", "add", &a.lockspace()]);
    assert_eq!((code, said.contains("(EEXIST, -17)")), (1, true), "{said}");
    let removed = json(a, &["lockspace", "remove", &a.lockspace()]);
    assert_eq!((&removed["ok"], &removed["lockspace"]), (&Value::Bool(true), &Value::from("LS")));
    assert_eq!(a.ok(&["lockspace", "list"]), "no lockspace is joined\n");
    let (code, said) = a.refused(&["lockspace", "remove", &a.lockspace()]);
    assert_eq!((code, said.contains("(ENOENT, -2)")), (1, true), "{said}");
}

#[test]
fn leases_of_a_registered_process_are_taken_shown_and_given_back() {
    let hosts = TwoHosts::start();
    let (a, b) = (&hosts.a, &hosts.b);
    let (_exec, command) = a.hold("vm1");
    let pid = command.to_string();
    assert_eq!(a.ok(&["acquire", "-r", &a.lease("vm2"), "--pid", &pid]), format!("process {pid} holds vm2\n"));
    assert_eq!(a.status()["leases"][1]["name"], "sh", "it keeps its name");
    let held = a.ok(&["inquire", &pid]);
    assert_eq!(held.lines().count(), 2);
    assert!(held.starts_with("LS:vm1:") && held.ends_with(":2097152:1\n"), "{held}");
    assert_eq!(json(a, &["inquire", &pid])["leases"][1]["resource"], "vm2");

    let output = b.run(&["acquire", "-r", &b.lease("vm2"), "--pid", &pid, "--json"]);
    assert_eq!(output.status.code(), Some(1), "its daemon is another one");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["error"]["name"], "ESRCH");
    let (_other, other) = b.hold("vm3");
    let output = b.run(&["acquire", "-r", &b.lease("vm2"), "--pid", &other.to_string(), "--json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["error"]["name"], "HELD_BY_LIVE_HOST");
    assert_eq!(document["error"]["leases"][0]["host"]["name"], "hostA");

    assert_eq!(a.ok(&["release", "-r", "LS:vm2", "--pid", &pid]), format!("process {pid} gave back vm2\n"));
    let (code, said) = a.refused(&["release", "-r", "LS:vm2", "--pid", &pid]);
    assert_eq!((code, said.contains("not held by this client")), (1, true), "{said}");
    b.ok(&["acquire", "-r", &b.lease("vm2"), "--pid", &other.to_string()]);
    assert_eq!(json(a, &["release", "--all", "--pid", &pid])["ok"], true);
    assert_eq!(a.ok(&["inquire", &pid]), format!("process {pid} holds no lease\n"));
    // Given back on disk as well, those taken before other leases included.
    b.ok(&["acquire", "-r", &b.lease("vm1"), "--pid", &other.to_string()]);
}

#[test]
fn completions_know_the_subcommands_and_not_the_hidden_one() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let text = String::from_utf8(holdfast(dir.path(), &["completions", shell]).stdout).unwrap();
        assert!(text.contains("lockspace") && text.contains("inquire"), "{shell}");
    }
}
