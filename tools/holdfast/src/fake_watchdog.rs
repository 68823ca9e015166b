//! `holdfast fake-watchdog`: a watchdog device for a "host" that is a tree of processes, so that a reset can be shown
//! and tested on one machine, without root.
//!
//! It starts COMMAND, the host, in a session of its own, stays outside of it, and is the subreaper of everything below
//! it: a daemon of the host that forks twice, makes its own session or its own group stays in the tree. A unix socket
//! stands for the device; `holdfastd --watchdog SOCKET` opens it. The protocol is `holdfast_daemon::watchdog::wire`.
//!
//! | the client | the device |
//! | --- | --- |
//! | connects | opened: armed and petted; a second connection is answered `EBUSY` and closed |
//! | sends KEEPALIVE | petted |
//! | sends SETTIMEOUT n | timeout n, rounded up to the granularity, petted; `EINVAL` for 0 or above 65535 |
//! | sends MAGIC_CLOSE (`V`) | petted; the close that follows disarms it |
//! | closes, or dies, without `V`, or at all with `--nowayout` | petted once more, and it counts on |
//! | lets the timeout pass on `CLOCK_BOOTTIME` | it *fires*; a pet that comes later is late |
//!
//! Firing stops every process of the host, then kills them all, and reaps until none is left. Stopping comes first
//! because a process that forks while its siblings are killed could stay ahead of the killing for ever; once every
//! known process has been sent SIGSTOP, a fork either is in /proc already or does not happen.
//!
//! What a real device tells in sysfs without being opened (`holdfast_daemon::watchdog::facts`) is in files beside the socket, in
//! `SOCKET.attributes`. They outlast this program, as a real one's reason for the last reset outlasts the reset: the next one on the same
//! socket says there that the one before has fired.
//!
//! Exit status: 64 after firing (also with nothing left to kill); 65 after SIGTERM, SIGINT or SIGHUP, which are the
//! power switch: the host is killed in the same way; otherwise, once the whole tree has ended and the device is
//! disarmed or was never opened, COMMAND's own, 128 + n for signal n; 1 for an error. One line on standard output says
//! which. Killed by SIGKILL itself, it takes COMMAND along but can do nothing about the rest of the tree.
//!
//! Errors: [`Error`]; whatever goes wrong after COMMAND was started, the tree is killed before it is reported.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use holdfast_daemon::procfs::{ProcError, ProcessId, Procfs, descendants_of};
use holdfast_daemon::watchdog::{facts, wire};
use holdfast_io::clock::{LocalInstant, boot_now};
use holdfast_io::sys::process::{ProcessError, become_subreaper, send_signal, spawn_in_own_session};
use holdfast_io::sys::watchdog::CARD_RESET;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Exit status after the watchdog fired.
pub const FIRED: u8 = 64;
/// Exit status after the power switch, a termination signal.
pub const POWERED_OFF: u8 = 65;

