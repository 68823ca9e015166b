//! A block device, down to the disks and ports that it lies on, as sysfs tells of them.
//!
//! What matters is *when an I/O that gets no answer ends*. A lease I/O is given up by its own deadline, whatever the kernel does. But a guest
//! whose write hangs in the kernel cannot be ended: its host is then reset by the watchdog, where a device that fails in time would have cost it
//! that one guest. So each layer is compared with the time after which the lease is lost (8 io_timeouts).
//!
//! sysfs does not tell a device-mapper table, `queue_if_no_path` in it least of all: `dmsetup` is asked, where there is one. It cannot tell whether
//! multipathd takes that word back after `no_path_retry` attempts: that stands in multipath.conf alone.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use holdfast_daemon::config::Config;
use holdfast_io::timing::Timing;
use nix::libc;

use super::finding::Finding;
use super::machine::Machine;

/// A lease is lost after so many seconds without a renewal (D2).
fn fails_after(config: &Config) -> u64 {
    Timing::new(config.io_timeout, config.fire_timeout).id_renewal_fail().as_secs()
}

/// Looks at the device with this number.
pub fn look(machine: &Machine, config: &Config, path: &str, number: u64) -> Vec<Finding> {
    let place = format!("dev/block/{}:{}", libc::major(number), libc::minor(number));
    let Some(disk) = disk_at(machine, &place) else {
        return vec![Finding::warn(path, "nothing is told of it in /sys/dev/block", "see to its timeouts by hand")];
    };
    let mut findings = vec![cache(machine, path, &disk)];
    if name_of(&disk).starts_with("loop") {
        findings.push(Finding::warn(
            path,
            "a loop device, over a file of this host",
            "use what other hosts can reach too",
        ));
    }
    let mut layers = BTreeSet::new();
    collect(machine, &disk, &mut layers);
    for layer in &layers {
        findings.extend(mapper(machine, config, path, layer));
    }
    for leaf in layers.iter().filter(|layer| machine.sys.names(layer.join("slaves")).is_empty()) {
        findings.extend(scsi(machine, config, leaf, layers.len() > 1));
    }
    findings.push(Finding::ok(
        path,
        format!("block device {}", layers.iter().map(|l| name_of(l)).collect::<Vec<_>>().join(", ")),
    ));
    findings
}

/// The disk behind a number: of a partition the one that it is a part of.
fn disk_at(machine: &Machine, place: &str) -> Option<PathBuf> {
    let found = machine.sys.place(place)?;
    let is_partition = machine.sys.text(found.join("partition")).is_some();
    if is_partition { found.parent().map(Path::to_owned) } else { Some(found) }
}

