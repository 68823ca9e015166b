//! Mutated golden sectors, and noise, through every decoder of `holdfast_tests::decoders`: a few seconds of what the
//! fuzz targets do for longer.
//!
//! The seed is fixed, so a run is the same everywhere. HOLDFAST_SEED sets another, HOLDFAST_DECODER_RUNS how many
//! mutated inputs a decoder gets. A failure prints decoder, seed, number and the input in hex;
//! HOLDFAST_DECODER_INPUT=NAME:HEX runs that input alone. HOLDFAST_CORPUS=DIR writes the inputs that mutation starts
//! from to DIR/NAME/, for `cargo fuzz run`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod images;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use holdfast_io::bytes::is_zero;
use holdfast_io::identity::{BootHash, MachineHash};
use holdfast_io::seal::{self, AreaUuid, Seal, SealedFire, SealedKind};
use holdfast_io::timing::FireTimeout;
use holdfast_io::units::{Geometry, SectorIndex, SectorSize};
use holdfast_protocol::text::{DiskPath, KillText};
use holdfast_protocol::{
    AcquireFlags, Command, Disk, Header, Host, KillPath, KillPathFlags, Lockspace, Name48, Options, ReleaseFlags,
    Reply, Request, Resource, ResourceHead, ResultCode, StateRecord, StateText, Target as Client,
};
use holdfast_sim::dice::{Dice, Stream};
use holdfast_tests::decoders::{ALL, MEND_DBLOCK, MEND_DBLOCK_SEAL, MEND_LEADER, MEND_SEAL, Target};
use images::Image;

const SEED: u64 = 0x4846_534C;
/// Mutated inputs for a decoder of single records; those of whole areas and those that need files get fewer.
const RUNS: u64 = 20_000;

/// How much dearer one input of a decoder is than one of a single record.
fn cost(name: &str) -> u64 {
    match name {
        "host_table" | "dump" | "index_rebuild" => 200,
        "delta_area" | "paxos_acquire" => 60,
        "watchdog_answers" | "wdmd_answers" | "state_file" | "config" => 40,
        "requests" => 10,
        _ => 1,
    }
}

/// Inputs from which mutation starts, for each decoder.
type Seeds = BTreeMap<&'static str, Vec<Vec<u8>>>;

fn number_from(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, b| {
        write!(out, "{b:02x}").unwrap();
        out
    })
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}

// --- what mutation starts from ---

/// Without the zeros at its end, which the decoders' inputs add again.
fn trimmed(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1)]
}

fn input(front: &[u8], bytes: &[u8]) -> Vec<u8> {
    [front, trimmed(bytes)].concat()
}

/// A golden sector as a Holdfast host would have written it.
fn sealed(sector: &[u8], kind: SealedKind, at: u32) -> Vec<u8> {
    let mut sector = sector.to_vec();
    let seal = Seal {
        fire: SealedFire::Within(FireTimeout::SANLOCK),
        machine: MachineHash(0x1122),
        boot: BootHash(0x3344),
        area: AreaUuid::NONE,
        millis: 345,
        sector: SectorIndex(at),
    };
    seal::write(&mut sector, kind, &seal);
    sector
}

/// Sectors of the image with anything in them that host 4's and later ones do not repeat.
fn used(image: &Image) -> Vec<u32> {
    let mut used: Vec<u32> = (0..image.geometry.sectors()).filter(|i| !is_zero(image.sector(*i))).collect();
    if image.kind == "delta" {
        used.retain(|i| *i < 5);
    }
    used
}

