//! Every change of a single byte of a sector, sorted by what becomes of it:
//!
//! - *detected*: the decoder refuses the sector;
//! - *don't care*: the sector decodes to the same meaning;
//! - *seal lost*: the same meaning, but the sector counts as one that sanlock wrote;
//! - *load-bearing, unprotected*: the sector decodes to another meaning, and nobody notices.
//!
//! Each of the 255 other values is tried at each offset of golden sectors and of the same sectors sealed by us; a byte
//! is of the worst class that any of its values is. docs/on-disk-format.md shows the table; run with HOLDFAST_BLESS=1 to
//! write it there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod images;

use std::fmt::Write as _;
use std::path::PathBuf;

use delta_lease::sector::{Belongs, DeltaSector};
use holdfast_io::bytes::{array_at, put};
use holdfast_io::identity::{BootHash, MachineHash};
use holdfast_io::ids::HostId;
use holdfast_io::leader::{self, Decoded, Expected, LeaderKind, LeaderRecord};
use holdfast_io::seal::{self, AreaUuid, Seal, SealedFire, SealedKind};
use holdfast_io::timing::FireTimeout;
use holdfast_io::units::SectorIndex;
use paxos_lease::dblock::HostSector;
use paxos_lease::layout::LEADER;
use paxos_lease::request::RequestRecord;

/// What became of a changed byte, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Detected,
    DontCare,
    SealLost,
    Unprotected,
}

impl Class {
    const fn name(self) -> &'static str {
        match self {
            Class::Detected => "detected",
            Class::DontCare => "don't care",
            Class::SealLost => "seal lost",
            Class::Unprotected => "**load-bearing, unprotected**",
        }
    }
}

/// The part of a sector's content that decides anything, as text to be compared; `None` where the decoder refuses it.
type Meaning = fn(&[u8]) -> Option<(String, bool)>;

struct Subject {
    title: &'static str,
    image: &'static str,
    sector: u32,
    sealed_as: SealedKind,
    meaning: Meaning,
}

const SUBJECTS: [Subject; 4] = [
    Subject {
        title: "Delta sector, held, with a host event",
        image: "lockspace-event",
        sector: 0,
        sealed_as: SealedKind::Plain,
        meaning: delta,
    },
    Subject {
        title: "Leader of a resource, held",
        image: "resource-held",
        sector: 0,
        sealed_as: SealedKind::Plain,
        meaning: paxos_leader,
    },
    Subject {
        title: "Request record, asked by force",
        image: "resource-request-force",
        sector: 1,
        sealed_as: SealedKind::Plain,
        meaning: request,
    },
    Subject {
        title: "Dblock and mode block of a shared holder",
        image: "resource-shared-two",
        sector: 2,
        sealed_as: SealedKind::Dblock,
        meaning: dblock,
    },
];

/// What else a reader knows of the sector: its lockspace, area and place, as every reader does.
fn delta(bytes: &[u8]) -> Option<(String, bool)> {
    let image = images_space("lockspace-event");
    let belongs = Belongs { space: Some(image), ..Belongs::default() };
    let s = DeltaSector::decode_lease(bytes, HostId::new(1).unwrap(), &belongs).ok()?;
    let l = LeaderRecord { reserved1: 0, reserved2: 0, version: s.leader.version >> 16, ..s.leader };
    let notified: Vec<u64> =
        (1..=2000).filter_map(HostId::new).filter(|h| s.bitmap.contains(*h)).map(HostId::get).collect();
    Some((format!("{l:?} {notified:?}"), s.seal.is_some()))
}

fn paxos_leader(bytes: &[u8]) -> Option<(String, bool)> {
    let expected = Expected { space: Some(images_space("resource-held")), ..Expected::default() };
    let decoded = LeaderRecord::decode(&array_at::<{ leader::LEN }>(bytes, 0), LeaderKind::Paxos, &expected).ok()?;
    let seal = seal::read(bytes, SealedKind::Plain, LEADER).ok()?;
    let Decoded::Record(record) = decoded else { return Some((format!("{decoded:?}"), seal.is_some())) };
    // io_timeout has no meaning in a resource's leader; generation and time of the writer are for people.
    let record = LeaderRecord {
        reserved1: 0,
        reserved2: 0,
        version: record.version >> 16,
        io_timeout: 0,
        write_generation: 0,
        write_timestamp: 0,
        ..record
    };
    Some((format!("{record:?}"), seal.is_some()))
}

