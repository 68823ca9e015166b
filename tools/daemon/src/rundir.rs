//! The run directory: one daemon in it, its pid, its socket. Source: spec A 1.
//!
//! A daemon that was killed while a write of it is held back in the kernel is dead but not gone: it keeps its
//! descriptors, the pid file's lock among them, until that write has landed. It can do nothing any more, and what it
//! guarded should not have to wait for a disk to be ended. So its successor begins under a lock of its own,
//! `holdfast.successor`, and takes the pid file's ([`RunDir::settle`]) once the dead one is gone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_io::clock::Clock;
use holdfast_io::planted::{Bug, planted};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollTimeout, poll};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, fchownat, geteuid};

use crate::procfs::Procfs;

/// Where the daemon lives when nothing else is said.
pub const DEFAULT: &str = "/run/sanlock";
/// The environment variable that says something else.
pub const VARIABLE: &str = "SANLOCK_RUN_DIR";

/// The run directory, locked for as long as this value lives.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    pid_file: File,
    /// Our lock while a predecessor that is dead but not gone still has the pid file's.
    successor: Option<File>,
}

/// Between two looks at whether a dead predecessor is gone.
const POLL: Duration = Duration::from_millis(50);

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
        own(path).map_err(failed("keep it from others"))?;
        let file = path.join("sanlock.pid");
        let pid_file = open_lock(&file).map_err(failed("open its pid file"))?;
        let mut run_dir = RunDir { path: path.to_owned(), pid_file, successor: None };
        match try_lock_for_a_moment(&run_dir.pid_file).map_err(failed("lock its pid file"))? {
            None => run_dir.write_pid()?,
            Some(holder) if is_dead_but_not_gone(holder) => {
                tracing::warn!(
                    pid = holder,
                    "the daemon before this one is dead, but a write of it is still in flight"
                );
                let lock = open_lock(&path.join("holdfast.successor")).map_err(failed("open its second lock"))?;
                if let Some(other) = try_lock(&lock).map_err(failed("take its second lock"))? {
                    return Err(RunDirError::Busy { path: path.to_owned(), pid: other.to_string() });
                }
                run_dir.successor = Some(lock);
            }
            Some(holder) => return Err(RunDirError::Busy { path: path.to_owned(), pid: holder.to_string() }),
        }
        Ok(run_dir)
    }

    /// Waits until a dead predecessor is gone, and takes the pid file's lock then.
    ///
    /// # Errors
    /// Another daemon took it first, or the system refused.
    pub async fn settle(&mut self, clock: &impl Clock) -> Result<(), RunDirError> {
        while self.successor.is_some() {
            match try_lock(&self.pid_file).map_err(|source| self.failed("lock its pid file", source))? {
                None => {
                    self.write_pid()?;
                    self.successor = None;
                }
                Some(holder) if is_dead_but_not_gone(holder) => {
                    if planted(Bug::I6NotAcrossRestart) {
                        return Ok(());
                    }
                    clock.sleep(POLL).await;
                }
                Some(holder) => return Err(RunDirError::Busy { path: self.path.clone(), pid: holder.to_string() }),
            }
        }
        Ok(())
    }

    fn write_pid(&mut self) -> Result<(), RunDirError> {
        let text = format!("{}\n", std::process::id());
        let written = self.pid_file.set_len(0).and_then(|()| self.pid_file.write_all(text.as_bytes()));
        written.map_err(|source| self.failed("write its pid file", source))
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> RunDirError {
        RunDirError::Io { path: self.path.clone(), operation, source }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Binds the socket anew; an old one is nobody's, since the directory is ours. Its mode is its own from the first moment on, and
    /// it is given away by its own name: where others may write the directory, no link that they put there is followed.
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
        let before = umask(Mode::from_bits_truncate(0o117));
        let bound = UnixListener::bind(&path);
        umask(before);
        let listener = bound.map_err(failed("bind the socket"))?;
        if owner != (None, None) {
            let given = fchownat(AT_FDCWD, &path, owner.0, owner.1, AtFlags::AT_SYMLINK_NOFOLLOW);
            given.map_err(|e| failed("give the socket away")(e.into()))?;
        }
        listener.set_nonblocking(true).map_err(failed("make the socket non-blocking"))?;
        Ok(listener)
    }
}

