//! What stands where an area is to be formatted: nothing, leases, file systems, or bytes that nobody knows.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;

use holdfast_io::clock::Clock;
use holdfast_io::disk::ReadDisk;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use serde::Serialize;

use super::target::{Medium, Target};
use crate::dump::find::{Found, STEP};
use crate::dump::read::Reader;
use crate::dump::report::{Area, Content, ResourceState};
use crate::dump::scan::{self, Scope};
use crate::probe::{self, Part};

/// How far before the first target areas are looked for that might reach into it. The longest area is 8 MiB; the rest
/// is for the way to find its step among areas of several lengths.
const LEAD: u64 = 1 << 30;

/// Something that is in the way.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// The device.
    pub path: String,
    /// Where it begins; absent if it concerns the whole device.
    pub offset: Option<u64>,
    /// `lockspace`, `resource`, `index`, `signature`, `bytes`, `unreadable`, `in_use` or `not_probed`.
    pub kind: &'static str,
    /// The sentence that says it.
    pub what: String,
    /// Whether a host holds it, so that --force takes it away from somebody.
    pub held: bool,
}

/// What one target's bytes were when they were looked at.
pub struct Seen {
    /// Them.
    pub bytes: Vec<u8>,
}

/// What was found on one medium.
#[derive(Default)]
pub struct Looked {
    /// What is in the way.
    pub findings: Vec<Finding>,
    /// Lockspaces that a target would destroy, to be watched.
    pub lockspaces: Vec<Area>,
    /// Each target's bytes, by its offset.
    pub seen: BTreeMap<u64, Seen>,
}

/// Looks at everything on `medium` that the targets concern.
pub async fn look<D: ReadDisk, C: Clock>(disk: &D, clock: &C, medium: &Medium, targets: &[&Target]) -> Looked {
    let (unit, end) = (medium.sector().bytes(), medium.len());
    let mut looked = Looked::default();
    let areas = overlapping(disk, clock, unit, end, targets).await;
    for target in targets {
        let len = target.end().min(end).saturating_sub(target.offset);
        let bytes = read(&Reader::new(disk, clock, unit), medium, target, len, &mut looked.findings).await;
        unknown(medium, target, &bytes, &areas, &mut looked.findings);
        looked.seen.insert(target.offset, Seen { bytes });
    }
    looked.findings.extend(areas.iter().map(|area| finding(&medium.path, area)));
    looked.lockspaces = areas.into_iter().filter(|a| matches!(a.content, Content::Lockspace(_))).collect();
    // blkid would take lease areas for nothing, and knows what we do not.
    foreign(medium, targets, &mut looked);
    looked.findings.sort_by_key(|f| f.offset);
    looked
}

/// The areas that overlap a target, those that begin before it included.
async fn overlapping<D: ReadDisk, C: Clock>(
    disk: &D,
    clock: &C,
    unit: usize,
    end: u64,
    targets: &[&Target],
) -> Vec<Area> {
    let first = targets.iter().map(|t| t.offset).min().unwrap_or(0);
    let last = targets.iter().map(|t| t.end()).max().unwrap_or(0);
    let from = first.saturating_sub(LEAD) / STEP * STEP;
    let scope = Scope { from, to: last.min(end), may_stop: false };
    let touched = |(at, found): &(u64, Found)| {
        let end = at.saturating_add(found.geometry.align().bytes());
        targets.iter().any(|t| *at < t.end() && t.offset < end)
    };
    let mut areas = Vec::new();
    for (at, found) in scan::outline(disk, clock, unit, end, scope).await.into_iter().filter(touched) {
        areas.push(scan::one(disk, clock, unit, end, at, found).await);
    }
    areas
}

async fn read<D: ReadDisk, C: Clock>(
    reader: &Reader<'_, D, C>,
    medium: &Medium,
    target: &Target,
    len: u64,
    findings: &mut Vec<Finding>,
) -> Vec<u8> {
    let unit = medium.sector().bytes();
    // At the end of a file there may be less than a sector; it is made longer before anything is written.
    let whole = usize::try_from(len).unwrap_or(usize::MAX) / unit * unit;
    if whole == 0 {
        return Vec::new();
    }
    let pieces = reader.read(target.offset, whole).await;
    findings.extend(pieces.holes.iter().map(|hole| Finding {
        path: medium.path.clone(),
        offset: Some(hole.range.start),
        kind: "unreadable",
        what: format!("{} bytes cannot be read: {}", hole.range.end - hole.range.start, hole.reason),
        held: false,
    }));
    pieces.bytes
}

