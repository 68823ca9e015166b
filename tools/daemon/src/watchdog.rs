//! The watchdog as the daemon sees it: a seam with the kernel's device, wdmd (`wdmd.rs`), the `fake-watchdog` program or
//! none behind it.
//!
//! [`Choice::parse`] reads `--watchdog` and touches nothing. [`Choice::open`] **arms and pets the device by opening
//! it**, so it is called only at the instant from which the daemon vouches for this host: after a predecessor's
//! processes have been seen gone, and before the first delta write (D3). From then on:
//!
//! - [`Watchdog::pet`] is called only by the check that found every lockspace under D3 fresh, and after it the clock is
//!   read again: if a deadline had passed meanwhile, [`Watchdog::fire_at_once`] (W1).
//! - Dropping the value, or dying, leaves the device counting, petted once more by the closing. That is why
//!   [`plan`] allows it at most half of what the fire timeout sealed on disk leaves beside two ticks: one device timeout may go by before the
//!   last close, and one after it.
//! - [`Watchdog::disarm`] is called when no lockspace is under D3 any more; of a device that cannot be stopped (`nowayout`,
//!   [`Watchdog::stays_on`]) only when the daemon ends as well. Until then it is petted with nothing to guard, and at the end it is left with
//!   a long timeout, so that whoever comes next has time to pet it: the next daemon, or systemd at a shutdown.
//!
//! What a device tells without being opened: `watchdog/facts.rs`. It may be late by a second ([`FireTimeout::device_limit`]); those that
//! were measured are in docs/safety.md, step 5.
//!
//! Units: whole seconds. Errors: [`WatchdogError`]. A pet that failed is one whose effect is not known: the daemon
//! goes on as if it had not happened. Sources: architecture D3 and W1; `holdfast_io::sys::watchdog` for the device.

pub mod facts;

use std::fmt;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_io::clock::LocalInstant;
use holdfast_io::planted::{Bug, planted};
use holdfast_io::sys::watchdog::{Seconds, WatchdogDevice, WatchdogError as DeviceError};
use holdfast_io::timing::FireTimeout;
use nix::errno::Errno;
use nix::libc;
use serde::{Deserialize, Serialize};

use crate::procfs::Procfs;
use crate::sysfs::Sysfs;
use crate::wdmd::{self, WdmdWatchdog};
use facts::Facts;

/// Why there is no watchdog to rely on.
#[derive(Debug, thiserror::Error)]
pub enum WatchdogError {
    /// The kernel's device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// `--watchdog` has a value this version cannot serve.
    #[error(
        "watchdog {value:?} is not supported in this version: expected a device such as /dev/watchdog0, wdmd, the socket of \
         a fake-watchdog, or none"
    )]
    NotSupported {
        /// The value.
        value: String,
    },
    /// `--watchdog` names a path that is neither.
    #[error(
        "{}: expected a watchdog device, the socket of a fake-watchdog, or one of the words wdmd and none; found {found}{advice}",
        path.display()
    )]
    NoWatchdogThere {
        /// The path.
        path: PathBuf,
        /// What is there.
        found: String,
        /// What to do about it.
        advice: &'static str,
    },
    /// The device has one opener at a time, and has one.
    #[error("{}: the watchdog is held by {by}", path.display())]
    HeldBy {
        /// The device.
        path: PathBuf,
        /// Who has it open, and what to do about that.
        by: String,
    },
    /// It says before it is opened that it cannot count as short as D3 asks.
    #[error("{}: counts {shortest} at least, and the fire timeout {sealed} allows {limit}: not opened", path.display())]
    TooLongAtBest {
        /// The device.
        path: PathBuf,
        /// The shortest timeout it takes.
        shortest: Seconds,
        /// The most it may count.
        limit: Seconds,
        /// The fire timeout that is to be sealed.
        sealed: FireTimeout,
    },
    /// It was told to stop, and counts on.
    #[error("{device}: told to stop, it counts on: THIS HOST WILL BE RESET within {left} unless something pets it")]
    CountsOn {
        /// The device.
        device: String,
        /// What it counts.
        left: Seconds,
    },
    /// The device cannot count as short as D3 asks.
    #[error(
        "{device}: asked to fire after {asked}, it counts {found}: more than the {limit} that the fire timeout {sealed} allows"
    )]
    TooLong {
        /// The device.
        device: String,
        /// The timeout asked for last.
        asked: Seconds,
        /// The timeout read back.
        found: Seconds,
        /// The most it may count.
        limit: Seconds,
        /// The fire timeout that stands, or will stand, in our seals.
        sealed: FireTimeout,
    },
    /// Talking to a fake-watchdog failed.
    #[error("{}: {operation} failed: {source}", path.display())]
    Socket {
        /// Its socket.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A fake-watchdog refused.
    #[error("{}: {operation} refused: {source}", path.display())]
    Refused {
        /// Its socket.
        path: PathBuf,
        /// What was asked.
        operation: &'static str,
        /// Its answer; `EBUSY`: another process has it open.
        source: Errno,
    },
    /// wdmd cannot be reached, or its answer is not known.
    #[error("wdmd at {}: {operation} failed: {why}{advice}", path.display())]
    Wdmd {
        /// Its socket.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// Why.
        why: std::io::Error,
        /// What to do about it.
        advice: &'static str,
    },
    /// wdmd's device does not count as long as it is sealed.
    #[error("wdmd at {}: its device fires after {expected}, and no other time can be kept; found {found}", path.display())]
    WdmdFires {
        /// Its socket.
        path: PathBuf,
        /// What its device counts, or what is to be sealed.
        found: Seconds,
        /// What both have to be.
        expected: Seconds,
    },
    /// A daemon in this run directory has died, and its entry counts on.
    #[error(
        "wdmd at {}: the entry {} of process {} counts, {} s from its end, and nobody can clear it: THIS HOST WILL BE RESET. \
         Nothing is joined before",
        path.display(), entry.name, entry.pid, entry.left
    )]
    EntryCounts {
        /// Its socket.
        path: PathBuf,
        /// The entry.
        entry: wdmd::Entry,
    },
    /// This daemon's own entry, of before, counts still: wdmd was slow, and has not come to the words that clear it.
    #[error(
        "wdmd at {}: the entry {} of this daemon counts still, {} s from its end: it is being cleared, try again",
        path.display(), entry.name, entry.left
    )]
    EntryLeft {
        /// Its socket.
        path: PathBuf,
        /// The entry.
        entry: wdmd::Entry,
    },
    /// The device was disarmed, or left to fire, before.
    #[error("{device}: {operation} after it was {state}")]
    Over {
        /// The device.
        device: String,
        /// What was tried.
        operation: &'static str,
        /// What came before.
        state: &'static str,
    },
    /// There is none.
    #[error("{operation}: there is no watchdog, nothing resets this host")]
    None {
        /// What was tried.
        operation: &'static str,
    },
}

