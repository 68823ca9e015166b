//! The Linux watchdog device: a timer that resets the machine unless it is petted in time.
//!
//! What the device does, and every user of this module has to know:
//!
//! | event | effect |
//! | --- | --- |
//! | `open(2)` | starts the timer and pets it; only one opener at a time (`EBUSY`) |
//! | `WDIOC_KEEPALIVE`, any `write(2)` | pets |
//! | `WDIOC_SETTIMEOUT` | sets a timeout, which the driver may round or clamp, and pets |
//! | `close(2)` without `V` written before | pets once more and goes on counting |
//! | `close(2)` after `V` was written | stops the timer; with `nowayout`: pets once more, and it goes on counting |
//!
//! So a process that dies is no disarm: the device counts on from the moment its last descriptor was closed. That
//! last, unasked pet is why a device's own timeout may be at most half of the fire timeout promised on disk (D3).
//! A driver without `WDIOF_MAGICCLOSE` stops at *any* close; under it a killed daemon would leave a host that is
//! never reset, so [`WatchdogDevice::open`] refuses it.
//!
//! Units: whole seconds, as in the ioctls. Errors: [`WatchdogError`], with the path and the operation.
//! Source: `Documentation/watchdog/watchdog-api.rst` and `include/uapi/linux/watchdog.h` of the Linux kernel.
#![allow(unsafe_code)]

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;

/// Whole seconds, the only unit a watchdog device knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seconds(pub u32);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0)
    }
}

impl From<Seconds> for std::time::Duration {
    fn from(seconds: Seconds) -> Self {
        std::time::Duration::from_secs(u64::from(seconds.0))
    }
}

