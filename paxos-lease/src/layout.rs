//! Where things stand in a resource's area.
//!
//! | sector | what |
//! | --- | --- |
//! | 0 | leader record |
//! | 1 | request record |
//! | 2 .. 2 + max_hosts | one dblock (and mode block) for each host, host N in sector N + 1 |
//! | 2002 | lease value block, where it lies inside the area (512/1M and 4096/8M) |
//! | first one behind these | the area's UUID, in a seal |
//!
//! Unit: sectors from the start of the area. Source: spec D 1.1.

use holdfast_io::ids::HostId;
use holdfast_io::units::{Geometry, SectorIndex};

/// The leader record.
pub const LEADER: SectorIndex = SectorIndex(0);
/// The request record.
pub const REQUEST: SectorIndex = SectorIndex(1);
/// Host 1's dblock.
pub const FIRST_DBLOCK: SectorIndex = SectorIndex(2);
/// The lease value block, whatever the geometry: in three of the five it is outside the area.
const VALUE_BLOCK: u32 = 2002;

/// The sector of the lease value block. `None`: sanlock would read and write it in the lease that lies behind this one.
#[must_use]
pub const fn value_sector(geometry: Geometry) -> Option<SectorIndex> {
    if VALUE_BLOCK < geometry.sectors() { Some(SectorIndex(VALUE_BLOCK)) } else { None }
}

/// The sector of a host's dblock and mode block.
#[must_use]
pub const fn dblock_of(host: HostId) -> SectorIndex {
    SectorIndex(FIRST_DBLOCK.0 + host.slot())
}

/// The first tail sector, which sanlock zeroes at format and never touches again: our place for the area's UUID.
#[must_use]
pub const fn uuid_sector(geometry: Geometry) -> SectorIndex {
    let behind_dblocks = FIRST_DBLOCK.0 + geometry.max_hosts();
    SectorIndex(if behind_dblocks == VALUE_BLOCK { VALUE_BLOCK + 1 } else { behind_dblocks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_a_place_in_areas_of_2048_sectors_alone() {
        let places: Vec<_> = Geometry::ALL.iter().map(|g| value_sector(*g).map(|s| s.0)).collect();
        assert_eq!(places, [Some(2002), None, None, None, Some(2002)]);
        for geometry in Geometry::ALL {
            assert_ne!(value_sector(geometry), Some(uuid_sector(geometry)));
        }
    }

    #[test]
    fn every_area_has_room_for_its_uuid_beside_what_sanlock_uses() {
        let found: Vec<_> = Geometry::ALL.iter().map(|g| (uuid_sector(*g).0, g.sectors())).collect();
        assert_eq!(found, [(2003, 2048), (252, 256), (502, 512), (1002, 1024), (2003, 2048)]);
        for geometry in Geometry::ALL {
            let last = HostId::new(u64::from(geometry.max_hosts())).unwrap();
            assert!(dblock_of(last) < uuid_sector(geometry));
        }
    }
}
