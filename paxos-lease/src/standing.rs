//! Whether a lease that we hold is still ours on disk: nobody tells us when it is not.
//!
//! While a host renews in time nobody takes its leases (D1, D2). What can still happen: the host was paused as a whole, its clock
//! and its watchdog with it, and others have rightly found it dead (A7); somebody has formatted the area under its holder; a
//! host that keeps other rules has cleared a claim. An owner that looks finds it, and ends whoever uses the lease.
//!
//! Only what proves the loss counts as one. A record that is damaged, or blank, belongs to nobody else and can be taken by
//! nobody before it is repaired or formatted. An *outdated* leader record - a write that landed late, over ours - says nothing: the
//! dblocks are the truth, and ours keeps everybody away (`entry.rs`).
//!
//! I/O: R leader; R own sector where that record is an older one; of a shared lease R own sector, and on several disks R leader, and R
//! dblocks where that is a later one.

use holdfast_io::clock::Clock;
use holdfast_io::disk::Disk;
use holdfast_io::ids::{HostTerm, Lver};

use crate::area::{Area, Me};
use crate::dblock::{DblockError, HostSector};
use crate::error::AreaError;
use crate::release::{Held, Mode};

/// What the disk says of a lease that we hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is ours.
    Ours,
    /// It is ours, and its leader record is an older one. On several disks [`crate::tend()`] writes it again.
    Outdated,
    /// It is not ours any more.
    Lost(Loss),
}

/// How a lease was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// Another host owns it, or has since.
    #[error("{owner:?} has it at lver {lver}")]
    Taken {
        /// By whom, as the record says.
        owner: Option<HostTerm>,
        /// Under which version.
        lver: Lver,
    },
    /// Our claim to share it was cleared: somebody has found us dead.
    #[error("our claim to share it was cleared")]
    ClaimCleared,
    /// The record says that it is free, at our own lver.
    #[error("its leader record is free at lver {lver}")]
    Freed {
        /// That lver.
        lver: Lver,
    },
    /// Its area was formatted anew.
    #[error("its area was formatted anew")]
    Formatted,
}

impl Loss {
    /// Whether another host may have it at this moment, and not only soon.
    #[must_use]
    pub const fn is_anothers(&self) -> bool {
        // A new area begins with lver 1: whoever has it by now looks older than we.
        matches!(self, Loss::Taken { .. } | Loss::ClaimCleared | Loss::Formatted)
    }
}

/// Reads how a held lease stands. The caller sees to it that nothing of its own works on the lease meanwhile.
///
/// # Errors
/// [`AreaError`]: nothing is known.
pub async fn standing<D: Disk, C: Clock>(disk: &D, clock: &C, held: &Held, me: &Me) -> Result<Standing, AreaError> {
    let area = held.area(disk, clock, me);
    match held.mode {
        Mode::Exclusive => exclusive(&area, held).await,
        Mode::Shared => shared(&area, held).await,
    }
}

async fn exclusive<D: Disk, C: Clock>(area: &Area<'_, D, C>, held: &Held) -> Result<Standing, AreaError> {
    let ours = held.lver();
    match area.read_leader().await {
        Ok(leader) if leader.lver < ours => {}
        Ok(leader) if leader.lver == ours && leader.owner() == Some(area.me.term) => {
            // By whosever hand: a host that finished our ballot for us wrote us down as the owner.
            let free = Loss::Freed { lver: ours };
            return Ok(if leader.is_free() { Standing::Lost(free) } else { Standing::Ours });
        }
        Ok(leader) => return Ok(Standing::Lost(Loss::Taken { owner: leader.owner(), lver: leader.lver })),
        Err(AreaError::OtherArea { .. } | AreaError::Shape { .. }) => {}
        Err(e) => return Err(e),
    }
    // Older than ours, or of another format: a write that landed late, or a format since. Our own block tells them apart, for
    // nobody else writes it (I1).
    let own = own_block(area).await?;
    let kept = own.is_some_and(|own| own.dblock.lver >= ours);
    Ok(if kept { Standing::Outdated } else { Standing::Lost(Loss::Formatted) })
}

async fn shared<D: Disk, C: Clock>(area: &Area<'_, D, C>, held: &Held) -> Result<Standing, AreaError> {
    // Not the leader record: between its own commit and its look at the sharers an exclusive taker stands there by right.
    let Some(own) = own_block(area).await? else { return Ok(Standing::Lost(Loss::Formatted)) };
    if own.mode.is_shared() && own.mode.generation == area.me.term.generation {
        let over = area.disk.copies() > 1 && is_passed_over(area, held).await?;
        return Ok(if over { Standing::Lost(Loss::ClaimCleared) } else { Standing::Ours });
    }
    let formatted = own.dblock.lver < held.lver();
    Ok(Standing::Lost(if formatted { Loss::Formatted } else { Loss::ClaimCleared }))
}

/// On several disks nobody clears a claim. An exclusive owner that found us dead says so in its own sector before it is one, and goes
/// on saying so when it has given the lease back.
async fn is_passed_over<D: Disk, C: Clock>(area: &Area<'_, D, C>, held: &Held) -> Result<bool, AreaError> {
    let leader = match area.read_leader().await {
        Ok(leader) => leader,
        // Our own sector is of this format: what stands there is a late write.
        Err(AreaError::OtherArea { .. } | AreaError::Shape { .. }) => return Ok(false),
        Err(e) => return Err(e),
    };
    Ok(leader.lver > held.lver() && area.is_passed_over(held.lver()).await?)
}

/// Our own sector; `None`: it is of another format of the area.
async fn own_block<D: Disk, C: Clock>(area: &Area<'_, D, C>) -> Result<Option<HostSector>, AreaError> {
    match area.read_host(area.me.term.host_id).await {
        Ok(own) => Ok(Some(own)),
        Err(AreaError::Dblock { source: DblockError::Area { .. }, .. }) => Ok(None),
        Err(e) => Err(e),
    }
}
