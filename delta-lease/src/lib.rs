//! Host-id leases: which machine is host N of a lockspace, and is it alive?
//!
//! After Gregory Chockler and Dahlia Malkhi, "Light-weight leases for storage-centric coordination" (2004), in the form
//! that sanlock gave it (spec D 2.2, 2.3, 3). The paper in one page: a lease is one cell of a shared disk that everyone
//! can read and write, and clocks that advance at nearly the same rate. To acquire, read the cell until it has not
//! changed for as long as a lease lasts (its holder is gone); write yourself; wait until every rival that read the
//! cell before your write must have finished its own; read again. If the cell is still yours, so is the lease, counted
//! from before your write. To keep it, write something new before it runs out. Nobody compares clocks: a holder that
//! renews is seen to change the cell, and that is all anyone ever asks.
//!
//! | paper | here |
//! | --- | --- |
//! | lease cell | the delta sector of a host_id ([`sector`]) |
//! | lease period | [`Timing::host_dead`](holdfast_io::timing::Timing::host_dead) for others, `id_renewal_fail` for the holder |
//! | read until unchanged | [`acquire::acquire`], judged by [`liveness::Silence`] |
//! | the wait of 2 delta | [`Timing::settle`](holdfast_io::timing::Timing::settle) |
//! | renew, release | [`renew::Held`] |
//!
//! A host writes its own sector only, and in it no one else's (but for taking it over), so many hosts renew on one
//! device at once; each renewal reads the whole area, which is how every host watches all others ([`liveness`]).
//!
//! # Invariants
//! - **D1** A lease changes hands without a release (timestamp 0) only after silence that the taker has itself seen: from
//!   the *end* of the read that last saw the sector change to the *start* of the latest read that saw it unchanged, at
//!   least host_dead, the drift of both clocks and one watchdog tick. The exceptions are P1's two.
//! - **D2** Past the start of its last successful renewal plus id_renewal_fail a host protects nothing and writes
//!   nothing but renewal attempts. Hence [`renew::Held::started_at`] is an instant taken *before* the write it stands for.
//! - **P1** A host_id's generation rises only when nothing guarded under the old one can still write: after a release,
//!   after D1, or (a) in another boot of this very machine, after a short watch, or (b) in the same boot, when the caller
//!   has proven its predecessor gone, by fence and state file.
//! - **I6** At most one write is outstanding for a sector: the [`Disk`](holdfast_io::disk::Disk) below sees to it, and
//!   [`renew`] draws on it to know which of its own images may stand on disk.
//!
//! # What may land late
//! Any write here that is given up may still reach the disk, however late, until it is reaped or its host is reset.
//! Taking and renewing write a *nonzero timestamp* and a generation that is *not above* that of any later holder (who
//! read the generation we read, or ours, and wrote one more). So a late one frees nothing and proves nothing over; it
//! takes the sector away from its holder at worst, who finds that at its next renewal and ends. A release is the one
//! write that frees: it is issued only by a confirmed holder under D2, and its host stays under the watchdog until it is
//! reaped (D3). Readers add to that: a record of an *older* generation frees no newer one ([`liveness`]).
//!
//! # Where we differ from the paper and from sanlock, and why
//! - The taker polls the sector all the while, so a living holder is found within a renewal, not after host_dead.
//! - An equal host name proves nothing by itself (sanlock takes such a lease at once: two machines of one name then
//!   steal it from each other). The seal tells machine and boot; without one the lease is waited out.
//! - Taking is tied to the read it rests on: the write must be over within two of the stored io_timeouts of that read's
//!   start. A rival waits at least as long before it believes its own write, whatever io_timeout either side has.
//! - A renewal compares every byte with what this very process wrote, also after a write of unknown outcome. A lost
//!   lease is final: no more writes, no release (sanlock goes on writing to the sector).
//! - A damaged sector is neither a change nor a confirmation; sanlock's scan ignores checksums.
//! - A reformatted area is noticed by its UUID, even if our own sector was written back over it.

#![forbid(unsafe_code)]

pub mod acquire;
pub mod bitmap;
pub mod error;
pub mod format;
pub mod holder;
pub mod host;
pub mod layout;
pub mod liveness;
pub mod look;
pub mod renew;
pub mod sector;

#[cfg(test)]
mod testing;

pub use acquire::{Joined, Past, Progress, acquire};
pub use bitmap::HostBitmap;
pub use error::{DeltaError, SectorError};
pub use holder::{Evidence, HeldBy, Relation};
pub use host::LocalHost;
pub use layout::DeltaArea;
pub use liveness::{HostState, HostTable, NotConfirmed, Observation, OwnerVerdict};
pub use look::{AreaView, SectorView, read_area, read_host};
pub use renew::{Held, HostEvent, Lost, Publication, ReleaseError, RenewError, Renewal};
pub use sector::DeltaSector;
