//! `sanlock direct read_leader` (spec B 4, 5.9): the record of a host, or of a resource, and what sanlock finds wrong in it.

use std::path::Path;

use holdfast::dump::report::Leader;
use holdfast_daemon::codes;
use holdfast_io::bytes::{array_at, u32_at};
use holdfast_io::ids::{ResourceName, SpaceName};
use holdfast_io::leader::{self, Decoded, Expected, LeaderError, LeaderKind, LeaderRecord};
use holdfast_io::units::{Geometry, SectorSize};
use holdfast_protocol::payload::{Lockspace, Resource};

use super::offline::{EINVAL, Offline};
use super::options::Options;

/// Where the checksum stands in a leader record (spec D 2.2).
const CHECKSUM: usize = 168;
/// Nothing was found that could be read.
const NOT_READ: i32 = -1;
/// No record is there.
const NO_LEADER: i32 = -223;
const ENODEV: i32 = -19;
const EISDIR: i32 = -21;

/// Runs it. The fields are printed whatever came of it, zeros where none were read.
pub(super) fn run(options: &Options) -> i32 {
    let read = match (options.placed_lockspace(), options.placed_resource()) {
        (Some(asked), _) => of_host(&asked, options.geometry),
        (None, Some(asked)) => of_resource(&asked),
        (None, None) => Err(NOT_READ),
    };
    let (result, bytes) = read.unwrap_or_else(|failed| (failed, [0; leader::LEN]));
    say!("read_leader done {result}");
    print(&bytes, options.resources.is_empty());
    result
}

/// The bytes of a record, and what is wrong with them.
type Read = Result<(i32, [u8; leader::LEN]), i32>;

fn of_resource(asked: &Resource) -> Read {
    let disk = asked.disks.first().ok_or(NOT_READ)?;
    let path = disk.path.to_string();
    let device = Offline::open_to_read(&path, |e| {
        // sanlock opens it for writing, which says more.
        if Path::new(&path).is_dir() { EISDIR } else { codes::of_open(e).number() }
    })?;
    let bytes = record(&device, disk.offset)?;
    let head = &asked.head;
    let expected = Expected {
        space: Some(SpaceName::from_field(head.lockspace_name.raw())),
        resource: Some(ResourceName::from_field(head.name.raw())),
        host_id: None,
    };
    Ok((judged(&bytes, LeaderKind::Paxos, &expected), bytes))
}

/// The sector of a host, whose place depends on the size of sectors: where `-Z` and `-A` do not say it, the first record of
/// the area does.
fn of_host(asked: &Lockspace, sizes: u32) -> Read {
    let device = Offline::open_to_read(&asked.disk.path.to_string(), |_| ENODEV)?;
    let first = record(&device, asked.disk.offset)?;
    let said = device.geometry(sizes).ok().filter(|_| sizes != 0);
    let sector = said.or_else(|| geometry_of(&first)).map(Geometry::sector).ok_or(NOT_READ)?;
    let bytes = record(&device, place(asked, sector).ok_or(EINVAL)?)?;
    let space = Some(SpaceName::from_field(asked.name.raw()));
    Ok((judged(&bytes, LeaderKind::Delta, &Expected { space, ..Expected::default() }), bytes))
}

/// Where the sector of a host is; `None` where no host can have one.
fn place(asked: &Lockspace, sector: SectorSize) -> Option<u64> {
    let before = asked.host_id.checked_sub(1)?.checked_mul(sector.bytes() as u64)?;
    asked.disk.offset.checked_add(before)
}

fn geometry_of(record: &[u8; leader::LEN]) -> Option<Geometry> {
    let record = LeaderRecord::parse(record);
    record.kind().and_then(|_| record.geometry())
}

fn record(device: &Offline, at: u64) -> Result<[u8; leader::LEN], i32> {
    Ok(array_at(&device.read_sector(at)?, 0))
}

/// What sanlock looks at, in its order.
fn judged(bytes: &[u8; leader::LEN], kind: LeaderKind, expected: &Expected) -> i32 {
    if LeaderRecord::parse(bytes).magic != kind.magic() {
        return NO_LEADER;
    }
    match LeaderRecord::decode(bytes, kind, expected) {
        Ok(Decoded::Record(_)) => 0,
        Ok(Decoded::Blank | Decoded::Cleared(_)) => NO_LEADER,
        // Not looked at by sanlock.
        Err(LeaderError::UnknownFlags { .. } | LeaderError::Field { .. }) => 0,
        Err(wrong) => codes::of_leader(&wrong).number(),
    }
}

fn print(bytes: &[u8; leader::LEN], of_host: bool) {
    let leader = Leader::of(&LeaderRecord::parse(bytes), u32_at(bytes, CHECKSUM));
    say!("magic 0x{:x}\nversion 0x{:x}\nflags 0x{:x}", leader.magic, leader.version, leader.flags);
    say!("sector_size {}\nnum_hosts {}\nmax_hosts {}", leader.sector_size, leader.num_hosts, leader.max_hosts);
    say!("owner_id {}\nowner_generation {}\nlver {}", leader.owner_id, leader.owner_generation, leader.lver);
    say!("space_name {}\nresource_name {}\ntimestamp {}", leader.space_name, leader.resource_name, leader.timestamp);
    say!("checksum 0x{:x}\nio_timeout {}", leader.checksum, leader.io_timeout);
    let names =
        if of_host { ["extra1", "extra2", "extra3"] } else { ["write_id", "write_generation", "write_timestamp"] };
    let values = [leader.write_id, leader.write_generation, leader.write_timestamp];
    names.iter().zip(values).for_each(|(name, value)| say!("{name} {value}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_protocol::payload::Disk;
    use holdfast_protocol::text::Name48;

    fn formatted(kind: LeaderKind) -> LeaderRecord {
        LeaderRecord::formatted(kind, Geometry::default_for(SectorSize::B512), "LS".parse().unwrap())
    }

    #[test]
    fn damage_is_told_by_sanlocks_numbers_in_its_order() {
        let good = formatted(LeaderKind::Paxos).encode();
        let expected = |space: &str| Expected { space: Some(space.parse().unwrap()), ..Expected::default() };
        let judge = |bytes: &[u8; leader::LEN], space| judged(bytes, LeaderKind::Paxos, &expected(space));
        assert_eq!((judge(&good, "LS"), judge(&good, "OTHER")), (0, -226));
        let with = |at: usize| {
            let mut bytes = good;
            bytes[at] ^= 1;
            bytes
        };
        let (magic, version, checksum) = (with(0), with(6), with(CHECKSUM));
        assert_eq!([judge(&magic, "OTHER"), judge(&version, "OTHER"), judge(&checksum, "OTHER")], [-223, -224, -226]);
        assert_eq!(judge(&checksum, "LS"), -229);
        assert_eq!(judge(&formatted(LeaderKind::Cleared).encode(), "LS"), -223);
        assert_eq!(judge(&[0; leader::LEN], "LS"), -223);
    }

    #[test]
    fn no_host_id_is_at_the_place_of_another() {
        let at = |host_id, offset| {
            let asked = Lockspace::new(Name48::EMPTY, host_id, Disk { offset, ..Disk::default() });
            place(&asked, SectorSize::B512)
        };
        assert_eq!((at(1, 0), at(3, 4096), at(2000, 0)), (Some(0), Some(5120), Some(1_023_488)));
        assert_eq!((at(0, 0), at(u64::MAX, 0), at(i64::MAX.cast_unsigned(), 0)), (None, None, None));
        assert_eq!(at(2, u64::MAX), None);
    }
}
