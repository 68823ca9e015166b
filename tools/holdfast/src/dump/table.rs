//! The view for people: what the disk says, in tables, with the conclusions spelt out beneath the rows they belong to.

use std::fmt::{self, Write as _};

use super::report::{
    Area, BallotState, Content, Damage, Dblock, Host, Index, Leader, Lockspace, Report, Resource, ResourceState,
    SealReport, Term,
};
use crate::units_arg::short_bytes;

/// Bytes in a line of raw bytes.
const RAW_LINE: usize = 16;
/// Lines of raw bytes shown for a damaged sector; `--hex` shows all.
const RAW_LINES: usize = 4;

/// How much to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// What one needs at night.
    Short,
    /// Every dblock, seal and writer as well.
    Long,
}

/// Writes the report.
///
/// # Errors
/// Those of `out`.
pub fn write(out: &mut impl fmt::Write, report: &Report, detail: Detail) -> fmt::Result {
    let Report { path, device, bytes, device_sector_size: sector, .. } = report;
    writeln!(out, "{path}: {device}, {}, sectors of {sector} bytes", size(*bytes))?;
    let mut areas = report.areas.as_slice();
    while let Some(first) = areas.first() {
        writeln!(out)?;
        let rest = match &first.content {
            Content::Lockspace(space) => {
                lockspace(out, first, space, detail)?;
                &areas[1..]
            }
            Content::Index(index) => {
                self::index(out, first, index)?;
                &areas[1..]
            }
            Content::Resource(resource) => {
                let mates = |a: &&Area| matches!(&a.content, Content::Resource(r) if r.lockspace == resource.lockspace);
                let (group, rest) = areas.split_at(areas.iter().take_while(mates).count());
                resources(out, &resource.lockspace, group, detail)?;
                rest
            }
        };
        areas = rest;
    }
    damage(out, report)?;
    summary(out, report)
}

fn size(bytes: u64) -> String {
    let short = short_bytes(bytes);
    if short == bytes.to_string() { format!("{bytes} bytes") } else { format!("{short} ({bytes} bytes)") }
}

fn lockspace(out: &mut impl fmt::Write, area: &Area, space: &Lockspace, detail: Detail) -> fmt::Result {
    let name = if space.lockspace.is_empty() { "of unknown name" } else { &space.lockspace };
    writeln!(out, "Lockspace {name} at {}: {}", short_bytes(area.offset), shape(area))?;
    if detail == Detail::Long {
        writeln!(out, "  {}", formatted(area))?;
    }
    let mut table = Table::new(&["HOST", "STATE", "NAME", "GENERATION", "RENEWED AT", "IO TIMEOUT", "WATCHDOG"]);
    let nobody = |h: &&Host| h.damaged && h.record.owner_id == 0 && h.record.owner_generation == 0;
    let damaged = space.hosts.iter().filter(nobody).count();
    for host in space.hosts.iter().filter(|h| !nobody(h)) {
        table.row(
            vec![
                host.host_id.to_string(),
                if host.damaged { "DAMAGED".into() } else { host.state.into() },
                or_dash(&host.name),
                host.record.owner_generation.to_string(),
                if host.record.timestamp == 0 {
                    "-".into()
                } else {
                    seconds(host.record.timestamp, host.seal.as_ref())
                },
                if host.record.io_timeout == 0 { "-".into() } else { format!("{} s", host.record.io_timeout) },
                watchdog(host.seal.as_ref(), host.state == "held"),
            ],
            host_notes(host, detail),
        );
    }
    table.write(out)?;
    if damaged > 0 {
        writeln!(out, "  {damaged} damaged sector(s) show no host: see below.")?;
    }
    match (space.hosts.is_empty(), space.never_used) {
        (true, n) => writeln!(out, "  No host has ever joined; {n} host ids are free."),
        (false, 0) => Ok(()),
        (false, n) => writeln!(out, "  {n} more host ids were never used."),
    }
}

fn host_notes(host: &Host, detail: Detail) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(event) = &host.event {
        notes.push(format!("event {}, data {}, for generation {}", event.event, event.data, event.generation));
    }
    if !host.notifies.is_empty() {
        notes.push(format!("asks {} to look at events and requests", hosts(&host.notifies)));
    }
    if host.state == "held" && host.seal.as_ref().is_some_and(|s| s.fire_timeout.is_none()) {
        notes.push("NO WATCHDOG: nothing resets this host when it loses its lease".into());
    }
    if detail == Detail::Long {
        notes.push(writer(host.seal.as_ref(), host.state == "held"));
        let Leader { version, flags, checksum, .. } = &host.record;
        notes.push(format!(
            "record {}.{}, flags 0x{flags:x}, checksum 0x{checksum:08x}",
            version >> 16,
            version & 0xFFFF
        ));
    }
    notes
}

