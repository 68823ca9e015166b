//! `holdfast dump` and the real `sanlock direct dump` and `direct read_leader` say the same of the same bytes, field by
//! field: the golden images, and areas that we formatted.
//!
//! Needs the sanlock package (a black box, run as it is).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod images;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use holdfast::dump::{self, report::Content, report::Leader, report::Report};
use holdfast_io::identity::{BootHash, Machine, MachineHash};
use holdfast_io::ids::{ResourceName, SpaceName};
use holdfast_io::seal::{AreaUuid, SealedFire};
use holdfast_io::timing::IoTimeout;
use holdfast_io::units::Geometry;

fn sanlock(args: &[&str]) -> String {
    let output = ["sanlock", "/usr/sbin/sanlock"].iter().find_map(|p| Command::new(p).args(args).output().ok());
    let output = output.expect("the real sanlock program is needed here: install the package `sanlock`");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn sizes(geometry: Geometry) -> [String; 2] {
    [geometry.sector().to_string(), geometry.align().to_string()]
}

fn dumped(path: &Path) -> Report {
    let report = dump::dump(&path.display().to_string().replace(':', "\\:").parse().unwrap()).unwrap();
    assert_eq!(dump::status(&report), 0, "{:?}", report.all_damage().collect::<Vec<_>>());
    report
}

/// The rows of `direct dump -f 2`, split at white space, without the header and the checksum's name.
fn their_rows(path: &Path, geometry: Geometry, len: usize) -> Vec<Vec<String>> {
    let [sector, align] = sizes(geometry);
    let range = format!("{}:0:{len}", path.display());
    let text = sanlock(&["direct", "dump", &range, "-f", "2", "-Z", &sector, "-A", &align]);
    let rows = text.lines().map(|l| l.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    rows.filter(|r| r.first().is_some_and(|w| w != "offset")).collect()
}

/// What those rows should be, made from our report.
fn our_rows(report: &Report) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let head = |offset: u64, r: &Leader| {
        vec![
            format!("{offset:08}"),
            r.space_name.clone(),
            r.resource_name.clone(),
            format!("{:010}", r.timestamp),
            format!("{:04}", r.owner_id),
            format!("{:04}", r.owner_generation),
        ]
    };
    for area in &report.areas {
        match &area.content {
            Content::Lockspace(space) => {
                for host in &space.hosts {
                    let at = area.offset + u64::from(host.host_id - 1) * area.sector_size as u64;
                    let mut row = head(at, &host.record);
                    row.extend(host.notifies.iter().map(ToString::to_string));
                    rows.push(row);
                }
            }
            // A cleared resource has no row.
            Content::Resource(r) if r.state == dump::report::ResourceState::Cleared => {}
            Content::Resource(r) => {
                let mut row = head(area.offset, &r.record);
                row.push(format!("{}/{}/{}", r.record.lver, r.request.lver, r.request.force_mode));
                rows.push(row);
                for d in &r.dblocks {
                    let text = format!(
                        "dblock[{:04}] mbal {} bal {} inp {} inp2 {} inp3 {} lver {} sum {:x}",
                        d.host_id - 1,
                        d.mbal,
                        d.bal,
                        d.inp,
                        d.inp2,
                        d.inp3,
                        d.lver,
                        d.checksum
                    );
                    // Theirs leaves out a block that proposes nothing.
                    if d.mbal != 0 || d.inp != 0 {
                        rows.push(text.split(' ').map(str::to_owned).collect());
                    }
                    for s in r.shared.iter().filter(|s| s.host_id == d.host_id) {
                        rows.push(vec![format!("{:04}", s.host_id), format!("{:04}", s.generation), "SH".into()]);
                    }
                }
            }
            Content::Index(_) => panic!("no index here"),
        }
    }
    rows
}

fn our_leader(r: &Leader, delta: bool) -> BTreeMap<String, String> {
    let names =
        if delta { ["extra1", "extra2", "extra3"] } else { ["write_id", "write_generation", "write_timestamp"] };
    [
        ("magic", format!("0x{:x}", r.magic)),
        ("version", format!("0x{:x}", r.version)),
        ("flags", format!("0x{:x}", r.flags)),
        ("sector_size", r.sector_size.to_string()),
        ("num_hosts", r.num_hosts.to_string()),
        ("max_hosts", r.max_hosts.to_string()),
        ("owner_id", r.owner_id.to_string()),
        ("owner_generation", r.owner_generation.to_string()),
        ("lver", r.lver.to_string()),
        ("space_name", r.space_name.clone()),
        ("resource_name", r.resource_name.clone()),
        ("timestamp", r.timestamp.to_string()),
        ("checksum", format!("0x{:x}", r.checksum)),
        ("io_timeout", r.io_timeout.to_string()),
        (names[0], r.write_id.to_string()),
        (names[1], r.write_generation.to_string()),
        (names[2], r.write_timestamp.to_string()),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v))
    .collect()
}

