//! The calls, without a socket: the bytes to send, and what the answer means.
//!
//! A [`Call`] holds a request and a function from its reply to the caller's value. The two transports send
//! [`Call::request`], read a header, ask [`ReplyPayload::of`](holdfast_protocol::ReplyPayload::of) how much follows, read that,
//! and hand both to [`Call::finish`]. A negative result is an error unless the call has a meaning for it.

use crate::{ClientError, Endpoint};
use holdfast_protocol::{
    AcquireFlags, AddLockspaceFlags, Command, Header, Host, InqLockspaceFlags, KillPath, KillPathFlags, Lockspace,
    LockspaceUse, Name48, Options, ReleaseFlags, RemLockspaceFlags, Reply, ReplyPayload, Request, Resource,
    ResourceHead, RestrictFlags, ResultCode, StateRecord, Target, WriteResourceFlags,
};
use std::path::PathBuf;

/// Whether a lockspace is joined: the answers of INQ_LOCKSPACE that are no failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockspacePresence {
    /// Joined.
    Joined,
    /// Being joined or left.
    Changing,
    /// Neither.
    Absent,
}

/// The hosts of a lockspace, or that they are not known yet: the first renewal after a join has to come first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hosts {
    /// These.
    Known(Vec<Host>),
    /// Ask again in a moment.
    NotYet,
}

/// The leases of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InquireAnswer {
    /// How many.
    pub count: u32,
    /// Their STATE string; `strings::parse_state` reads it.
    pub state: Vec<u8>,
}

/// The lockspace found at a place on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockspaceFound {
    /// Name, host_id asked for, geometry flags.
    pub lockspace: Lockspace,
    /// The io_timeout stored with it, in seconds.
    pub io_timeout: u32,
}

/// What a call makes of the reply: the value, or the result code of a refusal.
type Meaning<T> = fn(Reply, &[u8]) -> Result<T, Fault>;

/// Why a reply is not a value.
enum Fault {
    Refused(ResultCode),
    Stream(holdfast_protocol::StateError),
    /// The reply is of another kind than the command's; decoding by command rules it out for a well-made table.
    Kind,
}

/// One call: a request and the meaning of its reply.
pub(crate) struct Call<T> {
    pub(crate) request: Request,
    meaning: Meaning<T>,
}

/// The names errors carry.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) call: &'static str,
    pub(crate) endpoint: Endpoint,
}

impl Place {
    pub(crate) fn socket(&self) -> PathBuf {
        self.endpoint.socket()
    }
    pub(crate) fn expected(&self, header: &Header, command: Command) -> Result<ReplyPayload, ClientError> {
        ReplyPayload::of(command, header).map_err(|reason| self.wrong(reason))
    }
    fn wrong(&self, reason: holdfast_protocol::ReplyError) -> ClientError {
        ClientError::Reply { call: self.call, socket: self.socket(), reason }
    }
    pub(crate) fn endless(&self, found: usize) -> ClientError {
        self.wrong(holdfast_protocol::ReplyError::TooLong { found: u64::try_from(found).unwrap_or(u64::MAX) })
    }
    /// From the errno of a send or recv.
    pub(crate) fn failed(&self, operation: &'static str, errno: nix::errno::Errno) -> ClientError {
        use nix::errno::Errno;
        match (errno, self.endpoint.deadline()) {
            (Errno::EAGAIN | Errno::ETIMEDOUT, Some(deadline)) => {
                ClientError::Deadline { call: self.call, socket: self.socket(), deadline }
            }
            _ => ClientError::Socket { call: self.call, operation, socket: self.socket(), errno },
        }
    }
    pub(crate) fn closed(&self, found: usize, expected: usize) -> ClientError {
        ClientError::Closed { call: self.call, socket: self.socket(), found, expected }
    }
}

impl<T> Call<T> {
    /// Where errors of this call happen.
    pub(crate) fn at(&self, endpoint: &Endpoint) -> Place {
        Place { call: self.request.command().name(), endpoint: endpoint.clone() }
    }

