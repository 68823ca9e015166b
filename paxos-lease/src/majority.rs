//! The exchange that both phases of a ballot are made of: write our own block to a majority of the disks, and read
//! every block from a majority.
//!
//! Why it works, on any number of disks: two majorities share a disk. Of two hosts that both wrote first and read
//! afterwards, at least one reads the other's block on that disk; so two ballots cannot miss each other. One disk is its own
//! majority; on several, [`crate::copies::Copies`] beneath counts. The order is everything: the write is on the medium (O_SYNC)
//! before the read is issued.

use holdfast_io::clock::Clock;
use holdfast_io::disk::Disk;

use crate::area::{Area, may_have_landed};
use crate::ballot::Mine;
use crate::choose::block_of;
use crate::dblock::HostSector;
use crate::error::AreaError;
use crate::layout::dblock_of;

/// Writes our block, then reads those of hosts 1 to `hosts`.
///
/// I/O: W dblock, R dblocks.
pub(crate) async fn write_then_read_majority<D: Disk, C: Clock>(
    area: &Area<'_, D, C>,
    hosts: u32,
    mine: &mut Mine,
) -> Result<Vec<HostSector>, AreaError> {
    if let Err(e) = area.write_own(mine.dblock(), mine.mode()).await {
        // It may land at any later time: nobody may write this sector, or judge the lease, before it is reaped (I6).
        mine.in_doubt |= may_have_landed(&e);
        return Err(e);
    }
    let seen = area.read_hosts(hosts).await?;
    untouched(area, mine, &seen)?;
    Ok(seen)
}

/// I1, seen from its victim: our block is as we wrote it.
pub(crate) fn untouched<D: Disk, C: Clock>(
    area: &Area<'_, D, C>,
    mine: &Mine,
    seen: &[HostSector],
) -> Result<(), AreaError> {
    let host_id = area.me.term.host_id;
    let found = block_of(seen, host_id).map(|s| (s.dblock, s.mode));
    if found.is_some_and(|(dblock, mode)| dblock == *mine.dblock() && mode.says(mine.mode())) {
        return Ok(());
    }
    Err(AreaError::ForeignWrite {
        path: area.disk.path().clone(),
        offset: area.offset(dblock_of(host_id)),
        host_id,
        found: format!("{found:?}"),
        expected: format!("{:?}", (mine.dblock(), mine.mode())),
    })
}
