//! The leader record: sector 0 of a resource's area, and every host's sector of a lockspace's area (a delta sector).
//!
//! | offset | size | field | in a delta sector | in a paxos leader |
//! | --- | --- | --- | --- | --- |
//! | 0 | u32 | magic | 0x12212010 | 0x06152010; cleared 0x11282016 |
//! | 4 | u32 | version | 3.4 (major in the high half) | 6.4 |
//! | 8 | u32 | flags | area length (0x10..0x80) | the same, bit 0 SHORT_HOLD |
//! | 12 | u32 | sector_size | bytes | bytes |
//! | 16 | u64 | num_hosts | 0 | dblocks in use |
//! | 24 | u64 | max_hosts | 1 | dblocks that fit |
//! | 32 | u64 | owner_id | host_id | owner's host_id |
//! | 40 | u64 | owner_generation | its generation | the owner's |
//! | 48 | u64 | lver | 0 | lease version |
//! | 56 | 48 B | space_name | lockspace | lockspace |
//! | 104 | 48 B | resource_name | the holder's host name | resource |
//! | 152 | u64 | timestamp | renewal, seconds of the writer's clock; 0 free | acquisition; 0 free |
//! | 160 | u64 | reserved1 | preserved | preserved |
//! | 168 | u32 | checksum | of \[0,168) | of \[0,168) |
//! | 172 | u16 | reserved2 | preserved | preserved |
//! | 174 | u16 | io_timeout | the holder's, seconds | 0 |
//! | 176 | u64 | write_id | host event's generation | host_id of the writer |
//! | 184 | u64 | write_generation | host event | generation of the writer |
//! | 192 | u64 | write_timestamp | host event's data | the writer's clock |
//!
//! The checksum leaves out everything from 172 on, though write_id decides whether a release may touch the leader (the
//! seal protects it). Source: spec D 2.2.

use crate::bytes::{array_at, is_zero, put, put_u16, put_u32, put_u64, u16_at, u32_at, u64_at};
use crate::checksum::lease_crc;
use crate::ids::{Generation, HostId, HostName, HostTerm, Lver, NAME_LEN, RemoteTimestamp, ResourceName, SpaceName};
use crate::timing::IoTimeout;
use crate::units::{AlignSize, Geometry, SectorSize};

const MAGIC: usize = 0;
const VERSION: usize = MAGIC + 4;
const FLAGS: usize = VERSION + 4;
const SECTOR_SIZE: usize = FLAGS + 4;
const NUM_HOSTS: usize = SECTOR_SIZE + 4;
const MAX_HOSTS: usize = NUM_HOSTS + 8;
const OWNER_ID: usize = MAX_HOSTS + 8;
const OWNER_GENERATION: usize = OWNER_ID + 8;
const LVER: usize = OWNER_GENERATION + 8;
const SPACE_NAME: usize = LVER + 8;
const RESOURCE_NAME: usize = SPACE_NAME + NAME_LEN;
const TIMESTAMP: usize = RESOURCE_NAME + NAME_LEN;
const RESERVED1: usize = TIMESTAMP + 8;
const CHECKSUM: usize = RESERVED1 + 8;
const RESERVED2: usize = CHECKSUM + 4;
const IO_TIMEOUT: usize = RESERVED2 + 2;
const WRITE_ID: usize = IO_TIMEOUT + 2;
const WRITE_GENERATION: usize = WRITE_ID + 8;
const WRITE_TIMESTAMP: usize = WRITE_GENERATION + 8;
/// Bytes in a leader record.
pub const LEN: usize = WRITE_TIMESTAMP + 8;
const _: () = assert!(LEN == crate::seal::OFFSET, "the seal follows the leader record");

/// Bytes that two copies of one leader share (spec D 2.2, "same leader").
pub const SAME_LEN: usize = TIMESTAMP;

