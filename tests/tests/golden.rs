//! Areas that the real sanlock programs wrote decode and encode again byte for byte, and what we format is what they
//! format.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod images;

use std::collections::BTreeSet;

use delta_lease::layout::tail_index;
use delta_lease::sector::{Belongs, DeltaSector, index_of};
use holdfast::dump;
use holdfast_io::bytes::{array_at, is_zero};
use holdfast_io::identity::{BootHash, Machine, MachineHash};
use holdfast_io::ids::{HostId, ResourceName, SpaceName};
use holdfast_io::leader::{self, Decoded, Expected, LeaderKind, LeaderRecord};
use holdfast_io::seal::{self, AreaUuid, Seal, SealedFire, SealedKind};
use holdfast_io::timing::IoTimeout;
use holdfast_io::units::{Geometry, LeaseOffset, SectorIndex, SectorSize};
use images::Image;
use paxos_lease::dblock::{self, HostSector};
use paxos_lease::format::Writer;
use paxos_lease::index::codec::{ENTRY_LEN, Entry, HEADER_LEN, Header};
use paxos_lease::index::{IndexAt, Slots};
use paxos_lease::layout::{LEADER, REQUEST, dblock_of, uuid_sector};
use paxos_lease::request::{self, RequestRecord};

/// What there is an image of in every geometry.
const STATES: [&str; 22] = [
    "lockspace-formatted",
    "lockspace-live",
    "lockspace-two-hosts",
    "lockspace-event",
    "lockspace-released",
    "resource-formatted",
    "resource-formatted-5-hosts",
    "resource-held",
    "resource-held-5-hosts",
    "resource-released",
    "resource-shared-one",
    "resource-shared-two",
    "resource-request-force",
    "resource-request-graceful",
    "resource-cleared",
    "index-formatted",
    "index-lease-formatted",
    "index-two-entries",
    "index-lease",
    "index-resource",
    "index-one-deleted",
    "index-resource-cleared",
];

/// The name of an image: those with 512-byte sectors say no size, but for what is formatted.
fn named(state: &str, geometry: Geometry) -> String {
    let size = format!("{}-{}m", geometry.sector().bytes(), geometry.align().bytes() >> 20);
    let silent = size == "512-1m" && !["lockspace-formatted", "resource-formatted"].contains(&state);
    if silent { state.to_owned() } else { format!("{state}-{size}") }
}

#[test]
fn every_state_has_an_image_in_every_geometry() {
    for geometry in Geometry::ALL {
        for state in STATES {
            let image = images::read(&named(state, geometry));
            assert_eq!(image.geometry, geometry, "{}", image.name);
        }
    }
}

#[test]
fn fewer_hosts_than_an_area_has_room_for_are_what_the_leader_says() {
    for geometry in Geometry::ALL {
        for state in ["resource-formatted-5-hosts", "resource-held-5-hosts"] {
            let image = images::read(&named(state, geometry));
            let record = LeaderRecord::parse(&array_at(image.sector(0), 0));
            let counts = (record.num_hosts, record.max_hosts);
            assert_eq!(counts, (5, u64::from(geometry.max_hosts())), "{}", image.name);
        }
    }
}

/// The first host and the last that has room: both ends of an area.
#[test]
fn in_large_sectors_the_last_host_shares_with_the_first_and_is_sent_an_event() {
    for geometry in Geometry::ALL.into_iter().filter(|g| g.sector() == SectorSize::B4096) {
        let ends = [1, geometry.max_hosts()].map(|id| HostId::new(id.into()).unwrap());
        let image = images::read(&named("resource-shared-two", geometry));
        let sharers = hosts(geometry).filter(|host| {
            let index = dblock_of(*host);
            let found = HostSector::decode(image.sector(index.0), index).unwrap();
            matches!(found, Decoded::Record(found) if found.mode.is_shared())
        });
        assert_eq!(sharers.collect::<Vec<_>>(), ends, "{}", image.name);

        let image = images::read(&named("lockspace-event", geometry));
        let [first, last] = ends;
        let sector = DeltaSector::decode_lease(image.sector(0), first, &Belongs::default()).unwrap();
        let told: Vec<_> = hosts(geometry).filter(|host| sector.bitmap.contains(*host)).collect();
        assert_eq!(told, [last], "{}", image.name);
    }
}

/// They stand for the sizes that there were then, and stay as they are when a daemon of today uses them.
#[test]
fn records_without_an_align_flag_are_of_the_sizes_that_there_were_then() {
    let mut count = 0;
    for image in images::all().into_iter().filter(|i| i.name.contains("-legacy")) {
        assert_eq!(image.geometry, Geometry::default_for(image.geometry.sector()), "{}", image.name);
        let leaders = if image.kind == "delta" { image.geometry.max_hosts() } else { 1 };
        for index in 0..leaders {
            let record = LeaderRecord::parse(&array_at(image.sector(index), 0));
            assert_eq!((record.flags, record.version & 0xFFFF), (0, 3), "{}, sector {index}", image.name);
            assert_eq!(record.geometry(), Some(image.geometry), "{}, sector {index}", image.name);
        }
        count += 1;
    }
    assert_eq!(count, 16, "images of records without an align flag");
}

