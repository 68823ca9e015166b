//! `/etc/sanlock/sanlock.conf`, read where there is no holdfast.toml: a site that changes over keeps what it has set (spec B 7).
//!
//! Lines `key = value`; a `#` in the first column is a comment; the value is the first word. What has a meaning here is taken over;
//! what has none is named once in the log, and is no error, as in sanlock.

use std::path::Path;

use crate::config::{ConfigError, ConfigFile};

/// Where it is.
pub const PATH: &str = "/etc/sanlock/sanlock.conf";

/// Keys of sanlock's that mean nothing here: how it logs, reads disks and uses threads.
const WITHOUT_MEANING: &[&str] = &[
    "quiet_fail",
    "debug_renew",
    "use_aio",
    "logfile_priority",
    "syslog_priority",
    "logfile_use_utc",
    "names_log_priority",
    "high_priority",
    "sh_retries",
    "renewal_read_extend_sec",
    "write_init_io_timeout",
    "renewal_history_size",
    "paxos_debug_all",
    "debug_io",
    "debug_clients",
    "debug_cmd",
    "max_sectors_kb",
    "max_worker_threads",
];

/// Reads the file; one that is not there is empty.
///
/// # Errors
/// [`ConfigError`], with path, line, key and value.
pub fn read(path: &Path) -> Result<ConfigFile, ConfigError> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            tracing::info!(path = %path.display(), "configured by sanlock's file");
            parse(path, &text)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(ConfigFile::default()),
        Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
    }
}

fn parse(path: &Path, text: &str) -> Result<ConfigFile, ConfigError> {
    // sanlock's own default.
    let mut file = ConfigFile { watchdog: Some("wdmd".to_owned()), ..ConfigFile::default() };
    for (line, number) in text.lines().zip(1..) {
        let Some((key, rest)) = line.split_once('=').filter(|_| !line.starts_with('#')) else { continue };
        let (key, value) = (key.trim(), rest.split_whitespace().next().unwrap_or(""));
        let bad = |expected| ConfigError::Line {
            path: path.to_owned(),
            line: number,
            key: key.to_owned(),
            found: value.to_owned(),
            expected,
        };
        let count = || value.parse::<u64>().map_err(|_| bad("a number"));
        match key {
            "our_host_name" => file.host_name = Some(value.to_owned()),
            "use_watchdog" => match count()? {
                // Whoever wrote this for sanlock has said it in so many words.
                0 => (file.watchdog, file.unsafe_no_watchdog) = (Some("none".to_owned()), Some(true)),
                1 => (file.watchdog, file.unsafe_no_watchdog) = (Some("wdmd".to_owned()), None),
                _ => return Err(bad("0 or 1")),
            },
            "mlock_level" => file.lock_memory = Some(count()? > 0),
            "uname" => file.user = Some(value.to_owned()),
            "gname" => file.group = Some(value.to_owned()),
            "io_timeout" => file.io_timeout = Some(count()?),
            "watchdog_fire_timeout" => file.watchdog_fire_timeout = Some(count()?),
            "kill_grace_seconds" => file.kill_grace_seconds = Some(count()?),
            _ if WITHOUT_MEANING.contains(&key) => {
                tracing::info!(path = %path.display(), line = number, key, "has no meaning here");
            }
            _ => tracing::warn!(path = %path.display(), line = number, key, "is no key of sanlock's"),
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<ConfigFile, String> {
        parse(Path::new("/etc/sanlock/sanlock.conf"), text).map_err(|e| e.to_string())
    }

    #[test]
    fn what_a_site_has_set_is_kept_and_what_has_no_meaning_is_passed_over() {
        let text = "# our_host_name = comment\nour_host_name = alpha beta\nuse_watchdog=0\n  io_timeout =  5 \n\
                    mlock_level = 0\nuname = sanlock\ngname=disk\nsh_retries = 8\ndebug_cmd = +all\nnobody_knows = 1\n\
                    watchdog_fire_timeout = 30\nkill_grace_seconds = 7\nno sign\n";
        let wanted = ConfigFile {
            host_name: Some("alpha".into()),
            watchdog: Some("none".into()),
            unsafe_no_watchdog: Some(true),
            io_timeout: Some(5),
            lock_memory: Some(false),
            user: Some("sanlock".into()),
            group: Some("disk".into()),
            watchdog_fire_timeout: Some(30),
            kill_grace_seconds: Some(7),
            ..ConfigFile::default()
        };
        assert_eq!(parsed(text), Ok(wanted));
        let through_wdmd = ConfigFile { watchdog: Some("wdmd".into()), ..ConfigFile::default() };
        assert_eq!(parsed("use_watchdog = 1\n"), Ok(through_wdmd.clone()));
        assert_eq!(parsed("# use_watchdog = 0\n"), Ok(through_wdmd));
    }

    #[test]
    fn a_value_that_cannot_be_is_named_with_its_line() {
        assert_eq!(
            parsed("\nio_timeout = soon\n").unwrap_err(),
            "configuration /etc/sanlock/sanlock.conf, line 2: io_timeout is \"soon\", expected a number"
        );
        assert!(parsed("use_watchdog = 2").unwrap_err().contains("expected 0 or 1"));
    }

    #[test]
    fn a_file_that_is_not_there_says_nothing() {
        assert_eq!(read(Path::new("/nowhere/sanlock.conf")).unwrap(), ConfigFile::default());
    }
}