/// What the state file says is believed (P1): where we are root nobody else puts one in its place. sanlock leaves the directory to its user.
fn own(path: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    let (mode, others) = (found.mode() & 0o7777, 0o022);
    if !geteuid().is_root() || (found.uid() == 0 && mode & others == 0) {
        return Ok(());
    }
    tracing::warn!(path = %path.display(), owner = found.uid(), mode = %format!("{mode:o}"), "the run directory becomes root's");
    chown(path, Some(0), None)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode & !others))
}

fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o644).custom_flags(OFlag::O_NOFOLLOW.bits());
    options.open(path)
}

/// Locks a file; the pid of who has it locked, if somebody else has.
fn try_lock(file: &File) -> io::Result<Option<i32>> {
    loop {
        match fcntl(file, FcntlArg::F_SETLK(&whole_file())) {
            Ok(_) => return Ok(None),
            Err(Errno::EAGAIN | Errno::EACCES) => {}
            Err(e) => return Err(e.into()),
        }
        let mut holder = whole_file();
        fcntl(file, FcntlArg::F_GETLK(&mut holder))?;
        // Unlocked between the two looks: try again.
        if i32::from(holder.l_type) != libc::F_UNLCK {
            return Ok(Some(holder.l_pid));
        }
    }
}

/// A daemon killed just now needs a moment to be seen dying.
fn try_lock_for_a_moment(file: &File) -> io::Result<Option<i32>> {
    const LOOKS: u32 = 20;
    for _ in 1..LOOKS {
        match try_lock(file)? {
            Some(holder) if !is_dead_but_not_gone(holder) => {}
            answer => return Ok(answer),
        }
        poll(&mut [], PollTimeout::try_from(POLL).unwrap_or(PollTimeout::ZERO))?;
    }
    try_lock(file)
}

/// Whether a process has been killed, or has exited, and is kept only by threads that the kernel cannot end yet. Its
/// first thread ends at once in every daemon of ours: it waits for no disk.
fn is_dead_but_not_gone(pid: i32) -> bool {
    const PF_EXITING: u32 = 0x4;
    let stat = Procfs::default().stat(pid).ok().flatten();
    // No longer there: it went between the two looks, and the lock with it.
    stat.is_none_or(|stat| stat.flags & PF_EXITING != 0 || matches!(stat.state, 'Z' | 'X' | 'x'))
}

fn whole_file() -> libc::flock {
    // The values are 1 and 0: they fit, whatever the width of the fields.
    #[allow(clippy::cast_possible_truncation)]
    let (write, start) = (libc::F_WRLCK as libc::c_short, libc::SEEK_SET as libc::c_short);
    libc::flock { l_type: write, l_whence: start, l_start: 0, l_len: 0, l_pid: 0 }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::unistd::getegid;

    use super::*;

    #[test]
    fn the_socket_is_its_owners_and_a_link_in_its_place_or_the_pid_files_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let others = dir.path().join("another's");
        fs::write(&others, "text").unwrap();
        fs::set_permissions(&others, fs::Permissions::from_mode(0o604)).unwrap();
        let run = RunDir::lock(&dir.path().join("run")).unwrap();
        symlink(&others, run.path().join("sanlock.sock")).unwrap();
        let _listener = run.listen((Some(geteuid()), Some(getegid()))).unwrap();
        let socket = fs::symlink_metadata(run.path().join("sanlock.sock")).unwrap();
        assert_eq!((socket.mode() & 0o777, socket.uid()), (0o660, geteuid().as_raw()));
        assert_eq!(fs::metadata(&others).unwrap().mode() & 0o777, 0o604);
        let second = dir.path().join("second");
        fs::create_dir(&second).unwrap();
        symlink(&others, second.join("sanlock.pid")).unwrap();
        assert!(matches!(RunDir::lock(&second), Err(RunDirError::Io { .. })));
        assert_eq!(fs::read_to_string(&others).unwrap(), "text");
    }

    #[test]
    fn p1_a_run_directory_of_somebody_elses_becomes_roots_before_anything_in_it_is_believed() {
        if !geteuid().is_root() {
            // Then it is ours, or we cannot use it.
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        fs::create_dir(&run).unwrap();
        chown(&run, Some(65534), None).unwrap();
        fs::set_permissions(&run, fs::Permissions::from_mode(0o775)).unwrap();
        drop(RunDir::lock(&run).unwrap());
        let now = fs::metadata(&run).unwrap();
        assert_eq!((now.uid(), now.mode() & 0o777), (0, 0o755));
    }

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
