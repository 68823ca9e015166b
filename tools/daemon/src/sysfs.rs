//! What the kernel tells of its devices in `/sys`: small files, read where they are and believed only as text.
//!
//! A file that is not there, cannot be read, or is no number is `None`: attributes come and go with kernels and drivers, and nobody here
//! relies on one. Tests give it a tree of their own.

use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A `/sys`.
#[derive(Clone, Debug)]
pub struct Sysfs {
    root: PathBuf,
}

impl Default for Sysfs {
    fn default() -> Self {
        Sysfs::at(Path::new("/sys"))
    }
}

impl Sysfs {
    /// Rooted at this directory.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Sysfs { root: root.to_owned() }
    }

    /// The words of an attribute, without the line's end.
    #[must_use]
    pub fn text(&self, attribute: impl AsRef<Path>) -> Option<String> {
        let text = std::fs::read(self.root.join(attribute)).ok()?;
        Some(String::from_utf8_lossy(&text).trim().to_owned())
    }

    /// An attribute that is a number.
    #[must_use]
    pub fn number<N: FromStr>(&self, attribute: impl AsRef<Path>) -> Option<N> {
        self.text(attribute)?.parse().ok()
    }

    /// The names in a directory, in order; none where it is not there.
    #[must_use]
    pub fn names(&self, directory: impl AsRef<Path>) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.root.join(directory)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }

    /// Where a directory really lies, as its links lead.
    #[must_use]
    pub fn place(&self, directory: impl AsRef<Path>) -> Option<PathBuf> {
        std::fs::canonicalize(self.root.join(directory)).ok()
    }
}