impl WatchdogError {
    /// A failure of wdmd, with what is usually behind it.
    pub(crate) fn wdmd(path: &Path, operation: &'static str, why: std::io::Error) -> Self {
        use std::io::ErrorKind;
        let advice = match why.kind() {
            ErrorKind::NotFound => ". Is wdmd running? Start it, or choose --watchdog DEVICE",
            ErrorKind::ConnectionRefused => {
                ". wdmd has ended: start it (one that was killed starts only after a reboot), or choose --watchdog DEVICE"
            }
            ErrorKind::PermissionDenied => ". The socket is for root and for the group that wdmd was given with -G",
            ErrorKind::WouldBlock | ErrorKind::TimedOut => ". wdmd hangs; while it does, nobody pets the watchdog",
            ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
                ". wdmd has ended, and nobody pets the watchdog"
            }
            _ => "",
        };
        WatchdogError::Wdmd { path: path.to_owned(), operation, why, advice }
    }
}

/// A kind of watchdog, by what a successor can do about it. It stands in the state file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A device that this daemon has open itself, the fake one included: it counts from its last pet, the close included,
    /// and whoever opens it can stop it.
    Device,
    /// An entry at wdmd, which expires at an instant that was told. Once its daemon is dead nobody can clear it: this
    /// host will be reset.
    Wdmd,
    /// Nothing counts.
    None,
}

/// A watchdog that was opened, and therefore counts.
pub trait Watchdog {
    /// What it is, for logs and `status`: path, identity and timeout.
    fn describe(&self) -> String;

    /// The timeout it counts with, as read back from it; `None` when there is no watchdog.
    fn timeout(&self) -> Option<Seconds>;

    /// This host is well, and nothing vouches for it from `until` on unless it is petted again. A device counts anew from
    /// now, whatever `until` is, so the caller reads the clock afterwards (W1); wdmd is told the instant.
    ///
    /// # Errors
    /// Refused, or outcome unknown.
    fn pet(&mut self, until: LocalInstant) -> Result<(), WatchdogError>;

    /// Whether it cannot be stopped, as far as it is known.
    fn stays_on(&self) -> bool {
        false
    }

    /// Stops it and closes it. One that cannot be stopped is left with a long timeout.
    ///
    /// # Errors
    /// It could not be told to stop, or did not; it is closed all the same, and counts on.
    fn disarm(&mut self) -> Result<(), WatchdogError>;

    /// Sets the shortest timeout the device takes, returns it as read back, and never pets or stops the device again.
    ///
    /// # Errors
    /// No shorter timeout was taken: the device fires at the end of the one it has.
    fn fire_at_once(&mut self) -> Result<Seconds, WatchdogError>;
}

/// The value of `--watchdog`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The kernel's device.
    Device(PathBuf),
    /// The device that wdmd has open, through its socket.
    Wdmd(PathBuf),
    /// The socket of a `holdfast fake-watchdog`.
    Fake(PathBuf),
    /// None at all: other hosts cannot rely on this one being reset.
    None,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Device(path) => write!(f, "{}", path.display()),
            Choice::Wdmd(path) => write!(f, "wdmd {}", path.display()),
            Choice::Fake(path) => write!(f, "fake-watchdog {}", path.display()),
            Choice::None => f.write_str("none"),
        }
    }
}

