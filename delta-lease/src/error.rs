//! What can be wrong with a delta sector, and why a lease operation failed.
//!
//! Outcomes that are normal (a living holder) are values, not errors. Every error names path and offset; the variants
//! are as fine as sanlock's codes, so that a daemon can map them: magic, version, sector size, names, checksum, sizes,
//! host_id (spec D 7).

use std::sync::Arc;

use holdfast_io::disk::IoError;
use holdfast_io::ids::{Generation, HostId};
use holdfast_io::leader::LeaderError;
use holdfast_io::seal::{AreaUuid, SealError};
use holdfast_io::units::{Geometry, GeometryError};

/// A delta sector that cannot be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SectorError {
    /// The leader record: magic, version, lockspace name, checksum, flags, fields.
    #[error(transparent)]
    Leader(#[from] LeaderError),
    /// The seal is there and wrong.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// Another host's record stands in this host's place.
    #[error("owner_id {found} stands in the sector of host_id {expected}")]
    Owner {
        /// On disk.
        found: u64,
        /// Whose sector it is.
        expected: HostId,
    },
    /// Sealed for another lease area: left over from before the area was formatted, or copied from elsewhere.
    #[error("sealed for lease area {}, but stands in area {}", .found.0, .expected.0)]
    Area {
        /// In the seal.
        found: AreaUuid,
        /// The area it was read from.
        expected: AreaUuid,
    },
    /// Its sizes are not those of its area.
    #[error("says that its area is {found}, but the area is {expected}")]
    Geometry {
        /// On disk.
        found: Geometry,
        /// The area's.
        expected: Geometry,
    },
}

/// Why a lease operation failed. Nothing is held after any of these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// The disk.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A sector that cannot be believed.
    #[error("delta sector of host_id {host_id} at offset {offset} of {path}: {source}")]
    Sector {
        /// The device.
        path: Arc<str>,
        /// Byte offset on it.
        offset: u64,
        /// Whose sector.
        host_id: HostId,
        /// What is wrong with it.
        source: Box<SectorError>,
    },
    /// The sector that carries the area's UUID is damaged.
    #[error("sector with the area's UUID at offset {offset} of {path}: {source}")]
    Tail {
        /// The device.
        path: Arc<str>,
        /// Byte offset on it.
        offset: u64,
        /// What is wrong with it.
        source: SealError,
    },
    /// The lockspace's own record names a sector size that does not exist.
    #[error("lockspace at offset {offset} of {path}: sector size {found}, expected 512 or 4096")]
    SectorSize {
        /// The device.
        path: Arc<str>,
        /// Byte offset on it.
        offset: u64,
        /// On disk.
        found: u32,
    },
    /// The lockspace's own record names sizes that do not go together.
    #[error("lockspace at offset {offset} of {path}: {source}")]
    Geometry {
        /// The device.
        path: Arc<str>,
        /// Byte offset on it.
        offset: u64,
        /// The pair.
        source: GeometryError,
    },
    /// The area has no room for this host.
    #[error("lockspace at offset {offset} of {path} has room for host_ids 1 to {max}, not for {found}")]
    HostId {
        /// The device.
        path: Arc<str>,
        /// Byte offset on it.
        offset: u64,
        /// Asked for.
        found: HostId,
        /// The most.
        max: u32,
    },
    /// Generations have run out: no record that a program wrote says so.
    #[error("delta sector of host_id {host_id} at offset {offset} of {path}: no generation follows {found}")]
    Generation {
        /// The device.
        path: Arc<str>,
        /// Byte offset on it.
        offset: u64,
        /// Whose sector.
        host_id: HostId,
        /// On disk.
        found: Generation,
    },
    /// The device acknowledged a write and then showed what had been there before it.
    #[error("device {path} lost a write to offset {offset} that it had acknowledged: it is not fit to hold leases")]
    WriteVanished {
        /// The device.
        path: Arc<str>,
        /// Byte offset on it.
        offset: u64,
    },
}
