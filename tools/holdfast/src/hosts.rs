//! `holdfast hosts`: the hosts of a lockspace as this host sees them, and when what each holds could change hands.
//!
//! What is shown is what was observed on disk with this host's own clock (D1); clocks of other hosts play no part. Exit
//! status as `client_cmd` says.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::client_cmd::{
    CommandError, Format, HostFacts, Output, Status, finish, plain, row, status_document, table, time,
};

/// Show the hosts of the joined lockspaces, how alive they are, and when their leases could be taken over
///
/// Exit status: 0 done, 1 failed or not joined, 2 wrong usage, 3 no daemon.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// This lockspace alone
    lockspace: Option<String>,
    #[command(flatten)]
    format: Format,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> ExitCode {
    finish(args.format, output(args.lockspace.as_deref()))
}

fn output(wanted: Option<&str>) -> Result<Output, CommandError> {
    let document = status_document()?;
    let mut status: Status = serde_json::from_value(document.clone())?;
    let mut hosts = document.get("hosts").cloned().unwrap_or_else(|| json!({}));
    if let Some(name) = wanted {
        if !status.hosts.contains_key(name) {
            let joined: Vec<&str> = status.hosts.keys().map(String::as_str).collect();
            let joined = if joined.is_empty() { "none".to_owned() } else { joined.join(", ") };
            return Err(CommandError::NotJoined { name: name.into(), joined });
        }
        status.hosts.retain(|known, _| known == name);
        hosts = json!({ name: hosts.get(name).cloned().unwrap_or(Value::Null) });
    }
    Ok(Output { text: text(&status), document: hosts })
}

fn text(status: &Status) -> String {
    if status.hosts.is_empty() {
        return "no lockspace is joined\n".to_owned();
    }
    let areas: Vec<String> = status
        .hosts
        .iter()
        .map(|(name, hosts)| {
            let rows: Vec<Vec<String>> = std::iter::once(row(HEADING)).chain(hosts.iter().map(host)).collect();
            format!("{}\n{}", plain(name), table("  ", &rows))
        })
        .collect();
    areas.join("\n")
}

const HEADING: &[&str] = &["host_id", "name", "generation", "state", "renewed", "takeover possible in", "watchdog"];

fn host(host: &HostFacts) -> Vec<String> {
    let name = host.name.as_deref().filter(|n| !n.is_empty()).unwrap_or("-");
    let mut state = host.state.clone();
    if host.own {
        state += " (this host)";
    }
    if host.confirmed_dead {
        state += " (confirmed)";
    }
    if let Some(damage) = &host.damage {
        state += &format!(" (damaged: {damage})");
    }
    row(&[
        &host.host_id.to_string(),
        name,
        &host.generation.map_or("-".to_owned(), |g| g.to_string()),
        &state,
        &host.last_renewal_seen_ms_ago.map_or("-".to_owned(), |ms| format!("{} ago", time(ms))),
        &takeover(host),
        &watchdog(host),
    ])
}

fn takeover(host: &HostFacts) -> String {
    match (host.state.as_str(), host.takeover_possible_in_ms) {
        ("FREE", _) => "-".to_owned(),
        ("DEAD", _) => "now".to_owned(),
        // The instant has passed but nobody has looked since: the next look decides.
        (_, Some(0)) => "at the next look".to_owned(),
        (_, Some(ms)) => time(ms),
        (_, None) => "-".to_owned(),
    }
}

fn watchdog(host: &HostFacts) -> String {
    match (host.sealed, host.watchdog, host.fire_timeout_s) {
        (false, ..) => "sanlock".to_owned(),
        (true, Some(false), _) => "none".to_owned(),
        (true, _, Some(seconds)) => format!("{seconds} s"),
        (true, ..) => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_a_seal_is_sanlocks_and_a_dead_one_can_be_taken_over_now() {
        let status: Status = serde_json::from_value(json!({ "hosts": { "LS": [
            { "host_id": 1, "name": "hostA", "generation": 3, "state": "LIVE", "own": true, "sealed": true,
              "watchdog": true, "fire_timeout_s": 60, "last_renewal_seen_ms_ago": 400, "takeover_possible_in_ms": 13600 },
            { "host_id": 2, "name": "b", "generation": 1, "state": "DEAD", "takeover_possible_in_ms": 0 },
            { "host_id": 3, "name": "c", "generation": 1, "state": "DEAD", "confirmed_dead": true, "takeover_possible_in_ms": 9 },
        ] } }))
        .unwrap();
        assert_eq!(
            text(&status),
            "LS\n  host_id  name   generation  state             renewed    takeover possible in  watchdog\n  \
             1        hostA  3           LIVE (this host)  0.4 s ago  13.6 s                60 s\n  \
             2        b      1           DEAD              -          now                   sanlock\n  \
             3        c      1           DEAD (confirmed)  -          now                   sanlock\n"
        );
        assert_eq!(text(&Status::default()), "no lockspace is joined\n");
    }
}