impl Choice {
    /// What `--watchdog VALUE` means. Looks at the path, opens nothing.
    ///
    /// # Errors
    /// No value, and a path that is no device and no socket.
    pub fn parse(value: &str) -> Result<Self, WatchdogError> {
        match value {
            "none" => return Ok(Choice::None),
            "wdmd" => return Ok(Choice::Wdmd(wdmd::socket_from_environment())),
            "" => return Err(WatchdogError::NotSupported { value: value.to_owned() }),
            _ => {}
        }
        let path = PathBuf::from(value);
        let mut advice = "";
        let found = match std::fs::metadata(&path) {
            Ok(metadata) if metadata.file_type().is_char_device() => return Ok(Choice::Device(path)),
            Ok(metadata) if metadata.file_type().is_socket() => return Ok(Choice::Fake(path)),
            Ok(metadata) if metadata.is_dir() => "a directory".to_owned(),
            Ok(_) => "something else".to_owned(),
            Err(error) => {
                if path.starts_with("/dev") {
                    advice = NO_DEVICE;
                }
                error.to_string()
            }
        };
        Err(WatchdogError::NoWatchdogThere { path, found, advice })
    }

    /// Which kind it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Choice::Device(_) | Choice::Fake(_) => Kind::Device,
            Choice::Wdmd(_) => Kind::Wdmd,
            Choice::None => Kind::None,
        }
    }

    /// Whether it is there, as far as can be told without arming it.
    ///
    /// # Errors
    /// wdmd does not run, or cannot be used.
    pub fn look(&self) -> Result<(), WatchdogError> {
        match self {
            Choice::Wdmd(path) => wdmd::look(path),
            Choice::Device(_) | Choice::Fake(_) | Choice::None => Ok(()),
        }
    }

    /// Opens the watchdog, **which arms and pets it**, with a timeout that [`plan`] allows under `sealed`. `name`: what the
    /// entry of this daemon is called, where many daemons share it; such a one counts from its first pet on.
    ///
    /// # Errors
    /// Not to be opened, or not able to count short enough: then it was disarmed again.
    pub fn open(&self, sealed: FireTimeout, name: &str) -> Result<Box<dyn Watchdog>, WatchdogError> {
        Ok(match self {
            Choice::Device(path) => {
                let armed = DeviceWatchdog::arm(open_device(path, sealed)?, sealed)?;
                armed.timer.iter().for_each(|device| describe(device, armed.timeout));
                Box::new(armed)
            }
            Choice::Wdmd(path) => Box::new(WdmdWatchdog::arm(path, name, sealed)?),
            Choice::Fake(path) => Box::new(FakeWatchdogClient::arm(FakeDevice::open(path)?, sealed)?),
            Choice::None => Box::new(NoWatchdog),
        })
    }
}

/// What to do where there is no device.
pub const NO_DEVICE: &str = ". Load the driver of this machine's watchdog (iTCO_wdt, sp5100_tco, ipmi_watchdog, i6300esb and others). Where \
    there is none: `modprobe softdog`, which resets a host whose programs hang, but not one whose kernel does";

/// Opens a device that can keep D3, as far as it says so itself.
fn open_device(path: &Path, sealed: FireTimeout) -> Result<WatchdogDevice, WatchdogError> {
    let limit = most_seconds(sealed);
    let shortest = Facts::of_device(path, &Sysfs::default()).and_then(|facts| facts.shortest);
    if let Some(shortest) = shortest.filter(|shortest| *shortest > limit) {
        return Err(WatchdogError::TooLongAtBest { path: path.to_owned(), shortest, limit, sealed });
    }
    WatchdogDevice::open(path).map_err(|error| match &error {
        DeviceError::Os { source, .. } if source.raw_os_error() == Some(libc::EBUSY) => {
            let by = facts::held_by(path, &Sysfs::default(), &Procfs::default());
            WatchdogError::HeldBy { path: path.to_owned(), by }
        }
        _ => error.into(),
    })
}

/// What an administrator ought to know of a device that was armed.
fn describe(device: &WatchdogDevice, timeout: Seconds) {
    let (name, facts) = (Timer::name(device), told_by(device));
    match facts.as_ref().and_then(|facts| facts.nowayout) {
        Some(true) => tracing::warn!(
            watchdog = %name,
            "its driver was loaded with nowayout: it cannot be stopped. It is petted also while nothing is guarded, and at the daemon's end \
             left with a longer timeout"
        ),
        Some(false) => {}
        None => tracing::info!(watchdog = %name, "its driver does not tell whether it can be stopped (nowayout)"),
    }
    if device.identity() == SOFTDOG {
        tracing::warn!(watchdog = %name, "softdog is a timer of the kernel: it does not reset a host whose kernel hangs");
    }
    let pretimeout = device.pretimeout().unwrap_or_else(|error| {
        tracing::warn!(watchdog = %name, %error, "its pretimeout is not known");
        None
    });
    let Some(before) = pretimeout else { return };
    let governor = facts.and_then(|facts| facts.governor).unwrap_or_else(|| "unknown".to_owned());
    tracing::info!(watchdog = %name, pretimeout_s = before.0, governor, "raises an alarm before it fires, which changes nothing of when it does");
    // Petted four times in one timeout: one late pet must not be an alarm.
    if before.0 * 2 > timeout.0 {
        tracing::warn!(
            watchdog = %name, pretimeout_s = before.0, timeout_s = timeout.0,
            "its alarm comes so early that a healthy host under load may raise it"
        );
    }
}

