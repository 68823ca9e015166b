//! wdmd, the daemon that has the watchdog device open for others: its socket, and a [`Watchdog`] that is kept through it.
//!
//! wdmd is told until when this host is well, and counts for itself: an *entry* (one for this daemon, by its connection)
//! expires at a second of CLOCK_MONOTONIC, and within [`Wdmd`]'s intervals after that the host is reset.
//!
//! - **W1** [`WdmdWatchdog::pet`] tells an instant, not "well now": a pet that comes late, from a daemon that was frozen, says
//!   no more than one in time would have.
//! - **D3** The expiry told is [`Wdmd::MARGIN`] and up to a second before the instant up to which the caller vouches for this
//!   host ([`expiry`]); wdmd pets for the last time less than a second after it, and its device takes 60 s and a tick.
//! - A daemon that dies leaves its entry: wdmd marks it dead, counts it on, and nobody can clear it ([`is_clear`]).
//!   Only [`Watchdog::disarm`] does.
//! - **Two clocks.** Ours counts through suspend, wdmd's does not. Each pet converts anew, reading wdmd's clock first: a
//!   suspend between the two readings makes the expiry too early. One after them makes it too late, and is found by
//!   converting again when wdmd has answered: then it is told again. A suspend after that moves the expiry like it moves the
//!   count of a device, which stands still too; the next pet, or else nobody, makes up for it (docs/safety.md).
//!
//! | bytes | field | |
//! | --- | --- | --- |
//! | 0..4 | magic | 0 |
//! | 4..8 | command, u32 | [`Command`] |
//! | 8..16 | length, flags | 0 |
//! | 16..20 | test interval, u32 | seconds; answers only |
//! | 20..24 | fire timeout, u32 | seconds; answers only |
//! | 24..32 | last keepalive, u64 | seconds of CLOCK_MONOTONIC; answers only |
//! | 32..40 | renewal, u64 | the same |
//! | 40..48 | expiry, u64 | the same; 0 ends the count |
//! | 48..176 | name | NUL-padded |
//!
//! Numbers are little-endian, as on every machine that sanlock is made for. wdmd answers STATUS and DUMP_DEBUG alone, and
//! reads messages whole: **a part of one stops it for good**, and so this host. Several in one piece it reads one by one
//! (docs/sanlock-observations.md). A STATUS behind each message is the proof that it was taken.
//!
//! Units: whole seconds of CLOCK_MONOTONIC on the wire, [`LocalInstant`] elsewhere. Errors: [`WatchdogError`]. Each answer is waited
//! for `PATIENCE` at the most. Arming waits for two, and so does disarming where an earlier one is owed; a pet waits for one,
//! unless this host was suspended meanwhile. Source: spec B 9.3 to 9.5.

use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use byteorder::{ByteOrder as _, LittleEndian};
use holdfast_io::clock::{LocalInstant, boot_now, monotonic_nanos};
use holdfast_io::sys::watchdog::Seconds;
use holdfast_io::timing::{FireTimeout, IoTimeout, Timing, Wdmd};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, send, socket};

use crate::watchdog::{Watchdog, WatchdogError};

/// Where wdmd's socket is when nothing else is said.
pub const DEFAULT: &str = "/run/wdmd";
/// The environment variable that says something else: a directory.
pub const VARIABLE: &str = "WDMD_RUN_DIR";

/// How long wdmd may take for an answer. It has real-time priority and answers at once; a longer wait would hold up the
/// daemon. What comes later is taken with the next pet.
const PATIENCE: Duration = Duration::from_millis(1000);
/// The longest that an io_timeout lets a renewal count for: nothing further away is ever told.
const FURTHEST: Duration = Duration::from_secs(8 * 255);

/// The socket that the environment names.
#[must_use]
pub fn socket_from_environment() -> PathBuf {
    std::env::var_os(VARIABLE).map_or_else(|| PathBuf::from(DEFAULT), PathBuf::from).join("wdmd.sock")
}

/// What the entry of the daemon in this run directory is called: one directory, one daemon.
#[must_use]
pub fn entry_name(run_dir: &Path) -> String {
    let mut name = format!("holdfast_{}", run_dir.display());
    let mut most = NAME_LEN - 1;
    while !name.is_char_boundary(most.min(name.len())) {
        most -= 1;
    }
    name.truncate(most);
    name
}

