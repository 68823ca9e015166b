//! Header and entries of a resource index as bytes (spec D 2.7, 2.8).
//!
//! Neither has a checksum of sanlock's. The header's sector is zero behind its 80 bytes, and sanlock keeps what stands there, so
//! ours is sealed. The entries fill their sectors: nothing of ours fits there, and what an entry says is believed only as far as
//! the lease that it leads to says the same.
//!
//! Unit: bytes. Errors: [`HeaderError`]; an entry is whatever it says.

use holdfast_io::bytes::{array_at, put, put_u32, put_u64, u32_at, u64_at};
use holdfast_io::ids::{ResourceName, SpaceName};
use holdfast_io::seal::{self, AreaUuid, Seal, SealError, SealedKind};
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::units::{AlignSize, Geometry, LeaseOffset, SectorIndex, SectorSize};

use super::IndexAt;
use super::slots::{DEFAULT_RESOURCES, most_resources};

/// The magic of a header.
pub const MAGIC: u32 = 0x0104_2018;
/// The major version that is known here.
pub const MAJOR: u16 = 1;
const MINOR: u16 = 2;
/// Bytes of a header.
pub const HEADER_LEN: usize = 80;
/// Bytes of an entry.
pub const ENTRY_LEN: usize = 64;

const VERSION: usize = 4;
const FLAGS: usize = 8;
const SECTOR_SIZE: usize = 12;
const MAX_RESOURCES: usize = 16;
const RX_OFFSET: usize = 24;
const SPACE_NAME: usize = 32;

/// A header counts 1, 2, 4, 8 for areas of 1M to 8M: the bits of a leader record shifted by four.
const ALIGN_SHIFT: u32 = 4;
const KNOWN_FLAGS: u32 = 0xF;

const RES_OFFSET: usize = 0;
const ENTRY_FLAGS: usize = 8;
const NAME: usize = 16;

/// What an index says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where it stands, and whose it is.
    pub index: IndexAt,
    /// The shape of its area, and of those of its resources.
    pub geometry: Geometry,
    /// Places for resources, at least 1: what the field says, and never more than the area has room for.
    pub max_resources: u32,
    /// The area's UUID, where we formatted it; [`AreaUuid::NONE`] where sanlock did.
    pub uuid: AreaUuid,
}

/// A header that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// No index here (-274).
    #[error("magic 0x{found:08x}, expected 0x{MAGIC:08x}")]
    Magic {
        /// On disk.
        found: u32,
    },
    /// Another major version (-275).
    #[error("version {}.{}, expected {MAJOR}.x", .found >> 16, .found & 0xFFFF)]
    Version {
        /// On disk.
        found: u32,
    },
    /// Flag bits without a known meaning (-275).
    #[error("unknown flag bits 0x{found:x}")]
    UnknownFlags {
        /// The unknown bits.
        found: u32,
    },
    /// Another lockspace's (-276).
    #[error("belongs to lockspace {found:?}, expected {expected:?}")]
    Space {
        /// On disk.
        found: SpaceName,
        /// Asked for.
        expected: SpaceName,
    },
    /// It says that it stands elsewhere (-277).
    #[error("says that it stands at offset {found}, expected {expected}")]
    Offset {
        /// On disk.
        found: u64,
        /// Where it was read.
        expected: u64,
    },
    /// No such pair of sizes.
    #[error("sectors of {sector_size} bytes and align flags 0x{flags:x} go with no area")]
    Sizes {
        /// On disk.
        sector_size: u32,
        /// On disk.
        flags: u32,
    },
    /// Its seal is wrong: it was damaged since a Holdfast host wrote it.
    #[error("its seal is wrong")]
    Seal(#[from] SealError),
}

/// The sizes that a header names. It has no older form without them, as leader records have (spec D 1.2).
#[must_use]
pub fn geometry(header: &[u8; HEADER_LEN]) -> Option<Geometry> {
    let align = AlignSize::from_flags(u32_at(header, FLAGS) << ALIGN_SHIFT)?;
    let sector = SectorSize::from_bytes(u64::from(u32_at(header, SECTOR_SIZE)))?;
    Geometry::new(sector, align).ok()
}

/// The version field, whatever it says.
#[must_use]
pub fn version(header: &[u8; HEADER_LEN]) -> u32 {
    u32_at(header, VERSION)
}

/// The field that says where the header stands, whatever it says.
#[must_use]
pub fn rx_offset(header: &[u8; HEADER_LEN]) -> u64 {
    u64_at(header, RX_OFFSET)
}

/// The field that counts the places for resources, whatever it says.
#[must_use]
pub fn max_resources(header: &[u8; HEADER_LEN]) -> u32 {
    u32_at(header, MAX_RESOURCES)
}

