//! What is to be formatted and where: the command line made into areas that do not overlap, fit their device and have a
//! legal shape. Nothing here reads a lease area or writes anything.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use holdfast_io::ids::{ResourceName, SpaceName};
use holdfast_io::sys::linux::{Access, BlockFile, FileKind, OpenError};
use holdfast_io::timing::IoTimeout;
use holdfast_io::units::{AlignSize, Geometry, GeometryError, SectorSize};

use paxos_lease::index::lease_name;
use paxos_lease::index::slots::most_resources;

use crate::units_arg::short_bytes;

/// What an area is to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A lockspace.
    Lockspace {
        /// Its name.
        name: SpaceName,
    },
    /// A resource.
    Resource {
        /// Its lockspace.
        space: SpaceName,
        /// Its name.
        name: ResourceName,
    },
    /// A resource index.
    Index {
        /// Its lockspace.
        space: SpaceName,
        /// The resources behind it, which it lists.
        resources: Vec<ResourceName>,
    },
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Lockspace { name } => write!(f, "lockspace {name}"),
            Kind::Resource { space, name } => write!(f, "resource {space}:{name}"),
            Kind::Index { space, .. } => write!(f, "resource index of {space}"),
        }
    }
}

/// Areas side by side on one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The device.
    pub path: String,
    /// Where the first begins.
    pub offset: u64,
    /// What they are to become, in order.
    pub kinds: Vec<Kind>,
}

/// The shape that was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// `--sector`.
    pub sector: Option<SectorSize>,
    /// `--align`.
    pub align: Option<AlignSize>,
    /// `--max-hosts`: dblocks in use, for resources.
    pub hosts: Option<u32>,
    /// `--io-timeout`, for lockspaces.
    pub io_timeout: IoTimeout,
}

/// One area to be formatted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Which of the media.
    pub medium: usize,
    /// What it is to become.
    pub kind: Kind,
    /// Where it begins.
    pub offset: u64,
    /// Its shape.
    pub geometry: Geometry,
}

impl Target {
    /// Its end.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.offset.saturating_add(self.geometry.align().bytes())
    }
}

/// A device or file that areas go to.
#[derive(Debug)]
pub struct Medium {
    /// Its path as given.
    pub path: String,
    /// Open, unless it does not exist yet and is to be created.
    pub file: Option<Arc<BlockFile>>,
}

impl Medium {
    /// Its length in bytes; 0 while it does not exist.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.file.as_ref().map_or(0, |f| f.len())
    }

    /// Whether nothing is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it is a file, which can be made longer.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.file.as_ref().is_none_or(|f| f.kind() != FileKind::Block)
    }

    /// The sector size of its own; a file that does not exist yet takes any.
    #[must_use]
    pub fn sector(&self) -> SectorSize {
        self.file.as_ref().map_or(SectorSize::B512, |f| f.sector())
    }
}

/// Why the areas cannot be laid out as asked.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The device cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Not there.
    #[error("{path} does not exist: make it with `truncate -s {expected} {path}`, or let --create do so")]
    Missing {
        /// The path.
        path: String,
        /// The length that would do.
        expected: String,
    },
    /// No such device; one is never created.
    #[error("{path}: there is no such device")]
    NoDevice {
        /// The path.
        path: String,
    },
    /// No such pair of sizes.
    #[error("{path}: {source}")]
    Geometry {
        /// The device.
        path: String,
        /// What is wrong.
        source: GeometryError,
    },
    /// Smaller sectors than the device's.
    #[error(
        "{path} has sectors of {found} bytes: areas with sectors of {expected} bytes cannot be written there one by one"
    )]
    SectorSize {
        /// The device.
        path: String,
        /// The device's.
        found: SectorSize,
        /// Asked for.
        expected: SectorSize,
    },
    /// Not a multiple of the area's length.
    #[error(
        "{path}: offset {found} of {what} is not a multiple of the area length {expected}; the nearest are {below} and {above}"
    )]
    Misaligned {
        /// The device.
        path: String,
        /// What should go there.
        what: String,
        /// As given.
        found: u64,
        /// The area's length.
        expected: AlignSize,
        /// The multiple below.
        below: u64,
        /// And above.
        above: u64,
    },
    /// Behind the end of the device.
    #[error("{path}: {what} would take bytes {offset} to {expected}, but the {device} ends at {found}{hint}")]
    BehindEnd {
        /// The device.
        path: String,
        /// What should go there.
        what: String,
        /// Where it would begin.
        offset: u64,
        /// Where it would end.
        expected: u64,
        /// The device's length.
        found: u64,
        /// `device` or `file`.
        device: &'static str,
        /// How to help it.
        hint: String,
    },
    /// Two areas on the same bytes.
    #[error("{path}: {one} at {at_one} and {other} at {at_other} overlap")]
    Overlap {
        /// The device.
        path: String,
        /// The first.
        one: String,
        /// Where it begins.
        at_one: u64,
        /// The second.
        other: String,
        /// Where it begins.
        at_other: u64,
    },
    /// More resources than an index has places.
    #[error("{found} resources: an index of {geometry} has places for {expected}")]
    Places {
        /// Asked for.
        found: usize,
        /// That fit.
        expected: u32,
        /// The shape.
        geometry: Geometry,
    },
    /// A name twice in one index.
    #[error("resource {name} twice: an index lists a name once")]
    Twice {
        /// It.
        name: ResourceName,
    },
    /// More hosts than fit.
    #[error("--max-hosts {found}: {expected} hosts fit a resource of {geometry}, so 1 to {expected} can be served")]
    MaxHosts {
        /// Asked for.
        found: u32,
        /// That fit.
        expected: u32,
        /// The shape.
        geometry: Geometry,
    },
    /// A number of hosts, and no resource to take it.
    #[error("--max-hosts {found} is for resources: a lockspace has a sector for every host id that fits its area")]
    MaxHostsOfLockspace {
        /// Asked for.
        found: u32,
    },
}