fn of_image(image: &Image, seeds: &mut Seeds) {
    let large = image.geometry.sector() == SectorSize::B4096;
    let mut add = |name: &'static str, front: &[u8], bytes: &[u8]| {
        seeds.entry(name).or_default().push(input(front, bytes));
    };
    for index in used(image) {
        let place = u16::try_from(index).unwrap().to_le_bytes();
        let raw = image.sector(index);
        let plain = sealed(raw, SealedKind::Plain, index);
        match (image.kind.as_str(), index) {
            ("delta", _) => {
                add("leader", &[2, 0], raw);
                for (bytes, mend) in [(raw, 0), (&plain, 0), (&plain, MEND_LEADER | MEND_SEAL)] {
                    add("delta_sector", &[1 | (4 * u8::from(large)), mend, place[0], place[1]], bytes);
                    add("sector_seal", &[2 * u8::from(large), mend, place[0], place[1]], bytes);
                }
            }
            ("rindex", 0) => {
                add("index_header", &[1, 0], raw);
                add("index_header", &[1, MEND_SEAL], &plain);
            }
            ("paxos", 0) => add("leader", &[1 | 2 | 4, 0], raw),
            ("paxos", 1) => {
                add("request_record", &[u8::from(large), 0], raw);
                add("request_record", &[u8::from(large), MEND_SEAL], &plain);
            }
            ("paxos", _) => {
                let host = u16::try_from(index - 2).unwrap().to_le_bytes();
                let both = sealed(raw, SealedKind::Dblock, index);
                for (bytes, mend) in [(raw, MEND_DBLOCK), (&both, 0), (&both, MEND_DBLOCK | MEND_DBLOCK_SEAL)] {
                    add("dblock", &[u8::from(large), mend, host[0], host[1]], bytes);
                }
            }
            _ => {}
        }
    }
}

/// The image as patches over an empty area, or over a formatted one.
fn patches(image: &Image, sealed_as: Option<SealedKind>) -> Vec<u8> {
    let mut out = Vec::new();
    for index in used(image) {
        let mut bytes = image.sector(index).to_vec();
        let kind = sealed_as.map(|k| if index < 2 || image.kind == "delta" { SealedKind::Plain } else { k });
        if let Some(kind) = kind {
            bytes = sealed(&bytes, kind, index);
        }
        let mend = match (kind, image.kind.as_str(), index) {
            (None, ..) => 0,
            (_, "paxos", 0) | (_, "delta", _) => MEND_LEADER | MEND_SEAL,
            (_, "paxos", 1) => MEND_SEAL,
            _ => MEND_DBLOCK | MEND_DBLOCK_SEAL,
        };
        patch_into(&mut out, index, &bytes, mend);
    }
    out
}

fn patch_into(out: &mut Vec<u8>, index: u32, bytes: &[u8], mend: u8) {
    let bytes = trimmed(bytes);
    out.extend(u16::try_from(index).unwrap().to_le_bytes());
    out.extend(0u16.to_le_bytes());
    out.extend(u16::try_from(bytes.len()).unwrap().to_le_bytes());
    out.push(mend);
    out.extend(bytes);
}

/// Area seeds are of the two smallest geometries alone: the shape changes by the control bytes, and speed matters.
fn of_areas(image: &Image, seeds: &mut Seeds) {
    let Some(shape) = Geometry::ALL.iter().position(|g| *g == image.geometry).filter(|n| *n < 2) else { return };
    let shape = u8::try_from(shape).unwrap();
    let mut add = |name: &'static str, front: &[u8], patches: &[u8]| {
        seeds.entry(name).or_default().push([front, patches].concat());
    };
    for kind in [None, Some(SealedKind::Dblock)] {
        let found = patches(image, kind);
        if image.kind == "delta" {
            let first = u8::try_from(used(image).len()).unwrap();
            add("host_table", &[shape, 2, first], &found);
            add("host_table", &[shape, 2, 0], &found);
            add("delta_area", &[shape, 2, 1], &found);
        } else if image.kind == "paxos" {
            for standing in 0..6 {
                add("paxos_acquire", &[shape, 0, standing, 1, standing % 4, 9], &found);
            }
        }
        add("dump", &[shape, 0, shape, 2, 48], &found);
        add("dump", &[shape, 0, shape, 3, u8::from(image.geometry.sector() == SectorSize::B4096)], &found);
    }
}