/// Run COMMAND as a "host" that a fake watchdog device kills with every descendant unless it is petted in time
///
/// For demonstrations and tests. Exits with 64 after the watchdog fired, 65 when it was terminated itself (the host is
/// killed then, too), and with COMMAND's status when everything below it ended while the device was not armed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Unix socket that stands for the device; give it to holdfastd as --watchdog
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Round every timeout up to a multiple of this, as coarse hardware does
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=3600))]
    granularity: u32,
    /// Timeout the device counts with until it is set
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=65535))]
    timeout: u32,
    /// Cannot be stopped once it counts, as a driver that was loaded with nowayout
    #[arg(long)]
    nowayout: bool,
    /// Turn the power off when the process that started this one dies
    #[arg(long)]
    die_with_parent: bool,
    /// The host: a program and its arguments
    #[arg(last = true, required = true, num_args = 1.., value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Why there is no fake watchdog, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket cannot be made.
    #[error("{}: the socket cannot be made: {source}", path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is something at the socket's path that is not a dead socket.
    #[error("{}: expected nothing or a socket nobody listens on, found {found}", path.display())]
    InUse {
        /// The path.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// COMMAND cannot be started.
    #[error("{}: the host cannot be started: {source}", Path::new(command).display())]
    Start {
        /// The program.
        command: OsString,
        /// Why.
        source: std::io::Error,
    },
    /// A system call failed.
    #[error("{operation} failed: {source}")]
    Call {
        /// The call.
        operation: &'static str,
        /// Why.
        source: Errno,
    },
    /// /proc cannot be read.
    #[error("the processes of the host cannot be found: {0}")]
    Proc(#[from] ProcError),
    /// A process cannot be signalled.
    #[error("a process of the host cannot be ended: {0}")]
    Process(#[from] ProcessError),
}

fn failed(operation: &'static str) -> impl Fn(Errno) -> Error {
    move |source| Error::Call { operation, source }
}

/// The device: when it fires, as a pure function of what was done to it and when.
#[derive(Debug)]
struct Device {
    timeout: u32,
    granularity: u32,
    open: bool,
    armed: bool,
    may_release: bool,
    nowayout: bool,
    last_pet: LocalInstant,
    /// Where it is told what it does, unless nobody is to know.
    attributes: Option<Attributes>,
}

/// What stands in `state` once it has fired: so the next one knows.
const FIRED_STATE: &str = "fired";

/// The directory beside the socket. What cannot be written is not told: nothing relies on it.
#[derive(Debug)]
struct Attributes(PathBuf);

impl Attributes {
    fn beside(socket: &Path, nowayout: bool) -> Self {
        let attributes = Attributes(facts::beside(socket));
        let _there_already = std::fs::create_dir_all(&attributes.0);
        let fired = std::fs::read_to_string(attributes.0.join("state")).is_ok_and(|state| state.trim() == FIRED_STATE);
        attributes.write("bootstatus", if fired { CARD_RESET } else { 0 });
        attributes.write("identity", "fake-watchdog");
        attributes.write("nowayout", u32::from(nowayout));
        attributes.write("min_timeout", 1);
        attributes.write("max_timeout", Device::LONGEST);
        attributes
    }

    /// Replaced as a whole: whoever reads it meanwhile reads one or the other.
    fn write(&self, name: &str, value: impl std::fmt::Display) {
        let (path, new) = (self.0.join(name), self.0.join(format!(".{name}")));
        let _told = std::fs::write(&new, format!("{value}\n")).and_then(|()| std::fs::rename(new, path));
    }
}

impl Device {
    const LONGEST: u32 = 65535;

    fn new(timeout: u32, granularity: u32) -> Self {
        Device {
            timeout: timeout.next_multiple_of(granularity),
            granularity,
            open: false,
            armed: false,
            may_release: false,
            nowayout: false,
            last_pet: LocalInstant::EARLIEST,
            attributes: None,
        }
    }

    /// Answers a new connection.
    fn open(&mut self, now: LocalInstant) -> Result<[u8; wire::LEN], [u8; wire::LEN]> {
        if self.open {
            return Err(wire::encode(status_of(Errno::EBUSY), 0));
        }
        (self.open, self.armed, self.may_release, self.last_pet) = (true, true, false, now);
        self.show();
        Ok(wire::encode(0, self.timeout))
    }

    /// Answers one request.
    fn request(&mut self, bytes: [u8; wire::LEN], now: LocalInstant) -> [u8; wire::LEN] {
        let (operation, argument) = wire::decode(bytes);
        match operation {
            wire::GETTIMEOUT => return wire::encode(0, self.timeout),
            wire::KEEPALIVE => {}
            wire::MAGIC_CLOSE => self.may_release = true,
            wire::SETTIMEOUT if (1..=Self::LONGEST).contains(&argument) => {
                self.timeout = argument.next_multiple_of(self.granularity);
                self.show();
            }
            _ => return wire::encode(status_of(Errno::EINVAL), self.timeout),
        }
        self.last_pet = now;
        wire::encode(0, self.timeout)
    }

    /// The connection ended.
    fn close(&mut self, now: LocalInstant) {
        self.open = false;
        self.armed = self.nowayout || !self.may_release;
        if self.armed {
            self.last_pet = now;
        }
        self.show();
    }

    fn show(&self) {
        if let Some(attributes) = &self.attributes {
            attributes.write("timeout", self.timeout);
        }
        self.shows(if self.armed { "active" } else { "inactive" });
    }

    fn shows(&self, state: &str) {
        if let Some(attributes) = &self.attributes {
            attributes.write("state", state);
        }
    }

    fn fires_at(&self) -> Option<LocalInstant> {
        self.armed.then(|| self.last_pet.after(Duration::from_secs(u64::from(self.timeout))))
    }

    fn is_due(&self, now: LocalInstant) -> bool {
        self.fires_at().is_some_and(|at| now >= at)
    }
}

/// The errno as it stands in an answer.
fn status_of(errno: Errno) -> u32 {
    u32::try_from(errno as i32).unwrap_or(u32::MAX)
}

/// The tree of processes below this one.
struct Host {
    command: Pid,
    signals: SignalFd,
    proc: Procfs,
    /// COMMAND's, once it was reaped.
    status: Option<u8>,
}

/// Why it is over.
enum End {
    Fired {
        at: LocalInstant,
        last_pet: LocalInstant,
    },
    PoweredOff {
        by: u32,
    },
    /// COMMAND and everything below it ended, and the device is not armed.
    Ended,
}

/// Runs it. See the head of this file for the exit status.
///
/// # Errors
/// The host could not be started, watched, or ended.
pub fn run(args: Args) -> Result<ExitCode, Error> {
    if args.die_with_parent {
        die_with_parent()?;
    }
    become_subreaper()?;
    let socket = Listening::at(&args.socket)?;
    let mut host = Host::start(&args.command)?;
    let mut device = Device::new(args.timeout, args.granularity);
    device.nowayout = args.nowayout;
    device.attributes = Some(Attributes::beside(&args.socket, args.nowayout));
    device.show();
    let outcome = serve(&socket.listener, &mut device, &mut host).and_then(|end| host.settle(end));
    if outcome.is_err() {
        // The first error is the one to report; what the last attempt at the tree meets would only repeat it.
        let _killed = host.kill_all();
    }
    outcome.map(ExitCode::from)
}

fn die_with_parent() -> Result<(), Error> {
    let parent = nix::unistd::getppid();
    nix::sys::prctl::set_pdeathsig(Signal::SIGTERM).map_err(failed("prctl(PR_SET_PDEATHSIG)"))?;
    if nix::unistd::getppid() != parent {
        return Err(Error::Call { operation: "finding the parent alive", source: Errno::ESRCH });
    }
    Ok(())
}

/// Serves the device until it fires, the power is switched off, or the host has ended on its own.
fn serve(listener: &UnixListener, device: &mut Device, host: &mut Host) -> Result<End, Error> {
    let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
    let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, flags).map_err(failed("timerfd_create"))?;
    let mut connection: Option<Connection> = None;
    loop {
        // Nothing is served in a turn of the loop before the clock was read: a pet that came too late is not seen.
        let now = boot_now();
        if device.is_due(now) {
            device.shows(FIRED_STATE);
            return Ok(End::Fired { at: now, last_pet: device.last_pet });
        }
        if let Some(by) = host.power_switch()? {
            return Ok(End::PoweredOff { by });
        }
        serve_open(device, &mut connection, now);
        accept(listener, device, &mut connection, now)?;
        if host.reap()? && !device.armed {
            return Ok(End::Ended);
        }
        wait(&timer, device.fires_at(), listener, host, connection.as_ref())?;
    }
}

/// Answers the client that has the device open, and notices that it closed it.
fn serve_open(device: &mut Device, connection: &mut Option<Connection>, now: LocalInstant) {
    if connection.as_mut().is_some_and(|open| open.serve(device, now) == Served::Closed) {
        device.close(now);
        *connection = None;
    }
}

/// Takes new connections: the first is the open device, any other finds it busy.
fn accept(
    listener: &UnixListener,
    device: &mut Device,
    connection: &mut Option<Connection>,
    now: LocalInstant,
) -> Result<(), Error> {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _address)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                let source = Errno::from_raw(error.raw_os_error().unwrap_or(0));
                return Err(Error::Call { operation: "accept", source });
            }
        };
        // Served once more before it is found busy: who closes the device and then opens it again must get it, and
        // that close may have come after the last look.
        serve_open(device, connection, now);
        match device.open(now) {
            Ok(greeting) => {
                // A client gone before its greeting has opened and closed the device all the same: found when served.
                let _greeted = stream.set_nonblocking(true).and_then(|()| stream.write_all(&greeting));
                *connection = Some(Connection { stream, partial: Vec::new() });
            }
            Err(busy) => {
                let _told = stream.write_all(&busy);
            }
        }
    }
}

