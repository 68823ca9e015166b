//! Single sectors: leader record, seal, delta sector and bitmap, area tail, dblock and mode block, request record.
//!
//! Input of each: control byte, what to mend, the bytes of the sector (a place before them where one is needed).

use delta_lease::bitmap::HostBitmap;
use delta_lease::layout::{tail_index, tail_uuid};
use delta_lease::sector::{Belongs, DeltaSector, index_of};
use holdfast_io::bytes::{array_at, is_zero, u32_at};
use holdfast_io::identity::{BootHash, MachineHash};
use holdfast_io::ids::{HostId, MAX_HOSTS, SpaceName};
use holdfast_io::leader::{self, Decoded, Expected, LeaderKind, LeaderRecord};
use holdfast_io::seal::{self, AreaUuid, Seal, SealedFire, SealedKind};
use holdfast_io::units::{Geometry, SectorIndex};
use paxos_lease::dblock::{self, HostSector, RELEASED, SHARED};
use paxos_lease::layout::{REQUEST, dblock_of};
use paxos_lease::request::{self, FORCE_GRACEFUL, RequestRecord};

use super::{Input, MEND_LEADER, SEAL_CHECK, SEAL_CRC, one_line, seal_check, size_of, whole_crc};

/// A leader record, with what a caller knows of it beforehand. Control: 1 of a resource, 2 its own lockspace, 4 its
/// own resource, 8 another lockspace, 16 another resource, 32 a host_id in its range, 64 host_id 2000.
pub fn leader(data: &[u8]) {
    let mut input = Input::new(data);
    let (control, mend) = (input.byte(), input.byte());
    let mut bytes: [u8; leader::LEN] = input.array();
    super::mend(&mut bytes, mend & MEND_LEADER);
    let record = LeaderRecord::parse(&bytes);
    let kind = if control & 1 != 0 { LeaderKind::Paxos } else { LeaderKind::Delta };
    let expected = expected(control, &record);
    let (found, computed) = LeaderRecord::checksums(&bytes);
    match LeaderRecord::decode(&bytes, kind, &expected) {
        Err(error) => one_line(&error),
        Ok(Decoded::Blank) => assert!(is_zero(&bytes), "blank means zeros"),
        Ok(Decoded::Cleared(cleared)) => {
            assert_eq!((cleared.kind(), kind), (Some(LeaderKind::Cleared), LeaderKind::Paxos));
            assert_eq!((cleared, found), (record, computed));
            let again = LeaderRecord::decode(&cleared.encode(), kind, &expected);
            assert_eq!(again, Ok(Decoded::Cleared(cleared)));
        }
        Ok(Decoded::Record(verified)) => {
            assert_eq!(verified.kind(), Some(kind));
            assert_eq!((verified, found), (record, computed));
            accepted(&verified, kind, &expected);
            let again = LeaderRecord::decode(&verified.encode(), kind, &expected);
            assert_eq!(again, Ok(Decoded::Record(verified)));
        }
    }
}

fn expected(control: u8, record: &LeaderRecord) -> Expected {
    let other_space = SpaceName::new(b"another").ok();
    let space = if control & 8 != 0 { other_space } else { Some(record.space_name) };
    let other_resource = holdfast_io::ids::ResourceName::new(b"another").ok();
    let resource = if control & 16 != 0 { other_resource } else { Some(record.resource_name) };
    let host_id = if control & 64 != 0 { 2000 } else { record.num_hosts };
    Expected {
        space: space.filter(|_| control & 10 != 0),
        resource: resource.filter(|_| control & 20 != 0),
        host_id: HostId::new(host_id).filter(|_| control & 96 != 0),
    }
}

/// What lease code relies on in an accepted record.
fn accepted(record: &LeaderRecord, kind: LeaderKind, expected: &Expected) {
    assert!(expected.space.is_none_or(|s| s == record.space_name));
    let Some(geometry) = record.geometry() else { unreachable!("an accepted record has a geometry") };
    if kind == LeaderKind::Delta {
        assert!(record.io_timeout <= 255);
        return;
    }
    assert!(expected.resource.is_none_or(|r| r == record.resource_name));
    assert!((1..=u64::from(geometry.max_hosts())).contains(&record.num_hosts));
    assert!(expected.host_id.is_none_or(|h| h.get() <= record.num_hosts), "our dblock is in the area");
    assert!(record.is_free() || record.owner().is_some(), "a lease that is held has a holder");
}

