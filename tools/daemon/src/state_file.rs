//! The state file: what a successor must know of this daemon if it ends without a word (P1, data flow 6).
//!
//! `holdfast.state` in the run directory, JSON, replaced as a whole (written beside, synced, renamed). It is written
//! *before* the fact it names can matter: a lockspace's generation and fences before the first write through them, a
//! guarded process before its acquire is answered. What it names may therefore be more than there is, never less.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::watchdog::Kind;

/// The file's name in the run directory.
pub const FILE_NAME: &str = "holdfast.state";
/// The version this program writes and reads.
pub const VERSION: u32 = 1;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateFile {
    /// [`VERSION`].
    pub version: u32,
    /// The kernel's boot id: a file of another boot proves that nothing in it can still run.
    pub boot_id: String,
    /// A watchdog may be counting that a successor, once everything below is proven over, has to stop.
    pub watchdog_armed: bool,
    /// Which kind, and so whether a successor can stop it at all; absent from files of versions that knew only devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watchdog: Option<Kind>,
    /// Lockspaces under our host_ids.
    pub lockspaces: Vec<SpaceRecord>,
    /// Processes that hold leases, or are about to.
    pub guarded: BTreeSet<Guarded>,
}

/// A lockspace, our term in it, and the fences through which it may have been written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpaceRecord {
    /// Its name, as text; names that are not text are escaped as `\xNN`.
    pub name: String,
    /// Our host_id.
    pub host_id: u64,
    /// Our generation: the highest that may be on disk by our hand.
    pub generation: u64,
    /// We were found to hold the host_id under that generation. Otherwise it may stand there by a write that landed late, over
    /// another host's that holds it.
    #[serde(default)]
    pub joined: bool,
    /// Where it lies.
    pub path: PathBuf,
    /// Byte offset of its area.
    pub offset: u64,
    /// Every fence.
    pub fences: Vec<FenceRecord>,
    /// Something uses it that nobody here can see end: by SET_CONFIG, or an orphan's former client's doing.
    #[serde(default)]
    pub unseen: bool,
    /// It was left, and every write through these fences has landed or failed for good: nothing is left to prove.
    pub over: bool,
}

impl SpaceRecord {
    /// Whether both are of one host_id in one area: the later one says all that is to be said of it.
    #[must_use]
    pub fn is_of_the_same(&self, other: &Self) -> bool {
        let of = |r: &Self| (r.host_id, r.offset);
        self.name == other.name && self.path == other.path && of(self) == of(other)
    }
}

/// A byte range locked on the descriptor that writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FenceRecord {
    /// The path opened.
    pub path: PathBuf,
    /// `st_dev` of the node.
    pub dev: u64,
    /// `st_ino` of the node.
    pub ino: u64,
    /// First byte of the range.
    pub start: u64,
    /// Bytes in it.
    pub len: u64,
    /// Whether a lock could be taken at all (not on network file systems).
    pub locked: bool,
}

/// A process under guard.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guarded {
    /// Its pid.
    pub pid: i32,
    /// Its start time in clock ticks since boot: with the pid, its identity.
    pub start_time: u64,
    /// The inode of its end of the connection, by which heirs are found.
    pub connection_inode: u64,
    /// The process leads a process group of its own, which the ladder ends as a whole.
    pub group: bool,
}

/// A state file that proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    /// It cannot be read or written.
    #[error("state file {path}: cannot {operation}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// It is not what this program writes.
    #[error("state file {path} cannot be understood: {why}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and why, in printable characters.
        why: String,
    },
    /// Another version wrote it.
    #[error("state file {path} has version {found}, expected {VERSION}")]
    Version {
        /// The file.
        path: PathBuf,
        /// In the file.
        found: u32,
    },
}

impl StateFileError {
    /// serde_json quotes what it found as it stands there, control characters and all.
    fn malformed(path: &Path, error: &serde_json::Error) -> Self {
        StateFileError::Malformed { path: path.to_owned(), why: error.to_string().escape_debug().to_string() }
    }
}

impl StateFile {
    /// A file that names nothing.
    #[must_use]
    pub fn empty(boot_id: &str) -> Self {
        StateFile {
            version: VERSION,
            boot_id: boot_id.to_owned(),
            watchdog_armed: false,
            watchdog: None,
            lockspaces: Vec::new(),
            guarded: BTreeSet::new(),
        }
    }

