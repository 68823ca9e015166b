//! The disks of one lease: one, or 2 to 4 of which a majority is enough (`paxos_lease::copies`).
//!
//! Each open device has one table of what is in flight on it (I6), however often the lease is opened anew while that goes on.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use holdfast_io::clock::LocalInstant;
use holdfast_io::disk::{Disk, IoError, IoErrorKind, Op, ReadDisk};
use holdfast_io::ids::HostTerm;
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::sys::linux::NodeId;
use holdfast_io::units::LeaseOffset;
use holdfast_protocol::codes::ResultCode;
use nix::errno::Errno;
use paxos_lease::{Copies, Copy};

use crate::platform::{Platform, SharedDisk};

/// One of the disks, which may not be there.
pub enum LeaseCopy<P: Platform> {
    /// It is open.
    Open(NodeId, Rc<SharedDisk<P>>),
    /// It cannot be used.
    Missing {
        /// As it was named.
        path: Arc<str>,
        /// Why.
        errno: Errno,
    },
}

impl<P: Platform> LeaseCopy<P> {
    /// One that cannot be used, for this reason.
    #[must_use]
    pub fn missing(path: &Path, code: ResultCode) -> Self {
        let errno = match Errno::from_raw(code.number().saturating_neg()) {
            Errno::UnknownErrno => Errno::EIO,
            errno => errno,
        };
        LeaseCopy::Missing { path: Arc::from(path.display().to_string()), errno }
    }

    fn node(&self) -> Option<NodeId> {
        match self {
            LeaseCopy::Open(node, _) => Some(*node),
            LeaseCopy::Missing { .. } => None,
        }
    }
}

fn not_there(path: &Arc<str>, errno: Errno, op: Op, offset: u64, len: usize) -> IoError {
    IoError { path: Arc::clone(path), op, offset, len, kind: IoErrorKind::Failed(errno) }
}

impl<P: Platform> ReadDisk for LeaseCopy<P> {
    fn path(&self) -> &Arc<str> {
        match self {
            LeaseCopy::Open(_, disk) => disk.path(),
            LeaseCopy::Missing { path, .. } => path,
        }
    }

    async fn read(&self, at: u64, len: usize, deadline: LocalInstant) -> Result<AlignedBuf, IoError> {
        match self {
            LeaseCopy::Open(_, disk) => disk.read(at, len, deadline).await,
            LeaseCopy::Missing { path, errno } => Err(not_there(path, *errno, Op::Read, at, len)),
        }
    }
}

impl<P: Platform> Disk for LeaseCopy<P> {
    async fn write(&self, at: u64, data: AlignedBuf, deadline: LocalInstant) -> Result<(), IoError> {
        match self {
            LeaseCopy::Open(_, disk) => disk.write(at, data, deadline).await,
            LeaseCopy::Missing { path, errno } => Err(not_there(path, *errno, Op::Write, at, data.len())),
        }
    }

    async fn reaped(&self) {
        if let LeaseCopy::Open(_, disk) = self {
            disk.reaped().await;
        }
    }
}

/// A lease's view of its disks.
pub struct LeaseDisk<P: Platform> {
    /// What the lease is read and written through.
    pub copies: Copies<LeaseCopy<P>, P::Clock>,
}

impl<P: Platform> LeaseDisk<P> {
    /// Of disks, each with the place of its copy; `me`: who writes, if anybody.
    #[must_use]
    pub fn new(list: Vec<(LeaseCopy<P>, LeaseOffset)>, clock: &P::Clock, me: Option<HostTerm>) -> Self {
        let list = list.into_iter().map(|(disk, at)| Copy { disk, at }).collect();
        LeaseDisk { copies: Copies::new(list, clock.clone(), me) }
    }

    /// Whether it is made of these nodes, with the area at these offsets, in this order.
    pub fn is_of(&self, places: &[(Option<NodeId>, LeaseOffset)]) -> bool {
        self.copies.list().iter().map(|copy| (copy.disk.node(), copy.at)).eq(places.iter().copied())
    }

    fn open(&self) -> impl Iterator<Item = (NodeId, &Rc<SharedDisk<P>>, LeaseOffset)> {
        self.copies.list().iter().filter_map(|copy| match &copy.disk {
            LeaseCopy::Open(node, disk) => Some((*node, disk, copy.at)),
            LeaseCopy::Missing { .. } => None,
        })
    }

    /// The one whose area is there.
    pub fn on(&self, node: NodeId, at: LeaseOffset) -> Option<Rc<SharedDisk<P>>> {
        self.open().find(|(its, _, place)| (*its, *place) == (node, at)).map(|(_, disk, _)| Rc::clone(disk))
    }

    /// Where its areas are: node and offset.
    pub fn areas(&self) -> impl Iterator<Item = (NodeId, u64)> {
        self.open().map(|(node, _, at)| (node, at.0))
    }

    /// How many of its writes are on their way, to any of its disks.
    pub fn writes_in_flight(&self) -> usize {
        self.open().map(|(_, disk, _)| disk.writes_in_flight()).sum()
    }

    /// Resolves once no write of it is on its way to any disk any more.
    pub async fn all_reaped(&self) {
        for (_, disk, _) in self.open() {
            disk.reaped().await;
        }
    }
}
