//! `holdfast init`: makes lease areas.
//!
//! It looks before it writes: every byte of the target areas, lease areas that reach into them, what libblkid knows of
//! the device, and whether the kernel uses it. Anything but zeros is refused unless `--force`; a lockspace whose hosts
//! are seen to live is refused whatever is said. Right before the first write everything is read once more.
//!
//! The writes come in an order ([`plan`]) that leaves, wherever it is cut off, nothing that either program accepts.
//!
//! Exit status: 0 done (or a dry run that would be); 1 refused, or a device failed; 2 wrong usage, which includes
//! offsets, sizes and paths that cannot be. After 2 nothing was written.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Subcommand;
use holdfast_io::clock::{BootClock, Clock as _};
use holdfast_io::device::{Device, WriteLimit};
use holdfast_io::disk::{IoError, ReadDisk as _};
use holdfast_io::identity::{IdentityError, Machine};
use holdfast_io::ids::{ResourceName, SpaceName};
use holdfast_io::seal::AreaUuid;
use holdfast_io::sys::linux::{Access, BlockFile, OpenError, ThreadsEngine};
use holdfast_io::timing::IoTimeout;
use holdfast_io::units::{AlignSize, SectorSize};
use paxos_lease::format::FormatError;
use paxos_lease::index::lease_name;

use crate::units_arg::{self, LockspaceArg, Place, ResourceArg};

pub mod look;
pub mod plan;
pub mod report;
pub mod target;
pub mod watch;
pub mod write;

use look::{Finding, Looked};
use plan::Formatter;
use report::{FormattedArea, Report};
use target::{Kind, Layout, Medium, Shape, Target, TargetError, Wanted};

/// Format lease areas: a lockspace, resources side by side, or a volume with both and an index
///
/// Refuses to overwrite anything that is not blank unless --force is given, and a lockspace that is in use even then.
///
/// Exit status: 0 done, 1 refused or failed, 2 wrong usage; after 2 nothing was written.
#[derive(Debug, clap::Args)]
#[command(subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,

    /// A lockspace as sanlock writes it
    #[arg(short = 's', value_name = "LOCKSPACE:0:PATH:OFFSET", required_unless_present = "resources")]
    lockspaces: Vec<LockspaceArg>,

    /// A resource as sanlock writes it; may be repeated
    #[arg(short = 'r', value_name = "LOCKSPACE:RESOURCE:PATH:OFFSET")]
    resources: Vec<ResourceArg>,

    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Format a lockspace: one sector for each host
    Lockspace {
        /// Its name, up to 48 bytes
        name: SpaceName,
        /// Device or file, and where on it
        #[arg(value_name = "PATH[:OFFSET]")]
        place: Place,
    },
    /// Format one resource or several, on consecutive areas
    #[command(alias = "resources")]
    Resource {
        /// The lockspace they belong to
        lockspace: SpaceName,
        /// Device or file, and where on it the first area begins
        #[arg(value_name = "PATH[:OFFSET]")]
        place: Place,
        /// Their names, up to 48 bytes each
        #[arg(required = true)]
        names: Vec<ResourceName>,
    },
    /// Format a lockspace, a resource index and resources that it lists, one behind the other
    Volume {
        /// Device or file, and where on it the lockspace begins
        #[arg(value_name = "PATH[:OFFSET]")]
        place: Place,
        /// The lockspace's name, up to 48 bytes
        #[arg(long, value_name = "NAME")]
        lockspace: SpaceName,
        /// How many resources, which get the names r1, r2, ...; more can be created in the index later
        #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "names", value_parser = clap::value_parser!(u32).range(..=128_000))]
        resources: u32,
        /// Or their names, up to 48 bytes each
        names: Vec<ResourceName>,
    },
}

impl What {
    /// The areas of a volume, in their places.
    fn volume(space: SpaceName, resources: u32, names: &[ResourceName]) -> Vec<Kind> {
        let numbered = (1..=resources).filter_map(|n| ResourceName::new(format!("r{n}").as_bytes()).ok());
        let resources: Vec<ResourceName> = numbered.chain(names.iter().copied()).collect();
        let leases = std::iter::once(lease_name()).chain(resources.iter().copied());
        let leases: Vec<Kind> = leases.map(|name| Kind::Resource { space, name }).collect();
        [Kind::Lockspace { name: space }, Kind::Index { space, resources }].into_iter().chain(leases).collect()
    }
}

