//! `holdfast dump`: what stands on a lease device, without any daemon.
//!
//! It never modifies (it opens for reading alone, and everything below is generic over [`ReadDisk`]), accepts damage
//! (what cannot be read or verified is listed and the rest shown), and drops nothing useful (`--long`, `--hex` and
//! `--json` show every field of every sector in use).
//!
//! Exit status: 0 all that was found is whole; 1 something is damaged or unreadable; 2 nothing was found, or the device
//! cannot be opened, or the arguments make no sense.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use holdfast_io::clock::{BootClock, Clock};
use holdfast_io::device::{Device, WriteLimit};
use holdfast_io::disk::ReadDisk;
use holdfast_io::sys::linux::{Access, BlockFile, FileKind, OpenError, ThreadsEngine};

use crate::units_arg::Stretch;

pub mod area;
pub mod fields;
pub mod find;
pub mod hex;
pub mod index;
pub mod lockspace;
pub mod read;
pub mod report;
pub mod resource;
pub mod scan;
pub mod table;

use report::Report;
use scan::Scope;

/// Show the lease areas on a device or in a file: lockspaces and their hosts, resources and their owners
///
/// Reads only; needs no daemon and disturbs none. Areas are found by themselves at every 1 MiB. Without LENGTH the
/// search ends after 1 GiB without a lease area.
///
/// Exit status: 0 everything found is whole, 1 something is damaged or cannot be read, 2 nothing found, not to be
/// opened, or wrong usage.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Device or file, where to begin and how far to look: PATH, PATH:OFFSET or PATH:OFFSET:LENGTH, as in /dev/sdb:8M:1M
    #[arg(value_name = "PATH[:OFFSET[:LENGTH]]")]
    pub stretch: Stretch,

    /// Show every dblock, seal and writer as well
    #[arg(long, conflicts_with_all = ["json", "hex"])]
    pub long: bool,

    /// Print JSON, whose shape docs/on-disk-format.md describes
    #[arg(long, conflicts_with = "hex")]
    pub json: bool,

    /// Print every field of every sector in use, with its bytes and its meaning
    #[arg(long)]
    pub hex: bool,
}

/// What keeps a device from being dumped.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// No timer, no thread.
    #[error("cannot start a clock: {0}")]
    Clock(std::io::Error),
    /// Where to begin is not on a sector boundary.
    #[error("{path}: offset {found} is not a multiple of the device's sectors of {expected} bytes")]
    Misaligned {
        /// The device.
        path: String,
        /// As given.
        found: u64,
        /// The sector size.
        expected: usize,
    },
    /// How far to look is no whole number of sectors.
    #[error("{path}: length {found} is no whole number of the device's sectors of {expected} bytes")]
    Length {
        /// The device.
        path: String,
        /// As given.
        found: u64,
        /// The sector size.
        expected: usize,
    },
    /// Where to begin is behind the end.
    #[error("{path}: offset {found} is behind the end at {expected}")]
    BehindEnd {
        /// The device.
        path: String,
        /// As given.
        found: u64,
        /// Its length.
        expected: u64,
    },
}

/// Everything found.
///
/// # Errors
/// [`DumpError`]; damage is no error.
pub fn dump(stretch: &Stretch) -> Result<Report, DumpError> {
    let file = Arc::new(BlockFile::open(Path::new(&stretch.path), Access::ReadOnly)?);
    let clock = BootClock::new().map_err(DumpError::Clock)?;
    let disk = Device::new(ThreadsEngine::new(Arc::clone(&file), 4, "dump-io"), clock.clone(), WriteLimit::none());
    pollster::block_on(report(&disk, &clock, &file, stretch))
}

async fn report<D: ReadDisk, C: Clock>(
    disk: &D,
    clock: &C,
    file: &BlockFile,
    stretch: &Stretch,
) -> Result<Report, DumpError> {
    let (path, unit, end) = (stretch.path.clone(), file.sector().bytes(), file.len());
    let from = stretch.offset;
    if !from.is_multiple_of(unit as u64) {
        return Err(DumpError::Misaligned { path, found: from, expected: unit });
    }
    if let Some(found) = stretch.length.filter(|len| !len.is_multiple_of(unit as u64)) {
        return Err(DumpError::Length { path, found, expected: unit });
    }
    if from >= end && end > 0 {
        return Err(DumpError::BehindEnd { path, found: from, expected: end });
    }
    let to = stretch.length.map_or(end, |len| from.saturating_add(len).min(end));
    let scope = Scope { from, to, may_stop: stretch.length.is_none() };
    let scanned = scan::scan(disk, clock, unit, end, scope).await;
    Ok(Report {
        format: report::FORMAT,
        path,
        device: match file.kind() {
            FileKind::Block => "block device",
            FileKind::LocalFile => "file",
            FileKind::RemoteFile => "file on a shared file system",
        },
        bytes: end,
        device_sector_size: unit,
        from,
        more: scanned.to < to,
        to: scanned.to,
        areas: scanned.areas,
        unreadable: scanned.unreadable,
    })
}

/// Runs the subcommand.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let report = match dump(&args.stretch) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("holdfast dump: {error}");
            return ExitCode::from(2);
        }
    };
    let text = match render(&report, args) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("holdfast dump: cannot make the output: {error}");
            return ExitCode::from(2);
        }
    };
    // A reader that has gone (`| head`) has seen what it wanted.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    ExitCode::from(status(&report))
}

/// The exit status that a report deserves.
#[must_use]
pub fn status(report: &Report) -> u8 {
    match (report.areas.is_empty(), report.all_damage().next().is_some()) {
        (_, true) => 1,
        (true, false) => 2,
        (false, false) => 0,
    }
}

fn render(report: &Report, args: &Args) -> Result<String, Box<dyn std::error::Error>> {
    let mut text = String::new();
    if args.json {
        text = serde_json::to_string_pretty(report)?;
        text.push('\n');
    } else if args.hex {
        writeln!(text, "{}: {} bytes", report.path, report.bytes)?;
        hex::write(&mut text, report)?;
    } else {
        let detail = if args.long { table::Detail::Long } else { table::Detail::Short };
        table::write(&mut text, report, detail)?;
    }
    Ok(text)
}
