//! The watchdog that the daemon will open: whether it is there, free, short enough, and can be stopped. It is not opened: that would arm it.

use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use holdfast_daemon::config::Config;
use holdfast_daemon::procfs::Procfs;
use holdfast_daemon::watchdog::facts::{self, Facts};
use holdfast_daemon::watchdog::{Choice, SOFTDOG, most_seconds};

use super::choice;
use super::finding::Finding;
use super::machine::Machine;
use super::storage::Area;

const WHAT: &str = "watchdog";

/// Looks at it.
pub fn look(machine: &Machine, config: &Config, areas: &[Area]) -> Vec<Finding> {
    match choice(config) {
        Err(why) => vec![Finding::fail(WHAT, why, "without a watchdog a host that hangs is ended by nobody")],
        Ok(Choice::None) => vec![none(config, areas)],
        Ok(chosen @ Choice::Wdmd(_)) => vec![match chosen.look() {
            Ok(()) => Finding::ok(WHAT, "wdmd runs, and its device fires after 60 s"),
            Err(error) => Finding::fail(WHAT, error.to_string(), "start wdmd, or choose a device"),
        }],
        Ok(chosen @ Choice::Fake(_)) => vec![Finding::warn(
            WHAT,
            format!("{chosen} kills processes and resets nothing"),
            "for trying things out alone: choose a device",
        )],
        Ok(Choice::Device(path)) => {
            let mut findings = vec![holder(machine, &path)];
            findings.extend(device(&path, Facts::of_device(&path, &machine.sys), config));
            findings
        }
    }
}

fn none(config: &Config, areas: &[Area]) -> Finding {
    let is_block = |area: &&Area| std::fs::metadata(&area.path).is_ok_and(|m| m.file_type().is_block_device());
    let advice = "choose a device, or wdmd; where the machine has none, `modprobe softdog`";
    match areas.iter().find(is_block) {
        Some(area) if !config.unsafe_no_watchdog => Finding::fail(
            WHAT,
            format!(
                "none, and {} is a block device: its lockspaces are not joined without unsafe_no_watchdog",
                area.path
            ),
            advice,
        ),
        _ => Finding::warn(
            WHAT,
            "none: a host that hangs is ended by nobody, and two hosts may write to one disk",
            advice,
        ),
    }
}

/// Only one program at a time has it open; it may be a daemon of ours that runs already.
fn holder(machine: &Machine, path: &Path) -> Finding {
    match facts::holder(path, &machine.sys, &Procfs::default()) {
        None => {
            Finding::ok(WHAT, format!("{} is there, and nobody who can be seen from here has it open", path.display()))
        }
        Some((pid, name)) if name.starts_with("holdfast") => {
            Finding::ok(WHAT, format!("{} is in use by our own daemon (process {pid})", path.display()))
        }
        Some(_) => Finding::fail(
            WHAT,
            format!("{} is held by {}", path.display(), facts::held_by(path, &machine.sys, &Procfs::default())),
            "a device has one user at a time",
        ),
    }
}

/// What it tells of itself.
fn device(path: &Path, facts: Option<Facts>, config: &Config) -> Vec<Finding> {
    let Some(facts) = facts else {
        return vec![Finding::warn(
            "watchdog limits",
            format!("the driver of {} tells nothing in /sys/class/watchdog", path.display()),
            "find out with `holdfast drill` whether it resets this host in time",
        )];
    };
    let name = facts.identity.clone().unwrap_or_else(|| path.display().to_string());
    let mut findings = vec![limits(&name, &facts, config)];
    if facts.nowayout == Some(true) {
        findings.push(Finding::warn(
            "watchdog nowayout",
            format!("{name} cannot be stopped once it counts: when the daemon has ended this host is reset within ten minutes"),
            "load its driver with nowayout=0, unless that is what you want; a restart of the daemon, and a shutdown by systemd, are in time",
        ));
    }
    if name == SOFTDOG {
        findings.push(Finding::warn(
            "watchdog softdog",
            "a timer of the kernel: it resets a host whose programs hang, but not one whose kernel does",
            "use the machine's own if it has one: iTCO_wdt, sp5100_tco, ipmi_watchdog, i6300esb",
        ));
    }
    if let Some(before) = facts.pretimeout {
        let governor = facts.governor.as_deref().unwrap_or("unknown");
        findings.push(Finding::ok(
            "watchdog pretimeout",
            format!("an alarm {before} before it fires, handled by {governor}"),
        ));
    }
    match facts.has_reset_us() {
        Some(true) => findings.push(Finding::warn(
            "watchdog boot status",
            "it has reset this host before it came up",
            "find out why: the last lines of the log before that, and of other hosts about this one",
        )),
        Some(false) => findings.push(Finding::ok("watchdog boot status", "it was not what reset this host last")),
        None => {}
    }
    findings
}

