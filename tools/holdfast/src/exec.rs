//! `holdfast exec`: runs a command that holds leases, from before its first instruction until its end.
//!
//! COMMAND itself is the daemon's client. Two processes make that so:
//!
//! | | the outer one, `holdfast exec` | the inner one, which becomes COMMAND |
//! | --- | --- | --- |
//! | starts | the inner one, `/proc/self/exe`, as leader of a process group of its own | |
//! | then | passes signals and the terminal on, waits | connects, registers, acquires, and executes COMMAND |
//! | holds | nothing of the lease | the registered connection, which survives `exec`, as the pid does |
//! | ends | with COMMAND's status | its exit, with the end of its connection: the daemon gives the leases back |
//!
//! So the outer one may be killed at any time (S1): until the inner one executes COMMAND it dies with the outer one, which
//! ends a wait as well; from then on COMMAND runs on with its leases. COMMAND's descendants inherit the connection too:
//! as long as one of them has it open the leases stay, and the daemon, should it have to end COMMAND, ends its process
//! group and every heir of the connection. The connection is moved to a high descriptor, out of the way of shell
//! scripts that use 3 to 9. A COMMAND that closes descriptors it does not know (sudo does) keeps its leases all the same
//! until it exits; its descendants are then no longer found by the connection, only by the process group.
//!
//! Signals: what a keyboard sends (INT, QUIT, TSTP, HUP, CONT, WINCH) and TERM go to COMMAND's whole group, USR1 and USR2 to
//! COMMAND alone. The terminal belongs to one group at a time: COMMAND's gets it at once when standard input and output
//! are that terminal, otherwise when it stops for the want of it; if COMMAND is stopped from the keyboard, the outer
//! one takes it back and stops as well.
//!
//! Exit status: COMMAND's own, 128 + n if signal n ended it; 69 the leases were refused; 75 the time of `--wait` was
//! over; 125 no daemon, or another failure before COMMAND; 126 COMMAND cannot be executed; 127 it is not found; 2 wrong
//! usage. COMMAND never ran in the last six.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::str::FromStr;
use std::time::Duration;

use clap::Args as ClapArgs;
use holdfast_client::blocking::{Connection, Registered};
use holdfast_client::{ClientError, Endpoint};
use holdfast_io::clock::boot_now;
use holdfast_io::sys::process::{ProcessError, keep_across_exec, spawn_in_own_group};
use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::command::{AcquireFlags, RestrictFlags};
use holdfast_protocol::payload::{MAX_RESOURCES, Options, Resource};
use holdfast_protocol::text::Name48;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getpgrp, getpid, getppid};

use crate::client_cmd::{CommandError, ResourceArg, complain, time};
use crate::refusal::{Held, Holder, Refusal, Sentences, holders};

mod outer;

/// The leases were refused.
const REFUSED: u8 = 69;
/// They could not be had in the time given.
const WAITED_IN_VAIN: u8 = 75;
/// Something else failed before COMMAND.
const FAILED: u8 = 125;
/// COMMAND cannot be executed.
const NOT_EXECUTABLE: u8 = 126;
/// There is no such COMMAND.
const NOT_FOUND: u8 = 127;

/// How long a lease may take to be given back before that counts as a refusal.
const MOMENT: Duration = Duration::from_secs(5);

/// The descriptor of the connection in COMMAND, or the first free one above.
const HIGH_DESCRIPTOR: i32 = 200;

/// Run a command that holds leases until its end
///
/// COMMAND starts once all the leases are held and not before; they are given back when it, and whatever it started
/// that still has its connection to the daemon open, has ended. Killing `holdfast exec` itself leaves COMMAND and its
/// leases alone. Of a COMMAND that closes descriptors it does not know, as sudo does, only COMMAND itself and its process
/// group are guarded: put sudo in front of `holdfast exec`. TERM, INT, HUP, QUIT are passed on to COMMAND and its process group, USR1 and USR2 to COMMAND.
///
/// Exit status: COMMAND's own, 128 + n if signal n ended it. If COMMAND was not started: 69 refused, 75 waited in vain,
/// 125 no daemon or another failure, 126 COMMAND cannot be executed, 127 COMMAND not found, 2 wrong usage.
#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    /// A lease to hold; repeat it for several, all or none
    #[arg(short = 'r', long = "resource", required = true, value_name = "LOCKSPACE:RESOURCE:PATH:OFFSET")]
    resources: Vec<ResourceArg>,
    /// Wait for leases that others hold, in the order of arrival: without SECONDS for ever
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "forever")]
    wait: Option<Wait>,
    /// What `holdfast status` calls this client; COMMAND's name if not given
    #[arg(long, value_name = "NAME", value_parser = name48)]
    name: Option<Name48>,
    /// What to run
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// The inner process; started by the outer one alone.
#[derive(ClapArgs, Debug)]
pub struct InnerArgs {
    /// The outer process.
    #[arg(long)]
    outer: i32,
    #[command(flatten)]
    args: Args,
}