/// Length of a message.
pub const LEN: usize = 176;
/// Length of a name, with at least one NUL.
const NAME_LEN: usize = 128;
const NAME_AT: usize = LEN - NAME_LEN;
const _: () = assert!(NAME_AT == 48);

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// This connection is an entry of that name.
    Register = 1,
    /// wdmd must not end while this entry is there.
    RefcountSet = 2,
    /// It may.
    RefcountClear = 3,
    /// The entry expires then.
    TestLive = 4,
    /// Answered by what wdmd counts with.
    Status = 5,
    /// Answered by a text. The connection is called "dump" from then on: never asked on one that is an entry.
    DumpDebug = 6,
}

/// A message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    command: Command,
    renewal: u64,
    expiry: u64,
    name: &'a str,
}

impl<'a> Message<'a> {
    /// One that says nothing more.
    #[must_use]
    pub const fn plain(command: Command) -> Self {
        Message { command, renewal: 0, expiry: 0, name: "" }
    }

    /// REGISTER.
    #[must_use]
    pub const fn register(name: &'a str) -> Self {
        Message { name, ..Self::plain(Command::Register) }
    }

    /// TEST_LIVE: renewed and expiring at these seconds of CLOCK_MONOTONIC.
    #[must_use]
    pub const fn test_live(renewal: u64, expiry: u64) -> Self {
        Message { renewal, expiry, ..Self::plain(Command::TestLive) }
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        LittleEndian::write_u32(&mut bytes[4..8], self.command as u32);
        LittleEndian::write_u64(&mut bytes[32..40], self.renewal);
        LittleEndian::write_u64(&mut bytes[40..48], self.expiry);
        let name = self.name.as_bytes();
        let length = name.len().min(NAME_LEN - 1);
        bytes[NAME_AT..NAME_AT + length].copy_from_slice(&name[..length]);
        bytes
    }
}

/// The answer to STATUS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// In what time its device fires.
    pub fire_timeout: Seconds,
}

impl Status {
    /// `None`: an answer to something else.
    #[must_use]
    pub fn decode(bytes: &[u8; LEN]) -> Option<Self> {
        let of_status = LittleEndian::read_u32(&bytes[4..8]) == Command::Status as u32;
        of_status.then(|| Status { fire_timeout: Seconds(LittleEndian::read_u32(&bytes[20..24])) })
    }
}

/// An entry, as wdmd tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// The process that registered it.
    pub pid: i64,
    /// Seconds until it expires, negative when it has.
    pub left: i64,
    /// Its connection is closed: nobody can clear it any more.
    pub dead: bool,
}

impl Entry {
    /// It is this daemon's own, by an earlier connection: what clears it is on its way, behind a wdmd that was slow.
    fn is_ours(&self) -> bool {
        !self.dead && self.pid == i64::from(std::process::id())
    }
}

/// The entries that count, by the text of DUMP_DEBUG (spec B 9.5).
///
/// # Errors
/// What is not understood.
pub fn counting_entries(dump: &str) -> Result<Vec<Entry>, String> {
    let mut lines = dump.lines();
    if !lines.next().is_some_and(|first| first.starts_with("wdmd ")) {
        return Err("it does not begin with \"wdmd\"".to_owned());
    }
    let clients: Vec<&str> = lines.filter(|line| line.starts_with("client ")).collect();
    // Our own connection is one of them. Where it is not, the text may have been cut short.
    if !clients.iter().any(|line| line.contains(" name dump ")) {
        return Err("the connection that asked is not in it".to_owned());
    }
    let entries: Result<Vec<_>, _> =
        clients.into_iter().map(|line| entry(line).ok_or_else(|| line.to_owned())).collect();
    Ok(entries?.into_iter().flatten().collect())
}

/// `client <i> name <name> pid <p> fd <f> dead <0|1> ref <0|1> now <N> renewal <N> expire <N>`; the inner `None`: it does not count.
fn entry(line: &str) -> Option<Option<Entry>> {
    let (named, rest) = line.rsplit_once(" pid ")?;
    let (_, name) = named.split_once(" name ")?;
    let words: Vec<&str> = rest.split(' ').collect();
    let number = |key: &str| -> Option<i64> {
        let at = words.iter().position(|word| *word == key)?;
        words.get(at + 1)?.parse().ok()
    };
    let (pid, now, expiry) = (words.first()?.parse().ok()?, number("now")?, number("expire")?);
    let (counts, dead) = (expiry != 0, number("dead")? != 0);
    Some(counts.then(|| Entry { name: name.to_owned(), pid, left: expiry.saturating_sub(now), dead }))
}