/// Sleeps until the device is due, or anything happens.
fn wait(
    timer: &TimerFd,
    due: Option<LocalInstant>,
    listener: &UnixListener,
    host: &Host,
    connection: Option<&Connection>,
) -> Result<(), Error> {
    match due {
        Some(at) => {
            let expiration = Expiration::OneShot(TimeSpec::from(at.since(LocalInstant::EARLIEST)));
            timer.set(expiration, TimerSetTimeFlags::TFD_TIMER_ABSTIME)
        }
        None => timer.unset(),
    }
    .map_err(failed("timerfd_settime"))?;
    let mut polled = vec![
        PollFd::new(timer.as_fd(), PollFlags::POLLIN),
        PollFd::new(listener.as_fd(), PollFlags::POLLIN),
        PollFd::new(host.signals.as_fd(), PollFlags::POLLIN),
    ];
    polled.extend(connection.map(|open| PollFd::new(open.stream.as_fd(), PollFlags::POLLIN)));
    match poll(&mut polled, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(source) => Err(Error::Call { operation: "poll", source }),
    }
}

/// The open device.
struct Connection {
    stream: UnixStream,
    /// The beginning of a request whose rest has not come yet.
    partial: Vec<u8>,
}

#[derive(PartialEq, Eq)]
enum Served {
    StillOpen,
    Closed,
}