/// The area of a lease begins where its lockspace's ends or another's, whatever the sizes of either.
#[test]
fn a_device_with_leases_of_other_sizes_than_their_lockspaces_is_read_by_the_sizes_of_each() {
    let lockspace = images::read("lockspace-event-4096-8m");
    let mut areas = vec![lockspace];
    areas.extend(images::all().into_iter().filter(|i| i.name.ends_with("-in-4096-8m")));
    let shapes: BTreeSet<_> = areas.iter().map(|i| i.geometry).collect();
    assert_eq!(shapes.len(), 5, "leases of every other size");

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    std::fs::write(&path, areas.iter().flat_map(|i| i.raw.clone()).collect::<Vec<_>>()).unwrap();
    let report = dump::dump(&path.display().to_string().parse().unwrap()).unwrap();
    assert_eq!(dump::status(&report), 0, "{:?}", report.all_damage().collect::<Vec<_>>());
    let found: Vec<_> = report.areas.iter().map(|a| a.geometry).collect();
    assert_eq!(found, areas.iter().map(|i| i.geometry).collect::<Vec<_>>());
}

fn hosts(geometry: Geometry) -> impl Iterator<Item = HostId> {
    (0..geometry.max_hosts()).filter_map(HostId::from_slot)
}

#[test]
fn every_delta_sector_decodes_and_encodes_byte_for_byte() {
    for image in images::of_kind("delta") {
        let belongs =
            Belongs { space: Some(image.space()), geometry: Some(image.geometry), uuid: Some(AreaUuid::NONE) };
        for host in hosts(image.geometry) {
            let bytes = image.sector(host.slot());
            let sector = DeltaSector::decode_lease(bytes, host, &belongs);
            let sector = sector.unwrap_or_else(|e| panic!("{}, host {host}: {e}", image.name));
            assert_eq!(sector.seal, None, "{}", image.name);
            assert_eq!(*sector.encode(image.geometry.sector()), *bytes, "{}, host {host}", image.name);
        }
        for index in image.geometry.max_hosts()..image.geometry.sectors() {
            assert!(is_zero(image.sector(index)), "{}: tail sector {index}", image.name);
        }
    }
}

#[test]
fn every_leader_and_request_record_decodes_and_encodes_byte_for_byte() {
    for image in images::of_kind("paxos") {
        let bytes = image.sector(LEADER.0);
        let expected = Expected { space: Some(image.space()), ..Expected::default() };
        let decoded = LeaderRecord::decode(&array_at::<{ leader::LEN }>(bytes, 0), LeaderKind::Paxos, &expected);
        let record = match decoded.unwrap_or_else(|e| panic!("{}: {e}", image.name)) {
            Decoded::Record(record) if !image.is_cleared() => record,
            Decoded::Cleared(record) if image.is_cleared() => record,
            other => panic!("{}: {other:?}", image.name),
        };
        assert_eq!(record.encode(), bytes[..leader::LEN], "{}", image.name);
        assert!(is_zero(&bytes[leader::LEN..]), "{}", image.name);
        assert_eq!(record.geometry(), Some(image.geometry));

        let bytes = image.sector(REQUEST.0);
        let (Decoded::Record(record), None) = RequestRecord::decode(bytes).unwrap() else { panic!("{}", image.name) };
        assert_eq!(record.encode(), bytes[..request::LEN], "{}", image.name);
        assert!(is_zero(&bytes[request::LEN..]), "{}", image.name);
    }
}

#[test]
fn every_dblock_and_mode_block_decodes_and_encodes_byte_for_byte() {
    let mut used = 0;
    for image in images::of_kind("paxos") {
        for host in hosts(image.geometry) {
            let index = dblock_of(host);
            let bytes = image.sector(index.0);
            let found = match HostSector::decode(bytes, index) {
                Ok(Decoded::Record(found)) => found,
                Ok(Decoded::Blank) => {
                    assert!(is_zero(bytes), "{}, host {host}: not blank", image.name);
                    continue;
                }
                other => panic!("{}, host {host}: {other:?}", image.name),
            };
            used += 1;
            let again = found.sector(image.geometry.sector(), &some_seal(index));
            for defined in [0..dblock::LEN, dblock::MODE..dblock::MODE_END] {
                assert_eq!(again[defined.clone()], bytes[defined], "{}, host {host}", image.name);
            }
            // The one image with heap bytes in a sector (PROVENANCE): they are nobody's and not kept.
            if image.name != "resource-convert-refused" {
                assert!(is_zero(&bytes[dblock::LEN..dblock::MODE]) && is_zero(&bytes[dblock::MODE_END..]));
            }
        }
    }
    assert!(used >= 80, "{used} dblocks in all images");
}

