//! Why leases were refused, in words: who holds each, since when that host was last heard of, and the earliest instant
//! at which the lease can change hands.
//!
//! The daemon answers an acquire with one code for all of its leases. What stands behind it is asked afterwards: its
//! own clients by HOLDFAST_STATUS, other hosts by EXPLAIN. The world may have moved on in between, so a lease that is free by
//! then is not mentioned, and the code itself is always told.

use std::fmt;

use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::payload::Resource;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client_cmd::{CommandError, HostFacts, Lease, ask, plain, status, time};

/// A refusal and what is known of it.
#[derive(Debug)]
pub struct Refusal {
    /// The daemon's answer.
    pub code: ResultCode,
    /// What stands in the way.
    pub held: Vec<Held>,
    /// The leases asked for.
    pub asked: Vec<String>,
}

/// A lease that someone else holds.
#[derive(Debug)]
pub struct Held {
    /// Its name.
    pub resource: String,
    /// Its lockspace.
    pub lockspace: String,
    /// By whom.
    pub by: Holder,
}

/// Who holds it.
#[derive(Debug)]
pub enum Holder {
    /// A process of this host.
    Process(Lease),
    /// A host.
    Host(Owner),
}

/// The owner in the answer of EXPLAIN.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Owner {
    /// Its id.
    pub host_id: u64,
    /// The generation under which it took the lease.
    pub generation: u64,
    /// What is known of it; nothing if the lockspace is not joined here.
    pub host: Option<HostFacts>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Explained {
    held: bool,
    owner: Option<Owner>,
}

impl Refusal {
    /// Finds out who stands in the way.
    pub fn of(resources: &[Resource], code: ResultCode) -> Self {
        Self { code, held: holders(resources), asked: resources.iter().map(|r| r.head.name.to_string()).collect() }
    }

    /// For `--json`.
    pub fn document(&self) -> Value {
        self.held.iter().map(Held::document).collect()
    }
}

/// Who holds these leases now. What cannot be found out is left out.
pub fn holders(resources: &[Resource]) -> Vec<Held> {
    let leases = status().map(|s| s.leases).unwrap_or_default();
    resources.iter().filter_map(|r| holder(r, &leases)).collect()
}

/// `None`: free by now, or nothing can be said.
fn holder(resource: &Resource, leases: &[Lease]) -> Option<Held> {
    let (lockspace, name) = (resource.head.lockspace_name.to_string(), resource.head.name.to_string());
    let local = leases.iter().find(|l| l.lockspace == lockspace && l.resource == name);
    let by = match local {
        Some(lease) => Holder::Process(lease.clone()),
        None => Holder::Host(explain(resource).ok()??),
    };
    Some(Held { resource: name, lockspace, by })
}

fn explain(resource: &Resource) -> Result<Option<Owner>, CommandError> {
    let explained: Explained = serde_json::from_slice(&ask()?.explain(resource.clone())?)?;
    Ok(explained.owner.filter(|_| explained.held))
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.held.is_empty() {
            return write!(f, "{} refused: {}", self.asked.join(", "), self.code);
        }
        write!(f, "{}Refused: {}", Sentences(&self.held), self.code)
    }
}

/// Each as a sentence, with a blank after it.
pub struct Sentences<'a>(pub &'a [Held]);

impl fmt::Display for Sentences<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|held| write!(f, "{held}. "))
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let resource = plain(&self.resource);
        match &self.by {
            Holder::Process(lease) => by_process(f, &resource, lease),
            Holder::Host(owner) => by_host(f, &resource, owner),
        }
    }
}

fn by_process(f: &mut fmt::Formatter<'_>, resource: &str, lease: &Lease) -> fmt::Result {
    let doing = match lease.state.as_str() {
        "acquiring" => "is being acquired",
        "releasing" => "is being given back",
        _ => "is held",
    };
    write!(f, "{resource} {doing} on this host")?;
    let Some(pid) = lease.pid else { return Ok(()) };
    let heir = if lease.inherited { "what inherited the connection of " } else { "" };
    write!(f, " by {heir}process {pid}")?;
    if let Some(name) = lease.name.as_ref().filter(|n| !n.is_empty()) {
        write!(f, " ({})", plain(name))?;
    }
    if lease.inherited {
        write!(f, ", which has exited")?;
    }
    match lease.held_for_ms {
        Some(ms) => write!(f, ", for {}", time(ms)),
        None => Ok(()),
    }
}

