//! The resource index: which resources a lockspace has on a device, by name (spec D 2.7, 2.8, 5).
//!
//! | file | what |
//! | --- | --- |
//! | `index/codec.rs` | header and entries as bytes |
//! | `index/slots.rs` | where entries, and the resources that they name, are |
//! | `index/read.rs` | reading an index, looking something up |
//! | `index/write.rs` | the one write that changes an index, and changes by hand |
//! | `index/seize.rs` | areas that are about to be overwritten: whose they are, and taking them |
//! | `index/change.rs` | creating and deleting resources |
//! | `index/rebuild.rs` | listing anew what is there |
//! | `index/format.rs` | making an index |
//!
//! # What is true, and what is only listed
//! A resource is its lease area: whoever knows where it is can use it, listed or not. An entry is a way to it by name. So what
//! must never happen is that an area is overwritten that somebody holds; an entry that is lost is found again by
//! [`rebuild`].
//!
//! # Who may write
//! - Entries: the exclusive holder of the lease `rindex_lease` behind the index ([`IndexAt::lease`]), as sanlock has it. So an
//!   entry's sector, which has other entries in it, is read and written back by one host at a time, and every write is bound
//!   by D2 like any other lease write. Nobody who has a write on its way gives that lease back before it has landed.
//!   (sanlock's update takes no lease. Each write here reads its sector right before.)
//! - A resource's area, to format or to clear it: who holds the index and, if there is a lease of this lockspace, has
//!   *acquired that lease* by a ballot. So it is nobody else's, and becomes nobody else's meanwhile.
//!
//! # In which order
//! | operation | first | then | after a crash in between |
//! | --- | --- | --- | --- |
//! | create | format the area (sector 0 first blank, last valid) | its entry | a lease that nobody was told of, in a place that counts as free: formatted over by the next create, listed by a rebuild |
//! | delete | take the entry away | clear the area | the lease is there, unlisted, ours: a rebuild lists it |
//! | rebuild | read all areas | write the sectors of entries that differ | some are as they were: rebuild again |
//! | format | blank the header; entries, `rindex_lease` | the header | no index: format again, then rebuild |
//!
//! An entry is one sector's write: it is there or not.
//!
//! Source: spec D 5. Deliberately otherwise than sanlock: docs/compatibility.md.

mod change;
pub mod codec;
mod error;
pub mod format;
mod read;
mod rebuild;
mod seize;
pub mod slots;
mod write;

use holdfast_io::ids::{ResourceName, SpaceName};
use holdfast_io::units::{Geometry, LeaseOffset};

pub use change::{Change, Leftovers, Nobody, Reserve};
pub use codec::{Entry, Header, HeaderError};
pub use error::IndexError;
pub use read::{Found, Index, Reader};
pub use rebuild::{Rebuilt, rebuild};
pub use slots::{NoSlot, Slot, Slots};
pub use write::{add, remove};

use crate::area::LeaseAt;

/// Where an index is, and whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexAt {
    /// Where its area begins.
    pub at: LeaseOffset,
    /// Its lockspace.
    pub space: SpaceName,
}

/// The name of the lease that guards an index.
pub const LEASE_NAME: &[u8] = b"rindex_lease";

/// The same as a resource's name.
#[must_use]
pub fn lease_name() -> ResourceName {
    let mut field = [0; holdfast_io::ids::NAME_LEN];
    holdfast_io::bytes::put(&mut field, 0, LEASE_NAME);
    ResourceName::from_field(&field)
}

impl IndexAt {
    /// The lease that guards an index of this shape.
    #[must_use]
    pub fn lease(&self, geometry: Geometry) -> LeaseAt {
        LeaseAt {
            at: LeaseOffset(self.at.0.saturating_add(geometry.align().bytes())),
            space: self.space,
            resource: lease_name(),
            geometry_hint: geometry,
        }
    }
}
