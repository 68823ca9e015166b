//! Who is in a lockspace: the host_id that this host will have, its name, and those that are twice.
//!
//! A disk at rest does not tell whether a host lives. Where it matters - somebody else has what is to be ours - the sector is watched for as
//! long as a living holder may take to change it (P1 a: [`Timing::other_boot_watch`]).

use std::collections::BTreeMap;

use holdfast_daemon::config::Config;
use holdfast_io::clock::{BootClock, Clock};
use holdfast_io::identity::Machine as Identity;
use holdfast_io::timing::{FireTimeout, IoTimeout, Timing};

use holdfast::dump::dump;
use holdfast::dump::report::{Area as Dumped, Content, Host, Lockspace};
use holdfast::units_arg::Stretch;

use super::finding::Finding;
use super::storage::Area;
use crate::client_cmd::time;

/// Looks at the lockspaces of an area: the one to be joined, or all that are found.
pub fn look(config: &Config, area: &Area) -> Vec<Finding> {
    let found = match lockspaces(area) {
        Ok(found) => found,
        Err(why) => return vec![Finding::fail(format!("{} areas", area.path), why, "see `holdfast dump`")],
    };
    let mut findings = Vec::new();
    for dumped in &found {
        let Content::Lockspace(lockspace) = &dumped.content else { continue };
        findings.extend(twice(lockspace));
        if !dumped.damage.is_empty() {
            let what = format!("lockspace {}", lockspace.lockspace);
            findings.push(Finding::warn(
                what,
                format!("{} damaged sectors", dumped.damage.len()),
                "see `holdfast dump`",
            ));
        }
    }
    if let Some((name, host_id)) = &area.joins {
        findings.extend(to_join(config, area, &found, name, *host_id));
    }
    findings
}

fn lockspaces(area: &Area) -> Result<Vec<Dumped>, String> {
    // One area is at most 8 MiB long; of a device with leases its first ones are enough.
    let length = if area.joins.is_some() { 8 << 20 } else { 64 << 20 };
    let stretch = Stretch { path: area.path.clone(), offset: area.offset, length: Some(length) };
    let report = dump(&stretch).map_err(|e| e.to_string())?;
    Ok(report.areas.into_iter().filter(|a| matches!(a.content, Content::Lockspace(_))).collect())
}

fn held(lockspace: &Lockspace) -> impl Iterator<Item = &Host> {
    lockspace.hosts.iter().filter(|host| host.state == "held")
}

/// Hosts that call themselves alike, or say that they are one machine.
fn twice(lockspace: &Lockspace) -> Vec<Finding> {
    let mut names: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    let mut machines: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for host in held(lockspace) {
        names.entry(&host.name).or_default().push(host.host_id);
        if let Some(seal) = &host.seal {
            machines.entry(&seal.machine).or_default().push(host.host_id);
        }
    }
    let what = format!("lockspace {}", lockspace.lockspace);
    let ids = |ids: &[u32]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    let named = names.iter().filter(|(_, of)| of.len() > 1).map(|(name, of)| {
        Finding::fail(
            &what,
            format!("host_ids {} are held by hosts that are all called {name}", ids(of)),
            "give each host one name (host_name) and one host_id, or wait until the one that died counts as dead",
        )
    });
    let cloned = machines.iter().filter(|(_, of)| of.len() > 1).map(|(_, of)| {
        Finding::warn(
            &what,
            format!("host_ids {} are held by what says that it is one machine", ids(of)),
            "clones want a machine-id of their own: `rm /etc/machine-id; systemd-machine-id-setup`, then a reboot",
        )
    });
    let mut findings: Vec<Finding> = named.chain(cloned).collect();
    if findings.is_empty() {
        findings.push(Finding::ok(
            &what,
            format!("{} hosts, each with a name and a machine of its own", held(lockspace).count()),
        ));
    }
    findings
}

/// What stands in the way of joining it under this host_id.
fn to_join(config: &Config, area: &Area, found: &[Dumped], name: &str, host_id: u64) -> Vec<Finding> {
    let what = format!("lockspace {name}");
    let here = found.iter().find(|dumped| dumped.offset == area.offset);
    let Some((dumped, Content::Lockspace(lockspace))) = here.map(|dumped| (dumped, &dumped.content)) else {
        let found = format!("there is no lockspace at {} of {}", area.offset, area.path);
        return vec![Finding::fail(
            what,
            found,
            "`holdfast init lockspace` makes one; `holdfast dump` shows what is there",
        )];
    };
    if lockspace.lockspace != name {
        return vec![Finding::fail(
            what,
            format!("what lies there is lockspace {}", lockspace.lockspace),
            "name that, or another place",
        )];
    }
    if !(1..=u64::from(dumped.max_hosts)).contains(&host_id) {
        return vec![Finding::fail(
            what,
            format!("host_id {host_id} is not among its 1 to {}", dumped.max_hosts),
            "choose another",
        )];
    }
    let own = config.host_name.to_string();
    let mut findings = Vec::new();
    for host in held(lockspace) {
        let (is_id, is_name) = (u64::from(host.host_id) == host_id, host.name == own);
        if is_id != is_name {
            findings.push(in_the_way(area, host, &what, is_id));
        } else if is_id {
            findings.push(ours(host, &what));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(&what, format!("host_id {host_id} is free for {own}")));
    }
    findings
}

