//! What can go wrong with an index, refusals included: their codes are sanlock's, and each says what stands in the way.

use std::sync::Arc;

use holdfast_io::disk::IoError;
use holdfast_io::ids::ResourceName;

use super::codec::HeaderError;
use super::slots::NoSlot;
use crate::error::{AcquireError, AreaError};
use crate::format::FormatError;

/// Why an operation on an index did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// The device.
    #[error(transparent)]
    Io(#[from] IoError),
    /// There is no index that could be used (-274 to -277).
    #[error("resource index at offset {offset} of {path} cannot be used")]
    Header {
        /// Device.
        path: Arc<str>,
        /// Byte offset on it.
        offset: u64,
        /// Which field, expected and found.
        source: Box<HeaderError>,
    },
    /// Its resources would be behind the end of every device (-277).
    #[error("resource index at offset {offset} of {path}: its resources would be behind the end of every device")]
    TooFar {
        /// Device.
        path: Arc<str>,
        /// Byte offset on it.
        offset: u64,
    },
    /// An offset that is none of its resources' (-277).
    #[error("not in the resource index at offset {offset} of {path}")]
    Offset {
        /// Device.
        path: Arc<str>,
        /// Of the index.
        offset: u64,
        /// Which one, and which there are.
        source: NoSlot,
    },
    /// No resource of this name is listed (-ENOENT).
    #[error("the resource index at offset {offset} of {path} has no resource {name}")]
    NotListed {
        /// Device.
        path: Arc<str>,
        /// Of the index.
        offset: u64,
        /// Asked for.
        name: ResourceName,
    },
    /// Every place is taken (-ENOENT).
    #[error("the resource index at offset {offset} of {path} is full: all of its {count} places are taken")]
    Full {
        /// Device.
        path: Arc<str>,
        /// Of the index.
        offset: u64,
        /// Its places.
        count: u32,
    },
    /// The name, or the place, is taken (-EEXIST).
    #[error("the resource index at offset {offset} of {path} has {name} at {at} already")]
    Listed {
        /// Device.
        path: Arc<str>,
        /// Of the index.
        offset: u64,
        /// Who has it.
        name: ResourceName,
        /// Where.
        at: u64,
    },
    /// Another resource stands there (-278).
    #[error("at {at} of {path} is resource {found}, expected {expected}")]
    Differs {
        /// Device.
        path: Arc<str>,
        /// The resource's area.
        at: u64,
        /// Which one is there.
        found: Box<ResourceName>,
        /// Asked for.
        expected: Box<ResourceName>,
    },
    /// What stands in a resource's area is not to be overwritten (-EBUSY).
    #[error("the area at {at} of {path} is not to be overwritten: {why}")]
    InUse {
        /// Device.
        path: Arc<str>,
        /// The area.
        at: u64,
        /// What stands there, and who holds it.
        why: String,
    },
    /// There are free places, and in each of them stands what is not to be overwritten (-EBUSY).
    #[error(
        "none of the {free} free places of the resource index at offset {offset} of {path} can be formatted: {why}"
    )]
    NothingToTake {
        /// Device.
        path: Arc<str>,
        /// Of the index.
        offset: u64,
        /// How many.
        free: usize,
        /// What stands in the first of them.
        why: String,
    },
    /// Somebody who does not hold the index has written to it (-EAGAIN).
    #[error("the entry of {at} in the resource index at offset {offset} of {path} has changed meanwhile")]
    Changed {
        /// Device.
        path: Arc<str>,
        /// Of the index.
        offset: u64,
        /// The resource's area.
        at: u64,
    },
    /// We were asked to stop.
    #[error("asked to stop")]
    Stopped,
    /// A lease area.
    #[error(transparent)]
    Area(#[from] AreaError),
    /// Acquiring a lease that was to be overwritten.
    #[error(transparent)]
    Acquire(Box<AcquireError>),
    /// The lease that was to be created.
    #[error(transparent)]
    Format(#[from] FormatError),
}