impl Connection {
    /// Answers what has come in. A client that does not take its answers is as good as gone.
    fn serve(&mut self, device: &mut Device, now: LocalInstant) -> Served {
        let mut buffer = [0; 512];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Served::Closed,
                Ok(length) => self.partial.extend(buffer.iter().take(length)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Served::StillOpen,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_reset) => return Served::Closed,
            }
            while let Some(request) = self.partial.first_chunk::<{ wire::LEN }>().copied() {
                self.partial.drain(..wire::LEN);
                if self.stream.write_all(&device.request(request, now)).is_err() {
                    return Served::Closed;
                }
            }
        }
    }
}

impl Host {
    fn start(command: &[OsString]) -> Result<Self, Error> {
        // Blocked before the child exists, so that no signal in between is lost or ends us without the tree.
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            mask.add(signal);
        }
        mask.thread_block().map_err(failed("sigprocmask"))?;
        let signals =
            SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(failed("signalfd"))?;
        let mut words = command.iter();
        // The command line demands at least one word; an empty name is one that cannot be started.
        let program = words.next().cloned().unwrap_or_default();
        let started = spawn_in_own_session(Command::new(&program).args(words));
        let child = started.map_err(|source| Error::Start { command: program, source })?;
        let command = Pid::from_raw(i32::try_from(child.id()).unwrap_or(0));
        Ok(Host { command, signals, proc: Procfs::default(), status: None })
    }

    /// Drains the signals; the number of one that means "power off", if there was any.
    fn power_switch(&mut self) -> Result<Option<u32>, Error> {
        let mut pressed = None;
        while let Some(signal) = self.signals.read_signal().map_err(failed("read of the signalfd"))? {
            if signal.ssi_signo != Signal::SIGCHLD as u32 {
                pressed = Some(signal.ssi_signo);
            }
        }
        Ok(pressed)
    }

    /// Reaps what has ended; whether nothing is left. Orphans become our children, so that having no child, living or
    /// zombie, is the same as having no descendant.
    fn reap(&mut self) -> Result<bool, Error> {
        loop {
            let (pid, status) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
                Ok(WaitStatus::Signaled(pid, signal, _core)) => {
                    (pid, u8::try_from(128 + signal as i32).unwrap_or(u8::MAX))
                }
                Ok(WaitStatus::StillAlive) => return Ok(false),
                // EINVAL: one was reaped that a real-time signal had ended, which nix has no name for.
                Ok(_) | Err(Errno::EINTR | Errno::EINVAL) => continue,
                Err(Errno::ECHILD) => return Ok(true),
                Err(source) => return Err(Error::Call { operation: "waitpid", source }),
            };
            if pid == self.command {
                self.status = Some(status);
            }
        }
    }

    /// Ends what has to be ended, says so in one line, and gives the exit status.
    fn settle(&mut self, end: End) -> Result<u8, Error> {
        let (line, status) = match end {
            End::Fired { at, last_pet } => {
                let killed = self.kill_all()?;
                let took = boot_now().since(at).as_secs_f64();
                let age = at.since(last_pet).as_secs_f64();
                let at = at.since(LocalInstant::EARLIEST).as_secs_f64();
                let line = format!(
                    "fired at {at:.3}: killed {killed} processes of the host in {took:.3} s, last pet {age:.3} s ago"
                );
                (line, FIRED)
            }
            End::PoweredOff { by } => {
                let killed = self.kill_all()?;
                let at = boot_now().since(LocalInstant::EARLIEST).as_secs_f64();
                (format!("powered off at {at:.3} by signal {by}: killed {killed} processes of the host"), POWERED_OFF)
            }
            End::Ended => {
                let status = self.status.unwrap_or(128);
                (format!("the host ended by itself with status {status}, the watchdog is not armed"), status)
            }
        };
        // Whoever read our output may be gone; that must not change what happens.
        let _printed = writeln!(std::io::stdout(), "{line}");
        Ok(status)
    }

    /// Kills every descendant and reaps until there is none; how many were killed.
    fn kill_all(&mut self) -> Result<usize, Error> {
        self.stop_all()?;
        let mut killed = BTreeSet::new();
        let started = boot_now();
        let mut reported = false;
        while !self.reap()? {
            for process in self.living()? {
                if self.signal(process, Signal::SIGKILL)? {
                    killed.insert(process);
                }
            }
            if !reported && boot_now().since(started) > Duration::from_secs(10) {
                reported = true;
                self.report_the_undead()?;
            }
            // Woken by the next child's end; the limit is for a grandchild that starts something while it dies.
            let mut polled = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            match poll(&mut polled, 20_u8) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(source) => return Err(Error::Call { operation: "poll", source }),
            }
            self.power_switch()?;
        }
        Ok(killed.len())
    }

    /// Stops every descendant, until a look at all of them finds no new one.
    fn stop_all(&mut self) -> Result<(), Error> {
        let mut stopped = BTreeSet::new();
        loop {
            let new: Vec<ProcessId> = self.living()?.into_iter().filter(|process| !stopped.contains(process)).collect();
            if new.is_empty() {
                return Ok(());
            }
            for process in new {
                self.signal(process, Signal::SIGSTOP)?;
                stopped.insert(process);
            }
        }
    }

    /// The descendants that still run, stopped ones included, zombies not.
    fn living(&self) -> Result<Vec<ProcessId>, Error> {
        let mut living = Vec::new();
        for pid in descendants_of(nix::unistd::getpid().as_raw(), &self.proc.parents()?) {
            match self.proc.stat(pid)? {
                Some(stat) if !stat.has_exited() => living.push(ProcessId { pid, start_time: stat.start_time }),
                _ => {}
            }
        }
        Ok(living)
    }

    /// Signals exactly that process, by pidfd: between the look and the signal its number may pass to a stranger.
    fn signal(&self, process: ProcessId, signal: Signal) -> Result<bool, Error> {
        match self.proc.open(process)? {
            Some(pidfd) => Ok(send_signal(pidfd.as_fd(), signal)?),
            None => Ok(false),
        }
    }

    /// A process in uninterruptible sleep, on a frozen file system for one, outlives SIGKILL: say what is waited for.
    fn report_the_undead(&self) -> Result<(), Error> {
        for process in self.living()? {
            let name = self.proc.comm(process.pid)?.unwrap_or_default();
            let state = self.proc.stat(process.pid)?.map_or('?', |stat| stat.state);
            let line = format!("still waiting for process {} ({name}, state {state}) to die", process.pid);
            let _printed = writeln!(std::io::stderr(), "{line}");
        }
        Ok(())
    }
}

