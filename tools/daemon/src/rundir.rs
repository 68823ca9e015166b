//! The run directory: one daemon in it, its pid, its socket. Source: spec A 1.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::unistd::{Gid, Uid};

/// Where the daemon lives when nothing else is said.
pub const DEFAULT: &str = "/run/sanlock";
/// The environment variable that says something else.
pub const VARIABLE: &str = "SANLOCK_RUN_DIR";

/// The run directory, locked for as long as this value lives.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: File,
}

/// A run directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// Another daemon uses it.
    #[error("another daemon (pid {pid}) uses {path}: give this one a run directory of its own with {VARIABLE}")]
    Busy {
        /// The directory.
        path: PathBuf,
        /// What its pid file says.
        pid: String,
    },
    /// The system refused.
    #[error("run directory {path}: cannot {operation}: {source}")]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl RunDir {
    /// The directory that the environment names.
    #[must_use]
    pub fn from_environment() -> PathBuf {
        std::env::var_os(VARIABLE).map_or_else(|| PathBuf::from(DEFAULT), PathBuf::from)
    }

    /// Creates the directory if need be and locks its pid file. The file stays when the daemon ends; the lock does not.
    ///
    /// # Errors
    /// [`RunDirError::Busy`], or the system's refusal.
    pub fn lock(path: &Path) -> Result<Self, RunDirError> {
        let failed = |operation| {
            let path = path.to_owned();
            move |source| RunDirError::Io { path, operation, source }
        };
        fs::DirBuilder::new().recursive(true).mode(0o775).create(path).map_err(failed("create it"))?;
        let file = path.join("sanlock.pid");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(&file)
            .map_err(failed("open its pid file"))?;
        match fcntl(&lock, FcntlArg::F_SETLK(&whole_file())) {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => {
                let pid = fs::read_to_string(&file).unwrap_or_default().trim().to_owned();
                return Err(RunDirError::Busy { path: path.to_owned(), pid });
            }
            Err(e) => return Err(failed("lock its pid file")(e.into())),
        }
        lock.set_len(0).map_err(failed("empty its pid file"))?;
        writeln!(lock, "{}", std::process::id()).map_err(failed("write its pid file"))?;
        Ok(RunDir { path: path.to_owned(), _lock: lock })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Binds the socket anew; an old one is nobody's, since the directory is ours.
    ///
    /// # Errors
    /// The system's refusal.
    pub fn listen(&self, owner: (Option<Uid>, Option<Gid>)) -> Result<UnixListener, RunDirError> {
        let path = self.path.join("sanlock.sock");
        let failed = |operation| {
            let path = path.clone();
            move |source| RunDirError::Io { path, operation, source }
        };
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed("remove the old socket")(e)),
        }
        let listener = UnixListener::bind(&path).map_err(failed("bind the socket"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).map_err(failed("restrict the socket"))?;
        if owner != (None, None) {
            nix::unistd::chown(&path, owner.0, owner.1).map_err(|e| failed("give the socket away")(e.into()))?;
        }
        listener.set_nonblocking(true).map_err(failed("make the socket non-blocking"))?;
        Ok(listener)
    }
}

fn whole_file() -> libc::flock {
    // The values are 1 and 0: they fit, whatever the width of the fields.
    #[allow(clippy::cast_possible_truncation)]
    let (write, start) = (libc::F_WRLCK as libc::c_short, libc::SEEK_SET as libc::c_short);
    libc::flock { l_type: write, l_whence: start, l_start: 0, l_len: 0, l_pid: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pid_file_names_us_and_an_old_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::lock(&dir.path().join("run")).unwrap();
        let text = fs::read_to_string(run.path().join("sanlock.pid")).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
        drop(run.listen((None, None)).unwrap());
        run.listen((None, None)).unwrap();
    }
}