/// What a watchdog device refused or could not do.
#[derive(Debug, thiserror::Error)]
pub enum WatchdogError {
    /// The path is not a character device, so no watchdog.
    #[error("{}: expected a watchdog device, found {found}", path.display())]
    NotADevice {
        /// The path that was given.
        path: PathBuf,
        /// What is there instead.
        found: &'static str,
    },
    /// Closing this device without `V` would stop it: it cannot guard against the death of its owner.
    #[error(
        "{}: the watchdog {identity:?} has no magic close (options 0x{options:x}): it stops when its owner dies",
        path.display()
    )]
    NoMagicClose {
        /// The device.
        path: PathBuf,
        /// Its name for itself.
        identity: String,
        /// `options` of `struct watchdog_info` as found.
        options: u32,
    },
    /// The device answered a question with a number that makes no sense.
    #[error("{}: {operation} answered {found}, expected 1 or more seconds", path.display())]
    Nonsense {
        /// The device.
        path: PathBuf,
        /// The ioctl.
        operation: &'static str,
        /// What it answered.
        found: i32,
    },
    /// A system call failed.
    #[error("{}: {operation} failed: {source}", path.display())]
    Os {
        /// The device.
        path: PathBuf,
        /// The call or ioctl.
        operation: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

/// `struct watchdog_info`.
#[repr(C)]
#[derive(Clone, Copy)]
struct WatchdogInfo {
    options: u32,
    firmware_version: u32,
    identity: [u8; 32],
}
const _: () = assert!(size_of::<WatchdogInfo>() == 40);

/// `WDIOF_MAGICCLOSE`: the device goes on counting when it is closed without `V`.
const MAGIC_CLOSE: u32 = 0x0100;
/// `WDIOF_PRETIMEOUT`: the device can raise an alarm some seconds before it fires.
const PRETIMEOUT: u32 = 0x0200;
/// `WDIOF_CARDRESET`, of [`WatchdogDevice::boot_status`]: this device has reset the machine.
pub const CARD_RESET: u32 = 0x0020;

mod ioctl {
    use super::WatchdogInfo;
    use nix::libc::c_int;

    nix::ioctl_read!(get_support, b'W', 0, WatchdogInfo);
    nix::ioctl_read!(get_boot_status, b'W', 2, c_int);
    nix::ioctl_read!(keepalive, b'W', 5, c_int);
    nix::ioctl_readwrite!(set_timeout, b'W', 6, c_int);
    nix::ioctl_read!(get_timeout, b'W', 7, c_int);
    nix::ioctl_read!(get_pretimeout, b'W', 9, c_int);
}

/// An open, and therefore counting, watchdog device.
///
/// Dropping it is what the death of the process is: the kernel closes the descriptor without `V`, pets the device
/// once more and lets it count on to the reset. Only [`disarm`](Self::disarm) stops it.
#[derive(Debug)]
pub struct WatchdogDevice {
    file: File,
    path: PathBuf,
    identity: String,
    options: u32,
}

impl WatchdogDevice {
    /// Opens the device, which arms *and pets* it at once: call this only when the host may be vouched for.
    ///
    /// # Errors
    /// A path that is no character device (nothing is opened), a device another process has open (`EBUSY`), one that
    /// is no watchdog, and one without magic close.
    pub fn open(path: &Path) -> Result<Self, WatchdogError> {
        // Looked at before it is opened: opening some other device, a tape or a serial line, has effects of its own.
        let metadata = std::fs::metadata(path).map_err(|source| os_error(path, "stat", source))?;
        if !metadata.file_type().is_char_device() {
            return Err(WatchdogError::NotADevice { path: path.to_owned(), found: describe(metadata.file_type()) });
        }
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_CLOEXEC)
            .open(path)
            .map_err(|source| os_error(path, "open", source))?;
        let mut info = WatchdogInfo { options: 0, firmware_version: 0, identity: [0; 32] };
        // SAFETY: the descriptor is open, and `info` is a live, writable `struct watchdog_info` of the size encoded
        // in the request, any content of which is valid.
        let asked = unsafe { ioctl::get_support(file.as_raw_fd(), &raw mut info) };
        asked.map_err(|errno| os_error(path, "WDIOC_GETSUPPORT", errno.into()))?;
        let identity = identity_text(&info.identity);
        if info.options & MAGIC_CLOSE == 0 {
            return Err(WatchdogError::NoMagicClose { path: path.to_owned(), identity, options: info.options });
        }
        Ok(WatchdogDevice { file, path: path.to_owned(), identity, options: info.options })
    }

    /// The driver's name for the device, such as `i6300ESB timer`.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Asks for a timeout, which pets the device, and returns the timeout as *read back*, which may be another one.
    ///
    /// # Errors
    /// The driver's refusal, for instance `EINVAL` for a timeout it does not take.
    pub fn set_timeout(&mut self, asked: Seconds) -> Result<Seconds, WatchdogError> {
        let mut value = libc::c_int::try_from(asked.0).unwrap_or(libc::c_int::MAX);
        // SAFETY: the descriptor is open, and `value` is a live, writable int, which is what the request names.
        let set = unsafe { ioctl::set_timeout(self.file.as_raw_fd(), &raw mut value) };
        self.checked("WDIOC_SETTIMEOUT", set)?;
        self.timeout()
    }

    /// The timeout the device counts with.
    ///
    /// # Errors
    /// The driver's refusal, or a number below 1.
    pub fn timeout(&self) -> Result<Seconds, WatchdogError> {
        const OPERATION: &str = "WDIOC_GETTIMEOUT";
        let mut value: libc::c_int = 0;
        // SAFETY: the descriptor is open, and `value` is a live, writable int, which is what the request names.
        let asked = unsafe { ioctl::get_timeout(self.file.as_raw_fd(), &raw mut value) };
        self.checked(OPERATION, asked)?;
        match u32::try_from(value) {
            Ok(seconds) if seconds > 0 => Ok(Seconds(seconds)),
            _ => Err(WatchdogError::Nonsense { path: self.path.clone(), operation: OPERATION, found: value }),
        }
    }

    /// Starts the count anew.
    ///
    /// # Errors
    /// The driver's refusal; whether the device was petted is then unknown.
    pub fn pet(&mut self) -> Result<(), WatchdogError> {
        let mut unused: libc::c_int = 0;
        // SAFETY: the descriptor is open; the request names an int, and a live, writable one is given.
        let petted = unsafe { ioctl::keepalive(self.file.as_raw_fd(), &raw mut unused) };
        self.checked("WDIOC_KEEPALIVE", petted)
    }

    /// Flags (`WDIOF_*`) of why the machine last started: [`CARD_RESET`] when this device reset it.
    ///
    /// # Errors
    /// The driver's refusal.
    pub fn boot_status(&self) -> Result<u32, WatchdogError> {
        let mut value: libc::c_int = 0;
        // SAFETY: the descriptor is open, and `value` is a live, writable int, which is what the request names.
        let asked = unsafe { ioctl::get_boot_status(self.file.as_raw_fd(), &raw mut value) };
        self.checked("WDIOC_GETBOOTSTATUS", asked)?;
        Ok(value.cast_unsigned())
    }

    /// How long before it fires the device raises its alarm; `None` where it has none, or has it turned off.
    ///
    /// # Errors
    /// The driver's refusal.
    pub fn pretimeout(&self) -> Result<Option<Seconds>, WatchdogError> {
        if self.options & PRETIMEOUT == 0 {
            return Ok(None);
        }
        let mut value: libc::c_int = 0;
        // SAFETY: the descriptor is open, and `value` is a live, writable int, which is what the request names.
        let asked = unsafe { ioctl::get_pretimeout(self.file.as_raw_fd(), &raw mut value) };
        self.checked("WDIOC_GETPRETIMEOUT", asked)?;
        Ok(u32::try_from(value).ok().filter(|seconds| *seconds > 0).map(Seconds))
    }

    /// Writes `V` and closes the device, which stops it - unless its driver was loaded with `nowayout`, which no ioctl
    /// tells: then the close pets it, it counts on, and the host is reset.
    ///
    /// # Errors
    /// The write's failure. The device is closed all the same, and counts on.
    pub fn disarm(mut self) -> Result<(), WatchdogError> {
        self.file.write_all(b"V").map_err(|source| os_error(&self.path, "write of V", source))
    }

    fn checked(&self, operation: &'static str, result: Result<i32, Errno>) -> Result<(), WatchdogError> {
        match result {
            Ok(_) => Ok(()),
            Err(errno) => Err(os_error(&self.path, operation, errno.into())),
        }
    }
}

