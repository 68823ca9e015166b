//! The real disk: block devices and files opened `O_DIRECT | O_SYNC`, the threads engine, and the fence.
//!
//! Source: spec D 1.4 for how sanlock opens things; ARCHITECTURE.md, "The two seams", for the fence.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::statfs::{self, FsType, fstatfs};

use crate::clock::{LocalInstant, boot_now};
use crate::device::{Engine, Io, Started};
use crate::disk::Op;
use crate::sys::aligned::AlignedBuf;
use crate::units::SectorSize;

/// What a path turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A block device.
    Block,
    /// A file on a file system of this host.
    LocalFile,
    /// A file on a network or user-space file system: a killed process's write may still land from the server's or
    /// the file system's side, and a lock would live there. No fence is taken.
    RemoteFile,
}

/// Whether a file is opened for reading alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads only: the dumper.
    ReadOnly,
    /// Reads and writes.
    ReadWrite,
}

/// What was opened. Two are equal if they are the same device, by whatever nodes; a fence is bound to the one node, `dev` and
/// `ino`, through which it was taken.
#[derive(Clone, Copy, Debug)]
pub struct NodeId {
    /// `st_dev`.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
    /// `st_rdev` of a block device, which may have any number of nodes; `None`: a file.
    pub device: Option<u64>,
}

impl NodeId {
    /// Of a file.
    #[must_use]
    pub const fn file(dev: u64, ino: u64) -> Self {
        NodeId { dev, ino, device: None }
    }

    const fn key(&self) -> (Option<u64>, u64, u64) {
        match self.device {
            Some(_) => (self.device, 0, 0),
            None => (None, self.dev, self.ino),
        }
    }
}

impl PartialEq for NodeId {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for NodeId {}

impl PartialOrd for NodeId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for NodeId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// An open device or file, and the one open file description through which this daemon reads, writes and locks it.
#[derive(Debug)]
pub struct BlockFile {
    path: Arc<str>,
    file: File,
    kind: FileKind,
    node: NodeId,
    sector: SectorSize,
    len: u64,
}

/// A path that cannot be used as a lease device.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The open itself failed.
    #[error("cannot open {path} with O_DIRECT: {source}")]
    Open {
        /// The path.
        path: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Neither a block device nor a regular file.
    #[error("{path} is neither a block device nor a regular file")]
    NotADevice {
        /// The path.
        path: String,
    },
    /// Direct reads of neither 512 nor 4096 bytes work.
    #[error("{path}: direct reads of 512 and of 4096 bytes both fail (the latter: {source})")]
    NoSectorSize {
        /// The path.
        path: String,
        /// The kernel's reason for 4096.
        source: io::Error,
    },
    /// The kernel would not tell about it.
    #[error("cannot examine {path}: {source}")]
    Examine {
        /// The path.
        path: String,
        /// The kernel's reason.
        source: io::Error,
    },
}

impl OpenError {
    /// The kernel's error number, where there is one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            OpenError::Open { source, .. }
            | OpenError::NoSectorSize { source, .. }
            | OpenError::Examine { source, .. } => source.raw_os_error(),
            // The kernel's own answer to O_DIRECT, once it has opened it.
            OpenError::NotADevice { .. } => Some(libc::EINVAL),
        }
    }
}

nix::ioctl_read_bad!(
    /// BLKSSZGET: the logical sector size of a block device.
    blksszget,
    libc::BLKSSZGET,
    libc::c_int
);
nix::ioctl_read!(
    /// BLKGETSIZE64: the length of a block device in bytes.
    blkgetsize64,
    0x12,
    114,
    u64
);

