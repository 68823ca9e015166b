//! `sanlock direct dump` and `sanlock direct read_leader` (spec B 4, 5.8, 5.9): what stands on a device, without a daemon, in
//! the lines that sanlock prints. What is read, and how damage is met, is `holdfast dump`'s.

use std::path::Path;

use holdfast::dump::report::{Area, Content, Dblock, Index, Leader, Lockspace, Report, Resource};
use holdfast::dump::{DumpError, dump};
use holdfast::units_arg::Stretch;
use holdfast_io::bytes::{array_at, u32_at};
use holdfast_io::leader::{self, LeaderKind, LeaderRecord};
use holdfast_io::units::SectorIndex;

use super::options::Options;

/// All that is served.
pub(super) const ACTIONS: &[&str] = &["dump", "read_leader"];

const MIB: u64 = 1 << 20;
/// Where the checksum stands in a leader record (spec D 2.2).
const CHECKSUM: usize = 168;
/// No record is there.
const NO_LEADER: i32 = -223;
const ENOENT: i32 = -2;
const ENODEV: i32 = -19;

/// Runs one; `place` is what stands before the options of a dump.
pub(super) fn run(action: &str, place: Option<&str>, options: &Options) -> i32 {
    match (action, place) {
        ("dump", Some(place)) => dump_lines(place, options),
        ("dump", None) => 1,
        _ => read_leader(options),
    }
}

/// `PATH[:OFFSET[:SIZE]]`, in bytes or with an M.
fn stretch(place: &str) -> Stretch {
    let number = |text: &str| match text.strip_suffix('M') {
        Some(megabytes) => megabytes.parse().unwrap_or(0) * MIB,
        None => text.parse().unwrap_or(0),
    };
    let mut fields = place.split(':');
    let path = fields.next().unwrap_or("").to_owned();
    let offset = fields.next().map_or(0, number);
    Stretch { path, offset, length: fields.next().map(number).filter(|length| *length > 0) }
}

fn dump_lines(place: &str, options: &Options) -> i32 {
    let stretch = stretch(place);
    if !stretch.offset.is_multiple_of(MIB) {
        println!("WARNING: dump offset should be a multiple of {MIB} bytes.");
    }
    if !Path::new(&stretch.path).exists() {
        println!("Device {} not found.", stretch.path);
        return 1;
    }
    let report = match dump(&stretch) {
        Ok(report) if !report.areas.is_empty() || options.text('A').is_some() => report,
        Ok(_) => {
            println!("Cannot find sector_size and align_size, set with -A and -Z.");
            return 1;
        }
        Err(error) => {
            println!("{error}");
            return 1;
        }
    };
    let detail = options.count('f');
    let last = if detail > 0 { "lver/req/mode" } else { "lver" };
    println!(
        "{:>8} {:>36} {:>48} {:>10} {:>4} {:>4} {last}",
        "offset", "lockspace", "resource", "timestamp", "own", "gen"
    );
    // Without a size the first slot without a lease is the end.
    let mut next = stretch.offset;
    for area in &report.areas {
        if stretch.length.is_none() && area.offset != next {
            break;
        }
        next = area.offset + area.length;
        print_area(area, detail);
    }
    0
}

fn print_area(area: &Area, detail: u32) {
    match &area.content {
        Content::Lockspace(lockspace) => print_lockspace(area, lockspace, detail),
        Content::Resource(resource) if resource.record.magic == LeaderKind::Paxos.magic() => {
            print_resource(area, resource, detail);
        }
        Content::Resource(_) => {}
        Content::Index(index) => print_index(area, index, detail),
    }
}

fn print_lockspace(area: &Area, lockspace: &Lockspace, detail: u32) {
    for host in &lockspace.hosts {
        let Leader { space_name, resource_name, timestamp, owner_id, owner_generation, .. } = &host.record;
        if *owner_id == 0 && *owner_generation == 0 {
            continue;
        }
        let at = area.offset + u64::from(host.host_id - 1) * area.sector_size as u64;
        print!("{at:08} {space_name:>36} {resource_name:>48} {timestamp:010} {owner_id:04} {owner_generation:04}");
        if detail > 0 {
            host.notifies.iter().for_each(|host| print!(" {host}"));
        }
        println!();
    }
}