/// The lockspace's name, whatever it says.
#[must_use]
pub fn space_name(header: &[u8; HEADER_LEN]) -> SpaceName {
    SpaceName::from_field(&array_at(header, SPACE_NAME))
}

impl Header {
    /// A new index. `resources`: places asked for; 0 is sanlock's default, and more than fit are as many as fit.
    #[must_use]
    pub fn new(index: IndexAt, geometry: Geometry, resources: u32, uuid: AreaUuid) -> Self {
        let asked = if resources == 0 { DEFAULT_RESOURCES } else { resources };
        Header { index, geometry, max_resources: asked.min(most_resources(geometry)), uuid }
    }

    /// The header in the first bytes of an index, of which `bytes` holds the first sector at least, whatever its size.
    ///
    /// # Errors
    /// [`HeaderError`], the first that applies; of several that sanlock knows, the one that it would name.
    pub fn decode(bytes: &[u8; SectorSize::B4096.bytes()], expected: &IndexAt) -> Result<Self, HeaderError> {
        let header: [u8; HEADER_LEN] = array_at(bytes, 0);
        let magic = u32_at(&header, 0);
        if magic != MAGIC {
            return Err(HeaderError::Magic { found: magic });
        }
        let found = version(&header);
        if found >> 16 != u32::from(MAJOR) {
            return Err(HeaderError::Version { found });
        }
        let found = space_name(&header);
        if found != expected.space {
            return Err(HeaderError::Space { found, expected: expected.space });
        }
        let found = rx_offset(&header);
        if found != expected.at.0 {
            return Err(HeaderError::Offset { found, expected: expected.at.0 });
        }
        let flags = u32_at(&header, FLAGS);
        if flags & !KNOWN_FLAGS != 0 {
            return Err(HeaderError::UnknownFlags { found: flags & !KNOWN_FLAGS });
        }
        let sizes = HeaderError::Sizes { sector_size: u32_at(&header, SECTOR_SIZE), flags };
        let geometry = geometry(&header).ok_or(sizes)?;
        let sealed = seal::read(&bytes[..geometry.sector().bytes()], SealedKind::Plain, SectorIndex(0))?;
        let most = most_resources(geometry);
        // 0 is as many as fit (spec D 2.7); more than fit would lead behind the area.
        let max_resources = match max_resources(&header) {
            0 => most,
            found => found.min(most),
        };
        let uuid = sealed.map_or(AreaUuid::NONE, |seal| seal.area);
        Ok(Header { index: *expected, geometry, max_resources, uuid })
    }

    /// The header's sector, sealed.
    #[must_use]
    pub fn sector(&self, seal: &Seal) -> AlignedBuf {
        let mut sector = AlignedBuf::zeroed(self.geometry.sector().bytes());
        let bytes = &mut sector[..];
        put_u32(bytes, 0, MAGIC);
        put_u32(bytes, VERSION, u32::from(MAJOR) << 16 | u32::from(MINOR));
        put_u32(bytes, FLAGS, self.geometry.align().flag() >> ALIGN_SHIFT);
        put_u32(bytes, SECTOR_SIZE, if self.geometry.sector() == SectorSize::B512 { 512 } else { 4096 });
        put_u32(bytes, MAX_RESOURCES, self.max_resources);
        put_u64(bytes, RX_OFFSET, self.index.at.0);
        put(bytes, SPACE_NAME, self.index.space.field());
        seal::write(bytes, SealedKind::Plain, seal);
        sector
    }
}

/// A place for a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where its area is said to be. Whoever looks for it goes by the entry's own place.
    pub res_offset: u64,
    /// Always 0 so far.
    pub flags: u32,
    /// Its name; sanlock lists resources without one, too.
    pub name: ResourceName,
}

impl Entry {
    /// Nobody's.
    pub const FREE: Entry = Entry { res_offset: 0, flags: 0, name: ResourceName::empty() };

    /// The entry of a resource whose area is at `area`.
    #[must_use]
    pub const fn of(name: ResourceName, area: LeaseOffset) -> Self {
        Entry { res_offset: area.0, flags: 0, name }
    }

    /// Whether the place can be taken (spec D 2.8).
    #[must_use]
    pub const fn is_free(&self) -> bool {
        self.res_offset == 0 && self.name.is_empty()
    }

    /// The fields as they stand there, whatever they say.
    #[must_use]
    pub fn parse(bytes: &[u8; ENTRY_LEN]) -> Self {
        Entry {
            res_offset: u64_at(bytes, RES_OFFSET),
            flags: u32_at(bytes, ENTRY_FLAGS),
            name: ResourceName::from_field(&array_at(bytes, NAME)),
        }
    }