impl BlockFile {
    /// Opens `path`.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(path: &Path, access: Access) -> Result<Self, OpenError> {
        let name = path.display().to_string();
        let open = |source| OpenError::Open { path: name.clone(), source };
        let flags = OFlag::O_DIRECT | OFlag::O_SYNC | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let mut options = OpenOptions::new();
        options.read(true).write(access == Access::ReadWrite).custom_flags(flags.bits());
        // Looked at first: to open what is no disk is to use it, and a watchdog device counts from then on. What was looked at is what
        // is opened, whatever the path names by then.
        let look = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let seen = OpenOptions::new().read(true).custom_flags(look.bits()).open(path).map_err(open)?;
        let kind = seen.metadata().map_err(open)?.file_type();
        if kind.is_char_device() || kind.is_fifo() {
            return Err(OpenError::NotADevice { path: name });
        }
        let file = options.open(format!("/proc/self/fd/{}", seen.as_raw_fd())).map_err(open)?;
        let examine = |source| OpenError::Examine { path: name.clone(), source };
        let meta = file.metadata().map_err(examine)?;
        let device = meta.file_type().is_block_device().then(|| meta.rdev());
        let node = NodeId { dev: meta.dev(), ino: meta.ino(), device };
        let (kind, sector, len) = if meta.file_type().is_block_device() {
            let (sector, len) = block_device_shape(&file).map_err(|e| examine(e.into()))?;
            (FileKind::Block, sector, len)
        } else if meta.is_file() {
            (file_kind(&file).map_err(|e| examine(e.into()))?, None, meta.len())
        } else {
            return Err(OpenError::NotADevice { path: name });
        };
        let sector = match sector {
            Some(sector) => sector,
            None => {
                probe_sector(&file, len).map_err(|source| OpenError::NoSectorSize { path: name.clone(), source })?
            }
        };
        Ok(BlockFile { path: Arc::from(name), file, kind, node, sector, len })
    }

    /// What it is called.
    pub const fn path(&self) -> &Arc<str> {
        &self.path
    }

    /// What it is.
    pub const fn kind(&self) -> FileKind {
        self.kind
    }

    /// Which node it is.
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// The device's logical sector size; for a file, the smallest direct read that works.
    pub const fn sector(&self) -> SectorSize {
        self.sector
    }

    /// Its length in bytes when it was opened.
    #[allow(clippy::len_without_is_empty)]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Tries to take the fence: an OFD write lock on this very descriptor, over bytes that only this host_id writes. It
    /// stays held until the last I/O of this descriptor is over, even if the process is gone before (D: P1, I6).
    ///
    /// # Errors
    /// The kernel's, if it is anything but "held by somebody".
    pub fn try_fence(&self, start: u64, len: u64) -> io::Result<FenceOutcome> {
        if self.kind == FileKind::RemoteFile {
            return Ok(FenceOutcome::Impossible);
        }
        let lock = flock(libc::F_WRLCK, start, len)?;
        match fcntl(&self.file, FcntlArg::F_OFD_SETLK(&lock)) {
            Ok(_) => Ok(FenceOutcome::Held),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(FenceOutcome::Busy),
            Err(e) => Err(e.into()),
        }
    }

    /// Gives a fence back; only once every write through this descriptor is reaped.
    ///
    /// # Errors
    /// The kernel's.
    pub fn release_fence(&self, start: u64, len: u64) -> io::Result<()> {
        let lock = flock(libc::F_UNLCK, start, len)?;
        fcntl(&self.file, FcntlArg::F_OFD_SETLK(&lock))?;
        Ok(())
    }
}

