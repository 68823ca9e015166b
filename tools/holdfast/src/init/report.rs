//! What `holdfast init` says: for people, and as JSON (stable as that of `holdfast dump`).

use std::fmt::{self, Write as _};

use holdfast_io::seal::AreaUuid;
use serde::Serialize;

use super::look::Finding;
use super::plan::{self, Write};
use super::target::{Kind, Layout, Shape, Target};
use crate::units_arg::short_bytes;

/// The version of the JSON.
pub const FORMAT: u32 = 1;

/// The outcome of one call.
#[derive(Debug, Serialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// Whether nothing was to be written.
    pub dry_run: bool,
    /// Whether every area is formatted now.
    pub done: bool,
    /// Why not, on one line.
    pub refused: Option<String>,
    /// What stood in the way, or was overwritten by force.
    pub found: Vec<Finding>,
    /// The areas.
    pub areas: Vec<FormattedArea>,
}

/// One area.
#[derive(Debug, Serialize)]
pub struct FormattedArea {
    /// `lockspace`, `resource` or `index`.
    pub kind: &'static str,
    /// The lockspace's name.
    pub lockspace: String,
    /// The resource's name.
    pub resource: Option<String>,
    /// The device.
    pub path: String,
    /// Where it begins.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Its sector size.
    pub sector_size: usize,
    /// Host ids it serves: 1 up to this; absent of an index.
    pub hosts: Option<u32>,
    /// Of an index: places for resources.
    pub places: Option<u32>,
    /// For lockspaces, what is stored for hosts to begin with.
    pub io_timeout: Option<u8>,
    /// Its UUID.
    pub area_uuid: String,
    /// Whether it is formatted now.
    pub done: bool,
    /// The writes, in order.
    pub writes: Vec<Write>,
}

impl FormattedArea {
    /// The report on a target that is yet to be formatted.
    #[must_use]
    pub fn of(layout: &Layout, target: &Target, shape: &Shape, uuid: String, writes: Vec<Write>) -> Self {
        let all = target.geometry.max_hosts();
        let (kind, lockspace, resource) = match &target.kind {
            Kind::Lockspace { name } => ("lockspace", name.to_string(), None),
            Kind::Resource { space, name } => ("resource", space.to_string(), Some(name.to_string())),
            Kind::Index { space, .. } => ("index", space.to_string(), None),
        };
        let (hosts, places) = match &target.kind {
            Kind::Lockspace { .. } => (Some(all), None),
            Kind::Resource { .. } => (Some(shape.hosts.unwrap_or(all)), None),
            Kind::Index { space, resources } => {
                (None, Some(plan::header(target, *space, resources, AreaUuid::NONE).max_resources))
            }
        };
        FormattedArea {
            kind,
            lockspace,
            path: layout.media[target.medium].path.clone(),
            offset: target.offset,
            length: target.geometry.align().bytes(),
            sector_size: target.geometry.sector().bytes(),
            hosts,
            places,
            io_timeout: (kind == "lockspace").then(|| shape.io_timeout.seconds()),
            resource,
            area_uuid: uuid,
            done: false,
            writes,
        }
    }
}

impl FormattedArea {
    /// For how many hosts, or resources.
    fn room(&self) -> String {
        match (self.hosts, self.places) {
            (Some(hosts), _) => format!("{hosts} hosts"),
            (None, places) => format!("{} places", places.unwrap_or(0)),
        }
    }
}

impl Report {
    /// The report for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        // What --force overwrites has been announced before it happened.
        for found in self.found.iter().filter(|_| self.dry_run || self.refused.is_some()) {
            writeln!(out, "found on {}: {found}", found.path)?;
        }
        if let Some(refused) = &self.refused {
            return writeln!(out, "refused: {refused}");
        }
        for area in &self.areas {
            let name =
                area.resource.as_ref().map_or_else(|| area.lockspace.clone(), |r| format!("{}:{r}", area.lockspace));
            let verb = if self.dry_run { "would format" } else { "formatted" };
            writeln!(
                out,
                "{verb} {} {name} at {} of {}: {} long, sectors of {} bytes, {}{}, area {}",
                area.kind,
                area.offset,
                area.path,
                short_bytes(area.length),
                area.sector_size,
                area.room(),
                area.io_timeout.map_or_else(String::new, |s| format!(", io timeout {s} s")),
                area.area_uuid
            )?;
            for (number, write) in area.writes.iter().enumerate().filter(|_| self.dry_run) {
                writeln!(out, "  {}. {} bytes at {}: {}", number + 1, write.bytes, write.offset, write.what)?;
            }
        }
        if self.dry_run {
            writeln!(out, "dry run: nothing was written")?;
        }
        Ok(())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.offset {
            Some(offset) => write!(f, "at {offset}, {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}