/// A seal. Control: 1 in a dblock sector, 2 of 4096 bytes; then the sector's place.
pub fn sector_seal(data: &[u8]) {
    let mut input = Input::new(data);
    let (control, mend) = (input.byte(), input.byte());
    let at = SectorIndex(u32::from(input.u16()));
    let kind = if control & 1 != 0 { SealedKind::Dblock } else { SealedKind::Plain };
    let mut sector = input.sector(size_of(control, 2), mend);
    match seal::read(&sector, kind, at) {
        Err(error) => one_line(&error),
        Ok(None) if kind == SealedKind::Plain => assert!(is_zero(&sector[seal::OFFSET..seal::END])),
        Ok(None) => {}
        Ok(Some(found)) => {
            sealed(&sector, kind, &found, at);
            seal::write(&mut sector, kind, &found);
            assert_eq!(seal::read(&sector, kind, at), Ok(Some(found)));
        }
    }
}

/// A seal that was accepted vouches for every byte of its sector, and for its place.
fn sealed(sector: &[u8], kind: SealedKind, seal: &Seal, at: SectorIndex) {
    assert_eq!(u32_at(sector, SEAL_CHECK), seal_check(sector, kind == SealedKind::Dblock));
    assert_eq!(u32_at(sector, SEAL_CRC), whole_crc(sector));
    assert_eq!(seal.sector, at);
    assert!(seal.millis < 1000);
}

/// A delta sector with its bitmap. Control: 1 its own lockspace, 2 another, 4 of 4096 bytes, 8 its own geometry,
/// 16 another, 32 of an area without UUID; then the host.
pub fn delta_sector(data: &[u8]) {
    let mut input = Input::new(data);
    let (control, mend) = (input.byte(), input.byte());
    let Some(host) = HostId::from_slot(u32::from(input.u16()) % MAX_HOSTS) else { return };
    let size = size_of(control, 4);
    let sector = input.sector(size, mend);
    bitmap(&HostBitmap::of_sector(&sector));
    let record = LeaderRecord::parse(&array_at(&sector, 0));
    let belongs = Belongs {
        space: if control & 1 != 0 { Some(record.space_name) } else { SpaceName::new(b"x").ok() }
            .filter(|_| control & 3 != 0),
        geometry: if control & 8 != 0 { record.geometry() } else { Some(Geometry::ALL[1]) }
            .filter(|_| control & 24 != 0),
        uuid: (control & 32 != 0).then_some(AreaUuid::NONE),
    };
    match DeltaSector::decode(&sector, host, &belongs) {
        Err(error) => one_line(&error),
        Ok(Decoded::Blank) => assert!(is_zero(&sector)),
        Ok(Decoded::Cleared(_)) => unreachable!("only resources are cleared"),
        Ok(Decoded::Record(found)) => {
            let (stored, computed) = LeaderRecord::checksums(&array_at(&sector, 0));
            assert_eq!(stored, computed);
            let expected = Expected { space: belongs.space, ..Expected::default() };
            accepted(&found.leader, LeaderKind::Delta, &expected);
            assert!(found.leader.owner_id == host.get() || found.holder().is_none(), "nobody else holds this host_id");
            assert!(found.seal.is_none_or(|s| belongs.uuid.is_none_or(|u| u == s.area)));
            if let Some(seal) = &found.seal {
                sealed(&sector, SealedKind::Plain, seal, index_of(host));
            }
            let again = DeltaSector::decode(&found.encode(size), host, &belongs);
            assert_eq!(again, Ok(Decoded::Record(found)));
        }
    }
}