fn of_formatted(seeds: &mut Seeds) {
    for base in 0..4 {
        for (name, front) in [
            ("host_table", vec![0, base, 0]),
            ("delta_area", vec![0, base, 1]),
            ("paxos_acquire", vec![0, base, 1, 0, 0, 1]),
            ("dump", vec![0, base, 1, 3, 48]),
            ("index_rebuild", vec![0, base]),
        ] {
            seeds.entry(name).or_default().push(front);
        }
    }
    for shape in 0..5 {
        let geometry = Geometry::ALL[usize::from(shape)];
        let tail = sealed(&vec![0; geometry.sector().bytes()], SealedKind::Plain, geometry.max_hosts());
        seeds.entry("area_tail").or_default().extend([input(&[shape, 0], &tail), input(&[shape, MEND_SEAL], &tail)]);
    }
}

fn resource(disks: usize) -> Resource {
    let name = |text: &str| Name48::new(text).unwrap();
    let disk = Disk::new(DiskPath::new("/dev/vg/leases").unwrap(), 1 << 20);
    Resource::new(ResourceHead::named(name("LS1"), name("vm")), vec![disk; disks])
}

fn lockspace() -> Lockspace {
    let disk = Disk::new(DiskPath::new("/dev/vg/leases").unwrap(), 0);
    Lockspace::new(Name48::new("LS1").unwrap(), 1, disk)
}

fn of_requests(seeds: &mut Seeds) {
    let killpath = KillPath { path: KillText::new("/bin/true").unwrap(), args: KillText::new("a b").unwrap() };
    let heads = vec![resource(0).head; 3];
    let (flags, target, options) = (AcquireFlags::from_bits(0), Client::Pid(7), Options::default());
    let requests = [
        Request::Register,
        Request::Acquire { flags, target, resources: vec![resource(1), resource(4)], options },
        Request::Release { flags: ReleaseFlags::from_bits(0), target: Client::This, resources: heads },
        Request::KillPath { flags: KillPathFlags::from_bits(0), killpath },
        Request::Explain { resource: resource(1) },
        Request::GetHosts { lockspace: lockspace() },
        Request::Status { stop_after: 2 },
        Request::Inquire { target: Client::This },
        Request::ReadResource { resource: resource(2) },
    ];
    let mut all = vec![0, 0, 0, 0];
    for request in &requests {
        seeds.entry("requests").or_default().push([vec![1, 2, 3, 4], request.encode()].concat());
        all.extend(request.encode());
    }
    seeds.entry("requests").or_default().push(all);
}

fn of_replies(seeds: &mut Seeds) {
    let replies = [
        (Command::Acquire, Reply::Result(ResultCode::OK)),
        (Command::Inquire, Reply::Inquire { result: ResultCode::OK, count: 1, state: b"LS1:vm:/d:0:3".to_vec() }),
        (Command::GetLockspaces, Reply::Lockspaces { result: ResultCode::OK, lockspaces: vec![lockspace(); 2] }),
        (Command::GetHosts, Reply::Hosts { result: ResultCode::OK, hosts: vec![Host::default(); 3] }),
        (Command::ReadResource, Reply::Resource { result: ResultCode::OK, resource: resource(0).head }),
        (Command::Explain, Reply::Json { result: ResultCode::OK, body: b"{}".to_vec() }),
        (Command::Version, Reply::Version { version: 0x0308_0500 }),
    ];
    for (command, reply) in replies {
        let which = u8::try_from(Command::ALL.iter().position(|c| *c == command).unwrap()).unwrap();
        let bytes = reply.encode(&Header::request(command));
        for control in [0, 3] {
            seeds.entry("replies").or_default().push([vec![which, control], bytes.clone()].concat());
        }
    }
}