/// What softdog calls itself.
pub const SOFTDOG: &str = "Software Watchdog";

/// What the kernel tells of a device that is open. An old driver may stand in the place of the oldest one: it is known by its name.
fn told_by(device: &WatchdogDevice) -> Option<Facts> {
    Facts::of_device(device.path(), &Sysfs::default())
        .filter(|facts| facts.identity.as_deref().is_none_or(|name| name == device.identity()))
}

/// The most that a device may count under this fire timeout.
#[must_use]
pub fn most_seconds(sealed: FireTimeout) -> Seconds {
    let most = if planted(Bug::DeviceGetsSealedTimeout) {
        u64::from(sealed.seconds())
    } else {
        sealed.device_limit().as_secs()
    };
    Seconds(u32::try_from(most).unwrap_or(u32::MAX))
}

/// D3: settles the device's own timeout under the sealed fire timeout, at most [`FireTimeout::device_limit`] *as read back*.
///
/// `ask` sets a timeout on the device called `device` and returns what it reads back. A device that rounds up, or takes
/// no such timeout, is asked for half as much again and again, down to 1 s: any shorter count keeps the promise.
///
/// # Errors
/// The device's last refusal, or [`WatchdogError::TooLong`] with what it was asked and what it counts.
pub fn plan(
    sealed: FireTimeout,
    device: &str,
    mut ask: impl FnMut(Seconds) -> Result<Seconds, WatchdogError>,
) -> Result<Seconds, WatchdogError> {
    let limit = most_seconds(sealed);
    assert!(limit >= Seconds(1), "a fire timeout leaves the device at least a second");
    let mut asked = limit;
    loop {
        let refusal = match ask(asked) {
            Ok(found) if found <= limit => return Ok(found),
            Ok(found) => WatchdogError::TooLong { device: device.to_owned(), asked, found, limit, sealed },
            Err(error) => error,
        };
        asked = Seconds(asked.0 / 2);
        if asked.0 == 0 {
            return Err(refusal);
        }
    }
}

/// A kind of device: what it can do, without the rules of when.
pub trait Timer {
    /// Path, and what the device calls itself.
    fn name(&self) -> String;
    /// Sets a timeout and reads it back.
    ///
    /// # Errors
    /// Refused, or outcome unknown.
    fn set_timeout(&mut self, asked: Seconds) -> Result<Seconds, WatchdogError>;
    /// Starts the count anew.
    ///
    /// # Errors
    /// Refused, or outcome unknown.
    fn pet(&mut self) -> Result<(), WatchdogError>;
    /// Whether it cannot be stopped, as far as it is known.
    fn stays_on(&self) -> bool {
        false
    }
    /// Stops and closes it.
    ///
    /// # Errors
    /// It could not be told, or did not stop; it counts on.
    fn disarm(self) -> Result<(), WatchdogError>;
}

/// `/dev/watchdog*`, opened directly.
pub type DeviceWatchdog = Counting<WatchdogDevice>;
/// A `holdfast fake-watchdog`, opened through its socket.
pub type FakeWatchdogClient = Counting<FakeDevice>;

/// A device that counts, and the rules that hold for every kind of it.
#[derive(Debug)]
pub struct Counting<T: Timer> {
    /// `None` once it was disarmed.
    timer: Option<T>,
    name: String,
    timeout: Seconds,
    /// It cannot be stopped.
    stays_on: bool,
    /// It is to fire: nothing may prolong it any more.
    condemned: bool,
}

/// The timeout that a device which cannot be stopped is left with at most: long enough for a shutdown, or for the next daemon to
/// start, and what systemd takes for a reboot.
const PARTING: u32 = 600;

impl<T: Timer> Counting<T> {
    /// Takes over a device just opened and settles its timeout. One that cannot keep D3 is disarmed and refused.
    ///
    /// # Errors
    /// As [`plan`].
    pub fn arm(mut timer: T, sealed: FireTimeout) -> Result<Self, WatchdogError> {
        let (name, stays_on) = (timer.name(), timer.stays_on());
        match plan(sealed, &name, |asked| timer.set_timeout(asked)) {
            Ok(timeout) => Ok(Counting { timer: Some(timer), name, timeout, stays_on, condemned: false }),
            Err(refusal) => {
                // Nothing has been promised on disk yet, so stopping it is safe; left counting it would reset a host
                // whose daemon is about to exit with this error.
                if stays_on {
                    take_leave(&mut timer, &name, Seconds(1));
                }
                if let Err(error) = timer.disarm() {
                    tracing::error!(watchdog = %name, %error, "a refused watchdog could not be stopped: it will fire");
                }
                Err(refusal)
            }
        }
    }

    /// The device, if it may still be prolonged or stopped.
    fn alive(&mut self, operation: &'static str) -> Result<&mut T, WatchdogError> {
        let over = |device: &str, state| WatchdogError::Over { device: device.to_owned(), operation, state };
        if self.condemned {
            return Err(over(&self.name, "left to fire"));
        }
        self.timer.as_mut().ok_or_else(|| over(&self.name, "disarmed"))
    }
}

