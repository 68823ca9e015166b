//! A lockspace's area: where it is, how it is shaped, and which sector is whose.
//!
//! | sectors | what |
//! | --- | --- |
//! | N-1 | delta lease of host N, for 1 to max_hosts |
//! | max_hosts | first tail sector: zeros, but for a seal that carries the area's UUID |
//! | after that, to the end | zeros |
//!
//! sanlock never writes the tail after it has formatted the area, so the UUID outlives every host's writes; an area that
//! sanlock formatted has none. Offsets are bytes from the start of the device. Source: spec D 1.1, 1.3, 2.9.

use std::sync::Arc;

use holdfast_io::bytes::array_at;
use holdfast_io::clock::Clock;
use holdfast_io::disk::ReadDisk;
use holdfast_io::ids::{HostId, SpaceName};
use holdfast_io::leader::{self, LeaderError, LeaderRecord};
use holdfast_io::seal::{self, AreaUuid, SealError, SealedKind};
use holdfast_io::timing::{FireTimeout, IoTimeout, Timing};
use holdfast_io::units::{AlignSize, Geometry, LeaseOffset, SectorIndex, SectorSize};

use crate::error::{DeltaError, SectorError};
use crate::sector::{Belongs, DeltaSector, index_of};

/// What `open` reads first: enough for one sector of either size.
const FIRST_READ: usize = SectorSize::B4096.bytes();

/// A lockspace's area on its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaArea {
    /// Where it begins.
    pub at: LeaseOffset,
    /// Its sizes.
    pub geometry: Geometry,
    /// The lockspace.
    pub space: SpaceName,
    /// Its UUID; [`AreaUuid::NONE`] where sanlock formatted it.
    pub uuid: AreaUuid,
}

impl DeltaArea {
    /// Finds out what stands at `at`: the sizes from host 1's sector, as sanlock does, the UUID from the tail.
    ///
    /// I/O: 1. read 4096 B; 2. read one sector.
    ///
    /// # Errors
    /// Nothing there, not `expected`, damaged, or sizes that cannot be. On a device whose sectors are larger than the
    /// area's, the second read fails.
    pub async fn open<D: ReadDisk, C: Clock>(
        disk: &D,
        clock: &C,
        at: LeaseOffset,
        io_timeout: IoTimeout,
        expected: Option<SpaceName>,
    ) -> Result<Self, DeltaError> {
        let io_deadline = Timing::new(io_timeout, FireTimeout::SANLOCK).io_deadline();
        let deadline = || clock.now().after(io_deadline);
        let first = disk.read(at.0, FIRST_READ, deadline()).await?;
        let geometry = geometry_of(&first, disk.path(), at)?;
        let own = &first[..geometry.sector().bytes()];
        let belongs = Belongs { space: expected, geometry: Some(geometry), uuid: None };
        let sector = DeltaSector::decode_lease(own, host_1(), &belongs)
            .map_err(|e| sector_error(disk.path(), at.0, host_1(), e))?;
        let mut area = DeltaArea { at, geometry, space: sector.leader.space_name, uuid: AreaUuid::NONE };
        let tail = disk.read(area.tail_offset(), geometry.sector().bytes(), deadline()).await?;
        area.uuid = tail_uuid(&tail, geometry).map_err(|source| DeltaError::Tail {
            path: Arc::clone(disk.path()),
            offset: area.tail_offset(),
            source,
        })?;
        Ok(area)
    }

    /// The device offset of a host's sector. The host must fit the area.
    #[must_use]
    pub const fn offset_of(&self, host: HostId) -> u64 {
        self.at.sector(index_of(host), self.geometry.sector())
    }

    /// The device offset of the sector that carries the UUID.
    #[must_use]
    pub const fn tail_offset(&self) -> u64 {
        self.at.sector(tail_index(self.geometry), self.geometry.sector())
    }

