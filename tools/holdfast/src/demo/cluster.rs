//! Three hosts on one machine, and everything that is known of them.
//!
//! A host is `holdfast fake-watchdog` over `holdfast demo-host` over a daemon and a guarded program. What they tell
//! comes over one channel; [`Cluster::until`] takes it in until a condition holds. Whatever happens, [`Cluster`]'s end
//! switches every host's power off and waits until nothing of it is left: the fake watchdogs die with this process,
//! their trees with them.

use std::fs::DirBuilder;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use holdfast_client::blocking::Connection;
use holdfast_client::{ClientError, Endpoint};
use holdfast_io::clock::{LocalInstant, boot_now};
use holdfast_io::sys::process::{
    ProcessError, pidfd_open, send_signal, spawn_in_own_group, spawn_in_own_session, wait_for_exit,
};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};

use super::events::{Event, Fired};
use super::host::{self, ProgramPlace, program_command};
use super::place::Place;

/// The hosts' io_timeout: the shortest there is.
pub const IO_TIMEOUT: u8 = 1;
/// Their fire timeout: the device itself gets half of it.
pub const FIRE_TIMEOUT: u8 = 10;
/// How long a daemon that is well may take for an answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks at a condition that no event announces.
const LOOK: Duration = Duration::from_millis(50);

/// A lease, as the program that got it tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Got {
    /// When it was told.
    pub at: LocalInstant,
    /// At which version.
    pub lver: u64,
}

/// The refusal of a program.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// When.
    pub at: LocalInstant,
    /// The daemon's answer.
    pub why: String,
    /// The answer to EXPLAIN.
    pub explained: serde_json::Value,
}

/// A host and what is known of it.
#[derive(Debug)]
pub struct Host {
    /// Its host_id.
    pub id: u64,
    /// Its daemon's process, once started.
    pub daemon: Option<i32>,
    /// Its program's process, once started.
    pub program: Option<i32>,
    /// The first refusal.
    pub refused: Option<Refusal>,
    /// Since when its program waits.
    pub waiting: Option<LocalInstant>,
    /// Its lease.
    pub got: Option<Got>,
    /// When its program ended after it had the lease.
    pub ended: Option<LocalInstant>,
    /// Its watchdog.
    pub fired: Option<Fired>,
    /// The exit status of the fake watchdog.
    pub over: Option<i32>,
    /// Lines that are neither events nor a firing.
    pub said: Vec<String>,
    dir: PathBuf,
    watchdog: Child,
    orders: ChildStdin,
}

enum Message {
    Line { host: u64, line: String },
    Silent { host: u64 },
    Interrupted(Signal),
}

/// What can keep a demonstration from its end.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A process or a file.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// A process.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A guarded program outside of a host.
    #[error(transparent)]
    Program(#[from] host::Error),
    /// A daemon.
    #[error("host{host}: {source}")]
    Daemon {
        /// Whose.
        host: u64,
        /// What it answered.
        source: ClientError,
    },
    /// Ctrl-C and the like.
    #[error("interrupted by {0}")]
    Interrupted(Signal),
    /// Something that had to happen did not.
    #[error("expected within {limit_s:.1} s: {what}")]
    TooLong {
        /// What.
        what: String,
        /// How long it was given.
        limit_s: f64,
    },
    /// A host ended that should not.
    #[error("host{host} ended: {how}")]
    HostEnded {
        /// Which.
        host: u64,
        /// Exit status, last line.
        how: String,
    },
}

fn cannot(what: &'static str) -> impl Fn(std::io::Error) -> ClusterError {
    move |source| ClusterError::System { what, source }
}

/// The hosts.
#[derive(Debug)]
pub struct Cluster {
    /// host1, host2, host3.
    pub hosts: Vec<Host>,
    place: (PathBuf, PathBuf),
    sender: Sender<Message>,
    inbox: Receiver<Message>,
    /// With `--sabotage`: host1's program, out of its watchdog's reach.
    outsider: Option<Child>,
}

impl Cluster {
    /// Makes ready for hosts; from now on Ctrl-C comes as [`ClusterError::Interrupted`]. To be called on the main
    /// thread, before any other thread was started: the hosts die with the thread that starts them.
    ///
    /// # Errors
    /// No threads.
    pub fn new(place: &Place) -> Result<Self, ClusterError> {
        let (sender, inbox) = channel();
        let mut mask = SigSet::empty();
        [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|signal| mask.add(signal));
        mask.thread_block().map_err(|errno| cannot("block signals")(errno.into()))?;
        let interrupted = sender.clone();
        in_thread(move || {
            while let Ok(signal) = mask.wait() {
                if interrupted.send(Message::Interrupted(signal)).is_err() {
                    return;
                }
            }
        })?;
        let place = (place.disk.clone(), place.shared());
        Ok(Cluster { hosts: Vec::new(), place, sender, inbox, outsider: None })
    }

