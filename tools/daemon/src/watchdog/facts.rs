//! What can be known of a watchdog device without opening it, which would arm it: its attributes in sysfs, and who has it open.
//!
//! `/dev/watchdog` is the oldest of them, `/dev/watchdog0`, under a number of its own. Drivers from before the kernel's watchdog core
//! (ib700wdt) have no attributes, and are known by what they say once they are open. `holdfast fake-watchdog` keeps the same attributes
//! in a directory beside its socket ([`beside`]).
//!
//! Units: whole seconds. Errors: none; what is not told is `None`. Source: `Documentation/ABI/testing/sysfs-class-watchdog` of the Linux
//! kernel.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use holdfast_io::sys::watchdog::{CARD_RESET, Seconds};
use nix::libc;

use super::Choice;
use crate::procfs::Procfs;
use crate::sysfs::Sysfs;

/// What a device tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// What the driver calls it.
    pub identity: Option<String>,
    /// Why this machine last started, as flags.
    pub boot_status: Option<u32>,
    /// Once it counts it cannot be stopped.
    pub nowayout: Option<bool>,
    /// It counts: somebody has it open, or left it so.
    pub counts: Option<bool>,
    /// With which timeout.
    pub timeout: Option<Seconds>,
    /// The shortest it takes.
    pub shortest: Option<Seconds>,
    /// The longest it takes; some drivers do not say.
    pub longest: Option<Seconds>,
    /// How long before it fires it raises an alarm.
    pub pretimeout: Option<Seconds>,
    /// What the kernel does then: `panic`, or `noop`, which logs.
    pub governor: Option<String>,
}

impl Facts {
    /// Of the watchdog chosen; `None` where nothing is told of it.
    #[must_use]
    pub fn of(choice: &Choice, sysfs: &Sysfs) -> Option<Self> {
        match choice {
            Choice::Device(path) => Self::of_device(path, sysfs),
            Choice::Fake(socket) => Self::of_fake(socket),
            Choice::Wdmd(_) | Choice::None => None,
        }
    }

    /// Of a device, by the number of its node.
    #[must_use]
    pub fn of_device(path: &Path, sysfs: &Sysfs) -> Option<Self> {
        Self::read(&PathBuf::from("class/watchdog").join(name_of(number_of(path)?, sysfs)?), sysfs)
    }

    /// Of a fake-watchdog, by its socket.
    #[must_use]
    pub fn of_fake(socket: &Path) -> Option<Self> {
        Self::read(Path::new(""), &Sysfs::at(&beside(socket)))
    }

    fn read(directory: &Path, sysfs: &Sysfs) -> Option<Self> {
        let seconds = |name: &str| sysfs.number(directory.join(name)).filter(|n| *n > 0).map(Seconds);
        let facts = Facts {
            identity: sysfs.text(directory.join("identity")),
            boot_status: sysfs.number(directory.join("bootstatus")),
            nowayout: sysfs.number(directory.join("nowayout")).map(|n: u32| n != 0),
            counts: sysfs.text(directory.join("state")).map(|state| state == "active"),
            timeout: seconds("timeout"),
            shortest: seconds("min_timeout"),
            longest: seconds("max_timeout"),
            pretimeout: seconds("pretimeout"),
            governor: sysfs.text(directory.join("pretimeout_governor")).filter(|name| !name.is_empty()),
        };
        // Where the kernel was built without these attributes, the directory is there all the same.
        (facts != Facts::default()).then_some(facts)
    }

    /// Whether it has reset this machine, which then started as it now runs.
    #[must_use]
    pub fn has_reset_us(&self) -> Option<bool> {
        self.boot_status.map(|flags| flags & CARD_RESET != 0)
    }
}

/// Where a fake-watchdog keeps the attributes that a real one has in sysfs.
#[must_use]
pub fn beside(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".attributes");
    PathBuf::from(path)
}

/// Major and minor of `/dev/watchdog`.
const OLDEST: (u64, u64) = (10, 130);

/// The number of a character device.
fn number_of(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(path).ok().filter(|metadata| metadata.file_type().is_char_device())?;
    Some((libc::major(metadata.rdev()).into(), libc::minor(metadata.rdev()).into()))
}

/// The name of the device with this number: `watchdog0`.
fn name_of(number: (u64, u64), sysfs: &Sysfs) -> Option<String> {
    if number == OLDEST {
        return Some("watchdog0".to_owned());
    }
    sysfs.names("class/watchdog").into_iter().find(|name| number_in(name, sysfs) == Some(number))
}