/// Which lease a leader record belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaderKind {
    /// A host's sector in a lockspace.
    Delta,
    /// A resource.
    Paxos,
    /// A resource that was cleared: its area may be formatted anew.
    Cleared,
}

const DELTA_MAGIC: u32 = 0x1221_2010;
const PAXOS_MAGIC: u32 = 0x0615_2010;
const CLEARED_MAGIC: u32 = 0x1128_2016;
/// Of a resource index, which is no lease (`paxos-lease/src/index/codec.rs`).
const INDEX_MAGIC: u32 = 0x0104_2018;
const MINOR: u16 = 4;

/// What a magic number stands for, for people.
const fn word_of(magic: u32) -> &'static str {
    match magic {
        0 => "blank",
        DELTA_MAGIC => "a lockspace",
        PAXOS_MAGIC => "a resource",
        CLEARED_MAGIC => "a resource that was cleared",
        INDEX_MAGIC => "a resource index",
        _ => "nothing known",
    }
}

/// SHORT_HOLD: the owner holds the lease for a moment only, on its way to sharing it.
pub const SHORT_HOLD: u32 = 0x1;
const ALIGN_FLAGS: u32 = 0xF0;

impl LeaderKind {
    /// The magic number on disk.
    #[must_use]
    pub const fn magic(self) -> u32 {
        match self {
            LeaderKind::Delta => DELTA_MAGIC,
            LeaderKind::Paxos => PAXOS_MAGIC,
            LeaderKind::Cleared => CLEARED_MAGIC,
        }
    }

    /// The kind that a magic number stands for.
    #[must_use]
    pub const fn of_magic(magic: u32) -> Option<Self> {
        match magic {
            DELTA_MAGIC => Some(LeaderKind::Delta),
            PAXOS_MAGIC => Some(LeaderKind::Paxos),
            CLEARED_MAGIC => Some(LeaderKind::Cleared),
            _ => None,
        }
    }

    const fn major(self) -> u16 {
        match self {
            LeaderKind::Delta => 3,
            LeaderKind::Paxos | LeaderKind::Cleared => 6,
        }
    }

    const fn known_flags(self) -> u32 {
        match self {
            LeaderKind::Delta => ALIGN_FLAGS,
            LeaderKind::Paxos | LeaderKind::Cleared => ALIGN_FLAGS | SHORT_HOLD,
        }
    }
}

/// A leader record with every field, those without a meaning for us included. What [`LeaderRecord::parse`] gives has not
/// been verified; [`LeaderRecord::decode`] gives verified ones only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderRecord {
    /// Magic number.
    pub magic: u32,
    /// Major version in the high half, minor in the low; the minor is kept as found.
    pub version: u32,
    /// Area length and SHORT_HOLD.
    pub flags: u32,
    /// Bytes in a sector.
    pub sector_size: u32,
    /// Dblocks in use.
    pub num_hosts: u64,
    /// Dblocks that fit; 1 in delta sectors.
    pub max_hosts: u64,
    /// The owner's host_id, 0 before the first.
    pub owner_id: u64,
    /// The owner's generation.
    pub owner_generation: Generation,
    /// The lease version.
    pub lver: Lver,
    /// Lockspace.
    pub space_name: SpaceName,
    /// Resource; in delta sectors the holder's host name.
    pub resource_name: ResourceName,
    /// When it was acquired or renewed, on the writer's clock; 0 free.
    pub timestamp: RemoteTimestamp,
    /// Reserved, preserved.
    pub reserved1: u64,
    /// Reserved, preserved.
    pub reserved2: u16,
    /// The holder's io_timeout in seconds (delta), else 0.
    pub io_timeout: u16,
    /// Writer's host_id; in delta sectors the generation that a host event is for.
    pub write_id: u64,
    /// Writer's generation; in delta sectors the event.
    pub write_generation: u64,
    /// Writer's clock; in delta sectors the event's data.
    pub write_timestamp: u64,
}