/// Options of both kinds.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Sector size: 512 or 4096 [default: the device's own; 512 for files]
    #[arg(long, short = 'Z', global = true, value_parser = units_arg::sector)]
    sector: Option<SectorSize>,

    /// Length of an area: 1M, 2M, 4M or 8M [default: 1M with sectors of 512 bytes, 8M with 4096]
    #[arg(long, short = 'A', global = true, value_parser = units_arg::align)]
    align: Option<AlignSize>,

    /// Seconds that one I/O of a lockspace's hosts may take, 1 to 255
    #[arg(long, short = 'o', global = true, default_value = "10", value_parser = io_timeout)]
    io_timeout: IoTimeout,

    /// How many host ids a resource serves [default: as many as fit]
    #[arg(long, short = 'n', global = true)]
    max_hosts: Option<u32>,

    /// Overwrite what is there; a lockspace in use is refused all the same
    #[arg(long, global = true)]
    force: bool,

    /// Create the file, or make it as long as the areas need
    #[arg(long, global = true)]
    create: bool,

    /// Show what would be written, and write nothing
    #[arg(long, global = true)]
    dry_run: bool,

    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

fn io_timeout(text: &str) -> Result<IoTimeout, String> {
    let seconds = text.parse().ok().and_then(IoTimeout::new);
    seconds.ok_or_else(|| format!("{text:?} is not an io timeout: expected 1 to 255 seconds"))
}

/// Why nothing, or not everything, was formatted.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The areas cannot be as asked.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The same, as the lease's own crate sees it.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A device cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// This machine does not know itself.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No timer, no thread.
    #[error("cannot start a clock: {0}")]
    Clock(std::io::Error),
    /// The file cannot be made.
    #[error("cannot make {path} {expected} bytes long: {source}")]
    Create {
        /// The file.
        path: String,
        /// Its length to be.
        expected: u64,
        /// Why not.
        source: std::io::Error,
    },
    /// A read or write failed.
    #[error(
        "{what}: {source}; sector 0 of the area is not valid, so neither program accepts it: run this again with --force once the device is well"
    )]
    Write {
        /// Which area.
        what: String,
        /// The failure.
        source: IoError,
    },
    /// A read failed.
    #[error(transparent)]
    Read(IoError),
    /// What was written is not what is read.
    #[error(
        "{what} at offset {offset} of {path}: what was written reads back differently, first at offset {found}; do not use this device"
    )]
    ReadBack {
        /// Which area.
        what: String,
        /// The device.
        path: String,
        /// Where the area begins.
        offset: u64,
        /// The first byte that differs.
        found: u64,
    },
}

impl Args {
    fn wanted(&self) -> Vec<Wanted> {
        let group = |place: &Place, kinds| Wanted { path: place.path.clone(), offset: place.offset, kinds };
        let from_strings =
            self.lockspaces.iter().map(|s| group(&s.place, vec![Kind::Lockspace { name: s.name }])).chain(
                self.resources.iter().map(|r| group(&r.place, vec![Kind::Resource { space: r.space, name: r.name }])),
            );
        let from_subcommand = self.what.iter().map(|what| match what {
            What::Lockspace { name, place } => group(place, vec![Kind::Lockspace { name: *name }]),
            What::Resource { lockspace, place, names } => {
                let kind = |name: &ResourceName| Kind::Resource { space: *lockspace, name: *name };
                group(place, names.iter().map(kind).collect())
            }
            What::Volume { place, lockspace, resources, names } => {
                group(place, What::volume(*lockspace, *resources, names))
            }
        });
        from_strings.chain(from_subcommand).collect()
    }

    const fn shape(&self) -> Shape {
        let Options { sector, align, io_timeout, max_hosts, .. } = self.options;
        Shape { sector, align, hosts: max_hosts, io_timeout }
    }
}

/// Runs the subcommand.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    match init(args) {
        Ok(report) => {
            if args.options.json {
                match serde_json::to_string_pretty(&report) {
                    Ok(text) => say(&format!("{text}\n")),
                    Err(error) => eprintln!("holdfast init: cannot make JSON: {error}"),
                }
            } else if report.refused.is_some() {
                eprint!("{}", report.text());
            } else {
                say(&report.text());
            }
            ExitCode::from(u8::from(report.refused.is_some()))
        }
        Err(error) => {
            eprintln!("holdfast init: {error}");
            ExitCode::from(if matches!(error, InitError::Target(_) | InitError::Format(_)) { 2 } else { 1 })
        }
    }
}

