//! The first process of a host: starts its daemon, and its guarded program when told to; ends when the daemon does.
//!
//! Told on standard input, a word a line: `start` (take the lease or be refused), `wait` (take it when it is free),
//! `stop` (SIGTERM to the program). Daemon and program get sessions of their own and die with this process; the fake
//! watchdog above, their subreaper, would end them all the same.

use std::fs::File;
use std::io::BufRead as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};

use holdfast_client::RUN_DIR_VARIABLE;
use holdfast_io::clock::boot_now;
use holdfast_io::sys::process::{ProcessError, pidfd_open, send_signal, spawn_in_own_session};
use nix::errno::Errno;
use nix::sys::signal::Signal;

use super::events::{Event, EventError};

/// The first process of a host of `holdfast demo`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The host's name
    #[arg(long)]
    name: String,
    /// Its host_id
    #[arg(long)]
    host_id: u64,
    /// Its directory: run directory of the daemon, logs
    #[arg(long)]
    dir: PathBuf,
    /// Its watchdog's socket
    #[arg(long)]
    watchdog: PathBuf,
    /// Seconds, as the daemon seals it
    #[arg(long)]
    fire_timeout: u8,
    /// Seconds
    #[arg(long)]
    io_timeout: u8,
    /// The file with the lease areas
    #[arg(long)]
    disk: PathBuf,
    /// The file the program appends to
    #[arg(long)]
    shared: PathBuf,
}

/// Why a host cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or a process.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// Whoever reads its events is gone.
    #[error(transparent)]
    Event(#[from] EventError),
    /// The program cannot be signalled.
    #[error(transparent)]
    Process(#[from] ProcessError),
}

fn cannot(what: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::System { what, source }
}

/// The command that starts the guarded program of a host. Its events go to the standard output it inherits.
///
/// # Errors
/// No log file, or this executable cannot be found.
pub fn program_command(args: &ProgramPlace<'_>, wait: bool) -> Result<Command, Error> {
    let mut command = Command::new(std::env::current_exe().map_err(cannot("find this executable"))?);
    command.arg("demo-program").arg("--host-id").arg(args.host_id.to_string());
    command.arg("--disk").arg(args.disk).arg("--shared").arg(args.shared);
    if wait {
        command.arg("--wait");
    }
    let log = File::options().append(true).create(true).open(args.dir.join("program.log"));
    command.env(RUN_DIR_VARIABLE, args.dir).stdin(Stdio::null()).stderr(log.map_err(cannot("open program.log"))?);
    Ok(command)
}

/// Where a guarded program runs.
#[derive(Clone, Copy, Debug)]
pub struct ProgramPlace<'a> {
    /// Its host's id.
    pub host_id: u64,
    /// Its host's directory.
    pub dir: &'a Path,
    /// The file with the lease areas.
    pub disk: &'a Path,
    /// The file it appends to.
    pub shared: &'a Path,
}

/// What reaches the first process.
enum Note {
    Order(String),
    DaemonEnded(ExitStatus),
    ProgramEnded(ExitStatus),
}

/// Runs the host to the end of its daemon.
///
/// # Errors
/// [`Error`]; the daemon and the program die with this process.
pub fn run(args: &Args) -> Result<ExitCode, Error> {
    let (sender, notes) = channel();
    // The children are tied to the life of the thread that started them: that is this one, which ends with the process.
    let (pid, _daemon) = start(&mut daemon_command(args)?, sender.clone(), Note::DaemonEnded)?;
    Event::Daemon { pid }.tell()?;
    let orders = sender.clone();
    in_thread(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if orders.send(Note::Order(line)).is_err() {
                return;
            }
        }
    })?;
    let mut program = None;
    for note in notes {
        match note {
            Note::Order(order) => obey(args, &order, &sender, &mut program)?,
            Note::ProgramEnded(status) => {
                Event::ProgramEnded { at: boot_now().as_nanos(), how: status.to_string() }.tell()?;
            }
            Note::DaemonEnded(status) => {
                Event::DaemonEnded { how: status.to_string() }.tell()?;
                return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
        }
    }
    Ok(ExitCode::FAILURE)
}

fn obey(args: &Args, order: &str, sender: &Sender<Note>, program: &mut Option<OwnedFd>) -> Result<(), Error> {
    match (order, program.as_ref()) {
        ("start" | "wait", _) => {
            let Args { host_id, dir, disk, shared, .. } = args;
            let place = ProgramPlace { host_id: *host_id, dir, disk, shared };
            let mut command = program_command(&place, order == "wait")?;
            let (pid, pidfd) = start(&mut command, sender.clone(), Note::ProgramEnded)?;
            *program = Some(pidfd);
            Event::Program { pid }.tell()?;
        }
        ("stop", Some(running)) => {
            send_signal(running.as_fd(), Signal::SIGTERM)?;
        }
        // Nothing runs that could be stopped.
        _ => {}
    }
    Ok(())
}

fn daemon_command(args: &Args) -> Result<Command, Error> {
    let log = File::create(args.dir.join("daemon.log")).map_err(cannot("open daemon.log"))?;
    let mut command = Command::new(std::env::current_exe().map_err(cannot("find this executable"))?);
    command.args(["daemon", "-e", &args.name, "-o", &args.io_timeout.to_string()]);
    command.args(["--fire-timeout", &args.fire_timeout.to_string()]).arg("--watchdog").arg(&args.watchdog);
    command.env(RUN_DIR_VARIABLE, &args.dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    Ok(command)
}

/// Starts a child and a thread that waits for its end.
fn start(command: &mut Command, sender: Sender<Note>, ended: fn(ExitStatus) -> Note) -> Result<(i32, OwnedFd), Error> {
    let mut child = spawn_in_own_session(command).map_err(cannot("start a process"))?;
    let pid = i32::try_from(child.id()).unwrap_or(-1);
    // Nobody has waited for the child yet, so its number is its own even if it has ended.
    let gone = || Error::System { what: "take hold of a process", source: Errno::ESRCH.into() };
    let pidfd = pidfd_open(pid)?.ok_or_else(gone)?;
    in_thread(move || {
        if let Ok(status) = child.wait() {
            // This process itself may be about to end.
            let _told = sender.send(ended(status));
        }
    })?;
    Ok((pid, pidfd))
}

fn in_thread(work: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    std::thread::Builder::new().spawn(work).map(drop).map_err(cannot("start a thread"))
}
