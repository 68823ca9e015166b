//! One delta sector: the lease of one host_id.
//!
//! | offset | size | what |
//! | --- | --- | --- |
//! | 0 | 200 B | leader record ([`holdfast_io::leader`]) of kind delta |
//! | 200 | 56 B | seal ([`holdfast_io::seal`]); zeros where sanlock wrote the sector |
//! | 256 | 256 B | host bitmap ([`crate::bitmap`]) |
//! | 512 | to the end | zeros, in sectors of 4096 bytes |
//!
//! sanlock's checksum covers the first 168 bytes; the seal covers every byte. Without a seal the io_timeout, the host
//! event and the bitmap are unprotected, and bytes from 512 on have no meaning. Source: spec D 2.2, 2.3, 2.9.

use holdfast_io::bytes::{array_at, is_zero, put};
use holdfast_io::ids::{Generation, HostId, HostName, HostTerm, SpaceName};
use holdfast_io::leader::{self, Decoded, Expected, LeaderError, LeaderKind, LeaderRecord};
use holdfast_io::seal::{self, AreaUuid, Seal, SealedKind};
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::timing::{FireTimeout, IoTimeout, Timing};
use holdfast_io::units::{Geometry, SectorIndex, SectorSize};

use crate::HostEvent;
use crate::bitmap::HostBitmap;
use crate::error::SectorError;

/// A delta sector that was verified, or is about to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeltaSector {
    /// Who holds the lease, or held it last.
    pub leader: LeaderRecord,
    /// Whom it calls.
    pub bitmap: HostBitmap,
    /// What a Holdfast host adds; `None`: sanlock wrote the sector.
    pub seal: Option<Seal>,
}

/// What the reader knows about the area that a sector stands in. `None` accepts anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Belongs {
    /// Its lockspace.
    pub space: Option<SpaceName>,
    /// Its sizes.
    pub geometry: Option<Geometry>,
    /// Its UUID.
    pub uuid: Option<AreaUuid>,
}

/// Where a host's sector stands in the area: the leases are a plain array (spec D 1.1).
#[must_use]
pub const fn index_of(host: HostId) -> SectorIndex {
    SectorIndex(host.slot())
}

impl DeltaSector {
    /// The verified content of the sector of `host`. Never [`Decoded::Cleared`]: only resources are.
    ///
    /// # Errors
    /// The first that applies: the leader record in sanlock's order, the seal, the area.
    ///
    /// # Panics
    /// If `bytes` is shorter than 512 bytes: sectors come from [`SectorSize`].
    pub fn decode(bytes: &[u8], host: HostId, belongs: &Belongs) -> Result<Decoded<Self>, SectorError> {
        assert!(bytes.len() >= 512, "a sector has at least 512 bytes");
        let expected = Expected { space: belongs.space, ..Expected::default() };
        let leader = match LeaderRecord::decode(&array_at::<{ leader::LEN }>(bytes, 0), LeaderKind::Delta, &expected)? {
            Decoded::Record(leader) => leader,
            Decoded::Blank if is_zero(bytes) => return Ok(Decoded::Blank),
            Decoded::Blank | Decoded::Cleared(_) => return Err(no_magic().into()),
        };
        let seal = seal::read(bytes, SealedKind::Plain, index_of(host))?;
        let sector = DeltaSector { leader, bitmap: HostBitmap::of_sector(bytes), seal };
        sector.check(host, belongs)?;
        Ok(Decoded::Record(sector))
    }

    /// As [`DeltaSector::decode`], for a place where a lease must be: a blank sector is none.
    ///
    /// # Errors
    /// As [`DeltaSector::decode`]; a blank sector has the wrong magic.
    pub fn decode_lease(bytes: &[u8], host: HostId, belongs: &Belongs) -> Result<Self, SectorError> {
        match Self::decode(bytes, host, belongs)? {
            Decoded::Record(sector) => Ok(sector),
            Decoded::Blank | Decoded::Cleared(_) => Err(no_magic().into()),
        }
    }

    fn check(&self, host: HostId, belongs: &Belongs) -> Result<(), SectorError> {
        // Nobody's when formatted, the host's own ever after; a used lease is never nobody's.
        let nobody = self.leader.owner_id == 0 && self.leader.is_free();
        if self.leader.owner_id != host.get() && !nobody {
            return Err(SectorError::Owner { found: self.leader.owner_id, expected: host });
        }
        if let (Some(found), Some(expected)) = (self.leader.geometry(), belongs.geometry)
            && found != expected
        {
            return Err(SectorError::Geometry { found, expected });
        }
        if let (Some(seal), Some(expected)) = (&self.seal, belongs.uuid)
            && seal.area != expected
        {
            return Err(SectorError::Area { found: seal.area, expected });
        }
        Ok(())
    }

    /// The bytes on disk, the seal written last because it covers all others.
    #[must_use]
    pub fn encode(&self, size: SectorSize) -> AlignedBuf {
        let mut bytes = AlignedBuf::zeroed(size.bytes());
        put(&mut bytes, 0, &self.leader.encode());
        self.bitmap.put_into(&mut bytes);
        if let Some(seal) = &self.seal {
            seal::write(&mut bytes, SealedKind::Plain, seal);
        }
        bytes
    }

