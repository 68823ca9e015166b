//! An exclusive owner and the hosts that share the lease (spec D 4.9).
//!
//! Shared holders show in their mode blocks alone. A new exclusive owner, after its leader write at lver L, looks at each
//! of them: one that is not found dead stands in its way.
//!
//! I/O for each other host that shares: R its sector; R and W its sector if it is dead; on several disks R its sector and our own instead.

use holdfast_io::clock::{Clock, LocalInstant};
use holdfast_io::disk::Disk;
use holdfast_io::ids::HostTerm;
use holdfast_io::planted::{Bug, planted};
use tracing::info;

use crate::area::Area;
use crate::error::AcquireError;
use crate::liveness::{Gone, HostLiveness, Verdict};

/// Who stands in the way of an exclusive owner.
#[derive(Default)]
pub(crate) struct Standing {
    pub(crate) hosts: Vec<HostTerm>,
    /// When all of them could be gone.
    pub(crate) earliest: Option<LocalInstant>,
    /// One of them is seen to live.
    pub(crate) lives: bool,
    /// On several disks: dead hosts whose claims are not cleared. Each is to be told, should it not be dead after all (A7).
    pub(crate) passed_over: Vec<HostTerm>,
}

/// Looks at each host of `sharing` and clears the mode blocks of those that are dead.
///
/// Clearing is I1's one exception: we are the exclusive holder at lver L, after the leader write at L; the host is dead,
/// so it writes nothing itself; its sector is read again once that is known. mbal, bal, inp and lver stay as read, because its
/// (bal, inp) may be what keeps the value of this very lver committed, if an outdated leader record makes somebody run
/// this ballot again. A crash before the write leaves the mode block for the next owner. A write that fails ends the
/// acquire with a [`crate::release::Retract`], which waits until the write is reaped before it frees the lease: so it
/// cannot land on anything that the host's next generation writes for lver L + 1.
///
/// On several disks no claim is cleared, and each newcomer would have to see for itself that its host is dead. One that was made before the
/// lockspace was made anew nobody could ever see to be: there is no such generation any more. Whoever made it has lost its
/// lockspace with that format, as whoever held a lease exclusively then.
///
/// A mode block of an older generation of a *living* host is over too (P1), but not cleared: that host may be writing
/// its sector at this moment. It clears the block itself with its next ballot.
pub(crate) async fn settle_shared<D: Disk, C: Clock, H: HostLiveness>(
    area: &Area<'_, D, C>,
    liveness: &H,
    sharing: &[HostTerm],
) -> Result<Standing, AcquireError> {
    let mut standing = Standing::default();
    for holder in sharing {
        let sector = area.read_host(holder.host_id).await?;
        if !sector.mode.is_shared() {
            continue;
        }
        if area.disk.copies() > 1 && area.is_of_another_lockspace(holder.host_id).await? {
            info!(%holder, "its claim is of before the lockspace was made anew");
            continue;
        }
        let holder = HostTerm { generation: sector.mode.generation, ..*holder };
        let earliest = match liveness.verdict(holder).await? {
            Verdict::Gone(Gone::Free | Gone::Silent | Gone::Confirmed) if area.disk.copies() > 1 => {
                // A write of ours to its sector could land on one of them after we have given the lease back. Uncleared, the claim is
                // looked into again by the next owner: a host that is gone stays so.
                standing.passed_over.push(holder);
                continue;
            }
            Verdict::Gone(Gone::Free | Gone::Silent | Gone::Confirmed) => {
                clear(area, holder).await?;
                continue;
            }
            Verdict::Gone(Gone::NewerGeneration) if planted(Bug::LivingClaimCleared) => {
                clear(area, holder).await?;
                continue;
            }
            Verdict::Gone(Gone::NewerGeneration | Gone::OtherOwner) => continue,
            Verdict::Alive { earliest } => {
                standing.lives = true;
                Some(earliest)
            }
            Verdict::Silent { earliest } => Some(earliest),
            Verdict::Unknown => None,
        };
        // Known only while it is known for every one of them.
        standing.earliest = match (standing.hosts.is_empty(), standing.earliest) {
            (true, _) => earliest,
            (false, so_far) => so_far.zip(earliest).map(|(a, b)| a.max(b)),
        };
        standing.hosts.push(holder);
    }
    Ok(standing)
}

/// Clears the claim of a host that is gone, as it stands there now. What was read while it lived it may have written over since:
/// it takes its claim back, begins another ballot perhaps, and leaves. Its next generation claims nothing while we hold the
/// lease exclusively.
async fn clear<D: Disk, C: Clock>(area: &Area<'_, D, C>, holder: HostTerm) -> Result<(), AcquireError> {
    let sector = area.read_host(holder.host_id).await?;
    if sector.mode.is_shared() && sector.mode.generation == holder.generation {
        info!(%holder, "clearing the mode block of a dead shared holder");
        area.clear_mode(holder.host_id, &sector.dblock).await?;
    }
    Ok(())
}
