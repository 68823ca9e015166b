//! `holdfast exec` as its users meet it: two hosts with real daemons on one disk, real commands.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests; clippy exempts only #[test]

mod two_hosts;

use std::os::unix::fs::PermissionsExt as _;

use nix::sys::signal::Signal;
use two_hosts::{HOLD, TwoHosts, eventually, holdfast, is_gone, kill};

#[test]
fn a_command_holds_its_lease_and_another_host_is_told_who_has_it_and_until_when() {
    let hosts = TwoHosts::start();
    let (mut first, command) = hosts.a.hold("vm1");
    assert_ne!(command, first.pid(), "the command is a process of its own");
    assert_eq!(hosts.a.holder("vm1"), Some(i64::from(command)), "and the client itself");

    // A host that has not yet been seen to renew is spoken of with more care.
    eventually("host B sees host A renew", || {
        let status: serde_json::Value = serde_json::from_slice(&hosts.b.run(&["status", "--json"]).stdout).ok()?;
        let hosts = status["hosts"]["LS"].as_array()?.clone();
        hosts.iter().any(|h| h["name"] == "hostA" && h["state"] == "LIVE").then_some(())
    });
    let ran = hosts.dir.path().join("ran");
    let (code, said) = hosts.b.refused(&["exec", "-r", &hosts.b.lease("vm1"), "--", "touch", ran.to_str().unwrap()]);
    assert_eq!(code, 69, "{said}");
    for part in [
        "vm1 is held by host hostA (host_id 1, generation 1), last renewed ",
        " s ago; if hostA falls silent now, the lease can change hands in ",
        " at the earliest. Refused: another host, which is alive, holds the lease (HELD_BY_LIVE_HOST, -243)\n",
        "Use --wait to wait for it.",
    ] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    assert!(!ran.exists(), "a refused command does not run");

    assert!(kill(command, Signal::SIGKILL));
    assert_eq!(first.status(), Some(128 + 9));
    hosts.a.eventually_has(0, "leases");
    hosts.b.ok(&["exec", "-r", &hosts.b.lease("vm1"), "--", "touch", ran.to_str().unwrap()]);
    assert!(ran.exists());
}

#[test]
fn s1_the_lease_stays_while_anything_of_the_commands_group_runs() {
    let hosts = TwoHosts::start();
    // The child closes the connection it inherited, and outlives the command.
    let script = "bash -c 'exec 200>&-; echo $$; exec sleep 300' & exit 0";
    let mut exec = hosts.a.exec(&["-r", &hosts.a.lease("vm1")], script);
    let child = exec.line().parse().unwrap();
    assert_eq!(exec.status(), Some(0));
    let (code, said) = hosts.b.refused(&["exec", "-r", &hosts.b.lease("vm1"), "--", "true"]);
    assert_eq!(code, 69, "{said}");
    assert!(kill(child, Signal::SIGKILL));
    eventually("the lease is given back", || {
        hosts.b.run(&["exec", "-r", &hosts.b.lease("vm1"), "--", "true"]).status.success().then_some(())
    });
}

#[test]
fn s1_a_successor_ends_a_commands_whole_group_before_it_serves_anyone() {
    let mut hosts = TwoHosts::start();
    let script = "bash -c 'exec 200>&-; trap \"\" TERM; echo $$; while :; do sleep 1; done' & exec sleep 300";
    let mut exec = hosts.a.exec(&["-r", &hosts.a.lease("vm1")], script);
    let child = exec.line().parse().unwrap();
    hosts.a.succeed("hostA");
    assert!(is_gone(child), "it ignores SIGTERM, and has closed the connection it inherited");
    assert_eq!(exec.status(), Some(128 + 15));
}