fn resources(out: &mut impl fmt::Write, space: &str, group: &[Area], detail: Detail) -> fmt::Result {
    let space = if space.is_empty() { "an unknown lockspace" } else { space };
    let (first, many) = (&group[0], if group.len() == 1 { "Resource" } else { "Resources" });
    let same = group.iter().all(|a| a.geometry == first.geometry);
    writeln!(out, "{many} of {space}{}", if same { format!(": {}", shape(first)) } else { String::new() })?;
    let mut table = Table::new(&["AT", "RESOURCE", "STATE", "OWNER", "GENERATION", "VERSION", "SINCE"]);
    for area in group {
        let Content::Resource(resource) = &area.content else { continue };
        let owner = resource.owner.as_ref();
        let known = |f: fn(&super::report::Owner) -> String| owner.map_or_else(|| "-".into(), f);
        table.row(
            vec![
                short_bytes(area.offset),
                or_dash(&resource.resource),
                state(resource.state).into(),
                known(|o| named(o.host_id, o.name.as_deref())),
                known(|o| o.generation.to_string()),
                resource.lver.to_string(),
                owner.map_or_else(|| "-".into(), |o| seconds(o.since, resource.seal.as_ref())),
            ],
            resource_notes(area, resource, detail),
        );
    }
    table.write(out)
}

const fn state(state: ResourceState) -> &'static str {
    match state {
        ResourceState::Free => "free",
        ResourceState::Held => "HELD",
        ResourceState::Released => "given back",
        ResourceState::Shared => "SHARED",
        ResourceState::Cleared => "cleared",
        ResourceState::Damaged => "DAMAGED",
    }
}

fn resource_notes(area: &Area, resource: &Resource, detail: Detail) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(owner) = &resource.owner {
        notes.extend(term(owner.host_id, owner.generation, owner.term));
        if resource.state == ResourceState::Released {
            let by = resource.record.write_id;
            notes.push(format!("its owner gave it back; host {by} wrote the leader after that: free to take"));
        } else if resource.record.write_id != owner.host_id {
            notes.push(format!(
                "the leader was written by host {}, which finished the ballot",
                resource.record.write_id
            ));
        }
    }
    for sharer in &resource.shared {
        let who = named(u64::from(sharer.host_id), sharer.name.as_deref());
        notes.push(format!("shared by host {who}, generation {}", sharer.generation));
        notes.extend(term(u64::from(sharer.host_id), sharer.generation, sharer.term));
    }
    if resource.request.force_mode != 0 {
        let served =
            if resource.request.lver <= resource.lver { "; that version has come: the request is over" } else { "" };
        notes.push(format!("requested ({}) for version {}{served}", resource.request.mode, resource.request.lver));
    }
    for dblock in &resource.dblocks {
        if detail == Detail::Long || dblock.damaged || in_progress(dblock) {
            notes.push(ballot(dblock));
        }
        if detail == Detail::Long {
            notes.push(format!("  {}", writer(dblock.seal.as_ref(), true)));
        }
    }
    if let Some(value) = &resource.value_block {
        notes.push(format!("value block: {} bytes at {}", value.used, value.offset));
    }
    if resource.record.num_hosts < u64::from(area.max_hosts) && resource.state != ResourceState::Damaged {
        notes.push(format!("serves host ids 1 to {}", resource.record.num_hosts));
    }
    if detail == Detail::Long {
        notes.extend(leader_lines(area, resource));
    }
    notes
}

fn leader_lines(area: &Area, resource: &Resource) -> Vec<String> {
    let r = &resource.record;
    vec![
        format!("leader {}", writer(resource.seal.as_ref(), resource.owner.is_some())),
        format!(
            "leader written by host {} generation {} at {} s of its clock; last owner {} generation {}",
            r.write_id, r.write_generation, r.write_timestamp, r.owner_id, r.owner_generation
        ),
        format!(
            "record {}.{}, flags 0x{:x}, checksum 0x{:08x}",
            r.version >> 16,
            r.version & 0xFFFF,
            r.flags,
            r.checksum
        ),
        formatted(area),
    ]
}

const fn in_progress(dblock: &Dblock) -> bool {
    matches!(dblock.state, BallotState::Preparing | BallotState::Proposing)
}