    /// Reads the file of a predecessor; `None` where there is none.
    ///
    /// # Errors
    /// [`StateFileError`]: there is one, and it proves nothing.
    pub fn read(run_dir: &Path) -> Result<Option<Self>, StateFileError> {
        let path = run_dir.join(FILE_NAME);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StateFileError::Io { path, operation: "read it", source }),
        };
        let state: StateFile = serde_json::from_slice(&text).map_err(|e| StateFileError::malformed(&path, &e))?;
        if state.version != VERSION {
            return Err(StateFileError::Version { path, found: state.version });
        }
        Ok(Some(state))
    }

    /// Replaces the file. A crash leaves the old one or the new one, and both are true: the old one was written before
    /// anything that the new one adds could matter.
    ///
    /// # Errors
    /// The kernel's, with the path.
    pub fn write(&self, run_dir: &Path) -> Result<(), StateFileError> {
        let path = run_dir.join(FILE_NAME);
        let beside = run_dir.join("holdfast.state.new");
        let failed = |operation| {
            let path = path.clone();
            move |source| StateFileError::Io { path, operation, source }
        };
        let text = serde_json::to_vec_pretty(self).map_err(|e| StateFileError::malformed(&path, &e))?;
        let mut file = create_anew(&beside).map_err(failed("create its successor"))?;
        file.write_all(&text).map_err(failed("write its successor"))?;
        file.sync_all().map_err(failed("sync its successor"))?;
        fs::rename(&beside, &path).map_err(failed("replace it"))
    }
}

/// A file of our own, whatever stands there: what a predecessor did not finish, or a link that somebody put there.
fn create_anew(path: &Path) -> io::Result<File> {
    match File::create_new(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            File::create_new(path)
        }
        created => created,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> StateFile {
        let fence = FenceRecord { path: "/dev/x".into(), dev: 1, ino: 2, start: 512, len: 512, locked: true };
        StateFile {
            version: VERSION,
            boot_id: "b".into(),
            watchdog_armed: true,
            watchdog: Some(Kind::Wdmd),
            lockspaces: vec![SpaceRecord {
                name: "LS".into(),
                host_id: 2,
                generation: 3,
                joined: true,
                path: "/dev/x".into(),
                offset: 0,
                fences: vec![fence],
                over: false,
                unseen: false,
            }],
            guarded: BTreeSet::from([Guarded { pid: 7, start_time: 99, connection_inode: 5, group: true }]),
        }
    }

    #[test]
    fn what_was_written_is_read_and_no_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(StateFile::read(dir.path()).unwrap(), None);
        example().write(dir.path()).unwrap();
        assert_eq!(StateFile::read(dir.path()).unwrap(), Some(example()));
    }

    #[test]
    fn what_stands_in_the_way_of_a_new_file_is_replaced_and_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let (others, beside) = (dir.path().join("another's"), dir.path().join("holdfast.state.new"));
        fs::write(&others, "text").unwrap();
        std::os::unix::fs::symlink(&others, &beside).unwrap();
        example().write(dir.path()).unwrap();
        fs::hard_link(&others, &beside).unwrap();
        example().write(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(&others).unwrap(), "text");
        assert_eq!(StateFile::read(dir.path()).unwrap(), Some(example()));
    }

    #[test]
    fn a_file_of_a_version_that_knew_only_devices_is_read_and_names_no_kind() {
        let dir = tempfile::tempdir().unwrap();
        let text = br#"{"version":1,"boot_id":"b","watchdog_armed":true,"lockspaces":[],"guarded":[]}"#;
        fs::write(dir.path().join(FILE_NAME), text).unwrap();
        let state = StateFile::read(dir.path()).unwrap().unwrap();
        assert_eq!((state.watchdog_armed, state.watchdog), (true, None));
        example().write(dir.path()).unwrap();
        let text = fs::read_to_string(dir.path().join(FILE_NAME)).unwrap();
        assert!(text.contains("\"watchdog\": \"wdmd\""), "{text}");
    }

    #[test]
    fn a_damaged_or_newer_file_is_an_error_and_not_an_empty_state() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE_NAME), b"{\"version\":1").unwrap();
        assert!(matches!(StateFile::read(dir.path()), Err(StateFileError::Malformed { .. })));
        StateFile { version: 2, ..example() }.write(dir.path()).unwrap();
        assert!(matches!(StateFile::read(dir.path()), Err(StateFileError::Version { found: 2, .. })));
    }
}