impl<T: Timer> Watchdog for Counting<T> {
    fn describe(&self) -> String {
        let state = match (self.condemned, &self.timer) {
            (true, _) => "left to fire after",
            (false, Some(_)) => "fires after",
            (false, None) => "disarmed, was to fire after",
        };
        format!("{}, {state} {}", self.name, self.timeout)
    }

    fn timeout(&self) -> Option<Seconds> {
        Some(self.timeout)
    }

    fn pet(&mut self, _until: LocalInstant) -> Result<(), WatchdogError> {
        self.alive("a pet")?.pet()
    }

    fn stays_on(&self) -> bool {
        self.stays_on
    }

    fn disarm(&mut self) -> Result<(), WatchdogError> {
        self.alive("disarming")?;
        let Some(mut timer) = self.timer.take() else { return Ok(()) };
        if self.stays_on {
            take_leave(&mut timer, &self.name, self.timeout);
        }
        timer.disarm()
    }

    fn fire_at_once(&mut self) -> Result<Seconds, WatchdogError> {
        let present = self.timeout;
        let shortest = shortest_timeout(self.alive("firing")?, present);
        // Whatever the device said, this host is not vouched for again.
        self.condemned = true;
        self.timeout = shortest?;
        Ok(self.timeout)
    }
}

/// Nothing is guarded, and the device cannot be stopped: it gets the longest timeout it takes, and somebody else has to pet it in that time.
fn take_leave<T: Timer>(timer: &mut T, name: &str, present: Seconds) {
    let longer = std::iter::successors(Some(PARTING), |asked| Some(asked / 2)).take_while(|asked| *asked > present.0);
    let left = longer.filter_map(|asked| timer.set_timeout(Seconds(asked)).ok()).next().unwrap_or(present);
    tracing::error!(
        watchdog = name,
        left_s = left.0,
        "the watchdog cannot be stopped (nowayout): THIS HOST WILL BE RESET after this time, unless something opens the device and pets it: the \
         next daemon does when it starts, and systemd at a shutdown (RebootWatchdogSec)"
    );
}

/// The first timeout the device takes, counted up from 1 s to the present one. A refusal leaves its count as it is; the
/// one success starts it anew, with so little that W1's "at once" holds. At 1 s already it is best not touched at all.
fn shortest_timeout<T: Timer>(timer: &mut T, present: Seconds) -> Result<Seconds, WatchdogError> {
    let mut latest = Ok(present);
    for asked in 1..present.0 {
        latest = timer.set_timeout(Seconds(asked));
        if latest.is_ok() {
            break;
        }
    }
    latest
}

/// Rounded down; a single second stays one.
const fn even(seconds: Seconds) -> Seconds {
    Seconds(if seconds.0 > 1 { seconds.0 & !1 } else { seconds.0 })
}

impl Timer for WatchdogDevice {
    fn name(&self) -> String {
        format!("{} ({})", self.path().display(), self.identity())
    }

    /// Asked for an even number, which ib700 counts in: it takes an odd one, and reads it back, and counts one more.
    fn set_timeout(&mut self, asked: Seconds) -> Result<Seconds, WatchdogError> {
        match WatchdogDevice::set_timeout(self, even(asked)) {
            // A device with one fixed timeout: what it counts is what matters.
            Err(DeviceError::Os { source, .. }) if source.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                Ok(self.timeout()?)
            }
            other => Ok(other?),
        }
    }

    fn pet(&mut self) -> Result<(), WatchdogError> {
        Ok(WatchdogDevice::pet(self)?)
    }

    fn stays_on(&self) -> bool {
        told_by(self).and_then(|facts| facts.nowayout) == Some(true)
    }

    fn disarm(self) -> Result<(), WatchdogError> {
        let (name, left, path) = (Timer::name(&self), self.timeout(), self.path().to_owned());
        let (stays_on, told) = (Timer::stays_on(&self), told_by(&self).is_some());
        WatchdogDevice::disarm(self)?;
        let counts = Facts::of_device(&path, &Sysfs::default()).and_then(|facts| facts.counts) == Some(true);
        match left {
            // What could not be known before, or was not true.
            Ok(left) if counts && told && !stays_on => Err(WatchdogError::CountsOn { device: name, left }),
            _ => Ok(()),
        }
    }
}

/// The socket protocol of `holdfast fake-watchdog`.
///
/// A connection is an open device: being accepted opens it, and the first answer says whether it did. Then each request
/// gets one answer. Closing the connection closes the device.
///
/// | bytes | request | answer |
/// | --- | --- | --- |
/// | 0..4 | operation, u32 little-endian | status: 0, or an errno (`EBUSY`, `EINVAL`), u32 little-endian |
/// | 4..8 | argument in seconds, 0 where there is none | the timeout now in force in seconds, 0 if refused by `EBUSY` |
pub mod wire {
    /// Bytes of a request, and of an answer.
    pub const LEN: usize = 8;
    /// Pets (`WDIOC_KEEPALIVE`).
    pub const KEEPALIVE: u32 = 1;
    /// Sets the timeout, possibly rounded up, and pets (`WDIOC_SETTIMEOUT`).
    pub const SETTIMEOUT: u32 = 2;
    /// Only reads the timeout (`WDIOC_GETTIMEOUT`).
    pub const GETTIMEOUT: u32 = 3;
    /// Writes `V`: pets, and lets the close that follows disarm.
    pub const MAGIC_CLOSE: u32 = 4;