/// A socket file that lasts as long as the listener.
struct Listening {
    listener: UnixListener,
    path: PathBuf,
}

impl Listening {
    fn at(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Socket { path: path.to_owned(), source };
        clear_dead_socket(path)?;
        let listener = UnixListener::bind(path).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Listening { listener, path: path.to_owned() })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // Left behind, it would only be cleared by the next one.
        let _removed = std::fs::remove_file(&self.path);
    }
}

/// Removes a socket that a killed fake-watchdog left behind, and nothing else.
fn clear_dead_socket(path: &Path) -> Result<(), Error> {
    let in_use = |found| Error::InUse { path: path.to_owned(), found };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(Error::Socket { path: path.to_owned(), source }),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(in_use("something that is no socket")),
        Ok(_socket) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|source| Error::Socket { path: path.to_owned(), source })
        }
        _ => Err(in_use("a socket somebody listens on")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> LocalInstant {
        LocalInstant::from_nanos(seconds * 1_000_000_000)
    }

    fn ask(device: &mut Device, operation: u32, argument: u32, now: LocalInstant) -> (u32, u32) {
        wire::decode(device.request(wire::encode(operation, argument), now))
    }

    #[test]
    fn a_device_nobody_opened_never_fires() {
        let device = Device::new(60, 1);
        assert_eq!(device.fires_at(), None);
        assert!(!device.is_due(LocalInstant::NEVER));
    }

    #[test]
    fn opening_arms_and_pets_and_each_pet_starts_the_count_anew() {
        let mut device = Device::new(60, 1);
        assert_eq!(wire::decode(device.open(at(100)).unwrap()), (0, 60));
        assert_eq!(device.fires_at(), Some(at(160)));
        assert_eq!(ask(&mut device, wire::KEEPALIVE, 0, at(130)), (0, 60));
        assert_eq!(device.fires_at(), Some(at(190)));
        assert!(!device.is_due(at(189)));
        assert!(device.is_due(at(190)));
    }

    #[test]
    fn reading_the_timeout_does_not_pet() {
        let mut device = Device::new(60, 1);
        device.open(at(100)).unwrap();
        assert_eq!(ask(&mut device, wire::GETTIMEOUT, 0, at(130)), (0, 60));
        assert_eq!(device.fires_at(), Some(at(160)));
    }

    #[test]
    fn closing_without_v_pets_and_counts_on_and_with_v_disarms() {
        let mut device = Device::new(60, 1);
        device.open(at(100)).unwrap();
        device.close(at(150));
        assert_eq!(device.fires_at(), Some(at(210)));
        device.open(at(200)).unwrap();
        assert_eq!(ask(&mut device, wire::MAGIC_CLOSE, 0, at(201)), (0, 60));
        assert_eq!(device.fires_at(), Some(at(261)), "V alone only pets");
        device.close(at(202));
        assert_eq!(device.fires_at(), None);
        device.open(at(300)).unwrap();
        device.close(at(301));
        assert_eq!(device.fires_at(), Some(at(361)), "a V counts for one close");
    }

    #[test]
    fn with_nowayout_it_counts_on_after_v_and_says_so_beside_the_socket_and_whether_it_has_fired() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("wd");
        let mut device = Device { nowayout: true, ..Device::new(60, 1) };
        device.attributes = Some(Attributes::beside(&socket, true));
        device.open(at(100)).unwrap();
        ask(&mut device, wire::MAGIC_CLOSE, 0, at(101));
        device.close(at(102));
        assert_eq!(device.fires_at(), Some(at(162)));
        let told = facts::Facts::of_fake(&socket).unwrap();
        assert_eq!((told.nowayout, told.counts, told.has_reset_us()), (Some(true), Some(true), Some(false)));
        device.shows(FIRED_STATE);
        let _next = Attributes::beside(&socket, false);
        let told = facts::Facts::of_fake(&socket).unwrap();
        assert_eq!((told.nowayout, told.has_reset_us()), (Some(false), Some(true)));
    }

    #[test]
    fn a_second_open_is_busy_and_changes_nothing() {
        let mut device = Device::new(60, 1);
        device.open(at(100)).unwrap();
        assert_eq!(wire::decode(device.open(at(150)).unwrap_err()), (status_of(Errno::EBUSY), 0));
        assert_eq!(device.fires_at(), Some(at(160)));
    }

    #[test]
    fn a_timeout_is_rounded_up_to_the_granularity_and_nonsense_refused() {
        let mut device = Device::new(50, 20);
        device.open(at(100)).unwrap();
        assert_eq!(ask(&mut device, wire::GETTIMEOUT, 0, at(100)), (0, 60));
        assert_eq!(ask(&mut device, wire::SETTIMEOUT, 30, at(110)), (0, 40));
        assert_eq!(device.fires_at(), Some(at(150)));
        let refused = status_of(Errno::EINVAL);
        assert_eq!(ask(&mut device, wire::SETTIMEOUT, 0, at(120)), (refused, 40));
        assert_eq!(ask(&mut device, wire::SETTIMEOUT, 65536, at(120)), (refused, 40));
        assert_eq!(ask(&mut device, 99, 0, at(120)), (refused, 40));
        assert_eq!(device.fires_at(), Some(at(150)), "a refusal does not pet");
    }

    #[test]
    fn only_a_dead_socket_is_cleared_away() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wd");
        clear_dead_socket(&path).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        assert!(matches!(clear_dead_socket(&path), Err(Error::InUse { .. })));
        drop(listener);
        clear_dead_socket(&path).unwrap();
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        let error = clear_dead_socket(&path).unwrap_err().to_string();
        assert!(error.ends_with("found something that is no socket"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