fn limits(name: &str, facts: &Facts, config: &Config) -> Finding {
    let most = most_seconds(config.fire_timeout);
    let of = format!("{name} under a fire timeout of {}", config.fire_timeout);
    match (facts.shortest, facts.longest) {
        (Some(shortest), _) if shortest > most => Finding::fail(
            "watchdog limits",
            format!("{of} may count {most}, and takes no less than {shortest}"),
            "raise watchdog_fire_timeout, up to 60 s, or choose another device",
        ),
        (shortest, longest) => {
            let said = |limit: Option<_>| {
                limit.map_or("?".to_owned(), |s: holdfast_io::sys::watchdog::Seconds| s.0.to_string())
            };
            Finding::ok(
                "watchdog limits",
                format!("{of} counts at most {most}; it takes {} to {} s", said(shortest), said(longest)),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Grade;
    use super::super::finding::tests::about;
    use super::*;
    use holdfast_daemon::config::ConfigFile;
    use holdfast_io::sys::watchdog::Seconds;

    fn config(fire: u64) -> Config {
        let watchdog = Some("none".into());
        let file = ConfigFile {
            host_name: Some("a".into()),
            watchdog_fire_timeout: Some(fire),
            watchdog,
            ..ConfigFile::default()
        };
        file.decide().unwrap()
    }

    fn told(facts: Facts, fire: u64) -> Vec<Finding> {
        device(Path::new("/dev/watchdog0"), Some(facts), &config(fire))
    }

    #[test]
    fn a_device_that_cannot_count_so_short_fails() {
        let facts = Facts { shortest: Some(Seconds(16)), longest: Some(Seconds(255)), ..Facts::default() };
        let (grade, line) = about(&told(facts.clone(), 20), "watchdog limits");
        assert_eq!(grade, Grade::Fail);
        assert!(
            line.contains("may count 9 s, and takes no less than 16 s") && line.contains("raise watchdog_fire_timeout"),
            "{line}"
        );
        assert_eq!(about(&told(facts, 60), "watchdog limits").0, Grade::Ok);
    }

    #[test]
    fn nowayout_softdog_a_pretimeout_and_a_reset_are_each_said() {
        let facts = Facts {
            identity: Some(SOFTDOG.into()),
            nowayout: Some(true),
            boot_status: Some(0x20),
            pretimeout: Some(Seconds(5)),
            governor: Some("panic".into()),
            ..Facts::default()
        };
        let findings = told(facts, 60);
        assert_eq!(about(&findings, "watchdog nowayout").0, Grade::Warn);
        assert_eq!(about(&findings, "watchdog softdog").0, Grade::Warn);
        assert_eq!(about(&findings, "it has reset this host").0, Grade::Warn);
        assert_eq!(about(&findings, "an alarm 5 s before it fires, handled by panic").0, Grade::Ok);
        let quiet = told(
            Facts {
                identity: Some("iTCO_wdt".into()),
                boot_status: Some(0),
                nowayout: Some(false),
                ..Facts::default()
            },
            60,
        );
        assert!(quiet.iter().all(|f| f.grade == Grade::Ok), "{quiet:?}");
    }

    #[test]
    fn a_driver_that_tells_nothing_is_to_be_tried() {
        let findings = device(Path::new("/dev/watchdog"), None, &config(60));
        assert_eq!(about(&findings, "holdfast drill").0, Grade::Warn);
    }

    #[test]
    fn none_is_a_warning_and_a_device_that_is_not_there_a_failure_that_names_softdog() {
        let machine = super::super::machine::tests::machine(&[]).1;
        assert_eq!(look(&machine, &config(60), &[])[0].grade, Grade::Warn);
        let missing = Config { watchdog: "/dev/no-such-watchdog".into(), ..config(60) };
        let (grade, line) = about(&look(&machine, &missing, &[]), "modprobe softdog");
        assert_eq!(grade, Grade::Fail, "{line}");
    }
}
