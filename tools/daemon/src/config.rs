//! What the administrator decides: the command line over `/etc/holdfast/holdfast.toml` over defaults. Where that file is not there,
//! sanlock's own is read (`sanlock_conf.rs`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_io::ids::{HostName, NameError};
use holdfast_io::timing::{FireTimeout, IoTimeout, Timing, Wdmd};
use serde::Deserialize;

use crate::sanlock_conf;

/// Where the file is when nothing else is said.
pub const DEFAULT_PATH: &str = "/etc/holdfast/holdfast.toml";

/// The file. Every key may be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    /// Our host name; the system's if absent.
    pub host_name: Option<String>,
    /// A device, `wdmd`, the socket of a fake-watchdog, or `none`.
    pub watchdog: Option<String>,
    /// The administrator knows what it means that there is none.
    pub unsafe_no_watchdog: Option<bool>,
    /// Seconds, 4 to 60: sealed on disk; the device gets not quite half.
    pub watchdog_fire_timeout: Option<u64>,
    /// Seconds, 1 to 255, for lockspaces added without one.
    pub io_timeout: Option<u64>,
    /// Seconds from SIGTERM to SIGKILL; as long as the fire timeout allows, if absent.
    pub kill_grace_seconds: Option<u64>,
    /// `auto` or `threads`.
    pub io_engine: Option<String>,
    /// A lease outlives the descriptor of its connection until its process is gone.
    pub strict_clients: Option<bool>,
    /// Whether memory is locked; it is, if absent.
    pub lock_memory: Option<bool>,
    /// Whose socket it is.
    pub user: Option<String>,
    /// And of which group.
    pub group: Option<String>,
    /// Lockspaces to join at start, as `NAME:HOST_ID:PATH:OFFSET`.
    #[serde(default)]
    pub lockspaces: Vec<String>,
}

/// Everything decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Our host name.
    pub host_name: HostName,
    /// Which watchdog, as written.
    pub watchdog: String,
    /// Block devices may be used without one.
    pub unsafe_no_watchdog: bool,
    /// What is sealed.
    pub fire_timeout: FireTimeout,
    /// For lockspaces added without one.
    pub io_timeout: IoTimeout,
    /// From SIGTERM to SIGKILL, shortened to what the fire timeout leaves.
    pub kill_grace: Duration,
    /// The grace that was asked for, if it was shortened.
    pub asked_grace: Option<Duration>,
    /// A lease outlives the descriptor of its connection until its process is gone.
    pub strict_clients: bool,
    /// Whether memory is locked.
    pub lock_memory: bool,
    /// Whose socket it is.
    pub user: Option<String>,
    /// And of which group.
    pub group: Option<String>,
    /// Lockspaces to join at start.
    pub lockspaces: Vec<String>,
}

impl Config {
    /// What is in force once `new` was read: what cannot change while the daemon runs stays.
    #[must_use]
    pub fn taking(&self, new: &Config) -> Config {
        let Config { host_name, watchdog, unsafe_no_watchdog, fire_timeout, lock_memory, user, group, .. } =
            self.clone();
        Config { host_name, watchdog, unsafe_no_watchdog, fire_timeout, lock_memory, user, group, ..new.clone() }
    }

    /// Of what cannot change while the daemon runs: what reads otherwise in `new` than it last did, `before`, and whether that waits for
    /// a restart. So each change is told once, however often the configuration is read.
    #[must_use]
    pub fn news(&self, before: &Config, new: &Config) -> Vec<(&'static str, bool)> {
        let differs = before.fixed(new).into_iter().zip(self.fixed(new));
        differs.filter(|((_, changed), _)| *changed).map(|(_, waits)| waits).collect()
    }