fn request(bytes: &[u8]) -> Option<(String, bool)> {
    let (decoded, seal) = RequestRecord::decode(bytes).ok()?;
    let Decoded::Record(record) = decoded else { return Some((format!("{decoded:?}"), seal.is_some())) };
    Some((format!("{:?} {}", record.lver, record.force_mode), seal.is_some()))
}

fn dblock(bytes: &[u8]) -> Option<(String, bool)> {
    let decoded = HostSector::decode(bytes, SectorIndex(2)).ok()?;
    let Decoded::Record(found) = decoded else { return Some((format!("{decoded:?}"), false)) };
    Some((format!("{:?} {} {:?}", found.dblock, found.mode.is_shared(), found.mode.generation), found.seal.is_some()))
}

fn images_space(name: &str) -> holdfast_io::ids::SpaceName {
    use std::sync::OnceLock;
    static SPACES: OnceLock<holdfast_io::ids::SpaceName> = OnceLock::new();
    // All images of the live host belong to one lockspace.
    *SPACES.get_or_init(|| images::read(name).space())
}

fn seal_for(sector: u32) -> Seal {
    Seal {
        fire: SealedFire::Within(FireTimeout::SANLOCK),
        machine: MachineHash(0x1122_3344_5566_7788),
        boot: BootHash(0x99AA_BBCC_DDEE_FF00),
        area: AreaUuid(uuid_of_a_kind()),
        millis: 345,
        sector: SectorIndex(sector),
    }
}

fn uuid_of_a_kind() -> uuid::Uuid {
    uuid::Uuid::from_bytes(*b"an area's UUID..")
}

/// Every other value of a byte.
fn all_changes() -> Vec<u8> {
    (1..=255).collect()
}

fn classes(original: &[u8], meaning: Meaning, changes: &[u8]) -> Vec<Class> {
    let (before, sealed) = meaning(original).expect("the golden sector itself decodes");
    let mut bytes = original.to_vec();
    (0..bytes.len())
        .map(|at| {
            let was = bytes[at];
            let class = changes.iter().map(|change| {
                bytes[at] = was ^ change;
                match meaning(&bytes) {
                    None => Class::Detected,
                    Some((after, _)) if after != before => Class::Unprotected,
                    Some((_, false)) if sealed => Class::SealLost,
                    Some(_) => Class::DontCare,
                }
            });
            let worst = class.max().unwrap();
            bytes[at] = was;
            worst
        })
        .collect()
}

fn sector_of(subject: &Subject, size: usize, sealed: bool) -> Vec<u8> {
    let mut bytes = images::read(subject.image).sector(subject.sector).to_vec();
    bytes.resize(size, 0);
    if sealed {
        seal::write(&mut bytes, subject.sealed_as, &seal_for(subject.sector));
    }
    bytes
}

/// Neighbouring bytes of one class as one line.
fn ranges(classes: &[Class]) -> Vec<(usize, usize, Class)> {
    let mut ranges: Vec<(usize, usize, Class)> = Vec::new();
    for (at, class) in classes.iter().enumerate() {
        match ranges.last_mut() {
            Some((_, end, last)) if last == class => *end = at + 1,
            _ => ranges.push((at, at + 1, *class)),
        }
    }
    ranges
}

/// The fields that a range of bytes touches.
fn fields(subject: &Subject, from: usize, to: usize) -> String {
    use holdfast::dump::fields::{DBLOCK, DELTA, LEADER, REQUEST, SEAL};
    let own = match subject.title.split(' ').next() {
        Some("Delta") => DELTA,
        Some("Leader") => LEADER,
        Some("Request") => REQUEST,
        _ => DBLOCK,
    };
    let all = own.iter().chain(SEAL).filter(|f| f.at < to && from < f.at + f.len);
    let mut names: Vec<&str> =
        all.map(|f| if f.at >= seal::OFFSET && f.at < seal::END { "seal" } else { f.name }).collect();
    names.dedup();
    match names.as_slice() {
        [] => "-".into(),
        some if some.len() <= 4 => some.join(", "),
        some => format!("{} .. {}", some[0], some[some.len() - 1]),
    }
}