/// What the command line comes down to.
#[derive(Debug)]
pub struct Layout {
    /// The devices, each once.
    pub media: Vec<Medium>,
    /// The areas, in the order in which they were given.
    pub targets: Vec<Target>,
}

/// Opens the devices and lays the areas out. `create`: files may be made, and made longer.
///
/// # Errors
/// [`TargetError`], for the first thing that does not fit.
pub fn lay_out(wanted: &[Wanted], shape: &Shape, create: bool, access: Access) -> Result<Layout, TargetError> {
    let mut kinds = wanted.iter().flat_map(|group| &group.kinds);
    if let (Some(found), false) = (shape.hosts, kinds.any(|kind| matches!(kind, Kind::Resource { .. }))) {
        return Err(TargetError::MaxHostsOfLockspace { found });
    }
    let mut layout = Layout { media: Vec::new(), targets: Vec::new() };
    for group in wanted {
        let medium = match layout.media.iter().position(|m| m.path == group.path) {
            Some(known) => known,
            None => {
                layout.media.push(open(group, shape, create, access)?);
                layout.media.len() - 1
            }
        };
        let geometry = geometry(&layout.media[medium], shape)?;
        let mut offset = group.offset;
        for kind in &group.kinds {
            let target = Target { medium, kind: kind.clone(), offset, geometry };
            check(&layout.media[medium], &target, shape, create)?;
            offset = target.end();
            layout.targets.push(target);
        }
    }
    no_overlap(&layout)?;
    Ok(layout)
}

fn open(group: &Wanted, shape: &Shape, create: bool, access: Access) -> Result<Medium, TargetError> {
    let path = group.path.clone();
    let at = Path::new(&path);
    let missing = std::fs::symlink_metadata(at).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound);
    if !missing {
        return Ok(Medium { file: Some(Arc::new(BlockFile::open(at, access)?)), path });
    }
    // /dev is no place for files; /dev/shm takes no direct I/O either.
    if at.starts_with("/dev") {
        return Err(TargetError::NoDevice { path });
    }
    if create {
        return Ok(Medium { path, file: None });
    }
    let align = shape.align.unwrap_or(Geometry::default_for(shape.sector.unwrap_or(SectorSize::B512)).align());
    let areas = group.kinds.len() as u64;
    let end = align.bytes().saturating_mul(areas).saturating_add(group.offset);
    Err(TargetError::Missing { path, expected: short_bytes(end) })
}

/// The shape of areas on a medium: as asked, else as sanlock chooses from the device's sectors.
fn geometry(medium: &Medium, shape: &Shape) -> Result<Geometry, TargetError> {
    let found = medium.sector();
    let sector = shape.sector.unwrap_or(found);
    if sector < found {
        return Err(TargetError::SectorSize { path: medium.path.clone(), found, expected: sector });
    }
    let Some(align) = shape.align else { return Ok(Geometry::default_for(sector)) };
    Geometry::new(sector, align).map_err(|source| TargetError::Geometry { path: medium.path.clone(), source })
}

fn check(medium: &Medium, target: &Target, shape: &Shape, create: bool) -> Result<(), TargetError> {
    let (path, what) = (medium.path.clone(), target.kind.to_string());
    let length = target.geometry.align().bytes();
    let below = target.offset / length * length;
    if below != target.offset {
        let (found, expected) = (target.offset, target.geometry.align());
        return Err(TargetError::Misaligned {
            path,
            what,
            found,
            expected,
            below,
            above: below.saturating_add(length),
        });
    }
    if target.end() > medium.len() && !(create && medium.is_file()) {
        let device = if medium.is_file() { "file" } else { "device" };
        let hint = if medium.is_file() {
            format!(": `truncate -s {} {path}` or --create make it longer", short_bytes(target.end()))
        } else {
            String::new()
        };
        let (offset, expected, found) = (target.offset, target.end(), medium.len());
        return Err(TargetError::BehindEnd { path, what, offset, expected, found, device, hint });
    }
    if let Kind::Index { resources, .. } = &target.kind {
        let expected = most_resources(target.geometry);
        if resources.len() > expected as usize {
            return Err(TargetError::Places { found: resources.len(), expected, geometry: target.geometry });
        }
        let mut names = BTreeSet::from([lease_name()]);
        if let Some(name) = resources.iter().find(|name| !names.insert(**name)) {
            return Err(TargetError::Twice { name: *name });
        }
    }
    let expected = target.geometry.max_hosts();
    match (shape.hosts, &target.kind) {
        (Some(found), Kind::Resource { .. }) if found == 0 || found > expected => {
            Err(TargetError::MaxHosts { found, expected, geometry: target.geometry })
        }
        _ => Ok(()),
    }
}

fn no_overlap(layout: &Layout) -> Result<(), TargetError> {
    for (number, one) in layout.targets.iter().enumerate() {
        // One device under two paths is the same device.
        let same = |other: &&Target| match (&layout.media[one.medium].file, &layout.media[other.medium].file) {
            (Some(a), Some(b)) => a.node() == b.node(),
            _ => one.medium == other.medium,
        };
        let touches = |other: &&Target| one.offset < other.end() && other.offset < one.end();
        if let Some(other) = layout.targets[..number].iter().filter(same).find(touches) {
            return Err(TargetError::Overlap {
                path: layout.media[one.medium].path.clone(),
                one: other.kind.to_string(),
                at_one: other.offset,
                other: one.kind.to_string(),
                at_other: one.offset,
            });
        }
    }
    Ok(())
}