fn print_resource(area: &Area, resource: &Resource, detail: u32) {
    let Leader { space_name, resource_name, timestamp, owner_id, owner_generation, lver, .. } = &resource.record;
    let at = area.offset;
    print!("{at:08} {space_name:>36} {resource_name:>48} {timestamp:010} {owner_id:04} {owner_generation:04} {lver}");
    if detail > 0 {
        print!("/{}/{}", resource.request.lver, resource.request.force_mode);
    }
    println!();
    let hosts = resource.dblocks.iter().map(|d| d.host_id).chain(resource.shared.iter().map(|s| s.host_id));
    let hosts: std::collections::BTreeSet<u32> = hosts.collect();
    for host in hosts {
        let says_something = |d: &&Dblock| detail > 1 && (d.mbal, d.bal, d.lver) != (0, 0, 0);
        if let Some(d) = resource.dblocks.iter().find(|d| d.host_id == host).filter(says_something) {
            println!(
                "dblock[{:04}] mbal {} bal {} inp {} inp2 {} inp3 {} lver {} sum {:x}",
                host - 1,
                d.mbal,
                d.bal,
                d.inp,
                d.inp2,
                d.inp3,
                d.lver,
                d.checksum
            );
        }
        if let Some(sharer) = resource.shared.iter().find(|s| s.host_id == host) {
            println!("{:106}{host:04} {:04} SH", "", sharer.generation);
        }
    }
}

/// Where the flags stand in an index header (spec D 2.7).
const INDEX_FLAGS: usize = 8;

fn print_index(area: &Area, index: &Index, detail: u32) {
    let flags = u32_at(&area.raw, INDEX_FLAGS);
    let Index { lockspace, max_resources, rx_offset, entries } = index;
    println!(
        "{:08} {lockspace:>36} rindex_header 0x{flags:x} {} {max_resources} {rx_offset}",
        area.offset, area.sector_size
    );
    for entry in entries.iter().filter(|_| detail > 0) {
        println!("{:08} {lockspace:>36} rentry {} {}", entry.at, entry.name, entry.res_offset);
    }
}

/// The record of a host, or of a resource.
fn read_leader(options: &Options) -> i32 {
    let (disk, of_host) = if options.has_lockspace() {
        let lockspace = options.lockspace();
        (lockspace.disk, Some(lockspace.host_id))
    } else if let Some(disk) = options.resources.first().and_then(|r| r.disks.first()) {
        (disk.clone(), None)
    } else {
        return print_leader(-22, &blank(), false);
    };
    let at = Stretch { path: disk.path.to_string(), offset: disk.offset, length: Some(MIB) };
    let found = match dump(&at) {
        Ok(report) => report,
        Err(DumpError::Open(_)) => {
            return print_leader(of_host.map_or(ENOENT, |_| ENODEV), &blank(), of_host.is_some());
        }
        Err(_) => return print_leader(-22, &blank(), of_host.is_some()),
    };
    let record = record_of(&found, disk.offset, of_host);
    let kind = if of_host.is_some() { LeaderKind::Delta } else { LeaderKind::Paxos };
    let result = if record.magic == kind.magic() { 0 } else { NO_LEADER };
    print_leader(result, &record, of_host.is_some())
}

fn record_of(report: &Report, offset: u64, of_host: Option<u64>) -> Leader {
    let Some(area) = report.areas.iter().find(|area| area.offset == offset) else { return blank() };
    let slot = of_host.map_or(0, |host| host.saturating_sub(1));
    let index = SectorIndex(u32::try_from(slot).unwrap_or(0));
    let at = index.at(area.geometry.sector());
    if area.raw.len() < at + leader::LEN {
        return blank();
    }
    let bytes: [u8; leader::LEN] = array_at(&area.raw, at);
    Leader::of(&LeaderRecord::parse(&bytes), u32_at(&area.raw, at + CHECKSUM))
}

fn blank() -> Leader {
    Leader::of(&LeaderRecord::parse(&[0; leader::LEN]), 0)
}

fn print_leader(result: i32, leader: &Leader, of_host: bool) -> i32 {
    println!("read_leader done {result}");
    println!("magic 0x{:x}\nversion 0x{:x}\nflags 0x{:x}", leader.magic, leader.version, leader.flags);
    println!("sector_size {}\nnum_hosts {}\nmax_hosts {}", leader.sector_size, leader.num_hosts, leader.max_hosts);
    println!("owner_id {}\nowner_generation {}\nlver {}", leader.owner_id, leader.owner_generation, leader.lver);
    println!(
        "space_name {}\nresource_name {}\ntimestamp {}",
        leader.space_name, leader.resource_name, leader.timestamp
    );
    println!("checksum 0x{:x}\nio_timeout {}", leader.checksum, leader.io_timeout);
    let names =
        if of_host { ["extra1", "extra2", "extra3"] } else { ["write_id", "write_generation", "write_timestamp"] };
    let values = [leader.write_id, leader.write_generation, leader.write_timestamp];
    names.iter().zip(values).for_each(|(name, value)| println!("{name} {value}"));
    result
}
