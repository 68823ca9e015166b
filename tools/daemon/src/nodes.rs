//! One open file description for each device and daemon: it carries the I/O and the fence (ARCHITECTURE.md, the fence).
//!
//! Every use opens the path anew and compares nodes, so a lease file that was unlinked and made again under the same name
//! is never taken for the old one. If the node is open already, the older description serves and the new one is closed:
//! OFD locks belong to their description, so closing another one of the same node takes none away.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use holdfast_io::sys::linux::{Access, BlockFile, NodeId, OpenError};

/// The devices this daemon has open.
#[derive(Default)]
pub struct Nodes {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    open: BTreeMap<NodeId, Weak<BlockFile>>,
    /// Fences taken over from a predecessor stay for as long as this daemon lives.
    pinned: Vec<Arc<BlockFile>>,
}

impl Nodes {
    /// The description for the node that `path` names now.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(&self, path: &Path) -> Result<Arc<BlockFile>, OpenError> {
        // Opened outside the lock: a path on a dead server may hang here.
        let fresh = BlockFile::open(path, Access::ReadWrite)?;
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.open.retain(|_, file| file.strong_count() > 0);
        if let Some(known) = inner.open.get(&fresh.node()).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let file = Arc::new(fresh);
        inner.open.insert(file.node(), Arc::downgrade(&file));
        Ok(file)
    }

    /// Keeps a description, and its fences, for the daemon's life.
    pub fn pin(&self, file: Arc<BlockFile>) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).pinned.push(file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_opened_once_and_a_new_file_under_the_same_name_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lease");
        std::fs::write(&path, vec![0; 8192]).unwrap();
        let nodes = Nodes::default();
        let first = nodes.open(&path).unwrap();
        assert!(Arc::ptr_eq(&first, &nodes.open(&path).unwrap()));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, vec![0; 8192]).unwrap();
        assert!(!Arc::ptr_eq(&first, &nodes.open(&path).unwrap()));
    }
}