#[test]
fn heap_bytes_that_sanlock_left_in_a_dblock_sector_are_no_seal_and_no_damage() {
    let image = images::read("resource-convert-refused");
    let index = dblock_of(HostId::new(1).unwrap());
    let bytes = image.sector(index.0);
    assert!(!is_zero(&bytes[seal::OFFSET..seal::END]) || !is_zero(&bytes[144..200]), "the image has them");
    assert_eq!(seal::read(bytes, SealedKind::Dblock, index), Ok(None));
}

#[test]
fn the_index_images_name_their_resources() {
    for image in images::of_kind("rindex") {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let mut device = vec![0; usize::try_from(image.area_offset).unwrap()];
        device.extend_from_slice(&image.raw);
        std::fs::write(&path, device).unwrap();
        let place = format!("{}:{}:{}", path.display(), image.area_offset, image.raw.len());
        let report = dump::dump(&place.parse().unwrap()).unwrap();
        assert_eq!(dump::status(&report), 0, "{:?}", report.all_damage().collect::<Vec<_>>());
        let dump::report::Content::Index(index) = &report.areas[0].content else { panic!("{}", image.name) };
        let names: Vec<_> = index.entries.iter().map(|e| (e.name.as_str(), e.res_offset)).collect();
        // The first entry's lease is the third area from here.
        let lease = |n: u64| image.area_offset + (2 + n) * image.raw.len() as u64;
        let expected = match image.name.as_str() {
            name if name.starts_with("index-two-entries") => vec![("foo", lease(0)), ("bar", lease(1))],
            name if name.starts_with("index-one-deleted") => vec![("bar", lease(1))],
            _ => Vec::new(),
        };
        assert_eq!(names, expected, "{}", image.name);
        assert_eq!((index.lockspace.as_str(), index.max_resources), ("LSX", 4096));
    }
}

/// Header and entries, by our codec: what is read there is written again byte for byte, but for our seal.
#[test]
fn every_index_header_and_entry_decodes_and_encodes_byte_for_byte() {
    for image in images::of_kind("rindex") {
        let at = IndexAt { at: LeaseOffset(image.area_offset), space: SpaceName::new(b"LSX").unwrap() };
        let mut first = [0; 4096];
        first[..image.sector(0).len()].copy_from_slice(image.sector(0));
        let header = Header::decode(&first, &at).unwrap_or_else(|e| panic!("{}: {e}", image.name));
        assert_eq!((header.geometry, header.max_resources, header.uuid), (image.geometry, 4096, AreaUuid::NONE));
        let made = header.sector(&some_seal(SectorIndex(0)));
        assert_eq!(made[..HEADER_LEN], image.sector(0)[..HEADER_LEN], "{}", image.name);
        assert!(is_zero(&image.sector(0)[HEADER_LEN..]));
        let slots = Slots::of(&header).unwrap();
        for slot in slots.all() {
            let (sector, place) = slots.entry(slot);
            let bytes: [u8; ENTRY_LEN] = array_at(image.sector(sector.0), place);
            let entry = Entry::parse(&bytes);
            assert_eq!(entry.encode(), bytes, "{}", image.name);
            assert!(entry.is_free() || entry == Entry::of(entry.name, slots.area(slot)), "{}", image.name);
        }
    }
}

#[test]
fn an_index_that_we_format_is_what_the_real_program_formats_but_for_the_seals() {
    let mut geometries = BTreeSet::new();
    for index in images::of_kind("rindex").into_iter().filter(|i| i.name.starts_with("index-formatted")) {
        let lease = images::read(&index.name.replace("index-", "index-lease-"));
        geometries.insert(index.geometry);
        assert_index_is_ours_but_for_the_seals(index, lease);
    }
    assert_eq!(geometries.len(), 5, "an image of every geometry");
}

fn assert_index_is_ours_but_for_the_seals(index: Image, lease: Image) {
    let size = index.geometry.sector().bytes();
    let at = IndexAt { at: LeaseOffset(index.area_offset), space: SpaceName::new(b"LSX").unwrap() };
    let header = Header::new(at, index.geometry, 0, AreaUuid::random());
    let writer = Writer { machine: machine(), fire: SealedFire::NoWatchdog };
    let mut made = vec![0xAA; 2 * index.raw.len()];
    for write in paxos_lease::index::format::plan(&header, &writer).unwrap() {
        let from = usize::try_from(write.offset_in_area).unwrap();
        made[from..from + write.bytes.len()].copy_from_slice(&write.bytes);
    }
    // A daemon that has been in use leaves memory there (docs/sanlock-observations.md).
    let padding = index.raw.len() + size + 20;
    let mut real = [index.raw, lease.raw].concat();
    real[padding..padding + 4].fill(0);
    for (number, (made, real)) in made.chunks(size).zip(real.chunks(size)).enumerate() {
        let mut made = made.to_vec();
        made[seal::OFFSET..seal::END].fill(0);
        assert!(made == real, "{}, sector {number}", index.name);
    }
}