    /// The value of a reply.
    pub(crate) fn finish(&self, place: &Place, header: &Header, payload: &[u8]) -> Result<T, ClientError> {
        let command = self.request.command();
        let reply = Reply::decode(command, header, payload).map_err(|reason| place.wrong(reason))?;
        let (call, socket) = (place.call, place.socket());
        (self.meaning)(reply, payload).map_err(|fault| match fault {
            Fault::Refused(code) => ClientError::Refused { call, socket, code },
            Fault::Stream(reason) => ClientError::Stream { call, socket, reason },
            Fault::Kind => {
                place.wrong(holdfast_protocol::ReplyError::Command { found: header.cmd, expected: command.number() })
            }
        })
    }
}

fn succeeded(reply: &Reply) -> Result<ResultCode, Fault> {
    let result = reply.result();
    if result.is_error() { Err(Fault::Refused(result)) } else { Ok(result) }
}

fn nothing(reply: Reply, _: &[u8]) -> Result<(), Fault> {
    succeeded(&reply).map(|_| ())
}

fn json(reply: Reply, _: &[u8]) -> Result<Vec<u8>, Fault> {
    succeeded(&reply)?;
    match reply {
        Reply::Json { body, .. } => Ok(body),
        _ => Err(Fault::Kind),
    }
}

/// What became of an operator's word that a host is dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confirmation {
    /// It counts: what the host held can be taken.
    Taken,
    /// It does not, and nothing was changed.
    Refused {
        /// The result.
        code: ResultCode,
        /// In words.
        why: String,
    },
}

fn plain(request: Request) -> Call<()> {
    Call { request, meaning: nothing }
}

pub(crate) fn register() -> Vec<u8> {
    Request::Register.encode()
}

pub(crate) fn restrict(flags: RestrictFlags) -> Call<()> {
    plain(Request::Restrict { flags })
}

pub(crate) fn killpath(flags: KillPathFlags, killpath: KillPath) -> Call<()> {
    plain(Request::KillPath { flags, killpath })
}

pub(crate) fn acquire(target: Target, flags: AcquireFlags, resources: Vec<Resource>, options: Options) -> Call<()> {
    plain(Request::Acquire { flags, target, resources, options })
}

/// The value is the count of orphans queued, 0 for every other kind of release.
pub(crate) fn release(target: Target, flags: ReleaseFlags, resources: Vec<ResourceHead>) -> Call<u32> {
    let resources = if flags.contains(ReleaseFlags::ALL) { Vec::new() } else { resources };
    Call {
        request: Request::Release { flags, target, resources },
        meaning: |reply, _| succeeded(&reply).map(|result| result.number().unsigned_abs()),
    }
}

pub(crate) fn inquire(target: Target) -> Call<InquireAnswer> {
    Call {
        request: Request::Inquire { target },
        meaning: |reply, _| {
            succeeded(&reply)?;
            match reply {
                Reply::Inquire { count, state, .. } => Ok(InquireAnswer { count, state }),
                _ => Err(Fault::Kind),
            }
        },
    }
}

pub(crate) fn add_lockspace(flags: AddLockspaceFlags, io_timeout: u32, lockspace: Lockspace) -> Call<()> {
    plain(Request::AddLockspace { flags, io_timeout, lockspace })
}

pub(crate) fn rem_lockspace(flags: RemLockspaceFlags, lockspace: Lockspace) -> Call<()> {
    plain(Request::RemLockspace { flags, lockspace })
}

pub(crate) fn inq_lockspace(flags: InqLockspaceFlags, lockspace: Lockspace) -> Call<LockspacePresence> {
    Call {
        request: Request::InqLockspace { flags, lockspace },
        meaning: |reply, _| match reply.result() {
            ResultCode::ENOENT => Ok(LockspacePresence::Absent),
            ResultCode::EINPROGRESS => Ok(LockspacePresence::Changing),
            _ => succeeded(&reply).map(|_| LockspacePresence::Joined),
        },
    }
}

pub(crate) fn set_config(what: LockspaceUse, lockspace: Name48) -> Call<()> {
    plain(Request::SetConfig {
        config: what.number(),
        lockspace: Lockspace { name: lockspace, ..Lockspace::default() },
    })
}

pub(crate) fn convert(target: Target, flags: AcquireFlags, resource: ResourceHead) -> Call<()> {
    plain(Request::Convert { flags, target, resource })
}

pub(crate) fn set_lvb(resource: ResourceHead, value: Vec<u8>) -> Call<()> {
    plain(Request::SetLvb { resource, value })
}

