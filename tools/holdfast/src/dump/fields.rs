//! Where every field of every sector stands, for the annotated hex view. The codecs read the same places; a test
//! compares the two.

/// How a field's bytes are to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// A little-endian number, decimal.
    Number,
    /// A little-endian number, hex.
    Hex,
    /// Text up to the first NUL.
    Text,
    /// `major.minor` in the halves of a u32.
    Version,
    /// A UUID.
    Uuid,
    /// Host ids, one bit each.
    Bits,
}

/// A field.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Where in its sector.
    pub at: usize,
    /// How many bytes.
    pub len: usize,
    /// Its name.
    pub name: &'static str,
    /// How to show it.
    pub show: Show,
    /// What it says.
    pub meaning: &'static str,
}

const fn field(at: usize, len: usize, name: &'static str, show: Show, meaning: &'static str) -> Field {
    Field { at, len, name, show, meaning }
}

/// The leader record of a resource.
pub const LEADER: &[Field] = &[
    field(0, 4, "magic", Show::Hex, "0x06152010 resource, 0x11282016 cleared"),
    field(4, 4, "version", Show::Version, "6.x"),
    field(8, 4, "flags", Show::Hex, "area length: 0x10 1M, 0x20 2M, 0x40 4M, 0x80 8M; 0x1 SHORT_HOLD"),
    field(12, 4, "sector_size", Show::Number, "bytes"),
    field(16, 8, "num_hosts", Show::Number, "dblocks in use"),
    field(24, 8, "max_hosts", Show::Number, "dblocks that fit"),
    field(32, 8, "owner_id", Show::Number, "owner's host_id, 0 before the first"),
    field(40, 8, "owner_generation", Show::Number, "owner's generation"),
    field(48, 8, "lver", Show::Number, "one more with every new ownership"),
    field(56, 48, "space_name", Show::Text, "lockspace"),
    field(104, 48, "resource_name", Show::Text, "resource"),
    field(152, 8, "timestamp", Show::Number, "acquired, seconds of the owner's clock; 0 free"),
    field(160, 8, "reserved1", Show::Hex, ""),
    field(168, 4, "checksum", Show::Hex, "over the bytes before it"),
    field(172, 2, "reserved2", Show::Hex, "not in the checksum"),
    field(174, 2, "io_timeout", Show::Number, "0; not in the checksum"),
    field(176, 8, "write_id", Show::Number, "host_id of the writer; not in the checksum"),
    field(184, 8, "write_generation", Show::Number, "generation of the writer"),
    field(192, 8, "write_timestamp", Show::Number, "seconds of the writer's clock"),
];

/// A delta sector.
pub const DELTA: &[Field] = &[
    field(0, 4, "magic", Show::Hex, "0x12212010 lockspace"),
    field(4, 4, "version", Show::Version, "3.x"),
    field(8, 4, "flags", Show::Hex, "area length: 0x10 1M, 0x20 2M, 0x40 4M, 0x80 8M"),
    field(12, 4, "sector_size", Show::Number, "bytes"),
    field(16, 8, "num_hosts", Show::Number, "0"),
    field(24, 8, "max_hosts", Show::Number, "1"),
    field(32, 8, "owner_id", Show::Number, "host_id, 0 before the first join"),
    field(40, 8, "owner_generation", Show::Number, "one more with every join"),
    field(48, 8, "lver", Show::Number, "0"),
    field(56, 48, "space_name", Show::Text, "lockspace"),
    field(104, 48, "resource_name", Show::Text, "the host's name"),
    field(152, 8, "timestamp", Show::Number, "renewed, seconds of the host's clock; 0 free"),
    field(160, 8, "reserved1", Show::Hex, ""),
    field(168, 4, "checksum", Show::Hex, "over the bytes before it"),
    field(172, 2, "reserved2", Show::Hex, "not in the checksum"),
    field(174, 2, "io_timeout", Show::Number, "seconds; not in the checksum"),
    field(176, 8, "event_generation", Show::Number, "host event: for which generation"),
    field(184, 8, "event", Show::Number, "host event, 0 none"),
    field(192, 8, "event_data", Show::Number, "host event: data"),
    field(256, 256, "bitmap", Show::Bits, "hosts to look at the event and at requests"),
];

/// The request record.
pub const REQUEST: &[Field] = &[
    field(0, 4, "magic", Show::Hex, "0x08292011"),
    field(4, 4, "version", Show::Version, "1.x"),
    field(8, 8, "lver", Show::Number, "version asked for, 0 none"),
    field(16, 4, "force_mode", Show::Number, "0 none, 1 force, 2 graceful"),
    field(20, 4, "padding", Show::Hex, "whatever sanlock had in memory"),
    field(24, 8, "for_owner", Show::Number, "host_id of the owner that is asked; sanlock: 0"),
    field(32, 8, "for_generation", Show::Number, "in this term"),
    field(40, 8, "for_lver", Show::Number, "as owner of this version"),
];