    /// Two words on the wire: (operation, argument), or (status, timeout).
    #[must_use]
    pub fn encode(first: u32, second: u32) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        let (head, tail) = bytes.split_at_mut(4);
        head.copy_from_slice(&first.to_le_bytes());
        tail.copy_from_slice(&second.to_le_bytes());
        bytes
    }

    /// The two words back.
    #[must_use]
    pub fn decode(bytes: [u8; LEN]) -> (u32, u32) {
        let [a, b, c, d, e, f, g, h] = bytes;
        (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
    }
}

/// A `fake-watchdog` opened through its socket.
#[derive(Debug)]
pub struct FakeDevice {
    stream: UnixStream,
    path: PathBuf,
    timeout: Seconds,
    /// An answer did not come in time: what comes later would be taken for the answer to something else.
    out_of_step: bool,
}

impl FakeDevice {
    /// How long an answer may take. A frozen fake-watchdog must not freeze the daemon for longer.
    const PATIENCE: Duration = Duration::from_secs(2);

    /// Opens the device, which arms and pets it.
    ///
    /// # Errors
    /// Nobody listens there, or another process has the device open (`EBUSY`).
    pub fn open(path: &Path) -> Result<Self, WatchdogError> {
        let failed = |source| WatchdogError::Socket { path: path.to_owned(), operation: "connect", source };
        let stream = UnixStream::connect(path).map_err(failed)?;
        stream.set_read_timeout(Some(Self::PATIENCE)).map_err(failed)?;
        stream.set_write_timeout(Some(Self::PATIENCE)).map_err(failed)?;
        let mut device = FakeDevice { stream, path: path.to_owned(), timeout: Seconds(0), out_of_step: false };
        device.answer("open")?;
        Ok(device)
    }

    /// The timeout of its latest answer.
    #[must_use]
    pub fn timeout(&self) -> Seconds {
        self.timeout
    }

    /// Asks for the timeout, without petting.
    ///
    /// # Errors
    /// No answer.
    pub fn read_timeout(&mut self) -> Result<Seconds, WatchdogError> {
        self.call("WDIOC_GETTIMEOUT", wire::encode(wire::GETTIMEOUT, 0))
    }

    fn call(&mut self, operation: &'static str, request: [u8; wire::LEN]) -> Result<Seconds, WatchdogError> {
        if self.out_of_step {
            let source = std::io::Error::other("an earlier answer is still owed");
            return Err(WatchdogError::Socket { path: self.path.clone(), operation, source });
        }
        if let Err(source) = self.stream.write_all(&request) {
            self.out_of_step = true;
            return Err(WatchdogError::Socket { path: self.path.clone(), operation, source });
        }
        self.answer(operation)
    }

    fn answer(&mut self, operation: &'static str) -> Result<Seconds, WatchdogError> {
        let mut bytes = [0; wire::LEN];
        if let Err(source) = self.stream.read_exact(&mut bytes) {
            self.out_of_step = true;
            return Err(WatchdogError::Socket { path: self.path.clone(), operation, source });
        }
        let (status, timeout) = wire::decode(bytes);
        if status != 0 {
            let source = Errno::from_raw(i32::try_from(status).unwrap_or(libc::EPROTO));
            return Err(WatchdogError::Refused { path: self.path.clone(), operation, source });
        }
        self.timeout = Seconds(timeout);
        Ok(self.timeout)
    }
}

impl Timer for FakeDevice {
    fn name(&self) -> String {
        format!("{} (fake-watchdog)", self.path.display())
    }

    fn set_timeout(&mut self, asked: Seconds) -> Result<Seconds, WatchdogError> {
        self.call("WDIOC_SETTIMEOUT", wire::encode(wire::SETTIMEOUT, asked.0))
    }

    fn pet(&mut self) -> Result<(), WatchdogError> {
        self.call("WDIOC_KEEPALIVE", wire::encode(wire::KEEPALIVE, 0)).map(|_timeout| ())
    }

    fn stays_on(&self) -> bool {
        Facts::of_fake(&self.path).and_then(|facts| facts.nowayout) == Some(true)
    }

    fn disarm(mut self) -> Result<(), WatchdogError> {
        self.call("write of V", wire::encode(wire::MAGIC_CLOSE, 0)).map(|_timeout| ())
    }
}

/// No watchdog: pets and disarms trivially, and can reset nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoWatchdog;

impl Watchdog for NoWatchdog {
    fn describe(&self) -> String {
        "none: nothing resets this host".to_owned()
    }

    fn timeout(&self) -> Option<Seconds> {
        None
    }

    fn pet(&mut self, _until: LocalInstant) -> Result<(), WatchdogError> {
        Ok(())
    }

    fn disarm(&mut self) -> Result<(), WatchdogError> {
        Ok(())
    }

