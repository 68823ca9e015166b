//! `holdfast demo`: three hosts on one machine, one shared file, and a failover told as a timeline.
//!
//! No root, no block device, no network. Each host is a tree of processes below `holdfast fake-watchdog`: its first
//! process, a real daemon with a run directory of its own, and a guarded program that takes the lease and appends to
//! the shared file. The daemon of the first host is frozen; everything after that is what a hypervisor host does in the
//! same case, in seconds instead of minutes.
//!
//! | module | what |
//! | --- | --- |
//! | `place` | the directories |
//! | `host`, `program` | the processes of a host |
//! | `events` | what they tell |
//! | `cluster` | the hosts, and the end of all of them whatever happens |
//! | `story`, `failover` | what happens when |
//! | `records` | the shared file, and its proof |
//! | `verdict`, `tell` | what is shown |
//!
//! Exit status: 0 the proof holds; 3 it does not: writes of two hosts overlapped, or something happened on the wrong
//! side of its computed instant; 1 the demonstration could not be played to its end.

use std::path::PathBuf;
use std::process::ExitCode;

mod cluster;
mod events;
mod failover;
mod host;
mod place;
mod program;
mod records;
mod story;
mod tell;
mod verdict;

use cluster::ClusterError;
use place::{Place, PlaceError};
use story::{Story, StoryError};
use tell::Teller;

pub use host::Args as HostArgs;
pub use program::Args as ProgramArgs;

/// Exit status when the proof does not hold.
const NOT_SAFE: u8 = 3;

/// Show a failover among three "hosts" on this machine, without root and without a block device
///
/// Takes about half a minute. A lease is taken, refused to others, its owner's daemon frozen; the owner is reset by its
/// watchdog, and another host takes over at the computed instant. At the end the file that all of them wrote is
/// checked.
///
/// Exit status: 0 no two hosts' writes overlapped; 3 they did, or something happened on the wrong side of its computed
/// instant; 1 the demonstration could not be played to its end.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Put the first host's program out of its watchdog's reach: the check at the end must find the overlap
    #[arg(long)]
    sabotage: bool,
    /// One JSON object a line instead of text
    #[arg(long)]
    json: bool,
    /// Keep the directory with the lease areas, the shared file and the daemons' logs
    #[arg(long)]
    keep: bool,
    /// Where to make that directory [default: the temporary directory]
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
}

/// Why there is no demonstration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No place for it.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// Ctrl-C and the like, or nobody reads the timeline any more.
    #[error("the demonstration was interrupted; everything it had started has ended")]
    Interrupted(#[source] Box<StoryError>),
    /// It broke off.
    #[error("the demonstration broke off; the daemons' logs are in {}", kept.display())]
    Story {
        /// Why.
        source: Box<StoryError>,
        /// What is kept.
        kept: PathBuf,
    },
}

/// Plays it.
///
/// # Errors
/// [`Error`]; whatever was started has ended.
pub fn run(args: &Args) -> Result<ExitCode, Error> {
    let mut place = Place::find(args.dir.as_deref())?;
    let teller = Teller::new(args.json);
    let played = Story::new(&teller, &place, args.sabotage).and_then(Story::play);
    if args.keep {
        place.keep();
        eprintln!("kept: {}", place.dirs());
    }
    match played {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => Ok(ExitCode::from(NOT_SAFE)),
        Err(source @ (StoryError::Cluster(ClusterError::Interrupted(_)) | StoryError::Tell(_))) => {
            Err(Error::Interrupted(Box::new(source)))
        }
        Err(source) => {
            place.keep();
            Err(Error::Story { source: Box::new(source), kept: place.base.clone() })
        }
    }
}

/// The first process of a host.
///
/// # Errors
/// It cannot run.
pub fn run_host(args: &HostArgs) -> Result<ExitCode, host::Error> {
    host::run(args)
}

/// The guarded program.
///
/// # Errors
/// It cannot run.
pub fn run_program(args: &ProgramArgs) -> Result<ExitCode, program::Error> {
    program::run(args)
}
