//! What a drill writes down, for whoever asks after the reboot. Written as a whole, under another name first, and synced, each time: the host may
//! be reset at any moment of it.
//!
//! Times are of the wall clock, since they outlast a boot; lengths of time are counted by a clock that nobody sets.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_daemon::config::Config;
use holdfast_daemon::watchdog::Choice;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The note.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Which host.
    pub host_name: String,
    /// The boot in which it was armed.
    pub boot_id: String,
    /// As chosen.
    pub watchdog: PathBuf,
    /// It is a `holdfast fake-watchdog`, whose host is a tree of processes.
    pub fake: bool,
    /// What was armed, and its timeout as read back; `None`: it never came so far.
    pub armed: Option<Armed>,
    #[serde(skip)]
    path: PathBuf,
}

/// From the moment on in which it counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Armed {
    /// The device, by its own words.
    pub device: String,
    /// When.
    pub at: Timestamp,
    /// Within so many milliseconds this host was to be reset.
    pub within_ms: u64,
    /// So long after that it was seen alive for the last time.
    pub alive_ms: u64,
    /// It was not reset, and the drill ended.
    pub outlived: bool,
}

/// A note that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum NoteError {
    /// The system refused.
    #[error("the note {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is none.
    #[error("the note {path} cannot be understood: {source}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

impl Note {
    /// Before anything is armed.
    pub fn planned(path: &Path, choice: &Choice, config: &Config, boot_id: String) -> Result<Self, NoteError> {
        let note = Note {
            host_name: config.host_name.to_string(),
            boot_id,
            watchdog: PathBuf::from(&config.watchdog),
            fake: matches!(choice, Choice::Fake(_)),
            armed: None,
            path: path.to_owned(),
        };
        if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(directory).map_err(|source| NoteError::Io { path: directory.to_owned(), source })?;
        }
        note.write()?;
        Ok(note)
    }

    /// As it stands there.
    pub fn read(path: &Path) -> Result<Self, NoteError> {
        let text = fs::read(path).map_err(|source| NoteError::Io { path: path.to_owned(), source })?;
        let note =
            serde_json::from_slice(&text).map_err(|source| NoteError::Malformed { path: path.to_owned(), source })?;
        Ok(Note { path: path.to_owned(), ..note })
    }

    /// It counts, since a moment ago.
    pub fn armed(&mut self, device: &str, within: Duration) -> Result<(), NoteError> {
        let (device, within_ms) = (device.to_owned(), millis(within));
        self.armed = Some(Armed { device, at: Timestamp::now(), within_ms, alive_ms: 0, outlived: false });
        self.write()
    }

    /// This host lives still.
    pub fn alive(&mut self, passed: Duration) -> Result<(), NoteError> {
        if let Some(armed) = &mut self.armed {
            armed.alive_ms = millis(passed);
        }
        self.write()
    }

    /// It has not been reset.
    pub fn outlived(&mut self) -> Result<(), NoteError> {
        if let Some(armed) = &mut self.armed {
            armed.outlived = true;
        }
        self.write()
    }

    fn write(&self) -> Result<(), NoteError> {
        let failed = |source| NoteError::Io { path: self.path.clone(), source };
        let text = serde_json::to_vec_pretty(self).map_err(|e| failed(e.into()))?;
        let new = self.path.with_extension("new");
        let mut file = File::create(&new).map_err(failed)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(&new, &self.path).map_err(failed)?;
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