pub(crate) fn get_lvb(resource: ResourceHead, length: u32) -> Call<Vec<u8>> {
    let meaning = |reply: Reply, payload: &[u8]| succeeded(&reply).map(|_| payload.to_vec());
    Call { request: Request::GetLvb { length, resource }, meaning }
}

pub(crate) fn get_lockspaces() -> Call<Vec<Lockspace>> {
    Call {
        request: Request::GetLockspaces,
        meaning: |reply, _| {
            succeeded(&reply)?;
            match reply {
                Reply::Lockspaces { lockspaces, .. } => Ok(lockspaces),
                _ => Err(Fault::Kind),
            }
        },
    }
}

pub(crate) fn get_hosts(name: Name48, host_id: u64) -> Call<Hosts> {
    let lockspace = Lockspace { name, host_id, ..Lockspace::default() };
    Call {
        request: Request::GetHosts { lockspace },
        meaning: |reply, _| match reply {
            Reply::Hosts { result: ResultCode::EAGAIN, .. } => Ok(Hosts::NotYet),
            Reply::Hosts { result, hosts } if !result.is_error() => Ok(Hosts::Known(hosts)),
            other => Err(Fault::Refused(other.result())),
        },
    }
}

pub(crate) fn status(stop_after: u32) -> Call<Vec<StateRecord>> {
    Call {
        request: Request::Status { stop_after },
        meaning: |reply, payload| {
            succeeded(&reply)?;
            StateRecord::decode_stream(payload).map_err(Fault::Stream)
        },
    }
}

pub(crate) fn version() -> Call<u32> {
    Call {
        request: Request::Version,
        meaning: |reply, _| match reply {
            Reply::Version { version } => Ok(version),
            _ => Err(Fault::Kind),
        },
    }
}

pub(crate) fn shutdown(force: bool) -> Vec<u8> {
    Request::Shutdown { force }.encode()
}

pub(crate) fn shutdown_wait(force: bool) -> Call<()> {
    plain(Request::ShutdownWait { force })
}

pub(crate) fn read_lockspace(lockspace: Lockspace) -> Call<LockspaceFound> {
    Call {
        request: Request::ReadLockspace { lockspace },
        meaning: |reply, _| {
            succeeded(&reply)?;
            match reply {
                Reply::Lockspace { io_timeout, lockspace, .. } => Ok(LockspaceFound { lockspace, io_timeout }),
                _ => Err(Fault::Kind),
            }
        },
    }
}

pub(crate) fn write_lockspace(io_timeout: u32, lockspace: Lockspace) -> Call<()> {
    plain(Request::WriteLockspace { max_hosts: 0, io_timeout, lockspace })
}

pub(crate) fn read_resource(resource: Resource) -> Call<ResourceHead> {
    Call {
        request: Request::ReadResource { resource },
        meaning: |reply, _| {
            succeeded(&reply)?;
            match reply {
                Reply::Resource { resource, .. } => Ok(resource),
                _ => Err(Fault::Kind),
            }
        },
    }
}

pub(crate) fn write_resource(flags: WriteResourceFlags, num_hosts: u32, resource: Resource) -> Call<()> {
    plain(Request::WriteResource { flags, num_hosts, unused: 0, resource })
}

pub(crate) fn explain(resource: Resource) -> Call<Vec<u8>> {
    Call { request: Request::Explain { resource }, meaning: json }
}

pub(crate) fn confirm_dead(lockspace: Lockspace, host: Host) -> Call<Confirmation> {
    Call {
        request: Request::ConfirmDead { lockspace, host },
        meaning: |reply, _| match reply {
            Reply::Json { result: ResultCode::OK, .. } => Ok(Confirmation::Taken),
            Reply::Json { result, body } => {
                Ok(Confirmation::Refused { code: result, why: String::from_utf8_lossy(&body).into_owned() })
            }
            _ => Err(Fault::Kind),
        },
    }
}

pub(crate) fn holdfast_status() -> Call<Vec<u8>> {
    Call { request: Request::HoldfastStatus, meaning: json }
}