/// A host's dblock sector.
pub const DBLOCK: &[Field] = &[
    field(0, 8, "mbal", Show::Number, "ballot in progress"),
    field(8, 8, "bal", Show::Number, "ballot in which inp was proposed, 0 before phase 2"),
    field(16, 8, "inp", Show::Number, "proposed owner's host_id"),
    field(24, 8, "inp2", Show::Number, "proposed owner's generation"),
    field(32, 8, "inp3", Show::Number, "proposed timestamp"),
    field(40, 8, "lver", Show::Number, "version the ballot is for"),
    field(48, 4, "checksum", Show::Hex, "over the bytes before it"),
    field(52, 4, "flags", Show::Hex, "0x1 RELEASED; not in the checksum"),
    field(128, 4, "mode_flags", Show::Hex, "0x1 SHARED; in no checksum of sanlock's"),
    field(132, 4, "mode_padding", Show::Hex, "whatever sanlock had in memory"),
    field(136, 8, "mode_generation", Show::Number, "generation of the shared holder"),
];

/// The header of a resource index.
pub const INDEX_HEADER: &[Field] = &[
    field(0, 4, "magic", Show::Hex, "0x01042018"),
    field(4, 4, "version", Show::Version, "1.x"),
    field(8, 4, "flags", Show::Hex, "area length: 0x1 1M, 0x2 2M, 0x4 4M, 0x8 8M"),
    field(12, 4, "sector_size", Show::Number, "bytes"),
    field(16, 4, "max_resources", Show::Number, "entries; 0 as many as fit"),
    field(24, 8, "rx_offset", Show::Number, "where this header stands"),
    field(32, 48, "lockspace_name", Show::Text, "lockspace"),
];

