//! Programs whose work must be done by one host at a time, on a disk that all hosts share.
//!
//! What they write is for the harness, through whose hands every write goes: one block that starts with a line of JSON, `host`,
//! `lver` - the version of the lease under which it is written -, `seq`, and `count` of a counter.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Args;
use holdfast_client::Endpoint;
use holdfast_client::blocking::{Connection, Registered};
use holdfast_client::protocol::arguments::parse_resource;
use holdfast_client::protocol::codes::ResultCode;
use holdfast_client::protocol::command::{AcquireFlags, ReleaseFlags};
use holdfast_client::protocol::{Options, Resource};
use holdfast_io::sys::aligned::AlignedBuf;
use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use crate::ring::Ring;

/// The size of a block, which every disk here can write whole.
const BLOCK: usize = 4096;
/// Between two attempts to get a lease.
const PAUSE: Duration = Duration::from_millis(50);
/// What ends by itself.
const TRY_AGAIN: [ResultCode; 5] = [
    ResultCode::HELD_BY_LIVE_HOST,
    ResultCode::LOST_BALLOT,
    ResultCode::LOST_COMMIT,
    ResultCode::OWNER_NOT_DEAD_YET,
    ResultCode::EAGAIN,
];

/// Under which lease, and where the work is done.
#[derive(Args)]
pub struct Under {
    /// LOCKSPACE:RESOURCE:PATH:OFFSET
    #[arg(long)]
    lease: String,
    /// The disk.
    #[arg(long)]
    disk: PathBuf,
    /// Which block of it.
    #[arg(long, default_value_t = 0)]
    block: u64,
    /// Which host this is.
    #[arg(long)]
    host: u64,
}

/// What is in a block.
#[derive(Serialize, Deserialize, Default)]
struct Written {
    host: u64,
    lver: u64,
    seq: u64,
    count: u64,
}

struct Disk {
    file: File,
    at: u64,
}

impl Disk {
    fn open(under: &Under) -> io::Result<Self> {
        let flags = OFlag::O_DIRECT | OFlag::O_DSYNC;
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(&under.disk)?;
        Ok(Disk { file, at: under.block * BLOCK as u64 })
    }

    fn write(&self, what: &Written) -> Result<(), Box<dyn Error>> {
        let mut block = AlignedBuf::zeroed(BLOCK);
        let line = serde_json::to_vec(what)?;
        block.get_mut(..line.len()).ok_or("too long")?.copy_from_slice(&line);
        Ok(self.file.write_all_at(&block, self.at)?)
    }

    fn read(&self) -> Result<Written, Box<dyn Error>> {
        let mut block = AlignedBuf::zeroed(BLOCK);
        self.file.read_exact_at(&mut block, self.at)?;
        let line = block.split(|byte| *byte == 0).next().unwrap_or_default();
        if line.is_empty() { Ok(Written::default()) } else { Ok(serde_json::from_slice(line)?) }
    }
}

struct Client {
    registered: Registered,
    lease: Resource,
}

impl Client {
    fn come(under: &Under) -> Result<Self, Box<dyn Error>> {
        let registered = Connection::open(&Endpoint::from_environment())?.register()?;
        Ok(Client { registered, lease: parse_resource(&under.lease)? })
    }

    /// Waits for the lease; its version.
    fn acquire(&mut self) -> Result<u64, Box<dyn Error>> {
        let mut refused = None;
        loop {
            let asked = self.registered.acquire(AcquireFlags::NONE, vec![self.lease.clone()], Options::default());
            let Err(error) = asked else { break };
            let code = error.refusal().filter(|code| TRY_AGAIN.contains(code)).ok_or(error)?;
            if refused != Some(code) {
                println!("refused {code}");
                refused = Some(code);
            }
            sleep(PAUSE);
        }
        let held = self.registered.inquire()?.state;
        let state = String::from_utf8(held)?;
        let lver = state.trim_end_matches('\0').rsplit(':').next().unwrap_or_default();
        Ok(lver.parse().map_err(|_| format!("no version in {state:?}"))?)
    }

    fn release(&mut self) -> Result<(), Box<dyn Error>> {
        self.registered.release(ReleaseFlags::NONE, vec![self.lease.head.clone()])?;
        Ok(())
    }
}

/// Takes the lease, and writes until killed, through a ring if that is wanted. A write that fails is said once, and tried again: a guest
/// does not end at that.
pub fn guarded(under: &Under, every: Duration, through_ring: bool) -> Result<(), Box<dyn Error>> {
    let disk = Disk::open(under)?;
    let mut ring = through_ring.then(|| Ring::new(disk.file.try_clone()?, BLOCK)).transpose()?;
    let mut client = Client::come(under)?;
    let lver = client.acquire()?;
    println!("acquired lver={lver}");
    let (mut seq, mut failing) = (0, false);
    loop {
        seq += 1;
        let written = Written { host: under.host, lver, seq, count: 0 };
        let done = match &mut ring {
            Some(ring) => ring.write(&serde_json::to_vec(&written)?, disk.at).map_err(Into::into),
            None => disk.write(&written),
        };
        match &done {
            Err(error) if !failing => println!("write failed: {error}"),
            Ok(()) if failing => println!("writes again"),
            _ => {}
        }
        failing = done.is_err();
        sleep(every);
    }
}

/// Raises the counter under the lease, again and again, and says how often.
pub fn count(under: &Under, during: Duration) -> Result<(), Box<dyn Error>> {
    let disk = Disk::open(under)?;
    let mut client = Client::come(under)?;
    let (begun, mut rounds) = (Instant::now(), 0);
    while begun.elapsed() < during {
        let lver = client.acquire()?;
        let count = disk.read()?.count + 1;
        disk.write(&Written { host: under.host, lver, seq: rounds, count })?;
        client.release()?;
        rounds += 1;
        // Whoever waits asks again every 50 ms.
        sleep(PAUSE);
    }
    println!("counted rounds={rounds}");
    Ok(())
}