fn machine() -> Machine {
    Machine { machine: MachineHash(7), boot: BootHash(8) }
}

fn some_seal(sector: SectorIndex) -> Seal {
    let Machine { machine, boot } = machine();
    Seal { fire: SealedFire::NoWatchdog, machine, boot, area: AreaUuid::NONE, millis: 0, sector }
}

fn applied(geometry: Geometry, writes: impl Iterator<Item = (u64, Vec<u8>)>) -> Vec<u8> {
    let mut area = vec![0xEE; geometry.area_len()];
    for (at, bytes) in writes {
        let at = usize::try_from(at).unwrap();
        area[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    area
}

/// Outside the seals, and in the sectors that carry nothing else, ours must be theirs.
fn assert_same_outside_seals(image: &Image, ours: &[u8], tail: SectorIndex) {
    for index in 0..image.geometry.sectors() {
        let size = image.geometry.sector();
        let (theirs, ours) = (image.sector(index), &ours[SectorIndex(index).at(size)..][..size.bytes()]);
        assert_eq!(ours[..seal::OFFSET], theirs[..seal::OFFSET], "{}: sector {index}", image.name);
        assert_eq!(ours[seal::END..], theirs[seal::END..], "{}: sector {index}", image.name);
        if index == tail.0 {
            assert!(is_zero(&ours[..seal::OFFSET]) && !is_zero(ours), "{}: the UUID's sector", image.name);
        }
    }
}

fn formatted(kind: &str) -> Vec<Image> {
    let mut images = images::of_kind(kind);
    images.retain(|i| i.name.contains("-formatted"));
    images
}

#[test]
fn a_lockspace_that_we_format_is_the_one_that_sanlock_formats() {
    let mut geometries = BTreeSet::new();
    for image in formatted("delta") {
        use delta_lease::format::{FormatSeal, plan};
        geometries.insert(image.geometry);
        let io_timeout = IoTimeout::new(u64::from(image.sector(0)[174])).unwrap();
        let write = |w: delta_lease::format::FormatWrite| (w.offset_in_area, w.bytes.to_vec());
        let plain = plan(image.geometry, image.space(), io_timeout, None);
        assert!(applied(image.geometry, plain.into_iter().map(write)) == image.raw, "{}", image.name);
        let seal = FormatSeal { uuid: AreaUuid::random(), machine: machine(), fire: SealedFire::NoWatchdog };
        let sealed = plan(image.geometry, image.space(), io_timeout, Some(&seal));
        let sealed = applied(image.geometry, sealed.into_iter().map(write));
        assert_same_outside_seals(&image, &sealed, tail_index(image.geometry));
        for host in hosts(image.geometry) {
            let at = index_of(host).at(image.geometry.sector());
            assert!(!is_zero(&sealed[at + seal::OFFSET..at + seal::END]), "every lease is sealed");
        }
    }
    assert_eq!(geometries.len(), 5, "an image of every geometry");
}

#[test]
fn a_resource_that_we_format_is_the_one_that_sanlock_formats() {
    let mut geometries = BTreeSet::new();
    for mut image in formatted("paxos") {
        use paxos_lease::format::{NewLease, Writer, plan};
        geometries.insert(image.geometry);
        let record = LeaderRecord::parse(&array_at(image.sector(0), 0));
        let lease = NewLease {
            geometry: image.geometry,
            space: image.space(),
            resource: ResourceName::from_field(record.resource_name.field()),
            num_hosts: Some(u32::try_from(record.num_hosts).unwrap()),
            uuid: AreaUuid::random(),
            place: None,
        };
        let writes = plan(&lease, &Writer { machine: machine(), fire: SealedFire::NoWatchdog }).unwrap();
        let ours = applied(image.geometry, writes.into_iter().map(|w| (w.offset_in_area, w.bytes.to_vec())));
        // The padding of a request record that a daemon wrote is whatever it had in memory (PROVENANCE).
        let at = REQUEST.at(image.geometry.sector());
        image.raw[at + 20..at + 24].fill(0);
        assert_same_outside_seals(&image, &ours, uuid_sector(image.geometry));
    }
    assert_eq!(geometries.len(), 5, "an image of every geometry");
}