/// The two clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// CLOCK_MONOTONIC, nanoseconds: wdmd's. Read first.
    pub monotonic: u64,
    /// CLOCK_BOOTTIME: ours. Read second.
    pub boot: LocalInstant,
}

impl Reading {
    /// Now. The order matters: see this file's head.
    #[must_use]
    pub fn now() -> Self {
        let monotonic = monotonic_nanos();
        Reading { monotonic, boot: boot_now() }
    }

    const fn renewal(self) -> u64 {
        self.monotonic / NANOS
    }
}

const NANOS: u64 = 1_000_000_000;

/// D3: the second at which the entry of a host has to expire that is vouched for until `until`: [`Wdmd::MARGIN`] earlier, and
/// rounded down. Never 0, which would end the count.
#[must_use]
pub fn expiry(until: LocalInstant, at: Reading) -> u64 {
    let nanos = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
    let left = nanos(until.since(at.boot).min(FURTHEST));
    let instant = at.monotonic.saturating_add(left).saturating_sub(nanos(Wdmd::MARGIN));
    (instant / NANOS).max(1)
}

/// A connection to wdmd.
#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    path: PathBuf,
    /// Bytes of answers that have come and were not looked at.
    inbox: Vec<u8>,
    /// Answers that did not come in time.
    owed: u32,
    /// A part of a message was taken: what follows would be read as its rest.
    torn: bool,
    /// wdmd has closed it.
    closed: bool,
}

impl Connection {
    /// Never waits: where the queue of a wdmd that hangs is full, connecting fails.
    fn open(path: &Path) -> Result<Self, WatchdogError> {
        let failed = |source: io::Error| WatchdogError::wdmd(path, "connecting", source);
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let address = UnixAddr::new(path).map_err(|e| failed(e.into()))?;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(|e| failed(e.into()))?;
        connect(socket.as_raw_fd(), &address).map_err(|e| failed(e.into()))?;
        let (path, inbox) = (path.to_owned(), Vec::new());
        Ok(Connection { stream: UnixStream::from(socket), path, inbox, owed: 0, torn: false, closed: false })
    }