fn of_streams(seeds: &mut Seeds) {
    let text = || StateText::from_pairs([("list", "add"), ("owner_name", "a host")]);
    let name = Name48::new("host").unwrap();
    let mut stream = Vec::new();
    for record in [
        StateRecord::daemon(name, text()),
        StateRecord::client(-1, name, text()),
        StateRecord::lockspace(lockspace(), text()),
        StateRecord::resource(7, 3, resource(2), text()),
        StateRecord::host(2, 99, text()),
    ] {
        record.encode(&mut stream);
        seeds.entry("state_stream").or_default().push(stream.clone());
    }
    for answers in [&[0, 0, 0, 0, 60, 0, 0, 0, 0, 0, 0, 0, 30, 0, 0, 0][..], &[16, 0, 0, 0, 0, 0, 0, 0]] {
        let more = answers.repeat(4);
        seeds.entry("watchdog_answers").or_default().push([&[58, 0, 0, 2, 1][..], answers, &more].concat());
    }
    let status = [&[0, 0, 0, 0, 5, 0, 0, 0][..], &[0; 8], &[10, 0, 0, 0, 60, 0, 0, 0], &[0; 152]].concat();
    let dump = "wdmd 5 now 9\nclient 2 name dump pid 0 fd 9 dead 0 ref 0 now 9 renewal 0 expire 0\n\n";
    let length = u8::try_from(dump.len() + status.len() - 176).unwrap();
    seeds
        .entry("wdmd_answers")
        .or_default()
        .push([&[0, 0, 2, 1, length][..], dump.as_bytes(), &status.repeat(4)].concat());
}

const STRINGS: &[&str] = &[
    "LS1:vm:/dev/vg/leases:1048576",
    "LS1:vm:/dev/a b\\:c:1M:/d:2048s:SH",
    "LS1:vm:/a:0:0x10",
    "LS1:1:/dev/vg/leases:0",
    "a:b:/p:0:5 c:d:/q:1:SH",
    "/dev/sdb:8M:1M",
    "12k",
    // An escape sequence once went from here to the terminal, in the complaint about the host id.
    "LS1:\u{1b}[2J:/d:0",
];

const STATE: &str = r#"{"version":1,"boot_id":"b","watchdog_armed":true,"lockspaces":[{"name":"LS","host_id":2,
"generation":3,"path":"/dev/x","offset":0,"fences":[{"path":"/dev/x","dev":1,"ino":2,"start":512,"len":512,
"locked":true}]}],"guarded":[{"pid":7,"start_time":99,"connection_inode":5,"group":true}]}"#;

const CONFIG: &str = "host_name = 'a'\nwatchdog = \"none\"\nwatchdog_fire_timeout = 30\nio_timeout = 10\n\
kill_grace_seconds = 40\nio_engine = \"threads\"\nlockspaces = [\"LS:1:/d:0\"]\n";

fn of_text(seeds: &mut Seeds) {
    for text in STRINGS {
        seeds.entry("lease_strings").or_default().push(text.as_bytes().to_vec());
        seeds.entry("arguments").or_default().push(text.as_bytes().to_vec());
    }
    seeds.entry("state_file").or_default().push(STATE.as_bytes().to_vec());
    seeds.entry("config").or_default().push(CONFIG.as_bytes().to_vec());
}

fn seeds() -> Seeds {
    let mut seeds = Seeds::new();
    for image in images::all() {
        of_image(&image, &mut seeds);
        of_areas(&image, &mut seeds);
    }
    of_formatted(&mut seeds);
    of_requests(&mut seeds);
    of_replies(&mut seeds);
    of_streams(&mut seeds);
    of_text(&mut seeds);
    seeds
}

// --- mutation ---

/// A few changes to an input; now and then noise instead.
fn mutated(seeds: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = if dice.chance(30) { Vec::new() } else { seeds[dice.index(seeds.len())].clone() };
    if bytes.is_empty() {
        let len = dice.index(700);
        bytes.extend((0..len).map(|_| byte(dice)));
    }
    for _ in 0..dice.below(5) {
        change(&mut bytes, dice);
    }
    bytes
}