fn number_in(name: &str, sysfs: &Sysfs) -> Option<(u64, u64)> {
    let text = sysfs.text(Path::new("class/watchdog").join(name).join("dev"))?;
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Every number under which this device can be opened.
fn numbers_of(path: &Path, sysfs: &Sysfs) -> Vec<(u64, u64)> {
    let Some(number) = number_of(path) else { return Vec::new() };
    let oldest = number_in("watchdog0", sysfs);
    match oldest {
        Some(oldest) if number == OLDEST || number == oldest => vec![OLDEST, oldest],
        _ => vec![number],
    }
}

/// Who has a device open, of those who may be looked into.
#[must_use]
pub fn holder(path: &Path, sysfs: &Sysfs, procfs: &Procfs) -> Option<(i32, String)> {
    let numbers = numbers_of(path, sysfs);
    let is_it = |rdev| numbers.contains(&(libc::major(rdev).into(), libc::minor(rdev).into()));
    procfs.holders_of_device(is_it).into_iter().next()
}

/// Who has a device open, in words, with what to do about it.
#[must_use]
pub fn held_by(path: &Path, sysfs: &Sysfs, procfs: &Procfs) -> String {
    let Some((pid, name)) = holder(path, sysfs, procfs) else {
        return "another program, which root could see by name: see /proc/*/fd".to_owned();
    };
    let advice = match name.as_str() {
        "wdmd" => "use it through wdmd: `--watchdog wdmd`",
        "systemd" => {
            "systemd pets it by itself: set RuntimeWatchdogSec=0 in /etc/systemd/system.conf and run `systemctl daemon-reexec`, or choose \
             another device"
        }
        "watchdog" | "watchdogd" | "wd_keepalive" => "stop and disable that service, or choose another device",
        "holdfastd" | "holdfast" => "another daemon of ours guards this host with it; two need a device each, or wdmd",
        _ => "stop it, or choose another device",
    };
    format!("{name} (process {pid}): {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(attributes: &[(&str, &str)]) -> (tempfile::TempDir, Sysfs) {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in attributes {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{text}\n")).unwrap();
        }
        let sysfs = Sysfs::at(directory.path());
        (directory, sysfs)
    }

    #[test]
    fn a_device_is_found_by_its_number_and_the_oldest_one_by_its_own() {
        let (_tree, sysfs) = tree(&[
            ("class/watchdog/watchdog0/dev", "247:0"),
            ("class/watchdog/watchdog1/dev", "247:1"),
            ("class/watchdog/watchdog1/identity", "iTCO_wdt"),
        ]);
        assert_eq!(name_of((10, 130), &sysfs).as_deref(), Some("watchdog0"));
        assert_eq!(name_of((247, 1), &sysfs).as_deref(), Some("watchdog1"));
        assert_eq!(name_of((247, 2), &sysfs), None);
    }

    #[test]
    fn what_a_driver_tells_is_read_and_a_directory_that_tells_nothing_is_none() {
        let (_tree, sysfs) = tree(&[
            ("d/identity", "i6300ESB timer"),
            ("d/bootstatus", "32"),
            ("d/nowayout", "1"),
            ("d/state", "active"),
            ("d/timeout", "30"),
            ("d/min_timeout", "1"),
            ("d/max_timeout", "2046"),
            ("d/pretimeout", "0"),
            ("d/pretimeout_governor", "panic"),
            ("empty/dev", "247:0"),
        ]);
        let facts = Facts::read(Path::new("d"), &sysfs).unwrap();
        let told = Facts {
            identity: Some("i6300ESB timer".to_owned()),
            boot_status: Some(32),
            nowayout: Some(true),
            counts: Some(true),
            timeout: Some(Seconds(30)),
            shortest: Some(Seconds(1)),
            longest: Some(Seconds(2046)),
            pretimeout: None,
            governor: Some("panic".to_owned()),
        };
        assert_eq!((facts.has_reset_us(), &facts), (Some(true), &told));
        assert_eq!(Facts::read(Path::new("empty"), &sysfs), None);
        assert_eq!(Facts { boot_status: Some(1), ..told }.has_reset_us(), Some(false), "too hot is another reason");
    }

    #[test]
    fn whoever_has_a_device_open_is_named() {
        // Of this very process: /dev/null stands for a watchdog.
        let _open = std::fs::File::open("/dev/null").unwrap();
        let (_tree, sysfs) = tree(&[]);
        let said = held_by(Path::new("/dev/null"), &sysfs, &Procfs::default());
        assert!(said.contains("(process ") && said.contains("choose another device"), "{said}");
        assert!(held_by(Path::new("/dev/no-such"), &sysfs, &Procfs::default()).starts_with("another program"));
    }
}