/// The public calls of a connection, written once for both faces: `async` and `.await` are the macro's arguments.
///
/// The face provides `call(&mut self, Call<T>)` and `last_words(self, Vec<u8>)`, which sends and waits for the end.
macro_rules! connection_calls {
    ([$($async:tt)?] [$($await:tt)*]) => {
        /// Limits what this connection may do and how its process may be ended.
        pub $($async)? fn restrict(&mut self, flags: RestrictFlags) -> Result<(), ClientError> {
            self.call(calls::restrict(flags))$($await)*
        }

        /// Takes leases, all or none, for `target`.
        pub $($async)? fn acquire(
            &mut self,
            target: Target,
            flags: AcquireFlags,
            resources: Vec<Resource>,
            options: Options,
        ) -> Result<(), ClientError> {
            self.call(calls::acquire(target, flags, resources, options))$($await)*
        }

        /// Makes a lease that `target` holds a shared one, if the resource says SHARED, else an exclusive one.
        pub $($async)? fn convert(
            &mut self,
            target: Target,
            flags: AcquireFlags,
            resource: ResourceHead,
        ) -> Result<(), ClientError> {
            self.call(calls::convert(target, flags, resource))$($await)*
        }

        /// Sets the value of a lease that was acquired with LVB: on disk when it is given back, or shared. E2BIG: longer than a sector.
        pub $($async)? fn set_lvb(&mut self, resource: ResourceHead, value: Vec<u8>) -> Result<(), ClientError> {
            self.call(calls::set_lvb(resource, value))$($await)*
        }

        /// The value of a lease that was acquired with LVB: so many bytes, zeros behind its end; 0 for a whole sector.
        pub $($async)? fn get_lvb(&mut self, resource: ResourceHead, length: u32) -> Result<Vec<u8>, ClientError> {
            self.call(calls::get_lvb(resource, length))$($await)*
        }

        /// Gives leases of `target` back; with ORPHAN, orphans: the value is how many are being released.
        pub $($async)? fn release(
            &mut self,
            target: Target,
            flags: ReleaseFlags,
            resources: Vec<ResourceHead>,
        ) -> Result<u32, ClientError> {
            self.call(calls::release(target, flags, resources))$($await)*
        }

        /// Which leases `target` owns. ESRCH says that no such client is registered.
        pub $($async)? fn inquire(&mut self, target: Target) -> Result<InquireAnswer, ClientError> {
            self.call(calls::inquire(target))$($await)*
        }

        /// Joins a lockspace; `io_timeout` in seconds, 0 for the daemon's own.
        pub $($async)? fn add_lockspace(
            &mut self,
            flags: AddLockspaceFlags,
            io_timeout: u32,
            lockspace: Lockspace,
        ) -> Result<(), ClientError> {
            self.call(calls::add_lockspace(flags, io_timeout, lockspace))$($await)*
        }

        /// Leaves a lockspace. Processes that hold leases in it are ended first.
        pub $($async)? fn rem_lockspace(
            &mut self,
            flags: RemLockspaceFlags,
            lockspace: Lockspace,
        ) -> Result<(), ClientError> {
            self.call(calls::rem_lockspace(flags, lockspace))$($await)*
        }

        /// Tells whether something uses a lockspace whose end the daemon cannot see. The daemon closes the connection.
        pub $($async)? fn set_config(mut self, what: LockspaceUse, lockspace: Name48) -> Result<(), ClientError> {
            self.call(calls::set_config(what, lockspace))$($await)*
        }

        /// Whether a lockspace is joined: name, path and offset must match, and host_id unless it is 0.
        pub $($async)? fn inq_lockspace(
            &mut self,
            flags: InqLockspaceFlags,
            lockspace: Lockspace,
        ) -> Result<LockspacePresence, ClientError> {
            self.call(calls::inq_lockspace(flags, lockspace))$($await)*
        }

        /// The daemon's lockspaces. The daemon closes the connection.
        pub $($async)? fn get_lockspaces(mut self) -> Result<Vec<Lockspace>, ClientError> {
            self.call(calls::get_lockspaces())$($await)*
        }

        /// The hosts of a lockspace, or one of them. The daemon closes the connection.
        pub $($async)? fn get_hosts(mut self, name: Name48, host_id: u64) -> Result<Hosts, ClientError> {
            self.call(calls::get_hosts(name, host_id))$($await)*
        }

        /// Everything the daemon knows; `stop_after` 1 is the daemon alone, 2 adds clients, 3 lockspaces, 0 is all. The
        /// daemon closes the connection.
        pub $($async)? fn status(mut self, stop_after: u32) -> Result<Vec<StateRecord>, ClientError> {
            self.call(calls::status(stop_after))$($await)*
        }

        /// The daemon's version, 0xMMmmpp00.
        pub $($async)? fn version(&mut self) -> Result<u32, ClientError> {
            self.call(calls::version())$($await)*
        }

        /// Ends the daemon; `force` ends every holder first, without it joined lockspaces keep it alive. With `wait`,
        /// returns when the daemon is over, or EBUSY; without, when it has heard.
        pub $($async)? fn shutdown(mut self, force: bool, wait: bool) -> Result<(), ClientError> {
            if wait {
                self.call(calls::shutdown_wait(force))$($await)*
            } else {
                self.last_words("shutdown", calls::shutdown(force))$($await)*
            }
        }

        /// What lockspace lies at a place on disk.
        pub $($async)? fn read_lockspace(&mut self, lockspace: Lockspace) -> Result<LockspaceFound, ClientError> {
            self.call(calls::read_lockspace(lockspace))$($await)*
        }

        /// Formats a lockspace; `io_timeout` in seconds, 0 is 10.
        pub $($async)? fn write_lockspace(
            &mut self,
            io_timeout: u32,
            lockspace: Lockspace,
        ) -> Result<(), ClientError> {
            self.call(calls::write_lockspace(io_timeout, lockspace))$($await)*
        }

        /// What resource lies at a place on disk; names are checked if not empty.
        pub $($async)? fn read_resource(&mut self, resource: Resource) -> Result<ResourceHead, ClientError> {
            self.call(calls::read_resource(resource))$($await)*
        }

        /// Formats a resource with room for `num_hosts`, 0 for as many as fit; with CLEAR, clears it.
        pub $($async)? fn write_resource(
            &mut self,
            flags: WriteResourceFlags,
            num_hosts: u32,
            resource: Resource,
        ) -> Result<(), ClientError> {
            self.call(calls::write_resource(flags, num_hosts, resource))$($await)*
        }

        /// Who owns a lease, since when, and when it could expire: JSON. A sanlock daemon never answers; set a deadline.
        pub $($async)? fn explain(&mut self, resource: Resource) -> Result<Vec<u8>, ClientError> {
            self.call(calls::explain(resource))$($await)*
        }

        /// An operator's word that a silent host is dead: `host` names its last record by host_id, generation and timestamp.
        /// A sanlock daemon never answers; set a deadline.
        pub $($async)? fn confirm_dead(
            &mut self,
            lockspace: Lockspace,
            host: Host,
        ) -> Result<Confirmation, ClientError> {
            self.call(calls::confirm_dead(lockspace, host))$($await)*
        }

        /// Everything the daemon knows: JSON. A sanlock daemon never answers; set a deadline.
        pub $($async)? fn holdfast_status(&mut self) -> Result<Vec<u8>, ClientError> {
            self.call(calls::holdfast_status())$($await)*
        }
    };
}