    /// Who holds the lease; `None` when it is free.
    #[must_use]
    pub fn holder(&self) -> Option<HostTerm> {
        if self.leader.is_free() { None } else { self.leader.owner() }
    }

    /// The event that its host tells those whom its bitmap names (spec D 2.2, extra1 to extra3).
    #[must_use]
    pub const fn event(&self) -> HostEvent {
        let LeaderRecord { write_id: generation, write_generation: event, write_timestamp: data, .. } = self.leader;
        HostEvent { generation, event, data }
    }

    /// The generation of the latest join.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.leader.owner_generation
    }

    /// The name of the host that joined last.
    #[must_use]
    pub fn host_name(&self) -> HostName {
        self.leader.host_name()
    }

    /// The intervals of the holder: its io_timeout, or `own` where none is stored; its sealed fire timeout, or sanlock's.
    #[must_use]
    pub fn timing(&self, own: IoTimeout) -> Timing {
        let fire = self.seal.map_or(FireTimeout::SANLOCK, |s| s.fire.judged());
        Timing::new(self.leader.stored_io_timeout().unwrap_or(own), fire)
    }
}

const fn no_magic() -> LeaderError {
    LeaderError::Magic { found: 0, expected: LeaderKind::Delta.magic() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{area, host_id, sealed_sector};
    use holdfast_io::bytes::{put_u16, put_u64};
    use holdfast_io::checksum::lease_crc;
    use holdfast_io::identity::{BootHash, MachineHash};
    use holdfast_io::ids::{RemoteTimestamp, ResourceName};
    use holdfast_io::seal::{SealError, SealedFire};
    use proptest::prelude::*;

    fn any_sector() -> impl Strategy<Value = (DeltaSector, HostId, Geometry)> {
        let seal = proptest::option::of((4u64..=60, any::<bool>(), any::<[u64; 2]>(), 0u16..1000, any::<[u8; 16]>()));
        let record = (any::<[u64; 6]>(), any::<u16>(), 0u16..=255, 1u64.., "[a-z]{0,48}");
        let place = (0usize..5, 1u64..=250, prop::collection::btree_set(1u64..=2000, 0..9));
        (seal, record, place).prop_map(
            |(seal, (words, reserved2, io_timeout, timestamp, name), (shape, id, called))| {
                let (geometry, host) = (Geometry::ALL[shape], HostId::new(id).unwrap());
                let space = SpaceName::new(b"space").unwrap();
                let leader = LeaderRecord {
                    owner_id: id,
                    owner_generation: Generation(words[0]),
                    resource_name: ResourceName::new(name.as_bytes()).unwrap_or(ResourceName::empty()),
                    timestamp: RemoteTimestamp(timestamp),
                    reserved1: words[1],
                    reserved2,
                    io_timeout,
                    write_id: words[2],
                    write_generation: words[3],
                    write_timestamp: words[4],
                    num_hosts: words[5],
                    ..LeaderRecord::formatted(LeaderKind::Delta, geometry, space)
                };
                let mut bitmap = HostBitmap::EMPTY;
                called.iter().filter_map(|n| HostId::new(*n)).for_each(|h| bitmap.insert(h));
                let seal = seal.map(|(fire, none, [machine, boot], millis, uuid)| Seal {
                    fire: if none {
                        SealedFire::NoWatchdog
                    } else {
                        SealedFire::Within(FireTimeout::new(fire).unwrap())
                    },
                    machine: MachineHash(machine),
                    boot: BootHash(boot),
                    area: AreaUuid(uuid_of(uuid)),
                    millis,
                    sector: index_of(host),
                });
                (DeltaSector { leader, bitmap, seal }, host, geometry)
            },
        )
    }

    fn uuid_of(bytes: [u8; 16]) -> uuid::Uuid {
        uuid::Uuid::from_bytes(bytes)
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_the_same((sector, host, geometry) in any_sector()) {
            let bytes = sector.encode(geometry.sector());
            prop_assert_eq!(bytes.len(), geometry.sector().bytes());
            let uuid = sector.seal.map(|s| s.area);
            let belongs = Belongs { space: Some(sector.leader.space_name), geometry: Some(geometry), uuid };
            prop_assert_eq!(DeltaSector::decode(&bytes, host, &belongs), Ok(Decoded::Record(sector)));
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(mut bytes in prop::collection::vec(any::<u8>(), 512), real: bool) {
            if real {
                // Past the magic and the checksum, where the deeper checks are.
                let golden = sealed_sector(1, 1, 7).encode(SectorSize::B512);
                bytes[..56].copy_from_slice(&golden[..56]);
                let crc = lease_crc(&bytes[..168]);
                bytes[168..172].copy_from_slice(&crc.to_le_bytes());
            }
            let _ = DeltaSector::decode(&bytes, host_id(1), &Belongs::default());
        }
    }

    #[test]
    fn every_changed_byte_of_a_sealed_sector_is_seen() {
        let place = area();
        for size in [SectorSize::B512, SectorSize::B4096] {
            let good = sealed_sector(3, 2, 1000).encode(size);
            let belongs = Belongs { geometry: None, ..place.belongs() };
            assert!(DeltaSector::decode_lease(&good, host_id(3), &belongs).is_ok());
            for at in 0..size.bytes() {
                for flip in [0x01, 0x80, 0xFF] {
                    let mut bytes = good.clone();
                    bytes[at] ^= flip;
                    let decoded = DeltaSector::decode_lease(&bytes, host_id(3), &belongs);
                    assert!(decoded.is_err(), "byte {at} of {size} flipped by {flip:#x}: {decoded:?}");
                }
            }
        }
    }

    #[test]
    fn a_zeroed_seal_range_does_not_pass_for_sanlocks_when_another_seal_field_remains() {
        let mut bytes = sealed_sector(3, 2, 1000).encode(SectorSize::B512);
        bytes[200..204].fill(0);
        let decoded = DeltaSector::decode_lease(&bytes, host_id(3), &area().belongs());
        assert_eq!(decoded, Err(SectorError::Seal(SealError::Foreign { found: 0 })));
    }

    #[test]
    fn the_golden_sector_with_an_event_reads_and_writes_the_same() {
        // Spec D 2.10, G2: made by the real program.
        let mut golden = [0u8; 512];
        golden[..16].copy_from_slice(&[0x10, 0x20, 0x21, 0x12, 4, 0, 3, 0, 0x10, 0, 0, 0, 0, 2, 0, 0]);
        golden[0x18] = 1;
        golden[0x20] = 1;
        golden[0x28] = 2;
        golden[0x38..0x3B].copy_from_slice(b"LSX");
        golden[0x68..0x6D].copy_from_slice(b"hostA");
        put_u64(&mut golden, 0x98, 1390);
        golden[0xA8..0xAC].copy_from_slice(&[0x96, 0x81, 0xCA, 0x7B]);
        put_u16(&mut golden, 0xAE, 2);
        golden[0xB0] = 1;
        golden[0xB8] = 7;
        golden[0xC0] = 0x63;
        golden[0x100] = 4;
        let belongs = Belongs {
            space: SpaceName::new(b"LSX").ok(),
            geometry: Some(Geometry::default_for(SectorSize::B512)),
            uuid: Some(AreaUuid::NONE),
        };
        let sector = DeltaSector::decode_lease(&golden, host_id(1), &belongs).unwrap();
        assert_eq!(sector.holder(), Some(HostTerm { host_id: host_id(1), generation: Generation(2) }));
        assert_eq!(sector.host_name(), HostName::new(b"hostA").unwrap());
        assert_eq!(sector.seal, None);
        assert!(sector.bitmap.hosts().eq([host_id(3)]));
        let timing = sector.timing(IoTimeout::DEFAULT);
        assert_eq!(timing, Timing::new(IoTimeout::new(2).unwrap(), FireTimeout::SANLOCK));
        assert_eq!(sector.encode(SectorSize::B512)[..], golden[..]);
    }

    #[test]
    fn a_sector_of_another_host_area_or_size_is_refused_by_name() {
        let place = area();
        let good = sealed_sector(3, 2, 1000);
        let decode = |sector: &DeltaSector, belongs: &Belongs| {
            DeltaSector::decode_lease(&sector.encode(SectorSize::B512), host_id(3), belongs)
        };
        let mut misplaced = good.clone();
        misplaced.leader.owner_id = 4;
        let owner = SectorError::Owner { found: 4, expected: host_id(3) };
        assert_eq!(decode(&misplaced, &place.belongs()), Err(owner));

        let mut nobodys = good.clone();
        nobodys.leader.owner_id = 0;
        assert!(matches!(decode(&nobodys, &place.belongs()), Err(SectorError::Owner { found: 0, .. })));
        nobodys.leader.timestamp = RemoteTimestamp::FREE;
        assert!(decode(&nobodys, &place.belongs()).is_ok());

        let other = Belongs { uuid: Some(AreaUuid::NONE), ..place.belongs() };
        assert!(matches!(decode(&good, &other), Err(SectorError::Area { .. })));
        let bigger = Belongs { geometry: Some(Geometry::default_for(SectorSize::B4096)), ..place.belongs() };
        assert!(matches!(decode(&good, &bigger), Err(SectorError::Geometry { .. })));
        let named = Belongs { space: SpaceName::new(b"other").ok(), ..place.belongs() };
        assert!(matches!(decode(&good, &named), Err(SectorError::Leader(LeaderError::Space { .. }))));
    }

    #[test]
    fn blank_is_blank_only_when_the_whole_sector_is() {
        let mut bytes = [0u8; 512];
        assert_eq!(DeltaSector::decode(&bytes, host_id(1), &Belongs::default()), Ok(Decoded::Blank));
        assert!(DeltaSector::decode_lease(&bytes, host_id(1), &Belongs::default()).is_err());
        bytes[300] = 1;
        assert!(DeltaSector::decode(&bytes, host_id(1), &Belongs::default()).is_err());
    }
}
