//! Where the daemon listens, and how long to wait for it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The run directory when nothing else is said.
pub const DEFAULT_RUN_DIR: &str = "/run/sanlock";
/// The environment variable that names another.
pub const RUN_DIR_VARIABLE: &str = "SANLOCK_RUN_DIR";
const SOCKET: &str = "sanlock.sock";

/// A daemon's run directory and the patience to have with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    run_dir: PathBuf,
    deadline: Option<Duration>,
}

impl Endpoint {
    /// The daemon of this run directory, waited for without limit.
    pub fn new(run_dir: impl Into<PathBuf>) -> Self {
        Self { run_dir: run_dir.into(), deadline: None }
    }

    /// The daemon of `$SANLOCK_RUN_DIR`, or of /run/sanlock.
    #[must_use]
    pub fn from_environment() -> Self {
        Self::from_variable(std::env::var_os(RUN_DIR_VARIABLE))
    }

    fn from_variable(value: Option<OsString>) -> Self {
        Self::new(value.filter(|dir| !dir.is_empty()).unwrap_or_else(|| DEFAULT_RUN_DIR.into()))
    }

    /// Gives up when the daemon takes or sends no byte for this long. For a call with a short reply, which is every
    /// call but the streams, that is a limit on the whole wait. What was asked may still be done by the daemon.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        // The socket option takes 0 for "no limit"; a caller who says 0 means "do not wait".
        self.deadline = Some(deadline.max(Duration::from_millis(1)));
        self
    }

    /// The limit, if there is one.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// The run directory.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// The socket in it.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join(SOCKET)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_run_directory_comes_from_the_environment_or_is_the_default() {
        assert_eq!(Endpoint::from_variable(None).socket(), Path::new("/run/sanlock/sanlock.sock"));
        assert_eq!(Endpoint::from_variable(Some("".into())).run_dir(), Path::new("/run/sanlock"));
        assert_eq!(Endpoint::from_variable(Some("/tmp/h".into())).socket(), Path::new("/tmp/h/sanlock.sock"));
    }

    #[test]
    fn a_deadline_of_zero_is_the_shortest_and_not_forever() {
        let endpoint = Endpoint::new("/x").with_deadline(Duration::ZERO);
        assert_eq!(endpoint.deadline(), Some(Duration::from_millis(1)));
    }
}
