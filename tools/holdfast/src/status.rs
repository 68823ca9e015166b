//! `holdfast status`: what the daemon of this host holds and how it fares, at a glance.
//!
//! Exit status as `client_cmd` says. `--json` is the daemon's own document (HOLDFAST_STATUS), unchanged.

use std::process::ExitCode;

use crate::client_cmd::{
    Client, CommandError, Format, HostFacts, Lease, Output, Space, Status, Waiting, Watchdog, finish, plain, row,
    status_document, table, time,
};

/// Show what this host holds: lockspaces, leases, who waits
///
/// Exit status: 0 done, 1 failed, 2 wrong usage, 3 no daemon.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    format: Format,
}

/// Runs the subcommand.
pub fn run(args: Args) -> ExitCode {
    finish(args.format, output())
}

fn output() -> Result<Output, CommandError> {
    let document = status_document()?;
    let status: Status = serde_json::from_value(document.clone())?;
    Ok(Output { text: text(&status), document })
}

fn text(status: &Status) -> String {
    let mut text = format!("host {}\n", plain(&status.host_name));
    text += &format!("watchdog {}\n", watchdog(status));
    if status.watchdog.reset_this_host == Some(true) {
        text += "the watchdog has reset this host before it came up\n";
    }
    text += &section("lockspaces", "none joined", status.lockspaces.iter().map(space), SPACE_HEADING);
    text += &section("leases", "none", status.leases.iter().map(lease), LEASE_HEADING);
    if !status.waiting.is_empty() {
        text += &section("waiting", "", status.waiting.iter().map(waiting), WAITING_HEADING);
    }
    let inherited: Vec<_> = status.clients.iter().filter(|c| c.inherited).collect();
    if !inherited.is_empty() {
        text += "\nconnections that outlived their process (what inherited them keeps the leases)\n";
        for client in inherited {
            text += &format!("  of process {} ({}){}\n", client.pid, plain(&client.name), heirs(client));
        }
    }
    let writing: Vec<_> = status.clients.iter().filter(|c| c.writes_in_flight).collect();
    if !writing.is_empty() {
        text +=
            "\nprocesses that are gone, with a write of theirs in flight still (their leases stay until it is over)\n";
        for client in writing {
            text += &format!("  process {} ({})\n", client.pid, plain(&client.name));
        }
    }
    text
}

/// Who had its connection when the daemon last looked, every few seconds.
fn heirs(client: &Client) -> String {
    let heirs: Vec<String> = client.heirs.iter().map(ToString::to_string).collect();
    match heirs.as_slice() {
        [] => String::new(),
        [heir] => format!(", which process {heir} has"),
        several => format!(", which processes {} have", several.join(", ")),
    }
}

fn section(title: &str, nothing: &str, rows: impl Iterator<Item = Vec<String>>, heading: &[&str]) -> String {
    let rows: Vec<Vec<String>> = std::iter::once(row(heading)).chain(rows).collect();
    if rows.len() == 1 {
        return format!("\n{title}: {nothing}\n");
    }
    format!("\n{title}\n{}", table("  ", &rows))
}

fn watchdog(status: &Status) -> String {
    let Watchdog { kind, armed, device_timeout_s, last_pet_ms_ago, stays_on, .. } = &status.watchdog;
    let through = if kind == "wdmd" { " through wdmd" } else { "" };
    let own = status.hosts.values().flatten().find(|h| h.own);
    match (armed, device_timeout_s) {
        (true, Some(seconds)) => {
            let petted = last_pet_ms_ago.map_or(String::new(), |ms| format!(", petted {} ago", time(ms)));
            let stays = if *stays_on { ", cannot be stopped" } else { "" };
            format!("armed{through}, {seconds} s{petted}{stays}{}", sealed(own))
        }
        (true, None) => "none: a host that fails is not reset".to_owned(),
        (false, _) => "not armed: no lockspace is joined".to_owned(),
    }
}

fn sealed(own: Option<&HostFacts>) -> String {
    own.and_then(|h| h.fire_timeout_s).map_or(String::new(), |s| format!("; a failed host is reset within {s} s"))
}

const SPACE_HEADING: &[&str] =
    &["name", "host_id", "generation", "state", "renewed", "fails in", "io_timeout", "path:offset"];

