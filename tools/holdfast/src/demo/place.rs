//! Where a demonstration lives: a directory for sockets, logs and the shared file, and a file for the lease areas.
//!
//! The lease areas need O_DIRECT, which some file systems in memory do not have; sockets need short paths. Usually one
//! directory under the temporary directory serves both. Both are removed at the end, unless they are to be kept.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use holdfast_io::sys::linux::{Access, BlockFile, FileKind, OpenError};
use nix::unistd::mkdtemp;

/// The longest path below the directory whose socket must still fit: 107 bytes in all.
const LONGEST: usize = 107 - "/host1/sanlock.sock".len();
const NAME: &str = "holdfast-demo-XXXXXX";

/// The directories.
#[derive(Debug)]
pub struct Place {
    /// Sockets, logs, the shared file.
    pub base: PathBuf,
    /// The file with the lease areas; not there yet.
    pub disk: PathBuf,
    /// What kind of file system that is on.
    pub kind: FileKind,
    made: Vec<PathBuf>,
    keep: bool,
}

/// There is no place.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// No directory.
    #[error("no directory for the demonstration in {}: {source}", parent.display())]
    Directory {
        /// Where it was to be.
        parent: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Socket paths would not fit.
    #[error(
        "{} is too long for sockets below it: {found} bytes, expected at most {LONGEST}; choose another with --dir",
        base.display()
    )]
    TooLong {
        /// The directory.
        base: PathBuf,
        /// Its length.
        found: usize,
    },
    /// No directory whose files can be read and written with O_DIRECT.
    #[error(
        "no file system for the lease areas, which are read and written with O_DIRECT; choose one with --dir: {}",
        tried.join("; ")
    )]
    NoDirectIo {
        /// What was tried, and why it was not used.
        tried: Vec<String>,
    },
}

impl Place {
    /// In `dir`, or where it can be.
    ///
    /// # Errors
    /// [`PlaceError`]; nothing is left behind.
    pub fn find(dir: Option<&Path>) -> Result<Self, PlaceError> {
        let parent = dir.map_or_else(std::env::temp_dir, Path::to_owned);
        let base = make(&parent)?;
        let made = vec![base.clone()];
        let mut place = Place { disk: base.join("disk"), base, kind: FileKind::LocalFile, made, keep: false };
        let found = place.base.as_os_str().len();
        if found > LONGEST {
            return Err(PlaceError::TooLong { base: place.base.clone(), found });
        }
        let mut tried = Vec::new();
        let others = if dir.is_some() { Vec::new() } else { ["target", ".", "/var/tmp"].map(PathBuf::from).to_vec() };
        for parent in std::iter::once(None).chain(others.into_iter().map(Some)) {
            match place.try_disk(parent.as_deref()) {
                Ok(()) => return Ok(place),
                Err(why) => tried.push(why),
            }
        }
        Err(PlaceError::NoDirectIo { tried })
    }

    /// Whether files in our own directory, or in one below `parent`, can be lease areas.
    fn try_disk(&mut self, parent: Option<&Path>) -> Result<(), String> {
        let dir = match parent {
            None => self.base.clone(),
            Some(parent) => {
                let parent = parent.canonicalize().map_err(|e| format!("{}: {e}", parent.display()))?;
                let made = make(&parent).map_err(|e| e.to_string())?;
                self.made.push(made.clone());
                made
            }
        };
        if dir.starts_with("/dev") {
            return Err(format!("{}: holdfast init makes no files below /dev", dir.display()));
        }
        let probe = dir.join("probe");
        let opened = try_direct(&probe);
        let removed = std::fs::remove_file(&probe);
        self.kind = opened?;
        removed.map_err(|e| format!("{}: {e}", probe.display()))?;
        self.disk = dir.join("disk");
        Ok(())
    }

    /// The file the guarded programs write.
    #[must_use]
    pub fn shared(&self) -> PathBuf {
        self.base.join("shared")
    }

    /// The directory of one host.
    #[must_use]
    pub fn of_host(&self, host: u64) -> PathBuf {
        self.base.join(format!("host{host}"))
    }

    /// All directories, for a person.
    #[must_use]
    pub fn dirs(&self) -> String {
        self.made.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ")
    }

    /// Nothing is removed.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.keep {
            for dir in &self.made {
                // Left behind, they only take room: not worth an error at the very end.
                let _removed = std::fs::remove_dir_all(dir);
            }
        }
    }
}

fn make(parent: &Path) -> Result<PathBuf, PlaceError> {
    let failed = |source| PlaceError::Directory { parent: parent.to_owned(), source };
    let absolute = std::path::absolute(parent).map_err(failed)?;
    mkdtemp(&absolute.join(NAME)).map_err(|errno| failed(errno.into()))
}

fn try_direct(probe: &Path) -> Result<FileKind, String> {
    let text = |e: std::io::Error| format!("{}: {e}", probe.display());
    let mut file = std::fs::File::create(probe).map_err(text)?;
    file.write_all(&[0; 4096]).map_err(text)?;
    drop(file);
    let opened = BlockFile::open(probe, Access::ReadWrite);
    opened.map(|file| file.kind()).map_err(|e: OpenError| holdfast_daemon::codes::chain(&e))
}
