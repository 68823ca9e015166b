//! Resource leases, arbitrated by Disk Paxos.
//!
//! # The paper in one page
//! Gafni & Lamport, "Disk Paxos", Distributed Computing 16 (2003): processors agree on one value through disks that they
//! can only read and write, whatever crashes. Each processor has a block of its own on every disk and never writes
//! another's. A ballot has two phases, and each phase is the same exchange: write your block to a majority of the disks,
//! then read all blocks of a majority; if any of them carries a larger mbal, start over with a larger one. Phase 1
//! announces mbal and learns what may have been chosen: the inp of the largest bal. Phase 2 writes that (or, if there
//! is none, one's own value) as bal and inp. If nobody was faster, the value is committed.
//!
//! Here the value is the owner of a lease, and there is one instance for each lver: the leader record says what was
//! committed for the current lver, and the instance of lver + 1 may begin once the owner of lver is over - it has given
//! the lease back, or it is gone (D1). A lease is ours from the commit to the RELEASED flag in our own block.
//!
//! | name in the paper | name here | where |
//! | --- | --- | --- |
//! | processor, its dblock | host_id, [`dblock::Dblock`] | dblock.rs |
//! | ballot number | [`number::Ballot`] | number.rs |
//! | a processor's input, inp | [`dblock::Inp`], a proposed owner | dblock.rs |
//! | write to and read from a majority | `write_then_read_majority` | majority.rs |
//! | the disks | [`copies::Copies`] | copies.rs |
//! | phase 0: recover dblock | the first read of an acquire | acquire.rs |
//! | phases 1 and 2 | `run_ballot` | ballot.rs |
//! | choosing the value | [`choose::choose_inp`] | choose.rs |
//! | committed | published in the leader record, one instance a lver | acquire.rs |
//! | failure detector, outside the paper | [`liveness::HostLiveness`] | liveness.rs |
//!
//! # Invariants
//! - **I1** only host p writes dblock\[p]; one named exception: the exclusive holder at lver L may clear the mode block of
//!   a host it has found dead, keeping mbal, bal, inp and lver as read, after its own leader write at L.
//! - **I2** lver, and within one lver mbal, never fall between two formats of an area; a retract keeps mbal.
//! - **I3** bal <= mbal; bal and inp are set together.
//! - **I4** one inp per (lver, bal).
//! - **I5** one committed inp per lver.
//! - **I6** at most one write is outstanding per sector; the next is issued only after the first is reaped - across
//!   daemon restarts too (the fence).
//!
//! # Where we differ from the paper
//! - Many instances, one after the other, in the same blocks: a block of a later lver outruns every ballot of an
//!   earlier one, and a block of an earlier lver says nothing.
//! - The leader record is written by whoever commits, without a fence: a host that was held up can write it late, over
//!   a newer one. So it is a publication and not the truth. The truth is in the dblocks, and whoever holds a lease
//!   keeps its block at its lver; see `entry.rs` for what an outdated record leads to.
//! - RELEASED: a host takes its word back for an lver, for good. It says so in its block, which it alone writes, where it
//!   cannot say it in the leader record, which others may be writing.
//!
//! # Where we differ from sanlock, on the same disk
//! - bal and inp of one lver are kept in phase 1, and a retract keeps the block; sanlock writes zeros. With a host held
//!   up in between, that forgets a committed value.
//! - RELEASED stays for the rest of its lver; sanlock's next ballot clears it, though another host may already have
//!   taken it for the end of the lver. We run that lver's ballot to its end and take the next one.
//! - A dblock that fails its check ends a ballot, and unknown flags are refused; sanlock skips such a block, and with
//!   it what may be a live shared holder's claim.
//! - A leader record outdated by two versions or more is recognised and healed; sanlock is outrun for ever.
//! - After being outrun we go above the ballot that outran us, after milliseconds; sanlock waits up to a second and adds
//!   a fixed step.
//! - The leader record is read once more before it is written, and our own block checked after each write (I1).
//! - A dead host's mode block is cleared and its dblock kept; sanlock zeroes the sector, and a committed value with it.
//!
//! Units: bytes, sectors, seconds of the writer's clock on disk. Errors: `error.rs`. Source: spec D 2.2 to 2.6, 2.9, 4.

#![forbid(unsafe_code)]

pub mod acquire;
mod area;
pub mod ask;
mod ballot;
pub mod choose;
pub mod convert;
pub mod copies;
mod damage;
pub mod dblock;
mod entry;
pub mod error;
pub mod format;
pub mod index;
pub mod layout;
pub mod liveness;
mod majority;
pub mod number;
pub mod owners;
pub mod release;
pub mod request;
mod shared;
pub mod standing;
pub mod tend;
pub mod value;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use acquire::{Acquired, Options, Refusal, RefusalKind, acquire};
pub use area::{LeaseAt, Me};
pub use ask::{Ask, Asked, ask, asked_of};
pub use convert::{AfterShare, ShareFailed, Sharing, exclude, share};
pub use copies::{Copies, Copy, Place};
pub use error::{AcquireError, AcquireFailed, AreaError, AskError, ReleaseError, ReleaseFailed, Unread};
pub use liveness::{Gone, HostLiveness, LivenessError, Verdict};
pub use release::{Held, Mode, Retract, release, rename, retract};
pub use standing::{Loss, Standing, standing};
pub use tend::tend;