    fn fixed(&self, new: &Config) -> [(&'static str, bool); 7] {
        [
            ("host_name", self.host_name != new.host_name),
            ("watchdog", self.watchdog != new.watchdog),
            ("unsafe_no_watchdog", self.unsafe_no_watchdog != new.unsafe_no_watchdog),
            ("watchdog_fire_timeout", self.fire_timeout != new.fire_timeout),
            ("lock_memory", self.lock_memory != new.lock_memory),
            ("user", self.user != new.user),
            ("group", self.group != new.group),
        ]
    }
}

/// A setting that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is not TOML, or has keys nobody knows.
    #[error("configuration {path}: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A line of sanlock's file.
    #[error("configuration {path}, line {line}: {key} is {found:?}, expected {expected}")]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// The key.
        key: String,
        /// As given.
        found: String,
        /// What could be.
        expected: &'static str,
    },
    /// A value outside its range.
    #[error("{key} is {found}, expected {expected}")]
    Range {
        /// The key or option.
        key: &'static str,
        /// As given.
        found: String,
        /// What could be.
        expected: &'static str,
    },
    /// A host name that cannot stand in a delta sector.
    #[error("host name: {0}")]
    HostName(#[from] NameError),
}

impl ConfigFile {
    /// Reads a file. Where none was named and there is none of ours, sanlock's.
    ///
    /// # Errors
    /// [`ConfigError::Read`] or [`ConfigError::Parse`].
    pub fn read(named: Option<&Path>) -> Result<Self, ConfigError> {
        let path = named.map_or_else(|| PathBuf::from(DEFAULT_PATH), Path::to_owned);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && named.is_none() => {
                return sanlock_conf::read(Path::new(sanlock_conf::PATH));
            }
            Err(source) => return Err(ConfigError::Read { path, source }),
        };
        toml::from_str(&text).map_err(|source| ConfigError::Parse { path, source: Box::new(source) })
    }

    /// Fills in what is not said.
    ///
    /// # Errors
    /// [`ConfigError::Range`] or [`ConfigError::HostName`].
    pub fn decide(self) -> Result<Config, ConfigError> {
        let host_name = match self.host_name {
            Some(name) => HostName::new(name.as_bytes())?,
            None => default_host_name()?,
        };
        let fire = self.watchdog_fire_timeout.unwrap_or(60);
        let fire_timeout = FireTimeout::new(fire).ok_or_else(|| ConfigError::Range {
            key: "watchdog_fire_timeout",
            found: fire.to_string(),
            expected: "4 to 60 seconds: hosts without a seal take everybody to be reset after 60",
        })?;
        let io = self.io_timeout.unwrap_or(10);
        let io_timeout = IoTimeout::new(io).ok_or_else(|| ConfigError::Range {
            key: "io_timeout",
            found: io.to_string(),
            expected: "1 to 255 seconds",
        })?;
        let watchdog = self.watchdog.unwrap_or_else(|| "/dev/watchdog".to_owned());
        if watchdog == "wdmd" {
            suits_wdmd(fire_timeout, io_timeout)?;
        }
        if let Some(engine) = self.io_engine.filter(|e| e != "auto" && e != "threads") {
            return Err(ConfigError::Range { key: "io_engine", found: engine, expected: "auto or threads" });
        }
        let longest = Timing::longest_kill_grace(fire_timeout);
        let asked = self.kill_grace_seconds.map_or(longest.min(Duration::from_secs(40)), Duration::from_secs);
        Ok(Config {
            host_name,
            watchdog,
            unsafe_no_watchdog: self.unsafe_no_watchdog.unwrap_or(false),
            fire_timeout,
            io_timeout,
            kill_grace: asked.min(longest),
            asked_grace: (asked > longest).then_some(asked),
            strict_clients: self.strict_clients.unwrap_or(false),
            lock_memory: self.lock_memory.unwrap_or(true),
            user: self.user,
            group: self.group,
            lockspaces: self.lockspaces,
        })
    }
}