#[test]
fn a_second_command_of_the_same_host_is_refused_naming_the_first() {
    let hosts = TwoHosts::start();
    let (_first, command) = hosts.a.hold("vm1");
    let (code, said) = hosts.a.refused(&["exec", "-r", &hosts.a.lease("vm1"), "--", "true"]);
    assert_eq!(code, 69, "{said}");
    assert!(said.contains(&format!("vm1 is held on this host by process {command} (sh), for ")), "{said}");
    assert!(said.contains("(EEXIST, -17)"), "{said}");
}

#[test]
fn the_exit_status_is_the_commands_own_and_says_why_it_did_not_start() {
    let hosts = TwoHosts::start();
    let lease = hosts.a.lease("vm1");
    let status = |command: &[&str]| {
        let args: Vec<&str> = ["exec", "-r", &lease, "--"].iter().chain(command).copied().collect();
        let output = hosts.a.run(&args);
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    // One right after the other: a lease that is just being given back is waited for.
    assert_eq!(status(&["sh", "-c", "exit 0"]).0, 0);
    assert_eq!(status(&["sh", "-c", "exit 7"]).0, 7);
    assert_eq!(status(&["sh", "-c", "kill -USR1 $$"]).0, 128 + 10);
    let (code, said) = status(&["/nonexistent/qemu"]);
    assert_eq!(
        (code, said.starts_with("holdfast: cannot execute /nonexistent/qemu: No such file")),
        (127, true),
        "{said}"
    );
    let text = hosts.dir.path().join("text");
    std::fs::write(&text, "no program").unwrap();
    std::fs::set_permissions(&text, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(status(&[text.to_str().unwrap()]).0, 126);
    hosts.a.eventually_has(0, "clients");

    let output = holdfast(hosts.dir.path(), &["exec", "-r", &lease, "--", "true"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.starts_with("holdfast: no daemon at ") && said.contains("`holdfast daemon`"), "{said}");
    assert_eq!(hosts.a.run(&["exec", "-r", "LS:vm1", "--", "true"]).status.code(), Some(2));
    assert_eq!(hosts.a.run(&["exec", "-r", &lease]).status.code(), Some(2));
}

#[test]
fn signals_are_passed_on_to_the_command() {
    let hosts = TwoHosts::start();
    let script = "trap 'echo usr1' USR1; trap 'exit 42' TERM; echo ready; while :; do sleep 0.02; done";
    let mut exec = hosts.a.exec(&["-r", &hosts.a.lease("vm1"), "--name", "worker"], script);
    assert_eq!(exec.line(), "ready");
    assert_eq!(hosts.a.status()["leases"][0]["name"], "worker");
    assert!(kill(exec.pid(), Signal::SIGUSR1));
    assert_eq!(exec.line(), "usr1");
    assert!(kill(exec.pid(), Signal::SIGTERM));
    assert_eq!(exec.status(), Some(42));
}

#[test]
fn the_death_of_exec_itself_neither_frees_the_lease_nor_orphans_it() {
    let hosts = TwoHosts::start();
    let (mut exec, command) = hosts.a.hold("vm1");
    exec.program.kill().unwrap();
    assert_eq!(exec.status(), None, "killed");
    assert_eq!(hosts.a.holder("vm1"), Some(i64::from(command)));
    assert_eq!(hosts.b.refused(&["exec", "-r", &hosts.b.lease("vm1"), "--", "true"]).0, 69);
    assert!(kill(command, Signal::SIGTERM), "it runs on");
    assert!(is_gone(command));
    hosts.a.eventually_has(0, "leases");
    hosts.b.ok(&["exec", "-r", &hosts.b.lease("vm1"), "--", "true"]);
}

#[test]
fn what_a_command_leaves_behind_keeps_the_lease_until_it_ends_too() {
    let hosts = TwoHosts::start();
    let mut exec = hosts.a.exec(&["-r", &hosts.a.lease("vm1")], "sleep 300 >/dev/null & echo $!");
    let heir = exec.line().parse().unwrap();
    assert_eq!(exec.status(), Some(0));
    eventually("the lease is an inherited one", || (hosts.a.status()["leases"][0]["inherited"] == true).then_some(()));
    let (code, said) = hosts.a.refused(&["exec", "-r", &hosts.a.lease("vm1"), "--", "true"]);
    assert_eq!(code, 69);
    assert!(said.contains("by what inherited the connection of process "), "{said}");
    assert!(kill(heir, Signal::SIGKILL));
    hosts.a.eventually_has(0, "leases");
}

#[test]
fn a_waiting_command_starts_when_the_first_one_ends_on_the_other_host() {
    let hosts = TwoHosts::start();
    let (_first, command) = hosts.a.hold("vm1");
    let mut second = hosts.b.exec(&["--wait", "-r", &hosts.b.lease("vm1")], HOLD);
    let waiting = hosts.b.eventually_has(1, "waiting");
    assert_eq!(waiting[0]["resource"], "vm1");
    assert!(kill(command, Signal::SIGTERM));
    let started: i64 = second.line().parse().unwrap();
    assert_eq!(hosts.b.holder("vm1"), Some(started));
    assert_eq!(waiting[0]["pid"], started, "who waited is who runs");
    hosts.b.eventually_has(0, "waiting");
    assert!(kill(second.pid(), Signal::SIGTERM));
    assert_eq!(second.status(), Some(128 + 15));
}

#[test]
fn a_wait_ends_with_its_caller_and_after_its_time() {
    let hosts = TwoHosts::start();
    let (_first, _) = hosts.a.hold("vm1");
    let lease = hosts.b.lease("vm1");
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let mut caller = hosts.b.exec(&["--wait", "-r", &lease], HOLD);
        let waiting = hosts.b.eventually_has(1, "waiting");
        assert!(kill(caller.pid(), signal));
        let by_signal = (signal == Signal::SIGTERM).then_some(128 + 15);
        assert_eq!(caller.status(), by_signal);
        assert!(is_gone(i32::try_from(waiting[0]["pid"].as_i64().unwrap()).unwrap()), "{signal}");
        hosts.b.eventually_has(0, "waiting");
        hosts.b.eventually_has(0, "clients");
    }
    let (code, said) = hosts.b.refused(&["exec", "--wait=0.3", "-r", &lease, "--", "true"]);
    assert_eq!(code, 75, "{said}");
    assert!(said.starts_with("holdfast: vm1 is held by host hostA "), "{said}");
    assert!(said.ends_with("Given up after waiting 0.3 s.\n"), "{said}");
    hosts.b.eventually_has(0, "clients");
}

#[test]
fn several_leases_are_had_together_or_not_at_all() {
    let hosts = TwoHosts::start();
    let (_first, _) = hosts.a.hold("vm2");
    let both = [hosts.b.lease("vm1"), hosts.b.lease("vm2")];
    let (code, said) = hosts.b.refused(&["exec", "-r", &both[0], "-r", &both[1], "--", "true"]);
    assert_eq!(code, 69, "{said}");
    assert!(said.contains("vm2 is held by host hostA") && !said.contains("vm1 is held"), "{said}");
    hosts.b.eventually_has(0, "leases");
    hosts.a.ok(&["exec", "-r", &hosts.a.lease("vm1"), "-r", &hosts.a.lease("vm3"), "--", "true"]);
}

#[test]
fn leaving_the_lockspace_ends_the_command_with_its_whole_group() {
    let hosts = TwoHosts::start();
    // The child has closed the connection it inherited, so being of the group is what ends it.
    let script = "bash -c 'exec 200>&-; echo $$; exec sleep 300' & wait";
    let mut exec = hosts.a.exec(&["-r", &hosts.a.lease("vm1")], script);
    let child = exec.line().parse().unwrap();
    hosts.a.ok(&["lockspace", "remove", &hosts.a.lockspace()]);
    assert_eq!(exec.status(), Some(128 + 9));
    assert!(is_gone(child));
    hosts.b.ok(&["exec", "-r", &hosts.b.lease("vm1"), "--", "true"]);
}