/// The public calls of a registered connection: those about itself.
macro_rules! registered_calls {
    ([$($async:tt)?] [$($await:tt)*]) => {
        /// Limits what this connection may do and how its process may be ended. With ALL, no later call is answered.
        pub $($async)? fn restrict(&mut self, flags: RestrictFlags) -> Result<(), ClientError> {
            self.connection.restrict(flags)$($await)*
        }

        /// What the daemon runs instead of killing this process, while there is time.
        pub $($async)? fn killpath(&mut self, flags: KillPathFlags, killpath: KillPath) -> Result<(), ClientError> {
            self.connection.call(calls::killpath(flags, killpath))$($await)*
        }

        /// Takes leases, all or none.
        pub $($async)? fn acquire(
            &mut self,
            flags: AcquireFlags,
            resources: Vec<Resource>,
            options: Options,
        ) -> Result<(), ClientError> {
            self.connection.acquire(Target::This, flags, resources, options)$($await)*
        }

        /// Gives leases back.
        pub $($async)? fn release(
            &mut self,
            flags: ReleaseFlags,
            resources: Vec<ResourceHead>,
        ) -> Result<u32, ClientError> {
            self.connection.release(Target::This, flags, resources)$($await)*
        }

        /// Which leases this client owns.
        pub $($async)? fn inquire(&mut self) -> Result<InquireAnswer, ClientError> {
            self.connection.inquire(Target::This)$($await)*
        }
    };
}

pub(crate) use {connection_calls, registered_calls};