fn ours(host: &Host, what: &str) -> Finding {
    let here = Identity::of_this_host().ok().map(|identity| format!("{:016x}", identity.machine.0));
    match (&host.seal, here) {
        (Some(seal), Some(here)) if seal.machine != here => Finding::fail(
            what,
            format!("host_id {} is held by another machine that is called {} as well", host.host_id, host.name),
            "give this host another name and another host_id",
        ),
        _ => Finding::ok(what, format!("host_id {} is held by this host, {}, since before", host.host_id, host.name)),
    }
}

/// Another has our host_id, or another host_id our name: does it live?
fn in_the_way(area: &Area, host: &Host, what: &str, is_id: bool) -> Finding {
    let said = match is_id {
        true => format!("host_id {} is held by {}", host.host_id, host.name),
        false => format!("our name, {}, is that of host_id {}", host.name, host.host_id),
    };
    let advice = if is_id { "give this host another host_id" } else { "give this host another name (host_name)" };
    let io_timeout = IoTimeout::new(u64::from(host.record.io_timeout)).unwrap_or(IoTimeout::DEFAULT);
    let timing = Timing::new(io_timeout, FireTimeout::SANLOCK);
    let watched = timing.other_boot_watch();
    match is_renewed(area, host, watched) {
        Ok(true) => Finding::fail(what, format!("{said}, and renewed"), advice),
        Ok(false) => Finding::warn(
            what,
            format!("{said}, and was not renewed in {}", time(u64::try_from(watched.as_millis()).unwrap_or(0))),
            format!(
                "{advice}, unless it is gone: a join waits until it counts as dead, {} at most",
                time(u64::try_from(timing.silence_for_takeover().as_millis()).unwrap_or(0))
            ),
        ),
        Err(why) => Finding::fail(what, format!("{said}; it cannot be watched: {why}"), advice),
    }
}

fn is_renewed(area: &Area, host: &Host, within: std::time::Duration) -> Result<bool, String> {
    let clock = BootClock::new().map_err(|e| e.to_string())?;
    let until = clock.now().after(within);
    loop {
        let now = lockspaces(area)?;
        let same = now.iter().any(|dumped| match &dumped.content {
            Content::Lockspace(lockspace) => lockspace.hosts.iter().any(|h| {
                let of = |h: &Host| (h.host_id, h.record.owner_generation, h.record.timestamp);
                of(h) == of(host)
            }),
            _ => false,
        });
        if !same || clock.now() >= until {
            return Ok(!same);
        }
        pollster::block_on(clock.sleep(std::time::Duration::from_millis(500)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Grade;
    use super::super::finding::tests::about;
    use super::*;
    use holdfast::dump::report::{Leader, SealReport};
    use holdfast_io::leader::LeaderRecord;

    fn host(host_id: u32, name: &str, machine: &str) -> Host {
        let seal = SealReport {
            fire_timeout: Some(60),
            machine: machine.into(),
            boot: "b".into(),
            area_uuid: None,
            millis: 0,
            sector: host_id - 1,
        };
        let record = Leader::of(&LeaderRecord::parse(&[0; holdfast_io::leader::LEN]), 0);
        let seal = Some(seal);
        Host {
            host_id,
            state: "held",
            name: name.into(),
            record,
            event: None,
            notifies: Vec::new(),
            seal,
            damaged: false,
        }
    }

    fn of(hosts: Vec<Host>) -> Vec<Finding> {
        twice(&Lockspace { lockspace: "LS".into(), hosts, never_used: 0 })
    }

    #[test]
    fn two_hosts_of_one_name_fail_and_clones_of_one_machine_are_a_warning() {
        let findings = of(vec![host(1, "a", "m1"), host(7, "a", "m2"), host(8, "b", "m3")]);
        assert_eq!(about(&findings, "host_ids 1 and 7 are held by hosts that are all called a").0, Grade::Fail);
        let findings = of(vec![host(1, "a", "m1"), host(2, "b", "m1")]);
        assert_eq!(about(&findings, "host_ids 1 and 2 are held by what says that it is one machine").0, Grade::Warn);
    }

    #[test]
    fn a_host_that_has_left_is_in_nobodys_way() {
        let left = Host { state: "free", ..host(7, "a", "m1") };
        assert_eq!(about(&of(vec![host(1, "a", "m1"), left]), "1 hosts, each with a name").0, Grade::Ok);
    }
}
