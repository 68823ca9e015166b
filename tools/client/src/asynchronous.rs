//! The asynchronous face, on a tokio `UnixStream`: the calls of [`blocking`](crate::blocking), to be awaited.
//!
//! The deadline is one timer over each whole call. Connecting is done at once, without awaiting: a unix socket accepts
//! into its backlog or refuses; only a daemon that stopped accepting could hold it up, and the socket's own timeout
//! bounds that. Dropping a call's future leaves the connection out of step: drop it too.

use crate::blocking::{connect, keep_on_exec, send_some};
use crate::calls::{self, Call, Place, connection_calls, registered_calls};
use crate::{ClientError, Confirmation, Endpoint, Hosts, InquireAnswer, LockspaceFound, LockspacePresence};
use holdfast_protocol::{
    AcquireFlags, AddLockspaceFlags, HEADER_SIZE, Header, Host, InqLockspaceFlags, KillPath, KillPathFlags, Lockspace,
    LockspaceUse, Name48, Options, ReleaseFlags, RemLockspaceFlags, ReplyPayload, Resource, ResourceHead,
    RestrictFlags, StateRecord, Target, WriteResourceFlags, reply::MAX_REPLY,
};
use nix::errno::Errno;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixStream;

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

fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

impl Connection {
    /// Connects to the daemon of a run directory, with no deadline. Needs a tokio runtime with I/O around it.
    pub fn connect(run_dir: impl Into<PathBuf>) -> Result<Self, ClientError> {
        Self::open(&Endpoint::new(run_dir))
    }

    /// Connects to the daemon of an endpoint, with its deadline for every call.
    pub fn open(endpoint: &Endpoint) -> Result<Self, ClientError> {
        let place = Place { call: "connect", endpoint: endpoint.clone() };
        let stream = std::os::unix::net::UnixStream::from(connect(endpoint)?);
        let stream = stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream));
        let stream = stream.map_err(|error| place.failed("preparing the socket", errno_of(&error)))?;
        Ok(Self { stream, endpoint: endpoint.clone() })
    }

    /// Becomes a client that may own leases. The daemon does not answer; [`Registered::inquire`] tells whether it heard.
    pub async fn register(self) -> Result<Registered, ClientError> {
        let place = Place { call: "register", endpoint: self.endpoint.clone() };
        in_time(&place, self.send(&place, &calls::register())).await?;
        Ok(Registered { connection: self })
    }

    connection_calls!([async] [.await]);

    async fn call<T>(&mut self, call: Call<T>) -> Result<T, ClientError> {
        let place = call.at(&self.endpoint);
        in_time(&place, self.exchange(&place, &call)).await
    }

    async fn exchange<T>(&mut self, place: &Place, call: &Call<T>) -> Result<T, ClientError> {
        self.send(place, &call.request.encode()).await?;
        let mut bytes = [0; HEADER_SIZE];
        self.receive(place, &mut bytes).await?;
        let header = Header::decode(&bytes);
        let payload = match place.expected(&header, call.request.command())? {
            ReplyPayload::Exact(size) => {
                let mut payload = vec![0; size];
                self.receive(place, &mut payload).await?;
                payload
            }
            ReplyPayload::UntilEof => self.receive_all(place).await?,
        };
        call.finish(place, &header, &payload)
    }

    /// Sends a request that has no reply and waits for the daemon to close the connection.
    async fn last_words(mut self, call: &'static str, bytes: Vec<u8>) -> Result<(), ClientError> {
        let place = Place { call, endpoint: self.endpoint.clone() };
        let talk = async {
            self.send(&place, &bytes).await?;
            self.receive_all(&place).await.map(|_| ())
        };
        in_time(&place, talk).await
    }

    async fn send(&self, place: &Place, bytes: &[u8]) -> Result<(), ClientError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let send = || send_some(self.stream.as_fd(), rest).map_err(io::Error::from);
            let sent = self.stream.async_io(Interest::WRITABLE, send).await;
            let sent = sent.map_err(|error| place.failed("send", errno_of(&error)))?;
            rest = rest.get(sent..).unwrap_or(&[]);
        }
        Ok(())
    }

    async fn receive(&mut self, place: &Place, buffer: &mut [u8]) -> Result<(), ClientError> {
        let (mut found, expected) = (0, buffer.len());
        while let Some(rest) = buffer.get_mut(found..).filter(|rest| !rest.is_empty()) {
            match self.stream.read(rest).await {
                Ok(0) => return Err(place.closed(found, expected)),
                Ok(bytes) => found += bytes,
                Err(error) => return Err(place.failed("receive", errno_of(&error))),
            }
        }
        Ok(())
    }

    async fn receive_all(&mut self, place: &Place) -> Result<Vec<u8>, ClientError> {
        let mut all = Vec::new();
        while all.len() <= MAX_REPLY {
            match self.stream.read_buf(&mut all).await {
                Ok(0) => return Ok(all),
                Ok(_) => {}
                Err(error) => return Err(place.failed("receive", errno_of(&error))),
            }
        }
        Err(place.endless(all.len()))
    }
}

/// Under the endpoint's deadline, if it has one.
async fn in_time<T>(place: &Place, work: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
    match place.endpoint.deadline() {
        None => work.await,
        Some(limit) => match tokio::time::timeout(limit, work).await {
            Ok(result) => result,
            Err(_) => Err(place.failed("wait", Errno::ETIMEDOUT)),
        },
    }
}

impl Registered {
    registered_calls!([async] [.await]);

    /// Lets the connection, and with it the leases, live on in the program that this process executes. That program
    /// gets a non-blocking descriptor unless it is taken out as an `OwnedFd`, which makes it blocking again.
    pub fn inherit_on_exec(&self) -> Result<(), ClientError> {
        keep_on_exec(self.as_fd(), &self.connection.endpoint)
    }
}

impl AsFd for Registered {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.stream.as_fd()
    }
}

impl TryFrom<Registered> for OwnedFd {
    type Error = ClientError;

    /// The descriptor itself, blocking again: leases last until it, and every copy of it, is closed.
    fn try_from(registered: Registered) -> Result<Self, ClientError> {
        let Connection { stream, endpoint } = registered.connection;
        let place = Place { call: "register", endpoint };
        let plain = stream.into_std().and_then(|stream| stream.set_nonblocking(false).map(|()| stream));
        plain.map(Into::into).map_err(|error| place.failed("taking out the descriptor", errno_of(&error)))
    }
}