/// `--wait`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wait {
    Forever,
    For(Duration),
}

impl FromStr for Wait {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "forever" {
            return Ok(Self::Forever);
        }
        let seconds = text.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
        seconds.map(Self::For).ok_or_else(|| format!("expected seconds, such as 30 or 0.5, found {text:?}"))
    }
}

fn name48(text: &str) -> Result<Name48, String> {
    match Name48::new(text) {
        Ok(_) if text.chars().any(char::is_control) => Err("contains a control character".into()),
        other => other.map_err(|e| e.to_string()),
    }
}

/// What keeps COMMAND from being started.
#[derive(Debug, thiserror::Error)]
enum ExecError {
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error("{held}Given up after waiting {after}.", held = Sentences(held), after = time(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)))]
    InVain { held: Vec<Held>, limit: Duration },
    #[error("cannot execute {program}: {source}")]
    Exec { program: String, source: io::Error },
    #[error("{0} resources, but one call takes at most {MAX_RESOURCES}")]
    TooMany(usize),
    #[error("`holdfast exec` ended")]
    OuterGone,
    #[error("not the leader of a process group of its own: this is started by `holdfast exec` alone")]
    NoLeader,
    #[error("{operation} failed: {source}")]
    Call { operation: &'static str, source: Errno },
    #[error("cannot start the process that becomes COMMAND: {0}")]
    Spawn(io::Error),
    #[error(transparent)]
    Process(#[from] ProcessError),
}

impl From<ClientError> for ExecError {
    fn from(error: ClientError) -> Self {
        Self::Command(error.into())
    }
}

impl ExecError {
    fn status(&self) -> u8 {
        match self {
            Self::Command(CommandError::Held(_)) => REFUSED,
            Self::InVain { .. } => WAITED_IN_VAIN,
            Self::Exec { source, .. } if source.kind() == io::ErrorKind::NotFound => NOT_FOUND,
            Self::Exec { .. } => NOT_EXECUTABLE,
            _ => FAILED,
        }
    }

    fn tell(&self, args: &Args) -> ExitCode {
        match self {
            Self::Command(error) => complain(error),
            other => eprintln!("holdfast: {other}"),
        }
        if matches!(self, Self::Command(CommandError::Held(refusal)) if !refusal.held.is_empty()) && args.wait.is_none()
        {
            eprintln!("Use --wait to wait for it.");
        }
        ExitCode::from(self.status())
    }
}

fn call(operation: &'static str) -> impl FnOnce(Errno) -> ExecError {
    move |source| ExecError::Call { operation, source }
}

/// Runs the outer process.
pub fn run(args: &Args) -> ExitCode {
    let started = outer::Signals::block().and_then(|signals| Ok((signals, start_inner(args)?)));
    match started.and_then(|(signals, inner)| outer::accompany(inner, &signals)) {
        Ok(status) => ExitCode::from(status),
        Err(error) => error.tell(args),
    }
}

/// Starts this executable once more, with the same arguments.
fn start_inner(args: &Args) -> Result<Pid, ExecError> {
    if args.resources.len() > MAX_RESOURCES {
        return Err(ExecError::TooMany(args.resources.len()));
    }
    let mut inner = Command::new("/proc/self/exe");
    inner.arg0("holdfast").arg("exec-inner").arg("--outer").arg(getpid().to_string());
    for resource in &args.resources {
        inner.arg(format!("--resource={}", resource.text));
    }
    match args.wait {
        Some(Wait::Forever) => drop(inner.arg("--wait")),
        Some(Wait::For(limit)) => drop(inner.arg(format!("--wait={}", limit.as_secs_f64()))),
        None => {}
    }
    if let Some(name) = args.name {
        inner.arg(format!("--name={name}"));
    }
    inner.arg("--").args(&args.command);
    let child = spawn_in_own_group(&mut inner).map_err(ExecError::Spawn)?;
    // `Child` neither waits nor kills when dropped; whoever accompanies the process waits for it by pid.
    Ok(Pid::from_raw(child.id().cast_signed()))
}

/// Runs the inner process, up to where it is COMMAND.
pub fn run_inner(inner: &InnerArgs) -> ExitCode {
    match become_command(inner) {
        Ok(never) => match never {},
        Err(error) => error.tell(&inner.args),
    }
}

fn become_command(inner: &InnerArgs) -> Result<std::convert::Infallible, ExecError> {
    if getpgrp() != getpid() {
        // The kill ladder ends the group of this process: it must hold nothing but COMMAND.
        return Err(ExecError::NoLeader);
    }
    // Until COMMAND runs nobody else wants the leases: they end, and a wait ends, with the outer process.
    set_pdeathsig(Signal::SIGKILL).map_err(call("prctl(PR_SET_PDEATHSIG)"))?;
    if getppid().as_raw() != inner.outer {
        return Err(ExecError::OuterGone); // it died before the line above
    }
    // The outer process blocked what it passes on; COMMAND starts with nothing blocked.
    SigSet::empty().thread_set_mask().map_err(call("sigprocmask"))?;
    let registered = acquire(&inner.args)?;
    keep(&registered)?;
    // From here on COMMAND may exist without the outer process, with its leases.
    set_pdeathsig(None).map_err(call("prctl(PR_SET_PDEATHSIG)"))?;
    Err(execute(&inner.args.command))
}

/// A connection that owns the leases.
fn acquire(args: &Args) -> Result<Registered, ExecError> {
    let endpoint = Endpoint::from_environment();
    let (endpoint, flags) = match args.wait {
        None => (endpoint, AcquireFlags::GROUP | AcquireFlags::OWNER_NOWAIT),
        Some(Wait::Forever) => (endpoint, AcquireFlags::GROUP | AcquireFlags::WAIT),
        Some(Wait::For(limit)) => (endpoint.with_deadline(limit), AcquireFlags::GROUP | AcquireFlags::WAIT),
    };
    let resources: Vec<Resource> = args.resources.iter().map(|r| r.resource.clone()).collect();
    let options =
        Options { owner_name: args.name.unwrap_or_else(|| default_name(&args.command)), ..Options::default() };
    let mut registered = Connection::open(&endpoint)?.register()?;
    let patience = boot_now().after(MOMENT);
    let error = loop {
        match registered.acquire(flags, resources.clone(), options.clone()) {
            Ok(()) => {
                // The command may run by fewer rights than we have, and the connection asks by ours: from now on for nothing.
                registered.restrict(RestrictFlags::ALL)?;
                return Ok(registered);
            }
            Err(error) if boot_now() < patience && only_a_moment(&error, &resources) => pause(),
            Err(error) => break error,
        }
    };
    drop(registered); // what was under way ends here, and does not stand in its own way below
    Err(match (&error, args.wait) {
        (ClientError::Refused { code, .. }, _) => CommandError::Held(Refusal::of(&resources, *code)).into(),
        (ClientError::Deadline { .. }, Some(Wait::For(limit))) => {
            ExecError::InVain { held: holders(&resources), limit }
        }
        _ => error.into(),
    })
}

/// A lease that this host is just giving back, as after a COMMAND that has ended a moment ago, is not held by anyone.
fn only_a_moment(error: &ClientError, resources: &[Resource]) -> bool {
    let leaving = |held: &Held| matches!(&held.by, Holder::Process(lease) if lease.state == "releasing");
    error.refusal() == Some(ResultCode::EAGAIN) && holders(resources).iter().all(leaving)
}

fn pause() {
    let _ = poll(&mut [], PollTimeout::from(20_u8));
}

/// COMMAND's file name.
fn default_name(command: &[OsString]) -> Name48 {
    let program = command.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
    let text = program.to_string_lossy();
    let fits = text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= 48).last().unwrap_or(0);
    Name48::cut(text.as_bytes().get(..fits).unwrap_or_default())
}