    /// The hosts that the area has room for, in order.
    pub fn hosts(&self) -> impl Iterator<Item = HostId> + use<> {
        (0..self.geometry.max_hosts()).filter_map(HostId::from_slot)
    }

    /// What its sectors must say of themselves.
    #[must_use]
    pub const fn belongs(&self) -> Belongs {
        Belongs { space: Some(self.space), geometry: Some(self.geometry), uuid: Some(self.uuid) }
    }

    /// The verified content of a host's sector.
    ///
    /// # Errors
    /// See [`DeltaSector::decode`]; a blank sector is an error too: a formatted area has none.
    pub fn decode(&self, host: HostId, bytes: &[u8]) -> Result<DeltaSector, SectorError> {
        DeltaSector::decode_lease(bytes, host, &self.belongs())
    }

    /// # Errors
    /// [`DeltaError::HostId`]: there is no sector for this host.
    pub fn must_have_room_for(&self, host: HostId, path: &Arc<str>) -> Result<(), DeltaError> {
        let max = self.geometry.max_hosts();
        if host.slot() < max {
            return Ok(());
        }
        Err(DeltaError::HostId { path: Arc::clone(path), offset: self.at.0, found: host, max })
    }

    /// A sector's fault, with its place.
    pub(crate) fn fault(&self, path: &Arc<str>, host: HostId, source: SectorError) -> DeltaError {
        sector_error(path, self.offset_of(host), host, source)
    }
}

/// Which sector of an area carries its UUID.
#[must_use]
pub const fn tail_index(geometry: Geometry) -> SectorIndex {
    SectorIndex(geometry.max_hosts())
}

/// The UUID in a tail sector; [`AreaUuid::NONE`] without a seal.
///
/// # Errors
/// The seal is damaged.
pub fn tail_uuid(sector: &[u8], geometry: Geometry) -> Result<AreaUuid, SealError> {
    Ok(seal::read(sector, SealedKind::Plain, tail_index(geometry))?.map_or(AreaUuid::NONE, |s| s.area))
}

fn sector_error(path: &Arc<str>, offset: u64, host_id: HostId, source: SectorError) -> DeltaError {
    DeltaError::Sector { path: Arc::clone(path), offset, host_id, source: Box::new(source) }
}

/// The sizes that host 1's record names, before it is known how long its sector is: kind and version are checked here,
/// all else once the sector can be cut out.
fn geometry_of(first: &[u8], path: &Arc<str>, at: LeaseOffset) -> Result<Geometry, DeltaError> {
    // Only the errors that do not depend on the sector's length count here; magic and version are looked at first.
    if let Err(e @ SectorError::Leader(LeaderError::Magic { .. } | LeaderError::Version { .. })) =
        DeltaSector::decode_lease(&first[..SectorSize::B512.bytes()], host_1(), &Belongs::default())
    {
        return Err(sector_error(path, at.0, host_1(), e));
    }
    let record = LeaderRecord::parse(&array_at::<{ leader::LEN }>(first, 0));
    let Some(sector) = SectorSize::from_bytes(u64::from(record.sector_size)) else {
        return Err(DeltaError::SectorSize { path: Arc::clone(path), offset: at.0, found: record.sector_size });
    };
    let Some(align) = AlignSize::from_flags(record.flags) else { return Ok(Geometry::default_for(sector)) };
    Geometry::new(sector, align).map_err(|source| DeltaError::Geometry { path: Arc::clone(path), offset: at.0, source })
}