/// What stands in a sector where a record may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<T> {
    /// Nothing was ever written here.
    Blank,
    /// A lease was here and has been cleared.
    Cleared(T),
    /// A valid record.
    Record(T),
}

/// What the reader knows about the record beforehand. `None` accepts anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    /// Its lockspace.
    pub space: Option<SpaceName>,
    /// Its resource.
    pub resource: Option<ResourceName>,
    /// A host that must be among its num_hosts.
    pub host_id: Option<HostId>,
}

/// A record that is not what it must be, in the order in which sanlock looks (spec D 2.2).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaderError {
    /// No lease of this kind here.
    #[error("magic 0x{found:08x} ({}), expected 0x{expected:08x} ({})", word_of(*.found), word_of(*.expected))]
    Magic {
        /// On disk.
        found: u32,
        /// Of this kind of lease.
        expected: u32,
    },
    /// Another major version.
    #[error("version {}.{}, expected {expected}.x", .found >> 16, .found & 0xFFFF)]
    Version {
        /// On disk.
        found: u32,
        /// The major version known here.
        expected: u16,
    },
    /// Another lockspace's.
    #[error("belongs to lockspace {found:?}, expected {expected:?}")]
    Space {
        /// On disk.
        found: SpaceName,
        /// Asked for.
        expected: SpaceName,
    },
    /// Another resource's.
    #[error("is resource {found:?}, expected {expected:?}")]
    Resource {
        /// On disk.
        found: ResourceName,
        /// Asked for.
        expected: ResourceName,
    },
    /// Our host_id has no dblock in use there.
    #[error("serves host ids up to {found}, ours is {expected}")]
    NumHosts {
        /// On disk.
        found: u64,
        /// Ours.
        expected: HostId,
    },
    /// The checksum fails.
    #[error("checksum 0x{found:08x}, expected 0x{expected:08x}")]
    Checksum {
        /// On disk.
        found: u32,
        /// Computed.
        expected: u32,
    },
    /// A flag with a meaning that we do not know: newer programs mark areas that are to be written by compare-and-write
    /// alone so, and a plain write to those would break their leases.
    #[error("unknown flag bits 0x{found:x}: written by a newer program whose rules are not known here")]
    UnknownFlags {
        /// The unknown bits.
        found: u32,
    },
    /// A field that cannot be.
    #[error("field {field} is {found}, expected {expected}")]
    Field {
        /// Its name.
        field: &'static str,
        /// On disk.
        found: u64,
        /// What could be.
        expected: &'static str,
    },
}

impl LeaderRecord {
    /// A record as `init` writes it: nobody's, lver and timestamp 0 (spec D 3.2, 4.1).
    #[must_use]
    pub fn formatted(kind: LeaderKind, geometry: Geometry, space_name: SpaceName) -> Self {
        let hosts = match kind {
            LeaderKind::Delta => (0, 1),
            LeaderKind::Paxos | LeaderKind::Cleared => {
                (u64::from(geometry.max_hosts()), u64::from(geometry.max_hosts()))
            }
        };
        LeaderRecord {
            magic: kind.magic(),
            version: u32::from(kind.major()) << 16 | u32::from(MINOR),
            flags: geometry.align().flag(),
            sector_size: match geometry.sector() {
                SectorSize::B512 => 512,
                SectorSize::B4096 => 4096,
            },
            num_hosts: hosts.0,
            max_hosts: hosts.1,
            owner_id: 0,
            owner_generation: Generation(0),
            lver: Lver(0),
            space_name,
            resource_name: ResourceName::empty(),
            timestamp: RemoteTimestamp::FREE,
            reserved1: 0,
            reserved2: 0,
            io_timeout: 0,
            write_id: 0,
            write_generation: 0,
            write_timestamp: 0,
        }
    }