/// wdmd has one fire timeout for all, and gives a host up ten seconds before its time is over.
fn suits_wdmd(fire_timeout: FireTimeout, io_timeout: IoTimeout) -> Result<(), ConfigError> {
    if fire_timeout != Wdmd::FIRE {
        let (key, found) = ("watchdog_fire_timeout", fire_timeout.to_string());
        return Err(ConfigError::Range { key, found, expected: "60 seconds with wdmd, whose device takes no other" });
    }
    if !Timing::new(io_timeout, fire_timeout).suits_wdmd() {
        let (key, found) = ("io_timeout", io_timeout.to_string());
        return Err(ConfigError::Range {
            key,
            found,
            expected: "2 to 255 seconds with wdmd, which gives a host up 10 seconds before its time is over",
        });
    }
    Ok(())
}

/// The node name: stable across restarts and reboots, so that a host can take its own host_id back quickly (P1).
fn default_host_name() -> Result<HostName, ConfigError> {
    let node = nix::unistd::gethostname().unwrap_or_default();
    let bytes = std::os::unix::ffi::OsStrExt::as_bytes(node.as_os_str());
    Ok(HostName::new(&bytes[..bytes.len().min(holdfast_io::ids::NAME_LEN)])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        toml::from_str::<ConfigFile>(text).unwrap().decide()
    }

    #[test]
    fn nothing_said_gives_sanlocks_times_and_a_stable_name() {
        let config = parse("").unwrap();
        assert_eq!(config.fire_timeout, FireTimeout::SANLOCK);
        assert_eq!(config.io_timeout, IoTimeout::DEFAULT);
        assert_eq!(config.host_name, parse("").unwrap().host_name);
    }

    #[test]
    fn a_grace_longer_than_the_fire_timeout_allows_is_shortened_and_remembered() {
        let config = parse("watchdog_fire_timeout = 30\nkill_grace_seconds = 40").unwrap();
        assert_eq!(config.kill_grace, Timing::longest_kill_grace(FireTimeout::new(30).unwrap()));
        assert_eq!(config.asked_grace, Some(Duration::from_secs(40)));
        assert_eq!(parse("kill_grace_seconds = 3").unwrap().asked_grace, None);
    }

    #[test]
    fn a_setting_that_needs_a_restart_is_told_once_and_stays_in_force() {
        let (start, changed) = (parse("group = 'a'").unwrap(), parse("group = 'b'\nio_timeout = 5").unwrap());
        assert_eq!(start.news(&start, &changed), [("group", true)]);
        let in_force = start.taking(&changed);
        assert_eq!((in_force.group.as_deref(), in_force.io_timeout.seconds()), (Some("a"), 5));
        assert_eq!(in_force.news(&changed, &changed), [], "told already");
        assert_eq!(in_force.news(&changed, &start), [("group", false)], "as it is in force again");
        assert_eq!(in_force.news(&start, &changed), [("group", true)]);
    }

    #[test]
    fn values_out_of_range_are_refused_with_what_could_be() {
        let error = parse("watchdog_fire_timeout = 61").unwrap_err().to_string();
        assert!(error.contains("61") && error.contains("4 to 60"), "{error}");
        assert!(parse("io_timeout = 0").is_err());
        let error = parse("watchdog = 'wdmd'\nwatchdog_fire_timeout = 59").unwrap_err().to_string();
        assert_eq!(error, "watchdog_fire_timeout is 59 s, expected 60 seconds with wdmd, whose device takes no other");
        let error = parse("watchdog = 'wdmd'\nio_timeout = 1").unwrap_err().to_string();
        assert!(error.starts_with("io_timeout is 1 s, expected 2 to 255 seconds with wdmd"), "{error}");
        assert!(parse("watchdog = 'wdmd'\nio_timeout = 2").is_ok());
        assert!(parse("io_engine = 'tape'").is_err());
        assert!(toml::from_str::<ConfigFile>("no_such_key = 1").is_err());
    }
}