    fn fire_at_once(&mut self) -> Result<Seconds, WatchdogError> {
        Err(WatchdogError::None { operation: "firing" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::sync::{Arc, Mutex};

    fn sealed(seconds: u64) -> FireTimeout {
        FireTimeout::new(seconds).unwrap()
    }

    /// A device that takes timeouts within a range, in steps rounded up, and notes what is done to it.
    #[derive(Clone, Debug)]
    struct Scripted {
        shortest: u32,
        longest: u32,
        step: u32,
        stays_on: bool,
        done: Arc<Mutex<Vec<String>>>,
    }

    impl Scripted {
        fn new(shortest: u32, longest: u32, step: u32) -> Self {
            Scripted { shortest, longest, step, stays_on: false, done: Arc::default() }
        }

        fn note(&self, what: String) {
            self.done.lock().unwrap().push(what);
        }

        fn done(&self) -> Vec<String> {
            self.done.lock().unwrap().clone()
        }
    }

    impl Timer for Scripted {
        fn name(&self) -> String {
            "/dev/watchdog7 (scripted)".to_owned()
        }

        fn set_timeout(&mut self, asked: Seconds) -> Result<Seconds, WatchdogError> {
            self.note(format!("set {}", asked.0));
            if asked.0 < self.shortest || asked.0 > self.longest {
                let path = PathBuf::from("/dev/watchdog7");
                return Err(WatchdogError::Refused { path, operation: "WDIOC_SETTIMEOUT", source: Errno::EINVAL });
            }
            Ok(Seconds(asked.0.next_multiple_of(self.step)))
        }

        fn pet(&mut self) -> Result<(), WatchdogError> {
            self.note("pet".to_owned());
            Ok(())
        }

        fn stays_on(&self) -> bool {
            self.stays_on
        }

        fn disarm(self) -> Result<(), WatchdogError> {
            self.note("disarm".to_owned());
            Ok(())
        }
    }

    #[test]
    fn a_device_is_asked_for_half_of_the_sealed_fire_timeout_less_two_ticks() {
        for (fire, half) in [(60, 29), (59, 28), (30, 14), (5, 1), (4, 1)] {
            let device = Scripted::new(1, 600, 1);
            let armed = Counting::arm(device.clone(), sealed(fire)).unwrap();
            assert_eq!(armed.timeout(), Some(Seconds(half)));
            assert_eq!(device.done(), [format!("set {half}")]);
        }
    }

    #[test]
    fn a_device_that_rounds_up_or_takes_less_is_asked_for_less() {
        let rounds_up = Scripted::new(1, 600, 16);
        assert_eq!(Counting::arm(rounds_up.clone(), sealed(60)).unwrap().timeout(), Some(Seconds(16)));
        assert_eq!(rounds_up.done(), ["set 29", "set 14"]);
        let takes_less = Scripted::new(1, 15, 1);
        assert_eq!(Counting::arm(takes_less, sealed(60)).unwrap().timeout(), Some(Seconds(14)));
    }

    #[test]
    fn a_device_that_cannot_count_short_enough_is_named_refused_and_disarmed() {
        let device = Scripted::new(1, 600, 60);
        let error = Counting::arm(device.clone(), sealed(60)).unwrap_err().to_string();
        let expected = "/dev/watchdog7 (scripted): asked to fire after 1 s, it counts 60 s: more than the 29 s that \
                        the fire timeout 60 s allows";
        assert_eq!(error, expected);
        assert_eq!(device.done().last().unwrap(), "disarm");
    }

    #[test]
    fn no_readback_above_half_is_ever_accepted() {
        for fire in 4..=60 {
            for step in 1..=64 {
                if let Ok(found) = plan(sealed(fire), "d", |asked| Ok(Seconds(asked.0.next_multiple_of(step)))) {
                    assert!(u64::from(found.0) * 2 + 2 <= fire, "fire {fire}, step {step}: {found}");
                } else {
                    assert!(u64::from(step) * 2 + 2 > fire, "fire {fire}, step {step}: refused without need");
                }
            }
        }
    }

    #[test]
    fn firing_at_once_takes_the_shortest_timeout_and_nothing_prolongs_it_after() {
        let device = Scripted::new(4, 600, 1);
        let mut armed = Counting::arm(device.clone(), sealed(60)).unwrap();
        armed.pet(LocalInstant::NEVER).unwrap();
        assert_eq!(armed.fire_at_once().unwrap(), Seconds(4));
        assert_eq!(device.done(), ["set 29", "pet", "set 1", "set 2", "set 3", "set 4"]);
        let refused = armed.pet(LocalInstant::NEVER).unwrap_err().to_string();
        assert_eq!(refused, "/dev/watchdog7 (scripted): a pet after it was left to fire");
        assert!(armed.disarm().is_err());
        assert!(armed.fire_at_once().is_err());
        assert_eq!(device.done().len(), 6, "nothing more was done to the device");
        assert_eq!(armed.describe(), "/dev/watchdog7 (scripted), left to fire after 4 s");
    }

    #[test]
    fn a_device_that_takes_no_shorter_timeout_is_still_never_petted_again() {
        let device = Scripted::new(29, 600, 1);
        let mut armed = Counting::arm(device.clone(), sealed(60)).unwrap();
        assert!(matches!(armed.fire_at_once(), Err(WatchdogError::Refused { source: Errno::EINVAL, .. })));
        assert!(armed.pet(LocalInstant::NEVER).is_err());
        assert!(!device.done().contains(&"pet".to_owned()));
    }

    #[test]
    fn a_device_that_cannot_be_stopped_is_left_with_the_longest_timeout_it_takes() {
        for (longest, parting) in
            [(2046, "set 600"), (255, "set 600, set 300, set 150"), (30, "set 600, set 300, set 150, set 75, set 37")]
        {
            let device = Scripted { stays_on: true, ..Scripted::new(1, longest, 1) };
            let mut armed = Counting::arm(device.clone(), sealed(60)).unwrap();
            assert!(armed.stays_on());
            armed.disarm().unwrap();
            assert_eq!(device.done().join(", "), format!("set 29, {parting}, disarm"), "longest {longest}");
        }
    }

    #[test]
    fn lateness_as_it_was_measured_leaves_room_under_every_fire_timeout() {
        for fire in 4..=60 {
            let found = plan(sealed(fire), "d", |asked| Ok(even(asked))).unwrap();
            // i6300esb is late by 0.65 %; ib700 counts in steps of two seconds, whatever it was told.
            let late = [f64::from(found.0) * 1.0065, f64::from(found.0.next_multiple_of(2))];
            for counted in late {
                assert!(
                    counted <= f64::from(found.0) + 1.0,
                    "A6 under fire timeout {fire}: {found} became {counted} s"
                );
                assert!(counted * 2.0 <= fire as f64, "two counts under fire timeout {fire}");
            }
        }
    }

    #[test]
    fn a_disarmed_device_takes_no_pet() {
        let mut armed = Counting::arm(Scripted::new(1, 600, 1), sealed(60)).unwrap();
        armed.disarm().unwrap();
        let refused = armed.pet(LocalInstant::NEVER).unwrap_err().to_string();
        assert_eq!(refused, "/dev/watchdog7 (scripted): a pet after it was disarmed");
        assert!(armed.fire_at_once().is_err());
    }

    #[test]
    fn none_vouches_for_nothing() {
        let mut none = Choice::parse("none").unwrap().open(sealed(60), "test").unwrap();
        assert_eq!(none.timeout(), None);
        none.pet(LocalInstant::NEVER).unwrap();
        none.disarm().unwrap();
        let error = none.fire_at_once().unwrap_err().to_string();
        assert_eq!(error, "firing: there is no watchdog, nothing resets this host");
    }

    #[test]
    fn a_value_that_cannot_be_served_says_which_can() {
        let error = Choice::parse("").unwrap_err().to_string();
        assert_eq!(
            error,
            "watchdog \"\" is not supported in this version: expected a device such as /dev/watchdog0, wdmd, the \
             socket of a fake-watchdog, or none"
        );
        let error = Choice::parse("/proc").unwrap_err().to_string();
        assert!(error.ends_with("or one of the words wdmd and none; found a directory"), "{error}");
        let error = Choice::parse("/dev/no-such").unwrap_err().to_string();
        assert!(error.starts_with("/dev/no-such: expected") && error.contains("No such file"), "{error}");
        assert!(
            error
                .contains("`modprobe softdog`, which resets a host whose programs hang, but not one whose kernel does"),
            "{error}"
        );
        let device = Choice::parse("/dev/null").unwrap();
        assert_eq!(device, Choice::Device("/dev/null".into()));
        let Err(error) = device.open(sealed(60), "test") else { panic!("/dev/null is no watchdog") };
        assert!(error.to_string().starts_with("/dev/null: WDIOC_GETSUPPORT failed"), "{error}");
    }

    #[test]
    fn a_busy_fake_refuses_by_name_and_a_silent_one_is_never_trusted_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wd");
        let listener = UnixListener::bind(&path).unwrap();
        let busy = Choice::parse(path.to_str().unwrap()).unwrap();
        assert_eq!(busy, Choice::Fake(path.clone()));
        let server = std::thread::spawn(move || {
            let (mut first, _) = listener.accept().unwrap();
            first.write_all(&wire::encode(libc::EBUSY as u32, 0)).unwrap();
            let (mut second, _) = listener.accept().unwrap();
            second.write_all(&wire::encode(0, 60)).unwrap();
            let mut request = [0; wire::LEN];
            second.read_exact(&mut request).unwrap();
            request // and hangs up without an answer
        });
        let Err(error) = busy.open(sealed(60), "test") else { panic!("opened although busy") };
        assert_eq!(error.to_string(), format!("{}: open refused: EBUSY: Device or resource busy", path.display()));
        let mut device = FakeDevice::open(&path).unwrap();
        assert_eq!(device.timeout(), Seconds(60));
        assert!(device.pet().is_err());
        assert_eq!(wire::decode(server.join().unwrap()), (wire::KEEPALIVE, 0));
        let again = device.pet().unwrap_err().to_string();
        assert!(again.ends_with("WDIOC_KEEPALIVE failed: an earlier answer is still owed"), "{again}");
    }
}