    /// The bytes on disk, checksum included.
    #[must_use]
    pub fn encode(&self) -> [u8; LEN] {
        let mut b = [0; LEN];
        put_u32(&mut b, MAGIC, self.magic);
        put_u32(&mut b, VERSION, self.version);
        put_u32(&mut b, FLAGS, self.flags);
        put_u32(&mut b, SECTOR_SIZE, self.sector_size);
        put_u64(&mut b, NUM_HOSTS, self.num_hosts);
        put_u64(&mut b, MAX_HOSTS, self.max_hosts);
        put_u64(&mut b, OWNER_ID, self.owner_id);
        put_u64(&mut b, OWNER_GENERATION, self.owner_generation.0);
        put_u64(&mut b, LVER, self.lver.0);
        put(&mut b, SPACE_NAME, self.space_name.field());
        put(&mut b, RESOURCE_NAME, self.resource_name.field());
        put_u64(&mut b, TIMESTAMP, self.timestamp.0);
        put_u64(&mut b, RESERVED1, self.reserved1);
        let checksum = lease_crc(&b[..CHECKSUM]);
        put_u32(&mut b, CHECKSUM, checksum);
        put_u16(&mut b, RESERVED2, self.reserved2);
        put_u16(&mut b, IO_TIMEOUT, self.io_timeout);
        put_u64(&mut b, WRITE_ID, self.write_id);
        put_u64(&mut b, WRITE_GENERATION, self.write_generation);
        put_u64(&mut b, WRITE_TIMESTAMP, self.write_timestamp);
        b
    }

    /// The fields as they stand there, whatever they say: for the dumper, and for looking before verifying.
    #[must_use]
    pub fn parse(b: &[u8; LEN]) -> Self {
        LeaderRecord {
            magic: u32_at(b, MAGIC),
            version: u32_at(b, VERSION),
            flags: u32_at(b, FLAGS),
            sector_size: u32_at(b, SECTOR_SIZE),
            num_hosts: u64_at(b, NUM_HOSTS),
            max_hosts: u64_at(b, MAX_HOSTS),
            owner_id: u64_at(b, OWNER_ID),
            owner_generation: Generation(u64_at(b, OWNER_GENERATION)),
            lver: Lver(u64_at(b, LVER)),
            space_name: SpaceName::from_field(&array_at(b, SPACE_NAME)),
            resource_name: ResourceName::from_field(&array_at(b, RESOURCE_NAME)),
            timestamp: RemoteTimestamp(u64_at(b, TIMESTAMP)),
            reserved1: u64_at(b, RESERVED1),
            reserved2: u16_at(b, RESERVED2),
            io_timeout: u16_at(b, IO_TIMEOUT),
            write_id: u64_at(b, WRITE_ID),
            write_generation: u64_at(b, WRITE_GENERATION),
            write_timestamp: u64_at(b, WRITE_TIMESTAMP),
        }
    }

    /// The checksum that stands in the bytes, and the one that should.
    #[must_use]
    pub fn checksums(b: &[u8; LEN]) -> (u32, u32) {
        (u32_at(b, CHECKSUM), lease_crc(&b[..CHECKSUM]))
    }

    /// The verified record of a sector of kind `kind` ([`LeaderKind::Delta`] or [`LeaderKind::Paxos`]).
    ///
    /// # Errors
    /// [`LeaderError`], the first that applies in sanlock's order; unknown flags and impossible fields come last.
    pub fn decode(b: &[u8; LEN], kind: LeaderKind, expected: &Expected) -> Result<Decoded<Self>, LeaderError> {
        if is_zero(b) {
            return Ok(Decoded::Blank);
        }
        let record = Self::parse(b);
        let cleared = kind == LeaderKind::Paxos && record.magic == CLEARED_MAGIC;
        if record.magic != kind.magic() && !cleared {
            return Err(LeaderError::Magic { found: record.magic, expected: kind.magic() });
        }
        if record.version >> 16 != u32::from(kind.major()) {
            return Err(LeaderError::Version { found: record.version, expected: kind.major() });
        }
        if !cleared {
            record.expect(kind, expected)?;
        }
        let (found, computed) = Self::checksums(b);
        if found != computed {
            return Err(LeaderError::Checksum { found, expected: computed });
        }
        record.check_fields(kind)?;
        Ok(if cleared { Decoded::Cleared(record) } else { Decoded::Record(record) })
    }

