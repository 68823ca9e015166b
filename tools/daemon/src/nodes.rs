//! One open file description for each device and daemon: it carries the I/O and the fence (ARCHITECTURE.md, the fence).
//!
//! Every use opens the path anew and compares nodes, so a lease file that was unlinked and made again under the same name
//! is never taken for the old one. If the node is open already, the older description serves and the new one is closed:
//! OFD locks belong to their description, so closing another one of the same node takes none away.
//!
//! For the same reason two lockspaces with a fence over the same bytes have one lock between them. So fences are counted
//! here: one that is given back goes only where nobody else's lies over it (I6: whoever still relies on it keeps it).
//!
//! open(2) may hang for as long as a server is dead. So each has a thread of its own, and of each path one is under way: whoever
//! asks meanwhile waits for its end, and then opens anew. However often a hung path is tried, it costs one thread.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use holdfast_io::sys::linux::{Access, BlockFile, FenceOutcome, NodeId, OpenError};
use holdfast_io::sys::rights::Rights;
use tokio::sync::oneshot;

use crate::platform::LeaseFile;

/// The devices this daemon has open.
pub struct Nodes<F = BlockFile> {
    inner: Mutex<Inner<F>>,
    turns: Arc<Turns>,
}

/// The paths that are being opened, each with those who wait for the end of that.
#[derive(Default)]
struct Turns(Mutex<BTreeMap<PathBuf, Vec<oneshot::Sender<()>>>>);

/// The right to open a path.
struct Turn {
    of: Arc<Turns>,
    path: PathBuf,
}

impl Turns {
    async fn take(self: &Arc<Self>, path: &Path) -> Turn {
        loop {
            let ended = {
                let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(waiting) = open.get_mut(path) else {
                    open.insert(path.to_owned(), Vec::new());
                    return Turn { of: Arc::clone(self), path: path.to_owned() };
                };
                let (tell, told) = oneshot::channel();
                // Many have given up by then.
                waiting.retain(|other| !other.is_closed());
                waiting.push(tell);
                told
            };
            // Nothing is told: they are dropped with the turn.
            let _ = ended.await;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.of.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.path);
    }
}

impl<F> Default for Nodes<F> {
    fn default() -> Self {
        let inner = Inner { open: BTreeMap::new(), pinned: Vec::new(), fences: Vec::new(), given_back: Vec::new() };
        Nodes { inner: Mutex::new(inner), turns: Arc::default() }
    }
}

struct Inner<F> {
    open: BTreeMap<NodeId, Weak<F>>,
    /// Fences taken over from a predecessor stay for as long as this daemon lives.
    pinned: Vec<Arc<F>>,
    /// Fences that lockspaces of this daemon rely on, as often as they do.
    fences: Vec<Range>,
    /// Fences given back that somebody else's lies over still.
    given_back: Vec<Range>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Range {
    node: NodeId,
    start: u64,
    len: u64,
}

impl Range {
    fn overlaps(&self, other: &Range) -> bool {
        self.node == other.node
            && self.start < other.start.saturating_add(other.len)
            && other.start < self.start.saturating_add(self.len)
    }
}

impl Nodes {
    /// The description for the node that `path` names now. It is opened anew by these rights even where it is open already: who may
    /// not open it does not get at it through us.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(&self, path: &Path, by: &Rights) -> Result<Arc<BlockFile>, OpenError> {
        // Opened outside the lock: a path on a dead server may hang here.
        let lent = by.run(|| BlockFile::open(path, Access::ReadWrite));
        let path = || format!("{}, by {by},", path.display());
        match lent {
            Ok(Ok(file)) => Ok(self.known(file)),
            Ok(Err(OpenError::Open { source, .. })) if *by != Rights::Ours => {
                Err(OpenError::Open { path: path(), source })
            }
            Ok(Err(other)) => Err(other),
            Err(source) => Err(OpenError::Open { path: path(), source }),
        }
    }

    /// The same, on a thread of its own.
    ///
    /// # Errors
    /// The outer: no thread was to be had.
    pub async fn open_apart(
        self: &Arc<Self>,
        path: &Path,
        by: &Rights,
    ) -> Result<Result<Arc<BlockFile>, OpenError>, String> {
        let (nodes, by) = (Arc::clone(self), by.clone());
        self.turns.apart(path, move |path| nodes.open(path, &by)).await
    }

    /// As if the path hung in open(2), for as long as this is kept.
    #[cfg(test)]
    pub async fn hanging(&self, path: &Path) -> impl Drop + use<> {
        self.turns.take(path).await
    }
}

impl Turns {
    async fn apart<T: Send + 'static>(
        self: &Arc<Self>,
        path: &Path,
        open: impl FnOnce(&Path) -> T + Send + 'static,
    ) -> Result<T, String> {
        let turn = self.take(path).await;
        let (tell, told) = oneshot::channel();
        let work = move || {
            let opened = open(&turn.path);
            drop(turn);
            // Nobody may wait for it any more.
            let _ = tell.send(opened);
        };
        std::thread::Builder::new().name("open".into()).spawn(work).map_err(|e| e.to_string())?;
        told.await.map_err(|e| e.to_string())
    }
}