/// The exit status tells of the disk; a reader that has gone (`| true`) changes nothing of that.
fn say(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

type RealDevice = Device<ThreadsEngine, BootClock>;

/// A run under way.
struct Run<'a> {
    args: &'a Args,
    clock: BootClock,
    layout: Layout,
    devices: BTreeMap<usize, RealDevice>,
}

/// Looks, and formats if it may.
///
/// # Errors
/// [`InitError`]. A refusal is no error but part of the report.
pub fn init(args: &Args) -> Result<Report, InitError> {
    let access = if args.options.dry_run { Access::ReadOnly } else { Access::ReadWrite };
    let layout = target::lay_out(&args.wanted(), &args.shape(), args.options.create, access)?;
    let formatter = Formatter { machine: Machine::of_this_host()? };
    let clock = BootClock::new().map_err(InitError::Clock)?;
    let mut run = Run { args, clock, layout, devices: BTreeMap::new() };
    for (number, medium) in run.layout.media.iter().enumerate() {
        if let Some(file) = &medium.file {
            run.devices.insert(number, device(file, &run.clock));
        }
    }
    let mut report = run.planned(formatter)?;
    pollster::block_on(run.go(&mut report))?;
    Ok(report)
}

fn device(file: &Arc<BlockFile>, clock: &BootClock) -> RealDevice {
    // No lease of this lockspace is held here, so D2 limits nothing.
    Device::new(ThreadsEngine::new(Arc::clone(file), 2, "init-io"), clock.clone(), WriteLimit::none())
}