    fn expect(&self, kind: LeaderKind, expected: &Expected) -> Result<(), LeaderError> {
        if let Some(space) = expected.space.filter(|s| *s != self.space_name) {
            return Err(LeaderError::Space { found: self.space_name, expected: space });
        }
        if kind == LeaderKind::Delta {
            return Ok(());
        }
        if let Some(resource) = expected.resource.filter(|r| *r != self.resource_name) {
            return Err(LeaderError::Resource { found: self.resource_name, expected: resource });
        }
        if let Some(host_id) = expected.host_id.filter(|h| h.get() > self.num_hosts) {
            return Err(LeaderError::NumHosts { found: self.num_hosts, expected: host_id });
        }
        Ok(())
    }

    fn check_fields(&self, kind: LeaderKind) -> Result<(), LeaderError> {
        let unknown = self.flags & !kind.known_flags();
        if unknown != 0 {
            return Err(LeaderError::UnknownFlags { found: unknown });
        }
        let bad = |field, found, expected| Err(LeaderError::Field { field, found, expected });
        let Some(geometry) = self.geometry() else {
            return bad("sector_size", u64::from(self.sector_size), "512 or 4096 with a matching area length");
        };
        if kind == LeaderKind::Delta {
            // Only its low byte ever had a meaning (spec D 2.2).
            return match self.io_timeout {
                0..=255 => Ok(()),
                found => bad("io_timeout", u64::from(found), "0 to 255"),
            };
        }
        if self.num_hosts == 0 || self.num_hosts > u64::from(geometry.max_hosts()) {
            return bad("num_hosts", self.num_hosts, "1 to the hosts that fit the area");
        }
        if !self.timestamp.is_free() && self.owner().is_none() {
            return bad("owner_id", self.owner_id, "1 to 2000 in a lease that is held");
        }
        Ok(())
    }

    /// The area's shape. Records from before the align flags: 512 bytes mean 1M, 4096 mean 8M (spec D 1.2).
    #[must_use]
    pub fn geometry(&self) -> Option<Geometry> {
        let sector = SectorSize::from_bytes(u64::from(self.sector_size))?;
        match AlignSize::from_flags(self.flags) {
            Some(align) => Geometry::new(sector, align).ok(),
            None => Some(Geometry::default_for(sector)),
        }
    }

    /// The kind that its magic stands for.
    #[must_use]
    pub const fn kind(&self) -> Option<LeaderKind> {
        LeaderKind::of_magic(self.magic)
    }

    /// Owner and generation, if the id is one that can be.
    #[must_use]
    pub fn owner(&self) -> Option<HostTerm> {
        let host_id = HostId::new(self.owner_id)?;
        Some(HostTerm { host_id, generation: self.owner_generation })
    }

    /// Whether nobody holds the lease.
    #[must_use]
    pub const fn is_free(&self) -> bool {
        self.timestamp.is_free()
    }

    /// In a delta sector: the name of the host that wrote it.
    #[must_use]
    pub fn host_name(&self) -> HostName {
        HostName::from_field(self.resource_name.field())
    }