impl<F: LeaseFile> Nodes<F> {
    /// The description that serves for the node just opened: the older one, if it is open already.
    pub fn known(&self, fresh: F) -> Arc<F> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.open.retain(|_, file| file.strong_count() > 0);
        if let Some(known) = inner.open.get(&fresh.node()).and_then(Weak::upgrade) {
            return known;
        }
        let file = Arc::new(fresh);
        inner.open.insert(file.node(), Arc::downgrade(&file));
        file
    }

    /// Tries to take a fence for a lockspace; see [`LeaseFile::try_fence`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn try_fence(&self, file: &F, start: u64, len: u64) -> std::io::Result<FenceOutcome> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = file.try_fence(start, len)?;
        if outcome == FenceOutcome::Held {
            inner.fences.push(Range { node: file.node(), start, len });
        }
        Ok(outcome)
    }

    /// Gives back a fence that [`Nodes::try_fence`] took, once every write of its lockspace is reaped (I6). Counted and
    /// unlocked under one lock: nobody takes it to be held in between.
    pub fn give_back(&self, file: &F, start: u64, len: u64) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let given = Range { node: file.node(), start, len };
        let Some(at) = inner.fences.iter().position(|f| *f == given) else { return };
        inner.fences.swap_remove(at);
        inner.given_back.push(given);
        let Inner { fences, given_back, .. } = &mut *inner;
        // One that somebody's lies over waits for it.
        given_back.retain(|f| {
            if f.node != given.node || fences.iter().any(|other| other.overlaps(f)) {
                return true;
            }
            if let Err(error) = file.release_fence(f.start, f.len) {
                tracing::warn!(path = %file.path(), start = f.start, %error, "a lock stays: successors wait for it");
            }
            false
        });
    }

    /// Keeps a description, and its fences, for the daemon's life.
    pub fn pin(&self, file: Arc<F>) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).pinned.push(file);
    }
}

#[cfg(test)]
mod tests {
    use holdfast_io::sys::rights::Credentials;

    use super::*;

    #[test]
    fn what_is_open_already_is_not_had_by_who_may_not_open_it() {
        use std::os::unix::fs::PermissionsExt;
        if !nix::unistd::geteuid().is_root() {
            // Every path is opened by the rights that there are then.
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases");
        std::fs::write(&path, [0; 4096]).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let (nodes, others) = (Arc::new(Nodes::default()), Credentials { uid: 65534, gid: 65534, groups: Vec::new() });
        let others = Rights::Of(Arc::new(others));
        let _open = nodes.open(&path, &Rights::Ours).unwrap();
        assert_eq!(nodes.open(&path, &others).unwrap_err().errno(), Some(nix::libc::EACCES));
        let apart = pollster::block_on(nodes.open_apart(&path, &others)).unwrap();
        assert_eq!(apart.unwrap_err().errno(), Some(nix::libc::EACCES));
    }

    #[test]
    fn a_node_is_opened_once_and_a_new_file_under_the_same_name_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lease");
        std::fs::write(&path, vec![0; 8192]).unwrap();
        let nodes = Nodes::default();
        let first = nodes.open(&path, &Rights::Ours).unwrap();
        assert!(Arc::ptr_eq(&first, &nodes.open(&path, &Rights::Ours).unwrap()));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, vec![0; 8192]).unwrap();
        assert!(!Arc::ptr_eq(&first, &nodes.open(&path, &Rights::Ours).unwrap()));
    }

    #[test]
    fn a_path_that_hangs_in_open_costs_one_thread_however_often_it_is_tried() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (turns, begun) = (Arc::<Turns>::default(), Arc::new(AtomicUsize::new(0)));
            let (release, held) = std::sync::mpsc::channel::<()>();
            let held = Arc::new(Mutex::new(held));
            let hangs = || {
                let (begun, held) = (Arc::clone(&begun), Arc::clone(&held));
                turns.apart(Path::new("/dead"), move |_| {
                    begun.fetch_add(1, Ordering::SeqCst);
                    held.lock().unwrap().recv()
                })
            };
            let soon = std::time::Duration::from_millis(20);
            for _ in 0..5 {
                assert!(tokio::time::timeout(soon, hangs()).await.is_err());
            }
            assert_eq!(begun.load(Ordering::SeqCst), 1);
            assert_eq!(turns.apart(Path::new("/alive"), |path| path.to_owned()).await.unwrap(), Path::new("/alive"));
            // Once it is over, whoever waits opens anew.
            release.send(()).unwrap();
            release.send(()).unwrap();
            hangs().await.unwrap().unwrap();
            assert_eq!(begun.load(Ordering::SeqCst), 2);
        });
    }

    #[test]
    fn a_fence_that_two_lockspaces_rely_on_goes_with_the_second() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lease");
        std::fs::write(&path, vec![0; 8192]).unwrap();
        let (ours, theirs) = (Nodes::default(), Nodes::default());
        let (file, other) = (ours.open(&path, &Rights::Ours).unwrap(), theirs.open(&path, &Rights::Ours).unwrap());
        assert_eq!(ours.try_fence(&file, 512, 512).unwrap(), FenceOutcome::Held);
        assert_eq!(ours.try_fence(&file, 0, 4096).unwrap(), FenceOutcome::Held);
        ours.give_back(&file, 0, 4096);
        assert_eq!(theirs.try_fence(&other, 512, 512).unwrap(), FenceOutcome::Busy);
        ours.give_back(&file, 512, 512);
        assert_eq!(theirs.try_fence(&other, 0, 4096).unwrap(), FenceOutcome::Held);
    }

    #[test]
    fn a_fence_given_back_twice_takes_none_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lease");
        std::fs::write(&path, vec![0; 8192]).unwrap();
        let (ours, theirs) = (Nodes::default(), Nodes::default());
        let (file, other) = (ours.open(&path, &Rights::Ours).unwrap(), theirs.open(&path, &Rights::Ours).unwrap());
        assert_eq!(ours.try_fence(&file, 512, 512).unwrap(), FenceOutcome::Held);
        ours.give_back(&file, 512, 1024);
        assert_eq!(theirs.try_fence(&other, 512, 512).unwrap(), FenceOutcome::Busy);
    }
}