fn name_of(place: &Path) -> String {
    place.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A device and all below it.
fn collect(machine: &Machine, place: &Path, layers: &mut BTreeSet<PathBuf>) {
    if !layers.insert(place.to_owned()) {
        return;
    }
    for slave in machine.sys.names(place.join("slaves")) {
        if let Some(below) = disk_at(machine, &place.join("slaves").join(slave).display().to_string()) {
            collect(machine, &below, layers);
        }
    }
}

/// A2: what was written is seen by every host, so no cache may lie between this host and the medium that other hosts do not share.
fn cache(machine: &Machine, path: &str, disk: &Path) -> Finding {
    let what = format!("{path} write cache");
    let fua = machine.sys.number(disk.join("queue/fua")) == Some(1_u8);
    match machine.sys.text(disk.join("queue/write_cache")).as_deref() {
        Some("write through") => Finding::ok(what, "write through"),
        Some("write back") if fua => Finding::ok(what, "write back; each lease write goes past it (FUA)"),
        Some("write back") => Finding::ok(
            what,
            "write back, without FUA: each lease write is followed by a flush, and takes as long as one",
        ),
        _ => Finding::warn(
            what,
            "not told by this kernel",
            "see to it that what one host has written is read by the others (A2)",
        ),
    }
}

/// Device-mapper and bcache: what they do between a host and its disks.
fn mapper(machine: &Machine, config: &Config, path: &str, layer: &Path) -> Vec<Finding> {
    let name = name_of(layer);
    if name.starts_with("bcache") {
        return vec![own_cache(path, &name)];
    }
    let Some(mapped) = machine.sys.text(layer.join("dm/name")) else { return Vec::new() };
    let is_multipath = machine.sys.text(layer.join("dm/uuid")).is_some_and(|uuid| uuid.starts_with("mpath-"));
    let mut findings = Vec::new();
    if machine.sys.number(layer.join("dm/suspended")) == Some(1_u8) {
        findings.push(Finding::fail(
            path,
            format!("{mapped} is suspended: no I/O ends"),
            format!("`dmsetup resume {mapped}`"),
        ));
    }
    match (machine.dm_table)(&mapped) {
        Ok(table) => findings.extend(table.lines().filter_map(|line| target(config, path, &mapped, line))),
        Err(why) if is_multipath => findings.push(Finding::warn(
            format!("{path} queue_if_no_path"),
            format!("{mapped} is multipath, and its table is not to be had: {why}"),
            format!("see by hand: `dmsetup table {mapped}`; {}", no_path_retry(config)),
        )),
        Err(_) => {}
    }
    findings
}

fn own_cache(path: &str, layer: &str) -> Finding {
    Finding::fail(
        format!("{path} write cache"),
        format!(
            "{layer} is a cache of this host: what it has written, or read before, is not what other hosts see (A2)"
        ),
        "put the leases on the device below it",
    )
}

fn no_path_retry(config: &Config) -> String {
    format!(
        "in multipath.conf set no_path_retry to a number, so that I/O fails within {} s, or to fail",
        fails_after(config)
    )
}

/// A line of a table: `0 2097152 multipath 1 queue_if_no_path 0 1 1 ...`.
fn target(config: &Config, path: &str, mapped: &str, line: &str) -> Option<Finding> {
    let mut words = line.split_whitespace().skip(2);
    match words.next()? {
        "multipath" => {
            let features: usize = words.next()?.parse().ok()?;
            let queues = words.take(features).any(|word| word == "queue_if_no_path");
            let what = format!("{path} queue_if_no_path");
            Some(if queues {
                Finding::warn(
                    what,
                    format!(
                        "{mapped} queues while it has no path: guests hang then, cannot be ended, and this host is reset by its watchdog"
                    ),
                    format!(
                        "{}; if it is a number already this is how that looks, and `multipathd show config` says it",
                        no_path_retry(config)
                    ),
                )
            } else {
                Finding::ok(what, format!("{mapped} fails I/O once it has no path"))
            })
        }
        kind @ ("cache" | "writecache") => Some(own_cache(path, &format!("{mapped} (dm-{kind})"))),
        "error" => Some(Finding::fail(path, format!("{mapped} answers errors alone"), "look at what it is made of")),
        _ => None,
    }
}

/// A disk: its command timeout, its host's error handling, its remote port.
fn scsi(machine: &Machine, config: &Config, leaf: &Path, has_others: bool) -> Vec<Finding> {
    let (name, fails) = (name_of(leaf), fails_after(config));
    let Some(timeout) = machine.sys.number::<u64>(leaf.join("device/timeout")) else { return Vec::new() };
    let mut findings = Vec::new();
    let what = format!("{name} command timeout");
    findings.push(if timeout >= fails {
        Finding::warn(
            what,
            format!("{timeout} s: a command that gets no answer is not even given up before the lease is lost, after {fails} s"),
            format!("less than {}: /sys/block/{name}/device/timeout, by a udev rule", fails / 2),
        )
    } else {
        Finding::ok(what, format!("{timeout} s; the lease is lost after {fails} s"))
    });
    let components = machine.sys.place(leaf.join("device")).unwrap_or_default();
    let parts: Vec<String> = components.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let port = parts.iter().find(|part| part.starts_with("rport-"));
    let session = parts.iter().find(|part| part.starts_with("session"));
    if let Some(host) = parts.iter().rev().find(|part| is_host(part)) {
        findings.extend(error_handling(
            machine,
            config,
            &name,
            host,
            has_others || port.is_some() || session.is_some(),
        ));
    }
    findings.extend(port.map(|port| remote_port(machine, config, &name, port)));
    findings.extend(session.map(|session| iscsi(machine, config, &name, session)));
    findings
}

fn is_host(part: &str) -> bool {
    part.strip_prefix("host").is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

/// While a host's error handler works, everything on it waits: aborts, resets of devices, of targets, of buses.
fn error_handling(machine: &Machine, config: &Config, name: &str, host: &str, has_others: bool) -> Option<Finding> {
    let deadline = machine.sys.text(format!("class/scsi_host/{host}/eh_deadline"))?;
    let (what, fails) = (format!("{name} error handling"), fails_after(config));
    Some(match deadline.parse::<u64>() {
        Ok(seconds) if seconds < fails => Finding::ok(what, format!("{host} gives up after {seconds} s (eh_deadline)")),
        Ok(seconds) => Finding::warn(
            what,
            format!(
                "{host} tries for {seconds} s (eh_deadline): longer than the {fails} s after which the lease is lost"
            ),
            format!("less: /sys/class/scsi_host/{host}/eh_deadline"),
        ),
        Err(_) if has_others => Finding::warn(
            what,
            format!("{host} tries for as long as it takes (eh_deadline {deadline}), and other paths wait for it"),
            format!("a number, well below {fails}: /sys/class/scsi_host/{host}/eh_deadline, by a udev rule"),
        ),
        Err(_) => Finding::ok(what, format!("{host} tries for as long as it takes (eh_deadline {deadline})")),
    })
}

fn remote_port(machine: &Machine, config: &Config, name: &str, port: &str) -> Finding {
    let of = |attribute: &str| {
        machine.sys.text(format!("class/fc_remote_ports/{port}/{attribute}")).unwrap_or_else(|| "?".into())
    };
    let (fast, loss) = (of("fast_io_fail_tmo"), of("dev_loss_tmo"));
    let (what, fails) = (format!("{name} remote port"), fails_after(config));
    let found = format!("{port}: fast_io_fail_tmo {fast}, dev_loss_tmo {loss}");
    match (fast.parse::<u64>(), loss.parse::<u64>()) {
        (Ok(seconds), _) if seconds < fails => Finding::ok(what, found),
        (Err(_), Ok(seconds)) if seconds < fails => {
            Finding::ok(what, format!("{found}; I/O fails when the port is given up"))
        }
        _ => Finding::warn(
            what,
            format!(
                "{found}: I/O to a port that is gone waits for longer than the {fails} s after which the lease is lost"
            ),
            "fast_io_fail_tmo 5 in multipath.conf (defaults section), or /sys/class/fc_remote_ports/*/fast_io_fail_tmo",
        ),
    }
}

fn iscsi(machine: &Machine, config: &Config, name: &str, session: &str) -> Finding {
    let (what, fails) = (format!("{name} iSCSI session"), fails_after(config));
    match machine.sys.number::<i64>(format!("class/iscsi_session/{session}/recovery_tmo")) {
        Some(seconds) if (0..i64::try_from(fails).unwrap_or(i64::MAX)).contains(&seconds) => {
            Finding::ok(what, format!("{session}: I/O fails {seconds} s after the connection (recovery_tmo)"))
        }
        found => Finding::warn(
            what,
            format!(
                "{session}: recovery_tmo {}: I/O without a connection waits for longer than the {fails} s after which the lease is lost",
                found.map_or("?".to_owned(), |seconds| seconds.to_string())
            ),
            "node.session.timeo.replacement_timeout in iscsid.conf: 5 to 15 under multipath",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Grade;
    use super::super::finding::tests::about;
    use super::super::machine::tests::machine;
    use super::*;
    use holdfast_daemon::config::ConfigFile;

    /// With an io_timeout of 10 s a lease is lost after 80.
    fn config() -> Config {
        let file = ConfigFile { host_name: Some("a".into()), watchdog: Some("none".into()), ..ConfigFile::default() };
        file.decide().unwrap()
    }

    const FC: &str = "sys/devices/pci0/host2/rport-2:0-1/target2:0:1/2:0:1:0";
    const QUEUES: &str = "0 2097152 multipath 1 queue_if_no_path 0 1 1 service-time 0 1 2 8:0 1 1";
    const FAILS: &str = "0 2097152 multipath 0 0 1 1 service-time 0 1 2 8:0 1 1";

    /// A multipath device over one disk on a Fibre Channel port, and what is otherwise in its place.
    fn multipath(other: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let disk = format!("{FC}/block/sda");
        let mut files = vec![
            ("sys/devices/virtual/block/dm-3/dm/name".to_owned(), "mpatha".to_owned()),
            ("sys/devices/virtual/block/dm-3/dm/uuid".to_owned(), "mpath-3600".to_owned()),
            ("sys/devices/virtual/block/dm-3/dm/suspended".to_owned(), "0".to_owned()),
            ("sys/devices/virtual/block/dm-3/queue/write_cache".to_owned(), "write back".to_owned()),
            ("sys/devices/virtual/block/dm-3/queue/fua".to_owned(), "1".to_owned()),
            ("sys/dev/block/253:3".to_owned(), "-> sys/devices/virtual/block/dm-3".to_owned()),
            ("sys/devices/virtual/block/dm-3/slaves/sda".to_owned(), format!("-> {disk}")),
            (format!("{disk}/size"), "2097152".to_owned()),
            (format!("{disk}/device"), format!("-> {FC}")),
            (format!("{FC}/timeout"), "30".to_owned()),
            ("sys/class/scsi_host/host2/eh_deadline".to_owned(), "10".to_owned()),
            ("sys/class/fc_remote_ports/rport-2:0-1/fast_io_fail_tmo".to_owned(), "5".to_owned()),
            ("sys/class/fc_remote_ports/rport-2:0-1/dev_loss_tmo".to_owned(), "600".to_owned()),
        ];
        for (path, content) in other {
            files.retain(|(there, _)| there != path);
            files.push(((*path).to_owned(), (*content).to_owned()));
        }
        machine(&files.iter().map(|(path, content)| (path.as_str(), content.as_str())).collect::<Vec<_>>())
    }

    fn found(machine: &Machine) -> Vec<Finding> {
        look(machine, &config(), "/dev/mapper/mpatha", libc::makedev(253, 3))
    }

    #[test]
    fn a_multipath_device_that_fails_in_time_is_in_order() {
        let (_root, machine) = multipath(&[]);
        let machine = Machine { dm_table: |_| Ok(FAILS.to_owned()), ..machine };
        let findings = found(&machine);
        assert!(findings.iter().all(|f| f.grade == Grade::Ok), "{findings:#?}");
        for words in [
            "fails I/O once it has no path",
            "fast_io_fail_tmo 5, dev_loss_tmo 600",
            "gives up after 10 s",
            "past it (FUA)",
        ] {
            about(&findings, words);
        }
        assert!(
            about(&findings, "block device ").1.contains("dm-3") && about(&findings, "block device ").1.contains("sda")
        );
    }

    #[test]
    fn queue_if_no_path_is_a_warning_and_so_is_a_table_that_is_not_to_be_had() {
        let (_root, machine) = multipath(&[]);
        let unknown = about(&found(&machine), "queue_if_no_path");
        assert!(
            unknown.0 == Grade::Warn && unknown.1.contains("not to be had") && unknown.1.contains("within 80 s"),
            "{unknown:?}"
        );
        let queues = about(&found(&Machine { dm_table: |_| Ok(QUEUES.to_owned()), ..machine }), "queue_if_no_path");
        assert!(
            queues.0 == Grade::Warn && queues.1.contains("guests hang") && queues.1.contains("no_path_retry"),
            "{queues:?}"
        );
    }

    #[test]
    fn each_layer_that_waits_for_longer_than_the_lease_lasts_is_named() {
        let timeout = format!("{FC}/timeout");
        let (_root, machine) = multipath(&[
            (&timeout, "120"),
            ("sys/class/scsi_host/host2/eh_deadline", "off"),
            ("sys/class/fc_remote_ports/rport-2:0-1/fast_io_fail_tmo", "off"),
        ]);
        let findings = found(&machine);
        assert_eq!(about(&findings, "sda command timeout: 120 s").0, Grade::Warn);
        assert_eq!(about(&findings, "for as long as it takes (eh_deadline off)").0, Grade::Warn);
        assert_eq!(about(&findings, "fast_io_fail_tmo off, dev_loss_tmo 600").0, Grade::Warn);
    }

    #[test]
    fn a_suspended_device_and_a_cache_of_this_host_fail() {
        let (_root, machine) = multipath(&[
            ("sys/devices/virtual/block/dm-3/dm/suspended", "1"),
            ("sys/devices/virtual/block/dm-3/queue/write_cache", ""),
        ]);
        let machine = Machine { dm_table: |_| Ok("0 2097152 writecache s 8:0 8:16 4096 0".to_owned()), ..machine };
        let findings = found(&machine);
        assert_eq!(about(&findings, "mpatha is suspended").0, Grade::Fail);
        assert_eq!(about(&findings, "(dm-writecache) is a cache of this host").0, Grade::Fail);
        assert_eq!(about(&findings, "write cache: not told").0, Grade::Warn);
    }

    #[test]
    fn a_partition_on_iscsi_is_looked_at_as_its_disk() {
        let place = "sys/devices/platform/host5/session4/target5:0:0/5:0:0:1";
        let (disk, partition) = (format!("{place}/block/sdb"), format!("{place}/block/sdb/sdb1"));
        let files = [
            (format!("{partition}/partition"), "1".to_owned()),
            (format!("{disk}/queue/write_cache"), "write through".to_owned()),
            (format!("{disk}/device"), format!("-> {place}")),
            (format!("{place}/timeout"), "30".to_owned()),
            ("sys/dev/block/8:17".to_owned(), format!("-> {partition}")),
            ("sys/class/iscsi_session/session4/recovery_tmo".to_owned(), "120".to_owned()),
        ];
        let (_root, machine) = machine(&files.iter().map(|(p, c)| (p.as_str(), c.as_str())).collect::<Vec<_>>());
        let findings = look(&machine, &config(), "/dev/sdb1", libc::makedev(8, 17));
        assert_eq!(about(&findings, "sdb command timeout").0, Grade::Ok);
        let (grade, line) = about(&findings, "session4: recovery_tmo 120");
        assert!(grade == Grade::Warn && line.contains("replacement_timeout"), "{line}");
        assert_eq!(
            about(&look(&machine, &config(), "/dev/sdz", libc::makedev(8, 200)), "nothing is told").0,
            Grade::Warn
        );
    }

    #[test]
    fn a_loop_device_and_bcache_are_of_this_host_alone() {
        let (_root, machine) = machine(&[
            ("sys/dev/block/7:0", "-> sys/devices/virtual/block/loop0"),
            ("sys/devices/virtual/block/loop0/queue/write_cache", "write back"),
            ("sys/dev/block/252:0", "-> sys/devices/virtual/block/bcache0"),
            ("sys/devices/virtual/block/bcache0/queue/write_cache", "write through"),
        ]);
        assert_eq!(
            about(&look(&machine, &config(), "/dev/loop0", libc::makedev(7, 0)), "a loop device").0,
            Grade::Warn
        );
        assert_eq!(
            about(&look(&machine, &config(), "/dev/bcache0", libc::makedev(252, 0)), "bcache0 is a cache").0,
            Grade::Fail
        );
    }
}
