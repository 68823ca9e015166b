//! The guarded program: what must run on one host only.
//!
//! It takes the lease itself, over a connection that it holds until it ends, then appends to the shared file every few
//! milliseconds. It knows no lease timing and never asks again: like a virtual machine, it writes until something ends
//! it. Refused, it says who is in the way and ends with status 3.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use holdfast_client::blocking::Connection;
use holdfast_client::protocol::strings::{StringFault, parse_state};
use holdfast_client::protocol::text::TextError;
use holdfast_client::protocol::{AcquireFlags, Disk, DiskPath, Name48, Options, Resource, ResourceHead};
use holdfast_client::{ClientError, Endpoint};
use holdfast_io::clock::{BootClock, Clock as _};

use super::events::{Event, EventError};
use super::records::Record;

/// The lockspace of a demonstration.
pub const LOCKSPACE: &str = "demo";
/// Its one resource.
pub const RESOURCE: &str = "vm";
/// Where the resource's area begins: right behind the lockspace's.
pub const RESOURCE_OFFSET: u64 = 1 << 20;

/// Between two writes.
const PAUSE: Duration = Duration::from_millis(5);

/// The guarded program of `holdfast demo`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// host_id, for the records
    #[arg(long)]
    host_id: u64,
    /// The file with the lease areas
    #[arg(long)]
    disk: PathBuf,
    /// The file to append to
    #[arg(long)]
    shared: PathBuf,
    /// Wait for the lease instead of being refused
    #[arg(long)]
    wait: bool,
}

/// What ends it other than a signal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The daemon.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Whoever reads its events is gone.
    #[error(transparent)]
    Event(#[from] EventError),
    /// The path of the lease areas.
    #[error("path of the lease areas: {0}")]
    Path(#[from] TextError),
    /// The daemon's answer to INQUIRE.
    #[error("the leases we own: {0}")]
    State(#[from] StringFault),
    /// INQUIRE knows nothing of our lease.
    #[error("the daemon granted the lease but does not list it as ours")]
    NotOurs,
    /// The shared file.
    #[error("{}: {source}", path.display())]
    Shared {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No clock.
    #[error("no timer: {0}")]
    Clock(std::io::Error),
}

/// The resource of the demonstration on `disk`.
///
/// # Errors
/// A path that is too long for the wire.
pub fn resource(disk: &Path) -> Result<Resource, TextError> {
    let head = ResourceHead::named(Name48::new(LOCKSPACE)?, Name48::new(RESOURCE)?);
    Ok(Resource::new(head, vec![Disk::new(DiskPath::new(disk.as_os_str().as_bytes())?, RESOURCE_OFFSET)]))
}

/// Runs it. Ends only when refused, on an error, or by a signal.
///
/// # Errors
/// [`Error`].
pub fn run(args: &Args) -> Result<ExitCode, Error> {
    let endpoint = Endpoint::from_environment();
    let clock = BootClock::new().map_err(Error::Clock)?;
    let wanted = resource(&args.disk)?;
    let mut client = Connection::open(&endpoint)?.register()?;
    // It was started as the leader of its session, hence of a process group of its own: the ladder may end that.
    let mut flags = AcquireFlags::GROUP;
    if args.wait {
        flags = flags | AcquireFlags::WAIT;
        Event::Waiting { at: clock.now().as_nanos() }.tell()?;
    }
    let options = Options { owner_name: Name48::new("demo-program")?, ..Options::default() };
    if let Err(error) = client.acquire(flags, vec![wanted.clone()], options) {
        let at = clock.now().as_nanos();
        let code = error.refusal().ok_or_else(|| error.clone())?;
        let explained = Connection::open(&endpoint)?.explain(wanted)?;
        let explained = serde_json::from_slice(&explained).unwrap_or(serde_json::Value::Null);
        Event::Refused { at, code: code.number(), why: code.to_string(), explained }.tell()?;
        return Ok(ExitCode::from(3));
    }
    let at = clock.now().as_nanos();
    let state = client.inquire()?.state;
    let ours = parse_state(state.strip_suffix(b"\0").unwrap_or(&state))?;
    let lver = ours.first().ok_or(Error::NotOurs)?.head.lver;
    Event::Acquired { at, lver }.tell()?;
    let ended = write_for_ever(args, lver, &clock);
    // The connection, and with it the lease, must outlive the last write.
    drop(client);
    ended
}

fn write_for_ever(args: &Args, lver: u64, clock: &BootClock) -> Result<ExitCode, Error> {
    let failed = |source| Error::Shared { path: args.shared.clone(), source };
    let mut shared = OpenOptions::new().append(true).create(true).open(&args.shared).map_err(failed)?;
    let mut seq = 0;
    loop {
        let record = Record { host: args.host_id, lver, seq, at: clock.now() };
        shared.write_all(&record.encode()).map_err(failed)?;
        seq += 1;
        pollster::block_on(clock.sleep(PAUSE));
    }
}
