//! Looking after a lease that is held on several disks, so that any one of them can still be lost.
//!
//! What a lease says is on a majority when it is said. What happens to it later takes that away again: a disk was slow and has missed our last
//! word, a write that hung for long lands over the leader record on one disk. Neither matters while the others are there (merge.rs);
//! with one more of them gone it would.
//!
//! I/O: W own sector, to those disks alone that may have missed it. An exclusive owner whose record is outdated: W leader. Of a shared
//! lease R leader, R own sector, and W leader where that names us as its exclusive owner.

use holdfast_io::clock::Clock;
use holdfast_io::disk::Disk;

use crate::area::{Area, Me};
use crate::copies::Copies;
use crate::error::AreaError;
use crate::release::{Held, Mode, free_leader};
use crate::standing::Standing;

/// Sees to a lease that is held, and of which [`crate::standing()`] has just found this. On one disk there is nothing to see to.
///
/// The caller sees to it that nothing of its own works on the lease meanwhile: no release, no conversion.
///
/// # Errors
/// [`AreaError`]: not done; the lease is what it was.
pub async fn tend<D: Disk, C: Clock>(
    disk: &Copies<D, C>,
    clock: &C,
    held: &Held,
    me: &Me,
    found: Standing,
) -> Result<(), AreaError> {
    if disk.copies() == 1 || matches!(found, Standing::Lost(_)) {
        return Ok(());
    }
    let area = held.area(disk, clock, me);
    disk.catch_up(area.deadline()).await;
    match (held.mode, found) {
        // The lease is ours until we say otherwise, and this is the record by which it became ours (I5). Held up here, or landing late: until
        // others find us dead nobody goes past this lver, and after that D2 refuses it, or it is one more outdated record (entry.rs).
        (Mode::Exclusive, Standing::Outdated) => area.write_leader(&held.leader).await,
        (Mode::Exclusive, _) => Ok(()),
        (Mode::Shared, _) => free_late_record(&area).await,
    }
}

/// A publisher that was held up may have brought back the record under which we began to share the lease, or under which we last tried to
/// convert it. We are done with that lver, and have said so; whoever reads that on too few disks, with our claim beside it, is kept
/// out by the record for as long as we share the lease. The same argument as in a release makes freeing it safe.
async fn free_late_record<D: Disk, C: Clock>(area: &Area<'_, D, C>) -> Result<(), AreaError> {
    let leader = area.read_leader().await?;
    if leader.owner() != Some(area.me.term) || leader.is_free() {
        return Ok(());
    }
    let own = area.read_host(area.me.term.host_id).await?.dblock;
    if own.lver > leader.lver || (own.lver == leader.lver && own.is_released()) {
        free_leader(area, &leader, None).await?;
    }
    Ok(())
}