/// Lets the connection survive `exec`, at a descriptor that scripts do not use for themselves.
fn keep(registered: &Registered) -> Result<(), ExecError> {
    match fcntl(registered, FcntlArg::F_DUPFD(HIGH_DESCRIPTOR)) {
        Ok(_) => Ok(()), // not close-on-exec, and left open on purpose; the first one is closed by exec
        Err(Errno::EINVAL | Errno::EMFILE) => Ok(keep_across_exec(registered)?),
        Err(source) => Err(ExecError::Call { operation: "fcntl(F_DUPFD)", source }),
    }
}

fn execute(command: &[OsString]) -> ExecError {
    let (program, arguments) = match command.split_first() {
        Some((program, arguments)) => (program.clone(), arguments),
        None => (OsString::new(), command),
    };
    let source = Command::new(&program).args(arguments).exec();
    ExecError::Exec { program: program.to_string_lossy().into_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_for_ever_or_for_seconds() {
        assert_eq!("forever".parse(), Ok(Wait::Forever));
        assert_eq!("0.5".parse(), Ok(Wait::For(Duration::from_millis(500))));
        for text in ["", "-1", "soon", "inf", "NaN"] {
            assert!(text.parse::<Wait>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_client_is_called_by_its_commands_file_name_cut_between_characters() {
        assert_eq!(default_name(&["/usr/bin/qemu".into()]).to_string(), "qemu");
        let long = format!("{}ü", "x".repeat(47));
        assert_eq!(default_name(&[long.into()]).to_string(), "x".repeat(47));
        assert_eq!(default_name(&[]), Name48::EMPTY);
    }
}