fn byte(dice: &mut Dice) -> u8 {
    u8::try_from(dice.below(256)).unwrap()
}

fn change(bytes: &mut Vec<u8>, dice: &mut Dice) {
    let at = dice.index(bytes.len());
    match dice.below(7) {
        _ if bytes.is_empty() => bytes.push(byte(dice)),
        0 => bytes[at] ^= 1 << dice.below(8),
        1 => bytes[at] = byte(dice),
        // The ends of every range a number can have, at a place where a number may stand.
        2 => {
            let value = [0, 1, u64::MAX, u64::MAX - 1, 1 << 31, 1 << 63, 2000, 2001][dice.index(8)];
            let width = [1, 2, 4, 8][dice.index(4)];
            let from = at / width * width;
            let to = (from + width).min(bytes.len());
            bytes[from..to].copy_from_slice(&value.to_le_bytes()[..to - from]);
        }
        3 => bytes.truncate(at),
        4 => bytes.insert(at, byte(dice)),
        5 => {
            let tail = bytes.split_off(at);
            bytes.extend_from_within(at.saturating_sub(dice.index(40))..);
            bytes.extend(tail);
        }
        _ => {
            let to = (at + dice.index(9)).min(bytes.len());
            bytes[at..to].iter_mut().for_each(|b| *b = byte(dice));
        }
    }
}

/// Runs one input; what it panicked with, if it did.
fn panics(target: &Target, input: &[u8]) -> Option<String> {
    let panic = catch_unwind(AssertUnwindSafe(|| (target.run)(input))).err()?;
    let text = panic.downcast_ref::<String>().cloned();
    Some(text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default())
}

fn replay(name_and_hex: &str) {
    let (name, input) = name_and_hex.split_once(':').expect("HOLDFAST_DECODER_INPUT=NAME:HEX");
    let target = ALL.iter().find(|t| t.name == name).expect("the name of a decoder");
    (target.run)(&unhex(input));
}

fn write_corpus(seeds: &Seeds, dir: &Path) {
    for (name, inputs) in seeds {
        let dir = dir.join(name);
        fs::create_dir_all(&dir).unwrap();
        for (number, input) in inputs.iter().enumerate() {
            fs::write(dir.join(format!("golden-{number}")), input).unwrap();
        }
    }
}

#[test]
fn every_decoder_has_inputs_to_start_from() {
    let seeds = seeds();
    let names: Vec<_> = ALL.iter().map(|t| t.name).collect();
    assert!(names.iter().all(|name| seeds.get(name).is_some_and(|inputs| !inputs.is_empty())));
    assert!(seeds.keys().all(|name| names.contains(name)));
    if let Some(dir) = std::env::var_os("HOLDFAST_CORPUS") {
        write_corpus(&seeds, Path::new(&dir));
    }
}

#[test]
fn no_mutation_of_a_golden_sector_breaks_a_decoder() {
    if let Ok(one) = std::env::var("HOLDFAST_DECODER_INPUT") {
        return replay(&one);
    }
    let (seed, runs) = (number_from("HOLDFAST_SEED", SEED), number_from("HOLDFAST_DECODER_RUNS", RUNS));
    let seeds = seeds();
    for (stream, target) in (0u8..).zip(&ALL) {
        let mut dice = Dice::new(seed, Stream::Host(stream));
        let starts = &seeds[target.name];
        let unchanged = starts.iter().cloned();
        let changed = std::iter::from_fn(|| Some(mutated(starts, &mut dice)));
        // Beside the unchanged ones: of these there are more than that for the dearest decoders.
        let count = usize::try_from(runs / cost(target.name)).unwrap();
        for (number, input) in unchanged.chain(changed.take(count.max(1))).enumerate() {
            if let Some(message) = panics(target, &input) {
                let (name, hex) = (target.name, hex(&input));
                panic!("{name}, seed {seed}, input {number}: {message}\nHOLDFAST_DECODER_INPUT={name}:{hex}");
            }
        }
    }
}