    /// The bytes on disk.
    #[must_use]
    pub fn encode(&self) -> [u8; ENTRY_LEN] {
        let mut bytes = [0; ENTRY_LEN];
        put_u64(&mut bytes, RES_OFFSET, self.res_offset);
        put_u32(&mut bytes, ENTRY_FLAGS, self.flags);
        put(&mut bytes, NAME, self.name.field());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{hex, seal_of, uuid};

    const SMALL: Geometry = Geometry::ALL[0];

    fn at(space: &[u8], offset: u64) -> IndexAt {
        IndexAt { at: LeaseOffset(offset), space: SpaceName::new(space).unwrap() }
    }

    fn first_bytes(sector: &[u8]) -> [u8; 4096] {
        let mut bytes = [0; 4096];
        bytes[..sector.len()].copy_from_slice(sector);
        bytes
    }

    fn header() -> Header {
        Header::new(at(b"LSX", 8 << 20), SMALL, 0, uuid())
    }

    fn sealed() -> [u8; 4096] {
        first_bytes(&header().sector(&seal_of(SectorIndex(0))))
    }

    #[test]
    fn g8_a_header_of_the_real_program_is_read_and_made_again() {
        let real = "18200401 02000100 01000000 00020000 00100000 00000000 00008000 00000000 4c535800";
        let mut bytes = [0; 4096];
        let real = hex(real);
        bytes[..real.len()].copy_from_slice(&real);
        let found = Header::decode(&bytes, &header().index).unwrap();
        assert_eq!(found, Header { uuid: AreaUuid::NONE, ..header() });
        assert_eq!(found.max_resources, 4096);
        assert_eq!(sealed()[..HEADER_LEN], bytes[..HEADER_LEN]);
    }

    #[test]
    fn g8_an_entry_of_the_real_program_is_read_and_made_again() {
        let mut bytes = [0; ENTRY_LEN];
        bytes[..8].copy_from_slice(&hex("0000a000 00000000"));
        bytes[16..19].copy_from_slice(b"foo");
        let entry = Entry::parse(&bytes);
        assert_eq!(entry, Entry::of(ResourceName::new(b"foo").unwrap(), LeaseOffset(0xa0_0000)));
        assert_eq!(entry.encode(), bytes);
        assert!(Entry::parse(&[0; ENTRY_LEN]).is_free() && !entry.is_free());
    }

    #[test]
    fn each_wrong_field_is_refused_by_its_own_error() {
        let bytes = |at: usize, value: u32| {
            let mut bytes = first_bytes(&Header::new(at_8m(), SMALL, 7, uuid()).sector(&seal_of(SectorIndex(0))));
            // As sanlock writes it: without a seal.
            bytes[seal::OFFSET..seal::END].fill(0);
            put_u32(&mut bytes, at, value);
            bytes
        };
        fn at_8m() -> IndexAt {
            at(b"LSX", 8 << 20)
        }
        let decode = |b: &[u8; 4096]| Header::decode(b, &at_8m());
        assert!(decode(&bytes(VERSION, 0x0001_0009)).is_ok(), "the minor version says nothing");
        assert_eq!(decode(&bytes(0, 5)), Err(HeaderError::Magic { found: 5 }));
        assert_eq!(decode(&bytes(VERSION, 0x2_0000)), Err(HeaderError::Version { found: 0x2_0000 }));
        assert!(matches!(decode(&bytes(SPACE_NAME, 0x41)), Err(HeaderError::Space { .. })));
        assert_eq!(decode(&bytes(RX_OFFSET, 9)), Err(HeaderError::Offset { found: 9, expected: 8 << 20 }));
        assert_eq!(decode(&bytes(FLAGS, 0x11)), Err(HeaderError::UnknownFlags { found: 0x10 }));
        assert_eq!(decode(&bytes(FLAGS, 0)), Err(HeaderError::Sizes { sector_size: 512, flags: 0 }));
        assert_eq!(decode(&bytes(SECTOR_SIZE, 777)), Err(HeaderError::Sizes { sector_size: 777, flags: 1 }));
        let places = |n| decode(&bytes(MAX_RESOURCES, n)).unwrap().max_resources;
        assert_eq!((places(0), places(3), places(u32::MAX)), (16_000, 3, 16_000));
    }

    #[test]
    fn a_sealed_header_has_no_byte_that_is_unprotected() {
        let whole = sealed();
        let expected = Header::decode(&whole, &header().index).unwrap();
        assert_eq!(expected, header());
        for byte in 0..512 {
            let mut bytes = whole;
            bytes[byte] ^= 0x10;
            // A magic of the seal that is gone makes it one of sanlock's, with bytes where zeros should be.
            assert!(Header::decode(&bytes, &header().index).is_err(), "byte {byte}");
        }
    }
}
