//! What a host of the demonstration tells, one JSON object a line on its standard output, which its first process, its
//! guarded program and its fake watchdog share. The watchdog's own line is no JSON; [`Fired`] reads it.

use std::io::Write as _;
use std::time::Duration;

use holdfast_io::clock::LocalInstant;
use serde::{Deserialize, Serialize};

/// Something happened on a host. Instants are nanoseconds of `CLOCK_BOOTTIME`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The daemon was started.
    Daemon {
        /// Its process.
        pid: i32,
    },
    /// The guarded program was started.
    Program {
        /// Its process.
        pid: i32,
    },
    /// The program was refused the lease.
    Refused {
        /// When.
        at: u64,
        /// The daemon's answer.
        code: i32,
        /// The same in words.
        why: String,
        /// The answer to EXPLAIN.
        explained: serde_json::Value,
    },
    /// The program is about to ask for the lease, and waits until it gets it.
    Waiting {
        /// When.
        at: u64,
    },
    /// The program owns the lease.
    Acquired {
        /// When the daemon had said so.
        at: u64,
        /// At which version.
        lver: u64,
    },
    /// The program ended.
    ProgramEnded {
        /// When that was seen.
        at: u64,
        /// Exit status or signal.
        how: String,
    },
    /// The daemon ended.
    DaemonEnded {
        /// Exit status or signal.
        how: String,
    },
}

/// Nobody listens any more.
#[derive(Debug, thiserror::Error)]
#[error("an event could not be told: {0}")]
pub struct EventError(#[from] std::io::Error);

impl Event {
    /// Writes the line at once and as a whole: shorter than `PIPE_BUF`, it does not mix with others' lines.
    ///
    /// # Errors
    /// The reader is gone.
    pub fn tell(&self) -> Result<(), EventError> {
        let mut line = serde_json::to_vec(self).map_err(std::io::Error::from)?;
        line.push(b'\n');
        let mut out = std::io::stdout().lock();
        out.write_all(&line)?;
        Ok(out.flush()?)
    }
}

/// The fake watchdog's last line: `fired at S: killed N processes of the host in S s, last pet S s ago`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fired {
    /// When it began to kill, to the millisecond.
    pub at: LocalInstant,
    /// How many processes died.
    pub killed: u64,
    /// How long that took.
    pub took: Duration,
    /// How long ago it had been petted.
    pub since_pet: Duration,
}

impl Fired {
    /// Reads the line; `None` for any other.
    #[must_use]
    pub fn read(line: &str) -> Option<Self> {
        let (at, rest) = line.strip_prefix("fired at ")?.split_once(": killed ")?;
        let (killed, rest) = rest.split_once(" processes of the host in ")?;
        let (took, rest) = rest.split_once(" s, last pet ")?;
        let seconds = |text: &str| text.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
        Some(Fired {
            at: LocalInstant::EARLIEST.after(seconds(at)?),
            killed: killed.parse().ok()?,
            took: seconds(took)?,
            since_pet: seconds(rest.strip_suffix(" s ago")?)?,
        })
    }

    /// When nothing of the host was left.
    #[must_use]
    pub fn over(&self) -> LocalInstant {
        self.at.after(self.took)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdogs_line_is_read_and_nothing_else_is() {
        let fired =
            Fired::read("fired at 12.500: killed 3 processes of the host in 0.004 s, last pet 3.001 s ago").unwrap();
        assert_eq!(fired.killed, 3);
        assert_eq!(fired.over(), LocalInstant::from_nanos(12_504_000_000));
        assert_eq!(fired.since_pet, Duration::from_millis(3001));
        assert_eq!(Fired::read("the host ended by itself with status 0, the watchdog is not armed"), None);
        assert_eq!(Fired::read("fired at dawn: killed 3 processes of the host in 1 s, last pet 1 s ago"), None);
    }

    #[test]
    fn events_are_one_line_each_with_their_name_first() {
        let event = Event::Acquired { at: 5, lver: 7 };
        let line = serde_json::to_string(&event).unwrap();
        assert_eq!(line, r#"{"event":"acquired","at":5,"lver":7}"#);
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
    }
}
