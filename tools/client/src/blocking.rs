//! The blocking face, on a std `UnixStream`.
//!
//! [`Connection`] serves one call after another; [`Connection::register`] turns it into [`Registered`]. The deadline is
//! the socket's own send and receive timeout, so it bounds every wait for the daemon, connect included (a daemon that
//! does not accept fills its backlog). After an error other than a refusal the connection is out of step: drop it.

use crate::calls::{self, Call, Place, connection_calls, registered_calls};
use crate::{ClientError, Confirmation, Endpoint, Hosts, InquireAnswer, LockspaceFound, LockspacePresence};
use holdfast_protocol::{
    AcquireFlags, AddLockspaceFlags, HEADER_SIZE, Header, Host, InqLockspaceFlags, KillPath, KillPathFlags, Lockspace,
    LockspaceUse, Name48, Options, ReleaseFlags, RemLockspaceFlags, ReplyPayload, Resource, ResourceHead,
    RestrictFlags, StateRecord, Target, WriteResourceFlags, reply::MAX_REPLY,
};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, sockopt};
use nix::sys::time::TimeVal;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// A connection to the daemon.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    endpoint: Endpoint,
}

/// A connection that may own leases. They are given up when its last descriptor closes.
#[derive(Debug)]
pub struct Registered {
    connection: Connection,
}

fn timeval(limit: Duration) -> TimeVal {
    let seconds = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
    TimeVal::new(seconds, i64::from(limit.subsec_micros()).max(i64::from(seconds == 0)))
}

/// A connected socket, with the deadline as its timeouts and closed on exec.
pub(crate) fn connect(endpoint: &Endpoint) -> Result<OwnedFd, ClientError> {
    let path = endpoint.socket();
    let fail = |errno| ClientError::connect(path.clone(), errno);
    let address = UnixAddr::new(&path).map_err(fail)?;
    let fd = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).map_err(fail)?;
    if let Some(deadline) = endpoint.deadline() {
        let limit = timeval(deadline);
        socket::setsockopt(&fd, sockopt::SendTimeout, &limit).map_err(fail)?;
        socket::setsockopt(&fd, sockopt::ReceiveTimeout, &limit).map_err(fail)?;
    }
    let place = Place { call: "connect", endpoint: endpoint.clone() };
    match retried(|| socket::connect(fd.as_raw_fd(), &address)) {
        Ok(()) => Ok(fd),
        Err(Errno::EAGAIN) => Err(place.failed("connect", Errno::EAGAIN)),
        Err(errno) => Err(fail(errno)),
    }
}

/// Again while a signal interrupts.
fn retried<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// Sends what it can, without SIGPIPE if the daemon is gone.
pub(crate) fn send_some(fd: BorrowedFd<'_>, bytes: &[u8]) -> nix::Result<usize> {
    socket::send(fd.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL)
}

/// Lets a descriptor live through exec.
pub(crate) fn keep_on_exec(fd: BorrowedFd<'_>, endpoint: &Endpoint) -> Result<(), ClientError> {
    let done = fcntl(fd, FcntlArg::F_GETFD).map(FdFlag::from_bits_retain).and_then(|mut flags| {
        flags.remove(FdFlag::FD_CLOEXEC);
        fcntl(fd, FcntlArg::F_SETFD(flags))
    });
    done.map(|_| ()).map_err(|errno| {
        Place { call: "register", endpoint: endpoint.clone() }.failed("keeping the descriptor open on exec", errno)
    })
}

impl Connection {
    /// Connects to the daemon of a run directory, with no deadline.
    pub fn connect(run_dir: impl Into<PathBuf>) -> Result<Self, ClientError> {
        Self::open(&Endpoint::new(run_dir))
    }

    /// Connects to the daemon of an endpoint, with its deadline for every call.
    pub fn open(endpoint: &Endpoint) -> Result<Self, ClientError> {
        Ok(Self { stream: UnixStream::from(connect(endpoint)?), endpoint: endpoint.clone() })
    }

    /// Becomes a client that may own leases. The daemon does not answer; [`Registered::inquire`] tells whether it heard.
    pub fn register(self) -> Result<Registered, ClientError> {
        let place = Place { call: "register", endpoint: self.endpoint.clone() };
        self.send(&place, &calls::register())?;
        Ok(Registered { connection: self })
    }

    connection_calls!([] []);

    fn call<T>(&mut self, call: Call<T>) -> Result<T, ClientError> {
        let place = call.at(&self.endpoint);
        self.send(&place, &call.request.encode())?;
        let mut bytes = [0; HEADER_SIZE];
        self.receive(&place, &mut bytes)?;
        let header = Header::decode(&bytes);
        let payload = match place.expected(&header, call.request.command())? {
            ReplyPayload::Exact(size) => {
                let mut payload = vec![0; size];
                self.receive(&place, &mut payload)?;
                payload
            }
            ReplyPayload::UntilEof => self.receive_all(&place)?,
        };
        call.finish(&place, &header, &payload)
    }

    /// Sends a request that has no reply and waits for the daemon to close the connection.
    fn last_words(self, call: &'static str, bytes: Vec<u8>) -> Result<(), ClientError> {
        let place = Place { call, endpoint: self.endpoint.clone() };
        self.send(&place, &bytes)?;
        self.receive_all(&place).map(|_| ())
    }

    fn send(&self, place: &Place, bytes: &[u8]) -> Result<(), ClientError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let sent = retried(|| send_some(self.stream.as_fd(), rest)).map_err(|errno| place.failed("send", errno))?;
            rest = rest.get(sent..).unwrap_or(&[]);
        }
        Ok(())
    }

    fn receive_some(&self, place: &Place, buffer: &mut [u8]) -> Result<usize, ClientError> {
        retried(|| socket::recv(self.stream.as_raw_fd(), buffer, MsgFlags::empty()))
            .map_err(|errno| place.failed("receive", errno))
    }

    fn receive(&self, place: &Place, buffer: &mut [u8]) -> Result<(), ClientError> {
        let (mut found, expected) = (0, buffer.len());
        while let Some(rest) = buffer.get_mut(found..).filter(|rest| !rest.is_empty()) {
            match self.receive_some(place, rest)? {
                0 => return Err(place.closed(found, expected)),
                bytes => found += bytes,
            }
        }
        Ok(())
    }

    fn receive_all(&self, place: &Place) -> Result<Vec<u8>, ClientError> {
        let mut all = Vec::new();
        let mut chunk = [0; 16 * 1024];
        while all.len() <= MAX_REPLY {
            match self.receive_some(place, &mut chunk)? {
                0 => return Ok(all),
                bytes => all.extend_from_slice(chunk.get(..bytes).unwrap_or(&[])),
            }
        }
        Err(place.endless(all.len()))
    }
}

impl Registered {
    registered_calls!([] []);

    /// Lets the connection, and with it the leases, live on in the program that this process executes.
    pub fn inherit_on_exec(&self) -> Result<(), ClientError> {
        keep_on_exec(self.as_fd(), &self.connection.endpoint)
    }
}

impl AsFd for Registered {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.stream.as_fd()
    }
}

impl From<Registered> for OwnedFd {
    /// The descriptor itself: leases last until it, and every copy of it, is closed.
    fn from(registered: Registered) -> Self {
        registered.connection.stream.into()
    }
}