fn by_host(f: &mut fmt::Formatter<'_>, resource: &str, owner: &Owner) -> fmt::Result {
    let Owner { host_id, generation, host } = owner;
    write!(f, "{resource} is held by ")?;
    match host.as_ref().and_then(|h| h.name.as_ref()).filter(|n| !n.is_empty()) {
        Some(name) => write!(f, "host {} (host_id {host_id}, generation {generation})", plain(name))?,
        None => write!(f, "host_id {host_id}, generation {generation}")?,
    }
    let Some(host) = host else {
        return write!(f, ", of which nothing is known here: the lockspace is not joined");
    };
    if host.own {
        return write!(f, ", which is this host: the lease is left from before its last start or being given back");
    }
    if host.generation.is_some_and(|g| g > *generation) || matches!(host.state.as_str(), "FREE" | "DEAD") {
        return write!(f, ", which no longer protects it: the lease can change hands now");
    }
    let live = host.state == "LIVE";
    if let Some(ms) = host.last_renewal_seen_ms_ago {
        let seen = if live { "last renewed" } else { "last seen to renew" };
        write!(f, ", {seen} {} ago", time(ms))?;
    }
    if let Some(damage) = &host.damage {
        write!(f, "; its record is damaged ({})", plain(damage))?;
    }
    if let Some(ms) = host.takeover_possible_in_ms {
        let silent = if live { "if that host falls silent now" } else { "if it stays silent" };
        let silent = match host.name.as_ref().filter(|n| live && !n.is_empty()) {
            Some(name) => format!("if {} falls silent now", plain(name)),
            None => silent.to_owned(),
        };
        write!(f, "; {silent}, the lease can change hands in {} at the earliest", time(ms))?;
    }
    Ok(())
}

impl Held {
    fn document(&self) -> Value {
        let mut document = json!({ "lockspace": self.lockspace, "resource": self.resource, "words": self.to_string() });
        match &self.by {
            Holder::Process(lease) => {
                document["process"] = json!({ "pid": lease.pid, "name": lease.name, "inherited": lease.inherited });
            }
            Holder::Host(owner) => {
                let host = owner.host.as_ref();
                document["host"] = json!({
                    "host_id": owner.host_id,
                    "generation": owner.generation,
                    "name": host.and_then(|h| h.name.as_ref()),
                    "state": host.map(|h| &h.state),
                    "last_renewal_seen_ms_ago": host.and_then(|h| h.last_renewal_seen_ms_ago),
                    "takeover_possible_in_ms": host.and_then(|h| h.takeover_possible_in_ms),
                });
            }
        }
        document
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(state: &str) -> HostFacts {
        HostFacts {
            host_id: 1,
            name: Some("hostA".into()),
            generation: Some(3),
            state: state.into(),
            last_renewal_seen_ms_ago: Some(400),
            takeover_possible_in_ms: Some(13_600),
            ..HostFacts::default()
        }
    }

    fn held(host: Option<HostFacts>) -> String {
        let by = Holder::Host(Owner { host_id: 1, generation: 3, host });
        Held { resource: "vm1".into(), lockspace: "LS".into(), by }.to_string()
    }

    #[test]
    fn a_living_owner_is_named_with_the_earliest_instant_of_a_takeover() {
        assert_eq!(
            held(Some(host("LIVE"))),
            "vm1 is held by host hostA (host_id 1, generation 3), last renewed 0.4 s ago; if hostA falls silent now, \
             the lease can change hands in 13.6 s at the earliest"
        );
    }

    #[test]
    fn a_silent_owner_an_unknown_one_and_a_past_one_are_told_apart() {
        assert!(held(Some(host("FAIL"))).ends_with(
            "last seen to renew 0.4 s ago; if it stays silent, the lease can change hands in 13.6 s at the earliest"
        ));
        assert!(held(None).ends_with("of which nothing is known here: the lockspace is not joined"));
        let newer = HostFacts { generation: Some(4), ..host("LIVE") };
        assert!(held(Some(newer)).ends_with("no longer protects it: the lease can change hands now"));
    }

    #[test]
    fn a_local_holder_is_named_by_pid_and_the_code_is_always_told() {
        let lease = Lease { pid: Some(7), name: Some("vm".into()), state: "held".into(), ..Lease::default() };
        let held = Held { resource: "vm1".into(), lockspace: "LS".into(), by: Holder::Process(lease) };
        let refusal = Refusal { code: ResultCode::EEXIST, held: vec![held], asked: vec!["vm1".into()] };
        let words = refusal.to_string();
        assert!(
            words.starts_with("vm1 is held on this host by process 7 (vm). Refused: already held on this host"),
            "{words}"
        );
        assert!(words.ends_with("(EEXIST, -17)"), "{words}");
        let unknown = Refusal { code: ResultCode::ENOSPC, held: Vec::new(), asked: vec!["a".into(), "b".into()] };
        assert!(unknown.to_string().starts_with("a, b refused: the lockspace is not joined"), "{unknown}");
    }
}