fn os_error(path: &Path, operation: &'static str, source: std::io::Error) -> WatchdogError {
    WatchdogError::Os { path: path.to_owned(), operation, source }
}

/// The identity up to its first NUL; drivers are not obliged to write UTF-8, nor a NUL.
fn identity_text(field: &[u8; 32]) -> String {
    let text = field.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

fn describe(kind: std::fs::FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_block_device() {
        "a block device"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_fifo() {
        "a pipe"
    } else {
        "a file"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_the_numbers_of_the_kernel_header() {
        // As printed by a C program that includes linux/watchdog.h on x86_64.
        assert_eq!(nix::request_code_read!(b'W', 0, size_of::<WatchdogInfo>()), 0x8028_5700);
        assert_eq!(nix::request_code_read!(b'W', 2, size_of::<libc::c_int>()), 0x8004_5702);
        assert_eq!(nix::request_code_read!(b'W', 5, size_of::<libc::c_int>()), 0x8004_5705);
        assert_eq!(nix::request_code_readwrite!(b'W', 6, size_of::<libc::c_int>()), 0xc004_5706);
        assert_eq!(nix::request_code_read!(b'W', 7, size_of::<libc::c_int>()), 0x8004_5707);
        assert_eq!(nix::request_code_read!(b'W', 9, size_of::<libc::c_int>()), 0x8004_5709);
    }

    #[test]
    fn a_plain_file_is_refused_before_it_is_opened() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = WatchdogDevice::open(file.path()).unwrap_err().to_string();
        assert_eq!(error, format!("{}: expected a watchdog device, found a file", file.path().display()));
        let error = WatchdogDevice::open(Path::new("/proc")).unwrap_err().to_string();
        assert_eq!(error, "/proc: expected a watchdog device, found a directory");
    }

    #[test]
    fn a_character_device_that_is_no_watchdog_is_refused_by_name() {
        let error = WatchdogDevice::open(Path::new("/dev/null")).unwrap_err();
        assert!(matches!(&error, WatchdogError::Os { operation: "WDIOC_GETSUPPORT", .. }), "{error}");
        assert!(error.to_string().starts_with("/dev/null: WDIOC_GETSUPPORT failed: "), "{error}");
    }

    #[test]
    fn a_missing_device_is_refused_by_name() {
        let error = WatchdogDevice::open(Path::new("/dev/no-such-watchdog")).unwrap_err().to_string();
        assert!(error.starts_with("/dev/no-such-watchdog: stat failed: "), "{error}");
    }

    #[test]
    fn an_identity_without_a_nul_is_taken_whole() {
        assert_eq!(identity_text(&[b'x'; 32]), "x".repeat(32));
        let mut field = [0; 32];
        field[..7].copy_from_slice(b"softdog");
        assert_eq!(identity_text(&field), "softdog");
    }
}