/// Bytes that are not zero and belong to no lease area.
fn unknown(medium: &Medium, target: &Target, bytes: &[u8], areas: &[Area], findings: &mut Vec<Finding>) {
    let ours = |at: &u64| areas.iter().any(|a| (a.offset..a.offset.saturating_add(a.length)).contains(at));
    let places = bytes.iter().enumerate().filter(|(_, b)| **b != 0).map(|(n, _)| target.offset + n as u64);
    let mut places = places.filter(|at| !ours(at));
    if let Some(first) = places.next() {
        findings.push(Finding {
            path: medium.path.clone(),
            offset: Some(first),
            kind: "bytes",
            what: format!("{} non-zero bytes of no lease area, first at offset {first}", 1 + places.count()),
            held: false,
        });
    }
}

fn finding(path: &str, area: &Area) -> Finding {
    let (kind, what, held) = match &area.content {
        Content::Lockspace(space) => {
            let holders: Vec<_> = space.hosts.iter().filter(|h| h.state == "held").collect();
            let who: Vec<_> = holders.iter().take(4).map(|h| format!("{} ({})", h.host_id, h.name)).collect();
            let more = if holders.len() > 4 { format!(" and {} more", holders.len() - 4) } else { String::new() };
            let held = match holders.len() {
                0 => "no host has joined".into(),
                1 => format!("host {} has joined", who.join("")),
                _ => format!("hosts {}{more} have joined", who.join(", ")),
            };
            ("lockspace", format!("lockspace {}: {held}", space.lockspace), !holders.is_empty())
        }
        Content::Resource(r) => {
            let name = format!("resource {}:{}, version {}", r.lockspace, r.resource, r.lver);
            let (state, held) = match (r.state, &r.owner) {
                (ResourceState::Held, Some(o)) => {
                    (format!("held by host {} generation {}", o.host_id, o.generation), true)
                }
                (ResourceState::Shared, _) => {
                    let ids: Vec<_> = r.shared.iter().map(|s| s.host_id.to_string()).collect();
                    (format!("shared by host {}", ids.join(", ")), true)
                }
                (ResourceState::Cleared, _) => ("cleared".into(), false),
                // A damaged leader may hide a holder: it counts as held.
                (ResourceState::Damaged, _) => {
                    ("its leader is damaged, so whether it is held cannot be told".into(), true)
                }
                _ => ("free".into(), false),
            };
            ("resource", format!("{name}: {state}"), held)
        }
        Content::Index(index) => {
            ("index", format!("resource index of {} with {} entries", index.lockspace, index.entries.len()), false)
        }
    };
    Finding { path: path.into(), offset: Some(area.offset), kind, what, held }
}

/// What libblkid and the kernel say.
fn foreign(medium: &Medium, targets: &[&Target], looked: &mut Looked) {
    if medium.file.is_none() {
        return;
    }
    let path = || medium.path.clone();
    if let Some(what) = in_use(medium) {
        looked.findings.push(Finding { path: path(), offset: None, kind: "in_use", what, held: false });
    }
    let mut ask = |part: Option<Part>| {
        let (kind, what) = match probe::signature(&medium.path, part) {
            Ok(None) => return true,
            Ok(Some(found)) => ("signature", found.to_string()),
            Err(error) => ("not_probed", error.to_string()),
        };
        let what =
            if part.is_none() && kind == "signature" { format!("on the device as a whole: {what}") } else { what };
        looked.findings.push(Finding { path: path(), offset: part.map(|p| p.offset), kind, what, held: false });
        kind == "signature"
    };
    // If it does not run once it does not run at all: said once.
    if !ask(None) {
        return;
    }
    let blank = |t: &&&Target| looked.seen.get(&t.offset).is_none_or(|s| holdfast_io::bytes::is_zero(&s.bytes));
    let parts: Vec<Part> = targets
        .iter()
        .filter(|t| !blank(t))
        .map(|t| Part { offset: t.offset, length: t.geometry.align().bytes() })
        .collect();
    for part in parts {
        ask(Some(part));
    }
}

/// Whether the kernel itself uses the device: mounted, or part of a volume or an array.
fn in_use(medium: &Medium) -> Option<String> {
    if medium.is_file() {
        return None;
    }
    let opened = OpenOptions::new().read(true).custom_flags(OFlag::O_EXCL.bits()).open(&medium.path);
    let busy = opened.is_err_and(|e| e.raw_os_error() == Some(Errno::EBUSY as i32));
    busy.then(|| "the kernel uses this device: it is mounted, or part of a volume or an array".into())
}