impl Run<'_> {
    fn planned(&self, formatter: Formatter) -> Result<Report, FormatError> {
        let shape = self.args.shape();
        let area = |target: &Target| {
            let uuid = AreaUuid::random();
            let writes = plan::plan(target, &shape, formatter, uuid)?;
            Ok(FormattedArea::of(&self.layout, target, &shape, uuid.0.to_string(), writes))
        };
        Ok(Report {
            format: report::FORMAT,
            dry_run: self.args.options.dry_run,
            done: false,
            refused: None,
            found: Vec::new(),
            areas: self.layout.targets.iter().map(area).collect::<Result<_, FormatError>>()?,
        })
    }

    async fn go(&mut self, report: &mut Report) -> Result<(), InitError> {
        let looked = self.look().await;
        report.found = looked.values().flat_map(|l| l.findings.clone()).collect();
        report.refused = self.refusal(&report.found);
        if report.refused.is_some() {
            return Ok(());
        }
        report.refused = self.watch(&looked).await?;
        if report.refused.is_none() && !self.args.options.dry_run {
            report.refused = self.changed_meanwhile(&looked).await?;
        }
        if report.refused.is_some() || self.args.options.dry_run {
            return Ok(());
        }
        Self::announce(&report.found);
        self.make_room()?;
        self.format(report).await?;
        report.done = true;
        Ok(())
    }

    async fn look(&self) -> BTreeMap<usize, Looked> {
        let mut looked = BTreeMap::new();
        for (number, medium) in self.layout.media.iter().enumerate() {
            let targets: Vec<&Target> = self.layout.targets.iter().filter(|t| t.medium == number).collect();
            if let Some(disk) = self.devices.get(&number) {
                looked.insert(number, look::look(disk, &self.clock, medium, &targets).await);
            }
        }
        looked
    }

    fn refusal(&self, found: &[Finding]) -> Option<String> {
        if self.args.options.force || found.is_empty() {
            return None;
        }
        let held = if found.iter().any(|f| f.held) { " (it is held)" } else { "" };
        Some(format!("what is there is not blank{held}; --force overwrites it"))
    }

    /// What --force is about to destroy, and whose it is, before it happens.
    fn announce(found: &[Finding]) {
        for finding in found {
            let verb = if finding.held { "TAKING" } else { "overwriting" };
            eprintln!("{verb} on {}: {finding}", finding.path);
        }
    }

    /// Watches every lockspace that would be destroyed.
    async fn watch(&self, looked: &BTreeMap<usize, Looked>) -> Result<Option<String>, InitError> {
        let tty = std::io::stderr().is_terminal();
        for (number, looked) in looked {
            let Some(disk) = self.devices.get(number) else { continue };
            for area in &looked.lockspaces {
                let Some(length) = watch::duration(area) else { continue };
                let tick = |left: Duration| {
                    if tty {
                        eprint!("\rwatching the lockspace at {}: {:>4} s left ", area.offset, left.as_secs() + 1);
                    }
                };
                let alive = watch::watch(disk, &self.clock, area, length, tick).await.map_err(InitError::Read)?;
                if tty {
                    eprint!("\r{:60}\r", "");
                }
                if let Some(alive) = alive {
                    return Ok(Some(format!("{}: {alive}", self.layout.media[*number].path)));
                }
            }
        }
        Ok(None)
    }

    /// What was looked at must still be there: a lease may have been taken since.
    async fn changed_meanwhile(&self, looked: &BTreeMap<usize, Looked>) -> Result<Option<String>, InitError> {
        for target in &self.layout.targets {
            let seen = looked.get(&target.medium).and_then(|l| l.seen.get(&target.offset));
            let (Some(disk), Some(seen)) = (self.devices.get(&target.medium), seen) else { continue };
            if seen.bytes.is_empty() {
                continue;
            }
            let deadline = self.clock.now().after(write::DEADLINE);
            let now = disk.read(target.offset, seen.bytes.len(), deadline).await;
            // Where it could not be read before, --force has been told so.
            let Ok(now) = now else { continue };
            if let Some(at) = now.iter().zip(&seen.bytes).position(|(a, b)| a != b) {
                let path = &self.layout.media[target.medium].path;
                let at = target.offset + at as u64;
                return Ok(Some(format!("{path}: somebody wrote at offset {at} while we looked: in use")));
            }
        }
        Ok(None)
    }

    /// Makes files, and makes them longer, as --create allows.
    fn make_room(&mut self) -> Result<(), InitError> {
        for number in 0..self.layout.media.len() {
            let ends = self.layout.targets.iter().filter(|t| t.medium == number).map(Target::end);
            let expected = ends.max().unwrap_or(0);
            let medium = &mut self.layout.media[number];
            if expected > medium.len() {
                lengthen(medium, expected)?;
                let file = Arc::new(BlockFile::open(medium.path.as_ref(), Access::ReadWrite)?);
                self.devices.insert(number, device(&file, &self.clock));
                medium.file = Some(file);
            }
        }
        Ok(())
    }

    async fn format(&self, report: &mut Report) -> Result<(), InitError> {
        let tty = std::io::stderr().is_terminal();
        let all = report.areas.len();
        // The last first: a volume's leases are there before its index, which leads to them, and both before its lockspace.
        for (number, (target, area)) in self.layout.targets.iter().zip(&mut report.areas).rev().enumerate() {
            if tty && all > 1 {
                eprint!("\rformatting {} of {all} ", number + 1);
            }
            let Some(disk) = self.devices.get(&target.medium) else { continue };
            let what = target.kind.to_string();
            let written = write::in_order(disk, &self.clock, &area.writes).await;
            written.map_err(|source| InitError::Write { what: what.clone(), source })?;
            self.read_back(disk, target, area, what).await?;
            area.done = true;
        }
        if tty && all > 1 {
            eprint!("\r{:40}\r", "");
        }
        Ok(())
    }

    async fn read_back(
        &self,
        disk: &RealDevice,
        target: &Target,
        area: &FormattedArea,
        what: String,
    ) -> Result<(), InitError> {
        let len = target.geometry.area_len();
        let differs = write::read_back(disk, &self.clock, target.offset, len, &area.writes).await;
        match differs.map_err(InitError::Read)? {
            None => Ok(()),
            Some(found) => Err(InitError::ReadBack { what, path: area.path.clone(), offset: target.offset, found }),
        }
    }
}

/// A new file, or a longer one. Neither loses a byte that was there.
fn lengthen(medium: &Medium, expected: u64) -> Result<(), InitError> {
    let failed = |source| InitError::Create { path: medium.path.clone(), expected, source };
    let mut options = std::fs::OpenOptions::new();
    // A file that appeared since we looked is somebody's.
    options.write(true).create_new(medium.file.is_none());
    let file = options.open(&medium.path).map_err(failed)?;
    file.set_len(expected).and_then(|()| file.sync_all()).map_err(failed)
}