    /// In a delta sector: the holder's io_timeout; `None` where 0 is stored.
    #[must_use]
    pub fn stored_io_timeout(&self) -> Option<IoTimeout> {
        IoTimeout::new(u64::from(self.io_timeout & 0xFF))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn formatted(kind: LeaderKind) -> LeaderRecord {
        let geometry = Geometry::default_for(SectorSize::B512);
        LeaderRecord::formatted(kind, geometry, SpaceName::new(b"LS1").unwrap())
    }

    fn checksum(record: &LeaderRecord) -> u32 {
        LeaderRecord::checksums(&record.encode()).0
    }

    #[test]
    fn formatted_records_have_the_checksums_of_the_real_program() {
        let delta = LeaderRecord { io_timeout: 10, ..formatted(LeaderKind::Delta) };
        assert_eq!(checksum(&delta), 0x4dba_1e1e);
        let res = LeaderRecord { resource_name: ResourceName::new(b"RES1").unwrap(), ..formatted(LeaderKind::Paxos) };
        assert_eq!(checksum(&res), 0x1d6a_1592);
        let big = Geometry::default_for(SectorSize::B4096);
        let ls2 = LeaderRecord::formatted(LeaderKind::Delta, big, SpaceName::new(b"LS2").unwrap());
        assert_eq!(checksum(&ls2), 0xc190_654e);
    }

    #[test]
    fn each_wrong_field_has_its_own_error() {
        let record = LeaderRecord { resource_name: ResourceName::new(b"R").unwrap(), ..formatted(LeaderKind::Paxos) };
        let decode = |r: &LeaderRecord, e: &Expected| LeaderRecord::decode(&r.encode(), LeaderKind::Paxos, e);
        let any = Expected::default();
        assert_eq!(decode(&record, &any), Ok(Decoded::Record(record)));
        let other = SpaceName::new(b"other").unwrap();
        let space = Expected { space: Some(other), ..any };
        assert!(matches!(decode(&record, &space), Err(LeaderError::Space { .. })));
        let resource = Expected { resource: Some(ResourceName::new(b"S").unwrap()), ..any };
        assert!(matches!(decode(&record, &resource), Err(LeaderError::Resource { .. })));
        let few = LeaderRecord { num_hosts: 4, ..record };
        let host = Expected { host_id: HostId::new(5), ..any };
        assert!(matches!(decode(&few, &host), Err(LeaderError::NumHosts { .. })));
        let caw = LeaderRecord { flags: record.flags | 0x100, ..record };
        assert_eq!(decode(&caw, &any), Err(LeaderError::UnknownFlags { found: 0x100 }));
        let cleared = LeaderRecord { magic: CLEARED_MAGIC, ..record };
        assert_eq!(decode(&cleared, &space), Ok(Decoded::Cleared(cleared)));
        assert_eq!(LeaderRecord::decode(&[0; LEN], LeaderKind::Delta, &any), Ok(Decoded::Blank));
        let told = LeaderRecord::decode(&record.encode(), LeaderKind::Delta, &any).unwrap_err().to_string();
        assert_eq!(told, "magic 0x06152010 (a resource), expected 0x12212010 (a lockspace)");
        let mut torn = record.encode();
        torn[170] ^= 1;
        assert!(matches!(LeaderRecord::decode(&torn, LeaderKind::Paxos, &any), Err(LeaderError::Checksum { .. })));
    }

    proptest! {
        #[test]
        fn parse_and_encode_keep_every_field(mut bytes in proptest::collection::vec(any::<u8>(), LEN)) {
            // Names end at their first NUL, and the checksum is computed: make both so first.
            for name in [SPACE_NAME, RESOURCE_NAME] {
                let end = bytes[name..name + NAME_LEN].iter().position(|b| *b == 0).unwrap_or(NAME_LEN);
                bytes[name + end..name + NAME_LEN].fill(0);
            }
            let crc = lease_crc(&bytes[..CHECKSUM]);
            put_u32(&mut bytes, CHECKSUM, crc);
            let array: [u8; LEN] = bytes.try_into().unwrap();
            prop_assert_eq!(LeaderRecord::parse(&array).encode(), array);
            let _ = LeaderRecord::decode(&array, LeaderKind::Delta, &Expected::default());
        }
    }
}
