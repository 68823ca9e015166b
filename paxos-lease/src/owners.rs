//! Pure: who owns a lease by what is on its disk, whoever of them lives (spec A 6, READ_RESOURCE_OWNERS).

use holdfast_io::ids::{HostId, HostTerm};
use holdfast_io::leader::{Decoded, LeaderRecord};
use holdfast_io::units::Geometry;

use crate::dblock::{DblockError, HostSector};
use crate::layout::{FIRST_DBLOCK, dblock_of};

/// The owners of a lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// Whom the leader record names, unless it is free.
    pub exclusive: Option<HostTerm>,
    /// Who shares it, by host_id.
    pub shared: Vec<HostTerm>,
}

/// The owners that `area` names: all bytes of a lease area with this leader record and these sizes, of a lease on `copies` disks. On
/// several the record may be an older one, whose num_hosts leaves out hosts that share the lease: then all that fit are looked at.
///
/// # Errors
/// The first host whose sector is damaged: it may hide an owner.
pub fn read(
    leader: &LeaderRecord,
    geometry: Geometry,
    area: &[u8],
    copies: usize,
) -> Result<Owners, (HostId, DblockError)> {
    let size = geometry.sector();
    let most = u64::from(geometry.max_hosts());
    let used = if copies > 1 { most } else { leader.num_hosts.min(most) };
    let hosts = (0..).map_while(HostId::from_slot).take_while(|id| id.get() <= used);
    let sectors = area.get(FIRST_DBLOCK.at(size)..).unwrap_or_default().chunks_exact(size.bytes());
    let decode = |(id, sector): (HostId, &[u8])| match HostSector::decode(sector, dblock_of(id)) {
        Ok(Decoded::Record(found) | Decoded::Cleared(found)) => Ok(found),
        Ok(Decoded::Blank) => Ok(HostSector::default()),
        Err(e) => Err((id, e)),
    };
    let found: Vec<HostSector> = hosts.clone().zip(sectors).map(decode).collect::<Result<_, _>>()?;
    let sharing = hosts.zip(&found).filter(|(_, sector)| sector.mode.is_shared());
    let shared = sharing.map(|(host_id, sector)| HostTerm { host_id, generation: sector.mode.generation }).collect();
    Ok(Owners { exclusive: leader.owner().filter(|_| !leader.is_free()), shared })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dblock::ModeBlock;
    use crate::testing::{SMALL, announced, host, leader_at, seal_of, term};
    use holdfast_io::ids::Generation;

    #[test]
    fn on_several_disks_no_num_hosts_hides_a_host_that_shares() {
        let (at, mut area) = (dblock_of(host(9)), vec![0; SMALL.area_len()]);
        let (dblock, mode) = (announced(3, 9).released(), ModeBlock::shared(Generation(1)));
        let sharing = HostSector { dblock, mode, seal: None };
        let place = at.at(SMALL.sector());
        area[place..place + 512].copy_from_slice(&sharing.sector(SMALL.sector(), &seal_of(at)));
        let leader = leader_at(3, term(1, 1), 1);
        assert!(leader.num_hosts < 9);
        assert_eq!(read(&leader, SMALL, &area, 1).unwrap().shared, []);
        assert_eq!(read(&leader, SMALL, &area, 3).unwrap().shared, [term(9, 1)]);
    }
}