    /// Starts a host with its daemon.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_host(&mut self, id: u64, dir: PathBuf) -> Result<(), ClusterError> {
        DirBuilder::new().create(&dir).map_err(cannot("make a host's directory"))?;
        let socket = dir.join("watchdog");
        let log = std::fs::File::create(dir.join("host.log")).map_err(cannot("open host.log"))?;
        let executable = std::env::current_exe().map_err(cannot("find this executable"))?;
        let mut command = Command::new(&executable);
        command.args(["fake-watchdog", "--die-with-parent", "--socket"]).arg(&socket).arg("--").arg(&executable);
        command.args(["demo-host", "--name", &format!("host{id}"), "--host-id", &id.to_string(), "--dir"]).arg(&dir);
        command.arg("--watchdog").arg(&socket).args(["--fire-timeout", &FIRE_TIMEOUT.to_string()]);
        command.args(["--io-timeout", &IO_TIMEOUT.to_string()]);
        command.arg("--disk").arg(&self.place.0).arg("--shared").arg(&self.place.1);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        // In a group of its own: Ctrl-C on a terminal is for this process alone, which then ends the hosts in order.
        let mut watchdog = spawn_in_own_group(&mut command).map_err(cannot("start a host"))?;
        let (Some(orders), Some(lines)) = (watchdog.stdin.take(), watchdog.stdout.take()) else {
            return Err(cannot("speak with a host")(Errno::EPIPE.into()));
        };
        self.hosts.push(Host {
            id,
            daemon: None,
            program: None,
            refused: None,
            waiting: None,
            got: None,
            ended: None,
            fired: None,
            over: None,
            said: Vec::new(),
            dir,
            watchdog,
            orders,
        });
        self.listen(id, lines, true)
    }

    /// Reads lines until there are no more.
    fn listen(&self, host: u64, lines: impl Read + Send + 'static, is_host: bool) -> Result<(), ClusterError> {
        let sender = self.sender.clone();
        in_thread(move || {
            for line in BufReader::new(lines).lines().map_while(Result::ok) {
                if sender.send(Message::Line { host, line }).is_err() {
                    return;
                }
            }
            if is_host {
                // Nobody listens any more: the demonstration is over.
                let _told = sender.send(Message::Silent { host });
            }
        })
    }

    /// Starts host1's program outside of host1: nothing that ends the host ends it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_outsider(&mut self) -> Result<(), ClusterError> {
        let Some(host) = self.hosts.first() else { return Ok(()) };
        let place = ProgramPlace { host_id: host.id, dir: &host.dir, disk: &self.place.0, shared: &self.place.1 };
        let mut command = program_command(&place, false)?;
        let mut child = spawn_in_own_session(command.stdout(Stdio::piped())).map_err(cannot("start a program"))?;
        let (id, lines) = (host.id, child.stdout.take());
        self.outsider = Some(child);
        lines.map_or(Ok(()), |lines| self.listen(id, lines, false))
    }

    /// Ends the program that was started outside, if there is one.
    pub fn end_outsider(&mut self) {
        if let Some(mut outsider) = self.outsider.take() {
            // Killing fails only for a child that has ended, and waiting only for none.
            let _killed = outsider.kill();
            let _reaped = outsider.wait();
        }
    }

    /// Tells a host what to do.
    ///
    /// # Errors
    /// It is gone.
    pub fn order(&mut self, id: u64, order: &str) -> Result<(), ClusterError> {
        for host in self.hosts.iter_mut().filter(|host| host.id == id) {
            host.orders.write_all(format!("{order}\n").as_bytes()).map_err(cannot("give a host an order"))?;
        }
        Ok(())
    }

    /// The host with this id.
    #[must_use]
    pub fn host(&self, id: u64) -> Option<&Host> {
        self.hosts.iter().find(|host| host.id == id)
    }

    /// Speaks with a host's daemon.
    ///
    /// # Errors
    /// What `call` returns, with the host's name.
    pub fn ask<T>(&self, id: u64, call: impl FnOnce(Connection) -> Result<T, ClientError>) -> Result<T, ClusterError> {
        let dir = self.host(id).map(|host| host.dir.clone()).unwrap_or_default();
        let endpoint = Endpoint::new(dir).with_deadline(PATIENCE);
        Connection::open(&endpoint).and_then(call).map_err(|source| ClusterError::Daemon { host: id, source })
    }

    /// Takes in what the hosts tell until `found` gives a value, which is asked after each event and every [`LOOK`].
    ///
    /// # Errors
    /// Not within `limit`; interrupted; a host that ended without its watchdog; what `found` returns.
    pub fn until<T, E: From<ClusterError>>(
        &mut self,
        what: impl Into<String>,
        limit: Duration,
        mut found: impl FnMut(&mut Self) -> Result<Option<T>, E>,
    ) -> Result<T, E> {
        let end = boot_now().after(limit);
        loop {
            if let Some(value) = found(self)? {
                return Ok(value);
            }
            if boot_now() >= end {
                let limit_s = limit.as_secs_f64();
                return Err(ClusterError::TooLong { what: what.into(), limit_s }.into());
            }
            match self.inbox.recv_timeout(LOOK) {
                Ok(message) => self.take(message)?,
                // We hold a sender ourselves: it is never "disconnected".
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }

    /// Takes in what the hosts tell until `at`.
    ///
    /// # Errors
    /// As [`Cluster::until`].
    pub fn wait_until(&mut self, at: LocalInstant) -> Result<(), ClusterError> {
        let limit = at.since(boot_now()).saturating_add(PATIENCE);
        self.until("the clock goes on", limit, |_| Ok((boot_now() >= at).then_some(())))
    }

    fn take(&mut self, message: Message) -> Result<(), ClusterError> {
        match message {
            Message::Interrupted(signal) => return Err(ClusterError::Interrupted(signal)),
            Message::Line { host: id, line } => {
                if let Some(host) = self.hosts.iter_mut().find(|host| host.id == id) {
                    host.heard(line);
                }
            }
            Message::Silent { host: id } => {
                if let Some(host) = self.hosts.iter_mut().find(|host| host.id == id) {
                    return host.ended();
                }
            }
        }
        Ok(())
    }

    /// The daemon of a host, held by descriptor.
    ///
    /// # Errors
    /// There is none.
    pub fn daemon(&self, id: u64) -> Result<(i32, OwnedFd), ClusterError> {
        let pid = self.host(id).and_then(|host| host.daemon);
        let gone = || ClusterError::HostEnded { host: id, how: "it has no daemon".into() };
        let pid = pid.ok_or_else(gone)?;
        Ok((pid, pidfd_open(pid)?.ok_or_else(gone)?))
    }
}

impl Host {
    fn heard(&mut self, line: String) {
        let instant = LocalInstant::from_nanos;
        match serde_json::from_str(&line) {
            Ok(Event::Daemon { pid }) => self.daemon = Some(pid),
            Ok(Event::Program { pid }) => self.program = Some(pid),
            Ok(Event::Refused { at, why, explained, .. }) => {
                self.refused = Some(Refusal { at: instant(at), why, explained });
            }
            Ok(Event::Waiting { at }) => self.waiting = Some(instant(at)),
            Ok(Event::Acquired { at, lver }) => self.got = Some(Got { at: instant(at), lver }),
            Ok(Event::ProgramEnded { at, .. }) if self.got.is_some() => self.ended = Some(instant(at)),
            Ok(Event::ProgramEnded { .. } | Event::DaemonEnded { .. }) => self.said.push(line),
            Err(_not_an_event) => match Fired::read(&line) {
                Some(fired) => self.fired = Some(fired),
                None => self.said.push(line),
            },
        }
    }

    /// Its output is at its end, and so is the fake watchdog.
    fn ended(&mut self) -> Result<(), ClusterError> {
        let status = self.watchdog.wait().map_err(cannot("wait for a host"))?;
        self.over = status.code();
        match (self.fired, status.code()) {
            (Some(_), _) | (None, Some(0)) => Ok(()),
            _ => {
                let last = self.said.last().cloned().unwrap_or_default();
                Err(ClusterError::HostEnded { host: self.id, how: format!("{status}; its last words: {last}") })
            }
        }
    }

    /// Ends it, whatever state it is in. A fake watchdog that is told to end leaves nothing of its tree.
    fn power_off(&mut self) {
        let pidfd = i32::try_from(self.watchdog.id()).ok().and_then(|pid| pidfd_open(pid).ok().flatten());
        if let (None, Some(pidfd)) = (self.over, &pidfd) {
            let asked = send_signal(pidfd.as_fd(), Signal::SIGTERM);
            let gone = asked.is_ok() && wait_for_exit(pidfd.as_fd(), Some(PATIENCE)).unwrap_or(false);
            if !gone {
                let _killed = self.watchdog.kill();
            }
        }
        let _reaped = self.watchdog.wait();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.end_outsider();
        self.hosts.iter_mut().for_each(Host::power_off);
    }
}

fn in_thread(work: impl FnOnce() + Send + 'static) -> Result<(), ClusterError> {
    std::thread::Builder::new().spawn(work).map(drop).map_err(cannot("start a thread"))
}
