//! `sanlock direct dump` (spec B 4, 5.8): what stands on a device, without a daemon, in the lines that sanlock prints. What
//! is read, and how damage is met, is `holdfast dump`'s.

use holdfast::dump::report::{Area, Content, Dblock, Index, Leader, Lockspace, Resource};
use holdfast::dump::{DumpError, dump};
use holdfast::units_arg::Stretch;
use holdfast_io::bytes::u32_at;
use holdfast_io::leader::LeaderKind;
use holdfast_protocol::strings::{decimal_as_atoll, import_path, raw_fields};

use super::options::{Options, megabytes};

const MIB: u64 = 1 << 20;
/// sanlock counts a length in sectors, and takes what is less than one for none.
const SECTOR: u64 = 512;
/// The sectors of any device are a part of this.
const UNIT: u64 = 4096;

/// `PATH[:OFFSET[:SIZE]]`, in bytes or with an M; a colon in the path has a backslash before it.
fn stretch(place: &str) -> Stretch {
    let number = |field: &[u8]| {
        let mebibytes = std::str::from_utf8(field).ok().and_then(megabytes);
        mebibytes.unwrap_or_else(|| decimal_as_atoll(field))
    };
    let fields = raw_fields(place.as_bytes());
    let path = fields.first().map(|field| import_path(field)).unwrap_or_default();
    let offset = fields.get(1).map_or(0, |field| number(field));
    let sectors = fields.get(2).map_or(0, |field| number(field)) / SECTOR;
    // Whole sectors of whatever device it is: areas begin at far larger steps.
    let length = (sectors * SECTOR).min(i64::MAX.cast_unsigned()).next_multiple_of(UNIT);
    Stretch { path: String::from_utf8_lossy(&path).into_owned(), offset, length: Some(length).filter(|len| *len > 0) }
}

/// Runs it; `place` is what stands before the options.
pub(super) fn dump_lines(place: &str, options: &Options) -> i32 {
    let stretch = stretch(place);
    if !stretch.offset.is_multiple_of(MIB) {
        say!("WARNING: dump offset should be a multiple of {MIB} bytes.");
    }
    let areas = match dump(&stretch) {
        Ok(report) => report.areas,
        Err(DumpError::Open(_)) => {
            say!("Device {} not found.", stretch.path);
            return 1;
        }
        // Nothing is found at a place where nothing can be.
        Err(_) => Vec::new(),
    };
    let first = areas.first().filter(|area| area.offset == stretch.offset && !is_cleared(area));
    if first.is_none() && options.text('A').is_none() {
        say!("Cannot find sector_size and align_size, set with -A and -Z.");
        return 1;
    }
    let detail = options.number('f').unwrap_or(0);
    let last = if detail != 0 { "lver/req/mode" } else { "lver" };
    say!("{:>8} {:>36} {:>48} {:>10} {:>4} {:>4} {last}", "offset", "lockspace", "resource", "timestamp", "own", "gen");
    // Without a size the first slot that is none of these is the end.
    let mut next = stretch.offset;
    for area in &areas {
        if stretch.length.is_none() && (area.offset != next || !is_told(area)) {
            break;
        }
        next = area.offset.saturating_add(area.length);
        print_area(area, detail);
    }
    0
}

/// Whether an area has a line: a lease does by its magic number alone.
fn is_told(area: &Area) -> bool {
    match &area.content {
        Content::Resource(resource) => resource.record.magic == LeaderKind::Paxos.magic(),
        Content::Lockspace(_) | Content::Index(_) => true,
    }
}

fn is_cleared(area: &Area) -> bool {
    matches!(&area.content, Content::Resource(resource) if resource.record.magic == LeaderKind::Cleared.magic())
}

fn print_area(area: &Area, detail: i32) {
    match &area.content {
        Content::Lockspace(lockspace) => print_lockspace(area, lockspace, detail),
        Content::Resource(resource) if is_told(area) => print_resource(area, resource, detail),
        Content::Resource(_) => {}
        Content::Index(index) => print_index(area, index, detail),
    }
}