    /// Sends messages, in one piece, and waits for the answer to a STATUS behind them: then they were taken, in this order.
    /// Nothing is sent while an earlier answer is owed.
    fn tell(&mut self, operation: &'static str, messages: &[Message<'_>]) -> Result<Status, WatchdogError> {
        let mut told = || {
            while self.owed > 0 {
                self.status(Duration::ZERO)?;
            }
            self.send(messages, Command::Status)?;
            self.status(PATIENCE)
        };
        told().map_err(|source| self.failed(operation, source))
    }

    /// The last words. They are sent whatever is owed: a wdmd that hangs takes them when it goes on.
    fn tell_at_last(&mut self, operation: &'static str, messages: &[Message<'_>]) -> Result<(), WatchdogError> {
        let mut told = || {
            self.send(messages, Command::Status)?;
            while self.owed > 0 {
                self.status(PATIENCE)?;
            }
            Ok(())
        };
        told().map_err(|source| self.failed(operation, source))
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> WatchdogError {
        WatchdogError::wdmd(&self.path, operation, source)
    }

    fn send(&mut self, messages: &[Message<'_>], last: Command) -> io::Result<()> {
        if self.torn {
            return Err(io::Error::other("a part of an earlier message was taken"));
        }
        let last = Message::plain(last);
        let bytes: Vec<u8> = messages.iter().chain([&last]).flat_map(Message::encode).collect();
        // A wdmd that is gone is an error, not a signal.
        match send(self.stream.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL) {
            Ok(written) if written == bytes.len() => {
                self.owed += 1;
                Ok(())
            }
            Ok(written) => {
                self.torn = written % LEN != 0;
                Err(io::Error::other(format!("{written} of {} bytes were taken", bytes.len())))
            }
            Err(error) => {
                self.closed |= matches!(error, Errno::EPIPE | Errno::ECONNRESET);
                Err(error.into())
            }
        }
    }

    /// The next answer that is owed.
    fn status(&mut self, patience: Duration) -> io::Result<Status> {
        let bytes = self.receive(patience, |inbox| (inbox.len() >= LEN).then_some(LEN))?;
        self.owed = self.owed.saturating_sub(1);
        let answer = bytes.as_slice().try_into().ok().and_then(Status::decode);
        answer.ok_or_else(|| io::Error::other("an answer that is none to STATUS"))
    }

    /// The text of DUMP_DEBUG has no end but what follows: a STATUS, whose answer begins with NULs.
    fn dump(&mut self) -> io::Result<String> {
        /// wdmd has room for some hundred clients of a hundred bytes.
        const MOST: usize = 1 << 20;
        self.send(&[Message::plain(Command::DumpDebug)], Command::Status)?;
        let end = |inbox: &[u8]| inbox.iter().position(|byte| *byte == 0).or((inbox.len() > MOST).then_some(MOST));
        let text = self.receive(PATIENCE, end)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Reads until `complete` says how many bytes belong together, and takes them.
    fn receive(&mut self, patience: Duration, complete: impl Fn(&[u8]) -> Option<usize>) -> io::Result<Vec<u8>> {
        let until = boot_now().after(patience);
        loop {
            if let Some(length) = complete(&self.inbox) {
                return Ok(self.inbox.drain(..length).collect());
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => {
                    self.closed = true;
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it has closed the connection"));
                }
                Ok(read) => self.inbox.extend_from_slice(bytes.get(..read).unwrap_or_default()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait(until)?,
                Err(e) => return Err(e),
            }
        }
    }

    /// Waits until there is something to read.
    fn wait(&self, until: LocalInstant) -> io::Result<()> {
        let left = until.since(boot_now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not answer"));
        }
        let millis = u16::try_from(left.as_millis()).unwrap_or(u16::MAX).saturating_add(1);
        match poll(&mut [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)], PollTimeout::from(millis)) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

/// A look at whether wdmd is there and has a device that keeps what is sealed. Nothing is registered.
///
/// # Errors
/// It is not, or has not.
pub fn look(path: &Path) -> Result<(), WatchdogError> {
    let mut connection = Connection::open(path)?;
    let status = connection.tell("STATUS", &[])?;
    fires_in_time(path, status)
}

fn fires_in_time(path: &Path, status: Status) -> Result<(), WatchdogError> {
    let expected = Seconds(u32::from(Wdmd::FIRE.seconds()));
    if status.fire_timeout == expected {
        return Ok(());
    }
    Err(WatchdogError::WdmdFires { path: path.to_owned(), found: status.fire_timeout, expected })
}

/// Whether no entry of this name counts.
///
/// # Errors
/// [`WatchdogError::EntryCounts`]: one does; [`WatchdogError::EntryLeft`]: one of ours, not for long. Or wdmd cannot be asked, or is not understood: then it is not known.
pub fn is_clear(path: &Path, name: &str) -> Result<(), WatchdogError> {
    const OPERATION: &str = "DUMP_DEBUG";
    let mut connection = Connection::open(path)?;
    let text = connection.dump().map_err(|source| connection.failed(OPERATION, source))?;
    let entries = counting_entries(&text).map_err(|why| {
        connection.failed(OPERATION, io::Error::other(format!("not understood: {}", why.escape_debug())))
    })?;
    match entries.into_iter().find(|entry| entry.name == name) {
        Some(entry) if entry.is_ours() => Err(WatchdogError::EntryLeft { path: path.to_owned(), entry }),
        Some(entry) => Err(WatchdogError::EntryCounts { path: path.to_owned(), entry }),
        None => Ok(()),
    }
}

/// The watchdog, kept through wdmd.
pub struct WdmdWatchdog<Clocks = fn() -> Reading> {
    /// `None` once the entry was cleared.
    connection: Option<Connection>,
    path: PathBuf,
    clocks: Clocks,
    /// The entry is left to expire: nothing may prolong it any more.
    condemned: bool,
}

impl WdmdWatchdog {
    /// Registers the entry `name`, and keeps wdmd from ending. It does not count before the first pet.
    ///
    /// # Errors
    /// wdmd does not run, does not answer, or cannot keep what is sealed; or a daemon of this name has died and its entry counts.
    pub fn arm(path: &Path, name: &str, sealed: FireTimeout) -> Result<Self, WatchdogError> {
        Self::with_clocks(path, name, sealed, Reading::now)
    }
}

impl<Clocks: FnMut() -> Reading> WdmdWatchdog<Clocks> {
    /// [`WdmdWatchdog::arm`], with clocks of one's own.
    ///
    /// # Errors
    /// As there.
    pub fn with_clocks(path: &Path, name: &str, sealed: FireTimeout, clocks: Clocks) -> Result<Self, WatchdogError> {
        if sealed != Wdmd::FIRE {
            let [found, expected] = [sealed, Wdmd::FIRE].map(|t| Seconds(u32::from(t.seconds())));
            return Err(WatchdogError::WdmdFires { path: path.to_owned(), found, expected });
        }
        is_clear(path, name)?;
        let mut connection = Connection::open(path)?;
        // Closing gives all of this up again, as long as nothing was told to expire.
        let messages = [Message::register(name), Message::plain(Command::RefcountSet)];
        fires_in_time(path, connection.tell("REGISTER", &messages)?)?;
        Ok(WdmdWatchdog { connection: Some(connection), path: path.to_owned(), clocks, condemned: false })
    }

    fn name(&self) -> String {
        format!("wdmd at {}", self.path.display())
    }

    fn alive(&mut self, operation: &'static str) -> Result<(&mut Connection, &mut Clocks), WatchdogError> {
        let state = if self.condemned { "left to fire" } else { "disarmed" };
        let device = self.name();
        match &mut self.connection {
            Some(connection) if !self.condemned => Ok((connection, &mut self.clocks)),
            _ => Err(WatchdogError::Over { device, operation, state }),
        }
    }
}

impl<Clocks: FnMut() -> Reading> Watchdog for WdmdWatchdog<Clocks> {
    fn describe(&self) -> String {
        format!("{}, whose device fires after {}", self.name(), Wdmd::FIRE)
    }

    fn timeout(&self) -> Option<Seconds> {
        Some(Seconds(u32::from(Wdmd::FIRE.seconds())))
    }

    fn pet(&mut self, until: LocalInstant) -> Result<(), WatchdogError> {
        let (connection, clocks) = self.alive("a pet")?;
        let mut told = u64::MAX;
        loop {
            let at = clocks();
            let expiry = expiry(until, at);
            // The same instant is the same second, or one later by what reading two clocks takes; earlier only if this host
            // was suspended since.
            if expiry >= told {
                return Ok(());
            }
            connection.tell("TEST_LIVE", &[Message::test_live(at.renewal(), expiry)])?;
            told = expiry;
        }
    }

    fn disarm(&mut self) -> Result<(), WatchdogError> {
        self.alive("disarming")?;
        let Some(mut connection) = self.connection.take() else { return Ok(()) };
        let messages = [Message::test_live(0, 0), Message::plain(Command::RefcountClear)];
        let cleared = connection.tell_at_last("clearing the entry", &messages);
        if cleared.is_err() && !connection.closed {
            // A wdmd that hangs reads on when it is back only as long as it can deliver its answers: were this closed, it would take
            // the entry for a dead daemon's before it came to these words. So it stays open until this daemon ends.
            std::mem::forget(connection);
        }
        cleared
    }

    /// The entry is expired from now on, and no pet of ours prolongs it.
    fn fire_at_once(&mut self) -> Result<Seconds, WatchdogError> {
        let (connection, clocks) = self.alive("firing")?;
        let told = connection.tell("TEST_LIVE", &[Message::test_live(clocks().renewal(), 1)]);
        self.condemned = true;
        told.map(|status| status.fire_timeout)
    }
}

/// Why a lockspace with this io_timeout cannot be kept under wdmd, if it cannot.
#[must_use]
pub fn too_short(io_timeout: IoTimeout) -> Option<String> {
    if Timing::new(io_timeout, Wdmd::FIRE).suits_wdmd() {
        return None;
    }
    Some(format!(
        "an io_timeout of {io_timeout} cannot be kept under wdmd, which gives this host up {} s before its time is over: expected 2 s \
         or more (--watchdog DEVICE takes 1 s)",
        Wdmd::WARNING.as_secs()
    ))
}

#[cfg(test)]
mod tests;