impl AsFd for BlockFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The answer to [`BlockFile::try_fence`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceOutcome {
    /// Ours now: nobody else's I/O on these bytes is under way.
    Held,
    /// Somebody holds it: a living daemon, or a dead one's write still in flight.
    Busy,
    /// No lock can stand for the end of I/O on this file system.
    Impossible,
}

pub(super) fn flock(kind: libc::c_int, start: u64, len: u64) -> io::Result<libc::flock> {
    let whence = libc::SEEK_SET;
    let narrow = |n: libc::c_int| libc::c_short::try_from(n).map_err(|_| io::Error::from(Errno::EINVAL));
    let wide = |n: u64| libc::off_t::try_from(n).map_err(|_| io::Error::from(Errno::EOVERFLOW));
    Ok(libc::flock {
        l_type: narrow(kind)?,
        l_whence: narrow(whence)?,
        l_start: wide(start)?,
        l_len: wide(len)?,
        l_pid: 0,
    })
}

fn block_device_shape(file: &File) -> Result<(Option<SectorSize>, u64), Errno> {
    let fd = file.as_raw_fd();
    let mut sector: libc::c_int = 0;
    // SAFETY: `fd` is open for the whole call and BLKSSZGET writes one int.
    unsafe { blksszget(fd, &raw mut sector) }?;
    let mut len = 0u64;
    // SAFETY: `fd` is open for the whole call and BLKGETSIZE64 writes one u64.
    unsafe { blkgetsize64(fd, &raw mut len) }?;
    let sector = u64::try_from(sector).ok().and_then(SectorSize::from_bytes).ok_or(Errno::EINVAL)?;
    Ok((Some(sector), len))
}

/// GFS2, OCFS2, Lustre and Ceph as the kernel numbers them; nix knows the others.
const MORE_SHARED: [i64; 4] = [0x0116_1970, 0x7461_636f, 0x0bd0_0bd0, 0x00c3_6400];

fn file_kind(file: &File) -> Result<FileKind, Errno> {
    let fs = fstatfs(file)?.filesystem_type();
    let known = [statfs::NFS_SUPER_MAGIC, statfs::SMB_SUPER_MAGIC, statfs::FUSE_SUPER_MAGIC, CIFS, SMB2, NINEP];
    let shared = known.contains(&fs) || MORE_SHARED.contains(&fs.0);
    Ok(if shared { FileKind::RemoteFile } else { FileKind::LocalFile })
}

const CIFS: FsType = FsType(0xff53_4d42);
const SMB2: FsType = FsType(0xfe53_4d42);
const NINEP: FsType = FsType(0x0102_1997);

/// A file has no sector size of its own: the smallest direct read that its file system and device accept is taken.
fn probe_sector(file: &File, len: u64) -> Result<SectorSize, io::Error> {
    let works = |size: SectorSize| {
        let mut buf = AlignedBuf::zeroed(size.bytes());
        // A short or empty file reads short; that says nothing against the size.
        file.read_at(&mut buf, 0).map(|_| ())
    };
    if works(SectorSize::B512).is_ok() && (len > 0 || works(SectorSize::B4096).is_ok()) {
        return Ok(SectorSize::B512);
    }
    works(SectorSize::B4096).map(|()| SectorSize::B4096)
}

/// The engine that works everywhere: a few threads that block in pread and pwrite. One pool serves one device for one
/// purpose, so a device that hangs takes no thread from another.
pub struct ThreadsEngine {
    pool: Arc<Pool>,
}

struct Pool {
    file: Arc<BlockFile>,
    queue: Mutex<Queue>,
    wake: Condvar,
    most_threads: usize,
    name: &'static str,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Io>,
    threads: usize,
    idle: usize,
    closed: bool,
}

/// How long a thread without work stays.
const IDLE: Duration = Duration::from_secs(30);

impl ThreadsEngine {
    /// An engine over `file` with at most `most_threads` threads, started when there is work. `name` is what `ps` shows.
    #[must_use]
    pub fn new(file: Arc<BlockFile>, most_threads: usize, name: &'static str) -> Self {
        let queue = Mutex::new(Queue::default());
        ThreadsEngine { pool: Arc::new(Pool { file, queue, wake: Condvar::new(), most_threads, name }) }
    }

    /// The file beneath.
    #[must_use]
    pub fn file(&self) -> &Arc<BlockFile> {
        &self.pool.file
    }
}

impl Engine for ThreadsEngine {
    fn path(&self) -> &Arc<str> {
        self.pool.file.path()
    }

    fn submit(&self, io: Io) {
        let mut queue = self.pool.lock();
        queue.drop_late(boot_now());
        queue.waiting.push_back(io);
        if queue.idle < queue.waiting.len() && queue.threads < self.pool.most_threads {
            let pool = Arc::clone(&self.pool);
            let spawned = std::thread::Builder::new()
                .name(self.pool.name.into())
                .stack_size(64 * 1024)
                .spawn(move || pool.work());
            // No thread to be had: the I/O waits for one of the others, or for its deadline.
            if spawned.is_ok() {
                queue.threads += 1;
            }
        }
        drop(queue);
        self.pool.wake.notify_one();
    }
}

impl Drop for ThreadsEngine {
    fn drop(&mut self) {
        self.pool.lock().closed = true;
        self.pool.wake.notify_all();
    }
}

/// The engines of a daemon: however often a device that hangs is tried, it costs the threads of one.
///
/// An engine may go while its threads hang in the device. Whoever needs one for the same open file and the same purpose then
/// gets those threads, with the places among them that are left, and no new ones.
#[derive(Default)]
pub struct Engines(Mutex<Made>);

#[derive(Default)]
struct Made {
    pools: Vec<Weak<Pool>>,
    shared: Vec<Weak<ThreadsEngine>>,
}

impl Engines {
    /// An engine for one user alone; see [`ThreadsEngine::new`].
    #[must_use]
    pub fn own(&self, file: &Arc<BlockFile>, most_threads: usize, name: &'static str) -> ThreadsEngine {
        self.lock().own(file, most_threads, name)
    }

    /// The one engine of all who ask for this file under this name.
    #[must_use]
    pub fn shared(&self, file: &Arc<BlockFile>, most_threads: usize, name: &'static str) -> Arc<ThreadsEngine> {
        let mut made = self.lock();
        made.shared.retain(|engine| engine.strong_count() > 0);
        let known = made.shared.iter().filter_map(Weak::upgrade).find(|engine| engine.pool.is_for(file, name));
        known.unwrap_or_else(|| {
            let engine = Arc::new(made.own(file, most_threads, name));
            made.shared.push(Arc::downgrade(&engine));
            engine
        })
    }

    fn lock(&self) -> MutexGuard<'_, Made> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Made {
    fn own(&mut self, file: &Arc<BlockFile>, most_threads: usize, name: &'static str) -> ThreadsEngine {
        self.pools.retain(|pool| pool.strong_count() > 0);
        let left = self.pools.iter().filter_map(Weak::upgrade).find(|pool| pool.is_for(file, name) && pool.reopen());
        let engine = left
            .map_or_else(|| ThreadsEngine::new(Arc::clone(file), most_threads, name), |pool| ThreadsEngine { pool });
        let pool = Arc::downgrade(&engine.pool);
        if !self.pools.iter().any(|known| known.ptr_eq(&pool)) {
            self.pools.push(pool);
        }
        engine
    }
}

impl Queue {
    /// Nobody waits any more for an I/O that is late. On a device that hangs they would gather here for as long as it does.
    fn drop_late(&mut self, now: LocalInstant) {
        let (late, waiting): (VecDeque<Io>, _) = self.waiting.drain(..).partition(|io| io.not_after() <= now);
        self.waiting = waiting;
        for io in late {
            let started = io.start(now);
            debug_assert!(started.is_none(), "a late I/O does not start");
        }
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_for(&self, file: &Arc<BlockFile>, name: &str) -> bool {
        Arc::ptr_eq(&self.file, file) && self.name == name
    }

    /// Takes it over from an engine that is gone; `false`: there is one.
    fn reopen(&self) -> bool {
        std::mem::replace(&mut self.lock().closed, false)
    }

    fn next(&self) -> Option<Io> {
        let mut queue = self.lock();
        loop {
            if let Some(io) = queue.waiting.pop_front() {
                return Some(io);
            }
            if queue.closed {
                queue.threads -= 1;
                return None;
            }
            queue.idle += 1;
            let (again, waited) = self.wake.wait_timeout(queue, IDLE).unwrap_or_else(PoisonError::into_inner);
            queue = again;
            queue.idle -= 1;
            if waited.timed_out() && queue.waiting.is_empty() {
                queue.threads -= 1;
                return None;
            }
        }
    }

    fn work(&self) {
        while let Some(io) = self.next() {
            if let Some(started) = io.start(boot_now()) {
                self.perform(started);
            }
        }
    }

    fn perform(&self, mut io: Started) {
        let (op, at) = (io.op(), io.at());
        let buf = io.buf();
        let mut moved = 0;
        let result = loop {
            let offset = at.saturating_add(moved as u64);
            let step = match op {
                Op::Read => self.file.file.read_at(&mut buf[moved..], offset),
                Op::Write => self.file.file.write_at(&buf[moved..], offset),
            };
            match step {
                Ok(0) => break Ok(moved),
                Ok(n) => moved += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => break Err(Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO))),
            }
            if moved == buf.len() {
                break Ok(moved);
            }
        };
        io.complete(result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{BootClock, Clock};
    use crate::device::{Device, WriteLimit};
    use crate::disk::{Disk, IoErrorKind, ReadDisk};

    fn scratch(len: u64) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        File::create(&path).unwrap().set_len(len).unwrap();
        (dir, path)
    }

    #[test]
    fn what_is_written_directly_is_read_back() {
        let (_dir, path) = scratch(1 << 20);
        let file = Arc::new(BlockFile::open(&path, Access::ReadWrite).unwrap());
        let clock = BootClock::new().unwrap();
        let disk = Device::new(ThreadsEngine::new(file, 2, "test-io"), clock.clone(), WriteLimit::none());
        let deadline = clock.now().after(Duration::from_secs(30));
        pollster::block_on(async {
            disk.write(4096, AlignedBuf::from_slice(&[7; 4096]), deadline).await.unwrap();
            let back = disk.read(0, 8192, deadline).await.unwrap();
            assert!(back[..4096].iter().all(|b| *b == 0));
            assert!(back[4096..].iter().all(|b| *b == 7));
        });
    }

    #[test]
    fn reading_past_the_end_says_how_much_was_there() {
        let (_dir, path) = scratch(4096);
        let file = Arc::new(BlockFile::open(&path, Access::ReadOnly).unwrap());
        let clock = BootClock::new().unwrap();
        let disk = Device::new(ThreadsEngine::new(file, 1, "test-io"), clock.clone(), WriteLimit::none());
        let deadline = clock.now().after(Duration::from_secs(30));
        let error = pollster::block_on(disk.read(0, 8192, deadline)).unwrap_err();
        assert_eq!(error.kind, IoErrorKind::Short { found: 4096 });
    }

    #[test]
    fn a_fence_excludes_another_descriptor_and_only_on_its_own_bytes() {
        let (_dir, path) = scratch(4096);
        let mine = BlockFile::open(&path, Access::ReadWrite).unwrap();
        let theirs = BlockFile::open(&path, Access::ReadWrite).unwrap();
        assert_eq!(mine.try_fence(512, 512).unwrap(), FenceOutcome::Held);
        assert_eq!(theirs.try_fence(512, 512).unwrap(), FenceOutcome::Busy);
        assert_eq!(theirs.try_fence(1024, 512).unwrap(), FenceOutcome::Held);
        drop(mine);
        assert_eq!(theirs.try_fence(512, 512).unwrap(), FenceOutcome::Held);
    }

    /// As if a thread of it hung in the device.
    fn hang(engine: &ThreadsEngine) -> Arc<Pool> {
        engine.pool.lock().threads += 1;
        Arc::clone(&engine.pool)
    }

    #[test]
    fn threads_that_hang_in_a_device_are_those_of_the_next_engine() {
        let (_dir, path) = scratch(4096);
        let file = Arc::new(BlockFile::open(&path, Access::ReadOnly).unwrap());
        let engines = Engines::default();
        let first = engines.own(&file, 1, "test-io");
        assert!(!Arc::ptr_eq(&first.pool, &engines.own(&file, 1, "test-io").pool), "the first has a user");
        let hanging = hang(&first);
        drop(first);
        assert!(
            !Arc::ptr_eq(&hanging, &engines.own(&file, 1, "other-io").pool),
            "another purpose has threads of its own"
        );
        let second = engines.own(&file, 1, "test-io");
        assert!(Arc::ptr_eq(&hanging, &second.pool));

        let clock = BootClock::new().unwrap();
        let disk = Device::new(second, clock.clone(), WriteLimit::none());
        for _ in 0..3 {
            let soon = clock.now().after(Duration::from_millis(10));
            let error = pollster::block_on(disk.read(0, 512, soon)).unwrap_err();
            assert_eq!(error.kind, IoErrorKind::NotIssued, "its only thread hangs");
            let queue = hanging.lock();
            assert_eq!((queue.threads, queue.waiting.len()), (1, 1), "nothing late gathers");
        }
        hanging.lock().threads -= 1; // the device has come back
        pollster::block_on(disk.read(0, 512, clock.now().after(Duration::from_secs(30)))).unwrap();
    }

    #[test]
    fn who_shares_an_engine_gets_the_same_one() {
        let (_dir, path) = scratch(4096);
        let open = || Arc::new(BlockFile::open(&path, Access::ReadOnly).unwrap());
        let (file, engines) = (open(), Engines::default());
        let first = engines.shared(&file, 4, "test-io");
        assert!(Arc::ptr_eq(&first, &engines.shared(&file, 4, "test-io")));
        assert!(!Arc::ptr_eq(&first, &engines.shared(&open(), 4, "test-io")));
        assert!(!Arc::ptr_eq(&first.pool, &engines.own(&file, 4, "test-io").pool));
    }

    #[test]
    fn what_is_no_disk_is_refused_without_being_opened() {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let dir = tempfile::tempdir().unwrap();
        let refused = |path: &Path| {
            let error = BlockFile::open(path, Access::ReadWrite).unwrap_err();
            assert!(matches!(error, OpenError::NotADevice { .. }), "{error}");
        };
        refused(Path::new("/dev/null"));
        assert_eq!(BlockFile::open(dir.path(), Access::ReadWrite).unwrap_err().errno(), Some(libc::EISDIR));
        let path = dir.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let pipe = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&path).unwrap();
        refused(&path);
        // Whoever reads a pipe is told when a writer has come and gone.
        let mut reads = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut reads, PollTimeout::ZERO).unwrap(), 0);
    }
}