fn print_lockspace(area: &Area, lockspace: &Lockspace, detail: i32) {
    for host in &lockspace.hosts {
        let Leader { space_name, resource_name, timestamp, owner_id, owner_generation, .. } = &host.record;
        if *owner_id == 0 && *owner_generation == 0 {
            continue;
        }
        let at = area.offset + u64::from(host.host_id - 1) * area.sector_size as u64;
        let notified: String = host.notifies.iter().filter(|_| detail != 0).map(|host| format!(" {host}")).collect();
        say!(
            "{at:08} {space_name:>36} {resource_name:>48} {timestamp:010} {owner_id:04} {owner_generation:04}{notified}"
        );
    }
}

fn print_resource(area: &Area, resource: &Resource, detail: i32) {
    let Leader { space_name, resource_name, timestamp, owner_id, owner_generation, lver, .. } = &resource.record;
    let at = area.offset;
    let asked = match detail {
        0 => String::new(),
        _ => format!("/{}/{}", resource.request.lver, resource.request.force_mode),
    };
    say!(
        "{at:08} {space_name:>36} {resource_name:>48} {timestamp:010} {owner_id:04} {owner_generation:04} {lver}{asked}"
    );
    let hosts = resource.dblocks.iter().map(|d| d.host_id).chain(resource.shared.iter().map(|s| s.host_id));
    let hosts: std::collections::BTreeSet<u32> = hosts.collect();
    for host in hosts {
        let says_something = |d: &&Dblock| detail > 1 && (d.mbal, d.bal, d.lver) != (0, 0, 0);
        if let Some(d) = resource.dblocks.iter().find(|d| d.host_id == host).filter(says_something) {
            say!(
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
            say!("{:106}{host:04} {:04} SH", "", sharer.generation);
        }
    }
}

/// Where the flags stand in an index header (spec D 2.7).
const INDEX_FLAGS: usize = 8;

fn print_index(area: &Area, index: &Index, detail: i32) {
    let flags = u32_at(&area.raw, INDEX_FLAGS);
    let Index { lockspace, max_resources, rx_offset, entries } = index;
    say!(
        "{:08} {lockspace:>36} rindex_header 0x{flags:x} {} {max_resources} {rx_offset}",
        area.offset,
        area.sector_size
    );
    for entry in entries.iter().filter(|_| detail != 0) {
        say!("{:08} {lockspace:>36} rentry {} {}", entry.at, entry.name, entry.res_offset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_sanlock_reads_it_and_no_number_is_too_large() {
        let table = [
            ("/d", "/d", 0, None),
            ("/d:5", "/d", 5, None),
            ("/d:5M:1M", "/d", 5 << 20, Some(1 << 20)),
            ("/d:38MB:1Mx", "/d", 38 << 20, Some(1 << 20)),
            ("/d: 39M:x", "/d", 39 << 20, None),
            ("/d:M:M", "/d", 0, None),
            (r"/a\:b:1M", "/a:b", 1 << 20, None),
            (r"/a\ b:0", "/a b", 0, None),
            ("/d:0:1", "/d", 0, None),
            ("/d:0:513", "/d", 0, Some(4096)),
            ("/d:0:2097151", "/d", 0, Some(2 << 20)),
            ("/d:-1", "/d", u64::MAX, None),
            ("/d:18446744073709551615", "/d", i64::MAX.cast_unsigned(), None),
            ("/d:17592186044416M", "/d", u64::MAX, None),
            ("/d:18446744073709551615M", "/d", u64::MAX, None),
            ("/d:99999999999999999999M:99999999999999999999M", "/d", u64::MAX, Some(1 << 63)),
        ];
        for (text, path, offset, length) in table {
            assert_eq!(stretch(text), Stretch { path: path.into(), offset, length }, "{text}");
        }
    }
}