fn table() -> String {
    let mut out = String::new();
    for subject in &SUBJECTS {
        for sealed in [false, true] {
            let by = if sealed { "sealed by Holdfast" } else { "written by sanlock" };
            writeln!(out, "\n**{}**, {by}\n", subject.title).unwrap();
            writeln!(out, "| bytes | fields touched | a change is |\n| --- | --- | --- |").unwrap();
            let classes = classes(&sector_of(subject, 512, sealed), subject.meaning, &all_changes());
            for (from, to, class) in ranges(&classes) {
                writeln!(out, "| {from}..{to} | {} | {} |", fields(subject, from, to), class.name()).unwrap();
            }
        }
    }
    out
}

fn doc() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/on-disk-format.md")
}

const BEGIN: &str = "<!-- made by tests/tests/byte_flips.rs: begin -->";
const END: &str = "<!-- made by tests/tests/byte_flips.rs: end -->";

#[test]
fn the_table_in_the_format_document_is_what_the_decoders_do() {
    let text = std::fs::read_to_string(doc()).unwrap();
    let (head, rest) = text.split_once(BEGIN).expect("the begin marker");
    let (found, tail) = rest.split_once(END).expect("the end marker");
    let expected = format!("\n{}\n", table());
    if std::env::var_os("HOLDFAST_BLESS").is_some() {
        std::fs::write(doc(), format!("{head}{BEGIN}{expected}{END}{tail}")).unwrap();
        return;
    }
    assert_eq!(found, expected, "docs/on-disk-format.md is out of date: HOLDFAST_BLESS=1 writes the table anew");
}

#[test]
fn a_sealed_sector_has_no_load_bearing_byte_that_is_unprotected() {
    for subject in &SUBJECTS {
        // In large sectors single bits: they are eight times as long, and a CRC sees all changes of one byte or none.
        for (size, changes) in [(512, all_changes()), (4096, (0..8).map(|bit| 1 << bit).collect())] {
            let classes = classes(&sector_of(subject, size, true), subject.meaning, &changes);
            for (from, to, class) in ranges(&classes) {
                let in_seal = from >= seal::OFFSET && to <= seal::END;
                match subject.sealed_as {
                    SealedKind::Plain => assert_eq!(class, Class::Detected, "{}: {from}..{to}", subject.title),
                    // Where the seal itself is broken the sector counts as sanlock's, with the meaning it had.
                    SealedKind::Dblock => assert!(
                        class == Class::Detected || class == Class::SealLost && in_seal,
                        "{}: {from}..{to} is {class:?}",
                        subject.title
                    ),
                }
            }
        }
    }
}

#[test]
fn what_sanlock_leaves_unprotected_is_known() {
    let unprotected = |n: usize| {
        let subject = &SUBJECTS[n];
        let classes = classes(&sector_of(subject, 512, false), subject.meaning, &all_changes());
        let bytes = classes.iter().enumerate().filter(|(_, c)| **c == Class::Unprotected).map(|(at, _)| at);
        bytes.collect::<Vec<_>>()
    };
    let span = |ranges: &[std::ops::Range<usize>]| ranges.iter().cloned().flatten().collect::<Vec<_>>();
    // io_timeout's low byte, the event, and the bitmap of 2000 hosts.
    assert_eq!(unprotected(0), span(&[174..175, 176..200, 256..506]));
    // write_id.
    assert_eq!(unprotected(1), (176..184).collect::<Vec<_>>());
    // lver and force_mode.
    assert_eq!(unprotected(2), (8..17).collect::<Vec<_>>());
    // RELEASED, the sharer's generation. SHARED and no generation, or the other way round, is noticed.
    assert_eq!(unprotected(3), span(&[52..53, 136..144]));
}

#[test]
fn a_seal_survives_only_beside_the_dblock_it_was_made_for() {
    let mut sector = sector_of(&SUBJECTS[3], 512, true);
    assert!(dblock(&sector).unwrap().1);
    // sanlock wrote another ballot and left our bytes behind it.
    let other = images::read("resource-shared-two").sector(3)[..56].to_vec();
    put(&mut sector, 0, &other);
    assert_eq!(seal::read(&sector, SealedKind::Dblock, SectorIndex(2)), Ok(None));
}