fn ballot(d: &Dblock) -> String {
    let Dblock { host_id, mbal, bal, inp, inp2, inp3, lver, .. } = d;
    let what = match d.state {
        BallotState::Past => "past ballot",
        BallotState::Decided => "decided ballot",
        BallotState::Preparing => "ballot IN PROGRESS, phase 1",
        BallotState::Proposing => "ballot IN PROGRESS, phase 2",
    };
    let proposes = if *inp == 0 {
        "proposes nobody".into()
    } else {
        format!("proposes host {inp} generation {inp2} at {inp3} s (bal {bal})")
    };
    let released = if d.released { ", RELEASED" } else { "" };
    let damaged = if d.damaged { ", DAMAGED" } else { "" };
    format!("{what} of host {host_id} for version {lver}: mbal {mbal}, {proposes}{released}{damaged}")
}

fn term(host_id: u64, generation: u64, term: Term) -> Option<String> {
    match term {
        Term::Unknown | Term::Current => None,
        Term::Outdated => Some(format!(
            "leftover: host {host_id} has joined anew since generation {generation}, so this can be taken at once"
        )),
        Term::Left => Some(format!("leftover: host {host_id} has left the lockspace, so this can be taken at once")),
    }
}

fn index(out: &mut impl fmt::Write, area: &Area, index: &Index) -> fmt::Result {
    let (n, max) = (index.entries.len(), index.max_resources);
    writeln!(
        out,
        "Resource index of {} at {}: {}, {n} of {max} entries in use",
        index.lockspace,
        short_bytes(area.offset),
        shape(area)
    )?;
    let mut table = Table::new(&["ENTRY", "RESOURCE", "AT"]);
    for entry in &index.entries {
        let cells = vec![entry.index.to_string(), or_dash(&entry.name), short_bytes(entry.res_offset)];
        table.row(cells, Vec::new());
    }
    table.write(out)
}

fn damage(out: &mut impl fmt::Write, report: &Report) -> fmt::Result {
    let count = report.all_damage().count();
    if count == 0 {
        return Ok(());
    }
    writeln!(out, "\nDAMAGED: {count} {}", if count == 1 { "place" } else { "places" })?;
    let all: Vec<&Damage> = report.all_damage().collect();
    // A format that was cut short leaves the same complaint about hundreds of neighbours: its bytes are shown once.
    for alike in all.chunk_by(|a, b| a.reason == b.reason && a.offset + a.length == b.offset) {
        let Some(Damage { offset, length, record, reason, hex }) = alike.first() else { continue };
        writeln!(out, "  at {offset} (0x{offset:x}), {length} bytes, {record}: {reason}")?;
        raw(out, hex.as_deref().unwrap_or_default())?;
        if let [_, .., last] = alike {
            writeln!(out, "    and the same of {} more, up to {} at {}", alike.len() - 1, last.record, last.offset)?;
        }
    }
    Ok(())
}

/// The first lines of bytes that are not all zero.
fn raw(out: &mut impl fmt::Write, hex: &str) -> fmt::Result {
    let lines = hex.as_bytes().chunks(RAW_LINE * 2).enumerate();
    let mut lines = lines.filter(|(_, line)| line.iter().any(|c| *c != b'0'));
    for (number, line) in lines.by_ref().take(RAW_LINES) {
        write!(out, "      {:03x} ", number * RAW_LINE)?;
        for pair in line.chunks(2) {
            write!(out, " {}", String::from_utf8_lossy(pair))?;
        }
        writeln!(out)?;
    }
    match lines.count() {
        0 => Ok(()),
        n => writeln!(out, "      ... {n} more lines: --hex shows them"),
    }
}

fn summary(out: &mut impl fmt::Write, report: &Report) -> fmt::Result {
    if report.more {
        let (to, end) = (short_bytes(report.to), short_bytes(report.bytes));
        writeln!(out, "\nStopped looking at {to}; the device ends at {end}. PATH:OFFSET:LENGTH looks further.")?;
    }
    if report.areas.is_empty() {
        return writeln!(out, "\nNo lease area found.");
    }
    let held = |a: &Area| match &a.content {
        Content::Lockspace(l) => l.hosts.iter().any(|h| h.state == "held"),
        Content::Resource(r) => matches!(r.state, ResourceState::Held | ResourceState::Shared),
        Content::Index(_) => false,
    };
    if report.areas.iter().any(held) {
        let mut text = String::from(
            "\nHeld means: not given back. A disk at rest cannot tell whether the holder still lives; a living host's\n",
        );
        text.push_str("RENEWED AT moves within three of its io timeouts. Times are seconds of the writer's own clock.");
        writeln!(out, "{text}")?;
    }
    Ok(())
}