/// The seal, in delta, leader, request, dblock and tail sectors.
pub const SEAL: &[Field] = &[
    field(200, 4, "seal.magic", Show::Hex, "0x4c534648 HFSL"),
    field(204, 1, "seal.version", Show::Number, "1"),
    field(205, 1, "seal.flags", Show::Hex, "0x1 no watchdog"),
    field(206, 1, "seal.fire_timeout", Show::Number, "seconds until the writer's watchdog resets it"),
    field(207, 1, "seal.reserved", Show::Hex, "0"),
    field(208, 8, "seal.machine", Show::Hex, "hash of the writer's machine id"),
    field(216, 8, "seal.boot", Show::Hex, "hash of its boot id"),
    field(224, 16, "seal.area", Show::Uuid, "UUID of the area"),
    field(240, 2, "seal.millis", Show::Number, "milliseconds beside the timestamp"),
    field(242, 2, "seal.reserved", Show::Hex, "0"),
    field(244, 4, "seal.sector", Show::Number, "this sector's place in its area"),
    field(248, 4, "seal.check", Show::Hex, "over the seal, with the dblock in a dblock sector"),
    field(252, 4, "seal.crc", Show::Hex, "over the whole sector"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use delta_lease::bitmap::HostBitmap;
    use holdfast_io::bytes::put;
    use holdfast_io::identity::{BootHash, MachineHash};
    use holdfast_io::ids::{Generation, HostId, HostTerm, Lver, RemoteTimestamp, ResourceName, SpaceName};
    use holdfast_io::leader::LeaderRecord;
    use holdfast_io::seal::{self, AreaUuid, Seal, SealedFire, SealedKind};
    use holdfast_io::timing::FireTimeout;
    use holdfast_io::units::{SectorIndex, SectorSize};
    use paxos_lease::dblock::{Dblock, HostSector, Inp, ModeBlock};
    use paxos_lease::number::Ballot;
    use paxos_lease::request::{Addressee, RequestRecord};

    fn number(bytes: &[u8], fields: &[Field], name: &str) -> u64 {
        let field = fields.iter().find(|f| f.name == name).unwrap();
        bytes[field.at..field.at + field.len].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
    }

    fn assert_fields(bytes: &[u8], fields: &[Field], expected: &[(&str, u64)]) {
        for (name, value) in expected {
            assert_eq!(number(bytes, fields, name), *value, "{name}");
        }
    }

    #[test]
    fn the_leaders_fields_stand_where_the_codec_puts_them() {
        let record = LeaderRecord {
            magic: 1,
            version: 2,
            flags: 3,
            sector_size: 4,
            num_hosts: 5,
            max_hosts: 6,
            owner_id: 7,
            owner_generation: Generation(8),
            lver: Lver(9),
            space_name: SpaceName::new(b"s").unwrap(),
            resource_name: ResourceName::new(b"r").unwrap(),
            timestamp: RemoteTimestamp(10),
            reserved1: 11,
            reserved2: 12,
            io_timeout: 13,
            write_id: 14,
            write_generation: 15,
            write_timestamp: 16,
        };
        let bytes = record.encode();
        let same = [
            ("magic", 1),
            ("version", 2),
            ("flags", 3),
            ("sector_size", 4),
            ("num_hosts", 5),
            ("max_hosts", 6),
            ("owner_id", 7),
            ("owner_generation", 8),
            ("lver", 9),
            ("space_name", u64::from(b's')),
            ("resource_name", u64::from(b'r')),
            ("timestamp", 10),
            ("reserved1", 11),
            ("reserved2", 12),
            ("io_timeout", 13),
        ];
        assert_fields(&bytes, LEADER, &same);
        assert_fields(&bytes, DELTA, &same);
        assert_fields(&bytes, LEADER, &[("write_id", 14), ("write_generation", 15), ("write_timestamp", 16)]);
        assert_fields(&bytes, DELTA, &[("event_generation", 14), ("event", 15), ("event_data", 16)]);
        let mut sector = vec![0; 512];
        let mut bitmap = HostBitmap::EMPTY;
        bitmap.insert(HostId::new(3).unwrap());
        bitmap.put_into(&mut sector);
        let field = DELTA.last().unwrap();
        assert_eq!((sector[field.at], field.at + field.len), (4, 512));
    }

    #[test]
    fn the_request_records_fields_stand_where_the_codec_puts_them() {
        let record = RequestRecord { magic: 1, version: 2, lver: Lver(3), force_mode: 4, reserved: 5 };
        let expected = [("magic", 1), ("version", 2), ("lver", 3), ("force_mode", 4), ("padding", 5)];
        let mut sector = vec![0; 512];
        put(&mut sector, 0, &record.encode());
        let owner = HostTerm { host_id: HostId::new(6).unwrap(), generation: Generation(7) };
        Addressee { owner, lver: Lver(8) }.put_into(&mut sector);
        assert_fields(&sector, REQUEST, &expected);
        assert_fields(&sector, REQUEST, &[("for_owner", 6), ("for_generation", 7), ("for_lver", 8)]);
    }

    #[test]
    fn the_dblocks_and_the_seals_fields_stand_where_the_codecs_put_them() {
        let term = HostTerm { host_id: HostId::new(3).unwrap(), generation: Generation(4) };
        let dblock = Dblock {
            mbal: Ballot::new(1),
            bal: Ballot::new(2),
            inp: Inp { timestamp: RemoteTimestamp(5), ..Inp::new(term, 5) },
            lver: Lver(6),
            flags: 7,
        };
        let mode = ModeBlock { flags: 8, reserved: 9, generation: Generation(10) };
        let seal = Seal {
            fire: SealedFire::Within(FireTimeout::SANLOCK),
            machine: MachineHash(21),
            boot: BootHash(22),
            area: AreaUuid(uuid::Uuid::from_u128(1 << 120)),
            millis: 23,
            sector: SectorIndex(24),
        };
        let sector = HostSector { dblock, mode, seal: None }.sector(SectorSize::B512, &seal);
        let expected = [("mbal", 1), ("bal", 2), ("inp", 3), ("inp2", 4), ("inp3", 5), ("lver", 6), ("flags", 7)];
        assert_fields(&sector, DBLOCK, &expected);
        assert_fields(&sector, DBLOCK, &[("mode_flags", 8), ("mode_padding", 9), ("mode_generation", 10)]);
        let expected = [("seal.version", 1), ("seal.fire_timeout", 60), ("seal.machine", 21), ("seal.boot", 22)];
        assert_fields(&sector, SEAL, &expected);
        assert_fields(&sector, SEAL, &[("seal.millis", 23), ("seal.sector", 24)]);
        assert_eq!((SEAL[0].at, SEAL[SEAL.len() - 1].at + SEAL[SEAL.len() - 1].len), (seal::OFFSET, seal::END));
        let mut plain = vec![0; 512];
        put(&mut plain, 0, b"x");
        seal::write(&mut plain, SealedKind::Plain, &seal);
        assert_eq!(number(&plain, SEAL, "seal.magic"), 0x4c53_4648);
    }

    #[test]
    fn fields_follow_each_other_without_overlap() {
        for fields in [LEADER, DELTA, REQUEST, DBLOCK, INDEX_HEADER, SEAL] {
            for pair in fields.windows(2) {
                assert!(pair[0].at + pair[0].len <= pair[1].at, "{} and {}", pair[0].name, pair[1].name);
            }
        }
    }
}