fn space(space: &Space) -> Vec<String> {
    let mut state = space.state.clone();
    if space.failed_renewals > 0 {
        state += &format!(", {} renewals failed", space.failed_renewals);
    }
    if space.guarded > 0 {
        state += &format!(", ending {} processes", space.guarded);
    }
    let generation = space.generation.map_or("-".to_owned(), |g| g.to_string());
    let renewed = space.last_renewal_ms_ago.map_or("-".to_owned(), |ms| format!("{} ago", time(ms)));
    let fails = space.fails_in_ms.map_or("-".to_owned(), time);
    row(&[
        &space.name,
        &space.host_id.to_string(),
        &generation,
        &state,
        &renewed,
        &fails,
        &format!("{} s", space.io_timeout_s),
        &format!("{}:{}", space.path, space.offset),
    ])
}

const LEASE_HEADING: &[&str] = &["lockspace", "resource", "lver", "state", "pid", "name", "held for"];

fn lease(lease: &Lease) -> Vec<String> {
    let state = if lease.state == "held" && lease.mode == "shared" { "shared" } else { &lease.state };
    let state = if lease.inherited { format!("{state}, inherited") } else { state.to_owned() };
    row(&[
        &lease.lockspace,
        &lease.resource,
        &lease.lver.to_string(),
        &state,
        &lease.pid.map_or("-".to_owned(), |pid| pid.to_string()),
        lease.name.as_deref().unwrap_or("-"),
        &lease.held_for_ms.map_or("-".to_owned(), time),
    ])
}

const WAITING_HEADING: &[&str] = &["lockspace", "resource", "pid", "name"];

fn waiting(waiting: &Waiting) -> Vec<String> {
    let pid = waiting.pid.map_or("-".to_owned(), |pid| pid.to_string());
    row(&[&waiting.lockspace, &waiting.resource, &pid, waiting.name.as_deref().unwrap_or("-")])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_overview_is_aligned_and_says_what_is_not_there() {
        let empty: Status = serde_json::from_value(json!({ "host_name": "a" })).unwrap();
        assert_eq!(
            text(&empty),
            "host a\nwatchdog not armed: no lockspace is joined\n\nlockspaces: none joined\n\nleases: none\n"
        );
        let full: Status = serde_json::from_value(json!({
            "host_name": "hostA",
            "watchdog": {
                "armed": true, "device_timeout_s": 30, "last_pet_ms_ago": 1200, "stays_on": true, "reset_this_host": true,
            },
            "leases": [{
                "lockspace": "LS", "resource": "vm1", "lver": 4, "state": "held", "pid": 77, "name": "qemu",
                "inherited": true, "held_for_ms": 61000,
            }, {
                "lockspace": "LS", "resource": "iso", "lver": 9, "mode": "shared", "state": "held", "pid": 77,
                "name": "qemu", "inherited": false, "held_for_ms": 2000,
            }],
            "waiting": [{ "lockspace": "LS", "resource": "vm2", "pid": 78, "name": "qemu" }],
            "clients": [{ "pid": 77, "name": "qemu", "inherited": true, "heirs": [91] }, {
                "pid": 76, "name": "dd", "inherited": true, "heirs": []
            }, { "pid": 75, "name": "sh", "inherited": true, "heirs": [92, 93] }, { "pid": 79, "name": "fio", "writes_in_flight": true }],
            "hosts": { "LS": [{ "own": true, "fire_timeout_s": 60 }] },
        }))
        .unwrap();
        let shown = text(&full);
        assert!(
            shown.contains(
                "watchdog armed, 30 s, petted 1.2 s ago, cannot be stopped; a failed host is reset within 60 s\n\
                 the watchdog has reset this host before it came up\n"
            ),
            "{shown}"
        );
        assert!(shown.contains("  lockspace  resource  lver  state            pid  name  held for\n"), "{shown}");
        assert!(shown.contains("  LS         vm1       4     held, inherited  77   qemu  1 min 1 s\n"), "{shown}");
        assert!(shown.contains("  LS         iso       9     shared           77   qemu  2.0 s\n"), "{shown}");
        assert!(shown.contains("  LS         vm2       78   qemu\n"), "{shown}");
        assert!(
            shown.contains(
                "  of process 77 (qemu), which process 91 has\n  of process 76 (dd)\n  of process 75 (sh), which processes 92, 93 have\n\nprocesses that are gone"
            ),
            "{shown}"
        );
        assert!(shown.ends_with("  process 79 (fio)\n"), "{shown}");
    }
}