fn shape(area: &Area) -> String {
    let by = if area.formatted_by.is_some() { "" } else { ", formatted by sanlock" };
    let copy = area.copy.map_or_else(String::new, |c| format!("copy {} of {}, ", c.number, c.of));
    format!(
        "{copy}sectors of {} bytes, {} long, up to {} hosts{by}",
        area.sector_size,
        short_bytes(area.length),
        area.max_hosts
    )
}

fn formatted(area: &Area) -> String {
    match &area.formatted_by {
        None => "formatted by sanlock: no area UUID".into(),
        Some(seal) => format!(
            "area {}, formatted on machine {} in boot {}",
            area.area_uuid.as_deref().unwrap_or("without a UUID"),
            seal.machine,
            seal.boot
        ),
    }
}

/// By whom a sector was written. The fire timeout counts only where something is held.
fn writer(seal: Option<&SealReport>, held: bool) -> String {
    let Some(seal) = seal else { return "written by sanlock (no seal)".into() };
    let fire = match (held, seal.fire_timeout) {
        (false, _) => String::new(),
        (true, Some(seconds)) => format!(", fire timeout {seconds} s"),
        (true, None) => ", NO WATCHDOG".into(),
    };
    format!("sealed by machine {} in boot {}{fire}", seal.machine, seal.boot)
}

fn watchdog(seal: Option<&SealReport>, held: bool) -> String {
    match (seal, held) {
        (Some(SealReport { fire_timeout: Some(s), .. }), _) => format!("{s} s"),
        (Some(_), _) => "NONE".into(),
        (None, true) => "60 s, sanlock".into(),
        (None, false) => "-".into(),
    }
}

fn seconds(timestamp: u64, seal: Option<&SealReport>) -> String {
    match seal {
        Some(seal) => format!("{timestamp}.{:03} s", seal.millis),
        None => format!("{timestamp} s"),
    }
}

fn named(host_id: u64, name: Option<&str>) -> String {
    name.map_or_else(|| host_id.to_string(), |name| format!("{host_id} ({name})"))
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".into() } else { text.into() }
}

/// `host 3`, `hosts 1, 2 and 7`, or how many if they are too many to list.
fn hosts(ids: &[u32]) -> String {
    match ids {
        [one] => format!("host {one}"),
        [some @ .., last] if ids.len() <= 16 => {
            let some: Vec<String> = some.iter().map(ToString::to_string).collect();
            format!("hosts {} and {last}", some.join(", "))
        }
        [first, .., last] => format!("{} hosts between {first} and {last}", ids.len()),
        [] => "nobody".into(),
    }
}

/// Columns as wide as their widest cell, numbers to the right, and notes under the rows.
struct Table {
    head: Vec<String>,
    rows: Vec<(Vec<String>, Vec<String>)>,
}

impl Table {
    fn new(head: &[&str]) -> Self {
        Table { head: head.iter().map(|h| (*h).to_owned()).collect(), rows: Vec::new() }
    }

    fn row(&mut self, cells: Vec<String>, notes: Vec<String>) {
        self.rows.push((cells, notes));
    }

    fn write(&self, out: &mut impl fmt::Write) -> fmt::Result {
        if self.rows.is_empty() {
            return Ok(());
        }
        let column = |i: usize| self.rows.iter().map(move |(cells, _)| cells[i].as_str());
        let numeric = |i| column(i).all(|c| c.starts_with(|c: char| c.is_ascii_digit() || c == '-'));
        let width = |i: usize| column(i).map(|c| c.chars().count()).max().unwrap_or(0).max(self.head[i].len());
        let shape: Vec<(usize, bool)> = (0..self.head.len()).map(|i| (width(i), numeric(i))).collect();
        let line = |cells: &[String]| {
            let mut text = String::new();
            for (cell, (width, right)) in cells.iter().zip(&shape) {
                // Writing to a String cannot fail.
                let _ = if *right { write!(text, "  {cell:>width$}") } else { write!(text, "  {cell:<width$}") };
            }
            text.trim_end().to_owned()
        };
        writeln!(out, "{}", line(&self.head))?;
        for (cells, notes) in &self.rows {
            writeln!(out, "{}", line(cells))?;
            for note in notes {
                writeln!(out, "        . {note}")?;
            }
        }
        Ok(())
    }
}