fn bitmap(found: &HostBitmap) {
    let mut copy = *found;
    for host in found.hosts() {
        assert!(copy.contains(host));
        copy.remove(host);
    }
    assert_eq!(copy.hosts().count(), 0, "every host in it was listed");
    let mut sector = [0; 512];
    found.put_into(&mut sector);
    assert_eq!(HostBitmap::of_sector(&sector), *found);
}

/// The tail sector with the area's UUID. Control: which geometry.
pub fn area_tail(data: &[u8]) {
    let mut input = Input::new(data);
    let (control, mend) = (input.byte(), input.byte());
    let geometry = Geometry::ALL[usize::from(control) % Geometry::ALL.len()];
    let sector = input.sector(geometry.sector(), mend);
    match tail_uuid(&sector, geometry) {
        Err(error) => one_line(&error),
        Ok(uuid) => match seal::read(&sector, SealedKind::Plain, tail_index(geometry)) {
            Ok(None) => assert_eq!(uuid, AreaUuid::NONE),
            Ok(Some(seal)) => assert_eq!(uuid, seal.area),
            Err(error) => unreachable!("a UUID from a damaged seal: {error}"),
        },
    }
}

/// A host's sector in a resource. Control: 1 of 4096 bytes; then the host.
pub fn dblock(data: &[u8]) {
    let mut input = Input::new(data);
    let (control, mend) = (input.byte(), input.byte());
    let Some(host) = HostId::from_slot(u32::from(input.u16()) % MAX_HOSTS) else { return };
    let (at, size) = (dblock_of(host), size_of(control, 1));
    let sector = input.sector(size, mend);
    match HostSector::decode(&sector, at) {
        Err(error) => one_line(&error),
        Ok(Decoded::Blank) => {
            assert!(is_zero(&sector[..dblock::LEN]) && is_zero(&sector[dblock::MODE..dblock::MODE_END]));
        }
        Ok(Decoded::Cleared(_)) => unreachable!("only leaders are cleared"),
        Ok(Decoded::Record(found)) => {
            let (stored, computed) = dblock::Dblock::checksums(&array_at(&sector, 0));
            assert!(stored == computed || stored == 0 && is_zero(&sector[..8]), "unverified");
            let parsed = HostSector::parse(&sector);
            assert_eq!((found.dblock, found.mode), (parsed.dblock, parsed.mode));
            assert_eq!((found.dblock.flags & !RELEASED, found.mode.flags & !SHARED), (0, 0));
            assert!(found.dblock.bal <= found.dblock.mbal, "I3");
            assert_eq!(found.dblock.bal.is_some(), found.dblock.inp.owner().is_some(), "I3");
            if let Some(seal) = &found.seal {
                sealed(&sector, SealedKind::Dblock, seal, at);
                assert_eq!(found.check_area(seal.area), Ok(()));
            }
            let seal = found.seal.unwrap_or(seal_for(at));
            let again = HostSector::decode(&found.sector(size, &seal), at);
            assert_eq!(again, Ok(Decoded::Record(HostSector { seal: Some(seal), ..found })));
        }
    }
}

fn seal_for(sector: SectorIndex) -> Seal {
    Seal {
        fire: SealedFire::NoWatchdog,
        machine: MachineHash(1),
        boot: BootHash(2),
        area: AreaUuid::NONE,
        millis: 3,
        sector,
    }
}

/// A request record. Control: 1 of 4096 bytes.
pub fn request_record(data: &[u8]) {
    let mut input = Input::new(data);
    let (control, mend) = (input.byte(), input.byte());
    let sector = input.sector(size_of(control, 1), mend);
    match RequestRecord::decode(&sector) {
        Err(error) => one_line(&error),
        Ok((Decoded::Blank, seal)) => assert!(is_zero(&sector) && seal.is_none()),
        Ok((Decoded::Cleared(_), _)) => unreachable!("only leaders are cleared"),
        Ok((Decoded::Record(found), seal)) => {
            assert!(found.force_mode <= FORCE_GRACEFUL);
            assert_eq!(found.encode(), sector[..request::LEN], "every field is kept");
            if let Some(seal) = &seal {
                sealed(&sector, SealedKind::Plain, seal, REQUEST);
            }
        }
    }
}