fn host_1() -> HostId {
    let Some(host) = HostId::from_slot(0) else { unreachable!("slot 0 is host 1") };
    host
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rig, host_id, x};
    use holdfast_io::bytes::put_u32;
    use holdfast_io::checksum::lease_crc;

    fn open(rig: &Rig, expected: Option<SpaceName>) -> Result<DeltaArea, DeltaError> {
        pollster::block_on(DeltaArea::open(&rig.disk, &rig.clock, rig.area.at, x(10), expected))
    }

    /// Changes host 1's record and makes its checksum right again.
    fn forge(rig: &Rig, at: usize, value: u32) {
        let mut bytes = rig.medium();
        let first = &mut bytes[rig.base()..];
        put_u32(first, at, value);
        let crc = lease_crc(&first[..168]);
        put_u32(first, 168, crc);
    }

    #[test]
    fn an_area_says_what_it_is_in_every_geometry() {
        for geometry in Geometry::ALL {
            let rig = Rig::formatted(geometry);
            assert_eq!(open(&rig, Some(rig.area.space)).unwrap(), rig.area);
            assert_eq!(open(&rig, None).unwrap(), rig.area);
            assert_eq!((rig.engine().reads(), rig.engine().writes()), (4, 0), "two reads each");
            assert_eq!(rig.area.hosts().count(), geometry.max_hosts() as usize);
        }
    }

    #[test]
    fn an_area_of_sanlocks_has_no_uuid() {
        let rig = Rig::formatted(Geometry::ALL[0]);
        let tail = rig.tail();
        rig.medium()[tail..tail + 512].fill(0);
        assert_eq!(open(&rig, None).unwrap().uuid, AreaUuid::NONE);
    }

    #[test]
    fn each_thing_that_can_be_wrong_has_its_own_error() {
        let rig = Rig::formatted(Geometry::ALL[0]);
        let source = |e| match e {
            DeltaError::Sector { source, .. } => *source,
            other => panic!("{other}"),
        };
        let other = SpaceName::new(b"other").unwrap();
        let named = source(open(&rig, Some(other)).unwrap_err());
        assert!(matches!(named, SectorError::Leader(LeaderError::Space { .. })));

        rig.medium()[rig.base() + 160] ^= 1;
        let damaged = source(open(&rig, None).unwrap_err());
        assert!(matches!(damaged, SectorError::Leader(LeaderError::Checksum { .. })));
        rig.medium()[rig.base() + 160] ^= 1;

        forge(&rig, 12, 1024);
        assert!(matches!(open(&rig, None), Err(DeltaError::SectorSize { found: 1024, .. })));
        forge(&rig, 12, 512);
        forge(&rig, 8, 0x80);
        assert!(matches!(open(&rig, None), Err(DeltaError::Geometry { .. })));
        forge(&rig, 8, 0x10);
        forge(&rig, 4, 0x0004_0004);
        let newer = source(open(&rig, None).unwrap_err());
        assert!(matches!(newer, SectorError::Leader(LeaderError::Version { .. })));
        forge(&rig, 0, 0);
        let nothing = source(open(&rig, None).unwrap_err());
        assert!(matches!(nothing, SectorError::Leader(LeaderError::Magic { found: 0, .. })));
        let base = rig.base();
        rig.medium()[base..base + 512].fill(0);
        let blank = source(open(&rig, None).unwrap_err());
        assert!(matches!(blank, SectorError::Leader(LeaderError::Magic { found: 0, .. })));
    }

    #[test]
    fn a_damaged_uuid_is_refused_and_named() {
        let rig = Rig::formatted(Geometry::ALL[0]);
        let tail = rig.area.tail_offset();
        let at = rig.tail() + 230;
        rig.medium()[at] ^= 1;
        match open(&rig, None) {
            Err(DeltaError::Tail { offset, .. }) => assert_eq!(offset, tail),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_host_id_beyond_the_area_is_refused() {
        let small = Rig::formatted(Geometry::new(SectorSize::B4096, AlignSize::M1).unwrap());
        let path = Arc::from("disk");
        assert!(small.area.must_have_room_for(host_id(250), &path).is_ok());
        let refused = small.area.must_have_room_for(host_id(251), &path).unwrap_err();
        assert!(refused.to_string().contains("host_ids 1 to 250, not for 251"), "{refused}");
    }
}