/// The lines of `direct read_leader`, and what it ended with.
fn their_leader(args: [&str; 2], geometry: Geometry) -> (String, BTreeMap<String, String>) {
    let [sector, align] = sizes(geometry);
    let text = sanlock(&["direct", "read_leader", args[0], args[1], "-Z", &sector, "-A", &align]);
    let (first, rest) = text.split_once('\n').unwrap();
    let pair =
        |l: &str| l.split_once(' ').map_or((l.to_owned(), String::new()), |(k, v)| (k.to_owned(), v.trim().to_owned()));
    (first.to_owned(), rest.lines().map(pair).collect())
}

fn compare(name: &str, path: &Path, geometry: Geometry, len: usize) {
    let report = dumped(path);
    let (ours, theirs) = (our_rows(&report), their_rows(path, geometry, len));
    assert_eq!(ours, theirs, "{name}");
    for area in &report.areas {
        let place = format!("{}:{}", path.display(), area.offset);
        match &area.content {
            Content::Lockspace(space) => {
                for host in &space.hosts {
                    let arg = format!("{}:{}:{place}", space.lockspace, host.host_id);
                    let (done, theirs) = their_leader(["-s", &arg], geometry);
                    assert_eq!(done, "read_leader done 0", "{name}");
                    assert_eq!(our_leader(&host.record, true), theirs, "{name}, host {}", host.host_id);
                }
            }
            Content::Resource(r) => {
                let arg = format!("{}:{}:{place}", r.lockspace, r.resource);
                let (done, theirs) = their_leader(["-r", &arg], geometry);
                let cleared = r.state == dump::report::ResourceState::Cleared;
                assert_eq!(done, if cleared { "read_leader done -223" } else { "read_leader done 0" }, "{name}");
                assert_eq!(our_leader(&r.record, false), theirs, "{name}");
            }
            Content::Index(_) => {}
        }
    }
}

#[test]
fn both_dumpers_agree_on_every_golden_image() {
    let dir = tempfile::tempdir().unwrap();
    let mut compared = 0;
    for image in images::all().into_iter().filter(|i| i.kind != "rindex") {
        let path = dir.path().join(&image.name);
        std::fs::write(&path, &image.raw).unwrap();
        compare(&image.name, &path, image.geometry, image.raw.len());
        compared += 1;
    }
    assert!(compared >= 130, "{compared} images");
}

#[test]
fn both_dumpers_agree_on_a_device_full_of_areas() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("device");
    let shape = images::read("lockspace-event").geometry;
    let images: Vec<_> = images::all().into_iter().filter(|i| i.kind != "rindex" && i.geometry == shape).collect();
    // Theirs stops at a cleared resource; these have their own images above.
    let device: Vec<u8> = images.iter().filter(|i| !i.is_cleared()).flat_map(|i| i.raw.clone()).collect();
    std::fs::write(&path, &device).unwrap();
    compare("all in one", &path, shape, device.len());
}

#[test]
fn areas_that_we_format_are_read_by_the_real_program() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine { machine: MachineHash(1), boot: BootHash(2) };
    let (space, resource) = (SpaceName::new(b"LS").unwrap(), ResourceName::new(b"RES").unwrap());
    for geometry in Geometry::ALL {
        let len = geometry.area_len();
        let mut device = vec![0xEE; 2 * len];
        let mut put = |at: u64, bytes: &[u8]| {
            let at = usize::try_from(at).unwrap();
            device[at..at + bytes.len()].copy_from_slice(bytes);
        };
        let (uuid, fire) = (AreaUuid::random(), SealedFire::NoWatchdog);
        let seal = delta_lease::format::FormatSeal { uuid, machine, fire };
        for write in delta_lease::format::plan(geometry, space, IoTimeout::DEFAULT, Some(&seal)) {
            put(write.offset_in_area, &write.bytes);
        }
        let lease = paxos_lease::format::NewLease { geometry, space, resource, num_hosts: None, uuid, place: None };
        for write in paxos_lease::format::plan(&lease, &paxos_lease::format::Writer { machine, fire }).unwrap() {
            put(len as u64 + write.offset_in_area, &write.bytes);
        }
        let path = dir.path().join(format!("{}-{}", geometry.sector(), geometry.align()));
        std::fs::write(&path, &device).unwrap();
        compare(&geometry.to_string(), &path, geometry, device.len());
        let arg = format!("LS:7:{}:0", path.display());
        let (done, theirs) = their_leader(["-s", &arg], geometry);
        assert_eq!((done.as_str(), theirs["space_name"].as_str()), ("read_leader done 0", "LS"), "{geometry}");
    }
}
